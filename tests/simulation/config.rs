//! What people have written: eighteen service types side by side, and what they change now and then.

use std::collections::BTreeMap;

use styxy::{
    auto_allocation::{AutoAllocation, AutoRule, Placement},
    port::{Port, PortRange, Protocol},
    port_set::PortSet,
    registry::Rules,
    service_type::{InstanceBehavior, ServiceType, ServiceTypeName, ServiceTypes},
};

use crate::random::Random;

/// The types that people have written, in the order of their ranges.
const WRITTEN: [&str; 18] = [
    "dev",
    "api",
    "ui",
    "docs",
    "hub",
    "functions",
    "database",
    "storybook",
    "monitoring",
    "proxy",
    "build",
    "messaging",
    "auth",
    "test",
    "media",
    "dns",
    SEASONAL,
    ON_AND_OFF,
];
/// One for each of its keys.
pub const SINGLE: &str = "ai";
/// Runs once at times, and at times not.
const ON_AND_OFF: &str = "on-and-off";
/// Is there at times.
const SEASONAL: &str = "seasonal";

/// Each range has room to be moved in.
const FIRST: u16 = 2_100;
const ROOM: u16 = 410;
const LENGTH: u16 = 400;

const MOST_LEASES: usize = 60_000;
const MOST_REMEMBERED: usize = 10_000;

pub fn port(number: u16) -> Port {
    Port::new(number.into()).expect("no port here is 0")
}

pub fn name(text: &str) -> ServiceTypeName {
    text.parse().expect("a good name")
}

/// A type in its room, so many ports from the beginning of it.
fn written(text: &str, moved: u16) -> ServiceType {
    let room = WRITTEN.iter().position(|known| *known == text).unwrap_or(WRITTEN.len());
    let first = FIRST + u16::try_from(room).expect("few") * ROOM + moved;
    let range = PortRange::new(port(first), port(first + LENGTH - 1)).expect("ascending");
    ServiceType {
        preferred_ports: (first..first + 4).map(port).collect(),
        instance_behavior: match text {
            SINGLE => InstanceBehavior::Single,
            _ => InstanceBehavior::Multi,
        },
        protocol: match text {
            "media" => Protocol::Udp,
            "dns" => Protocol::Both,
            _ => Protocol::Tcp,
        },
        ..ServiceType::new(range)
    }
}

pub fn rules() -> Rules {
    let names = WRITTEN.into_iter().chain([SINGLE]);
    let templates = [("main", 0), ("dev", 1), ("staging", 2), ("features", 3)];
    let smart = AutoRule {
        chunk_size: Some(20),
        placement: Some(Placement::Smart),
        preferred_range_start: None,
    };
    let near = AutoRule {
        chunk_size: Some(12),
        placement: None,
        preferred_range_start: Some(port(20_000)),
    };
    Rules {
        types: ServiceTypes(names.map(|text| (name(text), written(text, 0))).collect()),
        templates: templates
            .map(|(name, offset)| (name.parse().expect("a good name"), offset))
            .into(),
        auto: AutoAllocation {
            enabled: true,
            chunk_size: 10,
            placement: Placement::After,
            min_port: port(10_000),
            max_port: port(49_151),
            preserve_gaps: true,
            gap_size: 10,
            rules: BTreeMap::from([
                ("tool-?".parse().expect("a good pattern"), smart),
                ("tool-1*".parse().expect("a good pattern"), near),
            ]),
        },
        excluded: PortSet::default(),
        max_leases: MOST_LEASES,
        max_per_instance: MOST_LEASES,
        max_per_project: MOST_LEASES,
        percent_per_instance: 100,
        percent_per_project: 100,
        max_remembered: MOST_REMEMBERED,
    }
}

/// Changes one thing; `live` leases are there.
pub fn change(rules: &mut Rules, live: usize, random: &mut Random) {
    rules.max_leases = MOST_LEASES;
    let types = &mut rules.types.0;
    match random.below(6) {
        0 => {
            let text = *random.of(&WRITTEN);
            if let Some(known) = types.get_mut(&name(text)) {
                let behavior = known.instance_behavior;
                *known = written(text, random.small(ROOM - LENGTH + 1));
                known.instance_behavior = behavior;
            }
        }
        1 => rules.excluded = (0..30).map(|_| port(FIRST + random.small(20_000))).collect(),
        2 => rules.max_leases = live + 40,
        3 => rules.max_remembered = MOST_REMEMBERED - random.below(MOST_REMEMBERED / 5),
        4 => {
            if let Some(known) = types.get_mut(&name(ON_AND_OFF)) {
                known.instance_behavior = match known.instance_behavior {
                    InstanceBehavior::Single => InstanceBehavior::Multi,
                    InstanceBehavior::Multi => InstanceBehavior::Single,
                };
            }
        }
        _ => {
            if types.remove(&name(SEASONAL)).is_none() {
                types.insert(name(SEASONAL), written(SEASONAL, 0));
            }
        }
    }
}
