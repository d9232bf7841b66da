//! The events of a private service that found no journald: JSON lines in its log, among other lines.

use std::{
    collections::VecDeque,
    fs::File,
    path::{Path, PathBuf},
};

use jiff::Zoned;

use super::{
    Found, PastError,
    entry::{Entry, in_order},
    lines::{Limits, Lines},
    query::{Query, understood},
};
use crate::time::Timestamp;

/// The number of rotated logs that are kept.
pub const KEPT: u32 = 4;

/// The log that a service of this state folder writes to.
pub fn path(state: &Path) -> PathBuf {
    state.join("service.log")
}

/// The path of a rotated log; of the youngest one, the age is 1.
pub fn older(state: &Path, age: u32) -> PathBuf {
    state.join(format!("service.log.{age}"))
}

/// The paths of all logs, the oldest first.
pub fn all(state: &Path) -> Vec<PathBuf> {
    let older = (1..=KEPT).rev().map(|age| older(state, age));
    older.chain([path(state)]).collect()
}

/// Calls `each` for every event of these files, in the order in which they were written, until it returns `false`.
fn visit(
    files: &[PathBuf],
    limits: &Limits<'_>,
    mut each: impl FnMut(Entry) -> bool,
) -> Result<(), PastError> {
    for file in files.iter().filter_map(|path| File::open(path).ok()) {
        let mut file = Lines::of(file);
        loop {
            let lines = match file.next(limits) {
                Ok(Some(lines)) => lines,
                Err(error @ PastError::Unwanted) => return Err(error),
                // What cannot be read counts as missing.
                Ok(None) | Err(_) => break,
            };
            let mut entries = lines.split(|byte| *byte == b'\n').filter_map(Entry::read);
            if !entries.all(&mut each) {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Whether there is any event in these files.
pub fn has_events(files: &[PathBuf], limits: &Limits<'_>) -> Result<bool, PastError> {
    let mut has_one = false;
    visit(files, limits, |_| {
        has_one = true;
        false
    })?;
    Ok(has_one)
}

/// Reads the events that match the query, or only the last N of them; `None` if there is no event at all.
pub fn read(
    files: &[PathBuf],
    query: &Query,
    last: Option<usize>,
    now: &Zoned,
    limits: &Limits<'_>,
) -> Result<Option<Found>, PastError> {
    if !has_events(files, limits)? {
        return Ok(None);
    }
    let moment = |text: &Option<String>| match text {
        None => Ok(None),
        Some(text) => understood(text, now).map(Some).ok_or_else(|| PastError::Time(text.clone())),
    };
    let (since, until) = (moment(&query.since)?, moment(&query.until)?);
    let is_within = |time: Timestamp| {
        since.is_none_or(|since| time >= since) && until.is_none_or(|until| time <= until)
    };
    let (mut entries, mut size, mut is_part) = (VecDeque::new(), 0, false);
    visit(files, limits, |entry| {
        if is_within(entry.time) && query.matches(&entry) {
            size += entry.size();
            entries.push_back(entry);
        }
        while limits.are_exceeded_by(size)
            && let Some(oldest) = entries.pop_front()
        {
            size -= oldest.size();
            is_part = true;
        }
        true
    })?;
    let mut entries = in_order(entries.into());
    let spare = last.map_or(0, |last| entries.len().saturating_sub(last));
    entries.drain(..spare);
    Ok(Some(Found { entries, is_part: is_part || spare > 0, instead: None }))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a query finds in a log of four events, among other lines: their minutes, and whether it is a part.
    fn times(
        query: &Query,
        last: Option<usize>,
        most_bytes: Option<usize>,
    ) -> Result<(Vec<String>, bool), PastError> {
        let now = "2026-11-23T10:40:00+00:00[UTC]".parse().unwrap();
        let events = ["00 allocate", "10 release", "20 allocate", "30 renew"];
        let lines = events.map(|event| {
            let (minute, action) = event.split_once(' ').unwrap();
            format!(
                " WARN something else\n{{\"STYXY_ACTION\": \"{action}\", \"STYXY_TIME\": \"2026-11-23T10:{minute}:00Z\"}}\n"
            )
        });
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(older(folder.path(), 1), lines[..2].concat()).unwrap();
        std::fs::write(path(folder.path()), lines[2..].concat()).unwrap();
        let limits = Limits { wanted_by: None, most_bytes, watch: || Box::new(|| {}) };
        let found = read(&all(folder.path()), query, last, &now, &limits)?.unwrap();
        let minutes = found.entries.iter().map(|entry| entry.time.to_string()[14..16].to_owned());
        Ok((minutes.collect(), found.is_part))
    }

    #[test]
    fn the_log_of_a_private_service_is_asked_as_the_journal_is() {
        let found = |query: &Query, last| times(query, last, None).unwrap();
        let minutes = |minutes: &[&str]| minutes.iter().map(ToString::to_string).collect();
        assert_eq!(found(&Query::default(), None).0.len(), 4);
        let within = Query {
            since: Some("10:10".to_owned()),
            until: Some("20 minutes ago".to_owned()),
            ..Query::default()
        };
        assert_eq!(found(&within, None), (minutes(&["10", "20"]), false));
        let grants = Query { actions: vec!["allocate".to_owned()], ..Query::default() };
        assert_eq!(found(&grants, None), (minutes(&["00", "20"]), false));
        assert_eq!(found(&grants, Some(1)), (minutes(&["20"]), true));
        assert_eq!(found(&grants, Some(2)), (minutes(&["00", "20"]), false));
    }

    #[test]
    fn a_time_that_is_not_understood_is_said() {
        let query = Query { until: Some("when it broke".to_owned()), ..Query::default() };
        let error = times(&query, None, None).unwrap_err();
        assert!(matches!(error, PastError::Time(text) if text == "when it broke"));
    }

    #[test]
    fn what_is_too_much_to_be_kept_is_left_out_and_said_to_be_missing() {
        // The last two events have 73 bytes, and three have more than 100.
        let kept = |most| times(&Query::default(), None, Some(most)).unwrap();
        assert_eq!(kept(200), (["00", "10", "20", "30"].map(str::to_owned).into(), false));
        assert_eq!(kept(80), (["20", "30"].map(str::to_owned).into(), true));
    }
}
