//! Changes as server-sent events.

mod support;
#[path = "support/tcp.rs"]
mod tcp;

use std::{
    cell::RefCell,
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::Shutdown,
    os::unix::net::UnixStream,
    process::Child,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use serde_json::{Value as Json, json};
use support::{Home, end};
use tcp::Door;

/// Generous; nothing here takes more than a few seconds.
const LIMIT: Duration = Duration::from_secs(60);

#[derive(Debug, PartialEq)]
struct Event {
    name: String,
    id: Option<u64>,
    data: Json,
}

/// A stream of events, read as the HTML standard says.
struct Events<S: Read>(BufReader<S>);

impl Events<UnixStream> {
    /// Those after that event, or from now on.
    #[track_caller]
    fn of(home: &Home, last: Option<&str>) -> Self {
        let stream = UnixStream::connect(home.socket()).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        let last = last.map_or_else(String::new, |last| format!("Last-Event-ID: {last}\r\n"));
        Self::on(stream, &last)
    }
}

impl<S: Read + Write> Events<S> {
    #[track_caller]
    fn on(mut stream: S, headers: &str) -> Self {
        // To an old client the body comes without chunks.
        write!(stream, "GET /events HTTP/1.0\r\nHost: localhost\r\n{headers}\r\n").unwrap();
        let mut events = Self(BufReader::new(stream));
        let head = events.lines();
        assert!(head[0].contains(" 200 "), "{head:?}");
        assert!(head.iter().any(|line| line == "content-type: text/event-stream"), "{head:?}");
        events
    }
}

impl<S: Read> Events<S> {
    /// The lines up to an empty one; fewer at the end.
    fn lines(&mut self) -> Vec<String> {
        let lines = self.0.by_ref().lines().map(Result::unwrap);
        lines.take_while(|line| !line.is_empty()).collect()
    }

    /// The next event; `None` at the end.
    fn try_next(&mut self) -> Option<Event> {
        let (mut name, mut id, mut data) = (String::new(), None, Json::Null);
        let lines = self.lines();
        for line in &lines {
            match line.split_once(": ").unwrap() {
                ("event", text) => text.clone_into(&mut name),
                ("id", text) => id = Some(text.split('.').next().unwrap().parse().unwrap()),
                ("data", text) => data = serde_json::from_str(text).unwrap(),
                ("retry", text) => assert_eq!(text, "1000"),
                field => panic!("{field:?}"),
            }
        }
        (!lines.is_empty()).then_some(Event { name, id, data })
    }

    #[track_caller]
    fn next(&mut self) -> Event {
        self.try_next().expect("an event")
    }

    /// The number of the first event, which says that the stream is there.
    #[track_caller]
    fn ready(&mut self) -> Option<u64> {
        let event = self.next();
        assert_eq!(event.name, "ready", "{event:?}");
        event.id
    }

    /// The next event, which must be of that name and number.
    #[track_caller]
    fn expect(&mut self, name: &str, id: u64) -> Json {
        let event = self.next();
        assert_eq!((event.name.as_str(), event.id), (name, Some(id)), "{event:?}");
        event.data
    }
}

fn allocate(home: &Home, name: &str) -> Json {
    let body = json!({"service_type": "mine", "service_name": name});
    let answer = home.http("POST", "/allocate", &body.to_string());
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.body
}

fn release(home: &Home, granted: &Json) {
    let path = format!("/allocate/{}", granted["lock_id"].as_str().unwrap());
    assert_eq!(home.http("DELETE", &path, "").status, 200);
}

#[test]
fn what_changes_is_told_as_it_happens_with_the_number_of_the_change() {
    let home = Home::with_growth();
    let service = home.service();
    let mut events = Events::of(&home, None);
    let now = events.ready().unwrap();
    // A type that is not configured gets a range.
    let granted = allocate(&home, "web");
    assert_eq!(events.expect("service_type_added", now + 1)["service_type"], "mine");
    let told = events.expect("lease_granted", now + 2);
    assert_eq!(told["port"], granted["port"]);
    assert_eq!(told["lease_id"], granted["lock_id"]);
    assert_eq!(told["service_name"], "web");
    let registered = home.http("POST", "/instance/register", r#"{"instance_id": "agent"}"#);
    assert_eq!(registered.status, 200, "{registered:?}");
    assert_eq!(events.expect("instance_added", now + 3)["instance_id"], "agent");
    release(&home, &granted);
    let told = events.expect("lease_released", now + 4);
    assert_eq!((&told["reason"], &told["port"]), (&json!("released"), &granted["port"]));
    end(service, Signal::SIGTERM);
}

#[test]
fn a_client_that_comes_again_gets_what_it_has_missed_also_after_a_kill() {
    let home = Home::with_type();
    let service = home.service();
    let mut events = Events::of(&home, None);
    let now = events.ready().unwrap();
    let first = allocate(&home, "a");
    events.expect("lease_granted", now + 1);
    drop(events);
    allocate(&home, "b");
    release(&home, &first);
    end(service, Signal::SIGKILL);
    let service = home.service();
    allocate(&home, "c");

    let mut events = Events::of(&home, Some(&(now + 1).to_string()));
    assert_eq!(events.ready(), Some(now + 1));
    assert_eq!(events.expect("lease_granted", now + 2)["service_name"], "b");
    assert_eq!(events.expect("lease_released", now + 3)["service_name"], "a");
    assert_eq!(events.expect("lease_granted", now + 4)["service_name"], "c");
    allocate(&home, "d");
    assert_eq!(events.expect("lease_granted", now + 5)["service_name"], "d");

    let mut events = Events::of(&home, Some(&(now + 5).to_string()));
    assert_eq!(events.ready(), Some(now + 5), "nothing was missed");
    allocate(&home, "e");
    events.expect("lease_granted", now + 6);
    end(service, Signal::SIGTERM);
}

#[test]
fn who_comes_with_a_number_that_the_log_does_not_have_is_told_to_list_again() {
    let home = Home::with_type();
    let service = home.service();
    let mut granted = allocate(&home, "a");
    let mut now = Events::of(&home, None).ready().unwrap();
    for unknown in ["1000000", "18446744073709551615", "99999999999999999999", "-1", "seven"] {
        let mut events = Events::of(&home, Some(unknown));
        events.ready();
        assert_eq!(events.expect("reset", now), json!({}), "{unknown}");
        release(&home, &granted);
        events.expect("lease_released", now + 1);
        granted = allocate(&home, "a");
        events.expect("lease_granted", now + 2);
        now += 2;
    }
    end(service, Signal::SIGTERM);
}

#[test]
fn what_was_deleted_from_the_log_cannot_be_told_any_more() {
    let home = Home::with_type();
    let service = home.service_with_log();
    let first = Events::of(&home, None).ready().unwrap();
    // The log is begun again after a quarter of a megabyte, and deleted when its events have been told.
    let is_there = || {
        let mut events = Events::of(&home, Some(&first.to_string()));
        events.ready();
        events.next().name != "reset"
    };
    release(&home, &allocate(&home, "a"));
    assert!(is_there());
    home.until(|| {
        (0..100).for_each(|_| release(&home, &allocate(&home, "a")));
        !is_there()
    });
    let logs = fs::read_dir(home.state()).unwrap().flatten();
    assert!(logs.filter(|file| file.file_name() == "log.00000001").count() == 0);
    end(service, Signal::SIGTERM);
}

#[test]
fn a_client_that_reads_late_misses_nothing() {
    let home = Home::with_type();
    let service = home.service();
    let mut events = Events::of(&home, None);
    let now = events.ready().unwrap();
    // More than what fits into the socket's buffer and what is kept in memory, less than what makes the log begin again.
    let rounds = 330;
    for _ in 0..rounds {
        release(&home, &allocate(&home, "a"));
    }
    for number in 0..rounds {
        events.expect("lease_granted", now + 2 * number + 1);
        events.expect("lease_released", now + 2 * number + 2);
    }
    end(service, Signal::SIGTERM);
}

/// A home whose service ends when it has been idle for a second.
fn short_lived() -> Home {
    let home = Home::new();
    let ports = [home.port(0), home.port(9)];
    let config = json!({"service_types": {"mine": {"port_range": ports}}, "idle_exit_seconds": 1});
    home.configure(&config.to_string());
    home
}

/// Waits until the service has ended by itself.
fn ends(home: &Home, mut service: Child) {
    let service = RefCell::new(&mut service);
    home.until(|| service.borrow_mut().try_wait().unwrap().is_some_and(|status| status.success()));
}

#[test]
fn an_open_stream_counts_as_use_until_its_client_is_gone() {
    let home = short_lived();
    let service = home.service();
    let mut events = Events::of(&home, None);
    events.ready();
    // Its sending side is not needed.
    events.0.get_ref().shutdown(Shutdown::Write).unwrap();
    events.0.get_ref().set_read_timeout(Some(Duration::from_secs(4))).unwrap();
    let nothing = events.0.read(&mut [0]).unwrap_err();
    assert_eq!(nothing.kind(), std::io::ErrorKind::WouldBlock, "the stream stays open");
    drop(events);
    ends(&home, service);
}

#[test]
fn over_tcp_a_client_that_is_gone_is_noticed_too_and_one_without_a_token_gets_nothing() {
    let home = short_lived();
    let (service, door) = Door::open(&home);
    let token = format!("Authorization: Bearer {}\r\n", door.token);
    let stream = door.connect();
    stream.set_read_timeout(Some(Duration::from_secs(4))).unwrap();
    let mut events = Events::on(stream, &token);
    let now = events.ready().unwrap();
    assert_eq!(door.http_with("", "GET", "/events", "").status, 401);
    let granted = door.http("POST", "/allocate", r#"{"service_type": "mine"}"#).body;
    // The refusal is a change, too, and not announced.
    events.expect("lease_granted", now + 2);
    release(&home, &granted);
    events.expect("lease_released", now + 3);
    let nothing = events.0.read(&mut [0]).unwrap_err();
    assert_eq!(nothing.kind(), std::io::ErrorKind::WouldBlock, "the stream stays open");
    drop(events);
    ends(&home, service);
}

#[test]
fn pages_have_room_of_their_own() {
    let home = Home::with_type();
    let (service, door) = Door::open(&home);
    let mut streams: Vec<_> = (0..112).map(|_| Events::of(&home, None)).collect();
    streams.iter_mut().for_each(|events| _ = events.ready());
    assert_eq!(door.http("GET", "/events", "").status, 429);
    let opened = home.http("POST", "/page", "{}").body;
    let body = json!({"secret": opened["secret"]}).to_string();
    let begun = door.http_with("", "POST", "/page/session", &body).body;
    let session = format!("Authorization: Bearer {}\r\n", begun["session"].as_str().unwrap());
    Events::on(door.connect(), &session).ready();
    end(service, Signal::SIGTERM);
}

#[test]
fn with_its_token_a_stream_ends() {
    let home = Home::with_type();
    let (service, door) = Door::open(&home);
    let token = format!("Authorization: Bearer {}\r\n", door.token);
    let mut events = Events::on(door.connect(), &token);
    let now = events.ready().unwrap();
    allocate(&home, "a");
    events.expect("lease_granted", now + 1);
    let another = Door { address: door.address, token: "another".repeat(9) };
    another.set_token(&home);
    assert_eq!(events.try_next(), None);
    end(service, Signal::SIGTERM);
}

#[test]
fn where_a_change_was_lost_clients_list_again() {
    let home = Home::with_type();
    let service = home.service();
    let mut events = Events::of(&home, None);
    let now = events.ready().unwrap();
    allocate(&home, "a");
    allocate(&home, "lost");
    events.expect("lease_granted", now + 1);
    events.expect("lease_granted", now + 2);
    end(service, Signal::SIGKILL);
    let log = home.state().join("log.00000001");
    let text = fs::read_to_string(&log).unwrap();
    fs::write(&log, text.replace("\"lost\"", "\"last\"")).unwrap();

    let service = home.service();
    assert_eq!(home.leases().len(), 1);
    let mut events = Events::of(&home, Some(&(now + 2).to_string()));
    events.ready();
    let reset = events.next();
    assert_eq!(reset.name, "reset", "{reset:?}");
    end(service, Signal::SIGTERM);
}

#[test]
fn a_service_that_ends_waits_for_nobody_who_says_and_reads_nothing() {
    let time_to_end = |service| {
        let start = Instant::now();
        end(service, Signal::SIGTERM);
        start.elapsed()
    };
    let home = Home::with_type();
    let (service, _) = Door::open(&home);
    let alone = time_to_end(service);
    let (service, door) = Door::open(&home);
    let _silent = door.connect();
    let mut events = Events::of(&home, None);
    events.ready();
    // More than its socket takes.
    (0..200).for_each(|_| release(&home, &allocate(&home, "a")));
    let took = time_to_end(service);
    assert!(took < alone + Duration::from_secs(3), "{took:?}, and {alone:?} alone");
}

#[test]
fn a_service_that_ends_ends_the_streams() {
    let home = Home::with_type();
    let service = home.service();
    let streams = [(); 3].map(|()| {
        let mut stream = UnixStream::connect(home.socket()).unwrap();
        write!(stream, "GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        let mut first = [0; 16];
        stream.read_exact(&mut first).unwrap();
        assert_eq!(&first, b"HTTP/1.1 200 OK\r\n".first_chunk().unwrap());
        stream
    });
    end(service, Signal::SIGTERM);
    for mut stream in streams {
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        // The last chunk: it is not just cut off.
        assert!(text.ends_with("\r\n0\r\n\r\n"), "{text}");
    }
}

#[test]
fn streams_are_bounded_and_never_closed_for_other_connections() {
    let home = Home::with_type();
    let service = home.service();
    let mut streams: Vec<_> = (0..112).map(|_| Events::of(&home, None)).collect();
    let now: Vec<_> = streams.iter_mut().map(Events::ready).collect();
    let one_more = home.http("GET", "/events", "");
    assert_eq!((one_more.status, &one_more.body["code"]), (429, &json!("LimitExceeded")));
    // More connections than there is room for.
    let idle: Vec<_> = (0..600).map(|_| UnixStream::connect(home.socket()).unwrap()).collect();
    allocate(&home, "a");
    for (events, now) in streams.iter_mut().zip(&now) {
        events.expect("lease_granted", now.unwrap() + 1);
    }
    drop(idle);
    streams.pop();
    home.until(|| {
        let stream = UnixStream::connect(home.socket()).unwrap();
        let mut stream = BufReader::new(stream);
        write!(stream.get_mut(), "GET /events HTTP/1.0\r\n\r\n").unwrap();
        let mut head = String::new();
        stream.read_line(&mut head).unwrap();
        head.contains(" 200 ")
    });
    end(service, Signal::SIGTERM);
}
