//! Resolves the owner of a request, and checks that it exists.

use std::{collections::HashMap, os::fd::OwnedFd, sync::Arc};

use tokio::net::{TcpStream, UnixStream};

use super::Broker;
use crate::{
    error::{Error, ErrorKind},
    kernel::{
        ancestry, diag, network,
        process::{self, Process, ProcessError},
    },
    lease::{Client, LeaseId, Owner, Transport},
    owners::{connections, units},
    request::OwnerRequest,
};

/// The caller, and what identifies it.
#[derive(Clone, Debug)]
pub struct Caller {
    /// What the audit records of it.
    pub client: Client,
    /// Its unique name on the bus.
    pub connection: Option<String>,
    /// A pidfd of its process, if the door can get one.
    pub pidfd: Option<Arc<OwnedFd>>,
}

impl Caller {
    /// What the audit records of this process and user.
    pub fn client(transport: Transport, pid: Option<u32>, uid: Option<u32>) -> Client {
        let comm = pid.and_then(process::comm);
        let is_styxy = comm.as_deref() == Some("styxy");
        let parent = pid.filter(|_| is_styxy).and_then(process::starter);
        Client { transport, pid, uid, comm, parent }
    }

    /// The peer of a socket (`SO_PEERCRED`, unix(7)).
    pub fn of_peer(stream: &UnixStream, transport: Transport) -> Option<Self> {
        let credentials = stream.peer_cred().ok()?;
        let pid = credentials.pid().and_then(|pid| u32::try_from(pid).ok());
        let pidfd = pid.and_then(|pid| process::peer(stream, pid)).map(Arc::new);
        let client = Self::client(transport, pid, Some(credentials.uid()));
        Some(Self { client, connection: None, pidfd })
    }

    /// The peer of a TCP connection. The kernel tells its user, but not its process.
    pub fn of_connection(stream: &TcpStream) -> Self {
        let ends = stream.peer_addr().and_then(|peer| Ok((peer, stream.local_addr()?)));
        let uid = ends.ok().and_then(|(peer, local)| diag::user_of(peer, local));
        Self { client: Self::client(Transport::Tcp, None, uid), connection: None, pidfd: None }
    }

    /// Why nothing that the peer of a socket asks for is answered, if that is so.
    pub fn why_refused(&self) -> Option<Error> {
        if self.client.uid != Some(process::uid()) {
            // Only root gets this far; inside the sandbox it has another UID.
            return Some(Error::other_user());
        }
        (self.client.pid.and_then(network::same) == Some(false)).then(Error::other_network)
    }

    /// Its process.
    fn process(&self) -> Result<Process, ProcessError> {
        match (&self.pidfd, self.client.pid) {
            (Some(pidfd), _) => {
                pidfd.try_clone().map_err(ProcessError::Io).and_then(Process::of_pidfd)
            }
            (None, Some(pid)) => Process::of_pid(pid),
            (None, None) => Err(ProcessError::Gone),
        }
    }
}

/// The owner of a request, with the descriptors that belong to it until the lease is made.
pub(super) struct ResolvedOwner {
    /// The owner, and a pidfd if it is a process.
    pub(super) owner: Owner,
    pub(super) pidfd: Option<OwnedFd>,
    /// New guards of leases that had lost theirs.
    pub(super) guards: HashMap<LeaseId, OwnedFd>,
}

impl ResolvedOwner {
    fn of(owner: Owner, pidfd: Option<OwnedFd>) -> Self {
        Self { owner, pidfd, guards: HashMap::new() }
    }
}

impl Broker {
    /// Resolves an owner, and checks that it exists.
    pub(super) async fn resolve_owner(
        &self,
        owner: &OwnerRequest,
        caller: &Caller,
    ) -> Result<ResolvedOwner, Error> {
        let bus = || {
            self.owners.bus().ok_or_else(|| {
                Error::invalid(
                    "there is no session bus, so no unit and no connection can be an owner",
                )
                .suggest("give a pid, or a ttl")
            })
        };
        let unknown = |error: zbus::Error| Error::invalid(format!("the owner is unknown: {error}"));
        let process = |process: Result<Process, ProcessError>| {
            let Process { pid, start, pidfd } = process.map_err(no_owner)?;
            Ok(ResolvedOwner::of(Owner::Process { pid, start }, Some(pidfd)))
        };
        match owner {
            OwnerRequest::None => Ok(ResolvedOwner::of(Owner::None, None)),
            OwnerRequest::Pid(pid) => process(caller.named(*pid)?),
            OwnerRequest::Related(pid) => process(caller.related(*pid)),
            OwnerRequest::Pidfd(pidfd) => {
                process(pidfd.try_clone().map_err(ProcessError::Io).and_then(Process::of_pidfd))
            }
            OwnerRequest::Unit(unit) => {
                if !units::is_active(&bus()?, unit).await.map_err(unknown)? {
                    return Err(Error::invalid(format!("the unit {unit} is not active"))
                        .suggest("start it first, or ask from inside it"));
                }
                Ok(ResolvedOwner::of(Owner::Unit { unit: unit.clone() }, None))
            }
            OwnerRequest::Connection => {
                let name = caller.connection.as_ref().ok_or_else(|| {
                    Error::invalid(
                        "only a caller on the session bus has a connection to own a lease",
                    )
                    .suggest("give a pid, or a ttl")
                })?;
                let bus = connections::bus_id(&bus()?).await.map_err(unknown)?;
                Ok(ResolvedOwner::of(Owner::Connection { name: name.clone(), bus }, None))
            }
        }
    }
}

impl Caller {
    /// The process that the caller means by a number. From a PID namespace of its own it can name
    /// itself and those that it descends from; any other number would mean another process here.
    fn named(&self, pid: u32) -> Result<Result<Process, ProcessError>, Error> {
        let Some(own) = self.client.pid else { return Ok(Process::of_pid(pid)) };
        match ancestry::is_nested(own) {
            Some(false) => return Ok(Process::of_pid(pid)),
            Some(true) => {}
            None => {
                return Err(Error::invalid(
                    "the service cannot see the calling process, so it cannot use a pid from there",
                )
                .suggest("give a pidfd on the session bus, or a ttl"));
            }
        }
        match self.process().and_then(|own| ancestry::named_from(own, pid)) {
            Err(ProcessError::Gone) => Err(Error::invalid(format!(
                "the calling process is in a PID namespace of its own (a sandbox or a container), where {pid} is \
                 neither itself nor one of its ancestors, and any other number means another process outside"
            ))
            .suggest("name one of those, give a pidfd on the session bus, or a ttl")),
            named => Ok(named),
        }
    }

    /// The process that the caller means by a number if one of the two descends from the other, else the caller itself.
    fn related(&self, pid: u32) -> Result<Process, ProcessError> {
        let own = self.process()?;
        match self.named(pid) {
            // Everything descends from the first process, and what has lost its parent calls it that.
            Ok(Ok(named)) if named.pid != 1 && ancestry::are_related(&named, &own) => Ok(named),
            _ => Ok(own),
        }
    }
}

fn no_owner(trouble: ProcessError) -> Error {
    match trouble {
        ProcessError::Gone => Error::invalid("the owner is not a live process")
            .suggest("give the PID of a process that runs now, as the service sees it"),
        ProcessError::Foreign(_) => Error::invalid("the owner is another user's process"),
        ProcessError::Io(error) => {
            Error::new(ErrorKind::LimitExceeded, format!("the owner cannot be watched: {error}"))
        }
    }
}
