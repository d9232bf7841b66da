//! Reading the files of a project is a feature that this build is without.

use serde_json::Value as Json;

use super::{CliError, project::Project, usage};
use crate::{error::Error, port::Port};

/// The services of a project.
pub(super) struct Needed {
    pub(super) services: Vec<Json>,
    pub(super) notes: Vec<String>,
    pub(super) refusals: Vec<String>,
}

pub(super) fn needs(_: &Project) -> Result<Needed, CliError> {
    let missing = Error::invalid("this styxy was built without the feature `project`");
    Err(usage(&missing.suggest("name a service type, such as `styxy suggest dev`")))
}

/// Nothing is known of a project.
pub(super) fn followers(_: &Project, _: &str, _: Option<&str>) -> Vec<String> {
    Vec::new()
}

/// Nothing is known of a project.
#[expect(clippy::unnecessary_wraps, reason = "as with the feature")]
pub(super) fn reach(_: &Project) -> Result<Vec<Port>, CliError> {
    Ok(Vec::new())
}
