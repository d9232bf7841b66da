//! What a grant costs when there is much of everything.

use std::{net::TcpListener, time::Duration};

use crate::{
    call::{Caller, Options, STYXY},
    fixture,
    results::{Results, Row},
    service::{self, RANGE, UNIT, WIDE, systemctl},
    stats::{in_turn, median},
    syscalls::Syscalls,
};

const ROUNDS: usize = 3;
const CALLS: usize = 500;

/// With sixty thousand live leases.
pub async fn full(results: &mut Results) {
    let (none, many) = in_turn(
        ROUNDS,
        async || with_leases(WIDE, 0).await,
        async || with_leases(WIDE, 60_000).await,
    )
    .await;
    let name = "a grant beside 60,000 leases (floor: beside none)";
    results.add(Row::new(name, many, "µs").floor(none).at_most_times(1.5));
}

/// With one port left.
pub async fn scarce(results: &mut Results) {
    let all = usize::from(RANGE.1 - RANGE.0) + 1;
    let (none, many) = in_turn(
        ROUNDS,
        async || with_leases(RANGE, 0).await,
        async || with_leases(RANGE, all - 1).await,
    )
    .await;
    let name = "a grant with 1 of 10,000 ports free (floor: with all)";
    results.add(Row::new(name, many, "µs").floor(none).at_most_times(1.5));
}

/// What a grant costs a service that began with so many leases.
async fn with_leases(range: (u16, u16), leases: usize) -> f64 {
    service::reset(range);
    fixture::write(range, leases, 0);
    systemctl(&["start", UNIT]);
    let styxy = Caller::new(STYXY).await;
    styxy.warm_up().await;
    median(&styxy.pairs(CALLS, &Options::new()).await.0)
}

/// With ten thousand ports that other programs listen on.
pub async fn busy(results: &mut Results) {
    let range = (RANGE.0, RANGE.1 + 1_000);
    service::fresh(range);
    let styxy = Caller::new(STYXY).await;
    let plain = Options::new();
    styxy.warm_up().await;
    let (none, many) = in_turn(
        ROUNDS,
        async || median(&styxy.pairs(CALLS, &plain).await.0),
        async || {
            let _listeners = listeners();
            median(&styxy.pairs(10, &plain).await.0)
        },
    )
    .await;
    let name = "a grant past 10,000 ports that are listened on (floor: past none)";
    results.add(Row::new(name, many, "µs").floor(none).at_most_times(1.5));

    styxy.settle().await;
    let _listeners = listeners();
    let mut first = Vec::new();
    for _ in 0..9 {
        // What the kernel has said of all listeners counts for a second.
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        first.push(median(&styxy.pairs(1, &plain).await.0));
    }
    let name = "the first such grant in a second, which asks the kernel for all listeners";
    results.add(Row::new(name, median(&first), "µs"));
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let counted = Syscalls::of(service::pid(), async || _ = styxy.pairs(1, &plain).await).await;
    eprintln!("bench: styxy's main thread, one pair past 10,000 listeners: {counted}");
    let probes = counted.of_kind(nix::libc::SYS_bind);
    results.add(Row::new("probes (binds) of that grant", probes as f64, "calls"));
    service::reset(RANGE);
}

/// A listener on each port of the range, as servers have it.
fn listeners() -> Vec<TcpListener> {
    let bind = |port| TcpListener::bind(("127.0.0.1", port));
    let listeners = (RANGE.0..=RANGE.1).map(|port| bind(port).expect("a port of the machine's"));
    listeners.collect()
}
