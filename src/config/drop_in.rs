//! The file of service types that appeared by themselves. Only the service writes it; people may read it,
//! keep it in their dotfiles, or delete it while no service runs.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use nix::fcntl::{Flock, FlockArg};

use super::{
    Problem,
    json::Source,
    layer::{AutoLayer, Layer, SCHEMA_URL, TypeLayer},
    read,
};
use crate::{
    durable,
    error::{Error, ErrorKind},
    service_type::{ServiceType, ServiceTypeName},
    time::Timestamp,
    value::Fields,
};

/// How many earlier versions are kept.
pub const MOST_BACKUPS: usize = 10;

/// The drop-in, locked against other writers.
#[derive(Debug)]
pub struct DropIn {
    path: PathBuf,
    /// Where it is written: the same, unless that is a link.
    target: PathBuf,
    backups: PathBuf,
    /// What it says now; `None` if there is none.
    text: Option<String>,
    _lock: Flock<File>,
}

/// An earlier version.
#[derive(Clone, Debug)]
pub struct Backup {
    /// Its number: higher is newer.
    pub number: u32,
    /// Until when it was in force.
    pub until: Timestamp,
    /// Its service types and their ranges.
    pub types: Vec<(ServiceTypeName, String)>,
    text: String,
}

impl DropIn {
    /// Locks the drop-in and reads it. `backups` is the folder of its earlier versions.
    ///
    /// A drop-in that is a link is written where the link leads to, so that people can keep it elsewhere. If the service
    /// cannot see that place, nothing is written: a file instead of the link would part the two for good.
    pub fn lock(path: &Path, backups: &Path) -> Result<Self, Error> {
        let is_link = fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_symlink());
        let target = if is_link { fs::canonicalize(path) } else { Ok(path.to_owned()) };
        let target = target.map_err(|error| {
            let path = path.display();
            let problem =
                format!("{path} is a link to a file that the service cannot see ({error})");
            Error::new(ErrorKind::Storage, problem)
                .suggest("put the file itself there, or a link to a file in the same folder")
        })?;
        Self::lock_at(path, target, backups).map_err(|error| Error::storage(&error))
    }

    fn lock_at(path: &Path, target: PathBuf, backups: &Path) -> io::Result<Self> {
        let folder = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
        let private = |folder| DirBuilder::new().recursive(true).mode(0o700).create(folder);
        private(folder)?;
        private(backups)?;
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(folder.join(".styxy-auto.lock"))?;
        let lock = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, errno)| errno)?;
        let text = match fs::read_to_string(&target) {
            Ok(text) => Some(text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        Ok(Self { path: path.to_owned(), target, backups: backups.to_owned(), text, _lock: lock })
    }

    /// What it says now; `None` if there is none.
    pub fn text(&self) -> Option<&str> {
        self.text.as_deref()
    }

    /// What it says with this type instead of what it has of that name; `None` takes the type out.
    pub fn with_type(
        &self,
        name: &ServiceTypeName,
        service_type: Option<&ServiceType>,
    ) -> Result<String, Vec<Problem>> {
        let mut layer = self.layer()?;
        match service_type {
            Some(service_type) => {
                let new = TypeLayer {
                    port_range: Some(service_type.port_range),
                    more_port_ranges: (!service_type.more_ranges.is_empty())
                        .then(|| service_type.more_ranges.clone()),
                    created: service_type.created.clone(),
                    ..TypeLayer::default()
                };
                layer.service_types.insert(name.clone(), Some(new));
            }
            None => drop(layer.service_types.remove(name)),
        }
        Ok(write(&layer))
    }

    /// What it says with automatic ranges switched on or off.
    pub fn with_auto_allocation(&self, enabled: bool) -> Result<String, Vec<Problem>> {
        let mut layer = self.layer()?;
        let auto = layer.auto_allocation.get_or_insert_with(AutoLayer::default);
        auto.enabled = Some(enabled);
        Ok(write(&layer))
    }

    fn layer(&self) -> Result<Layer, Vec<Problem>> {
        let Some(text) = &self.text else { return Ok(Layer::default()) };
        let mut source = Source::new(&self.path, text);
        let layer = read::layer(&mut source, true);
        if source.problems.is_empty() { Ok(layer) } else { Err(source.problems) }
    }

    /// Puts another text in its place, durably, and keeps the one of before.
    pub fn replace(&mut self, text: &str) -> io::Result<()> {
        let before = self.text.clone().unwrap_or_else(|| write(&Layer::default()));
        let kept = backups(&self.backups)?;
        // Room for one more is made first: what fails or ends in between leaves no version too many,
        // and no change that is answered as an error.
        for old in &kept[..(kept.len() + 1).saturating_sub(MOST_BACKUPS)] {
            fs::remove_file(self.backups.join(name(old.number)))?;
        }
        let newest = kept.last().map_or(0, |backup| backup.number);
        durable::replace(&self.backups.join(name(newest + 1)), before.as_bytes())?;
        durable::replace(&self.target, text.as_bytes())?;
        self.text = Some(text.to_owned());
        Ok(())
    }
}

impl Backup {
    /// The version as every door shows it.
    pub fn fields(&self) -> Fields {
        let types = self.types.iter().map(|(name, ranges)| format!("{name} {ranges}"));
        let mut fields = Fields::default();
        fields.put("version", self.number);
        fields.put("until", self.until.to_string());
        fields.put("service_types", types.collect::<Vec<_>>());
        fields
    }

    /// What it says.
    pub fn text(&self) -> &str {
        &self.text
    }
}

/// The earlier versions, the oldest first.
pub fn backups(folder: &Path) -> io::Result<Vec<Backup>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut backups = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let number = path.file_stem().and_then(|stem| stem.to_str()?.parse().ok());
        let (Some(number), Some("json")) = (number, path.extension().and_then(|e| e.to_str()))
        else {
            continue;
        };
        let read = fs::read_to_string(&path).and_then(|text| {
            let until = fs::metadata(&path)?.modified()?;
            Ok((text, until.into()))
        });
        let (text, until) = match read {
            Ok(read) => read,
            // Whoever writes the next version deletes the oldest, also while somebody looks.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let layer = read::layer(&mut Source::new(&path, &text), true);
        let types = layer.service_types.into_iter().filter_map(|(name, service_type)| {
            let service_type = service_type?;
            let ranges = service_type.port_range.into_iter();
            let ranges = ranges.chain(service_type.more_port_ranges.unwrap_or_default());
            let ranges: Vec<_> = ranges.map(|range| range.to_string()).collect();
            Some((name, ranges.join(", ")))
        });
        backups.push(Backup { number, until, types: types.collect(), text });
    }
    backups.sort_unstable_by_key(|backup| backup.number);
    Ok(backups)
}

fn name(number: u32) -> String {
    format!("{number:06}.json")
}

fn write(layer: &Layer) -> String {
    let layer = Layer { schema: Some(SCHEMA_URL.to_owned()), ..layer.clone() };
    let mut text = serde_json::to_string_pretty(&layer).unwrap_or_default();
    text.push('\n');
    text
}
