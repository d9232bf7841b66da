//! Which port a request gets.

use std::{cmp::Reverse, collections::BinaryHeap, sync::Arc};

use super::{
    Registry, Remembered,
    claims::{has_another_port, is_own, is_used},
};
use crate::{
    error::{Error, ErrorKind, Shortage},
    lease::Lease,
    obstacle::{InUse, Obstacle},
    port::{Port, PortRange, Protocol},
    port_set::select,
    request::AllocateRequest,
    service_type::{InstanceBehavior, ServiceType},
};

/// Why a port is the next to be tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The service has it already: it is a singleton, or asks for its claim.
    Existing,
    /// It was asked for.
    Asked,
    /// This service of this project had it last.
    Remembered,
    /// The request's template stands for it.
    Template,
    /// The type prefers it.
    Preferred,
    /// It is the first that is free.
    Free,
    /// It is free, but another project had it and may come back.
    RememberedByOther,
    /// An idle claim has it, and yields.
    GivesWay,
}

impl Reason {
    /// The word for it in answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Existing => "existing",
            Self::Asked => "asked",
            Self::Remembered => "remembered",
            Self::Template => "template",
            Self::Preferred => "preferred",
            Self::Free => "first_free",
            Self::RememberedByOther => "remembered_by_another",
            Self::GivesWay => "gives_way",
        }
    }

    /// The same for people.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Existing => "the service has this port already",
            Self::Asked => "the requested port",
            Self::Remembered => "this project had it last",
            Self::Template => "the template selects it",
            Self::Preferred => "the service type prefers it",
            Self::Free => "the first that is free",
            Self::RememberedByOther => "free, but another project had it last",
            Self::GivesWay => "another service asked for it long ago and has not used it",
        }
    }
}

/// What a request gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// The lease of a singleton, or a claim, that is there already.
    Existing(Arc<Lease>),
    /// This claim moves to the requested port: it is not in use, and ends with the grant.
    Moved(Arc<Lease>, Port),
    /// This port, or the block that starts here.
    Port(Port),
}

impl Registry {
    /// Whether another service remembers the port.
    pub fn is_remembered_by_another(&self, request: &AllocateRequest, port: Port) -> bool {
        let own = request.memory_key().and_then(|key| self.memory.get(&key));
        let is_own = own.is_some_and(|own| own.ports().any(|known| known == port));
        !is_own && self.memory.contains(request.protocol(), port)
    }

