//! Requests: what a client may ask, checked whole before anything happens.

use std::{os::fd::OwnedFd, sync::Arc};

use crate::{
    error::Error,
    lease::{InstanceId, Lease, LeaseId, MemoryKey, ProjectPath, ServiceName, UnitName},
    port::{Port, Protocol},
    service_type::{Hold, ServiceTypeName, nearest},
    value::Value,
    word::shortened,
};

/// The most ports of one request.
pub const MOST_PORTS: u16 = 1_000;

/// The longest time limit, in seconds: a year.
pub const LONGEST_TTL: u64 = 31_536_000;

/// Whose end is to end a lease, as a client says it.
#[derive(Clone, Debug, Default)]
pub enum OwnerRequest {
    /// Nobody's.
    #[default]
    None,
    /// The process of that PID.
    Pid(u32),
    /// The process that this descriptor is of (`pidfd_open(2)`).
    Pidfd(Arc<OwnedFd>),
    /// That unit of the user's manager.
    Unit(UnitName),
    /// The connection that asks.
    Connection,
}

/// A request for a port.
#[derive(Clone, Debug)]
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
    /// TCP, UDP, or the same number in both.
    pub protocol: Protocol,
    /// How many consecutive ports, all or none.
    pub count: u16,
    /// How to keep the port until it is used; else as the service type has it.
    pub hold: Option<Hold>,
    /// The time limit in seconds.
    pub ttl: Option<u64>,
    /// Whose end ends the lease.
    pub owner: OwnerRequest,
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
            count: 1,
            hold: None,
            ttl: None,
            owner: OwnerRequest::None,
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
        let mut owner = OwnerOptions::default();
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
                "count" => whole(key, &value, MOST_PORTS.into())
                    .map(|v| request.count = u16::try_from(v).unwrap_or(MOST_PORTS)),
                "hold" => word(key, &value).map(|v| request.hold = Some(v)),
                "ttl" => whole(key, &value, LONGEST_TTL).map(|v| request.ttl = Some(v)),
                _ => owner
                    .take(key, &value)
                    .unwrap_or_else(|| Err(unknown("option", key, &Self::OPTIONS))),
            });
        }
        if let Some(owner) = problems.note(owner.request()) {
            request.owner = owner;
        }
        if request.hold == Some(Hold::Guard) && request.protocol == Protocol::Udp {
            problems.note::<()>(Err(Error::invalid(
                "a guard can hold a TCP port only: UDP takes hold none, or AllocateSocket",
            )));
        }
        if request.hold == Some(Hold::Socket) {
            problems.note::<()>(Err(Error::invalid(
                "hold socket needs a way to hand the socket over: call AllocateSocket on the bus",
            )));
        }
        if request.strict && request.port.is_none() {
            problems.note::<()>(Err(Error::invalid(
                "strict says that only the asked port counts, but no port is asked for: add a port",
            )));
        }
        problems.or(request)
    }

    /// The same for a request whose socket is handed over.
    pub fn for_socket(self) -> Result<Self, Error> {
        if self.count > 1 || self.protocol == Protocol::Both {
            return Err(Error::invalid(
                "one socket is handed over at a time: ask for one port and one protocol",
            ));
        }
        if self.hold.is_some() || self.dry_run {
            return Err(Error::invalid(
                "a socket that is handed over takes neither hold nor dry_run",
            ));
        }
        Ok(self)
    }

    const OPTIONS: [&str; 14] = [
        "service_name",
        "instance_id",
        "project_path",
        "port",
        "protocol",
        "strict",
        "count",
        "hold",
        "ttl",
        "owner",
        "pid",
        "pidfd",
        "unit",
        "dry_run",
    ];

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

/// A request of an instance to be known.
#[derive(Clone, Debug)]
pub struct InstanceRequest {
    /// Its name.
    pub instance_id: InstanceId,
    /// Its process, if that is to be watched.
    pub owner: OwnerRequest,
    /// Within how many seconds it sends its next heartbeat.
    pub heartbeat: Option<u64>,
}

impl InstanceRequest {
    /// Reads a request from what came through a door.
    pub fn parse<K: AsRef<str>>(
        instance_id: &str,
        options: impl IntoIterator<Item = (K, Value)>,
    ) -> Result<Self, Error> {
        let instance_id = instance_id.parse()?;
        let mut problems = Problems::default();
        let mut owner = OwnerOptions::default();
        let mut heartbeat = None;
        for (key, value) in options {
            let key = key.as_ref();
            problems.note(match key {
                "heartbeat" => whole(key, &value, LONGEST_TTL).map(|v| heartbeat = Some(v)),
                "pid" | "pidfd" => owner.take(key, &value).unwrap_or(Ok(())),
                _ => Err(unknown("option", key, &["heartbeat", "pid", "pidfd"])),
            });
        }
        let owner = problems.note(owner.request()).unwrap_or_default();
        if heartbeat.is_none() && matches!(owner, OwnerRequest::None) {
            problems.note::<()>(Err(Error::invalid(
                "how the end of the instance shows is not said: give a heartbeat in seconds, a pid \
                 or a pidfd",
            )));
        }
        problems.or(Self { instance_id, owner, heartbeat })
    }
}

/// The options that say who the owner is.
#[derive(Default)]
struct OwnerOptions {
    kind: Option<String>,
    pid: Option<u32>,
    pidfd: Option<Arc<OwnedFd>>,
    unit: Option<UnitName>,
}

