//! The audit thread.

use std::{
    collections::{BTreeMap, HashSet},
    io,
    sync::{Arc, PoisonError},
    thread,
    time::{Duration, Instant},
};

use tokio::sync::watch;

use super::{Arrival, Journal, Shared, Start, Status, Times, bucket::Bucket};
use crate::{
    audit::{event::Event, journal::ReadBack},
    change::Record,
    state::Reader,
    time::Timestamp,
};

/// The most events that are kept in memory until they are confirmed.
const WINDOW: usize = 4_000;

/// An event that is not known to have arrived.
struct PendingEvent {
    record: Record,
    /// The generation of its log. Until the event has arrived, this log and later ones must be kept.
    generation: u64,
    /// Its position in the order of sending, and the time, when it was last sent; `None` if it must be sent.
    sent: Option<(u64, Timestamp)>,
}

pub(super) struct Worker {
    shared: Arc<Shared>,
    reader: Reader,
    state_id: String,
    journal: Box<dyn Journal>,
    times: Times,
    status: watch::Sender<Status>,
    on_done: Box<dyn Fn(u64, u64) + Send>,
    /// The number of the last record that was taken from the log.
    taken: u64,
    /// The number of the last record that an earlier service may have sent.
    before: u64,
    /// Which of those events have arrived; read back once.
    arrived_before: Option<HashSet<u64>>,
    pending: BTreeMap<u64, PendingEvent>,
    order: u64,
    bucket: Bucket,
    /// Whether an event of this state was ever read back.
    was_read: bool,
    /// The number of consecutive failures to read back.
    unreadable: u32,
    /// Whether events cannot be read back, so that those that were sent count as arrived.
    is_blind: bool,
    /// Whether the journal accepts nothing: it is tried with one event at a time.
    pub(super) is_closed: bool,
    /// If journald could not even be reached: the time of the next attempt, and the pause if that fails, too.
    pub(super) refused: Option<(Instant, Duration)>,
    /// When an event last arrived, or when the first was sent.
    progress: Instant,
    last_sent: Instant,
    last_check: Instant,
    /// When a new event last triggered a retry of a closed journal.
    last_trial: Instant,
    /// How long to wait before the next check.
    pub(super) wait: Duration,
}

impl Worker {
    pub(super) fn new(
        start: Start,
        shared: Arc<Shared>,
        journal: Box<dyn Journal>,
        times: Times,
        status: watch::Sender<Status>,
        on_done: Box<dyn Fn(u64, u64) + Send>,
    ) -> Self {
        let now = Instant::now();
        Self {
            shared,
            reader: start.reader,
            state_id: start.state_id,
            journal,
            times,
            status,
            on_done,
            taken: start.confirmed,
            before: start.seq,
            arrived_before: None,
            pending: BTreeMap::new(),
            order: 0,
            bucket: Bucket::new(),
            was_read: false,
            unreadable: 0,
            is_blind: false,
            is_closed: false,
            refused: None,
            progress: now,
            last_sent: now,
            last_check: now,
            last_trial: now,
            wait: times.quiet,
        }
    }

