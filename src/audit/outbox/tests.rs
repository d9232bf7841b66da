use std::time::Instant;

use super::*;
use crate::{
    change::{Change, Record},
    config::Config,
    registry::Registry,
    state::Store,
};

/// The usual times, a hundredth as long.
const SHORT: Times = Times {
    quiet: Duration::from_millis(2),
    busy: Duration::from_millis(20),
    silence: Duration::from_millis(100),
    trial: Duration::from_millis(40),
    rarely: Duration::from_millis(600),
};

/// How the journal behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// Events arrive.
    Takes,
    /// journald is away.
    Away,
    /// Its disk is full: events are lost.
    Swallows,
    /// It accepts events, but has not written any of them yet.
    Slow,
    /// It accepts events, but this user may not read it.
    Secret,
    /// There is no journal.
    Absent,
}

#[derive(Debug)]
struct Fake {
    mode: Mode,
    /// Whether any of its entries can be read.
    has_entries: bool,
    tried: usize,
    queue: Vec<u64>,
    arrived: Vec<u64>,
}

impl Journal for Arc<Mutex<Fake>> {
    fn is_there(&mut self) -> bool {
        self.lock().unwrap().mode != Mode::Absent
    }

    fn send(&mut self, event: &Event) -> io::Result<()> {
        let mut fake = self.lock().unwrap();
        fake.tried += 1;
        let Some(crate::value::Value::U64(seq)) = event.fields.get("STYXY_SEQ") else { panic!() };
        match fake.mode {
            Mode::Away => return Err(io::ErrorKind::NotFound.into()),
            Mode::Swallows => {}
            Mode::Slow => fake.queue.push(*seq),
            Mode::Takes | Mode::Secret | Mode::Absent => fake.arrived.push(*seq),
        }
        Ok(())
    }

    fn follow(&mut self) {}

    fn is_through(&mut self) -> bool {
        self.lock().unwrap().mode != Mode::Slow
    }

    fn read_back(&mut self, state_id: &str, _since: Timestamp) -> ReadBack {
        assert!(!state_id.is_empty());
        let fake = self.lock().unwrap();
        match fake.mode {
            Mode::Secret => ReadBack::Unreadable,
            _ => ReadBack::Found(fake.arrived.iter().copied().collect()),
        }
    }

    fn can_be_read(&mut self) -> bool {
        let fake = self.lock().unwrap();
        fake.mode != Mode::Secret && fake.has_entries
    }
}

struct Service {
    _folder: tempfile::TempDir,
    store: Store,
    outbox: Outbox,
    journal: Arc<Mutex<Fake>>,
    status: watch::Receiver<Status>,
}

impl Service {
    fn new(mode: Mode, has_entries: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut registry = Registry::new(Config::built_in().rules());
        let store = Store::open(folder.path(), "boot", &mut registry).unwrap().store;
        let journal = Fake { mode, has_entries, tried: 0, queue: Vec::new(), arrived: Vec::new() };
        let journal = Arc::new(Mutex::new(journal));
        let start = Start {
            reader: store.reader(),
            state_id: store.state_id().to_owned(),
            confirmed: 0,
            seq: 0,
        };
        let theirs = Box::new(Arc::clone(&journal));
        let outbox = Outbox::start_with(start, theirs, SHORT, Box::new(|_, _| {})).unwrap();
        let status = outbox.watch();
        Self { _folder: folder, store, outbox, journal, status }
    }

    fn change(&mut self, count: u64) {
        for _ in 0..count {
            let seq = self.store.seq() + 1;
            let change = Change::Recover { reason: "none".to_owned() };
            let record = Record { seq, at: Timestamp::now(), client: None, change };
            self.store.append(&[record]).unwrap();
            self.outbox.appended(seq);
        }
    }

    fn mode(&self, mode: Mode) {
        self.journal.lock().unwrap().mode = mode;
    }

    async fn until(&mut self, is_so: impl Fn(&Status) -> bool) -> Status {
        let wait = self.status.wait_for(is_so);
        *tokio::time::timeout(Duration::from_secs(30), wait)
            .await
            .expect("it never was so")
            .unwrap()
    }

    /// The events that have arrived, without duplicates.
    fn arrived(&self) -> Vec<u64> {
        let mut arrived = self.journal.lock().unwrap().arrived.clone();
        arrived.sort_unstable();
        arrived.dedup();
        arrived
    }

    fn tried(&self) -> usize {
        self.journal.lock().unwrap().tried
    }
}

#[tokio::test]
async fn events_that_arrive_are_done() {
    let mut service = Service::new(Mode::Takes, true);
    service.change(20);
    let status = service.until(|status| status.done == 20).await;
    assert_eq!(status.arrival, Arrival::Confirmed);
    assert_eq!(service.arrived(), (1..=20).collect::<Vec<_>>());
}

