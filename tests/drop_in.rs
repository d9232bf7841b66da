//! The file of the service types that have appeared by themselves, when the service is killed while it
//! is being written: at every step, by strace(1), which kills at the system call that it is told.
//!
//! Without strace, or where it may not trace, the tests are ignored.

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, ExitCode, Stdio},
};

use libtest_mimic::{Arguments, Trial};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value as Json, json};
use support::{Answer, Home, end};

/// The system calls by which files are written; with `?` those that not every architecture has.
const CALLS: &str = "openat,write,?pwrite64,fsync,fdatasync,?rename,?renameat,renameat2,?mkdir,mkdirat,\
                     ?unlink,unlinkat,ftruncate,flock";

fn main() -> ExitCode {
    let tests: [(&str, fn()); 4] = [
        ("a_new_type_is_whole_or_not_there_wherever_the_service_is_killed", new),
        ("a_growing_type_is_whole_wherever_the_service_is_killed", growing),
        ("an_undone_type_is_whole_or_gone_wherever_the_service_is_killed", undone),
        ("a_change_made_while_no_service_runs_is_told_once", by_hand),
    ];
    let can_trace = strace().args(["-o", "/dev/null", "true"]).stderr(Stdio::null()).status();
    let can_trace = can_trace.is_ok_and(|status| status.success());
    let trials = tests.into_iter().map(|(name, test)| {
        let needs_strace = name != tests[3].0;
        let trial = Trial::test(name, move || {
            test();
            Ok(())
        });
        trial.with_ignored_flag(needs_strace && !can_trace)
    });
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit_code()
}

fn new() {
    killed_at_each_step(&Change {
        before: |_, _| {},
        ask: |home, name| home.try_http("POST", "/allocate", &request(name, 1)),
        is_done: |types, name| types.contains_key(name),
        again: &[200],
        ranges: 1,
    });
}

fn growing() {
    killed_at_each_step(&Change {
        before: |home, name| {
            allocate(home, name, 10);
        },
        ask: |home, name| home.try_http("POST", "/allocate", &request(name, 1)),
        is_done: |types, name| ports(&types[name]).len() == 20,
        again: &[200],
        ranges: 2,
    });
}

fn undone() {
    killed_at_each_step(&Change {
        before: |home, name| {
            allocate(home, name, 1);
        },
        ask: |home, name| home.try_http("DELETE", &format!("/types/{name}?force=true"), ""),
        is_done: |types, name| !types.contains_key(name),
        again: &[200, 404],
        ranges: 1,
    });
}

/// A change of the file, and how it shows.
struct Change {
    /// What is there before, for that type.
    before: fn(&Home, &str),
    /// Has it made; without an answer if the service ends.
    ask: fn(&Home, &str) -> Option<Answer>,
    /// Whether the file says it.
    is_done: fn(&Types, &str) -> bool,
    /// With what it is answered after a kill.
    again: &'static [u16],
    /// How often a range of that type has been told when all is over.
    ranges: usize,
}

/// The ranges of the types that have appeared by themselves.
type Types = BTreeMap<String, Vec<[u16; 2]>>;

/// Kills the service at each call of each kind that the change makes, one after the other.
fn killed_at_each_step(change: &Change) {
    // All types of this test, and none of another: a service would find their ports held by another.
    let home = Home::with_ports(300);
    home.configure(&format!(
        r#"{{"auto_allocation": {{"min_port": {}, "max_port": {}}}}}"#,
        home.port(0),
        home.port(299)
    ));
    // There are as many earlier versions as are kept, so that the oldest is deleted, too.
    let service = home.service();
    for i in 0..11 {
        allocate(&home, &format!("old-{i}"), 1);
    }
    for i in 1..11 {
        assert_eq!(home.http("DELETE", &format!("/types/old-{i}?force=true"), "").status, 200);
    }
    end(service, Signal::SIGTERM);
    copy(&home, ".", "template");

    let calls = calls(&home, change);
    assert!(calls.contains_key("openat") && calls.contains_key("fsync"), "{calls:?}");
    let (mut old, mut new) = (0, 0);
    for (call, most) in &calls {
        for number in 1..=*most {
            let step = format!("{call} {number} of {most}");
            match killed_at(&home, change, call, number, &step) {
                Some(false) => old += 1,
                Some(true) => new += 1,
                None => {}
            }
        }
    }
    println!("killed {old} times before the change, {new} times after it; {calls:?}");
    assert!(old > 5 && new > 2, "killed {old} times before and {new} times after: {calls:?}");
}

/// Copies the state and the configuration, in the place of what is there.
fn copy(home: &Home, from: &str, to: &str) {
    fs::create_dir_all(home.path(to)).unwrap();
    for folder in ["state", "config"] {
        let (from, to) = (home.path(from).join(folder), home.path(to).join(folder));
        let _ = fs::remove_dir_all(&to);
        // Up to systemd 253, the state is in the folder of the configuration.
        if !from.exists() {
            continue;
        }
        let copied = Command::new("cp").arg("-a").args([from, to]).status().unwrap();
        assert!(copied.success());
    }
}

