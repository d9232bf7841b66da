//! Reading the state at the start, and handling damage.
//!
//! - An end of the newest log without a line feed is a write that a crash cut short. It was never
//!   acknowledged: it is truncated and reported.
//! - A state of a newer version is left as it is, and nothing is granted: this version would lose a part of it.
//! - The same goes for a commit with missing records there: it is truncated as a whole.
//! - Anything else that cannot be read is damage. Everything readable counts. A new snapshot replaces the file and
//!   names the damage; only then is the file renamed, with the time in its name. So a kill at any instant
//!   leaves either the damage itself or a snapshot that names it.

use std::{
    fs::{self, File},
    io::{self, BufRead, BufReader, Read},
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    thread,
};

use super::{
    Kind, Name, OpenError, files,
    line::{self, Damage, Header, Kept, Line, Origin, RememberedPort, Unreadable},
};
use crate::{
    atomic_file,
    change::{Change, Record},
    registry::{Registry, Remembered},
    time::Timestamp,
};

/// How many threads read the lines of a long file. Reading takes two thirds of the time in which a service
/// with many leases starts; the rest is done meanwhile.
const READERS: usize = 2;
/// The approximate size of a chunk for each, in bytes. A shorter file is read without threads.
const CHUNK: usize = 128 * 1024;

/// The approximate size of a lease in a file, in bytes.
const LEASE: u64 = 200;

/// What the files contain besides the registry.
#[derive(Debug, Default)]
pub(super) struct Recovered {
    /// The newest generation there is, as a log.
    pub(super) newest: Option<Name>,
    /// How much of the newest log is good.
    pub(super) length: u64,
    /// How long the snapshot is.
    pub(super) snapshot_length: u64,
    /// The first readable header, with the last recorded boot.
    pub(super) header: Option<Header>,
    /// The number of the last change.
    pub(super) seq: u64,
    /// The number of the last confirmed event.
    pub(super) confirmed: u64,
    /// What was damaged.
    pub(super) damage: Vec<Damage>,
    /// Damage that an earlier start found and has not reported yet.
    pub(super) pending: Vec<Damage>,
    /// The message about a truncated end of the log.
    pub(super) torn: Option<String>,
    /// The newest snapshot, and the last change that it has.
    pub(super) snapshot: Option<Name>,
    pub(super) snapshot_seq: u64,
    /// Who wrote the newest log.
    pub(super) written_by: Option<Origin>,
    /// The newer version that wrote what this one does not know.
    newer: Option<Origin>,
}

/// The progress in one file.
#[derive(Default)]
struct Seen {
    /// How much of it, in bytes.
    offset: u64,
    /// Entries of a snapshot.
    good: usize,
    /// Damaged lines.
    bad: usize,
    /// Changes that are not there.
    missing: u64,
    /// The number of entries according to its last line.
    end: Option<usize>,
    commit: Option<Commit>,
    written_by: Option<Origin>,
}

/// A commit whose records have not all been read yet.
struct Commit {
    /// Where it begins in the file.
    start: u64,
    /// How many it has.
    count: usize,
    /// How many were not seen yet.
    left: usize,
    records: Vec<Record>,
}

/// Whether a newer version has written what is in a state folder; the error that opening it would give.
pub fn written_by_newer(folder: &Path) -> Option<OpenError> {
    let origin = newer_origin(folder, &files(folder).ok()?)?;
    Some(OpenError::Newer(folder.to_owned(), origin))
}

fn newer_origin(folder: &Path, names: &[Name]) -> Option<Origin> {
    let mut origins = names.iter().filter_map(|name| origin(&name.path(folder)));
    origins.find(|origin| origin.format > line::VERSION)
}

