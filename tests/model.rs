//! The registry beside a naive model of it: both live through the same random steps, and every
//! answer and everything that can be seen of them is compared.
//!
//! The model says with plain lists, searched from the beginning, what the design says in words
//! ("How a port is chosen"). There are few ports, so they are used up and used again all the time.

use std::{collections::BTreeMap, iter::once, ops::RangeInclusive, str::FromStr, sync::Arc};

use proptest::{
    option::weighted,
    prelude::*,
    sample::{Index, select},
};
use styxy::{
    auto_allocation::AutoAllocation,
    change::Change,
    error::{Error, ErrorKind},
    lease::{EndReason, Lease, LeaseId, MemoryKey, Remap},
    obstacle::{InUse, Obstacle},
    port::{Port, PortRange, Protocol},
    registry::{Choice, Registry, Rules},
    request::{AllocateRequest, Filter},
    service_type::{Hold, InstanceBehavior, ServiceType, ServiceTypeName, ServiceTypes},
    time::Timestamp,
};

/// All ports of these tests. A word of the registry's bitmaps begins among them, at 5056.
const PORTS: RangeInclusive<u16> = 5054..=5064;

/// Those that browsers refuse (<https://fetch.spec.whatwg.org/#port-blocking>), and that of the HTTP door.
const NEVER_CHOSEN: [u16; 3] = [5060, 5061, 9876];

const PROTOCOLS: [Protocol; 2] = [Protocol::Tcp, Protocol::Udp];

const TYPES: [&str; 3] = ["dev", "api", "ai"];

// The model.

/// What the configuration says, in plain lists.
#[derive(Clone, Debug)]
struct Plan {
    types: BTreeMap<ServiceTypeName, ServiceType>,
    excluded: Vec<Port>,
    max_leases: usize,
    max_per_instance: usize,
    max_per_project: usize,
    max_remembered: usize,
}

impl Plan {
    fn rules(&self) -> Rules {
        Rules {
            types: ServiceTypes(self.types.clone()),
            templates: BTreeMap::new(),
            auto: AutoAllocation::off(),
            excluded: self.excluded.iter().copied().collect(),
            max_leases: self.max_leases,
            max_per_instance: self.max_per_instance,
            max_per_project: self.max_per_project,
            percent_per_instance: 100,
            percent_per_project: 100,
            max_remembered: self.max_remembered,
        }
    }
}

struct Model {
    plan: Plan,
    /// What other programs of the machine have.
    busy: Vec<(Port, Protocol)>,
    leases: Vec<Arc<Lease>>,
    /// Who had which port last, the oldest first.
    memory: Vec<Known>,
}

/// What is remembered for a slot.
#[derive(Clone, Debug, PartialEq)]
struct Known {
    key: MemoryKey,
    port: Port,
    /// What was granted instead of it.
    substitute: Option<Port>,
    /// The number of the last change of one of both.
    age: u64,
}

impl Known {
    fn has(&self, port: Port) -> bool {
        self.port == port || self.substitute == Some(port)
    }
}

impl Model {
    fn choose(&self, request: &AllocateRequest) -> Result<Choice, ErrorKind> {
        let name = &request.service_type;
        let service_type = self.plan.types.get(name).ok_or(ErrorKind::UnknownServiceType)?;
        let is_single = service_type.instance_behavior == InstanceBehavior::Single;
        if is_single && request.asked.is_some() {
            return Err(ErrorKind::InvalidArgument);
        }
        if is_single {
            // Of those from before the type became single, the oldest is everybody's.
            let same = |lease: &&Arc<Lease>| {
                lease.service_type == *name && lease.singleton_key == request.singleton_key
            };
            let oldest = self.leases.iter().filter(same).min_by_key(|lease| lease.lease_id);
            if let Some(lease) = oldest {
                if request.strict && request.port != Some(lease.port) {
                    return Err(ErrorKind::PortInUse);
                }
                return Ok(Choice::Existing(Arc::clone(lease)));
            }
        } else if request.singleton_key.is_some() {
            return Err(ErrorKind::InvalidArgument);
        }
        if let Some(asked) = request.asked
            && let Some(shared) = self.mapping(asked, request)?
        {
            return Ok(Choice::Existing(shared));
        }
        if self.leases.len() >= self.plan.max_leases {
            return Err(ErrorKind::LimitExceeded);
        }
        let of_instance = self.leases.iter().filter(|l| l.instance_id == request.instance_id);
        let of_project = self.leases.iter().filter(|l| l.project_path == request.project_path);
        if request.instance_id.is_some() && of_instance.count() >= self.plan.max_per_instance
            || request.project_path.is_some() && of_project.count() >= self.plan.max_per_project
        {
            return Err(ErrorKind::LimitExceeded);
        }
        let mut candidates: Vec<_> = request.port.into_iter().collect();
        if let Some(asked) = request.asked {
            candidates = self.real_ports(asked, request, service_type);
        } else if !request.strict {
            // What is remembered though browsers refuse it was asked for by number.
            candidates.extend(self.remembered(request));
            candidates.extend(self.ordinary(service_type, request.protocol()));
        }
        candidates
            .into_iter()
            .find(|port| self.may_have(*port, request.protocol()))
            .map(Choice::Port)
            .ok_or(if request.strict { ErrorKind::PortInUse } else { ErrorKind::PoolExhausted })
    }

