//! What happens when an owner or a listener is gone, or a deadline has passed.

use std::{cell::OnceCell, sync::Arc};

use tokio::sync::mpsc;

use super::{Broker, Inner};
use crate::{
    change::Change,
    kernel::{
        clock,
        diag::{self, BoundBy},
        guard, probe,
    },
    lease::{EndReason, Lease, LeaseId, Use},
    obstacle::{InUse, Obstacle},
    owners::{Event, deadlines::Due, listeners},
    port::{Port, Protocol},
    port_set::PortSet,
    registry::{ending::spare_listened, obligations::Obligations},
    service_type::Hold,
    time::Moment,
};

/// Delays between attempts to bind guards that could not be bound, in seconds; the last one repeats. Where the
/// kernel reports the end of a listener, that triggers an attempt, too.
const GUARDS_SECONDS: [u64; 3] = [10, 60, 600];
/// How many waiting leases are handled in one go; requests are answered in between.
const AT_ONCE: usize = 64;
/// How soon an end that could not be stored is retried, in seconds.
pub(super) const AGAIN_SECONDS: u64 = 5;
/// How long after the last socket on it was closed the port of an owner that keeps it bound is looked at, in seconds: the owner
/// closes its own socket right before its program binds another.
const SERVED_SECONDS: u64 = 1;

impl Broker {
    /// Makes changes that nobody asked for. A lease whose port is listened on becomes an orphan.
    /// False if that could not be stored.
    pub(super) fn end(&self, inner: &mut Inner, changes: Vec<Change>) -> bool {
        self.end_beside(inner, changes, &Listened::default())
    }

    /// The same, with listeners that are known already.
    pub(super) fn end_beside(
        &self,
        inner: &mut Inner,
        changes: Vec<Change>,
        listened: &Listened,
    ) -> bool {
        let changes = spare_listened(changes, |lease| listened.contains(lease));
        changes.is_empty() || self.commit(inner, changes, None).is_ok()
    }

    /// Handles events, one after the other, until the channel is closed. The sources of events run beside it.
    pub async fn run(&self, mut events: mpsc::UnboundedReceiver<Event>) {
        let sender = self.owners.events();
        let handle = async {
            while let Some(event) = events.recv().await {
                self.handle(event);
                // Requests are answered in between.
                tokio::task::yield_now().await;
            }
        };
        tokio::join!(
            handle,
            self.deadlines.run(&sender),
            listeners::run(self.awaits_endings.subscribe(), &sender)
        );
    }

    fn handle(&self, event: Event) {
        let mut inner = self.lock();
        let inner = &mut *inner;
        match event {
            Event::OwnerEnded(owner) => self.owner_ended(inner, &owner),
            Event::Due(due) => self.due(inner, due),
            Event::ListenersEnded(ports) => self.listeners_ended(inner, &ports),
            Event::ListenersUnknown => {
                self.look_at_held(inner, |_| true);
                self.end_orphans(inner, |_| true);
            }
        }
    }

    /// Sockets on these ports were closed.
    fn listeners_ended(&self, inner: &mut Inner, ports: &PortSet) {
        self.look_at_held(inner, |lease| ports.contains(lease.port));
        self.end_orphans(inner, |lease| ports.contains(lease.port));
        let registry = &inner.registry;
        let on_these =
            |id: &LeaseId| registry.get(*id).is_ok_and(|lease| ports.contains(lease.port));
        let (now, later) = inner.unguarded.drain(..).partition::<Vec<_>, _>(on_these);
        inner.unguarded = later;
        inner.waiting.extend(now);
        if !inner.waiting.is_empty() {
            self.look_after(inner);
        }
        self.await_endings(inner);
    }

    /// Sockets were closed on ports that their owners keep bound. They need not have been listeners.
    fn look_at_held(&self, inner: &Inner, which: impl Fn(&Lease) -> bool) {
        let when = clock::now().plus_seconds(SERVED_SECONDS);
        for lease in inner.registry.held_by_clients().filter(|lease| which(lease)) {
            self.deadlines.add(when, Due::Hold(lease.lease_id));
        }
    }

