//! What the service manager says of the unit, when a call to it takes long or fails: dbus-daemon waits 120 s for a
//! unit that failed at once.

use std::{
    collections::HashMap,
    io,
    process::{Command, Output, Stdio},
    time::Duration,
};

use super::Miss;
use crate::surroundings::user;

/// The unit of the service.
const UNIT: &str = "styxy.service";
/// A service that starts does so within this time, as a rule, so before it nobody is asked.
const HEAD_START: Duration = Duration::from_millis(300);
/// How often the manager is asked while a call waits.
const EVERY: Duration = Duration::from_millis(250);

/// The properties of the unit that tell how it is doing (systemctl(1), `show`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unit {
    properties: HashMap<String, String>,
}

impl Unit {
    /// Asks the user's service manager; `None` where there is none or it does not know the unit.
    pub fn ask() -> Option<Self> {
        const PROPERTIES: &str =
            "LoadState,ActiveState,SubState,Result,ExecMainCode,ExecMainStatus,NRestarts,Job";
        if !user().has_manager() {
            return None;
        }
        let output = systemctl(&["show", UNIT, "--property", PROPERTIES]).ok()?;
        let unit = Self::read(&String::from_utf8_lossy(&output.stdout));
        (!["", "not-found"].contains(&unit.get("LoadState"))).then_some(unit)
    }

    fn read(text: &str) -> Self {
        let properties = text.lines().filter_map(|line| line.split_once('='));
        let owned = |(key, value): (&str, &str)| (key.to_owned(), value.to_owned());
        Self { properties: properties.map(owned).collect() }
    }

    fn get(&self, property: &str) -> &str {
        self.properties.get(property).map_or("", String::as_str)
    }

    fn number(&self, property: &str) -> u32 {
        self.get(property).parse().unwrap_or(0)
    }

    /// Whether it cannot be started, and nothing is being done about it.
    fn has_failed(&self) -> bool {
        let is_waited_for = !matches!(self.get("Job"), "" | "0");
        self.get("LoadState") == "masked" || (self.get("ActiveState") == "failed" && !is_waited_for)
    }

    /// Whether it fails at each start and is started again.
    fn fails_again(&self, before: &Self) -> bool {
        const OFTEN: u32 = 3;
        self.get("Result") != "success"
            && self.number("NRestarts") >= before.number("NRestarts") + OFTEN
    }

    /// What is wrong with it, and what to do, in one sentence.
    pub fn problem(&self) -> String {
        if self.get("LoadState") == "masked" {
            return format!(
                "{UNIT} is masked: `systemctl --user unmask {UNIT}` lets it start again"
            );
        }
        let status = self.number("ExecMainStatus");
        // CLD_EXITED of waitid(2); the statuses are those of systemd.exec(5).
        let cause = match (self.get("ExecMainCode"), status) {
            ("1", 217 | 218 | 226) => {
                "its sandbox cannot be set up, because user namespaces or mounts in them are forbidden here: \
                 `styxy doctor --fix` starts it with a smaller one"
            }
            ("1", 228) => "its system call filter cannot be set up here: `styxy doctor` tells more",
            ("1", 233 | 238 | 241) => {
                "one of its folders cannot be made: ~/.config, ~/.local and what is in them must belong to \
                 this user"
            }
            _ => "`journalctl --user -u styxy.service` tells why",
        };
        let result = self.get("Result");
        match self.get("ExecMainCode") {
            "1" => format!("{UNIT} cannot be started ({result}, status {status}): {cause}"),
            _ => format!("{UNIT} cannot be started ({result}): {cause}"),
        }
    }
}

/// Runs systemctl(1) for the user's manager, also where `$XDG_RUNTIME_DIR` does not lead to it.
pub fn systemctl(arguments: &[&str]) -> io::Result<Output> {
    let mut command = Command::new("systemctl");
    if let Ok(runtime) = user().runtime() {
        command.env("XDG_RUNTIME_DIR", runtime);
    }
    command.arg("--user").args(arguments).stdin(Stdio::null()).output()
}

/// Waits until the unit has failed; what is wrong with it. For ever where it has not, or nobody can be asked.
async fn failed() -> String {
    tokio::time::sleep(HEAD_START).await;
    let Some(first) = ask().await else { return std::future::pending().await };
    let mut before = first.clone();
    loop {
        tokio::time::sleep(EVERY).await;
        let Some(now) = ask().await else { return std::future::pending().await };
        // A failure of yesterday is over as soon as the manager is asked to start the unit: twice is no accident.
        if now.has_failed() && before.has_failed() || now.fails_again(&first) {
            return now.problem();
        }
        before = now;
    }
}

/// Waits for an answer, but not for that of a unit that has failed: what is wrong with it is told at once.
pub(super) async fn unless_it_fails<T>(
    answer: impl Future<Output = Result<T, Miss>>,
) -> Result<T, Miss> {
    let result = tokio::select! {
        result = answer => result,
        problem = failed() => Err(Miss::Broken(problem)),
    };
    match result {
        Err(Miss::Broken(why)) => Err(Miss::Broken(problem().await.unwrap_or(why))),
        result => result,
    }
}

/// What is wrong with the unit, if it has failed.
async fn problem() -> Option<String> {
    ask().await.filter(Unit::has_failed).map(|unit| unit.problem())
}

/// Asks on a thread of its own: a manager that hangs is not waited for.
async fn ask() -> Option<Unit> {
    let (answer, answered) = tokio::sync::oneshot::channel();
    let asking = std::thread::Builder::new().spawn(move || answer.send(Unit::ask()));
    asking.ok()?;
    answered.await.ok().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_that_failed_is_told_with_its_cause_and_the_way_out() {
        let failed = |code: &str, status: u32| {
            Unit::read(&format!(
                "LoadState=loaded\nActiveState=failed\nSubState=failed\nResult=exit-code\n\
                 ExecMainCode={code}\nExecMainStatus={status}\nNRestarts=0\nJob="
            ))
        };
        for (status, words) in [
            (217, "user namespaces"),
            (238, "folders"),
            (241, "folders"),
            (1, "journalctl --user -u styxy.service"),
        ] {
            let unit = failed("1", status);
            assert!(unit.has_failed());
            assert!(unit.problem().contains(words), "{}", unit.problem());
            assert!(unit.problem().contains(&format!("status {status}")));
        }
        assert!(!failed("2", 9).problem().contains("status 9"), "it was a signal");
        assert!(Unit::read("LoadState=masked\nActiveState=inactive").problem().contains("unmask"));
    }

    #[test]
    fn a_unit_that_is_being_started_has_not_failed() {
        for text in [
            "LoadState=loaded\nActiveState=failed\nJob=12",
            "LoadState=loaded\nActiveState=activating\nSubState=auto-restart\nResult=exit-code",
            "LoadState=loaded\nActiveState=inactive\nResult=success",
            "",
        ] {
            assert!(!Unit::read(text).has_failed(), "{text}");
        }
        let restarts = |count: u32| Unit::read(&format!("Result=exit-code\nNRestarts={count}"));
        assert!(!restarts(6).fails_again(&restarts(5)));
        assert!(restarts(8).fails_again(&restarts(5)), "it is a loop");
    }
}
