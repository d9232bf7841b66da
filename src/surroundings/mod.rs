//! Whose service it is and where its folders are. The environment and the passwd database are read once, into
//! values; nothing else in the program reads these variables.
//!
//! - this file: [`User`], for commands and for the private service: follows the XDG Base Directory
//!   Specification, and ignores the variables of units
//! - [`unit`]: the folders that systemd passes to the service as a unit
//! - [`bus`]: the session bus
//! - [`door`]: the socket in a folder, and who listens there
//! - `seen`: the network and the state folder that a command sees
//! - `pages`: the mark that the socket for TCP listens for pages only
//! - [`machine`]: which registry belongs to this machine and network
//! - `home`: whether a home directory belongs to the user
//! - `folder`: whether a folder is usable, and the fallback in `/tmp`

pub mod bus;
pub mod door;
mod folder;
mod home;
pub mod machine;
mod pages;
mod seen;
pub mod unit;

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    sync::OnceLock,
};

pub use self::{door::Door, pages::ForPages, seen::Seen, unit::Unit};
use self::{
    folder::Temporary,
    home::{Entry, Home},
};
use crate::state;

/// The folder of the machine's configuration.
const MACHINE: &str = "/etc/styxy";

/// The user that this process runs as.
#[derive(Clone, Debug)]
pub struct User {
    uid: u32,
    home: Option<PathBuf>,
    refusal: Option<String>,
    /// The user's runtime directory, or why the given one cannot be used.
    runtime: Result<PathBuf, String>,
    /// Candidates for the state folder outside of `/tmp`, the likelier one first. Each machine has a folder in
    /// it.
    states: Vec<PathBuf>,
    /// The candidate that is used, or why none can be. Determined at first use: it depends on the machine's
    /// network, and determining that depends on the user.
    chosen_state: OnceLock<Result<PathBuf, String>>,
    /// The state folder of systemd before version 254, which newer versions may still use.
    older_state: Option<PathBuf>,
    config: Option<PathBuf>,
    data: Option<PathBuf>,
    /// The address of the session bus, if one is given.
    bus: Option<String>,
    temporary: Temporary,
}

/// The user of this process; the environment is read at the first call.
pub fn user() -> &'static User {
    static USER: OnceLock<User> = OnceLock::new();
    USER.get_or_init(|| {
        User::read(
            nix::unistd::geteuid().as_raw(),
            &|variable| std::env::var_os(variable),
            &home::entry,
        )
    })
}

/// The variables that are passed to a private service. All others concern only its first caller: secrets, and
/// what a manager told the unit that the caller is part of.
pub fn passed_on() -> Vec<(OsString, OsString)> {
    const NAMES: [&str; 12] = [
        "DBUS_SESSION_BUS_ADDRESS",
        "HOME",
        "LANG",
        "LANGUAGE",
        "LOGNAME",
        "PATH",
        "TMPDIR",
        "TZ",
        "USER",
        "XDG_CONFIG_HOME",
        "XDG_RUNTIME_DIR",
        "XDG_STATE_HOME",
    ];
    let is_passed_on = |name: &OsString| {
        let name = name.to_string_lossy();
        NAMES.contains(&&*name) || name.starts_with("LC_")
    };
    std::env::vars_os().filter(|(name, _)| is_passed_on(name)).collect()
}

impl User {
    fn read(
        uid: u32,
        variable: &dyn Fn(&str) -> Option<OsString>,
        entry: &dyn Fn(u32) -> Option<Entry>,
    ) -> Self {
        // The specification requires relative paths to be ignored.
        let absolute = |name: &str| variable(name).map(PathBuf::from).filter(|p| p.is_absolute());
        let named = variable("HOME").filter(|home| !home.is_empty()).map(PathBuf::from);
        let (home, refusal) = match home::of(uid, named.as_deref(), entry) {
            Home::Mine(home) => (Some(home), None),
            Home::Absent => (None, None),
            Home::Others { name, path } => (None, Some(refusal(uid, &name, &path))),
        };
        let below = |folder: &str| home.as_ref().map(|home| home.join(folder));
        let states = [absolute("XDG_STATE_HOME"), below(".local/state")].into_iter().flatten();
        let config = absolute("XDG_CONFIG_HOME").or_else(|| below(".config")).map(config_in);
        Self {
            uid,
            runtime: runtime(uid, variable("XDG_RUNTIME_DIR").as_deref()),
            states: states.map(state_in).collect(),
            chosen_state: OnceLock::new(),
            older_state: config.as_ref().map(|config| config.join("state")),
            config,
            data: absolute("XDG_DATA_HOME").or_else(|| below(".local/share")),
            bus: variable("DBUS_SESSION_BUS_ADDRESS")
                .and_then(|address| address.into_string().ok())
                .filter(|address| !address.is_empty()),
            temporary: Temporary::new(uid, absolute("TMPDIR")),
            home,
            refusal,
        }
    }

