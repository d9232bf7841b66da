//! Real programs on ports that a guard holds: which of them bind their port as they are, and which need
//! `hold: none`. docs/programs.md says it to people, and is held against these tests.
//!
//! All of it happens in namespaces of its own, in which no port is taken and nothing outlives the
//! tests. A program that is not installed is ignored, and so are all where there are no namespaces.

mod support;

use std::{
    env,
    fs::{self, File},
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::{
        fd::AsRawFd,
        unix::{
            fs::{PermissionsExt, chown},
            process::CommandExt,
        },
    },
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    thread,
    time::{Duration, Instant},
};

use libtest_mimic::{Arguments, Trial};
use nix::{
    errno::Errno,
    sys::{
        signal::{Signal, killpg},
        socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, socket},
    },
    unistd::{Pid, User, geteuid},
};
use serde_json::json;
use support::{
    Home,
    namespaces::{self, find},
};

/// A program, and how it is started and asked.
struct Program {
    /// As the documentation calls it.
    name: &'static str,
    /// What the test shows.
    test: &'static str,
    /// The command without which it can't be tested, and the Debian package that has it.
    needs: (&'static str, &'static str),
    /// Whether it binds a port that a guard holds.
    binds_guarded: bool,
    /// The command that serves on the port; the folder is its own.
    start: fn(folder: &Path, port: u16) -> Command,
    /// Where it answers.
    at: &'static [&'static str],
    ask: Ask,
}

/// What a program is asked.
#[derive(Clone, Copy)]
enum Ask {
    Http,
    Redis,
    Postgres,
}

impl Ask {
    fn request(self) -> &'static [u8] {
        match self {
            Self::Http => b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n",
            Self::Redis => b"PING\r\n",
            // Whether it speaks TLS (SSLRequest).
            Self::Postgres => &[0, 0, 0, 8, 4, 210, 22, 47],
        }
    }

    fn is_answered_by(self, answer: &[u8]) -> bool {
        match self {
            Self::Http => answer.starts_with(b"HTTP/1.") && answer[8..].starts_with(b" 200"),
            Self::Redis => answer.starts_with(b"+PONG"),
            Self::Postgres => answer == b"N",
        }
    }
}

const BOTH: &[&str] = &["127.0.0.1", "::1"];
const V4: &[&str] = &["127.0.0.1"];
const V6: &[&str] = &["::1"];
const NODE: (&str, &str) = ("node", "nodejs");
const PYTHON: (&str, &str) = ("python3", "python3");
/// Every system has it.
const NOTHING: (&str, &str) = ("sh", "dash");

