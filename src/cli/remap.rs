//! `styxy run --remap`: a command with a localhost of its own.
//!
//! - `service`: what the supervisor asks the service
//! - `refusals`: commands and machines where it does not work
//! - `words`: what the front says

mod refusals;
mod service;
mod words;

use std::{
    ffi::OsString,
    os::unix::process::CommandExt,
    process::{self, Command},
    str::FromStr,
};

use clap::{ArgGroup, Args, ValueEnum};

pub(super) use self::words::not_reached;
use self::{
    refusals::{Nested, cannot_work, nested},
    service::Leases,
    words::Front,
};
use serde_json::Value as Json;

use super::{
    CliError, ask, lease_options::LeaseOptions, needs, output::short, refused, run::not_started,
    text, usage,
};
use crate::{
    client::Call,
    error::Error,
    kernel::detach::{end_by, inherited},
    port::{Port, Protocol},
    remap::{
        control::{Named, Status, Task},
        filter::Scope,
        front::{self, End},
        start,
        table::{Mapping, Mode},
        tree,
    },
    service_type::ServiceTypeName,
    value::Fields,
};

/// The exit code if styxy itself fails after the command was started, as env(1) and timeout(1) have it.
const LOST: u8 = 125;
/// The type of mappings if none is given.
const TYPE: &str = "remap";

/// How the ports of the command are mapped.
#[derive(Debug, Args)]
#[command(next_help_heading = "A localhost of its own (styxy-remap(7))",
    group = ArgGroup::new("mapping").multiple(true))]
pub(super) struct Remapping {
    /// Give the command, and all that it starts, this project's own localhost: a port that they ask for is another one really.
    /// MODE is private, or conflict to keep the numbers that nobody else has
    #[arg(long, value_name = "MODE", num_args = 0..=1, require_equals = true, default_missing_value = "private",
        group = "mapping", conflicts_with_all = NOT_WITH)]
    remap: Option<Remap>,
    /// Map only this port: whoever asks for PORT gets one of TYPE
    #[arg(long, value_name = "PORT[/udp]:TYPE", group = "mapping", conflicts_with_all = NOT_WITH)]
    map: Vec<Map>,
    /// Let these ports of the machine be reached if nothing of the project has them
    #[arg(long, value_name = "PORTS", value_delimiter = ',', requires = "mapping")]
    reach: Vec<Port>,
    /// What a program is told that looks at its socket: the real port, or the one that it asked for
    #[arg(long, value_name = "WHICH", requires = "mapping")]
    sockname: Option<Sockname>,
    /// Leave io_uring on; what programs do through it is not mapped
    #[arg(long, requires = "mapping")]
    io_uring: bool,
    /// End everything that the command has started when it ends
    #[arg(long, requires = "mapping")]
    kill_tree: bool,
    /// Do it as root, too
    #[arg(long, requires = "mapping")]
    allow_root: bool,
}

/// Options of `run` that are about a port that the command is told.
const NOT_WITH: [&str; 13] = [
    "env",
    "count",
    "hold",
    "with",
    "with_url",
    "setenv",
    "name",
    "port",
    "template",
    "protocol",
    "instance",
    "singleton_key",
    "plain",
];

/// The modes that can be chosen.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Remap {
    /// No port is what it seems, and the localhost of other projects is not reached
    Private,
    /// A port keeps its number if it is free
    Conflict,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Sockname {
    /// The real port, which works outside as well
    Real,
    /// The port that was asked for, for programs that compare
    Asked,
}

/// A port that is mapped by number.
#[derive(Clone, Debug)]
struct Map(Named);

impl FromStr for Map {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let form = || {
            Error::invalid(format!("{text:?} names no port and type"))
                .suggest("write PORT:TYPE or PORT/udp:TYPE, for example 3001:api")
        };
        let (port, service_type) = text.split_once(':').ok_or_else(form)?;
        let (port, protocol) = match port.split_once('/') {
            None | Some((_, "tcp")) => (port.trim_end_matches("/tcp"), Protocol::Tcp),
            Some((port, "udp")) => (port, Protocol::Udp),
            Some(_) => return Err(form()),
        };
        let service_type: ServiceTypeName = service_type.parse()?;
        let service_type = service_type.to_string();
        Ok(Self(Named { asked: port.parse()?, protocol, service_type }))
    }
}

impl Remapping {
    /// Whether anything is mapped.
    pub(super) fn is_on(&self) -> bool {
        self.remap.is_some() || !self.map.is_empty()
    }

    /// Runs the command.
    pub(super) fn run(
        self,
        service_type: Option<String>,
        wanted: &LeaseOptions,
        telling: super::run::Telling,
        command: &[OsString],
    ) -> Result<(), CliError> {
        let task = self.task(service_type, wanted)?;
        match nested(&task)? {
            Nested::No => {}
            Nested::InSame => {
                let error = Command::new(&command[0]).args(&command[1..]).exec();
                return Err(not_started(&command[0], &error));
            }
        }
        if let Some(why) = cannot_work(command, self.allow_root) {
            return Err(refused(why));
        }
        one_mode(&task)?;
        let mut prepared = Command::new(&command[0]);
        prepared.args(&command[1..]);
        run(&task, &prepared, telling)
    }

