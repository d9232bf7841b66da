//! What commands have shown of files that the service cannot see, stored for the next service.

use std::{
    fs::DirBuilder,
    io::{self, BufReader},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::seen::{Seen, Stamp, Which};
use crate::atomic_file;

/// The number of folders for which a service exits to be restarted: enough for every container on a
/// workstation.
const MOST_TRIED: usize = 16;

/// The files that were shown.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Shown {
    /// The files that count instead of what the service sees itself.
    files: Vec<ShownFile>,
    /// The fingerprint of what the command that showed them saw.
    fingerprint: String,
    /// Folders for which the service has exited once, because the next one might see them. If that one does not
    /// see them, either, they belong to a container or to another home.
    tried: Vec<Which>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct ShownFile {
    path: PathBuf,
    text: String,
    /// What the service itself saw there. When that changes, the shown file no longer counts.
    own: Own,
    /// Who showed it: a command, and its process.
    by: String,
}

/// What the service sees at a path: the link, and the file that it leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Own {
    link: Option<Stamp>,
    file: Option<Stamp>,
}

impl Own {
    fn of(path: &Path) -> Self {
        Self { link: Stamp::of_link(path), file: Stamp::of(path) }
    }

    /// Whether the file itself is there, not a link.
    fn is_plain(self) -> bool {
        self.file.is_some() && self.link == self.file
    }
}

/// The result of showing the service the files of a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Showing {
    /// The service has all of them: it sees them itself, or they were shown.
    Known,
    /// This folder was replaced by another one: a service that is started now will see it.
    Replaced,
    /// The command sees another folder than the service by this path, or by another path.
    Elsewhere(PathBuf),
}

impl Shown {
    /// What is stored in this file; nothing if it does not exist.
    pub(super) fn read(file: &Path) -> Self {
        let kept = atomic_file::open(file).ok();
        let kept = kept.and_then(|kept| serde_json::from_reader(BufReader::new(kept)).ok());
        kept.unwrap_or_default()
    }

    /// The paths of files in this folder that were shown and still count.
    pub(super) fn paths(&self, folder: &Path) -> Vec<PathBuf> {
        let inside = self.files.iter().filter(|file| file.path.starts_with(folder));
        inside.filter(|file| file.own == Own::of(&file.path)).map(|f| f.path.clone()).collect()
    }

    /// The text of the file, if it was shown and still counts.
    pub(super) fn text(&self, path: &Path) -> Option<&str> {
        let file = self.files.iter().find(|file| file.path == path)?;
        (file.own == Own::of(path)).then_some(&file.text)
    }

    /// All paths and who showed them, for people.
    pub(super) fn describe(&self) -> Vec<String> {
        let describe = |file: &ShownFile| format!("{} (by {})", file.path.display(), file.by);
        self.files.iter().map(describe).collect()
    }

    /// The fingerprint of what the command that showed them saw; empty if nothing was shown.
    pub(super) fn fingerprint(&self) -> &str {
        if self.files.is_empty() { "" } else { &self.fingerprint }
    }

    /// Replaces what was shown before by what a command sees, and stores it in `file`. `may_end` says whether a
    /// restarted service could see more.
    pub(super) fn take(
        &mut self,
        folders: &[PathBuf],
        seen: &Seen,
        by: &str,
        may_end: bool,
        file: &Path,
    ) -> io::Result<Showing> {
        let fingerprint = seen.fingerprint();
        let mut new = Vec::new();
        let mut showing = Showing::Known;
        for (folder, seen) in folders.iter().zip(&seen.folders) {
            let own = Which::of(folder);
            // A command that has no such folder has nothing to show of it.
            if let Some(theirs) = seen.folder
                && Some(theirs) != own
            {
                if may_end && seen.path == *folder && !self.tried.contains(&theirs) {
                    self.tried.push(theirs);
                    let surplus = self.tried.len().saturating_sub(MOST_TRIED);
                    self.tried.drain(..surplus);
                    self.keep(file)?;
                    return Ok(Showing::Replaced);
                }
                showing = Showing::Elsewhere(folder.clone());
                new.extend(self.files.iter().filter(|f| f.path.starts_with(folder)).cloned());
                continue;
            }
            for seen in &seen.files {
                let path = folder.join(&seen.name);
                let own = Own::of(&path);
                if let Some(text) = &seen.text
                    && own.file != Some(seen.stamp)
                    // A plain file was overwritten after the command saw it.
                    && !own.is_plain()
                    && files_name(&seen.name)
                {
                    new.push(ShownFile { path, text: text.clone(), own, by: by.to_owned() });
                }
            }
        }
        let is_new = new.len() != self.files.len()
            || new.iter().zip(&self.files).any(|(new, old)| {
                (&new.path, &new.text, new.own) != (&old.path, &old.text, old.own)
            });
        if is_new || (!new.is_empty() && fingerprint != self.fingerprint) {
            self.files = new;
            self.fingerprint = fingerprint;
            self.keep(file)?;
        }
        Ok(showing)
    }

    fn keep(&self, file: &Path) -> io::Result<()> {
        if let Some(folder) = file.parent() {
            DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        }
        atomic_file::replace(file, &serde_json::to_vec(self)?)
    }
}

/// Whether this is the path of a configuration file in its folder, and leads nowhere else.
fn files_name(name: &Path) -> bool {
    let parts: Vec<_> = name.components().collect();
    let is_plain = parts.iter().all(|part| matches!(part, std::path::Component::Normal(_)));
    is_plain
        && match parts.as_slice() {
            [file] => file.as_os_str() == "config.json",
            [folder, file] => {
                folder.as_os_str() == "config.d" && super::files::is_layer(Path::new(file))
            }
            _ => false,
        }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_file_that_was_written_over_since_a_command_saw_it_counts_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let folders = [folder.path().to_owned()];
        let (file, kept) = (folder.path().join("config.json"), folder.path().join("kept/shown"));
        fs::write(&file, "{}").unwrap();
        let seen = Seen::of(&folders).with_texts();
        fs::write(&file, "{\"idle_exit_seconds\": 7}").unwrap();
        let mut shown = Shown::default();
        let showing = shown.take(&folders, &seen, "styxy[7]", true, &kept).unwrap();
        assert_eq!((showing, shown.text(&file)), (Showing::Known, None));
    }
}
