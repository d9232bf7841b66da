//! The files of styxy 1.x. What somebody else can have written in them is not taken.

use std::{
    fs,
    io::{self, Read},
    path::Path,
};

use super::super::own::only_own;
use crate::atomic_file;

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
