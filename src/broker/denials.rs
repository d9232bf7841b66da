//! Repeated refusals: the first is logged at once, the others of the same minute are counted and logged
//! as one, so that a program that keeps asking fills neither the disk nor the journal.

use std::{collections::HashMap, sync::Arc};

use super::{Broker, Inner};
use crate::{
    change::{Change, Denial},
    kernel::clock,
    lease::{Client, Transport},
    owners::deadlines::Due,
    port::Port,
    service_type::ServiceTypeName,
    time::Moment,
};

/// How long refusals are counted, in seconds.
const SECONDS: u64 = 60;
/// How many kinds are counted at once.
const MOST: usize = 1_000;

/// The refusals of the last minute.
#[derive(Debug, Default)]
pub(super) struct Denials(HashMap<Kind, Repeated>);

/// Refusals with the same key are counted together.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Kind {
    transport: Transport,
    uid: Option<u32>,
    comm: Option<Arc<str>>,
    service_type: Option<ServiceTypeName>,
    port: Option<Port>,
    reason: String,
}

#[derive(Debug)]
struct Repeated {
    until: Moment,
    /// The last one, with the count of those since the first, which was logged.
    last: Option<(Denial, Client)>,
}

impl Denials {
    /// Counts a refusal. Returns it if it must be logged now.
    pub(super) fn take(&mut self, denial: Denial, client: &Client, now: Moment) -> Option<Denial> {
        let kind = Kind {
            transport: client.transport,
            uid: client.uid,
            comm: client.comm.clone(),
            service_type: denial.service_type.clone(),
            port: denial.port,
            reason: denial.reason.clone(),
        };
        if let Some(known) = self.0.get_mut(&kind) {
            let count = known.last.as_ref().map_or(0, |(last, _)| last.count);
            known.last =
                Some((Denial { count: count.saturating_add(1), ..denial }, client.clone()));
            return None;
        }
        self.0.insert(kind, Repeated { until: now.plus_seconds(SECONDS), last: None });
        Some(denial)
    }

    /// Whether there are too many kinds to count them for a whole minute.
    pub(super) fn is_full(&self) -> bool {
        self.0.len() >= MOST
    }

    /// Removes and returns the counts whose minute has ended by then.
    pub(super) fn over(&mut self, now: Moment) -> Vec<(Denial, Client)> {
        let over = self.0.extract_if(|_, repeated| repeated.until <= now);
        over.filter_map(|(_, repeated)| repeated.last).collect()
    }

    /// When the next minute ends.
    pub(super) fn next(&self) -> Option<Moment> {
        self.0.values().map(|repeated| repeated.until).min()
    }
}

impl Broker {
    /// Logs a refusal with this code. If that fails, the refusal stands all the same.
    pub(super) fn denied(&self, denial: Denial, code: &'static str, client: &Client) {
        let mut inner = self.lock();
        let inner = &mut *inner;
        inner.counts.refused(code);
        if inner.denials.is_full() {
            self.tell_denials(inner, Moment(u64::MAX));
        }
        if let Some(denial) = inner.denials.take(denial, client, clock::now()) {
            let _ = self.commit(inner, vec![Change::Deny(denial)], Some(client));
        }
        if let Some(next) = inner.denials.next() {
            self.deadlines.add_once(next, Due::Denials);
        }
    }

    /// Logs the refusals that were counted until then.
    pub(super) fn tell_denials(&self, inner: &mut Inner, until: Moment) {
        for (denial, client) in inner.denials.over(until) {
            let _ = self.commit(inner, vec![Change::Deny(denial)], Some(&client));
        }
        if let Some(next) = inner.denials.next() {
            self.deadlines.add_once(next, Due::Denials);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::port::Protocol;

    fn denial(port: u64) -> Denial {
        Denial {
            service_type: "dev".parse().ok(),
            service_name: None,
            instance_id: None,
            project_path: None,
            port: Port::new(port),
            protocol: Protocol::Tcp,
            reason: "PortInUse".to_owned(),
            count: 1,
        }
    }

    fn client(comm: &str) -> Client {
        let comm = Some(comm.into());
        Client { transport: Transport::Http, pid: Some(1), uid: Some(1000), comm, parent: None }
    }

    #[test]
    fn refusals_that_are_alike_are_told_once_and_then_counted() {
        let mut denials = Denials::default();
        let at = |seconds| Moment(0).plus_seconds(seconds);
        assert_eq!(denials.take(denial(3000), &client("node"), at(0)), Some(denial(3000)));
        for second in 1..50 {
            assert_eq!(denials.take(denial(3000), &client("node"), at(second)), None);
        }
        // Refusals of another kind are counted apart.
        assert!(denials.take(denial(3001), &client("node"), at(50)).is_some());
        assert!(denials.take(denial(3000), &client("make"), at(50)).is_some());
        assert_eq!(denials.next(), Some(at(60)));
        assert!(denials.over(at(59)).is_empty());
        let told = Denial { count: 49, ..denial(3000) };
        assert_eq!(denials.over(at(60)), [(told, client("node"))]);
        assert_eq!(denials.next(), Some(at(110)));
        assert!(denials.over(at(110)).is_empty(), "nothing was counted");
        assert!(denials.take(denial(3000), &client("node"), at(110)).is_some());
    }
}
