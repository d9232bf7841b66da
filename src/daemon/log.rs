//! The log of a private service, in its state folder: what it says on stderr, and where there is no journal,
//! its audit events.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use nix::unistd::{dup2_stderr, dup2_stdout};

use crate::audit::past::log::{KEPT, older, path};

/// A longer log is rotated by the next service.
const LONG: u64 = 1024 * 1024;

/// Redirects stderr to the log in this folder, whose lock the caller holds, or to nowhere.
pub(super) fn begin(state: Option<&Path>) -> io::Result<()> {
    Ok(dup2_stderr(state.map_or_else(nowhere, open)?)?)
}

fn open(state: &Path) -> io::Result<File> {
    let path = path(state);
    if fs::metadata(&path).is_ok_and(|log| log.len() > LONG) {
        set_aside(state)?;
    }
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

fn nowhere() -> io::Result<File> {
    File::options().write(true).open("/dev/null")
}

fn set_aside(state: &Path) -> io::Result<()> {
    for age in (1..KEPT).rev() {
        match fs::rename(older(state, age), older(state, age + 1)) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    fs::rename(path(state), older(state, 1))
}

/// Closes stdout: whoever started the service reads until end of file.
pub(super) fn close_stdout() -> io::Result<()> {
    Ok(dup2_stdout(nowhere()?)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::past::log::all;

    #[test]
    fn a_long_log_is_set_aside_and_the_oldest_goes() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path();
        for number in 1..=7 {
            fs::write(path(state), number.to_string()).unwrap();
            set_aside(state).unwrap();
        }
        let found: Vec<_> = all(state).iter().filter_map(|p| fs::read_to_string(p).ok()).collect();
        assert_eq!(found, ["4", "5", "6", "7"]);
    }
}
