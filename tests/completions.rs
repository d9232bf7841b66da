//! What the command answers to the scripts by which shells ask it.

mod support;

use std::{
    cell::RefCell,
    fmt::Debug,
    fs,
    io::{Read, Write},
    os::unix::net::UnixListener,
    process::{Output, Stdio},
    thread,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use support::{Home, end};

fn asked(home: &Home, words: &[&str]) -> Output {
    home.styxy().env("STYXY_COMPLETE", "1").arg("styxy").args(words).output().unwrap()
}

/// The words that could be meant, each with what it is. There is never an error.
#[track_caller]
fn complete(home: &Home, words: &[&str]) -> Vec<(String, String)> {
    let output = asked(home, words);
    assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0), "{output:?}");
    let lines = String::from_utf8(output.stdout).unwrap();
    let pair = |line: &str| line.split_once('\t').map(|(w, h)| (w.to_owned(), h.to_owned()));
    lines.lines().map(|line| pair(line).unwrap_or_else(|| panic!("{line:?}"))).collect()
}

#[track_caller]
fn values(home: &Home, words: &[&str]) -> Vec<String> {
    complete(home, words).into_iter().map(|(value, _)| value).collect()
}

/// A service on a busy machine may not answer in time, and then is not waited for.
#[track_caller]
fn assert_in_the_end<T: Debug + PartialEq>(ask: impl Fn() -> T, answer: impl Into<T>) {
    let answer = answer.into();
    let asked = (0..100).map(|_| ask()).find(|asked| *asked == answer);
    assert_eq!(asked.unwrap_or_else(ask), answer);
}

fn strings<const N: usize>(words: [&str; N]) -> Vec<String> {
    words.map(str::to_owned).into()
}

#[test]
fn verbs_and_options_are_completed_with_their_help() {
    let home = Home::new();
    let of_release = [("release".to_owned(), "Release leased ports".to_owned())];
    assert_eq!(complete(&home, &["rel"]), of_release);
    let strict = "Fail if that port cannot be had, instead of taking another";
    let of_strict = [("--strict".to_owned(), strict.to_owned())];
    assert_eq!(complete(&home, &["allocate", "dev", "--stri"]), of_strict);
    let options = values(&home, &["list", ""]);
    assert!(options.contains(&"--mine".to_owned()), "{options:?}");
}

#[test]
fn leases_are_completed_with_what_they_are() {
    let home = Home::with_type();
    let port = home.ok(&["allocate", "mine", "--name", "web", "--instance", "agent-7"]);
    let other = home.ok(&["allocate", "mine", "--project", "/srv/shop"]);
    let lease = |port: &str, what: &str| (port.to_owned(), what.to_owned());
    let both = [lease(&port, "mine web ~"), lease(&other, "mine /srv/shop")];
    // And no options among them.
    assert_in_the_end(|| complete(&home, &["release", ""]), both.clone());
    assert_in_the_end(|| complete(&home, &["check", &other]), &both[1..]);
    let list = format!("{port},{other}");
    assert_in_the_end(|| values(&home, &["audit", "--port", &list]), strings([&list]));
    let ids = || complete(&home, &["renew", ""]);
    assert_in_the_end(|| ids().len(), 2_usize);
    assert_in_the_end(|| ids()[0].1.clone(), format!("{port} mine web ~"));
    let leases = home.leases();
    let id = leases[1]["lease_id"].as_str().unwrap();
    assert_in_the_end(|| values(&home, &["release", &id[..9]]), strings([id]));
    assert_in_the_end(|| values(&home, &["list", "--project", "/srv/s"]), strings(["/srv/shop"]));
    assert_in_the_end(|| values(&home, &["list", "--instance", ""]), strings(["agent-7"]));
    assert_in_the_end(|| values(&home, &["allocate", "mine", "--name", ""]), strings(["web"]));
}

