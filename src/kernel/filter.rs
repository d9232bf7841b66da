//! Filtering the messages that a socket receives (`SO_ATTACH_FILTER`, socket(7)). It uses `unsafe`, because no
//! safe wrapper attaches a filter.

#![allow(unsafe_code)]
#![expect(clippy::cast_possible_truncation, reason = "the codes and lengths are small")]

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
};

use nix::libc;

/// Makes the kernel drop every message that does not have two zero bytes at this offset.
pub(super) fn only_with_zeros_at(socket: BorrowedFd<'_>, offset: u32) -> io::Result<()> {
    let step = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
    let mut steps = [
        step(libc::BPF_LD | libc::BPF_H | libc::BPF_ABS, 0, 0, offset),
        step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, 0),
        // How much of the message to keep: all of it, or nothing.
        step(libc::BPF_RET | libc::BPF_K, 0, 0, u32::MAX),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
    ];
    let program = libc::sock_fprog { len: steps.len() as u16, filter: steps.as_mut_ptr() };
    // SAFETY: `program` and the steps that it points to live until the call returns, and the kernel copies
    // them; the length is that of the structure.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const program).cast(),
            size_of::<libc::sock_fprog>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
