//! Which port a request gets.

use std::sync::Arc;

use super::{Registry, port_set::select};
use crate::{
    error::{Error, ErrorKind},
    lease::Lease,
    port::{Port, PortRange, Protocol},
    request::AllocateRequest,
    service_type::{InstanceBehavior, ServiceType},
};

/// What a request gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// The lease of a singleton that is there already.
    Existing(Arc<Lease>),
    /// This port, or as many from this one on as were asked for.
    Port(Port),
}

/// Why a port cannot be granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// It is leased.
    Leased(Arc<Lease>),
    /// The configuration excludes it.
    Excluded,
    /// Something on the machine has it: a listener (TCP) or any socket (UDP).
    InUse,
    /// Ordinary users may not bind it (`ip_unprivileged_port_start`, see ip(7)).
    Privileged,
}

impl Obstacle {
    /// The word for it in answers.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Leased(_) => "leased",
            Self::Excluded => "excluded",
            Self::InUse => "in_use",
            Self::Privileged => "privileged",
        }
    }

    /// Why the port cannot be had, for people.
    pub fn describe(&self, port: Port, protocol: Protocol) -> String {
        match self {
            Self::Leased(lease) => {
                let name = lease.service_name.as_ref().map(|n| format!(" {n}"));
                let project = lease.project_path.as_ref().map(|p| format!(" of {p}"));
                format!(
                    "{protocol} port {port} is leased to {}{}{} (lease {})",
                    lease.service_type,
                    name.unwrap_or_default(),
                    project.unwrap_or_default(),
                    lease.lease_id
                )
            }
            Self::Excluded => format!("port {port} is excluded by the configuration"),
            Self::InUse => format!("{protocol} port {port} is in use by another program"),
            Self::Privileged => {
                format!("port {port} is reserved for privileged programs by the kernel")
            }
        }
    }
}

impl Registry {
    /// Decides which port a request gets. `probe` asks the kernel whether a port is free, and is
    /// asked only about ports that are free here.
    pub fn choose(
        &self,
        request: &AllocateRequest,
        mut probe: impl FnMut(Port) -> Result<(), Obstacle>,
    ) -> Result<Choice, Error> {
        let service_type = self.rules.types.get(&request.service_type)?;
        if service_type.instance_behavior == InstanceBehavior::Single
            && let Some(lease) = self.singleton(request)
        {
            return Ok(Choice::Existing(lease));
        }
        let count = usize::from(request.count);
        if self.leases.len() + count > self.rules.most_leases {
            return Err(Error::new(
                ErrorKind::LimitExceeded,
                format!(
                    "{} leases are live, and the configuration allows {}",
                    self.leases.len(),
                    self.rules.most_leases
                ),
            )
            .suggest("release some, or raise limits.leases in the configuration"));
        }
        if let Some(port) = request.port {
            match self.asked_block(port, request, &mut probe) {
                Ok(()) => return Ok(Choice::Port(port)),
                Err((port, obstacle)) if request.strict => {
                    return Err(refused(port, request, &obstacle));
                }
                Err(_) => {}
            }
        }
        let mut busy = 0;
        let mut probe = |port: Port| {
            let free = probe(port).is_ok();
            busy += usize::from(!free);
            free
        };
        let first = if count == 1 {
            self.candidates(request, service_type).find(|port| probe(*port))
        } else {
            self.block(request, service_type, probe)
        };
        first.map(Choice::Port).ok_or_else(|| exhausted(request, service_type, busy))
    }

    /// What is in the way of the asked ports, if anything is.
    fn asked_block(
        &self,
        first: Port,
        request: &AllocateRequest,
        mut probe: impl FnMut(Port) -> Result<(), Obstacle>,
    ) -> Result<(), (Port, Obstacle)> {
        for offset in 0..request.count {
            // Beyond the last port there is none to be had.
            let port = first.plus(offset).ok_or((Port::MAX, Obstacle::InUse))?;
            self.asked(port, request.protocol, &mut probe).map_err(|obstacle| (port, obstacle))?;
        }
        Ok(())
    }

    /// The first of `count` consecutive ports that are free: where the block was last, at a preferred
    /// port, in the range where nobody remembers a port, in the range.
    fn block(
        &self,
        request: &AllocateRequest,
        service_type: &ServiceType,
        mut probe: impl FnMut(Port) -> bool,
    ) -> Option<Port> {
        let (protocol, range) = (request.protocol, service_type.port_range);
        let own = request.memory_key().and_then(|key| self.memory.get(&key));
        let taken = move |i| self.leased_word(protocol, i) | self.avoided.word(i);
        for first in own.into_iter().chain(service_type.preferred_ports.iter().copied()) {
            let Some(block) =
                first.plus(request.count - 1).and_then(|last| PortRange::new(first, last))
            else {
                continue;
            };
            let others = |i| if own == Some(first) { 0 } else { self.memory.word(protocol, i) };
            let free = select(block, |i| !(taken(i) | others(i)));
            let inside = own == Some(first) || range.contains(block.last());
            if inside && run(free, request.count, &mut probe).is_some() {
                return Some(first);
            }
        }
        let fresh = select(range, |i| !(taken(i) | self.memory.word(protocol, i)));
        run(fresh, request.count, &mut probe)
            .or_else(|| run(select(range, |i| !taken(i)), request.count, &mut probe))
    }

