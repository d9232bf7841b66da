//! `styxy up`: starts the services of a project together, each as `styxy run` would.
//!
//! - `already`: what another one runs
//! - `plan`: what is started, where, and after what
//! - `child`: a process that was started
//! - `output`: the lines of all of them
//! - `together`: the whole, from the first start to the last end

mod already;
mod child;
mod output;
mod plan;
mod together;

use std::{env, ffi::OsString, path::Path};

use clap::Args;
use serde_json::{Value as Json, json};

pub(super) use self::child::Keep;
use self::{
    already::Locks,
    plan::{Chosen, Planned, plan, without, words},
    together::Started,
};
use super::{
    CliError, Output, ask, block_on,
    environment::{labels, leased, say_why_another, variables},
    lease_options::allocate,
    needs::{Needed, needs_of_all, options_of, unasked},
    owner::put_own_process,
    print, print_list, programs,
    project::Project,
    refused, say,
    table::{self, Table},
    text, usage,
};
use crate::{
    client::{self, Call},
    error::Error,
    project::declared::FILE,
    word::visible,
};

/// Start the services of this project together, each with its port in $PORT
///
/// They are the services of styxy.json that have a command; without that file, the lines of Procfile.dev or
/// Procfile, or else what `styxy suggest` finds. Each is started as by `styxy run`, once the services that it needs
/// listen. When one exits, the others are stopped; the exit code is that of the first one.
///
/// What another `styxy up` of the project runs is not started again.
///
/// Ctrl-C stops all with SIGTERM, a second one with SIGKILL.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    styxy up\n  \
    styxy up web               # and what web needs\n  \
    styxy up --except worker --keep\n  \
    styxy up --dry-run")]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub(super) struct Up {
    /// Start only these, and what they need
    #[arg(value_name = "NAME", conflicts_with = "only")]
    names: Vec<String>,
    /// Start only this, without what it needs
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Do not start this
    #[arg(long, value_name = "NAME")]
    except: Vec<String>,
    /// Keep the others running when one exits
    #[arg(long)]
    keep: bool,
    /// Also start what another `styxy up` of the project runs, on other ports
    #[arg(long)]
    again: bool,
    /// Open the first web server in the browser when all listen
    #[arg(long)]
    open: bool,
    /// Print what would be started, and start nothing
    #[arg(long)]
    dry_run: bool,
    /// The project [default: the git worktree of this folder, or the folder]
    #[arg(long, value_name = "PATH")]
    project: Option<Project>,
    #[command(flatten)]
    output: Output,
}

impl Up {
    pub(super) fn run(self) -> Result<(), CliError> {
        let project = Project::or_current(self.project.as_ref()).map_err(|e| usage(&e))?;
        if self.output.json && !self.dry_run {
            let error = Error::invalid("the output is that of the services");
            return Err(usage(&error.suggest("add --dry-run for what would be started")));
        }
        if self.project.is_none() {
            project.refuse_if_others_write()?;
        }
        let Needed { services, processes, notes, refusals } = needs_of_all(&project)?;
        notes.iter().chain(&refusals).for_each(|note| say(note));
        if processes.is_empty() {
            let file = project.folder().join(FILE);
            let folder = visible(&project.folder().to_string_lossy());
            let remedy = if file.exists() {
                "give a service of styxy.json a command"
            } else {
                "`styxy init` writes a styxy.json to begin with"
            };
            return Err(refused(format!("no file in {folder} says what to start: {remedy}")));
        }
        let labels = labels(&services, project.path().as_str());
        let chosen = Chosen {
            names: self.names.clone(),
            only: self.only.clone(),
            except: self.except.clone(),
        };
        let planned = plan(processes, &labels, &chosen).map_err(|e| usage(&e))?;
        let locks = Locks::open();
        let planned = self.not_up(planned, &services, &project, &locks)?;
        if self.dry_run {
            return self.show(&planned, &services);
        }
        if planned.is_empty() {
            return Err(refused("nothing is left to start".to_owned()));
        }
        let mut claims = Claims::default();
        let leases = leases(&planned, services, &mut claims)?;
        let variables = variables(labels.iter().zip(&leases));
        block_on(async {
            let mut up = Started::new(&project, &planned, &leases, &variables);
            up.run(self.keep, self.open).await
        })?
    }

