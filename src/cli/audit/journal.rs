//! Querying the journal through `journalctl` (journalctl(1)).

use std::{
    collections::BinaryHeap,
    io::{self, BufRead, BufReader, Read},
    process::{Child, ChildStdout, Command, Stdio},
    thread::{self, JoinHandle},
};

use serde_json::Value as Json;

use super::{
    CliError,
    entry::{Entry, Seen, in_order},
    query::{Mine, Query, Reading},
};
use crate::{client::Watch, time::Timestamp, word::harmless};

/// The command that reads the journal.
pub(super) const PROGRAM: &str = "journalctl";

/// Why the journal cannot be queried.
#[derive(Debug)]
pub(super) enum JournalError {
    /// `journalctl` is missing or cannot be run.
    Absent(io::Error),
    /// This user may not read any of its files.
    Unreadable(String),
    /// `journalctl` rejected a time.
    Usage(String),
    /// Another failure, in the words of `journalctl`.
    Failed(String),
}

/// What the journal contains, as far as this user may read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Contents {
    /// Entries of styxy.
    Events,
    /// Entries of others.
    Others,
    /// Nothing.
    Nothing,
}

/// The result of a query.
#[derive(Debug, Default)]
pub(in crate::cli) struct Found {
    /// Each event once, the oldest first.
    pub entries: Vec<Entry>,
    /// Whether there may be older ones beyond the requested number.
    pub is_part: bool,
}

impl Found {
    /// The events as `--json` shows them.
    pub fn to_json(&self) -> Json {
        self.entries.iter().map(Entry::to_json).collect()
    }
}

/// Reads the matching events that the journal has now, or only the last N of them.
pub(super) fn read(query: &Query, last: Option<usize>) -> Result<Found, JournalError> {
    let reading = last.map_or(Reading::All, Reading::Last);
    let mut journalctl = Running::start(&query.arguments(reading, &Mine::here()))?;
    let watch = Watch::over(PROGRAM);
    let mut newest = last.map(Newest::new);
    let mut entries = Vec::new();
    let mut is_part = false;
    for line in BufReader::new(&mut journalctl.output).split(b'\n') {
        let Ok(line) = line else { break };
        watch.goes_on();
        let Some(entry) = Entry::read(&line) else { continue };
        is_part = newest.as_mut().is_some_and(|newest| newest.has_enough(&entry));
        if is_part {
            break;
        }
        entries.push(entry);
    }
    if is_part {
        journalctl.end();
    } else {
        journalctl.finish()?;
    }
    let mut entries = in_order(entries);
    let spare = last.map_or(0, |last| entries.len().saturating_sub(last));
    entries.drain(..spare);
    Ok(Found { entries, is_part: is_part || spare > 0 })
}

/// Decides when enough entries have been read, the last to arrive first. An event may have happened long before
/// it arrived, but never after; so it is enough to have read N events that happened after the next one arrived.
#[derive(Debug)]
struct Newest {
    wanted: usize,
    seen: Seen,
    /// The times of the events that may be older than one that is still to be read.
    open: BinaryHeap<Timestamp>,
    certain: usize,
}

impl Newest {
    fn new(wanted: usize) -> Self {
        Self { wanted, seen: Seen::default(), open: BinaryHeap::new(), certain: 0 }
    }

    /// Whether neither this event nor any after it is needed.
    fn has_enough(&mut self, next: &Entry) -> bool {
        while self.open.peek().is_some_and(|time| *time > next.arrived) {
            self.open.pop();
            self.certain += 1;
        }
        if self.certain >= self.wanted {
            return true;
        }
        if self.seen.is_new(next) {
            self.open.push(next.time);
        }
        false
    }
}

