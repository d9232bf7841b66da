//! What runs in the machine: clients that call around the moment of the exit.

use std::{
    collections::{BTreeSet, HashMap},
    env,
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    process::Command,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value as Json, json};
use tokio::sync::Barrier;
use zbus::{Connection, Variant};

use super::{LIMIT, SERVICE};
use crate::{
    inside::{self, Dice, Granted},
    machine::eventually,
};

/// Runs the command that the arguments name.
pub async fn inside(arguments: &[&str]) -> Json {
    match arguments {
        ["calls", calls] => call_around_the_idle_time(calls.parse().unwrap()).await,
        ["starts", starts] => start_and_stop(starts.parse().unwrap()).await,
        ["signals", rounds] => ask_and_signal(rounds.parse().unwrap()).await,
        ["open"] => ask_while_it_ends(),
        _ => panic!("there is no command {arguments:?}"),
    }
}

const CLIENTS: usize = 4;
const PAUSES: usize = 80;

/// What the clients have seen, and how they go on.
struct Plan {
    /// How long all of them pause next, at least.
    pause: Duration,
    /// By how much that changes.
    step: Duration,
    had_exited: bool,
    /// The service that answered last.
    pid: u64,
    exits: usize,
    calls: usize,
    slowest: Duration,
    granted: BTreeSet<String>,
    released: BTreeSet<String>,
    errors: Vec<String>,
}

const LEAST_STEP: Duration = Duration::from_millis(1);

impl Plan {
    /// Makes the next pause longer if the service did not exit in the last one, else shorter: by
    /// little around the moment of the exit, by more on the way to it.
    fn aim(&mut self, has_exited: bool) {
        let on = has_exited == self.had_exited;
        self.step = if on { (self.step * 2).min(LEAST_STEP * 16) } else { LEAST_STEP };
        self.had_exited = has_exited;
        // The longer steps that way, so that it exits more often than not.
        if has_exited { self.pause -= self.step } else { self.pause += self.step * 3 }
    }
}

/// Calls in bursts, and pauses in between so that the next call comes when the service is about to
/// exit: a pause in which it did not is followed by a longer one, and the other way round.
async fn call_around_the_idle_time(calls: usize) -> Json {
    let start = Instant::now();
    let plan = Arc::new(Mutex::new(Plan {
        pause: Duration::from_secs(1),
        step: LEAST_STEP,
        had_exited: false,
        pid: 0,
        exits: 0,
        calls: 0,
        slowest: Duration::ZERO,
        granted: BTreeSet::new(),
        released: BTreeSet::new(),
        errors: Vec::new(),
    }));
    let barrier = Arc::new(Barrier::new(CLIENTS));
    let mut tasks = Vec::new();
    for number in 0..CLIENTS {
        let door = if number % 2 == 0 { Door::Bus(inside::bus().await) } else { Door::Http };
        let client = Client {
            door,
            number,
            burst: calls.div_ceil(CLIENTS * PAUSES),
            plan: Arc::clone(&plan),
            barrier: Arc::clone(&barrier),
            dice: Dice(number as u64 + 1),
        };
        tasks.push(tokio::spawn(client.run()));
    }
    for task in tasks {
        task.await.unwrap();
    }
    let plan = plan.lock().unwrap();
    let summary = format!(
        "{} calls and {} exits in {:.0?}, the slowest call took {:.0?}, {} failed",
        plan.calls,
        plan.exits,
        start.elapsed(),
        plan.slowest,
        plan.errors.len(),
    );
    json!({
        "summary": summary,
        "calls": plan.calls,
        "exits": plan.exits,
        "granted": plan.granted,
        "released": plan.released,
        "errors": plan.errors,
    })
}

struct Client {
    door: Door,
    number: usize,
    burst: usize,
    plan: Arc<Mutex<Plan>>,
    barrier: Arc<Barrier>,
    dice: Dice,
}