#[test]
fn types_are_completed_also_while_no_service_runs_and_none_is_started() {
    let home = Home::new();
    home.configure(
        r#"{"service_types": {"mine": {"port_range": [30000, 30009], "description": "My own"}}}"#,
    );
    let mine = [("mine".to_owned(), "My own".to_owned())];
    assert_eq!(complete(&home, &["run", "min"]), mine);
    assert_eq!(values(&home, &["run", "--env", "WEB=min"]), ["WEB=mine"]);
    assert_eq!(values(&home, &["scan", "3000"]), ["3000-3099", "30000-30009"]);
    assert_eq!(values(&home, &["allocate", "--template", "st"]), ["staging"]);
    for words in [["release", ""], ["renew", ""], ["check", ""], ["types", ""], ["instances", ""]] {
        complete(&home, &words);
    }
    assert!(!home.path("runtime/styxy").exists() && !home.path("state").exists());
    let service = home.service();
    assert_eq!(complete(&home, &["run", "min"]), mine);
    end(service, Signal::SIGKILL);
}

#[test]
fn what_the_service_has_added_is_completed() {
    let home = Home::new();
    let of_undo = |home: &Home| values(home, &["config", "undo-auto-allocation", ""]);
    assert!(of_undo(&home).iter().all(|value| value.starts_with('-')));
    home.ok(&["allocate", "quokka-server"]);
    assert_eq!(of_undo(&home), ["quokka-server"]);
    let until = |backup: &(String, String)| (backup.0.clone(), backup.1[..8].to_owned());
    let asked = || complete(&home, &["config", "restore", ""]);
    let backups = || asked().iter().map(until).collect::<Vec<_>>();
    assert_in_the_end(backups, vec![("1".to_owned(), "until 20".to_owned())]);
}

#[test]
fn a_service_that_does_not_answer_is_not_waited_for() {
    let home = Home::with_type();
    let service = home.service();
    home.ok(&["allocate", "mine"]);
    let pid = Pid::from_raw(i32::try_from(service.id()).unwrap());
    kill(pid, Signal::SIGSTOP).unwrap();
    let mut command = home.styxy();
    command.env("STYXY_COMPLETE", "1").args(["styxy", "release", ""]).stdout(Stdio::piped());
    let command = RefCell::new(command.spawn().unwrap());
    home.until(|| command.borrow_mut().try_wait().unwrap().is_some());
    let answer = command.into_inner().wait_with_output().unwrap().stdout;
    assert!(String::from_utf8(answer).unwrap().lines().all(|line| line.starts_with("--")));
    assert_eq!(values(&home, &["run", "min"]), ["mine"], "its configuration can be read");
    end(service, Signal::SIGKILL);
}

#[test]
fn nothing_that_a_name_holds_reaches_the_terminal() {
    let home = Home::new();
    fs::create_dir(home.path("runtime/styxy")).unwrap();
    let service = UnixListener::bind(home.socket()).unwrap();
    thread::spawn(move || {
        let body = r#"{"service_types": [
            {"service_type": "good", "description": "\u001b[31mred\u202eder\nand more"},
            {"service_type": "ev\u001b[31mil", "description": ""},
            {"service_type": "two\nlines", "description": ""},
            {"service_type": "a\tb", "description": ""}]}"#;
        for stream in service.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 1024]);
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
            let _ = stream.write_all((head + body).as_bytes());
        }
    });
    let good = ("good".to_owned(), "red\u{fffd}der".to_owned());
    assert_in_the_end(|| complete(&home, &["run", ""]), [good]);
    fs::write(home.path("harmless"), "").unwrap();
    fs::write(home.path("harm\u{1b}[31mful"), "").unwrap();
    assert_eq!(values(&home, &["config", "validate", "harm"]), ["harmless"]);
}

#[test]
fn a_line_that_makes_no_sense_is_completed_with_nothing() {
    let home = Home::new();
    home.configure("{ nonsense");
    assert!(complete(&home, &["frobnicate", "x"]).is_empty());
    assert!(complete(&home, &["config", "x"]).is_empty());
    assert_eq!(values(&home, &["run", "storyb"]), ["storybook"]);
    let none = home.styxy().env("STYXY_COMPLETE", "1").output().unwrap();
    assert_eq!((none.status.code(), none.stdout, none.stderr), (Some(0), vec![], vec![]));
}

#[test]
fn the_command_completes_only_when_it_is_asked_to() {
    let home = Home::new();
    for (name, value) in [("STYXY_COMPLETE", ""), ("COMPLETE", "bash")] {
        let output = home.styxy().env(name, value).arg("--version").output().unwrap();
        assert!(String::from_utf8(output.stdout).unwrap().starts_with("styxy "), "{name}");
    }
}
