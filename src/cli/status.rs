use std::fmt;

use clap::Args;
use serde_json::{Value as Json, json};

use super::{
    CliError, Output, block_on, config::elsewhere, counted, print, print_json, table::folded, text,
};
use crate::{
    client::{self, Call},
    kernel::sandbox::Layer,
    lease::Transport,
    surroundings::user,
};

/// Show the state of the service
#[derive(Debug, Args)]
pub(super) struct Status {
    #[command(flatten)]
    output: Output,
}

impl Status {
    pub(super) fn run(self) -> Result<(), CliError> {
        let (mut status, transport) = match block_on(client::call_running(&Call::Status))?? {
            Ok(answer) => answer,
            Err(why) => {
                let obstacle = user().obstacle();
                if self.output.json {
                    let mut answer = json!({"running": false, "reason": why});
                    if let Some(obstacle) = obstacle {
                        answer["obstacle"] = obstacle.into();
                    }
                    return print_json(&answer);
                }
                return print(&match obstacle {
                    None => {
                        format!("the service is not running; the next command starts it ({why})")
                    }
                    Some(obstacle) => {
                        format!("the service is not running, and cannot serve: {obstacle}")
                    }
                });
            }
        };
        status["transport"] = transport.as_str().into();
        if self.output.json {
            status["running"] = true.into();
            return print_json(&status);
        }
        print(&folded(&describe(&status, transport)))
    }
}

fn describe(status: &Json, transport: Transport) -> String {
    let number = |key: &str| status[key].as_u64().unwrap_or(0);
    let free = status["free"].as_u64().map_or_else(|| "?".to_owned(), |free| free.to_string());
    let mut lines = vec![
        format!(
            "styxy {} is running (PID {}) and is reached over {}",
            text(status, "version"),
            status["pid"],
            transport.describe()
        ),
        format!(
            "{}, {}, {}; {free} of {} in {} are free",
            counted(number("leases"), "lease"),
            counted(number("guards"), "guard"),
            counted(number("remembered_ports"), "remembered port"),
            counted(number("ports"), "port"),
            counted(number("service_types"), "service type")
        ),
    ];
    if status["auto_allocation"] == false {
        lines.push("unknown service types are refused".to_owned());
    }
    if status["private"] == true {
        lines.push(PRIVATE.to_owned());
    } else {
        lines.extend(missing(status).map(|missing| sandbox_of(&missing)));
    }
    lines.extend(Limits::of(status).map(|limits| limits.to_string()));
    lines.push(confirmed(status).unwrap_or_else(|| unconfirmed(status)));
    if let Some(problem) = status["state_problem"].as_str() {
        lines.push(format!("nothing is granted: {problem}"));
    }
    let problems = status["config_problems"].as_array().map(Vec::as_slice).unwrap_or_default();
    if !problems.is_empty() {
        lines.push("the configuration has errors; the last good one stays in force:".to_owned());
        lines.extend(problems.iter().filter_map(Json::as_str).map(|p| format!("  {p}")));
    }
    let shown = status["config_shown"].as_array().map(Vec::as_slice).unwrap_or_default();
    if !shown.is_empty() {
        lines.push(
            "configuration files that the service cannot see, in force as a command showed them:"
                .to_owned(),
        );
        lines.extend(shown.iter().filter_map(Json::as_str).map(|file| format!("  {file}")));
    }
    lines.extend(status["config_elsewhere"].as_str().map(elsewhere));
    lines.retain(|line| !line.is_empty());
    lines.join("\n")
}

/// The status line in place of the sandbox's, for a service that was not started by the unit.
pub(super) const PRIVATE: &str =
    "it was started by a command, not by systemd's unit, and so has no sandbox but Landlock";

/// Why events are not confirmed, and how many are pending.
pub(super) fn unconfirmed(status: &Json) -> String {
    let note = text(status, "audit_note");
    match status["audit_pending"].as_u64() {
        Some(pending @ 1..) => format!("{note} (on the way: {})", counted(pending, "event")),
        _ => note.to_owned(),
    }
}

/// Whether all events are in the journal; `None` if events are not confirmed.
pub(super) fn confirmed(status: &Json) -> Option<String> {
    let pending = status["audit_pending"].as_u64().unwrap_or(0);
    (status["audit_confirmed"] == true).then(|| match pending {
        0 => "every event is in the journal".to_owned(),
        _ => format!("not yet confirmed in the journal: {}", counted(pending, "event")),
    })
}

