//! The door over HTTP. It translates, and decides nothing. Whoever can open the socket is the user.
//!
//! - [`routes`]: what can be asked
//! - `types`: the part of it that is about service types and the configuration
//! - this file: the socket and its connections

pub mod routes;
mod types;

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::Router;
use hyper::{
    body::Incoming,
    header::{CONNECTION, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::watch,
};
use tower_service::Service;

use crate::{
    broker::{Broker, Caller},
    error::Error,
    kernel::{network, process},
    lease::{Client, Transport},
};

/// How long a connection may be silent: between requests, or within a request's head.
const SILENCE: Duration = Duration::from_secs(30);

/// Who serves what waits on a socket when this service ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backlog {
    /// This service: nobody else has the socket, and it has no name any more.
    Ours,
    /// The next one: systemd keeps the socket.
    Systemds,
}

/// Accepts connections until `stop` says so. Those that are open then finish what they are at; each
/// counts as activity until it is closed.
pub async fn serve(
    listener: UnixListener,
    backlog: Backlog,
    broker: Arc<Broker>,
    mut stop: watch::Receiver<bool>,
) {
    let router = routes::router(Arc::clone(&broker));
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => converse(stream, &router, &broker, stop.clone()),
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
            stream.into_iter().for_each(|s| converse(s, &router, &broker, stop.clone()));
        }
    }
}

/// Answers what is asked on a connection, in the background.
fn converse(stream: UnixStream, router: &Router, broker: &Broker, mut stop: watch::Receiver<bool>) {
    let Some(caller) = peer(&stream) else { return };
    // The watchdog's own question is no reason to live on.
    let is_own = caller.client.pid == Some(std::process::id());
    let busy = (!is_own).then(|| broker.activity().busy());
    let router = match caller.client.pid.and_then(network::same) {
        Some(false) => routes::refusing(&Error::other_network()),
        _ => router.clone(),
    };
    tokio::spawn(async move {
        let asked = Arc::new(AtomicBool::new(false));
        let (asking, stopping) = (Arc::clone(&asked), stop.clone());
        let service = service_fn(move |mut request: hyper::Request<Incoming>| {
            asking.store(true, Ordering::Relaxed);
            request.extensions_mut().insert(caller.client.clone());
            request.extensions_mut().insert(caller.clone());
            let (answer, stopping) = (router.clone().call(request), stopping.clone());
            async move {
                let mut answer = answer.await?;
                if *stopping.borrow() {
                    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                }
                Ok::<_, Infallible>(answer)
            }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(SILENCE)
            // A shell's client may close its side when it has asked.
            .half_close(true)
            .serve_connection(TokioIo::new(stream), service);
        let mut connection = std::pin::pin!(connection);
        // What goes wrong on a connection is the client's to see.
        tokio::select! {
            _ = connection.as_mut() => {}
            () = stopped(&mut stop) => {
                // One that was accepted just now has a request on its way, which would be lost.
                if asked.load(Ordering::Relaxed) {
                    connection.as_mut().graceful_shutdown();
                }
                let _ = connection.await;
            }
        }
        drop(busy);
    });
}

async fn stopped(stop: &mut watch::Receiver<bool>) {
    // A sender that is gone has stopped too.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Who is on the other side (`SO_PEERCRED`, unix(7)); `None` for another user.
fn peer(stream: &UnixStream) -> Option<Caller> {
    let credentials = stream.peer_cred().ok()?;
    let uid = credentials.uid();
    if uid != process::uid() && uid != 0 {
        return None;
    }
    let pid = credentials.pid().and_then(|pid| u32::try_from(pid).ok());
    let comm = pid.and_then(process::comm);
    let pidfd = pid.and_then(|pid| process::peer(stream, pid)).map(Arc::new);
    let client = Client { transport: Transport::Http, pid, uid: Some(uid), comm };
    Some(Caller { client, connection: None, pidfd })
}
