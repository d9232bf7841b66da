//! Events that the service knows of and the journal does not have yet: after a burst it takes a while.

use std::time::Duration;

use serde_json::Value as Json;

use super::{entry::Entry, query::Query};
use crate::{
    cli::{block_on, counted, status},
    client::{self, Call},
};

/// How long a service may take to say so. One that runs does so within a millisecond.
const PATIENCE: Duration = Duration::from_millis(200);

/// The events that are not known to have arrived.
pub(super) struct Underway {
    status: Json,
    /// The number of the last event, and how many up to it.
    seq: u64,
    pending: u64,
}

impl Underway {
    /// Asks the service before the journal is, so that what arrives in between is told rather than left out. None is
    /// started for it.
    pub(super) fn ask() -> Option<Self> {
        let status = block_on(client::glance(&Call::Status, PATIENCE)).ok()??;
        let number = |key: &str| status[key].as_u64();
        let (seq, pending) = (number("seq")?, number("audit_pending")?);
        Some(Self { status, seq, pending })
    }

    /// What to say of those that are not among the entries that were found.
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
        // Some may be others than those that were asked for, or more of them.
        let is_narrow = query.is_narrow() || last.is_some_and(|last| (last as u64) < self.pending);
        Some(match (is_narrow, missing) {
            (true, _) => format!("up to {events} may still be on the way to the journal"),
            (false, 1) => format!("{events} is still on its way to the journal"),
            (false, _) => format!("{events} are still on their way to the journal"),
        })
    }
}
