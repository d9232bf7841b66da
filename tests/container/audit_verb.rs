//! `styxy audit`, and `GET /audit`, against a real journal.

use std::{
    collections::HashMap,
    io::{BufRead, BufReader},
    time::Duration,
};

use serde_json::{Value as Json, json};

use crate::{
    Test,
    machine::{Machine, eventually},
};

pub const TESTS: &[Test] = &[
    ("audit_finds_events_by_each_of_their_fields", by_fields),
    ("audit_finds_events_by_their_times", by_times),
    ("audit_over_http_finds_what_the_command_finds", over_http),
    ("audit_over_http_ends_with_its_client_and_after_a_while", in_vain),
    ("audit_shows_an_event_that_came_twice_once_and_hostile_text_harmless", by_hand),
    ("suggest_reads_in_the_journal_what_is_always_started_after_what", always_after),
    ("audit_follows_events_and_ends_with_its_reader_and_by_ctrl_c", follow),
    ("audit_tells_no_journal_from_one_that_may_not_be_read", no_journal),
    ("audit_reads_the_log_of_a_private_service_where_no_journald_runs", private_service),
];

/// How long journald may take for a few events.
const LIMIT: Duration = Duration::from_secs(60);

fn by_fields(machine: &Machine) {
    some_events(machine);
    for (question, found) in [
        ("", vec![1, 2, 3, 4]),
        ("--action release", vec![4]),
        ("--action release,deny", vec![3, 4]),
        ("--type api", vec![2]),
        ("--type api --type dev", vec![1, 2, 3, 4]),
        ("--port 3000", vec![1, 3, 4]),
        ("--port 3000,8000 --action allocate", vec![1, 2]),
        ("--project /home/dev/shop", vec![1, 4]),
        ("--project shop --action release", vec![4]),
        ("--instance agent-7", vec![2]),
        ("--instance agent-7 --port 3000", vec![]),
        ("-n 2", vec![3, 4]),
        ("-n 1 --action allocate", vec![2]),
        ("--all", vec![1, 2, 3, 4]),
    ] {
        assert_eq!(numbers(machine, question), found, "{question}");
        // What is printed is a question to journalctl that a shell takes.
        let line = machine.user(&format!("styxy audit {question} --print")).ok();
        assert!(line.starts_with("journalctl "), "{line}");
        if !question.contains("-n") {
            let entries = machine.user(&line).ok();
            assert_eq!(entries.lines().count(), found.len(), "{line}");
        }
    }
    let first = &audit(machine, "-n 4")[0];
    for (word, value) in [
        ("action", json!("allocate")),
        ("port", json!(3000)),
        ("protocol", json!("tcp")),
        ("service_type", json!("dev")),
        ("service_name", json!("web")),
        ("project_path", json!("/home/dev/shop")),
        ("client_comm", json!("styxy")),
        ("transport", json!("dbus")),
    ] {
        assert_eq!(first[word], value, "{word}: {first}");
    }
    let shown = machine.user("styxy audit").ok();
    let row = shown.lines().nth(1).unwrap();
    // Who asked, and not the command that everybody asks with.
    assert!(row.contains('[') && !row.contains(" styxy["), "{row}");
    for word in [" allocate ", " 3000/tcp ", " dev ", " web ", " ~/shop "] {
        assert!(row.contains(word), "{word}: {row}");
    }
    let narrow = machine.user("script -qc 'stty cols 80; NO_COLOR=1 styxy audit' /dev/null").ok();
    assert_eq!(narrow.lines().count(), 5, "{narrow}");
    assert!(narrow.lines().all(|line| line.trim_end().chars().count() <= 80), "{narrow}");
    assert!(narrow.contains(" allocate "), "{narrow}");
    let stats = machine.user("styxy audit --stats --json").ok();
    let stats: Json = serde_json::from_str(&stats).unwrap();
    assert_eq!(stats["events"], 4);
    assert_eq!(stats["actions"][0], json!({"action": "allocate", "events": 2}));
    let said = machine.user("umask 0; styxy audit --export events && stat -c %a events").ok();
    assert_eq!(said, "wrote 4 events to events\n600\n");
}

