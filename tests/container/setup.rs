//! What systemd and the session bus make of what `styxy setup` writes, where no package is installed.

use std::time::Duration;

use serde_json::Value as Json;

use crate::{
    Test,
    machine::{Machine, eventually, package},
    sandbox::{BUSCTL, FORBIDDEN, restart_manager},
};

pub const TESTS: &[Test] = &[
    ("setup_has_systemd_start_a_program_from_the_home", from_the_home),
    ("setup_tries_the_sandbox_where_a_package_would", smaller),
    ("setup_is_refused_beside_a_package_and_gives_way_to_one", beside_a_package),
];

/// The whole sandbox, as `styxy status` has it.
pub const FULL: [&str; 6] =
    ["no_new_privileges", "seccomp", "no_capabilities", "hidden_home", "no_exec", "landlock"];

/// A folder of whose name systemd would take much for its own.
const FOLDER: &str = "$HOME/my apps/50% of: $x";

/// A machine without the package, whose user has the program in that folder, and a link to it in ~/bin.
fn without_package(machine: &Machine, name: &str) -> Machine {
    let (suite, _) = machine.name().split_once('-').unwrap();
    let machine = Machine::boot_without_package(suite, name);
    machine.put(&package(), "/var/tmp/styxy.deb");
    machine
        .user(&format!(
            "x=x && dpkg-deb -x /var/tmp/styxy.deb ~/all && mkdir -p \"{FOLDER}\" ~/bin && mv ~/all/usr/bin/styxy \"{FOLDER}\" &&
             rm -r ~/all && ln -s \"{FOLDER}/styxy\" ~/bin/styxy",
            FOLDER = FOLDER.replace("$x", "\\$x")
        ))
        .ok();
    machine
}

/// What the command answers.
#[track_caller]
fn answer(machine: &Machine, command: &str) -> Json {
    let told = machine.user(&format!("~/bin/styxy {command} --json")).ok();
    serde_json::from_str(&told).unwrap_or_else(|error| panic!("{error}: {told}"))
}

/// The kinds of steps that it has taken on files.
#[track_caller]
fn fates(machine: &Machine) -> Vec<String> {
    let answer = answer(machine, "setup");
    let steps = answer["steps"].as_array().unwrap().iter();
    let mut fates: Vec<_> = steps.map(|step| step["action"].as_str().unwrap().to_owned()).collect();
    fates.retain(|action| action != "run");
    fates.dedup();
    fates
}

/// All files in the home but the state.
fn files(machine: &Machine) -> String {
    machine.user("find .local .config -not -type d -not -path '*styxy/state*' | sort").stdout
}

fn finding(machine: &Machine, check: &str) -> String {
    let told = machine.user("~/bin/styxy doctor --json");
    let findings: Json = serde_json::from_str(&told.stdout).unwrap();
    let mut findings = findings["findings"].as_array().unwrap().iter();
    let finding = findings.find(|finding| finding["check"] == check);
    finding.unwrap_or_else(|| panic!("{told:?}")).to_string()
}

/// The service is the unit, in the whole sandbox, and answers on both ways.
#[track_caller]
fn assert_serves(machine: &Machine) {
    assert_eq!(machine.unit_state("styxy.socket"), "active");
    machine.call("List", "'a{sv}' 0").unwrap();
    let status = answer(machine, "status");
    assert_eq!(status["private"], false, "{status}");
    assert_eq!(status["sandbox"], serde_json::json!(FULL), "{status}");
    assert_eq!(machine.unit("styxy.service", "MainPID"), status["pid"].to_string());
    let curl =
        "curl -sS --unix-socket $XDG_RUNTIME_DIR/styxy/http.sock http://localhost/check/3999";
    assert!(machine.user(curl).ok().contains("\"success\":true"));
}

