//! Guards: a leased port is kept from everybody else, also while the service is dead, and let go with
//! the lease.

mod client;

use std::{
    collections::{BTreeSet, HashMap},
    ops::RangeInclusive,
    thread,
    time::Duration,
};

pub use client::{bind_socket, inside};
use serde_json::{Value as Json, json};

use crate::{
    Test,
    machine::{Machine, eventually},
};

pub const TESTS: &[Test] = &[
    ("five_hundred_guards_outlive_the_service_and_their_owners_are_watched_again", killed),
    ("guards_of_a_burst_outlive_a_service_that_is_killed_right_after_it", burst),
    ("guards_beyond_the_store_are_bound_again_at_the_start", beyond_the_store),
    ("a_guard_that_waits_is_stored_when_others_make_room", room_in_the_store),
    ("a_port_is_never_free_while_the_service_is_killed_and_restarted", assaulted),
    ("the_guard_of_a_released_lease_leaves_the_store", released),
    ("a_port_that_its_owner_keeps_bound_has_no_guard_in_the_store_either", kept_by_its_owner),
    ("a_grant_beyond_the_limit_of_guards_says_that_it_is_not_guarded", limited),
    ("a_request_or_a_service_type_may_do_without_a_guard", unguarded),
    ("a_port_without_a_guard_can_be_bound_right_after_it_had_one", right_after),
    ("the_bound_socket_itself_is_handed_over", handed_over),
    ("a_port_for_both_protocols_is_free_in_both", both_protocols),
    ("a_block_is_granted_whole_or_not_at_all_and_released_in_any_order", block),
    ("a_service_with_a_lease_does_not_exit_when_it_is_idle", never_idle),
];

const SERVICE: &str = "styxy.service";

/// No port.
const NONE: [u16; 0] = [];

/// Generous; nothing here takes more than a few seconds.
const LIMIT: Duration = Duration::from_secs(60);

fn killed(machine: &Machine) {
    let ports = 20_000..=20_499;
    set_up(machine, &ports);
    start_late(machine);
    let owned = machine.inside("guards fill 500 100");
    let owned: Vec<(u64, u16)> = serde_json::from_value(owned).unwrap();
    let (dying, living) = owned.split_at(50);
    eventually(LIMIT, "every guard is stored", || stored(machine) == 500);

    kill_service(machine);
    end(machine, dying);
    assert_eq!(free(machine, &ports), NONE);
    // So it was dead all the while.
    assert_eq!(machine.unit(SERVICE, "SubState"), "auto-restart");
    assert_eq!(stored(machine), 500);

    eventually(LIMIT, "the service is back", || machine.unit_state(SERVICE) == "active");
    let born = machine.unit(SERVICE, "ActiveEnterTimestampMonotonic").parse::<u64>().unwrap();
    let ended: BTreeSet<u16> = dying.iter().map(|(_, port)| *port).collect();
    assert_ended(machine, &ports, &ended);
    // The leases of the dead ended at the start, and not when somebody asked for them.
    let events = machine.events();
    let expired: Vec<_> = events.iter().filter(|e| e["STYXY_ACTION"] == "expire").collect();
    assert_eq!(expired.len(), 50);
    for event in expired {
        assert_eq!(event["STYXY_REASON"], "owner_gone");
        let told = event["__MONOTONIC_TIMESTAMP"].as_str().unwrap().parse::<u64>().unwrap();
        assert!(told < born + 5_000_000, "{told} is long after {born}: {event:#}");
    }

    end(machine, living);
    let ended: BTreeSet<u16> = owned.iter().map(|(_, port)| *port).collect();
    assert_ended(machine, &ports, &ended);

    // Those that were taken back are as good as new ones.
    kill_service(machine);
    let rest = 20_000..=20_399;
    assert_eq!(free(machine, &rest), NONE);
    assert_eq!(machine.unit(SERVICE, "SubState"), "auto-restart");
    eventually(LIMIT, "the service is back", || machine.unit_state(SERVICE) == "active");
    assert_ended(machine, &ports, &ended);
}