/// Reads all state files into the registry, and changes nothing.
pub(super) fn read(folder: &Path, registry: &mut Registry) -> Result<Recovered, OpenError> {
    let io = |error| OpenError::Io(folder.to_owned(), error);
    let newer = |origin| OpenError::Newer(folder.to_owned(), origin);
    let names = files(folder).map_err(io)?;
    if let Some(origin) = newer_origin(folder, &names) {
        return Err(newer(origin));
    }
    let newest_of = |kind| names.iter().rev().find(move |name| name.kind == kind).copied();
    let mut recovered = Recovered::default();
    for name in names.iter().rev().filter(|name| name.kind == Kind::Snapshot) {
        // A snapshot without a readable header and without a log must not hide an older one and its logs.
        let is_ours = || names.contains(&Name::log(name.generation));
        if origin(&name.path(folder)).is_some() || is_ours() {
            recovered.snapshot = Some(*name);
            break;
        }
        recovered.damaged(*name, "has no header", false);
    }
    let snapshot = recovered.snapshot;
    if let Some(snapshot) = snapshot {
        recovered.read_file(folder, snapshot, false, registry);
    }
    let from = snapshot.map_or(0, |name| name.generation);
    let newest = newest_of(Kind::Log).filter(|name| name.generation >= from);
    for name in names.iter().filter(|n| n.kind == Kind::Log && n.generation >= from) {
        recovered.read_file(folder, *name, Some(*name) == newest, registry);
    }
    if let Some(origin) = recovered.newer {
        return Err(newer(origin));
    }
    recovered.newest = newest;
    if newest.is_none()
        && let Some(snapshot) = snapshot
    {
        recovered.newest = Some(Name::log(snapshot.generation));
        recovered.lost(format!(
            "{} is missing: changes after {snapshot} are lost, if there were any",
            Name::log(snapshot.generation)
        ));
    }
    Ok(recovered)
}

impl Recovered {
    fn read_file(&mut self, folder: &Path, name: Name, newest: bool, registry: &mut Registry) {
        let path = name.path(folder);
        let bytes = fs::metadata(&path).map_or(0, |file| file.len());
        registry.reserve(usize::try_from(bytes / LEASE).unwrap_or_default());
        let (mut chunks, mut seen) = (Chunks::default(), Seen::default());
        let read = chunks.each_line(path, |line, length| {
            let start = seen.offset;
            seen.offset += length;
            self.take_line(line, start, name, &mut seen, registry)
        });
        let Seen { good, mut missing, bad, end, mut commit, written_by, .. } = seen;
        if newest {
            self.written_by = written_by;
        }
        let what = match read {
            Ok(ControlFlow::Continue(())) => None,
            Ok(ControlFlow::Break(version)) => {
                Some(format!("has the unknown version {version} and was not read"))
            }
            Err(error) => Some(format!("cannot be read ({error})")),
        };
        if let Some(what) = what {
            return self.damaged(name, &what, false);
        }
        let Chunks { length, rest: tail, .. } = chunks;
        let mut problems = Vec::new();
        let is_cut = newest && bad == 0 && missing == 0;
        if let Some(Commit { records, .. }) = commit.take_if(|_| !is_cut) {
            problems.push("ends within a commit".to_owned());
            missing += self.take_all(records, registry);
        }
        if bad > 0 {
            problems.push(format!("has {bad} damaged lines"));
        }
        if missing > 0 {
            problems.push(format!("lacks {missing} changes"));
        }
        match name.kind {
            Kind::Snapshot => {
                self.snapshot_length = length + tail.len() as u64;
                self.snapshot_seq = self.seq;
                match end {
                    Some(count) if count == good => {}
                    Some(count) => problems.push(format!("has {good} of {count} entries")),
                    None => problems.push(format!("lacks its end; {good} entries were read")),
                }
            }
            Kind::Log if newest => {
                self.length = length;
                if self.length == 0 {
                    problems.push("has no header".to_owned());
                } else if let Some(Commit { start, count, left, .. }) = commit {
                    self.length = start;
                    self.torn = Some(format!(
                        "of the last {count} changes of {name}, which count only together, {left} are missing; they were cut off"
                    ));
                } else if !tail.is_empty() && problems.is_empty() {
                    self.torn = Some(format!(
                        "the last line of {name} was written only in part ({} bytes) and was cut off",
                        tail.len()
                    ));
                }
            }
            Kind::Log if !tail.is_empty() => problems.push("ends within a line".to_owned()),
            Kind::Log => {}
        }
        if !problems.is_empty() {
            self.damaged(name, &problems.join(", "), true);
        }
    }

