//! The sockets that exist, according to `sock_diag(7)`. A query has no side effects, so code that does not grant
//! a port asks here instead of binding it.

use std::{
    cell::Cell,
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use nix::sys::socket::AddressFamily;
use rustix::thread::{CapabilitySet, capabilities};
use wire::{Dumps, Question, bad, messages};

use crate::{
    error::Shortage,
    obstacle::{InUse, Obstacle},
    port::{Port, PortRange, Protocol},
    port_set::PortSet,
};

mod wire;

// net/tcp_states.h
const TCP_ESTABLISHED: u8 = 1;
const TCP_SYN_SENT: u8 = 2;
const TCP_FIN_WAIT1: u8 = 4;
const TCP_FIN_WAIT2: u8 = 5;
const TCP_CLOSE: u8 = 7;
const TCP_CLOSE_WAIT: u8 = 8;
const TCP_LAST_ACK: u8 = 9;
const TCP_LISTEN: u8 = 10;
const TCP_CLOSING: u8 = 11;
/// Bound without listening, since Linux 6.8: requested as if it were a state, and reported as `TCP_CLOSE`.
const TCP_BOUND_INACTIVE: u8 = 13;

/// TCP connections. Without `TIME_WAIT`, which does not block a port.
const CONNECTIONS: [u8; 7] = [
    TCP_ESTABLISHED,
    TCP_SYN_SENT,
    TCP_FIN_WAIT1,
    TCP_FIN_WAIT2,
    TCP_CLOSE_WAIT,
    TCP_LAST_ACK,
    TCP_CLOSING,
];

thread_local! {
    /// Kept open for the next dump of this thread, which can then be made even when no descriptors are left. After
    /// an error it is closed: the rest of its answer might still come.
    static SPARE: Cell<Option<Dumps>> = const { Cell::new(None) };
}

/// A socket that has a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Socket {
    /// `tcp` or `udp`.
    pub protocol: Protocol,
    /// Its local port.
    pub port: Port,
    /// Its local address. An IPv4-mapped IPv6 address is reported as IPv4.
    pub address: IpAddr,
    /// Its inode number, as in `/proc/PID/fd`, which no other socket has; 0 if no process has it open.
    pub inode: u32,
    /// The user who created it.
    pub uid: u32,
    /// What it does with its port.
    pub role: Role,
}

/// What a socket does with its port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It listens (TCP) or is bound (UDP).
    Listener,
    /// TCP: it is bound, and neither listening nor connected. Kernels before 6.8 do not report it.
    Bound,
    /// TCP: it is connected or connecting to this address.
    Connection {
        /// The other end.
        to: SocketAddr,
        /// Whether it still waits for an answer: then nobody has accepted the connection.
        begins: bool,
    },
}

/// The ports that have a listener (TCP) or a bound socket (UDP), on any address; with both protocols, in either.
/// Fails if the kernel does not answer.
pub fn listeners(protocol: Protocol) -> io::Result<PortSet> {
    let mut ports = PortSet::default();
    sockets(protocol, PortRange::ALL, |socket| ports.insert(socket.port))?;
    Ok(ports)
}

/// The same for a decision: if the kernel does not answer, every port counts as listened on, so that none is
/// granted by mistake.
pub fn listened(protocol: Protocol) -> PortSet {
    listeners(protocol).unwrap_or_else(|_| all_ports())
}

/// Whether the port has a listener (TCP) or a bound socket (UDP), on any address; with both protocols, in either.
/// Fails if the kernel does not answer.
pub fn has_listener(port: Port, protocol: Protocol) -> io::Result<bool> {
    let mut has_listener = false;
    sockets(protocol, PortRange::only(port), |_| has_listener = true)?;
    Ok(has_listener)
}

/// The same for a decision: if the kernel does not answer, the port counts as listened on.
pub fn is_listened(port: Port, protocol: Protocol) -> bool {
    has_listener(port, protocol).unwrap_or(true)
}

/// The owner of sockets that are bound and do not listen, as guards are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BoundBy {
    /// Another user.
    Others,
    /// This user, and nobody else.
    Own,
    /// There is no such socket, or the kernel does not report it: those before 6.8 do not.
    Unknown,
}

