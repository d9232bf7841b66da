//! Leases, and the types of their fields.

use std::{
    borrow::Cow,
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
};

use serde::{Deserialize, Deserializer, Serialize};
use uuid::Uuid;

use crate::{
    error::Error,
    port::{Port, Protocol},
    service_type::{Hold, ServiceTypeName},
    time::{Moment, Timestamp},
    value::Fields,
    word::{disturbs, shortened, spelled, word},
};

word! {
    /// The name of a service: `web`, `postgres`, … 1 to 100 characters of `[A-Za-z0-9._-]`.
    ServiceName, "service_name", |text| spelled(text, 100, "._-"),
    "use 1 to 100 letters, digits, dots, underscores or hyphens"
}

word! {
    /// The agent, session or tool that makes a request: 1 to 100 characters of `[A-Za-z0-9_-]`.
    InstanceId, "instance_id", |text| spelled(text, 100, "_-"),
    "use 1 to 100 letters, digits, underscores or hyphens"
}

word! {
    /// Distinguishes singletons of one service type: 1 to 100 characters of `[A-Za-z0-9._-]`.
    SingletonKey, "singleton_key", |text| spelled(text, 100, "._-"),
    "use 1 to 100 letters, digits, dots, underscores or hyphens"
}

word! {
    /// The name of a unit of the user's service manager, as in systemd.unit(5): `web.service`, … 1 to 255
    /// characters.
    UnitName, "unit",
    |text| spelled(text, 255, ":-_.\\@") && text.contains('.'),
    "give the whole name of a unit, for example web.service"
}

word! {
    /// The checkout or worktree that a port is for: an absolute path of at most 1,000 bytes. It is only a name
    /// and never opened; `/a`, `/a/` and `/a/.` are the same.
    ProjectPath, "project_path",
    |text| text.starts_with('/') && text.len() <= 1_000 && !text.chars().any(disturbs),
    "give an absolute path of at most 1,000 bytes, without control characters",
    plain
}

/// The path without `.` and without repeated or trailing slashes. `..` stays, because it may follow a link.
fn plain(path: &str) -> Cow<'_, str> {
    let is_plain = !(path.contains("//") || path.contains("/./") || path.ends_with("/."))
        && (path == "/" || !path.ends_with('/'));
    if is_plain {
        return path.into();
    }
    let plain: PathBuf = Path::new(path).components().collect();
    plain.to_string_lossy().into_owned().into()
}

/// The service type that ships for the real ports of mappings.
pub const REMAP: &str = "remap";

/// How long a lease is young, in milliseconds.
const YOUNG_MILLIS: u64 = 5_000;

/// The id of a lease: a UUID of version 4 (RFC 9562).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LeaseId(Uuid);

impl LeaseId {
    /// A new id, from the kernel's random number generator.
    pub fn random() -> Self {
        Self(Uuid::new_v4())
    }

    /// An id made from a number, for tests and simulations.
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
                .suggest("`styxy list --json` shows the leases with their ids")
        })
    }
}

/// The id of a holder of a shared lease: a UUID of version 4 (RFC 9562).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct HolderId(Uuid);

impl HolderId {
    /// A new id, from the kernel's random number generator.
    pub fn random() -> Self {
        Self(Uuid::new_v4())
    }

    /// The id of the first holder of a lease. It is derived from the id of the lease, so that a repeated
    /// request can be distinguished from one of another caller.
    pub fn first_of(LeaseId(lease): LeaseId) -> Self {
        // The last 48 bits, all of them random, are inverted.
        Self(Uuid::from_u128(lease.as_u128() ^ 0xFFFF_FFFF_FFFF))
    }

    /// An id made from a number, for tests and simulations.
    pub fn from_number(number: u128) -> Self {
        Self(Uuid::from_u128(number))
    }
}

/// The same id as that of a lease, wherever requests take either.
impl From<HolderId> for LeaseId {
    fn from(HolderId(uuid): HolderId) -> Self {
        Self(uuid)
    }
}

