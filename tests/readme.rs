//! What the README shows: its commands are typed from top to bottom in one folder, and print what it prints.
//!
//! They are typed in a network in which every port is free, with a session bus and without systemd. What a stranger's machine
//! prints differently (times, ids of processes and of leases, who has asked) is compared by its kind, spaces by there being any.

mod support;

use std::{
    env, fs, iter,
    os::unix::fs::{PermissionsExt, symlink},
    process::{Child, Command, ExitCode, Stdio, id},
};

use libtest_mimic::{Arguments, Trial};
use support::{
    Home,
    bus::Bus,
    namespaces::{self, find},
};

const README: &str = include_str!("../README.md");

/// Commands that are not typed, by what they begin with, and why.
const NOT_TYPED: [(&str, &str); 3] = [
    ("cargo run", "tests/fresh types it on a fresh machine"),
    ("tests/run", "tests/fresh types it on a fresh machine"),
    ("journalctl", "a container may have no journal; tests/container reads it"),
];

/// What a private service says of itself, and the unit does not.
const OF_PRIVATE_SERVICES: [&str; 3] = [
    "styxy: the journal has no entry",
    "styxy: the journal has no event",
    "styxy: there is no journal",
];

/// Programs that the README starts: here they do nothing.
const PROGRAMS: [&str; 3] = ["bin/npm", "bin/mkdocs", "shop/api"];

fn main() -> ExitCode {
    if !namespaces::is_inside() {
        namespaces::enter();
    }
    let missing = ["dbus-daemon", "busctl", "curl"].into_iter().find(|name| find(name).is_none());
    if let Some(missing) = missing {
        eprintln!("SKIPPED: {missing} is not installed");
    }
    let name = "typed_from_top_to_bottom_in_one_folder_the_readme_gives_what_it_prints";
    let trial = Trial::test(name, || {
        the_readme_gives_what_it_prints();
        Ok(())
    });
    let trial = trial.with_ignored_flag(missing.is_some() || !namespaces::is_inside());
    libtest_mimic::run(&Arguments::from_args(), vec![trial]).exit_code()
}

/// A command of the README and what it prints there.
#[derive(Debug)]
struct Shown {
    command: &'static str,
    printed: Vec<&'static str>,
}

/// The commands of its `console` blocks, in their order. Root's begin with `#` and are not for this.
fn shown() -> Vec<Shown> {
    let mut shown: Vec<Shown> = Vec::new();
    for block in README.split("```console\n").skip(1) {
        let block = block.split("```").next().unwrap();
        for line in block.lines().filter(|line| !line.starts_with("# ")) {
            match line.strip_prefix("$ ") {
                Some(command) => shown.push(Shown { command, printed: Vec::new() }),
                None => shown.last_mut().unwrap().printed.push(line),
            }
        }
    }
    shown
}

