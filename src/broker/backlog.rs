//! The limit of events that wait for the journal. None is ever dropped, so the log must not grow without bound.

use crate::{
    audit::outbox::Arrival,
    error::{Error, ErrorKind},
};

/// The limit while the journal accepts nothing.
const MOST_STUCK: u64 = 100_000;
/// The limit while the journal accepts events, though slower than they are made: large enough for a burst, and low
/// enough that a client that never stops does not fill the disk.
const MOST: u64 = 1_000_000;

/// Refuses a change that adds an event while too many wait.
pub(super) fn check(waiting: u64, arrival: Arrival) -> Result<(), Error> {
    let most = if arrival == Arrival::Waiting { MOST_STUCK } else { MOST };
    if waiting < most {
        return Ok(());
    }
    let message = format!(
        "{waiting} events wait for the journal, and nothing is granted before it takes them"
    );
    let hint = remedy(arrival).unwrap_or("it takes them as fast as it can: ask again later");
    Err(Error::new(ErrorKind::LimitExceeded, message).suggest(hint))
}

/// What to do to have events confirmed; `None` where they are.
pub(super) fn remedy(arrival: Arrival) -> Option<&'static str> {
    match arrival {
        Arrival::Confirmed => None,
        Arrival::Waiting => Some(
            "free some disk space, start systemd-journald, or set another Storage= than none in journald.conf(5); \
             nothing more is granted when 100,000 events wait",
        ),
        Arrival::Unconfirmed => Some(
            "Storage=persistent in journald.conf(5), or the group systemd-journal, lets the user read the journal",
        ),
        Arrival::NoJournal => Some("events are confirmed where systemd-journald runs"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hundred_thousand_events_may_wait_for_a_journal_that_takes_nothing() {
        assert!(check(99_999, Arrival::Waiting).is_ok());
        let refused = check(100_000, Arrival::Waiting).unwrap_err();
        assert_eq!(refused.kind, ErrorKind::LimitExceeded);
        assert!(refused.message.starts_with("100000 events wait"), "{}", refused.message);
        assert!(refused.suggestions.iter().any(|hint| hint.contains("Storage=")), "{refused:?}");
        assert!(remedy(Arrival::Waiting).unwrap().contains("100,000"));
    }

    #[test]
    fn a_million_events_may_wait_for_a_journal_that_is_slow() {
        for arrival in [Arrival::Confirmed, Arrival::Unconfirmed, Arrival::NoJournal] {
            assert!(check(999_999, arrival).is_ok());
            assert_eq!(check(1_000_000, arrival).unwrap_err().kind, ErrorKind::LimitExceeded);
        }
    }
}
