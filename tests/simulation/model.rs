//! What the registry must know, in plain arrays with a place for each port, and what must hold of its
//! answers. It learns of the same changes and shares no code with the registry.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use styxy::{
    change::{Change, Remembers},
    error::{Error, ErrorKind},
    lease::{
        EndReason, InstanceId, Lease, MemoryKey, Owner, ProjectPath, Remap, ServiceName,
        SingletonKey, Use,
    },
    port::{Port, PortRange, Protocol},
    port_set::PortSet,
    registry::{Choice, Remembered, Rules, granting::Decision},
    request::{AllocateRequest, OwnerRequest},
    service_type::{Hold, InstanceBehavior, ServiceTypeName},
    time::Timestamp,
};

/// How many ports there are, with the one that is none.
pub const PORTS: usize = 65_536;

/// A service type.
pub struct Kind {
    pub name: ServiceTypeName,
    pub ranges: Vec<PortRange>,
    pub is_single: bool,
    /// The protocol whose leases count as the use of its ranges.
    pub part: usize,
    /// What programs of this type ask for.
    preferred: Vec<Port>,
    /// How many of its ports are leased.
    pub used: usize,
}

impl Kind {
    pub fn len(&self) -> usize {
        self.ranges.iter().map(|range| range.len()).sum()
    }
}

pub struct Model {
    /// Who has each port, for TCP and for UDP.
    at: [Vec<Option<Arc<Lease>>>; 2],
    /// What something on the machine has.
    busy: [Vec<bool>; 2],
    excluded: Vec<bool>,
    /// What that was made of.
    excluded_set: PortSet,
    /// Whose range each port lies in.
    home: Vec<Option<u16>>,
    pub kinds: Vec<Kind>,
    pub live: usize,
    pub orphans: usize,
    max_leases: usize,
    max_remembered: usize,
    /// How many leases there are of what there may be one of.
    of_key: HashMap<(ServiceTypeName, Option<SingletonKey>), usize>,
    /// How much lives by each owner: shares of leases, and instances.
    by_owner: HashMap<Owner, usize>,
    /// Where the claims of each project are.
    claims: BTreeSet<(ProjectPath, usize, Port)>,
    /// The real ports of what each project asks for.
    mappings: BTreeMap<(ProjectPath, usize, Port), Port>,
    pub instances: BTreeMap<InstanceId, Owner>,
    memory: HashMap<MemoryKey, Remembered>,
    /// How much is remembered of each project.
    of_project: HashMap<ProjectPath, usize>,
    /// The same by the number of the change, the oldest first.
    ages: BTreeMap<u64, MemoryKey>,
}

/// The places of a protocol in arrays of two.
pub fn parts(protocol: Protocol) -> &'static [usize] {
    match protocol {
        Protocol::Tcp => &[0],
        Protocol::Udp => &[1],
        Protocol::Both => &[0, 1],
    }
}

fn place(port: Port) -> usize {
    port.get().into()
}

/// Where a claim stands among those of its project.
fn place_of_claim(lease: &Lease) -> Option<(ProjectPath, usize, Port)> {
    let project = lease.project_path.clone().filter(|_| lease.claim)?;
    Some((project, parts(lease.protocol)[0], lease.port))
}

/// What a mapping is found by.
fn place_of_mapping(lease: &Lease) -> Option<(ProjectPath, usize, Port)> {
    Some((lease.project_path.clone()?, parts(lease.protocol)[0], lease.asked?))
}

fn less<K: std::hash::Hash + Eq>(counts: &mut HashMap<K, usize>, key: &K) {
    let count = counts.get_mut(key).expect("it was counted before");
    *count -= 1;
    if *count == 0 {
        counts.remove(key);
    }
}

impl Model {
    pub fn new(rules: &Rules) -> Self {
        let mut model = Self {
            at: [(); 2].map(|()| vec![None; PORTS]),
            busy: [(); 2].map(|()| vec![false; PORTS]),
            excluded: vec![false; PORTS],
            excluded_set: PortSet::default(),
            home: vec![None; PORTS],
            kinds: Vec::new(),
            live: 0,
            orphans: 0,
            max_leases: 0,
            max_remembered: 0,
            of_key: HashMap::new(),
            by_owner: HashMap::new(),
            claims: BTreeSet::new(),
            mappings: BTreeMap::new(),
            instances: BTreeMap::new(),
            memory: HashMap::new(),
            of_project: HashMap::new(),
            ages: BTreeMap::new(),
        };
        model.set_rules(rules);
        model
    }

