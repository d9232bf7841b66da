//! One registry for each user, wherever a command runs, and one service at a time that has it.

mod support;

use std::{
    collections::{BTreeSet, HashMap},
    env,
    fs::{self, File},
    net::TcpListener,
    os::unix::net::UnixStream,
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value as Json;
use support::{Home, bus::Bus, end, started};

/// The service, as systemd starts it for the unit: with the folder that a private service has.
fn unit(home: &Home) -> Command {
    let styxy = home.styxy();
    let mut command = Command::new("sh");
    command.args(["-c", r#"SYSTEMD_EXEC_PID=$$ exec "$0" "$@""#]).arg(styxy.get_program());
    command.env_clear().envs(styxy.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.env("STATE_DIRECTORY", home.states());
    command.env("CONFIGURATION_DIRECTORY", home.config());
    command
}

fn leases(home: &Home) -> Vec<Json> {
    home.leases()
}

/// A bind as of a server that does not set `SO_REUSEADDR`.
fn plain_bind(port: u16) -> bool {
    use rustix::net::{AddressFamily, SocketType, bind, socket};
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&socket, &std::net::SocketAddr::from(([127, 0, 0, 1], port))).is_ok()
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).unwrap())
}

#[test]
fn a_command_without_a_runtime_folder_reaches_the_service_beside_the_lock() {
    let home = Home::with_type();
    let service = home.service();
    let port = home.ok(&["allocate", "mine"]);
    let output = home.styxy().env_remove("XDG_RUNTIME_DIR").args(["list"]).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains(&port), "{output:?}");
    // And a second service gives way, in words.
    let output = home.styxy().arg("daemon").output().unwrap();
    let words = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(69), "{words}");
    assert!(words.contains(&format!("process {}", service.id())), "{words}");
    end(service, Signal::SIGTERM);
}

/// A shell command in namespaces of users and mounts of its own, for `home`.
fn in_a_sandbox(home: &Home, script: &str) -> Command {
    let styxy = home.styxy();
    let mut command = Command::new("unshare");
    command.args(["--map-root-user", "--mount", "sh", "-c", script]).arg(styxy.get_program());
    command.env_clear().env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin");
    command.envs(styxy.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command
}

/// Whether there can be such a sandbox here.
fn has_sandboxes(home: &Home) -> bool {
    let has = in_a_sandbox(home, "true").status().is_ok_and(|status| status.success());
    if !has {
        eprintln!("SKIPPED: unshare(1) cannot make namespaces here");
    }
    has
}

#[test]
fn a_sandbox_that_shows_the_home_read_only_reaches_the_service_outside() {
    let home = Home::with_type();
    if !has_sandboxes(&home) {
        return;
    }
    let service = home.service();
    let port = home.ok(&["allocate", "mine"]);
    let folder = home.path("");
    let script = format!(
        "mount --bind {0} {0} && mount -o remount,bind,ro {0} && unset XDG_RUNTIME_DIR && exec $0 list",
        folder.display()
    );
    let output = in_a_sandbox(&home, &script).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains(&port), "{output:?}");
    // Where none runs, what is remembered and leased is not left for another place.
    end(service, Signal::SIGKILL);
    let output = in_a_sandbox(&home, &script).output().unwrap();
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(words.contains("(Read-only file system), and its state is there"), "{output:?}");
    assert!(!output.status.success(), "{output:?}");
}

#[test]
fn a_sandbox_with_a_network_of_its_own_leaves_no_state_that_has_become_read_only() {
    let home = Home::with_type();
    if !has_sandboxes(&home) {
        return;
    }
    // The network decides which state it is, and where the state may be tells which network it is.
    let inside = r#"$1 allocate mine || exit
        kill -9 $($1 status --json | sed -n 's/.*"pid": *\([0-9]*\).*/\1/p')
        mount --bind $2 $2 && mount -o remount,bind,ro $2 && exec timeout 20 $1 list"#;
    fs::write(home.path("inside"), inside).unwrap();
    let folder = home.path("").display().to_string();
    let script =
        format!("unset XDG_RUNTIME_DIR; exec unshare --net sh {folder}/inside $0 {folder}");
    let output = in_a_sandbox(&home, &script).output().unwrap();
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(words.contains("(Read-only file system), and its state is there"), "{output:?}");
}

