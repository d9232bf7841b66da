use std::sync::Arc;

use super::{Filter, Problems, port, whole};
use crate::{error::Error, lease::Lease, port::Port, value::Value};

/// Which leases to list, and how many at once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// Which leases.
    pub filter: Filter,
    /// The maximum number of leases in one answer. There may be one more: the leases of one port are never
    /// split.
    pub limit: Option<usize>,
    /// Only leases of higher ports: those after the last one of the previous answer, even if that one has ended
    /// since.
    pub after: Option<Port>,
}

impl Listing {
    /// Parses keys from a door; the error names every invalid key.
    pub fn parse<K: AsRef<str>>(keys: impl IntoIterator<Item = (K, Value)>) -> Result<Self, Error> {
        let mut problems = Problems::default();
        let mut listing = Self::default();
        let mut filter = Vec::new();
        for (key, value) in keys {
            match key.as_ref() {
                key @ "limit" => {
                    let limit = problems.note(whole(key, &value, u32::MAX.into()));
                    listing.limit = limit.and_then(|limit| usize::try_from(limit).ok());
                }
                key @ "after" => listing.after = problems.note(port(key, &value)),
                _ => filter.push((key, value)),
            }
        }
        listing.filter = problems.note(Filter::parse(filter)).unwrap_or_default();
        problems.or(listing)
    }

    /// The requested page of the leases, which are sorted by port.
    pub fn page(&self, mut leases: Vec<Arc<Lease>>) -> Vec<Arc<Lease>> {
        if let Some(after) = self.after {
            leases.drain(..leases.partition_point(|lease| lease.port <= after));
        }
        if let Some(last) = self.limit.and_then(|limit| leases.get(limit - 1)).map(|l| l.port) {
            leases.truncate(leases.partition_point(|lease| lease.port <= last));
        }
        leases
    }
}
