use std::sync::Arc;

use super::{Filter, Problems, port, whole};
use crate::{error::Error, lease::Lease, port::Port, value::Value};

/// Which leases are listed, and how many at once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// Which leases are meant.
    pub filter: Filter,
    /// The most leases of one answer. There may be one more: those of one port are never parted.
    pub limit: Option<usize>,
    /// Only leases of higher ports: those that follow the last one of the answer before, also if that one has ended
    /// in between.
    pub after: Option<Port>,
}

impl Listing {
    /// Reads what came through a door; the error names every wrong key.
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

    /// The part of the leases, which are sorted by port, that is wanted now.
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
