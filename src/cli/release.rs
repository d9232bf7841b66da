use std::io::{self, IsTerminal, Write};

use clap::Args;
use serde_json::{Value as Json, json};

use super::{
    CliError, Output, ask,
    check::who_listens,
    confirm, counted,
    lease::{found, named, service},
    list::owner,
    print, print_json, print_list,
    project::Project,
    refused, text,
    typos::refuse_typos,
    usage,
};
use crate::{
    client::{Call, Failure},
    error::{Error, ErrorKind},
    port::{Port, Protocol},
    value::Fields,
};

/// Release leased ports
#[derive(Debug, Args)]
#[group(skip)]
pub(super) struct Release {
    /// Ports, names of services of this project, or ids of leases or their first digits (at least 4), as
    /// `styxy list` shows them
    #[arg(value_name = "PORT|NAME|LEASE_ID")]
    which: Vec<String>,
    /// All leases of this project; without a path, the current one
    #[allow(
        clippy::option_option,
        reason = "clap's word for an option whose value may be left out"
    )]
    #[arg(long, value_name = "PATH")]
    project: Option<Option<Project>>,
    /// All leases of this class of service
    #[arg(long = "type", value_name = "TYPE")]
    service_type: Option<String>,
    /// All leases of this agent, session or tool
    #[arg(long, value_name = "ID")]
    instance: Option<String>,
    /// Only those of this protocol
    #[arg(long)]
    protocol: Option<Protocol>,
    /// Also end leases that a command uses
    #[arg(long)]
    all: bool,
    /// Do not ask for confirmation
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    output: Output,
}

impl Release {
    pub(super) fn run(self) -> Result<(), CliError> {
        let mut common = Fields::default();
        let project = self.project.as_ref().map(|named| Project::or_current(named.as_ref()));
        let project = project.transpose().map_err(|e| usage(&e))?;
        common.put_some("project_path", project.as_ref().map(|p| p.path().as_str()));
        common.put_some("service_type", self.service_type.clone());
        common.put_some("instance_id", self.instance.clone());
        common.put_some("protocol", self.protocol.map(Protocol::as_str));
        if self.which.is_empty() {
            if common.0.iter().all(|(key, _)| *key == "protocol") {
                return Err(usage(
                    &Error::invalid("no lease is named")
                        .suggest("name a port or a lease, or give --project, --type or --instance"),
                ));
            }
            return self.release_matching(common, project.as_ref());
        }
        let (mut leases, mut failures): (Vec<Json>, Vec<CliError>) = Default::default();
        for which in &self.which {
            let found = match named(which, common.clone()) {
                Ok(found) => found,
                Err(stop @ CliError::Failure(Failure::Refused { .. })) => {
                    failures.push(stop);
                    continue;
                }
                Err(stop) => return Err(stop),
            };
            for lease in found {
                if leases.iter().all(|known| known["lease_id"] != lease["lease_id"]) {
                    leases.push(lease);
                }
            }
        }
        self.release_each(&leases, failures)
    }

    /// Releases the matching leases, with `--all` by one call: all of them, or none.
    fn release_matching(&self, filter: Fields, project: Option<&Project>) -> Result<(), CliError> {
        let leases = found(filter.clone())?;
        if leases.is_empty() {
            refuse_typos(&filter, project)?;
            return self.tell(&leases);
        }
        // Such a call is refused if one of them is that of a socket of systemd.
        if !self.all || leases.iter().any(is_of_socket) {
            return self.release_each(&leases, Vec::new());
        }
        if leases.len() > 1 && !self.yes && !agreed(&leases)? {
            return Err(CliError::No);
        }
        ask(&Call::ReleaseMatching { filter })?;
        self.tell(&leases)
    }

    /// Releases as many of these leases as possible; `failures` are the errors of finding them.
    fn release_each(&self, leases: &[Json], mut failures: Vec<CliError>) -> Result<(), CliError> {
        if self.which.len().max(1) < leases.len() && !self.yes && !agreed(leases)? {
            return Err(CliError::No);
        }
        let mut released = Vec::new();
        for lease in leases {
            match release_one(lease, self.all) {
                Ok(lease) => released.push(lease),
                // What a filter matches may end at any time, as it was to.
                Err(CliError::Failure(gone))
                    if self.which.is_empty() && gone.is(ErrorKind::NoSuchLease) => {}
                Err(stop) => failures.push(stop),
            }
        }
        if !released.is_empty() || failures.is_empty() {
            self.tell(&released)?;
        }
        let last = failures.pop();
        for stop in failures {
            let _ = stop.told();
        }
        last.map_or(Ok(()), Err)
    }

