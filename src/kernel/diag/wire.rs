//! The wire format of `sock_diag(7)`: requests, filters and answers over netlink(7), as in `linux/inet_diag.h`.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsRawFd, OwnedFd},
};

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};

use crate::port::PortRange;

// linux/netlink.h, linux/sock_diag.h, linux/inet_diag.h, netinet/in.h
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_REQUEST_DUMP: u16 = 0x301;
const HEADER: usize = 16;
const TCPDIAG_GETSOCK: u16 = 18;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const INET_DIAG_REQ_BYTECODE: u16 = 1;
const INET_DIAG_BC_S_GE: u8 = 2;
const INET_DIAG_BC_S_LE: u8 = 3;
const IPPROTO_TCP: u8 = 6;
const IPPROTO_UDP: u8 = 17;

/// The sockets that a dump lists.
#[derive(Clone, Copy, Debug)]
pub(super) enum Question {
    /// TCP over IPv4 and IPv6. Only the older kind of request includes both, and each request makes the kernel
    /// walk through all connections.
    Tcp,
    /// UDP over IPv4.
    Udp4,
    /// UDP over IPv6.
    Udp6,
}

impl Question {
    /// The request for the sockets in these states (a bit each) that have one of the ports.
    pub(super) fn request(self, states: u32, ports: PortRange) -> Vec<u8> {
        let request = match self {
            // An `inet_diag_req`: family, lengths of addresses, extensions; the socket; states; unused.
            Self::Tcp => message(TCPDIAG_GETSOCK, &[&[0; 52], &states.to_ne_bytes(), &[0; 4]]),
            Self::Udp4 => by_family(AddressFamily::Inet, IPPROTO_UDP, states),
            Self::Udp6 => by_family(AddressFamily::Inet6, IPPROTO_UDP, states),
        };
        if ports == PortRange::ALL { request } else { filtered(request, ports) }
    }
}

/// An `inet_diag_req_v2`: family, protocol, extensions, padding; states; the socket.
fn by_family(family: AddressFamily, protocol: u8, states: u32) -> Vec<u8> {
    let head = [family as u8, protocol, 0, 0];
    message(SOCK_DIAG_BY_FAMILY, &[&head, &states.to_ne_bytes(), &[0; 48]])
}

/// The request for one TCP socket, by its addresses: an `inet_diag_req_v2` whose `inet_diag_sockid` is full. The cookie
/// is `INET_DIAG_NOCOOKIE`.
pub(super) fn of_connection(local: SocketAddr, peer: SocketAddr) -> Vec<u8> {
    let family = if local.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let octets = |address: SocketAddr| {
        let mut octets = [0; 16];
        match address.ip() {
            IpAddr::V4(ip) => octets[..4].copy_from_slice(&ip.octets()),
            IpAddr::V6(ip) => octets = ip.octets(),
        }
        octets
    };
    let body: [&[u8]; 8] = [
        &[family as u8, IPPROTO_TCP, 0, 0],
        &u32::MAX.to_ne_bytes(),
        &local.port().to_be_bytes(),
        &peer.port().to_be_bytes(),
        &octets(local),
        &octets(peer),
        &[0; 4],
        &[0xff; 8],
    ];
    flagged(SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST, &body)
}

/// A request for a dump.
fn message(kind: u16, body: &[&[u8]]) -> Vec<u8> {
    flagged(kind, NLM_F_REQUEST_DUMP, body)
}

fn flagged(kind: u16, flags: u16, body: &[&[u8]]) -> Vec<u8> {
    let mut message = vec![0; 4];
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.resize(HEADER, 0);
    body.iter().for_each(|part| message.extend(*part));
    set_length(message)
}

fn set_length(mut message: Vec<u8>) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    message[..4].copy_from_slice(&length.to_ne_bytes());
    message
}

/// Adds a filter to a request: an attribute that holds a program of `inet_diag_bc_op`. Each comparison takes two
/// steps, of which the second holds the port. The jumps are in bytes: if the comparison holds, to the next one;
/// if not, to one step behind the end, which drops the socket.
fn filtered(mut request: Vec<u8>, ports: PortRange) -> Vec<u8> {
    let step = |code: u8, yes: u8, no: u16| {
        let [first, second] = no.to_ne_bytes();
        [code, yes, first, second]
    };
    let program = [
        step(INET_DIAG_BC_S_GE, 8, 20),
        step(0, 0, ports.first().get()),
        step(INET_DIAG_BC_S_LE, 8, 12),
        step(0, 0, ports.last().get()),
    ];
    request.extend(20_u16.to_ne_bytes());
    request.extend(INET_DIAG_REQ_BYTECODE.to_ne_bytes());
    request.extend(program.as_flattened());
    set_length(request)
}

/// The socket for dumps, one after the other, and the memory for their answers.
pub(super) struct Dumps {
    socket: OwnedFd,
    buffer: Vec<u8>,
}

impl Dumps {
    pub(super) fn open() -> io::Result<Self> {
        let kind = SockFlag::SOCK_CLOEXEC;
        let protocol = SockProtocol::NetlinkSockDiag;
        let socket = socket(AddressFamily::Netlink, SockType::Datagram, kind, protocol)?;
        // As much as the kernel puts into one datagram.
        Ok(Self { socket, buffer: vec![0; 32 * 1024] })
    }

    /// Requests a dump, and calls `told` for each of its messages. After an error, the socket must not be used again.
    pub(super) fn ask(
        &mut self,
        request: &[u8],
        mut told: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        #[cfg(test)]
        tests::DUMPS.set(tests::DUMPS.get() + 1);
        let socket = self.socket.as_raw_fd();
        sendto(socket, request, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
        loop {
            let length = recv(socket, &mut self.buffer, MsgFlags::empty())?;
            if !messages(&self.buffer[..length], &mut told)? {
                return Ok(());
            }
        }
    }

    /// Requests what is answered by one message, and calls `told` for it.
    pub(super) fn ask_once(
        &mut self,
        request: &[u8],
        mut told: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let socket = self.socket.as_raw_fd();
        sendto(socket, request, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
        let length = recv(socket, &mut self.buffer, MsgFlags::empty())?;
        messages(&self.buffer[..length], &mut told).map(drop)
    }
}

/// Calls `told` for each message of one datagram. Returns whether more datagrams follow.
pub(super) fn messages(
    mut rest: &[u8],
    told: &mut impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<bool> {
    while rest.len() >= HEADER {
        let length = u32::from_ne_bytes([rest[0], rest[1], rest[2], rest[3]]) as usize;
        let message = rest.get(HEADER..length).ok_or_else(bad)?;
        match u16::from_ne_bytes([rest[4], rest[5]]) {
            // Both begin with an error number. A dump that the kernel cannot make ends like this, for example
            // without udp_diag.
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

pub(super) fn bad() -> io::Error {
    io::ErrorKind::InvalidData.into()
}

#[cfg(test)]
pub(in crate::kernel) mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::port::Protocol;

    thread_local! {
        /// The number of dumps that this thread has requested.
        pub static DUMPS: Cell<usize> = const { Cell::new(0) };
    }

    #[test]
    fn a_protocol_that_the_kernel_cannot_tell_of_is_an_error_and_not_an_empty_answer() {
        let request = by_family(AddressFamily::Inet, 200, u32::MAX);
        assert!(Dumps::open().unwrap().ask(&request, |_| Ok(())).is_err());
    }

    #[test]
    fn an_answer_that_is_cut_or_garbled_is_an_error() {
        let mut told = |message: &[u8]| super::super::socket_of(Protocol::Tcp, message).map(drop);
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
}
