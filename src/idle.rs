//! Tracks calls in progress, open connections and live leases. The service may exit when there has been
//! none of them for a while.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Notify, watch},
    time::Instant,
};

/// Counts calls in progress, connections and leases.
#[derive(Debug, Default)]
pub struct IdleTracker(Arc<Counts>);

#[derive(Debug)]
struct Counts {
    busy: AtomicUsize,
    observers: AtomicUsize,
    leases: AtomicUsize,
    /// The time of the last activity.
    last: Mutex<Instant>,
    /// Notified when the last call has ended and no lease is live.
    quiet: Notify,
    /// Notified when the idle time may have changed.
    noted: Notify,
    changed: watch::Sender<()>,
    /// Notified when an observer has left.
    left: watch::Sender<()>,
    room_wanted: Notify,
}

impl Default for Counts {
    fn default() -> Self {
        Self {
            busy: AtomicUsize::default(),
            observers: AtomicUsize::default(),
            leases: AtomicUsize::default(),
            last: Mutex::new(Instant::now()),
            quiet: Notify::new(),
            noted: Notify::new(),
            changed: watch::Sender::default(),
            left: watch::Sender::default(),
            room_wanted: Notify::new(),
        }
    }
}

impl Counts {
    fn is_busy(&self) -> bool {
        self.busy.load(Ordering::Relaxed) + self.leases.load(Ordering::Relaxed) > 0
    }

    /// Records activity.
    fn changed(&self) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        if !self.is_busy() {
            self.quiet.notify_one();
        }
        self.changed.send_replace(());
    }

    fn last(&self) -> Instant {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call in progress, until this is dropped.
#[derive(Debug)]
pub struct CallGuard(Arc<Counts>);

/// An observer, until this is dropped.
#[derive(Debug)]
pub struct Observer(Arc<Counts>);

impl IdleTracker {
    /// Starts a call.
    pub fn busy(&self) -> CallGuard {
        self.0.busy.fetch_add(1, Ordering::Relaxed);
        CallGuard(Arc::clone(&self.0))
    }

    /// Adds an observer: the service waits for it to finish before it exits, but does not stay alive for it.
    pub fn observer(&self) -> Observer {
        self.0.observers.fetch_add(1, Ordering::Relaxed);
        Observer(Arc::clone(&self.0))
    }

    /// Records a change, and the current number of leases.
    pub(crate) fn touch(&self, leases: usize) {
        self.0.leases.store(leases, Ordering::Relaxed);
        self.0.changed();
    }

    /// Records any other change that is announced.
    pub(crate) fn note(&self) {
        self.0.changed();
        self.0.noted.notify_one();
    }

    /// Asks this service to make room for another one.
    pub fn make_room(&self) {
        self.0.room_wanted.notify_one();
    }

    /// Waits until this service is asked to make room for another one.
    pub async fn room_wanted(&self) {
        self.0.room_wanted.notified().await;
    }

    /// A receiver that is notified of changes.
    pub fn watch(&self) -> watch::Receiver<()> {
        self.0.changed.subscribe()
    }

    /// Waits until there has been no activity for this long; forever if it is zero. The time is read again
    /// after each [`note`](Self::note), because a reload may have changed it.
    ///
    /// Calls do not wake it, so it costs a busy service nothing.
    pub async fn idle(&self, time: impl Fn() -> Duration) {
        loop {
            let time = time();
            let until = self.0.last() + time;
            if self.0.is_busy() || time.is_zero() {
                tokio::select! {
                    () = self.0.quiet.notified(), if !time.is_zero() => {}
                    () = self.0.noted.notified() => {}
                }
            } else if until <= Instant::now() {
                return;
            } else {
                tokio::select! {
                    () = tokio::time::sleep_until(until) => {}
                    () = self.0.noted.notified() => {}
                }
            }
        }
    }

    /// Waits until no call is in progress.
    pub async fn settled(&self) {
        let (mut changed, mut left) = (self.watch(), self.0.left.subscribe());
        let is_busy =
            || self.0.busy.load(Ordering::Relaxed) + self.0.observers.load(Ordering::Relaxed) > 0;
        while is_busy() {
            tokio::select! {
                _ = changed.changed() => {}
                _ = left.changed() => {}
            }
        }
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        self.0.observers.fetch_sub(1, Ordering::Relaxed);
        self.0.left.send_replace(());
    }
}

impl Drop for CallGuard {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Ordering::Relaxed);
        self.0.changed();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_call_begins_the_idle_time_anew_and_a_lease_keeps_it_from_beginning() {
        let tracker = IdleTracker::default();
        let second = Duration::from_secs(1);
        let start = tokio::time::Instant::now();
        let busy = tracker.busy();
        let calls = async {
            tokio::time::sleep(second / 2).await;
            drop(busy);
            tokio::time::sleep(second / 2).await;
            tracker.touch(1);
            tokio::time::sleep(second * 5).await;
            tracker.touch(0);
        };
        tokio::join!(tracker.idle(|| second), calls);
        assert_eq!(start.elapsed(), second * 7);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_only_looks_keeps_nothing_alive_and_is_waited_for() {
        let tracker = IdleTracker::default();
        let second = Duration::from_secs(1);
        let start = tokio::time::Instant::now();
        let observer = tracker.observer();
        let look = async {
            tokio::time::sleep(second / 2).await;
            drop(tracker.observer());
        };
        tokio::join!(tracker.idle(|| second), look);
        assert_eq!(start.elapsed(), second);
        let leave = async {
            tokio::time::sleep(second).await;
            drop(observer);
        };
        tokio::join!(tracker.settled(), leave);
        assert_eq!(start.elapsed(), second * 2);
    }
}
