//! Short histories with faults: commits that fail, owners that die between a decision and its effect, words of their end that
//! come late or twice, answers that do not arrive, clocks that step, and a service that is killed and reads its log.
//!
//! One seed gives one history. One that breaks an invariant is made as short as it can be, and is printed as a script.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    panic::{self, AssertUnwindSafe},
    sync::Arc,
};

use styxy::{
    auto_allocation::AutoAllocation,
    change::{Change, Record},
    error::ErrorKind,
    lease::{EndReason, HolderId, Instance, InstanceId, Lease, LeaseId, Owner, Remap},
    obstacle::{InUse, Obstacle},
    port::{Port, PortRange, Protocol},
    port_set::PortSet,
    registry::{
        Choice, Effect, Registry, Rules,
        ending::{LOOKS, OwnerEnded, spare_listened},
        granting::{At, Means, Share, new_leases},
        obligations::{Limit, Obligations},
    },
    request::{AllocateRequest, Filter},
    service_type::{Hold, InstanceBehavior, ServiceType, ServiceTypes, Templates},
    time::{Moment, Timestamp},
};

use crate::{
    begun::{Begun, limit, mean_one_thing},
    config::{name, port},
    random::Random,
};

/// How many agents there are, each a process with an instance.
const AGENTS: u8 = 4;
/// A type that is for everybody, one that runs once, and one of UDP.
const KINDS: [(&str, u16, u16); 3] =
    [("dev", 5_000, 5_007), ("ai", 5_100, 5_103), ("dns", 5_200, 5_203)];
/// How many steps a history has.
const STEPS: usize = 60;
/// How many guards there may be.
const MOST_GUARDS: usize = 6;

/// Whether a lease is asked for that is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    No,
    Asked,
    Used,
}

/// One step. Numbers stand for whatever there is, modulo how many there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// An agent asks for a port.
    Ask {
        agent: u8,
        kind: u8,
        port: Option<u8>,
        ttl: bool,
        owned: bool,
        named: bool,
        announced: bool,
        claim: Claim,
        /// A port that its program has hard-coded.
        asked: Option<u8>,
    },
    /// From now on its owner keeps the port of a lease bound, or the service again.
    Hold {
        which: u8,
        client: bool,
    },
    /// The last request that has a name comes again: its caller got no answer.
    AskAgain,
    /// The last answer does not arrive.
    Undelivered,
    Release {
        which: u8,
    },
    Renew {
        which: u8,
    },
    Register {
        agent: u8,
    },
    /// The heartbeats of an agent stop.
    Silent {
        agent: u8,
    },
    /// A process ends. Word of it is on its way if anybody waits for it.
    Die {
        agent: u8,
    },
    /// A word arrives, and perhaps once more.
    Word {
        which: u8,
        twice: bool,
    },
    /// The port of a lease is listened on, or no more.
    Listen {
        which: u8,
    },
    Close {
        which: u8,
    },
    /// All orphans are looked at.
    Orphans,
    /// Time passes, and what is due is looked at.
    Pass {
        seconds: u8,
    },
    /// A lease is looked at that is not due.
    Early {
        which: u8,
    },
    /// The clock on the wall is set.
    SetClock {
        back: bool,
    },
    /// The next commit fails.
    FailNext,
    /// The service is killed, and another one starts.
    Restart,
}

impl Step {
    fn random(random: &mut Random) -> Self {
        let small = |random: &mut Random| u8::try_from(random.below(250)).expect("less than 250");
        let agent = u8::try_from(random.below(AGENTS.into())).expect("few");
        let which = small(random);
        match random.below(100) {
            0..34 => Self::Ask {
                agent,
                kind: small(random),
                port: random.permille(200).then(|| small(random)),
                ttl: random.permille(300),
                owned: random.permille(600),
                named: random.permille(400),
                announced: random.permille(300),
                claim: *random.of(&[Claim::No, Claim::No, Claim::Asked, Claim::Used]),
                asked: random.permille(300).then(|| small(random)),
            },
            34..37 => Self::AskAgain,
            37..40 => Self::Undelivered,
            40..47 => Self::Release { which },
            47..52 => Self::Renew { which },
            52..56 => Self::Register { agent },
            56..58 => Self::Silent { agent },
            58..64 => Self::Die { agent },
            64..72 => Self::Word { which, twice: random.permille(200) },
            72..79 => Self::Listen { which },
            79..83 => Self::Close { which },
            83..85 => Self::Orphans,
            85..90 => Self::Pass { seconds: small(random) },
            90..91 => Self::Early { which },
            91..92 => Self::Hold { which, client: random.permille(700) },
            92..94 => Self::SetClock { back: random.permille(500) },
            94..97 => Self::FailNext,
            _ => Self::Restart,
        }
    }
}

