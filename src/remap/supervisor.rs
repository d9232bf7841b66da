//! The supervisor: receives calls of bind and connect, and makes them with the real port.
//!
//! One thread answers all calls. It never blocks: a blocking connection is only begun here, and the program, whose own call the
//! kernel then continues, waits for it itself. So signals, time limits and SIGKILL have their usual effect.

use std::{
    collections::HashSet,
    fs,
    io::{IoSlice, IoSliceMut},
    net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    sync::Arc,
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, OFlag, fcntl},
    sys::{
        socket::{
            AddressFamily, MsgFlags, SockFlag, SockType, SockaddrIn, SockaddrIn6, SockaddrLike,
            SockaddrStorage, bind, connect, getsockname, sendmsg, setsockopt, socket,
            sockopt::{Ipv6V6Only, ReuseAddr},
        },
        uio::{RemoteIoVec, process_vm_readv, process_vm_writev},
    },
    unistd::Pid,
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open},
};

use super::{
    address::{LONGEST, Local, bytes, parse},
    control::{Channel, Said},
    filter::{ARCHITECTURES, Call, MULTIPLEXED},
    seccomp::{self, Answer, Notification},
    table::{Bind, Connect, Found, Mapping, Reached, Table},
};
use crate::{
    kernel::{network, probe, process},
    port::{Port, Protocol},
};

/// What the supervisor asks the service.
pub trait Service {
    /// Leases a port for this one, or joins in the lease that the project has for it; `Err` says why not.
    fn lease(&mut self, protocol: Protocol, asked: Port) -> Result<Mapping, String>;
    /// The lease of a real port that this process holds, as the service has answered it.
    fn answer(&self, port: Port) -> serde_json::Value;
    /// Who has this port.
    fn find(&mut self, protocol: Protocol, port: Port) -> Result<Found, String>;
    /// Has the service give up the guard of a leased port, which this process keeps from now on; false if it has none.
    fn keep(&mut self, port: Port) -> Result<bool, String>;
    /// Gives a mapping back whose port somebody else has, and leases another one.
    fn another(&mut self, mapping: Mapping) -> Result<Mapping, String>;
    /// What gives all leases back, on any thread.
    fn give_back(&self) -> impl FnOnce() + Send + 'static;
}

/// A call, as far as it is of interest: the caller's descriptor, and the next arguments.
#[derive(Clone, Copy, Debug)]
struct Asked {
    call: Call,
    descriptor: i32,
    /// Where the address is.
    address: u64,
    /// Its length, or where that is.
    length: u64,
}

/// Why a port could not be bound.
enum NotBound {
    /// As the kernel has it.
    As(Errno),
    /// Somebody else has it.
    Lost,
}

impl From<Errno> for NotBound {
    fn from(errno: Errno) -> Self {
        Self::As(errno)
    }
}

/// How many other ports are tried for one call.
const OTHERS: usize = 3;

/// A datagram in the caller's memory.
struct Message {
    address: u64,
    length: usize,
    /// Places and lengths.
    parts: Vec<(u64, usize)>,
    flags: i32,
}

/// The size of `struct msghdr`, in bytes.
const MESSAGE: usize = size_of::<nix::libc::msghdr>();
/// The longest datagram, in bytes.
const DATAGRAM: usize = 65_535;
/// `UIO_MAXIOV`.
const MOST_PARTS: usize = 1_024;

/// Answers the calls of one tree of processes.
pub struct Supervisor<S> {
    listener: OwnedFd,
    table: Table,
    service: S,
    local: Local,
    /// A port that nobody listens on: whoever is not to reach a port is connected to this one, and refused by the kernel.
    dead: (Port, OwnedFd),
    /// The network namespace of this process, whose ports alone are mapped.
    network: Option<u64>,
    front: Arc<Channel>,
    /// What was said of a port.
    said: HashSet<(Protocol, Port)>,
    /// The mappings that were used and told.
    bound: HashSet<(Protocol, Port, Port)>,
    unreadable: HashSet<String>,
}

