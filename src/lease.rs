//! Leases, and the words that describe them.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    error::Error,
    port::{Port, Protocol},
    service_type::{Hold, ServiceTypeName},
    time::{Moment, Timestamp},
    value::Fields,
    word::{shortened, spelled, word},
};

word! {
    /// What a port is for: `web`, `postgres`, … 1 to 100 characters of `[A-Za-z0-9._-]`.
    ServiceName, "service_name", |text| spelled(text, 100, "._-"),
    "use 1 to 100 letters, digits, dots, underscores or hyphens"
}

word! {
    /// The agent, session or tool that asks: 1 to 100 characters of `[A-Za-z0-9_-]`.
    InstanceId, "instance_id", |text| spelled(text, 100, "_-"),
    "use 1 to 100 letters, digits, underscores or hyphens"
}

word! {
    /// A unit of the user's manager: `web.service`, … 1 to 255 characters, as systemd.unit(5) has it.
    UnitName, "unit",
    |text| spelled(text, 255, ":-_.\\@") && text.contains('.'),
    "give the whole name of a unit, for example web.service"
}

word! {
    /// The checkout or worktree that a port is for: an absolute path of at most 1,000 bytes. It is
    /// a name and is never opened.
    ProjectPath, "project_path",
    |text| text.starts_with('/') && text.len() <= 1_000 && !text.chars().any(disturbs),
    "give an absolute path of at most 1,000 bytes, without control characters"
}

/// Whether a character would do something to a terminal: controls, and those that turn the direction of
/// what follows (UAX #9).
fn disturbs(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The name of a lease: a UUID of version 4 (RFC 9562).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LeaseId(Uuid);

impl LeaseId {
    /// A new one, from the kernel's random numbers.
    pub fn random() -> Self {
        Self(Uuid::new_v4())
    }

    /// One made from a number, for tests and simulations.
    pub fn from_number(number: u128) -> Self {
        Self(Uuid::from_u128(number))
    }
}

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

impl fmt::Debug for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for LeaseId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Uuid::try_parse(text).map(Self).map_err(|_| {
            Error::invalid(format!("lease_id {:?} is not a UUID", shortened(text)))
                .suggest("`styxy list` shows the leases with their ids")
        })
    }
}

/// Whose end ends a lease.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Owner {
    /// Nobody's; it ends when it has not been listened on for long.
    #[default]
    None,
    /// A process. Its start time tells it from a later one with the same PID (proc(5), `stat`).
    Process {
        /// The process.
        pid: u32,
        /// When it was started, in clock ticks since the boot.
        start: u64,
    },
    /// A unit of the user's manager; it ends when it becomes inactive or failed.
    Unit {
        /// The unit.
        unit: UnitName,
    },
    /// A connection to the session bus.
    Connection {
        /// Its unique name.
        name: String,
        /// The id of the bus, for names begin anew with another.
        bus: String,
    },
}

impl Owner {
    /// The word for it in every interface.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Process { .. } => "process",
            Self::Unit { .. } => "unit",
            Self::Connection { .. } => "connection",
        }
    }
}

/// The owner in one word, as `STYXY_OWNER` has it.
impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Process { pid, .. } => write!(f, "process:{pid}"),
            Self::Unit { unit } => write!(f, "unit:{unit}"),
            Self::Connection { name, .. } => write!(f, "connection:{name}"),
        }
    }
}

/// A granted port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Its name.
    pub lease_id: LeaseId,
    /// The port.
    pub port: Port,
    /// The protocol that it counts for; the same number may be leased for the other.
    pub protocol: Protocol,
    /// The class of service that was asked for.
    pub service_type: ServiceTypeName,
    /// What the port is for.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub service_name: Option<ServiceName>,
    /// Who asked.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub instance_id: Option<InstanceId>,
    /// The checkout that it is for.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub project_path: Option<ProjectPath>,
    /// Whose end ends it.
    #[serde(default)]
    pub owner: Owner,
    /// How the port is kept.
    #[serde(default)]
    pub hold: Hold,
    /// Its time limit in seconds, counted from the grant or the last renewal.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub ttl: Option<u64>,
    /// When the time limit is reached.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub deadline: Option<Moment>,
    /// Whether its owner is gone while something listened on the port.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub orphaned: bool,
    /// The first lease of the block that it belongs to.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub block_id: Option<LeaseId>,
    /// Whether it is a singleton's lease, which every caller shares.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub singleton: bool,
    /// When it was granted.
    pub since: Timestamp,
}

