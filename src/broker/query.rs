//! What can be asked without changing anything.

use std::{collections::HashMap, sync::Arc, time::Duration};

use super::{
    Broker, Inner, State, backlog,
    ending::{Listened, is_taken},
    search::{Search, look},
};
use crate::{
    auto_allocation::Placement,
    change::Change,
    config::{self, Origin},
    error::Error,
    kernel::{
        diag::{self, Seen},
        landlock, manager, process, program, sandbox,
    },
    lease::{EndReason, Instance, Lease, Owner, ServiceName, Use},
    obstacle::Obstacle,
    port::{Port, PortRange, Protocol},
    registry::{Choice, Reason, Remembered},
    request::{AllocateRequest, Listing, LookupRequest, MemoryListing},
    service_type::{Claims, Created, ServiceType},
    surroundings::bus,
    time::Timestamp,
    value::Fields,
};

impl Broker {
    /// The live leases that are meant, by port, each with its state at this moment.
    pub fn list(&self, listing: &Listing) -> Result<Vec<Fields>, Error> {
        let leases = {
            let mut inner = self.lock();
            self.usable(&mut inner)?;
            listing.page(inner.registry.list(&listing.filter))
        };
        if leases.is_empty() {
            return Ok(Vec::new());
        }
        Ok(listed(&leases))
    }

    /// The lease of a service, as it is listed.
    pub fn look_up(&self, wanted: &LookupRequest) -> Result<Fields, Error> {
        let mut inner = self.lock();
        self.usable(&mut inner)?;
        loop {
            let is_listened =
                |lease: &Lease| diag::has_listener(lease.port, lease.protocol).unwrap_or(false);
            let lease = inner.registry.look_up(wanted, is_listened)?;
            let end = || vec![Change::end(Arc::clone(&lease), EndReason::Taken)];
            if !is_taken(&lease) || self.commit(&mut inner, end(), None).is_err() {
                drop(inner);
                return Ok(listed(&[lease]).remove(0));
            }
        }
    }

    /// The remembered ports that are meant, those that were granted last first.
    pub fn remembered(&self, listing: &MemoryListing) -> Result<Vec<Fields>, Error> {
        let now = Timestamp::now();
        let remembered = {
            let mut inner = self.lock();
            self.usable(&mut inner)?;
            let types = &inner.registry.rules().types.0;
            let newest = inner.registry.remembered(&listing.filter).map(|(key, known)| {
                let claims = types.get(&key.service_type).map(|known| known.claims);
                let lease = inner.registry.at(known.port, key.protocol);
                let is_its = |lease: &&Arc<Lease>| lease.memory_key().as_ref() == Some(&**key);
                let is_in_use = lease.filter(is_its).is_some_and(|lease| lease.is_in_use(now));
                let used = if is_in_use { Some(now) } else { known.used };
                (Arc::clone(key), Remembered { used, ..known.clone() }, claims)
            });
            listing.page(newest, |(_, known, _)| known.age)
        };
        let fields = remembered.into_iter().map(|(key, known, claims)| {
            let mut fields = key.fields();
            fields.put("port", known.port.get());
            fields.put("seq", known.age);
            fields.put_some("program", known.program.as_ref().map(ServiceName::as_str));
            fields.put_some("last_used", known.used.map(|at| at.to_string()));
            fields.put_some("claims", claims.map(Claims::as_str));
            fields
        });
        Ok(fields.collect())
    }

    /// Whether a port could be had now, and why not.
    pub fn check(&self, port: Port, protocol: Protocol) -> Result<Fields, Error> {
        let mut seen = None;
        let obstacle = {
            let mut inner = self.lock();
            self.usable(&mut inner)?;
            // The kernel is asked while the state is locked: what is in use without a lease has none now, either.
            let asked = inner.registry.asked(port, protocol, |port| {
                let now = Seen::of(protocol, PortRange::only(port)).map_err(Obstacle::Shortage)?;
                look(seen.insert(now), port, &inner.guards)
            });
            asked.err()
        };
        if let Some(Obstacle::Shortage(shortage)) = obstacle {
            return Err(shortage.into());
        }
        let listening = match seen {
            Some(seen) => Some(seen.is_listened(port)),
            None => diag::has_listener(port, protocol).ok(),
        };
        let mut fields = Fields::default();
        fields.put("port", port.get());
        fields.put("protocol", protocol.as_str());
        fields.put("available", obstacle.is_none());
        match &obstacle {
            None => {
                fields.put("reason", "free");
                fields.put("message", format!("{} port {port} is free", protocol.in_words()));
            }
            Some(obstacle) => {
                fields.put("reason", obstacle.as_str());
                fields.put("message", obstacle.describe(port, protocol));
            }
        }
        fields.put_some("listening", listening);
        match &obstacle {
            Some(Obstacle::Leased(lease)) => {
                let mut lease_fields = shown(lease);
                let is_its = listening.map(|is_listened| is_listened && !is_taken(lease));
                lease_fields.put("state", state(lease, is_its));
                fields.put("lease", lease_fields);
            }
            Some(Obstacle::InUse(by)) => fields.put("in_use_by", by.as_str()),
            _ => {}
        }
        Ok(fields)
    }

