use std::sync::Arc;

use super::{Filter, Problems, port, whole};
use crate::{error::Error, lease::Lease, port::Port, value::Value};

/// The keys of a list: `limit`, where the part begins, and the filter of the rest.
fn parse<K: AsRef<str>, T>(
    keys: impl IntoIterator<Item = (K, Value)>,
    (start, read): (&str, impl Fn(&Value) -> Result<T, Error>),
    of_filter: impl FnOnce(Vec<(K, Value)>) -> Result<Filter, Error>,
) -> Result<(Filter, Option<usize>, Option<T>), Error> {
    let mut problems = Problems::default();
    let (mut limit, mut begins, mut rest) = (None, None, Vec::new());
    for (key, value) in keys {
        match key.as_ref() {
            "limit" => limit = problems.note(whole("limit", &value, u32::MAX.into())),
            key if key == start => begins = problems.note(read(&value)),
            _ => rest.push((key, value)),
        }
    }
    let filter = problems.note(of_filter(rest)).unwrap_or_default();
    let limit = limit.and_then(|limit| limit.try_into().ok());
    problems.or((filter, limit, begins))
}

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
        let after = ("after", |value: &_| port("after", value));
        let (filter, limit, after) = parse(keys, after, Filter::parse)?;
        Ok(Self { filter, limit, after })
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

/// Which remembered ports to list, and how many at once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryListing {
    /// Which of them.
    pub filter: Filter,
    /// The maximum number of ports in one answer. There may be more: what one change has granted is never split.
    pub limit: Option<usize>,
    /// Only ports that were last granted by an earlier change than this: before the last one of the previous answer.
    pub before: Option<u64>,
}

impl MemoryListing {
    /// Parses keys from a door; the error names every invalid key.
    pub fn parse<K: AsRef<str>>(keys: impl IntoIterator<Item = (K, Value)>) -> Result<Self, Error> {
        let before = ("before", |value: &_| whole("before", value, u64::MAX));
        let (filter, limit, before) = parse(keys, before, Filter::of_memory)?;
        Ok(Self { filter, limit, before })
    }

    /// The requested page of what is remembered, newest first; `age` is the number of the change.
    pub fn page<T>(&self, newest: impl Iterator<Item = T>, age: impl Fn(&T) -> u64) -> Vec<T> {
        let mut page: Vec<T> = Vec::new();
        for known in newest {
            if self.before.is_some_and(|before| age(&known) >= before) {
                continue;
            }
            let is_full = self.limit.is_some_and(|limit| page.len() >= limit);
            if is_full && page.last().map(&age) != Some(age(&known)) {
                break;
            }
            page.push(known);
        }
        page
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_change_has_granted_is_never_split() {
        let ages = [9, 7, 7, 7, 2, 1];
        let page = |limit, before| {
            let listing = MemoryListing { limit, before, ..MemoryListing::default() };
            listing.page(ages.into_iter(), |age| *age)
        };
        assert_eq!(page(None, None), ages);
        assert_eq!(page(Some(1), None), [9]);
        assert_eq!(page(Some(2), None), [9, 7, 7, 7]);
        assert_eq!(page(Some(2), Some(7)), [2, 1]);
        assert_eq!(page(Some(2), Some(1)), [0; 0]);
    }
}
