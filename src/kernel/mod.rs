//! All that asks Linux.
//!
//! - [`probe`]: whether a port is free at this moment, and the socket that keeps it
//! - [`diag`]: which sockets listen
//! - [`listeners`]: the same with the processes that have them, and [`container`]: where these run
//! - [`guard`]: the sockets that keep leased ports, and their store in the service manager
//! - [`manager`]: what systemd is told, if it has started this process
//! - [`process`]: processes and who they are
//! - [`readable`]: waiting for a descriptor; the one `unsafe`
//! - [`clock`]: the clock that deadlines are counted with

use std::fs;

use crate::port::PortRange;

pub mod clock;
pub mod container;
pub mod diag;
pub mod guard;
pub mod listeners;
pub mod manager;
pub mod probe;
pub mod process;
pub mod readable;

/// The ports that the kernel gives to outgoing connections (`ip_local_port_range`, ip(7)).
pub fn ephemeral_ports() -> Option<PortRange> {
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok()?;
    let mut ports = text.split_whitespace().map(|port| port.parse().ok());
    PortRange::new(ports.next()??, ports.next()??)
}
