//! The log as the audit reads it: record after record, across generations, while it grows.

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
};
use crate::change::Record;

/// A place in the log.
pub struct Reader {
    folder: PathBuf,
    generation: u64,
    file: Option<File>,
    offset: u64,
    /// Whole lines that are read but not taken.
    lines: VecDeque<Record>,
}

const CHUNK: usize = 64 * 1024;

impl Reader {
    /// A reader at the oldest record of the folder.
    pub fn new(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
            generation: 0,
            file: None,
            offset: 0,
            lines: VecDeque::new(),
        }
    }

    /// The generation of the file that is being read.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The next record; `None` at the end. Damaged lines are passed over: they were reported when
    /// the state was read.
    pub fn next_record(&mut self) -> io::Result<Option<Record>> {
        loop {
            if let Some(record) = self.lines.pop_front() {
                return Ok(Some(record));
            }
            // The file that follows is looked for first: once it exists, this one is finished, so
            // that its end is really its end.
            let following = self.following()?;
            if self.fill()? {
                continue;
            }
            let Some(following) = following else { return Ok(None) };
            self.file = Some(File::open(following.path(&self.folder))?);
            self.generation = following.generation;
            self.offset = 0;
        }
    }

    fn following(&self) -> io::Result<Option<Name>> {
        Ok(files(&self.folder)?.into_iter().find(|name| {
            name.kind == Kind::Log && (self.file.is_none() || name.generation > self.generation)
        }))
    }

    /// Reads on; whether there was anything.
    fn fill(&mut self) -> io::Result<bool> {
        let Some(file) = &self.file else { return Ok(false) };
        let mut chunk = Vec::new();
        loop {
            let start = chunk.len();
            chunk.resize(start + CHUNK, 0);
            let read = file.read_at(&mut chunk[start..], self.offset + start as u64)?;
            chunk.truncate(start + read);
            // What has no line feed yet is still being written.
            if let Some(end) = chunk.iter().rposition(|byte| *byte == b'\n') {
                self.offset += end as u64 + 1;
                for bytes in chunk[..end].split(|byte| *byte == b'\n') {
                    if let Ok(Line::Record(record)) = line::read(bytes) {
                        self.lines.push_back(record);
                    }
                }
                return Ok(true);
            }
            if read == 0 {
                return Ok(false);
            }
        }
    }
}
