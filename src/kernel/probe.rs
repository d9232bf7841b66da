//! Whether a port is free at this moment, as found out by a bind, never from a cache. Only a port that is to be
//! granted is bound; code that does not grant it uses [`diag`].
//!
//! For TCP a bind of `[::]:port` with `IPV6_V6ONLY=0` and *without* `SO_REUSEADDR` conflicts with every socket on
//! any IPv4 or IPv6 address: listeners, the guards of other users' services, and connections. If it succeeds,
//! `SO_REUSEADDR` is set afterwards: the socket becomes the guard, and servers that set the option, too, can bind
//! the same port (ip(7), ipv6(7), socket(7)).
//!
//! It also conflicts with what a closed listener leaves behind: its connections, and those in `TIME_WAIT`, which
//! block nobody. So a second attempt follows with `SO_REUSEADDR`, which ignores these, but also ignores guards.
//! Guards are detected by an additional socket, the lock: without `SO_REUSEADDR`, on an IPv4 address that no
//! connection ever has. It conflicts with any socket that is bound to all addresses, and with the lock of another
//! service that tries the same port, so whoever holds it is alone. Sockets that are bound to a single address are
//! detected by [`diag`].
//!
//! `SO_REUSEPORT` would hide other listeners of the same user, so it is never set. For UDP the bind is done
//! without `SO_REUSEADDR`, which would share the port instead of failing.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6},
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
    error::Shortage,
    obstacle::{InUse, Obstacle},
    port::{Port, Protocol},
};

/// The address of the lock: in 127/8, and one that no program would choose. It is the same for the services of
/// all users, and must stay the same in every version.
const LOCK: Ipv4Addr = Ipv4Addr::new(127, 115, 116, 121);

/// Reserves a port for a grant, for TCP or UDP: nobody else has it, and no other service can reserve it while the
/// returned socket is open. It keeps out programs that bind without `SO_REUSEADDR`; a TCP server that sets it can
/// bind and listen.
pub fn reserve(port: Port, protocol: Protocol) -> Result<OwnedFd, Obstacle> {
    any_family(port, protocol, |family| match bound(family, protocol, port, false) {
        Ok(socket) if protocol == Protocol::Udp => Ok(socket),
        Ok(socket) => setsockopt(&socket, sockopt::ReuseAddr, &true).map(|()| socket),
        Err(Errno::EADDRINUSE) if protocol != Protocol::Udp => over_what_is_left(family, port),
        Err(errno) => Err(errno),
    })
}

/// Binds the guard of a TCP port despite the connections that a closed listener has left behind, if there is
/// nothing else.
fn over_what_is_left(family: AddressFamily, port: Port) -> Result<OwnedFd, Errno> {
    let lock = lock(port)?;
    // A socket that is bound to a single address, and may be about to listen, conflicts with neither lock nor guard.
    let is_left_behind = diag::is_left_behind(port, LOCK.into());
    match is_left_behind.map_err(|error| (Shortage::of(&error), error.raw_os_error())) {
        Ok(true) => {}
        Err((Some(_), Some(errno))) => return Err(Errno::from_raw(errno)),
        // Also if the kernel does not answer.
        Ok(false) | Err(_) => return Err(Errno::EADDRINUSE),
    }
    // From now on it must not conflict with the guard.
    setsockopt(&lock, sockopt::ReuseAddr, &true)?;
    bound(family, Protocol::Tcp, port, true)
}

/// Reserves a port for every part of the protocol. The socket for TCP comes last.
pub fn reserve_all(port: Port, protocol: Protocol) -> Result<Vec<OwnedFd>, Obstacle> {
    protocol.parts().iter().rev().map(|part| reserve(port, *part)).collect()
}

/// Binds the TCP guard of a lease that has had none for a while, for example after the service was stopped.
/// Sockets that others have bound meanwhile are in the way: the error is `Bound` if nothing listens on the port,
/// so that it cannot be the lease's own server.
pub fn regain(port: Port) -> Result<OwnedFd, Obstacle> {
    let regained = any_family(port, Protocol::Tcp, |family| {
        let lock = lock(port)?;
        // From now on it must not conflict with the guard.
        setsockopt(&lock, sockopt::ReuseAddr, &true)?;
        bound(family, Protocol::Tcp, port, true)
    });
    regained.map_err(|obstacle| match obstacle {
        Obstacle::InUse(_) if !diag::is_listened(port, Protocol::Tcp) => {
            Obstacle::InUse(InUse::Bound)
        }
        obstacle => obstacle,
    })
}

