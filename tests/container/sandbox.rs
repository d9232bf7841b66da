//! What becomes of the service where its sandbox cannot be set up.

use std::time::{Duration, Instant};

use serde_json::Value as Json;

#[cfg(target_arch = "x86_64")]
use crate::within::{self, Within};
use crate::{
    Test,
    machine::{Machine, eventually},
    setup::FULL,
};

pub const TESTS: &[Test] = &[
    ("where_namespaces_or_mounts_are_forbidden_the_service_has_a_smaller_sandbox", smaller),
    ("the_service_proves_its_sandbox_from_inside", proof),
    #[cfg(target_arch = "x86_64")]
    ("each_layer_of_the_sandbox_holds_alone", alone),
    ("doctor_names_what_is_in_the_way_and_opens_the_door_again", doctor),
    ("a_service_that_cannot_start_ends_its_clients_and_a_killed_one_does_not", failed),
    ("the_strict_example_keeps_the_service_off_the_bus", strict),
];

/// What forbids user namespaces, and what forbids mounts in them as Ubuntu's `AppArmor` does.
pub const FORBIDDEN: [&str; 2] =
    ["RestrictNamespaces=~user", "SystemCallFilter=~@mount\\nSystemCallErrorNumber=EPERM"];

/// Patience for what takes a moment here, and two minutes where dbus-daemon waits for a unit that has failed.
const CURL: &str =
    "curl -sS --max-time 30 --unix-socket $XDG_RUNTIME_DIR/styxy/http.sock http://localhost";
pub const BUSCTL: &str =
    "busctl --user --timeout=30 call org.styxy.Styxy1 /org/styxy/Styxy1 org.styxy.Styxy1";

/// What the unit's filter of system calls refuses, whatever else it allows.
#[cfg(target_arch = "x86_64")]
const RING: &str = "make a ring for io_uring";

/// Starts the user's manager again, with these settings.
pub fn restart_manager(machine: &Machine, settings: &str) {
    machine
        .root(&format!(
            "mkdir -p /etc/systemd/system/user@.service.d
             printf '[Service]\\n{settings}\\n' >/etc/systemd/system/user@.service.d/test.conf
             systemctl daemon-reload && systemctl restart user@1000.service"
        ))
        .ok();
}

/// The layers that the running service finds itself in.
fn layers(machine: &Machine) -> Vec<Json> {
    let status = machine.user("styxy status --json").ok();
    let status: Json = serde_json::from_str(&status).unwrap();
    status["sandbox"].as_array().unwrap().clone()
}

/// How far Landlock limits the running service, and what is said of the rest.
fn landlock(machine: &Machine) -> (String, String) {
    let status = machine.user("styxy status --json").ok();
    let status: Json = serde_json::from_str(&status).unwrap();
    let text = |key: &str| status[key].as_str().unwrap_or_default().to_owned();
    (text("landlock"), text("landlock_note"))
}

/// What doctor finds, as one text, and whether nothing is bad.
fn examination(machine: &Machine, options: &str) -> (String, bool) {
    let done = machine.user(&format!("timeout 60 styxy doctor {options}"));
    assert!(matches!(done.code, Some(0 | 1)), "{done:?}");
    (done.stdout, done.code == Some(0))
}

/// Whether doctor has found that to be in order; how wide its columns are depends on the rest.
fn is_ok(said: &str, check: &str) -> bool {
    said.lines().any(|line| line.split_whitespace().take(2).eq(["ok", check]))
}

fn proof(machine: &Machine) {
    assert_eq!(layers(machine), FULL);
    let (said, is_good) = examination(machine, "");
    assert!(is_good && is_ok(&said, "sandbox") && is_ok(&said, "landlock"), "{said}");

    // What the user takes away is missed, though the package's unit says otherwise.
    machine
        .user(
            "mkdir -p ~/.config/systemd/user/styxy.service.d
             printf '[Service]\\nTemporaryFileSystem=\\nProtectHome=no\\n' \
                 >~/.config/systemd/user/styxy.service.d/mine.conf
             systemctl --user daemon-reload && systemctl --user restart styxy.service",
        )
        .ok();
    assert_eq!(layers(machine), [&FULL[..3], &FULL[4..]].concat());
    let (said, is_good) = examination(machine, "");
    assert!(!is_good && said.contains("it can see the user's files"), "{said}");
}