/// How often the change makes each kind of call, at most in one thread: strace counts so.
fn calls(home: &Home, change: &Change) -> BTreeMap<String, usize> {
    let service = home.service();
    (change.before)(home, "tool");
    let log = home.path("strace.log");
    let mut tracer = trace(&service, &["-o", log.to_str().unwrap()]);
    assert!((change.ask)(home, "tool").is_some());
    // It lets go of the service, and has written all.
    kill(pid(&tracer), Signal::SIGINT).unwrap();
    tracer.wait().unwrap();
    end(service, Signal::SIGTERM);

    let mut counts = BTreeMap::<(String, String), usize>::new();
    for line in fs::read_to_string(log).unwrap().lines() {
        let (thread, rest) = line.split_once(' ').unwrap();
        if let Some((call, _)) = rest.trim_start().split_once('(') {
            *counts.entry((thread.to_owned(), call.to_owned())).or_default() += 1;
        }
    }
    let mut most = BTreeMap::new();
    for ((_, call), count) in counts {
        let known = most.entry(call).or_default();
        *known = count.max(*known);
    }
    most
}

/// Kills the service at that call of the change. Whether the file then had the change, if the service
/// was killed at all: which thread does what is not the same every time.
fn killed_at(home: &Home, change: &Change, call: &str, number: usize, step: &str) -> Option<bool> {
    let name = "tool";
    copy(home, "template", ".");
    let mut service = home.service();
    (change.before)(home, name);
    let before = in_file(home);
    let old_text = fs::read_to_string(file(home)).unwrap();
    let inject = format!("inject={call}:signal=KILL:when={number}");
    let mut tracer = trace(&service, &["-o", "/dev/null", "-e", &inject]);
    let answer = (change.ask)(home, name);
    let is_killed = answer.is_none();
    if is_killed {
        service.wait().unwrap();
    } else {
        // Killed after the answer, or not at all.
        let _ = kill(pid(&service), Signal::SIGKILL);
        service.wait().unwrap();
    }
    tracer.wait().unwrap();

    // Whole: the old one to the letter, or one that differs from it in this type only.
    let text = fs::read_to_string(file(home)).unwrap();
    let after = in_file(home);
    let is_done = (change.is_done)(&after, name);
    assert!(is_done || text == old_text, "{step}: {text}");
    assert!(is_done || is_killed, "{step}: it was answered: {text}");
    let others = |types: &Types| {
        let mut types = types.clone();
        types.remove(name);
        types
    };
    assert_eq!(others(&after), others(&before), "{step}");

    // The next service goes by the file, and has told what is in it.
    let service = home.service();
    assert_eq!(shown(home), after, "{step}");
    assert_eq!(told(home, step), after, "{step}");
    let answer = (change.ask)(home, name).unwrap();
    assert!(change.again.contains(&answer.status), "{step}: {answer:?}");
    let now = in_file(home);
    assert!((change.is_done)(&now, name), "{step}");
    assert_eq!(shown(home), now, "{step}");
    assert_eq!(told(home, step), now, "{step}");
    let ranges = ranges_told(home, name);
    let different: BTreeSet<_> = ranges.iter().flat_map(|range| range[0]..=range[1]).collect();
    assert_eq!(ranges.len(), change.ranges, "{step}: {ranges:?}");
    assert_eq!(different.len(), 10 * change.ranges, "{step}: {ranges:?}");
    // Nothing half-written is left.
    assert_eq!(names(file(home).parent().unwrap()), [".styxy-auto.lock", "styxy-auto.json"]);
    let backups = names(&home.state().join("auto-backups"));
    assert!(backups.iter().all(|name| name.starts_with("0000")), "{step}: {backups:?}");
    assert_eq!(backups.len(), 10, "{step}: {backups:?}");

    end(service, Signal::SIGTERM);
    is_killed.then_some(is_done)
}

fn by_hand() {
    let home = Home::new();
    let service = home.service();
    allocate(&home, "grafana", 1);
    allocate(&home, "kibana", 1);
    end(service, Signal::SIGTERM);
    let reloads = || {
        let mut records = records(&home);
        records.retain(|record| record["action"] == "config_reload");
        records
    };
    assert_eq!(reloads(), Vec::<Json>::new());

    // Somebody writes a type, and takes an automatic one out.
    home.configure(&format!(
        r#"{{"service_types": {{"mine": {{"port_range": [{}, {}]}}}}}}"#,
        home.port(0),
        home.port(9)
    ));
    let mut json: Json = serde_json::from_str(&fs::read_to_string(file(&home)).unwrap()).unwrap();
    json["service_types"].as_object_mut().unwrap().remove("kibana");
    fs::write(file(&home), json.to_string()).unwrap();
    for _ in 0..2 {
        let service = home.service();
        assert_eq!(shown(&home), in_file(&home));
        assert_eq!(told(&home, "by hand"), in_file(&home));
        let reloads = reloads();
        assert_eq!(reloads.len(), 1, "{reloads:#?}");
        let added = json!([{"service_type": "mine", "ranges": [[home.port(0), home.port(9)]]}]);
        assert_eq!(reloads[0]["added"], added, "{reloads:#?}");
        let undone = records(&home);
        let undone: Vec<_> =
            undone.iter().filter(|r| r["action"] == "undo_auto_allocation").collect();
        assert_eq!(undone.len(), 1, "{undone:#?}");
        assert_eq!(undone[0]["service_type"], "kibana");
        end(service, Signal::SIGTERM);
    }
}

