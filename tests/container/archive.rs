//! What `install.sh` of the archive makes of a machine without the package, and what it leaves.

use serde_json::{Value as Json, json};

use crate::{
    Test,
    machine::{Machine, archive, package},
    sandbox::{FORBIDDEN, restart_manager},
    setup::FULL,
};

pub const TESTS: &[Test] = &[
    ("an_archive_is_installed_below_usr_local_and_takes_itself_away", usr_local),
    ("an_archive_is_installed_below_another_folder", elsewhere),
    ("a_package_beside_an_archive_outlives_it", beside_a_package),
];

/// A machine without the package that has the unpacked archive.
fn unpacked(machine: &Machine, name: &str) -> Machine {
    let (suite, _) = machine.name().split_once('-').unwrap();
    let machine = Machine::boot_without_package(suite, name);
    unpack(&machine);
    machine
}

fn unpack(machine: &Machine) {
    machine.put(&archive(), "/root/archive.tar.gz");
    machine.root("tar -xf archive.tar.gz && rm archive.tar.gz && mv styxy-* archive").ok();
}

/// All files and folders that an installation could have changed, but for the archive's own.
fn files(machine: &Machine) -> String {
    let files = "{ find /usr /opt /etc/systemd; find / -xdev -iname '*styxy*' -not -path '/proc/*' -not -path '/sys/*' \
                 -not -path '/root/archive/*' -not -path '/home/*/styxy' -not -path '/home/*/styxy/*'; } | sort -u";
    machine.root(files).ok()
}

/// What a user is told to do, done by the user `dev`.
#[track_caller]
fn follow(machine: &Machine, told: &str) {
    let commands: Vec<_> = told.lines().filter(|line| line.contains(" --user ")).collect();
    assert!(commands.len() > 1, "{told}");
    machine.user(&commands.join(" &&")).ok();
}

/// Whether the bus has read the service's file. dbus-daemon would read it at the first call, dbus-broker would not.
fn is_activatable(machine: &Machine) -> bool {
    machine.user("busctl --user list --activatable").ok().contains("org.styxy.Styxy1")
}

/// The service is this unit, in that sandbox, started by a call.
#[track_caller]
fn assert_serves(machine: &Machine, program: &str, sandbox: &[&str]) {
    machine.call("Allocate", "'sa{sv}' dev 1 service_name s web").unwrap();
    let status = machine.user(&format!("{program} status --json")).ok();
    let status: Json = serde_json::from_str(&status).unwrap();
    assert_eq!(status["private"], false, "{status}");
    assert_eq!(status["sandbox"], json!(sandbox), "{status}");
    assert_eq!(machine.unit("styxy.service", "MainPID"), status["pid"].to_string());
    let started = machine.unit("styxy.service", "ExecStart");
    assert!(started.contains(&format!("path={program} ;")), "{started}");
    let unit = "/usr/local/lib/systemd/user/styxy.service";
    assert_eq!(machine.unit("styxy.service", "FragmentPath"), unit);
    // Its events can be read back, by a program that the sandbox can execute.
    let audit = machine.user(&format!("{program} audit --action allocate --json")).ok();
    assert!(audit.contains("\"web\""), "{audit}");
}

fn usr_local(machine: &Machine) {
    unpack(machine);
    for (before, why) in [
        ("chmod -x archive/bin/styxy", "bin/styxy does not run here"),
        ("chmod +x archive/bin/styxy", "/usr/bin/styxy is there already"),
    ] {
        let refused = machine.root(&format!("{before} && archive/install.sh"));
        assert_eq!(refused.code, Some(1), "{refused:?}");
        assert!(refused.stderr.contains(why), "{refused:?}");
    }

    let machine = &unpacked(machine, "archive-usr-local");
    let before = files(machine);
    let told = machine.root("archive/install.sh").ok();
    follow(machine, &told);
    assert_eq!(machine.unit_state("styxy.socket"), "active");
    assert!(is_activatable(machine));
    assert_serves(machine, "/usr/local/bin/styxy", &FULL);
    assert!(machine.root("journalctl --list-catalog").ok().contains(" styxy: "));

    // Once more, as of a newer version, while it runs.
    let pid = machine.unit("styxy.service", "MainPID");
    let told = machine.root("archive/install.sh").ok();
    follow(machine, &told);
    assert_ne!(machine.unit("styxy.service", "MainPID"), pid);
    assert_serves(machine, "/usr/local/bin/styxy", &FULL);
    // Its generator is one for systemd.
    restart_manager(machine, FORBIDDEN[0]);
    assert_serves(machine, "/usr/local/bin/styxy", &[FULL[0], FULL[1], FULL[5]]);
    restart_manager(machine, "");
    assert_serves(machine, "/usr/local/bin/styxy", &FULL);
    // Who comes later has it, too.
    machine.root("systemctl --global enable styxy.socket").ok();
    machine.script(["user", machine.name(), "eve"]).ok();
    let active =
        ["as", machine.name(), "eve", "--", "systemctl", "--user", "is-active", "styxy.socket"];
    assert_eq!(machine.script(active).ok(), "active\n");

    machine.root("rm -r archive /etc/systemd/system/user@.service.d").ok();
    machine.root("/usr/local/share/styxy/install.sh --uninstall").ok();
    assert_eq!(machine.root("pgrep -x styxy").code, Some(1), "it still runs");
    assert_eq!(files(machine), before);
    assert!(!machine.root("journalctl --list-catalog").ok().contains(" styxy: "));
    assert_eq!(machine.user("ls -A $XDG_RUNTIME_DIR/styxy").ok(), "");
    assert_eq!(machine.unit("styxy.socket", "LoadState"), "not-found");
    assert!(!is_activatable(machine));
    let error = machine.call("List", "'a{sv}' 0").unwrap_err();
    assert!(error.contains("not provided by any .service files"), "{error}");
    // The leases are the user's.
    assert!(
        machine.user("ls -R .local/state/styxy/state .config/styxy/state").stdout.contains("log.")
    );
}

fn elsewhere(machine: &Machine) {
    let machine = &unpacked(machine, "archive-elsewhere");
    let before = files(machine);
    let told = machine.root("PREFIX=/opt/styxy archive/install.sh").ok();
    follow(machine, &told);
    assert_serves(machine, "/opt/styxy/bin/styxy", &FULL);
    machine.root("/opt/styxy/share/styxy/install.sh --uninstall").ok();
    assert_eq!(files(machine), before);
}

fn beside_a_package(machine: &Machine) {
    let machine = &unpacked(machine, "archive-beside");
    let told = machine.root("archive/install.sh").ok();
    follow(machine, &told);
    machine.call("Allocate", "'sa{sv}' dev 1 service_name s web").unwrap();
    machine.put(&package(), "/var/tmp/styxy.deb");
    machine.root("apt-get install -y /var/tmp/styxy.deb").ok();
    machine.root("/usr/local/share/styxy/install.sh --uninstall").ok();
    assert_eq!(machine.unit("styxy.socket", "UnitFileState"), "enabled");
    assert_eq!(machine.unit_state("styxy.socket"), "active");
    let listed = machine.user("/usr/bin/styxy list --json").ok();
    assert!(listed.contains("\"web\""), "{listed}");
    let unit = machine.unit("styxy.service", "FragmentPath");
    assert_eq!(unit, "/usr/lib/systemd/user/styxy.service");
}
