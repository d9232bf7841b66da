//! Events as they happen: from the signals of the bus, or else from the differences between one list of leases
//! and the next.
//!
//! A watcher whose reader is slow, or that is stopped, must not let signals pile up in the bus: all of a user's
//! programs share its memory there. It removes its match, and when the reader is ready again, it compares a
//! list of leases with what it has reported. A watcher stopped by SIGSTOP cannot do that: then the service
//! stops sending changes before the bus is full, and reports later that some were missed.

mod known;

use std::{collections::VecDeque, time::Duration};

use futures_util::StreamExt;
use nix::sys::signal::{Signal, raise};
use serde_json::Value as Json;
use tokio::{
    signal::unix::{Signal as Suspension, SignalKind, signal},
    sync::mpsc,
};
use zbus::{AsyncDrop, Connection, MatchRule, MessageStream, fdo::DBusProxy};

use self::known::{Known, event, is_missed};
use super::{
    Call, CallError, Failure, bus, http,
    waiting::{Waiting, begin_again},
};
use crate::{
    dbus::{NAME, PATH},
    value::Fields,
};

/// How often the leases are compared where there are no signals.
const EVERY: Duration = Duration::from_millis(500);

/// With this many events that the reader has not received, a watcher is behind.
const MOST_BEHIND: usize = 10_000;

/// Reports every event until nobody receives them; each is an object with the `event`. Ctrl-Z stops this process
/// when nothing can pile up in the bus.
pub async fn watch(reader: mpsc::Sender<Json>) -> Result<(), Failure> {
    let suspension = signal(SignalKind::from_raw(Signal::SIGTSTP as i32)).ok();
    follow(reader, Known::default(), suspension).await
}

/// The same, with what has changed since the reader got this list of leases. Whoever calls this must end it before
/// this process is stopped.
pub async fn changes_since(leases: &Json, reader: mpsc::Sender<Json>) -> Result<(), Failure> {
    let mut known = Known::default();
    known.compare(leases);
    follow(reader, known, None).await
}

async fn follow(
    reader: mpsc::Sender<Json>,
    known: Known,
    suspension: Option<Suspension>,
) -> Result<(), Failure> {
    let waiting = Waiting::default();
    waiting.on("the session bus");
    match waiting.patiently(async { Ok(bus_of_the_service().await) }).await? {
        Some(bus) => signals(&bus, reader, known, suspension).await,
        None => differences(reader, known).await,
    }
}

/// The bus, if the service has its name there or can be started by it.
async fn bus_of_the_service() -> Option<Connection> {
    let bus = bus::connect().await.ok()?;
    let proxy = DBusProxy::new(&bus).await.ok()?;
    if !proxy.name_has_owner(NAME.try_into().ok()?).await.ok()? {
        // One that stays off the bus sends no signals there.
        if http::is_served_without_a_bus().await {
            return None;
        }
        tokio::select! {
            started = proxy.start_service_by_name(NAME.try_into().ok()?, 0) => started.ok()?,
            () = bus::started_off(&bus) => return None,
        };
    }
    Some(bus)
}

async fn signals(
    bus: &Connection,
    reader: mpsc::Sender<Json>,
    mut known: Known,
    mut suspension: Option<Suspension>,
) -> Result<(), Failure> {
    let gone = || Failure::Unreachable("the session bus is gone".to_owned());
    let mut waiting = VecDeque::new();
    let mut stream = None;
    // A service that was killed has not reported its last changes.
    let mut services = services(bus).await.map_err(|_| gone())?;
    loop {
        if stream.is_none() && waiting.is_empty() {
            stream = Some(subscribe(bus).await.map_err(|_| gone())?);
            begin_again();
            let call = Waiting::default();
            call.on("the service over the session bus");
            if let Some(now) = call.patiently(async { Ok(list(bus).await) }).await? {
                waiting.extend(known.compare(&now));
            }
        }
        tokio::select! {
            place = reader.reserve(), if !waiting.is_empty() => match place {
                Ok(place) => {
                    if let Some(event) = waiting.pop_front() {
                        place.send(event);
                    }
                }
                Err(_) => return Ok(()),
            },
            message = next(stream.as_mut()) => {
                let message = message.ok_or_else(gone)?.ok();
                let has_missed = message.as_ref().is_some_and(is_missed);
                let event = message.and_then(|message| event(&message));
                waiting.extend(event.and_then(|event| known.note(event)));
                if has_missed || waiting.len() > MOST_BEHIND {
                    unsubscribe(&mut stream).await;
                }
            }
            service = services.next() => {
                service.ok_or_else(gone)?.map_err(|_| gone())?;
                unsubscribe(&mut stream).await;
            }
            () = reader.closed() => return Ok(()),
            () = stopped(suspension.as_mut()) => {
                unsubscribe(&mut stream).await;
                // Without a reply, the bus might not have processed the removal yet.
                let _ = bus.call_method(Some("org.freedesktop.DBus"), "/", Some("org.freedesktop.DBus.Peer"), "Ping", &()).await;
                let _ = raise(Signal::SIGSTOP);
            }
        }
    }
}

async fn next(stream: Option<&mut MessageStream>) -> Option<zbus::Result<zbus::Message>> {
    match stream {
        Some(stream) => stream.next().await,
        None => std::future::pending().await,
    }
}

/// Waits for Ctrl-Z.
async fn stopped(stop: Option<&mut Suspension>) {
    if let Some(stop) = stop
        && stop.recv().await.is_some()
    {
        return;
    }
    std::future::pending::<()>().await;
}

async fn subscribe(bus: &Connection) -> zbus::Result<MessageStream> {
    let rule = MatchRule::builder()
        .msg_type(zbus::message::Type::Signal)
        .sender(NAME)
        .path(PATH)
        .interface(NAME)
        .build()?;
    MessageStream::for_match_rule(rule, bus, None).await
}

/// Removes the match: the next list of leases will show what happens from now on.
async fn unsubscribe(stream: &mut Option<MessageStream>) {
    if let Some(stream) = stream.take() {
        stream.async_drop().await;
    }
}

/// Signals that the service appeared or disappeared.
async fn services(bus: &Connection) -> zbus::Result<MessageStream> {
    let rule = MatchRule::builder()
        .msg_type(zbus::message::Type::Signal)
        .sender("org.freedesktop.DBus")
        .member("NameOwnerChanged")
        .arg(0, NAME)
        .build()?;
    MessageStream::for_match_rule(rule, bus, None).await
}

/// The leases, if the service is running; it is not started for this.
async fn list(bus: &Connection) -> Option<Json> {
    let service = bus::Service::running_on(bus.clone()).await?;
    bus::call_to(&service, &Call::List { filter: Fields::default() }).await.ok()
}

async fn differences(reader: mpsc::Sender<Json>, mut known: Known) -> Result<(), Failure> {
    loop {
        begin_again();
        let waiting = Waiting::default();
        waiting.on("the service over its HTTP socket");
        let call = Call::List { filter: Fields::default() };
        let answer = waiting.patiently(async { Ok(http::observe(&call).await) }).await?;
        match answer {
            Ok(now) => {
                for event in known.compare(&now) {
                    if reader.send(event).await.is_err() {
                        return Ok(());
                    }
                }
            }
            // A service that exited because it was idle had no leases, and one that was killed still has them.
            Err(CallError::Failed(failure @ Failure::Refused { .. })) => return Err(failure),
            Err(_) => {}
        }
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            () = reader.closed() => return Ok(()),
        }
    }
}
