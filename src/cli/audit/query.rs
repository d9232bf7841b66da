//! A query for events, as a journalctl(1) command line, or as a filter for entries that were already read.

use clap::{Args, builder::PossibleValuesParser};
use jiff::{Span, Zoned, civil};

use super::entry::Entry;
use crate::{
    audit::event::ACTIONS, cli::project::Project, kernel::process, lease::InstanceId, port::Port,
    service_type::ServiceTypeName, state, surroundings::user, time::Timestamp, word::disturbs,
};

/// The question: of each list one must be so, if there is any.
#[derive(Clone, Debug, Default, Args)]
pub(in crate::cli) struct Query {
    /// Only these actions
    #[arg(long = "action", value_name = "ACTION", value_delimiter = ',')]
    #[arg(value_parser = PossibleValuesParser::new(ACTIONS))]
    pub actions: Vec<String>,
    /// Only events of these classes of service
    #[arg(long = "type", value_name = "TYPE", value_delimiter = ',')]
    pub types: Vec<ServiceTypeName>,
    /// Only events of these ports
    #[arg(long = "port", value_name = "PORT", value_delimiter = ',')]
    pub ports: Vec<Port>,
    /// Only events of these projects
    #[arg(long = "project", value_name = "PATH")]
    pub projects: Vec<Project>,
    /// Only events of these agents, sessions or tools
    #[arg(long = "instance", value_name = "ID", value_delimiter = ',')]
    pub instances: Vec<InstanceId>,
    /// Only events that reached the journal since then, as journalctl takes it: yesterday, "1 hour ago", "2026-11-23 09:00"
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub since: Option<String>,
    /// Only events until then
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub until: Option<String>,
    /// Also the events of other users, as far as this one may read them, and those of any other state
    ///
    /// Without it an event counts if journald says that it comes from this user, and if it has the name of
    /// this user's state folder. Only the first is certain: whoever may write to the journal can send what
    /// looks like an event of styxy. To read the events of others takes root, or the group systemd-journal.
    #[arg(long)]
    pub all_users: bool,
}

/// Identifies this user's own events in a journal that others write to, too.
#[derive(Clone, Debug)]
pub(super) struct Mine {
    uid: u32,
    /// The ids of the state folder; none if it does not exist yet.
    state_ids: Vec<String>,
}

impl Mine {
    /// Those of the calling user.
    pub fn here() -> Self {
        let user = user();
        let state_ids = user.state().map(|folder| state::ids(&folder)).unwrap_or_default();
        Self { uid: process::outer_uid(user.uid()), state_ids }
    }

    fn matches(&self) -> impl Iterator<Item = String> {
        let state_ids = self.state_ids.iter().map(|id| format!("STYXY_STATE_ID={id}"));
        std::iter::once(format!("_UID={}", self.uid)).chain(state_ids)
    }
}

/// How to read the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    /// All events, the oldest first.
    All,
    /// The last N events, the newest first.
    Last(usize),
    /// The existing events, or the last N of them, and then new ones.
    Follow(Option<usize>),
}

impl Query {
    /// The arguments for `journalctl`. Several values of a field are alternatives; different fields must all match.
    pub(super) fn arguments(&self, reading: Reading, mine: &Mine) -> Vec<String> {
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
            (
                "project_path",
                self.projects.iter().map(|project| project.path().to_string()).collect(),
            ),
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

/// Parses a time of the command line, where journalctl cannot do it: the common forms of systemd.time(7).
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

/// A command line for bash and similar shells.
pub(super) fn shell_line(program: &str, arguments: &[String]) -> String {
    let words = arguments.iter().map(|argument| quoted(argument));
    [program.to_owned()].into_iter().chain(words).collect::<Vec<_>>().join(" ")
}

fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_-=+@%:,./".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    if !word.chars().any(disturbs) {
        return format!("'{}'", word.replace('\'', r"'\''"));
    }
    let mut text = "$'".to_owned();
    for c in word.chars() {
        match c {
            '\'' | '\\' => text.extend(['\\', c]),
            c if disturbs(c) => {
                let mut bytes = [0; 4];
                let bytes = c.encode_utf8(&mut bytes).bytes();
                text.extend(bytes.map(|byte| format!("\\x{byte:02x}")));
            }
            c => text.push(c),
        }
    }
    text + "'"
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    const START: &str = "journalctl --quiet --no-pager --all --output=json";

    fn words(values: &[&str]) -> Vec<String> {
        values.iter().map(|&value| value.to_owned()).collect()
    }

    #[test]
    fn each_question_is_one_line_of_journalctl() {
        let dev: ServiceTypeName = "dev".parse().unwrap();
        let shop = Project::named("/home/dev/my shop".into()).unwrap();
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
                "--reverse '--since=1 hour ago' --until=today -t styxy STYXY_ACTION=deny \
                 STYXY_SERVICE_TYPE=dev STYXY_PORT=3000 'STYXY_PROJECT_PATH=/home/dev/my shop' \
                 STYXY_INSTANCE_ID=agent-7",
            ),
            (
                Query { since: Some("-2h".to_owned()), ..Query::default() },
                Reading::Follow(None),
                "--follow --lines=all --since=-2h -t styxy",
            ),
            (
                Query { since: Some("$(reboot) 'now'".to_owned()), ..Query::default() },
                Reading::All,
                r"'--since=$(reboot) '\''now'\''' -t styxy",
            ),
        ] {
            let shown = shell_line("journalctl", &query.arguments(reading, &mine));
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
    fn a_shell_takes_the_line_as_it_was_meant_and_a_terminal_shows_it() {
        for word in ["", "a b", "it's", "$HOME `id` \"x\" \\", "*", "a\u{1b}[31m'\u{202e}\n\\b"] {
            let line = shell_line("printf", &words(&["%s", word]));
            assert!(!line.chars().any(disturbs), "{line:?}");
            let output = Command::new("bash").args(["-c", &line]).output().unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), word, "{line}");
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
        let of_a_project = Query {
            projects: vec![Project::named("/home/dev".into()).unwrap()],
            ..Query::default()
        };
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