fn doctor(machine: &Machine) {
    restart_manager(machine, FORBIDDEN[0]);
    let (said, is_good) = examination(machine, "");
    assert!(is_good && said.contains("warning  sandbox"), "{said}");
    assert!(said.contains("user namespaces or mounts in them are forbidden here"), "{said}");

    // Without the generator the service cannot start, on whichever way it is called.
    let generator = "/usr/lib/systemd/user-generators/styxy-generator";
    machine.root(&format!("chmod -x {generator}")).ok();
    restart_manager(machine, FORBIDDEN[0]);
    machine.user(&format!("{BUSCTL} --expect-reply=no List 'a{{sv}}' 0")).ok();
    let limit = Duration::from_secs(60);
    eventually(limit, "it has failed", || machine.unit_state("styxy.service") == "failed");
    let (said, is_good) = examination(machine, "");
    assert!(!is_good && said.contains("user namespaces"), "{said}");
    assert!(said.contains("styxy doctor --fix"), "{said}");
    let (said, is_good) = examination(machine, "--fix");
    assert!(!is_good && said.contains("warning  fix"), "{said}");

    machine.root(&format!("chmod +x {generator}")).ok();
    let (said, is_good) = examination(machine, "--fix");
    assert!(is_good && is_ok(&said, "fix"), "{said}");
    assert_eq!(machine.unit_state("styxy.socket"), "active");
    machine.user(&format!("{BUSCTL} Allocate 'sa{{sv}}' dev 0")).ok();

    machine.user("rm -r $XDG_RUNTIME_DIR/styxy").ok();
    let (said, is_good) = examination(machine, "");
    assert!(!is_good && said.contains("styxy doctor --fix"), "{said}");
    let (said, is_good) = examination(machine, "--fix");
    assert!(is_good && is_ok(&said, "socket"), "{said}");

    machine.user("systemctl --user mask --now styxy.socket styxy.service").ok();
    let (said, is_good) = examination(machine, "--fix");
    assert!(!is_good && said.contains("systemctl --user unmask styxy.service"), "{said}");
    machine.user("systemctl --user unmask styxy.socket styxy.service").ok();
    let (said, is_good) = examination(machine, "--fix");
    assert!(is_good, "{said}");
}

fn main_process(machine: &Machine) -> String {
    let pid = machine.unit("styxy.service", "MainPID");
    machine.root(&format!("cat /proc/{pid}/status")).ok()
}

fn smaller(machine: &Machine) {
    for settings in FORBIDDEN {
        restart_manager(machine, settings);
        machine.user(&format!("{BUSCTL} Allocate 'sa{{sv}}' dev 0")).ok();
        let answer = machine.user(&format!("{CURL}/allocations")).ok();
        assert!(answer.contains("\"success\":true"), "{settings}: {answer}");
        assert_eq!(machine.unit("styxy.service", "NRestarts"), "0", "{settings}");
        let status = main_process(machine);
        for line in ["NoNewPrivs:\t1", "Seccomp:\t2", "CapEff:\t0000000000000000"] {
            assert!(status.contains(line), "{settings}: {line}: {status}");
        }
        let families = machine.unit("styxy.service", "RestrictAddressFamilies");
        assert!(families.contains("AF_NETLINK") && !families.contains("AF_PACKET"), "{families}");
    }
    // What the user says counts more.
    machine
        .user(
            "mkdir -p ~/.config/systemd/user/styxy.service.d
             printf '[Service]\\nProtectHome=read-only\\n' >~/.config/systemd/user/styxy.service.d/mine.conf
             systemctl --user daemon-reload",
        )
        .ok();
    assert_eq!(machine.unit("styxy.service", "ProtectHome"), "read-only");
    assert_eq!(machine.unit("styxy.service", "PrivateUsers"), "no");
    // Nothing is left of it when nothing is forbidden any more.
    machine.user("rm -r ~/.config/systemd").ok();
    restart_manager(machine, "");
    machine.user(&format!("{BUSCTL} Allocate 'sa{{sv}}' dev 0")).ok();
    assert_eq!(machine.unit("styxy.service", "DropInPaths"), "");
    assert!(main_process(machine).contains("CapBnd:\t0000000000000000"));
}

