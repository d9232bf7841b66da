//! Every change is one event in the journal, whatever the journal goes through.

use std::{
    collections::BTreeMap,
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value as Json, json};

use crate::{
    Test, inside,
    machine::{Machine, eventually},
};

pub const TESTS: &[Test] = &[
    ("a_release_is_one_event_with_every_field_that_applies", release),
    ("a_shared_lease_is_one_event_with_every_field_that_applies", reuse),
    ("a_refusal_is_one_event_with_every_field_that_applies", deny),
    ("what_changes_nothing_is_no_event", no_change),
    ("events_on_their_way_are_counted_at_both_doors", pending),
    ("forty_thousand_changes_at_full_speed_are_in_the_journal_once_each", full_speed),
    ("changes_at_full_speed_between_kills_are_all_in_the_journal", speed_and_kills),
    ("events_of_logs_that_are_gone_are_in_the_journal_after_a_kill", pruned_logs_and_a_kill),
    ("grants_during_a_flood_of_the_journal_are_all_in_it", flood),
    ("grants_during_a_flood_and_kills_are_all_in_the_journal", flood_and_kills),
    ("a_grant_does_not_wait_for_a_journal_that_hangs", hanging_journal),
    ("where_the_user_cannot_read_the_journal_events_are_paced_and_it_is_said", volatile),
    ("where_the_journal_keeps_nothing_events_are_paced_and_it_is_said", no_storage),
    ("where_only_older_entries_can_be_read_events_wait_and_it_is_said", volatile_by_now),
    ("without_a_journal_events_are_lines_of_json_on_stderr", no_journal),
    ("a_service_with_nothing_to_confirm_costs_nothing", idle),
];

/// How long all events of a burst or a flood may take.
const LIMIT: Duration = Duration::from_secs(180);
/// How long it may take until a service knows that it cannot read the journal.
const DOUBT: Duration = Duration::from_secs(60);

/// A range for hundreds of grants.
const WIDE: &str = r#"{"service_types": {"dev": {"port_range": [20000, 20999]}}}"#;

/// Prints the number of each event in the journal.
const NUMBERS: &str = "journalctl -q -t styxy -o cat --output-fields=STYXY_SEQ";

/// The options of a request that say what the port is for.
const OPTIONS: &str = "service_name s web instance_id s agent-7 project_path s /home/dev/shop";

fn release(machine: &Machine) {
    let lease = allocate(machine, &format!("dev 4 {OPTIONS} protocol s udp"));
    machine.call("Release", &format!("s {}", lease[1].as_str().unwrap())).unwrap();
    let events = events(machine);
    assert_eq!(events.len(), 2, "{events:#?}");
    has_exactly(
        &events[1],
        "Released UDP port 3000 of dev web of /home/dev/shop",
        &[
            ("ACTION", "release"),
            ("PORT", "3000"),
            ("PROTOCOL", "udp"),
            ("LEASE_ID", lease[1].as_str().unwrap()),
            ("SERVICE_TYPE", "dev"),
            ("SERVICE_NAME", "web"),
            ("INSTANCE_ID", "agent-7"),
            ("PROJECT_PATH", "/home/dev/shop"),
            ("OWNER", "none"),
            ("HOLD", "none"),
            ("REASON", "released"),
            ("SEQ", "2"),
        ],
    );
}

fn reuse(machine: &Machine) {
    let first = allocate(machine, &format!("ai 3 {OPTIONS}"));
    let second = allocate(machine, "ai 0");
    assert_eq!(first[1], second[1]);
    let events = events(machine);
    assert_eq!(events.len(), 2, "{events:#?}");
    has_exactly(
        &events[1],
        "Shared TCP port 11430 of ai web of /home/dev/shop",
        &[
            ("ACTION", "singleton_reuse"),
            ("PORT", "11430"),
            ("PROTOCOL", "tcp"),
            ("LEASE_ID", first[1].as_str().unwrap()),
            ("SERVICE_TYPE", "ai"),
            ("SERVICE_NAME", "web"),
            ("INSTANCE_ID", "agent-7"),
            ("PROJECT_PATH", "/home/dev/shop"),
            ("OWNER", "none"),
            ("HOLD", "guard"),
            ("SEQ", "2"),
        ],
    );
}

