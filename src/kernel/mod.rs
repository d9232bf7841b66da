//! All that asks Linux.
//!
//! - [`listeners`]: which ports are listened on
//! - [`probe`]: whether a port is free at this moment
//! - [`process`]: who a client is, and which boot this is

pub mod listeners;
pub mod probe;
pub mod process;
