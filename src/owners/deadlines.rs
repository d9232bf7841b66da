//! One timer for the nearest deadline.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

use super::{Event, Events};
use crate::{
    kernel::clock,
    lease::{InstanceId, LeaseId, Owner},
    time::Moment,
};

/// What is due.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Due {
    /// The time limit of a lease, or its limit without use.
    Lease(LeaseId),
    /// The heartbeat of an instance.
    Instance(InstanceId),
    /// The listeners of all orphans.
    Orphans,
    /// The listener of a lease whose owner keeps the port bound.
    Hold(LeaseId),
    /// The guards that are not stored yet.
    Store,
    /// The leases that wait to be handled.
    Waiting,
    /// The counted refusals.
    Denials,
    /// The socket that listens for pages only.
    Pages,
    /// An owner whose end could not be stored. Boxed, because there are tens of thousands of the others.
    Owner(Box<Owner>),
}

/// All deadlines.
#[derive(Debug, Default)]
pub struct Deadlines {
    all: Mutex<All>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct All {
    due: BTreeMap<Key, Due>,
    when: HashMap<Due, Key>,
    count: u64,
}

/// Due time, and a counter that breaks ties.
type Key = (Moment, u64);

impl All {
    fn key(&mut self, when: Moment) -> Key {
        self.count += 1;
        (when, self.count)
    }

    fn remove(&mut self, due: &Due) {
        if let Some(key) = self.when.remove(due) {
            self.due.remove(&key);
        }
    }
}

impl Deadlines {
    fn lock(&self) -> MutexGuard<'_, All> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets a deadline, in place of an earlier one.
    pub fn add(&self, when: Moment, due: Due) {
        let mut all = self.lock();
        all.remove(&due);
        let key = all.key(when);
        let nearest = all.due.first_key_value().is_none_or(|(first, _)| key < *first);
        all.when.insert(due.clone(), key);
        all.due.insert(key, due);
        if nearest {
            self.changed.notify_one();
        }
    }

    /// Sets a deadline, unless there is one.
    pub fn add_once(&self, when: Moment, due: Due) {
        let known = self.lock().when.contains_key(&due);
        if !known {
            self.add(when, due);
        }
    }

    /// Sets a deadline, unless there is an earlier one.
    pub fn add_by(&self, when: Moment, due: Due) {
        let sooner = self.lock().when.get(&due).is_some_and(|(set, _)| *set <= when);
        if !sooner {
            self.add(when, due);
        }
    }

    /// The deadline, if there is one.
    pub fn when(&self, due: &Due) -> Option<Moment> {
        self.lock().when.get(due).map(|(when, _)| *when)
    }

    /// Removes a deadline.
    pub fn remove(&self, due: &Due) {
        self.lock().remove(due);
    }

    /// Sends deadlines as they pass, until nobody receives them.
    pub async fn run(&self, events: &Events) {
        loop {
            let nearest = self.lock().due.first_key_value().map(|((when, _), _)| *when);
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
                if events.send(Event::Due(due)).is_err() {
                    return;
                }
            }
        }
    }

    fn take(&self, now: Moment) -> Vec<Due> {
        let mut all = self.lock();
        let mut taken = Vec::new();
        while let Some(first) = all.due.first_entry().filter(|first| first.key().0 <= now) {
            taken.push(first.remove());
        }
        for due in &taken {
            all.when.remove(due);
        }
        taken
    }
}
