//! A message bus of its own for a test.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;

/// A bus that ends with the test.
pub struct Bus {
    daemon: Child,
    pub address: String,
    _folder: TempDir,
}

impl Bus {
    /// A bus on which nobody is; `None` where dbus-daemon(1) is not installed.
    pub fn start() -> Option<Self> {
        Self::start_with(None, None)
    }

    /// A bus that listens there.
    pub fn at(socket: &Path) -> Option<Self> {
        Self::start_with(None, Some(socket))
    }

    /// A bus that starts styxy by that program.
    pub fn starting(exec: &str) -> Option<Self> {
        Self::start_with(Some(exec), None)
    }

    /// Keeps it from answering.
    pub fn stop(&self) {
        self.signal(Signal::SIGSTOP);
    }

    /// Has it answer again.
    pub fn go_on(&self) {
        self.signal(Signal::SIGCONT);
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.daemon.id()).unwrap()), signal).unwrap();
    }

    fn start_with(exec: Option<&str>, socket: Option<&Path>) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().display();
        if let Some(exec) = exec {
            let service = format!("[D-BUS Service]\nName=org.styxy.Styxy1\nExec={exec}\n");
            fs::write(folder.path().join("org.styxy.Styxy1.service"), service).unwrap();
        }
        let socket = socket.map_or_else(|| folder.path().join("bus"), Path::to_owned);
        let socket = socket.display();
        // What is installed on this machine is not known on it.
        let config = folder.path().join("bus.conf");
        fs::write(
            &config,
            format!(
                r#"<busconfig>
                  <listen>unix:path={socket}</listen>
                  <servicedir>{path}</servicedir>
                  <policy context="default">
                    <allow send_destination="*"/>
                    <allow receive_sender="*"/>
                    <allow own="*"/>
                  </policy>
                </busconfig>"#
            ),
        )
        .unwrap();
        let mut daemon = Command::new("dbus-daemon")
            .arg(format!("--config-file={}", config.display()))
            .args(["--nofork", "--nopidfile", "--print-address"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .inspect_err(|_| eprintln!("SKIPPED: dbus-daemon is not installed"))
            .ok()?;
        let mut address = String::new();
        BufReader::new(daemon.stdout.take().unwrap()).read_line(&mut address).unwrap();
        Some(Self { daemon, address: address.trim_end().to_owned(), _folder: folder })
    }

    /// A connection to it, as soon as styxy is there: a service listens on its socket before.
    pub async fn client(&self) -> zbus::Connection {
        let client = self.connect().await;
        let (bus, path) = (Some("org.freedesktop.DBus"), "/org/freedesktop/DBus");
        let patience = Instant::now() + Duration::from_secs(60);
        loop {
            let is_there =
                client.call_method(bus, path, bus, "NameHasOwner", &"org.styxy.Styxy1").await;
            if is_there.unwrap().body().deserialize().unwrap() {
                return client;
            }
            assert!(Instant::now() < patience, "styxy does not come to the bus");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// A connection to it.
    pub async fn connect(&self) -> zbus::Connection {
        let builder = zbus::connection::Builder::address(self.address.as_str());
        builder.build().await.unwrap()
    }
}

impl Drop for Bus {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}
