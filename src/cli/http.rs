use std::{
    thread,
    time::{Duration, Instant},
};

use clap::{Args, Subcommand};
use serde_json::json;

use super::{
    CliError, Output, block_on,
    port_users::{PortUser, users},
    print, print_json, refused, short,
    table::folded,
    token::{TokenFile, hand_over},
};
use crate::{
    client::{
        self, Call,
        unit::{Unit, control},
    },
    kernel::listeners::listeners,
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
    let listens = unit().map_err(refused)?.is("ActiveState", "active");
    if !listens {
        until_closed();
        if let Some(taken) = taken() {
            return Err(refused(taken));
        }
    }
    let file = TokenFile::find()?;
    let token = file.hand_over(hand_over)?;
    // To start it once more would restart the service, and end the sessions of pages.
    let how: &[&str] = if listens { &["enable", UNIT] } else { &["enable", "--now", UNIT] };
    if let Err(why) = control(&[&["--quiet"], how].concat()) {
        // At the next login it would fail again.
        let _ = control(&["--quiet", "disable", UNIT]);
        return Err(refused(taken().unwrap_or(why)));
    }
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

/// Has the service listen, until the end of the session if it is not enabled; whether it did not listen before.
pub(super) fn listening() -> Result<bool, CliError> {
    if unit().map_err(refused)?.is("ActiveState", "active") {
        return Ok(false);
    }
    until_closed();
    if let Some(taken) = taken() {
        return Err(refused(taken));
    }
    control(&["--quiet", "start", UNIT]).map_err(|why| refused(taken().unwrap_or(why)))?;
    Ok(true)
}

fn disable(output: Output) -> Result<(), CliError> {
    unit().map_err(refused)?;
    control(&["--quiet", "disable", "--now", UNIT]).map_err(refused)?;
    until_closed();
    if output.json {
        return print_json(&json!({"enabled": false, "url": url()}));
    }
    print(&format!("the service does not listen on {} any more", url()))
}

fn status(output: Output) -> Result<(), CliError> {
    let unit = unit();
    let has = |property, value| unit.as_ref().is_ok_and(|unit| unit.is(property, value));
    let (listens, is_enabled) = (has("ActiveState", "active"), has("UnitFileState", "enabled"));
    let obstacle = match unit {
        Ok(_) => taken().filter(|_| !listens),
        Err(why) => Some(why),
    };
    let file = TokenFile::find()?;
    let read = file.read();
    let token = read.as_ref().ok().and_then(Option::as_ref);
    let running = block_on(client::call_running(&Call::Status))??.ok();
    // Without a running service it is not known which token the next one will accept.
    let is_known = running.map(|(status, _)| {
        token.is_some_and(|token| status["token"] == token.hash().fingerprint())
    });
    if output.json {
        return print_json(&json!({
            "enabled": is_enabled,
            "listening": listens,
            "url": url(),
            "file": token.map(|_| file.path()),
            "token": token.map(Token::masked),
            "token_is_known": is_known,
            "obstacle": obstacle.or(read.err()),
        }));
    }
    let place = short(&file.path().to_string_lossy());
    let mut lines = vec![match (listens, is_enabled) {
        (true, true) => format!("the service listens on {}", url()),
        (true, false) => format!("the service listens on {} until the end of this session", url()),
        (false, true) => format!("{UNIT} is enabled, but does not listen on {}", url()),
        (false, false) if obstacle.is_some() => "HTTP over TCP is off".to_owned(),
        (false, false) => "HTTP over TCP is off: `styxy http enable` switches it on".to_owned(),
    }];
    lines.push(match (&read, is_known) {
        (Err(why), _) => why.clone(),
        (Ok(None), _) => format!("there is no token in {place}"),
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

/// The unit, if it can be used.
fn unit() -> Result<Unit, String> {
    let Some(unit) = Unit::ask(UNIT) else {
        return Err(
            "only a service of systemd listens on TCP, and no systemd user manager answers; clients can use the Unix \
             socket: see styxy.service(8)"
                .to_owned(),
        );
    };
    if unit.is("LoadState", "masked") {
        return Err(format!("{UNIT} is masked: `{}`", unit.unmasking()));
    }
    if !unit.is("LoadState", "loaded") {
        return Err(format!(
            "{UNIT} is not installed: install the package, then run `systemctl --user daemon-reload`"
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

/// Who else listens on the port.
pub(super) fn taken() -> Option<String> {
    let port = Port::HTTP;
    let user = users_of_port().into_iter().next()?;
    let program = user.describe();
    Some(if user.uid == surroundings::user().uid() {
        format!("{program} listens on port {port}: end it first")
    } else {
        format!(
            "{program} listens on port {port}, which is one port for all users of this machine. A token that clients of \
             yours have sent there is known to that user: `styxy token rotate` replaces it"
        )
    })
}