const PROGRAMS: &[Program] = &[
    Program {
        name: "Node.js `http` on `::`",
        test: "node_binds_a_guarded_port_on_all_addresses",
        needs: NODE,
        binds_guarded: true,
        start: |_, port| command("node", &[&source("http.js"), &port.to_string(), "::"]),
        at: BOTH,
        ask: Ask::Http,
    },
    Program {
        name: "Node.js `http` on `127.0.0.1`",
        test: "node_binds_a_guarded_port_on_127_0_0_1",
        needs: NODE,
        binds_guarded: true,
        start: |_, port| command("node", &[&source("http.js"), &port.to_string(), "127.0.0.1"]),
        at: V4,
        ask: Ask::Http,
    },
    Program {
        name: "Node.js `http` on `::1`",
        test: "node_binds_a_guarded_port_on_ipv6_alone",
        needs: NODE,
        binds_guarded: true,
        start: |_, port| command("node", &[&source("http.js"), &port.to_string(), "::1"]),
        at: V6,
        ask: Ask::Http,
    },
    Program {
        name: "`python3 -m http.server`",
        test: "python_http_server_binds_a_guarded_port",
        needs: PYTHON,
        binds_guarded: true,
        start: |_, port| command("python3", &["-m", "http.server", &port.to_string()]),
        at: V4,
        ask: Ask::Http,
    },
    Program {
        name: "`python3 -m http.server --bind 127.0.0.1`",
        test: "python_http_server_binds_a_guarded_port_on_127_0_0_1",
        needs: PYTHON,
        binds_guarded: true,
        start: |_, port| {
            let port = port.to_string();
            command("python3", &["-m", "http.server", "--bind", "127.0.0.1", &port])
        },
        at: V4,
        ask: Ask::Http,
    },
    Program {
        name: "`python3 -m http.server --bind ::1`",
        test: "python_http_server_binds_a_guarded_port_on_ipv6_alone",
        needs: PYTHON,
        binds_guarded: true,
        start: |_, port| {
            command("python3", &["-m", "http.server", "--bind", "::1", &port.to_string()])
        },
        at: V6,
        ask: Ask::Http,
    },
    Program {
        name: "Python `asyncio.start_server`",
        test: "python_asyncio_binds_a_guarded_port",
        needs: PYTHON,
        binds_guarded: true,
        start: |_, port| command("python3", &[&source("asyncio_server.py"), &port.to_string()]),
        at: BOTH,
        ask: Ask::Http,
    },
    Program {
        name: "Python `socketserver.TCPServer`",
        test: "a_plain_python_socketserver_needs_hold_none",
        needs: PYTHON,
        binds_guarded: false,
        start: |_, port| command("python3", &[&source("plain_server.py"), &port.to_string()]),
        at: V4,
        ask: Ask::Http,
    },
    Program {
        name: "Python `http.server` with `SO_REUSEPORT` alone",
        test: "a_python_server_with_so_reuseport_alone_needs_hold_none",
        needs: PYTHON,
        binds_guarded: false,
        start: |_, port| command("python3", &[&source("reuse_port_server.py"), &port.to_string()]),
        at: V4,
        ask: Ask::Http,
    },
    Program {
        name: "PHP `php -S`",
        test: "php_binds_a_guarded_port",
        needs: ("php", "php-cli"),
        binds_guarded: true,
        start: |_, port| {
            let folder = PathBuf::from(source("index.html"));
            let folder = folder.parent().unwrap().to_str().unwrap().to_owned();
            command("php", &["-S", &format!("127.0.0.1:{port}"), "-t", &folder])
        },
        at: V4,
        ask: Ask::Http,
    },
    Program {
        name: "Ruby `TCPServer`",
        test: "ruby_binds_a_guarded_port",
        needs: ("ruby", "ruby"),
        binds_guarded: true,
        start: |_, port| command("ruby", &[&source("server.rb"), &port.to_string()]),
        at: V4,
        ask: Ask::Http,
    },
    Program {
        name: "Go `net/http`",
        test: "go_binds_a_guarded_port",
        needs: ("go", "golang-go"),
        binds_guarded: true,
        start: |folder, port| {
            let program = folder.join("server");
            let built = Command::new("go")
                .args(["build", "-o"])
                .args([&program, Path::new(&source("server.go"))])
                .env("GO111MODULE", "off")
                .env("CGO_ENABLED", "0")
                .env("GOPATH", folder)
                // Kept from run to run: the standard library may have to be compiled, too.
                .env("GOCACHE", Path::new(env!("CARGO_TARGET_TMPDIR")).join("go"))
                .status();
            assert!(built.unwrap().success());
            command(program.to_str().unwrap(), &[&port.to_string()])
        },
        at: BOTH,
        ask: Ask::Http,
    },
    Program {
        name: "Rust `std::net::TcpListener`",
        test: "rust_binds_a_guarded_port",
        needs: NOTHING,
        binds_guarded: true,
        start: |_, port| {
            let this = env::current_exe().unwrap();
            command(this.to_str().unwrap(), &[SERVE, &port.to_string()])
        },
        at: V4,
        ask: Ask::Http,
    },
    Program {
        name: "Java `com.sun.net.httpserver`",
        test: "java_binds_a_guarded_port",
        needs: ("javac", "default-jdk-headless"),
        binds_guarded: true,
        start: |_, port| command("java", &[&source("Server.java"), &port.to_string()]),
        at: BOTH,
        ask: Ask::Http,
    },
    Program {
        name: "Redis",
        test: "redis_binds_a_guarded_port",
        needs: ("redis-server", "redis-server"),
        binds_guarded: true,
        start: |_, port| command("redis-server", &["--port", &port.to_string(), "--save", ""]),
        at: BOTH,
        ask: Ask::Redis,
    },
    Program {
        name: "nginx",
        test: "nginx_binds_a_guarded_port",
        needs: ("nginx", "nginx"),
        binds_guarded: true,
        start: |folder, port| {
            let configuration = fs::read_to_string(source("nginx.conf")).unwrap();
            let file = folder.join("nginx.conf");
            fs::write(&file, configuration.replace("PORT", &port.to_string())).unwrap();
            let (folder, file) = (folder.to_str().unwrap(), file.to_str().unwrap());
            command("nginx", &["-e", "stderr", "-p", folder, "-c", file])
        },
        at: BOTH,
        ask: Ask::Http,
    },
    Program {
        name: "PostgreSQL",
        test: "postgresql_binds_a_guarded_port",
        needs: ("postgres", "postgresql"),
        binds_guarded: true,
        start: |folder, port| {
            // It refuses to be root.
            let user = if geteuid().is_root() {
                User::from_name("nobody").unwrap().unwrap()
            } else {
                User::from_uid(geteuid()).unwrap().unwrap()
            };
            chown(folder, Some(user.uid.as_raw()), Some(user.gid.as_raw())).unwrap();
            let as_user = |name: &str, arguments: &[&str]| {
                let mut command = command(name, arguments);
                command.uid(user.uid.as_raw()).gid(user.gid.as_raw()).current_dir(folder);
                command
            };
            let data = folder.join("data");
            let data = data.to_str().unwrap();
            let made = as_user("initdb", &["-D", data, "-A", "trust", "--no-sync", "--locale=C"])
                .stdout(Stdio::null())
                .status();
            assert!(made.unwrap().success());
            let port = port.to_string();
            let folder = folder.to_str().unwrap();
            as_user("postgres", &["-D", data, "-k", folder, "-p", &port, "-h", "*"])
        },
        at: BOTH,
        ask: Ask::Postgres,
    },
];

