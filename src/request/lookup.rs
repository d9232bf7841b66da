use super::{Problems, flag, unknown, word};
use crate::{
    error::Error,
    lease::{ProjectPath, ServiceName},
    service_type::ServiceTypeName,
    value::Value,
};

/// Which service of a project to look up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LookupRequest {
    /// The checkout.
    pub project_path: ProjectPath,
    /// The package in it whose services come first; without one, those of the project itself.
    pub package_path: Option<ProjectPath>,
    /// Whether to ignore services of other packages.
    pub strict: bool,
    /// The service type; any type if there is none.
    pub service_type: Option<ServiceTypeName>,
    /// The service's name; without one, a service that has no name comes first.
    pub service_name: Option<ServiceName>,
}

impl LookupRequest {
    const KEYS: [&str; 5] =
        ["project_path", "package_path", "strict", "service_type", "service_name"];

    /// Parses keys from a door; the error names every invalid key.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidArgument`](crate::error::ErrorKind::InvalidArgument).
    pub fn parse<K: AsRef<str>>(keys: impl IntoIterator<Item = (K, Value)>) -> Result<Self, Error> {
        let mut problems = Problems::default();
        let (mut project_path, mut package_path, mut strict) = (None, None, false);
        let (mut service_type, mut service_name) = (None, None);
        let mut given = Vec::new();
        for (key, value) in keys {
            let key = key.as_ref();
            given.push(key.to_owned());
            problems.note(match key {
                "project_path" => word(key, &value).map(|v| project_path = Some(v)),
                "package_path" => word(key, &value).map(|v| package_path = Some(v)),
                "strict" => flag(key, &value).map(|v| strict = v),
                "service_type" => word(key, &value).map(|v| service_type = Some(v)),
                "service_name" => word(key, &value).map(|v| service_name = Some(v)),
                _ => Err(unknown("option", key, &Self::KEYS)),
            });
        }
        let is_given = |key: &str| given.iter().any(|given| given == key);
        if !is_given("service_type") && !is_given("service_name") {
            problems.note::<()>(Err(Error::invalid(
                "service_type or service_name is missing: which service is meant?",
            )));
        }
        if !is_given("project_path") {
            problems.note::<()>(Err(Error::invalid(
                "project_path is missing: a service is looked for in its project",
            )));
        }
        let Some(project_path) = project_path else {
            return Err(Error::invalid(problems.0.join("; also: ")));
        };
        problems.or(Self { project_path, package_path, strict, service_type, service_name })
    }

    /// The service in words: `dev web`.
    pub fn words(&self) -> String {
        let class = self.service_type.as_ref().map(ServiceTypeName::as_str);
        let name = self.service_name.as_ref().map(ServiceName::as_str);
        [class, name].into_iter().flatten().collect::<Vec<_>>().join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lookup_wants_a_project_and_says_all_that_is_wrong() {
        let parse = |keys: &[(&str, Value)]| LookupRequest::parse(keys.iter().cloned());
        let project = ("project_path", Value::from("/shop"));
        let known = parse(&[project.clone(), ("service_type", "dev".into())]).unwrap();
        assert_eq!(known.words(), "dev");
        let error = parse(&[("strict", 1u16.into()), ("sevice_name", "web".into())]).unwrap_err();
        for part in ["project_path", "strict must be", "service_name\"?", "which service"] {
            assert!(error.to_string().contains(part), "{part}: {error}");
        }
        assert!(parse(&[project]).is_err());
        let error = parse(&[("project_path", "shop".into()), ("service_name", "".into())]);
        let error = error.unwrap_err().to_string();
        assert!(!error.contains("is missing"), "{error}");
    }
}
