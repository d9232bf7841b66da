//! Whether what is in a file or a folder can only come from this user.

use std::{fs::Metadata, os::unix::fs::MetadataExt};

use nix::unistd::{Gid, Group};

use crate::kernel::{listeners::user, process};

/// Checks that only this user and root can have written it. Where each user has a group of their own, as on most
/// distributions, many files are writable for that group.
///
/// # Errors
///
/// Who else can, and what to do.
pub(super) fn only_own(metadata: &Metadata) -> Result<(), String> {
    let (owner, mode) = (metadata.uid(), metadata.mode());
    if owner != process::uid() && owner != 0 {
        let name = user(owner);
        return Err(format!(
            "belongs to {name}: run this command as {name}, or make it yours (chown)"
        ));
    }
    if mode & 0o002 != 0 {
        return Err("can be changed by every user: check it, then run `chmod o-w` on it".to_owned());
    }
    if mode & 0o020 != 0 && !is_own_group(metadata.gid()) {
        return Err("can be changed by its group: check it, then run `chmod g-w` on it".to_owned());
    }
    Ok(())
}

/// Whether it is the group of this user alone: it has the same name, and no other members.
fn is_own_group(gid: u32) -> bool {
    let own = user(process::uid());
    let group = Group::from_gid(Gid::from_raw(gid)).ok().flatten();
    group.is_some_and(|group| *group.name == *own && group.mem.iter().all(|name| **name == *own))
}