fn request(name: &str, count: u16) -> String {
    json!({"service_type": name, "count": count, "create": true}).to_string()
}

fn allocate(home: &Home, name: &str, count: u16) {
    let answer = home.http("POST", "/allocate", &request(name, count));
    assert_eq!(answer.status, 200, "{answer:?}");
}

fn strace() -> Command {
    Command::new("strace")
}

/// Traces a service with all its threads; returns as soon as it does.
fn trace(service: &Child, arguments: &[&str]) -> Child {
    let mut command = strace();
    command.args(["-f", "-p", &service.id().to_string(), "-e", &format!("trace={CALLS}")]);
    let mut tracer = command.args(arguments).stderr(Stdio::piped()).spawn().unwrap();
    let mut stderr = BufReader::new(tracer.stderr.take().unwrap());
    let mut line = String::new();
    stderr.read_line(&mut line).unwrap();
    assert!(line.contains("attached"), "{line}");
    // It goes on to tell of threads, and must not be ended by that.
    std::thread::spawn(move || stderr.lines().for_each(drop));
    tracer
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(child.id().try_into().unwrap())
}

/// The file that the service writes.
fn file(home: &Home) -> std::path::PathBuf {
    home.path("config/styxy/config.d/styxy-auto.json")
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// What the file says, which is JSON to its end.
fn in_file(home: &Home) -> Types {
    let text = fs::read_to_string(file(home)).unwrap();
    let json: Json = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    let types = json["service_types"].as_object().into_iter().flatten();
    let types = types.map(|(name, service_type)| {
        assert!(service_type["created"]["at"].is_string(), "{text}");
        let first: [u16; 2] = serde_json::from_value(service_type["port_range"].clone()).unwrap();
        let more = service_type.get("more_port_ranges").cloned().unwrap_or(json!([]));
        let more: Vec<[u16; 2]> = serde_json::from_value(more).unwrap();
        (name.clone(), [vec![first], more].concat())
    });
    types.collect()
}

/// What `styxy types` says.
fn shown(home: &Home) -> Types {
    let types = home.list("service_types", &["types"]);
    let types = types.iter().filter(|t| t["automatic"] == true);
    let range = |text: &Json| {
        let (first, last) = text.as_str().unwrap().split_once('-').unwrap();
        [first.parse().unwrap(), last.parse().unwrap()]
    };
    types
        .map(|t| {
            let ranges = t["ranges"].as_array().unwrap().iter().map(range).collect();
            (t["service_type"].as_str().unwrap().to_owned(), ranges)
        })
        .collect()
}

/// What the journal is told of the types: each change has one number, and none is missing.
fn told(home: &Home, step: &str) -> Types {
    let mut types = Types::new();
    for (record, seq) in records(home).iter().zip(1_u64..) {
        assert_eq!(record["seq"], seq, "{step}: {record}");
        let name = || record["service_type"].as_str().unwrap().to_owned();
        match record["action"].as_str().unwrap() {
            "auto_allocate" => {
                let ranges = serde_json::from_value(record["ranges"].clone()).unwrap();
                assert_ne!(types.get(&name()), Some(&ranges), "{step}: told twice: {record}");
                types.insert(name(), ranges);
            }
            "undo_auto_allocation" => {
                assert!(types.remove(&name()).is_some(), "{step}: told twice: {record}");
            }
            "config_error" | "recover" => panic!("{step}: {record}"),
            _ => {}
        }
    }
    types
}

/// The ranges of one type, as they were told one after the other.
fn ranges_told(home: &Home, name: &str) -> Vec<[u16; 2]> {
    let records = records(home).into_iter();
    let records = records.filter(|r| r["action"] == "auto_allocate" && r["service_type"] == name);
    records.map(|r| serde_json::from_value(r["range"].clone()).unwrap()).collect()
}

/// The records of the log, from which the journal is told.
fn records(home: &Home) -> Vec<Json> {
    let logs = names(&home.state());
    let logs = logs.iter().filter(|name| name.starts_with("log."));
    let text: String =
        logs.map(|name| fs::read_to_string(home.state().join(name)).unwrap()).collect();
    let lines = text.lines().filter_map(|line| serde_json::from_str::<Json>(line.get(9..)?).ok());
    lines.filter_map(|line| line.get("record").map(flat)).collect()
}

/// A record with the name of its change as `action`, and with what the change says.
fn flat(record: &Json) -> Json {
    let (action, change) = record["change"].as_object().unwrap().iter().next().unwrap();
    let mut flat = change.clone();
    flat["seq"] = record["seq"].clone();
    flat["action"] = json!(action);
    flat
}

fn ports(ranges: &[[u16; 2]]) -> Vec<u16> {
    ranges.iter().flat_map(|range| range[0]..=range[1]).collect()
}
