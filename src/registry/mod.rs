//! Who has what. Pure: no I/O, no clock, no randomness, no async. Inputs are values; what the kernel
//! says of a port comes in as a function; [`Registry::apply`] is the one way to change anything.
//!
//! - `choose`: which port a request gets
//! - `memory`: which project had which port last
//! - `port_set`: sets of ports as bitmaps

mod choose;
mod memory;
mod port_set;

use std::{collections::HashMap, sync::Arc};

pub use choose::{Choice, Obstacle};
pub use memory::Memory;
pub use port_set::PortSet;

use crate::{
    change::Change,
    error::{Error, ErrorKind},
    lease::{Lease, LeaseId, MemoryKey},
    port::{Port, Protocol},
    request::Filter,
    service_type::{InstanceBehavior, ServiceTypeName, ServiceTypes},
};

/// What the registry decides by; it comes from the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// The service types.
    pub types: ServiceTypes,
    /// Ports that are never granted.
    pub excluded: PortSet,
    /// The most leases at once.
    pub most_leases: usize,
    /// The most remembered ports.
    pub most_remembered: usize,
}

/// All leases and all remembered ports.
#[derive(Clone, Debug)]
pub struct Registry {
    rules: Rules,
    /// Excluded ports and those that browsers refuse: not granted unless asked for by number.
    avoided: PortSet,
    leases: HashMap<LeaseId, Arc<Lease>>,
    tcp: Leased,
    udp: Leased,
    singletons: HashMap<ServiceTypeName, LeaseId>,
    memory: Memory,
}

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
            memory: Memory::default(),
        }
    }

    /// The rules in force.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// Puts other rules in force. Leases that they would not allow stay until they end.
    pub fn set_rules(&mut self, rules: Rules) {
        self.avoided = avoided(&rules);
        self.rules = rules;
    }

    /// Makes a change. `seq` is its number, by which remembered ports age. What is not about leases
    /// changes nothing here.
    pub fn apply(&mut self, seq: u64, change: &Change) {
        match change {
            Change::Allocate { lease } => {
                if let Some(key) = lease.memory_key() {
                    self.remember(key, lease.port, seq);
                }
                self.insert(Arc::clone(lease));
            }
            Change::Release { lease, .. } | Change::Expire { lease, .. } => self.remove(lease),
            Change::Reuse { .. }
            | Change::Deny(_)
            | Change::ConfigReload { .. }
            | Change::ConfigError { .. }
            | Change::Recover { .. } => {}
        }
    }

    /// Takes a lease as it is, from a snapshot.
    pub fn insert(&mut self, lease: Arc<Lease>) {
        let leased = self.leased_mut(lease.protocol);
        leased.ports.insert(lease.port);
        leased.leases.insert(lease.port, lease.lease_id);
        if lease.singleton {
            self.singletons.insert(lease.service_type.clone(), lease.lease_id);
        }
        self.leases.insert(lease.lease_id, lease);
    }

    /// Takes a remembered port as it is, from a snapshot.
    pub fn remember(&mut self, key: MemoryKey, port: Port, age: u64) {
        self.memory.remember(key, port, age, self.rules.most_remembered);
    }

    fn remove(&mut self, lease: &Lease) {
        let Some(lease) = self.leases.remove(&lease.lease_id) else {
            return;
        };
        let leased = self.leased_mut(lease.protocol);
        // A log whose middle is lost may have leased the port anew.
        if leased.leases.get(&lease.port) == Some(&lease.lease_id) {
            leased.ports.remove(lease.port);
            leased.leases.remove(&lease.port);
        }
        if self.singletons.get(&lease.service_type) == Some(&lease.lease_id) {
            self.singletons.remove(&lease.service_type);
        }
    }

    /// The live lease of that id.
    pub fn get(&self, lease_id: LeaseId) -> Result<&Arc<Lease>, Error> {
        self.leases.get(&lease_id).ok_or_else(|| {
            Error::new(ErrorKind::NoSuchLease, format!("there is no live lease {lease_id}"))
                .suggest("it may have ended already; `styxy list` shows the live ones")
        })
    }

    /// The lease of that port.
    pub fn at(&self, port: Port, protocol: Protocol) -> Option<&Arc<Lease>> {
        let id = self.leased(protocol).leases.get(&port)?;
        self.leases.get(id)
    }

    /// Every live lease, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Lease>> {
        self.leases.values()
    }

    /// The live leases that the filter means, by port.
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

    fn leased(&self, protocol: Protocol) -> &Leased {
        match protocol {
            Protocol::Tcp => &self.tcp,
            Protocol::Udp => &self.udp,
        }
    }

    fn leased_mut(&mut self, protocol: Protocol) -> &mut Leased {
        match protocol {
            Protocol::Tcp => &mut self.tcp,
            Protocol::Udp => &mut self.udp,
        }
    }
}

fn avoided(rules: &Rules) -> PortSet {
    let mut avoided = rules.excluded.clone();
    Port::refused_by_browsers().for_each(|port| avoided.insert(port));
    avoided
}