impl Client {
    async fn run(mut self) {
        for turn in 0..PAUSES {
            // Who comes to the other door starts the service as well: a call that is lost at one
            // of them shows only as long as nobody does.
            let is_first =
                matches!((turn % 3, &self.door), (0, Door::Bus(_)) | (1, Door::Http) | (2, _));
            if is_first {
                self.burst().await;
            }
            self.barrier.wait().await;
            if !is_first {
                self.burst().await;
            }
            if turn % CLIENTS == self.number {
                self.observe().await;
            }
            // All are silent together, or the service would never be idle.
            self.barrier.wait().await;
            let pause = {
                let plan = self.plan.lock().unwrap();
                if !plan.errors.is_empty() {
                    return;
                }
                plan.pause
            };
            // Some come a little before it exits, some a little after.
            let jitter = Duration::from_micros(self.dice.below(6_000));
            tokio::time::sleep(pause + jitter).await;
        }
    }

    /// Some calls in a row, with a pause now and then. Nothing is leased at its end.
    async fn burst(&mut self) {
        let mut held: Option<Granted> = None;
        for left in (0..self.burst).rev() {
            if self.dice.below(4) == 0 {
                tokio::time::sleep(Duration::from_micros(self.dice.below(5_000))).await;
            }
            let start = Instant::now();
            let result = match (held.take(), self.dice.below(4)) {
                (Some((port, id)), choice) if choice < 2 || left == 0 => {
                    let result = self.door.release(&id).await;
                    self.plan.lock().unwrap().released.insert(id);
                    result.and_then(|released| right(released == port, "another port is released"))
                }
                (Some((port, id)), _) => {
                    let leases = self.door.list().await;
                    let listed = leases.map(|leases| leases.get(&id) == Some(&port));
                    held = Some((port, id));
                    listed.and_then(|listed| right(listed, "its own lease is not listed"))
                }
                (None, choice) if choice > 0 && left > 0 => match self.door.allocate().await {
                    Ok((port, id)) => {
                        self.plan.lock().unwrap().granted.insert(id.clone());
                        held = Some((port, id));
                        Ok(())
                    }
                    Err(error) => Err(error),
                },
                (None, _) => self.door.check().await,
            };
            let mut plan = self.plan.lock().unwrap();
            plan.calls += 1;
            plan.slowest = plan.slowest.max(start.elapsed());
            if let Err(error) = result {
                let door = self.door.name();
                plan.errors.push(format!("{door} after {:.0?}: {error}", start.elapsed()));
            }
        }
    }

    /// Looks whether another service answers than before, and plans the next pause by it.
    async fn observe(&self) {
        let pid = self.door.pid().await;
        let mut plan = self.plan.lock().unwrap();
        plan.calls += 1;
        match pid {
            Ok(pid) => {
                let has_exited = pid != plan.pid;
                plan.exits += usize::from(has_exited && plan.pid != 0);
                plan.pid = pid;
                plan.aim(has_exited);
            }
            Err(error) => plan.errors.push(error),
        }
    }
}

fn right(is_right: bool, otherwise: &str) -> Result<(), String> {
    if is_right { Ok(()) } else { Err(otherwise.to_owned()) }
}

/// A way to the service.
enum Door {
    Bus(Connection),
    /// With a new connection for each call.
    Http,
}

impl Door {
    fn name(&self) -> &'static str {
        match self {
            Self::Bus(_) => "bus",
            Self::Http => "http",
        }
    }

    async fn allocate(&self) -> Result<Granted, String> {
        match self {
            Self::Bus(bus) => inside::allocate(bus, "dev").await,
            Self::Http => {
                let answer = http("POST", "/allocate", r#"{"service_type": "dev"}"#).await?;
                Ok((port(&answer), answer["lock_id"].as_str().unwrap().to_owned()))
            }
        }
    }

    async fn release(&self, id: &str) -> Result<u16, String> {
        match self {
            Self::Bus(bus) => inside::release(bus, id).await,
            Self::Http => Ok(port(&http("DELETE", &format!("/allocate/{id}"), "").await?)),
        }
    }

    async fn list(&self) -> Result<HashMap<String, u16>, String> {
        match self {
            Self::Bus(bus) => inside::list(bus).await,
            Self::Http => {
                let answer = http("GET", "/allocations", "").await?;
                let leases = answer["allocations"].as_array().unwrap().iter();
                let id = |lease: &Json| lease["lease_id"].as_str().unwrap().to_owned();
                Ok(leases.map(|lease| (id(lease), port(lease))).collect())
            }
        }
    }

    async fn check(&self) -> Result<(), String> {
        match self {
            Self::Bus(bus) => inside::call(bus, "Check", &(3000_u16, "tcp")).await.map(drop),
            Self::Http => http("GET", "/check/3000", "").await.map(drop),
        }
    }

    /// The process that answers.
    async fn pid(&self) -> Result<u64, String> {
        match self {
            Self::Bus(bus) => {
                let reply = inside::call(bus, "Status", &()).await?;
                let body = reply.body();
                let status: HashMap<&str, Variant<'_>> = body.deserialize().unwrap();
                match status["pid"] {
                    Variant::U32(pid) => Ok(pid.into()),
                    ref other => panic!("{other:?}"),
                }
            }
            Self::Http => Ok(http("GET", "/status", "").await?["pid"].as_u64().unwrap()),
        }
    }
}

