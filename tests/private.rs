//! The private service: what it takes from the command that has it started (nothing), and where it is found.

mod support;

use std::{
    collections::BTreeSet,
    fs::{self, File, OpenOptions, Permissions},
    io::{Read, Write},
    os::unix::{
        fs::PermissionsExt,
        net::{UnixDatagram, UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    process::{Command, Output},
    thread,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, chown, geteuid},
};
use serde_json::{Value as Json, json};
use support::{Home, listed};

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// What the service of this home answers beside its state.
fn of_state(home: &Home, method: &str, path: &str) -> Json {
    let mut stream = UnixStream::connect(home.state().join("http.sock")).unwrap();
    write!(stream, "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
}

/// What comes, to the end of its JSON object.
fn object(stream: &mut UnixStream) -> String {
    let (mut text, mut chunk) = (String::new(), [0; 4096]);
    while !text.trim_end().ends_with('}') {
        let length = stream.read(&mut chunk).unwrap();
        assert!(length > 0, "{text}");
        text.push_str(std::str::from_utf8(&chunk[..length]).unwrap());
    }
    text
}

/// The process that serves this home.
fn service(home: &Home) -> String {
    home.http("GET", "/status", "").body["pid"].to_string()
}

fn of_process(pid: &str, file: &str) -> String {
    String::from_utf8_lossy(&fs::read(format!("/proc/{pid}/{file}")).unwrap()).into_owned()
}

fn status(pid: &str, key: &str) -> String {
    let status = of_process(pid, "status");
    let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    line.unwrap().trim().to_owned()
}

/// A shell that runs this with the command as `$0`, in this home.
fn shell(home: &Home, script: &str) -> Command {
    let styxy = home.styxy();
    let mut shell = Command::new("bash");
    shell.args(["-euc", script]).arg(styxy.get_program()).env_clear();
    shell.envs(styxy.get_envs().filter_map(|(name, value)| Some((name, value?))));
    shell.env("PATH", "/usr/bin:/bin").current_dir(home.path("."));
    shell
}

#[test]
fn the_private_service_keeps_nothing_of_its_first_caller() {
    let home = Home::with_type();
    let mut first = shell(
        &home,
        r#"exec 9>lock; flock 9; exec 251>other; umask 0; trap "" HUP INT TERM CHLD
        "$0" allocate mine"#,
    );
    first.env("SECRET_TOKEN", "abc").env("INVOCATION_ID", "1").env("LC_TIME", "C");
    let output = first.output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let pid = service(&home);
    home.ok(&["list"]); // remembers the service
    let lock = File::open(home.path("lock")).unwrap();
    let lock = nix::fcntl::Flock::lock(lock, nix::fcntl::FlockArg::LockExclusiveNonblock);
    assert!(lock.is_ok(), "the caller's lock is still held");
    let environment = of_process(&pid, "environ");
    let names: BTreeSet<_> =
        environment.split('\0').filter_map(|v| Some(v.split_once('=')?.0)).collect();
    assert_eq!(
        names.into_iter().collect::<Vec<_>>(),
        [
            "DBUS_SESSION_BUS_ADDRESS",
            "HOME",
            "LC_TIME",
            "PATH",
            "XDG_CONFIG_HOME",
            "XDG_RUNTIME_DIR",
            "XDG_STATE_HOME"
        ]
    );
    assert_eq!(status(&pid, "Umask"), "0077");
    assert_eq!(fs::read_link(format!("/proc/{pid}/cwd")).unwrap(), PathBuf::from("/"));
    // Only SIGPIPE, which Rust's programs ignore.
    let ignored = u64::from_str_radix(&status(&pid, "SigIgn"), 16).unwrap();
    // 32 and 33 are the C library's own.
    assert_eq!(ignored & !(0b11 << 31), 1 << 12, "{ignored:b}");
    assert_eq!(status(&pid, "SigBlk"), format!("{:016x}", 0));
    let session = of_process(&pid, "stat");
    let session: Vec<_> = session.rsplit_once(')').unwrap().1.split_whitespace().collect();
    assert_ne!(session[3], pid, "it leads a session, and may get a terminal");
    assert_eq!(session[4], "0", "it has a terminal");
    for entry in fs::read_dir(format!("/proc/{pid}/fd")).unwrap() {
        let path = entry.unwrap().path();
        let Ok(target) = fs::read_link(&path) else { continue };
        let target = target.to_string_lossy().into_owned();
        assert!(!target.ends_with("/lock") || target.contains("state"), "{target}");
        assert!(!target.ends_with("/other") && !target.starts_with("pipe:"), "{target}");
    }
}

#[test]
fn a_shell_that_waits_for_the_end_of_the_output_does_not_wait_for_the_service() {
    let home = Home::with_type();
    let output =
        shell(&home, r#"x=$(exec 4>&1; port=$("$0" allocate mine -q); echo got $port); echo $x"#)
            .output()
            .unwrap();
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        format!("got {}\n", home.port(0)),
        "{}",
        stderr(&output)
    );
    home.ok(&["list"]);
}

#[test]
fn a_command_that_waits_for_its_children_does_not_meet_the_service() {
    let home = Home::with_type();
    let children = home.ok(&[
        "run",
        "mine",
        "-q",
        "--",
        "/bin/sh",
        "-c",
        "read -r line </proc/$$/task/$$/children; echo \"children: $line\"",
    ]);
    assert_eq!(children, "children:");
}

#[test]
fn the_callers_manager_hears_nothing_of_the_service() {
    let home = Home::with_type();
    let manager = UnixDatagram::bind(home.path("notify")).unwrap();
    manager.set_nonblocking(true).unwrap();
    let variables = [
        ("NOTIFY_SOCKET", home.path("notify")),
        ("WATCHDOG_USEC", "100000".into()),
        // Of another process: the one that systemd has started.
        ("SYSTEMD_EXEC_PID", "1".into()),
    ];
    let started = home.styxy().args(["allocate", "mine"]).envs(variables.clone()).output().unwrap();
    assert!(started.status.success(), "{}", stderr(&started));
    home.ok(&["release", "--type", "mine", "--yes"]);
    // Nor of one that is started by hand there.
    let by_hand = Home::with_type();
    let mut command = by_hand.styxy();
    command.envs(variables);
    let daemon = support::started(command);
    by_hand.ok(&["allocate", "mine"]);
    support::end(daemon, nix::sys::signal::Signal::SIGTERM);
    let heard = manager.recv(&mut [0; 512]);
    assert_eq!(heard.unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
}

#[test]
fn a_command_in_somebodys_unit_finds_the_users_service_and_folders() {
    let home = Home::with_type();
    home.ok(&["allocate", "mine"]);
    let unit = home.path("unit");
    for name in ["state", "config", "run"] {
        fs::create_dir_all(unit.join(name)).unwrap();
    }
    fs::write(unit.join("config/config.json"), "{ broken").unwrap();
    let in_unit = |arguments: &[&str]| {
        let mut command = home.styxy();
        command
            .args(arguments)
            .env("STATE_DIRECTORY", unit.join("state"))
            .env("CONFIGURATION_DIRECTORY", unit.join("config"))
            .env("RUNTIME_DIRECTORY", unit.join("run"));
        let output = command.output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", stderr(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    let port = home.port(1);
    assert_eq!(
        in_unit(&["allocate", "mine", "--new", "--port", &port.to_string(), "--strict"]),
        format!("{port}\n")
    );
    assert_eq!(listed("leases", in_unit(&["list", "--json"])).len(), 2);
    in_unit(&["config", "validate"]);
    assert_eq!(fs::read_dir(unit.join("state")).unwrap().count(), 0);
    assert_eq!(fs::read_dir(unit.join("run")).unwrap().count(), 0);
}

#[test]
fn a_service_is_found_whatever_the_runtime_directory_is() {
    let home = Home::with_type();
    home.ok(&["allocate", "mine", "--name", "first"]);
    let pid = service(&home);
    fs::write(home.path("file"), "").unwrap();
    fs::create_dir(home.path("snap.code")).unwrap();
    let long = home.path(&"r".repeat(120));
    fs::create_dir(&long).unwrap();
    let odd = [
        None,
        Some(home.path("gone")),
        Some(home.path("file")),
        Some(home.path("snap.code")),
        Some("relative".into()),
        Some("".into()),
        Some(long),
    ];
    for runtime in odd {
        let mut command = home.styxy();
        command.args(["status", "--json"]);
        match &runtime {
            Some(runtime) => command.env("XDG_RUNTIME_DIR", runtime),
            None => command.env_remove("XDG_RUNTIME_DIR"),
        };
        let output = command.output().unwrap();
        let status: Json = serde_json::from_slice(&output.stdout).unwrap_or_default();
        assert_eq!(status["pid"].to_string(), pid, "{runtime:?}: {}", stderr(&output));
    }
}

#[test]
fn a_service_starts_and_is_found_again_where_the_paths_are_long_or_no_runtime_directory_is() {
    for runtime in [false, true] {
        let home = Home::with_type();
        let state = home.path(&["s"; 3].map(|part| part.repeat(80)).join("/"));
        let styxy = |arguments: &[&str]| {
            let mut command = home.styxy();
            command.args(arguments).env("XDG_STATE_HOME", &state);
            if !runtime {
                command.env_remove("XDG_RUNTIME_DIR");
            }
            command.output().unwrap()
        };
        let output = styxy(&["allocate", "mine"]);
        assert!(output.status.success(), "{}", stderr(&output));
        let status: Json = serde_json::from_slice(&styxy(&["status", "--json"]).stdout).unwrap();
        assert_eq!(status["leases"], 1, "{status}");
        let pid = i32::try_from(status["pid"].as_i64().unwrap()).unwrap();
        let pid = nix::unistd::Pid::from_raw(pid);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
        home.until(|| !PathBuf::from(format!("/proc/{pid}")).exists());
    }
}

#[test]
fn a_service_that_does_not_begin_is_not_waited_for_without_end() {
    let home = Home::with_type();
    fs::create_dir_all(home.state()).unwrap();
    let log = home.state().join("service.log");
    // To open it waits for a reader.
    nix::unistd::mkfifo(&log, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
    let output = home.styxy().args(["allocate", "mine"]).output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    assert!(stderr(&output).contains("does not listen after"), "{}", stderr(&output));
    // It goes on, and serves the next command.
    let mut reader = OpenOptions::new().read(true).open(&log).unwrap();
    let reading = thread::spawn(move || reader.read_to_end(&mut Vec::new()));
    home.until(|| home.try_http("GET", "/status", "").is_some());
    home.ok(&["allocate", "mine"]);
    drop(home);
    reading.join().unwrap().unwrap();
}

#[test]
fn events_in_a_log_that_was_set_aside_are_still_shown() {
    let home = Home::with_type();
    let line = |seq: u64, what: &str| {
        let fields = format!(
            r#""SYSLOG_IDENTIFIER":"styxy","STYXY_ACTION":"allocate","STYXY_PORT":{},"STYXY_PROTOCOL":"tcp",
            "STYXY_SERVICE_TYPE":"mine","STYXY_SERVICE_NAME":"{what}","STYXY_SEQ":{seq},"STYXY_STATE_ID":"a",
            "STYXY_TIME":"2020-11-23T10:00:00.000Z","MESSAGE":"m""#,
            home.port(0)
        );
        format!("{{{}}}\n", fields.replace('\n', ""))
    };
    fs::create_dir_all(home.state()).unwrap();
    let mut log = File::create(home.state().join("service.log")).unwrap();
    log.write_all(line(1, "oldest").as_bytes()).unwrap();
    let filler = "it was a dark night\n".repeat(60_000);
    log.write_all(filler.as_bytes()).unwrap();
    drop(log);
    home.ok(&["allocate", "mine"]);
    let set_aside = fs::read_to_string(home.state().join("service.log.1")).unwrap();
    assert!(set_aside.contains("oldest") && set_aside.len() > filler.len());
    // Where there is no journal to read.
    fs::create_dir(home.path("bin")).unwrap();
    let audit =
        home.styxy().args(["audit", "--all"]).env("PATH", home.path("bin")).output().unwrap();
    let shown = String::from_utf8_lossy(&audit.stdout).into_owned();
    assert!(shown.contains("oldest"), "{shown} {}", stderr(&audit));
}

#[test]
fn status_names_the_file_that_the_events_of_a_private_service_go_to() {
    if Path::new("/run/systemd/journal").exists() {
        return;
    }
    let home = Home::with_type();
    home.ok(&["allocate", "mine"]);
    let log = home.state().join("service.log");
    let words = format!("there is no journal, so events go to {}", log.display());
    let status: Json = serde_json::from_str(&home.ok(&["status", "--json"])).unwrap();
    assert_eq!(status["audit_note"], words);
    home.until(|| fs::read_to_string(&log).unwrap().contains(r#""STYXY_ACTION":"allocate""#));
}

/// What `status` and `doctor` say where no service runs; whether the next command would start one.
fn not_running(styxy: &dyn Fn() -> Command) -> (String, bool) {
    let run = |verb| styxy().args([verb, "--json"]).output().unwrap();
    let status: Json = serde_json::from_slice(&run("status").stdout).unwrap();
    assert_eq!(status["running"], false, "{status}");
    let mut findings = listed("findings", run("doctor").stdout).into_iter();
    let finding = findings.find(|finding| finding["check"] == "service").unwrap();
    let text = String::from_utf8(styxy().arg("status").output().unwrap().stdout).unwrap();
    let is_started = text.contains("the next command starts it");
    if is_started {
        assert_eq!(
            (&finding["verdict"], &finding["remedy"]),
            (&json!("note"), &json!("the next command starts it"))
        );
        assert!(status.get("obstacle").is_none(), "{status}");
        return (text, true);
    }
    assert_eq!((&finding["verdict"], &finding["remedy"]), (&json!("error"), &status["obstacle"]));
    let obstacle = status["obstacle"].as_str().unwrap();
    assert!(text.contains(&format!("and cannot serve: {obstacle}")), "{text}");
    (obstacle.to_owned(), false)
}

#[test]
fn status_and_doctor_promise_a_service_only_where_a_command_can_start_one() {
    let home = Home::new();
    let in_home = || home.styxy();
    assert!(not_running(&in_home).1);
    assert!(!home.state().exists(), "they have made nothing");

    fs::create_dir_all(home.state()).unwrap();
    let header = r#"{"header":{"version":2,"program":"9.3.0"}}"#;
    let text = format!("{:08x} {header}\n", crc32fast::hash(header.as_bytes()));
    fs::write(home.state().join("log.00000007"), text).unwrap();
    let (newer, is_started) = not_running(&in_home);
    assert!(!is_started && newer.contains("was written by styxy 9.3.0"), "{newer}");

    fs::remove_dir_all(home.state()).unwrap();
    fs::write(home.state(), "").unwrap();
    let (file, is_started) = not_running(&in_home);
    assert!(!is_started && file.contains("is no directory"), "{file}");

    // Closed to an ordinary user, whose it is.
    fs::remove_file(home.state()).unwrap();
    fs::create_dir(home.state()).unwrap();
    let (program, nobody) = (home.path("styxy"), 65_534);
    support::copy_program(env!("CARGO_BIN_EXE_styxy"), &program);
    fs::set_permissions(home.path(""), Permissions::from_mode(0o755)).unwrap();
    if geteuid().is_root() {
        for folder in ["state/styxy/state", "state/styxy", "state", "runtime"] {
            chown(&home.path(folder), Some(nobody.into()), None).unwrap();
        }
        chown(&home.state(), Some(nobody.into()), None).unwrap();
    }
    let theirs = || {
        let mut command = Command::new(&program);
        if geteuid().is_root() {
            command = Command::new("setpriv");
            command.args([format!("--reuid={nobody}"), format!("--regid={nobody}")]);
            command.arg("--clear-groups").arg(&program);
        }
        command.env_clear().envs(home.styxy().get_envs().filter_map(|(k, v)| Some((k, v?))));
        command.current_dir("/");
        command
    };
    assert!(not_running(&theirs).1);
    fs::set_permissions(home.state(), Permissions::from_mode(0o500)).unwrap();
    let (closed, is_started) = not_running(&theirs);
    assert!(!is_started && closed.contains("cannot be written to"), "{closed}");
    assert!(closed.contains("set XDG_STATE_HOME"), "{closed}");
}

/// A service that answers every request with this.
fn liar(home: &Home, answer: &str) {
    fs::create_dir_all(home.path("runtime/styxy")).unwrap();
    let listener = UnixListener::bind(home.socket()).unwrap();
    let answer = answer.to_owned();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 4096]);
            let length = answer.len();
            let _ = write!(
                stream,
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{answer}"
            );
        }
    });
}

#[test]
fn a_grant_whose_answer_died_with_its_service_is_found_again_by_the_same_command() {
    let home = Home::with_type();
    home.ok(&["allocate", "mine", "--name", "first"]);
    // Between the command and the service is somebody who kills it when it has answered, and tells nobody.
    fs::remove_file(home.socket()).unwrap();
    let between = UnixListener::bind(home.socket()).unwrap();
    let (socket, behind) = (home.socket(), home.state().join("http.sock"));
    let pid: i32 = of_state(&home, "GET", "/status")["pid"].as_i64().unwrap().try_into().unwrap();
    let between = thread::spawn(move || {
        let (mut command, _) = between.accept().unwrap();
        let request = object(&mut command);
        let mut service = UnixStream::connect(behind).unwrap();
        service.write_all(request.as_bytes()).unwrap();
        let answer = object(&mut service);
        kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
        // It has ended, or is about to.
        while service.read(&mut [0]).is_ok_and(|length| length > 0) {}
        fs::remove_file(socket).unwrap();
        answer
    });
    let port = home.ok(&["allocate", "mine", "--name", "second"]);
    let lost = between.join().unwrap();
    assert!(lost.contains(&format!("\"port\":{port},")), "{lost}");
    assert_eq!(home.leases().len(), 2);
}

#[test]
fn an_answer_that_is_no_port_reaches_no_command_and_no_shell() {
    let lease = "\"lease_id\":\"3b9f1c0a-5d3e-4c63-9d3b-1a2b3c4d5e6f\"";
    for answer in [
        format!(r#"{{"success":true,"port":"3000; touch owned",{lease}}}"#),
        format!(r#"{{"success":true,"port":0,{lease}}}"#),
        format!(r#"{{"success":true,"port":70000,{lease}}}"#),
        format!(r#"{{"success":true,"port":3000,"ports":[3000,"$(touch owned)"],{lease}}}"#),
        r#"{"success":true,"port":3000,"lease_id":"$(touch owned)"}"#.to_owned(),
        format!(r#"{{"success":true,{lease}}}"#),
    ] {
        let home = Home::with_type();
        liar(&home, &answer);
        for arguments in [
            vec!["run", "mine", "--", "/bin/sh", "-c", "echo ran {port} >&2; touch owned"],
            vec!["exec", "mine", "--", "/bin/sh", "-c", "echo ran >&2; touch owned"],
            vec!["allocate", "mine"],
            vec!["allocate", "mine", "--json"],
        ] {
            let output = home.styxy().args(&arguments).output().unwrap();
            let said = stderr(&output);
            assert_eq!(output.status.code(), Some(3), "{answer} {arguments:?}: {said}");
            assert!(output.stdout.is_empty() && !said.contains("ran"), "{answer}: {said}");
            assert!(said.contains("unexpected"), "{said}");
            assert!(!home.path("owned").exists());
        }
    }
}
