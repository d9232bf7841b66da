//! What the command does, seen from outside.

mod support;

use std::{
    fs,
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    process::{Command, Output, Stdio},
    thread,
};

use serde_json::{Value as Json, json};
use support::Home;

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn allocate_starts_a_private_service_where_there_is_none_and_prints_the_port() {
    let home = Home::with_type();
    let port: u16 = home.ok(&["allocate", "mine"]).parse().unwrap();
    assert!((home.port(0)..=home.port(9)).contains(&port));
    let next: u16 = home.ok(&["allocate", "mine", "--name", "web"]).parse().unwrap();
    assert_ne!(port, next);
}

#[test]
fn commands_that_start_at_once_start_one_service() {
    let home = Home::with_type();
    let ports: Vec<String> = thread::scope(|scope| {
        let name = |i| format!("web{i}");
        let commands: Vec<_> = (0..6)
            .map(|i| {
                scope.spawn({
                    let home = &home;
                    move || home.ok(&["allocate", "mine", "--name", &name(i)])
                })
            })
            .collect();
        commands.into_iter().map(|command| command.join().unwrap()).collect()
    });
    let mut different = ports.clone();
    different.sort();
    different.dedup();
    assert_eq!(different.len(), 6, "{ports:?}");
}

#[test]
fn json_is_all_there_is_on_stdout() {
    let home = Home::with_type();
    let lease: Json =
        serde_json::from_str(&home.ok(&["allocate", "mine", "--name", "web", "--json"])).unwrap();
    let id = lease["lease_id"].as_str().unwrap();
    assert_eq!(home.leases()[0]["lease_id"], id);
    let port = lease["port"].to_string();
    let check = home.run(&["check", &port, "--json"]);
    assert_eq!(check.status.code(), Some(1));
    assert_eq!(serde_json::from_slice::<Json>(&check.stdout).unwrap()["reason"], "leased");
    let released: Json = serde_json::from_str(&home.ok(&["release", id, "--json"])).unwrap();
    assert_eq!(released["port"], lease["port"]);
    assert!(home.leases().is_empty());
}

#[test]
fn a_question_about_a_state_that_cannot_be_used_is_not_answered_with_a_change_that_failed() {
    let home = Home::with_type();
    // It is locked by a file of this name.
    let lock = home.state().join("lock");
    fs::create_dir_all(&lock).unwrap();
    for arguments in [
        &["list"][..],
        &["types"],
        &["check", "3000"],
        &["suggest", "mine"],
        &["instances"],
        &["allocate", "mine"],
    ] {
        let said = stderr(&home.run(arguments));
        let words =
            format!("the state cannot be used, and nothing was changed: {}", lock.display());
        assert!(
            said.contains(&words) && said.contains("make it readable"),
            "{arguments:?}: {said}"
        );
    }
    fs::remove_dir(lock).unwrap();
    fs::write(home.state().join("auto-backups"), "").unwrap();
    let said = stderr(&home.run(&["config", "backups"]));
    assert!(said.contains("the earlier versions of the configuration cannot be used"), "{said}");
    home.ok(&["allocate", "mine"]);
}

#[test]
fn list_shows_a_table_and_says_when_there_is_nothing() {
    let home = Home::with_type();
    assert_eq!(home.ok(&["list"]), "no port is leased");
    let port = home.port(3).to_string();
    home.ok(&["allocate", "mine", "--name", "web", "--port", &port]);
    let table = home.ok(&["list"]);
    let row = table.lines().nth(1).unwrap();
    // The project is the home.
    for word in [format!("{port}/tcp").as_str(), "claimed", "mine", "web", "~"] {
        assert!(row.contains(word), "{word} is not in {row}");
    }
}

#[test]
fn what_is_refused_is_told_by_its_cause() {
    let home = Home::with_single();
    for (arguments, code, words) in [
        // Whoever means a port gets no range of that name.
        (
            &["allocate", "3000"][..],
            1,
            "3000 is a port, not a service type; to ask for it: `styxy allocate dev --port 3000`",
        ),
        (
            &["allocate", "--create", "--", "-x"],
            1,
            "no service type \"-x\", and it cannot be created automatically",
        ),
        (&["config", "validate", "/nonexistent"], 1, "there is no such file"),
    ] {
        let refused = home.run(arguments);
        let said = format!("{}{}", stderr(&refused), String::from_utf8_lossy(&refused.stdout));
        assert_eq!(refused.status.code(), Some(code), "{arguments:?}: {said}");
        assert!(said.contains(words), "{arguments:?}: {said}");
    }
    assert_eq!(home.ok(&["list"]), "no port is leased");
    let port = home.ok(&["allocate", "mine"]);
    for (arguments, words) in [
        (
            &["renew", &port][..],
            "has no time limit that could be restarted; to end the lease, release it (`styxy release",
        ),
        (&["allocate", "mine", "--protocol", "udp"], "runs once, and its port"),
    ] {
        let refused = home.run(arguments);
        assert!(stderr(&refused).contains(words), "{arguments:?}: {}", stderr(&refused));
        assert!(!refused.status.success());
    }
}

