//! The clock that deadlines are counted with.

use nix::time::{ClockId, clock_gettime};

use crate::time::Moment;

/// The present moment of `CLOCK_MONOTONIC` (`clock_gettime(2)`): it stands still while the machine is
/// suspended, and a changed date does not touch it.
pub fn now() -> Moment {
    let time =
        clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap_or(nix::sys::time::TimeSpec::new(0, 0));
    let seconds = u64::try_from(time.tv_sec()).unwrap_or(0);
    let millis = u64::try_from(time.tv_nsec()).unwrap_or(0) / 1_000_000;
    Moment(seconds * 1_000 + millis)
}