impl<S: Service> Supervisor<S> {
    /// A supervisor for the calls that come from this descriptor.
    pub fn new(
        listener: OwnedFd,
        table: Table,
        service: S,
        front: Arc<Channel>,
    ) -> Result<Self, Errno> {
        Ok(Self {
            listener,
            table,
            service,
            local: Local::of_this_machine(),
            dead: dead_port()?,
            network: network::cookie().ok(),
            front,
            said: HashSet::new(),
            bound: HashSet::new(),
            unreadable: HashSet::new(),
        })
    }

    /// Answers calls until nobody can make any. Older kernels do not return then.
    pub fn serve(&mut self) -> Result<(), Errno> {
        loop {
            let call = match seccomp::receive(&self.listener) {
                Ok(call) => call,
                Err(Errno::ENOENT) if is_over(&self.listener, Some(&Timespec::default())) => {
                    return Ok(());
                }
                // The caller is gone, or a signal came.
                Err(Errno::ENOENT | Errno::EINTR) => continue,
                Err(errno) => return Err(errno),
            };
            let answer = self.answer(&call).unwrap_or(Answer::Continue);
            // Its caller may be gone.
            let _ = seccomp::answer(&self.listener, call.id, answer);
        }
    }

    /// The answer to a call; `None` leaves it to the kernel, which has an error of its own for whatever is wrong with it.
    fn answer(&mut self, call: &Notification) -> Option<Answer> {
        let asked = self.read(call)?;
        if asked.call == Call::SocketName {
            return self.name(call, asked);
        }
        if [Call::SendTo, Call::SendMessage, Call::SendMessages].contains(&asked.call) {
            return self.send(call, asked);
        }
        // The kernel takes the lower half, as an int, and refuses more than any address has.
        let length = usize::try_from(asked.length & u64::from(u32::MAX)).ok()?;
        if length > size_of::<nix::libc::sockaddr_storage>() {
            return None;
        }
        let mut buffer = [0; LONGEST];
        let buffer = buffer.get_mut(..length.min(LONGEST))?;
        self.peek(call.thread, asked.address, buffer)?;
        let address = parse(buffer)?;
        // Any port.
        let port = Port::new(address.port().into())?;
        match asked.call {
            Call::Bind => self.bind(call, asked.descriptor, address, port),
            Call::Connect => self.connect(call, asked.descriptor, address, port),
            _ => None,
        }
    }

    /// What is asked, on whatever architecture.
    fn read(&mut self, call: &Notification) -> Option<Asked> {
        let known = ARCHITECTURES.iter().find(|known| known.audit == call.architecture)?;
        let (_, name) = known.calls.iter().find(|(number, _)| *number == call.number)?;
        let (name, [descriptor, address, length]) = if *name == Call::Multiplexed {
            let (first, place) = (call.arguments.first()?, *call.arguments.get(1)?);
            let mut buffer = [0; 12];
            self.peek(call.thread, place, &mut buffer)?;
            let word = |at: usize| {
                let bytes = buffer.get(at..at.checked_add(4)?)?;
                Some(u64::from(u32::from_ne_bytes(bytes.try_into().ok()?)))
            };
            let (_, name) = MULTIPLEXED.iter().find(|(number, _)| u64::from(*number) == *first)?;
            (name, [word(0)?, word(4)?, word(8)?])
        } else {
            let mut arguments = call.arguments.iter().copied();
            (name, [arguments.next()?, arguments.next()?, arguments.next()?])
        };
        let descriptor = u32::try_from(descriptor & u64::from(u32::MAX)).ok()?.cast_signed();
        Some(Asked { call: *name, descriptor, address, length })
    }

    /// Reads the caller's memory.
    fn peek(&mut self, thread: u32, address: u64, buffer: &mut [u8]) -> Option<()> {
        let place = RemoteIoVec { base: usize::try_from(address).ok()?, len: buffer.len() };
        let wanted = buffer.len();
        let pid = Pid::from_raw(thread.cast_signed());
        match process_vm_readv(pid, &mut [IoSliceMut::new(buffer)], &[place]) {
            Ok(read) => (read == wanted).then_some(()),
            Err(Errno::EPERM | Errno::EACCES) => {
                self.tell_of_unreadable(thread);
                None
            }
            Err(_) => None,
        }
    }

