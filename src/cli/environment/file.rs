//! A file that has the variables between two lines of their own, among what people write there.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{self, Component, Path, PathBuf},
    process,
};

use nix::{
    errno::Errno,
    unistd::{AccessFlags, access},
};

use crate::{
    cli::{CliError, refused},
    project::{BEGIN, END},
    word::visible,
};

/// Those of these lines that the file has not; `None` if it has them, and no others, between its two lines.
pub(super) fn lacks<'a>(path: &Path, lines: &'a [String]) -> io::Result<Option<Vec<&'a str>>> {
    let old = read(path)?.unwrap_or_default();
    if with(&old, lines).is_ok_and(|new| new == old) {
        return Ok(None);
    }
    let known: Vec<_> = old.lines().map(str::trim_end).collect();
    let lines = lines.iter().map(String::as_str);
    Ok(Some(lines.filter(|line| !known.contains(line)).collect()))
}

/// Replaces what is between its two lines, or adds them at the end. Servers restart when their environment is written, so
/// nothing is if nothing changes. A link stays a link, and the file keeps its mode. What a name in the project leads to must be
/// there, too: its files may be somebody else's work.
pub(super) fn write(path: &Path, lines: &[String], project: &Path) -> io::Result<()> {
    let old = read(path)?;
    let new = with(old.as_deref().unwrap_or_default(), lines)?;
    if old.as_ref() == Some(&new) {
        return Ok(());
    }
    let target = target(path);
    let folder = fs::canonicalize(target.parent().filter(|p| *p != "").unwrap_or(Path::new(".")))?;
    if is_below(path, project)? && !folder.starts_with(project) {
        let target = folder.join(target.file_name().unwrap_or_default());
        let problem = format!(
            "it leads to {0}, which is not in the project: name that file if you mean it, as in --file {0}",
            visible(&target.to_string_lossy())
        );
        return Err(io::Error::other(problem));
    }
    // A file that was made read-only is not to be written.
    match access(&target, AccessFlags::W_OK) {
        Err(errno) if errno != Errno::ENOENT => return Err(errno.into()),
        _ => {}
    }
    let name = target.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_string_lossy();
    let partial = target.with_file_name(format!(".{name}.styxy-{}", process::id()));
    let written = put(&partial, &target, &new).and_then(|()| fs::rename(&partial, &target));
    if written.is_err() {
        let _ = fs::remove_file(&partial);
    }
    written
}

pub(super) fn refusal(path: &Path, error: &io::Error) -> CliError {
    refused(format!("{}: {error}", path.display()))
}