impl OwnerOptions {
    /// Takes an option if it is one of these.
    fn take(&mut self, key: &str, value: &Value) -> Option<Result<(), Error>> {
        Some(match key {
            "owner" => match value {
                Value::Str(kind) => {
                    self.kind = Some(kind.clone());
                    Ok(())
                }
                other => Err(mismatch(key, "a string", other)),
            },
            "pid" => whole(key, value, i32::MAX.unsigned_abs().into())
                .map(|pid| self.pid = u32::try_from(pid).ok()),
            "pidfd" => match value {
                Value::Descriptor(pidfd) => {
                    self.pidfd = Some(Arc::clone(pidfd));
                    Ok(())
                }
                other => Err(mismatch(key, "the descriptor of a process", other)),
            },
            "unit" => word(key, value).map(|unit| self.unit = Some(unit)),
            _ => return None,
        })
    }

    /// Who is meant. What names an owner may stand without `owner`.
    fn request(self) -> Result<OwnerRequest, Error> {
        let Self { kind, pid, pidfd, unit } = self;
        let kind = kind.as_deref();
        match (kind, pid, pidfd, unit) {
            (None | Some("none"), None, None, None) => Ok(OwnerRequest::None),
            (None | Some("process"), Some(pid), None, None) => Ok(OwnerRequest::Pid(pid)),
            (None | Some("process"), None, Some(pidfd), None) => Ok(OwnerRequest::Pidfd(pidfd)),
            (None | Some("unit"), None, None, Some(unit)) => Ok(OwnerRequest::Unit(unit)),
            (Some("connection"), None, None, None) => Ok(OwnerRequest::Connection),
            (Some("process"), None, None, None) => {
                Err(Error::invalid("owner process needs a pid or a pidfd"))
            }
            (Some("unit"), None, None, None) => Err(Error::invalid("owner unit needs a unit")),
            (Some(kind), ..) if !["none", "process", "unit", "connection"].contains(&kind) => {
                Err(Error::invalid(format!(
                    "{:?} is not an owner: give \"none\", \"process\", \"unit\" or \"connection\"",
                    shortened(kind)
                )))
            }
            _ => Err(Error::invalid(
                "a lease has one owner: give a pid, a pidfd or a unit, and an owner that fits",
            )),
        }
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
    /// Only leases of this block.
    pub block_id: Option<LeaseId>,
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
                "block_id" => word(key, &value).map(|v| filter.block_id = Some(v)),
                _ => Err(unknown("filter key", key, &Self::KEYS)),
            });
        }
        problems.or(filter)
    }

    const KEYS: [&str; 8] = [
        "lease_id",
        "port",
        "protocol",
        "service_type",
        "service_name",
        "instance_id",
        "project_path",
        "block_id",
    ];

    /// Refuses a filter that means every lease: nobody wants to end all of them by a slip.
    pub fn some(self) -> Result<Self, Error> {
        if self == Self::default() {
            return Err(Error::invalid("an empty filter would mean every lease")
                .suggest("name a port, project_path, instance_id, service_type or service_name"));
        }
        Ok(self)
    }

    /// Whether the lease is meant.
    pub fn matches(&self, lease: &Lease) -> bool {
        same(self.lease_id.as_ref(), Some(&lease.lease_id))
            && same(self.port.as_ref(), Some(&lease.port))
            && same(self.protocol.as_ref(), Some(&lease.protocol))
            && same(self.service_type.as_ref(), Some(&lease.service_type))
            && same(self.service_name.as_ref(), lease.service_name.as_ref())
            && same(self.instance_id.as_ref(), lease.instance_id.as_ref())
            && same(self.project_path.as_ref(), lease.project_path.as_ref())
            && same(self.block_id.as_ref(), lease.block_id.as_ref())
    }

    /// Whether what is remembered for that key at that port is meant.
    pub fn matches_memory(&self, key: &MemoryKey, port: Port) -> bool {
        self.lease_id.is_none()
            && self.instance_id.is_none()
            && self.block_id.is_none()
            && same(self.port.as_ref(), Some(&port))
            && same(self.protocol.as_ref(), Some(&key.protocol))
            && same(self.service_type.as_ref(), Some(&key.service_type))
            && same(self.service_name.as_ref(), key.service_name.as_ref())
            && same(self.project_path.as_ref(), Some(&key.project_path))
    }
}

fn same<T: PartialEq>(wanted: Option<&T>, have: Option<&T>) -> bool {
    wanted.is_none_or(|wanted| have == Some(wanted))
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

/// A whole number from 1 to `most`.
fn whole(key: &str, value: &Value, most: u64) -> Result<u64, Error> {
    number(value)
        .filter(|number| (1..=most).contains(number))
        .ok_or_else(|| mismatch(key, &format!("a whole number from 1 to {most}"), value))
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
    fn an_owner_is_named_once_and_completely() {
        let owner = |options: &[(&str, Value)]| parse("dev", options).map(|r| r.owner);
        let pid = ("pid", Value::U32(7));
        let unit = ("unit", Value::from("web.service"));
        assert!(matches!(owner(&[]), Ok(OwnerRequest::None)));
        assert!(matches!(owner(std::slice::from_ref(&pid)), Ok(OwnerRequest::Pid(7))));
        assert!(matches!(owner(std::slice::from_ref(&unit)), Ok(OwnerRequest::Unit(_))));
        let connection = ("owner", Value::from("connection"));
        assert!(matches!(owner(std::slice::from_ref(&connection)), Ok(OwnerRequest::Connection)));
        for wrong in [
            vec![pid.clone(), unit.clone()],
            vec![pid.clone(), connection],
            vec![("owner", "process".into())],
            vec![("owner", "unit".into()), pid],
            vec![("owner", "somebody".into())],
            vec![("unit", "no-suffix".into())],
        ] {
            assert!(owner(&wrong).is_err(), "{wrong:?}");
        }
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
