//! When the leases are listed again although no change was announced: nothing announces that a program starts or
//! stops to listen, and leases get older.
//!
//! That is likely soon after a change, and of interest while somebody is there. So the time to the next list grows
//! from a second to a minute, and begins again with each change and each key. Without leases there is none: it
//! would only keep the service from ending.

use std::time::{Duration, Instant};

const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(super) struct Pace {
    last: Instant,
    interval: Duration,
    is_asked: bool,
    has_leases: bool,
}

impl Pace {
    /// After the first list.
    pub(super) fn new(now: Instant, has_leases: bool) -> Self {
        Self { last: now, interval: SHORTEST, is_asked: false, has_leases }
    }

    /// The time until the leases are to be listed; `None` if they are not.
    pub(super) fn left(&self, now: Instant) -> Option<Duration> {
        let is_wanted = self.has_leases && !self.is_asked;
        is_wanted.then(|| (self.last + self.interval).saturating_duration_since(now))
    }

    /// Whether it is time to ask for a list. If so, it is asked for.
    pub(super) fn asks(&mut self, now: Instant) -> bool {
        let is_due = self.left(now).is_some_and(|left| left.is_zero());
        self.is_asked |= is_due;
        is_due
    }

    /// A list has arrived.
    pub(super) fn listed(&mut self, now: Instant, has_leases: bool, is_changed: bool) {
        let interval = if is_changed { SHORTEST } else { (self.interval * 2).min(LONGEST) };
        *self = Self { last: now, interval, is_asked: false, has_leases };
    }

    /// A key was pressed.
    pub(super) fn hurry(&mut self) {
        self.interval = SHORTEST;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_become_rare_while_nothing_happens() {
        let mut now = Instant::now();
        let mut pace = Pace::new(now, true);
        let mut pauses = Vec::new();
        for _ in 0..9 {
            let pause = pace.left(now).unwrap();
            assert!(!pace.asks(now));
            now += pause;
            assert!(pace.asks(now));
            assert_eq!(pace.left(now), None, "it is asked for once");
            pace.listed(now, true, false);
            pauses.push(pause.as_secs());
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        pace.listed(now, true, true);
        assert_eq!(pace.left(now), Some(SHORTEST));
    }

    #[test]
    fn a_key_shows_what_is_a_second_old_anew() {
        let now = Instant::now();
        let mut pace = Pace::new(now, true);
        (0..9).for_each(|_| pace.listed(now, true, false));
        let later = now + Duration::from_secs(30);
        assert_eq!(pace.left(later), Some(Duration::from_secs(30)));
        pace.hurry();
        assert_eq!(pace.left(later), Some(Duration::ZERO));
        assert_eq!(pace.left(now), Some(SHORTEST));
    }

    #[test]
    fn without_leases_the_service_is_left_alone() {
        let now = Instant::now();
        let mut pace = Pace::new(now, false);
        pace.hurry();
        assert_eq!(pace.left(now + LONGEST), None);
        pace.listed(now, true, true);
        assert!(pace.left(now).is_some());
    }
}