/// A mistake that is made on purpose, to see that it is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mistake {
    None,
    /// Owners are not watched.
    WatchesNobody,
    /// A lease ends although something listens on its port.
    SparesNobody,
    /// Releases are not in the log.
    ForgetsReleases,
    /// Time limits are taken for over a minute early.
    IsEarly,
    /// What was not delivered is kept.
    KeepsUndelivered,
}

struct World {
    registry: Registry,
    /// The lines of the log.
    log: Vec<String>,
    seq: u64,
    now: Moment,
    wall: Timestamp,
    begun: Begun,
    /// Which life of each agent it is.
    lives: [u64; AGENTS as usize],
    /// Owners of whose end word is on its way.
    words: Vec<Owner>,
    listened: BTreeSet<Port>,
    names: u128,
    fails: bool,
    last: Option<Last>,
    mistake: Mistake,
}

/// The last grant.
struct Last {
    request: AllocateRequest,
    owner: Owner,
    shares: Vec<Share>,
    /// Whether it was asked for once more.
    again: bool,
}

fn rules() -> Rules {
    let types = KINDS.map(|(text, first, last)| {
        let range = PortRange::new(port(first), port(last)).expect("ascending");
        let (instance_behavior, protocol) = match text {
            "ai" => (InstanceBehavior::Single, Protocol::Tcp),
            "dns" => (InstanceBehavior::Multi, Protocol::Udp),
            _ => (InstanceBehavior::Multi, Protocol::Tcp),
        };
        (name(text), ServiceType { instance_behavior, protocol, ..ServiceType::new(range) })
    });
    Rules {
        types: ServiceTypes(types.into()),
        templates: Templates::new(),
        auto: AutoAllocation::off(),
        excluded: PortSet::default(),
        max_leases: 20,
        max_per_instance: 20,
        max_per_project: 20,
        percent_per_instance: 100,
        percent_per_project: 100,
        max_remembered: 5,
    }
}

fn instance(agent: u8) -> InstanceId {
    format!("agent-{agent}").parse().expect("a good name")
}

/// The leases, what is remembered, and the instances: all that a log keeps.
fn kept(registry: &Registry) -> impl PartialEq + std::fmt::Debug + use<> {
    let memory = registry.memory().iter();
    let memory: Vec<_> = memory.map(|(key, known)| ((**key).clone(), known.clone())).collect();
    (registry.list(&Filter::default()), memory, registry.instances())
}

impl World {
    fn new(mistake: Mistake) -> Self {
        Self {
            registry: Registry::new(rules()),
            log: Vec::new(),
            seq: 0,
            now: Moment(1_000_000),
            wall: Timestamp(1_000_000_000),
            begun: Begun::default(),
            lives: [1; AGENTS as usize],
            words: Vec::new(),
            listened: BTreeSet::new(),
            names: 0,
            fails: false,
            last: None,
            mistake,
        }
    }

    fn process(&self, agent: u8) -> Owner {
        Owner::Process { pid: u32::from(agent) + 1, start: self.lives[usize::from(agent)] }
    }

    fn lives(&self, owner: &Owner) -> bool {
        (0..AGENTS).any(|agent| self.process(agent) == *owner)
    }

    fn lease(&self, which: u8) -> Option<Arc<Lease>> {
        let leases = self.registry.list(&Filter::default());
        (!leases.is_empty()).then(|| Arc::clone(&leases[usize::from(which) % leases.len()]))
    }

