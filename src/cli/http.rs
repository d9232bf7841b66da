use std::{
    fmt, thread,
    time::{Duration, Instant},
};

use clap::{Args, Subcommand};
use serde_json::json;

use super::{
    CliError, Output, ask, block_on,
    port_users::{PortUser, users},
    print, print_json, refused, refused_with, short,
    table::folded,
    text,
    token::{TokenFile, Unusable, hand_over},
};
use crate::{
    client::{
        self, Call,
        unit::{Unit, control},
    },
    kernel::listeners::{in_the_way, listeners},
    port::{Port, PortRange, Protocol},
    surroundings,
    token::Token,
};

/// The unit of the socket.
pub(super) const UNIT: &str = "styxy-tcp.socket";

/// How long a restart of the service may take, and how often it is looked for.
const RESTART: Duration = Duration::from_secs(10);
const EVERY: Duration = Duration::from_millis(20);

/// Enable or disable HTTP over TCP, for clients that cannot use the Unix socket
#[derive(Debug, Args)]
pub(super) struct Http {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Listen on 127.0.0.1:9876, and answer whoever has the token
    Enable {
        #[command(flatten)]
        output: Output,
    },
    /// Stop listening
    Disable {
        #[command(flatten)]
        output: Output,
    },
    /// Show whether the service listens, and whether it knows the token
    Status {
        #[command(flatten)]
        output: Output,
    },
}

impl Http {
    pub(super) fn run(self) -> Result<(), CliError> {
        match self.what {
            What::Enable { output } => enable(output),
            What::Disable { output } => disable(output),
            What::Status { output } => status(output),
        }
    }
}

fn enable(output: Output) -> Result<(), CliError> {
    if !unit()?.is("ActiveState", "active") {
        until_closed();
        if let Some(obstacle) = obstacle()? {
            return Err(obstacle.into());
        }
    }
    let file = TokenFile::find()?;
    let token = file.hand_over(hand_over)?;
    // To start it once more would restart the service, and end the sessions of pages; but the service may have stopped it
    // meanwhile, after the last page was closed.
    let enabled = control(&["--quiet", "enable", UNIT]);
    let started = enabled.and_then(|()| {
        if listens() {
            return Ok(());
        }
        until_closed();
        control(&["start", UNIT])
    });
    if let Err(why) = started {
        // At the next login it would fail again.
        let _ = control(&["--quiet", "disable", UNIT]);
        return Err(taken().map_or_else(|| refused(why), CliError::from));
    }
    // It stays when the last page is closed.
    clear_mark();
    if output.json {
        return print_json(&json!({
            "enabled": true, "url": url(), "file": file.path(), "token": token.masked(),
        }));
    }
    print(&format!(
        "the service listens on {}, for requests with the token in {} ({})",
        url(),
        short(&file.path().to_string_lossy()),
        token.masked()
    ))
}

/// How the service listens for a page.
pub(super) struct Listening {
    /// Whether it stops when the last page is closed.
    pub(super) is_temporary: bool,
    /// Whether it did not listen before.
    pub(super) is_new: bool,
}

/// Has the service listen, until the last page is closed if it did not listen before. `instead` says what to do where it
/// cannot listen.
pub(super) fn listen(instead: &str) -> Result<Listening, CliError> {
    let or_instead = |obstacle: Obstacle| obstacle.or(instead);
    let unit = unit().map_err(or_instead)?;
    if unit.is("ActiveState", "active") {
        return Ok(Listening { is_temporary: is_temporary(&unit), is_new: false });
    }
    until_closed();
    if let Some(obstacle) = obstacle()? {
        return Err(or_instead(obstacle).into());
    }
    // Before it listens: if this command is killed, the service knows what to do.
    let mark = surroundings::user().for_pages().map_err(|why| refused_with(why, instead))?;
    mark.set().map_err(|error| refused_with(format!("{mark} cannot be made: {error}"), instead))?;
    if let Err(why) = control(&["start", UNIT]) {
        stop();
        return Err(or_instead(taken().unwrap_or(Obstacle::other(why))).into());
    }
    Ok(Listening { is_temporary: true, is_new: true })
}

/// Whether the service still listens.
pub(super) fn listens() -> bool {
    unit().is_ok_and(|unit| unit.is("ActiveState", "active"))
}

impl Listening {
    /// Leaves everything as it was: no page could be opened.
    pub(super) fn end(&self) {
        if self.is_new {
            stop();
        }
    }
}

