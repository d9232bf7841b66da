//! Claims: leases that are asked for by what they are for. Whoever asks for the same gets the same lease, so that a port
//! which is written down somewhere stays true.

use std::sync::Arc;

use super::{Registry, granting::name_of_share, holding::shared};
use crate::{
    error::{Error, ErrorKind},
    lease::{Holder, HolderId, Lease},
    request::{AllocateRequest, OwnerRequest},
    service_type::{Claims, Hold, InstanceBehavior, ServiceType},
};

impl Registry {
    /// The live claim that a request means: that of the same project, package, type, name, protocol and count, for the same
    /// instance. A request that only uses a claim gets one that nobody uses.
    pub fn claim(
        &self,
        request: &AllocateRequest,
        service_type: &ServiceType,
    ) -> Option<&Arc<Lease>> {
        let is_unnamed = request.service_name.is_none() && service_type.claims == Claims::Named;
        // A block has one lease for each port, and nobody owns a part of it.
        let has_owner = !matches!(request.owner, OwnerRequest::None);
        let is_owned_block = request.count > 1 && has_owner;
        let is_single = service_type.instance_behavior == InstanceBehavior::Single;
        let asks_for_one = (request.claim || request.use_claim) && !is_single;
        if !asks_for_one || is_unnamed || is_owned_block {
            return None;
        }
        self.of_service(request).find(|lease| {
            let is_its = lease.claim && lease.instance_id == request.instance_id;
            // Who starts a server on another port leaves the claim where it is written down.
            let is_wanted = request.port.is_none_or(|port| port == lease.port);
            // It may be used by the caller itself, whose answer was lost.
            let name = name_of_share(lease, request);
            let is_own = || name.is_some_and(|name| lease.holder_ids().any(|id| id == name));
            is_its && (request.claim || is_wanted && (!is_used(lease) || is_own()))
        })
    }
}

/// Whether a server runs, or may run, on the port of a claim.
pub fn is_used(claim: &Lease) -> bool {
    claim.orphaned || claim.is_owned()
}

/// The claim when it was asked for once more, and the name of that part of it which the caller has. What nobody owns is one
/// part, whoever asks for it, and lasts for the longest time that anybody has asked for.
///
/// # Errors
///
/// [`ErrorKind::LimitExceeded`] if too many use it already.
pub(super) fn claimed(
    claim: &Lease,
    caller: Holder,
    hold: Option<Hold>,
) -> Result<(Lease, Option<HolderId>), Error> {
    // A server that finds its port in use asks for one without a guard.
    let drops_guard = hold == Some(Hold::None) && claim.hold == Hold::Guard;
    let claim = Lease { hold: if drops_guard { Hold::None } else { claim.hold }, ..claim.clone() };
    if !caller.owner.is_none() {
        return shared(&claim, caller);
    }
    // The owner of an orphan is gone.
    let mut holders: Vec<_> = claim.holders().filter(|_| !claim.orphaned).collect();
    let part = holders.iter_mut().find(|holder| holder.owner.is_none());
    let id = part.as_ref().map_or(caller.id, |part| part.id);
    if let Some(part) = part {
        if part.deadline.is_some_and(|ends| caller.deadline.is_none_or(|later| later > ends)) {
            (part.ttl, part.deadline) = (caller.ttl, caller.deadline);
        }
    } else {
        holders.push(caller);
    }
    let claimed = claim.held_by(holders).unwrap_or(claim);
    Ok((Lease { orphaned: false, ..claimed }, id))
}

/// The refusal of another port than the one that a claim has.
pub(super) fn has_another_port(claim: &Lease) -> Error {
    let Lease { port, service_type, service_name, .. } = claim;
    let name = service_name.as_ref().map(|name| format!(" {name}")).unwrap_or_default();
    Error::new(
        ErrorKind::PortInUse,
        format!("{service_type}{name} of this project has port {port} already"),
    )
    .suggest(format!(
        "release that (`styxy release {port}`), give this service another name (--name), or ask for a lease of its \
         own (--new)"
    ))
}
