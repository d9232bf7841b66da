//! Where ranges go that appear by themselves, and under which names.
//!
//! - `../data/placement.toml`: cases that were worked out by hand
//! - `naive`: the strategies again, in plain numbers and loops
//! - `sequences`: ranges that come, grow and go in any order, beside the naive model
//! - `names`: names that are mistaken for known ones, and patterns of names

mod naive;
mod names;
mod sequences;

use std::collections::BTreeMap;

use naive::{Ports, World};
use serde::Deserialize;
use styxy::{
    auto_allocation::{AutoAllocation, AutoRule, Placement},
    error::{Error, ErrorKind},
    port::{Port, PortRange},
    port_set::PortSet,
    registry::placement::{Ground, Place, grow, place},
    service_type::{ServiceType, ServiceTypeName, ServiceTypes},
};

/// What a refusal may name, in the words that it names it by.
const LIMITS: [&str; 4] = ["leave room for", "gap_size", "excluded_ports", "full of other ranges"];

/// What a case asks, and what it is to get. All else that stands in a case is its world.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    says: String,
    place: Option<String>,
    grow: Option<String>,
    #[serde(default = "one")]
    least: u16,
    gives: Option<Ports>,
    refused: Option<Vec<String>>,
}

fn one() -> u16 {
    1
}

fn cases() -> Vec<(Asked, World)> {
    let text = include_str!("../data/placement.toml");
    let mut file: BTreeMap<String, Vec<toml::Table>> = toml::from_str(text).unwrap();
    let cases = file.remove("case").unwrap();
    cases
        .into_iter()
        .map(|mut case| {
            let mut asked = toml::Table::new();
            for key in ["says", "place", "grow", "least", "gives", "refused"] {
                asked.extend(case.remove(key).map(|value| (key.to_owned(), value)));
            }
            (asked.try_into().unwrap(), case.try_into().unwrap())
        })
        .collect()
}

#[test]
fn every_case_gets_the_range_or_the_refusal_that_was_worked_out_by_hand() {
    let mut wrong = Vec::new();
    for (asked, world) in cases() {
        let name = asked.place.as_ref().xor(asked.grow.as_ref()).expect("place or grow");
        let got = ask(&world, name, asked.least, asked.grow.is_some()).map(|place| place.range);
        let is_right = match (&got, &asked.gives, &asked.refused) {
            (Ok(range), Some(gives), None) => numbers(*range) == *gives,
            (Err(error), None, Some(names)) => refuses(error, names),
            (Err(_), Some(_), None) | (Ok(_), None, Some(_)) => false,
            _ => panic!("{}: it gives something, or it is refused", asked.says),
        };
        if !is_right {
            wrong.push(format!("{asked:#?}\ngot {got:?}"));
        }
    }
    assert!(wrong.is_empty(), "{} cases:\n{}", wrong.len(), wrong.join("\n"));
}

/// The table is a witness for the model, too: what both say of a case was thought of twice.
#[test]
fn the_naive_model_agrees_with_the_table() {
    for (asked, world) in cases() {
        // The model knows less of patterns than the table.
        if world.rules.len() > 1 {
            continue;
        }
        let got = match (&asked.place, &asked.grow) {
            (Some(name), _) => world.place(name, asked.least),
            (_, Some(name)) => world.grow(name, asked.least),
            _ => continue,
        };
        match got {
            Ok(range) => assert_eq!(Some(range), asked.gives, "{}", asked.says),
            Err(sets) => {
                let names: Vec<String> = asked.refused.clone().unwrap_or_default();
                let is_told = |set: &Vec<&str>| {
                    set.len() == names.len()
                        && names.iter().all(|name| set.iter().any(|limit| name.contains(limit)))
                };
                assert!(sets.iter().any(is_told), "{}: {sets:?}", asked.says);
            }
        }
    }
}

fn refuses(error: &Error, names: &[String]) -> bool {
    let is_named = |limit: &str| names.iter().any(|name| name.starts_with(limit));
    error.kind == ErrorKind::PoolExhausted
        && !error.suggestions.is_empty()
        && names.iter().all(|name| error.message.contains(name))
        && LIMITS.iter().all(|limit| error.message.contains(limit) == is_named(limit))
}

/// Asks the code.
fn ask(world: &World, name: &str, least: u16, is_growth: bool) -> Result<Place, Error> {
    let types = types(world);
    let (excluded, in_use) = (
        world.excluded.iter().map(|ports| range(*ports)).collect::<PortSet>(),
        world.in_use.iter().map(|number| port(*number)).collect::<PortSet>(),
    );
    let ground = Ground {
        types: &types,
        excluded: &excluded,
        ephemeral: world.ephemeral.map(range),
        in_use: &in_use,
    };
    let name: ServiceTypeName = name.parse().unwrap();
    if is_growth {
        grow(&name, &types.0[&name], least, &auto(world), ground)
    } else {
        place(&name, least, &auto(world), ground)
    }
}

fn types(world: &World) -> ServiceTypes {
    let types = world.types.iter().map(|(name, ranges)| {
        let mut ranges = ranges.iter().map(|ports| range(*ports));
        let mut service_type = ServiceType::new(ranges.next().unwrap());
        service_type.more_ranges = ranges.collect();
        (name.parse().unwrap(), service_type)
    });
    ServiceTypes(types.collect())
}

fn auto(world: &World) -> AutoAllocation {
    let placement = |text: &str| text.parse::<Placement>().unwrap();
    let rules = world.rules.iter().map(|(pattern, rule)| {
        let rule = AutoRule {
            chunk_size: rule.chunk,
            placement: rule.placement.as_deref().map(placement),
            preferred_range_start: rule.near.map(port),
        };
        (pattern.parse().unwrap(), rule)
    });
    AutoAllocation {
        enabled: true,
        chunk_size: world.chunk,
        placement: placement(&world.placement),
        min_port: port(world.limits[0]),
        max_port: port(world.limits[1]),
        preserve_gaps: world.preserve_gaps,
        gap_size: world.gap,
        rules: rules.collect(),
    }
}

fn port(number: u16) -> Port {
    Port::new(number.into()).unwrap()
}

fn range([first, last]: Ports) -> PortRange {
    PortRange::new(port(first), port(last)).unwrap()
}

fn numbers(range: PortRange) -> Ports {
    [range.first().get(), range.last().get()]
}
