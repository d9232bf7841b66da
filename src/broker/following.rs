//! Following changes as they are made, from any change whose record is still in the log.

use std::{path::PathBuf, sync::Arc};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, broadcast},
    task::yield_now,
};

use super::Broker;
use crate::{
    change::Record,
    error::{Error, ErrorKind},
    state::Reader,
};

/// How many follow at once. Each holds a connection, and others need some, too.
const MOST_FOLLOWERS: usize = 128;

/// How many changes are kept in memory for followers. One that is further behind reads the log.
const KEPT: usize = 256;

/// How many records are read before other tasks have their turn.
const AT_ONCE: usize = 64;

/// Who follows.
#[derive(Debug)]
pub(super) struct Followers(Arc<Semaphore>);

impl Default for Followers {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MOST_FOLLOWERS)))
    }
}

/// The changes as they are made. They cost nothing while nobody follows.
#[derive(Debug, Default)]
pub(super) struct Live(Option<broadcast::Sender<Record>>);

impl Live {
    fn subscribe(&mut self) -> broadcast::Receiver<Record> {
        self.0.get_or_insert_with(|| broadcast::Sender::new(KEPT)).subscribe()
    }

    /// Passes on a change.
    pub(super) fn send(&mut self, record: &Record) {
        if let Some(live) = &self.0
            && live.send(record.clone()).is_err()
        {
            self.0 = None;
        }
    }
}

/// What a follower learns next.
#[derive(Debug)]
pub enum Followed {
    /// The next change.
    Change(Record),
    /// Changes up to this one are not in the log any more: whoever wants to know how things are has to ask.
    Missed(u64),
}

/// A place in the sequence of changes.
#[derive(Debug)]
pub struct Follower {
    broker: Arc<Broker>,
    live: broadcast::Receiver<Record>,
    /// The last change that is known, if it can be told which.
    last: Option<u64>,
    /// The number of the last change that is read from the log, and the reader, once there is one.
    behind: Option<(u64, Option<Reader>)>,
    _place: OwnedSemaphorePermit,
}

impl Broker {
    /// Follows the changes from now on.
    pub fn follow(self: &Arc<Self>) -> Result<Follower, Error> {
        let (live, seq) = self.join()?;
        self.follower(live, Some(seq), None)
    }

    /// Follows the changes after that one; `None` stands for one that there cannot have been.
    pub fn follow_after(self: &Arc<Self>, last: Option<u64>) -> Result<Follower, Error> {
        let (live, seq) = self.join()?;
        let behind = (last != Some(seq)).then_some((seq, None));
        self.follower(live, last, behind)
    }

    fn join(&self) -> Result<(broadcast::Receiver<Record>, u64), Error> {
        let mut inner = self.lock();
        self.usable(&mut inner)?;
        let live = inner.live.subscribe();
        let seq = inner.state.as_ref().map_or(0, |state| state.store.seq());
        Ok((live, seq))
    }

    fn follower(
        self: &Arc<Self>,
        live: broadcast::Receiver<Record>,
        last: Option<u64>,
        behind: Option<(u64, Option<Reader>)>,
    ) -> Result<Follower, Error> {
        let place = Arc::clone(&self.followers.0).try_acquire_owned().map_err(|_| {
            let message = if self.followers.0.is_closed() {
                "the service is ending".to_owned()
            } else {
                format!("{MOST_FOLLOWERS} clients follow the events already")
            };
            Error::new(ErrorKind::LimitExceeded, message).suggest("try again later")
        })?;
        Ok(Follower { broker: Arc::clone(self), live, last, behind, _place: place })
    }

    /// Ends what follows changes: the service is ending.
    pub(super) fn end_following(&self) {
        self.followers.0.close();
        self.lock().live = Live::default();
    }

    fn seq(&self) -> u64 {
        self.lock().state.as_ref().map_or(0, |state| state.store.seq())
    }
}

impl Follower {
    /// The last change that is known.
    pub fn last(&self) -> Option<u64> {
        self.last
    }

    /// Waits for the next change; `None` when the service ends.
    pub async fn next(&mut self) -> Option<Followed> {
        loop {
            if let Some((until, reader)) = self.behind.take() {
                if let Some(followed) = self.read(until, reader).await {
                    return Some(followed);
                }
                continue;
            }
            match self.live.recv().await {
                Ok(record) if Some(record.seq) <= self.last => {}
                Ok(record) if self.is_next(&record) => return Some(self.followed(record)),
                Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {
                    self.behind = Some((self.broker.seq(), None));
                }
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }

    fn is_next(&self, record: &Record) -> bool {
        self.last.is_some_and(|last| record.seq == last + 1)
    }

    fn followed(&mut self, record: Record) -> Followed {
        self.last = Some(record.seq);
        Followed::Change(record)
    }

    /// Reads the next change from the log, up to that one; `None` if it is reached.
    async fn read(&mut self, until: u64, reader: Option<Reader>) -> Option<Followed> {
        if self.last == Some(until) {
            return None;
        }
        if let Some(last) = self.last.filter(|last| *last < until) {
            // What cannot be read is missed.
            let open = || Reader::after(&self.folder(), last).ok().flatten();
            let mut reader = reader.or_else(open);
            let mut count = 0;
            while let Some(records) = &mut reader {
                match records.next_record(until) {
                    Ok(Some(record)) if record.seq <= last => {
                        count += 1;
                        if count % AT_ONCE == 0 {
                            yield_now().await;
                        }
                    }
                    Ok(Some(record)) if self.is_next(&record) => {
                        self.behind = Some((until, reader));
                        return Some(self.followed(record));
                    }
                    _ => reader = None,
                }
            }
        }
        self.last = Some(until);
        Some(Followed::Missed(until))
    }

    fn folder(&self) -> PathBuf {
        self.broker.state.clone()
    }
}
