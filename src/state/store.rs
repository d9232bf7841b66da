//! Appending, syncing and compacting.

use std::{
    fmt,
    fs::{self, File, OpenOptions},
    io::{self, BufWriter, Write},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    Kind, Name, Reader, files,
    line::{self, Damage, Header, Line, Origin, PROGRAM, RememberedPort, VERSION},
    recover,
    writer::LogFile,
};
use crate::{
    change::{Change, Record},
    lease::{Instance, Lease},
    registry::{AuditedConfig, Registry},
    token::TokenHash,
};

/// How many former names of a state folder are kept.
const MOST_FORMER: usize = 32;
/// A log below this size is never compacted.
const SMALL: u64 = 256 * 1024;

/// The state folder, opened by whoever has its [`Lock`](super::Lock).
#[derive(Debug)]
pub struct Store {
    folder: PathBuf,
    generation: u64,
    log: Arc<LogFile>,
    length: u64,
    /// Whether a failed write may have left bytes behind `length`.
    dirty: bool,
    header: Header,
    snapshot: SnapshotOnDisk,
    buffer: Vec<u8>,
}

/// A snapshot that is on disk.
#[derive(Clone, Copy, Debug)]
pub struct SnapshotOnDisk {
    /// Its generation; zero for none.
    generation: u64,
    /// In bytes.
    length: u64,
    /// The last change that it has.
    seq: u64,
}

/// Why a state folder cannot be opened.
#[derive(Debug)]
pub enum OpenError {
    /// Another service has it.
    Locked(PathBuf),
    /// It cannot be read or written.
    Io(PathBuf, io::Error),
    /// A newer version has written what is there.
    Newer(PathBuf, Origin),
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Locked(folder) => write!(
                f,
                "another styxy service uses the state folder {}: there can be one for each folder",
                folder.display()
            ),
            Self::Io(path, error) => write!(f, "{}: {error}", path.display()),
            Self::Newer(folder, origin) => write!(
                f,
                "the state was written by {origin}, and this is styxy {PROGRAM}: upgrade styxy, or move {} away",
                folder.display()
            ),
        }
    }
}

impl std::error::Error for OpenError {}

/// What `open` found.
#[derive(Debug)]
pub struct Opened {
    /// The folder.
    pub store: Store,
    /// What was damaged, for a `recover` event each.
    pub damage: Vec<String>,
    /// Whether the leases are of another boot, and void.
    pub other_boot: bool,
}

impl Store {
    /// Opens the folder, which is locked, and puts what it has into the registry.
    pub fn open(
        folder: &Path,
        boot_id: &str,
        registry: &mut Registry,
    ) -> Result<Opened, OpenError> {
        let at = |path: &Path| {
            let path = path.to_owned();
            move |error| OpenError::Io(path, error)
        };
        let recovered = recover::read(folder, registry)?;
        recover::remove_partial_files(folder).map_err(at(folder))?;
        let newest = recovered.newest;
        let is_damaged = !recovered.damage.is_empty();
        let mut header = recovered.header.clone().unwrap_or_else(|| Header {
            version: VERSION,
            state_id: uuid::Uuid::new_v4().to_string(),
            boot_id: boot_id.to_owned(),
            seq: 0,
            confirmed: 0,
            program: None,
            former: Vec::new(),
            merged: Vec::new(),
        });
        header.program = Some(PROGRAM.to_owned());
        header.confirmed = header.confirmed.max(recovered.confirmed);
        header.seq = header.seq.max(recovered.seq).max(header.confirmed);
        if is_damaged {
            // The numbers of lost changes are given again, so they get another name.
            let former = std::mem::replace(&mut header.state_id, uuid::Uuid::new_v4().to_string());
            if recovered.header.is_some() {
                header.former.push(former);
                let spare = header.former.len().saturating_sub(MOST_FORMER);
                header.former.drain(..spare);
            }
        }
        let other_boot = header.boot_id != boot_id;

        // A file says who wrote it, so each version has its own.
        let is_ours = recovered.written_by == Some(header.origin());
        let going_on = newest.filter(|_| !is_damaged && is_ours && recovered.length > 0);
        // What is left of damaged files is written again, beside them.
        let next = || Name::log(newest.map_or(1, |name| name.generation + 1));
        let name = going_on.unwrap_or_else(next);
        let path = name.path(folder);
        let (log, length) = match going_on {
            Some(_) => {
                (continue_log(&path, recovered.length).map_err(at(&path))?, recovered.length)
            }
            None => begin_log(&path, &header).map_err(at(&path))?,
        };
        let snapshot = SnapshotOnDisk {
            generation: recovered.snapshot.map_or(0, |name| name.generation),
            length: recovered.snapshot_length,
            seq: recovered.snapshot_seq,
        };
        let mut store = Self {
            folder: folder.to_owned(),
            generation: name.generation,
            log,
            length,
            dirty: false,
            header,
            snapshot,
            buffer: Vec::new(),
        };
        let pending: Vec<_> = recovered.damage.iter().chain(&recovered.pending).cloned().collect();
        if is_damaged {
            let snapshot = Snapshot { damage: pending.clone(), ..store.snapshot_of(registry) };
            let written = snapshot.write().inspect_err(|_| {
                // Each attempt would leave a log.
                let _ = fs::remove_file(&path);
            });
            store.compacted(written.map_err(at(folder))?);
        }
        // From here on a start after a kill knows of the damage by the snapshot.
        recover::set_aside(folder, &pending).map_err(at(folder))?;
        boot_id.clone_into(&mut store.header.boot_id);
        let damage =
            pending.into_iter().map(|damage| damage.reason).chain(recovered.torn).collect();
        Ok(Opened { store, damage, other_boot })
    }

