//! Finding out who an owner is, and that it is there.

use std::os::fd::OwnedFd;

use super::Broker;
use crate::{
    error::{Error, ErrorKind},
    kernel::process::{Process, Trouble},
    lease::Owner,
    owners::{connections, units},
    request::OwnerRequest,
};

/// An owner, held on to until it is watched.
pub(super) struct Held {
    pub(super) owner: Owner,
    pub(super) pidfd: Option<OwnedFd>,
}

impl Broker {
    /// Makes sure that an owner is there, and finds out who it is.
    pub(super) async fn hold_on_to(
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
