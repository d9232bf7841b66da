//! Waiting until a descriptor is readable, or closed by the other side. It uses `unsafe`, because the descriptor must not be closed meanwhile.

#![allow(unsafe_code)]

use std::{io, os::fd::OwnedFd};

use tokio::io::{Interest, unix::AsyncFd};

/// Waits until the descriptor is readable. A pidfd becomes readable when its process ends.
pub async fn readable(descriptor: OwnedFd) -> io::Result<()> {
    register(descriptor, Interest::READABLE)?.readable().await.map(drop)
}

/// Waits until the other side has closed a socket: a Unix socket (`EPOLLHUP`, `epoll_ctl(2)`), or with `sending`, which is
/// all that TCP shows, its sending side (`EPOLLRDHUP`).
pub async fn closed(socket: OwnedFd, sending: bool) -> io::Result<()> {
    let interest = if sending { Interest::READABLE } else { Interest::WRITABLE };
    let registered = register(socket, interest)?;
    loop {
        let mut guard = registered.ready(interest).await?;
        if guard.ready().is_write_closed() || sending && guard.ready().is_read_closed() {
            return Ok(());
        }
        guard.clear_ready();
    }
}

fn register(descriptor: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd is open, and the same, until it is dropped; it is dropped with the result, which is not passed to
    // anybody outside of this file.
    let registered = unsafe { AsyncFd::register_with_interest(descriptor, interest) };
    registered.map_err(|error| error.into_parts().1)
}
