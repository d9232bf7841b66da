//! What the front says.

use std::{collections::HashSet, ffi::OsStr, io};

use nix::errno::Errno;
use serde_json::{Value as Json, json};

use super::{
    super::{
        CliError, note,
        output::short,
        refused,
        run::{Telling, not_started},
        say, text,
    },
    TYPE,
    refusals::{not_allowed, without_filter},
};
use crate::{
    kernel::diag,
    port::{Port, Protocol},
    remap::control::{Refusal, Said, Task},
    word::visible,
};

/// Puts what the supervisor says into words.
pub(super) struct Front<'a> {
    task: &'a Task,
    program: &'a OsStr,
    telling: Telling,
    /// Why the command was not started.
    failure: Option<CliError>,
    reached: HashSet<Port>,
}

impl<'a> Front<'a> {
    pub(super) fn new(task: &'a Task, program: &'a OsStr, telling: Telling) -> Self {
        Self { task, program, telling, failure: None, reached: HashSet::new() }
    }

    /// Why the command was not started.
    pub(super) fn why_not(self) -> CliError {
        self.failure.unwrap_or(CliError::No)
    }

    pub(super) fn hear(&mut self, said: Said) {
        match said {
            Said::Started(_) => {}
            Said::Refused(refusal) => self.failure = Some(refused(why(refusal))),
            Said::NotExecuted(number) => {
                let error = io::Error::from_raw_os_error(number);
                self.failure = Some(not_started(self.program, &error));
            }
            // It was said by `styxy run`.
            Said::Mapped { .. } if self.task.guarded.is_some() => {}
            Said::Mapped { mapping, lease } => {
                let mut sentence = format!("{} is really {}", mapping.asked, mapping.port);
                if mapping.asked == mapping.port {
                    sentence = format!("{} is free, and stays what it is", mapping.asked);
                }
                let service_type = text(&lease, "service_type");
                if service_type != TYPE {
                    sentence = format!("{sentence} ({service_type})");
                }
                if mapping.protocol == Protocol::Udp {
                    sentence = format!("UDP port {sentence}");
                }
                self.tell(&sentence, || lease);
            }
            Said::NotReached { port, project: Some(project) } => {
                let sentence = not_reached(port, Some(&project));
                self.tell(&sentence, || json!({"not_reached": port, "project_path": project}));
            }
            Said::NotReached { port, project: None } => {
                // If nobody listens, it is refused anyway.
                if self.reached.insert(port) && diag::is_listened(port, Protocol::Tcp) {
                    let sentence = not_reached(port, None);
                    self.tell(&sentence, || json!({"not_reached": port}));
                }
            }
            Said::NoLease(port, why) => {
                let sentence = format!("port {port} cannot be mapped: {why}");
                self.tell(&sentence, || json!({"not_mapped": port, "reason": why}));
            }
            Said::Unreadable(pid, name) => {
                let sentence = format!(
                    "{} (PID {pid}) cannot be looked at, so its ports are what they seem",
                    visible(&name)
                );
                self.tell(&sentence, || json!({"not_mapped_pid": pid, "comm": name}));
            }
            Said::Ended { left, status } => {
                use crate::remap::control::Status;
                let is_asked =
                    matches!(status, Status::Killed(signal) if [1, 15].contains(&signal));
                if !left.is_empty() && (is_asked || self.task.kills) {
                    let names: Vec<_> = left
                        .iter()
                        .map(|(pid, name)| format!("{} ({pid})", visible(name)))
                        .collect();
                    let sentence = format!(
                        "still running: {}; --kill-tree ends them with the command",
                        names.join(", ")
                    );
                    self.tell(&sentence, || json!({"left": left}));
                }
            }
        }
    }

    fn tell(&self, sentence: &str, line: impl FnOnce() -> Json) {
        if self.telling.quiet {
            return;
        }
        if self.telling.json {
            let mut line = line();
            line["message"] = sentence.into();
            note(&line);
        } else {
            say(&sentence);
        }
    }
}

/// Why a port is not reached on the localhost of a project: it belongs to another one, or is the machine's.
pub(in crate::cli) fn not_reached(port: Port, project: Option<&str>) -> String {
    match project {
        Some(project) => {
            format!("port {port} belongs to {}, and is not reached from here", short(project))
        }
        None => format!(
            "port {port} of this machine is not reached from here: add --reach {port}, or write \"remap\": \
             {{\"reach\": [{port}]}} into styxy.json"
        ),
    }
}

fn why(refusal: Refusal) -> String {
    match refusal {
        Refusal::NoFilter(number) => without_filter(Errno::from_raw(number)),
        Refusal::Supervised => "this process has a seccomp filter with a supervisor already, as containers and other tools set one, and there \
                                can be only one: run the command outside of it"
            .to_owned(),
        Refusal::NotAllowed(number) => not_allowed(Errno::from_raw(number)),
        Refusal::NoLease(why) | Refusal::System(why) => why,
    }
}
