//! The ancestors of a process, from `/proc` (proc(5)).
//!
//! A lease may be owned by the process that runs a command. A shell that only waits for that command ends with
//! it, so it is skipped. A PID from another PID namespace means another process here, so the process is
//! identified by its place among the ancestors.

use std::{fs, os::fd::OwnedFd, os::unix::ffi::OsStrExt, path::PathBuf, sync::Arc};

use rustix::io::Errno;

use super::process::{
    Process, ProcessError, argument_start, comm, is_of, numbers, owner, parent, pidfd, session, uid,
};

/// The names of programs that are shells. Each of `BOXES` contains several.
const SHELLS: [&[u8]; 12] = [
    b"sh", b"bash", b"dash", b"ash", b"hush", b"zsh", b"fish", b"ksh", b"mksh", b"yash", b"csh",
    b"tcsh",
];
const BOXES: [&[u8]; 2] = [b"busybox", b"toybox"];

/// An ancestor that was chosen as an owner.
#[derive(Debug)]
pub struct Chosen {
    /// Its PID in the PID namespace of this process.
    pub pid: u32,
    /// The name of its command, if it is readable.
    pub comm: Option<Arc<str>>,
    /// Its pidfd.
    pub pidfd: OwnedFd,
    /// The shells between it and this process, the nearest first.
    pub passed_over: Vec<(u32, Option<Arc<str>>)>,
}

/// Why no ancestor can be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// It is outside of the PID namespace of this process.
    Outside,
    /// It has ended.
    Gone,
    /// It is this process itself.
    Itself,
    /// The kernel returned an error, most likely because descriptors have run out.
    Io(Errno),
}

impl From<ProcessError> for Lost {
    fn from(trouble: ProcessError) -> Self {
        match trouble {
            ProcessError::Gone | ProcessError::Foreign(_) => Self::Gone,
            ProcessError::Io(error) => Self::Io(Errno::from_io_error(&error).unwrap_or(Errno::IO)),
        }
    }
}

/// The process that started this one: its parent, or the first ancestor that is not a shell which only waits for
/// it. It is never beyond the leader of the session or the first process of the PID namespace, and it belongs to
/// this user unless it is the parent.
pub fn parent_that_stays() -> Result<Chosen, Lost> {
    let own = std::process::id();
    let first = std::os::unix::process::parent_id();
    if first == 0 {
        return Err(Lost::Outside);
    }
    // A `/proc` of another PID namespace has other PIDs.
    if fs::read_link("/proc/self").ok() != Some(PathBuf::from(own.to_string())) {
        return choose(first, Vec::new());
    }
    let mut chosen = parent_of(&known(own)?)?;
    let mut passed_over = Vec::new();
    while chosen.pid != 1 && session(chosen.pid) != Some(chosen.pid) {
        let Ok(next) = parent_of(&chosen) else { break };
        if owner(next.pid) != Some(uid()) || !only_waits(&Seen::of(chosen.pid), &Seen::of(next.pid))
        {
            break;
        }
        passed_over.push((chosen.pid, comm(chosen.pid)));
        chosen = next;
    }
    Ok(Chosen { pid: chosen.pid, comm: comm(chosen.pid), pidfd: chosen.pidfd, passed_over })
}

/// The leader of the session that this process is in (setsid(2)).
pub fn session_leader() -> Result<Chosen, Lost> {
    let leader = nix::unistd::getsid(None).map_err(|_| Lost::Gone)?;
    match u32::try_from(leader.as_raw()).unwrap_or(0) {
        0 => Err(Lost::Outside),
        pid if pid == std::process::id() => Err(Lost::Itself),
        pid => choose(pid, Vec::new()),
    }
}

fn choose(pid: u32, passed_over: Vec<(u32, Option<Arc<str>>)>) -> Result<Chosen, Lost> {
    let pidfd = pidfd(pid).map_err(|errno| match errno {
        Errno::SRCH | Errno::INVAL | Errno::NOENT => Lost::Gone,
        errno => Lost::Io(errno),
    })?;
    Ok(Chosen { pid, comm: comm(pid), pidfd, passed_over })
}

