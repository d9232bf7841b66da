//! Time limits, and the time that a lease may go unused.

use std::{
    io::{BufRead, BufReader},
    net::{Ipv4Addr, TcpListener},
    process::Child,
    time::{Duration, Instant},
};

use serde_json::{Value as Json, json};
use zbus::Variant;

use super::{
    client::{Client, LIMIT, Lease, Sleeper, kill_service},
    processes::by_pid,
};
use crate::{
    inside,
    machine::{Machine, eventually},
};

/// Seconds that a lease without an owner may go without a listener.
const UNUSED: u64 = 3;

pub fn ends(machine: &Machine) {
    machine.configure(&format!(r#"{{"unused_seconds": {UNUSED}}}"#));
    let result = machine.inside("owners deadlines");
    for (reason, lease_ids) in result.as_object().unwrap() {
        for lease_id in lease_ids.as_array().unwrap() {
            let mut told = super::told(machine, lease_id);
            told.retain(|(action, _)| action != "renew");
            let last = told.pop().unwrap();
            assert_eq!((&*last.0, &*last.1), ("expire", &**reason), "{lease_id}");
        }
    }
}

/// Returns the leases by the reason with which they have ended.
pub async fn inside() -> Json {
    let client = Client::new().await;
    let (limited, renewed, used, unused) =
        tokio::join!(limited(&client), renewed(&client), used(&client), unused(&client));
    let killed = killed(&client).await;
    assert_eq!(client.list(&[]).await, Vec::<Json>::new());
    json!({
        "ttl": [limited.id, renewed.id, killed.id],
        "listener_gone": [used.id],
        "unused": [unused.id],
    })
}

/// A time limit comes whether or not the owner lives; the owner's end comes before it.
async fn limited(client: &Client) -> Lease {
    let (owner, other) = (Sleeper::new(), Sleeper::new());
    let start = Instant::now();
    let lease = client.allocate(&[ttl(2), by_pid(&owner)]).await;
    let of_other = client.allocate(&[ttl(1_000), by_pid(&other)]).await;
    let long = client.allocate(&[ttl(31_536_000)]).await;
    assert_eq!(client.end_of(&lease).await, "ttl");
    assert_took(start, 2);
    other.end();
    assert_eq!(client.end_of(&of_other).await, "owner_gone");
    owner.end();
    client.lives_on(&long).await;
    inside::release(&client.bus, &long.id).await.unwrap();
    lease
}

/// The time limit begins anew, with the limit that it has and with another.
async fn renewed(client: &Client) -> Lease {
    let mut start = Instant::now();
    let lease = client.allocate(&[ttl(3)]).await;
    for (asked, limit) in [(0, 3), (4, 4)] {
        tokio::time::sleep(Duration::from_secs(2)).await;
        start = Instant::now();
        assert_eq!(client.renew(&lease, asked).await.unwrap()["ttl"], limit);
    }
    assert_eq!(client.end_of(&lease).await, "ttl");
    assert_took(start, 4);
    let error = client.renew(&lease, 0).await.unwrap_err();
    assert!(error.contains("Error.NoSuchLease"), "{error}");

    let without = client.allocate(&[]).await;
    for (limit, code) in [(0, "NoTimeLimit"), (1, "NoTimeLimit"), (31_536_001, "InvalidArgument")] {
        let error = client.renew(&without, limit).await.unwrap_err();
        assert!(error.contains(&format!("Error.{code}")), "{error}");
    }
    inside::release(&client.bus, &without.id).await.unwrap();
    // Another limit may be a shorter one.
    let shortened = client.allocate(&[ttl(1_000)]).await;
    let start = Instant::now();
    assert_eq!(client.renew(&shortened, 1).await.unwrap()["ttl"], 1);
    assert_eq!(client.end_of(&shortened).await, "ttl");
    assert_took(start, 1);
    lease
}

/// What is listened on lives on beyond its limit, as an orphan.
async fn used(client: &Client) -> Lease {
    let lease = client.allocate(&[ttl(1)]).await;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, lease.port)).unwrap();
    client.signal_of(&lease, "LeaseOrphaned").await;
    // Longer than it takes to look at orphans.
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    assert_eq!(client.state(&lease).await.as_deref(), Some("orphaned"));
    drop(listener);
    assert_eq!(client.end_of(&lease).await, "listener_gone");
    lease
}

