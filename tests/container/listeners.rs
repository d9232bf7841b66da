//! A port that anything on the machine listens on is never granted.

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader},
    process::Child,
    time::Duration,
};

use serde_json::Value as Json;

use crate::{
    Test,
    machine::{Machine, eventually},
};

pub const TESTS: &[Test] = &[
    ("a_port_with_a_listener_on_any_address_is_never_granted", any_address),
    ("a_port_whose_listener_has_gone_is_granted", gone),
    ("a_full_range_says_how_many_of_its_ports_are_in_use", full_range),
    ("with_ipv6_switched_off_listeners_are_found_too", ipv6_switched_off),
    ("a_service_that_may_not_use_ipv6_finds_listeners_too", ipv6_forbidden),
];

/// `ADDRESS,PORT,KIND` as arguments; stays until it is killed.
const LISTEN: &str = r#"
import socket, signal, sys
sockets = []
for address, port, kind in (argument.split(",") for argument in sys.argv[1:]):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    s = socket.socket(family, socket.SOCK_DGRAM if kind == "udp" else socket.SOCK_STREAM)
    if kind != "plain":
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if kind == "reuseport":
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    s.bind((address, int(port)))
    if kind != "udp":
        s.listen()
    sockets.append(s)
print("listening", flush=True)
signal.pause()
"#;

const IPV4: [&str; 5] = [
    "0.0.0.0,3002,tcp",
    "127.0.0.1,3003,udp",
    "0.0.0.0,3004,udp",
    "127.0.0.2,3005,plain",
    "127.0.0.1,3006,reuseport",
];
const IPV6: [&str; 3] = ["::1,3001,tcp", "::,3007,reuseport", "::1,3008,udp"];

fn any_address(machine: &Machine) {
    let _server = http_server(machine);
    let _listeners = listen(machine, &[&IPV4[..], &IPV6].concat());
    are_found(machine, &[3000, 3001, 3002, 3005, 3006, 3007], &[3003, 3004, 3008]);
}

fn full_range(machine: &Machine) {
    let _listeners = listen(machine, &["127.0.0.1,3000,tcp", "::1,3001,tcp", "::,3050,tcp"]);
    let (_, refusals) = whole_range(machine, "tcp");
    for refusal in &refusals {
        let words = refusal["error"].as_str().unwrap();
        assert!(words.contains("of 100, 3 are in use by other programs"), "{words}");
    }
}

fn ipv6_switched_off(machine: &Machine) {
    machine.root("sysctl -w net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.lo.disable_ipv6=1").ok();
    assert_eq!(machine.root("ip -6 -brief address").ok(), "");
    let _server = http_server(machine);
    let _listeners = listen(machine, &IPV4);
    are_found(machine, &[3000, 3002, 3005, 3006], &[3003, 3004]);
}

fn ipv6_forbidden(machine: &Machine) {
    machine
        .user(
            "mkdir -p ~/.config/systemd/user/styxy.service.d
             printf '[Service]\nRestrictAddressFamilies=\nRestrictAddressFamilies=%s\n' \
                 'AF_INET AF_UNIX AF_NETLINK' >~/.config/systemd/user/styxy.service.d/test.conf
             systemctl --user daemon-reload",
        )
        .ok();
    let _server = http_server(machine);
    let _listeners = listen(machine, &[&IPV4[..], &IPV6[1..2]].concat());
    are_found(machine, &[3000, 3002, 3005, 3006, 3007], &[3003, 3004]);
}

fn gone(machine: &Machine) {
    let server = http_server(machine);
    let listeners = listen(machine, &["::1,3001,tcp", "0.0.0.0,3003,udp"]);
    let taken = [("tcp", 3000), ("tcp", 3001), ("udp", 3003)];
    for (protocol, port) in taken {
        strictly(machine, protocol, port).unwrap_err();
    }
    drop((server, listeners));
    for (protocol, port) in taken {
        assert_eq!(strictly(machine, protocol, port).unwrap()[0], port);
    }
}

