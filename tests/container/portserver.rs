//! The port server for tests: off until the user enables it, and then a way in like the others.

use std::{
    io::{BufRead, BufReader},
    process::Child,
    time::Duration,
};

use serde_json::json;

use crate::{
    Test,
    machine::{Done, Machine, eventually},
    package::install_newer,
};

pub const TESTS: &[Test] = &[
    ("the_port_server_is_off_until_the_user_enables_it", off),
    ("a_request_to_the_port_server_starts_the_service", starts),
    ("the_port_server_answers_after_every_end_of_the_service", ends),
    ("the_port_server_can_be_enabled_while_the_service_runs", late),
    ("the_port_server_stays_enabled_over_an_upgrade_and_a_boot", upgrade),
    ("the_port_server_answers_nobody_else", others),
];

const UNIT: &str = "styxy-portserver.socket";
const ENABLE: &str = "systemctl --user enable --now styxy-portserver.socket";
const LIMIT: Duration = Duration::from_secs(60);

/// Asks for a port, says which, and stays for as long as the last argument says.
const CLIENT: &str = r#"import os, socket, sys, time
server = socket.socket(socket.AF_UNIX)
server.connect(sys.argv[1])
server.sendall(b"%d\n" % os.getpid())
print(server.recv(1024).decode().strip(), os.getpid(), flush=True)
time.sleep(int(sys.argv[2]))"#;

/// The command of a client. The socket is that of `dev`.
fn client(seconds: u32) -> String {
    format!("python3 -c '{CLIENT}' /run/user/1000/styxy/portserver.sock {seconds}")
}

/// What a client that is gone at once was answered.
#[track_caller]
fn ask(machine: &Machine) -> String {
    let said = machine.user(&client(0)).ok();
    said.split(' ').next().unwrap().to_owned()
}

/// A client that stays: its port, its PID, and the command.
#[track_caller]
fn stay(machine: &Machine) -> (u16, u32, Child) {
    let mut child = machine.start(&client(1_000));
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let (port, pid) = line.trim().split_once(' ').unwrap_or_else(|| panic!("{line:?}"));
    (port.parse().unwrap(), pid.parse().unwrap(), child)
}

/// Ends a client as `kill -9` does; its lease ends, too.
#[track_caller]
fn kill(machine: &Machine, (port, pid, mut child): (u16, u32, Child)) {
    machine.user(&format!("kill -9 {pid}")).ok();
    child.wait().unwrap();
    eventually(LIMIT, "the lease has ended", || !ports(machine).contains(&port));
}

/// The leased ports.
fn ports(machine: &Machine) -> Vec<u16> {
    let leases = machine.user("styxy list --json").ok();
    let leases: serde_json::Value = serde_json::from_str(&leases).unwrap();
    let leases = leases["leases"].as_array().unwrap().iter();
    leases.map(|lease| u16::try_from(lease["port"].as_u64().unwrap()).unwrap()).collect()
}

fn off(machine: &Machine) {
    let is_off = || {
        assert_eq!(machine.unit_state(UNIT), "inactive");
        assert_eq!(machine.unit(UNIT, "UnitFileState"), "disabled");
        machine.user("test -e $XDG_RUNTIME_DIR/styxy/portserver.sock").code == Some(1)
    };
    assert!(is_off());
    assert_eq!(machine.unit(UNIT, "UnitFilePreset"), "disabled");
    machine.user("systemctl --user preset-all --preset-mode=enable-only").ok();
    assert!(is_off());
    assert_ne!(machine.user(&client(0)).code, Some(0));
    machine.user(ENABLE).ok();
    assert_eq!(machine.unit_state("styxy.service"), "inactive", "nobody has asked");
    assert_eq!(ask(machine), "9200");
    machine.user("systemctl --user disable --now styxy-portserver.socket").ok();
    assert!(is_off());
}

fn starts(machine: &Machine) {
    machine.user(ENABLE).ok();
    let modes = "cd $XDG_RUNTIME_DIR/styxy && stat -c '%A %U %n' *.sock";
    let both = "srw------- dev http.sock\nsrw------- dev portserver.sock\n";
    assert_eq!(machine.user(modes).ok(), both);
    let client = stay(machine);
    assert_eq!(client.0, 9200);
    assert_eq!(machine.unit_state("styxy.service"), "active");

    // The other ways in are open as well.
    let curl = "curl -sS --unix-socket $XDG_RUNTIME_DIR/styxy/http.sock http://localhost/leases";
    let listed: serde_json::Value = serde_json::from_str(&machine.user(curl).ok()).unwrap();
    let lease = &listed["leases"][0];
    assert_eq!(machine.call("List", "'a{sv}' 0").unwrap()[0].as_array().unwrap().len(), 1);
    for (key, value) in [
        ("port", json!(9200)),
        ("protocol", json!("both")),
        ("service_type", json!("test")),
        ("hold", json!("none")),
        ("owner", json!("process")),
        ("pid", json!(client.1)),
        ("comm", json!("python3")),
    ] {
        assert_eq!(lease[key], value, "{key}: {lease:#}");
    }
    let events = machine.events();
    assert_eq!(events.len(), 1, "{events:#?}");
    for (field, value) in [
        ("STYXY_ACTION", "allocate"),
        ("STYXY_PORT", "9200"),
        ("STYXY_TRANSPORT", "portserver"),
        ("STYXY_CLIENT_COMM", "python3"),
        ("STYXY_CLIENT_PID", client.1.to_string().as_str()),
    ] {
        assert_eq!(events[0][field], value, "{field}: {:#}", events[0]);
    }
    kill(machine, client);
}