/// Where a request takes the id of a lease, it also takes that of a holder.
impl From<LeaseId> for HolderId {
    fn from(LeaseId(uuid): LeaseId) -> Self {
        Self(uuid)
    }
}

impl fmt::Display for HolderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

/// Whether a claim has been used since it was requested.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Use {
    /// Not used yet; a server may be about to start.
    #[default]
    None,
    /// Unused for long: its port is not granted to others, but is not guarded, either.
    Idle,
    /// A server was seen on its port, or was started for it.
    Once,
}

impl Use {
    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde gives it so")]
    fn is_none(&self) -> bool {
        *self == Self::None
    }
}

/// When the real port of a mapping may be the port that was asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Remap {
    /// Never: nothing outside the project is reached by that number, and the project by nothing outside.
    #[default]
    Private,
    /// When it is free: only what would conflict gets another port.
    Conflict,
}

impl Remap {
    /// Its name in every interface.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Private => "private",
            Self::Conflict => "conflict",
        }
    }

    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde gives it so")]
    fn is_private(&self) -> bool {
        *self == Self::Private
    }
}

impl FromStr for Remap {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "private" => Ok(Self::Private),
            "conflict" => Ok(Self::Conflict),
            _ => Err(Error::invalid(format!(
                "{:?} is not a way to map a port: give \"private\" or \"conflict\"",
                shortened(text)
            ))),
        }
    }
}

/// What owns a lease: when the owner ends, so does the lease.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Owner {
    /// Nothing; the lease ends when nothing has listened on its port for long.
    #[default]
    None,
    /// A process. Its start time distinguishes it from a later one with the same PID (proc(5), `stat`).
    Process {
        /// The PID.
        pid: u32,
        /// When it was started, in clock ticks since boot.
        start: u64,
    },
    /// A unit of the user's service manager; it ends when it becomes inactive or failed.
    Unit {
        /// The unit.
        unit: UnitName,
    },
    /// A connection to the session bus.
    Connection {
        /// Its unique name.
        name: String,
        /// The id of the bus, because each bus numbers its connections from the start.
        bus: String,
    },
}

impl Owner {
    /// Whether there is no owner.
    pub fn is_none(&self) -> bool {
        *self == Self::None
    }

    /// Its name in every interface.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Process { .. } => "process",
            Self::Unit { .. } => "unit",
            Self::Connection { .. } => "connection",
        }
    }
}

/// As in the journal field `STYXY_OWNER`.
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

/// A holder of a lease. Its share ends with its owner, its instance or its time limit, whichever ends first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Its id, if the lease can be shared.
    #[serde(rename = "holder_id", skip_serializing_if = "Option::is_none", default)]
    pub id: Option<HolderId>,
    /// Its owner.
    #[serde(skip_serializing_if = "Owner::is_none", default)]
    pub owner: Owner,
    /// The instance that asked.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub instance_id: Option<InstanceId>,
    /// Its time limit in seconds.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub ttl: Option<u64>,
    /// When the time limit is reached.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub deadline: Option<Moment>,
}

impl Holder {
    /// Whether anything can end its share: a caller without an owner, a time limit or an instance holds
    /// nothing.
    pub fn holds(&self) -> bool {
        !self.owner.is_none() || self.ttl.is_some() || self.instance_id.is_some()
    }

    /// Whether it is the same caller. Callers with neither an owner nor an instance are never the same.
    pub fn is_same_as(&self, other: &Self) -> bool {
        let is_known = !self.owner.is_none() || self.instance_id.is_some();
        is_known && self.owner == other.owner && self.instance_id == other.instance_id
    }
}

