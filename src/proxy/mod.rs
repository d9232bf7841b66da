//! A SOCKS5 proxy for whom `localhost` is that of one project: `styxy browse` runs it.
//!
//! - [`socks`]: the protocol (RFC 1928)
//! - this file: accepting connections, which targets are this machine, and passing on what a connection carries
//!
//! Every program of the machine can connect to a port of 127.0.0.1, so each connection is first checked for its user.

pub mod socks;

use std::{
    cell::RefCell,
    convert::Infallible,
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream, lookup_host},
    sync::Semaphore,
    task::spawn_local,
    time::{sleep, timeout},
};

use self::socks::{Host, Reply, Target};
use crate::{
    kernel::{diag, probe},
    port::Port,
    remap::address::Local,
};

/// How many connections there may be at once. Browsers have at most a few hundred to a proxy.
const MOST: usize = 1024;
/// How long a client may take to say where it wants to go.
const HEADER: Duration = Duration::from_secs(10);
/// How long a connection to a target may take.
const CONNECTING: Duration = Duration::from_secs(30);
/// The pause after a connection that could not be accepted, for example because no descriptor is left.
const PAUSE: Duration = Duration::from_millis(50);

/// The ports of this machine that clients of the proxy reach.
pub trait Localhost {
    /// The port that is really meant; `None` if it is not reached. Fails if that cannot be found out.
    fn real(&self, port: Port) -> impl Future<Output = Result<Option<Port>, Unknown>>;
}

/// Which port is meant cannot be found out; whoever was asked has said why.
#[derive(Clone, Copy, Debug)]
pub struct Unknown;

/// A proxy that listens.
#[derive(Debug)]
pub struct Proxy {
    listener: TcpListener,
    address: SocketAddr,
}

impl Proxy {
    /// Listens on a port of the loopback address that the kernel chooses.
    pub async fn bind() -> io::Result<Self> {
        let listener = TcpListener::bind((probe::loopback(), 0)).await?;
        let address = listener.local_addr()?;
        Ok(Self { listener, address })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves connections of this user. Must run in a [`tokio::task::LocalSet`].
    pub async fn serve(self, localhost: impl Localhost + 'static) -> Infallible {
        let proxy = Rc::new(Served { localhost, here: RefCell::new(Local::of_this_machine()) });
        let room = Arc::new(Semaphore::new(MOST));
        let user = nix::unistd::geteuid().as_raw();
        loop {
            let (Ok((client, peer)), Ok(local)) =
                (self.listener.accept().await, self.listener.local_addr())
            else {
                sleep(PAUSE).await;
                continue;
            };
            // Before it takes room.
            if diag::user_of(peer, local) != Some(user) {
                continue;
            }
            // The others wait in the backlog; the semaphore is never closed.
            let Ok(place) = Arc::clone(&room).acquire_owned().await else { continue };
            let proxy = Rc::clone(&proxy);
            spawn_local(async move {
                // Whoever is gone cannot be told.
                let _ = proxy.converse(client).await;
                drop(place);
            });
        }
    }
}

/// What all connections of a proxy use.
struct Served<L> {
    localhost: L,
    here: RefCell<Local>,
}

impl<L: Localhost> Served<L> {
    /// Serves one connection to its end.
    async fn converse(&self, mut client: TcpStream) -> io::Result<()> {
        client.set_nodelay(true)?;
        let target = match timeout(HEADER, socks::receive(&mut client)).await? {
            Ok(target) => target,
            Err(refusal) => return refusal.answer(&mut client).await,
        };
        let connected = timeout(CONNECTING, self.connect(&target)).await;
        let mut server = match connected.unwrap_or(Err(Reply::HostUnreachable)) {
            Ok(server) => server,
            Err(reply) => return reply.send(&mut client, None).await,
        };
        server.set_nodelay(true)?;
        Reply::Succeeded.send(&mut client, server.local_addr().ok()).await?;
        copy_bidirectional(&mut client, &mut server).await.map(drop)
    }

    /// Connects to a target; the reply says why that failed.
    async fn connect(&self, target: &Target) -> Result<TcpStream, Reply> {
        let addresses: Vec<_> = match &target.host {
            Host::Address(address) => vec![*address],
            // No name server is asked for what can be nothing else.
            Host::Name(name) if is_this_machine(name) => vec![Ipv4Addr::LOCALHOST.into()],
            Host::Name(name) => {
                let found = lookup_host((name.as_str(), target.port)).await;
                found.map_err(|_| Reply::HostUnreachable)?.map(|found| found.ip()).collect()
            }
        };
        // One address is enough: a name that has others as well is no way around the project's localhost.
        let is_here = addresses.iter().any(|address| self.here.borrow_mut().contains(*address));
        if !is_here {
            return to_any(addresses, target.port).await;
        }
        let asked = Port::new(target.port.into()).ok_or(Reply::Refused)?;
        let real = self.localhost.real(asked).await.map_err(|Unknown| Reply::Failed)?;
        let real = real.ok_or(Reply::Refused)?;
        // Most servers listen on one of these two, or on all addresses; some on another one alone.
        let loopback = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
        let others = addresses.into_iter().filter(|address| !loopback.contains(address));
        to_any(loopback.into_iter().chain(others), real.get()).await
    }
}

/// Connects to the first of these addresses that accepts a connection; else the reply is that for the last.
async fn to_any(
    addresses: impl IntoIterator<Item = IpAddr>,
    port: u16,
) -> Result<TcpStream, Reply> {
    let mut reply = Reply::HostUnreachable;
    for address in addresses {
        match TcpStream::connect((address, port)).await {
            Ok(stream) => return Ok(stream),
            Err(error) => reply = Reply::for_error(&error),
        }
    }
    Err(reply)
}

/// Whether a host is this machine by its name alone: `localhost` and what is below it (RFC 6761, 6.3), and the name of the
/// machine. No other name is certain before it is looked up.
fn is_this_machine(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    let own = || fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name == "localhost" || name.ends_with(".localhost") || name == own().trim().to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn localhost_is_this_machine_in_any_spelling_and_nothing_that_only_looks_like_it() {
        let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
        let host = host.trim().to_uppercase();
        for name in
            ["localhost", "LocalHost", "localhost.", "shop.localhost", "a.b.localhost.", &host]
        {
            assert!(is_this_machine(name), "{name}");
        }
        for name in ["localhost.example", "notlocalhost", "localhost.localdomain.example"] {
            assert!(!is_this_machine(name), "{name}");
        }
    }
}
