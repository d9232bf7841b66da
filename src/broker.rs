//! The one path that every change takes: check → registry → kernel → state → audit → signal. Doors
//! call it and translate its answers; nothing else changes anything.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use tokio::sync::{mpsc, watch};

use crate::{
    activity::Activity,
    audit::{Outbox, Sink, outbox},
    change::{Change, Denial, Record},
    config::{Config, Problem},
    error::Error,
    kernel::{listeners, probe, process},
    lease::{Client, EndReason, Lease, LeaseId, Timestamp},
    port::{Port, Protocol},
    registry::{Choice, Obstacle, Registry},
    request::{AllocateRequest, Filter},
    service_type::ServiceTypeName,
    state::{Store, store::OpenError, sync::Sync},
    value::Fields,
};

/// Where things are. All of it comes from the daemon, so that tests can have several services.
#[derive(Clone, Debug)]
pub struct Places {
    /// The state folder.
    pub state: PathBuf,
    /// The folders of the configuration, in the order in which they count.
    pub config: Vec<PathBuf>,
}

/// The service, behind its doors.
#[derive(Debug)]
pub struct Broker {
    places: Places,
    boot_id: String,
    /// A std mutex, because nothing awaits while it is held, and it is held for microseconds.
    inner: Mutex<Inner>,
    sync: Sync,
    activity: Activity,
    this: Weak<Self>,
}

#[derive(Debug)]
struct Inner {
    registry: Registry,
    config: Config,
    problems: Vec<Problem>,
    /// The state, or why it cannot be used; then every change is refused and opening is tried again.
    state: Result<State, String>,
    signals: Option<mpsc::UnboundedSender<Record>>,
}

#[derive(Debug)]
struct State {
    store: Store,
    outbox: Outbox,
    /// Which generation of the log the audit reads.
    audit_generation: u64,
    compacting: bool,
}

/// A port that was granted, or would be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Granted {
    /// The lease.
    pub lease: Arc<Lease>,
    /// How it came about.
    pub outcome: Outcome,
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
    /// The answer as every door shows it.
    pub fn fields(&self) -> Fields {
        let mut fields = self.lease.fields();
        match self.outcome {
            Outcome::New => {}
            Outcome::Existing => fields.put("existing", true),
            Outcome::DryRun => {
                fields.0.retain(|(key, _)| *key != "lease_id");
                fields.put("dry_run", true);
            }
        }
        fields
    }

    /// The id of the lease; empty for a dry run, which makes none.
    pub fn lease_id(&self) -> String {
        match self.outcome {
            Outcome::DryRun => String::new(),
            Outcome::New | Outcome::Existing => self.lease.lease_id.to_string(),
        }
    }
}