/// Has the service start again so late that there is time to look at the ports before.
fn start_late(machine: &Machine) {
    machine
        .user(
            "mkdir -p ~/.config/systemd/user/styxy.service.d
             printf '[Service]\\nRestartSec=20s\\n' >~/.config/systemd/user/styxy.service.d/late.conf
             systemctl --user daemon-reload",
        )
        .ok();
}

fn burst(machine: &Machine) {
    let ports = 20_000..=20_499;
    set_up(machine, &ports);
    start_late(machine);
    machine.inside("guards fill 500 0");
    kill_service(machine);
    assert_eq!(free(machine, &ports), NONE);
    assert_eq!(machine.unit(SERVICE, "SubState"), "auto-restart");
}

/// Exactly these ports are let go, by the service and by systemd.
#[track_caller]
fn assert_ended(machine: &Machine, ports: &RangeInclusive<u16>, ended: &BTreeSet<u16>) {
    let left = ports.len() - ended.len();
    eventually(LIMIT, "the leases of the dead have ended", || {
        status(machine, "leases") == left as u64
    });
    assert_eq!(status(machine, "guards"), left as u64);
    eventually(LIMIT, "systemd has let them go, too", || stored(machine) == left);
    assert_released(machine, ports, &ended.iter().copied().collect::<Vec<_>>());
    let leased: BTreeSet<u16> = leases(machine).iter().map(|lease| port(&lease["port"])).collect();
    let expected = ports.clone().filter(|port| !ended.contains(port)).collect();
    assert_eq!(leased, expected);
}

fn beyond_the_store(machine: &Machine) {
    let ports = 20_000..=20_599;
    set_up(machine, &ports);
    machine.inside("guards fill 600 0");
    assert_eq!(status(machine, "guards"), 600);
    eventually(LIMIT, "the store is full", || stored(machine) == 512);
    kill_service(machine);
    eventually(LIMIT, "the service is back", || machine.unit_state(SERVICE) == "active");
    // Requests are answered in between.
    eventually(LIMIT, "the rest is bound again", || status(machine, "guards") == 600);
    assert_eq!(free(machine, &ports), NONE);
    assert_eq!(stored(machine), 512);
}

fn room_in_the_store(machine: &Machine) {
    let ports = 20_000..=20_599;
    set_up(machine, &ports);
    machine.inside("guards fill 600 0");
    eventually(LIMIT, "the store is full", || stored(machine) == 512);
    let some: Vec<u16> = ports.clone().take(100).collect();
    machine.inside(&format!("guards release {}", words(&some)));
    assert_released(machine, &ports, &some);
    assert_eq!(status(machine, "guards"), 500);
    eventually(LIMIT, "the others are stored", || stored(machine) == 500);
}

fn assaulted(machine: &Machine) {
    let ports = 20_000..=20_049;
    set_up(machine, &ports);
    machine.inside("guards fill 50 0");
    eventually(LIMIT, "every guard is stored", || stored(machine) == 50);
    machine.put_inside();
    let rogue = machine.start("exec /usr/local/bin/inside inside guards assault 20000 20049 stop");
    eventually(LIMIT, "it has begun", || machine.user("test -e stop.begun").code == Some(0));
    for _ in 0..3 {
        kill_service(machine);
        eventually(LIMIT, "the service is back", || machine.unit_state(SERVICE) == "active");
        machine.user("systemctl --user restart styxy.service").ok();
        assert_eq!(status(machine, "guards"), 50);
    }
    machine.user("touch stop").ok();
    let output = rogue.wait_with_output().unwrap();
    let result: Json = serde_json::from_slice(&output.stdout).unwrap();
    eprintln!("{}: {} binds were refused", machine.name(), result["refused"]);
    assert_eq!(result["bound"], json!([]));
    assert!(result["refused"].as_u64() > Some(1_000), "{result}");
}

fn released(machine: &Machine) {
    let ports = 20_000..=20_019;
    set_up(machine, &ports);
    machine.inside("guards fill 20 0");
    eventually(LIMIT, "every guard is stored", || stored(machine) == 20);
    let odd: Vec<u16> = ports.clone().filter(|port| port % 2 == 1).collect();
    machine.inside(&format!("guards release {}", words(&odd)));
    eventually(LIMIT, "systemd has let them go", || stored(machine) == 10);
    assert_released(machine, &ports, &odd);
    assert_eq!(status(machine, "guards"), 10);

    // One that goes before it is stored leaves nothing there.
    machine.inside("guards fill 1 0");
    machine.inside(&format!("guards release {}", odd[0]));
    assert_released(machine, &ports, &odd);
    let released = machine.call("ReleaseMatching", "'a{sv}' 1 service_type s dev").unwrap();
    assert_eq!(released, json!([10]));
    eventually(LIMIT, "the store is empty", || stored(machine) == 0);
    assert_released(machine, &ports, &ports.clone().collect::<Vec<_>>());
}