    /// The ports that the next requests of this kind would get, best first; as many as it counts. Fewer, if
    /// there are no more.
    pub fn suggest(&self, request: &AllocateRequest) -> Result<Vec<Suggestion>, Error> {
        self.sight.check(request.config_seen.as_deref())?;
        let mut inner = self.lock();
        self.usable(&mut inner)?;
        let most = usize::from(request.count);
        let request = AllocateRequest { count: 1, ..request.clone() };
        let rules = inner.registry.rules();
        let known = rules.types.0.get(&request.service_type);
        let mut plan = if known.is_none() { Some(inner.plan(&request)?) } else { None };
        let Some(mut service_type) = known.or(plan.as_ref().map(|plan| &plan.service_type)) else {
            return Ok(Vec::new());
        };
        let request = inner.registry.completed(&request, service_type)?;
        let claim = inner.registry.claim(&request, service_type).map(Arc::clone);
        let shared = inner.registry.mapped(&request)?.map(Arc::clone).or(claim);
        if let Some(lease) = shared.or_else(|| inner.registry.existing(&request, service_type)) {
            let held = Some(lease.describe_holder());
            return Ok(vec![Suggestion { port: lease.port, reason: Reason::Existing, held }]);
        }
        let template = request.template_port(service_type, &rules.templates)?;
        let seen = Seen::of(request.protocol(), PortRange::ALL)?;
        let next = |service_type: &ServiceType| -> Vec<_> {
            let candidates = inner.registry.candidates(&request, service_type, template);
            let free = candidates
                .filter(|(port, _)| look(&seen, *port, &inner.guards).is_ok())
                .map(|(port, reason)| Suggestion { port, reason, held: None });
            free.take(most).collect()
        };
        let mut suggestions = next(service_type);
        // What a request would get, or the words of its refusal.
        let request = AllocateRequest { dry_run: true, ..request.clone() };
        let chosen = |service_type: &ServiceType| {
            inner.choose(&request, service_type, &mut Search::looking())
        };
        // Worktrees of one project ask for the same ports: what one has had is left to it.
        if let Some(port) = request.port
            && !inner.registry.is_remembered_by_another(&request, port)
            && chosen(service_type).is_ok_and(|choice| choice == Choice::Port(port))
        {
            suggestions.retain(|other| other.port != port);
            suggestions.insert(0, Suggestion { port, reason: Reason::Asked, held: None });
            suggestions.truncate(most);
        }
        if suggestions.is_empty() && known.is_some() {
            suggestions.extend(match chosen(service_type) {
                Ok(Choice::Port(port)) => {
                    Some(Suggestion { port, reason: Reason::GivesWay, held: None })
                }
                _ => None,
            });
        }
        if suggestions.is_empty() && service_type.created.is_some() && known.is_some() {
            service_type = &plan.insert(inner.plan(&request)?).service_type;
            suggestions = next(service_type);
        }
        if suggestions.is_empty() {
            chosen(service_type)?;
        }
        Ok(suggestions)
    }

    /// Every service type, with how much of it is used.
    pub fn service_types(&self) -> Result<Vec<Fields>, Error> {
        let listened = Listened::now();
        let mut inner = self.lock();
        self.usable(&mut inner)?;
        let types = inner.registry.rules().types.0.iter();
        Ok(types
            .map(|(name, service_type)| {
                let mut fields = service_type.fields(name);
                let origin = inner.origins.get(&format!("service_types.{name}.port_range"));
                fields.put("made_by", made_by(service_type, origin));
                inner.usage([service_type].into_iter(), &listened).put(&mut fields);
                fields
            })
            .collect())
    }

    /// The configuration in force, as JSON; with origins, the file that each value comes from.
    pub fn configuration(&self, origins: bool) -> serde_json::Value {
        let inner = self.lock();
        config::show(&inner.config, origins.then_some(&*inner.origins))
    }

