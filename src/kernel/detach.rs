//! Dropping what a process inherits from whoever started it (daemon(7), `SysV` daemons), and starting a process
//! that is nobody's child.

#![allow(unsafe_code)]

use std::{
    env,
    ffi::{CStr, CString},
    fs::File,
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    ptr,
};

use nix::{
    errno::Errno,
    libc,
    sys::{
        resource::{Resource, setrlimit},
        signal::{SigSet, Signal},
        stat,
        wait::waitpid,
    },
    unistd::{ForkResult, fork, setsid},
};

/// Drops the terminal, the working directory, the umask, the signals' dispositions and mask, and all descriptors
/// but the standard three. The descriptors are closed by the next execve(2), so that those of this process work
/// until then.
pub fn let_go() -> io::Result<()> {
    // Fails only if this process already leads a process group, for example as a session leader.
    let _ = setsid();
    stat::umask(stat::Mode::from_bits_truncate(0o077));
    env::set_current_dir("/")?;
    default_signals();
    SigSet::empty().thread_set_mask()?;
    close_on_exec()
}

/// Starts a program that is not a child of this process, in a session of its own, with an empty environment, and
/// with nothing inherited from this process but standard error. So a program that replaces this process has no
/// child to wait for, and no terminal to share. If the program cannot be executed, that is not reported: somebody
/// would have to wait for it.
pub fn start_apart(program: &CStr, arguments: &[CString]) -> io::Result<()> {
    let null = File::options().read(true).write(true).open("/dev/null")?;
    let arguments = arguments.iter().map(|argument| argument.as_ptr());
    let arguments: Vec<_> =
        [program.as_ptr()].into_iter().chain(arguments).chain([ptr::null()]).collect();
    // SAFETY: until execve(2) or _exit(2) the child only makes system calls, as required after a fork in a
    // process with threads. The strings live until then, and the list ends with a null pointer.
    unsafe {
        match fork()? {
            ForkResult::Parent { child } => {
                waitpid(child, None)?;
            }
            ForkResult::Child => {
                if libc::setsid() >= 0 && libc::fork() == 0 {
                    // On Linux before 5.11, some stay open as long as the program lives.
                    let _ = mark_for_closing();
                    libc::dup2(null.as_raw_fd(), 0);
                    libc::dup2(null.as_raw_fd(), 1);
                    libc::chdir(c"/".as_ptr());
                    libc::execve(program.as_ptr(), arguments.as_ptr(), [ptr::null()].as_ptr());
                }
                libc::_exit(0)
            }
        }
    }
    Ok(())
}

/// Sets the disposition of every signal to the default. A signal that the caller ignores, as nohup(1) does, would
/// also be ignored by the programs that this process starts (signal(7)).
fn default_signals() {
    for signal in 1..=libc::SIGRTMAX() {
        // SAFETY: SIG_DFL is not a function of this program. The kernel refuses signals that cannot be set.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}

/// Has these signals interrupt and end nothing in this process, and leaves those alone that it ignores. Programs that it starts
/// get them as usual: execve(2) resets a handler, but keeps what is ignored.
pub fn withstand(signals: impl IntoIterator<Item = Signal>) {
    extern "C" fn nothing(_: libc::c_int) {}
    for signal in signals {
        let handler = nothing as extern "C" fn(libc::c_int) as libc::sighandler_t;
        // SAFETY: the handler does nothing, so it may interrupt anything.
        if unsafe { libc::signal(signal as i32, handler) } == libc::SIG_IGN {
            // SAFETY: SIG_IGN is not a function of this program.
            unsafe { libc::signal(signal as i32, libc::SIG_IGN) };
        }
    }
}

/// Ends this process by a signal, as a process that it has waited for ended, but without a core file.
pub fn end_by(signal: i32) -> ! {
    let _ = setrlimit(Resource::RLIMIT_CORE, 0, 0);
    default_signals();
    let _ = SigSet::empty().thread_set_mask();
    // SAFETY: it takes an integer.
    unsafe { libc::raise(signal) };
    // A signal that ends nothing.
    std::process::exit(128_i32.saturating_add(signal))
}

/// Takes over a descriptor that this process was started with; programs that it starts do not get it.
pub fn inherited(descriptor: i32) -> io::Result<OwnedFd> {
    // SAFETY: it sets a flag of a descriptor, or fails.
    Errno::result(unsafe { libc::fcntl(descriptor, libc::F_SETFD, libc::FD_CLOEXEC) })?;
    // SAFETY: it is open, and whoever has started this process has named it for nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Closes the descriptors that this process has inherited: those from 3 on that a started program would get, too.
pub fn close_inherited() -> io::Result<()> {
    for entry in std::fs::read_dir("/proc/self/fdinfo")? {
        let name = entry?.file_name();
        let Some(descriptor) = name.to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        let Ok(info) = std::fs::read_to_string(format!("/proc/self/fdinfo/{descriptor}")) else {
            continue;
        };
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
        let flags = flags.and_then(|flags| i32::from_str_radix(flags.trim(), 8).ok());
        if descriptor > 2 && flags.is_some_and(|flags| flags & libc::O_CLOEXEC == 0) {
            // SAFETY: no part of this program has opened it: all of them set close-on-exec.
            unsafe { libc::close(descriptor) };
        }
    }
    Ok(())
}

/// Marks all descriptors from 3 on as close-on-exec.
fn close_on_exec() -> io::Result<()> {
    match mark_for_closing() {
        Ok(()) => Ok(()),
        // Linux before 5.11.
        Err(Errno::ENOSYS | Errno::EINVAL) => one_by_one(),
        Err(errno) => Err(errno.into()),
    }
}

fn mark_for_closing() -> Result<(), Errno> {
    let (first, last, flags) = (3_u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC);
    // SAFETY: it takes three integers, and closes nothing now (close_range(2)). A direct system call, because C
    // libraries got the function later than kernels.
    let done = unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) };
    Errno::result(done).map(|_| ())
}

fn one_by_one() -> io::Result<()> {
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let descriptor = entry?.file_name().to_string_lossy().parse::<i32>().unwrap_or(0);
        if descriptor > 2 {
            // SAFETY: it sets a flag of a descriptor, and closes nothing now.
            unsafe { libc::fcntl(descriptor, libc::F_SETFD, libc::FD_CLOEXEC) };
        }
    }
    Ok(())
}