#[test]
fn an_answer_that_cannot_be_printed_is_told_and_what_was_done_is_done() {
    let home = Home::with_type();
    let port = home.ok(&["allocate", "mine"]);
    for arguments in [&["release", &port][..], &["list"], &["--help"], &["--version"]] {
        let full = fs::File::create("/dev/full").unwrap();
        let said = home.styxy().args(arguments).stdout(full).output().unwrap();
        assert_eq!(said.status.code(), Some(1), "{arguments:?}");
        if !arguments[0].starts_with('-') {
            assert!(stderr(&said).contains("the answer could not be printed"), "{}", stderr(&said));
        }
    }
    assert_eq!(home.ok(&["list"]), "no port is leased");
}

#[test]
fn a_lease_is_named_by_the_first_digits_of_its_id() {
    let home = Home::with_type();
    let lease: Json =
        serde_json::from_str(&home.ok(&["allocate", "mine", "--ttl", "600", "--json"])).unwrap();
    let id = lease["lease_id"].as_str().unwrap();
    assert!(home.ok(&["list"]).contains(&format!("  {}", &id[..8])));
    home.ok(&["renew", &lease["port"].to_string()]);
    // With eight digits it is no port, even if all of them are decimal.
    home.ok(&["renew", &id[..8]]);
    let none = home.run(&["release", "ffffffff"]);
    assert_eq!(none.status.code(), Some(1), "{}", stderr(&none));
    assert!(stderr(&none).contains("no lease ffffffff"), "{}", stderr(&none));
    home.ok(&["release", &id.to_uppercase().replace('-', "")[..12]]);
    assert_eq!(home.ok(&["list"]), "no port is leased");
}

#[test]
fn a_private_service_has_no_sandbox_but_landlock_even_where_it_finds_a_part_of_one() {
    let home = Home::with_type();
    // Sandboxes of coding agents and containers set it, and everything in them inherits it.
    let styxy = home.styxy();
    let mut first = std::process::Command::new("setpriv");
    first.arg("--no-new-privs").arg(styxy.get_program()).arg("list");
    first.envs(styxy.get_envs().filter_map(|(name, value)| Some((name, value?))));
    assert!(first.output().unwrap().status.success());
    let status = home.ok(&["status"]);
    assert!(status.contains("no sandbox but Landlock"), "{status}");
    assert!(!status.contains("incomplete"), "{status}");
    let status: Json = serde_json::from_str(&home.ok(&["status", "--json"])).unwrap();
    assert_eq!(status["private"], true);
    assert_eq!(status["sandbox"][0], "no_new_privileges");
    assert_ne!(status["sandbox"][1], "seccomp");
}

#[test]
fn a_port_that_cannot_be_printed_is_given_back() {
    let home = Home::with_type();
    home.ok(&["list"]);
    let full = || std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap().into();
    let unread = || -> Stdio { std::io::pipe().unwrap().1.into() };
    for arguments in [&["allocate", "mine"][..], &["allocate", "mine", "--count", "3", "--json"]] {
        for stdout in [&full as &dyn Fn() -> Stdio, &unread] {
            let told = home.styxy().args(arguments).stdout(stdout()).output().unwrap();
            assert_eq!(told.status.code(), Some(1), "{told:?}");
            assert!(stderr(&told).contains("its lease was released"), "{told:?}");
            assert_eq!(home.ok(&["list"]), "no port is leased");
        }
    }
    // Nothing was leased, so there is nothing to give back.
    let told =
        home.styxy().args(["allocate", "mine", "--dry-run"]).stdout(full()).output().unwrap();
    assert_eq!(told.status.code(), Some(1), "{told:?}");
}

