//! `GET /audit`, with a journal that the test writes, or the log of a private service.

mod support;

use std::{
    fs,
    io::{Read, Write},
    os::unix::net::UnixStream,
    process::Child,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value as Json, json};
use support::{Answer, journal::Journal, started};

/// A service that asks this journal.
struct Service<'a> {
    journal: &'a Journal,
    process: Option<Child>,
}

impl<'a> Service<'a> {
    fn of(journal: &'a Journal) -> Self {
        let mut command = journal.0.styxy();
        command.env("PATH", journal.path("bin")).env("TZ", "UTC");
        Self { journal, process: Some(started(command)) }
    }

    #[track_caller]
    fn get(&self, parameters: &str) -> Answer {
        self.journal.0.http("GET", &format!("/audit{parameters}"), "")
    }

    #[track_caller]
    fn found(&self, parameters: &str) -> Json {
        let answer = self.get(parameters);
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.body["success"], true, "{answer:?}");
        answer.body
    }

    #[track_caller]
    fn refused(&self, parameters: &str, status: u16, code: &str) -> String {
        let answer = self.get(parameters);
        assert_eq!(answer.status, status, "{parameters}: {answer:?}");
        assert_eq!(answer.body["code"], code, "{parameters}: {answer:?}");
        assert!(answer.body["suggestions"].is_array(), "{answer:?}");
        answer.body["error"].as_str().unwrap().to_owned()
    }

    /// A request whose answer is not waited for.
    fn ask(&self) -> UnixStream {
        let mut stream = UnixStream::connect(self.journal.0.socket()).unwrap();
        write!(stream, "GET /audit HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            .unwrap();
        stream
    }

    fn signal(&self, signal: Signal) {
        let pid = self.process.as_ref().unwrap().id();
        kill(Pid::from_raw(i32::try_from(pid).unwrap()), signal).unwrap();
    }
}

impl Drop for Service<'_> {
    fn drop(&mut self) {
        self.signal(Signal::SIGTERM);
        self.process.take().unwrap().wait().unwrap();
    }
}

fn event(seq: u64, action: &str) -> Json {
    json!({
        "STYXY_ACTION": action,
        "STYXY_PORT": (3000 + seq).to_string(),
        "STYXY_SERVICE_TYPE": if seq.is_multiple_of(2) { "dev" } else { "api" },
        "STYXY_PROJECT_PATH": "/srv/shop",
        "STYXY_INSTANCE_ID": format!("agent-{seq}"),
        "STYXY_SEQ": seq.to_string(),
        "STYXY_STATE_ID": "a",
        "STYXY_TIME": format!("2020-11-23T10:{:02}:{:02}.000Z", seq / 60, seq % 60),
        "MESSAGE": "It happened",
        "__REALTIME_TIMESTAMP": ((1_606_125_600 + seq) * 1_000_000 + 500).to_string(),
    })
}

fn numbers(answer: &Json) -> Vec<u64> {
    let events = answer["recent_events"].as_array().unwrap().iter();
    events.map(|event| event["seq"].as_u64().unwrap()).collect()
}

/// Each query as parameters, as arguments of the command, and how many of ten events it finds in a log.
const QUERIES: [(&str, &[&str], usize); 11] = [
    ("", &[], 10),
    ("?limit=3", &["-n", "3"], 3),
    ("?limit=0", &["-n", "0"], 0),
    ("?action=deny", &["--action=deny"], 5),
    ("?action=deny&action=release", &["--action=deny,release"], 10),
    ("?service_type=dev&service_type=docs", &["--type=dev,docs"], 5),
    ("?port=3001&port=3002&port=4000", &["--port=3001,3002,4000"], 2),
    ("?port=3001&action=release", &["--port=3001", "--action=release"], 0),
    (
        "?project_path=/srv/shop&instance_id=agent-7",
        &["--project=/srv/shop", "--instance=agent-7"],
        1,
    ),
    ("?since=2020-11-23+10:00:08", &["--all", "--since=2020-11-23 10:00:08"], 3),
    (
        "?since=2020-11-23T10:00:02Z&until=2020-11-23T10:00:04%2B00:00",
        &["--all", "--since=2020-11-23T10:00:02Z", "--until=2020-11-23T10:00:04+00:00"],
        3,
    ),
];

fn ten_events() -> Vec<Json> {
    (1..=10).map(|seq| event(seq, if seq % 2 == 0 { "release" } else { "deny" })).collect()
}

