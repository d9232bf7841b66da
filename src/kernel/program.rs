//! The program that runs, and the one that is installed now.

use std::{fs, os::unix::fs::MetadataExt, path::PathBuf};

/// What the kernel adds to the name of a program whose file is gone (`proc_pid_exe(5)`).
const DELETED: &str = " (deleted)";

/// Whether another file has the name of the program that runs: after an upgrade.
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
