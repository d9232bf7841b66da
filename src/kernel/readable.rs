//! Waiting until a descriptor is readable. It uses `unsafe`, because the descriptor must not be closed meanwhile.

#![allow(unsafe_code)]

use std::{io, os::fd::OwnedFd};

use tokio::io::{Interest, unix::AsyncFd};

/// Waits until the descriptor is readable. A pidfd becomes readable when its process ends.
pub async fn readable(descriptor: OwnedFd) -> io::Result<()> {
    // SAFETY: an OwnedFd is open, and the same, until it is dropped; it is dropped with `registered`, which is
    // not passed to anybody.
    let registered = unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) };
    let registered = registered.map_err(|error| error.into_parts().1)?;
    registered.readable().await.map(drop)
}
