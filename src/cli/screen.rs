//! The whole terminal, for text that is redrawn repeatedly; its state is restored at the end.

use std::{
    env,
    io::{self, IsTerminal, Read, Write},
    os::fd::AsFd,
    time::Duration,
};

use nix::sys::{
    signal::{SigSet, Signal, raise},
    signalfd::{SfdFlags, SignalFd},
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::getpgrp,
    termios::{
        LocalModes, OptionalActions, Termios, tcgetattr, tcgetpgrp, tcgetwinsize, tcsetattr,
    },
};

use crate::word::counted;

/// Switches to the alternate screen, and hides the cursor.
const TAKE: &str = "\x1b[?1049h\x1b[?25l";
/// Undoes [`TAKE`].
const GIVE_BACK: &str = "\x1b[?25h\x1b[?1049l";

/// The signals that end, stop or resume this process, or require a redraw.
const SIGNALS: [Signal; 7] = [
    Signal::SIGINT,
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGTSTP,
    Signal::SIGCONT,
    Signal::SIGWINCH,
];

/// A terminal that has been taken over.
pub(super) struct Screen {
    signals: SignalFd,
    keys: Option<Keys>,
}

impl Screen {
    /// Takes over the terminal; `None` if stdout is not a terminal, or a dumb one.
    pub(super) fn take() -> io::Result<Option<Self>> {
        let is_dumb = env::var_os("TERM").is_none_or(|term| term == "dumb");
        if is_dumb || !io::stdout().is_terminal() {
            return Ok(None);
        }
        // Like every full-screen program: a background job stops until it is in the foreground.
        if tcgetpgrp(io::stdout()).is_ok_and(|foreground| foreground != getpgrp()) {
            raise(Signal::SIGTTOU)?;
        }
        // The signals are read from a descriptor: none may end this process before the terminal is restored.
        let signals = SigSet::from_iter(SIGNALS);
        signals.thread_block()?;
        let signals =
            SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        let screen = Self { signals, keys: Keys::take() };
        write(TAKE)?;
        Ok(Some(screen))
    }

    /// Shows as much of the text as there is room for.
    pub(super) fn draw(&self, text: &str) -> io::Result<()> {
        // A size of 0 means that nobody has set it.
        let rows = tcgetwinsize(io::stdout()).map_or(0, |size| size.ws_row.into());
        let rows = if rows == 0 { usize::MAX } else { rows };
        let lines: Vec<_> = text.lines().collect();
        let shown = if lines.len() < rows { lines.len() } else { rows.saturating_sub(2) };
        // Move to the top left, clear the end of each line, and then everything below.
        let mut drawn = "\x1b[H".to_owned();
        for line in &lines[..shown] {
            drawn.extend([*line, "\x1b[K\r\n"]);
        }
        if shown < lines.len() {
            let more = counted((lines.len() - shown) as u64, "line");
            drawn.extend(["… and ", &more, " more\x1b[K"]);
        }
        write(&(drawn + "\x1b[J"))
    }

    /// Waits this long, or until the terminal is resized; `None` if the user has pressed `q`. A signal that
    /// ends or stops this process takes effect after the terminal is restored; when the process continues, it
    /// takes over the terminal again.
    pub(super) fn wait(mut self, time: Duration) -> io::Result<Option<Self>> {
        let seconds = time.as_secs().try_into().unwrap_or(i64::MAX);
        let time = Timespec { tv_sec: seconds, tv_nsec: time.subsec_nanos().into() };
        let input = io::stdin();
        let mut ready = [
            PollFd::from_borrowed_fd(self.signals.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(input.as_fd(), PollFlags::IN),
        ];
        let watched = if self.keys.is_some() { &mut ready[..] } else { &mut ready[..1] };
        poll(watched, Some(&time))?;
        if self.keys.is_some() && !ready[1].revents().is_empty() {
            match Keys::read() {
                Ok(Some(keys)) if keys.contains(&b'q') => return Ok(None),
                Ok(Some(_)) => {}
                // The terminal is gone.
                Ok(None) | Err(_) => self.keys = None,
            }
        }
        while let Some(signal) = self.signals.read_signal()? {
            let number = i32::try_from(signal.ssi_signo).unwrap_or_default();
            match Signal::try_from(number)? {
                Signal::SIGWINCH => {}
                // After a SIGSTOP, another program may have changed the terminal, or this job may be in the
                // foreground again.
                Signal::SIGCONT => {
                    drop(self);
                    return Self::take();
                }
                signal => {
                    drop(self);
                    SigSet::from_iter([signal]).thread_unblock()?;
                    raise(signal)?;
                    // Reached after a stop, or if the signal is ignored: then whoever started this process
                    // does not want the signal to end it.
                    return Self::take();
                }
            }
        }
        Ok(Some(self))
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // An error cannot be reported to anyone.
        let _ = write(GIVE_BACK);
    }
}

/// The keyboard: keys are read at once and not echoed.
struct Keys {
    before: Termios,
}

impl Keys {
    /// Takes over the keyboard; `None` if stdin is not a terminal, or another job is in the foreground: a
    /// background job that changes the terminal is stopped (termios(3), `SIGTTOU`).
    fn take() -> Option<Self> {
        let before = tcgetattr(io::stdin()).ok()?;
        if tcgetpgrp(io::stdin()).ok()? != getpgrp() {
            return None;
        }
        let mut now = before.clone();
        now.local_modes -= LocalModes::ICANON | LocalModes::ECHO;
        tcsetattr(io::stdin(), OptionalActions::Now, &now).ok()?;
        Some(Self { before })
    }

    /// Reads the pressed keys; `None` at end of file.
    fn read() -> io::Result<Option<Vec<u8>>> {
        let mut typed = vec![0; 64];
        let length = io::stdin().read(&mut typed)?;
        typed.truncate(length);
        Ok((length > 0).then_some(typed))
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.before);
    }
}

fn write(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}
