//! Who gets a port between its grant and its use: with a guard, nobody but the client.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    env,
    io::{self, Read},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    os::fd::{AsRawFd, OwnedFd},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    libc::linger,
    sys::socket::{
        AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, connect, getsockname, listen,
        setsockopt, socket, sockopt,
    },
};
use serde_json::{Value as Json, json};
use zbus::{Connection, Variant};

use crate::{
    Test,
    guards::bind_socket,
    inside::{self, Dice},
    machine::Machine,
};

pub const TESTS: &[Test] = &[
    ("the_kernel_gives_no_guarded_port_away_by_itself", ephemeral),
    ("a_guarded_port_is_never_lost_before_it_is_used", race),
];

/// Makes these the ports that the kernel chooses from, and those of the type `dev`.
fn set_up(machine: &Machine, first: u16, last: u16) {
    machine.root(&format!("sysctl -qw net.ipv4.ip_local_port_range='{first} {last}'")).ok();
    machine.configure(&format!(
        r#"{{"service_types": {{"dev": {{"port_range": [{first}, {last}]}}}}}}"#
    ));
}

fn ephemeral(machine: &Machine) {
    set_up(machine, 20_000, 20_099);
    let result = machine.inside("race ephemeral 90 10000");
    eprintln!("{}: {result}", machine.name());
    let left: Vec<u16> = (20_090..=20_099).collect();
    for way in ["bind", "bind_reuse", "connect"] {
        let chosen = &result[way]["chosen"];
        let chosen: BTreeMap<u16, usize> = serde_json::from_value(chosen.clone()).unwrap();
        assert_eq!(chosen.values().sum::<usize>(), 10_000, "{way}");
        assert!(chosen.keys().all(|port| left.contains(port)), "{way}: {chosen:?}");
        // Every one of the ten, and then none rather than one that is guarded.
        assert_eq!(result[way]["kept"], json!(left), "{way}");
    }
}

fn race(machine: &Machine) {
    set_up(machine, 20_000, 21_999);
    let run = |rounds: u64, hold: &str, rogues: &str| {
        let result = machine.inside(&format!("race run {rounds} {hold} {rogues}"));
        eprintln!("{}: hold {hold} against {rogues}: {result}", machine.name());
        assert_eq!(result["rounds"], rounds);
        // They were really there, all the time, and went for the same ports.
        assert_eq!(result["rogues"], 8);
        assert!(result["rogue_binds"].as_u64() > Some(rounds / 10), "{result}");
        result["lost"].as_u64().unwrap()
    };
    let unguarded = run(20_000, "none", "plain,reuse,any");
    assert!(unguarded > 0, "the race that the guard is for does not happen");
    // All of it on one version; the kernel is the same.
    let rounds = if machine.name().starts_with("trixie") { 80_000 } else { 8_000 };
    assert_eq!(run(rounds, "guard", "plain,any"), 0, "lost although it was guarded");
    // A server that binds and listens as the client does is no accident that a guard could prevent.
    run(5_000, "guard", "reuse");
}

// ---- what runs in the machine --------------------------------------------------------------------

/// What runs in the machine.
pub async fn inside(arguments: &[&str]) -> Json {
    match arguments {
        ["ephemeral", guards, calls] => {
            choose(guards.parse().unwrap(), calls.parse().unwrap()).await
        }
        ["run", rounds, hold, rogues] => run(rounds.parse().unwrap(), hold, rogues).await,
        ["rogue", kind, seed] => rogue(kind, seed.parse().unwrap()),
        _ => panic!("there is no command {arguments:?}"),
    }
}

/// Where connections go: outside the range.
const LISTENER: u16 = 30_000;

/// A way to have the kernel choose a port.
type Way = fn(IpAddr) -> nix::Result<OwnedFd>;

/// Has the kernel choose ports: how often it chose which, one at a time; and which it chose when all
/// were kept, until it had no more.
async fn choose(guards: usize, calls: usize) -> Json {
    let bus = inside::bus().await;
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, LISTENER)).unwrap();
    for _ in 0..guards {
        inside::allocate(&bus, "dev").await.unwrap();
    }
    thread::spawn(move || listener.incoming().for_each(drop));
    let ways: [(&str, Way); 3] = [
        ("bind", |ip| bind_socket(SocketAddr::new(ip, 0), false)),
        ("bind_reuse", |ip| bind_socket(SocketAddr::new(ip, 0), true)),
        ("connect", connect_to),
    ];
    json!(HashMap::from(ways.map(|(name, call)| (name, choose_by(call, calls)))))
}

