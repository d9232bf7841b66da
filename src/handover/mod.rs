//! One service at a time for each registry, and the handover from one to the next.
//!
//! Whoever holds the lock of the state folder is the service. Beside the lock is a socket, `handover.sock`. A
//! service that systemd has started as its unit takes over from whichever service holds the lock: the other one
//! stops accepting requests, answers those that are pending, makes its changes durable, hands over the guards of
//! the leases and the owners that it watches, and exits. A private service gives way: if another one is alive,
//! commands find its door in the folder.
//!
//! The state itself is passed on disk, so nothing is lost if either of them is killed meanwhile; ports are only
//! unguarded until the next service has bound them again.
//!
//! An owner that is a bus connection is found again by its name and the id of the bus. If the next service is on
//! another bus, or on none, it cannot watch the connection, which then counts as ended.
//!
//! The protocol on the socket, in lines of JSON:
//!
//! ```text
//! {"hand_over":1,"styxy":"2.0.0"}                                     the next service
//! {"version":1,"guards":["0b5c…", …],"descriptors":2}                 the present one, repeated as needed
//! {"version":1,"processes":[[4711,123456], …],"descriptors":1}
//! {"version":1,"done":true}                                           then it exits
//! ```
//!
//! `hand_over` is the newest version of the protocol that the next service knows; `version` is the one in use.
//! Unknown keys are ignored, and so are their descriptors: each line contains the number of its descriptors.
//!
//! - this file: becoming the service
//! - [`giver`]: handing over to the next service
//! - [`older`]: state and services of older versions
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

/// The version of the protocol.
const VERSION: u32 = 1;

/// How long the other service may take: it first answers pending requests.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long to wait between attempts.
const PAUSE: Duration = Duration::from_millis(20);

/// The rank of a service among those of its user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rank {
    /// The service of the unit: it takes over from others.
    Unit,
    /// Started by a command or by hand: it gives way to others.
    Private,
}

/// What a process needs to be the service.
#[derive(Debug, Default)]
pub struct Claim {
    /// The lock; `None` if the folder cannot be used, which is reported to callers that request a change.
    pub lock: Option<Lock>,
    /// The guards from the previous service.
    pub guards: Vec<(LeaseId, OwnedFd)>,
    /// The processes that it watched.
    pub processes: Vec<Process>,
    /// Whether the guards and processes come from a running service, so that the state is of this boot whatever
    /// boot id it has: a container may have a `boot_id` of its own (systemd-nspawn(1)), which is not visible to a
    /// sandbox in it.
    pub is_handed_over: bool,
    /// Other registries of the user, to be merged or deleted.
    pub others: Others,
}

/// Why this process does not become the service.
#[derive(Debug)]
pub enum Refused {
    /// Another service is alive: the folder, and its process if the kernel reports it.
    Lives(PathBuf, Option<u32>),
    /// Another process holds the lock and does not answer: the folder, and the process if the kernel reports it.
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

/// The request of the next service.
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
    /// Processes by PID and start time, each with its pidfd as a descriptor.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    processes: Vec<(u32, u64)>,
    /// Whether this is the last line.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    done: bool,
}

/// Becomes the service of a state folder. Waits until the previous one has ended, if it hands over or is ending
/// anyway.
pub fn claim(folder: &Path, rank: Rank) -> Result<Claim, Refused> {
    let mut claim = Claim::default();
    let start = Instant::now();
    loop {
        match Lock::try_take(folder) {
            Ok(lock) => return Ok(Claim { lock: Some(lock), ..claim }),
            Err(OpenError::Locked(_)) => {}
            Err(_) => return Ok(claim),
        }
        match (door(folder).connect_now(), rank) {
            // A child that a killed service had forked holds its lock and its socket until it calls exec.
            (Ok(_), Rank::Private)
                if lock::holder(folder).is_some() || start.elapsed() > lock::LEFTOVER =>
            {
                return Err(Refused::lives(folder));
            }
            (Ok(stream), Rank::Unit) => {
                // What it could not hand over will be bound or found again.
                let _ = take_over(&stream, &mut claim);
            }
            // The other service is starting or ending, or it does not answer on this socket.
            (Ok(_), Rank::Private) | (Err(_), _) => {}
        }
        if start.elapsed() > PATIENCE {
            return Err(Refused::silent(folder));
        }
        thread::sleep(PAUSE);
    }
}

/// Requests what the other service holds, and receives it.
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
