//! What has a port, and whether it is granted: each situation, and two users who ask at once.
//!
//! Each test has a network of its own, in which no port is taken; all are ignored where there are no
//! namespaces.

mod support;

use std::{
    env, fs,
    io::{BufRead, BufReader, Read},
    net::{SocketAddr, TcpListener, TcpStream},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::{
            fs::{PermissionsExt, chown},
            process::CommandExt,
        },
    },
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
};

use libtest_mimic::{Arguments, Trial};
use nix::{
    sys::socket::{
        AddressFamily, SockFlag, SockType, SockaddrStorage, bind, setsockopt, socket, sockopt,
    },
    unistd::geteuid,
};
use serde_json::{Value as Json, json};
use styxy::{
    client::v1,
    kernel::{diag::Seen, probe},
    obstacle::{InUse, Obstacle},
    port::{Port, PortRange, Protocol},
};
use support::{Home, namespaces};

/// Names the test that is to be run in this network, or what else a process of a test is for.
const PART: &str = "STYXY_TEST_PART";

/// A test with the commands that make its network.
type Test = (&'static str, &'static str, fn());

const TESTS: &[Test] = &[
    ("a_port_is_reserved_in_each_situation_in_which_it_is_free", UP, situations),
    ("the_same_without_ipv6", WITHOUT_IPV6, situations),
    ("the_same_with_the_loopback_interface_down", "true", guards_without_loopback),
    ("the_same_on_a_host_with_ipv6_only", WITHOUT_IPV4, guards_without_loopback),
    ("two_users_at_once_get_each_port_exactly_once", UP, race),
    ("two_users_never_get_the_same_port", UP, two_services),
    ("a_port_that_another_user_was_granted_meanwhile_ends_the_lease", UP, taken),
    ("a_server_of_another_user_is_not_that_of_a_claim_without_a_guard", UP, foreign),
    ("a_server_of_another_user_is_not_adopted", UP, adopted),
    ("only_the_users_own_daemon_of_styxy_1_gets_the_token", UP, older_daemon),
    ("looking_at_a_port_binds_nothing", UP, looking),
    ("a_port_of_an_outgoing_connection_is_named_as_such", UP, outgoing),
    ("a_range_is_placed_among_the_kernels_ports_if_there_is_no_other_place", ALL_EPHEMERAL, placed),
    ("the_host_of_a_command_is_an_address_that_exists", WITHOUT_IPV4, host),
    ("a_grant_takes_one_socket_and_one_bind", UP, calls),
    ("a_block_keeps_only_the_sockets_of_its_last_run", UP, block),
    ("without_descriptors_a_port_is_not_said_to_be_in_use", UP, descriptors),
    ("an_udp_port_is_granted_with_a_word_that_it_is_not_held", UP, udp),
];

const UP: &str = "ip link set lo up";
const WITHOUT_IPV6: &str = "ip link set lo up && echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6";
const WITHOUT_IPV4: &str = "ip link set lo up && ip addr del 127.0.0.1/8 dev lo";
const ALL_EPHEMERAL: &str =
    "ip link set lo up && echo 1024 65535 >/proc/sys/net/ipv4/ip_local_port_range";

fn main() -> ExitCode {
    if let Ok(part) = env::var(PART) {
        match TESTS.iter().find(|(name, ..)| *name == part) {
            Some((_, _, test)) => test(),
            None => racer(),
        }
        return ExitCode::SUCCESS;
    }
    let arguments = Arguments::from_args();
    if !namespaces::is_inside() {
        namespaces::enter();
    }
    let is_possible = namespaces::is_inside();
    let trials = TESTS.iter().map(|(name, network, _)| {
        Trial::test(*name, || in_network(name, network)).with_ignored_flag(!is_possible)
    });
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}

/// Runs a test in a network of its own.
fn in_network(name: &str, network: &str) -> Result<(), libtest_mimic::Failed> {
    let script = format!("{network} && exec \"$0\"");
    let mut command = Command::new("unshare");
    command.args(["--net", "--mount", "sh", "-c", &script]).arg(env::current_exe()?);
    let output = command.env(PART, name).output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stdout, output.stderr].concat();
    Err(String::from_utf8_lossy(&said).into_owned().into())
}

// ---- situations --------------------------------------------------------------------------------

/// What has the port, for as long as this lives.
type Kept = Vec<OwnedFd>;

