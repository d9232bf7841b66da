//! How a command reaches the service: the session bus, else the HTTP socket, else a private service
//! that it starts itself, so that it also works in a container or a CI job without systemd.
//!
//! The next transport is tried only if no service is there. A call that was delivered is not sent again, except
//! for a request for a port whose answer was lost: it carries the id of its lease, so it is granted once. If a
//! service that should be there cannot be started, no other one is started beside it.
//!
//! - [`bus`] and [`http`]: the two transports
//! - `answer`: validating answers
//! - [`trouble`]: what an error of the bus means
//! - [`unit`]: the state of the unit, from the service manager
//! - [`private`]: starting a service
//! - [`skew`]: a service that is older than the command
//! - `sight`: passing on configuration that the service cannot see
//! - [`v1`]: the daemon of styxy 1.x, for `styxy import`
//! - [`waiting`]: how long a command waits, and what it says meanwhile
//! - [`watch`]: following changes

mod answer;
mod bus;
mod http;
mod private;
mod sight;
mod skew;
mod trouble;
pub mod unit;
pub mod v1;
mod waiting;
pub mod watch;

use std::{fmt, os::fd::OwnedFd, time::Duration};

use serde_json::Value as Json;

use self::waiting::Waiting;
pub use self::{
    sight::show,
    waiting::{Patience, Watch, begin_again, set_patience, tell_by},
};
use crate::{
    config::Seen,
    error::ErrorKind,
    lease::{LeaseId, Transport},
    port::{Port, Protocol},
    service_type::Hold,
    surroundings::user,
    token::TokenHash,
    value::Fields,
};

/// A request of a command.
#[derive(Clone, Debug)]
pub enum Call {
    /// Grant a port.
    Allocate {
        /// The service type.
        service_type: String,
        /// The options, by their names.
        options: Fields,
    },
    /// Release this lease.
    Release {
        /// Its id.
        lease_id: String,
    },
    /// Release every lease that matches.
    ReleaseMatching {
        /// Which of them.
        filter: Fields,
    },
    /// Restart its time limit.
    Renew {
        /// The lease.
        lease_id: LeaseId,
        /// The new limit in seconds; `None` keeps the current one.
        ttl: Option<u64>,
    },
    /// Set who keeps its port bound.
    SetHold {
        /// The lease.
        lease_id: LeaseId,
        /// [`Hold::Client`] or [`Hold::Guard`].
        hold: Hold,
    },
    /// Forget remembered ports.
    Forget {
        /// Which of them.
        filter: Fields,
    },
    /// The remembered ports.
    Remembered {
        /// Which of them.
        filter: Fields,
    },
    /// The live leases.
    List {
        /// Which of them.
        filter: Fields,
    },
    /// The lease that a service of a project has.
    Lookup {
        /// The service.
        service: Fields,
    },
    /// The registered instances.
    Instances,
    /// Release leases without an owner and without a listener.
    CleanUp {
        /// Only leases that are older than this many seconds.
        older_than: u64,
        /// Only report them.
        dry_run: bool,
    },
    /// The ports that the next requests would get.
    Suggest {
        /// The service type.
        service_type: String,
        /// The options, by their names.
        options: Fields,
    },
    /// List the service types and their usage.
    Types,
    /// Query the status of the service.
    Status,
    /// Make room for the program that is currently installed.
    Restart,
    /// The configuration in force.
    Configuration {
        /// With the file that each value comes from.
        origins: bool,
    },
    /// Reload the configuration.
    Reload,
    /// Show the service the configuration that this command sees, and reload it.
    TakeConfiguration {
        /// What it sees.
        seen: Seen,
    },
    /// Set the token of the HTTP door over TCP.
    SetToken {
        /// Its SHA-256.
        sha256: TokenHash,
    },
    /// Make a secret that opens the page in a browser.
    OpenPage {
        /// Whether the socket for TCP was started for pages only.
        temporary: bool,
    },
    /// Enable or disable ranges for unknown types.
    SetAutoAllocation {
        /// Whether they are enabled.
        enabled: bool,
    },
    /// Remove an automatic type.
    UndoAutoAllocation {
        /// The type.
        service_type: String,
        /// Release its leases first.
        force: bool,
    },
    /// The earlier versions of the service's drop-in.
    Backups,
    /// Restore one of them.
    Restore {
        /// Its number.
        version: u32,
        /// Release the leases of types that the version does not have.
        force: bool,
    },
    /// Whether a port is available.
    Check {
        /// The port.
        port: Port,
        /// For this protocol.
        protocol: Protocol,
    },
}

