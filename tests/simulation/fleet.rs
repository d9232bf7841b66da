//! A thousand agents, each in a project of its own, and what happens to them.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use styxy::{
    change::Change,
    lease::{Instance, InstanceId, Lease, Owner, ProjectPath, Remap, ServiceName, SingletonKey},
    port::{Port, Protocol},
    request::{AllocateRequest, Filter, OwnerRequest},
    service_type::{Hold, ServiceTypeName, TemplateName},
    time::Timestamp,
};

use crate::{
    config::{self, port},
    model::parts,
    random::Random,
    service::Service,
};

const AGENTS: usize = 1_000;
/// About so many types are there that appeared by themselves, of four times as many names.
const AUTOMATIC: usize = 60;
/// How many singletons of one type there may be.
const KEYS: usize = 300;
/// The most ports that something has at once, leased or not.
const BUSY: usize = 1_000;
/// The PIDs from here on are those of servers.
const SERVERS: u64 = 1 << 31;

pub struct Agent {
    pub owner: Owner,
    pub instance: Option<InstanceId>,
}

pub struct Fleet {
    pub service: Service,
    random: Random,
    pub agents: Vec<Agent>,
    /// How many agents there have been.
    born: u64,
    /// Owners that have ended, the last ones.
    pub dead: VecDeque<Owner>,
    /// How many servers there have been, each a process that owns its lease.
    servers: u64,
    /// How many ports are wanted of each type that appeared by itself.
    demand: BTreeMap<ServiceTypeName, usize>,
    projects: Vec<ProjectPath>,
    names: Vec<ServiceName>,
    keys: Vec<SingletonKey>,
    templates: Vec<TemplateName>,
}

fn process(serial: u64) -> Owner {
    // Numbers are used again after a while, and the start tells one process from another.
    let first = if serial < SERVERS { 1 } else { SERVERS };
    let pid = u32::try_from(first + serial % 100_000).expect("it is small");
    Owner::Process { pid, start: serial }
}

pub fn is_server(owner: &Owner) -> bool {
    matches!(owner, Owner::Process { start, .. } if *start >= SERVERS)
}

fn words<T: std::str::FromStr>(texts: impl Iterator<Item = String>) -> Vec<T> {
    texts.filter_map(|text| text.parse().ok()).collect()
}

impl Fleet {
    pub fn new(seed: u64) -> Self {
        let rules = config::rules();
        let mut fleet = Self {
            random: Random(seed),
            agents: Vec::new(),
            born: 0,
            dead: VecDeque::new(),
            servers: 0,
            demand: BTreeMap::new(),
            projects: words((0..AGENTS).map(|n| format!("/home/dev/src/project-{n:04}"))),
            names: words(["web", "db", "worker"].map(str::to_owned).into_iter()),
            keys: words((0..KEYS).map(|n| format!("key-{n}"))),
            templates: rules.templates.keys().cloned().collect(),
            service: Service::new(rules),
        };
        for index in 0..AGENTS {
            let agent = fleet.born(index);
            fleet.agents.push(agent);
        }
        fleet
    }

    /// An agent begins: one is a process, one lives in a unit, one comes over the bus, one only asks.
    fn born(&mut self, index: usize) -> Agent {
        self.born += 1;
        let serial = self.born;
        let owner = match index % 8 {
            0..4 => process(serial),
            4 => {
                let unit = format!("agent-{index}.service");
                Owner::Unit { unit: unit.parse().expect("a good name") }
            }
            5 => Owner::Connection { name: format!(":1.{serial}"), bus: "bus".to_owned() },
            _ => Owner::None,
        };
        let instance = (index % 8 != 7).then(|| format!("agent-{index}-{serial}"));
        let instance = instance.map(|name| name.parse().expect("a good name"));
        if let Some(instance_id) = &instance
            && index.is_multiple_of(2)
        {
            let is_process = matches!(owner, Owner::Process { .. });
            let instance = Arc::new(Instance {
                instance_id: InstanceId::clone(instance_id),
                owner: if is_process { owner.clone() } else { Owner::None },
                heartbeat: Some(60),
                since: Timestamp(serial),
                working_directory: None,
                metadata: None,
            });
            self.service.commit(vec![Change::RegisterInstance { instance }]);
        }
        Agent { owner, instance }
    }

    fn die(&mut self) {
        let index = self.random.below(AGENTS);
        let Agent { owner, instance } = &self.agents[index];
        let registered =
            instance.as_ref().filter(|name| self.service.model.instances.contains_key(*name));
        match (owner, registered) {
            (Owner::None, Some(instance)) => self.service.instance_gone(instance),
            (Owner::None, None) => {}
            (owner, None) => self.service.owner_gone(owner),
            (owner, Some(instance)) => {
                self.service.owner_gone(owner);
                // The instance of a process ends with it; that of another misses its heartbeats.
                if self.service.model.instances.contains_key(instance) {
                    self.service.instance_gone(instance);
                }
            }
        }
        let owner = owner.clone();
        self.bury(owner);
        self.agents[index] = self.born(index);
    }

