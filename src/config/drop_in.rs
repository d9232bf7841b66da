//! The file of automatic service types. Only the service writes it; people may read it, keep it in their
//! dotfiles, or delete it while no service is running.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};

use super::{
    Problem,
    json::Source,
    layer::{AutoLayer, Layer, SCHEMA_URL, TypeLayer},
    read,
};
use crate::{
    atomic_file,
    error::{Error, ErrorKind},
    service_type::{ServiceType, ServiceTypeName},
    time::Timestamp,
    value::Fields,
};

/// The name of the lock file, beside the drop-in.
const LOCK: &str = ".styxy-auto.lock";
/// The name of the old drop-in while a new one is being put in force.
const OLD: &str = ".styxy-auto.old";

/// The lock file of the drop-in at this path.
pub fn lock_file(path: &Path) -> PathBuf {
    path.with_file_name(LOCK)
}

/// Deletes what a killed service may have left beside the drop-in at this path.
pub fn tidy(path: &Path) {
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let _ = fs::remove_file(target.with_file_name(OLD));
}

/// How many earlier versions are kept.
pub const MOST_BACKUPS: usize = 10;

/// The drop-in, locked against other writers.
#[derive(Debug)]
pub struct DropIn {
    path: PathBuf,
    /// Where it is written: the same path, unless that is a link.
    target: PathBuf,
    backups: PathBuf,
    /// Its current text; `None` if it does not exist.
    text: Option<String>,
    /// The version that was replaced.
    before: Option<Before>,
    _lock: Flock<File>,
}

#[derive(Debug)]
struct Before {
    text: Option<String>,
    /// The file that keeps this version.
    backup: PathBuf,
}

/// An earlier version.
#[derive(Clone, Debug)]
pub struct Backup {
    /// Its number: higher is newer.
    pub number: u32,
    /// When it was replaced.
    pub until: Timestamp,
    /// Its service types and their ranges.
    pub types: Vec<(ServiceTypeName, String)>,
    text: String,
}

impl DropIn {
    /// Locks the drop-in and reads it; `None` if another program holds the lock. `backups` is the folder of its
    /// earlier versions.
    ///
    /// A drop-in that is a link is written to the target of the link, so that people can keep it elsewhere. If
    /// the service cannot see the target, nothing is written: a file instead of the link would separate the two
    /// for good.
    pub fn try_lock(path: &Path, backups: &Path) -> Result<Option<Self>, Error> {
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

    fn lock_at(path: &Path, target: PathBuf, backups: &Path) -> io::Result<Option<Self>> {
        let folder = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
        let private = |folder| DirBuilder::new().recursive(true).mode(0o700).create(folder);
        private(folder)?;
        private(backups)?;
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(folder.join(LOCK))?;
        let lock = match Flock::lock(lock, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => lock,
            Err((_, Errno::EWOULDBLOCK)) => return Ok(None),
            Err((_, errno)) => return Err(errno.into()),
        };
        let text = match fs::read_to_string(&target) {
            Ok(text) => Some(text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let (path, backups) = (path.to_owned(), backups.to_owned());
        Ok(Some(Self { path, target, backups, text, before: None, _lock: lock }))
    }

    /// Its current text; `None` if it does not exist.
    pub fn text(&self) -> Option<&str> {
        self.text.as_deref()
    }

    /// Its text, with this type in place of the one with this name; `None` removes the type.
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

    /// Its text, with automatic ranges enabled or disabled.
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

    /// Replaces its text durably, and keeps the old version.
    pub fn replace(&mut self, text: &str) -> io::Result<()> {
        let before = self.text.clone().unwrap_or_else(|| write(&Layer::default()));
        let kept = backups(&self.backups)?;
        // Room for one more version is made first: if a step fails or the service ends in between, there is
        // neither a version too many nor a change that is answered with an error.
        for old in &kept[..(kept.len() + 1).saturating_sub(MOST_BACKUPS)] {
            fs::remove_file(self.backups.join(name(old.number)))?;
        }
        let newest = kept.last().map_or(0, |backup| backup.number);
        let backup = self.backups.join(name(newest + 1));
        atomic_file::replace(&backup, before.as_bytes())?;
        // A hard link to the old file, which needs no space on a full disk. Where hard links are impossible,
        // the old file is written again if necessary.
        let _ = fs::remove_file(self.old());
        let _ = fs::hard_link(&self.target, self.old());
        if let Err(error) = atomic_file::replace(&self.target, text.as_bytes()) {
            let _ = fs::remove_file(self.old());
            let _ = fs::remove_file(&backup);
            return Err(error);
        }
        self.before = Some(Before { text: self.text.replace(text.to_owned()), backup });
        Ok(())
    }

    /// Restores what [`DropIn::replace`] has replaced: the change behind it was not made.
    pub fn put_back(&mut self) -> io::Result<()> {
        let Some(Before { text, backup }) = self.before.take() else { return Ok(()) };
        match &text {
            None => fs::remove_file(&self.target)?,
            Some(text) => fs::rename(self.old(), &self.target)
                .or_else(|_| atomic_file::replace(&self.target, text.as_bytes()))?,
        }
        self.text = text;
        fs::remove_file(backup)
    }

    fn old(&self) -> PathBuf {
        self.target.with_file_name(OLD)
    }
}

impl Drop for DropIn {
    fn drop(&mut self) {
        if self.before.is_some() {
            let _ = fs::remove_file(self.old());
        }
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

    /// Its text.
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
            // Whoever writes the next version deletes the oldest one, even during this listing.
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
