//! Every verb and every flag, seen from outside. A new one needs a case in `cases`, or a test here fails.
//!
//! - `cases`: what each verb may be asked, and how that ends
//! - `hostile`: names that would do something to a terminal, and readers that go away
//! - `said`: what people see, word for word

mod cases;
mod hostile;
mod said;
#[path = "../support/mod.rs"]
mod support;

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader},
    os::unix::fs::symlink,
    path::Path,
    process::{Command as Process, Output, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use cases::{CASES, Case, End};
use clap::{ArgMatches, Command, CommandFactory, parser::ValueSource};
use serde_json::{Value as Json, json};
use styxy::cli::Cli;
use support::{Home, is_session};

#[test]
fn every_verb_and_flag_has_a_case() {
    let mut covered = BTreeSet::new();
    for case in CASES {
        let words = ["styxy"].into_iter().chain(case.line.split(' ')).map(as_usage_takes_it);
        if let Ok(matches) = Cli::command().try_get_matches_from(words) {
            note(&Cli::command(), &matches, "styxy", &mut covered);
        }
    }
    let mut missing = Vec::new();
    each_verb(&Cli::command(), &mut |path, verb| {
        let arguments = verb.get_arguments().map(|argument| argument.get_id().as_str());
        let all = arguments
            .filter(|id| !["help", "version"].contains(id))
            .map(|id| format!("{path} {id}"));
        missing.extend(all.chain([path.to_owned()]).filter(|one| !covered.contains(one)));
    });
    assert!(missing.is_empty(), "no case in tests/verbs/cases.rs has {missing:#?}");
}

/// Placeholders as values that the command line takes.
fn as_usage_takes_it(word: &str) -> String {
    let word = word.replace("{id}", "00000000-0000-4000-8000-000000000000");
    ["{port}", "{free}", "{pid}"].iter().fold(word, |word, name| word.replace(name, "1"))
}

/// Notes the verbs and arguments that a command line has.
fn note(verb: &Command, matches: &ArgMatches, path: &str, covered: &mut BTreeSet<String>) {
    covered.insert(path.to_owned());
    for argument in verb.get_arguments() {
        let id = argument.get_id().as_str();
        if matches.try_contains_id(id).is_ok()
            && matches.value_source(id) == Some(ValueSource::CommandLine)
        {
            covered.insert(format!("{path} {id}"));
        }
    }
    if let Some((name, matches)) = matches.subcommand() {
        note(verb.find_subcommand(name).unwrap(), matches, &format!("{path} {name}"), covered);
    }
}

fn each_verb(verb: &Command, look: &mut impl FnMut(&str, &Command)) {
    fn walk(path: &str, verb: &Command, look: &mut impl FnMut(&str, &Command)) {
        look(path, verb);
        // Hidden ones are for systemd, not for people.
        let shown = |verb: &&Command| verb.get_name() != "help" && !verb.is_hide_set();
        for verb in verb.get_subcommands().filter(shown) {
            walk(&format!("{path} {}", verb.get_name()), verb, look);
        }
    }
    walk("styxy", verb, look);
}

#[test]
fn every_verb_helps_and_says_what_each_argument_is() {
    let home = Home::new();
    each_verb(&Cli::command(), &mut |path, verb| {
        let path: Vec<&str> = path.split(' ').skip(1).collect();
        for help in ["-h", "--help"] {
            let output = home.styxy().args(&path).arg(help).output().unwrap();
            assert!(output.status.success() && output.stderr.is_empty(), "{path:?} {help}");
            let shown = String::from_utf8(output.stdout).unwrap();
            assert!(shown.contains("Usage: styxy"), "{shown}");
            assert!(is_harmless(&shown), "{shown:?}");
        }
        assert!(verb.get_about().is_some(), "{path:?} does not say what it does");
        for argument in verb.get_arguments() {
            assert!(argument.get_help().is_some(), "{path:?} {} says nothing", argument.get_id());
        }
    });
    assert!(!home.socket().exists(), "help starts no service");
}

#[test]
fn every_verb_takes_json() {
    each_verb(&Cli::command(), &mut |path, verb| {
        // The daemon has no answer, a shell reads the second, the third speaks JSON anyway, and a page is for people.
        let others = ["styxy daemon", "styxy completions", "styxy mcp", "styxy top"];
        let is_other = others.contains(&path);
        let is_leaf = !verb.has_subcommands() && !is_other;
        let takes_it = verb.get_arguments().any(|argument| argument.get_long() == Some("json"));
        assert!(takes_it || !is_leaf, "{path} does not take --json");
        let prefix = path.strip_prefix("styxy ").unwrap_or_default();
        let asks_for_it =
            |case: &&Case| case.line.starts_with(prefix) && case.line.contains("--json");
        let cases: Vec<_> = CASES.iter().filter(asks_for_it).collect();
        // In a booted machine they have answers: tests/container/tcp.rs and page.rs.
        let needs_a_manager =
            ["styxy http enable", "styxy http disable", "styxy open"].contains(&path);
        assert!(
            !is_leaf || needs_a_manager || cases.iter().any(|case| !case.schema.is_empty()),
            "{path} has no schema"
        );
    });
}

#[test]
fn every_case_ends_as_it_should_and_answers_in_its_shape() {
    let verbs: BTreeSet<_> = tried().map(verb).collect();
    thread::scope(|scope| {
        for verb in verbs {
            scope.spawn(move || {
                let home = home();
                for case in tried().filter(|case| self::verb(case) == verb) {
                    with_lease(&home, |id, port| try_case(&home, case, id, port));
                }
            });
        }
    });
}

/// The cases that can be tried here. Without systemd a daemon is started by hand, and there is no journal; where the package is
/// installed, setup is refused.
fn tried() -> impl Iterator<Item = &'static Case> {
    CASES.iter().filter(|case| !is_session() || !["daemon", "audit", "setup"].contains(&verb(case)))
}

