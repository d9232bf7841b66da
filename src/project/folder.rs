//! Reading an untrusted folder: only what is inside, only a limited amount, and an unreadable file counts as
//! missing.

use std::{
    cell::Cell,
    collections::HashSet,
    fs::{self, OpenOptions},
    io::Read,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use super::text::shown;

/// The largest file that is read, in bytes: no manifest that a person wrote is larger.
const MOST_BYTES_A_FILE: u64 = 1 << 20;
/// The total that is read, in bytes, so that a folder full of large files takes little time, too.
const MOST_BYTES: u64 = 32 << 20;
/// The maximum number of workspace members that are examined.
const MOST_MEMBERS: usize = 200;
/// The maximum number of entries of a folder that are matched against a pattern.
const MOST_ENTRIES: usize = 10_000;
/// The maximum number of patterns of a workspace, and of segments of a pattern.
const MOST_PATTERNS: usize = 100;
const MOST_SEGMENTS: usize = 12;
/// The number of steps that all patterns of a project may take together: comparisons with a name or a part of a
/// path, of which a pattern may require very many. So hostile patterns are limited by a number and not by time.
const MOST_STEPS: u32 = 100_000;
/// The cost of resolving a path, in steps; the kernel looks at each of its parts.
const RESOLVING: u32 = 5;

/// A folder of the project: its root, or a member of its workspace.
pub(super) struct Folder<'a> {
    root: &'a Path,
    path: PathBuf,
    left: &'a Left,
}

/// What all folders of one project share.
pub(super) struct Project {
    root: PathBuf,
    left: Left,
}

/// What is left of the limits.
struct Left {
    bytes: Cell<u64>,
    steps: Cell<u32>,
    /// Whether something was left out because it exceeded the limits.
    is_cut: Cell<bool>,
}

impl Left {
    /// Takes this many steps; false if not enough are left.
    fn step(&self, steps: u32) -> bool {
        match self.steps.get().checked_sub(steps) {
            Some(left) => self.steps.set(left),
            None => self.cut(),
        }
        !self.is_cut.get()
    }

    fn cut(&self) {
        self.is_cut.set(true);
    }
}

impl Project {
    /// Returns the project in this folder, if the folder exists.
    pub(super) fn at(folder: &Path) -> Option<Self> {
        let root = folder.canonicalize().ok()?;
        let left = Left {
            bytes: Cell::new(MOST_BYTES),
            steps: Cell::new(MOST_STEPS),
            is_cut: Cell::new(false),
        };
        Some(Self { root, left })
    }

    /// Whether some members of its workspace were not examined, because its patterns require too much.
    pub(super) fn is_cut_short(&self) -> bool {
        self.left.is_cut.get()
    }

    pub(super) fn root(&self) -> Folder<'_> {
        Folder { root: &self.root, path: self.root.clone(), left: &self.left }
    }
}

