//! The shelf: a place for guards that are too young to be stored one by one, so that they outlive a service that
//! is killed.
//!
//! A descriptor that was sent over a Unix socket and not received yet stays open as long as that socket does
//! (`SCM_RIGHTS`, unix(7)). So the service manager keeps pairs of connected sockets, and a new guard is sent over
//! one of them: one system call, and no work for the manager. Another call takes it off when it is stored or its
//! lease has ended.
//!
//! If there are more young guards than pairs, a pair holds several. To take one of them out, each of the others
//! is sent again before it is received: a guard that stays is never missing.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    io::{IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recv, recvmsg, sendmsg, socketpair,
};
use sd_notify::NotifyState;

use super::manager;
use crate::lease::LeaseId;

/// The maximum number of pairs. The manager compares each new descriptor with all that it stores.
const MOST: usize = 64;

/// The maximum number of guards on one pair.
const DEEP: usize = 4;

/// The prefix of the names of its sockets; the rest is the same for both of a pair.
const NAME: &str = "shelf.";

/// The length of a lease id.
const ID_BYTES: usize = 36;

/// Guards that are not stored yet.
#[derive(Debug, Default)]
pub struct Shelf {
    places: Vec<Place>,
    /// The index of the place that holds a lease's guard.
    taken: HashMap<LeaseId, usize>,
    /// Whether the manager could not be given more sockets.
    is_full: bool,
}

/// Two connected sockets, of which the manager has copies.
#[derive(Debug)]
struct Place {
    sender: OwnedFd,
    receiver: OwnedFd,
    /// The number of guards in it.
    count: usize,
}

/// Whether a descriptor with this name belongs to a shelf.
pub fn is_part(name: &str) -> bool {
    name.starts_with(NAME)
}

impl Shelf {
    /// Restores the shelf from the descriptors that the manager has kept, and their names. Returns it with the
    /// guards on it, which also stay there.
    pub fn of(
        kept: impl IntoIterator<Item = (String, OwnedFd)>,
    ) -> (Self, Vec<(LeaseId, OwnedFd)>) {
        let mut shelf = Self::default();
        let mut found = Vec::new();
        let mut places = BTreeMap::<String, Vec<OwnedFd>>::new();
        for (name, end) in kept {
            places.entry(name).or_default().push(end);
        }
        for (name, ends) in places {
            let Ok([sender, receiver]) = <[OwnedFd; 2]>::try_from(ends) else {
                manager::tell(&[NotifyState::FdStoreRemove, NotifyState::FdName(&name)]);
                continue;
            };
            // It is unknown which of them was the sender; messages wait at the other one.
            let mut place = Place { sender, receiver, count: 0 };
            if peek(&place.receiver).is_none() {
                place = Place { sender: place.receiver, receiver: place.sender, count: 0 };
            }
            let at = shelf.places.len();
            // If a service was killed while it took one out, others are there twice.
            let is_new = |lease| shelf.taken.insert(lease, at).is_none();
            place.sift(is_new, |lease, socket| found.push((lease, socket)));
            shelf.places.push(place);
        }
        (shelf, found)
    }

    /// Puts a guard on the shelf. Returns whether there was room.
    pub fn put(&mut self, lease: LeaseId, guard: BorrowedFd<'_>) -> bool {
        let Some(at) = self.room() else { return false };
        let place = &mut self.places[at];
        // Fails if this user has too many descriptors in flight (getrlimit(2)).
        let is_sent = place.send(lease.to_string().as_bytes(), Some(guard));
        if is_sent {
            place.count += 1;
            self.taken.insert(lease, at);
        }
        is_sent
    }

    /// Takes a lease's guard off the shelf, if it is there.
    pub fn remove(&mut self, lease: LeaseId) {
        let Some(at) = self.taken.remove(&lease) else { return };
        let place = &mut self.places[at];
        if place.count == 1 {
            place.drop_first();
            place.count = 0;
            return;
        }
        let mut stayed = HashSet::new();
        place.sift(|other| other != lease, |other, _| _ = stayed.insert(other));
        // A guard that could not be sent again is held by the service alone.
        self.taken.retain(|other, place| *place != at || stayed.contains(other));
    }

    /// The place for the next guard: an empty one, else a new one, else the emptiest that is not full.
    fn room(&mut self) -> Option<usize> {
        let emptiest = self.places.iter().enumerate().min_by_key(|(_, place)| place.count);
        let emptiest = emptiest.map(|(at, place)| (at, place.count));
        match emptiest {
            Some((at, 0)) => Some(at),
            _ if self.add_place() => Some(self.places.len() - 1),
            Some((at, count)) => (count < DEEP).then_some(at),
            None => None,
        }
    }

    /// Adds a place, of which the manager gets copies.
    fn add_place(&mut self) -> bool {
        if self.is_full || self.places.len() >= MOST {
            return false;
        }
        let flags = SocketFlags::CLOEXEC;
        let pair = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None);
        let Ok((sender, receiver)) = pair else { return false };
        // A random name: the manager may have received a place too late to pass it to this service, so any number
        // may be in use.
        let name = format!("{NAME}{}", LeaseId::random());
        let states =
            [NotifyState::FdStore, NotifyState::FdName(&name), NotifyState::Custom("FDPOLL=0")];
        self.is_full = !manager::hand_over(&states, &[sender.as_fd(), receiver.as_fd()]);
        if !self.is_full {
            self.places.push(Place { sender, receiver, count: 0 });
        }
        !self.is_full
    }
}