fn bound(address: &str, port: u16, options: &[&str]) -> OwnedFd {
    let address: SocketAddr = format!("{address}:{port}").parse().unwrap();
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let socket = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
    for option in options {
        match *option {
            "reuse" => setsockopt(&socket, sockopt::ReuseAddr, &true),
            "reuse port" => setsockopt(&socket, sockopt::ReusePort, &true),
            "ipv6 only" => setsockopt(&socket, sockopt::Ipv6V6Only, &true),
            other => panic!("{other}"),
        }
        .unwrap();
    }
    bind(socket.as_raw_fd(), &SockaddrStorage::from(address)).unwrap();
    socket
}

/// The standard library sets `SO_REUSEADDR`.
fn listener(address: &str, port: u16) -> Kept {
    vec![TcpListener::bind(format!("{address}:{port}")).unwrap().into()]
}

fn ipv6_only(address: &str, port: u16) -> Kept {
    let socket = bound(address, port, &["reuse", "ipv6 only"]);
    nix::sys::socket::listen(&socket, nix::sys::socket::Backlog::MAXCONN).unwrap();
    vec![socket]
}

/// Both ends of a connection whose listener is gone.
fn connection(address: &str, port: u16) -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind(format!("{address}:{port}")).unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (listener.accept().unwrap().0, client)
}

fn left_open(address: &str, port: u16) -> Kept {
    let (server, client) = connection(address, port);
    vec![server.into(), client.into()]
}

/// Leaves the port in `TIME_WAIT`, where the side is that closes first.
fn time_wait(address: &str, port: u16) -> Kept {
    let (server, mut client) = connection(address, port);
    drop(server);
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
    Vec::new()
}

fn guard(port: u16) -> Kept {
    vec![reserve(port).unwrap()]
}

/// As versions before this one made guards.
fn old_guard(port: u16) -> Kept {
    vec![probe::rebind(Port::new(port.into()).unwrap()).unwrap()]
}

fn reserve(port: u16) -> Result<OwnedFd, Obstacle> {
    probe::reserve(Port::new(port.into()).unwrap(), Protocol::Tcp)
}

fn both(mut one: Kept, other: Kept) -> Kept {
    one.extend(other);
    one
}

const FREE: bool = true;
const IN_USE: bool = false;

