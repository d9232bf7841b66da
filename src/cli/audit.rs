use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use super::{
    CliError, Output, counted, print, print_json, print_list, project::Project, refused, say, usage,
};
use crate::{client::Failure, error::Error, word::visible};

mod entry;
mod export;
mod journal;
mod log;
pub(super) mod query;
mod show;
mod stats;
mod underway;

pub(super) use entry::Entry;
use export::Target;
use journal::{Contents, Found, JournalError};
use query::{Mine, Query, Reading};
use show::Here;
use stats::Stats;
use underway::Underway;

/// The default number of events to show.
const LINES: usize = 200;
/// The default number of past events that --follow shows first, as in tail(1).
const LINES_BEFORE: usize = 10;

/// Show past events, from the journal
///
/// An option that is given several times matches any of its values; different options must all match.
#[derive(Debug, Args)]
pub(super) struct Audit {
    #[command(flatten)]
    query: Query,
    #[command(flatten)]
    amount: Amount,
    /// Count events by action and type, with the top projects and the busiest hours
    #[arg(long, conflicts_with = "export")]
    stats: bool,
    /// Write the events to a file, one JSON object per line; - is standard output
    #[arg(long, value_name = "FILE")]
    export: Option<PathBuf>,
    /// Print the journalctl command for this, without running it
    #[arg(long)]
    print: bool,
    #[command(flatten)]
    output: Output,
}

/// How many events are wanted.
#[derive(Clone, Copy, Debug, Args)]
struct Amount {
    /// Show the last N events [default: 200; 10 with --follow; all with --since, --stats or --export]
    #[arg(short = 'n', long, value_name = "N", conflicts_with = "all")]
    lines: Option<usize>,
    /// Show all events
    #[arg(long)]
    all: bool,
    /// Follow new events, until Ctrl-C
    #[arg(short, long, conflicts_with_all = ["until", "stats", "export"])]
    follow: bool,
}

impl Audit {
    pub(super) fn run(self) -> Result<(), CliError> {
        let (query, last) = (&self.query, self.last());
        if self.print {
            let reading = match (self.amount.follow, last) {
                (true, last) => Reading::Follow(last),
                (false, None) => Reading::All,
                (false, Some(last)) => Reading::Last(last),
            };
            return self.print_line(&query.arguments(reading, &Mine::here()));
        }
        let here = Here::new();
        if self.amount.follow {
            return self.follow(query, last, &here);
        }
        let underway = Underway::ask();
        let found = find(query, last)?;
        self.show(&found, &here)?;
        if let Some(missing) = underway.and_then(|u| u.missing(&found.entries, query, last)) {
            say(&missing);
        }
        Ok(())
    }

    fn show(&self, found: &Found, here: &Here) -> Result<(), CliError> {
        if let Some(file) = &self.export {
            return self.export(file, &found.entries);
        }
        if self.stats {
            let stats = Stats::of(&found.entries, here);
            return if self.output.json {
                print_json(&stats.to_json())
            } else {
                print(&stats.tables())
            };
        }
        if self.output.json {
            return print_list("events", found.to_json());
        }
        if found.entries.is_empty() {
            return print("there is no such event");
        }
        print(&here.table(&found.entries))?;
        if found.is_part && self.amount.lines.is_none() {
            let shown = counted(found.entries.len() as u64, "event");
            say(&format!("the last {shown}; --all shows all"));
        }
        Ok(())
    }

    /// The maximum number of events to show; `None` for all.
    fn last(&self) -> Option<usize> {
        let is_all =
            self.amount.all || self.query.since.is_some() || self.stats || self.export.is_some();
        let usual = if self.amount.follow { LINES_BEFORE } else { LINES };
        self.amount.lines.or((!is_all).then_some(usual))
    }

    fn print_line(&self, arguments: &[String]) -> Result<(), CliError> {
        if self.output.json {
            let command = [&[journal::PROGRAM.to_owned()], arguments].concat();
            return print_json(&json!({"command": command}));
        }
        print(&query::shell_line(journal::PROGRAM, arguments))
    }

    fn follow(&self, query: &Query, last: Option<usize>, here: &Here) -> Result<(), CliError> {
        let log = log::path();
        let instead = || {
            if log::read().is_empty() {
                return String::new();
            }
            format!("; `tail -f {}` shows what a private service does", log.display())
        };
        match journal::holds(query) {
            Ok(Contents::Nothing) => return Err(absent(&(NO_ENTRY.to_owned() + &instead()))),
            Ok(Contents::Events | Contents::Others) => {}
            Err(trouble) => return Err(stop(trouble, &instead())),
        }
        let ended = journal::follow(query, last, |event| {
            if self.output.json {
                print(&event.to_json().to_string())
            } else {
                print(&here.line(event))
            }
        })?;
        ended.map_err(|trouble| stop(trouble, ""))
    }

