//! The owner of a lease, as the command line specifies it.

use std::{process, str::FromStr, sync::Arc};

use super::{CliError, usage};
use crate::{
    error::Error,
    kernel::{
        ancestry::{self, Chosen, Lost},
        process::pidfd,
    },
    lease::UnitName,
    value::{Fields, Value},
};

/// The owner of a lease: the lease ends when it exits.
#[derive(Clone, Debug)]
pub(super) enum Owner {
    None,
    Parent,
    Session,
    Pid(u32),
    Unit(UnitName),
}

impl Owner {
    /// Adds the owner to the options of a request. If it was chosen among the ancestors, returns a sentence
    /// about it.
    pub(super) fn put(&self, options: &mut Fields) -> Result<Option<String>, CliError> {
        let lost = |lost: Lost| usage(&lost.into());
        let chosen = match self {
            Self::None => return Ok(None),
            Self::Unit(unit) => {
                options.put("unit", unit.as_str());
                return Ok(None);
            }
            Self::Pid(pid) => {
                put_process(options, *pid);
                return Ok(None);
            }
            Self::Parent => ancestry::parent_that_stays().map_err(lost)?,
            Self::Session => ancestry::session_leader().map_err(lost)?,
        };
        let words = chosen.to_string();
        options.put("pidfd", Value::Process(chosen.pid, Arc::new(chosen.pidfd)));
        Ok(Some(words))
    }
}

/// Adds a process to the options, as a descriptor if possible: unlike a PID, it means the same process everywhere.
pub(super) fn put_process(options: &mut Fields, pid: u32) {
    match pidfd(pid) {
        Ok(pidfd) => options.put("pidfd", Value::Process(pid, Arc::new(pidfd))),
        // The service reports the error.
        Err(_) => options.put("pid", pid),
    }
}

/// Adds the process of this command to the options.
pub(super) fn put_own_process(options: &mut Fields) {
    put_process(options, process::id());
}

impl FromStr for Owner {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text.split_once(':') {
            None if text == "none" => Ok(Self::None),
            None if text == "parent" => Ok(Self::Parent),
            None if text == "session" => Ok(Self::Session),
            Some(("pid", pid)) => pid
                .parse()
                .map(Self::Pid)
                .map_err(|_| Error::invalid(format!("{pid:?} is not the number of a process"))),
            Some(("unit", unit)) => unit.parse().map(Self::Unit),
            _ => Err(Error::invalid(format!(
                "{text:?} is not an owner: give none, parent, session, pid:N or unit:NAME"
            ))),
        }
    }
}

impl From<Lost> for Error {
    fn from(lost: Lost) -> Self {
        match lost {
            Lost::Outside => Self::invalid(
                "that process is outside of this container, so it cannot be the owner",
            )
            .suggest("give --owner pid:N, or run styxy from a shell inside"),
            Lost::Gone => Self::invalid("the process that should be the owner has exited"),
            Lost::Itself => Self::invalid(
                "this command leads its session, which ends with it, so it cannot be the owner",
            )
            .suggest("give --owner pid:N"),
            Lost::Io(errno) => Self::new(
                crate::error::ErrorKind::LimitExceeded,
                format!("the owner cannot be watched: {errno}"),
            ),
        }
    }
}

impl std::fmt::Display for Chosen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = |comm: &Option<Arc<str>>, pid: u32| match comm {
            Some(comm) => format!("{comm} (PID {pid})"),
            None => format!("PID {pid}"),
        };
        write!(f, "the lease ends with {}", name(&self.comm, self.pid))?;
        for (index, (pid, comm)) in self.passed_over.iter().enumerate() {
            f.write_str(if index == 0 { "; not with " } else { ", " })?;
            f.write_str(&name(comm, *pid))?;
        }
        if self.passed_over.is_empty() {
            Ok(())
        } else {
            f.write_str(", which only waits for this command")
        }
    }
}