type Situation = (&'static str, bool, fn(u16) -> Kept);

const SITUATIONS: &[Situation] = &[
    ("nothing", FREE, |_| Vec::new()),
    ("TIME_WAIT, 127.0.0.1", FREE, |p| time_wait("127.0.0.1", p)),
    ("a connection of a closed listener, 127.0.0.1", FREE, |p| left_open("127.0.0.1", p)),
    ("a guard", IN_USE, guard),
    ("a guard of an earlier version", IN_USE, old_guard),
    ("a guard on 0.0.0.0", IN_USE, |p| vec![bound("0.0.0.0", p, &["reuse"])]),
    ("TIME_WAIT and a guard", IN_USE, |p| both(time_wait("127.0.0.1", p), guard(p))),
    ("TIME_WAIT and an earlier guard", IN_USE, |p| both(time_wait("127.0.0.1", p), old_guard(p))),
    ("about to listen on 0.0.0.0", IN_USE, |p| vec![bound("0.0.0.0", p, &["reuse"])]),
    ("about to listen on 127.0.0.1", IN_USE, |p| vec![bound("127.0.0.1", p, &["reuse"])]),
    ("bound without SO_REUSEADDR", IN_USE, |p| vec![bound("127.0.0.1", p, &[])]),
    ("bound with SO_REUSEPORT", IN_USE, |p| vec![bound("0.0.0.0", p, &["reuse port"])]),
    ("TIME_WAIT, and bound without SO_REUSEADDR", IN_USE, |p| {
        both(time_wait("127.0.0.1", p), vec![bound("0.0.0.0", p, &["reuse"])])
    }),
    ("a listener on 127.0.0.1", IN_USE, |p| listener("127.0.0.1", p)),
    ("a listener on 127.0.0.2", IN_USE, |p| listener("127.0.0.2", p)),
    ("a listener on 0.0.0.0", IN_USE, |p| listener("0.0.0.0", p)),
    ("TIME_WAIT and a listener", IN_USE, |p| {
        both(time_wait("127.0.0.1", p), listener("127.0.0.1", p))
    }),
];

const SITUATIONS_OF_IPV6: &[Situation] = &[
    ("TIME_WAIT, ::1", FREE, |p| time_wait("[::1]", p)),
    ("TIME_WAIT on both", FREE, |p| both(time_wait("127.0.0.1", p), time_wait("[::1]", p))),
    ("a connection of a closed listener, ::1", FREE, |p| left_open("[::1]", p)),
    ("TIME_WAIT on ::1, and a guard", IN_USE, |p| both(time_wait("[::1]", p), guard(p))),
    ("about to listen on ::1", IN_USE, |p| vec![bound("[::1]", p, &["reuse"])]),
    ("about to listen on :: without IPv4", IN_USE, |p| {
        vec![bound("[::]", p, &["reuse", "ipv6 only"])]
    }),
    ("a listener on ::1", IN_USE, |p| listener("[::1]", p)),
    ("a listener on ::", IN_USE, |p| listener("[::]", p)),
    ("a listener on :: without IPv4", IN_USE, |p| ipv6_only("[::]", p)),
    ("TIME_WAIT and a listener on ::1", IN_USE, |p| {
        both(time_wait("[::1]", p), ipv6_only("[::1]", p))
    }),
];

fn situations() {
    let has_ipv6 = TcpListener::bind("[::1]:0").is_ok();
    let six = SITUATIONS_OF_IPV6.iter().filter(|_| has_ipv6);
    for ((what, is_free, make), port) in SITUATIONS.iter().chain(six).zip(20_000..) {
        let kept = make(port);
        let seen = seen(Port::new(port.into()).unwrap());
        // Kernels before 6.8 do not tell of sockets that are only bound.
        assert!(seen.is_none() == *is_free || !tells_of_bound(), "{what}: {seen:?}");
        match reserve(port) {
            Ok(guard) => {
                assert!(is_free, "{what}: the port was granted");
                lets_servers_in(port, has_ipv6, what);
                drop(guard);
            }
            Err(obstacle) => {
                assert!(!is_free, "{what}: {obstacle:?}");
                assert_eq!(obstacle, Obstacle::InUse(InUse::Socket), "{what}");
            }
        }
        drop(kept);
    }
}

/// What is in the way of a grant, for whoever only looks.
fn seen(port: Port) -> Option<Obstacle> {
    Seen::of(Protocol::Tcp, PortRange::only(port)).unwrap().obstacle(port)
}

fn tells_of_bound() -> bool {
    let guard = TcpListener::from(reserve(19_999).unwrap());
    let port = Port::new(guard.local_addr().unwrap().port().into()).unwrap();
    seen(port).is_some()
}

/// A server with `SO_REUSEADDR` listens over a guard on any address; a plain bind does not get the port.
fn lets_servers_in(port: u16, has_ipv6: bool, what: &str) {
    for address in ["127.0.0.1", "0.0.0.0", "[::1]", "[::]"] {
        if has_ipv6 || !address.starts_with('[') {
            let server = TcpListener::bind(format!("{address}:{port}"));
            assert!(server.is_ok(), "{what}: {address}: {server:?}");
        }
    }
    let plain = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None);
    let address: SocketAddr = format!("127.0.0.1:{port}").parse().unwrap();
    let bound = bind(plain.unwrap().as_raw_fd(), &SockaddrStorage::from(address));
    assert!(bound.is_err(), "{what}: a plain bind got the port");
}

/// Where the address of the lock does not exist, either.
fn guards_without_loopback() {
    let guard = reserve(20_000).unwrap();
    assert!(reserve(20_000).is_err());
    drop(guard);
    let earlier = old_guard(20_001);
    assert!(reserve(20_001).is_err());
    drop(earlier);
    if TcpListener::bind("[::1]:0").is_ok() {
        time_wait("[::1]", 20_002);
        let guard = reserve(20_002).unwrap();
        assert!(reserve(20_002).is_err());
        drop(guard);
    }
}

// ---- two users at once -------------------------------------------------------------------------

const RACERS: u32 = 8;
const PORTS: std::ops::Range<u16> = 20_000..20_200;

/// Two users, as far as this one may become others.
fn user(which: u32) -> Option<u32> {
    let mapped = fs::read_to_string("/proc/self/uid_map").unwrap();
    let is_whole = mapped.split_whitespace().nth(2).is_some_and(|count| count != "1");
    (geteuid().is_root() && is_whole).then_some(2_001 + which % 2)
}

