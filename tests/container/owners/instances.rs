//! Instances: agents and tools that have announced themselves, and end their leases with them.

use std::{
    net::{Ipv4Addr, TcpListener},
    time::{Duration, Instant},
};

use serde_json::{Value as Json, json};
use zbus::Variant;

use super::{
    assert_told,
    client::{Client, Lease, Sleeper, kill_service, systemctl},
    processes::{by_pid, by_pidfd},
};
use crate::{inside, machine::Machine};

/// Seconds within which a heartbeat must come.
const HEARTBEAT: u64 = 3;

pub fn ends(machine: &Machine) {
    let result = machine.inside("owners instances");
    for lease_id in result["ended"].as_array().unwrap() {
        assert_told(machine, lease_id, &[("allocate", ""), ("expire", "instance_gone")]);
    }
    let events = machine.events();
    let told = |action: &str| events.iter().filter(|event| event["STYXY_ACTION"] == action).count();
    assert_eq!(told("end_instance"), told("register_instance") - 1, "one was replaced by itself");
}

/// Returns the leases that have ended with their instance.
pub async fn inside() -> Json {
    let client = Client::new().await;
    refused(&client).await;
    let (silent, by_process) = tokio::join!(heartbeats(&client), processes(&client));
    let mut ended = vec![silent];
    ended.extend(by_process);
    ended.push(across_restarts(&client).await);
    assert_eq!(client.instances().await, Vec::<String>::new());
    json!({"ended": ended.into_iter().map(|lease| lease.id).collect::<Vec<_>>()})
}

async fn refused(client: &Client) {
    for options in [&[][..], &[("heartbeat", Variant::U64(0))], &[("pid", Variant::U32(1))]] {
        let error = client.call("RegisterInstance", "nobody", options).await.unwrap_err();
        assert!(error.contains("Error.InvalidArgument"), "{error}");
    }
    let error = client.beat("nobody").await.unwrap_err();
    assert!(error.contains("register it first"), "{error}");
    assert_eq!(client.instances().await, Vec::<String>::new());
}

async fn heartbeats(client: &Client) -> Lease {
    let heartbeat = ("heartbeat", Variant::U64(HEARTBEAT));
    client.call("RegisterInstance", "beating", &[heartbeat]).await.unwrap();
    let lease = client.allocate(&of("beating")).await;
    let used = client.allocate(&of("beating")).await;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, used.port)).unwrap();
    let others = client.allocate(&of("somebody-else")).await;

    let mut last = Instant::now();
    let start = last;
    while start.elapsed() < Duration::from_secs(2 * HEARTBEAT + 1) {
        last = Instant::now();
        client.beat("beating").await.unwrap();
        assert_eq!(client.state(&lease).await.as_deref(), Some("reserved"));
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    assert_eq!(client.end_of(&lease).await, "instance_gone");
    let silent = last.elapsed();
    assert!(silent > Duration::from_millis(HEARTBEAT * 1_000 - 10), "{silent:?}");
    client.beat("beating").await.unwrap_err();
    // By the same rule as an owner: what is listened on lives on.
    client.signal_of(&used, "LeaseOrphaned").await;
    client.lives_on(&others).await;
    drop(listener);
    assert_eq!(client.end_of(&used).await, "listener_gone");
    inside::release(&client.bus, &others.id).await.unwrap();
    lease
}

async fn processes(client: &Client) -> Vec<Lease> {
    let mut ended = Vec::new();
    for (name, by) in [("by-pid", by_pid as fn(&Sleeper) -> _), ("by-pidfd", by_pidfd)] {
        let (first, second) = (Sleeper::new(), Sleeper::new());
        client.call("RegisterInstance", name, &[by(&first)]).await.unwrap();
        let lease = client.allocate(&of(name)).await;
        if name == "by-pid" {
            // It has announced itself again, from another process.
            client.call("RegisterInstance", name, &[by(&second)]).await.unwrap();
            first.end();
            client.lives_on(&lease).await;
            second.end();
        } else {
            client.lives_on(&lease).await;
            first.end();
            second.end();
        }
        assert_eq!(client.end_of(&lease).await, "instance_gone");
        ended.push(lease);
    }
    ended
}

async fn across_restarts(client: &Client) -> Lease {
    let process = Sleeper::new();
    let heartbeat = ("heartbeat", Variant::U64(HEARTBEAT));
    client.call("RegisterInstance", "beating", &[heartbeat]).await.unwrap();
    client.call("RegisterInstance", "living", &[by_pid(&process)]).await.unwrap();
    let beating = client.allocate(&of("beating")).await;
    let living = client.allocate(&of("living")).await;

    kill_service();
    client.lives_on(&beating).await;
    assert_eq!(client.instances().await, ["beating", "living"]);
    // It could not be heard meanwhile, and that is not its fault.
    client.beat("beating").await.unwrap();
    systemctl(&["stop", "styxy.service"]);
    tokio::time::sleep(Duration::from_secs(HEARTBEAT + 1)).await;
    systemctl(&["start", "styxy.service"]);
    client.beat("beating").await.unwrap();
    client.lives_on(&living).await;
    assert_eq!(client.end_of(&beating).await, "instance_gone");
    assert_eq!(client.state(&living).await.as_deref(), Some("reserved"));
    process.end();
    assert_eq!(client.end_of(&living).await, "instance_gone");
    living
}

fn of(instance: &str) -> [(&str, Variant<'_>); 1] {
    [("instance_id", instance.into())]
}

impl Client {
    async fn beat(&self, instance: &str) -> Result<(), String> {
        inside::call(&self.bus, "Heartbeat", &(instance,)).await.map(drop)
    }

    /// The names of the instances.
    async fn instances(&self) -> Vec<String> {
        let instances = self.dicts("ListInstances", &()).await.into_iter();
        instances.map(|i| i["instance_id"].as_str().unwrap().to_owned()).collect()
    }
}