    fn export(&self, file: &Path, entries: &[Entry]) -> Result<(), CliError> {
        let lines: String =
            entries.iter().map(|entry| entry.to_json().to_string() + "\n").collect();
        let Some(target) = Target::of(file) else {
            // Only the events go to standard output.
            return if lines.is_empty() { Ok(()) } else { print(lines.trim_end()) };
        };
        target.write(lines.as_bytes()).map_err(|error| {
            refused(format!(
                "the events cannot be written to {}: {error}; name a file in a folder that you may write to",
                file.display()
            ))
        })?;
        if self.output.json {
            return print_json(&json!({"events": entries.len(), "file": file}));
        }
        let count = counted(entries.len() as u64, "event");
        print(&format!("wrote {count} to {}", visible(&file.to_string_lossy())))
    }
}

const NO_ENTRY: &str = "journalctl finds no entry at all";

/// Reads the events from the journal or, if it has none of styxy or cannot be read, from the log of a private
/// service.
pub(super) fn find(query: &Query, last: Option<usize>) -> Result<Found, CliError> {
    let (why, nothing) = match journal::read(query, last) {
        Ok(found) if !found.entries.is_empty() => return Ok(found),
        Ok(found) => match journal::holds(query) {
            Ok(Contents::Events) => return Ok(found),
            Ok(Contents::Others) => ("the journal has no event of styxy", Ok(found)),
            Ok(Contents::Nothing) => ("the journal has no entry", Err(absent(NO_ENTRY))),
            Err(trouble) => ("the journal cannot be asked", Err(stop(trouble, ""))),
        },
        Err(trouble @ (JournalError::Usage(_) | JournalError::Failed(_))) => {
            return Err(stop(trouble, ""));
        }
        Err(trouble) => ("the journal cannot be asked", Err(stop(trouble, ""))),
    };
    let entries = log::read();
    if entries.is_empty() {
        return nothing;
    }
    let found = log::select(entries, query, last, &Here::new().now).map_err(|text| {
        let why = format!("{text:?} is not a time that is understood without a journal");
        usage(
            &Error::invalid(why)
                .suggest("give one such as \"2026-11-23 09:00\" or \"2 hours ago\""),
        )
    })?;
    let log = log::path();
    say(&format!("{why}; these events are from {}, the log of a private service", log.display()));
    Ok(found)
}

/// The last events of a project that the journal or the log has, as far as they can be read.
#[cfg_attr(not(feature = "project"), expect(dead_code))]
pub(super) fn last_events(project: &Project, actions: &[&str], most: usize) -> Vec<Entry> {
    let actions = actions.iter().map(|action| (*action).to_owned()).collect();
    let query = Query { actions, projects: vec![project.clone()], ..Query::default() };
    let found = journal::read(&query, Some(most)).ok().filter(|found| !found.entries.is_empty());
    let found =
        found.or_else(|| log::select(log::read(), &query, Some(most), &Here::new().now).ok());
    found.unwrap_or_default().entries
}

/// The error for a failed query of the journal, with what to do about it.
fn stop(trouble: JournalError, instead: &str) -> CliError {
    match trouble {
        JournalError::Absent(error) => {
            absent(&format!("journalctl cannot be run ({error}){instead}"))
        }
        JournalError::Unreadable(words) => refused(format!(
            "the journal cannot be read ({words}); to let this user read it: \
             Storage=persistent in journald.conf(5), or the group systemd-journal{instead}"
        )),
        JournalError::Usage(words) => {
            let error = Error::invalid(format!("journalctl says: {words}"));
            usage(&error.suggest(
                "systemd.time(7) has the forms of times: \"2026-11-23 09:00\", yesterday, \"1 hour ago\"",
            ))
        }
        JournalError::Failed(words) => refused(format!(
            "the journal cannot be asked: {words}; `styxy audit --print` shows the command"
        )),
    }
}

fn absent(why: &str) -> CliError {
    CliError::Failure(Failure::Unreachable(format!(
        "there is no journal to ask: {why}; styxy writes to the journal where systemd-journald runs, \
         and where it doesn't, a private service writes to {}",
        log::path().display()
    )))
}
