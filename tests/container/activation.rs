//! The service starts on demand, answers, and tells the journal.

use std::collections::HashSet;

use serde_json::{Value as Json, json};

use crate::{
    Test, inside,
    machine::{Machine, USER},
};

pub const TESTS: &[Test] = &[
    ("a_call_on_the_bus_starts_the_service_and_is_answered", on_the_bus),
    ("a_request_on_the_socket_starts_the_service_and_is_answered", on_the_socket),
    ("a_thousand_calls_at_once_get_different_ports_or_a_clean_refusal", a_crowd),
];

fn on_the_bus(machine: &Machine) {
    assert_eq!(machine.unit_state("styxy.service"), "inactive");
    assert_eq!(machine.unit_state("styxy.socket"), "active");
    let lease = machine.call("Allocate", "'sa{sv}' dev 1 service_name s web").unwrap();
    assert_eq!(lease[0], 3000);
    assert_eq!(machine.unit_state("styxy.service"), "active");

    let events = machine.events();
    assert_eq!(events.len(), 1, "{events:#?}");
    let event = &events[0];
    let uid = machine.user("id -u").ok();
    for (field, value) in [
        ("STYXY_ACTION", "allocate"),
        ("STYXY_PORT", "3000"),
        ("STYXY_PROTOCOL", "tcp"),
        ("STYXY_LEASE_ID", lease[1].as_str().unwrap()),
        ("STYXY_SERVICE_TYPE", "dev"),
        ("STYXY_SERVICE_NAME", "web"),
        ("STYXY_OWNER", "none"),
        ("STYXY_SEQ", "1"),
        ("STYXY_TRANSPORT", "dbus"),
        ("STYXY_CLIENT_UID", uid.trim()),
        ("STYXY_CLIENT_COMM", "busctl"),
        ("SYSLOG_IDENTIFIER", "styxy"),
        ("PRIORITY", "5"),
        ("MESSAGE", "Granted TCP port 3000 to dev web"),
    ] {
        assert_eq!(event[field], value, "{field}: {event:#}");
    }
    assert!(event["STYXY_CLIENT_PID"].as_str().unwrap().parse::<u32>().unwrap() > 1);
    let explained = machine.user("journalctl -q -t styxy -x").ok();
    assert!(explained.contains("Nobody else is"), "{explained}");
}

fn on_the_socket(machine: &Machine) {
    let post = "curl -sS --unix-socket $XDG_RUNTIME_DIR/styxy/http.sock http://localhost/allocate \
                -d '{\"service_type\": \"dev\", \"service_name\": \"web\"}'";
    let answer: serde_json::Value = serde_json::from_str(&machine.user(post).ok()).unwrap();
    assert_eq!(answer["success"], true, "{answer}");
    assert_eq!(answer["port"], 3000);
    assert_eq!(answer["lock_id"], answer["lease_id"]);
    assert_eq!(machine.unit_state("styxy.service"), "active");
    let events = machine.events();
    assert_eq!(events.len(), 1);
    assert_eq!(events[0]["STYXY_TRANSPORT"], "http");
    assert_eq!(events[0]["STYXY_CLIENT_COMM"], "curl");
    let user = machine.user("whoami").ok();
    assert_eq!(user.trim(), USER);
}

fn a_crowd(machine: &Machine) {
    machine.configure(r#"{"service_types": {"dev": {"port_range": [20000, 20899]}}}"#);
    let result = machine.inside("crowd 100 1000");
    let ports = result["ports"].as_array().unwrap();
    let different: HashSet<_> = ports.iter().map(|port| port.as_u64().unwrap()).collect();
    assert_eq!(ports.len(), 900);
    assert_eq!(different.len(), 900);
    let errors = result["errors"].as_array().unwrap();
    assert_eq!(errors.len(), 100);
    for error in errors {
        assert!(error.as_str().unwrap().contains("Error.PoolExhausted"), "{error}");
    }
}

/// Many calls at once from many connections.
pub async fn crowd(arguments: &[&str]) -> Json {
    let [connections, calls] = [0, 1].map(|i| arguments[i].parse::<usize>().unwrap());
    let mut tasks = Vec::new();
    for _ in 0..connections {
        let bus = inside::bus().await;
        for _ in 0..calls / connections {
            let bus = bus.clone();
            tasks.push(tokio::spawn(async move { inside::allocate(&bus, "dev").await }));
        }
    }
    let (mut ports, mut errors) = (Vec::new(), Vec::new());
    for task in tasks {
        match task.await.unwrap() {
            Ok((port, _)) => ports.push(port),
            Err(error) => errors.push(error),
        }
    }
    json!({"ports": ports, "errors": errors})
}