    /// Decides which port a request gets that is [`completed`] with its type. `probe` asks the kernel
    /// whether a port is free, and is asked only about ports that are free here.
    ///
    /// [`completed`]: AllocateRequest::completed
    pub fn choose(
        &self,
        request: &AllocateRequest,
        service_type: &ServiceType,
        mut probe: impl FnMut(Port) -> Result<(), Obstacle>,
    ) -> Result<Choice, Error> {
        let template = request.template_port(service_type, &self.rules.templates)?;
        if let Some(lease) = self.mapped(request)? {
            return Ok(Choice::Existing(Arc::clone(lease)));
        }
        if let Some(lease) = self.around(request) {
            return Ok(Choice::Existing(Arc::clone(lease)));
        }
        if let Some(lease) = self.claim(request, service_type) {
            let other = request.port.filter(|port| *port != lease.port && !is_own(lease, request));
            let Some(port) = other else { return Ok(Choice::Existing(Arc::clone(lease))) };
            if is_used(lease) {
                return Err(has_another_port(lease));
            }
            return match self.asked_block(port, request, &mut probe) {
                Ok(()) => Ok(Choice::Moved(Arc::clone(lease), port)),
                Err((_, Obstacle::Shortage(shortage))) => Err(shortage.into()),
                Err((port, obstacle)) if request.strict => Err(refused(port, request, &obstacle)),
                Err(_) => Ok(Choice::Existing(Arc::clone(lease))),
            };
        }
        if let Some(lease) = self.existing(request, service_type) {
            if request.strict && request.port != Some(lease.port) {
                return Err(Error::new(
                    ErrorKind::PortInUse,
                    format!(
                        "{} runs once, and it has port {} ({})",
                        lease.service_type,
                        lease.port,
                        lease.describe_holder()
                    ),
                )
                .suggest("ask without strict to get that port"));
            }
            return Ok(Choice::Existing(lease));
        }
        let count = usize::from(request.count);
        if self.leases.len() + count > self.rules.max_leases {
            return Err(Error::new(
                ErrorKind::LimitExceeded,
                format!(
                    "{} leases are live, and the configuration allows {}",
                    self.leases.len(),
                    self.rules.max_leases
                ),
            )
            .suggest("release some, or raise limits.leases in the configuration"));
        }
        self.within_share(request, service_type)?;
        if let Some(port) = request.port {
            match self.asked_block(port, request, &mut probe) {
                Ok(()) => return Ok(Choice::Port(port)),
                Err((_, Obstacle::Shortage(shortage))) => return Err(shortage.into()),
                Err((port, obstacle)) if request.strict => {
                    return Err(refused(port, request, &obstacle));
                }
                Err(_) => {}
            }
        }
        let mut busy = 0;
        let mut is_busy = |port: Port| match probe(port) {
            Ok(()) => Ok(true),
            Err(Obstacle::Shortage(shortage)) => Err(shortage),
            Err(_) => {
                busy += 1;
                Ok(false)
            }
        };
        let first = if count == 1 {
            let ports = self.candidates(request, service_type, template).map(|(port, _)| port);
            run(ports, 1, &mut is_busy)?
        } else {
            self.block(request, service_type, template, &mut is_busy)?
        };
        let first = match first {
            // Otherwise the claim would have to end first.
            None if request.dry_run => {
                let in_use = |lease: &Lease| probe(lease.port).is_err();
                self.first_to_give_way(request, service_type, in_use).map(|lease| lease.port)
            }
            first => first,
        };
        first.map(Choice::Port).ok_or_else(|| {
            let mut error = exhausted(request, service_type, busy);
            if let Some(hoarder) = self.hoarder(service_type) {
                error.suggestions.insert(0, hoarder);
            }
            if service_type.created.is_some() && !self.rules.auto.enabled {
                let way = "`styxy config auto-allocation enable` lets it have another range";
                error.suggestions.insert(0, way.to_owned());
            }
            error
        })
    }

    /// What is in the way of the requested ports, if anything is.
    fn asked_block(
        &self,
        first: Port,
        request: &AllocateRequest,
        mut probe: impl FnMut(Port) -> Result<(), Obstacle>,
    ) -> Result<(), (Port, Obstacle)> {
        for offset in 0..request.count {
            // There are no ports beyond the last.
            let port = first.plus(offset).ok_or((Port::MAX, Obstacle::InUse(InUse::Socket)))?;
            self.asked(port, request.protocol(), &mut probe)
                .map_err(|obstacle| (port, obstacle))?;
        }
        Ok(())
    }

    /// The first of `count` consecutive ports that are free: where the block was last, at a preferred
    /// port, in the range where nobody remembers a port, in the range.
    fn block(
        &self,
        request: &AllocateRequest,
        service_type: &ServiceType,
        template: Option<Port>,
        mut probe: impl FnMut(Port) -> Result<bool, Shortage>,
    ) -> Result<Option<Port>, Shortage> {
        let protocol = request.protocol();
        let own = self.own(request);
        let taken = move |i| self.leased_word(protocol, i) | self.avoided.word(i);
        let preferred = service_type.preferred_ports.iter().copied();
        for first in template.into_iter().chain(own.iter().copied()).chain(preferred) {
            let Some(block) =
                first.plus(request.count - 1).and_then(|last| PortRange::new(first, last))
            else {
                continue;
            };
            let is_own = own.contains(&first);
            let others = |i| if is_own { 0 } else { self.memory.word(protocol, i) };
            let free = select(block, |i| !(taken(i) | others(i)));
            // Ports between two ranges of a type belong to another type. A block beyond them was requested by number
            // before.
            let in_one = |range: PortRange| range.contains(first) && range.contains(block.last());
            let inside =
                service_type.ranges().any(in_one) || is_own && !service_type.contains(first);
            if inside && run(free, request.count, &mut probe)?.is_some() {
                return Ok(Some(first));
            }
        }
        for others in [true, false] {
            let remembered = |i| if others { self.memory.word(protocol, i) } else { 0 };
            for range in service_type.ranges() {
                let free = select(range, |i| !(taken(i) | remembered(i)));
                if let Some(first) = run(free, request.count, &mut probe)? {
                    return Ok(Some(first));
                }
            }
        }
        Ok(None)
    }

