//! Owners that are gone while something listens on the port.

use std::{
    io::{BufRead, BufReader, Write},
    net::{Ipv4Addr, TcpStream, UdpSocket},
    process::{Child, Command, Stdio},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value as Json, json};
use zbus::Variant;

use super::{
    assert_told,
    client::{Client, Lease, kill_service, systemctl},
};
use crate::{inside, machine::Machine};

/// Reads a port, starts a server on it in the background, tells its PID, and waits for its own end.
const TCP: &str = r#"
    read -r port
    setsid python3 -m http.server "$port" >/dev/null 2>&1 &
    echo $!
    read -r _"#;
const UDP: &str = r#"
    read -r port
    setsid python3 -c 'import socket, sys, time
socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
socket.bind(("127.0.0.1", int(sys.argv[1])))
time.sleep(1000)' "$port" >/dev/null 2>&1 &
    echo $!
    read -r _"#;

pub fn background(machine: &Machine) {
    let result = machine.inside("owners orphans");
    for lease_id in result["ended"].as_array().unwrap() {
        let told = [("allocate", ""), ("orphan", ""), ("expire", "listener_gone")];
        assert_told(machine, lease_id, &told);
    }
    for lease_id in result["released"].as_array().unwrap() {
        let told = [("allocate", ""), ("orphan", ""), ("release", "released")];
        assert_told(machine, lease_id, &told);
    }
}

/// Returns the leases that have ended with their listener, and those that were released before.
pub async fn inside() -> Json {
    let client = Client::new().await;
    let mut ended = Vec::new();
    for protocol in ["tcp", "udp"] {
        ended.push(outlives_all(&client, protocol).await.id);
    }
    let released = released(&client).await.id;
    json!({"ended": ended, "released": [released]})
}

/// A process that has started a server in the background, and waits for its own end.
pub struct Starter {
    process: Child,
    server: Server,
}

/// A server that has outlived its starter.
pub struct Server(Pid);

impl Server {
    pub fn end(self) {
        kill(self.0, Signal::SIGKILL).unwrap();
    }
}

impl Starter {
    /// Grants a port to a new process, which starts a server on it.
    pub async fn with_lease(client: &Client, protocol: &'static str) -> (Self, Lease) {
        let script = if protocol == "tcp" { TCP } else { UDP };
        // It is there before it knows the port: it is the owner.
        let mut bash = Command::new("bash");
        bash.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped());
        bash.stderr(Stdio::null());
        let mut process = bash.spawn().unwrap();
        let owner = ("pid", Variant::U32(process.id()));
        let lease = client.allocate(&[owner, ("protocol", protocol.into())]).await;
        writeln!(process.stdin.as_mut().unwrap(), "{}", lease.port).unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let server = Server(Pid::from_raw(line.trim().parse().unwrap()));
        client.until_state(&lease, Some("listening")).await;
        (Self { process, server }, lease)
    }

    /// Ends the starter; its server goes on.
    pub fn end(mut self) -> Server {
        drop(self.process.stdin.take());
        self.process.wait().unwrap();
        self.server
    }
}

async fn outlives_all(client: &Client, protocol: &'static str) -> Lease {
    let (starter, lease) = Starter::with_lease(client, protocol).await;
    let server = starter.end();
    client.signal_of(&lease, "LeaseOrphaned").await;
    is_kept(client, &lease, protocol).await;
    // Inside its sandbox, too, the kernel tells the service of the end of sockets (NETLINK_SOCK_DIAG).
    let table = std::fs::read_to_string("/proc/net/netlink").unwrap();
    let has_groups = |line: &str| {
        let columns: Vec<_> = line.split_whitespace().collect();
        columns[1] == "4" && columns[3] == "0000000f"
    };
    assert!(table.lines().any(has_groups), "{table}");

    systemctl(&["restart", "styxy.service"]);
    is_kept(client, &lease, protocol).await;
    kill_service();
    is_kept(client, &lease, protocol).await;

    server.end();
    assert_eq!(client.end_of(&lease).await, "listener_gone");
    let names: Vec<_> = client.told(&lease).into_iter().map(|signal| signal.name).collect();
    assert_eq!(names, ["LeaseGranted", "LeaseOrphaned", "LeaseReleased"]);
    // And now anybody may have it.
    let again = client.allocate(&asked(&lease, protocol)).await;
    inside::release(&client.bus, &again.id).await.unwrap();
    lease
}

/// It is shown as an orphan, it answers, and nobody else gets the port, neither by number nor by
/// chance.
async fn is_kept(client: &Client, lease: &Lease, protocol: &'static str) {
    assert_eq!(client.state(lease).await.as_deref(), Some("orphaned"));
    let error = client.try_allocate(&asked(lease, protocol)).await.unwrap_err();
    assert!(error.contains("Error.PortInUse"), "{error}");
    let other = client.allocate(&[("protocol", protocol.into())]).await;
    assert_ne!(other.port, lease.port);
    inside::release(&client.bus, &other.id).await.unwrap();
    // Longer than it takes to look at orphans.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert_eq!(client.state(lease).await.as_deref(), Some("orphaned"));
    if protocol == "tcp" {
        TcpStream::connect((Ipv4Addr::LOCALHOST, lease.port)).unwrap();
    } else {
        UdpSocket::bind((Ipv4Addr::LOCALHOST, lease.port)).unwrap_err();
    }
}

fn asked<'a>(lease: &Lease, protocol: &'a str) -> [(&'static str, Variant<'a>); 3] {
    [("port", lease.port.into()), ("strict", true.into()), ("protocol", protocol.into())]
}

/// An orphan can be released, although something listens; the port is not free by that.
async fn released(client: &Client) -> Lease {
    let (starter, lease) = Starter::with_lease(client, "tcp").await;
    let server = starter.end();
    client.signal_of(&lease, "LeaseOrphaned").await;
    inside::release(&client.bus, &lease.id).await.unwrap();
    let error = client.try_allocate(&asked(&lease, "tcp")).await.unwrap_err();
    assert!(error.contains("Error.PortInUse"), "{error}");
    server.end();
    lease
}