fn as_user(mut command: Command, which: u32) -> Command {
    if let Some(uid) = user(which) {
        command.uid(uid).gid(uid);
    }
    command
}

/// This program or the command, where any user can run it.
fn public(folder: &Path, program: &Path) -> PathBuf {
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
    let copy = folder.join(program.file_name().unwrap());
    support::copy_program(program, &copy);
    copy
}

fn race() {
    let folder = tempfile::tempdir().unwrap();
    let this = public(folder.path(), &env::current_exe().unwrap());
    for port in PORTS.step_by(2) {
        time_wait("127.0.0.1", port);
    }
    let mut racers: Vec<_> = (0..RACERS)
        .map(|which| {
            let mut racer = as_user(Command::new(&this), which);
            racer.env(PART, "racer").current_dir("/");
            racer.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    let mut outputs: Vec<_> =
        racers.iter_mut().map(|racer| BufReader::new(racer.stdout.take().unwrap())).collect();
    let line = |output: &mut BufReader<_>| {
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        line
    };
    for output in &mut outputs {
        assert_eq!(line(output), "ready\n");
    }
    // All of them go at once; each keeps what it has got until it may end.
    for racer in &mut racers {
        std::io::Write::write_all(racer.stdin.as_mut().unwrap(), b"go\n").unwrap();
    }
    let mut taken = vec![0; PORTS.len()];
    for output in &mut outputs {
        for port in line(output).split_whitespace() {
            taken[usize::from(port.parse::<u16>().unwrap() - PORTS.start)] += 1;
        }
    }
    let wrong: Vec<_> = PORTS.zip(&taken).filter(|(_, count)| **count != 1).collect();
    assert!(wrong.is_empty(), "ports, and how often they were taken: {wrong:?}");
    for mut racer in racers {
        drop(racer.stdin.take());
        assert!(racer.wait().unwrap().success());
    }
}

/// Takes all the ports that it can get.
fn racer() {
    let mut line = String::new();
    println!("ready");
    std::io::stdin().read_line(&mut line).unwrap();
    let got: Vec<_> = PORTS.filter_map(|port| Some((port, reserve(port).ok()?))).collect();
    let ports: Vec<_> = got.iter().map(|(port, _)| port.to_string()).collect();
    println!("{}", ports.join(" "));
    std::io::stdin().read_line(&mut line).unwrap();
}

// ---- services ----------------------------------------------------------------------------------

/// A user with a service of their own.
struct User {
    home: Home,
    styxy: PathBuf,
    which: u32,
    service: Option<Child>,
}

impl User {
    fn new(which: u32, ports: &str) -> Self {
        let home = Home::new();
        home.configure(&format!(
            r#"{{"service_types": {{"mine": {{"port_range": [{ports}]}}}}, "idle_exit_seconds": 0}}"#
        ));
        let styxy = public(&home.path(""), Path::new(env!("CARGO_BIN_EXE_styxy")));
        if let Some(uid) = user(which) {
            for path in [home.path(""), home.path("runtime"), home.config()] {
                chown(path, Some(uid), Some(uid)).unwrap();
            }
        }
        let mut user = Self { home, styxy, which, service: None };
        user.start();
        user
    }

    fn start(&mut self) {
        let mut service = self.command();
        service.arg("daemon").stdout(Stdio::piped());
        let mut service = service.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(service.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(line.contains("listening on"), "{line:?}");
        self.service = Some(service);
    }

    fn stop(&mut self) {
        if let Some(mut service) = self.service.take() {
            service.kill().unwrap();
            service.wait().unwrap();
        }
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.styxy);
        command.env_clear().current_dir("/").stdin(Stdio::null()).stderr(Stdio::piped());
        for (name, value) in self.home.styxy().get_envs() {
            command.env(name, value.unwrap_or_default());
        }
        as_user(command, self.which)
    }

    /// What a command says on both of its outputs, and whether it has done what it was to.
    fn run(&self, arguments: &[&str]) -> (bool, String) {
        let output = self.command().args(arguments).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8(said).unwrap())
    }

    #[track_caller]
    fn json(&self, arguments: &[&str]) -> Json {
        let output = self.command().args(arguments).arg("--json").output().unwrap();
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
    }

    /// Sets how many descriptors the service may have.
    fn limit_descriptors(&self, limit: usize) {
        let mut command = as_user(Command::new("prlimit"), self.which);
        command.args(["--pid", &self.pid().to_string(), &format!("--nofile={limit}:{limit}")]);
        assert!(command.status().unwrap().success());
    }

    fn pid(&self) -> u32 {
        self.service.as_ref().unwrap().id()
    }
}

impl Drop for User {
    fn drop(&mut self) {
        self.stop();
    }
}

fn two_services() {
    let (one, other) = (User::new(0, "20000, 20009"), User::new(1, "20000, 20009"));
    for (expected, user) in (20_000..).zip([&one, &other, &one, &other]) {
        let granted = user.json(&["allocate", "mine", "--new", "--project", "/"]);
        assert_eq!(granted["port"], expected, "{granted}");
        assert_eq!(granted["hold"], "guard", "{granted}");
    }
    // A port that is released at one is there for the other at once, connections or not.
    assert!(one.run(&["release", "20000"]).0);
    time_wait("127.0.0.1", 20_000);
    assert_eq!(other.json(&["allocate", "mine", "--new", "--port", "20000"])["port"], 20_000);
    let (is_granted, said) = one.run(&["allocate", "mine", "--new", "--port", "20000", "--strict"]);
    assert!(!is_granted && said.contains("20000"), "{said}");
    if !tells_of_bound() {
        return;
    }
    assert_eq!(one.json(&["allocate", "mine", "--new", "--dry-run"])["port"], 20_004);
    assert_eq!(one.json(&["suggest", "mine"])["suggestions"][0]["port"], 20_004);
    let (is_free, said) = one.run(&["check", "20000"]);
    assert!(!is_free);
    let holder = match user(1) {
        Some(uid) => format!("TCP port 20000 is reserved by a program of user {uid}"),
        None => "TCP port 20000 is bound by styxy".to_owned(),
    };
    assert!(said.contains(&holder), "{said}");
}

/// While the service of one user is away, without a manager that would keep its guards, another's is granted the port.
fn taken() {
    if user(1).is_none() {
        // A guard of the same user may be the service's own, which the manager still has.
        eprintln!("SKIPPED: a second user needs root");
        return;
    }
    let (mut one, other) = (User::new(0, "20000, 20009"), User::new(1, "20000, 20009"));
    for port in ["20000", "20001"] {
        assert!(one.run(&["allocate", "mine", "--new", "--port", port, "--strict"]).0);
    }
    one.stop();
    assert!(other.run(&["allocate", "mine", "--new", "--port", "20000", "--strict"]).0);
    // Its own server may have come meanwhile.
    let _server = listener("0.0.0.0", 20_001);
    one.start();
    let ports = |user: &User| -> Vec<u64> {
        let list = user.json(&["list"]);
        list["leases"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|lease| lease["port"].as_u64())
            .collect()
    };
    one.home.until(|| ports(&one) == [20_001]);
    assert_eq!(ports(&other), [20_000]);
}

/// A claim that nobody has used has lost its guard, and another user's server has its port.
fn foreign() {
    if user(0).is_none() {
        eprintln!("SKIPPED: a second user needs root");
        return;
    }
    let user = User::new(0, "20000, 20009");
    user.home.configure(
        r#"{"service_types": {"mine": {"port_range": [20000, 20009]}}, "claimed_seconds": 1}"#,
    );
    assert!(user.run(&["config", "reload"]).0);
    let lease = |key: &str| user.json(&["list"])["leases"][0][key].clone();
    let allocated = || user.json(&["allocate", "mine"])["port"].clone();
    assert_eq!(allocated(), 20_000);
    user.home.until(|| lease("hold") == "none");
    let server = listener("127.0.0.1", 20_000);
    assert_eq!(lease("state"), "claimed");
    let check = user.json(&["check", "20000"]);
    assert_eq!((&check["listening"], &check["lease"]["state"]), (&json!(true), &json!("claimed")));
    assert_eq!(allocated(), 20_001);
    assert_eq!(lease("port"), 20_001);
    drop(server);
}

/// A process that ends with its test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Listens as a user, until it is ended.
const LISTENS: &str =
    "import socket, time; s = socket.create_server(('127.0.0.2', 20000)); time.sleep(60)";

/// Asks a service as a user; what it prints is the status.
const ASKS: &str = r"
import socket, sys
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])
head = f'POST /allocate HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {len(sys.argv[2])}\r\n\r\n'
s.sendall((head + sys.argv[2]).encode())
print(s.makefile().readline().split()[1])
";

