//! A client on the bus that hears every signal, for what runs inside the machine.

use std::{
    collections::HashMap,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use futures_util::StreamExt;
use serde_json::{Map, Value as Json};
use zbus::{Connection, MatchRule, MessageStream, Variant};

use crate::{inside, machine::eventually};

/// Generous; nothing here takes more than a few seconds.
pub const LIMIT: Duration = Duration::from_secs(60);

type Dict<'a> = HashMap<String, Variant<'a>>;

/// The options of a call, or a filter.
pub type Options<'a> = &'a [(&'a str, Variant<'a>)];

/// What was told of a lease.
#[derive(Clone, Debug)]
pub struct Signal {
    /// `LeaseGranted`, `LeaseReleased`, `LeaseOrphaned`.
    pub name: String,
    pub lease_id: String,
    /// Of `LeaseReleased`.
    pub reason: Option<String>,
    /// When it came.
    pub at: Instant,
}

/// A connection, and the signals that came so far.
pub struct Client {
    pub bus: Connection,
    signals: Arc<Mutex<Vec<Signal>>>,
}

impl Client {
    /// A client that hears everything from now on.
    pub async fn new() -> Self {
        let bus = inside::bus().await;
        let signals = Arc::<Mutex<Vec<_>>>::default();
        let mut stream = listen(&bus).await;
        let heard = Arc::clone(&signals);
        tokio::spawn(async move {
            while let Some(message) = stream.next().await {
                heard.lock().unwrap().extend(read(&message.unwrap()));
            }
        });
        Self { bus, signals }
    }

    /// A client that hears nothing.
    pub async fn deaf() -> Self {
        Self { bus: inside::bus().await, signals: Arc::default() }
    }

    /// Calls a method that takes a word and options.
    pub async fn call(
        &self,
        method: &str,
        word: &str,
        options: Options<'_>,
    ) -> Result<zbus::Message, String> {
        inside::call(&self.bus, method, &(word, dict(options))).await
    }

    /// Leases a port of the type `dev`.
    pub async fn try_allocate(&self, options: Options<'_>) -> Result<Json, String> {
        let reply = self.call("Allocate", "dev", options).await?;
        Ok(grant(&reply))
    }

    /// Leases a port that is to be had.
    pub async fn allocate(&self, options: Options<'_>) -> Lease {
        let lease = self.try_allocate(options).await.unwrap();
        Lease {
            id: lease["lease_id"].as_str().unwrap().to_owned(),
            port: lease["port"].as_u64().unwrap().try_into().unwrap(),
        }
    }

    /// The leases that the filter means.
    pub async fn list(&self, filter: Options<'_>) -> Vec<Json> {
        self.dicts("List", &(dict(filter),)).await
    }

    /// Calls a method that answers dictionaries.
    pub async fn dicts<B>(&self, method: &str, body: &B) -> Vec<Json>
    where
        B: serde::Serialize + zbus::wire::DynamicType,
    {
        dicts(&self.bus, method, body).await
    }

    /// How a lease is: `reserved`, `listening`, `orphaned`; `None` when it has ended.
    pub async fn state(&self, lease: &Lease) -> Option<String> {
        let found = self.list(&[("lease_id", lease.id.as_str().into())]).await;
        Some(found.first()?["state"].as_str()?.to_owned())
    }

    /// Waits for a state.
    pub async fn until_state(&self, lease: &Lease, wanted: Option<&str>) {
        let start = Instant::now();
        loop {
            let state = self.state(lease).await;
            if state.as_deref() == wanted {
                return;
            }
            assert!(start.elapsed() < LIMIT, "{lease:?} is {state:?}, not {wanted:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Asserts that a lease lives on for a while in which it would have ended.
    pub async fn lives_on(&self, lease: &Lease) {
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert!(self.state(lease).await.is_some(), "{lease:?} has ended: {:?}", self.told(lease));
    }

    /// The reason with which a lease ended, as soon as that is told.
    pub async fn end_of(&self, lease: &Lease) -> String {
        let told = self.signal_of(lease, "LeaseReleased").await;
        assert_eq!(self.state(lease).await, None, "{lease:?}");
        told.reason.unwrap()
    }

    /// The signal of that name about a lease, as soon as it comes.
    pub async fn signal_of(&self, lease: &Lease, name: &str) -> Signal {
        let start = Instant::now();
        loop {
            if let Some(signal) = self.told(lease).into_iter().find(|signal| signal.name == name) {
                return signal;
            }
            assert!(start.elapsed() < LIMIT, "no {name} of {lease:?}: {:?}", self.told(lease));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// What was told of a lease so far.
    pub fn told(&self, lease: &Lease) -> Vec<Signal> {
        let signals = self.signals.lock().unwrap();
        signals.iter().filter(|signal| signal.lease_id == lease.id).cloned().collect()
    }
}

/// A lease, as far as tests look at it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    pub id: String,
    pub port: u16,
}

/// The signals of the service, whichever process it is.
pub async fn listen(bus: &Connection) -> MessageStream {
    let rule = MatchRule::builder()
        .msg_type(zbus::message::Type::Signal)
        .interface("org.styxy.Styxy1")
        .build()
        .unwrap();
    MessageStream::for_match_rule(rule, bus, None).await.unwrap()
}

/// What a signal says, if it is about a lease.
pub fn read(message: &zbus::Message) -> Option<Signal> {
    let at = Instant::now();
    let name = message.header().member()?.to_string();
    let body = message.body();
    let (lease_id, reason) = match name.as_str() {
        "LeaseReleased" => {
            let (_, id, reason, _): (u16, String, String, Dict<'_>) = body.deserialize().unwrap();
            (id, Some(reason))
        }
        "LeaseGranted" | "LeaseOrphaned" => {
            let (_, id, _): (u16, String, Dict<'_>) = body.deserialize().unwrap();
            (id, None)
        }
        _ => return None,
    };
    Some(Signal { name, lease_id, reason, at })
}

/// Calls a method that answers dictionaries.
pub async fn dicts<B>(bus: &Connection, method: &str, body: &B) -> Vec<Json>
where
    B: serde::Serialize + zbus::wire::DynamicType,
{
    let reply = inside::call(bus, method, body).await.unwrap();
    let body = reply.body();
    let dicts: Vec<Dict<'_>> = body.deserialize().unwrap();
    dicts.iter().map(object).collect()
}

/// A dictionary for a call.
pub fn dict(options: Options<'_>) -> HashMap<&str, Variant<'_>> {
    options.iter().map(|(key, value)| (*key, value.try_clone().unwrap())).collect()
}

/// An answer that is a dictionary.
pub fn answer(reply: &zbus::Message) -> Json {
    object(&reply.body().deserialize().unwrap())
}

/// An answer that is a grant: the dictionary of it.
pub fn grant(reply: &zbus::Message) -> Json {
    let body = reply.body();
    let (_, _, lease): (u16, String, Dict<'_>) = body.deserialize().unwrap();
    object(&lease)
}

fn object(dict: &Dict<'_>) -> Json {
    let fields = dict.iter().map(|(key, value)| (key.clone(), json(value)));
    Json::Object(fields.collect::<Map<_, _>>())
}

fn json(value: &Variant<'_>) -> Json {
    match value {
        Variant::Bool(value) => (*value).into(),
        Variant::U16(value) => (*value).into(),
        Variant::U32(value) => (*value).into(),
        Variant::U64(value) => (*value).into(),
        Variant::Str(value) => value.as_str().into(),
        Variant::Array(values) => values.iter().map(json).collect(),
        other => other.to_string().into(),
    }
}

/// A process that does nothing until it is ended.
pub struct Sleeper(Child);

impl Sleeper {
    pub fn new() -> Self {
        // Without the output, which would stay open after a test that has failed.
        let mut sleep = Command::new("sleep");
        sleep.arg("1000").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Self(sleep.spawn().unwrap())
    }

    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Ends it; it is no zombie either.
    pub fn end(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// Runs `systemctl --user`.
pub fn systemctl(arguments: &[&str]) {
    let status = Command::new("systemctl").arg("--user").args(arguments).status().unwrap();
    assert!(status.success(), "{arguments:?}");
}

/// The process of the service, which runs.
pub fn service() -> u32 {
    let arguments = ["--user", "show", "--value", "-p", "MainPID", "styxy.service"];
    let output = Command::new("systemctl").args(arguments).output().unwrap();
    let pid = String::from_utf8(output.stdout).unwrap().trim().parse().unwrap();
    assert_ne!(pid, 0, "the service does not run");
    pid
}

/// Kills the service, and waits until systemd has started it again.
pub fn kill_service() {
    let killed = service();
    let pid = nix::unistd::Pid::from_raw(killed.try_into().unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    // The old one may still be shown as active.
    let is_back = || {
        let arguments = ["--user", "show", "--value", "-p", "ActiveState,MainPID", "styxy.service"];
        let output = Command::new("systemctl").args(arguments).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let has = |wanted: &str| text.lines().any(|line| line == wanted);
        has("active") && !has(&killed.to_string())
    };
    eventually(LIMIT, "the service is back", is_back);
}
