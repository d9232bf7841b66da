//! The effects of a change: what the service must start, and what it may stop.

use std::sync::Arc;

use super::{
    Registry,
    obligations::{Limit, Obligations},
};
use crate::{
    change::Change,
    lease::{Instance, InstanceId, Lease, LeaseId, Owner},
    service_type::Hold,
    time::Timestamp,
};

/// One effect of a change. They are carried out one by one, in their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Watch this owner.
    Watch(Owner),
    /// Stop watching it: no lease depends on it.
    Unwatch(Owner),
    /// Check the lease at this time, which replaces an earlier one; without a time, never.
    Limit(LeaseId, Option<Limit>),
    /// Guard the port of this lease.
    Guard(LeaseId),
    /// Guard the port of this lease, which its owner has kept bound.
    Reguard(Arc<Lease>),
    /// Drop the guard of this lease.
    Unguard(Arc<Lease>),
    /// Expect heartbeats of this instance from now on.
    Heartbeats(Arc<Instance>),
    /// Expect no more heartbeats of it.
    NoHeartbeats(InstanceId),
}

impl Registry {
    /// Makes a change, as [`apply`](Self::apply) does, and returns its effects.
    pub fn change(&mut self, seq: u64, at: Timestamp, change: &Change) -> Vec<Effect> {
        let lease = |registry: &Self| registry.get(change.lease()?.lease_id).ok().map(Arc::clone);
        let instance = |registry: &Self| {
            registry.instance(&change.instance()?.instance_id).ok().map(Arc::clone)
        };
        let (lease_before, instance_before) = (lease(self), instance(self));
        self.apply(seq, at, change);
        let (lease, instance) = (lease(self), instance(self));
        let mut effects = Vec::new();
        self.lease_effects(lease_before.as_ref(), lease.as_ref(), &mut effects);
        if let Change::Reuse { lease } = change
            && !effects.iter().any(|effect| matches!(effect, Effect::Limit(..)))
        {
            // Whoever asks for it is about to use it, so its unused time restarts.
            let limit = Obligations::of(Some(lease)).limit;
            effects.push(Effect::Limit(lease.lease_id, limit));
        }
        if effects.iter().any(|effect| matches!(effect, Effect::Limit(..))) {
            change.lease().map(|lease| self.unlistened.remove(&lease.lease_id));
        }
        self.instance_effects(instance_before.as_ref(), instance, &mut effects);
        if !self.repeated.is_empty()
            && let Some(before) = lease_before
        {
            self.forget_names(&before, lease.as_deref());
        }
        effects
    }

    /// Drops the record of repeated requests for what has ended: a new request with that id is a new grant.
    fn forget_names(&mut self, before: &Lease, after: Option<&Lease>) {
        let remains = |name| after.is_some_and(|lease| lease.holder_ids().any(|id| id == name));
        for name in before.holder_ids().filter(|name| !remains(*name)) {
            self.repeated.remove(&name);
        }
        if after.is_none() {
            self.repeated.remove(&before.lease_id.into());
        }
    }

    /// The effects of the change from one version of a lease to the next.
    fn lease_effects(
        &self,
        before: Option<&Arc<Lease>>,
        after: Option<&Arc<Lease>>,
        effects: &mut Vec<Effect>,
    ) {
        let Some(lease) = after.or(before) else { return };
        let had = Obligations::of(before.map(Arc::as_ref));
        let has = Obligations::of(after.map(Arc::as_ref));
        let gone = had.owners.difference(&has.owners).filter(|owner| !self.needs(owner));
        effects.extend(gone.map(|owner| Effect::Unwatch((*owner).clone())));
        let new = has.owners.difference(&had.owners);
        effects.extend(new.map(|owner| Effect::Watch((*owner).clone())));
        if had.limit != has.limit {
            effects.push(Effect::Limit(lease.lease_id, has.limit));
        }
        match (had.guard, has.guard) {
            (true, false) => effects.push(Effect::Unguard(Arc::clone(lease))),
            (false, true) if before.is_some_and(|before| before.hold == Hold::Client) => {
                effects.push(Effect::Reguard(Arc::clone(lease)));
            }
            (false, true) => effects.push(Effect::Guard(lease.lease_id)),
            _ => {}
        }
    }

    /// The same for an instance.
    fn instance_effects(
        &self,
        before: Option<&Arc<Instance>>,
        after: Option<Arc<Instance>>,
        effects: &mut Vec<Effect>,
    ) {
        let owner =
            |instance: &Arc<Instance>| (!instance.owner.is_none()).then(|| instance.owner.clone());
        let (had, has) = (before.and_then(owner), after.as_ref().and_then(owner));
        if had != has {
            let gone = had.filter(|owner| !self.needs(owner));
            effects.extend(gone.map(Effect::Unwatch));
        }
        effects.extend(has.map(Effect::Watch));
        match (before, after) {
            (_, Some(instance)) => effects.push(Effect::Heartbeats(instance)),
            (Some(gone), None) => effects.push(Effect::NoHeartbeats(gone.instance_id.clone())),
            (None, None) => {}
        }
    }
}
