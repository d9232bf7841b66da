//! A service whose doors are slow, silent, gone or dead.

mod support;

use std::{
    cell::RefCell,
    fs::{self, File},
    os::unix::net::{UnixDatagram, UnixListener},
    process::{Child, Command, Stdio},
    time::Duration,
};

use nix::{
    fcntl::{Flock, FlockArg},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use support::{Home, bus::Bus, end, started};

fn pid(service: &Child) -> Pid {
    Pid::from_raw(i32::try_from(service.id()).unwrap())
}

/// A service with that address of the session bus.
fn service_on(home: &Home, address: &str) -> Child {
    let mut command = home.styxy();
    command.env("DBUS_SESSION_BUS_ADDRESS", address);
    started(command)
}

fn ends(home: &Home, service: Child) {
    let service = RefCell::new(service);
    home.until(|| service.borrow_mut().try_wait().unwrap().is_some());
}

/// Whether a command that knows no socket finds the service on that bus.
fn is_on(bus: &Bus) -> bool {
    let output = Command::new("busctl")
        .arg(format!("--address={}", bus.address))
        .args(["status", "org.styxy.Styxy1"])
        .output()
        .unwrap();
    output.status.success()
}

/// A service as systemd starts it, with a watchdog of two seconds; the manager is the socket `notify`.
fn unit_on(home: &Home, bus: &Bus) -> Child {
    let styxy = home.styxy();
    let mut command = Command::new("sh");
    command.args(["-c", "SYSTEMD_EXEC_PID=$$ WATCHDOG_PID=$$ exec \"$0\" daemon"]);
    command.arg(styxy.get_program()).env_clear();
    for (name, value) in styxy.get_envs() {
        command.env(name, value.unwrap());
    }
    command
        .env("DBUS_SESSION_BUS_ADDRESS", &bus.address)
        .env("NOTIFY_SOCKET", home.path("notify"))
        .env("WATCHDOG_USEC", "2000000")
        .env("STATE_DIRECTORY", home.state())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
fn a_silent_bus_keeps_the_socket_from_no_call_and_the_service_from_no_signal() {
    let home = Home::with_type();
    let silent = home.path("silent");
    let _listener = UnixListener::bind(&silent).unwrap();
    let service = service_on(&home, &format!("unix:path={}", silent.display()));
    let granted = home.http("POST", "/allocate", r#"{"service_type": "mine"}"#);
    assert_eq!(granted.status, 200, "{granted:?}");
    // So does a command that meets both.
    let mut command = home.styxy();
    command.env("DBUS_SESSION_BUS_ADDRESS", format!("unix:path={}", silent.display()));
    let output = command.args(["list"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    kill(pid(&service), Signal::SIGTERM).unwrap();
    ends(&home, service);
}

#[test]
fn a_bus_that_comes_or_comes_back_is_joined() {
    let home = Home::with_type();
    let socket = home.path("bus");
    let service = service_on(&home, &format!("unix:path={}", socket.display()));
    for _ in 0..2 {
        let Some(bus) = Bus::at(&socket) else { break };
        home.until(|| {
            // Somebody uses the service: at rest it does not look for a bus.
            home.http("GET", "/allocations", "");
            is_on(&bus)
        });
        drop(bus);
        let _ = fs::remove_file(&socket);
    }
    assert_eq!(home.http("GET", "/status", "").status, 200, "it outlives the bus");
    end(service, Signal::SIGTERM);
}

#[test]
fn a_reload_that_waits_for_a_file_keeps_the_service_from_no_signal() {
    let home = Home::with_type();
    let folder = home.config().join("config.d");
    fs::create_dir_all(&folder).unwrap();
    let file = File::create(folder.join(".styxy-auto.lock")).unwrap();
    let _lock = Flock::lock(file, FlockArg::LockExclusive).unwrap();
    let service = home.service();
    kill(pid(&service), Signal::SIGHUP).unwrap();
    kill(pid(&service), Signal::SIGTERM).unwrap();
    ends(&home, service);
}

#[test]
fn the_unit_s_line_is_right_after_each_change() {
    let Some(bus) = Bus::start() else { return };
    let home = Home::with_type();
    let manager = UnixDatagram::bind(home.path("notify")).unwrap();
    manager.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let until = |wanted: &str| loop {
        let mut buffer = [0; 4096];
        let length = manager.recv(&mut buffer).unwrap_or_else(|error| panic!("{wanted}: {error}"));
        if String::from_utf8_lossy(&buffer[..length]).lines().any(|line| line == wanted) {
            break;
        }
    };
    let service = unit_on(&home, &bus);
    until("READY=1");
    let lease = |name: &str| {
        let body = format!(r#"{{"service_type": "mine", "service_name": "{name}"}}"#);
        home.http("POST", "/allocate", &body).body["lease_id"].as_str().unwrap().to_owned()
    };
    let one = lease("one");
    until("STATUS=1 lease");
    let other = lease("other");
    until("STATUS=2 leases");
    for (id, wanted) in [(one, "STATUS=1 lease"), (other, "STATUS=0 leases")] {
        assert_eq!(home.http("DELETE", &format!("/allocate/{id}"), "").status, 200);
        until(wanted);
    }
    // This manager reads nothing any more, so an orderly end would wait for it.
    end(service, Signal::SIGKILL);
}

#[test]
fn the_watchdog_is_fed_only_while_both_doors_answer() {
    let Some(bus) = Bus::start() else { return };
    let home = Home::with_type();
    let manager = UnixDatagram::bind(home.path("notify")).unwrap();
    manager.set_read_timeout(Some(Duration::from_secs(4))).unwrap();
    let service = unit_on(&home, &bus);
    let beats = || {
        let mut message = [0; 4096];
        loop {
            match manager.recv(&mut message) {
                Ok(length) if message[..length].starts_with(b"WATCHDOG=1") => return true,
                Ok(_) => {}
                Err(_) => return false,
            }
        }
    };
    assert!((0..3).all(|_| beats()), "both doors answer");
    bus.stop();
    // What was sent before.
    while beats() {}
    bus.go_on();
    assert!(beats(), "both answer again");
    end(service, Signal::SIGKILL);
}
