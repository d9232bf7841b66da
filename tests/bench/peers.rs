//! What people use today, for comparison; there are no targets. `tests/bench/run` puts them in place.

use std::{
    io::{Read, Write},
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixStream},
    },
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value as Json;

use crate::{
    results::{Results, Row},
    stats::median,
};

const FOLDER: &str = "/opt/peers";
const ADDRESS: &str = "styxy-bench-portserver";

/// The time until each has a port.
pub fn peers(results: &mut Results) {
    if !Path::new(FOLDER).exists() {
        eprintln!("bench: SKIPPED: the peers are not here");
        return;
    }
    let name = "python_portpicker's portserver, a port";
    results.add(Row::new(name, portserver(), "µs"));
    let output = Command::new("node").arg(format!("{FOLDER}/node/peers.mjs")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let times: Json = serde_json::from_slice(&output.stdout).unwrap();
    for (name, times) in times.as_object().unwrap() {
        let times: Vec<f64> = serde_json::from_value(times.clone()).unwrap();
        results.add(Row::new(format!("{name} (npm), a port"), median(&times), "µs"));
    }
}

fn portserver() -> f64 {
    let _server = Server(
        Command::new("python3")
            .arg(format!("{FOLDER}/python/portserver.py"))
            .args(["--portserver_static_pool=20000-29999"])
            .arg(format!("--portserver_address=@{ADDRESS}"))
            .env("PYTHONPATH", format!("{FOLDER}/python"))
            .stderr(Stdio::null())
            .spawn()
            .unwrap(),
    );
    let address = SocketAddr::from_abstract_name(ADDRESS).unwrap();
    let start = Instant::now();
    while UnixStream::connect_addr(&address).is_err() {
        assert!(start.elapsed() < Duration::from_secs(10), "the portserver does not listen");
        thread::sleep(Duration::from_millis(20));
    }
    let mut times = Vec::new();
    for _ in 0..1_000 {
        let start = Instant::now();
        let mut stream = UnixStream::connect_addr(&address).unwrap();
        write!(stream, "{}", std::process::id()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.trim().parse::<u16>().is_ok(), "{answer:?}");
        times.push(start.elapsed().as_secs_f64() * 1e6);
    }
    median(&times)
}

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
