//! What a socket has sent and nobody has received yet (`SIOCOUTQ`, unix(7)). It has an `unsafe` of its own: no
//! safe wrapper asks it.

#![allow(unsafe_code)]

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
};

use nix::libc;

/// How much memory the messages take that this Unix socket has sent and that wait to be received.
pub fn bytes(socket: BorrowedFd<'_>) -> io::Result<usize> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the kernel writes one `int`, to `bytes`, which outlives the call.
    // `TIOCOUTQ` is the number of `SIOCOUTQ`.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    if result == 0 {
        Ok(usize::try_from(bytes).unwrap_or(0))
    } else {
        Err(io::Error::last_os_error())
    }
}
