//! What a running process may do, found out from inside of it: `ptrace(2)` has its own threads make system calls. Whoever runs
//! this may trace the process: it is a child of the caller's, or the caller is root.

#![cfg(target_arch = "x86_64")]

use std::{
    cell::RefCell,
    collections::BTreeMap,
    ffi::{CString, c_long},
    fs,
    net::SocketAddrV4,
    os::unix::ffi::OsStrExt,
    path::Path,
};

use nix::{
    errno::Errno,
    libc::{
        self, AF_INET, O_CREAT, O_RDONLY, O_WRONLY, SYS_close, SYS_connect, SYS_execve,
        SYS_io_uring_setup, SYS_kill, SYS_mkdir, SYS_open, SYS_socket, SYS_unlink,
        user_regs_struct,
    },
    sys::{
        ptrace::{self, Options},
        signal::{Signal, kill},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};

/// A stopped thread; it goes on when this is dropped.
pub struct Within {
    thread: Pid,
    before: user_regs_struct,
    /// Those that came meanwhile.
    signals: RefCell<Vec<Signal>>,
}

fn wait(thread: Pid) -> WaitStatus {
    waitpid(thread, Some(WaitPidFlag::__WALL)).unwrap()
}

impl Within {
    /// The threads of a process, by their numbers.
    pub fn threads(pid: u32) -> Vec<i32> {
        let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
        threads
            .map(|thread| thread.unwrap().file_name().to_str().unwrap().parse().unwrap())
            .collect()
    }

    /// Stops a thread that waits in a system call; `None` if it has ended.
    pub fn thread(thread: i32) -> Option<Self> {
        let thread = Pid::from_raw(thread);
        // Where it waits in a call is where it can make others. It may be between two.
        for _ in 0..1_000 {
            match ptrace::seize(thread, Options::empty()) {
                Err(Errno::ESRCH) => return None,
                seized => seized.expect("to trace the thread"),
            }
            ptrace::interrupt(thread).unwrap();
            if !matches!(wait(thread), WaitStatus::PtraceEvent(..)) {
                return None;
            }
            let before = ptrace::getregs(thread).unwrap();
            let code = ptrace::read(thread, (before.rip - 2) as ptrace::AddressType).unwrap();
            if code & 0xffff == 0x050f {
                return Some(Self { thread, before, signals: RefCell::default() });
            }
            ptrace::detach(thread, None).unwrap();
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        panic!("the thread {thread} waits in no system call");
    }

    /// Makes a system call.
    pub fn call(&self, number: c_long, arguments: [u64; 3]) -> Result<i64, Errno> {
        let mut registers = self.before;
        registers.rip -= 2;
        registers.rax = number.cast_unsigned();
        // It is not the call that was interrupted.
        registers.orig_rax = u64::MAX;
        [registers.rdi, registers.rsi, registers.rdx] = arguments;
        ptrace::setregs(self.thread, registers).unwrap();
        loop {
            ptrace::step(self.thread, None).unwrap();
            match wait(self.thread) {
                WaitStatus::Stopped(_, Signal::SIGTRAP) => break,
                // It comes in between, and is sent again at the end.
                WaitStatus::Stopped(_, signal) => self.signals.borrow_mut().push(signal),
                other => panic!("{other:?}"),
            }
        }
        let result = ptrace::getregs(self.thread).unwrap().rax.cast_signed();
        match result {
            -4095..0 => Err(Errno::from_raw(i32::try_from(-result).unwrap())),
            result => Ok(result),
        }
    }

    /// Puts bytes below its stack, in place of the last ones.
    fn put(&self, bytes: &[u8]) -> u64 {
        let at = (self.before.rsp - 1_024) & !15;
        assert!(bytes.len() < 512, "they fit between the stack and here");
        for (index, word) in bytes.chunks(8).enumerate() {
            let mut whole = [0; 8];
            whole[..word.len()].copy_from_slice(word);
            let place = at + 8 * index as u64;
            ptrace::write(self.thread, place as ptrace::AddressType, i64::from_ne_bytes(whole))
                .unwrap();
        }
        at
    }

    fn put_path(&self, path: &Path) -> u64 {
        self.put(CString::new(path.as_os_str().as_bytes()).unwrap().as_bytes_with_nul())
    }

    /// Opens a file, and closes it.
    pub fn open(&self, path: &Path, flags: i32) -> Result<(), Errno> {
        let flags = u64::from(flags.cast_unsigned());
        let opened = self.call(SYS_open, [self.put_path(path), flags, 0o600])?;
        self.call(SYS_close, [opened.cast_unsigned(), 0, 0]).map(drop)
    }

    /// Makes a folder.
    pub fn mkdir(&self, path: &Path) -> Result<(), Errno> {
        self.call(SYS_mkdir, [self.put_path(path), 0o700, 0]).map(drop)
    }

    /// Deletes a file.
    pub fn unlink(&self, path: &Path) -> Result<(), Errno> {
        self.call(SYS_unlink, [self.put_path(path), 0, 0]).map(drop)
    }

    /// Becomes another program: afterwards there is nothing to go on with.
    pub fn execute(&self, path: &Path) -> Result<(), Errno> {
        self.call(SYS_execve, [self.put_path(path), 0, 0]).map(drop)
    }

    /// Sends no signal, but asks whether it might.
    pub fn signal(&self, pid: u32) -> Result<(), Errno> {
        self.call(SYS_kill, [pid.into(), 0, 0]).map(drop)
    }

    /// Makes a ring for `io_uring(7)`.
    pub fn io_uring(&self) -> Result<(), Errno> {
        // As large as a `struct io_uring_params`.
        let parameters = self.put(&[0; 120]);
        let ring = self.call(SYS_io_uring_setup, [1, parameters, 0])?;
        self.call(SYS_close, [ring.cast_unsigned(), 0, 0]).map(drop)
    }

    /// Connects over TCP.
    pub fn connect(&self, to: SocketAddrV4) -> Result<(), Errno> {
        let stream = u64::from(libc::SOCK_STREAM.cast_unsigned());
        let socket = self.call(SYS_socket, [u64::from(AF_INET.cast_unsigned()), stream, 0])?;
        let mut address = u16::try_from(AF_INET).unwrap().to_ne_bytes().to_vec();
        address.extend(to.port().to_be_bytes());
        address.extend(to.ip().octets());
        address.extend([0; 8]);
        let connected = self.call(SYS_connect, [socket.cast_unsigned(), self.put(&address), 16]);
        self.call(SYS_close, [socket.cast_unsigned(), 0, 0]).unwrap();
        connected.map(drop)
    }
}

impl Drop for Within {
    fn drop(&mut self) {
        // It may have become another program, or be gone.
        let _ = ptrace::setregs(self.thread, self.before);
        let _ = ptrace::detach(self.thread, None);
        for signal in self.signals.take() {
            let _ = kill(self.thread, signal);
        }
    }
}

/// What every thread of a process in a home may not do: for each of its threads and each deed, what the kernel says. `server`
/// listens for TCP, and `other` is a process that is not the service's.
pub fn deeds(pid: u32, home: &Path, server: SocketAddrV4, other: u32) -> BTreeMap<String, String> {
    let mut said = BTreeMap::new();
    let mut note = |deed: &str, thread: usize, result: Result<(), Errno>| {
        let is_done = result.is_ok();
        let result = result.err().map_or_else(|| "done".to_owned(), |errno| format!("{errno:?}"));
        said.insert(format!("{deed} ({thread})"), result);
        is_done
    };
    let threads = Within::threads(pid);
    for (index, thread) in threads.iter().enumerate() {
        let Some(within) = Within::thread(*thread) else { continue };
        let secret = home.join(".ssh/id");
        note("read ~/.ssh/id", index, within.open(&secret, O_RDONLY));
        note("write ~/.ssh/id", index, within.open(&secret, O_WRONLY));
        note("list ~", index, within.open(home, O_RDONLY));
        note("make ~/new", index, within.open(&home.join("new"), O_CREAT | O_WRONLY));
        note("delete ~/.ssh/old", index, within.unlink(&home.join(".ssh/old")));
        note("make ~/folder", index, within.mkdir(&home.join(format!("folder-{index}"))));
        note("write /etc/new", index, within.open(Path::new("/etc/new"), O_CREAT | O_WRONLY));
        note("connect", index, within.connect(server));
        note("signal", index, within.signal(other));
    }
    for (index, thread) in threads.into_iter().enumerate() {
        // Where this succeeds, the process is another program, and has no other threads.
        let Some(within) = Within::thread(thread) else { continue };
        if note("execute /bin/sh", index, within.execute(Path::new("/bin/sh"))) {
            break;
        }
    }
    said
}
