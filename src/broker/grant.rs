//! Granting.

use std::{
    os::fd::OwnedFd,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    Broker, Inner,
    ending::is_taken,
    owner::{Caller, ResolvedOwner},
    search::{Search, look},
    settling::InHand,
};
use crate::{
    change::{Change, Denial},
    error::{Error, ErrorKind},
    kernel::{
        self, clock,
        diag::{self, Seen},
        probe, process,
    },
    lease::{Client, EndReason, HolderId, Lease, LeaseId, MemoryKey, Owner, Use},
    obstacle::{InUse, Obstacle},
    owners,
    port::{Port, PortRange, Protocol},
    port_set::PortSet,
    registry::{
        Choice, Remembered,
        claims::{has_another_port, is_used},
        granting::{At, Before, Decision, Means, Share, Shared, new_leases},
        holders::let_go,
    },
    request::AllocateRequest,
    service_type::{Hold, InstanceBehavior, ServiceType},
    time::Timestamp,
    value::Fields,
};

/// How long the kernel's answer which ports are in use serves as a hint for the order, in seconds.
const HINT_SECONDS: u64 = 1;
/// How often one request may make its type's range wider: others may take what it has made room for.
const MOST_CHUNKS: usize = 8;

/// What was granted, or would be.
#[derive(Debug)]
pub struct Granted {
    /// The lease; of a block, the first.
    pub lease: Arc<Lease>,
    /// The further leases of a block.
    pub others: Vec<Arc<Lease>>,
    /// How it came about.
    pub outcome: Outcome,
    /// Something that the client should know.
    pub note: Option<String>,
    /// Whether the service runs once.
    pub is_single: bool,
    /// The port that the claim had before it moved here.
    pub moved_from: Option<Port>,
    /// The range that appeared for it, or would.
    pub created: Option<PortRange>,
    /// The bound socket, if that was asked for.
    pub socket: Option<OwnedFd>,
    /// By what name the caller shares the lease, if it can be shared.
    pub holder: Option<HolderId>,
    /// The name that the caller has given it.
    name: Option<HolderId>,
    /// Whether the caller holds it since this request, and did not before.
    is_new: bool,
}

/// How long a grant waits for the manager to close its copy of a guard, and how often it looks.
const LEAVING: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_millis(5);

/// How an answer came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The lease is new.
    New,
    /// It is the lease of a singleton, or a claim, that was there already.
    Existing,
    /// Nothing was changed; this is what would have happened.
    DryRun,
}

impl Granted {
    /// What the caller holds since this request.
    pub fn shares(&self) -> Vec<Share> {
        let all = std::iter::once(&self.lease).chain(&self.others);
        let (holder, name) = (self.holder, self.name);
        let share = |lease: &Arc<Lease>| Share { lease_id: lease.lease_id, holder, name };
        all.filter(|_| self.is_new).map(share).collect()
    }

    /// The answer as every door shows it.
    pub fn fields(&self) -> Fields {
        let mut fields = self.lease.fields();
        if !self.others.is_empty() {
            let all = || std::iter::once(&self.lease).chain(&self.others);
            fields.put("ports", all().map(|lease| lease.port.get()).collect::<Vec<_>>());
            fields.put("lease_ids", all().map(|l| l.lease_id.to_string()).collect::<Vec<_>>());
        }
        fields.put_some("note", self.note.clone());
        fields.put_some("moved_from", self.moved_from.map(Port::get));
        if self.is_single {
            fields.put("instance_behavior", InstanceBehavior::Single.as_str());
        }
        fields.put_some("holder_id", self.holder.map(|id| id.to_string()));
        if let Some(range) = self.created {
            fields.put("auto_allocated", true);
            fields.put("port_range", vec![range.first().get(), range.last().get()]);
        }
        match self.outcome {
            Outcome::New => {}
            Outcome::Existing => {
                fields.put("existing", true);
                fields.put("held", self.lease.describe_holder());
            }
            Outcome::DryRun => {
                const NONE_YET: [&str; 4] = ["lease_id", "lease_ids", "block_id", "holder_id"];
                fields.0.retain(|(key, _)| !NONE_YET.contains(key));
                fields.put("dry_run", true);
            }
        }
        fields
    }

