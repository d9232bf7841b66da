use clap::Args;
use serde_json::Value as Json;

use super::{
    CliError, Output, ask,
    port_users::{IGNORES_PORT, PortUser, elsewhere, instead, users},
    print, print_json, text,
};
use crate::{
    client::Call,
    kernel::listeners::{in_the_way, listeners},
    port::{Port, PortRange, Protocol},
    value::Fields,
};

/// Check whether a port is free, and if not, which lease or program has it; exit code 1 if it is not free
#[derive(Debug, Args)]
pub(super) struct Check {
    /// The port
    port: Port,
    /// tcp, udp or both
    #[arg(long, default_value_t = Protocol::Tcp)]
    protocol: Protocol,
    #[command(flatten)]
    output: Output,
}

impl Check {
    pub(super) fn run(self) -> Result<(), CliError> {
        let Checked { answer, users, elsewhere } = check(self.port, self.protocol)?;
        if self.output.json {
            print_json(&answer)?;
        } else {
            for line in lines(&answer, &users) {
                print(&line)?;
            }
            if let Some(instead) = instead(&elsewhere) {
                print(&format!("nothing listens on it: {instead}; {IGNORES_PORT}"))?;
            }
        }
        if answer["available"] == true { Ok(()) } else { Err(CliError::No) }
    }
}

/// What is found of a port.
pub(super) struct Checked {
    /// All of it, as `--json` shows it.
    pub(super) answer: Json,
    /// Who listens, or else is in the way.
    users: Vec<PortUser>,
    /// Where its owner listens instead.
    elsewhere: Vec<PortUser>,
}

/// Why a port could not be had, with the program that has it; `None` if it can by now.
pub(super) fn why_not(port: Port, protocol: Protocol) -> Option<String> {
    let Checked { answer, users, .. } = check(port, protocol).ok()?;
    (answer["available"] == false).then(|| match (answer["reason"].as_str(), users.first()) {
        (Some("in_use"), Some(user)) => user.sentence(&user.short()),
        (_, Some(user)) if is_orphaned(&answer) => {
            format!("{}; {}", text(&answer, "message"), still_listens(&user.short()))
        }
        _ => text(&answer, "message").to_owned(),
    })
}

/// The program that listens on a port.
pub(super) fn who_listens(port: Port, protocol: Protocol) -> Option<String> {
    let users = users(listeners(PortRange::only(port), protocol).ok()?);
    users.first().map(PortUser::short)
}

/// Asks about a port; the answer says who listens, too.
pub(super) fn check(port: Port, protocol: Protocol) -> Result<Checked, CliError> {
    let mut answer = ask(&Call::Check { port, protocol })?;
    // The service's sandbox hides other processes, so it is looked for here. The answer is good
    // without it, too.
    let listening = listeners(PortRange::only(port), protocol).map(users).ok();
    let json = |users: &Vec<PortUser>| users.iter().map(PortUser::json).collect();
    answer["listeners"] = listening.as_ref().map_or(Json::Null, json);
    let mut users = listening.unwrap_or_default();
    if users.is_empty() && matches!(answer["in_use_by"].as_str(), Some("bound" | "connection")) {
        users = in_the_way(port).map(self::users).unwrap_or_default();
        answer["holders"] = json(&users);
    }
    let elsewhere = elsewhere_of(&answer);
    if !elsewhere.is_empty() {
        answer["elsewhere"] = json(&elsewhere);
    }
    Ok(Checked { answer, users, elsewhere })
}

/// Where the owner of a leased port listens that nothing listens on.
fn elsewhere_of(answer: &Json) -> Vec<PortUser> {
    if answer["listening"] == true || answer["lease"]["pid"].is_null() {
        return Vec::new();
    }
    // The answer is good without it, too.
    let leases = ask(&Call::List { filter: Fields::default() }).unwrap_or_default();
    elsewhere(&answer["lease"], leases.as_array().map(Vec::as_slice).unwrap_or_default())
}

/// The service's words and, better or in addition, who has the port.
fn lines(answer: &Json, users: &[PortUser]) -> Vec<String> {
    let is_known = !users.is_empty() && answer["reason"] == "in_use";
    if is_known {
        return users.iter().map(|user| user.sentence(&user.describe())).collect();
    }
    let mut lines = vec![text(answer, "message").to_owned()];
    lines.extend(users.iter().map(|user| {
        if is_orphaned(answer) {
            return still_listens(&user.describe());
        }
        let (protocol, port) = (user.protocol.in_words(), user.port);
        format!("{protocol} port {port} is listened on by {}", user.describe())
    }));
    lines
}

fn is_orphaned(answer: &Json) -> bool {
    answer["lease"]["state"] == "orphaned"
}

fn still_listens(who: &str) -> String {
    format!("its owner is gone, but {who} still listens on it")
}
