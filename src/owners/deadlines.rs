//! One timer for the nearest deadline.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

use crate::{
    kernel::clock,
    lease::{InstanceId, LeaseId, Owner},
    time::Moment,
};

/// What is to be looked at.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Due {
    /// The time limit of a lease, or the time that it may go unused.
    Lease(LeaseId),
    /// The heartbeat of an instance.
    Instance(InstanceId),
    /// The listeners of all orphans.
    Orphans,
    /// The guards that are not stored yet.
    Store,
    /// The guards that could not be bound.
    Guards,
    /// An owner whose end could not be stored.
    Owner(OwnerKey),
}

/// An owner, where an order is wanted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct OwnerKey(pub Owner);

impl PartialOrd for OwnerKey {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for OwnerKey {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.to_string().cmp(&other.0.to_string())
    }
}

/// All deadlines.
#[derive(Debug, Default)]
pub struct Deadlines {
    all: Mutex<All>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct All {
    due: BTreeSet<(Moment, Due)>,
    when: HashMap<Due, Moment>,
}

impl Deadlines {
    fn lock(&self) -> MutexGuard<'_, All> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets when something is due, whatever it was before.
    pub fn add(&self, when: Moment, due: Due) {
        let mut all = self.lock();
        if let Some(before) = all.when.insert(due.clone(), when) {
            all.due.remove(&(before, due.clone()));
        }
        let nearest = all.due.first().is_none_or(|(first, _)| when < *first);
        all.due.insert((when, due));
        if nearest {
            self.changed.notify_one();
        }
    }

    /// Sets when many things are due of which nothing was set before: at a start, tens of thousands.
    pub fn add_all(&self, due: Vec<(Moment, Due)>) {
        let mut all = self.lock();
        all.when.extend(due.iter().map(|(when, due)| (due.clone(), *when)));
        // Collecting sorts once; inserting one by one searches for each.
        all.due.append(&mut due.into_iter().collect());
        self.changed.notify_one();
    }

    /// Sets when something is due, unless that is set already.
    pub fn add_once(&self, when: Moment, due: Due) {
        let known = self.lock().when.contains_key(&due);
        if !known {
            self.add(when, due);
        }
    }

    /// Something is not due any more.
    pub fn remove(&self, due: &Due) {
        let mut all = self.lock();
        if let Some(when) = all.when.remove(due) {
            all.due.remove(&(when, due.clone()));
        }
    }

    /// Tells what is due, for ever.
    pub async fn run(&self, tell: impl Fn(Due)) {
        loop {
            let nearest = self.lock().due.first().map(|(when, _)| *when);
            let wait = async {
                match nearest {
                    Some(when) => tokio::time::sleep(clock::now().until(when)).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = wait => {}
                () = self.changed.notified() => continue,
            }
            for due in self.take(clock::now()) {
                tell(due);
            }
        }
    }

    fn take(&self, now: Moment) -> Vec<Due> {
        let mut all = self.lock();
        let mut taken = Vec::new();
        while all.due.first().is_some_and(|(when, _)| *when <= now) {
            taken.extend(all.due.pop_first().map(|(_, due)| due));
        }
        for due in &taken {
            all.when.remove(due);
        }
        taken
    }
}
