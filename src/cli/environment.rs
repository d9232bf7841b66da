//! `styxy env`: the ports of all services of a project, as variables.

mod file;
mod names;

use std::{
    collections::HashSet,
    env,
    path::{Path, PathBuf},
};

use clap::{Args, ValueEnum};
use serde_json::{Map, Value as Json, json};

pub(super) use self::names::{Variable, further_ports, has_url, labels, variables};
use self::names::{is_shown, own_port, port_of, port_variable};
use super::{
    CliError, Output,
    check::why_not,
    lease_options::{allocate, notes},
    needs::{Needed, name, needs_with_history, options_of},
    print, print_json,
    project::Project,
    refused, say, text, usage,
};
use crate::{client::Failure, error::Error, port::Port, word::visible};

/// Lease a port for each service that this project needs, and print them as variables
///
/// The services are those that `styxy suggest` shows. Each one keeps its port. A service named web is in WEB_PORT,
/// and in WEB_URL if it speaks HTTP; one without a name is named after the folder of its package, or after its type.
/// PORT is set if the package has exactly one server.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    eval \"$(styxy env)\"             # in .envrc, for direnv\n  \
    styxy env --format fish | source\n  \
    styxy env --file .env.local\n  \
    styxy env --check               # fails if a port has changed")]
pub(super) struct Env {
    /// The format [default: sh; with --file dotenv]
    #[arg(long, value_enum, conflicts_with = "json")]
    format: Option<Format>,
    /// Write them to this file, between two marker lines, instead of printing them. The rest of the file stays as it
    /// is, and the file is not touched if nothing has changed
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Lease nothing, and fail if a variable in the environment, or in the file, differs
    #[arg(long)]
    check: bool,
    /// The project that the ports are for [default: the git worktree of this folder, or the folder]
    #[arg(long, value_name = "PATH")]
    project: Option<Project>,
    #[command(flatten)]
    output: Output,
}

/// How variables are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// export NAME=VALUE
    Sh,
    /// set -gx NAME VALUE
    Fish,
    /// NAME=VALUE, as in a .env file
    Dotenv,
    /// An object
    Json,
    /// NAME=VALUE, for $GITHUB_ENV
    Github,
}

impl Env {
    pub(super) fn run(self) -> Result<(), CliError> {
        let project = Project::or_current(self.project.as_ref()).map_err(|e| usage(&e))?;
        if self.project.is_none() {
            project.refuse_if_others_write()?;
        }
        let Needed { services, notes, .. } = needs_with_history(&project)?;
        let services = labelled(services, project.path().as_str());
        notes.iter().for_each(|note| say(note));
        if services.is_empty() {
            let project = visible(project.path().as_str());
            return Err(refused(format!(
                "no file in {project} says which ports it needs: lease one by its type, as in `styxy allocate dev`"
            )));
        }
        if self.file.is_some() && (self.output.json || self.format == Some(Format::Json)) {
            let error = Error::invalid("--file writes lines, not JSON");
            return Err(usage(&error.suggest("leave out --file, and redirect the output")));
        }
        let mut refusal = None;
        let mut leases = Vec::new();
        for (label, need) in services {
            match if self.check { Ok(need) } else { leased(&need) } {
                Ok(lease) => leases.push((label, lease)),
                // The others are of use without this one.
                Err(CliError::Failure(refused @ Failure::Refused { .. }))
                    if self.file.is_none() =>
                {
                    refusal.get_or_insert(refused);
                }
                Err(error) => return Err(error),
            }
        }
        leases.retain(|(_, lease)| lease["port"].is_u64());
        let package = project.package().map(|package| package.as_str());
        let own = own_port(leases.iter().map(|(_, lease)| lease), package);
        let all =
            own.into_iter().chain(variables(leases.iter().map(|(label, lease)| (label, lease))));
        self.write(&all.collect::<Vec<_>>(), &project)?;
        refusal.map_or(Ok(()), |refusal| Err(refusal.into()))
    }

