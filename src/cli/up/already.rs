//! What another `styxy up` of the project runs already.
//!
//! Each process is a byte of a file in the state folder, which no other user can open. The kernel gives the lock of that byte to one
//! `styxy up`, says which one that is, and takes it back when that ends (fcntl(2), "Advisory record locking").

use std::{
    fs::{File, OpenOptions},
    os::unix::fs::OpenOptionsExt,
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, fcntl},
    libc,
};
use serde_json::Value as Json;

use super::plan::Planned;
use crate::{
    cli::{CliError, lease::found, needs::is_same_service, output::lasted, project::Project},
    kernel::process::age,
    surroundings::user,
    value::Fields,
    word::fnv1a,
};

/// The file, in the state folder.
const FILE: &str = "up.lock";

/// How often a lock is tried that somebody has, and then nobody.
const TRIES: usize = 3;

/// The locks that this command has, until it is dropped. There must be no other file of them in this process: the end of any of
/// them would be the end of all locks.
pub(super) struct Locks(Option<File>);

impl Locks {
    /// Opens the file. Where it cannot be opened, nobody has any lock.
    pub(super) fn open() -> Self {
        let file = user().state().and_then(|state| {
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(true).truncate(false).mode(0o600);
            options.custom_flags(libc::O_NOFOLLOW).open(state.join(FILE)).ok()
        });
        Self(file)
    }

    /// Takes the lock of a process, or returns the PID of the `styxy up` that has it.
    pub(super) fn take(&self, project: &Project, planned: &Planned) -> Option<u32> {
        let file = self.0.as_ref()?;
        for _ in 0..TRIES {
            match fcntl(file, FcntlArg::F_SETLK(&lock(project, planned))) {
                Err(Errno::EACCES | Errno::EAGAIN) => {}
                // Not every file system has locks.
                Ok(_) | Err(_) => return None,
            }
            // Else it has just ended.
            if let Some(holder) = self.holder(project, planned) {
                return Some(holder);
            }
        }
        None
    }

    /// The PID of the `styxy up` that runs a process; 0 if that is not visible here.
    pub(super) fn holder(&self, project: &Project, planned: &Planned) -> Option<u32> {
        let mut lock = lock(project, planned);
        fcntl(self.0.as_ref()?, FcntlArg::F_GETLK(&mut lock)).ok()?;
        let is_free = i32::from(lock.l_type) == libc::F_UNLCK;
        (!is_free).then(|| u32::try_from(lock.l_pid).unwrap_or(0))
    }
}

/// The lock of the byte of a process.
fn lock(project: &Project, planned: &Planned) -> libc::flock {
    let folder = planned.process.folder.display();
    let key = format!("{}\n{folder}\n{}", project.path().as_str(), planned.name);
    // Places in a file are positive.
    let place = fnv1a(key.as_bytes()) >> 2;
    libc::flock {
        l_type: libc::F_WRLCK.try_into().expect("a small number"),
        l_whence: libc::SEEK_SET.try_into().expect("a small number"),
        l_start: place.try_into().unwrap_or_default(),
        l_len: 1,
        l_pid: 0,
    }
}

/// Says which processes others run, given the PID of the `styxy up` that runs each: `web (port 3000) and jobs are up already …`.
pub(super) fn sentence(
    others: &[(&Planned, u32)],
    services: &[Json],
    project: &Project,
) -> Result<String, CliError> {
    let mut filter = Fields::default();
    filter.put("project_path", project.path().as_str());
    let leases = found(filter)?;
    let mut pids: Vec<_> = others.iter().map(|(_, pid)| *pid).collect();
    pids.dedup();
    let clause = |pid: u32| {
        let its = others.iter().filter(|(_, other)| *other == pid);
        let names: Vec<_> =
            its.map(|(planned, _)| named(planned, pid, services, &leases)).collect();
        let (verb, them) = if names.len() == 1 { ("is", "it") } else { ("are", "them") };
        let since = age(pid).map(|age| format!(" for {}", lasted(age.as_secs())));
        let who = if pid == 0 {
            "a styxy up that cannot be seen from here".to_owned()
        } else {
            format!("styxy up (PID {pid})")
        };
        let since = since.unwrap_or_default();
        format!("{} {verb} up already: {who} has run {them}{since}", names.join(", "))
    };
    Ok(pids.into_iter().map(clause).collect::<Vec<_>>().join("; "))
}

/// `web (port 3000)`
fn named(planned: &Planned, pid: u32, services: &[Json], leases: &[Json]) -> String {
    let service = planned.process.ports.first().map(|at| &services[*at]);
    let is_its = |lease: &&Json| {
        lease["pid"] == pid && service.is_some_and(|service| is_same_service(service, lease))
    };
    match leases.iter().find(is_its) {
        Some(lease) => format!("{} (port {})", planned.name, lease["port"]),
        None => planned.name.clone(),
    }
}