impl Broker {
    /// A service on these places. Fails only if another service has the state folder; a folder that
    /// cannot be used is tried again at each request.
    pub fn start(places: Places) -> Result<Arc<Self>, OpenError> {
        let (config, problems) = Config::load(&places.config);
        let broker = Arc::new_cyclic(|this| Self {
            boot_id: process::boot_id(),
            inner: Mutex::new(Inner {
                registry: Registry::new(config.rules()),
                config,
                problems,
                state: Err("it was not opened yet".to_owned()),
                signals: None,
            }),
            places,
            sync: Sync::default(),
            activity: Activity::default(),
            this: Weak::clone(this),
        });
        match broker.open(&mut broker.lock()) {
            Err(error @ OpenError::Locked(_)) => return Err(error),
            // It is told to whoever asks for a change.
            Err(OpenError::Io(..)) | Ok(()) => {}
        }
        Ok(broker)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens the state, tells what was damaged, and ends the leases of an earlier boot.
    fn open(&self, inner: &mut Inner) -> Result<(), OpenError> {
        let mut registry = Registry::new(inner.config.rules());
        let opened = Store::open(&self.places.state, &self.boot_id, &mut registry);
        let opened = opened.inspect_err(|error| inner.state = Err(error.to_string()))?;
        let start = outbox::Start {
            folder: self.places.state.clone(),
            state_id: opened.store.state_id().to_owned(),
            confirmed: opened.store.confirmed(),
            seq: opened.store.seq(),
        };
        let this = Weak::clone(&self.this);
        let outbox = Outbox::start(start, Sink::open(), move |done, generation| {
            if let Some(broker) = this.upgrade() {
                broker.audited(done, generation);
            }
        });
        let io = |error| OpenError::Io(self.places.state.clone(), error);
        let outbox = outbox.map_err(io)?;
        inner.registry = registry;
        inner.state =
            Ok(State { store: opened.store, outbox, audit_generation: 0, compacting: false });
        let mut changes: Vec<_> =
            opened.damage.into_iter().map(|reason| Change::Recover { reason }).collect();
        let problems = inner.problems.iter().map(ToString::to_string);
        changes.extend(problems.map(|reason| Change::ConfigError { reason }));
        if opened.other_boot {
            let void = inner.registry.list(&Filter::default()).into_iter();
            changes.extend(void.map(|lease| Change::end(lease, EndReason::NewBoot)));
        }
        let told = self.commit(inner, changes, None).and_then(|_| match &mut inner.state {
            Ok(state) if opened.other_boot => state.store.mark_boot().map_err(storage),
            _ => Ok(()),
        });
        self.activity.touch(inner.registry.len());
        // Leases of another boot must not live on because their end could not be stored.
        told.map_err(|error| {
            inner.state = Err(error.message.clone());
            io(std::io::Error::other(error.message))
        })
    }

    /// Makes changes: stored first, then in force, then told. All of them or none.
    fn commit(
        &self,
        inner: &mut Inner,
        changes: Vec<Change>,
        client: Option<&Client>,
    ) -> Result<u64, Error> {
        let state = inner.state.as_mut().map_err(|reason| Error::storage(reason))?;
        let first = state.store.seq() + 1;
        let records: Vec<_> = (first..)
            .zip(changes)
            .map(|(seq, change)| Record {
                seq,
                at: Timestamp::now(),
                client: client.cloned(),
                change,
            })
            .collect();
        if records.is_empty() {
            return Ok(state.store.seq());
        }
        state.store.append(&records).map_err(storage)?;
        let seq = state.store.seq();
        self.sync.soon(&state.store.log(), seq);
        state.outbox.appended(seq);
        for record in records {
            inner.registry.apply(record.seq, &record.change);
            if let Some(signals) = &inner.signals {
                // Nobody listens any more when the bus is gone, and that is fine.
                let _ = signals.send(record);
            }
        }
        self.activity.touch(inner.registry.len());
        self.compact_if_due(inner);
        Ok(seq)
    }

    /// Begins a new log when the present one is long, and has the snapshot written in the background.
    fn compact_if_due(&self, inner: &mut Inner) {
        let Ok(state) = &mut inner.state else { return };
        if state.compacting || !state.store.wants_compaction() {
            return;
        }
        // Without space for it, the long log serves on.
        let Ok((snapshot, _)) = state.store.rotate(&inner.registry) else { return };
        state.compacting = true;
        let this = Weak::clone(&self.this);
        tokio::task::spawn_blocking(move || {
            let written = snapshot.write();
            let Some(broker) = this.upgrade() else { return };
            if let Ok(state) = &mut broker.lock().state {
                state.compacting = false;
                if let Ok(length) = written {
                    state.store.compacted(snapshot.generation, length);
                    let _ = state.store.prune(state.audit_generation);
                }
            }
        });
    }

    /// Notes how far the audit has come.
    fn audited(&self, done: u64, generation: u64) {
        if let Ok(state) = &mut self.lock().state {
            // If the note is lost, the journal is read back once more at the next start.
            let _ = state.store.mark_confirmed(done);
            if generation != state.audit_generation {
                state.audit_generation = generation;
                let _ = state.store.prune(generation);
            }
        }
    }

    /// Opens the state again if it could not be used.
    fn usable(&self, inner: &mut Inner) -> Result<(), Error> {
        match &inner.state {
            Ok(_) => Ok(()),
            Err(_) => self.open(inner).map_err(|error| Error::storage(&error)),
        }
    }

    /// Grants a port.
    pub async fn allocate(
        &self,
        request: &AllocateRequest,
        client: &Client,
    ) -> Result<Granted, Error> {
        let (granted, durable) = self.allocate_now(request, client)?;
        if let Some(seq) = durable
            && let Err(error) = self.sync.until(seq).await
        {
            let end = Change::end(Arc::clone(&granted.lease), EndReason::NotDurable);
            let _ = self.commit(&mut self.lock(), vec![end], None);
            return Err(storage(error));
        }
        Ok(granted)
    }

    /// Grants a port; also gives the change that must be made durable before it is told.
    fn allocate_now(
        &self,
        request: &AllocateRequest,
        client: &Client,
    ) -> Result<(Granted, Option<u64>), Error> {
        let mut inner = self.lock();
        let inner = &mut *inner;
        self.usable(inner)?;
        // The bound socket keeps the port until the lease is stored.
        let mut held = None;
        let choice = inner.registry.choose(request, |port| {
            held = Some(probe::probe(port, request.protocol)?);
            Ok(())
        });
        let choice = match choice {
            Ok(choice) => choice,
            Err(error) => {
                if !request.dry_run {
                    let denial = Change::Deny(Denial::new(request, &error));
                    // The refusal stands whether or not it can be stored.
                    let _ = self.commit(inner, vec![denial], Some(client));
                }
                return Err(error);
            }
        };
        let (lease, outcome) = match choice {
            Choice::Existing(lease) => (lease, Outcome::Existing),
            Choice::Port(port) => (Arc::new(new_lease(request, port, inner)), Outcome::New),
        };
        if request.dry_run {
            return Ok((Granted { lease, outcome: Outcome::DryRun }, None));
        }
        let key = lease.memory_key();
        let remembered = key.and_then(|key| inner.registry.memory().get(&key));
        let is_news = outcome == Outcome::New
            && lease.project_path.is_some()
            && remembered != Some(lease.port);
        let change = match outcome {
            Outcome::Existing => Change::Reuse { lease: Arc::clone(&lease) },
            _ => Change::Allocate { lease: Arc::clone(&lease) },
        };
        let seq = self.commit(inner, vec![change], Some(client))?;
        Ok((Granted { lease, outcome }, is_news.then_some(seq)))
    }

    /// Releases a lease; returns it as it was.
    pub fn release(&self, lease_id: LeaseId, client: &Client) -> Result<Arc<Lease>, Error> {
        let mut inner = self.lock();
        self.usable(&mut inner)?;
        let lease = Arc::clone(inner.registry.get(lease_id)?);
        let change = Change::end(Arc::clone(&lease), EndReason::Released);
        self.commit(&mut inner, vec![change], Some(client))?;
        Ok(lease)
    }

    /// The live leases that the filter means, each with its state at this moment.
    pub fn list(&self, filter: &Filter) -> Result<Vec<Fields>, Error> {
        let leases = {
            let mut inner = self.lock();
            self.usable(&mut inner)?;
            inner.registry.list(filter)
        };
        if leases.is_empty() {
            return Ok(Vec::new());
        }
        let (tcp, udp) = (listeners::listened(Protocol::Tcp), listeners::listened(Protocol::Udp));
        let fields = leases.iter().map(|lease| {
            let listened = match lease.protocol {
                Protocol::Tcp => tcp.contains(lease.port),
                Protocol::Udp => udp.contains(lease.port),
            };
            let mut fields = lease.fields();
            fields.put("state", if listened { "listening" } else { "reserved" });
            fields
        });
        Ok(fields.collect())
    }

    /// Whether a port could be had now, and why not.
    pub fn check(&self, port: Port, protocol: Protocol) -> Result<Fields, Error> {
        let obstacle = {
            let mut inner = self.lock();
            self.usable(&mut inner)?;
            let probe = |port| probe::probe(port, protocol).map(drop);
            inner.registry.asked(port, protocol, probe).err()
        };
        let mut fields = Fields::default();
        fields.put("port", port.get());
        fields.put("protocol", protocol.as_str());
        fields.put("available", obstacle.is_none());
        match &obstacle {
            None => {
                fields.put("reason", "free");
                fields.put("message", format!("{protocol} port {port} is free"));
            }
            Some(obstacle) => {
                fields.put("reason", obstacle.as_str());
                fields.put("message", obstacle.describe(port, protocol));
            }
        }
        fields.put("listening", listeners::listened(protocol).contains(port));
        if let Some(Obstacle::Leased(lease)) = &obstacle {
            fields.put("lease", lease.fields());
        }
        Ok(fields)
    }

    /// Reads the configuration anew; returns what is wrong with it.
    pub fn reload(&self, client: Option<&Client>) -> Result<Vec<String>, Error> {
        let (config, problems) = Config::load(&self.places.config);
        let mut inner = self.lock();
        let inner = &mut *inner;
        self.usable(inner)?;
        let mut changes = Vec::new();
        if config != inner.config {
            let missing = |from: &Config, of: &Config| -> Vec<ServiceTypeName> {
                let names = of.types.0.keys();
                names.filter(|name| !from.types.0.contains_key(*name)).cloned().collect()
            };
            changes.push(Change::ConfigReload {
                added: missing(&inner.config, &config),
                removed: missing(&config, &inner.config),
            });
        }
        let news = problems.iter().filter(|problem| !inner.problems.contains(problem));
        changes.extend(news.map(|problem| Change::ConfigError { reason: problem.to_string() }));
        self.commit(inner, changes, client)?;
        inner.registry.set_rules(config.rules());
        inner.config = config;
        inner.problems = problems;
        Ok(inner.problems.iter().map(ToString::to_string).collect())
    }

    /// How the service is doing.
    pub fn status(&self) -> Fields {
        let inner = self.lock();
        let mut fields = Fields::default();
        fields.put("version", env!("CARGO_PKG_VERSION"));
        fields.put("pid", std::process::id());
        fields.put("leases", count(inner.registry.len()));
        fields.put("remembered_ports", count(inner.registry.memory().len()));
        fields.put("service_types", count(inner.config.types.0.len()));
        match &inner.state {
            Ok(state) => {
                let audit = state.outbox.status();
                fields.put("seq", state.store.seq());
                fields.put("audit_pending", state.store.seq() - audit.done);
                fields.put("audit_confirmed", audit.confirming);
                if !audit.confirming {
                    fields.put(
                        "audit_note",
                        "this user cannot read the journal, so events are sent slowly instead of being confirmed",
                    );
                }
            }
            Err(reason) => fields.put("state_problem", reason.as_str()),
        }
        fields.put(
            "config_problems",
            inner.problems.iter().map(ToString::to_string).collect::<Vec<_>>(),
        );
        fields.put("idle_exit_seconds", inner.config.idle_exit.as_secs());
        fields
    }

    /// How many leases are live.
    pub fn lease_count(&self) -> u32 {
        count(self.lock().registry.len())
    }

    /// How many things somebody should look at.
    pub fn problem_count(&self) -> usize {
        let inner = self.lock();
        inner.problems.len() + usize::from(inner.state.is_err())
    }

    /// The configuration in force.
    pub fn config(&self) -> Config {
        self.lock().config.clone()
    }

    /// Every change from now on, for the door that tells them.
    pub fn subscribe(&self) -> mpsc::UnboundedReceiver<Record> {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.lock().signals = Some(sender);
        receiver
    }

    /// Ends the stream of changes.
    pub fn unsubscribe(&self) {
        self.lock().signals = None;
    }

    /// What the service is busy with.
    pub fn activity(&self) -> &Activity {
        &self.activity
    }

    /// How the audit is doing, to wait for; `None` while the state cannot be used.
    pub fn audit(&self) -> Option<(u64, watch::Receiver<outbox::Status>)> {
        let inner = self.lock();
        let state = inner.state.as_ref().ok()?;
        Some((state.store.seq(), state.outbox.watch()))
    }

    /// Makes changes durable, for ever.
    pub async fn run_sync(&self) {
        self.sync.run().await;
    }

    /// Makes all changes so far durable.
    pub async fn sync_now(&self) {
        self.sync.now().await;
    }
}

fn new_lease(request: &AllocateRequest, port: Port, inner: &Inner) -> Lease {
    Lease {
        lease_id: LeaseId::random(),
        port,
        protocol: request.protocol,
        service_type: request.service_type.clone(),
        service_name: request.service_name.clone(),
        instance_id: request.instance_id.clone(),
        project_path: request.project_path.clone(),
        singleton: inner.registry.is_singleton(&request.service_type),
        since: Timestamp::now(),
    }
}

fn storage(error: std::io::Error) -> Error {
    Error::storage(&error)
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
