//! What is counted since the start of the service, and how it stands now, for `GET /metrics`.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    time::Duration,
};

use nix::unistd::{SysconfVar, sysconf};

use super::{Broker, ending::Listened, query::state_now};
use crate::{
    audit::outbox::Arrival,
    change::Change,
    error::ErrorKind,
    histogram::Histogram,
    request::Filter,
    service_type::ServiceTypeName,
    value::{Fields, Value},
};

/// How many service types are told apart: automatic ones come and go without end.
const MOST_TYPES: usize = 1_000;

/// The name that all further ones share. No type can have it.
const OTHERS: &str = "(others)";

/// Refusals that are there before the first one: Prometheus takes a number that appears for no increase.
const REFUSALS: [ErrorKind; 4] = [
    ErrorKind::PortInUse,
    ErrorKind::PoolExhausted,
    ErrorKind::LimitExceeded,
    ErrorKind::AutoAllocationDisabled,
];

/// What has happened since the start.
#[derive(Debug, Default)]
pub(super) struct Counts {
    allocations: HashMap<ServiceTypeName, u64>,
    /// Those of the types that are not told apart.
    other_allocations: u64,
    reuses: u64,
    releases: BTreeMap<&'static str, u64>,
    orphans: u64,
    renewals: u64,
    refusals: BTreeMap<&'static str, u64>,
    conflicts: u64,
    auto_allocations: u64,
    undone: u64,
    grants: Histogram,
}

/// What may become of a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only grows.
    Counter,
    /// It goes up and down.
    Gauge,
}

/// A unit, which is the end of the name of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Bytes.
    Bytes,
    /// Seconds.
    Seconds,
}

