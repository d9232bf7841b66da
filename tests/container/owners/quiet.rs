//! Nothing is polled: a service whose owners do nothing does nothing either.

use std::{
    collections::HashMap,
    ffi::OsString,
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
        windows.push(between(&before, &switches()));
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

/// How often threads were switched to from one moment to the other. A spare one, which the calls so far
/// have left, ends after ten seconds; that takes at least one switch, and what it had before is no news.
fn between(before: &HashMap<OsString, u64>, after: &HashMap<OsString, u64>) -> u64 {
    let ended = before.keys().filter(|thread| !after.contains_key(*thread)).count() as u64;
    let known = |thread| before.get(thread).copied().unwrap_or(0);
    ended + after.iter().map(|(thread, count)| count - known(thread)).sum::<u64>()
}

/// How often each thread of the service has been switched to.
fn switches() -> HashMap<OsString, u64> {
    let tasks = fs::read_dir(format!("/proc/{}/task", client::service())).unwrap();
    let of_task = |task: fs::DirEntry| {
        // None for one that has just ended.
        let status = fs::read_to_string(task.path().join("status")).ok()?;
        let counts = status.lines().filter(|line| line.contains("ctxt_switches:"));
        let counts = counts.map(|line| line.rsplit('\t').next().unwrap().parse::<u64>().unwrap());
        Some((task.file_name(), counts.sum()))
    };
    tasks.filter_map(|task| of_task(task.unwrap())).collect()
}