/// Who has bound the TCP port without listening.
pub fn bound_by(port: Port) -> BoundBy {
    let (own, mut found) = (nix::unistd::geteuid().as_raw(), BoundBy::Unknown);
    let asked = dump(Protocol::Tcp, &[TCP_BOUND_INACTIVE], PortRange::only(port), |socket| {
        if socket.role == Role::Bound && socket.uid != own {
            found = BoundBy::Others;
        } else if socket.role == Role::Bound && found == BoundBy::Unknown {
            found = BoundBy::Own;
        }
    });
    if asked.is_ok() { found } else { BoundBy::Unknown }
}

/// Whether a socket of another user listens on a port (UDP: is bound to it). False if the kernel does not answer.
pub fn is_of_others(port: Port, protocol: Protocol) -> bool {
    let (own, mut is_of_others) = (nix::unistd::geteuid().as_raw(), false);
    let asked = sockets(protocol, PortRange::only(port), |socket| {
        is_of_others |= socket.uid != own;
    });
    asked.is_ok() && is_of_others
}

/// The user who created the TCP socket of this machine with these two addresses; `None` if there is none, or the kernel
/// does not answer.
pub fn user_of(local: SocketAddr, peer: SocketAddr) -> Option<u32> {
    let mut user = None;
    let request = wire::of_connection(local, peer);
    let answered = Dumps::open().and_then(|mut dumps| {
        dumps.ask_once(&request, |message| {
            // In place of a connection that is gone, the kernel finds a listener on its port.
            let socket = socket_of(Protocol::Tcp, message)?;
            let is_it = |role| matches!(role, Role::Connection { to, .. } if to == peer);
            user = socket.filter(|socket| is_it(socket.role)).map(|socket| socket.uid);
            Ok(())
        })
    });
    answered.ok().and(user)
}

/// Whether a server of this user listens on the TCP port, and nobody else's; else what is in the way of a lease for
/// that server.
pub fn adopt(port: Port) -> Result<(), Obstacle> {
    let user = nix::unistd::geteuid().as_raw();
    let (mut is_own, mut is_of_others) = (false, false);
    let asked = sockets(Protocol::Tcp, PortRange::only(port), |socket| {
        is_own |= socket.uid == user;
        is_of_others |= socket.uid != user;
    });
    match asked {
        // Whose listener it is, if there is one, is unknown.
        Err(error) => {
            Err(Shortage::of(&error).map_or(Obstacle::InUse(InUse::Socket), Obstacle::Shortage))
        }
        Ok(()) if is_of_others => Err(Obstacle::InUse(InUse::Listener)),
        Ok(()) if is_own => Ok(()),
        Ok(()) => Err(Obstacle::NoListener),
    }
}

/// All ports.
pub fn all_ports() -> PortSet {
    std::iter::once(PortRange::ALL).collect()
}

/// Calls `tell` for each socket that listens (TCP) or is bound (UDP) on one of the ports. For this the kernel
/// walks through a small table, however many connections there are. A socket may be reported twice if others come
/// and go meanwhile.
pub fn sockets(protocol: Protocol, ports: PortRange, tell: impl FnMut(Socket)) -> io::Result<()> {
    dump(protocol, &[TCP_LISTEN], ports, tell)
}

/// Calls `tell` for each socket that has one of the ports, except those in `TIME_WAIT`. For TCP the kernel walks
/// through its table of connections, which grows with the memory of the machine, even if there are none: 0.15 ms
/// with 262,144 slots.
pub fn all_sockets(
    protocol: Protocol,
    ports: PortRange,
    tell: impl FnMut(Socket),
) -> io::Result<()> {
    let mut states = vec![TCP_LISTEN, TCP_BOUND_INACTIVE];
    states.extend(CONNECTIONS);
    dump(protocol, &states, ports, tell)
}

/// Whether a TCP port is occupied only by connections, in whatever state: what a closed listener leaves behind. A
/// socket on the address `but` does not count.
pub fn is_left_behind(port: Port, but: IpAddr) -> io::Result<bool> {
    let (mut connected, mut bound) = (false, false);
    let states: Vec<_> = (TCP_ESTABLISHED..=TCP_BOUND_INACTIVE).collect();
    dump(Protocol::Tcp, &states, PortRange::only(port), |socket| {
        if socket.address != but {
            match socket.role {
                Role::Listener | Role::Bound => bound = true,
                Role::Connection { .. } => connected = true,
            }
        }
    })?;
    Ok(connected && !bound)
}

