//! The files of styxy 1.x. What somebody else can have written in them is not taken.

use std::{
    fs::{self, Metadata},
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::Path,
};

use nix::unistd::{Gid, Group};

use crate::{
    atomic_file,
    kernel::{listeners::user, process},
};

/// Checks that the folder exists, and that nobody else can put files into it. It may be a link: people keep such folders in
/// other places.
///
/// # Errors
///
/// What is wrong with it, and what to do.
pub(super) fn check(folder: &Path) -> Result<(), String> {
    let shown = folder.display();
    match fs::metadata(folder) {
        Ok(metadata) if !metadata.is_dir() => Err(format!("{shown} is not a folder")),
        Ok(metadata) => only_own(&metadata).map_err(|why| format!("{shown} {why}")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(format!("there is no folder {shown}: name the one of styxy 1.x"))
        }
        Err(error) => Err(format!("{shown} cannot be read: {error}")),
    }
}

/// The text of a file of the folder, of at most this many bytes; `None` if there is no such file.
///
/// # Errors
///
/// Why it cannot be taken, and what to do.
pub(super) fn read(folder: &Path, name: &str, most: u64) -> Result<Option<String>, String> {
    let path = folder.join(name);
    let unreadable = |error: io::Error| format!("cannot be read: {error}");
    let file = match atomic_file::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound && !path.is_symlink() => {
            return Ok(None);
        }
        Err(error) => return Err(unreadable(error)),
    };
    only_own(&file.metadata().map_err(unreadable)?)?;
    let mut bytes = Vec::new();
    file.take(most + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > most {
        return Err(format!("has more than {most} bytes, and styxy 1.x never wrote that much"));
    }
    match String::from_utf8(bytes) {
        Ok(text) => Ok(Some(text)),
        Err(_) => Err("is not UTF-8: save it as UTF-8".to_owned()),
    }
}

/// Checks that only this user and root can have written it. Where each user has a group of their own, as on most
/// distributions, styxy 1.x made its files writable for that group.
fn only_own(metadata: &Metadata) -> Result<(), String> {
    let (owner, mode) = (metadata.uid(), metadata.mode());
    if owner != process::uid() && owner != 0 {
        let name = user(owner);
        return Err(format!(
            "belongs to {name}: run this command as {name}, or make it yours (chown)"
        ));
    }
    if mode & 0o002 != 0 {
        return Err("can be changed by every user: look at it, and then `chmod o-w` it".to_owned());
    }
    if mode & 0o020 != 0 && !is_own_group(metadata.gid()) {
        return Err("can be changed by its group: look at it, and then `chmod g-w` it".to_owned());
    }
    Ok(())
}

/// Whether it is the group of this user alone: it has the same name, and no other members.
fn is_own_group(gid: u32) -> bool {
    let own = user(process::uid());
    let group = Group::from_gid(Gid::from_raw(gid)).ok().flatten();
    group.is_some_and(|group| *group.name == *own && group.mem.iter().all(|name| **name == *own))
}
