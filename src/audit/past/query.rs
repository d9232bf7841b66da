//! A query for events, as a journalctl(1) command line, or as a filter for entries that were already read.

use std::path::Path;

use jiff::{Span, Zoned, civil};

use super::entry::Entry;
use crate::{
    audit::event::ACTIONS,
    error::Error,
    kernel::process,
    lease::{InstanceId, ProjectPath},
    port::Port,
    service_type::ServiceTypeName,
    state,
    time::Timestamp,
    word::shortened,
};

/// Which events are wanted. Of each list one value must be that of the event, if there is any.
#[derive(Clone, Debug, Default)]
pub struct Query {
    /// Values of `action`.
    pub actions: Vec<String>,
    /// Values of `service_type`.
    pub types: Vec<ServiceTypeName>,
    /// Values of `port`.
    pub ports: Vec<Port>,
    /// Values of `project_path`.
    pub projects: Vec<ProjectPath>,
    /// Values of `instance_id`.
    pub instances: Vec<InstanceId>,
    /// Only events that reached the journal since then: a time of systemd.time(7).
    pub since: Option<String>,
    /// Only events that reached it until then.
    pub until: Option<String>,
    /// Also the events of other users and of other states.
    pub all_users: bool,
}

/// Returns the action, if there is one of that name.
pub fn known_action(name: &str) -> Result<String, Error> {
    if ACTIONS.contains(&name) {
        return Ok(name.to_owned());
    }
    let known = ACTIONS.join(", ");
    Err(Error::invalid(format!("there is no action {:?}", shortened(name)))
        .suggest(format!("the known ones are {known}")))
}

/// Identifies this user's own events in a journal that others write to, too.
#[derive(Clone, Debug)]
pub struct Mine {
    uid: u32,
    /// The ids of the state folder; none if it does not exist yet.
    state_ids: Vec<String>,
}

impl Mine {
    /// Those of a user, with that state folder, if there is one.
    pub fn of(uid: u32, state: Option<&Path>) -> Self {
        let state_ids = state.map(state::ids).unwrap_or_default();
        Self { uid: process::outer_uid(uid), state_ids }
    }

    fn matches(&self) -> impl Iterator<Item = String> {
        let state_ids = self.state_ids.iter().map(|id| format!("STYXY_STATE_ID={id}"));
        std::iter::once(format!("_UID={}", self.uid)).chain(state_ids)
    }
}

/// How to read the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// All events, the oldest first.
    All,
    /// The last N events, the newest first.
    Last(usize),
    /// The existing events, or the last N of them, and then new ones.
    Follow(Option<usize>),
}

impl Query {
    /// The arguments for `journalctl`. Several values of a field are alternatives; different fields must all match.
    pub fn arguments(&self, reading: Reading, mine: &Mine) -> Vec<String> {
        // Without --all, long values are null.
        let mut arguments: Vec<_> =
            ["--quiet", "--no-pager", "--all", "--output=json"].map(str::to_owned).into();
        match reading {
            Reading::All => {}
            // Not --lines: it would also count entries that are not events, and duplicates.
            Reading::Last(_) => arguments.push("--reverse".to_owned()),
            Reading::Follow(lines) => {
                arguments.push("--follow".to_owned());
                let lines = lines.map_or("all".to_owned(), |lines| lines.to_string());
                arguments.push(format!("--lines={lines}"));
            }
        }
        arguments.extend(self.since.iter().map(|time| format!("--since={}", moment(time))));
        arguments.extend(self.until.iter().map(|time| format!("--until={}", moment(time))));
        arguments.extend(self.whose(mine));
        for (word, values) in self.wanted() {
            let field = word.to_ascii_uppercase();
            arguments.extend(values.iter().map(|value| format!("STYXY_{field}={value}")));
        }
        arguments
    }

    /// The matches of every query: entries of styxy, and only this user's unless `all_users` is set.
    pub(super) fn whose(&self, mine: &Mine) -> Vec<String> {
        let styxy = ["-t", "styxy"].map(str::to_owned).into_iter();
        if self.all_users { styxy.collect() } else { styxy.chain(mine.matches()).collect() }
    }

