//! Whatever happens to the state's files, nothing is lost without a word, and no success is told that
//! isn't one.

mod by_hand;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::Path,
    time::Duration,
};

use serde_json::{Value as Json, json};
use zbus::Variant;

use crate::{
    Test, inside,
    machine::{Machine, eventually},
};

pub const TESTS: &[Test] = &[
    ("a_log_cut_at_any_byte_of_its_last_records_keeps_the_whole_ones", cuts),
    ("flipped_bits_lose_their_lines_at_most_and_the_loss_is_reported", flips),
    ("a_cut_off_record_is_reported_in_the_journal", torn),
    ("a_flipped_bit_is_reported_in_the_journal", flipped),
    ("a_flipped_bit_in_the_last_record_is_reported_in_the_journal", last_flipped),
    ("a_log_of_junk_is_set_aside_and_the_snapshot_counts", junk_log),
    ("a_snapshot_of_junk_is_set_aside_and_the_log_counts", junk_snapshot),
    ("a_file_of_an_unknown_version_is_set_aside", unknown_version),
    ("a_file_that_cannot_be_read_is_set_aside", unreadable),
    ("after_a_loss_no_number_stands_for_two_changes", numbers),
    ("a_folder_without_write_permission_is_an_error_until_it_has_it", read_only_folder),
    ("a_read_only_file_system_is_an_error_until_it_is_writable", read_only_file_system),
    ("on_a_full_disk_no_success_is_told_and_nothing_is_lost", full_disk),
    ("a_disk_filled_by_events_on_their_way_has_space_again_by_itself", filled_by_events),
    ("a_disk_that_is_full_at_the_start_is_an_error_until_there_is_space", full_at_the_start),
    ("a_damaged_log_on_a_full_disk_waits_for_space", damaged_on_a_full_disk),
];

/// Where a condition that a machine fulfils in a second or two is given up.
const PATIENCE: Duration = Duration::from_secs(60);

const STORAGE: &str = "org.styxy.Styxy1.Error.Storage";

// ---- the service by hand, hundreds of times ---------------------------------------------------------

fn cuts(machine: &Machine) {
    let folder = grown_state(machine);
    let result = machine.inside(&format!("damage cuts {}", folder.path));
    println!("{result}");
    assert_eq!(result["complaints"], json!([]));
    assert!(result["variants"].as_u64().unwrap() > 500);
}

fn flips(machine: &Machine) {
    let folder = grown_state(machine);
    let result = machine.inside(&format!("damage flips {} 200", folder.path));
    println!("{result}");
    assert_eq!(result["complaints"], json!([]));
}

// ---- through systemd and the bus --------------------------------------------------------------------

fn torn(machine: &Machine) {
    let folder = state(machine);
    // As a power cut leaves it: without its last note, and ending within its last record.
    let damage = "head -c -30 log.00000001 >cut; cat cut >log.00000001; rm cut";
    folder.damage(&format!("sed -i '$ {{ /confirmed/d }}' log.00000001; {damage}"));
    folder.is_recovered(&[3000, 3001], &["log.00000001 was written only in part"], 0);
}

fn flipped(machine: &Machine) {
    let folder = state(machine);
    folder.damage("sed -i 's/\"port\":3001/\"port\":3801/' log.00000001");
    let words = ["log.00000001 has 1 damaged lines, lacks 1 changes; it is kept as damaged."];
    folder.is_recovered(&[3000, 3002], &words, 1);
}

fn last_flipped(machine: &Machine) {
    let folder = state(machine);
    folder.damage("sed -i 's/\"port\":3002/\"port\":3802/' log.00000001");
    let words = ["log.00000001 has 1 damaged lines", "it is kept as damaged."];
    folder.is_recovered(&[3000, 3001], &words, 1);
}

fn junk_log(machine: &Machine) {
    let folder = grown_state(machine);
    folder.damage("head -c 100000 /dev/urandom >log.00000002");
    let words = ["log.00000002 has ", " damaged lines", "it is kept as damaged."];
    folder.is_recovered(&[3000, 3002, 3003], &words, 1);
}

