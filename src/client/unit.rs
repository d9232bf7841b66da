//! What the user's service manager knows about styxy's units. A call queries it when it takes long or fails,
//! because dbus-daemon waits 120 s for a unit that failed at once.

use std::{
    collections::HashMap,
    convert::Infallible,
    fs::File,
    io::{self, Read},
    os::fd::OwnedFd,
    path::Path,
    process::{Command, Output, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use super::CallError;
use crate::{
    surroundings::{bus::DISABLED, user},
    word::visible,
};

/// The unit of the service.
pub const SERVICE: &str = "styxy.service";
/// A service usually starts within this time, so the manager is not queried earlier.
const HEAD_START: Duration = Duration::from_millis(300);
/// How often the manager is queried while a call waits.
const EVERY: Duration = Duration::from_millis(250);

/// How often to check whether a start was forgotten.
const FORGOTTEN: Duration = Duration::from_secs(1);

/// How long the manager may take to answer, and to start or reload something.
const PATIENCE: Duration = Duration::from_secs(4);
const START: Duration = Duration::from_secs(15);

/// The properties of a unit (systemctl(1), `show`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unit {
    name: &'static str,
    properties: HashMap<String, String>,
}

impl Unit {
    /// Queries the user's service manager; `None` if there is none. The `LoadState` of a unit that it does not
    /// know is `not-found`.
    pub fn ask(name: &'static str) -> Option<Self> {
        const PROPERTIES: &str = "--property=LoadState,ActiveState,Result,ExecMainCode,ExecMainStatus,NRestarts,\
                                  Job,NeedDaemonReload,UnitFileState,FragmentPath,DropInPaths,MainPID,Environment";
        if !user().has_manager() {
            return None;
        }
        let shown = systemctl(&["show", name, PROPERTIES]).ok().filter(|o| o.status.success())?;
        Some(Self::read(name, &String::from_utf8_lossy(&shown.stdout)))
    }

    /// Parses the output of `systemctl show` for it.
    pub fn read(name: &'static str, text: &str) -> Self {
        let properties = text.lines().filter_map(|line| line.split_once('='));
        let owned = |(key, value): (&str, &str)| (key.to_owned(), value.to_owned());
        Self { name, properties: properties.map(owned).collect() }
    }

    /// Its name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// A property; empty if it has no value.
    pub fn get(&self, property: &str) -> &str {
        self.properties.get(property).map_or("", String::as_str)
    }

    /// Whether a property has this value.
    pub fn is(&self, property: &str, value: &str) -> bool {
        self.get(property) == value
    }

    fn number(&self, property: &str) -> u32 {
        self.get(property).parse().unwrap_or(0)
    }

    /// Whether it cannot be started, and no job is queued for it.
    fn has_failed(&self) -> bool {
        self.is("LoadState", "masked") || (self.is("ActiveState", "failed") && !self.has_job())
    }

    /// Whether it is not running, and no job is queued for it.
    fn is_idle(&self) -> bool {
        self.is("ActiveState", "inactive") && !self.has_job()
    }

    /// Whether the manager is about to start or stop it.
    fn has_job(&self) -> bool {
        !matches!(self.get("Job"), "" | "0")
    }

    /// Whether it fails at every start and is restarted.
    fn fails_again(&self, before: &Self) -> bool {
        const OFTEN: u32 = 3;
        !self.is("Result", "success")
            && self.number("NRestarts") >= before.number("NRestarts") + OFTEN
    }

    /// The command that unmasks it. A unit is masked by the user, or by the administrator for all users.
    pub fn unmasking(&self) -> String {
        let how = match self.get("FragmentPath") {
            path if path.starts_with("/etc/") => "sudo systemctl --global unmask",
            _ if self.is("UnitFileState", "masked-runtime") => "systemctl --user --runtime unmask",
            _ => "systemctl --user unmask",
        };
        format!("{how} {}", self.name)
    }

    /// Whether its settings keep the service off the session bus.
    pub fn is_kept_off_the_bus(&self) -> bool {
        let disabled = format!("DBUS_SESSION_BUS_ADDRESS={DISABLED}");
        self.get("Environment").split_whitespace().any(|setting| setting == disabled)
    }

    /// Whether its file is in the user's folders, as `styxy setup` writes it.
    fn is_in_the_home(&self) -> bool {
        user().data().is_some_and(|data| Path::new(self.get("FragmentPath")).starts_with(data))
    }

    /// What is wrong with the unit of the service, and what to do, in one sentence.
    pub fn problem(&self) -> String {
        let name = self.name;
        if self.is("LoadState", "masked") {
            return format!("{name} is masked: `{}` lets it start again", self.unmasking());
        }
        let status = self.number("ExecMainStatus");
        // CLD_EXITED of waitid(2); the statuses are those of systemd.exec(5).
        let cause = match (self.get("ExecMainCode"), status) {
            // The generator is a part of packages.
            ("1", 217 | 218 | 226) if self.is_in_the_home() => {
                "its sandbox cannot be set up, because user namespaces or mounts in them are forbidden here: `styxy setup` \
                 starts it with a smaller one"
            }
            ("1", 217 | 218 | 226) => {
                "its sandbox cannot be set up, because user namespaces or mounts in them are forbidden here: \
                 `styxy doctor --fix` starts it with a smaller one"
            }
            ("1", 203) if self.is_in_the_home() => {
                "its program is gone or cannot be executed: `styxy setup` has it start this one"
            }
            ("1", 203) => {
                "its program is missing or cannot be executed: install it again, then `styxy doctor --fix`"
            }
            ("1", 228) => "its system call filter cannot be set up here: see `styxy doctor`",
            ("1", 233 | 238 | 241) => {
                "one of its folders cannot be made: ~/.config/styxy and ~/.local/state/styxy must be folders of this \
                 user that can be written, and no broken links; then `styxy doctor --fix`"
            }
            _ => {
                "see `journalctl --user -u styxy.service`, and when it is mended, `styxy doctor --fix`"
            }
        };
        let result = self.get("Result");
        match self.get("ExecMainCode") {
            "1" => format!("{name} cannot be started ({result}, status {status}): {cause}"),
            _ => format!("{name} cannot be started ({result}): {cause}"),
        }
    }
}

/// Runs systemctl(1) for the user's manager, even where `$XDG_RUNTIME_DIR` does not lead to it. Gives up after
/// a while if the manager does not answer (`TimedOut`).
pub fn systemctl(arguments: &[&str]) -> io::Result<Output> {
    // A start waits for the unit, and a reload for the generators.
    let patience = if arguments.first() == Some(&"show") { PATIENCE } else { START };
    output(for_manager("systemctl").args(arguments), patience)
}

/// Has the user's manager run a program, and waits for its end; the output and the status are the program's (systemd-run(1)).
pub fn systemd_run(program: &Path, arguments: &[&str]) -> io::Result<Output> {
    let mut command = for_manager("systemd-run");
    command.args(["--quiet", "--collect", "--wait", "--pipe", "--"]).arg(program).args(arguments);
    output(&mut command, START)
}

fn for_manager(program: &str) -> Command {
    let mut command = Command::new(program);
    if let Ok(runtime) = user().runtime() {
        command.env("XDG_RUNTIME_DIR", runtime);
    }
    command.arg("--user");
    command
}

/// The same for a command that changes something. A failure is described in words.
pub fn control(arguments: &[&str]) -> Result<(), String> {
    let why = match systemctl(arguments) {
        Ok(done) if done.status.success() => return Ok(()),
        Ok(done) => match String::from_utf8_lossy(&done.stderr).lines().next() {
            Some(line) => visible(line),
            None => done.status.to_string(),
        },
        Err(error) => error.to_string(),
    };
    Err(format!("`systemctl --user {}` failed: {why}", arguments.join(" ")))
}

/// Runs a program and returns its output; gives up after this time.
fn output(command: &mut Command, patience: Duration) -> io::Result<Output> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let [stdout, stderr] = [
        read_apart(child.stdout.take().map(OwnedFd::from))?,
        read_apart(child.stderr.take().map(OwnedFd::from))?,
    ];
    let end = Instant::now() + patience;
    let read = |from: mpsc::Receiver<Vec<u8>>| {
        from.recv_timeout(end.saturating_duration_since(Instant::now()))
    };
    let (Ok(stdout), Ok(stderr)) = (read(stdout), read(stderr)) else {
        child.kill()?;
        child.wait()?;
        let words = format!("it did not answer within {} s", patience.as_secs());
        return Err(io::Error::new(io::ErrorKind::TimedOut, words));
    };
    // It has closed both pipes, so it has exited.
    Ok(Output { status: child.wait()?, stdout, stderr })
}

