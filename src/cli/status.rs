use clap::Args;
use serde_json::Value as Json;

use super::{Output, Stop, block_on, counted, print, print_json, text};
use crate::client::{self, Call, Way};

/// Tell how the service is doing
#[derive(Debug, Args)]
pub(super) struct Status {
    #[command(flatten)]
    output: Output,
}

impl Status {
    pub(super) fn run(self) -> Result<(), Stop> {
        let (mut status, way) = match block_on(client::call_running(&Call::Status))?? {
            Ok(answer) => answer,
            Err(why) => {
                if self.output.json {
                    return print_json(&serde_json::json!({"running": false, "reason": why}));
                }
                return print(&format!("no service runs, and the next command starts one ({why})"));
            }
        };
        status["transport"] = way.as_str().into();
        if self.output.json {
            status["running"] = true.into();
            return print_json(&status);
        }
        print(&describe(&status, way))
    }
}

fn describe(status: &Json, way: Way) -> String {
    let number = |key: &str| status[key].as_u64().unwrap_or(0);
    let mut lines = vec![
        format!(
            "styxy {} runs as process {} and is reached over {}",
            text(status, "version"),
            status["pid"],
            way.describe()
        ),
        format!(
            "{}, {}, {}; {} of {} in {} are free",
            counted(number("leases"), "lease"),
            counted(number("guards"), "guard"),
            counted(number("remembered_ports"), "remembered port"),
            number("free"),
            counted(number("ports"), "port"),
            counted(number("service_types"), "service type")
        ),
    ];
    if status["auto_allocation"] == false {
        lines.push("unknown service types are refused".to_owned());
    }
    lines.push(confirmed(status).unwrap_or_else(|| text(status, "audit_note").to_owned()));
    if let Some(problem) = status["state_problem"].as_str() {
        lines.push(format!("the state cannot be used, so nothing is granted: {problem}"));
    }
    let problems = status["config_problems"].as_array().map(Vec::as_slice).unwrap_or_default();
    if !problems.is_empty() {
        lines.push("the configuration is wrong, and the last good one stays in force:".to_owned());
        lines.extend(problems.iter().filter_map(Json::as_str).map(|p| format!("  {p}")));
    }
    lines.retain(|line| !line.is_empty());
    lines.join("\n")
}

/// How many events are in the journal, where that is confirmed.
pub(super) fn confirmed(status: &Json) -> Option<String> {
    let pending = status["audit_pending"].as_u64().unwrap_or(0);
    (status["audit_confirmed"] == true).then(|| match pending {
        0 => "every event is in the journal".to_owned(),
        _ => format!("on their way to the journal: {}", counted(pending, "event")),
    })
}