/// A granted port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Its id.
    pub lease_id: LeaseId,
    /// The port.
    pub port: Port,
    /// The protocol; the same port number may be leased separately for the other one.
    pub protocol: Protocol,
    /// The port that the program asks for, if this lease is a mapping: `port` is then the real one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub asked: Option<Port>,
    /// How it is mapped; means nothing without `asked`.
    #[serde(skip_serializing_if = "Remap::is_private", default)]
    pub remap: Remap,
    /// The requested service type.
    pub service_type: ServiceTypeName,
    /// The name of the service.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub service_name: Option<ServiceName>,
    /// The program that was last started on it, if the service has no name.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub program: Option<ServiceName>,
    /// The instance that asked.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub instance_id: Option<InstanceId>,
    /// The checkout that it is for.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub project_path: Option<ProjectPath>,
    /// The package in the checkout, if that has several.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub package_path: Option<ProjectPath>,
    /// Its number among the concurrent leases of the service; 0 if its port is not remembered.
    #[serde(skip_serializing_if = "is_one", default = "one")]
    pub slot: u16,
    /// Its owner.
    #[serde(skip_serializing_if = "Owner::is_none", default)]
    pub owner: Owner,
    /// Whether later requests for the same service get this lease again.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub claim: bool,
    /// Whether the claim has been used.
    #[serde(skip_serializing_if = "Use::is_none", default)]
    pub used: Use,
    /// How the port is kept until it is used.
    #[serde(default)]
    pub hold: Hold,
    /// Its time limit in seconds, counted from the grant or the last renewal.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub ttl: Option<u64>,
    /// When the time limit is reached.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub deadline: Option<Moment>,
    /// Whether its owner ended while something listened on the port.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub orphaned: bool,
    /// The id of its first holder, if it can be shared.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub holder_id: Option<HolderId>,
    /// The other holders: further callers of a singleton, a claim or a mapping, those with the oldest shares first.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub sharers: Vec<Holder>,
    /// Distinguishes singletons of one type.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub singleton_key: Option<SingletonKey>,
    /// The first lease of the block that it belongs to.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub block_id: Option<LeaseId>,
    /// The number of ports in that block.
    #[serde(skip_serializing_if = "is_one", default = "one")]
    pub count: u16,
    /// When it was granted.
    pub since: Timestamp,
}

/// For serde: whether a number has the value that is omitted.
pub(crate) fn is_one<T: From<u8> + PartialEq>(number: &T) -> bool {
    *number == one()
}

/// For serde: the value of an omitted number.
pub(crate) fn one<T: From<u8>>() -> T {
    T::from(1)
}

/// For serde: a lease in an `Arc`, without the detour through a `Box` that serde takes for one.
pub(crate) fn in_place<'de, D: Deserializer<'de>>(lease: D) -> Result<Arc<Lease>, D::Error> {
    Lease::deserialize(lease).map(Arc::new)
}

impl Lease {
    /// A lease of a TCP port for this service type, without an owner, and not held.
    pub fn new(lease_id: LeaseId, port: Port, service_type: ServiceTypeName) -> Self {
        Self {
            lease_id,
            port,
            protocol: Protocol::Tcp,
            asked: None,
            remap: Remap::Private,
            service_type,
            service_name: None,
            program: None,
            instance_id: None,
            project_path: None,
            package_path: None,
            slot: 1,
            owner: Owner::None,
            claim: false,
            used: Use::None,
            hold: Hold::None,
            ttl: None,
            deadline: None,
            orphaned: false,
            holder_id: None,
            sharers: Vec::new(),
            singleton_key: None,
            block_id: None,
            count: 1,
            since: Timestamp::default(),
        }
    }

