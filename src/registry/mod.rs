//! Who has what. Pure: no I/O, no clock, no randomness, no async. Inputs are values; what the kernel
//! says of a port comes in as a function; [`Registry::apply`] is the one way to change anything.
//!
//! - `choose`: which port a request gets
//! - [`claims`]: leases that are answered again to whoever asks for the same service
//! - [`granting`]: the changes of a grant
//! - [`ending`]: how leases end, and [`holders`]: who holds them
//! - [`effects`]: the effects of a change
//! - `hold`: who keeps the port of a live lease bound
//! - `mappings`: real ports for those that the programs of a project ask for
//! - `fairness`: limits for each instance and project
//! - `memory`: which project had which port last
//! - `lookup`: finding the lease of a service
//! - [`merge`]: merging two registries of one user
//! - [`obligations`]: what a live lease needs: owners watched, a deadline, a guard
//! - [`appearing`]: automatic service types, and [`placement`]: where their ranges go
//! - `slots`: which of a service's concurrent leases has which remembered port
//! - `audited`: the configuration as it was last logged

pub mod appearing;
mod audited;
mod choose;
pub mod claims;
pub mod effects;
pub mod ending;
mod fairness;
pub mod granting;
mod hold;
pub mod holders;
mod lookup;
mod mappings;
mod memory;
pub mod merge;
pub mod obligations;
pub mod placement;
mod slots;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, hash_map::Entry},
    sync::Arc,
};

pub use audited::{AuditedConfig, Automatic};
pub use choose::{Choice, Reason};
pub use effects::Effect;
pub use memory::{Memory, Remembered, Substitute};
pub use slots::Slot;

use fairness::Shares;

use crate::{
    auto_allocation::AutoAllocation,
    change::{Change, Remembers},
    error::{Error, ErrorKind},
    lease::{
        EndReason, HolderId, Instance, InstanceId, Lease, LeaseId, MemoryKey, Owner, ProjectPath,
        SingletonKey, Use,
    },
    port::{Port, Protocol},
    port_set::PortSet,
    request::Filter,
    service_type::{Hold, InstanceBehavior, ServiceTypeName, ServiceTypes, Templates},
    time::Timestamp,
    token::TokenHash,
};

/// The rules of the registry; they come from the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// The service types.
    pub types: ServiceTypes,
    /// Named offsets from a type's first preferred port.
    pub templates: Templates,
    /// How unknown types get a range.
    pub auto: AutoAllocation,
    /// Ports that are never granted.
    pub excluded: PortSet,
    /// The maximum number of live leases.
    pub max_leases: usize,
    /// The maximum number of live leases of one instance.
    pub max_per_instance: usize,
    /// The maximum number of live leases of one project.
    pub max_per_project: usize,
    /// The share of a type's ports that one instance may have, in percent.
    pub percent_per_instance: usize,
    /// The share of a type's ports that one project may have, in percent.
    pub percent_per_project: usize,
    /// The maximum number of remembered ports.
    pub max_remembered: usize,
}

#[cfg(test)]
impl Rules {
    /// These types, at most ten of everything, and no automatic types.
    fn of(types: ServiceTypes) -> Self {
        Self {
            types,
            templates: Templates::new(),
            auto: AutoAllocation::off(),
            excluded: PortSet::default(),
            max_leases: 10,
            max_per_instance: 10,
            max_per_project: 10,
            percent_per_instance: 100,
            percent_per_project: 100,
            max_remembered: 10,
        }
    }
}

