//! Tests of the doors in this process: the object on the bus over a connection without a bus, HTTP and the port server
//! on sockets. What needs a bus, units or other processes is tested in machines.

use std::{
    collections::HashMap, os::unix::net::UnixStream as Pair, path::Path, sync::Arc, time::Duration,
};

use futures_util::StreamExt;
use serde_json::{Value as Json, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    sync::watch,
};
use zbus::{Connection, MessageStream, OwnedVariant, Variant, message::Type};

use crate::{
    broker::{Broker, Places},
    dbus::{ERROR_PREFIX, NAME, PATH, serve_peer},
    http, portserver,
    socket::Backlog,
};

type Fields = HashMap<String, OwnedVariant>;

/// A service in this process, with a client of each door.
struct Service {
    folder: TempDir,
    broker: Arc<Broker>,
    bus: Connection,
    /// Dropped with the service: the doors close.
    _stop: watch::Sender<bool>,
    _object: Connection,
}

impl Service {
    async fn start() -> Self {
        Self::with("{}").await
    }

    /// With that configuration.
    async fn with(json: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (state, config) = (folder.path().join("state/this"), folder.path().join("config"));
        std::fs::create_dir_all(&state).unwrap();
        std::fs::create_dir(&config).unwrap();
        std::fs::write(config.join("config.json"), json).unwrap();
        let places = Places { state, config: vec![config], ..Places::default() };
        let (broker, events) = Broker::start(places).unwrap();
        let run = Arc::clone(&broker);
        tokio::spawn(async move { run.run(events).await });

        let (ours, theirs) = Pair::pair().unwrap();
        let client = zbus::connection::Builder::unix_stream(theirs).p2p().build();
        let (object, bus) = tokio::join!(serve_peer(&broker, ours), client);

        let listener = UnixListener::bind(folder.path().join("socket")).unwrap();
        let (stop, stopping) = watch::channel(false);
        let serve = http::serve(listener, Backlog::Ours, Arc::clone(&broker), stopping.clone());
        tokio::spawn(serve);
        let listener = UnixListener::bind(folder.path().join("portserver")).unwrap();
        tokio::spawn(portserver::serve(listener, Arc::clone(&broker), stopping));
        Self { folder, broker, bus: bus.unwrap(), _stop: stop, _object: object.unwrap() }
    }

    /// Calls a method of the object.
    async fn call<B>(&self, method: &str, body: &B) -> zbus::Result<zbus::Message>
    where
        B: serde::Serialize + zbus::wire::DynamicType,
    {
        self.bus.call_method(None::<&str>, PATH, Some(NAME), method, body).await
    }

    /// The name of the error that a call is answered with, without its prefix.
    async fn refusal<B>(&self, method: &str, body: &B) -> String
    where
        B: serde::Serialize + zbus::wire::DynamicType,
    {
        match self.call(method, body).await.unwrap_err() {
            zbus::Error::MethodError(name, ..) => {
                name.strip_prefix(ERROR_PREFIX).unwrap_or(&name).to_owned()
            }
            other => panic!("{method}: {other}"),
        }
    }

    /// Waits until that many requests wait for a port.
    async fn until_waiting(&self, count: usize) {
        let waiting = async {
            while self.broker.waiting_count() != count {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), waiting).await.expect("they never were");
    }

    /// What the port server answers.
    async fn ask(&self, request: &[u8]) -> String {
        let mut stream = UnixStream::connect(self.folder.path().join("portserver")).await.unwrap();
        stream.write_all(request).await.unwrap();
        let mut answer = String::new();
        // What is left of a request that is too long resets the connection.
        let _ = stream.read_to_string(&mut answer).await;
        answer
    }

    async fn http(&self, method: &str, path: &str, body: &str) -> (u16, Json) {
        request(&self.folder.path().join("socket"), method, path, body).await
    }
}

async fn request(socket: &Path, method: &str, path: &str, body: &str) -> (u16, Json) {
    let mut stream = UnixStream::connect(socket).await.unwrap();
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
    );
    stream.write_all((head + body).as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_str(body).unwrap())
}

fn options<const N: usize>(
    options: [(&'static str, Variant<'static>); N],
) -> HashMap<&'static str, Variant<'static>> {
    HashMap::from(options)
}

/// The fields as JSON, as far as these tests compare them.
fn json(fields: &Fields) -> Json {
    let values = fields.iter().map(|(key, value)| {
        let value = match &**value {
            Variant::Str(text) => json!(text.as_str()),
            Variant::Bool(value) => json!(value),
            Variant::U16(number) => json!(number),
            Variant::U32(number) => json!(number),
            Variant::U64(number) => json!(number),
            other => panic!("{key}: {other:?}"),
        };
        (key.clone(), value)
    });
    Json::Object(values.collect())
}

