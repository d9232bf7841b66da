//! Mappings: the real ports of those that the programs of a project ask for, because they are hard-coded. Within a project
//! a number means one thing: whoever asks for it shares its lease, and no real port is another's number.

use std::{
    collections::{BTreeMap, HashSet, hash_map::Entry},
    sync::Arc,
};

use super::Registry;
use crate::{
    error::{Error, ErrorKind},
    lease::{Lease, LeaseId, ProjectPath, Remap},
    port::{Port, Protocol},
    request::AllocateRequest,
};

/// Ports below need a privilege (ip(7), `ip_unprivileged_port_start`).
const LEAST_REAL: u16 = 1024;

impl Registry {
    /// The live mapping of a port that is asked for in a project.
    pub fn mapping(
        &self,
        project_path: &ProjectPath,
        protocol: Protocol,
        asked: Port,
    ) -> Option<&Arc<Lease>> {
        let lease_id = self.mappings.get(project_path)?.get(&(protocol, asked))?;
        self.leases.get(lease_id)
    }

    /// The live mapping of the same number of the same project.
    pub(super) fn same_mapping(&self, lease: &Lease) -> Option<&Arc<Lease>> {
        let (project_path, asked, _) = key_of(lease)?;
        self.mapping(project_path, lease.protocol, asked)
    }

    /// The live mappings of a project.
    fn mappings_of(&self, project_path: &ProjectPath) -> impl Iterator<Item = &Arc<Lease>> {
        let ids = self.mappings.get(project_path).into_iter().flat_map(BTreeMap::values);
        ids.filter_map(|lease_id| self.leases.get(lease_id))
    }

    /// The live mapping that a completed request shares; `None` if it gets a new one, or asks for none.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidArgument`] if the other mappings of the project are of another mode, for then some of its programs
    /// would reach what others can't; [`ErrorKind::PortInUse`] if the number is a real port of the project already.
    pub fn mapped(&self, request: &AllocateRequest) -> Result<Option<&Arc<Lease>>, Error> {
        let (Some(asked), Some(project_path)) = (request.asked, &request.project_path) else {
            return Ok(None);
        };
        let remap = request.remap.unwrap_or_default();
        if let Some(other) = self.mappings_of(project_path).find(|lease| lease.remap != remap) {
            return Err(other_mode(other, remap));
        }
        if let Some(lease) = self.mapping(project_path, request.protocol(), asked) {
            return Ok(Some(lease));
        }
        // With the other protocol the number may be its own real port.
        let is_its = |lease: &&Arc<Lease>| lease.port == asked && lease.asked != Some(asked);
        match self.mappings_of(project_path).find(is_its) {
            Some(lease) => Err(is_real(lease)),
            None => Ok(None),
        }
    }

    /// Whether the real port of a new mapping may be the number that is asked for, which is that number, and the numbers that
    /// mean something in the project, which it must not be.
    pub(super) fn numbers(&self, request: &AllocateRequest) -> (Option<Port>, HashSet<Port>) {
        let (Some(asked), Some(project_path)) = (request.asked, &request.project_path) else {
            return (None, HashSet::new());
        };
        let live = self.mappings_of(project_path).filter_map(|lease| lease.asked);
        let known = self.memory.newest(Some(project_path)).filter_map(|(key, _)| key.asked);
        let mut meant: HashSet<_> = live.chain(known).collect();
        match request.remap.unwrap_or_default() {
            Remap::Private => {
                meant.insert(asked);
                (None, meant)
            }
            Remap::Conflict => {
                meant.remove(&asked);
                (Some(asked).filter(|asked| asked.get() >= LEAST_REAL), meant)
            }
        }
    }

    /// Whether a remembered real port may be had again: it is in the range of some type, whichever it was granted by, or is
    /// the number itself. Every other request may have its port again wherever that is.
    pub(super) fn may_be_real_again(&self, request: &AllocateRequest, port: Port) -> bool {
        request.asked.is_none_or(|asked| asked == port)
            || self.rules.types.0.values().any(|service_type| service_type.contains(port))
    }

    /// Notes a mapping, in the place of any other of the same number: there is one only if a damaged log lacks its end.
    pub(super) fn insert_mapping(&mut self, lease: &Lease) {
        let Some((project_path, asked, lease_id)) = key_of(lease) else { return };
        if let Some(before) = self.same_mapping(lease).map(Arc::clone) {
            self.remove(&before);
        }
        let mappings = self.mappings.entry(project_path.clone()).or_default();
        mappings.insert((lease.protocol, asked), lease_id);
    }

