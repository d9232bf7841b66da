//! A process that was started: a group of its own, whose output is read.

use std::{
    env,
    io::{self, BufRead, Write},
    os::unix::process::{CommandExt, ExitStatusExt},
    process::{Child, Command, ExitStatus, Stdio},
};

use clap::Args;
use nix::{
    sys::{
        signal::{Signal, kill, killpg},
        wait::{Id, WaitPidFlag, WaitStatus, waitid},
    },
    unistd::Pid,
};
use serde_json::Value as Json;
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, BufReader},
    process::{ChildStderr, ChildStdout},
    sync::mpsc::Sender,
};

use crate::{
    cli::{CliError, port::port_of, text},
    kernel::{
        listeners::is_listened_by,
        process::{group, is_of, variable},
    },
};

/// The longest part of a line that is shown at once.
const LONGEST: usize = 64 * 1024;

/// A line of a process, with its end if it had one.
pub(super) struct Line {
    /// Which process.
    pub(super) of: usize,
    pub(super) is_error: bool,
    pub(super) text: Vec<u8>,
}

/// The leader of the group. It is not reaped before the end, so that its number stays that of the group.
pub(super) struct Running {
    child: Child,
}

impl Running {
    /// Starts the command. Its lines are sent to `lines`.
    pub(super) fn start(mut command: Command, of: usize, lines: &Sender<Line>) -> io::Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.process_group(0).spawn()?;
        if let Some(out) = child.stdout.take() {
            let out = ChildStdout::from_std(out)?;
            tokio::spawn(pass_on(out, of, false, lines.clone()));
        }
        if let Some(err) = child.stderr.take() {
            let err = ChildStderr::from_std(err)?;
            tokio::spawn(pass_on(err, of, true, lines.clone()));
        }
        Ok(Self { child })
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    /// How it has ended, if it has.
    pub(super) fn end(&self) -> Option<ExitStatus> {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        match waitid(Id::Pid(self.pid()), flags).ok()? {
            WaitStatus::Exited(_, code) => Some(ExitStatus::from_raw(code << 8)),
            WaitStatus::Signaled(_, signal, _) => Some(ExitStatus::from_raw(signal as i32)),
            _ => None,
        }
    }

    /// Whether it, or what it has started, listens on the port of its lease.
    pub(super) fn listens(&self, lease: &Json) -> io::Result<bool> {
        let Some((port, protocol)) = port_of(lease) else { return Ok(false) };
        let leader = self.child.id();
        // What has left the group and has lost its parent, as a daemon does, still knows its lease.
        let knows_it = |pid| {
            variable(pid, "STYXY_LEASE_ID").is_some_and(|known| known == text(lease, "lease_id"))
        };
        let is_its = |pid| group(pid) == Some(leader) || is_of(pid, leader) || knows_it(pid);
        is_listened_by(is_its, port, protocol)
    }

    /// Sends the signal to the whole group, and to its leader even if that has left it.
    pub(super) fn signal(&self, signal: Signal) {
        // There may be none any more.
        let _ = killpg(self.pid(), signal).or_else(|_| kill(self.pid(), signal));
    }

    pub(super) fn reap(mut self) {
        let _ = self.child.wait();
    }
}

/// Sends each line of the stream.
async fn pass_on(stream: impl AsyncRead + Unpin, of: usize, is_error: bool, lines: Sender<Line>) {
    let mut stream = BufReader::new(stream);
    let mut text = Vec::new();
    loop {
        let (used, is_whole) = match stream.fill_buf().await {
            Ok([]) | Err(_) => break,
            Ok(bytes) => {
                let end = memchr::memchr(b'\n', bytes);
                let used = end.map_or(bytes.len(), |end| end + 1);
                text.extend_from_slice(&bytes[..used]);
                (used, end.is_some())
            }
        };
        stream.consume(used);
        if is_whole || text.len() >= LONGEST {
            let text = std::mem::take(&mut text);
            if lines.send(Line { of, is_error, text }).await.is_err() {
                return;
            }
        }
    }
    if !text.is_empty() {
        let _ = lines.send(Line { of, is_error, text }).await;
    }
}

/// What ends the groups if this process is killed.
pub(super) struct Keeper {
    child: Child,
}

impl Keeper {
    pub(super) fn start() -> io::Result<Self> {
        let mut command = Command::new(env::current_exe()?);
        command.arg("keeper").stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        // Not in the foreground of the terminal, so that Ctrl-C is not for it.
        Ok(Self { child: command.process_group(0).spawn()? })
    }

    /// Has the group of this leader ended, too.
    pub(super) fn keep(&mut self, running: &Running) {
        self.write(&running.pid().to_string());
    }

    /// All have ended.
    pub(super) fn end(mut self) {
        self.write(END);
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }

    fn write(&mut self, line: &str) {
        if let Some(to) = &mut self.child.stdin {
            // Without it, what a process has started may outlive a kill of this one.
            let _ = writeln!(to, "{line}");
        }
    }
}

/// The last line for the keeper.
const END: &str = "end";

/// End the process groups that are named on standard input when that is closed; `styxy up` starts this
#[derive(Debug, Args)]
pub(in crate::cli) struct Keep;

impl Keep {
    pub(in crate::cli) fn run() -> Result<(), CliError> {
        let mut groups = Vec::new();
        for line in io::stdin().lock().lines() {
            let line = line?;
            if line == END {
                return Ok(());
            }
            groups.extend(line.parse().map(Pid::from_raw));
        }
        for group in groups {
            let _ = killpg(group, Signal::SIGTERM);
        }
        Ok(())
    }
}