    /// Applies a line; returns how many changes are missing before it.
    fn take(&mut self, line: Line, registry: &mut Registry) -> u64 {
        match line {
            Line::Header(header) => {
                self.confirmed = self.confirmed.max(header.confirmed);
                let missing = header.seq.saturating_sub(self.seq);
                self.seq = self.seq.max(header.seq);
                // The first header says where the state begins; what a later one skips is lost.
                if self.header.is_some() {
                    return missing;
                }
                self.header = Some(header);
                0
            }
            Line::Record(record) => {
                if record.seq <= self.seq {
                    return 0;
                }
                if let Change::Recover { reason } = &record.change {
                    self.pending.retain(|damage| damage.reason != *reason);
                }
                let known = self.header.is_some() || self.seq > 0;
                let missing = if known { record.seq - self.seq - 1 } else { 0 };
                registry.apply(record.seq, record.at, &record.change);
                self.seq = record.seq;
                if let (Some(header), Change::Merge(merge)) = (&mut self.header, &record.change) {
                    header.note_merged(merge);
                }
                missing
            }
            Line::Confirmed(seq) => {
                self.confirmed = self.confirmed.max(seq);
                0
            }
            Line::Boot(boot_id) => {
                if let Some(header) = &mut self.header {
                    header.boot_id = boot_id;
                }
                0
            }
            Line::Lease(lease) => {
                registry.insert(lease);
                0
            }
            Line::Memory(memory) => {
                let RememberedPort { key, port, seq, substitute, program, used } = memory;
                let known = Remembered { substitute, program, used, ..Remembered::new(port, seq) };
                registry.remember(key, known);
                0
            }
            Line::Instance(instance) => {
                registry.insert_instance(Arc::new(instance));
                0
            }
            Line::AuditedConfig(audited) => {
                registry.set_audited_config(audited);
                0
            }
            Line::Token(token) => {
                registry.set_token(token);
                0
            }
            Line::Damage(damage) => {
                self.pending.push(damage);
                0
            }
            // The caller has handled both already.
            Line::Commit(_) | Line::End(_) => 0,
        }
    }

    /// Applies the line at this offset of the file.
    fn take_line(
        &mut self,
        line: Result<Line, Unreadable>,
        start: u64,
        name: Name,
        seen: &mut Seen,
        registry: &mut Registry,
    ) -> ControlFlow<u32> {
        match line {
            Ok(Line::Header(_)) if start > 0 => seen.bad += 1,
            Ok(Line::End(count)) => seen.end = Some(count),
            Ok(Line::Commit(count)) => {
                // One that is not complete here is damage; what can be read of it counts.
                if let Some(Commit { records, .. }) = seen.commit.take() {
                    seen.bad += 1;
                    seen.missing += self.take_all(records, registry);
                }
                seen.commit = Some(Commit { start, count, left: count, records: Vec::new() });
            }
            Ok(Line::Record(record)) if seen.commit.is_some() => {
                seen.missing += self.take_of(&mut seen.commit, Some(record), registry);
            }
            Ok(line) => {
                if let Line::Header(header) = &line {
                    seen.written_by = Some(header.origin());
                    let is_first = self.header.is_none() && self.snapshot.is_none();
                    if name.kind == Kind::Log && header.seq > 0 && is_first {
                        self.lost(format!(
                            "the snapshot before {name} is missing, and the state up to change {} with it",
                            header.seq
                        ));
                    }
                }
                seen.good += usize::from(line.is_entry());
                seen.missing += self.take(line, registry);
            }
            Err(Unreadable::Version(version)) => return ControlFlow::Break(version),
            Err(unreadable) => {
                seen.bad += 1;
                seen.missing += self.take_of(&mut seen.commit, None, registry);
                if unreadable == Unreadable::Unknown
                    && let Some(newer) = seen.written_by.as_ref().filter(|origin| origin.is_newer())
                {
                    self.newer = Some(newer.clone());
                }
            }
        }
        ControlFlow::Continue(())
    }

    /// Takes one line of a commit, which may be damaged; the last one has all of it applied.
    fn take_of(
        &mut self,
        commit: &mut Option<Commit>,
        record: Option<Record>,
        registry: &mut Registry,
    ) -> u64 {
        let Some(open) = commit else { return 0 };
        open.records.extend(record);
        open.left -= 1;
        let whole = commit.take_if(|open| open.left == 0);
        whole.map_or(0, |whole| self.take_all(whole.records, registry))
    }

    fn take_all(&mut self, records: Vec<Record>, registry: &mut Registry) -> u64 {
        records.into_iter().map(|record| self.take(Line::Record(record), registry)).sum()
    }

    /// Records what is lost with a missing file.
    fn lost(&mut self, reason: String) {
        self.damage.push(Damage { reason, kept: None });
    }

    fn damaged(&mut self, name: Name, what: &str, copy: bool) {
        let aside = format!("damaged.{}.{name}", now_in_a_name());
        let reason = format!("{name} {what}; it is kept as {aside}");
        let kept = Kept { file: name.to_string(), aside, copy };
        self.damage.push(Damage { reason, kept: Some(kept) });
    }
}

