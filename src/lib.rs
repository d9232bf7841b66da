//! styxy hands out ports on a Linux machine, so that dev servers, databases, test runs and coding
//! agents never collide. It is a systemd user service that starts on demand; this library is all of
//! it, and the binary is one call.
//!
//! # What it promises
//!
//! - No port is leased twice at the same time.
//! - No port is granted while anything on the machine listens on it (TCP) or has it bound (UDP).
//! - Between grant and use nobody else gets the port by accident: the service holds it, or hands over
//!   the bound socket.
//! - An acknowledged grant or release survives `kill -9` of the service at any instant.
//! - A lease ends as soon as its owner is gone and nobody listens on the port; a port that is still
//!   listened on is never given away.
//! - The same project asking for the same service gets the same port again, whenever it is free.
//! - Every change reaches the journal as one numbered event, and none is ever missing.
//! - An idle service ends, and no call is lost in the race with its end.
//! - Bad input gets an error that says what to do, and changes nothing.
//!
//! # Layout
//!
//! The words of the trade, as types that cannot hold a wrong value:
//! - [`port`]: ports, protocols, ranges. [`service_type`]: classes of services. [`lease`]: leases and
//!   what describes them. [`time`]: moments. [`request`]: what a client may ask. [`value`]:
//!   values as they cross a door.
//! - [`change`]: what can happen to the state. [`error`]: the one table of what goes wrong.
//!
//! The core:
//! - [`registry`]: who has what, and who gets what. Pure.
//! - [`broker`]: the one path that every change takes: check → registry → kernel → state → audit →
//!   signal.
//!
//! What the broker uses; none of these knows another:
//! - [`kernel`]: all that asks Linux. [`state`]: the log and the snapshot. [`audit`]: the way to the
//!   journal. [`config`]: the layers of the configuration.
//! - [`owners`]: what ends leases: processes, units, connections, deadlines.
//!
//! The doors, which translate and decide nothing:
//! - [`dbus`] and [`http`].
//!
//! The service as a process:
//! - [`daemon`]: its life. [`handover`]: how it passes from one process to the next. [`idle`]: what keeps it
//!   from ending. [`surroundings`]: whose it is and where its folders are; [`surroundings::machine`]: whose ports those are.
//!
//! The command:
//! - [`cli`]: one file a verb. [`client`]: how a command reaches the service. [`project`]: what a
//!   project folder says it will need.

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
pub mod error;
pub mod handover;
pub mod http;
pub mod idle;
pub mod kernel;
pub mod lease;
pub mod owners;
pub mod port;
pub mod project;
pub mod registry;
pub mod request;
pub mod service_type;
pub mod state;
pub mod surroundings;
pub mod time;
pub mod value;
mod word;
