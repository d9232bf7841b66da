//! `styxy audit`, seen from outside, with a journal that the test writes.

mod support;

use std::{
    cell::RefCell,
    fs,
    io::{Read, Write},
    os::unix::{
        fs::{MetadataExt, symlink},
        net::UnixListener,
    },
    process::{Command, Stdio},
    thread,
};

use nix::{
    errno::Errno,
    sys::signal::{Signal, kill},
    unistd::{Pid, geteuid},
};
use serde_json::{Value as Json, json};
use support::journal::{Journal, stderr};

/// What each line begins with.
const START: &str = "journalctl --quiet --no-pager --all --output=json";

/// An event by its number; it arrived a moment after it happened.
fn event(seq: u64, action: &str) -> Json {
    json!({
        "STYXY_ACTION": action,
        "STYXY_PORT": (3000 + seq).to_string(),
        "STYXY_PROTOCOL": "tcp",
        "STYXY_SERVICE_TYPE": "dev",
        "STYXY_SERVICE_NAME": "web",
        "STYXY_PROJECT_PATH": "/srv/shop",
        "STYXY_CLIENT_COMM": "node",
        "STYXY_CLIENT_PID": "4711",
        "STYXY_SEQ": seq.to_string(),
        "STYXY_STATE_ID": "a",
        "STYXY_TIME": format!("2020-11-23T10:{:02}:{:02}.000Z", seq / 60, seq % 60),
        "MESSAGE": "It happened",
        "__REALTIME_TIMESTAMP": ((1_606_125_600 + seq) * 1_000_000 + 500).to_string(),
    })
}

/// The numbers of the events in an answer.
fn numbers(answer: &Json) -> Vec<u64> {
    let events = answer["events"].as_array().unwrap().iter();
    events.map(|event| event["seq"].as_u64().unwrap()).collect()
}

/// A service that says this of itself to everybody, or nothing at all.
fn stand_in(journal: &Journal, status: Option<Json>) {
    fs::create_dir_all(journal.0.state()).unwrap();
    let path = journal.0.state().join("http.sock");
    let _ = fs::remove_file(&path);
    let listener = UnixListener::bind(path).unwrap();
    thread::spawn(move || {
        let mut silent = Vec::new();
        for mut stream in listener.incoming().map_while(Result::ok) {
            let Some(status) = &status else {
                silent.push(stream);
                continue;
            };
            let (status, mut request) = (status.to_string(), [0; 4096]);
            let _ = stream.read(&mut request);
            let _ = write!(
                stream,
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{status}",
                status.len()
            );
        }
    });
}

#[test]
fn events_that_are_still_on_their_way_are_counted_beside_those_that_are_there() {
    let journal = Journal::of(&(1..=7).map(|seq| event(seq, "allocate")).collect::<Vec<_>>());
    let audit = |arguments: &[&str]| {
        let output = journal.command(arguments).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        (String::from_utf8_lossy(&output.stdout).into_owned(), stderr(&output))
    };
    assert_eq!(audit(&["--json"]).1, "", "and no service is started");
    assert!(!journal.0.state().exists());
    let status =
        |pending: u64| json!({"seq": 10, "audit_pending": pending, "audit_confirmed": true});
    // Of the five that are not confirmed two have arrived.
    for (pending, arguments, words) in [
        (5, &["--json"][..], "styxy: 3 events are still on their way to the journal\n"),
        (3, &[], "styxy: 3 events are still on their way to the journal\n"),
        (3, &["--stats"], "styxy: 3 events are still on their way to the journal\n"),
        (
            3,
            &["--json", "--type=dev"],
            "styxy: up to 3 events may still be on the way to the journal\n",
        ),
        (0, &["--json"], ""),
        (3, &["--print"], ""),
    ] {
        stand_in(&journal, Some(status(pending)));
        // A service that does not answer at once is not waited for, and this one is slow on a busy machine.
        journal.0.until(|| {
            let (shown, said) = audit(arguments);
            assert!(said.is_empty() || said == words, "{arguments:?}: {said}");
            assert!(!shown.contains("on their way"), "{shown}");
            said == words
        });
    }
    let all: Vec<_> = (1..=10).map(|seq| event(seq, "allocate").to_string() + "\n").collect();
    stand_in(&journal, Some(status(3)));
    journal.write("journal", &all.concat());
    assert_eq!(audit(&["--json"]).1, "", "they have arrived");
    let note = "the journal takes nothing at the moment";
    let mut stuck = status(3);
    (stuck["audit_confirmed"], stuck["audit_note"]) = (false.into(), note.into());
    stand_in(&journal, Some(stuck));
    journal.write("journal", &all[..7].concat());
    let words = format!("styxy: {note} (on the way: 3 events)\n");
    journal.0.until(|| audit(&["--json"]).1 == words);
    stand_in(&journal, None);
    assert_eq!(audit(&["--json"]).1, "", "a service that does not answer is not waited for");
}