    /// The effective user ID.
    pub fn uid(&self) -> u32 {
        self.uid
    }

    /// The home directory: from `$HOME`, or else from the passwd entry, if it belongs to the user.
    pub fn home(&self) -> Option<&Path> {
        self.home.as_deref()
    }

    /// Why this user must not run a command here: the home is another user's, and files created in it would be
    /// in that user's way.
    pub fn refusal(&self) -> Option<&str> {
        self.refusal.as_deref()
    }

    /// The runtime directory, or why there is none; the message names the variable.
    pub fn runtime(&self) -> Result<&Path, &str> {
        self.runtime.as_deref().map_err(String::as_str)
    }

    /// The folder of this machine's registry: below the home, else in `/tmp` if it already exists there.
    /// Creates nothing.
    pub fn state(&self) -> Option<PathBuf> {
        let mut folders = self.registries();
        // A folder left over from another version of systemd has no socket, and eventually no state.
        let in_use = folders.iter().position(|folder| Door::new(self.uid, folder.clone()).exists());
        let existing = in_use.or_else(|| folders.iter().position(|folder| state::is_in(folder)));
        let existing = existing.or_else(|| folders.iter().position(|folder| folder.exists()));
        (!folders.is_empty()).then(|| folders.swap_remove(existing.unwrap_or_default()))
    }

    /// Where this machine's registry may be, the likelier place first.
    fn registries(&self) -> Vec<PathBuf> {
        let read_only = self.read_only_state().map(Path::to_owned);
        let folders = self.state_folders().into_iter().chain(read_only);
        folders.map(|folder| folder.join(machine::key())).collect()
    }

    /// Every folder in which a service of this user may have the registry with this key. Queries nothing about
    /// this machine.
    fn possible_registries(&self, key: &str) -> Vec<PathBuf> {
        let temporary = self.temporary.find().map(|folder| folder.join("state"));
        let folders = self.states.iter().cloned().chain(self.older_state.clone()).chain(temporary);
        folders.map(|folder| folder.join(key)).collect()
    }

    /// The state folder, or why there is none outside of `/tmp`.
    fn chosen_state(&self) -> Result<&Path, &str> {
        let chosen = self.chosen_state.get_or_init(|| match self.states.as_slice() {
            [] => Err("there is no home directory".to_owned()),
            states => folder::first_usable(self.uid, states.iter().cloned()),
        });
        chosen.as_deref().map_err(String::as_str)
    }

    /// A state folder that exists but is not writable, as in a sandbox that shows the home read-only. A service
    /// outside may use it.
    fn read_only_state(&self) -> Option<&Path> {
        let first = self.states.first().map(PathBuf::as_path);
        first.filter(|folder| self.chosen_state() != Ok(folder) && folder.is_dir())
    }

    /// Where a state folder of this user may be, whichever version of styxy or systemd created it, the likelier
    /// place first.
    pub fn state_folders(&self) -> Vec<PathBuf> {
        let kept = || self.temporary.find().map(|folder| folder.join("state"));
        let state = self.chosen_state().ok().map(Path::to_owned).or_else(kept);
        state.into_iter().chain(self.older_state.clone()).collect()
    }

    /// The state folder of a service that gets none from systemd: the one that the unit would have. If there is
    /// no other, one is created in `/tmp`. The message says what is wrong and what to do.
    pub fn make_state(&self) -> Result<PathBuf, String> {
        self.state_outside_of_tmp().or_else(|why_not| {
            let made = self.temporary.find_or_make().map(|folder| folder.join("state"));
            made.map_err(|error| no_state(why_not, &error))
        })
    }

    fn state_outside_of_tmp(&self) -> Result<PathBuf, &str> {
        match (self.chosen_state(), &self.older_state) {
            (Ok(state), Some(older)) => Ok(machine::state_folder(state, older)),
            (Ok(state), None) => Ok(state.to_owned()),
            (Err(why), _) => Err(why),
        }
    }

    /// Why a service that a command would start could not have its state, or could not listen. Creates nothing.
    pub fn obstacle(&self) -> Option<String> {
        self.obstacle_with("or set XDG_STATE_HOME")
    }

    /// The same of a service that systemd starts: the folder of its state is systemd's to choose.
    pub fn obstacle_of_unit(&self) -> Option<String> {
        self.obstacle_with("then run `systemctl --user restart styxy.service`")
    }