    /// The caller's socket, if its ports are mapped: it is a socket of this network, for TCP or UDP.
    fn socket(&mut self, call: &Notification, descriptor: i32) -> Option<(OwnedFd, Protocol)> {
        let caller = open(call.thread)?;
        let socket = match pidfd_getfd(&caller, descriptor, PidfdGetfdFlags::empty()) {
            Ok(socket) => socket,
            Err(rustix::io::Errno::PERM) => {
                self.tell_of_unreadable(call.thread);
                return None;
            }
            Err(_) => return None,
        };
        // Only now is it certain whose memory was read, and whose socket this is.
        if !seccomp::is_waiting(&self.listener, call.id) {
            return None;
        }
        let protocol = protocol(socket.as_fd())?;
        let is_here =
            self.network.is_none() || network::cookie_of(socket.as_fd()).ok() == self.network;
        is_here.then_some((socket, protocol))
    }

    fn bind(
        &mut self,
        call: &Notification,
        descriptor: i32,
        address: SocketAddr,
        asked: Port,
    ) -> Option<Answer> {
        if [Protocol::Tcp, Protocol::Udp].map(|protocol| self.table.bind(protocol, asked))
            == [Bind::AsIs; 2]
        {
            return None;
        }
        let (socket, protocol) = self.socket(call, descriptor)?;
        let port = match self.table.bind(protocol, asked) {
            Bind::AsIs => return None,
            Bind::To(port) => port,
            Bind::Lease => match self.service.lease(protocol, asked) {
                Ok(mapping) => {
                    self.table.add(mapping);
                    mapping.port
                }
                Err(why) => {
                    self.no_lease(protocol, asked, why);
                    return Some(Answer::Failed(Errno::EADDRINUSE));
                }
            },
        };
        let mut mapping = Mapping { asked, port, protocol };
        let mut bound = self.bind_mapped(socket.as_fd(), address, mapping);
        for _ in 0..OTHERS {
            if !matches!(bound, Err(NotBound::Lost)) {
                break;
            }
            match self.service.another(mapping) {
                // Others of the project use it.
                Ok(same) if same.port == mapping.port => break,
                Ok(other) => {
                    self.table.add(other);
                    mapping = other;
                    bound = self.bind_mapped(socket.as_fd(), address, mapping);
                }
                Err(why) => {
                    self.no_lease(protocol, asked, why);
                    break;
                }
            }
        }
        // What cannot be bound anyway is not worth a word.
        if bound.is_ok() && self.bound.insert((protocol, asked, mapping.port)) {
            let lease = self.service.answer(mapping.port);
            self.front.mention(&Said::Mapped { mapping, lease });
        }
        Some(match bound {
            Ok(()) => Answer::Done(0),
            Err(NotBound::As(errno)) => Answer::Failed(errno),
            Err(NotBound::Lost) => Answer::Failed(Errno::EADDRINUSE),
        })
    }

    fn bind_mapped(
        &mut self,
        socket: BorrowedFd<'_>,
        address: SocketAddr,
        Mapping { port, protocol, .. }: Mapping,
    ) -> Result<(), NotBound> {
        let address = with_port(address, port);
        match bind_to(socket, address) {
            // The program has not set SO_REUSEADDR, so the guard of its port is in its way; or its server is there already.
            Err(Errno::EADDRINUSE) if protocol == Protocol::Tcp => {
                self.bind_over_guard(socket, address, port)
            }
            bound => Ok(bound?),
        }
    }

    /// Binds a port whose guard is in the way of a program without `SO_REUSEADDR`. The port is never free meanwhile: this process
    /// keeps it until the program has it.
    fn bind_over_guard(
        &mut self,
        socket: BorrowedFd<'_>,
        address: SocketAddr,
        port: Port,
    ) -> Result<(), NotBound> {
        // Fails if something listens.
        let own = probe::rebind(port).map_err(|_| Errno::EADDRINUSE)?;
        let own = match self.service.keep(port) {
            Ok(true) => own,
            // An earlier server of the program is gone, and the port may have been taken since.
            Ok(false) => {
                drop(own);
                probe::regain(port).map_err(|_| NotBound::Lost)?
            }
            Err(why) => {
                self.no_lease(Protocol::Tcp, port, why);
                return Err(Errno::EADDRINUSE.into());
            }
        };
        setsockopt(&socket, ReuseAddr, &true)?;
        let bound = bind_to(socket, address);
        // As the program has it. Left on, a second server could bind beside it.
        setsockopt(&socket, ReuseAddr, &false)?;
        drop(own);
        Ok(bound?)
    }

