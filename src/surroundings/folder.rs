//! Whether a folder is usable, and the fallback in `/tmp`.

use std::{
    fs::{self, DirBuilder, File, Metadata},
    io::{self, ErrorKind},
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant, SystemTime},
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
    unistd::{AccessFlags, eaccess},
};
use uuid::Uuid;

use super::machine;
use crate::state;

/// How long a command waits for its turn to create a folder.
const TURN: Duration = Duration::from_secs(1);

/// Permissions that others must not have on a folder with a socket: they could replace the socket.
const WRITABLE: u32 = 0o022;

/// Whether it is a folder of the user and writable by nobody else; else why not, to follow "…, ".
pub(super) fn is_own(uid: u32, path: &Path) -> Result<(), String> {
    match fs::metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Err("which does not exist".to_owned()),
        Err(error) => Err(format!("which cannot be used ({error})")),
        Ok(found) if !found.is_dir() => Err("which is no directory".to_owned()),
        Ok(found) if found.uid() != uid => Err(format!("which belongs to {}", name(found.uid()))),
        Ok(found) if found.mode() & WRITABLE != 0 => {
            Err("which other users may write to".to_owned())
        }
        Ok(_) => Ok(()),
    }
}

/// The name of a user in messages.
pub(super) fn name(uid: u32) -> String {
    super::home::entry(uid).map_or_else(|| format!("user {uid}"), |entry| entry.name)
}

/// Whether the user may create files in it.
pub(super) fn can_write(path: &Path) -> bool {
    writable(path).is_ok()
}

/// The same, or why not: EROFS on a read-only file system, EACCES because of permissions.
fn writable(path: &Path) -> Result<(), Errno> {
    eaccess(path, AccessFlags::W_OK | AccessFlags::X_OK)
}

/// The first usable folder; else why the first one is not usable.
pub(super) fn first_usable(
    uid: u32,
    mut folders: impl Iterator<Item = PathBuf>,
) -> Result<PathBuf, String> {
    let first = folders.next().ok_or("there is no folder for it")?;
    let why_not = match is_usable(uid, &first) {
        Ok(()) => return Ok(first),
        Err(why) => why,
    };
    folders.find(|folder| is_usable(uid, folder).is_ok()).ok_or(why_not)
}

fn is_usable(uid: u32, path: &Path) -> Result<(), String> {
    // An existing state must not be abandoned for another place: the user is told to fix the folder instead.
    let is_there = fs::metadata(path).is_ok_and(|found| found.is_dir() && found.uid() == uid);
    let is_left = match writable(path) {
        Err(Errno::EACCES) => is_there,
        // A home may be read-only by design, as in an image.
        Err(Errno::EROFS) => is_there && state::is_in(&path.join(machine::key())),
        _ => false,
    };
    if is_left {
        return Ok(());
    }
    can_be_had(uid, path)
}

/// Whether it exists, belongs to the user and is writable, or can be created; else why not.
pub(super) fn can_be_had(uid: u32, path: &Path) -> Result<(), String> {
    // mkdir(2) does not follow a link, so one that leads nowhere is in the way.
    let existing = path.ancestors().find(|folder| match fs::symlink_metadata(folder) {
        Err(error) => error.kind() != ErrorKind::NotFound,
        Ok(_) => true,
    });
    let Some(folder) = existing else { return Err("there is no file system".to_owned()) };
    let shown = folder.display();
    let found = fs::metadata(folder).map_err(|error| match error.kind() {
        ErrorKind::NotFound => format!("{shown} is a broken link"),
        _ => format!("{shown}: {error}"),
    })?;
    if !found.is_dir() {
        Err(format!("{shown} is no directory"))
    } else if folder == path && found.uid() != uid {
        Err(format!("{shown} belongs to {}", name(found.uid())))
    } else {
        writable(folder).map_err(|errno| format!("{shown} cannot be written to ({})", errno.desc()))
    }
}