    /// Guards a port again that its owner has kept bound, if its listener is gone.
    fn hold_due(&self, inner: &mut Inner, lease_id: LeaseId) {
        let lease = inner.registry.held_by_clients().find(|lease| lease.lease_id == lease_id);
        let Some(port) = lease.map(|lease| lease.port) else { return };
        if diag::is_listened(port, Protocol::Tcp) {
            let registry = &inner.registry;
            inner.served.retain(|id| registry.get(*id).is_ok());
            inner.served.insert(lease_id);
        } else if inner.served.contains(&lease_id) && diag::bound_by(port) != BoundBy::Own {
            let change = inner.registry.set_hold(lease_id, Hold::Guard);
            let changes = change.ok().and_then(|(change, _)| change).into_iter().collect();
            if self.commit(inner, changes, None).is_ok() {
                inner.served.remove(&lease_id);
            } else {
                let again = clock::now().plus_seconds(AGAIN_SECONDS);
                self.deadlines.add(again, Due::Hold(lease_id));
            }
        }
    }

    /// Ends the orphans that nobody listens on any longer.
    fn end_orphans(&self, inner: &mut Inner, which: impl Fn(&Lease) -> bool) {
        let ends = inner.registry.orphans_end(which);
        if !self.end(inner, ends) {
            self.deadlines.add_once(clock::now().plus_seconds(AGAIN_SECONDS), Due::Orphans);
        }
    }

    /// Subscribes to the end of listeners if anything waits for it, else unsubscribes.
    pub(super) fn await_endings(&self, inner: &Inner) {
        let awaits = inner.registry.has_orphans()
            || !inner.unguarded.is_empty()
            || inner.registry.held_by_clients().next().is_some();
        self.awaits_endings.send_if_modified(|before| std::mem::replace(before, awaits) != awaits);
    }

    /// A deadline has passed.
    fn due(&self, inner: &mut Inner, due: Due) {
        let now = clock::now();
        match due {
            Due::Lease(lease_id) => self.lease_due(inner, lease_id, now),
            Due::Instance(instance_id) => self.heartbeat_due(inner, &instance_id),
            Due::Orphans => self.end_orphans(inner, |_| true),
            Due::Hold(lease_id) => self.hold_due(inner, lease_id),
            Due::Store => {
                if let Some(when) = inner.guards.store(now) {
                    self.deadlines.add_by(when, Due::Store);
                }
            }
            Due::Waiting => self.look_after(inner),
            Due::Denials => self.tell_denials(inner, now),
            Due::Pages => self.pages_due(inner),
            Due::Owner(owner) => self.owner_ended(inner, &owner),
        }
    }

    fn lease_due(&self, inner: &mut Inner, lease_id: LeaseId, now: Moment) {
        let is_listened =
            |lease: &Lease| diag::is_listened(lease.port, lease.protocol) && !is_taken(lease);
        let due = inner.registry.lease_due(lease_id, now, is_listened);
        if let Some(limit) = due.again {
            self.deadlines.add(inner.when(limit, now), Due::Lease(lease_id));
        }
        // What is checked again anyway needs no other attempt.
        if !self.end(inner, due.change.into_iter().collect()) && due.again.is_none() {
            self.deadlines.add(now.plus_seconds(AGAIN_SECONDS), Due::Lease(lease_id));
        }
    }