    /// Whether unknown types get a range.
    pub fn auto_allocation(&self) -> bool {
        self.lock().config.auto.enabled
    }

    /// The registered instances.
    pub fn instances(&self) -> Result<Vec<Fields>, Error> {
        let mut inner = self.lock();
        self.usable(&mut inner)?;
        let instances = inner.registry.instances();
        Ok(instances.iter().map(|instance| Instance::fields(instance)).collect())
    }

    /// Makes room for another service of the same state, if that will be another program; whether it does. Where
    /// systemd has started this one, that is so when the installed program was replaced; else whoever asks
    /// starts one. A unit without a bus makes room, too, unless the user wants that: its sandbox shows it none
    /// that came later.
    pub fn restart(&self) -> bool {
        let makes_room = !manager::started_this_process()
            || program::is_replaced()
            || self.owners.is_without_bus() && !bus::is_disabled();
        if makes_room {
            self.idle_tracker.make_room();
        }
        makes_room
    }

    /// How the service is doing.
    pub fn status(&self) -> Fields {
        self.status_beside(&Listened::now())
    }

    /// The same, where the kernel has been asked who listens.
    pub(super) fn status_beside(&self, listened: &Listened) -> Fields {
        let inner = self.lock();
        let mut fields = Fields::default();
        fields.put("version", env!("CARGO_PKG_VERSION"));
        fields.put("pid", std::process::id());
        fields.put("on_bus", !self.owners.is_without_bus());
        fields.put("leases", count(inner.registry.len()));
        fields.put("guards", count(inner.guards.len()));
        fields.put("guards_limit", count(inner.max_guards.min(inner.config.max_guards)));
        fields.put("remembered_ports", count(inner.registry.memory().len()));
        let types = &inner.config.types.0;
        fields.put("service_types", count(types.len()));
        let automatic = types.values().filter(|t| t.created.is_some()).count();
        fields.put("automatic_types", count(automatic));
        fields.put("auto_allocation", inner.config.auto.enabled);
        inner.usage(types.values(), listened).put(&mut fields);
        match &inner.state {
            Ok(state) => {
                let audit = state.outbox.status();
                fields.put("seq", state.store.seq());
                fields.put("audit_pending", state.store.seq().saturating_sub(audit.done));
                let note = audit.arrival.note(self.log.as_deref());
                fields.put("audit_confirmed", note.is_none());
                fields.put_some("audit_note", note);
                fields.put_some("audit_remedy", backlog::remedy(audit.arrival));
                let broken = state.writer.progress().broken.map(|error| error.to_string());
                let refused = inner.refusal.as_ref();
                let refused =
                    refused.map(|why| format!("the last change could not be stored: {why}"));
                fields.put_some("state_problem", broken.or(refused));
            }
            Err(reason) => fields.put("state_problem", reason.to_string()),
        }
        fields.put(
            "config_problems",
            inner.problems.iter().map(ToString::to_string).collect::<Vec<_>>(),
        );
        fields.put("idle_exit_seconds", inner.config.idle_exit.as_secs());
        fields.put_some("token", inner.registry.token().map(|token| token.fingerprint()));
        drop(inner);
        fields.put("private", !self.sight.is_unit);
        let layers = sandbox::layers(&self.own);
        fields.put("sandbox", layers.iter().map(|l| l.as_str().to_owned()).collect::<Vec<_>>());
        if let Some(landlock) = landlock::in_force() {
            fields.put("landlock", landlock.strength.as_str().to_owned());
            fields.put_some("landlock_note", landlock.note.clone());
        }
        self.sight.tell(&mut fields);
        fields
    }

    /// How long this service has run.
    pub fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// The range that the port of a lease is in and how that found its place, if the type is an automatic one.
    pub fn automatic_range(&self, lease: &Lease) -> Option<(PortRange, Placement)> {
        let inner = self.lock();
        let service_type = inner.registry.rules().types.0.get(&lease.service_type)?;
        let placement = service_type.created.as_ref()?.placement;
        let range = service_type.ranges().find(|range| range.contains(lease.port))?;
        Some((range, placement))
    }

    /// How many leases are live.
    pub fn lease_count(&self) -> u32 {
        count(self.lock().registry.len())
    }

    /// Whether a lease is live that needs a service: a claim that nobody has used for long does not.
    pub fn is_needed(&self) -> bool {
        self.lock().registry.running_for() > 0
    }

    /// How many things somebody should look at.
    pub fn problem_count(&self) -> usize {
        let inner = self.lock();
        let is_bad = |state: &State| state.writer.progress().broken.is_some();
        inner.problems.len() + usize::from(inner.state.as_ref().map_or(true, is_bad))
    }

