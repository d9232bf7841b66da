//! A process that was started: a group of its own, whose output is read.

use std::{
    env,
    ffi::OsString,
    io,
    os::unix::process::{CommandExt, ExitStatusExt},
    process::{self, Child, Command, ExitStatus, Stdio},
};

use clap::Args;
use nix::{
    errno::Errno,
    sys::{
        prctl,
        signal::{Signal, kill, killpg},
        wait::{Id, WaitPidFlag, WaitStatus, waitid},
    },
    unistd::{Pid, getppid},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, BufReader},
    process::{ChildStderr, ChildStdout},
    sync::mpsc::Sender,
};

use crate::cli::{CliError, run::not_started};

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

/// Run a command that ends with the process that started it; `styxy up` starts this
#[derive(Debug, Args)]
pub(in crate::cli) struct Attached {
    /// The process that starts it
    parent: i32,
    /// The command
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

impl Attached {
    /// The command of this program that starts these words.
    pub(super) fn command(words: &[OsString]) -> io::Result<Command> {
        let mut command = Command::new(env::current_exe()?);
        command.arg("attached").arg(process::id().to_string()).arg("--").args(words);
        Ok(command)
    }

    pub(in crate::cli) fn run(self) -> Result<(), CliError> {
        // The setting survives execve(2): PR_SET_PDEATHSIG(2const).
        prctl::set_pdeathsig(Signal::SIGTERM).map_err(|errno: Errno| io::Error::from(errno))?;
        // It may have ended before.
        if getppid().as_raw() != self.parent {
            return Err(CliError::Exec("the styxy that started this has ended".to_owned(), 1));
        }
        let error = Command::new(&self.command[0]).args(&self.command[1..]).exec();
        Err(not_started(&self.command[0], &error))
    }
}
