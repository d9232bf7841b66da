//! What ends leases: processes, units, bus connections, deadlines. All of them are events; nothing is
//! polled.
//!
//! - [`deadlines`]: one timer for the nearest
//! - [`units`] and [`connections`]: owners that the bus reports on, and `signals`: waiting for its signals
//! - [`listeners`]: the end of listening sockets, which orphans live by
//! - this file: the owners that are watched

pub mod connections;
pub mod deadlines;
pub mod listeners;
mod signals;
pub mod units;

use std::{
    collections::{BTreeMap, HashMap},
    fmt, io,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{mpsc, watch},
    task::AbortHandle,
};
use zbus::Connection;

use self::deadlines::Due;
use crate::{
    kernel::{
        ancestry,
        process::{self, Process, ProcessError},
        readable::readable,
    },
    lease::Owner,
    port_set::PortSet,
};

/// What happened. Everything that can end a lease without a request arrives as one of these, in one channel.
#[derive(Debug)]
pub enum Event {
    /// An owner has ended.
    OwnerEnded(Owner),
    /// A deadline has passed.
    Due(Due),
    /// Listening sockets on these ports were closed.
    ListenersEnded(PortSet),
    /// Listening sockets may have been closed without a report.
    ListenersUnknown,
}

/// The sending end of the channel.
pub type Events = mpsc::UnboundedSender<Event>;

/// How soon watching an owner is retried after it failed, most likely for lack of descriptors.
const AGAIN: Duration = Duration::from_secs(5);

/// The watching tasks.
#[derive(Default)]
struct Watched(Mutex<HashMap<Owner, AbortHandle>>);

impl Watched {
    fn lock(&self) -> MutexGuard<'_, HashMap<Owner, AbortHandle>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The state of the session bus.
#[derive(Clone, Debug)]
enum Bus {
    /// It is being looked for.
    Unknown,
    /// There is none that can be used.
    Absent,
    /// It is there.
    Here(Connection),
}

/// The owners that are watched.
pub struct Owners {
    events: Events,
    watched: Arc<Watched>,
    bus: watch::Sender<Bus>,
}

impl fmt::Debug for Owners {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.watched.lock().keys()).finish()
    }
}

impl Owners {
    /// Starts without owners. The end of each is sent as an event.
    pub fn new(events: Events) -> Self {
        Self { events, watched: Arc::default(), bus: watch::Sender::new(Bus::Unknown) }
    }

    /// Where events are sent.
    pub fn events(&self) -> Events {
        self.events.clone()
    }

    /// Sets the session bus, or that there is none. Owners on a bus that cannot be reached count as
    /// gone.
    pub fn set_bus(&self, bus: Option<Connection>) {
        self.bus.send_replace(bus.map_or(Bus::Absent, Bus::Here));
    }

    /// The bus is gone, and is looked for again. Until it is found, owners on it keep their leases.
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

    /// Whether no session bus was found last time.
    pub fn is_without_bus(&self) -> bool {
        matches!(*self.bus.borrow(), Bus::Absent)
    }

    /// Watches an owner; a process by its pidfd if there is one, else by its PID and start time.
    pub fn watch(&self, owner: &Owner, pidfd: Option<OwnedFd>) {
        let mut watched = self.watched.lock();
        if owner.is_none() || watched.contains_key(owner) {
            return;
        }
        let (events, list) = (self.events.clone(), Arc::clone(&self.watched));
        let (bus, owner_) = (self.bus.subscribe(), owner.clone());
        let task = tokio::spawn(async move {
            let mut pidfd = pidfd;
            while let Err(error) = ended(&owner_, pidfd.take(), bus.clone()).await {
                tracing::warn!("the owner {owner_} cannot be watched: {error}");
                tokio::time::sleep(AGAIN).await;
            }
            list.lock().remove(&owner_);
            // Nobody receives it while the service ends: the next one finds out by itself.
            let _ = events.send(Event::OwnerEnded(owner_));
        });
        watched.insert(owner.clone(), task.abort_handle());
    }

    /// Stops watching an owner.
    pub fn unwatch(&self, owner: &Owner) {
        if let Some(task) = self.watched.lock().remove(owner) {
            task.abort();
        }
    }

    /// How many owners of each kind are watched, by the kind's name ([`Owner::as_str`]); those that can be are all there.
    pub fn count(&self) -> BTreeMap<&'static str, u64> {
        let mut counts = BTreeMap::from(["connection", "process", "unit"].map(|kind| (kind, 0)));
        for owner in self.watched.lock().keys() {
            *counts.entry(owner.as_str()).or_default() += 1;
        }
        counts
    }

    /// Stops watching all owners, and drops the bus.
    pub fn close(&self) {
        self.bus_lost();
        for (_, task) in self.watched.lock().drain() {
            task.abort();
        }
    }
}

/// Whether this owner is a process that has ended, be it known already or not.
pub fn has_ended(owner: &Owner) -> bool {
    matches!(owner, Owner::Process { pid, start } if process::has_ended(*pid, *start))
}

/// Whether this owner is a process that is the other one, or descends from it.
pub fn is_within(owner: &Owner, outer: &Owner) -> bool {
    let known = |owner: &Owner| match owner {
        Owner::Process { pid, start } => {
            process::Process::of_pid(*pid).ok().filter(|process| process.start == *start)
        }
        _ => None,
    };
    owner == outer
        || matches!((known(owner), known(outer)), (Some(owner), Some(outer)) if ancestry::descends(&owner, &outer))
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
            // It may have changed its user meanwhile; the start time shows that it is the same process.
            Ok(process) | Err(ProcessError::Foreign(process)) if process.start == start => {
                process.pidfd
            }
            // The PID was reused.
            Ok(_) | Err(ProcessError::Gone | ProcessError::Foreign(_)) => return Ok(()),
            Err(ProcessError::Io(error)) => return Err(error),
        },
    };
    readable(pidfd).await
}
