//! One registry for each user, with and without a session.

use std::time::Duration;

use serde_json::Value as Json;

use crate::{
    Test,
    machine::{Machine, eventually},
};

pub const TESTS: &[Test] = &[
    ("leases_from_before_a_login_are_the_sessions_after_it", before_the_login),
    ("guards_and_owners_are_back_after_the_bus_or_the_session_has_ended", again),
    ("a_bus_that_crashes_or_comes_back_later_is_joined_and_the_manager_not_blocked", bus_goes),
    ("a_sandbox_with_process_numbers_of_its_own_finds_the_users_service", own_numbers),
    (
        "without_the_package_the_users_manager_runs_the_service_and_nothing_of_its_caller",
        by_manager,
    ),
];

/// The bus crashes, and is stopped and started again later.
fn bus_goes(machine: &Machine) {
    let port = machine.user("styxy allocate dev").ok().trim().to_owned();
    // A manager that connects to the dead bus is deaf for 90 s.
    machine.user("kill -9 $(systemctl --user show dbus.service -P MainPID)").ok();
    machine.user("timeout 30 systemctl --user is-active styxy.socket").ok();
    eventually(LIMIT, "the service is on the new bus", || {
        machine.user("timeout 30 busctl --user --no-pager call org.styxy.Styxy1 /org/styxy/Styxy1 org.styxy.Styxy1 List 'a{sv}' 0").code == Some(0)
    });
    machine.user("systemctl --user stop dbus.socket dbus.service").ok();
    assert_eq!(machine.user("timeout 30 styxy list --json | grep -c lease_id").ok().trim(), "1");
    machine.user("systemctl --user start dbus.socket").ok();
    for _ in 0..2 {
        assert_eq!(
            machine.user("timeout 30 styxy list --json | grep -c lease_id").ok().trim(),
            "1"
        );
    }
    eventually(LIMIT, "the service is on the bus again", || {
        machine.user("timeout 30 styxy status").ok().contains("over the session bus")
    });
    assert!(machine.user("styxy list").ok().contains(&port));
}

/// As coding agents and containers on the machine's network have it.
fn own_numbers(machine: &Machine) {
    let sandboxed = "unshare --user --map-current-user --pid --fork --kill-child --mount-proc";
    let count = |command: &str| machine.user(command).ok().trim().to_owned();
    // Also before any service has run.
    machine.user(&format!("{sandboxed} styxy allocate dev --name first")).ok();
    machine.user("styxy allocate dev --name second").ok();
    assert_eq!(count("styxy list --json | grep -c lease_id"), "2");
    assert_eq!(count(&format!("{sandboxed} styxy list --json | grep -c lease_id")), "2");
    assert_eq!(
        count(&format!(
            "{sandboxed} env -u DBUS_SESSION_BUS_ADDRESS styxy list --json | grep -c lease_id"
        )),
        "2"
    );
    // Where /run is hidden, nothing tells that a systemd runs: neither its folder nor the runtime directory.
    let hidden = "unshare --map-root-user --mount sh -c 'mount -t tmpfs none /run && styxy list --json' | grep -c lease_id";
    assert_eq!(count(hidden), "2");
}

const LIMIT: Duration = Duration::from_secs(60);

/// A command of the user's as cron runs it: without a session.
const AS_CRON: &str =
    "setpriv --reuid=1000 --regid=1000 --init-groups env -i HOME=/home/dev PATH=/usr/bin:/bin";

fn log_out(machine: &Machine) {
    machine.root("loginctl disable-linger dev; systemctl stop user@1000.service").ok();
    eventually(LIMIT, "the session is over", || {
        machine.root("test -e /run/user/1000/systemd").code == Some(1)
    });
}

fn log_in(machine: &Machine) {
    machine.root("loginctl enable-linger dev; systemctl start user@1000.service").ok();
}

fn leases(machine: &Machine) -> Vec<(u64, String)> {
    let list: Json = serde_json::from_str(&machine.user("styxy list --json").ok()).unwrap();
    let list = list["leases"].as_array().unwrap().iter();
    let lease = |lease: &Json| {
        (lease["port"].as_u64().unwrap(), lease["lease_id"].as_str().unwrap().to_owned())
    };
    list.map(lease).collect()
}

/// Whether a server of another user that does not set `SO_REUSEADDR` is kept from the port.
fn is_guarded(machine: &Machine, port: u64) -> bool {
    let said = machine.root(&format!("/usr/local/bin/inside inside registry {port}")).ok();
    said.trim() == "false"
}

/// Whether a port can be bound.
pub fn inside(arguments: &[&str]) -> Json {
    use rustix::net::{AddressFamily, SocketType, bind, socket};
    let port: u16 = arguments[0].parse().unwrap();
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&socket, &std::net::SocketAddr::from(([127, 0, 0, 1], port))).is_ok().into()
}