    /// The live mappings of a project.
    fn mappings(&self, request: &AllocateRequest) -> impl Iterator<Item = &Arc<Lease>> {
        let of_project = |lease: &&Arc<Lease>| lease.project_path == request.project_path;
        self.leases.iter().filter(|lease| lease.asked.is_some()).filter(of_project)
    }

    /// The mapping that a request shares.
    fn mapping(
        &self,
        asked: Port,
        request: &AllocateRequest,
    ) -> Result<Option<Arc<Lease>>, ErrorKind> {
        if self.mappings(request).any(|lease| Some(lease.remap) != request.remap) {
            return Err(ErrorKind::InvalidArgument);
        }
        let is_it = |lease: &&Arc<Lease>| {
            lease.asked == Some(asked) && lease.protocol == request.protocol()
        };
        if let Some(lease) = self.mappings(request).find(is_it) {
            return Ok(Some(Arc::clone(lease)));
        }
        let is_real = |lease: &Arc<Lease>| lease.port == asked && lease.asked != Some(asked);
        if self.mappings(request).any(is_real) { Err(ErrorKind::PortInUse) } else { Ok(None) }
    }

    /// What it had last, if any type has that; its own number, if that may be; and what no program asks for.
    fn real_ports(
        &self,
        asked: Port,
        request: &AllocateRequest,
        service_type: &ServiceType,
    ) -> Vec<Port> {
        let mut ports = self.remembered(request);
        ports.retain(|port| {
            *port == asked || self.plan.types.values().any(|known| known.contains(*port))
        });
        ports.push(asked);
        let ordinary = self.ordinary(service_type, request.protocol());
        let is_preferred = |port: &Port| service_type.preferred_ports.contains(port);
        ports.extend(ordinary.into_iter().filter(|port| !is_preferred(port)));
        let live = self.mappings(request).filter_map(|lease| lease.asked);
        let of_project =
            |known: &&Known| Some(&known.key.project_path) == request.project_path.as_ref();
        let known = self.memory.iter().filter(of_project).filter_map(|known| known.key.asked);
        let others: Vec<_> = live.chain(known).filter(|other| *other != asked).collect();
        let is_private = request.remap == Some(Remap::Private);
        ports.retain(|port| !(others.contains(port) || is_private && *port == asked));
        ports
    }

    /// The port that the same slot of the same service had last, and what it had instead.
    fn remembered(&self, request: &AllocateRequest) -> Vec<Port> {
        let known = self.slot(request).and_then(|slot| self.known(&slot));
        known.map_or(Vec::new(), |known| once(known.port).chain(known.substitute).collect())
    }

    fn known(&self, slot: &MemoryKey) -> Option<&Known> {
        self.memory.iter().find(|known| known.key == *slot)
    }

    /// The first slot of the service whose lease is not live.
    fn slot(&self, request: &AllocateRequest) -> Option<MemoryKey> {
        let first = memory_key(request)?;
        let mut slots = (1..=32).map(|slot| MemoryKey { slot, ..first.clone() });
        slots.find(|slot| {
            let is_its = |lease: &Arc<Lease>| lease.memory_key().as_ref() == Some(slot);
            let mut ports =
                self.leases.iter().filter(|lease| is_its(lease)).map(|lease| lease.port);
            self.known(slot).is_none_or(|known| !ports.any(|port| known.has(port)))
        })
    }

