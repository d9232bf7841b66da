//! What the service is busy with: calls under way, open connections, live leases. It may end when
//! there has been none of it for a while.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::sync::watch;

/// Counts what is going on.
#[derive(Debug, Default)]
pub struct Activity(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    busy: AtomicUsize,
    leases: AtomicUsize,
    changed: watch::Sender<()>,
}

/// Something that is under way until this is dropped.
#[derive(Debug)]
pub struct Busy(Arc<Counts>);

impl Activity {
    /// Something begins.
    pub fn busy(&self) -> Busy {
        self.0.busy.fetch_add(1, Ordering::Relaxed);
        Busy(Arc::clone(&self.0))
    }

    /// There was a change, and there are so many leases now.
    pub(crate) fn touch(&self, leases: usize) {
        self.0.leases.store(leases, Ordering::Relaxed);
        self.0.changed.send_replace(());
    }

    /// To wait for the next change.
    pub fn watch(&self) -> watch::Receiver<()> {
        self.0.changed.subscribe()
    }

    /// Waits until nothing has been going on for that long; for ever if that is zero. The time is
    /// asked for anew after each change, because a reload may have changed it.
    pub async fn idle(&self, time: impl Fn() -> Duration) {
        let mut changed = self.watch();
        loop {
            let busy = self.0.busy.load(Ordering::Relaxed) + self.0.leases.load(Ordering::Relaxed);
            let time = time();
            if busy > 0 || time.is_zero() {
                // The sender lives as long as this does, so there is no error to see.
                let _ = changed.changed().await;
            } else if tokio::time::timeout(time, changed.changed()).await.is_err() {
                return;
            }
        }
    }

    /// Waits until nothing is under way.
    pub async fn settled(&self) {
        let mut changed = self.watch();
        while self.0.busy.load(Ordering::Relaxed) > 0 {
            let _ = changed.changed().await;
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Ordering::Relaxed);
        self.0.changed.send_replace(());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_call_begins_the_idle_time_anew_and_a_lease_keeps_it_from_beginning() {
        let activity = Activity::default();
        let second = Duration::from_secs(1);
        let start = tokio::time::Instant::now();
        let busy = activity.busy();
        let calls = async {
            tokio::time::sleep(second / 2).await;
            drop(busy);
            tokio::time::sleep(second / 2).await;
            activity.touch(1);
            tokio::time::sleep(second * 5).await;
            activity.touch(0);
        };
        tokio::join!(activity.idle(|| second), calls);
        assert_eq!(start.elapsed(), second * 7);
    }
}
