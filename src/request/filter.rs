use super::{Problems, port, unknown, word};
use crate::{
    error::Error,
    lease::{InstanceId, Lease, LeaseId, MemoryKey, ProjectPath, ServiceName},
    port::{Port, Protocol},
    service_type::ServiceTypeName,
    value::Value,
};

/// Which leases a request applies to. All given conditions must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Only this lease.
    pub lease_id: Option<LeaseId>,
    /// Only leases of this port.
    pub port: Option<Port>,
    /// Only mappings of this port that is asked for.
    pub asked: Option<Port>,
    /// Only leases of this protocol.
    pub protocol: Option<Protocol>,
    /// Only leases of this type.
    pub service_type: Option<ServiceTypeName>,
    /// Only leases of this name.
    pub service_name: Option<ServiceName>,
    /// Only leases requested by this instance.
    pub instance_id: Option<InstanceId>,
    /// Only leases of this checkout.
    pub project_path: Option<ProjectPath>,
    /// Only leases of this block.
    pub block_id: Option<LeaseId>,
}

impl Filter {
    /// Parses a filter for leases from a door; the error names every invalid key.
    pub fn parse<K: AsRef<str>>(keys: impl IntoIterator<Item = (K, Value)>) -> Result<Self, Error> {
        Self::of_keys(keys, "filter key", &Self::KEYS)
    }

    /// Parses a filter for remembered ports, which have no ids.
    pub fn of_memory<K: AsRef<str>>(
        keys: impl IntoIterator<Item = (K, Value)>,
    ) -> Result<Self, Error> {
        Self::of_keys(keys, "filter key for remembered ports", &Self::OF_MEMORY)
    }

    fn of_keys<K: AsRef<str>>(
        keys: impl IntoIterator<Item = (K, Value)>,
        what: &str,
        known: &[&str],
    ) -> Result<Self, Error> {
        let mut problems = Problems::default();
        let mut filter = Self::default();
        for (key, value) in keys {
            let key = key.as_ref();
            let known_as = if key == "lock_id" { "lease_id" } else { key };
            problems.note(match key {
                _ if !known.contains(&known_as) => Err(unknown(what, key, known)),
                "lease_id" | "lock_id" if filter.lease_id.is_some() => Err(Error::invalid(
                    "lease_id is given twice, for lock_id is another name of it",
                )),
                "lease_id" | "lock_id" => word(key, &value).map(|v| filter.lease_id = Some(v)),
                "port" => port(key, &value).map(|v| filter.port = Some(v)),
                "asked" => port(key, &value).map(|v| filter.asked = Some(v)),
                "protocol" => word(key, &value).map(|v| filter.protocol = Some(v)),
                "service_type" => word(key, &value).map(|v| filter.service_type = Some(v)),
                "service_name" => word(key, &value).map(|v| filter.service_name = Some(v)),
                "instance_id" => word(key, &value).map(|v| filter.instance_id = Some(v)),
                "project_path" => word(key, &value).map(|v| filter.project_path = Some(v)),
                "block_id" => word(key, &value).map(|v| filter.block_id = Some(v)),
                _ => Err(unknown(what, key, known)),
            });
        }
        problems.or(filter)
    }

    const KEYS: [&str; 9] = [
        "lease_id",
        "port",
        "asked",
        "protocol",
        "service_type",
        "service_name",
        "instance_id",
        "project_path",
        "block_id",
    ];

    const OF_MEMORY: [&str; 6] =
        ["port", "asked", "protocol", "service_type", "service_name", "project_path"];

    /// Refuses a filter that is empty or has only a protocol, so that nobody ends everything by mistake.
    pub fn some(self) -> Result<Self, Error> {
        if self != (Self { protocol: self.protocol, ..Self::default() }) {
            return Ok(self);
        }
        let filter = self.protocol.map_or("an empty filter", |_| "a protocol alone");
        Err(Error::invalid(format!("{filter} would match everything"))
            .suggest("add another key, such as port or project_path"))
    }

    /// Whether the lease matches.
    pub fn matches(&self, lease: &Lease) -> bool {
        same(self.lease_id.as_ref(), Some(&lease.lease_id))
            && same(self.port.as_ref(), Some(&lease.port))
            && same(self.asked.as_ref(), lease.asked.as_ref())
            && same(self.protocol.as_ref(), Some(&lease.protocol))
            && same(self.service_type.as_ref(), Some(&lease.service_type))
            && same(self.service_name.as_ref(), lease.name())
            && self.instance_id.as_ref().is_none_or(|id| lease.is_held_for(id))
            && same(self.project_path.as_ref(), lease.project_path.as_ref())
            && same(self.block_id.as_ref(), lease.block_id.as_ref())
    }

    /// Whether the port that is remembered under this key matches. `program` was last started on it.
    pub fn matches_memory(
        &self,
        key: &MemoryKey,
        port: Port,
        program: Option<&ServiceName>,
    ) -> bool {
        self.lease_id.is_none()
            && self.instance_id.is_none()
            && self.block_id.is_none()
            && same(self.port.as_ref(), Some(&port))
            && same(self.asked.as_ref(), key.asked.as_ref())
            && same(self.protocol.as_ref(), Some(&key.protocol))
            && same(self.service_type.as_ref(), Some(&key.service_type))
            && same(self.service_name.as_ref(), key.service_name.as_ref().or(program))
            && same(self.project_path.as_ref(), Some(&key.project_path))
    }
}

fn same<T: PartialEq>(wanted: Option<&T>, have: Option<&T>) -> bool {
    wanted.is_none_or(|wanted| have == Some(wanted))
}
