//! Pacing, confirming, repeating: a thread that takes records from the state log, sends their events and reads
//! them back.
//!
//! An event that was sent and is not found is either still in journald's queue or was dropped by its rate
//! limit. journald processes its queue in order, so an event is known to be dropped when one that was sent
//! after it has arrived; then it is sent again. If nothing arrives for a while, because journald is away, its
//! disk is full or its limit is reached, only the oldest event is sent again, at growing intervals, and at once
//! when there is a new one; but not while journald may still have it in its queue, however slow it is, so that
//! no event arrives twice. No event is given up if the journal can be read, or ever could be.

mod bucket;
mod worker;

use std::{
    io,
    path::Path,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use tokio::sync::watch;

use super::{
    event::Event,
    journal::{ReadBack, can_be_read, read_back},
    sink::Sink,
};
use crate::{
    state::{Reader, writer::no_thread},
    time::Timestamp,
};
use worker::Worker;

/// The intervals and time limits of the outbox.
#[derive(Clone, Copy, Debug)]
struct Times {
    /// The delay between the last sent event and reading back.
    quiet: Duration,
    /// How often events are read back while more are being sent.
    busy: Duration,
    /// How long nothing must arrive before the journal counts as closed.
    silence: Duration,
    /// How often, at most, new events trigger an immediate retry of a closed journal.
    trial: Duration,
    /// The longest pause between retries.
    rarely: Duration,
}

const TIMES: Times = Times {
    quiet: Duration::from_millis(200),
    busy: Duration::from_secs(2),
    silence: Duration::from_secs(10),
    trial: Duration::from_secs(4),
    rarely: Duration::from_secs(60),
};

/// The journal, or its replacement in tests.
trait Journal: Send {
    /// Whether there is a journal.
    fn is_there(&mut self) -> bool;
    /// Sends an event; an error means that it certainly did not arrive.
    fn send(&mut self, event: &Event) -> io::Result<()>;
    /// Marks the end of what is sent for now, so that [`is_through`](Self::is_through) can tell when it was
    /// processed.
    fn follow(&mut self);
    /// Whether the journal has processed all that was sent: what has not arrived by now never will.
    fn is_through(&mut self) -> bool;
    /// Reads back which events have arrived since then.
    fn read_back(&mut self, state_id: &str, since: Timestamp) -> ReadBack;
    /// Whether this user can read the journal, or any earlier entry of it.
    fn can_be_read(&mut self) -> bool;
}

impl Journal for Sink {
    fn is_there(&mut self) -> bool {
        self.has_journal()
    }

    fn send(&mut self, event: &Event) -> io::Result<()> {
        Self::send(self, event)
    }

    fn follow(&mut self) {
        // If there is no room now, it is sent later.
        let _ = Self::follow(self);
    }

    fn is_through(&mut self) -> bool {
        Self::is_through(self)
    }

    fn read_back(&mut self, state_id: &str, since: Timestamp) -> ReadBack {
        read_back(state_id, since)
    }

    fn can_be_read(&mut self) -> bool {
        can_be_read()
    }
}

/// The state of the audit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// The number of the last event that, like all before it, needs no further action.
    pub done: u64,
    /// Whether the arrival of events is confirmed.
    pub arrival: Arrival,
}

/// Whether the arrival of events is confirmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// They are read back.
    Confirmed,
    /// They are kept until the journal accepts them.
    Waiting,
    /// They are sent, but cannot be read back.
    Unconfirmed,
    /// They go to stderr, because there is no journal.
    NoJournal,
}

impl Arrival {
    /// Why events are not confirmed, for people. `log` is the file that stderr goes to, if it is a file.
    pub fn note(self, log: Option<&Path>) -> Option<String> {
        let note = match (self, log) {
            (Self::Confirmed, _) => return None,
            (Self::Waiting, _) => {
                "the journal takes nothing at the moment, and the events wait until it does"
            }
            (Self::Unconfirmed, _) => {
                "this user cannot read the journal, so events are sent slowly instead of being confirmed"
            }
            (Self::NoJournal, None) => {
                "there is no journal, so events go to the standard error of the service"
            }
            (Self::NoJournal, Some(log)) => {
                return Some(format!("there is no journal, so events go to {}", log.display()));
            }
        };
        Some(note.to_owned())
    }
}

/// The handle of the audit thread, which stops when this is dropped.
#[derive(Debug)]
pub struct Outbox {
    shared: Arc<Shared>,
    status: watch::Receiver<Status>,
}

#[derive(Debug, Default)]
struct Shared {
    wanted: Mutex<Orders>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Orders {
    /// The number of the last record in the log.
    seq: u64,
    /// Whether the thread must be woken for a new record.
    asleep: bool,
    stop: bool,
}

/// The initial values of the thread.
pub struct Start {
    /// The log.
    pub reader: Reader,
    /// The id of the state folder.
    pub state_id: String,
    /// The number of the last event that is known to have arrived.
    pub confirmed: u64,
    /// The number of the last record in the log.
    pub seq: u64,
}

impl Outbox {
    /// Starts the thread. `on_done` is called with the number up to which events are done, and with the oldest
    /// generation of the log that is still needed.
    pub fn start(
        start: Start,
        sink: Sink,
        on_done: impl Fn(u64, u64) + Send + 'static,
    ) -> io::Result<Self> {
        Self::start_with(start, Box::new(sink), TIMES, Box::new(on_done))
    }

    fn start_with(
        start: Start,
        mut journal: Box<dyn Journal>,
        times: Times,
        on_done: Box<dyn Fn(u64, u64) + Send>,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        shared.lock().seq = start.seq;
        let arrival = if journal.is_there() { Arrival::Confirmed } else { Arrival::NoJournal };
        let first = Status { done: start.confirmed, arrival };
        let (sender, status) = watch::channel(first);
        let worker = Worker::new(start, Arc::clone(&shared), journal, times, sender, on_done);
        thread::Builder::new()
            .name("styxy-audit".to_owned())
            .spawn(move || worker.run())
            .map_err(no_thread)?;
        Ok(Self { shared, status })
    }

    /// Notes that records up to this number are in the log.
    pub fn appended(&self, seq: u64) {
        let mut wanted = self.shared.lock();
        wanted.seq = wanted.seq.max(seq);
        // A busy thread soon checks by itself: under load, waking it for each record would cost more than the
        // records.
        if std::mem::take(&mut wanted.asleep) {
            self.shared.changed.notify_one();
        }
    }

    /// The current status.
    pub fn status(&self) -> Status {
        *self.status.borrow()
    }

    /// A receiver that is notified of status changes.
    pub fn watch(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.changed.notify_one();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Orders> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