/// Whether a process is in a nested PID namespace, where PIDs mean other processes than here; `None` if it is gone.
pub fn is_nested(pid: u32) -> Option<bool> {
    numbers(pid).map(|numbers| numbers.len() > 1)
}

/// The process with this PID in the PID namespace of `from`, if it is `from` itself or one of its ancestors.
pub fn named_from(from: Process, number: u32) -> Result<Process, ProcessError> {
    let depth = numbers(from.pid).ok_or(ProcessError::Gone)?.len();
    let mut process = from;
    loop {
        let numbers = numbers(process.pid).ok_or(ProcessError::Gone)?;
        // From here on, the ancestors are outside of the namespace.
        if numbers.len() < depth {
            return Err(ProcessError::Gone);
        }
        if numbers.last() == Some(&number) {
            break;
        }
        process = parent_of(&process)?;
    }
    if owner(process.pid) == Some(uid()) {
        Ok(process)
    } else {
        Err(ProcessError::Foreign(process))
    }
}

/// Whether one of two processes is the other one or descends from it.
pub fn are_related(one: &Process, other: &Process) -> bool {
    descends(one, other) || descends(other, one)
}

/// Whether a process is another one or descends from it.
pub fn descends(one: &Process, other: &Process) -> bool {
    // Only if both live, their PIDs were theirs all the time.
    is_of(one.pid, other.pid) && !one.has_ended() && !other.has_ended()
}

/// The parent of a process, whichever user runs it.
fn parent_of(child: &Process) -> Result<Process, ProcessError> {
    let pid = parent(child.pid).ok_or(ProcessError::Gone)?;
    let found = known(pid)?;
    // `found` has had this PID since it was opened; if the child still has it as its parent, it is the right process.
    let is_it = parent(child.pid) == Some(pid) && !child.has_ended() && !found.has_ended();
    if is_it { Ok(found) } else { Err(ProcessError::Gone) }
}

/// A process, whichever user runs it.
fn known(pid: u32) -> Result<Process, ProcessError> {
    match Process::of_pid(pid) {
        Err(ProcessError::Foreign(process)) => Ok(process),
        process => process,
    }
}

/// The visible traces of how a process was started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Seen {
    exe: Option<PathBuf>,
    arguments: Vec<Vec<u8>>,
    /// The address of its arguments in memory: a fork has the same as its parent, another program a different one.
    place: Option<u64>,
}

impl Seen {
    fn of(pid: u32) -> Self {
        let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let arguments = arguments.strip_suffix(b"\0").unwrap_or(&arguments);
        Self {
            exe: fs::read_link(format!("/proc/{pid}/exe")).ok(),
            arguments: arguments.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect(),
            place: argument_start(pid),
        }
    }

    /// The arguments after the command name, if it is a shell.
    fn shell_arguments(&self) -> Option<&[Vec<u8>]> {
        let (first, rest) = self.arguments.split_first()?;
        let first = base(first.strip_prefix(b"-").unwrap_or(first));
        let program = match &self.exe {
            Some(exe) => base(exe.as_os_str().as_bytes()),
            None => first,
        };
        if BOXES.contains(&program) {
            // Called as the shell, or with its name as the first argument.
            return match rest.split_first() {
                _ if SHELLS.contains(&first) => Some(rest),
                Some((second, rest)) if SHELLS.contains(&&second[..]) => Some(rest),
                _ => None,
            };
        }
        // Without a version, as in ksh93 or zsh-5.9.
        let end = program.iter().position(|byte| !byte.is_ascii_alphabetic());
        SHELLS.contains(&&program[..end.unwrap_or(program.len())]).then_some(rest)
    }
}

fn base(path: &[u8]) -> &[u8] {
    let path = path.strip_suffix(b" (deleted)").unwrap_or(path);
    path.rsplit(|byte| *byte == b'/').next().unwrap_or(path)
}

/// Whether a process is a shell that runs only one command: one with `-c`, or a subshell, which is a fork of its
/// parent.
fn only_waits(process: &Seen, parent: &Seen) -> bool {
    process
        .shell_arguments()
        .is_some_and(|arguments| runs_a_command(arguments) || process == parent)
}

