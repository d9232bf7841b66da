//! What the service may do, as Landlock enforces it: the layer of its sandbox that is there without systemd's unit, too.
//!
//! Every path that the service opens or executes while it runs needs a rule here:
//!
//! - its state, its sockets, its log, and the states that it takes over: their folders
//! - the configuration: its folder, and the folders of the files that links in there lead to
//! - `journalctl`, with the journals, which may be made or removed meanwhile
//! - what the C library reads for the names of users and for time zones, and `/proc`

use std::{
    fs::{self, DirBuilder},
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
};

use super::home::Home;
use crate::{
    audit::past::journal,
    config::files,
    kernel::{
        landlock::{self, Allowed},
        process,
    },
    surroundings::{bus, user},
};

/// What belongs to the system and has no secrets of the user: programs, settings, and what the kernel tells.
const SYSTEM: [&str; 10] = [
    "/usr",
    "/etc",
    "/proc",
    "/sys",
    "/bin",
    "/sbin",
    "/lib",
    "/lib64",
    "/nix/store",
    "/gnu/store",
];

/// Of the folders that also have what is others': the journals (each in a folder that may be removed), and what the C
/// library and its modules read of users (nsswitch.conf(5)).
const PARTS: [&str; 8] = [
    "/var/log",
    "/run/log",
    "/run/systemd",
    "/run/nscd",
    "/var/cache/nscd",
    "/var/lib/sss",
    "/var/lib/extrausers",
    "/var/lib/dbus",
];

/// Limits this process, before it has a second thread.
pub(super) fn enter(home: &Home, has_state: bool) {
    if !has_state {
        // There may be no folder yet that a rule could belong to.
        landlock::stay_out("its state folder could not be used when it was started");
    }
    landlock::enter(&allowed(home));
}

fn allowed(home: &Home) -> Allowed {
    let own = Ours::new();
    let mut write = vec![PathBuf::from("/dev/null")];
    for door in home.folders_of_doors() {
        let _ = make(door);
        write.push(door.to_owned());
    }
    let states = user().state_folders();
    for state in states.iter().chain([&home.folder]) {
        write.extend(own.around(state));
    }
    let mut read: Vec<_> = SYSTEM.iter().map(PathBuf::from).collect();
    read.extend(PARTS.iter().filter_map(|part| nearest(Path::new(part))));
    if let Some(folder) = home.config.last() {
        // As systemd does for the unit: a folder that is made later has no rule.
        let _ = make(folder);
        write.push(folder.clone());
        // The drop-in, or the folder that it is in, may be a link.
        let drop_ins = folder.join("config.d");
        write.extend(fs::canonicalize(&drop_ins).ok());
        write.extend(files::real(&drop_ins.join(files::DROP_IN)).map(|file| own.holder(file)));
    }
    read.extend(files::elsewhere(&home.config).into_iter().map(|file| own.holder(file)));
    // Outside of the system, too, it may be replaced.
    let program = landlock::program(journal::PROGRAM).and_then(|path| fs::canonicalize(path).ok());
    read.extend(program.map(|program| own.holder(program)));
    let execute = if bus::is_by("unixexec:") {
        Err("it may execute every program, because the address of the session bus names one"
            .to_owned())
    } else {
        Ok(journal::PROGRAM)
    };
    Allowed { read, write, execute, tcp: bus::is_by("tcp:") }
}

/// Makes a folder as systemd makes that of a unit.
fn make(folder: &Path) -> std::io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// The path itself, or, if it does not exist, the nearest folder in which it could be made; never the root directory.
fn nearest(path: &Path) -> Option<PathBuf> {
    path.ancestors()
        .find(|path| path.exists())
        .filter(|path| path.parent().is_some())
        .map(Path::to_owned)
}

/// The folders that have more of the user than the service's business.
struct Ours {
    home: Vec<PathBuf>,
}

impl Ours {
    fn new() -> Self {
        // The one that `$HOME` names, and the one of the passwd database.
        let of_user =
            nix::unistd::User::from_uid(nix::unistd::getuid()).ok().flatten().map(|u| u.dir);
        let homes = user().home().map(Path::to_owned).into_iter().chain(of_user);
        let real = |home: PathBuf| [fs::canonicalize(&home).ok(), Some(home)];
        let home = homes.flat_map(real).flatten().filter(|home| home.parent().is_some()).collect();
        Self { home }
    }

    /// Whether a folder is the user's home, or one in which that is.
    fn has_home(&self, folder: &Path) -> bool {
        self.home.iter().any(|home| home.starts_with(folder))
    }

    /// Whether a folder has the settings of other programs.
    fn has_settings(folder: &Path) -> bool {
        let settings = user().config().pop();
        let settings = settings.as_deref().and_then(Path::parent);
        settings.is_some_and(|settings| {
            settings.starts_with(folder)
                || fs::canonicalize(settings).is_ok_and(|settings| settings.starts_with(folder))
        })
    }

    /// A state folder, and those around it that may be removed with it: that of styxy, and the user's for the states of
    /// all programs. What is made anew has the rule of the folder that was left.
    fn around(&self, state: &Path) -> Vec<PathBuf> {
        let may_be = |folder: &&Path| {
            // One that does not exist is no obstacle to the one around it.
            let found = fs::metadata(folder);
            let is_of_user = found.map_or(true, |found| found.uid() == process::uid());
            let is_of_root = process::uid() == 0 && !self.is_in_home(folder);
            is_of_user && !is_of_root && !self.has_home(folder) && !Self::has_settings(folder)
        };
        let above = state.ancestors().skip(1).take(2).take_while(may_be);
        [state].into_iter().chain(above).map(Path::to_owned).collect()
    }

    fn is_in_home(&self, folder: &Path) -> bool {
        self.home.iter().any(|home| folder.starts_with(home))
    }

    /// The folder of a file, because an editor replaces the file by another one; the file itself where that folder has
    /// too much else.
    fn holder(&self, file: PathBuf) -> PathBuf {
        let may_be = |folder: &&Path| {
            folder.parent().is_some() && !self.has_home(folder) && !Self::has_settings(folder)
        };
        match file.parent().filter(may_be) {
            Some(folder) => folder.to_owned(),
            None => file,
        }
    }
}
