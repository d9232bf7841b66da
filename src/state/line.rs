//! One line of a state file: a checksum, a space, a JSON value, a line feed.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    change::{Merge, Record},
    lease::{self, Instance, Lease, MemoryKey, ServiceName},
    port::Port,
    registry::{AuditedConfig, Substitute},
    time::Timestamp,
    token::TokenHash,
    word::visible,
};

/// The version of the format. A file of another version is set aside unread.
pub const VERSION: u32 = 1;

/// The version of this program.
pub const PROGRAM: &str = env!("CARGO_PKG_VERSION");

/// The content of a line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line {
    /// The first line of every file.
    Header(Header),
    /// The number of records that follow and are one commit: all of them count, or none (in a log).
    Commit(usize),
    /// A change (in a log).
    Record(Record),
    /// Every audit event up to this number is in the journal (in a log).
    Confirmed(u64),
    /// The machine was rebooted; the boot's id (in a log).
    Boot(String),
    /// A live lease (in a snapshot).
    Lease(#[serde(deserialize_with = "lease::in_place")] Arc<Lease>),
    /// A remembered port (in a snapshot).
    Memory(RememberedPort),
    /// A registered instance (in a snapshot).
    Instance(Instance),
    /// The configuration as it was last logged (in a snapshot).
    #[serde(rename = "told")]
    AuditedConfig(AuditedConfig),
    /// The hash of the token of the HTTP door over TCP (in a snapshot).
    Token(TokenHash),
    /// Damage that was found when the snapshot was written (in a snapshot).
    Damage(Damage),
    /// The last line of a snapshot, with the number of lines between it and the header.
    End(usize),
}

impl Line {
    /// Whether the last line of a snapshot counts it.
    pub fn is_entry(&self) -> bool {
        matches!(
            self,
            Self::Lease(_)
                | Self::Memory(_)
                | Self::Instance(_)
                | Self::AuditedConfig(_)
                | Self::Token(_)
                | Self::Damage(_)
        )
    }
}

/// A record, written without a copy.
#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Borrowed<'a> {
    Record(&'a Record),
}

/// The first line of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// The version of the format.
    pub version: u32,
    /// The id of this state folder; with the number of a change it identifies the change.
    pub state_id: String,
    /// The boot that the leases belong to.
    pub boot_id: String,
    /// The number of the last change before this file.
    pub seq: u64,
    /// Every audit event up to this number is in the journal.
    pub confirmed: u64,
    /// The version of the program that wrote the file.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub program: Option<String>,
    /// Former ids of the state folder, the oldest first: events in the journal still have them.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub former: Vec<String>,
    /// The ids of states that were merged into this one: events in the journal have them.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub merged: Vec<String>,
}

/// A remembered port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RememberedPort {
    /// What it is remembered for.
    pub key: MemoryKey,
    /// The port.
    pub port: Port,
    /// The number of the change that granted it.
    pub seq: u64,
    /// What was granted instead of it since.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub substitute: Option<Substitute>,
    /// The program that was last started on it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub program: Option<ServiceName>,
    /// When it was last in use.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub used: Option<Timestamp>,
}

/// What was lost, and the file that is kept because of it. If a recovery is killed, the next start completes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Damage {
    /// For people.
    pub reason: String,
    /// The damaged file.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub kept: Option<Kept>,
}

/// A damaged file and how it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// Its name in the state folder.
    pub file: String,
    /// The name that it gets.
    pub aside: String,
    /// Whether the file itself stays as well: the audit still reads what is good of it.
    pub copy: bool,
}

/// The header fields that every version of the format has.
#[derive(Deserialize)]
struct AnyHeader {
    header: AnyVersion,
}

#[derive(Deserialize)]
struct AnyVersion {
    version: u32,
    #[serde(default)]
    program: Option<String>,
}

/// The versions that wrote a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Of the format.
    pub format: u32,
    /// Of the program, if it said so.
    pub program: Option<String>,
}

