//! What a project needs, according to its files, each with the port that it would get.

use std::{collections::HashSet, path::Path};

use serde_json::{Value as Json, json};

use super::{CliError, ask, project::Project, suggest::put_service_of, usage};
use crate::{
    client::{Call, Failure},
    lease::ServiceName,
    port::{Port, Protocol},
    project::{self, Need},
    request::MOST_PORTS,
    value::Fields,
};

/// The services that the files of a project suggest, each with the port that it would get if all were leased one
/// after the other, and whether the list is incomplete. In the folder of a package, those of the package, unless it
/// has none.
pub(super) fn needs(project: &Project) -> Result<(Vec<Json>, bool), CliError> {
    let needs = project::needs_with(project.folder(), inner(project));
    let is_here = |need: &Need| is_in(project, project, &need.package);
    let (here, elsewhere): (Vec<_>, Vec<_>) = needs.needs.into_iter().partition(is_here);
    let needed = if here.is_empty() { elsewhere } else { here };
    Ok((all_suggested(project, &needed)?, needs.is_cut_short))
}

/// The same for the whole project, wherever in it the command runs.
pub(super) fn needs_of_all(project: &Project) -> Result<(Vec<Json>, bool), CliError> {
    let needs = project::needs_with(project.folder(), inner(project));
    Ok((all_suggested(project, &needs.needs)?, needs.is_cut_short))
}

/// The package that the command runs in, from the top of the project.
fn inner(project: &Project) -> Option<&Path> {
    let package = Path::new(project.package()?.as_str());
    package.strip_prefix(project.path().as_str()).ok()
}

/// These needs, each with a port of its own.
fn all_suggested(project: &Project, needed: &[Need]) -> Result<Vec<Json>, CliError> {
    let mut found = vec![Json::Null; needed.len()];
    let mut taken = HashSet::new();
    // A port that the project names is that service's, whatever its place in the list.
    let mut order: Vec<_> = (0..needed.len()).collect();
    order.sort_by_key(|at| needed[*at].port.is_none());
    for at in order {
        found[at] = suggested(project, &needed[at], &mut taken)?;
    }
    Ok(found)
}

/// Whether `of` is the package in this folder of the project.
fn is_in(of: &Project, project: &Project, folder: &Path) -> bool {
    let top = Path::new(project.path().as_str());
    of.package().is_some_and(|package| Path::new(package.as_str()) == top.join(folder))
}

/// A need, with a port that is not one of those taken, and takes it.
fn suggested(project: &Project, need: &Need, taken: &mut HashSet<u64>) -> Result<Json, CliError> {
    let of = match need.package.as_os_str() {
        root if root.is_empty() => Project::named(project.folder().into()),
        _ => Project::named(project.folder().join(&need.package).into()),
    };
    let of = of.map_err(|e| usage(&e))?;
    // A folder without a manifest that everybody knows is a part of the package around it.
    let is_package = is_in(&of, project, &need.package);
    let folder = need.package.file_name().and_then(|name| name.to_str());
    let folder = folder.filter(|name| !is_package && name.parse::<ServiceName>().is_ok());
    let name = need.service_name.clone().or(folder.map(str::to_owned));
    let mut options = Fields::default();
    let most = u32::from(MOST_PORTS);
    options.put("count", u32::try_from(taken.len() + 1).unwrap_or(most).min(most));
    options.put_some("service_name", name.clone());
    options.put_some("port", need.port.map(Port::get));
    options.put_some(
        "protocol",
        Some(need.protocol).filter(|p| *p != Protocol::Tcp).map(Protocol::as_str),
    );
    put_service_of(&of, &mut options);
    let service_type = need.service_type.to_owned();
    let suggestions = match ask(&Call::Suggest { service_type, options }) {
        // There is none: the others are of use without this one.
        Err(CliError::Failure(Failure::Refused { .. })) => Json::Null,
        suggestions => suggestions?,
    };
    let suggestions = suggestions.as_array().map(Vec::as_slice).unwrap_or_default();
    let is_new =
        |suggestion: &&Json| suggestion["port"].as_u64().is_some_and(|port| !taken.contains(&port));
    let suggestion = suggestions.iter().find(is_new).cloned().unwrap_or_default();
    taken.extend(suggestion["port"].as_u64());
    Ok(json!({
        "service_type": need.service_type,
        "service_name": name,
        "project_path": of.path(),
        "package_path": of.package(),
        "protocol": need.protocol,
        "wants": need.port,
        "usual": need.usual,
        "port": suggestion["port"],
        "reason": suggestion["reason"],
        "because": need.because,
        "file": need.place.file,
        "line": need.place.line,
        "command": need.command,
        "variable": need.variable,
    }))
}
