//! Waiting until a descriptor is readable. It has an `unsafe` of its own: the descriptor must not be closed
//! meanwhile.

#![allow(unsafe_code)]

use std::{io, os::fd::OwnedFd};

use tokio::io::{Interest, unix::AsyncFd};

/// Waits until the descriptor is readable; a pidfd is when its process has ended.
pub async fn readable(descriptor: OwnedFd) -> io::Result<()> {
    // SAFETY: an OwnedFd is open, and the same, until it is dropped; it is dropped with `registered`,
    // which gives it out to nobody.
    let registered = unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) };
    let registered = registered.map_err(|error| error.into_parts().1)?;
    registered.readable().await.map(drop)
}
