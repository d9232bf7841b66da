//! The leases as a page on the terminal.
//!
//! - `model`, `details`, `help`: the page as a value, without a terminal
//! - `draw`: what it looks like
//! - `sort`: the order of its rows
//! - `keys`: what was typed
//! - `source`: the threads that ask the service
//! - `pace`: when they ask though nothing was announced

mod details;
mod draw;
mod help;
mod keys;
mod model;
mod pace;
mod sort;
mod source;
#[cfg(test)]
mod tests;

use std::{
    io::{self, BufWriter, IsTerminal, Stdout, Write},
    time::{Duration, Instant},
};

use clap::Args;
use nix::sys::signal::Signal;
use ratatui::{Terminal, TerminalOptions, Viewport, backend::CrosstermBackend, layout::Rect};
use rustix::termios::tcgetwinsize;
use serde_json::Value as Json;

use self::{
    keys::Decoder,
    model::{Action, Model},
    pace::Pace,
    source::{News, Source},
};
use super::{
    CliError,
    lease::found,
    output::colours,
    print, refused,
    screen::{self, Event, Screen},
};
use crate::{client::Failure, value::Fields};

/// The terminal, as it is drawn on. Only what has changed is written.
type Canvas = Terminal<CrosstermBackend<BufWriter<Stdout>>>;

/// The size of a terminal that does not know it.
const USUAL: (u16, u16) = (80, 24);

/// How long quitting waits for the results of releases: a service that is not stuck has answered by then.
const ANSWERED: Duration = Duration::from_secs(1);

/// Browse the leases on the terminal, and release them
#[derive(Debug, Args)]
#[command(after_help = help::keys())]
pub(super) struct Top {}

impl Top {
    pub(super) fn run(self) -> Result<(), CliError> {
        if let Some(why) = obstacle() {
            return Err(refused(why));
        }
        // Errors that occur at once are reported before the screen is taken over.
        let leases = found(Fields::default())?;
        let mut screen = taken(Screen::take()?)?;
        let mut page = Page {
            // From here on the signals are blocked, as they must be in all threads.
            source: Source::start(&leases)?,
            pace: Pace::new(Instant::now(), !leases.is_empty()),
            model: Model::new(&leases, colours()),
            leases,
        };
        let mut canvas = page.canvas()?;
        let mut keys = Decoder::default();
        loop {
            canvas.draw(|frame| page.model.draw(frame)).map_err(CliError::Output)?;
            let limit = page.pace.left(Instant::now());
            match screen.wait(limit, Some(page.source.woken()))? {
                Event::Typed(typed) => {
                    page.pace.hurry();
                    for key in keys.keys(&typed) {
                        match page.model.key(key) {
                            Action::Draw => {}
                            Action::Do(job) => page.source.do_it(job),
                            Action::Quit => {
                                drop(screen);
                                return page.end();
                            }
                        }
                    }
                }
                Event::Signal(Signal::SIGINT) => {
                    drop(screen);
                    return page.end();
                }
                Event::Signal(Signal::SIGWINCH) => canvas = page.canvas()?,
                Event::Signal(signal) => {
                    page.source.pause();
                    screen = taken(screen.obey(signal)?)?;
                    page.source.resume(&page.leases)?;
                    canvas = page.canvas()?;
                }
                Event::HungUp => return Ok(()),
                Event::Readable => page.read()?,
                Event::Timeout => {}
            }
            if page.pace.asks(Instant::now()) {
                page.source.do_it(source::Job::List);
            }
        }
    }
}

/// Why there can be no page here.
fn obstacle() -> Option<String> {
    let why = if !io::stdout().is_terminal() {
        "stdout is not a terminal"
    } else if !io::stdin().is_terminal() {
        "stdin is not a terminal, so no key can be read"
    } else if screen::is_dumb() {
        "TERM is empty, dumb or not set, so the cursor cannot be moved"
    } else {
        return None;
    };
    Some(format!("{why}; `styxy list --watch` shows the leases without keys"))
}

/// The screen, with a keyboard.
fn taken(screen: Option<Screen>) -> Result<Screen, CliError> {
    screen.filter(Screen::has_keys).ok_or_else(|| {
        refused(
            "another job is in the foreground of this terminal; `fg` continues this one".to_owned(),
        )
    })
}

/// The end of a release that has no result yet.
fn not_known(port: &str) -> Failure {
    Failure::BrokenOff(format!(
        "it is not known whether port {port} was released: the service has not answered yet; `styxy list` shows the leases"
    ))
}

/// The page, and where its content comes from.
struct Page {
    model: Model,
    /// The latest list.
    leases: Vec<Json>,
    source: Source,
    pace: Pace,
}

impl Page {
    /// An empty screen to draw on, of the size of the terminal.
    fn canvas(&mut self) -> io::Result<Canvas> {
        let known = tcgetwinsize(io::stdout()).ok().map(|size| (size.ws_col, size.ws_row));
        let (width, height) = known.filter(|(w, h)| *w > 0 && *h > 0).unwrap_or(USUAL);
        self.model.resize(width, height);
        let mut out = BufWriter::with_capacity(0x1_0000, io::stdout());
        out.write_all(b"\x1b[2J")?;
        let viewport = Viewport::Fixed(Rect::new(0, 0, width, height));
        Terminal::with_options(CrosstermBackend::new(out), TerminalOptions { viewport })
    }

    /// Reads what has happened.
    fn read(&mut self) -> Result<(), CliError> {
        for news in self.source.news()? {
            match news {
                News::Leases(leases) => {
                    let (action, is_changed) = self.model.update(&leases);
                    if let Action::Do(job) = action {
                        self.source.do_it(job);
                    }
                    self.pace.listed(Instant::now(), !leases.is_empty(), is_changed);
                    self.leases = leases;
                }
                News::Looked(id, users) => self.model.looked(&id, users),
                News::Released(result) => self.model.released(result),
                News::Waiting(what) => self.model.waits(what),
                News::Failed(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Ends it, after the terminal is restored: the results of releases that were asked for are printed, if they come
    /// at once.
    fn end(self) -> Result<(), CliError> {
        let until = Instant::now() + ANSWERED;
        for port in self.model.releasing() {
            let left = until.saturating_duration_since(Instant::now());
            match self.source.released(left) {
                Some(result) => print(&result?)?,
                None => return Err(CliError::Failure(not_known(port))),
            }
        }
        Ok(())
    }
}
