//! The tools that a model can call, with the argument names of the other interfaces; each is answered by a verb.

use std::str::FromStr;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value as Json, json};

use super::{
    super::{
        CliError, ask, audit, check, counted, lease, lease_options,
        list::is_of_package,
        needs,
        owner::{Owner, put_own_process},
        project::Project,
        refused, release,
        service::Named,
        suggest, text,
        typos::refuse_typos,
        usage,
    },
    Effect, Tool, answers,
};
use crate::{
    audit::{
        event::ACTIONS,
        past::{Query, query::known_action},
    },
    client::Call,
    error::Error,
    lease::ProjectPath,
    port::{Port, Protocol},
    request::{LONGEST_TTL, MOST_PORTS},
    service_type::Hold,
    value::Fields,
    word::shortened,
};

/// The values that a schema lists. A client may send null for an option that it leaves out.
const PROTOCOLS: [Option<&str>; 4] = [Some("tcp"), Some("udp"), Some("both"), None];
const HOLDS: [Option<&str>; 3] = [Some("guard"), Some("none"), None];
/// The default number of suggestions, as with the verb.
const SUGGESTIONS: u16 = 3;
/// The default number of events. A model reads all of them, so there are fewer than in a terminal.
const EVENTS: usize = 20;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Allocate {
    /// The class of service: dev, api, ui, docs, database, test, …; an unknown one gets a range of its own
    service_type: String,
    /// What the port is for, such as web; the same name gets the same port again
    service_name: Option<String>,
    /// Try this port first
    port: Option<Port>,
    /// Fail if that port cannot be had, instead of taking another
    strict: Option<bool>,
    /// Start at this named offset from the type's first preferred port: main, dev, staging, features
    template: Option<String>,
    /// Default: as the type has it, else tcp
    #[schemars(with = "Option<String>", extend("enum" = PROTOCOLS))]
    protocol: Option<Protocol>,
    /// This many consecutive ports, all or none
    #[schemars(range(min = 1, max = MOST_PORTS))]
    count: Option<u16>,
    /// How the port is kept until your server binds it; none is for a server that fails because the port is in use
    #[schemars(with = "Option<String>", extend("enum" = HOLDS))]
    hold: Option<Hold>,
    /// Release the lease when this exits: none, pid:N or unit:NAME. Default: this session
    owner: Option<String>,
    /// End the lease after this many seconds, even if the owner lives
    #[schemars(range(min = 1, max = LONGEST_TTL))]
    ttl: Option<u64>,
    /// Your name, if several agents work on one project
    instance_id: Option<String>,
    /// Absolute path. Default: the project that this server was started in
    project_path: Option<String>,
    /// The package of the project, by its folder from the top, such as apps/api; . is the top
    package: Option<String>,
    /// Distinguishes several single-instance services of one type
    singleton_key: Option<String>,
    /// Create a new type even if its name looks like a typo
    create: Option<bool>,
    /// True: the same service gets the port that it has already. Default: each call leases another port
    claim: Option<bool>,
    /// Only say what would be granted
    dry_run: Option<bool>,
}

impl Tool for Allocate {
    const NAME: &'static str = "allocate";
    const DESCRIPTION: &'static str = "Lease a free TCP or UDP port for a server that you will start, and use \
        the answered port. Nobody else gets it while the lease lives. With claim: true the same service (project, \
        package, type, name), asked again, gets the same port, as with the command `styxy allocate`: send it when \
        the service may have a port already, or its port is written down. Without it each call leases another port.";
    const EFFECT: Effect = Effect::Adds;
    type Answer = answers::Granted;

    fn answer(self) -> Result<Json, CliError> {
        let mut options = Fields::default();
        options.put_some("service_name", self.service_name);
        options.put_some("port", self.port.map(Port::get));
        options.put_some("strict", self.strict);
        options.put_some("template", self.template);
        options.put_some("protocol", self.protocol.map(Protocol::as_str));
        options.put_some("count", self.count);
        options.put_some("hold", self.hold.map(Hold::as_str));
        options.put_some("ttl", self.ttl);
        options.put_some("instance_id", self.instance_id);
        let project = package(self.project_path, self.package)?;
        options.put("project_path", project.path().as_str());
        options.put_some("package_path", project.package().map(ProjectPath::as_str));
        options.put_some("singleton_key", self.singleton_key);
        options.put_some("create", self.create);
        options.put_some("dry_run", self.dry_run);
        options.put_some("claim", self.claim);
        match self.owner {
            Some(owner) => {
                owner.parse::<Owner>().map_err(|e| usage(&e))?.put(&mut options)?;
            }
            None => put_own_process(&mut options),
        }
        lease_options::allocate(&self.service_type, options)
    }

