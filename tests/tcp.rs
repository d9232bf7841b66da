//! HTTP over TCP: who is answered, and what is known of whoever is not.

mod support;
#[path = "support/tcp.rs"]
mod tcp;

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpStream},
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use serde_json::{Value as Json, json};
use styxy::token::TokenHash;
use support::{Answer, Home, end};
use tcp::{Door, service};

const GRANT: &str = r#"{"service_type": "dev", "service_name": "web"}"#;

/// The events of this action in the log of the service.
fn events(home: &Home, action: &str) -> Vec<Json> {
    home.list("events", &["audit", "--action", action])
}

/// Everything that is refused without a look at the request.
#[track_caller]
fn refused(answer: &Answer, status: u16, code: &str) {
    assert_eq!((answer.status, &answer.body["code"]), (status, &json!(code)), "{answer:?}");
    assert_eq!(answer.body["success"], false);
    let head = answer.head.to_lowercase();
    assert_eq!(head.contains("www-authenticate: bearer"), status == 401, "{head}");
    assert!(!head.contains("access-control"), "{head}");
}

#[test]
fn whoever_has_the_token_is_answered_and_nobody_else() {
    let home = Home::with_type();
    let (service, door) = Door::open(&home);
    let granted = door.http("POST", "/allocate", GRANT);
    assert_eq!(granted.status, 200, "{granted:?}");
    let key = format!("X-API-Key: {}\r\n", door.token);
    assert_eq!(door.http_with(&key, "GET", "/allocations", "").status, 200);

    refused(&door.http_with("", "GET", "/allocations", ""), 401, "NoToken");
    let wrong = format!("Authorization: Bearer {}\r\n", door.token.replace(&door.token[..1], "x"));
    refused(&door.http_with(&wrong, "POST", "/allocate", GRANT), 401, "WrongToken");
    // An unknown path tells nothing about those that are known.
    refused(&door.http_with("", "GET", "/unheard-of", ""), 401, "NoToken");
    // The lease is as it was, and the socket needs no token.
    let leases = home.http("GET", "/leases", "").body["leases"].clone();
    assert_eq!(leases.as_array().unwrap().len(), 1);
    assert_eq!(leases[0]["port"], granted.body["port"]);
    end(service, Signal::SIGTERM);
}

#[test]
fn without_a_token_the_status_tells_only_that_the_service_runs() {
    let home = Home::with_type();
    let (service, door) = Door::open(&home);
    let told = door.http_with("", "GET", "/status", "").body;
    assert_eq!(told, json!({"success": true, "status": "running"}));
    let told = door.http("GET", "/status", "").body;
    assert!(told["pid"].is_number() && told["leases"] == 0, "{told}");
    refused(&door.http_with("", "DELETE", "/status", ""), 401, "NoToken");
    // A wrong token is no missing one.
    let wrong = "Authorization: Bearer wrong\r\n";
    refused(&door.http_with(wrong, "GET", "/status", ""), 401, "WrongToken");
    end(service, Signal::SIGTERM);
}

#[test]
fn a_page_of_another_origin_and_a_name_that_was_bound_anew_get_nothing() {
    let home = Home::with_type();
    let (service, door) = Door::open(&home);
    let token = format!("Authorization: Bearer {}\r\n", door.token);
    let host = format!("Host: {}\r\n", door.address);
    for (headers, status, code) in [
        ("Origin: http://evil.example\r\n".to_owned(), 403, "OtherOrigin"),
        (format!("Origin: http://127.0.0.1:{}\r\n", door.address.port() ^ 1), 403, "OtherOrigin"),
        ("Origin: null\r\n".to_owned(), 403, "OtherOrigin"),
        ("Sec-Fetch-Site: cross-site\r\n".to_owned(), 403, "OtherOrigin"),
        ("Sec-Fetch-Site: same-site\r\n".to_owned(), 403, "OtherOrigin"),
    ] {
        let headers = format!("{host}{token}{headers}");
        refused(&door.http_with(&headers, "POST", "/allocate", GRANT), status, code);
    }
    for host in ["evil.example", "127.0.0.1.evil.example:9876", "[fe80::1]"] {
        let headers = format!("Host: {host}\r\n{token}");
        refused(&door.http_with(&headers, "POST", "/allocate", GRANT), 421, "WrongHost");
    }
    let preflight = "Origin: http://evil.example\r\nAccess-Control-Request-Method: POST\r\n";
    refused(
        &door.http_with(&format!("{host}{preflight}"), "OPTIONS", "/allocate", ""),
        403,
        "OtherOrigin",
    );
    assert_eq!(home.http("GET", "/leases", "").body["leases"], json!([]));

    // Its own page, and a forward from another port.
    let own = format!("{host}{token}Origin: http://{}\r\n", door.address);
    assert_eq!(door.http_with(&own, "POST", "/allocate", GRANT).status, 200);
    let forwarded = format!("Host: localhost:1234\r\n{token}Origin: http://localhost:1234\r\n");
    assert_eq!(door.http_with(&forwarded, "POST", "/allocate", GRANT).status, 200);
    end(service, Signal::SIGTERM);
}