fn put(partial: &Path, target: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o666).open(partial)?;
    if let Ok(about) = fs::metadata(target) {
        file.set_permissions(about.permissions())?;
    }
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// The text of the file; `None` if there is none.
fn read(path: &Path) -> io::Result<Option<String>> {
    match fs::metadata(path) {
        Ok(about) if !about.is_file() => Err(io::Error::other("it is not a regular file")),
        Ok(_) => fs::read_to_string(path).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The file that a link leads to, also one that is not there yet.
fn target(path: &Path) -> PathBuf {
    let mut target = path.to_owned();
    // As many links as the kernel follows (path_resolution(7)).
    for _ in 0..40 {
        let Ok(next) = fs::read_link(&target) else { break };
        target = target.parent().unwrap_or(Path::new("")).join(next);
    }
    target
}

/// Whether a path names something in a folder, wherever its links lead.
fn is_below(path: &Path, folder: &Path) -> io::Result<bool> {
    let mut plain = PathBuf::new();
    for part in path::absolute(path)?.components() {
        match part {
            Component::ParentDir => drop(plain.pop()),
            part => plain.push(part),
        }
    }
    Ok(plain.starts_with(folder))
}

/// The text with these lines between the two.
fn with(text: &str, lines: &[String]) -> io::Result<String> {
    let all: Vec<&str> = text.split_inclusive('\n').collect();
    let place = |wanted: &str| {
        let mut places = all.iter().enumerate().filter(|(_, line)| line.trim_end() == wanted);
        let first = places.next().map(|(at, _)| at);
        if places.next().is_some() { Err(()) } else { Ok(first) }
    };
    let (before, after) = match (place(BEGIN), place(END)) {
        (Ok(None), Ok(None)) => (all.concat(), String::new()),
        (Ok(Some(begin)), Ok(Some(end))) if begin < end => {
            (all[..begin].concat(), all[end + 1..].concat())
        }
        _ => {
            let problem =
                format!("it must have the lines {BEGIN:?} and {END:?} once, in this order");
            return Err(io::Error::other(problem));
        }
    };
    let end = if text.contains("\r\n") { "\r\n" } else { "\n" };
    let gap = if before.is_empty() || before.ends_with('\n') { "" } else { end };
    let lines: String = lines.iter().flat_map(|line| [line, end]).collect();
    Ok(format!("{before}{gap}{BEGIN}{end}{lines}{END}{end}{after}"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;

    const NO_PROJECT: &str = "/no/project";

    fn write(path: &Path, lines: &[String], project: &str) -> io::Result<()> {
        super::write(path, lines, Path::new(project))
    }

    fn lines(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn what_people_have_written_stays_and_nothing_is_written_twice() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(".env");
        fs::write(&path, "SECRET=1\n# mine").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        write(&path, &lines("A=1 B=2"), NO_PROJECT).unwrap();
        let first = format!("SECRET=1\n# mine\n{BEGIN}\nA=1\nB=2\n{END}\n");
        assert_eq!(fs::read_to_string(&path).unwrap(), first);
        let inode = |path: &Path| fs::metadata(path).unwrap().ino();
        let before = inode(&path);
        write(&path, &lines("A=1 B=2"), NO_PROJECT).unwrap();
        assert_eq!(inode(&path), before, "nothing has changed");
        fs::write(&path, format!("{first}LAST=1\n")).unwrap();
        assert_eq!(lacks(&path, &lines("A=1 B=2")).unwrap(), None);
        assert_eq!(lacks(&path, &lines("A=1 B=3")).unwrap(), Some(vec!["B=3"]));
        assert_eq!(lacks(&path, &lines("A=1")).unwrap(), Some(vec![]), "it has others, too");
        write(&path, &lines("A=3"), NO_PROJECT).unwrap();
        let second = format!("SECRET=1\n# mine\n{BEGIN}\nA=3\n{END}\nLAST=1\n");
        assert_eq!(fs::read_to_string(&path).unwrap(), second);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn a_file_keeps_the_ends_of_its_lines() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(".env");
        fs::write(&path, "SECRET=1\r\n").unwrap();
        write(&path, &lines("A=1"), NO_PROJECT).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text, format!("SECRET=1\r\n{BEGIN}\r\nA=1\r\n{END}\r\n"));
        assert_eq!(lacks(&path, &lines("A=1")).unwrap(), None);
    }

    #[test]
    fn a_link_stays_one_and_its_file_is_made_where_it_leads() {
        let folder = tempfile::tempdir().unwrap();
        let [link, file] = ["link", "shared.env"].map(|name| folder.path().join(name));
        symlink("shared.env", &link).unwrap();
        for value in ["A=1", "A=2"] {
            write(&link, &lines(value), NO_PROJECT).unwrap();
            assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
            assert_eq!(fs::read_to_string(&file).unwrap(), format!("{BEGIN}\n{value}\n{END}\n"));
        }
    }

    #[test]
    fn no_link_in_a_project_leads_out_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let top = fs::canonicalize(folder.path()).unwrap();
        let [shop, other] = ["shop", "other"].map(|name| top.join(name));
        fs::create_dir(&shop).and_then(|()| fs::create_dir(&other)).unwrap();
        let project = shop.to_str().unwrap();
        symlink("../other/.env", shop.join(".env")).unwrap();
        symlink("../other", shop.join("apps")).unwrap();
        symlink("own", shop.join(".env.local")).unwrap();
        for path in [".env", "apps/.env", "../shop/.env"] {
            let error = write(&shop.join(path), &lines("A=1"), project).unwrap_err().to_string();
            let remedy = format!("--file {}", other.join(".env").display());
            assert!(error.ends_with(&remedy), "{error}");
        }
        assert!(!other.join(".env").exists());
        write(&shop.join(".env.local"), &lines("A=1"), project).unwrap();
        // Whoever names a file elsewhere means it.
        write(&other.join(".env"), &lines("A=1"), project).unwrap();
        write(&shop.join("../other/.env"), &lines("A=2"), project).unwrap();
    }

    #[test]
    fn a_file_whose_lines_are_out_of_order_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(".env");
        for text in [
            format!("{BEGIN}\nA=1\n"),
            format!("{END}\n{BEGIN}\n"),
            format!("{BEGIN}\n{BEGIN}\n{END}\n"),
        ] {
            fs::write(&path, &text).unwrap();
            assert!(write(&path, &lines("A=1"), NO_PROJECT).is_err(), "{text}");
            assert!(lacks(&path, &lines("A=1")).unwrap().is_some(), "{text}");
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        assert!(write(Path::new("/dev/null"), &lines("A=1"), NO_PROJECT).is_err());
    }
}
