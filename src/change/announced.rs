//! What is announced of a change: a signal on the bus, an event over HTTP.

use super::{Change, TypeRanges};
use crate::{
    lease::{EndReason, Instance, Lease},
    service_type::ServiceTypeName,
    value::Fields,
};

/// One announcement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Announced<'a> {
    /// A port was leased.
    Granted(&'a Lease),
    /// A lease has ended.
    Released(&'a Lease, EndReason),
    /// The owner of a lease is gone, and something still listens on its port.
    Orphaned(&'a Lease),
    /// Something else of a lease has changed.
    Changed(&'a Lease),
    /// An instance has registered.
    InstanceAdded(&'a Instance),
    /// An instance is gone, and why.
    InstanceRemoved(&'a Instance, &'a str),
    /// There is a new service type.
    TypeAdded(&'a ServiceTypeName),
    /// A service type is gone.
    TypeRemoved(&'a ServiceTypeName),
}

impl Change {
    /// The announcements of this change; none if nobody but the audit is told.
    pub fn announced(&self) -> Vec<Announced<'_>> {
        match self {
            Self::Allocate { lease, .. } => vec![Announced::Granted(lease)],
            Self::Merge(merge) => {
                merge.leases.iter().map(|lease| Announced::Granted(lease)).collect()
            }
            Self::Release { lease, reason } | Self::Expire { lease, reason, .. } => {
                vec![Announced::Released(lease, *reason)]
            }
            Self::Orphan { lease } => vec![Announced::Orphaned(lease)],
            Self::Reuse { lease }
            | Self::Leave { lease, .. }
            | Self::Claim { lease }
            | Self::Hold { lease }
            | Self::Renew { lease } => vec![Announced::Changed(lease)],
            Self::RegisterInstance { instance } => vec![Announced::InstanceAdded(instance)],
            Self::EndInstance { instance, reason } => {
                vec![Announced::InstanceRemoved(instance, reason)]
            }
            // A further range is not a new type.
            Self::AutoAllocate { range, ranges, .. } if ranges.first() != Some(range) => Vec::new(),
            Self::AutoAllocate { service_type, .. } => vec![Announced::TypeAdded(service_type)],
            Self::UndoAutoAllocation { service_type, .. } => {
                vec![Announced::TypeRemoved(service_type)]
            }
            Self::ConfigReload { added, removed, .. } => {
                let added = added
                    .iter()
                    .map(|TypeRanges { service_type, .. }| Announced::TypeAdded(service_type));
                added.chain(removed.iter().map(Announced::TypeRemoved)).collect()
            }
            Self::Forget { .. }
            | Self::Deny(_)
            | Self::SetToken { .. }
            | Self::ConfigError { .. }
            | Self::Recover { .. } => Vec::new(),
        }
    }
}

impl Announced<'_> {
    /// The name of the signal.
    pub fn signal(self) -> &'static str {
        match self {
            Self::Granted(_) => "LeaseGranted",
            Self::Released(..) => "LeaseReleased",
            Self::Orphaned(_) => "LeaseOrphaned",
            Self::Changed(_) => "LeaseChanged",
            Self::InstanceAdded(_) => "InstanceAdded",
            Self::InstanceRemoved(..) => "InstanceRemoved",
            Self::TypeAdded(_) => "ServiceTypeAdded",
            Self::TypeRemoved(_) => "ServiceTypeRemoved",
        }
    }

    /// The name of the event.
    pub fn event(self) -> &'static str {
        match self {
            Self::Granted(_) => "lease_granted",
            Self::Released(..) => "lease_released",
            Self::Orphaned(_) => "lease_orphaned",
            Self::Changed(_) => "lease_changed",
            Self::InstanceAdded(_) => "instance_added",
            Self::InstanceRemoved(..) => "instance_removed",
            Self::TypeAdded(_) => "service_type_added",
            Self::TypeRemoved(_) => "service_type_removed",
        }
    }

    /// What an event says.
    pub fn fields(self) -> Fields {
        let mut fields = match self {
            Self::Granted(lease)
            | Self::Released(lease, _)
            | Self::Orphaned(lease)
            | Self::Changed(lease) => lease.fields(),
            Self::InstanceAdded(instance) | Self::InstanceRemoved(instance, _) => instance.fields(),
            Self::TypeAdded(name) | Self::TypeRemoved(name) => {
                let mut fields = Fields::default();
                fields.put("service_type", name.as_str());
                fields
            }
        };
        match self {
            Self::Released(_, reason) => fields.put("reason", reason.as_str()),
            Self::InstanceRemoved(_, reason) => fields.put("reason", reason),
            _ => {}
        }
        fields
    }
}
