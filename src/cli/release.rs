use std::io::{self, BufRead, IsTerminal, Write};

use clap::Args;
use serde_json::{Value as Json, json};

use super::{
    Output, Stop, ask, counted,
    lease::{found, named},
    print, print_json,
    project::Project,
    refused, text, usage,
};
use crate::{
    client::{Call, Failure},
    error::{Error, ErrorKind},
    port::Protocol,
    value::Fields,
};

/// Give leased ports back
#[derive(Debug, Args)]
#[group(skip)]
pub(super) struct Release {
    /// Ports, or leases: their ids, or the first digits of their ids (at least 4), as `styxy list` shows them
    #[arg(value_name = "LEASE_ID|PORT")]
    which: Vec<String>,
    /// All leases of this project; without a path, of the current one
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
    /// Do not ask, even if there are several
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    output: Output,
}

impl Release {
    pub(super) fn run(self) -> Result<(), Stop> {
        let mut common = Fields::default();
        if let Some(named) = &self.project {
            let project = Project::or_current(named.as_ref()).map_err(|e| usage(&e))?;
            common.put("project_path", project.path().as_str());
        }
        common.put_some("service_type", self.service_type.clone());
        common.put_some("instance_id", self.instance.clone());
        common.put_some("protocol", self.protocol.map(Protocol::as_str));
        let mut leases = Vec::new();
        if self.which.is_empty() {
            if common.0.iter().all(|(key, _)| *key == "protocol") {
                return Err(usage(
                    &Error::invalid("nothing is named that is to be released")
                        .suggest("give a lease or a port, or --project, --type or --instance"),
                ));
            }
            leases.extend(found(common)?);
        } else {
            for which in &self.which {
                leases.extend(named(which, common.clone())?);
            }
        }
        self.release(&leases)
    }

    fn release(&self, leases: &[Json]) -> Result<(), Stop> {
        let many = self.which.len().max(1) < leases.len();
        if many && !self.yes && !agreed(leases)? {
            return Err(Stop::No);
        }
        let mut released = Vec::new();
        for lease in leases {
            let answer = match release(lease) {
                // It ended in this moment, and that is what was wanted of all that are meant.
                Err(Stop::Failure(Failure::Refused {
                    kind: Some(ErrorKind::NoSuchLease), ..
                })) if self.which.is_empty() => {
                    continue;
                }
                answer => answer?,
            };
            if !self.output.json {
                print(&format!(
                    "released port {} of {}",
                    answer["port"],
                    text(lease, "service_type")
                ))?;
            }
            released.push(answer);
        }
        match released.as_slice() {
            _ if !self.output.json => {}
            // One that was named is answered as one.
            [only] if self.which.len() == 1 => return print_json(only),
            all => return print_json(&json!(all)),
        }
        if leases.is_empty() {
            print("no lease is meant")?;
        }
        Ok(())
    }
}

/// Releases a lease that was found.
pub(super) fn release(lease: &Json) -> Result<Json, Stop> {
    let lease_id = text(lease, "lease_id");
    let mut answer = ask(&Call::Release { lease_id: lease_id.to_owned() })?;
    answer["lease_id"] = lease_id.into();
    Ok(answer)
}

/// Shows what would go, and asks.
fn agreed(leases: &[Json]) -> Result<bool, Stop> {
    let mut out = io::stderr().lock();
    for lease in leases {
        let (service_type, project) = (text(lease, "service_type"), text(lease, "project_path"));
        writeln!(out, "port {} of {service_type} {project}", lease["port"])?;
    }
    let what = counted(leases.len() as u64, "lease");
    if !io::stdin().is_terminal() {
        return Err(refused(format!(
            "that would release {what}: say --yes if that is what you want"
        )));
    }
    write!(out, "Release {what}? [y/N] ")?;
    out.flush()?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