    /// The preferred ports and the range; those that somebody remembers last, the oldest first.
    fn ordinary(&self, service_type: &ServiceType, protocol: Protocol) -> Vec<Port> {
        let ascending = service_type.ranges().flat_map(|r| r.first().get()..=r.last().get());
        let ascending = ascending.map(port);
        let mut ports = service_type.preferred_ports.clone();
        ports.extend(ascending);
        ports.retain(|port| !NEVER_CHOSEN.contains(&port.get()));
        // A stable sort, and `None` comes before all ages.
        ports.sort_by_key(|port| {
            self.memory.iter().rposition(|k| k.key.protocol == protocol && k.port == *port)
        });
        ports
    }

    fn may_have(&self, port: Port, protocol: Protocol) -> bool {
        self.at(port, protocol).is_none()
            && !self.busy.contains(&(port, protocol))
            && !self.plan.excluded.contains(&port)
    }

    fn at(&self, port: Port, protocol: Protocol) -> Option<&Arc<Lease>> {
        self.leases.iter().find(|lease| lease.port == port && lease.protocol == protocol)
    }

    fn grant(&mut self, seq: u64, request: &AllocateRequest, lease: Arc<Lease>) {
        if let Some(key) = self.slot(request) {
            let port = lease.port;
            let is_given_up = |known: &Known| self.plan.excluded.contains(&known.port);
            let before = self.known(&key).filter(|known| !is_given_up(known));
            let before = before.filter(|known| known.port != port && request.port != Some(port));
            let known = match before {
                Some(before) => Known { substitute: Some(port), age: seq, ..before.clone() },
                None => Known { key: key.clone(), port, substitute: None, age: seq },
            };
            self.memory.retain(|other| other.key != key);
            self.memory.push(known);
            self.forget();
        }
        self.leases.push(lease);
    }

    /// Forgets the oldest beyond the limit. A lower limit counts from the next grant on.
    fn forget(&mut self) {
        let excess = self.memory.len().saturating_sub(self.plan.max_remembered);
        self.memory.drain(..excess);
    }

    fn list(&self, filter: &Filter) -> Vec<Arc<Lease>> {
        let meant = |lease: &&Arc<Lease>| {
            let conditions = [
                filter.lease_id.is_none_or(|id| id == lease.lease_id),
                filter.port.is_none_or(|port| port == lease.port),
                filter.asked.is_none() || filter.asked == lease.asked,
                filter.protocol.is_none_or(|protocol| protocol == lease.protocol),
                filter.service_type.as_ref().is_none_or(|name| *name == lease.service_type),
                filter.service_name.is_none() || filter.service_name == lease.service_name,
                filter.instance_id.is_none() || filter.instance_id == lease.instance_id,
                filter.project_path.is_none() || filter.project_path == lease.project_path,
            ];
            conditions.iter().all(|holds| *holds)
        };
        let mut leases: Vec<_> = self.leases.iter().filter(meant).map(Arc::clone).collect();
        leases.sort_by_key(|lease| (lease.port, lease.protocol));
        leases
    }
}

fn memory_key(request: &AllocateRequest) -> Option<MemoryKey> {
    if let Some(asked) = request.asked {
        let project_path = request.project_path.clone()?;
        return Some(MemoryKey::of_mapping(project_path, request.protocol(), asked));
    }
    Some(MemoryKey {
        asked: None,
        project_path: request.project_path.clone()?,
        service_type: request.service_type.clone(),
        package_path: request.package_path.clone(),
        service_name: request.service_name.clone(),
        protocol: request.protocol(),
        singleton_key: request.singleton_key.clone(),
        count: 1,
        slot: 1,
    })
}

// The registry and the model side by side.

struct Both {
    registry: Registry,
    model: Model,
    seq: u64,
    /// The ends of leases so far.
    ends: Vec<(LeaseId, Change)>,
}

impl Both {
    fn new(plan: Plan) -> Self {
        let registry = Registry::new(plan.rules());
        let model = Model { plan, busy: Vec::new(), leases: Vec::new(), memory: Vec::new() };
        Self { registry, model, seq: 0, ends: Vec::new() }
    }

