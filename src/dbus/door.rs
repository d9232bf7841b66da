//! Opening and closing the door, and announcing changes as signals.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;
use zbus::{
    Connection, Message, Variant,
    fdo::{self, RequestNameFlags},
    object_server::{Interface, SignalEmitter},
};

use super::{
    NAME, PATH, Styxy, callers::Callers, delivery::Delivery, object::Object, room::Room,
    values::Dict,
};
use crate::{
    broker::Broker,
    change::{Announced, Change, Record},
    lease::Lease,
    surroundings::machine,
};

/// How long changes are gathered before they are announced.
const GATHER: Duration = Duration::from_millis(5);
/// How long after a change the changed properties are announced.
const PROPERTIES: Duration = Duration::from_secs(1);
/// How many changes are taken at once.
const MOST_AT_ONCE: usize = 256;
/// How many of these are sent at once. In between, method calls are answered, because their callers are waiting.
const MOST_IN_A_WRITE: usize = 16;

/// The open door.
pub struct Door {
    connection: Connection,
    signals: tokio::task::JoinHandle<()>,
    broker: Arc<Broker>,
}

/// Why the door cannot be opened.
#[derive(Debug)]
pub enum OpenError {
    /// There is no session bus.
    NoBus(zbus::Error),
    /// Another process has the name.
    NameTaken,
}

impl Door {
    /// Serves the object on the session bus, and only then requests the name: a call that is delivered with the
    /// name must find the object.
    pub async fn open(broker: &Arc<Broker>) -> Result<Self, OpenError> {
        let connection = zbus::connection::Builder::session()
            .serve_at(PATH, object(broker))
            .build()
            .await
            .map_err(OpenError::NoBus)?;
        // Its clients are in another network, with other ports.
        if !is_in_this_network(&connection).await {
            return Err(OpenError::NoBus(zbus::Error::Unsupported));
        }
        // The call that is delivered with the name may name an owner on the bus.
        broker.owners().set_bus(Some(connection.clone()));
        let flags = RequestNameFlags::DO_NOT_QUEUE;
        match connection.request_name_with_flags(NAME, flags).await {
            Ok(_) => {
                // Sent before the name is owned, signals would have a sender that no subscriber knows.
                let signals = tokio::spawn(tell(connection.clone(), Arc::clone(broker)));
                Ok(Self { connection, signals, broker: Arc::clone(broker) })
            }
            Err(zbus::Error::NameTaken) => Err(OpenError::NameTaken),
            Err(error) => Err(OpenError::NoBus(error)),
        }
    }

    /// Waits until the bus is gone.
    pub async fn closed(&self) {
        self.connection.closed().await;
    }

    /// Drops a bus that is gone; the owners on it are looked for when the bus is back.
    pub fn lost(self) {
        self.broker.owners().bus_lost();
        self.broker.end_changes();
        self.signals.abort();
    }

    /// Releases the name, answers every call that reached this process before, and closes the connection.
    pub async fn close(self, patience: Duration) {
        let Self { connection, signals, broker } = self;
        let finish = async {
            let _ = connection.release_name(NAME).await;
            // The bus delivers in order: when this call to ourselves is answered, every call that
            // was sent to the name has been taken from the queue.
            let own = connection.unique_name().map(|name| name.to_string());
            let peer = Some("org.freedesktop.DBus.Peer");
            let _ = connection.call_method(own.as_deref(), PATH, peer, "Ping", &()).await;
            broker.idle_tracker().settled().await;
            broker.owners().close();
            broker.end_changes();
            let _ = signals.await;
            // Waits for the replies that are still being sent.
            connection.graceful_shutdown().await;
        };
        let _ = tokio::time::timeout(patience, finish).await;
    }
}

fn object(broker: &Arc<Broker>) -> Object {
    Object(Styxy {
        broker: Arc::clone(broker),
        callers: Callers::default(),
        delivery: Delivery::default(),
    })
}

/// Serves a client without a bus between them, for tests.
#[cfg(test)]
pub(crate) async fn serve_peer(
    broker: &Arc<Broker>,
    peer: std::os::unix::net::UnixStream,
) -> zbus::Result<Connection> {
    let builder = zbus::connection::Builder::unix_stream(peer).server(zbus::Guid::generate()).p2p();
    let connection = builder.serve_at(PATH, object(broker)).build().await?;
    tokio::spawn(tell(connection.clone(), Arc::clone(broker)));
    Ok(connection)
}

/// Whether a bus is in the same network as this process (`network_namespaces(7)`).
pub async fn is_in_this_network(bus: &Connection) -> bool {
    let peer = bus.peer_creds().await.ok();
    machine::is_in_this_network(peer.and_then(|peer| peer.process_id()))
}

