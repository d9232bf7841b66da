//! How long something takes, counted by how long it took.

use std::time::Duration;

/// The upper bounds of the times that are counted together, in seconds: from a grant without a disk to a disk that hangs.
const BOUNDS: [f64; 18] = [
    0.000_01, 0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025,
    0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0,
];

/// A histogram of times. The bounds are the same for all.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Histogram {
    sum: f64,
    /// One for each bound, and the last for what is longer.
    counts: [u64; BOUNDS.len() + 1],
}

impl Histogram {
    /// Counts one time.
    pub fn observe(&mut self, time: Duration) {
        let seconds = time.as_secs_f64();
        self.sum += seconds;
        let at = BOUNDS.iter().position(|bound| seconds <= *bound).unwrap_or(BOUNDS.len());
        self.counts[at] += 1;
    }

    /// How many times were counted.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// All of them together, in seconds.
    pub fn sum(&self) -> f64 {
        self.sum
    }

    /// Each bound in seconds, and how many times are within it, but not within the one before. The last has no bound.
    pub fn buckets(&self) -> [(f64, u64); BOUNDS.len() + 1] {
        let bound = |at| BOUNDS.get(at).copied().unwrap_or(f64::INFINITY);
        std::array::from_fn(|at| (bound(at), self.counts[at]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_counted_under_the_first_bound_that_it_does_not_exceed() {
        let mut histogram = Histogram::default();
        for micros in [10, 11, 1_000, 60_000_000] {
            histogram.observe(Duration::from_micros(micros));
        }
        let counted: Vec<_> = histogram.buckets().into_iter().filter(|(_, n)| *n > 0).collect();
        assert_eq!(counted, [(0.000_01, 1), (0.000_025, 1), (0.001, 1), (f64::INFINITY, 1)]);
        assert_eq!(histogram.count(), 4);
        assert!((histogram.sum() - 60.001_021).abs() < 1e-9, "{}", histogram.sum());
    }

    #[test]
    fn the_bounds_rise() {
        assert!(BOUNDS.is_sorted_by(|low, high| low < high));
    }
}
