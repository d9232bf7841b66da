//! styxy allocates ports on a Linux machine, so that dev servers, databases, test runs and coding agents never
//! collide. It is a systemd user service that starts on demand. All of it is in this library; the binary is a
//! single call.
//!
//! # Guarantees
//!
//! - No port is leased twice at the same time.
//! - No port is granted while anything on the machine listens on it (TCP) or has it bound (UDP).
//! - Between grant and use, nobody else gets the port by accident: the service holds it, or hands over the
//!   bound socket.
//! - An acknowledged grant or release survives `kill -9` of the service at any instant.
//! - A lease ends as soon as its owner is gone and nobody listens on the port; a port that still has a listener
//!   is never given away.
//! - A project that asks for the same service again gets the same port, whenever it is free.
//! - Every change reaches the journal as one numbered event, and no event is ever missing.
//! - An idle service exits, and no call is lost in a race with its exit.
//! - Invalid input gets an error that says what to do, and changes nothing.
//!
//! # Layout
//!
//! The basic types, which cannot hold invalid values:
//! - [`port`]: ports, protocols, ranges; [`port_set`]: sets of ports. [`service_type`]: classes of services.
//!   [`lease`]: leases and their fields. [`time`]: points in time; [`histogram`]: how long things take. [`request`]: what a client can request.
//!   [`value`]: values as they cross a door. [`token`]: the secret of the HTTP door over TCP.
//! - [`change`]: the changes of the state. [`error`]: the one table of errors. [`obstacle`]: why a port cannot be
//!   granted.
//!
//! The core:
//! - [`registry`]: who has which port, and who gets which one. Without I/O.
//! - [`broker`]: the one path that every change takes: check → registry → kernel → state → audit →
//!   signal.
//!
//! The modules that the broker uses, which do not depend on each other:
//! - [`kernel`]: everything that asks Linux. [`state`]: the log and the snapshot. [`audit`]: writing to the
//!   journal, and reading past events. [`config`]: the layers of the configuration.
//! - [`owners`]: what ends leases: processes, units, connections, deadlines.
//!
//! The doors, which translate and make no decisions:
//! - [`dbus`], [`http`], and [`portserver`], which gives ports to tests. [`socket`]: accepting connections.
//!
//! The service as a process:
//! - [`daemon`]: its life cycle. [`handover`]: how it passes from one process to the next. [`idle`]: what keeps
//!   it from exiting. [`surroundings`]: whose service it is and where its folders are;
//!   [`surroundings::machine`]: which machine and network its ports belong to.
//!
//! The command:
//! - [`cli`]: one file per verb. [`client`]: how a command reaches the service. [`project`]: which services a
//!   project folder will need; a feature, on by default. [`remap`] and [`proxy`]: a localhost of its own for a command,
//!   and for a browser.

#[cfg(any(test, feature = "mcp"))]
mod answers;
pub mod atomic_file;
pub mod audit;
pub mod auto_allocation;
pub mod broker;
pub mod change;
pub mod cli;
pub mod client;
pub mod config;
pub mod daemon;
pub mod dbus;
#[cfg(test)]
mod doors;
pub mod error;
#[cfg(all(any(test, fuzzing), feature = "project"))]
pub mod fuzz;
pub mod handover;
pub mod histogram;
pub mod http;
pub mod idle;
pub mod kernel;
pub mod lease;
pub mod obstacle;
pub mod owners;
pub mod port;
pub mod port_set;
pub mod portserver;
#[cfg(feature = "project")]
pub mod project;
pub mod proxy;
pub mod registry;
pub mod remap;
pub mod request;
pub mod service_type;
pub mod socket;
pub mod state;
pub mod surroundings;
pub mod time;
pub mod token;
pub mod value;
mod word;