    /// Takes other rules over. No port lies in two ranges.
    pub fn set_rules(&mut self, rules: &Rules) {
        (self.max_leases, self.max_remembered) = (rules.max_leases, rules.max_remembered);
        if rules.excluded != self.excluded_set {
            self.excluded_set = rules.excluded.clone();
            for port in (1..PORTS as u64).filter_map(Port::new) {
                self.excluded[place(port)] = rules.excluded.contains(port);
            }
        }
        self.home.fill(None);
        self.kinds.clear();
        for (index, (name, service_type)) in (0..).zip(&rules.types.0) {
            let part = parts(service_type.protocol)[0];
            let ranges: Vec<_> = service_type.ranges().collect();
            let mut used = 0;
            for port in ranges.iter().flat_map(|range| range.ports()) {
                let before = self.home[place(port)].replace(index);
                assert_eq!(before, None, "port {port} lies in two ranges, one is of {name}");
                used += usize::from(self.at[part][place(port)].is_some());
            }
            let is_single = service_type.instance_behavior == InstanceBehavior::Single;
            let preferred = service_type.preferred_ports.clone();
            self.kinds.push(Kind { name: name.clone(), ranges, is_single, part, preferred, used });
        }
    }

    pub fn kind(&self, name: &ServiceTypeName) -> Option<&Kind> {
        self.index(name).map(|index| &self.kinds[usize::from(index)])
    }

    fn index(&self, name: &ServiceTypeName) -> Option<u16> {
        let index = self.kinds.binary_search_by(|kind| kind.name.cmp(name)).ok()?;
        Some(u16::try_from(index).expect("there are fewer types than ports"))
    }

    pub fn lease_at(&self, part: usize, port: Port) -> Option<&Arc<Lease>> {
        self.at[part][place(port)].as_ref()
    }

    pub fn is_busy(&self, port: Port, protocol: Protocol) -> bool {
        parts(protocol).iter().any(|part| self.busy[*part][place(port)])
    }

    /// Something takes a port, or lets it go.
    pub fn set_busy(&mut self, part: usize, port: Port, busy: bool) {
        self.busy[part][place(port)] = busy;
    }

    pub fn is_leased(&self, port: Port, protocol: Protocol) -> bool {
        parts(protocol).iter().any(|part| self.at[*part][place(port)].is_some())
    }

    pub fn needs(&self, owner: &Owner) -> bool {
        self.by_owner.contains_key(owner)
    }

    /// Every lease, by port.
    pub fn leases(&self) -> impl Iterator<Item = &Arc<Lease>> {
        let [tcp, udp] = &self.at;
        tcp.iter().zip(udp).flat_map(|(tcp, udp)| {
            let udp = udp.as_ref().filter(|lease| lease.protocol == Protocol::Udp);
            tcp.iter().chain(udp)
        })
    }

    /// What is remembered, the oldest first.
    pub fn memory(&self) -> impl ExactSizeIterator<Item = (&MemoryKey, &Remembered)> {
        self.ages.values().map(|key| (key, &self.memory[key]))
    }

    // What changes.

    pub fn apply(&mut self, seq: u64, at: Timestamp, change: &Change) {
        match change {
            Change::Allocate { lease, remembers } => {
                if let Some(key) = lease.memory_key() {
                    self.remember(key, lease, *remembers, seq);
                }
                self.put(lease);
            }
            Change::Release { lease, .. } | Change::Expire { lease, .. } => self.take(lease),
            Change::Reuse { lease } => {
                let known = lease.memory_key().and_then(|key| self.memory.get_mut(&key));
                if let Some(known) = known.filter(|_| lease.program.is_some()) {
                    known.program.clone_from(&lease.program);
                }
                self.take(lease);
                self.put(lease);
            }
            Change::Orphan { lease }
            | Change::Renew { lease }
            | Change::Claim { lease }
            | Change::Hold { lease }
            | Change::Leave { lease, .. } => {
                self.take(lease);
                self.put(lease);
            }
            Change::Forget { key, port } => assert_eq!(self.forget(key), Some(*port)),
            Change::RegisterInstance { instance } => {
                self.instances.insert(instance.instance_id.clone(), instance.owner.clone());
                *self.by_owner.entry(instance.owner.clone()).or_default() += 1;
            }
            Change::EndInstance { instance, .. } => {
                let owner = self.instances.remove(&instance.instance_id).expect("it was there");
                less(&mut self.by_owner, &owner);
            }
            Change::UndoAutoAllocation { service_type, .. } => {
                let keys = self.memory.keys().filter(|key| key.service_type == *service_type);
                let keys: Vec<_> = keys.cloned().collect();
                for key in keys {
                    self.forget(&key);
                }
            }
            _ => {}
        }
        let used = match change {
            Change::Expire { reason: EndReason::NotDurable, .. } => None,
            Change::Claim { lease } | Change::Reuse { lease } | Change::Leave { lease, .. }
                if lease.used == Use::Once =>
            {
                Some(lease)
            }
            _ => change.lease().filter(|lease| {
                let is_owned = lease.holders().any(|holder| holder.owner != Owner::None);
                lease.orphaned || is_owned && at.0 - lease.since.0 >= 5_000
            }),
        };
        let known = used.and_then(|lease| self.memory.get_mut(&lease.memory_key()?));
        if let Some(known) = known {
            known.used = Some(at);
        }
    }

