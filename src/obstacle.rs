//! Why a port cannot be granted: what the registry knows of it, and what the kernel reports.

use std::sync::Arc;

use crate::{
    error::Shortage,
    lease::Lease,
    port::{Port, Protocol},
};

/// Why a port cannot be granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// It is leased.
    Leased(Arc<Lease>),
    /// The configuration excludes it.
    Excluded,
    /// Something on the machine has it.
    InUse(InUse),
    /// The request is for a port that a server of this user listens on, and none does.
    NoListener,
    /// Ordinary users may not bind it (`ip_unprivileged_port_start`, see ip(7)).
    Privileged,
    /// The system lacks the resources to find out, for this or any other port.
    Shortage(Shortage),
}

/// What has a port that is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InUse {
    /// Some socket: all that is known is that the port cannot be bound.
    Socket,
    /// A socket that listens (TCP) or is bound (UDP).
    Listener,
    /// A TCP socket that is bound without listening, as the guard of another user's service is.
    Bound,
    /// A connection to elsewhere, of which it is the source port.
    Connection,
}

impl InUse {
    /// The word for it in answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Socket => "socket",
            Self::Listener => "listener",
            Self::Bound => "bound",
            Self::Connection => "connection",
        }
    }
}

impl Obstacle {
    /// The word for it in answers.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Leased(_) => "leased",
            Self::Excluded => "excluded",
            Self::InUse(_) => "in_use",
            Self::NoListener => "no_listener",
            Self::Privileged => "privileged",
            Self::Shortage(_) => "shortage",
        }
    }

    /// Why the port cannot be had, for people.
    pub fn describe(&self, port: Port, protocol: Protocol) -> String {
        let protocol = protocol.in_words();
        match self {
            Self::Leased(lease) => {
                let name = lease.name().map(|n| format!(" {n}"));
                let project = lease.project_path.as_ref().map(|p| format!(" of {p}"));
                format!(
                    "{protocol} port {port} is leased to {}{}{} (lease {})",
                    lease.service_type,
                    name.unwrap_or_default(),
                    project.unwrap_or_default(),
                    lease.lease_id
                )
            }
            Self::Excluded => format!("port {port} is excluded by the configuration"),
            Self::InUse(InUse::Socket | InUse::Listener) => {
                format!("{protocol} port {port} is in use by another program")
            }
            Self::InUse(InUse::Bound) => format!(
                "{protocol} port {port} is reserved by another program, which has it bound without \
                 listening, as another user's styxy does"
            ),
            Self::InUse(InUse::Connection) => {
                format!("{protocol} port {port} is in use by an outgoing connection")
            }
            Self::NoListener => format!("nobody listens on {protocol} port {port}"),
            Self::Privileged => {
                format!("port {port} is reserved for privileged programs by the kernel")
            }
            Self::Shortage(shortage) => shortage.message().to_owned(),
        }
    }
}
