//! Counts events by action, type, project and hour.

use std::{cmp::Reverse, collections::BTreeMap};

use serde_json::{Value as Json, json};

use super::{
    super::{
        counted, short,
        table::{self, Column, Table},
    },
    show::Here,
};
use crate::audit::past::Entry;

/// The most projects, and the most hours, that are shown.
const MOST: usize = 10;

/// Values and their counts, the largest count first.
type Counts = Vec<(String, u64)>;

/// The counts of a list of events.
#[derive(Debug)]
pub(super) struct Stats {
    events: u64,
    /// The times of the first and the last event, in RFC 3339.
    span: Option<(String, String)>,
    actions: Counts,
    types: Counts,
    projects: Counts,
    /// By the start of the hour, in RFC 3339.
    hours: Counts,
}

impl Stats {
    /// Counts events, which must be in order.
    pub fn of(events: &[Entry], here: &Here) -> Self {
        let field = |word: &'static str| count(events.iter().map(move |e| e.get(word).to_owned()));
        let hour =
            |event: &Entry| here.local(event.time).strftime("%Y-%m-%dT%H:00:00%:z").to_string();
        let first = |mut counts: Counts| {
            counts.truncate(MOST);
            counts
        };
        let time = |event: &Entry| event.time.to_string();
        Self {
            events: events.len() as u64,
            span: events.first().map(time).zip(events.last().map(time)),
            actions: field("action"),
            types: field("service_type"),
            projects: first(field("project_path")),
            hours: first(count(events.iter().map(hour))),
        }
    }

    pub fn to_json(&self) -> Json {
        let list = |key: &str, counts: &Counts| -> Json {
            counts.iter().map(|(what, events)| json!({key: what, "events": events})).collect()
        };
        json!({
            "events": self.events,
            "since": self.span.as_ref().map(|(first, _)| first),
            "until": self.span.as_ref().map(|(_, last)| last),
            "actions": list("action", &self.actions),
            "service_types": list("service_type", &self.types),
            "projects": list("project_path", &self.projects),
            "hours": list("hour", &self.hours),
        })
    }

    pub fn tables(&self) -> String {
        let projects = self.projects.iter().map(|(path, events)| (short(path), *events));
        // "2026-11-23T09:00:00+01:00": the date and the time, as --since accepts them.
        let hours = self.hours.iter().map(|(hour, events)| (hour[..16].replace('T', " "), *events));
        let tables = [
            counts(table::text("ACTION"), &self.actions),
            counts(table::text("TYPE"), &self.types),
            counts(table::path("PROJECT"), &projects.collect()),
            counts(table::short("BUSIEST HOUR"), &hours.collect()),
        ];
        let tables = tables.into_iter().flatten();
        [counted(self.events, "event")].into_iter().chain(tables).collect::<Vec<_>>().join("\n\n")
    }
}

/// Counts the values that are not empty; the most frequent come first, and equally frequent ones in
/// alphabetical order.
fn count(values: impl Iterator<Item = String>) -> Counts {
    let mut counts = BTreeMap::new();
    for value in values.filter(|value| !value.is_empty()) {
        *counts.entry(value).or_insert(0) += 1;
    }
    let mut counts: Counts = counts.into_iter().collect();
    counts.sort_by_key(|(_, count)| Reverse(*count));
    counts
}

fn counts(what: Column, counts: &Counts) -> Option<String> {
    let mut table = Table::new([what, table::number("EVENTS")]);
    for (value, count) in counts {
        table.row([value.clone(), count.to_string()]);
    }
    (!counts.is_empty()).then(|| table.draw())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn here() -> Here {
        Here { now: "2026-11-23T12:00:00+05:30[+05:30]".parse().unwrap() }
    }

    fn event(time: &str, action: &str, service_type: &str, project: &str) -> Entry {
        let line = json!({
            "STYXY_ACTION": action, "STYXY_TIME": format!("2026-11-{time}Z"),
            "STYXY_SERVICE_TYPE": service_type, "STYXY_PROJECT_PATH": project,
        });
        Entry::read(line.to_string().as_bytes()).unwrap()
    }

    fn events() -> Vec<Entry> {
        vec![
            event("21T10:00:00", "config_reload", "", ""),
            event("22T20:29:00", "allocate", "dev", "/home/dev/shop"),
            event("22T20:31:00", "release", "dev", "/home/dev/shop"),
            event("22T20:45:00", "allocate", "api", "/srv/a"),
            event("22T21:15:00", "allocate", "dev", ""),
            event("22T21:29:59", "deny", "dev", "/srv/a"),
        ]
    }

    #[test]
    fn events_are_counted_by_action_type_project_and_hour_of_the_user() {
        assert_eq!(
            Stats::of(&events(), &here()).to_json(),
            json!({
                "events": 6,
                "since": "2026-11-21T10:00:00.000Z",
                "until": "2026-11-22T21:29:59.000Z",
                "actions": [
                    {"action": "allocate", "events": 3},
                    {"action": "config_reload", "events": 1},
                    {"action": "deny", "events": 1},
                    {"action": "release", "events": 1},
                ],
                "service_types": [
                    {"service_type": "dev", "events": 4},
                    {"service_type": "api", "events": 1},
                ],
                "projects": [
                    {"project_path": "/home/dev/shop", "events": 2},
                    {"project_path": "/srv/a", "events": 2},
                ],
                "hours": [
                    {"hour": "2026-11-23T02:00:00+05:30", "events": 4},
                    {"hour": "2026-11-21T15:00:00+05:30", "events": 1},
                    {"hour": "2026-11-23T01:00:00+05:30", "events": 1},
                ],
            })
        );
    }

    #[test]
    fn only_ten_projects_and_hours_are_shown_and_all_types() {
        let day = |day: u64| {
            event(&format!("{day:02}T10:00:00"), "deny", &format!("t{day}"), &format!("/p{day:02}"))
        };
        let events: Vec<_> = (1..=12).chain([12]).map(day).collect();
        let stats = Stats::of(&events, &here());
        assert_eq!((stats.projects.len(), stats.hours.len(), stats.types.len()), (10, 10, 12));
        assert_eq!(stats.projects[0], ("/p12".to_owned(), 2));
        assert_eq!(stats.hours[0].1, 2);
    }

    #[test]
    fn of_nothing_there_are_no_tables() {
        let stats = Stats::of(&[], &here());
        assert_eq!(stats.tables(), "0 events");
        assert_eq!(stats.to_json()["since"], Json::Null);
        assert_eq!(stats.to_json()["actions"], json!([]));
    }
}