/// Whether the arguments of a shell contain the option `-c`, alone or combined with others (`-lc`).
fn runs_a_command(arguments: &[Vec<u8>]) -> bool {
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        match argument.as_slice() {
            b"--" | b"-" | b"+" => return false,
            b"--command" => return true,
            b"--rcfile" | b"--init-file" | b"--init-command" => drop(arguments.next()),
            [b'-', b'-', rest @ ..] if rest.starts_with(b"command=") => return true,
            [b'-', b'-', ..] => {}
            [b'-', letters @ ..] if letters.contains(&b'c') => return true,
            // Some have an argument: -o pipefail, +O extglob.
            [b'-' | b'+', letters @ ..] => {
                if letters.iter().any(|letter| matches!(letter, b'o' | b'O')) {
                    arguments.next();
                }
            }
            _ => return false,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(exe: Option<&str>, arguments: &str, place: u64) -> Seen {
        let arguments = arguments.split(' ').map(|argument| argument.as_bytes().to_vec()).collect();
        Seen { exe: exe.map(PathBuf::from), arguments, place: Some(place) }
    }

    #[test]
    fn a_shell_that_was_started_for_one_command_only_waits() {
        let parent = seen(Some("/usr/bin/node"), "node", 1);
        let waits = |exe, arguments| only_waits(&seen(exe, arguments, 2), &parent);
        for (exe, arguments) in [
            ("/usr/bin/dash", "sh -c true"),
            ("/usr/bin/bash", "/bin/bash -lc true"),
            ("/usr/bin/bash", "bash --norc -eo pipefail -c true"),
            ("/usr/bin/bash", "bash +O extglob --rcfile /dev/null -c true"),
            ("/usr/bin/fish", "fish --command=true"),
            ("/usr/bin/ksh93", "ksh -c true"),
            ("/usr/bin/zsh-5.9", "zsh -c true"),
            ("/usr/bin/bash (deleted)", "bash -c true"),
            ("/bin/busybox", "sh -c true"),
            ("/bin/busybox", "busybox ash -c true"),
        ] {
            assert!(waits(Some(exe), arguments), "{exe}: {arguments}");
            // Where the program is not visible, the name it was called by counts.
            assert!(waits(None, arguments) || arguments.starts_with("busybox"), "{arguments}");
        }
        for (exe, arguments) in [
            ("/usr/bin/bash", "bash"),
            ("/usr/bin/bash", "-bash"),
            ("/usr/bin/bash", "bash ./script -c"),
            ("/usr/bin/bash", "bash -o errexit script -c"),
            ("/usr/bin/bash", "bash -- -c"),
            ("/usr/bin/python3.13", "python3 -c pass"),
            ("/usr/bin/node", "sh -c true"),
            ("/bin/busybox", "busybox wget -c x"),
        ] {
            assert!(!waits(Some(exe), arguments), "{exe}: {arguments}");
        }
    }

    #[test]
    fn a_subshell_is_a_fork_of_its_parent_and_a_shell() {
        let bash = || seen(Some("/usr/bin/bash"), "bash ./build", 1);
        assert!(only_waits(&bash(), &bash()));
        // Started with the same arguments, not forked.
        assert!(!only_waits(&seen(Some("/usr/bin/bash"), "bash ./build", 2), &bash()));
        let worker = || seen(Some("/usr/bin/python3.13"), "python3 serve.py", 1);
        assert!(!only_waits(&worker(), &worker()));
    }

    #[test]
    fn a_process_names_itself_and_those_above_it_and_nobody_else() {
        let own = || Process::of_pid(std::process::id()).unwrap();
        let parent = std::os::unix::process::parent_id();
        let mut sibling = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        assert_eq!(named_from(own(), own().pid).unwrap().pid, own().pid);
        assert_eq!(named_from(own(), parent).unwrap().pid, parent);
        assert!(matches!(named_from(own(), sibling.id()), Err(ProcessError::Gone)));
        sibling.kill().unwrap();
        sibling.wait().unwrap();
    }
}