    pub(super) fn remove_mapping(&mut self, lease: &Lease) {
        let Some((project_path, asked, _)) = key_of(lease) else { return };
        if let Entry::Occupied(mut mappings) = self.mappings.entry(project_path.clone()) {
            mappings.get_mut().remove(&(lease.protocol, asked));
            if mappings.get().is_empty() {
                mappings.remove();
            }
        }
    }
}

fn key_of(lease: &Lease) -> Option<(&ProjectPath, Port, LeaseId)> {
    Some((lease.project_path.as_ref()?, lease.asked?, lease.lease_id))
}

fn other_mode(other: &Lease, remap: Remap) -> Error {
    let (project, mode) = (project_of(other), other.remap.as_str());
    let port = other.asked.unwrap_or(other.port);
    Error::invalid(format!(
        "{project} maps port {port} in mode {mode}, and all mappings of a project have one mode, not also {}",
        remap.as_str()
    ))
    .suggest(format!(
        "ask with remap {mode}, or end the other mappings first (`styxy list --project {project}` shows them)"
    ))
}

fn is_real(lease: &Lease) -> Error {
    let Lease { port, .. } = lease;
    let asked = lease.asked.unwrap_or(*port);
    Error::new(
        ErrorKind::PortInUse,
        format!("port {port} is really port {asked} of {} already", project_of(lease)),
    )
    .suggest(format!("connect to {asked}, or end that mapping (`styxy release {port}`)"))
}

