//! The port server, with the client that test suites have: portpicker of Python, which tests/portserver/fetch fetches.
//! Where it can't be had, the tests are ignored.

#[path = "../support/mod.rs"]
mod support;

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    os::{fd::OwnedFd, unix::net::UnixListener},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio},
};

use command_fds::{CommandFdExt, FdMapping};
use libtest_mimic::{Arguments, Trial};
use nix::{
    sys::signal::{self, Signal},
    unistd::Pid,
};
use serde_json::Value as Json;
use styxy::kernel::process;
use support::{Home, end, out, said, started};

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let is_there = arguments.list || fetch();
    if !is_there {
        eprintln!("SKIPPED: portpicker can't be had from PyPI (Debian: python3-venv)");
    }
    let can_nest = || unshared(Command::new("true")).status().is_ok_and(|done| done.success());
    let can_nest = is_there && (arguments.list || can_nest());
    let tests: [(&str, bool, fn()); 6] = [
        ("the_client_passes_its_own_tests", is_there, own_tests),
        ("a_port_is_that_of_the_process_that_is_named_if_it_is_related", is_there, owners),
        ("a_process_in_a_sandbox_names_itself_by_its_number_there", can_nest, nested),
        ("a_lease_ends_with_its_owner_unless_something_listens", is_there, ends),
        ("a_thousand_requests_of_eight_processes_get_no_port_twice", is_there, crowd),
        ("a_request_waits_for_a_port_and_is_refused_after_that", is_there, full),
    ];
    let trials = tests.map(|(name, is_possible, test)| {
        let trial = Trial::test(name, move || {
            test();
            Ok(())
        });
        trial.with_ignored_flag(!is_possible)
    });
    libtest_mimic::run(&arguments, trials.into()).exit_code()
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("portpicker")
}

fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/portserver").join(name)
}

fn fetch() -> bool {
    let fetched = Command::new(source("fetch")).arg(folder()).status();
    fetched.is_ok_and(|status| status.success())
}

/// A service with the socket of the port server, as systemd passes it.
struct Server {
    home: Home,
    service: Option<Child>,
    socket: UnixListener,
}

impl Server {
    /// With that many ports for tests, for which a request waits that long.
    fn new(ports: u16, wait_ms: u32) -> Self {
        let home = Home::with_ports(ports);
        home.configure(&format!(
            r#"{{"service_types": {{"test": {{"port_range": [{}, {}], "wait_ms": {wait_ms}}}}}}}"#,
            home.port(0),
            home.port(ports - 1)
        ));
        let socket = UnixListener::bind(home.path("portserver")).unwrap();
        let mut server = Self { home, service: None, socket };
        server.start();
        server
    }