fn ends(machine: &Machine) {
    machine.user(ENABLE).ok();
    let first = stay(machine);
    machine.kill_service();
    // What was granted before is not granted again, whoever starts the next service.
    let second = stay(machine);
    assert_eq!((first.0, second.0), (9200, 9201));
    machine.user("systemctl --user restart styxy.service").ok();
    let third = stay(machine);
    assert_eq!(third.0, 9202);
    machine.kill_service();
    kill(machine, first);
    assert_eq!(ports(machine), [9201, 9202]);
    kill(machine, second);
    kill(machine, third);

    machine.configure(r#"{"idle_exit_seconds": 1}"#);
    let is_idle = || machine.unit_state("styxy.service") == "inactive";
    for _ in 0..3 {
        eventually(LIMIT, "the service is idle", is_idle);
        assert_eq!(ask(machine), "9200");
    }
}

fn late(machine: &Machine) {
    let lease = machine.call("Allocate", "'sa{sv}' dev 1 service_name s web").unwrap();
    let before = machine.call("List", "'a{sv}' 0").unwrap();
    for _ in 0..2 {
        machine.user(ENABLE).ok();
        assert_eq!(machine.unit_state(UNIT), "active");
        eventually(LIMIT, "the service is there", || {
            machine.unit_state("styxy.service") == "active"
        });
        assert_eq!(machine.call("List", "'a{sv}' 0").unwrap(), before);
        kill(machine, stay(machine));
        machine.user("systemctl --user disable --now styxy-portserver.socket").ok();
        assert_eq!(machine.unit_state("styxy.service"), "active");
    }
    let port = lease[0].as_u64().unwrap();
    let bind = format!("import socket; socket.socket().bind((\"\", {port}))");
    assert_ne!(machine.user(&format!("python3 -c '{bind}'")).code, Some(0), "it is guarded");
}

fn upgrade(machine: &Machine) {
    let listens = || {
        assert_eq!(machine.unit_state(UNIT), "active");
        assert_eq!(machine.unit(UNIT, "UnitFileState"), "enabled");
    };
    machine.user(ENABLE).ok();
    let client = stay(machine);
    let pid = machine.unit("styxy.service", "MainPID");
    install_newer(machine);
    assert_ne!(machine.unit("styxy.service", "MainPID"), pid, "the new version runs");
    listens();
    assert_eq!(ports(machine), [client.0]);
    let (port, ..) = stay(machine);
    assert_eq!(port, 9201);

    // So that its clients learn that nobody is there.
    machine.root("apt-get remove -y styxy").ok();
    assert_eq!(machine.user("ls -A $XDG_RUNTIME_DIR/styxy").ok(), "");
    machine.root("apt-get install -y /var/tmp/newer.deb").ok();
    listens();
    assert_eq!(ask(machine), "9202");

    machine.script(["reboot", machine.name()]).ok();
    eventually(LIMIT, "the user's bus is back", || {
        machine.user("busctl --user status").code == Some(0)
    });
    listens();
    assert_eq!(ask(machine), "9200");
}

fn others(machine: &Machine) {
    machine.user(ENABLE).ok();
    machine.script(["user", machine.name(), "eve"]).ok();
    let eve = |command: &str| -> Done {
        machine.script(["as", machine.name(), "eve", "--", "bash", "-c", command])
    };
    let refused = |done: Done| {
        assert_ne!(done.code, Some(0), "{done:?}");
        assert_eq!(done.stdout, "");
    };
    refused(eve(&client(0)));
    // Each wall stands without those around it.
    machine.root("chmod o+rx /run/user/1000 /run/user/1000/styxy").ok();
    refused(eve(&client(0)));
    let state = eve("systemctl --user is-enabled styxy-portserver.socket").stdout;
    assert_eq!(state, "disabled\n", "what one user enables is that user's");
    machine.root("chmod o+rw /run/user/1000/styxy/portserver.sock").ok();
    for done in [eve(&client(0)), machine.root(&client(0))] {
        assert!(done.stdout.starts_with(' '), "there is no answer: {done:?}");
    }
    assert_eq!(ports(machine), [0; 0]);
    assert_eq!(ask(machine), "9200");
    assert!(machine.events().iter().all(|event| event["STYXY_CLIENT_COMM"] == "python3"));
}