/// Reads to the end on a separate thread.
fn read_apart(from: Option<OwnedFd>) -> io::Result<mpsc::Receiver<Vec<u8>>> {
    let (give, given) = mpsc::channel();
    thread::Builder::new().spawn(move || {
        let mut bytes = Vec::new();
        if let Some(from) = from {
            // What was read before an error is better than nothing.
            let _ = File::from(from).read_to_end(&mut bytes);
        }
        let _ = give.send(bytes);
    })?;
    Ok(given)
}

/// Waits until the unit has failed, and returns what is wrong with it. Never returns if it does not fail, or if
/// the manager cannot be queried.
async fn failed() -> String {
    tokio::time::sleep(HEAD_START).await;
    let Some(first) = ask().await else { return std::future::pending().await };
    let mut before = first.clone();
    loop {
        tokio::time::sleep(EVERY).await;
        let Some(now) = ask().await else { return std::future::pending().await };
        // An earlier failure disappears as soon as the manager is asked to start the unit, so it must be seen
        // twice.
        if now.has_failed() && before.has_failed() || now.fails_again(&first) {
            return now.problem();
        }
        before = now;
    }
}

/// Waits for an answer, but not if the unit has failed: then returns at once what is wrong with it.
pub(super) async fn unless_it_fails<T>(
    answer: impl Future<Output = Result<T, CallError>>,
) -> Result<T, CallError> {
    let result = tokio::select! {
        result = answer => result,
        problem = failed() => Err(CallError::CannotStart(problem)),
    };
    match result {
        Err(CallError::CannotStart(why)) => {
            Err(CallError::CannotStart(problem().await.unwrap_or(why)))
        }
        result => result,
    }
}

