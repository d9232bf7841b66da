//! `GET /events`: changes as they are made, as server-sent events (HTML Living Standard, "Server-sent events").
//!
//! The id of an event is the number of its change, `STYXY_SEQ` in the journal. A client that sends the last one in
//! `Last-Event-ID` gets what came after it; if that is not in the log any more it gets the event `reset`, and has to list
//! again. So it does where the state was damaged and changes were lost: their numbers are given again, and from then on ids have a
//! mark behind the number.

use std::{convert::Infallible, pin::Pin, sync::Arc};

use axum::{
    Extension,
    body::{Body, Bytes},
    extract::State,
    http::{
        HeaderMap,
        header::{CACHE_CONTROL, CONTENT_TYPE},
    },
    response::{IntoResponse, Response},
};
use futures_util::stream;
use serde_json::json;
use tokio::sync::watch;

use super::{access::Bearer, connection::Peer, routes::Failure};
use crate::{
    broker::{
        Broker,
        following::{Followed, Follower},
        pages::Page,
    },
    change::Record,
    lease::Client,
    socket::{Busy, Place},
};

/// The header with the id of the last event that the client has got.
const LAST_EVENT_ID: &str = "last-event-id";

/// When a client is to connect again whose connection has ended, for example because the service was restarted, in
/// milliseconds.
const RETRY: u32 = 1_000;

/// An open stream of events.
struct Stream {
    broker: Arc<Broker>,
    follower: Follower,
    /// What is sent before the next change.
    first: Option<Bytes>,
    /// Ready when the client is gone.
    gone: Pin<Box<dyn Future<Output = ()> + Send>>,
    /// What the client has shown, over TCP, and when it may not be enough any more.
    bearer: Option<Bearer>,
    rights: watch::Receiver<()>,
    /// It is not closed to make room for another connection.
    _busy: Busy,
    /// Whether it is a page's.
    _page: Option<Page>,
}

pub(super) async fn events(
    State(broker): State<Arc<Broker>>,
    Extension(client): Extension<Client>,
    Extension(peer): Extension<Arc<Peer>>,
    Extension(place): Extension<Arc<Place>>,
    bearer: Option<Extension<Bearer>>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let bearer = bearer.map(|Extension(bearer)| bearer);
    let is_page = matches!(bearer, Some(Bearer::Session(_)));
    let mut rights = broker.rights();
    // The token was compared before the request was read to its end.
    rights.mark_changed();
    let last = headers.get(LAST_EVENT_ID).filter(|last| !last.is_empty());
    let follower = match last.map(|last| last.to_str().unwrap_or_default()) {
        Some(last) => {
            let (number, mark) = last.split_once('.').map_or((last, None), |(n, m)| (n, Some(m)));
            // What is no number was never the id of an event.
            broker.follow_after(number.parse().ok(), mark, is_page)?
        }
        None => broker.follow(is_page)?,
    };
    let version = json!({"version": env!("CARGO_PKG_VERSION")});
    let id = follower.last().map(|last| id(last, follower.mark()));
    let ready = event("ready", id.as_deref(), &format!("{version}\nretry: {RETRY}"));
    peer.streams();
    let stream = Stream {
        follower,
        first: Some(ready.into()),
        gone: Box::pin(async move { peer.hung_up(client.transport).await }),
        bearer,
        rights,
        _busy: place.busy(),
        _page: is_page.then(|| broker.page()),
        broker,
    };
    let events = stream::unfold(stream, |mut stream| async {
        let events = stream.next().await?;
        Some((Ok::<_, Infallible>(events), stream))
    });
    let headers = [(CONTENT_TYPE, "text/event-stream"), (CACHE_CONTROL, "no-cache")];
    Ok((headers, Body::from_stream(events)).into_response())
}

impl Stream {
    /// Waits for the next events; `None` when the client is gone or may not follow any more, or the service ends.
    async fn next(&mut self) -> Option<Bytes> {
        if let Some(first) = self.first.take() {
            return Some(first);
        }
        loop {
            let followed = tokio::select! {
                // No change is told that was made after the right was lost.
                biased;
                _ = self.rights.changed() => {
                    if self.bearer.is_some_and(|bearer| !bearer.is_good(&self.broker)) {
                        return None;
                    }
                    continue;
                }
                () = &mut self.gone => return None,
                followed = self.follower.next() => followed?,
            };
            let mark = self.follower.mark();
            let events = match followed {
                Followed::Change(told) => Bytes::from_owner(told.shown(|record| of(record, mark))),
                Followed::Missed(seq) => event("reset", Some(&id(seq, mark)), "{}").into(),
            };
            if !events.is_empty() {
                return Some(events);
            }
        }
    }
}

/// The events of a change. Only the last one has the id: who has got only a part of them gets all once more.
fn of(record: &Record, mark: Option<&str>) -> String {
    let announced = record.change.announced();
    let (last, id) = (announced.len().saturating_sub(1), id(record.seq, mark));
    let mut events = String::new();
    for (index, announced) in announced.into_iter().enumerate() {
        let id = (index == last).then_some(id.as_str());
        events.push_str(&event(announced.event(), id, &json!(announced.fields()).to_string()));
    }
    events
}

fn id(seq: u64, mark: Option<&str>) -> String {
    mark.map_or_else(|| seq.to_string(), |mark| format!("{seq}.{mark}"))
}

/// An event; `data` has no line feed of its own.
fn event(name: &str, id: Option<&str>, data: &str) -> String {
    let id = id.map(|id| format!("id: {id}\n")).unwrap_or_default();
    format!("event: {name}\n{id}data: {data}\n\n")
}
