//! The system calls of seccomp(2) and `seccomp_unotify(2)`. It uses `unsafe`, because no crate has them all.

#![allow(unsafe_code)]

use std::{
    mem::zeroed,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use nix::{
    errno::Errno,
    libc::{
        self, Ioctl, SECCOMP_FILTER_FLAG_NEW_LISTENER, SECCOMP_FILTER_FLAG_SPEC_ALLOW,
        SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, SECCOMP_IOCTL_NOTIF_ID_VALID,
        SECCOMP_IOCTL_NOTIF_RECV, SECCOMP_IOCTL_NOTIF_SEND, SECCOMP_SET_MODE_FILTER,
        SECCOMP_USER_NOTIF_FLAG_CONTINUE, c_ulong, seccomp_notif, seccomp_notif_resp, sock_filter,
        sock_fprog,
    },
};

/// A system call that waits for an answer.
#[derive(Clone, Copy, Debug)]
pub struct Notification {
    /// By what it is answered.
    pub id: u64,
    /// The thread that makes the call.
    pub thread: u32,
    /// `AUDIT_ARCH_*` of the caller.
    pub architecture: u32,
    /// The number of the call.
    pub number: u32,
    /// Its arguments.
    pub arguments: [u64; 6],
}

/// The answer to a system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The kernel carries it out as if there were no filter.
    Continue,
    /// It has been carried out, with this result.
    Done(i64),
    /// It fails.
    Failed(Errno),
}

/// Installs a filter for this process, which must have no other thread, and returns the descriptor from which the calls are
/// received. From Linux 5.19 on: a caller whose call was received can only be killed, and no signal interrupts it until the answer.
///
/// # Errors
///
/// `EBUSY` if a filter of this process has such a descriptor already, `EINVAL` on an older kernel, `EACCES` without
/// `no_new_privs` (`PR_SET_NO_NEW_PRIVS(2const)`).
pub fn install(program: &mut [sock_filter]) -> Result<OwnedFd, Errno> {
    let length = u16::try_from(program.len()).map_err(|_| Errno::EINVAL)?;
    let program = sock_fprog { len: length, filter: program.as_mut_ptr() };
    let flags: c_ulong = SECCOMP_FILTER_FLAG_NEW_LISTENER
        | SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
        | SECCOMP_FILTER_FLAG_SPEC_ALLOW;
    // SAFETY: the kernel copies `length` instructions from the pointer, which are there, and keeps none of the memory.
    let result = unsafe {
        libc::syscall(libc::SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &raw const program)
    };
    let descriptor = Errno::result(result)?;
    let descriptor = i32::try_from(descriptor).map_err(|_| Errno::EBADF)?;
    // SAFETY: the kernel has just opened it for this process, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Waits for the next call.
pub fn receive(listener: &OwnedFd) -> Result<Notification, Errno> {
    // SAFETY: the structure consists of integers, and the kernel wants it to be zero.
    let mut call: seccomp_notif = unsafe { zeroed() };
    request(listener, SECCOMP_IOCTL_NOTIF_RECV, &mut call)?;
    Ok(Notification {
        id: call.id,
        thread: call.pid,
        architecture: call.data.arch,
        number: call.data.nr.cast_unsigned(),
        arguments: call.data.args,
    })
}

/// Answers a call. `ENOENT` if the caller is gone.
pub fn answer(listener: &OwnedFd, id: u64, answer: Answer) -> Result<(), Errno> {
    let (val, error, flags) = match answer {
        Answer::Continue => (0, 0, SECCOMP_USER_NOTIF_FLAG_CONTINUE),
        Answer::Done(value) => (value, 0, 0),
        Answer::Failed(errno) => (0, (errno as i32).wrapping_neg(), 0),
    };
    let flags = u32::try_from(flags).unwrap_or_default();
    request(listener, SECCOMP_IOCTL_NOTIF_SEND, &mut seccomp_notif_resp { id, val, error, flags })
}

/// Whether the caller still waits: only then does its number name that thread.
pub fn is_waiting(listener: &OwnedFd, id: u64) -> bool {
    request(listener, SECCOMP_IOCTL_NOTIF_ID_VALID, &mut id.clone()).is_ok()
}

/// `T` is the structure of that request.
fn request<T>(listener: &OwnedFd, request: Ioctl, structure: &mut T) -> Result<(), Errno> {
    // SAFETY: the request has the size of the structure in it, which the kernel reads and writes within that size, and which
    // outlives the call.
    let result = unsafe { libc::ioctl(listener.as_raw_fd(), request, &raw mut *structure) };
    Errno::result(result).map(|_| ())
}

/// Whether this kernel has everything that is needed: the filter's flags are checked without a program.
pub fn is_supported() -> Result<(), Errno> {
    let flags: c_ulong = SECCOMP_FILTER_FLAG_NEW_LISTENER | SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;
    // SAFETY: without a program the kernel reads nothing, and installs nothing.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            SECCOMP_SET_MODE_FILTER,
            flags,
            std::ptr::null::<sock_fprog>(),
        )
    };
    match Errno::result(result) {
        // The flags are known: it looked for the program.
        Err(Errno::EFAULT) | Ok(_) => Ok(()),
        Err(errno) => Err(errno),
    }
}
