//! Telling the manager that the service is alive (`WatchdogSec=`, systemd.service(5)).
//!
//! The message depends on both doors: otherwise a service with a dead door would never be restarted.

use std::{sync::Arc, time::Duration};

use futures_util::FutureExt;
use sd_notify::NotifyState;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{broker::Broker, dbus, http::OBSERVER, kernel::manager, surroundings::Door};

/// Tells the manager twice in the time that the unit allows, as long as both doors answer.
pub(super) async fn run(broker: Arc<Broker>, socket: Option<Door>) {
    let Some(limit) = manager::watchdog() else { return };
    let mut beat = tokio::time::interval(limit / 2);
    loop {
        beat.tick().await;
        let answered = async { tokio::join!(bus(&broker), http(socket.as_ref())) };
        match tokio::time::timeout(limit / 2, answered).await {
            Ok((true, true)) => {
                manager::tell(&[NotifyState::Watchdog]);
            }
            Ok((on_bus, on_socket)) => {
                tracing::warn!(
                    "a door is dead (bus: {on_bus}, socket: {on_socket}): systemd will restart the service"
                );
                // Not again at once.
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            Err(_) => tracing::warn!("a door does not answer: systemd will restart the service"),
        }
    }
}

/// Whether a call to this process over the bus is answered. It goes all the way: through the bus, the queues
/// and the object server.
async fn bus(broker: &Broker) -> bool {
    let Some(bus) = broker.owners().bus() else { return true };
    let Some(name) = bus.unique_name() else { return true };
    let peer = Some("org.freedesktop.DBus.Peer");
    let answer = bus.call_method(Some(name.as_str()), dbus::PATH, peer, "Ping", &()).await;
    // A connection that was closed meanwhile, by the bus or by this service, is not tested.
    answer.is_ok() || bus.closed().now_or_never().is_some()
}

/// Whether a request on the service's own socket is answered.
async fn http(socket: Option<&Door>) -> bool {
    let Some(socket) = socket else { return true };
    // A socket file that somebody deleted does not mean that the service is dead.
    let Ok(mut stream) = socket.connect().await else { return true };
    let request = format!(
        "GET /status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{OBSERVER}: yes\r\n\r\n"
    );
    let mut first = [0];
    stream.write_all(request.as_bytes()).await.is_ok()
        && stream.read_exact(&mut first).await.is_ok()
}