    /// Whether the event matches the query, apart from its time.
    pub fn matches(&self, entry: &Entry) -> bool {
        self.wanted().iter().all(|(word, values)| {
            values.is_empty() || values.iter().any(|value| value == entry.get(word))
        })
    }

    /// Whether it excludes some of the events that happen now.
    pub fn is_narrow(&self) -> bool {
        self.until.is_some() || self.wanted().iter().any(|(_, values)| !values.is_empty())
    }

    fn wanted(&self) -> [(&'static str, Vec<String>); 5] {
        [
            ("action", self.actions.clone()),
            ("service_type", self.types.iter().map(ToString::to_string).collect()),
            ("port", self.ports.iter().map(ToString::to_string).collect()),
            ("project_path", self.projects.iter().map(ToString::to_string).collect()),
            ("instance_id", self.instances.iter().map(ToString::to_string).collect()),
        ]
    }
}

/// A time in a form that journalctl accepts: that of systemd 252 does not accept RFC 3339, the format of times
/// in `--json`.
fn moment(text: &str) -> String {
    match text.parse::<jiff::Timestamp>() {
        Ok(time) => {
            let microseconds = time.as_microsecond();
            format!(
                "@{}.{:06}",
                microseconds.div_euclid(1_000_000),
                microseconds.rem_euclid(1_000_000)
            )
        }
        Err(_) => text.to_owned(),
    }
}

/// Parses a time, where journalctl cannot do it: the common forms of systemd.time(7).
pub(super) fn understood(text: &str, now: &Zoned) -> Option<Timestamp> {
    let text = text.trim();
    let day = |days: i64| now.start_of_day().ok()?.checked_add(Span::new().days(days)).ok();
    let local = |time: civil::DateTime| time.to_zoned(now.time_zone().clone()).ok();
    let time = match text {
        "now" => Some(now.clone()),
        "today" => day(0),
        "yesterday" => day(-1),
        "tomorrow" => day(1),
        _ => None,
    };
    let seconds = || {
        let seconds: f64 = text.strip_prefix('@')?.parse().ok()?;
        let time = jiff::Timestamp::UNIX_EPOCH;
        let span = jiff::SignedDuration::try_from_secs_f64(seconds).ok()?;
        Some(time.checked_add(span).ok()?.to_zoned(now.time_zone().clone()))
    };
    let time = time
        .or_else(seconds)
        .or_else(|| Some(text.parse::<jiff::Timestamp>().ok()?.to_zoned(now.time_zone().clone())))
        .or_else(|| local(text.parse().ok()?))
        .or_else(|| local(now.date().to_datetime(text.parse::<civil::Time>().ok()?)))
        .or_else(|| now.checked_add(text.parse::<Span>().ok()?).ok())?;
    Some(Timestamp(time.timestamp().as_millisecond().try_into().unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: &str = "--quiet --no-pager --all --output=json";

    fn words(values: &[&str]) -> Vec<String> {
        values.iter().map(|&value| value.to_owned()).collect()
    }

    #[test]
    fn each_question_is_one_line_of_journalctl() {
        let dev: ServiceTypeName = "dev".parse().unwrap();
        let shop = "/home/dev/my shop".parse().unwrap();
        let port = |number| Port::new(number).unwrap();
        let everybody = Query { all_users: true, ..Query::default() };
        let mine = Mine { uid: 1000, state_ids: words(&["new", "old"]) };
        let whose = "-t styxy _UID=1000 STYXY_STATE_ID=new STYXY_STATE_ID=old";
        for (query, reading, line) in [
            (everybody, Reading::All, "--for -t everybody"),
            (Query::default(), Reading::All, "-t styxy"),
            (Query::default(), Reading::Last(200), "--reverse -t styxy"),
            (Query::default(), Reading::Follow(Some(10)), "--follow --lines=10 -t styxy"),
            (Query::default(), Reading::Follow(Some(0)), "--follow --lines=0 -t styxy"),
            (Query::default(), Reading::Follow(None), "--follow --lines=all -t styxy"),
            (
                Query { actions: words(&["allocate", "release"]), ..Query::default() },
                Reading::All,
                "-t styxy STYXY_ACTION=allocate STYXY_ACTION=release",
            ),
            (
                Query { ports: vec![port(3000), port(3001)], ..Query::default() },
                Reading::All,
                "-t styxy STYXY_PORT=3000 STYXY_PORT=3001",
            ),
            (
                Query {
                    actions: words(&["deny"]),
                    types: vec![dev],
                    ports: vec![port(3000)],
                    projects: vec![shop],
                    instances: vec!["agent-7".parse().unwrap()],
                    since: Some("1 hour ago".to_owned()),
                    until: Some("today".to_owned()),
                    all_users: false,
                },
                Reading::Last(5),
                "--reverse --since=1 hour ago --until=today -t styxy STYXY_ACTION=deny \
                 STYXY_SERVICE_TYPE=dev STYXY_PORT=3000 STYXY_PROJECT_PATH=/home/dev/my shop \
                 STYXY_INSTANCE_ID=agent-7",
            ),
            (
                Query { since: Some("-2h".to_owned()), ..Query::default() },
                Reading::Follow(None),
                "--follow --lines=all --since=-2h -t styxy",
            ),
        ] {
            let shown = query.arguments(reading, &mine).join(" ");
            let line = line.replace("-t styxy", whose).replace("--for -t everybody", "-t styxy");
            assert_eq!(shown, format!("{START} {line}"));
        }
    }

    #[test]
    fn a_time_that_json_shows_is_one_that_every_journalctl_takes() {
        for (shown, given) in [
            ("2026-11-23T12:06:06.817Z", "@1795435566.817000"),
            ("2026-11-23T13:06:06+01:00", "@1795435566.000000"),
            ("2026-11-23 12:06:06", "2026-11-23 12:06:06"),
            ("yesterday", "yesterday"),
        ] {
            assert_eq!(moment(shown), given);
        }
    }

    #[test]
    fn an_event_matches_if_one_of_each_list_is_so() {
        let entry = |json: &str| Entry::read(json.as_bytes()).unwrap();
        let event = entry(
            r#"{"STYXY_ACTION": "release", "STYXY_PORT": 3000, "STYXY_SERVICE_TYPE": "dev"}"#,
        );
        let query = |actions: &[&str], ports: &[u64]| Query {
            actions: words(actions),
            ports: ports.iter().filter_map(|port| Port::new(*port)).collect(),
            ..Query::default()
        };
        assert!(Query::default().matches(&event));
        assert!(query(&["allocate", "release"], &[]).matches(&event));
        assert!(query(&["release"], &[3001, 3000]).matches(&event));
        assert!(!query(&["allocate"], &[3000]).matches(&event));
        assert!(!query(&["release"], &[300]).matches(&event));
        let of_a_project =
            Query { projects: vec!["/home/dev".parse().unwrap()], ..Query::default() };
        assert!(!of_a_project.matches(&event));
    }

    #[test]
    fn times_of_people_are_understood_without_a_journal() {
        let now: Zoned = "2026-11-23T12:00:00+01:00[+01:00]".parse().unwrap();
        for (text, meant) in [
            ("now", Some("2026-11-23T11:00:00.000Z")),
            ("today", Some("2026-11-22T23:00:00.000Z")),
            ("yesterday", Some("2026-11-21T23:00:00.000Z")),
            ("tomorrow", Some("2026-11-23T23:00:00.000Z")),
            ("2026-11-20", Some("2026-11-19T23:00:00.000Z")),
            ("2026-11-20 09:30", Some("2026-11-20T08:30:00.000Z")),
            ("2026-11-20 09:30:15", Some("2026-11-20T08:30:15.000Z")),
            ("2026-11-20T09:30:15.250Z", Some("2026-11-20T09:30:15.250Z")),
            ("09:30", Some("2026-11-23T08:30:00.000Z")),
            ("@1795435566.5", Some("2026-11-23T12:06:06.500Z")),
            ("1 hour ago", Some("2026-11-23T10:00:00.000Z")),
            ("-2h", Some("2026-11-23T09:00:00.000Z")),
            ("90 min ago", Some("2026-11-23T09:30:00.000Z")),
            ("2 days ago", Some("2026-11-21T11:00:00.000Z")),
            ("1 week ago", Some("2026-11-16T11:00:00.000Z")),
            ("when it broke", None),
            ("", None),
        ] {
            let found = understood(text, &now).map(|time| time.to_string());
            assert_eq!(found.as_deref(), meant, "{text}");
        }
    }
}