    /// Asks both and makes the lease, as the service would.
    fn allocate(&mut self, request: &AllocateRequest) -> Result<Choice, Error> {
        let choose = || {
            let types = &self.registry.rules().types;
            let service_type = types.get(&request.service_type)?;
            let request = request.completed(service_type)?;
            self.registry.choose(&request, service_type, |port| {
                let protocol = request.protocol();
                assert_eq!(self.model.at(port, protocol), None, "the kernel is asked needlessly");
                let busy = self.model.busy.contains(&(port, protocol));
                if busy { Err(Obstacle::InUse(InUse::Socket)) } else { Ok(()) }
            })
        };
        let answer = choose();
        // What a type says of its requests is all that the model does not repeat.
        let types = &self.model.plan.types;
        let completed = types.get(&request.service_type).map(|t| request.completed(t));
        let request = &completed.and_then(Result::ok).unwrap_or_else(|| request.clone());
        assert_eq!(answer, choose(), "choosing changes nothing");
        assert_eq!(answer.clone().map_err(|error| error.kind), self.model.choose(request));
        match &answer {
            _ if request.dry_run => {}
            Ok(Choice::Port(port)) => self.grant(request, *port),
            Ok(Choice::Moved(..)) => unreachable!("nothing here is a claim"),
            Ok(Choice::Existing(lease)) => {
                self.apply(&Change::Reuse { lease: Arc::clone(lease) });
            }
            Err(_) => {}
        }
        self.compare();
        answer
    }

    fn grant(&mut self, request: &AllocateRequest, port: Port) {
        let lease = Arc::new(Lease {
            protocol: request.protocol(),
            asked: request.asked,
            remap: request.remap.unwrap_or_default(),
            service_name: request.service_name.clone(),
            instance_id: request.instance_id.clone(),
            project_path: request.project_path.clone(),
            singleton_key: request.singleton_key.clone(),
            slot: match (self.registry.slot(request), &request.project_path) {
                (Some(slot), _) => slot.number,
                (None, project) => u16::from(project.is_none()),
            },
            ..Lease::new(
                LeaseId::from_number(u128::from(self.seq + 1)),
                port,
                request.service_type.clone(),
            )
        });
        let remembers = self.registry.remembers(request, &lease);
        self.apply(&Change::Allocate { lease: Arc::clone(&lease), remembers });
        self.model.grant(self.seq, request, lease);
    }

    fn apply(&mut self, change: &Change) {
        self.seq += 1;
        self.registry.apply(self.seq, Timestamp(self.seq), change);
    }

    fn release(&mut self, lease: Arc<Lease>, reason: EndReason) {
        self.model.leases.retain(|other| other.lease_id != lease.lease_id);
        if reason == EndReason::NotDurable
            && let Some(key) = lease.memory_key()
        {
            // What was never acknowledged is not remembered.
            self.model.memory.retain(|known| known.key != key || !known.has(lease.port));
        }
        self.ends.push((lease.lease_id, Change::end(lease, reason)));
        self.seq += 1;
        // An end that is told again ends nothing, whoever has the port by now.
        for (id, end) in &self.ends {
            self.registry.apply(self.seq, Timestamp(self.seq), end);
            let found = self.registry.get(*id).map_err(|error| error.kind);
            assert_eq!(found, Err(ErrorKind::NoSuchLease));
        }
    }

