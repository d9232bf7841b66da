//! One asker that runs away leaves ports for the others, and who is refused learns whom to stop.

mod support;

use nix::sys::signal::Signal;
use serde_json::{Value as Json, json};
use support::{Answer, Home, end};

fn allocate(home: &Home, options: &Json) -> Answer {
    let mut options = options.clone();
    options["service_type"] = "mine".into();
    home.http("POST", "/allocate", &options.to_string())
}

/// A home with ten ports, and limits on what one asker may have of them.
fn home() -> Home {
    let home = Home::new();
    home.configure(&format!(
        r#"{{"limits": {{"leases_per_instance": 3, "leases_per_project": 5}},
            "service_types": {{"mine": {{"port_range": [{}, {}]}}}}}}"#,
        home.port(0),
        home.port(9)
    ));
    home
}

#[track_caller]
fn refused(answer: &Answer, code: &str, words: &[&str]) {
    assert_eq!(answer.body["code"], code, "{answer:?}");
    let text = answer.body.to_string();
    for word in words {
        assert!(text.contains(word), "{word} is not in {text}");
    }
}

#[test]
fn an_instance_and_a_project_get_no_more_than_their_share_and_others_go_on() {
    let home = home();
    let service = home.service();
    let runaway = json!({"instance_id": "runaway", "project_path": "/a"});
    for _ in 0..3 {
        assert_eq!(allocate(&home, &runaway).status, 200);
    }
    let words = ["instance runaway has 3 leases", "`styxy release --instance runaway`"];
    refused(&allocate(&home, &runaway), "LimitExceeded", &words);
    // Another instance of the same project, as far as that may go.
    let other = json!({"instance_id": "other", "project_path": "/a"});
    let block = json!({"instance_id": "other", "project_path": "/a", "count": 3});
    let words = ["project /a has 3 leases", "`styxy release --project /a`", "leases_per_project"];
    refused(&allocate(&home, &block), "LimitExceeded", &words);
    assert_eq!(allocate(&home, &other).status, 200);
    assert_eq!(allocate(&home, &other).status, 200);
    refused(&allocate(&home, &json!({"project_path": "/a"})), "LimitExceeded", &["project /a"]);
    // Who says nothing is nobody in particular.
    for options in [json!({"project_path": "/b"}), json!({}), json!({}), json!({})] {
        assert_eq!(allocate(&home, &options).status, 200);
    }
    let release = home.http("DELETE", "/allocations?instance_id=runaway", "");
    assert_eq!(release.body["released"], 3);
    assert_eq!(allocate(&home, &runaway).status, 200);
    end(service, Signal::SIGTERM);
}

#[test]
fn whoever_finds_no_port_left_learns_who_has_most_of_them() {
    let home = Home::with_type();
    let service = home.service();
    let hoard = json!({"instance_id": "hoard", "project_path": "/my shop", "count": 6});
    assert_eq!(allocate(&home, &hoard).status, 200);
    assert_eq!(allocate(&home, &json!({"project_path": "/b", "count": 4})).status, 200);
    let words = ["instance hoard has 6 of its 10 ports", "`styxy release --instance hoard`"];
    refused(&allocate(&home, &json!({})), "PoolExhausted", &words);

    assert_eq!(home.http("DELETE", "/allocations?instance_id=hoard", "").status, 200);
    let project = json!({"project_path": "/my shop", "count": 6});
    assert_eq!(allocate(&home, &project).status, 200);
    let words = ["project /my shop has 6 of its 10 ports", "--project '/my shop'`"];
    refused(&allocate(&home, &json!({})), "PoolExhausted", &words);
    end(service, Signal::SIGTERM);
}

#[test]
fn one_asker_gets_a_part_of_a_range_and_a_small_range_is_not_shared_out() {
    let home = Home::with_ports(30);
    let configure = |limits: &str| {
        home.configure(&format!(
            r#"{{"limits": {{{limits}}}, "service_types": {{
                "mine": {{"port_range": [{}, {}]}}, "small": {{"port_range": [{}, {}]}}}}}}"#,
            home.port(0),
            home.port(19),
            home.port(20),
            home.port(29)
        ));
    };
    configure("");
    let service = home.service();
    let block = |instance: &str, count: u16| json!({"instance_id": instance, "project_path": "/a", "count": count});
    assert_eq!(allocate(&home, &block("one", 10)).status, 200);
    let words = ["instance one has 10 of the 20 ports of mine", "`styxy release --instance one`"];
    refused(&allocate(&home, &block("one", 1)), "LimitExceeded", &words);
    // Another agent of the same project, as far as the project may go.
    assert_eq!(allocate(&home, &block("two", 6)).status, 200);
    let words = [
        "project /a has 16 of the 20 ports of mine",
        "`styxy release --project /a`",
        "limits.range_percent_per_project",
    ];
    refused(&allocate(&home, &block("two", 1)), "LimitExceeded", &words);
    // What is left is there for the others.
    assert_eq!(allocate(&home, &json!({"project_path": "/b"})).status, 200);
    let mut small = block("one", 10);
    small["service_type"] = "small".into();
    assert_eq!(home.http("POST", "/allocate", &small.to_string()).status, 200);
    configure(r#""range_percent_per_instance": 100, "range_percent_per_project": 100"#);
    assert_eq!(home.http("POST", "/config/reload", "").status, 200);
    assert_eq!(allocate(&home, &block("one", 3)).status, 200);
    end(service, Signal::SIGTERM);
}
