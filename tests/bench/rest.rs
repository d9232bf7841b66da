//! What the service takes while nobody asks anything of it.

use std::{
    fs,
    io::Write,
    os::unix::net::UnixStream,
    process::{Child, Command},
    time::Duration,
};

use tokio::time::sleep;

use crate::{
    call::{Caller, Options, STYXY},
    fixture,
    results::{Results, Row},
    service::{self, RANGE, UNIT, WIDE, pid, proc, systemctl},
};

/// Until threads and timers of what was before are done.
const REST: Duration = Duration::from_secs(12);
const WINDOW: Duration = Duration::from_secs(60);

/// Resident and proportional memory.
pub async fn memory(results: &mut Results) {
    service::fresh(RANGE);
    sleep(Duration::from_secs(2)).await;
    tell(results, "after the start", 10.0);

    let styxy = Caller::new(STYXY).await;
    for _ in 0..1_000 {
        styxy.allocate().await;
    }
    styxy.settle().await;
    sleep(Duration::from_secs(2)).await;
    tell(results, "with 1,000 guarded leases", 14.0);

    service::reset(WIDE);
    fixture::write(WIDE, 60_000, 10_000);
    systemctl(&["start", UNIT]);
    let (_, lease_id) = styxy.allocate().await;
    styxy.release(&lease_id).await;
    styxy.settle().await;
    sleep(Duration::from_secs(2)).await;
    tell(results, "with 60,000 leases, after a restart", 60.0);
    service::reset(RANGE);
}

/// Notes what the service has now.
pub fn tell(results: &mut Results, when: &str, limit: f64) {
    let rollup = proc(pid(), "smaps_rollup");
    for (what, name) in [("RSS", "Rss:"), ("PSS", "Pss:")] {
        let line = rollup.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        let kib: f64 = line.trim().trim_end_matches(" kB").parse().unwrap();
        let name = format!("{what} {when}");
        results.add(Row::new(name, kib * 1024.0 / 1e6, "MB").at_most(limit));
    }
}

/// How often it wakes up by itself.
pub async fn idle(results: &mut Results) {
    service::fresh(RANGE);
    let owners: Vec<_> = (0..100).map(|_| Owner::new()).collect();
    let styxy = Caller::new(STYXY).await;
    for owner in &owners {
        let owner = owner.0.id().into();
        styxy.allocate_with(Options::from([("owner", "process".into()), ("pid", owner)])).await;
    }
    // As a page in a browser does.
    let mut events = UnixStream::connect(service::socket()).unwrap();
    events.write_all(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    styxy.settle().await;
    // The window ends before the watchdog wants its first sign of life, which is half of WatchdogSec=
    // after the start.
    sleep(REST).await;
    let pid = pid();
    let before = Effort::of(pid);
    sleep(WINDOW).await;
    let after = Effort::of(pid);
    let name = "wake-ups in 60 s with 100 owned leases and a client of the events";
    results.add(Row::new(name, (after.wakeups - before.wakeups) as f64, "").exactly(0.0));
    let time = (after.ns - before.ns) as f64 / 1e6;
    results.add(Row::new("CPU time in these 60 s", time, "ms").exactly(0.0));
    drop((owners, events));
    service::reset(RANGE);
}

/// A process that waits to be ended.
struct Owner(Child);

impl Owner {
    fn new() -> Self {
        Self(Command::new("sleep").arg("infinity").spawn().unwrap())
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What all threads of a process have done since it was started.
struct Effort {
    wakeups: u64,
    ns: u64,
}

impl Effort {
    fn of(pid: u32) -> Self {
        let mut effort = Self { wakeups: 0, ns: 0 };
        for task in fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
            // Time on a processor, time in the queue, times that it was given one.
            let schedstat = fs::read_to_string(task.unwrap().path().join("schedstat")).unwrap();
            let mut numbers = schedstat.split_whitespace().map(|n| n.parse::<u64>().unwrap());
            effort.ns += numbers.next().unwrap();
            effort.wakeups += numbers.nth(1).unwrap();
        }
        effort
    }
}
