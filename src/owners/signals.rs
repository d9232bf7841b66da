//! Waiting for an end that the bus announces by signals.

use futures_util::StreamExt;
use tokio::sync::Notify;
use zbus::{Message, MessageStream};

/// Waits until `has_ended` says so. It is asked at once, and again after each signal that `matters`;
/// signals that come while it is being asked count as one.
///
/// The stream is read without ever waiting for a reply: zbus queues 64 messages of a stream, and while
/// the queue is full it reads nothing more from the bus, replies included.
pub(super) async fn until<Answer>(
    mut signals: MessageStream,
    matters: impl Fn(&Message) -> bool,
    has_ended: impl Fn() -> Answer,
) -> zbus::Result<()>
where
    Answer: Future<Output = zbus::Result<bool>>,
{
    let changed = Notify::new();
    let read = async {
        while let Some(signal) = signals.next().await {
            if signal.is_ok_and(|signal| matters(&signal)) {
                changed.notify_one();
            }
        }
        Err(zbus::Error::Failure("the bus is gone".to_owned()))
    };
    let ask = async {
        while !has_ended().await? {
            changed.notified().await;
        }
        Ok(())
    };
    tokio::select! {
        ended = ask => ended,
        ended = read => ended,
    }
}