    fn write(&self, variables: &[Variable], project: &Project) -> Result<(), CliError> {
        match (&self.file, self.check) {
            (Some(path), true) => {
                let lines = self.lines(variables);
                let lacks =
                    file::lacks(path, &lines).map_err(|error| file::refusal(path, &error))?;
                let Some(lacks) = lacks else { return Ok(()) };
                let lacks =
                    if lacks.is_empty() { "it has others".to_owned() } else { lacks.join(", ") };
                let path = path.display();
                say(&format!(
                    "{path} does not have the ports of the project ({lacks}); `styxy env --file {path}` writes them"
                ));
                Err(CliError::No)
            }
            (Some(path), false) => {
                let lines = self.lines(variables);
                file::write(path, &lines, Path::new(project.path().as_str()))
                    .map_err(|error| file::refusal(path, &error))
            }
            (None, true) => check(variables),
            (None, false) if self.output.json || self.format == Some(Format::Json) => {
                let object =
                    variables.iter().map(|Variable { name, value }| (name.clone(), json!(value)));
                print_json(&Json::Object(object.collect::<Map<_, _>>()))
            }
            (None, false) => self.lines(variables).iter().try_for_each(|line| print(line)),
        }
    }

    fn lines(&self, variables: &[Variable]) -> Vec<String> {
        let usual = if self.file.is_some() { Format::Dotenv } else { Format::Sh };
        let format = self.format.unwrap_or(usual);
        // Neither a name nor a port nor a URL has a character that needs quotes.
        let line = |Variable { name, value }: &Variable| match format {
            Format::Sh => format!("export {name}={value}"),
            Format::Fish => format!("set -gx {name} {value}"),
            Format::Dotenv | Format::Github | Format::Json => format!("{name}={value}"),
        };
        variables.iter().map(line).collect()
    }
}

/// The services, and what each is called. Those that no file shows come last, and are left out where another one has the
/// variable.
fn labelled(services: Vec<Json>, top: &str) -> Vec<(String, Json)> {
    let (shown, others): (Vec<_>, Vec<_>) = services.into_iter().partition(is_shown);
    let named = |services: Vec<Json>| labels(&services, top).into_iter().zip(services);
    let mut all: Vec<_> = named(shown).collect();
    let own = |(label, service): &(String, Json)| [port_of(label), port_variable(label, service)];
    let known: HashSet<_> = all.iter().flat_map(own).collect();
    all.extend(named(others).filter(|(label, _)| !known.contains(&port_of(label))));
    all
}

/// Leases the port that was suggested for a service, as a claim.
pub(super) fn leased(need: &Json) -> Result<Json, CliError> {
    let mut options = options_of(need);
    options.put("claim", true);
    let answer = allocate(text(need, "service_type"), options)?;
    let mut lease = need.clone();
    // What the service had already may well be listened on.
    if answer["existing"] != true {
        notes(&answer).iter().for_each(|note| say(note));
    }
    for key in ["port", "lease_id", "lease_ids", "existing"] {
        lease[key] = answer[key].clone();
    }
    if lease["existing"] != true {
        say_why_another(&lease);
    }
    Ok(lease)
}

/// Says why a service gets another port than the one that the project names.
pub(super) fn say_why_another(lease: &Json) {
    let named = lease["wants"].as_u64().and_then(Port::new);
    let Some(named) = named.filter(|named| lease["port"] != named.get()) else { return };
    let protocol = text(lease, "protocol").parse().unwrap_or_default();
    let why = why_not(named, protocol)
        .unwrap_or_else(|| "another service had it last (`styxy forget` forgets it)".to_owned());
    let (service, file) = (name(lease), text(lease, "file"));
    say(&format!("port {} for {service}, not {named} as in {file}: {why}", lease["port"]));
}

/// Fails if the environment has other values.
fn check(variables: &[Variable]) -> Result<(), CliError> {
    let mut is_same = true;
    for Variable { name, value } in variables {
        let now = env::var_os(name).map(|now| visible(&now.to_string_lossy()));
        if now.as_ref() != Some(value) {
            is_same = false;
            let now = now.map_or("not set".to_owned(), |now| format!("{now} here"));
            say(&format!("{name} is {now}, but {value} in the project"));
        }
    }
    if is_same { Ok(()) } else { Err(CliError::No) }
}
