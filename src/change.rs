//! The changes of the state, and their numbered records.
//!
//! The same record is a line of the state log, the input of [`Registry::apply`] and the source of one audit
//! event, so these three cannot disagree.
//!
//! [`Registry::apply`]: crate::registry::Registry::apply

mod announced;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use announced::Announced;

use crate::{
    auto_allocation::Placement,
    error::Error,
    lease::{
        self, Client, EndReason, Instance, InstanceId, Lease, MemoryKey, ProjectPath, ServiceName,
        Use,
    },
    port::{Port, PortRange, Protocol},
    registry::Remembered,
    request::AllocateRequest,
    service_type::ServiceTypeName,
    time::Timestamp,
    token::TokenHash,
};

/// A change with its number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The number of the change: one more than that of the previous change, for as long as the state folder
    /// exists.
    pub seq: u64,
    /// When it happened.
    pub at: Timestamp,
    /// The client that requested it, unless the service acted on its own.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub client: Option<Client>,
    /// What happened.
    pub change: Change,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// A port was leased.
    Allocate {
        /// The new lease.
        #[serde(deserialize_with = "lease::in_place")]
        lease: Arc<Lease>,
        /// The effect on the remembered port.
        #[serde(skip_serializing_if = "Remembers::is_port", default)]
        remembers: Remembers,
    },
    /// A caller got an existing lease: that of a singleton, or a claim.
    #[serde(rename = "singleton_reuse")]
    Reuse {
        /// The lease as it is now.
        lease: Arc<Lease>,
    },
    /// A holder of a shared lease left; the others keep the lease.
    #[serde(rename = "singleton_leave")]
    Leave {
        /// The lease as it is now.
        lease: Arc<Lease>,
        /// Why it left.
        reason: EndReason,
    },
    /// A lease was released on request.
    Release {
        /// The lease as it was.
        lease: Arc<Lease>,
        /// Why it ended.
        reason: EndReason,
    },
    /// A lease ended for any other reason.
    Expire {
        /// The lease as it was.
        lease: Arc<Lease>,
        /// Why it ended.
        reason: EndReason,
        /// If its grant is undone because it could not be made durable: the port that was remembered before it.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        remembered: Option<Remembered>,
    },
    /// The owner of a lease is gone, but something still listens on its port.
    Orphan {
        /// The lease as it is now.
        lease: Arc<Lease>,
    },
    /// The time limit of a lease was restarted.
    Renew {
        /// The lease as it is now.
        lease: Arc<Lease>,
    },
    /// A claim came into use, or has been unused for long.
    Claim {
        /// The lease as it is now.
        lease: Arc<Lease>,
    },
    /// From now on the owner keeps the port of a lease bound itself, or the service guards it again.
    Hold {
        /// The lease as it is now.
        lease: Arc<Lease>,
    },
    /// A remembered port was forgotten on request.
    Forget {
        /// The key that it was remembered under.
        key: MemoryKey,
        /// The port.
        port: Port,
    },
    /// An instance announced itself.
    RegisterInstance {
        /// The instance.
        instance: Arc<Instance>,
    },
    /// An instance is gone.
    EndInstance {
        /// The instance as it was.
        instance: Arc<Instance>,
        /// Why: its process ended, or its heartbeats stopped.
        reason: String,
    },
    /// A well-formed request was refused.
    Deny(Denial),
    /// A service type that is not configured got its first range, or another one.
    AutoAllocate {
        /// The type.
        service_type: ServiceTypeName,
        /// The new range.
        range: PortRange,
        /// All its ranges.
        ranges: Vec<PortRange>,
        /// How the place was chosen.
        placement: Placement,
        /// The instance and the project that it was for.
        #[serde(flatten)]
        asker: Asker,
    },
    /// An automatic type was removed again.
    UndoAutoAllocation {
        /// The type.
        service_type: ServiceTypeName,
        /// The ranges that it had.
        ranges: Vec<PortRange>,
        /// How their place was chosen.
        placement: Placement,
    },
    /// The configuration without automatic types differs from the one that was logged last.
    ConfigReload {
        /// Service types that are new.
        #[serde(default)]
        added: Vec<TypeRanges>,
        /// Service types whose ranges have changed.
        #[serde(default)]
        changed: Vec<TypeRanges>,
        /// Service types that were removed.
        #[serde(default)]
        removed: Vec<ServiceTypeName>,
        /// Distinguishes this configuration from others.
        #[serde(default)]
        fingerprint: u32,
        /// Whether the files still have errors: those that were logged are not logged again.
        #[serde(default)]
        still_wrong: bool,
    },
    /// The configuration has a problem.
    ConfigError {
        /// Where the problem is and what to do.
        reason: String,
    },
    /// A part of the stored state was damaged.
    Recover {
        /// What was lost, and where the damaged file is now.
        reason: String,
    },
    /// Another registry of this user was merged into this one.
    Merge(Merge),
    /// The HTTP door over TCP has another token, or its first one.
    SetToken {
        /// Its SHA-256.
        sha256: TokenHash,
    },
}

