//! Which ports are listened on: asked of the kernel by `sock_diag(7)`.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
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

/// The ports that something listens on (TCP) or has bound (UDP), on any address; with both
/// protocols, in either. Where the kernel does not tell, every port counts as listened on, so that
/// none is given away by mistake.
pub fn listened(protocol: Protocol) -> PortSet {
    let mut ports = PortSet::default();
    for part in protocol.parts() {
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            if dump(family, *part, &mut ports).is_err() {
                let all = Port::new(1).and_then(|first| PortRange::new(first, Port::MAX));
                ports.insert_range(all.expect("1 is below the last port"));
            }
        }
    }
    ports
}

fn dump(family: AddressFamily, part: Protocol, ports: &mut PortSet) -> io::Result<()> {
    // An UDP socket is "closed" until it is connected.
    let (protocol, states) = match part {
        Protocol::Udp => (17, 1 << TCP_CLOSE | 1 << TCP_ESTABLISHED),
        Protocol::Tcp | Protocol::Both => (6, 1 << TCP_LISTEN),
    };
    ask(&request(family, protocol, states), ports)
}

fn ask(request: &[u8], ports: &mut PortSet) -> io::Result<()> {
    let kind = SockFlag::SOCK_CLOEXEC;
    let protocol = SockProtocol::NetlinkSockDiag;
    let socket = socket(AddressFamily::Netlink, SockType::Datagram, kind, protocol)?;
    sendto(socket.as_raw_fd(), request, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
    while read(&socket, ports)? {}
    Ok(())
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

/// Reads one datagram of messages; whether more will come.
fn read(socket: &OwnedFd, ports: &mut PortSet) -> io::Result<bool> {
    let mut buffer = vec![0; 32 * 1024];
    let length = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
    let mut rest = &buffer[..length];
    let bad = || io::Error::from(io::ErrorKind::InvalidData);
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
            // inet_diag_msg: four bytes, then the source port in network order.
            _ => {
                let number = message.get(4..6).ok_or_else(bad)?;
                let number = u16::from_be_bytes([number[0], number[1]]);
                Port::new(number.into()).into_iter().for_each(|port| ports.insert(port));
            }
        }
        // Messages are aligned to four bytes.
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};

    use super::*;

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
        assert!(ask(&request, &mut PortSet::default()).is_err());
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
