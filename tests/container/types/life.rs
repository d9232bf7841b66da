//! Grafana: from the first request to the undo.

use std::time::Duration;

use serde_json::{Value as Json, json};

use super::{automatic, events, file, json};
use crate::machine::{Machine, eventually};

/// Generous; nothing here takes more than a second.
const LIMIT: Duration = Duration::from_secs(60);

pub fn grafana(machine: &Machine) {
    machine.user("mkdir -p shop").ok();
    let got = machine.user("cd shop && styxy allocate grafana --name web");
    assert_eq!((got.code, got.stdout.as_str()), (Some(0), "11510\n"), "{got:?}");
    assert_eq!(
        got.stderr,
        "styxy: grafana got the ports 11510-11519 \
         (to undo: `styxy config undo-auto-allocation grafana`)\n"
    );
    serve(machine, 11510);
    let before = grafana_now(machine);
    let use_of = |t: &Json| ["ports", "leased", "listening", "free"].map(|field| t[field].as_u64());
    assert_eq!(use_of(&before), [Some(10), Some(1), Some(1), Some(9)], "{before}");
    assert!(before["made_by"].as_str().unwrap().starts_with("automatic, for styxy["), "{before}");
    let table = machine.user("styxy types").ok();
    let line = table.lines().find(|line| line.trim_start().starts_with("grafana")).unwrap();
    assert!(line.contains("11510-11519") && line.contains("automatic, for styxy["), "{table}");
    let written = file(machine);
    assert_eq!(machine.user(&format!("stat -c %a {}", super::FILE)).ok(), "600\n");
    machine.user("styxy config validate").ok();

    machine.user("systemctl --user restart styxy.service").ok();
    assert_eq!(grafana_now(machine), before);
    assert_eq!(json(machine, "styxy list")["leases"][0]["state"], "listening");
    machine.kill_service();
    assert_eq!(grafana_now(machine), before);

    machine.script(["reboot", machine.name()]).ok();
    eventually(Duration::from_secs(60), "the user's bus is back", || {
        machine.user("busctl --user status").code == Some(0)
    });
    let after = grafana_now(machine);
    assert_eq!(use_of(&after), [Some(10), Some(0), Some(0), Some(10)], "{after}");
    assert_eq!(after["made_by"], before["made_by"]);
    assert_eq!(file(machine), written);
    // Another project is first, and yet the port is the first one's.
    assert_eq!(machine.user("styxy allocate grafana").ok(), "11511\n");
    let got = machine.user("cd shop && styxy allocate grafana --name web");
    assert_eq!((got.stdout.as_str(), got.stderr.as_str()), ("11510\n", ""));

    let told = events(machine, "auto_allocate");
    assert_eq!(told.len(), 1, "it was told once: {told:#?}");
    for (field, value) in [
        ("MESSAGE", "The new service type grafana got the ports 11510-11519"),
        ("STYXY_SERVICE_TYPE", "grafana"),
        ("STYXY_RANGE", "11510-11519"),
        ("STYXY_PLACEMENT", "after"),
        ("STYXY_PROJECT_PATH", "/home/dev/shop"),
        ("STYXY_TRANSPORT", "dbus"),
        ("STYXY_CLIENT_COMM", "styxy"),
    ] {
        assert_eq!(told[0][field], value, "{field} of {:#}", told[0]);
    }
    let events = |action| events(machine, action);
    assert_eq!(events("config_reload"), Vec::<Json>::new(), "nobody has written anything");
    assert_eq!(events("undo_auto_allocation"), Vec::<Json>::new());
}

pub fn undone(machine: &Machine) {
    let port = machine.user("styxy allocate grafana").ok().trim().parse().unwrap();
    machine.user("styxy allocate grafana --name second").ok();
    serve(machine, port);
    let written = file(machine);
    let undo = "styxy config undo-auto-allocation grafana";
    let refused = machine.user(undo);
    assert_eq!((refused.code, refused.stdout.as_str()), (Some(1), ""), "{refused:?}");
    assert!(refused.stderr.contains("2 ports are leased, such as 11510 of grafana"), "{refused:?}");
    assert!(refused.stderr.contains("--force"), "{refused:?}");
    assert_eq!(file(machine), written);
    assert_eq!(automatic(machine).len(), 1);
    assert_eq!(events(machine, "undo_auto_allocation"), Vec::<Json>::new());

    let done = machine.user(&format!("{undo} --force")).ok();
    assert_eq!(done, "grafana was removed; 2 leases were released\n");
    assert_eq!(automatic(machine), []);
    assert!(!file(machine).contains("grafana"));
    assert_eq!(json(machine, "styxy list"), json!({"leases": []}));
    let releases = events(machine, "release");
    assert_eq!(releases.len(), 2);
    let [undo_event] = &events(machine, "undo_auto_allocation")[..] else { panic!("one event") };
    for (field, value) in [
        ("MESSAGE", "The service type grafana was removed; its ports were 11510-11519"),
        ("STYXY_SERVICE_TYPE", "grafana"),
        ("STYXY_RANGE", "11510-11519"),
        ("STYXY_PLACEMENT", "after"),
        ("STYXY_CLIENT_COMM", "styxy"),
    ] {
        assert_eq!(undo_event[field], value, "{field} of {undo_event:#}");
    }

    // While its server runs on, its place counts as taken.
    let other = machine.user("styxy allocate kibana --dry-run").stderr;
    assert!(other.contains("kibana would get the ports "), "{other}");
    assert!(!other.contains("11510-11519"), "{other}");
    machine.user("systemctl --user stop server.service").ok();
    let other = machine.user("styxy allocate kibana").stderr;
    assert!(other.contains("kibana got the ports 11510-11519"), "{other}");

    // What is not there, and what has not appeared by itself, cannot be undone.
    let again = machine.user(undo);
    assert_eq!(again.code, Some(1), "{again:?}");
    assert!(again.stderr.contains("there is no service type \"grafana\""), "{again:?}");
    let built_in = machine.user("styxy config undo-auto-allocation dev");
    assert_eq!(built_in.code, Some(2), "{built_in:?}");
    assert!(built_in.stderr.contains("dev was not created automatically"), "{built_in:?}");
    machine.configure(r#"{"service_types": {"mine": {"port_range": [20000, 20009]}}}"#);
    let written = machine.user("styxy config undo-auto-allocation mine --force");
    assert_eq!(written.code, Some(2), "{written:?}");
    assert!(written.stderr.contains("/home/dev/.config/styxy/config.json"), "{written:?}");

    // A lease that is released in time needs no force.
    machine.call("ReleaseMatching", "'a{sv}' 1 service_type s kibana").unwrap();
    let done = machine.user("styxy config undo-auto-allocation kibana").ok();
    assert_eq!(done, "kibana was removed\n");
}

fn grafana_now(machine: &Machine) -> Json {
    let types = json(machine, "styxy types");
    let mut types = types["service_types"].as_array().unwrap().iter();
    types.find(|t| t["service_type"] == "grafana").unwrap().clone()
}

/// Starts a server on the port, as a unit, and waits until it listens.
fn serve(machine: &Machine, port: u16) {
    machine
        .user(&format!(
            "systemd-run --user --quiet --unit=server python3 -m http.server {port} --bind 127.0.0.1"
        ))
        .ok();
    eventually(LIMIT, "the server listens", || {
        machine.user(&format!("curl -sS http://127.0.0.1:{port}/")).code == Some(0)
    });
}