#[test]
fn what_a_living_service_hands_over_is_of_this_boot_whatever_that_is_called() {
    let home = Home::with_type();
    if styxy::surroundings::machine::key().contains('-') {
        eprintln!(
            "SKIPPED: the registry of a network that is not a machine's is named after the boot"
        );
        return;
    }
    if !has_sandboxes(&home) {
        return;
    }
    fs::write(home.path("boot_id"), "00000000-0000-4000-8000-000000000000\n").unwrap();
    let script = format!(
        "mount --bind {} /proc/sys/kernel/random/boot_id && exec $0 $1",
        home.path("boot_id").display()
    );
    let private = started(in_a_sandbox(&home, &script));
    home.ok(&["allocate", "mine", "--ttl", "600"]);
    let before = leases(&home);
    let first = started(unit(&home));
    assert_eq!(leases(&home), before);
    end(private, Signal::SIGKILL);
    // And it is the boot's from now on.
    end(first, Signal::SIGKILL);
    let second = started(unit(&home));
    assert_eq!(leases(&home), before);
    end(second, Signal::SIGTERM);
}

#[test]
fn the_units_service_takes_over_what_a_private_one_has() {
    let home = Home::with_type();
    let mut private = home.service();
    let mut owner = Command::new("sleep").arg("600").spawn().unwrap();
    home.ok(&["allocate", "mine", "--ttl", "600"]);
    home.ok(&["allocate", "mine", "--new", "--owner", &format!("pid:{}", owner.id())]);
    let before = leases(&home);
    assert_eq!(before.len(), 2);

    let (port, is_over) = (home.port(0), AtomicBool::new(false));
    let unit = thread::scope(|scope| {
        let tries = scope.spawn(|| {
            let mut tries = 0;
            while !is_over.load(Ordering::Relaxed) {
                assert!(!plain_bind(port), "the port was let go");
                tries += 1;
            }
            tries
        });
        let unit = started(unit(&home));
        is_over.store(true, Ordering::Relaxed);
        assert!(tries.join().unwrap() > 0);
        unit
    });
    assert!(private.wait().unwrap().success(), "the private service ends in peace");
    assert_eq!(home.http("GET", "/status", "").body["pid"], unit.id());
    assert_eq!(leases(&home), before);
    assert!(!plain_bind(port));

    owner.kill().unwrap();
    owner.wait().unwrap();
    home.until(|| leases(&home).len() == 1);
    let events = fs::read_to_string(home.state().join("log.00000001")).unwrap();
    assert_eq!(events.matches("\"allocate\"").count(), 2, "{events}");
    end(unit, Signal::SIGTERM);
}

/// Has a bus connection own a lease of a private service, and the unit's service take over from that: the connection,
/// and the unit's service, on the bus that the test chooses for it.
async fn taken_over_with_a_connection(
    home: &Home,
    bus: &Bus,
    address: &str,
) -> (zbus::Connection, Child) {
    let mut private = home.styxy();
    private.env("DBUS_SESSION_BUS_ADDRESS", &bus.address);
    let mut private = started(private);
    let client = bus.client().await;
    let options = HashMap::from([("owner", zbus::Variant::from("connection"))]);
    let (name, path) = (Some("org.styxy.Styxy1"), "/org/styxy/Styxy1");
    client.call_method(name, path, name, "Allocate", &("mine", options)).await.unwrap();
    let mut unit = unit(home);
    unit.env("DBUS_SESSION_BUS_ADDRESS", address);
    let unit = started(unit);
    assert!(private.wait().unwrap().success());
    (client, unit)
}

#[tokio::test]
async fn a_connection_that_the_next_service_cannot_watch_has_ended_for_it() {
    let Some(bus) = Bus::start() else { return };
    let Some(other) = Bus::start() else { return };
    for address in ["unix:path=/nonexistent", &other.address] {
        let home = Home::with_type();
        let (_client, unit) = taken_over_with_a_connection(&home, &bus, address).await;
        home.until(|| leases(&home).is_empty());
        end(unit, Signal::SIGTERM);
    }
}

