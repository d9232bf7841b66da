//! Whether a home directory belongs to the user.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use nix::unistd::Uid;

use super::folder::can_write;

/// A user's entry in the passwd database.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) home: PathBuf,
}

/// The home of a user.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Home {
    Mine(PathBuf),
    /// There is none, and that is no error: in a container or a bare system service.
    Absent,
    /// It belongs to another person, and files would be created in it.
    Others {
        name: String,
        path: PathBuf,
    },
}

/// The entry of a user in the passwd database (passwd(5), nsswitch.conf(5)).
pub(super) fn entry(uid: u32) -> Option<Entry> {
    let user = nix::unistd::User::from_uid(Uid::from_raw(uid)).ok().flatten()?;
    Some(Entry { name: user.name, home: user.dir })
}

/// The home of a user: from `$HOME`, else from the passwd entry.
pub(super) fn of(uid: u32, named: Option<&Path>, entry: &dyn Fn(u32) -> Option<Entry>) -> Home {
    let named = named.filter(|home| home.is_absolute());
    let first = named.map(|home| (home, judged(uid, home, entry)));
    match first {
        Some((home, Judged::Good)) => return Home::Mine(home.to_owned()),
        Some((home, Judged::Others(name))) => {
            return Home::Others { name, path: home.to_owned() };
        }
        _ => {}
    }
    let by_entry = entry(uid).map(|entry| entry.home);
    match by_entry.map(|home| (judged(uid, &home, &|_| None), home)) {
        Some((Judged::Good | Judged::ReadOnly, home)) => Home::Mine(home),
        _ => match first {
            // It cannot hold the state, but may hold the configuration.
            Some((home, Judged::ReadOnly)) => Home::Mine(home.to_owned()),
            _ => Home::Absent,
        },
    }
}

enum Judged {
    Good,
    ReadOnly,
    /// It belongs to another named user, and this user's files would be created in it.
    Others(String),
    None,
}

fn judged(uid: u32, home: &Path, entry: &dyn Fn(u32) -> Option<Entry>) -> Judged {
    let Ok(found) = fs::metadata(home) else { return Judged::None };
    // Containers use `/` as the home of users without one.
    if home == Path::new("/") || !found.is_dir() {
        return Judged::None;
    }
    if found.uid() == uid {
        return if can_write(home) { Judged::Good } else { Judged::ReadOnly };
    }
    // A directory that everybody may write to, such as `/tmp`, is nobody's home.
    let is_open_to_all = found.mode() & 0o002 != 0;
    let is_in_danger = uid == 0 || (!is_open_to_all && can_write(home));
    if !is_in_danger || found.uid() == overflow() {
        return Judged::None;
    }
    // A user without a name is known only outside of this container.
    match (entry(uid), entry(found.uid())) {
        (Some(_), Some(owner)) => Judged::Others(owner.name),
        _ => Judged::None,
    }
}

/// The user ID that stands for all users that a user namespace or a mount does not map (`user_namespaces(7)`).
fn overflow() -> u32 {
    let text = fs::read_to_string("/proc/sys/kernel/overflowuid");
    text.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(65_534)
}
