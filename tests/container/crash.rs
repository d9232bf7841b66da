//! `kill -9` at any instant, a reboot, a crash of the machine: what was acknowledged holds.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    io::{BufRead, BufReader},
    process::Child,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value as Json, json};
use zbus::Connection;

use crate::{
    Test,
    inside::{self, Dice, Granted},
    machine::{Machine, eventually},
};

pub const TESTS: &[Test] = &[
    ("no_grant_is_lost_when_the_service_is_killed", grants),
    ("no_release_is_lost_when_the_service_is_killed", releases),
    ("eight_clients_lose_nothing_while_the_service_is_killed", clients),
    ("a_kill_while_the_service_is_stopped_leaves_the_socket_open", killed_in_its_stop),
    ("a_reboot_ends_leases_and_keeps_remembered_ports", |machine| across_a_boot(machine, None)),
    ("a_crash_of_the_machine_ends_leases_and_keeps_remembered_ports", |machine| {
        across_a_boot(machine, Some("--crash"));
    }),
    ("a_second_service_on_the_state_folder_ends_and_leaves_the_first_alone", a_second_service),
    ("a_service_whose_name_is_taken_ends_and_leaves_no_socket", name_taken),
    ("a_service_by_hand_replaces_a_dead_socket_and_not_a_live_one", by_hand),
];

/// Generous; nothing here takes more than a few seconds.
const LIMIT: Duration = Duration::from_secs(60);

/// More ports than any of these tests wants.
const MANY_PORTS: &str = r#"{"service_types": {"dev": {"port_range": [20000, 20899]}}}"#;

fn grants(machine: &Machine) {
    machine.configure(MANY_PORTS);
    let result = machine.inside("crash grants 50");
    assert_told(&audited(machine), "allocate", &result["granted"]);
}

fn releases(machine: &Machine) {
    machine.configure(MANY_PORTS);
    let result = machine.inside("crash releases 50");
    let events = audited(machine);
    assert_told(&events, "allocate", &result["granted"]);
    assert_told(&events, "release", &result["released"]);
}

fn clients(machine: &Machine) {
    machine.configure(MANY_PORTS);
    let result = machine.inside("crash clients 8 20");
    let events = audited(machine);
    assert_told(&events, "allocate", &result["granted"]);
    assert_told(&events, "release", &result["released"]);
    // A client has one call under way, so each of the kills takes one of each client at most.
    let unknown = result["unknown"].as_object().unwrap();
    let count = |what: &str| result[what].as_array().unwrap().len();
    let (granted, released) = (count("granted"), count("released"));
    eprintln!("{}: {granted} granted, {released} released, {unknown:?}", machine.name());
    let calls: u64 = unknown.values().map(|count| count.as_u64().unwrap()).sum();
    assert!(calls <= 8 * 20, "{unknown:?}");
}