#[tokio::test]
async fn a_connection_to_the_bus_of_the_next_service_is_watched_on() {
    let Some(bus) = Bus::start() else { return };
    let home = Home::with_type();
    let (client, unit) = taken_over_with_a_connection(&home, &bus, &bus.address).await;
    // It has asked the bus about the connection before it answers there.
    let (name, path) = (Some("org.styxy.Styxy1"), "/org/styxy/Styxy1");
    client.call_method(name, path, name, "Check", &(home.port(0), "tcp")).await.unwrap();
    assert_eq!(leases(&home).len(), 1);
    client.close().await.unwrap();
    home.until(|| leases(&home).is_empty());
    end(unit, Signal::SIGTERM);
}

#[test]
fn no_call_is_lost_while_one_service_takes_over_from_another() {
    let home = Home::with_ports(200);
    let range = [home.port(0), home.port(199)];
    home.configure(&format!(r#"{{"service_types": {{"mine": {{"port_range": {range:?}}}}}}}"#));
    let mut services = vec![home.service()];
    let granted: Vec<Output> = thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let calls =
                        (0..20).map(|_| home.styxy().args(["allocate", "mine", "--new"]).output());
                    calls.map(Result::unwrap).collect::<Vec<_>>()
                })
            })
            .collect();
        for _ in 0..3 {
            services.push(started(unit(&home)));
        }
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    });
    let ports: BTreeSet<_> = granted
        .iter()
        .map(|output| {
            assert!(output.status.success(), "{output:?}");
            String::from_utf8_lossy(&output.stdout).trim().to_owned()
        })
        .collect();
    assert_eq!((granted.len(), ports.len()), (80, 80), "each port once");
    assert_eq!(leases(&home).len(), 80);
    let last = services.pop().unwrap();
    for mut earlier in services {
        assert!(earlier.wait().unwrap().success());
    }
    end(last, Signal::SIGTERM);
}

#[test]
fn a_service_that_does_not_answer_is_named_and_left_alone() {
    let home = Home::with_type();
    let private = home.service();
    kill(pid(&private), Signal::SIGSTOP).unwrap();
    let output = unit(&home).arg("daemon").output().unwrap();
    let words = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(69), "{words}");
    assert!(words.contains(&format!("kill {}", private.id())), "{words}");
    kill(pid(&private), Signal::SIGCONT).unwrap();
    home.ok(&["allocate", "mine"]);
    home.until(|| home.try_http("GET", "/status", "").is_some());
    end(private, Signal::SIGTERM);
}

#[test]
fn the_state_of_an_older_version_is_taken_along() {
    let home = Home::with_type();
    let service = home.service();
    let port = home.ok(&["allocate", "mine", "--ttl", "600"]);
    end(service, Signal::SIGTERM);
    // It lay in the state folder itself.
    let folder = home.states();
    for entry in fs::read_dir(home.state()).unwrap() {
        let name = entry.unwrap().file_name();
        fs::rename(home.state().join(&name), folder.join(&name)).unwrap();
    }
    fs::remove_dir(home.state()).unwrap();
    let service = home.service();
    assert_eq!(leases(&home)[0]["port"].to_string(), port);
    assert!(!folder.join("log.00000001").exists());
    end(service, Signal::SIGTERM);
}

/// A service with the folder that another systemd gives to the unit.
fn with_the_other_folder(home: &Home) -> Child {
    let mut service = unit(home);
    service.env("STATE_DIRECTORY", home.other_states());
    started(service)
}

/// Moves a state in that folder to where versions before 2.0 had it, with events that were not sent.
fn age(home: &Home) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = home.other_states();
    let registry = folder.join(styxy::surroundings::machine::key());
    let mut moved = Vec::new();
    for file in fs::read_dir(&registry).unwrap() {
        let path = file.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if name.starts_with("log.") {
            let log = fs::read_to_string(&path).unwrap();
            let unsent = log.lines().filter(|line| !line.contains("{\"confirmed\":"));
            let unsent: String = unsent.flat_map(|line| [line, "\n"]).collect();
            fs::write(folder.join(&name), &unsent).unwrap();
            moved.push((folder.join(&name), unsent.into_bytes()));
        }
    }
    fs::remove_dir_all(registry).unwrap();
    moved
}

/// The port and the name of each lease.
fn named(home: &Home) -> Vec<(u64, String)> {
    let lease = |lease: Json| {
        (lease["port"].as_u64().unwrap(), lease["lease_id"].as_str().unwrap().to_owned())
    };
    leases(home).into_iter().map(lease).collect()
}

