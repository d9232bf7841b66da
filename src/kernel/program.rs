//! The running program, and the one that is installed now.

use std::{fs, os::unix::fs::MetadataExt, path::PathBuf};

/// What the kernel appends to the path of a program whose file was deleted (`proc_pid_exe(5)`).
const DELETED: &str = " (deleted)";

/// Whether the path of the running program now leads to another file, as after an upgrade.
pub fn is_replaced() -> bool {
    let running = fs::metadata("/proc/self/exe");
    let installed = fs::read_link("/proc/self/exe").and_then(|path| {
        let path = path.to_string_lossy().into_owned();
        fs::metadata(PathBuf::from(path.strip_suffix(DELETED).unwrap_or(&path)))
    });
    match (running, installed) {
        (Ok(running), Ok(installed)) => {
            (running.dev(), running.ino()) != (installed.dev(), installed.ino())
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn this_program_is_the_one_that_is_installed() {
        assert!(!super::is_replaced());
    }
}