/// Kills the service while a request that does not come to an end holds up its stop.
fn killed_in_its_stop(machine: &Machine) {
    machine.user("styxy allocate dev --ttl 1h").ok();
    for (verb, state) in [("stop", "inactive"), ("restart", "active")] {
        let half = r#"
import os, socket, time
client = socket.socket(socket.AF_UNIX)
client.connect(os.environ["XDG_RUNTIME_DIR"] + "/styxy/http.sock")
client.sendall(b"POST /allocate HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
print("sent", flush=True)
time.sleep(60)
"#;
        machine.user("styxy status").ok();
        let mut client = machine.start(&format!("exec python3 -c '{half}'"));
        let mut sent = String::new();
        BufReader::new(client.stdout.take().unwrap()).read_line(&mut sent).unwrap();
        machine.user(&format!("systemctl --user --no-block {verb} styxy.service")).ok();
        eventually(LIMIT, "the service is being stopped", || {
            machine.unit("styxy.service", "SubState") == "stop-sigterm"
        });
        machine.user("kill -9 $(systemctl --user show -P MainPID styxy.service)").ok();
        eventually(LIMIT, "it is gone", || machine.unit_state("styxy.service") == state);
        assert_eq!(machine.unit_state("styxy.socket"), "active", "{verb}");
        client.kill().unwrap();
        client.wait().unwrap();
        // Over the socket alone, which starts the service again.
        let listed = "env -u DBUS_SESSION_BUS_ADDRESS styxy list --json";
        assert!(machine.user(listed).ok().contains("\"dev\""), "{verb}");
    }
    assert_eq!(machine.unit("styxy-failed.service", "InactiveExitTimestampMonotonic"), "0");
}

/// Every event, once each of them is known to be in the journal. There is one for each number.
pub fn audited(machine: &Machine) -> Vec<Json> {
    let status = || machine.call("Status", "").unwrap()[0].clone();
    eventually(Duration::from_secs(180), "every event is in the journal", || {
        status()["audit_pending"]["data"] == 0
    });
    let status = status();
    assert_eq!(status["audit_confirmed"]["data"], true, "{status:#}");
    let events = machine.events();
    let mut by_seq = BTreeMap::<u64, &Json>::new();
    for event in &events {
        let first = by_seq.entry(number(event, "STYXY_SEQ")).or_insert(event);
        // One that is sent again after a crash says the same again.
        for field in ["STYXY_ACTION", "STYXY_LEASE_ID", "STYXY_PORT", "STYXY_TIME"] {
            assert_eq!(first[field], event[field], "{field} of {event:#}");
        }
    }
    let last = status["seq"]["data"].as_u64().unwrap();
    let missing: Vec<_> = (1..=last).filter(|seq| !by_seq.contains_key(seq)).collect();
    assert!(missing.is_empty(), "of {last} events these are missing: {missing:?}");
    assert_eq!(by_seq.len() as u64, last);
    events
}

fn number(event: &Json, field: &str) -> u64 {
    event[field].as_str().and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("{event:#}"))
}

/// There is an event of that action for each of the leases.
fn assert_told(events: &[Json], action: &str, leases: &Json) {
    let leases = leases.as_array().unwrap();
    assert!(!leases.is_empty());
    let of_action = events.iter().filter(|event| event["STYXY_ACTION"] == action);
    let told: HashSet<_> = of_action.map(|event| &event["STYXY_LEASE_ID"]).collect();
    let untold: Vec<_> = leases.iter().filter(|id| !told.contains(id)).collect();
    assert!(untold.is_empty(), "no event says {action} of {untold:?}");
}

fn across_a_boot(machine: &Machine, how: Option<&str>) {
    let project = "Allocate 'sa{sv}' dev 1 project_path s /home/dev/shop";
    let (method, arguments) = project.split_once(' ').unwrap();
    let asked = arguments.replace("dev 1", "dev 2 port q 3042");
    let of_project = machine.call(method, &asked).unwrap();
    let other = machine.call("Allocate", "'sa{sv}' dev 0").unwrap();
    assert_eq!((&of_project[0], &other[0]), (&json!(3042), &json!(3000)));

    machine.script(["reboot", machine.name()].into_iter().chain(how)).ok();
    eventually(Duration::from_secs(60), "the user's bus is back", || {
        machine.user("busctl --user status").code == Some(0)
    });
    assert_eq!(machine.unit_state("styxy.socket"), "active");
    assert_eq!(machine.call("List", "'a{sv}' 0").unwrap(), json!([[]]));
    let again = machine.call(method, arguments).unwrap();
    assert_eq!(again[0], 3042, "the project's port is remembered");
    assert_ne!(again[1], of_project[1]);
    assert_eq!(machine.call("Allocate", "'sa{sv}' dev 0").unwrap()[0], 3000, "it is free again");

    let events = audited(machine);
    for lease in [&of_project, &other] {
        let of_lease = events.iter().filter(|event| event["STYXY_LEASE_ID"] == lease[1]);
        let ended: Vec<_> = of_lease.filter(|event| event["STYXY_ACTION"] == "expire").collect();
        assert_eq!(ended.len(), 1, "{ended:#?}");
        assert_eq!(ended[0]["STYXY_REASON"], "new_boot");
        assert_eq!(ended[0]["STYXY_PORT"], lease[0].to_string());
    }
    let both = json!([of_project[1], other[1]]);
    assert_told(&events, "allocate", &both);
}