    /// With `more`, what else to do about the folder of the state.
    fn obstacle_with(&self, more: &str) -> Option<String> {
        let state = match (self.state_outside_of_tmp(), self.temporary.find()) {
            (Ok(state), _) => state,
            (Err(_), Some(folder)) => folder.join("state"),
            (Err(_), None) if self.temporary.has_room() => return None,
            (Err(why), None) => return Some(no_state(why, "none can be made in /tmp")),
        };
        let state = state.join(machine::key());
        if let Err(why) = folder::can_be_had(self.uid, &state) {
            return Some(format!(
                "{why}, and its state is there: make it a directory that this user can write to, {more}"
            ));
        }
        if let Some(newer) = state::written_by_newer(&state) {
            return Some(newer.to_string());
        }
        let doors = self.runtime_door().into_iter().chain([Door::new(self.uid, state)]);
        let closed: Result<Vec<_>, ()> = doors.map(|door| door.obstacle().ok_or(())).collect();
        closed.ok().map(|closed| format!("it has nowhere to listen: {}", closed.join("; ")))
    }

    /// Whether the user can create files in this folder, which is created if needed; else why not. Creates nothing.
    pub fn can_create_in(&self, folder: &Path) -> Result<(), String> {
        folder::can_be_had(self.uid, folder)
    }

    /// The configuration folders, lowest precedence first. The last one is the user's.
    pub fn config(&self) -> Vec<PathBuf> {
        let kept = || self.temporary.find().map(|folder| folder.join("config"));
        let own = self.config.clone().or_else(kept);
        [PathBuf::from(MACHINE)].into_iter().chain(own).collect()
    }

    /// The folder for what is installed in the home (`$XDG_DATA_HOME`); `None` if there is no home.
    pub fn data(&self) -> Option<&Path> {
        self.data.as_deref()
    }

    /// The places where a service of this user may listen, best first.
    pub fn doors(&self) -> Vec<Door> {
        // Where systemd listens, connecting starts the service for the machine's network.
        let is_ours = machine::is_in_own_network() || !self.has_manager();
        let runtime = self.runtime_door().filter(|_| is_ours).into_iter();
        runtime.chain(self.door_beside_the_state()).collect()
    }

    /// The door in the runtime directory.
    pub fn runtime_door(&self) -> Option<Door> {
        let runtime = self.runtime.as_deref().ok();
        runtime.map(|runtime| Door::in_runtime(self.uid, runtime))
    }

    /// The door beside the lock, where every service listens.
    pub fn door_beside_the_state(&self) -> Option<Door> {
        self.state().map(|state| Door::new(self.uid, state))
    }

    /// The folder for the profiles of browsers, below `$XDG_STATE_HOME`; `None` if there is no home.
    pub fn profiles(&self) -> Option<PathBuf> {
        self.states.first().map(|state| state.with_file_name("browse"))
    }

    /// The mark that the socket for TCP listens for pages only, or why there can be none; the message names the variable.
    pub fn for_pages(&self) -> Result<ForPages, &str> {
        self.runtime().map(|runtime| ForPages::in_folder(&runtime.join("styxy")))
    }

    /// Whether a systemd manager of this user is running.
    pub fn has_manager(&self) -> bool {
        self.runtime.as_ref().is_ok_and(|runtime| runtime.join("systemd/private").exists())
    }
}

/// The state folder in a `$XDG_STATE_HOME`.
fn state_in(home: PathBuf) -> PathBuf {
    home.join("styxy/state")
}

/// The configuration folder in a `$XDG_CONFIG_HOME`.
fn config_in(home: PathBuf) -> PathBuf {
    home.join("styxy")
}

fn no_state(why_not: &str, nor: &str) -> String {
    format!("there is no place for the state: {why_not}, and {nor}; set HOME or XDG_STATE_HOME")
}

fn refusal(uid: u32, name: &str, path: &Path) -> String {
    let path = path.display();
    if uid == 0 {
        format!(
            "HOME is {path}, which is {name}'s home: run styxy without sudo, or with sudo -H for root's own ports"
        )
    } else {
        format!("HOME is {path}, which is {name}'s home: set HOME to your own, as su - does")
    }
}

/// The runtime directory: the given one if it is suitable, else the usual one.
fn runtime(uid: u32, named: Option<&std::ffi::OsStr>) -> Result<PathBuf, String> {
    let trouble = match named.filter(|named| !named.is_empty()).map(Path::new) {
        None => "XDG_RUNTIME_DIR is not set".to_owned(),
        Some(named) => match suitable(uid, named) {
            Ok(()) => return Ok(named.to_owned()),
            Err(why) => format!("XDG_RUNTIME_DIR is {}, {why}", named.display()),
        },
    };
    let usual = PathBuf::from(format!("/run/user/{uid}"));
    suitable(uid, &usual).map(|()| usual).map_err(|_| trouble)
}

fn suitable(uid: u32, runtime: &Path) -> Result<(), String> {
    if !runtime.is_absolute() {
        return Err("which is not an absolute path".to_owned());
    }
    // Files in there belong to the snap; other commands would not find them.
    let name = runtime.file_name().unwrap_or_default();
    if name.to_string_lossy().starts_with("snap.") {
        return Err("which is a snap's own".to_owned());
    }
    folder::is_own(uid, runtime)
}

#[cfg(test)]
mod tests;