/// Asks for these ports in each way, then for the whole range by either protocol.
fn are_found(machine: &Machine, tcp: &[u16], udp: &[u16]) {
    for (protocol, taken) in [("tcp", tcp), ("udp", udp)] {
        for &port in taken {
            let refusal = strictly(machine, protocol, port).unwrap_err();
            let upper = protocol.to_uppercase();
            let why = format!("{upper} port {port} is in use by another program; stop");
            assert!(refusal.contains(&why), "{refusal}");
            let checked = machine.call("Check", &format!("qs {port} {protocol}")).unwrap();
            assert_eq!(checked[0]["available"]["data"], false, "{checked}");
            assert_eq!(checked[0]["reason"]["data"], "in_use", "{checked}");
        }
        let (granted, refusals) = whole_range(machine, protocol);
        let expected: BTreeSet<_> = (3000..3100).filter(|port| !taken.contains(port)).collect();
        assert_eq!(granted, expected, "{protocol}");
        assert_eq!(refusals.len(), 102 - expected.len(), "{refusals:?}");
        assert!(refusals.iter().all(|refusal| refusal["code"] == "PoolExhausted"), "{refusals:?}");
    }
    let code = format!(
        "curl -sS --unix-socket $XDG_RUNTIME_DIR/styxy/http.sock http://localhost/allocate \
         -d '{{\"service_type\": \"dev\", \"port\": {}, \"strict\": true}}' -w '%{{http_code}}'",
        tcp[0]
    );
    let refusal = machine.user(&code).ok();
    assert!(refusal.contains("\"PortInUse\"") && refusal.ends_with("409"), "{refusal}");
}

fn strictly(machine: &Machine, protocol: &str, port: u16) -> Result<Json, String> {
    let options = format!("port q {port} strict b true protocol s {protocol}");
    machine.call("Allocate", &format!("'sa{{sv}}' dev 3 {options}"))
}

/// Asks 102 times for a port of the hundred; the ports, and the refusals.
fn whole_range(machine: &Machine, protocol: &str) -> (BTreeSet<u16>, Vec<Json>) {
    let answers = machine.user(&format!(
        "for _ in $(seq 102); do
             curl -sS --unix-socket $XDG_RUNTIME_DIR/styxy/http.sock http://localhost/allocate \
                 -d '{{\"service_type\": \"dev\", \"protocol\": \"{protocol}\"}}'
         done"
    ));
    let (mut granted, mut refusals) = (BTreeSet::new(), Vec::new());
    for answer in answers.ok().lines() {
        let answer: Json = serde_json::from_str(answer).unwrap();
        match answer["port"].as_u64() {
            Some(port) => assert!(granted.insert(port.try_into().unwrap()), "{port} twice"),
            None => refusals.push(answer),
        }
    }
    (granted, refusals)
}

/// A process of the user's in the machine; it is ended with the value.
struct Listeners(Child);

impl Drop for Listeners {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn listen(machine: &Machine, sockets: &[&str]) -> Listeners {
    let command = format!("exec python3 -c '{LISTEN}' {}", sockets.join(" "));
    let mut child = machine.start(&command);
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let listeners = Listeners(child);
    assert_eq!(line, "listening\n");
    listeners
}

/// Python's own server, run by root, on 127.0.0.1:3000.
struct HttpServer<'a>(&'a Machine);

impl Drop for HttpServer<'_> {
    fn drop(&mut self) {
        self.0.root("systemctl stop http-server.service");
    }
}

fn http_server(machine: &Machine) -> HttpServer<'_> {
    let server = "python3 -m http.server --bind 127.0.0.1 --directory /var/empty 3000";
    machine
        .root(&format!("mkdir -p /var/empty; systemd-run --quiet --unit=http-server {server}"))
        .ok();
    let server = HttpServer(machine);
    eventually(Duration::from_secs(30), "Python's server answers", || {
        machine.user("curl -sSf http://127.0.0.1:3000/").code == Some(0)
    });
    server
}
