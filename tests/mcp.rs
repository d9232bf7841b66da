//! `styxy mcp`, as an agent meets it: lines of JSON-RPC.

mod support;

use std::{
    fs::{self, File},
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Stdio,
};

use nix::{
    sys::{
        signal::{Signal, kill},
        stat::Mode,
    },
    unistd::{Pid, mkfifo},
};
use serde_json::{Value as Json, json};
use support::{
    Home,
    journal::Journal,
    mcp::{Outcome, Session, hello},
};

/// What a verb prints with `--json`.
fn verb(home: &Home, arguments: &[&str]) -> Json {
    let output = home.run(&[arguments, &["--json"]].concat());
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The answer without what no two leases have in common.
fn common(mut lease: Json) -> Json {
    for word in ["lease_id", "lease_ids", "block_id", "since"] {
        lease.as_object_mut().unwrap().remove(word);
    }
    lease
}

fn text<'a>(answer: &'a Json, word: &str) -> &'a str {
    answer[word].as_str().unwrap_or_else(|| panic!("{word} is not in {answer}"))
}

fn pid(id: u32) -> Pid {
    Pid::from_raw(i32::try_from(id).unwrap())
}

// ---- what the server says of itself --------------------------------------------------------------

#[test]
fn the_server_says_who_it_is_and_what_a_model_must_know() {
    let home = Home::with_type();
    let hello = Session::new(&home).hello.clone();
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(hello["serverInfo"], json!({"name": "styxy", "version": version}));
    assert_eq!(hello["capabilities"], json!({"tools": {}}));
    assert_eq!(hello["protocolVersion"], "2025-06-18");
    assert!(text(&hello, "instructions").contains("never choose a number yourself"));
}

#[test]
fn there_are_seven_tools_with_schemas_that_explain_themselves() {
    let home = Home::with_type();
    let mut session = Session::new(&home);
    let listed = session.request("tools/list", &json!({}));
    let tools = listed["result"]["tools"].as_array().unwrap();
    let names: Vec<_> = tools.iter().map(|tool| text(tool, "name")).collect();
    assert_eq!(names, ["allocate", "release", "list", "port", "check", "suggest", "audit"]);
    let page = include_str!("../packaging/man/verbs/mcp");
    let page = page.split_once(".SH TOOLS\n").unwrap().1.split_once("\n.SH ").unwrap().0;
    let explained: Vec<_> =
        page.split(".TP\n.B ").skip(1).map(|entry| entry.lines().next().unwrap()).collect();
    assert_eq!(explained, names, "styxy-mcp(1)");
    for tool in tools {
        let name = text(tool, "name");
        assert!(text(tool, "description").len() > 40, "{name}");
        for schema in ["inputSchema", "outputSchema"] {
            assert_eq!(tool[schema]["type"], "object", "{name}");
            // Not every client follows references.
            assert!(!tool[schema].to_string().contains("$ref"), "{name}");
            assert!(!tool[schema].to_string().contains("\"format\""), "{name}");
            jsonschema::validator_for(&tool[schema]).unwrap();
        }
        assert_eq!(tool["inputSchema"]["additionalProperties"], false, "{name}");
        for (option, schema) in tool["inputSchema"]["properties"].as_object().unwrap() {
            assert!(schema["description"].is_string(), "{name}: {option} is not explained");
        }
    }
}

#[test]
fn what_a_tool_does_to_leases_is_told_by_its_annotations() {
    let home = Home::with_type();
    let session = Session::new(&home);
    for (tool, read_only, destructive) in [
        ("allocate", false, false),
        ("release", false, true),
        ("list", true, false),
        ("port", true, false),
        ("check", true, false),
        ("suggest", true, false),
        ("audit", true, false),
    ] {
        let annotations = json!({
            "readOnlyHint": read_only, "destructiveHint": destructive,
            "idempotentHint": read_only, "openWorldHint": false,
        });
        assert_eq!(session.tools[tool]["annotations"], annotations, "{tool}");
    }
}

// ---- the tools, beside their verbs ---------------------------------------------------------------