    /// Prints the released leases.
    fn tell(&self, leases: &[Json]) -> Result<(), CliError> {
        if !self.output.json {
            if leases.is_empty() {
                return print("no lease matches");
            }
            return print(&leases.iter().map(line).collect::<Vec<_>>().join("\n"));
        }
        let answer = |lease: &Json| {
            let mut answer = json!({"port": lease["port"], "lease_id": lease["lease_id"]});
            if lease["kept"].is_object() {
                answer["kept"] = true.into();
            }
            answer
        };
        match leases {
            // A single named lease is not printed as a list.
            [only] if self.which.len() == 1 => print_json(&answer(only)),
            all => print_list("leases", all.iter().map(answer).collect::<Vec<_>>()),
        }
    }
}

/// Releases a lease, with `all` for all who hold it. Returns it, with `kept` if its command still holds it.
fn release_one(lease: &Json, all: bool) -> Result<Json, CliError> {
    let mut lease = lease.clone();
    let mut filter = Fields::default();
    filter.put("lease_id", text(&lease, "lease_id"));
    // The id of a share comes without the fields of a lease.
    if all && lease["service_type"].is_string() {
        ask(&Call::ReleaseMatching { filter })?;
        return Ok(lease);
    }
    lease["port"] = release(&lease)?["port"].take();
    if lease["claim"] == true {
        lease["kept"] = found(filter)?.into_iter().next().unwrap_or_default();
    }
    Ok(lease)
}

/// Releases a lease as if it were named by its id, without `--all`, and says so.
pub(super) fn released(lease: &Json) -> Result<String, CliError> {
    release_one(lease, false).map(|lease| line(&lease))
}

/// Whether a unit owns it that systemd listens for.
fn is_of_socket(lease: &Json) -> bool {
    lease["state"] != "orphaned" && text(lease, "unit").ends_with(".socket")
}

/// What was released, and the program that still uses its port.
fn line(lease: &Json) -> String {
    let port = &lease["port"];
    if text(lease, "service_type").is_empty() {
        return format!("released a share of port {port}");
    }
    let line = format!("released port {port} of {}", service(lease));
    if lease["kept"].is_object() {
        let user = owner(&lease["kept"]);
        return format!(
            "{line}; {user} keeps it until it exits, or until it is released again or with --all"
        );
    }
    match still_listens(lease) {
        Some(who) => {
            let unit = lease["unit"].as_str().map(|unit| format!(" of {unit}"));
            format!("{line}; {who}{} still listens on it", unit.unwrap_or_default())
        }
        None => line,
    }
}

/// The program that still listens on a released port; looked for only if one listened before.
fn still_listens(lease: &Json) -> Option<String> {
    let port = lease["port"].as_u64().and_then(Port::new)?;
    let protocol = text(lease, "protocol").parse().ok()?;
    let was_used = ["listening", "orphaned"].contains(&text(lease, "state"));
    was_used.then(|| who_listens(port, protocol)).flatten()
}

/// Releases a lease, and returns the answer with its id.
pub(super) fn release(lease: &Json) -> Result<Json, CliError> {
    let lease_id = text(lease, "lease_id");
    let mut answer = ask(&Call::Release { lease_id: lease_id.to_owned() })?;
    answer["lease_id"] = lease_id.into();
    Ok(answer)
}

/// Shows the leases that would be released, and asks for confirmation.
fn agreed(leases: &[Json]) -> Result<bool, CliError> {
    let mut out = io::stderr().lock();
    for lease in leases {
        let project = lease["package_path"].as_str().unwrap_or(text(lease, "project_path"));
        let line = format!("port {} of {} {project}", lease["port"], service(lease));
        writeln!(out, "{}", line.trim_end())?;
    }
    let what = counted(leases.len() as u64, "lease");
    if !io::stdin().is_terminal() {
        return Err(refused(format!("this would release {what}: add --yes to do so")));
    }
    Ok(confirm(&format!("Release {what}?"))?)
}