/// Calls `each` for every event as it arrives, until nobody reads the output or journalctl ends.
pub(super) fn follow(
    query: &Query,
    lines: Option<usize>,
    mut each: impl FnMut(&Entry) -> Result<(), CliError>,
) -> Result<Result<(), JournalError>, CliError> {
    let mut journalctl =
        match Running::start(&query.arguments(Reading::Follow(lines), &Mine::here())) {
            Ok(journalctl) => journalctl,
            Err(trouble) => return Ok(Err(trouble)),
        };
    let mut seen = Seen::default();
    let mut rest = Vec::new();
    let result = loop {
        match crate::cli::reader::wait_for(&journalctl.output) {
            Ok(true) => {}
            Ok(false) => break Err(CliError::Output(io::ErrorKind::BrokenPipe.into())),
            Err(error) => break Err(CliError::System(error)),
        }
        let mut chunk = [0; 16 * 1024];
        match journalctl.output.read(&mut chunk) {
            Ok(0) => return Ok(journalctl.finish()),
            Ok(count) => rest.extend_from_slice(&chunk[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => break Err(CliError::System(error)),
        }
        let whole = rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        let lines: Vec<u8> = rest.drain(..whole).collect();
        let entries = lines.split(|byte| *byte == b'\n').filter_map(Entry::read);
        let mut entries = entries.filter(|entry| seen.is_new(entry));
        if let Err(stop) = entries.try_for_each(|entry| each(&entry)) {
            break Err(stop);
        }
    };
    journalctl.end();
    result.map(Ok)
}

/// Returns what the journal contains, to explain an empty result.
pub(super) fn holds(query: &Query) -> Result<Contents, JournalError> {
    let has = |matches: &[String]| {
        let arguments = ["--quiet", "--no-pager", "--output=json", "--lines=1"];
        let arguments = arguments.map(str::to_owned).into_iter().chain(matches.iter().cloned());
        let arguments: Vec<_> = arguments.collect();
        let mut journalctl = Running::start(&arguments)?;
        let _watch = Watch::over(PROGRAM);
        let mut output = Vec::new();
        // Output that cannot be read counts as empty.
        let _ = journalctl.output.read_to_end(&mut output);
        journalctl.finish()?;
        Ok(!output.is_empty())
    };
    Ok(match has(&query.whose(&Mine::here()))? {
        true => Contents::Events,
        false if has(&[])? => Contents::Others,
        false => Contents::Nothing,
    })
}

/// A running `journalctl`.
struct Running {
    child: Child,
    output: ChildStdout,
    complaints: JoinHandle<String>,
}

impl Running {
    fn start(arguments: &[String]) -> Result<Self, JournalError> {
        let mut child = Command::new(PROGRAM)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(JournalError::Absent)?;
        let (Some(output), Some(mut stderr)) = (child.stdout.take(), child.stderr.take()) else {
            return Err(JournalError::Absent(io::ErrorKind::BrokenPipe.into()));
        };
        // Read in a thread, so that journalctl never blocks on a full pipe.
        let complaints = thread::spawn(move || {
            let mut text = Vec::new();
            let _ = stderr.read_to_end(&mut text);
            String::from_utf8_lossy(&text).trim().to_owned()
        });
        Ok(Self { child, output, complaints })
    }

    /// Kills it before it is done.
    fn end(mut self) {
        // It may have exited by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Waits until it exits; returns the error that it printed, if it failed.
    fn finish(mut self) -> Result<(), JournalError> {
        let status = self.child.wait().map_err(JournalError::Absent)?;
        if status.success() {
            return Ok(());
        }
        let complaints = self.complaints.join().unwrap_or_default();
        let complaints = match complaints.lines().next_back() {
            Some(last) => harmless(last),
            None => format!("{PROGRAM}: {status}"),
        };
        Err(if complaints.contains("insufficient permissions") {
            JournalError::Unreadable(complaints)
        } else if ["timestamp", "--since", "--until"].iter().any(|word| complaints.contains(word)) {
            JournalError::Usage(complaints)
        } else {
            JournalError::Failed(complaints)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An event with this number, and the seconds at which it happened and arrived.
    fn entry(seq: u64, happened: u64, arrived: u64) -> Entry {
        let line = format!(
            r#"{{"STYXY_ACTION": "renew", "STYXY_STATE_ID": "s", "STYXY_SEQ": "{seq}",
                 "STYXY_TIME": "2026-11-23T10:00:{happened:02}Z",
                 "__REALTIME_TIMESTAMP": "{}"}}"#,
            (1_795_428_000 + arrived) * 1_000_000 + 5
        );
        Entry::read(line.as_bytes()).unwrap()
    }

    /// How many entries are read until there are enough.
    fn read_for(wanted: usize, entries: &[Entry]) -> usize {
        let mut newest = Newest::new(wanted);
        entries.iter().position(|entry| newest.has_enough(entry)).unwrap_or(entries.len())
    }

    #[test]
    fn the_newest_events_are_read_and_hardly_more() {
        let entries: Vec<_> = (0..50).rev().map(|i| entry(i, i, i)).collect();
        assert_eq!(read_for(0, &entries), 0);
        assert_eq!(read_for(1, &entries), 1);
        assert_eq!(read_for(10, &entries), 10);
        assert_eq!(read_for(100, &entries), 50);
    }

    #[test]
    fn an_old_event_that_arrived_last_does_not_take_the_place_of_a_newer_one() {
        // Number 1 was dropped, and sent again after the others.
        let entries =
            [entry(1, 1, 30), entry(9, 9, 9), entry(8, 8, 8), entry(7, 7, 7), entry(6, 6, 6)];
        assert_eq!(read_for(2, &entries), 3);
    }

    #[test]
    fn an_event_that_came_twice_counts_once() {
        let entries = [entry(9, 9, 20), entry(9, 9, 9), entry(8, 8, 8), entry(7, 7, 7)];
        assert_eq!(read_for(2, &entries), 3);
    }
}