/// Stops listening, which was for a page that cannot be opened.
fn stop() {
    // If it fails, the service still has the mark.
    if control(&["stop", UNIT]).is_ok() {
        clear_mark();
    }
}

fn is_temporary(unit: &Unit) -> bool {
    let is_enabled = unit.get("UnitFileState").starts_with("enabled");
    !is_enabled && surroundings::user().for_pages().is_ok_and(|mark| mark.is_set())
}

fn clear_mark() {
    if let Ok(mark) = surroundings::user().for_pages() {
        mark.clear();
    }
}

fn disable(output: Output) -> Result<(), CliError> {
    let unit = unit()?;
    let was_on =
        unit.is("ActiveState", "active") || unit.get("UnitFileState").starts_with("enabled");
    if was_on {
        control(&["--quiet", "disable", "--now", UNIT]).map_err(refused)?;
    }
    clear_mark();
    until_closed();
    if output.json {
        return print_json(&json!({"enabled": false, "url": url(), "was_on": was_on}));
    }
    print(&if was_on {
        format!("the service does not listen on {} any more", url())
    } else {
        "HTTP over TCP is off already: nothing was changed".to_owned()
    })
}

fn status(output: Output) -> Result<(), CliError> {
    let unit = unit();
    let has = |property, value| unit.as_ref().is_ok_and(|unit| unit.is(property, value));
    let (listens, is_enabled) = (has("ActiveState", "active"), has("UnitFileState", "enabled"));
    let is_temporary = listens && unit.as_ref().is_ok_and(is_temporary);
    let file = TokenFile::find()?;
    let read = file.read();
    let token = read.as_ref().ok().and_then(Option::as_ref);
    let running = block_on(client::call_running(&Call::Status))??.ok();
    let obstacle = match unit {
        Ok(_) if listens => None,
        // A lease is no obstacle to a service that does not run: it would be asked for it.
        Ok(_) => taken().or(if running.is_some() { leased()? } else { None }),
        Err(obstacle) => Some(obstacle),
    };
    let obstacle = obstacle.map(|obstacle| obstacle.to_string());
    // Without a running service it is not known which token the next one will accept.
    let is_known = running.map(|(status, _)| {
        token.is_some_and(|token| status["token"] == token.hash().fingerprint())
    });
    if output.json {
        return print_json(&json!({
            "enabled": is_enabled,
            "listening": listens,
            "temporary": is_temporary,
            "url": url(),
            "file": token.map(|_| file.path()),
            "token": token.map(Token::masked),
            "token_is_known": is_known,
            "obstacle": obstacle.or(read.err().map(|why| why.to_string())),
        }));
    }
    let place = short(&file.path().to_string_lossy());
    let mut lines = vec![match (listens, is_enabled) {
        (true, true) => format!("the service listens on {}", url()),
        (true, false) if is_temporary => {
            format!("the service listens on {} until the last page is closed", url())
        }
        (true, false) => format!("the service listens on {} until the end of this session", url()),
        (false, true) => format!("{UNIT} is enabled, but does not listen on {}", url()),
        (false, false) if obstacle.is_some() => "HTTP over TCP is off".to_owned(),
        (false, false) => "HTTP over TCP is off: `styxy http enable` switches it on".to_owned(),
    }];
    lines.push(match (&read, is_known) {
        (Err(why), _) => why.to_string(),
        (Ok(None), _) => file.missing().what,
        (Ok(Some(token)), Some(false)) => format!(
            "the service does not know the token in {place} ({}): `styxy http enable` hands it over",
            token.masked()
        ),
        (Ok(Some(token)), _) => format!("the token is in {place} ({})", token.masked()),
    });
    lines.extend(obstacle);
    print(&folded(&lines.join("\n")))
}

pub(super) fn url() -> String {
    format!("http://127.0.0.1:{}", Port::HTTP)
}

/// Why the service cannot listen.
#[derive(Debug)]
pub(super) struct Obstacle {
    what: String,
    /// What to do about it, if anything is known.
    remedy: Option<String>,
    /// Whether the remedy lets the service listen.
    is_removed: bool,
}

impl Obstacle {
    fn new(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { what: what.into(), remedy: Some(remedy.into()), is_removed: true }
    }

    /// One that this user cannot remove.
    fn lasting(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { is_removed: false, ..Self::new(what, remedy) }
    }

    fn other(what: String) -> Self {
        Self { what, remedy: None, is_removed: false }
    }