/// The layers of the unit's sandbox that the running service lacks; `None` if it is too old to report them.
pub(super) fn missing(status: &Json) -> Option<Vec<Layer>> {
    let in_force = status["sandbox"].as_array()?;
    let is_missing = |layer: &Layer| !in_force.iter().any(|word| word == layer.as_str());
    Some(Layer::OF_THE_UNIT.into_iter().filter(is_missing).collect())
}

/// How far Landlock limits the running service, which does not depend on the unit.
pub(super) enum Limits<'a> {
    Full,
    Partial(&'a str),
    None(&'a str),
}

impl<'a> Limits<'a> {
    /// What the service reports; `None` if it is too old to report it.
    pub(super) fn of(status: &'a Json) -> Option<Self> {
        let note = status["landlock_note"].as_str().unwrap_or("it is not seen in force");
        let is_found =
            status["sandbox"].as_array()?.iter().any(|word| word == Layer::Landlock.as_str());
        Some(match status["landlock"].as_str()? {
            "full" if is_found => Self::Full,
            "partial" if is_found => Self::Partial(note),
            _ => Self::None(note),
        })
    }
}

impl fmt::Display for Limits<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => f.write_str(
                "Landlock lets it write only to its own directories, read only these and the system's, and start only journalctl",
            ),
            Self::Partial(note) => write!(f, "Landlock limits it partly: {note}"),
            Self::None(note) => write!(f, "Landlock does not limit it: {note}"),
        }
    }
}

/// The same as a sentence.
pub(super) fn sandbox_of(missing: &[Layer]) -> String {
    if missing.is_empty() {
        return "its sandbox keeps it from the files in the home and from capabilities, and filters its system calls"
            .to_owned();
    }
    if missing.len() == Layer::OF_THE_UNIT.len() {
        return "it has nothing of the unit's sandbox".to_owned();
    }
    let words: Vec<_> = missing
        .iter()
        .map(|layer| match layer {
            Layer::NoNewPrivileges => "it could gain privileges",
            Layer::Seccomp => "its system calls are not filtered",
            Layer::NoCapabilities => "what it executes could have capabilities",
            Layer::HiddenHome => "it can see the user's files",
            Layer::NoExec => "it can start programs that are not installed in the system",
            Layer::Landlock => "it does not limit itself",
        })
        .collect();
    format!("its sandbox is incomplete: {}", words.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_for_a_journal_that_takes_nothing_is_counted() {
        let note = "the journal takes nothing at the moment";
        let status = |pending| json!({"audit_confirmed": false, "audit_pending": pending, "audit_note": note});
        assert_eq!(confirmed(&status(3)), None);
        assert_eq!(unconfirmed(&status(3)), format!("{note} (on the way: 3 events)"));
        assert_eq!(unconfirmed(&status(0)), note);
    }

    #[test]
    fn what_the_service_does_not_find_is_missing() {
        let all: Vec<_> = Layer::OF_THE_UNIT.iter().map(|layer| layer.as_str()).collect();
        assert_eq!(missing(&json!({"sandbox": all})), Some(vec![]));
        let some = json!({"sandbox": ["no_new_privileges", "seccomp"]});
        let some = missing(&some).unwrap();
        assert_eq!(some, [Layer::NoCapabilities, Layer::HiddenHome, Layer::NoExec]);
        assert!(sandbox_of(&some).contains("it can see the user's files"));
        assert_eq!(missing(&json!({"version": "2.0.0"})), None);
    }

    #[test]
    fn only_what_the_service_feels_counts_as_landlock() {
        let of = |landlock: &str, layers: &[&str]| {
            let status = json!({"sandbox": layers, "landlock": landlock, "landlock_note": "old"});
            Limits::of(&status).unwrap().to_string()
        };
        assert!(of("full", &["landlock"]).starts_with("Landlock lets it write only"));
        assert_eq!(of("partial", &["landlock"]), "Landlock limits it partly: old");
        for (strength, layers) in [("none", &[][..]), ("full", &["seccomp"])] {
            assert_eq!(of(strength, layers), "Landlock does not limit it: old");
        }
        assert!(Limits::of(&json!({"sandbox": ["seccomp"]})).is_none());
    }
}
