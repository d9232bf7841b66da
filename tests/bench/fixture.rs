//! Large states, written by the same code as the service writes them, but not a call at a time.

use std::sync::Arc;

use styxy::{
    change::{Change, Record},
    config::Config,
    kernel::process,
    lease::{Lease, LeaseId},
    port::Port,
    registry::Registry,
    service_type::Hold,
    state::{Lock, Store},
    time::Timestamp,
};

use crate::service::{self, TYPE};

/// As many guards as the shipped configuration allows.
const GUARDS: usize = 16_000;
/// As many records in one write as a busy service may have.
const BATCH: usize = 1_000;

/// Puts a state in the place of what there is: so many leases, from the first port of the range on, of
/// which so many are of a project, which makes their ports remembered. The service must not run.
pub fn write(range: (u16, u16), leases: usize, remembered: usize) {
    let folder = service::state();
    let _lock = Lock::take(&folder).unwrap();
    let mut registry = Registry::new(Config::built_in().rules());
    let opened = Store::open(&folder, &process::boot_id(), &mut registry).unwrap();
    let mut store = opened.store;
    let ports = (range.0..=range.1).filter_map(|number| Port::new(number.into()));
    let ports: Vec<_> = ports.filter(|p| !p.is_refused_by_browsers()).take(leases).collect();
    assert_eq!(ports.len(), leases, "the range is too small");
    let mut changes = ports.into_iter().enumerate().map(|(index, port)| {
        let project = (index < remembered).then(|| format!("/home/dev/project-{index}"));
        let hold = if index < GUARDS { Hold::Guard } else { Hold::None };
        Change::grant(Arc::new(lease(port, hold, project)))
    });
    loop {
        let first = store.seq() + 1;
        let records: Vec<_> = (first..)
            .zip(changes.by_ref().take(BATCH))
            .map(|(seq, change)| Record { seq, at: Timestamp::now(), client: None, change })
            .collect();
        if records.is_empty() {
            break;
        }
        store.append(&records).unwrap();
        records.iter().for_each(|record| registry.apply(record.seq, record.at, &record.change));
        if store.wants_compaction() {
            let snapshot = store.rotate(&registry).unwrap();
            store.compacted(snapshot.write().unwrap());
            store.spare(store.generation()).delete().unwrap();
        }
    }
    // Their events are taken for told: the audit has its own measurement.
    store.mark_confirmed(store.seq()).unwrap();
    store.log().sync().unwrap();
}

fn lease(port: Port, hold: Hold, project: Option<String>) -> Lease {
    Lease {
        service_name: project.is_some().then(|| "web".parse().unwrap()),
        project_path: project.map(|path| path.parse().unwrap()),
        hold,
        since: Timestamp::now(),
        ..Lease::new(LeaseId::random(), port, TYPE.parse().unwrap())
    }
}
