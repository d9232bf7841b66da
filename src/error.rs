//! Errors: one enum of kinds, and one table with the names of each at every door.

use std::{fmt, io, path::Path};

use nix::errno::Errno;

/// Why a request was refused, worded for the person who made it, with suggestions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// The kind, which determines names and codes.
    pub kind: ErrorKind,
    /// What is wrong, and why.
    pub message: String,
    /// Suggested remedies, best first.
    pub suggestions: Vec<String>,
}

/// The kinds of refusal; [`ErrorKind::names`] is the table of their names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The request itself is wrong; nothing was changed.
    InvalidArgument,
    /// No service type has this name.
    UnknownServiceType,
    /// The requested port is leased, busy or excluded, and the request accepts no other; or a lease cannot be released while
    /// systemd listens on its port.
    PortInUse,
    /// No port in the type's ranges is free.
    PoolExhausted,
    /// No live lease has this id.
    NoSuchLease,
    /// No instance has registered with this id, or it is gone.
    NoSuchInstance,
    /// The lease has no time limit to restart.
    NoTimeLimit,
    /// Ranges for unknown types are disabled.
    AutoAllocationDisabled,
    /// A limit of the configuration or of the machine is reached.
    LimitExceeded,
    /// The state could not be written, so nothing was granted or released.
    Storage,
    /// The caller is in another network namespace, which has ports of its own.
    OtherNetwork,
    /// The caller is another user, root included.
    OtherUser,
    /// The caller and the service see different configurations, so nothing was granted.
    ConfigurationDiffers,
}

/// A resource that the service has run out of. It says nothing about the requested ports or files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shortage {
    /// File descriptors of this process (`EMFILE`).
    Descriptors,
    /// File descriptors of the whole machine (`ENFILE`).
    MachineDescriptors,
    /// Kernel memory (`ENOBUFS`, `ENOMEM`).
    Memory,
}

impl Shortage {
    /// The shortage that the kernel reported; `None` if the error means something else.
    pub fn of(error: &io::Error) -> Option<Self> {
        match Errno::from_raw(error.raw_os_error()?) {
            Errno::EMFILE => Some(Self::Descriptors),
            Errno::ENFILE => Some(Self::MachineDescriptors),
            Errno::ENOBUFS | Errno::ENOMEM => Some(Self::Memory),
            _ => None,
        }
    }

    /// What is wrong.
    pub fn message(self) -> &'static str {
        match self {
            Self::Descriptors => "the service has no file descriptors left",
            Self::MachineDescriptors => "the machine has no file descriptors left",
            Self::Memory => "the kernel has no memory left",
        }
    }

    fn remedy(self) -> &'static str {
        match self {
            Self::Descriptors => {
                "release leases, or raise LimitNOFILE= of styxy.service (without systemd: `ulimit -n`)"
            }
            Self::MachineDescriptors => "end programs, or raise fs.file-max (sysctl)",
            Self::Memory => "end programs, or give this machine or container more memory",
        }
    }
}

impl From<Shortage> for Error {
    fn from(shortage: Shortage) -> Self {
        let message = format!("{}, so nothing was changed", shortage.message());
        Self::new(ErrorKind::LimitExceeded, message).suggest(shortage.remedy())
    }
}

/// The names of a kind of error at each door.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorNames {
    /// The last part of the D-Bus error name, and the `code` of an HTTP answer.
    pub code: &'static str,
    /// The HTTP status (RFC 9110).
    pub status: u16,
    /// The exit status of the command: 2 if it was used wrongly.
    pub exit: u8,
}

impl ErrorKind {
    /// Every kind.
    pub const ALL: [Self; 13] = [
        Self::InvalidArgument,
        Self::UnknownServiceType,
        Self::PortInUse,
        Self::PoolExhausted,
        Self::NoSuchLease,
        Self::NoSuchInstance,
        Self::NoTimeLimit,
        Self::AutoAllocationDisabled,
        Self::LimitExceeded,
        Self::Storage,
        Self::OtherNetwork,
        Self::OtherUser,
        Self::ConfigurationDiffers,
    ];