    fn put(&mut self, lease: &Arc<Lease>) {
        for part in parts(lease.protocol) {
            let before = self.at[*part][place(lease.port)].replace(Arc::clone(lease));
            assert_eq!(before, None, "port {} is leased twice", lease.port);
            self.count(*part, lease.port, |used| used + 1);
        }
        if let Some(place) = place_of_claim(lease) {
            self.claims.insert(place);
        }
        if let Some(asked) = place_of_mapping(lease) {
            let before = self.mappings.insert(asked, lease.port);
            assert_eq!(before, None, "a number has two leases: {lease:?}");
        }
        self.live += 1;
        self.orphans += usize::from(lease.orphaned);
        let key = (lease.service_type.clone(), lease.singleton_key.clone());
        *self.of_key.entry(key).or_default() += 1;
        for holder in
            lease.holders().filter(|holder| holder.owner != Owner::None && !lease.orphaned)
        {
            *self.by_owner.entry(holder.owner).or_default() += 1;
        }
    }

    /// Takes a lease away, as it was: a change may have it as it will be.
    fn take(&mut self, lease: &Lease) {
        let mut was = None;
        for part in parts(lease.protocol) {
            was = self.at[*part][place(lease.port)].take();
            self.count(*part, lease.port, |used| used - 1);
        }
        let lease = was.filter(|was| was.lease_id == lease.lease_id);
        let lease = lease.expect("a lease changes or ends while it is live");
        if let Some(place) = place_of_claim(&lease) {
            self.claims.remove(&place);
        }
        if let Some(asked) = place_of_mapping(&lease) {
            self.mappings.remove(&asked);
        }
        self.live -= 1;
        self.orphans -= usize::from(lease.orphaned);
        less(&mut self.of_key, &(lease.service_type.clone(), lease.singleton_key.clone()));
        for holder in
            lease.holders().filter(|holder| holder.owner != Owner::None && !lease.orphaned)
        {
            less(&mut self.by_owner, &holder.owner);
        }
    }

    fn count(&mut self, part: usize, port: Port, count: impl Fn(usize) -> usize) {
        if let Some(home) = self.home[place(port)] {
            let kind = &mut self.kinds[usize::from(home)];
            if kind.part == part {
                kind.used = count(kind.used);
            }
        }
    }

    fn remember(&mut self, key: MemoryKey, lease: &Lease, remembers: Remembers, seq: u64) {
        let before = self.memory.get(&key).cloned();
        let last = before.as_ref().and_then(|before| before.program.clone());
        let used = before.as_ref().and_then(|before| before.used);
        let program = lease.program.clone().or(last);
        let remembered = match before {
            Some(before) if remembers == Remembers::Substitute => {
                assert_ne!(before.port, lease.port, "it is no substitute");
                let substituted = before.substituted(lease.port, lease.since.day(), seq);
                Remembered { program, ..substituted }
            }
            before => {
                match remembers {
                    Remembers::Moved { from } => {
                        assert_eq!(before.as_ref().map(|b| b.port), Some(from));
                    }
                    Remembers::Port => {
                        assert!(before.as_ref().is_none_or(|b| b.port == lease.port));
                    }
                    Remembers::Substitute => panic!("there is nothing to be substituted"),
                }
                let same = before.filter(|before| before.port == lease.port);
                let since = same.map_or(seq, |before| before.since);
                Remembered { since, program, used, ..Remembered::new(lease.port, seq) }
            }
        };
        let project = key.project_path.clone();
        self.forget(&key);
        self.ages.insert(seq, key.clone());
        *self.of_project.entry(project.clone()).or_default() += 1;
        self.memory.insert(key, remembered);
        while self.of_project[&project] > (self.max_remembered / 4).max(100) {
            let oldest = self.ages.values().find(|key| key.project_path == project).cloned();
            self.forget(&oldest.expect("it has some"));
        }
        while self.memory.len() > self.max_remembered {
            let (_, oldest) = self.ages.pop_first().expect("there are more than `most`");
            self.memory.remove(&oldest);
            less(&mut self.of_project, &oldest.project_path);
        }
    }

