//! Reading past events. Another process does it, journalctl(1), and it may take long: so it is done in the background,
//! few at once, and no longer than somebody waits for the answer.

use std::{io, os::fd::AsFd, path::PathBuf, sync::Arc, thread, time::Duration};

use tokio::{
    sync::{Semaphore, oneshot, watch},
    time::timeout,
};

use super::Broker;
use crate::{
    audit::past::{self, Found, Limits, PastError, Query, Sources},
    kernel::process,
};

/// How many are read at once. Others wait for their turn.
const AT_ONCE: u32 = 2;

/// How long a request may take, together with the wait for its turn. Many clients give up after half a minute.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long it may take to end what reads them, once nobody waits any more.
const ENDS: Duration = Duration::from_secs(1);

/// The most bytes of events that an answer has: ten thousand events have less, unless their texts are unusually long.
const MOST_BYTES: usize = 16 * 1024 * 1024;

/// What reads past events.
#[derive(Debug)]
pub(super) struct Reading {
    turns: Arc<Semaphore>,
    is_over: watch::Sender<bool>,
}

impl Default for Reading {
    fn default() -> Self {
        Self {
            turns: Arc::new(Semaphore::new(AT_ONCE as usize)),
            is_over: watch::Sender::default(),
        }
    }
}

/// Why past events could not be read.
#[derive(Debug)]
pub enum Unread {
    /// What stands in the way.
    Past(PastError),
    /// It took longer than this.
    Late(Duration),
    /// The service is ending.
    Ending,
}

impl From<io::Error> for Unread {
    fn from(error: io::Error) -> Self {
        Self::Past(PastError::System(error))
    }
}

impl Broker {
    /// Reads the last of the user's events that match, and shows them, which may take long, too. The reading ends when this
    /// is dropped.
    pub async fn past_events<T: Send + 'static>(
        &self,
        query: Query,
        last: usize,
        show: impl FnOnce(&Found) -> T + Send + 'static,
    ) -> Result<T, Unread> {
        let mut is_over = self.reading.is_over.subscribe();
        let state = self.state.clone();
        let found = async {
            let turn = Arc::clone(&self.reading.turns).acquire_owned();
            let turn = turn.await.map_err(|_| Unread::Ending)?;
            // Closed when this is dropped, whatever the reason: then nobody waits for the answer.
            let (wanted, _wanting) = io::pipe()?;
            let (tell, told) = oneshot::channel();
            thread::Builder::new().spawn(move || {
                let _turn = turn;
                let found = read(&query, last, state, &wanted);
                // Without anybody who waits, nothing is to be told.
                let _ = tell.send(found.map(|found| show(&found)));
            })?;
            told.await.map_err(io::Error::other)?.map_err(Unread::Past)
        };
        tokio::select! {
            found = timeout(PATIENCE, found) => found.unwrap_or(Err(Unread::Late(PATIENCE))),
            _ = is_over.wait_for(|is_over| *is_over) => Err(Unread::Ending),
        }
    }

    /// Waits until nothing reads past events any more, after all requests for them have ended: a journalctl(1) that hangs
    /// would outlive this process.
    pub async fn reading_ended(&self) {
        let _ = timeout(ENDS, self.reading.turns.acquire_many(AT_ONCE)).await;
    }

    /// Ends what reads past events: the service is ending.
    pub(super) fn end_reading(&self) {
        self.reading.is_over.send_replace(true);
    }
}

fn read(
    query: &Query,
    last: usize,
    state: PathBuf,
    wanted: &impl AsFd,
) -> Result<Found, PastError> {
    let limits = Limits {
        wanted_by: Some(wanted.as_fd()),
        most_bytes: Some(MOST_BYTES),
        watch: || Box::new(|| {}),
    };
    past::find(query, Some(last), &Sources::of(process::uid(), Some(&state)), &limits)
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;
    use crate::broker::Places;

    fn drop_it(_: &Found) {}

    /// A service that reads as much as it may.
    async fn busy() -> (TempDir, Arc<Broker>, impl Sized) {
        let folder = tempfile::tempdir().unwrap();
        let places = Places { state: folder.path().to_owned(), ..Places::default() };
        let (broker, _events) = Broker::start(places).unwrap();
        let all = Arc::clone(&broker.reading.turns).acquire_many_owned(2).await.unwrap();
        (folder, broker, all)
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_a_turn_is_refused_after_a_while() {
        let (_folder, broker, _all) = busy().await;
        let found = broker.past_events(Query::default(), 1, drop_it).await;
        assert!(matches!(found, Err(Unread::Late(limit)) if limit == PATIENCE), "{found:?}");
    }

    #[tokio::test]
    async fn a_service_that_ends_does_not_wait_for_the_journal() {
        let (_folder, broker, _all) = busy().await;
        let found = broker.past_events(Query::default(), 1, drop_it);
        let (found, ()) = tokio::join!(found, async { broker.end_waiting() });
        assert!(matches!(found, Err(Unread::Ending)), "{found:?}");
        let found = broker.past_events(Query::default(), 1, drop_it).await;
        assert!(matches!(found, Err(Unread::Ending)), "nor for the next one: {found:?}");
    }
}
