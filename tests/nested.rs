//! Owners from a PID namespace of its own, as sandboxes and containers have it: there, numbers are not those of the
//! service. On a bus and without one.

mod support;

use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Output, Stdio},
    thread,
};

use nix::sys::signal::Signal;
use serde_json::Value as Json;
use support::{Home, bus::Bus, end, started};

/// A service outside, and the bus that it is on.
struct Outside {
    home: Home,
    bus: Option<Bus>,
    service: Option<Child>,
}

impl Outside {
    fn new(bus: Option<Bus>) -> Self {
        let home = Home::with_type();
        let mut outside = Self { home, bus, service: None };
        outside.service = Some(started(outside.styxy()));
        outside
    }

    fn styxy(&self) -> Command {
        let mut styxy = self.home.styxy();
        if let Some(bus) = &self.bus {
            styxy.env("DBUS_SESSION_BUS_ADDRESS", &bus.address);
        }
        styxy
    }

    /// A shell command as the first process of a PID namespace, which finds `styxy`.
    fn inside(&self, script: &str) -> Command {
        let styxy = self.styxy();
        let mut command = unshared(&styxy, &["--user", "--map-current-user"], script);
        command
            .current_dir(self.home.path(""))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn leases(&self) -> Json {
        self.home.http("GET", "/allocations", "").body["allocations"].clone()
    }

    /// Runs a script that leases a port, says so in a line and waits for its input to end. The lease is that of the
    /// process with this number inside, and ends with it.
    #[track_caller]
    fn owns(&self, script: &str, number: &str) {
        let mut child = self.inside(script).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let leases = self.leases();
        let pid = &leases[0]["pid"];
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let numbers =
            status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap_or_default();
        let numbers: Vec<_> = numbers.split_whitespace().collect();
        assert_eq!(numbers, [pid.to_string().as_str(), number], "{script}: {leases}");
        drop(child.stdin.take());
        child.wait().unwrap();
        self.home.until(|| self.leases()[0].is_null());
    }

    #[track_caller]
    fn refuses(&self, script: &str, reason: &str) {
        let Output { status, stderr, .. } = self.inside(script).output().unwrap();
        let stderr = String::from_utf8(stderr).unwrap();
        assert_eq!(status.code(), Some(2), "{script}: {stderr}");
        assert!(stderr.contains(reason), "{script}: {stderr}");
        assert!(self.leases()[0].is_null(), "{script}");
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        if let Some(service) = self.service.take() {
            end(service, Signal::SIGKILL);
        }
    }
}

/// A shell command, with what that command has in its environment, as the first process of a PID namespace: nothing of it outlives
/// the test, and a service ends with it. It finds `styxy`.
fn unshared(styxy: &Command, others: &[&str], script: &str) -> Command {
    let folder = Path::new(styxy.get_program()).parent().unwrap();
    let mut command = Command::new("unshare");
    command
        .args(others)
        .args(["--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", script])
        .envs(styxy.get_envs().filter_map(|(name, value)| Some((name, value?))))
        .env("PATH", format!("{}:/usr/bin:/bin:/usr/sbin:/sbin", folder.display()));
    command
}

/// A service without a bus, and at the same time one with.
fn both(test: impl Fn(&Outside) + Sync) {
    let possible =
        Command::new("unshare").args(["-r", "--pid", "--fork", "--mount-proc", "true"]).status();
    if !possible.is_ok_and(|status| status.success()) {
        eprintln!("SKIPPED: unshare(1) cannot make namespaces here");
        return;
    }
    thread::scope(|scope| {
        scope.spawn(|| test(&Outside::new(None)));
        if let Some(bus) = Bus::start() {
            test(&Outside::new(Some(bus)));
        }
    });
}

const WAIT: &str = "echo here; read -r _ || :";

#[test]
fn a_command_in_a_pid_namespace_of_its_own_owns_its_lease() {
    both(|outside| {
        outside.owns(&format!("exec styxy run mine -q -- sh -c '{WAIT}'"), "1");
        outside.owns(&format!("styxy run mine -q -- sh -c '{WAIT}'; :"), "2");
    });
}

#[test]
fn a_shell_in_a_pid_namespace_of_its_own_owns_its_lease() {
    both(|outside| {
        for owner in ["parent", "pid:$$", "pid:1"] {
            outside
                .owns(&format!("styxy allocate mine --owner {owner} -q >/dev/null; {WAIT}"), "1");
        }
        let script = format!("styxy allocate mine --owner parent -q >/dev/null; {WAIT}");
        let home = &outside.home;
        fs::write(home.path("script"), script).unwrap();
        // Past a shell in between, as system(3) has it.
        let command = "sh -c \"styxy allocate mine --owner parent -q >/dev/null; :\"";
        fs::write(home.path("outer"), format!("{command}; {WAIT}")).unwrap();
        outside.owns("sh script; :", "2");
        outside.owns("sh outer; :", "2");
    });
}

#[test]
fn a_sandbox_in_a_network_that_is_not_the_kernels_first_finds_the_service_outside() {
    let script = "styxy allocate mine -q >/dev/null && unshare --pid --fork --kill-child --mount-proc styxy list --json";
    let home = Home::with_type();
    let mut command = unshared(&home.styxy(), &["-r", "--net"], script);
    command
        // In there, no folder is known but that of the state.
        .env("XDG_RUNTIME_DIR", "/nonexistent");
    let output = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    if stderr.contains("unshare: ") {
        eprintln!("SKIPPED: unshare(1) cannot make namespaces here");
        return;
    }
    assert!(output.status.success(), "{stderr}");
    assert_eq!(support::listed("leases", output.stdout).len(), 1);
}

#[test]
fn a_number_that_means_another_process_outside_is_refused_with_that_reason() {
    both(|outside| {
        // It is there outside, and not inside.
        let own = std::process::id();
        let reason = "a PID namespace of its own";
        outside.refuses(&format!("styxy allocate mine --owner pid:{own}; exit $?"), reason);
    });
    // Without a bus there is only the number.
    let outside = Outside::new(None);
    let sibling = "sleep 1000 & styxy allocate mine --owner pid:$!; exit $?";
    outside.refuses(sibling, "neither itself nor one of its ancestors");
}

#[test]
fn a_process_beside_the_caller_in_a_pid_namespace_is_an_owner_on_the_bus() {
    if styxy::surroundings::machine::key().contains('-') {
        eprintln!(
            "SKIPPED: in a container without a systemd, a sandbox cannot tell whose network the bus is in"
        );
        return;
    }
    let Some(bus) = Bus::start() else { return };
    let outside = Outside::new(Some(bus));
    outside.owns(
        &format!("sleep 1000 & styxy allocate mine --owner pid:$! -q >/dev/null; {WAIT}"),
        "2",
    );
}

#[test]
fn a_command_that_was_started_from_outside_of_its_namespace_has_no_parent_in_there() {
    both(|outside| {
        for owner in ["parent", "session"] {
            let script = format!("exec styxy allocate mine --owner {owner}");
            outside.refuses(&script, "is outside of this container");
        }
    });
}