#[test]
fn print_shows_the_line_and_asks_nobody() {
    let uid = geteuid();
    let journal = Journal::of(&[event(1, "allocate")]);
    let shown = journal.ok(&[
        "--print",
        "--action=allocate,release",
        "--port=3000",
        "--action=deny",
        "--since=1 hour ago",
    ]);
    assert_eq!(
        shown,
        format!(
            "{START} '--since=1 hour ago' -t styxy _UID={uid} STYXY_ACTION=allocate \
             STYXY_ACTION=release STYXY_ACTION=deny STYXY_PORT=3000\n"
        )
    );
    assert!(!journal.path("asked").exists());
    let none = Journal::none();
    assert_eq!(none.ok(&["--print"]), format!("{START} --reverse -t styxy _UID={uid}\n"));
    let command = none.json(&["--print", "--until=-1h"])["command"].clone();
    assert_eq!(command[0], "journalctl");
    assert_eq!(command[6], "--until=-1h", "{command}");
}

#[test]
fn only_events_of_this_user_and_this_state_are_asked_for_unless_all_are_wanted() {
    let journal = Journal::of(&[event(1, "allocate")]);
    let service = journal.0.service();
    let line = journal.ok(&["--print", "--all"]);
    let whose = format!("{START} -t styxy _UID={} STYXY_STATE_ID=", geteuid());
    let state_id = line.trim_end().strip_prefix(&whose).expect(&line);
    let logs = fs::read_to_string(journal.0.state().join("log.00000001")).unwrap();
    assert!(logs.contains(&format!("\"state_id\":\"{state_id}\"")), "{state_id}");
    assert_eq!(journal.ok(&["--print", "--all", "--all-users"]), format!("{START} -t styxy\n"));
    support::end(service, Signal::SIGTERM);
}

#[test]
fn the_line_that_is_shown_is_the_one_that_is_run() {
    for arguments in [
        vec![],
        vec!["--all"],
        vec!["-n", "5", "--until", "-1h"],
        vec!["--stats", "--type", "dev,api"],
        vec!["--follow"],
        vec!["--follow", "--all"],
        vec!["-f", "--since", "today", "--instance", "agent-7"],
        vec!["--project", "/home/o'hara/my $shop", "--since", "2026-11-23T12:06:06.817Z"],
        vec!["--export", "file"],
    ] {
        let journal = Journal::of(&[event(1, "allocate")]);
        journal.ok(&arguments);
        let asked = fs::read_to_string(journal.path("asked")).unwrap();
        fs::remove_file(journal.path("asked")).unwrap();
        let line = journal.ok(&[&arguments[..], &["--print"]].concat());
        assert!(!journal.path("asked").exists(), "{line}");
        let mut shell = Command::new("/bin/sh");
        shell.env("HOME", journal.path(".")).env("PATH", journal.path("bin")).args(["-c", &line]);
        assert!(shell.output().unwrap().status.success(), "{line}");
        assert_eq!(fs::read_to_string(journal.path("asked")).unwrap(), asked, "{line}");
    }
}