    /// All or nothing, as the service does it: the log, the registry, what follows.
    fn commit(&mut self, changes: Vec<Change>) -> bool {
        if changes.is_empty() {
            return true;
        }
        if std::mem::take(&mut self.fails) {
            return false;
        }
        for change in changes {
            self.has_a_cause(&change);
            self.seq += 1;
            let record = Record { seq: self.seq, at: self.wall, client: None, change };
            let line = serde_json::to_string(&record).expect("every record can be written");
            let read: Record = serde_json::from_str(&line).expect("what was written can be read");
            assert_eq!(read, record, "what is read is what was written");
            let is_lost = self.mistake == Mistake::ForgetsReleases
                && matches!(read.change, Change::Release { .. });
            if !is_lost {
                self.log.push(line);
            }
            for effect in self.registry.change(read.seq, read.at, &read.change) {
                self.carry_out(effect);
            }
        }
        true
    }

    /// Nothing ends without the cause that is told.
    fn has_a_cause(&self, change: &Change) {
        match change {
            Change::Expire { lease, reason, .. } => {
                let has = match reason {
                    EndReason::OwnerGone | EndReason::InstanceGone => lease
                        .holders()
                        .all(|holder| !self.lives(&holder.owner) || holder.instance_id.is_some()),
                    EndReason::Ttl => lease
                        .holders()
                        .any(|holder| holder.deadline.is_some_and(|end| end <= self.now)),
                    EndReason::Unused => {
                        !lease.is_owned() && lease.holders().all(|holder| holder.ttl.is_none())
                    }
                    EndReason::ListenerGone => lease.orphaned,
                    EndReason::Yielded => lease.is_soft(),
                    _ => true,
                };
                assert!(has, "a lease ends only for a cause: {reason:?}, {lease:?}");
                let spared =
                    *reason != EndReason::NotDelivered && self.listened.contains(&lease.port);
                assert!(!spared, "a port that is listened on is spared: {reason:?}, {lease:?}");
            }
            Change::Orphan { lease } => {
                assert!(self.listened.contains(&lease.port), "an orphan has a listener: {lease:?}");
            }
            _ => {}
        }
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Watch(_) if self.mistake == Mistake::WatchesNobody => {}
            Effect::Watch(owner) => {
                // It may have ended since it was decided.
                if self.begun.watched.insert(owner.clone()) && !self.lives(&owner) {
                    self.words.push(owner);
                }
            }
            effect => self.begun.carry_out(effect),
        }
    }

    fn end(&mut self, changes: Vec<Change>) -> bool {
        let spared = spare_listened(changes.clone(), |lease| self.listened.contains(&lease.port));
        self.commit(if self.mistake == Mistake::SparesNobody { changes } else { spared })
    }

    fn hold(&mut self, which: u8, client: bool) {
        let Some(lease) = self.lease(which) else { return };
        let hold = if client { Hold::Client } else { Hold::Guard };
        if let Ok((Some(change), _)) = self.registry.set_hold(lease.lease_id, hold) {
            self.commit(vec![change]);
        }
    }

    #[expect(clippy::too_many_lines, reason = "a few for each step")]
    fn step(&mut self, step: Step) {
        match step {
            Step::Ask { agent, kind, port: wanted, ttl, owned, named, announced, claim, asked } => {
                let (text, first, last) = KINDS[usize::from(kind) % KINDS.len()];
                let mut request = AllocateRequest::new(name(text));
                request.project_path =
                    Some(format!("/home/dev/project-{agent}").parse().expect("a good path"));
                let offset = |number: u8| u16::from(number) % (last - first + 1);
                request.port = wanted.map(|number| port(first + offset(number)));
                request.ttl = ttl.then_some(100);
                request.instance_id = announced.then(|| instance(agent));
                request.claim = claim == Claim::Asked;
                request.use_claim = claim == Claim::Used;
                if let Some(asked) = asked {
                    // Agents that share a project share what its programs ask for.
                    let project = format!("/home/dev/project-{}", agent % 2);
                    request.project_path = Some(project.parse().expect("a good path"));
                    request.asked = Some(port(first + u16::from(asked) % 10));
                    let is_other = asked % 16 == 0;
                    request.remap = Some(if is_other { Remap::Conflict } else { Remap::Private });
                    (request.port, request.claim, request.use_claim) = (None, false, false);
                }
                if named {
                    self.names += 1;
                    request.lease_id = Some(LeaseId::from_number(1_000_000 + self.names));
                }
                let owner = if owned { self.process(agent) } else { Owner::None };
                let shares = self.ask(&request, &owner);
                if let Some(shares) = shares {
                    self.last = Some(Last { request, owner, shares, again: false });
                }
            }
            Step::Hold { which, client } => self.hold(which, client),
            Step::AskAgain => self.ask_again(),
            Step::Undelivered => self.undelivered(),
            Step::Release { which } => {
                let Some(lease) = self.lease(which) else { return };
                let name = self.name_of(&lease, which);
                let is_listened = |lease: &Lease| self.listened.contains(&lease.port);
                let released = self.registry.release(name, is_listened);
                let (change, _) = released.expect("the lease is live");
                self.commit(vec![change]);
            }
            Step::Renew { which } => {
                let Some(lease) = self.lease(which) else { return };
                let name = self.name_of(&lease, which);
                if let Ok((change, _)) = self.registry.renew(name, Some(100), self.now) {
                    self.commit(vec![change]);
                }
            }
            Step::Register { agent } => {
                let instance = Arc::new(Instance {
                    instance_id: instance(agent),
                    owner: self.process(agent),
                    heartbeat: Some(60),
                    since: self.wall,
                    working_directory: None,
                    metadata: None,
                });
                self.commit(vec![Change::RegisterInstance { instance }]);
            }
            Step::Silent { agent } => {
                let ends = self.registry.instance_silent(&instance(agent));
                self.end(ends);
            }
            Step::Die { agent } => {
                let owner = self.process(agent);
                self.lives[usize::from(agent)] += 1;
                if self.begun.watched.contains(&owner) {
                    self.words.push(owner);
                }
            }
            Step::Word { which, twice } => {
                if !self.words.is_empty() {
                    let owner = self.words.swap_remove(usize::from(which) % self.words.len());
                    self.owner_gone(&owner);
                    if twice {
                        self.owner_gone(&owner);
                    }
                }
            }
            Step::Listen { which } => {
                let lease = self.lease(which);
                self.listened.extend(lease.map(|lease| lease.port));
            }
            Step::Close { which } => {
                let lease = self.lease(which);
                lease.map(|lease| self.listened.remove(&lease.port));
            }
            Step::Orphans => {
                let ends = self.registry.orphans_end(|_| true);
                self.end(ends);
            }
            Step::Pass { seconds } => {
                self.now = self.now.plus_seconds(seconds.into());
                self.wall.0 += u64::from(seconds) * 1_000;
                self.look_at_what_is_due();
            }
            Step::Early { which } => {
                if let Some(lease) = self.lease(which) {
                    self.lease_due(lease.lease_id);
                }
            }
            Step::SetClock { back: true } => self.wall.0 -= 3_600_000,
            Step::SetClock { back: false } => self.wall.0 += 3_600_000,
            Step::FailNext => self.fails = true,
            Step::Restart => self.restart(),
        }
    }

    /// The lease, or one of those who share it.
    fn name_of(&self, lease: &Lease, which: u8) -> LeaseId {
        let holder = lease.holder_ids().nth(usize::from(which) % 2).map(|id| id.to_string());
        holder.map_or(lease.lease_id, |holder| holder.parse().expect("a name of the same form"))
    }

    /// What the caller holds since then; `None` if nothing was granted.
    fn ask(&mut self, request: &AllocateRequest, owner: &Owner) -> Option<Vec<Share>> {
        let before = self.registry.granted_before(request).ok()?;
        if before.is_some() {
            return Some(Vec::new());
        }
        for owner in self.registry.leaving_in_the_way_of(request) {
            let ends = self.registry.leaves_now(&owner);
            if !self.end(ends) {
                self.words.push(owner);
            }
        }
        let known = self.registry.rules().types.0.get(&request.service_type).expect("a known type");
        let protocol = request.protocol.unwrap_or(known.protocol);
        let means = Means {
            can_grow: true,
            hand_over: false,
            guards: (self.begun.guarded.len(), MOST_GUARDS),
        };
        let decided = self.registry.decide(request, known, means, |port| {
            let is_leased = self.registry.at(port, protocol).is_some();
            assert!(!is_leased, "no port is leased twice: {port}");
            let is_free = !self.listened.contains(&port);
            if is_free { Ok(()) } else { Err(Obstacle::InUse(InUse::Socket)) }
        });
        if decided.as_ref().is_err_and(|error| error.kind == ErrorKind::PoolExhausted) {
            let is_listened = |lease: &Lease| self.listened.contains(&lease.port);
            let gives_way = self.registry.gives_way(request, known, is_listened)?;
            return if self.commit(vec![gives_way]) { self.ask(request, owner) } else { None };
        }
        let decision = decided.ok()?.expect("no type may grow");
        let mut end = None;
        if let Choice::Moved(claim, _) = &decision.choice {
            if self.listened.contains(&claim.port) {
                return None;
            }
            end = Some(Change::end(Arc::clone(claim), EndReason::Released));
        }
        let kept_before = self.fails.then(|| kept(&self.registry));
        let name = request.lease_id.map(HolderId::from);
        let mut repeated = None;
        let (changes, shares) = match &decision.choice {
            Choice::Moved(_, first) | Choice::Port(first) => {
                self.registry.name_is_free(&decision.request, None).ok()?;
                let names = &mut self.names;
                let id = || {
                    *names += 1;
                    LeaseId::from_number(*names)
                };
                let at = At { now: self.now, wall: self.wall };
                let leases = new_leases(&decision, *first, owner, at, id);
                let share = |lease: &Arc<Lease>| {
                    let (lease_id, holder) = (lease.lease_id, lease.holder_id);
                    Share { lease_id, holder, name }
                };
                let shares: Vec<_> = leases.iter().map(share).collect();
                let grant = |lease: Arc<Lease>| {
                    let remembers = self.registry.remembers(&decision.request, &lease);
                    Change::Allocate { lease, remembers }
                };
                (leases.into_iter().map(grant).chain(end).collect(), shares)
            }
            Choice::Existing(lease) => {
                self.names += 1;
                let id = HolderId::from_number(self.names);
                let shared =
                    self.registry.share(lease, &decision.request, owner, id, self.now).ok()?;
                let share =
                    Share { lease_id: lease.lease_id, holder: shared.holder, name: shared.name };
                repeated = shared.name.filter(|_| shared.is_repeated);
                let shares = shared.is_new.then_some(share).into_iter().collect();
                (vec![shared.change], shares)
            }
        };
        if self.commit(changes) {
            repeated.into_iter().for_each(|name| self.registry.note_repeated(name));
            for share in &shares {
                let is_live = self.registry.get(share.lease_id).is_ok();
                assert!(is_live, "what was granted is live");
            }
            return Some(shares);
        }
        let after = kept(&self.registry);
        assert!(kept_before.is_some_and(|before| before == after), "what failed leaves no trace");
        None
    }

    /// Who asks again by the same name gets the same.
    fn ask_again(&mut self) {
        let Some(last) = self.last.take() else { return };
        let is_gone = !last.owner.is_none() && !self.lives(&last.owner);
        if is_gone || last.request.lease_id.is_none() {
            return;
        }
        let Last { request, owner, shares, again: last_again } = last;
        let live = |world: &Self| {
            let held = shares.iter().filter(|share| match share.holder {
                Some(holder) => {
                    let lease = world.registry.get(share.lease_id);
                    lease.is_ok_and(|lease| lease.holder_ids().any(|id| id == holder))
                }
                None => world.registry.get(share.lease_id).is_ok(),
            });
            held.count()
        };
        let (had, count) = (live(self), self.registry.len());
        let fails = self.fails;
        let answer = self.ask(&request, &owner);
        let answered = answer.is_some();
        if had > 0 && !fails {
            assert!(answered, "who asks again is answered");
            // What is leaving may have ended to make room.
            let same = live(self) == had && self.registry.len() <= count;
            assert!(same, "who asks again gets the same");
        }
        // What has ended meanwhile is granted anew, and the answer to that is the last one.
        self.last = Some(match answer {
            Some(shares) if had == 0 => Last { request, owner, shares, again: false },
            _ => Last { request, owner, shares, again: last_again || answered },
        });
    }

    /// What was not delivered is taken back, unless it was asked for again and answered.
    fn undelivered(&mut self) {
        let Some(Last { request, shares, again, .. }) = self.last.take() else { return };
        let held = |world: &Self, share: &Share| {
            let lease = world.registry.get(share.lease_id).ok()?;
            let holds = share.holder.is_none_or(|id| lease.holder_ids().any(|held| held == id));
            holds.then(|| (lease.orphaned, lease.holder_ids().count()))
        };
        let before: Vec<_> = shares.iter().map(|share| held(self, share)).collect();
        let ends = self.registry.take_back(&shares, EndReason::NotDelivered);
        let ends = if self.mistake == Mistake::KeepsUndelivered { Vec::new() } else { ends };
        if !self.commit(ends) {
            return;
        }
        for (share, before) in shares.iter().zip(before) {
            let after = held(self, share);
            if again && request.lease_id.is_some() {
                assert_eq!(after, before, "what was asked for again stays");
            } else {
                assert_eq!(after, None, "what was not delivered is nobody's: {share:?}");
            }
        }
    }

    fn owner_gone(&mut self, owner: &Owner) {
        self.begun.watched.remove(owner);
        let listened = &self.listened;
        let is_listened = |lease: &Lease| listened.contains(&lease.port);
        let OwnerEnded { ends, is_leaving } =
            self.registry.owner_ended(owner, self.wall, is_listened);
        if !self.end(ends) || is_leaving {
            self.words.push(owner.clone());
        }
    }

    fn lease_due(&mut self, lease_id: LeaseId) {
        let early = if self.mistake == Mistake::IsEarly { 60 } else { 0 };
        let listened = &self.listened;
        let is_listened = |lease: &Lease| listened.contains(&lease.port);
        let due = self.registry.lease_due(lease_id, self.now.plus_seconds(early), is_listened);
        self.end(due.change.into_iter().collect());
    }

    fn look_at_what_is_due(&mut self) {
        let is_due = |limit: &Limit| match limit {
            Limit::At(moment) => *moment <= self.now,
            Limit::Unused | Limit::Claimed => true,
        };
        let due = self.begun.limits.iter().filter(|(_, limit)| is_due(limit)).map(|(id, _)| *id);
        let mut due: Vec<_> = due.collect();
        due.sort_unstable();
        due.into_iter().for_each(|lease_id| self.lease_due(lease_id));
    }

    /// Another service reads the log, and begins what the leases and instances ask for.
    fn restart(&mut self) {
        let mut registry = Registry::new(rules());
        for line in &self.log {
            let record: Record = serde_json::from_str(line).expect("a good line");
            registry.apply(record.seq, record.at, &record.change);
        }
        assert_eq!(kept(&registry), kept(&self.registry), "what was acknowledged is in the log");
        self.registry = registry;
        self.words.clear();
        self.begun = Begun::default();
        // Names that were asked for again are known no more: who asks now is told the same, and keeps it.
        self.last = None;
        let mut effects = Vec::new();
        for lease in self.registry.iter() {
            let Obligations { owners, limit, guard } = Obligations::of(Some(lease));
            effects.extend(owners.into_iter().cloned().map(Effect::Watch));
            effects.extend(limit.map(|limit| Effect::Limit(lease.lease_id, Some(limit))));
            effects.extend(guard.then_some(Effect::Guard(lease.lease_id)));
        }
        for instance in self.registry.instances() {
            effects.push(Effect::Watch(instance.owner.clone()));
            effects.push(Effect::Heartbeats(instance));
        }
        effects.into_iter().for_each(|effect| self.carry_out(effect));
    }

    /// What must hold after each step.
    fn check(&self) {
        let leases = self.registry.list(&Filter::default());
        let mut ports = HashSet::new();
        let mut needed = HashSet::new();
        let (mut limits, mut guarded) = (HashMap::new(), HashSet::new());
        for lease in &leases {
            for part in lease.protocol.parts() {
                assert!(ports.insert((lease.port, *part)), "no port is leased twice: {lease:?}");
            }
            let is_guarded =
                lease.protocol != Protocol::Udp && lease.hold_now().as_str() == "guard";
            guarded.extend(is_guarded.then_some(lease.lease_id));
            if lease.orphaned {
                continue;
            }
            needed.extend(lease.holders().map(|holder| holder.owner).filter(|o| !o.is_none()));
            limits.extend(limit(lease).map(|limit| (lease.lease_id, limit)));
        }
        mean_one_thing(leases.iter());
        let instances = self.registry.instances();
        needed.extend(instances.iter().map(|instance| instance.owner.clone()));
        for owner in &self.begun.watched {
            assert!(needed.contains(owner), "nobody is watched for nothing: {owner:?}");
        }
        for owner in &needed {
            let is_awaited = self.begun.watched.contains(owner) || self.words.contains(owner);
            assert!(is_awaited, "the end of every owner is waited for: {owner:?}");
        }
        assert_eq!(self.begun.limits, limits, "every time limit is waited for");
        assert_eq!(self.begun.guarded, guarded, "the ports are kept that are to be kept");
        let names: HashSet<_> = instances.iter().map(|i| i.instance_id.clone()).collect();
        assert_eq!(self.begun.heartbeats, names, "heartbeats are waited for");
    }

    /// When every word has come and time has passed, nothing lives by what is gone.
    fn come_to_rest(&mut self) {
        self.fails = false;
        while let Some(owner) = self.words.pop() {
            self.owner_gone(&owner);
        }
        self.check();
        for _ in 0..=LOOKS + 1 {
            self.now = self.now.plus_seconds(1_000);
            self.look_at_what_is_due();
        }
        let orphans = self.registry.orphans_end(|_| true);
        self.end(orphans);
        for lease in self.registry.iter() {
            let lives = lease.holders().any(|holder| self.lives(&holder.owner));
            let is_listened = self.listened.contains(&lease.port);
            assert!(lives || is_listened, "nothing lives by what is gone: {lease:?}");
        }
    }
}

