//! How the command becomes the program: it installs the filter, shows its descriptor to the supervisor, and executes the program.

use std::{
    ffi::OsString,
    fs::File,
    io::{self, Read, Write},
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::process::CommandExt,
    },
    process::Command,
};

use nix::errno::Errno;
use rustix::process::{
    Pid, PidfdFlags, PidfdGetfdFlags, Signal, pidfd_getfd, pidfd_open,
    set_parent_process_death_signal,
};
use serde::{Deserialize, Serialize};

use super::{
    control::{Channel, Refusal},
    filter::Scope,
    seccomp,
};

/// What the command tells the supervisor before it is executed.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Step {
    /// The filter is installed: the number of its descriptor, and the address of [`SAMPLE`].
    Installed(i32, u64),
    /// It is not: an error number.
    NotInstalled(i32),
    /// The program could not be executed: an error number.
    NotExecuted(i32),
}

/// A number that the supervisor reads, to see whether it may.
static SAMPLE: u64 = 0x5374_7978_7931_3921;

/// Becomes the program. Returns only if that is not possible, which the supervisor has been told then.
pub fn execute(supervisor: OwnedFd, scope: Scope, command: &[OsString]) {
    // As a file: a socket's methods send, and that may be left to the supervisor already.
    let mut supervisor = File::from(supervisor);
    let installed = rustix::thread::set_no_new_privs(true)
        .map_err(|errno| Errno::from_raw(errno.raw_os_error()))
        .and_then(|()| seccomp::install(&mut scope.program()));
    let listener = match installed {
        Ok(listener) => listener,
        Err(errno) => {
            // Nobody is left to be told if that fails.
            let _ = say(&mut supervisor, Step::NotInstalled(errno as i32));
            return;
        }
    };
    let place = (&raw const SAMPLE).addr() as u64;
    if say(&mut supervisor, Step::Installed(listener.as_raw_fd(), place)).is_err() {
        return;
    }
    // The supervisor has its own copy when it says go. If it is gone, so is everything.
    if supervisor.read_exact(&mut [0]).is_err() {
        return;
    }
    drop(listener);
    // If the supervisor is lost, so is the network; the front says so.
    let _ = set_parent_process_death_signal(Some(Signal::TERM));
    let Some((program, arguments)) = command.split_first() else { return };
    let error = Command::new(program).args(arguments).exec();
    let number = error.raw_os_error().unwrap_or(Errno::EINVAL as i32);
    let _ = say(&mut supervisor, Step::NotExecuted(number));
}

fn say(supervisor: &mut File, step: Step) -> io::Result<()> {
    let line = serde_json::to_string(&step).unwrap_or_default() + "\n";
    supervisor.write_all(line.as_bytes())
}

/// Takes the filter's descriptor from the command that is about to be executed, and lets it go on.
pub(super) fn take(pid: u32, command: &Channel) -> Result<OwnedFd, Refusal> {
    let system = |what: &dyn std::fmt::Display| Refusal::System(what.to_string());
    let mut steps = command.heard::<Step>().map_err(|error| system(&error))?;
    let (number, place) = match steps.next() {
        Some(Step::Installed(number, place)) => (number, place),
        Some(Step::NotInstalled(number)) if number == Errno::EBUSY as i32 => {
            return Err(Refusal::Supervised);
        }
        Some(Step::NotInstalled(number) | Step::NotExecuted(number)) => {
            return Err(Refusal::NoFilter(number));
        }
        None => return Err(system(&"the command ended before it was started")),
    };
    let not_allowed = |errno: rustix::io::Errno| Refusal::NotAllowed(errno.raw_os_error());
    let pid =
        Pid::from_raw(pid.cast_signed()).ok_or_else(|| system(&"a process without a number"))?;
    let process = pidfd_open(pid, PidfdFlags::empty()).map_err(not_allowed)?;
    // This is also the test whether the supervisor may do what it will have to do all the time.
    let listener =
        pidfd_getfd(process.as_fd(), number, PidfdGetfdFlags::empty()).map_err(not_allowed)?;
    if !is_readable(pid, place) {
        return Err(Refusal::NotAllowed(Errno::EPERM as i32));
    }
    command.stream().write_all(&[0]).map_err(|error| system(&error))?;
    Ok(listener)
}

/// Whether the command was executed: then its end of the pair is closed. Else, the error number.
pub(super) fn executed(command: &Channel) -> Result<(), i32> {
    match command.heard::<Step>().ok().and_then(|mut steps| steps.next()) {
        Some(Step::NotExecuted(number)) => Err(number),
        _ => Ok(()),
    }
}

fn is_readable(pid: Pid, place: u64) -> bool {
    use nix::sys::uio::{RemoteIoVec, process_vm_readv};
    let mut found = [0; 8];
    let Ok(base) = usize::try_from(place) else { return false };
    let pid = nix::unistd::Pid::from_raw(pid.as_raw_nonzero().get());
    let remote = RemoteIoVec { base, len: found.len() };
    let read = process_vm_readv(pid, &mut [std::io::IoSliceMut::new(&mut found)], &[remote]);
    read == Ok(found.len()) && u64::from_ne_bytes(found) == SAMPLE
}
