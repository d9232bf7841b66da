//! The files that it has written, which are known by a line in them. The line has a hash of the rest: so a file that
//! somebody has changed is left alone.

use std::{
    fmt, fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

use crate::{
    atomic_file,
    surroundings::user,
    word::{counted, fnv1a, visible},
};

/// What the line says after the sign of a comment.
const MARK: &str = "Written by styxy setup ";

/// What a text must begin with to be what it is: a function of zsh, and a page that is another one.
const FIRST: [&str; 2] = ["#compdef ", ".so "];

/// More than this is no file of styxy's, in bytes.
const LARGEST: u64 = 1 << 20;

/// What becomes of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Write,
    Update,
    /// It is already as it should be.
    Keep,
    Remove,
    /// It is not wanted, but somebody has changed it.
    Leave,
}

/// A file, and what becomes of it.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) fate: Fate,
    pub(super) path: PathBuf,
    /// Above this folder nothing is removed.
    folder: PathBuf,
    text: String,
}

/// A file that is in the way, because somebody else has written or changed it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Obstacle {
    pub(super) path: PathBuf,
    /// How it differs from what would be written; empty if `styxy setup` has not written it.
    differences: Vec<String>,
}

/// How many lines are named in which a file differs.
const NAMED: usize = 4;

/// What is at a path.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    Nothing,
    Written(String),
    Changed(String),
    Others,
}

/// What has to be done so that these files are in the folder, and those without a text are not.
///
/// # Errors
///
/// The files that are in the way. Or one cannot be read, or a folder cannot be made or written to.
pub(super) fn plan(
    folder: &Path,
    wanted: Vec<(&str, Option<String>)>,
) -> io::Result<Result<Vec<Change>, Vec<Obstacle>>> {
    let (mut changes, mut obstacles) = (Vec::new(), Vec::new());
    for (name, text) in wanted {
        let path = folder.join(name);
        let text = text.map(|text| marked(name, &text));
        let fate = match (&text, found(&path)?) {
            (None, Found::Nothing | Found::Others) => continue,
            (None, Found::Written(_)) => Fate::Remove,
            (None, Found::Changed(_)) => Fate::Leave,
            (Some(_), Found::Nothing) => Fate::Write,
            (Some(text), Found::Written(old)) if old == *text => Fate::Keep,
            (Some(_), Found::Written(_)) => Fate::Update,
            (Some(text), Found::Changed(changed)) => {
                let differences = differences(&changed, text);
                obstacles.push(Obstacle { path, differences });
                continue;
            }
            (Some(_), Found::Others) => {
                obstacles.push(Obstacle { path, differences: Vec::new() });
                continue;
            }
        };
        if !matches!(fate, Fate::Keep | Fate::Leave)
            && let Some(parent) = path.parent()
        {
            user().can_create_in(parent).map_err(io::Error::other)?;
        }
        let text = text.unwrap_or_default();
        changes.push(Change { fate, path, folder: folder.to_owned(), text });
    }
    Ok(if obstacles.is_empty() { Ok(changes) } else { Err(obstacles) })
}

impl Change {
    /// Does it.
    pub(super) fn make(&self) -> io::Result<()> {
        match self.fate {
            Fate::Keep | Fate::Leave => Ok(()),
            Fate::Write | Fate::Update => {
                self.path.parent().map_or(Ok(()), fs::create_dir_all)?;
                atomic_file::replace(&self.path, self.text.as_bytes())
            }
            Fate::Remove => {
                fs::remove_file(&self.path)?;
                let above = self.path.ancestors().skip(1);
                // A folder that is not empty stays, and so do those above it.
                above
                    .take_while(|above| *above != self.folder && fs::remove_dir(above).is_ok())
                    .for_each(drop);
                Ok(())
            }
        }
    }
}

/// The lines that only one of the texts has, in words. The line with the hash is not one of them.
fn differences(changed: &str, wanted: &str) -> Vec<String> {
    let lines = |text: &str, other: &str| -> Vec<String> {
        let only = text.lines().filter(|line| {
            !line.trim().is_empty()
                && !line.contains(MARK)
                && !other.lines().any(|other| other == *line)
        });
        only.map(visible).collect()
    };
    let (added, missing) = (lines(changed, wanted), lines(wanted, changed));
    let mut told: Vec<_> = added.iter().map(|line| format!("it has `{line}`")).collect();
    told.extend(missing.iter().map(|line| format!("it lacks `{line}`")));
    if told.is_empty() {
        told.push("its lines are in another order, or its first line is another".to_owned());
    }
    let more = told.len().saturating_sub(NAMED);
    told.truncate(NAMED);
    told.extend((more > 0).then(|| counted(more as u64, "more line")));
    told
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = visible(&self.path.to_string_lossy());
        if self.differences.is_empty() {
            return write!(f, "{path} is not from `styxy setup`");
        }
        write!(
            f,
            "{path} was changed after `styxy setup` had written it ({})",
            self.differences.join(", ")
        )
    }
}

/// The text with the line.
fn marked(name: &str, text: &str) -> String {
    let comment = if name.starts_with("man/") { ".\\\"" } else { "#" };
    let (version, hash) = (env!("CARGO_PKG_VERSION"), fnv1a(text.as_bytes()));
    let line = format!(
        "{comment} {MARK}{version}, which replaces or removes it only while it is unchanged ({hash:016x}).\n"
    );
    match text.split_once('\n') {
        Some((first, rest)) if FIRST.iter().any(|begin| first.starts_with(begin)) => {
            format!("{first}\n{line}{rest}")
        }
        _ => line + text,
    }
}

