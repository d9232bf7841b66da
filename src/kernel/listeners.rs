//! Listeners and other sockets that block a port, from `sock_diag(7)`, and the processes that have them open,
//! from proc(5).
//!
//! A user sees the descriptors of their own processes only, root sees all. What cannot be read is left out: then
//! only the user who created the socket is known.
//!
//! The service cannot do this: its sandbox hides the descriptors of other processes. So the command does.

use std::{
    collections::{HashMap, HashSet},
    fs::{self, File},
    io::{self, Read},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use nix::unistd::{Uid, User};

use super::{
    container::{Container, Proxy},
    diag::{self, Role, Socket},
    process,
};
use crate::{
    port::{Port, PortRange, Protocol},
    word::visible,
};

/// The maximum number of bytes read from a file in `/proc`: a command line may have megabytes.
const MOST_READ: u64 = 4096;

/// A socket, and the process that has it open.
#[derive(Clone, Debug)]
pub struct Listener {
    /// The port.
    pub port: Port,
    /// `tcp` or `udp`.
    pub protocol: Protocol,
    /// The local address.
    pub address: IpAddr,
    /// The inode number of the socket, which no other has; 0 if no process has it open.
    pub inode: u32,
    /// The user who created the socket.
    pub uid: u32,
    /// The name of that user, or the number if there is no name.
    pub user: Arc<str>,
    /// What it does with its port.
    pub role: Role,
    /// The process that has it open, if this user may see that. If several share it, such as the workers of a
    /// server, it is the one with the lowest PID: most likely the parent of the others.
    pub program: Option<Arc<Program>>,
}

/// A process that has such a socket open. Its texts are whatever the process has set, with the characters that
/// affect a terminal escaped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// Its PID.
    pub pid: u32,
    /// The name of its command, which the kernel truncates to 15 bytes.
    pub command: String,
    /// Its command line, with spaces between the arguments; only the beginning if it is very long, and empty if
    /// there is none.
    pub command_line: String,
    /// Its working directory.
    pub folder: Option<String>,
    /// The container that it runs in, unless this process runs in the same one; for a `docker-proxy`, the
    /// container that it serves.
    pub container: Option<Container>,
}

/// The sockets that listen (TCP) or are bound (UDP) on the ports of a range: each once, ordered by port, protocol
/// and address.
///
/// However many ports there are, the kernel is queried once for TCP and twice for UDP, and `/proc` is walked
/// through at most once: not at all without sockets, and only until each has its process.
pub fn listeners(range: PortRange, protocol: Protocol) -> io::Result<Vec<Listener>> {
    let mut sockets = Vec::new();
    diag::sockets(protocol, range, |socket| sockets.push(socket))?;
    Ok(with_programs(sockets))
}

/// Whether one of these processes listens on the port (UDP: is bound to it).
///
/// Two kinds of listeners are not seen in a process, and are taken for theirs: one of this user that nobody has open whose
/// descriptors may be read, if those of a process may not, as of a program with capabilities(7); and the proxy of a
/// container, which the engine starts, if one of them is a docker(1).
pub fn is_listened_by(
    is_meant: impl Fn(u32) -> bool,
    port: Port,
    protocol: Protocol,
) -> io::Result<bool> {
    let mut sockets = Vec::new();
    diag::sockets(protocol, PortRange::only(port), |socket| sockets.push(socket))?;
    let inodes: HashSet<u32> = sockets.iter().map(|socket| socket.inode).collect();
    let (mut is_unread, mut has_docker) = (false, false);
    for pid in pids().filter(|pid| is_meant(*pid)) {
        match held(pid, &inodes) {
            Ok(held) if held.is_empty() => {}
            Ok(_) => return Ok(true),
            Err(error) => is_unread |= error.kind() == io::ErrorKind::PermissionDenied,
        }
        has_docker |= read(pid, "comm").is_some_and(|comm| comm.starts_with("docker"));
    }
    let may_be_theirs = |Listener { uid, program, .. }: &Listener| match program {
        None => is_unread && *uid == process::uid(),
        Some(program) => has_docker && matches!(program.container, Some(Container::Behind(_))),
    };
    Ok((is_unread || has_docker) && with_programs(sockets).iter().any(may_be_theirs))
}

