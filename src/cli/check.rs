use clap::Args;
use serde_json::Value as Json;

use super::{
    CliError, Output, ask,
    lease::found,
    port_users::{IGNORES_PORT, PortUser, elsewhere, instead, users},
    print, print_json, short, text,
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
        let checked = check(self.port, self.protocol)?;
        if self.output.json {
            print_json(&checked.answer)?;
        } else {
            checked.lines().iter().try_for_each(|line| print(line))?;
        }
        if checked.answer["available"] == true { Ok(()) } else { Err(CliError::No) }
    }
}

/// The result of checking a port.
pub(super) struct Checked {
    /// The complete answer, as `--json` prints it.
    pub(super) answer: Json,
    /// The programs that listen on the port, or else those that block it without listening.
    users: Vec<PortUser>,
    /// The ports that the owner of its lease listens on instead.
    elsewhere: Vec<PortUser>,
}

impl Checked {
    /// The result for people.
    fn lines(&self) -> Vec<String> {
        let mut lines = lines(&self.answer, &self.users);
        lines.extend(asked_for(&self.answer["asked_by"]));
        lines.extend(
            instead(&self.elsewhere)
                .map(|instead| format!("nothing listens on it: {instead}; {IGNORES_PORT}")),
        );
        lines
    }
}

/// What is said about the port of a lease.
pub(super) fn lines_about(lease: &Json) -> Result<Vec<String>, CliError> {
    let port = lease["port"].as_u64().and_then(Port::new);
    let (Some(port), Ok(protocol)) = (port, text(lease, "protocol").parse()) else {
        return Ok(Vec::new());
    };
    Ok(check(port, protocol)?.lines())
}

/// Why a port was not granted, with the program that uses it; `None` if it is available by now.
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

/// Why it is another port than the requested one; `None` if it is that one.
pub(super) fn why_another(asked: Port, got: &Json, protocol: Protocol) -> Option<String> {
    if *got == asked.get() {
        return None;
    }
    // If it is free by now, it was in use a moment ago.
    Some(why_not(asked, protocol).unwrap_or_else(|| format!("port {asked} was in use")))
}

/// The program that listens on a port.
pub(super) fn who_listens(port: Port, protocol: Protocol) -> Option<String> {
    let users = users(listeners(PortRange::only(port), protocol).ok()?);
    users.first().map(PortUser::short)
}

/// Asks the service about a port, and adds the programs that listen on it to the answer.
pub(super) fn check(port: Port, protocol: Protocol) -> Result<Checked, CliError> {
    let mut answer = ask(&Call::Check { port, protocol })?;
    // The service's sandbox hides other processes, so the listeners are looked for here. The answer is useful
    // without them, too.
    let listening = listeners(PortRange::only(port), protocol).map(users).ok();
    let json = |users: &Vec<PortUser>| users.iter().map(PortUser::json).collect();
    answer["listeners"] = listening.as_ref().map_or(Json::Null, json);
    let mut users = listening.unwrap_or_default();
    if users.is_empty() && matches!(answer["in_use_by"].as_str(), Some("bound" | "connection")) {
        users = in_the_way(port).map(self::users).unwrap_or_default();
        answer["holders"] = json(&users);
    }
    let mut filter = Fields::default();
    filter.put("asked", port.get());
    // The answer is useful without this, too.
    let mut mappings = found(filter).unwrap_or_default();
    mappings.retain(|lease| is_part(text(lease, "protocol"), protocol));
    if !mappings.is_empty() {
        answer["asked_by"] = mappings.into();
    }
    let elsewhere = elsewhere_of(&answer);
    if !elsewhere.is_empty() {
        answer["elsewhere"] = json(&elsewhere);
    }
    Ok(Checked { answer, users, elsewhere })
}

/// Whether a protocol is that one, or a part of it.
fn is_part(protocol: &str, of: Protocol) -> bool {
    of.parts().iter().any(|part| part.as_str() == protocol)
}

/// What is said of the projects whose programs ask for the port, and have another one.
fn asked_for(mappings: &Json) -> impl Iterator<Item = String> {
    mappings.as_array().into_iter().flatten().map(|lease| {
        let project = short(text(lease, "project_path"));
        format!("asked for by {project}, really {}", lease["port"])
    })
}

/// The ports that the owner of a lease listens on, if nothing listens on the leased port.
fn elsewhere_of(answer: &Json) -> Vec<PortUser> {
    if answer["listening"] == true || answer["lease"]["pid"].is_null() {
        return Vec::new();
    }
    // A failure is ignored: the answer is useful without this, too.
    let leases = ask(&Call::List { filter: Fields::default() }).unwrap_or_default();
    elsewhere(&answer["lease"], leases.as_array().map(Vec::as_slice).unwrap_or_default())
}

/// The service's message, replaced or followed by the programs that use the port.
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