#[test]
fn what_an_older_version_kept_in_another_folder_is_merged_once() {
    let home = Home::with_type();
    let strict = |index: u16, more: &[&str]| {
        let port = home.port(index).to_string();
        home.ok(&[&["allocate", "mine", "--new", "--strict", "--port", &port], more].concat());
    };
    let project = ["--ttl", "600", "--project", "/project"];
    let older = with_the_other_folder(&home);
    strict(0, &["--ttl", "600"]);
    strict(1, &["--owner", &format!("pid:{}", std::process::id())]);
    strict(2, &project);
    let theirs = named(&home);
    end(older, Signal::SIGTERM);
    let files = age(&home);
    // Versions before 2.0 knew nothing of the other folder.
    let folder = home.other_states();
    fs::rename(&folder, home.path("hidden")).unwrap();
    let service = home.service();
    strict(0, &["--ttl", "600"]);
    strict(1, &["--ttl", "600"]);
    let ours = named(&home);
    end(service, Signal::SIGTERM);
    fs::rename(home.path("hidden"), &folder).unwrap();

    let _listener = TcpListener::bind(("127.0.0.1", home.port(1))).unwrap();
    let service = home.service_with_log();
    let merged = [ours[0].clone(), theirs[1].clone(), theirs[2].clone()];
    assert_eq!(named(&home), merged);
    home.until(|| events(&home, r#""STYXY_REASON":"merged""#).len() == 2);

    // The older state's events are sent under its name, and then nothing is left of it.
    let is_left = || fs::read_dir(&folder).unwrap().any(|file| file.unwrap().path().is_dir());
    home.until(|| !is_left());
    let said = fs::read_to_string(home.path("log")).unwrap();
    let granted = said.lines().filter(|l| l.contains(r#""allocate""#) && l.contains(&theirs[2].1));
    let granted: Vec<_> = granted.collect();
    assert_eq!(granted.len(), 1, "{said}");
    let log = String::from_utf8_lossy(&files[0].1);
    let state_id = &log.split(r#""state_id":""#).nth(1).unwrap()[..36];
    let field = format!(r#""STYXY_STATE_ID":"{state_id}""#);
    assert!(granted[0].contains(&field), "{}", granted[0]);
    let asked = home.ok(&["audit", "--print"]);
    assert!(asked.contains(state_id), "{asked}");
    // The project gets the port that it had there.
    let port = home.port(2).to_string();
    home.ok(&["release", &port]);
    assert_eq!(home.ok(&[&["allocate", "mine"], &project[..]].concat()), port);
    home.ok(&["release", &home.port(1).to_string()]);
    let before = named(&home);
    end(service, Signal::SIGKILL);

    // As if it had been killed before it could take the older files away.
    for (path, bytes) in &files {
        fs::write(path, bytes).unwrap();
    }
    let service = home.service();
    assert_eq!(named(&home), before);
    home.until(|| !is_left());
    assert!(files.iter().all(|(path, _)| !path.exists()));
    end(service, Signal::SIGTERM);
}

/// The numbers of the events with this in them that the file `log` has, each once: one may be repeated after a kill.
fn events(home: &Home, what: &str) -> BTreeSet<String> {
    let log = fs::read_to_string(home.path("log")).unwrap_or_default();
    let events = log.lines().filter(|line| line.contains(what));
    let event = events.filter_map(|line| serde_json::from_str::<Json>(line).ok());
    event.map(|event| format!("{} {}", event["STYXY_STATE_ID"], event["STYXY_SEQ"])).collect()
}

#[test]
fn a_merge_that_is_killed_at_any_instant_loses_nothing_and_merges_nothing_twice() {
    let home = Home::with_type();
    let strict = |index: u16| {
        let port = home.port(index).to_string();
        home.ok(&["allocate", "mine", "--new", "--strict", "--port", &port, "--ttl", "600"]);
    };
    let older = with_the_other_folder(&home);
    (0..4).for_each(strict);
    let theirs = named(&home);
    end(older, Signal::SIGTERM);
    let files = age(&home);
    let folder = home.other_states();
    fs::rename(&folder, home.path("hidden")).unwrap();
    let service = home.service();
    (0..2).for_each(strict);
    let ours = named(&home);
    end(service, Signal::SIGTERM);
    fs::remove_dir_all(home.path("hidden")).unwrap();
    let before = home.path("before");
    fs::rename(home.state(), &before).unwrap();

    let expected = [&ours[..], &theirs[2..]].concat();
    for millis in (0..40).step_by(2) {
        let _ = fs::remove_dir_all(home.state());
        let _ = fs::remove_dir_all(&folder);
        let _ = fs::remove_file(home.path("log"));
        let copied = Command::new("cp").arg("-r").args([&before, &home.state()]).status();
        assert!(copied.unwrap().success());
        fs::create_dir(&folder).unwrap();
        for (path, bytes) in &files {
            fs::write(path, bytes).unwrap();
        }
        let log = File::options().create(true).append(true).open(home.path("log")).unwrap();
        let mut killed =
            home.styxy().arg("daemon").stdout(Stdio::null()).stderr(log).spawn().unwrap();
        // What comes of it must not depend on the moment.
        thread::sleep(Duration::from_millis(millis));
        killed.kill().unwrap();
        killed.wait().unwrap();

        let service = home.service_with_log();
        assert_eq!(named(&home), expected, "after {millis} ms");
        home.until(|| !events(&home, r#""STYXY_ACTION":"merge""#).is_empty());
        home.until(|| fs::read_dir(&folder).unwrap().all(|e| !e.unwrap().path().is_dir()));
        for (what, count) in [
            (r#""STYXY_ACTION":"merge""#, 1),
            (r#""STYXY_REASON":"merged""#, 2),
            // Those of the older state, each under its name.
            (r#""STYXY_ACTION":"allocate""#, 4),
        ] {
            assert_eq!(events(&home, what).len(), count, "{what} after {millis} ms");
        }
        end(service, Signal::SIGKILL);
    }
}

#[test]
fn a_new_registry_copies_what_others_remember_and_no_lease() {
    let home = Home::with_type();
    let other = home.states().join("0123456789abcdef");
    let port = home.port(5).to_string();
    let service = home.service();
    home.ok(&["allocate", "mine", "--port", &port, "--project", "/project"]);
    end(service, Signal::SIGTERM);
    fs::rename(home.state(), &other).unwrap();
    let before: Vec<_> = fs::read_dir(&other).unwrap().map(|file| file.unwrap().path()).collect();

    let merges = || events(&home, r#""STYXY_ACTION":"merge""#).len();
    let service = home.service_with_log();
    assert!(leases(&home).is_empty());
    assert_eq!(home.ok(&["allocate", "mine", "--project", "/project"]), port);
    home.until(|| merges() == 1);
    end(service, Signal::SIGTERM);
    let service = home.service_with_log();
    assert_eq!((leases(&home).len(), merges()), (1, 1), "only when it is new");
    end(service, Signal::SIGTERM);
    let after: Vec<_> = fs::read_dir(&other).unwrap().map(|file| file.unwrap().path()).collect();
    assert_eq!(after, before, "it is another machine's");
}

#[test]
fn the_folder_of_a_network_that_is_gone_is_deleted_when_its_events_are_sent() {
    let home = Home::with_type();
    let service = home.service();
    home.ok(&["allocate", "mine", "--project", "/project/of/the/sandbox"]);
    end(service, Signal::SIGTERM);
    let machine = styxy::surroundings::machine::key().split('-').next().unwrap();
    let folder = |network: u32| home.states().join(format!("{machine}-{network:016x}"));
    let log = fs::read_to_string(home.state().join("log.00000001")).unwrap();
    let unsent = log.lines().filter(|line| !line.contains("{\"confirmed\":"));
    let unsent: String = unsent.flat_map(|line| [line, "\n"]).collect();
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let boot = boot.trim();
    // Of a boot before this one; of this one; and one whose service lives.
    let here = styxy::kernel::network::mark().unwrap();
    for (network, noted) in
        [(1, "earlier 17".to_owned()), (2, format!("{boot} {here}")), (3, "earlier 17".to_owned())]
    {
        fs::create_dir(folder(network)).unwrap();
        fs::write(folder(network).join("log.00000001"), &unsent).unwrap();
        fs::write(folder(network).join("network"), noted + "\n").unwrap();
    }
    let _lock = styxy::state::Lock::take(&folder(3)).unwrap();
    let elsewhere = home.states().join("0123456789abcdef-0000000000000001");
    fs::create_dir(&elsewhere).unwrap();
    fs::write(elsewhere.join("log.00000001"), &unsent).unwrap();
    fs::write(elsewhere.join("network"), "earlier 17\n").unwrap();
    fs::remove_dir_all(home.state()).unwrap();

    let service = home.service_with_log();
    home.until(|| !folder(1).exists());
    assert!(folder(2).exists() && folder(3).exists() && elsewhere.exists());
    let said = fs::read_to_string(home.path("log")).unwrap();
    let is_grant = |line: &&str| {
        line.contains(r#""STYXY_ACTION":"allocate""#) && line.contains("/project/of/the/sandbox")
    };
    assert_eq!(said.lines().filter(is_grant).count(), 1, "{said}");
    assert!(leases(&home).is_empty());
    end(service, Signal::SIGTERM);
}

#[test]
fn a_mark_for_the_next_login_is_there_as_long_as_there_are_leases() {
    let home = Home::with_type();
    let service = home.service();
    let mark = home.state().join("leases");
    assert!(!mark.exists());
    let port = home.ok(&["allocate", "mine"]);
    home.until(|| mark.exists());
    end(service, Signal::SIGTERM);
    assert!(mark.exists());
    let service = home.service();
    home.ok(&["release", &port]);
    home.until(|| !mark.exists());
    end(service, Signal::SIGTERM);
}

/// Runs a shell script in a network of its own, in which the same home is seen.
fn elsewhere(home: &Home, script: &str) -> Option<String> {
    let unshare = ["--map-current-user", "--net"];
    let works = Command::new("unshare").args(unshare).arg("true").stderr(Stdio::null()).status();
    if !works.is_ok_and(|status| status.success()) {
        eprintln!("SKIPPED: unshare(1) can't make a network here");
        return None;
    }
    let styxy = home.styxy();
    let output = Command::new("unshare")
        .args(unshare)
        .args(["sh", "-euc", script])
        // The project that has the port is the same.
        .current_dir(home.path("."))
        .env_clear()
        .envs(styxy.get_envs().filter_map(|(name, value)| Some((name, value?))))
        .env("PATH", env::var_os("PATH").unwrap())
        .env("STYXY", styxy.get_program())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8(output.stdout).unwrap())
}

#[test]
fn another_network_has_leases_and_a_service_of_its_own() {
    let home = Home::with_type();
    let service = home.service();
    let port = home.ok(&["allocate", "mine"]);
    let script = r#"
        "$STYXY" daemon --idle-exit 0 >"$HOME/there" 2>&1 & daemon=$!
        until grep -q listening "$HOME/there"; do sleep 0.05; done
        "$STYXY" allocate mine
        "$STYXY" list --json
        kill $daemon; wait $daemon
    "#;
    let said = elsewhere(&home, script);
    let leases = leases(&home);
    end(service, Signal::SIGTERM);
    let Some(said) = said else { return };
    let (there, list) = said.split_once('\n').unwrap();
    assert_eq!(there, port, "the same port of another network is free");
    assert_eq!(list.matches("lease_id").count(), 1, "{list}");
    assert_eq!(leases.len(), 1);
}

#[test]
fn who_asks_from_another_network_is_told_so() {
    let home = Home::with_type();
    let service = home.service();
    let socket = home.socket();
    let script = format!(
        r#"python3 - <<'E'
import socket
s = socket.socket(socket.AF_UNIX)
s.connect("{}")
s.sendall(b"GET /check/{} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
print(s.makefile().read())
E"#,
        socket.display(),
        home.port(0)
    );
    let said = elsewhere(&home, &script);
    end(service, Signal::SIGTERM);
    let Some(said) = said else { return };
    assert!(said.starts_with("HTTP/1.1 421 "), "{said}");
    assert!(said.contains("OtherNetwork") && said.contains("network namespace"), "{said}");
}

#[test]
fn a_socket_that_is_not_the_services_own_any_more_stays() {
    let home = Home::with_type();
    let service = home.service();
    // As systemd does when styxy.socket is started.
    fs::remove_file(home.socket()).unwrap();
    let _replaced = std::os::unix::net::UnixListener::bind(home.socket()).unwrap();
    end(service, Signal::SIGTERM);
    UnixStream::connect(home.socket()).unwrap();
}
