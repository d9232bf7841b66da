//! The service ends when nobody needs it, comes back with the next call, and obeys systemd.

mod client;

use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};

pub use client::inside;

use crate::{
    Test, crash,
    machine::{Machine, eventually},
};

pub const TESTS: &[Test] = &[
    ("calls_around_the_idle_time_are_all_answered", around_the_idle_time),
    ("an_open_connection_is_answered_although_the_service_ends", open_connection),
    ("three_hundred_quick_starts_are_not_too_many", quick_starts),
    ("an_unused_service_exits_after_the_idle_time", unused),
    ("a_live_lease_keeps_the_service_alive", kept_alive),
    ("a_claim_that_nobody_uses_keeps_no_service_alive", only_claimed),
    ("a_reload_puts_a_new_idle_time_in_force", new_idle_time),
    ("a_reload_brings_a_new_service_type", reload),
    ("a_broken_configuration_is_reported_and_the_service_goes_on", broken_configuration),
    ("the_service_ends_cleanly_on_sigterm_and_sigint", signals),
    ("a_signal_right_after_the_first_answer_ends_it_cleanly", early_signals),
    ("a_service_that_hangs_is_ended_by_the_watchdog_and_comes_back", watchdog),
    ("a_start_that_a_stop_has_called_off_is_made_once_more", called_off),
];

const SERVICE: &str = "styxy.service";

/// Generous; nothing here takes more than a few seconds. Shorter than the idle time that is the default.
const LIMIT: Duration = Duration::from_secs(40);

