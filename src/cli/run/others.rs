//! The ports of other services, which `--with` passes to a command.

use std::str::FromStr;

use serde_json::Value as Json;

use super::{
    super::{port::url_now, project::Project, service::Named},
    CliError, usage,
    variables::Variable,
};
use crate::{error::Error, value::Fields};

/// Another service, and the variable for its port.
#[derive(Clone, Debug)]
pub(super) struct With {
    service: Named,
    pub(super) variable: String,
}

impl FromStr for With {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        // Split at the last `=`: a folder's name may contain one, a variable's name cannot.
        let (service, variable) = text.rsplit_once('=').ok_or_else(|| {
            Error::invalid("which variable gets the port?").suggest("write SERVICE=NAME")
        })?;
        if service.split('@').next().is_some_and(|service| service.contains('=')) {
            return Err(Error::invalid("give one variable for each service"));
        }
        let Variable { name, .. } = variable.parse()?;
        Ok(Self { service: service.parse()?, variable: name })
    }
}

impl With {
    /// The live lease of the service. `own` are the services that the command itself is about to run, each with
    /// its type and the options of its request. Finding one of them is an error: the command would take its own
    /// port for another service's.
    pub(super) fn lease(
        &self,
        is_url: bool,
        project: &Project,
        own: &[(&str, &Fields)],
    ) -> Result<Json, CliError> {
        let Self { service, variable } = self;
        let lease = service.clone().of(project).map_err(|e| usage(&e))?.lease()?;
        if own.iter().any(|(service_type, options)| is_of(&lease, service_type, options)) {
            let flag = if is_url { "--with-url" } else { "--with" };
            let error = Error::invalid(format!(
                "{flag} {service}={variable} matches the service of this command itself"
            ));
            let remedy = format!(
                "name the other one by its package, as in {flag} dev@apps/api={variable}, or by its name, as in {flag} dev:api={variable}"
            );
            return Err(usage(&error.suggest(remedy)));
        }
        Ok(lease)
    }

    /// The variable and its value, the port or its URL.
    pub(super) fn value(&self, is_url: bool, lease: &Json) -> (String, String) {
        (self.variable.clone(), if is_url { url_now(lease) } else { lease["port"].to_string() })
    }
}

/// Whether a lease belongs to the requested service.
fn is_of(lease: &Json, service_type: &str, options: &Fields) -> bool {
    let wanted = serde_json::to_value(options).unwrap_or_default();
    let is_same = |key: &str| wanted[key] == lease[key];
    let is_named = !lease["service_name"].is_null() && lease["program"].is_null();
    // Services without a name are distinguished by their programs. A claim without a program is for the next
    // one that is started.
    let is_named_alike = if wanted["service_name"].is_null() && !is_named {
        is_same("program") || lease["program"].is_null() && lease["claim"] == true
    } else {
        is_named && is_same("service_name")
    };
    lease["service_type"] == service_type
        && ["project_path", "package_path"].into_iter().all(is_same)
        && is_named_alike
}
