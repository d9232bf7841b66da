//! Addresses that programs pass to system calls, and which of them are this machine's.

use std::{
    collections::HashSet,
    net::{IpAddr, SocketAddr, SocketAddrV4, SocketAddrV6},
    os::fd::{AsRawFd, OwnedFd},
};

use nix::{
    errno::Errno,
    ifaddrs::getifaddrs,
    libc::{AF_INET, AF_INET6, RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR},
    sys::socket::{
        AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
    },
};

/// The length of the longest address that is of interest, `struct sockaddr_in6`, in bytes.
pub const LONGEST: usize = 28;
/// Without the scope, as RFC 2133 had it: the kernel takes both.
const OLD_IPV6: usize = 24;
/// `struct sockaddr_in`, in bytes.
const IPV4: usize = 16;

/// Reads an address as the kernel does (ip(7), ipv6(7)); `None` if it is of another family, or too short.
pub fn parse(bytes: &[u8]) -> Option<SocketAddr> {
    let family = u16::from_ne_bytes(array(bytes, 0)?);
    let port = u16::from_be_bytes(array(bytes, 2)?);
    match i32::from(family) {
        AF_INET if bytes.len() >= IPV4 => {
            let address: [u8; 4] = array(bytes, 4)?;
            Some(SocketAddrV4::new(address.into(), port).into())
        }
        AF_INET6 if bytes.len() >= OLD_IPV6 => {
            let flow = u32::from_ne_bytes(array(bytes, 4)?);
            let address: [u8; 16] = array(bytes, 8)?;
            let scope = array(bytes, 24).map_or(0, u32::from_ne_bytes);
            Some(SocketAddrV6::new(address.into(), port, flow, scope).into())
        }
        _ => None,
    }
}

/// The bytes of an address, as `getsockname(2)` has them.
pub fn bytes(address: SocketAddr) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(LONGEST);
    let family = if address.is_ipv4() { AF_INET } else { AF_INET6 };
    bytes.extend(u16::try_from(family).unwrap_or_default().to_ne_bytes());
    bytes.extend(address.port().to_be_bytes());
    match address {
        SocketAddr::V4(address) => {
            bytes.extend(address.ip().octets());
            bytes.extend([0; 8]);
        }
        SocketAddr::V6(address) => {
            bytes.extend(address.flowinfo().to_ne_bytes());
            bytes.extend(address.ip().octets());
            bytes.extend(address.scope_id().to_ne_bytes());
        }
    }
    bytes
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

/// The addresses of this machine, in its network namespace.
pub struct Local {
    known: HashSet<IpAddr>,
    /// Where the kernel says that they have changed (rtnetlink(7)); without it they are looked up each time.
    changes: Option<OwnedFd>,
}

impl Local {
    /// Looks them up.
    pub fn of_this_machine() -> Self {
        let changes = changes().ok();
        Self { known: all(), changes }
    }

    /// Whether a connection to this address stays on this machine.
    pub fn contains(&mut self, address: IpAddr) -> bool {
        let address = match address {
            IpAddr::V6(address) => address.to_ipv4_mapped().map_or(address.into(), IpAddr::from),
            address @ IpAddr::V4(_) => address,
        };
        // A connection to the unspecified address goes to the loopback interface.
        if address.is_loopback() || address.is_unspecified() {
            return true;
        }
        if self.have_changed() {
            self.known = all();
        }
        self.known.contains(&address)
    }

    fn have_changed(&self) -> bool {
        let Some(changes) = &self.changes else { return true };
        let mut changed = false;
        let mut buffer = [0; 4096];
        loop {
            match recv(changes.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(0) | Err(Errno::EAGAIN) => return changed,
                Ok(_) => changed = true,
                Err(Errno::EINTR) => {}
                // Messages were lost.
                Err(_) => return true,
            }
        }
    }
}

fn changes() -> Result<OwnedFd, Errno> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let family = AddressFamily::Netlink;
    let socket = socket(family, SockType::Raw, flags, SockProtocol::NetlinkRoute)?;
    let groups = (RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR).cast_unsigned();
    bind(socket.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
    Ok(socket)
}

fn all() -> HashSet<IpAddr> {
    let interfaces = getifaddrs().into_iter().flatten();
    let addresses = interfaces.filter_map(|interface| {
        let address = interface.address?;
        let four = address.as_sockaddr_in().map(|address| address.ip().into());
        let six = || address.as_sockaddr_in6().map(|address| address.ip().into());
        four.or_else(six)
    });
    addresses.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_as_it_was_written() {
        for text in ["127.0.0.1:3001", "[::1]:5173", "[fe80::1%3]:80", "0.0.0.0:65535"] {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(parse(&bytes(address)), Some(address));
        }
        let old = &bytes("[::1]:80".parse().unwrap())[..OLD_IPV6];
        assert_eq!(parse(old), Some("[::1]:80".parse().unwrap()));
    }

    #[test]
    fn what_is_no_address_of_the_internet_is_left_alone() {
        let whole = bytes("127.0.0.1:80".parse().unwrap());
        for length in 0..IPV4 {
            assert_eq!(parse(&whole[..length]), None);
        }
        let mut unix = whole.clone();
        unix[0] = 1;
        assert_eq!(parse(&unix), None);
        let six = bytes("[::1]:80".parse().unwrap());
        assert_eq!(parse(&six[..OLD_IPV6 - 1]), None);
    }

    #[test]
    fn this_machine_has_every_address_of_its_loopback_interface() {
        let mut local = Local::of_this_machine();
        for text in ["127.0.0.1", "127.45.6.7", "::1", "0.0.0.0", "::", "::ffff:127.0.0.1"] {
            assert!(local.contains(text.parse().unwrap()), "{text}");
        }
        // For documentation (RFC 5737, RFC 3849).
        for text in ["198.51.100.7", "2001:db8::7", "::ffff:198.51.100.7"] {
            assert!(!local.contains(text.parse().unwrap()), "{text}");
        }
    }
}
