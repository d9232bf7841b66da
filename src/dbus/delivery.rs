//! Whether answers with a descriptor arrive.
//!
//! A client that has not negotiated descriptors (`NEGOTIATE_UNIX_FD`, D-Bus Specification) cannot be sent one.
//! dbus-daemon drops such an answer and tells the sender of it by an error, which names no member and no lease. So one
//! such answer is on its way at a time, until the bus has answered what was asked behind it: it works through the
//! messages of a connection in their order.

use std::sync::Arc;

use futures_util::{FutureExt, StreamExt};
use tokio::sync::Mutex;
use zbus::{
    Connection, Message, MessageStream, OwnedFd, message::Type,
    object_server::ResponseDispatchNotifier,
};

const BUS: &str = "org.freedesktop.DBus";

/// The turn to answer with a descriptor.
#[derive(Default)]
pub(super) struct Delivery(Arc<Mutex<()>>);

impl Delivery {
    /// The descriptor, ready to be answered; `refused` is called if the bus does not deliver it.
    pub(super) async fn of(
        &self,
        descriptor: OwnedFd,
        bus: &Connection,
        refused: impl FnOnce() + Send + 'static,
    ) -> ResponseDispatchNotifier<OwnedFd> {
        let turn = Arc::clone(&self.0).lock_owned().await;
        // It is dropped when the answer has been sent.
        let (descriptor, sent) = ResponseDispatchNotifier::new(descriptor);
        let mut messages = MessageStream::from(bus);
        let bus = bus.clone();
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
            if is_refused {
                refused();
            }
            drop(turn);
        });
        descriptor
    }
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
