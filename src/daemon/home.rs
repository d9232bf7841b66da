//! The service's folders, and the sockets that it makes itself.

use std::{
    fs, io,
    net::TcpListener,
    os::unix::{fs::MetadataExt, net::UnixListener},
    path::{Path, PathBuf},
};

use super::Failure;
use crate::{
    handover::{self, Claim, Rank, others},
    kernel::process,
    socket::Backlog,
    surroundings::{Door, ForPages, Unit, machine, user},
};

/// The folders of this service.
#[derive(Clone)]
pub(super) struct Home {
    /// The state folder. In it is a folder for each machine.
    pub(super) folder: PathBuf,
    pub(super) rank: Rank,
    /// This machine's.
    pub(super) state: PathBuf,
    pub(super) config: Vec<PathBuf>,
    /// The mark that the socket for TCP listens for pages only, if there is a runtime directory.
    pub(super) for_pages: Option<ForPages>,
    /// Where it listens, beside the socket that systemd passes.
    doors: Vec<Door>,
}

impl Home {
    /// The folders that systemd made for the unit, else the user's.
    pub(super) fn find() -> Result<Self, Failure> {
        let Unit { state, config, runtime } = Unit::from_systemd().unwrap_or_default();
        let uid = process::uid();
        let rank = if state.is_some() { Rank::Unit } else { Rank::Private };
        let folder = match state {
            Some(state) => state,
            None => user().make_state().map_err(Failure::other)?,
        };
        let state = folder.join(machine::key());
        let config = config.unwrap_or_else(|| user().config());
        let runtime = match runtime {
            Some(runtime) => Some(Door::new(uid, runtime)),
            None => user().runtime_door(),
        };
        let for_pages = runtime.as_ref().map(|door| ForPages::in_folder(door.folder()));
        let doors = runtime.into_iter().chain([Door::new(uid, state.clone())]).collect();
        Ok(Self { folder, rank, state, config, for_pages, doors })
    }
}

impl Home {
    /// Becomes the service of these folders.
    pub(super) fn claim(&self) -> Result<Claim, Failure> {
        let mut claim = handover::claim(&self.state, self.rank)?;
        if claim.lock.is_some() {
            self.doors.iter().for_each(|door| machine::note_network(door.folder()));
            if machine::has_unnamed_state()
                && let Err(error) = handover::older::adopt(&self.folder, &self.state)?
            {
                let folder = self.folder.display();
                tracing::warn!("the state of an older version in {folder} was not moved: {error}");
            }
            let places = user().state_folders();
            others::find(&self.folder, &self.state, &places, self.rank, &mut claim);
        }
        Ok(claim)
    }

    /// Sets or removes the mark that leases are live, which `styxy-login.service` checks at the next login.
    pub(super) fn mark(&self, has_leases: bool) {
        let mark = self.state.join("leases");
        let _ = match has_leases {
            true if !mark.exists() => fs::write(mark, ""),
            true => Ok(()),
            false => fs::remove_file(mark),
        };
    }

    /// The folders in which it listens.
    pub(super) fn folders_of_doors(&self) -> impl Iterator<Item = &Path> {
        self.doors.iter().map(Door::folder)
    }

    /// The door in the state folder, where every service listens.
    pub(super) fn beside_the_state(&self) -> Option<Door> {
        self.doors.last().cloned()
    }
}

/// The sockets of the HTTP door.
pub(super) struct Sockets {
    listeners: Vec<(tokio::net::UnixListener, Backlog)>,
    /// Where the next service asks this one to hand over.
    pub(super) handover: Option<tokio::net::UnixListener>,
    /// The paths of those that the service has made itself, and which files they are.
    own: Vec<(PathBuf, Option<u64>)>,
}

impl Sockets {
    /// Listens on the socket that systemd has passed, and on others beside it: in the runtime folder if
    /// there is none, and in the state folder always.
    pub(super) fn open(passed: Option<UnixListener>, home: &Home) -> Result<Self, Failure> {
        let mut sockets = Self { listeners: Vec::new(), handover: None, own: Vec::new() };
        let of_state = home.doors.len().saturating_sub(1);
        let doors = if passed.is_some() { &home.doors[of_state..] } else { &home.doors[..] };
        let mut troubles = Vec::new();
        if let Some(passed) = passed {
            sockets.add(passed, Backlog::Systemds)?;
        }
        for door in doors {
            match door.listen() {
                Ok(listener) => {
                    sockets.add(listener, Backlog::Ours)?;
                    sockets.note(door);
                }
                Err(trouble) => troubles.push(trouble),
            }
        }
        let door = handover::door(&home.state);
        match door.listen() {
            Ok(listener) => {
                sockets.handover = Some(self::listener(listener)?);
                sockets.note(&door);
            }
            Err(trouble) => troubles.push(trouble),
        }
        if sockets.listeners.is_empty() {
            return Err(Failure::other(troubles.join("; ")));
        }
        for trouble in troubles {
            tracing::warn!("a socket is missing: {trouble}");
        }
        Ok(sockets)
    }

    fn add(&mut self, listener: UnixListener, backlog: Backlog) -> io::Result<()> {
        self.listeners.push((self::listener(listener)?, backlog));
        Ok(())
    }

    /// The listeners, to be served.
    pub(super) fn take(&mut self) -> impl Iterator<Item = (tokio::net::UnixListener, Backlog)> {
        std::mem::take(&mut self.listeners).into_iter()
    }

    /// The first socket that the service has made.
    pub(super) fn first_own(&self) -> Option<&Path> {
        self.own.first().map(|(path, _)| path.as_path())
    }

    fn note(&mut self, door: &Door) {
        let path = door.path();
        let file = inode(&path);
        self.own.push((path, file));
    }

    /// Deletes the sockets that the service made, unless they have been replaced, as systemd does when it starts
    /// `styxy.socket`.
    pub(super) fn remove(&self) {
        for (path, file) in &self.own {
            if inode(path) == *file {
                let _ = fs::remove_file(path);
            }
        }
    }
}

/// A listener that the runtime waits on.
pub(super) fn listener(listener: UnixListener) -> io::Result<tokio::net::UnixListener> {
    listener.set_nonblocking(true)?;
    tokio::net::UnixListener::from_std(listener)
}

/// The same for TCP.
pub(super) fn tcp_listener(listener: TcpListener) -> io::Result<tokio::net::TcpListener> {
    listener.set_nonblocking(true)?;
    tokio::net::TcpListener::from_std(listener)
}

fn inode(path: &Path) -> Option<u64> {
    fs::symlink_metadata(path).ok().map(|file| file.ino())
}
