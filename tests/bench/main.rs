//! How fast styxy is, beside what the machine could do at best: `tests/bench/run` boots a machine, runs
//! this program in it as an ordinary user, and keeps its results.
//!
//! Every measurement with a floor takes turns with it, round by round, and medians are compared: what
//! disturbs the machine disturbs both.
//!
//! - `results`: rows, the table and the file; `stats`: medians, rounds
//! - `service`: the installed service, its configuration and its state; `fixture`: large states
//! - `call`: the clients, on the bus and on the socket
//! - `floor`: the servers that styxy is compared with; each is this program again
//! - `syscalls`: what the service asks of the kernel for one call
//! - the other modules: the topics

#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "measured numbers are far from any limit"
)]

mod burst;
mod call;
mod cold;
mod command;
mod fixture;
mod floor;
mod load;
mod patience;
mod peers;
mod rest;
mod results;
mod scale;
mod service;
mod speed;
mod stats;
mod syscalls;

use results::Results;

/// The topics, in the order in which they run.
const TOPICS: [&str; 16] = [
    "bus", "http", "load", "crowd", "patience", "full", "scarce", "busy", "cold", "restart",
    "memory", "idle", "burst", "state", "command", "peers",
];

/// Where the results go, in the machine.
const RESULTS: &str = "results.json";

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        match arguments.as_slice() {
            ["serve", what, rest @ ..] => floor::serve(what, rest).await,
            topics => measure(topics).await,
        }
    });
}

async fn measure(wanted: &[&str]) {
    if let Some(unknown) = wanted.iter().find(|topic| !TOPICS.contains(topic)) {
        eprintln!("there is no topic {unknown:?}; there are {}", TOPICS.join(", "));
        std::process::exit(2);
    }
    let mut results = Results::default();
    for topic in TOPICS.iter().filter(|topic| wanted.is_empty() || wanted.contains(topic)) {
        let start = std::time::Instant::now();
        match *topic {
            "bus" => speed::bus(&mut results).await,
            "http" => speed::http(&mut results).await,
            "load" => load::throughput(&mut results).await,
            "crowd" => load::crowd(&mut results).await,
            "patience" => patience::patience(&mut results).await,
            "full" => scale::full(&mut results).await,
            "scarce" => scale::scarce(&mut results).await,
            "busy" => scale::busy(&mut results).await,
            "cold" => cold::cold(&mut results).await,
            "restart" => cold::restart(&mut results).await,
            "memory" => rest::memory(&mut results).await,
            "idle" => rest::idle(&mut results).await,
            "burst" => burst::burst(&mut results).await,
            "state" => burst::state(&mut results).await,
            "command" => command::command(&mut results).await,
            "peers" => peers::peers(&mut results),
            _ => unreachable!(),
        }
        eprintln!("bench: {topic} took {:.0?}", start.elapsed());
        // What was measured is kept, whatever happens to the rest.
        results.save(RESULTS);
    }
    print!("{results}");
}