#[test]
fn a_project_can_be_named_from_the_current_folder() {
    let journal = Journal::none();
    fs::create_dir(journal.path("shop")).unwrap();
    let top = fs::canonicalize(journal.path(".")).unwrap();
    let line = journal.ok(&["--print", "--project", ".", "--project=shop", "--project=gone"]);
    for folder in ["", "/shop", "/gone"] {
        let wanted = format!("STYXY_PROJECT_PATH={}{folder}", top.display());
        assert!(line.split_whitespace().any(|word| word == wanted), "{wanted}: {line}");
    }
}

#[test]
fn events_are_lines_for_people_the_newest_last() {
    let mut release = event(2, "release");
    release["STYXY_REASON"] = "released".into();
    let journal = Journal::of(&[event(1, "allocate"), release]);
    assert_eq!(
        journal.ok(&[]).lines().collect::<Vec<_>>(),
        [
            "TIME              ACTION    PORT      TYPE  NAME  PROJECT    WHO         REASON",
            "2020-11-23 10:00  allocate  3001/tcp  dev   web   /srv/shop  node[4711]",
            "2020-11-23 10:00  release   3002/tcp  dev   web   /srv/shop  node[4711]  released",
        ]
    );
    journal.write("journal", &event(1, "allocate").to_string());
    assert!(!journal.ok(&[]).contains("REASON"), "no event has one");
}

#[test]
fn json_is_a_list_in_the_words_of_the_design() {
    let journal = Journal::of(&[event(7, "allocate")]);
    assert_eq!(
        journal.json(&[]),
        json!({"events": [{
            "action": "allocate", "port": 3007, "protocol": "tcp", "service_type": "dev",
            "service_name": "web", "project_path": "/srv/shop", "client_comm": "node",
            "client_pid": 4711, "seq": 7, "state_id": "a", "time": "2020-11-23T10:00:07.000Z",
            "message": "It happened",
        }]})
    );
}

#[test]
fn events_are_in_their_order_and_each_is_shown_once() {
    let late = |seq: u64, arrived: u64| {
        let mut event = event(seq, "renew");
        event["__REALTIME_TIMESTAMP"] = event_time(arrived);
        event
    };
    let journal = Journal::of(&[
        event(3, "renew"),
        event(1, "renew"),
        event(3, "renew"),
        event(4, "renew"),
        late(2, 5),
        late(4, 6),
    ]);
    assert_eq!(numbers(&journal.json(&["--all"])), [1, 2, 3, 4]);
    assert_eq!(numbers(&journal.json(&["-n", "2"])), [3, 4]);
    assert_eq!(numbers(&journal.json(&["-n", "3", "--since", "today"])), [2, 3, 4]);
    assert_eq!(numbers(&journal.json(&["-n", "0"])), [0_u64; 0]);
}

fn event_time(second: u64) -> Json {
    ((1_606_125_600 + second) * 1_000_000).to_string().into()
}

#[test]
fn two_hundred_events_are_shown_unless_more_are_asked_for() {
    let events: Vec<_> = (1..=250).map(|seq| event(seq, "renew")).collect();
    let journal = Journal::of(&events);
    let shown = journal.run(&[]);
    assert_eq!(String::from_utf8_lossy(&shown.stdout).lines().count(), 201);
    assert!(stderr(&shown).contains("--all"), "{}", stderr(&shown));
    assert_eq!(numbers(&journal.json(&[])), (51..=250).collect::<Vec<_>>());
    for arguments in [&["--all"][..], &["--since", "yesterday"], &["-n", "1000"]] {
        assert_eq!(numbers(&journal.json(arguments)), (1..=250).collect::<Vec<_>>());
        assert_eq!(stderr(&journal.run(arguments)), "");
    }
    assert_eq!(journal.json(&["--stats"])["events"], 250);
    assert_eq!(journal.json(&["--stats", "-n", "60"])["events"], 60);
    assert_eq!(stderr(&journal.run(&["-n", "5"])), "", "who says how many knows it");
}

