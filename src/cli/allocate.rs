use std::{os::unix::process::parent_id, str::FromStr};

use clap::Args;

use serde_json::Value as Json;

use super::{Output, Stop, ask, print, print_json, project, text, usage};
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
    /// Try first the port that is so far from the type's first preferred one: main, dev, staging, features,
    /// or what the configuration names under `instance_templates`
    #[arg(long, conflicts_with = "port")]
    template: Option<String>,
    /// Fail if the asked port cannot be had, instead of taking another
    #[arg(long, requires = "port")]
    strict: bool,
    /// tcp, udp, or both for the same number in both [default: as the type has it, else tcp]
    #[arg(long)]
    protocol: Option<Protocol>,
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
    /// Which one is meant of a type that runs once, if there is one for each of several things
    #[arg(long, value_name = "KEY")]
    singleton_key: Option<String>,
    /// Make a new service type even if its name looks like a mistyped one
    #[arg(long)]
    create: bool,
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
        options.put_some("template", self.template);
        options.put_some("protocol", self.protocol.map(Protocol::as_str));
        options.put_some("singleton_key", self.singleton_key);
        if self.create {
            options.put("create", true);
        }
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
        for note in notes(&answer) {
            eprintln!("styxy: {note}");
        }
        match answer["ports"].as_array() {
            Some(ports) => ports.iter().try_for_each(|port| print(&port.to_string())),
            None => print(&answer["port"].to_string()),
        }
    }
}

/// What a person should know of an answer beside the port.
fn notes(answer: &Json) -> Vec<String> {
    let service_type = text(answer, "service_type");
    let mut notes = Vec::new();
    notes.extend(answer["note"].as_str().map(str::to_owned));
    if answer["auto_allocated"] == true {
        let (first, last) = (&answer["port_range"][0], &answer["port_range"][1]);
        let what = if answer["dry_run"] == true { "would get" } else { "got" };
        notes.push(format!(
            "{service_type} {what} the ports {first}-{last} \
             (`styxy config undo-auto-allocation {service_type}` takes them away)"
        ));
    }
    if answer["instance_behavior"] == "single" {
        let port = &answer["port"];
        notes.push(if answer["existing"] == true {
            let held = text(answer, "held");
            format!("{service_type} runs once, and it has port {port}: connect to it ({held})")
        } else {
            format!(
                "{service_type} runs once: whoever asks for it from now on gets port {port}, too"
            )
        });
    }
    notes
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