    /// The same for a page, which has another remedy where the service cannot listen.
    pub(super) fn or(self, remedy: &str) -> Self {
        match self {
            Self { is_removed: true, .. } => self,
            Self { what, .. } => Self::lasting(what, remedy),
        }
    }
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        self.remedy.as_ref().map_or(Ok(()), |remedy| write!(f, "; {remedy}"))
    }
}

impl From<Obstacle> for CliError {
    fn from(Obstacle { what, remedy, .. }: Obstacle) -> Self {
        match remedy {
            Some(remedy) => refused_with(what, &remedy),
            None => refused(what),
        }
    }
}

impl Obstacle {
    /// What it is, and what to do before the service is started again by `start`.
    pub(super) fn before(self, start: &str) -> (String, String) {
        let remedy = match self.remedy {
            Some(remedy) if self.is_removed => format!("{remedy}, then {start}"),
            Some(remedy) => remedy,
            None => start.to_owned(),
        };
        (self.what, remedy)
    }
}

/// Why no client has a token to send, if that is so.
pub(super) fn no_token() -> Option<Unusable> {
    let file = TokenFile::find().ok()?;
    file.read().map_or_else(Some, |token| token.is_none().then(|| file.missing()))
}

/// The unit, if it can be used.
fn unit() -> Result<Unit, Obstacle> {
    let Some(unit) = Unit::ask(UNIT) else {
        return Err(Obstacle::lasting(
            "only a service that systemd starts listens on TCP, and no systemd user manager answers",
            "clients can use the Unix socket: see styxy.service(8)",
        ));
    };
    if unit.is("LoadState", "masked") {
        return Err(Obstacle::new(
            format!("{UNIT} is masked"),
            format!("`{}` unmasks it", unit.unmasking()),
        ));
    }
    if !unit.is("LoadState", "loaded") {
        return Err(Obstacle::new(
            format!("{UNIT} is not installed"),
            "run `styxy setup`, or install the package and run `systemctl --user daemon-reload`",
        ));
    }
    Ok(unit)
}

/// Waits until the service does not listen any more: it has the socket until it has been restarted.
fn until_closed() {
    let end = Instant::now() + RESTART;
    while is_open() && Instant::now() < end {
        thread::sleep(EVERY);
    }
}

/// Whether a service of this user listens on the port.
fn is_open() -> bool {
    let is_own = |user: &PortUser| {
        // systemd names a process so between fork(2) and execve(2), when it has the socket already.
        let is_it = |command: &str| ["styxy", "(styxy)"].contains(&command);
        let is_styxy = user.program.as_ref().is_some_and(|program| is_it(&program.command));
        is_styxy && user.uid == surroundings::user().uid()
    };
    users_of_port().iter().any(is_own)
}

fn users_of_port() -> Vec<PortUser> {
    listeners(PortRange::only(Port::HTTP), Protocol::Tcp).map(users).unwrap_or_default()
}

/// Why the service cannot listen on the port, or must not.
fn obstacle() -> Result<Option<Obstacle>, CliError> {
    match taken() {
        Some(taken) => Ok(Some(taken)),
        None => leased(),
    }
}

/// Who else listens on the port, or has reserved it.
pub(super) fn taken() -> Option<Obstacle> {
    let port = Port::HTTP;
    let is_own = |user: &PortUser| user.uid == surroundings::user().uid();
    let Some(user) = users_of_port().into_iter().next() else {
        // systemd could listen over a guard. Those of this user are of leases that this user's service knows.
        let bound = in_the_way(port).map(users).unwrap_or_default();
        let other = bound.into_iter().find(|user| user.is_bound() && !is_own(user))?;
        return Some(Obstacle::lasting(
            other.sentence(&other.describe()),
            format!(
                "only that user can release it: port {port} is one port for all users of this machine"
            ),
        ));
    };
    let program = user.describe();
    Some(if is_own(&user) {
        Obstacle::new(format!("{program} listens on port {port}"), "end it first")
    } else {
        Obstacle::lasting(
            format!(
                "{program} listens on port {port}, which is one port for all users of this machine"
            ),
            "a token that clients of yours have sent there is known to that user: `styxy token rotate` replaces it",
        )
    })
}

/// The lease that has the port.
fn leased() -> Result<Option<Obstacle>, CliError> {
    let answer = ask(&Call::Check { port: Port::HTTP, protocol: Protocol::Tcp })?;
    let remedy = || format!("`styxy release {}` releases it", Port::HTTP);
    let is_leased = answer["reason"] == "leased";
    Ok(is_leased.then(|| Obstacle::new(text(&answer, "message"), remedy())))
}
