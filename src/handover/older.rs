//! State and services of older versions: these had one state folder for all machines, and no socket beside its lock.

use std::{fs, io, path::Path, thread, time::Instant};

use rustix::process::{Signal, pidfd_send_signal};

use super::{PATIENCE, PAUSE, Refused};
use crate::{
    kernel::process::{self, Process},
    state::{Lock, lock, store::OpenError},
};

/// A file that exists in the folder of a registry until everything that belongs to the registry has been moved there.
const MOVING: &str = "moving";

/// Moves a state that is in the state folder itself to the folder of this machine's registry, which the caller
/// has locked. A registry that already has a state is left as it is.
pub fn adopt(state: &Path, registry: &Path) -> Result<io::Result<()>, Refused> {
    let is_wanted = has_state(state) && (!has_state(registry) || registry.join(MOVING).exists());
    if !is_wanted {
        return Ok(Ok(()));
    }
    let Some(_lock) = retire(state)? else { return Ok(Ok(())) };
    Ok(move_all(state, registry))
}

/// Moves all files. A move that is interrupted is continued by the next [`adopt`].
fn move_all(state: &Path, registry: &Path) -> io::Result<()> {
    fs::write(registry.join(MOVING), "")?;
    for entry in fs::read_dir(state)? {
        let name = entry?.file_name();
        if belongs_to_a_registry(&name.to_string_lossy()) {
            fs::rename(state.join(&name), registry.join(&name))?;
        }
    }
    fs::remove_file(registry.join(MOVING))
}

fn has_state(folder: &Path) -> bool {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.into_iter().any(|entry| {
        let name = entry.file_name();
        ["log.", "snapshot."].iter().any(|start| name.to_string_lossy().starts_with(start))
    })
}

fn belongs_to_a_registry(name: &str) -> bool {
    let starts = ["log.", "snapshot.", "damaged.", "newer.", "config.good", "service.log", "auto-"];
    starts.iter().any(|start| name.starts_with(start))
}

/// Takes the lock of a folder in which a service of an older version, without such a socket, may run. A service
/// of this user is sent SIGTERM, so that it stores its state and exits.
pub(super) fn retire(folder: &Path) -> Result<Option<Lock>, Refused> {
    let until = Instant::now() + PATIENCE;
    let mut told = None;
    loop {
        match Lock::try_take(folder) {
            Ok(lock) => return Ok(Some(lock)),
            Err(OpenError::Locked(_)) => {}
            Err(_) => return Ok(None),
        }
        let holder = lock::holder(folder);
        if holder != told {
            holder.inspect(|pid| tell_to_end(*pid));
            told = holder;
        }
        if Instant::now() > until {
            return Err(Refused::silent(folder));
        }
        thread::sleep(PAUSE);
    }
}

fn tell_to_end(pid: u32) {
    // `Process::of_pid` refuses processes of other users, which must not be ended.
    if let Ok(process) = Process::of_pid(pid)
        && process::comm(pid).as_deref() == Some("styxy")
    {
        let _ = pidfd_send_signal(&process.pidfd, Signal::TERM);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        os::unix::fs::symlink,
        process::{Child, Command, Stdio},
    };

    use tempfile::TempDir;

    use super::*;

    #[test]
    fn a_service_of_an_older_version_is_told_to_end() {
        let folder = tempfile::tempdir().unwrap();
        let mut older = older(&folder);
        assert!(retire(folder.path()).unwrap().is_some());
        assert!(!older.wait().unwrap().success());
    }

    #[test]
    fn the_state_of_an_older_version_becomes_this_machines_registry() {
        let folder = tempfile::tempdir().unwrap();
        let (state, registry) = (folder.path(), folder.path().join("0123456789abcdef"));
        for name in ["log.00000002", "snapshot.00000002", "config.good", "lock"] {
            fs::write(state.join(name), name).unwrap();
        }
        fs::create_dir(&registry).unwrap();
        fs::create_dir(state.join("another-machine")).unwrap();
        adopt(state, &registry).unwrap().unwrap();
        for name in ["log.00000002", "snapshot.00000002", "config.good"] {
            assert_eq!(fs::read_to_string(registry.join(name)).unwrap(), name);
            assert!(!state.join(name).exists());
        }
        assert!(!registry.join(MOVING).exists() && state.join("another-machine").exists());
        // A state that appears later is not mixed with it.
        fs::write(state.join("log.00000001"), "another").unwrap();
        adopt(state, &registry).unwrap().unwrap();
        assert!(state.join("log.00000001").exists());
    }

    #[test]
    fn a_move_that_was_stopped_in_the_middle_is_gone_on_with() {
        let folder = tempfile::tempdir().unwrap();
        let (state, registry) = (folder.path(), folder.path().join("0123456789abcdef"));
        fs::create_dir(&registry).unwrap();
        fs::write(registry.join("snapshot.00000002"), "").unwrap();
        fs::write(registry.join(MOVING), "").unwrap();
        fs::write(state.join("log.00000002"), "").unwrap();
        adopt(state, &registry).unwrap().unwrap();
        assert!(registry.join("log.00000002").exists() && !registry.join(MOVING).exists());
    }

    /// A process with the name of the service that holds the folder's lock.
    fn older(folder: &TempDir) -> Child {
        let program = folder.path().join("styxy");
        symlink("/usr/bin/flock", &program).unwrap();
        let mut older = Command::new(program)
            .args(["--close", "lock", "sh", "-c", "echo; read -r _"])
            .current_dir(folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        io::Read::read_exact(older.stdout.as_mut().unwrap(), &mut [0]).unwrap();
        older
    }
}
