//! Claims: leases that are identified by their service. Whoever asks for the same service gets the same lease, so that a
//! port in a `.env` stays true.

use std::sync::Arc;

use super::{Registry, granting::name_of_share, holders::shared, is_idle};
use crate::{
    change::Change,
    error::{Error, ErrorKind},
    lease::{EndReason, Holder, HolderId, Lease, Owner, ServiceName, Use},
    port::Protocol,
    request::{AllocateRequest, OwnerRequest},
    service_type::{Claims, Hold, InstanceBehavior, ServiceType},
};

impl Registry {
    /// The live claim that a request means: that of the same project, package, type, name, protocol and count, for the same
    /// instance. A request that only uses a claim gets one that nobody uses. The lease of a running command is a claim, too:
    /// one that somebody has asked for comes before it.
    pub fn claim(
        &self,
        request: &AllocateRequest,
        service_type: &ServiceType,
    ) -> Option<&Arc<Lease>> {
        if !is_for_claim(request, service_type) {
            return None;
        }
        let claims = self.claims.get(&request.memory_key()?)?;
        let claims = claims.iter().filter_map(|(_, id)| self.leases.get(id)).filter(|lease| {
            let is_its = lease.claim && lease.instance_id == request.instance_id;
            // A server on another port, or on one without a guard, leaves the claim as it is.
            let is_wanted = request.port.is_none_or(|port| port == lease.port)
                && (request.hold != Some(Hold::None) || lease.hold == Hold::None);
            is_its
                && (request.claim || is_wanted && (!is_used(lease) || is_own(lease, request)))
                && self.is_whole(lease)
        });
        let mut claims: Vec<_> = claims.collect();
        claims.sort_by_key(|lease| !lease.is_asked_for());
        let mut claims = claims.into_iter();
        let Some(program) = &request.program else {
            // The port of another program is not used.
            return claims.find(|lease| lease.slot == 1 || lease.program.is_none());
        };
        let of = |program: Option<&ServiceName>| {
            claims.clone().find(|lease| lease.program.as_ref() == program)
        };
        of(Some(program)).or_else(|| of(None))
    }

    /// The lease of the command around the caller, if a completed request is for its service. Whether others have it by now is
    /// not known here.
    pub fn around(&self, request: &AllocateRequest) -> Option<&Arc<Lease>> {
        let lease = self.get(request.within?).ok()?;
        let is_of_service = lease.service_type == request.service_type
            && lease.service_name == request.service_name
            && lease.project_path == request.project_path
            && lease.package_path == request.package_path
            && lease.instance_id == request.instance_id
            && lease.singleton_key == request.singleton_key;
        let is_as_asked = request.template.is_none()
            && request.count == 1
            && lease.block_id.is_none_or(|first| first == lease.lease_id)
            && request.port.is_none_or(|port| port == lease.port)
            && request.protocol() == lease.protocol
            && request.hold.is_none_or(|hold| hold == lease.hold);
        (is_of_service && is_as_asked && !lease.orphaned).then_some(lease)
    }

    /// A claim that gives way to a request of this type, which finds no port: the oldest that nobody has used and that has lost
    /// its guard. Blocks neither give way nor make others do so.
    pub fn gives_way(
        &self,
        request: &AllocateRequest,
        service_type: &ServiceType,
        is_listened: impl Fn(&Lease) -> bool,
    ) -> Option<Change> {
        let request = self.completed(request, service_type).ok().filter(|r| !r.dry_run)?;
        let first = self.first_to_give_way(&request, service_type, is_listened)?;
        Some(Change::end(Arc::clone(first), EndReason::Yielded))
    }

    /// The same for a completed request.
    pub(super) fn first_to_give_way(
        &self,
        request: &AllocateRequest,
        service_type: &ServiceType,
        mut is_in_use: impl FnMut(&Lease) -> bool,
    ) -> Option<&Arc<Lease>> {
        // The real port of a mapping must not be just any of the type.
        let is_any = request.count == 1 && request.asked.is_none();
        let ports = service_type.ranges().filter(|_| is_any).flat_map(|r| r.ports());
        let leases = ports.filter_map(|port| self.at(port, request.protocol()));
        let idle =
            leases.filter(|lease| is_idle(lease) && lease.block_id.is_none() && !is_in_use(lease));
        idle.min_by_key(|lease| lease.since)
    }

