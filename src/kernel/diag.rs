//! Which sockets listen: asked of the kernel by `sock_diag(7)`.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::AsRawFd,
};

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};

use crate::{
    port::{Port, PortRange, Protocol},
    registry::PortSet,
};

// linux/netlink.h, linux/sock_diag.h, netinet/in.h, net/tcp_states.h
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLM_F_REQUEST_DUMP: u16 = 0x301;
const HEADER: usize = 16;
const TCP_ESTABLISHED: u32 = 1;
const TCP_CLOSE: u32 = 7;
const TCP_LISTEN: u32 = 10;

/// A socket that listens (TCP) or is bound (UDP).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Socket {
    /// `tcp` or `udp`.
    pub protocol: Protocol,
    /// Its local port.
    pub port: Port,
    /// Its local address; an IPv4 address that is mapped into IPv6 is told as IPv4.
    pub address: IpAddr,
    /// The number that `/proc/PID/fd` shows it by, and which no other socket has; 0 if no process
    /// has it open.
    pub inode: u32,
    /// The user who made it.
    pub uid: u32,
}

/// The ports that something listens on (TCP) or has bound (UDP), on any address; with both
/// protocols, in either. Where the kernel does not tell, every port counts as listened on, so that
/// none is given away by mistake.
pub fn listened(protocol: Protocol) -> PortSet {
    let mut ports = PortSet::default();
    if sockets(protocol, |socket| ports.insert(socket.port)).is_err() {
        let all = Port::new(1).and_then(|first| PortRange::new(first, Port::MAX));
        ports.insert_range(all.expect("1 is below the last port"));
    }
    ports
}

/// Tells of each socket that listens (TCP) or is bound (UDP). One dump for each family and protocol,
/// whatever there is. A socket may be told of twice, if others come and go meanwhile.
///
/// A TCP socket that is bound without listening is not told of, before Linux 6.8 it cannot be.
pub fn sockets(protocol: Protocol, mut tell: impl FnMut(Socket)) -> io::Result<()> {
    for part in protocol.parts() {
        // An UDP socket is "closed" until it is connected.
        let (number, states) = match part {
            Protocol::Udp => (17, 1 << TCP_CLOSE | 1 << TCP_ESTABLISHED),
            Protocol::Tcp | Protocol::Both => (6, 1 << TCP_LISTEN),
        };
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            ask(&request(family, number, states), |message| {
                socket_of(*part, message)?.into_iter().for_each(&mut tell);
                Ok(())
            })?;
        }
    }
    Ok(())
}