fn junk_snapshot(machine: &Machine) {
    let folder = grown_state(machine);
    folder.damage("head -c 3000 /dev/zero >snapshot.00000002");
    let words = ["snapshot.00000002 ", "0 entries were read; it is kept as damaged."];
    folder.is_recovered(&[3004, 3006], &words, 1);
}

fn unknown_version(machine: &Machine) {
    let folder = state(machine);
    folder.damage(
        r#"python3 -c '
import zlib
header = b"{\"header\":{\"version\":0,\"novelty\":true}}"
open("log.00000001", "wb").write(b"%08x %s\n" % (zlib.crc32(header), header))'"#,
    );
    let words = ["log.00000001 has the unknown version 0 and was not read; it is kept as damaged."];
    folder.is_recovered(&[], &words, 1);
}

fn unreadable(machine: &Machine) {
    let folder = state(machine);
    folder.damage("chmod 000 log.00000001");
    folder.is_recovered(&[], &["log.00000001 cannot be read (Permission denied"], 1);
    // Nothing of it was lost: whoever may change its mode can look at it.
    let kept = machine.root(&format!("cat {}/damaged.*", folder.path)).ok();
    assert!(kept.contains("\"port\":3002"), "{kept}");
}

fn numbers(machine: &Machine) {
    let folder = grown_state(machine);
    folder.damage("echo junk >log.00000002");
    machine.inside("audit pairs 1 20");
    settle(machine);
    let mut changes: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
    for event in machine.events() {
        let number = ["STYXY_STATE_ID", "STYXY_SEQ"].map(|field| text(&event[field]));
        let change = ["STYXY_TIME", "MESSAGE"].map(|field| text(&event[field]));
        changes.entry(number).or_default().insert(change);
    }
    changes.retain(|_, changes| changes.len() > 1);
    assert_eq!(changes.first_key_value(), None, "and {} more", changes.len());
}

// ---- no way to write --------------------------------------------------------------------------------

fn read_only_folder(machine: &Machine) {
    // By hand, because systemd gives a StateDirectory= its mode at each start. What is in it is the service's own.
    let answers = machine
        .user(
            r#"mkdir -p -m 700 /tmp/here; mkdir -m 500 /tmp/here/state
            XDG_RUNTIME_DIR=/tmp/here STATE_DIRECTORY=/tmp/here/state \
                env -u DBUS_SESSION_BUS_ADDRESS \
                sh -c 'SYSTEMD_EXEC_PID=$$ exec styxy daemon' >/tmp/here/out &
            until grep -q listening /tmp/here/out; do sleep 0.02; done
            ask() { curl -sS --unix-socket /tmp/here/styxy/http.sock http://localhost/allocate \
                -d '{"service_type": "dev"}' -w '%{http_code}\n'; }
            ask; chmod 700 /tmp/here/state; ask
            kill $!; wait $!"#,
        )
        .ok();
    let lines: Vec<_> = answers.lines().collect();
    let [refused, "507", granted, "200"] = lines[..] else { panic!("{answers}") };
    assert!(refused.contains("\"Storage\""), "{refused}");
    assert!(refused.contains("Permission denied"), "{refused}");
    assert!(granted.contains("\"port\":3000"), "{granted}");

    let folder = state(machine);
    folder.damage("rm lock; chmod 500 .");
    is_refused(machine);
    let pid = machine.unit("styxy.service", "MainPID");
    folder.damage("chmod 700 .");
    assert_eq!(folder.ports(), [3000, 3001, 3002].into());
    assert_eq!(machine.unit("styxy.service", "MainPID"), pid, "it needed no restart");
}