fn kept_by_its_owner(machine: &Machine) {
    let ports = 20_000..=20_009;
    set_up(machine, &ports);
    let lease = machine.call("Allocate", "'sa{sv}' dev 0").unwrap();
    let set_hold = |hold: &str| machine.call("SetHold", &format!("ss {} {hold}", lease[1]));
    eventually(LIMIT, "the guard is stored", || stored(machine) == 1);
    set_hold("client").unwrap();
    // As soon as it is answered.
    assert_eq!(free(machine, &(20_000..=20_000)), [20_000]);
    assert_eq!((status(machine, "guards"), stored(machine)), (0, 0));

    let is_left_alone = || {
        assert_eq!(leases(machine)[0]["hold"]["data"], "client");
        assert_eq!(status(machine, "guards"), 0);
        assert_eq!(free(machine, &(20_000..=20_000)), [20_000]);
    };
    kill_service(machine);
    eventually(LIMIT, "the service is back", || machine.unit_state(SERVICE) == "active");
    is_left_alone();
    machine.user("systemctl --user restart styxy.service").ok();
    is_left_alone();

    let wrong = set_hold("none").unwrap_err();
    assert!(wrong.contains("client") && wrong.contains("guard"), "{wrong}");
    set_hold("guard").unwrap();
    assert_eq!(free(machine, &(20_000..=20_000)), NONE);
    eventually(LIMIT, "the guard is stored again", || stored(machine) == 1);
    let holds: Vec<_> = audited(machine, "hold").iter().map(|e| e["STYXY_HOLD"].clone()).collect();
    assert_eq!(holds, [json!("client"), json!("guard")]);
}

fn limited(machine: &Machine) {
    machine.configure(
        r#"{"limits": {"guards": 2}, "service_types": {"dev": {"port_range": [20000, 20009]}}}"#,
    );
    let holds = |lease: &Json| (lease[2]["hold"]["data"].clone(), lease[2]["note"].clone());
    let allocate = |options: &str| machine.call("Allocate", &format!("'sa{{sv}}' dev {options}"));
    let first = allocate("0").unwrap();
    assert_eq!(holds(&first), (json!("guard"), Json::Null));
    // A block is guarded whole or not at all, so that its answer can say how it is held.
    let block = allocate("1 count q 2").unwrap();
    assert_eq!(holds(&block).0, "none");
    let second = allocate("0").unwrap();
    assert_eq!(holds(&second), (json!("guard"), Json::Null));
    let third = allocate("0").unwrap();
    let (hold, note) = holds(&third);
    assert_eq!(hold, "none");
    let note = note["data"].as_str().unwrap();
    assert!(note.contains("not guarded") && note.contains("limit of 2 guards"), "{note}");
    assert_eq!(status(machine, "guards"), 2);
    assert_eq!(free(machine, &(20_000..=20_004)), [20_001, 20_002, 20_004]);

    // An end makes room for the next.
    machine.call("Release", &format!("s {}", first[1])).unwrap();
    assert_eq!(holds(&allocate("0").unwrap()), (json!("guard"), Json::Null));
    let told: Vec<_> = audited(machine, "allocate");
    let of = |lease: &Json| told.iter().find(|e| e["STYXY_LEASE_ID"] == lease[1]).unwrap();
    assert_eq!(of(&second)["STYXY_HOLD"], "guard");
    assert_eq!(of(&third)["STYXY_HOLD"], "none");
    assert_eq!(told.iter().filter(|event| event["STYXY_HOLD"] == "none").count(), 3);
    let listed = leases(machine);
    let listed = listed.iter().find(|lease| lease["lease_id"]["data"] == third[1]).unwrap();
    assert_eq!(listed["hold"]["data"], "none");
}