/// A server's port is adopted by its own user, and by nobody else; not if both listen, either.
fn adopted() {
    if user(0).is_none() {
        eprintln!("SKIPPED: a second user needs root");
        return;
    }
    let user = User::new(0, "20000, 20009");
    let python = |arguments: &[&str]| {
        let mut command = Command::new("python3");
        command.arg("-c").args(arguments);
        as_user(command, 0)
    };
    let adopt = |dry_run: bool| {
        let body = json!({
            "service_type": "mine", "port": 20_000, "strict": true, "adopt": true, "dry_run": dry_run,
        });
        let socket = user.home.socket();
        let asked = python(&[ASKS, socket.to_str().unwrap(), &body.to_string()]).output().unwrap();
        support::out(&asked)
    };
    let server = listener("127.0.0.1", 20_000);
    assert_eq!([true, false].map(adopt), ["409", "409"]);
    drop(server);
    assert_eq!([true, false].map(adopt), ["400", "400"], "nobody listens");
    let own = Running(python(&[LISTENS]).spawn().unwrap());
    user.home.until(|| adopt(true) == "200");
    let server = listener("127.0.0.1", 20_000);
    assert_eq!(adopt(false), "409", "two listen");
    drop(server);
    assert_eq!(adopt(false), "200");
    drop(own);
}

