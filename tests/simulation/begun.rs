//! What a service has begun because the registry has said so.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use styxy::{
    lease::{InstanceId, Lease, LeaseId, Owner, Remap, Use},
    registry::{Effect, obligations::Limit},
};

/// What is waited for and kept.
#[derive(Default)]
pub struct Begun {
    /// Who is being watched.
    pub watched: HashSet<Owner>,
    /// When leases are looked at.
    pub limits: HashMap<LeaseId, Limit>,
    /// The leases whose ports are kept.
    pub guarded: HashSet<LeaseId>,
    /// The instances whose heartbeats are waited for.
    pub heartbeats: HashSet<InstanceId>,
}

impl Begun {
    /// Begins something, or lets go of it. No guard is begun twice, and none is let go of that is not there.
    pub fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Watch(owner) => _ = self.watched.insert(owner),
            Effect::Unwatch(owner) => _ = self.watched.remove(&owner),
            Effect::Limit(lease_id, Some(limit)) => _ = self.limits.insert(lease_id, limit),
            Effect::Limit(lease_id, None) => _ = self.limits.remove(&lease_id),
            Effect::Guard(lease_id) => assert!(self.guarded.insert(lease_id), "guarded twice"),
            Effect::Reguard(lease) => {
                assert!(self.guarded.insert(lease.lease_id), "guarded twice");
            }
            Effect::Unguard(lease) => {
                assert!(self.guarded.remove(&lease.lease_id), "it had no guard");
            }
            Effect::Heartbeats(instance) => {
                self.heartbeats.insert(instance.instance_id.clone());
            }
            Effect::NoHeartbeats(instance_id) => {
                assert!(self.heartbeats.remove(&instance_id), "nobody waits for them");
            }
        }
    }
}

/// Within a project, a number means one thing: it has one live lease for each protocol, no other's real port is the same, and
/// all are of one mode.
pub fn mean_one_thing<'a>(leases: impl Iterator<Item = &'a Arc<Lease>>) {
    let mut projects: HashMap<_, Vec<&Arc<Lease>>> = HashMap::new();
    for lease in leases.filter(|lease| lease.asked.is_some()) {
        assert!(lease.remap == Remap::Conflict || lease.asked != Some(lease.port), "{lease:?}");
        let project = lease.project_path.as_ref().expect("a mapping is for a project");
        let mappings = projects.entry(project).or_default();
        for other in &*mappings {
            let is_same = other.asked == lease.asked;
            assert!(!is_same || other.protocol != lease.protocol, "{lease:?}, {other:?}");
            assert!(is_same || other.asked != Some(lease.port), "{lease:?}, {other:?}");
            assert!(is_same || lease.asked != Some(other.port), "{lease:?}, {other:?}");
            assert_eq!(other.remap, lease.remap, "{lease:?}, {other:?}");
        }
        mappings.push(lease);
    }
}

/// When a lease is to be looked at, by what it says.
pub fn limit(lease: &Lease) -> Option<Limit> {
    match lease.holders().filter_map(|holder| holder.deadline).min() {
        _ if lease.orphaned => None,
        Some(deadline) => Some(Limit::At(deadline)),
        None if lease.claim && lease.used == Use::None && !lease.is_owned() => Some(Limit::Claimed),
        None => lease.holders().all(|holder| holder.owner.is_none()).then_some(Limit::Unused),
    }
}
