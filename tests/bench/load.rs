//! Many clients at once.

use std::{
    rc::Rc,
    time::{Duration, Instant},
};

use tokio::task::LocalSet;

use crate::{
    call::{Caller, Options, STYXY},
    floor::{ECHO, Floor},
    results::{Results, Row},
    service::{self, RANGE},
    stats::{in_turn, median, percentile},
};

const ROUNDS: usize = 5;
/// How long a round is.
const ROUND: Duration = Duration::from_millis(800);
/// How many calls each of a crowd makes in a round.
const CALLS: usize = 20;

/// Grants and releases a second.
pub async fn throughput(results: &mut Results) {
    let _floor = Floor::on_bus();
    for count in [8, 64] {
        let (echo, styxy) = ready(count).await;
        let (base, pairs) =
            in_turn(ROUNDS, async || rate(&echo).await, async || rate(&styxy).await).await;
        let name = format!("Allocate and Release over the bus, {count} clients");
        results.add(Row::new(name, pairs, "pairs/s").floor(base).at_least_times(0.5));
    }
}

/// How much longer than the others some have to wait.
pub async fn crowd(results: &mut Results) {
    let _floor = Floor::on_bus();
    let (echo, styxy) = ready(100).await;
    let (mut middle, mut late) = (Vec::new(), Vec::new());
    let (base, ratio) = in_turn(
        ROUNDS,
        async || spread(&latencies(&echo).await),
        async || {
            let latencies = latencies(&styxy).await;
            middle.push(median(&latencies));
            late.push(percentile(&latencies, 99));
            spread(&latencies)
        },
    )
    .await;
    let name = "p99 / p50 of Allocate, 100 clients";
    results.add(Row::new(name, ratio, "×").floor(base).at_most(4.0));
    results.add(Row::new("p50 of it", median(&middle) / 1e3, "ms"));
    results.add(Row::new("p99 of it", median(&late) / 1e3, "ms"));
}

fn spread(latencies: &[f64]) -> f64 {
    percentile(latencies, 99) / median(latencies)
}

/// So many clients each, of services that have run for a while.
async fn ready(count: usize) -> (Rc<[Caller]>, Rc<[Caller]>) {
    service::fresh(RANGE);
    let (echo, styxy) = (callers(ECHO, count).await, callers(STYXY, count).await);
    echo[0].appears().await;
    echo[0].warm_up().await;
    styxy[0].warm_up().await;
    (echo, styxy)
}

/// Clients that tasks can share.
pub async fn callers(name: &'static str, count: usize) -> Rc<[Caller]> {
    Caller::many(name, count).await.into()
}

/// Pairs a second.
async fn rate(callers: &Rc<[Caller]>) -> f64 {
    let start = Instant::now();
    let pairs = each(callers, async move |caller| {
        let mut pairs = 0;
        while start.elapsed() < ROUND {
            caller.pairs(1, &Options::new()).await;
            pairs += 1;
        }
        pairs
    })
    .await;
    f64::from(pairs.into_iter().sum::<u32>()) / start.elapsed().as_secs_f64()
}

/// How long each grant took.
async fn latencies(callers: &Rc<[Caller]>) -> Vec<f64> {
    let all = each(callers, async |caller| caller.pairs(CALLS, &Options::new()).await.0).await;
    all.concat()
}

/// Lets every client do the same at the same time.
pub async fn each<T: 'static>(
    callers: &Rc<[Caller]>,
    work: impl AsyncFn(&Caller) -> T + Clone + 'static,
) -> Vec<T> {
    let local = LocalSet::new();
    let tasks: Vec<_> = (0..callers.len())
        .map(|index| {
            let (callers, work) = (Rc::clone(callers), work.clone());
            local.spawn_local(async move { work(&callers[index]).await })
        })
        .collect();
    local.await;
    let mut results = Vec::new();
    for task in tasks {
        results.push(task.await.unwrap());
    }
    results
}
