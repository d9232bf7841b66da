//! How the service limits itself by Landlock (landlock(7)), without systemd: what it may not do is tried from inside of it, as
//! an ordinary user.
//!
//! Where the kernel has no Landlock, or not all of it, that is said, and nothing is tried.

#[path = "support/mod.rs"]
mod support;

use std::{
    fs::{self, Permissions},
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
    process::{Child, Command},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, geteuid},
};
use serde_json::{Value as Json, json};
use support::{Home, end, started};

/// The user that the service runs as, if the tests are root's.
const NOBODY: u32 = 65_534;

/// A home with a secret, of an ordinary user.
fn home() -> Home {
    let home = Home::with_type();
    fs::create_dir_all(home.path(".ssh")).unwrap();
    fs::write(home.path(".ssh/id"), "secret").unwrap();
    fs::write(home.path(".ssh/old"), "").unwrap();
    fs::create_dir_all(home.path("state")).unwrap();
    home
}

/// The command, with programs that the home has.
fn command(home: &Home) -> Command {
    let mut command = home.styxy();
    command.env("PATH", format!("{}:/usr/bin:/bin", home.path("bin").display()));
    command
}

/// What a command says of the service.
fn status(mut command: Command) -> Json {
    let output = command.args(["status", "--json"]).output().unwrap();
    serde_json::from_str(&support::out(&output)).unwrap()
}

/// Whether a service is limited as far as these tests want.
fn is_limited(status: &Json) -> bool {
    if status["landlock"] == "full" {
        assert_eq!(status["landlock_note"], Json::Null);
        let layers = status["sandbox"].as_array().unwrap();
        assert!(layers.contains(&json!("landlock")), "{status}");
        return true;
    }
    // The kernel is not asked again here: a service that does not report anything is wrong.
    let note = status["landlock_note"].as_str().unwrap();
    eprintln!("SKIPPED: Landlock is not fully in force: {note}");
    false
}

/// A service, if it is limited.
fn service(home: &Home) -> Option<Child> {
    let service = started(command(home));
    if is_limited(&status(command(home))) {
        return Some(service);
    }
    end(service, Signal::SIGTERM);
    None
}

fn granted(home: &Home, project: &str) -> u16 {
    let request = json!({"service_type": "mine", "project_path": project}).to_string();
    let answer = home.http("POST", "/allocate", &request);
    assert_eq!(answer.status, 200, "{answer:?}");
    u16::try_from(answer.body["port"].as_u64().unwrap()).unwrap()
}