/// All leases and all remembered ports.
#[derive(Clone, Debug)]
pub struct Registry {
    rules: Rules,
    /// Excluded ports, and those that are never chosen: not granted unless asked for by number.
    avoided: PortSet,
    leases: HashMap<LeaseId, Arc<Lease>>,
    tcp: Leased,
    udp: Leased,
    /// The leases of single types, the oldest of each key first.
    singletons: HashMap<Singleton, BTreeSet<(Timestamp, LeaseId)>>,
    /// The claims of each service, by their slots.
    claims: HashMap<MemoryKey, BTreeSet<(u16, LeaseId)>>,
    /// The mappings of each project.
    mappings: HashMap<ProjectPath, BTreeMap<(Protocol, Port), LeaseId>>,
    owned: HashMap<Owner, BTreeSet<LeaseId>>,
    orphans: BTreeSet<LeaseId>,
    /// The leases whose owners keep the port bound.
    held_by_clients: BTreeSet<LeaseId>,
    /// The leases of each owner.
    holders: HashMap<HolderId, LeaseId>,
    instances: HashMap<InstanceId, Arc<Instance>>,
    /// The instances of each owner.
    announced: HashMap<Owner, BTreeSet<InstanceId>>,
    shares: Shares,
    /// The number of idle claims.
    idle: usize,
    memory: Memory,
    audited_config: AuditedConfig,
    /// The hash of the token of the HTTP door over TCP.
    token: Option<TokenHash>,
    /// Leases of another registry that ended while it was being merged into this one.
    ended_elsewhere: HashSet<LeaseId>,
    /// Ports that were recently found in use, and are tried last.
    in_use: PortSet,
    /// Live leases and shares that were requested again, by the ids that their callers chose.
    repeated: HashSet<HolderId>,
    /// How often in a row each lease that ends when unused was found without a listener.
    unlistened: HashMap<LeaseId, u32>,
    /// Owners that are gone, and whose young leases get a grace period.
    leaving: HashSet<Owner>,
}

/// The key of a singleton.
type Singleton = (ServiceTypeName, Option<SingletonKey>);

/// The leased ports of one protocol.
#[derive(Clone, Debug, Default)]
struct Leased {
    ports: PortSet,
    leases: HashMap<Port, LeaseId>,
}

impl Registry {
    /// An empty registry.
    pub fn new(rules: Rules) -> Self {
        Self {
            avoided: avoided(&rules),
            rules,
            leases: HashMap::new(),
            tcp: Leased::default(),
            udp: Leased::default(),
            singletons: HashMap::new(),
            claims: HashMap::new(),
            mappings: HashMap::new(),
            owned: HashMap::new(),
            orphans: BTreeSet::new(),
            held_by_clients: BTreeSet::new(),
            holders: HashMap::new(),
            instances: HashMap::new(),
            announced: HashMap::new(),
            shares: Shares::default(),
            idle: 0,
            memory: Memory::default(),
            audited_config: AuditedConfig::default(),
            token: None,
            ended_elsewhere: HashSet::new(),
            in_use: PortSet::default(),
            repeated: HashSet::new(),
            unlistened: HashMap::new(),
            leaving: HashSet::new(),
        }
    }

    /// The rules in force.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// Applies new rules. Leases that they would not allow stay until they end.
    pub fn set_rules(&mut self, rules: Rules) {
        self.avoided = avoided(&rules);
        let same = single(&self.rules).eq(single(&rules));
        self.rules = rules;
        if same {
            return;
        }
        // A type may have become single, or no longer be.
        self.singletons.clear();
        let leases: Vec<_> = self.leases.values().map(Arc::clone).collect();
        leases.iter().for_each(|lease| self.note_singleton(lease));
    }

    /// Sets the ports that were recently found in use. They are tried last in a range, and nothing else.
    pub fn set_in_use(&mut self, in_use: PortSet) {
        self.in_use = in_use;
    }

    /// The configuration as it was last logged.
    pub fn audited_config(&self) -> &AuditedConfig {
        &self.audited_config
    }

    /// Restores it from a snapshot.
    pub fn set_audited_config(&mut self, audited_config: AuditedConfig) {
        self.audited_config = audited_config;
    }

    /// The hash of the token of the HTTP door over TCP, if it has one.
    pub fn token(&self) -> Option<TokenHash> {
        self.token
    }

    /// Restores it from a snapshot.
    pub fn set_token(&mut self, token: TokenHash) {
        self.token = Some(token);
    }

