//! The door over HTTP. It only translates; the broker decides. Only the user can use the socket: others are
//! refused.
//!
//! - [`routes`]: the requests
//! - `types`: the requests about service types and the configuration
//! - `bounds`: how much the service reads, and how long it waits for it
//! - `connection`: one connection
//! - `worded`: adding a body to hyper's own refusals
//! - this file: the socket

mod bounds;
mod connection;
pub mod routes;
mod types;
mod worded;

use std::{io, sync::Arc, time::Duration};

use axum::Router;

use tokio::{
    net::{UnixListener, UnixStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
};

use crate::{
    broker::{Broker, Caller},
    error::Error,
    kernel::{network, process},
    lease::Transport,
};

/// The header of a request that only observes: it does not delay the idle exit.
pub const OBSERVER: &str = "styxy-observer";

/// The most connections that are open at once. Others wait until one is closed, which a silent one soon is.
/// Each takes three descriptors, and without free descriptors the service could grant nothing.
const MOST_CONNECTIONS: usize = 512;

/// Who serves the connections that wait on a socket when this service ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backlog {
    /// This service: nobody else has the socket, and its file is deleted.
    Ours,
    /// The next service: systemd keeps the socket.
    Systemds,
}

/// Accepts connections until `stop` is set. Open connections then finish their current request; each counts as
/// activity until it is closed.
pub async fn serve(
    listener: UnixListener,
    backlog: Backlog,
    broker: Arc<Broker>,
    mut stop: watch::Receiver<bool>,
) {
    let router = routes::router(Arc::clone(&broker));
    let room = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    loop {
        tokio::select! {
            accepted = accept(&listener, &room) => match accepted {
                Ok((stream, place)) => converse(stream, &router, &broker, stop.clone(), Some(place)),
                Err(error) => {
                    // Out of descriptors, most likely: let some connections end first.
                    tracing::warn!("a connection could not be accepted: {error}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
            () = stopped(&mut stop) => break,
        }
    }
    if backlog == Backlog::Ours
        && let Ok(listener) = listener.into_std()
    {
        while let Ok((stream, _)) = listener.accept() {
            let stream = stream.set_nonblocking(true).and_then(|()| UnixStream::from_std(stream));
            stream.into_iter().for_each(|s| converse(s, &router, &broker, stop.clone(), None));
        }
    }
}

/// Accepts a connection when there is room for one more.
async fn accept(
    listener: &UnixListener,
    room: &Arc<Semaphore>,
) -> io::Result<(UnixStream, OwnedSemaphorePermit)> {
    let place = Arc::clone(room).acquire_owned().await.map_err(io::Error::other)?;
    Ok((listener.accept().await?.0, place))
}

/// Serves a connection in the background.
fn converse(
    stream: UnixStream,
    router: &Router,
    broker: &Arc<Broker>,
    stop: watch::Receiver<bool>,
    place: Option<OwnedSemaphorePermit>,
) {
    let Some(caller) = peer(&stream) else { return };
    let router = if caller.client.uid != Some(process::uid()) {
        // Only root gets this far; inside the sandbox it has another UID.
        routes::refusing(&Error::other_user())
    } else if caller.client.pid.and_then(network::same) == Some(false) {
        routes::refusing(&Error::other_network())
    } else {
        router.clone()
    };
    let serve = connection::serve(stream, caller, router, Arc::clone(broker), stop);
    tokio::spawn(async move {
        serve.await;
        drop(place);
    });
}

async fn stopped(stop: &mut watch::Receiver<bool>) {
    // A dropped sender means stop, too.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// The credentials of the peer (`SO_PEERCRED`, unix(7)).
fn peer(stream: &UnixStream) -> Option<Caller> {
    let credentials = stream.peer_cred().ok()?;
    let uid = credentials.uid();
    let pid = credentials.pid().and_then(|pid| u32::try_from(pid).ok());
    let pidfd = pid.and_then(|pid| process::peer(stream, pid)).map(Arc::new);
    let client = Caller::client(Transport::Http, pid, Some(uid));
    Some(Caller { client, connection: None, pidfd })
}