impl Header {
    /// The names of the state folder, the present one first, and of those that were merged with it.
    pub fn state_ids(&self) -> Vec<String> {
        let former = self.former.iter().rev().chain(&self.merged);
        std::iter::once(&self.state_id).chain(former).cloned().collect()
    }

    /// Adds the id of a state that has been merged completely.
    pub fn note_merged(&mut self, merge: &Merge) {
        self.merged.extend(merge.state_id.clone().filter(|id| !self.merged.contains(id)));
    }

    /// Who wrote the file.
    pub fn origin(&self) -> Origin {
        Origin { format: self.version, program: self.program.clone() }
    }
}

impl Origin {
    /// Whether this program is too old to read everything in the file.
    pub fn is_newer(&self) -> bool {
        let number = |text: &str| -> Vec<u64> {
            text.split(['.', '-', '+']).map_while(|part| part.parse().ok()).collect()
        };
        let program = self.program.as_deref().map(number);
        self.format > VERSION || program.is_some_and(|theirs| theirs > number(PROGRAM))
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.program {
            Some(program) => write!(f, "styxy {} (format {})", visible(program), self.format),
            None => write!(f, "a newer styxy (format {})", self.format),
        }
    }
}

/// Who wrote a file, by its first line.
pub fn origin(bytes: &[u8]) -> Option<Origin> {
    let AnyHeader { header } = parse(checked(bytes)?)?;
    Some(Origin { format: header.version, program: header.program })
}

/// Why a line cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// The checksum is wrong, or there is none.
    Damaged,
    /// It is complete, and this version does not know its content.
    Unknown,
    /// It is complete, in another version of the format.
    Version(u32),
}

/// Adds a line to a buffer.
pub fn write(buffer: &mut Vec<u8>, line: &Line) {
    write_any(buffer, line);
}

/// Adds the line of a record to a buffer.
pub fn write_record(buffer: &mut Vec<u8>, record: &Record) {
    write_any(buffer, &Borrowed::Record(record));
}

fn write_any(buffer: &mut Vec<u8>, line: &impl Serialize) {
    let start = buffer.len();
    buffer.extend_from_slice(b"00000000 ");
    serde_json::to_writer(&mut *buffer, line).expect("a line is plain data, and memory takes it");
    let sum = format!("{:08x}", crc32fast::hash(&buffer[start + 9..]));
    buffer[start..start + 8].copy_from_slice(sum.as_bytes());
    buffer.push(b'\n');
}

/// Reads a line, without its line feed.
pub fn read(bytes: &[u8]) -> Result<Line, Unreadable> {
    let json = checked(bytes).ok_or(Unreadable::Damaged)?;
    if json.starts_with("{\"header\"")
        && let Some(AnyHeader { header: AnyVersion { version, .. } }) = parse(json)
        && version != VERSION
    {
        return Err(Unreadable::Version(version));
    }
    parse(json).ok_or(Unreadable::Unknown)
}

fn checked(bytes: &[u8]) -> Option<&str> {
    let (sum, json) = bytes.split_at_checked(9)?;
    let sum = std::str::from_utf8(sum.strip_suffix(b" ")?).ok()?;
    let sum = u32::from_str_radix(sum, 16).ok()?;
    // UTF-8 is checked once here, not again for each string while parsing.
    if sum == crc32fast::hash(json) { std::str::from_utf8(json).ok() } else { None }
}

fn parse<T: DeserializeOwned>(json: &str) -> Option<T> {
    serde_json::from_str(json).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flipped_bit_is_noticed_wherever_it_is() {
        let mut buffer = Vec::new();
        write(&mut buffer, &Line::Confirmed(42));
        buffer.pop();
        assert_eq!(read(&buffer), Ok(Line::Confirmed(42)));
        for bit in 0..buffer.len() * 8 {
            let mut flipped = buffer.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            // Hexadecimal digits may be in either case.
            if !flipped.eq_ignore_ascii_case(&buffer) {
                assert_eq!(read(&flipped), Err(Unreadable::Damaged), "bit {bit}");
            }
        }
    }
}
