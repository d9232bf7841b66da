//! Processes and their identity: pidfds (`pidfd_open(2)`), and `/proc` (proc(5)).

use std::{
    fs, io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use nix::{
    sys::socket::{getsockopt, sockopt::PeerPidfd},
    unistd::{SysconfVar, sysconf},
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    process::{Pid, PidfdFlags, pidfd_open},
};

use super::clock;
use crate::word::harmless;

/// A process with its pidfd: its PID cannot be reused while the pidfd reports it as alive.
#[derive(Debug)]
pub struct Process {
    /// Its PID.
    pub pid: u32,
    /// Its start time, in clock ticks since boot; together with the PID it identifies the process for good.
    pub start: u64,
    /// Readable when it has ended.
    pub pidfd: OwnedFd,
}

/// Why there is no [`Process`] for a PID or a descriptor.
#[derive(Debug)]
pub enum ProcessError {
    /// There is no such process.
    Gone,
    /// It belongs to another user.
    Foreign(Process),
    /// The kernel returned an error, most likely because descriptors have run out.
    Io(io::Error),
}

impl Process {
    /// The process with this PID.
    pub fn of_pid(pid: u32) -> Result<Self, ProcessError> {
        let pidfd = pidfd(pid).map_err(|errno| match errno {
            // The number of a thread is not a PID: EINVAL, or ENOENT since Linux 6.9.
            Errno::SRCH | Errno::INVAL | Errno::NOENT => ProcessError::Gone,
            errno => ProcessError::Io(errno.into()),
        })?;
        Self::with(pid, pidfd)
    }

    /// The process of a pidfd.
    pub fn of_pidfd(pidfd: OwnedFd) -> Result<Self, ProcessError> {
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd()));
        let info = info.map_err(ProcessError::Io)?;
        // -1 if the process has ended; no such line if the descriptor is not a pidfd.
        let pid = info.lines().find_map(|line| line.strip_prefix("Pid:")?.trim().parse().ok());
        Self::with(pid.ok_or(ProcessError::Gone)?, pidfd)
    }

    fn with(pid: u32, pidfd: OwnedFd) -> Result<Self, ProcessError> {
        let start = start(pid).ok_or(ProcessError::Gone)?;
        let owner = owner(pid).ok_or(ProcessError::Gone)?;
        let process = Self { pid, start, pidfd };
        // The values are those of this process only if it is still alive now.
        if process.has_ended() {
            return Err(ProcessError::Gone);
        }
        if owner == uid() { Ok(process) } else { Err(ProcessError::Foreign(process)) }
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ends_within(Duration::ZERO)
    }

    /// Waits for its end, up to this limit. Returns whether it has ended.
    pub fn ends_within(&self, limit: Duration) -> bool {
        is_readable(&self.pidfd, limit)
    }
}

/// Whether a pidfd becomes readable within this limit, as it does when its process ends (`pidfd_open(2)`).
fn is_readable(pidfd: &OwnedFd, limit: Duration) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(pidfd.as_fd(), PollFlags::IN)];
    let limit = Timespec::try_from(limit).unwrap_or_default();
    poll(&mut fds, Some(&limit)).is_ok_and(|ready| ready > 0)
}

/// Whether a process is `ancestor` itself or one of its descendants.
pub fn is_of(mut pid: u32, ancestor: u32) -> bool {
    while pid != ancestor {
        match parent(pid) {
            // Up to the first process, or the first one in this PID namespace.
            Some(parent) if parent != 0 => pid = parent,
            _ => return false,
        }
    }
    true
}

/// When the child of `ancestor` was started that a process is, or descends from, in clock ticks since boot.
pub fn start_below(mut pid: u32, ancestor: u32) -> Option<u64> {
    loop {
        match parent(pid)? {
            parent if parent == ancestor => return start(pid),
            0 => return None,
            parent => pid = parent,
        }
    }
}