/// Answers as the daemon of styxy 1.x: to who has the token, and notes what it was asked. It also listens on 20003.
const OLDER: &str = r"
import http.server, socket, sys
log, allocations = sys.argv[1:]
server = socket.create_server(('127.0.0.1', 20003))
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        asked = self.path + ' ' + self.headers.get('Authorization', 'nothing')
        with open(log, 'a') as file:
            print(asked, file=file)
        is_good = asked == '/allocations Bearer ' + '5' * 64
        self.send_response(200 if is_good else 401)
        self.end_headers()
        self.wfile.write(allocations.encode() if is_good else b'{}')
http.server.HTTPServer(('127.0.0.1', 9876), Handler).serve_forever()
";

fn older_daemon() {
    let user = User::new(0, "20000, 20009");
    let folder = user.home.path(".styxy");
    let log = user.home.path("log");
    fs::create_dir(&folder).unwrap();
    // In a new folder, styxy 1.x never wrote its state.
    fs::write(folder.join("auth.token"), "5".repeat(64)).unwrap();
    if let Some(uid) = self::user(0) {
        chown(&folder, Some(uid), None).unwrap();
        chown(folder.join("auth.token"), Some(uid), None).unwrap();
    }
    let allocations = json!({"allocations": [{
        "port": 20_003, "lockId": "6e1f9c4e-9df7-4f0e-8e2b-0f3f0e6f3a11", "serviceType": "mine",
        "serviceName": "web", "instanceId": "default", "projectPath": "/shop",
    }]});
    let start = |which: Option<u32>| {
        let mut command = Command::new("python3");
        let log = log.to_str().unwrap();
        command.args(["-c", OLDER, log, &allocations.to_string()]).stderr(Stdio::null());
        if let Some(which) = which {
            command = as_user(command, which);
        }
        let daemon = Running(command.spawn().unwrap());
        user.home.until(|| TcpStream::connect(("127.0.0.1", 9876)).is_ok());
        daemon
    };
    let asked = || fs::read_to_string(&log).unwrap_or_default();
    if self::user(0).is_some() {
        let others = start(None);
        fs::write(folder.join("config.json"), "{}").unwrap();
        let import = user.json(&["import"]);
        assert_eq!((&import["leases"], &import["daemon"]), (&json!([]), &Json::Null));
        let told = import["left_out"].to_string();
        assert!(told.contains("does not get your token"), "{told}");
        assert_eq!(asked(), "");
        fs::remove_file(folder.join("config.json")).unwrap();
        drop(others);
    }
    let daemon = start(Some(0));
    let pid = daemon.0.id();
    let import = user.json(&["import", "--yes"]);
    assert_eq!(import["daemon"]["pid"], pid, "{import:#}");
    assert_eq!(import["leases"][0]["port"], 20_003);
    let lease = &user.json(&["list"])["leases"][0];
    assert_eq!((&lease["state"], &lease["pid"]), (&json!("listening"), &json!(pid)));
    assert_eq!(lease["lease_id"], "6e1f9c4e-9df7-4f0e-8e2b-0f3f0e6f3a11");
    assert_eq!(asked(), format!("/allocations Bearer {}\n", "5".repeat(64)));
    let (is_done, said) = user.run(&["import"]);
    assert!(is_done && said.contains(&format!("`kill {pid}` ends it")), "{said}");
    fs::write(folder.join("auth.token"), "6".repeat(64)).unwrap();
    let (is_done, said) = user.run(&["import"]);
    assert!(!is_done && said.contains("no config.json and no daemon.state"), "{said}");
    assert!(said.contains("9876: it does not accept the token"), "{said}");
    drop(daemon);
    // It has the token, and only it.
    fs::remove_file(&log).unwrap();

    // Another one has taken its place between the look and the connection.
    let listener = TcpListener::bind(("127.0.0.1", Port::HTTP.get())).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    assert!(runtime.block_on(v1::allocations("secret", || false)).is_err());
    drop(runtime);
    let mut received = String::new();
    listener.accept().unwrap().0.read_to_string(&mut received).unwrap();
    assert_eq!(received, "");
}

