//! The life of the service: sockets from systemd, readiness, watchdog, signals, reload, idle exit.
//!
//! - [`log`]: what a private service writes
//! - `home`: the service's folders, and the sockets that it makes itself
//! - `confined`: what the service may do, as Landlock enforces it
//! - `bus`: the door on the session bus
//! - `watchdog`: keep-alive messages to the manager

mod bus;
mod confined;
mod home;
mod log;
mod watchdog;

use std::{
    env, fmt,
    io::{self, Write},
    net::TcpListener as PassedTcpListener,
    os::unix::net::UnixListener as PassedListener,
    path::PathBuf,
    pin::pin,
    sync::Arc,
    time::Duration,
};

use listenfd::ListenFd;
use nix::libc::{AF_INET, AF_UNIX, SOCK_SEQPACKET, SOCK_STREAM};
use sd_notify::NotifyState;
use tokio::{
    net::UnixListener,
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, watch},
    task::JoinHandle,
};

use self::{
    bus::Opened,
    home::{Home, Sockets},
};
use crate::{
    audit,
    broker::{Broker, Places},
    dbus::{self, Door},
    handover::{
        Claim, Rank, Refused,
        giver::{self, Successor},
    },
    http,
    kernel::{
        guard::{self, Kept},
        manager,
    },
    port::Port,
    portserver,
    state::store::OpenError,
    surroundings::Seen,
    word::counted,
};

/// The options of the daemon.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Instead of the configured time; zero for never.
    pub idle_exit: Option<Duration>,
    /// Whether a command started it, which reads stdout until end of file.
    pub log: bool,
    /// What the command that started it sees.
    pub as_seen: Option<Seen>,
}

/// The start of the line that reports that the service listens.
pub const READY: &str = "styxy: listening on";

/// The start of the line that tells a waiting command that another service holds the state.
pub const TAKEN: &str = "taken: ";

/// The exit status of a service that does not run because another one has the state: `EX_UNAVAILABLE` of
/// `sysexits.h`. The unit is not restarted then (`RestartPreventExitStatus=`).
pub const EXIT_TAKEN: u8 = 69;

/// The exit status that asks for an immediate restart: `EX_TEMPFAIL`, and `RestartForceExitStatus=`.
pub const EXIT_AGAIN: u8 = 75;

/// The variable with which a service that is started by hand asks for no token over TCP.
const SKIP_AUTH: &str = "STYXY_SKIP_AUTH";

/// How long to wait at the end for calls in progress.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the manager may take to notice that the session bus has ended.
const BUS_ENDS: Duration = Duration::from_secs(1);
/// How long the socket waits for the session bus at the start.
const SOON: Duration = Duration::from_millis(250);

/// Why the service could not run, for people.
#[derive(Debug)]
pub struct Failure {
    message: String,
    /// Whether another service holds the state: retrying is useless as long as it does.
    pub is_taken: bool,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Failure {
    fn other(message: String) -> Self {
        Self { message, is_taken: false }
    }
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Self {
        Self { message: refused.to_string(), is_taken: true }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::other(error.to_string())
    }
}

impl From<OpenError> for Failure {
    fn from(error: OpenError) -> Self {
        Self::other(error.to_string())
    }
}

/// How the service ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// There is nothing left to do.
    Done,
    /// It must be restarted: it made room for a newer program, a lease was granted while it ended, or the session bus went
    /// away while leases are live.
    Again,
}

/// Runs the service until it is stopped or idle. Must be called before any thread is started:
/// the variables of systemd's socket protocol are taken out of the environment.
pub fn run(options: &Options) -> Result<End, Failure> {
    let inherited = Inherited::from_systemd()?;
    audit::sink::log_there();
    guard::make_room();
    let home = Home::find()?;
    if options.as_seen.is_some_and(|seen| Seen::of(&home.state) != Some(seen)) {
        let why = "the command that wants this service is in other namespaces";
        return Err(Failure::other(why.to_owned()));
    }
    // Guards that another service hands over come before the first thread is started, too.
    let claim = home.claim()?;
    let folder_of_log = (options.log && claim.lock.is_some()).then_some(&*home.state);
    if options.log {
        // Until now stderr went to the waiting command.
        log::begin(folder_of_log)?;
    }
    let log = folder_of_log.map(audit::past::log::path);
    // Before there is a second thread, which would not be limited.
    confined::enter(&home, claim.lock.is_some());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serve(options, inherited, &home, claim, log))
}

