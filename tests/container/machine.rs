//! A machine, and what runs in it; by tests/machine/machine.

use std::{
    env,
    ffi::OsStr,
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value as Json;

/// The user that tests are.
pub const USER: &str = "dev";

/// What `busctl call` wants in front of a method.
const OBJECT: [&str; 3] = ["org.styxy.Styxy1", "/org/styxy/Styxy1", "org.styxy.Styxy1"];

/// A booted machine with the package; it is ended with the value.
pub struct Machine {
    name: String,
}

/// What a command in a machine did.
#[derive(Debug)]
pub struct Done {
    pub stdout: String,
    pub stderr: String,
    pub code: Option<i32>,
}

impl Done {
    /// What it printed; fails unless it succeeded.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "{}{}", self.stdout, self.stderr);
        self.stdout
    }
}

impl Machine {
    /// Boots a machine for that test, with the package installed and the user `dev` logged in.
    pub fn boot(suite: &str, test: &str) -> Self {
        Self::boot_with(suite, test, &["--deb", &package()])
    }

    /// Boots a machine without the package, with the user `dev` logged in.
    pub fn boot_without_package(suite: &str, test: &str) -> Self {
        Self::boot_with(suite, test, &[])
    }

    fn boot_with(suite: &str, test: &str, options: &[&str]) -> Self {
        // The name is a host name, too.
        let mut name = format!("{suite}-{}", test.replace('_', "-"));
        name.truncate(40);
        let machine = Self { name: name.trim_end_matches('-').to_owned() };
        machine.script(["stop", &machine.name]);
        machine.script(["boot", suite, &machine.name].iter().chain(options)).ok();
        machine
    }

    /// Runs a verb of the script.
    pub fn script<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Done {
        let script = env::var("STYXY_MACHINE").expect("STYXY_MACHINE names the script");
        done(Command::new(script).args(arguments).stdin(Stdio::null()).output().unwrap())
    }

    /// The name by which the script knows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs a shell command as root.
    pub fn root(&self, command: &str) -> Done {
        self.script(["exec", &self.name, "--", "bash", "-c", command])
    }

    /// Runs a shell command as the user.
    pub fn user(&self, command: &str) -> Done {
        self.script(["as", &self.name, USER, "--", "bash", "-c", command])
    }

