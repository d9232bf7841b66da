//! What can happen to the state, and the numbered record of it.
//!
//! A record is at once a line of the state log, the input of [`Registry::apply`] and the source of
//! one audit event, so these three cannot disagree.
//!
//! [`Registry::apply`]: crate::registry::Registry::apply

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{
    auto_allocation::Placement,
    error::Error,
    lease::{
        self, Client, EndReason, Instance, InstanceId, Lease, MemoryKey, ProjectPath, ServiceName,
    },
    port::{Port, PortRange, Protocol},
    registry::Remembered,
    request::AllocateRequest,
    service_type::ServiceTypeName,
    time::Timestamp,
};

/// One change, with its number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The number of the change: one more than that of the change before, for the life of a state
    /// folder.
    pub seq: u64,
    /// When it happened.
    pub at: Timestamp,
    /// Who asked for it, unless the service did it by itself.
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
        /// What of it is remembered.
        #[serde(skip_serializing_if = "Remembers::is_port", default)]
        remembers: Remembers,
    },
    /// A caller was given a lease that was there already: that of a singleton, or a claim.
    #[serde(rename = "singleton_reuse")]
    Reuse {
        /// The lease as it is now.
        lease: Arc<Lease>,
    },
    /// One of those who share a lease is gone; the others hold it.
    #[serde(rename = "singleton_leave")]
    Leave {
        /// The lease as it is now.
        lease: Arc<Lease>,
        /// Why that one is gone.
        reason: EndReason,
    },
    /// A lease ended because somebody asked for it.
    Release {
        /// The lease as it was.
        lease: Arc<Lease>,
        /// Why it ended.
        reason: EndReason,
    },
    /// A lease ended by itself.
    Expire {
        /// The lease as it was.
        lease: Arc<Lease>,
        /// Why it ended.
        reason: EndReason,
        /// If its grant could not be made durable, the port that was remembered before it.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        remembered: Option<Remembered>,
    },
    /// The owner of a lease is gone, but something listens on its port.
    Orphan {
        /// The lease as it is now.
        lease: Arc<Lease>,
    },
    /// A lease's time limit restarts.
    Renew {
        /// The lease as it is now.
        lease: Arc<Lease>,
    },
    /// A claim is used, or has not been for long.
    Claim {
        /// The lease as it is now.
        lease: Arc<Lease>,
    },
    /// A remembered port was forgotten because somebody asked for it.
    Forget {
        /// What it was remembered for.
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
    /// A service type that nobody configured got a range, or a further one.
    AutoAllocate {
        /// The type.
        service_type: ServiceTypeName,
        /// The new range.
        range: PortRange,
        /// All its ranges.
        ranges: Vec<PortRange>,
        /// How the place was found.
        placement: Placement,
        /// The request that it was for.
        #[serde(flatten)]
        asker: Asker,
    },
    /// Such a type was taken away again.
    UndoAutoAllocation {
        /// The type.
        service_type: ServiceTypeName,
        /// The ranges that it had.
        ranges: Vec<PortRange>,
        /// How their place was found.
        placement: Placement,
    },
    /// The configuration that people have written is another than the one that was told last.
    ConfigReload {
        /// Service types that are there now and were not.
        #[serde(default)]
        added: Vec<TypeRanges>,
        /// Service types that have other ranges now.
        #[serde(default)]
        changed: Vec<TypeRanges>,
        /// Service types that are gone.
        #[serde(default)]
        removed: Vec<ServiceTypeName>,
        /// Tells this configuration from others.
        #[serde(default)]
        fingerprint: u32,
        /// Whether the files still have errors: those that were logged are not logged again.
        #[serde(default)]
        still_wrong: bool,
    },
    /// The configuration has a problem.
    ConfigError {
        /// Where it is and what to do.
        reason: String,
    },
    /// Something of the stored state was damaged.
    Recover {
        /// What was lost, and where the damaged file is now.
        reason: String,
    },
    /// What another registry of this user had is in this one.
    Merge(Merge),
}

/// What a grant means for the port that its slot remembers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Remembers {
    /// From now on it is this port.
    #[default]
    Port,
    /// From now on it is this port, and the other no longer.
    Moved {
        /// The port that was remembered.
        from: Port,
    },
    /// The remembered port could not be had, and stays remembered. This one is tried first as long as it cannot.
    Substitute,
}

impl Remembers {
    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde gives it so")]
    fn is_port(&self) -> bool {
        *self == Self::Port
    }
}

/// What was taken over from another registry of this user.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Merge {
    /// The name of its state, if all of it is here now; `None` if only what it remembers was copied.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub state_id: Option<String>,
    /// The leases that live on here. Those that gave way have ended before, by changes of their own.
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

/// Whom a request was for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asker {
    /// Who asked.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub instance_id: Option<InstanceId>,
    /// The checkout that it was for.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub project_path: Option<ProjectPath>,
}

impl Asker {
    /// Whom that request is for.
    pub fn of(request: &AllocateRequest) -> Self {
        Self {
            instance_id: request.instance_id.clone(),
            project_path: request.project_path.clone(),
        }
    }
}

/// Who was refused what, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Denial {
    /// The class of service that was asked for.
    pub service_type: ServiceTypeName,
    /// The service that it was for.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub service_name: Option<ServiceName>,
    /// Who asked.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub instance_id: Option<InstanceId>,
    /// The checkout that it was for.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub project_path: Option<ProjectPath>,
    /// The asked port.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub port: Option<Port>,
    /// The protocol.
    pub protocol: Protocol,
    /// The code of the error that was answered.
    pub reason: String,
    /// How many such refusals it stands for, within a minute.
    #[serde(skip_serializing_if = "lease::is_one", default = "lease::one")]
    pub count: u32,
}

impl Denial {
    /// What is told of a refused request.
    pub fn new(request: &AllocateRequest, error: &Error) -> Self {
        Self {
            service_type: request.service_type.clone(),
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
    /// The lease that it is about.
    pub fn lease(&self) -> Option<&Arc<Lease>> {
        match self {
            Self::Allocate { lease, .. }
            | Self::Reuse { lease }
            | Self::Leave { lease, .. }
            | Self::Orphan { lease }
            | Self::Renew { lease }
            | Self::Claim { lease }
            | Self::Release { lease, .. }
            | Self::Expire { lease, .. } => Some(lease),
            _ => None,
        }
    }

    /// The instance that it is about.
    pub fn instance(&self) -> Option<&Arc<Instance>> {
        match self {
            Self::RegisterInstance { instance } | Self::EndInstance { instance, .. } => {
                Some(instance)
            }
            _ => None,
        }
    }

    /// Whether a lease or an instance ends by it: there can be no more of these than of those.
    pub fn is_end(&self) -> bool {
        matches!(
            self,
            Self::Release { .. }
                | Self::Expire { .. }
                | Self::Leave { .. }
                | Self::EndInstance { .. }
        )
    }

    /// A grant whose port is remembered.
    pub fn grant(lease: Arc<Lease>) -> Self {
        Self::Allocate { lease, remembers: Remembers::Port }
    }

    /// The end of that lease for that reason.
    pub fn end(lease: Arc<Lease>, reason: EndReason) -> Self {
        match reason {
            EndReason::Released => Self::Release { lease, reason },
            _ => Self::Expire { lease, reason, remembered: None },
        }
    }
}