fn port(answer: &Json) -> u16 {
    answer["port"].as_u64().unwrap().try_into().unwrap()
}

/// A request on a connection of its own.
async fn http(method: &str, path: &str, body: &str) -> Result<Json, String> {
    let request = request(method, path, body);
    let exchange = move || connect().and_then(|stream| exchange(stream, &request));
    let answer = tokio::task::spawn_blocking(exchange).await.unwrap();
    read(&answer.map_err(|error| error.to_string())?)
}

fn request(method: &str, path: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n{body}"
    )
}

fn connect() -> io::Result<UnixStream> {
    let folder = env::var_os("XDG_RUNTIME_DIR").unwrap();
    UnixStream::connect(Path::new(&folder).join("styxy/http.sock"))
}

fn exchange(mut stream: UnixStream, request: &str) -> io::Result<String> {
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn read(answer: &str) -> Result<Json, String> {
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.starts_with("HTTP/1.1 200 ") => {
            serde_json::from_str(body).map_err(|error| error.to_string())
        }
        _ => Err(format!("the answer is {answer:?}")),
    }
}

/// Connects to the running service, and asks something only when the service is ending.
fn ask_while_it_ends() -> Json {
    let get = |path| exchange(connect().unwrap(), &request("GET", path, "")).unwrap();
    let pid = read(&get("/status")).unwrap()["pid"].as_u64().unwrap();
    eventually(LIMIT, "it is ready", is_active);
    let stream = connect().unwrap();
    // It accepts in order, so now it has that connection, too.
    get("/status");
    signal(pid, Signal::SIGTERM);
    eventually(LIMIT, "it is ending", || !is_active());
    let answer = exchange(stream, &request("GET", "/status", ""));
    answer.map_err(|error| error.to_string()).and_then(|answer| read(&answer)).unwrap()
}

/// Starts the service by a call, from one side and the other, and ends it as soon as it answers.
async fn ask_and_signal(rounds: usize) -> Json {
    let doors = [Door::Bus(inside::bus().await), Door::Http];
    for round in 0..rounds {
        let pid = doors[round % 2].pid().await.unwrap();
        signal(pid, [Signal::SIGTERM, Signal::SIGINT][round / 2 % 2]);
        eventually(LIMIT, "it ends", || main_pid() != pid);
    }
    Json::Null
}

fn signal(pid: u64, signal: Signal) {
    kill(Pid::from_raw(pid.try_into().unwrap()), signal).unwrap();
}

/// The process that systemd has for the service, or 0.
fn main_pid() -> u64 {
    let arguments = ["--user", "show", "--value", "-p", "MainPID", SERVICE];
    let output = Command::new("systemctl").args(arguments).output().unwrap();
    String::from_utf8_lossy(&output.stdout).trim().parse().unwrap()
}

fn is_active() -> bool {
    let arguments = ["--user", "--quiet", "is-active", SERVICE];
    Command::new("systemctl").args(arguments).status().unwrap().success()
}

/// Starts the service by a call, from one side and the other, and has systemd stop it.
async fn start_and_stop(starts: usize) -> Json {
    let start = Instant::now();
    let doors = [Door::Bus(inside::bus().await), Door::Http];
    for number in 0..starts {
        let door = &doors[number % 2];
        if let Err(error) = door.check().await {
            panic!("{} after {number} starts: {error}", door.name());
        }
        let stopped = Command::new("systemctl").args(["--user", "stop", SERVICE]).status().unwrap();
        assert!(stopped.success(), "after {number} starts");
    }
    json!({"seconds": start.elapsed().as_secs()})
}
