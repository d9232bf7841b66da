//! The log as the audit and followers read it: record after record, across generations, while it grows.

use std::{
    collections::VecDeque,
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use super::{
    Kind, Name, files,
    line::{self, Line},
    recover,
};
use crate::{atomic_file, change::Record};

/// A place in the log.
#[derive(Debug)]
pub struct Reader {
    folder: PathBuf,
    generation: u64,
    file: Option<File>,
    offset: u64,
    /// What was read last.
    chunk: Vec<u8>,
    /// Its records that have not been taken yet.
    records: VecDeque<Record>,
}

const CHUNK: usize = 64 * 1024;

/// The result of reading on.
enum Filled {
    /// Some lines were read.
    Some,
    /// The next record is beyond the last number.
    Beyond,
    /// The log ends here.
    End,
}

impl Reader {
    /// A reader at the oldest record of the folder.
    pub fn new(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
            generation: 0,
            file: None,
            offset: 0,
            chunk: Vec::new(),
            records: VecDeque::new(),
        }
    }

    /// A reader at the start of the newest file that has all records behind that one; `None` if there is no such file any
    /// more. Its first records may be older.
    pub fn after(folder: &Path, seq: u64) -> io::Result<Option<Self>> {
        for name in files(folder)?.into_iter().rev().filter(|name| name.kind == Kind::Log) {
            if recover::header(&name.path(folder)).is_some_and(|header| header.seq <= seq) {
                return Self::behind(folder, name, 0).map(Some);
            }
        }
        Ok(None)
    }

    /// A reader that starts at this offset of one file.
    pub(super) fn behind(folder: &Path, name: Name, offset: u64) -> io::Result<Self> {
        let file = Some(atomic_file::open(&name.path(folder))?);
        Ok(Self { generation: name.generation, file, offset, ..Self::new(folder) })
    }

    /// The generation of the file that is being read.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The next record up to that number; `None` if there is none. What is behind it in the log may not stay:
    /// a full disk can take a part of a change, which is then undone, and its number given again. Damaged
    /// lines are passed over: they were reported when the state was read.
    pub fn next_record(&mut self, last: u64) -> io::Result<Option<Record>> {
        loop {
            if let Some(record) = self.records.pop_front() {
                return Ok(Some(record));
            }
            match self.fill(last)? {
                Filled::Some => continue,
                Filled::Beyond => return Ok(None),
                Filled::End => {}
            }
            let Some(following) = self.following()? else { return Ok(None) };
            // Only once another file follows, the end of this one is final.
            match self.fill(last)? {
                Filled::Some => continue,
                Filled::Beyond => return Ok(None),
                Filled::End => {}
            }
            self.file = Some(atomic_file::open(&following.path(&self.folder))?);
            self.generation = following.generation;
            self.offset = 0;
        }
    }

    fn following(&self) -> io::Result<Option<Name>> {
        Ok(files(&self.folder)?.into_iter().find(|name| {
            name.kind == Kind::Log && (self.file.is_none() || name.generation > self.generation)
        }))
    }

    /// Reads on, up to the record with that number.
    fn fill(&mut self, last: u64) -> io::Result<Filled> {
        let Some(file) = &self.file else { return Ok(Filled::End) };
        let mut length = 0;
        loop {
            if self.chunk.len() < length + CHUNK {
                self.chunk.resize(length + CHUNK, 0);
            }
            let read = file.read_at(&mut self.chunk[length..], self.offset + length as u64)?;
            length += read;
            // A line without a line feed is still being written.
            if let Some(end) = self.chunk[..length].iter().rposition(|byte| *byte == b'\n') {
                let start = self.offset;
                for bytes in self.chunk[..end].split(|byte| *byte == b'\n') {
                    if let Ok(Line::Record(record)) = line::read(bytes) {
                        if record.seq > last {
                            let is_first = self.offset == start;
                            return Ok(if is_first { Filled::Beyond } else { Filled::Some });
                        }
                        self.records.push_back(record);
                    }
                    self.offset += bytes.len() as u64 + 1;
                }
                return Ok(Filled::Some);
            }
            if read == 0 {
                return Ok(Filled::End);
            }
        }
    }
}
