use std::{os::unix::process::parent_id, str::FromStr};

use clap::Args;

use super::{Output, Stop, ask, print, print_json, project, usage};
use crate::{
    client::Call,
    error::Error,
    lease::{ProjectPath, UnitName},
    port::{Port, Protocol},
    request::{AllocateRequest, LONGEST_TTL, MOST_PORTS},
    service_type::Hold,
    value::Fields,
};

/// Lease a port, and print its number
#[derive(Debug, Args)]
pub(super) struct Allocate {
    /// The class of service: dev, api, database, …
    #[arg(value_name = "TYPE")]
    service_type: String,
    /// What the port is for, for example web; the same name gets the same port again
    #[arg(long)]
    name: Option<String>,
    /// Try this port first
    #[arg(long)]
    port: Option<Port>,
    /// Fail if the asked port cannot be had, instead of taking another
    #[arg(long, requires = "port")]
    strict: bool,
    /// tcp, udp, or both for the same number in both
    #[arg(long, default_value_t = Protocol::Tcp)]
    protocol: Protocol,
    /// Lease so many consecutive ports, all or none; each is printed on a line of its own
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=i64::from(MOST_PORTS)))]
    count: Option<u16>,
    /// How the port is kept until it is used: guard (the service keeps it bound) or none
    #[arg(long)]
    hold: Option<Hold>,
    /// Whose end ends the lease: none, parent (the process that runs this command), pid:N or unit:NAME
    #[arg(long, default_value = "none")]
    owner: Owner,
    /// End the lease after so many seconds, unless it is renewed
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=LONGEST_TTL))]
    ttl: Option<u64>,
    /// The agent, session or tool that asks
    #[arg(long, value_name = "ID")]
    instance: Option<String>,
    /// The project that the port is for [default: the git worktree of this folder, or the folder]
    #[arg(long, value_name = "PATH")]
    project: Option<String>,
    /// Print what would be granted, and change nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    output: Output,
}

impl Allocate {
    pub(super) fn run(self) -> Result<(), Stop> {
        let mut options = Fields::default();
        options.put_some("service_name", self.name);
        options.put_some("port", self.port.map(Port::get));
        if self.strict {
            options.put("strict", true);
        }
        options.put("protocol", self.protocol.as_str());
        options.put_some("instance_id", self.instance);
        options.put_some("count", self.count.map(u32::from));
        options.put_some("hold", self.hold.map(Hold::as_str));
        options.put_some("ttl", self.ttl);
        match self.owner {
            Owner::None => {}
            Owner::Pid(pid) => options.put("pid", pid),
            Owner::Unit(unit) => options.put("unit", unit.as_str()),
        }
        options.put_some("project_path", self.project.or_else(current_project));
        if self.dry_run {
            options.put("dry_run", true);
        }
        // Told before a service is looked for.
        AllocateRequest::parse(&self.service_type, options.0.clone()).map_err(|e| usage(&e))?;
        let answer = ask(&Call::Allocate { service_type: self.service_type, options })?;
        if self.output.json {
            return print_json(&answer);
        }
        if let Some(note) = answer["note"].as_str() {
            eprintln!("styxy: {note}");
        }
        match answer["ports"].as_array() {
            Some(ports) => ports.iter().try_for_each(|port| print(&port.to_string())),
            None => print(&answer["port"].to_string()),
        }
    }
}

/// Whose end ends the lease, as the command line says it.
#[derive(Clone, Debug)]
enum Owner {
    None,
    Pid(u32),
    Unit(UnitName),
}

impl FromStr for Owner {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text.split_once(':') {
            None if text == "none" => Ok(Self::None),
            None if text == "parent" => Ok(Self::Pid(parent_id())),
            Some(("pid", pid)) => pid
                .parse()
                .map(Self::Pid)
                .map_err(|_| Error::invalid(format!("{pid:?} is not the number of a process"))),
            Some(("unit", unit)) => unit.parse().map(Self::Unit),
            _ => Err(Error::invalid(format!(
                "{text:?} is not an owner: give none, parent, pid:N or unit:NAME"
            ))),
        }
    }
}

/// The current project, if its path is one that the service takes.
pub(super) fn current_project() -> Option<String> {
    let path = project()?.into_os_string().into_string().ok()?;
    path.parse::<ProjectPath>().ok().map(String::from)
}
