//! `styxy mcp` with clients that others have written: the official ones from npm, which tests/mcp/fetch
//! fetches, and tests/mcp/client.mjs drives. Where they can't be had, the tests are ignored.

mod support;

use std::{
    path::Path,
    process::{Command, ExitCode},
};

use libtest_mimic::{Arguments, Trial};
use serde_json::json;
use support::{Home, is_session};

/// The clients, as the script calls them.
const CLIENTS: [(&str, &str); 3] = [
    ("the_sdk", "sdk"),
    ("the_client_package", "client"),
    ("the_client_package_with_the_newest_protocol", "client@2026-07-28"),
];

/// What each of them shows, and how the script calls it.
const TESTS: [(&str, &str); 5] = [
    ("finds_seven_tools_and_what_they_are_for", "finds"),
    ("finds_every_answer_to_be_as_the_schema_of_its_tool_says", "validates"),
    ("is_told_of_refusals_and_wrong_arguments_by_answers", "refuses"),
    ("gets_ports_of_their_own_for_calls_at_once", "at_once"),
    ("ends_its_leases_when_it_closes", "leases"),
];

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("mcp-clients");
    let is_there = arguments.list || fetch(&folder);
    if !is_there {
        eprintln!("SKIPPED: the clients can't be had from npm (Debian: nodejs, npm)");
    }
    let trials = CLIENTS.iter().flat_map(|&(client, name)| {
        let folder = folder.clone();
        TESTS.iter().map(move |&(promise, test)| {
            let folder = folder.clone();
            let trial = Trial::test(format!("{client}_{promise}"), move || {
                run(&folder, name, test);
                Ok(())
            });
            trial.with_ignored_flag(!is_there)
        })
    });
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}

fn fetch(folder: &Path) -> bool {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/mcp/fetch");
    let fetched = Command::new(script).arg(folder).status();
    let node = Command::new("node").arg("--version").output();
    fetched.is_ok_and(|status| status.success()) && node.is_ok_and(|node| node.status.success())
}

fn run(folder: &Path, client: &str, test: &str) {
    let home = Home::with_type();
    let styxy = home.styxy();
    let text = |value: &std::ffi::OsStr| value.to_str().unwrap().to_owned();
    let variables = styxy.get_envs().filter_map(|(key, value)| Some((text(key), text(value?))));
    // Without a journal the events are those of the private service.
    let path = if is_session() { "/usr/bin" } else { "/nonexistent" };
    let settings = json!({
        "command": text(styxy.get_program()),
        "cwd": home.path(""),
        "env": variables.chain([("PATH".to_owned(), path.to_owned())])
            .collect::<std::collections::BTreeMap<_, _>>(),
        "port": home.port(4),
    });
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/mcp/client.mjs");
    let output = Command::new("node")
        .args([script.as_path(), folder])
        .args([client, test, &settings.to_string()])
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    if test == "leases" {
        home.until(|| {
            let leases = home.leases();
            leases.len() == 1 && leases[0]["service_name"] == "kept"
        });
    }
}
