//! The clock for deadlines.

use std::time::{Duration, SystemTime};

use nix::time::{ClockId, clock_gettime};

use crate::time::Moment;

/// The current time of `CLOCK_MONOTONIC` (`clock_gettime(2)`), which stops while the machine is suspended, and
/// does not jump when the date is changed.
pub fn now() -> Moment {
    Moment(millis(ClockId::CLOCK_MONOTONIC))
}

/// How long the machine has been suspended since boot, in milliseconds: the difference between `CLOCK_BOOTTIME`
/// and `CLOCK_MONOTONIC`.
pub fn asleep() -> u64 {
    millis(ClockId::CLOCK_BOOTTIME).saturating_sub(millis(ClockId::CLOCK_MONOTONIC))
}

/// When the machine was booted, according to the current date.
pub fn boot() -> SystemTime {
    SystemTime::now() - Duration::from_millis(millis(ClockId::CLOCK_BOOTTIME))
}

fn millis(clock: ClockId) -> u64 {
    let time = clock_gettime(clock).unwrap_or(nix::sys::time::TimeSpec::new(0, 0));
    let seconds = u64::try_from(time.tv_sec()).unwrap_or(0);
    let millis = u64::try_from(time.tv_nsec()).unwrap_or(0) / 1_000_000;
    seconds * 1_000 + millis
}
