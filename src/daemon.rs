//! The life of the service: sockets from systemd, readiness, watchdog, signals, reload, idle exit.
//!
//! - `home`: the service's folders, and the sockets that it makes itself
//! - `bus`: the door on the session bus
//! - `watchdog`: the signs of life

mod bus;
mod home;
mod watchdog;

use std::{
    env, fmt,
    io::{self, Write},
    os::{fd::OwnedFd, unix::net::UnixListener},
    sync::Arc,
    time::Duration,
};

use listenfd::ListenFd;
use nix::libc::{AF_INET, SOCK_STREAM};
use sd_notify::NotifyState;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, watch},
};

use self::{
    bus::Opened,
    home::{Home, Sockets},
};
use crate::{
    audit,
    broker::{Broker, Places},
    dbus::{self, Door},
    http,
    kernel::{guard, manager},
    lease::LeaseId,
    word::counted,
};

/// What the command line says of the daemon.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Instead of the configured time; zero for never.
    pub idle_exit: Option<Duration>,
}

/// How long calls that are under way may take when the service ends.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the socket waits for the session bus at the start.
const SOON: Duration = Duration::from_millis(250);

/// Why the service could not run, for people.
#[derive(Debug)]
pub struct Failure(String);

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<T: std::error::Error> From<T> for Failure {
    fn from(error: T) -> Self {
        Self(error.to_string())
    }
}

/// How the service came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// There is nothing left to do.
    Done,
    /// It was idle, but a lease was granted while it ended: its guard and its owner need a service.
    Again,
}

/// Runs the service until it is told to end or is idle. Must be called before any thread is started:
/// the variables of systemd's socket protocol are taken out of the environment.
pub fn run(options: &Options) -> Result<End, Failure> {
    let inherited = Inherited::from_systemd()?;
    audit::sink::log_there();
    guard::make_room();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serve(options, inherited))
}

async fn serve(options: &Options, inherited: Inherited) -> Result<End, Failure> {
    // First of all: a signal that comes while the service starts must not kill it.
    let signals = Signals::new()?;
    let Inherited { listener, guards } = inherited;
    let home = Home::find()?;
    let broker = Broker::start(Places {
        state: home.state.clone(),
        config: home.config.clone(),
        lock: None,
        guards,
    })?;
    let (deadlines, endings) = (Arc::clone(&broker), Arc::clone(&broker));
    tokio::spawn(async move { deadlines.run_deadlines().await });
    tokio::spawn(async move { endings.run_endings().await });
    let is_activated = listener.is_some();
    let mut sockets = Sockets::open(listener, &home)?;
    let (stop, stopping) = watch::channel(false);
    let mut life =
        Life { broker: Arc::clone(&broker), door: None, opening: bus::open(&broker), signals };
    // A bus that is in order is there by then, and what comes over it finds a service that is ready.
    let early = tokio::time::timeout(SOON, life.first_of_the_bus()).await.unwrap_or(Ok(None));
    if !matches!(early, Ok(None)) {
        sockets.remove();
        return early.map(|_| End::Done);
    }

    manager::tell(&[NotifyState::Ready, NotifyState::Status(&summary(&broker))]);
    // What waits on the socket is taken when the manager counts the service as started: a very short
    // one could be over before.
    let http: Vec<_> = sockets
        .take()
        .map(|listener| tokio::spawn(http::serve(listener, Arc::clone(&broker), stopping.clone())))
        .collect();
    if !is_activated && let Some(path) = sockets.own.first() {
        // Whoever started the service waits for this line, and may be gone before a second one.
        let _ = writeln!(io::stdout(), "styxy: listening on {}", path.display());
    }
    tokio::spawn(watchdog::run(Arc::clone(&broker), home.beside_the_state()));
    tokio::spawn(keep_status(Arc::clone(&broker)));
    let cause = life.until_the_end(options.idle_exit, is_activated).await;
    if cause.is_err() {
        sockets.remove();
    }
    let is_idle = cause? == Cause::Idle;

    manager::tell(&[NotifyState::Stopping, NotifyState::Status("Ending")]);
    // The manager must know before the name is free, or it holds the service for running while the
    // bus asks it for a new one.
    manager::settled().await;
    stop.send_replace(true);
    for http in http {
        let _ = http.await;
    }
    sockets.remove();
    if let Some(door) = life.door {
        door.close(PATIENCE).await;
    }
    let _ = tokio::time::timeout(PATIENCE, broker.activity().settled()).await;
    broker.sync_now().await;
    if let Some((seq, mut status)) = broker.audit() {
        // What is not confirmed by then is looked after by the next service.
        let patience = Duration::from_secs(2);
        let _ = tokio::time::timeout(patience, status.wait_for(|s| s.done >= seq)).await;
    }
    if is_idle && is_activated && broker.lease_count() > 0 {
        broker.store_guards();
        return Ok(End::Again);
    }
    Ok(End::Done)
}

/// The signals that the service takes.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }
}

/// Why the service ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    /// It was told to.
    Told,
    /// There is nothing left to do.
    Idle,
    /// The session bus is gone, and with it the session.
    NoSession,
}

