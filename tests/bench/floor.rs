//! What styxy is compared with: servers that answer the same from constants. Each is this program
//! again, in a process of its own, with the same libraries and as many threads as styxy's.

use std::{
    env, fs,
    os::unix::net::UnixListener as StdListener,
    path::{Path, PathBuf},
    process::{Child, Command},
    thread,
    time::Duration,
};

use axum::{
    Json, Router,
    body::Bytes,
    extract,
    routing::{delete, post},
};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use listenfd::ListenFd;
use sd_notify::NotifyState;
use serde_json::{Value, json};
use tokio::net::UnixListener;
use tower_service::Service;
use zbus::{Connection, Variant, interface};

use crate::call::{Options, PATH};

/// The echo on the bus.
pub const ECHO: &str = "org.styxy.Bench1.Echo";
/// The service that does nothing but answer, started by the bus.
pub const EMPTY: &str = "org.styxy.Bench1.Empty";
/// The same in styxy's sandbox.
pub const CONFINED: &str = "org.styxy.Bench1.Confined";

const LEASE_ID: &str = "1a4c8f0e-3f55-4f0c-9a43-0c6a1f6e7d21";

/// A floor that runs; it ends with the value.
pub struct Floor(Child);

impl Floor {
    /// The echo on the bus.
    pub fn on_bus() -> Self {
        Self::start(&["bus", ECHO])
    }

    /// The echo on a socket, and the socket.
    pub fn on_socket() -> (Self, PathBuf) {
        let socket = env::temp_dir().join("styxy-bench-echo.sock");
        let _ = fs::remove_file(&socket);
        let floor = Self::start(&["http", socket.to_str().unwrap()]);
        while !socket.exists() {
            thread::sleep(Duration::from_millis(5));
        }
        (floor, socket)
    }

    fn start(arguments: &[&str]) -> Self {
        let this = env::current_exe().unwrap();
        Self(Command::new(this).arg("serve").args(arguments).spawn().unwrap())
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Serves until it is killed.
pub async fn serve(what: &str, arguments: &[&str]) {
    match (what, arguments) {
        ("bus", [name]) => {
            let _bus = open(name).await;
            let _ = sd_notify::notify(&[NotifyState::Ready]);
            std::future::pending::<()>().await;
        }
        ("http", [path]) => http(StdListener::bind(path).unwrap()).await,
        ("http", []) => {
            let listener = ListenFd::from_env().take_unix_listener(0).unwrap();
            let _ = sd_notify::notify(&[NotifyState::Ready]);
            http(listener.expect("a socket from systemd")).await;
        }
        _ => panic!("there is no floor {what} {arguments:?}"),
    }
}

struct Echo;

#[interface(name = "org.styxy.Styxy1", introspection_docs = false)]
impl Echo {
    #[zbus(out_args("port", "lease_id", "lease"))]
    fn allocate(
        &self,
        service_type: &str,
        options: Options<'_>,
    ) -> (u16, String, Options<'static>) {
        let _ = service_type;
        let mut lease = lease();
        // A lease says for which service of which project it is; a claim, that it was there.
        for (key, value) in options {
            match (key, value) {
                ("project_path", Variant::Str(path)) => {
                    lease.insert("project_path", path.to_string().into());
                }
                ("service_name", Variant::Str(name)) => {
                    lease.insert("service_name", name.to_string().into());
                }
                ("claim", Variant::Bool(true)) => {
                    lease.insert("claim", true.into());
                    lease.insert("existing", true.into());
                }
                _ => {}
            }
        }
        (20_000, LEASE_ID.to_owned(), lease)
    }

    #[zbus(out_args("port"))]
    fn release(&self, lease_id: &str) -> u16 {
        let _ = lease_id;
        20_000
    }
}

async fn open(name: &str) -> Connection {
    let builder = zbus::connection::Builder::session().serve_at(PATH, Echo);
    let bus = builder.build().await.unwrap();
    bus.request_name(name).await.unwrap();
    bus
}

/// What styxy answers of a plain lease.
fn lease() -> Options<'static> {
    let mut lease = Options::new();
    lease.insert("port", Variant::U16(20_000));
    for (key, text) in [
        ("lease_id", LEASE_ID),
        ("protocol", "tcp"),
        ("service_type", "bench"),
        ("owner", "none"),
        ("hold", "guard"),
        ("since", "2026-01-01T00:00:00.000Z"),
    ] {
        lease.insert(key, text.into());
    }
    lease
}

async fn http(listener: StdListener) {
    listener.set_nonblocking(true).unwrap();
    let listener = UnixListener::from_std(listener).unwrap();
    let router = Router::new()
        .route("/allocate", post(allocate))
        .route("/allocate/{lock_id}", delete(release));
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let router = router.clone();
        tokio::spawn(async move {
            let service =
                service_fn(move |request: hyper::Request<Incoming>| router.clone().call(request));
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(Duration::from_secs(30))
                .half_close(true)
                .serve_connection(TokioIo::new(stream), service);
            let _ = connection.await;
        });
    }
}

