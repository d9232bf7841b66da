use std::{
    collections::BTreeSet,
    fs::{self, OpenOptions, Permissions},
    os::unix::fs::{FileExt, PermissionsExt},
};

use tempfile::TempDir;

use super::*;
use crate::{
    change::{Change, Record},
    config::Config,
    lease::{EndReason, Lease, LeaseId, Remap},
    port::{Port, Protocol},
    registry::Registry,
    time::Timestamp,
    token::TokenHash,
};

struct Home {
    folder: TempDir,
}

/// A store as a service has it: the state on disk, and the same in memory.
struct Service {
    store: Store,
    registry: Registry,
    damage: Vec<String>,
    other_boot: bool,
    _lock: Lock,
}

impl Home {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> std::path::PathBuf {
        self.folder.path().join("state")
    }

    fn open_in(&self, boot: &str) -> Result<Service, OpenError> {
        let lock = Lock::take(&self.path())?;
        let mut registry = Registry::new(Config::built_in().rules());
        let opened = Store::open(&self.path(), boot, &mut registry)?;
        let store::Opened { store, damage, other_boot } = opened;
        Ok(Service { store, registry, damage, other_boot, _lock: lock })
    }

    fn open(&self) -> Service {
        self.open_in("boot").unwrap()
    }

    fn file(&self, name: &str) -> std::path::PathBuf {
        self.path().join(name)
    }

    fn set_aside(&self) -> usize {
        let names = fs::read_dir(self.path()).unwrap();
        names
            .filter(|e| e.as_ref().unwrap().file_name().to_string_lossy().starts_with("damaged."))
            .count()
    }
}

impl Service {
    fn change(&mut self, change: Change) {
        let seq = self.store.seq() + 1;
        let record = Record { seq, at: Timestamp(seq), client: None, change };
        self.store.append(std::slice::from_ref(&record)).unwrap();
        self.registry.apply(seq, record.at, &record.change);
    }

    fn grant(&mut self, port: u64) {
        self.change(Change::grant(lease(port).into()));
    }

    fn release(&mut self, port: u64) {
        let lease = lease(port).into();
        self.change(Change::Release { lease, reason: EndReason::Released });
    }

    /// Reports the damage, as the broker does at once.
    fn report(&mut self) {
        for reason in std::mem::take(&mut self.damage) {
            self.change(Change::Recover { reason });
        }
    }

    fn ports(&self) -> BTreeSet<u64> {
        self.registry.iter().map(|lease| lease.port.get().into()).collect()
    }

    fn compact(&mut self) {
        let snapshot = self.store.rotate(&self.registry).unwrap();
        self.store.compacted(snapshot.write().unwrap());
    }
}

fn lease(port: u64) -> Lease {
    Lease {
        service_name: Some("web".parse().unwrap()),
        project_path: Some(format!("/home/dev/{port}").parse().unwrap()),
        since: Timestamp(port),
        ..Lease::new(
            LeaseId::from_number(port.into()),
            Port::new(port).unwrap(),
            "dev".parse().unwrap(),
        )
    }
}

#[test]
fn what_was_written_is_there_after_a_start() {
    let home = Home::new();
    let mut service = home.open();
    for port in 3000..3010 {
        service.grant(port);
    }
    service.release(3004);
    let expected = service.ports();
    drop(service);
    let service = home.open();
    assert_eq!(service.ports(), expected);
    assert_eq!(service.store.seq(), 11);
    assert_eq!(service.registry.memory().len(), 10);
    assert_eq!(service.damage, [""; 0]);
    assert!(!service.other_boot);
}