/// What the service waits for between its start and its end.
struct Life {
    broker: Arc<Broker>,
    door: Option<Door>,
    opening: mpsc::UnboundedReceiver<Opened>,
    signals: Signals,
}

impl Life {
    /// Waits until it is known whether there is a bus, or for a signal to end.
    async fn first_of_the_bus(&mut self) -> Result<Option<Cause>, Failure> {
        tokio::select! {
            _ = self.signals.terminate.recv() => Ok(Some(Cause::Told)),
            _ = self.signals.interrupt.recv() => Ok(Some(Cause::Told)),
            Some(opened) = self.opening.recv() => self.opened(opened).map(|()| None),
        }
    }

    /// Waits for a reason to end.
    async fn until_the_end(
        &mut self,
        idle: Option<Duration>,
        is_of_session: bool,
    ) -> Result<Cause, Failure> {
        loop {
            tokio::select! {
                _ = self.signals.terminate.recv() => return Ok(Cause::Told),
                _ = self.signals.interrupt.recv() => return Ok(Cause::Told),
                Some(opened) = self.opening.recv() => self.opened(opened)?,
                () = closed(self.door.as_ref()) => {
                    if is_of_session {
                        return Ok(Cause::NoSession);
                    }
                    self.door.take().into_iter().for_each(Door::lost);
                    self.opening = bus::open(&self.broker);
                }
                () = quiet(&self.broker, idle) => return Ok(Cause::Idle),
                // In the background: it may wait for a file, and signals don't.
                _ = self.signals.hang_up.recv() => {
                    tokio::spawn(reload(Arc::clone(&self.broker)));
                }
            }
        }
    }

    fn opened(&mut self, opened: Opened) -> Result<(), Failure> {
        match opened {
            Opened::Door(door) => self.door = Some(door),
            Opened::NoBus => {}
            Opened::NameTaken => {
                return Err(Failure(format!(
                    "another process has the name {} on the session bus: is a styxy service running already?",
                    dbus::NAME
                )));
            }
        }
        Ok(())
    }
}

async fn reload(broker: Arc<Broker>) {
    match broker.reload(None).await {
        Ok(problems) => {
            for problem in problems {
                tracing::warn!("{problem}");
            }
        }
        Err(error) => tracing::warn!("the configuration was not reloaded: {error}"),
    }
}

/// Waits until the session bus is gone.
async fn closed(door: Option<&Door>) {
    match door {
        Some(door) => door.closed().await,
        None => std::future::pending().await,
    }
}

/// Waits until nothing has been going on for the idle time, and the audit has nothing on its way.
async fn quiet(broker: &Broker, idle: Option<Duration>) {
    loop {
        broker.activity().idle(|| idle.unwrap_or_else(|| broker.idle_exit())).await;
        match broker.audit() {
            Some((seq, mut status)) if status.borrow().done < seq => {
                let _ = status.wait_for(|status| status.done >= seq).await;
            }
            _ => return,
        }
    }
}

/// What systemd has passed, by its names (`sd_listen_fds(3)`).
#[derive(Default)]
struct Inherited {
    /// The socket of `styxy.socket`.
    listener: Option<UnixListener>,
    /// The guards of a service before this one.
    guards: Vec<(LeaseId, OwnedFd)>,
}

impl Inherited {
    fn from_systemd() -> Result<Self, Failure> {
        // The crate takes the variables away and knows nothing of names, so they are read first.
        let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut descriptors = ListenFd::from_env();
        let mut inherited = Self::default();
        for (index, name) in names.split(':').enumerate().take(descriptors.len()) {
            if name == "http" {
                inherited.listener = descriptors.take_unix_listener(index)?;
            } else if let Some(lease_id) = guard::lease_of(name) {
                // AF_INET lets AF_INET6 pass, too.
                let guard = descriptors.take_custom(index, AF_INET, SOCK_STREAM, "guard");
                let guard = guard.ok().flatten();
                inherited.guards.extend(guard.map(|guard| (lease_id, guard)));
            }
        }
        if inherited.listener.is_none() && descriptors.len() > inherited.guards.len() {
            return Err(Failure(format!(
                "systemd passed descriptors named {names:?}, but none is named \"http\": \
                 styxy.socket needs FileDescriptorName=http"
            )));
        }
        Ok(inherited)
    }
}

/// Keeps the line of `systemctl --user status` up to date, at most once a second.
async fn keep_status(broker: Arc<Broker>) {
    let mut changed = broker.activity().watch();
    let mut told = String::new();
    while changed.changed().await.is_ok() {
        tokio::time::sleep(Duration::from_secs(1)).await;
        changed.borrow_and_update();
        let summary = summary(&broker);
        if summary != told {
            manager::tell(&[NotifyState::Status(&summary)]);
            told = summary;
        }
    }
}

fn summary(broker: &Broker) -> String {
    let leases = counted(broker.lease_count().into(), "lease");
    let bus = if broker.owners().bus().is_some() { "" } else { ", without a session bus" };
    let problems = broker.problem_count();
    let problems = match problems as u64 {
        0 => String::new(),
        problems => format!(", {}", counted(problems, "problem")),
    };
    format!("{leases}{bus}{problems}")
}
