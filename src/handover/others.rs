//! The other registries of this user that a service finds when it starts, and what it does with them.
//!
//! ```text
//! STATE/                    where this systemd keeps a unit's state; PLACE/ stands for where another version does
//! STATE/KEY/                the registry of this machine and network, whose lock the service holds
//! STATE/log.*, PLACE/log.*  of a version before 2.0, which did not separate machines and networks  merged
//! PLACE/KEY/                of this machine and network, but under another systemd                 merged
//! STATE/OTHER-KEY/          of another machine or network                                          left alone
//! STATE/MACHINE-NETWORK/    of a network of this machine that is gone                              deleted
//! …/merged.ID/              a state that was merged before                                         deleted
//! ```
//!
//! A merge is done in this order, so that it may be interrupted at any instant: the service locks the older
//! registry; one change adds its content and records the id of its state; this change is made durable; the older
//! files are moved to `merged.ID`; those of their events that are not in the journal yet are sent, with the id of
//! the older state; the files are deleted. A service that finds an older registry whose state was already merged
//! continues with the move.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use super::{Claim, Rank, claim, older};
use crate::{
    kernel::{network, process},
    state::{self, Lock},
    surroundings::machine,
};

/// The prefix of the folder of a merged state.
const MERGED: &str = "merged.";
/// A file that records which network a registry is for, unless it is the machine's own.
const NETWORK: &str = "network";

/// The other registries of this user, by what is done with them.
#[derive(Debug, Default)]
pub struct Others {
    /// Of this machine and network: they are merged into the present one.
    pub older: Vec<Older>,
    /// Of other machines and networks. A new registry copies what they remember.
    pub siblings: Vec<PathBuf>,
    /// Only the audit still needs these.
    pub spent: Vec<Spent>,
}

/// An older registry, locked.
#[derive(Debug)]
pub struct Older {
    folder: PathBuf,
    lock: Lock,
}

/// A folder that can be deleted once its events are in the journal.
#[derive(Debug)]
pub struct Spent {
    folder: PathBuf,
    _lock: Option<Lock>,
}

/// Finds the registries other than `own`, which is in `state` and which the caller has locked. A registry whose
/// service does not give way is left for another time.
pub fn find(state: &Path, own: &Path, places: &[PathBuf], rank: Rank, into: &mut Claim) {
    note_network(own);
    for place in distinct(places.iter().map(PathBuf::as_path).chain([state])) {
        if machine::has_unnamed_state() {
            into.others.find_merged(place);
            if state::is_in(place) {
                match older::retire(place) {
                    Ok(Some(lock)) => into.others.add(place, lock),
                    Ok(None) => {}
                    Err(refused) => tracing::warn!("an older registry is left alone: {refused}"),
                }
            }
        }
        let keyed = place.join(machine::key());
        if is_same(&keyed, own) {
            continue;
        }
        into.others.find_merged(&keyed);
        if state::is_in(&keyed) {
            match claim(&keyed, rank) {
                Ok(Claim { lock: Some(lock), guards, processes, .. }) => {
                    into.guards.extend(guards);
                    into.processes.extend(processes);
                    into.others.add(&keyed, lock);
                }
                Ok(_) => {}
                Err(refused) => tracing::warn!("an older registry is left alone: {refused}"),
            }
        }
    }
    into.others.find_siblings(state);
}

impl Others {
    fn add(&mut self, folder: &Path, lock: Lock) {
        self.older.push(Older { folder: folder.to_owned(), lock });
    }

    /// Finds the states that were merged before.
    fn find_merged(&mut self, folder: &Path) {
        let merged = folders(folder).filter(|(name, _)| name.starts_with(MERGED));
        self.spent.extend(merged.map(|(_, folder)| Spent { folder, _lock: None }));
    }

