//! `styxy env`: the ports of all services of a project, as variables.

mod file;
mod names;

use std::{collections::HashSet, env, path::PathBuf};

use clap::{Args, ValueEnum};
use serde_json::{Map, Value as Json, json};

use self::names::own_port;
pub(super) use self::names::{Variable, further_ports, has_url, labels, variables};
use super::{
    CliError, Output,
    lease_options::{allocate, notes},
    needs::{Needed, needs_with_history, options_of},
    print, print_json,
    project::Project,
    refused, say, text, usage,
};
use crate::{
    client::Failure,
    error::Error,
    word::{as_variable, visible},
};

/// Lease a port for each service that this project needs, and print them as variables
///
/// The services are those that `styxy suggest` shows. Each has a claim: asked again, it is the same port. A service named web is
/// WEB_PORT, and WEB_URL if it speaks HTTP; one without a name is called like the folder of its package, or like its type.
/// PORT is the one server of the package, if it has one.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    eval \"$(styxy env)\"             # in .envrc, for direnv\n  \
    styxy env --format fish | source\n  \
    styxy env --file .env.local\n  \
    styxy env --check                # have the ports of this shell moved?")]
pub(super) struct Env {
    /// How they are written [default: sh; in a file dotenv]
    #[arg(long, value_enum, conflicts_with = "json")]
    format: Option<Format>,
    /// Write them into this file, between two lines of their own, instead of printing them. What else is in it stays as it is;
    /// it is not touched if nothing has changed
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Lease nothing, and fail if the environment, or the file, has another port for one of them
    #[arg(long)]
    check: bool,
    /// The project that they are for [default: the git worktree of this folder, or the folder]
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
        let Needed { services: mut needs, notes, .. } = needs_with_history(&project)?;
        drop_unnamed(&mut needs, project.path().as_str());
        notes.iter().for_each(|note| say(note));
        if needs.is_empty() {
            let project = visible(project.path().as_str());
            return Err(refused(format!(
                "no file in {project} says which ports it needs: lease one by its type, as in `styxy allocate dev`"
            )));
        }
        if self.file.is_some() && (self.output.json || self.format == Some(Format::Json)) {
            let error = Error::invalid("lines in a file are no JSON");
            return Err(usage(&error.suggest("leave out --file, and redirect the output")));
        }
        let mut refusal = None;
        let mut leases = Vec::new();
        for need in needs {
            match if self.check { Ok(need) } else { leased(&need) } {
                Ok(lease) => leases.push(lease),
                // The others are of use without this one.
                Err(CliError::Failure(refused @ Failure::Refused { .. }))
                    if self.file.is_none() =>
                {
                    refusal.get_or_insert(refused);
                }
                Err(error) => return Err(error),
            }
        }
        leases.retain(|lease| lease["port"].is_u64());
        let package = project.package().map(|package| package.as_str());
        let variables = variables_of(leases, project.path().as_str(), package);
        self.write(&variables)?;
        refusal.map_or(Ok(()), |refusal| Err(refusal.into()))
    }

    fn write(&self, variables: &[Variable]) -> Result<(), CliError> {
        match (&self.file, self.check) {
            (Some(path), true) => {
                let lines = self.lines(variables);
                if file::has(path, &lines).map_err(|error| file::refusal(path, &error))? {
                    return Ok(());
                }
                let path = path.display();
                say(&format!(
                    "{path} has not the ports of the project; `styxy env --file {path}` writes them"
                ));
                Err(CliError::No)
            }
            (Some(path), false) => {
                let lines = self.lines(variables);
                file::write(path, &lines).map_err(|error| file::refusal(path, &error))
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

/// Drops the services that no file shows and whose variables the others have.
fn drop_unnamed(services: &mut Vec<Json>, top: &str) {
    let is_shown = |service: &Json| !service["file"].is_null();
    let (shown, others): (Vec<_>, Vec<_>) = services.drain(..).partition(is_shown);
    let known: HashSet<_> = variables(&shown, top).into_iter().map(|known| known.name).collect();
    let named = others.iter().zip(labels(&others, top));
    let is_new: Vec<_> =
        named.map(|(_, label)| !known.contains(&format!("{}_PORT", as_variable(&label)))).collect();
    services.extend(shown);
    services.extend(
        others.into_iter().zip(is_new).filter_map(|(service, is_new)| is_new.then_some(service)),
    );
}

/// The variables of these services. Those that no file shows change nothing about the others.
fn variables_of(services: Vec<Json>, top: &str, package: Option<&str>) -> Vec<Variable> {
    let is_shown = |service: &Json| !service["file"].is_null();
    let (mut shown, mut others): (Vec<_>, Vec<_>) = services.into_iter().partition(is_shown);
    if shown.is_empty() {
        std::mem::swap(&mut shown, &mut others);
    }
    let own = own_port(&shown, package).into_iter();
    let mut all: Vec<_> = own.chain(variables(&shown, top)).collect();
    for variable in variables(&others, top) {
        if all.iter().all(|known| known.name != variable.name) {
            all.push(variable);
        }
    }
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
    Ok(lease)
}

/// Fails if the environment has other values.
fn check(variables: &[Variable]) -> Result<(), CliError> {
    let mut is_same = true;
    for Variable { name, value } in variables {
        let now = env::var_os(name).map(|now| visible(&now.to_string_lossy()));
        if now.as_ref() != Some(value) {
            is_same = false;
            let now = now.map_or("not set".to_owned(), |now| format!("{now} here"));
            say(&format!("{name} is {now}, and {value} in the project"));
        }
    }
    if is_same { Ok(()) } else { Err(CliError::No) }
}
