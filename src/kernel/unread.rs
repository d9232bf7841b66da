//! The messages that a socket has sent and nobody has received yet (`SIOCOUTQ`, unix(7)). It uses `unsafe`,
//! because there is no safe wrapper.

#![allow(unsafe_code)]

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
};

use nix::libc;

/// The memory taken by the messages that this Unix socket has sent and that wait to be received, in bytes.
pub fn bytes(socket: BorrowedFd<'_>) -> io::Result<usize> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the kernel writes one `int`, to `bytes`, which outlives the call. `SIOCOUTQ` has the same number as
    // `TIOCOUTQ`.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    if result == 0 {
        Ok(usize::try_from(bytes).unwrap_or(0))
    } else {
        Err(io::Error::last_os_error())
    }
}
