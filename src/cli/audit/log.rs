//! The events of a private service that found no journald: JSON lines in its log, among other lines.

use std::{
    fs::File,
    io::{BufRead, BufReader},
    path::PathBuf,
};

use jiff::Zoned;

use super::{
    entry::{Entry, in_order},
    journal::Found,
    query::{Query, understood},
};
use crate::{daemon::log, surroundings::user, time::Timestamp};

/// The path of the log.
pub(super) fn path() -> PathBuf {
    log::path(&user().state().unwrap_or_default())
}

/// Reads all events of the log and of the rotated logs; none if there is no such file.
pub(super) fn read() -> Vec<Entry> {
    let files = user().state().map(|state| log::all(&state)).unwrap_or_default();
    let files = files.iter().filter_map(|path| File::open(path).ok());
    let lines = files.flat_map(|file| BufReader::new(file).split(b'\n').map_while(Result::ok));
    in_order(lines.filter_map(|line| Entry::read(&line)).collect())
}

/// Selects the events that match the query, or only the last N of them. Fails with the text of a time that
/// cannot be parsed.
pub(super) fn select(
    mut entries: Vec<Entry>,
    query: &Query,
    last: Option<usize>,
    now: &Zoned,
) -> Result<Found, String> {
    let moment = |text: &Option<String>| match text {
        None => Ok(None),
        Some(text) => understood(text, now).map(Some).ok_or_else(|| text.clone()),
    };
    let (since, until) = (moment(&query.since)?, moment(&query.until)?);
    let is_within = |time: Timestamp| {
        since.is_none_or(|since| time >= since) && until.is_none_or(|until| time <= until)
    };
    entries.retain(|entry| is_within(entry.time) && query.matches(entry));
    let spare = last.map_or(0, |last| entries.len().saturating_sub(last));
    entries.drain(..spare);
    Ok(Found { entries, is_part: spare > 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries() -> Vec<Entry> {
        let line = |minute: u64, action: &str| {
            let line = format!(
                r#"{{"STYXY_ACTION": "{action}", "STYXY_TIME": "2026-11-23T10:{minute:02}:00Z"}}"#
            );
            Entry::read(line.as_bytes()).unwrap()
        };
        vec![line(0, "allocate"), line(10, "release"), line(20, "allocate"), line(30, "renew")]
    }

    fn times(query: &Query, last: Option<usize>) -> Result<(Vec<String>, bool), String> {
        let now = "2026-11-23T10:40:00+00:00[UTC]".parse().unwrap();
        let found = select(entries(), query, last, &now)?;
        let minutes = found.entries.iter().map(|entry| entry.time.to_string()[14..16].to_owned());
        Ok((minutes.collect(), found.is_part))
    }

    #[test]
    fn the_log_of_a_private_service_is_asked_as_the_journal_is() {
        let minutes = |minutes: &[&str]| minutes.iter().map(ToString::to_string).collect();
        assert_eq!(times(&Query::default(), None).unwrap().0.len(), 4);
        let within = Query {
            since: Some("10:10".to_owned()),
            until: Some("20 minutes ago".to_owned()),
            ..Query::default()
        };
        assert_eq!(times(&within, None), Ok((minutes(&["10", "20"]), false)));
        let grants = Query { actions: vec!["allocate".to_owned()], ..Query::default() };
        assert_eq!(times(&grants, None), Ok((minutes(&["00", "20"]), false)));
        assert_eq!(times(&grants, Some(1)), Ok((minutes(&["20"]), true)));
        assert_eq!(times(&grants, Some(2)), Ok((minutes(&["00", "20"]), false)));
    }

    #[test]
    fn a_time_that_is_not_understood_is_said() {
        let query = Query { until: Some("when it broke".to_owned()), ..Query::default() };
        assert_eq!(times(&query, None), Err("when it broke".to_owned()));
    }
}