fn unguarded(machine: &Machine) {
    machine.configure(
        r#"{"service_types": {"dev": {"port_range": [20000, 20009]},
            "bare": {"port_range": [20010, 20019], "hold": "none"}}}"#,
    );
    let hold = |arguments: &str| {
        let lease = machine.call("Allocate", &format!("'sa{{sv}}' {arguments}")).unwrap();
        (lease[0].clone(), lease[2]["hold"]["data"].as_str().unwrap().to_owned())
    };
    assert_eq!(hold("dev 0"), (json!(20_000), "guard".to_owned()));
    assert_eq!(hold("dev 1 hold s none"), (json!(20_001), "none".to_owned()));
    assert_eq!(hold("bare 0"), (json!(20_010), "none".to_owned()));
    assert_eq!(hold("bare 1 hold s guard"), (json!(20_011), "guard".to_owned()));
    // UDP knows no socket that is bound and lets another in.
    assert_eq!(hold("dev 2 protocol s udp port q 20002").1, "none");
    assert_eq!(status(machine, "guards"), 2);
    assert_eq!(free(machine, &(20_000..=20_002)), [20_001, 20_002]);
    assert_eq!(free(machine, &(20_010..=20_011)), [20_010]);
    // Nobody else is granted it, guarded or not.
    let taken = machine.call("Allocate", "'sa{sv}' dev 2 port q 20001 strict b true").unwrap_err();
    assert!(taken.contains("leased"), "{taken}");
    let wrong = machine.call("Allocate", "'sa{sv}' dev 2 protocol s udp hold s guard").unwrap_err();
    assert!(wrong.contains("a guard can hold a TCP port only"), "{wrong}");
}

fn right_after(machine: &Machine) {
    // As servers do that do not set SO_REUSEADDR: with a guard they could not bind.
    let bind = "import os, socket; socket.socket().bind((\"\", int(os.environ[\"PORT\"])))";
    for _ in 0..5 {
        let stored = machine.user(
            "styxy run dev --name web -- sh -c 'for i in $(seq 200); do
                 n=$(systemctl --user show -P NFileDescriptorStore styxy.service); [ $n -le 0 ] || sleep 1.5; [ $n -le 0 ] || exit 0
                 sleep 0.05; done; exit 1'",
        );
        assert_eq!(stored.code, Some(0), "{stored:?}");
        let bound =
            machine.user(&format!("styxy run dev --name web --hold none -- python3 -c '{bind}'"));
        assert_eq!(bound.code, Some(0), "{bound:?}");
    }
}

fn handed_over(machine: &Machine) {
    set_up(machine, &(20_000..=20_009));
    let leases = machine.inside("guards sockets");
    let told = audited(machine, "allocate");
    for lease in leases.as_array().unwrap() {
        let event = told.iter().find(|event| event["STYXY_LEASE_ID"] == *lease).unwrap();
        assert_eq!(event["STYXY_HOLD"], "socket");
    }
    assert_eq!(told.len(), 2);
    assert_eq!(status(machine, "guards"), 0);
    assert_eq!(stored(machine), 0);
}