fn verb(case: &Case) -> &'static str {
    case.line.split(' ').next().unwrap_or_default()
}

/// A home with a type `mine`, and a type `once` that runs once.
fn home() -> Home {
    let home = Home::new();
    home.configure(&format!(
        r#"{{"service_types": {{
            "mine": {{"port_range": [{}, {}], "preferred_ports": [{0}]}},
            "once": {{"port_range": [{}, {}], "instance_behavior": "single"}}
        }}}}"#,
        home.port(0),
        home.port(6),
        home.port(7),
        home.port(8)
    ));
    let bin = home.path("bin");
    fs::create_dir(&bin).unwrap();
    for program in ["true", "false"] {
        symlink(Path::new("/usr/bin").join(program), bin.join(program)).unwrap();
    }
    fs::create_dir(home.path("docs")).unwrap();
    fs::write(home.path("docs/mkdocs.yml"), "site_name: docs").unwrap();
    fs::create_dir(home.path("shop")).unwrap();
    let services = r#"{"services": {"web": {"type": "dev", "command": "true"}}}"#;
    fs::write(home.path("shop/styxy.json"), services).unwrap();
    fs::create_dir(home.path("old")).unwrap();
    let config = r#"{"service_types": {"lamps": {"range": [48000, 48009]}, "odd": {}}}"#;
    fs::write(home.path("old/config.json"), config).unwrap();
    home.ok(&["allocate", "unheard-of"]);
    home.ok(&["release", "--type", "unheard-of", "--yes"]);
    home
}

/// The command, where neither journalctl nor systemctl is: what this machine has is nothing to the tests.
fn styxy(home: &Home) -> Process {
    let mut command = home.styxy();
    command.env("PATH", home.path("bin"));
    command
}

