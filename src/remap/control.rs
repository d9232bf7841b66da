//! What front and supervisor tell each other: lines of JSON over a pair of sockets.

use std::{
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    sync::Mutex,
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::table::{Mapping, Mode};
use crate::port::{Port, Protocol};

/// What the supervisor is to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Task {
    /// The project.
    pub project: String,
    /// How ports that nobody of the project has are treated.
    pub mode: Mode,
    /// The type of the leases.
    pub service_type: String,
    /// The ports that are leased before the command is started.
    pub maps: Vec<Named>,
    /// The ports of the machine that are reached.
    pub reach: Vec<Port>,
    /// Whether programs are told the port that they asked for, instead of the real one.
    pub lies: bool,
    /// Whether `io_uring(7)` stays allowed.
    pub rings: bool,
    /// Whether everything ends with the command.
    pub kills: bool,
    /// Whether only the guard of this lease is to be closed before the command binds its port.
    pub guarded: Option<Mapping>,
}

/// A port that is leased before the start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    /// What programs ask for.
    pub asked: Port,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The type of the lease.
    pub service_type: String,
}

/// What the supervisor says.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Said {
    /// The command is about to be executed, as this process.
    Started(u32),
    /// The command cannot be started; nothing of it runs.
    Refused(Refusal),
    /// The command cannot be executed: an error number.
    NotExecuted(i32),
    /// A port is another one really.
    Mapped {
        /// The mapping.
        mapping: Mapping,
        /// The lease, as the service has answered it.
        lease: serde_json::Value,
    },
    /// A connection was refused.
    NotReached {
        /// The port.
        port: Port,
        /// Whose it is, if another project has it.
        project: Option<String>,
    },
    /// A port could not be leased: why.
    NoLease(Port, String),
    /// A process cannot be read, so its ports are not mapped: its number and name.
    Unreadable(u32, String),
    /// The command has ended.
    Ended {
        /// Its status.
        status: Status,
        /// What it has left: numbers and names of processes.
        left: Vec<(u32, String)>,
    },
}

/// How a process has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// With this exit code.
    Exited(i32),
    /// By this signal.
    Killed(i32),
}

/// Why nothing is remapped here.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// The kernel has no such filter: an error number.
    NoFilter(i32),
    /// The program is supervised already.
    Supervised,
    /// The supervisor may not take descriptors from its child, or read it: an error number.
    NotAllowed(i32),
    /// A port could not be leased.
    NoLease(String),
    /// Another error of the system.
    System(String),
}

/// One end of the pair.
#[derive(Debug)]
pub struct Channel {
    stream: UnixStream,
    /// Several threads speak.
    turn: Mutex<()>,
}

impl Channel {
    /// The end with this socket.
    pub fn new(stream: UnixStream) -> Self {
        Self { stream, turn: Mutex::new(()) }
    }

    /// Says something if that needs no waiting, else it is lost: a front that is stopped must not stop the supervisor.
    pub fn mention(&self, what: &impl Serialize) {
        let mut writable = [PollFd::new(&self.stream, PollFlags::OUT)];
        let ready = poll(&mut writable, Some(&Timespec::default()));
        // The kernel says so only while there is room for more than any of these lines (unix(7)).
        if ready.is_ok_and(|ready| ready > 0) {
            self.say(what);
        }
    }

    /// Says something, and waits until there is room for it. If nobody listens any more, it is lost.
    pub fn say(&self, what: &impl Serialize) {
        let Ok(mut line) = serde_json::to_string(what) else { return };
        line.push('\n');
        let _turn = self.turn.lock();
        let _ = (&self.stream).write_all(line.as_bytes());
    }

    /// What the other side says, until it is gone.
    pub fn heard<T: DeserializeOwned>(&self) -> std::io::Result<impl Iterator<Item = T> + use<T>> {
        let lines = BufReader::new(self.stream.try_clone()?).lines();
        Ok(lines.map_while(Result::ok).filter_map(|line| serde_json::from_str(&line).ok()))
    }

    /// The socket.
    pub fn stream(&self) -> &UnixStream {
        &self.stream
    }
}
