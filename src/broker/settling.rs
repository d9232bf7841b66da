//! The effects of a change: watching owners, setting deadlines, guarding ports, and undoing these.

use std::{collections::HashMap, os::fd::OwnedFd};

use super::{Broker, Inner, owner::ResolvedOwner};
use crate::{
    change::Change,
    error::Error,
    kernel::{clock, guard, probe},
    lease::{Client, InstanceId, Lease, LeaseId, Owner},
    owners::deadlines::Due,
    registry::{
        Effect,
        ending::LOOKS,
        obligations::{Limit, Obligations},
    },
    time::Moment,
};

/// Sockets and pidfds of leases that are about to take effect; from a request, or from the previous service.
#[derive(Debug, Default)]
pub(super) struct InHand {
    /// Bound sockets that become guards.
    pub(super) guards: HashMap<LeaseId, OwnedFd>,
    /// Pidfds of owners.
    pub(super) owners: HashMap<Owner, OwnedFd>,
}

impl InHand {
    /// Those of a request.
    pub(super) fn of(held: &mut ResolvedOwner) -> Self {
        let pidfd = held.pidfd.take().map(|pidfd| (held.owner.clone(), pidfd));
        Self { owners: pidfd.into_iter().collect(), guards: std::mem::take(&mut held.guards) }
    }
}

impl Broker {
    /// Makes changes whose sockets and pidfds are at hand. Those that are not needed are closed.
    pub(super) fn commit_holding(
        &self,
        inner: &mut Inner,
        in_hand: InHand,
        changes: Vec<Change>,
        client: Option<&Client>,
    ) -> Result<u64, Error> {
        inner.in_hand = in_hand;
        let committed = self.commit(inner, changes, client);
        inner.in_hand = InHand::default();
        committed
    }

    /// Carries out the effects of a change.
    pub(super) fn carry_out(&self, inner: &mut Inner, effect: Effect) {
        match effect {
            Effect::Watch(owner) => {
                self.owners.watch(&owner, inner.in_hand.owners.remove(&owner));
            }
            Effect::Unwatch(owner) => self.owners.unwatch(&owner),
            Effect::Limit(lease_id, limit) => self.set_limit(inner, lease_id, limit),
            Effect::Guard(lease_id) => self.guard(inner, lease_id),
            Effect::Reguard(lease) => self.guard_again(inner, &lease),
            Effect::Unguard(lease) => {
                inner.guards.remove(&lease);
                self.store_guards_later(inner);
            }
            Effect::Heartbeats(instance) => {
                self.await_no_heartbeats(inner, &instance.instance_id);
                self.beat(inner, &instance);
            }
            Effect::NoHeartbeats(instance_id) => self.await_no_heartbeats(inner, &instance_id),
        }
    }

    fn await_no_heartbeats(&self, inner: &mut Inner, instance_id: &InstanceId) {
        inner.heard.remove(instance_id);
        if inner.heartbeats.remove(instance_id).is_some() {
            self.deadlines.remove(&Due::Instance(instance_id.clone()));
        }
    }

    /// Sets the time of a lease's next check.
    fn set_limit(&self, inner: &mut Inner, lease_id: LeaseId, limit: Option<Limit>) {
        let due = Due::Lease(lease_id);
        match limit {
            Some(limit) => self.deadlines.add(inner.when(limit, clock::now()), due),
            None => self.deadlines.remove(&due),
        }
    }

    /// Guards the port of a lease with the socket at hand, else with one that is bound later.
    fn guard(&self, inner: &mut Inner, lease_id: LeaseId) {
        let now = clock::now();
        if let Some(socket) = inner.in_hand.guards.remove(&lease_id) {
            inner.guards.insert(lease_id, socket);
            self.deadlines.add_once(now.plus_seconds(guard::SETTLED_SECONDS), Due::Store);
        } else {
            inner.waiting.push_back(lease_id);
            self.deadlines.add_once(now, Due::Waiting);
        }
    }

    /// Guards a port that its owner has kept bound, perhaps beside the owner's socket.
    fn guard_again(&self, inner: &mut Inner, lease: &Lease) {
        // If something listens on it, the guard is bound when that has ended.
        if let Ok(socket) = probe::rebind(lease.port) {
            inner.in_hand.guards.insert(lease.lease_id, socket);
        }
        self.guard(inner, lease.lease_id);
    }

    /// Applies a new limit for unused leases; the time that has passed already counts.
    pub(super) fn set_unused(&self, inner: &Inner, before: u64) {
        let unused = inner.config.unused;
        if unused == before {
            return;
        }
        for lease in inner.registry.iter() {
            let due = Due::Lease(lease.lease_id);
            if Obligations::of(Some(lease)).limit == Some(Limit::Unused)
                && let Some(when) = self.deadlines.when(&due)
            {
                let begun = Moment(when.0.saturating_sub(between_looks(before)));
                self.deadlines.add(Moment(begun.0.saturating_add(between_looks(unused))), due);
            }
        }
    }
}

impl Inner {
    /// When a lease with this limit is checked next.
    pub(super) fn when(&self, limit: Limit, now: Moment) -> Moment {
        match limit {
            Limit::At(moment) => moment,
            Limit::Claimed => now.plus_seconds(self.config.claimed),
            Limit::Unused => Moment(now.0.saturating_add(between_looks(self.config.unused))),
        }
    }
}

/// The interval between two checks of an unused lease, in milliseconds.
fn between_looks(unused: u64) -> u64 {
    unused.saturating_mul(1_000) / u64::from(LOOKS)
}
