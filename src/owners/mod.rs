//! What ends leases: processes, units, bus connections, deadlines. Each is waited for, none is
//! polled.
//!
//! - [`deadlines`]: one timer for the nearest
//! - [`units`] and [`connections`]: what the bus tells, and `signals`: how it is listened to
//! - this file: who is being watched

pub mod connections;
pub mod deadlines;
mod signals;
pub mod units;

use std::{
    collections::HashMap,
    fmt, io,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::watch, task::AbortHandle};
use zbus::Connection;

use crate::{
    kernel::{
        process::{Process, ProcessError},
        readable::readable,
    },
    lease::Owner,
};

/// When an owner that could not be watched is tried again: for a lack of descriptors, most likely.
const AGAIN: Duration = Duration::from_secs(5);

/// The tasks that watch.
#[derive(Default)]
struct Watched(Mutex<HashMap<Owner, AbortHandle>>);

impl Watched {
    fn lock(&self) -> MutexGuard<'_, HashMap<Owner, AbortHandle>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The session bus, as far as it is known.
#[derive(Clone, Debug)]
enum Bus {
    /// It is being looked for.
    Unknown,
    /// There is none, or none that can be used.
    Absent,
    /// It is there.
    Here(Connection),
}

/// Who is being watched.
pub struct Owners {
    on_gone: Arc<dyn Fn(&Owner) + Send + Sync>,
    watched: Arc<Watched>,
    bus: watch::Sender<Bus>,
}

impl fmt::Debug for Owners {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.watched.lock().keys()).finish()
    }
}

impl Owners {
    /// Watches nobody yet. `on_gone` is told of an owner's end.
    pub fn new(on_gone: impl Fn(&Owner) + Send + Sync + 'static) -> Self {
        let bus = watch::Sender::new(Bus::Unknown);
        Self { on_gone: Arc::new(on_gone), watched: Arc::default(), bus }
    }

    /// The session bus, once it is there, or that there is none: a connection to a bus that cannot be reached
    /// cannot be watched, and counts as ended.
    pub fn set_bus(&self, bus: Option<Connection>) {
        self.bus.send_replace(bus.map_or(Bus::Absent, Bus::Here));
    }

    /// The bus is gone, and is being looked for again. Owners on it are waited for until it is found.
    pub fn bus_lost(&self) {
        self.bus.send_replace(Bus::Unknown);
    }

    /// The session bus, if it is there.
    pub fn bus(&self) -> Option<Connection> {
        match &*self.bus.borrow() {
            Bus::Here(bus) => Some(bus.clone()),
            Bus::Unknown | Bus::Absent => None,
        }
    }

    /// Whether there was no session bus when it was looked for last.
    pub fn is_without_bus(&self) -> bool {
        matches!(*self.bus.borrow(), Bus::Absent)
    }

    /// Watches an owner. A process comes with its pidfd if it is at hand; else it is found again by
    /// its number and its start.
    pub fn watch(&self, owner: &Owner, pidfd: Option<OwnedFd>) {
        let mut watched = self.watched.lock();
        if owner.is_none() || watched.contains_key(owner) {
            return;
        }
        let (on_gone, list) = (Arc::clone(&self.on_gone), Arc::clone(&self.watched));
        let (bus, owner_) = (self.bus.subscribe(), owner.clone());
        let task = tokio::spawn(async move {
            let mut pidfd = pidfd;
            while let Err(error) = ended(&owner_, pidfd.take(), bus.clone()).await {
                tracing::warn!("the owner {owner_} cannot be watched: {error}");
                tokio::time::sleep(AGAIN).await;
            }
            list.lock().remove(&owner_);
            on_gone(&owner_);
        });
        watched.insert(owner.clone(), task.abort_handle());
    }

    /// Watches an owner no longer.
    pub fn unwatch(&self, owner: &Owner) {
        if let Some(task) = self.watched.lock().remove(owner) {
            task.abort();
        }
    }

    /// Watches nobody any more, and lets the bus go.
    pub fn close(&self) {
        self.bus_lost();
        for (_, task) in self.watched.lock().drain() {
            task.abort();
        }
    }
}

/// Waits until the session bus is there.
async fn connected(mut bus: watch::Receiver<Bus>) -> Connection {
    loop {
        if let Bus::Here(bus) = &*bus.borrow_and_update() {
            return bus.clone();
        }
        if bus.changed().await.is_err() {
            // The service is ending.
            std::future::pending::<()>().await;
        }
    }
}

/// Waits until there is no session bus that could be asked.
async fn absent(mut bus: watch::Receiver<Bus>) {
    if bus.wait_for(|bus| matches!(bus, Bus::Absent)).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Waits until an owner has ended.
async fn ended(
    owner: &Owner,
    pidfd: Option<OwnedFd>,
    bus: watch::Receiver<Bus>,
) -> zbus::Result<()> {
    match owner {
        Owner::None => std::future::pending().await,
        Owner::Process { pid, start } => Ok(process(*pid, *start, pidfd).await?),
        Owner::Unit { unit } => units::ended(&connected(bus).await, unit).await,
        Owner::Connection { name, bus: id } => {
            tokio::select! {
                () = absent(bus.clone()) => Ok(()),
                bus = connected(bus) => connections::ended(&bus, name, id).await,
            }
        }
    }
}

/// Waits until the process has ended.
async fn process(pid: u32, start: u64, pidfd: Option<OwnedFd>) -> io::Result<()> {
    let pidfd = match pidfd {
        Some(pidfd) => pidfd,
        None => match Process::of_pid(pid) {
            // By now it may run as another user; its start says that it is the same.
            Ok(process) | Err(ProcessError::Foreign(process)) if process.start == start => {
                process.pidfd
            }
            // Another one has the number now.
            Ok(_) | Err(ProcessError::Gone | ProcessError::Foreign(_)) => return Ok(()),
            Err(ProcessError::Io(error)) => return Err(error),
        },
    };
    readable(pidfd).await
}