/// Reads a file of `/proc/PID`. A command name in it may be invalid UTF-8: the kernel truncates it to 15 bytes.
fn read(pid: u32, file: &str) -> Option<String> {
    let bytes = fs::read(format!("/proc/{pid}/{file}")).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// A variable of the environment that a process was started with.
pub fn variable(pid: u32, name: &str) -> Option<String> {
    let environment = read(pid, "environ")?;
    let value = |text: &str| Some(text.strip_prefix(name)?.strip_prefix('=')?.to_owned());
    environment.split('\0').find_map(value)
}

/// The command name and PID of the parent of a process, as `bash[4711]`.
pub fn starter(pid: u32) -> Option<Arc<str>> {
    let parent = parent(pid).filter(|parent| *parent != 0)?;
    Some(format!("{}[{parent}]", comm(parent)?).into())
}

/// When a process was started, in clock ticks since boot.
pub fn start(pid: u32) -> Option<u64> {
    stat(pid, 22)
}

/// The time since boot as the starts of processes have it, in clock ticks (proc(5)).
pub fn ticks() -> Option<u64> {
    let ticks = u64::try_from(sysconf(SysconfVar::CLK_TCK).ok()??).ok()?;
    let since_boot = clock::now().0 + clock::asleep();
    Some(since_boot * ticks / 1_000)
}

/// How long a process has run.
pub fn age(pid: u32) -> Option<Duration> {
    let ticks = u64::try_from(sysconf(SysconfVar::CLK_TCK).ok()??).ok()?;
    let up: f64 = fs::read_to_string("/proc/uptime").ok()?.split(' ').next()?.parse().ok()?;
    Duration::try_from_secs_f64(up).ok()?.checked_sub(Duration::from_secs(start(pid)? / ticks))
}

/// A field of `/proc/PID/stat` by its number in proc(5), which must be greater than 2.
fn stat<T: FromStr>(pid: u32, field: usize) -> Option<T> {
    let stat = read(pid, "stat")?;
    // The second field is the command name in parentheses, and may contain anything.
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_ascii_whitespace().nth(field - 3)?.parse().ok()
}

/// Whether the process with this PID and start time has ended. One of which `/proc` shows nothing, as with `hidepid`
/// (proc(5)), counts as alive.
pub fn has_ended(pid: u32, started: u64) -> bool {
    match pidfd(pid) {
        Ok(pidfd) => {
            is_readable(&pidfd, Duration::ZERO) || start(pid).is_some_and(|now| now != started)
        }
        Err(error) => error == Errno::SRCH,
    }
}

/// The process that started a process, or adopted it; 0 if it is not visible to this process.
pub(super) fn parent(pid: u32) -> Option<u32> {
    stat(pid, 4)
}

/// The process group that a process is in (setpgid(2)).
pub fn group(pid: u32) -> Option<u32> {
    stat(pid, 5)
}

/// The leader of the session that a process is in (setsid(2)).
pub(super) fn session(pid: u32) -> Option<u32> {
    stat(pid, 6)
}

/// The address of a process's arguments in its memory; 0 if it may not be read.
pub(super) fn argument_start(pid: u32) -> Option<u64> {
    stat(pid, 48)
}

/// The real user of a process. Not the owner of `/proc/PID`, which is root for some.
pub(super) fn owner(pid: u32) -> Option<u32> {
    status(pid, "Uid:")?.first().copied()
}

/// The PIDs of a process in the PID namespaces that it is in, from that of `/proc` inwards (`pid_namespaces(7)`):
/// more than one if it is in a nested namespace.
pub(super) fn numbers(pid: u32) -> Option<Vec<u32>> {
    status(pid, "NSpid:").filter(|numbers| !numbers.is_empty())
}

/// The numbers in a line of `/proc/PID/status`.
fn status(pid: u32, key: &str) -> Option<Vec<u32>> {
    let status = read(pid, "status")?;
    let numbers = status.lines().find_map(|line| line.strip_prefix(key))?;
    numbers.split_ascii_whitespace().map(|number| number.parse().ok()).collect()
}

/// The pidfd of the process that connected to a socket (`SO_PEERPIDFD`, unix(7); since Linux 6.5). `pid` is its
/// PID, from its credentials.
pub fn peer(socket: &impl AsFd, pid: u32) -> Option<OwnedFd> {
    getsockopt(socket, PeerPidfd).ok().or_else(|| peer_by_number(socket, pid))
}

/// The same on older kernels.
fn peer_by_number(socket: &impl AsFd, pid: u32) -> Option<OwnedFd> {
    let pidfd = pidfd(pid).ok()?;
    // The PID may have been reused, but not while the connection is open at the other end.
    let mut fds = [PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::empty())];
    poll(&mut fds, Some(&Timespec::default())).ok()?;
    (!fds[0].revents().contains(PollFlags::HUP)).then_some(pidfd)
}

/// The pidfd of the process with this PID (`pidfd_open(2)`).
pub fn pidfd(pid: u32) -> Result<OwnedFd, Errno> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(Errno::SRCH)?;
    pidfd_open(pid, PidfdFlags::empty())
}

/// The command name of a process; `None` if it is gone. A process can choose any name, so it is made safe for
/// terminals.
pub fn comm(pid: u32) -> Option<Arc<str>> {
    let comm = fs::read(format!("/proc/{pid}/comm")).ok()?;
    let comm = String::from_utf8_lossy(comm.strip_suffix(b"\n").unwrap_or(&comm)).into_owned();
    Some(harmless(&comm).into())
}

/// The id of this boot of the machine (random(4)), or `unknown`.
pub fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map_or_else(|_| "unknown".to_owned(), |id| id.trim_end().to_owned())
}