    /// Makes a change. `seq` is its number, by which remembered ports age, and `at` when it happened. What is not
    /// about leases changes nothing here.
    pub fn apply(&mut self, seq: u64, at: Timestamp, change: &Change) {
        self.audited_config.apply(change);
        match change {
            Change::Allocate { lease, remembers } => {
                if let Some(key) = lease.memory_key() {
                    let (port, program) = (lease.port, lease.program.clone());
                    let (day, most) = (lease.since.day(), self.rules.max_remembered);
                    match remembers {
                        Remembers::Port | Remembers::Moved { .. } => {
                            self.memory.remember(key, port, program, seq, most);
                        }
                        Remembers::Substitute => {
                            self.memory.substitute(key, port, program, day, seq, most);
                        }
                    }
                }
                self.insert(Arc::clone(lease));
            }
            Change::Release { lease, .. } => self.remove(lease),
            Change::Expire { lease, reason, remembered } => {
                if *reason == EndReason::NotDurable
                    && self.leases.contains_key(&lease.lease_id)
                    && let Some(key) = lease.memory_key()
                {
                    self.memory.take_back(&key, lease.port, remembered.clone());
                }
                if !self.leases.contains_key(&lease.lease_id) {
                    self.ended_elsewhere.insert(lease.lease_id);
                }
                self.remove(lease);
            }
            Change::Reuse { lease } => {
                if let (Some(key), Some(program)) = (lease.memory_key(), &lease.program) {
                    self.memory.mark(&key, program);
                }
                self.replace(lease);
            }
            Change::Orphan { lease }
            | Change::Renew { lease }
            | Change::Claim { lease }
            | Change::Hold { lease }
            | Change::Leave { lease, .. } => self.replace(lease),
            Change::Forget { key, .. } => self.memory.forget(key),
            Change::RegisterInstance { instance } => self.insert_instance(Arc::clone(instance)),
            Change::EndInstance { instance, .. } => self.remove_instance(&instance.instance_id),
            Change::UndoAutoAllocation { service_type, .. } => {
                self.memory.forget_type(service_type);
            }
            Change::Merge(merge) => self.take_over(seq, merge),
            Change::SetToken { sha256 } => self.set_token(*sha256),
            Change::AutoAllocate { .. }
            | Change::Deny(_)
            | Change::ConfigReload { .. }
            | Change::ConfigError { .. }
            | Change::Recover { .. } => {}
        }
        if let Some(key) = change.shows_use_of(at).and_then(Lease::memory_key) {
            self.memory.note_use(&key, at);
        }
    }

    /// Reserves capacity for this many more leases.
    pub fn reserve(&mut self, leases: usize) {
        self.leases.reserve(leases);
        self.tcp.leases.reserve(leases);
    }

    /// How many leases keep the service running: all but idle claims.
    pub fn running_for(&self) -> usize {
        self.leases.len() - self.idle
    }

    /// Adds a lease, in the place of its earlier version and of any other lease that has its port.
    pub fn insert(&mut self, lease: Arc<Lease>) {
        self.remove(&lease);
        for protocol in lease.protocol.parts() {
            // There is one only if a damaged log lacks its end.
            if let Some(before) = self.leased(*protocol).leases.get(&lease.port)
                && let Some(ended) = self.leases.get(before).map(Arc::clone)
            {
                self.remove(&ended);
            }
            let leased = self.leased_mut(*protocol);
            leased.ports.insert(lease.port);
            leased.leases.insert(lease.port, lease.lease_id);
        }
        self.note_singleton(&lease);
        self.insert_mapping(&lease);
        if lease.hold == Hold::Client {
            self.held_by_clients.insert(lease.lease_id);
        }
        if let Some(service) = service_of(&lease) {
            self.claims.entry(service).or_default().insert((lease.slot, lease.lease_id));
        }
        if lease.orphaned {
            self.orphans.insert(lease.lease_id);
        } else {
            for owner in lease.owners() {
                self.owned.entry(owner.clone()).or_default().insert(lease.lease_id);
            }
        }
        self.holders.extend(lease.holder_ids().map(|holder| (holder, lease.lease_id)));
        self.shares.add(&lease);
        self.idle += usize::from(is_idle(&lease));
        self.leases.insert(lease.lease_id, lease);
    }

    /// Restores an instance from a snapshot.
    pub fn insert_instance(&mut self, instance: Arc<Instance>) {
        self.remove_instance(&instance.instance_id);
        if !instance.owner.is_none() {
            let announced = self.announced.entry(instance.owner.clone()).or_default();
            announced.insert(instance.instance_id.clone());
        }
        self.instances.insert(instance.instance_id.clone(), instance);
    }

