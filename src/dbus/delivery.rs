//! Finds out whether answers with a descriptor arrive.
//!
//! A client that has not negotiated descriptors (`NEGOTIATE_UNIX_FD`, D-Bus Specification) cannot be sent one.
//! dbus-daemon drops such an answer and sends the service an error, which names neither the member nor the
//! lease. So only one such answer is on its way at a time, until the bus has answered a call that was sent
//! after it: the bus processes the messages of a connection in order. dbus-broker disconnects the client, and
//! the client's name is gone once the client has closed its end, too.

use std::{sync::Arc, time::Duration};

use futures_util::{FutureExt, StreamExt};
use tokio::{sync::Mutex, time::Instant};
use zbus::{
    Connection, Message, MessageStream, OwnedFd,
    message::{Header, Type},
    object_server::ResponseDispatchNotifier,
};

use crate::owners::connections;

const BUS: &str = "org.freedesktop.DBus";

/// How long a client that dbus-broker has disconnected may take to close its end.
const SOON: Duration = Duration::from_secs(5);
/// How often to check a port that is still held.
const AGAIN: Duration = Duration::from_millis(250);

/// Ensures that only one answer with a descriptor is on its way at a time.
#[derive(Default)]
pub(super) struct Delivery(Arc<Mutex<()>>);

impl Delivery {
    /// Prepares the descriptor of a socket for an answer; `refused` is called if the bus does not deliver it.
    /// `is_held` returns whether anybody has the port of the socket.
    pub(super) async fn of(
        &self,
        descriptor: OwnedFd,
        bus: &Connection,
        call: &Header<'_>,
        is_held: impl Fn() -> bool + Send + 'static,
        refused: impl FnOnce() + Send + 'static,
    ) -> ResponseDispatchNotifier<OwnedFd> {
        let turn = Arc::clone(&self.0).lock_owned().await;
        // `descriptor` is dropped when the answer has been sent, and that completes `sent`.
        let (descriptor, sent) = ResponseDispatchNotifier::new(descriptor);
        let mut messages = MessageStream::from(bus);
        let bus = bus.clone();
        let caller = call.sender().map(|name| name.to_string());
        tokio::spawn(async move {
            let mut is_refused = false;
            let behind = async {
                sent.await;
                let _ = bus.call_method(Some(BUS), "/", Some(BUS), "GetId", &()).await;
            };
            let mut behind = std::pin::pin!(behind);
            // An unread stream would block the connection.
            loop {
                tokio::select! {
                    message = messages.next() => match message {
                        Some(message) => is_refused |= message.is_ok_and(|m| is_refusal(&m)),
                        None => return,
                    },
                    () = behind.as_mut() => break,
                }
            }
            while let Some(Some(message)) = messages.next().now_or_never() {
                is_refused |= message.is_ok_and(|message| is_refusal(&message));
            }
            drop(messages);
            drop(turn);
            // A caller may leave as soon as it has its socket; then the port is held.
            if is_refused || (goes(&bus, caller).await && is_free(is_held).await) {
                refused();
            }
        });
        descriptor
    }
}

/// Whether the caller leaves the bus within [`SOON`].
async fn goes(bus: &Connection, caller: Option<String>) -> bool {
    let (Some(caller), Ok(id)) = (caller, connections::bus_id(bus).await) else { return false };
    let ended = tokio::time::timeout(SOON, connections::ended(bus, &caller, &id)).await;
    matches!(ended, Ok(Ok(())))
}

/// Whether nobody holds the port, or nobody will within [`SOON`]: the manager may still hold the guard of an
/// earlier lease. A process that is killed frees its port a little before it counts as ended, so a free port is checked
/// twice.
async fn is_free(is_held: impl Fn() -> bool) -> bool {
    let end = Instant::now() + SOON;
    let mut was_free = false;
    loop {
        let is_free = !is_held();
        if is_free && was_free {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        was_free = is_free;
        tokio::time::sleep(AGAIN).await;
    }
}

/// Whether the message is the error by which the bus reports a descriptor that it did not deliver.
fn is_refusal(message: &Message) -> bool {
    let header = message.header();
    message.message_type() == Type::Error
        && header.sender().is_some_and(|sender| sender.as_str() == BUS)
        && header
            .error_name()
            .is_some_and(|name| name.as_str() == "org.freedesktop.DBus.Error.NotSupported")
}