fn from_the_home(machine: &Machine) {
    let machine = &without_package(machine, "setup-from-the-home");
    machine.user("~/bin/styxy allocate dev -q").ok();
    let private = answer(machine, "status");
    assert_eq!(private["private"], true);
    assert!(finding(machine, "units").contains("styxy setup"));
    let before = files(machine);

    let told = machine.user("~/bin/styxy setup").ok();
    let pid = &private["pid"];
    assert!(told.contains(&format!("takes over from the private service (PID {pid})")), "{told}");
    let leases = machine.call("List", "'a{sv}' 0").unwrap();
    assert_eq!(leases[0][0]["port"]["data"], 3000, "{leases}");
    eventually(Duration::from_secs(10), "the private service has ended", || {
        machine.root(&format!("test -e /proc/{pid}")).code == Some(1)
    });
    assert_serves(machine);
    assert!(finding(machine, "installation").contains("\"ok\""));
    assert!(finding(machine, "sandbox").contains("\"ok\""));
    let verified =
        machine.user("systemd-analyze --user --man=no verify styxy.service styxy.socket 2>&1");
    let verified = verified.ok();
    // systemd 254 and later know it.
    assert!(verified.lines().all(|line| line.contains("RestartMode")), "{verified}");
    assert_eq!(fates(machine), ["keep"]);
    assert_serves(machine);

    // The bus starts it after a login, which the socket is there for, too.
    machine.user("~/bin/styxy release --type dev --yes").ok();
    machine.root("systemctl restart user@1000.service").ok();
    assert_eq!(machine.unit_state("styxy.service"), "inactive");
    assert_eq!(machine.unit_state("styxy.socket"), "active");
    machine.call("Allocate", "'sa{sv}' dev 0").unwrap();
    assert_serves(machine);

    // The program moves: a folder of its own, and a new file in place of the running one.
    // Without a lease, for which it would be started with the socket.
    machine.user("~/bin/styxy release --type dev --yes").ok();
    machine.user("mkdir -p ~/.cargo/bin && mv \"$(readlink ~/bin/styxy)\" ~/.cargo/bin/styxy && ln -sf ~/.cargo/bin/styxy ~/bin/styxy && rm -r ~/my*").ok();
    machine.user("systemctl --user stop styxy.service").ok();
    machine.user(&format!("{BUSCTL} --expect-reply=no List 'a{{sv}}' 0")).ok();
    eventually(Duration::from_secs(60), "it has failed", || {
        machine.unit_state("styxy.service") == "failed"
    });
    assert_eq!(machine.unit("styxy.service", "ExecMainStatus"), "203");
    let why = finding(machine, "installation");
    assert!(why.contains("is gone") && why.contains("`styxy setup`"), "{why}");
    assert!(finding(machine, "units").contains("is gone or cannot be executed"));
    assert!(fates(machine).contains(&"update".to_owned()));
    assert_serves(machine);
    assert!(finding(machine, "installation").contains("\"ok\""));
    machine.user("cp ~/.cargo/bin/styxy ~/new && mv ~/new ~/.cargo/bin/styxy").ok();
    assert!(answer(machine, "setup")["program"].as_str().unwrap().ends_with("/.cargo/bin/styxy"));
    machine.call("Allocate", "'sa{sv}' dev 0").unwrap();
    machine.call("Restart", "").unwrap();
    eventually(Duration::from_secs(10), "the new program runs", || {
        finding(machine, "version").contains("\"ok\"")
    });

    machine.user("~/bin/styxy http enable").ok();
    machine.user("~/bin/styxy release --type dev --yes").ok();
    machine.user("~/bin/styxy setup --undo").ok();
    assert_eq!(files(machine), before);
    for unit in ["styxy.service", "styxy.socket", "styxy-tcp.socket", "styxy-restart.service"] {
        assert_eq!(machine.unit(unit, "LoadState"), "not-found", "{unit}");
    }
    assert!(machine.call("List", "'a{sv}' 0").is_err());
    assert_eq!(machine.user("pgrep -x styxy").code, Some(1));
    assert_eq!(machine.user("~/bin/styxy allocate dev -q").ok(), "3000\n");
    assert_eq!(answer(machine, "status")["private"], true);
}

fn smaller(machine: &Machine) {
    let machine = &without_package(machine, "setup-smaller");
    for settings in FORBIDDEN {
        restart_manager(machine, settings);
        let told = answer(machine, "setup");
        assert!(!told["smaller_sandbox"].is_null(), "{told}");
        machine.call("Allocate", "'sa{sv}' dev 0").unwrap();
        let status = answer(machine, "status");
        assert_eq!(status["private"], false, "{status}");
        let left = [FULL[0], FULL[1], FULL[5]];
        assert_eq!(status["sandbox"], serde_json::json!(left), "{settings}: {status}");
        assert_eq!(status["landlock"], "full", "{status}");
        assert_eq!(machine.unit("styxy.service", "NRestarts"), "0");
        assert!(finding(machine, "sandbox").contains("forbidden here"));
        assert!(finding(machine, "installation").contains("\"ok\""));
    }
    // The sandbox is forbidden after the setup, and the way out is told.
    restart_manager(machine, "");
    machine.call("Allocate", "'sa{sv}' dev 0").unwrap();
    assert_eq!(fates(machine), ["keep", "remove"]);
    assert_serves(machine);
    machine.user("~/bin/styxy release --type dev --yes").ok();
    restart_manager(machine, FORBIDDEN[0]);
    let why = machine.user("~/bin/styxy allocate dev").stderr;
    assert!(why.contains("`styxy setup` starts it with a smaller one"), "{why}");
    machine.user("~/bin/styxy setup").ok();
    machine.user("~/bin/styxy allocate dev").ok();
    assert_eq!(answer(machine, "status")["private"], false);
}

fn beside_a_package(machine: &Machine) {
    machine.user("mkdir ~/bin && cp /usr/bin/styxy ~/bin").ok();
    let before = files(machine);
    for command in ["styxy setup", "~/bin/styxy setup", "~/bin/styxy setup --dry-run"] {
        let refused = machine.user(command);
        assert_eq!(refused.code, Some(1), "{refused:?}");
        let unit = "/usr/lib/systemd/user/styxy.service is its unit";
        assert!(refused.stderr.contains(unit), "{refused:?}");
    }
    assert_eq!(files(machine), before);
    assert!(finding(machine, "installation").contains("/usr/lib/systemd/user/styxy.service"));

    let machine = &without_package(machine, "setup-before-a-package");
    let elsewhere = machine.user("XDG_DATA_HOME=$HOME/data ~/bin/styxy setup").stderr;
    assert!(elsewhere.contains("another XDG_DATA_HOME"), "{elsewhere}");
    // A private service without a lease, for which nothing else would start the unit.
    machine.user("~/bin/styxy allocate dev -q && ~/bin/styxy release --type dev --yes").ok();
    machine.user("~/bin/styxy setup").ok();
    assert_eq!(machine.unit_state("styxy.service"), "active");
    machine.root("apt-get install -y /var/tmp/styxy.deb").ok();
    let why = finding(machine, "installation");
    assert!(why.contains("in use and hides") && why.contains("styxy setup --undo"), "{why}");
    machine.user("styxy setup --undo").ok();
    assert_eq!(machine.unit("styxy.socket", "FragmentPath"), "/usr/lib/systemd/user/styxy.socket");
    assert_serves(machine);
    // As root without a manager.
    let refused = machine.root("styxy setup");
    assert_eq!(refused.code, Some(1));
    assert!(refused.stderr.contains("log in as this user"), "{refused:?}");
}
