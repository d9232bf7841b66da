//! The folders that systemd passes to a service that it started as a unit (systemd.exec(5)).
//!
//! The children of every unit inherit these variables, so they count only in the process that systemd itself
//! started.

use std::{env, path::PathBuf};

use super::MACHINE;
use crate::kernel::manager;

/// The folders of the unit that this process is the main process of.
#[derive(Clone, Debug, Default)]
pub struct Unit {
    /// `StateDirectory=`: its path differs between versions of systemd, so it is always taken from here.
    pub state: Option<PathBuf>,
    /// The configuration folders, lowest precedence first; `ConfigurationDirectory=` is the last one.
    pub config: Option<Vec<PathBuf>>,
    /// `RuntimeDirectory=`.
    pub runtime: Option<PathBuf>,
}

impl Unit {
    /// The unit, if systemd started this very process.
    pub fn from_systemd() -> Option<Self> {
        manager::started_this_process().then(|| Self {
            state: folder("STATE_DIRECTORY"),
            config: folder("CONFIGURATION_DIRECTORY").map(|own| vec![MACHINE.into(), own]),
            runtime: folder("RUNTIME_DIRECTORY"),
        })
    }
}

/// The first of the folders that systemd made for the unit.
fn folder(variable: &str) -> Option<PathBuf> {
    let folders = env::var(variable).ok()?;
    folders.split(':').next().map(PathBuf::from).filter(|folder| folder.is_absolute())
}
