use std::net::{TcpListener, TcpStream, UdpSocket};

use super::*;

fn port_of(listener: &TcpListener) -> Port {
    Port::new(listener.local_addr().unwrap().port().into()).unwrap()
}

/// Retries for five seconds, far less than `TIME_WAIT`: a child that another test has forked has all sockets of
/// this process until it calls exec.
fn soon<T, E: std::fmt::Debug>(attempt: impl Fn() -> Result<T, E>) -> T {
    let mut tries = (0..1_000).map(|_| {
        attempt().inspect_err(|_| std::thread::sleep(std::time::Duration::from_millis(5)))
    });
    tries.find_map(Result::ok).unwrap_or_else(|| attempt().unwrap())
}

#[test]
fn a_listener_on_any_address_is_found() {
    for address in ["127.0.0.1:0", "0.0.0.0:0", "[::1]:0", "[::]:0", "127.0.0.2:0"] {
        let listener = TcpListener::bind(address).unwrap();
        let port = port_of(&listener);
        assert_eq!(
            reserve(port, Protocol::Tcp).unwrap_err(),
            Obstacle::InUse(InUse::Socket),
            "{address}"
        );
        assert!(reserve(port, Protocol::Udp).is_ok(), "{address}");
    }
}

#[test]
fn beside_a_guard_there_is_room_for_another_one_only_if_nothing_listens() {
    let port = port_of(&TcpListener::bind("127.0.0.1:0").unwrap());
    let _guard = soon(|| reserve(port, Protocol::Tcp));
    for address in ["127.0.0.1", "0.0.0.0", "::1", "::", "127.0.0.2"] {
        drop(soon(|| rebind(port)));
        let listener = soon(|| TcpListener::bind((address, port.get())));
        assert_eq!(rebind(port).unwrap_err(), Obstacle::InUse(InUse::Socket), "{address}");
        drop(listener);
    }
}

#[test]
fn a_bound_udp_socket_is_found_on_any_address() {
    for address in ["127.0.0.1:0", "0.0.0.0:0", "[::1]:0", "[::]:0"] {
        let socket = UdpSocket::bind(address).unwrap();
        let port = Port::new(socket.local_addr().unwrap().port().into()).unwrap();
        assert_eq!(
            reserve(port, Protocol::Udp).unwrap_err(),
            Obstacle::InUse(InUse::Socket),
            "{address}"
        );
    }
}

#[test]
fn a_connection_that_was_closed_just_now_does_not_keep_its_port() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = port_of(&listener);
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (server, _) = listener.accept().unwrap();
    // The side that closes first is left in TIME_WAIT.
    drop(server);
    drop(client);
    drop(listener);
    soon(|| reserve(port, Protocol::Tcp));
}

#[test]
fn a_held_probe_keeps_out_a_plain_bind_and_lets_in_one_that_reuses() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = port_of(&listener);
    drop(listener);
    let held = soon(|| reserve(port, Protocol::Tcp));
    // The standard library sets SO_REUSEADDR.
    assert!(TcpListener::bind(("127.0.0.1", port.get())).is_ok());
    let plain = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None);
    let plain = plain.unwrap();
    let address = SockaddrIn::from(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port.get()));
    assert_eq!(bind(plain.as_raw_fd(), &address), Err(Errno::EADDRINUSE));
    drop(held);
    soon(|| bind(plain.as_raw_fd(), &address));
}