#[test]
fn files_and_folder_are_private() {
    let home = Home::new();
    let mut service = home.open();
    service.grant(3000);
    service.compact();
    assert_eq!(fs::metadata(home.path()).unwrap().permissions().mode() & 0o777, 0o700);
    for entry in fs::read_dir(home.path()).unwrap() {
        assert_eq!(entry.unwrap().metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }
}

#[test]
fn a_second_service_is_told_and_the_first_left_alone() {
    let home = Home::new();
    let mut service = home.open();
    assert!(matches!(home.open_in("boot"), Err(OpenError::Locked(_))));
    service.grant(3000);
    assert_eq!(service.ports().len(), 1);
}

#[test]
fn a_log_cut_at_any_byte_keeps_every_whole_record() {
    let home = Home::new();
    let mut service = home.open();
    let mut ends = vec![fs::metadata(home.file("log.00000001")).unwrap().len()];
    for port in 3000..3004 {
        service.grant(port);
        ends.push(fs::metadata(home.file("log.00000001")).unwrap().len());
    }
    drop(service);
    let whole = fs::read(home.file("log.00000001")).unwrap();
    for cut in (usize::try_from(ends[0]).unwrap()..=whole.len()).rev() {
        fs::write(home.file("log.00000001"), &whole[..cut]).unwrap();
        let mut service = home.open();
        let kept = ends.iter().filter(|end| **end <= cut as u64).count().saturating_sub(1);
        assert_eq!(service.ports().len(), kept, "cut at {cut}");
        let torn = !ends.contains(&(cut as u64));
        assert_eq!(service.damage.len(), usize::from(torn), "{:?} at {cut}", service.damage);
        // It goes on as if nothing had been.
        service.grant(3050);
        drop(service);
        let service = home.open();
        assert_eq!(service.ports().len(), kept + 1, "after a cut at {cut}");
        assert_eq!(service.damage, [""; 0]);
    }
    assert_eq!(home.set_aside(), 0);
}

#[test]
fn an_emptied_log_is_damage_and_not_a_beginning() {
    let home = Home::new();
    let mut service = home.open();
    service.grant(3000);
    service.compact();
    service.grant(3001);
    drop(service);
    fs::write(home.file("log.00000002"), "").unwrap();
    let service = home.open();
    assert_eq!(service.ports(), [3000].into());
    assert_eq!(service.damage.len(), 1);
}

#[test]
fn numbers_never_fall_below_what_is_confirmed_and_a_loss_names_them_anew() {
    let home = Home::new();
    let mut service = home.open();
    service.grant(3000);
    service.grant(3001);
    let before = service.store.state_id().to_owned();
    service.store.mark_confirmed(2).unwrap();
    drop(service);
    let path = home.file("log.00000001");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("\"port\":3001", "\"port\":3801")).unwrap();
    let service = home.open();
    assert_eq!(service.damage.len(), 1);
    assert_eq!((service.store.seq(), service.store.confirmed()), (2, 2));
    assert_ne!(service.store.state_id(), before);
    // The events that the journal has go by the name of before.
    assert_eq!(super::ids(&home.path()), [service.store.state_id(), &before]);
    drop(service);
    assert_eq!(super::ids(&home.path())[1], before);
    assert_eq!(super::ids(&home.file("nowhere")), [""; 0]);
}

#[test]
fn a_flipped_bit_loses_its_line_at_most_and_the_file_is_kept() {
    let home = Home::new();
    let mut service = home.open();
    for port in 3000..3004 {
        service.grant(port);
    }
    drop(service);
    let whole = fs::read(home.file("log.00000001")).unwrap();
    for at in (0..whole.len()).step_by(7) {
        let home = Home::new();
        fs::create_dir(home.path()).unwrap();
        let mut flipped = whole.clone();
        flipped[at] ^= 4;
        fs::write(home.file("log.00000001"), &flipped).unwrap();
        let mut service = home.open();
        let count = service.ports().len();
        // A line feed that is gone joins two lines.
        let least = if whole[at] == b'\n' { 2 } else { 3 };
        assert!(count >= least, "{count} at {at}");
        assert!(!service.damage.is_empty(), "at {at}");
        let last = whole.len() - 1 == at;
        assert_eq!(home.set_aside(), usize::from(!last), "at {at}");
        service.report();
        drop(service);
        let service = home.open();
        assert_eq!(service.ports().len(), count, "at {at}");
        assert_eq!(service.damage, [""; 0], "reported once, at {at}");
    }
}

#[test]
fn a_port_that_was_leased_again_has_one_lease_though_the_end_of_the_first_is_damaged() {
    let home = Home::new();
    let mut service = home.open();
    service.grant(3000);
    let first = service.registry.iter().next().unwrap().lease_id;
    service.release(3000);
    let second = Lease { lease_id: LeaseId::from_number(1), ..lease(3000) };
    service.change(Change::grant(second.into()));
    drop(service);
    let log = fs::read_to_string(home.file("log.00000001")).unwrap();
    fs::write(home.file("log.00000001"), log.replacen("release", "releasf", 1)).unwrap();
    let service = home.open();
    assert_eq!(service.damage.len(), 1, "{:?}", service.damage);
    let leases: Vec<_> = service.registry.iter().map(|lease| lease.lease_id).collect();
    assert_eq!(leases, [LeaseId::from_number(1)], "not {first}");
}

