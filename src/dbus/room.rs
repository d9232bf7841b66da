//! How much the bus can still queue for clients that do not read.
//!
//! dbus-broker counts what is queued for all connections of a user together. At the limit it disconnects the
//! connection that it is about to send to: a client that waits for its answer, or this service, just as well as
//! a client that does not read. So before the limit is reached, changes are no longer announced one by one,
//! only that some were missed. dbus-daemon counts each connection separately.

use std::{collections::HashMap, time::Duration};

use tokio::time::Instant;
use zbus::{Connection, Variant};

use crate::kernel::process;

/// How many changes are announced before the bus is queried again.
const EVERY: usize = 64;
/// Below this much room, in percent, changes are not announced one by one.
const SHORT: u64 = 50;
/// From this much room on, in percent, they are again.
const ENOUGH: u64 = 75;
/// Below this much room, in percent, nothing is announced.
const LEAST: u64 = 25;
/// How long the bus may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// The first and the longest pause before the bus is queried again.
const SOON: Duration = Duration::from_secs(2);
const LATE: Duration = Duration::from_secs(15);

/// For each user: how much of each resource is left, its limit, and who uses how much of it.
type Accounting = Vec<(u32, Vec<(String, u32, u32)>, HashMap<u32, HashMap<String, u32>>)>;

/// Tracks whether there is room to announce changes.
#[derive(Debug, Default)]
pub(super) struct Room {
    /// Changes since the bus was last queried.
    unasked: usize,
    /// Whether this bus has no such limit. Then it is not queried again: calls wait while it answers.
    is_unlimited: bool,
    short: Option<Short>,
}

#[derive(Debug)]
struct Short {
    look_at: Instant,
    pause: Duration,
    /// Whether a change was missed, and that has not been announced either.
    has_missed: bool,
}

impl Room {
    /// Whether that many changes can be announced. If not, they count as missed.
    pub(super) async fn has_for(&mut self, changes: usize, bus: &Connection) -> bool {
        if let Some(short) = &mut self.short {
            short.has_missed = true;
            return false;
        }
        self.unasked += changes;
        if self.is_unlimited || self.unasked < EVERY {
            return true;
        }
        self.unasked = 0;
        let left = left(bus).await;
        self.is_unlimited = left.is_none();
        left.is_none_or(|left| self.note_short(left))
    }

    fn note_short(&mut self, left: u64) -> bool {
        if left < SHORT {
            self.short =
                Some(Short { look_at: Instant::now() + SOON, pause: SOON, has_missed: true });
        }
        left >= SHORT
    }

    /// When to query the bus again, while there is little room.
    pub(super) fn look_at(&self) -> Option<Instant> {
        self.short.as_ref().map(|short| short.look_at)
    }

    /// Queries the bus again. Returns whether to announce that changes were missed.
    pub(super) async fn look(&mut self, bus: &Connection) -> bool {
        self.note(left(bus).await.unwrap_or(100))
    }

    fn note(&mut self, left: u64) -> bool {
        let Some(short) = &mut self.short else { return false };
        let has_missed = short.has_missed && left >= LEAST;
        if left >= ENOUGH {
            self.short = None;
        } else {
            short.has_missed &= !has_missed;
            short.pause = (short.pause * 2).min(LATE);
            short.look_at = Instant::now() + short.pause;
        }
        has_missed
    }
}

/// How many of the bytes that may be queued for this user's connections are left, in percent; `None` if the bus
/// has no such limit.
async fn left(bus: &Connection) -> Option<u64> {
    const BUS: &str = "org.freedesktop.DBus";
    let interface = Some("org.freedesktop.DBus.Debug.Stats");
    let reply = bus.call_method(Some(BUS), "/org/freedesktop/DBus", interface, "GetStats", &());
    // If the bus does not answer in time, nothing is held back.
    let Ok(reply) = tokio::time::timeout(PATIENCE, reply).await else { return Some(100) };
    let reply = reply.ok()?;
    let body = reply.body();
    let mut stats = body.deserialize::<HashMap<String, Variant<'_>>>().ok()?;
    let users = stats.remove("org.bus1.DBus.Debug.Stats.UserAccounting")?;
    let users = Accounting::try_from(users).ok()?;
    Some(left_to(process::uid(), &users))
}

fn left_to(uid: u32, users: &Accounting) -> u64 {
    let own = users.iter().find(|(user, ..)| *user == uid);
    let bytes = own.and_then(|(_, slots, _)| slots.iter().find(|(slot, ..)| slot == "Bytes"));
    bytes.map_or(100, |(_, left, most)| u64::from(*left) * 100 / u64::from(*most).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(name: &str, left: u32) -> (String, u32, u32) {
        (name.to_owned(), left, 276_447_232)
    }

    #[test]
    fn the_bytes_of_this_user_count() {
        let users = vec![
            (0, vec![slot("Bytes", 0)], HashMap::new()),
            (1_000, vec![slot("Fds", 0), slot("Bytes", 138_223_615)], HashMap::new()),
        ];
        assert_eq!(left_to(1_000, &users), 49);
        assert_eq!(left_to(1_001, &users), 100, "nothing is known of it");
    }

    #[tokio::test]
    async fn subscribers_are_told_seldom_that_they_missed_changes_until_there_is_room_again() {
        let mut room = Room::default();
        assert!(room.note_short(50) && room.look_at().is_none());
        assert!(!room.note_short(49));
        assert!(!room.note(24), "there is no room even for that");
        assert!(room.note(49), "now there is");
        assert!(!room.note(49), "they know");
        assert!(room.look_at().unwrap() > Instant::now() + SOON * 2);
        room.short.as_mut().unwrap().has_missed = true;
        assert!(room.note(75) && room.look_at().is_none());
    }
}