#[test]
fn of_an_orphan_it_is_said_which_program_still_listens() {
    let home = Home::with_type();
    let mut owner = std::process::Command::new("sleep").arg("600").spawn().unwrap();
    let (port, owned) = (home.port(4).to_string(), format!("pid:{}", owner.id()));
    home.ok(&["allocate", "mine", "--port", &port, "--owner", &owned]);
    let _listener = TcpListener::bind(("127.0.0.1", home.port(4))).unwrap();
    owner.kill().and_then(|()| owner.wait()).unwrap();
    home.until(|| home.ok(&["list"]).contains("orphaned"));
    let me = format!("[{}]", std::process::id());
    let words = stderr(&home.run(&["run", "mine", "--port", &port, "--name", "web", "--", "true"]));
    assert!(words.contains("its owner is gone, but command"), "{words}");
    assert!(words.contains(&format!("{me} still listens on it")), "{words}");
    let strict = stderr(&home.run(&["allocate", "mine", "--new", "--port", &port, "--strict"]));
    assert!(strict.contains(&format!("{me} still listens on it")), "{strict}");
    let check = home.run(&["check", &port]);
    let check = String::from_utf8_lossy(&check.stdout).into_owned();
    assert!(check.contains("its owner is gone, but command"), "{check}");
    home.until(|| !home.ok(&["list"]).contains("web"));
    home.ok(&["allocate", "mine", "--name", "unused"]);
    let cleaned = home.ok(&["cleanup", "--older-than", "0", "--yes"]);
    let lines: Vec<_> = cleaned.lines().collect();
    assert!(cleaned.contains("unused") && cleaned.contains("released 1 lease"), "{cleaned}");
    assert!(cleaned.contains("\nnot released, because something listens:\n"), "{cleaned}");
    let last = lines.last().unwrap();
    assert!(last.starts_with(&format!("{port}/tcp  orphaned")) && last.ends_with(&me), "{cleaned}");
}

#[test]
fn the_same_project_gets_the_same_port_again() {
    let home = Home::with_type();
    let allocate = |project: &str| home.ok(&["allocate", "mine", "--project", project, "--json"]);
    let port = |lease: &str| serde_json::from_str::<Json>(lease).unwrap()["port"].clone();
    let first = allocate("/a");
    let id = serde_json::from_str::<Json>(&first).unwrap()["lease_id"].clone();
    home.ok(&["release", id.as_str().unwrap()]);
    assert_ne!(port(&allocate("/b")), port(&first));
    assert_eq!(port(&allocate("/a")), port(&first));
}

#[test]
fn a_block_stays_in_the_range_of_its_type_also_where_a_port_is_remembered() {
    let home = Home::with_type();
    let late = home.port(8).to_string();
    home.ok(&["allocate", "mine", "--port", &late]);
    home.ok(&["release", &late]);
    let block = home.ok(&["allocate", "mine", "--count", "3"]);
    assert_eq!(block.lines().next(), Some(&*home.port(0).to_string()), "{block}");
}

#[test]
fn a_port_that_something_listens_on_is_not_granted() {
    let home = Home::with_type();
    let _listener = TcpListener::bind(("127.0.0.1", home.port(5))).unwrap();
    let (busy, free) = (home.port(5).to_string(), home.port(9).to_string());
    let refused = home.run(&["allocate", "mine", "--port", &busy, "--strict"]);
    assert_eq!(refused.status.code(), Some(1));
    let holder = format!("TCP port {busy} is in use by command");
    assert!(stderr(&refused).contains(&holder), "{}", stderr(&refused));
    assert!(stderr(&refused).contains(&format!("[{}]; stop", std::process::id())));
    assert_ne!(home.ok(&["allocate", "mine", "--port", &busy]), busy);
    assert!(home.ok(&["check", &free]).contains("is free"));
}

#[test]
fn a_refusal_is_json_for_whoever_asked_for_json() {
    let home = Home::with_type();
    let port = home.port(3).to_string();
    home.ok(&["allocate", "mine", "--port", &port, "--project", "/b"]);
    let refused = home.run(&["allocate", "mine", "--port", &port, "--strict", "--json"]);
    let said: Json = serde_json::from_slice(&refused.stderr).unwrap();
    assert_eq!((&said["success"], &said["code"]), (&json!(false), &json!("PortInUse")));
    let way = said["suggestions"][0].as_str().unwrap();
    assert!(way.contains("without strict"), "{said}");
    let error = said["error"].as_str().unwrap();
    assert!(error.contains("is leased to mine of /b") && !error.contains(way), "{said}");
    assert_eq!(refused.status.code(), Some(1));
    // What is not for styxy changes nothing of it.
    let refused = home.run(&["run", "no type!", "--", "echo", "--json"]);
    assert!(String::from_utf8_lossy(&refused.stderr).starts_with("styxy: "), "{refused:?}");
}

