//! Which sockets there are: asked of the kernel by `sock_diag(7)`. Only asking changes nothing for
//! anybody, so whoever does not grant a port asks here, and binds nothing.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::AsRawFd,
};

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};

use crate::{
    error::Shortage,
    port::{Port, PortRange, Protocol},
    registry::{InUse, Obstacle, PortSet},
};

// linux/netlink.h, linux/sock_diag.h, netinet/in.h, net/tcp_states.h
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLM_F_REQUEST_DUMP: u16 = 0x301;
const HEADER: usize = 16;
const TCP_ESTABLISHED: u8 = 1;
const TCP_SYN_SENT: u8 = 2;
const TCP_FIN_WAIT1: u8 = 4;
const TCP_FIN_WAIT2: u8 = 5;
const TCP_CLOSE: u8 = 7;
const TCP_CLOSE_WAIT: u8 = 8;
const TCP_LAST_ACK: u8 = 9;
const TCP_LISTEN: u8 = 10;
const TCP_CLOSING: u8 = 11;
/// Bound without listening, since Linux 6.8: asked for as if it were a state, and told as `TCP_CLOSE`.
const TCP_BOUND_INACTIVE: u8 = 13;

/// TCP connections. Without `TIME_WAIT`, which keeps nobody from a port.
const CONNECTIONS: [u8; 7] = [
    TCP_ESTABLISHED,
    TCP_SYN_SENT,
    TCP_FIN_WAIT1,
    TCP_FIN_WAIT2,
    TCP_CLOSE_WAIT,
    TCP_LAST_ACK,
    TCP_CLOSING,
];

/// linux/capability.h
const CAP_NET_BIND_SERVICE: u32 = 10;

/// A socket that has a port.
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
    /// What it does with its port.
    pub role: Role,
}

/// What a socket does with its port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It listens (TCP) or is bound (UDP).
    Listener,
    /// TCP: it is bound, and neither listens nor is connected. Kernels before 6.8 do not tell of it.
    Bound,
    /// TCP: it is connected, or connects, to that address.
    Connection {
        /// The other end.
        to: SocketAddr,
        /// Whether it still waits for an answer: then nobody has accepted it.
        begins: bool,
    },
}

/// The ports that something listens on (TCP) or has bound (UDP), on any address; with both
/// protocols, in either. Where the kernel does not tell, every port counts as listened on, so that
/// none is given away by mistake.
pub fn listened(protocol: Protocol) -> PortSet {
    let mut ports = PortSet::default();
    let asked = sockets(protocol, |socket| ports.insert(socket.port));
    asked.map_or_else(|_| all_ports(), |()| ports)
}

/// Every port there is.
pub(super) fn all_ports() -> PortSet {
    PortRange::new(Port::MIN, Port::MAX).into_iter().collect()
}

/// Tells of each socket that listens (TCP) or is bound (UDP). One dump for each family and protocol,
/// whatever there is. A socket may be told of twice, if others come and go meanwhile.
pub fn sockets(protocol: Protocol, tell: impl FnMut(Socket)) -> io::Result<()> {
    dump(protocol, &[TCP_LISTEN], tell)
}

/// Tells of each socket that has a port, but for those that only wait for the end of their
/// connection. As many dumps as for the listeners alone.
pub fn all_sockets(protocol: Protocol, tell: impl FnMut(Socket)) -> io::Result<()> {
    let mut states = vec![TCP_LISTEN, TCP_BOUND_INACTIVE];
    states.extend(CONNECTIONS);
    dump(protocol, &states, tell)
}

/// Whether connections, of whatever age, are all that a TCP port is taken by: what a listener leaves behind
/// when it is closed. A socket on the address `but` does not count.
pub fn is_left_behind(port: Port, but: IpAddr) -> io::Result<bool> {
    let (mut connected, mut bound) = (false, false);
    let states: Vec<_> = (TCP_ESTABLISHED..=TCP_BOUND_INACTIVE).collect();
    dump(Protocol::Tcp, &states, |socket| {
        if socket.port == port && socket.address != but {
            match socket.role {
                Role::Listener | Role::Bound => bound = true,
                Role::Connection { .. } => connected = true,
            }
        }
    })?;
    Ok(connected && !bound)
}

/// Tells of the sockets in these states of TCP, and of every one of UDP.
fn dump(protocol: Protocol, tcp: &[u8], mut tell: impl FnMut(Socket)) -> io::Result<()> {
    for part in protocol.parts() {
        // An UDP socket is "closed" until it is connected.
        let (number, states) = match part {
            Protocol::Udp => (17, &[TCP_CLOSE, TCP_ESTABLISHED][..]),
            Protocol::Tcp | Protocol::Both => (6, tcp),
        };
        let states = states.iter().fold(0, |all, state| all | 1 << state);
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            ask(&request(family, number, states), |message| {
                socket_of(*part, message)?.into_iter().for_each(&mut tell);
                Ok(())
            })?;
        }
    }
    Ok(())
}

