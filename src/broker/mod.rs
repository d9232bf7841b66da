//! The one path that every change takes: check → registry → kernel → state → audit → signal. Doors
//! call it and translate its answers; nothing else changes anything.
//!
//! - this file: starting, and making a change
//! - [`grant`]: granting, and sharing a lease that exists already
//! - `search`: finding out whether ports are free
//! - `owner`: finding out who an owner is
//! - `settling`: carrying out what follows from a change: owners, deadlines, guards
//! - `leases`: renewing, releasing, forgetting
//! - `instances`: registered agents and their heartbeats
//! - `types`: automatic service types, and the configuration
//! - `leaving`: owners that exit right after they got a lease
//! - `sight`: whether a command sees the same configuration as the service
//! - `merging`: taking over the state of other registries
//! - `ending`: what happens when an owner or a listener is gone, or a deadline has passed
//! - `query`: read-only requests
//! - [`past`]: reading past events
//! - [`following`]: following changes as they are made
//! - [`pages`]: pages in a browser
//! - [`metrics`]: what is counted
//! - `denials`: refusals, with repetitions counted
//! - `unsettled`: what was remembered before grants that are not durable yet
//! - `waiting`: requests that wait for room

mod access;
mod backlog;
mod denials;
mod ending;
pub mod following;
pub mod grant;
mod instances;
mod leases;
mod leaving;
mod merging;
pub mod metrics;
mod owner;
pub mod pages;
pub mod past;
mod query;
mod search;
mod settling;
mod sight;
mod types;
mod unsettled;
mod waiting;

use instances::Beat;

pub use instances::Registered;
pub use owner::Caller;

use std::{
    collections::{HashMap, HashSet, VecDeque},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak},
    time::Instant,
};

use tokio::sync::{
    mpsc::{self, UnboundedReceiver},
    watch,
};

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
        landlock,
        process::{self, Process},
    },
    lease::{Client, EndReason, InstanceId, LeaseId, Owner},
    owners::{
        Event, Owners,
        deadlines::{Deadlines, Due},
    },
    port::Port,
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
use following::{Followers, Live};
use metrics::Counts;
use pages::Pages;
use past::Reading;
use settling::InHand;
use sight::Sight;
use unsettled::Unsettled;
use waiting::Waiting;

/// Paths, and what the service was started with. All of it comes from the daemon.
#[derive(Debug, Default)]
pub struct Places {
    /// The state folder.
    pub state: PathBuf,
    /// The folders of the configuration, lowest precedence first.
    pub config: Vec<PathBuf>,
    /// The lock of the state folder, and what the previous service handed over.
    pub claim: Claim,
    /// The file that standard error is written to, if any.
    pub log: Option<PathBuf>,
    /// Whether systemd started the service as a unit, which has a mount namespace of its own.
    pub is_unit: bool,
    /// The guards from the service manager's file descriptor store.
    pub guards: Kept,
}

/// The service, behind its doors.
#[derive(Debug)]
pub struct Broker {
    state: PathBuf,
    /// The file that standard error goes to, if it is one.
    log: Option<PathBuf>,
    /// The service's own folders.
    own: Vec<PathBuf>,
    /// Held by whoever changes the configuration.
    files: Arc<tokio::sync::Mutex<Files>>,
    sight: Sight,
    boot_id: String,
    /// A std mutex, because nothing awaits while it is held, and it is held for microseconds.
    started: Instant,
    inner: Mutex<Inner>,
    idle_tracker: IdleTracker,
    owners: Owners,
    deadlines: Deadlines,
    waiting: Waiting,
    reading: Reading,
    followers: Followers,
    /// Notified when tokens or sessions that were good may not be any more.
    rights: watch::Sender<()>,
    /// The TCP ports that the service listens on, once they are known.
    tcp_ports: OnceLock<Vec<Port>>,
    /// Whether something waits for the end of a listener.
    awaits_endings: watch::Sender<bool>,
    this: Weak<Self>,
}