fn project_of(lease: &Lease) -> String {
    lease.project_path.as_ref().map_or_else(|| "this project".to_owned(), ToString::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        change::Change,
        lease::{EndReason, HolderId, Owner},
        obstacle::{InUse, Obstacle},
        port::PortRange,
        registry::{
            Choice, Rules,
            granting::{At, Means, new_leases},
            merge::{self, Grip, Other},
        },
        service_type::{InstanceBehavior, ServiceType, ServiceTypes},
        time::{Moment, Timestamp},
    };

    const AT: At = At { now: Moment(0), wall: Timestamp(1_000_000) };

    /// A registry, and what happens to it.
    struct World {
        registry: Registry,
        seq: u64,
        /// Ports that something else has.
        busy: Vec<u16>,
    }

    fn port(number: u16) -> Port {
        Port::new(number.into()).unwrap()
    }

    fn range(first: u16, last: u16) -> ServiceType {
        ServiceType::new(PortRange::new(port(first), port(last)).unwrap())
    }

    /// Types `remap` (21000-21009) and `api` (8000-8009, where the first two are preferred).
    fn world() -> World {
        let api =
            ServiceType { preferred_ports: vec![port(8000), port(8001)], ..range(8000, 8009) };
        let types = [("remap", range(21_000, 21_009)), ("api", api)];
        let types = types.map(|(name, service_type)| (name.parse().unwrap(), service_type));
        let registry = Registry::new(Rules {
            max_leases: 100,
            max_per_project: 100,
            max_remembered: 100,
            ..Rules::of(ServiceTypes(types.into()))
        });
        World { registry, seq: 0, busy: Vec::new() }
    }

    fn asking(service_type: &str, project: &str, asked: u16) -> AllocateRequest {
        AllocateRequest {
            asked: Some(port(asked)),
            project_path: Some(project.parse().unwrap()),
            ..AllocateRequest::new(service_type.parse().unwrap())
        }
    }

    fn request(asked: u16) -> AllocateRequest {
        asking("remap", "/shop", asked)
    }

    fn conflict(asked: u16) -> AllocateRequest {
        AllocateRequest { remap: Some(Remap::Conflict), ..request(asked) }
    }

    fn process(pid: u32) -> Owner {
        Owner::Process { pid, start: 1 }
    }

    impl World {
        fn apply(&mut self, change: &Change) {
            self.seq += 1;
            self.registry.change(self.seq, AT.wall, change);
        }

        /// Grants the request to that process, or lets it share what is there.
        fn ask(&mut self, request: &AllocateRequest, pid: u32) -> Result<Arc<Lease>, Error> {
            let means = Means { can_grow: false, hand_over: false, guards: (0, 10) };
            let service_type = self.registry.rules().types.get(&request.service_type)?;
            let decision = self.registry.decide(request, service_type, means, |port| {
                let is_busy = self.busy.contains(&port.get());
                if is_busy { Err(Obstacle::InUse(InUse::Socket)) } else { Ok(()) }
            })?;
            let decision = decision.unwrap();
            self.seq += 1;
            let id = u128::from(self.seq);
            let change = match &decision.choice {
                Choice::Existing(lease) => {
                    let id = HolderId::from_number(id);
                    let owner = process(pid);
                    self.registry.share(lease, &decision.request, &owner, id, AT.now)?.change
                }
                Choice::Port(first) => {
                    let id = || LeaseId::from_number(id);
                    let lease = new_leases(&decision, *first, &process(pid), AT, id).remove(0);
                    let remembers = self.registry.remembers(&decision.request, &lease);
                    Change::Allocate { lease, remembers }
                }
                Choice::Moved(..) => panic!("{decision:?}"),
            };
            self.apply(&change);
            let lease_id = change.lease().unwrap().lease_id;
            self.registry.get(lease_id).map(Arc::clone)
        }

        fn port(&mut self, request: &AllocateRequest) -> u16 {
            self.ask(request, 1).unwrap().port.get()
        }

        fn end(&mut self, pid: u32) {
            for change in self.registry.ends_with_owner(&process(pid)) {
                self.apply(&change);
            }
        }
    }

    #[test]
    fn whoever_asks_for_the_same_number_of_a_project_shares_its_lease() {
        let mut world = world();
        let first = world.ask(&request(3001), 1).unwrap();
        assert_eq!((first.port.get(), first.asked), (21_000, Some(port(3001))));
        assert_eq!(first.holder_id, Some(HolderId::first_of(first.lease_id)));
        // Neither the type nor the name matters, and an owner holds it once.
        let named = AllocateRequest {
            service_name: Some("web".parse().unwrap()),
            program: Some("node".parse().unwrap()),
            ..asking("api", "/shop", 3001)
        };
        for pid in [2, 2, 1] {
            let shared = world.ask(&named, pid).unwrap();
            assert_eq!((shared.lease_id, shared.holders().count()), (first.lease_id, 2), "{pid}");
        }
        world.end(1);
        assert_eq!(world.registry.len(), 1, "another still holds it");
        let (_, holder) = world.registry.named(first.lease_id).unwrap();
        assert_eq!(holder, None, "the lease and its shares have different names");
        world.end(2);
        assert!(world.registry.is_empty() && world.registry.mappings.is_empty());
        // A number of another project, or of the other protocol, is another.
        let udp = AllocateRequest { protocol: Some(Protocol::Udp), ..request(3001) };
        let others = [request(3001), asking("remap", "/blog", 3001), udp];
        let ids = others.map(|other| world.ask(&other, 1).unwrap().lease_id);
        assert!(ids[0] != ids[1] && ids[1] != ids[2] && ids[0] != ids[2], "{ids:?}");
    }

    #[test]
    fn an_orphan_is_taken_up_by_who_asks_for_its_number() {
        let mut world = world();
        let lease = world.ask(&request(3001), 1).unwrap();
        let lease = Arc::new(Lease { orphaned: true, ..Lease::clone(&lease) });
        world.apply(&Change::Orphan { lease });
        let lease = world.ask(&request(3001), 2).unwrap();
        let holders: Vec<_> = lease.holders().map(|holder| holder.owner).collect();
        assert_eq!((lease.orphaned, holders), (false, vec![process(2)]));
    }

    #[test]
    fn a_mapping_has_its_port_again_whatever_its_type_and_name_are() {
        let mut world = world();
        assert_eq!(
            [3001, 5173, 6379].map(|asked| world.port(&request(asked))),
            [21_000, 21_001, 21_002]
        );
        world.end(1);
        let named = AllocateRequest {
            service_name: Some("web".parse().unwrap()),
            program: Some("node".parse().unwrap()),
            ..asking("api", "/shop", 5173)
        };
        assert_eq!(world.port(&named), 21_001);
        assert_eq!(world.port(&request(6379)), 21_002);
        world.end(1);
        // Another program gets no other, and what one type has given the next one has, too.
        let started = |service_type, program: &str| AllocateRequest {
            program: Some(program.parse().unwrap()),
            ..asking(service_type, "/shop", 9000)
        };
        assert_eq!(world.port(&started("api", "node")), 8002);
        world.end(1);
        assert_eq!(world.port(&started("remap", "python")), 8002);
        world.end(1);
        // What is no type's any more is nobody's to give.
        let mut rules = world.registry.rules().clone();
        rules.types.0.remove(&"remap".parse().unwrap());
        world.registry.set_rules(rules);
        assert_eq!(world.port(&named), 8003);
    }

    #[test]
    fn a_private_mapping_gets_neither_its_number_nor_what_programs_ask_for() {
        let mut world = world();
        // 8000 and 8001 are preferred, 8002 is the number itself.
        assert_eq!(world.port(&asking("api", "/shop", 8002)), 8003);
        // 8002 means something now, and 8004 is in use.
        world.busy = vec![8004];
        assert_eq!(world.port(&asking("api", "/shop", 3001)), 8005);
        world.end(1);
        // What is only remembered means something, too; in another project it does not.
        world.busy = vec![8003, 8005];
        assert_eq!(world.port(&asking("api", "/shop", 3002)), 8004);
        assert_eq!(world.port(&asking("api", "/blog", 3002)), 8002);
        // Others' remembered ports come last, and the preferred ones not even then.
        world.busy = (8002..=8009).collect();
        let error = world.ask(&asking("api", "/third", 3003), 1).unwrap_err();
        assert_eq!(error.kind, ErrorKind::PoolExhausted);
    }

    #[test]
    fn a_conflicting_number_alone_is_mapped_to_another() {
        let mut world = world();
        assert_eq!(world.port(&conflict(3001)), 3001);
        assert_eq!(
            world.port(&AllocateRequest { protocol: Some(Protocol::Udp), ..conflict(3001) }),
            3001
        );
        world.busy = vec![5173];
        assert_eq!(world.port(&conflict(5173)), 21_000);
        let of_blog =
            AllocateRequest { remap: Some(Remap::Conflict), ..asking("remap", "/blog", 3001) };
        assert_eq!(world.port(&of_blog), 21_001, "the other project has it");
        assert_eq!(world.port(&conflict(80)), 21_002, "that needs a privilege");
        world.end(1);
        world.busy = vec![];
        assert_eq!(world.port(&conflict(3001)), 3001);
        assert_eq!(world.port(&conflict(5173)), 21_000, "it is remembered");
        // The port that it had in the other mode is not remembered in this one.
        world.end(1);
        assert_eq!(world.port(&request(3001)), 21_003);
    }

    #[test]
    fn a_real_port_is_no_other_number_of_its_project() {
        let mut world = world();
        assert_eq!(world.port(&request(21_001)), 21_000);
        assert_eq!(world.port(&request(3001)), 21_002);
        let error = world.ask(&request(21_002), 1).unwrap_err();
        assert_eq!(error.kind, ErrorKind::PortInUse);
        assert!(error.to_string().contains("really port 3001 of /shop"), "{error}");
        assert_eq!(world.port(&asking("remap", "/blog", 21_002)), 21_001);
    }

    #[test]
    fn a_project_has_mappings_of_one_mode() {
        let mut world = world();
        let lease = world.ask(&request(3001), 1).unwrap();
        for other in [conflict(3001), conflict(3002)] {
            let error = world.ask(&other, 2).unwrap_err();
            assert_eq!(error.kind, ErrorKind::InvalidArgument);
            let text = error.to_string();
            assert!(
                text.contains("3001 in mode private") && text.contains("end the other"),
                "{text}"
            );
        }
        let of_blog =
            AllocateRequest { remap: Some(Remap::Conflict), ..asking("remap", "/blog", 3001) };
        assert_eq!(world.port(&of_blog), 3001);
        world.apply(&Change::end(lease, EndReason::Released));
        assert_eq!(world.port(&conflict(3002)), 3002);
    }

    #[test]
    fn a_type_that_runs_once_maps_nothing() {
        let mut world = world();
        let mut rules = world.registry.rules().clone();
        let api = rules.types.0.get_mut(&"api".parse().unwrap()).unwrap();
        api.instance_behavior = InstanceBehavior::Single;
        let both = ServiceType { protocol: Protocol::Both, ..range(9_000, 9_009) };
        rules.types.0.insert("both".parse().unwrap(), both);
        world.registry.set_rules(rules);
        for (service_type, words) in [("api", "runs once"), ("both", "for one protocol")] {
            let error = world.ask(&asking(service_type, "/shop", 3001), 1).unwrap_err();
            assert_eq!(error.kind, ErrorKind::InvalidArgument);
            assert!(error.to_string().contains(words), "{error}");
        }
    }

    #[test]
    fn of_two_registries_one_mapping_of_a_number_is_left() {
        let (mut ours, mut theirs) = (world(), world());
        theirs.busy = vec![21_000];
        theirs.seq = 100;
        let kept = ours.ask(&request(3001), 1).unwrap();
        let lost = theirs.ask(&request(3001), 2).unwrap();
        theirs.ask(&request(5173), 2).unwrap();
        let other = Other { state_id: "theirs", registry: &theirs.registry, is_void: false };
        let changes = merge::merge(&ours.registry, other, |_| Grip::None);
        let ends = changes.iter().filter(|change| change.is_end());
        let ended: Vec<_> = ends.filter_map(|change| change.lease()).map(|l| l.lease_id).collect();
        assert_eq!(ended, [lost.lease_id]);
        changes.iter().for_each(|change| ours.apply(change));
        assert_eq!(ours.registry.len(), 2);
        let found = ours.registry.mapping(&"/shop".parse().unwrap(), Protocol::Tcp, port(3001));
        assert_eq!(found.map(|lease| lease.lease_id), Some(kept.lease_id));
    }
}