fn both_protocols(machine: &Machine) {
    set_up(machine, &(20_000..=20_009));
    machine.put_inside();
    let occupy = "exec /usr/local/bin/inside inside guards occupy";
    let mut occupant = machine.start(&format!("{occupy} 127.0.0.1 20000 20003"));
    let is_busy = |port: u16, protocol: &str| {
        machine.call("Check", &format!("qs {port} {protocol}")).unwrap()[0]["reason"]["data"]
            == "in_use"
    };
    eventually(LIMIT, "the ports are occupied", || is_busy(20_003, "udp"));
    assert!(is_busy(20_000, "tcp"));
    assert!(!is_busy(20_000, "udp"), "it has the first in TCP");
    assert!(!is_busy(20_003, "tcp"), "and the other in UDP");
    machine.call("Allocate", "'sa{sv}' dev 3 protocol s udp port q 20001 strict b true").unwrap();
    machine.call("Allocate", "'sa{sv}' dev 2 port q 20002 strict b true").unwrap();

    let both = |options: &str| machine.call("Allocate", &format!("'sa{{sv}}' dev {options}"));
    let lease = both("1 protocol s both").unwrap();
    assert_eq!(lease[0], 20_004, "the first that is free in both");
    assert_eq!(lease[2]["protocol"]["data"], "both");
    assert_eq!(lease[2]["hold"]["data"], "guard");
    for (port, reason) in [(20_000, "in use"), (20_001, "leased"), (20_002, "leased")] {
        let error = both(&format!("3 protocol s both port q {port} strict b true")).unwrap_err();
        assert!(error.contains(reason), "{port}: {error}");
    }
    let error = both("3 protocol s both port q 20003 strict b true").unwrap_err();
    assert!(error.contains("in use"), "{error}");
    // It is leased for either.
    for protocol in ["tcp", "udp"] {
        let check = machine.call("Check", &format!("qs 20004 {protocol}")).unwrap();
        assert_eq!(check[0]["reason"]["data"], "leased");
    }
    assert_eq!(free(machine, &(20_004..=20_004)), NONE, "its guard holds it for TCP");
    occupant.kill().unwrap();
    occupant.wait().unwrap();
    eventually(LIMIT, "the ports are free again", || !is_busy(20_003, "udp"));
    assert_eq!(both("1 protocol s both").unwrap()[0], 20_000);
}

fn block(machine: &Machine) {
    let ports = 20_000..=20_019;
    set_up(machine, &ports);
    machine.put_inside();
    let mut occupant =
        machine.start("exec /usr/local/bin/inside inside guards occupy ::1 20003 20100");
    eventually(LIMIT, "the port is occupied", || {
        machine.call("Check", "qs 20003 tcp").unwrap()[0]["reason"]["data"] == "in_use"
    });
    let ten = || machine.call("Allocate", "'sa{sv}' dev 2 count q 10 service_name s many");
    let lease = ten().unwrap();
    let field = |name: &str| &lease[2][name]["data"];
    let granted: Vec<u16> = (20_004..=20_013).collect();
    assert_eq!(lease[0], 20_004);
    assert_eq!(*field("ports"), json!(granted));
    assert_eq!(*field("block_id"), lease[1]);
    let ids = field("lease_ids").as_array().unwrap();
    assert_eq!(ids.len(), 10);
    assert_eq!(status(machine, "guards"), 10);
    assert_eq!(free(machine, &(20_004..=20_013)), NONE);

    // Nine are free, and no ten in a row: nothing is granted.
    let error = ten().unwrap_err();
    assert!(error.contains("10 "), "{error}");
    assert_eq!(leases(machine).len(), 10);
    assert_released(machine, &(20_014..=20_019), &(20_014..=20_019).collect::<Vec<_>>());

    // One by one, in any order; the first of the block is no exception.
    for index in [0, 7, 3] {
        let answer = machine.call("Release", &format!("s {}", ids[index])).unwrap();
        assert_eq!(answer[0], granted[index]);
    }
    assert_released(machine, &(20_004..=20_013), &[20_004, 20_007, 20_011]);
    let rest = format!("'a{{sv}}' 1 block_id s {}", lease[1]);
    assert_eq!(machine.call("List", &rest).unwrap()[0].as_array().unwrap().len(), 7);
    assert_eq!(machine.call("ReleaseMatching", &rest).unwrap(), json!([7]));
    assert_eq!(machine.call("ReleaseMatching", &rest).unwrap(), json!([0]));
    assert_released(machine, &(20_004..=20_013), &granted);
    assert_eq!(audited(machine, "release").len(), 10);

    occupant.kill().unwrap();
    occupant.wait().unwrap();
    let all = machine.call("Allocate", "'sa{sv}' dev 1 count q 20").unwrap();
    assert_eq!(all[2]["ports"]["data"], json!(ports.clone().collect::<Vec<_>>()));
    assert_eq!(free(machine, &ports), NONE);
}

