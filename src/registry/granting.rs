//! Granting: what a request gets, and the changes that it takes.

use std::sync::Arc;

use super::{
    Choice, Registry,
    claims::{claimed, is_for_claim},
    holders::shared,
};
use crate::{
    change::Change,
    error::{Error, ErrorKind},
    lease::{Holder, HolderId, Lease, LeaseId, Owner, Use},
    obstacle::Obstacle,
    port::{Port, Protocol},
    request::{AllocateRequest, Filter},
    service_type::{Hold, InstanceBehavior, ServiceType},
    time::{Moment, Timestamp},
};

/// The note where the port cannot be guarded.
const UDP_IS_NOT_HELD: &str = "the port is not held: another program can take it until yours binds it (`styxy exec` hands over the bound socket)";

/// The note where a server has the port already.
const CANNOT_BE_HELD: &str = "the port is not guarded: a server listens on it already";

/// What a request gets, before anything is changed.
#[derive(Clone, Debug)]
pub struct Decision {
    /// The port, or the lease that is there already.
    pub choice: Choice,
    /// The request, with what its type says.
    pub request: AllocateRequest,
    /// How the port is kept.
    pub hold: Hold,
    /// A note for the caller about that.
    pub note: Option<String>,
    /// Whether the service is a singleton.
    pub is_single: bool,
    /// The slot of the service; 0 if nothing is remembered.
    pub slot: u16,
    /// Whether it is a claim.
    pub is_claim: bool,
}

/// The means at hand for a grant.
#[derive(Clone, Copy, Debug)]
pub struct Means {
    /// Whether an automatic type can get another range.
    pub can_grow: bool,
    /// Whether the bound socket is handed over.
    pub hand_over: bool,
    /// The number of guards, and its limit.
    pub guards: (usize, usize),
}

/// The moment of a grant, by both clocks.
#[derive(Clone, Copy, Debug)]
pub struct At {
    /// The monotonic clock, for time limits.
    pub now: Moment,
    /// The wall clock, for people.
    pub wall: Timestamp,
}

/// An existing lease, with one holder more.
#[derive(Clone, Debug)]
pub struct Shared {
    /// The change to make.
    pub change: Change,
    /// The lease as the caller sees it.
    pub seen: Lease,
    /// The id of the caller's share, if anything ends that.
    pub holder: Option<HolderId>,
    /// The id that the caller chose for it.
    pub name: Option<HolderId>,
    /// Whether the caller became a holder by this request.
    pub is_new: bool,
    /// Whether the request was repeated with the same id; once the change is made, call [`Registry::note_repeated`].
    pub is_repeated: bool,
}

/// What a repeated request was granted the first time.
#[derive(Clone, Debug)]
pub struct Before {
    /// The lease; of a block, the first.
    pub lease: Arc<Lease>,
    /// The further leases of a block.
    pub others: Vec<Arc<Lease>>,
    /// Whether the service runs once.
    pub is_single: bool,
}

/// A lease, or one holder's share of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// The lease.
    pub lease_id: LeaseId,
    /// The holder, if it can be shared.
    pub holder: Option<HolderId>,
    /// The id that the caller chose, by which it may be requested again.
    pub name: Option<HolderId>,
}