    /// The table of names and codes.
    pub const fn names(self) -> ErrorNames {
        let (code, status, exit) = match self {
            Self::InvalidArgument => ("InvalidArgument", 400, 2),
            Self::UnknownServiceType => ("UnknownServiceType", 404, 1),
            Self::PortInUse => ("PortInUse", 409, 1),
            Self::PoolExhausted => ("PoolExhausted", 503, 1),
            Self::NoSuchLease => ("NoSuchLease", 404, 1),
            Self::NoSuchInstance => ("NoSuchInstance", 404, 1),
            Self::NoTimeLimit => ("NoTimeLimit", 409, 1),
            Self::AutoAllocationDisabled => ("AutoAllocationDisabled", 403, 1),
            Self::LimitExceeded => ("LimitExceeded", 429, 1),
            Self::Storage => ("Storage", 507, 1),
            Self::OtherNetwork => ("OtherNetwork", 421, 1),
            Self::OtherUser => ("OtherUser", 403, 1),
            Self::ConfigurationDiffers => ("ConfigurationDiffers", 409, 1),
        };
        ErrorNames { code, status, exit }
    }

    /// The kind with this code.
    pub fn from_code(code: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.names().code == code)
    }
}

impl Error {
    /// An error of this kind, without suggestions.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), suggestions: Vec::new() }
    }

    /// Adds a suggested remedy.
    #[must_use]
    pub fn suggest(mut self, suggestion: impl Into<String>) -> Self {
        self.suggestions.push(suggestion.into());
        self
    }

    /// The request is wrong.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidArgument, message)
    }

    /// The caller is in another network.
    pub fn other_network() -> Self {
        Self::new(
            ErrorKind::OtherNetwork,
            "you are in another network namespace than this service, which cannot see the ports there",
        )
        .suggest("use the command styxy, which starts a service for that namespace, or ask from the service's")
    }

    /// The caller is another user.
    pub fn other_user() -> Self {
        Self::new(ErrorKind::OtherUser, "this is the styxy service of another user")
            .suggest("run styxy without sudo, or with sudo -H for root's own ports")
    }

    /// The state could not be written. A lack of descriptors or memory is reported as such, not as a disk
    /// problem.
    pub fn storage(cause: &io::Error) -> Self {
        if let Some(shortage) = Shortage::of(cause) {
            return shortage.into();
        }
        Self::new(
            ErrorKind::Storage,
            format!("the change could not be stored, so nothing was changed: {cause}"),
        )
        .suggest("free some disk space or make the state folder writable, then try again")
    }

    /// A stored file could not be read or used. The message suits queries as well as changes.
    pub fn unusable(what: &str, path: &Path, cause: &io::Error) -> Self {
        if let Some(shortage) = Shortage::of(cause) {
            return shortage.into();
        }
        let path = path.display();
        let message = format!("{what} cannot be used, and nothing was changed: {path}: {cause}");
        let hint =
            "make it readable and writable for this user, or free some disk space, then try again";
        Self::new(ErrorKind::Storage, message).suggest(hint)
    }

    pub(crate) fn unknown_service_type<'a>(
        name: &str,
        nearest: Option<&str>,
        known: impl Iterator<Item = &'a str>,
    ) -> Self {
        let error =
            Self::new(ErrorKind::UnknownServiceType, format!("there is no service type {name:?}"));
        let known = known.collect::<Vec<_>>().join(", ");
        match nearest {
            Some(nearest) => error.suggest(format!("did you mean {nearest:?}?")),
            None => error,
        }
        .suggest(format!("the known types are: {known}"))
        .suggest("add the type under \"service_types\" in ~/.config/styxy/config.json")
    }
}

/// The message with its first suggestion, for doors that can only show one line.
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match self.suggestions.first() {
            Some(first) => write!(f, "; {first}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_code_of_its_own() {
        for kind in ErrorKind::ALL {
            assert_eq!(ErrorKind::from_code(kind.names().code), Some(kind));
            assert!((400..600).contains(&kind.names().status));
        }
    }
}
