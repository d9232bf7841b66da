//! The front: the child of the shell.

use std::{
    io::{self, Read},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::{net::UnixStream, process::CommandExt},
    },
    process::Command,
    time::{Duration, Instant},
};

use command_fds::CommandFdExt;
use nix::sys::{
    signal::{SigSet, Signal},
    signalfd::{SfdFlags, SignalFd},
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, pidfd_open, pidfd_send_signal},
};

use super::{
    control::{Channel, Said, Status, Task},
    tree::name,
};

/// The signals that whoever started the front may mean for the command.
const FORWARDED: [Signal; 7] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGALRM,
];

/// How long the command may take to end if its supervisor is lost.
const PATIENCE: Duration = Duration::from_secs(5);

/// How it has ended.
#[derive(Clone, Debug)]
pub enum End {
    /// The command has ended.
    Of(Status),
    /// It was not started: see what was said.
    NotStarted,
    /// The supervisor has ended first, and the command was ended.
    Lost,
}

/// Starts the supervisor with its command, forwards signals, and waits for the end of the command. `prepared` has the command and
/// its environment; `tell` gets everything else that is said.
pub fn run(task: &Task, prepared: &Command, tell: &mut dyn FnMut(Said)) -> io::Result<End> {
    let signals = SigSet::from_iter(FORWARDED);
    signals.thread_block()?;
    let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
    let signals = SignalFd::with_flags(&signals, flags)?;
    let (own, theirs) = UnixStream::pair()?;
    let theirs = OwnedFd::from(theirs);
    let mut supervisor = Command::new("/proc/self/exe");
    supervisor.arg0(name()).arg("remap-supervisor").arg(theirs.as_raw_fd().to_string());
    supervisor.arg("--").arg(prepared.get_program()).args(prepared.get_args());
    for (name, value) in prepared.get_envs() {
        match value {
            Some(value) => supervisor.env(name, value),
            None => supervisor.env_remove(name),
        };
    }
    supervisor.preserved_fds(vec![theirs]);
    supervisor.spawn()?;
    // With it goes this process's copy of the other end.
    drop(supervisor);
    let channel = Channel::new(own);
    channel.say(task);
    channel.stream().set_nonblocking(true)?;
    let mut front = Front { signals, process: None, forwarded: Vec::new() };
    let mut text = Vec::new();
    loop {
        let mut all = [
            PollFd::new(channel.stream(), PollFlags::IN),
            PollFd::new(&front.signals, PollFlags::IN),
        ];
        // A signal may interrupt it.
        let _ = poll(&mut all, None);
        front.forward();
        let mut part = [0; 4096];
        match channel.stream().read(&mut part) {
            Ok(0) => return Ok(front.lost()),
            Ok(length) => text.extend(part.iter().take(length)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => return Ok(front.lost()),
        }
        while let Some(end) = text.iter().position(|byte| *byte == b'\n') {
            let line: Vec<_> = text.drain(..=end).collect();
            let Ok(said) = serde_json::from_slice::<Said>(&line) else { continue };
            match said {
                Said::Started(pid) => front.started(pid),
                Said::Ended { status, left } => {
                    if left.is_empty() {
                        wait_for_end(channel.stream());
                    }
                    tell(Said::Ended { status, left });
                    return Ok(End::Of(status));
                }
                said @ (Said::Refused(_) | Said::NotExecuted(_)) => {
                    tell(said);
                    return Ok(End::NotStarted);
                }
                said => tell(said),
            }
        }
    }
}

/// Waits for the end of a supervisor that has nothing more to do, so that its leases end with the command.
fn wait_for_end(stream: &UnixStream) {
    let limit = Timespec { tv_sec: 1, tv_nsec: 0 };
    let _ = poll(&mut [PollFd::new(stream, PollFlags::IN)], Some(&limit));
}

struct Front {
    signals: SignalFd,
    process: Option<OwnedFd>,
    /// Signals that came before the command was started.
    forwarded: Vec<i32>,
}

impl Front {
    fn started(&mut self, pid: u32) {
        let pid = Pid::from_raw(pid.cast_signed());
        self.process = pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        for signal in std::mem::take(&mut self.forwarded) {
            self.send(signal);
        }
    }

    /// Sends the command what was sent to this process alone. Signals of a terminal go to both.
    fn forward(&mut self) {
        while let Ok(Some(signal)) = self.signals.read_signal() {
            if signal.ssi_code == nix::libc::SI_KERNEL {
                continue;
            }
            let signal = signal.ssi_signo.cast_signed();
            if self.process.is_some() {
                self.send(signal);
            } else {
                self.forwarded.push(signal);
            }
        }
    }

    fn send(&self, signal: i32) {
        let signal = rustix::process::Signal::from_named_raw(signal);
        if let (Some(process), Some(signal)) = (&self.process, signal) {
            let _ = pidfd_send_signal(process, signal);
        }
    }

    /// Ends a command whose supervisor is gone: it has no network any more.
    fn lost(&self) -> End {
        let Some(process) = &self.process else { return End::Lost };
        self.send(Signal::SIGTERM as i32);
        let start = Instant::now();
        while let Some(left) = PATIENCE.checked_sub(start.elapsed()) {
            let mut ended = [PollFd::new(process, PollFlags::IN)];
            let left = Timespec::try_from(left).ok();
            if poll(&mut ended, left.as_ref()).is_ok_and(|ready| ready > 0) {
                return End::Lost;
            }
        }
        self.send(Signal::SIGKILL as i32);
        End::Lost
    }
}