/// Announces changes as signals.
async fn tell(connection: Connection, broker: Arc<Broker>) {
    let Ok(emitter) = SignalEmitter::new(&connection, PATH) else { return };
    let mut changes = broker.changes();
    let mut properties = Properties::of(&broker);
    let mut room = Room::default();
    let mut gathered = Vec::new();
    loop {
        let look_at = room.look_at();
        let due = properties.due.filter(|_| look_at.is_none());
        let count = tokio::select! {
            count = changes.recv_many(&mut gathered, MOST_AT_ONCE) => count,
            () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                properties.tell(&broker, &emitter).await;
                continue;
            }
            () = tokio::time::sleep_until(look_at.unwrap_or_else(Instant::now)), if look_at.is_some() => {
                if room.look(&connection).await {
                    let _ = Styxy::changes_missed(&emitter).await;
                }
                continue;
            }
        };
        if count == 0 {
            break;
        }
        let latest = latest(&gathered);
        let has_room = room.has_for(latest.len(), &connection).await;
        for part in latest.chunks(MOST_IN_A_WRITE).filter(|_| has_room) {
            let told = part.iter().filter_map(|change| signals(change).ok());
            // A bus that is gone is noticed elsewhere.
            let _ = connection.send_all(&told.flatten().collect::<Vec<_>>()).await;
            tokio::task::yield_now().await;
        }
        gathered.clear();
        properties.due.get_or_insert_with(|| Instant::now() + PROPERTIES);
        // Answers go before signals: a client that calls again at once must not wait for signals.
        tokio::time::sleep(GATHER).await;
    }
    properties.tell(&broker, &emitter).await;
}

/// The changes without those that a later one supersedes: the signal of a lease that is used by many says only what it
/// is now.
fn latest(records: &[Record]) -> Vec<&Change> {
    let mut known = HashSet::new();
    let mut latest: Vec<_> = records.iter().map(|record| &record.change).rev().collect();
    latest.retain(|change| match change {
        Change::Reuse { lease }
        | Change::Leave { lease, .. }
        | Change::Claim { lease }
        | Change::Hold { lease }
        | Change::Renew { lease } => known.insert(lease.lease_id),
        _ => true,
    });
    latest.reverse();
    latest
}

/// The properties as last announced. They are announced together, a while after the first change: a grant has
/// its own signal already.
struct Properties {
    lease_count: u32,
    auto_allocation: bool,
    /// When to compare them, if there was a change.
    due: Option<Instant>,
}

impl Properties {
    fn of(broker: &Broker) -> Self {
        Self {
            lease_count: broker.lease_count(),
            auto_allocation: broker.auto_allocation(),
            due: None,
        }
    }

    /// Announces the properties that have changed.
    async fn tell(&mut self, broker: &Broker, emitter: &SignalEmitter<'_>) {
        let before = std::mem::replace(self, Self::of(broker));
        let mut changed = HashMap::new();
        if before.lease_count != self.lease_count {
            changed.insert("LeaseCount", Variant::from(self.lease_count));
        }
        if before.auto_allocation != self.auto_allocation {
            changed.insert("AutoAllocation", Variant::from(self.auto_allocation));
        }
        if !changed.is_empty() {
            let name = Styxy::name();
            let _ = fdo::Properties::properties_changed(emitter, name, changed, (&[]).into()).await;
        }
    }
}

/// The signals for a change.
fn signals(change: &Change) -> zbus::Result<Vec<Message>> {
    change.announced().into_iter().map(signal).collect()
}

fn signal(announced: Announced<'_>) -> zbus::Result<Message> {
    let id = |lease: &Lease| lease.lease_id.to_string();
    let message = Message::signal(PATH, NAME, announced.signal());
    match announced {
        Announced::Granted(lease) | Announced::Orphaned(lease) | Announced::Changed(lease) => {
            message.build(&(lease.port.get(), id(lease), Dict(lease.fields())))
        }
        Announced::Released(lease, reason) => {
            message.build(&(lease.port.get(), id(lease), reason.as_str(), Dict(lease.fields())))
        }
        Announced::InstanceAdded(instance) => {
            message.build(&(instance.instance_id.as_str(), Dict(instance.fields())))
        }
        Announced::InstanceRemoved(instance, reason) => {
            message.build(&(instance.instance_id.as_str(), reason))
        }
        Announced::TypeAdded(name) | Announced::TypeRemoved(name) => message.build(&name.as_str()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        lease::{EndReason, LeaseId},
        port::Port,
        time::Timestamp,
    };

    #[test]
    fn of_several_changes_of_a_lease_the_last_is_told_and_every_beginning_and_end() {
        let lease = |id, claim| {
            let lease = Lease::new(LeaseId::from_number(id), Port::MAX, "dev".parse().unwrap());
            Arc::new(Lease { claim, ..lease })
        };
        let reuse = |id, claim| Change::Reuse { lease: lease(id, claim) };
        let end = Change::Release { lease: lease(1, true), reason: EndReason::Released };
        let changes = [
            reuse(1, false),
            reuse(2, false),
            reuse(1, true),
            Change::Orphan { lease: lease(1, true) },
            end.clone(),
        ];
        let records =
            changes.map(|change| Record { seq: 1, at: Timestamp(1), client: None, change });
        let orphan = Change::Orphan { lease: lease(1, true) };
        assert_eq!(latest(&records), [&reuse(2, false), &reuse(1, true), &orphan, &end]);
    }
}