    fn remove_instance(&mut self, instance_id: &InstanceId) {
        if let Some(instance) = self.instances.remove(instance_id)
            && let Some(announced) = self.announced.get_mut(&instance.owner)
        {
            announced.remove(instance_id);
            if announced.is_empty() {
                self.announced.remove(&instance.owner);
            }
        }
    }

    /// Replaces a lease by its new version.
    fn replace(&mut self, lease: &Arc<Lease>) {
        if self.leases.contains_key(&lease.lease_id) {
            self.insert(Arc::clone(lease));
        }
    }

    /// Restores a remembered port from a snapshot.
    pub fn remember(&mut self, key: MemoryKey, remembered: Remembered) {
        self.memory.restore(key, remembered, self.rules.max_remembered);
    }

    fn remove(&mut self, lease: &Lease) {
        let Some(lease) = self.leases.remove(&lease.lease_id) else {
            return;
        };
        self.shares.take(&lease);
        self.idle -= usize::from(is_idle(&lease));
        for protocol in lease.protocol.parts() {
            let leased = self.leased_mut(*protocol);
            leased.ports.remove(lease.port);
            leased.leases.remove(&lease.port);
        }
        if !self.singletons.is_empty() {
            let singleton = (lease.service_type.clone(), lease.singleton_key.clone());
            if let Entry::Occupied(mut ids) = self.singletons.entry(singleton) {
                ids.get_mut().remove(&(lease.since, lease.lease_id));
                if ids.get().is_empty() {
                    ids.remove();
                }
            }
        }
        if let Some(service) = service_of(&lease)
            && let Entry::Occupied(mut claims) = self.claims.entry(service)
        {
            claims.get_mut().remove(&(lease.slot, lease.lease_id));
            if claims.get().is_empty() {
                claims.remove();
            }
        }
        self.remove_mapping(&lease);
        for owner in lease.owners() {
            if let Some(owned) = self.owned.get_mut(owner) {
                owned.remove(&lease.lease_id);
                if owned.is_empty() {
                    self.owned.remove(owner);
                }
            }
        }
        lease.holder_ids().for_each(|holder| _ = self.holders.remove(&holder));
        self.orphans.remove(&lease.lease_id);
        self.held_by_clients.remove(&lease.lease_id);
    }

    fn note_singleton(&mut self, lease: &Lease) {
        if self.is_singleton(&lease.service_type) {
            let singleton = (lease.service_type.clone(), lease.singleton_key.clone());
            let ids = self.singletons.entry(singleton).or_default();
            ids.insert((lease.since, lease.lease_id));
        }
    }

    /// The lease of a singleton.
    fn singleton(
        &self,
        service_type: &ServiceTypeName,
        key: Option<&SingletonKey>,
    ) -> Option<&Arc<Lease>> {
        let ids = self.singletons.get(&(service_type.clone(), key.cloned()))?;
        ids.first().and_then(|(_, id)| self.leases.get(id))
    }

    /// The live lease of that id.
    pub fn get(&self, lease_id: LeaseId) -> Result<&Arc<Lease>, Error> {
        self.leases.get(&lease_id).ok_or_else(|| {
            Error::new(ErrorKind::NoSuchLease, format!("there is no live lease {lease_id}"))
                .suggest("it may have ended already; `styxy list` shows the live ones")
        })
    }

    /// The lease with this id, or the one that a holder with this id shares.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NoSuchLease`] if there is neither.
    pub fn named(&self, id: LeaseId) -> Result<(&Arc<Lease>, Option<HolderId>), Error> {
        let holder = HolderId::from(id);
        match self.holders.get(&holder).and_then(|lease| self.leases.get(lease)) {
            Some(lease) => Ok((lease, Some(holder))),
            None => Ok((self.get(id)?, None)),
        }
    }

    /// The lease of that port in any part of the protocol.
    pub fn at(&self, port: Port, protocol: Protocol) -> Option<&Arc<Lease>> {
        let mut ids = protocol.parts().iter().map(|part| self.leased(*part).leases.get(&port));
        self.leases.get(ids.find_map(|id| id)?)
    }

    /// The leases of that owner.
    pub fn owned_by(&self, owner: &Owner) -> Vec<Arc<Lease>> {
        let ids = self.owned.get(owner).into_iter().flatten();
        ids.filter_map(|id| self.leases.get(id)).map(Arc::clone).collect()
    }

