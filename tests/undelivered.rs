//! Grants that nobody heard of, requests that never end, and readers that are slow or gone.

mod support;

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::Shutdown,
    os::unix::net::UnixStream,
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use support::{Home, bus::Bus, end, started};

fn pid(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).unwrap())
}

fn service_on(home: &Home, bus: &Bus) -> Child {
    let mut command = home.styxy();
    command.env("DBUS_SESSION_BUS_ADDRESS", &bus.address);
    started(command)
}

fn leases(home: &Home) -> usize {
    let listed = home.http("GET", "/allocations", "");
    listed.body["allocations"].as_array().unwrap().len()
}

#[test]
fn a_caller_that_gave_up_on_the_bus_leaves_no_lease() {
    let Some(bus) = Bus::start() else { return };
    let home = Home::with_type();
    let service = service_on(&home, &bus);
    kill(pid(&service), Signal::SIGSTOP).unwrap();
    let mut command = home.styxy();
    command.env("DBUS_SESSION_BUS_ADDRESS", &bus.address);
    let output = command.args(["--timeout", "1", "allocate", "mine"]).output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    let no_reply = Command::new("busctl")
        .arg(format!("--address={}", bus.address))
        .args(["call", "--expect-reply=no", "org.styxy.Styxy1", "/org/styxy/Styxy1"])
        .args(["org.styxy.Styxy1", "Allocate", "sa{sv}", "mine", "1", "service_name", "s", "calm"])
        .status()
        .unwrap();
    assert!(no_reply.success());
    kill(pid(&service), Signal::SIGCONT).unwrap();
    home.until(|| leases(&home) > 0);
    let listed = home.http("GET", "/allocations", "");
    let listed = listed.body["allocations"].as_array().unwrap();
    assert_eq!(listed.len(), 1, "{listed:?}");
    assert_eq!(listed[0]["service_name"], "calm", "it wanted no answer");
    end(service, Signal::SIGTERM);
}