/// The state folder of the running service, which moved between systemd 253 and 254.
pub fn state_folder(machine: &Machine) -> String {
    let pid = machine.unit("styxy.service", "MainPID");
    let line = format!("tr '\\0' '\\n' < /proc/{pid}/environ | grep ^STATE_DIRECTORY=");
    let line = machine.root(&line).ok();
    line.trim().strip_prefix("STATE_DIRECTORY=").unwrap().to_owned()
}

fn a_second_service(machine: &Machine) {
    let lease = machine.call("Allocate", "'sa{sv}' dev 0").unwrap();
    let pid = machine.unit("styxy.service", "MainPID");
    let registry = machine.user(&format!("dirname {}/*/lock", state_folder(machine))).ok();
    // The unit takes over; a service that systemd has not started gives way.
    let second = machine.user("timeout 20 styxy daemon");
    assert_eq!(second.code, Some(69), "{second:?}");
    assert_eq!(
        second.stderr,
        format!(
            "styxy: another styxy service, process {pid}, has the state folder {}: \
             there is one for each user\n",
            registry.trim()
        )
    );
    assert_eq!(second.stdout, "");
    assert_eq!(machine.unit("styxy.service", "MainPID"), pid);
    let leases = machine.call("List", "'a{sv}' 0").unwrap();
    assert_eq!(leases[0].as_array().unwrap().len(), 1);
    assert_eq!(leases[0][0]["lease_id"]["data"], lease[1]);
}

fn name_taken(machine: &Machine) {
    machine.call("Check", "qs 3000 tcp").unwrap();
    let pid = machine.unit("styxy.service", "MainPID");
    // Nothing but the name on the bus is in its way.
    let second = machine
        .user("mkdir other; HOME=$PWD/other STATE_DIRECTORY=$PWD/state RUNTIME_DIRECTORY=$PWD/run timeout 20 sh -c 'SYSTEMD_EXEC_PID=$$ exec styxy daemon'");
    assert_eq!(second.code, Some(1), "{second:?}");
    assert!(second.stderr.contains("has the name org.styxy.Styxy1"), "{second:?}");
    assert_eq!(machine.user("ls run").ok(), "machine-network\n", "its socket is gone");
    assert_eq!(machine.unit("styxy.service", "MainPID"), pid);
}

fn by_hand(machine: &Machine) {
    let begin = |state: &str| {
        let mut service = machine.start(&format!(
            "STATE_DIRECTORY=$PWD/{state} RUNTIME_DIRECTORY=$PWD/run \
             DBUS_SESSION_BUS_ADDRESS=unix:path=/nowhere \
             SYSTEMD_EXEC_PID=$$ exec styxy daemon"
        ));
        let mut line = String::new();
        BufReader::new(service.stdout.take().unwrap()).read_line(&mut line).unwrap();
        (service, line)
    };
    let listening = "styxy: listening on /home/dev/run/http.sock\n";
    let curl = |path: &str| {
        machine.user(&format!("curl -sS --unix-socket run/http.sock http://localhost{path}"))
    };
    let status = || -> Json { serde_json::from_str(&curl("/status").ok()).unwrap() };
    let end = |mut service: Child| {
        service.kill().unwrap();
        service.wait().unwrap();
        eventually(LIMIT, "nobody listens", || curl("/status").code == Some(7));
        machine.user("test -S run/http.sock").ok();
    };

    let (first, line) = begin("state");
    assert_eq!(line, listening);
    end(first);
    let (second, line) = begin("state");
    assert_eq!(line, listening);
    let before = status();

    // A service of another state folder does without, and says so; it is still reached beside its own state.
    let (mut third, line) = begin("other-state");
    let own =
        line.trim().strip_prefix("styxy: listening on ").unwrap_or_else(|| panic!("{line:?}"));
    assert!(own.starts_with("/home/dev/other-state/") && own.ends_with("/http.sock"), "{own}");
    let word = "a socket is missing: a live service listens on /home/dev/run/http.sock already";
    let told = || machine.user("journalctl -q -t styxy -o cat").ok().contains(word);
    eventually(LIMIT, "the journal has it", told);
    machine.user(&format!("curl -sS --unix-socket {own} http://localhost/status")).ok();
    third.kill().unwrap();
    third.wait().unwrap();
    assert_eq!(status()["pid"], before["pid"], "the socket is still the second one's");
    end(second);
}