/// Does something while there is one lease, and takes all leases away afterwards.
fn with_lease(home: &Home, work: impl FnOnce(&str, &str)) {
    let request = json!({"service_type": "mine", "service_name": "lamp", "project_path": "/lamp", "ttl": 600});
    let lease = home.http("POST", "/allocate", &request.to_string()).body;
    work(lease["lease_id"].as_str().unwrap(), &lease["port"].to_string());
    for lease in home.http("GET", "/allocations", "").body["allocations"].as_array().unwrap() {
        home.http("DELETE", &format!("/allocate/{}", lease["lease_id"].as_str().unwrap()), "");
    }
}

/// The words of a case, with its values.
fn words(home: &Home, case: &Case, id: &str, port: &str) -> Vec<String> {
    let (free, pid) = (home.port(5).to_string(), std::process::id().to_string());
    let values = [("{id}", id), ("{port}", port), ("{free}", &free), ("{pid}", &pid)];
    let fill = |word: &str| {
        values.iter().fold(word.to_owned(), |word, (name, value)| word.replace(name, value))
    };
    case.line.split(' ').map(fill).collect()
}

fn try_case(home: &Home, case: &Case, id: &str, port: &str) {
    let words = words(home, case, id, port);
    let (output, code) = match case.end {
        End::Code(code) => (styxy(home).args(&words).output().unwrap(), Some(code)),
        End::Never => (beginning(home, &words), None),
    };
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let told = format!("{words:?}: {:?}\n{out}{err}", output.status);
    assert_eq!(output.status.code(), code, "{told}");
    assert!(is_harmless(&out) && is_harmless(&err) && !err.contains("panicked"), "{told}");
    if code != Some(0) && !words.contains(&"-q".to_owned()) {
        assert!(!err.is_empty() || !out.is_empty(), "{told}");
    }
    if code == Some(2) {
        assert!(out.is_empty(), "{told}");
    }
    if !case.schema.is_empty() {
        // What `run` and `exec` say is beside what their command prints.
        let lines = if ["run", "exec"].contains(&verb(case)) { &err } else { &out };
        let answers: Vec<Json> = if case.schema == "event" {
            lines.lines().map(|line| serde_json::from_str(line).expect(&told)).collect()
        } else {
            let answers = serde_json::Deserializer::from_str(lines).into_iter();
            answers.map(|answer| answer.expect(&told)).collect()
        };
        assert!(!answers.is_empty(), "{told}");
        for answer in answers {
            let errors: Vec<_> = schema(case.schema)
                .iter_errors(&answer)
                .map(|error| format!("{}: {error}", error.instance_path()))
                .collect();
            assert!(errors.is_empty(), "{errors:#?}\n{told}");
        }
    }
}

/// The first line of what goes on for ever, while something happens again and again.
fn beginning(home: &Home, words: &[String]) -> Output {
    let mut command = styxy(home);
    // A daemon needs a home of its own.
    let other = (words[0] == "daemon").then(Home::new);
    if let Some(other) = &other {
        command = other.styxy();
    }
    let mut child =
        command.args(words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let has_begun = AtomicBool::new(false);
    let mut line = String::new();
    thread::scope(|scope| {
        scope.spawn(|| {
            while !has_begun.load(Ordering::Relaxed) {
                with_lease(home, |_, _| thread::sleep(Duration::from_millis(600)));
            }
        });
        out.read_line(&mut line).unwrap();
        has_begun.store(true, Ordering::Relaxed);
    });
    child.kill().unwrap();
    let mut output = child.wait_with_output().unwrap();
    output.stdout = line.into_bytes();
    output
}

/// The schema of that name in tests/data/answers, where `#/$defs/lease` is a lease.
fn schema(name: &str) -> jsonschema::Validator {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/answers");
    let read = |name: &str| -> Json {
        let text = fs::read_to_string(folder.join(name).with_extension("json")).expect(name);
        serde_json::from_str(&text).expect(name)
    };
    let mut schema = read(name);
    schema["$defs"] = json!({"lease": read("lease")});
    jsonschema::validator_for(&schema).expect(name)
}

/// Whether a text does nothing to a terminal but fill it.
fn is_harmless(text: &str) -> bool {
    let turns = |c| matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    !text.contains(|c: char| (c.is_control() && c != '\n') || turns(c))
}