/// The turn to create a folder in this one, among the commands of a user: a lock (flock(2)) until it is
/// dropped. Anybody can take such a lock in `/tmp`, so nobody waits for it for long.
fn turn(parent: &Path) -> Option<Flock<File>> {
    let mut parent = File::open(parent).ok()?;
    let until = Instant::now() + TURN;
    loop {
        match Flock::lock(parent, FlockArg::LockExclusiveNonblock) {
            Ok(turn) => return Some(turn),
            Err((unlocked, Errno::EWOULDBLOCK)) if Instant::now() < until => parent = unlocked,
            Err(_) => return None,
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// The folder in `/tmp` of a user without a home.
///
/// Anybody can create a folder there under any name, so one counts only if it is a real folder (not a link),
/// belongs to the user and is closed to everybody else, as for ssh-agent(1) and tmux(1).
#[derive(Clone, Debug)]
pub(super) struct Temporary {
    uid: u32,
    /// Where it may be, in order of preference. `/tmp` comes first: it is the same in every shell.
    parents: Vec<PathBuf>,
}

impl Temporary {
    pub(super) fn new(uid: u32, named: Option<PathBuf>) -> Self {
        let parents = [PathBuf::from("/tmp")].into_iter().chain(named);
        Self { uid, parents: parents.collect() }
    }

    #[cfg(test)]
    pub(super) fn within(uid: u32, parent: PathBuf) -> Self {
        Self { uid, parents: vec![parent] }
    }

    /// The folder, if there is one; of several, the oldest, so that everybody finds the same one.
    pub(super) fn find(&self) -> Option<PathBuf> {
        self.parents.iter().find_map(|parent| self.find_in(parent))
    }

    /// The folder, created if needed.
    pub(super) fn find_or_make(&self) -> Result<PathBuf, String> {
        if let Some(folder) = self.find() {
            return Ok(folder);
        }
        let mut troubles = Vec::new();
        for parent in &self.parents {
            let _turn = turn(parent);
            // The previous holder of the turn may have created it.
            if let Some(folder) = self.find_in(parent) {
                return Ok(folder);
            }
            match self.make_in(parent) {
                Ok(()) => {
                    // Without turns, another command may have created one at the same moment. An older one, by
                    // the clock of the file system, is visible after a tick of that clock.
                    thread::sleep(Duration::from_millis(20));
                    return self
                        .find_in(parent)
                        .ok_or_else(|| format!("the folder made in {} is gone", parent.display()));
                }
                Err(error) => {
                    troubles.push(format!("{} cannot be used ({error})", parent.display()));
                }
            }
        }
        Err(troubles.join(", "))
    }

    /// Whether one could be created.
    pub(super) fn has_room(&self) -> bool {
        self.parents.iter().any(|parent| can_write(parent))
    }

    fn base(&self) -> String {
        format!("styxy-{}", self.uid)
    }

    fn make_in(&self, parent: &Path) -> io::Result<()> {
        let make = |name: String| DirBuilder::new().mode(0o700).create(parent.join(name));
        match make(self.base()) {
            // Somebody else took the name, so the folder gets one that nobody can guess.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                make(format!("{}-{}", self.base(), Uuid::new_v4().simple()))
            }
            made => made,
        }
    }

    fn find_in(&self, parent: &Path) -> Option<PathBuf> {
        let (base, longer) = (self.base(), format!("{}-", self.base()));
        let entries = fs::read_dir(parent).ok()?.filter_map(Result::ok);
        let named = entries.filter(|entry| {
            let name = entry.file_name();
            name.as_encoded_bytes() == base.as_bytes()
                || name.as_encoded_bytes().starts_with(longer.as_bytes())
        });
        let own = named.filter_map(|entry| {
            // The metadata of the entry itself, not of the target of a link.
            let found = entry.metadata().ok().filter(|found| self.is_private(found))?;
            Some((found.created().unwrap_or(SystemTime::UNIX_EPOCH), entry.path()))
        });
        own.min().map(|(_, path)| path)
    }

    fn is_private(&self, found: &Metadata) -> bool {
        found.is_dir() && found.uid() == self.uid && found.mode() & 0o777 == 0o700
    }
}
