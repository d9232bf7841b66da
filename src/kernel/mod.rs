//! All that asks Linux.
//!
//! - [`probe`]: whether a port is free at this moment
//! - [`process`]: who a client is, and which boot this is

pub mod probe;
pub mod process;
