//! What a project needs, according to its files, each with the port that it would get.

mod history;

use std::{collections::HashSet, path::Path};

use serde_json::{Value as Json, json};

use self::history::Seen;
pub(super) use self::history::{followers, name};
use super::{CliError, ask, project::Project, text, usage};
use crate::{
    client::{Call, Failure},
    config::Problem,
    error::Error,
    lease::{ProjectPath, ServiceName},
    port::Port,
    project::{self, Need, Needs, Process},
    request::MOST_PORTS,
    value::Fields,
    word::counted,
};

/// The message about a project that was only partly examined.
const CUT_SHORT: &str = "this list is incomplete: the workspace has more members, or its patterns match more folders, \
    than styxy reads; run the command in the member's folder";

/// The services of a project.
pub(super) struct Needed {
    /// Each with the port that it would get if all were leased one after the other.
    pub(super) services: Vec<Json>,
    /// What starts them, with their indices.
    pub(super) processes: Vec<Process>,
    /// Why there may be more, for people.
    pub(super) notes: Vec<String>,
    /// Which get no port, and why.
    pub(super) refusals: Vec<String>,
}

/// The services that a project needs or used to run, those that it ran last month first. In the folder of a package, those
/// of the package and those that always follow them, unless it has none.
pub(super) fn needs(project: &Project) -> Result<Needed, CliError> {
    let needs = read(project)?;
    let mut services = described_with_history(project, &needs)?;
    if services.iter().filter(|service| service["last_seen"].is_string()).count() > 1 {
        history::note_followed(project, &mut services);
    }
    let here = project.package().map(ProjectPath::as_str);
    let is_here = |service: &Json| here.is_some_and(|here| service["package_path"] == here);
    if services.iter().any(is_here) {
        let leaders: Vec<_> = services.iter().filter(|s| is_here(s)).map(history::name).collect();
        let follows_one =
            |service: &Json| leaders.iter().any(|leader| service["follows"] == leader.as_str());
        services.retain(|service| is_here(service) || follows_one(service));
    }
    let refusals = put_ports(&mut services)?;
    services.sort_by_key(|service| service["last_seen"].is_null());
    // Their indices are those of other services.
    Ok(Needed { processes: Vec::new(), refusals, ..needed(needs, services) })
}

/// The services that the whole project needs or used to run, wherever in it the command runs. Those that no file shows
/// come last, and have no `file`.
pub(super) fn needs_with_history(project: &Project) -> Result<Needed, CliError> {
    let needs = read(project)?;
    let mut services = described_with_history(project, &needs)?;
    let refusals = put_ports(&mut services)?;
    Ok(Needed { refusals, ..needed(needs, services) })
}

/// The services that the files of the whole project show.
pub(super) fn needs_of_all(project: &Project) -> Result<Needed, CliError> {
    suggested_each(project, read(project)?)
}

/// The same without ports, and without a service to ask.
pub(super) fn unasked(project: &Project) -> Result<Needed, CliError> {
    let needs = read(project)?;
    let services = described_each(project, &needs)?;
    Ok(needed(needs, services))
}

/// The same as its files show it, whatever its `styxy.json` says.
pub(super) fn found_in(project: &Project) -> Result<Needed, CliError> {
    suggested_each(project, project::found(project.folder(), inner(project)))
}

/// The services of these needs, with what starts them, and what keeps the list from being complete.
fn needed(needs: Needs, services: Vec<Json>) -> Needed {
    let skipped = needs.skipped.iter().map(ToString::to_string);
    let notes = skipped.chain(needs.is_cut_short.then(|| CUT_SHORT.to_owned())).collect();
    Needed { services, processes: needs.processes, notes, refusals: Vec::new() }
}

/// Whether two objects are about one service of a project.
pub(super) fn is_same_service(one: &Json, other: &Json) -> bool {
    ["service_type", "service_name", "package_path"].iter().all(|key| one[*key] == other[*key])
}

fn read(project: &Project) -> Result<Needs, CliError> {
    project::needs(project.folder(), inner(project)).map_err(invalid)
}

/// The ports of the machine that the project reaches with a localhost of its own.
pub(super) fn reach(project: &Project) -> Result<Vec<Port>, CliError> {
    project::reach(project.folder()).map_err(invalid)
}

fn invalid(problems: Vec<Problem>) -> CliError {
    let mut lines: Vec<_> = problems.iter().map(ToString::to_string).collect();
    if problems.len() > 1 {
        lines.insert(0, counted(problems.len() as u64, "problem"));
    }
    usage(&Error::invalid(lines.join("\n")))
}

/// The package that the command runs in, from the top of the project.
fn inner(project: &Project) -> Option<&Path> {
    let package = Path::new(project.package()?.as_str());
    package.strip_prefix(project.path().as_str()).ok()
}

/// These needs, each with a port of its own.
fn suggested_each(project: &Project, needs: Needs) -> Result<Needed, CliError> {
    let mut services = described_each(project, &needs)?;
    let refusals = put_ports(&mut services)?;
    Ok(Needed { refusals, ..needed(needs, services) })
}

/// These needs as services, without ports.
fn described_each(project: &Project, needs: &Needs) -> Result<Vec<Json>, CliError> {
    let services = needs.needs.iter().map(|need| described(project, need));
    let mut services: Vec<_> = services.collect::<Result<_, CliError>>()?;
    note_processes(&mut services, &needs.processes);
    Ok(services)
}