    /// Finds the registries of other machines and networks.
    fn find_siblings(&mut self, state: &Path) {
        if !machine::has_unnamed_state() && state::is_in(state) {
            self.siblings.push(state.to_owned());
        }
        for (name, folder) in folders(state) {
            if !machine::is_key(&name) || name == machine::key() {
                continue;
            }
            if machine::is_key_of_other_network(&name)
                && let Some(lock) = lock_of_gone_network(&folder)
            {
                self.spent.push(Spent { folder, _lock: Some(lock) });
            } else if state::is_in(&folder) {
                self.siblings.push(folder);
            }
        }
    }
}

impl Older {
    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Moves the files of the state to a folder of their own. The merge of the state must be durable.
    pub fn set_aside(self, state_id: &str) -> io::Result<Spent> {
        let aside = self.folder.join(format!("{MERGED}{state_id}"));
        match fs::create_dir(&aside) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        for file in state::paths(&self.folder)? {
            if let Some(name) = file.file_name() {
                fs::rename(&file, aside.join(name))?;
            }
        }
        File::open(&aside)?.sync_all()?;
        File::open(&self.folder)?.sync_all()?;
        Ok(Spent { folder: aside, _lock: Some(self.lock) })
    }
}

impl Spent {
    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Renames it instead, because a part of it was damaged: somebody may want to examine it.
    pub fn keep(self) -> io::Result<()> {
        let name = self.folder.file_name().unwrap_or_default().to_string_lossy();
        fs::rename(&self.folder, self.folder.with_file_name(format!("damaged.{name}")))
    }

    /// Deletes it, and the registry's folder around it if that contains nothing else but what every service
    /// creates again.
    pub fn delete(self) -> io::Result<()> {
        fs::remove_dir_all(&self.folder)?;
        let around = self.folder.parent().unwrap_or(&self.folder);
        let name = around.file_name().unwrap_or_default().to_string_lossy();
        if machine::is_key(&name) && !state::is_in(around) {
            for name in ["config.good", "handover.sock", "http.sock", "leases", "lock", NETWORK] {
                let _ = fs::remove_file(around.join(name));
            }
            // Fails if there is a log or a damaged file: somebody may want to examine it.
            let _ = fs::remove_dir(around);
        }
        Ok(())
    }
}

/// Records which network the registry is for, so that its folder can be deleted when that network is gone.
fn note_network(own: &Path) {
    if !machine::is_in_own_network()
        && let Some(mark) = network::mark()
        && let Err(error) = fs::write(own.join(NETWORK), format!("{} {mark}\n", process::boot_id()))
    {
        tracing::warn!("{} stays when its network has gone: {error}", own.display());
    }
}

/// The lock of a registry whose network is gone, and which no service holds. A network is only known to be gone
/// if it was recorded: in an earlier boot, or in this one with a mark that no process has.
fn lock_of_gone_network(folder: &Path) -> Option<Lock> {
    let noted = fs::read_to_string(folder.join(NETWORK)).ok()?;
    let (boot_id, mark) = noted.trim().split_once(' ')?;
    let is_gone =
        boot_id != process::boot_id() || network::is_inhabited(mark.parse().ok()?) == Some(false);
    if is_gone { Lock::try_take(folder).ok() } else { None }
}

/// The subfolders of a folder, with their names.
fn folders(folder: &Path) -> impl Iterator<Item = (String, PathBuf)> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    folders.filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.path())))
}

/// Each folder once, even if links lead to some of them.
fn distinct<'a>(folders: impl Iterator<Item = &'a Path>) -> Vec<&'a Path> {
    let mut distinct: Vec<&Path> = Vec::new();
    for folder in folders {
        if !distinct.iter().any(|known| is_same(known, folder)) {
            distinct.push(folder);
        }
    }
    distinct
}

fn is_same(one: &Path, other: &Path) -> bool {
    let file = |path| fs::metadata(path).ok().map(|file| (file.dev(), file.ino()));
    one == other || (file(one).is_some() && file(one) == file(other))
}
