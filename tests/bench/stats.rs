//! Medians, and rounds that take turns.

use std::time::{Duration, Instant};

/// The value that so many of a hundred do not exceed.
pub fn percentile(values: &[f64], percent: usize) -> f64 {
    let mut values = values.to_vec();
    values.sort_unstable_by(f64::total_cmp);
    values[(values.len() * percent / 100).min(values.len() - 1)]
}

/// The one in the middle.
pub fn median(values: &[f64]) -> f64 {
    percentile(values, 50)
}

/// Milliseconds.
pub fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// How long it takes, with what it gives.
pub async fn timed<T>(work: impl Future<Output = T>) -> (Duration, T) {
    let start = Instant::now();
    let result = work.await;
    (start.elapsed(), result)
}

/// Takes turns, the floor first; the median of each.
pub async fn in_turn(
    rounds: usize,
    mut floor: impl AsyncFnMut() -> f64,
    mut ours: impl AsyncFnMut() -> f64,
) -> (f64, f64) {
    let (mut floors, mut values) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        floors.push(floor().await);
        values.push(ours().await);
    }
    (median(&floors), median(&values))
}
