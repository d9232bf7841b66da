//! What is listed has one shape wherever it is asked for: an object with the list under one key.

mod support;

use std::fs;

use nix::sys::signal::Signal;
use serde_json::{Value as Json, json};
use support::{Home, end};

/// A home with something to list of each kind, and its service.
fn home() -> (Home, std::process::Child) {
    let home = Home::with_ports(100);
    home.configure(&format!(
        r#"{{"service_types": {{"mine": {{"port_range": [{}, {}]}}}},
            "auto_allocation": {{"min_port": {}, "max_port": {}}}}}"#,
        home.port(0),
        home.port(9),
        home.port(20),
        home.port(99)
    ));
    fs::write(home.path("package.json"), r#"{"scripts": {"dev": "vite"}}"#).unwrap();
    let service = home.service();
    home.ok(&["allocate", "mine", "--name", "web", "--project", "/srv/shop"]);
    home.ok(&["allocate", "grafana", "--ttl", "600"]);
    assert_eq!(home.http("PUT", "/instances/a7", r#"{"heartbeat": 600}"#).status, 200);
    (home, service)
}

/// The answer without what changes by itself: another test's servers listen on ports of the types.
fn settled(mut answer: Json) -> Json {
    let lists = answer.as_object_mut().unwrap().values_mut().filter_map(Json::as_array_mut);
    for thing in lists.flatten() {
        for count in ["free", "listening"] {
            if let Some(count) = thing.get_mut(count) {
                *count = 0.into();
            }
        }
    }
    answer
}

fn by_command(home: &Home, arguments: &[&str]) -> Json {
    let output = home.run(&[arguments, &["--json"]].concat());
    settled(serde_json::from_slice(&output.stdout).unwrap())
}

fn over_http(home: &Home, method: &str, path: &str, body: &str) -> Json {
    let mut answer = home.http(method, path, body).body;
    assert_eq!(answer.as_object_mut().unwrap().remove("success"), Some(json!(true)), "{answer}");
    settled(answer)
}

/// There is one, and it is under that key alone.
#[track_caller]
fn assert_lists(answer: &Json, things: &str) {
    assert!(!answer[things].as_array().unwrap().is_empty(), "{answer}");
    assert_eq!(answer.as_object().unwrap().len(), 1, "{answer}");
}

#[test]
fn a_list_of_the_command_is_that_of_http() {
    let (home, service) = home();
    let all = r#"{"older_than": 0, "dry_run": true}"#;
    for (things, arguments, method, path, body) in [
        ("leases", &["list"][..], "GET", "/leases", ""),
        ("leases", &["list", "--type", "mine"], "GET", "/leases?service_type=mine", ""),
        ("leases", &["cleanup", "--older-than", "0"], "POST", "/cleanup", all),
        ("service_types", &["types"], "GET", "/types", ""),
        ("instances", &["instances"], "GET", "/instances", ""),
        ("backups", &["config", "backups"], "GET", "/config/backups", ""),
        (
            "suggestions",
            &["suggest", "mine", "--project", "/srv/shop", "--count", "2"],
            "GET",
            "/suggest/mine?project_path=/srv/shop&count=2&claim=true",
            "",
        ),
    ] {
        let answer = by_command(&home, arguments);
        assert_lists(&answer, things);
        // There, `suggestions` are what clients of version 1 expect: numbers.
        let key = if things == "suggestions" { "details" } else { things };
        assert_eq!(answer[things], over_http(&home, method, path, body)[key], "{arguments:?}");
    }
    end(service, Signal::SIGTERM);
}

#[test]
#[cfg(feature = "mcp")]
fn a_list_of_the_command_is_that_of_mcp() {
    let (home, service) = home();
    let mut session = support::mcp::Session::new(&home);
    for (things, arguments, tool, options) in [
        ("leases", &["list"][..], "list", json!({})),
        ("suggestions", &["suggest", "mine"], "suggest", json!({"service_type": "mine"})),
        ("suggestions", &["suggest"], "suggest", json!({})),
    ] {
        let answer = by_command(&home, arguments);
        assert_lists(&answer, things);
        assert_eq!(answer, session.ok(tool, &options), "{arguments:?}");
    }
    let journal = support::journal::Journal::of(&[json!({
        "STYXY_ACTION": "allocate", "STYXY_SEQ": "1", "STYXY_STATE_ID": "s", "SYSLOG_IDENTIFIER": "styxy",
        "STYXY_TIME": "2026-11-23T10:00:00Z", "MESSAGE": "It happened",
    })]);
    let answer = journal.json(&[]);
    assert_lists(&answer, "events");
    let mut command = journal.0.styxy();
    command.env("PATH", journal.path("bin"));
    let mut session = support::mcp::Session::with(command);
    assert_eq!(answer, session.ok("audit", &json!({})));
    end(service, Signal::SIGTERM);
}

#[test]
fn what_only_the_command_lists_has_the_same_shape() {
    let (home, service) = home();
    let listener = std::net::TcpListener::bind(("127.0.0.1", home.port(15))).unwrap();
    assert_lists(&by_command(&home, &["scan", &home.port(15).to_string()]), "listeners");
    assert_lists(&by_command(&home, &["doctor"]), "findings");
    assert_lists(&by_command(&home, &["release", "--type", "mine", "--yes"]), "leases");
    drop(listener);
    end(service, Signal::SIGTERM);
}

#[test]
fn clients_of_version_1_find_the_leases_by_the_name_that_they_know() {
    let (home, service) = home();
    let leases = home.http("GET", "/leases", "").body["leases"].clone();
    let answer = home.http("GET", "/allocations", "").body;
    let allocations = answer["allocations"].as_array().unwrap();
    assert_eq!(allocations.len(), leases.as_array().unwrap().len());
    for (allocation, lease) in allocations.iter().zip(leases.as_array().unwrap()) {
        let is_there = |(key, value): (&String, &Json)| allocation[key] == *value;
        assert!(lease.as_object().unwrap().iter().all(is_there), "{allocation} {lease}");
        assert_eq!(allocation["lock_id"], lease["lease_id"]);
    }
    for (path, service_type) in [("/leases", "mine"), ("/allocations", "grafana")] {
        let path = format!("{path}?service_type={service_type}");
        assert_eq!(home.http("DELETE", &path, "").body["released"], 1, "{path}");
    }
    end(service, Signal::SIGTERM);
}