async fn serve(
    options: &Options,
    inherited: Inherited,
    home: &Home,
    claim: Claim,
    log: Option<PathBuf>,
) -> Result<End, Failure> {
    // First of all: a signal during the start must not kill the service.
    let signals = Signals::new()?;
    let Inherited { listener, further, guards } = inherited;
    let (broker, events) = Broker::start(Places {
        state: home.state.clone(),
        config: home.config.clone(),
        log,
        is_unit: home.rank == Rank::Unit,
        claim,
        guards,
    })?;
    let run = Arc::clone(&broker);
    tokio::spawn(async move { run.run(events).await });
    broker.listens(further.tcp_ports()?, home.for_pages.clone());
    let is_activated = listener.is_some();
    let mut sockets = Sockets::open(listener, home)?;
    let (stop, stopping) = watch::channel(false);
    let mut life = Life {
        broker: Arc::clone(&broker),
        door: None,
        opening: bus::open(&broker),
        signals,
        handover: sockets.handover.take(),
        successor: None,
    };
    // A working bus has answered by then, so calls over it find a service that is ready.
    if let Err(failure) =
        tokio::time::timeout(SOON, life.first_of_the_bus()).await.unwrap_or(Ok(()))
    {
        sockets.remove();
        return Err(failure);
    }

    // From here on every change is seen, also one before the status line is kept up to date.
    let changed = broker.idle_tracker().watch();
    let told = summary(&broker);
    manager::tell(&[NotifyState::Ready, NotifyState::Status(&told)]);
    // Connections are accepted once the manager counts the service as started: otherwise a very short run could
    // end before.
    let mut doors: Vec<_> = sockets
        .take()
        .map(|(listener, backlog)| {
            tokio::spawn(http::serve(listener, backlog, Arc::clone(&broker), stopping.clone()))
        })
        .collect();
    doors.extend(further.serve(&broker, &stopping)?);
    if !is_activated && let Some(path) = sockets.first_own() {
        // Whoever started the service waits for this line, and may be gone before a second one.
        let _ = writeln!(io::stdout(), "{READY} {}", path.display());
    }
    if options.log {
        log::close_stdout()?;
    }
    tokio::spawn(watchdog::run(Arc::clone(&broker), home.beside_the_state()));
    home.mark(broker.is_needed());
    tokio::spawn(keep_status(Arc::clone(&broker), home.clone(), changed, told));
    let cause = life.until_the_end(options.idle_exit, is_activated).await;
    if cause.is_err() {
        sockets.remove();
    }
    let cause = cause?;

    manager::tell(&[NotifyState::Stopping, NotifyState::Status("Ending")]);
    // The manager must be told before the name is released, or it takes the service for running when the
    // bus asks it for a new one.
    manager::settled().await;
    // A deleted socket gets no new connections; those in its queue are answered.
    sockets.remove();
    stop.send_replace(true);
    broker.end_waiting();
    for door in doors {
        let _ = door.await;
    }
    broker.reading_ended().await;
    // It may just have been opened.
    let opened = life.opening.try_recv().ok().and_then(|opened| match opened {
        Opened::Door(door) => Some(door),
        Opened::NoBus | Opened::NameTaken => None,
    });
    if let Some(door) = life.door.or(opened) {
        door.close(PATIENCE).await;
    }
    let _ = tokio::time::timeout(PATIENCE, broker.idle_tracker().settled()).await;
    broker.sync_now().await;
    if let Some(successor) = life.successor {
        // The next service binds again or finds again what it does not get.
        if let Err(error) = broker.hand_over(&successor) {
            tracing::warn!("not all guards were handed over: {error}");
        }
        return Ok(End::Done);
    }
    if let Some((seq, mut status)) = broker.audit() {
        // The next service takes care of events that are not confirmed by then.
        let patience = Duration::from_secs(2);
        let _ = tokio::time::timeout(patience, status.wait_for(|s| s.done >= seq)).await;
    }
    home.mark(broker.is_needed());
    if is_activated {
        // Also those of the youngest leases: when the unit is restarted, the manager keeps what it has.
        broker.store_guards();
        manager::settled().await;
    }
    // Guards and owners need a service, and so does a socket that is to be stopped. One that is idle could not stop it.
    let needs_a_service = match cause {
        Cause::Idle => broker.is_needed(),
        Cause::BusGone | Cause::Replaced => broker.is_needed() || broker.listens_for_pages(),
        Cause::Signalled | Cause::TakenOver => false,
    };
    Ok(if needs_a_service && is_activated { End::Again } else { End::Done })
}

