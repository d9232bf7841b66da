//! A filter that matches nothing: a typo in it must not look like success.

use std::path::Path;

use serde_json::Value as Json;

use super::{CliError, ask, failure, lease::found, project::Project, text};
use crate::{
    client::Call,
    error::Error,
    service_type::nearest,
    value::{Fields, Value},
    word::shortened,
};

/// Refuses a filter that matches nothing if there is no such service type or no such project. A lease may outlive its
/// type, and a project its folder.
pub(super) fn refuse_typos(filter: &Fields, project: Option<&Project>) -> Result<(), CliError> {
    if let Some(Value::Str(service_type)) = filter.get("service_type") {
        refuse_unknown_type(service_type)?;
    }
    match project {
        Some(project) if !project.folder().is_dir() => refuse_unknown_project(project),
        _ => Ok(()),
    }
}

fn refuse_unknown_type(name: &str) -> Result<(), CliError> {
    let types = ask(&Call::Types)?;
    let types = || types.as_array().into_iter().flatten().map(|known| text(known, "service_type"));
    if types().any(|known| known == name)
        || all_known()?.iter().any(|known| text(known, "service_type") == name)
    {
        return Ok(());
    }
    Err(failure(&Error::unknown_service_type(name, nearest(name, types()), types())))
}

/// Refuses a project without a folder that has neither a lease nor a remembered port.
fn refuse_unknown_project(project: &Project) -> Result<(), CliError> {
    let path = project.path().as_str();
    let known = all_known()?;
    let known: Vec<_> = known.iter().map(|known| text(known, "project_path")).collect();
    if known.contains(&path) {
        return Ok(());
    }
    // Paths are alike for their beginnings, so only names in the same folder are compared.
    let parts = |path| Path::new(path).parent().zip(Path::new(path).file_name()?.to_str());
    let meant = parts(path).and_then(|(parent, name)| {
        let beside = known.iter().filter_map(|known| parts(known));
        let names = beside.filter(|(other, _)| *other == parent).map(|(_, name)| name);
        Some(parent.join(nearest(name, names)?))
    });
    let error = Error::invalid(format!(
        "there is no folder {:?}, and nothing is leased or remembered for it",
        shortened(path)
    ));
    Err(failure(&match meant {
        Some(meant) => error.suggest(format!("did you mean {:?}?", meant.to_string_lossy())),
        None => error.suggest("name the project as `styxy list` shows it"),
    }))
}

/// Everything that is leased or remembered.
fn all_known() -> Result<Vec<Json>, CliError> {
    let mut known = found(Fields::default())?;
    let remembered = ask(&Call::Remembered { filter: Fields::default() })?;
    known.extend(remembered.as_array().into_iter().flatten().cloned());
    Ok(known)
}
