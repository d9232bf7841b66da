//! The page for a browser, as HTTP: its files, its secrets and its sessions.

mod support;
#[path = "support/tcp.rs"]
mod tcp;

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use serde_json::{Value as Json, json};
use support::{Answer, Home, end};
use tcp::{Door, service};

fn secret(home: &Home) -> String {
    let answer = home.http("POST", "/page", "");
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.body["secret"].as_str().unwrap().to_owned()
}

/// What the page sends for a session.
fn exchange(door: &Door, secret: &str) -> Answer {
    let own =
        format!("Host: {0}\r\nOrigin: http://{0}\r\nSec-Fetch-Site: same-origin\r\n", door.address);
    door.http_with(&own, "POST", "/page/session", &json!({"secret": secret}).to_string())
}

/// A door that is opened with a session, where no token was ever set.
fn with_session(home: &Home, door: Door) -> Door {
    let answer = exchange(&door, &secret(home));
    assert_eq!(answer.status, 200, "{answer:?}");
    Door { token: answer.body["session"].as_str().unwrap().to_owned(), ..door }
}

/// The head and the body of a file.
fn file(door: &Door, headers: &str, path: &str) -> (String, String) {
    let mut stream = door.connect();
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {}\r\n{headers}\r\n", door.address).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head.to_lowercase(), body.to_owned())
}

