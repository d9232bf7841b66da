//! Services of a project, as users name them, and their leases.

use std::{fmt, path::Path, str::FromStr};

use serde_json::Value as Json;

use super::{
    CliError, ask, lease::found, lease_options::unit_of, list::is_of_package, project::Project,
    text,
};
use crate::{
    client::Call,
    error::{Error, ErrorKind},
    lease::{ProjectPath, ServiceName},
    service_type::ServiceTypeName,
    value::Fields,
    word::shortened,
};

/// A service as users name it: `web` or `dev` by its name or its type, `dev:web` by both, and `dev@apps/api`
/// in another package.
#[derive(Clone, Debug)]
pub(super) struct Named {
    which: Which,
    /// The folder of its package, if given.
    package: Option<String>,
}

#[derive(Clone, Debug)]
enum Which {
    /// A name or, if no service has it, a type.
    Word(String),
    /// A type, and a name if the service has one.
    Service { class: String, name: Option<String> },
}

impl FromStr for Named {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let (service, package) = match text.split_once('@') {
            Some((service, package)) => (service, Some(package.to_owned())),
            None => (text, None),
        };
        if package.as_ref().is_some_and(String::is_empty) {
            let error = Error::invalid(format!("{:?} names no package", shortened(text)));
            return Err(
                error.suggest("write the folder of the package behind @, as in dev@apps/api")
            );
        }
        let which = match service.split_once(':') {
            Some((class, name)) => {
                let name: ServiceName = name.parse()?;
                Which::Service { class: typed(class)?, name: Some(name.to_string()) }
            }
            None => Which::Word(service.parse::<ServiceName>()?.to_string()),
        };
        Ok(Self { which, package })
    }
}

fn typed(class: &str) -> Result<String, Error> {
    Ok(class.parse::<ServiceTypeName>()?.as_str().to_owned())
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let package = self.package.as_ref().map(|package| format!("@{package}"));
        let package = package.unwrap_or_default();
        match &self.which {
            Which::Word(class) | Which::Service { class, name: None } => {
                write!(f, "{class}{package}")
            }
            Which::Service { class, name: Some(name) } => write!(f, "{class}:{name}{package}"),
        }
    }
}

impl Named {
    /// Names a service by its type, and by its name if it has one.
    #[cfg(feature = "mcp")]
    pub(super) fn of_type(class: String, name: Option<String>) -> Self {
        Self { which: Which::Service { class, name }, package: None }
    }

    /// Adds a name that was given separately: the word is the type then. Fails if there is a name already.
    pub(super) fn with_name(self, name: String) -> Result<Self, Error> {
        match self.which {
            Which::Word(class) => {
                let which = Which::Service { class: typed(&class)?, name: Some(name) };
                Ok(Self { which, ..self })
            }
            Which::Service { .. } => {
                let error = Error::invalid(format!("{self} has a name already"));
                Err(error.suggest("leave out --name"))
            }
        }
    }

    /// Whether a package is given.
    pub(super) fn has_package(&self) -> bool {
        self.package.is_some()
    }

    /// Returns the service in that project, or in the given package.
    pub(super) fn of(self, project: &Project) -> Result<Service, Error> {
        let Some(package) = &self.package else {
            return Ok(Service { project: project.clone(), strict: false, named: self });
        };
        Ok(Service { project: project.package_at(package.into())?, strict: true, named: self })
    }
}

/// A service to look up.
pub(super) struct Service {
    named: Named,
    project: Project,
    /// Whether only the project's own package is searched.
    strict: bool,
}

impl Service {
    /// The same service, but only in the project's own package.
    pub(super) fn of_this_package(self) -> Self {
        Self { strict: true, ..self }
    }

    /// Looks up its lease.
    pub(super) fn lease(&self) -> Result<Json, CliError> {
        match &self.named.which {
            Which::Service { class, name } => self.typed(class, name.as_deref(), self.strict),
            Which::Word(word) => self.by_word(word),
        }
    }

    /// The own package takes precedence over others, and within each a name over a type.
    fn by_word(&self, word: &str) -> Result<Json, CliError> {
        let by_name = self.look_up(None, Some(word), self.strict);
        let is_own = |lease: &Json| is_of_package(lease, &self.project);
        if by_name.as_ref().is_ok_and(is_own) || word.parse::<ServiceTypeName>().is_err() {
            return by_name;
        }
        let of_own_type = self.typed(word, None, true);
        if self.strict {
            return of_own_type;
        }
        if let Some(lease) = unless_missing(of_own_type)? {
            return Ok(lease);
        }
        if let Some(lease) = unless_missing(by_name)? {
            return Ok(lease);
        }
        match self.typed(word, None, false) {
            Err(CliError::Failure(failure)) if failure.is(ErrorKind::NoSuchLease) => {
                self.of_folder(word)?.ok_or(CliError::Failure(failure))
            }
            lease => lease,
        }
    }

    /// The only lease of a package in a folder of this name that has no name itself: what `styxy env` calls so.
    fn of_folder(&self, name: &str) -> Result<Option<Json>, CliError> {
        let mut filter = Fields::default();
        filter.put("project_path", self.project.path().as_str());
        let mut leases = found(filter)?;
        leases.retain(|lease| {
            let package = Path::new(text(lease, "package_path")).file_name();
            lease["service_name"].is_null() && package.is_some_and(|folder| folder == name)
        });
        let only = leases.pop();
        Ok(only.filter(|_| leases.is_empty()))
    }

    fn typed(&self, class: &str, name: Option<&str>, strict: bool) -> Result<Json, CliError> {
        // Without a given name, the service of a unit is named after the unit.
        let of_unit = name.is_none().then(|| unit_of(&self.project)).flatten();
        if of_unit.is_some()
            && let Some(lease) =
                unless_missing(self.look_up(Some(class), of_unit.as_deref(), strict))?
        {
            return Ok(lease);
        }
        self.look_up(Some(class), name, strict)
    }

    fn look_up(
        &self,
        class: Option<&str>,
        name: Option<&str>,
        strict: bool,
    ) -> Result<Json, CliError> {
        let mut service = Fields::default();
        service.put("project_path", self.project.path().as_str());
        service.put_some("package_path", self.project.package().map(ProjectPath::as_str));
        service.put("strict", strict);
        service.put_some("service_type", class.map(str::to_owned));
        service.put_some("service_name", name.map(str::to_owned));
        ask(&Call::Lookup { service })
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.named.fmt(f)
    }
}

/// Turns the error that there is no such lease into `None`.
pub(super) fn unless_missing(lease: Result<Json, CliError>) -> Result<Option<Json>, CliError> {
    match lease {
        Err(CliError::Failure(failure)) if failure.is(ErrorKind::NoSuchLease) => Ok(None),
        lease => lease.map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_named_by_a_word_a_type_and_a_name_and_a_package() {
        for text in ["web", "my.app", "dev:web", "dev@apps/api", "dev:web@/srv/a b=c@d"] {
            assert_eq!(text.parse::<Named>().unwrap().to_string(), text);
        }
        let named: Named = "dev@apps/api".parse().unwrap();
        assert_eq!(named.with_name("web".to_owned()).unwrap().to_string(), "dev:web@apps/api");
        let named: Named = "dev:web".parse().unwrap();
        assert!(named.with_name("api".to_owned()).is_err());
        for wrong in ["", "@apps/api", "dev@", "dev:", ":web", "a b", "a.b:web"] {
            assert!(wrong.parse::<Named>().is_err(), "{wrong}");
        }
    }
}