    /// The lease as every door shows it.
    pub fn fields(&self) -> Fields {
        let mut fields = Fields(Vec::with_capacity(10));
        fields.put("lease_id", self.lease_id.to_string());
        fields.put("port", self.port.get());
        fields.put("protocol", self.protocol.as_str());
        fields.put_some("asked", self.asked.map(Port::get));
        fields.put_some("remap", self.asked.map(|_| self.remap.as_str()));
        fields.put("service_type", self.service_type.as_str());
        fields.put_some("service_name", self.name().map(ServiceName::as_str));
        fields.put_some("program", self.program.as_ref().map(ServiceName::as_str));
        fields.put_some("instance_id", self.instance_id.as_ref().map(InstanceId::as_str));
        fields.put_some("project_path", self.project_path.as_ref().map(ProjectPath::as_str));
        fields.put_some("package_path", self.package_path.as_ref().map(ProjectPath::as_str));
        if self.slot != 1 {
            fields.put("slot", self.slot);
        }
        fields.put("owner", self.owner.as_str());
        match &self.owner {
            Owner::Process { pid, .. } => fields.put("pid", *pid),
            Owner::Unit { unit } => fields.put("unit", unit.as_str()),
            Owner::None | Owner::Connection { .. } => {}
        }
        if self.claim {
            fields.put("claim", true);
        }
        fields.put("hold", self.hold_now().as_str());
        fields.put_some("ttl", self.ttl);
        fields.put_some("block_id", self.block_id.map(|id| id.to_string()));
        fields.put_some("singleton_key", self.singleton_key.as_ref().map(SingletonKey::as_str));
        if !self.sharers.is_empty() {
            fields.put("holders", u32::try_from(self.sharers.len() + 1).unwrap_or(u32::MAX));
        }
        fields.put("since", self.since.to_string());
        fields
    }

    /// The name of its service, or else the program that was last started on it.
    pub fn name(&self) -> Option<&ServiceName> {
        self.service_name.as_ref().or(self.program.as_ref())
    }

    /// All its holders, those with the oldest shares first.
    pub fn holders(&self) -> impl Iterator<Item = Holder> {
        let first = Holder {
            id: self.holder_id,
            owner: self.owner.clone(),
            instance_id: self.instance_id.clone(),
            ttl: self.ttl,
            deadline: self.deadline,
        };
        std::iter::once(first).chain(self.sharers.iter().cloned())
    }

    /// Whether any of its holders has an owner.
    pub fn is_owned(&self) -> bool {
        self.owners().next().is_some()
    }

    /// Whether it is a claim that somebody has asked for, who may have written its port down.
    pub fn is_asked_for(&self) -> bool {
        self.claim && self.holders().any(|holder| holder.owner.is_none())
    }

    /// Whether it was granted only just before this time.
    pub fn is_young(&self, at: Timestamp) -> bool {
        at.0.saturating_sub(self.since.0) < YOUNG_MILLIS
    }

    /// Whether it is in use at this time: it has a listener, or an owner, and is not young: what ends at once was only tried.
    pub fn is_in_use(&self, at: Timestamp) -> bool {
        self.orphaned || self.is_owned() && !self.is_young(at)
    }

    /// Whether it is an unused claim without an owner or a time limit: it loses its guard after a while, and
    /// then yields its port when ports are short.
    pub fn is_soft(&self) -> bool {
        self.claim
            && self.used != Use::Once
            && !self.orphaned
            && !self.is_owned()
            && self.nearest_deadline().is_none()
    }

    /// How the port is kept now: an idle claim has lost its guard.
    pub fn hold_now(&self) -> Hold {
        if self.hold == Hold::Guard && self.used == Use::Idle { Hold::None } else { self.hold }
    }

    /// The owners of its holders.
    pub fn owners(&self) -> impl Iterator<Item = &Owner> {
        let owners = std::iter::once(&self.owner).chain(self.sharers.iter().map(|s| &s.owner));
        owners.filter(|owner| !owner.is_none())
    }

    /// Whether one of its holders asked as this instance.
    pub fn is_held_for(&self, instance_id: &InstanceId) -> bool {
        let sharers = self.sharers.iter().map(|holder| &holder.instance_id);
        std::iter::once(&self.instance_id).chain(sharers).any(|id| id.as_ref() == Some(instance_id))
    }

