//! Notifications of the kernel that listeners were closed: the `SKNLGRP_*_DESTROY` multicast groups of
//! `sock_diag(7)`, since Linux 4.4 (`linux/sock_diag.h`). No privilege is needed. There is no notification of
//! listen(2).

use std::{
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
};

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
};

use super::{diag, filter, readable::readable};
use crate::port_set::PortSet;

/// `SKNLGRP_INET_TCP_DESTROY`, `SKNLGRP_INET_UDP_DESTROY` and the same for IPv6, one bit each.
const GROUPS: u32 = 0b1111;

/// The offset of the other end's port in a message, which is 0 for a listener: after the `nlmsghdr`, and after
/// four bytes and the own port of the `inet_diag_msg`.
const OTHER_PORT: u32 = 22;

/// The sockets that are closed from now on. Connections, of which there may be thousands per second, are filtered
/// out by the kernel: they do not even wake this process.
#[derive(Debug)]
pub struct Endings(OwnedFd);

impl Endings {
    /// Starts watching.
    pub fn watch() -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let protocol = SockProtocol::NetlinkSockDiag;
        let socket = socket(AddressFamily::Netlink, SockType::Datagram, flags, protocol)?;
        filter::only_with_zeros_at(socket.as_fd(), OTHER_PORT)?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, GROUPS))?;
        Ok(Self(socket))
    }

    /// Waits until sockets are closed, and returns their ports; all ports if notifications were lost because
    /// there were too many at once.
    pub async fn next(&self) -> io::Result<PortSet> {
        readable(self.0.try_clone()?).await?;
        let mut ports = PortSet::default();
        let mut buffer = [0; 8 * 1024];
        loop {
            match recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::empty()).map_err(io::Error::from)
            {
                Ok(length) => diag::ports(&buffer[..length], &mut ports)?,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(ports),
                Err(error) if error.raw_os_error() == Some(nix::libc::ENOBUFS) => {
                    ports = diag::all_ports();
                }
                Err(error) => return Err(error),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        net::{TcpListener, TcpStream, UdpSocket},
        time::Duration,
    };

    use super::*;
    use crate::port::Port;

    /// Waits until the end of a socket on that port is reported. Sockets of other tests are reported, too.
    async fn told(endings: &Endings, port: u16) {
        let port = Port::new(port.into()).unwrap();
        let told = async { while !endings.next().await.unwrap().contains(port) {} };
        tokio::time::timeout(Duration::from_secs(30), told).await.expect("the end is told");
    }

    #[tokio::test]
    async fn the_end_of_a_listener_is_told_on_any_address() {
        let endings = Endings::watch().unwrap();
        for address in ["127.0.0.1:0", "0.0.0.0:0", "[::1]:0", "[::]:0"] {
            let listener = TcpListener::bind(address).unwrap();
            let port = listener.local_addr().unwrap().port();
            drop(listener);
            told(&endings, port).await;
            let socket = UdpSocket::bind(address).unwrap();
            let port = socket.local_addr().unwrap().port();
            drop(socket);
            told(&endings, port).await;
        }
    }

    #[tokio::test]
    async fn the_end_of_a_connection_is_not_told() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let endings = Endings::watch().unwrap();
        let client = TcpStream::connect(address).unwrap();
        let own = Port::new(client.local_addr().unwrap().port().into()).unwrap();
        drop((client, listener.accept().unwrap()));
        // Once a later end is reported, the earlier ones would have been, too.
        drop(listener);
        let port = Port::new(address.port().into()).unwrap();
        let mut ended = PortSet::default();
        while !ended.contains(port) {
            ended.insert_all(&endings.next().await.unwrap());
        }
        assert!(!ended.contains(own));
    }
}