impl Registry {
    /// What a request gets by this type, which may be one that is not known yet; `None` if the type needs a range, or a
    /// further one, and may have it. `ask` says whether a port is free at this moment.
    ///
    /// # Errors
    ///
    /// If nothing can be granted: see [`choose`](Self::choose).
    pub fn decide(
        &self,
        request: &AllocateRequest,
        service_type: &ServiceType,
        means: Means,
        ask: impl FnMut(Port) -> Result<(), Obstacle>,
    ) -> Result<Option<Decision>, Error> {
        let name = &request.service_type;
        let mut request = self.completed(request, service_type)?;
        if means.hand_over && request.protocol() == Protocol::Both {
            return Err(Error::invalid("one socket is handed over at a time: ask for tcp or udp"));
        }
        let choice = match self.choose(&request, service_type, ask) {
            Err(error)
                if error.kind == ErrorKind::PoolExhausted
                    && means.can_grow
                    && service_type.created.is_some()
                    && self.rules.auto.enabled =>
            {
                return Ok(None);
            }
            choice => choice?,
        };
        if let Choice::Existing(lease) = &choice {
            if means.hand_over && !lease.claim {
                return Err(Error::new(
                    ErrorKind::PortInUse,
                    "this service runs once, and its lease has no socket to hand over",
                )
                .suggest("ask without the socket (Allocate, `styxy allocate`) to learn its port"));
            }
            if !request.protocol().parts().iter().all(|part| lease.protocol.parts().contains(part))
            {
                let (port, words) = (lease.port, lease.protocol.in_words());
                let message =
                    format!("{name} runs once, and its port {port} is leased for {words}");
                return Err(Error::new(ErrorKind::PortInUse, message).suggest(format!(
                    "ask for {}, or give it a key of its own (singleton_key)",
                    lease.protocol
                )));
            }
        }
        let (hold, note) = hold(&request, service_type, means);
        let is_single = service_type.instance_behavior == InstanceBehavior::Single;
        let (slot, program) = match (&choice, self.slot(&request), &request.project_path) {
            // It replaces that claim.
            (Choice::Moved(claim, _), ..) => (claim.slot, claim.program.clone()),
            (_, Some(slot), _) => (slot.number, slot.program().cloned()),
            (_, None, Some(_)) => (0, None),
            // Without a project nothing is remembered, and there are no slots.
            (_, None, None) => (1, None),
        };
        // A claim is most likely for the program that ran last.
        request.program = request.program.or(program.filter(|_| request.claim));
        // Claims are found by their slots.
        let is_claim = slot > 0 && is_for_claim(&request, service_type);
        Ok(Some(Decision { choice, request, hold, note, is_single, slot, is_claim }))
    }

    /// Checks that the id that a request chose is free, or belongs to a share of this lease.
    ///
    /// # Errors
    ///
    /// If it is not.
    pub fn name_is_free(
        &self,
        request: &AllocateRequest,
        shared: Option<&Lease>,
    ) -> Result<(), Error> {
        // The first holder gets an id that is derived from it, which must be free, too.
        let ids = request.lease_id.map(|id| [id, HolderId::first_of(id).into()]);
        let mut named = ids.iter().flatten().filter_map(|id| self.named(*id).ok());
        let is_other =
            |lease: &Lease| shared.is_none_or(|shared| shared.lease_id != lease.lease_id);
        match named.find(|(lease, _)| is_other(lease)) {
            Some((lease, _)) => Err(name_is_taken(lease)),
            None => Ok(()),
        }
    }

    /// What this request was granted before, if its answer was lost, as when the service was killed.
    ///
    /// # Errors
    ///
    /// If its `lease_id` names what another request was granted.
    pub fn granted_before(&mut self, request: &AllocateRequest) -> Result<Option<Before>, Error> {
        let known = request.lease_id.and_then(|lease_id| self.get(lease_id).ok());
        let Some(lease) = known.filter(|_| !request.dry_run).map(Arc::clone) else {
            return Ok(None);
        };
        let mut others = self.leases_of_block(lease.lease_id);
        others.retain(|other| other.lease_id != lease.lease_id);
        let is_other_request = lease.service_type != request.service_type
            || lease.asked != request.asked
            || lease.asked.is_some() && lease.remap != request.remap.unwrap_or_default()
            || lease.service_name != request.service_name
            || lease.project_path != request.project_path
            || lease.package_path != request.package_path
            // Without one, the type's default applied.
            || request.protocol.is_some_and(|protocol| protocol != lease.protocol)
            || others.len() + 1 != usize::from(request.count)
            || request.port.is_some_and(|port| request.strict && port != lease.port);
        if is_other_request {
            return Err(name_is_taken(&lease));
        }
        let first = HolderId::first_of(lease.lease_id);
        if lease.holder_ids().next().is_some() && lease.holder_ids().all(|id| id != first) {
            // By now only others hold it.
            return Ok(None);
        }
        self.note_repeated(lease.lease_id.into());
        let is_single = self.is_singleton(&lease.service_type);
        Ok(Some(Before { lease, others, is_single }))
    }

    /// The leases of a block.
    pub fn leases_of_block(&self, block_id: LeaseId) -> Vec<Arc<Lease>> {
        self.list(&Filter { block_id: Some(block_id), ..Filter::default() })
    }

