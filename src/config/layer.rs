//! The fields of one layer. Those that it does not give keep the values of the layers below.
//!
//! The same types are read from files, written to the service's own drop-in, shown by
//! `styxy config show`, and described by the JSON Schema.

use std::collections::BTreeMap;

use serde::Serialize;

use super::Program;
use crate::{
    auto_allocation::{Pattern, Placement},
    port::{Port, PortRange, Protocol},
    service_type::{Claims, Created, Hold, InstanceBehavior, ServiceTypeName, TemplateName},
};

/// Where the packages install the schema.
pub const SCHEMA_URL: &str = "file:///usr/share/styxy/config.schema.json";

/// The configuration of styxy: one layer of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(deny_unknown_fields, title = "styxy"))]
pub struct Layer {
    /// Where an editor finds this description.
    #[serde(rename = "$schema", skip_serializing_if = "Option::is_none")]
    pub schema: Option<String>,
    /// After how many seconds without a lease and without a client the service ends; 0 for never.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(range(min = 0, max = 31_536_000)))]
    pub idle_exit_seconds: Option<u64>,
    /// How many seconds a lease without an owner may go without a listener.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(range(min = 1, max = 31_536_000)))]
    pub unused_seconds: Option<u64>,
    /// How many seconds a claim is guarded that nobody has used yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(range(min = 1, max = 31_536_000)))]
    pub claimed_seconds: Option<u64>,
    /// The most there may be at once.
    #[serde(skip_serializing_if = "is_default")]
    pub limits: Option<LimitsLayer>,
    /// Ports that are never granted: a number each, or [first, last].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub excluded_ports: Option<Vec<Excluded>>,
    /// Named offsets from a type's first preferred port, for the template of a request; null removes one.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[cfg_attr(test, schemars(
        default,
        with = "BTreeMap<String, Option<Offset>>",
        extend("propertyNames" = {"pattern": "^[A-Za-z0-9-]{1,50}$"})
    ))]
    pub instance_templates: BTreeMap<TemplateName, Option<u16>>,
    /// How service types that nobody configured get a range.
    #[serde(skip_serializing_if = "is_default")]
    pub auto_allocation: Option<AutoLayer>,
    /// The service types, by name; null removes one.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[cfg_attr(test, schemars(
        default,
        with = "BTreeMap<String, Option<TypeLayer>>",
        extend("propertyNames" = {"pattern": "^[A-Za-z0-9-]{1,50}$"})
    ))]
    pub service_types: BTreeMap<ServiceTypeName, Option<TypeLayer>>,
    /// Programs that `styxy run` helps to listen on their port, by their names for people; null removes one.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[cfg_attr(test, schemars(
        default,
        extend("propertyNames" = {"minLength": 1, "maxLength": 100})
    ))]
    pub programs: BTreeMap<String, Option<Program>>,
}

#[allow(clippy::ref_option)] // serde passes it this way
fn is_default<T: Default + PartialEq>(value: &Option<T>) -> bool {
    value.as_ref().is_none_or(|value| *value == T::default())
}

/// A number of ports behind the first preferred one.
#[cfg(test)]
#[derive(schemars::JsonSchema)]
pub struct Offset(
    #[schemars(range(min = 0, max = 1_000))]
    #[allow(dead_code)]
    u16,
);

/// The most there may be at once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(deny_unknown_fields))]
pub struct LimitsLayer {
    /// Leases.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(range(min = 1, max = 131_070)))]
    pub leases: Option<usize>,
    /// Leases of one instance.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(range(min = 1, max = 131_070)))]
    pub leases_per_instance: Option<usize>,
    /// Leases of one project.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(range(min = 1, max = 131_070)))]
    pub leases_per_project: Option<usize>,
    /// How much of a service type's ports one instance may have, in percent. Holds for types of 20 ports or more
    /// that do not get further ranges by themselves; 100 is no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(range(min = 1, max = 100)))]
    pub range_percent_per_instance: Option<usize>,
    /// The same for one project.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(range(min = 1, max = 100)))]
    pub range_percent_per_project: Option<usize>,
    /// Guards: ports that the service keeps bound. Further leases go without.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(range(min = 0, max = 65_535)))]
    pub guards: Option<usize>,
    /// Remembered ports; the oldest are forgotten first, and one project has at most a quarter.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(range(min = 1, max = 1_000_000)))]
    pub remembered_ports: Option<usize>,
    /// Registered instances.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(range(min = 1, max = 100_000)))]
    pub instances: Option<usize>,
}

