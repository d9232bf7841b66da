use std::{
    io::{BufRead, BufReader},
    net::{SocketAddr, TcpListener, UdpSocket},
    os::fd::OwnedFd,
    process::{Child, ChildStdin, Command, Stdio},
    time::{Duration, Instant},
};

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, bind, listen, setsockopt, socket,
    sockopt,
};

use super::*;
use crate::kernel::{diag::tests::DUMPS, probe};

/// All listeners on that port.
fn on(port: u16, protocol: Protocol) -> Vec<Listener> {
    let port = Port::new(port.into()).unwrap();
    listeners(PortRange::only(port), protocol).unwrap()
}

fn port_of(listener: &TcpListener) -> u16 {
    listener.local_addr().unwrap().port()
}

/// The entry for the process `pid`, which has the socket with that address. A child that another test has just
/// forked has the socket, too, until it calls exec; its PID may be lower.
fn program_of(at: SocketAddr, protocol: Protocol, pid: u32) -> Arc<Program> {
    let patience = Instant::now() + Duration::from_secs(30);
    loop {
        let listeners = on(at.port(), protocol);
        let listener = listeners.iter().find(|listener| listener.address == at.ip()).unwrap();
        assert_eq!((listener.port.get(), listener.protocol), (at.port(), protocol));
        assert_eq!(listener.uid, process::uid());
        match &listener.program {
            Some(program) if program.pid == pid => return Arc::clone(program),
            other => assert!(Instant::now() < patience, "{other:?} is not {pid}"),
        }
    }
}

/// A shell that has a listener as its standard output. No other process has it.
struct Holder {
    shell: Child,
    _stdin: ChildStdin,
    at: SocketAddr,
}

impl Holder {
    /// Runs the script, then waits until it is killed. `arguments` begin with `$0`.
    fn new(script: &str, arguments: &[&str]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let mut shell = Command::new("sh")
            .args(["-c", &format!("{script}\necho ready >&2; read -r line")])
            .args(arguments)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(OwnedFd::from(listener))
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(shell.stderr.take().unwrap()).read_line(&mut line).unwrap();
        let holder = Self { _stdin: shell.stdin.take().unwrap(), shell, at };
        assert_eq!(line, "ready\n");
        holder
    }

    fn pid(&self) -> u32 {
        self.shell.id()
    }

    fn program(&self) -> Arc<Program> {
        program_of(self.at, Protocol::Tcp, self.pid())
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.shell.kill();
        let _ = self.shell.wait();
    }
}

#[test]
fn own_sockets_are_told_with_address_user_and_process() {
    for address in ["127.0.0.1:0", "0.0.0.0:0", "[::1]:0", "[::]:0"] {
        let tcp = TcpListener::bind(address).unwrap();
        let udp = UdpSocket::bind(address).unwrap();
        for (protocol, at) in
            [(Protocol::Tcp, tcp.local_addr().unwrap()), (Protocol::Udp, udp.local_addr().unwrap())]
        {
            let told = on(at.port(), protocol);
            let listener = told.iter().find(|l| l.address == at.ip()).unwrap();
            let name = User::from_uid(Uid::current()).unwrap().map(|user| user.name);
            assert_eq!(*listener.user, *name.unwrap_or(process::uid().to_string()));
            let program = program_of(at, protocol, std::process::id());
            let folder = std::env::current_dir().unwrap();
            assert_eq!(program.folder.as_deref(), folder.to_str());
            let line: Vec<_> = std::env::args().collect();
            assert_eq!(program.command_line, line.join(" "));
            // It runs in the container that the test runs in.
            assert_eq!(program.container, None);
        }
    }
}

#[test]
fn a_socket_that_is_mapped_into_ipv6_is_told_as_ipv4() {
    let listener = TcpListener::bind("[::ffff:127.0.0.1]:0").unwrap();
    assert_eq!(on(port_of(&listener), Protocol::Tcp)[0].address.to_string(), "127.0.0.1");
}

#[test]
fn two_sockets_that_share_a_port_are_two() {
    let shared = |port| {
        let kind = SockType::Stream;
        let socket = socket(AddressFamily::Inet, kind, SockFlag::SOCK_CLOEXEC, None).unwrap();
        setsockopt(&socket, sockopt::ReusePort, &true).unwrap();
        let address = SockaddrIn::new(127, 0, 0, 1, port);
        bind(std::os::fd::AsRawFd::as_raw_fd(&socket), &address).unwrap();
        listen(&socket, Backlog::new(1).unwrap()).unwrap();
        TcpListener::from(socket)
    };
    let one = shared(0);
    let _two = shared(port_of(&one));
    let told = on(port_of(&one), Protocol::Tcp);
    assert_eq!(told.len(), 2);
    assert_ne!(told[0].inode, told[1].inode);
    assert!(told.iter().all(|l| l.program.is_some()));
}