/// What runs in the machine.
pub async fn inside(arguments: &[&str]) -> Json {
    let (what, numbers) = arguments.split_first().unwrap();
    let numbers: Vec<usize> = numbers.iter().map(|number| number.parse().unwrap()).collect();
    match (*what, numbers.as_slice()) {
        ("grants", [rounds]) => kill_after_grants(*rounds).await,
        ("releases", [rounds]) => kill_after_releases(*rounds).await,
        ("clients", [clients, kills]) => kill_under_clients(*clients, *kills).await,
        _ => panic!("there is no command {arguments:?}"),
    }
}

/// Kills the service at once after each grant.
async fn kill_after_grants(rounds: usize) -> Json {
    let bus = inside::bus().await;
    let mut granted = HashMap::new();
    let mut unknown = 0;
    inside::list(&bus).await.unwrap();
    for round in 0..rounds {
        let service = owner(&bus).await.unwrap();
        let (port, id) = inside::allocate(&bus, "dev").await.unwrap();
        kill(service, Signal::SIGKILL).unwrap();
        granted.insert(id, port);
        let (port, id) = loop {
            match inside::allocate(&bus, "dev").await {
                Ok(lease) => break lease,
                Err(error) if has_died(&error) => unknown += 1,
                Err(error) => panic!("{error}"),
            }
        };
        granted.insert(id, port);
        let live = inside::list(&bus).await.unwrap();
        assert_different(live.values());
        for (id, port) in &granted {
            assert_eq!(live.get(id), Some(port), "the lease {id} after {round} rounds");
        }
        assert!(live.len() <= granted.len() + unknown, "{live:?}, but granted: {granted:?}");
    }
    json!({"granted": granted.keys().collect::<Vec<_>>(), "unknown": unknown})
}

/// Kills the service at once after each release.
async fn kill_after_releases(rounds: usize) -> Json {
    let bus = inside::bus().await;
    let mut live = HashMap::new();
    for _ in 0..rounds + 10 {
        let (port, id) = inside::allocate(&bus, "dev").await.unwrap();
        live.insert(id, port);
    }
    let granted: Vec<_> = live.keys().cloned().collect();
    let released = &granted[..rounds];
    for id in released {
        let service = owner(&bus).await.unwrap();
        inside::release(&bus, id).await.unwrap();
        kill(service, Signal::SIGKILL).unwrap();
        live.remove(id);
        let listed = list(&bus).await;
        let of = |ids: &HashMap<String, u16>, others: &HashMap<String, u16>| -> Vec<String> {
            ids.keys().filter(|id| !others.contains_key(*id)).cloned().collect()
        };
        let (lost, back) = (of(&live, &listed), of(&listed, &live));
        assert!(listed == live, "after the release of {id}: lost {lost:?}, back {back:?}");
        let error = inside::release(&bus, id).await.unwrap_err();
        assert!(error.contains("Error.NoSuchLease"), "{error}");
    }
    json!({"granted": granted, "released": released})
}

/// What the clients know.
#[derive(Default)]
struct Ledger {
    granted: HashMap<String, u16>,
    released: HashSet<String>,
    /// Their release was under way when the service died.
    perhaps_released: HashSet<String>,
    perhaps_granted: usize,
    /// Who has a port at this moment.
    held: HashMap<u16, String>,
    /// How many calls were answered.
    answers: usize,
    /// How many calls died with the service, by the error.
    unknown: BTreeMap<String, usize>,
    stop: bool,
}

