//! Very many grants, what becomes of their events, and what they write.

use std::{
    cell::RefCell,
    collections::BTreeSet,
    fs,
    process::Command,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use crate::{
    call::{Caller, Options, STYXY},
    load::{callers, each},
    rest,
    results::{Results, Row},
    service::{self, RANGE, WIDE},
    stats::{median, percentile},
};

const GRANTS: usize = 40_000;
/// How many rounds come after that, and how many grants are measured together in them.
const ROUNDS: usize = 4;
const SOME: usize = 250;
const CLIENTS: usize = 8;

/// Forty thousand grants as quickly as may be.
pub async fn burst(results: &mut Results) {
    service::fresh(WIDE);
    let styxy = callers(STYXY, CLIENTS).await;
    let start = Instant::now();
    let (ends, latencies) = grants(&styxy, GRANTS).await;
    results.add(Row::new("a burst of 40,000 grants, 8 clients", rate(&ends), "grants/s"));
    results.add(Row::new("p99 of the burst", percentile(&latencies, 99) / 1e3, "ms"));
    results.add(Row::new("p100 of the burst", percentile(&latencies, 100) / 1e3, "ms"));

    let made = styxy[0].settle().await;
    let took = start.elapsed().as_secs_f64();
    let (found, repeated) = events();
    let name = "the events of 40,000 grants in the journal";
    results.add(Row::new(name, found as f64, "events").exactly(made as f64));
    results.add(Row::new("events that are there more than once", repeated as f64, "events"));
    let name = "from the first of these grants until the last event is read back";
    results.add(Row::new(name, took, "s"));

    // The same service goes on to sixty thousand. In each round the first grants find no event that waits, the others do.
    let (mut even, mut behind) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        styxy[0].settle().await;
        for rates in [&mut even, &mut behind] {
            let (ends, _) = grants(&styxy, (60_000 - GRANTS) / ROUNDS / 2).await;
            rates.extend(ends.chunks_exact(SOME).map(rate));
        }
    }
    let name = "grants while events wait (floor: while none does)";
    let (behind, even) = (median(&behind), median(&even));
    // A tenth is what two rounds of the same differ by.
    results.add(Row::new(name, behind, "grants/s").floor(even).at_least_times(0.9));
    styxy[0].settle().await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    rest::tell(results, "with 60,000 leases, after as many grants", 60.0);
    service::reset(RANGE);
}

/// How many of the grants that ended at these moments there were in a second.
fn rate(ends: &[f64]) -> f64 {
    (ends.len() - 1) as f64 / (ends[ends.len() - 1] - ends[0])
}

/// Makes so many grants; when each was done, in seconds, and how long each took, in µs.
async fn grants(styxy: &Rc<[Caller]>, count: usize) -> (Vec<f64>, Vec<f64>) {
    let start = Instant::now();
    let done = Rc::new(RefCell::new((Vec::with_capacity(count), Vec::with_capacity(count))));
    let (share, all) = (count / CLIENTS, Rc::clone(&done));
    each(styxy, async move |caller| {
        for _ in 0..share {
            let asked = Instant::now();
            caller.allocate().await;
            let mut all = all.borrow_mut();
            all.0.push(start.elapsed().as_secs_f64());
            all.1.push(asked.elapsed().as_secs_f64() * 1e6);
        }
    })
    .await;
    done.take()
}

/// How many events of this state are in the journal, and how many are there again.
fn events() -> (usize, usize) {
    let folder = service::state();
    let state_id = fs::read_dir(folder).unwrap().find_map(|file| {
        let text = fs::read_to_string(file.unwrap().path()).ok()?;
        let (_, rest) = text.lines().next()?.split_once(r#""state_id":""#)?;
        Some(rest.split('"').next()?.to_owned())
    });
    let state_id = state_id.expect("the state's header has its name");
    let output = Command::new("journalctl")
        .args(["--quiet", "--output=cat", "--output-fields=STYXY_SEQ", "--identifier=styxy"])
        .arg(format!("STYXY_STATE_ID={state_id}"))
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let all = text.lines().count();
    let found = text.lines().collect::<BTreeSet<_>>().len();
    (found, all - found)
}

/// What grants write, and how long the log gets.
pub async fn state(results: &mut Results) {
    service::fresh(RANGE);
    let styxy = callers(STYXY, CLIENTS).await;
    for (what, options) in [
        ("a plain grant", Options::new()),
        (
            "a grant for a project",
            Options::from([
                ("project_path", "/home/dev/projects/shop".into()),
                ("service_name", "web".into()),
                ("instance_id", "agent-7".into()),
            ]),
        ),
    ] {
        let before = sizes();
        for _ in 0..200 {
            styxy[0].allocate_with(options.clone()).await;
        }
        let after = sizes();
        assert_eq!(before.generation, after.generation, "it was compacted in between");
        let bytes = (after.log - before.log) as f64 / 200.0;
        results.add(Row::new(format!("state written for {what}"), bytes, "bytes"));
    }

    // Few enough leases that pairs grow the log quickly, enough that a snapshot is no trifle.
    grants(&styxy, 2_000).await;
    let stop = Arc::new(AtomicBool::new(false));
    let stopping = Arc::clone(&stop);
    let watcher = thread::spawn(move || {
        let (mut worst, mut generations) = (0.0_f64, BTreeSet::new());
        while !stopping.load(Ordering::Relaxed) {
            let now = sizes();
            generations.insert(now.generation);
            worst = worst.max(now.log as f64 / now.snapshot.max(1) as f64);
            thread::sleep(Duration::from_millis(2));
        }
        (worst, generations.len())
    });
    // The first ones make a snapshot of all leases.
    each(&styxy, async |caller| _ = caller.pairs(1_000, &Options::new()).await).await;
    stop.store(true, Ordering::Relaxed);
    let (worst, generations) = watcher.join().unwrap();
    let name = "the longest log, beside a snapshot of the live state";
    results.add(Row::new(name, worst, "×").at_most(4.0));
    results.add(Row::new("logs begun in 8,000 grants and releases", generations as f64, "logs"));
    styxy[0].settle().await;
    let rest = sizes();
    let name = "all files of the state when every event is told, beside a snapshot";
    results.add(Row::new(name, rest.all as f64 / rest.snapshot.max(1) as f64, "×"));
    service::reset(RANGE);
}

/// The state folder: the newest log and snapshot, and everything.
struct Sizes {
    generation: String,
    log: u64,
    snapshot: u64,
    all: u64,
}

fn sizes() -> Sizes {
    let mut sizes = Sizes { generation: String::new(), log: 0, snapshot: 0, all: 0 };
    let mut files: Vec<_> = fs::read_dir(service::state())
        .unwrap()
        .filter_map(|entry| {
            let entry = entry.ok()?;
            Some((entry.file_name().into_string().ok()?, entry.metadata().ok()?.len()))
        })
        .collect();
    files.sort_unstable();
    for (name, length) in files {
        sizes.all += length;
        match name.split_once('.') {
            Some(("log", generation)) if !generation.ends_with("tmp") => {
                sizes.log = length;
                generation.clone_into(&mut sizes.generation);
            }
            Some(("snapshot", generation)) if !generation.ends_with("tmp") => {
                sizes.snapshot = length;
            }
            _ => {}
        }
    }
    sizes
}