    fn no_lease(&mut self, protocol: Protocol, port: Port, why: String) {
        if self.said.insert((protocol, port)) {
            self.front.mention(&Said::NoLease(port, why));
        }
    }

    fn connect(
        &mut self,
        call: &Notification,
        descriptor: i32,
        address: SocketAddr,
        asked: Port,
    ) -> Option<Answer> {
        if !self.local.contains(address.ip()) {
            return None;
        }
        if [Protocol::Tcp, Protocol::Udp].map(|protocol| self.table.connect(protocol, asked))
            == [Connect::AsIs; 2]
        {
            return None;
        }
        let (socket, protocol) = self.socket(call, descriptor)?;
        let reached = match self.table.connect(protocol, asked) {
            Connect::AsIs => return None,
            Connect::To(port) => Reached::To(port),
            Connect::Find => match self.service.find(protocol, asked) {
                Ok(found) => self.table.reached(asked, found),
                Err(why) => {
                    self.no_lease(protocol, asked, why);
                    Reached::NotReached
                }
            },
        };
        let port = match reached {
            Reached::AsIs => return None,
            Reached::To(port) => port,
            Reached::NotReached => self.not_reached(protocol, asked, None),
            Reached::NotReachedOf(project) => self.not_reached(protocol, asked, Some(project)),
        };
        begin(socket.as_fd(), with_port(address, port))
    }

    /// Sends a datagram that names a mapped port. Nothing that waits is done here: if the queue is full, the program is told so.
    fn send(&mut self, call: &Notification, asked: Asked) -> Option<Answer> {
        let message = self.message(call, asked)?;
        let mut buffer = [0; LONGEST];
        let buffer = buffer.get_mut(..message.length.min(LONGEST))?;
        self.peek(call.thread, message.address, buffer)?;
        let address = parse(buffer)?;
        let port = Port::new(address.port().into())?;
        let Connect::To(port) = self.table.connect(Protocol::Udp, port) else { return None };
        if !self.local.contains(address.ip()) {
            return None;
        }
        let mut content = Vec::new();
        for (place, length) in message.parts {
            let start = content.len();
            content.resize(start.checked_add(length).filter(|all| *all <= DATAGRAM)?, 0);
            self.peek(call.thread, place, content.get_mut(start..)?)?;
        }
        let (socket, protocol) = self.socket(call, asked.descriptor)?;
        if protocol != Protocol::Udp {
            return None;
        }
        let flags = MsgFlags::from_bits_retain(message.flags) | MsgFlags::MSG_DONTWAIT;
        let sent = with(with_port(address, port), |address| {
            let parts = [IoSlice::new(&content)];
            match address {
                Named::Four(address) => {
                    sendmsg(socket.as_raw_fd(), &parts, &[], flags, Some(address))
                }
                Named::Six(address) => {
                    sendmsg(socket.as_raw_fd(), &parts, &[], flags, Some(address))
                }
            }
        });
        Some(match sent {
            // Of several messages, one was sent.
            Ok(_) if asked.call == Call::SendMessages => {
                let length = u32::try_from(content.len()).ok()?.to_ne_bytes();
                poke(call.thread, asked.address.checked_add(MESSAGE as u64)?, &length)?;
                Answer::Done(1)
            }
            Ok(sent) => Answer::Done(i64::try_from(sent).ok()?),
            Err(errno) => Answer::Failed(errno),
        })
    }