    fn forget(&mut self, key: &MemoryKey) -> Option<Port> {
        let Remembered { port, age, .. } = self.memory.remove(key)?;
        self.ages.remove(&age);
        less(&mut self.of_project, &key.project_path);
        Some(port)
    }

    /// The claim that a request means: the first of its service that is asked for so, and that it may share. What somebody
    /// without an owner has asked for comes before what only runs.
    fn claim(&self, request: &AllocateRequest, kind: &Kind) -> Option<&Arc<Lease>> {
        let is_block = request.count > 1 && !matches!(request.owner, OwnerRequest::None);
        if !(request.claim || request.use_claim) || kind.is_single || is_block {
            return None;
        }
        let first = request.memory_key()?;
        let is_of = |lease: &&Arc<Lease>| {
            let key = lease.memory_key().map(|key| MemoryKey { slot: 1, ..key });
            lease.claim && key.as_ref() == Some(&first)
        };
        let of_project: Vec<_> = self.claims_of(&first.project_path).collect();
        let mut claims: Vec<_> = of_project.iter().copied().filter(is_of).collect();
        let only_runs = |lease: &Lease| lease.holders().all(|holder| !holder.owner.is_none());
        claims.sort_by_key(|lease| (only_runs(lease), lease.slot, lease.lease_id));
        claims.retain(|lease| {
            let is_used = lease.orphaned || lease.owners().next().is_some();
            let is_its = lease.instance_id == request.instance_id;
            let is_wanted = request.port.is_none_or(|port| port == lease.port);
            let of_block = |other: &&&Arc<Lease>| other.block_id == lease.block_id;
            let is_whole = lease.block_id.is_none()
                || of_project.iter().filter(of_block).count() == usize::from(lease.count);
            is_its && (request.claim || is_wanted && !is_used) && is_whole
        });
        // A program uses its own, else one that no other has used.
        let of = |program: Option<&ServiceName>| {
            claims.iter().copied().find(|lease| lease.program.as_ref() == program)
        };
        match &request.program {
            Some(program) => of(Some(program)).or_else(|| of(None)),
            None => claims.iter().copied().find(|l| l.slot == 1 || l.program.is_none()),
        }
    }

    /// The live claims of a project.
    fn claims_of(&self, project: &ProjectPath) -> impl Iterator<Item = &Arc<Lease>> {
        let from = (project.clone(), 0, Port::MIN);
        let claims = self.claims.range(from..).take_while(|(of, ..)| *of == *project);
        claims.filter_map(|(_, part, port)| self.lease_at(*part, *port))
    }

    /// What is remembered for the slot of a service that a request gets: for a program its own, else nobody's; without one the
    /// first, else nobody's.
    fn remembered(&self, request: &AllocateRequest) -> Option<&Remembered> {
        let first = request.memory_key()?;
        if request.asked.is_some() {
            return self.memory.get(&first);
        }
        let slots = (1..=32).map(|slot| MemoryKey { slot, ..first.clone() });
        let is_taken = |slot: &MemoryKey| {
            let mut ports = self.memory.get(slot).into_iter().flat_map(|known| known.ports());
            ports.any(|port| {
                let part = parts(slot.protocol)[0];
                let lease = self.lease_at(part, port);
                lease.is_some_and(|lease| lease.memory_key().as_ref() == Some(slot))
            })
        };
        let free = slots.filter(|slot| !is_taken(slot));
        let free = free.map(|slot| (slot.slot, self.memory.get(&slot)));
        let free: Vec<_> = free.collect();
        let program = |known: Option<&Remembered>| known.and_then(|known| known.program.clone());
        let of = |wanted: Option<&ServiceName>| {
            free.iter().find(|(_, known)| program(*known).as_ref() == wanted)
        };
        let slot = match &request.program {
            Some(program) => of(Some(program)).or_else(|| of(None)),
            None => free.first().filter(|(slot, _)| *slot == 1).or_else(|| of(None)),
        };
        slot.and_then(|(_, known)| *known)
    }

