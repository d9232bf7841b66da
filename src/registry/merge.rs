//! Merging two registries of one user.
//!
//! Versions before 2.0 could have two: the unit's and a private service's. So can a machine whose systemd has become
//! another one, which keeps a unit's state in another folder. [`merge`] decides what becomes of the leases of both; what it
//! decides is stored and applied like every other change, in this order: the ends of leases that give way, and then, as one
//! change, all that is taken over. If a crash comes in between, the merge is decided once more, from what is there by then,
//! and no end is told a second time.

use std::{collections::HashSet, sync::Arc};

use super::{Registry, Remembered};
use crate::{
    change::{Change, Merge},
    lease::{EndReason, Lease, MemoryKey},
    port::Port,
};

/// How strong a lease's hold on its port is, in ascending order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Grip {
    /// Nothing holds the port for it.
    None,
    /// The service has its guard.
    Guarded,
    /// Something listens on the port, and it may be for this lease.
    MayListen,
    /// Something listens on the port, and the owner of the lease lives or was seen to be survived by its listener.
    Listens,
}

/// Another registry of the same user.
#[derive(Clone, Copy, Debug)]
pub struct Other<'a> {
    /// The id of its state.
    pub state_id: &'a str,
    /// Its contents.
    pub registry: &'a Registry,
    /// Whether its leases are void, because they are of another boot.
    pub is_void: bool,
}

/// The changes by which `ours` takes over the other registry. A port that is leased in both goes to the lease with the
/// stronger hold, else to ours; the same goes for two mappings of one number.
pub fn merge(ours: &Registry, other: Other<'_>, grip: impl Fn(&Lease) -> Grip) -> Vec<Change> {
    let theirs = other.registry;
    let mut changes = Vec::new();
    let mut taken = Merge { state_id: Some(other.state_id.to_owned()), ..Merge::default() };
    // Those of ours that lost their port.
    let mut gone = HashSet::new();
    let mut leases: Vec<_> = theirs.iter().collect();
    leases.sort_unstable_by_key(|lease| (lease.port, lease.protocol));
    for lease in leases {
        if ours.get(lease.lease_id).is_ok() || ours.ended_elsewhere.contains(&lease.lease_id) {
            continue;
        }
        if other.is_void {
            changes.push(Change::end(Arc::clone(lease), EndReason::NewBoot));
            continue;
        }
        let mut rivals: Vec<_> =
            lease.protocol.parts().iter().filter_map(|part| ours.at(lease.port, *part)).collect();
        rivals.extend(ours.same_mapping(lease));
        rivals.sort_unstable_by_key(|rival| rival.lease_id);
        rivals.dedup_by_key(|rival| rival.lease_id);
        rivals.retain(|rival| !gone.contains(&rival.lease_id));
        if rivals.iter().any(|rival| grip(rival) >= grip(lease)) {
            changes.push(Change::end(Arc::clone(lease), EndReason::Merged));
            continue;
        }
        gone.extend(rivals.iter().map(|rival| rival.lease_id));
        let ends =
            rivals.into_iter().map(|rival| Change::end(Arc::clone(rival), EndReason::Merged));
        changes.extend(ends);
        taken.leases.push(Arc::clone(lease));
    }
    if !other.is_void {
        taken.instances = theirs.instances();
        taken.instances.retain(|instance| ours.instance(&instance.instance_id).is_err());
    }
    taken.remembered = unknown(ours, theirs);
    changes.push(Change::Merge(taken));
    changes
}

/// Remembered ports that only the other registry has, the oldest first, as many as there is room for.
pub fn unknown(ours: &Registry, theirs: &Registry) -> Vec<(MemoryKey, Port)> {
    let unknown = theirs.memory().iter().filter(|(key, ..)| ours.memory().get(key).is_none());
    let mut unknown: Vec<_> = unknown.map(|(key, known)| ((**key).clone(), known.port)).collect();
    let room = ours.rules().max_remembered.saturating_sub(ours.memory().len());
    unknown.drain(..unknown.len().saturating_sub(room));
    unknown
}

impl Registry {
    /// Takes over what another registry had.
    pub(super) fn take_over(&mut self, seq: u64, merge: &Merge) {
        for lease in &merge.leases {
            self.insert(Arc::clone(lease));
        }
        for instance in &merge.instances {
            self.insert_instance(Arc::clone(instance));
        }
        for (key, port) in &merge.remembered {
            self.remember(key.clone(), Remembered::new(*port, seq));
        }
        self.ended_elsewhere.clear();
    }
}

#[cfg(test)]
mod tests;