impl Call {
    /// Whether the call is idempotent: it changes nothing, or a second call changes nothing more. A request for
    /// a port carries the id of its lease, so the next service knows whether it was granted.
    fn may_be_repeated(&self) -> bool {
        match self {
            Self::Allocate { .. }
            | Self::Renew { .. }
            | Self::SetHold { .. }
            | Self::List { .. }
            | Self::Lookup { .. }
            | Self::Remembered { .. }
            | Self::Instances
            | Self::Suggest { .. }
            | Self::Types
            | Self::Status
            | Self::SetToken { .. }
            | Self::OpenPage { .. }
            | Self::Configuration { .. }
            | Self::Backups
            | Self::Check { .. } => true,
            Self::CleanUp { dry_run, .. } => *dry_run,
            Self::Release { .. }
            | Self::ReleaseMatching { .. }
            | Self::Forget { .. }
            | Self::Restart
            | Self::Reload
            | Self::TakeConfiguration { .. }
            | Self::SetAutoAllocation { .. }
            | Self::UndoAutoAllocation { .. }
            | Self::Restore { .. } => false,
        }
    }
}

/// Why there is no answer.
#[derive(Debug)]
pub enum Failure {
    /// The service refused the call.
    Refused {
        /// The kind, if this command knows it.
        kind: Option<ErrorKind>,
        /// What is wrong and what to do.
        message: String,
        /// What to do, best first.
        suggestions: Vec<String>,
    },
    /// No service can be reached.
    Unreachable(String),
    /// The service or the connection ended before the answer; it is unknown whether the call was carried out.
    BrokenOff(String),
}

impl Failure {
    /// Whether the service refused for this reason.
    pub fn is(&self, wanted: ErrorKind) -> bool {
        matches!(self, Self::Refused { kind: Some(kind), .. } if *kind == wanted)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused { message, .. }
            | Self::Unreachable(message)
            | Self::BrokenOff(message) => f.write_str(message),
        }
    }
}

/// Why a call over one transport got no answer.
enum CallError {
    /// Nobody is there; the call was not delivered.
    Unavailable(String),
    /// The service that is installed cannot be started; the call was not delivered.
    CannotStart(String),
    /// The call failed, or it is unknown whether it was carried out; no other transport may be tried.
    Failed(Failure),
}

