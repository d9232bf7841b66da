//! Reading a folder that nobody vouches for: only what lies inside, only so much, and a file that
//! cannot be read is as good as none.

use std::{
    cell::Cell,
    fs::{self, OpenOptions},
    io::Read,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use super::text::shown;

/// Files above this are not read: no manifest that a person wrote is as large.
const MOST_BYTES_A_FILE: u64 = 1 << 20;
/// What is read in all, so that a folder full of large files takes no time either.
const MOST_BYTES: u64 = 32 << 20;
/// The workspace members that are looked at.
const MOST_MEMBERS: usize = 200;
/// The entries of a folder that a pattern is held against.
const MOST_ENTRIES: usize = 10_000;
/// The patterns of a workspace, and the parts of one, that count.
const MOST_PATTERNS: usize = 100;
const MOST_SEGMENTS: usize = 12;

/// A folder of the project: its root, or a member of its workspace.
pub(super) struct Folder<'a> {
    root: &'a Path,
    path: PathBuf,
    left: &'a Cell<u64>,
}

/// What all folders of one project share.
pub(super) struct Project {
    root: PathBuf,
    left: Cell<u64>,
}

impl Project {
    /// Returns the project in that folder, if there is a folder.
    pub(super) fn at(folder: &Path) -> Option<Self> {
        let root = folder.canonicalize().ok()?;
        Some(Self { root, left: Cell::new(MOST_BYTES) })
    }

    pub(super) fn root(&self) -> Folder<'_> {
        Folder { root: &self.root, path: self.root.clone(), left: &self.left }
    }
}

impl Folder<'_> {
    /// The way here from the root, empty for the root itself.
    pub(super) fn place(&self) -> &Path {
        self.path.strip_prefix(self.root).unwrap_or(Path::new(""))
    }

    /// The file as people are told of it: its way from the root.
    pub(super) fn file(&self, name: &str) -> String {
        shown(&self.place().join(name).to_string_lossy())
    }

    /// The content of a file.
    pub(super) fn read(&self, name: &str) -> Option<String> {
        let path = self.inside(name)?;
        // Without waiting: a FIFO under a manifest's name has no writer.
        let flags = nix::libc::O_NONBLOCK;
        let file = OpenOptions::new().read(true).custom_flags(flags).open(path).ok()?;
        let about = file.metadata().ok()?;
        if !about.is_file() || about.len() > MOST_BYTES_A_FILE {
            return None;
        }
        let left = self.left.get().checked_sub(about.len())?;
        let mut bytes = Vec::new();
        file.take(about.len()).read_to_end(&mut bytes).ok()?;
        self.left.set(left);
        let text = String::from_utf8_lossy(&bytes);
        Some(text.strip_prefix('\u{feff}').unwrap_or(&text).to_owned())
    }

    /// The first of these files that is there, and its content.
    pub(super) fn first<'n>(&self, names: &[&'n str]) -> Option<(&'n str, String)> {
        names.iter().find_map(|name| Some((*name, self.read(name)?)))
    }

    pub(super) fn has_folder(&self, name: &str) -> bool {
        self.inside(name).is_some_and(|path| path.is_dir())
    }

    pub(super) fn has_file(&self, name: &str) -> bool {
        self.inside(name).is_some_and(|path| path.is_file())
    }

    /// The folders that fit one of the patterns, have that manifest, and fit none that begins with
    /// `!`; in the order of the patterns, then by name.
    pub(super) fn members(&self, patterns: &[&str], manifest: &str) -> Vec<Self> {
        let patterns = &patterns[..patterns.len().min(MOST_PATTERNS)];
        let mut members: Vec<Self> = Vec::new();
        let refused: Vec<Vec<&str>> =
            patterns.iter().filter_map(|p| p.strip_prefix('!')).map(segments).collect();
        for pattern in patterns.iter().filter(|pattern| !pattern.starts_with('!')) {
            for member in self.matching(pattern) {
                let place = member.place().to_string_lossy().into_owned();
                let known = members.iter().any(|other| other.path == member.path)
                    || member.path == self.path;
                if !known
                    && member.has_file(manifest)
                    && !refused.iter().any(|pattern| fits_path(&segments(&place), pattern))
                {
                    members.push(member);
                }
                if members.len() >= MOST_MEMBERS {
                    return members;
                }
            }
        }
        members
    }

    /// The folders below this one whose path fits the pattern, by name.
    fn matching(&self, pattern: &str) -> Vec<Self> {
        let mut found = vec![self.path.clone()];
        for segment in segments(pattern) {
            let mut next = Vec::new();
            for folder in found {
                if segment.contains('*') {
                    next.extend(
                        entries(&folder)
                            .into_iter()
                            .filter(|name| fits(name, segment))
                            .map(|name| folder.join(name)),
                    );
                } else {
                    next.push(folder.join(segment));
                }
                if next.len() > MOST_ENTRIES {
                    break;
                }
            }
            // Here, so that no pattern walks out and in again.
            next.retain(|path| self.resolve(path).is_some_and(|path| path.is_dir()));
            found = next;
        }
        found.sort_unstable();
        found.iter().filter_map(|path| self.resolve(path)).map(|path| self.at(path)).collect()
    }

    fn at(&self, path: PathBuf) -> Self {
        Self { root: self.root, path, left: self.left }
    }

    fn inside(&self, name: &str) -> Option<PathBuf> {
        self.resolve(&self.path.join(name))
    }

    /// Where that really is; `None` outside of the project and in `node_modules`.
    fn resolve(&self, path: &Path) -> Option<PathBuf> {
        let path = path.canonicalize().ok()?;
        let below = path.strip_prefix(self.root).ok()?;
        let installed = below.components().any(|part| part.as_os_str() == "node_modules");
        (!installed).then_some(path)
    }
}

/// The names in a folder, without hidden ones and what is installed.
fn entries(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let names =
        entries.take(MOST_ENTRIES).filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.filter(|name| !name.starts_with('.') && name != "node_modules").collect()
}

fn segments(pattern: &str) -> Vec<&str> {
    let named = pattern.split('/').filter(|segment| !matches!(*segment, "" | "."));
    named.take(MOST_SEGMENTS).collect()
}

/// Whether every part of the path fits the pattern's; `**` stands for any number of parts.
fn fits_path(path: &[&str], pattern: &[&str]) -> bool {
    match (path, pattern) {
        ([], []) => true,
        (_, ["**", others @ ..]) => {
            fits_path(path, others)
                || path.split_first().is_some_and(|(_, p)| fits_path(p, pattern))
        }
        ([name, path @ ..], [segment, pattern @ ..]) => {
            fits(name, segment) && fits_path(path, pattern)
        }
        _ => false,
    }
}

/// Whether the name fits a pattern in which `*` stands for anything.
fn fits(name: &str, pattern: &str) -> bool {
    let mut pieces = pattern.split('*');
    let first = pieces.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else { return false };
    let Some(last) = pieces.next_back() else { return rest.is_empty() };
    for piece in pieces {
        let Some(at) = rest.find(piece) else { return false };
        rest = &rest[at + piece.len()..];
    }
    rest.ends_with(last)
}