    /// Where the parts of a datagram are. `struct msghdr` is read as programs of this machine have it, and not with control
    /// messages.
    fn message(&mut self, call: &Notification, asked: Asked) -> Option<Message> {
        let word = |words: &[u8], at: usize| {
            let bytes = words.get(at..at.checked_add(8)?)?;
            Some(u64::from_ne_bytes(bytes.try_into().ok()?))
        };
        let small = |word: u64| usize::try_from(word).ok();
        if asked.call == Call::SendTo {
            let [_, _, _, flags, address, length] = call.arguments;
            let parts = vec![(asked.address, small(asked.length)?)];
            return Some(Message { address, length: small(length)?, parts, flags: low(flags) });
        }
        let mut header = [0; MESSAGE];
        self.peek(call.thread, asked.address, &mut header)?;
        let (address, count) = (word(&header, 0)?, small(word(&header, 24)?)?);
        let length = small(word(&header, 8)? & u64::from(u32::MAX))?;
        if word(&header, 40)? != 0 || count > MOST_PARTS {
            return None;
        }
        let mut places = vec![0; count.checked_mul(16)?];
        self.peek(call.thread, word(&header, 16)?, &mut places)?;
        let parts = places.chunks(16).map(|part| Some((word(part, 0)?, small(word(part, 8)?)?)));
        let flags =
            if asked.call == Call::SendMessages { *call.arguments.get(3)? } else { asked.length };
        Some(Message { address, length, parts: parts.collect::<Option<_>>()?, flags: low(flags) })
    }

    /// Tells a program that its socket is bound to the port that it asked for.
    fn name(&mut self, call: &Notification, asked: Asked) -> Option<Answer> {
        let (socket, protocol) = self.socket(call, asked.descriptor)?;
        let name: SockaddrStorage = getsockname(socket.as_raw_fd()).ok()?;
        let six = || name.as_sockaddr_in6().map(|name| SocketAddrV6::from(*name).into());
        let four = name.as_sockaddr_in().map(|name| SocketAddrV4::from(*name).into());
        let name: SocketAddr = four.or_else(six)?;
        let port = self.table.asked_for(protocol, Port::new(name.port().into())?)?;
        let name = bytes(with_port(name, port));
        let mut room = [0; 4];
        self.peek(call.thread, asked.length, &mut room)?;
        let room = usize::try_from(u32::from_ne_bytes(room)).ok()?;
        let length = u32::try_from(name.len()).ok()?.to_ne_bytes();
        let part = name.get(..room.min(name.len()))?;
        // As with every other call: the thread that asked is still the one with this number.
        if !seccomp::is_waiting(&self.listener, call.id) {
            return None;
        }
        poke(call.thread, asked.address, part)?;
        poke(call.thread, asked.length, &length)?;
        Some(Answer::Done(0))
    }

    fn not_reached(&mut self, protocol: Protocol, port: Port, project: Option<String>) -> Port {
        if self.said.insert((protocol, port)) {
            self.front.mention(&Said::NotReached { port, project });
        }
        self.dead.0
    }

    fn tell_of_unreadable(&mut self, thread: u32) {
        let name = process::comm(thread).map(|name| name.to_string()).unwrap_or_default();
        if self.unreadable.insert(name.clone()) {
            self.front.mention(&Said::Unreadable(thread, name));
        }
    }
}

/// Whether no process has the filter any more, which this waits for at most for that time.
pub(super) fn is_over(listener: &OwnedFd, limit: Option<&Timespec>) -> bool {
    let mut hung_up = [PollFd::new(listener, PollFlags::empty())];
    let _ = poll(&mut hung_up, limit);
    hung_up.iter().any(|listener| listener.revents().contains(PollFlags::HUP))
}

/// Writes to the caller's memory.
fn poke(thread: u32, address: u64, bytes: &[u8]) -> Option<()> {
    let place = RemoteIoVec { base: usize::try_from(address).ok()?, len: bytes.len() };
    let pid = Pid::from_raw(thread.cast_signed());
    let written = process_vm_writev(pid, &[IoSlice::new(bytes)], &[place]);
    (written == Ok(bytes.len())).then_some(())
}

/// Begins a connection. A program that waits for it goes on with its own call: on a socket that is connecting the kernel does not
/// look at the address again, but waits.
fn begin(socket: BorrowedFd<'_>, address: SocketAddr) -> Option<Answer> {
    let flags = OFlag::from_bits_retain(fcntl(socket, FcntlArg::F_GETFL).ok()?);
    if flags.contains(OFlag::O_NONBLOCK) {
        let connected = connect_to(socket, address);
        return Some(connected.map_or_else(Answer::Failed, |()| Answer::Done(0)));
    }
    fcntl(socket, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK)).ok()?;
    let connected = connect_to(socket, address);
    let _ = fcntl(socket, FcntlArg::F_SETFL(flags));
    match connected {
        Ok(()) => Some(Answer::Done(0)),
        Err(Errno::EINPROGRESS | Errno::EALREADY) => Some(Answer::Continue),
        Err(errno) => Some(Answer::Failed(errno)),
    }
}

