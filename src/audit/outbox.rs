//! Pacing, confirming, repeating: a thread that takes records from the state log, sends their events
//! and reads them back.
//!
//! What was sent and is not found is either still in journald's queue or was dropped by its rate
//! limit. journald works through its queue in order, so an event is known to be dropped when one
//! that was sent after it has arrived; it is then sent again. If nothing arrives for a while, the
//! oldest event alone is sent again from time to time, until the limit's window has passed.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use tokio::sync::watch;

use super::{
    event::Event,
    journal::{ReadBack, has_entries, read_back},
    sink::Sink,
};
use crate::{
    change::Record,
    state::{Reader, writer::no_thread},
    time::Timestamp,
};

/// The most events that are sent and not yet confirmed.
const WINDOW: usize = 4_000;
/// Events per second; under journald's limit on a machine with some free disk.
const RATE: f64 = 800.0;
/// The rate never falls below this: journald's limit is 10,000 in 30 s at the least.
const SLOWEST: f64 = 150.0;
/// The rate where nothing can be read back.
const BLIND_RATE: f64 = 250.0;
/// How long after the last event it is read back.
const QUIET: Duration = Duration::from_millis(200);
/// How often it is read back while events are being sent.
const BUSY: Duration = Duration::from_secs(2);
/// How long nothing arrives until the limit is taken for closed.
const SILENCE: Duration = Duration::from_secs(10);
/// How long journald counts for its limit (30 s by default, journald.conf(5)), and a while more.
const LIMIT_SECONDS: u64 = 40;
/// How often an event is tried while the limit is closed.
const TRIAL: Duration = Duration::from_secs(4);

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
    /// They are sent, and cannot be read back.
    Unconfirmed,
    /// They go to stderr, for want of a journal.
    NoJournal,
}

impl Arrival {
    /// Why they are not confirmed, for people.
    pub fn note(self) -> Option<&'static str> {
        match self {
            Self::Confirmed => None,
            Self::Unconfirmed => Some(
                "this user cannot read the journal, so events are sent slowly instead of being confirmed",
            ),
            Self::NoJournal => {
                Some("there is no journal, so events go to the standard error of the service")
            }
        }
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
    wanted: Mutex<Wanted>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Wanted {
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
    ) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        shared.lock().seq = start.seq;
        let arrival = match sink {
            Sink::Journal(_) => Arrival::Confirmed,
            Sink::Stderr => Arrival::NoJournal,
        };
        let first = Status { done: start.confirmed, arrival };
        let (sender, status) = watch::channel(first);
        let worker = Worker {
            shared: Arc::clone(&shared),
            reader: start.reader,
            state_id: start.state_id,
            sink,
            status: sender,
            on_done: Box::new(on_done),
            taken: start.confirmed,
            before: start.seq,
            arrived_before: None,
            flights: BTreeMap::new(),
            order: 0,
            bucket: Bucket::new(RATE),
            progress: Instant::now(),
            last_sent: Instant::now(),
            last_check: Instant::now(),
            wait: QUIET,
            is_closed: false,
        };
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
    fn lock(&self) -> MutexGuard<'_, Wanted> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An event that is not known to have arrived.
struct Flight {
    record: Record,
    /// The log that has it. Until the event has arrived, no log from this one on may go.
    generation: u64,
    /// When it was sent last, in order and in time.
    sent: Option<(u64, Timestamp)>,
}

struct Worker {
    shared: Arc<Shared>,
    reader: Reader,
    state_id: String,
    sink: Sink,
    status: watch::Sender<Status>,
    on_done: Box<dyn Fn(u64, u64) + Send>,
    /// The last record that was taken from the log.
    taken: u64,
    /// The last record that an earlier service may have sent.
    before: u64,
    /// What of it has arrived; asked once.
    arrived_before: Option<HashSet<u64>>,
    flights: BTreeMap<u64, Flight>,
    order: u64,
    bucket: Bucket,
    /// When an event arrived last, or the first was sent.
    progress: Instant,
    last_sent: Instant,
    last_check: Instant,
    /// How long to wait for the next check.
    wait: Duration,
    /// Whether journald's limit is taken for closed.
    is_closed: bool,
}

impl Worker {
    fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        loop {
            let wanted = {
                let mut wanted = shared.lock();
                // Asleep without a timeout when there is nothing to do: idle costs nothing.
                while !wanted.stop && wanted.seq <= self.taken && self.flights.is_empty() {
                    wanted.asleep = true;
                    wanted = shared.changed.wait(wanted).unwrap_or_else(PoisonError::into_inner);
                }
                if wanted.stop {
                    return;
                }
                wanted.seq
            };
            if let Err(error) = self.load(wanted) {
                // A late event is better than a lost one: the log is read again until it can be.
                tracing::warn!("the state log cannot be read for the audit: {error}");
                thread::sleep(BUSY);
            }
            let pause = self.send().unwrap_or(QUIET);
            if self.is_check_due() {
                self.check();
            }
            self.report();
            if !self.flights.is_empty() {
                let wanted = shared.lock();
                if !wanted.stop {
                    let pause = pause.min(self.until_check()).max(Duration::from_millis(5));
                    drop(shared.changed.wait_timeout(wanted, pause));
                }
            }
        }
    }

