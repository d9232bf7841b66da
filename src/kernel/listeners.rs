//! Which ports are listened on, from the tables of `/proc/net` (proc(5)).

use std::fs;

use crate::{
    port::{Port, Protocol},
    registry::PortSet,
};

/// The ports that something listens on (TCP) or has bound (UDP), on any address.
pub fn listened(protocol: Protocol) -> PortSet {
    // include/net/tcp_states.h: 0A is TCP_LISTEN; an unconnected UDP socket shows 07.
    let (tables, state) = match protocol {
        Protocol::Tcp => (["/proc/net/tcp", "/proc/net/tcp6"], "0A"),
        Protocol::Udp => (["/proc/net/udp", "/proc/net/udp6"], "07"),
    };
    let mut ports = PortSet::default();
    for table in tables {
        let text = fs::read_to_string(table).unwrap_or_default();
        text.lines().skip(1).filter_map(|line| port(line, state)).for_each(|p| ports.insert(p));
    }
    ports
}

/// The port of a line, if its socket is in that state: `sl local_address rem_address st …`.
fn port(line: &str, state: &str) -> Option<Port> {
    let mut words = line.split_ascii_whitespace().skip(1);
    let (_, port) = words.next()?.rsplit_once(':')?;
    let have = words.nth(1)?;
    (have == state).then(|| u64::from_str_radix(port, 16).ok().and_then(Port::new))?
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};

    use super::*;

    #[test]
    fn listeners_are_seen_on_either_family() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(address).unwrap();
            let port = Port::new(listener.local_addr().unwrap().port().into()).unwrap();
            assert!(listened(Protocol::Tcp).contains(port), "{address}");
            let socket = UdpSocket::bind(address).unwrap();
            let port = Port::new(socket.local_addr().unwrap().port().into()).unwrap();
            assert!(listened(Protocol::Udp).contains(port), "{address}");
        }
    }
}
