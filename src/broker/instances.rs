//! Agents, sessions and tools that have announced themselves.

use std::sync::Arc;

use super::{Broker, Caller, Inner};
use crate::{
    change::Change,
    error::Error,
    kernel::clock,
    lease::{Instance, InstanceId},
    owners::deadlines::Due,
    request::InstanceRequest,
    time::Timestamp,
};

impl Broker {
    /// Makes an instance known, or known anew.
    pub async fn register_instance(
        &self,
        request: &InstanceRequest,
        caller: &Caller,
    ) -> Result<Arc<Instance>, Error> {
        let held = self.hold_on_to(&request.owner, caller).await?;
        let instance = Arc::new(Instance {
            instance_id: request.instance_id.clone(),
            owner: held.owner,
            heartbeat: request.heartbeat,
            since: Timestamp::now(),
        });
        let mut inner = self.lock();
        let inner = &mut *inner;
        self.usable(inner)?;
        let before = inner.registry.instance(&instance.instance_id).map(Arc::clone);
        let change = Change::RegisterInstance { instance: Arc::clone(&instance) };
        self.commit(inner, vec![change], Some(&caller.client))?;
        if let Ok(before) = before {
            self.let_go_of_owner(inner, &before.owner);
        }
        inner.heartbeats.remove(&instance.instance_id);
        self.beat(inner, &instance);
        self.owners.watch(&instance.owner, held.pidfd);
        Ok(instance)
    }

    /// Notes that an instance is alive.
    pub fn heartbeat(&self, instance_id: &InstanceId) -> Result<(), Error> {
        let mut inner = self.lock();
        self.usable(&mut inner)?;
        let instance = Arc::clone(inner.registry.instance(instance_id)?);
        self.beat(&mut inner, &instance);
        Ok(())
    }

    fn beat(&self, inner: &mut Inner, instance: &Instance) {
        let Some(heartbeat) = instance.heartbeat else { return };
        let next = clock::now().plus_seconds(heartbeat);
        // One deadline is on its way; when it comes, it sees the newest heartbeat.
        if inner.heartbeats.insert(instance.instance_id.clone(), next).is_none() {
            self.deadlines.add(next, Due::Instance(instance.instance_id.clone()));
        }
    }
}