#[test]
fn a_secret_opens_one_session_which_is_answered_without_a_token() {
    let home = Home::with_type();
    let (service, address) = service(&home, &[]);
    let door = Door { address, token: String::new() };
    let secret = secret(&home);
    assert_eq!(secret.len(), 64);
    let answer = exchange(&door, &secret);
    assert_eq!(answer.status, 200, "{answer:?}");
    let session = answer.body["session"].as_str().unwrap().to_owned();
    assert!(session.len() == 64 && session != secret);

    let page = Door { address, token: session };
    assert_eq!(page.http("POST", "/allocate", r#"{"service_type": "mine"}"#).status, 200);
    assert_eq!(page.http("GET", "/leases", "").body["leases"].as_array().unwrap().len(), 1);
    // A session is no way to further ones, nor to the token.
    for (method, path) in [("POST", "/page"), ("PUT", "/token"), ("PUT", "/config/seen")] {
        let answer = page.http(method, path, "{}");
        assert_eq!(
            (answer.status, &answer.body["code"]),
            (403, &json!("OnlyOnTheSocket")),
            "{path}"
        );
    }
    let again = exchange(&door, &secret);
    assert_eq!((again.status, &again.body["code"]), (401, &json!("WrongToken")));
    let stolen = Door { address, token: secret };
    assert_eq!(stolen.http("GET", "/leases", "").status, 401, "a secret is no token");
    end(service, Signal::SIGTERM);
}

#[test]
fn a_wrong_secret_is_refused_as_a_wrong_token_is() {
    let home = Home::with_type();
    let (service, address) = service(&home, &[]);
    let door = Door { address, token: String::new() };
    let right = secret(&home);
    let start = Instant::now();
    for _ in 0..2 {
        let answer = exchange(&door, &right.replace(&right[..1], "x"));
        assert_eq!((answer.status, &answer.body["code"]), (401, &json!("WrongToken")));
        assert!(answer.head.to_lowercase().contains("www-authenticate: bearer"), "{}", answer.head);
    }
    assert!(start.elapsed() >= Duration::from_millis(900), "a wrong secret is answered late");
    for wrong in ["", "{}", r#"{"secret": 1}"#, r#"{"secret": "a", "x": 1}"#, r#"{"sekret": "a"}"#]
    {
        assert_eq!(door.http_with("", "POST", "/page/session", wrong).status, 400, "{wrong}");
    }
    for wrong in [r#"{"temporary": 1}"#, r#"{"secret": "a"}"#] {
        assert_eq!(home.http("POST", "/page", wrong).status, 400, "{wrong}");
    }
    assert_eq!(exchange(&door, &right).status, 200, "tries do not use it up");
    end(service, Signal::SIGTERM);
    let denied = home.list("events", &["audit", "--action", "deny"]);
    assert_eq!(denied.len(), 2, "{denied:?}");
    assert_eq!((&denied[0]["reason"], denied[1].get("count")), (&json!("WrongToken"), None));
}

#[test]
fn a_page_of_another_origin_cannot_use_a_secret() {
    let home = Home::with_type();
    let (service, address) = service(&home, &[]);
    let door = Door { address, token: String::new() };
    let secret = secret(&home);
    let body = json!({"secret": secret}).to_string();
    for (headers, status) in [
        ("Origin: http://evil.example\r\n".to_owned(), 403),
        (format!("Origin: http://127.0.0.1:{}\r\n", address.port() ^ 1), 403),
        ("Origin: null\r\n".to_owned(), 403),
        ("Sec-Fetch-Site: same-site\r\n".to_owned(), 403),
        ("Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document\r\n".to_owned(), 403),
        ("Host: evil.example\r\n".to_owned(), 421),
    ] {
        let answer = door.http_with(&headers, "POST", "/page/session", &body);
        assert_eq!(answer.status, status, "{headers}");
    }
    assert_eq!(exchange(&door, &secret).status, 200, "nobody has used it");
    end(service, Signal::SIGTERM);
}

#[test]
fn the_files_of_the_page_are_for_everybody_and_allow_nothing_from_elsewhere() {
    let home = Home::with_type();
    let (service, address) = service(&home, &[]);
    let door = Door { address, token: String::new() };
    for (path, kind) in
        [("/", "text/html"), ("/page.js", "text/javascript"), ("/page.css", "text/css")]
    {
        let (head, body) = file(&door, "", path);
        assert!(head.starts_with("http/1.0 200 ") && !body.is_empty(), "{head}");
        for header in [
            &format!("content-type: {kind}; charset=utf-8"),
            "content-security-policy: default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
             img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
            "x-content-type-options: nosniff",
            "referrer-policy: no-referrer",
            "cross-origin-opener-policy: same-origin",
            "cross-origin-resource-policy: same-origin",
            "cache-control: no-cache",
        ] {
            assert!(head.contains(header), "{path}: {header}: {head}");
        }
        assert!(!head.contains("set-cookie"), "{head}");
    }
    let link =
        "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document\r\n";
    assert!(file(&door, link, "/").0.starts_with("http/1.0 200 "));
    let frame = link.replace("document", "iframe");
    for (headers, path) in [(&*frame, "/"), (link, "/page.js"), (link, "/leases")] {
        assert!(file(&door, headers, path).0.starts_with("http/1.0 403 "), "{path}");
    }
    let other = format!("{link}Host: evil.example\r\n");
    assert_eq!(door.http_with(&other, "GET", "/", "").status, 421);
    end(service, Signal::SIGTERM);
}

#[test]
fn sessions_and_secrets_end_with_the_service_and_are_written_nowhere() {
    let home = Home::with_type();
    let (first, address) = service(&home, &[]);
    let page = with_session(&home, Door { address, token: String::new() });
    let waiting = secret(&home);
    assert_eq!(page.http("POST", "/allocate", r#"{"service_type": "mine"}"#).status, 200);
    end(first, Signal::SIGTERM);
    let files = || {
        let files = fs::read_dir(home.state()).unwrap().map(|file| file.unwrap().path());
        files.filter(|path| path.is_file()).map(|path| fs::read(path).unwrap())
    };
    assert!(files().count() > 1);
    for secret in [&page.token, &waiting] {
        let hash = styxy::token::TokenHash::of(secret).to_string();
        for text in [secret.as_bytes(), hash.as_bytes()] {
            assert!(!files().any(|file| file.windows(text.len()).any(|part| part == text)));
        }
    }

    let (second, address) = service(&home, &[]);
    let page = Door { address, ..page };
    assert_eq!(page.http("GET", "/leases", "").status, 401);
    assert_eq!(exchange(&page, &waiting).status, 401);
    end(second, Signal::SIGTERM);
}

/// The refusal of a command that is asked for JSON.
#[track_caller]
fn refused(home: &Home, arguments: &[&str], variables: &[(&str, &str)]) -> Json {
    let mut command = home.styxy();
    command.args(arguments).arg("--json").envs(variables.iter().copied());
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    serde_json::from_slice(&output.stderr).unwrap()
}

#[test]
fn where_no_page_can_be_opened_the_command_says_what_to_do() {
    let home = Home::new();
    for (arguments, variables, why, what) in [
        (
            &["open", "--print"][..],
            &[][..],
            "no systemd user manager",
            "`styxy top` and `styxy list`",
        ),
        (&["open"], &[], "there is no display", "`styxy open --print`"),
        (&["http", "enable"], &[], "no systemd user manager", "styxy.service(8)"),
    ] {
        let refusal = refused(&home, arguments, variables);
        let (error, suggestion) = (&refusal["error"], &refusal["suggestions"][0]);
        assert!(error.as_str().unwrap().contains(why), "{refusal}");
        assert!(suggestion.as_str().is_some_and(|text| text.contains(what)), "{refusal}");
        assert!(!error.as_str().unwrap().contains(suggestion.as_str().unwrap()), "{refusal}");
    }
}

#[test]
fn a_link_that_was_used_says_so() {
    let home = Home::with_type();
    let (service, address) = service(&home, &[]);
    let door = Door { address, token: String::new() };
    let secret = secret(&home);
    assert_eq!(exchange(&door, &secret).status, 200);
    let again = exchange(&door, &secret).body;
    assert!(again["error"].as_str().unwrap().contains("the link was used"), "{again}");
    assert!(again["suggestions"][0].as_str().unwrap().contains("styxy open"), "{again}");
    end(service, Signal::SIGTERM);
}

#[test]
fn the_port_of_the_page_is_the_services_own() {
    let home = Home::with_type();
    let (service, address) = service(&home, &[]);
    let page = with_session(&home, Door { address, token: String::new() });
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    for (port, pid) in
        [(address.port(), json!(service.id())), (other.local_addr().unwrap().port(), Json::Null)]
    {
        let found = page.http("GET", &format!("/scan?start={port}&end={port}"), "").body;
        assert_eq!(found["ports_in_use"][0]["system_usage"]["process"]["pid"], pid, "{found}");
    }
    end(service, Signal::SIGTERM);
}

#[test]
fn that_the_socket_is_for_pages_only_is_known_after_kill_9() {
    let home = Home::with_type();
    let mark = home.path("runtime/styxy/tcp-for-pages");
    let (first, _) = service(&home, &[]);
    assert_eq!(home.http("POST", "/page", r#"{"temporary": false}"#).status, 200);
    assert!(!mark.exists());
    assert_eq!(home.http("POST", "/page", r#"{"temporary": true}"#).status, 200);
    assert!(mark.exists());
    end(first, Signal::SIGKILL);
    let (second, _) = service(&home, &[]);
    assert!(mark.exists());
    end(second, Signal::SIGTERM);
    assert!(mark.exists(), "it has not stopped the socket");
}

/// A stream of events, once it is there.
fn follow(door: &Door) -> BufReader<TcpStream> {
    let mut stream = BufReader::new(door.connect());
    let token = &door.token;
    write!(
        stream.get_mut(),
        "GET /events HTTP/1.0\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n"
    )
    .unwrap();
    let mut line = String::new();
    while !line.starts_with("event: ready") {
        line.clear();
        assert_ne!(stream.read_line(&mut line).unwrap(), 0, "it has ended");
    }
    stream
}

#[test]
fn a_page_follows_the_events_with_its_session() {
    let home = Home::with_type();
    let (service, door) = Door::open(&home);
    let page = with_session(&home, Door { token: String::new(), ..door });
    // The user's token is good beside it.
    assert_eq!(door.http("GET", "/leases", "").status, 200);
    let mut events = follow(&page);
    let granted = home.http("POST", "/allocate", r#"{"service_type": "mine"}"#);
    assert_eq!(granted.status, 200);
    let told = events.by_ref().lines().map(Result::unwrap).find(|line| line.contains("lease_id"));
    let told: Json = serde_json::from_str(told.unwrap().strip_prefix("data: ").unwrap()).unwrap();
    assert_eq!(told["lease_id"], granted.body["lock_id"]);
    drop(events);
    end(service, Signal::SIGTERM);
}

#[test]
fn a_service_that_cannot_stop_its_socket_ends_without_waiting_for_pages() {
    let home = Home::with_type();
    let (service, address) = service(&home, &[]);
    assert_eq!(home.http("POST", "/page", r#"{"temporary": true}"#).status, 200);
    drop(follow(&with_session(&home, Door { address, token: String::new() })));
    let start = Instant::now();
    end(service, Signal::SIGTERM);
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
}
