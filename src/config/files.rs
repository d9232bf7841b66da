//! Which files there are, in the order in which they count, and the last ones that were good.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{Merged, Origins, Problem, merge};
use crate::durable;

/// The name of the drop-in that the service writes, in `config.d`.
pub const DROP_IN: &str = "styxy-auto.json";

/// A file and what it says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Text {
    /// The file.
    pub path: PathBuf,
    /// What it says.
    pub text: String,
}

/// Whether the file is the one that the service writes.
pub fn is_drop_in(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name == DROP_IN)
}

/// The files of the configuration, and the copy of the last good ones.
#[derive(Debug)]
pub struct Files {
    /// In the order in which they count.
    folders: Vec<PathBuf>,
    copy: PathBuf,
    /// The layers in force.
    in_force: Vec<Text>,
}

impl Files {
    /// The files of these folders. `copy` is where the last good ones are kept.
    pub fn new(folders: Vec<PathBuf>, copy: PathBuf) -> Self {
        let good = fs::read(&copy).ok().and_then(|good| serde_json::from_slice(&good).ok());
        Self { folders, copy, in_force: good.unwrap_or_default() }
    }

    /// Reads them all. If something is wrong with what people have written, the last good files stay in
    /// force; before there were any, what is good of the present ones.
    pub fn load(&mut self) -> Merged {
        let (texts, mut problems) = read(&self.folders);
        let mut merged = merge(&texts);
        problems.append(&mut merged.problems);
        merged.problems = problems;
        if merged.problems.is_empty() {
            if texts != self.in_force {
                self.in_force = texts;
                // Without a copy, a mistake that is made later has more effect, and no more.
                let copy = serde_json::to_vec(&self.in_force).unwrap_or_default();
                let _ = durable::replace(&self.copy, &copy);
            }
            return merged;
        }
        if self.in_force.is_empty() {
            self.in_force = texts;
            return merged;
        }
        // The drop-in is not a person's, and goes on.
        let drop_in = texts.into_iter().find(|text| is_drop_in(&text.path));
        let good = self.with_drop_in(drop_in);
        let in_force = merge(&good);
        self.in_force = good;
        Merged { problems: merged.problems, ..in_force }
    }

    /// What the drop-in says that is in force.
    pub fn drop_in_text(&self) -> Option<&str> {
        let text = self.in_force.iter().find(|text| is_drop_in(&text.path));
        text.map(|text| text.text.as_str())
    }

    /// Puts these layers in force: the drop-in was written.
    pub fn set_in_force(&mut self, texts: Vec<Text>) {
        self.in_force = texts;
    }

    /// The layers in force.
    pub fn in_force(&self) -> &[Text] {
        &self.in_force
    }

    /// The layers in force with this drop-in instead of theirs.
    pub fn with_drop_in(&self, drop_in: Option<Text>) -> Vec<Text> {
        let mut texts = self.in_force.clone();
        texts.retain(|text| !is_drop_in(&text.path));
        if let Some(drop_in) = drop_in {
            // Before everything else of its folder.
            let folder = drop_in.path.parent().and_then(Path::parent).map(Path::to_owned);
            let at = texts.iter().position(|text| {
                folder.as_ref().is_some_and(|folder| text.path.starts_with(folder))
            });
            texts.insert(at.unwrap_or(texts.len()), drop_in);
        }
        texts
    }

    /// The drop-in of the service: in the last folder, which is the user's.
    pub fn drop_in(&self) -> PathBuf {
        let folder = self.folders.last().cloned().unwrap_or_default();
        folder.join("config.d").join(DROP_IN)
    }

    /// Where the values in force come from.
    pub fn origins(&self) -> Origins {
        merge(&self.in_force).origins
    }
}

/// Reads every file of these folders, and tells of those that cannot be read.
pub fn read(folders: &[PathBuf]) -> (Vec<Text>, Vec<Problem>) {
    let (mut texts, mut problems) = (Vec::new(), Vec::new());
    for folder in folders {
        for path in list(folder, &mut problems) {
            match fs::read_to_string(&path) {
                Ok(text) => texts.push(Text { path, text }),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => problems.push(unreadable(&path, &error)),
            }
        }
    }
    (texts, problems)
}

/// The files of a folder in the order in which they count.
fn list(folder: &Path, problems: &mut Vec<Problem>) -> Vec<PathBuf> {
    let drop_ins = folder.join("config.d");
    let mut files: Vec<_> = match fs::read_dir(&drop_ins) {
        Ok(entries) => entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.extension().is_some_and(|e| e == "json") && !is_drop_in(path))
            .collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => {
            problems.push(unreadable(&drop_ins, &error));
            Vec::new()
        }
    };
    files.sort_unstable();
    [drop_ins.join(DROP_IN), folder.join("config.json")].into_iter().chain(files).collect()
}

fn unreadable(file: &Path, error: &io::Error) -> Problem {
    Problem {
        file: file.to_owned(),
        place: None,
        field: String::new(),
        message: format!("cannot be read: {error}"),
    }
}
