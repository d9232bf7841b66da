//! The door over HTTP, on a Unix socket and, if the user wants it, over TCP. It only translates; the broker decides. Only
//! the user can use the socket, and over TCP whoever has the user's token: others are refused.
//!
//! - `operations`: the table of requests
//! - [`routes`]: the requests
//! - `api`: what the requests take and answer, for the `OpenAPI` document
//! - `access`: which requests over TCP are answered
//! - `events`: the stream of changes
//! - `page`: the page for a browser, and its sessions
//! - `types`: the requests about service types and the configuration
//! - `v1`: what clients of styxy 1.x know beside these
//! - `bounds`: how much the service reads, and how long it waits for it
//! - `connection`: one connection
//! - `lined`: the newline at the end of each answer in JSON
//! - `worded`: adding a body to hyper's own refusals
//! - this file: the sockets

mod access;
#[cfg(test)]
mod api;
mod bounds;
mod connection;
mod events;
mod lined;
mod operations;
mod page;
pub mod routes;
mod types;
mod v1;
mod worded;

use std::sync::Arc;

use axum::middleware;
use tokio::{
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::watch,
};

use self::access::Access;
use crate::{
    broker::{Broker, Caller},
    lease::Transport,
    socket::{self, Backlog},
};

/// The header of a request that only observes: it does not delay the idle exit.
pub const OBSERVER: &str = "styxy-observer";

/// Accepts connections until `stop` is set. Open connections then finish their current request; each counts as
/// activity until it is closed.
pub async fn serve(
    listener: UnixListener,
    backlog: Backlog,
    broker: Arc<Broker>,
    stop: watch::Receiver<bool>,
) {
    let router = routes::router(Arc::clone(&broker));
    let stopping = stop.clone();
    socket::accept_each(listener, backlog, stop, |stream: UnixStream, place| {
        let caller = Caller::of_peer(&stream, Transport::Http);
        let router = match caller.as_ref().and_then(Caller::why_refused) {
            Some(error) => routes::refusing(&error),
            None => router.clone(),
        };
        let (broker, stop) = (Arc::clone(&broker), stopping.clone());
        async move {
            if let Some(caller) = caller {
                connection::serve(stream, place, caller, router, broker, stop).await;
            }
        }
    })
    .await;
}

/// The same over TCP, on a socket from systemd. With `is_open`, requests need no token.
pub async fn serve_tcp(
    listener: TcpListener,
    broker: Arc<Broker>,
    is_open: bool,
    stop: watch::Receiver<bool>,
) {
    let access = Access { broker: Arc::clone(&broker), is_open };
    let router = routes::router(Arc::clone(&broker))
        .layer(middleware::from_fn_with_state(access, access::check));
    let stopping = stop.clone();
    socket::accept_each(listener, Backlog::Systemds, stop, |stream: TcpStream, place| {
        let caller = Caller::of_connection(&stream);
        let (router, broker) = (router.clone(), Arc::clone(&broker));
        connection::serve(stream, place, caller, router, broker, stopping.clone())
    })
    .await;
}
