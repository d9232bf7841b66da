//! The service without the kernel, files and the journal. What is granted, what ends and what follows from a change is for the
//! registry to say; here it is told what the kernel would say, and every change goes to the model, too.

use std::sync::Arc;

use styxy::{
    change::{Change, TypeRanges},
    error::{Error, ErrorKind},
    lease::{EndReason, HolderId, InstanceId, Lease, LeaseId, Owner},
    obstacle::{InUse, Obstacle},
    port::{Port, PortRange, Protocol},
    port_set::PortSet,
    registry::{
        Choice, Effect, Registry, Rules,
        claims::has_another_port,
        ending::{LOOKS, OwnerEnded, spare_listened},
        granting::{At, Decision, Means, new_leases},
    },
    request::{AllocateRequest, Filter},
    service_type::{Hold, ServiceTypeName},
    time::{Moment, Timestamp},
};

use crate::{
    begun::Begun,
    model::{Model, parts},
};

/// As the service has it.
const MOST_CHUNKS: usize = 8;

/// What came of everything.
#[derive(Debug, Default)]
pub struct Counts {
    pub granted: u64,
    pub blocks: u64,
    pub adopted: u64,
    pub shared: u64,
    pub mapped: u64,
    pub joined: u64,
    pub left: u64,
    pub refused: u64,
    pub exhausted: u64,
    pub yielded: u64,
    pub moved: u64,
    pub over_limit: u64,
    pub released: u64,
    pub expired: u64,
    pub orphaned: u64,
    pub leaving: u64,
    pub forgotten: u64,
    pub types_appeared: u64,
    pub types_grown: u64,
    pub types_undone: u64,
    pub reloads: u64,
    pub probes: u64,
    pub most_probes: u64,
}

pub struct Service {
    pub registry: Registry,
    pub model: Model,
    /// What the configuration says.
    pub rules: Rules,
    /// What is waited for and kept.
    pub begun: Begun,
    pub counts: Counts,
    /// What other programs have, and what the holders of leases listen on.
    pub busy: Vec<(usize, Port)>,
    seq: u64,
    leases: u128,
}

impl Service {
    pub fn new(rules: Rules) -> Self {
        Self {
            registry: Registry::new(rules.clone()),
            model: Model::new(&rules),
            rules,
            begun: Begun::default(),
            counts: Counts::default(),
            busy: Vec::new(),
            seq: 0,
            leases: 0,
        }
    }

    pub fn now(&self) -> Moment {
        Moment(self.seq)
    }

    pub fn commit(&mut self, changes: Vec<Change>) {
        for change in changes {
            self.seq += 1;
            self.model.apply(self.seq, Timestamp(self.seq), &change);
            for effect in self.registry.change(self.seq, Timestamp(self.seq), &change) {
                self.carry_out(effect);
            }
            match &change {
                Change::Release { .. } => self.counts.released += 1,
                Change::Expire { .. } => self.counts.expired += 1,
                Change::Orphan { .. } => self.counts.orphaned += 1,
                Change::Reuse { .. } => self.counts.shared += 1,
                Change::Leave { .. } => self.counts.left += 1,
                Change::Forget { .. } => self.counts.forgotten += 1,
                _ => {}
            }
        }
        assert_eq!(self.registry.len(), self.model.live);
    }

    /// What the service begins and lets go of. It begins nothing twice, and lets go of nothing that is needed.
    fn carry_out(&mut self, effect: Effect) {
        match &effect {
            Effect::Watch(owner) => {
                assert!(self.model.needs(owner), "{owner:?} is watched for nothing");
            }
            Effect::Unwatch(owner) => assert!(!self.model.needs(owner), "{owner:?} is needed"),
            _ => {}
        }
        self.begun.carry_out(effect);
    }

    // Granting.

