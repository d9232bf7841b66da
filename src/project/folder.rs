//! Reading an untrusted folder: only what is inside, only a limited amount, and an unreadable file counts as
//! missing.

use std::{
    cell::{Cell, RefCell},
    collections::HashSet,
    fmt,
    fs::{self, OpenOptions},
    io::Read,
    os::unix::fs::OpenOptionsExt,
    path::{Component, Path, PathBuf},
};

use super::{
    BEGIN, END, Place,
    text::{line, shown},
    tree::{Mistake, Tree},
};
use crate::config::Problem;

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
/// The number of files that could not be read and are reported.
const MOST_SKIPPED: usize = 10;
/// The cost of resolving a path, in steps; the kernel looks at each of its parts.
const RESOLVING: u32 = 5;

/// Files that show that a folder is a part of the project by itself.
const MANIFESTS: [&str; 17] = [
    "package.json",
    "pyproject.toml",
    "requirements.txt",
    "manage.py",
    "Cargo.toml",
    "go.mod",
    "Gemfile",
    "composer.json",
    "pom.xml",
    "build.gradle",
    "build.gradle.kts",
    "mix.exs",
    "deno.json",
    "deno.jsonc",
    "mkdocs.yml",
    "Procfile",
    "project.json",
];

/// Folders that hold no part of a project that anybody works on.
const NO_PARTS: [&str; 32] = [
    "__tests__",
    "archive",
    "bench",
    "benchmarks",
    "bin",
    "build",
    "coverage",
    "deps",
    "dist",
    "e2e",
    "example",
    "examples",
    "fixtures",
    "node_modules",
    "obj",
    "out",
    "playground",
    "playgrounds",
    "public",
    "sample",
    "samples",
    "sandbox",
    "sandboxes",
    "spec",
    "target",
    "template",
    "templates",
    "test",
    "tests",
    "third_party",
    "vendor",
    "venv",
];

/// How a file is parsed.
pub(super) type Parser = fn(&str) -> Result<Tree, Mistake>;

