//! All that asks Linux.
//!
//! - [`probe`]: whether a port is free at this moment, and the socket that keeps it
//! - [`diag`]: which ports are listened on
//! - [`guard`]: the sockets that keep leased ports, and their store in the service manager
//! - [`process`]: processes and who they are
//! - [`readable`]: waiting for a descriptor; the one `unsafe`
//! - [`clock`]: the clock that deadlines are counted with

pub mod clock;
pub mod diag;
pub mod guard;
pub mod probe;
pub mod process;
pub mod readable;