/// Calls `tell` for each TCP socket in these states, and for each UDP socket.
fn dump(
    protocol: Protocol,
    tcp: &[u8],
    ports: PortRange,
    mut tell: impl FnMut(Socket),
) -> io::Result<()> {
    let mut dumps = SPARE.take().map_or_else(Dumps::open, Ok)?;
    for part in protocol.parts() {
        // A UDP socket is "closed" until it is connected.
        let (questions, states) = match part {
            Protocol::Udp => {
                (&[Question::Udp4, Question::Udp6][..], &[TCP_CLOSE, TCP_ESTABLISHED][..])
            }
            Protocol::Tcp | Protocol::Both => (&[Question::Tcp][..], tcp),
        };
        let states = states.iter().fold(0, |all, state| all | 1 << state);
        for question in questions {
            dumps.ask(&question.request(states, ports), |message| {
                socket_of(*part, message)?.into_iter().for_each(&mut tell);
                Ok(())
            })?;
        }
    }
    SPARE.set(Some(dumps));
    Ok(())
}

/// The ports that cannot be granted at this moment, as far as that is visible without binding them. A bind would
/// find the same, with two exceptions: kernels before 6.8 do not report a TCP socket that is bound without
/// listening; and no kernel reports which end opened a connection, so [`outgoing`] guesses from the port numbers.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    listened: PortSet,
    bound: PortSet,
    outgoing: PortSet,
    /// The ports that only privileged processes may bind, unless this process is one.
    privileged: Option<PortRange>,
}

impl Seen {
    /// Queries the kernel for these ports only; with both protocols, for what is in the way in either. If the
    /// kernel does not answer, every port counts as listened on.
    pub fn of(protocol: Protocol, ports: PortRange) -> Result<Self, Shortage> {
        Self::asked(protocol, ports).or_else(|error| match Shortage::of(&error) {
            Some(shortage) => Err(shortage),
            None => Ok(Self { listened: all_ports(), ..Self::default() }),
        })
    }

    fn asked(protocol: Protocol, ports: PortRange) -> io::Result<Self> {
        let mut seen = Self { privileged: privileged(ports), ..Self::default() };
        if ports.len() == 1 {
            // A listener settles the question, and is found much faster than the rest.
            sockets(protocol, ports, |socket| seen.listened.insert(socket.port))?;
            if protocol == Protocol::Udp || seen.is_listened(ports.first()) {
                return Ok(seen);
            }
        }
        let mut connections = Vec::new();
        all_sockets(protocol, ports, |socket| match socket.role {
            Role::Listener => seen.listened.insert(socket.port),
            Role::Bound => seen.bound.insert(socket.port),
            // Closed by its program: the rest of a connection, which will soon be gone.
            Role::Connection { .. } if socket.inode == 0 => {}
            Role::Connection { .. } => connections.push(socket),
        })?;
        connections.retain(outgoing(&connections)?);
        seen.outgoing = connections.iter().map(|socket| socket.port).collect();
        Ok(seen)
    }

    /// Whether the port is listened on (TCP) or bound (UDP).
    pub fn is_listened(&self, port: Port) -> bool {
        self.listened.contains(port)
    }

    /// The obstacle to a grant of the port, if any.
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

/// Returns a predicate that is true for connections that were opened by the end here. The data that it needs is
/// only queried if there are any connections. An accepting end inherits `SO_REUSEADDR` from its listener, and
/// blocks nobody when the listener is gone; an opening end most likely did not set it.
///
/// The kernel does not tell the two apart. A socket counts as the opening end if nobody has accepted the
/// connection yet; if the port of the other end is listened on here, or is below 1024, which no opening end has;
/// or else if its own port is in the range that the kernel assigns to outgoing connections.
pub fn outgoing(connections: &[Socket]) -> io::Result<impl Fn(&Socket) -> bool + use<>> {
    let (mut listened, mut ephemeral) = (PortSet::default(), None);
    if !connections.is_empty() {
        sockets(Protocol::Tcp, PortRange::ALL, |socket| listened.insert(socket.port))?;
        ephemeral = super::ephemeral_ports();
    }
    Ok(move |socket: &Socket| {
        let Role::Connection { to, begins } = socket.role else { return false };
        let is_here = to.ip().is_loopback() || to.ip() == socket.address;
        let other = Port::new(to.port().into());
        begins
            || to.port() < 1024
            || is_here && other.is_some_and(|other| listened.contains(other))
            || ephemeral.is_some_and(|range| range.contains(socket.port))
    })
}

/// Those of the ports that this process may not bind (`ip_unprivileged_port_start`, ip(7)); `None` if it has
/// `CAP_NET_BIND_SERVICE` (capabilities(7)).
fn privileged(ports: PortRange) -> Option<PortRange> {
    let start = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").ok();
    let start = start.and_then(|start| start.trim().parse().ok()).unwrap_or(1024_u64);
    let range = PortRange::new(Port::MIN, Port::new(start.checked_sub(1)?)?)?;
    let may = || {
        capabilities(None).is_ok_and(|own| own.effective.contains(CapabilitySet::NET_BIND_SERVICE))
    };
    (range.overlaps(ports) && !may()).then_some(range)
}

/// Adds the ports of the sockets that are reported in one datagram.
pub(super) fn ports(datagram: &[u8], ports: &mut PortSet) -> io::Result<()> {
    let mut add = |message: &[u8]| {
        // The port is the same whatever the protocol.
        ports.extend(socket_of(Protocol::Tcp, message)?.map(|socket| socket.port));
        Ok(())
    };
    messages(datagram, &mut add).map(drop)
}

/// The socket in an `inet_diag_msg`; `None` if it has no port.
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

#[cfg(test)]
pub(super) mod tests {
    use std::{
        net::{TcpListener, TcpStream, UdpSocket},
        os::fd::OwnedFd,
    };