/// A folder of the project: its root, or a package in it.
#[derive(Clone)]
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
    /// The files that could not be read.
    skipped: RefCell<Vec<Problem>>,
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
            skipped: RefCell::default(),
        };
        Some(Self { root, left })
    }

    /// Whether some members of its workspace were not examined, because its patterns require too much.
    pub(super) fn is_cut_short(&self) -> bool {
        self.left.is_cut.get()
    }

    /// The files that could not be read, and why.
    pub(super) fn skipped(&self) -> Vec<Problem> {
        self.left.skipped.borrow().clone()
    }

    /// Records that something is not examined.
    pub(super) fn cut(&self) {
        self.left.cut();
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

    pub(super) fn name(&self) -> Option<&str> {
        self.path.file_name()?.to_str()
    }

    /// The path of a file from the root, for messages.
    pub(super) fn file(&self, name: &str) -> String {
        shown(&self.place().join(name).to_string_lossy())
    }

    /// A file, as the place of something.
    pub(super) fn at(&self, name: &str) -> Place {
        Place { file: self.file(name), line: None }
    }

    /// The line of a file with this content that has these words: the first one that has the last word, after lines
    /// with the others.
    pub(super) fn at_line(&self, name: &str, content: &str, words: &[&str]) -> Place {
        Place { line: line(content, words), ..self.at(name) }
    }

    /// The content of a file.
    pub(super) fn read(&self, name: &str) -> Option<String> {
        let path = self.inside(name)?;
        // Non-blocking: a FIFO with a manifest's name has no writer.
        let flags = nix::libc::O_NONBLOCK;
        let file = OpenOptions::new().read(true).custom_flags(flags).open(path);
        let file = file.map_err(|error| self.skip(name, None, &error)).ok()?;
        let about = file.metadata().ok()?;
        if !about.is_file() {
            return None;
        }
        if about.len() > MOST_BYTES_A_FILE {
            self.skip(name, None, &"it is larger than 1 MiB");
            return None;
        }
        let left = self.left.bytes.get().checked_sub(about.len())?;
        let mut bytes = Vec::new();
        file.take(about.len()).read_to_end(&mut bytes).ok()?;
        self.left.bytes.set(left);
        let text = String::from_utf8_lossy(&bytes);
        let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
        Some(without_own(text))
    }

    /// The content of a file, and what it says: nothing if it is broken.
    pub(super) fn parsed(&self, name: &str, parse: Parser) -> Option<(String, Tree)> {
        let content = self.read(name)?;
        let tree = self.parse(name, &content, parse);
        Some((content, tree))
    }

    /// What the content of a file says: nothing if it is broken, which is reported.
    pub(super) fn parse(&self, name: &str, content: &str, parse: Parser) -> Tree {
        parse(content).unwrap_or_else(|(line, mistake)| {
            self.skip(name, line, &mistake);
            Tree::Nothing
        })
    }

    /// Notes that a file, or a part of it, does not count.
    fn skip(&self, name: &str, line: Option<usize>, why: &dyn fmt::Display) {
        let file = PathBuf::from(self.file(name));
        let mut skipped = self.left.skipped.borrow_mut();
        if skipped.len() < MOST_SKIPPED && skipped.iter().all(|known| known.file != file) {
            let message = format!("{}; it is not read", shown(&why.to_string()));
            skipped.push(Problem {
                file,
                place: line.map(|line| (line, 1)),
                field: String::new(),
                message,
            });
        }
    }

    /// The first of these files that exists, and its content.
    pub(super) fn first<'n>(&self, names: &[&'n str]) -> Option<(&'n str, String)> {
        names.iter().find_map(|name| Some((*name, self.read(name)?)))
    }

    /// What the first of these files says in the nearest folder above this one that has any of them.
    pub(super) fn above(&self, names: &[&str], parse: Parser) -> Option<Tree> {
        let folders = self.path.ancestors().skip(1).take_while(|f| f.starts_with(self.root));
        let mut folders = folders.map(|folder| self.with(folder.to_owned()));
        folders.find_map(|folder| {
            let (name, content) = folder.first(names)?;
            Some(folder.parse(name, &content, parse))
        })
    }

    /// The names in this folder, in order, without hidden ones.
    pub(super) fn names(&self) -> Vec<String> {
        let mut names = if self.left.step(RESOLVING) { entries(&self.path) } else { Vec::new() };
        names.sort_unstable();
        names
    }

    pub(super) fn has_folder(&self, name: &str) -> bool {
        self.inside(name).is_some_and(|path| path.is_dir())
    }

    /// Whether this folder, or one above it in the project, has the file.
    pub(super) fn has_above(&self, name: &str) -> bool {
        let folders = self.path.ancestors().take_while(|folder| folder.starts_with(self.root));
        folders.into_iter().any(|folder| folder.join(name).is_file())
    }

    pub(super) fn has_file(&self, name: &str) -> bool {
        self.inside(name).is_some_and(|path| path.is_file())
    }

    /// Whether there is anything of this name, of whatever kind and wherever it leads.
    pub(super) fn has_entry(&self, name: &str) -> bool {
        self.path.join(name).symlink_metadata().is_ok()
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
                let is_no_part = place.split('/').any(|name| NO_PARTS.contains(&name));
                if !known.insert(member.path.clone())
                    || is_no_part
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
                if segment == "**" {
                    next.extend(self.all_below(folder));
                } else if !segment.contains('*') {
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
        found.filter_map(|path| self.resolve(path)).map(|path| self.with(path)).collect()
    }

    /// The folder, and all folders below it that may hold a part of the project.
    fn all_below(&self, folder: PathBuf) -> Vec<PathBuf> {
        let mut all = vec![folder];
        let mut at = 0;
        while let Some(folder) = all.get(at).cloned() {
            at += 1;
            if all.len() > MOST_ENTRIES || !self.left.step(RESOLVING) {
                break;
            }
            let names = entries(&folder).into_iter().take_while(|_| self.left.step(1));
            let names =
                names.filter(|name| !NO_PARTS.contains(&name.to_ascii_lowercase().as_str()));
            // Without those behind links, which may lead back.
            let is_folder =
                |path: &PathBuf| fs::symlink_metadata(path).is_ok_and(|about| about.is_dir());
            all.extend(names.map(|name| folder.join(name)).filter(is_folder));
        }
        all
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

    /// The folders at most two levels below this one that have a manifest, by name; without those that hold examples, tests,
    /// or other people's code. A workspace says by itself which folders with its kind of manifest belong to it.
    pub(super) fn below(&self, workspaces: &[&str]) -> Vec<Self> {
        let has_manifest = |folder: &Self| folder.has_manifest(workspaces);
        let mut found = Vec::new();
        // A folder full of projects is none: somebody's home, for example.
        if !self.path.join(".git").exists() && !self.has_manifest(&[]) {
            return found;
        }
        for name in self.names() {
            let Some(folder) = self.inner(&name) else { continue };
            let inner = folder.names().into_iter().filter_map(|name| folder.inner(&name));
            let inner: Vec<_> = inner.filter(has_manifest).collect();
            found.extend(Some(folder).filter(has_manifest));
            found.extend(inner);
        }
        found
    }

    /// The folder with this path in this one.
    pub(super) fn folder(&self, path: &Path) -> Option<Self> {
        self.resolve(&self.path.join(path)).filter(|path| path.is_dir()).map(|path| self.with(path))
    }

    /// The folder of this name in this one, if it may hold a part of the project.
    fn inner(&self, name: &str) -> Option<Self> {
        if NO_PARTS.contains(&name.to_ascii_lowercase().as_str()) || !self.left.step(RESOLVING) {
            return None;
        }
        let path = self.inside(name).filter(|path| path.is_dir())?;
        // Another worktree is another project.
        (!path.join(".git").exists()).then(|| self.with(path))
    }

    fn has_manifest(&self, except: &[&str]) -> bool {
        let mut names = MANIFESTS.iter().filter(|name| !except.contains(name));
        // The names of these vary.
        let is_dotnet = |name: &String| {
            [".csproj", ".fsproj", ".sln", ".slnx"].iter().any(|ending| name.ends_with(ending))
        };
        names.any(|name| self.left.step(1) && self.has_file(name))
            || self.names().iter().any(is_dotnet)
    }

    fn with(&self, path: PathBuf) -> Self {
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

/// The text with empty lines in place of those that styxy has written: a port that it leased is no wish of the project.
fn without_own(text: &str) -> String {
    if !text.contains(BEGIN) {
        return text.to_owned();
    }
    let mut is_own = false;
    let lines = text.lines().map(|line| {
        is_own |= line.trim_end() == BEGIN;
        let kept = if is_own { "" } else { line };
        is_own &= line.trim_end() != END;
        kept
    });
    lines.flat_map(|line| [line, "\n"]).collect()
}

/// The path without `.` and `..`; `None` outside of the project.
pub(super) fn normal(path: &Path) -> Option<PathBuf> {
    let mut normal = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => normal.push(name),
            Component::CurDir => {}
            Component::ParentDir if normal.pop() => {}
            _ => return None,
        }
    }
    Some(normal)
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