    // What must hold of answers.

    fn is_free(&self, port: Port, protocol: Protocol) -> bool {
        self.is_nobodys(port, protocol) && !self.is_busy(port, protocol)
    }

    /// Whether it is neither leased nor excluded.
    fn is_nobodys(&self, port: Port, protocol: Protocol) -> bool {
        !self.excluded[place(port)] && !self.is_leased(port, protocol)
    }

    /// Whether the request can have it: of a server that is to be adopted, the port that it listens on.
    fn are_free(&self, first: Port, request: &AllocateRequest) -> bool {
        let protocol = request.protocol();
        (0..request.count).all(|offset| {
            let port = first.plus(offset);
            port.is_some_and(|port| {
                self.is_nobodys(port, protocol) && self.is_busy(port, protocol) == request.adopt
            })
        })
    }

    /// Whether a request of this type could get ports of its ranges.
    fn has_room(&self, kind: &Kind, request: &AllocateRequest) -> bool {
        kind.ranges.iter().any(|range| {
            let mut run = 0;
            range.ports().any(|port| {
                let good = !port.is_refused_by_browsers();
                let free = good && self.is_free(port, request.protocol());
                run = if free { run + 1 } else { 0 };
                run >= request.count
            })
        })
    }

    /// The live mappings of a project.
    fn mappings_of(&self, project: &ProjectPath) -> impl Iterator<Item = &Arc<Lease>> {
        let from = (project.clone(), 0, Port::MIN);
        let mappings = self.mappings.range(from..).take_while(move |((of, ..), _)| of == project);
        mappings.filter_map(|((_, part, _), real)| self.lease_at(*part, *real))
    }

    /// Checks the answer to a request for the real port of one.
    fn judge_mapping(
        &self,
        asked: Port,
        request: &AllocateRequest,
        answer: &Result<Option<Decision>, Error>,
    ) {
        let index = self.index(&request.service_type).expect("a request of a known type");
        let kind = &self.kinds[usize::from(index)];
        let project = request.project_path.as_ref().expect("a mapping is for a project");
        let part = parts(request.protocol())[0];
        let remap = request.remap.unwrap_or_default();
        let is_of_other_mode = self.mappings_of(project).any(|lease| lease.remap != remap);
        let real = self.mappings.get(&(project.clone(), part, asked));
        let is_its = |lease: &Arc<Lease>| lease.port == asked && lease.asked != Some(asked);
        let is_real = real.is_none() && self.mappings_of(project).any(is_its);
        let known = self.memory.keys().filter(|key| key.project_path == *project);
        let known = known.filter_map(|key| key.asked);
        let mut numbers: BTreeSet<_> =
            self.mappings_of(project).filter_map(|lease| lease.asked).chain(known).collect();
        match remap {
            Remap::Private => numbers.insert(asked),
            Remap::Conflict => numbers.remove(&asked),
        };
        let may_be = |port: Port| self.are_free(port, request) && !numbers.contains(&port);
        let remembered = self.remembered(request).into_iter().flat_map(Remembered::ports);
        let remembered = remembered
            .filter(|port| *port == asked || self.home[place(*port)].is_some())
            .find(|port| may_be(*port));
        let itself = (remap == Remap::Conflict && may_be(asked)).then_some(asked);
        let is_any = |port: Port| {
            may_be(port) && !port.is_refused_by_browsers() && !kind.preferred.contains(&port)
        };
        let has_room = || kind.ranges.iter().any(|range| range.ports().any(is_any));
        let is_full = || remembered.is_none() && itself.is_none() && !has_room();
        match answer.as_ref().map(|decision| decision.as_ref().map(|decided| &decided.choice)) {
            Ok(Some(Choice::Existing(lease))) => {
                assert!(!is_of_other_mode && real == Some(&lease.port), "{request:?}: {lease:?}");
                assert_eq!(self.lease_at(part, lease.port), Some(lease));
            }
            Ok(Some(Choice::Port(port))) => {
                assert!(!is_of_other_mode && real.is_none() && !is_real, "{request:?}: {port}");
                assert!(self.live < self.max_leases);
                if let Some(first) = remembered.or(itself) {
                    assert_eq!(*port, first, "{request:?}");
                } else {
                    let is_homes = self.home[place(*port)] == Some(index);
                    assert!(is_any(*port) && is_homes, "{request:?}: {port}");
                }
            }
            Ok(Some(Choice::Moved(..))) => panic!("{request:?} is no claim"),
            Ok(None) => assert!(is_full(), "there is room for {request:?}"),
            Err(error) => match error.kind {
                ErrorKind::InvalidArgument => assert!(is_of_other_mode, "{error:?}"),
                ErrorKind::PortInUse => assert!(is_real, "{error:?}"),
                ErrorKind::LimitExceeded => {
                    assert!(real.is_none() && self.live >= self.max_leases, "{error:?}");
                }
                ErrorKind::PoolExhausted => assert!(is_full(), "{request:?}: {error:?}"),
                _ => panic!("{request:?}: {error:?}"),
            },
        }
    }

