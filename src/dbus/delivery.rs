//! Whether answers with a descriptor arrive.
//!
//! A client that has not negotiated descriptors (`NEGOTIATE_UNIX_FD`, D-Bus Specification) cannot be sent one.
//! dbus-daemon drops such an answer and tells the sender of it by an error, which names no member and no lease. So one
//! such answer is on its way at a time, until the bus has answered what was asked behind it: it works through the
//! messages of a connection in their order. dbus-broker hangs up on the client, and its name is gone as soon as it has
//! closed its end, too.

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

/// How soon a client has closed its end, on which dbus-broker has hung up.
const SOON: Duration = Duration::from_secs(5);
/// How often a port is looked at that is still held.
const AGAIN: Duration = Duration::from_millis(250);

/// The turn to answer with a descriptor.
#[derive(Default)]
pub(super) struct Delivery(Arc<Mutex<()>>);

impl Delivery {
    /// The descriptor of a socket, ready to be answered; `refused` is called if the bus does not deliver it. `is_held`
    /// says whether anybody has the socket.
    pub(super) async fn of(
        &self,
        descriptor: OwnedFd,
        bus: &Connection,
        call: &Header<'_>,
        is_held: impl Fn() -> bool + Send + 'static,
        refused: impl FnOnce() + Send + 'static,
    ) -> ResponseDispatchNotifier<OwnedFd> {
        let turn = Arc::clone(&self.0).lock_owned().await;
        // It is dropped when the answer has been sent.
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
            // A stream that nobody reads would stop the connection.
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
            // A caller may go as soon as it has its socket; then that is held.
            if is_refused || (goes(&bus, caller).await && is_free(is_held).await) {
                refused();
            }
        });
        descriptor
    }
}

/// Whether the caller leaves the bus soon.
async fn goes(bus: &Connection, caller: Option<String>) -> bool {
    let (Some(caller), Ok(id)) = (caller, connections::bus_id(bus).await) else { return false };
    let ended = tokio::time::timeout(SOON, connections::ended(bus, &caller, &id)).await;
    matches!(ended, Ok(Ok(())))
}

/// Whether nobody has the port, or soon nobody has: the manager may still have the guard of an earlier lease.
async fn is_free(is_held: impl Fn() -> bool) -> bool {
    let end = Instant::now() + SOON;
    while is_held() {
        if Instant::now() >= end {
            return false;
        }
        tokio::time::sleep(AGAIN).await;
    }
    true
}

/// Whether the bus says that it has not delivered a descriptor.
fn is_refusal(message: &Message) -> bool {
    let header = message.header();
    message.message_type() == Type::Error
        && header.sender().is_some_and(|sender| sender.as_str() == BUS)
        && header
            .error_name()
            .is_some_and(|name| name.as_str() == "org.freedesktop.DBus.Error.NotSupported")
}
