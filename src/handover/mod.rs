//! One service at a time for each registry, and how it passes from one to the next.
//!
//! Whoever has the lock of the state folder is the service. Beside the lock lies a socket, `handover.sock`. A service that
//! systemd has started as its unit takes over from whichever has the lock: the other stops taking requests, answers those
//! that it has, makes its changes durable, hands over the guards of the leases and the owners that it watches, and ends.
//! A private service gives way: where another lives, commands find that one's door in the folder.
//!
//! The state itself passes on disk. So nothing is lost if either of them is killed meanwhile; ports are only unguarded until
//! the next service has bound them again.
//!
//! An owner that is a connection of the bus is found again by its name and the bus's id. If the next service is on another
//! bus, or on none, it cannot watch the connection, which then counts as ended.
//!
//! What is said on the socket, in lines of JSON:
//!
//! ```text
//! {"hand_over":1,"styxy":"2.0.0"}                                     the next service
//! {"version":1,"guards":["0b5c…", …],"descriptors":2}                 the present one, as often as need be
//! {"version":1,"processes":[[4711,123456], …],"descriptors":1}
//! {"version":1,"done":true}                                           and it ends
//! ```
//!
//! `hand_over` is the newest version of this that the asker knows; `version` is the one that is spoken. Keys that are not
//! known are passed over, as are their descriptors, of which each line tells the number.
//!
//! - this file: becoming the service
//! - [`giver`]: ceasing to be it
//! - [`older`]: what services of older versions have left
//! - [`others`]: other registries of the same user
//! - `wire`: the lines

pub mod giver;
pub mod older;
pub mod others;
mod wire;

use std::{
    fmt, io,
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use self::others::Others;
use crate::{
    kernel::process::{self, Process},
    lease::LeaseId,
    state::{Lock, lock, store::OpenError},
    surroundings::Door,
};

/// The version of what is said.
const VERSION: u32 = 1;

/// How long the other service may take: it answers what it is at first.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long to wait before looking again.
const PAUSE: Duration = Duration::from_millis(20);

/// What a service is among those of its user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rank {
    /// The unit's: it takes over from others.
    Unit,
    /// Started by a command or by hand: it gives way to others.
    Private,
}

/// What a service needs to be the one.
#[derive(Debug, Default)]
pub struct Claim {
    /// The lock; `None` if the folder cannot be used, which is told to whoever asks for a change.
    pub lock: Option<Lock>,
    /// The guards of the service before.
    pub guards: Vec<(LeaseId, OwnedFd)>,
    /// The processes that it watched.
    pub processes: Vec<Process>,
    /// Whether a service that was alive gave them, so that the state is of this boot whatever it says: a container may have
    /// a `boot_id` of its own (systemd-nspawn(1)), which a sandbox in it does not see.
    pub is_handed_over: bool,
    /// Other registries of the user, to be merged or deleted.
    pub others: Others,
}

/// Why this process does not become the service.
#[derive(Debug)]
pub enum Refused {
    /// Another one lives; its process, where the kernel tells it.
    Lives(PathBuf, Option<u32>),
    /// Another one has the lock and does not answer.
    Silent(PathBuf, Option<u32>),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let process = |pid: &Option<u32>| match pid {
            Some(pid) => format!("process {pid}"),
            None => "a process that is not visible here".to_owned(),
        };
        match self {
            Self::Lives(folder, pid) => write!(
                f,
                "another styxy service, {}, has the state folder {}: there is one for each user",
                process(pid),
                folder.display()
            ),
            Self::Silent(folder, pid) => {
                let folder = folder.display();
                write!(f, "{} has the state folder {folder} and does not answer", process(pid))?;
                match pid {
                    Some(pid) => {
                        write!(f, ": end it with \"kill {pid}\", or with \"kill -9 {pid}\"")
                    }
                    None => write!(
                        f,
                        ": end the styxy service on the other machine or in the container"
                    ),
                }
            }
        }
    }
}

impl std::error::Error for Refused {}

impl Refused {
    fn lives(folder: &Path) -> Self {
        Self::Lives(folder.to_owned(), lock::holder(folder))
    }

    fn silent(folder: &Path) -> Self {
        Self::Silent(folder.to_owned(), lock::holder(folder))
    }
}

/// The question of the next service.
#[derive(Debug, Serialize, Deserialize)]
struct Request {
    hand_over: u32,
    /// The version of the program.
    styxy: String,
}

/// A line of the answer.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Answer {
    version: u32,
    /// Leases, each with its guard as a descriptor.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    guards: Vec<LeaseId>,
    /// Processes by number and start, each with its pidfd as a descriptor.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    processes: Vec<(u32, u64)>,
    /// This was all of it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    done: bool,
}

/// Becomes the service of a state folder. Waits until the one before has ended, if it hands over or is ending anyway.
pub fn claim(folder: &Path, rank: Rank) -> Result<Claim, Refused> {
    let mut claim = Claim::default();
    let until = Instant::now() + PATIENCE;
    loop {
        match Lock::try_take(folder) {
            Ok(lock) => return Ok(Claim { lock: Some(lock), ..claim }),
            Err(OpenError::Locked(_)) => {}
            Err(_) => return Ok(claim),
        }
        match (door(folder).connect_now(), rank) {
            (Ok(_), Rank::Private) => return Err(Refused::lives(folder)),
            (Ok(stream), Rank::Unit) => {
                // What it could not hand over is bound or found again.
                let _ = take_over(&stream, &mut claim);
            }
            // It is starting or ending; or it is none that answers.
            (Err(_), _) => {}
        }
        if Instant::now() > until {
            return Err(Refused::silent(folder));
        }
        thread::sleep(PAUSE);
    }
}

/// Has the other service hand over what it holds.
fn take_over(stream: &UnixStream, claim: &mut Claim) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let version = env!("CARGO_PKG_VERSION").to_owned();
    wire::send(stream, &Request { hand_over: VERSION, styxy: version }, &[])?;
    let mut reader = wire::Reader::new(stream);
    while let Some((answer, mut descriptors)) = reader.next::<Answer>()? {
        let guards = answer.guards.len().min(descriptors.len());
        claim.is_handed_over = true;
        claim.guards.extend(answer.guards.into_iter().zip(descriptors.drain(..guards)));
        let processes = answer.processes.into_iter().zip(descriptors);
        claim.processes.extend(processes.map(|((pid, start), pidfd)| Process {
            pid,
            start,
            pidfd,
        }));
        if answer.done {
            break;
        }
    }
    Ok(())
}

/// The socket beside the lock.
pub fn door(folder: &Path) -> Door {
    Door::named(process::uid(), folder.to_owned(), "handover.sock")
}

#[cfg(test)]
mod tests;
