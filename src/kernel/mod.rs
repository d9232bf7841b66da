//! The interface to Linux.
//!
//! - [`probe`]: whether a port is free at this moment, and the socket that reserves it
//! - [`diag`]: the sockets that exist, for code that does not grant ports
//! - [`endings`]: the end of listeners, as an event
//! - [`listeners`]: listeners with the processes that have them open, and [`container`]: where these run
//! - [`guard`]: the sockets that keep leased ports, and their store in the service manager; [`shelf`]: where they are
//!   until they are stored
//! - [`manager`]: notifications to systemd, if it started this process
//! - [`network`]: the network namespace of a process, to which its ports belong
//! - [`memory`]: files in memory
//! - [`process`]: processes and their identity, and [`ancestry`]: who started them
//! - [`readable`]: waiting for a descriptor
//! - [`detach`]: dropping what a process inherits, and starting one that is nobody's child; `unsafe` is used in these
//!   two, `filter`, `landlock`, `network` and [`unread`]: what was sent and not received yet
//! - [`landlock`]: how the service limits itself
//! - [`sandbox`]: whether the service's sandbox can be set up here, and which of its layers are in force
//! - [`clock`]: the clock for deadlines

use std::fs;

use crate::{port::PortRange, port_set::PortSet};

pub mod ancestry;
pub mod clock;
pub mod container;
pub mod detach;
pub mod diag;
pub mod endings;
mod filter;
pub mod guard;
pub mod landlock;
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

/// The ports that the kernel assigns to outgoing connections (`ip_local_port_range`, ip(7)).
pub fn ephemeral_ports() -> Option<PortRange> {
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok()?;
    let mut ports = text.split_whitespace().map(|port| port.parse().ok());
    PortRange::new(ports.next()??, ports.next()??)
}

/// The ports that the kernel does not assign to outgoing connections, even in that range
/// (`ip_local_reserved_ports`, ip(7)).
pub fn reserved_ports() -> PortSet {
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_reserved_ports").unwrap_or_default();
    let ranges = text.trim().split(',').filter_map(|part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        PortRange::new(first.parse().ok()?, last.parse().ok()?)
    });
    ranges.collect()
}

/// The warning for a service type's range if the kernel assigns ports of it to outgoing connections.
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