    /// What was granted already is answered once more.
    fn before(Before { lease, others, is_single }: Before) -> Self {
        Self {
            name: Some(lease.lease_id.into()),
            is_new: false,
            holder: lease.holder_id.map(|_| HolderId::first_of(lease.lease_id)),
            others,
            outcome: Outcome::New,
            note: None,
            is_single,
            moved_from: None,
            created: None,
            socket: None,
            lease,
        }
    }

    /// Adds something that the client should know.
    pub fn add_note(&mut self, note: String) {
        self.note = Some(match self.note.take() {
            Some(before) => format!("{before}; {note}"),
            None => note,
        });
    }

    /// The id of the lease; empty for a dry run, which makes none.
    pub fn lease_id(&self) -> String {
        match self.outcome {
            Outcome::DryRun => String::new(),
            Outcome::New | Outcome::Existing => self.lease.lease_id.to_string(),
        }
    }
}

/// What came of an attempt.
enum Attempt {
    /// The port, and the change that must be made durable before it is told.
    Granted(Granted, Option<u64>),
    /// There is no range with room for it yet, where these ports are in use.
    NeedsRange(PortSet),
}

impl Broker {
    /// Grants a port. With `hand_over` the bound socket is part of the answer.
    pub async fn allocate(
        self: &Arc<Self>,
        request: &AllocateRequest,
        caller: &Caller,
        hand_over: bool,
    ) -> Result<Granted, Error> {
        let start = Instant::now();
        self.sight.check(request.config_seen.as_deref())?;
        let client = &caller.client;
        let mut held = self.resolve_owner(&request.owner, caller).await?;
        let attempt = self.attempt_in_time(request, caller, &mut held, hand_over).await;
        let (mut granted, durable) = attempt.inspect_err(|error| {
            let refused = !matches!(error.kind, ErrorKind::InvalidArgument | ErrorKind::Storage);
            if refused && !request.dry_run {
                self.denied(Denial::new(request, error), error.kind.names().code, client);
            }
        })?;
        if let Some(seq) = durable {
            let outcome = self.durable(seq).await;
            self.conclude(&granted, outcome.is_ok());
            outcome?;
        }
        if granted.outcome != Outcome::DryRun {
            self.guards_left(&granted).await;
        }
        if granted.outcome == Outcome::New {
            self.lock().counts.granted(start.elapsed());
        }
        if request.claim && granted.outcome == Outcome::Existing && granted.note.is_none() {
            let Lease { port, protocol, lease_id, .. } = *granted.lease;
            // A bind beside its guard fails if something listens. That is cheaper than a look at all listeners.
            let is_guarded = protocol == Protocol::Tcp && self.lock().guards.contains(lease_id);
            let is_quiet = is_guarded && probe::rebind(port).is_ok();
            if !is_quiet && diag::has_listener(port, protocol).unwrap_or(false) {
                granted.add_note(format!(
                    "something listens on port {port} already: for a port of its own, a service needs another name \
                     (--name) or a new lease (--new)"
                ));
            }
        }
        Ok(granted)
    }