/// Which invariant a history breaks, if it breaks one.
fn broken(script: &[Step], mistake: Mistake) -> Option<String> {
    let run = || {
        let mut world = World::new(mistake);
        for step in script {
            world.step(*step);
            world.check();
        }
        world.come_to_rest();
    };
    let panicked = panic::catch_unwind(AssertUnwindSafe(run)).err()?;
    let text = panicked.downcast_ref::<String>().cloned();
    text.or_else(|| panicked.downcast_ref::<&str>().map(ToString::to_string))
        .or(Some(String::new()))
}

/// The shortest history that is left when steps are taken out as long as one is still broken.
fn shortest(mut script: Vec<Step>, mistake: Mistake) -> Vec<Step> {
    let mut length = script.len() / 2;
    while length > 0 {
        let mut at = 0;
        while at < script.len() {
            let mut shorter = script.clone();
            shorter.drain(at..(at + length).min(script.len()));
            if broken(&shorter, mistake).is_some() {
                script = shorter;
            } else {
                at += length;
            }
        }
        length /= 2;
    }
    script
}

/// The first history of these seeds that is broken: the seed, the shortest script, and what it breaks.
fn search(
    seeds: std::ops::Range<u64>,
    histories: usize,
    mistake: Mistake,
) -> Option<(u64, Vec<Step>, String)> {
    for seed in seeds {
        let mut random = Random(seed);
        for _ in 0..histories {
            let script: Vec<_> = (0..STEPS).map(|_| Step::random(&mut random)).collect();
            if broken(&script, mistake).is_some() {
                let script = shortest(script, mistake);
                let what = broken(&script, mistake).unwrap_or_default();
                return Some((seed, script, what));
            }
        }
    }
    None
}

fn told(script: &[Step]) -> String {
    script.iter().map(|step| format!("    {step:?},")).collect::<Vec<_>>().join("\n")
}

/// How many histories there are for each of a hundred seeds: ten million steps, where they are optimised.
fn histories() -> usize {
    let all = std::env::var("STYXY_FAULTS").ok().and_then(|count| count.parse().ok());
    all.unwrap_or(if cfg!(debug_assertions) { 30 } else { 1_667 })
}

#[test]
fn no_fault_breaks_an_invariant() {
    let found = search(0..100, histories(), Mistake::None);
    if let Some((seed, script, what)) = found {
        panic!("seed {seed}: {what}\n{}\n", told(&script));
    }
}

#[test]
fn a_mistake_is_found_and_told_as_a_short_script() {
    for mistake in [
        Mistake::WatchesNobody,
        Mistake::SparesNobody,
        Mistake::ForgetsReleases,
        Mistake::IsEarly,
        Mistake::KeepsUndelivered,
    ] {
        let (_, script, what) = search(0..100, 30, mistake).expect("it is found");
        eprintln!("{mistake:?}: {what}\n{}", told(&script));
        assert!(script.len() <= 20, "{mistake:?} takes {} steps", script.len());
    }
}
