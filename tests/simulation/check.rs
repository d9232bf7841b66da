//! Everything that can be seen of the registry beside everything that the model knows.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use styxy::{
    lease::{Lease, LeaseId, Owner, Use},
    port::{Port, Protocol},
    request::{AllocateRequest, Filter},
    service_type::Hold,
};

use crate::{
    begun::{Begun, limit, mean_one_thing},
    fleet::{Fleet, is_server},
    model::PORTS,
    service::Service,
};

impl Fleet {
    /// Compares all of it, and checks that nothing lives by what has ended.
    pub fn check(&self) {
        let service = &self.service;
        assert!(service.registry.rules() == &service.rules);
        leases(service);
        ports(service);
        owners(service, self);
        obligations(service);
        singletons(service);
        memory(service);
        told(service);
        mean_one_thing(service.model.leases());
    }
}

fn leases(service: &Service) {
    let Service { registry, model, .. } = service;
    let listed = registry.list(&Filter::default());
    let places: Vec<_> = listed.iter().map(|lease| (lease.port, lease.protocol)).collect();
    assert!(places.is_sorted_by(|a, b| a < b), "leased twice, or out of order");
    assert_eq!((listed.len(), registry.iter().count()), (model.live, model.live));
    let same = |(ours, theirs)| Arc::ptr_eq(ours, theirs);
    assert!(model.leases().zip(&listed).all(same), "the lists differ");
    for lease in &listed {
        assert!(registry.get(lease.lease_id).is_ok_and(|found| Arc::ptr_eq(found, lease)));
    }
}

fn ports(service: &Service) {
    for port in (1..PORTS as u64).filter_map(Port::new) {
        let [tcp, udp] = [0, 1].map(|part| service.model.lease_at(part, port));
        let expected = [(Protocol::Tcp, tcp), (Protocol::Udp, udp), (Protocol::Both, tcp.or(udp))];
        for (protocol, expected) in expected {
            let found = service.registry.at(port, protocol);
            let same = match (found, expected) {
                (Some(found), Some(expected)) => Arc::ptr_eq(found, expected),
                (found, expected) => found.is_none() && expected.is_none(),
            };
            assert!(same, "{protocol} port {port}: {found:?}, not {expected:?}");
        }
    }
}

fn owners(service: &Service, fleet: &Fleet) {
    let Service { registry, model, begun: Begun { watched, .. }, .. } = service;
    let mut owned: HashMap<Owner, Vec<&Arc<Lease>>> = HashMap::new();
    let alive: HashSet<_> = fleet.agents.iter().map(|agent| &agent.owner).collect();
    let dead: HashSet<_> = fleet.dead.iter().collect();
    let instances: HashSet<_> = fleet.agents.iter().map(|agent| &agent.instance).collect();
    let mut orphans = Vec::new();
    for lease in model.leases() {
        if lease.orphaned {
            orphans.push(Arc::clone(lease));
        }
        for holder in lease.holders() {
            let lives = if is_server(&holder.owner) {
                !dead.contains(&holder.owner)
            } else {
                alive.contains(&holder.owner)
            };
            assert!(lease.orphaned || lives, "{lease:?}");
            // An orphan that is renewed lives by its time limit.
            let limited = lease.orphaned || holder.owner != Owner::None || holder.ttl.is_some();
            assert!(
                limited || instances.contains(&holder.instance_id) || holder.instance_id.is_none(),
                "{lease:?}"
            );
            if holder.owner != Owner::None && !lease.orphaned {
                owned.entry(holder.owner).or_default().push(lease);
            }
        }
    }
    orphans.sort_unstable_by_key(|lease| lease.lease_id);
    assert_eq!(registry.orphans(), orphans);
    let by_id = |lease: &&Arc<Lease>| -> LeaseId { lease.lease_id };
    for (owner, leases) in &mut owned {
        leases.sort_unstable_by_key(by_id);
        leases.dedup_by_key(|lease| lease.lease_id);
        let found = registry.owned_by(owner);
        assert!(found.iter().eq(leases.iter().copied()), "{owner:?}: {found:?}");
    }
    let all = fleet.dead.iter().chain(alive).filter(|owner| **owner != Owner::None);
    for owner in all {
        assert_eq!(registry.needs(owner), model.needs(owner), "{owner:?}");
        assert!(owned.contains_key(owner) || registry.owned_by(owner).is_empty(), "{owner:?}");
    }
    for owner in watched {
        assert!(model.needs(owner), "{owner:?} is watched for nothing");
    }
    for owner in owned.keys() {
        assert!(watched.contains(owner), "nobody waits for the end of {owner:?}");
    }
    let found: BTreeMap<_, _> =
        registry.instances().iter().map(|i| (i.instance_id.clone(), i.owner.clone())).collect();
    assert_eq!(found, model.instances);
}

/// What is waited for and kept is what the leases and instances say, no more and no less.
fn obligations(service: &Service) {
    let limits: HashMap<_, _> =
        service.model.leases().filter_map(|lease| Some((lease.lease_id, limit(lease)?))).collect();
    assert_eq!(service.begun.limits, limits);
    // A claim that nobody has used for long is not. Which lease gets a guard is judged when it is granted.
    let is_kept = |lease: &&Arc<Lease>| lease.hold == Hold::Guard && lease.used != Use::Idle;
    let guarded = service.model.leases().filter(is_kept);
    assert_eq!(service.begun.guarded, guarded.map(|lease| lease.lease_id).collect());
    assert_eq!(service.begun.heartbeats, service.model.instances.keys().cloned().collect());
}

fn singletons(service: &Service) {
    let mut oldest = HashMap::new();
    for lease in service.model.leases() {
        let key = (&lease.service_type, &lease.singleton_key);
        let first = oldest.entry(key).or_insert(lease);
        if (lease.since, lease.lease_id) < (first.since, first.lease_id) {
            *first = lease;
        }
    }
    let types = &service.rules.types.0;
    for ((name, key), lease) in oldest {
        let Some(service_type) = types.get(name) else { continue };
        let mut request = AllocateRequest::new(name.clone());
        request.singleton_key.clone_from(key);
        let found = service.registry.existing(&request, service_type);
        let kind = service.model.kind(name).expect("the model has the same types");
        let expected = kind.is_single.then_some(lease);
        assert_eq!(found.as_ref(), expected);
    }
}

fn memory(service: &Service) {
    let (found, expected) = (service.registry.memory(), service.model.memory());
    assert_eq!(found.len(), expected.len());
    assert!(found.iter().map(|(key, known)| (&**key, known)).eq(expected));
}

fn told(service: &Service) {
    let audited = service.registry.audited_config();
    let types = service.rules.types.0.iter();
    let (automatic, written): (Vec<_>, Vec<_>) = types.partition(|(_, t)| t.created.is_some());
    assert!(audited.automatic.keys().eq(automatic.iter().map(|(name, _)| *name)));
    for (name, service_type) in automatic {
        assert!(audited.automatic[name].ranges.iter().copied().eq(service_type.ranges()), "{name}");
    }
    assert!(audited.written.len() <= written.len());
}