#[test]
fn the_log_of_a_private_service_has_the_events_that_the_command_finds() {
    let journal = Journal::none();
    let log: String = ten_events().iter().map(|event| event.to_string() + "\n").collect();
    journal.write_log(&log);
    let service = Service::of(&journal);
    for (parameters, arguments, count) in QUERIES {
        let answer = service.found(parameters);
        let events = &answer["recent_events"];
        assert_eq!(*events, journal.json(arguments)["events"], "{parameters}");
        assert_eq!(events.as_array().unwrap().len(), count, "{parameters}: {answer}");
        assert_eq!(answer["enabled"], true, "{answer}");
        assert_eq!(answer["truncated"], parameters.starts_with("?limit"), "{parameters}: {answer}");
        let message = answer["message"].as_str().unwrap();
        assert!(message.contains("the log of a private service"), "{message}");
        assert!(!message.contains('/'), "a path of the service: {message}");
    }
}

#[test]
fn the_journal_is_asked_what_the_command_asks_and_has_the_same_events() {
    let mut entries = ten_events();
    // It came twice, and late.
    entries.push(entries[3].clone());
    let journal = Journal::of(&entries);
    let service = Service::of(&journal);
    let asked = || fs::read_to_string(journal.path("asked")).unwrap();
    for (parameters, arguments, _) in QUERIES {
        let answer = service.found(parameters);
        let by_service = asked();
        assert_eq!(answer["recent_events"], journal.json(arguments)["events"], "{parameters}");
        // The command reads all events since a time, and the service the last ones.
        let by_command = asked();
        let by_service = if parameters.contains("since") {
            by_service.replacen("--reverse\n", "", 1)
        } else {
            by_service
        };
        assert_eq!(by_service, by_command, "{parameters}");
        assert_eq!(answer["enabled"], true, "{answer}");
        assert_eq!(answer["truncated"], parameters.starts_with("?limit"), "{parameters}: {answer}");
        assert!(answer.get("message").is_none(), "{answer}");
    }
    assert_eq!(numbers(&service.found("")), (1..=10).collect::<Vec<_>>());
    // Of this user and this state, whatever is asked for.
    assert!(asked().contains("\nSTYXY_STATE_ID="), "{}", asked());
}

#[test]
fn two_hundred_events_are_found_unless_more_are_asked_for_and_ten_thousand_may_be() {
    let events: Vec<_> = (1..=10_050).map(|seq| event(seq, "allocate")).collect();
    let journal = Journal::of(&events);
    let service = Service::of(&journal);
    for (parameters, first) in [("", 9_851), ("?limit=201", 9_850), ("?limit=10000", 51)] {
        let answer = service.found(parameters);
        assert_eq!(numbers(&answer), (first..=10_050).collect::<Vec<_>>(), "{parameters}");
        assert_eq!(answer["truncated"], true);
    }
}

#[test]
fn of_events_that_are_too_long_together_the_last_ones_are_found() {
    let events = (1..=200).map(|seq| {
        let mut event = event(seq, "deny");
        event["STYXY_REASON"] = "x".repeat(100_000).into();
        event
    });
    let events: Vec<_> = events.collect();
    let log: String = events.iter().map(|event| event.to_string() + "\n").collect();
    for journal in [Journal::of(&events), Journal::none()] {
        journal.write_log(&log);
        let answer = Service::of(&journal).found("?limit=10000");
        let found = numbers(&answer);
        assert!((100..199).contains(&found.len()), "{}", found.len());
        let first = found[0];
        assert_eq!(found, (first..=200).collect::<Vec<_>>());
        assert_eq!(answer["truncated"], true);
    }
}

#[test]
fn what_is_unknown_or_wrong_in_a_query_is_refused_and_the_journal_not_asked() {
    let journal = Journal::of(&ten_events());
    let service = Service::of(&journal);
    let _ = fs::remove_file(journal.path("asked"));
    for parameters in [
        "?action=alocate",
        "?action=",
        "?action=deny,release",
        "?service_type=no+type",
        "?port=0",
        "?port=65536",
        "?port=3000&port=x",
        "?project_path=shop",
        "?instance_id=a+b",
        "?limit=-1",
        "?limit=10001",
        "?limit=many",
        "?limit=",
        "?limit=1&limit=2",
        "?since=today&since=yesterday",
        "?since=today%00",
        "?until=a%0Ab",
        "?all_users=true",
        "?type=dev",
        "?follow",
    ] {
        service.refused(parameters, 400, "InvalidArgument");
    }
    assert!(!journal.path("asked").exists());
    let hint = service.get("?type=dev").body["suggestions"][0].clone();
    assert!(hint.as_str().unwrap().contains("service_type"), "{hint}");
    let hint = service.get("?action=alocate").body["suggestions"][0].clone();
    assert!(hint.as_str().unwrap().contains("auto_allocate"), "{hint}");
}