/// Whether a process was given this number, as an argument or in `PORT`, or one above it was, up to this ancestor. That of a
/// debugger does not count.
pub fn was_given(mut pid: u32, ancestor: u32, number: Port) -> bool {
    let number = number.to_string();
    loop {
        let line = arguments(pid).unwrap_or_default().join(" ");
        if names(&line, &number)
            || process::variable(pid, "PORT").is_some_and(|port| port == number)
        {
            return true;
        }
        match process::parent(pid) {
            Some(parent) if pid != ancestor && parent != 0 => pid = parent,
            _ => return false,
        }
    }
}

/// Whether the number is in the command line: `--port 40000`, `localhost:40000`; not `--inspect=40000`.
fn names(line: &str, number: &str) -> bool {
    let words: Vec<_> = line.split_ascii_whitespace().collect();
    let is_debuggers = |word: &str| ["inspect", "debug", "jdwp"].iter().any(|it| word.contains(it));
    words.iter().enumerate().any(|(at, word)| {
        let before = at.checked_sub(1).map_or("", |before| words[before]);
        let mut numbers = word.split(|c: char| !c.is_ascii_digit());
        numbers.any(|it| it == number) && !is_debuggers(word) && !is_debuggers(before)
    })
}

/// The TCP sockets that block a grant of the port without listening: bound ones, and outgoing connections.
pub fn in_the_way(port: Port) -> io::Result<Vec<Listener>> {
    let (mut sockets, mut connections) = (Vec::new(), Vec::new());
    diag::all_sockets(Protocol::Tcp, PortRange::only(port), |socket| match socket.role {
        // A socket that no process has open will soon be gone.
        _ if socket.inode == 0 => {}
        Role::Listener => {}
        Role::Bound => sockets.push(socket),
        Role::Connection { .. } => connections.push(socket),
    })?;
    connections.retain(diag::outgoing(&connections)?);
    sockets.extend(connections);
    Ok(with_programs(sockets))
}

fn with_programs(mut sockets: Vec<Socket>) -> Vec<Listener> {
    order(&mut sockets);
    let programs = programs(&sockets, pids);
    let mut users = HashMap::new();
    let listeners =
        sockets.into_iter().map(|Socket { protocol, port, address, inode, uid, role }| {
            let user = users.entry(uid).or_insert_with(|| user(uid)).clone();
            let program = programs.get(&inode).cloned();
            Listener { port, protocol, address, inode, uid, user, role, program }
        });
    listeners.collect()
}

/// Sorts the sockets, and removes duplicates.
fn order(sockets: &mut Vec<Socket>) {
    let key = |socket: &Socket| (socket.port, socket.protocol, socket.address, socket.inode);
    sockets.sort_unstable_by_key(key);
    sockets.dedup_by_key(|socket| key(socket));
}

/// The name of a user, or the number if there is no name.
pub(crate) fn user(uid: u32) -> Arc<str> {
    match User::from_uid(Uid::from_raw(uid)) {
        Ok(Some(user)) => visible(&user.name).into(),
        _ => uid.to_string().into(),
    }
}

/// The PIDs of all processes, ascending, so that a parent usually comes before its children.
fn pids() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let mut pids: Vec<u32> = pids.collect();
    pids.sort_unstable();
    pids.into_iter()
}