#[test]
fn a_caller_that_hung_up_leaves_no_lease_and_one_that_only_stopped_sending_has_its_answer() {
    let home = Home::with_type();
    let service = home.service();
    let body = r#"{"service_type": "mine"}"#;
    let request = format!(
        "POST /allocate HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    kill(pid(&service), Signal::SIGSTOP).unwrap();
    for _ in 0..3 {
        let mut stream = UnixStream::connect(home.socket()).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
    }
    let mut patient = UnixStream::connect(home.socket()).unwrap();
    patient.write_all(request.as_bytes()).unwrap();
    patient.shutdown(Shutdown::Write).unwrap();
    kill(pid(&service), Signal::SIGCONT).unwrap();
    let mut answer = String::new();
    patient.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    // Those before it came first.
    assert_eq!(leases(&home), 1);
    end(service, Signal::SIGTERM);
}

#[test]
fn a_body_that_never_comes_is_refused_and_keeps_no_service_alive() {
    let home = Home::with_type();
    let mut command = home.styxy();
    command.args(["daemon", "--idle-exit", "1"]).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut service = command.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(service.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let mut stream = UnixStream::connect(home.socket()).unwrap();
    let head = "POST /allocate HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{";
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert!(answer.contains("the body did not come in time"), "{answer}");
    assert!(service.wait().unwrap().success(), "it is idle then");
}

#[test]
fn a_watch_keeps_no_service_alive_and_ends_with_its_reader() {
    let home = Home::with_type();
    let mut command = home.styxy();
    command.args(["daemon", "--idle-exit", "2"]).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut service = command.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(service.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let mut watch = home.styxy().arg("watch").stdout(Stdio::piped()).spawn().unwrap();
    assert!(service.wait().unwrap().success(), "it is idle although somebody watches");
    drop(watch.stdout.take());
    assert!(watch.wait().unwrap().success(), "nothing has to happen for that");
}

#[test]
fn a_watch_without_a_bus_tells_nothing_of_a_restart() {
    let home = Home::with_type();
    let service = home.service();
    home.ok(&["allocate", "mine", "--name", "first"]);
    let mut watch = home.styxy().args(["watch", "--json"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut events = BufReader::new(watch.stdout.take().unwrap()).lines();
    let mut next =
        || -> serde_json::Value { serde_json::from_str(&events.next().unwrap().unwrap()).unwrap() };
    // It has seen the first list when it tells of a change to it.
    let patience = Instant::now() + Duration::from_secs(30);
    let (told, seen) = mpsc::channel();
    std::thread::scope(|scope| {
        scope.spawn(move || told.send(next()).map(|()| told.send(next())));
        let mut names = 0;
        let first = loop {
            names += 1;
            home.ok(&["allocate", "mine", "--name", &format!("try-{names}")]);
            match seen.recv_timeout(Duration::from_secs(2)) {
                Ok(event) => break event,
                Err(_) => assert!(Instant::now() < patience),
            }
        };
        assert_eq!((&first["event"], &first["state"]), (&"granted".into(), &().into()));
        end(service, Signal::SIGKILL);
        let service = home.service();
        home.ok(&["allocate", "mine", "--name", "second"]);
        let second = seen.recv_timeout(Duration::from_secs(30)).unwrap();
        assert_eq!(second["service_name"], "second", "{second}");
        end(service, Signal::SIGKILL);
        watch.kill().unwrap();
    });
    watch.wait().unwrap();
}

#[test]
fn a_watch_without_a_bus_does_not_wait_without_end() {
    let home = Home::with_type();
    let service = home.service();
    home.ok(&["allocate", "mine"]);
    kill(pid(&service), Signal::SIGSTOP).unwrap();
    let output = home.styxy().args(["watch", "--timeout", "3"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("waiting for the service over its HTTP socket"), "{said}");
    assert!(said.contains("did not answer within 3 s"), "{said}");
    end(service, Signal::SIGKILL);
}

#[test]
fn a_watch_on_the_bus_knows_what_a_service_that_was_killed_did_not_tell() {
    let Some(bus) = Bus::start() else { return };
    let home = Home::with_type();
    let start = || {
        let mut command = home.styxy();
        command.env("DBUS_SESSION_BUS_ADDRESS", &bus.address);
        started(command)
    };
    let mut service = start();
    let mut watch = home.styxy();
    watch.env("DBUS_SESSION_BUS_ADDRESS", &bus.address).args(["watch", "--json"]);
    let mut watch = watch.stdout(Stdio::piped()).spawn().unwrap();
    let events = BufReader::new(watch.stdout.take().unwrap()).lines();
    let (told, seen) = mpsc::channel();
    std::thread::spawn(move || {
        for line in events.map_while(Result::ok) {
            let event: serde_json::Value = serde_json::from_str(&line).unwrap();
            if told.send(event).is_err() {
                break;
            }
        }
    });
    let text = |value: &serde_json::Value, key: &str| value[key].as_str().unwrap().to_owned();
    let note =
        |known: &mut BTreeSet<String>, event: &serde_json::Value| match event["event"].as_str() {
            Some("granted") => _ = known.insert(text(event, "lease_id")),
            Some("released") => _ = known.remove(&text(event, "lease_id")),
            _ => {}
        };
    let mut known = BTreeSet::new();
    // Before it knows the first list, it tells nothing.
    let body = r#"{"service_type": "mine", "hold": "none"}"#;
    let patience = Instant::now() + Duration::from_secs(60);
    loop {
        let lease = home.http("POST", "/allocate", body).body;
        home.http("DELETE", &format!("/allocate/{}", text(&lease, "lease_id")), "");
        if let Ok(event) = seen.recv_timeout(Duration::from_millis(500)) {
            note(&mut known, &event);
            break;
        }
        assert!(Instant::now() < patience);
    }
    let mut before = None;
    for _ in 0..15 {
        let lease = home.http("POST", "/allocate", body).body;
        if let Some(before) = before.replace(text(&lease, "lease_id")) {
            home.http("DELETE", &format!("/allocate/{before}"), "");
        }
        // Between the change and the word of it, now and then.
        end(service, Signal::SIGKILL);
        service = start();
    }
    let expected: BTreeSet<_> = before.into_iter().collect();
    let patience = Instant::now() + Duration::from_secs(20);
    while let Some(left) = patience.checked_duration_since(Instant::now()) {
        match seen.recv_timeout(left.min(Duration::from_secs(3))) {
            Ok(event) => note(&mut known, &event),
            // Nothing more comes.
            Err(_) if known == expected => break,
            Err(_) => {}
        }
    }
    assert_eq!(known, expected);
    end(service, Signal::SIGTERM);
    watch.kill().unwrap();
    watch.wait().unwrap();
}

/// A client that has not negotiated descriptors. It has the bus hand it a socket, and prints what it is answered within
/// two seconds.
const WITHOUT_DESCRIPTORS: &str = r#"
import os, socket, struct, sys

def pad(data, to):
    return data + b"\0" * (-len(data) % to)

def text(words):
    return struct.pack("<I", len(words)) + words.encode() + b"\0"

def call(serial, destination, path, interface, member, signature="", body=b""):
    fields = b""
    for code, kind, value in [(1, "o", path), (2, "s", interface), (3, "s", member), (6, "s", destination)]:
        fields = pad(fields, 8) + bytes([code, 1]) + kind.encode() + b"\0" + text(value)
    if signature:
        fields = pad(fields, 8) + bytes([8, 1]) + b"g\0" + bytes([len(signature)]) + signature.encode() + b"\0"
    head = struct.pack("<BBBBIII", ord("l"), 1, 0, 1, len(body), serial, len(fields))
    return pad(head + fields, 8) + body

bus = socket.socket(socket.AF_UNIX)
bus.connect(sys.argv[1])
bus.sendall(b"\0AUTH EXTERNAL " + str(os.getuid()).encode().hex().encode() + b"\r\n")
assert bus.recv(1000).startswith(b"OK")
bus.sendall(b"BEGIN\r\n" + call(1, "org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "Hello"))
name = "org.styxy.Styxy1"
# An empty a{sv}; its entries would begin at the next multiple of eight.
body = pad(text("mine"), 4) + struct.pack("<I", 0)
bus.sendall(call(2, name, "/org/styxy/Styxy1", name, "AllocateSocket", "sa{sv}", pad(body, 8)))
bus.settimeout(2)
try:
    while True:
        answer = bus.recv(10000)
        sys.stdout.write(answer.decode("latin-1"))
except TimeoutError:
    pass
"#;

/// What happens from now on, as signals tell it.
fn watched(home: &Home, bus: &Bus) -> (Child, mpsc::Receiver<serde_json::Value>) {
    let mut command = home.styxy();
    command.env("DBUS_SESSION_BUS_ADDRESS", &bus.address).args(["watch", "--json"]);
    let mut watch = command.stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    let (told, events) = mpsc::channel();
    std::thread::spawn(move || {
        lines
            .map_while(Result::ok)
            .try_for_each(|line| told.send(serde_json::from_str(&line).unwrap()))
    });
    // Once it tells of one, it tells of all that follow.
    let mut tries = 0;
    while events.recv_timeout(Duration::from_millis(200)).is_err() {
        tries += 1;
        assert!(tries < 300, "it never was told of anything");
        let id = home.ok(&["allocate", "mine", "--json"]);
        let id: serde_json::Value = serde_json::from_str(&id).unwrap();
        home.ok(&["release", id["lease_id"].as_str().unwrap()]);
    }
    (watch, events)
}

/// Why the first lease ends for another reason than that it was released.
fn reason(events: &mpsc::Receiver<serde_json::Value>) -> serde_json::Value {
    loop {
        let event = events.recv_timeout(Duration::from_secs(60)).expect("no lease has ended");
        if event["event"] == "released" && event["reason"] != "released" {
            return event["reason"].clone();
        }
    }
}

#[test]
fn a_client_that_can_be_handed_no_descriptor_keeps_no_lease() {
    let Some(bus) = Bus::start() else { return };
    let home = Home::with_type();
    let service = service_on(&home, &bus);
    let (mut watch, events) = watched(&home, &bus);
    let path = bus.address.strip_prefix("unix:path=").unwrap().split(',').next().unwrap();
    let client = Command::new("python3").args(["-c", WITHOUT_DESCRIPTORS, path]).output().unwrap();
    assert!(client.status.success(), "{}", String::from_utf8_lossy(&client.stderr));
    home.until(|| leases(&home) == 0);
    assert_eq!(reason(&events), "not_delivered");
    watch.kill().unwrap();
    watch.wait().unwrap();
    end(service, Signal::SIGTERM);
}

#[test]
fn a_command_that_is_killed_soon_after_it_had_its_socket_ends_its_lease_as_the_owner() {
    let Some(bus) = Bus::start() else { return };
    let home = Home::with_type();
    let service = service_on(&home, &bus);
    let (mut watch, events) = watched(&home, &bus);
    let mut command = home.styxy();
    command.env("DBUS_SESSION_BUS_ADDRESS", &bus.address);
    command.args(["exec", "mine", "--", "sleep", "100"]).stderr(Stdio::null());
    let mut command = command.spawn().unwrap();
    let comm = format!("/proc/{}/comm", command.id());
    home.until(|| fs::read_to_string(&comm).is_ok_and(|comm| comm == "sleep\n"));
    command.kill().unwrap();
    command.wait().unwrap();
    assert_eq!(reason(&events), "owner_gone");
    watch.kill().unwrap();
    watch.wait().unwrap();
    end(service, Signal::SIGTERM);
}

#[test]
fn an_answer_that_cannot_be_written_leaves_no_lease() {
    let Some(bus) = Bus::start() else { return };
    let home = Home::with_type();
    let service = service_on(&home, &bus);
    let (mut watch, events) = watched(&home, &bus);
    let ask_without_reading = |body: &str| {
        let mut stream = UnixStream::connect(home.socket()).unwrap();
        // It has not hung up, and takes no answer.
        stream.shutdown(Shutdown::Read).unwrap();
        let length = body.len();
        let head = "POST /allocate HTTP/1.1\r\nHost: localhost\r\nContent-Length";
        write!(stream, "{head}: {length}\r\n\r\n{body}").unwrap();
        stream
    };
    let plain = r#"{"service_type": "mine"}"#;
    let _unread = ask_without_reading(plain);
    assert_eq!(reason(&events), "not_delivered");
    assert_eq!(leases(&home), 0);
    // A claim that moves stands for the one that somebody was told of.
    let claim = |more: &str| {
        format!(r#"{{"service_type": "mine", "project_path": "/srv/shop", "claim": true{more}}}"#)
    };
    home.http("POST", "/allocate", &claim(""));
    let port = home.port(5);
    let _unread = ask_without_reading(&claim(&format!(r#", "port": {port}"#)));
    let first = || home.http("GET", "/allocations", "").body["allocations"][0].take();
    home.until(|| first()["port"] == port);
    // By then the first answer has failed, too.
    let _unread = ask_without_reading(plain);
    assert_eq!(reason(&events), "not_delivered");
    assert_eq!((leases(&home), &first()["port"]), (1, &port.into()));
    watch.kill().unwrap();
    watch.wait().unwrap();
    end(service, Signal::SIGTERM);
}
