//! How leases end: with their owner, by a time limit, for lack of use, or by a release.
//!
//! Whether a port is listened on comes in as a function, and is asked only where it matters.

use std::{collections::HashSet, sync::Arc};

use super::{
    Registry,
    granting::Share,
    holders::{leave, let_go, orphaned, renewed},
    obligations::{Limit, Obligations},
};
use crate::{
    change::Change,
    error::Error,
    lease::{EndReason, Holder, InstanceId, Lease, LeaseId, MemoryKey, Owner, Use},
    request::{AllocateRequest, Filter, LONGEST_TTL},
    time::{Moment, Timestamp},
};

/// How often an unused lease is checked within its time limit. It ends at the check after these, for a listener may have
/// gone only just before the first.
pub const LOOKS: u32 = 4;

/// What happens to a lease that is due for a check.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Due {
    /// The change, if any; in most cases the lease ends.
    pub change: Option<Change>,
    /// When it is checked again, unless that follows from the change.
    pub again: Option<Limit>,
}

/// What ends with an owner.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnerEnded {
    /// What ends now.
    pub ends: Vec<Change>,
    /// Whether young leases are left: see [`Registry::owner_ended`].
    pub is_leaving: bool,
}

/// The change that marks how a claim was used.
fn claim(lease: &Lease, used: Use) -> Change {
    Change::Claim { lease: Arc::new(Lease { used, ..lease.clone() }) }
}

/// Spares leases whose port is listened on: they live on as orphans, and orphans stay as they are.
pub fn spare_listened(changes: Vec<Change>, is_listened: impl Fn(&Lease) -> bool) -> Vec<Change> {
    let spared = |change| match change {
        Change::Expire { lease, .. } if is_listened(&lease) => {
            (!lease.orphaned).then(|| Change::Orphan { lease: Arc::new(orphaned(&lease)) })
        }
        change => Some(change),
    };
    changes.into_iter().filter_map(spared).collect()
}

/// Whether a request asks for the port of this lease by its number, and is of the same project.
fn is_asked_for_by_its_project(lease: &Lease, request: &AllocateRequest) -> bool {
    request.port == Some(lease.port)
        && request.project_path.is_some()
        && lease.project_path == request.project_path
}

impl Registry {
    /// A lease is due for a check.
    pub fn lease_due(
        &mut self,
        lease_id: LeaseId,
        now: Moment,
        is_listened: impl FnOnce(&Lease) -> bool,
    ) -> Due {
        let Ok(lease) = self.get(lease_id).map(Arc::clone) else { return Due::default() };
        match Obligations::of(Some(&lease)).limit {
            Some(Limit::At(deadline)) if deadline <= now => {
                let is_over = |holder: &Holder| holder.deadline.is_some_and(|end| end <= now);
                Due { change: Some(leave(&lease, is_over, EndReason::Ttl)), again: None }
            }
            // It was renewed, or has an owner.
            Some(Limit::At(_)) | None => Due::default(),
            Some(Limit::Claimed) => {
                let used = if is_listened(&lease) { Use::Once } else { Use::Idle };
                Due { change: Some(claim(&lease, used)), again: None }
            }
            Some(Limit::Unused) => {
                let again = Some(Limit::Unused);
                if is_listened(&lease) {
                    self.unlistened.remove(&lease_id);
                    let change = lease.is_soft().then(|| claim(&lease, Use::Once));
                    return Due { change, again };
                }
                let looks = self.unlistened.entry(lease_id).or_default();
                *looks += 1;
                let ends = (*looks > LOOKS).then(|| Change::end(lease, EndReason::Unused));
                Due { change: ends, again }
            }
        }
    }

    /// An owner has ended, and with it its leases and the instances that it was.
    ///
    /// A command may start its server in the background and exit at once. So a young lease that nothing listens on yet is
    /// left for the moment, and the owner counts as leaving. At the next call for it, everything that is left ends.
    pub fn owner_ended(
        &mut self,
        owner: &Owner,
        now: Timestamp,
        is_listened: impl Fn(&Lease) -> bool,
    ) -> OwnerEnded {
        let mut ends = self.ends_with_owner(owner);
        if self.leaving.remove(owner) {
            return OwnerEnded { ends, is_leaving: false };
        }
        let before = ends.len();
        ends.retain(|change| match change {
            Change::Expire { lease, reason: EndReason::OwnerGone, .. } => {
                lease.orphaned || !lease.is_young(now) || is_listened(lease)
            }
            _ => true,
        });
        let is_leaving = ends.len() < before;
        if is_leaving {
            self.leaving.insert(owner.clone());
        }
        OwnerEnded { ends, is_leaving }
    }

    /// Leaving owners with a matching lease.
    pub fn leaving(&self, is_meant: impl Fn(&Lease) -> bool) -> Vec<Owner> {
        let has_one = |owner: &&Owner| self.owned_by(owner).iter().any(|lease| is_meant(lease));
        self.leaving.iter().filter(has_one).cloned().collect()
    }

    /// Leaving owners with a lease on the port that this request asks for or had before: the same command, started again,
    /// must get the same port.
    pub fn leaving_in_the_way_of(&self, request: &AllocateRequest) -> Vec<Owner> {
        let is_single = self.is_singleton(&request.service_type);
        let is_particular = is_single || request.port.is_some() || request.project_path.is_some();
        if request.dry_run || !is_particular || self.leaving.is_empty() {
            return Vec::new();
        }
        self.leaving(|lease| {
            // A mapping is shared, so nothing is in its way.
            let is_again = request.asked.is_none()
                && lease.asked.is_none()
                && request.project_path.is_some()
                && lease.project_path == request.project_path
                && lease.service_name == request.service_name;
            is_asked_for_by_its_project(lease, request)
                || lease.service_type == request.service_type && (is_again || is_single)
        })
    }

