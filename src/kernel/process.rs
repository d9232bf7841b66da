//! Who a client is, and which boot this is: from `/proc` (proc(5)).

use std::{fs, sync::Arc};

/// The name of a process's command; `None` when it is gone.
pub fn comm(pid: u32) -> Option<Arc<str>> {
    let comm = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    Some(comm.trim_end_matches('\n').into())
}

/// The id of this boot of the machine (random(4)).
pub fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map_or_else(|_| "unknown".to_owned(), |id| id.trim_end().to_owned())
}

/// The user that this process runs as.
pub fn uid() -> u32 {
    nix::unistd::getuid().as_raw()
}