    /// The lease with only these holders, the one with the oldest share first; `None` if there are none.
    pub fn held_by(&self, holders: impl IntoIterator<Item = Holder>) -> Option<Self> {
        let mut holders = holders.into_iter();
        let Holder { id: holder_id, owner, instance_id, ttl, deadline } = holders.next()?;
        let sharers = holders.collect();
        Some(Self { instance_id, owner, ttl, deadline, holder_id, sharers, ..self.clone() })
    }

    /// The ids of its holders.
    pub fn holder_ids(&self) -> impl Iterator<Item = HolderId> {
        self.holder_id.into_iter().chain(self.sharers.iter().filter_map(|holder| holder.id))
    }

    /// The earliest of the deadlines of its holders.
    pub fn nearest_deadline(&self) -> Option<Moment> {
        let sharers = self.sharers.iter().filter_map(|holder| holder.deadline);
        sharers.chain(self.deadline).min()
    }

    /// A description of who holds it, for people.
    pub fn describe_holder(&self) -> String {
        let mut words = match &self.owner {
            Owner::None => Vec::new(),
            Owner::Process { pid, .. } => vec![format!("process {pid}")],
            Owner::Unit { unit } => vec![format!("unit {unit}")],
            Owner::Connection { name, .. } => vec![format!("bus connection {name}")],
        };
        words.extend(self.instance_id.as_ref().map(|id| format!("instance {id}")));
        words.extend(self.project_path.as_ref().map(|path| path.to_string()));
        if words.is_empty() {
            words.push("nobody in particular".to_owned());
        }
        format!("held by {} since {}", words.join(", "), self.since)
    }

    /// The key that its port is remembered under, if it is remembered. A block is remembered by its first port.
    pub fn memory_key(&self) -> Option<MemoryKey> {
        if self.slot == 0 || self.block_id.is_some_and(|first| first != self.lease_id) {
            return None;
        }
        if let Some(asked) = self.asked {
            return Some(MemoryKey::of_mapping(self.project_path.clone()?, self.protocol, asked));
        }
        Some(MemoryKey {
            asked: None,
            project_path: self.project_path.clone()?,
            package_path: self.package_path.clone(),
            service_type: self.service_type.clone(),
            service_name: self.service_name.clone(),
            protocol: self.protocol,
            singleton_key: self.singleton_key.clone(),
            count: self.count,
            slot: self.slot,
        })
    }
}

/// The key of a remembered port: a service of a project, and its number among the concurrent leases of that
/// service; or a port that the programs of a project ask for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct MemoryKey {
    /// The checkout.
    pub project_path: ProjectPath,
    /// The package in it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub package_path: Option<ProjectPath>,
    /// The service type.
    pub service_type: ServiceTypeName,
    /// The name of the service.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub service_name: Option<ServiceName>,
    /// The protocol.
    pub protocol: Protocol,
    /// The port that is asked for, of a mapping.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub asked: Option<Port>,
    /// Distinguishes singletons of one type.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub singleton_key: Option<SingletonKey>,
    /// The number of consecutive ports: blocks are remembered separately.
    #[serde(skip_serializing_if = "is_one", default = "one")]
    pub count: u16,
    /// The first live lease of a service has slot 1, a concurrent one slot 2, and so on.
    #[serde(skip_serializing_if = "is_one", default = "one")]
    pub slot: u16,
}

impl MemoryKey {
    /// Its fields, as in the answers of the doors.
    pub fn fields(&self) -> Fields {
        let mut fields = Fields::default();
        fields.put("protocol", self.protocol.as_str());
        fields.put_some("asked", self.asked.map(Port::get));
        fields.put("service_type", self.service_type.as_str());
        fields.put_some("service_name", self.service_name.as_ref().map(ServiceName::as_str));
        fields.put("project_path", self.project_path.as_str());
        fields.put_some("package_path", self.package_path.as_ref().map(ProjectPath::as_str));
        fields.put_some("singleton_key", self.singleton_key.as_ref().map(SingletonKey::as_str));
        fields.put("count", u32::from(self.count));
        fields.put("slot", self.slot);
        fields
    }

