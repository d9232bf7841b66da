//! Reads back the events that arrived, through `journalctl` (journalctl(1)): the files of the journal are
//! internal to it, and the command exists wherever journald does.

use std::{
    collections::HashSet,
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};

use serde::Deserialize;

use super::past::journal::PROGRAM;
use crate::{
    kernel::{landlock, process::uid},
    time::Timestamp,
};

/// The result of reading back.
#[derive(Debug)]
pub enum ReadBack {
    /// The events with these numbers.
    Found(HashSet<u64>),
    /// The journal cannot be read: volatile storage is for the system only, or there is no `journalctl`.
    Unreadable,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(rename = "STYXY_SEQ")]
    seq: Option<String>,
}

/// Queries which events of this state folder have arrived since that time.
pub fn read_back(state_id: &str, since: Timestamp) -> ReadBack {
    let Ok(mut child) = arrived(state_id, since).spawn() else { return ReadBack::Unreadable };
    let mut found = HashSet::new();
    if let Some(output) = child.stdout.take() {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            let entry = serde_json::from_str::<Entry>(&line).ok();
            found.extend(entry.and_then(|entry| entry.seq?.parse::<u64>().ok()));
        }
    }
    match child.wait() {
        Ok(status) if status.success() => ReadBack::Found(found),
        _ => ReadBack::Unreadable,
    }
}

/// The command that lists the events of a state folder that have arrived.
fn arrived(state_id: &str, since: Timestamp) -> Command {
    // Two seconds earlier, because a clock that is being set may step back a little.
    let mut question = journalctl((since.0 / 1000).saturating_sub(2));
    question
        .arg("--output-fields=STYXY_SEQ")
        .arg("SYSLOG_IDENTIFIER=styxy")
        // journald itself sets this field, so nobody else's entry can pass for one of our events.
        .arg(format!("_UID={}", uid()))
        .arg(format!("STYXY_STATE_ID={state_id}"));
    question
}

/// Whether any entry of this user, however old, can be read.
pub fn can_be_read() -> bool {
    let output = journalctl(0).arg("--lines=1").arg(format!("_UID={}", uid())).output();
    output.is_ok_and(|output| !output.stdout.is_empty())
}

fn journalctl(since: u64) -> Command {
    let mut command = landlock::command(PROGRAM);
    command
        .args(["--quiet", "--no-pager", "--output=json"])
        .arg(format!("--since=@{since}"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_entry_of_this_user_and_this_state_says_that_an_event_has_arrived() {
        let question = arrived("a-state", Timestamp(1_000_000));
        let words: Vec<_> = question.get_args().map(|word| word.to_string_lossy()).collect();
        for term in
            [&format!("_UID={}", uid()), "STYXY_STATE_ID=a-state", "SYSLOG_IDENTIFIER=styxy"]
        {
            assert!(words.iter().any(|word| word == term), "{term}: {words:?}");
        }
    }
}
