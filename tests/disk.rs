//! What the service does when the disk fails, when it can have no thread to wait for the disk with, and when
//! it is asked for more than there is room for.
//!
//! Without strace, or where it may not trace, and where the tests may not become another user, some of
//! them are ignored.

mod support;

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{BufRead, BufReader},
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, ExitCode, Stdio},
    thread,
};

use libtest_mimic::{Arguments, Trial};
use nix::{
    fcntl::{Flock, FlockArg},
    sys::signal::{Signal, kill},
    unistd::{Pid, Uid},
};
use serde_json::{Value as Json, json};
use support::{Answer, Home, end, listed};

/// A user that has no process.
const NOBODY: u32 = 23_457;

fn main() -> ExitCode {
    let can_trace = Command::new("strace").args(["-o", "/dev/null", "true"]).status();
    let can_trace = can_trace.is_ok_and(|status| status.success());
    let is_root = Uid::effective().is_root();
    let tests: [(&str, fn(), bool); 13] = [
        ("a_grant_that_could_not_be_synced_leaves_no_trace", one_failure, can_trace),
        ("nothing_is_granted_on_a_disk_that_goes_on_failing", failures, can_trace),
        ("a_change_that_could_not_be_stored_is_told_until_one_can_be", full, can_trace),
        ("a_state_folder_that_was_deleted_is_written_again", deleted, true),
        ("the_state_of_a_newer_version_is_refused_until_it_is_moved_away", newer, true),
        ("damage_is_told_until_the_files_that_were_kept_are_deleted", damaged, true),
        ("logs_that_nobody_needs_go_at_the_next_start", leftovers, true),
        ("without_a_thread_nothing_is_granted_and_nothing_leaks", no_thread, is_root),
        ("nothing_that_serves_starts_a_thread_that_it_must_have", no_panic, true),
        ("a_type_that_could_not_be_undone_is_there_with_its_leases", undone, can_trace),
        ("who_locks_the_drop_in_stops_no_question", foreign_lock, true),
        ("refusals_that_are_alike_are_told_once_and_counted", refusals, true),
        ("every_number_has_a_bound_at_every_door", bounds, true),
    ];
    let trials = tests.into_iter().map(|(name, test, can_run)| {
        let trial = Trial::test(name, move || {
            test();
            Ok(())
        });
        trial.with_ignored_flag(!can_run)
    });
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit_code()
}

fn damaged() {
    let home = Home::with_type();
    let service = home.service();
    home.ok(&["allocate", "mine", "--name", "first"]);
    home.ok(&["allocate", "mine", "--name", "second"]);
    end(service, Signal::SIGTERM);
    let log = home.state().join("log.00000001");
    let whole = fs::read_to_string(&log).unwrap();
    fs::write(&log, whole.replacen("\"first\"", "\"fisrt\"", 1)).unwrap();
    let service = home.service();
    let told = || {
        let output = home.styxy().args(["doctor", "--json"]).output().unwrap();
        let findings = listed("findings", output.stdout);
        let state = findings.iter().find(|finding| finding["check"] == "state");
        [&state.unwrap()["verdict"], &state.unwrap()["message"]]
            .map(|word| word.as_str().unwrap().to_owned())
    };
    let [verdict, message] = told();
    assert_eq!(verdict, "warning", "{message}");
    let kept = fs::read_dir(home.state()).unwrap().map(|file| file.unwrap().path());
    let kept = kept.filter(|path| path.to_string_lossy().contains("/damaged."));
    let kept: Vec<_> = kept.collect();
    assert!(!kept.is_empty());
    for path in kept {
        assert!(message.contains(path.file_name().unwrap().to_str().unwrap()), "{message}");
        fs::remove_file(path).unwrap();
    }
    assert_eq!(told()[0], "ok");
    end(service, Signal::SIGTERM);
}