/// Which ports have something in the way of a grant at this moment, as far as that can be seen
/// without binding them. It is what a bind would meet, but for a TCP socket that is bound without
/// listening where the kernel does not tell of such (before Linux 6.8), and for connections: which end
/// of one took its port on purpose is not told, so [`is_outgoing`] goes by the numbers.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    listened: PortSet,
    bound: PortSet,
    outgoing: PortSet,
    /// The ports that ordinary users may not bind, if this process is one's.
    privileged: Option<PortRange>,
}

impl Seen {
    /// Asks the kernel; with both protocols, what is in the way in either. Where the kernel does not tell,
    /// every port counts as listened on.
    pub fn of(protocol: Protocol) -> Result<Self, Shortage> {
        Self::asked(protocol).or_else(|error| match Shortage::of(&error) {
            Some(shortage) => Err(shortage),
            None => Ok(Self { listened: all_ports(), ..Self::default() }),
        })
    }

    fn asked(protocol: Protocol) -> io::Result<Self> {
        let mut seen = Self { privileged: privileged(), ..Self::default() };
        let mut connections = Vec::new();
        all_sockets(protocol, |socket| match socket.role {
            Role::Listener => seen.listened.insert(socket.port),
            Role::Bound => seen.bound.insert(socket.port),
            // Closed by its program: the rest of a connection, and soon nothing.
            Role::Connection { .. } if socket.inode == 0 => {}
            Role::Connection { .. } => connections.push(socket),
        })?;
        if !connections.is_empty() {
            let ephemeral = super::ephemeral_ports();
            connections.retain(|socket| is_outgoing(socket, &seen.listened, ephemeral));
            seen.outgoing = connections.iter().map(|socket| socket.port).collect();
        }
        Ok(seen)
    }

    /// Whether the port is listened on (TCP) or bound (UDP).
    pub fn is_listened(&self, port: Port) -> bool {
        self.listened.contains(port)
    }

    /// What is in the way of a grant of the port, if anything is.
    pub fn obstacle(&self, port: Port) -> Option<Obstacle> {
        if self.privileged.is_some_and(|range| range.contains(port)) {
            return Some(Obstacle::Privileged);
        }
        [
            (&self.listened, InUse::Listener),
            (&self.bound, InUse::Bound),
            (&self.outgoing, InUse::Connection),
        ]
        .into_iter()
        .find_map(|(ports, by)| ports.contains(port).then_some(Obstacle::InUse(by)))
    }
}

/// Whether a socket is the end of a connection that began it. The other end inherits `SO_REUSEADDR` from
/// its listener, and is in nobody's way when that has gone; this one most likely did not set it.
///
/// The kernel does not tell the two apart. It is taken for the beginner if nobody has accepted it yet; if
/// the other end is a port that is listened on here, or one below 1024, which no beginner has; or else if
/// its own port is one of those that the kernel hands out.
pub fn is_outgoing(socket: &Socket, listened: &PortSet, ephemeral: Option<PortRange>) -> bool {
    let Role::Connection { to, begins } = socket.role else { return false };
    let is_here = to.ip().is_loopback() || to.ip() == socket.address;
    let other = Port::new(to.port().into());
    begins
        || to.port() < 1024
        || is_here && other.is_some_and(|other| listened.contains(other))
        || ephemeral.is_some_and(|range| range.contains(socket.port))
}

/// The ports that this process may not bind (`ip_unprivileged_port_start`, ip(7)); `None` with the
/// capability (capabilities(7)).
fn privileged() -> Option<PortRange> {
    let start = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").ok();
    let start = start.and_then(|start| start.trim().parse().ok()).unwrap_or(1024_u64);
    let last = Port::new(start.checked_sub(1)?)?;
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|set| u64::from_str_radix(set.trim(), 16).ok()).unwrap_or(0);
    if effective & 1 << CAP_NET_BIND_SERVICE != 0 {
        return None;
    }
    PortRange::new(Port::MIN, last)
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

/// Adds the ports of the sockets that the messages of one datagram are about.
pub(super) fn ports(datagram: &[u8], ports: &mut PortSet) -> io::Result<()> {
    let mut add = |message: &[u8]| {
        // Which protocol it was makes no difference to the port.
        ports.extend(socket_of(Protocol::Tcp, message)?.map(|socket| socket.port));
        Ok(())
    };
    messages(datagram, &mut add).map(drop)
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
    let address = |at: usize| -> IpAddr {
        if message[0] == AddressFamily::Inet as u8 {
            return Ipv4Addr::from(word(at)).into();
        }
        let mut address = [0; 16];
        address.copy_from_slice(&message[at..at + 16]);
        Ipv6Addr::from(address).to_canonical()
    };
    let role = match (protocol, message[1]) {
        (Protocol::Udp, _) | (_, TCP_LISTEN) => Role::Listener,
        (_, TCP_CLOSE | TCP_BOUND_INACTIVE) => Role::Bound,
        (_, state) => {
            let to = SocketAddr::new(address(24), u16::from_be_bytes([message[6], message[7]]));
            Role::Connection { to, begins: state == TCP_SYN_SENT }
        }
    };
    let (uid, inode) = (u32::from_ne_bytes(word(64)), u32::from_ne_bytes(word(68)));
    Ok(Some(Socket { protocol, port, address: address(8), inode, uid, role }))
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
        let guard = crate::kernel::probe::reserve(port, Protocol::Tcp).unwrap();
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