/// Starts the unit if nobody else does, as seen twice in a row: dbus-daemon waits 120 s for a start that was
/// cancelled by stopping the unit at that moment, and holds back all calls meanwhile.
pub(super) async fn start_if_forgotten(has_owner: impl AsyncFn() -> bool) -> Infallible {
    let mut was_forgotten = false;
    loop {
        tokio::time::sleep(FORGOTTEN).await;
        let is_forgotten = !has_owner().await && ask().await.is_some_and(|unit| unit.is_idle());
        if is_forgotten && was_forgotten {
            // The answer shows whether that helps.
            let start = || drop(systemctl(&["start", "--no-block", SERVICE]));
            let _ = thread::Builder::new().spawn(start);
            return std::future::pending().await;
        }
        was_forgotten = is_forgotten;
    }
}

/// What is wrong with the unit, if it has failed.
async fn problem() -> Option<String> {
    ask().await.filter(Unit::has_failed).map(|unit| unit.problem())
}

/// Queries the unit of the service on a separate thread: the caller does not wait for a manager that hangs.
async fn ask() -> Option<Unit> {
    let (answer, answered) = tokio::sync::oneshot::channel();
    let asking = std::thread::Builder::new().spawn(move || answer.send(Unit::ask(SERVICE)));
    asking.ok()?;
    answered.await.ok().flatten().filter(|unit| !unit.is("LoadState", "not-found"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Unit {
        Unit::read(SERVICE, text)
    }

    #[test]
    fn a_masked_unit_is_to_be_unmasked_where_it_was_masked() {
        for (path, state, how) in [
            ("/home/dev/.config/systemd/user/styxy.service", "masked", "systemctl --user unmask"),
            (
                "/run/user/1/systemd/user/styxy.service",
                "masked-runtime",
                "systemctl --user --runtime unmask",
            ),
            ("/etc/systemd/user/styxy.service", "masked", "sudo systemctl --global unmask"),
        ] {
            let unit =
                read(&format!("LoadState=masked\nUnitFileState={state}\nFragmentPath={path}\n"));
            assert!(unit.has_failed());
            let problem = unit.problem();
            assert!(problem.contains(&format!("`{how} styxy.service`")), "{problem}");
        }
    }

    #[test]
    fn a_unit_that_failed_is_told_with_its_cause_and_the_way_out() {
        let failed = |code: &str, status: u32| {
            read(&format!(
                "LoadState=loaded\nActiveState=failed\nSubState=failed\nResult=exit-code\n\
                 ExecMainCode={code}\nExecMainStatus={status}\nNRestarts=0\nJob="
            ))
        };
        for (status, words) in [
            (217, "user namespaces"),
            (238, "no broken links"),
            (241, "`styxy doctor --fix`"),
            (1, "journalctl --user -u styxy.service"),
        ] {
            let unit = failed("1", status);
            assert!(unit.has_failed());
            assert!(unit.problem().contains(words), "{}", unit.problem());
            assert!(unit.problem().contains(&format!("status {status}")));
        }
        assert!(!failed("2", 9).problem().contains("status 9"), "it was a signal");
    }

    #[test]
    fn a_program_that_never_ends_is_given_up() {
        let mut hangs = Command::new("sh");
        let error = output(hangs.args(["-c", "echo begun; exec sleep 600"]), Duration::ZERO);
        assert_eq!(error.unwrap_err().kind(), io::ErrorKind::TimedOut);
        let mut ends = Command::new("sh");
        let done = output(ends.args(["-c", "echo out; echo err >&2; exit 3"]), START).unwrap();
        assert_eq!(done.status.code(), Some(3));
        assert_eq!((&*done.stdout, &*done.stderr), (&b"out\n"[..], &b"err\n"[..]));
    }

    #[test]
    fn a_unit_that_is_being_started_has_not_failed() {
        for text in [
            "LoadState=loaded\nActiveState=failed\nJob=12",
            "LoadState=loaded\nActiveState=activating\nSubState=auto-restart\nResult=exit-code",
            "LoadState=loaded\nActiveState=inactive\nResult=success",
            "",
        ] {
            assert!(!read(text).has_failed(), "{text}");
        }
        let restarts = |count: u32| read(&format!("Result=exit-code\nNRestarts={count}"));
        assert!(!restarts(6).fails_again(&restarts(5)));
        assert!(restarts(8).fails_again(&restarts(5)), "it is a loop");
    }
}
