//! Identifies callers.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use zbus::{
    Connection,
    fdo::ConnectionCredentials,
    message::{Flags, Header},
    names::OwnedUniqueName,
};

use crate::{
    broker::Caller,
    error::Error,
    kernel::{network, process},
    lease::{Client, Transport},
};

/// The known callers. The bus is asked once for each connection, while the caller waits for its answer: so the
/// caller still exists, and its PID was not reused. A unique name is never used twice.
#[derive(Default)]
pub(super) struct Callers(Mutex<HashMap<OwnedUniqueName, Known>>);

/// A caller, and when the bus last confirmed that it is there.
struct Known {
    client: Client,
    seen: Instant,
}

impl Callers {
    /// The most connections to remember; one-shot clients such as busctl do not come back.
    const MOST: usize = 1_024;
    /// How long a caller counts as present without asking: nobody gives up that soon.
    const FRESH: Duration = Duration::from_secs(1);

    pub(super) async fn client(
        &self,
        bus: &Connection,
        header: &Header<'_>,
    ) -> Result<Client, Error> {
        let Some(sender) = header.sender() else {
            return Ok(Caller::client(Transport::Dbus, None, None));
        };
        if let Some(known) = self.lock().get(sender.as_str()) {
            return Ok(known.client.clone());
        }
        let client = ask(bus, sender.as_str()).await;
        // The bus lets in root, too.
        if client.uid.is_some_and(|uid| uid != process::uid()) {
            return Err(Error::other_user());
        }
        if client.uid.is_none() {
            // The bus does not know the caller: it has left.
            return Ok(client);
        }
        if client.pid.and_then(network::same) == Some(false) {
            return Err(Error::other_network());
        }
        let mut known = self.lock();
        if known.len() >= Self::MOST {
            known.clear();
        }
        let seen = Instant::now();
        known.insert(sender.to_owned().into(), Known { client: client.clone(), seen });
        Ok(client)
    }

    /// Whether a caller that expects an answer has left: a service that was suspended, or waited for the disk,
    /// finds calls whose callers have given up. The bus never reuses a unique name.
    pub(super) async fn has_gone(&self, bus: &Connection, header: &Header<'_>) -> bool {
        let Some(sender) = header.sender() else { return false };
        if header.primary().flags().contains(Flags::NO_REPLY_EXPECTED) {
            return false;
        }
        let is_fresh = |known: &Known| known.seen.elapsed() < Self::FRESH;
        if self.lock().get(sender.as_str()).is_some_and(is_fresh) {
            return false;
        }
        let name = Some("org.freedesktop.DBus");
        let reply = bus
            .call_method(name, "/org/freedesktop/DBus", name, "NameHasOwner", &sender.as_str())
            .await;
        let has_gone = reply.is_ok_and(|reply| reply.body().deserialize() == Ok(false));
        if has_gone {
            self.lock().remove(sender.as_str());
        } else if let Some(known) = self.lock().get_mut(sender.as_str()) {
            known.seen = Instant::now();
        }
        has_gone
    }

    /// The same, with the bus connection, for calls where the caller itself may be the owner.
    pub(super) async fn caller(
        &self,
        bus: &Connection,
        header: &Header<'_>,
    ) -> Result<Caller, Error> {
        let client = self.client(bus, header).await?;
        let connection = header.sender().map(|name| name.to_string());
        Ok(Caller { client, connection, pidfd: None })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<OwnedUniqueName, Known>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn ask(bus: &Connection, sender: &str) -> Client {
    let name = Some("org.freedesktop.DBus");
    let reply = bus
        .call_method(name, "/org/freedesktop/DBus", name, "GetConnectionCredentials", &sender)
        .await;
    let credentials = reply.ok().and_then(|r| r.body().deserialize::<ConnectionCredentials>().ok());
    let pid = credentials.as_ref().and_then(ConnectionCredentials::process_id);
    let uid = credentials.as_ref().and_then(ConnectionCredentials::unix_user_id);
    Caller::client(Transport::Dbus, pid, uid)
}