impl From<Failure> for CallError {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// How often a call is retried when the service ends just before it.
const TRIES: usize = 5;
/// The first pause between such retries.
const PAUSE: Duration = Duration::from_millis(50);

/// How many remembered ports one answer may have, so that it fits into a message of the bus whatever their texts are.
const PART: usize = 10_000;

/// Calls the service over whichever transport reaches it, and starts one if there is none. Calls that depend on
/// the configuration are answered according to what this command sees of it.
pub async fn call(call: &Call) -> Result<Json, Failure> {
    if let Call::Remembered { filter } = call {
        let ask = async |filter| deliver(&Call::Remembered { filter }).await;
        return in_parts(filter, PART, ask).await;
    }
    let call = &named(call);
    let Some(saying) = sight::saying(call) else { return deliver(call).await };
    match deliver(&saying).await {
        // Nothing was done, so the call can be repeated.
        Err(failure) if failure.is(ErrorKind::ConfigurationDiffers) => {
            sight::show().await?;
            deliver(call).await
        }
        answer => answer,
    }
}

/// All remembered ports that match, asked for part by part.
async fn in_parts(
    filter: &Fields,
    most: usize,
    ask: impl AsyncFn(Fields) -> Result<Json, Failure>,
) -> Result<Json, Failure> {
    let mut all = Vec::new();
    let mut before = None;
    loop {
        let mut filter = filter.clone();
        filter.put("limit", most as u64);
        filter.put_some("before", before);
        let Json::Array(part) = ask(filter).await? else { break };
        before = part.last().and_then(|known| known["seq"].as_u64());
        let is_last = part.len() < most || before.is_none();
        all.extend(part);
        if is_last {
            break;
        }
    }
    Ok(all.into())
}

/// The call; a request for a port gets the id of its lease.
fn named(call: &Call) -> Call {
    let mut call = call.clone();
    if let Call::Allocate { options, .. } = &mut call
        && options.get("lease_id").is_none()
    {
        options.put("lease_id", LeaseId::random().to_string());
    }
    call
}

async fn deliver(call: &Call) -> Result<Json, Failure> {
    let waiting = Waiting::default();
    waiting.patiently(repeated(call, || ask_or_start(call, &waiting))).await
}

/// Calls, and repeats an idempotent call if the connection broke.
async fn repeated<T>(call: &Call, ask: impl AsyncFn() -> Result<T, Failure>) -> Result<T, Failure> {
    let mut pause = PAUSE;
    for _ in 1..TRIES {
        match ask().await {
            // A service that is shutting down may still accept connections.
            Err(Failure::BrokenOff(_)) if call.may_be_repeated() => {
                tokio::time::sleep(pause).await;
                pause *= 2;
            }
            answer => return answer,
        }
    }
    ask().await
}

async fn ask_or_start(call: &Call, waiting: &Waiting) -> Result<Json, Failure> {
    let mut absent = match ask_running(call, waiting).await? {
        Ok((answer, _)) => return Ok(answer),
        Err(why) => why,
    };
    waiting.on("a service of this command's own to start");
    for _ in 0..TRIES {
        private::start().await.map_err(|why| {
            // The obstacle may say what to do.
            let why = user().obstacle().unwrap_or(why);
            Failure::Unreachable(format!(
                "no styxy service can be reached: {absent}; and none can be started: {why}"
            ))
        })?;
        match http::call(call, waiting).await {
            Ok(answer) => return Ok(answer),
            Err(CallError::Failed(failure)) => return Err(failure),
            // Another service was about to take over from the previous one.
            Err(CallError::Unavailable(why) | CallError::CannotStart(why)) => absent = why,
        }
    }
    Err(Failure::Unreachable(format!(
        "the service that was started for this command cannot be reached: {absent}"
    )))
}

/// Asks for a port and its bound socket, which only the bus can hand over; `None` where the bus leads to no
/// service.
pub async fn call_for_socket(
    service_type: &str,
    options: &Fields,
) -> Result<Option<(Json, OwnedFd)>, Failure> {
    let mut saying = options.clone();
    saying.put("config_seen", sight::fingerprint());
    match ask_for_socket(service_type, &saying).await {
        Err(failure) if failure.is(ErrorKind::ConfigurationDiffers) => {
            sight::show().await?;
            ask_for_socket(service_type, options).await
        }
        answer => answer,
    }
}

async fn ask_for_socket(
    service_type: &str,
    options: &Fields,
) -> Result<Option<(Json, OwnedFd)>, Failure> {
    let waiting = Waiting::default();
    let ask = async {
        match bus::call_for_socket(service_type, options, &waiting).await {
            Ok(answer) => Ok(Some(answer)),
            Err(CallError::Failed(failure)) => Err(failure),
            Err(CallError::Unavailable(_) | CallError::CannotStart(_)) => Ok(None),
        }
    };
    waiting.patiently(ask).await
}

/// Calls a service that is running, or that the bus or systemd starts; else returns why there is none.
pub async fn call_running(call: &Call) -> Result<Result<(Json, Transport), String>, Failure> {
    let waiting = Waiting::default();
    let ask = || ask_running(call, &waiting);
    let answer = waiting.patiently(repeated(call, ask)).await?;
    if matches!(call, Call::Status)
        && let Ok((status, _)) = &answer
        && status["config_seen"].as_str().is_some_and(|seen| seen != sight::fingerprint())
    {
        // The status must also be true of the configuration that this command sees.
        let shown = sight::show().await?;
        let mut answer = waiting.patiently(ask_running(call, &waiting)).await?;
        if let (Ok((status, _)), Some(elsewhere)) = (&mut answer, shown["elsewhere"].as_str()) {
            status["config_elsewhere"] = elsewhere.into();
        }
        return Ok(answer);
    }
    Ok(answer)
}

async fn ask_running(
    call: &Call,
    waiting: &Waiting,
) -> Result<Result<(Json, Transport), String>, Failure> {
    let on_bus = match bus::call(call, waiting).await {
        Ok(answer) => return Ok(Ok((answer, Transport::Dbus))),
        Err(CallError::Failed(failure)) => return Err(failure),
        Err(CallError::CannotStart(why)) => {
            // A service that was started before the unit could be started may still be running.
            return match http::call_running(call, waiting).await {
                Ok(answer) => Ok(Ok((answer, Transport::Http))),
                Err(CallError::Failed(failure)) => Err(failure),
                Err(CallError::Unavailable(_) | CallError::CannotStart(_)) => {
                    Err(Failure::Unreachable(why))
                }
            };
        }
        Err(CallError::Unavailable(why)) => why,
    };
    match http::call(call, waiting).await {
        Ok(answer) => Ok(Ok((answer, Transport::Http))),
        Err(CallError::Failed(failure)) => Err(failure),
        Err(CallError::CannotStart(why)) => Err(Failure::Unreachable(why)),
        Err(CallError::Unavailable(why)) => Ok(Err(format!("{on_bus}; {why}"))),
    }
}

/// The session bus, or why it cannot be used.
pub async fn session_bus() -> Result<zbus::Connection, String> {
    bus::connect().await.map_err(|miss| match miss {
        CallError::Unavailable(why) | CallError::CannotStart(why) => why,
        CallError::Failed(failure) => failure.to_string(),
    })
}

/// Queries a running service, starts none, and waits no longer than this; does not reset the service's idle
/// time.
pub async fn glance(call: &Call, patience: Duration) -> Option<Json> {
    tokio::time::timeout(patience, http::observe(call)).await.ok()?.ok()
}

/// Calls a running service, and starts none; `None` if none is running, or if it does not answer this call.
pub async fn call_live(call: &Call) -> Option<Json> {
    let waiting = Waiting::default();
    let ask = async {
        Ok(match bus::Service::running().await {
            Ok(Some(service)) => bus::call_to(&service, call).await.ok(),
            Ok(None) => None,
            // Where systemd listens for the service, connecting starts it.
            Err(_) if user().has_manager() => None,
            Err(_) => http::call(call, &waiting).await.ok(),
        })
    };
    waiting.patiently(ask).await.ok().flatten()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::value::Value;

    #[tokio::test]
    async fn what_is_remembered_is_read_to_its_end() {
        let ages = [9, 7, 7, 7, 2, 1];
        let ask = async |filter: Fields| {
            let [limit, before] = ["limit", "before"].map(|key| match filter.get(key) {
                Some(Value::U64(number)) => *number,
                _ => u64::MAX,
            });
            let mut part: Vec<_> = ages.into_iter().filter(|age| *age < before).collect();
            let limit = usize::try_from(limit).unwrap();
            let last = part.get(limit - 1).copied().unwrap_or(0);
            part.retain(|age| *age >= last);
            Ok(part.iter().map(|age| json!({"seq": age})).collect())
        };
        let all: Json = ages.iter().map(|age| json!({"seq": age})).collect();
        for most in 1..=7 {
            assert_eq!(in_parts(&Fields::default(), most, &ask).await.unwrap(), all, "{most}");
        }
    }
}
