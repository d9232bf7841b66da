//! From a stopped service to its first answer.

use std::path::{Path, PathBuf};

use crate::{
    call::{Caller, Http, STYXY},
    fixture,
    floor::{self, CONFINED, EMPTY},
    results::{Results, Row},
    service::{self, RANGE, UNIT, WIDE, home, socket, systemctl},
    stats::{median, ms, timed},
};

const ROUNDS: usize = 9;

/// Without any state, beside a service that is empty.
pub async fn cold(results: &mut Results) {
    floor::install(&home(".config/systemd/user"), &home(".local/share/dbus-1/services"));
    systemctl(&["daemon-reload"]);
    for unit in ["empty", "confined"] {
        systemctl(&["start", &format!("styxy-bench-{unit}-http.socket")]);
    }
    service::reset(RANGE);
    let (empty, confined) = (Caller::new(EMPTY).await, Caller::new(CONFINED).await);
    let styxy = Caller::new(STYXY).await;
    empty.rescan().await;

    let mut times: [Vec<f64>; 6] = Default::default();
    for _ in 0..ROUNDS {
        times[0].push(over_bus(&empty, "styxy-bench-empty.service").await);
        times[1].push(over_bus(&confined, "styxy-bench-confined.service").await);
        times[2].push(over_bus(&styxy, UNIT).await);
        times[3].push(over_socket(&socket_of("empty"), "styxy-bench-empty-http.service").await);
        times[4]
            .push(over_socket(&socket_of("confined"), "styxy-bench-confined-http.service").await);
        times[5].push(over_socket(&socket(), UNIT).await);
    }
    let [bus, bus_confined, ours, http, http_confined, ours_http] = times.map(|t| median(&t));
    for (way, floor, confined, ours) in
        [("bus", bus, bus_confined, ours), ("socket", http, http_confined, ours_http)]
    {
        let name = format!("stopped service → answer over the {way} (floor: an empty service)");
        results.add(Row::new(name, ours, "ms").floor(floor).at_most_times(3.0));
        let name = format!("the same over the {way} (floor: an empty one in the same sandbox)");
        results.add(Row::new(name, ours, "ms").floor(confined));
    }
    for unit in ["empty", "confined"] {
        systemctl(&["stop", &format!("styxy-bench-{unit}-http.socket")]);
    }
}

fn socket_of(unit: &str) -> PathBuf {
    let runtime = socket();
    let runtime = runtime.parent().and_then(Path::parent).unwrap();
    runtime.join(format!("styxy-bench-{unit}.sock"))
}

async fn over_bus(caller: &Caller, unit: &str) -> f64 {
    systemctl(&["stop", unit]);
    caller.gone().await;
    let (time, (_, lease_id)) = timed(caller.allocate()).await;
    caller.release(&lease_id).await;
    ms(time)
}

async fn over_socket(socket: &Path, unit: &str) -> f64 {
    systemctl(&["stop", unit]);
    let (time, (mut client, lease_id)) = timed(async {
        let mut client = Http::new(socket);
        let lease_id = client.allocate();
        (client, lease_id)
    })
    .await;
    client.release(&lease_id);
    ms(time)
}

/// With a large state.
pub async fn restart(results: &mut Results) {
    service::reset(WIDE);
    fixture::write(WIDE, 60_000, 10_000);
    let styxy = Caller::new(STYXY).await;
    let mut times = Vec::new();
    for _ in 0..5 {
        times.push(over_bus(&styxy, UNIT).await);
    }
    let name = "restart with 60,000 leases and 10,000 remembered ports → answer";
    results.add(Row::new(name, median(&times), "ms").at_most(150.0));
    service::reset(RANGE);
}
