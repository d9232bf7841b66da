//! Granting.

use std::{os::fd::OwnedFd, sync::Arc};

use super::{
    Broker, Inner,
    holding::{Caller, Held},
    search::Search,
    settling::InHand,
};
use crate::{
    change::{Change, Denial},
    error::{Error, ErrorKind},
    kernel::{
        self, clock,
        diag::{self, Seen},
    },
    lease::{Client, EndReason, Holder, HolderId, Lease, LeaseId, MemoryKey, Owner},
    port::{Port, PortRange, Protocol},
    registry::{
        Choice, InUse, Obstacle, PortSet, Remembered,
        holding::{let_go, shared},
    },
    request::{AllocateRequest, Filter},
    service_type::{Hold, InstanceBehavior, ServiceType},
    time::Timestamp,
    value::Fields,
};

/// How long the kernel's answer which ports are in use serves as a hint for the order, in seconds.
const HINT_SECONDS: u64 = 1;
/// What to say where nothing keeps the port.
const UDP_IS_NOT_HELD: &str = "the port is not held: another program can take it until yours binds it (`styxy exec` hands over the bound socket)";
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

/// A lease, or what one of those who share it have of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// The lease.
    pub lease_id: LeaseId,
    /// Who shares it, if it can be shared.
    pub holder: Option<HolderId>,
    /// The name that the caller has given it, by which it may be asked for again.
    name: Option<HolderId>,
}