    /// What is in the way of a port that was requested by number.
    pub fn asked(
        &self,
        port: Port,
        protocol: Protocol,
        mut probe: impl FnMut(Port) -> Result<(), Obstacle>,
    ) -> Result<(), Obstacle> {
        if let Some(lease) = self.at(port, protocol) {
            return Err(Obstacle::Leased(Arc::clone(lease)));
        }
        if self.rules.excluded.contains(port) {
            return Err(Obstacle::Excluded);
        }
        probe(port)
    }

    /// The lease that the request shares, if its type is single and has one.
    pub fn existing(
        &self,
        request: &AllocateRequest,
        service_type: &ServiceType,
    ) -> Option<Arc<Lease>> {
        let is_single = service_type.instance_behavior == InstanceBehavior::Single;
        let lease = self.singleton(&request.service_type, request.singleton_key.as_ref());
        lease.filter(|_| is_single).map(Arc::clone)
    }

    /// The ports to try, best first: the template's, what this service of this project had last and what it had instead,
    /// the preferred ones, the ranges ascending; then the ports that somebody else remembers, oldest first. A mapping gets
    /// no preferred ports, because those are what programs ask for, but its own number if that may be the real one.
    pub fn candidates<'a>(
        &'a self,
        request: &AllocateRequest,
        service_type: &'a ServiceType,
        template: Option<Port>,
    ) -> impl Iterator<Item = (Port, Reason)> + 'a {
        let protocol = request.protocol();
        let leased = move |port: Port| self.at(port, protocol).is_some();
        let own = self.own(request);
        let may_come_back =
            move |port: &Port| !leased(*port) && !self.rules.excluded.contains(*port);
        let fresh = move |port: &Port| {
            !leased(*port)
                && !self.avoided.contains(*port)
                && !self.memory.contains(protocol, *port)
        };
        let own = own.into_iter().filter(may_come_back).collect::<Vec<_>>();
        let is_mapping = request.asked.is_some();
        let (itself, meant) = self.numbers(request);
        let itself = itself.filter(|port| may_come_back(port) && !own.contains(port));
        let template = template.filter(|port| fresh(port) || own.contains(port));
        let own = own.into_iter().filter(move |port| Some(*port) != template);
        let because = |reason| move |port| (port, reason);
        let template = template.into_iter().map(because(Reason::Template));
        let first: Vec<_> = template
            .chain(own.map(because(Reason::Remembered)))
            .chain(itself.map(because(Reason::Asked)))
            .collect();
        let preferred = service_type.preferred_ports.iter().copied().filter(fresh);
        // No port is tried twice.
        let ascending = service_type
            .ranges()
            .flat_map(move |range| {
                select(range, move |i| {
                    let taken = self.leased_word(protocol, i) | self.avoided.word(i);
                    !(taken | self.memory.word(protocol, i) | self.in_use.word(i))
                })
            })
            .filter(move |port| !service_type.preferred_ports.contains(port));
        let tried: Vec<_> = first.iter().map(|(port, _)| *port).collect();
        let others = self.remembered_by_others(service_type, protocol);
        let is_preferred = |port: &Port| service_type.preferred_ports.contains(port);
        let rest = (preferred.map(because(Reason::Preferred)))
            .chain(ascending.map(because(Reason::Free)))
            .chain(others.map(because(Reason::RememberedByOther)))
            .chain(self.in_use_before(service_type, protocol).map(because(Reason::Free)));
        let rest = rest
            .filter(move |(port, _)| !(tried.contains(port) || is_mapping && is_preferred(port)));
        first.into_iter().chain(rest).filter(move |(port, _)| !meant.contains(port))
    }

    /// The port that this service of this project had last, and what it had instead.
    fn own(&self, request: &AllocateRequest) -> Vec<Port> {
        let known = self.slot(request).and_then(|slot| slot.known);
        let own = known.into_iter().flat_map(Remembered::ports);
        own.filter(|port| self.may_be_real_again(request, *port)).collect()
    }

    /// The ports of the range that were recently in use, and are skipped at first.
    fn in_use_before<'a>(
        &'a self,
        service_type: &'a ServiceType,
        protocol: Protocol,
    ) -> impl Iterator<Item = Port> + 'a {
        let passed_over = move |i| {
            let taken = self.leased_word(protocol, i) | self.avoided.word(i);
            self.in_use.word(i) & !(taken | self.memory.word(protocol, i))
        };
        service_type
            .ranges()
            .flat_map(move |range| select(range, passed_over))
            .filter(|port| !service_type.preferred_ports.contains(port))
    }

    /// Free ports of the range that others remember, oldest first. Collected only when the
    /// candidates before are used up.
    fn remembered_by_others<'a>(
        &'a self,
        service_type: &'a ServiceType,
        protocol: Protocol,
    ) -> impl Iterator<Item = Port> + 'a {
        std::iter::once_with(move || {
            let remembered = |i| {
                let taken = self.leased_word(protocol, i) | self.avoided.word(i);
                self.memory.word(protocol, i) & !taken
            };
            // Most often the first is taken, so the rest need not be in order.
            let mut ports: BinaryHeap<_> = service_type
                .ranges()
                .flat_map(|range| select(range, remembered))
                .map(|port| Reverse((self.memory.age(protocol, port), port)))
                .collect();
            std::iter::from_fn(move || ports.pop().map(|Reverse((_, port))| port))
        })
        .flatten()
    }
}