/// Asks for a dump, and hands on each message of it.
fn ask(request: &[u8], mut told: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
    #[cfg(test)]
    tests::DUMPS.set(tests::DUMPS.get() + 1);
    let kind = SockFlag::SOCK_CLOEXEC;
    let protocol = SockProtocol::NetlinkSockDiag;
    let socket = socket(AddressFamily::Netlink, SockType::Datagram, kind, protocol)?;
    sendto(socket.as_raw_fd(), request, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
    let mut buffer = vec![0; 32 * 1024];
    loop {
        let length = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        if !messages(&buffer[..length], &mut told)? {
            return Ok(());
        }
    }
}

/// An `inet_diag_req_v2` for all sockets of the family in these states.
fn request(family: AddressFamily, protocol: u8, states: u32) -> [u8; 72] {
    let mut request = [0; 72];
    request[..4].copy_from_slice(&72u32.to_ne_bytes());
    request[4..6].copy_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    request[6..8].copy_from_slice(&NLM_F_REQUEST_DUMP.to_ne_bytes());
    request[16] = family as u8;
    request[17] = protocol;
    request[20..24].copy_from_slice(&states.to_ne_bytes());
    request
}

/// Hands on the messages of one datagram; whether more will come.
fn messages(mut rest: &[u8], told: &mut impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<bool> {
    while rest.len() >= HEADER {
        let length = u32::from_ne_bytes([rest[0], rest[1], rest[2], rest[3]]) as usize;
        let message = rest.get(HEADER..length).ok_or_else(bad)?;
        match u16::from_ne_bytes([rest[4], rest[5]]) {
            // Either begins with an error number; so ends a dump that the kernel cannot make, such as
            // one without udp_diag.
            kind @ (NLMSG_DONE | NLMSG_ERROR) => {
                let errno = message.first_chunk().map_or(0, |bytes| i32::from_ne_bytes(*bytes));
                return match errno {
                    0 if kind == NLMSG_DONE => Ok(false),
                    errno => Err(io::Error::from_raw_os_error(errno.saturating_neg())),
                };
            }
            _ => told(message)?,
        }
        // Messages are aligned to four bytes.
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(true)
}

/// The socket that an `inet_diag_msg` is about; `None` if it has no port.
fn socket_of(protocol: Protocol, message: &[u8]) -> io::Result<Option<Socket>> {
    let message: &[u8; 72] = message.first_chunk().ok_or_else(bad)?;
    let word = |at: usize| [message[at], message[at + 1], message[at + 2], message[at + 3]];
    let Some(port) = Port::new(u16::from_be_bytes([message[4], message[5]]).into()) else {
        return Ok(None);
    };
    let address = if message[0] == AddressFamily::Inet as u8 {
        Ipv4Addr::from(word(8)).into()
    } else {
        let mut address = [0; 16];
        address.copy_from_slice(&message[8..24]);
        Ipv6Addr::from(address).to_canonical()
    };
    let (uid, inode) = (u32::from_ne_bytes(word(64)), u32::from_ne_bytes(word(68)));
    Ok(Some(Socket { protocol, port, address, inode, uid }))
}

fn bad() -> io::Error {
    io::ErrorKind::InvalidData.into()
}

#[cfg(test)]
pub(super) mod tests {
    use std::{
        cell::Cell,
        net::{TcpListener, UdpSocket},
    };

    use super::*;

    thread_local! {
        /// How many dumps this thread has asked for.
        pub static DUMPS: Cell<usize> = const { Cell::new(0) };
    }

    #[test]
    fn listeners_are_seen_on_either_family() {
        for address in ["127.0.0.1:0", "[::1]:0", "[::]:0"] {
            let listener = TcpListener::bind(address).unwrap();
            let port = Port::new(listener.local_addr().unwrap().port().into()).unwrap();
            assert!(listened(Protocol::Tcp).contains(port), "{address}");
            assert!(listened(Protocol::Both).contains(port), "{address}");
            let socket = UdpSocket::bind(address).unwrap();
            let port = Port::new(socket.local_addr().unwrap().port().into()).unwrap();
            assert!(listened(Protocol::Udp).contains(port), "{address}");
        }
    }

    #[test]
    fn a_guard_does_not_count_as_a_listener() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = Port::new(listener.local_addr().unwrap().port().into()).unwrap();
        drop(listener);
        let guard = crate::kernel::probe::probe(port, Protocol::Tcp).unwrap();
        assert!(!listened(Protocol::Tcp).contains(port));
        drop(guard);
    }

    #[test]
    fn a_protocol_that_the_kernel_cannot_tell_of_is_an_error_and_not_an_empty_answer() {
        let request = request(AddressFamily::Inet, 200, u32::MAX);
        assert!(ask(&request, |_| Ok(())).is_err());
    }

    #[test]
    fn an_answer_that_is_cut_or_garbled_is_an_error() {
        let mut told = |message: &[u8]| socket_of(Protocol::Tcp, message).map(drop);
        let mut message = [0; 88];
        message[..4].copy_from_slice(&88u32.to_ne_bytes());
        message[4..6].copy_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
        assert!(messages(&message, &mut told).unwrap());
        assert!(messages(&message[..87], &mut told).is_err());
        for length in [0, 15, 16, 87, 89, u32::MAX] {
            message[..4].copy_from_slice(&length.to_ne_bytes());
            assert!(messages(&message, &mut told).is_err(), "{length}");
        }
    }

    #[test]
    fn more_sockets_than_fit_in_a_datagram_are_all_seen() {
        let sockets: Vec<_> = (0..600).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let seen = listened(Protocol::Tcp);
        for socket in &sockets {
            let port = socket.local_addr().unwrap().port();
            assert!(seen.contains(Port::new(port.into()).unwrap()));
        }
    }
}