#[test]
fn only_what_was_asked_for_is_told() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = Port::new(port_of(&listener).into()).unwrap();
    assert_eq!(on(port.get(), Protocol::Both).len(), 1);
    assert!(on(port.get(), Protocol::Udp).is_empty());
    let told = |range: &str| listeners(range.parse().unwrap(), Protocol::Tcp).unwrap();
    let is_it = |l: &Listener| l.port == port;
    assert!(told("1..65535").iter().any(is_it));
    assert!(!told(&format!("1..{}", port.get() - 1)).iter().any(is_it));
    let guard = probe::reserve(Port::new(free_port().into()).unwrap(), Protocol::Tcp);
    let guard = TcpListener::from(guard.unwrap());
    assert!(on(port_of(&guard), Protocol::Tcp).is_empty());
}

fn free_port() -> u16 {
    port_of(&TcpListener::bind("127.0.0.1:0").unwrap())
}

#[test]
fn the_kernel_is_asked_once_for_each_table_and_not_for_each_port() {
    let opened: Vec<_> = (0..100).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    for (protocol, dumps) in [(Protocol::Tcp, 1), (Protocol::Udp, 2), (Protocol::Both, 3)] {
        DUMPS.set(0);
        let told = listeners("1..65535".parse().unwrap(), protocol).unwrap();
        assert_eq!(DUMPS.get(), dumps, "{protocol}");
        assert!(protocol == Protocol::Udp || told.len() >= opened.len());
    }
}

/// The sockets on the port of a listener, as the kernel reports them.
fn sockets(listener: &TcpListener) -> Vec<Socket> {
    let mut sockets = Vec::new();
    let port = port_of(listener);
    let only = PortRange::only(Port::new(port.into()).unwrap());
    diag::sockets(Protocol::Tcp, only, |socket| sockets.push(socket)).unwrap();
    sockets
}

#[test]
fn processes_are_looked_at_only_until_each_socket_has_one() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let sockets = sockets(&listener);
    let pids = || {
        let enough = || -> u32 { panic!("one process too many was looked at") };
        std::iter::once(std::process::id()).chain(std::iter::repeat_with(enough))
    };
    assert_eq!(programs(&sockets, pids).len(), 1);
    let none = || -> std::iter::Empty<u32> { panic!("no process is wanted") };
    assert!(programs(&[], none).is_empty());
    // Sockets that no process has open.
    assert!(programs(&[Socket { inode: 0, ..sockets[0] }], none).is_empty());
}

#[test]
fn a_socket_that_was_told_of_twice_is_listed_once() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let once = sockets(&listener);
    let earlier = Socket { port: Port::MIN, ..once[0] };
    let mut told = vec![once[0], earlier, once[0]];
    order(&mut told);
    assert_eq!(told, [earlier, once[0]]);
}

#[test]
fn a_process_that_is_gone_is_passed_over() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let pids = || [u32::MAX, std::process::id()].into_iter();
    assert_eq!(programs(&sockets(&listener), pids).len(), 1);
}

#[test]
fn a_program_cannot_reach_the_terminal_with_its_name_or_arguments() {
    let script = r"printf '\033[31mred\n\377' >/proc/$$/comm";
    let holder = Holder::new(script, &["\x1b]0;title\x07", "line\nfeed", "a\u{202e}b", "größe"]);
    let program = holder.program();
    assert_eq!(program.command, "\\u{1b}[31mred\\n\u{fffd}");
    let end = "\\u{1b}]0;title\\u{7} line\\nfeed a\\u{202e}b größe";
    assert!(program.command_line.ends_with(end), "{}", program.command_line);
    assert_eq!(program.folder.as_deref(), Some("/"));
}

#[test]
fn a_very_long_command_line_is_cut() {
    let holder = Holder::new("", &["sh", &"long ".repeat(20_000)]);
    let program = holder.program();
    assert!(program.command_line.starts_with("sh -c"), "{}", program.command_line);
    assert!(program.command_line.len() < 5_000, "{}", program.command_line.len());
}

#[test]
fn of_those_that_share_a_socket_the_service_comes_before_the_service_manager() {
    // The inner shell has the socket, too; its PID is higher.
    let script =
        "printf systemd >/proc/$$/comm; exec 3<&0; sh -c 'echo $$ >&2; read -r line' <&3 & wait";
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    let mut manager = Command::new("sh")
        .args(["-c", script])
        .stdin(Stdio::piped())
        .stdout(OwnedFd::from(listener))
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(manager.stderr.take().unwrap()).read_line(&mut line).unwrap();
    program_of(at, Protocol::Tcp, line.trim().parse().unwrap());
    // At the end of its input the inner shell exits, and then the outer one.
    drop(manager.stdin.take());
    manager.wait().unwrap();
}

