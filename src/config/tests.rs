use std::{fs, time::Duration};

use super::*;
use crate::port::PortRange;

/// Files that stand alone, with whether the schema sees what is wrong, if something is.
pub(super) fn cases() -> Vec<(String, Option<bool>)> {
    Vec::new()
}

/// Loads the built-in configuration with these texts as further layers.
fn load(layers: &[&str]) -> (Config, Vec<String>) {
    let folder = tempfile::tempdir().unwrap();
    let drop_ins = folder.path().join("config.d");
    fs::create_dir(&drop_ins).unwrap();
    for (index, layer) in layers.iter().enumerate() {
        fs::write(drop_ins.join(format!("{index:02}.json")), layer).unwrap();
    }
    let (texts, mut problems) = files::read(&[folder.path().to_owned()]);
    let mut merged = merge(&texts);
    problems.append(&mut merged.problems);
    let config = merged.config;
    let cut = format!("{}/", drop_ins.display());
    let problems = problems.iter().map(|p| p.to_string().replace(&cut, ""));
    (config, problems.collect())
}

fn range_of(config: &Config, name: &str) -> String {
    config.types.get(&name.parse().unwrap()).unwrap().port_range.to_string()
}

#[test]
fn what_is_built_in_has_every_type_and_no_overlap() {
    let config = Config::built_in();
    assert_eq!(config.types.0.len(), 17);
    assert_eq!(range_of(&config, "dev"), "3000-3099");
    let ranges: Vec<PortRange> = config.types.0.values().map(|t| t.port_range).collect();
    for (index, range) in ranges.iter().enumerate() {
        assert!(!ranges[..index].iter().any(|other| other.overlaps(*range)), "{range}");
    }
}

#[test]
fn a_layer_changes_only_the_fields_that_it_gives() {
    let (config, problems) = load(&[
        r#"{"service_types": {"dev": {"description": "ours"}, "grafana": {"port_range": [3400, 3409]}}}"#,
        r#"{"idle_exit_seconds": 5}"#,
    ]);
    assert_eq!(problems, [""; 0]);
    assert_eq!(range_of(&config, "dev"), "3000-3099");
    assert_eq!(range_of(&config, "grafana"), "3400-3409");
    assert_eq!(config.idle_exit, Duration::from_secs(5));
}

#[test]
fn every_problem_is_told_with_its_place_and_the_rest_is_in_force() {
    let (config, problems) = load(&[r#"{
  "idle_exit_secnds": 5,
  "limits": { "leases": 0 },
  "service_types": {
    "dev": { "port_range": [3099, 3000] },
    "no such": {},
    "mine": { "preferred_ports": [1] },
    "yours": { "port_range": [3050, 3060] },
    "good": { "port_range": [7000, 7009], "instance_behavior": "single" }
  }
}"#]);
    let expected = [
        "00.json:2:23: idle_exit_secnds: there is no such field; did you mean \"idle_exit_seconds\"?",
        "00.json:3:25: limits.leases: must be a whole number from 1 to 131070, not 0",
        "00.json:5:28: service_types.dev.port_range: the range is reversed: write [3000, 3099]",
        "00.json:6:16: service_types.no such: service_type \"no such\" is not valid",
        "00.json:7:13: service_types.mine: a new service type needs a port_range: add \"port_range\": [first, last]",
        "00.json:8:30: service_types.yours.port_range: 3050-3060 overlaps the range of dev, 3000-3099: choose ports that no other type has",
    ];
    assert_eq!(problems.len(), expected.len(), "{problems:#?}");
    for (problem, expected) in problems.iter().zip(expected) {
        assert!(problem.starts_with(expected), "{problem}\n{expected}");
    }
    assert_eq!(range_of(&config, "good"), "7000-7009");
    assert_eq!(range_of(&config, "dev"), "3000-3099");
}

#[test]
fn types_may_swap_their_ranges_in_one_layer() {
    let (config, problems) = load(&[r#"{"service_types": {
        "dev": {"port_range": [4000, 4099]}, "ui": {"port_range": [3000, 3099]}}}"#]);
    assert_eq!(problems, [""; 0]);
    assert_eq!(range_of(&config, "dev"), "4000-4099");
    assert_eq!(range_of(&config, "ui"), "3000-3099");
}

#[test]
fn null_removes_a_type() {
    let (config, problems) = load(&[r#"{"service_types": {"ai": null}}"#]);
    assert_eq!(problems, [""; 0]);
    assert!(config.types.get(&"ai".parse().unwrap()).is_err());
}

#[test]
fn what_is_not_json_is_told_with_its_place() {
    for (text, place) in [
        ("", "00.json:1:1: the file is empty"),
        ("{\n  \"limits\": {,}\n}", "00.json:2:14: this is not JSON"),
        ("[1]", "00.json:1:1: must be an object"),
        ("{\"limits\": {}, \"limits\": {}}", "00.json:1:16: limits: this field is given twice"),
    ] {
        let (config, problems) = load(&[text]);
        assert_eq!(problems.len(), 1, "{text}: {problems:?}");
        assert!(problems[0].starts_with(place), "{}", problems[0]);
        assert_eq!(config, Config::built_in());
    }
}