fn around_the_idle_time(machine: &Machine) {
    machine.configure(r#"{"idle_exit_seconds": 1}"#);
    machine.user("systemctl --user stop styxy.service").ok();
    let result = machine.inside("idle calls 5000");
    eprintln!("{}: {}", machine.name(), result["summary"]);

    assert_eq!(result["errors"], json!([]), "{}", result["summary"]);
    assert!(result["calls"].as_u64() >= Some(5_000), "{}", result["summary"]);
    assert!(result["exits"].as_u64() >= Some(40), "{}", result["summary"]);
    assert!(starts(machine) as u64 > result["exits"].as_u64().unwrap(), "systemd counts too");
    assert_never_failed(machine);
    assert_eq!(machine.call("List", "'a{sv}' 0").unwrap(), json!([[]]));
    // What was answered was done, and once.
    let events = crash::audited(machine);
    for (action, leases) in [("allocate", &result["granted"]), ("release", &result["released"])] {
        let of_action = events.iter().filter(|event| event["STYXY_ACTION"] == action);
        let mut told: Vec<_> = of_action.map(|event| event["STYXY_LEASE_ID"].as_str()).collect();
        let mut answered: Vec<_> = leases.as_array().unwrap().iter().map(Json::as_str).collect();
        told.sort_unstable();
        answered.sort_unstable();
        assert!(told == answered, "{action}: {} answers, {} events", answered.len(), told.len());
    }
}

/// Neither now nor before.
fn assert_never_failed(machine: &Machine) {
    // A restart is no failure: the service goes on when a lease was granted while it was ending.
    assert_eq!(machine.unit(SERVICE, "Result"), "success");
    // SD_MESSAGE_UNIT_FAILED and SD_MESSAGE_UNIT_FAILURE_RESULT.
    let failures = machine.user(
        "journalctl -q -o cat --user-unit=styxy.service --user-unit=styxy.socket \
         MESSAGE_ID=be02cf6855d2428ba40df7e9d022f03d \
         MESSAGE_ID=d9b373ed55a64feb8242e02dbe79a49c",
    );
    assert_eq!(failures.stdout, "");
    assert_eq!(machine.unit_state("styxy.socket"), "active");
}

/// How often systemd has started the service.
fn starts(machine: &Machine) -> usize {
    // SD_MESSAGE_UNIT_STARTING. One that is stopped very early is never called started.
    let starting = "journalctl -q -o cat --user-unit=styxy.service \
                    MESSAGE_ID=7d4958e842da4a758f6c1cdc7b36dcc5";
    machine.user(starting).ok().lines().count()
}

fn open_connection(machine: &Machine) {
    let answer = machine.inside("idle open");
    assert_eq!(answer["success"], true, "{answer}");
    assert_never_failed(machine);
}

fn quick_starts(machine: &Machine) {
    let result = machine.inside("idle starts 300");
    eprintln!("{}: 300 starts and ends in {} s", machine.name(), result["seconds"]);
    eventually(LIMIT, "the journal has every start", || starts(machine) >= 300);
    assert_eq!(starts(machine), 300);
    assert_never_failed(machine);
    assert_eq!(machine.call("Allocate", "'sa{sv}' dev 0").unwrap()[0], 3000);
}

fn unused(machine: &Machine) {
    machine.configure(r#"{"idle_exit_seconds": 1}"#);
    machine.user("systemctl --user restart styxy.service").ok();
    eventually(LIMIT, "it exits", || machine.unit_state(SERVICE) == "inactive");
    let moment = |event: &str| {
        machine.unit(SERVICE, &format!("{event}TimestampMonotonic")).parse::<u64>().unwrap()
    };
    let lived = Duration::from_micros(moment("InactiveEnter") - moment("ActiveEnter"));
    assert!(lived >= Duration::from_secs(1), "{lived:?}");
    assert_eq!(machine.unit(SERVICE, "ExecMainStatus"), "0");
    assert_never_failed(machine);
    let names = machine.user("busctl --user list --acquired --no-legend").ok();
    assert!(!names.contains("org.styxy.Styxy1"), "{names}");
    assert_eq!(machine.user("pgrep -x styxy").code, Some(1), "no process is left");
}

fn kept_alive(machine: &Machine) {
    machine.configure(r#"{"idle_exit_seconds": 1}"#);
    machine.user("systemctl --user stop styxy.service").ok();
    let lease = machine.call("Allocate", "'sa{sv}' dev 0").unwrap();
    let pid = machine.unit(SERVICE, "MainPID");
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(4) {
        assert_eq!(machine.unit(SERVICE, "MainPID"), pid, "after {:?}", start.elapsed());
    }
    let id = lease[1].as_str().unwrap();
    assert_eq!(machine.call("Release", &format!("s {id}")).unwrap(), json!([3000]));
    eventually(LIMIT, "it exits after the release", || machine.unit_state(SERVICE) == "inactive");
    assert_never_failed(machine);
}

fn only_claimed(machine: &Machine) {
    machine.configure(r#"{"idle_exit_seconds": 1, "claimed_seconds": 1}"#);
    machine.user("systemctl --user stop styxy.service").ok();
    let port = machine.user("mkdir -p shop && cd shop && styxy allocate dev").ok();
    eventually(LIMIT, "it exits", || machine.unit_state(SERVICE) == "inactive");
    assert_eq!(machine.unit(SERVICE, "ExecMainStatus"), "0", "it is not to be started again");
    // The claim is there, and guarded again.
    let claim = machine.user("cd shop && styxy allocate dev --json").ok();
    let claim: Json = serde_json::from_str(&claim).unwrap();
    assert_eq!(claim["port"].to_string(), port.trim());
    assert_eq!((&claim["existing"], &claim["hold"]), (&json!(true), &json!("guard")));
    assert_never_failed(machine);
}

fn new_idle_time(machine: &Machine) {
    machine.call("Check", "qs 3000 tcp").unwrap();
    assert_eq!(machine.unit_state(SERVICE), "active");
    machine.configure(r#"{"idle_exit_seconds": 1}"#);
    eventually(LIMIT, "it exits after the new time", || machine.unit_state(SERVICE) == "inactive");
    assert_eq!(starts(machine), 1);
}

fn reload(machine: &Machine) {
    let dry_run = || machine.call("Allocate", "'sa{sv}' game 1 dry_run b true").unwrap();
    let is_known = || dry_run()[2]["auto_allocated"].is_null();
    assert!(!is_known());
    let pid = machine.unit(SERVICE, "MainPID");

    let monitor = "exec busctl --user monitor --json=short org.styxy.Styxy1 >signals 2>&1";
    let mut monitor = machine.start(monitor);
    eventually(LIMIT, "the monitor sees a call", || {
        machine.call("Check", "qs 3000 tcp").unwrap();
        machine.user("grep -q Check signals").code == Some(0)
    });
    machine
        .user(
            "mkdir -p ~/.config/styxy/config.d
             echo '{\"service_types\": {\"game\": {\"port_range\": [7000, 7009]}}}' \
                 >~/.config/styxy/config.d/game.json
             systemctl --user reload styxy.service",
        )
        .ok();
    eventually(LIMIT, "the signal is seen", || {
        machine.user("grep -q '\"ServiceTypeAdded\".*\"game\"' signals").code == Some(0)
    });
    monitor.kill().unwrap();
    monitor.wait().unwrap();

    assert_eq!(machine.call("Allocate", "'sa{sv}' game 0").unwrap()[0], 7000);
    assert_eq!(machine.unit(SERVICE, "MainPID"), pid);
    let events = crash::audited(machine);
    let event = events.iter().find(|event| event["STYXY_ACTION"] == "config_reload").unwrap();
    assert_eq!(event["MESSAGE"], "The configuration changed; new service types: game 7000-7009");

    machine.user("rm ~/.config/styxy/config.d/game.json").ok();
    machine.user("systemctl --user kill -s HUP styxy.service").ok();
    eventually(LIMIT, "the type is gone", || !is_known());
    assert_eq!(machine.unit(SERVICE, "MainPID"), pid);
}

fn broken_configuration(machine: &Machine) {
    let lease = machine.call("Allocate", "'sa{sv}' dev 0").unwrap();
    let pid = machine.unit(SERVICE, "MainPID");
    let write = |lines: &[&str]| {
        let words: Vec<_> = lines.iter().map(|line| format!("'{line}'")).collect();
        let file = "~/.config/styxy/config.json";
        machine.user(&format!("printf '%s\\n' {} >{file}", words.join(" "))).ok();
    };
    let reload = || machine.call("Reload", "").unwrap()[0].clone();
    let file = "/home/dev/.config/styxy/config.json";

    write(&["{", "  \"idle_exit_seconds\": 7,", "  \"limits\": {,}", "}"]);
    let syntax = reload();
    assert_eq!(syntax.as_array().unwrap().len(), 1, "{syntax}");
    let text = syntax[0].as_str().unwrap();
    assert!(text.starts_with(&format!("{file}:3:14: this is not JSON: ")), "{text}");

    write(&[
        "{",
        "  \"idle_exit_seconds\": 7,",
        "  \"service_types\": {\"dev\": {\"port_range\": [3099, 3000]}},",
        "  \"excluded_ports\": [0]",
        "}",
    ]);
    let fields = reload();
    let texts: Vec<_> = fields.as_array().unwrap().iter().map(|p| p.as_str().unwrap()).collect();
    assert_eq!(texts.len(), 2, "{texts:?}");
    let first = format!("{file}:3:43: service_types.dev.port_range: the range is reversed");
    let second = format!("{file}:4:22: excluded_ports[0]: must be a whole number from 1 to 65535");
    assert!(texts.iter().any(|text| text.starts_with(&first)), "{texts:?}");
    assert!(texts.iter().any(|text| text.starts_with(&second)), "{texts:?}");

    // The last good one stays in force.
    let status = machine.call("Status", "").unwrap()[0].clone();
    assert_eq!(status["idle_exit_seconds"]["data"], 60);
    assert_eq!(status["config_problems"]["data"], fields);
    assert_eq!(machine.call("Allocate", "'sa{sv}' dev 0").unwrap()[0], 3001);
    assert_eq!(machine.unit(SERVICE, "MainPID"), pid);
    let events = crash::audited(machine);
    for problem in [text, texts[0], texts[1]] {
        let mut told = events.iter().filter(|event| event["STYXY_REASON"] == problem);
        let event = told.next().unwrap_or_else(|| panic!("no event says {problem}"));
        assert_eq!(event["STYXY_ACTION"], "config_error");
        assert_eq!(event["PRIORITY"], "4");
        assert!(told.next().is_none(), "{problem} is told twice");
    }

    // It starts with it, too.
    machine.user("systemctl --user restart styxy.service").ok();
    let leases = machine.call("List", "'a{sv}' 0").unwrap();
    assert_eq!(leases[0][0]["lease_id"]["data"], lease[1]);
    assert_eq!(reload(), fields);
    write(&["{}"]);
    assert_eq!(reload(), json!([]));
}

fn signals(machine: &Machine) {
    let lease = machine.call("Allocate", "'sa{sv}' dev 0").unwrap();
    for signal in ["TERM", "INT"] {
        assert_eq!(machine.call("List", "'a{sv}' 0").unwrap()[0][0]["lease_id"]["data"], lease[1]);
        machine.user(&format!("systemctl --user kill -s {signal} {SERVICE}")).ok();
        eventually(LIMIT, "it ends", || machine.unit_state(SERVICE) == "inactive");
        assert_eq!(machine.unit(SERVICE, "ExecMainCode"), "1", "it has exited by itself");
        assert_eq!(machine.unit(SERVICE, "ExecMainStatus"), "0");
        assert_never_failed(machine);
    }
    assert_eq!(machine.call("List", "'a{sv}' 0").unwrap()[0][0]["lease_id"]["data"], lease[1]);
}

fn early_signals(machine: &Machine) {
    machine.inside("idle signals 20");
    assert_never_failed(machine);
}

fn watchdog(machine: &Machine) {
    machine
        .user(
            "mkdir -p ~/.config/systemd/user/styxy.service.d
             printf '[Service]\\nWatchdogSec=1\\n' \
                 >~/.config/systemd/user/styxy.service.d/short.conf
             systemctl --user daemon-reload",
        )
        .ok();
    let lease = machine.call("Allocate", "'sa{sv}' dev 0").unwrap();
    let pid = machine.unit(SERVICE, "MainPID");
    assert_eq!(machine.unit(SERVICE, "WatchdogUSec"), "1s");
    eventually(LIMIT, "the status is shown", || machine.unit(SERVICE, "StatusText") == "1 lease");
    let beat = || machine.unit(SERVICE, "WatchdogTimestampMonotonic").parse::<u64>().unwrap();
    let first = beat();
    eventually(LIMIT, "it tells that it lives", || beat() > first + 3_000_000);
    assert_eq!(machine.unit(SERVICE, "MainPID"), pid);

    machine.user(&format!("kill -STOP {pid}")).ok();
    eventually(LIMIT, "systemd starts it anew", || {
        machine.unit(SERVICE, "NRestarts") == "1" && machine.unit_state(SERVICE) == "active"
    });
    let leases = machine.call("List", "'a{sv}' 0").unwrap();
    assert_eq!(leases[0][0]["lease_id"]["data"], lease[1]);
    assert_ne!(machine.unit(SERVICE, "MainPID"), pid);
}

/// dbus-daemon waits two minutes for a start that it asked for, also when a stop has called it off.
fn called_off(machine: &Machine) {
    machine
        .user(
            "mkdir -p ~/.config/systemd/user/styxy.service.d
             printf '[Service]\\nExecStopPost=sleep 3\\n' >~/.config/systemd/user/styxy.service.d/late.conf
             systemctl --user daemon-reload; styxy allocate dev",
        )
        .ok();
    let granted = machine.user(
        "systemctl --user stop --no-block styxy.service; sleep 0.5
         styxy allocate dev --new & sleep 1; systemctl --user stop styxy.service 2>/dev/null; wait $!",
    );
    assert_eq!(granted.stdout.trim(), "3001", "{}", granted.stderr);
}