    fn undo(answer: &Json) {
        if answer["existing"] == true || answer["dry_run"] == true {
            return;
        }
        let mut filter = Fields::default();
        match answer["block_id"].as_str() {
            Some(block) => filter.put("block_id", block),
            None => filter.put("lease_id", text(answer, "lease_id")),
        }
        filter.put("reason", "not_delivered");
        // If this fails, the lease ends with its owner, by default the session.
        let _ = ask(&Call::ReleaseMatching { filter });
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Release {
    /// The lease, as allocate and list answer it
    lease_id: Option<String>,
    /// Or its port, if that has one lease
    port: Option<Port>,
    /// The protocol of that port
    #[schemars(with = "Option<String>", extend("enum" = PROTOCOLS))]
    protocol: Option<Protocol>,
}

impl Tool for Release {
    const NAME: &'static str = "release";
    const DESCRIPTION: &'static str = "Release one lease, by lease_id or port, whoever leased it: give back what you \
        leased, and nothing that others did. The program that listens on the port is not stopped.";
    const EFFECT: Effect = Effect::Takes;
    type Answer = answers::Released;

    fn answer(self) -> Result<Json, CliError> {
        let which = match (self.lease_id, self.port) {
            (Some(lease_id), None) => lease_id,
            (None, Some(port)) => port.to_string(),
            _ => {
                let error = Error::invalid("name one lease");
                return Err(usage(&error.suggest("give its lease_id or its port")));
            }
        };
        let mut filter = Fields::default();
        filter.put_some("protocol", self.protocol.map(Protocol::as_str));
        match lease::named(&which, filter)?.as_slice() {
            [lease] => release::release(lease),
            several => {
                let ids: Vec<_> = several.iter().map(|lease| text(lease, "lease_id")).collect();
                Err(refused(format!(
                    "port {which} has {}: give the lease_id of the one to release ({})",
                    counted(several.len() as u64, "lease"),
                    ids.join(", ")
                )))
            }
        }
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct List {
    /// Only leases of the project that this server was started in
    mine: Option<bool>,
    /// Only leases of this project; an absolute path
    project_path: Option<String>,
    /// Only leases of this package of the project: its folder from the top, such as apps/api; . is the top
    package: Option<String>,
    /// Only leases of this class of service
    service_type: Option<String>,
    /// Only leases of this agent
    instance_id: Option<String>,
}

impl Tool for List {
    const NAME: &'static str = "list";
    const DESCRIPTION: &'static str =
        "List the leased ports, with who has them and whether something listens.";
    type Answer = answers::Leases;

    fn answer(self) -> Result<Json, CliError> {
        let project = match (self.mine, self.project_path) {
            (Some(true), Some(_)) => {
                let error = Error::invalid("mine names a project, and so does project_path");
                return Err(usage(&error.suggest("give one of the two")));
            }
            (_, None) if self.mine != Some(true) && self.package.is_none() => None,
            (_, named) => Some(package(named, self.package.clone())?),
        };
        let mut filter = Fields::default();
        filter.put_some("project_path", project.as_ref().map(|p| p.path().as_str()));
        filter.put_some("service_type", self.service_type);
        filter.put_some("instance_id", self.instance_id);
        let mut leases = lease::found(filter.clone())?;
        if let Some(package) = project.as_ref().filter(|_| self.package.is_some()) {
            leases.retain(|lease| is_of_package(lease, package));
        }
        if leases.is_empty() {
            refuse_typos(&filter, project.as_ref())?;
        }
        Ok(json!({"leases": leases}))
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Find {
    /// The class of service
    service_type: String,
    /// What it is called; without it, the service that has no name comes first
    service_name: Option<String>,
    /// Absolute path. Default: the project that this server was started in
    project_path: Option<String>,
    /// Only one of this package of the project: its folder from the top, such as apps/api; . is the top. Default: one of
    /// the package that this server was started in, else of any
    package: Option<String>,
}

impl Tool for Find {
    const NAME: &'static str = "port";
    const DESCRIPTION: &'static str = "Look up the port of another service of the project, to connect to it. Never \
        guess it.";
    type Answer = answers::Listed;

    fn answer(self) -> Result<Json, CliError> {
        let is_strict = self.package.is_some();
        let project = package(self.project_path, self.package)?;
        let service = Named::of_type(self.service_type, self.service_name).of(&project);
        let service = service.map_err(|e| usage(&e))?;
        if is_strict { service.of_this_package() } else { service }.lease()
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Check {
    port: Port,
    /// Default: tcp
    #[schemars(with = "Option<String>", extend("enum" = PROTOCOLS))]
    protocol: Option<Protocol>,
}

impl Tool for Check {
    const NAME: &'static str = "check";
    const DESCRIPTION: &'static str = "Check whether a port is free and, if not, which lease or program has it. To \
        get a port, call allocate; this call reserves nothing.";
    type Answer = answers::Checked;

    fn answer(self) -> Result<Json, CliError> {
        Ok(check::check(self.port, self.protocol.unwrap_or_default())?.answer)
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Suggest {
    /// The class of service. Default: those that the files of the project point to
    service_type: Option<String>,
    /// How many. Default: 3
    #[schemars(range(min = 1, max = MOST_PORTS))]
    count: Option<u16>,
    /// What the port is for
    service_name: Option<String>,
    /// Default: as the type has it, else tcp
    #[schemars(with = "Option<String>", extend("enum" = PROTOCOLS))]
    protocol: Option<Protocol>,
    /// Absolute path. Default: the project that this server was started in
    project_path: Option<String>,
    /// The package of the project, by its folder from the top, such as apps/api; . is the top
    package: Option<String>,
}

impl Tool for Suggest {
    const NAME: &'static str = "suggest";
    const DESCRIPTION: &'static str = "Show which ports the next requests would get, and why; without a type, which \
        ports the project needs. Nothing is leased.";
    type Answer = answers::Suggestions;

    fn answer(self) -> Result<Json, CliError> {
        let project = package(self.project_path, self.package)?;
        let mut note = String::new();
        let suggestions = match self.service_type {
            None => {
                let needed = needs::needs(&project)?;
                note = needed.notes.join("\n");
                Json::Array(needed.services)
            }
            Some(service_type) => {
                let mut options = Fields::default();
                options.put("count", self.count.unwrap_or(SUGGESTIONS));
                options.put_some("service_name", self.service_name);
                options.put_some("protocol", self.protocol.map(Protocol::as_str));
                options.put("project_path", project.path().as_str());
                options.put_some("package_path", project.package().map(ProjectPath::as_str));
                suggest::suggest(&service_type, options)?
            }
        };
        let mut answer = json!({"suggestions": suggestions});
        if !note.is_empty() {
            answer["note"] = note.into();
        }
        Ok(answer)
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Audit {
    /// Only this action
    #[schemars(extend("enum" = ACTIONS))]
    action: Option<String>,
    /// Only events of this class of service
    service_type: Option<String>,
    /// Only events of this port
    port: Option<Port>,
    /// Only events of this project; an absolute path
    project_path: Option<String>,
    /// Only events of this agent
    instance_id: Option<String>,
    /// Only events since then: yesterday, 1 hour ago, 2026-11-23 09:00
    since: Option<String>,
    /// Only events until then
    until: Option<String>,
    /// Only the last N events. Default: 20
    lines: Option<usize>,
}

impl Tool for Audit {
    const NAME: &'static str = "audit";
    const DESCRIPTION: &'static str = "Show what happened to ports, from the journal, the oldest first: who was \
        granted, was refused or released which port, when and for what.";
    type Answer = answers::Events;

    fn answer(self) -> Result<Json, CliError> {
        let action = self.action.as_deref().map(known_action).transpose().map_err(|e| usage(&e))?;
        let of_project = self.project_path.map(|path| project(Some(path))).transpose()?;
        let query = Query {
            actions: action.into_iter().collect(),
            types: parsed(self.service_type)?,
            ports: self.port.into_iter().collect(),
            projects: of_project.iter().map(|project| project.path().clone()).collect(),
            instances: parsed(self.instance_id)?,
            since: self.since,
            until: self.until,
            all_users: false,
        };
        let found = audit::find(&query, Some(self.lines.unwrap_or(EVENTS)))?;
        Ok(json!({"events": found.to_json()}))
    }
}

/// The named project, or the one that this server was started in.
fn project(named: Option<String>) -> Result<Project, CliError> {
    let project = named.map_or_else(Project::current, |path| Project::named(path.into()));
    project.map_err(|e| usage(&e))
}

/// The same with the named package, or with that of the folder that names the project.
fn package(project_path: Option<String>, package: Option<String>) -> Result<Project, CliError> {
    let project = project(project_path)?;
    let Some(package) = package else { return Ok(project) };
    let found = project.package_at(package.clone().into()).map_err(|e| usage(&e))?;
    if found.path() == project.path() {
        return Ok(found);
    }
    let (package, path) = (shortened(&package), project.path());
    let error = Error::invalid(format!("{package:?} is not a folder of the project {path}"));
    Err(usage(
        &error.suggest("name it from the project's top, or give its project as project_path"),
    ))
}

fn parsed<T: FromStr<Err = Error>>(text: Option<String>) -> Result<Vec<T>, CliError> {
    text.into_iter().map(|text| text.parse().map_err(|e| usage(&e))).collect()
}
