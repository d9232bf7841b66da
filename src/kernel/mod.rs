//! All that asks Linux.
//!
//! - [`probe`]: whether a port is free at this moment, and the socket that reserves it
//! - [`diag`]: which sockets there are, for whoever only looks
//! - [`endings`]: the end of listeners, as an event
//! - [`listeners`]: the same with the processes that have them, and [`container`]: where these run
//! - [`guard`]: the sockets that keep leased ports, and their store in the service manager; [`shelf`]: where they are until
//!   they are stored
//! - [`manager`]: what systemd is told, if it has started this process
//! - [`network`]: the network that a process is in, and with it its ports
//! - [`memory`]: files that are only in memory
//! - [`process`]: processes and who they are, and [`ancestry`]: who started them
//! - [`readable`]: waiting for a descriptor
//! - [`detach`]: letting go of what a process inherits, and starting one that is nobody's child; `unsafe` is in these two, `filter`,
//!   `network` and [`unread`]: what was sent and is not received yet
//! - [`sandbox`]: whether the service's sandbox can be set up here, and which layers of it are in force
//! - [`clock`]: the clock that deadlines are counted with

use std::fs;

use crate::{port::PortRange, registry::PortSet};

pub mod ancestry;
pub mod clock;
pub mod container;
pub mod detach;
pub mod diag;
pub mod endings;
mod filter;
pub mod guard;
pub mod listeners;
pub mod manager;
pub mod memory;
pub mod network;
pub mod probe;
pub mod process;
pub mod program;
pub mod readable;
pub mod sandbox;
pub mod shelf;
pub mod unread;

/// The ports that the kernel gives to outgoing connections (`ip_local_port_range`, ip(7)).
pub fn ephemeral_ports() -> Option<PortRange> {
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok()?;
    let mut ports = text.split_whitespace().map(|port| port.parse().ok());
    PortRange::new(ports.next()??, ports.next()??)
}

/// The ports of those that the kernel does not give away after all (`ip_local_reserved_ports`, ip(7)).
pub fn reserved_ports() -> PortSet {
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_reserved_ports").unwrap_or_default();
    let ranges = text.trim().split(',').filter_map(|part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        PortRange::new(first.parse().ok()?, last.parse().ok()?)
    });
    ranges.collect()
}

/// What to tell of a service type's range if the kernel gives ports of it to outgoing connections.
pub fn given_away(range: PortRange) -> Option<String> {
    let reserved = reserved_ports();
    let ephemeral = ephemeral_ports().filter(|ephemeral| ephemeral.overlaps(range))?;
    let is_open = range.ports().any(|port| ephemeral.contains(port) && !reserved.contains(port));
    is_open.then(|| {
        format!(
            "the kernel gives ports of {range} to outgoing connections as well \
             (ip_local_port_range {ephemeral}); add them to net.ipv4.ip_local_reserved_ports (sysctl)"
        )
    })
}