    /// Waits until the manager has closed its copies of guards that ports without one had before: until then a server that
    /// does not set `SO_REUSEADDR` cannot bind them.
    async fn guards_left(&self, granted: &Granted) {
        let leases = std::iter::once(&granted.lease).chain(&granted.others);
        let ports = leases.filter(|lease| lease.hold == Hold::None).map(|lease| lease.port);
        let ports: Vec<_> = ports.collect();
        let end = Instant::now() + LEAVING;
        while Instant::now() < end && self.lock().guards.are_leaving(&ports) {
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Takes back what nobody was told of.
    pub fn take_back(&self, shares: &[Share], reason: EndReason) {
        let mut inner = self.lock();
        let inner = &mut *inner;
        let ends = inner.registry.take_back(shares, reason);
        if !ends.is_empty() {
            let _ = self.commit_anyway(inner, ends, None);
        }
    }

    /// A grant is durable, or cannot be: then it is taken back, with what was remembered of it.
    fn conclude(&self, granted: &Granted, is_durable: bool) {
        let mut inner = self.lock();
        let inner = &mut *inner;
        let Ok(state) = &inner.state else { return };
        let durable = state.writer.progress().durable;
        let key = granted.lease.memory_key();
        if !is_durable {
            let before = key.as_ref().and_then(|key| inner.unsettled.before(key, durable));
            let mut ends = Vec::new();
            for lease in std::iter::once(&granted.lease).chain(&granted.others) {
                // It may have been released meanwhile, or be shared by others.
                let Ok(lease) = inner.registry.get(lease.lease_id) else { continue };
                ends.push(match let_go(lease, granted.holder, EndReason::NotDurable) {
                    Change::Expire { lease, reason, .. } => {
                        Change::Expire { lease, reason, remembered: before.clone() }
                    }
                    change => change,
                });
            }
            let _ = self.commit_anyway(inner, ends, None);
        }
        if let Some(key) = key {
            let now = inner.registry.memory().get(&key);
            inner.unsettled.settle(&key, now, durable);
        }
    }

    pub(super) async fn attempt(
        self: &Arc<Self>,
        request: &AllocateRequest,
        client: &Client,
        held: &mut ResolvedOwner,
        hand_over: bool,
    ) -> Result<(Granted, Option<u64>), Error> {
        let mut created = None;
        for _ in 0..MOST_CHUNKS {
            match self.allocate_now(request, client, held, hand_over)? {
                Attempt::Granted(mut granted, durable) => {
                    granted.created = granted.created.or(created);
                    if let Some(note) = granted.created.and_then(kernel::given_away) {
                        granted.add_note(note);
                    }
                    return Ok((granted, durable));
                }
                Attempt::NeedsRange(busy) => {
                    created = self.widen(request, client, busy).await?.or(created);
                }
            }
        }
        Err(Error::new(
            ErrorKind::PoolExhausted,
            format!("other programs keep taking the free ports of {}", request.service_type),
        )
        .suggest("ask again"))
    }

    fn allocate_now(
        &self,
        request: &AllocateRequest,
        client: &Client,
        held: &mut ResolvedOwner,
        hand_over: bool,
    ) -> Result<Attempt, Error> {
        let mut inner = self.lock();
        let inner = &mut *inner;
        self.usable(inner)?;
        if let Some(before) = inner.registry.granted_before(request)? {
            let seq = inner.state.as_ref().ok().map(|state| state.store.seq());
            return Ok(Attempt::Granted(Granted::before(before), seq));
        }
        let beside;
        let request = match inner.beside_what_is_used(request, &held.owner)? {
            Some(other) => {
                beside = other;
                &beside
            }
            None => request,
        };
        let in_the_way = inner.registry.leaving_in_the_way_of(request);
        self.hurry(inner, &in_the_way);
        let mut are_owners_known = request.dry_run;
        let (decided, mut search) = loop {
            // Its sockets keep the ports until the lease is stored, and longer as guards.
            let mut search = Search::of(request);
            let decided = inner.decide(request, hand_over, &mut search);
            // The end of an owner may not have been heard of yet: a command that is started again at once is the same service.
            if !std::mem::replace(&mut are_owners_known, true) {
                let mut ended = inner.in_the_way_of(request, &decided);
                ended.retain(owners::has_ended);
                if self.hurry(inner, &ended) {
                    continue;
                }
            }
            let leaving = inner.leaving_for(request, &decided);
            if self.hurry(inner, &leaving) || !self.regain(inner, request, &decided, held) {
                continue;
            }
            let is_short = match &decided {
                Ok(plan) => plan.is_none(),
                Err(error) => error.kind == ErrorKind::PoolExhausted,
            };
            if !is_short || !self.have_one_give_way(inner, request) {
                inner.counts.conflicts(search.conflicts);
                break (decided?, search);
            }
        };
        let Some(decision) = decided else {
            return Ok(Attempt::NeedsRange(search.into_busy()));
        };
        let Planned { decision, range: planned } = decision;
        let first = match &decision.choice {
            Choice::Existing(lease) => {
                let lease = Arc::clone(lease);
                return self.share(inner, lease, &decision, client, held, hand_over);
            }
            Choice::Moved(_, port) | Choice::Port(port) => *port,
        };
        let ends = inner.ends_of_moved(&decision.choice)?;
        let moved_from = match &decision.choice {
            Choice::Moved(claim, _) => Some(claim.port),
            Choice::Existing(_) | Choice::Port(_) => None,
        };
        inner.registry.name_is_free(&decision.request, None)?;
        let moment = At { now: clock::now(), wall: Timestamp::now() };
        let mut leases = new_leases(&decision, first, &held.owner, moment, LeaseId::random);
        let Decision { request, hold, note, is_single, .. } = decision;
        let lease = leases.remove(0);
        let mut granted = Granted {
            lease,
            others: leases,
            outcome: Outcome::DryRun,
            note,
            is_single,
            moved_from,
            created: planned,
            socket: None,
            holder: None,
            name: request.lease_id.map(HolderId::from),
            // A claim that has moved stands for the one that others have asked for.
            is_new: !request.dry_run && moved_from.is_none(),
        };
        granted.holder = granted.lease.holder_id;
        if request.dry_run {
            return Ok(Attempt::Granted(granted, None));
        }
        granted.outcome = Outcome::New;
        let key = granted.lease.memory_key();
        let before = key.as_ref().and_then(|key| inner.registry.memory().get(key)).cloned();
        let mut in_hand = InHand::of(held);
        let mut changes = Vec::with_capacity(usize::from(request.count));
        for lease in std::iter::once(&granted.lease).chain(&granted.others) {
            match (hold, search.take(lease.port)) {
                (Hold::Guard, Some(socket)) => _ = in_hand.guards.insert(lease.lease_id, socket),
                (Hold::Socket, Some(socket)) => granted.socket = Some(socket),
                _ => {}
            }
            let remembers = inner.registry.remembers(&request, lease);
            changes.push(Change::Allocate { lease: Arc::clone(lease), remembers });
        }
        // Together, and last: a service that is killed has one of the two.
        changes.extend(ends);
        let seq = self.commit_holding(inner, in_hand, changes, Some(client))?;
        // A project may rely on the port that it had: what it remembers must be on disk.
        let must_wait = key.as_ref().is_some_and(|key| inner.must_wait(key, before));
        Ok(Attempt::Granted(granted, must_wait.then_some(seq)))
    }

    /// Binds the guards again of a claim that is requested again and has lost them. Where somebody else has a port
    /// meanwhile, its lease ends, and it must be decided again: then it is false.
    fn regain(
        &self,
        inner: &mut Inner,
        request: &AllocateRequest,
        decided: &Result<Option<Planned>, Error>,
        held: &mut ResolvedOwner,
    ) -> bool {
        let Ok(Some(Planned {
            decision: Decision { choice: Choice::Existing(lease), .. }, ..
        })) = decided
        else {
            return true;
        };
        let mut leases = inner.registry.with_block(lease);
        // A server may have been seen on a part of a block.
        leases.retain(|lease| lease.used == Use::Idle);
        let mut ends = Vec::new();
        for lease in leases {
            let is_tcp = lease.protocol != Protocol::Udp;
            // Who only asks what would happen binds nothing.
            let regained = (is_tcp && !request.dry_run).then(|| probe::regain(lease.port));
            let is_bound = match &regained {
                Some(regained) => matches!(regained, Err(Obstacle::InUse(InUse::Bound))),
                None => is_tcp && inner.is_bound_by_others(lease.port),
            };
            if is_bound || is_taken(&lease) {
                ends.push(Change::end(lease, EndReason::Taken));
            } else if let Some(Ok(socket)) = regained
                && lease.hold == Hold::Guard
            {
                held.guards.insert(lease.lease_id, socket);
            }
        }
        // What cannot be stored is found again by the next request.
        ends.is_empty() || self.commit(inner, ends, None).is_err()
    }

    /// Gives a caller the lease that is there, and makes the caller one of those who hold it.
    fn share(
        &self,
        inner: &mut Inner,
        lease: Arc<Lease>,
        decision: &Decision,
        client: &Client,
        held: &mut ResolvedOwner,
        hand_over: bool,
    ) -> Result<Attempt, Error> {
        let Decision { request, is_single, .. } = decision;
        let mut others = inner.registry.with_block(&lease);
        others.retain(|other| other.lease_id != lease.lease_id);
        let port = lease.port;
        let other_port = request.port.filter(|asked| lease.claim && *asked != port);
        let rules = inner.registry.rules();
        let service_type = rules.types.0.get(&request.service_type).filter(|_| lease.claim);
        let template =
            service_type.and_then(|t| request.template_port(t, &rules.templates).ok()?);
        let other_template = template.filter(|meant| *meant != port);
        let note = other_port
            .map(|asked| format!("port {asked} cannot be had, so the service keeps port {port}"))
            .or_else(|| {
                let meant = other_template?;
                Some(format!(
                    "the service keeps port {port}: a template only applies to a new lease; for {meant}, request that \
                     port (--port {meant})"
                ))
            });
        // It is bound beside the guard, as a server binds it.
        let socket = match lease.protocol {
            _ if !hand_over => None,
            Protocol::Tcp => Some(probe::rebind(port)),
            protocol => Some(probe::reserve(port, protocol)),
        };
        let socket = socket.transpose().map_err(|obstacle| {
            Error::new(ErrorKind::PortInUse, obstacle.describe(port, lease.protocol))
        })?;
        let mut answer = Granted {
            lease: Arc::clone(&lease),
            others: Vec::new(),
            outcome: Outcome::DryRun,
            note,
            is_single: *is_single,
            moved_from: None,
            created: None,
            socket,
            holder: None,
            name: None,
            is_new: false,
        };
        if !request.dry_run {
            let share = |lease: &Lease| {
                let id = HolderId::random();
                inner.registry.share(lease, request, &held.owner, id, clock::now())
            };
            let Shared { change, seen, holder, name, is_new, is_repeated } = share(&lease)?;
            let mut changes = vec![change];
            // What is asked of a block is asked of each of its ports.
            for other in &mut others {
                let Shared { change, seen, .. } = share(other)?;
                changes.push(change);
                *other = Arc::new(seen);
            }
            self.commit_holding(inner, InHand::of(held), changes, Some(client))?;
            if is_repeated {
                name.into_iter().for_each(|name| inner.registry.note_repeated(name));
            }
            if request.within == Some(lease.lease_id)
                && lease.owners().any(|known| *known == held.owner)
            {
                inner.note_replaced(lease.lease_id, &held.owner);
            }
            answer.lease = Arc::new(seen);
            answer.outcome = Outcome::Existing;
            (answer.holder, answer.name, answer.is_new) = (holder, name, is_new);
        }
        answer.others = others;
        Ok(Attempt::Granted(answer, None))
    }
}

/// What a request gets, and the range that it needs.
struct Planned {
    decision: Decision,
    /// The range, if it does not exist yet.
    range: Option<PortRange>,
}

impl Inner {
    /// The request without the claim, or the lease of the command around it, if somebody else uses that.
    fn beside_what_is_used(
        &self,
        request: &AllocateRequest,
        owner: &Owner,
    ) -> Result<Option<AllocateRequest>, Error> {
        let use_claim = request.use_claim && !self.claim_is_listened_on(request)?;
        let within = request.within.filter(|id| self.is_around(*id, owner));
        let is_same = (use_claim, within) == (request.use_claim, request.within);
        Ok((!is_same).then(|| AllocateRequest { use_claim, within, ..request.clone() }))
    }

    /// Whether a lease is that of commands around this one, and nothing listens on its port yet.
    fn is_around(&self, lease_id: LeaseId, owner: &Owner) -> bool {
        self.registry.get(lease_id).is_ok_and(|lease| {
            let mut living = lease.owners().filter(|other| !owners::has_ended(other)).peekable();
            // The last one may have left a server that is about to listen. A claim may have had none.
            (living.peek().is_some() || lease.owners().next().is_none())
                && living.all(|outer| owners::is_within(owner, outer))
                && !self.is_beside_replaced(lease_id, owner)
                && !diag::is_listened(lease.port, lease.protocol)
        })
    }

    /// Whether a process is, or comes from, one that was there before its parent became the command that has the lease:
    /// `styxy run … & exec styxy run …`
    fn is_beside_replaced(&self, lease_id: LeaseId, owner: &Owner) -> bool {
        let Some((by, since)) = self.replaced.get(&lease_id) else { return false };
        let (Owner::Process { pid, .. }, Owner::Process { pid: of, .. }) = (owner, by) else {
            return false;
        };
        let is_older = process::start_below(*pid, *of).is_none_or(|start| start <= *since);
        by != owner && is_older && !owners::has_ended(by)
    }

    /// Notes that an owner of a lease runs another command in its own place.
    fn note_replaced(&mut self, lease_id: LeaseId, owner: &Owner) {
        let registry = &self.registry;
        self.replaced.retain(|known, _| registry.get(*known).is_ok());
        if let Some(now) = process::ticks() {
            self.replaced.insert(lease_id, (owner.clone(), now));
        }
    }

    /// Whether a server that nothing is known of runs on the port of the claim that the request would use.
    fn claim_is_listened_on(&self, request: &AllocateRequest) -> Result<bool, Error> {
        let Some(service_type) = self.registry.rules().types.0.get(&request.service_type) else {
            return Ok(false);
        };
        let claim =
            self.registry.claim(&self.registry.completed(request, service_type)?, service_type);
        Ok(claim
            .is_some_and(|claim| !is_used(claim) && diag::is_listened(claim.port, claim.protocol)))
    }

    /// Whether the kernel shows the TCP port of a claim that has lost its guard as bound without a listener.
    fn is_bound_by_others(&self, port: Port) -> bool {
        let seen = Seen::of(Protocol::Tcp, PortRange::only(port));
        let looked = seen.map(|seen| look(&seen, port, &self.guards));
        matches!(looked, Ok(Err(Obstacle::InUse(InUse::Bound))))
    }

    /// What is leaving and makes room before anybody is sent away or a range is made wider.
    fn leaving_for(
        &self,
        request: &AllocateRequest,
        decided: &Result<Option<Planned>, Error>,
    ) -> Vec<Owner> {
        match decided {
            Ok(None) => self.registry.leaving(|lease| lease.service_type == request.service_type),
            Err(error) if error.kind == ErrorKind::PoolExhausted && !request.dry_run => {
                self.registry.leaving(|_| true)
            }
            _ => Vec::new(),
        }
    }

    /// The owners of the leases because of which a request gets nothing, or another port than it asks for, or another slot
    /// of its service than the first.
    fn in_the_way_of(
        &self,
        request: &AllocateRequest,
        decided: &Result<Option<Planned>, Error>,
    ) -> Vec<Owner> {
        let request = match decided {
            Ok(Some(Planned { decision, .. })) => {
                let is_asked = |port| decision.choice == Choice::Port(port);
                if decision.slot == 1 && request.port.is_none_or(is_asked) {
                    return Vec::new();
                }
                &decision.request
            }
            Ok(None) | Err(_) => request,
        };
        self.registry.owners_in_the_way_of(request, Timestamp::now()).into_iter().collect()
    }

    /// What ends when a claim moves to the port that it is asked for with. One that something listens on stays.
    fn ends_of_moved(&self, choice: &Choice) -> Result<Vec<Change>, Error> {
        let Choice::Moved(claim, _) = choice else { return Ok(Vec::new()) };
        let leases = self.registry.with_block(claim);
        let is_in_use =
            |lease: &Arc<Lease>| diag::is_listened(lease.port, lease.protocol) && !is_taken(lease);
        if leases.iter().any(is_in_use) {
            return Err(has_another_port(claim));
        }
        Ok(leases.into_iter().map(|lease| Change::end(lease, EndReason::Released)).collect())
    }

    /// Whether what is remembered for that key since a grant is not durable yet. `before` is what was
    /// remembered before the grant.
    fn must_wait(&mut self, key: &MemoryKey, before: Option<Remembered>) -> bool {
        let now = self.registry.memory().get(key);
        let (Some(now), Ok(state)) = (now, &self.state) else { return false };
        let must_wait = now.since > state.writer.progress().durable;
        if must_wait && before.as_ref().is_none_or(|before| before.since != now.since) {
            self.unsettled.note(key, before);
        }
        must_wait
    }

    /// Decides what a request gets; `None` if its type has no range with room for it yet.
    fn decide(
        &mut self,
        request: &AllocateRequest,
        hand_over: bool,
        search: &mut Search,
    ) -> Result<Option<Planned>, Error> {
        let now = clock::now();
        if self.hint_until.take_if(|until| *until <= now).is_some() {
            self.registry.set_in_use(PortSet::default());
        }
        let decided = self.decided(request, hand_over, search);
        if !search.is_out_of_patience() {
            return decided;
        }
        // Asking the kernel once for all is cheaper than asking for each. It is a hint for the order
        // and no more: what is granted is asked about by itself.
        self.registry.set_in_use(diag::listened(request.protocol()));
        self.hint_until = Some(now.plus_seconds(HINT_SECONDS));
        search.be_patient();
        self.decided(request, hand_over, search)
    }

    /// The same; gives up when the search is out of patience.
    fn decided(
        &self,
        request: &AllocateRequest,
        hand_over: bool,
        search: &mut Search,
    ) -> Result<Option<Planned>, Error> {
        let name = &request.service_type;
        let known = self.registry.rules().types.0.get(name);
        if let Some(known) = known {
            let decided = self.decide_by(request, known, self.means(hand_over), search)?;
            if decided.is_some() || !request.dry_run || search.is_out_of_patience() {
                return Ok(decided.map(|decision| Planned { decision, range: None }));
            }
        } else if !request.dry_run {
            // Before any file is touched.
            self.may_appear(name, request.create)?;
            return Ok(None);
        }
        let plan = self.plan(request)?;
        let means = Means { can_grow: false, ..self.means(hand_over) };
        let decided = self.decide_by(request, &plan.service_type, means, search)?;
        Ok(decided.map(|decision| Planned { decision, range: Some(plan.range) }))
    }

    fn means(&self, hand_over: bool) -> Means {
        let most = self.max_guards.min(self.config.max_guards);
        Means { can_grow: true, hand_over, guards: (self.guards.len(), most) }
    }

    fn decide_by(
        &self,
        request: &AllocateRequest,
        service_type: &ServiceType,
        means: Means,
        search: &mut Search,
    ) -> Result<Option<Decision>, Error> {
        let protocol = request.protocol.unwrap_or(service_type.protocol);
        self.registry.decide(request, service_type, means, |port| {
            self.ask(port, protocol, request.strict, search)
        })
    }

    /// Whether a port is free.
    fn ask(
        &self,
        port: Port,
        protocol: Protocol,
        strict: bool,
        search: &mut Search,
    ) -> Result<(), Obstacle> {
        let asked = search.ask(port, protocol, &self.guards);
        asked.map_err(|obstacle| match obstacle {
            // The refusal says what it is.
            Obstacle::InUse(InUse::Socket) if strict => {
                let seen = Seen::of(protocol, PortRange::only(port)).ok();
                let seen = seen.and_then(|seen| seen.obstacle(port));
                seen.unwrap_or(obstacle)
            }
            obstacle => obstacle,
        })
    }

    /// Which port a request gets.
    pub(super) fn choose(
        &self,
        request: &AllocateRequest,
        service_type: &ServiceType,
        search: &mut Search,
    ) -> Result<Choice, Error> {
        let protocol = request.protocol();
        self.registry
            .choose(request, service_type, |port| self.ask(port, protocol, request.strict, search))
    }
}