#[tokio::test]
async fn no_event_is_given_up_while_the_journal_is_away_or_full() {
    for mode in [Mode::Away, Mode::Swallows] {
        let mut service = Service::new(Mode::Takes, true);
        service.change(2);
        service.until(|status| status.done == 2).await;
        service.mode(mode);
        service.change(5);
        service.until(|status| status.arrival == Arrival::Waiting).await;
        // Many times the silence after which the journal counts as closed.
        tokio::time::sleep(SHORT.silence * 10).await;
        let status = service.outbox.status();
        assert_eq!((status.done, status.arrival), (2, Arrival::Waiting), "{mode:?}");
        service.mode(Mode::Takes);
        let status = service.until(|status| status.done == 7).await;
        assert_eq!(status.arrival, Arrival::Confirmed);
        assert_eq!(service.arrived(), (1..=7).collect::<Vec<_>>(), "{mode:?}");
    }
}

#[tokio::test]
async fn no_event_comes_twice_from_a_journal_that_is_slow() {
    let mut service = Service::new(Mode::Takes, true);
    service.change(2);
    service.until(|status| status.done == 2).await;
    service.mode(Mode::Slow);
    service.change(5);
    service.until(|status| status.arrival == Arrival::Waiting).await;
    // A new event would trigger a retry, were the journal not known to be slow.
    tokio::time::sleep(SHORT.trial * 2).await;
    service.change(1);
    tokio::time::sleep(SHORT.silence * 3).await;
    {
        let mut journal = service.journal.lock().unwrap();
        let queue = std::mem::take(&mut journal.queue);
        journal.arrived.extend(queue);
        journal.mode = Mode::Takes;
    }
    service.until(|status| status.done == 8).await;
    assert_eq!(service.journal.lock().unwrap().arrived, (1..=8).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_journal_that_was_away_from_the_start_gets_every_event() {
    // Nothing was ever read back; but an event that could not be sent certainly did not arrive.
    let mut service = Service::new(Mode::Away, false);
    service.change(3);
    service.until(|status| status.arrival == Arrival::Waiting).await;
    tokio::time::sleep(SHORT.silence * 5).await;
    assert_eq!(service.outbox.status().done, 0);
    service.mode(Mode::Takes);
    service.until(|status| status.done == 3).await;
    assert_eq!(service.arrived(), [1, 2, 3]);
}

#[tokio::test]
async fn a_closed_journal_is_tried_less_and_less_often() {
    for mode in [Mode::Away, Mode::Swallows] {
        let mut service = Service::new(Mode::Takes, true);
        service.change(1);
        service.until(|status| status.done == 1).await;
        service.mode(mode);
        service.change(3);
        service.until(|status| status.arrival == Arrival::Waiting).await;
        // The pauses double up to the longest.
        tokio::time::sleep(SHORT.rarely * 3).await;
        let before = service.tried();
        tokio::time::sleep(SHORT.rarely * 2).await;
        let tried = service.tried() - before;
        assert!(tried <= 6, "{mode:?}: tried {tried} times");
        service.mode(Mode::Takes);
        service.change(1);
        service.until(|status| status.done == 5).await;
    }
}

#[tokio::test]
async fn a_closed_journal_is_tried_at_once_when_there_is_news() {
    let mut service = Service::new(Mode::Away, true);
    let times = Times { trial: Duration::ZERO, ..SHORT };
    let start = Start {
        reader: service.store.reader(),
        state_id: service.store.state_id().to_owned(),
        confirmed: 0,
        seq: 0,
    };
    let journal = Box::new(Arc::clone(&service.journal));
    let (status, _) = watch::channel(service.outbox.status());
    let on_done = Box::new(|_, _| {});
    let mut worker = Worker::new(start, Arc::default(), journal, times, status, on_done);
    service.change(1);
    worker.load(1).unwrap();
    let long = Duration::from_secs(3_600);
    for is_closed in [false, true] {
        (worker.is_closed, worker.wait) = (is_closed, long);
        worker.refused = Some((Instant::now() + long, long));
        worker.load(service.store.seq()).unwrap();
        assert!(worker.refused.unwrap().0 > Instant::now(), "there is no news");
        service.change(1);
        worker.load(service.store.seq()).unwrap();
        let (when, pause) = worker.refused.unwrap();
        assert!(when <= Instant::now() && pause == times.quiet);
        assert!(!is_closed || worker.wait == times.quiet);
    }
}

#[tokio::test]
async fn events_that_cannot_be_read_back_are_given_up_until_they_can() {
    let mut service = Service::new(Mode::Secret, false);
    service.change(3);
    let status = service.until(|status| status.done == 3).await;
    assert_eq!(status.arrival, Arrival::Unconfirmed);
    {
        let mut journal = service.journal.lock().unwrap();
        (journal.mode, journal.has_entries) = (Mode::Takes, true);
    }
    // Checked only at long intervals, and when there is something to send.
    tokio::time::sleep(SHORT.rarely).await;
    service.change(1);
    let status = service.until(|status| status.done == 4).await;
    assert_eq!(status.arrival, Arrival::Confirmed);
}

#[tokio::test]
async fn without_a_journal_events_are_done_when_they_are_written_until_there_is_one() {
    let mut service = Service::new(Mode::Absent, false);
    service.change(6_000);
    let status = service.until(|status| status.done == 6_000).await;
    assert_eq!(status.arrival, Arrival::NoJournal);
    service.mode(Mode::Takes);
    service.change(1);
    let status = service.until(|status| status.done == 6_001).await;
    assert_eq!(status.arrival, Arrival::Confirmed);
}