fn deny(machine: &Machine) {
    allocate(machine, "dev 0");
    let refused = machine
        .call("Allocate", &format!("'sa{{sv}}' dev 5 {OPTIONS} port q 3000 strict b true"))
        .unwrap_err();
    assert!(refused.contains("TCP port 3000 is leased to dev"), "{refused}");
    let events = events(machine);
    assert_eq!(events.len(), 2, "{events:#?}");
    has_exactly(
        &events[1],
        "Refused a port to dev: PortInUse",
        &[
            ("ACTION", "deny"),
            ("PORT", "3000"),
            ("PROTOCOL", "tcp"),
            ("SERVICE_TYPE", "dev"),
            ("SERVICE_NAME", "web"),
            ("INSTANCE_ID", "agent-7"),
            ("PROJECT_PATH", "/home/dev/shop"),
            ("REASON", "PortInUse"),
            ("SEQ", "2"),
        ],
    );
}

fn no_change(machine: &Machine) {
    allocate(machine, "dev 1 dry_run b true");
    machine.call("Check", "qs 3000 tcp").unwrap();
    machine.call("List", "'a{sv}' 0").unwrap();
    machine.call("Reload", "").unwrap();
    machine.call("Release", "s 00000000-0000-4000-8000-000000000000").unwrap_err();
    machine.call("Allocate", "'sa{sv}' dev 1 colour s red").unwrap_err();
    allocate(machine, "dev 0");
    let events = events(machine);
    assert_eq!(events.len(), 1, "{events:#?}");
    assert_eq!(events[0]["STYXY_ACTION"], "allocate");
}

fn pending(machine: &Machine) {
    allocate(machine, "dev 0");
    settle(machine, LIMIT);
    let get = "curl -sS --unix-socket $XDG_RUNTIME_DIR/styxy/http.sock http://localhost/status";
    let done: Json = serde_json::from_str(&machine.user(get).ok()).unwrap();
    assert_eq!((&done["audit_pending"], &done["audit_confirmed"]), (&json!(0), &json!(true)));
    // The journal takes nothing until it goes on.
    machine.journald("STOP");
    for _ in 0..3 {
        allocate(machine, "dev 0");
    }
    let http: Json = serde_json::from_str(&machine.user(get).ok()).unwrap();
    let bus = status(machine);
    machine.journald("CONT");
    assert_eq!((&http["audit_pending"], &http["seq"]), (&json!(3), &json!(4)), "{http}");
    assert_eq!((&bus["audit_pending"], &bus["seq"]), (&json!(3), &json!(4)), "{bus}");
    settle(machine, LIMIT);
}

fn full_speed(machine: &Machine) {
    let start = Instant::now();
    let burst = machine.inside("audit pairs 8 20000");
    assert_eq!(burst["errors"], json!({}));
    settle(machine, LIMIT.saturating_sub(start.elapsed()));
    let took = start.elapsed();
    let numbers = Numbers::of(machine);
    println!("{burst}, all in the journal after {took:.0?}");
    assert_eq!(numbers.missing(40_000), [0; 0]);
    assert_eq!(numbers.repeated(), [0; 0]);
    does_not_wait(&burst);
}

fn speed_and_kills(machine: &Machine) {
    machine.put_inside();
    let start = Instant::now();
    // The calls that a kill hits fail, and whether they have changed something only the service knows.
    let mut client = machine.start("/usr/local/bin/inside inside audit pairs 8 4000");
    let mut at_once = Vec::new();
    for some in [500, 4_000] {
        eventually(LIMIT, "some events in the journal", || Numbers::of(machine).count() > some);
        machine.kill_service();
        at_once.push((Numbers::of(machine).count(), status(machine)["seq"].clone()));
    }
    client.wait().unwrap();
    settle(machine, LIMIT.saturating_sub(start.elapsed()));
    let took = start.elapsed();
    let numbers = Numbers::of(machine);
    println!(
        "killed at (in the journal, of) {at_once:?}, all after {took:.0?}; {} more than once",
        numbers.repeated().len()
    );
    let made = status(machine)["seq"].as_u64().unwrap();
    assert!(made > 4_000);
    assert_eq!(numbers.missing(made), [0; 0]);
}