/// Counts the calls of a service while the work is done, by their names.
fn traced(pid: u32, names: &[&str], work: impl FnOnce()) -> Option<Vec<usize>> {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let mut strace = Command::new("strace")
        .args(["-f", "-e", &format!("trace={}", names.join(",")), "-o"])
        .arg(&log)
        .args(["-p", &pid.to_string()])
        .stderr(Stdio::piped())
        .spawn()
        .ok()?;
    let mut line = String::new();
    BufReader::new(strace.stderr.take().unwrap()).read_line(&mut line).unwrap();
    if !line.contains("attached") {
        strace.wait().unwrap();
        return None;
    }
    work();
    let strace_pid = nix::unistd::Pid::from_raw(i32::try_from(strace.id()).unwrap());
    nix::sys::signal::kill(strace_pid, nix::sys::signal::Signal::SIGINT).unwrap();
    strace.wait().unwrap();
    let text = fs::read_to_string(log).unwrap();
    let count = |name: &&str| text.matches(&format!(" {name}(")).count();
    Some(names.iter().map(count).collect())
}

fn looking() {
    let user = User::new(0, "20000, 20009");
    let _busy = listener("127.0.0.1", 20_000);
    let binds = |arguments: &[&str]| {
        let work = || assert!(!user.run(arguments).1.is_empty());
        // Netlink's sockets are bound by the kernel when they are used.
        traced(user.pid(), &["bind"], work)
    };
    let Some(granting) = binds(&["allocate", "mine", "--new"]) else {
        eprintln!("strace(1) cannot be used here");
        return;
    };
    assert_ne!(granting, [0]);
    for arguments in [
        &["check", "20005"][..],
        &["check", "20000"],
        &["suggest", "mine", "--count", "5"],
        &["allocate", "mine", "--new", "--dry-run"],
        &["allocate", "mine", "--new", "--count", "5", "--dry-run"],
        &["allocate", "new-one", "--dry-run"],
        &["scan"],
    ] {
        assert_eq!(binds(arguments), Some(vec![0]), "{arguments:?}");
    }
}

fn outgoing() {
    let user = User::new(0, "20000, 20009");
    let server = TcpListener::bind("127.0.0.1:30000").unwrap();
    let client = bound("127.0.0.1", 20_000, &[]);
    let address = SockaddrStorage::from(server.local_addr().unwrap());
    nix::sys::socket::connect(client.as_raw_fd(), &address).unwrap();
    let (is_free, said) = user.run(&["check", "20000"]);
    assert!(!is_free);
    assert!(said.contains("TCP port 20000 is in use by an outgoing connection of "), "{said}");
    let answer = user.json(&["check", "20000"]);
    assert_eq!(answer["in_use_by"], "connection", "{answer}");
    assert_eq!(answer["reason"], "in_use", "{answer}");
    assert_eq!(answer["holders"][0]["uid"], geteuid().as_raw(), "{answer}");
    assert_eq!(user.json(&["allocate", "mine", "--dry-run"])["port"], 20_001);
    assert_eq!(user.json(&["allocate", "mine", "--new"])["port"], 20_001);
    let (is_granted, said) =
        user.run(&["allocate", "mine", "--new", "--port", "20000", "--strict"]);
    assert!(!is_granted);
    assert!(said.contains("an outgoing connection of "), "{said}");
    assert!(said.contains("wait until it ends"), "{said}");
    drop(client);
    // The end that the server has is no obstacle: neither it nor its port is in the way.
    let (_peer, _) = server.accept().unwrap();
    let left = left_open("127.0.0.1", 20_002);
    assert_eq!(user.json(&["allocate", "mine", "--new", "--dry-run"])["port"], 20_000);
    assert!(user.run(&["check", "20002"]).0);
    assert_eq!(
        user.json(&["allocate", "mine", "--new", "--port", "20002", "--strict"])["port"],
        20_002
    );
    drop(left);
}

