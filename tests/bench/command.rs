//! What it costs to start the command, beside the one that systemd brings.

use std::process::{Command, Stdio};

use crate::{
    results::{Results, Row},
    service::{self, RANGE, TYPE},
    stats::{in_turn, ms, timed},
};

const ROUNDS: usize = 101;

/// `styxy list` and `busctl --user call` of the same method, of a service that runs.
pub async fn command(results: &mut Results) {
    service::fresh(RANGE);
    let (busctl, styxy) = in_turn(
        ROUNDS,
        async || {
            let name = "org.styxy.Styxy1";
            run(
                "busctl",
                &["--user", "call", name, "/org/styxy/Styxy1", name, "List", "a{sv}", "0"],
            )
            .await
        },
        async || run("styxy", &["list"]).await,
    )
    .await;
    let name = "styxy list, from its start to its end (floor: busctl --user call)";
    results.add(Row::new(name, styxy, "ms").floor(busctl).at_most_times(1.5));
    let (alone, leased) = in_turn(
        ROUNDS,
        async || run("true", &[]).await,
        async || run("styxy", &["run", TYPE, "--quiet", "--", "true"]).await,
    )
    .await;
    let name = "what styxy run takes until it starts its command";
    results.add(Row::new(name, leased - alone, "ms").floor(busctl).at_most_times(1.5));
}

async fn run(program: &str, arguments: &[&str]) -> f64 {
    let (time, status) = timed(async {
        Command::new(program).args(arguments).stdout(Stdio::null()).status().unwrap()
    })
    .await;
    assert!(status.success(), "{program} {arguments:?}");
    ms(time)
}