#[derive(Debug)]
struct Inner {
    /// The lock of the state folder, and what another service handed over, until the state has been read.
    claim: Claim,
    registry: Registry,
    config: Config,
    problems: Vec<Problem>,
    /// Where its values come from.
    origins: Arc<Origins>,
    /// The state, or why it cannot be used. In that case every change is refused, and opening is retried.
    state: Result<State, OpenError>,
    /// Why the last change could not be stored, if it could not.
    refusal: Option<String>,
    /// What was remembered before grants that are not durable yet.
    unsettled: Unsettled,
    counts: Counts,
    /// Repeated refusals.
    denials: Denials,
    guards: Guards,
    /// How many the limit of open files allows.
    max_guards: usize,
    /// Leases that still need attention: guards to bind, and unused times that restart.
    waiting: VecDeque<LeaseId>,
    /// Those whose guards could not be bound; they are retried later.
    unguarded: Vec<LeaseId>,
    /// How often that has been tried.
    tries: usize,
    /// Guards from the file descriptor store, until the state says whose they are.
    kept: Kept,
    /// Sockets and pidfds of leases that are about to take effect.
    in_hand: InHand,
    /// Whether this service has taken over the guards and owners of the previous one.
    is_resumed: bool,
    /// Leases whose owners keep the port bound, and that were seen listened on since.
    served: HashSet<LeaseId>,
    /// For each lease the last owner that runs another command in its own place, and since when, in clock ticks: what it started
    /// before that is not inside of it.
    replaced: HashMap<LeaseId, (Owner, u64)>,
    /// The last heartbeat of each instance that sends them.
    heartbeats: HashMap<InstanceId, Beat>,
    /// When this service last heard of each instance by a heartbeat.
    heard: HashMap<InstanceId, Timestamp>,
    /// Until when the registry's hint of ports in use is valid.
    hint_until: Option<Moment>,
    signals: Option<mpsc::UnboundedSender<Record>>,
    /// The receiving end, until a door takes it; changes made before that are not lost.
    changes: Option<UnboundedReceiver<Record>>,
    live: Live,
    pages: Pages,
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
    /// A service on these folders, and the channel of the events that [`Broker::run`] handles. Fails only if another
    /// service holds the state folder; opening a folder that cannot be used is retried at each request.
    pub fn start(places: Places) -> Result<(Arc<Self>, UnboundedReceiver<Event>), OpenError> {
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
        let (sender, events) = mpsc::unbounded_channel();
        let unopened = std::io::Error::other("it was not opened yet");
        let unopened = OpenError::Io(places.state.clone(), unopened);
        let broker = Arc::new_cyclic(|this: &Weak<Self>| Self {
            boot_id: process::boot_id(),
            started: Instant::now(),
            inner: Mutex::new(Inner {
                claim: places.claim,
                registry: Registry::new(config.rules()),
                config,
                problems,
                origins: Arc::new(origins),
                state: Err(unopened),
                refusal: None,
                unsettled: Unsettled::default(),
                counts: Counts::default(),
                denials: Denials::default(),
                guards: Guards::default(),
                max_guards: guard::most(),
                waiting: VecDeque::new(),
                unguarded: Vec::new(),
                tries: 0,
                kept: places.guards,
                in_hand: InHand::default(),
                is_resumed: false,
                served: HashSet::new(),
                replaced: HashMap::new(),
                heartbeats: HashMap::new(),
                heard: HashMap::new(),
                hint_until: None,
                signals: Some(signals),
                changes: Some(changes),
                live: Live::default(),
                pages: Pages::default(),
            }),
            state: places.state,
            log: places.log,
            own,
            files: Arc::new(tokio::sync::Mutex::new(files)),
            sight,
            idle_tracker: IdleTracker::default(),
            owners: Owners::new(sender),
            deadlines: Deadlines::default(),
            waiting: Waiting::default(),
            reading: Reading::default(),
            followers: Followers::default(),
            rights: watch::Sender::default(),
            tcp_ports: OnceLock::new(),
            awaits_endings: watch::Sender::new(false),
            this: Weak::clone(this),
        });
        let mut inner = broker.lock();
        broker.open(&mut inner);
        match &mut inner.state {
            Err(OpenError::Locked(folder)) => Err(OpenError::Locked(std::mem::take(folder))),
            // Every request for a change is answered with the reason.
            Err(OpenError::Io(..) | OpenError::Newer(..)) | Ok(_) => {
                drop(inner);
                Ok((broker, events))
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens the state, logs what was damaged, and ends the leases of an earlier boot.
    fn open(&self, inner: &mut Inner) {
        if let Err(error) = self.try_open(inner) {
            inner.state = Err(error);
        }
    }

    fn try_open(&self, inner: &mut Inner) -> Result<(), OpenError> {
        let io = |error| OpenError::Io(self.state.clone(), error);
        let mut registry = Registry::new(inner.config.rules());
        // A new state knows only the built-in types.
        registry.set_audited_config(Config::built_in().to_audit());
        inner.locked(&self.state)?;
        let opened = Store::open(&self.state, &self.boot_id, &mut registry)?;
        let store = opened.store;
        let is_new = store.seq() == 0;
        let writer = Writer::start(store.durable(), self.renewal()).map_err(io)?;
        // What an earlier service wrote may still be in the page cache only.
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
                    inner
                        .locked(&broker.state)
                        .map_err(|error| cannot_be_made(&broker.state, error))?;
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

    /// Makes changes: they are stored, then applied, then announced. All of them or none.
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

    /// The same, even if the disk has failed: it takes back what was never acknowledged.
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
        let makes_room = records.iter().any(|record| record.change.is_end());
        for record in records {
            self.put_in_force(inner, &record);
            inner.counts.note(&record.change);
            inner.live.send(&record);
            if let Some(signals) = &inner.signals {
                // Without a bus nobody listens.
                let _ = signals.send(record);
            }
        }
        if makes_room {
            self.waiting.note_room();
        }
        self.await_endings(inner);
        self.idle_tracker.touch(inner.registry.running_for());
        self.compact_if_due(inner);
        Ok(seq)
    }

    /// Applies a stored change, and carries out its effects.
    fn put_in_force(&self, inner: &mut Inner, record: &Record) {
        if !inner.is_resumed {
            // The effects are carried out for all at once.
            return inner.registry.apply(record.seq, record.at, &record.change);
        }
        for effect in inner.registry.change(record.seq, record.at, &record.change) {
            self.carry_out(inner, effect);
        }
    }

    /// Schedules the work on stored guards, if there is any.
    fn store_guards_later(&self, inner: &Inner) {
        if let Some(when) = inner.guards.wants_storing(clock::now()) {
            self.deadlines.add_by(when, Due::Store);
        }
    }

    /// Starts a new log when the current one is long, and has the snapshot written in the background.
    fn compact_if_due(&self, inner: &mut Inner) {
        let Ok(state) = &mut inner.state else { return };
        if state.compacting || !state.store.wants_compaction() {
            return;
        }
        // Without space for it, the long log stays in use.
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

    /// Deletes files that are no longer needed.
    fn prune(&self, state: &State) {
        let spare = state.store.spare(state.audit_generation);
        // What an error leaves behind is deleted the next time.
        state.writer.later(move || drop(spare.delete()));
    }

    /// Records how many events are confirmed.
    fn audited(&self, done: u64, generation: u64) {
        if let Ok(state) = &mut self.lock().state {
            let before = state.store.oldest_log(state.audit_generation);
            // If the record is lost, the next start reads the journal back again.
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

    /// Every change since the start, for the one door that sends signals.
    pub fn changes(&self) -> UnboundedReceiver<Record> {
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

    /// What keeps the service from its idle exit.
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

    /// Logs the refusals that were only counted, and makes all changes so far durable.
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

    /// Stores as many guards as the manager takes, whatever their age: the service is ending.
    pub fn store_guards(&self) {
        self.lock().guards.store_all();
    }

    /// Hands guards and owners to the next service. All changes must be durable, and no more may come.
    pub fn hand_over(&self, successor: &Successor) -> io::Result<()> {
        let inner = self.lock();
        let leases = inner.registry.iter().flat_map(|lease| lease.owners());
        let instances = inner.registry.instances();
        let owners = leases.chain(instances.iter().map(|instance| &instance.owner));
        successor.give(&inner.guards, owners)
    }

    /// Takes over the guards and the owners of the previous service.
    fn resume(&self, inner: &mut Inner) {
        let kept = std::mem::take(&mut inner.kept);
        // Of others the guard may have been dropped right before the service was killed.
        let wants_guard = |registry: &Registry, lease_id| {
            registry.get(lease_id).is_ok_and(|lease| Obligations::of(Some(lease)).guard)
        };
        inner.guards.take_back(kept, |lease_id| wants_guard(&inner.registry, lease_id));
        for (lease_id, socket) in std::mem::take(&mut inner.claim.guards) {
            // Dropping the socket frees the port of a lease that has ended since.
            if wants_guard(&inner.registry, lease_id) && !inner.guards.contains(lease_id) {
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
            // Leases that are over must be gone before the first request. The rest can wait; ports without a guard come first.
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
            // No heartbeat could be sent while the service was down.
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

    /// Whether changes are possible now: not on a disk that has failed, and not while too many events
    /// wait for the journal.
    fn may_change(&self, changes: &[Change], client: Option<&Client>) -> Result<(), Error> {
        let state = self.state.as_ref().map_err(unusable)?;
        if let Some(reason) = state.writer.progress().broken {
            // Each request retries it.
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

/// Why a state folder that was deleted cannot be made again. Landlock permits it only in folders that have no other business.
fn cannot_be_made(folder: &Path, error: OpenError) -> std::io::Error {
    if !landlock::is_in_force() || folder.exists() {
        return std::io::Error::other(error);
    }
    let folder = folder.display();
    std::io::Error::other(format!(
        "{folder} was removed, and the running service may not make it again: end it (process {}), and the next command \
         starts another one",
        std::process::id()
    ))
}

/// Why a change could not be stored.
fn storage(error: std::io::Error) -> Error {
    Error::storage(&error)
}

/// The error of every request while the state cannot be used.
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
