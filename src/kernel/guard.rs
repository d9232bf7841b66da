//! Guards: sockets that the service keeps bound, not listening, so that leased ports stay reserved.
//!
//! So that they outlive the service, some are stored with the service manager (`sd_notify(3)`,
//! `FDSTORE=1`). Not all: the manager compares each new descriptor with every stored one, and with
//! thousands of them it gets slow and in the end cannot start the service. Those beyond are bound
//! again at the next start.

use std::{
    collections::HashMap,
    fs::File,
    os::fd::{AsFd, OwnedFd},
};

use nix::{
    fcntl::{FcntlArg, fcntl},
    sys::resource::{Resource, getrlimit, setrlimit},
    unistd::close,
};
use sd_notify::NotifyState;

use super::{clock, manager};
use crate::{lease::LeaseId, time::Moment};

/// The most guards that are stored.
const MOST_STORED: usize = 512;

/// How long a lease has lived when its guard is stored: most short ones never are.
pub const SETTLED_SECONDS: u64 = 1;

/// How many descriptors fit in the kernel's table of them: the shipped limit of guards, and some more. It
/// takes 128 KiB of the kernel's memory.
const TABLE: u64 = 16_384;

/// What the names of stored guards begin with.
const NAME: &str = "guard.";

/// The guards of live leases.
#[derive(Debug, Default)]
pub struct Guards {
    guards: HashMap<LeaseId, Guard>,
    stored: usize,
}

#[derive(Debug)]
struct Guard {
    socket: OwnedFd,
    since: Moment,
    stored: bool,
}

impl Guards {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.guards.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.guards.is_empty()
    }

    /// Whether the lease has one.
    pub fn contains(&self, lease: LeaseId) -> bool {
        self.guards.contains_key(&lease)
    }

    /// Keeps a bound socket for a lease.
    pub fn insert(&mut self, lease: LeaseId, socket: OwnedFd) {
        self.guards.insert(lease, Guard { socket, since: clock::now(), stored: false });
    }

    /// Keeps a socket that the manager had stored.
    pub fn take_back(&mut self, lease: LeaseId, socket: OwnedFd) {
        self.guards.insert(lease, Guard { socket, since: clock::now(), stored: true });
        self.stored += 1;
    }

    /// Lets a port go.
    pub fn remove(&mut self, lease: LeaseId) {
        if let Some(guard) = self.guards.remove(&lease)
            && guard.stored
        {
            self.stored -= 1;
            forget(lease);
        }
    }

    /// Whether there is room in the store for one that is not in it.
    pub fn wants_storing(&self) -> bool {
        self.stored < MOST_STORED.min(self.guards.len())
    }

    /// Stores those that have settled, as many as may be; whether others will be due later.
    pub fn store(&mut self, now: Moment) -> bool {
        let mut later = false;
        for (lease, guard) in self.guards.iter_mut().filter(|(_, guard)| !guard.stored) {
            if self.stored >= MOST_STORED {
                return false;
            }
            if guard.since.plus_seconds(SETTLED_SECONDS) > now {
                later = true;
                continue;
            }
            let name = format!("{NAME}{lease}");
            // Without FDPOLL=0 the manager drops the socket at once: bound and not listening, it polls
            // as hung up.
            let states =
                [NotifyState::FdStore, NotifyState::FdName(&name), NotifyState::Custom("FDPOLL=0")];
            if !manager::hand_over(&states, &[guard.socket.as_fd()]) {
                return false;
            }
            guard.stored = true;
            self.stored += 1;
        }
        later
    }
}

/// The lease of a stored descriptor, by its name.
pub fn lease_of(name: &str) -> Option<LeaseId> {
    name.strip_prefix(NAME)?.parse().ok()
}

/// Has the manager close its copy: while it is open, the port is not free.
pub fn forget(lease: LeaseId) {
    let name = format!("{NAME}{lease}");
    manager::tell(&[NotifyState::FdStoreRemove, NotifyState::FdName(&name)]);
}

/// How many guards the limit of open descriptors allows: half of it, because an owner takes a descriptor
/// too.
pub fn most() -> usize {
    usize::try_from(raised_limit() / 2).unwrap_or(usize::MAX)
}

/// Has the kernel make its table of descriptors as large as the shipped limit of guards needs it.
///
/// Later, when the process has threads, whoever opens a descriptor for which the table has to grow waits
/// for an RCU grace period, some 10 ms (`expand_fdtable` in the kernel's fs/file.c).
pub fn make_room() {
    let highest = raised_limit().min(TABLE).saturating_sub(1);
    if let (Ok(any), Ok(highest)) = (File::open("/dev/null"), highest.try_into()) {
        // The table stays as it is when the descriptor is closed.
        let _ = fcntl(any, FcntlArg::F_DUPFD_CLOEXEC(highest)).and_then(close);
    }
}

/// Raises the limit of open descriptors as far as it goes; what it is then.
fn raised_limit() -> u64 {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return 0 };
    // A sandbox may forbid it; then the unit's LimitNOFILE= has done it.
    let raised = setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok();
    if raised { hard } else { soft }
}
