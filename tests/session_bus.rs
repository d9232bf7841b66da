//! How a command finds the service where the session bus is odd, on a bus of each test's own.

mod support;

use std::{
    fs::{self, Permissions},
    os::unix::{fs::PermissionsExt, net::UnixListener},
    process::{Command, Output, Stdio},
    thread,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use support::{Home, bus::Bus, end, started};

/// Runs the command with that address of the session bus.
fn on(home: &Home, address: &str, arguments: &[&str]) -> Output {
    let output = home
        .styxy()
        .env("DBUS_SESSION_BUS_ADDRESS", address)
        .args(arguments)
        .stdout(Stdio::piped())
        .output()
        .unwrap();
    home.run(&["status"]);
    output
}

fn said(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
    (text(&output.stdout), text(&output.stderr))
}

#[track_caller]
fn serves(home: &Home, address: &str) {
    let output = on(home, address, &["allocate", "mine", "-q"]);
    let (port, stderr) = said(&output);
    assert!(output.status.success(), "{address}: {stderr}");
    assert!(port.parse::<u16>().is_ok_and(|port| home.port(0) <= port && port <= home.port(9)));
}

#[test]
fn a_bus_that_knows_no_styxy_leads_to_a_service_of_the_commands_own() {
    let Some(bus) = Bus::start() else { return };
    let home = Home::with_type();
    serves(&home, &bus.address);
    let status = said(&on(&home, &bus.address, &["status"])).0;
    assert!(status.contains("over the session bus"), "it has joined the bus: {status}");
}

#[test]
fn a_bus_that_cannot_start_the_service_leads_to_the_one_on_the_socket() {
    let Some(bus) = Bus::starting("/bin/false") else { return };
    let home = Home::with_type();
    let service = home.service();
    serves(&home, &bus.address);
    assert!(said(&on(&home, &bus.address, &["status"])).0.contains("over its HTTP socket"));
    end(service, Signal::SIGTERM);
}

#[test]
fn a_service_that_the_bus_starts_and_that_stays_off_it_is_reached_over_the_socket() {
    let home = Home::with_type();
    let program = home.path("off");
    let styxy = home.styxy();
    let variables = styxy
        .get_envs()
        .map(|(name, value)| format!("{}={}", name.display(), value.unwrap().display()));
    let variables = variables.collect::<Vec<_>>().join(" ");
    let script = format!(
        "#!/bin/sh\nexec env {variables} DBUS_SESSION_BUS_ADDRESS=disabled: {} daemon\n",
        env!("CARGO_BIN_EXE_styxy")
    );
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
    let Some(bus) = Bus::starting(program.to_str().unwrap()) else { return };
    let port = said(&on(&home, &bus.address, &["allocate", "mine", "-q", "--timeout", "20"])).0;
    assert_eq!(port, home.port(0).to_string());
    let status = said(&on(&home, &bus.address, &["status", "--json"])).0;
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    assert_eq!(
        (&status["transport"], &status["on_bus"]),
        (&"http".into(), &false.into()),
        "{status}"
    );
}

#[test]
fn no_address_of_a_bus_keeps_a_command_from_a_service() {
    let home = Home::with_type();
    let refuses = home.path("refuses");
    drop(UnixListener::bind(&refuses).unwrap());
    let hangs_up = home.path("hangs-up");
    let listener = UnixListener::bind(&hangs_up).unwrap();
    thread::spawn(move || listener.incoming().for_each(drop));
    let stale = format!("unix:path={}", refuses.display());
    let foreign = format!("unix:path={}", hangs_up.display());
    for address in [
        "",
        "nonsense",
        "unix:path=/nonexistent/bus",
        "unix:abstract=nobody-listens-here",
        stale.as_str(),
        foreign.as_str(),
    ] {
        serves(&home, address);
    }
}

#[test]
fn a_service_that_does_not_answer_is_named_and_given_up_at_the_timeout() {
    let Some(bus) = Bus::start() else { return };
    let home = Home::with_type();
    let mut command = home.styxy();
    command.env("DBUS_SESSION_BUS_ADDRESS", &bus.address);
    let service = started(command);
    let pid = Pid::from_raw(i32::try_from(service.id()).unwrap());
    kill(pid, Signal::SIGSTOP).unwrap();
    for (address, way) in
        [(&*bus.address, "the service over the session bus"), ("unix:path=/", "the service on /")]
    {
        let mut command = home.styxy();
        command.env("DBUS_SESSION_BUS_ADDRESS", address).args(["list", "--timeout", "3"]);
        let output = command.output().unwrap();
        let (_, stderr) = said(&output);
        assert_eq!(output.status.code(), Some(3), "{stderr}");
        let (waiting, end) = stderr.split_once('\n').unwrap();
        assert!(waiting.starts_with(&format!("styxy: waiting for {way}")), "{stderr}");
        assert!(end.contains("did not answer within 3 s"), "{stderr}");
    }
    kill(pid, Signal::SIGCONT).unwrap();
    end(service, Signal::SIGTERM);
}

#[test]
fn no_verb_waits_longer_than_the_timeout_and_none_in_silence() {
    let home = Home::with_type();
    // A bus that takes connections and never answers.
    let silent = home.path("silent");
    let _listener = UnixListener::bind(&silent).unwrap();
    let address = format!("unix:path={}", silent.display());
    // A pipe that nobody opens, and a program that never answers.
    let pipe = home.path("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let pipe = pipe.to_str().unwrap();
    let tools = home.path("tools");
    std::fs::create_dir(&tools).unwrap();
    let hangs = tools.join("journalctl");
    std::fs::write(&hangs, "#!/bin/sh\nexec sleep 60\n").unwrap();
    std::fs::set_permissions(&hangs, Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:/usr/bin:/bin", tools.display());
    let given_up = |arguments: &[&str], what: &str| {
        let mut command = home.styxy();
        command.env("DBUS_SESSION_BUS_ADDRESS", "unix:path=/").env("PATH", &path);
        let output = command.args(["--timeout", "3"]).args(arguments).output().unwrap();
        let (_, stderr) = said(&output);
        assert_eq!(output.status.code(), Some(3), "{arguments:?}: {stderr}");
        let (waiting, end) = stderr.split_once('\n').unwrap();
        assert!(waiting.starts_with("styxy: waiting for") && waiting.contains(what), "{stderr}");
        assert!(end.contains("within 3 s"), "{stderr}");
    };
    let done = |arguments: &[&str]| {
        let start = std::time::Instant::now();
        let output = on(&home, &address, arguments);
        assert_ne!(output.status.code(), Some(3), "{}", said(&output).1);
        assert!(start.elapsed().as_secs() < 25, "{arguments:?}");
        said(&output).0
    };
    // All of them only wait.
    thread::scope(|scope| {
        scope.spawn(|| given_up(&["config", "validate", pipe], "pipe"));
        scope.spawn(|| given_up(&["audit"], "journalctl"));
        scope.spawn(|| given_up(&["audit", "--stats"], "journalctl"));
        scope.spawn(|| done(&["scan"]));
        let doctor = done(&["doctor"]);
        assert!(doctor.contains("the session bus does not answer"), "{doctor}");
    });
}

#[test]
fn a_command_that_asks_twice_waits_no_longer_than_one_that_asks_once() {
    let home = Home::with_type();
    let service = home.service();
    let pid = Pid::from_raw(i32::try_from(service.id()).unwrap());
    kill(pid, Signal::SIGSTOP).unwrap();
    let mut command = home.styxy();
    command.env("DBUS_SESSION_BUS_ADDRESS", "unix:path=/").args(["scan", "--timeout", "3"]);
    let start = std::time::Instant::now();
    let output = command.output().unwrap();
    assert!(start.elapsed().as_secs() < 6, "{:?}", said(&output));
    kill(pid, Signal::SIGCONT).unwrap();
    end(service, Signal::SIGTERM);
}

#[test]
fn without_systemd_dbus_run_session_serves_as_the_readme_has_it() {
    let home = Home::with_type();
    let mut command = Command::new("dbus-run-session");
    command.arg("--").arg(home.styxy().get_program()).args(["allocate", "mine", "-q"]);
    command.env_clear().env("PATH", "/usr/bin:/bin");
    for (name, value) in home.styxy().get_envs() {
        command.env(name, value.unwrap());
    }
    let output = command.output().unwrap();
    home.run(&["status"]);
    let (port, stderr) = said(&output);
    assert!(port.parse::<u16>().is_ok(), "{stderr}");
}
