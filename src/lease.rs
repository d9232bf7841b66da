//! Leases, and the words that describe them.

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
    /// Tells singletons of one service type from one another: 1 to 100 characters of `[A-Za-z0-9._-]`.
    SingletonKey, "singleton_key", |text| spelled(text, 100, "._-"),
    "use 1 to 100 letters, digits, dots, underscores or hyphens"
}

word! {
    /// A unit of the user's manager: `web.service`, … 1 to 255 characters, as systemd.unit(5) has it.
    UnitName, "unit",
    |text| spelled(text, 255, ":-_.\\@") && text.contains('.'),
    "give the whole name of a unit, for example web.service"
}

word! {
    /// The checkout or worktree that a port is for: an absolute path of at most 1,000 bytes. It is
    /// a name and is never opened; `/a`, `/a/` and `/a/.` are the same.
    ProjectPath, "project_path",
    |text| text.starts_with('/') && text.len() <= 1_000 && !text.chars().any(disturbs),
    "give an absolute path of at most 1,000 bytes, without control characters",
    plain
}

/// A path without what says nothing: `.`, and slashes that are repeated or come last. `..` stays, for it may follow a link.
fn plain(path: &str) -> Cow<'_, str> {
    let is_plain = !(path.contains("//") || path.contains("/./") || path.ends_with("/."))
        && (path == "/" || !path.ends_with('/'));
    if is_plain {
        return path.into();
    }
    let plain: PathBuf = Path::new(path).components().collect();
    plain.to_string_lossy().into_owned().into()
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
                .suggest("`styxy list --json` shows the leases with their ids")
        })
    }
}

/// The name of one of those who share a lease: a UUID of version 4 (RFC 9562).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct HolderId(Uuid);

impl HolderId {
    /// A new one, from the kernel's random numbers.
    pub fn random() -> Self {
        Self(Uuid::new_v4())
    }

    /// The name of the first who holds a lease: it follows from the lease's, so that a request that is repeated can be told from
    /// one of another caller.
    pub fn first_of(LeaseId(lease): LeaseId) -> Self {
        // Its node, of 48 random bits, upside down.
        Self(Uuid::from_u128(lease.as_u128() ^ 0xFFFF_FFFF_FFFF))
    }

    /// One made from a number, for tests and simulations.
    pub fn from_number(number: u128) -> Self {
        Self(Uuid::from_u128(number))
    }
}

/// Where a request names a lease, it may name one of those who share it instead.
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

/// How far a claim has come since somebody asked for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Use {
    /// Nobody has used it yet; a server may be about to be started.
    #[default]
    None,
    /// Nobody has used it for long: its port is not granted to others, but not guarded, either.
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

/// Whose end ends a lease.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
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
        /// The id of the bus, because another bus numbers its names from the start.
        bus: String,
    },
}

impl Owner {
    /// Whether it is nobody.
    pub fn is_none(&self) -> bool {
        *self == Self::None
    }

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

/// What a caller of a shared lease lives by: whichever of these ends first ends its share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Its name, if the lease can be shared.
    #[serde(rename = "holder_id", skip_serializing_if = "Option::is_none", default)]
    pub id: Option<HolderId>,
    /// Whose end ends it.
    #[serde(skip_serializing_if = "Owner::is_none", default)]
    pub owner: Owner,
    /// Who asked.
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
    /// Whether there is anything that could end it: a caller that only asks holds nothing.
    pub fn holds(&self) -> bool {
        !self.owner.is_none() || self.ttl.is_some() || self.instance_id.is_some()
    }