fn failed(machine: &Machine) {
    // Without a lease, for which it would be started at the login.
    let list = format!("{BUSCTL} List 'a{{sv}}' 0");
    machine.user(&list).ok();
    machine.kill_service();
    machine.user(&format!("{CURL}/allocations")).ok();
    assert_eq!(machine.unit("styxy-failed.service", "InactiveExitTimestampMonotonic"), "0");
    assert_eq!(machine.unit_state("styxy.socket"), "active");

    machine.root("chmod -x /usr/lib/systemd/user-generators/styxy-generator").ok();
    restart_manager(machine, FORBIDDEN[0]);
    let done = machine.user(&format!("{CURL}/allocations"));
    // 52, 55, 56: the connection was closed, perhaps before the request was sent; 7: somebody else had it started before, so
    // the socket is.
    assert!(matches!(done.code, Some(7 | 52 | 55 | 56)), "{done:?}");
    let limit = Duration::from_secs(60);
    eventually(limit, "the socket is closed", || machine.unit_state("styxy.socket") == "inactive");
    assert_eq!(machine.unit("styxy.service", "NRestarts"), "0");
    assert_eq!(machine.unit("styxy.service", "ExecMainStatus"), "217");
    let failures = "journalctl -b -o cat | grep -c '^Failed to start styxy.service'";
    assert_eq!(machine.root(failures).ok(), "1\n");

    // The next manager listens again, and so it goes on when nothing is forbidden.
    restart_manager(machine, "");
    assert_eq!(machine.unit_state("styxy.socket"), "active");
    machine.user(&list).ok();
}

fn strict(machine: &Machine) {
    const EXAMPLE: &str = "/usr/share/doc/styxy/examples/strict.conf";
    machine.user("styxy allocate dev").ok();
    // As it says itself.
    let commands = format!("sed -n 's/^#     //p' {EXAMPLE}");
    assert!(machine.user(&commands).ok().lines().count() > 2);
    machine.user(&format!("set -e; eval \"$({commands})\"")).ok();
    assert_eq!(machine.user("styxy allocate dev --new").ok(), "3001\n");
    let pid = machine.unit("styxy.service", "MainPID");
    let listed = machine.user("styxy exec dev -- true && styxy list --json").ok();
    assert!(listed.contains("3000") && listed.contains("3001"), "{listed}");
    assert_eq!(machine.unit("styxy.service", "MainPID"), pid, "no command has it look for a bus");
    let runtime = machine.root(&format!("ls -A /proc/{pid}/root/run/user/1000")).ok();
    assert_eq!(runtime, "styxy\nsystemd\n");
    let (said, is_good) = examination(machine, "");
    assert!(is_good && said.contains("kept off the session bus"), "{said}");
    assert!(!said.contains("the bus can start the service"), "{said}");
    for before in ["true", "systemctl --user stop styxy.service"] {
        let seen = machine.user(&format!(
            "{before}; timeout 60 styxy watch >seen &
             for ((i = 0; i < 60; i++)); do
                 styxy allocate dev --name again >again && styxy release again >again; [[ ! -s seen ]] || break; sleep 0.5
             done; kill %1; cat seen"
        ));
        assert!(seen.stdout.contains("again"), "{before}: {seen:?}");
    }
    machine.user("styxy allocate dev").ok();
    let start = Instant::now();
    let error = machine.call("List", "'a{sv}' 0").unwrap_err();
    assert!(error.contains("org.styxy.Styxy1"), "{error}");
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    // Without the file that has the bus refuse, a command waits no longer for a name that never comes.
    machine
        .user(
            "rm ~/.local/share/dbus-1/services/org.styxy.Styxy1.service
             systemctl --user reload dbus.service && systemctl --user stop styxy.service",
        )
        .ok();
    let start = Instant::now();
    assert_eq!(machine.user("styxy port dev --timeout 60").ok(), "3000\n");
    assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
    // Which other program asks makes no difference.
    assert_eq!(machine.user("DBUS_SESSION_BUS_ADDRESS=disabled: styxy port dev").ok(), "3000\n");
}

/// Gives the unit these settings, and has the service started with them.
#[cfg(target_arch = "x86_64")]
fn with_settings(machine: &Machine, settings: &str) {
    machine
        .user(&format!(
            "mkdir -p ~/.config/systemd/user/styxy.service.d
             printf '[Service]\\n{settings}\\n' >~/.config/systemd/user/styxy.service.d/mine.conf
             systemctl --user daemon-reload && systemctl --user restart styxy.service"
        ))
        .ok();
    machine.call("Allocate", "'sa{sv}' dev 0").unwrap();
}

/// Tries from inside of the running service, in each of its threads, what it may not do: the deeds that are not in vain.
#[cfg(target_arch = "x86_64")]
fn tried(machine: &Machine) -> (Json, Vec<String>) {
    machine.put_inside();
    let pid = machine.unit("styxy.service", "MainPID");
    let said = machine.root(&format!("/usr/local/bin/inside inside deeds {pid}")).ok();
    let said: Json = serde_json::from_str(said.trim()).unwrap();
    let deeds = said.as_object().unwrap();
    assert!(deeds.len() >= 20, "two threads at least: {said}");
    let done = deeds.iter().filter(|(_, result)| **result == "done");
    let done = done.map(|(deed, _)| deed.clone()).collect();
    (said, done)
}

