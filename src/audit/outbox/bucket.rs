//! The pace.

use std::time::{Duration, Instant};

/// Events per second; under journald's limit on a machine with some free disk.
const RATE: f64 = 800.0;
/// The rate never falls below this: journald's limit is 10,000 in 30 s at the least.
const SLOWEST: f64 = 150.0;
/// The rate where nothing can be read back.
const BLIND_RATE: f64 = 250.0;

/// A token bucket.
#[derive(Debug)]
pub(super) struct Bucket {
    rate: f64,
    most: f64,
    tokens: f64,
    filled: Instant,
}

impl Bucket {
    /// The pace where events are read back.
    pub(super) fn new() -> Self {
        Self::with(RATE)
    }

    /// The pace where they are not.
    pub(super) fn blind() -> Self {
        Self::with(BLIND_RATE)
    }

    fn with(rate: f64) -> Self {
        let most = rate * 4.0;
        Self { rate, most, tokens: most, filled: Instant::now() }
    }

    /// Takes a token, or tells when there will be some.
    pub(super) fn take(&mut self) -> Result<(), Duration> {
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

    /// Something was dropped.
    pub(super) fn slower(&mut self) {
        self.rate = (self.rate / 2.0).max(SLOWEST);
        self.tokens = self.tokens.min(self.rate);
    }

    /// Nothing was dropped.
    pub(super) fn faster(&mut self) {
        self.rate = (self.rate * 1.1).min(RATE);
    }
}
