use std::{
    io,
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use clap::Args;
use serde_json::json;

use super::{
    CliError, Output, counted, print, print_json, print_list, project::Project, refused, say, usage,
};
use crate::{
    audit::past::{
        self, EVENTS, Entry, Found, Limits, PastError, Query, Reading, Sources,
        journal::{self, Contents},
        log,
    },
    client::{Failure, Watch},
    surroundings::user,
    word::visible,
};

mod export;
mod query;
mod show;
mod stats;
mod underway;

use export::Target;
use query::QueryOptions;
use show::Here;
use stats::Stats;
use underway::Underway;

/// The default number of past events that --follow shows first, as in tail(1).
const LINES_BEFORE: usize = 10;

/// Show past events, from the journal
///
/// An option that is given several times matches any of its values; different options must all match.
#[derive(Debug, Args)]
pub(super) struct Audit {
    #[command(flatten)]
    query: QueryOptions,
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
        let (query, last) = (&self.query.query(), self.last());
        if self.print {
            let reading = match (self.amount.follow, last) {
                (true, last) => Reading::Follow(last),
                (false, None) => Reading::All,
                (false, Some(last)) => Reading::Last(last),
            };
            return self.print_line(&query.arguments(reading, &sources().mine));
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
        let usual = if self.amount.follow { LINES_BEFORE } else { EVENTS };
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
        let sources = sources();
        let instead = || {
            if !past::has_log(&sources, &WATCHED).unwrap_or(false) {
                return String::new();
            }
            format!("; `tail -f {}` shows what a private service does", path_of_log().display())
        };
        match journal::holds(query, &sources.mine, &WATCHED) {
            Ok(Contents::Nothing) => return Err(stop(PastError::Empty, &instead())),
            Ok(Contents::Events | Contents::Others) => {}
            Err(error) => return Err(stop(error, &instead())),
        }
        let stdout = io::stdout();
        let limits =
            Limits { wanted_by: Some(stdout.as_fd()), most_bytes: None, watch: || Box::new(|| {}) };
        let followed = journal::follow(query, last, &sources.mine, &limits, |event| {
            if self.output.json {
                print(&event.to_json().to_string())
            } else {
                print(&here.line(event))
            }
        });
        match followed {
            Ok(printed) => printed,
            Err(PastError::Unwanted) => Err(CliError::Output(io::ErrorKind::BrokenPipe.into())),
            Err(error) => Err(stop(error, "")),
        }
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

/// A person waits: if journalctl takes long, it is said.
const WATCHED: Limits<'static> = Limits {
    wanted_by: None,
    most_bytes: None,
    watch: || {
        let watch = Watch::over(journal::PROGRAM);
        Box::new(move || watch.goes_on())
    },
};

/// Where the events of this user are.
fn sources() -> Sources {
    let user = user();
    Sources::of(user.uid(), user.state().as_deref())
}

fn path_of_log() -> PathBuf {
    log::path(&user().state().unwrap_or_default())
}

/// Reads the events from the journal or, if it has none of styxy or cannot be read, from the log of a private
/// service, and says so.
pub(super) fn find(query: &Query, last: Option<usize>) -> Result<Found, CliError> {
    let found = past::find(query, last, &sources(), &WATCHED).map_err(|error| stop(error, ""))?;
    if let Some(why) = found.instead {
        let log = path_of_log();
        let log = log.display();
        say(&format!("{why}; these events are from {log}, the log of a private service"));
    }
    Ok(found)
}

/// The last events of a project that the journal or the log has, as far as they can be read.
#[cfg_attr(not(feature = "project"), expect(dead_code))]
pub(super) fn last_events(project: &Project, actions: &[&str], most: usize) -> Vec<Entry> {
    let actions = actions.iter().map(|action| (*action).to_owned()).collect();
    let query = Query { actions, projects: vec![project.path().clone()], ..Query::default() };
    past::last(&query, most, &sources(), &WATCHED)
}

/// The error for a failed query, with what to do about it.
fn stop(error: PastError, instead: &str) -> CliError {
    match error {
        PastError::System(error) => CliError::System(error),
        PastError::Absent(_) | PastError::Empty => {
            CliError::Failure(Failure::Unreachable(format!(
                "{error}{instead}; styxy writes to the journal where systemd-journald runs, \
                 and where it doesn't, a private service writes to {}",
                path_of_log().display()
            )))
        }
        PastError::Failed(_) => {
            refused(format!("{error}; `styxy audit --print` shows the command"))
        }
        _ => match error.of_query() {
            Some(error) => usage(&error),
            None => refused(format!("{error}{instead}")),
        },
    }
}
