//! The clients: one of the bus, one of the socket. They call styxy and the floors alike.

use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    time::{Duration, Instant},
};

use serde_json::Value as Json;
use zbus::{Connection, Variant};

use crate::service::TYPE;

/// The name of the interface, and of styxy.
pub const STYXY: &str = "org.styxy.Styxy1";
/// The object.
pub const PATH: &str = "/org/styxy/Styxy1";

/// So many pairs are more events than the audit sends without a pause.
const WARM_UP: usize = 3_000;

/// Options of a call.
pub type Options<'a> = HashMap<&'a str, Variant<'a>>;

/// A client on the bus, of one service.
pub struct Caller {
    bus: Connection,
    name: &'static str,
}

impl Caller {
    /// A connection of its own.
    pub async fn new(name: &'static str) -> Self {
        let builder = zbus::connection::Builder::session();
        let bus = builder.method_timeout(Duration::from_secs(120)).build().await.unwrap();
        Self { bus, name }
    }

    /// A number of clients.
    pub async fn many(name: &'static str, count: usize) -> Vec<Self> {
        let mut callers = Vec::new();
        for _ in 0..count {
            callers.push(Self::new(name).await);
        }
        callers
    }

    async fn call<B>(&self, method: &str, body: &B) -> zbus::Message
    where
        B: serde::Serialize + zbus::wire::DynamicType,
    {
        let (name, interface) = (Some(self.name), Some(STYXY));
        let reply = self.bus.call_method(name, PATH, interface, method, body).await;
        reply.unwrap_or_else(|error| panic!("{method}: {error}"))
    }

    /// Allocates a port, and reads all of the answer.
    pub async fn allocate_with(&self, options: Options<'_>) -> (u16, String) {
        let reply = self.call("Allocate", &(TYPE, options)).await;
        let body = reply.body();
        let (port, lease_id, _): (u16, String, Options<'_>) = body.deserialize().unwrap();
        (port, lease_id)
    }

    /// Allocates a port as anybody would who wants just one.
    pub async fn allocate(&self) -> (u16, String) {
        self.allocate_with(HashMap::new()).await
    }

    /// Gives a port back.
    pub async fn release(&self, lease_id: &str) {
        let reply = self.call("Release", &(lease_id,)).await;
        reply.body().deserialize::<u16>().unwrap();
    }

    /// Allocates and releases so often; how long each of both took.
    pub async fn pairs(&self, count: usize, options: &Options<'_>) -> (Vec<f64>, Vec<f64>) {
        let (mut grants, mut releases) = (Vec::new(), Vec::new());
        for _ in 0..count {
            let start = Instant::now();
            let (_, lease_id) = self.allocate_with(options.clone()).await;
            grants.push(start.elapsed().as_secs_f64() * 1e6);
            let start = Instant::now();
            self.release(&lease_id).await;
            releases.push(start.elapsed().as_secs_f64() * 1e6);
        }
        (grants, releases)
    }

    /// Asks so often for a claim that is there; how long each took.
    pub async fn claims(&self, count: usize, options: &Options<'_>) -> Vec<f64> {
        let (_, claim) = self.allocate_with(options.clone()).await;
        let mut times = Vec::new();
        for _ in 0..count {
            let start = Instant::now();
            let (_, lease_id) = self.allocate_with(options.clone()).await;
            times.push(start.elapsed().as_secs_f64() * 1e6);
            assert_eq!(lease_id, claim);
        }
        self.release(&claim).await;
        times
    }

    /// Until caches are warm and the audit sends at its steady pace: it begins with a rush of what it
    /// may send in four seconds.
    pub async fn warm_up(&self) {
        self.pairs(WARM_UP, &Options::new()).await;
    }

    /// How many events are not known to be in the journal yet, and how many changes there were.
    pub async fn audit(&self) -> (u64, u64) {
        let reply = self.call("Status", &()).await;
        let body = reply.body();
        let status: Options<'_> = body.deserialize().unwrap();
        let number = |key| match status.get(key) {
            Some(Variant::U64(number)) => *number,
            other => panic!("{key}: {other:?}"),
        };
        (number("audit_pending"), number("seq"))
    }

    /// Waits until every event is known to be in the journal; how many there were.
    pub async fn settle(&self) -> u64 {
        let start = Instant::now();
        loop {
            let (pending, made) = self.audit().await;
            if pending == 0 {
                return made;
            }
            assert!(start.elapsed() < Duration::from_secs(300), "{pending} events are missing");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Waits until somebody has the name.
    pub async fn appears(&self) {
        self.owned(true).await;
    }

    /// Waits until nobody has the name.
    pub async fn gone(&self) {
        self.owned(false).await;
    }

    async fn owned(&self, wanted: bool) {
        let bus = Some("org.freedesktop.DBus");
        loop {
            let ask = self.bus.call_method(bus, "/", bus, "NameHasOwner", &self.name);
            if ask.await.unwrap().body().deserialize::<bool>().unwrap() == wanted {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Has the bus look for services that it can start.
    pub async fn rescan(&self) {
        let bus = Some("org.freedesktop.DBus");
        self.bus.call_method(bus, "/", bus, "ReloadConfig", &()).await.unwrap();
    }
}

/// A connection that is kept alive, on a Unix socket.
pub struct Http(BufReader<UnixStream>);

impl Http {
    /// Connects.
    pub fn new(socket: &Path) -> Self {
        let stream = UnixStream::connect(socket);
        Self(BufReader::new(stream.unwrap_or_else(|error| panic!("{}: {error}", socket.display()))))
    }

    /// Sends a request and reads its answer.
    pub fn ask(&mut self, method: &str, path: &str, body: &str) -> Json {
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
             Content-Length: {length}\r\n\r\n{body}"
        );
        self.0.get_mut().write_all(request.as_bytes()).unwrap();
        let (mut length, mut line) = (0, String::new());
        let mut is_good = None;
        loop {
            line.clear();
            assert!(self.0.read_line(&mut line).unwrap() > 0, "the connection was closed");
            is_good.get_or_insert_with(|| line.contains(" 200 "));
            let head = line.trim_end().to_ascii_lowercase();
            if let Some(value) = head.strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
            if head.is_empty() {
                break;
            }
        }
        let mut answer = vec![0; length];
        self.0.read_exact(&mut answer).unwrap();
        assert_eq!(is_good, Some(true), "{}", String::from_utf8_lossy(&answer));
        serde_json::from_slice(&answer).unwrap()
    }

    /// Allocates a port; the id of its lease.
    pub fn allocate(&mut self) -> String {
        let answer = self.ask("POST", "/allocate", r#"{"service_type": "bench"}"#);
        answer["lock_id"].as_str().unwrap().to_owned()
    }

    /// Gives it back.
    pub fn release(&mut self, lease_id: &str) {
        self.ask("DELETE", &format!("/allocate/{lease_id}"), "");
    }

    /// As on the bus.
    pub fn warm_up(&mut self) {
        self.pairs(WARM_UP);
    }

    /// Allocates and releases so often; how long each grant took.
    pub fn pairs(&mut self, count: usize) -> Vec<f64> {
        let mut grants = Vec::new();
        for _ in 0..count {
            let start = Instant::now();
            let lease_id = self.allocate();
            grants.push(start.elapsed().as_secs_f64() * 1e6);
            self.release(&lease_id);
        }
        grants
    }
}