fn read_only_file_system(machine: &Machine) {
    let folder = state_on_a_disk(machine, "1M");
    let lease = machine.call("Allocate", "'sa{sv}' dev 0").unwrap();
    folder.stop();
    machine.root("mount -o remount,ro /mnt").ok();
    is_refused(machine);
    let pid = machine.unit("styxy.service", "MainPID");
    machine.root("mount -o remount,rw /mnt").ok();
    assert_eq!(folder.ports(), [20000].into());
    machine.call("Release", &format!("s {}", text(&lease[1]))).unwrap();
    assert_eq!(machine.unit("styxy.service", "MainPID"), pid, "it needed no restart");
    assert_eq!(recoveries(machine), [""; 0]);
}

fn full_disk(machine: &Machine) {
    // The first is full before a snapshot is due, the second has no space for one.
    for size in ["64k", "400k", "1M"] {
        let folder = state_on_a_disk(machine, size);
        let mut leases = BTreeMap::<String, u16>::new();
        loop {
            let filled = machine.inside("damage fill");
            assert!(filled["error"].as_str().unwrap().starts_with(STORAGE), "{filled}");
            let more: BTreeMap<_, _> = serde_json::from_value(filled["leases"].clone()).unwrap();
            // A log whose events are in the journal may go, which makes space once more.
            settle(machine);
            if more.is_empty() {
                break;
            }
            leases.extend(more);
        }
        println!("{} leases on a disk of {size}", leases.len());
        assert!(leases.len() > 50);
        let (first, _) = leases.first_key_value().unwrap();
        let first = first.clone();
        is_refused(machine);
        let ports = leases.values().copied().collect();
        assert_eq!(folder.ports(), ports, "a refusal changed something");
        let pid = machine.unit("styxy.service", "MainPID");

        machine.root("mount -o remount,size=8M /mnt").ok();
        machine.call("Release", &format!("s {first}")).unwrap();
        leases.remove(&first);
        let new = machine.call("Allocate", "'sa{sv}' dev 0").unwrap();
        leases.insert(text(&new[1]), number(&new[0]));
        assert_eq!(machine.unit("styxy.service", "MainPID"), pid, "it needed no restart");
        machine.kill_service();
        assert_eq!(folder.ports(), leases.into_values().collect());
        assert_eq!(recoveries(machine), [""; 0]);
        settle(machine);
        folder.stop();
        machine.root(&format!("umount {} /mnt", folder.path)).ok();
    }
}

fn filled_by_events(machine: &Machine) {
    let folder = state_on_a_disk(machine, "700k");
    // While the journal takes nothing, the log keeps everything.
    machine.put_inside();
    machine.journald("STOP");
    let burst = machine.inside("audit pairs 4 4000");
    machine.journald("CONT");
    let errors = burst["errors"].as_object().unwrap();
    assert!(!errors.is_empty(), "the disk was not filled: {burst}");
    assert!(errors.keys().all(|error| error.starts_with(STORAGE)), "{errors:?}");
    settle(machine);
    let burst = machine.inside("audit pairs 4 400");
    assert_eq!(burst["errors"], json!({}));
    assert_eq!(machine.user(&format!("ls {} | grep -c ^damaged", folder.path)).stdout, "0\n");
}

fn full_at_the_start(machine: &Machine) {
    let folder = state_on_a_disk(machine, "64k");
    folder.fill();
    is_refused(machine);
    let pid = machine.unit("styxy.service", "MainPID");
    folder.make_space();
    machine.call("Allocate", "'sa{sv}' dev 0").unwrap();
    assert_eq!(folder.ports(), [20000].into());
    assert_eq!(machine.unit("styxy.service", "MainPID"), pid, "it needed no restart");
}

fn damaged_on_a_full_disk(machine: &Machine) {
    let folder = state_on_a_disk(machine, "256k");
    let granted = machine.inside("audit grants 60");
    assert_eq!(granted["errors"], json!({}));
    settle(machine);
    folder.stop();
    folder.damage("sed -i 's/\"port\":20001/\"port\":20801/' log.00000001");
    folder.fill();
    // Space for a header, but not for a copy of the damaged file.
    folder.damage("truncate -s -8k ballast");
    is_refused(machine);
    folder.make_space();
    let expected = (20000..20060).filter(|port| *port != 20001).collect();
    assert_eq!(folder.ports(), expected);
    assert_eq!(recoveries(machine).len(), 1);
    assert_eq!(folder.set_aside().len(), 1, "one damaged file is one file set aside");
}