/// What makes this program serve on a port.
const SERVE: &str = "serve-on-port";

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().collect();
    if let [_, word, port] = arguments.as_slice()
        && word == SERVE
    {
        serve(port.parse().unwrap());
    }
    if !namespaces::is_inside() {
        namespaces::enter();
    }
    let inside = namespaces::is_inside();
    let mut trials: Vec<_> = PROGRAMS.iter().map(|program| trial(program, inside)).collect();
    trials.push(Trial::test("the_documentation_lists_these_programs", || {
        documentation();
        Ok(())
    }));
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

fn trial(program: &'static Program, inside: bool) -> Trial {
    let (needed, package) = program.needs;
    let missing = find(needed).is_none();
    if missing {
        eprintln!("SKIPPED: {}: {needed} is missing (Debian: {package})", program.name);
    }
    let test = if program.binds_guarded { binds_guarded } else { needs_none };
    Trial::test(program.test, move || {
        test(program);
        Ok(())
    })
    .with_ignored_flag(missing || !inside)
}

fn binds_guarded(program: &Program) {
    let stage = Stage::new();
    let (port, _) = stage.allocate("guard");
    assert_guarded(&stage, port);
    let mut server = Server::start(program, &stage, port);
    server.answers(program, port);
    // It was no gap in which it came in: the guard is still there, and outlives it.
    let listed = stage.home.http("GET", "/allocations", "");
    assert_eq!(listed.body["allocations"][0]["state"], "listening");
    assert_guarded(&stage, port);
    drop(server);
    assert_guarded(&stage, port);
}

fn needs_none(program: &Program) {
    let stage = Stage::new();
    let (port, lease_id) = stage.allocate("guard");
    assert_guarded(&stage, port);
    let said = Server::start(program, &stage, port).fails();
    assert!(said.contains("Address already in use"), "{said}");
    stage.home.http("DELETE", &format!("/allocate/{lease_id}"), "");

    let (port, _) = stage.allocate("none");
    Server::start(program, &stage, port).answers(program, port);
}

#[track_caller]
fn assert_guarded(stage: &Stage, port: u16) {
    assert_eq!(stage.home.http("GET", "/status", "").body["guards"], 1);
    let socket =
        socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
    let [a, b, c, d] = Ipv4Addr::LOCALHOST.octets();
    let bound = bind(socket.as_raw_fd(), &SockaddrIn::new(a, b, c, d, port));
    assert_eq!(bound, Err(Errno::EADDRINUSE), "a bind without SO_REUSEADDR gets the port");
}