impl Lease {
    /// The lease as every door shows it.
    pub fn fields(&self) -> Fields {
        let mut fields = Fields(Vec::with_capacity(10));
        fields.put("lease_id", self.lease_id.to_string());
        fields.put("port", self.port.get());
        fields.put("protocol", self.protocol.as_str());
        fields.put("service_type", self.service_type.as_str());
        fields.put_some("service_name", self.service_name.as_ref().map(ServiceName::as_str));
        fields.put_some("instance_id", self.instance_id.as_ref().map(InstanceId::as_str));
        fields.put_some("project_path", self.project_path.as_ref().map(ProjectPath::as_str));
        fields.put("owner", self.owner.as_str());
        match &self.owner {
            Owner::Process { pid, .. } => fields.put("pid", *pid),
            Owner::Unit { unit } => fields.put("unit", unit.as_str()),
            Owner::None | Owner::Connection { .. } => {}
        }
        fields.put("hold", self.hold.as_str());
        fields.put_some("ttl", self.ttl);
        fields.put_some("block_id", self.block_id.map(|id| id.to_string()));
        fields.put("since", self.since.to_string());
        fields
    }

    /// What a later request of the same project is recognised by, if it has a project. A block is
    /// remembered by its first port.
    pub fn memory_key(&self) -> Option<MemoryKey> {
        if self.block_id.is_some_and(|first| first != self.lease_id) {
            return None;
        }
        MemoryKey::new(
            self.project_path.as_ref(),
            &self.service_type,
            self.service_name.as_ref(),
            self.protocol,
        )
    }
}

/// What a remembered port is remembered for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct MemoryKey {
    /// The checkout.
    pub project_path: ProjectPath,
    /// The class of service.
    pub service_type: ServiceTypeName,
    /// The service in it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub service_name: Option<ServiceName>,
    /// The protocol.
    pub protocol: Protocol,
}

impl MemoryKey {
    /// The key; `None` without a project, which nothing is remembered for.
    pub fn new(
        project: Option<&ProjectPath>,
        service_type: &ServiceTypeName,
        service_name: Option<&ServiceName>,
        protocol: Protocol,
    ) -> Option<Self> {
        project.map(|project| Self {
            project_path: project.clone(),
            service_type: service_type.clone(),
            service_name: service_name.cloned(),
            protocol,
        })
    }
}

/// Why a lease ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndReason {
    /// Somebody released it.
    Released,
    /// Its owner is gone.
    OwnerGone,
    /// Its instance is gone, or has stopped its heartbeats.
    InstanceGone,
    /// Its time limit is reached.
    Ttl,
    /// It has not been listened on for long.
    Unused,
    /// Its owner was gone, and now its listener is too.
    ListenerGone,
    /// The machine was started anew, and nothing of before lives.
    NewBoot,
    /// The grant could not be made durable, so it was taken back.
    NotDurable,
}

impl EndReason {
    /// The word for it in signals and in `STYXY_REASON`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Released => "released",
            Self::OwnerGone => "owner_gone",
            Self::InstanceGone => "instance_gone",
            Self::Ttl => "ttl",
            Self::Unused => "unused",
            Self::ListenerGone => "listener_gone",
            Self::NewBoot => "new_boot",
            Self::NotDurable => "not_durable",
        }
    }
}

/// An agent, session or tool that has announced itself; its end ends its leases.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    /// Its name.
    pub instance_id: InstanceId,
    /// The process whose end is its end.
    #[serde(default)]
    pub owner: Owner,
    /// Within how many seconds it sends its next heartbeat, if it sends any.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub heartbeat: Option<u64>,
    /// When it announced itself.
    pub since: Timestamp,
}

impl Instance {
    /// The instance as every door shows it.
    pub fn fields(&self) -> Fields {
        let mut fields = Fields::default();
        fields.put("instance_id", self.instance_id.as_str());
        if let Owner::Process { pid, .. } = self.owner {
            fields.put("pid", pid);
        }
        fields.put_some("heartbeat", self.heartbeat);
        fields.put("since", self.since.to_string());
        fields
    }
}

/// How a request reached the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// The session bus.
    Dbus,
    /// HTTP on the Unix socket.
    Http,
}

impl Transport {
    /// The word for it in `STYXY_TRANSPORT`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Dbus => "dbus",
            Self::Http => "http",
        }
    }
}

/// The process that asked, as the kernel or the bus tells it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Client {
    /// The door.
    pub transport: Transport,
    /// Its process.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub pid: Option<u32>,
    /// Its user.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub uid: Option<u32>,
    /// Its command's name, as in `/proc/PID/comm`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub comm: Option<Arc<str>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_id_parses_or_does_not_exist() {
        let id = LeaseId::random();
        assert_eq!(id.to_string().parse::<LeaseId>().unwrap(), id);
        assert!("1234".parse::<LeaseId>().is_err());
    }

    #[test]
    fn a_project_is_an_absolute_path_without_control_characters() {
        assert!("/home/dev/my project".parse::<ProjectPath>().is_ok());
        for bad in [
            "",
            "relative",
            "/a\u{1b}[31m",
            "/a\nb",
            "/a\u{202e}b",
            &format!("/{}", "x".repeat(1_000)),
        ] {
            assert!(bad.parse::<ProjectPath>().is_err(), "{bad:?}");
        }
    }
}