/// How an answer came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The lease is new.
    New,
    /// It is a singleton's lease that was there already.
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
        if self.is_single {
            fields.put("instance_behavior", InstanceBehavior::Single.as_str());
            fields.put_some("holder_id", self.holder.map(|id| id.to_string()));
        }
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

    fn add_note(&mut self, note: String) {
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

/// What a request gets, before anything is changed.
struct Decision {
    choice: Choice,
    /// With what its type says.
    request: AllocateRequest,
    hold: Hold,
    note: Option<String>,
    is_single: bool,
    /// The range that does not exist yet.
    planned: Option<PortRange>,
}

impl Broker {
    /// Grants a port. With `hand_over` the bound socket is part of the answer.
    pub async fn allocate(
        &self,
        request: &AllocateRequest,
        caller: &Caller,
        hand_over: bool,
    ) -> Result<Granted, Error> {
        self.sight.check(request.config_seen.as_deref())?;
        let client = &caller.client;
        let mut held = self.hold_on_to(&request.owner, caller).await?;
        let attempt = self.attempt(request, client, &mut held, hand_over).await;
        let (granted, durable) = attempt.inspect_err(|error| {
            let refused = !matches!(error.kind, ErrorKind::InvalidArgument | ErrorKind::Storage);
            if refused && !request.dry_run {
                self.denied(Denial::new(request, error), client);
            }
        })?;
        if let Some(seq) = durable {
            let outcome = self.durable(seq).await;
            self.conclude(&granted, outcome.is_ok());
            outcome?;
        }
        Ok(granted)
    }

    /// Takes back what nobody was told of.
    pub fn take_back(&self, shares: &[Share], reason: EndReason) {
        let mut inner = self.lock();
        let inner = &mut *inner;
        // Who got no answer may have asked again, and got one.
        let is_gone = |name: HolderId| !inner.repeated.contains(&name);
        let shares = shares.iter().filter(|share| share.name.is_none_or(is_gone));
        let ends = shares.filter_map(|share| {
            // Somebody may have released it meanwhile, or share it.
            let lease = inner.registry.get(share.lease_id).ok()?;
            Some(let_go(lease, share.holder, reason))
        });
        let ends: Vec<_> = ends.collect();
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
                        Change::Expire { lease, reason, remembered: before }
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

    async fn attempt(
        &self,
        request: &AllocateRequest,
        client: &Client,
        held: &mut Held,
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
            format!("others take the ports of {} as fast as they appear", request.service_type),
        )
        .suggest("ask again"))
    }

    fn allocate_now(
        &self,
        request: &AllocateRequest,
        client: &Client,
        held: &mut Held,
        hand_over: bool,
    ) -> Result<Attempt, Error> {
        let mut inner = self.lock();
        let inner = &mut *inner;
        self.usable(inner)?;
        if let Some(granted) = inner.granted_before(request)? {
            let seq = inner.state.as_ref().ok().map(|state| state.store.seq());
            return Ok(Attempt::Granted(granted, seq));
        }
        // Its sockets keep the ports until the lease is stored, and longer as guards.
        let search = || if request.dry_run { Search::looking() } else { Search::reserving() };
        self.hurry_for(inner, request);
        let (decided, mut search) = loop {
            let mut search = search();
            match inner.decide(request, hand_over, &mut search) {
                // What is leaving makes room before anybody is sent away or a range is made wider.
                Ok(None)
                    if self.hurry(inner, |lease| lease.service_type == request.service_type) => {}
                Err(error)
                    if error.kind == ErrorKind::PoolExhausted
                        && !request.dry_run
                        && self.hurry(inner, |_| true) => {}
                decided => break (decided?, search),
            }
        };
        let Some(decision) = decided else {
            return Ok(Attempt::NeedsRange(search.into_busy()));
        };
        let Decision { choice, request, hold, note, is_single, planned } = decision;
        let first = match choice {
            Choice::Existing(lease) => return self.share(inner, lease, &request, client, held),
            Choice::Port(port) => port,
        };
        inner.is_name_free(&request, None)?;
        let mut leases = new_leases(&request, first, &held.owner, hold, is_single);
        let lease = leases.remove(0);
        let mut granted = Granted {
            lease,
            others: leases,
            outcome: Outcome::DryRun,
            note,
            is_single,
            created: planned,
            socket: None,
            holder: None,
            name: request.lease_id.map(HolderId::from),
            is_new: !request.dry_run,
        };
        granted.holder = granted.lease.holder_id;
        if request.dry_run {
            return Ok(Attempt::Granted(granted, None));
        }
        granted.outcome = Outcome::New;
        let key = granted.lease.memory_key();
        let before = key.as_ref().and_then(|key| inner.registry.memory().get(key));
        let mut in_hand = InHand::of(held);
        let mut changes = Vec::with_capacity(usize::from(request.count));
        for lease in std::iter::once(&granted.lease).chain(&granted.others) {
            match (hold, search.take(lease.port)) {
                (Hold::Guard, Some(socket)) => _ = in_hand.guards.insert(lease.lease_id, socket),
                (Hold::Socket, Some(socket)) => granted.socket = Some(socket),
                _ => {}
            }
            changes.push(Change::Allocate { lease: Arc::clone(lease) });
        }
        let seq = self.commit_holding(inner, in_hand, changes, Some(client))?;
        // A project may rely on the port that it had: what it remembers must be on disk.
        let must_wait = key.as_ref().is_some_and(|key| inner.must_wait(key, before));
        Ok(Attempt::Granted(granted, must_wait.then_some(seq)))
    }

    /// Gives a caller the lease that is there, and makes the caller one of those who hold it.
    fn share(
        &self,
        inner: &mut Inner,
        lease: Arc<Lease>,
        request: &AllocateRequest,
        client: &Client,
        held: &mut Held,
    ) -> Result<Attempt, Error> {
        let outcome = if request.dry_run { Outcome::DryRun } else { Outcome::Existing };
        // Who was the first and comes back must not be called like the lease, which others hold, too.
        let name = request.lease_id.map(|id| {
            if id == lease.lease_id { HolderId::first_of(id) } else { HolderId::from(id) }
        });
        let answer = |lease, holder, is_new| Granted {
            lease,
            others: Vec::new(),
            outcome,
            note: None,
            is_single: true,
            created: None,
            socket: None,
            holder,
            name,
            is_new,
        };
        if request.dry_run {
            return Ok(Attempt::Granted(answer(lease, None, false), None));
        }
        inner.is_name_free(request, Some(&lease))?;
        let now = clock::now();
        // Asked once more, because the answer was lost, it is the same one.
        let repeated = name.filter(|name| lease.holder_ids().any(|id| id == *name));
        inner.repeated.extend(repeated);
        let id = name.or_else(|| Some(HolderId::random()));
        let caller = Holder {
            id,
            owner: held.owner.clone(),
            instance_id: request.instance_id.clone(),
            ttl: request.ttl,
            deadline: request.ttl.map(|ttl| now.plus_seconds(ttl)),
        };
        let (shared, holder) = shared(&lease, caller)?;
        let shared = Arc::new(shared);
        let change = Change::SingletonReuse { lease: Arc::clone(&shared) };
        self.commit_holding(inner, InHand::of(held), vec![change], Some(client))?;
        // The owner of an orphan holds nothing any more, and the time limit is the caller's own.
        let owner = if lease.orphaned { Owner::None } else { shared.owner.clone() };
        let told = Arc::new(Lease { owner, ttl: request.ttl, ..(*shared).clone() });
        Ok(Attempt::Granted(answer(told, holder, holder == id && repeated.is_none()), None))
    }
}