    /// The owners of the live leases on the port that a completed request asks for and in the slots of its service, up to
    /// the first free one. Another project does not end a young lease, whose server may be about to listen.
    pub fn owners_in_the_way_of(
        &self,
        request: &AllocateRequest,
        now: Timestamp,
    ) -> HashSet<Owner> {
        let asked = request.port.and_then(|port| self.at(port, request.protocol()));
        let asked = asked
            .filter(|lease| !lease.is_young(now) || is_asked_for_by_its_project(lease, request));
        let leases = asked.into_iter().chain(self.in_slots(request));
        leases.filter(|lease| !lease.orphaned).flat_map(|lease| lease.owners().cloned()).collect()
    }

    /// Ends everything that an owner still has.
    pub fn leaves_now(&mut self, owner: &Owner) -> Vec<Change> {
        self.leaving.remove(owner);
        self.ends_with_owner(owner)
    }

    /// Ends the orphans that nobody listens on any longer.
    pub fn orphans_end(&self, which: impl Fn(&Lease) -> bool) -> Vec<Change> {
        let mut orphans = self.orphans();
        orphans.retain(|lease| which(lease));
        orphans.into_iter().map(|lease| Change::end(lease, EndReason::ListenerGone)).collect()
    }

    /// Restarts the time limit of a lease, or of one of its holders. The second value is the lease as that holder sees it.
    ///
    /// # Errors
    ///
    /// If there is no such lease, or no such time limit: see [`renewed`].
    pub fn renew(
        &self,
        id: LeaseId,
        ttl: Option<u64>,
        now: Moment,
    ) -> Result<(Change, Lease), Error> {
        let (lease, holder) = self.named(id)?;
        let (lease, seen) = renewed(lease, holder, ttl, now)?;
        Ok((Change::Renew { lease: Arc::new(lease) }, seen))
    }

    /// Releases a lease, or the share of one of its holders. If the last holder of a singleton releases it while its server
    /// runs on, the lease becomes an orphan, so that others still find it. Of a claim that a server uses, only the part of
    /// those who asked for it is released. The second value is the lease as it was.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NoSuchLease`](crate::error::ErrorKind::NoSuchLease).
    pub fn release(
        &self,
        id: LeaseId,
        is_listened: impl FnOnce(&Lease) -> bool,
    ) -> Result<(Change, Arc<Lease>), Error> {
        let (lease, holder) = self.named(id)?;
        let is_asked_for = |held: &Holder| held.owner.is_none();
        let is_shared = lease.claim && !lease.orphaned && lease.is_owned();
        let mut change =
            if holder.is_none() && is_shared && lease.holders().any(|h| is_asked_for(&h)) {
                leave(lease, is_asked_for, EndReason::Released)
            } else {
                let_go(lease, holder, EndReason::Released)
            };
        if holder.is_some() && matches!(change, Change::Release { .. }) && is_listened(lease) {
            change = Change::Orphan { lease: Arc::new(orphaned(lease)) };
        }
        Ok((change, Arc::clone(lease)))
    }

    /// Ends the matching leases.
    pub fn release_matching(&self, filter: &Filter, reason: EndReason) -> Vec<Change> {
        self.list(filter).into_iter().map(|lease| Change::end(lease, reason)).collect()
    }

    /// Leases without an owner that are older than this many seconds and that nothing listens on, by port.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidArgument`](crate::error::ErrorKind::InvalidArgument) if no lease can be so old.
    pub fn left_over(
        &self,
        older_than: u64,
        now: Timestamp,
        is_listened: impl Fn(&Lease) -> bool,
    ) -> Result<Vec<Arc<Lease>>, Error> {
        if older_than > LONGEST_TTL {
            return Err(Error::invalid(format!(
                "older_than must be a whole number of seconds up to {LONGEST_TTL}, not {older_than}"
            )));
        }
        let is_old =
            |lease: &Lease| now.0.saturating_sub(lease.since.0) >= older_than.saturating_mul(1_000);
        let mut leases = self.list(&Filter::default());
        leases.retain(|lease| {
            is_old(lease) && lease.holders().all(|h| h.owner.is_none()) && !is_listened(lease)
        });
        Ok(leases)
    }

    /// Forgets the matching remembered ports.
    pub fn forget_matching(&self, filter: &Filter) -> Vec<Change> {
        self.remembered(filter)
            .map(|(key, known)| Change::Forget { key: MemoryKey::clone(key), port: known.port })
            .collect()
    }

    /// Takes back grants whose answers were not delivered, as far as they still exist: they may have been released or shared
    /// meanwhile. A grant that was requested again and answered stays.
    pub fn take_back(&self, shares: &[Share], reason: EndReason) -> Vec<Change> {
        let is_unheard = |name| !self.repeated.contains(&name);
        let unheard = shares.iter().filter(|share| share.name.is_none_or(is_unheard));
        let ends = unheard
            .filter_map(|share| Some(let_go(self.get(share.lease_id).ok()?, share.holder, reason)));
        ends.collect()
    }

    /// The heartbeats of an instance have stopped.
    pub fn instance_silent(&self, instance_id: &InstanceId) -> Vec<Change> {
        self.ends_with_instance(instance_id, "its heartbeats stopped")
    }
}
