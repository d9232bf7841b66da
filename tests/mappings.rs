//! Mappings, as the doors and the commands that look at leases show them.

mod support;

use std::{
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use nix::sys::signal::Signal;
use rustix::net::listen;
use serde_json::{Value as Json, json};
use styxy::{
    kernel::probe,
    port::{Port, Protocol},
};
use support::{Home, end};

/// A home with a mapping of port 3001 in project `/shop-b`, for this process, and its real port.
fn mapped() -> (Home, Child, u16) {
    let home = Home::with_type();
    let service = home.service();
    let answer = allocate(&home, "/shop-b", json!({"asked": 3001, "service_name": "web"}));
    let port = answer["port"].as_u64().unwrap().try_into().unwrap();
    (home, service, port)
}

fn allocate(home: &Home, project: &str, mut options: Json) -> Json {
    options["service_type"] = "mine".into();
    options["project_path"] = project.into();
    options["pid"] = std::process::id().into();
    home.http("POST", "/allocate", &options.to_string()).body
}

fn lines(home: &Home, arguments: &[&str]) -> Vec<String> {
    let output = home.run(arguments);
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn who_asks_for_a_number_shares_its_mapping() {
    let (home, service, port) = mapped();
    let first = home.http("GET", "/leases?asked=3001", "").body["leases"][0].clone();
    assert_eq!((&first["asked"], &first["remap"]), (&json!(3001), &json!("private")));
    let again = allocate(&home, "/shop-b", json!({"asked": 3001}));
    assert_eq!((&again["lease_id"], &again["existing"]), (&first["lease_id"], &json!(true)));
    assert!(again["holders"].is_null() && again["holder_id"].is_string(), "{again}");
    // It is nobody else's and no other number's.
    let of_other = allocate(&home, "/blog", json!({"asked": 3001}));
    assert_ne!(of_other["port"], port);
    let conflict = allocate(&home, "/shop-b", json!({"asked": 3002, "remap": "conflict"}));
    assert_eq!(conflict["code"], "InvalidArgument", "{conflict}");
    let real = allocate(&home, "/shop-b", json!({"asked": port}));
    assert_eq!(real["code"], "PortInUse", "{real}");
    let suggested = home.http("GET", "/memory?asked=3001&project_path=/shop-b", "").body;
    assert_eq!(suggested["remembered"][0]["port"], port, "{suggested}");
    assert_eq!(suggested["remembered"].as_array().unwrap().len(), 1, "{suggested}");
    let released = home.http("DELETE", "/leases?asked=3001", "").body;
    assert_eq!(released["released"], 2, "{released}");
    end(service, Signal::SIGTERM);
}

#[test]
fn a_mapping_is_there_again_after_the_service_was_killed() {
    let (home, mut service, port) = mapped();
    service.kill().unwrap();
    service.wait().unwrap();
    let service = home.service();
    let again = allocate(&home, "/shop-b", json!({"asked": 3001}));
    assert_eq!((&again["port"], &again["existing"]), (&json!(port), &json!(true)));
    end(service, Signal::SIGTERM);
}

#[test]
fn what_is_asked_for_is_listed_beside_its_real_port() {
    let (home, service, port) = mapped();
    home.ok(&["allocate", "mine", "--project", "/other"]);
    let all = lines(&home, &["list"]);
    let header: Vec<_> = all[0].split_whitespace().collect();
    assert_eq!(header[..2], ["ASKED", "PORT"], "{all:?}");
    let real = format!("{port}/tcp");
    let mapping = all.iter().find(|line| line.contains("/shop-b")).unwrap();
    assert_eq!(mapping.split_whitespace().take(2).collect::<Vec<_>>(), ["3001", &real]);
    assert_eq!(lines(&home, &["list", "--asked", "3001"]).len(), 2);
    assert_eq!(lines(&home, &["list", "--asked", "3002"]), ["no lease matches"]);
    // Where nothing is mapped, the table is as it always was.
    let other = lines(&home, &["list", "--project", "/other"]);
    assert_eq!(other[0].split_whitespace().next(), Some("PORT"));
    end(service, Signal::SIGTERM);
}

#[test]
fn a_check_says_which_projects_ask_for_the_port() {
    let (home, service, port) = mapped();
    let said = lines(&home, &["check", "3001"]);
    let words = format!("asked for by /shop-b, really {port}");
    assert!(said.contains(&words), "{said:?}");
    let answer: Json =
        serde_json::from_slice(&home.run(&["check", "3001", "--json"]).stdout).unwrap();
    assert_eq!(answer["asked_by"][0]["port"], port, "{answer}");
    // Another protocol, and another port.
    for other in [&["check", "3001", "--protocol", "udp"][..], &["check", "3002"]] {
        assert!(!lines(&home, other).iter().any(|line| line.contains("asked for")), "{other:?}");
    }
    end(service, Signal::SIGTERM);
}

#[test]
fn the_real_port_of_the_project_is_printed() {
    let (home, service, port) = mapped();
    let port_of = |more: &[&str]| {
        lines(&home, &[&["port", "--asked", "3001", "--project", "/shop-b"], more].concat())
    };
    assert_eq!(port_of(&[]), [port.to_string()]);
    assert_eq!(port_of(&["--format", "env"]), [format!("WEB_PORT={port}")]);
    assert_eq!(port_of(&["--format", "address"]), [format!("127.0.0.1:{port}")]);
    let lease: Json = serde_json::from_str(&port_of(&["--json"]).concat()).unwrap();
    assert_eq!(lease["asked"], 3001);
    let missing = home.run(&["port", "--asked", "3001", "--project", "/blog"]);
    assert_eq!(missing.status.code(), Some(1));
    let said = String::from_utf8(missing.stderr).unwrap();
    assert!(
        said.contains("no other real port in /blog") && said.contains("list --asked"),
        "{said}"
    );
    end(service, Signal::SIGTERM);
}

// Ports that their owners keep bound.

/// The lease as it is listed now.
fn lease(home: &Home) -> Json {
    home.http("GET", "/leases", "").body["leases"][0].clone()
}

fn set_hold(home: &Home, hold: &str) -> u16 {
    let path = format!("/leases/{}/hold", lease(home)["lease_id"].as_str().unwrap());
    home.http("PUT", &path, &json!({"hold": hold}).to_string()).status
}

fn port(number: u16) -> Port {
    Port::new(number.into()).unwrap()
}

/// Whether a program without `SO_REUSEADDR` could bind the port.
fn is_free(number: u16) -> bool {
    probe::reserve(port(number), Protocol::Tcp).is_ok()
}

/// A process that lives until it is killed.
fn owner() -> Child {
    Command::new("sleep").arg("600").stdout(Stdio::null()).spawn().unwrap()
}

fn gone(mut owner: Child) {
    owner.kill().unwrap();
    owner.wait().unwrap();
}

fn hold_for(home: &Home, owner: &Child) -> Json {
    let request = json!({
        "service_type": "mine", "project_path": "/shop", "asked": 3001, "pid": owner.id(),
    });
    home.http("POST", "/allocate", &request.to_string()).body
}

#[test]
fn a_program_without_so_reuseaddr_binds_the_port_that_the_owner_has_kept_for_it() {
    let (home, service, number) = mapped();
    // Beside the guard, as the owner does.
    let kept = probe::rebind(port(number)).unwrap();
    assert_eq!(set_hold(&home, "client"), 200);
    assert_eq!(lease(&home)["hold"], "client");
    assert!(!is_free(number), "the owner has it");
    drop(kept);
    // A listener that is there for so short that nobody has noticed it is not missed, either.
    home.until(|| {
        let program = probe::reserve(port(number), Protocol::Tcp).unwrap();
        listen(&program, 1).unwrap();
        assert_eq!(lease(&home)["hold"], "client");
        thread::sleep(Duration::from_millis(1_500));
        drop(program);
        let is_guarded = || lease(&home)["hold"] == "guard";
        (0..30).any(|_| {
            is_guarded() || {
                thread::sleep(Duration::from_millis(100));
                false
            }
        })
    });
    assert!(!is_free(number), "it is guarded again");
    end(service, Signal::SIGTERM);
}

#[test]
fn a_port_is_given_back_by_hand_beside_the_socket_of_its_owner() {
    let (home, service, number) = mapped();
    let kept = probe::rebind(port(number)).unwrap();
    for _ in 0..2 {
        assert_eq!(set_hold(&home, "client"), 200);
        assert_eq!(home.http("GET", "/status", "").body["guards"], 0);
        assert_eq!(set_hold(&home, "guard"), 200);
        assert_eq!(lease(&home)["hold"], "guard");
        assert_eq!(home.http("GET", "/status", "").body["guards"], 1);
    }
    drop(kept);
    assert!(!is_free(number));
    assert_eq!(set_hold(&home, "none"), 400);
    end(service, Signal::SIGTERM);
}

#[test]
fn a_service_that_was_killed_does_not_bind_what_an_owner_keeps() {
    let (home, mut service, number) = mapped();
    assert_eq!(set_hold(&home, "client"), 200);
    service.kill().unwrap();
    service.wait().unwrap();
    let service = home.service();
    // Another one is bound again, so that the start has done what it does.
    home.ok(&["allocate", "mine", "--project", "/other"]);
    home.until(|| home.http("GET", "/status", "").body["guards"] == 1);
    assert_eq!(lease(&home)["hold"], "client");
    assert!(is_free(number));
    end(service, Signal::SIGTERM);
}

#[test]
fn the_port_of_an_owner_that_is_gone_is_guarded_again_for_the_others() {
    let home = Home::with_type();
    let service = home.service();
    let (first, second) = (owner(), owner());
    let granted = hold_for(&home, &first);
    assert_eq!(hold_for(&home, &second)["lease_id"], granted["lease_id"]);
    assert_eq!(set_hold(&home, "client"), 200);
    let number = granted["port"].as_u64().unwrap().try_into().unwrap();
    assert!(is_free(number));
    gone(first);
    home.until(|| lease(&home)["hold"] == "guard");
    assert!(!is_free(number));
    // The last one ends it.
    gone(second);
    home.until(|| lease(&home).is_null());
    end(service, Signal::SIGTERM);
}