#[test]
fn allocate_grants_what_the_verb_would() {
    let home = Home::with_type();
    let mut session = Session::new(&home);
    let (last, other) = (home.port(9).to_string(), home.port(8));
    let me = format!("pid:{}", session.server.id());
    let forget = || {
        home.ok(&["release", "--type", "mine", "--yes"]);
        home.ok(&["forget"]);
        // Refused if nothing is known of it.
        home.run(&["forget", "--project", "/b"]);
    };
    for (arguments, words) in [
        (json!({}), vec!["--owner", &me]),
        (json!({"owner": "none"}), vec![]),
        (json!({"service_name": "web", "owner": "none"}), vec!["--name", "web"]),
        (json!({"port": home.port(9), "owner": me}), vec!["--port", &last, "--owner", &me]),
        (json!({"protocol": "udp", "owner": "none"}), vec!["--protocol", "udp"]),
        (json!({"protocol": "both", "owner": "none"}), vec!["--protocol", "both"]),
        (json!({"count": 2, "owner": "none"}), vec!["--count", "2"]),
        (json!({"hold": "none", "owner": "none"}), vec!["--hold", "none"]),
        (json!({"ttl": 600, "owner": "none"}), vec!["--ttl", "600"]),
        (json!({"instance_id": "a7", "owner": "none"}), vec!["--instance", "a7"]),
        (json!({"project_path": "/b", "owner": "none"}), vec!["--project", "/b"]),
        (json!({"template": "staging", "owner": "none"}), vec!["--template", "staging"]),
        (json!({"dry_run": true, "owner": "none"}), vec!["--dry-run"]),
    ] {
        let mut asked = arguments.clone();
        asked["service_type"] = "mine".into();
        let answer = session.ok("allocate", &asked);
        forget();
        let printed = verb(&home, &[&["allocate", "mine", "--new"], words.as_slice()].concat());
        forget();
        assert_eq!(common(answer), common(printed), "{arguments}");
    }
    let strict = json!({"service_type": "mine", "port": other, "strict": true});
    assert_eq!(session.ok("allocate", &strict)["port"], other);
    session.refused("allocate", &strict);
    session.refused("allocate", &json!({"service_type": "mien"}));
    let created = session.ok("allocate", &json!({"service_type": "mien", "create": true}));
    assert_eq!(created["auto_allocated"], true);
}

#[test]
fn a_service_that_runs_once_is_told_to_the_second_session() {
    let home = Home::with_single();
    let (mut first, mut second) = (Session::new(&home), Session::new(&home));
    let asked = json!({"service_type": "mine", "singleton_key": "a"});
    let granted = first.ok("allocate", &asked);
    assert_eq!(granted["instance_behavior"], "single");
    let told = second.ok("allocate", &asked);
    assert_eq!((&told["port"], &told["existing"]), (&granted["port"], &json!(true)));
}

#[test]
fn list_answers_the_leases_of_the_verb() {
    let home = Home::with_type();
    let mut session = Session::new(&home);
    home.ok(&["allocate", "mine", "--project", "/b", "--instance", "a7"]);
    session.ok("allocate", &json!({"service_type": "mine", "service_name": "web"}));
    let b = ["--project", "/b"];
    for (arguments, words, count) in [
        (json!({}), vec![], 2),
        (json!({"mine": false}), vec![], 2),
        (json!({"mine": true}), vec!["--mine"], 1),
        (json!({"project_path": "/b"}), b.to_vec(), 1),
        (json!({"service_type": "mine"}), vec!["--type", "mine"], 2),
        (json!({"service_type": "dev"}), vec!["--type", "dev"], 0),
        (json!({"instance_id": "a7"}), vec!["--instance", "a7"], 1),
    ] {
        let answer = session.ok("list", &arguments);
        let printed = verb(&home, &[&["list"], words.as_slice()].concat());
        assert_eq!(answer, printed, "{arguments}");
        assert_eq!(printed["leases"].as_array().unwrap().len(), count, "{arguments}");
    }
    let words = session.refused("list", &json!({"mine": true, "project_path": "/b"}));
    assert!(words.contains("give one of the two"), "{words}");
}

#[test]
fn check_answers_as_the_verb_also_about_who_listens() {
    let home = Home::with_type();
    let mut session = Session::new(&home);
    let _listener = std::net::TcpListener::bind(("127.0.0.1", home.port(5))).unwrap();
    let leased = session.ok("allocate", &json!({"service_type": "mine"}))["port"].clone();
    for (port, protocol) in [(json!(home.port(5)), None), (leased, Some("tcp")), (json!(1), None)] {
        let asked = json!({"port": port, "protocol": protocol});
        let answer = session.ok("check", &asked);
        let protocol = protocol.unwrap_or("tcp");
        let printed = verb(&home, &["check", &port.to_string(), "--protocol", protocol]);
        assert_eq!(answer, printed, "{asked}");
    }
    let busy = session.ok("check", &json!({"port": home.port(5)}));
    assert_eq!(busy["listeners"][0]["pid"], std::process::id());
}

