//! The service ends when nobody needs it, comes back with the next call, and obeys systemd.

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

use crate::{
    Test, crash,
    inside::{self, Dice, Granted},
    machine::{Machine, eventually},
};

pub const TESTS: &[Test] = &[
    ("calls_around_the_idle_time_are_all_answered", around_the_idle_time),
    ("an_open_connection_is_answered_although_the_service_ends", open_connection),
    ("three_hundred_quick_starts_are_not_too_many", quick_starts),
    ("an_unused_service_exits_after_the_idle_time", unused),
    ("a_live_lease_keeps_the_service_alive", kept_alive),
    ("a_reload_puts_a_new_idle_time_in_force", new_idle_time),
    ("a_reload_brings_a_new_service_type", reload),
    ("a_broken_configuration_is_reported_and_the_service_goes_on", broken_configuration),
    ("the_service_ends_cleanly_on_sigterm_and_sigint", signals),
    ("a_signal_right_after_the_first_answer_ends_it_cleanly", early_signals),
    ("a_service_that_hangs_is_ended_by_the_watchdog_and_comes_back", watchdog),
];

const SERVICE: &str = "styxy.service";

/// Generous; nothing here takes more than a few seconds.
const LIMIT: Duration = Duration::from_secs(20);

fn around_the_idle_time(machine: &Machine) {
    machine.configure(r#"{"idle_exit_seconds": 1}"#);
    machine.user("systemctl --user stop styxy.service").ok();
    let result = machine.inside("idle calls 5000");
    eprintln!("{}: {}", machine.name(), result["summary"]);

    assert_eq!(result["errors"], json!([]), "{}", result["summary"]);
    assert!(result["calls"].as_u64() >= Some(5_000), "{}", result["summary"]);
    assert!(result["exits"].as_u64() >= Some(40), "{}", result["summary"]);
    assert!(starts(machine) as u64 > result["exits"].as_u64().unwrap(), "systemd counts too");
    assert_never_failed(machine);
    assert_eq!(machine.call("List", "'a{sv}' 0").unwrap(), json!([[]]));
    // What was answered was done, and once.
    let events = crash::audited(machine);
    for (action, leases) in [("allocate", &result["granted"]), ("release", &result["released"])] {
        let of_action = events.iter().filter(|event| event["STYXY_ACTION"] == action);
        let mut told: Vec<_> = of_action.map(|event| event["STYXY_LEASE_ID"].as_str()).collect();
        let mut answered: Vec<_> = leases.as_array().unwrap().iter().map(Json::as_str).collect();
        told.sort_unstable();
        answered.sort_unstable();
        assert!(told == answered, "{action}: {} answers, {} events", answered.len(), told.len());
    }
}

/// Neither now nor before.
fn assert_never_failed(machine: &Machine) {
    // A restart is no failure: the service goes on when a lease was granted while it was ending.
    assert_eq!(machine.unit(SERVICE, "Result"), "success");
    // SD_MESSAGE_UNIT_FAILED and SD_MESSAGE_UNIT_FAILURE_RESULT.
    let failures = machine.user(
        "journalctl -q -o cat --user-unit=styxy.service --user-unit=styxy.socket \
         MESSAGE_ID=be02cf6855d2428ba40df7e9d022f03d \
         MESSAGE_ID=d9b373ed55a64feb8242e02dbe79a49c",
    );
    assert_eq!(failures.stdout, "");
    assert_eq!(machine.unit_state("styxy.socket"), "active");
}

/// How often systemd has started the service.
fn starts(machine: &Machine) -> usize {
    // SD_MESSAGE_UNIT_STARTING. One that is stopped very early is never called started.
    let starting = "journalctl -q -o cat --user-unit=styxy.service \
                    MESSAGE_ID=7d4958e842da4a758f6c1cdc7b36dcc5";
    machine.user(starting).ok().lines().count()
}

fn open_connection(machine: &Machine) {
    let answer = machine.inside("idle open");
    assert_eq!(answer["success"], true, "{answer}");
    assert_never_failed(machine);
}

fn quick_starts(machine: &Machine) {
    let result = machine.inside("idle starts 300");
    eprintln!("{}: 300 starts and ends in {} s", machine.name(), result["seconds"]);
    eventually(LIMIT, "the journal has every start", || starts(machine) >= 300);
    assert_eq!(starts(machine), 300);
    assert_never_failed(machine);
    assert_eq!(machine.call("Allocate", "'sa{sv}' dev 0").unwrap()[0], 3000);
}

fn unused(machine: &Machine) {
    machine.configure(r#"{"idle_exit_seconds": 1}"#);
    machine.user("systemctl --user restart styxy.service").ok();
    eventually(LIMIT, "it exits", || machine.unit_state(SERVICE) == "inactive");
    let moment = |event: &str| {
        machine.unit(SERVICE, &format!("{event}TimestampMonotonic")).parse::<u64>().unwrap()
    };
    let lived = Duration::from_micros(moment("InactiveEnter") - moment("ActiveEnter"));
    assert!(lived >= Duration::from_secs(1), "{lived:?}");
    assert_eq!(machine.unit(SERVICE, "ExecMainStatus"), "0");
    assert_never_failed(machine);
    let names = machine.user("busctl --user list --acquired --no-legend").ok();
    assert!(!names.contains("org.styxy.Styxy1"), "{names}");
    assert_eq!(machine.user("pgrep -x styxy").code, Some(1), "no process is left");
}

fn kept_alive(machine: &Machine) {
    machine.configure(r#"{"idle_exit_seconds": 1}"#);
    machine.user("systemctl --user stop styxy.service").ok();
    let lease = machine.call("Allocate", "'sa{sv}' dev 0").unwrap();
    let pid = machine.unit(SERVICE, "MainPID");
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(4) {
        assert_eq!(machine.unit(SERVICE, "MainPID"), pid, "after {:?}", start.elapsed());
    }
    let id = lease[1].as_str().unwrap();
    assert_eq!(machine.call("Release", &format!("s {id}")).unwrap(), json!([3000]));
    eventually(LIMIT, "it exits after the release", || machine.unit_state(SERVICE) == "inactive");
    assert_never_failed(machine);
}

fn new_idle_time(machine: &Machine) {
    machine.call("Check", "qs 3000 tcp").unwrap();
    assert_eq!(machine.unit_state(SERVICE), "active");
    machine.configure(r#"{"idle_exit_seconds": 1}"#);
    eventually(LIMIT, "it exits after the new time", || machine.unit_state(SERVICE) == "inactive");
    assert_eq!(starts(machine), 1);
}

fn reload(machine: &Machine) {
    let allocate = || machine.call("Allocate", "'sa{sv}' game 0");
    let refusal = allocate().unwrap_err();
    assert!(refusal.contains("there is no service type \"game\""), "{refusal}");
    let pid = machine.unit(SERVICE, "MainPID");

    let monitor = "exec busctl --user monitor --json=short org.styxy.Styxy1 >signals 2>&1";
    let mut monitor = machine.start(monitor);
    eventually(LIMIT, "the monitor sees a call", || {
        machine.call("Check", "qs 3000 tcp").unwrap();
        machine.user("grep -q Check signals").code == Some(0)
    });
    machine
        .user(
            "mkdir -p ~/.config/styxy/config.d
             echo '{\"service_types\": {\"game\": {\"port_range\": [7000, 7009]}}}' \
                 >~/.config/styxy/config.d/game.json
             systemctl --user reload styxy.service",
        )
        .ok();
    eventually(LIMIT, "the signal is seen", || {
        machine.user("grep -q '\"ServiceTypeAdded\".*\"game\"' signals").code == Some(0)
    });
    monitor.kill().unwrap();
    monitor.wait().unwrap();

    assert_eq!(allocate().unwrap()[0], 7000);
    assert_eq!(machine.unit(SERVICE, "MainPID"), pid);
    let events = crash::audited(machine);
    let event = events.iter().find(|event| event["STYXY_ACTION"] == "config_reload").unwrap();
    assert_eq!(event["MESSAGE"], "The configuration changed; new service types: game");

    machine.user("rm ~/.config/styxy/config.d/game.json").ok();
    machine.user("systemctl --user kill -s HUP styxy.service").ok();
    eventually(LIMIT, "the type is gone", || allocate().is_err());
    assert_eq!(machine.unit(SERVICE, "MainPID"), pid);
}

fn broken_configuration(machine: &Machine) {
    let lease = machine.call("Allocate", "'sa{sv}' dev 0").unwrap();
    let pid = machine.unit(SERVICE, "MainPID");
    let write = |lines: &[&str]| {
        let words: Vec<_> = lines.iter().map(|line| format!("'{line}'")).collect();
        let file = "~/.config/styxy/config.json";
        machine.user(&format!("printf '%s\\n' {} >{file}", words.join(" "))).ok();
    };
    let reload = || machine.call("Reload", "").unwrap()[0].clone();
    let file = "/home/dev/.config/styxy/config.json";

    write(&["{", "  \"idle_exit_seconds\": 7,", "  \"limits\": {,}", "}"]);
    let syntax = reload();
    assert_eq!(syntax.as_array().unwrap().len(), 1, "{syntax}");
    let text = syntax[0].as_str().unwrap();
    assert!(text.starts_with(&format!("{file}:3:14: this is not JSON: ")), "{text}");

    write(&[
        "{",
        "  \"idle_exit_seconds\": 7,",
        "  \"service_types\": {\"dev\": {\"port_range\": [3099, 3000]}},",
        "  \"excluded_ports\": [0]",
        "}",
    ]);
    let fields = reload();
    let texts: Vec<_> = fields.as_array().unwrap().iter().map(|p| p.as_str().unwrap()).collect();
    assert_eq!(texts.len(), 2, "{texts:?}");
    let first = format!("{file}:3:43: service_types.dev.port_range: the range is reversed");
    let second = format!("{file}:4:22: excluded_ports[0]: must be a whole number from 1 to 65535");
    assert!(texts.iter().any(|text| text.starts_with(&first)), "{texts:?}");
    assert!(texts.iter().any(|text| text.starts_with(&second)), "{texts:?}");

    // The rest of it is in force, and what was good before stays so.
    let status = machine.call("Status", "").unwrap()[0].clone();
    assert_eq!(status["idle_exit_seconds"]["data"], 7);
    assert_eq!(status["config_problems"]["data"], fields);
    assert_eq!(machine.call("Allocate", "'sa{sv}' dev 0").unwrap()[0], 3001);
    assert_eq!(machine.unit(SERVICE, "MainPID"), pid);
    let events = crash::audited(machine);
    for problem in [text, texts[0], texts[1]] {
        let mut told = events.iter().filter(|event| event["STYXY_REASON"] == problem);
        let event = told.next().unwrap_or_else(|| panic!("no event says {problem}"));
        assert_eq!(event["STYXY_ACTION"], "config_error");
        assert_eq!(event["PRIORITY"], "4");
        assert!(told.next().is_none(), "{problem} is told twice");
    }

    // It starts with it, too.
    machine.user("systemctl --user restart styxy.service").ok();
    let leases = machine.call("List", "'a{sv}' 0").unwrap();
    assert_eq!(leases[0][0]["lease_id"]["data"], lease[1]);
    assert_eq!(reload(), fields);
    write(&["{}"]);
    assert_eq!(reload(), json!([]));
}

fn signals(machine: &Machine) {
    let lease = machine.call("Allocate", "'sa{sv}' dev 0").unwrap();
    for signal in ["TERM", "INT"] {
        assert_eq!(machine.call("List", "'a{sv}' 0").unwrap()[0][0]["lease_id"]["data"], lease[1]);
        machine.user(&format!("systemctl --user kill -s {signal} {SERVICE}")).ok();
        eventually(LIMIT, "it ends", || machine.unit_state(SERVICE) == "inactive");
        assert_eq!(machine.unit(SERVICE, "ExecMainCode"), "1", "it has exited by itself");
        assert_eq!(machine.unit(SERVICE, "ExecMainStatus"), "0");
        assert_never_failed(machine);
    }
    assert_eq!(machine.call("List", "'a{sv}' 0").unwrap()[0][0]["lease_id"]["data"], lease[1]);
}

fn early_signals(machine: &Machine) {
    machine.inside("idle signals 20");
    assert_never_failed(machine);
}

fn watchdog(machine: &Machine) {
    machine
        .user(
            "mkdir -p ~/.config/systemd/user/styxy.service.d
             printf '[Service]\\nWatchdogSec=1\\n' \
                 >~/.config/systemd/user/styxy.service.d/short.conf
             systemctl --user daemon-reload",
        )
        .ok();
    let lease = machine.call("Allocate", "'sa{sv}' dev 0").unwrap();
    let pid = machine.unit(SERVICE, "MainPID");
    assert_eq!(machine.unit(SERVICE, "WatchdogUSec"), "1s");
    eventually(LIMIT, "the status is shown", || machine.unit(SERVICE, "StatusText") == "1 leases");
    let beat = || machine.unit(SERVICE, "WatchdogTimestampMonotonic").parse::<u64>().unwrap();
    let first = beat();
    eventually(LIMIT, "it tells that it lives", || beat() > first + 3_000_000);
    assert_eq!(machine.unit(SERVICE, "MainPID"), pid);

    machine.user(&format!("kill -STOP {pid}")).ok();
    eventually(LIMIT, "systemd starts it anew", || {
        machine.unit(SERVICE, "NRestarts") == "1" && machine.unit_state(SERVICE) == "active"
    });
    let leases = machine.call("List", "'a{sv}' 0").unwrap();
    assert_eq!(leases[0][0]["lease_id"]["data"], lease[1]);
    assert_ne!(machine.unit(SERVICE, "MainPID"), pid);
}

/// What runs in the machine.
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
