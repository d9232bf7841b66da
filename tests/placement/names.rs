//! Names that are mistaken for known ones, and patterns of names.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde::Deserialize;
use styxy::{
    auto_allocation::{AutoAllocation, AutoRule, Pattern},
    service_type::near_miss,
};

use super::naive::matches;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    known: Vec<String>,
    slips: Vec<Slips>,
    own: Vec<Own>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Slips {
    why: String,
    /// Each with the known name that is meant.
    names: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Own {
    why: String,
    names: Vec<String>,
}

#[test]
fn a_slip_of_the_hand_is_told_from_a_name_of_its_own_in_every_case_of_the_table() {
    let table: Table = toml::from_str(include_str!("../data/near-misses.toml")).unwrap();
    let mut wrong = Vec::new();
    let mut see = |name: &str, meant: Option<&str>, why: &str| {
        // What is meant does not depend on the order in which names are known.
        let known = || table.known.iter().map(String::as_str);
        for got in [near_miss(name, known()), near_miss(name, known().rev())] {
            if got != meant {
                wrong.push(format!("{name} ({why}): {got:?} instead of {meant:?}"));
            }
        }
    };
    for Slips { why, names } in &table.slips {
        names.iter().for_each(|(name, meant)| see(name, Some(meant), why));
    }
    for Own { why, names } in &table.own {
        names.iter().for_each(|name| see(name, None, why));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// All texts of so many letters at most.
fn all_texts(alphabet: &[char], most: usize) -> Vec<String> {
    let mut texts = Vec::new();
    let mut last = vec![String::new()];
    for _ in 0..most {
        let longer =
            |text: &String| alphabet.iter().map(|c| format!("{text}{c}")).collect::<Vec<_>>();
        last = last.iter().flat_map(longer).collect();
        texts.extend_from_slice(&last);
    }
    texts
}

#[test]
fn a_pattern_that_matches_only_a_part_of_what_another_matches_wins() {
    // No pattern has the third letter, and names are longer than patterns.
    let names = all_texts(&['a', 'b', 'c'], 5);
    let patterns: Vec<(String, Vec<usize>)> = all_texts(&['a', 'b', '*', '?'], 4)
        .into_iter()
        .map(|pattern| {
            let meant = (0..names.len()).filter(|name| matches(&pattern, &names[*name])).collect();
            (pattern, meant)
        })
        .collect();
    let rule = |size| AutoRule { chunk_size: Some(size), ..AutoRule::default() };
    let mut pairs = 0;
    for (narrow, few) in &patterns {
        for (wide, many) in &patterns {
            let is_part =
                few.len() < many.len() && few.iter().all(|name| many.binary_search(name).is_ok());
            if !is_part {
                continue;
            }
            pairs += 1;
            let auto = AutoAllocation {
                rules: BTreeMap::from([
                    (narrow.parse().unwrap(), rule(1)),
                    (wide.parse().unwrap(), rule(2)),
                ]),
                ..AutoAllocation::off()
            };
            assert_eq!(auto.rule(&names[few[0]]).chunk_size, Some(1), "{narrow} and {wide}");
        }
    }
    assert!(pairs > 1_000, "{pairs}");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 1024, ..ProptestConfig::default() })]

    #[test]
    fn a_pattern_matches_what_it_matches_by_trying_every_way(
        pattern in "[aA1*?-]{1,8}",
        name in "[aA1-]{1,10}",
    ) {
        let parsed: Pattern = pattern.parse().unwrap();
        prop_assert_eq!(parsed.matches(&name), matches(&pattern, &name));
    }
}