fn by_times(machine: &Machine) {
    some_events(machine);
    // Times are those when the journal got the events: this one happens when all others are there.
    machine.user("styxy allocate docs").ok();
    eventually(LIMIT, "the last event is in the journal", || machine.events().len() == 5);
    let of_last = audit(machine, "-n 1")[0]["time"].as_str().unwrap().to_owned();
    for (question, found) in [
        ("--since '1 hour ago'", vec![1, 2, 3, 4, 5]),
        ("--since -1h", vec![1, 2, 3, 4, 5]),
        ("--since=yesterday --until=tomorrow", vec![1, 2, 3, 4, 5]),
        ("--since 2020-01-01", vec![1, 2, 3, 4, 5]),
        ("--until yesterday", vec![]),
        ("--until '1 hour ago' -n 5", vec![]),
        ("--since +1h", vec![]),
        ("--since today --action release -n 1", vec![4]),
        // As JSON shows times, on every version.
        (&format!("--since {of_last}"), vec![5]),
    ] {
        assert_eq!(numbers(machine, question), found, "{question}");
    }
    for question in ["--since soon", "--since tomorrow --until yesterday"] {
        let refused = machine.user(&format!("styxy audit {question}"));
        assert_eq!(refused.code, Some(2), "{}", refused.stderr);
        assert!(refused.stderr.contains("systemd.time(7)"), "{}", refused.stderr);
    }
}

/// What the service, in its sandbox, answers to that query: the status and the body.
fn http(machine: &Machine, parameters: &str) -> (u64, Json) {
    let url = format!("http://localhost/audit{parameters}");
    let socket = "$XDG_RUNTIME_DIR/styxy/http.sock";
    let get = format!("curl -sS -w ' %{{http_code}}' --unix-socket {socket} '{url}'");
    let answer = machine.user(&get).ok();
    let (body, status) = answer.rsplit_once(' ').unwrap();
    (status.parse().unwrap(), serde_json::from_str(body).unwrap())
}

fn over_http(machine: &Machine) {
    some_events(machine);
    // What does not name the state is no event of this user's service.
    let forged = "printf 'SYSLOG_IDENTIFIER=styxy\\nSTYXY_ACTION=deny\\nSTYXY_REASON=forged\\n' | logger --journald";
    machine.user(forged).ok();
    eventually(LIMIT, "all is in the journal", || machine.events().len() == 5);
    for (parameters, question, count) in [
        ("", "", 4),
        ("?action=release&action=deny", "--action release,deny", 2),
        ("?service_type=api", "--type api", 1),
        ("?port=3000&port=8000&action=allocate", "--port 3000,8000 --action allocate", 2),
        ("?project_path=/home/dev/shop", "--project shop", 2),
        ("?instance_id=agent-7", "--instance agent-7", 1),
        ("?limit=3", "-n 3", 3),
        ("?since=1+hour+ago", "--since '1 hour ago'", 4),
        ("?until=yesterday", "--until yesterday", 0),
    ] {
        let (status, answer) = http(machine, parameters);
        assert_eq!((status, &answer["enabled"]), (200, &json!(true)), "{parameters}: {answer}");
        assert_eq!(answer["recent_events"], json!(audit(machine, question)), "{parameters}");
        assert_eq!(answer["recent_events"].as_array().unwrap().len(), count, "{parameters}");
        assert_eq!(answer["truncated"], parameters.contains("limit"), "{parameters}: {answer}");
    }
    for parameters in ["?since=soon", "?since=tomorrow&until=yesterday"] {
        let (status, answer) = http(machine, parameters);
        assert_eq!((status, &answer["code"]), (400, &json!("InvalidArgument")), "{answer}");
        assert!(answer.to_string().contains("systemd.time(7)"), "{answer}");
    }
    machine.root("chmod -x /usr/bin/journalctl").ok();
    let (status, answer) = http(machine, "");
    assert_eq!((status, &answer["enabled"]), (200, &json!(false)), "{answer}");
    assert!(answer["message"].as_str().unwrap().contains("journalctl cannot be run"), "{answer}");
}

