//! The whole terminal, for text that is redrawn repeatedly; its state is restored at the end.

use std::{
    env,
    io::{self, IsTerminal, Write},
    os::fd::{AsFd, BorrowedFd},
    panic,
    sync::{Mutex, Once, PoisonError},
    time::Duration,
};

use nix::sys::{
    signal::{SigSet, Signal, raise},
    signalfd::{SfdFlags, SignalFd},
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
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

/// What must be restored, while the terminal is taken over. Not in [`Screen`]: a panic restores it, too, and a
/// program that then aborts drops nothing.
static TAKEN: Mutex<Option<Before>> = Mutex::new(None);

/// The terminal before it was taken over.
struct Before {
    /// The settings of the keyboard, if they were changed.
    keys: Option<Termios>,
}

/// A terminal that has been taken over. Only one exists at a time.
pub(super) struct Screen {
    signals: SignalFd,
    has_keys: bool,
}

/// What ended a wait.
#[derive(Debug)]
pub(super) enum Event {
    /// These bytes were typed.
    Typed(Vec<u8>),
    /// Nobody can type any more: the terminal is gone.
    HungUp,
    /// A signal arrived, and has had no effect yet.
    Signal(Signal),
    /// The other descriptor can be read.
    Readable,
    /// The time is over.
    Timeout,
}

impl Screen {
    /// Takes over the terminal; `None` if stdout is not a terminal, or a dumb one.
    pub(super) fn take() -> io::Result<Option<Self>> {
        if is_dumb() || !io::stdout().is_terminal() {
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
        restore_in_a_panic();
        let before = Before { keys: take_keys() };
        let screen = Self { signals, has_keys: before.keys.is_some() };
        *TAKEN.lock().unwrap_or_else(PoisonError::into_inner) = Some(before);
        write(TAKE)?;
        Ok(Some(screen))
    }

    /// Whether typed keys can be read: stdin is a terminal, and this job is in its foreground.
    pub(super) fn has_keys(&self) -> bool {
        self.has_keys
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

    /// Waits for an event: at most this long, if there is a limit, and also until this descriptor can be read.
    pub(super) fn wait(
        &mut self,
        limit: Option<Duration>,
        other: Option<BorrowedFd<'_>>,
    ) -> io::Result<Event> {
        let limit = limit.map(|limit| Timespec {
            tv_sec: limit.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: limit.subsec_nanos().into(),
        });
        let input = io::stdin();
        let keys = self.has_keys.then(|| input.as_fd());
        let watched = [Some(self.signals.as_fd()), keys, other];
        let mut ready: Vec<_> =
            watched.iter().flatten().map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
        match poll(&mut ready, limit.as_ref()) {
            // A signal that is not read from the descriptor, such as SIGCHLD.
            Err(Errno::INTR) => return Ok(Event::Timeout),
            result => result?,
        };
        if let Some(signal) = self.signals.read_signal()? {
            let number = i32::try_from(signal.ssi_signo).unwrap_or_default();
            return Ok(Event::Signal(Signal::try_from(number)?));
        }
        if self.has_keys && !ready[1].revents().is_empty() {
            return Ok(if let Ok(Some(typed)) = typed() {
                Event::Typed(typed)
            } else {
                self.has_keys = false;
                Event::HungUp
            });
        }
        let is_readable = ready.last().is_some_and(|last| !last.revents().is_empty());
        Ok(if other.is_some() && is_readable { Event::Readable } else { Event::Timeout })
    }

    /// Lets a signal have its effect, after the terminal is restored. If the process continues, it takes over the
    /// terminal again.
    pub(super) fn obey(self, signal: Signal) -> io::Result<Option<Self>> {
        if signal == Signal::SIGWINCH {
            return Ok(Some(self));
        }
        drop(self);
        // After a SIGSTOP, another program may have changed the terminal, or this job may be in the foreground
        // again: it is only taken again.
        if signal != Signal::SIGCONT {
            SigSet::from_iter([signal]).thread_unblock()?;
            raise(signal)?;
            // Reached after a stop, or if the signal is ignored: then whoever started this process does not want
            // the signal to end it.
        }
        Self::take()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        give_back();
    }
}

/// Whether the terminal cannot move its cursor.
pub(super) fn is_dumb() -> bool {
    env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb")
}

/// Restores the terminal, if it is taken over.
fn give_back() {
    let Some(before) = TAKEN.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
    // An error cannot be reported to anyone.
    let _ = write(GIVE_BACK);
    if let Some(keys) = before.keys {
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &keys);
    }
}

/// From now on, a panic restores the terminal before it is reported.
fn restore_in_a_panic() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let report = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            give_back();
            report(panic);
        }));
    });
}

/// Takes over the keyboard, so that keys are read at once and not echoed; the settings before. `None` if stdin is
/// not a terminal, or another job is in the foreground: a background job that changes the terminal is stopped
/// (termios(3), `SIGTTOU`).
fn take_keys() -> Option<Termios> {
    let before = tcgetattr(io::stdin()).ok()?;
    if tcgetpgrp(io::stdin()).ok()? != getpgrp() {
        return None;
    }
    let mut now = before.clone();
    now.local_modes -= LocalModes::ICANON | LocalModes::ECHO;
    tcsetattr(io::stdin(), OptionalActions::Now, &now).ok()?;
    Some(before)
}

/// Reads what was typed; `None` at end of file.
fn typed() -> io::Result<Option<Vec<u8>>> {
    let mut typed = vec![0; 1_024];
    // Not through the buffer of the standard library: poll(2) does not see what is there.
    let length = rustix::io::read(io::stdin(), &mut typed)?;
    typed.truncate(length);
    Ok((length > 0).then_some(typed))
}

fn write(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

#[cfg(test)]
mod tests {
    use std::{
        fs::File,
        process::{Command, Stdio},
    };

    use nix::pty::openpty;

    use super::*;

    /// Set where this test is to panic.
    const CHILD: &str = "STYXY_TEST_PANICS";

    #[test]
    fn a_panic_is_reported_on_a_terminal_that_was_given_back() {
        if env::var_os(CHILD).is_some() {
            let _screen = Screen::take().unwrap().unwrap();
            panic!("on purpose");
        }
        let Ok(pty) = openpty(None, None) else { panic!("no terminals") };
        let before = tcgetattr(&pty.slave).unwrap();
        let end = || Stdio::from(pty.slave.try_clone().unwrap());
        let name = "cli::screen::tests::a_panic_is_reported_on_a_terminal_that_was_given_back";
        // The test is in the foreground of the terminal.
        let mut child = Command::new("setsid");
        child.arg("--ctty").arg(env::current_exe().unwrap()).args(["--exact", name, "--nocapture"]);
        child.env(CHILD, "").env("TERM", "xterm").stdin(end()).stdout(end()).stderr(end());
        assert!(!child.status().unwrap().success());
        let after = tcgetattr(&pty.slave).unwrap();
        assert_eq!(after.local_modes, before.local_modes);
        drop((child, pty.slave));
        let (mut said, mut part) = (Vec::new(), [0; 4_096]);
        let terminal = File::from(pty.master);
        // The end is EIO, as nobody has the other end open.
        while let Ok(length @ 1..) = rustix::io::read(&terminal, &mut part) {
            said.extend(&part[..length]);
        }
        let said = String::from_utf8_lossy(&said);
        let places = [TAKE, GIVE_BACK, "on purpose"].map(|what| said.find(what));
        assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{places:?}: {said}");
    }
}
