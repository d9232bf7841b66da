//! The server's side of SOCKS version 5 (RFC 1928), as far as browsers use it: without authentication, and only `CONNECT`.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

const VERSION: u8 = 5;
const NO_AUTHENTICATION: u8 = 0;
const NO_ACCEPTABLE_METHOD: u8 = 0xff;
const CONNECT: u8 = 1;
const IPV4: u8 = 1;
const DOMAIN_NAME: u8 = 3;
const IPV6: u8 = 4;

/// Where a client wants to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The host.
    pub host: Host,
    /// The TCP port; 0 is none.
    pub port: u16,
}

/// A host, as a client names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// A name, or what else the resolver knows as an address.
    Name(String),
    /// An address. Some clients send it as a name.
    Address(IpAddr),
}

/// The answer to a request (RFC 1928, 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Reply {
    /// The connection is there; what follows is its content.
    Succeeded = 0,
    /// A failure that none of the others describes.
    Failed = 1,
    /// There is no route to the network.
    NetworkUnreachable = 3,
    /// The host does not answer, or has no address.
    HostUnreachable = 4,
    /// Nobody listens there.
    Refused = 5,
    /// Only `CONNECT` is served.
    CommandNotSupported = 7,
    /// A kind of address that the RFC does not know.
    AddressTypeNotSupported = 8,
}

/// Why there is no target.
#[derive(Debug)]
pub enum Refusal {
    /// The client does not speak this protocol, or has gone.
    NoSocks,
    /// It insists on authentication.
    Method,
    /// Its request is answered with this.
    Request(Reply),
}

impl From<io::Error> for Refusal {
    fn from(_: io::Error) -> Self {
        Self::NoSocks
    }
}

impl Refusal {
    /// Tells the client. One that speaks another protocol, such as HTTP, gets no answer.
    pub async fn answer(self, client: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        match self {
            Self::NoSocks => Ok(()),
            Self::Method => client.write_all(&[VERSION, NO_ACCEPTABLE_METHOD]).await,
            Self::Request(reply) => reply.send(client, None).await,
        }
    }
}

/// Receives a greeting, answers it, and receives the request. Reads nothing of what follows.
pub async fn receive(
    client: &mut (impl AsyncRead + AsyncWrite + Unpin),
) -> Result<Target, Refusal> {
    let [version, count] = array(client).await?;
    if version != VERSION {
        return Err(Refusal::NoSocks);
    }
    let mut methods = vec![0; count.into()];
    client.read_exact(&mut methods).await?;
    if !methods.contains(&NO_AUTHENTICATION) {
        return Err(Refusal::Method);
    }
    client.write_all(&[VERSION, NO_AUTHENTICATION]).await?;

    let [version, command, _reserved, kind] = array(client).await?;
    if version != VERSION {
        return Err(Refusal::NoSocks);
    }
    let host = match kind {
        IPV4 => Host::Address(Ipv4Addr::from(array::<4>(client).await?).into()),
        IPV6 => Host::Address(Ipv6Addr::from(array::<16>(client).await?).into()),
        DOMAIN_NAME => {
            let [length] = array(client).await?;
            let mut name = vec![0; length.into()];
            client.read_exact(&mut name).await?;
            named(name).ok_or(Refusal::Request(Reply::HostUnreachable))?
        }
        // Where its address ends is unknown.
        _ => return Err(Refusal::Request(Reply::AddressTypeNotSupported)),
    };
    let port = u16::from_be_bytes(array(client).await?);
    if command != CONNECT {
        return Err(Refusal::Request(Reply::CommandNotSupported));
    }
    Ok(Target { host, port })
}

/// The host of a name; `None` if no host can have it.
fn named(name: Vec<u8>) -> Option<Host> {
    let name = String::from_utf8(name).ok()?;
    if name.is_empty() || name.contains(|c: char| c.is_control() || c.is_whitespace()) {
        return None;
    }
    let address = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(&name);
    Some(address.parse().map_or(Host::Name(name), Host::Address))
}

async fn array<const N: usize>(client: &mut (impl AsyncRead + Unpin)) -> io::Result<[u8; N]> {
    let mut array = [0; N];
    client.read_exact(&mut array).await?;
    Ok(array)
}

