//! The configuration: built in, then `/etc/styxy/`, then `~/.config/styxy/`; in each folder
//! `config.json` and then `config.d/*.json` by name. A later layer changes the fields that it gives.
//!
//! What is wrong is reported with file, line, column and field, all of it at once, and the rest
//! stays in force.
//!
//! - `read`: one layer, field by field
//! - `json`: JSON values that know their place in the file

mod json;
mod read;

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{
    registry::{PortSet, Rules},
    service_type::ServiceTypes,
};

/// What is compiled in: the file `config/default.json` of the source.
pub const BUILT_IN: &str = include_str!("../../config/default.json");

/// The configuration in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The service types.
    pub types: ServiceTypes,
    /// Ports that are never granted.
    pub excluded: PortSet,
    /// The most leases at once.
    pub most_leases: usize,
    /// The most remembered ports; the oldest are forgotten first.
    pub most_remembered: usize,
    /// The most guards at once; further leases go without.
    pub most_guards: usize,
    /// How many seconds a lease without an owner may go without a listener.
    pub unused: u64,
    /// How long without a lease and without a client until the service ends; zero for never.
    pub idle_exit: Duration,
}

/// Something that is wrong in a layer, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file.
    pub file: PathBuf,
    /// Line and column, counted from 1, if it has a place in the file.
    pub place: Option<(usize, usize)>,
    /// The field, as `service_types.dev.port_range`; empty for the file as a whole.
    pub field: String,
    /// What is wrong and what to do.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some((line, column)) = self.place {
            write!(f, ":{line}:{column}")?;
        }
        if !self.field.is_empty() {
            write!(f, ": {}", self.field)?;
        }
        write!(f, ": {}", self.message)
    }
}

impl Config {
    /// Reads all layers: what is good of them, and what is not.
    pub fn load(folders: &[PathBuf]) -> (Self, Vec<Problem>) {
        let mut problems = Vec::new();
        let mut config = Self::built_in();
        for folder in folders {
            for file in layers(folder, &mut problems) {
                match fs::read_to_string(&file) {
                    Ok(text) => read::apply(&mut config, &file, &text, &mut problems),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => problems.push(unreadable(&file, &error)),
                }
            }
        }
        (config, problems)
    }

    /// The configuration without any file.
    pub fn built_in() -> Self {
        let mut config = Self {
            types: ServiceTypes::default(),
            excluded: PortSet::default(),
            most_leases: 0,
            most_remembered: 0,
            most_guards: 0,
            unused: 0,
            idle_exit: Duration::ZERO,
        };
        let mut problems = Vec::new();
        read::apply(&mut config, Path::new("config/default.json"), BUILT_IN, &mut problems);
        debug_assert!(problems.is_empty(), "{problems:?}");
        config
    }

    /// What the registry decides by.
    pub fn rules(&self) -> Rules {
        Rules {
            types: self.types.clone(),
            excluded: self.excluded.clone(),
            most_leases: self.most_leases,
            most_remembered: self.most_remembered,
        }
    }
}

/// The files of a folder in the order in which they count.
fn layers(folder: &Path, problems: &mut Vec<Problem>) -> Vec<PathBuf> {
    let drop_ins = folder.join("config.d");
    let mut files = match fs::read_dir(&drop_ins) {
        Ok(entries) => entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.extension().is_some_and(|e| e == "json"))
            .collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => {
            problems.push(unreadable(&drop_ins, &error));
            Vec::new()
        }
    };
    files.sort_unstable();
    files.insert(0, folder.join("config.json"));
    files
}

fn unreadable(file: &Path, error: &io::Error) -> Problem {
    Problem {
        file: file.to_owned(),
        place: None,
        field: String::new(),
        message: format!("cannot be read: {error}"),
    }
}

#[cfg(test)]
mod tests;