/// Every call is answered with `Storage`, and every request by HTTP with 507.
fn is_refused(machine: &Machine) {
    let errors = machine.inside("damage errors");
    for error in errors.as_array().unwrap() {
        let error = text(error);
        assert!(error.starts_with(STORAGE) && error.contains("nothing was changed"), "{error}");
    }
    let answer = machine
        .user(
            "curl -sS --unix-socket $XDG_RUNTIME_DIR/styxy/http.sock http://localhost/allocate \
             -d '{\"service_type\": \"dev\"}' -w ' %{http_code}'",
        )
        .ok();
    assert!(answer.contains("\"Storage\"") && answer.ends_with(" 507"), "{answer}");
}

// ---- the state folder of a machine ------------------------------------------------------------------

struct Folder<'a> {
    machine: &'a Machine,
    path: String,
}

/// The state after three grants, with the service stopped.
fn state(machine: &Machine) -> Folder<'_> {
    for _ in 0..3 {
        machine.call("Allocate", "'sa{sv}' dev 0").unwrap();
    }
    settle(machine);
    stopped(machine)
}

/// A state with a snapshot (ports 3000, 3002 and 3003) and a log (3004 and 3006).
fn grown_state(machine: &Machine) -> Folder<'_> {
    let grant = || machine.call("Allocate", "'sa{sv}' dev 0").unwrap();
    let release = |lease: &Json| {
        machine.call("Release", &format!("s {}", text(&lease[1]))).unwrap();
    };
    let leases = [grant(), grant(), grant(), grant()];
    release(&leases[1]);
    // So many changes that a snapshot is worth it, though none of a lease.
    machine.inside("damage denials 1350");
    settle(machine);
    let leases = [grant(), grant(), grant(), grant()];
    assert_eq!(leases[0][0], 3001);
    release(&leases[0]);
    release(&leases[2]);
    settle(machine);
    let folder = stopped(machine);
    let files = machine.user(&format!("cd {} && ls -d [ls]*.*", folder.path)).ok();
    assert_eq!(files, "log.00000002\nsnapshot.00000002\n");
    folder
}

/// A state folder that is a small file system of its own, empty, with hundreds of ports to grant.
fn state_on_a_disk<'a>(machine: &'a Machine, size: &str) -> Folder<'a> {
    machine.configure(r#"{"service_types": {"dev": {"port_range": [20000, 29999]}}}"#);
    let folder = stopped(machine);
    // What is done to the disk below must be done to the file system, not to this mount of it: of a
    // mount the service's sandbox has a copy.
    let options = format!("size={size},mode=0700,uid=dev,gid=dev");
    let mount = format!("mount -t tmpfs -o {options} disk /mnt; mount --bind /mnt {}", folder.path);
    machine.root(&mount).ok();
    folder
}

fn stopped(machine: &Machine) -> Folder<'_> {
    let path = machine.user("dirname $(find ~ -path '*styxy/state/*/lock')").ok();
    let folder = Folder { machine, path: path.trim().to_owned() };
    folder.stop();
    folder
}