fn pruned_logs_and_a_kill(machine: &Machine) {
    machine.inside("audit pairs 8 8000");
    let start = Instant::now();
    // What was changed is in logs of some hundred changes each; they go as the audit comes along.
    let oldest = "find ~/.local/state/styxy ~/.config/styxy -name 'log.*' 2>/dev/null \
                  | sed 's/.*log[.]0*//' | sort -n | head -n 1";
    eventually(LIMIT, "old logs that have gone", || {
        machine.user(oldest).ok().trim().parse::<u32>().is_ok_and(|oldest| oldest >= 10)
    });
    machine.kill_service();
    settle(machine, LIMIT.saturating_sub(start.elapsed()));
    let made = status(machine)["seq"].as_u64().unwrap();
    assert!(made >= 16_000, "{made}");
    assert_eq!(Numbers::of(machine).missing(made), [0; 0]);
}

fn flood(machine: &Machine) {
    machine.configure(WIDE);
    let start = Instant::now();
    flood_the_journal(machine);
    let grants = machine.inside("audit grants 500");
    assert_eq!(grants["errors"], json!({}));
    let at_once = Numbers::of(machine).count();
    settle(machine, LIMIT.saturating_sub(start.elapsed()));
    let took = start.elapsed();
    let numbers = Numbers::of(machine);
    println!(
        "{grants}, {at_once} events in the journal at first, all after {took:.0?}; {} twice",
        numbers.repeated().len()
    );
    // The first one is that of the configuration.
    assert_eq!(numbers.missing(501), [0; 0]);
    assert_eq!(numbers.repeated(), [0; 0]);
    has_dropped_something(machine);
    assert!(at_once < 500, "the limit was not in force when the ports were granted");
}

fn flood_and_kills(machine: &Machine) {
    // The limit is the same, but it takes a third of the time.
    configure_journald(machine, "RateLimitIntervalSec=10s");
    machine.configure(WIDE);
    let start = Instant::now();
    machine.inside("audit grants 1");
    flood_the_journal(machine);
    for grants in [249, 150, 100] {
        let result = machine.inside(&format!("audit grants {grants}"));
        assert_eq!(result["errors"], json!({}));
        machine.kill_service();
    }
    // Once more when the journal takes events again, and has some but not all of them.
    let mut at_once = 0;
    eventually(LIMIT, "the first events after the flood", || {
        at_once = Numbers::of(machine).count();
        at_once > 1
    });
    machine.kill_service();
    settle(machine, LIMIT.saturating_sub(start.elapsed()));
    let took = start.elapsed();
    let numbers = Numbers::of(machine);
    println!(
        "killed the last time with {at_once} events in the journal, all after {took:.0?}; {} more \
         than once",
        numbers.repeated().len()
    );
    // The first one is that of the configuration.
    assert_eq!(numbers.missing(501), [0; 0]);
    has_dropped_something(machine);
}

fn hanging_journal(machine: &Machine) {
    machine.inside("audit pairs 1 1");
    settle(machine, LIMIT);
    machine.journald("STOP");
    // More than a socket's queue takes.
    let burst = machine.inside("audit pairs 4 1000");
    machine.journald("CONT");
    assert_eq!(burst["errors"], json!({}));
    does_not_wait(&burst);
    settle(machine, LIMIT);
    assert_eq!(Numbers::of(machine).missing(2_002), [0; 0]);
}

fn volatile(machine: &Machine) {
    // The journal in /run belongs to the system.
    configure_journald(machine, "Storage=volatile");
    machine.root("rm -r /var/log/journal").ok();
    is_said_to_be_unconfirmed(machine);
    assert_eq!(machine.root(NUMBERS).ok(), "1\n2\n3\n");
    assert_eq!(machine.user(NUMBERS).stdout, "");
}

fn no_storage(machine: &Machine) {
    configure_journald(machine, "Storage=none");
    // Nor did it keep anything before.
    machine.root("rm -r /var/log/journal").ok();
    is_said_to_be_unconfirmed(machine);
}