#[test]
fn events_are_followed_as_json_an_object_a_line() {
    let journal = Journal::of(&[event(1, "allocate"), event(1, "allocate"), event(2, "release")]);
    let output = journal.ok(&["--follow", "--json"]);
    let events: Vec<Json> =
        output.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(numbers(&json!({"events": events})), [1, 2]);
    assert_eq!(journal.ok(&["-f"]).lines().count(), 2);
    let asked = fs::read_to_string(journal.path("asked")).unwrap();
    assert!(asked.contains("--follow\n--lines=10\n"), "{asked}");
}

#[test]
fn following_ends_with_its_reader_and_so_does_journalctl() {
    let journal = Journal::of(&[event(1, "allocate")]);
    journal.write("endless", "");
    let mut child = journal.command(&["--follow"]).stdout(Stdio::piped()).spawn().unwrap();
    let pid = || fs::read_to_string(journal.path("pid")).unwrap_or_default();
    journal.0.until(|| pid().ends_with('\n'));
    let journalctl = Pid::from_raw(pid().trim().parse().unwrap());
    assert_eq!(kill(journalctl, None), Ok(()));
    drop(child.stdout.take());
    let child = RefCell::new(child);
    journal.0.until(|| child.borrow_mut().try_wait().unwrap().is_some());
    assert!(child.into_inner().wait().unwrap().success());
    assert_eq!(kill(journalctl, None), Err(Errno::ESRCH));
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let events: Vec<_> = (1..=200).map(|seq| event(seq, "renew")).collect();
    let journal = Journal::of(&events);
    for arguments in [&[][..], &["--json"], &["--stats"], &["--follow"]] {
        let mut child = journal.command(arguments).stdout(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        assert!(child.wait().unwrap().success(), "{arguments:?}");
    }
}

#[test]
fn an_export_is_whole_lines_of_json_for_the_user_alone() {
    let journal = Journal::of(&[event(1, "allocate"), event(2, "release")]);
    fs::create_dir(journal.path("out")).unwrap();
    journal.write("out/events.tmp", "somebody else's");
    journal.write("out/events", "what was there before");
    let said = journal.ok(&["--export", "out/events"]);
    assert_eq!(said, "wrote 2 events to out/events\n");
    let text = fs::read_to_string(journal.path("out/events")).unwrap();
    let events: Vec<Json> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(json!({"events": events}), journal.json(&[]));
    assert!(text.ends_with('\n'));
    assert_eq!(fs::metadata(journal.path("out/events")).unwrap().mode() & 0o777, 0o600);
    assert_eq!(fs::read_dir(journal.path("out")).unwrap().count(), 2);
    assert_eq!(fs::read_to_string(journal.path("out/events.tmp")).unwrap(), "somebody else's");
    let told = journal.json(&["--export", "out/events", "-n", "1"]);
    assert_eq!(told, json!({"events": 1, "file": "out/events"}));
}

#[test]
fn an_export_that_cannot_be_written_leaves_nothing_behind() {
    let journal = Journal::of(&[event(1, "allocate")]);
    fs::create_dir_all(journal.path("out/folder")).unwrap();
    for file in ["nowhere/events", "out/folder", "/"] {
        let said = journal.fails(1, &["--export", file]);
        assert!(said.contains(&format!("cannot be written to {file}")), "{said}");
        assert!(said.contains("name a file"), "{said}");
    }
    assert_eq!(fs::read_dir(journal.path("out")).unwrap().count(), 1);
}

#[test]
fn an_export_into_what_is_no_file_leaves_it_what_it_is() {
    let journal = Journal::of(&[event(1, "allocate"), event(2, "release")]);
    let lines: Vec<_> =
        journal.json(&[])["events"].as_array().unwrap().iter().map(Json::to_string).collect();
    let lines = lines.join("\n") + "\n";
    fs::create_dir(journal.path("out")).unwrap();
    // Standard output, by each of its names, has the events and nothing else.
    symlink("/proc/self/fd/1", journal.path("out/stdout")).unwrap();
    for name in ["-", "/dev/stdout", "/proc/self/fd/1", "out/stdout"] {
        for json in [&[][..], &["--json"]] {
            assert_eq!(journal.ok(&[&["--export", name], json].concat()), lines, "{name}");
        }
    }
    let shell = |line: &str| {
        let styxy = journal.command(&[]);
        let mut shell = Command::new("/bin/bash");
        shell.env_clear().envs(styxy.get_envs().filter_map(|(name, value)| Some((name, value?))));
        shell.args(["-c", line]).arg(styxy.get_program());
        shell.current_dir(journal.path(".")).output().unwrap()
    };
    let output = shell(r#""$0" audit --export /dev/stdout >out/redirected"#);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(fs::read_to_string(journal.path("out/redirected")).unwrap(), lines);
    // A pipe, as of a shell's >(…).
    let output = shell(r#""$0" audit --export >(/bin/cat >out/piped); wait $!"#);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(fs::read_to_string(journal.path("out/piped")).unwrap(), lines);
    // A link stays one; what it leads to is written.
    fs::write(journal.path("out/target"), "what was there before, and was longer".repeat(50))
        .unwrap();
    symlink("target", journal.path("out/link")).unwrap();
    journal.ok(&["--export", "out/link"]);
    assert!(fs::symlink_metadata(journal.path("out/link")).unwrap().is_symlink());
    assert_eq!(fs::read_to_string(journal.path("out/target")).unwrap(), lines);
    // A device is not replaced, as it would be by root.
    symlink("/dev/null", journal.path("out/null")).unwrap();
    assert_eq!(journal.ok(&["--export", "out/null"]), "wrote 2 events to out/null\n");
    assert!(fs::symlink_metadata(journal.path("out/null")).unwrap().is_symlink());
}

#[test]
fn stats_count_what_happened_and_when() {
    let events: Vec<_> =
        (1..=70).map(|seq| event(seq, if seq % 2 == 0 { "release" } else { "deny" })).collect();
    let journal = Journal::of(&events);
    let stats = journal.json(&["--stats"]);
    assert_eq!(stats["events"], 70);
    assert_eq!(stats["actions"][0], json!({"action": "deny", "events": 35}));
    assert_eq!(stats["service_types"], json!([{"service_type": "dev", "events": 70}]));
    assert_eq!(stats["projects"], json!([{"project_path": "/srv/shop", "events": 70}]));
    assert_eq!(stats["hours"], json!([{"hour": "2020-11-23T10:00:00+00:00", "events": 70}]));
    let tables = journal.ok(&["--stats"]);
    assert_eq!(
        tables.lines().collect::<Vec<_>>(),
        [
            "70 events",
            "",
            "ACTION   EVENTS",
            "deny         35",
            "release      35",
            "",
            "TYPE  EVENTS",
            "dev       70",
            "",
            "PROJECT    EVENTS",
            "/srv/shop      70",
            "",
            "BUSIEST HOUR      EVENTS",
            "2020-11-23 10:00      70",
        ]
    );
    let mut elsewhere = journal.command(&["--stats"]);
    let output = elsewhere.env("TZ", "XXX-5:30").output().unwrap();
    let tables = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(tables.contains("2020-11-23 15:00"), "{tables}");
}

#[test]
fn hostile_text_does_not_reach_the_terminal() {
    let mut hostile = event(1, "deny");
    let text = "\u{1b}]0;x\u{7}\u{9b}2J\u{7f}\u{202e}\u{2066}\r\nx";
    for field in
        ["PROJECT_PATH", "SERVICE_TYPE", "SERVICE_NAME", "CLIENT_COMM", "CLIENT_PID", "REASON"]
    {
        hostile[format!("STYXY_{field}")] = text.into();
    }
    for field in ["ACTION", "PORT", "PROTOCOL", "TIME", "STATE_ID", "SEQ"] {
        hostile[format!("STYXY_{field}")] = text.bytes().collect();
    }
    hostile["MESSAGE"] = text.into();
    hostile["STYXY_\u{1b}c"] = text.into();
    let is_harmless = |output: &[u8]| {
        let text = String::from_utf8(output.to_owned()).unwrap();
        let bad = |c: char| (c.is_control() && c != '\n') || "\u{202e}\u{2066}".contains(c);
        assert!(!text.contains(bad), "{text:?}");
        assert!(text.contains('\u{fffd}'), "{text:?}");
    };
    let journal = Journal::of(std::slice::from_ref(&hostile));
    for arguments in [&[][..], &["--json"], &["--stats"], &["--follow"], &["--follow", "--json"]] {
        is_harmless(&journal.run(arguments).stdout);
    }
    assert_eq!(journal.ok(&[]).lines().count(), 2);
    journal.ok(&["--export", "events"]);
    is_harmless(&fs::read(journal.path("events")).unwrap());
    is_harmless(&Journal::complaining(&text.replace('\n', "")).run(&[]).stderr);
}

#[test]
fn without_journalctl_it_is_said_what_to_do() {
    let journal = Journal::none();
    for arguments in [&[][..], &["--json"], &["--stats"], &["--follow"]] {
        let said = journal.fails(3, arguments);
        assert!(said.contains("journalctl cannot be run"), "{said}");
        assert!(said.contains("systemd-journald"), "{said}");
        assert!(said.contains("state/styxy/state/") && said.contains("/service.log"), "{said}");
    }
}

#[test]
fn a_journal_that_may_not_be_read_is_a_refusal_with_its_remedy() {
    let words = "No journal files were opened due to insufficient permissions.";
    let journal = Journal::complaining(words);
    for arguments in [&[][..], &["--follow"], &["--export", "file"]] {
        let said = journal.fails(1, arguments);
        assert!(said.contains(words), "{said}");
        assert!(said.contains("Storage=persistent"), "{said}");
        assert!(said.contains("systemd-journal"), "{said}");
    }
    assert!(!journal.path("file").exists());
}

#[test]
fn an_empty_journal_is_none_and_one_without_such_events_is_an_answer() {
    let journal = Journal::of(&[]);
    for arguments in [&[][..], &["--follow"]] {
        assert!(journal.fails(3, arguments).contains("no entry at all"));
    }
    journal.write("others", "{\"MESSAGE\": \"somebody else's\"}\n");
    assert_eq!(journal.ok(&["--port", "3000"]), "there is no such event\n");
    assert_eq!(journal.json(&[]), json!({"events": []}));
    assert_eq!(journal.ok(&["--stats"]), "0 events\n");
    assert_eq!(journal.ok(&["--follow"]), "");
}

#[test]
fn what_the_service_says_beside_the_events_is_not_shown() {
    let warning = json!({"MESSAGE": "the disk is slow", "PRIORITY": "4"});
    let journal = Journal::of(&[warning.clone(), event(1, "allocate"), warning.clone(), warning]);
    assert_eq!(numbers(&journal.json(&["-n", "1"])), [1]);
    assert_eq!(journal.ok(&["--all"]).lines().count(), 2);
}

#[test]
fn a_time_that_journalctl_does_not_take_is_wrong_usage() {
    for words in ["Failed to parse timestamp: soon", "--since= must be before --until=."] {
        let journal = Journal::complaining(words);
        let said = journal.fails(2, &["--since", "soon"]);
        assert!(said.contains(words), "{said}");
        assert!(said.contains("systemd.time(7)"), "{said}");
    }
    let journal = Journal::complaining("Something odd");
    let said = journal.fails(1, &[]);
    assert!(said.contains("Something odd") && said.contains("--print"), "{said}");
}

#[test]
fn a_question_that_makes_no_sense_is_wrong_usage() {
    let journal = Journal::of(&[event(1, "allocate")]);
    for arguments in [
        &["--action", "alocate"][..],
        &["--type", "no type"],
        &["--port", "0"],
        &["--port", "65536"],
        &["--instance", "a b"],
        &["--project", "/a\nb"],
        &["--project", "/a\u{202e}b"],
        &["--lines", "-1"],
        &["--lines", "3", "--all"],
        &["--follow", "--stats"],
        &["--follow", "--export", "file"],
        &["--follow", "--until", "now"],
        &["--stats", "--export", "file"],
        &["3000"],
    ] {
        journal.fails(2, arguments);
    }
    assert!(journal.fails(2, &["--action", "alocate"]).contains("'allocate'"));
    assert!(!journal.path("asked").exists());
}

const LOG: &str = r#"{"SYSLOG_IDENTIFIER":"styxy","PRIORITY":"5","MESSAGE":"Granted","STYXY_ACTION":"allocate","STYXY_PORT":3000,"STYXY_SERVICE_TYPE":"dev","STYXY_SEQ":1,"STYXY_STATE_ID":"a","STYXY_TIME":"2020-11-23T10:00:00.000Z"}
 WARN styxy::audit: something else
{"SYSLOG_IDENTIFIER":"styxy","PRIORITY":"5","MESSAGE":"Granted","STYXY_ACTION":"allocate","STYXY_PORT":8000,"STYXY_SERVICE_TYPE":"api","STYXY_SEQ":2,"STYXY_STATE_ID":"a","STYXY_TIME":"2020-11-23T10:30:00.000Z"}
{"SYSLOG_IDENTIFIER":"styxy","PRIORITY":"5","MESSAGE":"Released","STYXY_ACTION":"release","STYXY_PORT":3000,"STYXY_SERVICE_TYPE":"dev","STYXY_SEQ":3,"STYXY_STATE_ID":"a","STYXY_TIME":"2020-11-23T11:00:00.000Z"}
{"SYSLOG_IDENTIFIER":"sty"#;

#[test]
fn where_there_is_no_journal_the_log_of_a_private_service_is_asked_and_it_is_said() {
    let without_styxy = Journal::of(&[]);
    without_styxy.write("others", "{\"MESSAGE\": \"somebody else's\"}\n");
    let unreadable = Journal::complaining("insufficient permissions");
    for journal in [Journal::none(), Journal::of(&[]), without_styxy, unreadable] {
        journal.write_log(LOG);
        let shown = journal.run(&["--json"]);
        assert_eq!(shown.status.code(), Some(0), "{}", stderr(&shown));
        assert_eq!(numbers(&serde_json::from_slice(&shown.stdout).unwrap()), [1, 2, 3]);
        assert!(stderr(&shown).contains("service.log"), "{}", stderr(&shown));
        for (arguments, found) in [
            (&["--action=allocate"][..], &[1, 2][..]),
            (&["--action=allocate,release", "--type=dev"], &[1, 3]),
            (&["--port=8000", "--port=8001"], &[2]),
            (&["--instance=nobody"], &[]),
            (&["-n", "1"], &[3]),
            (&["--since=2020-11-23 10:30"], &[2, 3]),
            (&["--since=2020-11-23 10:10", "--until=2020-11-23T10:30:00Z"], &[2]),
            (&["--until=1 hour ago"], &[1, 2, 3]),
            (&["--since=-1h"], &[]),
        ] {
            assert_eq!(numbers(&journal.json(arguments)), found, "{arguments:?}");
        }
        assert_eq!(journal.json(&["--stats"])["events"], 3);
    }
}

#[test]
fn without_a_journal_it_is_said_what_is_not_possible() {
    let journal = Journal::none();
    journal.write_log(LOG);
    let said = journal.fails(2, &["--since", "when it broke"]);
    assert!(said.contains("\"when it broke\" is not a time"), "{said}");
    assert!(said.contains("2 hours ago"), "{said}");
    let said = journal.fails(3, &["--follow"]);
    assert!(said.contains("tail -f"), "{said}");
}

#[test]
fn a_journal_with_events_counts_more_than_the_log_of_a_private_service() {
    let journal = Journal::of(&[event(9, "allocate")]);
    journal.write_log(LOG);
    let shown = journal.run(&["--json"]);
    assert_eq!(numbers(&serde_json::from_slice(&shown.stdout).unwrap()), [9]);
    assert_eq!(stderr(&shown), "");
}
