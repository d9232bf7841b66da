//! What the page shows and does, in threads of their own: the service may be slow, and keys must not wait for it.
//!
//! One thread watches for changes, as `styxy watch` does, and one carries out jobs. Both report to the page through
//! one channel, and wake it by a byte in a pipe, which it can wait for together with keys and signals.

use std::{
    io::{self, PipeReader, PipeWriter, Read, Write},
    os::fd::{AsFd, BorrowedFd},
    sync::{OnceLock, mpsc},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use serde_json::Value as Json;
use tokio::sync::{mpsc as events, oneshot};

use super::super::{CliError, block_on, check, lease::found, release, text};
use crate::{
    client::{self, Failure},
    value::Fields,
};

/// How long more changes are waited for, so that a burst of them is one list.
const TOGETHER: Duration = Duration::from_millis(100);

/// The maximum number of events that wait.
const AT_ONCE: usize = 256;

/// Something to do.
#[derive(Debug, PartialEq)]
pub(super) enum Job {
    /// List the leases.
    List,
    /// Look up who uses the port of this lease.
    Look(Json),
    /// Release this lease.
    Release(Json),
}

/// Something that has happened.
pub(super) enum News {
    /// These are the leases.
    Leases(Vec<Json>),
    /// Who uses the port of the lease with this id, in lines.
    Looked(String, Vec<String>),
    /// A lease was released, or not: what to say about it.
    Released(Result<String, CliError>),
    /// A job is waiting for this.
    Waiting(String),
    /// Changes can no longer be followed.
    Failed(CliError),
}

/// Where news are sent.
struct Post {
    news: mpsc::Sender<News>,
    wake: PipeWriter,
}

/// The post of this process, as the function that is told what a call waits for has no data of its own.
static POST: OnceLock<Post> = OnceLock::new();

fn send(news: News) {
    if let Some(post) = POST.get() {
        // If the page is gone, so is this process.
        let _ = post.news.send(news);
        let _ = (&post.wake).write_all(b"!");
    }
}

/// The threads, and what comes from them.
pub(super) struct Source {
    jobs: mpsc::Sender<Job>,
    news: mpsc::Receiver<News>,
    woken: PipeReader,
    watcher: Option<Watcher>,
}

/// The thread that watches; it ends when `end` is dropped.
struct Watcher {
    end: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl Source {
    /// Starts the threads. They inherit the signal mask, so that signals that this thread blocks are left to it.
    pub(super) fn start(leases: &[Json]) -> io::Result<Self> {
        let (woken, wake) = io::pipe()?;
        let (sender, news) = mpsc::channel();
        let _ = POST.set(Post { news: sender, wake });
        client::tell_by(|what| send(News::Waiting(what.to_owned())));
        let (jobs, todo) = mpsc::channel();
        thread::Builder::new().spawn(move || work(&todo))?;
        let mut source = Self { jobs, news, woken, watcher: None };
        source.resume(leases)?;
        Ok(source)
    }

    /// Stops watching for changes, before this process is stopped: signals would pile up in the bus.
    pub(super) fn pause(&mut self) {
        if let Some(Watcher { end, thread }) = self.watcher.take() {
            drop(end);
            let _ = thread.join();
        }
    }

    /// Watches for changes since the page got these leases.
    pub(super) fn resume(&mut self, leases: &[Json]) -> io::Result<()> {
        let (end, ended) = oneshot::channel();
        let (leases, jobs) = (leases.into(), self.jobs.clone());
        let thread = thread::Builder::new().spawn(move || watch(&leases, &jobs, ended))?;
        self.watcher = Some(Watcher { end, thread });
        Ok(())
    }

    pub(super) fn do_it(&self, job: Job) {
        // The thread that carries them out ends with this process.
        let _ = self.jobs.send(job);
    }

    /// Can be read when there is news.
    pub(super) fn woken(&self) -> BorrowedFd<'_> {
        self.woken.as_fd()
    }

    /// The news, after it could be read.
    pub(super) fn news(&mut self) -> io::Result<Vec<News>> {
        // More bytes only mean that it can be read once more, and there is nothing.
        let _ = self.woken.read(&mut [0; 64])?;
        Ok(self.news.try_iter().collect())
    }

    /// Waits for the result of a release, at most this long.
    pub(super) fn released(&self, limit: Duration) -> Option<Result<String, CliError>> {
        let until = Instant::now() + limit;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if let News::Released(result) = self.news.recv_timeout(left).ok()? {
                return Some(result);
            }
        }
    }
}

/// Asks for a list at each change, until `ended`.
fn watch(leases: &Json, jobs: &mpsc::Sender<Job>, ended: oneshot::Receiver<()>) {
    let result = block_on(async {
        let (reader, mut events) = events::channel(AT_ONCE);
        let listing = async {
            while events.recv().await.is_some() {
                tokio::time::sleep(TOGETHER).await;
                while events.try_recv().is_ok() {}
                if jobs.send(Job::List).is_err() {
                    return;
                }
            }
        };
        tokio::select! {
            result = client::watch::changes_since(leases, reader) => result,
            () = listing => Ok(()),
            _ = ended => Ok(()),
        }
    });
    if let Err(error) = result.map_err(CliError::from).and_then(|watched| Ok(watched?)) {
        send(News::Failed(error));
    }
}

/// Carries out jobs, as long as there may be more.
fn work(jobs: &mpsc::Receiver<Job>) {
    while let Ok(job) = jobs.recv() {
        let mut jobs: Vec<_> = [job].into_iter().chain(jobs.try_iter()).collect();
        // One list is enough.
        jobs.dedup();
        jobs.into_iter().for_each(carry_out);
    }
}

fn carry_out(job: Job) {
    client::begin_again();
    match job {
        Job::List => list(),
        Job::Look(lease) => {
            let lines = check::lines_about(&lease).unwrap_or_else(|error| vec![words(&error)]);
            send(News::Looked(text(&lease, "lease_id").to_owned(), lines));
        }
        Job::Release(lease) => {
            send(News::Released(release::released(&lease)));
            client::begin_again();
            list();
        }
    }
}

fn list() {
    send(match found(Fields::default()) {
        Ok(leases) => News::Leases(leases),
        Err(error) => News::Failed(error),
    });
}

/// The message of an error.
pub(super) fn words(error: &CliError) -> String {
    match error {
        CliError::Failure(
            Failure::Refused { message, .. }
            | Failure::Unreachable(message)
            | Failure::BrokenOff(message),
        ) => message.clone(),
        CliError::Output(error) | CliError::System(error) => error.to_string(),
        _ => "it failed".to_owned(),
    }
}
