//! What `styxy agents` prints is true: every command in it does what it should.

mod support;

use std::{fs, os::unix::fs::symlink, path::Path, process::Output};

use serde_json::Value as Json;
use support::Home;

/// A home in which the commands of the text can be run.
fn home() -> Home {
    let home = Home::new();
    let (first, last) = (home.port(0), home.port(9));
    let range =
        |from: u16, to: u16| format!(r#"{{"port_range": [{from}, {to}], "preferred_ports": []}}"#);
    home.configure(&format!(
        r#"{{"service_types": {{"dev": {}, "docs": {}, "api": {}}}}}"#,
        range(first, first + 2),
        range(first + 3, first + 5),
        range(first + 6, last)
    ));
    fs::create_dir(home.path("bin")).unwrap();
    symlink(env!("CARGO_BIN_EXE_styxy"), home.path("bin/styxy")).unwrap();
    // They tell what they were started with.
    for program in ["npm", "mkdocs"] {
        let path = home.path("bin").join(program);
        fs::write(&path, format!("#!/bin/sh\necho {program} \"$PORT\" \"$@\"\n")).unwrap();
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    }
    home
}

/// Runs a command as an agent does: in a shell of its own.
fn shell(home: &Home, command: &str) -> Output {
    let styxy = home.styxy();
    let mut shell = std::process::Command::new("/bin/sh");
    let variables = styxy.get_envs().filter_map(|(key, value)| Some((key, value?)));
    shell.env_clear().envs(variables).env("PATH", home.path("bin"));
    shell.current_dir(home.path("")).args(["-c", command]).output().unwrap()
}

fn text(home: &Home) -> String {
    home.ok(&["agents"])
}

/// The spans of code in the text.
fn spans(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

#[test]
fn every_command_of_the_text_does_what_it_says() {
    let home = home();
    let text = text(&home);
    let lease = home.ok(&["allocate", "api", "--json"]);
    let lease: Json = serde_json::from_str(&lease).unwrap();
    let mut tried = Vec::new();
    for command in spans(&text) {
        if !command.starts_with("styxy ") || command == "styxy run" {
            continue;
        }
        let words = command
            .replace("PORT", &lease["port"].to_string())
            .replace("LEASE_ID", lease["lease_id"].as_str().unwrap());
        let output = shell(&home, &words);
        let stdout = String::from_utf8(output.stdout).unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        let verb = command.split(' ').nth(1).unwrap();
        // The port is leased.
        let code = i32::from(verb == "check");
        assert_eq!(output.status.code(), Some(code), "{command}: {stderr}");
        match verb {
            "run" => {
                let port = stdout.split(' ').nth(1).unwrap().to_owned();
                assert!(stderr.contains(&format!("port {port} for ")), "{command}: {stderr}");
                if command.contains("{port}") {
                    assert!(stdout.ends_with(&format!(":{port}\n")), "{command}: {stdout}");
                }
            }
            "allocate" => {
                let answer: Json = serde_json::from_str(&stdout).unwrap();
                assert!(answer["port"].is_u64() && answer["lease_id"].is_string(), "{answer}");
                let owner = if command.contains("--owner parent") { "process" } else { "none" };
                assert_eq!(answer["owner"], owner, "{command}");
            }
            "port" => assert!(stdout.trim_end().parse::<u16>().is_ok(), "{stdout}"),
            "check" => assert!(stdout.contains("is leased to api"), "{stdout}"),
            "list" => assert!(stdout.contains("api"), "{stdout}"),
            "types" => assert!(stdout.contains("docs") && stdout.contains("dev"), "{stdout}"),
            "release" => assert!(stdout.contains("released port"), "{stdout}"),
            verb => panic!("the text has a new verb: {verb}"),
        }
        tried.push(verb.to_owned());
    }
    tried.dedup();
    assert_eq!(tried, ["run", "types", "allocate", "port", "check", "list", "release"]);
}

#[test]
fn the_text_tells_of_each_exit_code_what_it_means() {
    let home = home();
    let text = text(&home);
    for (code, words, command) in [
        (0, "0 done", "styxy allocate dev"),
        (1, "1 refused, or not free", "styxy allocate devv"),
        (2, "2 wrong usage", "styxy allocate"),
    ] {
        assert!(text.contains(words), "{words} is not in {text}");
        assert_eq!(shell(&home, command).status.code(), Some(code), "{command}");
    }
    assert!(text.contains("3 no service can be reached"), "{text}");
    let nowhere = Home::new();
    nowhere.close_doors();
    assert_eq!(nowhere.run(&["list"]).status.code(), Some(3));
    assert_eq!(shell(&home, "styxy run dev -- /bin/sh -c 'exit 7'").status.code(), Some(7));
}

#[test]
fn a_name_gets_its_port_again_and_a_lease_ends_with_its_script() {
    let home = home();
    let ask = "/bin/sh <<'end'\nstyxy allocate api --name web --owner parent --json; :\nend";
    let port =
        |output: Output| serde_json::from_slice::<Json>(&output.stdout).unwrap()["port"].clone();
    let first = port(shell(&home, ask));
    home.until(|| home.leases().is_empty());
    assert_eq!(port(shell(&home, ask)), first);
}

#[test]
#[cfg(feature = "mcp")]
fn the_configuration_of_the_text_starts_the_server() {
    let home = home();
    let text = text(&home);
    let configuration = spans(&text).into_iter().find(|span| span.starts_with("{\""));
    let configuration: Json = serde_json::from_str(configuration.unwrap()).unwrap();
    assert_eq!(configuration["command"], "styxy");
    assert_eq!(configuration["args"], serde_json::json!(["mcp"]));
    support::mcp::Session::new(&home).ok("list", &serde_json::json!({}));
}

#[test]
fn the_text_is_short_and_the_same_as_json() {
    let home = home();
    let text = text(&home);
    assert!((15..=25).contains(&text.lines().count()), "{}", text.lines().count());
    assert!(text.lines().all(|line| line.len() <= 120), "{text}");
    let json: Json = serde_json::from_str(&home.ok(&["agents", "--json"])).unwrap();
    assert_eq!(json.as_object().unwrap().len(), 1);
    assert_eq!(json["text"].as_str().unwrap().trim_end(), text);
}

#[test]
fn the_readme_has_the_configuration_too() {
    let readme =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    assert!(readme.contains(r#"{"command": "styxy", "args": ["mcp"]}"#));
}
