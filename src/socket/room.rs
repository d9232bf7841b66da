//! Room for a bounded number of connections. Whoever is slow or silent makes room for the next one.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

/// Room for the connections of a socket.
pub(super) struct Room {
    most: usize,
    places: Mutex<Places>,
    /// A connection was closed, or waits for its client.
    changed: Notify,
}

#[derive(Default)]
struct Places {
    taken: usize,
    next: u64,
    /// Those that wait for their clients, in the order in which they began to.
    waiting: BTreeMap<u64, Arc<Notify>>,
}

impl Room {
    pub(super) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, places: Mutex::default(), changed: Notify::new() })
    }

    fn lock(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until there is room for one more connection, or another one could make room.
    pub(super) async fn available(&self) {
        loop {
            let changed = self.changed.notified();
            let is_there = {
                let places = self.lock();
                places.taken < self.most || !places.waiting.is_empty()
            };
            if is_there {
                return;
            }
            changed.await;
        }
    }

    /// A place for one more connection. If all are taken, the connection that has waited longest for its client is told to
    /// close.
    pub(super) fn enter(self: &Arc<Self>) -> Arc<Place> {
        let mut places = self.lock();
        if places.taken >= self.most
            && let Some((_, leave)) = places.waiting.pop_first()
        {
            leave.notify_one();
        }
        places.taken += 1;
        drop(places);
        let place =
            Place { room: Arc::clone(self), leave: Arc::default(), standing: Mutex::default() };
        place.wait(&mut place.lock());
        Arc::new(place)
    }
}

/// The place of a connection. It is free when this is dropped.
pub(crate) struct Place {
    room: Arc<Room>,
    leave: Arc<Notify>,
    standing: Mutex<Standing>,
}

#[derive(Default)]
struct Standing {
    /// How many things it is busy with.
    busy: usize,
    /// The number in the order of those that wait; `None` while it is busy.
    number: Option<u64>,
}

impl Place {
    /// Marks the connection as busy with a request until the result is dropped. It is not told to close meanwhile.
    pub(crate) fn busy(self: &Arc<Self>) -> Busy {
        let mut standing = self.lock();
        standing.busy += 1;
        self.stop_waiting(&mut standing);
        Busy(Arc::clone(self))
    }

    /// Waits until the connection is to be closed.
    pub(crate) async fn dismissed(&self) {
        loop {
            self.leave.notified().await;
            // A request may have come at that moment.
            if self.lock().busy == 0 {
                return;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait(&self, standing: &mut Standing) {
        let mut places = self.room.lock();
        let number = places.next;
        places.next += 1;
        places.waiting.insert(number, Arc::clone(&self.leave));
        standing.number = Some(number);
        drop(places);
        self.room.changed.notify_one();
    }

    fn stop_waiting(&self, standing: &mut Standing) {
        if let Some(number) = standing.number.take() {
            self.room.lock().waiting.remove(&number);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.stop_waiting(&mut self.lock());
        self.room.lock().taken -= 1;
        self.room.changed.notify_one();
    }
}

/// A connection that is busy with a request.
pub(crate) struct Busy(Arc<Place>);

impl Drop for Busy {
    fn drop(&mut self) {
        let mut standing = self.0.lock();
        standing.busy -= 1;
        if standing.busy == 0 {
            self.0.wait(&mut standing);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{pin::pin, task::Poll};

    use futures_util::poll;

    use super::*;

    #[tokio::test]
    async fn the_connection_that_has_waited_longest_makes_room() {
        let room = Room::new(3);
        let places = [room.enter(), room.enter(), room.enter()];
        let [first, second, third] = places.each_ref().map(|place| Box::pin(place.dismissed()));
        let (mut first, mut second, mut third) = (first, second, third);
        // The first is busy, and has waited only since then.
        let busy = places[0].busy();
        let _fourth = room.enter();
        assert!(poll!(&mut first).is_pending() && poll!(&mut third).is_pending());
        assert_eq!(poll!(&mut second), Poll::Ready(()));
        drop(busy);
        let _fifth = room.enter();
        assert_eq!((poll!(&mut third), poll!(&mut first)), (Poll::Ready(()), Poll::Pending));
    }

    #[tokio::test]
    async fn where_all_are_busy_nobody_enters_until_one_is_not() {
        let room = Room::new(2);
        let places = [room.enter(), room.enter()];
        let busy = places.each_ref().map(Place::busy);
        let mut available = pin!(room.available());
        assert!(poll!(&mut available).is_pending());
        drop(busy);
        assert!(poll!(&mut available).is_ready());
        drop(places);
        room.available().await;
        let left = room.lock();
        assert_eq!((left.taken, left.waiting.len()), (0, 0));
    }

    #[tokio::test]
    async fn a_connection_is_busy_as_long_as_anything_of_it_is() {
        let room = Room::new(1);
        let place = room.enter();
        let (one, other) = (place.busy(), place.busy());
        let mut available = pin!(room.available());
        drop(one);
        assert!(poll!(&mut available).is_pending());
        drop(other);
        assert!(poll!(&mut available).is_ready());
    }

    #[tokio::test]
    async fn a_connection_that_became_busy_is_not_closed() {
        let room = Room::new(1);
        let place = room.enter();
        let _next = room.enter();
        let busy = place.busy();
        let mut dismissed = pin!(place.dismissed());
        assert!(poll!(&mut dismissed).is_pending());
        drop(busy);
        assert!(poll!(&mut dismissed).is_pending(), "it waits anew");
    }
}