    /// The length of the current log, in bytes.
    pub fn log_length(&self) -> u64 {
        self.length
    }

    /// The number of the last change.
    pub fn seq(&self) -> u64 {
        self.header.seq
    }

    /// The number up to which every audit event is known to be in the journal.
    pub fn confirmed(&self) -> u64 {
        self.header.confirmed
    }

    /// The name of this state folder for good.
    pub fn state_id(&self) -> &str {
        &self.header.state_id
    }

    /// What tells this name of the folder from former ones; `None` if it has had no other. Numbers of changes that were lost
    /// with a former name are given again.
    pub fn name_mark(&self) -> Option<String> {
        let is_renamed = !self.header.former.is_empty();
        is_renamed.then(|| self.header.state_id.chars().take(8).collect())
    }

    /// Whether the state of that name was merged with this one.
    pub fn has_merged(&self, state_id: &str) -> bool {
        self.header.merged.iter().any(|merged| merged == state_id)
    }

    /// The records whose events may still have to be told: all there are, or only those that will come.
    pub fn reader(&self) -> Reader {
        let oldest = || Reader::new(&self.folder);
        if self.header.confirmed < self.header.seq {
            return oldest();
        }
        let end = Reader::behind(&self.folder, Name::log(self.generation), self.length);
        end.unwrap_or_else(|_| oldest())
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The last change that is known to be on disk: what is only in the log may be in memory.
    pub fn durable(&self) -> u64 {
        self.snapshot.seq
    }

    /// The log, to be synced.
    pub fn log(&self) -> Arc<LogFile> {
        Arc::clone(&self.log)
    }

    /// Writes records, all or none, in one write. Their numbers must follow [`Store::seq`].
    pub fn append(&mut self, records: &[Record]) -> io::Result<()> {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        if records.len() > 1 {
            line::write(&mut buffer, &Line::Commit(records.len()));
        }
        for (record, seq) in records.iter().zip(self.header.seq + 1..) {
            debug_assert_eq!(record.seq, seq);
            line::write_record(&mut buffer, record);
        }
        let result = self.write(&buffer);
        self.buffer = buffer;
        result?;
        self.header.seq += records.len() as u64;
        for record in records {
            if let Change::Merge(merge) = &record.change {
                self.header.note_merged(merge);
            }
        }
        Ok(())
    }

    /// Notes that the leases of before are void and that what follows is of this boot.
    pub fn mark_boot(&mut self) -> io::Result<()> {
        let boot = Line::Boot(self.header.boot_id.clone());
        self.mark(&boot)
    }

    /// Notes that every audit event up to this number is in the journal.
    pub fn mark_confirmed(&mut self, seq: u64) -> io::Result<()> {
        self.header.confirmed = seq;
        self.mark(&Line::Confirmed(seq))
    }

    fn mark(&mut self, line: &Line) -> io::Result<()> {
        let mut buffer = Vec::new();
        line::write(&mut buffer, line);
        self.write(&buffer)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.dirty {
            self.log.file.set_len(self.length)?;
            self.dirty = false;
        }
        if let Err(error) = self.log.file.write_all_at(bytes, self.length) {
            // A full disk may have taken a part of it, which must not stay.
            self.dirty = self.log.file.set_len(self.length).is_err();
            return Err(error);
        }
        self.length += bytes.len() as u64;
        Ok(())
    }

    /// Whether the log has grown to several times what it stands for.
    pub fn wants_compaction(&self) -> bool {
        self.length > SMALL.max(3 * self.snapshot.length)
    }

    /// Begins a new log, and gives the snapshot that makes the old ones superfluous once it is
    /// written. That can be done elsewhere; until then nothing is lost.
    pub fn rotate(&mut self, registry: &Registry) -> io::Result<Snapshot> {
        self.begin_log()?;
        Ok(self.snapshot_of(registry))
    }

    /// The same after the disk has failed. A log that is `trusted` stays.
    pub fn renew(
        &mut self,
        registry: &Registry,
        trusted: Option<&Arc<LogFile>>,
    ) -> io::Result<Snapshot> {
        if !trusted.is_some_and(|log| Arc::ptr_eq(log, &self.log)) {
            self.begin_log()?;
        }
        Ok(self.snapshot_of(registry))
    }

    fn begin_log(&mut self) -> io::Result<()> {
        let name = Name::log(self.generation + 1);
        let (log, length) = begin_log(&name.path(&self.folder), &self.header)?;
        std::mem::replace(&mut self.log, log).finish();
        self.length = length;
        self.generation = name.generation;
        self.dirty = false;
        Ok(())
    }

    fn snapshot_of(&self, registry: &Registry) -> Snapshot {
        Snapshot {
            folder: self.folder.clone(),
            generation: self.generation,
            header: self.header.clone(),
            leases: registry.iter().map(Arc::clone).collect(),
            memory: registry
                .memory()
                .iter()
                .map(|(key, known)| RememberedPort {
                    key: (**key).clone(),
                    port: known.port,
                    seq: known.age,
                    substitute: known.substitute,
                    program: known.program.clone(),
                    used: known.used,
                })
                .collect(),
            instances: registry.instances(),
            audited_config: registry.audited_config().clone(),
            token: registry.token(),
            damage: Vec::new(),
        }
    }

    /// Notes that a snapshot is on disk.
    pub fn compacted(&mut self, snapshot: SnapshotOnDisk) {
        if snapshot.generation > self.snapshot.generation {
            self.snapshot = snapshot;
        }
    }

    /// The files that a snapshot has replaced, but no log that the audit still reads: it reads that generation.
    pub fn spare(&self, audit_generation: u64) -> Spare {
        let snapshot = self.snapshot.generation;
        Spare { folder: self.folder.clone(), snapshot, log: self.oldest_log(audit_generation) }
    }

    /// The oldest generation of the log that somebody needs. An audit that has come as far as the snapshot needs
    /// none before it, though it may not have begun to read the next.
    pub fn oldest_log(&self, audit_generation: u64) -> u64 {
        let snapshot = self.snapshot.generation;
        if self.confirmed() >= self.snapshot.seq {
            snapshot
        } else {
            snapshot.min(audit_generation)
        }
    }

    /// The generation of the log.
    pub fn generation(&self) -> u64 {
        self.generation
    }
}

/// Files that nobody needs any more.
#[derive(Debug)]
pub struct Spare {
    folder: PathBuf,
    /// Snapshots of an older generation than this one.
    snapshot: u64,
    /// Logs of an older generation than this one.
    log: u64,
}

impl Spare {
    /// Deletes them.
    pub fn delete(&self) -> io::Result<()> {
        for name in files(&self.folder)? {
            let limit = match name.kind {
                Kind::Snapshot => self.snapshot,
                Kind::Log => self.log,
            };
            if name.generation < limit {
                fs::remove_file(name.path(&self.folder))?;
            }
        }
        Ok(())
    }
}

/// The state at one moment, to be written.
#[derive(Debug)]
pub struct Snapshot {
    folder: PathBuf,
    generation: u64,
    header: Header,
    leases: Vec<Arc<Lease>>,
    memory: Vec<RememberedPort>,
    instances: Vec<Arc<Instance>>,
    audited_config: AuditedConfig,
    token: Option<TokenHash>,
    damage: Vec<Damage>,
}

impl Snapshot {
    /// The last change that it has.
    pub fn seq(&self) -> u64 {
        self.header.seq
    }

