//! Registered agents, sessions and tools.

use std::sync::Arc;

use super::{Broker, Caller, Inner, ending::AGAIN_SECONDS, settling::InHand};
use crate::{
    change::Change,
    error::{Error, ErrorKind},
    kernel::clock,
    lease::{Instance, InstanceId},
    owners::deadlines::Due,
    port::Port,
    request::{Filter, InstanceRequest},
    time::{Moment, Timestamp},
};

/// An instance, and what is known of it.
pub struct Registered {
    /// The instance.
    pub instance: Arc<Instance>,
    /// When its last heartbeat came, or when it registered, if this service has heard none.
    pub heard: Timestamp,
    /// The ports of its leases.
    pub ports: Vec<Port>,
}

impl Broker {
    /// Registers an instance, or registers it again.
    pub async fn register_instance(
        &self,
        request: &InstanceRequest,
        caller: &Caller,
    ) -> Result<Arc<Instance>, Error> {
        let mut held = self.resolve_owner(&request.owner, caller).await?;
        let instance = Arc::new(Instance {
            instance_id: request.instance_id.clone(),
            owner: held.owner.clone(),
            heartbeat: request.heartbeat,
            since: Timestamp::now(),
            working_directory: request.working_directory.clone(),
            metadata: request.metadata.clone(),
        });
        let mut inner = self.lock();
        let inner = &mut *inner;
        self.usable(inner)?;
        let is_new = inner.registry.instance(&instance.instance_id).is_err();
        let most = inner.config.max_instances;
        if is_new && inner.registry.instance_count() >= most {
            return Err(Error::new(
                ErrorKind::LimitExceeded,
                format!("the limit of {most} registered instances is reached"),
            )
            .suggest("`styxy instances` lists them; limits.instances in the configuration sets the limit"));
        }
        let change = Change::RegisterInstance { instance: Arc::clone(&instance) };
        let in_hand = InHand::of(&mut held);
        self.commit_holding(inner, in_hand, vec![change], Some(&caller.client))?;
        Ok(instance)
    }

    /// Records a heartbeat; returns its time.
    pub fn heartbeat(&self, instance_id: &InstanceId) -> Result<Timestamp, Error> {
        let mut inner = self.lock();
        self.usable(&mut inner)?;
        let instance = Arc::clone(inner.registry.instance(instance_id)?);
        self.beat(&mut inner, &instance);
        let now = Timestamp::now();
        inner.heard.insert(instance_id.clone(), now);
        Ok(now)
    }

    /// All instances, and what is known of them.
    pub fn registered(&self) -> Result<Vec<Registered>, Error> {
        let mut inner = self.lock();
        self.usable(&mut inner)?;
        let instances = inner.registry.instances();
        let all = instances.into_iter().map(|instance| {
            let id = &instance.instance_id;
            let heard = inner.heard.get(id).copied().unwrap_or(instance.since);
            let filter = Filter { instance_id: Some(id.clone()), ..Filter::default() };
            let ports = inner.registry.list(&filter).iter().map(|lease| lease.port).collect();
            Registered { instance, heard, ports }
        });
        Ok(all.collect())
    }

    /// How many instances are registered.
    pub fn instance_count(&self) -> usize {
        self.lock().registry.instance_count()
    }

    pub(super) fn beat(&self, inner: &mut Inner, instance: &Instance) {
        let Some(heartbeat) = instance.heartbeat else { return };
        let beat = Beat::now(heartbeat);
        // A deadline is set already; when it passes, the newest heartbeat counts.
        if inner.heartbeats.insert(instance.instance_id.clone(), beat).is_none() {
            self.deadlines.add(beat.next, Due::Instance(instance.instance_id.clone()));
        }
    }

    /// A heartbeat of an instance is overdue.
    pub(super) fn heartbeat_due(&self, inner: &mut Inner, instance_id: &InstanceId) {
        let Some(beat) = inner.heartbeats.get(instance_id).copied() else { return };
        let Ok(instance) = inner.registry.instance(instance_id).map(Arc::clone) else { return };
        let now = clock::now();
        let due = || Due::Instance(instance_id.clone());
        if beat.next > now {
            self.deadlines.add(beat.next, due());
        } else if beat.was_stalled(now, clock::asleep()) {
            inner.heartbeats.remove(instance_id);
            self.beat(inner, &instance);
        } else {
            let ended = inner.registry.instance_silent(instance_id);
            if !self.end(inner, ended) {
                self.deadlines.add(now.plus_seconds(AGAIN_SECONDS), due());
            }
        }
    }
}

/// Stalls shorter than this are ignored, in milliseconds.
const STALL_MILLIS: u64 = 1_000;

/// The last heartbeat of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Beat {
    /// When the next one is due.
    next: Moment,
    /// How long the machine had been suspended by then, in milliseconds since the boot.
    asleep: u64,
}

impl Beat {
    fn now(heartbeat: u64) -> Self {
        Self { next: clock::now().plus_seconds(heartbeat), asleep: clock::asleep() }
    }

    /// Whether the deadline passed while the machine was suspended, or this process was frozen or starved.
    /// The instance probably was, too, or its heartbeat waits to be read; it gets another period.
    fn was_stalled(self, now: Moment, asleep: u64) -> bool {
        let late = now.0.saturating_sub(self.next.0);
        late.saturating_add(asleep.saturating_sub(self.asleep)) > STALL_MILLIS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stall_is_what_a_timer_and_a_clock_cannot_explain() {
        let beat = Beat { next: Moment(10_000), asleep: 500 };
        assert!(!beat.was_stalled(Moment(10_001), 500), "the heartbeat just did not come");
        assert!(beat.was_stalled(Moment(12_000), 500), "frozen or starved beyond the time");
        assert!(beat.was_stalled(Moment(10_001), 60_500), "suspended for a minute before it");
    }
}
