//! One service, one port: asked for again, used by `styxy run`, and found by name.
//!
//! - `table`: what is different when a claim is asked for again, row by row

#[path = "../support/mod.rs"]
mod support;
mod table;

use std::{
    fs::{self, File},
    io::{BufRead, BufReader},
    net::TcpListener,
    os::{fd::AsRawFd, unix::fs::PermissionsExt},
    path::Path,
    process::{Child, Command, Output, Stdio},
};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, socket};
use serde_json::{Value as Json, json};
use support::{Home, out, said};

/// Like [`Home::with_type`], with further fields of the configuration.
fn with_fields(fields: &str) -> Home {
    let home = Home::with_type();
    let (first, last) = (home.port(0), home.port(9));
    home.configure(&format!(
        r#"{{{fields}, "service_types": {{"mine": {{"port_range": [{first}, {last}]}}}}}}"#
    ));
    home
}

#[test]
fn a_claim_that_nobody_uses_loses_its_guard_and_keeps_no_service() {
    let home = with_fields(r#""claimed_seconds": 1, "idle_exit_seconds": 1"#);
    let claim = home.allocated(&[]);
    assert_eq!(home.leases()[0]["state"], "claimed");
    let status: Json = serde_json::from_str(&home.ok(&["status", "--json"])).unwrap();
    home.until(|| home.leases()[0]["hold"] == "none");
    assert_eq!(home.leases()[0]["state"], "claimed");
    // To ask it would keep it running.
    home.until(|| !Path::new(&format!("/proc/{}", status["pid"])).exists());
    // It is still the service's own, and whoever asks again is about to use it.
    let other = home.allocated(&["--name", "other"]);
    assert_ne!(other["port"], claim["port"]);
    let again = home.allocated(&[]);
    assert_eq!([&again["lease_id"], &again["hold"]], [&claim["lease_id"], &json!("guard")]);
    let events = home.ok(&["audit", "--action", "claim", "--json"]);
    assert!(events.contains("Nobody has used TCP port"), "{events}");
}

#[test]
fn a_claim_is_used_when_a_server_was_seen_on_its_port() {
    let home = with_fields(r#""claimed_seconds": 1"#);
    let claim = home.allocated(&[]);
    let port = u16::try_from(claim["port"].as_u64().unwrap()).unwrap();
    let server = TcpListener::bind(("127.0.0.1", port)).unwrap();
    let is_told = |words: &str| {
        let events = home.run(&["audit", "--action", "claim", "--json"]);
        String::from_utf8_lossy(&events.stdout).contains(words)
    };
    home.until(|| is_told("A server of mine of"));
    assert_eq!(home.leases()[0]["state"], "listening");
    let again = home.run(&["allocate", "mine"]);
    assert!(said(&again).contains("listens on it"), "{again:?}");
    assert_eq!(said(&again).lines().count(), 1, "{again:?}");
    let again: Json = serde_json::from_str(&home.ok(&["allocate", "mine", "--json"])).unwrap();
    assert!(again["note"].as_str().unwrap().contains("something listens on port"), "{again}");
    assert_eq!(said(&home.run(&["allocate", "mine", "--quiet"])), "");
    drop(server);
    home.until(|| home.leases()[0]["state"] == "reserved");
    assert_eq!(home.leases()[0]["hold"], "guard");
}

#[test]
fn what_somebody_else_has_meanwhile_is_no_claim_any_more() {
    let home = with_fields(r#""claimed_seconds": 1"#);
    let [claim, _block] = [home.allocated(&[]), home.allocated(&["--count", "2"])];
    home.until(|| home.leases().iter().all(|lease| lease["hold"] == "none"));
    // Bound, and not listening: no server of the claim's is so.
    let bind = |port: u64| {
        let socket =
            socket(AddressFamily::Inet, SockType::Stream, SockFlag::empty(), None).unwrap();
        let address = SockaddrIn::new(127, 0, 0, 1, u16::try_from(port).unwrap());
        nix::sys::socket::bind(socket.as_raw_fd(), &address).unwrap();
        socket
    };
    let port = claim["port"].as_u64().unwrap();
    let others = [bind(port), bind(port + 2)];
    let would = home.allocated(&["--dry-run"]);
    let again = home.allocated(&[]);
    assert_eq!(would["port"], again["port"]);
    assert_ne!(again["port"], claim["port"]);
    assert_eq!(again["hold"], "guard");
    let block = home.allocated(&["--count", "2"]);
    let ports = block["ports"].as_array().unwrap();
    assert!(ports.iter().all(|p| *p != port && *p != port + 2), "{block}");
    let is_told = || {
        let events = home.run(&["audit", "--action", "expire"]);
        String::from_utf8_lossy(&events.stdout).matches(" taken").count() == 2
    };
    home.until(is_told);
    drop(others);
}

#[test]
fn a_block_of_which_a_part_was_used_stays_whole() {
    let home = with_fields(r#""claimed_seconds": 1"#);
    let block = home.allocated(&["--count", "2"]);
    let second = u16::try_from(block["ports"][1].as_u64().unwrap()).unwrap();
    let server = TcpListener::bind(("127.0.0.1", second)).unwrap();
    home.until(|| home.leases()[0]["hold"] == "none");
    home.until(|| {
        let events = home.run(&["audit", "--action", "claim", "--json"]);
        String::from_utf8_lossy(&events.stdout).contains("A server of mine of")
    });
    drop(server);
    home.until(|| home.leases()[1]["state"] == "reserved");
    // The guard of the second is the service's own.
    home.until(|| {
        let status: Json = serde_json::from_str(&home.ok(&["status", "--json"])).unwrap();
        status["guards"] == 1
    });
    assert_eq!(home.allocated(&["--count", "2"])["lease_ids"], block["lease_ids"]);
    assert_eq!(home.leases().len(), 2);
}

#[test]
fn claims_that_nobody_uses_give_way_where_ports_are_short() {
    let home = with_fields(r#""claimed_seconds": 1"#);
    let named = |name: &str| home.allocated(&["--name", name])["port"].as_u64().unwrap();
    let ports: Vec<_> = (0..10).map(|n| named(&format!("a{n}"))).collect();
    let server = TcpListener::bind(("127.0.0.1", u16::try_from(ports[0]).unwrap())).unwrap();
    home.ok(&["run", "mine", "--name", "a1", "--", "true"]);
    let is_idle =
        |name: &str| home.leases().iter().any(|l| l["service_name"] == name && l["hold"] == "none");
    home.until(|| is_idle("a2") && is_idle("a3") && is_idle("a9"));
    // The first has a server, and the second had one.
    let dry = home.allocated(&["--name", "b0", "--dry-run"]);
    let suggested = &home.list("suggestions", &["suggest", "mine", "--name", "b0"])[0];
    assert_eq!([&dry["port"], &suggested["port"]], [ports[2]; 2]);
    assert_eq!(suggested["reason"], "gives_way");
    assert_eq!([named("b0"), named("b1")], ports[2..4]);
    home.until(|| {
        let events = home.run(&["audit", "--action", "expire"]);
        String::from_utf8_lossy(&events.stdout).matches("yielded").count() == 2
    });
    // A block and a dry run take nothing away.
    let refused = |arguments: &[&str]| refused(&home, &[&["allocate", "mine"], arguments].concat());
    assert!(refused(&["--name", "c", "--count", "2"]).contains("free"));
    home.ok(&["allocate", "mine", "--name", "c", "--dry-run"]);
    assert_eq!(home.leases().len(), 10);
    drop(server);
}

#[test]
fn what_a_service_has_already_is_suggested_to_it() {
    let home = Home::with_type();
    let port = home.allocated(&["--name", "web"])["port"].clone();
    let suggested =
        |arguments: &[&str]| home.list("suggestions", &[&["suggest", "mine"], arguments].concat());
    let web = suggested(&["--name", "web"]);
    assert_eq!((&web[0]["port"], &web[0]["reason"]), (&port, &json!("existing")));
    assert_ne!(suggested(&["--name", "api"])[0]["port"], port);
}

/// What a verb that is refused says.
fn refused(home: &Home, arguments: &[&str]) -> String {
    let output = home.run(arguments);
    assert!(!output.status.success(), "{output:?}");
    said(&output)
}

#[test]
fn a_lease_is_released_and_renewed_by_the_name_of_its_service() {
    let home = Home::with_type();
    let lease = home.allocated(&["--name", "web", "--ttl", "600"]);
    home.allocated(&["--name", "cafe", "--ttl", "600"]);
    home.ok(&["allocate", "mine", "--name", "web", "--project", "/b"]);
    let renewed: Json = serde_json::from_str(&home.ok(&["renew", "web", "--json"])).unwrap();
    assert_eq!(renewed["lease_id"], lease["lease_id"]);
    home.ok(&["release", "web"]);
    // It could be the beginning of an id.
    home.ok(&["release", "cafe"]);
    assert_eq!(home.leases().len(), 1);
    assert!(refused(&home, &["release", "web"]).contains("no service of this package"));
    home.ok(&["release", "web", "--project", "/b"]);
    home.allocated(&["--name", "web", "--new"]);
    home.allocated(&["--name", "web", "--new"]);
    let words = refused(&home, &["release", "web"]);
    assert!(words.contains("2 leases are called web"), "{words}");
    // A block is one thing.
    home.ok(&["allocate", "mine", "--name", "all", "--count", "3"]);
    home.ok(&["release", "all", "--yes"]);
    assert_eq!(home.leases().len(), 2);
}

impl Home {
    fn allocated(&self, arguments: &[&str]) -> Json {
        serde_json::from_str(&self.ok(&[&["allocate", "mine", "--json"], arguments].concat()))
            .unwrap()
    }

    /// The port that a command gets which `styxy run` starts.
    fn ran(&self, arguments: &[&str]) -> String {
        let script = ["--", "sh", "-c", "echo $PORT"];
        out(&self.run(&[&["run", "mine"], arguments, &script].concat()))
    }

    /// A command that runs until its input ends, and its port.
    fn running(&self, arguments: &[&str]) -> (Child, String) {
        let mut command: Command = self.styxy();
        command.args(["run", "mine"]).args(arguments);
        command.args(["--", "sh", "-c", "echo $PORT; read _"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        (child, line.trim().to_owned())
    }

    fn end(&self, mut child: Child) {
        let pid = child.id();
        drop(child.stdin.take());
        child.wait().unwrap();
        self.until(|| self.leases().iter().all(|lease| lease["pid"] != pid));
    }

    fn at(&self, folder: &str, arguments: &[&str]) -> Output {
        self.styxy().current_dir(folder).args(arguments).output().unwrap()
    }
}

#[test]
fn a_lease_is_released_and_renewed_as_it_is_looked_for_but_not_that_of_another_package() {
    let home = Home::with_type();
    let [web, api, docs] = ["web", "api", "docs"].map(|name| home.package(name));
    let port = |folder: &str, more: &[&str]| {
        let arguments = [&["allocate", "mine", "-q", "--ttl", "600"], more].concat();
        out(&home.at(folder, &arguments))
    };
    let [of_web, of_api] = [port(&web, &[]), port(&api, &[])];
    let none = home.at(&docs, &["release", "mine"]);
    assert!(said(&none).contains("there is no lease mine"), "{none:?}");
    assert_eq!(home.leases().len(), 2);
    let renewed = out(&home.at(&web, &["renew", "mine"]));
    assert_eq!(renewed, format!("port {of_web} is leased for 600 more seconds"));
    let released = |which: &str| out(&home.at(&web, &["release", which]));
    assert_eq!(released("mine"), format!("released port {of_web} of mine"));
    assert_eq!(released("mine@api"), format!("released port {of_api} of mine"));
    let named = port(&web, &["--name", "shop"]);
    assert_eq!(released("mine:shop"), format!("released port {named} of mine shop"));
    let wrong = home.at(&web, &["release", "mine:"]);
    assert_eq!(wrong.status.code(), Some(2), "{wrong:?}");
    // A name alone means this package, too, and others are named as they are to be asked for.
    let elsewhere = port(&api, &["--name", "site"]);
    for verb in ["release", "renew"] {
        let refused = home.at(&web, &[verb, "site"]);
        let others = "other packages of the project have: site@api";
        assert!(said(&refused).contains(others), "{refused:?}");
    }
    let own = port(&web, &["--name", "site"]);
    assert_eq!(released("site"), format!("released port {own} of mine site"));
    assert_eq!(released("site@api"), format!("released port {elsewhere} of mine site"));
}

#[test]
fn asked_again_the_same_service_gets_the_same_lease() {
    let home = Home::with_type();
    let first = home.allocated(&["--name", "web"]);
    assert_eq!((&first["claim"], &first["existing"]), (&json!(true), &Json::Null));
    for _ in 0..3 {
        let again = home.allocated(&["--name", "web"]);
        assert_eq!(again["lease_id"], first["lease_id"]);
        assert_eq!(again["existing"], true);
    }
    // Whoever asks, from whatever script.
    let script = "exec setsid sh -c 'styxy() { \"$0\" \"$@\"; }; exec \"$0\" allocate mine --name web -q' \"$0\"";
    let mut command = Command::new("sh");
    let styxy = home.styxy();
    command.args(["-c", script]).arg(styxy.get_program()).env_clear().current_dir(home.path(""));
    command.envs(styxy.get_envs().filter_map(|(name, value)| Some((name, value?))));
    assert_eq!(
        out(&command.env("PATH", "/usr/bin:/bin").output().unwrap()),
        first["port"].to_string()
    );
    // Other services, instances and protocols have leases of their own, and so has whoever wants a new one.
    let others = [
        &["--name", "api"][..],
        &[],
        &["--name", "web", "--instance", "a"],
        &["--name", "web", "--new"],
        &["--name", "web", "--project", "/other"],
    ];
    for arguments in others {
        assert_ne!(home.allocated(arguments)["lease_id"], first["lease_id"], "{arguments:?}");
    }
    let udp = home.allocated(&["--name", "web", "--protocol", "udp"]);
    assert_eq!(udp["existing"], Json::Null);
    assert_eq!(home.leases().len(), 7);
    let block = ["--count", "2", "--name", "block"];
    let [first, again] = [home.allocated(&block), home.allocated(&block)];
    assert_eq!((&first["ports"], &first["lease_ids"]), (&again["ports"], &again["lease_ids"]));
}

#[test]
fn a_request_over_http_is_a_claim_if_it_says_so() {
    let home = Home::with_type();
    let mut service = home.service();
    let ask = |body: Json| home.http("POST", "/allocate", &body.to_string());
    let plain = json!({"service_type": "mine", "project_path": "/shop"});
    assert_ne!(ask(plain.clone()).body["port"], ask(plain).body["port"]);
    let claim = json!({"service_type": "mine", "project_path": "/shop", "claim": true});
    let first = ask(claim.clone()).body;
    assert_eq!(first["existing"], Json::Null, "a lease that was not asked for so is no claim");
    assert_eq!(ask(claim).body["lease_id"], first["lease_id"]);
    for package in ["/shop/../etc", "/shop/", "/shop/.", "/shopping", "web"] {
        let odd = json!({"service_type": "mine", "project_path": "/shop", "package_path": package});
        let refused = ask(odd);
        assert_eq!(refused.status, 400, "{package}: {refused:?}");
        assert!(refused.body["error"].as_str().unwrap().contains("package_path"), "{refused:?}");
    }
    let refused = ask(json!({"service_type": "mine", "claim": true}));
    assert!(
        refused.status == 400 && refused.body["error"].as_str().unwrap().contains("project_path")
    );
    service.kill().and_then(|()| service.wait()).unwrap();
}

#[test]
fn run_uses_what_is_allocated_and_leaves_it_when_it_ends() {
    let home = Home::with_type();
    let claim = home.allocated(&[]);
    let port = claim["port"].to_string();
    for _ in 0..2 {
        assert_eq!(home.ran(&[]), port);
        home.until(|| home.leases()[0]["holders"].is_null());
        let left = home.leases();
        assert_eq!((left.len(), &left[0]["lease_id"]), (1, &claim["lease_id"]));
    }
    // While something runs there, a second one gets another port, and whoever only asks the same.
    let (first, its) = home.running(&[]);
    let (second, other) = home.running(&[]);
    assert_eq!(its, port);
    assert_ne!(other, port);
    assert_eq!(home.allocated(&[])["port"].to_string(), port);
    home.end(first);
    home.end(second);
    assert_eq!(home.ran(&[]), port);
}

#[test]
fn exec_uses_what_is_allocated_as_run_does() {
    let home = Home::with_type();
    let claim = home.allocated(&[]);
    let script = "import socket, sys; print(socket.socket(fileno=3).getsockname()[1])";
    for _ in 0..2 {
        let ran = home
            .styxy()
            .env("PATH", "/usr/bin:/bin")
            .args(["exec", "mine", "--", "python3", "-c", script])
            .output();
        assert_eq!(out(&ran.unwrap()), claim["port"].to_string());
        home.until(|| home.leases()[0]["holders"].is_null());
    }
    assert_eq!(home.leases()[0]["hold"], "guard");
}

#[test]
fn what_runs_is_what_is_asked_for_and_stays_allocated_after_it() {
    let home = Home::with_type();
    let (child, port) = home.running(&["--name", "web"]);
    let asked = home.allocated(&["--name", "web"]);
    assert_eq!((asked["port"].to_string(), &asked["owner"]), (port.clone(), &json!("none")));
    home.end(child);
    assert_eq!(home.leases().len(), 1);
    assert_eq!(home.allocated(&["--name", "web"])["lease_id"], asked["lease_id"]);
    // What nobody asked for so ends with what runs.
    let (child, _) = home.running(&["--name", "api"]);
    home.end(child);
    assert_eq!(home.leases().len(), 1);
}

#[test]
fn what_is_asked_for_stays_the_same_when_others_run() {
    let home = Home::with_type();
    let (first, _) = home.running(&["--name", "web"]);
    let (second, its) = home.running(&["--name", "web"]);
    home.end(first);
    let asked = home.allocated(&["--name", "web"]);
    assert_eq!(asked["port"].to_string(), its);
    // The first slot is free again.
    let (third, other) = home.running(&["--name", "web"]);
    assert_ne!(other, its);
    assert_eq!(home.allocated(&["--name", "web"])["lease_id"], asked["lease_id"]);
    assert_eq!(home.ok(&["port", "web"]), its);
    // Of both, the one whose server listens is meant.
    let server = TcpListener::bind(("127.0.0.1", other.parse().unwrap())).unwrap();
    assert_eq!(home.ok(&["port", "web"]), other);
    drop(server);
    home.end(second);
    home.end(third);
    assert_eq!(home.leases().len(), 1);
    assert_eq!(home.ran(&["--name", "web"]), its);
}

#[test]
fn a_server_that_was_started_by_hand_keeps_its_port_for_itself() {
    let home = Home::with_type();
    let port = home.allocated(&[])["port"].to_string();
    let _server = TcpListener::bind(("127.0.0.1", port.parse().unwrap())).unwrap();
    let again = home.run(&["allocate", "mine"]);
    assert_eq!(out(&again), port);
    let words = said(&again);
    assert!(words.contains("listens on it: --name") && words.contains("--new"), "{words}");
    assert_ne!(home.ran(&[]), port);
}

#[test]
fn of_a_type_whose_claims_are_named_only_those_with_a_name_are_shared() {
    let home = Home::new();
    home.configure(&format!(
        r#"{{"service_types": {{"mine": {{"port_range": [{}, {}], "claims": "named"}}}}}}"#,
        home.port(0),
        home.port(9)
    ));
    assert_ne!(home.ok(&["allocate", "mine"]), home.ok(&["allocate", "mine"]));
    let named = || home.ok(&["allocate", "mine", "--name", "e2e"]);
    assert_eq!(named(), named());
}

#[test]
fn a_claim_stays_where_it_is_whatever_else_is_asked_for() {
    let home = Home::with_type();
    let first = home.allocated(&[]);
    let wanted = home.port(5).to_string();
    // Somebody else has the other port.
    let server = TcpListener::bind(("127.0.0.1", home.port(5))).unwrap();
    let stays = home.allocated(&["--port", &wanted]);
    assert_eq!(stays["lease_id"], first["lease_id"]);
    assert_eq!(
        stays["note"],
        format!("port {wanted} cannot be had, so the service keeps port {}", first["port"])
    );
    let strict = refused(&home, &["allocate", "mine", "--port", &wanted, "--strict"]);
    assert!(strict.contains("is in use by"), "{strict}");
    assert_eq!(home.leases().len(), 1);
    // What is forgotten is which port it had, and not that it has it.
    home.ok(&["forget"]);
    assert_eq!(home.allocated(&[])["lease_id"], first["lease_id"]);
    drop(server);
}

#[test]
fn a_claim_moves_to_the_port_that_is_asked_for_unless_a_server_uses_it() {
    let home = Home::with_type();
    home.allocated(&[]);
    let wanted = home.port(5).to_string();
    let dry = home.allocated(&["--port", &wanted, "--dry-run"]);
    assert_eq!(dry["port"].to_string(), wanted);
    assert_ne!(home.leases()[0]["port"].to_string(), wanted);
    for (number, more) in [(5, &[][..]), (6, &["--strict"])] {
        let wanted = home.port(number).to_string();
        let moved = home.allocated(&[&["--port", &wanted], more].concat());
        assert_eq!((moved["port"].to_string(), &moved["existing"]), (wanted, &Json::Null));
        // It is the service's from now on.
        assert_eq!(home.allocated(&[])["lease_id"], moved["lease_id"]);
    }
    assert_eq!(home.leases().len(), 1);
    // A server listens; a command is about to.
    let server = TcpListener::bind(("127.0.0.1", home.port(6))).unwrap();
    let stays = |who: &str| {
        let refused = refused(&home, &["allocate", "mine", "--port", &wanted]);
        assert!(refused.contains(&format!("{who} uses it; stop that first")), "{refused}");
    };
    stays("a server");
    drop(server);
    let (run, _) = home.running(&[]);
    stays(&format!("process {}", run.id()));
    home.end(run);
    let block = home.allocated(&["--count", "2"]);
    let to = home.port(3).to_string();
    let moved = home.allocated(&["--count", "2", "--port", &to]);
    assert_eq!(moved["ports"], json!([home.port(3), home.port(4)]));
    assert_ne!(moved["ports"], block["ports"]);
    assert_eq!(home.leases().len(), 3);
}

#[test]
fn a_claim_that_has_moved_stays_though_nobody_was_told() {
    let home = Home::with_type();
    let before = home.allocated(&[])["port"].to_string();
    let wanted = home.port(5).to_string();
    let full = File::options().write(true).open("/dev/full").unwrap();
    let ran = home.styxy().args(["allocate", "mine", "--port", &wanted]).stdout(full).output();
    let ran = ran.unwrap();
    assert_eq!(ran.status.code(), Some(1));
    assert!(said(&ran).contains(&format!("and no longer {before}")), "{ran:?}");
    assert_eq!(home.ok(&["port", "mine"]), wanted);
    let again = home.run(&["allocate", "mine", "--port", &before]);
    assert!(said(&again).contains(&format!("instead of {wanted}")), "{again:?}");
    assert_eq!(home.leases().len(), 1);
}

#[test]
fn a_claim_moves_in_one_commit() {
    let home = Home::with_type();
    home.allocated(&["--count", "2"]);
    home.allocated(&["--count", "2", "--port", &home.port(4).to_string()]);
    // All records of a commit count after a crash, or none.
    let log = fs::read_to_string(home.state().join("log.00000001")).unwrap();
    let lines = log.lines().map(|line| line.split_once(' ').unwrap().1);
    let lines: Vec<Json> = lines.map(|line| serde_json::from_str(line).unwrap()).collect();
    let at = lines.iter().position(|line| line["commit"] == 4).expect(&log);
    let change = |line: &Json| line["record"]["change"].as_object().unwrap().keys().next().cloned();
    let changes: Vec<_> = lines[at + 1..].iter().take(4).filter_map(change).collect();
    assert_eq!(changes, ["allocate", "allocate", "release", "release"]);
}

#[test]
fn what_is_released_while_a_command_uses_it_stays_the_commands() {
    let home = Home::with_type();
    let claim = home.allocated(&["--name", "web"]);
    let port = claim["port"].to_string();
    let (run, _) = home.running(&["--name", "web"]);
    let kept = "keeps it until it exits, or until it is released again or with --all";
    let released = home.ok(&["release", "web"]);
    assert!(released.ends_with(kept), "{released}");
    let lease = &home.leases()[0];
    assert_eq!((&lease["lease_id"], &lease["pid"]), (&claim["lease_id"], &json!(run.id())));
    // Asked for again, it is the same; and once more nobody but the command has it.
    assert_eq!(home.allocated(&["--name", "web"])["lease_id"], claim["lease_id"]);
    let renewed = refused(&home, &["renew", "web", "--ttl", "5"]);
    assert!(renewed.contains("has no time limit"), "{renewed}");
    home.ok(&["release", &port]);
    home.end(run);
    home.until(|| home.leases().is_empty());
    home.allocated(&["--name", "web"]);
    let (run, _) = home.running(&["--name", "web"]);
    let all = home.ok(&["release", "--all", &port]);
    assert_eq!(all, format!("released port {port} of mine web"));
    assert_eq!(home.leases().len(), 0);
    home.end(run);
    // Released once it is the command's alone; released again it is nobody's.
    let claim = home.allocated(&["--name", "web"]);
    let (run, _) = home.running(&["--name", "web"]);
    let id = claim["lease_id"].as_str().unwrap();
    assert!(home.ok(&["release", id]).ends_with(kept));
    assert_eq!(home.leases().len(), 1);
    assert_eq!(home.ok(&["release", id]), format!("released port {} of mine web", claim["port"]));
    assert_eq!(home.leases().len(), 0);
    home.end(run);
    // So it is with what was never asked for but by the command.
    let (run, port) = home.running(&["--name", "api"]);
    home.ok(&["release", &port]);
    assert_eq!(home.leases().len(), 0);
    home.end(run);
}

#[test]
fn what_a_filter_matches_while_a_command_uses_it_stays_the_commands_as_well() {
    for filter in [&["--project"][..], &["--type", "mine"], &["--instance", "a7"]] {
        let home = Home::with_type();
        let release = |more: &[&str]| home.ok(&[&["release"], filter, &["--yes"], more].concat());
        let of = ["--instance", "a7"];
        let claims =
            ["web", "api"].map(|name| home.allocated(&[&of[..], &["--name", name]].concat()));
        let [web, api] = claims.each_ref().map(|claim| claim["port"].to_string());
        let (run, _) = home.running(&["--name", "web", "--instance", "a7"]);
        let released = release(&[]);
        let mut lines: Vec<_> = released.lines().collect();
        lines.sort_unstable_by_key(|line| line.len());
        assert_eq!(lines[0], format!("released port {api} of mine api"));
        let kept = lines[1].strip_prefix(&format!("released port {web} of mine web; "));
        let kept = kept.expect(&released);
        assert!(kept.contains(&format!("[{}]", run.id())), "who has it: {kept}");
        assert!(kept.ends_with("until it is released again or with --all"), "{kept}");
        assert_eq!(lines.len(), 2);
        let leases = home.leases();
        assert_eq!((leases.len(), &leases[0]["pid"]), (1, &json!(run.id())));
        // Programs are told, too.
        home.allocated(&["--name", "web", "--instance", "a7"]);
        let released: Json = serde_json::from_str(&release(&["--json"])).unwrap();
        let lease_id = &claims[0]["lease_id"];
        let kept = json!({"port": claims[0]["port"], "lease_id": lease_id, "kept": true});
        assert_eq!(released, json!({"leases": [kept]}));
        home.allocated(&["--name", "web", "--instance", "a7"]);
        assert_eq!(release(&["--all"]), format!("released port {web} of mine web"));
        assert!(home.leases().is_empty());
        home.end(run);
    }
}

#[test]
fn what_is_asked_of_a_block_is_asked_of_each_of_its_ports() {
    let home = Home::with_type();
    let block = |more: &[&str]| home.allocated(&[&["--count", "2"], more].concat());
    let first = block(&["--ttl", "60"]);
    assert_eq!(block(&["--ttl", "600"])["lease_ids"], first["lease_ids"]);
    assert!(home.leases().iter().all(|lease| lease["ttl"] == 600), "{:?}", home.leases());
    block(&["--hold", "none"]);
    assert!(home.leases().iter().all(|lease| lease["hold"] == "none"), "{:?}", home.leases());
    // One that is not whole any more is not what was asked for.
    home.ok(&["release", &first["ports"][1].to_string()]);
    let whole = block(&[]);
    assert_eq!(whole["ports"].as_array().unwrap().len(), 2);
    assert_eq!(whole["existing"], Json::Null);
    // Nobody shares a part of what somebody owns.
    let owned = home.run(&["run", "mine", "--count", "2", "--", "true"]);
    assert!(owned.status.success(), "{owned:?}");
    assert_eq!(block(&[])["lease_ids"], whole["lease_ids"]);
}

#[test]
fn a_server_without_a_guard_leaves_the_guard_of_the_claim() {
    let home = Home::with_type();
    let claim = home.allocated(&[]);
    assert_ne!(home.ran(&["--hold", "none"]), claim["port"].to_string());
    home.until(|| home.leases().len() == 1);
    assert_eq!(home.leases()[0]["hold"], "guard");
}

#[test]
fn a_manifest_without_an_end_keeps_nothing_from_starting() {
    let home = Home::with_type();
    let bin = home.path("bin");
    fs::create_dir(&bin).unwrap();
    std::os::unix::fs::symlink("/bin/echo", bin.join("npm")).unwrap();
    let path = home.path("package.json");
    for make in [&["mkfifo"][..], &["ln", "-s", "/dev/zero"]] {
        let made = Command::new(make[0]).args(&make[1..]).arg(&path).status().unwrap();
        assert!(made.success());
        let mut command = home.styxy();
        let ran =
            command.env("PATH", &bin).args(["run", "mine", "--", "npm", "run", "dev"]).output();
        assert_eq!(out(&ran.unwrap()), "run dev");
        fs::remove_file(&path).unwrap();
    }
}

#[test]
fn a_server_on_another_port_leaves_the_claim_where_it_is() {
    let home = Home::with_type();
    let claim = home.allocated(&[]);
    let wanted = home.port(5).to_string();
    assert_eq!(home.ran(&["--port", &wanted]), wanted);
    assert_eq!(home.allocated(&[])["lease_id"], claim["lease_id"]);
    assert_eq!(home.ran(&[]), claim["port"].to_string());
}

#[test]
fn the_longer_time_limit_counts_and_hold_none_gives_the_guard_up() {
    let home = Home::with_type();
    home.allocated(&["--ttl", "600"]);
    assert_eq!(home.allocated(&["--ttl", "60"])["ttl"], 600);
    assert_eq!(home.allocated(&["--ttl", "6000"])["ttl"], 6000);
    assert_eq!(home.allocated(&[])["ttl"], Json::Null, "without one it lasts longest");
    assert_eq!(home.allocated(&["--ttl", "60"])["ttl"], Json::Null);
    assert_eq!(home.leases()[0]["hold"], "guard");
    assert_eq!(home.allocated(&["--hold", "none"])["hold"], "none");
    assert_eq!(home.leases().len(), 1);
}

#[test]
fn what_is_asked_for_with_an_owner_outlives_that_owner_only_if_somebody_else_asked() {
    let home = Home::with_type();
    let mut owner = Command::new("sleep").arg("600").spawn().unwrap();
    let owned = format!("pid:{}", owner.id());
    home.allocated(&["--owner", &owned]);
    home.allocated(&["--owner", &owned]);
    let both = home.allocated(&["--name", "both", "--owner", &owned]);
    assert_eq!(home.allocated(&["--name", "both"])["lease_id"], both["lease_id"]);
    owner.kill().and_then(|()| owner.wait()).unwrap();
    home.until(|| home.leases().len() == 1);
    assert_eq!(home.leases()[0]["lease_id"], both["lease_id"]);
}

#[test]
fn two_runs_at_once_do_not_take_the_port_from_a_later_one() {
    let home = Home::with_type();
    let (first, its) = home.running(&[]);
    let (second, other) = home.running(&[]);
    home.end(first);
    home.end(second);
    let [count, name] = [["--count", "3"], ["--name", "web"]].map(|options| home.ran(&options));
    assert_eq!((home.ran(&[]), home.ran(&[])), (its.clone(), its.clone()));
    assert_ne!(other, its);
    assert_eq!([home.ran(&["--count", "3"]), home.ran(&["--name", "web"])], [count, name]);
}

#[test]
fn a_server_that_is_still_ending_is_waited_for() {
    let home = Home::with_type();
    let mut owner = Command::new("sleep").arg("600").spawn().unwrap();
    let owned = format!("pid:{}", owner.id());
    let port = home.ok(&["allocate", "mine", "--new", "--owner", &owned, "-q"]);
    let server = TcpListener::bind(("127.0.0.1", port.parse().unwrap())).unwrap();
    owner.kill().and_then(|()| owner.wait()).unwrap();
    home.until(|| home.leases()[0]["state"] == "orphaned");
    let impatient = home.run(&["run", "mine", "--grace", "0", "--", "true"]);
    assert!(said(&impatient).contains(&format!("waiting for port {port}")), "{impatient:?}");
    assert!(!said(&impatient).contains(&format!("port {port} for")), "{impatient:?}");
    home.until(|| home.leases().len() == 1);
    let arguments = ["run", "mine", "--grace", "60", "--", "sh", "-c", "echo $PORT"];
    let ran = std::thread::scope(|scope| {
        let ran = scope.spawn(|| home.run(&arguments));
        home.until(|| home.leases().len() == 2);
        drop(server);
        ran.join().unwrap()
    });
    assert_eq!(out(&ran), port);
}

#[test]
fn packages_of_a_project_have_ports_of_their_own_and_find_each_other() {
    let home = Home::with_type();
    let [web, admin] = ["apps/web", "apps/admin"].map(|name| home.package(name));
    let port = |folder: &str| out(&home.at(folder, &["allocate", "mine", "-q"]));
    let ports = [port(&web), port(&admin)];
    assert_ne!(ports[0], ports[1]);
    assert_eq!([port(&web), port(&admin)], ports);
    let find = |folder: &str, more: &[&str]| home.at(folder, &[&["port", "mine"], more].concat());
    assert_eq!([out(&find(&web, &[])), out(&find(&admin, &[]))], ports);
    for path in [&admin, "../admin", "apps/admin"] {
        assert_eq!(out(&find(&web, &["--package", path])), ports[1], "{path}");
    }
    let top = home.path("").display().to_string();
    let either = find(&top, &[]);
    assert_eq!(either.status.code(), Some(2));
    assert!(said(&either).contains("dev@apps/web"), "{either:?}");
    assert!(home.ok(&["list"]).contains("~/apps/admin"), "{}", home.ok(&["list"]));
    let listed = out(&home.at(&top, &["list", "--package", &web, "--json"]));
    let listed: Vec<_> =
        support::listed("leases", listed).iter().map(|l| l["port"].to_string()).collect();
    assert_eq!(listed, ports[..1]);
}

#[test]
fn two_scripts_of_one_package_never_swap_ports_and_are_called_by_their_names() {
    let home = Home::with_type();
    let web = home.package("web");
    let scripts = r#"{"scripts": {"dev": "node a.js", "book:all": "node b.js"}}"#;
    fs::write(Path::new(&web).join("package.json"), scripts).unwrap();
    let npm = home.path("bin/npm");
    fs::create_dir_all(npm.parent().unwrap()).unwrap();
    fs::write(&npm, "#!/bin/sh\necho $PORT\nread -r _\n").unwrap();
    fs::set_permissions(&npm, fs::Permissions::from_mode(0o755)).unwrap();
    let start = |script: &str| {
        let mut command = home.styxy();
        command.current_dir(&web).args(["run", "mine", "-q", "--"]).arg(&npm).args(["run", script]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut port = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut port).unwrap();
        (child, port.trim().to_owned())
    };
    let stop = |mut child: Child| {
        drop(child.stdin.take());
        child.wait().unwrap();
    };
    let (dev, book) = (start("dev"), start("book:all"));
    let ports = [dev.1, book.1];
    let listed = home.ok(&["list"]);
    assert!(["mine  dev ", "mine  book-all "].iter().all(|n| listed.contains(n)), "{listed}");
    let find = |name: &str| out(&home.at(&web, &["port", "mine", "--name", name]));
    assert_eq!([find("dev"), find("book-all")], ports);
    // What is asked for by that name, or without one, is what runs.
    let asked = |more: &[&str]| out(&home.at(&web, &[&["allocate", "mine", "-q"], more].concat()));
    assert_eq!([asked(&["--name", "book-all"]), asked(&[])], [ports[1].clone(), ports[0].clone()]);
    [dev.0, book.0].into_iter().for_each(stop);
    home.ok(&["release", "--project", &home.path("").display().to_string(), "--yes"]);
    home.until(|| home.leases().is_empty());
    // Alone, and in the other order.
    let (book, alone) = start("book:all");
    assert_eq!(alone, ports[1]);
    let (dev, beside) = start("dev");
    assert_eq!(beside, ports[0]);
    stop(book);
    home.until(|| home.leases().len() == 1);
    // What is neither leaves them both alone.
    let other = out(&home.at(&web, &["run", "mine", "-q", "--", "sh", "-c", "echo $PORT"]));
    assert!(!ports.contains(&other), "{other}");
    stop(dev);
}

#[test]
fn a_script_of_another_package_has_the_port_of_that_package_wherever_it_is_started() {
    let home = Home::with_type();
    let [web, api] = ["apps/web", "apps/api"].map(|name| home.package(name));
    for folder in [&web, &api] {
        let script = r#"{"scripts": {"dev": "node a.js"}}"#;
        fs::write(Path::new(folder).join("package.json"), script).unwrap();
    }
    let top = home.path("").display().to_string();
    fs::write(home.path("package.json"), r#"{"workspaces": ["apps/*"]}"#).unwrap();
    let npm = home.path("npm").display().to_string();
    fs::write(&npm, "#!/bin/sh\necho $PORT\n").unwrap();
    fs::set_permissions(&npm, fs::Permissions::from_mode(0o755)).unwrap();
    let port = |folder: &str, arguments: &str| {
        let run = ["run", "mine", "-q", "--", &npm].into_iter().chain(arguments.split(' '));
        // One that has just ended would be beside it.
        home.until(|| home.leases().iter().all(|lease| lease["state"] == "claimed"));
        out(&home.at(folder, &run.collect::<Vec<_>>()))
    };
    let ports = [port(&top, "run dev -w apps/web"), port(&top, "--prefix apps/api run dev")];
    assert_ne!(ports[0], ports[1]);
    // The other way round, and at home.
    assert_eq!([port(&api, "run dev"), port(&web, "run dev")], [&*ports[1], &*ports[0]]);
    assert_eq!(port(&top, "-C apps/web run dev"), ports[0]);
    let claim = out(&home.at(&web, &["allocate", "mine", "-q"]));
    assert_eq!([&claim, &port(&top, "-w apps/web run dev")], [&ports[0], &ports[0]]);
    // A project that is named counts.
    let named =
        ["run", "mine", "-q", "--project", &top, "--", &npm, "run", "dev", "-w", "apps/web"];
    assert_ne!(out(&home.at(&top, &named)), ports[0]);
}

#[test]
fn the_port_that_a_service_has_now_is_printed_as_it_is_wanted() {
    let home = Home::with_type();
    let none = home.run(&["port", "mine", "--name", "web"]);
    assert_eq!(none.status.code(), Some(1));
    assert!(said(&none).contains("no mine web of"), "{none:?}");
    let port = home.ok(&["allocate", "mine", "--name", "web", "-q"]);
    assert_eq!(home.ok(&["port", "mine"]), port);
    assert_eq!(
        home.ok(&["port", "mine", "--name", "web", "--format", "env"]),
        format!("WEB_PORT={port}")
    );
    assert!(home.ok(&["port", "mine", "--format", "url"]).ends_with(&format!(":{port}")));
    let lease: Json = serde_json::from_str(&home.ok(&["port", "mine", "--json"])).unwrap();
    assert_eq!(lease["service_name"], "web");
    // What was written down is what was asked for so.
    let new = home.ok(&["allocate", "mine", "--name", "both", "--new", "-q"]);
    let asked = home.ok(&["allocate", "mine", "--name", "both", "-q"]);
    assert_ne!(new, asked);
    assert_eq!(home.ok(&["port", "mine", "--name", "both"]), asked);
    home.ok(&["release", &new]);
    home.ok(&["release", &asked]);
    let other = home.run(&["port", "mine", "--project", "/other"]);
    assert_eq!(other.status.code(), Some(1));
    // An earlier question changed nothing.
    assert_eq!(home.leases().len(), 1);
    assert_eq!(home.ok(&["list", "--name", "api"]), "no lease matches");
    assert!(home.ok(&["list", "--name", "web", "--state", "claimed"]).contains(&port));
    assert_eq!(home.ok(&["list", "--state", "listening"]), "no lease matches");
}

#[test]
fn whoever_waits_for_a_service_is_told_its_port_when_something_listens() {
    let home = Home::with_type();
    let waiting = || {
        let mut command = home.styxy();
        command.args(["port", "mine", "--name", "api", "--wait", "60"]);
        command.stdout(Stdio::piped()).spawn().unwrap()
    };
    let early = waiting();
    let port = home.ok(&["allocate", "mine", "--name", "api", "-q"]);
    let late = home.run(&["port", "mine", "--name", "api", "--wait", "1"]);
    assert_eq!(late.status.code(), Some(1));
    assert!(said(&late).contains("nothing listens"), "{late:?}");
    let _server = TcpListener::bind(("127.0.0.1", port.parse().unwrap())).unwrap();
    assert_eq!(out(&early.wait_with_output().unwrap()), port);
    assert_eq!(out(&waiting().wait_with_output().unwrap()), port);
}

#[test]
fn a_command_is_told_the_ports_of_other_services_of_its_project() {
    let home = Home::with_type();
    let run = |with: &[&str], script: &str| {
        home.run(&[&["run", "mine", "--name", "web"], with, &["--", "sh", "-c", script]].concat())
    };
    let missing = run(&["--with", "api=API_PORT"], "true");
    assert_eq!(missing.status.code(), Some(1));
    assert!(home.leases().is_empty(), "what is missing is said before a port is leased");
    let api = home.ok(&["allocate", "mine", "--name", "api", "-q"]);
    let named = ["run", "--env", "API_PORT=mine", "--env", "MINE=mine:api", "--"];
    let one = home.run(&[&named[..], &["sh", "-c", "echo $API_PORT $MINE"]].concat());
    let ports: Vec<_> = out(&one).split(' ').map(str::to_owned).collect();
    assert_eq!(ports[0], api, "what is called API_PORT is api");
    assert_ne!(ports[1], api, "it is in use by then");
    let both = ["--with", "api=API_PORT", "--with-url", "mine:api=API_URL"];
    let told = out(&run(&both, "echo $API_PORT $API_URL"));
    assert!(
        told.starts_with(&format!("{api} http://")) && told.ends_with(&format!(":{api}")),
        "{told}"
    );
    for (with, why) in [("api", "SERVICE=NAME"), ("api=1A", "1A"), ("api=PORT", "sets itself")] {
        let refused = run(&["--with", with], "true");
        assert_eq!(refused.status.code(), Some(2), "{with}");
        assert!(said(&refused).contains(why), "{with}: {refused:?}");
    }
}

#[test]
fn it_is_said_why_a_port_is_not_the_one_that_was_asked_for() {
    let home = Home::with_type();
    let _server = TcpListener::bind(("0.0.0.0", home.port(3))).unwrap();
    let wanted = home.port(3).to_string();
    let granted = home.run(&["allocate", "mine", "--port", &wanted]);
    let port = out(&granted);
    assert_ne!(port, wanted);
    let words = said(&granted);
    assert!(words.contains(&format!("port {port}: ")) && words.contains(&wanted), "{words}");
    assert!(words.contains("in use by"), "{words}");
    let quiet = home.run(&["allocate", "mine", "--name", "web", "--port", &wanted, "--quiet"]);
    assert_eq!(said(&quiet), "");
}