fn choose_by(call: Way, calls: usize) -> Json {
    let mut chosen = BTreeMap::<u16, usize>::new();
    for ip in ADDRESSES.into_iter().cycle().take(calls) {
        *chosen.entry(port(&call(ip).unwrap())).or_default() += 1;
    }
    let mut kept = Vec::new();
    let error = loop {
        match call(Ipv4Addr::LOCALHOST.into()) {
            Ok(socket) => kept.push(socket),
            Err(error) => break error,
        }
    };
    assert!([Errno::EADDRINUSE, Errno::EADDRNOTAVAIL].contains(&error), "{error}");
    json!({"chosen": chosen, "kept": kept.iter().map(port).collect::<BTreeSet<_>>()})
}

/// A connection to the listener.
fn connect_to(ip: IpAddr) -> nix::Result<OwnedFd> {
    // No address to connect to is unspecified.
    let (ip, family) = match ip {
        IpAddr::V4(_) => (Ipv4Addr::LOCALHOST.into(), AddressFamily::Inet),
        IpAddr::V6(_) => (Ipv6Addr::LOCALHOST.into(), AddressFamily::Inet6),
    };
    loop {
        let socket = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        // Ends with a reset, or ten ports would soon all be in TIME_WAIT.
        setsockopt(&socket, sockopt::Linger, &linger { l_onoff: 1, l_linger: 0 })?;
        match connect(socket.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(ip, LISTENER))) {
            // The reset of a connection before this one, which had the same ports.
            Err(Errno::ECONNREFUSED | Errno::ECONNRESET) => {}
            result => return result.map(|()| socket),
        }
    }
}

const ADDRESSES: [IpAddr; 4] = [
    IpAddr::V4(Ipv4Addr::LOCALHOST),
    IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    IpAddr::V6(Ipv6Addr::LOCALHOST),
    IpAddr::V6(Ipv6Addr::UNSPECIFIED),
];

/// The port that a socket is bound to.
fn port(socket: &OwnedFd) -> u16 {
    let address: SockaddrStorage = getsockname(socket.as_raw_fd()).unwrap();
    let v4 = address.as_sockaddr_in().map(|address| address.port());
    v4.or(address.as_sockaddr_in6().map(|address| address.port())).unwrap()
}

const ROGUES: u64 = 8;
const CLIENTS: u64 = 150;
const CONNECTIONS: u64 = 6;

/// Clients are granted ports and use them a little later, so many times, while rogues of these kinds
/// bind what they can. Answers how often a client came too late.
async fn run(rounds: u64, hold: &str, kinds: &str) -> Json {
    let kinds: Vec<&str> = kinds.split(',').collect();
    let rogues: Vec<_> =
        (1..=ROGUES).zip(kinds.iter().cycle()).map(|(n, k)| Rogue::new(k, n)).collect();
    let start = Instant::now();
    let left = Arc::new(AtomicU64::new(rounds));
    let lost = Arc::new(Mutex::new(Vec::new()));
    let mut connections = Vec::new();
    for _ in 0..CONNECTIONS {
        connections.push(inside::bus().await);
    }
    let clients = connections.iter().cycle().zip(1..=CLIENTS).map(|(bus, number)| {
        let client = Client {
            bus: bus.clone(),
            hold: hold.to_owned(),
            dice: Dice(number),
            left: Arc::clone(&left),
            lost: Arc::clone(&lost),
        };
        tokio::spawn(client.run())
    });
    let mut played = 0;
    for client in clients.collect::<Vec<_>>() {
        played += client.await.unwrap();
    }
    let elapsed = start.elapsed();
    let (mut bound, mut refused, mut living) = (0, 0, 0);
    for rogue in rogues {
        let counts = rogue.end();
        living += u64::from(counts["told_to_end"] == true);
        bound += counts["bound"].as_u64().unwrap();
        refused += counts["refused"].as_u64().unwrap();
    }
    let lost = lost.lock().unwrap();
    json!({
        "rounds": played,
        "lost": lost.len(),
        "lost_ports": lost.iter().take(5).collect::<Vec<_>>(),
        "rogues": living,
        "rogue_binds": bound,
        "rogue_refused": refused,
        "seconds": elapsed.as_secs(),
    })
}

