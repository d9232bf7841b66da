//! Pacing, confirming, repeating: a thread that takes records from the state log, sends their events
//! and reads them back.
//!
//! What was sent and is not found is either still in journald's queue or was dropped by its rate
//! limit. journald works through its queue in order, so an event is known to be dropped when one
//! that was sent after it has arrived; it is then sent again. If nothing arrives for a while, because
//! journald is away, its disk is full or its limit is reached, the oldest event alone is sent again, at
//! growing intervals, and at once when there is a new one; but not while journald may still have it
//! in hand, however slow it is, so that no event comes twice. Nothing is given up where the journal can be
//! read, or ever could be.

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

/// The times by which the outbox works.
#[derive(Clone, Copy, Debug)]
struct Times {
    /// How long after the last event it is read back.
    quiet: Duration,
    /// How often it is read back while events are being sent.
    busy: Duration,
    /// How long nothing arrives until the journal is taken for closed.
    silence: Duration,
    /// How often new events may have a closed journal tried at once.
    trial: Duration,
    /// How often it is tried at the least.
    rarely: Duration,
}

const TIMES: Times = Times {
    quiet: Duration::from_millis(200),
    busy: Duration::from_secs(2),
    silence: Duration::from_secs(10),
    trial: Duration::from_secs(4),
    rarely: Duration::from_secs(60),
};

/// The journal, or what stands in for it.
trait Journal: Send {
    /// Whether there is one.
    fn is_there(&mut self) -> bool;
    /// Sends an event; an error if it certainly did not arrive.
    fn send(&mut self, event: &Event) -> io::Result<()>;
    /// Says that what was sent is all for now, so that it can be known when the journal is through.
    fn follow(&mut self);
    /// Whether the journal has done with all that was sent: what has not arrived by now never will.
    fn is_through(&mut self) -> bool;
    /// Which events have arrived since then.
    fn read_back(&mut self, state_id: &str, since: Timestamp) -> ReadBack;
    /// Whether it is, or was, open to this user.
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
        // If there is no room, it is done later.
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

/// How the audit is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// The number of the last event that needs no more care.
    pub done: u64,
    /// Whether it is known that they arrive.
    pub arrival: Arrival,
}

/// Whether it is known that events arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// They are read back.
    Confirmed,
    /// They are kept until the journal takes them.
    Waiting,
    /// They are sent, and cannot be read back.
    Unconfirmed,
    /// They go to stderr, for want of a journal.
    NoJournal,
}

impl Arrival {
    /// Why they are not confirmed, for people. `log` is the file that standard error goes to, if it is one.
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

/// The handle to the thread.
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
    /// Whether the thread waits for nothing but a record.
    asleep: bool,
    stop: bool,
}

/// What the thread begins with.
pub struct Start {
    /// The log.
    pub reader: Reader,
    /// The name of the state folder.
    pub state_id: String,
    /// The last event that is known to have arrived.
    pub confirmed: u64,
    /// The last record in the log.
    pub seq: u64,
}

impl Outbox {
    /// Starts the thread. `on_done` is told how far the events are done, and the oldest generation of the log that
    /// is still needed.
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

    /// Tells that records up to this number are in the log.
    pub fn appended(&self, seq: u64) {
        let mut wanted = self.shared.lock();
        wanted.seq = wanted.seq.max(seq);
        // While it is busy, it looks by itself soon: under load, waking it for each record would cost
        // more than the records.
        if std::mem::take(&mut wanted.asleep) {
            self.shared.changed.notify_one();
        }
    }

    /// How it is doing.
    pub fn status(&self) -> Status {
        *self.status.borrow()
    }

    /// To wait for a status.
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