    /// Checks the answer to a request that is completed with its type.
    pub fn judge(&self, request: &AllocateRequest, answer: &Result<Option<Decision>, Error>) {
        if let Some(asked) = request.asked {
            return self.judge_mapping(asked, request, answer);
        }
        let index = self.index(&request.service_type).expect("a request of a known type");
        let kind = &self.kinds[usize::from(index)];
        let key = (request.service_type.clone(), request.singleton_key.clone());
        let claim = self.claim(request, kind);
        let exists = kind.is_single && self.of_key.contains_key(&key) || claim.is_some();
        let asked = request.port.filter(|port| self.are_free(*port, request));
        let remembered = self.remembered(request).into_iter().flat_map(Remembered::ports);
        let remembered = remembered.into_iter().find(|first| {
            let mut block = (0..request.count).filter_map(|offset| first.plus(offset));
            // A single one may have been asked for by number.
            let good = request.count == 1 || !block.any(Port::is_refused_by_browsers);
            // A block that begins in a range of the type stays in it.
            let last = first.plus(request.count - 1);
            let stays = |range: &PortRange| last.is_some_and(|last| range.contains(last));
            let mut its = kind.ranges.iter().filter(|range| range.contains(*first)).peekable();
            let inside = its.peek().is_none() || its.any(stays);
            good && inside && self.are_free(*first, request)
        });
        let room = || remembered.is_some() || self.has_room(kind, request);
        let wants = self.live + usize::from(request.count);
        let is_full = || !request.strict && !exists && asked.is_none() && !room();
        let choice = match answer {
            Ok(Some(decision)) => {
                // A listener is in the way of a guard, and UDP has none.
                let can_be_held = !request.adopt && request.protocol() != Protocol::Udp;
                assert_eq!(decision.hold == Hold::Guard, can_be_held, "{request:?}");
                Ok(&decision.choice)
            }
            Ok(None) => return assert!(is_full(), "there is room for {request:?}"),
            Err(error) => Err(error),
        };
        match choice {
            Ok(Choice::Existing(lease)) => {
                assert!(claim.is_none_or(|claim| Arc::ptr_eq(claim, lease)), "it is another's");
                assert!(exists && (&lease.service_type, &lease.singleton_key) == (&key.0, &key.1));
                let live = self.lease_at(parts(lease.protocol)[0], lease.port);
                assert!(live.is_some_and(|live| Arc::ptr_eq(live, lease)), "{lease:?} has ended");
            }
            Ok(Choice::Moved(lease, to)) => {
                assert!(claim.is_some_and(|claim| Arc::ptr_eq(claim, lease)), "{lease:?}");
                assert!(!lease.orphaned && lease.owners().next().is_none(), "it is used");
                assert_eq!(asked, Some(*to), "it moves to the port that is asked for");
            }
            Ok(Choice::Port(first)) => {
                assert!(!exists, "{key:?} runs once, and runs already");
                assert!(wants <= self.max_leases, "{wants} leases are too many");
                assert!(self.are_free(*first, request), "port {first} is not free: {request:?}");
                // A port that is asked for counts most, then the one that the project had.
                match (asked, remembered) {
                    (Some(port), _) => assert_eq!(*first, port, "{request:?}"),
                    _ if request.strict => panic!("port {first} is not that of {request:?}"),
                    // A template comes before it.
                    (None, Some(port)) if request.template.is_none() || port == *first => {
                        assert_eq!(*first, port, "{request:?}");
                    }
                    (None, _) => {
                        for port in (0..request.count).filter_map(|offset| first.plus(offset)) {
                            let home = self.home[place(port)];
                            assert_eq!(home, Some(index), "port {port} for {request:?}");
                            assert!(!port.is_refused_by_browsers(), "port {port}");
                        }
                    }
                }
            }
            Err(error) => match error.kind {
                ErrorKind::LimitExceeded => assert!(!exists && wants > self.max_leases),
                ErrorKind::PortInUse => {
                    let is_used = |l: &Arc<Lease>| l.orphaned || l.owners().next().is_some();
                    let stays = request.port.is_some() && claim.is_some_and(is_used);
                    let is_unused = |port| self.is_nobodys(port, request.protocol());
                    let waits = request.adopt && !exists && request.port.is_some_and(is_unused);
                    let strictly = request.strict && (exists || asked.is_none()) && !waits;
                    assert!(stays || strictly || self.is_of_another_protocol(request), "{error:?}");
                }
                ErrorKind::InvalidArgument if request.adopt => {
                    let protocol = request.protocol();
                    let waits = |port| self.is_free(port, protocol);
                    assert!(request.port.is_some_and(waits), "{request:?}: {error:?}");
                }
                ErrorKind::PoolExhausted => {
                    assert!(is_full(), "there is room for {request:?}: {error:?}");
                }
                _ => panic!("{request:?}: {error:?}"),
            },
        }
    }