    /// Grants what is asked for, and makes room for it if that may be.
    pub fn allocate(&mut self, request: &AllocateRequest, owner: &Owner) {
        for _ in 0..MOST_CHUNKS {
            let answer = match self.allocate_now(request, owner) {
                Ok(true) => return,
                Ok(false) => self.widen(request),
                Err(error) => Err(error),
            };
            if let Err(error) = answer {
                self.counts.refused += 1;
                self.counts.exhausted += u64::from(error.kind == ErrorKind::PoolExhausted);
                self.counts.over_limit += u64::from(error.kind == ErrorKind::LimitExceeded);
                return;
            }
        }
        panic!("there is no room for {request:?}, whatever is made");
    }

    /// False if it needs a range, or a further one.
    fn allocate_now(&mut self, request: &AllocateRequest, owner: &Owner) -> Result<bool, Error> {
        let Some(known) = self.registry.rules().types.0.get(&request.service_type) else {
            return Ok(false);
        };
        let request = &self.registry.completed(request, known)?;
        let protocol = request.protocol();
        let mut probes = 0;
        let ask = |port| {
            probes += 1;
            assert!(!self.model.is_leased(port, protocol), "port {port} is probed needlessly");
            let is_busy = self.model.is_busy(port, protocol);
            if request.adopt {
                if is_busy { Ok(()) } else { Err(Obstacle::NoListener) }
            } else if is_busy {
                Err(Obstacle::InUse(InUse::Socket))
            } else {
                Ok(())
            }
        };
        let means = Means {
            can_grow: true,
            hand_over: false,
            guards: (self.begun.guarded.len(), usize::MAX),
        };
        let decided = self.registry.decide(request, known, means, ask);
        let is_short = match &decided {
            Ok(decision) => decision.is_none(),
            Err(error) => error.kind == ErrorKind::PoolExhausted,
        };
        if is_short {
            let is_listened = |lease: &Lease| self.model.is_busy(lease.port, lease.protocol);
            let gives_way = self.registry.gives_way(request, known, is_listened);
            self.model.judge_way(request, gives_way.as_ref());
            if let Some(end) = gives_way {
                self.counts.probes += probes;
                self.counts.yielded += 1;
                self.commit(vec![end]);
                return self.allocate_now(request, owner);
            }
        }
        self.model.judge(request, &decided);
        self.counts.probes += probes;
        self.counts.most_probes = self.counts.most_probes.max(probes);
        let Some(decision) = decided? else { return Ok(false) };
        match &decision.choice {
            Choice::Port(first) => self.grant(&decision, *first, owner, Vec::new()),
            Choice::Existing(lease) if request.asked.is_some() => {
                self.counts.joined += 1;
                self.share(&lease.clone(), request, owner)?;
            }
            Choice::Existing(lease) => self.share(&lease.clone(), request, owner)?,
            Choice::Moved(claim, first) => {
                let leases = self.registry.with_block(claim);
                if leases.iter().any(|lease| self.model.is_busy(lease.port, lease.protocol)) {
                    return Err(has_another_port(claim));
                }
                self.counts.moved += 1;
                let end = |lease| Change::end(lease, EndReason::Released);
                self.grant(&decision, *first, owner, leases.into_iter().map(end).collect());
            }
        }
        Ok(true)
    }

    /// Grants it, and ends what it takes the place of.
    fn grant(&mut self, decision: &Decision, first: Port, owner: &Owner, ends: Vec<Change>) {
        let at = At { now: self.now(), wall: Timestamp(self.seq) };
        let leases = &mut self.leases;
        let id = || {
            *leases += 1;
            LeaseId::from_number(*leases)
        };
        let new = new_leases(decision, first, owner, at, id).into_iter();
        let grant = |lease: Arc<Lease>| {
            let remembers = self.registry.remembers(&decision.request, &lease);
            Change::Allocate { lease, remembers }
        };
        let mut changes: Vec<_> = new.map(grant).collect();
        self.counts.granted += 1;
        self.counts.mapped += u64::from(decision.request.asked.is_some());
        self.counts.adopted += u64::from(decision.request.adopt);
        self.counts.blocks += u64::from(changes.len() > 1);
        changes.extend(ends);
        self.commit(changes);
    }