#[tokio::test]
async fn what_one_door_leases_the_other_one_lists_and_releases() {
    let service = Service::start().await;
    let web = options([("service_name", "web".into())]);
    let reply = service.call("Allocate", &("dev", web)).await.unwrap();
    let (port, lease_id, _): (u16, String, Fields) = reply.body().deserialize().unwrap();
    let (status, api) = service.http("POST", "/allocate", r#"{"service_type": "api"}"#).await;
    assert_eq!(status, 200, "{api}");

    // Both doors have the same words for them.
    let by_port = |lease: &Json| lease["port"].as_u64();
    let (_, listed) = service.http("GET", "/leases", "").await;
    let mut over_http = listed["leases"].as_array().unwrap().clone();
    let reply = service.call("List", &(options([]),)).await.unwrap();
    let on_bus: Vec<Fields> = reply.body().deserialize().unwrap();
    let mut on_bus: Vec<_> = on_bus.iter().map(json).collect();
    over_http.sort_by_key(by_port);
    on_bus.sort_by_key(by_port);
    assert_eq!(on_bus, over_http);
    assert_eq!(over_http.len(), 2);
    let web = over_http.iter().find(|lease| lease["lease_id"] == lease_id).unwrap();
    assert_eq!((&web["port"], &web["service_name"]), (&json!(port), &json!("web")));

    let path = format!("/allocate/{lease_id}");
    assert_eq!(service.http("DELETE", &path, "").await.0, 200);
    let api_id = api["lease_id"].as_str().unwrap();
    let reply = service.call("Release", &(api_id,)).await.unwrap();
    assert_eq!(json!(reply.body().deserialize::<u16>().unwrap()), api["port"]);
    assert_eq!(service.http("GET", "/leases", "").await.1["leases"], json!([]));
}

#[tokio::test]
async fn both_doors_refuse_alike() {
    let service = Service::start().await;
    let unknown = "00000000-0000-4000-8000-000000000000";
    let wrong = options([("no_such_option", true.into())]);
    assert_eq!(service.refusal("Allocate", &("dev", wrong)).await, "InvalidArgument");
    let body = r#"{"service_type": "dev", "no_such_option": true}"#;
    let (status, refused) = service.http("POST", "/allocate", body).await;
    assert_eq!((status, &refused["code"]), (400, &json!("InvalidArgument")), "{refused}");

    assert_eq!(service.refusal("Release", &(unknown,)).await, "NoSuchLease");
    let (status, refused) = service.http("DELETE", &format!("/allocate/{unknown}"), "").await;
    assert_eq!((status, &refused["code"]), (404, &json!("NoSuchLease")), "{refused}");

    assert_eq!(service.refusal("Check", &(0_u16, "")).await, "InvalidArgument");
    assert_eq!(service.http("GET", "/check/0", "").await.0, 400);
    assert_eq!(service.http("GET", "/leases", "").await.1["leases"], json!([]));
}

#[tokio::test]
async fn no_list_of_remembered_ports_is_cut_without_being_asked_to() {
    const COUNT: u16 = 1_001;
    let service = Service::start().await;
    let mut names: Vec<_> = (0..COUNT).collect();
    while !names.is_empty() {
        // Together, because each waits until it is on the disk; and no more than the type has ports.
        let some = names.split_off(names.len().saturating_sub(50)).into_iter().map(|name| {
            let body = format!(
                r#"{{"service_type": "dev", "service_name": "s{name}", "project_path": "/shop"}}"#
            );
            let service = &service;
            async move { service.http("POST", "/allocate", &body).await.0 }
        });
        let granted = futures_util::future::join_all(some).await;
        assert!(granted.iter().all(|status| *status == 200), "{granted:?}");
        service.http("DELETE", "/leases?service_type=dev", "").await;
    }
    let (_, all) = service.http("GET", "/memory", "").await;
    let all = all["remembered"].as_array().unwrap();
    let seq = |known: &Json| known["seq"].as_u64().unwrap();
    assert_eq!(all.len(), usize::from(COUNT));
    assert!(all.is_sorted_by(|newer, older| seq(newer) > seq(older)), "{all:?}");
    let reply = service.call("ListRemembered", &(options([]),)).await.unwrap();
    let on_bus: Vec<Fields> = reply.body().deserialize().unwrap();
    assert_eq!(on_bus.iter().map(json).collect::<Vec<_>>(), *all);
    // In parts it is the same.
    let mut parts = Vec::new();
    loop {
        let last = parts.last().map(|known| format!("&before={}", seq(known)));
        let path = format!("/memory?limit=400{}", last.unwrap_or_default());
        let (_, part) = service.http("GET", &path, "").await;
        let part = part["remembered"].as_array().unwrap().clone();
        if part.is_empty() {
            break;
        }
        assert!(part.len() <= 400);
        parts.extend(part);
    }
    assert_eq!(parts, *all);
    let limit = options([("limit", 1_u32.into()), ("before", seq(&all[6]).into())]);
    let reply = service.call("ListRemembered", &(limit,)).await.unwrap();
    let on_bus: Vec<Fields> = reply.body().deserialize().unwrap();
    assert_eq!(on_bus.iter().map(json).collect::<Vec<_>>(), all[7..8]);
}

#[tokio::test]
async fn a_path_a_method_or_options_in_the_wrong_place_are_refused_in_json() {
    let service = Service::start().await;
    for (method, path, body, status) in [
        ("GET", "/no-such-path", "", 404),
        ("PUT", "/allocate", "{}", 405),
        ("POST", "/allocate?service_type=dev", "{}", 400),
        ("GET", "/leases", r#"{"service_type": "dev"}"#, 400),
        ("POST", "/allocate", "no JSON", 400),
        ("POST", "/allocate", r#"{"service_type": "dev", "service_type": "api"}"#, 400),
    ] {
        let (answered, refused) = service.http(method, path, body).await;
        assert_eq!(answered, status, "{method} {path}: {refused}");
        assert!(refused["code"].is_string() && refused["error"].is_string(), "{refused}");
    }
}

#[tokio::test]
async fn a_grant_and_a_release_are_signals() {
    let service = Service::start().await;
    let mut messages = MessageStream::from(service.bus.clone());
    let (_, granted) = service.http("POST", "/allocate", r#"{"service_type": "dev"}"#).await;
    let lease_id = granted["lease_id"].as_str().unwrap().to_owned();
    service.http("DELETE", &format!("/allocate/{lease_id}"), "").await;
    let mut next = async |expected| {
        let signal = loop {
            let message = messages.next().await.unwrap().unwrap();
            if message.message_type() == Type::Signal {
                break message;
            }
        };
        assert_eq!(signal.header().member().unwrap().as_str(), expected);
        signal
    };
    let expected = (granted["port"].clone(), lease_id);
    let signal = next("LeaseGranted").await;
    let (port, id, _): (u16, String, Fields) = signal.body().deserialize().unwrap();
    assert_eq!((json!(port), id), expected);
    let signal = next("LeaseReleased").await;
    let (port, id, reason, _): (u16, String, String, Fields) = signal.body().deserialize().unwrap();
    assert_eq!((json!(port), id), expected);
    assert_eq!(reason, "released");
}

#[tokio::test]
async fn the_port_server_leases_a_port_to_the_process_that_asks() {
    let service = Service::start().await;
    let own = std::process::id();
    // Neither another user's process nor one that is not there is the owner.
    let mut ports = Vec::new();
    for request in [format!("{own}\n"), format!(" {own} \r\n"), "1\n".into(), "4194305\n".into()] {
        let answer = service.ask(request.as_bytes()).await;
        let port: u16 = answer.strip_suffix('\n').unwrap().parse().unwrap();
        assert!(!ports.contains(&port), "{port} of {ports:?}");
        ports.push(port);
    }
    let (_, listed) = service.http("GET", "/leases", "").await;
    let leases = listed["leases"].as_array().unwrap();
    assert_eq!(leases.len(), ports.len());
    for lease in leases {
        assert!(ports.iter().any(|port| lease["port"] == *port), "{lease}");
        for (key, value) in [
            ("service_type", json!("test")),
            ("protocol", json!("both")),
            ("hold", json!("none")),
            ("owner", json!("process")),
            ("pid", json!(own)),
            ("claim", Json::Null),
        ] {
            assert_eq!(lease[key], value, "{key}: {lease}");
        }
    }
}

#[tokio::test]
async fn the_port_server_answers_nothing_to_what_is_no_pid() {
    let service = Service::start().await;
    let long = format!("{}{}\n", " ".repeat(60), std::process::id() + 100_000);
    let requests: [&[u8]; 7] =
        [b"\n", b"0\n", b"-1\n", b"web\n", b"4294967296\n", b"\xff\n", long.as_bytes()];
    for request in requests {
        assert_eq!(service.ask(request).await, "", "{}", request.escape_ascii());
    }
    // Nor to a client that is silent, after a while.
    assert_eq!(service.ask(b"1").await, "");
    assert_eq!(service.http("GET", "/leases", "").await.1["leases"], json!([]));
}

#[tokio::test]
async fn a_port_whose_number_cannot_be_delivered_is_taken_back() {
    let service = with_one_port(60_000).await;
    let request = format!("{}\n", std::process::id());
    let first = service.ask(request.as_bytes()).await;
    let (_, leases) = service.http("GET", "/leases", "").await;
    let path = format!("/allocate/{}", leases["leases"][0]["lease_id"].as_str().unwrap());
    let mut gone = UnixStream::connect(service.folder.path().join("portserver")).await.unwrap();
    gone.write_all(request.as_bytes()).await.unwrap();
    service.until_waiting(1).await;
    drop(gone);
    let release = async {
        service.until_waiting(2).await;
        service.http("DELETE", &path, "").await;
    };
    // It gets the port after the one that is gone, if not before.
    let both = async { tokio::join!(service.ask(request.as_bytes()), release) };
    let waited = tokio::time::timeout(Duration::from_secs(30), both).await;
    assert_eq!(waited.expect("nobody has taken it back").0, first);
}

/// A service whose types `few` and `test` have one port each, for which a request may wait that long.
async fn with_one_port(wait_ms: u32) -> Service {
    let sockets = [0; 2].map(|_| std::net::TcpListener::bind("[::]:0").unwrap());
    let ports = sockets.each_ref().map(|socket| socket.local_addr().unwrap().port());
    drop(sockets);
    let [few, test] =
        ports.map(|port| json!({"port_range": [port, port], "wait_ms": wait_ms, "hold": "none"}));
    Service::with(&json!({"service_types": {"few": few, "test": test}}).to_string()).await
}

const FEW: &str = r#"{"service_type": "few"}"#;

#[tokio::test]
async fn a_request_that_finds_no_port_waits_until_a_lease_ends() {
    let service = with_one_port(60_000).await;
    let (_, first) = service.http("POST", "/allocate", FEW).await;
    let path = format!("/allocate/{}", first["lock_id"].as_str().unwrap());
    let release = async {
        service.until_waiting(2).await;
        // What has a range of its own does not wait for it.
        assert_eq!(service.http("POST", "/allocate", r#"{"service_type": "api"}"#).await.0, 200);
        assert_eq!(service.http("DELETE", &path, "").await.0, 200);
        service.until_waiting(1).await;
        service.broker.end_waiting();
    };
    let ask = || service.http("POST", "/allocate", FEW);
    let all = async { tokio::join!(ask(), ask(), release) };
    let all = tokio::time::timeout(Duration::from_secs(30), all).await;
    let (one, other, ()) = all.expect("one waits still");
    let mut answers = [one, other];
    answers.sort_by_key(|(status, _)| *status);
    let [(granted, second), (refused, error)] = answers;
    assert_eq!((granted, &second["port"]), (200, &first["port"]), "{second}");
    assert_eq!((refused, &error["code"]), (503, &json!("PoolExhausted")), "the service ends");
    // From then on nobody waits.
    assert_eq!(service.http("POST", "/allocate", FEW).await.0, 503);
}

#[tokio::test]
async fn a_call_that_waits_keeps_no_other_call_of_its_client_waiting() {
    let service = with_one_port(60_000).await;
    let ask = async || {
        let reply = service.call("Allocate", &("few", options([]))).await.unwrap();
        let (port, lease_id, _): (u16, String, Fields) = reply.body().deserialize().unwrap();
        (port, lease_id)
    };
    let (port, lease_id) = ask().await;
    let release = async {
        service.until_waiting(1).await;
        service.call("Release", &(lease_id.as_str(),)).await.unwrap();
    };
    let both = async { tokio::join!(ask(), release) };
    let waited = tokio::time::timeout(Duration::from_secs(30), both).await;
    assert_eq!(waited.expect("the release waits, too").0.0, port);
}

#[tokio::test]
async fn a_request_is_refused_when_its_time_is_over() {
    let service = with_one_port(1).await;
    assert_eq!(service.http("POST", "/allocate", FEW).await.0, 200);
    assert_eq!(service.http("POST", "/allocate", FEW).await.0, 503);
    service.until_waiting(0).await;
}

#[tokio::test]
async fn what_names_its_port_or_only_looks_never_waits() {
    let service = with_one_port(60_000).await;
    let (_, first) = service.http("POST", "/allocate", FEW).await;
    for (options, status) in [
        (json!({"service_type": "few", "dry_run": true}), 503),
        (json!({"service_type": "few", "port": first["port"], "strict": true}), 409),
    ] {
        let options = options.to_string();
        let answer = service.http("POST", "/allocate", &options);
        let answer = tokio::time::timeout(Duration::from_secs(30), answer).await;
        assert_eq!(answer.expect("it waits").0, status, "{options}");
    }
}
