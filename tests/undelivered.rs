//! Grants that nobody heard of, requests that never end, and readers that are slow or gone.

mod support;

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::Shutdown,
    os::unix::net::UnixStream,
    process::{Child, Command, Stdio},
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
    let (told, seen) = std::sync::mpsc::channel();
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