/// Kills the service while clients grant and release as fast as they can.
async fn kill_under_clients(clients: usize, kills: usize) -> Json {
    let ledger = Arc::new(Mutex::new(Ledger::default()));
    let mut tasks = Vec::new();
    for client in 0..clients {
        let bus = inside::bus().await;
        tasks.push(tokio::spawn(work(bus, Arc::clone(&ledger), Dice(client as u64 + 1))));
    }
    let bus = inside::bus().await;
    let mut dice = Dice(4_711);
    let mut killed = None;
    for _ in 0..kills {
        let service = loop {
            match owner(&bus).await {
                Some(service) if killed != Some(service) => break service,
                _ => tokio::time::sleep(Duration::from_millis(1)).await,
            }
        };
        // Every service gets some work done before its end, of which this is the instant.
        let moment = lock(&ledger).answers + 50 + usize::try_from(dice.below(200)).unwrap();
        while lock(&ledger).answers < moment {
            assert!(tasks.iter().all(|task| !task.is_finished()), "a client has failed");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        kill(service, Signal::SIGKILL).unwrap();
        killed = Some(service);
    }
    lock(&ledger).stop = true;
    for task in tasks {
        task.await.unwrap();
    }

    let live = list(&bus).await;
    let ledger = lock(&ledger);
    assert_different(live.values());
    for (id, port) in &ledger.granted {
        match live.get(id) {
            Some(now) => {
                assert_eq!(now, port);
                assert!(!ledger.released.contains(id), "{id} was released and is there");
            }
            None => assert!(
                ledger.released.contains(id) || ledger.perhaps_released.contains(id),
                "{id} was granted and is lost"
            ),
        }
    }
    let extra = live.keys().filter(|id| !ledger.granted.contains_key(*id)).count();
    assert!(extra <= ledger.perhaps_granted, "{extra} leases that nobody was granted");
    json!({
        "granted": ledger.granted.keys().collect::<Vec<_>>(),
        "released": ledger.released,
        "unknown": ledger.unknown,
    })
}

/// Grants and releases until told to stop.
async fn work(bus: Connection, ledger: Arc<Mutex<Ledger>>, mut dice: Dice) {
    let mut own = Vec::new();
    while !lock(&ledger).stop {
        let error = if own.len() > 20 || (!own.is_empty() && dice.below(3) == 0) {
            let (port, id): Granted = own.swap_remove(0);
            // From now on the port may be another client's.
            lock(&ledger).held.remove(&port);
            let result = inside::release(&bus, &id).await;
            let mut ledger = lock(&ledger);
            match result {
                Ok(_) => ledger.released.insert(id),
                Err(_) => ledger.perhaps_released.insert(id),
            };
            result.err()
        } else {
            let result = inside::allocate(&bus, "dev").await;
            let mut ledger = lock(&ledger);
            match result {
                Ok((port, id)) => {
                    let other = ledger.held.insert(port, id.clone());
                    assert_eq!(other, None, "{port} was granted to {id} too");
                    ledger.granted.insert(id.clone(), port);
                    own.push((port, id));
                    None
                }
                Err(error) => {
                    ledger.perhaps_granted += 1;
                    Some(error)
                }
            }
        };
        let mut ledger = lock(&ledger);
        match error {
            None => ledger.answers += 1,
            Some(error) if has_died(&error) => *ledger.unknown.entry(error).or_default() += 1,
            Some(error) => panic!("{error}"),
        }
    }
}

fn lock(ledger: &Mutex<Ledger>) -> MutexGuard<'_, Ledger> {
    // A client that has failed says so by itself.
    ledger.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The leases of the service that comes after the one that was killed.
async fn list(bus: &Connection) -> HashMap<String, u16> {
    loop {
        match inside::list(bus).await {
            Ok(leases) => return leases,
            Err(error) if has_died(&error) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

/// Whether a call failed because the service died with it, so that nobody knows if it was done.
fn has_died(error: &str) -> bool {
    error.contains("org.freedesktop.DBus.Error.NoReply")
}

#[track_caller]
fn assert_different<'a>(ports: impl ExactSizeIterator<Item = &'a u16>) {
    let count = ports.len();
    let different: HashSet<_> = ports.collect();
    assert_eq!(different.len(), count, "a port is leased twice");
}

/// The process that has the name on the bus.
async fn owner(bus: &Connection) -> Option<Pid> {
    let name = Some("org.freedesktop.DBus");
    let body = ("org.styxy.Styxy1",);
    let reply = bus
        .call_method(name, "/org/freedesktop/DBus", name, "GetConnectionUnixProcessID", &body)
        .await;
    let pid: u32 = reply.ok()?.body().deserialize().unwrap();
    Some(Pid::from_raw(pid.try_into().unwrap()))
}
