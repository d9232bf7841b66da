//! The running program, and the one that is installed now.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// What the kernel appends to the path of a program whose file was deleted (`proc_pid_exe(5)`).
const DELETED: &str = " (deleted)";

/// Whether the path of the running program now leads to another file, as after an upgrade.
pub fn is_replaced() -> bool {
    let running = fs::metadata("/proc/self/exe");
    let installed = path().and_then(fs::metadata);
    match (running, installed) {
        (Ok(running), Ok(installed)) => {
            (running.dev(), running.ino()) != (installed.dev(), installed.ino())
        }
        _ => false,
    }
}

/// The path from which this program was started.
pub fn path() -> io::Result<PathBuf> {
    let path = fs::read_link("/proc/self/exe")?.to_string_lossy().into_owned();
    Ok(PathBuf::from(path.strip_suffix(DELETED).unwrap_or(&path)))
}

/// What a sandbox that hides the home has to show, so that the program can be started: its folder, because the next program is
/// another file there; but never the home itself, and no folder that is for something else.
pub fn place<'a>(program: &'a Path, home: Option<&Path>) -> &'a Path {
    // The path of the program has no links, but that of the home may have.
    let homes =
        home.into_iter().flat_map(|home| [Some(home.to_owned()), fs::canonicalize(home).ok()]);
    let homes: Vec<_> = homes.flatten().collect();
    match program.parent() {
        Some(folder)
            if !homes.iter().any(|home| home.starts_with(folder)) && is_for_programs(folder) =>
        {
            folder
        }
        _ => program,
    }
}

/// Whether a folder with a program is none of secrets, settings, data or temporary files, such as `~/.ssh`.
fn is_for_programs(folder: &Path) -> bool {
    let is_hidden =
        |part: std::path::Component<'_>| part.as_os_str().as_encoded_bytes().starts_with(b".");
    let is_temporary = ["/tmp", "/var/tmp", "/dev/shm"].map(Path::new).contains(&folder);
    folder.ends_with("bin") || !is_temporary && !folder.components().any(is_hidden)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn this_program_is_the_one_that_is_installed() {
        assert!(!is_replaced());
    }
    #[test]
    fn the_folder_of_the_program_is_shown_unless_the_home_is_in_it() {
        let folder = tempfile::Builder::new().prefix("home").tempdir().unwrap();
        let folder = fs::canonicalize(folder.path()).unwrap();
        let [home, link] = ["dev", "link"].map(|name| folder.join(name));
        fs::create_dir(&home).unwrap();
        symlink(&home, &link).unwrap();
        for home_by_name in [&home, &link] {
            let place = |program: &Path| place(program, Some(home_by_name)).to_owned();
            assert_eq!(place(&home.join("bin/styxy")), home.join("bin"));
            assert_eq!(place(&home.join("styxy")), home.join("styxy"));
            assert_eq!(place(&folder.join("styxy")), folder.join("styxy"));
        }
        for (program, shown) in [
            ("/opt/styxy", "/opt"),
            ("/home/dev/.cargo/bin/styxy", "/home/dev/.cargo/bin"),
            ("/home/dev/.ssh/styxy", "/home/dev/.ssh/styxy"),
            ("/home/dev/.local/share/styxy", "/home/dev/.local/share/styxy"),
            ("/tmp/styxy", "/tmp/styxy"),
        ] {
            assert_eq!(place(Path::new(program), None), Path::new(shown));
        }
    }
}