    /// Writes it, durably, under its name only when it is whole.
    pub fn write(&self) -> io::Result<SnapshotOnDisk> {
        let path = Name::snapshot(self.generation).path(&self.folder);
        let partial = path.with_extension("tmp");
        let written = self.write_to(&partial).and_then(|length| {
            fs::rename(&partial, &path)?;
            File::open(&self.folder)?.sync_all()?;
            Ok(SnapshotOnDisk { generation: self.generation, length, seq: self.header.seq })
        });
        if written.is_err() {
            let _ = fs::remove_file(&partial);
        }
        written
    }

    fn write_to(&self, path: &Path) -> io::Result<u64> {
        let file = private_file().create(true).truncate(true).open(path)?;
        let mut writer = BufWriter::new(&file);
        let mut length = 0;
        let leases = self.leases.iter().map(|lease| Line::Lease(Arc::clone(lease)));
        let memory = self.memory.iter().map(|memory| Line::Memory(memory.clone()));
        let instances = self.instances.iter().map(|instance| Line::Instance((**instance).clone()));
        let damage = self.damage.iter().map(|damage| Line::Damage(damage.clone()));
        let parts = [
            self.leases.len(),
            self.memory.len(),
            self.instances.len(),
            self.damage.len(),
            usize::from(self.token.is_some()),
        ];
        let count = parts.iter().sum::<usize>() + 1;
        let mut buffer = Vec::new();
        for line in std::iter::once(Line::Header(self.header.clone()))
            .chain(leases)
            .chain(memory)
            .chain(instances)
            .chain(damage)
            .chain(self.token.map(Line::Token))
            .chain([Line::AuditedConfig(self.audited_config.clone())])
            .chain([Line::End(count)])
        {
            buffer.clear();
            line::write(&mut buffer, &line);
            writer.write_all(&buffer)?;
            length += buffer.len() as u64;
        }
        writer.flush()?;
        file.sync_all()?;
        Ok(length)
    }
}

/// Begins a log. It gets its name with its header in it, so that one without is damage.
fn begin_log(path: &Path, header: &Header) -> io::Result<(Arc<LogFile>, u64)> {
    let partial = path.with_extension("tmp");
    let file = private_file().create(true).truncate(true).open(&partial)?;
    let mut buffer = Vec::new();
    line::write(&mut buffer, &Line::Header(header.clone()));
    let begun = file.write_all_at(&buffer, 0).and_then(|()| fs::rename(&partial, path));
    if let Err(error) = begun {
        let _ = fs::remove_file(&partial);
        return Err(error);
    }
    Ok((log_file(path, file), buffer.len() as u64))
}

/// Opens a log to go on with, without what a cut-off write has left behind its good part.
fn continue_log(path: &Path, length: u64) -> io::Result<Arc<LogFile>> {
    let log = OpenOptions::new().read(true).write(true).open(path)?;
    if log.metadata()?.len() != length {
        log.set_len(length)?;
    }
    Ok(log_file(path, log))
}

fn log_file(path: &Path, file: File) -> Arc<LogFile> {
    let folder = path.parent().map(Path::to_owned).unwrap_or_default();
    Arc::new(LogFile::new(file, folder))
}

pub(super) fn private_file() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    options
}