    /// Where the tokens of its users are, beside their files: in the journal, of a process, in other files.
    pub fn leaked_tokens(&self) -> String {
        // The commands that search do not name the token either.
        let search = r#"
            cat /home/*/.styxy/auth.token >/root/tokens 2>/dev/null || exit 0
            journalctl --sync
            count=$(journalctl -o export | grep -acFf /root/tokens)
            ((!count)) || echo "entries of the journal: $count"
            count=$(cat /proc/[0-9]*/{cmdline,environ} 2>/dev/null | grep -acFf /root/tokens)
            ((!count)) || echo "processes: $count"
            grep -rlFf /root/tokens /home /run /var/log /tmp /var/tmp 2>/dev/null | grep -v '^/home/[a-z]*/.styxy/auth.token$'
            true"#;
        self.root(search).ok()
    }

    /// Starts a shell command as the user.
    pub fn start(&self, command: &str) -> Child {
        let script = env::var("STYXY_MACHINE").expect("STYXY_MACHINE names the script");
        let arguments = ["as", &self.name, USER, "--", "bash", "-c", command];
        Command::new(script).args(arguments).stdout(Stdio::piped()).spawn().unwrap()
    }

    /// Runs this program as the user in the machine; see `inside`.
    #[track_caller]
    pub fn inside(&self, arguments: &str) -> Json {
        self.put_inside();
        let output = self.user(&format!("/usr/local/bin/inside inside {arguments}")).ok();
        let last = output.lines().next_back().unwrap_or_default();
        serde_json::from_str(last).unwrap_or_else(|error| panic!("{error}: {output}"))
    }

    /// Puts this program into the machine, once.
    pub fn put_inside(&self) {
        if self.root("test -x /usr/local/bin/inside").code != Some(0) {
            let this: PathBuf = env::current_exe().unwrap();
            self.put(this.to_str().unwrap(), "/usr/local/bin/inside");
        }
    }

    /// Copies a file into the machine.
    pub fn put(&self, file: &str, destination: &str) {
        self.script(["put", &self.name, file, destination]).ok();
    }

    /// Calls a method of styxy with `busctl`; the data of its reply, or the error's message.
    pub fn call(&self, method: &str, arguments: &str) -> Result<Json, String> {
        let object = OBJECT.join(" ");
        let done =
            self.user(&format!("busctl --user --json=short call {object} {method} {arguments}"));
        match done.code {
            // A method without a result.
            Some(0) if done.stdout.trim().is_empty() => Ok(Json::Null),
            Some(0) => {
                let reply: Json = serde_json::from_str(&done.stdout).unwrap();
                Ok(reply["data"].clone())
            }
            _ => Err(done.stderr),
        }
    }

    /// The events of styxy that the user finds in the journal, the oldest first.
    pub fn events(&self) -> Vec<Json> {
        let lines = self.user("journalctl -q -t styxy -o json").ok();
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The state of a unit of the user, as `systemctl is-active` has it.
    pub fn unit_state(&self, unit: &str) -> String {
        self.user(&format!("systemctl --user is-active {unit}")).stdout.trim().to_owned()
    }

    /// Sends a signal to the machine's journald.
    pub fn journald(&self, signal: &str) {
        let pid = "$(systemctl show --value -p MainPID systemd-journald)";
        self.root(&format!("kill -{signal} {pid}")).ok();
    }

    /// A property of a unit of the user.
    pub fn unit(&self, unit: &str, property: &str) -> String {
        let command = format!("systemctl --user show --value -p {property} {unit}");
        self.user(&command).ok().trim().to_owned()
    }

    /// Ends the service as `kill -9` does, as soon as there is one: after an earlier kill the manager waits a moment
    /// before it starts the next. Afterwards the bus has noticed, so that a call goes to the next one.
    pub fn kill_service(&self) {
        let limit = Duration::from_secs(60);
        let owner = || {
            let bus = "org.freedesktop.DBus /org/freedesktop/DBus org.freedesktop.DBus";
            self.user(&format!("busctl --user call {bus} GetNameOwner s org.styxy.Styxy1")).stdout
        };
        let mut killed = String::new();
        eventually(limit, "the service is there to be killed", || {
            killed = owner();
            self.user("systemctl --user kill --kill-whom=main --signal=KILL styxy.service").code
                == Some(0)
        });
        eventually(limit, "the bus has noticed", || owner() != killed);
    }

    /// Changes a setting of the user's configuration and has it read.
    pub fn configure(&self, json: &str) {
        self.user(&format!(
            "mkdir -p ~/.config/styxy && printf %s '{json}' > ~/.config/styxy/config.json"
        ))
        .ok();
        self.call("Reload", "").unwrap();
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if thread::panicking() {
            // For whoever reads the failure.
            let log = self.root("journalctl -b --no-pager -n 40");
            eprintln!("---- {}\n{}", self.name, log.stdout);
        }
        self.script(["stop", &self.name]);
    }
}

/// The package that is tested.
pub fn package() -> String {
    env::var("STYXY_DEB").expect("STYXY_DEB names the package; see tests/run")
}

/// The archive that is tested.
pub fn archive() -> String {
    env::var("STYXY_ARCHIVE").expect("STYXY_ARCHIVE names the archive; see tests/run")
}

fn done(output: Output) -> Done {
    Done {
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        code: output.status.code(),
    }
}

/// Waits until the condition holds; fails after a time that no machine needs. It looks less often as time goes by:
/// to ask in a machine takes several processes, and other machines need the processors, too.
#[track_caller]
pub fn eventually(limit: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    let mut pause = Duration::from_millis(50);
    while !condition() {
        assert!(start.elapsed() < limit, "not within {limit:?}: {what}");
        thread::sleep(pause);
        pause = (pause * 5 / 4).min(Duration::from_millis(250));
    }
}