impl Reply {
    /// The reply for a connection that failed.
    pub fn for_error(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset => Self::Refused,
            io::ErrorKind::NetworkUnreachable => Self::NetworkUnreachable,
            io::ErrorKind::HostUnreachable | io::ErrorKind::TimedOut => Self::HostUnreachable,
            _ => Self::Failed,
        }
    }

    /// Sends it, with the proxy's end of the connection.
    pub async fn send(
        self,
        client: &mut (impl AsyncWrite + Unpin),
        bound: Option<SocketAddr>,
    ) -> io::Result<()> {
        let bound = bound.unwrap_or(SocketAddr::from(([0; 4], 0)));
        let mut bytes = vec![VERSION, self as u8, 0];
        match bound.ip() {
            IpAddr::V4(address) => {
                bytes.push(IPV4);
                bytes.extend(address.octets());
            }
            IpAddr::V6(address) => {
                bytes.push(IPV6);
                bytes.extend(address.octets());
            }
        }
        bytes.extend(bound.port().to_be_bytes());
        client.write_all(&bytes).await
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    /// What comes of these bytes, which reach the server in pieces of this size; what it has answered; and what it has left.
    fn received(bytes: &[u8], size: usize) -> (Result<Target, Refusal>, Vec<u8>, Vec<u8>) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (mut client, mut server) = tokio::io::duplex(size);
            let (mut from, mut to) = tokio::io::split(&mut client);
            let send = async {
                // It may be refused before its end.
                let _ = to.write_all(bytes).await;
                let _ = to.shutdown().await;
            };
            let serve = async {
                let result = receive(&mut server).await;
                let mut left = Vec::new();
                let _ = server.read_to_end(&mut left).await;
                drop(server);
                (result, left)
            };
            let mut answer = Vec::new();
            let ((), (result, left), _) = tokio::join!(send, serve, from.read_to_end(&mut answer));
            (result, answer, left)
        })
    }

    fn target(bytes: &[u8]) -> Target {
        received(bytes, 64).0.unwrap()
    }

    /// A request for a name.
    fn for_name(name: &[u8], port: u16) -> Vec<u8> {
        let mut bytes = vec![5, 1, 0, 5, 1, 0, 3, u8::try_from(name.len()).unwrap()];
        bytes.extend(name);
        bytes.extend(port.to_be_bytes());
        bytes
    }

    #[test]
    fn a_target_is_a_name_or_an_address() {
        let name = |name: &str| Host::Name(name.to_owned());
        let address = |text: &str| Host::Address(text.parse().unwrap());
        for (sent, host) in [
            ("localhost", name("localhost")),
            ("shop.localhost.", name("shop.localhost.")),
            ("127.0.0.1", address("127.0.0.1")),
            ("::1", address("::1")),
            ("[::1]", address("::1")),
            // The resolver knows it.
            ("127.1", name("127.1")),
        ] {
            assert_eq!(target(&for_name(sent.as_bytes(), 5173)), Target { host, port: 5173 });
        }
        let four = [5, 2, 2, 0, 5, 1, 0, 1, 127, 0, 0, 1, 0x14, 0x35];
        assert_eq!(target(&four), Target { host: address("127.0.0.1"), port: 5173 });
        let mut six = vec![5, 1, 0, 5, 1, 0, 4];
        six.extend(Ipv6Addr::LOCALHOST.octets());
        six.extend([0, 80]);
        assert_eq!(target(&six), Target { host: address("::1"), port: 80 });
    }

    #[test]
    fn what_is_no_request_of_this_protocol_is_refused_as_the_rfc_says() {
        let refused = |bytes: &[u8]| {
            let (result, answer, _) = received(bytes, 64);
            let refusal = result.unwrap_err();
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let mut more = Vec::new();
            runtime.block_on(refusal.answer(&mut more)).unwrap();
            [answer, more].concat()
        };
        // HTTP, and SOCKS4.
        assert_eq!(refused(b"GET / HTTP/1.1\r\n\r\n"), b"");
        assert_eq!(refused(&[4, 1, 0, 80, 127, 0, 0, 1, 0]), b"");
        // User name and password only, and nothing at all.
        assert_eq!(refused(&[5, 1, 2]), [5, 0xff]);
        assert_eq!(refused(&[5, 0]), [5, 0xff]);
        let none = [0, 1, 0, 0, 0, 0, 0, 0];
        let answered = |reply: u8| [&[5, 0, 5, reply][..], &none].concat();
        // BIND, UDP ASSOCIATE, and an unknown command.
        for command in [2, 3, 9] {
            let request = [5, 1, 0, 5, command, 0, 1, 127, 0, 0, 1, 0, 80];
            assert_eq!(refused(&request), answered(7), "{command}");
        }
        assert_eq!(refused(&[5, 1, 0, 5, 1, 0, 2]), answered(8));
        for name in [&b""[..], b"a b", b"a\0b", b"a\n", b"\xff"] {
            assert_eq!(refused(&for_name(name, 80)), answered(4), "{name:?}");
        }
    }

    #[test]
    fn a_reply_has_the_address_of_the_proxys_end() {
        let sent = |reply: Reply, bound: Option<&str>| {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let mut bytes = Vec::new();
            let bound = bound.map(|bound| bound.parse().unwrap());
            runtime.block_on(reply.send(&mut bytes, bound)).unwrap();
            bytes
        };
        let four = sent(Reply::Succeeded, Some("127.0.0.1:258"));
        assert_eq!(four, [5, 0, 0, 1, 127, 0, 0, 1, 1, 2]);
        let six = sent(Reply::Succeeded, Some("[::1]:258"));
        assert_eq!(six, [&[5, 0, 0, 4][..], &Ipv6Addr::LOCALHOST.octets(), &[1, 2]].concat());
        assert_eq!(sent(Reply::Refused, None), [5, 5, 0, 1, 0, 0, 0, 0, 0, 0]);
    }

    proptest! {
        /// A request means the same in whatever pieces it comes; what follows it is left for the target; and a part of it is none.
        #[test]
        fn a_request_is_read_exactly(name in "[a-z0-9.-]{1,255}", port in any::<u16>(), size in 1..300_usize,
            rest in vec(any::<u8>(), 0..20), cut in any::<proptest::sample::Index>())
        {
            let request = for_name(name.as_bytes(), port);
            let (whole, answer, left) = received(&[request.clone(), rest.clone()].concat(), size);
            prop_assert_eq!(whole.unwrap(), target(&request));
            prop_assert_eq!(answer, [5, 0]);
            prop_assert_eq!(left, rest);
            let (part, _, _) = received(&request[..cut.index(request.len())], size);
            prop_assert!(matches!(part, Err(Refusal::NoSocks)));
        }

        /// Whatever comes, there is an end, and an answer only to what begins as a greeting.
        #[test]
        fn garbage_is_refused(bytes in vec(prop_oneof![any::<u8>(), 0..6_u8], 0..600), size in 1..700_usize) {
            let (result, answer, _) = received(&bytes, size);
            prop_assert!(result.is_err() || bytes.len() >= 10);
            prop_assert!(answer.is_empty() || bytes[0] == 5 && answer == [5, 0]);
        }
    }
}
