//! The processes of a project while they run together.

use std::{
    env, io,
    os::unix::process::ExitStatusExt,
    process::{Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use serde_json::Value as Json;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    time::{MissedTickBehavior, interval, timeout},
};

use super::{
    child::{Keeper, Line, Running},
    command_of,
    output::{Lines, ask_for_colours},
    plan::Planned,
};
use crate::{
    cli::{
        CliError,
        environment::{Variable, further_ports, has_url},
        port::{is_listened, port_of, url_now},
        port_users::users,
        project::Project,
        say, text,
    },
    kernel::listeners::listeners,
    port::PortRange,
    project::is_web,
    word::visible,
};

/// The interval between checks whether servers listen.
const AGAIN: Duration = Duration::from_millis(50);
/// The interval between looks at who listens, if it is somebody else.
const OTHERS: Duration = Duration::from_millis(500);
/// The time after which a message says what is still waited for.
const PATIENCE: Duration = Duration::from_secs(10);
/// How many lines are read before they are written.
const MOST_LINES: usize = 256;
/// The time that processes have to end before they are killed.
const GRACE: Duration = Duration::from_secs(10);
/// The time that is waited for output after the last process has ended.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// The processes of a project while they run.
pub(super) struct Started<'a> {
    project: &'a Project,
    planned: &'a [Planned],
    leases: &'a [Json],
    variables: &'a [Variable],
    states: Vec<State>,
    /// When the whole was started.
    begin: Instant,
    /// Until when processes may take to end, once all are to.
    ending: Option<Instant>,
    /// How the first one ended.
    first: Option<(usize, ExitStatus)>,
    is_told_to_wait: bool,
    is_told_of_end: bool,
}

enum State {
    Waiting,
    Running {
        running: Running,
        is_ready: bool,
        others: Others,
    },
    Ended(Running),
    /// It never ran, because all are to end, or could not be started.
    Never,
}

/// Somebody else who listens on the port of a process.
#[derive(Default)]
struct Others {
    /// When they were seen last.
    seen: Option<Instant>,
    are_told_of: bool,
}

impl<'a> Started<'a> {
    pub(super) fn new(
        project: &'a Project,
        planned: &'a [Planned],
        leases: &'a [Json],
        variables: &'a [Variable],
    ) -> Self {
        let states = planned.iter().map(|_| State::Waiting).collect();
        let (begin, ending, first) = (Instant::now(), None, None);
        let (is_told_to_wait, is_told_of_end) = (false, false);
        Self {
            project,
            planned,
            leases,
            variables,
            states,
            begin,
            ending,
            first,
            is_told_to_wait,
            is_told_of_end,
        }
    }

