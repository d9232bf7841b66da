//! What a process sees of the configuration. A command and a service may see different files under the same
//! names: the sandbox of the unit hides the targets of links that lead out of the folder, and a service that
//! was started before a folder was replaced still sees the old one. So commands say what they see, and show the
//! service what it cannot see.

use std::{
    fs::{self, Metadata, OpenOptions},
    io,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use nix::libc::O_DIRECTORY;
use serde::{Deserialize, Serialize};

use super::files;
use crate::{atomic_file, word::fnv1a};

/// The maximum size of the configuration that a command may show, in bytes of JSON.
pub const LARGEST_SEEN: usize = 16 << 20;

/// What a process sees of the configuration folders.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Seen {
    /// Lowest precedence first.
    pub folders: Vec<SeenFolder>,
}

/// What a process sees of one folder.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SeenFolder {
    /// Its path.
    pub path: PathBuf,
    /// Which folder it is; `None` if it does not exist.
    pub folder: Option<Which>,
    /// Its files, by their paths in it.
    pub files: Vec<SeenFile>,
}

/// What a process sees of one file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SeenFile {
    /// Its path in the folder.
    pub name: PathBuf,
    /// Which file, in which version.
    pub stamp: Stamp,
    /// Its text, if that is included and could be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

/// The identity of a file or folder, whatever its path (`stat(2)`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Which {
    /// The device.
    pub device: u64,
    /// The inode number on that device.
    pub inode: u64,
}

/// Which version of which file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// Which file.
    #[serde(flatten)]
    pub which: Which,
    /// Its size in bytes.
    pub size: u64,
    /// When it was last changed, in nanoseconds since the epoch.
    pub modified: i64,
}

impl Which {
    /// The identity of the folder at a path, if it can be listed; links are followed. Landlock hides what is in a folder,
    /// not that there is one.
    pub fn of(path: &Path) -> Option<Self> {
        let folder = OpenOptions::new().read(true).custom_flags(O_DIRECTORY).open(path);
        folder.and_then(|folder| folder.metadata()).ok().map(|metadata| Self::from(&metadata))
    }
}

impl From<&Metadata> for Which {
    fn from(metadata: &Metadata) -> Self {
        Self { device: metadata.dev(), inode: metadata.ino() }
    }
}

impl From<&Metadata> for Stamp {
    fn from(metadata: &Metadata) -> Self {
        let modified = metadata.mtime().saturating_mul(1_000_000_000);
        Self {
            which: metadata.into(),
            size: metadata.size(),
            modified: modified.saturating_add(metadata.mtime_nsec()),
        }
    }
}

impl Stamp {
    /// The version of the file at a path, if it can be read; links are followed.
    pub fn of(path: &Path) -> Option<Self> {
        let metadata = atomic_file::open(path).and_then(|file| file.metadata());
        metadata.ok().map(|metadata| (&metadata).into())
    }

    /// The version of the path itself, even if it is a link.
    pub fn of_link(path: &Path) -> Option<Self> {
        fs::symlink_metadata(path).ok().map(|metadata| (&metadata).into())
    }
}

impl Seen {
    /// Looks at the folders without reading files.
    pub fn of(folders: &[PathBuf]) -> Self {
        let seen = |folder: &PathBuf| {
            let files = files::list(folder, &[], &mut Vec::new()).into_iter();
            let file = |path: PathBuf| {
                let name = path.strip_prefix(folder).ok()?.to_owned();
                Some(SeenFile { name, stamp: Stamp::of(&path)?, text: None })
            };
            SeenFolder {
                path: folder.clone(),
                folder: Which::of(folder),
                files: files.filter_map(file).collect(),
            }
        };
        Self { folders: folders.iter().map(seen).collect() }
    }

    /// Reads the files, too, as far as they are readable as configuration files.
    #[must_use]
    pub fn with_texts(mut self) -> Self {
        for folder in &mut self.folders {
            for file in &mut folder.files {
                let read = files::read_file(folder.path.join(&file.name));
                file.text = read.ok().map(|read| read.text);
            }
        }
        self
    }

    /// Returns a hash of 16 hexadecimal digits: the same if the same is seen, and practically never otherwise.
    pub fn fingerprint(&self) -> String {
        let folders = self.folders.iter().map(|folder| {
            let files: Vec<_> = folder.files.iter().map(|f| (&f.name, f.stamp)).collect();
            format!("{:?} {files:?}\n", folder.folder)
        });
        format!("{:016x}", fnv1a(folders.collect::<String>().as_bytes()))
    }

    /// Parses what a command has sent as JSON.
    pub fn parse(json: &[u8]) -> io::Result<Self> {
        Ok(serde_json::from_slice(json)?)
    }
}
