//! Events that the service has recorded and the journal does not have yet: after a burst this takes a while.

use std::time::Duration;

use serde_json::Value as Json;

use crate::{
    audit::past::{Entry, Query},
    cli::{block_on, counted, status},
    client::{self, Call},
};

/// How long the service may take to answer. A running one answers within a millisecond.
const PATIENCE: Duration = Duration::from_millis(200);

/// The events that are not known to have reached the journal.
pub(super) struct Underway {
    status: Json,
    /// The number of the last event, and how many up to it are pending.
    seq: u64,
    pending: u64,
}

impl Underway {
    /// Queries the service; does not start one. Call this before reading the journal, so that an event that
    /// arrives in between is reported as missing rather than overlooked.
    pub(super) fn ask() -> Option<Self> {
        let status = block_on(client::glance(&Call::Status, PATIENCE)).ok()??;
        let number = |key: &str| status[key].as_u64();
        let (seq, pending) = (number("seq")?, number("audit_pending")?);
        Some(Self { status, seq, pending })
    }

    /// A message about the pending events that are not among those found; `None` if there are none.
    pub(super) fn missing(
        &self,
        found: &[Entry],
        query: &Query,
        last: Option<usize>,
    ) -> Option<String> {
        let is_pending = |seq: u64| seq <= self.seq && seq > self.seq.saturating_sub(self.pending);
        let here = found.iter().filter_map(Entry::seq).filter(|seq| is_pending(*seq)).count();
        let missing = self.pending.saturating_sub(here as u64);
        if missing == 0 {
            return None;
        }
        if self.status["audit_confirmed"] != true {
            return Some(status::unconfirmed(&self.status));
        }
        let events = counted(missing, "event");
        // Some may not match the query, or be beyond the requested number.
        let is_narrow = query.is_narrow() || last.is_some_and(|last| (last as u64) < self.pending);
        Some(match (is_narrow, missing) {
            (true, _) => format!("up to {events} may still be on the way to the journal"),
            (false, 1) => format!("{events} is still on its way to the journal"),
            (false, _) => format!("{events} are still on their way to the journal"),
        })
    }
}
