//! The service's folders, and the sockets that it makes itself.

use std::{fs, io, os::unix::net::UnixListener, path::PathBuf};

use super::Failure;
use crate::{
    kernel::process,
    surroundings::{Door, Unit, user},
};

/// Where this service is at home.
pub(super) struct Home {
    pub(super) state: PathBuf,
    pub(super) config: Vec<PathBuf>,
    /// Where it listens, beside the socket that systemd passes.
    doors: Vec<Door>,
}

impl Home {
    /// The folders that systemd made for the unit, else the user's.
    pub(super) fn find() -> Result<Self, Failure> {
        let Unit { state, config, runtime } = Unit::from_systemd().unwrap_or_default();
        let uid = process::uid();
        let state = match state {
            Some(state) => state,
            None => user().make_state().map_err(Failure)?,
        };
        let config = config.unwrap_or_else(|| user().config());
        let runtime = match runtime {
            Some(runtime) => Some(Door::new(uid, runtime)),
            None => user().runtime().ok().map(|runtime| Door::in_runtime(uid, runtime)),
        };
        let doors = runtime.into_iter().chain([Door::new(uid, state.clone())]).collect();
        Ok(Self { state, config, doors })
    }
}

impl Home {
    /// The door in the state folder, where every service listens.
    pub(super) fn beside_the_state(&self) -> Option<Door> {
        self.doors.last().cloned()
    }
}

/// The sockets of the HTTP door.
pub(super) struct Sockets {
    listeners: Vec<tokio::net::UnixListener>,
    /// The paths of those that the service has made itself.
    pub(super) own: Vec<PathBuf>,
}

impl Sockets {
    /// Listens on the socket that systemd has passed, and on others beside it: in the runtime folder if
    /// there is none, and in the state folder always.
    pub(super) fn open(passed: Option<UnixListener>, home: &Home) -> Result<Self, Failure> {
        let mut sockets = Self { listeners: Vec::new(), own: Vec::new() };
        let of_state = home.doors.len().saturating_sub(1);
        let doors = if passed.is_some() { &home.doors[of_state..] } else { &home.doors[..] };
        let mut troubles = Vec::new();
        if let Some(passed) = passed {
            sockets.add(passed)?;
        }
        for door in doors {
            match door.listen() {
                Ok(listener) => {
                    sockets.add(listener)?;
                    sockets.own.push(door.path());
                }
                Err(trouble) => troubles.push(trouble),
            }
        }
        if sockets.listeners.is_empty() {
            return Err(Failure(troubles.join("; ")));
        }
        for trouble in troubles {
            tracing::warn!("a socket is missing: {trouble}");
        }
        Ok(sockets)
    }

    fn add(&mut self, listener: UnixListener) -> io::Result<()> {
        listener.set_nonblocking(true)?;
        self.listeners.push(tokio::net::UnixListener::from_std(listener)?);
        Ok(())
    }

    /// The listeners, to be served.
    pub(super) fn take(&mut self) -> impl Iterator<Item = tokio::net::UnixListener> {
        std::mem::take(&mut self.listeners).into_iter()
    }

    /// Takes away the sockets that the service has made.
    pub(super) fn remove(&self) {
        for path in &self.own {
            let _ = fs::remove_file(path);
        }
    }
}