    /// A lease, and the others of its block.
    pub fn with_block(&self, lease: &Arc<Lease>) -> Vec<Arc<Lease>> {
        lease.block_id.map_or_else(|| vec![Arc::clone(lease)], |id| self.leases_of_block(id))
    }

    /// Adds the caller to the holders of an existing lease. `id` names the share of a caller that chose no id.
    ///
    /// # Errors
    ///
    /// If its `lease_id` names something else, or too many share the lease.
    pub fn share(
        &self,
        lease: &Lease,
        request: &AllocateRequest,
        owner: &Owner,
        id: HolderId,
        now: Moment,
    ) -> Result<Shared, Error> {
        self.name_is_free(request, Some(lease))?;
        let name = name_of_share(lease, request);
        let id = Some(name.unwrap_or(id));
        let caller = Holder {
            id,
            owner: owner.clone(),
            instance_id: request.instance_id.clone(),
            ttl: request.ttl,
            deadline: request.ttl.map(|ttl| now.plus_seconds(ttl)),
        };
        let (shared, holder) = if lease.claim {
            let program = request.program.clone().or(lease.program.clone());
            let (shared, holder) = claimed(lease, caller, request.hold)?;
            (Lease { program, ..shared }, holder)
        } else {
            shared(lease, caller)?
        };
        // Repeated because the answer was lost, it is the same share.
        let is_repeated = name.is_some_and(|name| lease.holder_ids().any(|id| id == name));
        let part = shared.holders().find(|part| part.id == holder).filter(|_| lease.claim);
        let (owner, ttl) = match part {
            Some(Holder { owner, ttl, .. }) => (owner, ttl),
            // The owner of an orphan is gone, and the time limit is the caller's own.
            None if lease.orphaned => (Owner::None, request.ttl),
            None => (shared.owner.clone(), request.ttl),
        };
        let seen = Lease { owner, ttl, ..shared.clone() };
        let change = Change::Reuse { lease: Arc::new(shared) };
        let is_new = holder == id && !is_repeated;
        Ok(Shared { change, seen, holder, name, is_new, is_repeated })
    }

    /// Records that the share with this id was requested again and is about to be answered: if the first answer was lost,
    /// it is not taken back.
    pub fn note_repeated(&mut self, name: HolderId) {
        self.repeated.insert(name);
    }
}

/// The id that a caller chose for its share of a lease. The first holder's share must not have the id of the lease,
/// which others hold, too.
pub fn name_of_share(lease: &Lease, request: &AllocateRequest) -> Option<HolderId> {
    request.lease_id.map(|id| match id {
        id if id == lease.lease_id => HolderId::first_of(id),
        id => HolderId::from(id),
    })
}

/// The leases of a grant, from this port on. `id` makes their ids, except for the first if the request chose one.
pub fn new_leases(
    decision: &Decision,
    first: Port,
    owner: &Owner,
    At { now, wall }: At,
    mut id: impl FnMut() -> LeaseId,
) -> Vec<Arc<Lease>> {
    let Decision { request, hold, is_single, slot, is_claim, .. } = decision;
    let first_id = request.lease_id.unwrap_or_else(&mut id);
    let ports = (0..request.count).filter_map(|offset| first.plus(offset));
    let leases = ports.map(|port| {
        let lease_id = if port == first { first_id } else { id() };
        Arc::new(Lease {
            lease_id,
            port,
            protocol: request.protocol(),
            asked: request.asked,
            remap: request.remap.unwrap_or_default(),
            service_type: request.service_type.clone(),
            service_name: request.service_name.clone(),
            program: request.program.clone(),
            instance_id: request.instance_id.clone(),
            project_path: request.project_path.clone(),
            package_path: request.package_path.clone(),
            slot: *slot,
            owner: owner.clone(),
            claim: *is_claim,
            used: if *is_claim && !owner.is_none() { Use::Once } else { Use::None },
            hold: *hold,
            ttl: request.ttl,
            deadline: request.ttl.map(|ttl| now.plus_seconds(ttl)),
            orphaned: false,
            holder_id: (*is_single || *is_claim || request.asked.is_some())
                .then(|| HolderId::first_of(lease_id)),
            block_id: (request.count > 1).then_some(first_id),
            count: request.count,
            sharers: Vec::new(),
            singleton_key: request.singleton_key.clone(),
            since: wall,
        })
    });
    leases.collect()
}