/// The effect of a grant on the port that is remembered for its slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Remembers {
    /// The granted port is remembered.
    #[default]
    Port,
    /// The granted port is remembered instead of another one.
    Moved {
        /// The port that was remembered before.
        from: Port,
    },
    /// The remembered port was unavailable, but stays remembered. As long as it stays unavailable, the granted
    /// port is tried first.
    Substitute,
}

impl Remembers {
    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde gives it so")]
    fn is_port(&self) -> bool {
        *self == Self::Port
    }
}

/// What was merged from another registry of this user.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Merge {
    /// The id of its state if the merge is complete; `None` if only its remembered ports were copied.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub state_id: Option<String>,
    /// The leases that continue here. Those that lost a conflict have already been ended by separate changes.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub leases: Vec<Arc<Lease>>,
    /// The instances.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub instances: Vec<Arc<Instance>>,
    /// The remembered ports, the oldest first.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub remembered: Vec<(MemoryKey, Port)>,
}

/// A service type and its ranges.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TypeRanges {
    /// The type.
    pub service_type: ServiceTypeName,
    /// Its ranges, in the order in which they are used.
    pub ranges: Vec<PortRange>,
}

/// The instance and the project that a request was made for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asker {
    /// The instance that asked.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub instance_id: Option<InstanceId>,
    /// The checkout that it was for.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub project_path: Option<ProjectPath>,
}

impl Asker {
    /// The instance and the project of this request.
    pub fn of(request: &AllocateRequest) -> Self {
        Self {
            instance_id: request.instance_id.clone(),
            project_path: request.project_path.clone(),
        }
    }
}

/// A refused request, and why it was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Denial {
    /// The requested service type; `None` if the request was not even read.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub service_type: Option<ServiceTypeName>,
    /// The name of the service, or else its program.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub service_name: Option<ServiceName>,
    /// The instance that asked.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub instance_id: Option<InstanceId>,
    /// The checkout that it was for.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub project_path: Option<ProjectPath>,
    /// The requested port.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub port: Option<Port>,
    /// The protocol.
    pub protocol: Protocol,
    /// The code of the error in the answer.
    pub reason: String,
    /// How many such refusals within a minute this one stands for.
    #[serde(skip_serializing_if = "lease::is_one", default = "lease::one")]
    pub count: u32,
}

impl Denial {
    /// The record of a refused request.
    pub fn new(request: &AllocateRequest, error: &Error) -> Self {
        Self {
            service_type: Some(request.service_type.clone()),
            service_name: request.service_name.clone().or_else(|| request.program.clone()),
            instance_id: request.instance_id.clone(),
            project_path: request.project_path.clone(),
            port: request.port,
            protocol: request.protocol(),
            reason: error.kind.names().code.to_owned(),
            count: 1,
        }
    }
}

impl Change {
    /// The lease that the change affects.
    pub fn lease(&self) -> Option<&Arc<Lease>> {
        match self {
            Self::Allocate { lease, .. }
            | Self::Reuse { lease }
            | Self::Leave { lease, .. }
            | Self::Orphan { lease }
            | Self::Renew { lease }
            | Self::Claim { lease }
            | Self::Hold { lease }
            | Self::Release { lease, .. }
            | Self::Expire { lease, .. } => Some(lease),
            _ => None,
        }
    }

    /// The lease, if the change at this time shows that it is in use, or was until now: see [`Lease::is_in_use`].
    pub fn shows_use_of(&self, at: Timestamp) -> Option<&Lease> {
        let lease = self.lease()?;
        let is_used = match self {
            Self::Expire { reason: EndReason::NotDurable, .. } => false,
            // A claim that a server uses, or has used.
            Self::Claim { .. } | Self::Reuse { .. } | Self::Leave { .. }
                if lease.used == Use::Once =>
            {
                true
            }
            _ => lease.is_in_use(at),
        };
        is_used.then_some(lease)
    }

    /// The instance that the change affects.
    pub fn instance(&self) -> Option<&Arc<Instance>> {
        match self {
            Self::RegisterInstance { instance } | Self::EndInstance { instance, .. } => {
                Some(instance)
            }
            _ => None,
        }
    }

    /// Whether it ends a lease, a share in one or an instance. There cannot be more such changes than there are
    /// of these.
    pub fn is_end(&self) -> bool {
        matches!(
            self,
            Self::Release { .. }
                | Self::Expire { .. }
                | Self::Leave { .. }
                | Self::EndInstance { .. }
        )
    }

    /// The change for a grant whose port is remembered.
    pub fn grant(lease: Arc<Lease>) -> Self {
        Self::Allocate { lease, remembers: Remembers::Port }
    }

    /// The change that ends this lease for this reason.
    pub fn end(lease: Arc<Lease>, reason: EndReason) -> Self {
        match reason {
            EndReason::Released => Self::Release { lease, reason },
            _ => Self::Expire { lease, reason, remembered: None },
        }
    }
}