#[test]
fn the_audit_shows_what_has_started_the_command() {
    let home = Home::with_type();
    home.ok(&["allocate", "mine"]);
    let parent = std::process::id();
    home.until(|| home.ok(&["audit"]).contains(&format!("[{parent}]")));
    let events = home.ok(&["audit", "--json"]);
    assert!(events.contains(r#""client_comm": "styxy""#), "{events}");
}

#[test]
fn exit_codes_tell_refusal_from_wrong_usage_and_from_no_service() {
    let home = Home::with_type();
    let code = |arguments: &[&str]| home.run(arguments).status.code();
    assert_eq!(code(&["allocate", "mien"]), Some(1));
    assert_eq!(code(&["release", "00000000-0000-4000-8000-000000000000"]), Some(1));
    assert_eq!(code(&["allocate", "not a type"]), Some(2));
    assert_eq!(code(&["allocate", "mine", "--name", "a b"]), Some(2));
    assert_eq!(code(&["allocate", "mine", "--strict"]), Some(2));
    assert_eq!(code(&["release", "1234"]), Some(1));
    assert_eq!(code(&["release", "12345678"]), Some(1));
    assert_eq!(code(&["release", "123"]), Some(1));
    assert_eq!(code(&["release", "12x"]), Some(1));
    assert_eq!(code(&["release", "12:x"]), Some(1));
    assert_eq!(code(&["release", "12:"]), Some(2));
    assert_eq!(code(&["release"]), Some(2));
    assert_eq!(code(&["check", "0"]), Some(2));
    assert_eq!(code(&["frobnicate"]), Some(2));
    let nowhere = Home::new();
    nowhere.close_doors();
    let output = nowhere.run(&["list"]);
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    assert!(stderr(&output).contains("no styxy service can be reached"), "{}", stderr(&output));
}

#[test]
fn an_unknown_type_is_answered_with_the_one_that_was_meant() {
    let home = Home::with_type();
    let output = home.run(&["allocate", "mien"]);
    assert!(stderr(&output).contains("did you mean \"mine\"?"), "{}", stderr(&output));
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let home = Home::with_type();
    home.ok(&["allocate", "mine"]);
    let mut command = home.styxy().arg("list").stdout(Stdio::piped()).spawn().unwrap();
    drop(command.stdout.take());
    assert!(command.wait().unwrap().success());
}

#[test]
fn a_state_folder_that_cannot_be_written_ends_in_a_refusal_and_not_in_a_grant() {
    if nix::unistd::getuid().is_root() {
        // Root writes everywhere; the container tests do this as an ordinary user. A folder where
        // the log should be stops root too.
        let home = Home::with_type();
        std::fs::create_dir_all(home.state().join("lock")).unwrap();
        let output = home.run(&["allocate", "mine"]);
        assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
        assert!(stderr(&output).contains("nothing was changed"), "{}", stderr(&output));
        std::fs::remove_dir(home.state().join("lock")).unwrap();
        home.ok(&["allocate", "mine"]);
        return;
    }
    let home = Home::with_type();
    std::fs::create_dir_all(home.state()).unwrap();
    std::fs::set_permissions(home.state(), std::fs::Permissions::from_mode(0o500)).unwrap();
    assert_ne!(home.run(&["allocate", "mine"]).status.code(), Some(0));
}

#[test]
fn a_command_that_can_open_few_files_says_so_and_does_not_panic() {
    let home = Home::with_type();
    // With fewer, the program itself could not be loaded.
    for limit in 5..=40 {
        let styxy = home.styxy();
        let mut command = Command::new("sh");
        let line = format!("ulimit -n {limit}; exec \"$0\" \"$@\"");
        command.args(["-c", &line]).arg(styxy.get_program()).args(["list", "--json"]);
        command.env_clear().current_dir("/");
        command.envs(styxy.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let output = command.output().unwrap();
        let words = stderr(&output);
        assert!(matches!(output.status.code(), Some(0 | 1 | 3)), "{limit}: {words}");
        assert!(!words.contains("panicked"), "{limit}: {words}");
        if limit < 16 {
            assert_eq!(output.status.code(), Some(1), "{limit}: {words}");
            let refusal: Json = serde_json::from_str(&words).unwrap();
            assert!(refusal["suggestions"][0].as_str().unwrap().contains("ulimit -n"), "{words}");
        }
    }
}