    fn share(
        &mut self,
        lease: &Lease,
        request: &AllocateRequest,
        owner: &Owner,
    ) -> Result<(), Error> {
        // No lease is called so.
        let id = HolderId::from_number(u128::from(u64::MAX) + u128::from(self.seq));
        let now = self.now();
        let shared = self.registry.share(lease, request, owner, id, now)?;
        self.commit(vec![shared.change]);
        Ok(())
    }

    // Ending.

    /// Ends what has lost its reason to live, unless something listens on its port.
    fn end(&mut self, changes: Vec<Change>) {
        let is_listened = |lease: &Lease| self.model.is_busy(lease.port, lease.protocol);
        let changes = spare_listened(changes, is_listened);
        self.commit(changes);
    }

    /// An owner has ended; what it leaves behind for a moment ends then.
    pub fn owner_gone(&mut self, owner: &Owner) {
        self.begun.watched.remove(owner);
        loop {
            let now = Timestamp(self.seq);
            let model = &self.model;
            let is_listened = |lease: &Lease| model.is_busy(lease.port, lease.protocol);
            let OwnerEnded { ends, is_leaving } =
                self.registry.owner_ended(owner, now, is_listened);
            self.end(ends);
            if !is_leaving {
                break;
            }
            self.counts.leaving += 1;
        }
    }

    pub fn instance_gone(&mut self, instance_id: &InstanceId) {
        let changes = self.registry.instance_silent(instance_id);
        self.end(changes);
    }

    /// The listeners of orphans are looked at.
    pub fn orphans_due(&mut self) {
        let ends = self.registry.orphans_end(|_| true);
        assert_eq!(ends.len(), self.model.orphans);
        self.end(ends);
    }

    /// A lease is looked at whose time has come.
    pub fn lease_due(&mut self, lease_id: LeaseId) {
        let lease = Arc::clone(self.registry.get(lease_id).expect("a live lease"));
        // Its time has come for what it lives by now, and for what it was looked at before.
        let now = lease.nearest_deadline().unwrap_or_else(|| self.now());
        for _ in 0..=LOOKS {
            let model = &self.model;
            let is_listened = |lease: &Lease| model.is_busy(lease.port, lease.protocol);
            let due = self.registry.lease_due(lease_id, now, is_listened);
            self.end(due.change.into_iter().collect());
            if due.again.is_none() {
                break;
            }
        }
    }

    pub fn release(&mut self, lease_id: LeaseId) {
        let is_listened = |lease: &Lease| self.model.is_busy(lease.port, lease.protocol);
        let (change, _) = self.registry.release(lease_id, is_listened).expect("a live lease");
        self.commit(vec![change]);
    }

    /// Releases all that the filter means.
    pub fn release_matching(&mut self, filter: &Filter) {
        let ends = self.registry.release_matching(filter, EndReason::Released);
        self.commit(ends);
    }

    pub fn renew(&mut self, lease_id: LeaseId, ttl: u64) {
        // Of those who share it, the last.
        let lease = self.registry.get(lease_id).expect("a live lease");
        let name = lease.holder_ids().last().map(|holder| holder.to_string());
        let name = name.map_or(lease_id, |name| name.parse().expect("a name of the same form"));
        let has_limit = lease.holders().last().is_some_and(|holder| holder.ttl.is_some());
        match self.registry.renew(name, Some(ttl), self.now()) {
            Ok((change, _)) => {
                assert!(has_limit || lease.orphaned, "nothing ends that was to last");
                self.commit(vec![change]);
            }
            Err(error) => assert_eq!((error.kind, has_limit), (ErrorKind::NoTimeLimit, false)),
        }
    }

    /// Its owner keeps the port bound from now on, or the service again.
    pub fn set_hold(&mut self, lease_id: LeaseId, hold: Hold) {
        if let Ok((Some(change), _)) = self.registry.set_hold(lease_id, hold) {
            self.commit(vec![change]);
        }
    }