/// Renames the damaged files of a state folder, unless that is done already.
pub(super) fn set_aside(folder: &Path, damage: &[Damage]) -> io::Result<()> {
    for Kept { file, aside, copy } in damage.iter().filter_map(|damage| damage.kept.as_ref()) {
        let (from, to) = (folder.join(file), folder.join(aside));
        if *copy && !to.exists() && from.exists() {
            // Under its name only when it is whole; on a full disk, a part would take the last space.
            let partial = folder.join("damaged.tmp");
            let copied = fs::copy(&from, &partial).and_then(|_| fs::rename(&partial, &to));
            copied.inspect_err(|_| drop(fs::remove_file(&partial)))?;
        } else if !*copy && from.exists() {
            fs::rename(from, to)?;
        }
    }
    Ok(())
}

/// A file, divided behind some of its line feeds.
#[derive(Default)]
struct Chunks {
    file: Option<File>,
    /// How long those are that were read.
    length: u64,
    /// What is behind the last line feed: after the last chunk nothing, or an unfinished line.
    rest: Vec<u8>,
}

impl Chunks {
    /// Reads a file's lines, and passes them on in their order, each with its length, until `take` has enough of it.
    fn each_line<T>(
        &mut self,
        path: PathBuf,
        mut take: impl FnMut(Result<Line, Unreadable>, u64) -> ControlFlow<T>,
    ) -> io::Result<ControlFlow<T>> {
        self.file = Some(atomic_file::open(&path)?);
        let mut take = |(line, length)| take(line, length);
        let Some(first) = self.next()? else { return Ok(ControlFlow::Continue(())) };
        let Some(second) = self.next()? else { return Ok(lines(&first).try_for_each(&mut take)) };
        thread::scope(|scope| {
            let mut ahead = vec![second, first];
            let started: io::Result<Vec<_>> = (0..READERS)
                .map(|_| {
                    let (give, given) = mpsc::channel::<Vec<u8>>();
                    let (pass, read) = mpsc::channel::<Vec<_>>();
                    // The receiver is gone when it has enough.
                    let mut passed = move |chunk: Vec<u8>| pass.send(lines(&chunk).collect());
                    let work = move || given.iter().try_for_each(&mut passed);
                    thread::Builder::new().spawn_scoped(scope, work)?;
                    Ok((give, read))
                })
                .collect();
            let Ok(readers) = started else {
                // Without threads it takes longer, and that is all.
                while let Some(chunk) = ahead.pop().map_or_else(|| self.next(), |c| Ok(Some(c)))? {
                    if let enough @ ControlFlow::Break(_) = lines(&chunk).try_for_each(&mut take) {
                        return Ok(enough);
                    }
                }
                return Ok(ControlFlow::Continue(()));
            };
            let (mut given, mut taken) = (0, 0);
            loop {
                while given < taken + 2 * READERS
                    && let Some(chunk) =
                        ahead.pop().map_or_else(|| self.next(), |chunk| Ok(Some(chunk)))?
                {
                    let _ = readers[given % READERS].0.send(chunk);
                    given += 1;
                }
                if taken == given {
                    return Ok(ControlFlow::Continue(()));
                }
                let read = readers[taken % READERS].1.recv().unwrap_or_default();
                if let ControlFlow::Break(enough) = read.into_iter().try_for_each(&mut take) {
                    return Ok(ControlFlow::Break(enough));
                }
                taken += 1;
            }
        })
    }

    /// The next chunk, which ends with a line feed; `None` at the end.
    fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        let Some(file) = &self.file else { return Ok(None) };
        let mut chunk = Vec::with_capacity(CHUNK + self.rest.len());
        chunk.append(&mut self.rest);
        loop {
            let read = file.take(CHUNK as u64).read_to_end(&mut chunk)?;
            let new = chunk.len() - read;
            if let Some(end) = chunk[new..].iter().rposition(|byte| *byte == b'\n') {
                self.rest = chunk.split_off(new + end + 1);
                self.length += chunk.len() as u64;
                return Ok(Some(chunk));
            }
            if read == 0 {
                self.rest = chunk;
                return Ok(None);
            }
        }
    }
}

fn lines(chunk: &[u8]) -> impl Iterator<Item = (Result<Line, Unreadable>, u64)> {
    let mut start = 0;
    memchr::memchr_iter(b'\n', chunk).map(move |end| {
        let line = &chunk[start..end];
        start = end + 1;
        (line::read(line), line.len() as u64 + 1)
    })
}

