//! The configuration files, lowest precedence first, and the last good ones.

use std::{
    fs::{self, DirBuilder, File},
    io::{self, BufReader, Read},
    os::unix::{ffi::OsStrExt, fs::DirBuilderExt},
    path::{Path, PathBuf},
};

use nix::unistd::{AccessFlags, eaccess};
use serde::{Deserialize, Serialize};

use super::{
    Merged, Origins, Problem, merge,
    seen::Seen,
    shown::{Showing, Shown},
};
use crate::{atomic_file, kernel::landlock};

/// The name of the drop-in that the service writes, in `config.d`.
pub const DROP_IN: &str = "styxy-auto.json";

/// The largest file that is read, in bytes. The built-in one has a two-hundredth of that.
const LARGEST: u64 = 1 << 20;

/// A file and its text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Text {
    /// The file.
    pub path: PathBuf,
    /// Its text.
    pub text: String,
}

/// Whether the file is the drop-in of the service.
pub fn is_drop_in(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name == DROP_IN)
}

/// The configuration files, and the copy of the last good ones.
#[derive(Debug)]
pub struct Files {
    /// Lowest precedence first.
    folders: Vec<PathBuf>,
    copy: PathBuf,
    /// What commands have shown of files that the service cannot see, and where it is stored.
    shown: Shown,
    kept: PathBuf,
    /// The layers in force.
    in_force: Vec<Text>,
    /// Whether they were good; else they are the best there is, because none have been good yet.
    were_good: bool,
}

impl Files {
    /// The files of these folders. The last good ones are stored in `copy`, and what commands show is stored
    /// beside it.
    pub fn new(folders: Vec<PathBuf>, copy: PathBuf) -> Self {
        let kept = copy.with_extension("shown");
        let shown = Shown::read(&kept);
        let good = atomic_file::open(&copy).ok();
        let good = good.and_then(|good| serde_json::from_reader(BufReader::new(good)).ok());
        let were_good = good.is_some();
        Self { folders, copy, shown, kept, in_force: good.unwrap_or_default(), were_good }
    }

    /// Takes over what a command sees of the configuration. Files that the service cannot see itself count as
    /// they were shown, also for the next service. `may_end` says whether a restarted service could see more.
    pub fn take(&mut self, seen: &Seen, by: &str, may_end: bool) -> io::Result<Showing> {
        self.shown.take(&self.folders, seen, by, may_end, &self.kept)
    }

    /// The files that count as a command showed them, for people.
    pub fn shown(&self) -> Vec<String> {
        self.shown.describe()
    }

    /// The fingerprint of what the command that showed them saw; empty if nothing was shown.
    pub fn shown_fingerprint(&self) -> &str {
        self.shown.fingerprint()
    }

    /// Reads all files. If there are problems, the last good files stay in force; if there are none yet, the
    /// valid part of the current ones counts.
    pub fn load(&mut self) -> Merged {
        let (texts, mut problems) = read_with(&self.folders, &self.shown);
        for problem in &mut problems {
            // It may exist for everybody else.
            if !is_out_of_sight(&problem.file) {
                continue;
            }
            if problem.file.is_symlink() {
                "is a link to a file that the service cannot see: `styxy config reload` shows it"
                    .clone_into(&mut problem.message);
            } else if landlock::is_in_force() && eaccess(&problem.file, AccessFlags::R_OK).is_ok() {
                "is in a folder that was made after the service was started, so the service cannot see it: \
                 `styxy config reload` shows it"
                    .clone_into(&mut problem.message);
            }
        }
        let mut merged = merge(&texts);
        problems.append(&mut merged.problems);
        merged.problems = problems;
        if merged.problems.is_empty() {
            if !self.were_good || texts != self.in_force {
                self.in_force = texts;
                self.were_good = true;
                // Without a copy, a later mistake has more effect, but nothing worse happens.
                let _ = self.keep_copy();
            }
            return merged;
        }
        if !self.were_good {
            self.in_force = texts;
            return merged;
        }
        let drop_in = self.drop_in();
        if !merged.problems.iter().any(|problem| problem.file == drop_in) {
            // The drop-in is not written by a person, and stays current.
            let drop_in = texts.into_iter().find(|text| text.path == drop_in);
            self.in_force = self.with_drop_in(drop_in);
        }
        Merged { problems: merged.problems, ..merge(&self.in_force) }
    }

    fn keep_copy(&self) -> io::Result<()> {
        // The first service of a user has no state folder yet.
        if let Some(folder) = self.copy.parent() {
            DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        }
        atomic_file::replace(&self.copy, &serde_json::to_vec(&self.in_force)?)
    }

    /// The text of the drop-in that is in force.
    pub fn drop_in_text(&self) -> Option<&str> {
        let drop_in = self.drop_in();
        let text = self.in_force.iter().find(|text| text.path == drop_in);
        text.map(|text| text.text.as_str())
    }

    /// Puts these layers in force, after the drop-in was written.
    pub fn set_in_force(&mut self, texts: Vec<Text>) {
        self.in_force = texts;
    }

    /// The layers in force.
    pub fn in_force(&self) -> &[Text] {
        &self.in_force
    }

    /// The layers in force, with this drop-in instead of the current one.
    pub fn with_drop_in(&self, drop_in: Option<Text>) -> Vec<Text> {
        let mut texts = self.in_force.clone();
        let path = self.drop_in();
        texts.retain(|text| text.path != path);
        if let Some(drop_in) = drop_in {
            // Before everything else in its folder.
            let folder = self.folders.last();
            let at = texts
                .iter()
                .position(|text| folder.is_some_and(|folder| text.path.starts_with(folder)));
            texts.insert(at.unwrap_or(texts.len()), drop_in);
        }
        texts
    }