    /// Builds the registry anew, as from a snapshot.
    fn restart(&mut self) {
        let mut registry = Registry::new(self.model.plan.rules());
        self.registry.iter().for_each(|lease| registry.insert(Arc::clone(lease)));
        for (key, known) in self.registry.memory().iter() {
            registry.remember(MemoryKey::clone(key), known.clone());
        }
        self.registry = registry;
        self.model.forget();
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Allocate(request) => drop(self.allocate(&request)),
            Step::Release(_, _) if self.model.leases.is_empty() => {}
            Step::Release(index, reason) => {
                self.release(Arc::clone(index.get(&self.model.leases)), reason);
            }
            Step::Bind(place) => self.model.busy.push(place),
            Step::Close(place) => self.model.busy.retain(|busy| *busy != place),
            Step::Configure(plan) => {
                self.registry.set_rules(plan.rules());
                self.model.plan = plan;
            }
            Step::Restart => self.restart(),
            Step::List(filter) => {
                let live = self.model.leases.iter().map(|lease| Some(lease.lease_id));
                let ended = self.ends.iter().map(|(id, _)| Some(*id));
                for lease_id in live.chain(ended).chain([None]) {
                    let filter = Filter { lease_id, ..filter.clone() };
                    assert_eq!(self.registry.list(&filter), self.model.list(&filter), "{filter:?}");
                }
            }
        }
        self.compare();
    }

    /// Compares all that can be seen, and checks what must hold always.
    fn compare(&self) {
        let live = self.registry.list(&Filter::default());
        let places: Vec<_> = live.iter().map(|lease| (lease.port, lease.protocol)).collect();
        assert!(places.is_sorted_by(|a, b| a < b), "leased twice, or out of order: {places:?}");

        assert_eq!(live, self.model.list(&Filter::default()));
        assert_eq!(self.registry.len(), live.len());
        for lease in &live {
            assert_eq!(self.registry.get(lease.lease_id), Ok(lease));
        }
        for (number, protocol) in PORTS.flat_map(|number| PROTOCOLS.map(|p| (number, p))) {
            let (port, model) = (port(number), &self.model);
            assert_eq!(self.registry.at(port, protocol), model.at(port, protocol));
        }

        self.compare_mappings(&live);

        let memory = self.registry.memory();
        let entries = memory.iter().map(|(key, known)| Known {
            key: MemoryKey::clone(key),
            port: known.port,
            substitute: known.substitute.map(|substitute| substitute.port),
            age: known.age,
        });
        assert_eq!(entries.collect::<Vec<_>>(), self.model.memory);
        for known in &self.model.memory {
            assert_eq!(memory.get(&known.key).unwrap().port, known.port);
        }
    }
}

impl Both {
    /// Within a project, a number means one thing.
    fn compare_mappings(&self, live: &[Arc<Lease>]) {
        let mappings = live.iter().filter(|lease| lease.asked.is_some());
        for lease in mappings.clone() {
            let (Some(project), Some(asked)) = (&lease.project_path, lease.asked) else {
                panic!("a mapping without a project: {lease:?}");
            };
            assert_eq!(self.registry.mapping(project, lease.protocol, asked), Some(lease));
            assert!(lease.remap == Remap::Conflict || lease.port != asked, "{lease:?}");
            let of_project =
                mappings.clone().filter(|other| other.project_path == lease.project_path);
            for other in of_project.filter(|other| other.lease_id != lease.lease_id) {
                let is_same = other.asked == lease.asked;
                assert!(!is_same || other.protocol != lease.protocol, "{lease:?}, {other:?}");
                assert!(is_same || other.asked != Some(lease.port), "{lease:?}, {other:?}");
                assert_eq!(other.remap, lease.remap);
            }
        }
    }
}

// The steps.

#[derive(Clone, Debug)]
enum Step {
    Allocate(AllocateRequest),
    /// Ends one of the live leases.
    Release(Index, EndReason),
    /// Another program takes a port.
    Bind((Port, Protocol)),
    Close((Port, Protocol)),
    Configure(Plan),
    Restart,
    /// Lists what the filter means, and what it means of each lease.
    List(Filter),
}

fn step() -> impl Strategy<Value = Step> {
    use EndReason::{NewBoot, NotDurable, Released};
    let reason = select(&[Released, NewBoot, NotDurable]);
    prop_oneof![
        8 => request().prop_map(Step::Allocate),
        6 => (any::<Index>(), reason).prop_map(|(index, reason)| Step::Release(index, reason)),
        1 => (any_port(), select(&PROTOCOLS)).prop_map(Step::Bind),
        1 => (any_port(), select(&PROTOCOLS)).prop_map(Step::Close),
        1 => any_plan().prop_map(Step::Configure),
        1 => Just(Step::Restart),
        1 => filter().prop_map(Step::List),
    ]
}

prop_compose! {
    fn request()(
        service_type in select(&["dev", "dev", "api", "ai"]).prop_map(word),
        service_name in weighted(0.3, select(&["web", "db"]).prop_map(word)),
        instance_id in weighted(0.5, select(&["i", "j"]).prop_map(word)),
        project_path in weighted(0.8, select(&["/a", "/a", "/b", "/c"]).prop_map(word)),
        port in weighted(0.4, any_port()),
        strict in any::<bool>(),
        protocol in select(&[None, None, Some(Protocol::Tcp), Some(Protocol::Udp)]),
        singleton_key in weighted(0.1, select(&["k", "l"]).prop_map(word)),
        dry_run in prop::bool::weighted(0.1),
        asked in weighted(0.3, any_port()),
        remap in select(&[Remap::Private, Remap::Private, Remap::Private, Remap::Conflict]),
    ) -> AllocateRequest {
        if let Some(asked) = asked.filter(|_| project_path.is_some()) {
            return AllocateRequest {
                service_name, instance_id, project_path, dry_run, protocol,
                asked: Some(asked),
                remap: Some(remap),
                ..AllocateRequest::new(service_type)
            };
        }
        AllocateRequest {
            service_name, instance_id, project_path, port, dry_run, protocol, singleton_key,
            strict: strict && port.is_some(),
            ..AllocateRequest::new(service_type)
        }
    }
}

