//! Service types: those that appear by themselves, and those of which there is one for everybody.
//!
//! - `crowd`: a hundred clients at once
//! - `growth`: a type that needs more room
//! - `slips`: names that look mistyped, and requests that only ask
//! - `life`: from the first request to the undo, across restarts and a reboot
//! - `versions`: switching off, backups, restoring
//! - `doors`: the same over HTTP, and what is told as signals
//! - `shared`: one model server for many sessions

mod crowd;
mod doors;
mod growth;
mod life;
mod shared;
mod slips;
mod versions;

use serde_json::Value as Json;

use crate::{Test, crash, machine::Machine};

pub const TESTS: &[Test] = &[
    ("types_that_a_hundred_clients_ask_for_at_once_get_disjoint_ranges", crowd::different),
    ("types_get_one_range_when_a_hundred_clients_ask_for_one_at_once", crowd::same),
    ("types_grow_no_more_than_a_hundred_clients_at_once_need", crowd::growing),
    ("types_that_are_full_get_a_further_range_each_time", growth::thousand),
    ("types_with_a_mistyped_name_are_refused_without_a_trace", slips::refused),
    ("types_that_are_only_asked_about_are_not_made", slips::dry_run),
    ("types_live_from_the_first_request_to_the_undo", life::grafana),
    ("types_that_are_undone_take_their_leases_with_them_only_by_force", life::undone),
    ("types_do_not_appear_where_that_is_switched_off", versions::switch),
    ("types_come_back_with_an_earlier_version_of_their_file", versions::restored),
    ("types_are_shown_and_changed_over_http", doors::http),
    ("types_that_come_and_go_are_told_as_signals", doors::signals),
    ("types_that_run_once_are_shared_by_eight_sessions", shared::sessions),
    ("types_that_run_once_go_on_without_owners_until_the_next_adopts_them", shared::adopted),
    ("types_that_run_once_are_told_apart_by_keys", shared::keys),
];

/// Where the service writes what has appeared by itself.
const FILE: &str = "/home/dev/.config/styxy/config.d/styxy-auto.json";

/// What runs in the machine.
pub async fn inside(arguments: &[&str]) -> Json {
    match arguments {
        ["different", clients, rounds] => {
            crowd::inside_different(clients.parse().unwrap(), rounds.parse().unwrap()).await
        }
        ["same", clients, rounds] => {
            crowd::inside_same(clients.parse().unwrap(), rounds.parse().unwrap()).await
        }
        ["growth", requests] => growth::inside(requests.parse().unwrap()).await,
        ["signals"] => doors::inside().await,
        ["sessions"] => shared::inside_sessions().await,
        ["adopted"] => shared::inside_adopted().await,
        _ => panic!("there is no command {arguments:?}"),
    }
}

/// The events of that action, once all events are in the journal. One that a crash has repeated is one.
fn events(machine: &Machine, action: &str) -> Vec<Json> {
    let mut events = crash::audited(machine);
    events.retain(|event| event["STYXY_ACTION"] == action);
    let number = |event: &Json| event["STYXY_SEQ"].as_str().unwrap().parse::<u64>().unwrap();
    events.sort_by_key(number);
    events.dedup_by_key(|event| number(event));
    events
}

/// What the service has written; empty if there is nothing.
fn file(machine: &Machine) -> String {
    machine.user(&format!("if test -e {FILE}; then cat {FILE}; fi")).ok()
}

/// What a command with `--json` prints.
fn json(machine: &Machine, command: &str) -> Json {
    let output = machine.user(&format!("{command} --json")).ok();
    serde_json::from_str(&output).unwrap_or_else(|error| panic!("{error}: {output}"))
}

/// The service types that have appeared by themselves, each with its ranges.
fn automatic(machine: &Machine) -> Vec<(String, Vec<String>)> {
    let types = json(machine, "styxy types");
    let types =
        types["service_types"].as_array().unwrap().iter().filter(|t| t["automatic"] == true);
    let text = |value: &Json| value.as_str().unwrap().to_owned();
    types
        .map(|t| {
            let ranges = t["ranges"].as_array().unwrap().iter().map(text).collect();
            (text(&t["service_type"]), ranges)
        })
        .collect()
}

/// A range as every door shows it: its first and its last port.
fn range(text: &str) -> (u16, u16) {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    (first.parse().unwrap(), last.parse().unwrap())
}
