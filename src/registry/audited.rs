//! The configuration as it was last logged, so that each change is logged once, also one that was
//! made while no service ran.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::{
    auto_allocation::Placement,
    change::{Change, TypeRanges},
    port::PortRange,
    service_type::ServiceTypeName,
};

/// A type that appeared by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Automatic {
    /// Its ranges.
    pub ranges: Vec<PortRange>,
    /// How their place was found.
    pub placement: Placement,
}

/// The configuration as it was last logged.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditedConfig {
    /// Of what people have written.
    pub fingerprint: u32,
    /// The ranges of the types that people have written.
    pub written: BTreeMap<ServiceTypeName, Vec<PortRange>>,
    /// The ranges of the types that appeared by themselves.
    pub automatic: BTreeMap<ServiceTypeName, Automatic>,
    /// What is wrong with the configuration.
    pub problems: BTreeSet<String>,
}

impl AuditedConfig {
    /// Notes that a change was logged.
    pub(super) fn apply(&mut self, change: &Change) {
        match change {
            Change::AutoAllocate { service_type, ranges, placement, .. } => {
                let automatic = Automatic { ranges: ranges.clone(), placement: *placement };
                self.automatic.insert(service_type.clone(), automatic);
            }
            Change::UndoAutoAllocation { service_type, .. } => {
                self.automatic.remove(service_type);
            }
            Change::ConfigReload { added, changed, removed, fingerprint, still_wrong } => {
                self.fingerprint = *fingerprint;
                for TypeRanges { service_type, ranges } in added.iter().chain(changed) {
                    self.written.insert(service_type.clone(), ranges.clone());
                    // Somebody has taken it over.
                    self.automatic.remove(service_type);
                }
                removed.iter().for_each(|name| drop(self.written.remove(name)));
                if !still_wrong {
                    self.problems.clear();
                }
            }
            Change::ConfigError { reason } => {
                self.problems.insert(reason.clone());
            }
            _ => {}
        }
    }
}
