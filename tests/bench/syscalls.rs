//! What a process asks of the kernel, counted by `ptrace(2)`: a user may trace their own services, and a
//! count is the same on every machine.

use std::{
    collections::BTreeMap,
    fmt, fs,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use nix::{
    libc,
    sys::{
        ptrace::{self, Options},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};

/// How often each call was made, by its number.
#[derive(Default)]
pub struct Syscalls(BTreeMap<i64, usize>);

impl Syscalls {
    /// Counts what the main thread of that process does during the work. Services have one thread that
    /// answers.
    pub async fn of(pid: u32, work: impl AsyncFnOnce()) -> Self {
        let pid = Pid::from_raw(pid.try_into().unwrap());
        let stop = Arc::new(AtomicBool::new(false));
        let (ready, attached) = mpsc::channel();
        let stopping = Arc::clone(&stop);
        // Only the thread that has attached may wait.
        let tracer = thread::spawn(move || count(pid, &stopping, || ready.send(()).unwrap()));
        attached.recv().expect("the service can be traced");
        work().await;
        stop.store(true, Ordering::Relaxed);
        tracer.join().unwrap()
    }

    /// All of them.
    pub fn total(&self) -> usize {
        self.0.values().sum()
    }

    /// Those of one kind.
    pub fn of_kind(&self, number: i64) -> usize {
        self.0.get(&number).copied().unwrap_or_default()
    }
}

fn count(pid: Pid, stop: &AtomicBool, ready: impl FnOnce()) -> Syscalls {
    let mut counted = Syscalls::default();
    ptrace::seize(pid, Options::PTRACE_O_TRACESYSGOOD).expect("to trace the service");
    ptrace::interrupt(pid).unwrap();
    let mut ready = Some(ready);
    loop {
        let mut signal = None;
        match waitpid(pid, Some(WaitPidFlag::__WALL | WaitPidFlag::WNOHANG)).unwrap() {
            WaitStatus::StillAlive if stop.swap(false, Ordering::Relaxed) => {
                ptrace::interrupt(pid).unwrap();
                // It stops at once, within a call or not.
                waitpid(pid, Some(WaitPidFlag::__WALL)).unwrap();
                ptrace::detach(pid, None).unwrap();
                return counted;
            }
            WaitStatus::StillAlive => {
                thread::sleep(Duration::from_micros(20));
                continue;
            }
            WaitStatus::PtraceSyscall(_) => {
                let number = entered(pid).into_iter();
                number.for_each(|number| *counted.0.entry(number).or_default() += 1);
            }
            WaitStatus::PtraceEvent(..) => ready.take().into_iter().for_each(|ready| ready()),
            WaitStatus::Stopped(_, its) => signal = Some(its),
            other => panic!("the service did something else: {other:?}"),
        }
        ptrace::syscall(pid, signal).unwrap();
    }
}

/// The call that it is about to make; none if it comes back from one.
fn entered(pid: Pid) -> Option<i64> {
    if ptrace::syscall_info(pid).unwrap().op != libc::PTRACE_SYSCALL_INFO_ENTRY {
        return None;
    }
    // proc_pid_syscall(5): the number comes first.
    fs::read_to_string(format!("/proc/{pid}/syscall")).ok()?.split(' ').next()?.parse().ok()
}

/// The most frequent first.
impl fmt::Display for Syscalls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut sorted: Vec<_> = self.0.iter().collect();
        sorted.sort_unstable_by_key(|(_, count)| std::cmp::Reverse(**count));
        for (number, count) in sorted {
            write!(f, "{} {count}, ", name(*number))?;
        }
        write!(f, "all {}", self.total())
    }
}

fn name(number: i64) -> String {
    let names = [
        (libc::SYS_bind, "bind"),
        (libc::SYS_socket, "socket"),
        (libc::SYS_setsockopt, "setsockopt"),
        (libc::SYS_close, "close"),
        (libc::SYS_pwrite64, "pwrite64"),
        (libc::SYS_write, "write"),
        (libc::SYS_writev, "writev"),
        (libc::SYS_read, "read"),
        (libc::SYS_sendmsg, "sendmsg"),
        (libc::SYS_recvmsg, "recvmsg"),
        (libc::SYS_sendto, "sendto"),
        (libc::SYS_recvfrom, "recvfrom"),
        #[cfg(target_arch = "x86_64")]
        (libc::SYS_epoll_wait, "epoll_wait"),
        (libc::SYS_futex, "futex"),
        (libc::SYS_getrandom, "getrandom"),
        (libc::SYS_clone3, "clone3"),
        (libc::SYS_mmap, "mmap"),
        (libc::SYS_munmap, "munmap"),
        (libc::SYS_openat, "openat"),
    ];
    let known = names.iter().find(|(known, _)| *known == number);
    known.map_or_else(|| format!("#{number}"), |(_, name)| (*name).to_owned())
}