fn never_idle(machine: &Machine) {
    machine.configure(
        r#"{"idle_exit_seconds": 1, "service_types": {"dev": {"port_range": [20000, 20009]}}}"#,
    );
    let lease = machine.call("Allocate", "'sa{sv}' dev 0").unwrap();
    let pid = machine.unit(SERVICE, "MainPID");
    // It could have ended several times over.
    thread::sleep(Duration::from_secs(5));
    assert_eq!(machine.unit(SERVICE, "MainPID"), pid);
    assert_released(machine, &(20_000..=20_001), &[20_001]);
    machine.call("Release", &format!("s {}", lease[1])).unwrap();
    eventually(LIMIT, "it ends", || machine.unit_state(SERVICE) == "inactive");
    assert_released(machine, &(20_000..=20_001), &[20_000, 20_001]);
}

// ---- what the tests do with a machine ------------------------------------------------------------

/// Gives the type `dev` these ports.
fn set_up(machine: &Machine, ports: &RangeInclusive<u16>) {
    let (first, last) = (ports.start(), ports.end());
    machine.configure(&format!(
        r#"{{"service_types": {{"dev": {{"port_range": [{first}, {last}]}}}}}}"#
    ));
}

fn words(ports: &[u16]) -> String {
    ports.iter().map(u16::to_string).collect::<Vec<_>>().join(" ")
}

fn port(number: &Json) -> u16 {
    number["data"].as_u64().unwrap().try_into().unwrap()
}

/// A number of the service's status.
fn status(machine: &Machine, name: &str) -> u64 {
    machine.call("Status", "").unwrap()[0][name]["data"].as_u64().unwrap()
}

fn leases(machine: &Machine) -> Vec<Json> {
    machine.call("List", "'a{sv}' 0").unwrap()[0].as_array().unwrap().clone()
}

/// How many guards systemd keeps for the service: all sockets but those of the shelf, on which young ones wait.
fn stored(machine: &Machine) -> usize {
    let all: usize = machine.unit(SERVICE, "NFileDescriptorStore").parse().unwrap();
    // Of /proc/net/unix: the type, which is SOCK_SEQPACKET, and the inode.
    let shelf = "pid=$(systemctl show --property=MainPID --value user@1000.service)
         ls -l /proc/$pid/fd | awk 'NR == FNR { if ($5 == \"0005\") found[\"socket:[\" $7 \"]\"]; next }
             $NF in found { count++ } END { print count + 0 }' /proc/$pid/net/unix -";
    all.saturating_sub(machine.root(shelf).ok().trim().parse().unwrap())
}

/// The events of that action, when all are in the journal.
fn audited(machine: &Machine, action: &str) -> Vec<Json> {
    eventually(LIMIT, "every event is in the journal", || status(machine, "audit_pending") == 0);
    machine.events().into_iter().filter(|event| event["STYXY_ACTION"] == action).collect()
}

/// Kills the service, and waits until systemd knows.
fn kill_service(machine: &Machine) {
    let pid = machine.unit(SERVICE, "MainPID");
    machine.user(&format!("kill -9 {pid}")).ok();
    eventually(LIMIT, "it is dead", || machine.unit(SERVICE, "MainPID") != pid);
}

/// Ends these owners.
fn end(machine: &Machine, owners: &[(u64, u16)]) {
    let pids: Vec<_> = owners.iter().map(|(pid, _)| pid.to_string()).collect();
    machine.user(&format!("kill -9 {}", pids.join(" "))).ok();
}

/// Of the ports, soon exactly these can be bound, on every address: systemd closes its copy of a guard a
/// moment after the lease has ended.
#[track_caller]
fn assert_released(machine: &Machine, ports: &RangeInclusive<u16>, expected: &[u16]) {
    eventually(LIMIT, "just the released ports are free", || {
        free_by_address(machine, ports).values().all(|free| free == expected)
    });
}

/// Which of the ports a program without `SO_REUSEADDR` can bind, on every address.
#[track_caller]
fn free(machine: &Machine, ports: &RangeInclusive<u16>) -> Vec<u16> {
    let found = free_by_address(machine, ports);
    let any = &found["0.0.0.0"];
    for (address, ports) in &found {
        assert_eq!(ports, any, "on {address} other ports are free than on 0.0.0.0");
    }
    any.clone()
}

/// The same for each address.
fn free_by_address(machine: &Machine, ports: &RangeInclusive<u16>) -> HashMap<String, Vec<u16>> {
    let found = machine.inside(&format!("guards free {} {}", ports.start(), ports.end()));
    serde_json::from_value(found).unwrap()
}