/// The same, each with when it was last seen, and what else was seen here last month. A `styxy.json` says what there is, so
/// nothing is added to it.
fn described_with_history(project: &Project, needs: &Needs) -> Result<Vec<Json>, CliError> {
    let mut services = described_each(project, needs)?;
    for Seen { need, at } in history::seen(project) {
        let mut service = described(project, &need)?;
        if let Some(known) = services.iter_mut().find(|other| is_same_service(other, &service)) {
            known["last_seen"] = at.to_string().into();
        } else if !needs.is_declared {
            service["last_seen"] = at.to_string().into();
            service["file"] = Json::Null;
            services.push(service);
        }
    }
    Ok(services)
}

/// Gives each a port that no other has, where there is one, and says why there is none.
fn put_ports(services: &mut [Json]) -> Result<Vec<String>, CliError> {
    let mut taken = HashSet::new();
    // A port that the project names is that service's, whatever its place in the list.
    let (named, others): (Vec<_>, Vec<_>) =
        services.iter_mut().partition(|service| service["wants"].is_u64());
    let mut refusals = Vec::new();
    for service in named.into_iter().chain(others) {
        match put_port(service, &mut taken) {
            // The others are of use without this one.
            Err(CliError::Failure(failure @ Failure::Refused { .. })) => {
                refusals.push(format!("{} gets no port: {failure}", history::name(service)));
            }
            result => result?,
        }
    }
    Ok(refusals)
}

/// Notes which process starts each service.
fn note_processes(services: &mut [Json], processes: &[Process]) {
    for process in processes {
        if let Some(at) = process.ports.first() {
            services[*at]["process"] = process.name.clone().into();
        }
    }
}

/// A need as a service of its project, without a port.
fn described(project: &Project, need: &Need) -> Result<Json, CliError> {
    let folder = project.folder().join(&need.package);
    let of = Project::named(folder.into()).map_err(|e| usage(&e))?;
    // A folder without a manifest that everybody knows is a part of the package around it.
    let top = Path::new(of.path().as_str());
    let is_package =
        of.package().is_some_and(|package| Path::new(package.as_str()) == top.join(&need.package));
    let folder = need.package.file_name().and_then(|name| name.to_str());
    let folder = folder.filter(|name| !is_package && name.parse::<ServiceName>().is_ok());
    let name = need.service_name.clone().or(folder.map(str::to_owned));
    Ok(json!({
        "service_type": need.service_type,
        "service_name": name,
        "project_path": of.path(),
        "package_path": of.package(),
        "folder": need.package.to_string_lossy(),
        "protocol": need.protocol,
        "count": need.count,
        "wants": need.port,
        "usual": need.usual,
        "port": null,
        "reason": null,
        "because": need.because,
        "file": need.place.file,
        "line": need.place.line,
        "process": null,
        "command": need.command,
        "variable": need.variable,
        "last_seen": null,
        "follows": null,
    }))
}

/// Gives a service a port that is not one of those taken, and takes it.
fn put_port(service: &mut Json, taken: &mut HashSet<u64>) -> Result<(), CliError> {
    let count = service["count"].as_u64().unwrap_or(1);
    let service_type = text(service, "service_type").to_owned();
    let mut options = options_of(service);
    let wanted = service["wants"].as_u64().and_then(Port::new);
    options.put_some("port", wanted.map(Port::get));
    options.put("claim", true);
    // Suggestions are single ports.
    let answer = if count > 1 {
        options.put("dry_run", true);
        ask(&Call::Allocate { service_type, options }).map(|block| json!([block]))
    } else {
        let enough = u32::try_from(taken.len() + 1).unwrap_or(u32::MAX);
        options.put("count", enough.min(MOST_PORTS.into()));
        ask(&Call::Suggest { service_type, options })
    };
    let answer = answer?;
    let ports = |found: &Json| found["port"].as_u64().map(|first| first..first + count);
    let is_new = |found: &&Json| {
        ports(found).is_some_and(|mut ports| ports.all(|port| !taken.contains(&port)))
    };
    let Some(new) = answer.as_array().into_iter().flatten().find(is_new) else { return Ok(()) };
    for key in ["port", "reason"] {
        service[key] = new[key].clone();
    }
    taken.extend(ports(new).into_iter().flatten());
    Ok(())
}

/// The options with which the suggested port of a service is leased.
pub(super) fn options_of(service: &Json) -> Fields {
    let mut options = Fields::default();
    for key in ["service_name", "project_path", "package_path"] {
        options.put_some(key, service[key].as_str().map(str::to_owned));
    }
    let protocol = service["protocol"].as_str().filter(|protocol| *protocol != "tcp");
    options.put_some("protocol", protocol.map(str::to_owned));
    let number = |key: &str| service[key].as_u64().and_then(|number| u16::try_from(number).ok());
    // A port that it has anyway is not asked for: it may be only a substitute, and what is asked for is remembered.
    let has_it = matches!(text(service, "reason"), "existing" | "remembered");
    options.put_some("port", number("port").filter(|_| !has_it));
    options.put_some("count", number("count").filter(|count| *count > 1).map(u32::from));
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_a_service_has_anyway_is_not_asked_for() {
        let port = |reason: &str| {
            let options =
                options_of(&json!({"service_type": "dev", "port": 3000, "reason": reason}));
            options.get("port").is_some()
        };
        assert!(port("asked") && port("first_free") && port("preferred"));
        assert!(!port("existing") && !port("remembered"));
    }
}
