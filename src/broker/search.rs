//! Finding out whether ports are free, for one request.

use std::{collections::HashMap, os::fd::OwnedFd};

use crate::{
    kernel::{
        diag::{self, Seen},
        guard::Guards,
        probe,
    },
    obstacle::{InUse, Obstacle},
    port::{Port, PortRange, Protocol},
    port_set::PortSet,
    request::AllocateRequest,
};

/// After how many ports in use the kernel is asked which ones are.
const FEW_IN_USE: usize = 16;

/// How one request finds out whether ports are free. It is asked about the ports in the order of the
/// search, and keeps the sockets of the last run of consecutive free ones only: what came before is not
/// granted any more, and a search through a wide range must not keep everybody from it.
#[derive(Debug)]
pub(super) struct Search {
    way: Mode,
    /// What was found in use is not asked about again.
    busy: PortSet,
    /// How many ports were found in use by trying them.
    pub(super) conflicts: usize,
    /// How many more ports may be in use until the search is out of patience.
    patience: usize,
}

#[derive(Debug)]
enum Mode {
    /// By what the kernel shows, asked once for all ports when the first is asked about.
    Look(Option<Seen>),
    /// By whether a server of this user listens.
    Adopt,
    /// By binding them; the sockets of each, the one for TCP last.
    Reserve(HashMap<Port, Vec<OwnedFd>>),
}

impl Search {
    /// Looks only, and is in nobody's way.
    pub(super) fn looking() -> Self {
        Self::new(Mode::Look(None))
    }

    /// The same, when these are known to be in use.
    pub(super) fn looking_beside(busy: PortSet) -> Self {
        Self { busy, ..Self::looking() }
    }

    /// Reserves the ports that are free.
    fn reserving() -> Self {
        Self::new(Mode::Reserve(HashMap::new()))
    }

    /// The way for this request.
    pub(super) fn of(request: &AllocateRequest) -> Self {
        match request {
            AllocateRequest { adopt: true, .. } => Self::new(Mode::Adopt),
            AllocateRequest { dry_run: true, .. } => Self::looking(),
            _ => Self::reserving(),
        }
    }

    fn new(way: Mode) -> Self {
        Self { way, busy: PortSet::default(), conflicts: 0, patience: FEW_IN_USE }
    }

    /// Whether too many ports were in use to go on one by one. From then on every port is said to be in
    /// use.
    pub(super) fn is_out_of_patience(&self) -> bool {
        self.patience == 0
    }

    /// Goes on one by one to the end.
    pub(super) fn be_patient(&mut self) {
        self.patience = usize::MAX;
    }

    /// Asks about a port.
    pub(super) fn ask(
        &mut self,
        port: Port,
        protocol: Protocol,
        guards: &Guards,
    ) -> Result<(), Obstacle> {
        if self.patience == 0 || self.busy.contains(port) {
            return Err(Obstacle::InUse(InUse::Socket));
        }
        let sockets = match &mut self.way {
            Mode::Look(Some(seen)) => return look(seen, port, guards),
            Mode::Look(unseen) => {
                let seen = Seen::of(protocol, PortRange::ALL).map_err(Obstacle::Shortage)?;
                return look(unseen.insert(seen), port, guards);
            }
            Mode::Adopt => return diag::adopt(port),
            Mode::Reserve(sockets) => sockets,
        };
        if sockets.contains_key(&port) {
            return Ok(());
        }
        if !port.minus(1).is_some_and(|before| sockets.contains_key(&before)) {
            sockets.clear();
        }
        match reserve(port, protocol, guards) {
            Ok(bound) => {
                sockets.insert(port, bound);
                Ok(())
            }
            Err(obstacle) => {
                sockets.clear();
                self.busy.insert(port);
                self.conflicts += 1;
                self.patience -= 1;
                Err(obstacle)
            }
        }
    }

    /// The ports that were found in use.
    pub(super) fn into_busy(self) -> PortSet {
        self.busy
    }

    /// The socket that reserves the port; with both protocols the one for TCP.
    pub(super) fn take(&mut self, port: Port) -> Option<OwnedFd> {
        match &mut self.way {
            Mode::Look(_) | Mode::Adopt => None,
            Mode::Reserve(sockets) => sockets.remove(&port)?.pop(),
        }
    }
}

/// Whether nothing of what the kernel has shown is in the way of a grant: the guard of a lease that has just ended is not.
pub(super) fn look(seen: &Seen, port: Port, guards: &Guards) -> Result<(), Obstacle> {
    match seen.obstacle(port) {
        Some(Obstacle::InUse(InUse::Bound)) if guards.is_leaving(port) => Ok(()),
        obstacle => obstacle.map_or(Ok(()), Err),
    }
}

fn reserve(port: Port, protocol: Protocol, guards: &Guards) -> Result<Vec<OwnedFd>, Obstacle> {
    if !guards.is_leaving(port) {
        return probe::reserve_all(port, protocol);
    }
    // Its last guard still keeps everybody else's service from it, and would keep this one, too.
    let parts = protocol.parts().iter().rev();
    parts
        .map(|part| match part {
            Protocol::Udp => probe::reserve(port, Protocol::Udp),
            Protocol::Tcp | Protocol::Both => probe::rebind(port),
        })
        .collect()
}
