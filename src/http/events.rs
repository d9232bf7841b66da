//! `GET /events`: changes as they are made, as server-sent events (HTML Living Standard, "Server-sent events").
//!
//! The id of an event is the number of its change, `STYXY_SEQ` in the journal. A client that sends the last one in
//! `Last-Event-ID` gets what came after it; if that is not in the log any more it gets the event `reset`, and has to list
//! again.

use std::{convert::Infallible, pin::Pin, sync::Arc, time::Duration};

use axum::{
    Extension,
    extract::State,
    http::{HeaderMap, HeaderValue},
    response::{
        IntoResponse, Response,
        sse::{Event, Sse},
    },
};
use futures_util::stream;
use serde_json::json;

use super::{access::OfSession, connection::Peer, routes::Failure};
use crate::{
    broker::{
        Broker,
        following::{Followed, Follower},
        pages::Page,
    },
    change::{Announced, Record},
    lease::Client,
    socket::{Busy, Place},
};

/// The header with the id of the last event that the client has got.
const LAST_EVENT_ID: &str = "last-event-id";

/// When a client is to connect again whose connection has ended, for example because the service was restarted.
const RETRY: Duration = Duration::from_secs(1);

/// An open stream of events.
struct Stream {
    follower: Follower,
    /// What is sent before the next change, in reverse order.
    waiting: Vec<Event>,
    /// Ready when the client is gone.
    gone: Pin<Box<dyn Future<Output = ()> + Send>>,
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
    of_session: Option<Extension<OfSession>>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let last = headers.get(LAST_EVENT_ID).filter(|last| !last.is_empty());
    // What is no number was never the id of an event.
    let number = |last: &HeaderValue| last.to_str().ok()?.parse().ok();
    let follower = match last {
        Some(last) => broker.follow_after(number(last))?,
        None => broker.follow()?,
    };
    let mut ready = Event::default().event("ready").retry(RETRY);
    if let Some(last) = follower.last() {
        ready = ready.id(last.to_string());
    }
    let ready = ready.data(json!({"version": env!("CARGO_PKG_VERSION")}).to_string());
    let page = of_session.map(|_| broker.page());
    let gone = Box::pin(async move { peer.hung_up(client.transport).await });
    let stream = Stream { follower, waiting: vec![ready], gone, _busy: place.busy(), _page: page };
    Ok(Sse::new(stream::unfold(stream, |mut stream| async {
        let event = stream.next().await?;
        Some((Ok::<_, Infallible>(event), stream))
    }))
    .into_response())
}

impl Stream {
    /// Waits for the next event; `None` when the client is gone, or the service ends.
    async fn next(&mut self) -> Option<Event> {
        while self.waiting.is_empty() {
            let followed = tokio::select! {
                followed = self.follower.next() => followed?,
                () = &mut self.gone => return None,
            };
            self.waiting = match followed {
                Followed::Change(record) => of(&record),
                Followed::Missed(seq) => {
                    vec![Event::default().event("reset").id(seq.to_string()).data("{}")]
                }
            };
        }
        self.waiting.pop()
    }
}

/// The events of a change, the last one first. It has the number: who has got only a part of them gets all once more.
fn of(record: &Record) -> Vec<Event> {
    let event = |(index, announced): (usize, &Announced<'_>)| {
        let data = json!(announced.fields()).to_string();
        let event = Event::default().event(announced.event()).data(data);
        if index == 0 { event.id(record.seq.to_string()) } else { event }
    };
    record.change.announced().iter().rev().enumerate().map(event).collect()
}