#[test]
fn without_a_journal_and_a_log_it_is_said_why_there_are_no_events() {
    let unreadable = "No journal files were opened due to insufficient permissions.";
    for (journal, why) in [
        (Journal::none(), "journalctl cannot be run"),
        (Journal::of(&[]), "no entry at all"),
        (Journal::complaining(unreadable), unreadable),
    ] {
        let service = Service::of(&journal);
        let answer = service.found("");
        assert_eq!(answer["enabled"], false, "{answer}");
        assert_eq!(answer["recent_events"], json!([]), "{answer}");
        assert!(answer["message"].as_str().unwrap().contains(why), "{answer}");
    }
    let journal = Journal::of(&[]);
    journal.write("others", "{\"MESSAGE\": \"somebody else's\"}\n");
    let answer = Service::of(&journal).found("");
    assert_eq!((&answer["enabled"], &answer["recent_events"]), (&json!(true), &json!([])));
}

#[test]
fn a_time_that_is_not_understood_is_a_wrong_request_and_another_failure_is_not() {
    for words in ["Failed to parse timestamp: soon", "--since= must be before --until=."] {
        let journal = Journal::complaining(words);
        let said = Service::of(&journal).refused("?since=soon", 400, "InvalidArgument");
        assert!(said.contains(words), "{said}");
    }
    let journal = Journal::none();
    journal.write_log(&event(1, "deny").to_string());
    let said = Service::of(&journal).refused("?until=soon", 400, "InvalidArgument");
    assert!(said.contains("\"soon\""), "{said}");
    let journal = Journal::complaining("Something odd");
    let said = Service::of(&journal).refused("", 503, "JournalUnavailable");
    assert!(said.contains("Something odd"), "{said}");
}

/// How long the journal is waited for.
const PATIENCE: Duration = Duration::from_secs(20);

/// The processes that read the journal, in the order in which they were started.
fn readers(journal: &Journal) -> Vec<Pid> {
    let pids = fs::read_to_string(journal.path("pids")).unwrap_or_default();
    pids.lines().map(|pid| Pid::from_raw(pid.parse().unwrap())).collect()
}

fn has_ended(pid: Pid) -> bool {
    kill(pid, None) == Err(Errno::ESRCH)
}

#[test]
fn two_requests_read_the_journal_at_once_and_each_as_long_as_its_client_is_there() {
    let journal = Journal::of(&ten_events());
    let service = Service::of(&journal);
    journal.write("stuck", "");
    let start = Instant::now();
    let clients: Vec<_> = (0..2).map(|_| service.ask()).collect();
    journal.0.until(|| readers(&journal).len() == 2);
    let third = service.ask();
    // It answers others meanwhile; the third request waits for its turn.
    for _ in 0..50 {
        assert_eq!(journal.0.http("GET", "/status", "").status, 200);
    }
    let first = readers(&journal);
    assert_eq!(first.len(), 2);
    assert!(!first.iter().any(|pid| has_ended(*pid)));
    drop(clients);
    journal.0.until(|| first.iter().all(|pid| has_ended(*pid)));
    assert!(start.elapsed() < PATIENCE, "it was not their clients' end that ended them");
    journal.0.until(|| readers(&journal).len() == 3);
    // A client that is gone before its turn does not keep others from theirs.
    let fourth = service.ask();
    journal.0.until(|| readers(&journal).len() == 4);
    drop(service.ask());
    drop((third, fourth));
    journal.0.until(|| readers(&journal).iter().all(|pid| has_ended(*pid)));
    fs::remove_file(journal.path("stuck")).unwrap();
    assert_eq!(numbers(&service.found("")).len(), 10, "and others are answered");
}

#[test]
fn a_service_that_ends_does_not_wait_for_the_journal() {
    let journal = Journal::of(&ten_events());
    let service = Service::of(&journal);
    journal.write("stuck", "");
    let mut client = service.ask();
    journal.0.until(|| readers(&journal).len() == 1);
    service.signal(Signal::SIGTERM);
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(answer.contains("the service is ending"), "{answer}");
    journal.0.until(|| readers(&journal).iter().all(|pid| has_ended(*pid)));
}
