//! Many short-lived owners at once, and how soon their leases end.

use std::{
    collections::HashMap,
    fs,
    process::{Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use futures_util::StreamExt;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde_json::{Value as Json, json};
use zbus::{Variant, wire::Fd};

use super::client::{self, Client};
use crate::{
    inside::Dice,
    machine::{Machine, eventually},
};

/// More ports than there are owners at a time, and leases that wait for a server to begin to listen.
const MANY_PORTS: &str = r#"{"service_types": {"dev": {"port_range": [20000, 23999]}}}"#;

/// Runs a command as the user, with a priority above whatever else runs on this computer, as the
/// service, the bus and the manager, which stores the guards of leases that wait: what is measured is not for
/// how long they wait for a processor.
const URGENT: &str = r#"
    runtime=/run/user/$(id -u dev)
    for pid in $(pgrep -u dev -x 'styxy|dbus-daemon|systemd'); do chrt --rr -a -p 1 "$pid" || exit; done
    exec chrt --rr 1 runuser -u dev -- env XDG_RUNTIME_DIR="$runtime" \
        DBUS_SESSION_BUS_ADDRESS="unix:path=$runtime/bus""#;

pub fn ten_thousand(machine: &Machine) {
    machine.configure(MANY_PORTS);
    machine.put_inside();
    let command = "/usr/local/bin/inside inside owners swarm 10000 40";
    let output = machine.root(&format!("{URGENT} {command}")).ok();
    let result: Json = serde_json::from_str(output.trim()).unwrap();
    eprintln!("{}: {}", machine.name(), result["summary"].as_str().unwrap());
    assert_eq!(result["leases"], 10_000, "{}", result["summary"]);
    assert_eq!(result["unended"], json!([]), "{}", result["summary"]);
    assert_eq!(result["other_reasons"], json!([]));
    // All of them are young, so each lease waits two seconds for a server to begin to listen.
    // How much later it is told depends on the computer as well, and on what else that does.
    let micros = |key: &str| result[key].as_u64().unwrap();
    assert!(micros("p99_micros") <= 2_100_000 + micros("floor_micros"), "{}", result["summary"]);
    assert_eq!(machine.call("List", "'a{sv}' 0").unwrap(), json!([[]]));
}

/// When the owner of each lease ended, and when its end was told.
#[derive(Default)]
struct Times {
    owner: HashMap<String, Instant>,
    told: HashMap<String, (Instant, String)>,
}

/// Workers that start a process each, have it own a lease, and end it; again and again.
pub fn inside(owners: usize, workers: usize) -> Json {
    let times = Arc::new(Mutex::new(Times::default()));
    // In a thread of its own, so that the clients' work does not delay what it measures.
    let hearing = Arc::clone(&times);
    let (ready, is_ready) = std::sync::mpsc::channel();
    thread::spawn(move || runtime().block_on(hear(&hearing, &ready)));
    is_ready.recv().unwrap();

    let is_over = Arc::new(AtomicBool::new(false));
    let beats = {
        let is_over = Arc::clone(&is_over);
        thread::spawn(move || runtime().block_on(beat(&is_over)))
    };

    let start = Instant::now();
    let left = Arc::new(AtomicUsize::new(owners));
    let too_late = AtomicUsize::new(0);
    let before = cpu_time();
    thread::scope(|scope| {
        for worker in 0..workers {
            let (left, times, too_late) = (&left, &times, &too_late);
            let dice = Dice(worker as u64 + 1);
            scope.spawn(move || runtime().block_on(work(dice, left, times, too_late)));
        }
    });
    eventually(client::LIMIT, "every end is told", || {
        let times = times.lock().unwrap();
        times.owner.keys().all(|id| times.told.contains_key(id))
    });
    let cpu = cpu_time().saturating_sub(before);
    is_over.store(true, Ordering::Relaxed);
    let mut floors = beats.join().unwrap();
    floors.sort_unstable();
    let floor = floors[floors.len() * 99 / 100];

    let times = times.lock().unwrap();
    let mut latencies: Vec<_> = times
        .owner
        .iter()
        .filter_map(|(id, end)| Some(times.told.get(id)?.0.saturating_duration_since(*end)))
        .collect();
    latencies.sort_unstable();
    let at = |percent: usize| latencies[(latencies.len() * percent / 100).min(latencies.len() - 1)];
    let unended: Vec<_> = times.owner.keys().filter(|id| !times.told.contains_key(*id)).collect();
    let reasons = times.told.values().map(|(_, reason)| reason);
    let other_reasons: Vec<_> = reasons.filter(|reason| *reason != "owner_gone").collect();
    let per_lease = cpu / u32::try_from(times.owner.len()).unwrap();
    let summary = format!(
        "{} owners in {:.1?}, told after p50 {:.1?}, p99 {:.1?}, max {:.1?} (without the service p99 \
         {floor:.1?}); {} had ended too early to own anything; the service's CPU time per lease: {per_lease:.0?}",
        times.owner.len(),
        start.elapsed(),
        at(50),
        at(99),
        at(100),
        too_late.load(Ordering::Relaxed),
    );
    json!({
        "summary": summary,
        "leases": times.owner.len(),
        "floor_micros": u64::try_from(floor.as_micros()).unwrap(),
        "p99_micros": u64::try_from(at(99).as_micros()).unwrap(),
        "unended": unended,
        "other_reasons": other_reasons,
    })
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// How late here comes what needs no service: the end of a short sleep, and then a word to the bus and back.
async fn beat(is_over: &AtomicBool) -> Vec<Duration> {
    const SLEEP: Duration = Duration::from_millis(50);
    let bus = crate::inside::bus().await;
    let name = "org.freedesktop.DBus";
    let mut late = Vec::new();
    while late.is_empty() || !is_over.load(Ordering::Relaxed) {
        let start = Instant::now();
        tokio::time::sleep(SLEEP).await;
        bus.call_method(Some(name), "/org/freedesktop/DBus", Some(name), "GetId", &())
            .await
            .unwrap();
        late.push(start.elapsed().saturating_sub(SLEEP));
    }
    late
}

/// Notes when each end is told.
async fn hear(times: &Mutex<Times>, ready: &std::sync::mpsc::Sender<()>) {
    let bus = crate::inside::bus().await;
    let mut signals = client::listen(&bus).await;
    ready.send(()).unwrap();
    while let Some(message) = signals.next().await {
        let Some(signal) = client::read(&message.unwrap()) else { continue };
        if let Some(reason) = signal.reason {
            times.lock().unwrap().told.insert(signal.lease_id, (signal.at, reason));
        }
    }
}

async fn work(mut dice: Dice, left: &AtomicUsize, times: &Mutex<Times>, too_late: &AtomicUsize) {
    let client = Client::deaf().await;
    while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)).is_ok() {
        // One in four ends by itself, around the time of the grant: also before it, and in it.
        let by_itself = dice.below(4) == 0;
        let life = if by_itself { format!("0.0{:02}", dice.below(25)) } else { "60".to_owned() };
        let mut sleep = Command::new("/bin/sleep");
        sleep.arg(life).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut process = sleep.spawn().unwrap();
        let pid = i32::try_from(process.id()).unwrap();
        let pidfd = pidfd_open(Pid::from_raw(pid).unwrap(), PidfdFlags::empty()).unwrap();
        let owner = if dice.below(3) == 0 {
            ("pidfd", Variant::Fd(Fd::Owned(pidfd)))
        } else {
            ("pid", Variant::U32(process.id()))
        };
        let lease = client.try_allocate(&[owner]).await;
        let mut end = None;
        if !by_itself {
            // Long enough that the machine has time for all of them.
            tokio::time::sleep(Duration::from_micros(dice.below(250_000))).await;
            // The end is a little later, so what is measured is more than the truth.
            end = Some(Instant::now());
            process.kill().unwrap();
        }
        process.wait().unwrap();
        let end = end.unwrap_or_else(Instant::now);
        match lease {
            Ok(lease) => {
                let id = lease["lease_id"].as_str().unwrap().to_owned();
                times.lock().unwrap().owner.insert(id, end);
            }
            Err(error) => {
                assert!(by_itself && error.contains("not a live process"), "{error}");
                too_late.fetch_add(1, Ordering::Relaxed);
                left.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// What the service has used so far (proc(5), `stat`), in its present process.
fn cpu_time() -> Duration {
    let stat = fs::read_to_string(format!("/proc/{}/stat", client::service())).unwrap();
    let (_, fields) = stat.rsplit_once(')').unwrap();
    let fields: Vec<_> = fields.split_ascii_whitespace().collect();
    let ticks: u64 = fields[11..13].iter().map(|field| field.parse::<u64>().unwrap()).sum();
    // USER_HZ is 100 on every architecture that matters here.
    Duration::from_millis(ticks * 10)
}