    /// Whether all leases of a block are live.
    fn is_whole(&self, lease: &Lease) -> bool {
        lease.block_id.is_none_or(|id| self.leases_of_block(id).len() == usize::from(lease.count))
    }
}

/// Whether a grant for this request is a claim. An owned block is none: it has one lease for each port, and none of them
/// can be shared.
pub(super) fn is_for_claim(request: &AllocateRequest, service_type: &ServiceType) -> bool {
    let is_unnamed = request.service_name.is_none() && service_type.claims == Claims::Named;
    let is_owned_block = request.count > 1 && !matches!(request.owner, OwnerRequest::None);
    let is_single = service_type.instance_behavior == InstanceBehavior::Single;
    (request.claim || request.use_claim) && !(is_unnamed || is_owned_block || is_single)
}

/// Whether the caller itself holds the claim already, because its answer was lost.
pub(super) fn is_own(claim: &Lease, request: &AllocateRequest) -> bool {
    let name = name_of_share(claim, request);
    name.is_some_and(|name| claim.holder_ids().any(|id| id == name))
}

/// Whether a server runs, or may run, on the port of a claim.
pub fn is_used(claim: &Lease) -> bool {
    claim.orphaned || claim.is_owned()
}

/// The claim after another request, and the id of the caller's share. All requests without an owner have one share
/// together, which lasts for the longest time that any of them asked for.
///
/// # Errors
///
/// [`ErrorKind::LimitExceeded`] if too many use it already.
pub(super) fn claimed(
    claim: &Lease,
    caller: Holder,
    hold: Option<Hold>,
) -> Result<(Lease, Option<HolderId>), Error> {
    let hold = match claim.hold {
        // A server that finds its port in use asks for one without a guard.
        Hold::Guard if hold == Some(Hold::None) => Hold::None,
        // A request without an owner outlives the program that has the socket.
        Hold::Socket if caller.owner.is_none() && claim.protocol == Protocol::Tcp => Hold::Guard,
        hold => hold,
    };
    // Whoever asks again is about to use it.
    let used = match claim.used {
        _ if !caller.owner.is_none() => Use::Once,
        Use::Idle => Use::None,
        used => used,
    };
    let claim = Lease { used, hold, ..claim.clone() };
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

/// The refusal to move a claim that is in use.
pub fn has_another_port(claim: &Lease) -> Error {
    let Lease { port, service_type, .. } = claim;
    let name = claim.name().map(|name| format!(" {name}")).unwrap_or_default();
    let who = match claim.owners().next() {
        Some(Owner::Process { pid, .. }) => format!("process {pid}"),
        Some(Owner::Unit { unit }) => format!("unit {unit}"),
        _ => "a server".to_owned(),
    };
    Error::new(
        ErrorKind::PortInUse,
        format!("{service_type}{name} of this project has port {port}, and {who} uses it"),
    )
    .suggest(
        "stop that first, give this service another name (--name), or ask for a lease of its own (--new)",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{lease::LeaseId, port::Port};

    #[test]
    fn a_claim_on_a_socket_that_was_handed_over_is_guarded_for_who_only_asks() {
        let lease = Lease::new(LeaseId::from_number(1), Port::MAX, "dev".parse().unwrap());
        let owner = Owner::Process { pid: 1, start: 1 };
        let of_server = Lease { claim: true, hold: Hold::Socket, owner: owner.clone(), ..lease };
        let caller = |owner| Holder {
            id: Some(HolderId::from_number(2)),
            owner,
            instance_id: None,
            ttl: None,
            deadline: None,
        };
        let (asked, _) = claimed(&of_server, caller(Owner::None), None).unwrap();
        assert_eq!((asked.hold, asked.sharers.len()), (Hold::Guard, 1));
        let (used, _) = claimed(&of_server, caller(owner), None).unwrap();
        assert_eq!(used.hold, Hold::Socket, "it is the server's own");
    }
}