async fn allocate(body: Bytes) -> Json<Value> {
    let _: Value = serde_json::from_slice(&body).unwrap();
    Json(json!({
        "success": true, "lease_id": LEASE_ID, "port": 20_000, "protocol": "tcp",
        "service_type": "bench", "owner": "none", "hold": "guard",
        "since": "2026-01-01T00:00:00.000Z", "lock_id": LEASE_ID,
    }))
}

async fn release(extract::Path(lock_id): extract::Path<String>) -> Json<Value> {
    Json(json!({"success": true, "port": 20_000, "lease_id": lock_id, "lock_id": lock_id}))
}

/// Installs the empty services: units, their sockets, and what the bus must know. Each in the open, and
/// in the sandbox that the installed unit of styxy describes.
pub fn install(units: &Path, names: &Path) {
    let this = env::current_exe().unwrap();
    let this = this.display();
    fs::create_dir_all(units).unwrap();
    fs::create_dir_all(names).unwrap();
    let styxy = fs::read_to_string("/usr/lib/systemd/user/styxy.service").unwrap();
    let sandbox = sandbox(&styxy);
    for (unit, name, extra) in [("empty", EMPTY, ""), ("confined", CONFINED, sandbox.as_str())] {
        let service = |what: &str, head: &str| {
            format!(
                "[Unit]\nStartLimitIntervalSec=0\n[Service]\nType=notify\n{head}\
                 ExecStart={this} serve {what}\n{extra}"
            )
        };
        let bus = format!("styxy-bench-{unit}.service");
        fs::write(units.join(&bus), service(&format!("bus {name}"), &format!("BusName={name}\n")))
            .unwrap();
        fs::write(
            names.join(format!("{name}.service")),
            format!("[D-BUS Service]\nName={name}\nExec=/bin/false\nSystemdService={bus}\n"),
        )
        .unwrap();
        fs::write(units.join(format!("styxy-bench-{unit}-http.service")), service("http", ""))
            .unwrap();
        fs::write(
            units.join(format!("styxy-bench-{unit}-http.socket")),
            format!(
                "[Socket]\nListenStream=%t/styxy-bench-{unit}.sock\nTriggerLimitBurst=200\n\
                 TriggerLimitIntervalSec=10s\n"
            ),
        )
        .unwrap();
    }
}

/// The lines of the unit that say what the service may see and do.
fn sandbox(unit: &str) -> String {
    let others =
        ["Type", "Exec", "BusName", "Restart", "Success", "Watchdog", "Notify", "FileDesc"];
    let lines = unit.lines().skip_while(|line| *line != "[Service]").skip(1);
    let lines = lines.take_while(|line| !line.starts_with('['));
    let lines = lines.filter(|line| !others.iter().any(|other| line.starts_with(other)));
    lines.flat_map(|line| [line, "\n"]).collect()
}
