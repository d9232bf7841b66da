//! What somebody sees of the configuration. A command and a service may see different files by the same names: the
//! sandbox of the unit hides what links lead to outside of the folder, and a folder that was replaced is still the old
//! one for a service that was started before. So commands say what they see, and show the service what it cannot.

use std::{
    fs::{self, Metadata},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::files;
use crate::word::fnv1a;

/// The most that a command may show of its configuration, in bytes of JSON.
pub const LARGEST_SEEN: usize = 16 << 20;

/// What is seen of the folders of the configuration.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Seen {
    /// In the order in which they count.
    pub folders: Vec<SeenFolder>,
}

/// What is seen of one folder.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SeenFolder {
    /// Its path.
    pub path: PathBuf,
    /// Which folder it is; `None` if there is none.
    pub folder: Option<Which>,
    /// Its files, by their paths in it.
    pub files: Vec<SeenFile>,
}

/// What is seen of one file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SeenFile {
    /// Its path in the folder.
    pub name: PathBuf,
    /// Which file, in which version.
    pub stamp: Stamp,
    /// What it says, if that is told and could be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

/// Which file or folder something is, whatever its path (`stat(2)`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Which {
    /// The device.
    pub device: u64,
    /// The number on that device.
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
    /// That of a path; links are followed.
    pub fn of(path: &Path) -> Option<Self> {
        fs::metadata(path).ok().map(|metadata| Self::from(&metadata))
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
    /// That of a path, if a file is there; links are followed.
    pub fn of(path: &Path) -> Option<Self> {
        fs::metadata(path).ok().filter(Metadata::is_file).map(|metadata| (&metadata).into())
    }

    /// That of the path itself, also if it is a link.
    pub fn of_link(path: &Path) -> Option<Self> {
        fs::symlink_metadata(path).ok().map(|metadata| (&metadata).into())
    }
}

impl Seen {
    /// Looks at the folders, and reads no file.
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

    /// Reads the files, too, as far as they can be read as files of a configuration.
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

    /// Returns a short text that is the same if, and only if, the same is seen: 16 hexadecimal digits.
    pub fn fingerprint(&self) -> String {
        let folders = self.folders.iter().map(|folder| {
            let files: Vec<_> = folder.files.iter().map(|f| (&f.name, f.stamp)).collect();
            format!("{:?} {files:?}\n", folder.folder)
        });
        format!("{:016x}", fnv1a(folders.collect::<String>().as_bytes()))
    }

    /// Reads what a command has sent as JSON.
    pub fn parse(json: &[u8]) -> io::Result<Self> {
        Ok(serde_json::from_slice(json)?)
    }
}