    fn start(&mut self) {
        let styxy = self.home.styxy();
        let mut command = Command::new("sh");
        command.args(["-c", r#"LISTEN_PID=$$ exec "$0" "$@""#]).arg(styxy.get_program());
        command.env_clear().envs(styxy.get_envs().filter_map(|(key, value)| Some((key, value?))));
        command.env("LISTEN_FDS", "1").env("LISTEN_FDNAMES", "portserver");
        let parent_fd = OwnedFd::from(self.socket.try_clone().unwrap());
        command.fd_mappings(vec![FdMapping { parent_fd, child_fd: 3 }]).unwrap();
        self.service = Some(started(command));
    }

    /// The interpreter, with portpicker, and the port server in its environment.
    fn python(&self) -> Command {
        let mut python = Command::new(folder().join("python/bin/python3"));
        python.env("PORTSERVER_ADDRESS", self.home.path("portserver"));
        python
    }

    /// A client that asks for the PIDs that it is given.
    fn client(&self) -> Client {
        Client::start(self.python())
    }

    fn leases(&self) -> Vec<Json> {
        self.home.leases()
    }

    /// How many events there were, after the one of the configuration.
    fn events(&self) -> u64 {
        self.home.http("GET", "/status", "").body["seq"].as_u64().unwrap() - 1
    }

    /// The owner of the port.
    fn owner(&self, port: u16) -> u32 {
        let leases = self.leases();
        let lease = leases.iter().find(|lease| lease["port"] == port);
        let lease = lease.unwrap_or_else(|| panic!("{port} is not in {leases:?}"));
        u32::try_from(lease["pid"].as_u64().unwrap()).unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.service.take().into_iter().for_each(|service| end(service, Signal::SIGKILL));
    }
}

/// The command, as the first process of a PID namespace.
fn unshared(command: Command) -> Command {
    let mut unshare = Command::new("unshare");
    unshare.args(["--user", "--map-current-user", "--pid", "--fork", "--kill-child"]);
    unshare.arg(command.get_program());
    unshare.envs(command.get_envs().filter_map(|(key, value)| Some((key, value?))));
    unshare
}

/// A process that asks, and does not end before it is killed.
struct Client {
    process: Child,
    ask: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Client {
    fn start(mut python: Command) -> Self {
        let script = "
import os, portpicker, socket, sys
address = os.environ['PORTSERVER_ADDRESS']
def sleep(*actions):
    quiet = (os.POSIX_SPAWN_OPEN, 2, '/dev/null', os.O_WRONLY, 0)
    return os.posix_spawn('/bin/sleep', ['sleep', '60'], {}, file_actions=[quiet, *actions])
for line in sys.stdin:
    word, *number = line.split()
    if word == 'ask':
        port = portpicker.get_port_from_port_server(address, *map(int, number))
        print(port or 0, flush=True)
    elif word == 'child':
        print(sleep(), flush=True)
    elif word == 'listen':
        listener = socket.create_server(('', int(*number)))
        print(sleep((os.POSIX_SPAWN_DUP2, listener.fileno(), 3)), flush=True)
";
        python.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = python.spawn().unwrap();
        let ask = process.stdin.take().unwrap();
        let answers = BufReader::new(process.stdout.take().unwrap());
        Self { process, ask, answers }
    }

    fn pid(&self) -> u32 {
        self.process.id()
    }

    fn say<T: std::str::FromStr<Err = std::num::ParseIntError>>(&mut self, word: &str) -> T {
        writeln!(self.ask, "{word}").unwrap();
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        line.trim().parse().unwrap()
    }

    /// A port; 0 if there was no answer.
    fn port(&mut self) -> u16 {
        self.say("ask")
    }

    fn port_for(&mut self, pid: u32) -> u16 {
        self.say(&format!("ask {pid}"))
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn kill(pid: u32) {
    signal::kill(Pid::from_raw(i32::try_from(pid).unwrap()), Signal::SIGKILL).unwrap();
}

/// Those of its tests that ask a port server.
const ITS_TESTS: [&str; 5] = [
    "PickUnusedPortTestWithAPortServer",
    "PickUnusedPortTest.testPickUnusedPortActuallyWorks",
    "PickUnusedPortTest.testIsPortFree",
    "PickUnusedPortTest.testIsPortFreeException",
    "PortpickerCommandLineTests.test_command_line_interface",
];

fn own_tests() {
    let server = Server::new(100, 0);
    let tests = ITS_TESTS.map(|test| format!("portpicker_test.{test}"));
    let python = server
        .python()
        .args(["-m", "unittest"])
        .args(tests)
        .current_dir(folder().join("tests"))
        .output();
    let output = python.unwrap();
    let said = said(&output);
    assert!(output.status.success() && said.contains("Ran 7 tests"), "{said}");
    // Without a server portpicker picks ports by itself.
    assert!(server.events() > 20, "{said}");
}

fn owners() {
    let server = Server::new(10, 0);
    let mut client = server.client();
    let child = client.say("child");
    let other = server.client();
    for (named, owner) in [
        (client.pid(), client.pid()),
        (child, child),
        (std::process::id(), std::process::id()),
        (other.pid(), client.pid()),
        (1, client.pid()),
    ] {
        let port = client.port_for(named);
        assert_eq!(server.owner(port), owner, "{named}");
    }
    assert_eq!(client.say::<u16>("ask 0"), 0, "no PID");
    kill(child);
    // The other's own request is its own.
    let mut other = other;
    let port = other.port();
    assert_eq!(server.owner(port), other.pid());
}

fn nested() {
    let server = Server::new(10, 0);
    let mut client = Client::start(unshared(server.python()));
    // It is 1 there, and its child a number that means somebody else outside.
    let child = client.say("child");
    let ports = [1, child].map(|pid| client.port_for(pid));
    let [owner, same] = ports.map(|port| server.owner(port));
    assert!(process::is_of(owner, client.pid()) && owner != client.pid());
    assert_eq!(same, owner);
}

fn ends() {
    let mut server = Server::new(10, 0);
    let mut client = server.client();
    let (idle, used) = (client.port(), client.port());
    assert_ne!(idle, used);
    let listener: u32 = client.say(&format!("listen {used}"));
    // Also of a service that was killed meanwhile.
    end(server.service.take().unwrap(), Signal::SIGKILL);
    server.start();
    assert_eq!(server.leases().len(), 2);
    drop(client);
    let state = |port: u16| {
        let leases = server.leases();
        let lease = leases.iter().find(|lease| lease["port"] == port)?;
        Some(lease["state"].as_str().unwrap().to_owned())
    };
    server.home.until(|| state(idle).is_none());
    server.home.until(|| state(used).as_deref() == Some("orphaned"));
    let mut client = server.client();
    for _ in 1..10 {
        let port = client.port();
        assert!(port != 0 && port != used, "{port}");
    }
    assert_eq!(client.port(), 0, "there is no other");
    kill(listener);
    server.home.until(|| state(used).is_none());
    assert_eq!(client.port(), used);
}

fn crowd() {
    // Less than there are requests, and more than there are processes.
    let server = Server::new(40, 60_000);
    let marks = server.home.path("marks");
    fs::create_dir(&marks).unwrap();
    let ask = || {
        let mut python = server.python();
        python.arg(source("crowd.py")).arg(&marks).arg("125");
        python.stderr(Stdio::piped()).spawn().unwrap()
    };
    let crowd: Vec<_> = (0..8).map(|_| ask()).collect();
    for python in crowd {
        out(&python.wait_with_output().unwrap());
    }
    server.home.until(|| server.leases().is_empty());
    assert_eq!(server.events(), 2_000, "each was granted and ended");
}

fn full() {
    let server = Server::new(1, 60_000);
    let mut first = server.client();
    let port = first.port();
    let mut second = server.client();
    writeln!(second.ask, "ask").unwrap();
    // It asks, and waits; whichever comes first, it gets the port.
    drop(first);
    let mut line = String::new();
    second.answers.read_line(&mut line).unwrap();
    assert_eq!(line, format!("{port}\n"));
    assert_eq!(server.owner(port), second.pid());
    drop(server);

    let server = Server::new(1, 1);
    let (mut first, mut second) = (server.client(), server.client());
    assert_ne!(first.port(), 0);
    assert_eq!(second.port(), 0, "no answer");
    assert_eq!(server.events(), 2, "the refusal is one, too");
}