    /// Takes records from the log.
    fn load(&mut self, wanted: u64) -> std::io::Result<()> {
        while self.flights.len() < WINDOW && self.taken < wanted {
            let Some(record) = self.reader.next_record(wanted)? else {
                // Damage has taken these numbers out of the log.
                self.taken = wanted;
                break;
            };
            if record.seq <= self.taken {
                continue;
            }
            self.taken = record.seq;
            if record.seq <= self.before && self.arrived_before(&record) {
                continue;
            }
            let generation = self.reader.generation();
            self.flights.insert(record.seq, Flight { record, generation, sent: None });
        }
        if self.taken >= self.before {
            self.arrived_before = None;
        }
        Ok(())
    }

    /// Whether an earlier service has sent the event already.
    fn arrived_before(&mut self, record: &Record) -> bool {
        if matches!(self.sink, Sink::Stderr) {
            return false;
        }
        let (state_id, since) = (&self.state_id, record.at);
        let arrived = self.arrived_before.get_or_insert_with(|| match read_back(state_id, since) {
            ReadBack::Found(found) => found,
            ReadBack::Unreadable => HashSet::new(),
        });
        arrived.contains(&record.seq)
    }

    /// Sends what is to be sent, as far as the pace allows; returns when to go on.
    fn send(&mut self) -> Option<Duration> {
        if self.flights.values().all(|flight| flight.sent.is_none()) {
            // Nothing is on its way, so that nothing has arrived says nothing.
            self.progress = Instant::now();
            self.wait = QUIET;
        }
        // While the limit is closed, one event at a time tries it.
        let most = if self.is_closed { 1 } else { WINDOW };
        for flight in self.flights.values_mut().take(most).filter(|flight| flight.sent.is_none()) {
            if let Err(pause) = self.bucket.take() {
                return Some(pause);
            }
            self.order += 1;
            flight.sent = Some((self.order, Timestamp::now()));
            self.last_sent = Instant::now();
            self.sink.send(&Event::of(&flight.record, &self.state_id));
        }
        None
    }

    fn until_check(&self) -> Duration {
        let quiet = self.wait.saturating_sub(self.last_sent.max(self.last_check).elapsed());
        quiet.min(BUSY.max(self.wait).saturating_sub(self.last_check.elapsed()))
    }

    fn is_check_due(&self) -> bool {
        self.flights.values().any(|flight| flight.sent.is_some()) && self.until_check().is_zero()
    }

