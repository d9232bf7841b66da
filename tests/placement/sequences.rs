//! Ranges that come, grow and go in any order. There are few ports, so that they are used up and used
//! again all the time.

use proptest::{
    collection::{btree_map, vec},
    option::weighted,
    prelude::*,
    sample::{Index, select},
};

use super::{
    LIMITS, ask,
    naive::{Ports, Rule, World},
    numbers, range, types,
};
use styxy::registry::placement::add;

/// How many ports there are.
const PORTS: u16 = 120;

/// The families are different in number, and one is written in two ways.
const NAMES: [&str; 8] = ["web", "web-a", "Web-b", "web-a-c", "db", "db-a", "x", "-"];

/// Where two match, the longer one is the more specific one.
const PATTERNS: [&str; 5] = ["*", "d*", "?b*", "web-*", "web-a-c"];

const PLACEMENTS: [&str; 3] = ["after", "before", "smart"];

#[derive(Clone, Debug)]
enum Step {
    /// A request for so many ports that a type has no room for.
    Ask(&'static str, u16),
    /// One of the types that appeared goes.
    Undo(Index),
    /// Other ports are in use from now on.
    Use(Vec<u16>),
}

fn ports(base: u16) -> impl Strategy<Value = Ports> {
    (0..PORTS, 0..PORTS).prop_map(move |(a, b)| [base + a.min(b), base + a.max(b)])
}

fn few_ports(base: u16) -> impl Strategy<Value = Ports> {
    (0..PORTS, 0..12u16)
        .prop_map(move |(first, more)| [base + first, base + (first + more).min(PORTS - 1)])
}

fn rule(base: u16) -> impl Strategy<Value = Rule> {
    let placement = select(&PLACEMENTS[..]).prop_map(str::to_owned);
    (weighted(0.6, 1..20u16), weighted(0.6, placement), weighted(0.4, base..=base + (PORTS - 1)))
        .prop_map(|(chunk, placement, near)| Rule { chunk, placement, near })
}

/// Any configuration, and the lowest port that it is about. Both ends of all ports can be in it.
fn any_world() -> impl Strategy<Value = (u16, World)> {
    select(vec![1, 10_000, 65_535 - (PORTS - 1)]).prop_flat_map(|base| {
        let limits = prop_oneof![Just([base, base + (PORTS - 1)]), ports(base)];
        let gaps = (prop_oneof![1 => Just(0), 3 => 1..15u16], any::<bool>());
        let written = vec((select(&NAMES[..]), few_ports(base)), 0..5);
        let rules = btree_map(select(&PATTERNS[..]).prop_map(str::to_owned), rule(base), 0..3);
        let others = (vec(few_ports(base), 0..3), weighted(0.4, ports(base)));
        (limits, 1..25u16, select(&PLACEMENTS[..]), gaps, written, rules, others).prop_map(
            move |(limits, chunk, placement, (gap, preserve_gaps), written, rules, others)| {
                let mut world = World {
                    limits,
                    chunk,
                    placement: placement.to_owned(),
                    gap,
                    preserve_gaps,
                    rules,
                    excluded: others.0,
                    ephemeral: others.1,
                    ..World::default()
                };
                for (name, ports) in written {
                    // The checks of the configuration refuse ranges that overlap.
                    let taken = world.types.values().flatten();
                    if taken.copied().all(|other| !overlap(other, ports)) {
                        world.types.entry(name.to_owned()).or_default().push(ports);
                    }
                }
                (base, world)
            },
        )
    })
}

fn any_steps() -> impl Strategy<Value = Vec<Step>> {
    let least = prop_oneof![3 => Just(1), 1 => 1..40u16];
    let step = prop_oneof![
        6 => (select(&NAMES[..]), least).prop_map(|(name, least)| Step::Ask(name, least)),
        2 => any::<Index>().prop_map(Step::Undo),
        1 => vec(0..PORTS, 0..8).prop_map(Step::Use),
    ];
    vec(step, 1..25)
}

fn overlap(a: Ports, b: Ports) -> bool {
    a[0] <= b[1] && b[0] <= a[1]
}

/// The ports between two ranges that do not overlap.
fn between(a: Ports, b: Ports) -> u16 {
    if a[1] < b[0] { b[0] - a[1] - 1 } else { a[0] - b[1] - 1 }
}

/// What holds for a new range whatever the strategy.
fn check(world: &World, name: &str, least: u16, new: Ports) {
    assert!(new[1] - new[0] + 1 >= least, "{new:?} has not the ports that were asked for");
    assert!(world.limits[0] <= new[0] && new[1] <= world.limits[1], "{new:?} leaves the limits");
    for (other, ranges) in &world.types {
        for ports in ranges {
            assert!(!overlap(*ports, new), "{new:?} overlaps {other}");
            let is_near = between(*ports, new) < world.distance();
            assert!(other == name || !is_near, "{new:?} is too near to {other}");
        }
    }
    for ports in &world.excluded {
        assert!(!overlap(*ports, new), "{new:?} has ports of {ports:?}");
    }
    if world.ephemeral.is_some_and(|ports| overlap(ports, new)) {
        let outside = world.all_starts(name, world.size(name, least), &[]);
        assert!(outside.is_empty(), "{new:?} has ports that the kernel gives away");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn no_range_ever_overlaps_another_or_passes_a_limit(
        (base, mut world) in any_world(),
        steps in any_steps(),
    ) {
        let mut appeared: Vec<&str> = Vec::new();
        for step in steps {
            match step {
                Step::Use(offsets) => {
                    world.in_use = offsets.into_iter().map(|offset| base + offset).collect();
                }
                Step::Undo(_) if appeared.is_empty() => {}
                Step::Undo(which) => {
                    let name = appeared.remove(which.index(appeared.len()));
                    world.types.remove(name);
                }
                Step::Ask(name, least) => {
                    let is_growth = world.types.contains_key(name);
                    let got = ask(&world, name, least, is_growth);
                    let model =
                        if is_growth { world.grow(name, least) } else { world.place(name, least) };
                    match (got, model) {
                        (Ok(place), Ok(best)) => {
                            let new = numbers(place.range);
                            check(&world, name, least, new);
                            prop_assert_eq!(new, best, "the strategy names another place");
                            prop_assert_eq!(place.placement.as_str(), world.strategy(name));
                            let mut before = types(&world);
                            world.add(name, new);
                            if is_growth {
                                let known = before.0.get_mut(&name.parse().unwrap()).unwrap();
                                add(known, range(new));
                                prop_assert_eq!(&before, &types(&world));
                            } else {
                                appeared.push(name);
                            }
                        }
                        (Err(error), Err(reasons)) => {
                            let named: Vec<_> =
                                LIMITS.into_iter().filter(|l| error.message.contains(l)).collect();
                            let is_told = |set: &Vec<&str>| {
                                set.len() == named.len() && set.iter().all(|l| named.contains(l))
                            };
                            prop_assert!(reasons.iter().any(is_told), "{} for {:?}", error, reasons);
                        }
                        (got, model) => prop_assert!(false, "{got:?}, but the model {model:?}"),
                    }
                }
            }
        }
    }
}