fn beginning_at(port: u16) -> String {
    format!(r#"{{"service_types": {{"mine": {{"port_range": [{port}, {}]}}}}}}"#, port + 1)
}

/// Writes a file as editors do: another one takes its name.
fn edit(path: &Path, text: &str) {
    let new = path.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::set_permissions(&new, Permissions::from_mode(0o644)).unwrap();
    fs::rename(new, path).unwrap();
}

fn hang_up(service: &Child) {
    kill(Pid::from_raw(i32::try_from(service.id()).unwrap()), Signal::SIGHUP).unwrap();
}

/// The first port that is granted next.
fn next(home: &Home) -> u16 {
    let request = r#"{"service_type": "mine", "dry_run": true}"#;
    let port = home.http("POST", "/allocate", request).body["port"].as_u64();
    port.unwrap_or_default().try_into().unwrap()
}

#[cfg(target_arch = "x86_64")]
#[test]
fn from_inside_the_service_no_thread_can_touch_the_home_and_start_a_shell() {
    use std::{
        collections::BTreeSet,
        net::{SocketAddr, TcpListener},
    };

    use nix::libc::{O_RDONLY, O_RDWR};
    use support::within::{Within, deeds};

    let home = home();
    let program = home.path("styxy");
    support::copy_program(env!("CARGO_BIN_EXE_styxy"), &program);
    // As an ordinary user, also if the tests are root's.
    if geteuid().is_root() {
        let owner = format!("{NOBODY}:{NOBODY}");
        let given = Command::new("chown").args(["-R", &owner]).arg(home.path("")).status();
        assert!(given.unwrap().success());
    }
    let theirs = |program: &Path| {
        let mut command = Command::new(program);
        if geteuid().is_root() {
            command = Command::new("setpriv");
            command.args([format!("--reuid={NOBODY}"), format!("--regid={NOBODY}")]);
            command.arg("--clear-groups").arg(program);
        }
        let styxy = home.styxy();
        command.env_clear().envs(styxy.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.env("PATH", "/usr/bin:/bin").current_dir("/");
        command
    };
    let grant = |project: &str| {
        let output = theirs(&program).args(["allocate", "mine", "--project", project]).output();
        support::out(&output.unwrap())
    };
    let service = started(theirs(&program));
    let told = status(theirs(&program));
    if !is_limited(&told) {
        return end(service, Signal::SIGTERM);
    }
    assert_eq!(told["sandbox"], json!(["no_new_privileges", "landlock"]), "Landlock alone");
    grant("/a");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let SocketAddr::V4(server) = listener.local_addr().unwrap() else { unreachable!() };
    let mut other = theirs(Path::new("/bin/sleep")).arg("60").spawn().unwrap();

    assert!(Within::threads(service.id()).len() > 1, "more threads than the first one");
    let said = deeds(service.id(), &home.path(""), server, other.id());
    for (deed, result) in &said {
        let refused = if deed.starts_with("signal") { "EPERM" } else { "EACCES" };
        assert_eq!(result, refused, "{deed}: {said:?}");
    }
    // What it needs, it can do.
    let within = Within::thread(Within::threads(service.id())[0]).unwrap();
    for (path, flags) in [
        (home.state().join("lock"), O_RDWR),
        (home.config().join("config.json"), O_RDWR),
        ("/etc/passwd".into(), O_RDONLY),
        ("/proc/1/stat".into(), O_RDONLY),
        ("/dev/null".into(), O_RDWR),
    ] {
        within.open(&path, flags).unwrap_or_else(|errno| panic!("{}: {errno}", path.display()));
    }
    drop(within);
    grant("/b");

    // The same of a process that is not limited succeeds: the questions are good.
    let done = deeds(other.id(), &home.path(""), server, service.id());
    let done: BTreeSet<_> =
        done.iter().filter(|(deed, _)| !deed.contains("/etc")).map(|(_, r)| r.as_str()).collect();
    assert_eq!(done, BTreeSet::from(["done"]));
    other.kill().unwrap();
    other.wait().unwrap();
    end(service, Signal::SIGTERM);
}

#[test]
fn a_configuration_in_a_folder_of_dotfiles_is_read_again_when_an_editor_has_replaced_it() {
    let home = home();
    let (first, second, third) = (home.port(0), home.port(2), home.port(4));
    fs::create_dir_all(home.path("dotfiles/styxy")).unwrap();
    fs::write(home.path("dotfiles/styxy/config.json"), beginning_at(first)).unwrap();
    fs::remove_file(home.config().join("config.json")).unwrap();
    symlink("../../dotfiles/styxy/config.json", home.config().join("config.json")).unwrap();
    let Some(service) = service(&home) else { return };
    assert_eq!(next(&home), first);
    edit(&home.path("dotfiles/styxy/config.json"), &beginning_at(second));
    hang_up(&service);
    home.until(|| next(&home) == second);
    edit(&home.path("dotfiles/styxy/config.json"), &beginning_at(third));
    assert_eq!(home.http("POST", "/config/reload", "").status, 200);
    assert_eq!(next(&home), third);
    // Nor does the folder itself matter, as long as it is the same one: stow(8) makes new links.
    fs::remove_file(home.config().join("config.json")).unwrap();
    symlink(home.path("dotfiles/styxy/config.json"), home.config().join("config.json")).unwrap();
    edit(&home.path("dotfiles/styxy/config.json"), &beginning_at(first));
    hang_up(&service);
    home.until(|| next(&home) == first);
    end(service, Signal::SIGTERM);
}

#[test]
fn a_file_that_lies_in_the_home_itself_is_shown_by_the_command_when_it_was_replaced() {
    let home = home();
    let (first, second) = (home.port(0), home.port(2));
    fs::write(home.path("styxy.json"), beginning_at(first)).unwrap();
    fs::remove_file(home.config().join("config.json")).unwrap();
    symlink(home.path("styxy.json"), home.config().join("config.json")).unwrap();
    let Some(service) = service(&home) else { return };
    assert_eq!(next(&home), first);
    // Its folder is the home, which stays closed.
    edit(&home.path("styxy.json"), &beginning_at(second));
    hang_up(&service);
    let problems = || home.http("GET", "/status", "").body["config_problems"].to_string();
    home.until(|| problems().contains("a file that the service cannot see"));
    assert_eq!(next(&home), first, "the last good one");
    let shown = command(&home).args(["config", "reload"]).output().unwrap();
    assert!(support::out(&shown).contains("in force"));
    assert_eq!(next(&home), second);
    assert_eq!(problems(), "[]");
    end(service, Signal::SIGTERM);
}

#[test]
fn a_configuration_that_comes_later_is_read() {
    let home = home();
    fs::remove_dir_all(home.config()).unwrap();
    let Some(service) = service(&home) else { return };
    assert_ne!(next(&home), home.port(2));
    home.configure(&beginning_at(home.port(2)));
    hang_up(&service);
    home.until(|| next(&home) == home.port(2));
    // And so is what it writes itself.
    let automatic = home.http("POST", "/allocate", r#"{"service_type": "made-up"}"#);
    assert_eq!(automatic.status, 200, "{automatic:?}");
    assert!(home.config().join("config.d/styxy-auto.json").exists());
    end(service, Signal::SIGTERM);
}

#[test]
fn a_folder_of_the_configuration_that_was_replaced_is_seen_by_the_next_service() {
    let home = home();
    let (first, second) = (home.port(0), home.port(2));
    home.configure(&beginning_at(first));
    let Some(mut service) = service(&home) else { return };
    assert_eq!(granted(&home, "/a"), first);
    fs::remove_dir_all(home.config()).unwrap();
    home.configure(&beginning_at(second));
    hang_up(&service);
    let problems = || home.http("GET", "/status", "").body["config_problems"].to_string();
    home.until(|| problems().contains("made after the service was started"));
    let reload = command(&home).args(["config", "reload"]).output().unwrap();
    assert!(support::out(&reload).contains("in force"));
    assert!(service.wait().unwrap().success());
    assert_eq!(next(&home), second);
    assert_eq!(home.http("GET", "/status", "").body["leases"], 1);
}

#[test]
fn a_state_that_is_removed_with_its_folder_is_written_again() {
    let home = home();
    if !home.states().starts_with(home.path("state")) {
        eprintln!("SKIPPED: this systemd has the state beside the configuration");
        return;
    }
    let Some(service) = service(&home) else { return };
    let mut ports = vec![granted(&home, "/a"), granted(&home, "/b")];
    home.until(|| fs::remove_dir_all(home.path("state/styxy")).is_ok());
    let request = r#"{"service_type": "mine", "project_path": "/c"}"#;
    home.until(|| home.http("POST", "/allocate", request).status == 200);
    ports.push(granted(&home, "/c"));
    end(service, Signal::SIGKILL);
    let service = self::service(&home).unwrap();
    let leases = command(&home).args(["list", "--json"]).output().unwrap();
    for port in ports {
        assert!(support::out(&leases).contains(&port.to_string()), "{leases:?}");
    }
    end(service, Signal::SIGTERM);
}

#[test]
fn a_state_that_cannot_be_made_again_is_a_refusal_that_says_what_to_do() {
    let home = home();
    // As systemd before 254 has it: beside the configuration, and around it are the settings of other programs.
    let here = || {
        let mut command = command(&home);
        command.env("XDG_STATE_HOME", home.path("config"));
        command
    };
    let service = started(here());
    if !is_limited(&status(here())) {
        return end(service, Signal::SIGTERM);
    }
    granted(&home, "/a");
    // Without the folder around it, it is written again.
    home.until(|| fs::remove_dir_all(home.path("config/styxy/state")).is_ok());
    let request = r#"{"service_type": "mine", "project_path": "/b"}"#;
    let grant = || home.http("POST", "/allocate", request);
    home.until(|| grant().status == 200);
    home.until(|| fs::remove_dir_all(home.config()).is_ok());
    home.until(|| {
        grant().body["error"].to_string().contains("may not make it again: end it (process")
    });
    // What was granted is kept as long as it lives.
    assert_eq!(home.http("GET", "/status", "").body["leases"], 2);
    end(service, Signal::SIGTERM);
    home.configure(&beginning_at(home.port(0)));
    let service = started(here());
    granted(&home, "/c");
    end(service, Signal::SIGTERM);
}

#[test]
fn journalctl_is_executed_also_after_an_upgrade() {
    let home = home();
    fs::create_dir_all(home.path("bin")).unwrap();
    // Any program that says something: it takes the place of journalctl.
    let install = |program: &str| {
        support::copy_program(program, home.path("bin/new"));
        fs::rename(home.path("bin/new"), home.path("bin/journalctl")).unwrap();
    };
    install("/bin/false");
    let Some(service) = service(&home) else { return };
    let audit = || home.http("GET", "/audit", "");
    let before = audit();
    install("/bin/true");
    let after = audit();
    assert_ne!((before.status, &before.body), (after.status, &after.body));
    assert!(!after.body.to_string().contains("denied"), "{after:?}");
    end(service, Signal::SIGTERM);
}

#[test]
fn a_journalctl_that_is_a_script_has_all_programs_it_calls() {
    let home = home();
    fs::create_dir_all(home.path("bin")).unwrap();
    fs::write(home.path("bin/journalctl"), "#!/bin/sh\nexec /bin/cat /dev/null\n").unwrap();
    fs::set_permissions(home.path("bin/journalctl"), Permissions::from_mode(0o755)).unwrap();
    let service = started(command(&home));
    let status = status(command(&home));
    if status["landlock"] != "none" {
        assert_eq!(status["landlock"], "partial");
        let note = status["landlock_note"].as_str().unwrap();
        assert!(note.contains("every program") && note.contains("is a script"), "{note}");
        assert!(status["sandbox"].to_string().contains("landlock"));
    }
    assert!(!home.http("GET", "/audit", "").body.to_string().contains("denied"));
    end(service, Signal::SIGTERM);
}

/// What is relied on: a rule belongs to a folder, not to its name; what is open stays usable; looking is free.
#[test]
fn a_rule_belongs_to_what_was_there_when_it_was_made() {
    use std::{
        fs::File,
        io::{ErrorKind, Write},
    };

    use landlock::{
        ABI, Access, AccessFs, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreatedAttr,
        RulesetStatus,
    };

    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let path = move |name: &str| at.join(name);
    for name in ["own/inner", "other", "around/replaced"] {
        fs::create_dir_all(path(name)).unwrap();
    }
    fs::write(path("other/file"), "secret").unwrap();
    let mut opened = File::create(path("other/open")).unwrap();
    let denied = |result: std::io::Result<()>| {
        result.is_err_and(|error| error.kind() == ErrorKind::PermissionDenied)
    };
    let (replace, wanted) = std::sync::mpsc::channel();
    let (done, replaced) = std::sync::mpsc::channel();
    // It lasts as long as the thread.
    let limited = move || {
        let files = AccessFs::from_all(ABI::V3);
        let mut rules = Ruleset::default().handle_access(files).unwrap().create().unwrap();
        for name in ["own", "around"] {
            let rule = PathBeneath::new(PathFd::new(path(name)).unwrap(), files);
            rules = rules.add_rule(rule).unwrap();
        }
        let status = rules.restrict_self().unwrap();
        if status.ruleset != RulesetStatus::FullyEnforced {
            eprintln!("SKIPPED: {status:?}");
            return;
        }
        fs::write(path("own/inner/file"), "").unwrap();
        fs::rename(path("own/inner/file"), path("own/file")).unwrap();
        assert!(denied(fs::read(path("other/file")).map(drop)));
        assert!(denied(fs::write(path("other/new"), "")));
        assert!(denied(fs::read_dir(path("other")).map(drop)));
        // Looking, and what was open before.
        assert_eq!(fs::metadata(path("other/file")).unwrap().len(), 6);
        opened.write_all(b"more").unwrap();
        // A folder that takes the name of another one has the rules of the folders around it, and no other.
        fs::remove_dir_all(path("around/replaced")).unwrap();
        fs::create_dir(path("around/replaced")).unwrap();
        fs::write(path("around/replaced/file"), "").unwrap();
        replace.send(()).unwrap();
        replaced.recv().unwrap();
        assert!(denied(fs::write(path("own/file"), "")));
    };
    std::thread::scope(|scope| {
        let limited = scope.spawn(limited);
        // Nothing comes from a thread that is not limited here.
        if wanted.recv().is_ok() {
            fs::remove_dir_all(path("own")).unwrap();
            fs::create_dir(path("own")).unwrap();
            done.send(()).unwrap();
        }
        limited.join().unwrap();
    });
    fs::write(path("own/file"), "").unwrap();
}