impl Folder<'_> {
    /// The path of this folder from the root; empty for the root itself.
    pub(super) fn place(&self) -> &Path {
        self.path.strip_prefix(self.root).unwrap_or(Path::new(""))
    }

    /// The path of a file from the root, for messages.
    pub(super) fn file(&self, name: &str) -> String {
        shown(&self.place().join(name).to_string_lossy())
    }

    /// The content of a file.
    pub(super) fn read(&self, name: &str) -> Option<String> {
        let path = self.inside(name)?;
        // Non-blocking: a FIFO with a manifest's name has no writer.
        let flags = nix::libc::O_NONBLOCK;
        let file = OpenOptions::new().read(true).custom_flags(flags).open(path).ok()?;
        let about = file.metadata().ok()?;
        if !about.is_file() || about.len() > MOST_BYTES_A_FILE {
            return None;
        }
        let left = self.left.bytes.get().checked_sub(about.len())?;
        let mut bytes = Vec::new();
        file.take(about.len()).read_to_end(&mut bytes).ok()?;
        self.left.bytes.set(left);
        let text = String::from_utf8_lossy(&bytes);
        Some(text.strip_prefix('\u{feff}').unwrap_or(&text).to_owned())
    }

    /// The first of these files that exists, and its content.
    pub(super) fn first<'n>(&self, names: &[&'n str]) -> Option<(&'n str, String)> {
        names.iter().find_map(|name| Some((*name, self.read(name)?)))
    }

    pub(super) fn has_folder(&self, name: &str) -> bool {
        self.inside(name).is_some_and(|path| path.is_dir())
    }

    pub(super) fn has_file(&self, name: &str) -> bool {
        self.inside(name).is_some_and(|path| path.is_file())
    }

    /// The folders that match one of the patterns, have this manifest, and match no pattern that begins with
    /// `!`; in the order of the patterns, then by name.
    pub(super) fn members(&self, patterns: &[&str], manifest: &str) -> Vec<Self> {
        if patterns.len() > MOST_PATTERNS {
            self.left.cut();
        }
        let patterns = &patterns[..patterns.len().min(MOST_PATTERNS)];
        let mut members: Vec<Self> = Vec::new();
        let mut known = HashSet::from([self.path.clone()]);
        let refused: Vec<Vec<&str>> =
            patterns.iter().filter_map(|p| p.strip_prefix('!')).map(segments).collect();
        for pattern in patterns.iter().filter(|pattern| !pattern.starts_with('!')) {
            for member in self.matching(pattern) {
                let place = member.place().to_string_lossy().into_owned();
                let is_refused = |pattern: &Vec<&str>| self.fits_path(&segments(&place), pattern);
                if !known.insert(member.path.clone())
                    || !self.left.step(RESOLVING)
                    || !member.has_file(manifest)
                    || refused.iter().any(is_refused)
                {
                    continue;
                }
                if members.len() == MOST_MEMBERS {
                    self.left.cut();
                    return members;
                }
                members.push(member);
            }
        }
        members
    }

    /// The folders below this one whose path matches the pattern, by name.
    fn matching(&self, pattern: &str) -> Vec<Self> {
        let mut found = vec![self.path.clone()];
        for segment in segments(pattern) {
            let mut next = Vec::new();
            for folder in found {
                if !segment.contains('*') {
                    next.push(folder.join(segment));
                } else if self.left.step(RESOLVING) {
                    let names = entries(&folder).into_iter();
                    let names = names.take_while(|_| self.left.step(steps(segment)));
                    next.extend(
                        names.filter(|name| fits(name, segment)).map(|name| folder.join(name)),
                    );
                }
                if next.len() > MOST_ENTRIES {
                    self.left.cut();
                    break;
                }
            }
            // Checked here, so that no pattern leaves the project and enters it again.
            next.retain(|path| {
                self.left.step(RESOLVING) && self.resolve(path).is_some_and(|path| path.is_dir())
            });
            found = next;
        }
        found.sort_unstable();
        let found = found.iter().filter(|_| self.left.step(RESOLVING));
        found.filter_map(|path| self.resolve(path)).map(|path| self.at(path)).collect()
    }

    /// Whether every part of the path matches the pattern's; `**` stands for any number of parts.
    fn fits_path(&self, path: &[&str], pattern: &[&str]) -> bool {
        if !self.left.step(pattern.first().map_or(1, |segment| steps(segment))) {
            return false;
        }
        match (path, pattern) {
            ([], []) => true,
            (_, ["**", others @ ..]) => {
                self.fits_path(path, others)
                    || path.split_first().is_some_and(|(_, p)| self.fits_path(p, pattern))
            }
            ([name, path @ ..], [segment, pattern @ ..]) => {
                fits(name, segment) && self.fits_path(path, pattern)
            }
            _ => false,
        }
    }

    fn at(&self, path: PathBuf) -> Self {
        Self { root: self.root, path, left: self.left }
    }

    fn inside(&self, name: &str) -> Option<PathBuf> {
        self.resolve(&self.path.join(name))
    }

    /// The resolved path; `None` outside of the project and in `node_modules`.
    fn resolve(&self, path: &Path) -> Option<PathBuf> {
        let path = path.canonicalize().ok()?;
        let below = path.strip_prefix(self.root).ok()?;
        let installed = below.components().any(|part| part.as_os_str() == "node_modules");
        (!installed).then_some(path)
    }
}

/// The names in a folder, without hidden ones and `node_modules`.
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

/// The cost of matching a name against this part of a pattern, in steps.
fn steps(segment: &str) -> u32 {
    u32::try_from(1 + segment.len() / 64).unwrap_or(u32::MAX)
}

/// Whether the name matches a pattern in which `*` stands for any text.
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
