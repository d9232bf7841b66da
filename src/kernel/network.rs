//! Network namespaces (`network_namespaces(7)`), here called networks. Each has ports of its own.

#![allow(unsafe_code)]

use std::{
    fs, io,
    mem::size_of,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd},
        unix::fs::MetadataExt,
    },
    path::Path,
};

use nix::{
    libc,
    sys::socket::{AddressFamily, SockFlag, SockType, socket},
};

/// A network of the running kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// The network of the system that `/etc/machine-id` names: the initial one, or that of a container that
    /// booted systemd.
    Machine,
    /// Another one, by a number that is unique until the next boot, or, before Linux 5.14, as long as the network
    /// exists.
    Other(u64),
}

/// The network of this process.
pub fn here() -> Network {
    if is_initial() || is_of_booted_system() { Network::Machine } else { Network::Other(number()) }
}

/// The number of this network, if it is that of a container that booted systemd.
pub fn of_booted_container() -> Option<u64> {
    (!is_initial() && is_of_booted_system()).then(number)
}

/// Whether PID 1 is systemd, and in this network.
fn is_of_booted_system() -> bool {
    is_booted() && same(1) == Some(true)
}

fn number() -> u64 {
    cookie().or_else(|_| inode()).unwrap_or_default()
}

/// Whether a process is in the same network as this one; `None` if that is not visible, because the process has
/// ended or `/proc` hides it.
pub fn same(pid: u32) -> Option<bool> {
    // Reading /proc/PID/ns/net needs permission to trace the process, which a sandboxed service does not have.
    // The files in /proc/PID/net are visible to all, and differ between networks.
    let device = |process: &str| {
        let file = fs::metadata(format!("/proc/{process}/net/dev")).ok()?;
        Some((file.dev(), file.ino()))
    };
    Some(device(&pid.to_string())? == device("self")?)
}

/// A number by which the network of this process can be recognized: no two networks have it at the same time, but
/// it may be reused after the network's end.
pub fn mark() -> Option<u64> {
    mark_of("self")
}

/// Whether any process is in the network with this mark; `None` if not all processes of the machine are visible,
/// so that a hidden one may be in it. A network without a process may still be kept by a file (`ip-netns(8)`).
pub fn is_inhabited(mark: u64) -> Option<bool> {
    // The inode number of the initial PID namespace in every kernel (PROC_PID_INIT_INO).
    const FIRST: u64 = 0xEFFF_FFFC;
    let own = fs::metadata("/proc/self/ns/pid").ok()?.ino();
    if own != FIRST && !is_booted() {
        return None;
    }
    let mut processes = fs::read_dir("/proc").ok()?.flatten().filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        name.bytes().all(|byte| byte.is_ascii_digit()).then_some(name)
    });
    Some(processes.any(|process| mark_of(&process) == Some(mark)))
}

fn mark_of(process: &str) -> Option<u64> {
    fs::metadata(format!("/proc/{process}/net/dev")).ok().map(|file| file.ino())
}

/// Whether this is the initial network of the kernel: only there are the settings visible that apply to all networks.
fn is_initial() -> bool {
    Path::new("/proc/sys/net/core/dev_weight").exists()
}

/// Whether PID 1 is a systemd that booted this system or container: like `sd_booted(3)`, but false in a sandbox
/// that shows the files of a booted system and has a PID 1 of its own.
fn is_booted() -> bool {
    Path::new("/run/systemd/system").is_dir()
        && fs::read_to_string("/proc/1/comm").is_ok_and(|comm| comm == "systemd\n")
}

/// The number of this network, which is never reused.
pub fn cookie() -> io::Result<u64> {
    let any = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    cookie_of(any.as_fd())
}

/// The number of the network of a socket (`SO_NETNS_COOKIE`, since Linux 5.14).
pub fn cookie_of(socket: BorrowedFd<'_>) -> io::Result<u64> {
    let mut cookie = 0_u64;
    let mut length = libc::socklen_t::try_from(size_of::<u64>()).expect("8 fits");
    // SAFETY: the kernel writes at most `length` bytes to `cookie`, which is that long, and both outlive the call.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if result == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}

/// Its number on older kernels, which a later network may reuse.
fn inode() -> io::Result<u64> {
    fs::metadata("/proc/self/ns/net").map(|file| file.ino())
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn the_settings_of_all_networks_are_seen_in_the_first_one_alone() {
        let Some(mut other) = in_another_network() else { return };
        let output = Command::new("unshare")
            .args(["--map-root-user", "--net", "test", "-e", "/proc/sys/net/core/dev_weight"])
            .status()
            .unwrap();
        assert_eq!(output.code(), Some(1));
        other.kill().unwrap();
        other.wait().unwrap();
    }

    #[test]
    fn a_process_in_another_network_is_seen_to_be_there() {
        let mut here = Command::new("sleep").arg("60").spawn().unwrap();
        assert_eq!(same(here.id()), Some(true));
        here.kill().unwrap();
        here.wait().unwrap();
        assert_eq!(same(here.id()), None);

        let Some(mut other) = in_another_network() else { return };
        assert_eq!(same(other.id()), Some(false));
        other.kill().unwrap();
        other.wait().unwrap();
    }

    #[test]
    fn a_network_is_inhabited_as_long_as_a_process_is_in_it() {
        let here = mark().unwrap();
        if is_inhabited(here).is_none() {
            eprintln!("SKIPPED: not all processes are seen here");
            return;
        }
        assert_eq!(is_inhabited(here), Some(true));
        let Some(mut other) = in_another_network() else { return };
        let there = mark_of(&other.id().to_string()).unwrap();
        assert_ne!(there, here);
        assert_eq!(is_inhabited(there), Some(true));
        other.kill().unwrap();
        other.wait().unwrap();
        assert_eq!(is_inhabited(there), Some(false));
    }

    #[test]
    fn a_network_keeps_its_number() {
        let first = cookie().unwrap();
        assert_ne!(first, 0);
        assert_eq!(cookie().unwrap(), first);
        assert_eq!(here(), here());
    }

    /// A process in a network of its own; `None` where no user namespace can be created.
    fn in_another_network() -> Option<std::process::Child> {
        let mut other = Command::new("unshare")
            .args(["--map-root-user", "--net", "sh", "-c", "echo; read -r _"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let mut line = [0];
        io::Read::read_exact(other.stdout.as_mut()?, &mut line).ok()?;
        Some(other)
    }
}
