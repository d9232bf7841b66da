//! The rate at which events are sent.

use std::time::{Duration, Instant};

/// The normal rate, in events per second: below journald's limit on a machine with some free disk space.
const RATE: f64 = 800.0;
/// The lowest rate: journald's limit is at least 10,000 events in 30 s.
const SLOWEST: f64 = 150.0;
/// The rate if events cannot be read back.
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
    /// A bucket for events that are read back.
    pub(super) fn new() -> Self {
        Self::with(RATE)
    }

    /// A bucket for events that cannot be read back.
    pub(super) fn blind() -> Self {
        Self::with(BLIND_RATE)
    }

    fn with(rate: f64) -> Self {
        let most = rate * 4.0;
        Self { rate, most, tokens: most, filled: Instant::now() }
    }

    /// Takes a token, or returns how long to wait for more.
    pub(super) fn take(&mut self) -> Result<(), Duration> {
        let now = Instant::now();
        let filled = self.rate * (now - self.filled).as_secs_f64();
        self.tokens = (self.tokens + filled).min(self.most);
        self.filled = now;
        if self.tokens >= 1.0 {
            self.tokens -= 1.0;
            Ok(())
        } else {
            // Long enough for several tokens, so that the thread sleeps in between.
            Err(Duration::from_millis(100))
        }
    }

    /// Lowers the rate, after events were dropped.
    pub(super) fn slower(&mut self) {
        self.rate = (self.rate / 2.0).max(SLOWEST);
        self.tokens = self.tokens.min(self.rate);
    }

    /// Raises the rate, when no event was dropped.
    pub(super) fn faster(&mut self) {
        self.rate = (self.rate * 1.1).min(RATE);
    }
}