    pub use super::wire::tests::DUMPS;
    use super::*;

    fn port_of(listener: &TcpListener) -> Port {
        Port::new(listener.local_addr().unwrap().port().into()).unwrap()
    }

    /// The guard of a port that nobody else uses.
    fn guarded() -> (OwnedFd, Port) {
        loop {
            let port = port_of(&TcpListener::bind("[::]:0").unwrap());
            if let Ok(guard) = crate::kernel::probe::reserve(port, Protocol::Tcp) {
                return (guard, port);
            }
        }
    }

    #[test]
    fn a_listener_is_found_by_one_small_look_and_anything_else_takes_one_more() {
        let ask = |port| {
            DUMPS.set(0);
            let seen = Seen::of(Protocol::Tcp, PortRange::only(port)).unwrap();
            (seen.obstacle(port), DUMPS.get())
        };
        let listener = TcpListener::bind("[::]:0").unwrap();
        assert_eq!(ask(port_of(&listener)), (Some(Obstacle::InUse(InUse::Listener)), 1));
        let (_guard, port) = guarded();
        assert_eq!(ask(port), (Some(Obstacle::InUse(InUse::Bound)), 2));
    }

    #[test]
    fn the_kernel_leaves_out_the_sockets_of_other_ports() {
        let sockets = [
            TcpListener::bind("127.0.0.1:0").unwrap(),
            TcpListener::bind("127.0.0.1:0").unwrap(),
            TcpListener::bind("[::1]:0").unwrap(),
        ];
        let mut ports: Vec<_> = sockets.iter().map(port_of).collect();
        ports.sort_unstable();
        let ask = |first, last| {
            let mut told = Vec::new();
            let range = PortRange::new(first, last).unwrap();
            super::sockets(Protocol::Tcp, range, |socket| told.push(socket.port)).unwrap();
            assert!(told.iter().all(|port| range.contains(*port)), "{range}: {told:?}");
            told
        };
        for port in &ports {
            assert!(!ask(*port, *port).is_empty());
        }
        let all = ask(ports[0], ports[2]);
        assert!(ports.iter().all(|port| all.contains(port)));
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = Port::new(udp.local_addr().unwrap().port().into()).unwrap();
        assert!(is_listened(port, Protocol::Udp) && is_listened(port, Protocol::Both));
        assert!(Seen::of(Protocol::Udp, PortRange::only(port)).unwrap().is_listened(port));
    }

    #[test]
    fn either_end_of_a_connection_is_seen_on_its_port() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(address).unwrap();
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let port = Port::new(client.local_addr().unwrap().port().into()).unwrap();
            let seen = Seen::of(Protocol::Tcp, PortRange::only(port)).unwrap();
            assert_eq!(seen.obstacle(port), Some(Obstacle::InUse(InUse::Connection)), "{address}");
        }
    }

    #[test]
    fn the_user_of_a_connection_is_found_by_its_addresses() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(address).unwrap();
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (own, peer) = (client.local_addr().unwrap(), client.peer_addr().unwrap());
            assert_eq!(user_of(own, peer), Some(nix::unistd::geteuid().as_raw()), "{address}");
            // There is a listener on that port, but no such connection.
            assert_eq!(user_of(peer, peer), None, "{address}");
        }
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
        let (_guard, port) = guarded();
        assert!(!is_listened(port, Protocol::Tcp));
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