fn one_failure() {
    let home = Home::with_type();
    let service = home.service();
    // What is remembered before it must be remembered after it.
    assert_eq!(ask(&home, "/known", home.port(3)).status, 200);
    assert_eq!(home.http("DELETE", "/allocations?project_path=/known", "").status, 200);
    let remembered = |home: &Home| home.http("GET", "/status", "").body["remembered_ports"].clone();
    assert_eq!(remembered(&home), 1);
    let tracer = failing(&service, "fdatasync:error=EIO:when=1");
    let refused = ask(&home, "/known", home.port(5));
    assert_eq!(refused.status, 507, "{refused:?}");
    assert_eq!(leased(&home), [0; 0]);
    assert_eq!(remembered(&home), 1);
    // The log is not trusted any more, and the disk works again.
    home.until(|| home.http("GET", "/status", "").body.get("state_problem").is_none());
    assert!(home.state().join("log.00000002").exists());
    let again = home.http("POST", "/allocate", &request("/known"));
    assert_eq!((again.status, &again.body["port"]), (200, &json!(home.port(3))), "{again:?}");
    stop(tracer);
    end(service, Signal::SIGKILL);
    let service = home.service();
    assert_eq!(leased(&home), [home.port(3)]);
    end(service, Signal::SIGTERM);
}