impl Inner {
    /// What a request was granted already whose answer was lost, most likely with a service before this one.
    fn granted_before(&mut self, request: &AllocateRequest) -> Result<Option<Granted>, Error> {
        let known = request.lease_id.and_then(|lease_id| self.registry.get(lease_id).ok());
        let Some(lease) = known.filter(|_| !request.dry_run).map(Arc::clone) else {
            return Ok(None);
        };
        let service_type = &lease.service_type;
        let block = Filter { block_id: Some(lease.lease_id), ..Filter::default() };
        let others = self.registry.list(&block).into_iter();
        let others: Vec<_> = others.filter(|other| other.lease_id != lease.lease_id).collect();
        let is_other_request = *service_type != request.service_type
            || lease.protocol != request.protocol()
            || others.len() + 1 != usize::from(request.count)
            || request.port.is_some_and(|port| request.strict && port != lease.port);
        if is_other_request {
            return Err(name_is_taken(&lease));
        }
        let first = HolderId::first_of(lease.lease_id);
        if lease.holder_ids().next().is_some() && lease.holder_ids().all(|id| id != first) {
            // Only others hold it by now.
            return Ok(None);
        }
        let known_type = self.registry.rules().types.0.get(service_type);
        let is_single =
            known_type.is_some_and(|known| known.instance_behavior == InstanceBehavior::Single);
        let name = lease.lease_id.into();
        self.repeated.insert(name);
        Ok(Some(Granted {
            name: Some(name),
            is_new: false,
            holder: lease.holder_id.map(|_| first),
            others,
            outcome: Outcome::New,
            note: None,
            is_single,
            created: None,
            socket: None,
            lease,
        }))
    }

    /// Whether the name that a request gives to what it will be granted is free, or is that of a share of this lease.
    fn is_name_free(&self, request: &AllocateRequest, shared: Option<&Lease>) -> Result<(), Error> {
        let named = request.lease_id.and_then(|id| self.registry.named(id).ok());
        match named {
            Some((lease, _)) if shared.is_none_or(|shared| shared.lease_id != lease.lease_id) => {
                Err(name_is_taken(lease))
            }
            _ => Ok(()),
        }
    }

