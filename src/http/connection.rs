//! One connection: its peer, and whether the peer is still there.

use std::{
    convert::Infallible,
    mem,
    os::fd::{AsFd, OwnedFd},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::Router;
use hyper::{
    Method,
    body::Incoming,
    header::{CONNECTION, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::watch,
    time::timeout,
};
use tower_service::Service;

use super::{OBSERVER, lined::lined, worded::Worded};
use crate::{
    broker::{Broker, Caller},
    idle::CallGuard,
    kernel::readable::closed,
    lease::{EndReason, Transport},
    registry::granting::Share,
    socket::{Place, stopped},
};

/// How long a connection may be silent: between requests, or within the head of a request.
const SILENCE: Duration = Duration::from_secs(30);

/// How long a service that ends waits for the end of a stream of events, and over TCP for the request on a connection
/// that has not had one.
const STREAM_ENDS: Duration = Duration::from_millis(200);
const REQUEST_COMES: Duration = Duration::from_secs(1);

/// The other side of a connection.
#[derive(Debug)]
pub(super) struct Peer {
    socket: Option<OwnedFd>,
    /// The grants in an answer that is being written.
    granted: Mutex<Vec<Share>>,
    /// Whether it gets an answer without end.
    streams: AtomicBool,
}

impl Peer {
    fn new(stream: &impl AsFd) -> Self {
        // Without a spare descriptor, the peer counts as present.
        let socket = stream.as_fd().try_clone_to_owned().ok();
        Self { socket, granted: Mutex::default(), streams: AtomicBool::default() }
    }

    /// Whether it has closed its socket, and not just shut down its sending side (`POLLHUP`, poll(2)).
    pub(super) fn has_hung_up(&self) -> bool {
        let Some(socket) = &self.socket else { return false };
        let mut socket = [PollFd::new(socket, PollFlags::empty())];
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut socket, Some(&at_once)).is_ok_and(|count| count > 0)
    }

    /// Waits until it has closed its socket. Over TCP that looks the same as shutting down its sending side.
    pub(super) async fn hung_up(&self, over: Transport) {
        let socket = self.socket.as_ref().and_then(|socket| socket.try_clone().ok());
        if let Some(socket) = socket
            && closed(socket, over == Transport::Tcp).await.is_ok()
        {
            return;
        }
        // It cannot be known.
        std::future::pending::<()>().await;
    }

    /// Records that the answer is a stream of events.
    pub(super) fn streams(&self) {
        self.streams.store(true, Ordering::Relaxed);
    }

    /// Records a grant whose answer is about to be written.
    pub(super) fn answer(&self, shares: Vec<Share>) {
        *self.lock() = shares;
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Share>> {
        self.granted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Serves a connection until it is closed, or, if the service stops, until the current answer is written.
pub(super) async fn serve(
    stream: impl AsyncRead + AsyncWrite + AsFd + Unpin,
    place: Arc<Place>,
    caller: Caller,
    router: Router,
    broker: Arc<Broker>,
    stop: watch::Receiver<bool>,
) {
    let observer = broker.idle_tracker().observer();
    let peer = Arc::new(Peer::new(&stream));
    // Keeps the service busy, once there was a request other than an observer's.
    let asked = Arc::new(Mutex::new(Asked::Nothing));
    let service = service_fn(|mut request: hyper::Request<Incoming>| {
        note(&asked, &broker, request.headers().contains_key(OBSERVER));
        // The previous answer was received, or this request would not have come.
        mem::take(&mut *peer.lock());
        request.extensions_mut().insert(caller.client.clone());
        request.extensions_mut().insert(caller.clone());
        request.extensions_mut().insert(Arc::clone(&peer));
        request.extensions_mut().insert(Arc::clone(&place));
        let is_head = request.method() == Method::HEAD;
        let (answer, stopping) = (router.clone().call(request), stop.clone());
        async move {
            let mut answer = lined(answer.await?, is_head);
            if *stopping.borrow() {
                answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(answer)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(SILENCE)
        // A shell client may shut down its sending side after its request.
        .half_close(true)
        .serve_connection(Worded::new(TokioIo::new(stream)), service);
    let mut connection = std::pin::pin!(connection);
    let mut stopping = stop.clone();
    let is_whole = tokio::select! {
        result = connection.as_mut() => result.is_ok(),
        () = place.dismissed() => false,
        () = stopped(&mut stopping) => {
            // A connection that was only just accepted has a request on its way, which would be lost.
            let has_asked = !matches!(*lock(&asked), Asked::Nothing);
            if has_asked {
                connection.as_mut().graceful_shutdown();
            }
            let patience = if peer.streams.load(Ordering::Relaxed) {
                // Its client connects again, also if it does not read just now.
                Some(STREAM_ENDS)
            } else if caller.client.transport == Transport::Tcp && !has_asked {
                // Anybody on the machine can open such connections.
                Some(REQUEST_COMES)
            } else {
                None
            };
            match patience {
                Some(patience) => timeout(patience, connection).await.is_ok_and(|end| end.is_ok()),
                None => connection.await.is_ok(),
            }
        }
    };
    if !is_whole {
        broker.take_back(&mem::take(&mut *peer.lock()), EndReason::NotDelivered);
    }
    drop(observer);
}

/// The requests on a connection so far.
enum Asked {
    Nothing,
    /// Only requests that do not keep the service alive.
    Look,
    /// Other requests; the service is busy as long as the connection is open.
    More(#[expect(dead_code, reason = "it is held")] CallGuard),
}

fn lock(asked: &Mutex<Asked>) -> MutexGuard<'_, Asked> {
    asked.lock().unwrap_or_else(PoisonError::into_inner)
}

fn note(asked: &Mutex<Asked>, broker: &Broker, is_observer: bool) {
    let mut asked = lock(asked);
    match (&*asked, is_observer) {
        (Asked::Nothing, true) => *asked = Asked::Look,
        (Asked::Nothing | Asked::Look, false) => *asked = Asked::More(broker.idle_tracker().busy()),
        _ => {}
    }
}
