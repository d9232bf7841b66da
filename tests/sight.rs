//! A service that does not see what its user sees of the configuration, as in the sandbox of the unit: links that lead
//! out of the folder, a folder that was replaced, and commands that see another folder.
//!
//! The service runs in a mount namespace of its own. Where none can be made, that is said, and nothing is tried.

#[path = "support/mod.rs"]
mod support;

use std::{
    cell::RefCell,
    fs,
    os::unix::fs::symlink,
    process::{Child, Command, Stdio},
};

use nix::{sys::signal::Signal, unistd::geteuid};
use serde_json::Value as Json;
use support::{Home, end, started};

/// Hides what is beside the folder of the configuration. As in the unit, the folder is mounted into a home that is empty
/// otherwise, so that it is the same one even if another takes its name.
const HIDE: &str = r#"
    mkdir "$HOME/aside" && mount --bind "$HOME/config/styxy" "$HOME/aside" &&
    mount -t tmpfs none "$HOME/config" && mkdir "$HOME/config/styxy" &&
    mount --bind "$HOME/aside" "$HOME/config/styxy" && mount -t tmpfs none "$HOME/dotfiles" || exit 9
    umount "$HOME/aside"; rmdir "$HOME/aside"
"#;

/// As systemd does it for a unit.
const AS_UNIT: &str = r#"
    export SYSTEMD_EXEC_PID=$$ CONFIGURATION_DIRECTORY="$HOME/config/styxy"
    export STATE_DIRECTORY="$HOME/state/styxy/state" RUNTIME_DIRECTORY="$HOME/runtime/styxy"
"#;

/// A home with a folder of dotfiles; nothing if no such namespace can be made here.
fn home() -> Option<Home> {
    let possible = unshared().args(["mount -t tmpfs none /mnt"]).stderr(Stdio::null()).status();
    if !possible.is_ok_and(|tried| tried.success()) {
        eprintln!("SKIPPED: unshare(1) can't make a mount namespace here");
        return None;
    }
    let home = Home::new();
    for folder in ["dotfiles", "config/styxy/config.d"] {
        fs::create_dir_all(home.path(folder)).unwrap();
    }
    Some(home)
}

/// The beginning of a command line of sh(1) in a mount namespace of its own.
fn unshared() -> Command {
    let mut command = Command::new("unshare");
    if !geteuid().is_root() {
        command.args(["--user", "--map-current-user", "--keep-caps"]);
    }
    command.args(["--mount", "sh", "-c"]);
    command
}

