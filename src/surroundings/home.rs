//! Whether a home directory is the user's.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use nix::unistd::Uid;

use super::folder::can_write;

/// What the passwd database says of a user.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) home: PathBuf,
}

/// Which home a user has.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Home {
    Mine(PathBuf),
    /// There is none, and that is nobody's fault: a container, a bare system service.
    Absent,
    /// It is another person's, and files would be made in it.
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

/// The home of a user: the one that `$HOME` names, else the one of the passwd entry.
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
    /// Another named user's, where files of this one's would be made.
    Others(String),
    None,
}

fn judged(uid: u32, home: &Path, entry: &dyn Fn(u32) -> Option<Entry>) -> Judged {
    let Ok(found) = fs::metadata(home) else { return Judged::None };
    // Containers have `/` as the home of users without one.
    if home == Path::new("/") || !found.is_dir() {
        return Judged::None;
    }
    if found.uid() == uid {
        return if can_write(home) { Judged::Good } else { Judged::ReadOnly };
    }
    // What everybody may write to, as `/tmp`, is nobody's home.
    let is_open_to_all = found.mode() & 0o002 != 0;
    let is_in_danger = uid == 0 || (!is_open_to_all && can_write(home));
    if !is_in_danger || found.uid() == overflow() {
        return Judged::None;
    }
    // Without a name, one of them is known only outside of this container.
    match (entry(uid), entry(found.uid())) {
        (Some(_), Some(owner)) => Judged::Others(owner.name),
        _ => Judged::None,
    }
}

/// The number that stands for all users whom a user namespace or a mount does not know
/// (`user_namespaces(7)`).
fn overflow() -> u32 {
    let text = fs::read_to_string("/proc/sys/kernel/overflowuid");
    text.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(65_534)
}
