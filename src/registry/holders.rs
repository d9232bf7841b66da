//! Holders: callers that share a lease join and leave, and what ends with an owner.

use std::{collections::HashSet, iter::once, sync::Arc};

use super::{Registry, hold::guarded_again};
use crate::{
    change::Change,
    error::{Error, ErrorKind},
    lease::{EndReason, Holder, HolderId, Instance, InstanceId, Lease, Owner},
    request::{Filter, LONGEST_TTL},
    time::Moment,
};

/// The maximum number of holders of one lease.
const MOST_HOLDERS: usize = 1_000;

impl Registry {
    /// The changes when an owner is gone: its leases end, and its instances with theirs.
    pub fn ends_with_owner(&self, owner: &Owner) -> Vec<Change> {
        self.ends(Some(owner), &self.instances_of(owner), "its process ended")
    }

    /// The changes when an instance is gone: the leases that were granted in its name end.
    pub fn ends_with_instance(&self, instance_id: &InstanceId, reason: &str) -> Vec<Change> {
        let instance = self.instance(instance_id).map(Arc::clone);
        self.ends(None, &instance.into_iter().collect::<Vec<_>>(), reason)
    }

    fn ends(
        &self,
        owner: Option<&Owner>,
        instances: &[Arc<Instance>],
        reason: &str,
    ) -> Vec<Change> {
        // The result must not depend on the order in which holders leave.
        let gone = |holder: &Holder| {
            let is_its = |instance: &Arc<Instance>| {
                holder.instance_id.as_ref() == Some(&instance.instance_id)
            };
            Some(&holder.owner) == owner || instances.iter().any(is_its)
        };
        let owned = owner.map(|owner| self.owned_by(owner)).unwrap_or_default();
        let named = instances.iter().flat_map(|instance| {
            let instance_id = Some(instance.instance_id.clone());
            self.list(&Filter { instance_id, ..Filter::default() })
        });
        let owned = owned.into_iter().map(|lease| (lease, EndReason::OwnerGone));
        let named = named.map(|lease| (lease, EndReason::InstanceGone));
        let mut seen = HashSet::new();
        let leases = owned.chain(named).filter(|(lease, _)| seen.insert(lease.lease_id));
        let mut changes: Vec<_> =
            leases.map(|(lease, reason)| leave(&lease, gone, reason)).collect();
        changes.extend(instances.iter().map(|instance| Change::EndInstance {
            instance: Arc::clone(instance),
            reason: reason.to_owned(),
        }));
        changes
    }
}

/// The change when some holders of a lease are gone: the others keep it, or it ends.
pub fn leave(lease: &Arc<Lease>, gone: impl Fn(&Holder) -> bool, reason: EndReason) -> Change {
    match lease.held_by(lease.holders().filter(|holder| !gone(holder))) {
        Some(rest) => Change::Leave { lease: Arc::new(guarded_again(rest)), reason },
        None => Change::end(Arc::clone(lease), reason),
    }
}

/// The change when a holder releases its share; without an id, all holders do.
pub fn let_go(lease: &Arc<Lease>, holder: Option<HolderId>, reason: EndReason) -> Change {
    leave(lease, |held| holder.is_none() || held.id == holder, reason)
}

/// The lease with one holder more, and that holder's id. A caller that asks again keeps its id, and one whose share nothing
/// would end becomes no holder.
///
/// # Errors
///
/// [`ErrorKind::LimitExceeded`] if too many share it already.
pub fn shared(lease: &Lease, mut caller: Holder) -> Result<(Lease, Option<HolderId>), Error> {
    if !caller.holds() {
        return Ok((lease.clone(), None));
    }
    // The holders of an orphan are gone.
    let mut holders: Vec<_> = lease.holders().filter(|_| !lease.orphaned).collect();
    let is_named = |holder: &Holder| holder.id.is_some() && holder.id == caller.id;
    let before = holders.iter_mut().find(|holder| is_named(holder) || holder.is_same_as(&caller));
    let id = before.as_ref().and_then(|holder| holder.id).or(caller.id);
    caller.id = id;
    match before {
        Some(holder) => *holder = caller,
        None => holders.push(caller),
    }
    if holders.len() > MOST_HOLDERS {
        return Err(Error::new(
            ErrorKind::LimitExceeded,
            format!("{MOST_HOLDERS} callers share {} already", lease.service_type),
        )
        .suggest("ask without an owner to learn its port"));
    }
    let shared = lease.held_by(holders).unwrap_or_else(|| lease.clone());
    Ok((Lease { orphaned: false, ..shared }, id))
}

