//! The whole terminal, for what is drawn again and again; it is given back as it was.

use std::{
    env,
    io::{self, IsTerminal, Write},
    os::fd::AsFd,
    time::Duration,
};

use nix::sys::{
    signal::{SigSet, Signal, raise},
    signalfd::{SfdFlags, SignalFd},
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    termios::tcgetwinsize,
};

use crate::word::counted;

/// To the alternate screen, without a cursor.
const TAKE: &str = "\x1b[?1049h\x1b[?25l";
/// And back.
const GIVE_BACK: &str = "\x1b[?25h\x1b[?1049l";

/// What ends it, and what has it drawn anew at once.
const SIGNALS: [Signal; 4] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGWINCH];

/// A terminal that has been taken.
pub(super) struct Screen {
    signals: SignalFd,
}

impl Screen {
    /// Takes the terminal; `None` if stdout is none.
    pub(super) fn take() -> io::Result<Option<Self>> {
        let is_dumb = env::var_os("TERM").is_none_or(|term| term == "dumb");
        if is_dumb || !io::stdout().is_terminal() {
            return Ok(None);
        }
        // They are read instead: nothing may end this process before the terminal is given back.
        let signals = SigSet::from_iter(SIGNALS);
        signals.thread_block()?;
        let signals =
            SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        let screen = Self { signals };
        write(TAKE)?;
        Ok(Some(screen))
    }

    /// Shows the text, as much of it as there is room for.
    pub(super) fn draw(&self, text: &str) -> io::Result<()> {
        let rows = tcgetwinsize(io::stdout()).map_or(usize::MAX, |size| size.ws_row.into());
        let lines: Vec<_> = text.lines().collect();
        let shown = if lines.len() < rows { lines.len() } else { rows.saturating_sub(2) };
        // Home, each line to its end, and what is below.
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

    /// Waits so long, or until the terminal has another size. A signal that ends this process does so, when the
    /// terminal has been given back.
    pub(super) fn wait(self, time: Duration) -> io::Result<Self> {
        let seconds = time.as_secs().try_into().unwrap_or(i64::MAX);
        let time = Timespec { tv_sec: seconds, tv_nsec: time.subsec_nanos().into() };
        let mut ready = [PollFd::from_borrowed_fd(self.signals.as_fd(), PollFlags::IN)];
        poll(&mut ready, Some(&time))?;
        while let Some(signal) = self.signals.read_signal()? {
            let number = i32::try_from(signal.ssi_signo).unwrap_or_default();
            match Signal::try_from(number)? {
                Signal::SIGWINCH => {}
                signal => {
                    drop(self);
                    SigSet::from_iter([signal]).thread_unblock()?;
                    raise(signal)?;
                    // It is ignored: whoever started this process did not want it to end by that.
                    return Self::take()?.ok_or_else(|| io::ErrorKind::Interrupted.into());
                }
            }
        }
        Ok(self)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // There is nobody to tell if it fails.
        let _ = write(GIVE_BACK);
    }
}

fn write(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}