/// The user that this process runs as.
pub fn uid() -> u32 {
    nix::unistd::getuid().as_raw()
}

/// Maps a user of this user namespace to the number outside of it, where journald is (`user_namespaces(7)`).
pub fn outer_uid(uid: u32) -> u32 {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    mapped(uid, &map).unwrap_or(uid)
}

/// Each line of the map has the first number inside, the first number outside, and the count.
fn mapped(uid: u32, map: &str) -> Option<u32> {
    map.lines().find_map(|line| {
        let mut numbers = line.split_whitespace().map(|number| number.parse::<u32>().ok());
        let (inside, outside, count) = (numbers.next()??, numbers.next()??, numbers.next()??);
        let offset = uid.checked_sub(inside)?;
        (offset < count).then(|| outside.checked_add(offset))?
    })
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_process_has_ended_when_nobody_has_waited_for_it_yet_and_when_its_number_is_anothers() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let (pid, started) = (child.id(), start(child.id()).unwrap());
        assert!(!has_ended(pid, started));
        assert!(has_ended(pid, started + 1));
        child.kill().unwrap();
        assert!(Process::of_pid(pid).map_or(true, |p| p.ends_within(Duration::from_secs(60))));
        assert!(has_ended(pid, started), "it is a zombie");
        child.wait().unwrap();
        assert!(has_ended(pid, started));
        assert!(!has_ended(std::process::id(), start(std::process::id()).unwrap()));
    }

    #[test]
    fn a_process_is_known_whatever_its_name_is() {
        let folder = tempfile::tempdir().unwrap();
        let sleep = folder.path().join("aaaaaaaaaaaaaa\u{e9}");
        // Copied by another program: a file cannot be executed while it is open for writing in this process, or
        // in a child that another test has forked.
        let copied = std::process::Command::new("cp").arg("/bin/sleep").arg(&sleep).status();
        assert!(copied.unwrap().success());
        let mut child = std::process::Command::new(&sleep).arg("60").spawn().unwrap();
        let process = Process::of_pid(child.id());
        let comm = fs::read(format!("/proc/{}/comm", child.id())).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(String::from_utf8(comm).is_err(), "it was cut within a character");
        assert_eq!(process.unwrap().pid, child.id());
    }

    #[test]
    fn a_user_is_found_outside_of_a_namespace() {
        let map = "         0       1000          1\n         1     100000      65536\n";
        assert_eq!(mapped(0, map), Some(1000));
        assert_eq!(mapped(1001, map), Some(101_000));
        assert_eq!(mapped(70_000, map), None);
        assert_eq!(mapped(1000, "0 0 4294967295"), Some(1000));
        assert_eq!(mapped(0, ""), None);
    }

    #[test]
    fn a_process_is_known_by_its_number_and_its_start() {
        let ours = Process::of_pid(std::process::id()).unwrap();
        let again = Process::of_pidfd(ours.pidfd.try_clone().unwrap()).unwrap();
        assert_eq!((again.pid, again.start), (ours.pid, ours.start));
        assert!(!ours.has_ended());
    }

    #[test]
    fn a_command_that_calls_itself_something_hostile_is_shown_harmlessly() {
        let mut child = Command::new("bash")
            .args(["-c", r"printf 'a\033[1m\xff' >/proc/$$/comm; echo; read -r _"])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        std::io::Read::read(child.stdout.as_mut().unwrap(), &mut [0]).unwrap();
        assert_eq!(comm(child.id()).as_deref(), Some("a\u{fffd}[1m\u{fffd}"));
        drop(child.stdin.take());
        child.wait().unwrap();
    }

    #[test]
    fn an_ended_process_is_gone_by_number_and_by_descriptor() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let process = Process::of_pid(child.id()).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(process.has_ended());
        assert!(matches!(Process::of_pidfd(process.pidfd), Err(ProcessError::Gone)));
        assert!(matches!(Process::of_pid(process.pid), Err(ProcessError::Gone)));
    }

    #[test]
    fn the_other_end_of_a_socket_is_known_while_it_is_there() {
        let (near, far) = std::os::unix::net::UnixStream::pair().unwrap();
        let own = std::process::id();
        for peer in [peer(&near, own), peer_by_number(&near, own)] {
            assert_eq!(Process::of_pidfd(peer.unwrap()).unwrap().pid, own);
        }
        drop(far);
        // A child that another test has forked has it open until it calls exec.
        let is_gone = |_| {
            std::thread::sleep(std::time::Duration::from_millis(5));
            peer_by_number(&near, own).is_none()
        };
        assert!((0..1_000).any(is_gone));
    }

    #[test]
    fn what_is_no_pidfd_is_no_process() {
        let file = fs::File::open("/dev/null").unwrap();
        assert!(matches!(Process::of_pidfd(file.into()), Err(ProcessError::Gone)));
    }
}
