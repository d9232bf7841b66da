//! Where a command cannot have a localhost of its own.

use std::{env, ffi::OsString, fs, path::Path};

use nix::{errno::Errno, unistd::geteuid};

use super::super::{CliError, output::short, refused};
use crate::remap::{VARIABLE, control::Task, seccomp, table::Mode};

/// What runs around this command.
pub(super) enum Nested {
    /// Nothing that maps ports.
    No,
    /// A `styxy run --remap` of the same project.
    InSame,
}

/// Finds out whether this process is mapped already.
pub(super) fn nested(task: &Task) -> Result<Nested, CliError> {
    let Some(project) = env::var_os(VARIABLE).filter(|_| has_filter()) else {
        return Ok(Nested::No);
    };
    let project = project.to_string_lossy();
    if project == task.project.as_str() && task.mode != Mode::Map {
        return Ok(Nested::InSame);
    }
    Err(refused(format!(
        "this shell has the localhost of {} already (styxy run --remap), and a process can have only one: run the command \
         in another terminal",
        short(&project)
    )))
}

/// Whether the ports of this process are mapped.
pub(super) fn is_mapped() -> bool {
    around().is_some()
}

/// The project whose localhost this process has.
fn around() -> Option<String> {
    let project = env::var_os(VARIABLE).filter(|_| has_filter())?;
    Some(project.to_string_lossy().into_owned())
}

/// Whether a filter is installed for this process: the variable alone may come from anywhere.
fn has_filter() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mode = status.lines().find_map(|line| line.strip_prefix("Seccomp:"));
    mode.is_some_and(|mode| mode.trim() == "2")
}

/// Why this cannot work with this command, or for this user; `None` if it can.
pub(super) fn cannot_work(command: &[OsString], may_be_root: bool) -> Option<String> {
    let name = command.first().map(|program| Path::new(program).file_name().unwrap_or_default());
    let name = name.unwrap_or_default().to_string_lossy().into_owned();
    if ["sudo", "su", "doas", "pkexec"].contains(&name.as_str()) {
        return Some(format!(
            "{name} cannot become another user within --remap, whose filter rules that out (no_new_privs): run styxy as that user"
        ));
    }
    if ["podman", "buildah"].contains(&name.as_str()) && !geteuid().is_root() {
        return Some(format!(
            "{name} without root needs newuidmap, which cannot work within --remap (no_new_privs): run it outside, and map its \
             published port with --reach"
        ));
    }
    if geteuid().is_root() && !may_be_root {
        return Some(
            "--remap as root maps the ports of programs that may need others: run it as a user, or add --allow-root, in a container \
             for example"
                .to_owned(),
        );
    }
    match seccomp::is_supported() {
        Ok(()) => None,
        Err(errno) => Some(without_filter(errno)),
    }
}

/// Why there is no filter.
pub(super) fn without_filter(errno: Errno) -> String {
    match errno {
        Errno::EINVAL | Errno::ENOSYS => {
            "--remap needs Linux 5.19 or newer, with seccomp; `uname -r` says which this is"
                .to_owned()
        }
        errno => format!("the filter for --remap cannot be installed: {errno}"),
    }
}

/// Why a supervisor may not take the descriptors of its child.
pub(super) fn not_allowed(errno: Errno) -> String {
    let scope = fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").unwrap_or_default();
    match scope.trim() {
        scope @ ("2" | "3") => format!(
            "kernel.yama.ptrace_scope={scope} forbids --remap, which has to look at the programs that it starts: 1 is enough"
        ),
        _ if errno == Errno::ENOSYS => {
            "pidfd_getfd(2) or process_vm_readv(2) is not available here, and --remap needs both: a container's seccomp profile may forbid \
             them"
                .to_owned()
        }
        _ => format!(
            "--remap may not look at the programs that it starts here ({errno}): a container's seccomp profile, AppArmor or SELinux \
             forbids it"
        ),
    }
}
