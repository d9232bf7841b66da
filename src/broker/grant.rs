//! Granting, renewing, releasing, forgetting; and instances.

use std::{
    collections::{HashMap, hash_map::Entry},
    os::fd::OwnedFd,
    sync::Arc,
};

use super::{Broker, Inner, storage};
use crate::{
    change::{Change, Denial},
    error::{Error, ErrorKind},
    kernel::{
        clock, guard, probe,
        process::{Process, Trouble},
    },
    lease::{Client, EndReason, Instance, InstanceId, Lease, LeaseId, Owner},
    owners::{connections, deadlines::Due, units},
    port::{Port, Protocol},
    registry::Choice,
    request::{AllocateRequest, Filter, InstanceRequest, LONGEST_TTL, OwnerRequest},
    service_type::Hold,
    time::Timestamp,
    value::Fields,
};

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
    /// The bound socket, if that was asked for.
    pub socket: Option<OwnedFd>,
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
        if !self.others.is_empty() {
            let all = || std::iter::once(&self.lease).chain(&self.others);
            fields.put("ports", all().map(|lease| lease.port.get()).collect::<Vec<_>>());
            fields.put("lease_ids", all().map(|l| l.lease_id.to_string()).collect::<Vec<_>>());
        }
        fields.put_some("note", self.note.clone());
        match self.outcome {
            Outcome::New => {}
            Outcome::Existing => fields.put("existing", true),
            Outcome::DryRun => {
                fields.0.retain(|(key, _)| !["lease_id", "lease_ids", "block_id"].contains(key));
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

/// An owner, held on to until it is watched.
struct Held {
    owner: Owner,
    pidfd: Option<OwnedFd>,
}

impl Broker {
    /// Grants a port. `connection` is the caller's name on the bus. With `hand_over` the bound socket
    /// is part of the answer.
    pub async fn allocate(
        &self,
        request: &AllocateRequest,
        client: &Client,
        connection: Option<&str>,
        hand_over: bool,
    ) -> Result<Granted, Error> {
        let held = self.hold_on_to(&request.owner, connection).await?;
        let (granted, durable) = self.allocate_now(request, client, held, hand_over)?;
        if let Some(seq) = durable
            && let Err(error) = self.sync.until(seq).await
        {
            let leases = std::iter::once(&granted.lease).chain(&granted.others);
            let ends = leases.map(|lease| Change::end(Arc::clone(lease), EndReason::NotDurable));
            let _ = self.commit(&mut self.lock(), ends.collect(), None);
            return Err(storage(error));
        }
        Ok(granted)
    }

    /// Makes sure that an owner is there, and finds out who it is.
    async fn hold_on_to(
        &self,
        owner: &OwnerRequest,
        connection: Option<&str>,
    ) -> Result<Held, Error> {
        let bus = || {
            self.owners.bus().ok_or_else(|| {
                Error::invalid(
                    "there is no session bus, so no unit and no connection can be an owner",
                )
                .suggest("give a pid, or a ttl")
            })
        };
        let unknown = |error: zbus::Error| Error::invalid(format!("the owner is unknown: {error}"));
        let process = |process: Result<Process, Trouble>| {
            let Process { pid, start, pidfd } = process.map_err(no_owner)?;
            Ok(Held { owner: Owner::Process { pid, start }, pidfd: Some(pidfd) })
        };
        match owner {
            OwnerRequest::None => Ok(Held { owner: Owner::None, pidfd: None }),
            OwnerRequest::Pid(pid) => process(Process::of_pid(*pid)),
            OwnerRequest::Pidfd(pidfd) => {
                process(pidfd.try_clone().map_err(Trouble::Io).and_then(Process::of_pidfd))
            }
            OwnerRequest::Unit(unit) => {
                if !units::is_active(&bus()?, unit).await.map_err(unknown)? {
                    return Err(Error::invalid(format!("the unit {unit} is not active"))
                        .suggest("start it first, or ask from inside it"));
                }
                Ok(Held { owner: Owner::Unit { unit: unit.clone() }, pidfd: None })
            }
            OwnerRequest::Connection => {
                let name = connection.ok_or_else(|| {
                    Error::invalid(
                        "only a caller on the session bus has a connection to own a lease",
                    )
                    .suggest("give a pid, or a ttl")
                })?;
                let bus = connections::bus_id(&bus()?).await.map_err(unknown)?;
                Ok(Held { owner: Owner::Connection { name: name.to_owned(), bus }, pidfd: None })
            }
        }
    }

    /// Grants a port; also gives the change that must be made durable before it is told.
    fn allocate_now(
        &self,
        request: &AllocateRequest,
        client: &Client,
        held: Held,
        hand_over: bool,
    ) -> Result<(Granted, Option<u64>), Error> {
        let mut inner = self.lock();
        let inner = &mut *inner;
        self.usable(inner)?;
        // The bound sockets keep the ports until the lease is stored, and longer as guards.
        let mut sockets: HashMap<Port, Vec<OwnedFd>> = HashMap::new();
        let choice = inner.registry.choose(request, |port| {
            // A port that was tried as a part of another block is bound already.
            if let Entry::Vacant(untried) = sockets.entry(port) {
                untried.insert(probe::probe_all(port, request.protocol)?);
            }
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
        let first = match choice {
            Choice::Existing(lease) => return self.share(inner, lease, request, client),
            Choice::Port(port) => port,
        };
        let (hold, note) = inner.hold(request, hand_over);
        let mut leases = new_leases(inner, request, first, &held.owner, hold);
        let lease = leases.remove(0);
        let mut granted =
            Granted { lease, others: leases, outcome: Outcome::DryRun, note, socket: None };
        if request.dry_run {
            return Ok((granted, None));
        }
        granted.outcome = Outcome::New;
        let key = granted.lease.memory_key();
        let remembered = key.as_ref().and_then(|key| inner.registry.memory().get(key));
        let is_news = key.is_some() && remembered != Some(first);
        let leases = || std::iter::once(&granted.lease).chain(&granted.others);
        let changes = leases().map(|lease| Change::Allocate { lease: Arc::clone(lease) });
        let seq = self.commit(inner, changes.collect(), Some(client))?;
        let now = clock::now();
        for lease in leases() {
            let socket = sockets.remove(&lease.port).and_then(|mut sockets| sockets.pop());
            match (hold, socket) {
                (Hold::Guard, Some(socket)) => inner.guards.insert(lease.lease_id, socket),
                (Hold::Socket, Some(socket)) => granted.socket = Some(socket),
                _ => {}
            }
            self.set_deadline(inner, lease, now);
        }
        if hold == Hold::Guard {
            self.deadlines.add_once(now.plus_seconds(guard::SETTLED_SECONDS), Due::Store);
        }
        self.owners.watch(&held.owner, held.pidfd);
        Ok((granted, is_news.then_some(seq)))
    }

    fn share(
        &self,
        inner: &mut Inner,
        lease: Arc<Lease>,
        request: &AllocateRequest,
        client: &Client,
    ) -> Result<(Granted, Option<u64>), Error> {
        let outcome = if request.dry_run { Outcome::DryRun } else { Outcome::Existing };
        if !request.dry_run {
            let change = Change::Reuse { lease: Arc::clone(&lease) };
            self.commit(inner, vec![change], Some(client))?;
        }
        let granted = Granted { lease, others: Vec::new(), outcome, note: None, socket: None };
        Ok((granted, None))
    }

    /// Begins the time limit of a lease anew; without `ttl`, the one that it has.
    pub fn renew(
        &self,
        lease_id: LeaseId,
        ttl: Option<u64>,
        client: &Client,
    ) -> Result<Arc<Lease>, Error> {
        let mut inner = self.lock();
        let inner = &mut *inner;
        self.usable(inner)?;
        let lease = inner.registry.get(lease_id)?;
        let ttl =
            ttl.or(lease.ttl).filter(|ttl| (1..=LONGEST_TTL).contains(ttl)).ok_or_else(|| {
                Error::invalid(format!(
                    "ttl must be a whole number of seconds from 1 to {LONGEST_TTL}"
                ))
            })?;
        let now = clock::now();
        let deadline = Some(now.plus_seconds(ttl));
        // An orphan lives by its time limit from now on: the owner that it had is gone.
        let owner = if lease.orphaned { Owner::None } else { lease.owner.clone() };
        let orphaned = false;
        let lease = Lease { owner, ttl: Some(ttl), deadline, orphaned, ..(**lease).clone() };
        let lease = Arc::new(lease);
        let change = Change::Renew { lease: Arc::clone(&lease) };
        self.commit(inner, vec![change], Some(client))?;
        self.set_deadline(inner, &lease, now);
        Ok(lease)
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

    /// Releases all leases that the filter means; returns how many.
    pub fn release_matching(&self, filter: Filter, client: &Client) -> Result<u32, Error> {
        let filter = filter.some()?;
        let mut inner = self.lock();
        self.usable(&mut inner)?;
        let leases = inner.registry.list(&filter).into_iter();
        let ends: Vec<_> = leases.map(|lease| Change::end(lease, EndReason::Released)).collect();
        let count = u32::try_from(ends.len()).unwrap_or(u32::MAX);
        self.commit(&mut inner, ends, Some(client))?;
        Ok(count)
    }

    /// Forgets the remembered ports that the filter means; returns how many.
    pub async fn forget(&self, filter: Filter, client: &Client) -> Result<u32, Error> {
        let filter = filter.some()?;
        let (count, seq) = {
            let mut inner = self.lock();
            self.usable(&mut inner)?;
            let remembered = inner.registry.memory().iter();
            let meant = remembered.filter(|(key, port, _)| filter.matches_memory(key, *port));
            let changes: Vec<_> =
                meant.map(|(key, port, _)| Change::Forget { key: (**key).clone(), port }).collect();
            let count = u32::try_from(changes.len()).unwrap_or(u32::MAX);
            (count, self.commit(&mut inner, changes, Some(client))?)
        };
        if count > 0 {
            self.sync.until(seq).await.map_err(storage)?;
        }
        Ok(count)
    }

    /// Makes an instance known, or known anew.
    pub async fn register_instance(
        &self,
        request: &InstanceRequest,
        client: &Client,
    ) -> Result<Arc<Instance>, Error> {
        let held = self.hold_on_to(&request.owner, None).await?;
        let instance = Arc::new(Instance {
            instance_id: request.instance_id.clone(),
            owner: held.owner,
            heartbeat: request.heartbeat,
            since: Timestamp::now(),
        });
        let mut inner = self.lock();
        let inner = &mut *inner;
        self.usable(inner)?;
        let before = inner.registry.instance(&instance.instance_id).map(Arc::clone);
        let change = Change::RegisterInstance { instance: Arc::clone(&instance) };
        self.commit(inner, vec![change], Some(client))?;
        if let Ok(before) = before {
            self.let_go_of_owner(inner, &before.owner);
        }
        inner.heartbeats.remove(&instance.instance_id);
        self.beat(inner, &instance);
        self.owners.watch(&instance.owner, held.pidfd);
        Ok(instance)
    }

    /// Notes that an instance is alive.
    pub fn heartbeat(&self, instance_id: &InstanceId) -> Result<(), Error> {
        let mut inner = self.lock();
        self.usable(&mut inner)?;
        let instance = Arc::clone(inner.registry.instance(instance_id)?);
        self.beat(&mut inner, &instance);
        Ok(())
    }

    fn beat(&self, inner: &mut Inner, instance: &Instance) {
        let Some(heartbeat) = instance.heartbeat else { return };
        let next = clock::now().plus_seconds(heartbeat);
        // One deadline is on its way; when it comes, it sees the newest heartbeat.
        if inner.heartbeats.insert(instance.instance_id.clone(), next).is_none() {
            self.deadlines.add(next, Due::Instance(instance.instance_id.clone()));
        }
    }
}

impl Inner {
    /// How the ports of a request are held, and what to say of it.
    fn hold(&self, request: &AllocateRequest, hand_over: bool) -> (Hold, Option<String>) {
        if hand_over {
            return (Hold::Socket, None);
        }
        let service_type = self.registry.rules().types.0.get(&request.service_type);
        let wanted = request.hold.or(service_type.map(|t| t.hold)).unwrap_or_default();
        // UDP has no socket that is bound and lets another in.
        if wanted != Hold::Guard || request.protocol == Protocol::Udp {
            return (Hold::None, None);
        }
        let most = self.most_guards.min(self.config.most_guards);
        if self.guards.len() + usize::from(request.count) > most {
            let note = format!("the port is not guarded: the limit of {most} guards is reached");
            return (Hold::None, Some(note));
        }
        (Hold::Guard, None)
    }
}

fn new_leases(
    inner: &Inner,
    request: &AllocateRequest,
    first: Port,
    owner: &Owner,
    hold: Hold,
) -> Vec<Arc<Lease>> {
    let first_id = LeaseId::random();
    let now = clock::now();
    (0..request.count)
        .filter_map(|offset| first.plus(offset))
        .map(|port| {
            Arc::new(Lease {
                lease_id: if port == first { first_id } else { LeaseId::random() },
                port,
                protocol: request.protocol,
                service_type: request.service_type.clone(),
                service_name: request.service_name.clone(),
                instance_id: request.instance_id.clone(),
                project_path: request.project_path.clone(),
                owner: owner.clone(),
                hold,
                ttl: request.ttl,
                deadline: request.ttl.map(|ttl| now.plus_seconds(ttl)),
                orphaned: false,
                block_id: (request.count > 1).then_some(first_id),
                singleton: inner.registry.is_singleton(&request.service_type),
                since: Timestamp::now(),
            })
        })
        .collect()
}

fn no_owner(trouble: Trouble) -> Error {
    match trouble {
        Trouble::Gone => Error::invalid("the owner is no live process")
            .suggest("give the PID of a process that runs now, as the service sees it"),
        Trouble::Foreign(_) => Error::invalid("the owner is another user's process"),
        Trouble::Io(error) => {
            Error::new(ErrorKind::LimitExceeded, format!("the owner cannot be watched: {error}"))
        }
    }
}