    /// The key of the first lease of a single port for a service without a name.
    pub fn new(
        project_path: ProjectPath,
        service_type: ServiceTypeName,
        protocol: Protocol,
    ) -> Self {
        Self {
            project_path,
            package_path: None,
            service_type,
            service_name: None,
            protocol,
            asked: None,
            singleton_key: None,
            count: 1,
            slot: 1,
        }
    }

    /// The key of a mapping. A number means one thing in a project, so neither the type nor the name of a service counts:
    /// the type is always [`REMAP`].
    pub fn of_mapping(project_path: ProjectPath, protocol: Protocol, asked: Port) -> Self {
        let service_type = REMAP.parse().expect("it is the name of a type");
        Self { asked: Some(asked), ..Self::new(project_path, service_type, protocol) }
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
    /// Its time limit was reached.
    Ttl,
    /// Nothing has listened on its port for long.
    Unused,
    /// Its owner was gone already, and now nothing listens on its port, either.
    ListenerGone,
    /// The machine was rebooted, so nothing from before is alive.
    NewBoot,
    /// The grant could not be made durable, so it was undone.
    NotDurable,
    /// The caller was gone before the answer, so nobody knows of the lease.
    NotDelivered,
    /// Two registries of this user were merged, and a lease of the other one has the port.
    Merged,
    /// While no service guarded the port, another user's program or service took it.
    Taken,
    /// Nobody had used it, and another service needed a port.
    Yielded,
}

impl EndReason {
    /// Its name in signals and in `STYXY_REASON`.
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
            Self::NotDelivered => "not_delivered",
            Self::Merged => "merged",
            Self::Taken => "taken",
            Self::Yielded => "yielded",
        }
    }
}

/// An agent, session or tool that has registered; its leases end with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    /// Its id.
    pub instance_id: InstanceId,
    /// Its process, with which it ends.
    #[serde(default)]
    pub owner: Owner,
    /// The longest time until its next heartbeat, in seconds, if it sends any.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub heartbeat: Option<u64>,
    /// When it registered.
    pub since: Timestamp,
    /// The folder that it works in, if it said so. It is only a name.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub working_directory: Option<ProjectPath>,
    /// What else it said of itself.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub metadata: Option<serde_json::Map<String, serde_json::Value>>,
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// The session bus.
    Dbus,
    /// HTTP on the Unix socket.
    Http,
    /// HTTP over TCP.
    Tcp,
    /// The socket of the port server for tests.
    Portserver,
}

impl Transport {
    /// Its name in `STYXY_TRANSPORT`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Dbus => "dbus",
            Self::Http => "http",
            Self::Tcp => "tcp",
            Self::Portserver => "portserver",
        }
    }

    /// The same for people.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Dbus => "the session bus",
            Self::Http => "its HTTP socket",
            Self::Tcp => "HTTP over TCP",
            Self::Portserver => "the socket of its port server",
        }
    }
}

/// The calling process, as reported by the kernel or the bus.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Client {
    /// The door that it used.
    pub transport: Transport,
    /// Its PID.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub pid: Option<u32>,
    /// Its user ID.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub uid: Option<u32>,
    /// The name of its command, as in `/proc/PID/comm`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub comm: Option<Arc<str>>,
    /// The process that started it, as `bash[4711]`, if it is the command `styxy`, which does not identify the
    /// caller.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub parent: Option<Arc<str>>,
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
        let same = |path: &str| path.parse::<ProjectPath>().unwrap().as_str() == "/a/b";
        assert!(["/a/b", "/a/b/", "/a//b", "/a/./b/.", "//a/b"].into_iter().all(same));
        for other in ["/", "/..", "/a/../b", "/a.", "/a/.b"] {
            assert_eq!(other.parse::<ProjectPath>().unwrap().as_str(), other);
        }
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