/// A number, or several that differ in their labels.
#[derive(Clone, Debug, PartialEq)]
pub struct Metric {
    /// Its name, without the prefix and without the unit.
    pub name: &'static str,
    /// What it says.
    pub help: &'static str,
    /// Whether it can fall.
    pub kind: Kind,
    /// What it counts, unless that is in its name.
    pub unit: Option<Unit>,
    /// The labels of each number.
    pub samples: Vec<(Vec<(&'static str, String)>, f64)>,
}

/// How long something took. The unit is seconds.
#[derive(Clone, Debug, PartialEq)]
pub struct Timing {
    /// Its name, without the prefix and without the unit.
    pub name: &'static str,
    /// What it says.
    pub help: &'static str,
    /// The times.
    pub times: Histogram,
}

/// All that is measured.
#[derive(Clone, Debug, PartialEq)]
pub struct Metrics {
    /// Counters and gauges.
    pub metrics: Vec<Metric>,
    /// How long things took.
    pub timings: Vec<Timing>,
}

impl Counts {
    /// Counts a change that was made.
    pub(super) fn note(&mut self, change: &Change) {
        match change {
            Change::Allocate { lease, .. } => self.allocated(&lease.service_type),
            Change::Reuse { .. } => self.reuses += 1,
            Change::Release { reason, .. } | Change::Expire { reason, .. } => {
                *self.releases.entry(reason.as_str()).or_default() += 1;
            }
            Change::Orphan { .. } => self.orphans += 1,
            Change::Renew { .. } => self.renewals += 1,
            Change::AutoAllocate { .. } => self.auto_allocations += 1,
            Change::UndoAutoAllocation { .. } => self.undone += 1,
            _ => {}
        }
    }

    fn allocated(&mut self, service_type: &ServiceTypeName) {
        let has_room = self.allocations.len() < MOST_TYPES;
        match self.allocations.get_mut(service_type) {
            Some(count) => *count += 1,
            None if has_room => {
                self.allocations.insert(service_type.clone(), 1);
            }
            None => self.other_allocations += 1,
        }
    }

    /// Counts a refusal by its code.
    pub(super) fn refused(&mut self, code: &'static str) {
        *self.refusals.entry(code).or_default() += 1;
    }

    /// Counts ports that were to be granted and are in use by other programs.
    pub(super) fn conflicts(&mut self, count: usize) {
        self.conflicts += count as u64;
    }

    /// Counts a grant that took so long.
    pub(super) fn granted(&mut self, time: Duration) {
        self.grants.observe(time);
    }

    fn metrics(&self) -> Vec<Metric> {
        let mut refusals = BTreeMap::from(REFUSALS.map(|kind| (kind.names().code, 0)));
        refusals.extend(&self.refusals);
        let mut allocations: Vec<_> =
            self.allocations.iter().map(|(name, count)| (name.as_str(), *count)).collect();
        allocations.sort_unstable();
        allocations
            .extend((self.other_allocations > 0).then_some((OTHERS, self.other_allocations)));
        let plain = |count: u64| vec![(Vec::new(), number(count))];
        let counter =
            |name, help, samples| Metric { name, help, kind: Kind::Counter, unit: None, samples };
        vec![
            counter("allocations", "Leases granted.", labelled("service_type", allocations)),
            counter("reuses", "Requests that returned an existing lease.", plain(self.reuses)),
            counter("releases", "Leases ended.", labelled("reason", self.releases.clone())),
            counter("orphans", "Owners that exited while something listened.", plain(self.orphans)),
            counter("renewals", "Time limits restarted.", plain(self.renewals)),
            counter("refusals", "Requests refused.", labelled("code", refusals)),
            counter(
                "port_conflicts_detected",
                "Ports that could not be granted because other programs used them.",
                plain(self.conflicts),
            ),
            counter(
                "auto_allocations",
                "Ranges made for service types.",
                plain(self.auto_allocations),
            ),
            counter(
                "auto_allocations_undone",
                "Automatic service types removed.",
                plain(self.undone),
            ),
        ]
    }
}

impl Broker {
    /// All that is measured. Leases are counted by their states, for which the kernel is asked once for each protocol. A state
    /// that can't be used is one of the things that are measured.
    pub fn metrics(&self) -> Metrics {
        let (leases, counts, grants, instances, log, flushes, is_stalled) = {
            let mut inner = self.lock();
            // It is tried again, as for each request.
            let _ = self.usable(&mut inner);
            let state = inner.state.as_ref().ok();
            (
                inner.registry.list(&Filter::default()),
                inner.counts.metrics(),
                inner.counts.grants,
                inner.registry.instance_count(),
                state.map_or(0, |state| state.store.log_length()),
                state.map(|state| state.writer.flushes()).unwrap_or_default(),
                state.is_some_and(|state| state.outbox.status().arrival == Arrival::Waiting),
            )
        };
        let mut by_state = BTreeMap::<(&str, &str), u64>::new();
        let listened = Listened::now();
        for lease in &leases {
            let state = state_now(lease, &listened);
            *by_state.entry((lease.service_type.as_str(), state)).or_default() += 1;
        }
        let by_state = by_state.into_iter().map(|((service_type, state), count)| {
            (
                vec![("service_type", service_type.to_owned()), ("state", state.to_owned())],
                number(count),
            )
        });
        let gauge =
            |name, help, samples| Metric { name, help, kind: Kind::Gauge, unit: None, samples };
        let measured = |unit, name, help, value| Metric {
            unit: Some(unit),
            ..gauge(name, help, vec![(Vec::new(), value)])
        };
        let plain = |value: f64| vec![(Vec::new(), value)];
        let status = self.status_beside(&listened);
        let of_status = |name, key, help| gauge(name, help, plain(counted(&status, key)));
        let version = vec![("version", env!("CARGO_PKG_VERSION").to_owned())];
        let mut metrics = counts;
        metrics.extend([
            gauge("leases", "Live leases.", by_state.collect()),
            gauge(
                "watched_owners",
                "Owners whose exit ends leases.",
                labelled("kind", self.owners.count()),
            ),
            of_status("guards", "guards", "Ports that the service keeps bound."),
            of_status("guards_limit", "guards_limit", "Ports that it may keep bound."),
            of_status(
                "remembered_ports",
                "remembered_ports",
                "Ports that are remembered for services.",
            ),
            of_status("ports", "ports", "Ports in the ranges of all service types."),
            of_status(
                "automatic_types",
                "automatic_types",
                "Service types that were created automatically.",
            ),
            of_status(
                "audit_events_waiting",
                "audit_pending",
                "Events that are not confirmed to be in the journal.",
            ),
            gauge(
                "audit_stalled",
                "Whether the journal takes no events: 1, else 0.",
                plain(number(is_stalled.into())),
            ),
            of_status("configuration_errors", "config_problems", "Problems of the configuration."),
            gauge("instances", "Registered instances.", plain(number(instances as u64))),
            gauge("build_info", "The program; always 1.", vec![(version, 1.0)]),
            measured(Unit::Seconds, "uptime", "Time since the start.", self.uptime().as_secs_f64()),
            gauge(
                "state_writable",
                "Whether changes can be stored: 1, else 0.",
                plain(number((status.get("state_problem").is_none()).into())),
            ),
            measured(Unit::Bytes, "state_log", "Length of the log of changes.", number(log)),
        ]);
        let help = "Memory in use (statm of proc(5)).";
        metrics.extend(
            resident().map(|bytes| measured(Unit::Bytes, "resident_memory", help, number(bytes))),
        );
        let timings = vec![
            Timing {
                name: "grant",
                help: "Time that a grant took, from the request to the answer.",
                times: grants,
            },
            Timing {
                name: "state_flush",
                help: "Time until the log of changes was on disk (fdatasync(2)).",
                times: flushes,
            },
        ];
        Metrics { metrics, timings }
    }
}

/// Numbers that differ in one label.
fn labelled<'a>(
    label: &'static str,
    counts: impl IntoIterator<Item = (&'a str, u64)>,
) -> Vec<(Vec<(&'static str, String)>, f64)> {
    let counts = counts.into_iter();
    counts.map(|(value, count)| (vec![(label, value.to_owned())], number(count))).collect()
}

#[expect(clippy::cast_precision_loss, reason = "no count gets beyond 53 bits")]
fn number(count: u64) -> f64 {
    count as f64
}

/// A number of the status, or the length of one of its lists.
fn counted(status: &Fields, key: &str) -> f64 {
    match status.get(key) {
        Some(Value::U32(count)) => f64::from(*count),
        Some(Value::U64(count)) => number(*count),
        Some(Value::Strings(list)) => number(list.len() as u64),
        _ => 0.0,
    }
}

/// The memory of this process that is in use, in bytes.
fn resident() -> Option<u64> {
    let statm = fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split(' ').nth(1)?.parse().ok()?;
    let page = sysconf(SysconfVar::PAGE_SIZE).ok()??;
    Some(pages * u64::try_from(page).ok()?)
}
