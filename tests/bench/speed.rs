//! One client: what a grant costs beside an echo.

use crate::{
    call::{Caller, Http, Options, STYXY},
    floor::{ECHO, Floor},
    results::{Results, Row},
    service::{self, RANGE, UNIT},
    stats::{in_turn, median},
    syscalls::Syscalls,
};

/// How often servers and clients are started anew: where the kernel puts them decides for as long as they
/// live how quickly one wakes the other.
const STARTS: usize = 3;
const ROUNDS: usize = 4;
const CALLS: usize = 250;

/// Over the bus.
pub async fn bus(results: &mut Results) {
    let plain = Options::new();
    let known = options("/home/dev/shop".to_owned());
    let claim: Options<'_> = known.clone().into_iter().chain([("claim", true.into())]).collect();
    let mut echoes: [Series; 4] = Default::default();
    let mut pairs: [Series; 5] = Default::default();
    let mut claims = Vec::new();
    for _ in 0..STARTS {
        let (_floor, echo, styxy) = start().await;
        // Events are on their way to the journal all the time, as many as are sent in a second.
        for round in 0..ROUNDS {
            echoes[0].round(&echo, CALLS, &plain).await;
            echoes[2].round(&echo, CALLS, &known).await;
            pairs[0].round(&styxy, CALLS, &plain).await;
            pairs[1].round(&styxy, CALLS, &known).await;
            let (_, first) = styxy.allocate_with(known.clone()).await;
            pairs[4].round(&styxy, CALLS, &known).await;
            styxy.release(&first).await;
            echoes[3].round(&echo, CALLS, &claim).await;
            claims.push(median(&styxy.claims(CALLS, &claim).await));
            for project in 0..10 {
                let new = options(format!("/home/dev/new-{round}-{project}"));
                pairs[2].round(&styxy, 1, &new).await;
            }
        }
        // Now and then: every event is sent at once, while the next grants are made.
        for _ in 0..ROUNDS {
            styxy.settle().await;
            echoes[1].round(&echo, 50, &plain).await;
            pairs[3].round(&styxy, 50, &plain).await;
        }
    }
    let [base, base_after_rest, base_known, base_claim] = echoes;
    let [plain, known, new, after_rest, second] = pairs;
    let name = "Allocate over the bus, one client";
    results.add(Row::new(name, plain.grant(), "µs").floor(base.grant()).at_most_times(1.5));
    let name = "Allocate and Release over the bus, one client";
    results.add(Row::new(name, plain.pair(), "µs").floor(base.pair()));
    let name = "Allocate for a project with a remembered port";
    results.add(Row::new(name, known.grant(), "µs").floor(base_known.grant()).at_most_times(1.5));
    let name = "Allocate for the second slot of a service";
    results.add(Row::new(name, second.grant(), "µs").floor(base_known.grant()).at_most_times(1.5));
    let name = "Allocate a claim that is there";
    results.add(Row::new(name, median(&claims), "µs").floor(base_claim.grant()).at_most_times(1.5));
    // What is new of a project must be on the disk first.
    let name = "Allocate for a new project, which waits for the disk";
    results.add(Row::new(name, new.grant(), "µs").floor(base_known.grant()));
    let name = "Allocate, 50 times after a rest";
    let rested = Row::new(name, after_rest.grant(), "µs");
    results.add(rested.floor(base_after_rest.grant()));
    calls(results).await;
}

/// A floor, a client of it, and one of a service that has nothing; both have run for a while.
async fn start() -> (Floor, Caller, Caller) {
    service::fresh(RANGE);
    let floor = Floor::on_bus();
    let (echo, styxy) = (Caller::new(ECHO).await, Caller::new(STYXY).await);
    echo.appears().await;
    echo.warm_up().await;
    styxy.warm_up().await;
    (floor, echo, styxy)
}

/// What is asked of the kernel.
async fn calls(results: &mut Results) {
    let (floor, echo, styxy) = start().await;
    let plain = Options::new();
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
    let (mut bases, mut grants) = (Vec::new(), Vec::new());
    for _ in 0..STARTS {
        let (_floor, mut echo, mut styxy) = start_http();
        echo.warm_up();
        styxy.warm_up();
        let (base, grant) = take_turns(&mut echo, &mut styxy).await;
        bases.push(base);
        grants.push(grant);
    }
    let name = "POST /allocate on the socket, one client";
    let row = Row::new(name, median(&grants), "µs").floor(median(&bases));
    results.add(row.at_most_times(1.6));

    let (floor, mut echo, mut styxy) = start_http();
    // On two processors, to wake the other side takes longer than all else, and where the kernel puts them is its choice.
    let all = [std::process::id(), floor.pid(), service::pid()];
    service::run_on(&all, |processor| processor == 0);
    echo.warm_up();
    styxy.warm_up();
    let (base, grant) = take_turns(&mut echo, &mut styxy).await;
    let name = "POST /allocate on the socket, keep-alive, on one processor";
    results.add(Row::new(name, grant, "µs").floor(base).at_most_times(4.0));
    service::run_on(&all, |_| true);
}

/// A floor on a socket, a client of it, and one of a service that has nothing.
fn start_http() -> (Floor, Http, Http) {
    service::fresh(RANGE);
    let (floor, socket) = Floor::on_socket();
    (floor, Http::new(&socket), Http::new(&service::socket()))
}

async fn take_turns(echo: &mut Http, styxy: &mut Http) -> (f64, f64) {
    in_turn(ROUNDS, async || median(&echo.pairs(CALLS)), async || median(&styxy.pairs(CALLS))).await
}