/// How the ports of a request are kept, and a note about it.
fn hold(
    request: &AllocateRequest,
    service_type: &ServiceType,
    Means { hand_over, guards: (guards, most), .. }: Means,
) -> (Hold, Option<String>) {
    if hand_over {
        return (Hold::Socket, None);
    }
    if request.adopt {
        return (Hold::None, Some(CANNOT_BE_HELD.to_owned()));
    }
    let wanted = request.hold.unwrap_or(service_type.hold);
    // UDP has no way to hold a port and let a server bind it, too.
    let note = match request.protocol() {
        Protocol::Tcp => None,
        Protocol::Udp => Some(UDP_IS_NOT_HELD.to_owned()),
        Protocol::Both => Some(format!("for UDP {UDP_IS_NOT_HELD}")),
    };
    if wanted != Hold::Guard || request.protocol() == Protocol::Udp {
        return (Hold::None, note);
    }
    if guards + usize::from(request.count) > most {
        let note = format!("the port is not guarded: the limit of {most} guards is reached");
        return (Hold::None, Some(note));
    }
    (Hold::Guard, note)
}

/// An id is that of one lease, or of one share.
fn name_is_taken(lease: &Lease) -> Error {
    let Lease { port, protocol, service_type, .. } = lease;
    Error::invalid(format!(
        "lease_id was used before, for port {port}/{protocol} of {service_type}"
    ))
    .suggest("leave out lease_id, or give a new one (UUID of version 4)")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{port::PortRange, registry::Rules, service_type::ServiceTypes};

    const MEANS: Means = Means { can_grow: false, hand_over: false, guards: (0, 10) };
    const AT: At = At { now: Moment(0), wall: Timestamp(0) };

    fn registry(service_type: ServiceType) -> Registry {
        let types = ServiceTypes([("mine".parse().unwrap(), service_type)].into());
        Registry::new(Rules::of(types))
    }

    fn request(named: Option<u128>) -> AllocateRequest {
        let lease_id = named.map(LeaseId::from_number);
        AllocateRequest { lease_id, ..AllocateRequest::new("mine".parse().unwrap()) }
    }

    fn ports() -> ServiceType {
        ServiceType::new(PortRange::new(Port::new(5_000).unwrap(), Port::MAX).unwrap())
    }

    fn granted(registry: &mut Registry, request: &AllocateRequest) -> Arc<Lease> {
        let service_type = registry.rules().types.get(&request.service_type).unwrap();
        let decision = registry.decide(request, service_type, MEANS, |_| Ok(())).unwrap().unwrap();
        let Choice::Port(first) = decision.choice else { panic!("a new one: {decision:?}") };
        let lease = new_leases(&decision, first, &Owner::None, AT, LeaseId::random).remove(0);
        let remembers = registry.remembers(request, &lease);
        registry.apply(1, AT.wall, &Change::Allocate { lease: Arc::clone(&lease), remembers });
        lease
    }

    #[test]
    fn a_request_that_comes_again_without_a_protocol_gets_the_port_of_its_types_protocol() {
        let mut registry = registry(ServiceType { protocol: Protocol::Udp, ..ports() });
        let request = request(Some(7));
        let lease = granted(&mut registry, &request);
        assert_eq!(lease.protocol, Protocol::Udp);
        let before = registry.granted_before(&request).unwrap().unwrap();
        assert_eq!(before.lease, lease);
        let other = AllocateRequest { protocol: Some(Protocol::Tcp), ..request };
        assert!(registry.granted_before(&other).is_err(), "that is another request");
    }

    #[test]
    fn what_was_asked_for_again_is_known_as_long_as_its_share_lasts() {
        let single = ServiceType { instance_behavior: InstanceBehavior::Single, ..ports() };
        let mut registry = registry(single);
        let lease = granted(&mut registry, &request(None));
        let owner = Owner::Process { pid: 1, start: 1 };
        let (request, id) = (request(Some(7)), HolderId::from_number(8));
        let share = |registry: &Registry| {
            let lease = registry.get(lease.lease_id).unwrap();
            registry.share(lease, &request, &owner, id, Moment(0)).unwrap()
        };
        let first = share(&registry);
        assert!(first.is_new && !first.is_repeated);
        registry.change(2, AT.wall, &first.change);
        let again = share(&registry);
        assert!(!again.is_new && again.is_repeated);
        let name = again.name.unwrap();
        registry.note_repeated(name);
        let taken_back = |registry: &Registry| {
            let share = Share { lease_id: lease.lease_id, holder: Some(name), name: Some(name) };
            registry.take_back(&[share], crate::lease::EndReason::NotDelivered)
        };
        assert_eq!(taken_back(&registry), [], "it was answered once more");
        for change in registry.ends_with_owner(&owner) {
            registry.change(3, AT.wall, &change);
        }
        let anew = share(&registry);
        assert!(anew.is_new && !anew.is_repeated);
        registry.change(4, AT.wall, &anew.change);
        assert_eq!(taken_back(&registry).len(), 1, "that answer is another one");
    }

    #[test]
    fn no_id_is_taken_whose_first_holder_would_be_called_like_another_lease() {
        let mut registry = registry(ports());
        let lease = granted(&mut registry, &request(Some(7)));
        let first = LeaseId::from(HolderId::first_of(lease.lease_id));
        let named = |lease_id| AllocateRequest { lease_id: Some(lease_id), ..request(None) };
        for taken in [lease.lease_id, first] {
            assert!(registry.name_is_free(&named(taken), None).is_err(), "{taken}");
            assert!(registry.name_is_free(&named(taken), Some(&lease)).is_ok(), "{taken}");
        }
        assert!(registry.name_is_free(&named(LeaseId::from_number(8)), None).is_ok());
    }

    fn of(project: &str) -> AllocateRequest {
        AllocateRequest { project_path: Some(project.parse().unwrap()), ..request(None) }
    }

    /// Gives a new lease this owner.
    fn owned(registry: &mut Registry, request: &AllocateRequest, pid: u32) -> Arc<Lease> {
        let lease = granted(registry, request);
        let owner = Owner::Process { pid, start: 1 };
        let lease = Arc::new(Lease { owner, ..Lease::clone(&lease) });
        registry.apply(2, AT.wall, &Change::Renew { lease: Arc::clone(&lease) });
        lease
    }

    #[test]
    fn only_its_own_project_ends_by_its_port_what_may_be_about_to_listen() {
        let mut registry = registry(ports());
        let lease = owned(&mut registry, &of("/shop"), 7);
        let asks = |project| AllocateRequest { port: Some(lease.port), ..of(project) };
        let is_in_the_way = |registry: &Registry, project, millis| {
            let now = Timestamp(millis);
            registry.owners_in_the_way_of(&asks(project), now).contains(&lease.owner)
        };
        assert!(is_in_the_way(&registry, "/shop", 0) && !is_in_the_way(&registry, "/other", 0));
        assert!(is_in_the_way(&registry, "/other", 60_000), "it is not young");
        assert!(registry.owner_ended(&lease.owner, AT.wall, |_| false).is_leaving);
        let is_leaving = |project| !registry.leaving_in_the_way_of(&asks(project)).is_empty();
        assert!(is_leaving("/shop") && !is_leaving("/other"));
    }

    #[test]
    fn the_lease_of_the_command_around_a_request_is_its_own_if_it_is_for_the_same_service() {
        let mut registry = registry(ports());
        let lease = owned(&mut registry, &of("/shop"), 7);
        let within = AllocateRequest { within: Some(lease.lease_id), ..of("/shop") };
        let is_shared = |request: &AllocateRequest| {
            let request = request.completed(&ports()).unwrap();
            registry.around(&request).is_some()
        };
        assert!(is_shared(&within));
        assert!(is_shared(&AllocateRequest { port: Some(lease.port), ..within.clone() }));
        for other in [
            AllocateRequest { within: None, ..within.clone() },
            AllocateRequest { within: Some(LeaseId::from_number(3)), ..within.clone() },
            AllocateRequest { service_name: Some("web".parse().unwrap()), ..within.clone() },
            AllocateRequest { project_path: Some("/other".parse().unwrap()), ..within.clone() },
            AllocateRequest { protocol: Some(Protocol::Udp), ..within.clone() },
            AllocateRequest { count: 2, ..within.clone() },
            AllocateRequest { port: lease.port.plus(1), ..within.clone() },
        ] {
            assert!(!is_shared(&other), "{other:?}");
        }
    }
}
