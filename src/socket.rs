//! The sockets of the doors: accepting connections, a bounded number of them at once.

mod room;

use std::{io, sync::Arc, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::watch,
};

use self::room::Room;
pub(crate) use self::room::{Busy, Place};

/// The most connections of a socket that are open at once. One more has that closed which has been silent for longest. Each
/// takes up to three descriptors, and without free descriptors the service could grant nothing.
const MOST_CONNECTIONS: usize = 512;

/// Who serves the connections that wait on a socket when this service ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backlog {
    /// This service: nobody else has the socket, and its file is deleted.
    Ours,
    /// The next service: systemd keeps the socket.
    Systemds,
}

/// A socket that accepts connections.
pub(crate) trait Listener: Sized {
    /// A connection.
    type Stream;

    /// Waits for a connection.
    async fn accept(&self) -> io::Result<Self::Stream>;

    /// The connections that wait to be accepted now, of a socket that nobody else has.
    fn waiting(self) -> Vec<Self::Stream> {
        Vec::new()
    }
}

impl Listener for UnixListener {
    type Stream = UnixStream;

    async fn accept(&self) -> io::Result<UnixStream> {
        Ok(self.accept().await?.0)
    }

    fn waiting(self) -> Vec<UnixStream> {
        let Ok(listener) = self.into_std() else { return Vec::new() };
        let streams = std::iter::from_fn(|| listener.accept().ok());
        let ready = streams.map(|(stream, _)| {
            stream.set_nonblocking(true).and_then(|()| UnixStream::from_std(stream))
        });
        ready.flatten().collect()
    }
}

/// Always from systemd.
impl Listener for TcpListener {
    type Stream = TcpStream;

    async fn accept(&self) -> io::Result<TcpStream> {
        Ok(self.accept().await?.0)
    }
}

/// Accepts connections until `stop` is set, and serves each in the background.
pub(crate) async fn accept_each<L: Listener, Served>(
    listener: L,
    backlog: Backlog,
    mut stop: watch::Receiver<bool>,
    converse: impl Fn(L::Stream, Arc<Place>) -> Served,
) where
    Served: Future<Output = ()> + Send + 'static,
{
    let room = Room::new(MOST_CONNECTIONS);
    loop {
        tokio::select! {
            accepted = accept(&listener, &room) => match accepted {
                Ok(stream) => drop(tokio::spawn(converse(stream, room.enter()))),
                Err(error) => {
                    // Out of descriptors, most likely: let some connections end first.
                    tracing::warn!("a connection could not be accepted: {error}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
            () = stopped(&mut stop) => break,
        }
    }
    if backlog == Backlog::Ours {
        for stream in listener.waiting() {
            tokio::spawn(converse(stream, room.enter()));
        }
    }
}

/// Accepts a connection when there is room for one more, or one that can make room.
async fn accept<L: Listener>(listener: &L, room: &Room) -> io::Result<L::Stream> {
    room.available().await;
    listener.accept().await
}

/// Waits until `stop` is set.
pub(crate) async fn stopped(stop: &mut watch::Receiver<bool>) {
    // A dropped sender means stop, too.
    let _ = stop.wait_for(|stop| *stop).await;
}