/// Who wrote a file, as far as its first line says so.
fn origin(path: &Path) -> Option<Origin> {
    line::origin(&first_line(path)?)
}

fn first_line(path: &Path) -> Option<Vec<u8>> {
    let mut first = Vec::new();
    let file = BufReader::new(atomic_file::open(path).ok()?);
    file.take(CHUNK as u64).read_until(b'\n', &mut first).ok()?;
    (first.pop()? == b'\n').then_some(first)
}

/// The first line of a file, if it can be read.
pub(super) fn header(path: &Path) -> Option<Header> {
    match line::read(&first_line(path)?) {
        Ok(Line::Header(header)) => Some(header),
        _ => None,
    }
}

/// The names of a state folder, the present one first; none if it cannot be read. Only looks.
pub fn ids(folder: &Path) -> Vec<String> {
    let names = files(folder).unwrap_or_default();
    let header = names.iter().rev().find_map(|name| header(&name.path(folder)));
    header.map(|header| header.state_ids()).unwrap_or_default()
}

/// What a merge must know of a state.
#[derive(Debug)]
pub struct Found {
    /// Its name.
    pub state_id: String,
    /// The boot that its leases belong to.
    pub boot_id: String,
    /// The number of the last change.
    pub seq: u64,
    /// The number of the last event that is known to be in the journal.
    pub confirmed: u64,
    /// What was damaged, for people.
    pub damage: Vec<String>,
}

/// Reads the state of a folder into the registry, and changes nothing there; `None` if there is no state. A folder whose
/// lock somebody else has may change meanwhile, so what is read of it may be incomplete.
pub fn look(folder: &Path, registry: &mut Registry) -> Result<Option<Found>, OpenError> {
    let recovered = read(folder, registry)?;
    let seq = recovered.seq.max(recovered.confirmed);
    Ok(recovered.header.map(|header| Found {
        state_id: header.state_id,
        boot_id: header.boot_id,
        seq,
        confirmed: recovered.confirmed,
        damage: recovered.damage.into_iter().map(|damage| damage.reason).collect(),
    }))
}

/// The files of a folder's state.
pub fn paths(folder: &Path) -> io::Result<Vec<PathBuf>> {
    Ok(files(folder)?.into_iter().map(|name| name.path(folder)).collect())
}

/// Whether there is a state in a folder, in whatever condition.
pub fn is_in(folder: &Path) -> bool {
    files(folder).is_ok_and(|files| !files.is_empty())
}

/// Leftovers of a snapshot that was being written.
pub(super) fn remove_partial_files(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "tmp") {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// The current time, for a file name.
fn now_in_a_name() -> String {
    Timestamp::now().to_calendar().strftime("%Y%m%dT%H%M%S%3fZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_of_a_long_file_are_taken_in_their_order_and_no_more_than_wanted() {
        let mut buffer = Vec::new();
        (0..40_000).for_each(|n| line::write(&mut buffer, &Line::Confirmed(n)));
        assert!(buffer.len() > 5 * CHUNK);
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(&file, &buffer).unwrap();
        let mut taken = Vec::new();
        let end = Chunks::default().each_line(file.path().to_owned(), |line, _| {
            taken.push(line);
            if taken.len() == 30_000 {
                ControlFlow::Break("enough")
            } else {
                ControlFlow::Continue(())
            }
        });
        assert_eq!(end.unwrap(), ControlFlow::Break("enough"));
        assert!((0..30_000).map(|n| Ok(Line::Confirmed(n))).eq(taken));
    }

    #[test]
    fn long_lines_are_read_whole_and_what_is_behind_the_last_is_left() {
        let mut buffer = Vec::new();
        for reason in ["a", "b"] {
            line::write(&mut buffer, &Line::Boot(reason.repeat(2 * CHUNK)));
        }
        let whole = buffer.len() as u64;
        buffer.extend_from_slice(b"unfinished");
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(&file, &buffer).unwrap();
        let mut lengths = Vec::new();
        let mut chunks = Chunks::default();
        let end = chunks.each_line::<()>(file.path().to_owned(), |line, _| {
            if let Ok(Line::Boot(reason)) = line {
                lengths.push(reason.len());
            }
            ControlFlow::Continue(())
        });
        assert_eq!((end.unwrap(), lengths), (ControlFlow::Continue(()), vec![2 * CHUNK; 2]));
        assert_eq!((chunks.length, chunks.rest), (whole, b"unfinished".to_vec()));
    }
}
