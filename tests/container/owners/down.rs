//! What ends while no service runs: the next service finds out at its start.

use std::{collections::HashMap, time::Duration};

use serde_json::{Value as Json, json};

use super::{
    assert_told,
    client::{Client, Sleeper, systemctl},
    orphans::Starter,
    processes::{by_pid, by_pidfd},
    units,
};
use crate::machine::Machine;

pub fn ends(machine: &Machine) {
    let result = machine.inside("owners down");
    for (lease_id, reason) in result.as_object().unwrap() {
        let mut told = vec![("allocate", ""), ("expire", reason.as_str().unwrap())];
        if reason == "listener_gone" {
            told.insert(1, ("orphan", ""));
        }
        assert_told(machine, &json!(lease_id), &told);
    }
}

/// Returns the leases that have ended, and why.
pub async fn inside() -> Json {
    let client = Client::new().await;
    let [by_number, by_descriptor, instance, survivor] = [(); 4].map(|()| Sleeper::new());
    let closing = Client::deaf().await;
    units::run("ending", "exec sleep 1000");
    units::run("surviving", "exec sleep 1000");
    client.call("RegisterInstance", "agent", &[by_pid(&instance)]).await.unwrap();
    let (starter, orphan) = Starter::with_lease(&client, "tcp").await;
    let server = starter.end();
    client.signal_of(&orphan, "LeaseOrphaned").await;
    let (starter, becomes_orphan) = Starter::with_lease(&client, "tcp").await;

    let ends = [
        (client.allocate(&[by_pid(&by_number)]).await, "owner_gone"),
        (client.allocate(&[by_pidfd(&by_descriptor)]).await, "owner_gone"),
        (client.allocate(&[("unit", "ending.service".into())]).await, "owner_gone"),
        (closing.allocate(&[("owner", "connection".into())]).await, "owner_gone"),
        (client.allocate(&[("instance_id", "agent".into())]).await, "instance_gone"),
        (orphan, "listener_gone"),
        (client.allocate(&[("ttl", 1_u64.into())]).await, "ttl"),
    ];
    let survivors = [
        client.allocate(&[by_pid(&survivor)]).await,
        client.allocate(&[by_pidfd(&survivor), ("ttl", 1_000_u64.into())]).await,
        client.allocate(&[("unit", "surviving.service".into())]).await,
        client.allocate(&[("owner", "connection".into())]).await,
        client.allocate(&[]).await,
    ];

    systemctl(&["stop", "styxy.service", "ending.service"]);
    [by_number, by_descriptor, instance].into_iter().for_each(Sleeper::end);
    drop(closing);
    server.end();
    let other_server = starter.end();
    tokio::time::sleep(Duration::from_secs(1)).await;
    systemctl(&["start", "styxy.service"]);

    // First whether it is so, then whether it was told.
    for (lease, _) in &ends {
        client.until_state(lease, None).await;
    }
    client.until_state(&becomes_orphan, Some("orphaned")).await;
    for survivor in &survivors {
        client.lives_on(survivor).await;
    }
    for (lease, reason) in &ends {
        assert_eq!(client.end_of(lease).await, *reason);
    }
    client.signal_of(&becomes_orphan, "LeaseOrphaned").await;

    // And this service watches the others.
    survivor.end();
    systemctl(&["stop", "surviving.service"]);
    other_server.end();
    for survivor in &survivors[..3] {
        assert_eq!(client.end_of(survivor).await, "owner_gone");
    }
    assert_eq!(client.end_of(&becomes_orphan).await, "listener_gone");
    json!(ends.map(|(lease, reason)| (lease.id, reason)).into_iter().collect::<HashMap<_, _>>())
}
