//! Owners that end soon after they have got a lease: a command may start its server in the background and
//! end at once. Its lease lives a moment longer, and is an orphan if something listens by then.

use std::sync::Arc;

use super::{
    Broker, Inner,
    ending::{AGAIN_SECONDS, Listened},
};
use crate::{
    change::Change,
    kernel::clock,
    lease::{EndReason, Lease, Owner},
    owners::deadlines::Due,
    request::AllocateRequest,
    time::Timestamp,
};

/// A lease is new for this long, in milliseconds.
const NEW_MILLIS: u64 = 5_000;
/// How long a server has to begin to listen, in seconds.
const GRACE_SECONDS: u64 = 2;

impl Broker {
    /// An owner has ended: its leases end, and the instances that it was.
    pub fn owner_gone(&self, owner: &Owner) {
        let mut inner = self.lock();
        let inner = &mut *inner;
        let mut ended = inner.registry.ends_with_owner(owner);
        // Once, whether or not the lease is new when the time is over.
        if !inner.leaving.remove(owner) && set_aside_new(&mut ended) {
            inner.leaving.insert(owner.clone());
            self.look_at_owner(owner, GRACE_SECONDS);
        }
        if !self.end(inner, ended) {
            self.look_at_owner(owner, AGAIN_SECONDS);
        }
    }

    fn look_at_owner(&self, owner: &Owner, seconds: u64) {
        let when = clock::now().plus_seconds(seconds);
        self.deadlines.add(when, Due::Owner(Box::new(owner.clone())));
    }

    /// Ends what is leaving and would keep this request from the port that it asks for or had before: the
    /// same command, started again, is not to get another one.
    pub(super) fn hurry_for(&self, inner: &mut Inner, request: &AllocateRequest) {
        let is_single = inner.registry.is_singleton(&request.service_type);
        if request.dry_run || !is_single && request.port.is_none() && request.project_path.is_none()
        {
            return;
        }
        self.hurry(inner, |lease| {
            let is_again = request.project_path.is_some()
                && lease.project_path == request.project_path
                && lease.service_name == request.service_name;
            request.port == Some(lease.port)
                || lease.service_type == request.service_type && (is_again || is_single)
        });
    }

    /// Ends what is leaving, for owners with such a lease. True if there was one.
    pub(super) fn hurry(&self, inner: &mut Inner, is_meant: impl Fn(&Lease) -> bool) -> bool {
        let of =
            |owner: &&Owner| inner.registry.owned_by(owner).iter().any(|lease| is_meant(lease));
        let owners: Vec<_> = inner.leaving.iter().filter(of).cloned().collect();
        for owner in &owners {
            inner.leaving.remove(owner);
            let ended = inner.registry.ends_with_owner(owner);
            if self.end(inner, ended) {
                self.deadlines.remove(&Due::Owner(Box::new(owner.clone())));
            }
        }
        !owners.is_empty()
    }
}

/// Takes the new leases out that nothing listens on. False if there are none.
fn set_aside_new(ended: &mut Vec<Change>) -> bool {
    let now = Timestamp::now();
    let is_new = |change: &Change| match change {
        Change::Expire { lease, reason: EndReason::OwnerGone, .. } => {
            !lease.orphaned && now.0.saturating_sub(lease.since.0) < NEW_MILLIS
        }
        _ => false,
    };
    let new = ended.iter().filter(|change| is_new(change));
    let protocols: Vec<_> = new.filter_map(|change| Some(change.lease()?.protocol)).collect();
    if protocols.is_empty() {
        return false;
    }
    let listened = Listened::of(protocols.into_iter());
    let before = ended.len();
    ended.retain(|change| {
        let lease = change.lease().map(Arc::as_ref);
        !is_new(change) || lease.is_some_and(|lease| listened.contains(lease))
    });
    ended.len() < before
}