    /// Checks what gives way to a request that finds no port: a claim in the type's ranges that nobody has used, or none
    /// if there is none.
    pub fn judge_way(&self, request: &AllocateRequest, gives_way: Option<&Change>) {
        let Some(kind) = self.kind(&request.service_type) else { return };
        let is_soft = |lease: &Lease| {
            lease.claim
                && lease.used == Use::Idle
                && !lease.orphaned
                && lease.block_id.is_none()
                && lease.holders().all(|h| h.owner == Owner::None && h.deadline.is_none())
                && !self.is_busy(lease.port, lease.protocol)
        };
        let parts = parts(request.protocol());
        let at = |port| parts.iter().find_map(move |part| self.lease_at(*part, port));
        let ports = kind.ranges.iter().flat_map(|range| range.ports());
        let soft: Vec<_> = ports.filter_map(at).filter(|lease| is_soft(lease)).collect();
        match gives_way {
            Some(Change::Expire { lease, reason: EndReason::Yielded, .. }) => {
                let first = soft.iter().map(|lease| lease.since).min();
                assert!(is_soft(lease) && Some(lease.since) == first, "{lease:?} gave way");
            }
            Some(other) => panic!("{other:?}"),
            None => {
                let is_any = request.count == 1 && request.asked.is_none();
                let could = is_any && !request.dry_run && !soft.is_empty();
                assert!(!could, "nothing gave way to {request:?}");
            }
        }
    }

    /// Whether the oldest of what the request is for has not all of the protocol that is asked for.
    fn is_of_another_protocol(&self, request: &AllocateRequest) -> bool {
        let is_its = |lease: &&Arc<Lease>| {
            lease.service_type == request.service_type
                && lease.singleton_key == request.singleton_key
        };
        let oldest = self.leases().filter(is_its).min_by_key(|l| (l.since, l.lease_id));
        oldest.is_some_and(|lease| {
            let has = |part| lease.protocol.parts().contains(part);
            !request.protocol().parts().iter().all(has)
        })
    }

    /// Checks a new range: within the limits, far enough from other types, with no excluded port.
    pub fn judge_place(&self, name: &ServiceTypeName, range: PortRange, rules: &Rules) {
        let auto = &rules.auto;
        let inside = auto.min_port <= range.first() && range.last() <= auto.max_port;
        assert!(inside && range.len() >= auto.chunk_size.into(), "{range}");
        let own = self.index(name);
        for port in range.widened(auto.gap()).ports() {
            let home = self.home[place(port)];
            let others = home.is_some() && home != own;
            assert!(!others, "{range} of {name} is too near to port {port}");
            let own_or_excluded = home.is_some() || self.excluded[place(port)];
            assert!(!range.contains(port) || !own_or_excluded, "{range} of {name} has {port}");
        }
    }
}
