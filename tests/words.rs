//! What is said of leases: in the journal, and by the commands that ask for, renew and release them.

mod support;

use std::{
    fs,
    net::TcpListener,
    process::{self, Stdio},
};

use serde_json::Value as Json;
use support::{Home, out, said};

/// What was audited of leases, the oldest first, each action with its reason.
fn audited(home: &Home) -> Vec<String> {
    let events = home.ok(&["audit", "--type", "mine", "--json"]);
    let events: Json = serde_json::from_str(&events).unwrap();
    let events = events["events"].as_array().unwrap().iter();
    let words = events.map(|event| {
        let [action, reason] = ["action", "reason"].map(|key| event[key].as_str().unwrap_or(""));
        format!("{action} {reason}").trim_end().to_owned()
    });
    words.collect()
}

/// What this test is called where programs are.
fn this_program() -> String {
    format!("{}[{}]", fs::read_to_string("/proc/self/comm").unwrap().trim(), process::id())
}

#[test]
fn a_claim_is_audited_as_reused_and_left_and_a_singleton_as_such() {
    let home = Home::with_type();
    home.ok(&["allocate", "mine"]);
    home.ok(&["allocate", "mine"]);
    home.ok(&["run", "mine", "--", "true"]);
    let told = ["allocate", "reuse", "reuse", "leave owner_gone"];
    home.until(|| audited(&home) == told);
    let wanted = ["audit", "--action", "reuse,leave", "--json"];
    home.until(|| home.ok(&wanted).matches("which had it already").count() == 2);
    assert!(home.ok(&wanted).contains("is gone, and the port stays leased"));

    let home = Home::with_single();
    home.ok(&["allocate", "mine"]);
    home.ok(&["allocate", "mine"]);
    home.until(|| audited(&home) == ["allocate", "singleton_reuse"]);
}

#[test]
fn what_has_no_time_limit_gets_none_by_being_renewed() {
    let home = Home::with_type();
    home.ok(&["allocate", "mine", "--name", "web"]);
    for arguments in [&["renew", "web"][..], &["renew", "web", "--ttl", "1"]] {
        let refused = home.run(arguments);
        assert_eq!(refused.status.code(), Some(1), "{refused:?}");
        let words = format!(
            "styxy: the lease of port {0} has no time limit that could be restarted; to end the lease, release it \
             (`styxy release {0}`)\n",
            home.port(0)
        );
        assert_eq!(said(&refused), words);
    }
    assert!(home.leases()[0]["ttl"].is_null());
    home.ok(&["allocate", "mine", "--name", "job", "--ttl", "1000"]);
    let renewed = home.ok(&["renew", "job", "--ttl", "500"]);
    assert_eq!(renewed, format!("port {} is leased for 500 more seconds", home.port(1)));
}

#[test]
fn it_is_said_which_service_was_released_and_who_still_listens() {
    let home = Home::with_type();
    for name in ["web", "api"] {
        home.ok(&["allocate", "mine", "--name", name]);
    }
    let [web, api] = [0, 1].map(|index| home.port(index));
    let server = TcpListener::bind(("127.0.0.1", web)).unwrap();
    let who =
        format!("{}[{}]", fs::read_to_string("/proc/self/comm").unwrap().trim(), process::id());
    let released = home.ok(&["release", "web", "api"]);
    let words = format!(
        "released port {web} of mine web; {who} still listens on it\nreleased port {api} of mine api"
    );
    assert_eq!(released, words);
    drop(server);
}

#[test]
fn a_second_run_of_a_service_says_why_it_has_another_port() {
    let home = Home::with_type();
    let mut first = home.styxy();
    first.args(["run", "mine", "--name", "web", "--", "cat"]);
    let mut first = first.stdin(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    home.until(|| home.run(&["port", "mine", "--name", "web"]).status.success());
    let second = || said(&home.run(&["run", "mine", "--name", "web", "--", "true"]));
    let [port, other] = [0, 1].map(|index| home.port(index));
    assert_eq!(
        second(),
        format!("styxy: port {other} for mine web: {port} is leased to it already\n")
    );
    let server = TcpListener::bind(("127.0.0.1", port)).unwrap();
    let who = this_program();
    assert_eq!(second(), format!("styxy: port {other} for mine web: {port} is in use by {who}\n"));
    drop((server, first.stdin.take()));
    first.wait().unwrap();
    home.until(|| home.leases().is_empty());
    assert_eq!(second(), format!("styxy: port {port} for mine web\n"));
}

#[test]
fn it_is_said_that_a_template_does_not_move_a_claim_and_with_strict_it_does() {
    let home = Home::with_type();
    let asked = |more: &[&str]| {
        let output = home.run(&[&["allocate", "mine", "--template", "staging"], more].concat());
        (out(&output), said(&output))
    };
    let [first, staging] = [0, 2].map(|index| home.port(index));
    home.ok(&["allocate", "mine"]);
    let note = format!(
        "styxy: the service keeps port {first}: a template only applies to a new lease; for {staging}, request that \
            port (--port {staging})\n"
    );
    assert_eq!(asked(&[]), (first.to_string(), note));
    let note = format!("styxy: port {staging} is this service's port now, instead of {first}\n");
    assert_eq!(asked(&["--strict"]), (staging.to_string(), note));
    assert_eq!(asked(&[]), (staging.to_string(), String::new()));
    // What a program has is not had by anybody else.
    let refused =
        home.run(&["allocate", "mine", "--name", "web", "--template", "staging", "--strict"]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(said(&refused).contains(&format!("port {staging} is leased")), "{refused:?}");
}

#[test]
fn a_number_that_is_no_leased_port_may_be_the_name_of_a_service() {
    let home = Home::with_type();
    let [first, second] = [0, 1].map(|index| home.port(index));
    home.ok(&["allocate", "mine", "--name", "7"]);
    assert_eq!(home.ok(&["release", "7"]), format!("released port {first} of mine 7"));
    // A port counts more than a name.
    let [other, port] = [first.to_string(), second.to_string()];
    home.ok(&["allocate", "mine", "--name", &port, "--port", &other]);
    home.ok(&["allocate", "mine", "--name", "web", "--port", &port]);
    assert_eq!(home.ok(&["release", &port]), format!("released port {port} of mine web"));
    assert_eq!(home.ok(&["release", &port]), format!("released port {first} of mine {port}"));
    assert!(said(&home.run(&["release", &port])).contains("no lease of port"));
}

#[test]
fn a_command_in_quotes_is_told_that_it_is_one_word() {
    let home = Home::with_type();
    let refused = home.run(&["run", "mine", "--name", "mine", "-q", "--", "node server.js"]);
    let told = "styxy: node server.js cannot be run: No such file or directory (os error 2); write the command and its \
                arguments without quotes around them\n";
    assert_eq!((said(&refused), refused.status.code()), (told.to_owned(), Some(127)));
    let run = home.run(&["run", "mine", "--name", "mine", "--", "true"]);
    assert_eq!(said(&run), format!("styxy: port {} for mine\n", home.port(0)));
}