/// What runs in the machine, as root: root may trace the service of a user.
#[cfg(target_arch = "x86_64")]
pub fn deeds(pid: u32) -> Json {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let std::net::SocketAddr::V4(server) = listener.local_addr().unwrap() else { unreachable!() };
    // The user's manager, which an unlimited process of the user may send signals to.
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    let parent = fields.split(' ').nth(1).unwrap().parse().unwrap();
    let home = std::path::Path::new("/home/dev");
    // Where the kernel has it for nobody, nothing is found out.
    let mut other = std::process::Command::new("sleep").arg("60").spawn().unwrap();
    let has_rings = Within::thread(other.id().cast_signed()).unwrap().io_uring().is_ok();
    other.kill().unwrap();
    other.wait().unwrap();
    let rings = if has_rings { Within::threads(pid) } else { Vec::new() };
    let rings = rings.into_iter().enumerate().filter_map(|(index, thread)| {
        let result = Within::thread(thread)?.io_uring();
        let result = result.err().map_or_else(|| "done".to_owned(), |errno| format!("{errno:?}"));
        Some((format!("{RING} ({index})"), result))
    });
    // After these it may be another program.
    let rings: Vec<_> = rings.collect();
    let mut deeds = within::deeds(pid, home, server, parent);
    deeds.extend(rings);
    serde_json::json!(deeds)
}

#[cfg(target_arch = "x86_64")]
fn alone(machine: &Machine) {
    const OPEN: &str = "PrivateUsers=no\\nTemporaryFileSystem=\\nBindPaths=\\nProtectHome=no\\nProtectSystem=no\\nPrivateTmp=no\\nPrivateDevices=no\\nProtectKernelTunables=no\\nProtectKernelModules=no\\nProtectControlGroups=no\\nProtectClock=no\\nProtectHostname=no\\nNoExecPaths=\\nExecPaths=\\nCapabilityBoundingSet=~";
    machine.user("mkdir ~/.ssh && echo secret >~/.ssh/id && touch ~/.ssh/old").ok();
    machine.call("Allocate", "'sa{sv}' dev 0").unwrap();

    // All of them together.
    assert_eq!(landlock(machine), ("full".to_owned(), String::new()));
    let (said, done) = tried(machine);
    assert!(done.is_empty(), "{said}");

    // Landlock without what takes a namespace.
    with_settings(machine, OPEN);
    assert_eq!(landlock(machine), ("full".to_owned(), String::new()));
    assert!(!layers(machine).contains(&"hidden_home".into()));
    let (said, done) = tried(machine);
    assert!(done.is_empty(), "{said}");
    for (deed, result) in said.as_object().unwrap() {
        let is_eperm = deed.starts_with("signal") || deed.starts_with(RING);
        assert_eq!(result, if is_eperm { "EPERM" } else { "EACCES" }, "{deed}: {said}");
    }
    // The journal is read, and the log where the service writes: events are confirmed.
    eventually(Duration::from_secs(60), "every event is in the journal", || {
        machine.user("styxy status").ok().contains("every event is in the journal")
    });

    // The mounts without Landlock, and the reason is said.
    let refused = "SystemCallFilter=~landlock_create_ruleset";
    with_settings(machine, refused);
    let (strength, note) = landlock(machine);
    assert_eq!(strength, "none");
    assert!(note.contains("a filter of system calls refuses it"), "{note}");
    assert_eq!(layers(machine).len(), 5);
    let (said, is_good) = examination(machine, "");
    assert!(is_good && said.contains("warning  landlock") && is_ok(&said, "sandbox"), "{said}");
    let (said, done) = tried(machine);
    let mounts = ["connect", "execute /bin/sh", "list ~", "signal"];
    assert!(done.iter().all(|deed| mounts.iter().any(|word| deed.starts_with(word))), "{said}");
    assert!(
        done.iter().any(|deed| deed.starts_with("connect")),
        "it is Landlock that refuses it: {said}"
    );

    // Neither: the questions are good.
    let rings = "SystemCallFilter=io_uring_setup io_uring_enter io_uring_register";
    with_settings(machine, &format!("{OPEN}\\n{refused}\\n{rings}"));
    let (said, done) = tried(machine);
    assert!(done.iter().any(|deed| deed.starts_with("read ~/.ssh/id")), "{said}");
    if said.as_object().unwrap().keys().any(|deed| deed.starts_with(RING)) {
        assert!(done.iter().any(|deed| deed.starts_with(RING)), "{said}");
    } else {
        eprintln!("SKIPPED: the kernel has no io_uring for anybody");
    }
}
