//! The door on the session bus, which may open late or come back. HTTP does not wait for it.

use std::{sync::Arc, time::Duration};

use tokio::sync::mpsc;

use crate::{
    broker::Broker,
    dbus::{Door, OpenError},
};

/// A bus that does not answer for this long no longer delays the idle exit, and changes are no longer queued
/// for it.
const PATIENCE: Duration = Duration::from_secs(5);
/// The minimum interval between attempts to reach an absent bus.
const PAUSE: Duration = Duration::from_secs(10);

/// The result of opening the door.
pub(super) enum Opened {
    /// It is open.
    Door(Door),
    /// There is no bus now; a later one is noticed.
    NoBus,
    /// Another process has the name.
    NameTaken,
}

/// Opens the door in the background.
pub(super) fn open(broker: &Arc<Broker>) -> mpsc::UnboundedReceiver<Opened> {
    let (opened, receiver) = mpsc::unbounded_channel();
    tokio::spawn(keep_trying(Arc::clone(broker), opened));
    receiver
}

async fn keep_trying(broker: Arc<Broker>, opened: mpsc::UnboundedSender<Opened>) {
    loop {
        match try_once(&broker).await {
            Ok(door) => {
                let _ = opened.send(Opened::Door(door));
                return;
            }
            Err(OpenError::NameTaken) => {
                let _ = opened.send(Opened::NameTaken);
                return;
            }
            Err(OpenError::NoBus(_)) => {}
        }
        broker.owners().set_bus(None);
        broker.end_changes();
        if opened.send(Opened::NoBus).is_err() {
            return;
        }
        tokio::time::sleep(PAUSE).await;
        // Whoever uses the socket may have a bus by now; a service at rest does not look for one.
        let _ = broker.idle_tracker().watch().changed().await;
    }
}

async fn try_once(broker: &Arc<Broker>) -> Result<Door, OpenError> {
    let busy = broker.idle_tracker().busy();
    let mut opening = std::pin::pin!(Door::open(broker));
    if let Ok(result) = tokio::time::timeout(PATIENCE, opening.as_mut()).await {
        return result;
    }
    drop(busy);
    broker.end_changes();
    opening.await
}