    /// Reads back what arrived; what was certainly dropped is to be sent again.
    fn check(&mut self) {
        if self.status.borrow().arrival != Arrival::Confirmed {
            self.flights.retain(|_, flight| flight.sent.is_none());
            return;
        }
        let since = self.flights.values().filter_map(|flight| Some(flight.sent?.1)).min();
        let Some(since) = since else { return };
        let found = read_back(&self.state_id, since);
        self.last_check = Instant::now();
        let ReadBack::Found(found) = found else {
            // A user's first entry makes the file that the user may read, so wait a little.
            self.wait = (self.wait * 2).min(BUSY);
            if self.progress.elapsed() >= SILENCE {
                self.give_up_confirming();
            }
            return;
        };
        let mut last = 0;
        let sent = self.flights.len();
        self.flights.retain(|seq, flight| {
            let arrived = flight.sent.is_some() && found.contains(seq);
            if let (true, Some((order, _))) = (arrived, flight.sent) {
                last = last.max(order);
            }
            !arrived
        });
        if self.flights.len() < sent {
            self.progress = self.last_check;
            self.wait = QUIET;
            self.is_closed = false;
            self.send_again(|order| order < last);
        } else if self.progress.elapsed() >= SILENCE && !has_entries(LIMIT_SECONDS) {
            self.give_up_confirming();
        } else if self.progress.elapsed() >= SILENCE {
            self.wait = TRIAL;
            self.is_closed = true;
            let oldest = self.flights.values().next().and_then(|flight| flight.sent);
            self.send_again(|order| oldest.is_some_and(|oldest| order == oldest.0));
        } else {
            self.wait = (self.wait * 2).min(BUSY);
        }
    }

    /// From now on, events are sent slowly and not read back.
    fn give_up_confirming(&mut self) {
        self.is_closed = false;
        self.status.send_modify(|status| status.arrival = Arrival::Unconfirmed);
        self.bucket = Bucket::new(BLIND_RATE);
    }

    /// Marks the flights whose order is meant as not sent, and slows down if there are any.
    fn send_again(&mut self, is_meant: impl Fn(u64) -> bool) {
        let mut dropped = false;
        for flight in self.flights.values_mut() {
            if flight.sent.is_some_and(|(order, _)| is_meant(order)) {
                flight.sent = None;
                dropped = true;
            }
        }
        if dropped {
            self.bucket.slower();
        } else {
            self.bucket.faster();
        }
    }

    /// Tells how far the events are done, if that has changed.
    fn report(&mut self) {
        let (done, generation) = match self.flights.first_key_value() {
            Some((first, flight)) => (first - 1, flight.generation),
            None => (self.taken, self.reader.generation()),
        };
        if done != self.status.borrow().done {
            (self.on_done)(done, generation);
            self.status.send_modify(|status| status.done = done);
        }
    }
}

/// A token bucket.
struct Bucket {
    rate: f64,
    most: f64,
    tokens: f64,
    filled: Instant,
}

impl Bucket {
    fn new(rate: f64) -> Self {
        let most = rate * 4.0;
        Self { rate, most, tokens: most, filled: Instant::now() }
    }

    /// Takes a token, or tells when there will be some.
    fn take(&mut self) -> Result<(), Duration> {
        let now = Instant::now();
        let filled = self.rate * (now - self.filled).as_secs_f64();
        self.tokens = (self.tokens + filled).min(self.most);
        self.filled = now;
        if self.tokens >= 1.0 {
            self.tokens -= 1.0;
            Ok(())
        } else {
            // A tenth of a second's worth at a time, so that the thread sleeps in between.
            Err(Duration::from_millis(100))
        }
    }

    fn slower(&mut self) {
        self.rate = (self.rate / 2.0).max(SLOWEST);
        self.tokens = self.tokens.min(self.rate);
    }

    fn faster(&mut self) {
        self.rate = (self.rate * 1.1).min(RATE);
    }
}