    /// What is in the way of a port that was asked for by number.
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

    fn singleton(&self, request: &AllocateRequest) -> Option<Arc<Lease>> {
        let id = self.singletons.get(&request.service_type)?;
        self.leases.get(id).map(Arc::clone)
    }

    /// The ports to try, best first: what this service of this project had last, the preferred ones,
    /// the range ascending; then the ports that somebody else remembers, oldest first.
    fn candidates<'a>(
        &'a self,
        request: &AllocateRequest,
        service_type: &'a ServiceType,
    ) -> impl Iterator<Item = Port> + 'a {
        let protocol = request.protocol;
        let leased = move |port: Port| self.at(port, protocol).is_some();
        let own = request
            .memory_key()
            .and_then(|key| self.memory.get(&key))
            .filter(|port| !leased(*port) && !self.rules.excluded.contains(*port));
        let preferred = service_type.preferred_ports.iter().copied().filter(move |port| {
            !leased(*port)
                && !self.avoided.contains(*port)
                && !self.memory.contains(protocol, *port)
        });
        // A preferred port that was busy is not asked about again.
        let ascending = select(service_type.port_range, move |i| {
            let taken = self.leased_word(protocol, i) | self.avoided.word(i);
            !(taken | self.memory.word(protocol, i))
        })
        .filter(|port| !service_type.preferred_ports.contains(port));
        own.into_iter().chain(
            preferred
                .chain(ascending)
                .chain(self.remembered_by_others(service_type, protocol))
                .filter(move |port| Some(*port) != own),
        )
    }

    /// Free ports of the range that others remember, oldest first. Collected only when the
    /// candidates before are used up.
    fn remembered_by_others<'a>(
        &'a self,
        service_type: &'a ServiceType,
        protocol: Protocol,
    ) -> impl Iterator<Item = Port> + 'a {
        std::iter::once_with(move || {
            let mut ports: Vec<_> = select(service_type.port_range, |i| {
                let taken = self.leased_word(protocol, i) | self.avoided.word(i);
                self.memory.word(protocol, i) & !taken
            })
            .map(|port| (self.memory.age(protocol, port), port))
            .collect();
            ports.sort_unstable();
            ports.into_iter().map(|(_, port)| port)
        })
        .flatten()
    }
}

/// The first of the first `count` consecutive ports that are free.
fn run(
    ports: impl Iterator<Item = Port>,
    count: u16,
    mut is_free: impl FnMut(Port) -> bool,
) -> Option<Port> {
    let mut run: Option<(Port, u16)> = None;
    for port in ports {
        if !is_free(port) {
            run = None;
            continue;
        }
        let (first, length) = match run {
            Some((first, length)) if first.plus(length) == Some(port) => (first, length + 1),
            _ => (port, 1),
        };
        if length == count {
            return Some(first);
        }
        run = Some((first, length));
    }
    None
}

fn refused(port: Port, request: &AllocateRequest, obstacle: &Obstacle) -> Error {
    let error = Error::new(ErrorKind::PortInUse, obstacle.describe(port, request.protocol));
    match obstacle {
        Obstacle::Leased(lease) => error.suggest(format!(
            "release it (`styxy release {}`), or ask without strict to get another port",
            lease.lease_id
        )),
        Obstacle::InUse => {
            error.suggest("stop that program, or ask without strict to get another port")
        }
        Obstacle::Excluded | Obstacle::Privileged => {
            error.suggest("ask for another port, or without strict to get any")
        }
    }
}

fn exhausted(request: &AllocateRequest, service_type: &ServiceType, busy: usize) -> Error {
    let range = service_type.port_range;
    if request.count > 1 {
        return Error::new(
            ErrorKind::PoolExhausted,
            format!(
                "{} has no {} consecutive {} ports that are free ({range})",
                request.service_type, request.count, request.protocol
            ),
        )
        .suggest("ask for fewer, or release leases that are no longer needed (`styxy list`)");
    }
    Error::new(
        ErrorKind::PoolExhausted,
        format!(
            "no {} port of {} ({range}) is free: of {}, {busy} are in use by other programs and the \
             rest are leased or excluded",
            request.protocol,
            request.service_type,
            range.len(),
        ),
    )
    .suggest("release leases that are no longer needed (`styxy list`)")
    .suggest(format!(
        "widen service_types.{}.port_range in the configuration",
        request.service_type
    ))
}
