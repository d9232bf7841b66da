//! Requests: what a client may ask, checked whole before anything happens.

use crate::{
    error::Error,
    lease::{InstanceId, Lease, LeaseId, MemoryKey, ProjectPath, ServiceName},
    port::{Port, Protocol},
    service_type::{ServiceTypeName, nearest},
    value::Value,
    word::shortened,
};

/// A request for a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllocateRequest {
    /// The class of service.
    pub service_type: ServiceTypeName,
    /// What the port is for.
    pub service_name: Option<ServiceName>,
    /// Who asks.
    pub instance_id: Option<InstanceId>,
    /// The checkout that it is for.
    pub project_path: Option<ProjectPath>,
    /// The port to try first.
    pub port: Option<Port>,
    /// Whether no other port than `port` will do.
    pub strict: bool,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Whether to answer what would happen, and change nothing.
    pub dry_run: bool,
}

impl AllocateRequest {
    /// A request with nothing but its type.
    pub fn new(service_type: ServiceTypeName) -> Self {
        Self {
            service_type,
            service_name: None,
            instance_id: None,
            project_path: None,
            port: None,
            strict: false,
            protocol: Protocol::default(),
            dry_run: false,
        }
    }

    /// Reads a request from what came through a door; the error names every wrong option.
    pub fn parse<K: AsRef<str>>(
        service_type: &str,
        options: impl IntoIterator<Item = (K, Value)>,
    ) -> Result<Self, Error> {
        let mut problems = Problems::default();
        let service_type = problems.note(service_type.parse());
        let mut request = Self::new(service_type.unwrap_or_else(placeholder));
        for (key, value) in options {
            let key = key.as_ref();
            problems.note(match key {
                "service_name" => word(key, &value).map(|v| request.service_name = Some(v)),
                "instance_id" => word(key, &value).map(|v| request.instance_id = Some(v)),
                "project_path" => word(key, &value).map(|v| request.project_path = Some(v)),
                "port" => port(key, &value).map(|v| request.port = Some(v)),
                "protocol" => word(key, &value).map(|v| request.protocol = v),
                "strict" => flag(key, &value).map(|v| request.strict = v),
                "dry_run" => flag(key, &value).map(|v| request.dry_run = v),
                _ => Err(unknown("option", key, &Self::OPTIONS)),
            });
        }
        if request.strict && request.port.is_none() {
            problems.note::<()>(Err(Error::invalid(
                "strict says that only the asked port counts, but no port is asked for: add a port",
            )));
        }
        problems.or(request)
    }

    const OPTIONS: [&str; 7] =
        ["service_name", "instance_id", "project_path", "port", "protocol", "strict", "dry_run"];

    /// What the answer will be remembered for, if it has a project.
    pub fn memory_key(&self) -> Option<MemoryKey> {
        MemoryKey::new(
            self.project_path.as_ref(),
            &self.service_type,
            self.service_name.as_ref(),
            self.protocol,
        )
    }
}

/// Which leases are meant. Every condition that is given must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Only this lease.
    pub lease_id: Option<LeaseId>,
    /// Only leases of this port.
    pub port: Option<Port>,
    /// Only leases of this protocol.
    pub protocol: Option<Protocol>,
    /// Only leases of this type.
    pub service_type: Option<ServiceTypeName>,
    /// Only leases of this name.
    pub service_name: Option<ServiceName>,
    /// Only leases of this asker.
    pub instance_id: Option<InstanceId>,
    /// Only leases of this checkout.
    pub project_path: Option<ProjectPath>,
}

impl Filter {
    /// Reads a filter from what came through a door; the error names every wrong key.
    pub fn parse<K: AsRef<str>>(keys: impl IntoIterator<Item = (K, Value)>) -> Result<Self, Error> {
        let mut problems = Problems::default();
        let mut filter = Self::default();
        for (key, value) in keys {
            let key = key.as_ref();
            problems.note(match key {
                "lease_id" | "lock_id" => word(key, &value).map(|v| filter.lease_id = Some(v)),
                "port" => port(key, &value).map(|v| filter.port = Some(v)),
                "protocol" => word(key, &value).map(|v| filter.protocol = Some(v)),
                "service_type" => word(key, &value).map(|v| filter.service_type = Some(v)),
                "service_name" => word(key, &value).map(|v| filter.service_name = Some(v)),
                "instance_id" => word(key, &value).map(|v| filter.instance_id = Some(v)),
                "project_path" => word(key, &value).map(|v| filter.project_path = Some(v)),
                _ => Err(unknown("filter key", key, &Self::KEYS)),
            });
        }
        problems.or(filter)
    }

    const KEYS: [&str; 7] = [
        "lease_id",
        "port",
        "protocol",
        "service_type",
        "service_name",
        "instance_id",
        "project_path",
    ];

