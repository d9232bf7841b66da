//! What a command sees, for a service that another process starts for it.

use std::{fmt, fs, io, os::unix::fs::MetadataExt, path::Path, str::FromStr};

/// The network and the state folder that a command sees. The user's service manager may be in other namespaces:
/// a service started there would allocate other ports, or keep them in another place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    network: u64,
    device: u64,
    inode: u64,
}

impl Seen {
    /// What this process sees; `None` if it cannot find out.
    pub fn of(state: &Path) -> Option<Self> {
        let network = fs::metadata("/proc/self/ns/net").ok()?.ino();
        let state = fs::metadata(state).ok()?;
        Some(Self { network, device: state.dev(), inode: state.ino() })
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.network, self.device, self.inode)
    }
}

impl FromStr for Seen {
    type Err = io::Error;

    fn from_str(text: &str) -> io::Result<Self> {
        let mut numbers = text.split(':').map(|number| number.parse().ok());
        let mut next = || numbers.next().flatten().ok_or(io::ErrorKind::InvalidInput);
        Ok(Self { network: next()?, device: next()?, inode: next()? })
    }
}