/// The process that has each socket open, by inode number.
fn programs<P: Iterator<Item = u32>>(
    sockets: &[Socket],
    pids: impl FnOnce() -> P,
) -> HashMap<u32, Arc<Program>> {
    let mut found = HashMap::new();
    let mut missing: HashSet<u32> = sockets.iter().map(|socket| socket.inode).collect();
    missing.remove(&0);
    if missing.is_empty() {
        return found;
    }
    let ours = container("self", None);
    let mut pids = pids();
    while !missing.is_empty()
        && let Some(pid) = pids.next()
    {
        let held = match held(pid, &missing) {
            Ok(held) => held,
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                proxied(pid, sockets, &missing)
            }
            // It has ended.
            Err(_) => continue,
        };
        if held.is_empty() {
            continue;
        }
        let Some(program) = Program::of(pid, ours.as_ref()) else { continue };
        // A service manager keeps the sockets that it starts services for: the service is more informative.
        let is_manager = program.command == "systemd";
        let program = Arc::new(program);
        for inode in held {
            found.insert(inode, program.clone());
            if !is_manager {
                missing.remove(&inode);
            }
        }
    }
    found
}

/// The inode numbers of those sockets that the process has open.
fn held(pid: u32, sockets: &HashSet<u32>) -> io::Result<Vec<u32>> {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd"))?;
    let inodes = descriptors.flatten().filter_map(|descriptor| {
        let target = fs::read_link(descriptor.path()).ok()?;
        let inode = target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()?;
        sockets.contains(&inode).then_some(inode)
    });
    Ok(inodes.collect())
}

/// The inode numbers of the sockets of a process whose descriptors may not be read, if it is a `docker-proxy`:
/// its command line contains the port, and it usually runs as root.
fn proxied(pid: u32, sockets: &[Socket], missing: &HashSet<u32>) -> Vec<u32> {
    if read(pid, "comm").as_deref() != Some("docker-proxy\n") {
        return Vec::new();
    }
    let proxy = arguments(pid).and_then(|arguments| Proxy::parse(&arguments));
    // Any process may pretend to be one, so the sockets must belong to its user.
    let (Some(proxy), Some(uid)) = (proxy, process::owner(pid)) else { return Vec::new() };
    let its = sockets.iter().filter(|socket| {
        socket.uid == uid
            && (socket.protocol, SocketAddr::new(socket.address, socket.port.get()))
                == proxy.listens
            && missing.contains(&socket.inode)
    });
    its.map(|socket| socket.inode).collect()
}

impl Program {
    /// Reads what is visible of a process, from within the container `ours`; `None` if it is gone.
    fn of(pid: u32, ours: Option<&Container>) -> Option<Self> {
        let command = read(pid, "comm")?;
        let command = visible(command.strip_suffix('\n').unwrap_or(&command));
        let arguments = arguments(pid).unwrap_or_default();
        let folder = fs::read_link(format!("/proc/{pid}/cwd")).ok();
        let proxy = if command == "docker-proxy" { Proxy::parse(&arguments) } else { None };
        let behind = proxy.map(|proxy| Container::Behind(proxy.to));
        Some(Self {
            pid,
            command_line: visible(&arguments.join(" ")),
            folder: folder.map(|folder| visible(&folder.to_string_lossy())),
            container: behind.or_else(|| container(pid, ours)),
            command,
        })
    }
}

/// The arguments of a process. The process may have overwritten them (`setproctitle`), and some leave many empty
/// ones at the end.
fn arguments(pid: u32) -> Option<Vec<String>> {
    let text = read(pid, "cmdline")?;
    Some(text.trim_end_matches('\0').split('\0').map(str::to_owned).collect())
}

fn container(pid: impl ToString, ours: Option<&Container>) -> Option<Container> {
    Container::of_cgroup(&read(pid, "cgroup")?, ours)
}

/// Reads a file of the process in `/proc`. Invalid UTF-8 is replaced.
fn read(pid: impl ToString, file: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let file = File::open(format!("/proc/{}/{file}", pid.to_string())).ok()?;
    file.take(MOST_READ).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests;