/// The signals that the service handles.
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
    /// SIGTERM or SIGINT.
    Signalled,
    /// There is nothing left to do.
    Idle,
    /// The session bus is gone: the session has ended, or the bus was restarted.
    BusGone,
    /// Another service takes over.
    TakenOver,
    /// Another program replaces it.
    Replaced,
}

/// What the service waits for between its start and its end.
struct Life {
    broker: Arc<Broker>,
    door: Option<Door>,
    opening: mpsc::UnboundedReceiver<Opened>,
    signals: Signals,
    handover: Option<UnixListener>,
    successor: Option<Successor>,
}

impl Life {
    /// Waits until it is known whether there is a bus. A signal waits, too: a service that ends before it was ready has
    /// failed, for systemd, and may have answered by then.
    async fn first_of_the_bus(&mut self) -> Result<(), Failure> {
        match self.opening.recv().await {
            Some(opened) => self.opened(opened),
            None => Ok(()),
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
                _ = self.signals.terminate.recv() => return Ok(Cause::Signalled),
                _ = self.signals.interrupt.recv() => return Ok(Cause::Signalled),
                Some(opened) = self.opening.recv() => self.opened(opened)?,
                () = closed(self.door.as_ref()) => {
                    if is_of_session {
                        // The manager must learn first that the bus has ended. If it hears of anything else before,
                        // it connects to the bus that it takes to be running, and is deaf for 90 s.
                        tokio::time::sleep(BUS_ENDS).await;
                        return Ok(Cause::BusGone);
                    }
                    self.door.take().into_iter().for_each(Door::lost);
                    self.broker.idle_tracker().note();
                    self.opening = bus::open(&self.broker);
                }
                successor = asked(self.handover.as_ref()) => {
                    self.successor = Some(successor);
                    return Ok(Cause::TakenOver);
                }
                () = quiet(&self.broker, idle) => return Ok(Cause::Idle),
                () = self.broker.idle_tracker().room_wanted() => return Ok(Cause::Replaced),
                // In the background: it may block on a file, and signals must not.
                _ = self.signals.hang_up.recv() => {
                    tokio::spawn(reload(Arc::clone(&self.broker)));
                }
            }
        }
    }

    fn opened(&mut self, opened: Opened) -> Result<(), Failure> {
        match opened {
            Opened::Door(door) => {
                self.door = Some(door);
                self.broker.idle_tracker().note();
            }
            Opened::NoBus => {}
            Opened::NameTaken => {
                return Err(Failure::other(format!(
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

/// Waits until another service asks to take over.
async fn asked(handover: Option<&UnixListener>) -> Successor {
    match handover {
        Some(handover) => giver::asked(handover).await,
        None => std::future::pending().await,
    }
}

/// Waits until the session bus is gone.
async fn closed(door: Option<&Door>) {
    match door {
        Some(door) => door.closed().await,
        None => std::future::pending().await,
    }
}

/// Waits until the service has been idle for the idle time and the audit has nothing pending.
async fn quiet(broker: &Broker, idle: Option<Duration>) {
    loop {
        broker.idle_tracker().idle(|| idle.unwrap_or_else(|| broker.idle_exit())).await;
        match broker.audit() {
            Some((seq, mut status)) if status.borrow().done < seq => {
                let _ = status.wait_for(|status| status.done >= seq).await;
            }
            _ => return,
        }
    }
}

/// The descriptors from systemd, by their names (`sd_listen_fds(3)`).
#[derive(Default)]
struct Inherited {
    /// The socket of `styxy.socket`.
    listener: Option<PassedListener>,
    /// Those that the user has enabled.
    further: Further,
    /// The guards of a service before this one.
    guards: Kept,
}

/// The sockets that are off by default.
#[derive(Default)]
struct Further {
    /// That of `styxy-portserver.socket`.
    portserver: Option<PassedListener>,
    /// Those of `styxy-tcp.socket`, for IPv4 and IPv6.
    tcp: Vec<PassedTcpListener>,
}

impl Further {
    fn count(&self) -> usize {
        usize::from(self.portserver.is_some()) + self.tcp.len()
    }

    /// The ports for TCP, each once.
    fn tcp_ports(&self) -> io::Result<Vec<Port>> {
        let mut ports = Vec::new();
        for listener in &self.tcp {
            ports.extend(Port::new(listener.local_addr()?.port().into()));
        }
        ports.dedup();
        Ok(ports)
    }

    /// Accepts connections until `stop` is set.
    fn serve(
        self,
        broker: &Arc<Broker>,
        stop: &watch::Receiver<bool>,
    ) -> io::Result<impl Iterator<Item = JoinHandle<()>>> {
        let portserver = self.portserver.map(home::listener).transpose()?.map(|listener| {
            tokio::spawn(portserver::serve(listener, Arc::clone(broker), stop.clone()))
        });
        let is_open = !self.tcp.is_empty() && needs_no_token();
        let tcp = self.tcp.into_iter().map(home::tcp_listener).collect::<io::Result<Vec<_>>>()?;
        let tcp = tcp.into_iter().map(move |listener| {
            tokio::spawn(http::serve_tcp(listener, Arc::clone(broker), is_open, stop.clone()))
        });
        Ok(portserver.into_iter().chain(tcp))
    }
}

impl Inherited {
    fn from_systemd() -> Result<Self, Failure> {
        // The crate unsets the variables and ignores names, so the names are read first.
        let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut descriptors = ListenFd::from_env();
        let mut inherited = Self::default();
        for (index, name) in names.split(':').enumerate().take(descriptors.len()) {
            if name == "http" {
                inherited.listener = descriptors.take_unix_listener(index)?;
            } else if name == "portserver" {
                inherited.further.portserver = descriptors.take_unix_listener(index)?;
            } else if name == "tcp" {
                inherited.further.tcp.extend(descriptors.take_tcp_listener(index)?);
            } else {
                inherited.guards.add(name, |kind| {
                    let (family, kind) = match kind {
                        // The crate accepts AF_INET6, too.
                        guard::Kind::Guard => (AF_INET, SOCK_STREAM),
                        guard::Kind::Shelf => (AF_UNIX, SOCK_SEQPACKET),
                    };
                    descriptors.take_custom(index, family, kind, "guard").ok().flatten()
                });
            }
        }
        let known = inherited.guards.len() + inherited.further.count();
        if inherited.listener.is_none() && descriptors.len() > known {
            return Err(Failure::other(format!(
                "systemd passed descriptors named {names:?}, but none is named \"http\": \
                 styxy.socket needs FileDescriptorName=http"
            )));
        }
        Ok(inherited)
    }
}

/// Whether requests over TCP need no token, for tests of clients. Only somebody who starts the service by hand can
/// want that: the environment of a unit comes from many places.
fn needs_no_token() -> bool {
    let is_so =
        !manager::started_this_process() && env::var(SKIP_AUTH).is_ok_and(|value| value == "true");
    if is_so {
        tracing::warn!("{SKIP_AUTH} is set: requests over TCP need no token");
    }
    is_so
}

/// Keeps the line of `systemctl --user status` and the mark of leases up to date, at most once a second; only
/// that there are leases now is marked at once.
async fn keep_status(
    broker: Arc<Broker>,
    home: Home,
    mut changed: watch::Receiver<()>,
    mut told: String,
) {
    while changed.changed().await.is_ok() {
        let mut had_leases = broker.is_needed();
        home.mark(had_leases);
        let mut pause = pin!(tokio::time::sleep(Duration::from_secs(1)));
        // A login may come at once, also after a first lease that comes soon after something else.
        while tokio::select! {
            () = &mut pause => false,
            changed = changed.changed(), if !had_leases => changed.is_ok(),
        } {
            had_leases = broker.is_needed();
            if had_leases {
                home.mark(true);
            }
        }
        changed.borrow_and_update();
        home.mark(broker.is_needed());
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