    fn bury(&mut self, owner: Owner) {
        self.dead.push_back(owner);
        if self.dead.len() > AGENTS {
            self.dead.pop_front();
        }
    }

    /// A lease's time has come, or its server ends.
    fn end_lease(&mut self, lease: &Lease) {
        if is_server(&lease.owner) && !lease.orphaned {
            self.service.owner_gone(&lease.owner);
            self.bury(lease.owner.clone());
        } else {
            self.service.lease_due(lease.lease_id);
        }
    }

    /// One operation.
    pub fn step(&mut self) {
        match self.random.below(10_000) {
            0..8_390 => self.trade(),
            8_390..8_900 => self.with_lease(|fleet, lease| {
                let ttl = 60 + u64::from(fleet.random.small(600));
                fleet.service.renew(lease.lease_id, ttl);
            }),
            8_900..9_400 => self.machine(),
            9_400..9_700 => {
                self.with_lease(|fleet, lease| fleet.end_lease(&lease));
            }
            9_700..9_800 => self.service.orphans_due(),
            9_800..9_820 => self.die(),
            9_820..9_822 => self.look(),
            9_822..9_826 => self.clear(),
            9_826..9_828 => self.forget(),
            9_828..9_832 => self.types(),
            9_832 => self.reload(),
            9_833..9_850 => self.with_lease(|fleet, lease| {
                let hold = if fleet.random.permille(700) { Hold::Client } else { Hold::Guard };
                fleet.service.set_hold(lease.lease_id, hold);
            }),
            _ => self.share(),
        }
    }

    /// Asks for a port of some type, or gives one back, so that the type stays in use as it should.
    fn trade(&mut self) {
        let index = self.random.below(self.service.model.kinds.len());
        let kind = &self.service.model.kinds[index];
        let wanted = self.demand.get(&kind.name).copied().unwrap_or(kind.len() * 95 / 100);
        let asks = if kind.used < wanted { 950 } else { 50 };
        if self.random.permille(asks) {
            let name = kind.name.clone();
            self.ask(name);
        } else {
            let range = *self.random.of(&kind.ranges);
            let part = kind.part;
            for _ in 0..16 {
                let port = self.port_of(range.first(), range.len());
                if let Some(lease) = self.service.model.lease_at(part, port) {
                    let lease_id = lease.lease_id;
                    return self.service.release(lease_id);
                }
            }
        }
    }

    fn port_of(&mut self, first: Port, length: usize) -> Port {
        let offset = u16::try_from(self.random.below(length)).expect("a range is short");
        first.plus(offset).expect("a range has its last port")
    }

    /// Asks as an agent whose project needs this type. A hundred and fifty projects do.
    fn ask(&mut self, service_type: ServiceTypeName) {
        let bytes = service_type.as_str().bytes();
        let near = bytes.fold(0, |number, byte| (number * 31 + usize::from(byte)) % AGENTS);
        let project = (near + self.random.below(150)) % AGENTS;
        let random = &mut self.random;
        let kind = self.service.model.kind(&service_type);
        let is_single = kind.is_some_and(|kind| kind.is_single);
        let ranges = kind.map(|kind| kind.ranges.clone()).unwrap_or_default();
        let agent = &self.agents[project];
        let owner = if !is_single && random.permille(300) {
            self.servers += 1;
            process(SERVERS + self.servers)
        } else {
            agent.owner.clone()
        };
        let mut request = AllocateRequest::new(service_type);
        request.project_path = Some(self.projects[project].clone());
        request.instance_id = agent.instance.clone().filter(|_| random.permille(700));
        request.service_name = random.permille(500).then(|| random.of(&self.names).clone());
        request.program = random.permille(300).then(|| random.of(&self.names).clone());
        request.ttl = random.permille(100).then_some(600);
        if random.permille(60) {
            let protocols = [Protocol::Tcp, Protocol::Udp, Protocol::Both];
            request.protocol = Some(*random.of(&protocols));
        }
        if is_single {
            request.singleton_key = random.permille(980).then(|| random.of(&self.keys).clone());
        } else if random.permille(40) {
            let most = if random.permille(50) { 30 } else { 7 };
            request.count = 2 + random.small(most);
        }
        match random.below(1_000) {
            0..40 if !ranges.is_empty() => {
                let range = *random.of(&ranges);
                request.port = Some(self.port_of(range.first(), range.len()));
            }
            40..50 => request.port = Some(port(1 + random.small(u16::MAX))),
            50..80 => request.template = Some(random.of(&self.templates).clone()),
            _ => {}
        }
        if !is_single && self.random.permille(300) {
            let asks = self.random.permille(500);
            (request.claim, request.use_claim) = (asks, !asks);
            if asks && request.template.is_none() && self.random.permille(100) {
                let range = ranges.first().copied();
                request.port = range.map(|range| self.port_of(range.first(), range.len()));
            }
            if !owner.is_none() {
                request.owner = OwnerRequest::Connection;
            }
        }
        request.strict = request.port.is_some() && self.random.permille(300);
        let is_new = !request.claim && !request.use_claim && request.count == 1;
        if is_new && !self.service.busy.is_empty() && self.random.permille(20) {
            // Most servers that listen have a lease already.
            let (part, listened) = *self.random.of(&self.service.busy);
            if part == 0 {
                let port =
                    if self.random.permille(900) { Some(listened) } else { listened.plus(1) };
                (request.port, request.template) = (port, None);
                (request.strict, request.adopt) = (port.is_some(), port.is_some());
                request.protocol = Some(Protocol::Tcp);
            }
        }
        if !is_single && request.count == 1 && self.random.permille(80) {
            return self.ask_for_real(request, project);
        }
        self.service.allocate(&request, &owner);
    }