/// A descriptor of the process of a thread. From Linux 6.9 on it may be the thread's own.
fn open(thread: u32) -> Option<OwnedFd> {
    let number = |number: u32| rustix::process::Pid::from_raw(number.cast_signed());
    // PIDFD_THREAD.
    let flag = PidfdFlags::from_bits_retain(nix::libc::O_EXCL.cast_unsigned());
    match pidfd_open(number(thread)?, flag) {
        Ok(caller) => Some(caller),
        Err(rustix::io::Errno::INVAL) => {
            let status = fs::read_to_string(format!("/proc/{thread}/status")).ok()?;
            let line = status.lines().find_map(|line| line.strip_prefix("Tgid:"))?;
            pidfd_open(number(line.trim().parse().ok()?)?, PidfdFlags::empty()).ok()
        }
        Err(_) => None,
    }
}

/// The protocol of a socket whose ports are mapped.
fn protocol(socket: BorrowedFd<'_>) -> Option<Protocol> {
    use rustix::net::{SocketType, ipproto, sockopt};
    let protocol = sockopt::socket_protocol(socket).ok()?;
    match sockopt::socket_type(socket).ok()? {
        SocketType::STREAM
            if [None, Some(ipproto::TCP), Some(ipproto::MPTCP)].contains(&protocol) =>
        {
            Some(Protocol::Tcp)
        }
        SocketType::DGRAM if [None, Some(ipproto::UDP)].contains(&protocol) => Some(Protocol::Udp),
        _ => None,
    }
}

/// A port on which nobody listens, and the socket that keeps it so.
fn dead_port() -> Result<(Port, OwnedFd), Errno> {
    let stream = |family| socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None);
    let any = match stream(AddressFamily::Inet6) {
        Ok(six) => {
            setsockopt(&six, Ipv6V6Only, &false)?;
            let any = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), 0);
            bind_to(six.as_fd(), any).map(|()| six)
        }
        Err(errno) => Err(errno),
    };
    let socket = any.or_else(|_| {
        let four = stream(AddressFamily::Inet)?;
        let any = SocketAddr::new(IpAddr::from([0, 0, 0, 0]), 0);
        bind_to(four.as_fd(), any).map(|()| four)
    })?;
    let name: SockaddrStorage = getsockname(socket.as_raw_fd())?;
    let six = name.as_sockaddr_in6().map(SockaddrIn6::port);
    let number = six.or_else(|| name.as_sockaddr_in().map(SockaddrIn::port)).unwrap_or_default();
    Ok((Port::new(number.into()).ok_or(Errno::EADDRNOTAVAIL)?, socket))
}

fn with_port(mut address: SocketAddr, port: Port) -> SocketAddr {
    address.set_port(port.get());
    address
}

fn low(word: u64) -> i32 {
    u32::try_from(word & u64::from(u32::MAX)).unwrap_or_default().cast_signed()
}

fn bind_to(socket: BorrowedFd<'_>, address: SocketAddr) -> Result<(), Errno> {
    with(address, |address| bind(socket.as_raw_fd(), address.any()))
}

fn connect_to(socket: BorrowedFd<'_>, address: SocketAddr) -> Result<(), Errno> {
    with(address, |address| connect(socket.as_raw_fd(), address.any()))
}

/// An address as system calls take it.
enum Named<'a> {
    Four(&'a SockaddrIn),
    Six(&'a SockaddrIn6),
}

impl Named<'_> {
    fn any(&self) -> &dyn SockaddrLike {
        match self {
            Self::Four(address) => *address,
            Self::Six(address) => *address,
        }
    }
}

fn with<T>(address: SocketAddr, call: impl FnOnce(Named<'_>) -> T) -> T {
    match address {
        SocketAddr::V4(address) => call(Named::Four(&SockaddrIn::from(address))),
        SocketAddr::V6(address) => call(Named::Six(&SockaddrIn6::from(address))),
    }
}