impl Folder<'_> {
    fn stop(&self) {
        self.machine.user("systemctl --user stop styxy.service").ok();
    }

    /// Runs a shell command in the folder.
    fn damage(&self, command: &str) {
        self.machine.user(&format!("cd {} && {{ {command}\n}}", self.path)).ok();
    }

    fn fill(&self) {
        self.damage("cat /dev/zero >ballast 2>/dev/null || true");
    }

    fn make_space(&self) {
        self.damage("rm ballast");
    }

    /// The leased ports, as the service tells them.
    fn ports(&self) -> BTreeSet<u16> {
        let reply = self.machine.call("List", "'a{sv}' 0").unwrap();
        let leases = reply[0].as_array().unwrap().iter();
        leases.map(|lease| number(&lease["port"]["data"])).collect()
    }

    fn set_aside(&self) -> Vec<String> {
        let names = self.machine.user(&format!("ls {}", self.path)).ok();
        names.lines().filter(|name| name.starts_with("damaged.")).map(str::to_owned).collect()
    }

    /// That the service has these leases, one event with these words, and so many files set aside;
    /// that it goes on, and says nothing more at the next start.
    fn is_recovered(&self, ports: &[u16], words: &[&str], aside: usize) {
        let mut ports: BTreeSet<_> = ports.iter().copied().collect();
        assert_eq!(self.ports(), ports);
        assert_eq!(self.set_aside().len(), aside);
        let new = self.machine.call("Allocate", "'sa{sv}' dev 2 port q 3050 strict b true");
        assert_eq!(new.unwrap()[0], 3050);
        ports.insert(3050);
        settle(self.machine);
        let events = recoveries(self.machine);
        assert!(!events.is_empty(), "the journal has no word of it");
        for word in words {
            assert!(events[0].contains(word), "{word:?}: {events:?}");
        }
        self.stop();
        assert_eq!(self.ports(), ports);
        settle(self.machine);
        assert_eq!(recoveries(self.machine), events);
        assert_eq!(self.set_aside().len(), aside);
    }
}

/// What events of action `recover` say.
fn recoveries(machine: &Machine) -> Vec<String> {
    let events = machine.events().into_iter();
    events
        .filter(|event| event["STYXY_ACTION"] == "recover")
        .map(|event| {
            assert_eq!(event["PRIORITY"], "4", "{event}");
            text(&event["STYXY_REASON"])
        })
        .collect()
}

fn text(value: &Json) -> String {
    value.as_str().unwrap().to_owned()
}

fn number(value: &Json) -> u16 {
    value.as_u64().unwrap().try_into().unwrap()
}

/// Waits until the service has no event on its way.
fn settle(machine: &Machine) {
    eventually(PATIENCE, "every event is done", || {
        machine.call("Status", "").unwrap()[0]["audit_pending"]["data"] == 0
    });
}

// ---- inside the machine -----------------------------------------------------------------------------

/// What runs in the machine: `fill` grants ports until there is an error; `errors` tries to change
/// something; `denials COUNT` has that many requests refused; `cuts FOLDER` and `flips FOLDER COUNT` start a service by hand on damaged copies of
/// a state folder.
pub async fn inside(arguments: &[&str]) -> Json {
    match *arguments {
        ["fill"] => fill().await,
        ["errors"] => errors().await,
        ["denials", count] => denials(count.parse().unwrap()).await,
        ["cuts", folder] => by_hand::cuts(Path::new(folder)).await,
        ["flips", folder, count] => by_hand::flips(Path::new(folder), count.parse().unwrap()).await,
        _ => panic!("there is no command {arguments:?}"),
    }
}

async fn fill() -> Json {
    let bus = inside::bus().await;
    let mut leases = BTreeMap::new();
    loop {
        match inside::allocate(&bus, "dev").await {
            Ok((port, lease_id)) => leases.insert(lease_id, port),
            Err(error) => return json!({"leases": leases, "error": error}),
        };
    }
}

async fn errors() -> Json {
    let bus = inside::bus().await;
    let mut errors = vec![inside::allocate(&bus, "dev").await.unwrap_err()];
    // Where the leases can be read, they can't be released.
    if let Some(lease_id) = inside::list(&bus).await.unwrap_or_default().into_keys().next() {
        errors.push(inside::release(&bus, &lease_id).await.unwrap_err());
    }
    json!(errors)
}

async fn denials(count: usize) -> Json {
    let bus = inside::bus().await;
    for number in 0..count {
        // Refusals that are alike would be counted instead of told.
        let port = Variant::from(u16::try_from(1_024 + number).unwrap());
        let options = HashMap::from([("port", port)]);
        let error = inside::call(&bus, "Allocate", &("dve", options)).await.unwrap_err();
        assert!(error.contains("UnknownServiceType"), "{error}");
    }
    json!(null)
}
