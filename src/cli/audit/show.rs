//! Events as text for people.

use jiff::{Zoned, tz::TimeZone};
use unicode_width::UnicodeWidthStr;

use super::super::{
    short,
    table::{self, Column, Table, end_of},
};
use crate::{audit::past::Entry, time::Timestamp};

const COLUMNS: [Column; 8] = [
    table::short("TIME"),
    table::short("ACTION"),
    table::short("PORT"),
    table::text("TYPE"),
    table::text("NAME"),
    table::path("PROJECT"),
    table::text("WHO"),
    table::text("REASON"),
];

/// The time and the time zone that the text depends on.
pub(super) struct Here {
    /// The current time in the user's time zone.
    pub now: Zoned,
}

impl Here {
    pub fn new() -> Self {
        Self { now: Timestamp::now().to_calendar().to_zoned(TimeZone::system()) }
    }

    /// A time in the user's time zone.
    pub fn local(&self, time: Timestamp) -> Zoned {
        time.to_calendar().to_zoned(self.now.time_zone().clone())
    }

    fn time(&self, time: Timestamp) -> String {
        let time = self.local(time);
        let is_of_this_year = time.year() == self.now.year();
        let format = if is_of_this_year { "%b %d %H:%M:%S" } else { "%Y-%m-%d %H:%M" };
        time.strftime(format).to_string()
    }

    fn cells(&self, event: &Entry) -> [String; 8] {
        [
            self.time(event.time),
            event.get("action").to_owned(),
            port(event),
            event.get("service_type").to_owned(),
            event.get("service_name").to_owned(),
            short(event.get("project_path")),
            who(event),
            why(event).to_owned(),
        ]
    }

    /// The events as a table, one line each.
    pub fn table(&self, events: &[Entry]) -> String {
        let mut table = Table::new(COLUMNS);
        for event in events {
            table.row(self.cells(event));
        }
        table.draw()
    }

    /// A single event as a line of fixed column widths, when the following events are not known yet.
    pub fn line(&self, event: &Entry) -> String {
        const WIDTHS: [usize; 8] = [16, 15, 9, 10, 8, 20, 14, 0];
        let cells = self.cells(event).into_iter().zip(WIDTHS).enumerate();
        let cells = cells.map(|(index, (cell, width))| {
            let cell = if index == 5 { end_of(&cell, width) } else { cell };
            let room = width.saturating_sub(cell.width());
            cell + &" ".repeat(room)
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    }
}

/// `3000/tcp`, or the range of a type.
fn port(event: &Entry) -> String {
    match (event.get("port"), event.get("protocol"), event.get("range")) {
        ("", _, range) => range.to_owned(),
        (port, "", _) => port.to_owned(),
        (port, protocol, _) => format!("{port}/{protocol}"),
    }
}

/// `comm[pid]` of the client; empty for what the service did by itself.
fn who(event: &Entry) -> String {
    match (event.get("client_comm"), event.get("client_pid")) {
        // The parent of a `styxy` command says more than the command itself.
        ("styxy", _) if !event.get("client_parent").is_empty() => {
            event.get("client_parent").to_owned()
        }
        (comm, "") => comm.to_owned(),
        (comm, pid) => format!("{comm}[{pid}]"),
    }
}

/// The reason; without one, the whole message if the event is not about a service type.
fn why(event: &Entry) -> &str {
    match (event.get("reason"), event.get("service_type")) {
        ("", "") => event.get("message"),
        (reason, _) => reason,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn here() -> Here {
        Here { now: "2026-11-23T12:00:00+01:00[+01:00]".parse().unwrap() }
    }

    fn entry(json: &str) -> Entry {
        Entry::read(json.as_bytes()).unwrap()
    }

    const GRANT: &str = r#"{"STYXY_ACTION": "allocate", "STYXY_PORT": "3000", "STYXY_PROTOCOL": "tcp",
        "STYXY_SERVICE_TYPE": "dev", "STYXY_SERVICE_NAME": "web", "STYXY_CLIENT_COMM": "busctl",
        "STYXY_PROJECT_PATH": "/srv/shop", "STYXY_CLIENT_PID": "4711", "MESSAGE": "Granted",
        "STYXY_TIME": "2026-11-23T08:12:04.531Z"}"#;
    const RELOAD: &str = r#"{"STYXY_ACTION": "config_reload", "MESSAGE": "The configuration changed",
        "STYXY_TIME": "2025-11-23T08:12:04.531Z"}"#;

    #[test]
    fn an_event_is_a_line_of_when_what_where_who_and_why() {
        let here = here();
        let (grant, reload) = (here.cells(&entry(GRANT)), here.cells(&entry(RELOAD)));
        let what = ["allocate", "3000/tcp", "dev", "web", "/srv/shop", "busctl[4711]", ""];
        assert_eq!(
            (grant[0].as_str(), &grant[1..]),
            ("Nov 23 09:12:04", &what.map(str::to_owned)[..])
        );
        let what = ["config_reload", "", "", "", "", "", "The configuration changed"];
        assert_eq!(
            (reload[0].as_str(), &reload[1..]),
            ("2025-11-23 09:12", &what.map(str::to_owned)[..])
        );
        assert_eq!(
            here.line(&entry(GRANT)),
            "Nov 23 09:12:04   allocate         3000/tcp   dev         web       /srv/shop             busctl[4711]"
        );
        assert!(here.line(&entry(RELOAD)).ends_with(" The configuration changed"));
    }

    #[test]
    fn what_is_not_known_is_left_out() {
        let here = here();
        let cells = |json| here.cells(&entry(json));
        let range = cells(
            r#"{"STYXY_ACTION": "auto_allocate", "STYXY_RANGE": "10000-10009", "MESSAGE": "New",
                "STYXY_SERVICE_TYPE": "grafana", "STYXY_CLIENT_COMM": "node"}"#,
        );
        assert_eq!(range[2..], ["10000-10009", "grafana", "", "", "node", ""]);
        let odd = cells(
            r#"{"STYXY_ACTION": "deny", "STYXY_PORT": "80", "STYXY_CLIENT_PID": "7",
                "STYXY_REASON": "PortInUse", "MESSAGE": "Refused"}"#,
        );
        assert_eq!(odd[2..], ["80", "", "", "", "[7]", "PortInUse"]);
    }
}