#[test]
fn the_project_is_the_first_root_of_the_client_unless_the_server_runs_in_one() {
    let home = Home::with_type();
    let (shop, other) = (home.path("the shop"), home.path("other"));
    for folder in [&shop, &other] {
        fs::create_dir(folder).unwrap();
    }
    let uri =
        |folder: &Path| format!("file://{}", folder.display().to_string().replace(' ', "%20"));
    let project = |cwd: &Path, roots: &[&Path]| {
        let mut command = home.styxy();
        command.current_dir(cwd);
        let mut session = Session::silent(command);
        let mut hello = hello();
        hello["capabilities"]["roots"] = json!({});
        session.request("initialize", &hello);
        session.send(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"}));
        let id = session.begin("allocate", &json!({"service_type": "mine", "dry_run": true}));
        let asked = session.message().unwrap();
        assert_eq!(asked["method"], "roots/list");
        let roots: Vec<_> = roots.iter().map(|root| json!({"uri": uri(root)})).collect();
        session.send(&json!({"jsonrpc": "2.0", "id": asked["id"], "result": {"roots": roots}}));
        let answer = session.answer(id);
        PathBuf::from(answer["result"]["structuredContent"]["project_path"].as_str().unwrap())
    };
    assert_eq!(project(&home.path(""), &[&shop, &other]), shop);
    assert_eq!(project(&other, &[&shop, &other]), other);
    assert_eq!(project(&other, &[]), other);
    assert_eq!(project(&other, &[Path::new("/nonexistent")]), other);
}

#[test]
fn a_client_that_does_not_say_what_it_works_on_is_asked_once() {
    let home = Home::with_type();
    let mut session = Session::silent(home.styxy());
    let mut hello = hello();
    hello["capabilities"]["roots"] = json!({});
    session.request("initialize", &hello);
    session.send(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"}));
    let mut questions = 0;
    for _ in 0..2 {
        let id = session.begin("list", &json!({}));
        let answer = loop {
            let message = session.message().unwrap();
            if message["method"] != "roots/list" {
                break message;
            }
            questions += 1;
        };
        assert_eq!((&answer["id"], &answer["result"]["isError"]), (&json!(id), &json!(false)));
    }
    assert_eq!(questions, 1);
}

#[test]
fn port_answers_the_lease_of_a_service_and_says_what_has_none() {
    let home = Home::with_type();
    let mut session = Session::new(&home);
    home.ok(&["allocate", "mine"]);
    home.ok(&["allocate", "mine", "--name", "web"]);
    for (arguments, words) in [
        (json!({"service_type": "mine"}), vec!["mine"]),
        (json!({"service_type": "mine", "service_name": "web"}), vec!["mine", "--name", "web"]),
    ] {
        let answer = session.ok("port", &arguments);
        assert_eq!(answer, verb(&home, &[&["port"], words.as_slice()].concat()), "{arguments}");
    }
    let words = session.refused("port", &json!({"service_type": "mine", "project_path": "/b"}));
    assert!(words.contains("no mine of /b has a port now"), "{words}");
}

#[test]
fn check_tells_where_the_owner_of_a_port_listens_instead() {
    let home = Home::with_type();
    let mut session = Session::new(&home);
    let owner = format!("pid:{}", std::process::id());
    let leased = session.ok("allocate", &json!({"service_type": "mine", "owner": owner}));
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let answer = session.ok("check", &json!({"port": leased["port"]}));
    let port = listener.local_addr().unwrap().port();
    let elsewhere = answer["elsewhere"].as_array().expect("it listens elsewhere");
    assert!(elsewhere.iter().any(|holder| holder["port"] == port), "{answer}");
}

#[test]
fn suggest_answers_as_the_verb_and_leases_nothing() {
    let home = Home::with_type();
    let mut session = Session::new(&home);
    for (arguments, words) in [
        (json!({"service_type": "mine"}), vec!["mine"]),
        (
            json!({"service_type": "mine", "count": 2, "service_name": "web", "protocol": "udp"}),
            vec!["mine", "--count", "2", "--name", "web", "--protocol", "udp"],
        ),
        (json!({"service_type": "mine", "project_path": "/b"}), vec!["mine", "--project", "/b"]),
        (json!({}), vec![]),
    ] {
        if words.is_empty() {
            fs::write(home.path("package.json"), r#"{"scripts": {"dev": "vite"}}"#).unwrap();
        }
        let answer = session.ok("suggest", &arguments);
        let printed = verb(&home, &[&["suggest"], words.as_slice()].concat());
        assert_eq!(answer, printed, "{arguments}");
        assert!(!printed["suggestions"].as_array().unwrap().is_empty(), "{arguments}");
    }
    assert_eq!(session.ok("list", &json!({})), json!({"leases": []}));
}

#[test]
fn audit_answers_the_events_of_the_verb() {
    let entry = |number: u32, action: &str, port: &str| {
        json!({
            "STYXY_ACTION": action, "STYXY_PORT": port, "STYXY_SERVICE_TYPE": "dev",
            "STYXY_PROJECT_PATH": "/b", "STYXY_INSTANCE_ID": "a7", "SYSLOG_IDENTIFIER": "styxy",
            "STYXY_STATE_ID": "s", "STYXY_SEQ": number.to_string(),
            "STYXY_TIME": format!("2026-11-23T10:00:{number:02}Z"), "MESSAGE": "It happened",
        })
    };
    let journal = Journal::of(&(0..30).map(|i| entry(i, "release", "3000")).collect::<Vec<_>>());
    let mut command = journal.0.styxy();
    command.env("PATH", journal.path("bin"));
    let mut session = Session::with(command);
    let asked = || fs::read_to_string(journal.path("asked")).unwrap();
    for (arguments, words, count) in [
        (json!({}), vec!["-n", "20"], 20),
        (json!({"lines": 2}), vec!["-n", "2"], 2),
        (
            json!({
                "action": "release", "service_type": "dev", "port": 3000, "project_path": "/b",
                "instance_id": "a7", "since": "yesterday", "until": "1 hour ago", "lines": 5
            }),
            vec![
                "--action=release",
                "--type=dev",
                "--port=3000",
                "--project=/b",
                "--instance=a7",
                "--since=yesterday",
                "--until=1 hour ago",
                "-n5",
            ],
            5,
        ),
    ] {
        let answer = session.ok("audit", &arguments);
        let question = asked();
        assert_eq!(answer, journal.json(&words), "{arguments}");
        assert_eq!(question, asked(), "{arguments}");
        assert_eq!(answer["events"].as_array().unwrap().len(), count, "{arguments}");
    }
    let words = session.refused("audit", &json!({"action": "relase"}));
    assert!(words.contains("there is no action \"relase\""), "{words}");
    let words = session.refused("audit", &json!({"service_type": "a b"}));
    assert!(words.contains("use 1 to 50 letters"), "{words}");
}

#[test]
fn release_gives_back_the_one_lease_that_is_named() {
    let home = Home::with_type();
    let mut session = Session::new(&home);
    let allocate = |session: &mut Session| session.ok("allocate", &json!({"service_type": "mine"}));
    let (first, second) = (allocate(&mut session), allocate(&mut session));
    let answer = session.ok("release", &json!({"lease_id": first["lease_id"]}));
    assert_eq!(answer, json!({"lease_id": first["lease_id"], "port": first["port"]}));
    let answer = session.ok("release", &json!({"port": second["port"]}));
    assert_eq!(answer, json!({"lease_id": second["lease_id"], "port": second["port"]}));
    assert!(home.leases().is_empty());

    let printed = allocate(&mut session);
    let printed = verb(&home, &["release", text(&printed, "lease_id")]);
    assert_eq!(printed.as_object().unwrap().len(), answer.as_object().unwrap().len());
}

#[test]
fn release_does_not_guess() {
    let home = Home::with_type();
    let mut session = Session::new(&home);
    let port = home.port(4);
    for protocol in ["tcp", "udp"] {
        let asked = json!({"service_type": "mine", "port": port, "protocol": protocol});
        session.ok("allocate", &asked);
    }
    let leases = home.leases();
    let words = session.refused("release", &json!({"port": port}));
    for lease in &leases {
        assert!(words.contains(text(lease, "lease_id")), "{words}");
    }
    for (arguments, word) in [
        (json!({}), "give its lease_id or its port"),
        (json!({"protocol": "tcp"}), "give its lease_id or its port"),
        (json!({"port": port, "lease_id": leases[0]["lease_id"]}), "name one lease"),
        (json!({"port": home.port(5)}), "there is no lease of"),
        (json!({"lease_id": "all"}), "no service of this package has that name"),
        (json!({"lease_id": "00000000-0000-4000-8000-000000000000"}), "there is no live lease 0"),
    ] {
        let words = session.refused("release", &arguments);
        assert!(words.contains(word), "{arguments}: {words}");
    }
    assert_eq!(home.leases(), leases);
    session.ok("release", &json!({"port": port, "protocol": "udp"}));
    assert_eq!(home.leases().len(), 1);
}

// ---- what goes wrong -----------------------------------------------------------------------------

#[test]
fn a_refusal_is_a_tool_error_in_the_words_of_the_verb() {
    let home = Home::with_type();
    let mut session = Session::new(&home);
    let port = home.port(2).to_string();
    let holder = home.ok(&["allocate", "mine", "--port", &port, "--json"]);
    for (arguments, words) in [
        (json!({"service_type": "mien"}), vec!["mien"]),
        (json!({"service_type": "a b"}), vec!["a b"]),
        (json!({"service_type": "mine", "service_name": "a b"}), vec!["mine", "--name", "a b"]),
        (
            json!({"service_type": "mine", "port": home.port(2), "strict": true}),
            vec!["mine", "--port", &port, "--strict"],
        ),
        (json!({"service_type": "mine", "count": 11}), vec!["mine", "--count", "11"]),
        (
            json!({"service_type": "mine", "owner": "unit:a.service"}),
            vec!["mine", "--owner", "unit:a.service"],
        ),
    ] {
        let refusal = session.refused("allocate", &arguments);
        let output = home.run(&[&["allocate", "--new"], words.as_slice()].concat());
        let printed = String::from_utf8(output.stderr).unwrap();
        assert_eq!(printed, format!("styxy: {refusal}\n"), "{arguments}");
    }
    for (arguments, words) in [
        (json!({"service_type": "mien"}), ["--type", "mien"]),
        (json!({"project_path": "/no/such"}), ["--project", "/no/such"]),
    ] {
        let refusal = session.refused("list", &arguments);
        let printed =
            String::from_utf8(home.run(&[&["list"], &words[..]].concat()).stderr).unwrap();
        assert_eq!(printed, format!("styxy: {refusal}\n"), "{arguments}");
    }
    let left = home.leases();
    assert_eq!(left[0]["lease_id"], serde_json::from_str::<Json>(&holder).unwrap()["lease_id"]);
    assert_eq!(left.len(), 1);
}

#[test]
fn a_service_that_cannot_be_reached_is_a_tool_error_and_the_session_goes_on() {
    let home = Home::new();
    home.close_doors();
    let mut session = Session::new(&home);
    let words = session.refused("list", &json!({}));
    assert!(words.contains("no styxy service can be reached"), "{words}");
    home.open_doors();
    assert_eq!(session.ok("list", &json!({})), json!({"leases": []}));
}

#[test]
fn wrong_arguments_are_named_and_change_nothing() {
    let home = Home::with_type();
    let mut session = Session::new(&home);
    for (tool, arguments, word) in [
        ("allocate", json!({}), "the argument \"service_type\" is missing; "),
        ("allocate", json!({"service_type": 7}), "\"service_type\" must be a string, and is 7; "),
        (
            "allocate",
            json!({"service_type": "mine", "port": "3000"}),
            "\"port\" must be a whole number from 1 to 65535, and is \"3000\"; ",
        ),
        (
            "allocate",
            json!({"service_type": "mine", "port": 0}),
            "a whole number from 1 to 65535, and is 0; ",
        ),
        (
            "allocate",
            json!({"service_type": "mine", "port": 70_000}),
            "a whole number from 1 to 65535, and is 70000; ",
        ),
        (
            "allocate",
            json!({"service_type": "mine", "prot": "udp"}),
            "there is no argument \"prot\"; the known ones are claim, ",
        ),
        (
            "allocate",
            json!({"service_type": "mine", "strict": "yes"}),
            "\"strict\" must be true or false, and is \"yes\"; ",
        ),
        (
            "allocate",
            json!({"service_type": "mine", "protocol": "sctp"}),
            "\"protocol\" must be \"tcp\" or \"udp\" or \"both\", and is \"sctp\"; ",
        ),
        (
            "allocate",
            json!({"service_type": "mine", "count": -1}),
            "\"count\" must be a whole number from 1 to 1000, and is -1; ",
        ),
        (
            "release",
            json!({"port": [home.port(0)]}),
            "\"port\" must be a whole number from 1 to 65535, and is [",
        ),
        ("release", json!({"project_path": "/b"}), "there is no argument \"project_path\"; "),
        ("list", json!({"mine": 1}), "\"mine\" must be true or false, and is 1; "),
        ("check", json!({}), "the argument \"port\" is missing; "),
        ("suggest", json!({"count": 1.5}), "\"count\" must be a whole number"),
        ("audit", json!({"lines": "all"}), "\"lines\" must be a whole number"),
    ] {
        let words = session.refused(tool, &arguments);
        assert!(words.contains(word), "{tool} {arguments}: {words}");
        assert!(words.ends_with("says what it takes"), "{words}");
        // Words of serde, for people who write Rust.
        for jargon in ["field", "variant", "invalid type", "u16", "u32", "integer", "`"] {
            assert!(!words.contains(jargon), "{words}");
        }
    }
    for wrong in
        [json!({"service_type": "mine", "count": 0}), json!({"service_type": "mine", "ttl": 0})]
    {
        session.refused("allocate", &wrong);
    }
    assert_eq!(session.ok("list", &json!({})), json!({"leases": []}));
}

#[test]
fn what_is_no_protocol_at_all_is_answered_and_fails() {
    let home = Home::new();
    let told = |input: &str| {
        let path = home.path("input");
        fs::write(&path, input).unwrap();
        let mut command = home.styxy();
        let output = command.arg("mcp").stdin(File::open(path).unwrap()).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let (code, stdout, stderr) = told("hello\n[1\n");
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("no line of standard input was a message of MCP"), "{stderr}");
    let answers: Vec<Json> =
        stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(answers.len(), 2, "{stdout}");
    assert!(answers.iter().all(|answer| answer["error"]["code"] == -32700), "{stdout}");
    // An agent that ends before it begins does nothing wrong.
    assert_eq!(told(""), (Some(0), String::new(), String::new()));
}

#[test]
fn an_unknown_tool_or_method_is_a_protocol_error_that_names_the_known() {
    let home = Home::with_type();
    let mut session = Session::new(&home);
    let words = session.wrong("kill", &json!({"port": 3000}));
    assert!(words.contains("\"kill\"") && words.contains("allocate, release, list"), "{words}");
    assert_eq!(session.request("resources/read", &json!({"uri": "x:y"}))["error"]["code"], -32601);
    assert_eq!(session.request("no/such", &json!({}))["error"]["code"], -32601);
}

#[test]
fn a_line_that_is_no_message_is_answered_with_an_error_and_does_not_end_the_session() {
    let home = Home::with_type();
    let mut session = Session::new(&home);
    for (line, code, id) in [
        ("garbage", -32700, Json::Null),
        (r#"{"jsonrpc": "2.0", "id": 1,"#, -32700, Json::Null),
        ("\u{0}\u{1b}[31m", -32700, Json::Null),
        ("nul", -32700, Json::Null),
        (r#"{"jsonrpc": "2.0", "id": {}, "method": 7}"#, -32600, Json::Null),
        (r#"{"jsonrpc": "2.0", "id": 77, "method": 7}"#, -32600, json!(77)),
    ] {
        session.line(line);
        let error = session.message().unwrap();
        assert_eq!((&error["error"]["code"], error.get("id")), (&json!(code), Some(&id)), "{line}");
    }
    // The next line is the next answer: to these nothing is said.
    session.line("");
    session.line(r#"{"jsonrpc": "2.0", "method": "notifications/of/another/time"}"#);
    let id = session.begin("list", &json!({}));
    assert_eq!(session.message().unwrap()["id"], id);
}

#[test]
fn hostile_text_does_not_reach_the_client() {
    let hostile = "a\u{1b}[31m\u{202e}b";
    let entry = json!({"STYXY_ACTION": "deny", "STYXY_REASON": hostile, "MESSAGE": hostile});
    let journal = Journal::of(&[entry]);
    let mut command = journal.0.styxy();
    command.env("PATH", journal.path("bin"));
    let mut session = Session::with(command);
    let mut said = session.ok("audit", &json!({}))["events"][0]["reason"].to_string();
    said += &session.wrong(hostile, &json!({}));
    said += &session.refused("list", &json!({hostile: 1}));
    said += &session.refused("check", &json!({"port": hostile}));
    said += &session.refused("allocate", &json!({"service_type": hostile}));
    said += &session.refused("audit", &json!({"action": hostile}));
    for c in ['\u{1b}', '\u{202e}'] {
        assert!(!said.contains(c), "{said:?}");
    }
    assert!(said.contains("a\u{fffd}[31m\u{fffd}b"), "{said:?}");
}

// ---- how long leases and servers live ------------------------------------------------------------

#[test]
fn leases_end_with_the_session_however_it_ends_and_others_do_not() {
    for ends_by_itself in [true, false] {
        let home = Home::with_type();
        let mut session = Session::new(&home);
        let its = session.ok("allocate", &json!({"service_type": "mine"}));
        assert_eq!((&its["owner"], &its["pid"]), (&json!("process"), &json!(session.server.id())));
        let kept = session.ok("allocate", &json!({"service_type": "mine", "owner": "none"}));
        let me = format!("pid:{}", std::process::id());
        let mine = session.ok("allocate", &json!({"service_type": "mine", "owner": me}));
        if ends_by_itself {
            session.input = None;
            let (status, words) = session.end();
            assert_eq!((status.code(), words.as_str()), (Some(0), ""));
        } else {
            kill(pid(session.server.id()), Signal::SIGKILL).unwrap();
            session.end();
        }
        let left = [&kept["lease_id"], &mine["lease_id"]];
        home.until(|| home.leases().iter().map(|lease| &lease["lease_id"]).eq(left));
    }
}

#[test]
fn the_project_is_that_of_the_folder_in_which_the_server_was_started() {
    let home = Home::with_type();
    fs::create_dir_all(home.path("shop/src")).unwrap();
    fs::create_dir(home.path("shop/.git")).unwrap();
    let mut command = home.styxy();
    command.current_dir(home.path("shop/src"));
    let mut session = Session::with(command);
    let shop = fs::canonicalize(home.path("shop")).unwrap();
    let lease = session.ok("allocate", &json!({"service_type": "mine"}));
    assert_eq!(lease["project_path"], shop.to_str().unwrap());
    home.ok(&["allocate", "mine", "--project", "/b"]);
    let mine = session.ok("list", &json!({"mine": true}));
    assert_eq!(mine["leases"].as_array().unwrap().len(), 1);
    assert_eq!(mine["leases"][0]["lease_id"], lease["lease_id"]);
}

#[test]
fn a_server_whose_folder_is_gone_does_not_answer_for_all_projects() {
    let home = Home::with_type();
    home.ok(&["allocate", "mine", "--project", "/b"]);
    fs::create_dir(home.path("gone")).unwrap();
    let mut command = home.styxy();
    command.current_dir(home.path("gone"));
    let mut session = Session::with(command);
    fs::remove_dir(home.path("gone")).unwrap();
    for (tool, arguments) in [
        ("list", json!({"mine": true})),
        ("allocate", json!({"service_type": "mine"})),
        ("suggest", json!({})),
    ] {
        let said = session.refused(tool, &arguments);
        assert!(said.contains("this folder no longer exists"), "{tool}: {said}");
    }
    assert_eq!(home.leases().len(), 1);
}

#[test]
fn what_was_asked_before_the_end_of_the_input_is_answered() {
    let home = Home::with_type();
    home.ok(&["list"]);
    let mut session = Session::new(&home);
    let ids: Vec<_> = (0..5).map(|_| session.begin("list", &json!({}))).collect();
    session.input = None;
    for id in ids {
        session.outcome("list", id);
    }
    assert!(session.message().is_none());
    assert_eq!(session.end().0.code(), Some(0));
}

#[test]
fn a_client_that_reads_no_more_ends_the_server() {
    let home = Home::with_type();
    let mut session = Session::new(&home);
    session.ok("allocate", &json!({"service_type": "mine"}));
    session.output = None;
    let _open = session.input.take();
    // The lease ends with the server.
    home.until(|| home.leases().is_empty());
    let (status, words) = session.end();
    assert_eq!((status.code(), words.as_str()), (Some(0), ""));
}

#[test]
fn a_client_that_says_nothing_or_something_else_is_told_by_the_exit_code() {
    let home = Home::with_type();
    let mut nothing = Session::silent(home.styxy());
    nothing.input = None;
    assert_eq!(nothing.end().0.code(), Some(0));

    let mut other = Session::silent(home.styxy());
    other.send(&json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {}}));
    let (status, words) = other.end();
    assert_eq!(status.code(), Some(1), "{words}");
    assert!(words.contains("send initialize first"), "{words}");

    // A request may be sent again, after it.
    let mut early = Session::silent(home.styxy());
    assert!(early.request("tools/list", &json!({}))["error"].is_object());
    assert!(early.request("initialize", &hello())["result"].is_object());
    assert!(early.request("tools/list", &json!({}))["result"].is_object());
}

// ---- several at once -----------------------------------------------------------------------------

#[test]
fn calls_at_once_get_ports_of_their_own() {
    let home = Home::with_type();
    let mut sessions = [Session::new(&home), Session::new(&home)];
    let asked = json!({"service_type": "mine"});
    let ids: Vec<_> =
        (0..5).map(|_| sessions.each_mut().map(|s| s.begin("allocate", &asked))).collect();
    let mut ports = Vec::new();
    for id in ids {
        for (session, id) in sessions.iter_mut().zip(id) {
            match session.outcome("allocate", id) {
                Outcome::Done(lease) => ports.push(lease["port"].as_u64().unwrap()),
                other => panic!("{other:?}"),
            }
        }
    }
    ports.sort_unstable();
    assert_eq!(ports, (0..10).map(|i| u64::from(home.port(i))).collect::<Vec<_>>());
}

#[test]
fn a_call_that_takes_long_keeps_no_other_waiting() {
    let home = Home::with_type();
    fs::create_dir(home.path("bin")).unwrap();
    symlink("/bin/cat", home.path("bin/cat")).unwrap();
    let script = "#!/bin/sh\ncat \"$HOME/gate\"\n";
    fs::write(home.path("bin/journalctl"), script).unwrap();
    fs::set_permissions(home.path("bin/journalctl"), fs::Permissions::from_mode(0o755)).unwrap();
    mkfifo(&home.path("gate"), Mode::S_IRWXU).unwrap();
    let mut command = home.styxy();
    command.env("PATH", home.path("bin"));
    let mut session = Session::with(command);
    let long = session.begin("audit", &json!({"lines": 1}));
    for _ in 0..20 {
        session.ok("list", &json!({}));
    }
    // It waits until journalctl has it open, too.
    let mut gate = File::options().write(true).open(home.path("gate")).unwrap();
    let event = json!({"STYXY_ACTION": "renew", "STYXY_TIME": "2026-11-23T10:00:00Z"});
    std::io::Write::write_all(&mut gate, format!("{event}\n").as_bytes()).unwrap();
    drop(gate);
    let Outcome::Done(answer) = session.outcome("audit", long) else { panic!("no events") };
    assert_eq!(answer["events"][0]["action"], "renew");
}

#[test]
fn a_private_service_is_no_child_of_the_server_and_the_next_call_replaces_one_that_ended() {
    let home = Home::with_type();
    let mut session = Session::new(&home);
    session.ok("list", &json!({}));
    let service =
        u32::try_from(home.http("GET", "/status", "").body["pid"].as_u64().unwrap()).unwrap();
    let status = || fs::read_to_string(format!("/proc/{service}/status")).unwrap_or_default();
    assert!(!status().contains(&format!("\nPPid:\t{}\n", session.server.id())));
    kill(pid(service), Signal::SIGKILL).unwrap();
    // Where nothing collects it, it stays as a zombie; its sockets are closed with its last thread.
    let threads = || fs::read_dir(format!("/proc/{service}/task")).map_or(0, Iterator::count);
    home.until(|| status().is_empty() || (status().contains("\nState:\tZ") && threads() == 1));
    session.ok("list", &json!({}));
    assert_ne!(home.http("GET", "/status", "").body["pid"], service);
}

#[test]
fn help_tells_how_an_agent_starts_it() {
    let home = Home::with_type();
    let help = home.styxy().args(["mcp", "--help"]).stdin(Stdio::null()).output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    assert!(help.contains(r#"{"command": "styxy", "args": ["mcp"]}"#), "{help}");
}

#[test]
fn what_is_leased_for_a_cancelled_call_is_given_back() {
    let home = Home::with_type();
    let service = home.service();
    let mut session = Session::new(&home);
    // It cannot answer before the call is cancelled.
    kill(pid(service.id()), Signal::SIGSTOP).unwrap();
    for count in [1, 3] {
        let id = session.begin("allocate", &json!({"service_type": "mine", "count": count}));
        let params = json!({"requestId": id});
        session.send(
            &json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params}),
        );
    }
    // It is answered in order, so both were read.
    session.request("ping", &json!({}));
    kill(pid(service.id()), Signal::SIGCONT).unwrap();
    let ended = || {
        let log = fs::read_dir(home.state()).unwrap().map(|file| file.unwrap().path());
        let log = log.filter(|path| path.display().to_string().contains("/log."));
        log.map(|path| fs::read_to_string(path).unwrap().matches("not_delivered").count())
            .sum::<usize>()
    };
    home.until(|| ended() == 4);
    assert_eq!(home.ok(&["list"]), "no port is leased");
    support::end(service, Signal::SIGTERM);
}
