//! What these tests do inside a machine.

use std::{
    collections::{BTreeSet, HashMap},
    io::Read,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    ops::RangeInclusive,
    os::fd::{AsRawFd, OwnedFd},
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, FdFlag, fcntl},
    sys::socket::{
        AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, getsockname, getsockopt,
        listen, setsockopt, socket, sockopt,
    },
};
use serde_json::{Value as Json, json};
use zbus::{Connection, Variant};

use crate::inside;

/// What runs in the machine.
pub async fn inside(arguments: &[&str]) -> Json {
    let number = |text: &&str| text.parse::<u16>().unwrap();
    match arguments {
        ["fill", leases, owned] => fill(number(leases), number(owned)).await,
        ["release", ports @ ..] => release(&ports.iter().map(number).collect::<Vec<_>>()).await,
        ["free", first, last] => find_free(number(first)..=number(last)),
        ["assault", first, last, stop] => assault(number(first)..=number(last), stop),
        ["occupy", address, tcp, udp] => occupy(address, number(tcp), number(udp)).await,
        ["sockets"] => take_sockets().await,
        _ => panic!("there is no command {arguments:?}"),
    }
}

/// Leases ports; the last so many with an owner each, a process that sleeps. Answers those processes
/// and their ports.
async fn fill(leases: u16, owned: u16) -> Json {
    let bus = inside::bus().await;
    for _ in owned..leases {
        inside::allocate(&bus, "dev").await.unwrap();
    }
    let mut owners = Vec::new();
    for _ in 0..owned {
        let mut sleep = Command::new("sleep");
        sleep.arg("600").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let pid = sleep.spawn().unwrap().id();
        let options = HashMap::from([("pid", Variant::U32(pid))]);
        let reply = inside::call(&bus, "Allocate", &("dev", options)).await.unwrap();
        let (port, ..): (u16, String, HashMap<String, Variant<'_>>) =
            reply.body().deserialize().unwrap();
        owners.push((pid, port));
    }
    json!(owners)
}

/// Releases the leases of these ports.
async fn release(ports: &[u16]) -> Json {
    let bus = inside::bus().await;
    for port in ports {
        let filter = HashMap::from([("port", Variant::U16(*port))]);
        let reply = inside::call(&bus, "ReleaseMatching", &(filter,)).await.unwrap();
        assert_eq!(reply.body().deserialize::<u32>().unwrap(), 1, "{port}");
    }
    Json::Null
}

/// The addresses on which a program may want a port.
const ADDRESSES: [&str; 4] = ["127.0.0.1", "0.0.0.0", "::1", "::"];

/// Which ports can be bound without `SO_REUSEADDR`, for each address.
fn find_free(ports: RangeInclusive<u16>) -> Json {
    let on = |address: &str| -> Vec<u16> {
        let ip = address.parse().unwrap();
        ports
            .clone()
            .filter(|port| bind_socket(SocketAddr::new(ip, *port), false).is_ok())
            .collect()
    };
    json!(HashMap::from(ADDRESSES.map(|address| (address, on(address)))))
}

/// Tries to bind the ports, again and again, until a file is there. Answers what it got.
fn assault(ports: RangeInclusive<u16>, stop: &str) -> Json {
    // Whatever becomes of the test.
    let deadline = Instant::now() + Duration::from_secs(300);
    let mut bound = BTreeSet::new();
    let mut refused = 0;
    std::fs::write(format!("{stop}.begun"), "").unwrap();
    while !Path::new(stop).exists() && Instant::now() < deadline {
        for port in ports.clone() {
            for ip in [Ipv4Addr::LOCALHOST, Ipv4Addr::UNSPECIFIED] {
                match bind_socket(SocketAddr::new(ip.into(), port), false) {
                    Ok(_) => _ = bound.insert(port),
                    Err(_) => refused += 1,
                }
            }
        }
        // The service has to have a chance, too.
        thread::sleep(Duration::from_millis(2));
    }
    json!({"bound": bound, "refused": refused})
}

/// Has a port in TCP and another in UDP, until it is ended.
async fn occupy(address: &str, tcp: u16, udp: u16) -> Json {
    let _listener = TcpListener::bind((address, tcp)).unwrap();
    let _socket = UdpSocket::bind((address, udp)).unwrap();
    tokio::time::sleep(Duration::from_secs(300)).await;
    Json::Null
}

/// Gets sockets handed over and uses them as servers do. Answers the leases.
async fn take_sockets() -> Json {
    let bus = inside::bus().await;
    let (socket, port, tcp_lease) = take_socket(&bus, "tcp").await;
    assert!(!getsockopt(&socket, sockopt::AcceptConn).unwrap(), "it does not listen");
    assert_eq!(getsockopt(&socket, sockopt::SockType).unwrap(), SockType::Stream);
    let everywhere: SocketAddr = (Ipv6Addr::UNSPECIFIED, port).into();
    let local = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port);
    assert_eq!(bind_socket(local, false).unwrap_err(), Errno::EADDRINUSE);
    assert_eq!(bind_socket(everywhere, false).unwrap_err(), Errno::EADDRINUSE);
    assert!(TcpStream::connect(local).is_err(), "nobody listens yet");

    // It listens here, is passed on, and a child accepts.
    listen(&socket, Backlog::new(8).unwrap()).unwrap();
    let accept = "import socket\n\
                  listener = socket.socket(fileno=0)\n\
                  for _ in range(2):\n\
                  \x20   connection, _ = listener.accept()\n\
                  \x20   connection.sendall(b'hello')\n\
                  \x20   connection.close()\n";
    let mut child =
        Command::new("python3").args(["-c", accept]).stdin(Stdio::from(socket)).spawn().unwrap();
    for ip in [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()] {
        let mut stream = TcpStream::connect(SocketAddr::new(ip, port)).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello", "from {ip}");
    }
    assert!(child.wait().unwrap().success());

    let (socket, port, udp_lease) = take_socket(&bus, "udp").await;
    let local = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port);
    let error = UdpSocket::bind(local).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(Errno::EADDRINUSE as i32));
    let socket = UdpSocket::from(socket);
    for from in ["127.0.0.1:0", "[::1]:0"] {
        let client = UdpSocket::bind(from).unwrap();
        client.send_to(b"hello", SocketAddr::new(client.local_addr().unwrap().ip(), port)).unwrap();
        let mut buffer = [0; 16];
        let (length, sender) = socket.recv_from(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"hello");
        socket.send_to(b"welcome", sender).unwrap();
        let length = client.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"welcome");
    }
    // What makes no sense for one socket is refused, and nothing is granted.
    for (option, value) in [
        ("count", Variant::U16(2)),
        ("hold", Variant::from("none")),
        ("dry_run", Variant::Bool(true)),
        ("protocol", Variant::from("both")),
    ] {
        let options = HashMap::from([(option, value)]);
        let error = inside::call(&bus, "AllocateSocket", &("dev", options)).await.unwrap_err();
        assert!(error.contains("Error.InvalidArgument"), "{option}: {error}");
    }
    json!([tcp_lease, udp_lease])
}

