//! Slow and silent clients beside one that asks for ports.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use crate::{
    call::Http,
    results::{Results, Row},
    service::{self, RANGE},
    stats::{in_turn, percentile},
};

const SLOW: usize = 200;
const SILENT: usize = 500;
const STREAMS: usize = 100;

/// The requests of a round, and the pause between them: a client that people would call busy.
const REQUESTS: usize = 400;
const PAUSE: Duration = Duration::from_millis(10);
const ROUNDS: usize = 5;

/// What one of a hundred requests takes, alone and in that crowd.
pub async fn patience(results: &mut Results) {
    service::fresh(RANGE);
    let mut client = Http::new(&service::socket());
    client.warm_up();
    let client = std::cell::RefCell::new(client);
    let p99 = || percentile(&paced(&mut client.borrow_mut()), 99);
    let (quiet, beside) = in_turn(
        ROUNDS,
        async || p99(),
        async || {
            let crowd = Crowd::gather();
            let value = p99();
            crowd.leave();
            value
        },
    )
    .await;
    let name =
        "p99 of POST /allocate beside 200 slow clients, 500 silent ones and 100 streams of events";
    results.add(Row::new(name, beside, "µs").floor(quiet).at_most_times(2.0));
}

/// How long each grant took.
fn paced(client: &mut Http) -> Vec<f64> {
    let mut grants = Vec::new();
    for _ in 0..REQUESTS {
        grants.extend(client.pairs(1));
        thread::sleep(PAUSE);
    }
    grants
}

struct Crowd {
    is_over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    _silent: Vec<UnixStream>,
}

impl Crowd {
    fn gather() -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let connect = || UnixStream::connect(service::socket()).unwrap();
        // Those that follow the events first: they keep their places when it gets crowded.
        let streams: Vec<_> = (0..STREAMS).map(|_| connect()).collect();
        for mut stream in &streams {
            stream.write_all(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
            let mut first = [0; 12];
            stream.read_exact(&mut first).unwrap();
            assert_eq!(&first, b"HTTP/1.1 200");
            stream.set_nonblocking(true).unwrap();
        }
        let silent = (0..SILENT).map(|_| connect()).collect();
        let slow = (0..SLOW).map(|_| connect()).collect();
        let threads = vec![
            background(&is_over, Duration::from_secs(1), byte_after_byte(slow)),
            background(&is_over, Duration::from_millis(50), move || {
                let mut buffer = [0; 65_536];
                for mut stream in &streams {
                    while stream.read(&mut buffer).is_ok_and(|count| count > 0) {}
                }
            }),
        ];
        Self { is_over, threads, _silent: silent }
    }

    fn leave(self) {
        self.is_over.store(true, Ordering::Relaxed);
        self.threads.into_iter().for_each(|thread| thread.join().unwrap());
    }
}

/// Sends the next byte of a request on each connection; one that was closed begins again.
fn byte_after_byte(mut clients: Vec<UnixStream>) -> impl FnMut() + Send + 'static {
    let request = b"POST /allocate HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n";
    let mut byte = 0;
    move || {
        for client in &mut clients {
            if client.write_all(&request[byte..=byte]).is_err() {
                *client = UnixStream::connect(service::socket()).unwrap();
            }
        }
        byte = (byte + 1) % request.len();
    }
}

fn background(
    is_over: &Arc<AtomicBool>,
    every: Duration,
    mut work: impl FnMut() + Send + 'static,
) -> JoinHandle<()> {
    let is_over = Arc::clone(is_over);
    thread::spawn(move || {
        while !is_over.load(Ordering::Relaxed) {
            work();
            thread::sleep(every);
        }
    })
}
