//! A lease ends when its owner does, neither sooner nor later.
//!
//! - `client`: a client on the bus that hears the signals, for what runs inside the machine
//! - the other modules: the tests, by the kind of owner

pub mod client;
mod deadlines;
mod down;
mod instances;
mod orphans;
mod processes;
mod projects;
mod quiet;
mod reuse;
mod swarm;
mod units;

use std::time::Duration;

use serde_json::Value as Json;

use crate::{
    Test,
    machine::{Machine, eventually},
};

pub const TESTS: &[Test] = &[
    ("ten_thousand_short_lived_owners_end_their_leases", swarm::ten_thousand),
    ("owners_that_are_processes_end_their_leases", processes::ends),
    ("owners_end_while_no_service_runs", down::ends),
    ("owners_that_cannot_be_watched_are_refused", processes::refused),
    ("owners_are_not_mistaken_when_their_pid_comes_again", reuse::pids),
    ("owners_that_leave_a_server_behind_leave_an_orphan", orphans::background),
    ("owners_that_are_units_or_connections_end_their_leases", units::ends),
    ("owners_that_are_instances_end_their_leases", instances::ends),
    ("without_owners_leases_end_at_their_deadline", deadlines::ends),
    ("without_owners_leases_outlive_a_suspended_machine", deadlines::suspended),
    ("a_hundred_owners_that_do_nothing_cost_nothing", quiet::owners),
    ("checkouts_and_worktrees_keep_their_own_ports", projects::keep),
    ("units_without_a_folder_are_services_of_their_own", units_nowhere),
];

/// Units without `WorkingDirectory=` are all in the home.
fn units_nowhere(machine: &Machine) {
    let run = |unit: &str, verb: &str| {
        let unit = format!("systemd-run --user --quiet --wait --pipe --unit={unit}");
        machine.user(&format!("{unit} {verb}")).ok().trim().to_owned()
    };
    let ran = |unit: &str| run(unit, "styxy run dev -q -- sh -c 'echo $PORT'");
    let [web, admin] = ["web", "admin"].map(ran);
    assert_ne!(web, admin);
    // Whoever is started first takes nothing from the other.
    assert_eq!([ran("admin"), ran("web")], [admin, web.clone()]);
    let allocated = run("web", "styxy allocate dev --json");
    assert!(allocated.contains("\"service_name\": \"web\""), "{allocated}");
    assert_eq!(run("web", "styxy allocate dev -q"), web);
    assert_eq!(machine.user("styxy port dev --name web").ok().trim(), web);
}

/// What runs in the machine.
pub async fn inside(arguments: &[&str]) -> Json {
    match arguments {
        ["swarm", owners, workers] => {
            swarm::inside(owners.parse().unwrap(), workers.parse().unwrap())
        }
        ["processes"] => processes::inside().await,
        ["refused"] => processes::refused_inside().await,
        ["orphans"] => orphans::inside().await,
        ["units"] => units::inside().await,
        ["instances"] => instances::inside().await,
        ["deadlines"] => deadlines::inside().await,
        ["down"] => down::inside().await,
        ["quiet", owners] => quiet::inside(owners.parse().unwrap()).await,
        ["projects", rounds] => projects::inside(rounds.parse().unwrap()),
        _ => panic!("there is no command {arguments:?}"),
    }
}

/// The events about a lease in the journal, once all of them are there: each as its action and its
/// reason.
fn told(machine: &Machine, lease_id: &Json) -> Vec<(String, String)> {
    eventually(Duration::from_secs(60), "every event is in the journal", || {
        machine.call("Status", "").unwrap()[0]["audit_pending"]["data"] == 0
    });
    let text = |field: &Json| field.as_str().unwrap_or_default().to_owned();
    let events = machine.events().into_iter();
    events
        .filter(|event| event["STYXY_LEASE_ID"] == *lease_id)
        .map(|event| (text(&event["STYXY_ACTION"]), text(&event["STYXY_REASON"])))
        .collect()
}

/// The same, for the lease that a command inside has named so.
fn assert_told(machine: &Machine, lease_id: &Json, wanted: &[(&str, &str)]) {
    // The lease of an owner that ended at once waits for a moment.
    eventually(Duration::from_secs(60), "as much is told as there should be", || {
        told(machine, lease_id).len() >= wanted.len()
    });
    let told = told(machine, lease_id);
    let told: Vec<_> = told.iter().map(|(action, reason)| (&**action, &**reason)).collect();
    assert_eq!(told, wanted, "{lease_id}");
}
