//! How long a command waits, and what it says meanwhile.
//!
//! The limit is for a command as a whole, however many calls it makes. Long-running ones (`watch`,
//! `list --watch`, `mcp`) have it for each step.

use std::{
    borrow::Cow,
    process,
    sync::{Mutex, PoisonError, mpsc},
    thread,
    time::{Duration, Instant},
};

use super::Failure;

/// After this time a command says what it is waiting for.
const SILENCE: Duration = Duration::from_secs(2);

/// The exit status of a command that has waited in vain.
const UNREACHABLE: i32 = 3;

/// The patience of a command.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// How long a command may wait, from its start to the last answer.
    pub limit: Duration,
    /// Tells the user what the command is waiting for, once for each call.
    pub tell: fn(&str),
    /// Tells the user why the command ends.
    pub complain: fn(&str),
}

impl Patience {
    /// The default timeout of D-Bus clients.
    pub const LIMIT: Duration = Duration::from_secs(25);
}

/// The patience of this process, and when it began to wait.
static PATIENCE: Mutex<Option<(Patience, Instant)>> = Mutex::new(None);

/// Sets the patience of this process. The time starts now.
pub fn set_patience(patience: Patience) {
    *PATIENCE.lock().unwrap_or_else(PoisonError::into_inner) = Some((patience, Instant::now()));
}

/// From now on, tells the user in this way what the command is waiting for.
pub fn tell_by(tell: fn(&str)) {
    if let Some((patience, _)) = &mut *PATIENCE.lock().unwrap_or_else(PoisonError::into_inner) {
        patience.tell = tell;
    }
}

/// Restarts the time: for the next step of a long-running command, or after the user was asked something.
pub fn begin_again() {
    if let Some((_, since)) = &mut *PATIENCE.lock().unwrap_or_else(PoisonError::into_inner) {
        *since = Instant::now();
    }
}

/// The remaining patience, and the whole limit.
fn left() -> (Patience, Duration) {
    let patience = *PATIENCE.lock().unwrap_or_else(PoisonError::into_inner);
    let usual =
        || (Patience { limit: Patience::LIMIT, tell: |_| {}, complain: |_| {} }, Instant::now());
    let (patience, since) = patience.unwrap_or_else(usual);
    let limit = patience.limit.saturating_sub(since.elapsed());
    (Patience { limit, ..patience }, patience.limit)
}

fn in_vain(what: &str, limit: Duration) -> String {
    format!(
        "{what} did not answer within {} s; `styxy doctor` looks for the cause, and --timeout waits longer",
        limit.as_secs()
    )
}

/// Watches over work that nothing else can interrupt, such as opening a pipe or reading the output of another
/// program. If it takes long, says what the command is waiting for; at the limit, ends this process. Dropping
/// it ends the watch.
#[derive(Debug)]
pub struct Watch {
    /// Closed when the work is done; a message reports progress.
    progress: mpsc::Sender<()>,
}

impl Watch {
    /// Starts to watch over work that waits for this.
    pub fn over(what: impl Into<Cow<'static, str>>) -> Self {
        let (progress, seen) = mpsc::channel();
        let (what, (patience, limit)) = (what.into(), left());
        // Without a thread, the work is done unwatched.
        let _ = thread::Builder::new().spawn(move || watch(&what, patience, limit, &seen));
        Self { progress }
    }

    /// Reports progress: the time starts again.
    pub fn goes_on(&self) {
        let _ = self.progress.send(());
    }
}

fn watch(what: &str, patience: Patience, limit: Duration, seen: &mpsc::Receiver<()>) {
    use mpsc::RecvTimeoutError::{Disconnected, Timeout};
    let mut left = patience.limit;
    let mut is_told = false;
    loop {
        let silence = if is_told { left } else { SILENCE.min(left) };
        match seen.recv_timeout(silence) {
            Ok(()) => left = limit,
            Err(Disconnected) => return,
            Err(Timeout) if left > silence => {
                left -= silence;
                is_told = true;
                (patience.tell)(&format!("waiting for {what} ..."));
            }
            Err(Timeout) => {
                (patience.complain)(&in_vain(what, limit));
                process::exit(UNREACHABLE);
            }
        }
    }
}

/// What a call is currently waiting for, for people.
#[derive(Debug)]
pub(super) struct Waiting(Mutex<Cow<'static, str>>);

impl Default for Waiting {
    fn default() -> Self {
        Self(Mutex::new("the service".into()))
    }
}

impl Waiting {
    /// Sets what it is waiting for.
    pub(super) fn on(&self, what: impl Into<Cow<'static, str>>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = what.into();
    }

    fn what(&self) -> Cow<'static, str> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Does the work within the patience of this process.
    pub(super) async fn patiently<T>(
        &self,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let (patience, limit) = left();
        self.within(patience, limit, work).await
    }

    async fn within<T>(
        &self,
        Patience { limit: left, tell, .. }: Patience,
        limit: Duration,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let mut work = std::pin::pin!(work);
        let silence = SILENCE.min(left);
        if let Ok(result) = tokio::time::timeout(silence, work.as_mut()).await {
            return result;
        }
        let rest = left.saturating_sub(silence);
        if !rest.is_zero() {
            tell(&format!("waiting for {} ...", self.what()));
            if let Ok(result) = tokio::time::timeout(rest, work).await {
                return result;
            }
        }
        Err(Failure::Unreachable(in_vain(&self.what(), limit)))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    static TOLD: AtomicU32 = AtomicU32::new(0);

    #[tokio::test(start_paused = true)]
    async fn a_slow_service_is_named_after_two_seconds_and_given_up_at_the_limit() {
        let tell = |what: &str| {
            assert_eq!(what, "waiting for the service over the session bus ...");
            TOLD.fetch_add(1, Ordering::Relaxed);
        };
        let limit = Duration::from_secs(25);
        let patience = Patience { limit, tell, complain: |_| {} };
        let waiting = Waiting::default();
        waiting.on("the service over the session bus");
        let after = |seconds| async move {
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            Ok(seconds)
        };

        assert_eq!(waiting.within(patience, limit, after(1)).await.unwrap(), 1);
        assert_eq!(TOLD.load(Ordering::Relaxed), 0);
        assert_eq!(waiting.within(patience, limit, after(24)).await.unwrap(), 24);
        assert_eq!(TOLD.load(Ordering::Relaxed), 1);

        let start = tokio::time::Instant::now();
        let failure = waiting.within(patience, limit, after(26)).await.unwrap_err();
        assert_eq!(start.elapsed(), Duration::from_secs(25));
        assert!(matches!(&failure, Failure::Unreachable(why)
            if why.starts_with("the service over the session bus did not answer within 25 s")));
    }
}