    /// Handles some of the waiting leases: after a start that is all of them, later those whose guards could not be
    /// bound because something listened on the port.
    fn look_after(&self, inner: &mut Inner) {
        let now = clock::now();
        if inner.waiting.is_empty() {
            inner.waiting.extend(inner.unguarded.drain(..));
            inner.tries += 1;
        }
        // Asked once: binding a port that is listened on would fail, and the end of the listener is reported anyway.
        let (mut listened, mut taken) = (None, Vec::new());
        for _ in 0..AT_ONCE.min(inner.waiting.len()) {
            let Some(lease_id) = inner.waiting.pop_front() else { break };
            let Ok(lease) = inner.registry.get(lease_id) else { continue };
            let Obligations { limit, guard, .. } = Obligations::of(Some(lease));
            if let Some(limit) = limit {
                self.deadlines.add_once(inner.when(limit, now), Due::Lease(lease_id));
            }
            if !guard || inner.guards.contains(lease_id) {
                continue;
            }
            if inner.guards.len() >= inner.max_guards.min(inner.config.max_guards) {
                inner.unguarded.push(lease_id);
                continue;
            }
            let listened = listened.get_or_insert_with(|| diag::listened(Protocol::Tcp));
            if listened.contains(lease.port) {
                inner.unguarded.push(lease_id);
                continue;
            }
            match probe::regain(lease.port) {
                Ok(socket) => inner.guards.insert(lease_id, socket),
                Err(Obstacle::InUse(InUse::Bound)) => match diag::bound_by(lease.port) {
                    BoundBy::Others => taken.push(Arc::clone(lease)),
                    // The manager may have received a guard from a service that was killed, too late to pass it on.
                    BoundBy::Own => match probe::rebind(lease.port) {
                        Ok(socket) => inner.guards.insert(lease_id, socket),
                        Err(_) => inner.unguarded.push(lease_id),
                    },
                    // A server may be between bind and listen, but not for long.
                    BoundBy::Unknown if inner.tries > 0 => taken.push(Arc::clone(lease)),
                    BoundBy::Unknown => {
                        guard::forget(lease_id);
                        inner.unguarded.push(lease_id);
                    }
                },
                Err(_) => inner.unguarded.push(lease_id),
            }
        }
        let lost: Vec<_> = taken.iter().map(|lease| lease.lease_id).collect();
        let ends = taken.into_iter().map(|lease| Change::end(lease, EndReason::Taken)).collect();
        if !self.end(inner, ends) {
            inner.unguarded.extend(lost);
        }
        if !inner.waiting.is_empty() {
            self.deadlines.add_once(now, Due::Waiting);
        } else if inner.unguarded.is_empty() {
            inner.tries = 0;
        } else {
            let next = GUARDS_SECONDS[inner.tries.min(GUARDS_SECONDS.len() - 1)];
            self.deadlines.add_once(now.plus_seconds(next), Due::Waiting);
        }
        self.await_endings(inner);
        self.store_guards_later(inner);
    }
}

/// Whether another user's program uses the port of a claim: nothing keeps others from it once the guard is given up.
pub(super) fn is_taken(lease: &Lease) -> bool {
    lease.used == Use::Idle && diag::is_of_others(lease.port, lease.protocol)
}

/// Ports with a listener. The kernel is asked once for each protocol, when needed.
#[derive(Debug, Default)]
pub(super) struct Listened {
    tcp: OnceCell<Option<PortSet>>,
    udp: OnceCell<Option<PortSet>>,
}

impl Listened {
    /// The same, asked now, before the state is locked.
    pub(super) fn now() -> Self {
        let listened = Self::default();
        listened.known();
        listened
    }

    /// The ports with a listener of TCP or UDP, if the kernel tells.
    fn part(&self, part: Protocol) -> Option<&PortSet> {
        let cell = if part == Protocol::Udp { &self.udp } else { &self.tcp };
        cell.get_or_init(|| diag::listeners(part).ok()).as_ref()
    }

    /// Answers about a port or a lease, where known.
    pub(super) fn known(&self) -> Option<&Self> {
        let parts = Protocol::Both.parts().iter();
        parts.copied().all(|part| self.part(part).is_some()).then_some(self)
    }

    /// Whether the port is listened on in any protocol. Where the kernel does not tell, every port counts as listened on.
    pub(super) fn any(&self, port: Port) -> bool {
        self.in_any(Protocol::Both, port)
    }

    /// Whether the lease's port is listened on, in a part of its protocol; the same.
    pub(super) fn contains(&self, lease: &Lease) -> bool {
        self.in_any(lease.protocol, lease.port)
    }

    fn in_any(&self, protocol: Protocol, port: Port) -> bool {
        let mut parts = protocol.parts().iter().copied();
        parts.any(|part| self.part(part).is_none_or(|ports| ports.contains(port)))
    }
}
