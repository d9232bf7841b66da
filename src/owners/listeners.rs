//! The end of listening sockets, watched only while something waits for it.

use std::time::Duration;

use tokio::sync::watch;

use super::{Event, Events};
use crate::kernel::endings::Endings;

/// How often listeners are checked besides: a program may stop listening and keep the socket.
const CHECK: Duration = Duration::from_secs(600);
/// The same where the kernel reports nothing.
const CHECK_UNREPORTED: Duration = Duration::from_secs(10);

/// Sends the end of listeners while it is awaited, until nobody receives it.
pub async fn run(mut awaited: watch::Receiver<bool>, events: &Events) {
    while awaited.wait_for(|awaited| *awaited).await.is_ok() {
        let endings = Endings::watch();
        // Ends from before the subscription are not reported.
        let mut event = Event::ListenersUnknown;
        loop {
            if events.send(event).is_err() {
                return;
            }
            let Ok(endings) = &endings else {
                tokio::time::sleep(CHECK_UNREPORTED).await;
                break;
            };
            let next = tokio::select! {
                _ = awaited.wait_for(|awaited| !awaited) => break,
                ended = tokio::time::timeout(CHECK, endings.next()) => ended,
            };
            event = match next {
                Ok(Ok(ports)) => Event::ListenersEnded(ports),
                Err(_) => Event::ListenersUnknown,
                Ok(Err(_)) => {
                    tokio::time::sleep(CHECK_UNREPORTED).await;
                    break;
                }
            };
        }
    }
}