/// A service in such a sandbox.
fn sandboxed(home: &Home, more: &str) -> Child {
    let styxy = home.styxy();
    let mut command = unshared();
    command.arg(format!("{HIDE}{more}exec \"$0\" \"$@\"")).arg(styxy.get_program());
    command.env_clear().envs(styxy.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").stdin(Stdio::null());
    started(command)
}

/// A configuration with a type `mine` that begins at that port.
fn beginning_at(port: u16) -> String {
    format!(r#"{{"service_types": {{"mine": {{"port_range": [{port}, {}]}}}}}}"#, port + 1)
}

fn status(home: &Home) -> Json {
    serde_json::from_str(&home.ok(&["status", "--json"])).unwrap()
}

/// The port that a program gets that says nothing of what it sees.
fn granted(home: &Home) -> u64 {
    let answer = home.http("POST", "/allocate", r#"{"service_type": "mine", "dry_run": true}"#);
    answer.body["port"].as_u64().unwrap_or_else(|| panic!("{answer:?}"))
}

#[test]
fn a_file_that_is_a_link_out_of_sight_counts_as_the_command_sees_it() {
    let Some(home) = home() else { return };
    let (first, second) = (home.port(0), home.port(2));
    let in_config = |name: &str| home.path("config/styxy").join(name);
    fs::write(home.path("dotfiles/styxy.json"), beginning_at(first)).unwrap();
    symlink("../../dotfiles/styxy.json", in_config("config.json")).unwrap();
    fs::write(home.path("dotfiles/limits.json"), r#"{"idle_exit_seconds": 77}"#).unwrap();
    symlink(home.path("dotfiles/limits.json"), in_config("config.d/limits.json")).unwrap();
    let service = sandboxed(&home, "");
    let unseen = home.http("GET", "/status", "").body["config_problems"].clone();
    assert!(unseen[0].as_str().unwrap().contains("a file that the service cannot see"), "{unseen}");
    // The first command that depends on it shows it.
    assert_eq!(home.ok(&["allocate", "mine", "--project", "/a"]), first.to_string());
    let validated = home.ok(&["config", "validate"]);
    assert!(validated.contains("valid (2 files)"), "{validated}");
    let told = status(&home);
    assert_eq!(told["config_problems"], Json::Array(Vec::new()), "{told}");
    assert_eq!(told["idle_exit_seconds"], 77);
    assert_eq!(told["config_shown"].as_array().unwrap().len(), 2);
    assert!(home.ok(&["config", "reload"]).contains("in force"));
    assert!(home.ok(&["config", "show", "--origin"]).contains("config/styxy/config.json:1"));

    // A change out of sight, too, also by what only looks.
    fs::write(home.path("dotfiles/styxy.json"), beginning_at(second)).unwrap();
    assert_eq!(granted(&home), u64::from(first) + 1);
    assert!(home.ok(&["suggest", "mine"]).contains(&second.to_string()));
    assert_eq!(granted(&home), u64::from(second));
    fs::write(home.path("dotfiles/styxy.json"), "{").unwrap();
    assert_eq!(status(&home)["config_problems"].as_array().unwrap().len(), 1);
    assert_eq!(home.run(&["config", "reload"]).status.code(), Some(1));
    fs::write(home.path("dotfiles/styxy.json"), beginning_at(second)).unwrap();
    assert!(home.ok(&["config", "reload"]).contains("in force"));

    // The next service knows it without a command.
    end(service, Signal::SIGKILL);
    let service = sandboxed(&home, "");
    assert_eq!(granted(&home), u64::from(second));
    // What the service sees itself counts again.
    fs::remove_file(in_config("config.json")).unwrap();
    fs::write(in_config("config.json"), beginning_at(first)).unwrap();
    home.http("POST", "/config/reload", "");
    assert_eq!(granted(&home), u64::from(first) + 1);
    fs::remove_file(in_config("config.d/limits.json")).unwrap();
    assert_eq!(status(&home)["config_shown"], Json::Array(Vec::new()));
    assert_eq!(status(&home)["idle_exit_seconds"], 60);
    end(service, Signal::SIGTERM);
}

#[test]
fn a_folder_that_was_replaced_is_seen_by_the_next_service() {
    let Some(home) = home() else { return };
    let (first, second) = (home.port(0), home.port(2));
    home.configure(&beginning_at(first));
    let service = sandboxed(&home, AS_UNIT);
    assert_eq!(home.ok(&["allocate", "mine"]), first.to_string());
    // As `stow -R` does it.
    fs::remove_dir_all(home.path("config/styxy")).unwrap();
    home.configure(&beginning_at(second));
    assert!(home.ok(&["config", "reload"]).contains("in force"));
    let service = RefCell::new(service);
    home.until(|| service.borrow_mut().try_wait().unwrap().is_some());
    assert_eq!(granted(&home), u64::from(second));
    assert_eq!(home.ok(&["list", "--json"]).matches("lease_id").count(), 1);
}

#[test]
fn a_command_that_sees_another_folder_changes_nothing_and_says_so() {
    let Some(home) = home() else { return };
    let (first, second) = (home.port(0), home.port(2));
    home.configure(&beginning_at(first));
    let service = sandboxed(&home, "");
    fs::create_dir_all(home.path("other/styxy")).unwrap();
    fs::write(home.path("other/styxy/config.json"), beginning_at(second)).unwrap();
    let other = |arguments: &[&str]| {
        home.styxy().env("XDG_CONFIG_HOME", home.path("other")).args(arguments).output().unwrap()
    };
    let reload = other(&["config", "reload"]);
    let said = String::from_utf8(reload.stderr).unwrap();
    assert_eq!(reload.status.code(), Some(1), "{said}");
    assert!(said.contains("in another"), "{said}");
    assert!(!String::from_utf8(reload.stdout).unwrap().contains("in force"));
    let told = other(&["status"]);
    assert!(String::from_utf8(told.stdout).unwrap().contains("in another"));
    // It is served all the same.
    let granted = other(&["allocate", "mine"]);
    assert_eq!(String::from_utf8(granted.stdout).unwrap().trim(), first.to_string());
    assert_eq!(status(&home)["config_problems"], Json::Array(Vec::new()));
    end(service, Signal::SIGTERM);
}