/// The lease with a restarted time limit: that of this holder, or without an id of the only holder that has one. Without
/// `ttl`, in seconds, it is as long as before. The second value is the lease as that holder sees it.
///
/// # Errors
///
/// [`ErrorKind::InvalidArgument`] if that is no time limit, or if it is not clear whose it would be;
/// [`ErrorKind::NoTimeLimit`] if there was none, so that it would end what was to last.
pub fn renewed(
    lease: &Lease,
    named: Option<HolderId>,
    ttl: Option<u64>,
    now: Moment,
) -> Result<(Lease, Lease), Error> {
    if ttl.is_some_and(|ttl| !(1..=LONGEST_TTL).contains(&ttl)) {
        let message = format!("ttl must be a whole number of seconds from 1 to {LONGEST_TTL}");
        return Err(Error::invalid(message));
    }
    // The owner of an orphan is gone, so from now on only the time limit counts.
    let mut holders: Vec<_> = lease
        .holders()
        .map(|holder| if lease.orphaned { Holder { owner: Owner::None, ..holder } } else { holder })
        .collect();
    let count = holders.len();
    let is_meant = |holder: &Holder| match named {
        Some(_) => holder.id == named,
        None => count == 1 || holder.ttl.is_some(),
    };
    if named.is_none() && !lease.orphaned && holders.iter().all(|holder| holder.ttl.is_none()) {
        return Err(no_time_limit(lease));
    }
    let mut meant = holders.iter_mut().filter(|holder| is_meant(holder));
    let (Some(holder), None) = (meant.next(), meant.next()) else {
        return Err(Error::invalid(format!(
            "{count} callers share {}, each with a time limit of its own or none",
            lease.service_type
        ))
        .suggest("renew with the holder_id that the allocation has answered"));
    };
    // Without a time limit an orphan ends with its listener, so that one can only make it last longer.
    let ttl = match holder.ttl {
        None if !lease.orphaned => None,
        before => ttl.or(before),
    };
    let ttl = ttl.ok_or_else(|| no_time_limit(lease))?;
    (holder.ttl, holder.deadline) = (Some(ttl), Some(now.plus_seconds(ttl)));
    let first = holder.clone();
    let lease = Lease { orphaned: false, ..lease.clone() };
    let seen = lease.held_by(once(first).chain(lease.sharers.iter().cloned()));
    let renewed = lease.held_by(holders);
    Ok((renewed.unwrap_or_else(|| lease.clone()), seen.unwrap_or(lease)))
}

fn no_time_limit(lease: &Lease) -> Error {
    let port = lease.port;
    let remedy = if lease.orphaned {
        "give one in seconds (`--ttl`)".to_owned()
    } else {
        format!("to end the lease, release it (`styxy release {port}`)")
    };
    let message = format!("the lease of port {port} has no time limit that could be restarted");
    Error::new(ErrorKind::NoTimeLimit, message).suggest(remedy)
}

/// The lease when its owner is gone and something listens on its port.
pub fn orphaned(lease: &Lease) -> Lease {
    Lease { orphaned: true, sharers: Vec::new(), ..guarded_again(lease.clone()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        lease::LeaseId, port::Port, registry::Rules, service_type::ServiceTypes, time::Timestamp,
    };

    fn process(pid: u32) -> Owner {
        Owner::Process { pid, start: 1 }
    }

    fn holder(owner: Owner, instance: Option<&str>) -> Holder {
        let instance_id = instance.map(|name| name.parse().unwrap());
        Holder { id: None, owner, instance_id, ttl: None, deadline: None }
    }

    /// A registry with an instance `agent` that is process 1, and one lease with these holders.
    fn registry(holders: Vec<Holder>) -> Registry {
        let mut registry = Registry::new(Rules::of(ServiceTypes::default()));
        let lease = Lease::new(LeaseId::from_number(1), Port::MAX, "ai".parse().unwrap());
        registry.insert(Arc::new(lease.held_by(holders).unwrap()));
        registry.insert_instance(Arc::new(Instance {
            instance_id: "agent".parse().unwrap(),
            owner: process(1),
            heartbeat: None,
            since: Timestamp(0),
            working_directory: None,
            metadata: None,
        }));
        registry
    }

    #[test]
    fn a_lease_that_an_instance_owns_and_asked_for_ends_once() {
        let registry = registry(vec![holder(process(1), Some("agent"))]);
        let changes = registry.ends_with_owner(&process(1));
        assert!(
            matches!(
                &changes[..],
                [Change::Expire { reason: EndReason::OwnerGone, .. }, Change::EndInstance { .. }]
            ),
            "{changes:?}"
        );
    }

    #[test]
    fn nobody_holds_a_lease_by_an_owner_or_an_instance_that_has_ended() {
        let mut registry = registry(vec![
            holder(process(1), None),
            holder(process(2), Some("agent")),
            holder(process(3), None),
        ]);
        for change in registry.ends_with_owner(&process(1)) {
            registry.apply(1, Timestamp(0), &change);
        }
        let lease = registry.get(LeaseId::from_number(1)).unwrap();
        let holders: Vec<_> = lease.holders().map(|holder| holder.owner).collect();
        assert_eq!(holders, [process(3)]);
        assert!(!registry.needs(&process(1)) && !registry.needs(&process(2)));
    }
}
