//! A shelf for guards that are too young to be stored one by one, on which they outlive a service that is killed.
//!
//! A descriptor that was sent over a Unix socket and not received yet stays open as long as that socket is (`SCM_RIGHTS`,
//! unix(7)). So the service manager keeps pairs of connected sockets, and a new guard is sent over one of them: one system
//! call, and no work for the manager. It is received again when it is stored or its lease has ended.

use std::{
    collections::{BTreeMap, HashMap},
    io::{IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use sd_notify::NotifyState;

use super::manager;
use crate::lease::LeaseId;

/// The most guards that are on it. The manager compares each descriptor that it is to keep with all others.
const MOST: usize = 64;

/// What the names of its sockets begin with; a number follows.
const NAME: &str = "shelf.";

/// As long as a lease's id.
const ID_BYTES: usize = 36;

/// Guards that are not stored yet, by their leases.
#[derive(Debug, Default)]
pub struct Shelf {
    free: Vec<Place>,
    taken: HashMap<LeaseId, Place>,
    /// The number of the next place.
    next: usize,
    /// Whether the manager takes no more.
    is_full: bool,
}

/// Two connected sockets, of which the manager has copies.
#[derive(Debug)]
struct Place {
    sender: OwnedFd,
    receiver: OwnedFd,
}

/// Whether a descriptor of that name belongs to a shelf.
pub fn is_part(name: &str) -> bool {
    name.starts_with(NAME)
}

impl Shelf {
    /// The shelf that the manager has kept, by its descriptors and their names; and what is on it, which stays there.
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
            let number = name.strip_prefix(NAME).and_then(|number| number.parse().ok());
            shelf.next = shelf.next.max(number.unwrap_or(0) + 1);
            let Ok([sender, receiver]) = <[OwnedFd; 2]>::try_from(ends) else {
                manager::tell(&[NotifyState::FdStoreRemove, NotifyState::FdName(&name)]);
                continue;
            };
            // Which of them was the sender nobody knows; what was sent is at the other one.
            let mut place = Place { sender, receiver };
            let mut guard = receive(&place.receiver, RecvFlags::PEEK);
            if guard.is_none() {
                place = Place { sender: place.receiver, receiver: place.sender };
                guard = receive(&place.receiver, RecvFlags::PEEK);
            }
            match guard {
                Some((lease, socket)) => {
                    shelf.taken.insert(lease, place);
                    found.push((lease, socket));
                }
                None => shelf.free.push(place),
            }
        }
        (shelf, found)
    }

    /// Puts a guard on it, if there is room.
    pub fn put(&mut self, lease: LeaseId, guard: BorrowedFd<'_>) {
        let Some(place) = self.free.pop().or_else(|| self.another()) else { return };
        let id = lease.to_string();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let descriptors = [guard];
        control.push(SendAncillaryMessage::ScmRights(&descriptors));
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        match sendmsg(&place.sender, &[IoSlice::new(id.as_bytes())], &mut control, flags) {
            Ok(_) => drop(self.taken.insert(lease, place)),
            // Too many are under way for this user (getrlimit(2)): this one is held by the service alone.
            Err(_) => self.free.push(place),
        }
    }

    /// Takes a lease's guard off it, if it is there.
    pub fn remove(&mut self, lease: LeaseId) {
        if let Some(place) = self.taken.remove(&lease) {
            let _ = receive(&place.receiver, RecvFlags::empty());
            self.free.push(place);
        }
    }

    /// Another place, if the manager takes it.
    fn another(&mut self) -> Option<Place> {
        if self.is_full || self.taken.len() >= MOST {
            return None;
        }
        let flags = SocketFlags::CLOEXEC;
        let (sender, receiver) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).ok()?;
        let name = format!("{NAME}{}", self.next);
        let states =
            [NotifyState::FdStore, NotifyState::FdName(&name), NotifyState::Custom("FDPOLL=0")];
        self.is_full = !manager::hand_over(&states, &[sender.as_fd(), receiver.as_fd()]);
        self.next += 1;
        (!self.is_full).then_some(Place { sender, receiver })
    }
}

/// The guard that waits at a socket.
fn receive(socket: &OwnedFd, flags: RecvFlags) -> Option<(LeaseId, OwnedFd)> {
    let mut id = [0; ID_BYTES];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = flags | RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let length = recvmsg(socket, &mut [IoSliceMut::new(&mut id)], &mut control, flags).ok()?.bytes;
    let lease = str::from_utf8(&id[..length]).ok()?.parse().ok()?;
    let guard = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    Some((lease, guard?))
}