/// The first of the first `count` consecutive ports that are free.
fn run(
    ports: impl Iterator<Item = Port>,
    count: u16,
    mut is_free: impl FnMut(Port) -> Result<bool, Shortage>,
) -> Result<Option<Port>, Shortage> {
    let mut run: Option<(Port, u16)> = None;
    for port in ports {
        if !is_free(port)? {
            run = None;
            continue;
        }
        let (first, length) = match run {
            Some((first, length)) if first.plus(length) == Some(port) => (first, length + 1),
            _ => (port, 1),
        };
        if length == count {
            return Ok(Some(first));
        }
        run = Some((first, length));
    }
    Ok(None)
}

fn refused(port: Port, request: &AllocateRequest, obstacle: &Obstacle) -> Error {
    let error = Error::new(ErrorKind::PortInUse, obstacle.describe(port, request.protocol()));
    match obstacle {
        // It may be another project's, or a server may run on it: what that is comes before its release.
        Obstacle::Leased(lease) => error.suggest(format!(
            "ask without strict to get another port (`styxy check {}` shows who has it)",
            lease.port
        )),
        Obstacle::InUse(InUse::Connection) => {
            error.suggest("wait until it ends, or ask without strict to get another port")
        }
        // Whoever else listens there goes on.
        Obstacle::InUse(_) if request.adopt => {
            error.suggest("ask without adopt and strict to get another port")
        }
        Obstacle::InUse(_) => {
            error.suggest("stop that program, or ask without strict to get another port")
        }
        Obstacle::NoListener => Error { kind: ErrorKind::InvalidArgument, ..error }
            .suggest("start the server first, or ask without adopt to reserve the port"),
        Obstacle::Excluded | Obstacle::Privileged | Obstacle::Shortage(_) => {
            error.suggest("ask for another port, or without strict to get any")
        }
    }
}

fn exhausted(request: &AllocateRequest, service_type: &ServiceType, busy: usize) -> Error {
    let ranges = service_type.describe_ranges();
    if request.count > 1 {
        return Error::new(
            ErrorKind::PoolExhausted,
            format!(
                "{} has no {} consecutive {} ports that are free ({ranges})",
                request.service_type,
                request.count,
                request.protocol().in_words()
            ),
        )
        .suggest("ask for fewer, or release leases that are no longer needed (`styxy list`)");
    }
    Error::new(
        ErrorKind::PoolExhausted,
        format!(
            "no {} port of {} ({ranges}) is free: of {}, {busy} are in use by other programs and the \
             rest are leased or excluded",
            request.protocol().in_words(),
            request.service_type,
            service_type.len(),
        ),
    )
    .suggest("release leases that are no longer needed (`styxy list`)")
    .suggest(format!(
        "widen service_types.{}.port_range in the configuration",
        request.service_type
    ))
}
