//! Past events, as the journal has them, or the log of a private service: the one way to read them, for the
//! command and for the service.
//!
//! - [`query`]: which events are wanted
//! - [`journal`]: asking journalctl(1)
//! - [`log`]: reading the log of a private service
//! - [`entry`]: one event
//! - [`lines`]: reading line by line, as long as somebody wants it
//! - this file: which of the two sources is read, and why neither can be

pub mod entry;
pub mod journal;
pub mod lines;
pub mod log;
pub mod query;

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

use jiff::tz::TimeZone;
use serde_json::Value as Json;

pub use self::{
    entry::Entry,
    lines::Limits,
    query::{Query, Reading},
};
use self::{journal::Contents, query::Mine};
use crate::{error::Error, time::Timestamp};

/// The default number of events.
pub const EVENTS: usize = 200;

/// Where a user's events are.
#[derive(Clone, Debug)]
pub struct Sources {
    /// Which entries of the journal are the user's.
    pub mine: Mine,
    /// The logs of a private service, the oldest first.
    logs: Vec<PathBuf>,
}

impl Sources {
    /// Those of a user with this state folder, if there is one.
    pub fn of(uid: u32, state: Option<&Path>) -> Self {
        Self { mine: Mine::of(uid, state), logs: state.map(log::all).unwrap_or_default() }
    }
}

/// The result of a query.
#[derive(Debug, Default)]
pub struct Found {
    /// Each event once, the oldest first.
    pub entries: Vec<Entry>,
    /// Whether there may be older ones beyond the requested number.
    pub is_part: bool,
    /// Why they are from the log of a private service, if they are.
    pub instead: Option<&'static str>,
}

impl Found {
    /// The events as `--json` shows them.
    pub fn to_json(&self) -> Json {
        self.entries.iter().map(Entry::to_json).collect()
    }
}

/// Why no events could be read.
#[derive(Debug)]
pub enum PastError {
    /// `journalctl` is missing or cannot be run.
    Absent(io::Error),
    /// The journal has no entry at all.
    Empty,
    /// This user may not read any of its files.
    Unreadable(String),
    /// `journalctl` rejected a time.
    Usage(String),
    /// This time is not understood where there is no journal.
    Time(String),
    /// Another failure, in the words of `journalctl`.
    Failed(String),
    /// Nobody wants the events any more.
    Unwanted,
    /// Another system error.
    System(io::Error),
}

impl PastError {
    /// Whether there is no journal, or none that this user may read.
    pub fn is_no_journal(&self) -> bool {
        matches!(self, Self::Absent(_) | Self::Empty | Self::Unreadable(_))
    }

    /// What is wrong with the query, if that is the reason.
    pub fn of_query(&self) -> Option<Error> {
        let hint = match self {
            Self::Usage(_) => {
                "systemd.time(7) has the forms of times: \"2026-11-23 09:00\", yesterday, \"1 hour ago\""
            }
            Self::Time(_) => "give one such as \"2026-11-23 09:00\" or \"2 hours ago\"",
            _ => return None,
        };
        Some(Error::invalid(self.to_string()).suggest(hint))
    }
}

impl fmt::Display for PastError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent(error) => {
                write!(f, "there is no journal to read: journalctl cannot be run ({error})")
            }
            Self::Empty => {
                f.write_str("there is no journal to read: journalctl finds no entry at all")
            }
            Self::Unreadable(words) => write!(
                f,
                "the journal cannot be read ({words}); to let this user read it: \
                 Storage=persistent in journald.conf(5), or the group systemd-journal"
            ),
            Self::Usage(words) => write!(f, "journalctl says: {words}"),
            Self::Time(text) => {
                write!(f, "{text:?} is not a time that is understood without a journal")
            }
            Self::Failed(words) => write!(f, "the journal cannot be queried: {words}"),
            Self::Unwanted => f.write_str("nobody reads the events"),
            Self::System(error) => error.fmt(f),
        }
    }
}

/// Reads the matching events, or only the last N of them, from the journal or, if it has none of styxy or cannot
/// be read, from the log of a private service.
pub fn find(
    query: &Query,
    last: Option<usize>,
    sources: &Sources,
    limits: &Limits<'_>,
) -> Result<Found, PastError> {
    let asked = "the journal cannot be queried";
    let (why, nothing) = match journal::read(query, last, &sources.mine, limits) {
        Ok(found) if !found.entries.is_empty() => return Ok(found),
        Ok(found) => match journal::holds(query, &sources.mine, limits) {
            Ok(Contents::Events) => return Ok(found),
            Ok(Contents::Others) => ("the journal has no event of styxy", Ok(found)),
            Ok(Contents::Nothing) => ("the journal has no entry", Err(PastError::Empty)),
            Err(error @ PastError::Unwanted) => return Err(error),
            Err(error) => (asked, Err(error)),
        },
        Err(error) if error.is_no_journal() => (asked, Err(error)),
        Err(error) => return Err(error),
    };
    match of_log(query, last, sources, limits)? {
        Some(found) => Ok(Found { instead: Some(why), ..found }),
        None => nothing,
    }
}

/// Reads the last events from the journal or, if it has none of them, from the log; none if neither can be read.
pub fn last(query: &Query, most: usize, sources: &Sources, limits: &Limits<'_>) -> Vec<Entry> {
    let found = journal::read(query, Some(most), &sources.mine, limits).ok();
    let found = found.filter(|found| !found.entries.is_empty());
    let found = found.or_else(|| of_log(query, Some(most), sources, limits).ok().flatten());
    found.unwrap_or_default().entries
}

fn of_log(
    query: &Query,
    last: Option<usize>,
    sources: &Sources,
    limits: &Limits<'_>,
) -> Result<Option<Found>, PastError> {
    let now = Timestamp::now().to_calendar().to_zoned(TimeZone::system());
    log::read(&sources.logs, query, last, &now, limits)
}

/// Whether the log of a private service has any event.
pub fn has_log(sources: &Sources, limits: &Limits<'_>) -> Result<bool, PastError> {
    log::has_events(&sources.logs, limits)
}