    /// Those that no other `styxy up` runs, which are this one's from now on. Fails if there are none.
    fn not_up(
        &self,
        planned: Vec<Planned>,
        services: &[Json],
        project: &Project,
        locks: &Locks,
    ) -> Result<Vec<Planned>, CliError> {
        let holder = |planned: &Planned| match (self.again, self.dry_run) {
            (true, _) => None,
            (false, true) => locks.holder(project, planned),
            (false, false) => locks.take(project, planned),
        };
        let holders: Vec<_> = planned.iter().map(holder).collect();
        let others = planned.iter().zip(&holders);
        let others: Vec<_> = others.filter_map(|(planned, pid)| Some((planned, (*pid)?))).collect();
        if others.is_empty() {
            return Ok(planned);
        }
        let sentence = already::sentence(&others, services, project)?;
        if others.len() == planned.len() {
            return Err(refused(format!(
                "{sentence}; add --again to start everything a second time"
            )));
        }
        say(&sentence);
        let is_up: Vec<_> = holders.iter().map(Option::is_some).collect();
        Ok(without(planned, &is_up))
    }

    fn show(&self, planned: &[Planned], services: &[Json]) -> Result<(), CliError> {
        let after = |planned_: &Planned| -> Vec<String> {
            planned_.after.iter().map(|at| planned[*at].name.clone()).collect()
        };
        if self.output.json {
            let line = |planned: &Planned| {
                let service = planned.process.ports.first().map(|at| &services[*at]);
                json!({
                    "name": planned.name,
                    "command": planned.process.command,
                    "folder": planned.process.folder.to_string_lossy(),
                    "service_type": service.map(|service| &service["service_type"]),
                    "service_name": service.map(|service| &service["service_name"]),
                    "port": service.map(|service| &service["port"]),
                    "after": after(planned),
                })
            };
            return print_list("processes", planned.iter().map(line).collect::<Vec<_>>());
        }
        let mut table = Table::new([
            table::text("NAME"),
            table::short("PORT"),
            table::path("FOLDER"),
            table::text("AFTER"),
            table::prose("COMMAND"),
        ]);
        for planned in planned {
            let port = planned.process.ports.first().map(|at| services[*at]["port"].to_string());
            table.row([
                planned.name.clone(),
                port.unwrap_or_default(),
                visible(&planned.process.folder.to_string_lossy()),
                after(planned).join(" "),
                visible(&planned.process.command),
            ]);
        }
        print(&table.draw())
    }
}

/// The names of what would be started here, each with its command.
pub(super) fn processes() -> Result<Vec<(String, String)>, CliError> {
    let project = Project::current().map_err(|e| usage(&e))?;
    let Needed { services, processes, .. } = unasked(&project)?;
    let labels = labels(&services, project.path().as_str());
    let planned = plan(processes, &labels, &Chosen::default()).map_err(|e| usage(&e))?;
    Ok(planned.into_iter().map(|planned| (planned.name, planned.process.command)).collect())
}

/// The claims that this command made. They end with it, or else a project that is only started for a moment keeps its ports.
#[derive(Default)]
struct Claims(Vec<String>);

impl Drop for Claims {
    fn drop(&mut self) {
        client::begin_again();
        for lease_id in self.0.drain(..) {
            // What cannot be released yields by itself.
            let _ = ask(&Call::Release { lease_id });
        }
    }
}

/// Leases the ports of all services. Those of the processes belong to this command, the others are claims.
fn leases(
    planned: &[Planned],
    services: Vec<Json>,
    claims: &mut Claims,
) -> Result<Vec<Json>, CliError> {
    let known = programs::known();
    let lease = |(at, service): (usize, Json)| {
        let planned = planned.iter().find(|planned| planned.process.ports.contains(&at));
        // A block with an owner never is a claim: it would be another one than that of `styxy env`.
        let is_single = service["count"].as_u64().is_none_or(|count| count == 1);
        let Some(planned) = planned.filter(|_| is_single) else {
            let lease = leased(&service)?;
            if lease["existing"] != true {
                let ids = lease["lease_ids"].as_array().into_iter().flatten();
                let ids = ids.chain([&lease["lease_id"]]).filter_map(|id| id.as_str());
                claims.0.extend(ids.map(str::to_owned));
                claims.0.dedup();
            }
            return Ok(lease);
        };
        let mut options = options_of(&service);
        put_own_process(&mut options);
        options.put("use_claim", true);
        // As `styxy run` will ask for it.
        let command = command_of(&planned.process.command);
        let folder = Path::new(text(&service, "project_path")).join(&planned.process.folder);
        let help = programs::help(&command, &known, &folder, |name| env::var_os(name).is_some());
        if help.is_some_and(|help| help.has_no_guard) {
            options.put("hold", "none");
        }
        let answer = allocate(text(&service, "service_type"), options)?;
        let mut lease = service;
        for key in ["port", "lease_id"] {
            lease[key] = answer[key].clone();
        }
        say_why_another(&lease);
        Ok(lease)
    };
    services.into_iter().enumerate().map(lease).collect()
}

/// The words of a command line, or of the shell that takes it.
fn command_of(line: &str) -> Vec<OsString> {
    let words = words(line).unwrap_or_else(|| vec!["/bin/sh", "-c", line]);
    words.into_iter().map(OsString::from).collect()
}
