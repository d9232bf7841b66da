//! Names that would do something to a terminal, and readers that go away.

use std::{
    fs::{self, OpenOptions},
    io,
    os::unix::process::ExitStatusExt,
    process::{Command, Output, Stdio},
    thread,
};

use super::{
    cases::{Case, End},
    home, is_harmless, styxy, tried, with_lease, words,
};
use crate::support::Home;

#[test]
fn an_output_that_nobody_reads_or_that_is_full_ends_a_verb_without_a_panic() {
    // Many at a time, for most of it is waiting.
    let all: Vec<_> = tried().collect();
    thread::scope(|scope| {
        for cases in all.chunks(all.len().div_ceil(8)) {
            scope.spawn(|| without_a_panic(&home(), cases));
        }
    });
}

fn without_a_panic(home: &Home, cases: &[&Case]) {
    for case in cases {
        let End::Code(code) = case.end else { continue };
        // It can be done once only.
        if case.line.contains("undo-") {
            continue;
        }
        let ends = |how: &str, change: fn(&mut Command) -> &mut Command, may: &[i32]| {
            let mut output = None;
            with_lease(home, |id, port| {
                let mut command = styxy(home);
                command.args(words(home, case, id, port)).stderr(Stdio::piped());
                change(&mut command);
                output = Some(command.output().unwrap());
            });
            let output = output.unwrap();
            let told = format!("{}, {how}: {output:?}", case.line);
            let err = String::from_utf8_lossy(&output.stderr);
            assert!(!err.contains("panicked"), "{told}");
            let Some(ended) = output.status.code() else {
                // A program that could not be run has left the signal for such a pipe as programs get it.
                let could_not_run = output.status.signal() == Some(13) && code > 2;
                return assert!(could_not_run, "{told}");
            };
            assert!(ended == code || may.contains(&ended), "{told}");
            // With --json, it is an object.
            let says_why = (err.starts_with("styxy: ") || err.starts_with('{'))
                && (err.contains("No space left") || err.contains("Broken pipe"));
            assert!(ended == code || ended == 0 || says_why, "{told}");
        };
        // It is not an answer any more.
        let quietly: &[i32] = match code {
            1 => &[0],
            // A port that nobody is told of is given back.
            0 if case.line.starts_with("allocate") => &[1],
            _ => &[],
        };
        ends("nobody reads stdout", |command| command.stdout(without_reader()), quietly);
        ends("nobody reads stderr", |command| command.stderr(without_reader()), &[]);
        ends("stderr is full", |command| command.stderr(full()), &[]);
        ends("stdout is full", |command| command.stdout(full()), &[1]);
    }
}

#[test]
fn closed_descriptors_do_no_harm() {
    let home = home();
    let styxy = home.styxy().get_program().to_owned();
    for closed in ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"] {
        for words in [&["list"][..], &["allocate", "mine"], &["run", "mine", "--", "true"]] {
            let mut command = Command::new("sh");
            let set = home.styxy();
            command.envs(set.get_envs().filter_map(|(name, value)| Some((name, value?))));
            command.args(["-c", &format!("exec \"$0\" \"$@\" {closed}")]).arg(&styxy).args(words);
            let output = command.output().unwrap();
            assert_eq!(output.status.code(), Some(0), "{words:?} {closed}: {output:?}");
        }
        home.ok(&["release", "--type", "mine", "--yes"]);
    }
}

fn without_reader() -> Stdio {
    io::pipe().unwrap().1.into()
}

fn full() -> Stdio {
    OpenOptions::new().write(true).open("/dev/full").unwrap().into()
}

/// Names as nobody should give them.
const HOSTILE: &[&str] = &[
    "the shop's front end",
    "snow ☃ & \"quotes\"",
    "two\nlines\u{7}",
    "\u{1b}]0;title\u{7}\u{1b}[2Jgone",
    "\u{9b}2J\u{202e}drawkcab",
];

