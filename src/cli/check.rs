use clap::Args;
use serde_json::Value as Json;

use super::{
    Output, Stop, ask,
    holders::{Holder, IGNORES_PORT, elsewhere, holders, instead},
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
    pub(super) fn run(self) -> Result<(), Stop> {
        let Checked { answer, holders, elsewhere } = check(self.port, self.protocol)?;
        if self.output.json {
            print_json(&answer)?;
        } else {
            for line in lines(&answer, &holders) {
                print(&line)?;
            }
            if let Some(instead) = instead(&elsewhere) {
                print(&format!("nothing listens on it: {instead}; {IGNORES_PORT}"))?;
            }
        }
        if answer["available"] == true { Ok(()) } else { Err(Stop::No) }
    }
}

/// What is found of a port.
pub(super) struct Checked {
    /// All of it, as `--json` shows it.
    pub(super) answer: Json,
    /// Who listens, or else is in the way.
    holders: Vec<Holder>,
    /// Where its owner listens instead.
    elsewhere: Vec<Holder>,
}

/// Why a port could not be had, with the program that has it; `None` if it can by now.
pub(super) fn why_not(port: Port, protocol: Protocol) -> Option<String> {
    let Checked { answer, holders, .. } = check(port, protocol).ok()?;
    (answer["available"] == false).then(|| match (answer["reason"].as_str(), holders.first()) {
        (Some("in_use"), Some(holder)) => holder.sentence(&holder.short()),
        (_, Some(holder)) if is_orphaned(&answer) => {
            format!("{}; {}", text(&answer, "message"), still_listens(&holder.short()))
        }
        _ => text(&answer, "message").to_owned(),
    })
}

/// The program that listens on a port.
pub(super) fn who_listens(port: Port, protocol: Protocol) -> Option<String> {
    let holders = holders(listeners(PortRange::only(port), protocol).ok()?);
    holders.first().map(Holder::short)
}

/// Asks about a port; the answer says who listens, too.
pub(super) fn check(port: Port, protocol: Protocol) -> Result<Checked, Stop> {
    let mut answer = ask(&Call::Check { port, protocol })?;
    // The service's sandbox hides other processes, so it is looked for here. The answer is good
    // without it, too.
    let listening = listeners(PortRange::only(port), protocol).map(holders).ok();
    let json = |holders: &Vec<Holder>| holders.iter().map(Holder::json).collect();
    answer["listeners"] = listening.as_ref().map_or(Json::Null, json);
    let mut holders = listening.unwrap_or_default();
    if holders.is_empty() && matches!(answer["in_use_by"].as_str(), Some("bound" | "connection")) {
        holders = in_the_way(port).map(self::holders).unwrap_or_default();
        answer["holders"] = json(&holders);
    }
    let elsewhere = elsewhere_of(&answer);
    if !elsewhere.is_empty() {
        answer["elsewhere"] = json(&elsewhere);
    }
    Ok(Checked { answer, holders, elsewhere })
}

/// Where the owner of a leased port listens that nothing listens on.
fn elsewhere_of(answer: &Json) -> Vec<Holder> {
    if answer["listening"] == true || answer["lease"]["pid"].is_null() {
        return Vec::new();
    }
    // The answer is good without it, too.
    let leases = ask(&Call::List { filter: Fields::default() }).unwrap_or_default();
    elsewhere(&answer["lease"], leases.as_array().map(Vec::as_slice).unwrap_or_default())
}

/// The service's words and, better or in addition, who has the port.
fn lines(answer: &Json, holders: &[Holder]) -> Vec<String> {
    let is_known = !holders.is_empty() && answer["reason"] == "in_use";
    if is_known {
        return holders.iter().map(|holder| holder.sentence(&holder.describe())).collect();
    }
    let mut lines = vec![text(answer, "message").to_owned()];
    lines.extend(holders.iter().map(|holder| {
        if is_orphaned(answer) {
            return still_listens(&holder.describe());
        }
        let (protocol, port) = (holder.protocol.in_words(), holder.port);
        format!("{protocol} port {port} is listened on by {}", holder.describe())
    }));
    lines
}

fn is_orphaned(answer: &Json) -> bool {
    answer["lease"]["state"] == "orphaned"
}

fn still_listens(who: &str) -> String {
    format!("its owner is gone, but {who} still listens on it")
}
