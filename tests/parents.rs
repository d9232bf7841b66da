//! Which process `--owner parent` and `--owner session` mean.

mod support;

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use nix::sys::signal::Signal;
use serde_json::Value as Json;
use support::{Home, end, namespaces::find};

/// Runs a program that leases a port with `styxy`, prints its own PID, and waits for its input to end;
/// the lease while it waits.
#[track_caller]
fn lease_of(home: &Home, program: &[&str]) -> Json {
    let service = home.service();
    let (mut child, pid) = {
        let mut child = in_path(home, program).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        (child, line.trim_end().to_owned())
    };
    let leases = home.http("GET", "/allocations", "").body["allocations"].clone();
    assert_eq!(leases[0]["pid"].to_string(), pid, "{program:?}: {leases}");
    drop(child.stdin.take());
    child.wait().unwrap();
    home.until(|| home.http("GET", "/allocations", "").body["allocations"][0].is_null());
    end(service, Signal::SIGTERM);
    leases[0].clone()
}

/// A command that finds `styxy` and what the test needs.
fn in_path(home: &Home, program: &[&str]) -> Command {
    let styxy = home.styxy();
    let folder = Path::new(styxy.get_program()).parent().unwrap().to_owned();
    let mut command = Command::new(find(program[0]).unwrap_or_else(|| PathBuf::from(program[0])));
    for (name, value) in styxy.get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    let path = std::env::join_paths([folder, "/usr/bin".into(), "/bin".into()]).unwrap();
    command.args(&program[1..]).env("PATH", path).stdin(Stdio::piped()).stdout(Stdio::piped());
    command
}

fn is_there(program: &str) -> bool {
    let found = find(program).is_some();
    if !found {
        eprintln!("SKIPPED: {program} is not installed");
    }
    found
}

#[test]
fn a_port_that_python_leases_through_a_shell_is_pythons() {
    if is_there("python3") {
        // A second command keeps the shell from becoming the first.
        let script = "import os, subprocess, sys\n\
            subprocess.check_output('styxy allocate mine --owner parent -q; :', shell=True)\n\
            print(os.getpid(), flush=True)\n\
            sys.stdin.read()";
        let lease = lease_of(&Home::with_type(), &["python3", "-c", script]);
        assert!(lease["comm"].as_str().unwrap().starts_with("python3"), "{lease}");
    }
}

#[test]
fn a_port_that_node_leases_with_exec_sync_is_nodes() {
    if is_there("node") {
        let script = "require('child_process').execSync('styxy allocate mine --owner parent -q; :');\
            console.log(process.pid); process.stdin.resume()";
        let lease = lease_of(&Home::with_type(), &["node", "-e", script]);
        assert_eq!(lease["comm"], "node");
    }
}

#[test]
fn a_port_that_a_script_leases_in_a_pipeline_is_the_scripts() {
    let script =
        "p=$(styxy allocate mine --owner parent -q | tail -n 1)\necho $$\nread -r _ || :\n";
    for shell in ["sh", "bash", "dash", "zsh"] {
        if is_there(shell) {
            let home = Home::with_type();
            std::fs::write(home.path("script"), script).unwrap();
            lease_of(&home, &[shell, home.path("script").to_str().unwrap()]);
        }
    }
}

#[test]
fn a_shell_inside_of_a_shell_is_an_owner() {
    // Both are called `bash`, and yet the inner one is no fork of the outer.
    let home = Home::with_type();
    let inner = "styxy allocate mine --owner parent -q >/dev/null; echo $$; read -r _ <&3 || :";
    std::fs::write(home.path("inner"), inner).unwrap();
    std::fs::write(home.path("outer"), format!("bash <{}; :", home.path("inner").display()))
        .unwrap();
    let start = format!("exec 3<&0 bash <{}", home.path("outer").display());
    lease_of(&home, &["bash", "-c", &start]);
}

#[test]
fn the_leader_of_a_session_is_an_owner_and_is_never_passed_over() {
    if !is_there("setsid") {
        return;
    }
    for owner in ["parent", "session"] {
        let script =
            format!("styxy allocate mine --owner {owner} -q >/dev/null; echo $$; read -r _ || :");
        lease_of(&Home::with_type(), &["setsid", "--wait", "sh", "-c", &script]);
    }
}

#[test]
fn the_choice_of_an_owner_is_said_when_asked_for() {
    let home = Home::with_type();
    let service = home.service();
    let script = "exec bash -c '(styxy allocate mine --owner parent --verbose; :); :' 2>&1";
    let output = in_path(&home, &["bash", "-c", script]).stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let own = std::process::id();
    assert!(
        text.contains("styxy: the lease ends with ") && text.contains(&format!("(PID {own})")),
        "{text}"
    );
    assert!(text.contains("; not with bash (PID "), "{text}");
    end(service, Signal::SIGTERM);
}

#[test]
fn a_command_that_leads_its_session_cannot_be_owned_by_that() {
    if !is_there("setsid") {
        return;
    }
    let home = Home::with_type();
    let service = home.service();
    let mut command =
        in_path(&home, &["setsid", "--wait", "styxy", "allocate", "mine", "--owner", "session"]);
    let output = command.stdin(Stdio::null()).stderr(Stdio::piped()).output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("leads its session"), "{text}");
    end(service, Signal::SIGTERM);
}
