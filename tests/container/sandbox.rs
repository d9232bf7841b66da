//! What becomes of the service where its sandbox cannot be set up.

use std::time::Duration;

use crate::{
    Test,
    machine::{Machine, eventually},
};

pub const TESTS: &[Test] = &[
    ("where_namespaces_or_mounts_are_forbidden_the_service_has_a_smaller_sandbox", smaller),
    ("a_service_that_cannot_start_ends_its_clients_and_a_killed_one_does_not", failed),
];

/// What forbids user namespaces, mounts in them as Ubuntu's AppArmor does, and mounts at the price of one's life.
const FORBIDDEN: [&str; 3] = [
    "RestrictNamespaces=~user",
    "SystemCallFilter=~@mount\\nSystemCallErrorNumber=EPERM",
    "SystemCallFilter=~@mount",
];

/// Patience for what takes a moment here, and two minutes where dbus-daemon waits for a unit that has failed.
const CURL: &str =
    "curl -sS --max-time 30 --unix-socket $XDG_RUNTIME_DIR/styxy/http.sock http://localhost";
const BUSCTL: &str =
    "busctl --user --timeout=30 call org.styxy.Styxy1 /org/styxy/Styxy1 org.styxy.Styxy1";

/// Starts the user's manager again, with these settings.
fn restart_manager(machine: &Machine, settings: &str) {
    machine
        .root(&format!(
            "mkdir -p /etc/systemd/system/user@.service.d
             printf '[Service]\\n{settings}\\n' >/etc/systemd/system/user@.service.d/test.conf
             systemctl daemon-reload && systemctl restart user@1000.service"
        ))
        .ok();
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
    let allocate = format!("{BUSCTL} Allocate 'sa{{sv}}' dev 0");
    machine.user(&allocate).ok();
    machine.kill_service();
    machine.user(&format!("{CURL}/allocations")).ok();
    assert_eq!(machine.unit("styxy-failed.service", "InactiveExitTimestampMonotonic"), "0");
    assert_eq!(machine.unit_state("styxy.socket"), "active");

    machine.root("chmod -x /usr/lib/systemd/user-generators/styxy-generator").ok();
    restart_manager(machine, FORBIDDEN[0]);
    let done = machine.user(&format!("{CURL}/allocations"));
    // 52, 56: the connection was closed.
    assert!(matches!(done.code, Some(52 | 56)), "{done:?}");
    let limit = Duration::from_secs(60);
    eventually(limit, "the socket is closed", || machine.unit_state("styxy.socket") == "inactive");
    assert_eq!(machine.unit("styxy.service", "NRestarts"), "0");
    assert_eq!(machine.unit("styxy.service", "ExecMainStatus"), "217");
    let failures = "journalctl -b -o cat | grep -c '^Failed to start styxy.service'";
    assert_eq!(machine.root(failures).ok(), "1\n");

    // The next manager listens again, and so it goes on when nothing is forbidden.
    restart_manager(machine, "");
    assert_eq!(machine.unit_state("styxy.socket"), "active");
    machine.user(&allocate).ok();
}