    fn task(&self, service_type: Option<String>, wanted: &LeaseOptions) -> Result<Task, CliError> {
        let service_type = match service_type {
            Some(name) => name.parse::<ServiceTypeName>().map_err(|e| usage(&e))?.to_string(),
            None => TYPE.to_owned(),
        };
        let maps: Vec<_> = self.map.iter().map(|map| map.0.clone()).collect();
        for (at, map) in maps.iter().enumerate() {
            let is_same =
                |other: &Named| (other.asked, other.protocol) == (map.asked, map.protocol);
            if maps[..at].iter().any(is_same) {
                return Err(usage(&Error::invalid(format!(
                    "--map names port {} twice",
                    map.asked
                ))));
            }
        }
        let project = wanted.project()?;
        let mut reach = needs::reach(&project)?;
        reach.extend(&self.reach);
        Ok(Task {
            project: project.path().to_string(),
            mode: match self.remap {
                Some(Remap::Private) => Mode::Private,
                Some(Remap::Conflict) => Mode::Conflict,
                None => Mode::Map,
            },
            service_type,
            maps,
            reach,
            lies: self.sockname == Some(Sockname::Asked),
            rings: self.io_uring,
            kills: self.kill_tree,
            guarded: None,
        })
    }
}

/// Checks that nothing of the project has mappings of another mode. If no service is running, it is started here: the supervisor
/// could not tell one from what the command starts.
fn one_mode(task: &Task) -> Result<(), CliError> {
    let mut filter = Fields::default();
    filter.put("project_path", task.project.as_str());
    let leases = ask(&Call::List { filter })?;
    let Some(other) = other_mode(task.mode, leases.as_array().map_or(&[], Vec::as_slice)) else {
        return Ok(());
    };
    let error = Error::invalid(format!(
        "{} has ports in mode {other}, and a project has one mode",
        short(&task.project)
    ));
    Err(usage(&error.suggest(format!(
        "use --remap={other}, or end what runs with it first (`styxy list --project {}`)",
        short(&task.project)
    ))))
}

/// The other mode, if a lease has it.
fn other_mode(mode: Mode, leases: &[Json]) -> Option<&str> {
    let mut modes = leases.iter().filter_map(|lease| lease["remap"].as_str());
    // Ports that are mapped by number are private.
    modes.find(|other| *other != if mode == Mode::Conflict { "conflict" } else { "private" })
}

/// Runs a command with a supervisor, and ends as the command does.
fn run(task: &Task, command: &Command, telling: super::run::Telling) -> Result<(), CliError> {
    let mut front = Front::new(task, command.get_program(), telling);
    let end = front::run(task, command, &mut |said| front.hear(said))?;
    match end {
        End::Of(Status::Exited(0)) => Ok(()),
        End::Of(Status::Exited(code)) => process::exit(code),
        End::Of(Status::Killed(signal)) => end_by(signal),
        End::NotStarted => Err(front.why_not()),
        End::Lost => {
            let words = "the supervisor of the command has ended, and the command with it, for it had no network any more";
            Err(CliError::Exec(words.to_owned(), LOST))
        }
    }
}

/// Runs a command whose port stays guarded until it binds it: a supervisor takes the guard away in that moment.
pub(super) fn run_guarded(
    answer: &Json,
    command: &mut Command,
    telling: super::run::Telling,
) -> Result<(), CliError> {
    if refusals::is_mapped() {
        // The supervisor around it does the same.
        let error = command.exec();
        return Err(not_started(command.get_program(), &error));
    }
    if let Err(errno) = crate::remap::seccomp::is_supported() {
        return Err(refused(refusals::without_filter(errno)));
    }
    let port = answer["port"].as_u64().and_then(Port::new);
    let port = port.ok_or_else(|| refused("the service has answered no port".to_owned()))?;
    let task = Task {
        project: text(answer, "project_path").to_owned(),
        mode: Mode::Map,
        service_type: text(answer, "service_type").to_owned(),
        maps: Vec::new(),
        reach: Vec::new(),
        lies: false,
        rings: true,
        kills: false,
        guarded: Some(Mapping { asked: port, port, protocol: Protocol::Tcp }),
    };
    run(&task, command, telling)
}

/// Supervise a command whose ports are mapped; `styxy run --remap` starts this
#[derive(Debug, Args)]
pub(super) struct Supervisor {
    /// The descriptor of the front
    front: i32,
    /// The command and its arguments
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

impl Supervisor {
    pub(super) fn run(self) -> Result<(), CliError> {
        let front = inherited(self.front)?;
        Ok(tree::supervise(front, &self.command, Leases::new)?)
    }
}

/// Install the filter of a supervisor, and become the command; the supervisor starts this
#[derive(Debug, Args)]
pub(super) struct Start {
    /// The descriptor of the supervisor
    supervisor: i32,
    /// What the filter is for, in JSON
    #[arg(value_parser = |text: &str| serde_json::from_str::<Scope>(text))]
    scope: Scope,
    /// The command and its arguments
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

impl Start {
    pub(super) fn run(self) -> Result<(), CliError> {
        let supervisor = inherited(self.supervisor)?;
        start::execute(supervisor, self.scope, &self.command);
        // The supervisor knows why.
        Err(CliError::No)
    }
}