fn volatile_by_now(machine: &Machine) {
    // The user's file of before is still there, and nothing is ever added to it. Whoever could read the journal
    // once may do so again, so no event is given up.
    machine.user("logger before").ok();
    machine.root("journalctl --sync").ok();
    configure_journald(machine, "Storage=volatile");
    allocate(machine, "dev 0");
    allocate(machine, "dev 0");
    eventually(DOUBT, "the service to notice", || status(machine)["audit_confirmed"] == false);
    allocate(machine, "dev 0");
    // Longer than it takes to give up a journal that could never be read.
    thread::sleep(Duration::from_secs(15));
    let waiting = status(machine);
    assert_eq!((&waiting["audit_pending"], &waiting["seq"]), (&json!(3), &json!(3)), "{waiting}");
    let note = waiting["audit_note"].as_str().unwrap_or_default();
    assert!(note.contains("takes nothing at the moment"), "{waiting}");
    assert_eq!(stalled(machine), 1);

    configure_journald(machine, "Storage=persistent");
    machine.root("journalctl --flush").ok();
    settle(machine, LIMIT);
    assert_eq!(status(machine)["audit_confirmed"], true);
    assert_eq!(stalled(machine), 0);
    assert_eq!(Numbers::of(machine).missing(3), [0; 0]);
}

/// What the metrics say of the journal.
fn stalled(machine: &Machine) -> Json {
    let curl = "curl -sS --unix-socket $XDG_RUNTIME_DIR/styxy/http.sock http://localhost/metrics";
    let metrics: Json = serde_json::from_str(&machine.user(curl).ok()).unwrap();
    metrics["gauges"]["audit_stalled"]["value"].clone()
}

/// Grants two ports, waits until the service has noticed that it cannot confirm their events, and
/// grants a third.
fn is_said_to_be_unconfirmed(machine: &Machine) {
    allocate(machine, "dev 0");
    allocate(machine, "dev 0");
    let start = Instant::now();
    eventually(DOUBT, "the service to notice", || status(machine)["audit_confirmed"] == false);
    let noticed = start.elapsed();
    allocate(machine, "dev 0");
    settle(machine, DOUBT);
    let status = status(machine);
    println!("noticed after {noticed:.0?}, nothing on its way after {:.0?}", start.elapsed());
    assert_eq!(status["seq"], 3, "{status}");
    let note = status["audit_note"].as_str().unwrap_or_default();
    assert!(note.contains("cannot read the journal"), "{status}");
}

fn no_journal(machine: &Machine) {
    let lines = machine
        .root(
            r#"unshare --mount bash -euc '
                mount -t tmpfs tmpfs /run/systemd
                install -d -o dev -m 0700 /tmp/here
                dev() { setpriv --reuid=dev --regid=dev --init-groups "$@"; }
                setpriv --reuid=dev --regid=dev --init-groups \
                    env -i XDG_RUNTIME_DIR=/tmp/here XDG_STATE_HOME=/tmp/here \
                    /usr/bin/styxy daemon >/tmp/here/out 2>/tmp/here/events &
                until grep -q listening /tmp/here/out; do sleep 0.02; done
                ask() { dev curl -sSf --unix-socket /tmp/here/styxy/http.sock "http://localhost/$@" >&2; }
                ask allocate -d "{\"service_type\": \"dev\", \"service_name\": \"web\"}"
                ask allocate -d "{\"service_type\": \"dve\"}" || true
                ask status 2>&1 | grep -q "there is no journal"
                until ask status 2>&1 | grep -q "\"audit_pending\":0"; do sleep 0.02; done
                kill $!
                wait $!
                cat /tmp/here/events
            '"#,
        )
        .ok();
    let events: Vec<Json> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(events.len(), 2, "{lines}");
    for (event, action, message, priority) in [
        (&events[0], "allocate", "Granted TCP port 3000 to dev web", "5"),
        (&events[1], "deny", "Refused a port to dve: UnknownServiceType", "5"),
    ] {
        assert_eq!(event["STYXY_ACTION"], action, "{event}");
        assert_eq!(event["MESSAGE"], message, "{event}");
        assert_eq!(event["PRIORITY"], priority, "{event}");
        assert_eq!(event["SYSLOG_IDENTIFIER"], "styxy", "{event}");
        assert_eq!(event["STYXY_TRANSPORT"], "http", "{event}");
        assert_eq!(event["STYXY_CLIENT_COMM"], "curl", "{event}");
        assert_eq!(event["MESSAGE_ID"].as_str().unwrap().len(), 32, "{event}");
    }
    assert_eq!((&events[0]["STYXY_SEQ"], &events[1]["STYXY_SEQ"]), (&json!(1), &json!(2)));
}

