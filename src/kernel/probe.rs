//! Whether a port is free at this moment: asked of the kernel by a bind, never of a cache.
//!
//! For TCP one bind of `[::]:port` with `IPV6_V6ONLY=0` and `SO_REUSEADDR` conflicts with every
//! listener on any address of IPv4 or IPv6, and passes over sockets in `TIME_WAIT` (ip(7), ipv6(7),
//! socket(7)). `SO_REUSEPORT` would hide other listeners of the same user, so it is never set.
//! For UDP the bind goes without `SO_REUSEADDR`, which would share the port instead of failing.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6},
    os::fd::{AsRawFd, OwnedFd},
};

use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, SockFlag, SockType, SockaddrIn, SockaddrIn6, SockaddrLike, bind, setsockopt,
        socket, sockopt,
    },
};

use super::diag;
use crate::{
    port::{Port, Protocol},
    registry::Obstacle,
};

/// Asks whether the port is free for TCP or UDP. The bound socket is given back; while it lives, it keeps out
/// whoever binds without `SO_REUSEADDR`.
pub fn probe(port: Port, protocol: Protocol) -> Result<OwnedFd, Obstacle> {
    let both = SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, port.get(), 0, 0);
    match bound(AddressFamily::Inet6, protocol, &SockaddrIn6::from(both)) {
        // Without IPv6: no such family, or no such address when it is switched off by sysctl.
        Err(Errno::EAFNOSUPPORT | Errno::EADDRNOTAVAIL) => {
            // Others may still have it, if it is only denied to this service.
            if diag::listened(protocol).contains(port) {
                return Err(Obstacle::InUse);
            }
            let any = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port.get());
            bound(AddressFamily::Inet, protocol, &SockaddrIn::from(any))
        }
        result => result,
    }
    .map_err(|errno| match errno {
        Errno::EACCES | Errno::EPERM => Obstacle::Privileged,
        // Anything else, such as a lack of descriptors, must not end in a grant either.
        _ => Obstacle::InUse,
    })
}

/// Asks whether the port is free in every part of the protocol. The bound sockets are given back, the
/// one for TCP last.
pub fn probe_all(port: Port, protocol: Protocol) -> Result<Vec<OwnedFd>, Obstacle> {
    protocol.parts().iter().rev().map(|part| probe(port, *part)).collect()
}

fn bound(
    family: AddressFamily,
    protocol: Protocol,
    address: &dyn SockaddrLike,
) -> Result<OwnedFd, Errno> {
    let kind = match protocol {
        Protocol::Udp => SockType::Datagram,
        Protocol::Tcp | Protocol::Both => SockType::Stream,
    };
    let socket = socket(family, kind, SockFlag::SOCK_CLOEXEC, None)?;
    if family == AddressFamily::Inet6 {
        setsockopt(&socket, sockopt::Ipv6V6Only, &false)?;
    }
    if kind == SockType::Stream {
        setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    }
    bind(socket.as_raw_fd(), address)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};

    use super::*;

    fn port_of(listener: &TcpListener) -> Port {
        Port::new(listener.local_addr().unwrap().port().into()).unwrap()
    }

    #[test]
    fn a_listener_on_any_address_is_found() {
        for address in ["127.0.0.1:0", "0.0.0.0:0", "[::1]:0", "[::]:0", "127.0.0.2:0"] {
            let listener = TcpListener::bind(address).unwrap();
            let port = port_of(&listener);
            assert_eq!(probe(port, Protocol::Tcp).unwrap_err(), Obstacle::InUse, "{address}");
            assert!(probe(port, Protocol::Udp).is_ok(), "{address}");
        }
    }

    #[test]
    fn a_bound_udp_socket_is_found_on_any_address() {
        for address in ["127.0.0.1:0", "0.0.0.0:0", "[::1]:0", "[::]:0"] {
            let socket = UdpSocket::bind(address).unwrap();
            let port = Port::new(socket.local_addr().unwrap().port().into()).unwrap();
            assert_eq!(probe(port, Protocol::Udp).unwrap_err(), Obstacle::InUse, "{address}");
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
        assert!(probe(port, Protocol::Tcp).is_ok());
    }

    #[test]
    fn a_held_probe_keeps_out_a_plain_bind_and_lets_in_one_that_reuses() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = port_of(&listener);
        drop(listener);
        let held = probe(port, Protocol::Tcp).unwrap();
        // The standard library sets SO_REUSEADDR.
        assert!(TcpListener::bind(("127.0.0.1", port.get())).is_ok());
        let plain = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None);
        let plain = plain.unwrap();
        let address = SockaddrIn::from(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port.get()));
        assert_eq!(bind(plain.as_raw_fd(), &address), Err(Errno::EADDRINUSE));
        drop(held);
        assert_eq!(bind(plain.as_raw_fd(), &address), Ok(()));
    }
}