    /// Whether what is remembered for that key since a grant is not durable yet. `before` is what was
    /// remembered before the grant.
    fn must_wait(&mut self, key: &MemoryKey, before: Option<Remembered>) -> bool {
        let now = self.registry.memory().get(key);
        let (Some(now), Ok(state)) = (now, &self.state) else { return false };
        let must_wait = now.since > state.writer.progress().durable;
        if must_wait && before.is_none_or(|before| before.since != now.since) {
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
    ) -> Result<Option<Decision>, Error> {
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
    ) -> Result<Option<Decision>, Error> {
        let name = &request.service_type;
        let known = self.registry.rules().types.0.get(name);
        if known.is_none() && !request.dry_run {
            // Before any file is touched.
            self.may_appear(name, request.create)?;
            return Ok(None);
        }
        let new = if known.is_none() { Some(self.plan(request)?) } else { None };
        let mut planned = new.as_ref().map(|plan| plan.range);
        let wider;
        let mut service_type = match (known, &new) {
            (Some(known), _) => known,
            (None, Some(new)) => &new.service_type,
            (None, None) => return Ok(None),
        };
        let request = request.completed(service_type)?;
        if hand_over && request.protocol() == Protocol::Both {
            return Err(Error::invalid("one socket is handed over at a time: ask for tcp or udp"));
        }
        let mut choice = self.choose(&request, service_type, search);
        if !search.is_out_of_patience() && self.may_grow(service_type, &choice) {
            if !request.dry_run {
                return Ok(None);
            }
            wider = self.plan(&request)?;
            (service_type, planned) = (&wider.service_type, Some(wider.range));
            choice = self.choose(&request, service_type, search);
        }
        let choice = choice?;
        if hand_over && matches!(choice, Choice::Existing(_)) {
            return Err(Error::new(
                ErrorKind::PortInUse,
                "this service runs once, and its lease has no socket to hand over",
            )
            .suggest("ask without the socket (Allocate, `styxy allocate`) to learn its port"));
        }
        if let Choice::Existing(lease) = &choice
            && !request.protocol().parts().iter().all(|part| lease.protocol.parts().contains(part))
        {
            return Err(Error::new(
                ErrorKind::PortInUse,
                format!(
                    "{name} runs once, and its port {} is leased for {}",
                    lease.port,
                    lease.protocol.in_words()
                ),
            )
            .suggest(format!(
                "ask for {}, or give it a key of its own (singleton_key)",
                lease.protocol
            )));
        }
        let (hold, note) = self.hold(&request, service_type, hand_over);
        let is_single = service_type.instance_behavior == InstanceBehavior::Single;
        Ok(Some(Decision { choice, request, hold, note, is_single, planned }))
    }

    /// Which port a request gets.
    pub(super) fn choose(
        &self,
        request: &AllocateRequest,
        service_type: &ServiceType,
        search: &mut Search,
    ) -> Result<Choice, Error> {
        let protocol = request.protocol();
        self.registry.choose(request, service_type, |port| {
            let asked = search.ask(port, protocol, &self.guards);
            asked.map_err(|obstacle| match obstacle {
                // The refusal says what it is.
                Obstacle::InUse(InUse::Socket) if request.strict => {
                    let seen = Seen::of(protocol, PortRange::only(port)).ok();
                    let seen = seen.and_then(|seen| seen.obstacle(port));
                    seen.unwrap_or(obstacle)
                }
                obstacle => obstacle,
            })
        })
    }

    /// Whether there is no room in the type's range, and it may have a further one.
    fn may_grow(&self, service_type: &ServiceType, choice: &Result<Choice, Error>) -> bool {
        matches!(choice, Err(error) if error.kind == ErrorKind::PoolExhausted)
            && service_type.created.is_some()
            && self.config.auto.enabled
    }

    /// How the ports of a request are held, and what to say of it.
    fn hold(
        &self,
        request: &AllocateRequest,
        service_type: &ServiceType,
        hand_over: bool,
    ) -> (Hold, Option<String>) {
        if hand_over {
            return (Hold::Socket, None);
        }
        let wanted = request.hold.unwrap_or(service_type.hold);
        // UDP has no socket that is bound and lets another in.
        let note = match request.protocol() {
            Protocol::Tcp => None,
            Protocol::Udp => Some(UDP_IS_NOT_HELD.to_owned()),
            Protocol::Both => Some(format!("for UDP {UDP_IS_NOT_HELD}")),
        };
        if wanted != Hold::Guard || request.protocol() == Protocol::Udp {
            return (Hold::None, note);
        }
        let most = self.most_guards.min(self.config.most_guards);
        if self.guards.len() + usize::from(request.count) > most {
            let note = format!("the port is not guarded: the limit of {most} guards is reached");
            return (Hold::None, Some(note));
        }
        (Hold::Guard, note)
    }
}

/// One name is that of one lease, or of one who shares a lease.
fn name_is_taken(lease: &Lease) -> Error {
    let Lease { port, protocol, service_type, .. } = lease;
    Error::invalid(format!(
        "lease_id names what was granted already: port {port}/{protocol} of {service_type}"
    ))
    .suggest("leave out lease_id, or give a new one (UUID of version 4)")
}

fn new_leases(
    request: &AllocateRequest,
    first: Port,
    owner: &Owner,
    hold: Hold,
    is_single: bool,
) -> Vec<Arc<Lease>> {
    let first_id = request.lease_id.unwrap_or_else(LeaseId::random);
    let now = clock::now();
    (0..request.count)
        .filter_map(|offset| first.plus(offset))
        .map(|port| {
            let lease_id = if port == first { first_id } else { LeaseId::random() };
            Arc::new(Lease {
                lease_id,
                port,
                protocol: request.protocol(),
                service_type: request.service_type.clone(),
                service_name: request.service_name.clone(),
                instance_id: request.instance_id.clone(),
                project_path: request.project_path.clone(),
                owner: owner.clone(),
                hold,
                ttl: request.ttl,
                deadline: request.ttl.map(|ttl| now.plus_seconds(ttl)),
                orphaned: false,
                holder_id: is_single.then(|| HolderId::first_of(lease_id)),
                block_id: (request.count > 1).then_some(first_id),
                sharers: Vec::new(),
                singleton_key: request.singleton_key.clone(),
                since: Timestamp::now(),
            })
        })
        .collect()
}
