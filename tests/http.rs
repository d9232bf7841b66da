//! What the HTTP door answers, to good requests and to nonsense.

mod support;

use std::{
    io::{BufRead, BufReader, Read, Write},
    os::unix::net::UnixStream,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use nix::sys::signal::Signal;
use serde_json::{Value as Json, json};
use support::{Answer, Home, end};

#[track_caller]
fn refused(answer: &Answer, status: u16, code: &str) {
    assert_eq!(answer.status, status, "{answer:?}");
    assert_eq!(answer.body["success"], false, "{answer:?}");
    assert_eq!(answer.body["code"], code, "{answer:?}");
    assert!(!answer.body["error"].as_str().unwrap().is_empty(), "{answer:?}");
    assert!(answer.body["suggestions"].is_array(), "{answer:?}");
    assert!(answer.head.contains("application/json"), "{answer:?}");
}

/// A request on a connection that stays open.
fn ask(stream: &mut UnixStream, path: &str) -> Json {
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap().to_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
    let mut body = vec![0; length.parse().unwrap()];
    stream.read_exact(&mut body).unwrap();
    serde_json::from_slice(&body).unwrap()
}

#[test]
fn every_answer_in_json_ends_with_a_newline_and_its_length_is_right() {
    let home = Home::with_type();
    let service = home.service();
    let asked = |request: &str| {
        let mut stream = UnixStream::connect(home.socket()).unwrap();
        write!(stream, "{request}\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        (length.unwrap().parse::<usize>().unwrap(), body.to_owned())
    };
    for request in [
        "GET /leases HTTP/1.1",
        "GET /health HTTP/1.1",
        "GET /openapi.json HTTP/1.1",
        "GET /no/such/path HTTP/1.1",
        "DELETE /status HTTP/1.1",
        "GET /scan/9-1 HTTP/1.1",
        "BREW /coffee HTTP/9.9",
    ] {
        let (length, body) = asked(request);
        assert!(body.ends_with("}\n") && body.len() == length, "{request}: {length} {body:?}");
        serde_json::from_str::<Json>(&body).unwrap();
    }
    let (length, body) = asked("HEAD /openapi.json HTTP/1.1");
    assert_eq!((length, &*body), (asked("GET /openapi.json HTTP/1.1").0, ""));
    end(service, Signal::SIGTERM);
}

#[test]
fn what_cannot_be_looked_at_for_want_of_descriptors_is_unknown_and_not_listened_on() {
    let home = Home::with_type();
    let service = home.service();
    let granted = home.http("POST", "/allocate", r#"{"service_type": "mine"}"#);
    let check = format!("/check/{}", granted.body["port"]);
    let mut stream = UnixStream::connect(home.socket()).unwrap();
    // It is accepted by then, and the kernel has not been asked.
    assert_eq!(ask(&mut stream, "/config")["success"], true);
    let limit = |most: &str| {
        let pid = service.id().to_string();
        let mut prlimit = Command::new("prlimit");
        assert!(
            prlimit.args(["--pid", &pid, &format!("--nofile={most}")]).status().unwrap().success()
        );
    };
    // Nothing more can be opened; only what is open goes on.
    limit("3:");
    let listed = ask(&mut stream, "/allocations");
    assert_eq!(listed["allocations"][0]["state"], "unknown", "{listed}");
    let checked = ask(&mut stream, &check);
    assert_eq!(checked["lease"]["state"], "unknown", "{checked}");
    assert!(checked.get("listening").is_none() && checked["reason"] == "leased", "{checked}");
    for unknown in
        [ask(&mut stream, "/status"), ask(&mut stream, "/types")["service_types"][0].take()]
    {
        assert!(unknown["ports"].is_u64() && unknown.get("free").is_none(), "{unknown}");
        assert!(unknown.get("listening").is_none(), "{unknown}");
    }
    limit("1000:");
    let known = || {
        let mut stream = UnixStream::connect(home.socket()).unwrap();
        let [status, types, check, listed] =
            ["/status", "/types", &check, "/allocations"].map(|path| ask(&mut stream, path));
        assert!(status["free"].is_u64(), "{status}");
        assert!(types["service_types"][0]["free"].is_u64(), "{types}");
        assert_eq!(check["listening"], false, "{check}");
        assert_eq!(listed["allocations"][0]["state"], "reserved", "{listed}");
    };
    known();
    // What has looked once keeps what it looks with.
    limit("3:");
    assert_eq!(ask(&mut stream, "/allocations")["allocations"][0]["state"], "reserved");
    limit("1000:");
    known();
    end(service, Signal::SIGTERM);
}

#[test]
fn who_asks_again_because_no_answer_came_keeps_what_is_granted() {
    let home = Home::with_type();
    let service = home.service();
    for number in 0..200 {
        let id = format!("6f9d6c1e-5c1b-4d0e-9a53-{number:012}");
        // The first grant of a project waits for the disk.
        let body = format!(
            r#"{{"service_type": "mine", "hold": "none", "lease_id": "{id}", "project_path": "/srv/{number}"}}"#
        );
        let mut gone = UnixStream::connect(home.socket()).unwrap();
        let length = body.len();
        write!(gone, "POST /allocate HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}").unwrap();
        // Now before the grant, now while it is made durable, now after it.
        thread::sleep(Duration::from_micros(number * 5));
        drop(gone);
        let granted = home.http("POST", "/allocate", &body);
        assert_eq!(granted.status, 200, "{granted:?}");
        // Time for what would take it back.
        thread::sleep(Duration::from_millis(20));
        let path = format!("/allocate/{id}");
        let released = home.http("DELETE", &path, "");
        assert_eq!(released.status, 200, "{number}: {released:?}");
    }
    end(service, Signal::SIGTERM);
}

#[test]
fn a_request_that_names_its_lease_is_granted_once_however_often_it_is_made() {
    let home = Home::with_type();
    let service = home.service();
    let id = "3b9f1c0a-5d3e-4c63-9d3b-1a2b3c4d5e6f";
    let request = json!({"service_type": "mine", "lease_id": id, "count": 2});
    let ask = |request: &Json| home.http("POST", "/allocate", &request.to_string());
    let first = ask(&request);
    assert_eq!((first.status, &first.body["lease_id"]), (200, &json!(id)), "{first:?}");
    assert_eq!(ask(&request).body, first.body);
    end(service, Signal::SIGKILL);
    let service = home.service();
    assert_eq!(ask(&request).body, first.body, "the next service knows it, too");
    let leases = home.http("GET", "/allocations", "").body["allocations"].take();
    assert_eq!(leases.as_array().unwrap().len(), 2, "{leases}");
    for (key, other) in
        [("service_type", "dev"), ("service_name", "web"), ("project_path", "/srv/other")]
    {
        let mut request = request.clone();
        request[key] = other.into();
        refused(&ask(&request), 400, "InvalidArgument");
    }
    refused(&ask(&json!({"service_type": "mine", "lease_id": "1"})), 400, "InvalidArgument");
    // When it is over, the name is as good as a new one.
    assert_eq!(home.http("DELETE", &format!("/allocations?block_id={id}"), "").body["released"], 2);
    assert_eq!(ask(&request).body["lease_id"], id);
    end(service, Signal::SIGTERM);
}

#[test]
fn a_port_is_granted_listed_checked_and_released() {
    let home = Home::with_type();
    let service = home.service();
    let granted =
        home.http("POST", "/allocate", r#"{"service_type": "mine", "service_name": "web"}"#);
    assert_eq!(granted.status, 200, "{granted:?}");
    assert_eq!(granted.body["success"], true);
    let port = granted.body["port"].as_u64().unwrap();
    let id = granted.body["lock_id"].as_str().unwrap().to_owned();
    assert_eq!(granted.body["lease_id"], id);

    let listed = home.http("GET", "/allocations?service_type=mine", "");
    assert_eq!(listed.body["allocations"][0]["port"], port);
    assert_eq!(listed.body["allocations"][0]["state"], "reserved");
    let checked = home.http("GET", &format!("/check/{port}"), "");
    assert_eq!(checked.body["available"], false);
    assert_eq!(checked.body["lease"]["service_name"], "web");
    assert_eq!(
        home.http("GET", &format!("/check/{port}?protocol=udp"), "").body["available"],
        true
    );

    let released = home.http("DELETE", &format!("/allocate/{id}"), "");
    let message = format!("Port {port} released");
    assert_eq!(
        released.body,
        json!({"success": true, "port": port, "lease_id": id, "lock_id": id, "message": message})
    );
    refused(&home.http("DELETE", &format!("/allocate/{id}"), ""), 404, "NoSuchLease");
    let status = home.http("GET", "/status", "");
    assert_eq!(status.body["leases"], 0);
    assert!(status.body["audit_pending"].is_u64());
    end(service, Signal::SIGTERM);
    assert!(!home.socket().exists(), "the service has cleaned up");
}

#[test]
fn nonsense_is_refused_with_what_to_do_and_changes_nothing() {
    let home = Home::with_type();
    let service = home.service();
    let post = |body: &str| home.http("POST", "/allocate", body);
    for body in [
        "",
        "{",
        "null",
        "[]",
        "3000",
        "{}",
        r#"{"service_type": 7}"#,
        r#"{"service_type": "no such"}"#,
        r#"{"service_type": "mine", "port": "3000"}"#,
        r#"{"service_type": "mine", "port": 0}"#,
        r#"{"service_type": "mine", "port": -1}"#,
        r#"{"service_type": "mine", "port": 65536}"#,
        r#"{"service_type": "mine", "port": 1e99}"#,
        r#"{"service_type": "mine", "service_name": "a b"}"#,
        r#"{"service_type": "mine", "project_path": "/a\u0000b"}"#,
        r#"{"service_type": "mine", "strict": true}"#,
        r#"{"service_type": "mine", "strict": "yes", "port": 3000}"#,
        r#"{"service_type": "mine", "protocol": "sctp"}"#,
        r#"{"service_type": "mine", "novelty": 1}"#,
    ] {
        refused(&post(body), 400, "InvalidArgument");
    }
    refused(&post(r#"{"service_type": "mien"}"#), 404, "UnknownServiceType");
    let long = format!(r#"{{"service_type": "mine", "service_name": "{}"}}"#, "x".repeat(10_000));
    refused(&post(&long), 413, "InvalidArgument");
    refused(&home.http("GET", "/nowhere", ""), 404, "NotFound");
    refused(&home.http("GET", "//", ""), 404, "NotFound");
    let other_method = home.http("GET", "/allocate", "");
    refused(&other_method, 405, "MethodNotAllowed");
    assert_eq!(other_method.body["suggestions"], json!(["it takes POST"]));
    refused(&home.http("PATCH", "/allocations", ""), 405, "MethodNotAllowed");
    refused(&home.http("DELETE", "/allocate/1234", ""), 400, "InvalidArgument");
    refused(&home.http("DELETE", "/allocate/%ff", ""), 400, "InvalidArgument");
    for path in ["/check/0", "/check/65536", "/check/web", "/check/80?protocol=x", "/check/80?p=x"]
    {
        refused(&home.http("GET", path, ""), 400, "InvalidArgument");
    }
    refused(&home.http("GET", "/allocations?port=x", ""), 400, "InvalidArgument");
    refused(&home.http("GET", "/allocations?novelty=x", ""), 400, "InvalidArgument");
    assert_eq!(home.http("GET", "/allocations", "").body["allocations"], json!([]));
    end(service, Signal::SIGTERM);
}

#[test]
fn a_refusal_says_what_would_be_accepted() {
    let home = Home::with_type();
    let service = home.service();
    let described = "GET /openapi.json describes all requests";
    for (request, error, suggestions) in [
        (
            "GET /lease",
            r#"no path "/lease""#,
            &["did you mean /leases or /leases/{lease_id}/hold?", described][..],
        ),
        (
            "GET /Leases/",
            r#"no path "/Leases/""#,
            &["did you mean /leases or /leases/{lease_id}/hold?", described],
        ),
        (
            "DELETE /allocte/x",
            "/allocte/x",
            &[
                "did you mean /allocate/{lock_id} or /allocate or /allocate/{lock_id}/renew?",
                described,
            ],
        ),
        (
            "GET /config/backup",
            "/config/backup",
            &["did you mean /config/backups or /config?", described],
        ),
        ("GET /nothing/at/all", "/nothing/at/all", &[described]),
        ("GET //", r#"no path "//""#, &[described]),
        (
            "GET /metrics?format=x",
            r#"format must be json, prometheus or openmetrics, not the string "x""#,
            &[],
        ),
        ("GET /metrics?fromat=json", r#"no parameter "fromat""#, &[r#"did you mean "format"?"#]),
        ("GET /config?origins=1", r#"origins must be true or false, not the string "1""#, &[]),
        ("GET /check/1?x=1", r#"no parameter "x""#, &["the known one is protocol"]),
        ("GET /scan?x=1", r#"no parameter "x""#, &["the known ones are start, end"]),
        ("GET /audit?limti=1", r#"no parameter "limti""#, &[r#"did you mean "limit"?"#]),
        ("DELETE /types/mine?force=1", r#"force must be true or false, not the string "1""#, &[]),
        ("GET /events?foo=1", "takes no parameters", &["leave out the ? and what follows it"]),
        (
            "POST /allocate?foo=1",
            "takes no parameters",
            &["send options as a JSON object in the body"],
        ),
        (
            r#"DELETE /leases {"port": 1}"#,
            "takes no body",
            &["send options as parameters: ?key=value"],
        ),
        (r#"GET /types {"a": 1}"#, "takes no body", &["send no body"]),
        (
            r#"PUT /config/auto-allocation {"enabled": 1}"#,
            "enabled must be true or false, not 1",
            &[],
        ),
    ] {
        let mut parts = request.splitn(3, ' ');
        let mut part = || parts.next().unwrap_or_default();
        let answer = home.http(part(), part(), part());
        assert!((400..500).contains(&answer.status), "{request}: {answer:?}");
        let said = answer.body["error"].as_str().unwrap();
        assert!(said.contains(error), "{request}: {said}");
        assert_eq!(answer.body["suggestions"], json!(suggestions), "{request}");
    }
    end(service, Signal::SIGTERM);
}

#[test]
fn the_examples_of_the_man_page_work_as_they_are_written() {
    let home = Home::new();
    home.configure(&format!(
        r#"{{"service_types": {{"dev": {{"port_range": [{}, {}], "preferred_ports": []}}}}}}"#,
        home.port(0),
        home.port(9)
    ));
    let service = home.service();
    let page = include_str!("../packaging/man/styxy-http.7");
    let examples = page.split_once(".SH EXAMPLES").unwrap().1.split_once(".SH SEE ALSO").unwrap().0;
    let examples = examples.replace("\\-", "-").replace(" \\e\n", " ").replace("\\(ti", "~");
    // What is over TCP needs systemd.
    let commands = examples.lines().filter_map(|line| line.strip_prefix("$ "));
    let commands: Vec<_> = commands.filter(|command| command.contains("http.sock")).collect();
    let answers =
        [r#""port":"#, r#""service_name":"web""#, r#""released":1"#, "event: lease_granted"];
    assert_eq!(commands.len(), answers.len(), "{commands:?}");
    for (command, answer) in commands.into_iter().zip(answers) {
        let mut curl = Command::new("sh")
            .args(["-c", &format!("exec {command}")])
            .env("XDG_RUNTIME_DIR", home.path("runtime"))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(curl.stdout.take().unwrap()).lines().map(Result::unwrap);
        assert!(lines.any(|line| line.contains(answer)), "{command}: no {answer}");
        // A stream has no end.
        curl.kill().unwrap();
        curl.wait().unwrap();
    }
    end(service, Signal::SIGTERM);
}

#[test]
fn a_null_stands_for_a_known_option_that_is_not_set_and_for_no_other() {
    let home = Home::with_type();
    let service = home.service();
    let id = "00000000-0000-4000-8000-000000000000";
    for (method, path, body) in [
        ("POST", "/allocate", r#"{"service_type": "mine", "prot": null}"#),
        ("PUT", &format!("/allocate/{id}/renew"), r#"{"prot": null}"#),
        ("POST", "/cleanup", r#"{"dry_run": true, "prot": null}"#),
        ("PUT", "/instances/a-1", r#"{"heartbeat": 60, "prot": null}"#),
        ("PUT", "/config/auto-allocation", r#"{"enabled": true, "prot": null}"#),
        ("POST", "/config/restore", r#"{"version": 1, "prot": null}"#),
        ("POST", "/page", r#"{"prot": null}"#),
        ("POST", "/instance/register", r#"{"instance_id": "a", "prot": null}"#),
        ("POST", "/restart", r#"{"prot": null}"#),
    ] {
        let answer = home.http(method, path, body);
        refused(&answer, 400, "InvalidArgument");
        let is_named = answer.body["error"].as_str().unwrap().contains("prot");
        assert!(is_named || path == "/restart", "{path}: {answer:?}");
    }
    assert_eq!(home.http("GET", "/instances", "").body["instances"], json!([]));
    assert!(home.leases().is_empty());
    end(service, Signal::SIGTERM);
}

#[test]
fn a_protocol_alone_ends_and_forgets_nothing() {
    let home = Home::with_type();
    let service = home.service();
    let body = r#"{"service_type": "mine", "project_path": "/shop"}"#;
    assert_eq!(home.http("POST", "/allocate", body).status, 200);
    for path in ["/leases", "/leases?protocol=tcp", "/memory", "/memory?protocol=tcp"] {
        let answer = home.http("DELETE", path, "");
        refused(&answer, 400, "InvalidArgument");
        assert!(
            answer.body["error"].as_str().unwrap().contains("would match everything"),
            "{path}"
        );
    }
    for (path, things) in [("/leases", "leases"), ("/memory", "remembered")] {
        let answer = home.http("GET", path, "").body;
        assert_eq!(answer[things].as_array().unwrap().len(), 1, "{answer}");
        let both = format!("{path}?protocol=tcp&service_type=mine");
        assert_eq!(home.http("DELETE", &both, "").status, 200);
    }
    end(service, Signal::SIGTERM);
}

#[test]
fn what_is_remembered_has_no_ids_that_could_be_asked_for() {
    let home = Home::with_type();
    let service = home.service();
    let id = "00000000-0000-4000-8000-000000000000";
    for key in ["lease_id", "lock_id", "block_id", "instance_id"] {
        assert_eq!(home.http("GET", &format!("/leases?{key}={id}"), "").status, 200);
        for method in ["GET", "DELETE"] {
            let answer = home.http(method, &format!("/memory?{key}={id}&service_type=mine"), "");
            refused(&answer, 400, "InvalidArgument");
            let error = format!("there is no filter key for remembered ports {key:?}");
            assert!(answer.body["error"].as_str().unwrap().contains(&error), "{:?}", answer.body);
        }
    }
    end(service, Signal::SIGTERM);
}

#[test]
fn what_is_given_twice_is_refused_and_changes_nothing() {
    let home = Home::with_type();
    let service = home.service();
    for port in 0..2 {
        let body = format!(r#"{{"service_type": "mine", "port": {}}}"#, home.port(port));
        assert_eq!(home.http("POST", "/allocate", &body).status, 200);
    }
    let (first, second) = (home.port(0), home.port(1));
    let id = "00000000-0000-4000-8000-000000000000";
    for (method, path, body) in [
        ("DELETE", format!("/allocations?port={first}&port={second}"), String::new()),
        ("DELETE", format!("/allocations?lease_id={id}&lock_id={id}"), String::new()),
        ("DELETE", "/memory?service_type=a&service_type=mine".to_owned(), String::new()),
        ("GET", format!("/allocations?port={first}&port={first}"), String::new()),
        ("GET", format!("/check/{first}?protocol=tcp&protocol=udp"), String::new()),
        ("GET", "/suggest/mine?count=1&count=2".to_owned(), String::new()),
        ("GET", "/config?origins=true&origins=false".to_owned(), String::new()),
        ("DELETE", "/types/mine?force=false&force=true".to_owned(), String::new()),
        (
            "POST",
            "/allocate".to_owned(),
            format!(r#"{{"service_type": "mine", "port": {first}, "port": {second}}}"#),
        ),
        (
            "POST",
            "/allocate".to_owned(),
            r#"{"service_type": "a", "service_type": "mine"}"#.to_owned(),
        ),
        ("POST", "/cleanup".to_owned(), r#"{"older_than": 9999, "older_than": 0}"#.to_owned()),
        ("PUT", format!("/allocate/{id}/renew"), r#"{"ttl": 1, "ttl": 2}"#.to_owned()),
    ] {
        let answer = home.http(method, &path, &body);
        refused(&answer, 400, "InvalidArgument");
        assert!(answer.body["error"].as_str().unwrap().contains("given twice"), "{answer:?}");
    }
    assert_eq!(
        home.http("GET", "/allocations", "").body["allocations"].as_array().unwrap().len(),
        2
    );
    end(service, Signal::SIGTERM);
}

#[test]
fn a_query_takes_what_a_body_takes_and_null_is_left_out_everywhere() {
    let home = Home::with_type();
    let service = home.service();
    let pid = std::process::id();
    for path in [
        "/suggest/mine?dry_run=true".to_owned(),
        "/suggest/mine?ttl=60&strict=false".to_owned(),
        format!("/suggest/mine?pid={pid}&create=true"),
        format!("/check/{}?protocol=", home.port(0)),
    ] {
        let answer = home.http("GET", &path, "");
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
    }
    let allocate = r#"{"service_type": "mine", "ttl": 60, "port": null, "service_name": null}"#;
    let granted = home.http("POST", "/allocate", allocate);
    assert_eq!(granted.status, 200, "{granted:?}");
    let id = granted.body["lease_id"].as_str().unwrap();
    for (method, path, body) in [
        ("PUT", format!("/allocate/{id}/renew"), r#"{"ttl": null}"#),
        ("PUT", "/instances/a-1".to_owned(), r#"{"heartbeat": 60, "pid": null}"#),
        ("POST", "/cleanup".to_owned(), r#"{"older_than": null, "dry_run": null}"#),
    ] {
        let answer = home.http(method, &path, body);
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
    }
    end(service, Signal::SIGTERM);
}

#[test]
fn a_clean_up_leaves_young_leases_alone_unless_it_is_told_otherwise() {
    let home = Home::with_type();
    let service = home.service();
    home.http("POST", "/allocate", r#"{"service_type": "mine"}"#);
    for body in ["", "{}"] {
        assert_eq!(home.http("POST", "/cleanup", body).body["leases"], json!([]));
    }
    let gone = home.http("POST", "/cleanup", r#"{"older_than": 0}"#);
    assert_eq!(gone.body["leases"].as_array().unwrap().len(), 1);
    end(service, Signal::SIGTERM);
}

#[test]
fn a_body_that_is_announced_as_too_large_is_not_asked_for() {
    let home = Home::with_type();
    let service = home.service();
    for (route, most) in [("POST /allocate", 10_000), ("PUT /config/seen", 16 << 20)] {
        let mut stream = UnixStream::connect(home.socket()).unwrap();
        let head = format!(
            "{route} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
             Expect: 100-continue\r\nContent-Length: {}\r\n\r\n",
            most + 1
        );
        stream.write_all(head.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
        let refusal = format!("the body has more than {most} bytes");
        assert!(answer.contains(&refusal), "{answer}");
    }
    end(service, Signal::SIGTERM);
}

#[test]
fn a_strict_request_names_who_has_the_port() {
    let home = Home::with_type();
    let service = home.service();
    let port = home.port(4);
    let body = format!(
        r#"{{"service_type": "mine", "service_name": "web", "port": {port}, "strict": true}}"#
    );
    assert_eq!(home.http("POST", "/allocate", &body).body["port"], port);
    let answer = home.http("POST", "/allocate", &body);
    refused(&answer, 409, "PortInUse");
    assert!(answer.body["error"].as_str().unwrap().contains("leased to mine web"), "{answer:?}");
    // A server may run on it, or it is another project's: it is looked at before it is released.
    let advice = answer.body["suggestions"].to_string();
    assert!(advice.contains(&format!("styxy check {port}")), "{advice}");
    assert!(!advice.contains("release"), "{advice}");
    end(service, Signal::SIGTERM);
}

#[test]
fn a_dry_run_changes_nothing() {
    let home = Home::with_type();
    let service = home.service();
    let body = r#"{"service_type": "mine", "dry_run": true}"#;
    let seq = || home.http("GET", "/status", "").body["seq"].clone();
    let before = seq();
    let answer = home.http("POST", "/allocate", body);
    assert_eq!(answer.body["dry_run"], true);
    assert!(answer.body["lease_id"].is_null());
    assert_eq!(home.http("POST", "/allocate", body).body["port"], answer.body["port"]);
    assert_eq!(seq(), before);
    end(service, Signal::SIGTERM);
}

#[test]
fn a_singleton_is_shared() {
    let home = Home::new();
    home.configure(&format!(
        r#"{{"service_types": {{"model": {{"port_range": [{}, {}], "instance_behavior": "single"}}}}}}"#,
        home.port(0),
        home.port(9)
    ));
    let service = home.service();
    let first = home.http("POST", "/allocate", r#"{"service_type": "model"}"#);
    let second = home.http("POST", "/allocate", r#"{"service_type": "model"}"#);
    assert!(first.body["existing"].is_null());
    assert_eq!(second.body["existing"], true);
    assert_eq!(first.body["lease_id"], second.body["lease_id"]);
    // As lists show a port.
    let port = format!("{}/tcp", first.body["port"]);
    home.ok(&["release", &port]);
    assert_eq!(home.http("GET", "/allocations", "").body["allocations"], json!([]));
    end(service, Signal::SIGTERM);
}

#[test]
fn silent_connections_leave_descriptors_for_the_rest() {
    let home = Home::with_type();
    let service = home.service();
    let silent: Vec<_> = (0..700).map(|_| UnixStream::connect(home.socket()).unwrap()).collect();
    let open = || std::fs::read_dir(format!("/proc/{}/fd", service.id())).unwrap().count();
    home.until(|| open() > 512);
    thread::sleep(std::time::Duration::from_millis(500));
    assert!(open() < 1_700, "{} descriptors", open());
    drop(silent);
    assert_eq!(home.http("GET", "/status", "").status, 200);
    home.until(|| open() < 100);
    end(service, Signal::SIGTERM);
}

#[test]
fn half_requests_keep_nobody_waiting() {
    let home = Home::with_type();
    let service = home.service();
    for half in [
        "GET /status HTTP/1.1\r\nHost: loc",
        "POST /allocate HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{",
    ] {
        let stream = |_| {
            let mut stream = UnixStream::connect(home.socket()).unwrap();
            let _ = stream.write_all(half.as_bytes());
            stream
        };
        let halves: Vec<_> = (0..700).map(stream).collect();
        // Those would be given up only after 10 and 30 seconds.
        let mut stream = UnixStream::connect(home.socket()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(8))).unwrap();
        write!(stream, "GET /status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
        drop(halves);
    }
    end(service, Signal::SIGTERM);
}

#[test]
fn a_killed_service_has_lost_nothing() {
    let home = Home::with_type();
    let service = home.service();
    let body = r#"{"service_type": "mine", "service_name": "web", "project_path": "/p"}"#;
    let granted = home.http("POST", "/allocate", body);
    end(service, Signal::SIGKILL);
    let service = home.service();
    let listed = home.http("GET", "/allocations", "");
    assert_eq!(listed.body["allocations"][0]["lease_id"], granted.body["lease_id"]);
    end(service, Signal::SIGKILL);
}

#[test]
fn nothing_that_was_said_is_passed_over() {
    let home = Home::with_type();
    let service = home.service();
    let granted = home.http("POST", "/allocate", r#"{"service_type": "mine"}"#);
    let lease = granted.body["lock_id"].as_str().unwrap();
    for (method, path, body) in [
        ("POST", "/allocate?dry_run=true", r#"{"service_type": "mine"}"#),
        ("POST", "/cleanup?dry_run=true", r#"{"older_than": 0}"#),
        ("PUT", &format!("/allocate/{lease}/renew?ttl=5"), ""),
        ("PUT", "/instances/agent?heartbeat=5", ""),
        ("DELETE", &format!("/allocate/{lease}?dry_run=true"), ""),
        ("DELETE", &format!("/allocate/{lease}"), r#"{"dry_run": true}"#),
        ("DELETE", "/allocations?service_type=mine", r#"{"port": 1}"#),
        ("DELETE", "/memory?service_type=mine", r#"{"project_path": "/x"}"#),
        ("GET", "/allocations", r#"{"service_type": "api"}"#),
        ("GET", "/status?x=1", ""),
        ("GET", "/types?service_type=mine", ""),
        ("POST", "/config/reload?x=1", ""),
        ("POST", "/config/reload", "nonsense"),
    ] {
        refused(&home.http(method, path, body), 400, "InvalidArgument");
        let leases = home.http("GET", "/allocations", "").body["allocations"].clone();
        assert_eq!(leases.as_array().unwrap().len(), 1, "{method} {path}");
    }
    // Some clients send an object with every request.
    assert_eq!(home.http("DELETE", &format!("/allocate/{lease}"), "{}").status, 200);
    end(service, Signal::SIGTERM);
}

#[test]
fn what_is_no_request_is_refused_with_the_body_of_every_refusal() {
    let home = Home::with_type();
    let service = home.service();
    let long = "x".repeat(70_000);
    let headers = "a: b\r\n".repeat(200);
    for (request, status) in [
        ("nonsense\r\n\r\n".to_owned(), "400"),
        ("GET / HTTP/9.9\r\n\r\n".to_owned(), "400"),
        ("GET / HTTP/1.1\r\nno header\r\n\r\n".to_owned(), "400"),
        (format!("GET /{long} HTTP/1.1\r\nhost: a\r\n\r\n"), "414"),
        (format!("GET /status HTTP/1.1\r\nhost: a\r\n{headers}\r\n"), "431"),
    ] {
        let mut stream = UnixStream::connect(home.socket()).unwrap();
        // It may be refused before all of it was read.
        let _ = stream.write_all(request.as_bytes());
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8(answer).unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        let body: Json = serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
        assert_eq!(body["success"], false, "{body}");
        assert_eq!((&body["code"], &body["suggestions"]), (&json!("InvalidArgument"), &json!([])));
    }
    end(service, Signal::SIGTERM);
}