async fn unused(client: &Client) -> Lease {
    let start = Instant::now();
    let lease = client.allocate(&[]).await;
    let used = client.allocate(&[]).await;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, used.port)).unwrap();
    let owner = Sleeper::new();
    let owned = client.allocate(&[by_pid(&owner)]).await;
    let limited = client.allocate(&[ttl(1_000)]).await;
    assert_eq!(client.end_of(&lease).await, "unused");
    assert_took(start, UNUSED);
    tokio::time::sleep(Duration::from_secs(UNUSED + 1)).await;
    assert_eq!(client.state(&used).await.as_deref(), Some("listening"));
    drop(listener);
    assert_eq!(client.end_of(&used).await, "unused");
    for lease in [owned, limited] {
        assert_eq!(client.state(&lease).await.as_deref(), Some("reserved"));
        inside::release(&client.bus, &lease.id).await.unwrap();
    }
    owner.end();
    lease
}

/// A deadline does not begin anew with the service.
async fn killed(client: &Client) -> Lease {
    let start = Instant::now();
    let lease = client.allocate(&[ttl(6)]).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    kill_service();
    let is_back = Instant::now();
    assert_eq!(client.end_of(&lease).await, "ttl");
    assert_took(start, 6);
    assert!(is_back.elapsed() < Duration::from_secs(6), "{:?}", is_back.elapsed());
    lease
}

fn ttl(seconds: u64) -> (&'static str, Variant<'static>) {
    ("ttl", Variant::U64(seconds))
}

/// Not sooner than that, give or take what milliseconds are rounded to.
fn assert_took(start: Instant, seconds: u64) {
    let took = start.elapsed() + Duration::from_millis(10);
    assert!(took >= Duration::from_secs(seconds), "{took:?} is less than {seconds} s");
}

impl Client {
    async fn renew(&self, lease: &Lease, ttl: u64) -> Result<Json, String> {
        let reply = inside::call(&self.bus, "Renew", &(&lease.id, ttl)).await?;
        Ok(super::client::answer(&reply))
    }
}

/// Services by hand, one after the other, each with clocks of its own (`time_namespaces(7)`).
pub fn suspended(machine: &Machine) {
    let slept = "--boottime 7200";
    let ran = "--monotonic 7200 --boottime 7200";
    let lease = with_clocks(machine, "", |curl| {
        let body = r#"{"service_type": "dev", "ttl": 3600}"#;
        let lease = curl(&format!("allocate -d '{body}'"));
        assert_eq!(lease["success"], true, "{lease}");
        lease
    });
    // It is as if the machine had slept for two hours.
    with_clocks(machine, slept, |curl| {
        assert_eq!(curl("allocations")["allocations"][0]["lease_id"], lease["lease_id"]);
    });
    // And now it ran for as long.
    with_clocks(machine, ran, |curl| {
        eventually(LIMIT, "it has ended", || curl("allocations")["allocations"] == json!([]));
    });
    let events = machine.events().into_iter();
    let ended = events.filter(|event| event["STYXY_LEASE_ID"] == lease["lease_id"]);
    let reasons: Vec<_> = ended.map(|event| event["STYXY_REASON"].clone()).collect();
    assert_eq!(reasons, [json!(null), json!("ttl")]);
}

/// Runs a service in a time namespace and asks it something; returns what came of it.
fn with_clocks<T>(
    machine: &Machine,
    offsets: &str,
    ask: impl FnOnce(&dyn Fn(&str) -> Json) -> T,
) -> T {
    let mut service = machine.start(&format!(
        "STATE_DIRECTORY=$PWD/state RUNTIME_DIRECTORY=$PWD/run \
         DBUS_SESSION_BUS_ADDRESS=unix:path=/nowhere exec unshare --user --map-current-user --time \
         {offsets} --fork --kill-child \
         sh -c 'SYSTEMD_EXEC_PID=$$ exec styxy daemon'"
    ));
    let mut line = String::new();
    BufReader::new(service.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "styxy: listening on /home/dev/run/http.sock\n");
    let curl = |request: &str| {
        let curl = "curl -sS --unix-socket run/http.sock http://localhost/";
        serde_json::from_str(&machine.user(&format!("{curl}{request}")).ok()).unwrap()
    };
    let result = ask(&curl);
    end(service, || machine.user("pgrep -x styxy").code == Some(1));
    result
}

/// Ends a service by hand.
fn end(mut service: Child, is_gone: impl FnMut() -> bool) {
    service.kill().unwrap();
    service.wait().unwrap();
    eventually(LIMIT, "the service is gone", is_gone);
}
