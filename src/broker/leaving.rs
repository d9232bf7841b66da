//! Owners that end soon after they have got a lease: a command may start its server in the background and
//! end at once. Its lease lives a moment longer, and is an orphan if something listens by then.

use super::{
    Broker, Inner,
    ending::{AGAIN_SECONDS, Listened},
};
use crate::{
    kernel::clock,
    lease::{Lease, LeaseId, Owner},
    owners::deadlines::Due,
    registry::ending::OwnerEnded,
    request::AllocateRequest,
    time::Timestamp,
};

/// How long a server has to begin to listen, in seconds.
const GRACE_SECONDS: u64 = 2;

impl Broker {
    /// An owner has ended: its leases end, and the instances that it was.
    pub(super) fn owner_ended(&self, inner: &mut Inner, owner: &Owner) {
        let listened = Listened::default();
        let is_listened = |lease: &Lease| listened.contains(lease);
        let OwnerEnded { ends, is_leaving } =
            inner.registry.owner_ended(owner, Timestamp::now(), is_listened);
        if is_leaving {
            self.look_at_owner(owner, GRACE_SECONDS);
            // A request that waits does not wait for that.
            self.waiting.note_room();
        }
        if !self.end_beside(inner, ends, &listened) {
            self.look_at_owner(owner, AGAIN_SECONDS);
        }
    }

    fn look_at_owner(&self, owner: &Owner, seconds: u64) {
        let when = clock::now().plus_seconds(seconds);
        self.deadlines.add(when, Due::Owner(Box::new(owner.clone())));
    }

    /// Whether an owner of the lease has ended, and the lease has not yet.
    pub fn is_leaving(&self, lease_id: LeaseId) -> bool {
        !self.lock().registry.leaving(|lease| lease.lease_id == lease_id).is_empty()
    }

    /// Ends what these owners have left. True if there is any.
    pub(super) fn hurry(&self, inner: &mut Inner, owners: &[Owner]) -> bool {
        for owner in owners {
            let ends = inner.registry.leaves_now(owner);
            if self.end(inner, ends) {
                self.deadlines.remove(&Due::Owner(Box::new(owner.clone())));
            }
        }
        !owners.is_empty()
    }

    /// Where a request of this type finds no port, ends a claim that nobody has used, if there is one in its ranges.
    pub(super) fn have_one_give_way(&self, inner: &mut Inner, request: &AllocateRequest) -> bool {
        let listened = Listened::default();
        let types = &inner.registry.rules().types.0;
        let gives_way = types.get(&request.service_type).and_then(|service_type| {
            let is_listened = |lease: &Lease| listened.contains(lease);
            inner.registry.gives_way(request, service_type, is_listened)
        });
        gives_way.is_some_and(|end| self.commit(inner, vec![end], None).is_ok())
    }
}