/// One of those who are granted ports.
struct Client {
    bus: Connection,
    hold: String,
    dice: Dice,
    /// How many rounds are left for all of them.
    left: Arc<AtomicU64>,
    lost: Arc<Mutex<Vec<String>>>,
}

impl Client {
    /// Plays until no round is left; how many it has played.
    async fn run(mut self) -> u64 {
        let mut rounds = 0;
        let take = |left: u64| left.checked_sub(1);
        while self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok() {
            rounds += 1;
            let options = HashMap::from([("hold", Variant::from(self.hold.as_str()))]);
            let reply = inside::call(&self.bus, "Allocate", &("dev", options)).await.unwrap();
            let body = reply.body();
            let (port, lease_id, lease): (u16, String, HashMap<String, Variant<'_>>) =
                body.deserialize().unwrap();
            assert_eq!(lease["hold"], Variant::from(self.hold.as_str()));
            tokio::time::sleep(Duration::from_micros(self.dice.below(5_000))).await;
            let ip = ADDRESSES[usize::try_from(self.dice.below(4)).unwrap()];
            // The standard library sets SO_REUSEADDR, as servers do, and listens.
            match TcpListener::bind((ip, port)) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                    self.lost.lock().unwrap().push(format!("{ip} {port}"));
                }
                Err(error) => panic!("{ip} {port}: {error}"),
            }
            inside::release(&self.bus, &lease_id).await.unwrap();
        }
        rounds
    }
}

/// A process that takes ports that are not its own.
struct Rogue(Child);

impl Rogue {
    fn new(kind: &str, seed: u64) -> Self {
        let mut command = Command::new(env::current_exe().unwrap());
        command.args(["inside", "race", "rogue", kind, &seed.to_string()]);
        Self(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap())
    }

    /// Ends it; what it has done.
    fn end(mut self) -> Json {
        // It goes on until its stdin is closed, so that it does not outlive this process.
        drop(self.0.stdin.take());
        let mut output = String::new();
        self.0.stdout.take().unwrap().read_to_string(&mut output).unwrap();
        assert!(self.0.wait().unwrap().success());
        serde_json::from_str(&output).unwrap()
    }
}

/// Binds ports of the range as fast as it can, keeps each for a moment, and lets it go.
///
/// - `plain`: a random one, without `SO_REUSEADDR`
/// - `reuse`: a random one, with `SO_REUSEADDR`, and listens
/// - `any`: whichever the kernel gives
fn rogue(kind: &str, seed: u64) -> Json {
    let stop = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&stop);
    thread::spawn(move || {
        let _ = io::stdin().read(&mut [0]);
        told.store(true, Ordering::Relaxed);
    });
    // Whatever becomes of the test.
    let deadline = Instant::now() + Duration::from_secs(300);
    let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let (mut bound, mut refused) = (0u64, 0u64);
    while !stop.load(Ordering::Relaxed) && Instant::now() < deadline {
        let ip = ADDRESSES[usize::try_from(dice.below(4)).unwrap()];
        let port = match kind {
            "any" => 0,
            _ => 20_000 + u16::try_from(dice.below(2_000)).unwrap(),
        };
        let socket = bind_socket(SocketAddr::new(ip, port), kind == "reuse").and_then(|socket| {
            if kind == "reuse" {
                listen(&socket, Backlog::new(1)?)?;
            }
            Ok(socket)
        });
        match socket {
            Ok(_socket) => {
                bound += 1;
                thread::sleep(Duration::from_millis(1));
            }
            Err(Errno::EADDRINUSE) => refused += 1,
            Err(error) => panic!("{error}"),
        }
    }
    json!({"bound": bound, "refused": refused, "told_to_end": stop.load(Ordering::Relaxed)})
}