async fn take_socket(bus: &Connection, protocol: &str) -> (OwnedFd, u16, String) {
    let options = HashMap::from([("protocol", Variant::from(protocol))]);
    let reply = inside::call(bus, "AllocateSocket", &("dev", options)).await.unwrap();
    let body = reply.body();
    let (socket, port, lease_id, lease): (
        zbus::OwnedFd,
        u16,
        String,
        HashMap<String, Variant<'_>>,
    ) = body.deserialize().unwrap();
    assert_eq!(lease["hold"], Variant::from("socket"));
    let socket = OwnedFd::from(socket);
    let flags = FdFlag::from_bits_retain(fcntl(&socket, FcntlArg::F_GETFD).unwrap());
    assert!(flags.contains(FdFlag::FD_CLOEXEC));
    let address: SockaddrStorage = getsockname(socket.as_raw_fd()).unwrap();
    assert_eq!(address.as_sockaddr_in6().map(|address| address.port()), Some(port));
    (socket, port, lease_id)
}

/// A TCP socket that is bound there, as servers do it (with `SO_REUSEADDR`) or as those do that know
/// nothing of it.
pub fn bind_socket(address: SocketAddr, reuse: bool) -> nix::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let socket = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&socket, sockopt::ReuseAddr, &reuse)?;
    bind(socket.as_raw_fd(), &SockaddrStorage::from(address))?;
    Ok(socket)
}
