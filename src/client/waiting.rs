//! How long a command waits for the service, and what it says meanwhile.

use std::{
    borrow::Cow,
    sync::{Mutex, OnceLock, PoisonError},
    time::Duration,
};

use super::Failure;

/// After this long a command says what it waits for.
const SILENCE: Duration = Duration::from_secs(2);

/// How patient a command is.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// How long a call may take, from looking for a service to its answer.
    pub limit: Duration,
    /// Tells the user what is waited for, once for each call.
    pub tell: fn(&str),
}

impl Patience {
    /// As long as clients of D-Bus wait by default.
    pub const LIMIT: Duration = Duration::from_secs(25);
}

static PATIENCE: OnceLock<Patience> = OnceLock::new();

/// Sets how patient this process is; only the first time counts.
pub fn set_patience(patience: Patience) {
    let _ = PATIENCE.set(patience);
}

/// What a call is waiting for at the moment, for people.
#[derive(Debug)]
pub(super) struct Waiting(Mutex<Cow<'static, str>>);

impl Default for Waiting {
    fn default() -> Self {
        Self(Mutex::new("the service".into()))
    }
}

impl Waiting {
    /// From now on it waits for this.
    pub(super) fn on(&self, what: impl Into<Cow<'static, str>>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = what.into();
    }

    fn what(&self) -> Cow<'static, str> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Does the work within this process's patience.
    pub(super) async fn patiently<T>(
        &self,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let default = Patience { limit: Patience::LIMIT, tell: |_| {} };
        self.within(*PATIENCE.get().unwrap_or(&default), work).await
    }

    async fn within<T>(
        &self,
        Patience { limit, tell }: Patience,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let mut work = std::pin::pin!(work);
        let silence = SILENCE.min(limit);
        if let Ok(result) = tokio::time::timeout(silence, work.as_mut()).await {
            return result;
        }
        let rest = limit.saturating_sub(silence);
        if !rest.is_zero() {
            tell(&format!("waiting for {} ...", self.what()));
            if let Ok(result) = tokio::time::timeout(rest, work).await {
                return result;
            }
        }
        Err(Failure::Unreachable(format!(
            "{} did not answer within {} s; `styxy doctor` looks for the cause, and --timeout waits longer",
            self.what(),
            limit.as_secs()
        )))
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
        let patience = Patience { limit: Duration::from_secs(25), tell };
        let waiting = Waiting::default();
        waiting.on("the service over the session bus");
        let after = |seconds| async move {
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            Ok(seconds)
        };

        assert_eq!(waiting.within(patience, after(1)).await.unwrap(), 1);
        assert_eq!(TOLD.load(Ordering::Relaxed), 0);
        assert_eq!(waiting.within(patience, after(24)).await.unwrap(), 24);
        assert_eq!(TOLD.load(Ordering::Relaxed), 1);

        let start = tokio::time::Instant::now();
        let failure = waiting.within(patience, after(26)).await.unwrap_err();
        assert_eq!(start.elapsed(), Duration::from_secs(25));
        assert!(matches!(&failure, Failure::Unreachable(why)
            if why.starts_with("the service over the session bus did not answer within 25 s")));
    }
}
