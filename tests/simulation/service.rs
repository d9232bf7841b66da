//! What the service does around its registry, without the kernel, files and the journal: a change is
//! made in the registry, told to the model, and what nobody needs any more is let go of.

use std::{collections::HashSet, sync::Arc};

use styxy::{
    change::{Asker, Change, TypeRanges},
    error::{Error, ErrorKind},
    lease::{EndReason, Holder, HolderId, InstanceId, Lease, LeaseId, Owner},
    port::{Port, PortRange, Protocol},
    registry::{
        Choice, InUse, Obstacle, PortSet, Registry, Rules,
        holding::{leave, orphaned, renewed, shared},
        obligations::Obligations,
        placement::{self, Ground},
    },
    request::{AllocateRequest, Filter},
    service_type::{Created, ServiceType, ServiceTypeName},
    time::{Moment, Timestamp},
};

use crate::model::{Model, parts};

/// As the service has it.
const MOST_CHUNKS: usize = 8;

/// What came of everything.
#[derive(Debug, Default)]
pub struct Counts {
    pub granted: u64,
    pub blocks: u64,
    pub shared: u64,
    pub left: u64,
    pub refused: u64,
    pub exhausted: u64,
    pub over_limit: u64,
    pub released: u64,
    pub expired: u64,
    pub orphaned: u64,
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
    /// Who is being watched.
    pub watched: HashSet<Owner>,
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
            watched: HashSet::new(),
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
            let lease =
                |registry: &Registry| registry.get(change.lease()?.lease_id).ok().map(Arc::clone);
            let before = lease(&self.registry);
            self.model.apply(self.seq, &change);
            self.registry.apply(self.seq, &change);
            let after = lease(&self.registry);
            let had = Obligations::of(before.as_deref()).owners;
            let has = Obligations::of(after.as_deref()).owners;
            had.difference(&has).for_each(|owner| self.let_go_of_owner(owner));
            match &change {
                Change::Release { .. } => self.counts.released += 1,
                Change::Expire { .. } => self.counts.expired += 1,
                Change::EndInstance { instance, .. } => self.let_go_of_owner(&instance.owner),
                Change::Orphan { .. } => self.counts.orphaned += 1,
                Change::SingletonReuse { .. } => self.counts.shared += 1,
                Change::SingletonLeave { .. } => self.counts.left += 1,
                Change::Forget { .. } => self.counts.forgotten += 1,
                _ => {}
            }
        }
        assert_eq!(self.registry.len(), self.model.live);
    }

    fn let_go_of_owner(&mut self, owner: &Owner) {
        let needed = self.registry.needs(owner);
        if *owner != Owner::None {
            assert_eq!(needed, self.model.needs(owner), "{owner:?}");
        }
        if !needed {
            self.watched.remove(owner);
        }
    }

    pub fn watch(&mut self, owner: &Owner) {
        if *owner != Owner::None {
            self.watched.insert(owner.clone());
        }
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
        let request = &request.completed(known)?;
        let protocol = request.protocol();
        let mut probes = 0;
        let answer = self.registry.choose(request, known, |port| {
            probes += 1;
            assert!(!self.model.is_leased(port, protocol), "port {port} is probed needlessly");
            if self.model.is_busy(port, protocol) {
                Err(Obstacle::InUse(InUse::Socket))
            } else {
                Ok(())
            }
        });
        self.model.judge(request, &answer);
        let may_grow = known.created.is_some() && self.rules.auto.enabled;
        self.counts.probes += probes;
        self.counts.most_probes = self.counts.most_probes.max(probes);
        match answer {
            Ok(Choice::Port(first)) => self.grant(request, first, owner),
            Ok(Choice::Existing(lease)) => self.share(&lease, request, owner)?,
            Err(error) if error.kind == ErrorKind::PoolExhausted && may_grow => return Ok(false),
            Err(error) => return Err(error),
        }
        Ok(true)
    }

    fn grant(&mut self, request: &AllocateRequest, first: Port, owner: &Owner) {
        let block_id = LeaseId::from_number(self.leases + 1);
        let ports = (0..request.count).filter_map(|offset| first.plus(offset));
        let changes = ports.map(|port| {
            self.leases += 1;
            let lease = Arc::new(Lease {
                protocol: request.protocol(),
                service_name: request.service_name.clone(),
                instance_id: request.instance_id.clone(),
                project_path: request.project_path.clone(),
                owner: owner.clone(),
                ttl: request.ttl,
                deadline: request.ttl.map(|ttl| Moment(self.seq).plus_seconds(ttl)),
                singleton_key: request.singleton_key.clone(),
                block_id: (request.count > 1).then_some(block_id),
                since: Timestamp(self.seq),
                ..Lease::new(LeaseId::from_number(self.leases), port, request.service_type.clone())
            });
            Change::Allocate { lease }
        });
        let changes: Vec<_> = changes.collect();
        self.counts.granted += 1;
        self.counts.blocks += u64::from(changes.len() > 1);
        self.commit(changes);
        self.watch(owner);
    }

    fn share(
        &mut self,
        lease: &Lease,
        request: &AllocateRequest,
        owner: &Owner,
    ) -> Result<(), Error> {
        let caller = Holder {
            id: Some(HolderId::from_number(self.seq.into())),
            owner: owner.clone(),
            instance_id: request.instance_id.clone(),
            ttl: request.ttl,
            deadline: request.ttl.map(|ttl| self.now().plus_seconds(ttl)),
        };
        let lease = Arc::new(shared(lease, caller)?.0);
        self.commit(vec![Change::SingletonReuse { lease }]);
        if self.registry.needs(owner) {
            self.watch(owner);
        }
        Ok(())
    }

    // Ending.

    /// Ends what has lost its reason to live, unless something listens on its port.
    fn end(&mut self, changes: Vec<Change>) {
        let changes = changes.into_iter().filter_map(|change| match change {
            Change::Expire { lease, .. } if self.model.is_busy(lease.port, lease.protocol) => {
                (!lease.orphaned).then(|| Change::Orphan { lease: Arc::new(orphaned(&lease)) })
            }
            change => Some(change),
        });
        let changes = changes.collect();
        self.commit(changes);
    }

    pub fn owner_gone(&mut self, owner: &Owner) {
        self.watched.remove(owner);
        let changes = self.registry.ends_with_owner(owner);
        self.end(changes);
    }

    pub fn instance_gone(&mut self, instance_id: &InstanceId) {
        let changes = self.registry.ends_with_instance(instance_id, "its heartbeats stopped");
        self.end(changes);
    }

    /// The listeners of orphans are looked at.
    pub fn orphans_due(&mut self) {
        let orphans = self.registry.orphans();
        assert_eq!(orphans.len(), self.model.orphans);
        let ends = orphans.into_iter().map(|l| Change::end(l, EndReason::ListenerGone));
        self.end(ends.collect());
    }

    /// A lease is looked at whose time has come.
    pub fn lease_due(&mut self, lease_id: LeaseId) {
        let lease = Arc::clone(self.registry.get(lease_id).expect("a live lease"));
        if lease.orphaned {
            return;
        }
        if let Some(deadline) = lease.nearest_deadline() {
            let over = |holder: &Holder| holder.deadline == Some(deadline);
            self.end(vec![leave(&lease, over, EndReason::Ttl)]);
        } else if lease.holders().all(|holder| holder.owner == Owner::None)
            && !self.model.is_busy(lease.port, lease.protocol)
        {
            self.end(vec![Change::end(lease, EndReason::Unused)]);
        }
    }

    pub fn release(&mut self, lease_id: LeaseId) {
        let lease = Arc::clone(self.registry.get(lease_id).expect("a live lease"));
        self.commit(vec![Change::end(lease, EndReason::Released)]);
    }

    /// Releases all that the filter means.
    pub fn release_matching(&mut self, filter: &Filter) {
        let leases = self.registry.list(filter).into_iter();
        let ends = leases.map(|lease| Change::end(lease, EndReason::Released));
        self.commit(ends.collect());
    }

    pub fn renew(&mut self, lease_id: LeaseId, ttl: u64) {
        let lease = self.registry.get(lease_id).expect("a live lease");
        // Of those who share it, the last.
        let holder = lease.holder_ids().last();
        let renewed = renewed(lease, holder, Some(ttl), self.now()).expect("a time limit");
        self.commit(vec![Change::Renew { lease: Arc::new(renewed.0) }]);
    }

    pub fn forget(&mut self, filter: &Filter) {
        let meant = self.registry.memory().iter();
        let meant = meant.filter(|(key, port, _)| filter.matches_memory(key, *port));
        let changes = meant.map(|(key, port, _)| Change::Forget { key: (**key).clone(), port });
        self.commit(changes.collect());
    }

    // Types and configuration.

    fn set_rules(&mut self) {
        self.registry.set_rules(self.rules.clone());
        self.model.set_rules(&self.rules);
    }

    /// Finds a range for a type that has none, or none with room.
    fn widen(&mut self, request: &AllocateRequest) -> Result<(), Error> {
        let name = &request.service_type;
        let known = self.rules.types.0.get(name);
        let in_use: PortSet = self.busy.iter().map(|(_, port)| *port).collect();
        let ephemeral = [32_768, 60_999].map(|number| Port::new(number).expect("no zero"));
        let ground = Ground {
            types: &self.rules.types,
            excluded: &self.rules.excluded,
            ephemeral: PortRange::new(ephemeral[0], ephemeral[1]),
            in_use: &in_use,
        };
        let auto = &self.rules.auto;
        let found = match known {
            Some(known) => placement::grow(name, known, request.count, auto, ground)?,
            None => placement::place(name, request.count, auto, ground)?,
        };
        self.model.judge_place(name, found, &self.rules);
        let (range, placement) = (found.range, found.placement);
        let mut service_type = known.cloned().unwrap_or_else(|| ServiceType::new(range));
        if known.is_some() {
            placement::add(&mut service_type, range);
            self.counts.types_grown += 1;
        } else {
            self.counts.types_appeared += 1;
        }
        let created = Created { at: Timestamp(self.seq), placement, by: None };
        service_type.created.get_or_insert(created);
        let ranges = service_type.ranges().collect();
        self.rules.types.0.insert(name.clone(), service_type);
        self.set_rules();
        let (service_type, asker) = (name.clone(), Asker::of(request));
        self.commit(vec![Change::AutoAllocate { service_type, range, ranges, placement, asker }]);
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