    /// Whether the lease is meant.
    pub fn matches(&self, lease: &Lease) -> bool {
        fn same<T: PartialEq>(wanted: Option<&T>, have: Option<&T>) -> bool {
            wanted.is_none_or(|wanted| have == Some(wanted))
        }
        same(self.lease_id.as_ref(), Some(&lease.lease_id))
            && same(self.port.as_ref(), Some(&lease.port))
            && same(self.protocol.as_ref(), Some(&lease.protocol))
            && same(self.service_type.as_ref(), Some(&lease.service_type))
            && same(self.service_name.as_ref(), lease.service_name.as_ref())
            && same(self.instance_id.as_ref(), lease.instance_id.as_ref())
            && same(self.project_path.as_ref(), lease.project_path.as_ref())
    }
}

/// All that is wrong with a request, so that it is told at once.
#[derive(Default)]
struct Problems(Vec<String>);

impl Problems {
    fn note<T>(&mut self, result: Result<T, Error>) -> Option<T> {
        result.map_err(|error| self.0.push(error.to_string())).ok()
    }

    fn or<T>(self, request: T) -> Result<T, Error> {
        if self.0.is_empty() { Ok(request) } else { Err(Error::invalid(self.0.join("; also: "))) }
    }
}

/// Stands in for a type that was spelled wrong, so that the other options are still checked.
fn placeholder() -> ServiceTypeName {
    "x".parse().expect("a letter is a name")
}

fn word<T: std::str::FromStr<Err = Error>>(key: &str, value: &Value) -> Result<T, Error> {
    match value {
        Value::Str(text) => text.parse(),
        other => Err(mismatch(key, "a string", other)),
    }
}

fn flag(key: &str, value: &Value) -> Result<bool, Error> {
    match value {
        Value::Bool(flag) => Ok(*flag),
        other => Err(mismatch(key, "true or false", other)),
    }
}

fn number(value: &Value) -> Option<u64> {
    match *value {
        Value::U16(number) => Some(number.into()),
        Value::U32(number) => Some(number.into()),
        Value::U64(number) => Some(number),
        _ => None,
    }
}

fn port(key: &str, value: &Value) -> Result<Port, Error> {
    number(value)
        .and_then(Port::new)
        .ok_or_else(|| mismatch(key, "a number from 1 to 65535", value))
}

fn mismatch(key: &str, wanted: &str, have: &Value) -> Error {
    let have = match have {
        Value::Bool(value) => value.to_string(),
        Value::Str(text) => format!("the string {:?}", shortened(text)),
        Value::Other(words) => words.clone(),
        other => number(other).map_or_else(|| "a list".to_owned(), |number| number.to_string()),
    };
    Error::invalid(format!("{key} must be {wanted}, not {have}"))
}

fn unknown(what: &str, key: &str, known: &[&str]) -> Error {
    let error = Error::invalid(format!("there is no {what} {:?}", shortened(key)));
    match nearest(key, known.iter().copied()) {
        Some(nearest) => error.suggest(format!("did you mean {nearest:?}?")),
        None => error.suggest(format!("the known ones are {}", known.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(service_type: &str, options: &[(&str, Value)]) -> Result<AllocateRequest, Error> {
        AllocateRequest::parse(service_type, options.iter().cloned())
    }

    #[test]
    fn a_whole_request_is_read() {
        let request = parse(
            "dev",
            &[
                ("service_name", "web".into()),
                ("port", Value::U32(3001)),
                ("strict", true.into()),
                ("protocol", "udp".into()),
            ],
        )
        .unwrap();
        assert_eq!(request.service_name.unwrap().as_str(), "web");
        assert_eq!(request.port, Port::new(3001));
        assert!(request.strict);
        assert_eq!(request.protocol, Protocol::Udp);
    }

    #[test]
    fn every_wrong_option_is_named_at_once() {
        let error = parse(
            "no such!",
            &[("port", Value::U64(70_000)), ("strcit", true.into()), ("service_name", 7u16.into())],
        )
        .unwrap_err();
        let text = error.to_string();
        for part in [
            "service_type",
            "port must be",
            "did you mean \"strict\"?",
            "service_name must be a string, not 7",
        ] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
    }

    #[test]
    fn strict_without_a_port_makes_no_sense() {
        assert!(parse("dev", &[("strict", true.into())]).is_err());
    }

    #[test]
    fn a_filter_knows_its_keys() {
        assert!(Filter::parse([("prot", Value::U16(1))]).is_err());
        let filter = Filter::parse([("port", Value::U16(3000))]).unwrap();
        assert_eq!(filter.port, Port::new(3000));
    }
}