    /// The drop-in of the service: in the last folder, which is the user's.
    pub fn drop_in(&self) -> PathBuf {
        let folder = self.folders.last().cloned().unwrap_or_default();
        folder.join("config.d").join(DROP_IN)
    }

    /// The origins of the values in force.
    pub fn origins(&self) -> Origins {
        merge(&self.in_force).origins
    }
}

/// Whether a link may be broken because of a sandbox: a link to itself is broken for everybody.
fn is_out_of_sight(path: &Path) -> bool {
    let hidden = [io::ErrorKind::NotFound, io::ErrorKind::PermissionDenied];
    // Landlock hides what is in a file, not that there is one.
    atomic_file::open(path).is_err_and(|error| hidden.contains(&error.kind()))
}

/// Where a path leads to without links, also if nothing is there.
pub fn real(path: &Path) -> Option<PathBuf> {
    fs::canonicalize(path).ok().or_else(|| {
        let next = fs::read_link(path).ok().and_then(|link| Some(path.parent()?.join(link)));
        let next = next.as_deref().unwrap_or(path);
        Some(fs::canonicalize(next.parent()?).ok()?.join(next.file_name()?))
    })
}

/// Where those files of these folders are that links lead to outside of their folder.
pub fn elsewhere(folders: &[PathBuf]) -> Vec<PathBuf> {
    let of = |folder: &PathBuf| {
        let inside = fs::canonicalize(folder).unwrap_or_else(|_| folder.clone());
        let files = list(folder, &[], &mut Vec::new()).into_iter();
        files.filter_map(|path| real(&path)).filter(move |real| !real.starts_with(&inside))
    };
    folders.iter().flat_map(of).collect()
}

/// Reads every file of these folders, and reports those that cannot be read.
pub fn read(folders: &[PathBuf]) -> (Vec<Text>, Vec<Problem>) {
    read_with(folders, &Shown::default())
}

fn read_with(folders: &[PathBuf], shown: &Shown) -> (Vec<Text>, Vec<Problem>) {
    let (mut texts, mut problems) = (Vec::new(), Vec::new());
    for folder in folders {
        for path in list(folder, &shown.paths(folder), &mut problems) {
            if let Some(text) = shown.text(&path) {
                texts.push(Text { path, text: text.to_owned() });
                continue;
            }
            // Reading some other things that a path may lead to, such as pipes, might never end.
            let is_file = fs::metadata(&path).map(|metadata| metadata.is_file());
            match is_file {
                Ok(true) => match read_file(path) {
                    Ok(text) => texts.push(text),
                    Err(problem) => problems.push(problem),
                },
                Ok(false) => problems.push(without_place(path, "is not a file: move it away")),
                Err(error) if is_missing(&error) && fs::symlink_metadata(&path).is_err() => {}
                Err(error) => problems.push(unreadable(path, &error)),
            }
        }
    }
    (texts, problems)
}

/// Reads one file.
pub fn read_file(path: PathBuf) -> Result<Text, Problem> {
    let mut bytes = Vec::new();
    let read = File::open(&path).and_then(|file| file.take(LARGEST + 1).read_to_end(&mut bytes));
    if let Err(error) = read {
        return Err(unreadable(path, &error));
    }
    if bytes.len() as u64 > LARGEST {
        let message =
            format!("has more than {LARGEST} bytes: no configuration of styxy is that large");
        return Err(without_place(path, message));
    }
    match String::from_utf8(bytes) {
        Ok(text) => Ok(Text { path, text }),
        Err(error) => {
            let good = error.utf8_error().valid_up_to();
            let before = String::from_utf8_lossy(&error.as_bytes()[..good]);
            let line = before.split('\n').next_back().unwrap_or_default();
            let place = (before.matches('\n').count() + 1, line.chars().count() + 1);
            let message = "there is a byte here that is not UTF-8: save the file as UTF-8";
            Err(Problem { place: Some(place), ..without_place(path, message) })
        }
    }
}

/// The files of a folder, and others that are known to exist there, lowest precedence first.
pub(super) fn list(folder: &Path, others: &[PathBuf], problems: &mut Vec<Problem>) -> Vec<PathBuf> {
    let drop_ins = folder.join("config.d");
    let mut files: Vec<_> = match fs::read_dir(&drop_ins) {
        Ok(entries) => entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| is_layer(path) && !is_drop_in(path))
            .collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => {
            problems.push(unreadable(drop_ins.clone(), &error));
            Vec::new()
        }
    };
    let first = [drop_ins.join(DROP_IN), folder.join("config.json")];
    files.extend(others.iter().filter(|other| !first.contains(other)).cloned());
    files.sort_unstable();
    files.dedup();
    first.into_iter().chain(files).collect()
}

/// Whether a file of `config.d` should be read. As for run-parts(8) and systemd, names that begin with a dot
/// belong to other programs: the lock files of Emacs, what macOS leaves on network drives.
pub(super) fn is_layer(path: &Path) -> bool {
    let is_hidden = path.file_name().is_some_and(|name| name.as_bytes().starts_with(b"."));
    !is_hidden && path.extension().is_some_and(|extension| extension == "json")
}

/// Whether there is no such file; a parent that is not a folder was reported before.
fn is_missing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn unreadable(file: PathBuf, error: &io::Error) -> Problem {
    if error.kind() == io::ErrorKind::NotFound {
        return without_place(file, "there is no such file, or it is a link to nothing");
    }
    without_place(file, format!("cannot be read ({error}): make it readable, or move it away"))
}

fn without_place(file: PathBuf, message: impl Into<String>) -> Problem {
    Problem { file, place: None, field: String::new(), message: message.into() }
}
