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
    let (echo, styxy) = (Caller::new(ECHO).await, Caller::new(STYXY).await);
    echo.appears().await;
    echo.warm_up().await;
    styxy.warm_up().await;
    let plain = Options::new();

    // Events are on their way to the journal all the time, as many as are sent in a second.
    let (mut echoes, mut pairs) = (Series::default(), Series::default());
    for _ in 0..ROUNDS {
        echoes.round(&echo, CALLS, &plain).await;
        pairs.round(&styxy, CALLS, &plain).await;
    }
    let base = echoes.grant();
    let name = "Allocate over the bus, one client";
    results.add(Row::new(name, pairs.grant(), "µs").floor(base).at_most_times(1.5));
    let name = "Allocate and Release over the bus, one client";
    results.add(Row::new(name, pairs.pair(), "µs").floor(echoes.pair()));

    // Now and then: every event is sent at once, while the next grants are made.
    let (mut echoes, mut pairs) = (Series::default(), Series::default());
    for _ in 0..ROUNDS {
        echoes.round(&echo, 50, &plain).await;
        styxy.settle().await;
        pairs.round(&styxy, 50, &plain).await;
    }
    let name = "Allocate, 50 times after a rest";
    results.add(Row::new(name, pairs.grant(), "µs").floor(echoes.grant()).at_most_times(1.5));

    // What is known of a project is not new, and is answered before it is on the disk.
    let known = options("/home/dev/shop".to_owned());
    let grant = median(&styxy.pairs(CALLS, &known).await.0);
    results.add(Row::new("Allocate for a project with a remembered port", grant, "µs").floor(base));
    let mut grants = Vec::new();
    for index in 0..100 {
        let new = options(format!("/home/dev/new-{index}"));
        grants.extend(styxy.pairs(1, &new).await.0);
    }
    let name = "Allocate for a new project, which waits for the disk";
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

/// The medians of rounds.
#[derive(Default)]
struct Series {
    grants: Vec<f64>,
    releases: Vec<f64>,
}

impl Series {
    async fn round(&mut self, caller: &Caller, calls: usize, options: &Options<'_>) {
        let (grants, releases) = caller.pairs(calls, options).await;
        self.grants.push(median(&grants));
        self.releases.push(median(&releases));
    }

    fn grant(&self) -> f64 {
        median(&self.grants)
    }

    fn pair(&self) -> f64 {
        self.grant() + median(&self.releases)
    }
}

/// Over the socket.
pub async fn http(results: &mut Results) {
    service::fresh(RANGE);
    let (_floor, socket) = Floor::on_socket();
    let (mut echo, mut styxy) = (Http::new(&socket), Http::new(&service::socket()));
    echo.warm_up();
    styxy.warm_up();
    let (base, grant) =
        in_turn(ROUNDS, async || median(&echo.pairs(CALLS)), async || median(&styxy.pairs(CALLS)))
            .await;
    let name = "POST /allocate on the socket, keep-alive";
    results.add(Row::new(name, grant, "µs").floor(base).at_most_times(4.0));
}
