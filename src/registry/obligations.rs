//! What a live lease needs from the service.

use std::collections::HashSet;

use crate::{
    lease::{Lease, Owner, Use},
    service_type::Hold,
    time::Moment,
};

/// The time that ends a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// The earliest time limit of its holders.
    At(Moment),
    /// Nothing else ends it, so it ends when nothing has listened on its port for the configured time.
    Unused,
    /// It is a claim that a server may be about to use; after this time, it loses its guard.
    Claimed,
}

/// What a live lease needs from the service. It follows from the lease alone, so that a changed lease, one from the state
/// and one from another service are treated alike.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Obligations<'a> {
    /// The owners to watch. An orphan waits for the end of its listener instead.
    pub owners: HashSet<&'a Owner>,
    /// The time limit, if there is one.
    pub limit: Option<Limit>,
    /// Whether the port needs a guard.
    pub guard: bool,
}

impl<'a> Obligations<'a> {
    /// Those of this lease; none without a lease.
    pub fn of(lease: Option<&'a Lease>) -> Self {
        let Some(lease) = lease else { return Self::default() };
        let guard = lease.hold_now() == Hold::Guard;
        if lease.orphaned {
            return Self { guard, ..Self::default() };
        }
        let limit = if let Some(deadline) = lease.nearest_deadline() {
            Some(Limit::At(deadline))
        } else if lease.is_soft() && lease.used == Use::None {
            Some(Limit::Claimed)
        } else {
            (!lease.is_owned()).then_some(Limit::Unused)
        };
        Self { owners: lease.owners().collect(), limit, guard }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        lease::{Holder, LeaseId},
        port::Port,
    };

    fn process(pid: u32) -> Owner {
        Owner::Process { pid, start: 1 }
    }

    fn holder(owner: Owner, deadline: Option<u64>) -> Holder {
        Holder { id: None, owner, instance_id: None, ttl: deadline, deadline: deadline.map(Moment) }
    }

    fn held_by(holders: Vec<Holder>) -> Lease {
        let lease = Lease {
            hold: Hold::Guard,
            ..Lease::new(LeaseId::from_number(1), Port::MAX, "ai".parse().unwrap())
        };
        lease.held_by(holders).unwrap()
    }

    #[test]
    fn a_lease_always_ends_by_an_owner_or_by_time() {
        let (one, two) = (process(1), process(2));
        for (holders, owners, limit) in [
            (vec![holder(Owner::None, None)], vec![], Some(Limit::Unused)),
            (vec![holder(one.clone(), None)], vec![&one], None),
            (vec![holder(Owner::None, Some(9))], vec![], Some(Limit::At(Moment(9)))),
            (
                vec![holder(one.clone(), Some(9)), holder(two.clone(), Some(7))],
                vec![&one, &two],
                Some(Limit::At(Moment(7))),
            ),
            (vec![holder(Owner::None, None), holder(one.clone(), None)], vec![&one], None),
        ] {
            let lease = held_by(holders);
            let found = Obligations::of(Some(&lease));
            assert_eq!(found.owners, owners.into_iter().collect(), "{lease:?}");
            assert_eq!(found.limit, limit, "{lease:?}");
            assert!(found.guard);
        }
    }

    #[test]
    fn an_orphan_waits_for_no_owner_and_no_time_and_keeps_its_guard() {
        let lease = held_by(vec![holder(process(1), Some(9))]);
        let orphan = Lease { orphaned: true, ..lease };
        let expected = Obligations { guard: true, ..Obligations::default() };
        assert_eq!(Obligations::of(Some(&orphan)), expected);
        assert_eq!(Obligations::of(None), Obligations::default());
    }
}