    pub(super) fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        let mut pause = Duration::ZERO;
        let mut is_busy = false;
        loop {
            let wanted = {
                let mut wanted = shared.lock();
                // Sleeps without a timeout if there is nothing to do, and for long if nothing can be done.
                let until = (is_busy || !self.pending.is_empty()).then(|| Instant::now() + pause);
                while !wanted.stop && (wanted.seq <= self.taken || self.pending.len() >= WINDOW) {
                    let left = until.map(|until| until.saturating_duration_since(Instant::now()));
                    if left.is_some_and(|left| left.is_zero()) {
                        break;
                    }
                    wanted.asleep = left.is_none() || self.is_waiting();
                    wanted = match left {
                        None => shared.changed.wait(wanted).unwrap_or_else(PoisonError::into_inner),
                        Some(left) => {
                            let waited = shared.changed.wait_timeout(wanted, left);
                            waited.unwrap_or_else(PoisonError::into_inner).0
                        }
                    };
                }
                wanted.asleep = false;
                if wanted.stop {
                    return;
                }
                wanted.seq
            };
            let taken = self.taken;
            if let Err(error) = self.load(wanted) {
                // A late event is better than a lost one: reading the log is retried until it works.
                tracing::warn!("the state log cannot be read for the audit: {error}");
                thread::sleep(self.times.busy);
            }
            let paced = self.send();
            if self.is_check_due() {
                self.check();
            }
            self.report();
            pause = self.pause(paced);
            is_busy = self.taken > taken;
        }
    }

    /// Whether nothing can be done but wait.
    fn is_waiting(&self) -> bool {
        self.is_closed || self.refused.is_some()
    }

    /// How long to sleep until there is something to do. `paced` is how long to wait before sending more.
    fn pause(&self, paced: Option<Duration>) -> Duration {
        let refused = self.refused.map(|(when, _)| when.saturating_duration_since(Instant::now()));
        let check = self.has_sent().then(|| self.until_check());
        // A busy thread checks for new records by itself.
        let look = (!self.is_waiting()).then_some(self.times.quiet);
        let pauses = [refused, refused.is_none().then_some(paced).flatten(), check, look];
        let pause = pauses.into_iter().flatten().min().unwrap_or(self.times.rarely);
        pause.max(Duration::from_millis(5))
    }

    /// Takes records from the log.
    pub(super) fn load(&mut self, wanted: u64) -> io::Result<()> {
        let before = self.taken;
        while self.pending.len() < WINDOW && self.taken < wanted {
            let Some(record) = self.reader.next_record(wanted)? else {
                // These records were lost to damage.
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
            self.pending.insert(record.seq, PendingEvent { record, generation, sent: None });
        }
        if self.taken >= self.before {
            self.arrived_before = None;
        }
        if self.taken > before && self.last_trial.elapsed() >= self.times.trial {
            self.try_now();
        }
        Ok(())
    }

    /// Immediately retries a journal that accepted nothing, because there are new events.
    fn try_now(&mut self) {
        if self.is_waiting() {
            self.last_trial = Instant::now();
            self.refused = self.refused.map(|_| (self.last_trial, self.times.quiet));
        }
        if self.is_closed {
            // Check first: the last event that was sent may have arrived since.
            self.wait = self.times.quiet;
        }
    }

    /// Whether the event has already arrived, sent by an earlier service.
    fn arrived_before(&mut self, record: &Record) -> bool {
        if !self.journal.is_there() {
            return false;
        }
        let arrived = match self.arrived_before.take() {
            Some(arrived) => arrived,
            None => match self.journal.read_back(&self.state_id, record.at) {
                ReadBack::Found(found) => found,
                ReadBack::Unreadable => HashSet::new(),
            },
        };
        self.was_read |= !arrived.is_empty();
        self.arrived_before.insert(arrived).contains(&record.seq)
    }

    /// Sends what must be sent, as far as the rate allows; returns how long to wait before sending more.
    fn send(&mut self) -> Option<Duration> {
        let now = Instant::now();
        if !self.journal.is_there() {
            // Nothing is lost on the way to a file or a pipe.
            for event in std::mem::take(&mut self.pending).into_values() {
                let _ = self.journal.send(&Event::of(&event.record, &self.state_id));
            }
            return None;
        }
        if !self.has_sent() {
            // Nothing is in transit, so silence is no sign of a closed journal.
            self.progress = now;
            self.wait = self.times.quiet;
        }
        if self.refused.is_some_and(|(when, _)| when > now) {
            return None;
        }
        let before = self.order;
        let paced = self.send_some();
        if self.order > before {
            self.journal.follow();
        }
        paced
    }

    fn send_some(&mut self) -> Option<Duration> {
        let most = if self.is_closed { 1 } else { WINDOW };
        for event in self.pending.values_mut().take(most).filter(|event| event.sent.is_none()) {
            if let Err(pause) = self.bucket.take() {
                return Some(pause);
            }
            if self.journal.send(&Event::of(&event.record, &self.state_id)).is_err() {
                let pause = self.refused.map_or(self.times.quiet, |(_, pause)| pause);
                let next = (pause * 2).min(self.times.rarely);
                self.refused = Some((Instant::now() + pause, next));
                return None;
            }
            self.refused = None;
            self.order += 1;
            event.sent = Some((self.order, Timestamp::now()));
            self.last_sent = Instant::now();
        }
        None
    }

    fn has_sent(&self) -> bool {
        self.pending.values().any(|event| event.sent.is_some())
    }

    fn until_check(&self) -> Duration {
        let quiet = self.wait.saturating_sub(self.last_sent.max(self.last_check).elapsed());
        quiet.min(self.times.busy.max(self.wait).saturating_sub(self.last_check.elapsed()))
    }

    fn is_check_due(&self) -> bool {
        self.has_sent() && self.until_check().is_zero()
    }

    /// Reads back what arrived, and marks what was certainly dropped to be sent again.
    fn check(&mut self) {
        if self.is_blind && !self.sees_again() {
            self.pending.retain(|_, event| event.sent.is_none());
            return;
        }
        let since = self.pending.values().filter_map(|event| Some(event.sent?.1)).min();
        let Some(since) = since else { return };
        // Queried before reading back: what arrives in between is found then.
        let is_through = self.journal.is_through();
        let found = match self.journal.read_back(&self.state_id, since) {
            ReadBack::Found(found) => Some(found),
            // The journal file that a user may read exists only from the user's first entry on.
            ReadBack::Unreadable => None,
        };
        // Reading also fails for lack of memory or processes, so only two failures in a row are evidence.
        self.unreadable = if found.is_none() { self.unreadable.saturating_add(1) } else { 0 };
        let is_known = self.unreadable != 1;
        let found = found.unwrap_or_default();
        self.last_check = Instant::now();
        let mut last = 0;
        let sent = self.pending.len();
        self.pending.retain(|seq, event| {
            let arrived = event.sent.is_some() && found.contains(seq);
            if let (true, Some((order, _))) = (arrived, event.sent) {
                last = last.max(order);
            }
            !arrived
        });
        if self.pending.len() < sent {
            self.was_read = true;
            self.progress = self.last_check;
            self.wait = self.times.quiet;
            self.is_closed = false;
            self.send_again(|order| order < last);
        } else if self.progress.elapsed() < self.times.silence {
            self.wait = (self.wait * 2).min(self.times.busy);
        } else if self.was_read || self.journal.can_be_read() {
            let first = if self.is_closed { self.wait * 2 } else { self.times.trial };
            self.wait = first.min(self.times.rarely);
            self.is_closed = true;
            if is_through && is_known {
                self.send_oldest_again();
            }
        } else {
            // From now on, events are sent slowly and not read back.
            (self.is_blind, self.is_closed) = (true, false);
            self.bucket = Bucket::blind();
        }
    }

    /// Whether a journal that this user could not read can be read by now; checked only at long intervals.
    fn sees_again(&mut self) -> bool {
        if self.last_check.elapsed() < self.times.rarely {
            return false;
        }
        self.last_check = Instant::now();
        self.is_blind = !self.journal.can_be_read();
        !self.is_blind
    }

    fn send_oldest_again(&mut self) {
        if let Some(event) = self.pending.values_mut().next() {
            event.sent = None;
        }
    }

    /// Marks the pending events with a selected position as not sent. Lowers the rate if there are any, else
    /// raises it.
    fn send_again(&mut self, is_meant: impl Fn(u64) -> bool) {
        let mut dropped = false;
        for event in self.pending.values_mut() {
            if event.sent.is_some_and(|(order, _)| is_meant(order)) {
                event.sent = None;
                dropped = true;
            }
        }
        if dropped {
            self.bucket.slower();
        } else {
            self.bucket.faster();
        }
    }

    /// Reports up to where events are done and whether their arrival is confirmed, if that has changed.
    fn report(&mut self) {
        let (done, generation) = match self.pending.first_key_value() {
            Some((first, event)) => (first - 1, event.generation),
            None => (self.taken, self.reader.generation()),
        };
        let arrival = if !self.journal.is_there() {
            Arrival::NoJournal
        } else if self.is_waiting() {
            Arrival::Waiting
        } else if self.is_blind {
            Arrival::Unconfirmed
        } else {
            Arrival::Confirmed
        };
        let before = *self.status.borrow();
        if done != before.done {
            (self.on_done)(done, generation);
        }
        let now = Status { done, arrival };
        self.status.send_if_modified(|status| std::mem::replace(status, now) != now);
    }
}
