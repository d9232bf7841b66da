//! Making the log durable: `fdatasync` soon after a change, for many changes at once; at once for
//! what must outlive a power cut.

use std::{
    fs::File,
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::{Notify, watch};

/// How long changes that may wait are gathered.
const GATHER: Duration = Duration::from_millis(100);

/// What is to be synced, and what is.
#[derive(Debug)]
pub struct Sync {
    pending: Mutex<Pending>,
    changed: Notify,
    urgent: Notify,
    done: watch::Sender<Done>,
}

#[derive(Debug, Default)]
struct Pending {
    files: Vec<Arc<File>>,
    seq: u64,
}

#[derive(Clone, Debug, Default)]
struct Done {
    seq: u64,
    error: Option<Arc<io::Error>>,
}

impl Default for Sync {
    fn default() -> Self {
        Self {
            pending: Mutex::default(),
            changed: Notify::new(),
            urgent: Notify::new(),
            done: watch::Sender::new(Done::default()),
        }
    }
}

impl Sync {
    /// Asks that the changes of the log up to this number are made durable soon.
    pub fn soon(&self, log: &Arc<File>, seq: u64) {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        if !pending.files.iter().any(|file| Arc::ptr_eq(file, log)) {
            pending.files.push(Arc::clone(log));
        }
        pending.seq = seq;
        self.changed.notify_one();
    }

    /// Makes the changes up to this number durable at once, and waits for it. Callers that wait at
    /// the same time share one sync.
    pub async fn until(&self, seq: u64) -> io::Result<()> {
        let mut done = self.done.subscribe();
        self.urgent.notify_one();
        match done.wait_for(|done| done.seq >= seq).await {
            Ok(done) => match &done.error {
                None => Ok(()),
                Some(error) => Err(io::Error::new(error.kind(), error.to_string())),
            },
            Err(_) => Err(io::Error::other("the service is ending")),
        }
    }

    /// Does the work, for ever.
    pub async fn run(&self) {
        loop {
            self.changed.notified().await;
            tokio::select! {
                () = tokio::time::sleep(GATHER) => {}
                () = self.urgent.notified() => {}
            }
            self.now().await;
        }
    }

    /// Syncs what is pending.
    pub async fn now(&self) {
        let pending =
            std::mem::take(&mut *self.pending.lock().unwrap_or_else(PoisonError::into_inner));
        if pending.files.is_empty() {
            return;
        }
        let synced = tokio::task::spawn_blocking(move || {
            pending.files.iter().try_for_each(|file| file.sync_data())
        });
        let result = synced.await.unwrap_or_else(|error| Err(io::Error::other(error)));
        let done = Done { seq: pending.seq, error: result.err().map(Arc::new) };
        self.done.send_replace(done);
    }
}