#[test]
fn a_log_of_junk_is_set_aside_and_the_snapshot_still_counts() {
    let home = Home::new();
    let mut service = home.open();
    service.grant(3000);
    service.compact();
    service.grant(3001);
    drop(service);
    fs::write(home.file("log.00000002"), "junk\nmore junk\n").unwrap();
    let service = home.open();
    assert_eq!(service.ports(), [3000].into());
    assert_eq!(service.damage.len(), 1);
    assert_eq!(home.set_aside(), 1);
}

#[test]
fn a_damaged_snapshot_keeps_the_entries_that_can_be_read() {
    let home = Home::new();
    let mut service = home.open();
    for port in 3000..3010 {
        service.grant(port);
    }
    service.compact();
    service.grant(3010);
    drop(service);
    let path = home.file("snapshot.00000002");
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 4;
    bytes[middle] ^= 1;
    fs::write(&path, bytes).unwrap();
    let service = home.open();
    assert_eq!(service.ports().len(), 10);
    assert!(service.damage[0].contains("20 of 21 entries"), "{:?}", service.damage);
    assert_eq!(home.set_aside(), 1);
    drop(service);
    assert_eq!(home.open().ports().len(), 10);
}

#[test]
fn a_mapping_is_one_again_after_a_start() {
    let home = Home::new();
    let asked = Port::new(3001);
    let mapping = Lease { asked, remap: Remap::Conflict, ..lease(21_000) };
    let mut service = home.open();
    service.grant(3000);
    service.change(Change::grant(mapping.clone().into()));
    drop(service);
    for _ in 0..2 {
        let mut service = home.open();
        let project = mapping.project_path.clone().unwrap();
        let found = service.registry.mapping(&project, Protocol::Tcp, asked.unwrap());
        assert_eq!(found.map(AsRef::as_ref), Some(&mapping));
        let memory: Vec<_> = service.registry.memory().iter().map(|(key, _)| key.asked).collect();
        assert_eq!(memory, [None, asked]);
        service.compact();
    }
    let text = fs::read_to_string(home.file("snapshot.00000003")).unwrap();
    assert_eq!(text.matches("asked").count(), 2, "other leases are written as before: {text}");
}