fn placed() {
    let user = User::new(0, "20000, 20009");
    let granted = user.json(&["allocate", "grafana", "--project", "/"]);
    assert_eq!(granted["auto_allocated"], true, "{granted}");
    let note = granted["note"].as_str().unwrap_or_default();
    assert!(note.contains("net.ipv4.ip_local_reserved_ports"), "{granted}");
    // Autobind, which would give any port, does not give this one.
    let port = granted["port"].as_u64().unwrap();
    fs::write("/proc/sys/net/ipv4/ip_local_port_range", format!("{port} {port}")).unwrap();
    assert!(TcpListener::bind("127.0.0.1:0").is_err());
    // With the ports reserved there is nothing to say.
    fs::write("/proc/sys/net/ipv4/ip_local_port_range", "1024 65535").unwrap();
    fs::write("/proc/sys/net/ipv4/ip_local_reserved_ports", "10000-49151").unwrap();
    let granted = user.json(&["allocate", "prometheus", "--project", "/"]);
    assert_eq!(granted["auto_allocated"], true, "{granted}");
    assert_eq!(granted["note"], Json::Null, "{granted}");
}

fn host() {
    let user = User::new(0, "20000, 20009");
    let (_, said) = user.run(&["run", "mine", "--quiet", "--", "sh", "-c", "echo $HOST"]);
    assert_eq!(said, "::1\n");
    assert!(TcpListener::bind("[::1]:20000").is_ok());
}

fn block() {
    // A search that has to go far: of the runs of ten ports only the last one is whole.
    let user = User::new(0, "20000, 20999");
    let busy: Vec<_> =
        (20_009..20_999).step_by(10).map(|port| listener("127.0.0.1", port)).collect();
    let descriptors = fs::read_dir(format!("/proc/{}/fd", user.pid())).unwrap().count();
    // Enough for one run, and not for two.
    user.limit_descriptors(descriptors + 15);
    assert_eq!(user.json(&["allocate", "mine", "--new", "--count", "10"])["port"], 20_990);
    drop(busy);
}

fn calls() {
    let user = User::new(0, "20000, 20009");
    let grant = || assert!(user.run(&["allocate", "mine", "--new"]).0);
    match traced(user.pid(), &["socket", "setsockopt", "bind"], grant) {
        Some(counts) => assert_eq!(counts, [1, 2, 1]),
        None => eprintln!("strace(1) cannot be used here"),
    }
}

fn descriptors() {
    let user = User::new(0, "20000, 20099");
    user.limit_descriptors(40);
    // Each lease takes a descriptor, and so does each connection to the service.
    let refused = (0..40)
        .map(|_| user.run(&["allocate", "mine", "--new"]))
        .find(|(is_granted, _)| !is_granted);
    let (_, said) = refused.expect("there is no descriptor left");
    assert!(said.contains("the service has no file descriptors left"), "{said}");
    assert!(said.contains("LimitNOFILE="), "{said}");
    assert!(!said.contains("in use") && !said.contains("disk"), "{said}");
    let (is_granted, said) = user.run(&["allocate", "grafana"]);
    assert!(!is_granted && !said.contains("disk"), "{said}");
    let types = user.json(&["types"]);
    let mut types = types["service_types"].as_array().unwrap().iter();
    assert!(types.all(|t| t["automatic"] == false));
}

fn udp() {
    let user = User::new(0, "20000, 20009");
    for protocol in ["udp", "both"] {
        for hold in [&[][..], &["--hold", "none"]] {
            let granted =
                user.json(&[&["allocate", "mine", "--new", "--protocol", protocol], hold].concat());
            let note = granted["note"].as_str().unwrap_or_default();
            assert!(note.contains("not held"), "{granted}");
        }
    }
    // Whoever asked for that knows.
    let granted = user.json(&["allocate", "mine", "--new", "--hold", "none"]);
    assert_eq!(granted["note"], Json::Null, "{granted}");
}