fn in_vain(machine: &Machine) {
    some_events(machine);
    let readers = || machine.user("pgrep -f 'sleep [4]711'").stdout.lines().count();
    // Only where the last events are asked for.
    let slow = "cd /usr/bin && mv journalctl journalctl.own && cat >journalctl <<'end' && chmod 755 journalctl
#!/bin/sh
case \" $* \" in
*' --reverse '*) exec sleep 4711 ;;
esac
exec journalctl.own \"$@\"
end";
    machine.root(slow).ok();
    // What a script calls may be executed only if it was there at the start.
    machine.user("systemctl --user stop styxy.service").ok();
    let mut client = machine.start(
        "curl -sS --unix-socket $XDG_RUNTIME_DIR/styxy/http.sock http://localhost/audit & echo $! >client; wait",
    );
    eventually(LIMIT, "the journal is being read", || readers() == 1);
    machine.user("kill $(cat client)").ok();
    client.wait().unwrap();
    eventually(LIMIT, "nobody reads it any more", || readers() == 0);
    let (status, answer) = http(machine, "");
    assert_eq!((status, &answer["code"]), (503, &json!("JournalUnavailable")), "{answer}");
    assert!(answer["error"].as_str().unwrap().contains("within 20 s"), "{answer}");
    eventually(LIMIT, "nobody reads it any more", || readers() == 0);
    machine.user("styxy audit --all").ok();
}

fn always_after(machine: &Machine) {
    // For long enough to count as used, and one after the other: at once, either may be the first.
    machine.user("mkdir -p shop/.git; cd shop; styxy run dev -- sleep 5.1; styxy run database --name orders -- sleep 5.1").ok();
    let follows = || {
        let suggested = machine.user("cd shop && styxy suggest --json").ok();
        let suggested: HashMap<String, Vec<Json>> = serde_json::from_str(&suggested).unwrap();
        suggested["suggestions"].iter().map(|need| need["follows"].clone()).collect::<Vec<_>>()
    };
    let starts = || numbers(machine, "--action allocate").len();
    eventually(LIMIT, "both are in the journal", || starts() == 2);
    eventually(LIMIT, "both were in use", || follows().len() == 2);
    assert_eq!(follows(), [Json::Null, Json::Null], "once may be chance");
    let state_id = audit(machine, "-n 1")[0]["state_id"].as_str().unwrap().to_owned();
    for day in 1..4 {
        for (minute, service) in [(1, "TYPE=dev"), (2, "TYPE=database\\nSTYXY_SERVICE_NAME=orders")]
        {
            let event = format!(
                "printf 'SYSLOG_IDENTIFIER=styxy\\nSTYXY_ACTION=allocate\\nSTYXY_STATE_ID={state_id}\\n\
                 STYXY_SEQ={day}{minute}\\nSTYXY_TIME=2026-11-0{day}T10:0{minute}:00Z\\nSTYXY_OWNER=process 7\\n\
                 STYXY_PROJECT_PATH=/home/dev/shop\\nSTYXY_SERVICE_{service}\\n' | logger --journald"
            );
            machine.user(&event).ok();
        }
    }
    eventually(LIMIT, "all are in the journal", || starts() == 8);
    assert_eq!(follows(), [Json::Null, json!("dev")]);
    let suggested = machine.user("cd shop && styxy suggest dev");
    assert!(suggested.stderr.contains("database:orders was started after it"), "{suggested:?}");
}