    /// How long without a lease and without a client until the service ends; zero for never.
    pub fn idle_exit(&self) -> Duration {
        self.lock().config.idle_exit
    }
}

/// Leases, each with what can be seen of it at this moment.
fn listed(leases: &[Arc<Lease>]) -> Vec<Fields> {
    let listened = Listened::default();
    let mut comms = HashMap::new();
    let fields = leases.iter().map(|lease| {
        let (owner, mut fields) = (owner(lease), shown(lease));
        if let (Owner::Process { pid, .. }, false) = (owner, lease.orphaned) {
            let comm = comms.entry(*pid).or_insert_with(|| process::comm(*pid));
            fields.put_some("comm", comm.as_deref());
        }
        fields.put("state", state_now(lease, &listened));
        fields
    });
    fields.collect()
}

/// Who is shown as the owner: of a claim, whoever uses it says more than that it was asked for.
fn owner(lease: &Lease) -> &Owner {
    lease.owners().next().unwrap_or(&lease.owner)
}

/// A lease as it is shown.
fn shown(lease: &Lease) -> Fields {
    Lease { owner: owner(lease).clone(), ..lease.clone() }.fields()
}

/// The word for how far a lease has come; `None` where it cannot be found out whether something listens.
fn state(lease: &Lease, is_listened_on: Option<bool>) -> &'static str {
    match (lease.orphaned, is_listened_on) {
        // It is one because something listened when it was last seen.
        (true, Some(true) | None) => "orphaned",
        (false, Some(true)) => "listening",
        (_, Some(false)) if lease.claim && lease.used != Use::Once && !lease.is_owned() => {
            "claimed"
        }
        (_, Some(false)) => "reserved",
        (false, None) => "unknown",
    }
}

/// The same at this moment.
pub(super) fn state_now(lease: &Lease, listened: &Listened) -> &'static str {
    let is_listened = |listened: &Listened| listened.contains(lease) && !is_taken(lease);
    state(lease, listened.known().map(is_listened))
}

/// A port that the next request would get.
#[derive(Clone, Debug)]
pub struct Suggestion {
    /// The port.
    pub port: Port,
    /// Why it is the next.
    pub reason: Reason,
    /// Who has it already, if the service runs once.
    held: Option<String>,
}

impl Suggestion {
    /// The suggestion as every door shows it.
    pub fn fields(&self) -> Fields {
        let mut fields = Fields::default();
        fields.put("port", self.port.get());
        fields.put("reason", self.reason.as_str());
        fields.put("message", self.reason.describe());
        fields.put_some("held", self.held.clone());
        fields
    }
}

/// How much of some ranges is used.
#[derive(Default)]
struct Usage {
    total: usize,
    leased: usize,
    /// These are not known where the kernel does not tell who listens.
    listening: Option<usize>,
    free: Option<usize>,
}

impl Usage {
    fn put(&self, fields: &mut Fields) {
        fields.put("ports", count(self.total));
        fields.put("leased", count(self.leased));
        fields.put_some("listening", self.listening.map(count));
        fields.put_some("free", self.free.map(count));
    }
}

impl Inner {
    fn usage<'a>(
        &self,
        types: impl Iterator<Item = &'a ServiceType>,
        listened: &Listened,
    ) -> Usage {
        let mut usage = Usage::default();
        let (mut listening, mut free) = (0, 0);
        for service_type in types {
            for port in service_type.ranges().flat_map(PortRange::ports) {
                let leased = self.registry.at(port, Protocol::Both).is_some();
                let is_listened_on = listened.any(port);
                let excluded = self.registry.rules().excluded.contains(port);
                usage.total += 1;
                usage.leased += usize::from(leased);
                listening += usize::from(is_listened_on);
                free += usize::from(!leased && !is_listened_on && !excluded);
            }
        }
        if listened.known().is_some() {
            (usage.listening, usage.free) = (Some(listening), Some(free));
        }
        usage
    }
}

/// Who made a type, for people.
fn made_by(service_type: &ServiceType, origin: Option<&Origin>) -> String {
    match (&service_type.created, origin) {
        (Some(Created { at, by: Some(by), .. }), _) => format!("automatic, for {by}, {at}"),
        (Some(Created { at, by: None, .. }), _) => format!("automatic, {at}"),
        (None, Some(Origin::File(file, _))) => file.display().to_string(),
        (None, _) => "built in".to_owned(),
    }
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