fn idle(machine: &Machine) {
    allocate(machine, "dev 0");
    settle(machine, LIMIT);
    let effort = || {
        let pid = machine.unit("styxy.service", "MainPID");
        // How often it was woken; and page faults of children that have ended, such as a journalctl.
        let command = format!(
            "awk '/^voluntary/ {{ sum += $2 }} END {{ print sum }}' /proc/{pid}/task/*/status
             cut -d ' ' -f 11 /proc/{pid}/stat"
        );
        machine.root(&command).ok()
    };
    // The last that the calls so far have left to do is to end spare threads, after ten seconds.
    let rest = Duration::from_secs(11);
    let mut before = String::new();
    eventually(6 * rest, "the service rests", || {
        before = effort();
        thread::sleep(rest);
        effort() == before
    });
    // Both are seen when there is something to confirm.
    allocate(machine, "dev 0");
    settle(machine, LIMIT);
    for (then, now) in before.lines().zip(effort().lines()) {
        assert_ne!(then, now);
    }
}

fn allocate(machine: &Machine, request: &str) -> Json {
    machine.call("Allocate", &format!("'sa{{sv}}' {request}")).unwrap()
}

/// What `Status` says.
fn status(machine: &Machine) -> Json {
    let reply = machine.call("Status", "").unwrap();
    let fields = reply[0].as_object().unwrap().iter();
    fields.map(|(key, value)| (key.clone(), value["data"].clone())).collect()
}

/// Waits until the service has no event on its way.
fn settle(machine: &Machine, limit: Duration) {
    eventually(limit, "every event to be done", || status(machine)["audit_pending"] == 0);
}

/// The events once they are all there.
fn events(machine: &Machine) -> Vec<Json> {
    settle(machine, LIMIT);
    machine.events()
}

/// The event of a call by `busctl`, with these fields and no other of styxy's.
#[track_caller]
fn has_exactly(event: &Json, message: &str, fields: &[(&str, &str)]) {
    let uid = event["_UID"].as_str().unwrap();
    let common = [("TRANSPORT", "dbus"), ("CLIENT_UID", uid), ("CLIENT_COMM", "busctl")];
    let expected: BTreeMap<_, _> = fields.iter().chain(&common).copied().collect();
    let found = event.as_object().unwrap().iter();
    let found: BTreeMap<_, _> = found
        .filter_map(|(key, value)| Some((key.strip_prefix("STYXY_")?, value.as_str()?)))
        .filter(|(key, _)| !["STATE_ID", "TIME", "CLIENT_PID"].contains(key))
        .collect();
    assert_eq!(found, expected);
    assert!(event["STYXY_CLIENT_PID"].as_str().unwrap().parse::<u32>().unwrap() > 1);
    assert_eq!(event["STYXY_STATE_ID"].as_str().unwrap().len(), 36);
    assert!(event["STYXY_TIME"].as_str().unwrap().ends_with('Z'));
    assert_eq!(event["MESSAGE"], message);
    assert_eq!(event["SYSLOG_IDENTIFIER"], "styxy");
    assert_eq!(event["PRIORITY"], "5");
}

/// Sixty thousand lines at once: more than journald lets a user write, however large the disk.
fn flood_the_journal(machine: &Machine) {
    // Every grant is to come while the limit is in force, so the lines come first.
    machine
        .user("systemd-run --user --quiet --wait --unit=flood seq --format='flood %.0f' 60000")
        .ok();
    machine.root("journalctl --sync").ok();
}