fn by_hand(machine: &Machine) {
    some_events(machine);
    let again = "{ printf 'SYSLOG_IDENTIFIER=styxy\\n'; journalctl -t styxy -o export STYXY_ACTION=deny \
                 | grep -a ^STYXY_; } | logger --journald";
    machine.user(again).ok();
    // What does not name the state is no event of this user's service, and is shown among those of all.
    let forged = "printf 'SYSLOG_IDENTIFIER=styxy\\nSTYXY_ACTION=deny\\nSTYXY_REASON=forged\\n' | logger --journald";
    machine.user(forged).ok();
    let state_id = audit(machine, "-n 1")[0]["state_id"].as_str().unwrap().to_owned();
    let hostile = format!(
        "printf 'SYSLOG_IDENTIFIER=styxy\\nSTYXY_ACTION=deny\\nSTYXY_REASON=a\\033[31mb\\nSTYXY_REASON=c\\n\
         STYXY_STATE_ID={state_id}\\nSTYXY_PROJECT_PATH=/\\302\\2332J\\n' | logger --journald"
    );
    machine.user(&hostile).ok();
    let long = format!(
        "{{ printf 'SYSLOG_IDENTIFIER=styxy\\nSTYXY_ACTION=recover\\nSTYXY_STATE_ID={state_id}\\nSTYXY_REASON='; \
         head -c 6000 /dev/zero | tr '\\0' x; echo; }} | logger --journald"
    );
    machine.user(&long).ok();
    machine.user("systemd-cat -t styxy echo the disk is slow").ok();
    eventually(LIMIT, "all is in the journal", || machine.events().len() == 9);
    let of_all = audit(machine, "--all --all-users");
    assert_eq!(of_all.iter().filter(|event| event["reason"] == "forged").count(), 1, "{of_all:#?}");
    let events = audit(machine, "--all");
    assert!(events.iter().all(|event| event["reason"] != "forged"), "{events:#?}");
    assert_eq!(events.len(), 6, "{events:#?}");
    assert_eq!(events.iter().filter(|event| event["seq"] == 3).count(), 1);
    assert_eq!(audit(machine, "-n 3")[0]["seq"], 4);
    let of_hand = &audit(machine, "-n 2")[0];
    assert_eq!(of_hand["project_path"], "/\u{fffd}2J");
    let reason = of_hand["reason"].as_str().unwrap();
    assert!(["a\u{fffd}[31mb", "c"].contains(&reason), "{reason:?}");
    assert_eq!(events[5]["reason"].as_str().unwrap().len(), 6_000);
    for question in ["", "--json", "--stats"] {
        let shown = machine.user(&format!("styxy audit {question}")).ok();
        assert!(!shown.contains(|c: char| c.is_control() && c != '\n'), "{shown:?}");
    }
}

fn follow(machine: &Machine) {
    some_events(machine);
    let mut child = machine.start("styxy audit --follow --json -n 1 & echo $! >pid; wait");
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = || -> Json { serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap() };
    assert_eq!(next()["seq"], 4);
    machine.user("styxy allocate docs --name one && styxy allocate docs --name two").ok();
    let (one, two) = (next(), next());
    assert_eq!((&one["seq"], &one["service_name"]), (&json!(5), &json!("one")));
    assert_eq!((&two["seq"], &two["service_name"]), (&json!(6), &json!("two")));
    // By its parent: the service asks the journal too, in its own time.
    assert_eq!(machine.user("pgrep -c -P $(cat pid) journalctl").stdout.trim(), "1");
    // A background job of a shell ignores SIGINT; that of a terminal ends it in the same way.
    machine.user("kill -TERM $(cat pid)").ok();
    child.wait().unwrap();
    eventually(LIMIT, "journalctl ends", || machine.user("pgrep journalctl").code == Some(1));

    // Its reader goes, and nothing happens that would be written.
    machine.user("timeout 60 styxy audit --follow | head -n 1; test ${PIPESTATUS[0]} = 0").ok();
    eventually(LIMIT, "journalctl ends", || machine.user("pgrep journalctl").code == Some(1));
}