    pub(super) async fn run(&mut self, keep: bool, mut open: bool) -> Result<(), CliError> {
        let names: Vec<_> = self.planned.iter().map(|planned| planned.name.as_str()).collect();
        let lines = Lines::new(&names);
        // Bounded: a reader that is slow slows them down.
        let (to, mut from) = mpsc::channel(MOST_LINES);
        let mut keeper = Keeper::start()?;
        let mut interrupted = signal(SignalKind::interrupt())?;
        let mut terminated = signal(SignalKind::terminate())?;
        let mut hung_up = signal(SignalKind::hangup())?;
        let mut child = signal(SignalKind::child())?;
        let mut again = interval(AGAIN);
        again.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut by_signal, mut unwritten) = (None, None);
        let mut read = Vec::new();
        loop {
            self.start_those_that_may(&to, &mut keeper);
            if self.are_all_over() {
                break;
            }
            tokio::select! {
                _ = from.recv_many(&mut read, MOST_LINES) => {
                    if let Err(error) = lines.write(&read) {
                        // Nobody reads it any more.
                        unwritten.get_or_insert(error);
                        self.end(Signal::SIGTERM);
                    }
                    read.clear();
                }
                _ = interrupted.recv() => self.stop(SignalKind::interrupt(), &mut by_signal),
                _ = terminated.recv() => self.stop(SignalKind::terminate(), &mut by_signal),
                _ = hung_up.recv() => self.stop(SignalKind::hangup(), &mut by_signal),
                _ = child.recv() => self.note_ended(keep),
                _ = again.tick() => {
                    self.note_ready()?;
                    if open && self.are_all_ready() {
                        open = false;
                        self.open();
                    }
                    if self.ending.is_some_and(|end| Instant::now() >= end) {
                        self.end(Signal::SIGKILL);
                    }
                    self.say_who_does_not_end();
                }
            }
        }
        drop(to);
        let rest = async {
            while from.recv_many(&mut read, MOST_LINES).await > 0 {
                let _ = lines.write(&read);
                read.clear();
            }
        };
        // What they have left behind may keep their output open.
        let _ = timeout(LAST_WORDS, rest).await;
        for state in self.states.drain(..) {
            if let State::Ended(running) = state {
                running.signal(Signal::SIGKILL);
                running.reap();
            }
        }
        keeper.end();
        match unwritten {
            Some(error) => Err(CliError::Output(error)),
            None => self.result(by_signal),
        }
    }

    /// Starts each process whose needs are met.
    fn start_those_that_may(&mut self, to: &mpsc::Sender<Line>, keeper: &mut Keeper) {
        for at in 0..self.planned.len() {
            if !matches!(self.states[at], State::Waiting) {
                continue;
            }
            if self.ending.is_some() {
                self.states[at] = State::Never;
                continue;
            }
            let planned = &self.planned[at];
            let is_over = |at: &usize| matches!(self.states[*at], State::Ended(_) | State::Never);
            if let Some(before) = planned.after.iter().find(|at| is_over(at)) {
                let (name, needed) = (&planned.name, &self.planned[*before].name);
                say(&format!("{name} is not started, because it needs {needed}"));
                self.states[at] = State::Never;
                continue;
            }
            let is_ready =
                |at: &usize| matches!(self.states[*at], State::Running { is_ready: true, .. });
            let is_met = planned.after.iter().all(is_ready);
            let mut others = planned.after_others.iter();
            let is_met = is_met && others.all(|at| is_listened(&self.leases[*at]).unwrap_or(true));
            if !is_met {
                continue;
            }
            let started = self.command(planned).and_then(|command| Running::start(command, at, to));
            self.states[at] = match started {
                Ok(running) => {
                    keeper.keep(&running);
                    let is_ready = planned.process.ports.is_empty();
                    State::Running { running, is_ready, others: Others::default() }
                }
                Err(error) => {
                    say(&format!("{} cannot be started: {error}", planned.name));
                    self.first.get_or_insert((at, ExitStatus::from_raw(126 << 8)));
                    self.end(Signal::SIGTERM);
                    State::Never
                }
            };
        }
    }

    fn command(&self, planned: &Planned) -> io::Result<Command> {
        let own = planned.process.ports.first().map(|at| &self.leases[*at]);
        let mut line = command_of(&self.filled(planned, own));
        if let Some(lease) = own {
            let mut run = vec![env::current_exe()?.into_os_string(), "run".into()];
            run.push(text(lease, "service_type").into());
            if let Some(name) = lease["service_name"].as_str() {
                run.push(format!("--name={name}").into());
            }
            if lease["protocol"] != "tcp" {
                run.extend(["--protocol".into(), text(lease, "protocol").into()]);
            }
            run.push("--".into());
            run.append(&mut line);
            line = run;
        }
        let mut command = Command::new(&line[0]);
        command.args(&line[1..]);
        command.current_dir(self.project.folder().join(&planned.process.folder));
        command.env_remove("PORT").env_remove("STYXY_PORT").env_remove("STYXY_LEASE_ID");
        command.envs(self.variables.iter().map(|v| (&v.name, &v.value)));
        if let Some(lease) = own {
            command.envs(further_ports("PORT", lease).map(|v| (v.name, v.value)));
            // `styxy run` takes the lease of the one around it.
            command.env("STYXY_LEASE_ID", text(lease, "lease_id"));
        }
        ask_for_colours(&mut command);
        Ok(command)
    }

    /// The command line with the ports in it that `styxy run` does not know: those of the others, and further ones of its own.
    fn filled(&self, planned: &Planned, own: Option<&Json>) -> String {
        let mut line = planned.process.command.clone();
        for Variable { name, value } in own.into_iter().flat_map(|own| further_ports("port", own)) {
            line = line.replace(&format!("{{{name}}}"), &value);
        }
        for Variable { name, value } in self.variables {
            line = line.replace(&format!("{{port:{name}}}"), value);
        }
        line
    }

    /// Says which servers listen now.
    fn note_ready(&mut self) -> Result<(), CliError> {
        for (planned, state) in self.planned.iter().zip(&mut self.states) {
            let State::Running { running, is_ready: is_ready @ false, others } = state else {
                continue;
            };
            let Some(lease) = planned.process.ports.first().map(|at| &self.leases[*at]) else {
                continue;
            };
            // To find the process of a listener takes longer than to find a listener.
            let is_due = others.seen.is_none_or(|seen| seen.elapsed() >= OTHERS);
            if !is_due || !is_listened(lease)? {
                continue;
            }
            if running.listens(lease)? {
                *is_ready = true;
                let seconds = self.begin.elapsed().as_secs_f32();
                let place = if has_url(&planned.name, lease) {
                    url_now(lease)
                } else {
                    format!("port {}", lease["port"])
                };
                say(&format!("{} listens after {seconds:.1} s: {place}", planned.name));
                continue;
            }
            // Seen once it may have been a server that was about to hand over its socket.
            if others.seen.is_some() && !others.are_told_of {
                others.are_told_of = true;
                tell_of_others(&planned.name, lease);
            }
            others.seen = Some(Instant::now());
        }
        if self.begin.elapsed() >= PATIENCE && !self.is_told_to_wait && self.ending.is_none() {
            self.is_told_to_wait = true;
            for (planned, state) in self.planned.iter().zip(&self.states) {
                if let State::Running { is_ready: false, .. } = state {
                    let port = planned.process.ports.first().map(|at| &self.leases[*at]["port"]);
                    let port = port.map(Json::to_string).unwrap_or_default();
                    say(&format!("{} does not listen on its port yet ({port})", planned.name));
                }
            }
            for (planned, state) in self.planned.iter().zip(&self.states) {
                if let State::Waiting = state {
                    say(&format!(
                        "{} waits for {}",
                        planned.name,
                        planned.process.after.join(", ")
                    ));
                }
            }
        }
        Ok(())
    }

    /// Says what is waited for at the end, once it takes long.
    fn say_who_does_not_end(&mut self) {
        let Some(end) = self.ending.filter(|_| !self.is_told_of_end) else { return };
        if Instant::now() + GRACE < end + LAST_WORDS {
            return;
        }
        self.is_told_of_end = true;
        let running = self.planned.iter().zip(&self.states);
        let running = running.filter(|(_, state)| matches!(state, State::Running { .. }));
        let names: Vec<_> = running.map(|(planned, _)| planned.name.as_str()).collect();
        let left = end.saturating_duration_since(Instant::now()).as_secs_f32().round();
        if !names.is_empty() {
            let names = names.join(", ");
            say(&format!(
                "waiting for {names} to exit; SIGKILL follows in {left} s, or at a second Ctrl-C"
            ));
        }
    }

    /// Notes which processes have ended.
    fn note_ended(&mut self, keep: bool) {
        for at in 0..self.states.len() {
            let State::Running { running, .. } = &self.states[at] else { continue };
            let Some(status) = running.end() else { continue };
            // What it has left of its group has no use any more.
            running.signal(Signal::SIGTERM);
            let state = std::mem::replace(&mut self.states[at], State::Never);
            if let State::Running { running, .. } = state {
                self.states[at] = State::Ended(running);
            }
            let is_first = self.ending.is_none();
            if is_first {
                say(&format!("{} {}", self.planned[at].name, described(status)));
            }
            if is_first && (self.first.is_none() || !status.success() && self.has_succeeded()) {
                self.first = Some((at, status));
            }
            if is_first && !keep {
                self.end(Signal::SIGTERM);
            }
        }
    }

    /// Whether nothing has failed yet.
    fn has_succeeded(&self) -> bool {
        self.first.is_none_or(|(_, status)| status.success())
    }

    fn are_all_over(&self) -> bool {
        self.states.iter().all(|state| matches!(state, State::Ended(_) | State::Never))
    }

    fn are_all_ready(&self) -> bool {
        self.states.iter().all(|state| matches!(state, State::Running { is_ready: true, .. }))
    }

    /// Ends all because of a signal, at the second time at once.
    fn stop(&mut self, kind: SignalKind, by_signal: &mut Option<SignalKind>) {
        let signal = if by_signal.is_some() { Signal::SIGKILL } else { Signal::SIGTERM };
        by_signal.get_or_insert(kind);
        self.end(signal);
    }

    fn end(&mut self, signal: Signal) {
        self.ending.get_or_insert(Instant::now() + GRACE);
        for state in &self.states {
            if let State::Running { running, .. } = state {
                running.signal(signal);
            }
        }
    }

    /// Opens the first web server in the browser.
    fn open(&self) {
        let is_server = |lease: &&Json| is_web(text(lease, "service_type"));
        let own = self.planned.iter().filter_map(|planned| planned.process.ports.first());
        let own: Vec<_> = own.map(|at| &self.leases[*at]).collect();
        let dev = own.iter().find(|lease| lease["service_type"] == "dev").copied();
        let Some(lease) = dev.or_else(|| own.iter().copied().find(is_server)) else { return };
        let browser = env::var_os("BROWSER").filter(|browser| !browser.is_empty());
        let browser = browser.unwrap_or_else(|| "xdg-open".into());
        let mut command = Command::new(&browser);
        command
            .arg(url_now(lease))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        if let Err(error) = command.spawn() {
            say(&format!("{} cannot be run: {error}", visible(&browser.to_string_lossy())));
        }
    }

    fn result(&self, by_signal: Option<SignalKind>) -> Result<(), CliError> {
        if let Some(kind) = by_signal {
            let code = u8::try_from(128 + kind.as_raw_value()).unwrap_or(1);
            return Err(CliError::Exec("all have ended".to_owned(), code));
        }
        match self.first {
            Some((at, status)) if !status.success() => {
                let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
                let name = &self.planned[at].name;
                let message = format!("the first to fail was {name}: it {}", described(status));
                Err(CliError::Exec(message, u8::try_from(code).unwrap_or(1)))
            }
            _ => Ok(()),
        }
    }
}

/// Says who has the port of a process.
fn tell_of_others(name: &str, lease: &Json) {
    let Some((port, protocol)) = port_of(lease) else { return };
    let users = listeners(PortRange::only(port), protocol).map(users).unwrap_or_default();
    if let Some(user) = users.first() {
        say(&format!("{name} is not up: {}", user.sentence(&user.describe())));
    }
}

fn described(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (None, Some(signal)) => {
            let name = Signal::try_from(signal).map_or("a signal", Signal::as_str);
            format!("was killed by {name}")
        }
        (None | Some(0), _) => "ended".to_owned(),
        (Some(code), _) => format!("ended with exit code {code}"),
    }
}