fn the_readme_gives_what_it_prints() {
    let stage = Stage::new();
    let mut wrong = Vec::new();
    for Shown { command, printed } in shown() {
        if NOT_TYPED.iter().any(|(beginning, _)| command.starts_with(beginning)) {
            continue;
        }
        let (lines, is_done) = stage.type_in(command);
        stage.settle();
        let wanted = printed.iter().map(|line| kind(line)).collect::<Vec<_>>();
        let given = lines.iter().map(|line| kind(&stage.as_shown(line))).collect::<Vec<_>>();
        let is_right = if wanted.is_empty() {
            is_done && !lines.iter().any(|line| line.contains(r#""success":false"#))
        } else {
            wanted == given
        };
        if !is_right {
            wrong.push(format!("$ {command}\n{}\n    README: {printed:#?}", lines.join("\n")));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n\n"));
}

/// Where it is typed: the home, with a session bus.
struct Stage {
    home: Home,
    bus: Bus,
    /// Has the number of a process that owns a lease.
    process: Child,
}

impl Stage {
    fn new() -> Self {
        let home = Home::new();
        for folder in ["bin", "shop"] {
            fs::create_dir(home.path(folder)).unwrap();
        }
        symlink(env!("CARGO_BIN_EXE_styxy"), home.path("bin/styxy")).unwrap();
        for program in PROGRAMS {
            fs::write(home.path(program), "#!/bin/sh\n").unwrap();
            fs::set_permissions(home.path(program), fs::Permissions::from_mode(0o755)).unwrap();
        }
        let manifest = r#"{"name": "shop", "scripts": {"dev": "vite"}}"#;
        fs::write(home.path("shop/package.json"), manifest).unwrap();
        let bus = Bus::start().unwrap();
        let process = Command::new("sleep").arg("infinity").spawn().unwrap();
        Self { home, bus, process }
    }

    /// Types a command; what is printed, and whether it succeeds.
    fn type_in(&self, command: &str) -> (Vec<String>, bool) {
        let command = command.replace("/home/dev", &self.folder()).replace("4711", &self.pid());
        let styxy = self.home.styxy();
        let mut shell = Command::new("sh");
        shell.env_clear().envs(styxy.get_envs().filter_map(|(key, value)| Some((key, value?))));
        let folders = iter::once(self.home.path("bin"));
        let path = env::var_os("PATH").unwrap();
        let path = env::join_paths(folders.chain(env::split_paths(&path))).unwrap();
        shell.env("PATH", path).env("DBUS_SESSION_BUS_ADDRESS", &self.bus.address);
        // One stream, as on a terminal.
        shell.args(["-c", &format!("exec 2>&1\n{command}")]).current_dir(self.home.path("shop"));
        let output = shell.stdin(Stdio::null()).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let of_service = |line: &&str| !OF_PRIVATE_SERVICES.iter().any(|own| line.starts_with(own));
        (text.lines().filter(of_service).map(str::to_owned).collect(), output.status.success())
    }

    /// Waits until the leases of commands that have ended are over.
    fn settle(&self) {
        let lives = [id(), self.process.id()].map(u64::from);
        let is_over = |pid: &serde_json::Value| pid.as_u64().is_none_or(|pid| lives.contains(&pid));
        let leases = || self.home.http("GET", "/allocations", "").body["allocations"].clone();
        self.home.until(|| leases().as_array().unwrap().iter().all(|lease| is_over(&lease["pid"])));
        let pending = || self.home.http("GET", "/status", "").body["audit_pending"].clone();
        self.home.until(|| pending() == 0);
    }

    /// A line with the words of the README for what is this home's.
    fn as_shown(&self, line: &str) -> String {
        line.replace(&self.folder(), "/home/dev")
    }

    fn folder(&self) -> String {
        self.home.path("").to_str().unwrap().trim_end_matches('/').to_owned()
    }

    fn pid(&self) -> String {
        self.process.id().to_string()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The words of a line, each by its kind where it is another on each machine.
fn kind(line: &str) -> Vec<String> {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let words: Vec<_> = line.split_whitespace().collect();
    let before = |at: usize| at.checked_sub(1).map_or("", |before| words[before]);
    let after = |at: usize| words.get(at + 1).copied().unwrap_or("");
    let kind = |(at, word): (usize, &&str)| {
        let bare = word.trim_matches(|c: char| !c.is_ascii_alphanumeric());
        let is_number = !bare.is_empty() && bare.bytes().all(|byte| byte.is_ascii_digit());
        let is_id = [8, 36].contains(&bare.len())
            && bare.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
        let kind = match bare {
            _ if MONTHS.contains(&bare) || MONTHS.contains(&before(at)) => "DAY",
            _ if bare.contains(':') && bare.bytes().any(|byte| byte.is_ascii_digit()) => "TIME",
            _ if is_number && (before(at) == "process" || after(at) == "s") => "NUMBER",
            _ if word.ends_with(']') && word.contains('[') => "PROGRAM",
            _ if is_id => "ID",
            _ => return (*word).to_owned(),
        };
        word.replace(bare, kind)
    };
    words.iter().enumerate().map(kind).collect()
}