    /// Whether it is the same caller, asking again. Callers of which nothing is known are different ones.
    pub fn is_same_as(&self, other: &Self) -> bool {
        let is_known = !self.owner.is_none() || self.instance_id.is_some();
        is_known && self.owner == other.owner && self.instance_id == other.instance_id
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
    /// What was started last on it, where the service has no name of its own.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub program: Option<ServiceName>,
    /// Who asked.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub instance_id: Option<InstanceId>,
    /// The checkout that it is for.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub project_path: Option<ProjectPath>,
    /// The package in the checkout, if that has several.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub package_path: Option<ProjectPath>,
    /// Which of the service's leases at one time it is; 0 for one of which no port is remembered.
    #[serde(skip_serializing_if = "is_one", default = "one")]
    pub slot: u16,
    /// Whose end ends it.
    #[serde(skip_serializing_if = "Owner::is_none", default)]
    pub owner: Owner,
    /// Whether it is given again to whoever asks for the same.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub claim: bool,
    /// How far that has come.
    #[serde(skip_serializing_if = "Use::is_none", default)]
    pub used: Use,
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
    /// The name of the first of those who share it, if it can be shared.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub holder_id: Option<HolderId>,
    /// Who else shares it: the further callers of a singleton, the longest first.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub sharers: Vec<Holder>,
    /// Tells singletons of one type from one another.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub singleton_key: Option<SingletonKey>,
    /// The first lease of the block that it belongs to.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub block_id: Option<LeaseId>,
    /// How many ports that block has.
    #[serde(skip_serializing_if = "is_one", default = "one")]
    pub count: u16,
    /// When it was granted.
    pub since: Timestamp,
}

/// For serde: whether a number is the one that is left out.
pub(crate) fn is_one<T: From<u8> + PartialEq>(number: &T) -> bool {
    *number == one()
}

/// For serde: what a number is that was left out.
pub(crate) fn one<T: From<u8>>() -> T {
    T::from(1)
}

/// For serde: a lease where it is to stay; serde's own way to an `Arc` leads through a `Box`.
pub(crate) fn in_place<'de, D: Deserializer<'de>>(lease: D) -> Result<Arc<Lease>, D::Error> {
    Lease::deserialize(lease).map(Arc::new)
}

impl Lease {
    /// A TCP port for that class of service, which nobody owns and nothing holds.
    pub fn new(lease_id: LeaseId, port: Port, service_type: ServiceTypeName) -> Self {
        Self {
            lease_id,
            port,
            protocol: Protocol::Tcp,
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

    /// What its service is called: by name, else by what was started last.
    pub fn name(&self) -> Option<&ServiceName> {
        self.service_name.as_ref().or(self.program.as_ref())
    }

    /// Everybody who holds it, the longest first.
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

    /// Whether it has an owner whose end ends it, or a part of it.
    pub fn is_owned(&self) -> bool {
        self.owners().next().is_some()
    }

    /// Whether it is a claim that nobody has used yet, and that no time limit keeps: it loses its guard in time, and from then
    /// on gives way where ports are short.
    pub fn is_soft(&self) -> bool {
        self.claim
            && self.used != Use::Once
            && !self.orphaned
            && !self.is_owned()
            && self.nearest_deadline().is_none()
    }

    /// How the port is kept now: a claim that nobody uses has lost its guard.
    pub fn hold_now(&self) -> Hold {
        if self.hold == Hold::Guard && self.used == Use::Idle { Hold::None } else { self.hold }
    }

    /// The owners that it lives by.
    pub fn owners(&self) -> impl Iterator<Item = &Owner> {
        let owners = std::iter::once(&self.owner).chain(self.sharers.iter().map(|s| &s.owner));
        owners.filter(|owner| !owner.is_none())
    }

    /// Whether one of them asked as that instance.
    pub fn is_held_for(&self, instance_id: &InstanceId) -> bool {
        let sharers = self.sharers.iter().map(|holder| &holder.instance_id);
        std::iter::once(&self.instance_id).chain(sharers).any(|id| id.as_ref() == Some(instance_id))
    }

    /// The lease as it is when only these hold it, the longest first; `None` for nobody.
    pub fn held_by(&self, holders: impl IntoIterator<Item = Holder>) -> Option<Self> {
        let mut holders = holders.into_iter();
        let Holder { id: holder_id, owner, instance_id, ttl, deadline } = holders.next()?;
        let sharers = holders.collect();
        Some(Self { instance_id, owner, ttl, deadline, holder_id, sharers, ..self.clone() })
    }

    /// The names of those who share it.
    pub fn holder_ids(&self) -> impl Iterator<Item = HolderId> {
        self.holder_id.into_iter().chain(self.sharers.iter().filter_map(|holder| holder.id))
    }

    /// When the nearest of its time limits is reached.
    pub fn nearest_deadline(&self) -> Option<Moment> {
        let sharers = self.sharers.iter().filter_map(|holder| holder.deadline);
        sharers.chain(self.deadline).min()
    }

    /// Who holds it, for people.
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

    /// What its port is remembered for, if it is. A block is remembered by its first port.
    pub fn memory_key(&self) -> Option<MemoryKey> {
        if self.slot == 0 || self.block_id.is_some_and(|first| first != self.lease_id) {
            return None;
        }
        Some(MemoryKey {
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

/// What a remembered port is remembered for: a service of a project, and which of its leases at one time.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct MemoryKey {
    /// The checkout.
    pub project_path: ProjectPath,
    /// The package in it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub package_path: Option<ProjectPath>,
    /// The class of service.
    pub service_type: ServiceTypeName,
    /// The service in it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub service_name: Option<ServiceName>,
    /// The protocol.
    pub protocol: Protocol,
    /// Tells singletons of one type from one another.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub singleton_key: Option<SingletonKey>,
    /// How many consecutive ports: a block has a memory of its own.
    #[serde(skip_serializing_if = "is_one", default = "one")]
    pub count: u16,
    /// The first live lease of a service has slot 1, one beside it slot 2, and so on.
    #[serde(skip_serializing_if = "is_one", default = "one")]
    pub slot: u16,
}

impl MemoryKey {
    /// The first lease of one port of that service.
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
            singleton_key: None,
            count: 1,
            slot: 1,
        }
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
    /// The machine was rebooted, so nothing of before is alive.
    NewBoot,
    /// The grant could not be made durable, so it was taken back.
    NotDurable,
    /// Whoever asked for it was gone before the answer, so nobody knows of it.
    NotDelivered,
    /// Two registries of this user were merged, and the other one's lease has the port.
    Merged,
    /// While no service guarded the port, another user's program or service took it.
    Taken,
    /// Nobody had used it, and another service needed a port.
    Yielded,
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
            Self::NotDelivered => "not_delivered",
            Self::Merged => "merged",
            Self::Taken => "taken",
            Self::Yielded => "yielded",
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
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

    /// The same for people.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Dbus => "the session bus",
            Self::Http => "its HTTP socket",
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
    /// What has started it, as `bash[4711]`, if it is the command `styxy`, which everybody asks with.
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