    /// Asks for the real port of one that programs have hard-coded, for one of three agents of the project.
    fn ask_for_real(&mut self, request: AllocateRequest, project: usize) {
        let random = &mut self.random;
        let is_conflict = project.is_multiple_of(8) != random.permille(20);
        let mapping = AllocateRequest {
            asked: Some(port(3_000 + random.small(12))),
            remap: Some(if is_conflict { Remap::Conflict } else { Remap::Private }),
            port: None,
            template: None,
            strict: false,
            adopt: false,
            claim: false,
            use_claim: false,
            owner: OwnerRequest::None,
            instance_id: None,
            ..request
        };
        let owner = self.agents[(project + random.below(3)) % AGENTS].owner.clone();
        self.service.allocate(&mapping, &owner);
    }

    /// Asks for a singleton.
    fn share(&mut self) {
        self.ask(config::name(config::SINGLE));
    }

    /// Something happens to a lease, wherever its port is.
    fn with_lease(&mut self, happens: impl FnOnce(&mut Self, Arc<Lease>)) {
        for _ in 0..64 {
            let (part, number) = (self.random.below(2), 1 + self.random.small(u16::MAX));
            if let Some(lease) = self.service.model.lease_at(part, port(number)).map(Arc::clone) {
                return happens(self, lease);
            }
        }
    }

    /// Something on the machine takes a port, the holder of a lease most likely, or lets one go.
    fn machine(&mut self) {
        let busy = self.service.busy.len();
        if self.random.below(BUSY) < busy {
            let index = self.random.below(busy);
            return self.service.close(index);
        }
        if self.random.permille(700) {
            return self.with_lease(|fleet, lease| {
                fleet.service.bind(parts(lease.protocol)[0], lease.port);
            });
        }
        let random = &mut self.random;
        let (part, kinds) = (random.below(2), &self.service.model.kinds);
        let ranges = &random.of(kinds).ranges;
        let range = *random.of(ranges);
        let port = self.port_of(range.first(), range.len());
        self.service.bind(part, port);
    }

    /// Types appear by themselves and go again.
    fn types(&mut self) {
        let there = self.demand.len();
        if self.random.below(2 * AUTOMATIC) < there {
            let index = self.random.below(there);
            let name = self.demand.keys().nth(index).expect("there are so many").clone();
            self.demand.remove(&name);
            if self.service.rules.types.0.contains_key(&name) {
                self.service.undo(&name);
            }
        } else {
            let number = self.random.below(4 * AUTOMATIC);
            let name = config::name(&format!("tool-{number}"));
            if !self.demand.contains_key(&name) {
                self.demand.insert(name.clone(), 5 + self.random.below(200));
                self.ask(name);
            }
        }
    }

    fn reload(&mut self) {
        let mut rules = self.service.rules.clone();
        config::change(&mut rules, self.service.model.live, &mut self.random);
        self.service.reload(rules);
    }

    /// Everything of a project is released, or of a port, as `styxy release` does it.
    fn clear(&mut self) {
        let project_path = Some(self.random.of(&self.projects).clone());
        self.service.release_matching(&Filter { project_path, ..Filter::default() });
    }

    fn forget(&mut self) {
        let project_path = Some(self.random.of(&self.projects).clone());
        self.service.forget(&Filter { project_path, ..Filter::default() });
    }

    /// Asks without changing anything.
    fn look(&mut self) {
        let project = self.random.of(&self.projects);
        let filter = Filter { project_path: Some(project.clone()), ..Filter::default() };
        let listed = self.service.registry.list(&filter);
        let expected = self.service.model.leases();
        let expected = expected.filter(|lease| lease.project_path.as_ref() == Some(project));
        assert!(expected.eq(listed.iter()), "{filter:?}");

        let types = &self.service.registry.rules().types.0;
        let (name, service_type) =
            types.iter().nth(self.random.below(types.len())).expect("there are so many");
        let request = AllocateRequest::new(name.clone());
        for (port, _) in self.service.registry.candidates(&request, service_type, None).take(3) {
            assert!(!self.service.model.is_leased(port, request.protocol()), "{port}");
            assert!(service_type.contains(port), "{port}");
        }
    }
}
