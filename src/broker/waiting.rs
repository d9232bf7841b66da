//! Requests that wait for room: where no port of a type is free, a request may be tried again as leases end, as long as
//! its type allows.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{Notify, Semaphore},
    time::sleep,
};

use super::{
    Broker,
    grant::Granted,
    owner::{Caller, ResolvedOwner},
};
use crate::{
    error::{Error, ErrorKind},
    kernel::readable::readable,
    owners::connections,
    request::AllocateRequest,
};

/// The most requests that wait at once, because each end of a lease makes all of them try again. Others are refused at
/// once.
const MOST_WAITING: usize = 128;

/// The requests that wait.
#[derive(Debug)]
pub(super) struct Waiting {
    places: Semaphore,
    /// Notified when there may be room: a lease has ended, or its owner.
    room: Notify,
}

impl Default for Waiting {
    fn default() -> Self {
        Self { places: Semaphore::new(MOST_WAITING), room: Notify::new() }
    }
}

impl Waiting {
    /// There may be room.
    pub(super) fn note_room(&self) {
        self.room.notify_waiters();
    }
}

impl Broker {
    /// Attempts a request. Where no port is free, does so again when a lease ends, until its time is over.
    pub(super) async fn attempt_in_time(
        self: &Arc<Self>,
        request: &AllocateRequest,
        caller: &Caller,
        held: &mut ResolvedOwner,
        hand_over: bool,
    ) -> Result<(Granted, Option<u64>), Error> {
        let mut refused = match self.attempt(request, &caller.client, held, hand_over).await {
            Err(error) if error.kind == ErrorKind::PoolExhausted => error,
            attempt => return attempt,
        };
        let Some(wait) = self.wait_of(request) else { return Err(refused) };
        let Ok(_place) = self.waiting.places.try_acquire() else { return Err(refused) };
        let over = async {
            tokio::select! {
                () = sleep(wait) => {}
                () = self.gone(caller) => {}
            }
        };
        let mut over = std::pin::pin!(over);
        loop {
            // Room that appears during the attempt counts, too.
            let room = self.waiting.room.notified();
            match self.attempt(request, &caller.client, held, hand_over).await {
                Err(error) if error.kind == ErrorKind::PoolExhausted => refused = error,
                attempt => return attempt,
            }
            if self.waiting.places.is_closed() {
                return Err(refused);
            }
            tokio::select! {
                () = room => {}
                () = &mut over => return Err(refused),
            }
        }
    }

    /// How long a request may wait, if it may.
    fn wait_of(&self, request: &AllocateRequest) -> Option<Duration> {
        let inner = self.lock();
        let service_type = inner.registry.rules().types.0.get(&request.service_type)?;
        let is_patient = !request.strict && !request.dry_run && service_type.wait_ms > 0;
        is_patient.then(|| Duration::from_millis(service_type.wait_ms))
    }

    /// Waits until the caller is gone, as far as that can be known.
    async fn gone(&self, caller: &Caller) {
        let is_gone = match (&caller.pidfd, &caller.connection, self.owners.bus()) {
            (Some(pidfd), ..) => match pidfd.try_clone() {
                Ok(pidfd) => readable(pidfd).await.is_ok(),
                Err(_) => false,
            },
            (None, Some(name), Some(bus)) => match connections::bus_id(&bus).await {
                Ok(id) => connections::ended(&bus, name, &id).await.is_ok(),
                Err(_) => false,
            },
            _ => false,
        };
        if !is_gone {
            std::future::pending::<()>().await;
        }
    }

    /// Refuses the requests that wait, and makes no other one wait: the service is ending.
    pub fn end_waiting(&self) {
        self.waiting.places.close();
        self.waiting.note_room();
        self.end_reading();
        self.end_following();
        self.end_pages();
    }

    /// How many requests wait.
    #[cfg(test)]
    pub(crate) fn waiting_count(&self) -> usize {
        MOST_WAITING - self.waiting.places.available_permits()
    }
}