#[test]
fn what_a_newer_version_has_written_is_refused_and_stays_as_it_is() {
    let line = |json: &str| format!("{:08x} {json}\n", crc32fast::hash(json.as_bytes()));
    let header = |more: &str| format!(r#"{{"header":{{{more}}}}}"#);
    let same = r#""state_id":"s","boot_id":"boot","seq":0,"confirmed":0"#;
    let another_format = line(&header(r#""version":2,"program":"3.1.0","novelty":true"#));
    let another_change = line(&header(&format!(r#""version":1,"program":"2.10.1",{same}"#)))
        + &line(r#"{"record":{"seq":1,"at":1,"change":{"novelty":{}}}}"#);
    for (name, text, words) in [
        ("log.00000002", &another_format, "styxy 3.1.0 (format 2)"),
        ("snapshot.00000002", &another_format, "styxy 3.1.0 (format 2)"),
        ("log.00000002", &another_change, "styxy 2.10.1 (format 1)"),
    ] {
        let home = Home::new();
        let mut service = home.open();
        service.grant(3000);
        drop(service);
        fs::write(home.file(name), text).unwrap();
        fs::write(home.file("snapshot.tmp"), "of the newer one").unwrap();
        for _ in 0..2 {
            let Err(error) = home.open_in("boot") else { panic!("{name} was taken") };
            let error = error.to_string();
            assert!(error.contains(words) && error.contains("upgrade styxy, or move"), "{error}");
        }
        assert_eq!(&fs::read_to_string(home.file(name)).unwrap(), text);
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 4, "with the log and the lock");
        fs::remove_file(home.file(name)).unwrap();
        assert_eq!(home.open().ports(), [3000].into());
    }
}

#[test]
fn each_version_of_the_program_begins_a_log_that_says_so() {
    let home = Home::new();
    let mut service = home.open();
    service.grant(3000);
    drop(service);
    let path = home.file("log.00000001");
    let text = fs::read_to_string(&path).unwrap();
    let (first, rest) = text.split_once('\n').unwrap();
    let current = format!(r#""program":"{}""#, line::PROGRAM);
    let older = first[9..].replace(&current, r#""program":"1.9.9""#);
    let older = format!("{:08x} {older}\n{rest}", crc32fast::hash(older.as_bytes()));
    fs::write(&path, older).unwrap();
    let mut service = home.open();
    assert_eq!(service.damage, [""; 0]);
    service.grant(3001);
    drop(service);
    let text = fs::read_to_string(home.file("log.00000002")).unwrap();
    assert!(text.lines().next().unwrap().contains(&current), "{text}");
    let mut service = home.open();
    service.grant(3002);
    assert_eq!(service.ports(), [3000, 3001, 3002].into());
    assert!(!home.file("log.00000003").exists());
}

#[test]
fn a_file_of_an_unknown_version_or_that_cannot_be_read_is_set_aside_whole() {
    for unreadable in [false, true] {
        let home = Home::new();
        let mut service = home.open();
        service.grant(3000);
        drop(service);
        let path = home.file("log.00000001");
        fs::remove_file(&path).unwrap();
        if unreadable {
            // Not even root can read a folder as a file.
            fs::create_dir(&path).unwrap();
        } else {
            let json = br#"{"header":{"version":0,"novelty":true}}"#;
            let line = format!("{:08x} {}\n", crc32fast::hash(json), String::from_utf8_lossy(json));
            fs::write(&path, line).unwrap();
        }
        let mut service = home.open();
        assert_eq!(service.damage.len(), 1);
        assert_eq!(home.set_aside(), 1);
        service.report();
        service.grant(3001);
        drop(service);
        let service = home.open();
        assert_eq!(service.ports(), [3001].into());
        assert_eq!(service.damage, [""; 0]);
    }
}

#[test]
fn a_failed_write_leaves_nothing_behind() {
    let home = Home::new();
    let mut service = home.open();
    service.grant(3000);
    // What a full disk took of the next record.
    let log = OpenOptions::new().write(true).open(home.file("log.00000001")).unwrap();
    let length = log.metadata().unwrap().len();
    log.write_all_at(b"12345678 {\"rec", length).unwrap();
    service.grant(3001);
    drop(service);
    let service = home.open();
    assert_eq!(service.ports(), [3000, 3001].into());
    assert_eq!(service.damage, [""; 0]);
}

#[test]
fn a_snapshot_replaces_the_logs_before_it_once_the_audit_has_read_them() {
    let home = Home::new();
    let mut service = home.open();
    service.grant(3000);
    service.compact();
    service.grant(3001);
    service.store.spare(1).delete().unwrap();
    assert!(home.file("log.00000001").exists());
    service.store.spare(2).delete().unwrap();
    assert!(!home.file("log.00000001").exists());
    drop(service);
    assert_eq!(home.open().ports(), [3000, 3001].into());
}

#[test]
fn the_hash_of_the_token_is_in_the_log_and_in_the_snapshot() {
    let home = Home::new();
    let sha256 = TokenHash::of("0123456789abcdef0123456789abcdef");
    let mut service = home.open();
    service.change(Change::SetToken { sha256 });
    drop(service);
    let mut service = home.open();
    assert_eq!(service.registry.token(), Some(sha256));
    service.compact();
    service.store.spare(2).delete().unwrap();
    assert!(!home.file("log.00000001").exists());
    drop(service);
    let service = home.open();
    assert_eq!((service.registry.token(), service.damage), (Some(sha256), Vec::new()));
}

#[test]
fn an_audit_that_has_come_as_far_as_the_snapshot_keeps_no_log_before_it() {
    let home = Home::new();
    let mut service = home.open();
    service.grant(3000);
    let seq = service.store.seq();
    service.store.mark_confirmed(seq).unwrap();
    // Nothing has happened since, so the audit has not begun to read the new log.
    service.compact();
    assert_eq!(service.store.oldest_log(1), 2);
    service.store.spare(1).delete().unwrap();
    assert!(!home.file("log.00000001").exists());
    service.grant(3001);
    service.compact();
    assert_eq!(service.store.oldest_log(2), 2, "it has an event that is not known to have arrived");
}

#[test]
fn an_end_between_the_new_log_and_its_snapshot_loses_nothing() {
    let home = Home::new();
    let mut service = home.open();
    service.grant(3000);
    let snapshot = service.store.rotate(&service.registry).unwrap();
    service.grant(3001);
    drop((snapshot, service));
    let mut service = home.open();
    assert_eq!(service.ports(), [3000, 3001].into());
    service.grant(3002);
    drop(service);
    assert_eq!(home.open().ports(), [3000, 3001, 3002].into());
}

#[test]
fn another_boot_is_noticed_until_it_is_marked() {
    let home = Home::new();
    let mut service = home.open();
    service.grant(3000);
    drop(service);
    assert!(home.open_in("next").unwrap().other_boot);
    let mut service = home.open_in("next").unwrap();
    assert!(service.other_boot);
    service.store.mark_boot().unwrap();
    drop(service);
    assert!(!home.open_in("next").unwrap().other_boot);
}

#[test]
fn the_reader_sees_every_record_once_across_generations_while_they_grow() {
    let home = Home::new();
    let mut service = home.open();
    let mut reader = Reader::new(&home.path());
    let mut seen = Vec::new();
    for step in 0..200 {
        service.grant(3000 + step);
        if step % 50 == 49 {
            service.compact();
        }
        if step % 7 == 0 {
            while let Some(record) = reader.next_record(u64::MAX).unwrap() {
                seen.push(record.seq);
            }
            service.store.spare(reader.generation()).delete().unwrap();
        }
    }
    while let Some(record) = reader.next_record(u64::MAX).unwrap() {
        seen.push(record.seq);
    }
    assert_eq!(seen, (1..=200).collect::<Vec<u64>>());
}

#[test]
fn a_record_that_may_be_undone_is_not_read() {
    let home = Home::new();
    let mut service = home.open();
    let mut reader = service.store.reader();
    service.grant(3000);
    let log = home.file("log.00000001");
    let acknowledged = fs::metadata(&log).unwrap().len();
    // The disk takes the first of several changes, and then is full.
    service.grant(3001);
    assert_eq!(reader.next_record(1).unwrap().unwrap().seq, 1);
    assert_eq!(reader.next_record(1).unwrap(), None);
    drop(service);
    OpenOptions::new().write(true).open(&log).unwrap().set_len(acknowledged).unwrap();
    let mut service = home.open();
    service.grant(3012);
    service.grant(3013);
    let mut next = || {
        let Change::Allocate { lease, .. } = reader.next_record(3).unwrap()?.change else {
            panic!()
        };
        Some(lease.port.get())
    };
    assert_eq!([next(), next(), next()], [Some(3012), Some(3013), None]);
}

#[test]
fn only_records_without_a_confirmation_are_read_again() {
    let home = Home::new();
    let mut service = home.open();
    service.grant(3000);
    service.compact();
    service.grant(3001);
    let next_in = |service: &Service| service.store.reader().next_record(u64::MAX).unwrap();
    service.store.mark_confirmed(1).unwrap();
    drop(service);
    let mut service = home.open();
    assert_eq!(next_in(&service).unwrap().seq, 1, "the second still has to be told");
    service.store.mark_confirmed(2).unwrap();
    drop(service);
    let mut service = home.open();
    let mut reader = service.store.reader();
    assert_eq!(reader.next_record(u64::MAX).unwrap(), None);
    service.grant(3002);
    assert_eq!(reader.next_record(u64::MAX).unwrap().unwrap().seq, 3);
}

#[test]
fn what_is_confirmed_stays_confirmed() {
    let home = Home::new();
    let mut service = home.open();
    service.grant(3000);
    service.store.mark_confirmed(1).unwrap();
    drop(service);
    assert_eq!(home.open().store.confirmed(), 1);
}

#[test]
fn a_folder_that_is_open_to_others_is_closed() {
    let home = Home::new();
    fs::create_dir(home.path()).unwrap();
    fs::set_permissions(home.path(), Permissions::from_mode(0o755)).unwrap();
    drop(home.open());
    assert_eq!(fs::metadata(home.path()).unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn of_a_commit_that_is_cut_nothing_is_left() {
    let home = Home::new();
    let mut service = home.open();
    service.grant(3000);
    let log = home.file("log.00000001");
    let before = usize::try_from(fs::metadata(&log).unwrap().len()).unwrap();
    let block: Vec<_> = (0..10)
        .map(|n| {
            let change = Change::grant(lease(3010 + n).into());
            Record { seq: 2 + n, at: Timestamp(n), client: None, change }
        })
        .collect();
    service.store.append(&block).unwrap();
    drop(service);
    let whole = fs::read(&log).unwrap();
    let ends = (before..whole.len()).filter(|at| *at == before || whole[at - 1] == b'\n');
    for cut in ends.chain([whole.len() - 1]) {
        fs::write(&log, &whole[..cut]).unwrap();
        let mut service = home.open();
        assert_eq!((service.ports(), service.store.seq()), ([3000].into(), 1), "cut at {cut}");
        assert_eq!(service.damage.len(), usize::from(cut > before), "{:?}", service.damage);
        service.grant(3050);
        drop(service);
        let service = home.open();
        assert_eq!((service.ports(), service.store.seq()), ([3000, 3050].into(), 2));
        assert_eq!(service.damage, [""; 0], "after a cut at {cut}");
    }
    fs::write(&log, &whole).unwrap();
    assert_eq!(home.open().ports().len(), 11);
}

#[test]
fn damage_is_reported_until_the_report_is_written() {
    let home = Home::new();
    let mut service = home.open();
    service.grant(3000);
    service.compact();
    service.grant(3001);
    drop(service);
    let log = home.file("log.00000002");
    let text = fs::read_to_string(&log).unwrap();
    fs::write(&log, text.replace("\"port\":3001", "\"port\":3801")).unwrap();
    let found = home.open().damage;
    assert_eq!(found.len(), 1);
    // Killed before it was written, after the file was put aside or before.
    for is_aside in [true, false] {
        if !is_aside {
            let names = fs::read_dir(home.path()).unwrap().map(|entry| entry.unwrap().path());
            let mut damaged = names.filter(|path| path.to_string_lossy().contains("damaged."));
            fs::remove_file(damaged.next().unwrap()).unwrap();
        }
        let service = home.open();
        assert_eq!((service.ports(), &service.damage), ([3000].into(), &found));
        assert_eq!(home.set_aside(), 1);
    }
    let mut service = home.open();
    service.report();
    drop(service);
    assert_eq!(home.open().damage, [""; 0]);
    assert_eq!(home.set_aside(), 1);
}

#[test]
fn a_snapshot_that_is_missing_is_damage() {
    let home = Home::new();
    let mut service = home.open();
    service.grant(3000);
    service.compact();
    service.grant(3001);
    service.store.spare(2).delete().unwrap();
    drop(service);
    fs::remove_file(home.file("snapshot.00000002")).unwrap();
    let service = home.open();
    assert_eq!(service.ports(), [3001].into());
    assert!(
        service.damage[0].contains("the snapshot before log.00000002 is missing"),
        "{:?}",
        service.damage
    );
}

#[test]
fn what_is_no_state_file_hides_none() {
    let home = Home::new();
    let mut service = home.open();
    service.grant(3000);
    drop(service);
    fs::write(home.file("snapshot.00000005"), "").unwrap();
    fs::write(home.file("snapshot.18446744073709551615"), "").unwrap();
    let mut service = home.open();
    assert_eq!(service.ports(), [3000].into());
    assert_eq!(service.damage.len(), 1, "{:?}", service.damage);
    service.report();
    service.grant(3001);
    drop(service);
    let service = home.open();
    assert_eq!((service.ports(), service.damage.len()), ([3000, 3001].into(), 0));
}

#[test]
fn a_pipe_or_a_device_in_the_place_of_a_file_is_damage_and_not_read() {
    let home = Home::new();
    let mut service = home.open();
    service.grant(3000);
    service.compact();
    drop(service);
    let log = home.file("log.00000002");
    fs::remove_file(&log).unwrap();
    nix::unistd::mkfifo(&log, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert_eq!(home.open().ports(), [3000].into());
    let home = Home::new();
    drop(home.open());
    let log = home.file("log.00000001");
    fs::remove_file(&log).unwrap();
    std::os::unix::fs::symlink("/dev/zero", &log).unwrap();
    let service = home.open();
    assert!(service.damage[0].contains("not a regular file"), "{:?}", service.damage);
}
