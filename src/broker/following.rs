//! Following changes as they are made, from any change whose record is still in the log.

use std::sync::{Arc, OnceLock};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, broadcast},
    task::yield_now,
};

use super::Broker;
use crate::{
    change::{Change, Record},
    error::{Error, ErrorKind},
    state::Reader,
};

/// How many follow at once. Each holds a connection, and others need some, too.
const MOST_FOLLOWERS: usize = 112;

/// How many pages do, beside these: a program that follows too often must not blind them.
const MOST_PAGES: usize = 16;

/// How many changes are kept in memory for followers. One that is further behind reads the log.
const KEPT: usize = 256;

/// How many records are read before other tasks have their turn.
const AT_ONCE: usize = 64;

/// Room for those who follow.
#[derive(Debug)]
pub(super) struct Followers {
    pages: Arc<Semaphore>,
    others: Arc<Semaphore>,
}

impl Default for Followers {
    fn default() -> Self {
        Self {
            pages: Arc::new(Semaphore::new(MOST_PAGES)),
            others: Arc::new(Semaphore::new(MOST_FOLLOWERS)),
        }
    }
}

/// A change, and how it is shown to all followers: that is worked out once.
#[derive(Debug)]
pub struct Told {
    record: Record,
    shown: OnceLock<Arc<[u8]>>,
}

impl Told {
    fn new(record: Record) -> Arc<Self> {
        Arc::new(Self { record, shown: OnceLock::new() })
    }

    /// How it is shown.
    pub fn shown(&self, show: impl FnOnce(&Record) -> String) -> Arc<[u8]> {
        Arc::clone(self.shown.get_or_init(|| show(&self.record).into_bytes().into()))
    }
}

/// The changes as they are made. They cost nothing while nobody follows.
#[derive(Debug, Default)]
pub(super) struct Live(Option<broadcast::Sender<Arc<Told>>>);

impl Live {
    fn subscribe(&mut self) -> broadcast::Receiver<Arc<Told>> {
        self.0.get_or_insert_with(|| broadcast::Sender::new(KEPT)).subscribe()
    }

    /// Passes on a change.
    pub(super) fn send(&mut self, record: &Record) {
        if let Some(live) = &self.0
            && live.send(Told::new(record.clone())).is_err()
        {
            self.0 = None;
        }
    }
}

/// What a follower learns next.
#[derive(Debug)]
pub enum Followed {
    /// The next change.
    Change(Arc<Told>),
    /// Changes up to this one are not in the log any more, or were lost: whoever wants to know how things are has to ask.
    Missed(u64),
}

/// A place in the sequence of changes.
#[derive(Debug)]
pub struct Follower {
    broker: Arc<Broker>,
    live: broadcast::Receiver<Arc<Told>>,
    /// The last change that is known, if it can be told which.
    last: Option<u64>,
    /// Beside the number of a change: whether the state was damaged before.
    mark: Option<String>,
    /// The number of the last change that is read from the log, and the reader, once there is one.
    behind: Option<(u64, Option<Reader>)>,
    _place: OwnedSemaphorePermit,
}

impl Broker {
    /// Follows the changes from now on; `is_page` says whether for a page in a browser.
    pub fn follow(self: &Arc<Self>, is_page: bool) -> Result<Follower, Error> {
        let mut follower = self.follower(is_page)?;
        follower.last = follower.behind.take().map(|(seq, _)| seq);
        Ok(follower)
    }

    /// Follows the changes after that one. If the mark is not that of this state, there was no such change in it.
    pub fn follow_after(
        self: &Arc<Self>,
        last: Option<u64>,
        mark: Option<&str>,
        is_page: bool,
    ) -> Result<Follower, Error> {
        let mut follower = self.follower(is_page)?;
        follower.last = last.filter(|_| follower.mark.as_deref() == mark);
        Ok(follower)
    }

    /// One that knows nothing of what is in the log.
    fn follower(self: &Arc<Self>, is_page: bool) -> Result<Follower, Error> {
        let Followers { pages, others } = &self.followers;
        let room = if is_page { pages } else { others };
        let place = Arc::clone(room).try_acquire_owned().map_err(|_| {
            let message = if room.is_closed() {
                "the service is ending".to_owned()
            } else if is_page {
                format!("{MOST_PAGES} pages follow the events already")
            } else {
                format!("{MOST_FOLLOWERS} clients follow the events already")
            };
            Error::new(ErrorKind::LimitExceeded, message).suggest("try again later")
        })?;
        let mut inner = self.lock();
        self.usable(&mut inner)?;
        let live = inner.live.subscribe();
        let state = inner.state.as_ref().ok().map(|state| &state.store);
        let (seq, mark) = state.map_or((0, None), |store| (store.seq(), store.name_mark()));
        let behind = Some((seq, None));
        Ok(Follower { broker: Arc::clone(self), live, last: None, mark, behind, _place: place })
    }

    /// Ends what follows changes: the service is ending.
    pub(super) fn end_following(&self) {
        self.followers.pages.close();
        self.followers.others.close();
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

    /// What a number of a change is given with.
    pub fn mark(&self) -> Option<&str> {
        self.mark.as_deref()
    }

    /// Waits for the next change; `None` when the service ends. Nothing is lost if this is dropped before.
    pub async fn next(&mut self) -> Option<Followed> {
        loop {
            if let Some((until, reader)) = self.behind.take() {
                if let Some(followed) = self.read(until, reader).await {
                    return Some(followed);
                }
                continue;
            }
            match self.live.recv().await {
                Ok(told) if Some(told.record.seq) <= self.last => {}
                Ok(told) if self.is_next(&told.record) => return Some(self.followed(told)),
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

    fn followed(&mut self, told: Arc<Told>) -> Followed {
        let record = &told.record;
        self.last = Some(record.seq);
        // What was lost may have been told already.
        match record.change {
            Change::Recover { .. } => Followed::Missed(record.seq),
            _ => Followed::Change(told),
        }
    }

    /// Reads the next change from the log, up to that one; `None` if it is reached, or others are to have their turn.
    async fn read(&mut self, until: u64, reader: Option<Reader>) -> Option<Followed> {
        if self.last == Some(until) {
            return None;
        }
        if let Some(last) = self.last.filter(|last| *last < until) {
            // What cannot be read is missed.
            let open = || Reader::after(&self.broker.state, last).ok().flatten();
            let mut reader = reader.or_else(open);
            let mut count = 0;
            while let Some(records) = &mut reader {
                match records.next_record(until) {
                    Ok(Some(record)) if record.seq <= last => {
                        count += 1;
                        if count % AT_ONCE == 0 {
                            // Here this may be dropped, and is asked again.
                            self.behind = Some((until, reader));
                            yield_now().await;
                            return None;
                        }
                    }
                    Ok(Some(record)) if self.is_next(&record) => {
                        self.behind = Some((until, reader));
                        return Some(self.followed(Told::new(record)));
                    }
                    _ => reader = None,
                }
            }
        }
        self.last = Some(until);
        Some(Followed::Missed(until))
    }
}