/// That journald let not all lines of the flood in.
fn has_dropped_something(machine: &Machine) {
    let lines = machine.user("journalctl -q _SYSTEMD_USER_UNIT=flood.service -o cat").ok();
    let arrived = lines.lines().filter(|line| line.starts_with("flood ")).count();
    let told =
        machine.root("journalctl -q -o cat MESSAGE_ID=a596d6fe7bfa4994828e72309e95d61e").ok();
    println!("journald took {arrived} lines of the flood, and says: {}", told.trim());
    assert!(arrived < 60_000);
    assert!(told.contains("Suppressed "), "{told}");
}

/// That no call had to wait for a journal that is busy for many seconds.
#[track_caller]
fn does_not_wait(burst: &Json) {
    assert!(burst["slowest_ms"].as_f64().unwrap() < 5_000.0, "{burst}");
}

fn configure_journald(machine: &Machine, setting: &str) {
    machine
        .root(&format!(
            "mkdir -p /etc/systemd/journald.conf.d
             printf '[Journal]\n%s\n' {setting} >/etc/systemd/journald.conf.d/test.conf
             systemctl restart systemd-journald"
        ))
        .ok();
}

/// The numbers of the events in the journal.
struct Numbers(BTreeMap<u64, usize>);

impl Numbers {
    fn of(machine: &Machine) -> Self {
        Self::read(&machine.user(NUMBERS).ok())
    }

    fn read(lines: &str) -> Self {
        let mut numbers = BTreeMap::new();
        for line in lines.lines() {
            *numbers.entry(line.parse().unwrap()).or_default() += 1;
        }
        Self(numbers)
    }

    fn count(&self) -> usize {
        self.0.len()
    }

    fn missing(&self, most: u64) -> Vec<u64> {
        assert!(self.0.keys().all(|number| (1..=most).contains(number)), "other numbers");
        (1..=most).filter(|number| !self.0.contains_key(number)).collect()
    }

    fn repeated(&self) -> Vec<u64> {
        self.0.iter().filter(|(_, times)| **times > 1).map(|(number, _)| *number).collect()
    }
}

/// What runs in the machine: `pairs CONNECTIONS COUNT` grants and releases, `grants COUNT` grants.
pub async fn inside(arguments: &[&str]) -> Json {
    let number = |i: usize| arguments[i].parse::<u32>().unwrap();
    let (connections, calls, keep) = match arguments[0] {
        "pairs" => (number(1), number(2), false),
        "grants" => (1, number(1), true),
        other => panic!("there is no command {other}"),
    };
    let start = Instant::now();
    let mut tasks = Vec::new();
    for _ in 0..connections {
        let bus = inside::bus().await;
        tasks.push(tokio::spawn(async move {
            let (mut errors, mut slowest) = (Vec::new(), Duration::ZERO);
            for _ in 0..calls / connections {
                match timed(&mut slowest, inside::allocate(&bus, "dev")).await {
                    Ok((_, lease_id)) if !keep => {
                        let released = timed(&mut slowest, inside::release(&bus, &lease_id)).await;
                        errors.extend(released.err());
                    }
                    granted => errors.extend(granted.err()),
                }
            }
            (errors, slowest)
        }));
    }
    let (mut errors, mut slowest) = (BTreeMap::new(), Duration::ZERO);
    for task in tasks {
        let (of_task, time) = task.await.unwrap();
        slowest = slowest.max(time);
        of_task.into_iter().for_each(|error| *errors.entry(error).or_insert(0) += 1);
    }
    let made = calls * if keep { 1 } else { 2 };
    let seconds = start.elapsed().as_secs_f64();
    json!({
        "errors": errors,
        "calls_per_second": (f64::from(made) / seconds).round(),
        "slowest_ms": slowest.as_secs_f64() * 1_000.0,
    })
}

/// Makes a call, and notes how long the slowest has taken.
async fn timed<T>(slowest: &mut Duration, call: impl Future<Output = T>) -> T {
    let start = Instant::now();
    let answer = call.await;
    *slowest = start.elapsed().max(*slowest);
    answer
}