fn no_journal(machine: &Machine) {
    machine.root("useradd --create-home other").ok();
    let other = machine.root("setpriv --reuid=other --regid=other --clear-groups styxy audit");
    assert_eq!(other.code, Some(1), "{}", other.stderr);
    assert!(other.stderr.contains("insufficient permissions"), "{}", other.stderr);
    assert!(other.stderr.contains("Storage=persistent"), "{}", other.stderr);

    assert_eq!(machine.user("styxy audit").ok(), "there is no such event\n");
    assert_eq!(machine.user("styxy audit --json").ok(), "{\n  \"events\": []\n}\n");

    let hidden = "mount -t tmpfs none /var/log/journal; mount -t tmpfs none /run/log";
    for question in ["", "--json", "--follow"] {
        let none =
            machine.root(&format!("unshare --mount bash -c '{hidden}; styxy audit {question}'"));
        assert_eq!(none.code, Some(3), "{}", none.stderr);
        assert!(none.stderr.contains("no entry at all"), "{}", none.stderr);
    }
}

fn private_service(machine: &Machine) {
    let here = |command: &str| {
        machine.root(&format!(
            "unshare --mount bash -c 'mount -t tmpfs none /run/systemd; mount -t tmpfs none /run/user
                 install -d -o dev -m 0700 /tmp/here
                 setpriv --reuid=dev --regid=dev --init-groups env -i HOME=/home/dev PATH=/usr/bin \
                 XDG_RUNTIME_DIR=/tmp/here bash -c \"cd /home/dev; {command}\"'"
        ))
    };
    here("styxy allocate dev --name web").ok();
    here("styxy allocate api").ok();
    let mut shown = here("styxy audit --json");
    eventually(LIMIT, "both events are in the log", || {
        shown = here("styxy audit --json");
        serde_json::from_str::<Json>(&shown.stdout)
            .is_ok_and(|shown| shown["events"][1]["seq"] == 2)
    });
    assert!(shown.stderr.contains("service.log"), "{}", shown.stderr);
    let shown: Json = serde_json::from_str(&shown.stdout).unwrap();
    let events = &shown["events"];
    assert_eq!(events[0]["service_name"], "web");
    assert_eq!(events[0]["port"], 3000);
    assert_eq!(events[0]["client_comm"], "styxy");
    let found = here("styxy audit --json --type api --since today").ok();
    assert_eq!(serde_json::from_str::<Json>(&found).unwrap()["events"][0]["seq"], 2);
    here("kill $(pgrep -u dev -f styxy.daemon)").ok();
}

/// Makes four events, and waits until they are in the journal.
fn some_events(machine: &Machine) {
    machine
        .user(
            "mkdir shop; cd shop
             styxy allocate dev --name web --project ~/shop
             styxy allocate api --instance agent-7 --project ~
             ! styxy allocate dev --port 3000 --strict --project ~
             styxy release $(styxy list --json | python3 -c \
             'import json, sys; print(*[l[\"lease_id\"] for l in json.load(sys.stdin)[\"leases\"] if l[\"port\"] == 3000])')",
        )
        .ok();
    eventually(LIMIT, "four events are in the journal", || machine.events().len() == 4);
}

/// The events that a question finds.
fn audit(machine: &Machine, question: &str) -> Vec<Json> {
    let answer = machine.user(&format!("styxy audit --json {question}")).ok();
    let answer: HashMap<String, Vec<Json>> = serde_json::from_str(&answer).unwrap();
    answer["events"].clone()
}

fn numbers(machine: &Machine, question: &str) -> Vec<u64> {
    audit(machine, question).iter().map(|event| event["seq"].as_u64().unwrap()).collect()
}