prop_compose! {
    fn filter()(
        port in weighted(0.1, any_port()),
        asked in weighted(0.1, any_port()),
        protocol in weighted(0.3, select(&PROTOCOLS)),
        service_type in weighted(0.3, select(&TYPES).prop_map(word)),
        service_name in weighted(0.3, select(&["web", "db"]).prop_map(word)),
        instance_id in weighted(0.3, select(&["i", "j"]).prop_map(word)),
        project_path in weighted(0.3, select(&["/a", "/b", "/c"]).prop_map(word)),
    ) -> Filter {
        Filter { port, asked, protocol, service_type, service_name, instance_id, project_path, ..Filter::default() }
    }
}

prop_compose! {
    /// A type may be missing. Ranges may overlap, as they do in time when one is moved.
    fn any_plan()(
        types in TYPES.map(|_| weighted(0.9, any_type())),
        excluded in prop::collection::vec(any_port(), 0..3),
        max_leases in prop_oneof![3 => Just(100), 1 => 1_usize..8],
        max_per_instance in prop_oneof![3 => Just(100), 1 => 1_usize..4],
        max_per_project in prop_oneof![3 => Just(100), 1 => 1_usize..4],
        max_remembered in prop_oneof![1 => Just(100), 1 => 1_usize..6],
    ) -> Plan {
        let types = TYPES.into_iter().zip(types);
        let types = types.filter_map(|(name, it)| Some((word(name), it?))).collect();
        Plan { types, excluded, max_leases, max_per_instance, max_per_project, max_remembered }
    }
}

prop_compose! {
    /// A range of 5 to 8 ports, with some preferred ones in it.
    fn any_type()(
        (first, length) in (*PORTS.start()..=PORTS.end() - 7, 5_u16..=8),
        preferred in prop::collection::vec(0_u16..5, 0..3),
        single in prop::bool::weighted(0.25),
        udp in prop::bool::weighted(0.25),
        more in weighted(0.3, 0_u16..3),
    ) -> ServiceType {
        use InstanceBehavior::{Multi, Single};
        let preferred: Vec<_> = preferred.into_iter().map(|place| first + place).collect();
        let service_type = service_type(first..=first + length - 1, &preferred);
        let behind = first + length;
        let more = more.map(|more| PortRange::new(port(behind), port(behind + more)));
        ServiceType {
            instance_behavior: if single { Single } else { Multi },
            protocol: PROTOCOLS[usize::from(udp)],
            more_ranges: more.flatten().into_iter().collect(),
            ..service_type
        }
    }
}

fn any_port() -> impl Strategy<Value = Port> {
    PORTS.prop_map(port)
}

fn word<T: FromStr<Err = Error>>(text: &str) -> T {
    text.parse().unwrap_or_else(|error| panic!("{text:?}: {error}"))
}

fn port(number: u16) -> Port {
    Port::new(number.into()).expect("no test has a port 0")
}

fn service_type(range: RangeInclusive<u16>, preferred: &[u16]) -> ServiceType {
    let range = PortRange::new(port(*range.start()), port(*range.end())).expect("ascending");
    let preferred_ports = preferred.iter().copied().map(port).collect();
    ServiceType { preferred_ports, hold: Hold::None, ..ServiceType::new(range) }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_registry_does_what_the_model_does(
        plan in any_plan(),
        steps in prop::collection::vec(step(), 1..100),
    ) {
        let mut both = Both::new(plan);
        for step in steps {
            both.step(step);
        }
    }
}

// Stories, told to both.

/// No service types, and no limits that matter.
fn plan() -> Plan {
    Plan {
        types: BTreeMap::new(),
        excluded: Vec::new(),
        max_leases: 100,
        max_per_instance: 100,
        max_per_project: 100,
        max_remembered: 100,
    }
}