fn documentation() {
    let page = fs::read_to_string("docs/programs.md").unwrap();
    let row = |line: &str| -> Option<(String, bool)> {
        let cells: Vec<&str> = line.strip_prefix('|')?.split('|').map(str::trim).collect();
        let binds_guarded = match *cells.get(2)? {
            "works" => true,
            "needs `hold: none`" => false,
            _ => return None,
        };
        Some((cells[0].to_owned(), binds_guarded))
    };
    let listed: Vec<_> = page.lines().filter_map(row).collect();
    let tested = PROGRAMS.iter().map(|p| (p.name.to_owned(), p.binds_guarded));
    assert_eq!(listed, tested.collect::<Vec<_>>());
}

// ---- the service, and a server -------------------------------------------------------------------

/// A service in a home of its own.
struct Stage {
    home: Home,
    service: Child,
}

impl Stage {
    fn new() -> Self {
        let home = Home::with_type();
        // Also for a server that is another user.
        fs::set_permissions(home.path(""), fs::Permissions::from_mode(0o711)).unwrap();
        fs::create_dir(home.path("server")).unwrap();
        let service = home.service();
        Self { home, service }
    }

    fn allocate(&self, hold: &str) -> (u16, String) {
        let request = json!({"service_type": "mine", "service_name": "server", "hold": hold});
        let granted = self.home.http("POST", "/allocate", &request.to_string()).body;
        assert_eq!(granted["hold"], hold, "{granted}");
        let text = |key: &str| granted[key].as_str().unwrap().to_owned();
        (granted["port"].as_u64().unwrap().try_into().unwrap(), text("lease_id"))
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = self.service.kill();
        let _ = self.service.wait();
    }
}

/// A program that serves, with all of its processes.
struct Server {
    child: Child,
    output: PathBuf,
}

impl Server {
    fn start(program: &Program, stage: &Stage, port: u16) -> Self {
        let mut command = (program.start)(&stage.home.path("server"), port);
        let output = stage.home.path("output");
        let file = File::create(&output).unwrap();
        command.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file);
        Self { child: command.process_group(0).spawn().unwrap(), output }
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.output).unwrap_or_default()
    }

    /// Waits until it answers, on every address on which it should.
    #[track_caller]
    fn answers(&mut self, program: &Program, port: u16) {
        for address in program.at {
            let address = SocketAddr::new(address.parse::<IpAddr>().unwrap(), port);
            let start = Instant::now();
            while let Err(error) = answers(address, program.ask) {
                let ended = self.child.try_wait().unwrap();
                assert_eq!(ended, None, "it has ended: {}", self.said());
                let waited = start.elapsed();
                assert!(waited < LIMIT, "{address}: {error} after {waited:?}: {}", self.said());
                thread::sleep(Duration::from_millis(50));
            }
        }
    }

    /// Waits until it gives up; what it said.
    fn fails(mut self) -> String {
        let start = Instant::now();
        let status = loop {
            match self.child.try_wait().unwrap() {
                Some(status) => break status,
                None => assert!(start.elapsed() < LIMIT, "it goes on: {}", self.said()),
            }
            thread::sleep(Duration::from_millis(50));
        };
        assert!(!status.success());
        self.said()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let group = Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        let _ = killpg(group, Signal::SIGTERM);
        let start = Instant::now();
        while self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
            if start.elapsed() > Duration::from_secs(10) {
                let _ = killpg(group, Signal::SIGKILL);
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Generous: a compiler or a virtual machine may have to start first, on a busy computer.
const LIMIT: Duration = Duration::from_secs(60);

fn answers(address: SocketAddr, ask: Ask) -> Result<(), String> {
    let mut stream = TcpStream::connect(address).map_err(|error| error.to_string())?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut answer = vec![0; 64];
    let length = stream
        .write_all(ask.request())
        .and_then(|()| stream.read(&mut answer))
        .map_err(|error| error.to_string())?;
    answer.truncate(length);
    if ask.is_answered_by(&answer) {
        Ok(())
    } else {
        Err(format!("the answer is {:?}", String::from_utf8_lossy(&answer)))
    }
}

/// What `SERVE` does.
fn serve(port: u16) -> ! {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
    loop {
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.read(&mut [0; 1024]);
        let _ = stream.write_all(b"HTTP/1.0 200 OK\r\n\r\nhello\n");
    }
}

fn command(program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(find(program).unwrap());
    // What it says in English can be compared.
    command.args(arguments).env("LC_ALL", "C");
    command
}

/// A file in tests/programs.
fn source(name: &str) -> String {
    format!("{}/tests/programs/{name}", env!("CARGO_MANIFEST_DIR"))
}
