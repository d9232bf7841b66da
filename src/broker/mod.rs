//! The one path that every change takes: check → registry → kernel → state → audit → signal. Doors
//! call it and translate its answers; nothing else changes anything.
//!
//! - this file: starting, and making a change
//! - [`grant`]: granting, also what is granted already
//! - `search`: finding out whether ports are free
//! - `owner`: finding out who an owner is
//! - `settling`: carrying out what follows from a change: owners, deadlines, guards
//! - `leases`: renewing, releasing, forgetting
//! - `instances`: agents that have announced themselves
//! - `types`: service types that appear and go, and the configuration
//! - `leaving`: owners that end soon after they have got a lease
//! - `sight`: whether commands see the configuration that the service sees
//! - `merging`: taking over what other registries have
//! - `ending`: what happens when an owner, a deadline or a listener has come to its end
//! - `query`: what can be asked without changing anything
//! - `denials`: refusals, counted where they are alike
//! - `unsettled`: what was remembered before grants that are not durable yet

mod backlog;
mod denials;
mod ending;
pub mod grant;
mod instances;
mod leases;
mod leaving;
mod merging;
mod owner;
mod query;
mod search;
mod settling;
mod sight;
mod types;
mod unsettled;

use instances::Beat;

pub use owner::Caller;

use std::{
    collections::{HashMap, VecDeque},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use tokio::sync::{mpsc, watch};

use crate::{
    audit::{Outbox, Sink, outbox},
    change::{Change, Record},
    config::{Config, Files, Merged, Origins, Problem, drop_in},
    error::{Error, ErrorKind},
    handover::{Claim, giver::Successor},
    idle::IdleTracker,
    kernel::{
        clock,
        guard::{self, Guards, Kept},
        process::{self, Process},
    },
    lease::{Client, EndReason, InstanceId, LeaseId, Owner},
    owners::{
        Owners,
        deadlines::{Deadlines, Due},
    },
    registry::{
        Effect, Registry,
        obligations::{Limit, Obligations},
    },
    request::Filter,
    state::{
        Lock, Store, Writer,
        store::OpenError,
        writer::{LogFile, Renewed},
    },
    time::{Moment, Timestamp},
};

use denials::Denials;
use settling::InHand;
use sight::Sight;
use unsettled::Unsettled;

/// Where things are, and what the service was given. All of it comes from the daemon.
#[derive(Debug, Default)]
pub struct Places {
    /// The state folder.
    pub state: PathBuf,
    /// The folders of the configuration, in the order in which they count.
    pub config: Vec<PathBuf>,
    /// The lock of the state folder, and what the service before this one has handed over.
    pub claim: Claim,
    /// The file that standard error goes to, if the service writes to one.
    pub log: Option<PathBuf>,
    /// Whether systemd has started the service as a unit, which has a sight of the file system of its own.
    pub is_unit: bool,
    /// The guards that the service manager has kept.
    pub guards: Kept,
}

/// The service, behind its doors.
#[derive(Debug)]
pub struct Broker {
    state: PathBuf,
    /// The file that standard error goes to, if it is one.
    log: Option<PathBuf>,
    /// The folders that are the service's own.
    own: Vec<PathBuf>,
    /// Whoever holds these has the turn to change the configuration.
    files: Arc<tokio::sync::Mutex<Files>>,
    sight: Sight,
    boot_id: String,
    /// A std mutex, because nothing awaits while it is held, and it is held for microseconds.
    inner: Mutex<Inner>,
    idle_tracker: IdleTracker,
    owners: Owners,
    deadlines: Deadlines,
    /// Whether something waits for the end of a listener.
    awaits_endings: watch::Sender<bool>,
    this: Weak<Self>,
}

#[derive(Debug)]
struct Inner {
    /// The lock of the state folder, and what another service has handed over until the state says whose it is.
    claim: Claim,
    registry: Registry,
    config: Config,
    problems: Vec<Problem>,
    /// Where its values come from.
    origins: Arc<Origins>,
    /// The state, or why it cannot be used; then every change is refused and opening is tried again.
    state: Result<State, OpenError>,
    /// Why the last change could not be stored, if it could not.
    refusal: Option<String>,
    /// What was remembered before grants that are not durable yet.
    unsettled: Unsettled,
    /// Refusals that are counted.
    denials: Denials,
    guards: Guards,
    /// What the limit of descriptors allows.
    max_guards: usize,
    /// Leases that are still to be looked after when there is time: guards that are to be bound, and times
    /// without use that restart.
    waiting: VecDeque<LeaseId>,
    /// Those of them whose guards could not be bound; they wait again after a while.
    unguarded: Vec<LeaseId>,
    /// How often that has been tried.
    tries: usize,
    /// Guards that the service manager has kept, until the state says whose they are.
    kept: Kept,
    /// What is held for leases that are about to be in force.
    in_hand: InHand,
    /// Whether what the service before has held and watched is held and watched by this one.
    is_resumed: bool,
    /// The last heartbeat of each instance that sends them.
    heartbeats: HashMap<InstanceId, Beat>,
    /// Until when the registry's hint of ports in use may stand.
    hint_until: Option<Moment>,
    signals: Option<mpsc::UnboundedSender<Record>>,
    /// The other end, until a door takes it; what happens before that is not lost.
    changes: Option<mpsc::UnboundedReceiver<Record>>,
}

#[derive(Debug)]
struct State {
    store: Store,
    writer: Writer,
    outbox: Outbox,
    /// Which generation of the log the audit reads.
    audit_generation: u64,
    compacting: bool,
}

impl Broker {
    /// A service on these places. Fails only if another service has the state folder; a folder that
    /// cannot be used is tried again at each request.
    pub fn start(places: Places) -> Result<Arc<Self>, OpenError> {
        // Beside the state are those of other networks and machines.
        let states = places.state.parent().unwrap_or(&places.state);
        let own = places
            .config
            .iter()
            .map(PathBuf::as_path)
            .chain([states])
            .map(Path::to_owned)
            .collect();
        let mut files = Files::new(places.config.clone(), places.state.join("config.good"));
        let sight = Sight::new(places.config, places.is_unit, &files);
        drop_in::tidy(&files.drop_in());
        let Merged { config, problems, origins } = files.load();
        let (signals, changes) = mpsc::unbounded_channel();
        let unopened = std::io::Error::other("it was not opened yet");
        let unopened = OpenError::Io(places.state.clone(), unopened);
        let broker = Arc::new_cyclic(|this: &Weak<Self>| Self {
            boot_id: process::boot_id(),
            inner: Mutex::new(Inner {
                claim: places.claim,
                registry: Registry::new(config.rules()),
                config,
                problems,
                origins: Arc::new(origins),
                state: Err(unopened),
                refusal: None,
                unsettled: Unsettled::default(),
                denials: Denials::default(),
                guards: Guards::default(),
                max_guards: guard::most(),
                waiting: VecDeque::new(),
                unguarded: Vec::new(),
                tries: 0,
                kept: places.guards,
                in_hand: InHand::default(),
                is_resumed: false,
                heartbeats: HashMap::new(),
                hint_until: None,
                signals: Some(signals),
                changes: Some(changes),
            }),
            state: places.state,
            log: places.log,
            own,
            files: Arc::new(tokio::sync::Mutex::new(files)),
            sight,
            idle_tracker: IdleTracker::default(),
            owners: Owners::new({
                let this = Weak::clone(this);
                move |owner| {
                    if let Some(broker) = this.upgrade() {
                        broker.owner_gone(owner);
                    }
                }
            }),
            deadlines: Deadlines::default(),
            awaits_endings: watch::Sender::new(false),
            this: Weak::clone(this),
        });
        let mut inner = broker.lock();
        broker.open(&mut inner);
        match &mut inner.state {
            Err(OpenError::Locked(folder)) => Err(OpenError::Locked(std::mem::take(folder))),
            // It is told to whoever asks for a change.
            Err(OpenError::Io(..) | OpenError::Newer(..)) | Ok(_) => {
                drop(inner);
                Ok(broker)
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens the state, tells what was damaged, and ends the leases of an earlier boot.
    fn open(&self, inner: &mut Inner) {
        if let Err(error) = self.try_open(inner) {
            inner.state = Err(error);
        }
    }

    fn try_open(&self, inner: &mut Inner) -> Result<(), OpenError> {
        let io = |error| OpenError::Io(self.state.clone(), error);
        let mut registry = Registry::new(inner.config.rules());
        // A new state knows of nothing but what is built in.
        registry.set_audited_config(Config::built_in().to_audit());
        inner.locked(&self.state)?;
        let opened = Store::open(&self.state, &self.boot_id, &mut registry)?;
        let store = opened.store;
        let is_new = store.seq() == 0;
        let writer = Writer::start(store.durable(), self.renewal()).map_err(io)?;
        // What an earlier service wrote may be in memory only.
        writer.soon(&store.log(), store.seq());
        writer.hurry();
        let start = outbox::Start {
            reader: store.reader(),
            state_id: store.state_id().to_owned(),
            confirmed: store.confirmed(),
            seq: store.seq(),
        };
        let this = Weak::clone(&self.this);
        let outbox = Outbox::start(start, Sink::open(), move |done, generation| {
            if let Some(broker) = this.upgrade() {
                broker.audited(done, generation);
            }
        });
        let outbox = outbox.map_err(io)?;
        inner.registry = registry;
        inner.unsettled = Unsettled::default();
        let state = State { store, writer, outbox, audit_generation: 0, compacting: false };
        let mut changes: Vec<_> =
            opened.damage.into_iter().map(|reason| Change::Recover { reason }).collect();
        let told = inner.registry.audited_config();
        changes.extend(types::differences(told, &inner.config, &inner.problems));
        if opened.other_boot && !inner.claim.is_handed_over {
            let void = inner.registry.list(&Filter::default()).into_iter();
            changes.extend(void.map(|lease| Change::end(lease, EndReason::NewBoot)));
            let instances = inner.registry.instances().into_iter();
            changes.extend(instances.map(|instance| {
                let reason = EndReason::NewBoot.as_str().to_owned();
                Change::EndInstance { instance, reason }
            }));
        }
        inner.state = Ok(state);
        let told = self.commit(inner, changes, None).and_then(|_| match &mut inner.state {
            Ok(state) if opened.other_boot => state.store.mark_boot().map_err(storage),
            _ => Ok(()),
        });
        self.idle_tracker.touch(inner.registry.running_for());
        // Leases of another boot must not live on because their end could not be stored.
        told.map_err(|error| io(std::io::Error::other(error.message)))?;
        self.take_over_others(inner, is_new);
        if let Ok(state) = &mut inner.state
            && state.store.confirmed() >= state.store.seq()
        {
            // A service that was killed may have left logs that nobody needs.
            state.audit_generation = state.store.generation();
            self.prune(state);
        }
        self.resume(inner);
        Ok(())
    }

    /// Replaces a broken log. Runs on the thread that waits for the disk.
    fn renewal(&self) -> impl FnMut() -> std::io::Result<Renewed> + Send + 'static {
        let this = Weak::clone(&self.this);
        let mut trusted: Option<Arc<LogFile>> = None;
        move || {
            let gone = || std::io::Error::other("the service is ending");
            let broker = this.upgrade().ok_or_else(gone)?;
            let (snapshot, log) = {
                let mut inner = broker.lock();
                if inner.claim.lock.as_ref().is_some_and(Lock::is_deleted) {
                    inner.claim.lock = None;
                    inner.locked(&broker.state).map_err(std::io::Error::other)?;
                }
                let Inner { state, registry, .. } = &mut *inner;
                let state = state.as_mut().map_err(|_| gone())?;
                let snapshot = state.store.renew(registry, trusted.as_ref())?;
                (snapshot, state.store.log())
            };
            trusted = None;
            log.sync()?;
            trusted = Some(Arc::clone(&log));
            let written = snapshot.write()?;
            trusted = None;
            if let Ok(state) = &mut broker.lock().state {
                state.store.compacted(written);
            }
            Ok(Renewed { seq: snapshot.seq(), log })
        }
    }

    /// Makes changes: stored first, then in force, then told. All of them or none.
    fn commit(
        &self,
        inner: &mut Inner,
        changes: Vec<Change>,
        client: Option<&Client>,
    ) -> Result<u64, Error> {
        if !changes.is_empty() {
            inner.may_change(&changes, client)?;
        }
        self.commit_anyway(inner, changes, client)
    }

    /// The same, even if it might not be durable for a while: what was never acknowledged is taken back.
    fn commit_anyway(
        &self,
        inner: &mut Inner,
        changes: Vec<Change>,
        client: Option<&Client>,
    ) -> Result<u64, Error> {
        let state = inner.state.as_mut().map_err(|error| unusable(error))?;
        let first = state.store.seq() + 1;
        let at = Timestamp::now();
        let records: Vec<_> = (first..)
            .zip(changes)
            .map(|(seq, change)| Record { seq, at, client: client.cloned(), change })
            .collect();
        if records.is_empty() {
            return Ok(state.store.seq());
        }
        let appended = state.store.append(&records);
        inner.refusal = appended.as_ref().err().map(ToString::to_string);
        appended.map_err(storage)?;
        let seq = state.store.seq();
        state.writer.soon(&state.store.log(), seq);
        state.outbox.appended(seq);
        for record in records {
            self.put_in_force(inner, &record);
            if let Some(signals) = &inner.signals {
                // Nobody listens any more when the bus is gone, and that is fine.
                let _ = signals.send(record);
            }
        }
        self.await_endings(inner);
        self.idle_tracker.touch(inner.registry.running_for());
        self.compact_if_due(inner);
        Ok(seq)
    }

    /// Puts a stored change in force, and carries out what follows from it.
    fn put_in_force(&self, inner: &mut Inner, record: &Record) {
        if !inner.is_resumed {
            // What follows is carried out for all at once.
            return inner.registry.apply(record.seq, &record.change);
        }
        for effect in inner.registry.change(record.seq, &record.change) {
            self.carry_out(inner, effect);
        }
    }

    /// Has the store of guards looked after when there is something to do.
    fn store_guards_later(&self, inner: &Inner) {
        if let Some(when) = inner.guards.wants_storing(clock::now()) {
            self.deadlines.add_by(when, Due::Store);
        }
    }

    /// Begins a new log when the present one is long, and has the snapshot written in the background.
    fn compact_if_due(&self, inner: &mut Inner) {
        let Ok(state) = &mut inner.state else { return };
        if state.compacting || !state.store.wants_compaction() {
            return;
        }
        // Without space for it, the long log serves on.
        let Ok(snapshot) = state.store.rotate(&inner.registry) else { return };
        state.compacting = true;
        let this = Weak::clone(&self.this);
        state.writer.later(move || {
            let written = snapshot.write();
            let Some(broker) = this.upgrade() else { return };
            if let Ok(state) = &mut broker.lock().state {
                state.compacting = false;
                if let Ok(written) = written {
                    state.store.compacted(written);
                    broker.prune(state);
                }
            }
        });
    }

    /// Has files deleted that nobody needs any more.
    fn prune(&self, state: &State) {
        let spare = state.store.spare(state.audit_generation);
        // What is left over by an error goes the next time.
        state.writer.later(move || drop(spare.delete()));
    }

    /// Notes how far the audit has come.
    fn audited(&self, done: u64, generation: u64) {
        if let Ok(state) = &mut self.lock().state {
            let before = state.store.oldest_log(state.audit_generation);
            // If the note is lost, the journal is read back once more at the next start.
            let _ = state.store.mark_confirmed(done);
            state.audit_generation = generation;
            if state.store.oldest_log(generation) != before {
                self.prune(state);
            }
        }
    }

    /// Opens the state again if it could not be used.
    fn usable(&self, inner: &mut Inner) -> Result<(), Error> {
        if inner.state.is_err() {
            self.open(inner);
        }
        inner.state.as_ref().map(drop).map_err(unusable)
    }

    /// The thread that waits for the disk.
    fn writer(&self) -> Result<Writer, Error> {
        let mut inner = self.lock();
        self.usable(&mut inner)?;
        inner.state.as_ref().map(|state| state.writer.clone()).map_err(unusable)
    }

    /// Waits until a change is durable.
    async fn durable(&self, seq: u64) -> Result<(), Error> {
        let writer = self.writer()?;
        writer.until(seq).await.map_err(storage)
    }

    /// Every change from now on, and at first every one since the start, for the one door that tells them.
    pub fn changes(&self) -> mpsc::UnboundedReceiver<Record> {
        let mut inner = self.lock();
        inner.changes.take().unwrap_or_else(|| {
            let (signals, changes) = mpsc::unbounded_channel();
            inner.signals = Some(signals);
            changes
        })
    }

    /// Ends the stream of changes.
    pub fn end_changes(&self) {
        let mut inner = self.lock();
        (inner.signals, inner.changes) = (None, None);
    }

    /// What the service is busy with.
    pub fn idle_tracker(&self) -> &IdleTracker {
        &self.idle_tracker
    }

    /// Who is being watched.
    pub fn owners(&self) -> &Owners {
        &self.owners
    }

    /// How the audit is doing, to wait for; `None` while the state cannot be used.
    pub fn audit(&self) -> Option<(u64, watch::Receiver<outbox::Status>)> {
        let inner = self.lock();
        let state = inner.state.as_ref().ok()?;
        Some((state.store.seq(), state.outbox.watch()))
    }

    /// Minds the deadlines, for ever.
    pub async fn run_deadlines(&self) {
        self.deadlines.run(|due| self.due(due)).await;
    }

    /// Tells what was only counted, and makes all changes so far durable.
    pub async fn sync_now(&self) {
        let last = {
            let mut inner = self.lock();
            self.tell_denials(&mut inner, Moment(u64::MAX));
            match &inner.state {
                Ok(state) => (state.writer.clone(), state.store.seq()),
                Err(_) => return,
            }
        };
        // Whoever was to be told of an error was told.
        let _ = last.0.until(last.1).await;
    }

    /// Stores as many guards as may be, whatever their age: the service is ending.
    pub fn store_guards(&self) {
        self.lock().guards.store_all();
    }

    /// Gives the guards and the owners to the next service. All changes must be durable, and no more may come.
    pub fn hand_over(&self, successor: &Successor) -> io::Result<()> {
        let inner = self.lock();
        let leases = inner.registry.iter().flat_map(|lease| lease.owners());
        let instances = inner.registry.instances();
        let owners = leases.chain(instances.iter().map(|instance| &instance.owner));
        successor.give(&inner.guards, owners)
    }

    /// Watches again what a service before this one has watched, and holds what it has held.
    fn resume(&self, inner: &mut Inner) {
        let kept = std::mem::take(&mut inner.kept);
        inner.guards.take_back(kept, |lease_id| inner.registry.get(lease_id).is_ok());
        for (lease_id, socket) in std::mem::take(&mut inner.claim.guards) {
            // A lease that has ended since lets its port go with the socket.
            if inner.registry.get(lease_id).is_ok() && !inner.guards.contains(lease_id) {
                inner.guards.insert(lease_id, socket);
            }
        }
        let mut handed: HashMap<_, _> = std::mem::take(&mut inner.claim.processes)
            .into_iter()
            .map(|Process { pid, start, pidfd }| (Owner::Process { pid, start }, pidfd))
            .collect();
        let mut watch = |owner: &Owner| self.owners.watch(owner, handed.remove(owner));
        let now = clock::now();
        let mut waiting = VecDeque::with_capacity(inner.registry.len());
        for lease in inner.registry.iter() {
            let Obligations { owners, limit, guard } = Obligations::of(Some(lease));
            owners.into_iter().for_each(&mut watch);
            // The first caller must not meet what is over. The rest has time; a port without its guard has the least.
            if matches!(limit, Some(Limit::At(end)) if end <= now) {
                self.deadlines.add(now, Due::Lease(lease.lease_id));
            }
            if guard && !inner.guards.contains(lease.lease_id) {
                waiting.push_front(lease.lease_id);
            } else {
                waiting.push_back(lease.lease_id);
            }
        }
        inner.registry.instances().iter().for_each(|instance| watch(&instance.owner));
        inner.waiting = waiting;
        self.deadlines.add_once(now, Due::Waiting);
        self.deadlines.add_once(now.plus_seconds(1), Due::Store);
        self.await_endings(inner);
        for instance in inner.registry.instances() {
            // It could not send any heartbeat while the service was down.
            self.carry_out(inner, Effect::Heartbeats(instance));
        }
        inner.is_resumed = true;
    }
}

impl Inner {
    /// Makes sure of the lock.
    fn locked(&mut self, folder: &Path) -> Result<(), OpenError> {
        if self.claim.lock.is_none() {
            self.claim.lock = Some(Lock::take(folder)?);
        }
        Ok(())
    }

    /// Whether changes may be made now: not on a disk that has failed, and not without bound
    /// faster than the journal takes their events.
    fn may_change(&self, changes: &[Change], client: Option<&Client>) -> Result<(), Error> {
        let state = self.state.as_ref().map_err(unusable)?;
        if let Some(reason) = state.writer.progress().broken {
            // Whoever asks has it tried again.
            state.writer.hurry();
            return Err(Error::storage(&reason));
        }
        if client.is_none() || changes.iter().all(Change::is_end) {
            return Ok(());
        }
        let audit = state.outbox.status();
        backlog::check(state.store.seq().saturating_sub(audit.done), audit.arrival)
    }
}

/// Why a change could not be stored.
fn storage(error: std::io::Error) -> Error {
    Error::storage(&error)
}

/// Why nothing can be asked or changed without the state.
fn unusable(error: &OpenError) -> Error {
    match error {
        OpenError::Newer(..) => Error::new(
            ErrorKind::Storage,
            format!("nothing is granted, and nothing was changed: {error}"),
        ),
        OpenError::Io(path, cause) => Error::unusable("the state", path, cause),
        OpenError::Locked(_) => Error::new(
            ErrorKind::Storage,
            format!("the state cannot be used, and nothing was changed: {error}"),
        ),
    }
}