#[test]
fn a_token_cannot_be_set_with_the_one_before_but_on_the_socket_and_survives_kill_9() {
    let home = Home::with_type();
    let (first, door) = Door::open(&home);
    let stranger = TokenHash::of("0123456789abcdef0123456789abcdef");
    let body = format!(r#"{{"sha256": "{stranger}"}}"#);
    refused(&door.http("PUT", "/token", &body), 403, "OnlyOnTheSocket");
    refused(&door.http("PUT", "/config/seen", "{}"), 403, "OnlyOnTheSocket");
    let other = body.replace("sha256", "token");
    for wrong in ["", "{}", r#"{"sha256": 1}"#, r#"{"sha256": "abc"}"#, &other] {
        assert_eq!(home.http("PUT", "/token", wrong).status, 400, "{wrong}");
    }
    end(first, Signal::SIGKILL);

    let (second, address) = service(&home, &[]);
    let door = Door { address, ..door };
    assert_eq!(door.http("GET", "/leases", "").status, 200);
    assert_eq!(home.http("PUT", "/token", &body).status, 200);
    refused(&door.http("GET", "/leases", ""), 401, "WrongToken");
    // The same once more is no change.
    assert_eq!(home.http("PUT", "/token", &body).status, 200);
    end(second, Signal::SIGTERM);
    let set = events(&home, "set_token");
    assert_eq!(set.len(), 2, "{set:?}");
    assert_eq!(set[0]["transport"], "http");
    assert!(!Json::from(set).to_string().contains(&stranger.to_string()[..8]));
}

#[test]
fn a_service_without_a_token_answers_nobody() {
    let home = Home::with_type();
    let (service, address) = service(&home, &[]);
    let door = Door { address, token: String::new() };
    refused(&door.http_with("Authorization: Bearer x\r\n", "GET", "/leases", ""), 401, "NoToken");
    refused(&door.http("GET", "/leases", ""), 401, "NoToken");
    assert_eq!(door.http("GET", "/status", "").body["status"], "running");
    end(service, Signal::SIGTERM);
}

#[test]
fn only_a_service_that_is_started_by_hand_can_do_without_a_token() {
    let home = Home::with_type();
    let (by_hand, address) = service(&home, &[("STYXY_SKIP_AUTH", "true")]);
    let open = Door { address, token: String::new() };
    assert_eq!(open.http_with("", "POST", "/allocate", GRANT).status, 200);
    // It still answers no foreign page.
    refused(
        &open.http_with("Origin: http://evil.example\r\n", "GET", "/leases", ""),
        403,
        "OtherOrigin",
    );
    end(by_hand, Signal::SIGTERM);
    let (by_hand, address) = service(&home, &[("STYXY_SKIP_AUTH", "1")]);
    let shut = Door { address, token: String::new() };
    refused(&shut.http_with("", "POST", "/allocate", GRANT), 401, "NoToken");
    end(by_hand, Signal::SIGTERM);
}

#[test]
fn failed_tries_are_one_event_for_each_user_and_minute_and_never_lock_out_the_owner() {
    let home = Home::with_type();
    let (service, door) = Door::open(&home);
    let tries: Vec<_> = (0..8)
        .map(|_| {
            let mut stream = door.connect();
            write!(
                stream,
                "GET /leases HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer wrong\r\n\r\n"
            )
            .unwrap();
            stream
        })
        .collect();
    // While they wait, the owner does not.
    let start = Instant::now();
    assert_eq!(door.http("POST", "/allocate", GRANT).status, 200);
    for mut stream in tries {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
    }
    assert!(start.elapsed() >= Duration::from_millis(400), "a wrong token is answered late");
    end(service, Signal::SIGTERM);
    let denied = events(&home, "deny");
    // The first, and when the service ended, the others.
    assert_eq!(denied.len(), 2, "{denied:?}");
    assert_eq!(denied[1]["count"], "7");
    let uid = nix::unistd::getuid().as_raw();
    for (key, value) in [
        ("reason", json!("WrongToken")),
        ("transport", json!("tcp")),
        ("client_uid", json!(uid)),
        ("message", json!("Refused a request over TCP: WrongToken")),
    ] {
        assert_eq!(denied[0][key], value, "{key}: {:#}", denied[0]);
    }
}

#[test]
fn silent_connections_keep_nobody_from_the_door() {
    let home = Home::with_type();
    let (service, door) = Door::open(&home);
    for half in
        ["", "GET /status HTTP/1.1\r\nHost: loc", "GET /status HTTP/1.1\r\nHost: localhost\r\n\r\n"]
    {
        let stream = |_| {
            let mut stream = door.connect();
            let _ = stream.write_all(half.as_bytes());
            stream
        };
        let silent: Vec<_> = (0..700).map(stream).collect();
        let mut stream = door.connect();
        stream.set_read_timeout(Some(Duration::from_secs(8))).unwrap();
        let token = &door.token;
        write!(stream, "GET /leases HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {token}\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{half:?}: {answer}");
        drop(silent);
    }
    end(service, Signal::SIGTERM);
}

#[test]
fn a_grant_over_tcp_says_where_it_came_from() {
    let home = Home::with_type();
    let (service, door) = Door::open(&home);
    assert_eq!(door.http("POST", "/allocate", GRANT).status, 200);
    let ends = format!(r#"{{"service_type": "dev", "pid": {}}}"#, std::process::id());
    let owned = door.http("POST", "/allocate", &ends).body;
    assert_eq!(owned["pid"], std::process::id(), "{owned}");
    end(service, Signal::SIGTERM);
    let granted = &events(&home, "allocate")[0];
    let uid = nix::unistd::getuid().as_raw();
    assert_eq!((&granted["transport"], &granted["client_uid"]), (&json!("tcp"), &json!(uid)));
    assert_eq!(granted.get("client_pid"), None, "the kernel does not tell");
}

#[test]
fn a_refusal_reaches_a_client_that_still_sends_its_body() {
    let home = Home::with_type();
    let (service, door) = Door::open(&home);
    let mut stream: TcpStream = door.connect();
    write!(stream, "POST /allocate HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5000\r\n\r\n{{")
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
    let _ = stream.shutdown(Shutdown::Both);
    end(service, Signal::SIGTERM);
}