/// Where they may be given.
const PLACES: &[&str] = &[
    "{}",
    "--{}",
    "allocate {}",
    "allocate mine {}",
    "allocate mine --name {}",
    "allocate mine --instance {}",
    "allocate mine --project {}",
    "allocate mine --template {}",
    "allocate mine --singleton-key {}",
    "allocate mine --owner {}",
    "allocate mine --port {}",
    "allocate mine --count {}",
    "allocate mine --protocol {}",
    "allocate mine --hold {}",
    "audit --action {}",
    "audit --since {}",
    "audit --project {}",
    "audit --type {}",
    "audit --export no/such/{}",
    "check {}",
    "cleanup --older-than {}",
    "config validate {}",
    "config undo-auto-allocation {}",
    "config restore {}",
    "daemon --idle-exit {}",
    "exec {} -- true",
    "exec mine -- {}",
    "forget --name {}",
    "list --type {}",
    "list --project {}",
    "release {}",
    "release --instance {}",
    "renew {}",
    "run {} -- true",
    "run mine -- {}",
    "run mine --env {} -- true",
    "scan {}",
    "suggest {}",
    "suggest --project {}",
];

#[test]
fn hostile_names_never_reach_the_terminal_raw() {
    let home = home();
    for name in HOSTILE {
        for place in PLACES {
            let words: Vec<_> = place.split(' ').map(|word| word.replace("{}", name)).collect();
            let piped = styxy(&home).args(&words).output().unwrap();
            let told = format!("{words:?}: {piped:?}");
            let both = [piped.stdout.clone(), piped.stderr.clone()].concat();
            let both = String::from_utf8(both).expect(&told);
            assert!(is_harmless(&both) && !both.contains("panicked"), "{told}");
            assert!(piped.status.success() || !both.is_empty(), "{told}");
            if is_harmless(name) {
                continue;
            }
            let shown = on_terminal(&home, &words, &[]);
            assert!(is_harmless(&without_colours(&shown)), "{told} on a terminal: {shown:?}");
        }
    }
}

#[test]
fn colours_are_for_terminals_that_want_them() {
    let home = home();
    with_lease(&home, |_, _| {
        for words in [&["list"][..], &["lsit"]] {
            let words: Vec<_> = words.iter().map(|word| (*word).to_owned()).collect();
            assert!(on_terminal(&home, &words, &[]).contains("\u{1b}["), "{words:?}");
            for plain in [("NO_COLOR", "1"), ("TERM", "dumb")] {
                let shown = on_terminal(&home, &words, &[plain]);
                assert!(!shown.contains('\u{1b}'), "{words:?} {plain:?}: {shown:?}");
            }
        }
    });
}

/// What a terminal gets of a command.
fn on_terminal(home: &Home, words: &[String], variables: &[(&str, &str)]) -> String {
    let line: Vec<_> = words.iter().map(|word| word.clone() + "\0").collect();
    fs::write(home.path("words"), line.concat()).unwrap();
    let styxy = home.styxy();
    let mut command = Command::new("script");
    // The words of a shell's line would have to be quoted.
    let line = format!("xargs -0 -a words '{}'", styxy.get_program().display());
    command.args(["-q", "-e", "-c", &line, "/dev/null"]).env_clear();
    command.envs(styxy.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.env("PATH", "/usr/bin:/bin").env("TERM", "xterm").env("SHELL", "/bin/sh");
    command.envs(variables.iter().copied());
    let output: Output = command.current_dir(home.path("")).stdin(Stdio::null()).output().unwrap();
    String::from_utf8(output.stdout).unwrap().replace("\r\n", "\n")
}

/// The text without the sequences that set colours.
fn without_colours(text: &str) -> String {
    let mut parts = text.split("\u{1b}[");
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let rest = part.trim_start_matches(|c: char| c.is_ascii_digit() || c == ';');
        plain += rest.strip_prefix('m').unwrap_or("\u{1b}");
    }
    plain
}
