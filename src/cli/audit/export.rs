//! Writing events to a file, or to whatever else its path names.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::{
        fd::AsFd,
        unix::fs::{MetadataExt, OpenOptionsExt},
    },
    path::{Path, absolute},
};

use crate::client::Watch;

/// Where events are written, other than standard output.
pub(super) enum Target<'a> {
    /// A regular file, which is created, or replaced as a whole.
    File(&'a Path),
    /// Something else that exists: a device, a pipe or a symbolic link. It is opened, not replaced.
    Existing(&'a Path),
}

impl<'a> Target<'a> {
    /// The target that the path names; `None` for standard output, as `-` or by another name such as `/dev/stdout`.
    pub(super) fn of(path: &'a Path) -> Option<Self> {
        match fs::symlink_metadata(path) {
            _ if path.as_os_str() == "-" => None,
            Ok(found) if !found.is_file() => (!is_stdout(path)).then_some(Self::Existing(path)),
            _ => Some(Self::File(path)),
        }
    }

    /// Writes all bytes.
    pub(super) fn write(&self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::File(file) => replace(file, bytes),
            Self::Existing(path) => {
                let _watch = Watch::over(format!("somebody to read {}", path.display()));
                // No O_CREAT: the target of a dangling link is not ours to create.
                OpenOptions::new().write(true).truncate(true).open(path)?.write_all(bytes)
            }
        }
    }
}

fn is_stdout(path: &Path) -> bool {
    let Ok(named) = fs::metadata(path) else { return false };
    let output = io::stdout().as_fd().try_clone_to_owned().and_then(|fd| File::from(fd).metadata());
    output.is_ok_and(|output| (output.dev(), output.ino()) == (named.dev(), named.ino()))
}

/// Replaces the file atomically, so that it is never incomplete; only the user may access it.
fn replace(file: &Path, bytes: &[u8]) -> io::Result<()> {
    let file = absolute(file)?;
    let name = file.file_name().ok_or(io::ErrorKind::IsADirectory)?;
    let mut partial = name.to_owned();
    partial.push(format!(".{}.tmp", std::process::id()));
    let partial = file.with_file_name(partial);
    let mut options = OpenOptions::new();
    let mut output = options.write(true).create_new(true).mode(0o600).open(&partial)?;
    let written = output.write_all(bytes).and_then(|()| output.sync_all());
    let renamed = written.and_then(|()| fs::rename(&partial, &file));
    if renamed.is_err() {
        let _ = fs::remove_file(&partial);
    }
    renamed
}
