//! Where things are: what systemd says in the environment (systemd.exec(5)), else the folders of the
//! XDG Base Directory Specification. The folder of a user unit's state moved between systemd 253 and
//! 254, so the variables count, never a path.

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
};

use crate::{broker::Places, kernel::process};

/// The places of a service of this user.
pub fn of_service() -> Places {
    let state = from_systemd("STATE_DIRECTORY")
        .unwrap_or_else(|| xdg("XDG_STATE_HOME", ".local/state").join("styxy/state"));
    let config = from_systemd("CONFIGURATION_DIRECTORY")
        .unwrap_or_else(|| xdg("XDG_CONFIG_HOME", ".config").join("styxy"));
    Places {
        state,
        config: vec![PathBuf::from("/etc/styxy"), config],
        lock: None,
        guards: Vec::new(),
    }
}

/// The folder of the socket.
pub fn runtime() -> PathBuf {
    from_systemd("RUNTIME_DIRECTORY").unwrap_or_else(|| match absolute("XDG_RUNTIME_DIR") {
        Some(runtime) => runtime.join("styxy"),
        // A container or a CI job may have no login session.
        None => env::temp_dir().join(format!("styxy-{}", process::uid())),
    })
}

/// The socket in that folder.
pub fn socket(runtime: &Path) -> PathBuf {
    runtime.join("http.sock")
}

/// Whether a manager of systemd runs for this user.
pub fn has_manager() -> bool {
    absolute("XDG_RUNTIME_DIR").is_some_and(|runtime| runtime.join("systemd/private").exists())
}

/// The first of the folders that systemd made for the unit.
fn from_systemd(variable: &str) -> Option<PathBuf> {
    let folders = env::var(variable).ok()?;
    folders.split(':').next().map(PathBuf::from).filter(|folder| folder.is_absolute())
}

fn xdg(variable: &str, in_home: &str) -> PathBuf {
    absolute(variable).unwrap_or_else(|| {
        let home = env::var_os("HOME").filter(|home| !home.is_empty());
        PathBuf::from(home.unwrap_or_else(|| OsString::from("/"))).join(in_home)
    })
}

/// A variable's folder; a relative one is ignored, as the specification wants it.
fn absolute(variable: &str) -> Option<PathBuf> {
    env::var_os(variable).map(PathBuf::from).filter(|folder| folder.is_absolute())
}