    /// The instances of that owner.
    pub fn instances_of(&self, owner: &Owner) -> Vec<Arc<Instance>> {
        let names = self.announced.get(owner).into_iter().flatten();
        names.filter_map(|name| self.instances.get(name)).map(Arc::clone).collect()
    }

    /// Whether a lease or an instance depends on that owner.
    pub fn needs(&self, owner: &Owner) -> bool {
        self.owned.contains_key(owner) || self.announced.contains_key(owner)
    }

    /// Whether there is a lease whose owner is gone.
    pub fn has_orphans(&self) -> bool {
        !self.orphans.is_empty()
    }

    /// The leases whose owner is gone.
    pub fn orphans(&self) -> Vec<Arc<Lease>> {
        self.orphans.iter().filter_map(|id| self.leases.get(id)).map(Arc::clone).collect()
    }

    /// The instance of that name.
    pub fn instance(&self, instance_id: &InstanceId) -> Result<&Arc<Instance>, Error> {
        self.instances.get(instance_id).ok_or_else(|| {
            let message = format!("no instance {instance_id} is registered");
            Error::new(ErrorKind::NoSuchInstance, message)
                .suggest("register it first; its heartbeats may have come too late")
        })
    }

    /// Every registered instance, by name.
    pub fn instances(&self) -> Vec<Arc<Instance>> {
        let mut instances: Vec<_> = self.instances.values().map(Arc::clone).collect();
        instances.sort_unstable_by(|a, b| a.instance_id.cmp(&b.instance_id));
        instances
    }

    /// How many instances are registered.
    pub fn instance_count(&self) -> usize {
        self.instances.len()
    }

    /// Every live lease, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Lease>> {
        self.leases.values()
    }

    /// The matching live leases, by port.
    pub fn list(&self, filter: &Filter) -> Vec<Arc<Lease>> {
        let one = filter.lease_id.map(|id| self.leases.get(&id));
        let mut leases: Vec<_> = match one {
            Some(found) => found.into_iter().collect(),
            None => self.leases.values().collect(),
        };
        leases.retain(|lease| filter.matches(lease));
        leases.sort_unstable_by_key(|lease| (lease.port, lease.protocol));
        leases.into_iter().map(Arc::clone).collect()
    }

    /// Whether the type has one lease for everybody.
    pub fn is_singleton(&self, service_type: &ServiceTypeName) -> bool {
        let known = self.rules.types.0.get(service_type);
        known.is_some_and(|t| t.instance_behavior == InstanceBehavior::Single)
    }

    /// How many live leases there are.
    pub fn len(&self) -> usize {
        self.leases.len()
    }

    /// Whether no lease is live.
    pub fn is_empty(&self) -> bool {
        self.leases.is_empty()
    }

    /// The remembered ports.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// The table of one part of a protocol.
    fn leased(&self, part: Protocol) -> &Leased {
        if part == Protocol::Udp { &self.udp } else { &self.tcp }
    }

    fn leased_mut(&mut self, part: Protocol) -> &mut Leased {
        if part == Protocol::Udp { &mut self.udp } else { &mut self.tcp }
    }

    /// The leased ones of 64 ports, in any part of the protocol.
    fn leased_word(&self, protocol: Protocol, index: usize) -> u64 {
        let parts = protocol.parts().iter();
        parts.fold(0, |bits, part| bits | self.leased(*part).ports.word(index))
    }
}

/// The service of a claim: the memory key of its first slot.
fn service_of(lease: &Lease) -> Option<MemoryKey> {
    let key = if lease.claim { lease.memory_key() } else { None };
    key.map(|key| MemoryKey { slot: 1, ..key })
}

fn is_idle(lease: &Lease) -> bool {
    lease.used == Use::Idle && lease.is_soft()
}

/// The single types, in order.
fn single(rules: &Rules) -> impl Iterator<Item = &ServiceTypeName> {
    let types = rules.types.0.iter();
    types.filter(|(_, t)| t.instance_behavior == InstanceBehavior::Single).map(|(name, _)| name)
}

fn avoided(rules: &Rules) -> PortSet {
    let mut avoided = rules.excluded.clone();
    Port::never_chosen().for_each(|port| avoided.insert(port));
    avoided
}
