//! Querying the journal through `journalctl` (journalctl(1)).

use std::{
    collections::BinaryHeap,
    io::{self, Read},
    process::{Child, ChildStdout, Stdio},
    thread::{self, JoinHandle},
};

use super::{
    Found, PastError,
    entry::{Entry, Seen, in_order},
    lines::{Limits, Lines},
    query::{Mine, Query, Reading},
};
use crate::{kernel::landlock, time::Timestamp, word::harmless};

/// The command that reads the journal.
pub const PROGRAM: &str = "journalctl";

/// What the journal contains, as far as this user may read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contents {
    /// Entries of styxy.
    Events,
    /// Entries of others.
    Others,
    /// Nothing.
    Nothing,
}

/// Reads the matching events that the journal has now, or only the last N of them.
pub fn read(
    query: &Query,
    last: Option<usize>,
    mine: &Mine,
    limits: &Limits<'_>,
) -> Result<Found, PastError> {
    let reading = last.map_or(Reading::All, Reading::Last);
    let mut journalctl = Running::start(&query.arguments(reading, mine))?;
    let goes_on = (limits.watch)();
    let mut newest = last.map(Newest::new);
    let (mut entries, mut size) = (Vec::new(), 0);
    let mut is_part = false;
    'reading: while let Some(lines) = journalctl.output.next(limits)? {
        for line in lines.split(|byte| *byte == b'\n') {
            goes_on();
            let Some(entry) = Entry::read(line) else { continue };
            size += entry.size();
            let has_enough = newest.as_mut().is_some_and(|newest| newest.has_enough(&entry));
            if has_enough || limits.are_exceeded_by(size) {
                is_part = true;
                break 'reading;
            }
            entries.push(entry);
        }
    }
    if !is_part {
        journalctl.finish()?;
    }
    let mut entries = in_order(entries);
    let spare = last.map_or(0, |last| entries.len().saturating_sub(last));
    entries.drain(..spare);
    Ok(Found { entries, is_part: is_part || spare > 0, instead: None })
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

/// Calls `each` for every event as it arrives, until nobody wants more, `each` fails, or journalctl ends.
pub fn follow<E>(
    query: &Query,
    lines: Option<usize>,
    mine: &Mine,
    limits: &Limits<'_>,
    mut each: impl FnMut(&Entry) -> Result<(), E>,
) -> Result<Result<(), E>, PastError> {
    let mut journalctl = Running::start(&query.arguments(Reading::Follow(lines), mine))?;
    let mut seen = Seen::default();
    while let Some(lines) = journalctl.output.next(limits)? {
        let entries = lines.split(|byte| *byte == b'\n').filter_map(Entry::read);
        let mut entries = entries.filter(|entry| seen.is_new(entry));
        if let Err(stop) = entries.try_for_each(|entry| each(&entry)) {
            return Ok(Err(stop));
        }
    }
    journalctl.finish()?;
    Ok(Ok(()))
}

/// Returns what the journal contains, to explain an empty result.
pub fn holds(query: &Query, mine: &Mine, limits: &Limits<'_>) -> Result<Contents, PastError> {
    let has = |matches: &[String]| {
        let arguments = ["--quiet", "--no-pager", "--output=json", "--lines=1"];
        let arguments = arguments.map(str::to_owned).into_iter().chain(matches.iter().cloned());
        let arguments: Vec<_> = arguments.collect();
        let mut journalctl = Running::start(&arguments)?;
        let _goes_on = (limits.watch)();
        let mut is_there = false;
        while journalctl.output.next(limits)?.is_some() {
            is_there = true;
        }
        journalctl.finish()?;
        Ok(is_there)
    };
    Ok(match has(&query.whose(mine))? {
        true => Contents::Events,
        false if has(&[])? => Contents::Others,
        false => Contents::Nothing,
    })
}

/// A running `journalctl`; it is killed when this is dropped.
#[derive(Debug)]
struct Running {
    child: Child,
    output: Lines<ChildStdout>,
    complaints: Option<JoinHandle<String>>,
}

impl Running {
    fn start(arguments: &[String]) -> Result<Self, PastError> {
        let mut child = landlock::command(PROGRAM)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(PastError::Absent)?;
        let (Some(output), Some(mut stderr)) = (child.stdout.take(), child.stderr.take()) else {
            return Err(PastError::Absent(io::ErrorKind::BrokenPipe.into()));
        };
        let mut journalctl = Self { child, output: Lines::of(output), complaints: None };
        // Read in a thread, so that journalctl never blocks on a full pipe.
        let complaints = thread::Builder::new().spawn(move || {
            let mut text = Vec::new();
            let _ = stderr.read_to_end(&mut text);
            String::from_utf8_lossy(&text).trim().to_owned()
        });
        journalctl.complaints = Some(complaints.map_err(PastError::System)?);
        Ok(journalctl)
    }

    /// Waits until it exits; returns the error that it printed, if it failed.
    fn finish(mut self) -> Result<(), PastError> {
        let status = self.child.wait().map_err(PastError::Absent)?;
        if status.success() {
            return Ok(());
        }
        let complaints = self.complaints.take().and_then(|complaints| complaints.join().ok());
        let complaints = match complaints.unwrap_or_default().lines().next_back() {
            Some(last) => harmless(last),
            None => format!("{PROGRAM}: {status}"),
        };
        Err(if complaints.contains("insufficient permissions") {
            PastError::Unreadable(complaints)
        } else if ["timestamp", "--since", "--until"].iter().any(|word| complaints.contains(word)) {
            PastError::Usage(complaints)
        } else {
            PastError::Failed(complaints)
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have exited by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
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