fn failures() {
    let home = Home::with_type();
    let service = home.service();
    let tracer = failing(&service, "fsync,fdatasync:error=EIO");
    for _ in 0..3 {
        let refused = home.http("POST", "/allocate", &request("/a"));
        assert_eq!(refused.status, 507, "{refused:?}");
        assert!(refused.body["error"].as_str().unwrap().contains("Input/output error"));
    }
    // Nor what need not wait for the disk.
    home.until(|| home.http("GET", "/status", "").body.get("state_problem").is_some());
    assert_eq!(home.http("POST", "/allocate", r#"{"service_type": "mine"}"#).status, 507);
    let status = home.http("GET", "/status", "").body;
    assert_eq!((&status["leases"], &status["remembered_ports"]), (&json!(0), &json!(0)));
    stop(tracer);
    home.until(|| home.http("POST", "/allocate", &request("/a")).status == 200);
    assert!(home.http("GET", "/status", "").body.get("state_problem").is_none());
    end(service, Signal::SIGKILL);
    let service = home.service();
    assert_eq!(leased(&home), [home.port(0)]);
    end(service, Signal::SIGTERM);
}

/// What whoever watches it by its metrics learns; they are there, whatever is wrong with the state.
fn is_writable(home: &Home) -> bool {
    let metrics = home.http("GET", "/metrics", "").body;
    metrics["gauges"]["state_writable"]["value"] == 1
}

fn full() {
    let home = Home::with_type();
    let service = home.service();
    let problem = || home.http("GET", "/status", "").body["state_problem"].clone();
    assert!(problem().is_null() && is_writable(&home));
    let tracer = failing(&service, "pwrite64:error=ENOSPC");
    assert_eq!(home.http("POST", "/allocate", &request("/a")).status, 507);
    assert!(problem().as_str().unwrap().contains("No space left"), "{}", problem());
    assert!(!is_writable(&home));
    stop(tracer);
    assert_eq!(home.http("POST", "/allocate", &request("/a")).status, 200);
    assert!(problem().is_null());
    end(service, Signal::SIGTERM);
}

fn deleted() {
    let home = Home::with_type();
    let service = home.service();
    assert_eq!(home.http("POST", "/allocate", &request("/a")).status, 200);
    // The service may be writing the mark of its leases this moment.
    home.until(|| fs::remove_dir_all(home.state()).is_ok());
    home.until(|| home.http("POST", "/allocate", &request("/b")).status == 200);
    end(service, Signal::SIGKILL);
    let service = home.service();
    assert_eq!(leased(&home), [home.port(0), home.port(1)]);
    end(service, Signal::SIGTERM);
}

fn newer() {
    let home = Home::with_type();
    fs::create_dir_all(home.state()).unwrap();
    let header = r#"{"header":{"version":2,"program":"9.3.0","novelty":true}}"#;
    let text = format!("{:08x} {header}\n", crc32fast::hash(header.as_bytes()));
    let log = home.state().join("log.00000007");
    fs::write(&log, &text).unwrap();
    let service = home.service();
    let refused = home.http("POST", "/allocate", &request("/a"));
    assert_eq!((refused.status, &refused.body["code"]), (507, &json!("Storage")), "{refused:?}");
    let error = refused.body["error"].as_str().unwrap();
    for words in ["styxy 9.3.0 (format 2)", "upgrade styxy, or move", "nothing is granted"] {
        assert!(error.contains(words), "{error}");
    }
    assert!(home.ok(&["status"]).contains("styxy 9.3.0"));
    assert!(!is_writable(&home));
    let health = home.http("GET", "/health", "");
    assert_eq!((health.status, &health.body["status"]), (503, &json!("unhealthy")), "{health:?}");
    assert!(health.body["warnings"].to_string().contains("styxy 9.3.0"), "{health:?}");
    let doctor = String::from_utf8(home.run(&["doctor"]).stdout).unwrap();
    assert!(doctor.contains("styxy 9.3.0"), "{doctor}");
    assert_eq!(fs::read_to_string(&log).unwrap(), text);
    fs::remove_file(log).unwrap();
    let health = home.http("GET", "/health", "");
    assert_eq!((health.status, &health.body["status"]), (200, &json!("healthy")), "{health:?}");
    assert_eq!(home.http("POST", "/allocate", &request("/a")).status, 200);
    end(service, Signal::SIGTERM);
}

fn leftovers() {
    let home = Home::with_type();
    let service = home.service();
    let log = home.state().join("log.00000001");
    let mut ask = 0..;
    // Each is told as a refusal of its own.
    while !home.state().join("snapshot.00000002").exists() {
        let port = 20_000 + ask.next().unwrap() % 40_000;
        let body = json!({"service_type": "mine", "port": port, "strict": true, "dry_run": false,
                          "project_path": format!("/{}", "x".repeat(900))});
        let lease = home.http("POST", "/allocate", &body.to_string());
        if let Some(lease) = lease.body["lease_id"].as_str() {
            home.http("DELETE", &format!("/allocate/{lease}"), "");
        }
    }
    home.until(|| home.http("GET", "/status", "").body["audit_pending"] == 0);
    home.until(|| !log.exists());
    end(service, Signal::SIGKILL);
    // As a service leaves it that was killed before it deleted what it could have deleted.
    let header = fs::read_to_string(home.state().join("log.00000002")).unwrap();
    let header: Json = serde_json::from_str(&header.lines().next().unwrap()[9..]).unwrap();
    let mut older = header.clone();
    older["header"]["seq"] = json!(0);
    let older = older.to_string();
    fs::write(&log, format!("{:08x} {older}\n", crc32fast::hash(older.as_bytes()))).unwrap();
    let service = home.service();
    home.until(|| !log.exists());
    end(service, Signal::SIGTERM);
}

fn no_thread() {
    let home = Home::with_type();
    let binary = home.path("styxy");
    support::copy_program(env!("CARGO_BIN_EXE_styxy"), &binary);
    // More than is read without further threads.
    let service = home.service();
    for i in 0..5 {
        assert_eq!(home.http("POST", "/allocate", &request(&format!("/p{i}"))).status, 200);
    }
    end(service, Signal::SIGTERM);
    let log = home.state().join("log.00000001");
    let mut text = fs::read_to_string(&log).unwrap();
    let filler = r#"{"confirmed":1}"#;
    let filler = format!("{:08x} {filler}\n", crc32fast::hash(filler.as_bytes()));
    text.push_str(&filler.repeat(400_000 / filler.len()));
    fs::write(&log, text).unwrap();
    let owner = format!("{NOBODY}:{NOBODY}");
    let chown = Command::new("chown").args(["-R", &owner]).arg(home.path(".")).status();
    assert!(chown.unwrap().success());

    let ask = |method: &str, path: &str, body: &str| ask_as_nobody(&home, method, path, body);
    let allocate = |project: &str| ask("POST", "/allocate", &request(project));

    // The service itself, and one thread: one too few.
    for most in [1, 2] {
        let service = limited(&home, &binary, most);
        for path in ["/more", "/more", "/again"] {
            let refused = allocate(path);
            assert_eq!(refused.0, 507, "with {most}: {refused:?}");
        }
        let id = service.id().to_string();
        let more = as_nobody().args(["prlimit", "--nproc=100", "--pid", &id]).status();
        assert!(more.unwrap().success());
        assert_eq!(ask("GET", "/allocations", "").1["allocations"].as_array().unwrap().len(), 5);
        assert_eq!(allocate("/p2").0, 200);
        assert_eq!(ask("DELETE", "/allocations?project_path=/p2", "").0, 200);
        assert_eq!(allocate("/p2").0, 200);
        end(service, Signal::SIGTERM);
    }

    // With its two threads it has all that it needs, for ever: nothing waits for a third.
    let service = limited(&home, &binary, 3);
    // Those that have read the log at the start may not be gone yet.
    home.until(|| allocate("/p9").0 == 200);
    for i in 10..14 {
        let granted = allocate(&format!("/p{i}"));
        assert_eq!(granted.0, 200, "{granted:?}");
    }
    assert_eq!(ask("POST", "/allocate", r#"{"service_type": "grafana"}"#).0, 200);
    assert_eq!(ask("DELETE", "/types/grafana?force=true", "").0, 200);
    end(service, Signal::SIGTERM);
}

fn no_panic() {
    let mut found = Vec::new();
    let mut folders = vec![Path::new("src").to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            // A command may end where it can have no thread.
            if ["cli", "client", "tests", "tests.rs"].iter().any(|name| path.ends_with(name)) {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = fs::read_to_string(&path).unwrap();
            let text = text.split("#[cfg(test)]").next().unwrap();
            for word in ["spawn_blocking", "thread::spawn(", "scope.spawn(", "block_in_place"] {
                if text.contains(word) {
                    found.push(format!("{}: {word}", path.display()));
                }
            }
        }
    }
    assert_eq!(found, [""; 0], "they panic when the kernel gives no thread: use state::Writer");
}

fn undone() {
    let home = Home::with_type();
    let service = home.service();
    let lease = home.http("POST", "/allocate", r#"{"service_type": "grafana"}"#);
    assert_eq!(lease.status, 200);
    let config = || folder(&home.config().join("config.d"));
    let (files, backups) = (config(), folder(&home.state().join("auto-backups")));
    let log = home.state().join("log.00000001");
    // There is no space for the file, or for the change that goes with it.
    let new = home.config().join("config.d/styxy-auto.tmp");
    for (path, call) in [(new, "openat"), (log, "pwrite64")] {
        let inject = format!("{call}:error=ENOSPC");
        let full = tracer(&service, &["-P", path.to_str().unwrap()], &inject);
        let refused = home.http("DELETE", "/types/grafana?force=true", "");
        assert_eq!(refused.status, 507, "{refused:?}");
        stop(full);
        assert_eq!(config(), files, "{call}");
        assert_eq!(folder(&home.state().join("auto-backups")), backups, "{call}");
        let types = home.http("GET", "/types", "").body.to_string();
        assert!(types.contains("\"grafana\""), "{call}: {types}");
        let port: u16 = lease.body["port"].as_u64().unwrap().try_into().unwrap();
        assert_eq!(leased(&home), [port], "{call}");
    }
    // The type still gives ports.
    assert_eq!(home.http("POST", "/allocate", r#"{"service_type": "grafana"}"#).status, 200);
    assert_eq!(home.http("DELETE", "/types/grafana?force=true", "").body["released"], 2);
    assert_eq!(leased(&home), [0; 0]);
    assert!(!config().contains_key(".styxy-auto.old"));
    end(service, Signal::SIGTERM);
}

fn foreign_lock() {
    let home = Home::with_type();
    let service = home.service();
    fs::create_dir_all(home.config().join("config.d")).unwrap();
    let path = home.config().join("config.d/.styxy-auto.lock");
    let file = File::options().create(true).write(true).truncate(false).open(&path).unwrap();
    let lock = Flock::lock(file, FlockArg::LockExclusive).unwrap();
    thread::scope(|scope| {
        let writer = scope.spawn(|| home.http("POST", "/allocate", r#"{"service_type": "new"}"#));
        // While it waits.
        for path in ["/types", "/config", "/status", "/allocations"] {
            assert_eq!(home.http("GET", path, "").status, 200, "{path}");
        }
        assert_eq!(home.http("POST", "/allocate", &request("/a")).status, 200);
        let refused = writer.join().unwrap();
        assert_eq!(refused.status, 507, "{refused:?}");
        let error = refused.body["error"].as_str().unwrap();
        assert!(
            error.contains(".styxy-auto.lock") && error.contains("nothing was changed"),
            "{error}"
        );
    });
    drop(lock);
    assert_eq!(home.http("POST", "/allocate", r#"{"service_type": "new"}"#).status, 200);
    end(service, Signal::SIGTERM);
}

fn refusals() {
    let home = Home::with_type();
    let service = home.service();
    let denials = || {
        let log = fs::read_to_string(home.state().join("log.00000001")).unwrap();
        let lines = log.lines().filter_map(|line| serde_json::from_str::<Json>(&line[9..]).ok());
        lines
            .filter_map(|line| line["record"]["change"].get("deny").cloned())
            .map(|denial| (denial["port"].as_u64().unwrap(), denial["count"].as_u64().unwrap_or(1)))
            .collect::<Vec<_>>()
    };
    let refused = |port: u16| {
        let request = json!({"service_type": "mine", "port": port, "strict": true});
        assert_eq!(home.http("POST", "/allocate", &request.to_string()).status, 409);
    };
    let taken: Vec<u64> = (0..2).map(|i| home.port(i).into()).collect();
    for port in &taken {
        let request = json!({"service_type": "mine", "port": port});
        assert_eq!(home.http("POST", "/allocate", &request.to_string()).status, 200);
    }
    for _ in 0..50 {
        refused(home.port(0));
    }
    refused(home.port(1));
    assert_eq!(denials(), [(taken[0], 1), (taken[1], 1)]);
    // What was counted is told at the end of the minute, or of the service.
    end(service, Signal::SIGTERM);
    assert_eq!(denials(), [(taken[0], 1), (taken[1], 1), (taken[0], 49)]);
}

fn bounds() {
    let home = Home::with_type();
    home.configure(&format!(
        r#"{{"service_types": {{"mine": {{"port_range": [{}, {}]}}}}, "limits": {{"instances": 3}}}}"#,
        home.port(0),
        home.port(9)
    ));
    let service = home.service();
    let granted = home.http("POST", "/allocate", r#"{"service_type": "mine"}"#);
    assert_eq!(granted.status, 200, "{granted:?}");
    // In milliseconds, it is 384 more than fit.
    let all = r#"{"older_than": 18446744073709552}"#;
    let refused = home.http("POST", "/cleanup", all);
    assert_eq!(refused.status, 400, "{refused:?}");
    assert!(refused.body["error"].as_str().unwrap().contains("older_than must be"), "{refused:?}");
    assert_eq!(home.http("POST", "/cleanup", r#"{"older_than": 31536000}"#).status, 200);
    assert_eq!(json!(leased(&home)), json!([granted.body["port"]]));

    let register = |name: &str, heartbeat: u64| {
        let heartbeat = json!({"heartbeat": heartbeat}).to_string();
        home.http("PUT", &format!("/instances/{name}"), &heartbeat)
    };
    assert_eq!(register("a", 86_401).status, 400);
    for name in ["a", "b", "c", "a"] {
        assert_eq!(register(name, 86_400).status, 200, "{name}");
    }
    let refused = register("d", 60);
    assert_eq!((refused.status, &refused.body["code"]), (429, &json!("LimitExceeded")));
    end(service, Signal::SIGTERM);
}

// ---------------------------------------------------------------------------------------------------------

/// The files of a folder, and what they say.
fn folder(path: &Path) -> BTreeMap<String, String> {
    let entries = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
    let name = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
    entries.map(|path| (name(&path), fs::read_to_string(&path).unwrap())).collect()
}

fn request(project: &str) -> String {
    json!({"service_type": "mine", "project_path": project}).to_string()
}

fn ask(home: &Home, project: &str, port: u16) -> Answer {
    let request = json!({"service_type": "mine", "project_path": project, "port": port});
    home.http("POST", "/allocate", &request.to_string())
}

fn leased(home: &Home) -> Vec<u16> {
    let leases = home.http("GET", "/allocations", "").body;
    let leases = leases["allocations"].as_array().or(leases.as_array()).unwrap().clone();
    leases.iter().map(|lease| lease["port"].as_u64().unwrap().try_into().unwrap()).collect()
}

/// Has system calls of the service fail, until the tracer is stopped.
fn failing(service: &Child, inject: &str) -> Child {
    tracer(service, &[], inject)
}

fn tracer(service: &Child, more: &[&str], inject: &str) -> Child {
    let mut tracer = Command::new("strace")
        .args(more)
        .args(["-f", "-p", &service.id().to_string(), "-o", "/dev/null", "-e"])
        .args([&format!("trace={}", inject.split(':').next().unwrap()), "-e"])
        .arg(format!("inject={inject}"))
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    // It has attached to all threads when it says so.
    BufReader::new(tracer.stderr.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.contains("attached"), "{line}");
    tracer
}

fn stop(mut tracer: Child) {
    let pid = Pid::from_raw(i32::try_from(tracer.id()).unwrap());
    kill(pid, Signal::SIGINT).unwrap();
    tracer.wait().unwrap();
}

fn as_nobody() -> Command {
    let mut command = Command::new("setpriv");
    let ids = [format!("--reuid={NOBODY}"), format!("--regid={NOBODY}")];
    command.args(ids).arg("--clear-groups");
    command
}

/// Asks as that user, whose service answers nobody else. The kernel counts processes by their real user, which stays.
fn ask_as_nobody(home: &Home, method: &str, path: &str, body: &str) -> (u16, Json) {
    let mut command = Command::new("setpriv");
    command.args(["--euid", &NOBODY.to_string(), "curl", "-qsS", "-w", "\n%{http_code}"]);
    command.args(["-X", method, "--data-binary", body, "--unix-socket"]).arg(home.socket());
    let answer = command.arg(format!("http://localhost{path}")).output().unwrap();
    let text = String::from_utf8(answer.stdout).unwrap();
    let (body, status) = text.rsplit_once('\n').unwrap();
    let body = serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {text}"));
    (status.parse().unwrap(), body)
}

/// A service of another user, who may have so many threads.
fn limited(home: &Home, binary: &Path, most: u32) -> Child {
    let mut command = as_nobody();
    command.args(["prlimit", &format!("--nproc={most}:100")]).arg(binary).arg("daemon");
    let theirs = home.styxy();
    command.env_clear().envs(theirs.get_envs().filter_map(|(k, v)| Some((k, v?))));
    command.env("PATH", "/usr/bin:/bin").current_dir("/").process_group(0);
    let mut service =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(service.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.contains("listening on"), "{line:?}");
    service
}