/// Binds the TCP guard of an existing lease. The bind ignores other guards, so it must not be used for a grant;
/// and it never keeps out a server with `SO_REUSEADDR`, not even for a moment.
pub fn rebind(port: Port) -> Result<OwnedFd, Obstacle> {
    any_family(port, Protocol::Tcp, |family| bound(family, Protocol::Tcp, port, true))
}

/// The address by which programs on this machine reach each other: 127.0.0.1, or `::1` where that does not exist.
pub fn loopback() -> IpAddr {
    let four = SockaddrIn::from(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0));
    let four = bind_to(AddressFamily::Inet, SockType::Datagram, &four, |_| Ok(()));
    let six = SockaddrIn6::from(SocketAddrV6::new(Ipv6Addr::LOCALHOST, 0, 0, 0));
    let six = || bind_to(AddressFamily::Inet6, SockType::Datagram, &six, |_| Ok(()));
    let is_missing = |errno| matches!(errno, Errno::EADDRNOTAVAIL | Errno::EAFNOSUPPORT);
    match four {
        Err(errno) if is_missing(errno) && six().is_ok() => Ipv6Addr::LOCALHOST.into(),
        _ => Ipv4Addr::LOCALHOST.into(),
    }
}

/// Binds for IPv6 and IPv4 together, or for IPv4 alone where there is no IPv6.
fn any_family(
    port: Port,
    protocol: Protocol,
    bind: impl Fn(AddressFamily) -> Result<OwnedFd, Errno>,
) -> Result<OwnedFd, Obstacle> {
    let bound = match bind(AddressFamily::Inet6) {
        // IPv6 does not exist, or is disabled by sysctl.
        Err(Errno::EAFNOSUPPORT | Errno::EADDRNOTAVAIL) => {
            // Others may still use IPv6, if only this service is denied it.
            if diag::is_listened(port, protocol) {
                return Err(Obstacle::InUse(InUse::Listener));
            }
            bind(AddressFamily::Inet)
        }
        result => result,
    };
    bound.map_err(|errno| match errno {
        Errno::EACCES | Errno::EPERM => Obstacle::Privileged,
        errno => match Shortage::of(&io::Error::from(errno)) {
            Some(shortage) => Obstacle::Shortage(shortage),
            // No other error may result in a grant, either.
            None => Obstacle::InUse(InUse::Socket),
        },
    })
}

/// Makes sure that the port has no guard, and that no other service is about to bind one, while the returned
/// socket is open.
fn lock(port: Port) -> Result<OwnedFd, Errno> {
    let address = SockaddrIn::from(SocketAddrV4::new(LOCK, port.get()));
    bind_to(AddressFamily::Inet, SockType::Stream, &address, |socket| {
        // The loopback interface may be down, or without IPv4.
        setsockopt(socket, sockopt::IpFreebind, &true)
    })
}

/// A socket that is bound to all addresses of the family; with IPv6, to those of IPv4, too.
fn bound(
    family: AddressFamily,
    protocol: Protocol,
    port: Port,
    reuse: bool,
) -> Result<OwnedFd, Errno> {
    let kind = match protocol {
        Protocol::Udp => SockType::Datagram,
        Protocol::Tcp | Protocol::Both => SockType::Stream,
    };
    let six = SockaddrIn6::from(SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, port.get(), 0, 0));
    let four = SockaddrIn::from(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port.get()));
    let is_six = family == AddressFamily::Inet6;
    let address: &dyn SockaddrLike = if is_six { &six } else { &four };
    bind_to(family, kind, address, |socket| {
        if is_six {
            setsockopt(socket, sockopt::Ipv6V6Only, &false)?;
        }
        if reuse { setsockopt(socket, sockopt::ReuseAddr, &true) } else { Ok(()) }
    })
}

fn bind_to(
    family: AddressFamily,
    kind: SockType,
    address: &dyn SockaddrLike,
    prepare: impl FnOnce(&OwnedFd) -> Result<(), Errno>,
) -> Result<OwnedFd, Errno> {
    let socket = socket(family, kind, SockFlag::SOCK_CLOEXEC, None)?;
    prepare(&socket)?;
    bind(socket.as_raw_fd(), address)?;
    Ok(socket)
}

#[cfg(test)]
mod tests;