/// One service type, `dev`, with that range and these preferred ports.
fn dev(range: RangeInclusive<u16>, preferred: &[u16]) -> Both {
    let types = BTreeMap::from([(word("dev"), service_type(range, preferred))]);
    Both::new(Plan { types, ..plan() })
}

fn of(project: &str) -> AllocateRequest {
    AllocateRequest { project_path: Some(word(project)), ..AllocateRequest::new(word("dev")) }
}

fn asking(number: u16) -> AllocateRequest {
    AllocateRequest { port: Some(port(number)), ..of("/asking") }
}

impl Both {
    /// The port that the request gets. Its lease ends at once.
    fn get(&mut self, request: &AllocateRequest) -> u16 {
        let Ok(Choice::Port(port)) = self.allocate(request) else { panic!("{request:?}") };
        let lease = self.model.leases.last().map(Arc::clone);
        self.release(lease.expect("just granted"), EndReason::Released);
        port.get()
    }
}

#[test]
fn the_same_project_gets_the_same_port_again() {
    let mut both = dev(5054..=5056, &[5055]);
    assert_eq!(["/a", "/b"].map(|project| both.get(&of(project))), [5055, 5054]);
    assert_eq!(["/b", "/a"].map(|project| both.get(&of(project))), [5054, 5055]);
}

#[test]
fn ports_that_another_project_remembers_come_last_oldest_first() {
    let mut both = dev(5054..=5056, &[5055]);
    let ports = ["/a", "/b", "/c", "/d", "/e"].map(|project| both.get(&of(project)));
    assert_eq!(ports, [5055, 5054, 5056, 5055, 5054]);
}

#[test]
fn another_service_of_the_same_project_counts_like_another_project() {
    let mut both = dev(5054..=5056, &[]);
    let of = |name| AllocateRequest { service_name: Some(word(name)), ..of("/a") };
    let ports = ["web", "db", "web", "db"].map(|name| both.get(&of(name)));
    assert_eq!(ports, [5054, 5055, 5054, 5055]);
}

#[test]
fn a_port_that_browsers_refuse_is_granted_only_when_asked_for_by_number() {
    let mut both = dev(5060..=5062, &[5060]);
    both.allocate(&of("/a")).expect("5062 is free");
    assert_eq!(both.allocate(&of("/b")).unwrap_err().kind, ErrorKind::PoolExhausted);
    assert_eq!(both.get(&asking(5060)), 5060);
}

#[test]
fn the_port_of_the_http_door_is_granted_only_when_asked_for_by_number() {
    let mut both = dev(9876..=9877, &[9876]);
    assert_eq!(both.allocate(&of("/a")), Ok(Choice::Port(port(9877))));
    assert_eq!(both.allocate(&of("/b")).unwrap_err().kind, ErrorKind::PoolExhausted);
    assert_eq!(both.get(&asking(9876)), 9876);
}

#[test]
fn strict_names_who_has_the_port() {
    let mut both = dev(5054..=5056, &[]);
    both.allocate(&of("/a")).expect("5054 is free");
    let strictly = AllocateRequest { strict: true, ..asking(5054) };
    let error = both.allocate(&strictly).unwrap_err();
    assert_eq!(error.kind, ErrorKind::PortInUse);
    for part in ["5054", "dev", "/a", &LeaseId::from_number(1).to_string()] {
        assert!(error.message.contains(part), "{part} is not in {:?}", error.message);
    }
    assert_eq!(both.get(&asking(5054)), 5055);
}

#[test]
fn a_block_lies_in_one_range_though_it_would_end_in_another() {
    let first = service_type(5050..=5052, &[5051]);
    let more_ranges = vec![PortRange::new(port(5056), port(5058)).expect("ascending")];
    let ranges = ServiceType { more_ranges, ..first };
    let types = BTreeMap::from([(word("dev"), ranges.clone())]);
    let registry = Both::new(Plan { types, ..plan() }).registry;
    let choose = |count| {
        let request = AllocateRequest { count, ..of("/a") };
        registry.choose(&request, &ranges, |_| Ok(())).map_err(|error| error.kind)
    };
    assert_eq!(choose(2), Ok(Choice::Port(port(5051))));
    assert_eq!(choose(3), Ok(Choice::Port(port(5050))));
    assert_eq!(choose(6), Err(ErrorKind::PoolExhausted));
}