fn before_the_login(machine: &Machine) {
    machine.put_inside();
    log_out(machine);
    let granted = machine.root(&format!("{AS_CRON} styxy allocate dev --json")).ok();
    let granted: Json = serde_json::from_str(&granted).unwrap();
    assert_eq!(granted["port"], 3000);
    assert!(is_guarded(machine, 3000));

    log_in(machine);
    eventually(LIMIT, "the unit has taken over", || {
        machine.unit_state("styxy.service") == "active"
    });
    let lease = (3000, granted["lease_id"].as_str().unwrap().to_owned());
    assert_eq!(leases(machine), [lease]);
    assert!(is_guarded(machine, 3000));
    assert_eq!(machine.unit("styxy.service", "NRestarts"), "0");
    assert_eq!(machine.call("Allocate", "'sa{sv}' dev 0").unwrap()[0], 3001);
    let next = machine.root(&format!("{AS_CRON} styxy allocate dev --new -q")).ok();
    assert_eq!(next.trim(), "3002");
    assert_eq!(machine.root("pgrep -c -u dev -x styxy").ok().trim(), "1");
}

fn again(machine: &Machine) {
    machine.put_inside();
    machine.user("styxy allocate dev").ok();
    let mut owner = machine.start("echo $$; exec sleep 600");
    let mut line = String::new();
    std::io::BufRead::read_line(
        &mut std::io::BufReader::new(owner.stdout.take().unwrap()),
        &mut line,
    )
    .unwrap();
    machine.user(&format!("styxy allocate dev --new --owner pid:{}", line.trim())).ok();
    let both = leases(machine);

    let before = machine.unit("styxy.service", "MainPID");
    machine
        .user(
            "systemctl --user restart dbus.service || systemctl --user restart dbus-broker.service",
        )
        .ok();
    eventually(LIMIT, "the service has started again", || {
        let now = machine.unit("styxy.service", "MainPID");
        now != "0" && now != before && machine.unit_state("styxy.service") == "active"
    });
    assert!(is_guarded(machine, 3000) && is_guarded(machine, 3001));
    eventually(LIMIT, "the door on the bus is open", || {
        machine.call("Check", "qs 3050 tcp").is_ok()
    });
    assert_eq!(leases(machine), both);

    log_out(machine);
    log_in(machine);
    eventually(LIMIT, "the service is back without a call", || {
        machine.unit_state("styxy.service") == "active"
    });
    eventually(LIMIT, "the guards are back", || {
        is_guarded(machine, 3000) && is_guarded(machine, 3001)
    });
    machine.root(&format!("kill {}", line.trim())).ok();
    owner.wait().unwrap();
    eventually(LIMIT, "its owner's end ends a lease", || leases(machine) == both[..1]);
}

fn by_manager(machine: &Machine) {
    let suite = machine.name().split('-').next().unwrap();
    let machine = &Machine::boot_without_package(suite, "by-manager");
    machine.root("install -d -o dev -g dev /home/dev/bin").ok();
    machine.put(env!("CARGO_BIN_EXE_styxy"), "/home/dev/bin/styxy");
    let command = |arguments: &str| machine.user(&format!("~/bin/styxy {arguments}")).ok();
    let leases = || {
        let list: Json = serde_json::from_str(&command("list --json")).unwrap();
        list["leases"]
            .as_array()
            .unwrap()
            .iter()
            .map(|lease| lease["lease_id"].to_string())
            .collect::<Vec<_>>()
    };
    let main_pid = || machine.unit("styxy-private.service", "MainPID");

    // The first caller is a unit that ends, with things that nobody must inherit.
    let caller = r"exec 9>~/lock; flock 9; umask 0
        SECRET_TOKEN=abc ~/bin/styxy allocate dev --ttl 3600 && touch ~/granted; sleep 600";
    let mut caller = machine
        .start(&format!("systemd-run --user --quiet --scope --unit=caller bash -c '{caller}'"));
    eventually(LIMIT, "a port is granted", || machine.user("test -e ~/granted").code == Some(0));
    let pid = main_pid();
    let of_process = |file: &str| machine.root(&format!("tr '\\0' '\\n' </proc/{pid}/{file}")).ok();
    let cgroup = of_process("cgroup");
    assert!(cgroup.contains("/user@1000.service/app.slice/styxy-private.service"), "{cgroup}");
    assert!(of_process("status").contains("\nUmask:\t0077\n"));
    let environment = of_process("environ");
    assert!(environment.contains("HOME=") && !environment.contains("SECRET"), "{environment}");
    let inherited = machine.root(&format!("find /proc/{pid}/fd -lname /home/dev/lock")).ok();
    assert_eq!(inherited, "");

    let before = leases();
    assert_eq!(before.len(), 1);
    machine.user("systemctl --user stop caller.scope").ok();
    caller.wait().unwrap();
    machine.user("flock --nonblock ~/lock true").ok();
    assert_eq!((main_pid(), leases()), (pid.clone(), before.clone()));

    // Killed, it is started by the manager; stopped, by the next command.
    machine.root(&format!("kill -9 {pid}")).ok();
    eventually(LIMIT, "it is started again", || {
        let now = main_pid();
        now != "0" && now != pid && machine.unit_state("styxy-private.service") == "active"
    });
    assert_eq!(leases(), before);
    machine.user("systemctl --user stop styxy-private.service").ok();
    assert_ne!(machine.unit_state("styxy-private.service"), "active");
    assert_eq!(leases(), before);
    assert_eq!(machine.unit_state("styxy-private.service"), "active");
}