impl Place {
    /// Removes all guards but those for which `stays` returns true, and passes these to `keep`.
    fn sift(
        &mut self,
        mut stays: impl FnMut(LeaseId) -> bool,
        mut keep: impl FnMut(LeaseId, OwnedFd),
    ) {
        self.count = 0;
        // Marks the end: a message without a guard is not a guard. A service that was killed may have left
        // another such message.
        let end = LeaseId::random().to_string();
        if !self.send(end.as_bytes(), None) {
            return;
        }
        while let Some((id, socket)) = peek(&self.receiver) {
            let lease = str::from_utf8(&id).ok().and_then(|id| id.parse().ok());
            if let (Some(lease), Some(socket)) = (lease, socket)
                && stays(lease)
                && self.send(&id, Some(socket.as_fd()))
            {
                self.count += 1;
                keep(lease, socket);
            }
            self.drop_first();
            if id == end.as_bytes() {
                return;
            }
        }
    }

    /// Sends a guard with the id of its lease. Returns whether there was room.
    fn send(&self, id: &[u8], guard: Option<BorrowedFd<'_>>) -> bool {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if let Some(guard) = &guard {
            control.push(SendAncillaryMessage::ScmRights(std::slice::from_ref(guard)));
        }
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        sendmsg(&self.sender, &[IoSlice::new(id)], &mut control, flags).is_ok()
    }

    /// Removes the first message. It is read without a buffer for descriptors, so the kernel closes its guard
    /// (unix(7)).
    fn drop_first(&self) {
        let _ = recv(&self.receiver, &mut [0; 1], RecvFlags::DONTWAIT);
    }
}

/// Reads the first message that waits at a socket, an id and a guard, without removing it.
fn peek(socket: &OwnedFd) -> Option<(Vec<u8>, Option<OwnedFd>)> {
    let mut id = [0; ID_BYTES];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let length = recvmsg(socket, &mut [IoSliceMut::new(&mut id)], &mut control, flags).ok()?.bytes;
    let guard = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    Some((id[..length].to_vec(), guard))
}

#[cfg(test)]
mod tests {
    use std::{
        io::{PipeReader, PipeWriter, pipe},
        os::fd::AsFd,
    };

    use super::*;

    /// A shelf of two places, without a manager.
    fn shelf() -> Shelf {
        let flags = SocketFlags::CLOEXEC;
        let place = || {
            let (sender, receiver) =
                socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
            Place { sender, receiver, count: 0 }
        };
        Shelf { places: vec![place(), place()], is_full: true, ..Shelf::default() }
    }

    /// The manager's copies of its sockets, as left when the service is killed.
    fn kept(shelf: &Shelf) -> Vec<(String, OwnedFd)> {
        let ends = |(number, place): (usize, &Place)| {
            [&place.sender, &place.receiver]
                .map(|end| (format!("{NAME}{number}"), end.try_clone().unwrap()))
        };
        shelf.places.iter().enumerate().flat_map(ends).collect()
    }

    /// Puts a guard on the shelf. The returned end of a pipe shows whether anybody still holds it.
    fn guard(shelf: &mut Shelf, number: u128) -> PipeReader {
        let (reader, writer): (PipeReader, PipeWriter) = pipe().unwrap();
        shelf.put(LeaseId::from_number(number), writer.as_fd());
        reader
    }

    fn is_held(guard: &PipeReader) -> bool {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let mut guard = [PollFd::new(guard, PollFlags::empty())];
        poll(&mut guard, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) == Ok(0)
    }

    #[test]
    fn a_shelf_holds_several_guards_at_each_place_and_lets_each_go_by_itself() {
        let mut shelf = shelf();
        let most = 2 * DEEP;
        let guards: Vec<_> = (0..most).map(|number| guard(&mut shelf, number as u128)).collect();
        assert!(guards.iter().all(is_held));
        let beyond = guard(&mut shelf, most as u128);
        assert!(!is_held(&beyond), "there is no room");
        for gone in [3, 0, 7] {
            shelf.remove(LeaseId::from_number(gone));
        }
        let (_, found) = Shelf::of(kept(&shelf));
        let mut found: Vec<_> = found.into_iter().map(|(lease, _)| lease).collect();
        found.sort_unstable();
        let expected = [1, 2, 4, 5, 6].map(LeaseId::from_number);
        assert_eq!(found, expected);
        drop(found);
        for (number, guard) in guards.iter().enumerate() {
            assert_eq!(is_held(guard), ![3, 0, 7].contains(&number), "{number}");
        }
    }

    #[test]
    fn of_a_service_that_was_killed_while_it_took_one_out_nothing_is_lost_or_twice() {
        let mut shelf = shelf();
        let guards: Vec<_> = (0..6).map(|number| guard(&mut shelf, number)).collect();
        // As if killed after sending the mark and resending the first guard that stays, but before receiving it.
        let place = &shelf.places[0];
        assert!(place.send(LeaseId::random().to_string().as_bytes(), None));
        let (id, socket) = peek(&place.receiver).unwrap();
        assert!(place.send(&id, Some(socket.unwrap().as_fd())));
        let (mut next, found) = Shelf::of(kept(&shelf));
        drop(shelf);
        assert_eq!(found.len(), 6);
        drop(found);
        assert!(guards.iter().all(is_held));
        for number in 0..6 {
            next.remove(LeaseId::from_number(number));
        }
        assert!(!guards.iter().any(is_held));
    }
}
