//! The thread that waits for the disk, so that nobody else has to: it makes the log durable, writes
//! snapshots, and does whatever else writes files, one thing after the other.
//!
//! Changes are synced soon and many at once, or immediately where a caller waits. After a failed
//! sync the log is not trusted any more: Linux marks the pages clean all the same, so that the next
//! sync of the same file would succeed without having written them (fsync(2), NOTES). Whoever waited
//! is told, and nothing is acknowledged until a snapshot and a new log are on disk.

use std::{
    collections::VecDeque,
    fs::File,
    io,
    os::unix::fs::MetadataExt,
    path::PathBuf,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use tokio::sync::{oneshot, watch};

use crate::histogram::Histogram;

/// How long changes that may wait are gathered.
const GATHER: Duration = Duration::from_millis(100);
/// When a snapshot in place of a broken log is tried again; the pause doubles up to [`RARELY`].
const SOON: Duration = Duration::from_secs(1);
const RARELY: Duration = Duration::from_secs(60);

/// A log, as a file that can be made durable.
#[derive(Debug)]
pub struct LogFile {
    pub(super) file: File,
    folder: PathBuf,
    /// Whether its name is durable, too.
    has_name: AtomicBool,
    /// Whether a newer log goes on from it.
    is_finished: AtomicBool,
}

impl LogFile {
    pub(super) fn new(file: File, folder: PathBuf) -> Self {
        Self { file, folder, has_name: AtomicBool::new(false), is_finished: AtomicBool::new(false) }
    }

    /// Notes that a newer log goes on from it. It is deleted only when a snapshot on disk has its changes.
    pub(super) fn finish(&self) {
        self.is_finished.store(true, Ordering::Relaxed);
    }

    /// Whether it has been deleted, most likely with its folder.
    pub(super) fn is_deleted(&self) -> io::Result<bool> {
        Ok(self.file.metadata()?.nlink() == 0)
    }

    /// Makes what was written durable, the first time together with the name of the file (fsync(2)).
    pub fn sync(&self) -> io::Result<()> {
        if self.is_deleted()? {
            if self.is_finished.load(Ordering::Relaxed) {
                return Ok(());
            }
            return Err(io::Error::other("the log was deleted while the service had it open"));
        }
        self.file.sync_data()?;
        if !self.has_name.load(Ordering::Relaxed) {
            File::open(&self.folder)?.sync_all()?;
            self.has_name.store(true, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// How far the changes are durable.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    /// Every change up to this number is on disk.
    pub durable: u64,
    /// Why the log is not trusted; nothing is acknowledged meanwhile.
    pub broken: Option<Arc<io::Error>>,
    /// The changes that could not be made durable: those after the first number, up to the second.
    failed: (u64, u64),
}

impl Progress {
    /// Whether a change is durable or has failed; `None` while it is undecided.
    fn outcome(&self, seq: u64) -> Option<io::Result<()>> {
        let (after, last) = self.failed;
        if after < seq && seq <= last {
            let untold = || io::Error::other("the disk reported an error");
            return Some(Err(self.broken.as_deref().map_or_else(untold, again)));
        }
        (self.durable >= seq).then_some(Ok(()))
    }
}

/// A copy of an error, for another caller.
fn again(error: &io::Error) -> io::Error {
    let said = || io::Error::new(error.kind(), error.to_string());
    error.raw_os_error().map_or_else(said, io::Error::from_raw_os_error)
}

/// The replacement of a broken log: a new log and a snapshot, both on disk.
#[derive(Debug)]
pub struct Renewed {
    /// The last change that the snapshot has.
    pub seq: u64,
    /// The new log.
    pub log: Arc<LogFile>,
}

/// The handle to the thread. When the last one is dropped, the thread ends.
#[derive(Clone, Debug)]
pub struct Writer {
    shared: Arc<Shared>,
    progress: watch::Receiver<Progress>,
    _end: Arc<End>,
}

#[derive(Debug, Default)]
struct Shared {
    wanted: Mutex<Orders>,
    changed: Condvar,
    /// How long each sync of a log took. It is apart, because the progress is copied for each change.
    flushes: Mutex<Histogram>,
}

#[derive(Default)]
struct Orders {
    logs: Vec<Arc<LogFile>>,
    /// The last change that was written to them.
    seq: u64,
    /// Whether somebody waits for it.
    urgent: bool,
    jobs: VecDeque<Job>,
    stop: bool,
}

type Job = Box<dyn FnOnce() + Send>;

impl std::fmt::Debug for Orders {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Orders").field("seq", &self.seq).finish_non_exhaustive()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Orders> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn flushes(&self) -> MutexGuard<'_, Histogram> {
        self.flushes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
struct End(Arc<Shared>);

impl Drop for End {
    fn drop(&mut self) {
        self.0.lock().stop = true;
        self.0.changed.notify_one();
    }
}

impl Writer {
    /// Starts the thread. Changes up to `durable` are on disk already. `renew` replaces a broken log; it is
    /// called again, at growing intervals, until it succeeds. An error if no thread can be had.
    pub fn start(
        durable: u64,
        renew: impl FnMut() -> io::Result<Renewed> + Send + 'static,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let (sender, progress) = watch::channel(Progress { durable, ..Progress::default() });
        let worker = Worker {
            shared: Arc::clone(&shared),
            progress: sender,
            renew: Box::new(renew),
            again: None,
        };
        thread::Builder::new()
            .name("styxy-disk".to_owned())
            .spawn(move || worker.run())
            .map_err(no_thread)?;
        Ok(Self { _end: Arc::new(End(Arc::clone(&shared))), shared, progress })
    }

    /// Asks that the changes of the log up to this number are made durable soon.
    pub fn soon(&self, log: &Arc<LogFile>, seq: u64) {
        let mut wanted = self.shared.lock();
        wanted.seq = wanted.seq.max(seq);
        if !wanted.logs.iter().any(|known| Arc::ptr_eq(known, log)) {
            wanted.logs.push(Arc::clone(log));
            self.shared.changed.notify_one();
        }
    }

    /// Makes the changes up to this number durable at once, and waits for it. Callers that wait at the
    /// same time share one sync.
    pub async fn until(&self, seq: u64) -> io::Result<()> {
        let mut progress = self.progress.clone();
        if progress.borrow().outcome(seq).is_none() {
            self.hurry();
        }
        match progress.wait_for(|progress| progress.outcome(seq).is_some()).await {
            Ok(progress) => progress.outcome(seq).unwrap_or(Ok(())),
            Err(_) => Err(io::Error::other("the service is ending")),
        }
    }

    /// How far the changes are durable.
    pub fn progress(&self) -> Progress {
        self.progress.borrow().clone()
    }

    /// How long each sync of a log has taken, also of those that failed.
    pub fn flushes(&self) -> Histogram {
        *self.shared.flushes()
    }

    /// Replaces a broken log at once, and syncs what is pending.
    pub fn hurry(&self) {
        self.shared.lock().urgent = true;
        self.shared.changed.notify_one();
    }

    /// Queues a job that writes files, without waiting for it.
    pub fn later(&self, job: impl FnOnce() + Send + 'static) {
        self.shared.lock().jobs.push_back(Box::new(job));
        self.shared.changed.notify_one();
    }

    /// Runs a job that writes files, and waits for it; `None` if the service ends first.
    pub async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let (sender, receiver) = oneshot::channel();
        self.later(move || {
            // The caller may be gone.
            let _ = sender.send(job());
        });
        receiver.await.ok()
    }
}

/// Says what to do where no thread can be had (`EAGAIN` of `pthread_create(3)`).
pub(crate) fn no_thread(error: io::Error) -> io::Error {
    let words = "no thread can be started: raise TasksMax= or `ulimit -u`, or end other processes";
    io::Error::new(error.kind(), format!("{words} ({error})"))
}

struct Worker {
    shared: Arc<Shared>,
    progress: watch::Sender<Progress>,
    renew: Box<dyn FnMut() -> io::Result<Renewed> + Send>,
    /// When a broken log is to be replaced, and the pause before the next attempt.
    again: Option<(Instant, Duration)>,
}

/// The next thing to do.
enum Todo {
    Sync(Vec<Arc<LogFile>>, u64),
    Renew,
    Job(Job),
    Stop,
}

impl Worker {
    fn run(mut self) {
        loop {
            match self.next() {
                Todo::Sync(logs, seq) => self.sync(&logs, seq),
                Todo::Renew => self.renew(),
                Todo::Job(job) => job(),
                Todo::Stop => return,
            }
        }
    }

    /// Sleeps until there is something to do: idle costs nothing.
    fn next(&self) -> Todo {
        let mut gathered = None;
        let mut wanted = self.shared.lock();
        loop {
            if wanted.stop {
                return Todo::Stop;
            }
            let when = match self.again {
                Some((when, _)) => Some(when),
                None if wanted.logs.is_empty() => None,
                None => Some(*gathered.get_or_insert_with(|| Instant::now() + GATHER)),
            };
            let wait = when.map(|when| when.saturating_duration_since(Instant::now()));
            let is_due = wait.is_some_and(|wait| wait.is_zero() || wanted.urgent);
            wanted.urgent = false;
            if is_due && self.again.is_some() {
                return Todo::Renew;
            }
            if is_due {
                return Todo::Sync(std::mem::take(&mut wanted.logs), wanted.seq);
            }
            if let Some(job) = wanted.jobs.pop_front() {
                return Todo::Job(job);
            }
            let changed = &self.shared.changed;
            wanted = match wait {
                None => changed.wait(wanted).unwrap_or_else(PoisonError::into_inner),
                Some(wait) => {
                    changed.wait_timeout(wanted, wait).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    fn sync(&mut self, logs: &[Arc<LogFile>], seq: u64) {
        let flush = |log: &Arc<LogFile>| {
            let start = Instant::now();
            let synced = log.sync();
            self.shared.flushes().observe(start.elapsed());
            synced
        };
        let synced = logs.iter().try_for_each(flush).map_err(Arc::new);
        self.progress.send_modify(|progress| match &synced {
            Ok(()) => progress.durable = progress.durable.max(seq),
            Err(error) => {
                progress.failed = (progress.durable, seq);
                progress.broken = Some(Arc::clone(error));
            }
        });
        if let Err(error) = synced {
            tracing::warn!("the state could not be made durable: {error}");
            self.again = Some((Instant::now(), SOON));
        }
    }

    fn renew(&mut self) {
        match (self.renew)() {
            Ok(Renewed { seq, log }) => {
                self.again = None;
                // What else was written before is in the snapshot.
                self.shared.lock().logs.retain(|pending| Arc::ptr_eq(pending, &log));
                self.progress.send_modify(|progress| {
                    progress.durable = progress.durable.max(seq);
                    progress.broken = None;
                });
                tracing::warn!("the state is in a new log, and durable again");
            }
            Err(error) => {
                let pause = self.again.map_or(SOON, |(_, pause)| pause);
                self.again = Some((Instant::now() + pause, (pause * 2).min(RARELY)));
                // Nobody must wait for what was written after the failed sync.
                let seq = self.shared.lock().seq;
                self.progress.send_modify(|progress| {
                    progress.failed = (progress.durable, seq);
                    progress.broken = Some(Arc::new(error));
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;

    /// A log in a folder of its own, and how to make the next sync of it fail.
    fn log(folder: &tempfile::TempDir, name: &str) -> Arc<LogFile> {
        let file = File::create(folder.path().join(name)).unwrap();
        Arc::new(LogFile::new(file, folder.path().to_owned()))
    }

    #[tokio::test]
    async fn a_change_that_is_waited_for_is_durable_before_the_wait_is_over() {
        let folder = tempfile::tempdir().unwrap();
        let writer = Writer::start(3, || unreachable!()).unwrap();
        assert_eq!(writer.progress().durable, 3);
        writer.soon(&log(&folder, "log"), 7);
        writer.until(7).await.unwrap();
        assert_eq!(writer.progress().durable, 7);
        // Long ago.
        writer.until(2).await.unwrap();
        assert_eq!(writer.flushes().count(), 1);
    }

    #[tokio::test]
    async fn after_a_failed_sync_nothing_is_durable_until_the_log_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let (new, renewals) = (log(&folder, "new"), Arc::new(AtomicU64::new(0)));
        let writer = Writer::start(0, {
            let (new, renewals) = (Arc::clone(&new), Arc::clone(&renewals));
            move || match renewals.fetch_add(1, Ordering::SeqCst) {
                0 => Err(io::Error::other("the disk is full")),
                _ => Ok(Renewed { seq: 5, log: Arc::clone(&new) }),
            }
        })
        .unwrap();
        let old = log(&folder, "old");
        std::fs::remove_file(folder.path().join("old")).unwrap();
        writer.soon(&old, 5);
        let error = writer.until(5).await.unwrap_err().to_string();
        assert!(error.contains("deleted") || error.contains("full"), "{error}");
        let mut progress = writer.progress.clone();
        let is_tried = |progress: &Progress| {
            progress.broken.as_ref().is_some_and(|error| error.to_string() == "the disk is full")
        };
        progress.wait_for(is_tried).await.unwrap();
        // Asked again, it is as it was told first.
        assert!(writer.until(5).await.is_err());
        writer.soon(&old, 6);
        writer.soon(&new, 7);
        writer.until(7).await.unwrap();
        let progress = writer.progress();
        assert_eq!((progress.durable, progress.broken.is_none()), (7, true));
        assert_eq!(renewals.load(Ordering::SeqCst), 2, "the old log is not synced again");
    }

    #[tokio::test]
    async fn a_log_that_was_replaced_may_be_deleted_before_it_is_synced() {
        let folder = tempfile::tempdir().unwrap();
        let writer = Writer::start(0, || unreachable!()).unwrap();
        let old = log(&folder, "old");
        writer.soon(&old, 5);
        old.finish();
        std::fs::remove_file(folder.path().join("old")).unwrap();
        writer.until(5).await.unwrap();
    }

    #[tokio::test]
    async fn jobs_are_done_in_their_order_and_can_be_waited_for() {
        let writer = Writer::start(0, || unreachable!()).unwrap();
        let (first, second) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let set = Arc::clone(&first);
        writer.later(move || set.store(1, Ordering::SeqCst));
        let (seen, set) = (Arc::clone(&first), Arc::clone(&second));
        let done = writer.run(move || set.store(1 + seen.load(Ordering::SeqCst), Ordering::SeqCst));
        assert_eq!(done.await, Some(()));
        assert_eq!(second.load(Ordering::SeqCst), 2);
    }
}
