//! Nothing is polled: a service whose owners do nothing does nothing either.

use std::{
    fs,
    time::{Duration, Instant},
};

use serde_json::{Value as Json, json};
use zbus::Variant;

use super::{
    client::{self, Client, LIMIT, Sleeper},
    processes::{by_pid, by_pidfd},
};
use crate::{inside, machine::Machine};

pub fn owners(machine: &Machine) {
    let result = machine.inside("owners quiet 100");
    let windows = result["switches"].as_array().unwrap();
    eprintln!("{}: context switches in 5 s: {windows:?}", machine.name());
    // In one of them systemd may have been told that the service is alive.
    assert_eq!(windows.last(), Some(&json!(0)), "{windows:?}");
}

/// Returns how often the service's threads were switched in each of some windows of time, the last of
/// which was silent if any was.
pub async fn inside(count: usize) -> Json {
    let client = Client::new().await;
    let sleepers: Vec<_> = (0..count).map(|_| Sleeper::new()).collect();
    let mut leases = Vec::new();
    for (number, sleeper) in sleepers.iter().enumerate() {
        let day = ("ttl", Variant::U64(86_400));
        leases.push(match number % 10 {
            0 => client.allocate(&[("owner", "connection".into())]).await,
            1 => client.allocate(&[("unit", "default.target".into())]).await,
            2 => client.allocate(&[day]).await,
            3 => client.allocate(&[by_pid(sleeper), day]).await,
            4..7 => client.allocate(&[by_pidfd(sleeper)]).await,
            _ => client.allocate(&[by_pid(sleeper)]).await,
        });
    }
    client.call("RegisterInstance", "agent", &[("heartbeat", 3_600_u64.into())]).await.unwrap();
    settled(&client).await;

    let mut windows = Vec::new();
    while windows.len() < 5 && windows.last() != Some(&0) {
        let before = switches();
        tokio::time::sleep(Duration::from_secs(5)).await;
        windows.push(switches() - before);
    }

    // It has slept, not died: every end is noticed at once.
    sleepers.into_iter().for_each(Sleeper::end);
    for (number, lease) in leases.iter().enumerate().filter(|(number, _)| number % 10 > 2) {
        assert_eq!(client.end_of(lease).await, "owner_gone", "{number}");
    }
    assert_eq!(client.list(&[]).await.len(), count.div_ceil(10) * 3);
    json!({"switches": windows})
}

/// Waits until every event is in the journal; everything else has its end within seconds.
async fn settled(client: &Client) {
    let start = Instant::now();
    while {
        let status = inside::call(&client.bus, "Status", &()).await.unwrap();
        client::answer(&status)["audit_pending"] != 0
    } {
        assert!(start.elapsed() < LIMIT, "the audit is behind");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
}

/// How often the threads of the service have been switched to.
fn switches() -> u64 {
    let tasks = fs::read_dir(format!("/proc/{}/task", client::service())).unwrap();
    let of_task = |task: fs::DirEntry| -> u64 {
        let status = fs::read_to_string(task.path().join("status")).unwrap();
        let counts = status.lines().filter(|line| line.contains("ctxt_switches:"));
        counts.map(|line| line.rsplit('\t').next().unwrap().parse::<u64>().unwrap()).sum()
    };
    tasks.map(|task| of_task(task.unwrap())).sum()
}