const PROXY: &str = "docker-proxy -proto tcp -host-ip 127.0.0.1 -host-port PORT \
                     -container-ip 172.17.0.2 -container-port 80";

#[test]
fn a_proxy_is_told_with_the_container_that_it_serves() {
    let line = PROXY.replace("PORT", "1");
    let arguments: Vec<_> = line.split_whitespace().collect();
    let holder = Holder::new("printf docker-proxy >/proc/$$/comm", &arguments);
    let container = holder.program().container.clone().unwrap();
    assert_eq!(container, Container::Behind("172.17.0.2:80".parse().unwrap()));
}

#[test]
fn a_proxy_whose_descriptors_may_not_be_read_is_known_by_its_command_line() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let sockets = sockets(&listener);
    let missing = HashSet::from([sockets[0].inode]);
    let line = PROXY.replace("PORT", &port_of(&listener).to_string());
    let arguments: Vec<_> = line.split_whitespace().collect();
    let proxy = Holder::new("printf docker-proxy >/proc/$$/comm", &arguments);
    assert_eq!(proxied(proxy.pid(), &sockets, &missing), [sockets[0].inode]);
    assert!(proxied(proxy.pid(), &sockets, &HashSet::new()).is_empty());
    for other in [
        Socket { uid: sockets[0].uid + 1, ..sockets[0] },
        Socket { port: Port::MIN, ..sockets[0] },
        Socket { protocol: Protocol::Udp, ..sockets[0] },
        Socket { address: "::1".parse().unwrap(), ..sockets[0] },
    ] {
        assert!(proxied(proxy.pid(), &[other], &missing).is_empty(), "{other:?}");
    }
    let other = Holder::new("", &arguments);
    assert!(proxied(other.pid(), &sockets, &missing).is_empty());
}

#[test]
fn a_socket_is_listened_on_by_those_who_have_it_open() {
    let holder = Holder::new("", &[]);
    let port = Port::new(holder.at.port().into()).unwrap();
    let by =
        |is_meant: &dyn Fn(u32) -> bool| is_listened_by(is_meant, port, Protocol::Tcp).unwrap();
    assert!(by(&|pid| pid == holder.pid()));
    // A child that another test has just forked has it, too, until it calls exec.
    let patience = Instant::now() + Duration::from_secs(30);
    while by(&|pid| pid != holder.pid()) {
        assert!(Instant::now() < patience);
    }
}

#[test]
fn the_proxy_of_a_container_is_anybodys_who_runs_docker() {
    let line = PROXY.replace("PORT", "1");
    let arguments: Vec<_> = line.split_whitespace().collect();
    let proxy = Holder::new("printf docker-proxy >/proc/$$/comm", &arguments);
    let port = Port::new(proxy.at.port().into()).unwrap();
    for (name, is_its) in [("docker", true), ("other", false)] {
        let client = Holder::new(&format!("printf {name} >/proc/$$/comm"), &[]);
        let is_theirs = || is_listened_by(|pid| pid == client.pid(), port, Protocol::Tcp).unwrap();
        // A child that another test has just forked has the socket of the proxy, too, until it calls exec.
        let patience = Instant::now() + Duration::from_secs(30);
        while is_its && !is_theirs() {
            assert!(Instant::now() < patience, "{name}");
        }
        assert!(is_its || !is_theirs(), "{name}");
    }
}

#[test]
fn the_number_that_a_server_was_given_is_in_its_arguments_or_above() {
    for (line, is_named) in [
        ("vite --port 40000", true),
        ("flask run --port=40000", true),
        ("gunicorn -b localhost:40000 app", true),
        ("java -Dport=40000", true),
        ("vite --port 4000", false),
        ("vite --port 400001", false),
        ("node --inspect=40000 x.js", false),
        ("node --inspect 40000 x.js", false),
        ("java -agentlib:jdwp=address=*:40000", false),
        ("node --inspect=40000 x.js --port 40000", true),
    ] {
        assert_eq!(names(line, "40000"), is_named, "{line}");
    }
    let number = Port::new(40_000).unwrap();
    let server = Holder::new("", &["serve", "40000"]);
    assert!(was_given(server.pid(), server.pid(), number));
    let own = std::process::id();
    assert!(!was_given(own, own, number));
}
