//! What must outlive the process: an append-only log and a snapshot, in a private folder.
//!
//! The files are numbered by generation. `snapshot.N` is the state at the moment when `log.N` began,
//! so the state is the newest snapshot and every log from its generation on, in order. Both are
//! lines of JSON, each with a checksum in front. A log is also the queue of the audit: it is deleted
//! only when a newer snapshot is durable and its events are known to be in the journal.
//!
//! - [`lock`]: one service at a time
//! - [`line`]: the content of a line, and how it is written and read
//! - [`store`]: appending, syncing, compacting
//! - [`recover`]: reading the state at the start, and handling damage
//! - [`writer`]: the disk thread, which makes it durable
//! - [`reader`]: the log as the audit and followers read it

pub mod line;
pub mod lock;
pub mod reader;
pub mod recover;
pub mod store;
pub mod writer;

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
};

pub use lock::Lock;
pub use reader::Reader;
pub use recover::{Found, ids, is_in, look, paths, written_by_newer};
pub use store::{OpenError, Snapshot, Store};
pub use writer::Writer;

/// The two kinds of files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Snapshot,
    Log,
}

/// A file's kind and generation, which are its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Name {
    kind: Kind,
    generation: u64,
}

impl Name {
    fn log(generation: u64) -> Self {
        Self { kind: Kind::Log, generation }
    }

    fn snapshot(generation: u64) -> Self {
        Self { kind: Kind::Snapshot, generation }
    }

    fn parse(file: &str) -> Option<Self> {
        let (kind, generation) = file.split_once('.')?;
        let kind = match kind {
            "snapshot" => Kind::Snapshot,
            "log" => Kind::Log,
            _ => return None,
        };
        // Not one that numbers cannot be counted on from.
        let generation = generation.parse().ok().filter(|number| *number < u64::from(u32::MAX))?;
        let name = Self { kind, generation };
        // A number can be spelled in several ways, and only one of them is the file's name.
        (name.to_string() == file).then_some(name)
    }

    fn path(self, folder: &Path) -> PathBuf {
        folder.join(self.to_string())
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::Snapshot => "snapshot",
            Kind::Log => "log",
        };
        write!(f, "{kind}.{:08}", self.generation)
    }
}

/// The state files of a folder, the oldest generation first.
fn files(folder: &Path) -> io::Result<Vec<Name>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        names.extend(entry?.file_name().to_str().and_then(Name::parse));
    }
    names.sort_unstable_by_key(|name| name.generation);
    Ok(names)
}

#[cfg(test)]
mod tests;
