//! What a project needs, according to its files, each with the port that it would get.

use std::{collections::HashSet, path::Path};

use serde_json::{Value as Json, json};

use super::{CliError, ask, project::Project, usage};
use crate::{
    client::{Call, Failure},
    error::Error,
    lease::ServiceName,
    port::Port,
    project::{self, Need, Needs, Process},
    request::MOST_PORTS,
    value::Fields,
    word::counted,
};

/// The message about a project that was only partly examined.
const CUT_SHORT: &str = "this is not all: the workspace has more members, or its patterns match more folders, \
    than are looked at; ask in the member's folder";

/// The services of a project.
pub(super) struct Needed {
    /// Each with the port that it would get if all were leased one after the other.
    pub(super) services: Vec<Json>,
    /// What starts them, with their indices.
    pub(super) processes: Vec<Process>,
    /// Why there may be more, for people.
    pub(super) notes: Vec<String>,
}

/// The services that a project needs. In the folder of a package, those of the package, unless it has none.
pub(super) fn needs(project: &Project) -> Result<Needed, CliError> {
    let mut needs = read(project)?;
    let is_here = |need: &Need| is_in(project, project, &need.package);
    if needs.needs.iter().any(is_here) {
        needs.needs.retain(is_here);
    }
    // Their indices are those of all.
    suggested_each(project, Needs { processes: Vec::new(), ..needs })
}

/// The same for the whole project, wherever in it the command runs.
pub(super) fn needs_of_all(project: &Project) -> Result<Needed, CliError> {
    suggested_each(project, read(project)?)
}

/// The same without ports, and without a service to ask.
pub(super) fn unasked(project: &Project) -> Result<Needed, CliError> {
    let needs = read(project)?;
    let notes = notes(&needs);
    let Needs { needs, processes, .. } = needs;
    let services = needs.iter().map(|need| Ok(described(&project_of(project, need)?, need)));
    let mut services: Vec<_> = services.collect::<Result<_, CliError>>()?;
    note_processes(&mut services, &processes);
    Ok(Needed { services, processes, notes })
}

/// The same as its files show it, whatever its `styxy.json` says.
pub(super) fn found_in(project: &Project) -> Result<Needed, CliError> {
    suggested_each(project, project::found(project.folder(), inner(project)))
}

/// What keeps the list from being complete.
fn notes(needs: &Needs) -> Vec<String> {
    let skipped = needs.skipped.iter().map(ToString::to_string);
    skipped.chain(needs.is_cut_short.then(|| CUT_SHORT.to_owned())).collect()
}

fn read(project: &Project) -> Result<Needs, CliError> {
    project::needs(project.folder(), inner(project)).map_err(|problems| {
        let mut lines: Vec<_> = problems.iter().map(ToString::to_string).collect();
        if problems.len() > 1 {
            lines.insert(0, counted(problems.len() as u64, "problem"));
        }
        usage(&Error::invalid(lines.join("\n")))
    })
}

/// The package that the command runs in, from the top of the project.
fn inner(project: &Project) -> Option<&Path> {
    let package = Path::new(project.package()?.as_str());
    package.strip_prefix(project.path().as_str()).ok()
}

/// These needs, each with a port of its own.
fn suggested_each(project: &Project, needs: Needs) -> Result<Needed, CliError> {
    let notes = notes(&needs);
    let Needs { needs, processes, .. } = needs;
    let mut services = vec![Json::Null; needs.len()];
    let mut taken = HashSet::new();
    // A port that the project names is that service's, whatever its place in the list.
    let mut order: Vec<_> = (0..needs.len()).collect();
    order.sort_by_key(|at| needs[*at].port.is_none());
    for at in order {
        services[at] = suggested(project, &needs[at], &mut taken)?;
    }
    note_processes(&mut services, &processes);
    Ok(Needed { services, processes, notes })
}

/// Notes which process starts each service.
fn note_processes(services: &mut [Json], processes: &[Process]) {
    for process in processes {
        if let Some(at) = process.ports.first() {
            services[*at]["process"] = process.name.clone().into();
        }
    }
}

/// Whether `of` is the package in this folder of the project.
fn is_in(of: &Project, project: &Project, folder: &Path) -> bool {
    let top = Path::new(project.path().as_str());
    of.package().is_some_and(|package| Path::new(package.as_str()) == top.join(folder))
}

/// The project and the package that a need is for.
fn project_of(project: &Project, need: &Need) -> Result<Project, CliError> {
    let of = match need.package.as_os_str() {
        root if root.is_empty() => Project::named(project.folder().into()),
        _ => Project::named(project.folder().join(&need.package).into()),
    };
    of.map_err(|e| usage(&e))
}

/// A need as a service of its project, without a port.
fn described(of: &Project, need: &Need) -> Json {
    // A folder without a manifest that everybody knows is a part of the package around it.
    let is_package = is_in(of, of, &need.package);
    let folder = need.package.file_name().and_then(|name| name.to_str());
    let folder = folder.filter(|name| !is_package && name.parse::<ServiceName>().is_ok());
    let name = need.service_name.clone().or(folder.map(str::to_owned));
    json!({
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
    })
}

/// A need, with a port that is not one of those taken, and takes it.
fn suggested(project: &Project, need: &Need, taken: &mut HashSet<u64>) -> Result<Json, CliError> {
    let of = project_of(project, need)?;
    let mut service = described(&of, need);
    let mut options = options_of(&service);
    options.put_some("port", need.port.map(Port::get));
    options.put("claim", true);
    let service_type = need.service_type.to_string();
    let is_block = need.count > 1;
    let call = if is_block {
        // Suggestions are single ports.
        options.put("dry_run", true);
        Call::Allocate { service_type, options }
    } else {
        let most = usize::from(MOST_PORTS);
        options.put("count", u32::try_from((taken.len() + 1).min(most)).unwrap_or(1));
        Call::Suggest { service_type, options }
    };
    let answer = match ask(&call) {
        // There is none: the others are of use without this one.
        Err(CliError::Failure(Failure::Refused { .. })) => Json::Null,
        answer => answer?,
    };
    let found = if is_block { Some(&answer) } else { None };
    let mut found = found.into_iter().chain(answer.as_array().into_iter().flatten());
    let is_new = |port: &u64| !taken.contains(port);
    let new = found.find(|found| found["port"].as_u64().is_some_and(|port| is_new(&port)));
    if let Some(new) = new {
        let first = new["port"].as_u64().unwrap_or_default();
        taken.extend(first..first + u64::from(need.count));
        for key in ["port", "reason"] {
            service[key] = new[key].clone();
        }
    }
    Ok(service)
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
    options.put_some("port", number("port"));
    options.put_some("count", number("count").filter(|count| *count > 1).map(u32::from));
    options
}
