//! The lock of a state folder: one service at a time writes to it.

use std::{
    fs::{self, DirBuilder, File, Permissions},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};

use super::store::{OpenError, private_file};

/// How long to wait: a child that a killed service had forked holds the lock until it calls exec.
pub const LEFTOVER: Duration = Duration::from_secs(1);

/// The lock, held as long as this lives (`flock(2)`).
#[derive(Debug)]
pub struct Lock {
    file: Flock<File>,
}

impl Lock {
    /// Creates the folder if needed, accessible to its user only, and locks it.
    pub fn take(folder: &Path) -> Result<Self, OpenError> {
        let until = Instant::now() + LEFTOVER;
        loop {
            match Self::try_take(folder) {
                Err(OpenError::Locked(_)) if Instant::now() < until => {
                    thread::sleep(Duration::from_millis(20));
                }
                result => return result,
            }
        }
    }

    /// The same, without waiting.
    pub fn try_take(folder: &Path) -> Result<Self, OpenError> {
        private_folder(folder).map_err(|error| OpenError::Io(folder.to_owned(), error))?;
        let path = path(folder);
        let file = private_file().create(true).truncate(false).open(&path);
        let file = file.map_err(|error| OpenError::Io(path.clone(), error))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(file) => Ok(Self { file }),
            Err((_, Errno::EWOULDBLOCK)) => Err(OpenError::Locked(folder.to_owned())),
            Err((_, errno)) => Err(OpenError::Io(path, errno.into())),
        }
    }

    /// Whether its file was deleted, most likely with the folder: then it excludes nobody.
    pub fn is_deleted(&self) -> bool {
        self.file.metadata().is_ok_and(|file| file.nlink() == 0)
    }
}

/// The process that holds the lock of a folder, according to `/proc/locks` (proc(5)). Processes on other machines, and
/// those that are not visible here, are not found, nor is one that is gone and has left its lock to a child.
pub fn holder(folder: &Path) -> Option<u32> {
    let inode = fs::metadata(path(folder)).ok()?.ino();
    // While locks come and go, one may be missing from what is read.
    let holder = (0..3).find_map(|_| holder_in(&fs::read_to_string("/proc/locks").ok()?, inode));
    holder.filter(|pid| Path::new("/proc").join(pid.to_string()).exists())
}

/// A line is `1: FLOCK  ADVISORY  WRITE 1234 00:2f:5678 0 EOF`. The device is left out of account: some file systems tell
/// another one to stat(2).
fn holder_in(locks: &str, inode: u64) -> Option<u32> {
    locks.lines().find_map(|line| {
        let fields: Vec<_> = line.split_ascii_whitespace().collect();
        let [_, "FLOCK", _, "WRITE", pid, file, ..] = fields[..] else { return None };
        let (_, number) = file.rsplit_once(':')?;
        if number.parse() != Ok(inode) {
            return None;
        }
        pid.parse().ok().filter(|pid| *pid > 0)
    })
}

fn path(folder: &Path) -> PathBuf {
    folder.join("lock")
}

fn private_folder(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let mode = fs::metadata(folder)?.permissions().mode();
    if mode & 0o077 != 0 {
        fs::set_permissions(folder, Permissions::from_mode(0o700))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_locked_once_and_the_kernel_tells_by_whom() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(holder(folder.path()), None);
        let lock = Lock::take(folder.path()).unwrap();
        assert!(matches!(Lock::try_take(folder.path()), Err(OpenError::Locked(_))));
        assert_eq!(holder(folder.path()), Some(std::process::id()));
        drop(lock);
        assert_eq!(holder(folder.path()), None);
        Lock::try_take(folder.path()).unwrap();
    }

    #[test]
    fn only_the_holder_of_this_file_is_found_among_all_locks() {
        let locks = "1: POSIX  ADVISORY  WRITE 11 00:2f:77 0 EOF\n\
                     2: FLOCK  ADVISORY  WRITE 12 00:2f:78 0 EOF\n\
                     2: -> FLOCK  ADVISORY  WRITE 13 00:2f:77 0 EOF\n\
                     3: FLOCK  ADVISORY  WRITE 0 00:2f:79 0 EOF\n\
                     4: FLOCK  ADVISORY  WRITE 14 00:2f:77 0 EOF\n";
        assert_eq!(holder_in(locks, 77), Some(14));
        assert_eq!(holder_in(locks, 79), None, "a process that is not seen here");
        assert_eq!(holder_in(locks, 80), None);
    }
}
