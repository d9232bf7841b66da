//! Guards: sockets that the service keeps bound, not listening, so that leased ports stay reserved.
//!
//! Some are stored with the service manager (`sd_notify(3)`, `FDSTORE=1`), so that they outlive the service. Not
//! all: the manager compares each new descriptor with every stored one; with thousands of them it gets slow, and
//! in the end it cannot start the service. The others are bound again at the next start. Until a guard is stored,
//! it is on a [`Shelf`].

use std::{
    collections::HashMap,
    fs::File,
    io::PipeReader,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use nix::{
    fcntl::{FcntlArg, fcntl},
    sys::resource::{Resource, getrlimit, setrlimit},
    unistd::close,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use sd_notify::NotifyState;

use super::{clock, manager, shelf, shelf::Shelf};
use crate::{
    lease::{Lease, LeaseId},
    port::Port,
    time::Moment,
};

/// The maximum number of stored guards.
const MOST_STORED: usize = 512;

/// How old a guard must be to be stored, in seconds: most short leases end before that.
pub const SETTLED_SECONDS: u64 = 1;

/// How long to wait for the manager to close its copy of a guard, in seconds.
const LEAVING_SECONDS: u64 = 5;

/// How often to check whether it has, in milliseconds.
const LEAVING_MILLIS: u64 = 10;

/// How long the manager may take to close its copy after the barrier has hung up, in milliseconds: it closes
/// descriptors in the background.
const CLOSING_MILLIS: u64 = 100;

/// The size of the kernel's table of descriptors: the shipped limit of guards, and some more. It takes 128 KiB of
/// kernel memory.
const TABLE: u64 = 16_384;

/// The prefix of the names of stored guards.
const NAME: &str = "guard.";

/// The guards of live leases.
#[derive(Debug, Default)]
pub struct Guards {
    held: HashMap<LeaseId, Guard>,
    stored: usize,
    shelf: Shelf,
    /// Guards of ended leases that the manager still has a copy of.
    leaving: HashMap<Port, Leaving>,
}

/// The guard of an ended lease, after the manager was told to close its copy. Until it does, the port is bound,
/// for this service as for all others. This service keeps its own copy, so that it knows that the guard on the
/// port is its own.
#[derive(Debug)]
struct Leaving {
    _socket: OwnedFd,
    /// Hangs up when the manager is about to close its copy of the guard.
    barrier: PipeReader,
    /// Whether the barrier has hung up.
    is_told: bool,
    until: Moment,
}

impl Leaving {
    fn is_over(&mut self, now: Moment) -> bool {
        let mut barrier = [PollFd::new(&self.barrier, PollFlags::empty())];
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        if !self.is_told && poll(&mut barrier, Some(&at_once)) != Ok(0) {
            self.is_told = true;
            self.until = self.until.min(Moment(now.0 + CLOSING_MILLIS));
        }
        self.until <= now
    }
}

#[derive(Debug)]
struct Guard {
    socket: OwnedFd,
    since: Moment,
    stored: bool,
}

impl Guards {
    /// The number of guards.
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Whether the lease has one.
    pub fn contains(&self, lease: LeaseId) -> bool {
        self.held.contains_key(&lease)
    }

    /// The guards, with their leases.
    pub fn iter(&self) -> impl Iterator<Item = (LeaseId, BorrowedFd<'_>)> {
        self.held.iter().map(|(lease, guard)| (*lease, guard.socket.as_fd()))
    }

    /// Keeps a bound socket as the guard of a lease.
    pub fn insert(&mut self, lease: LeaseId, socket: OwnedFd) {
        let is_kept = self.shelf.put(lease, socket.as_fd());
        self.held.insert(lease, Guard { socket, since: clock::now(), stored: false });
        if !is_kept {
            // The shelf has no room, so this guard cannot wait until it has settled.
            self.store_one(lease);
        }
    }

    /// Takes back the guards of live leases that the manager has kept, and makes it close the others.
    pub fn take_back(&mut self, kept: Kept, is_live: impl Fn(LeaseId) -> bool) {
        let since = clock::now();
        for (lease, socket) in kept.stored {
            if is_live(lease) {
                let before = self.held.insert(lease, Guard { socket, since, stored: true });
                // The manager may have two with the same name, which it removes together: they count as one.
                self.stored += usize::from(before.is_none());
            } else {
                forget(lease);
            }
        }
        let (shelf, found) = Shelf::of(kept.shelf);
        self.shelf = shelf;
        for (lease, socket) in found {
            if is_live(lease) && !self.contains(lease) {
                let since = Moment(0);
                self.held.insert(lease, Guard { socket, since, stored: false });
            } else {
                self.shelf.remove(lease);
            }
        }
        // Store these at once: the shelf has little room, and this service may be killed as early as the previous one.
        self.store_settled(since);
    }

    /// Releases the port of a lease.
    pub fn remove(&mut self, lease: &Lease) {
        self.shelf.remove(lease.lease_id);
        let Some(guard) = self.held.remove(&lease.lease_id).filter(|guard| guard.stored) else {
            return;
        };
        self.stored -= 1;
        forget(lease.lease_id);
        let until = clock::now().plus_seconds(LEAVING_SECONDS);
        if let Ok(barrier) = manager::barrier() {
            let leaving = Leaving { _socket: guard.socket, barrier, is_told: false, until };
            self.leaving.insert(lease.port, leaving);
        }
    }

    /// Whether the port's last guard is still bound, and belongs to this service. As long as it does, no other
    /// service can reserve the port.
    pub fn is_leaving(&self, port: Port) -> bool {
        self.leaving.contains_key(&port)
    }

    /// Whether the last guard of any of these ports is still bound, looked at now.
    pub fn are_leaving(&mut self, ports: &[Port]) -> bool {
        if self.leaving.is_empty() {
            return false;
        }
        let now = clock::now();
        self.leaving.retain(|_, leaving| !leaving.is_over(now));
        ports.iter().any(|port| self.is_leaving(*port))
    }

    /// Whether there is room in the store, and a guard that is not in it.
    fn has_room(&self) -> bool {
        self.stored < MOST_STORED.min(self.held.len())
    }

    /// When [`store`](Self::store) has something to do, if ever.
    pub fn wants_storing(&self, now: Moment) -> Option<Moment> {
        if !self.leaving.is_empty() {
            return Some(Moment(now.0 + LEAVING_MILLIS));
        }
        self.has_room().then(|| now.plus_seconds(SETTLED_SECONDS))
    }

    /// Stores the guards that have settled, as far as there is room, and closes those of which the manager has
    /// closed its copy. Returns when to call it again, if needed.
    pub fn store(&mut self, now: Moment) -> Option<Moment> {
        self.leaving.retain(|_, leaving| !leaving.is_over(now));
        let later = self.store_settled(now);
        let leaving = (!self.leaving.is_empty()).then(|| Moment(now.0 + LEAVING_MILLIS));
        leaving.or_else(|| later.then(|| now.plus_seconds(1)))
    }

    /// Stores as many guards as possible, whatever their age.
    pub fn store_all(&mut self) {
        self.store_settled(Moment(u64::MAX));
    }

    fn store_settled(&mut self, now: Moment) -> bool {
        let is_settled = |guard: &Guard| guard.since.plus_seconds(SETTLED_SECONDS) <= now;
        let waiting = self.held.iter().filter(|(_, guard)| !guard.stored);
        let (settled, young): (Vec<_>, Vec<_>) = waiting.partition(|(_, guard)| is_settled(guard));
        let is_later = !young.is_empty();
        let settled: Vec<_> = settled.into_iter().map(|(lease, _)| *lease).collect();
        settled.into_iter().all(|lease| self.store_one(lease)) && is_later
    }

    /// Stores the guard of a lease, if there is room and a manager. Returns whether it was stored.
    fn store_one(&mut self, lease: LeaseId) -> bool {
        let Some(guard) = self.held.get_mut(&lease).filter(|_| self.stored < MOST_STORED) else {
            return false;
        };
        let name = format!("{NAME}{lease}");
        // Without FDPOLL=0 the manager drops the socket at once: a bound socket that does not listen polls as hung up.
        let states =
            [NotifyState::FdStore, NotifyState::FdName(&name), NotifyState::Custom("FDPOLL=0")];
        guard.stored = manager::hand_over(&states, &[guard.socket.as_fd()]);
        let is_stored = guard.stored;
        if is_stored {
            self.stored += 1;
            self.shelf.remove(lease);
        }
        is_stored
    }
}

/// What the manager has kept of the previous service.
#[derive(Debug, Default)]
pub struct Kept {
    stored: Vec<(LeaseId, OwnedFd)>,
    shelf: Vec<(String, OwnedFd)>,
}

impl Kept {
    /// Adds a descriptor by its name. Returns false if that is not the name of a guard or of a part of the shelf.
    pub fn add(&mut self, name: &str, take: impl FnOnce(Kind) -> Option<OwnedFd>) -> bool {
        if let Some(lease) = name.strip_prefix(NAME).and_then(|id| id.parse().ok()) {
            self.stored.extend(take(Kind::Guard).map(|socket| (lease, socket)));
        } else if shelf::is_part(name) {
            self.shelf.extend(take(Kind::Shelf).map(|socket| (name.to_owned(), socket)));
        } else {
            return false;
        }
        true
    }

    /// The leases whose guards were stored one by one: all but the youngest.
    pub fn leases(&self) -> impl Iterator<Item = LeaseId> {
        self.stored.iter().map(|(lease, _)| *lease)
    }

    /// The number of descriptors.
    pub fn len(&self) -> usize {
        self.stored.len() + self.shelf.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The kind of a kept descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A guard.
    Guard,
    /// A socket of the shelf.
    Shelf,
}

/// Tells the manager to close its copy of a guard: until it does, the port is not free.
pub fn forget(lease: LeaseId) {
    let name = format!("{NAME}{lease}");
    manager::tell(&[NotifyState::FdStoreRemove, NotifyState::FdName(&name)]);
}

/// The maximum number of guards that the limit on open descriptors allows: half of it, because an owner takes a
/// descriptor, too.
pub fn most() -> usize {
    usize::try_from(raised_limit() / 2).unwrap_or(usize::MAX)
}

/// Makes the kernel enlarge its table of descriptors for the shipped limit of guards.
///
/// Later, when the process has threads, opening a descriptor that makes the table grow waits for an RCU grace
/// period, about 10 ms (`expand_fdtable` in the kernel's fs/file.c).
pub fn make_room() {
    let highest = raised_limit().min(TABLE).saturating_sub(1);
    if let (Ok(any), Ok(highest)) = (File::open("/dev/null"), highest.try_into()) {
        // The table keeps its size when the descriptor is closed.
        let _ = fcntl(any, FcntlArg::F_DUPFD_CLOEXEC(highest)).and_then(close);
    }
}

/// Raises the soft limit on open descriptors to the hard limit. Returns the limit in force.
pub fn raised_limit() -> u64 {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return 0 };
    // A sandbox may forbid it; then the unit's LimitNOFILE= has already raised it.
    let raised = setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok();
    if raised { hard } else { soft }
}
