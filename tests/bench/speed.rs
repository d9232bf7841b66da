//! One client: what a grant costs beside an echo.

use crate::{
    call::{Caller, Http, Options, STYXY},
    floor::{ECHO, Floor},
    results::{Results, Row},
    service::{self, RANGE, UNIT},
    stats::{in_turn, median},
    syscalls::Syscalls,
};

const ROUNDS: usize = 11;
const CALLS: usize = 300;

/// Over the bus.
pub async fn bus(results: &mut Results) {
    service::fresh(RANGE);
    let floor = Floor::on_bus();
    let (echo, styxy) = (ready(ECHO).await, ready(STYXY).await);
    let plain = Options::new();
    let mut pair = [Vec::new(), Vec::new()];
    let (base, grant) = in_turn(
        ROUNDS,
        async || {
            let (grants, releases) = echo.pairs(CALLS, &plain).await;
            pair[0].push(median(&grants) + median(&releases));
            median(&grants)
        },
        async || median(&styxy.pairs(CALLS, &plain).await.0),
    )
    .await;
    for _ in 0..ROUNDS {
        let (grants, releases) = styxy.pairs(CALLS, &plain).await;
        pair[1].push(median(&grants) + median(&releases));
    }
    let name = "Allocate over the bus, one client";
    results.add(Row::new(name, grant, "µs").floor(base).at_most_times(1.5));
    let [echoes, pairs] = pair.map(|values| median(&values));
    results
        .add(Row::new("Allocate and Release over the bus, one client", pairs, "µs").floor(echoes));

    // What is known of a project is not new, and is answered before it is on the disk.
    let known = options("/home/dev/shop".to_owned());
    let grant = median(&styxy.pairs(CALLS, &known).await.0);
    results.add(Row::new("the same for a project with a remembered port", grant, "µs").floor(base));
    let mut grants = Vec::new();
    for index in 0..100 {
        let new = options(format!("/home/dev/new-{index}"));
        grants.extend(styxy.pairs(1, &new).await.0);
    }
    let name = "the same for a new project, which waits for the disk";
    results.add(Row::new(name, median(&grants), "µs").floor(base));

    // Counted while nothing is on its way to the journal.
    styxy.settle().await;
    let ours = Syscalls::of(service::pid(), async || _ = styxy.pairs(100, &plain).await).await;
    let echoed = Syscalls::of(floor.pid(), async || _ = echo.pairs(100, &plain).await).await;
    eprintln!("bench: styxy's main thread, 100 pairs: {ours}\nbench: the echo's: {echoed}");
    let name = "system calls of a grant and a release, main thread";
    let per_pair = |counted: &Syscalls| counted.total() as f64 / 100.0;
    results.add(Row::new(name, per_pair(&ours), "calls").floor(per_pair(&echoed)));
    service::systemctl(&["stop", UNIT]);
}

fn options(project: String) -> Options<'static> {
    Options::from([("project_path", project.into()), ("service_name", "web".into())])
}

/// A client of a service that answers by now.
pub async fn ready(name: &'static str) -> Caller {
    let caller = Caller::new(name).await;
    if name == ECHO {
        // It is a process that was started just now; nobody activates it.
        caller.appears().await;
    }
    caller.pairs(50, &Options::new()).await;
    caller
}

/// Over the socket.
pub async fn http(results: &mut Results) {
    service::fresh(RANGE);
    let (_floor, socket) = Floor::on_socket();
    let (mut echo, mut styxy) = (Http::new(&socket), Http::new(&service::socket()));
    styxy.pairs(50);
    echo.pairs(50);
    let (base, grant) =
        in_turn(ROUNDS, async || median(&echo.pairs(CALLS)), async || median(&styxy.pairs(CALLS)))
            .await;
    let name = "POST /allocate on the socket, keep-alive";
    results.add(Row::new(name, grant, "µs").floor(base).at_most_times(4.0));
}