fn found(path: &Path) -> io::Result<Found> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
        Err(error) => return Err(io::Error::other(format!("{}: {error}", path.display()))),
        // A link is somebody's, who keeps such files elsewhere.
        Ok(metadata) if !metadata.is_file() => return Ok(Found::Others),
        Ok(_) => {}
    }
    let mut text = String::new();
    let read =
        atomic_file::open(path).and_then(|file| file.take(LARGEST).read_to_string(&mut text));
    match read {
        Err(error) if error.kind() == io::ErrorKind::InvalidData => Ok(Found::Others),
        Err(error) => Err(io::Error::other(format!("{}: {error}", path.display()))),
        Ok(_) => Ok(judged(text)),
    }
}

fn judged(text: String) -> Found {
    let mark = text.lines().take(2).find(|line| line.contains(MARK));
    let Some(mark) = mark.map(str::to_owned) else { return Found::Others };
    let hash = mark.rsplit_once('(').and_then(|(_, hash)| hash.strip_suffix(")."));
    let rest = text.replacen(&(mark.clone() + "\n"), "", 1);
    match hash.and_then(|hash| u64::from_str_radix(hash, 16).ok()) {
        Some(hash) if hash == fnv1a(rest.as_bytes()) => Found::Written(text),
        _ => Found::Changed(text),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    const FILE: &str = "systemd/user/a.service";

    fn plan_for(folder: &Path, text: Option<&str>) -> Result<Vec<Fate>, Vec<PathBuf>> {
        let planned = plan(folder, vec![(FILE, text.map(str::to_owned))]).unwrap();
        let planned =
            planned.map_err(|files| files.into_iter().map(|file| file.path).collect::<Vec<_>>())?;
        planned.iter().for_each(|change| change.make().unwrap());
        Ok(planned.iter().map(|change| change.fate).collect())
    }

    #[test]
    fn a_file_is_written_once_updated_and_removed_with_the_folders_that_are_empty_then() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("other"), "").unwrap();
        let plan = |text| plan_for(folder.path(), text).unwrap();
        assert_eq!(plan(Some("[Unit]\n")), [Fate::Write]);
        assert_eq!(plan(Some("[Unit]\n")), [Fate::Keep]);
        assert_eq!(plan(Some("[Unit]\n\n[Service]\n")), [Fate::Update]);
        let text = fs::read_to_string(folder.path().join(FILE)).unwrap();
        assert!(text.starts_with("# Written by styxy setup "), "{text}");
        assert!(text.ends_with(").\n[Unit]\n\n[Service]\n"), "{text}");
        assert_eq!(plan(None), [Fate::Remove]);
        assert_eq!(plan(None), []);
        let left: Vec<_> = fs::read_dir(folder.path()).unwrap().flatten().collect();
        assert_eq!(left.len(), 1, "{left:?}");
    }

    #[test]
    fn what_somebody_has_changed_or_written_is_in_the_way_and_stays() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(FILE);
        plan_for(folder.path(), Some("[Unit]\n")).unwrap();
        let written = fs::read_to_string(&file).unwrap();
        for text in [written.clone() + "Before=x\n", written.replace('(', "")] {
            fs::write(&file, &text).unwrap();
            assert_eq!(
                plan_for(folder.path(), Some("[Unit]\n")),
                Err(vec![file.clone()]),
                "{text}"
            );
            assert_eq!(plan_for(folder.path(), None), Ok(vec![Fate::Leave]), "{text}");
            assert_eq!(fs::read_to_string(&file).unwrap(), text);
        }
        // Never styxy's: neither in the way of removal nor worth a word.
        let elsewhere = folder.path().join("elsewhere");
        fs::write(&elsewhere, &written).unwrap();
        let others: [&dyn Fn(); 3] = [
            &|| fs::write(&file, "[Unit]\n").unwrap(),
            &|| fs::write(&file, [0xff]).unwrap(),
            &|| symlink(&elsewhere, &file).unwrap(),
        ];
        for make in others {
            fs::remove_file(&file).unwrap();
            make();
            assert_eq!(plan_for(folder.path(), Some("[Unit]\n")), Err(vec![file.clone()]));
            assert_eq!(plan_for(folder.path(), None), Ok(vec![]));
            assert!(fs::symlink_metadata(&file).is_ok());
        }
    }

    #[test]
    fn a_text_is_still_what_it_was_with_the_line_in_it() {
        for (name, text, begins) in [
            ("zsh/_x", "#compdef x\n_x() { }\n", "#compdef x\n# Written by styxy setup "),
            ("man/man8/x.8", ".so man8/y.8\n", ".so man8/y.8\n.\\\" Written by styxy setup "),
            ("man/man8/x.8", ".TH x 8\n", ".\\\" Written by styxy setup "),
            ("x.service", "[Unit]\n", "# Written by styxy setup "),
        ] {
            let marked = marked(name, text);
            assert!(marked.starts_with(begins), "{marked}");
            assert_eq!(judged(marked.clone()), Found::Written(marked));
        }
    }
}
