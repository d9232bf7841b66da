//! Ten thousand requests that are wrong in some way: mutated bytes, bodies, lengths, headers, chunks and paths, several in one
//! write, and connections that are closed too early.

use std::{
    io::{Read, Write},
    net::Shutdown,
    os::unix::net::UnixStream,
    time::Duration,
};

use nix::sys::signal::Signal;
use serde_json::{Value as Json, json};

use super::support::{Home, dice::Dice, end};

const REQUESTS: usize = 10_000;

const TEMPLATES: [(&str, &str, &str); 23] = [
    (
        "POST",
        "/allocate",
        r#"{"service_type": "mine", "service_name": "web", "preferred_port": 3000}"#,
    ),
    (
        "POST",
        "/allocate",
        r#"{"service_type": "mine", "claim": true, "project_path": "/srv/shop", "count": 2}"#,
    ),
    ("POST", "/allocate", r#"{"service_type": "once", "instance_id": "cli", "dry_run": true}"#),
    ("DELETE", "/allocate/8f4f2e2c-6f0e-4d0c-9d64-0f4a1c6f2a11", ""),
    ("PUT", "/allocate/8f4f2e2c-6f0e-4d0c-9d64-0f4a1c6f2a11/renew", r#"{"ttl": 60}"#),
    ("GET", "/allocations", ""),
    ("GET", "/leases?service_type=mine&limit=3", ""),
    ("GET", "/check/3000?protocol=tcp", ""),
    ("GET", "/status", ""),
    ("GET", "/types", ""),
    ("POST", "/cleanup", r#"{"force": true}"#),
    ("GET", "/memory?limit=2", ""),
    ("PUT", "/instances/a7", r#"{"heartbeat": 600}"#),
    (
        "POST",
        "/instance/register",
        r#"{"instance_id": "a8", "working_directory": "/srv", "metadata": {"a": [1]}}"#,
    ),
    ("PUT", "/instance/a8/heartbeat", "{}"),
    ("GET", "/instance/list", ""),
    ("GET", "/scan?start=3000&end=3100", ""),
    ("GET", "/observe/3000", ""),
    ("GET", "/health", ""),
    ("GET", "/metrics?format=prometheus", ""),
    ("GET", "/suggest/mine?count=3", ""),
    ("GET", "/audit?action=deny&port=3000&limit=2", ""),
    ("GET", "/lookup?project_path=/srv/shop&service_type=mine", ""),
];

const WORDS: [&str; 20] = [
    "null",
    "true",
    "0",
    "-1",
    "65536",
    "1e400",
    "\"\"",
    "\"\\u0000\"",
    "[]",
    "{}",
    "{\"port\": 1}",
    "\u{fffd}",
    "%00",
    "%zz",
    "..",
    "/",
    "?",
    "\r\n\r\n",
    "\"",
    "9999999999999999999999",
];

/// A request that is not quite right.
fn mutated(dice: &mut Dice) -> Vec<u8> {
    let (mut method, path, body) = *dice.pick(&TEMPLATES);
    let (mut path, mut body) = (path.to_owned(), body.as_bytes().to_vec());
    if dice.one_in(12) {
        method = *dice.pick(&["PATCH", "OPTIONS", "HEAD", "TRACE", "BREW", "get", ""]);
    }
    match dice.below(8) {
        0 => insert(dice, &mut body),
        1 => body = "[".repeat(1 + usize::try_from(dice.below(9_000)).unwrap()).into_bytes(),
        2 => body = r#"{"a":"#.repeat(1 + usize::try_from(dice.below(1_500)).unwrap()).into_bytes(),
        3 => body.resize(usize::try_from(dice.below(12_000)).unwrap(), b' '),
        4 => {
            let mut bytes = path.into_bytes();
            insert(dice, &mut bytes);
            path = String::from_utf8_lossy(&bytes).into_owned();
        }
        _ => {}
    }
    let length = match dice.below(10) {
        0 => String::new(),
        1 => format!("Content-Length: {}\r\n", body.len() as u64 + dice.below(3)),
        2 => format!("Content-Length: {}\r\nContent-Length: {}\r\n", body.len(), body.len() + 1),
        3 => format!("Content-Length: {}\r\nTransfer-Encoding: chunked\r\n", body.len()),
        4 => "Content-Length: 99999999999999999999\r\n".to_owned(),
        5 => {
            let size = *dice.pick(&["", "g", "-1", "ffffffffffffffffff", "5;x=y"]);
            let right = format!("{:x}", body.len());
            let size = if dice.one_in(2) { right.as_str() } else { size };
            body = [size.as_bytes(), b"\r\n", &body, b"\r\n0\r\n\r\n"].concat();
            "Transfer-Encoding: chunked\r\n".to_owned()
        }
        _ => format!("Content-Length: {}\r\n", body.len()),
    };
    let more = match dice.below(12) {
        0 => format!("X: {}\r\n", "y".repeat(usize::try_from(dice.below(200_000)).unwrap())),
        1 => "X: y\r\n".repeat(usize::try_from(dice.below(300)).unwrap()),
        2 => "Expect: 100-continue\r\n".to_owned(),
        3 => "Connection: upgrade\r\nUpgrade: websocket\r\n".to_owned(),
        4 => "X : y\r\n x\r\n".to_owned(),
        _ => String::new(),
    };
    let head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n{length}{more}\r\n");
    let mut request = [head.as_bytes(), &body].concat();
    if dice.one_in(6) {
        for _ in 0..=dice.below(3) {
            let at = usize::try_from(dice.below(request.len() as u64)).unwrap();
            request[at] = u8::try_from(dice.below(256)).unwrap();
        }
    }
    if dice.one_in(10) {
        request.truncate(usize::try_from(dice.below(request.len() as u64)).unwrap());
    }
    request
}

/// Puts a word somewhere into a text, in place of what follows or before it.
fn insert(dice: &mut Dice, text: &mut Vec<u8>) {
    let at = usize::try_from(dice.below(text.len() as u64 + 1)).unwrap();
    let end = if dice.one_in(2) { at } else { (at + 3).min(text.len()) };
    text.splice(at..end, dice.pick(&WORDS).bytes());
}

/// How many answers were no refusal; a refusal must be one that a wrong request may get.
fn check(request: &[u8], mut answer: &str) -> usize {
    let mut good = 0;
    let shown = || String::from_utf8_lossy(&request[..request.len().min(400)]).into_owned();
    for secret in ["panicked", ".rs:", "/rustc/", "RUST_BACKTRACE"] {
        assert!(!answer.contains(secret), "{} {answer}", shown());
    }
    while !answer.is_empty() {
        let (head, rest) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{answer}"));
        let status: u16 = head.get(9..12).and_then(|status| status.parse().ok()).unwrap();
        if status == 100 {
            answer = rest;
            continue;
        }
        // Whether an answer to HEAD has a body depends on whether it was read as one.
        if request.windows(5).any(|word| word == b"HEAD ") {
            assert!(status < 500, "{} {answer}", shown());
            return good;
        }
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let (body, rest) = rest.split_at(length.unwrap().parse().unwrap());
        if status >= 500 {
            // Other requests of this test have the ports.
            let body: Json = serde_json::from_str(body).unwrap();
            assert_eq!(
                (status, &body["code"]),
                (503, &json!("PoolExhausted")),
                "{} {body}",
                shown()
            );
        }
        good += usize::from(status == 200);
        answer = rest;
    }
    good
}

#[test]
fn ten_thousand_mutated_requests_get_no_error_of_the_server() {
    let home = super::configured();
    let service = home.service();
    let memory = |home: &Home| {
        home.http("GET", "/metrics", "").body["gauges"]["resident_memory_bytes"]["value"]
            .as_u64()
            .unwrap()
    };
    let mut dice = Dice(0x5714_9e37_79b9_7f4a);
    let (mut before, mut good) = (0, 0);
    for number in 0..REQUESTS {
        if number == REQUESTS / 5 {
            before = memory(&home);
        }
        let mut request = mutated(&mut dice);
        if dice.one_in(15) {
            request.extend(mutated(&mut dice));
        }
        let mut stream = UnixStream::connect(home.socket()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        // It may be refused before all of it is sent.
        let _ = stream.write_all(&request);
        if dice.one_in(20) {
            continue;
        }
        let _ = stream.shutdown(Shutdown::Write);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        good += check(&request, &String::from_utf8_lossy(&answer));
    }
    assert!(good > REQUESTS / 10, "only {good} were understood");
    let after = memory(&home);
    assert!(after < before + before / 4 + 4_000_000, "{before} bytes before, {after} after");
    assert_eq!(home.http("POST", "/cleanup", r#"{"force": true}"#).status, 200);
    end(service, Signal::SIGTERM);
}