    pub fn forget(&mut self, filter: &Filter) {
        let changes = self.registry.forget_matching(filter);
        self.commit(changes);
    }

    // Types and configuration.

    fn set_rules(&mut self) {
        self.registry.set_rules(self.rules.clone());
        self.model.set_rules(&self.rules);
    }

    /// Finds a range for a type that has none, or none with room.
    fn widen(&mut self, request: &AllocateRequest) -> Result<(), Error> {
        let name = &request.service_type;
        let is_known = self.rules.types.0.contains_key(name);
        if !is_known {
            self.registry.may_appear(name, true, None)?;
        }
        let in_use: PortSet = self.busy.iter().map(|(_, port)| *port).collect();
        let ephemeral = [32_768, 60_999].map(|number| Port::new(number).expect("no zero"));
        let ephemeral = PortRange::new(ephemeral[0], ephemeral[1]);
        let plan = self.registry.plan(request, &in_use, ephemeral, Timestamp(self.seq))?;
        self.model.judge_place(name, plan.range, &self.rules);
        if is_known {
            self.counts.types_grown += 1;
        } else {
            self.counts.types_appeared += 1;
        }
        self.rules.types.0.insert(name.clone(), plan.in_file());
        self.set_rules();
        self.commit(vec![plan.change(request)]);
        Ok(())
    }

    /// Takes a type away that has appeared by itself, with its leases.
    pub fn undo(&mut self, name: &ServiceTypeName) {
        self.release_matching(&Filter { service_type: Some(name.clone()), ..Filter::default() });
        let gone = self.rules.types.0.remove(name).expect("a known type");
        self.set_rules();
        let placement = gone.created.as_ref().expect("one that appeared by itself").placement;
        let (service_type, ranges) = (name.clone(), gone.ranges().collect());
        self.commit(vec![Change::UndoAutoAllocation { service_type, ranges, placement }]);
        self.set_rules();
        self.counts.types_undone += 1;
    }

    /// Puts in force what people have written now.
    pub fn reload(&mut self, rules: Rules) {
        let ranges = |rules: &Rules, name: &ServiceTypeName| {
            let known = rules.types.0.get(name);
            known.map(|t| t.ranges().collect::<Vec<_>>())
        };
        let written = |rules: &Rules| {
            let types = rules.types.0.iter().filter(|(_, t)| t.created.is_none());
            types.map(|(name, _)| name.clone()).collect::<Vec<_>>()
        };
        let (mut added, mut changed, mut removed) = (Vec::new(), Vec::new(), Vec::new());
        for service_type in written(&rules) {
            let Some(now) = ranges(&rules, &service_type) else { continue };
            match ranges(&self.rules, &service_type) {
                None => added.push(TypeRanges { service_type, ranges: now }),
                Some(before) if before != now => {
                    changed.push(TypeRanges { service_type, ranges: now });
                }
                Some(_) => {}
            }
        }
        removed.extend(written(&self.rules).into_iter().filter(|n| !rules.types.0.contains_key(n)));
        let fingerprint = u32::try_from(self.seq % 1_000_000).expect("less than a million");
        let still_wrong = false;
        let change = Change::ConfigReload { added, changed, removed, fingerprint, still_wrong };
        self.commit(vec![change]);
        self.rules = rules;
        self.set_rules();
        self.counts.reloads += 1;
    }

    /// Something takes a port, or lets it go.
    pub fn bind(&mut self, part: usize, port: Port) {
        let protocol = [Protocol::Tcp, Protocol::Udp][part];
        if !self.model.is_busy(port, protocol) {
            parts(protocol).iter().for_each(|part| self.model.set_busy(*part, port, true));
            self.busy.push((part, port));
        }
    }

    pub fn close(&mut self, index: usize) {
        let (part, port) = self.busy.swap_remove(index);
        self.model.set_busy(part, port, false);
    }
}