/// A port, or a first and a last one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(untagged)]
pub enum Excluded {
    /// One port.
    Port(Port),
    /// From the first to the last.
    Range(PortRange),
}

impl Excluded {
    /// The ports as a range.
    pub fn range(self) -> PortRange {
        match self {
            Self::Port(port) => PortRange::only(port),
            Self::Range(range) => range,
        }
    }

    /// The shortest form of a range.
    pub fn of(range: PortRange) -> Self {
        if range.len() == 1 { Self::Port(range.first()) } else { Self::Range(range) }
    }
}

/// How service types that nobody configured get a range.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(deny_unknown_fields))]
pub struct AutoLayer {
    /// Whether they get one at all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// How many ports a new range has.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(range(min = 1, max = 1_000)))]
    pub default_chunk_size: Option<u16>,
    /// Where it goes: after the last range, before the first, or near types of the same family (smart).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub placement: Option<Placement>,
    /// The lowest port of any new range.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_port: Option<Port>,
    /// The highest port of any new range.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_port: Option<Port>,
    /// Whether new ranges keep a distance from others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preserve_gaps: Option<bool>,
    /// The distance, in ports.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(range(min = 0, max = 1_000)))]
    pub gap_size: Option<u16>,
    /// What else holds for types whose names match a pattern with * and ?; null removes a rule.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[cfg_attr(test, schemars(
        default,
        with = "BTreeMap<String, Option<RuleLayer>>",
        extend("propertyNames" = {
            "pattern": "^(\\**[A-Za-z0-9?-]){0,50}\\**$", "minLength": 1, "maxLength": 100
        })
    ))]
    pub rules: BTreeMap<Pattern, Option<RuleLayer>>,
}

/// What holds for types whose names match a pattern.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(deny_unknown_fields))]
pub struct RuleLayer {
    /// How many ports a new range has.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(range(min = 1, max = 1_000)))]
    pub chunk_size: Option<u16>,
    /// Where it goes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub placement: Option<Placement>,
    /// It goes as near to this port as the limits allow.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preferred_range_start: Option<Port>,
}

/// A service type.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(deny_unknown_fields))]
pub struct TypeLayer {
    /// Its ports, [first, last]; no other type may have any of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port_range: Option<PortRange>,
    /// Further ranges, used when the first is full.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub more_port_ranges: Option<Vec<PortRange>>,
    /// Ports to try first, in this order.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preferred_ports: Option<Vec<Port>>,
    /// multi: every request gets a port of its own. single: the service runs once, and all share it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance_behavior: Option<InstanceBehavior>,
    /// Which requests that are made as claims share a lease: all of one service, or those that give a name (named).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub claims: Option<Claims>,
    /// How a port is kept until it is used: guard (the service keeps it bound) or none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(extend("enum" = ["guard", "none"])))]
    pub hold: Option<Hold>,
    /// tcp, udp, or both for the same number in both.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    /// How long a request waits for a lease to end if no port is free, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(range(min = 0, max = 60_000)))]
    pub wait_ms: Option<u64>,
    /// What it is for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(length(max = 500)))]
    pub description: Option<String>,
    /// Programs that are of this type.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(inner(length(max = 500))))]
    pub examples: Option<Vec<String>>,
    /// How it appeared by itself; only in the service's own drop-in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<Created>,
}
