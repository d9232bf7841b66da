//! Commands with a localhost of their own, as an ordinary user: `target.c` is a program whose ports are hard-coded.
//!
//! All of it happens in namespaces of its own, as in tests/programs.rs.

#[path = "../support/mod.rs"]
mod support;

use std::{
    env,
    fs::{self, Permissions},
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::{
        fs::{PermissionsExt, chown},
        process::{CommandExt, ExitStatusExt},
    },
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, ExitStatus, Output, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU16, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use libtest_mimic::{Arguments, Trial};
use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, geteuid},
};
use serde_json::Value as Json;
use support::{fetched::is_there, namespaces};
use tempfile::TempDir;

/// Generous: a busy computer starts python slowly.
const LIMIT: Duration = Duration::from_secs(60);
/// The user that root becomes.
const USER: u32 = 2_001;

/// A trial: its name, the commands that it needs, and what it does.
type Case = (&'static str, &'static [&'static str], fn());

const CASES: &[Case] = &[
    ("calls_do_what_they_do_without_styxy", &["cc"], semantics),
    ("programs_for_i386_are_mapped_too", &["cc"], i386),
    ("signals_disturb_no_call", &["cc"], storm),
    ("a_supervisor_needs_no_more_after_thousands_of_calls", &["cc"], pairs),
    ("targets_that_are_killed_in_their_calls_disturb_nobody", &["cc"], killed),
    ("two_worktrees_have_each_their_own_localhost", &["python3"], || two_worktrees("private")),
    ("two_worktrees_have_it_in_conflict_mode_as_well", &["python3"], || two_worktrees("conflict")),
    ("what_another_project_has_is_never_reached", &["cc"], never_another),
    ("what_this_project_asked_for_once_is_never_another_projects", &["cc"], asked_once),
    ("a_port_keeps_its_number_if_it_is_free", &["cc"], keeps_its_number),
    ("a_command_ends_as_it_would_without_styxy", &["bash"], ends),
    ("signals_for_the_front_reach_the_command", &["bash"], forwarded),
    ("a_terminal_interrupts_stops_and_continues_it", &["bash", "python3"], terminal),
    ("a_front_that_is_stopped_stops_no_call", &["cc"], stopped_front),
    ("a_daemon_outlives_its_command_and_stays_mapped", &["cc"], daemon),
    ("whoever_waits_for_the_end_of_a_pipe_waits_for_the_command_only", &["bash"], pipe),
    ("everything_ends_with_the_command_if_that_is_asked_for", &["bash"], kill_tree),
    ("a_command_has_the_descriptors_that_it_would_have", &["bash"], descriptors),
    ("without_its_supervisor_a_command_ends", &["bash"], lost),
    ("without_its_front_a_command_ends", &["bash"], without_front),
    ("inside_of_the_same_project_a_command_joins", &["bash"], nested),
    ("one_that_is_supervised_already_is_refused", &["cc"], supervised),
    ("one_that_cannot_be_looked_at_is_told_of", &["cc"], hidden),
    ("io_uring_is_off_unless_it_is_asked_for", &["cc"], rings),
    ("a_program_is_told_the_port_that_it_asked_for_if_it_compares", &["cc"], names),
    ("datagrams_are_mapped_by_number", &["cc"], datagrams),
    ("ports_of_the_machine_are_reached_by_number", &["cc"], reach),
    ("ports_below_1024_need_no_root", &["cc"], privileged),
    ("only_named_ports_are_mapped_if_some_are_named", &["cc"], by_number),
    ("root_is_told_what_that_means", &["bash"], root),
    ("sudo_and_others_are_refused_before_the_start", &[], others),
];

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    if !namespaces::is_inside() && !arguments.list {
        namespaces::enter();
    }
    let trials = CASES.iter().map(|(name, needs, test)| {
        let missing: Vec<_> = needs.iter().filter(|needed| !is_there(needed)).collect();
        if !missing.is_empty() {
            eprintln!("SKIPPED: {name}: {missing:?} is missing");
        }
        let trial = Trial::test(*name, move || {
            test();
            Ok(())
        });
        trial.with_ignored_flag(!missing.is_empty() || !namespaces::is_inside())
    });
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}

// ---- a user with two projects --------------------------------------------------------------------

/// A user of its own, with the projects `a` and `b`.
struct Stage {
    folder: TempDir,
    /// The first of its real ports. Users have different ones here, for it is only one to the kernel.
    first: u16,
}

/// How many real ports each has.
const PORTS: u16 = 50;

impl Stage {
    fn new() -> Self {
        static NEXT: AtomicU16 = AtomicU16::new(21_000);
        let first = NEXT.fetch_add(PORTS, Ordering::SeqCst);
        let stage = Self { folder: tempfile::tempdir().unwrap(), first };
        fs::set_permissions(stage.path(""), Permissions::from_mode(0o755)).unwrap();
        let folders =
            ["home", "run", "home/a", "home/b", "home/a/.git", "home/b/.git", "home/.config/styxy"];
        for folder in folders {
            fs::create_dir_all(stage.path(folder)).unwrap();
            if geteuid().is_root() {
                chown(stage.path(folder), Some(USER), Some(USER)).unwrap();
            }
        }
        fs::set_permissions(stage.path("run"), Permissions::from_mode(0o700)).unwrap();
        let range = format!("[{first}, {}]", first + PORTS - 1);
        let config = format!(r#"{{"service_types": {{"remap": {{"port_range": {range}}}}}}}"#);
        stage.write("home/.config/styxy/config.json", &config);
        support::copy_program(Path::new(env!("CARGO_BIN_EXE_styxy")), stage.path("styxy"));
        stage
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Whether this is one of its real ports.
    #[track_caller]
    fn is_real(&self, text: &str) {
        let port: u16 = text.split(' ').next().unwrap().trim().parse().unwrap();
        assert!((self.first..self.first + PORTS).contains(&port), "{port}");
    }

    fn write(&self, name: &str, content: &str) {
        fs::write(self.path(name), content).unwrap();
    }

    /// This command, as that user, in a project.
    fn command(&self, project: &str, words: &[&str]) -> Command {
        let mut command = Command::new(words[0]);
        let path = env::var("PATH").unwrap();
        let path = format!("{}:{path}", self.folder.path().display());
        command
            .args(&words[1..])
            .env_clear()
            .env("PATH", path)
            .env("HOME", self.path("home"))
            .env("XDG_RUNTIME_DIR", self.path("run"))
            .current_dir(self.path("home").join(project))
            .stdin(Stdio::null());
        if geteuid().is_root() {
            command.uid(USER).gid(USER);
        }
        command
    }

    fn run(&self, project: &str, words: &[&str]) -> Said {
        self.command(project, words).output().unwrap().into()
    }

    /// `styxy run --remap` with this mode or these options, and a command.
    fn remap(&self, project: &str, options: &[&str], command: &[&str]) -> Said {
        self.run(project, &[&["styxy", "run"], options, &["--"], command].concat())
    }

    fn start(&self, project: &str, words: &[&str]) -> Running {
        let mut command = self.command(project, words);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        Running(command.spawn().unwrap())
    }

    fn leases(&self) -> Vec<Json> {
        let said = self.run("", &["styxy", "list", "--json"]);
        let list: Json = serde_json::from_str(&said.out).unwrap();
        list["leases"].as_array().unwrap().clone()
    }

    /// The supervisor of a mapping.
    fn supervisor(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.leases()[0]["pid"].as_i64().unwrap()).unwrap())
    }

    fn has_leases(&self, count: usize) {
        until(&format!("{count} leases"), || self.leases().len() == count);
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let said = self.run("", &["styxy", "status", "--json"]);
        let status: Json = serde_json::from_str(&said.out).unwrap_or_default();
        if let Some(pid) = status["pid"].as_i64() {
            let _ = kill(Pid::from_raw(i32::try_from(pid).unwrap()), Signal::SIGTERM);
        }
    }
}

/// What a command has said, and how it has ended.
#[derive(Debug)]
struct Said {
    status: ExitStatus,
    out: String,
    err: String,
}

impl From<Output> for Said {
    fn from(Output { status, stdout, stderr }: Output) -> Self {
        let [out, err] = [stdout, stderr].map(|text| String::from_utf8(text).unwrap());
        Self { status, out, err }
    }
}

impl Said {
    #[track_caller]
    fn code(&self, code: i32) -> &Self {
        assert_eq!(self.status.code(), Some(code), "{self:?}");
        self
    }

    #[track_caller]
    fn out(&self, text: &str) -> &Self {
        assert_eq!(self.out, text, "{self:?}");
        self
    }

    #[track_caller]
    fn says(&self, text: &str) -> &Self {
        assert!(self.err.contains(text), "{text}: {self:?}");
        self
    }
}

/// A command that runs, and is killed at the end.
struct Running(Child);

impl Running {
    /// A line of its output.
    fn line(&mut self) -> String {
        let mut line = String::new();
        BufReader::with_capacity(1, self.0.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.0.id()).unwrap())
    }

    fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
    }

    fn end(mut self) -> Said {
        let status = self.0.wait().unwrap();
        let [mut out, mut err] = [String::new(), String::new()];
        self.0.stdout.take().unwrap().read_to_string(&mut out).unwrap();
        self.0.stderr.take().unwrap().read_to_string(&mut err).unwrap();
        Said { status, out, err }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[track_caller]
fn until(what: &str, is_so: impl Fn() -> bool) {
    let end = Instant::now() + LIMIT;
    while !is_so() {
        assert!(Instant::now() < end, "never: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// The program whose ports are hard-coded; static, as programs in Go are.
fn target() -> &'static str {
    static TARGET: OnceLock<(TempDir, String)> = OnceLock::new();
    let (_, path) = TARGET.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
        let program = folder.path().join("target").display().to_string();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/remap/target.c");
        let mut compiler = Command::new("cc");
        let compiled = compiler.args(["-O1", "-Wall", "-Werror", "-static", "-pthread", "-o"]);
        assert!(compiled.arg(&program).arg(source).status().unwrap().success());
        (folder, program)
    });
    path
}

fn is_gone(pid: Pid) -> bool {
    let state = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    state.rsplit(')').next().is_none_or(|rest| rest.is_empty() || rest.starts_with(" Z"))
}

fn is_listened(port: u16) -> bool {
    TcpStream::connect(("127.0.0.1", port)).is_ok()
}

// ---- the calls -----------------------------------------------------------------------------------

fn semantics() {
    let stage = Stage::new();
    let plain = stage.run("a", &[target(), "semantics"]);
    let mapped = stage.remap("a", &["--remap"], &[target(), "semantics"]);
    mapped.code(0);
    assert!(plain.out.lines().count() > 60, "{plain:?}");
    // The supervisor has begun it, so the kernel finds it under way.
    let ended = |error| format!("a time limit ends the waiting: {error}\n");
    let expected = plain.out.replace(&ended("EINPROGRESS"), &ended("EALREADY"));
    for (plain, mapped) in expected.lines().zip(mapped.out.lines()) {
        assert_eq!(plain, mapped);
    }
    assert_eq!(expected, mapped.out);
}

fn i386() {
    let stage = Stage::new();
    let plain = stage.run("a", &[target(), "i386"]);
    if plain.out.contains("-38") || cfg!(not(target_arch = "x86_64")) {
        eprintln!("SKIPPED: this kernel runs no programs for i386");
        return;
    }
    plain.out("bind 0\nconnect 0\nsocketcall connect 0\n");
    let mapped = stage.remap("a", &["--remap"], &[target(), "i386"]);
    mapped.code(0).out(&plain.out).says("14171 is really ");
}

fn storm() {
    let stage = Stage::new();
    stage.remap("a", &["--remap"], &[target(), "storm", "2000"]).code(0).out("2000 connected\n");
}

fn pairs() {
    let stage = Stage::new();
    let script =
        format!("{0} pairs 10; echo; read -r _; {0} pairs 3000; echo; read -r _", target());
    let mut command = stage.command("a", &["styxy", "run", "--remap", "--", "sh", "-c", &script]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut running = Running(command.spawn().unwrap());
    assert_eq!(running.line(), "");
    let supervisor = stage.supervisor();
    let uses = || {
        let folder = format!("/proc/{supervisor}");
        let status = fs::read_to_string(format!("{folder}/status")).unwrap();
        let memory = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        let memory: u64 = memory.trim().trim_end_matches(" kB").parse().unwrap();
        (fs::read_dir(format!("{folder}/fd")).unwrap().count(), memory)
    };
    let (descriptors, memory) = uses();
    running.0.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
    assert_eq!(running.line(), "");
    let (descriptors_then, memory_then) = uses();
    assert_eq!(descriptors, descriptors_then);
    assert!(memory_then <= memory + 256, "{memory} kB, then {memory_then} kB");
    running.0.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
    running.end().code(0);
}

fn killed() {
    let stage = Stage::new();
    stage.remap("a", &["--remap"], &[target(), "killed", "300"]).code(0);
    stage.has_leases(0);
}

// ---- worktrees -----------------------------------------------------------------------------------

const SERVER: &str = r#"
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = (sys.argv[2] + "\n").encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_):
        pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"#;

const CLIENT: &str = r#"
import sys, time, urllib.request
for port in sys.argv[1:]:
    for host in ("localhost", "127.0.0.1"):
        for _ in range(1000):
            try:
                print(port, urllib.request.urlopen(f"http://{host}:{port}").read().decode().strip())
                break
            except OSError:
                time.sleep(0.05)
"#;

/// Web, API and database in each, in terminals of their own; those of A in order, those of B the other way round.
fn two_worktrees(mode: &str) {
    let stage = Stage::new();
    // Each test has ports of its own here: in conflict mode they are the machine's.
    let ports = if mode == "private" { [5173, 3001, 6379] } else { [15_173, 13_001, 16_379] };
    for project in ["a", "b"] {
        stage.write(&format!("home/{project}/server.py"), SERVER);
        stage.write(&format!("home/{project}/client.py"), CLIENT);
    }
    let remap = format!("--remap={mode}");
    let [web, api, database] = ports.map(|port| port.to_string());
    let mut servers = Vec::new();
    let mut start = |project: &str, port: &str| {
        let name = format!("{project} {port}");
        let words = ["styxy", "run", &remap, "--", "python3", "server.py", port, &name];
        servers.push(stage.start(project, &words));
    };
    [&web, &api, &database].iter().for_each(|port| start("a", port));
    [&database, &api, &web].iter().for_each(|port| start("b", port));
    let ask = |project: &str| {
        let words =
            ["styxy", "run", "-q", &remap, "--", "python3", "client.py", &web, &api, &database];
        stage.start(project, &words)
    };
    let clients = [("a", ask("a")), ("b", ask("b"))];
    for (project, client) in clients {
        let expected = [&web, &api, &database].map(|port| {
            let line = format!("{port} {project} {port}\n");
            line.repeat(2)
        });
        client.end().code(0).out(&expected.concat());
    }
    let leases = stage.leases();
    assert_eq!(leases.len(), 6, "{leases:?}");
    assert!(leases.iter().all(|lease| lease["state"] == "listening"), "{leases:?}");
    for server in servers {
        server.signal(Signal::SIGTERM);
        server.end();
    }
    stage.has_leases(0);
    // And again, the same.
    let before: Vec<_> = leases.iter().map(|lease| (&lease["asked"], &lease["port"])).collect();
    let words = ["styxy", "run", &remap, "--", "python3", "server.py", &api, "a"];
    let server = stage.start("a", &words);
    stage.has_leases(1);
    let lease = &stage.leases()[0];
    if mode == "private" {
        assert!(before.contains(&(&lease["asked"], &lease["port"])), "{lease} {before:?}");
    }
    server.signal(Signal::SIGTERM);
    server.end();
}

fn never_another() {
    for (mode, port) in [("private", "4301"), ("conflict", "4302")] {
        let stage = Stage::new();
        let remap = format!("--remap={mode}");
        let mut server = stage.start("a", &["styxy", "run", &remap, "--", target(), "serve", port]);
        let line = server.line();
        let real = line.split(' ').next().unwrap();
        let reach = |port: &str| stage.remap("b", &[&remap], &[target(), "reach", port]);
        reach(port).out("reach: ECONNREFUSED\n");
        let said = reach(real);
        said.out("reach: ECONNREFUSED\n");
        said.says(&format!("port {real} belongs to ~/a, and is not reached from here"));
        // A's own reaches it by both numbers.
        for port in [port, real] {
            let said = stage.remap("a", &[&remap], &[target(), "reach", port]);
            said.out("reach: ok\n");
        }
        // So do programs outside.
        assert!(is_listened(real.parse().unwrap()));
        // Another project's usual lease is not reached, either; an own one is.
        let lease = stage.run("a", &["styxy", "allocate", "dev", "--owner", "none"]);
        let usual = lease.out.trim().to_owned();
        let mut usual_server = stage.start("a", &[target(), "serve", &usual, "reuse"]);
        usual_server.line();
        reach(&usual).out("reach: ECONNREFUSED\n");
        stage.remap("a", &[&remap], &[target(), "reach", &usual]).out("reach: ok\n");
    }
}

/// B's API is not there, A's has the number that B's would have: B never reaches it.
fn asked_once() {
    let stage = Stage::new();
    let remap = "--remap=conflict";
    stage.remap("b", &[remap], &[target(), "bound", "4311"]).code(0);
    stage.has_leases(0);
    let mut foreign = Running(
        Command::new(target())
            .args(["serve", "4311", "reuse"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    foreign.line();
    stage.remap("b", &[remap], &[target(), "reach", "4311"]).out("reach: ECONNREFUSED\n");
    // For a project that never asked for it, it is a service of the machine.
    stage.remap("a", &[remap], &[target(), "reach", "4311"]).out("reach: ok\n");
}

fn keeps_its_number() {
    let stage = Stage::new();
    let remap = "--remap=conflict";
    let said = stage.remap("a", &[remap], &[target(), "bound", "4321"]);
    said.code(0).out("4321 16\n").says("4321 is free, and stays what it is");
    // One address of one family is enough to have it.
    let _other = TcpListener::bind("[::1]:4322").unwrap();
    let said = stage.remap("a", &[remap], &[target(), "bound", "4322"]);
    assert!(!said.code(0).out.starts_with("4322 "), "{said:?}");
    said.says("4322 is really ");
    stage.is_real(&said.out);
    // A project has one mode.
    let server = stage.start("a", &["styxy", "run", remap, "--", target(), "serve", "4323"]);
    stage.has_leases(1);
    let said = stage.remap("a", &["--remap"], &["true"]);
    said.code(2).says("~/a has ports in mode conflict, and a project has one mode");
    drop(server);
}

// ---- processes -----------------------------------------------------------------------------------

fn ends() {
    let stage = Stage::new();
    let ends = |command: &[&str]| stage.remap("a", &["--remap"], command);
    ends(&["sh", "-c", "echo out; echo err >&2; exit 7"]).code(7).out("out\n").says("err");
    ends(&["true"]).code(0);
    ends(&["no-such-program"]).code(127).says("no-such-program cannot be run");
    ends(&["/etc/passwd"]).code(126).says("/etc/passwd cannot be run");
    for signal in [9, 15, 2] {
        let said = ends(&["sh", "-c", &format!("kill -{signal} $$")]);
        assert_eq!(said.status.signal(), Some(signal), "{said:?}");
    }
    stage.has_leases(0);
}

fn forwarded() {
    let stage = Stage::new();
    for signal in [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGINT] {
        let name = signal.as_str().trim_start_matches("SIG");
        let script = format!("trap 'echo got; exit 3' {name}; echo; while :; do sleep 0.05; done");
        let mut front = stage.start("a", &["styxy", "run", "--remap", "--", "bash", "-c", &script]);
        front.line();
        front.signal(signal);
        front.end().code(3).out("got\n");
    }
}

/// Types into an interactive shell, on a terminal.
const TYPIST: &str = r#"
import os, pty, re, select, sys, time
pid, terminal = pty.fork()
if pid == 0:
    os.execvp("bash", ["bash", "--norc", "--noprofile", "-i"])
text = b""
def until(pattern):
    global text
    end = time.time() + 60
    while not re.search(pattern, text):
        if time.time() > end:
            sys.exit(f"never {pattern}: {text!r}")
        if select.select([terminal], [], [], 0.1)[0]:
            text += os.read(terminal, 4096)
    text = text[re.search(pattern, text).end():]
def typed(line):
    os.write(terminal, line)
def pressed(key, pattern):
    global text
    end = time.time() + 60
    typed(key)
    while not re.search(pattern, text) and time.time() < end:
        # One that comes too early is lost, also without styxy.
        if not select.select([terminal], [], [], 1)[0]:
            typed(key)
        else:
            text += os.read(terminal, 4096)
    until(pattern)
typed(b"PS1='ready''> '\n")
until(rb"ready> ")
command = b"styxy run --remap -- sh -c 'echo sta''rted; sleep 1000'\n"
typed(command)
until(rb"started")
pressed(b"\x03", rb"ready> ")
typed(b"echo code $?\n")
until(rb"code 130")
until(rb"ready> ")
typed(command)
until(rb"started")
pressed(b"\x1a", rb"Stopped")
until(rb"ready> ")
typed(b"fg\n")
until(rb"styxy run")
pressed(b"\x03", rb"ready> ")
typed(b"echo code $?\n")
until(rb"code 130")
typed(b"exit\n")
os.waitpid(pid, 0)
"#;

fn terminal() {
    let stage = Stage::new();
    stage.run("a", &["python3", "-c", TYPIST]).code(0);
}

fn stopped_front() {
    let stage = Stage::new();
    let script = format!("echo; read -r _ < go; {} sweep 1500; echo swept > done", target());
    let mkfifo = stage.run("a", &["mkfifo", "go"]);
    mkfifo.code(0);
    let mut front = stage.start("a", &["styxy", "run", "--remap", "--", "sh", "-c", &script]);
    front.line();
    front.signal(Signal::SIGSTOP);
    fs::write(stage.path("home/a/go"), "\n").unwrap();
    until("all ports are refused", || stage.path("home/a/done").exists());
    front.signal(Signal::SIGCONT);
    front.end().code(0);
}

fn daemon() {
    let stage = Stage::new();
    // Its parent is gone at once, and it has a session of its own.
    let script = format!(
        "setsid sh -c '{} serve 4401 > line 2>&1 < /dev/null &' ; while ! test -s line; do sleep 0.05; done",
        target()
    );
    stage.remap("a", &["--remap"], &["sh", "-c", &script]).code(0);
    stage.has_leases(1);
    let lease = &stage.leases()[0];
    assert_eq!((&lease["asked"], &lease["state"]), (&4401.into(), &"listening".into()));
    let supervisor = stage.supervisor();
    // From another terminal of the project.
    stage.remap("a", &["--remap"], &[target(), "reach", "4401"]).out("reach: ok\n");
    let pids =
        fs::read_to_string(format!("/proc/{supervisor}/task/{supervisor}/children")).unwrap();
    let daemon = pids.split_whitespace().next().unwrap().parse().unwrap();
    kill(Pid::from_raw(daemon), Signal::SIGTERM).unwrap();
    until("the supervisor ends", || is_gone(supervisor));
    stage.has_leases(0);
}

fn pipe() {
    let stage = Stage::new();
    let script = "echo $(styxy run -q --remap -- sh -c 'echo said; sleep 1000 > /dev/null 2>&1 & echo $! > pid')";
    stage.run("a", &["bash", "-c", script]).code(0).out("said\n");
    let pid = fs::read_to_string(stage.path("home/a/pid")).unwrap();
    kill(Pid::from_raw(pid.trim().parse().unwrap()), Signal::SIGKILL).unwrap();
}

fn kill_tree() {
    let stage = Stage::new();
    let script = "sleep 1000 & echo $!; setsid sleep 1000 & echo $!; trap '' TERM; sh -c 'trap \"\" TERM; echo $$; sleep 1000' & sleep 0.2; exit 3";
    let said = stage.remap("a", &["--remap", "--kill-tree"], &["sh", "-c", script]);
    said.code(3);
    let pids: Vec<i32> = said.out.lines().map(|pid| pid.parse().unwrap()).collect();
    assert!(pids.len() == 3 && pids.iter().all(|pid| is_gone(Pid::from_raw(*pid))), "{said:?}");
}

fn descriptors() {
    let stage = Stage::new();
    let list = "exec 3< /dev/null 7> /dev/null; ls -1 /proc/self/fd";
    let plain = stage.run("a", &["bash", "-c", list]);
    let script = "exec 3< /dev/null 7> /dev/null; styxy run -q --remap -- ls -1 /proc/self/fd";
    stage.run("a", &["bash", "-c", script]).code(0).out(&plain.out);
}

fn lost() {
    let stage = Stage::new();
    let command = [
        "styxy",
        "run",
        "--remap",
        "--",
        "sh",
        "-c",
        "echo $$; echo $PPID; sleep 1000 > /dev/null 2>&1 & wait",
    ];
    let mut front = stage.start("a", &command);
    let pids = [front.line(), front.line()].map(|pid| Pid::from_raw(pid.parse().unwrap()));
    kill(pids[1], Signal::SIGKILL).unwrap();
    let said = front.end();
    said.code(125).says("the supervisor of the command has ended");
    assert!(is_gone(pids[0]));
    stage.has_leases(0);
}

fn without_front() {
    let stage = Stage::new();
    let command =
        ["styxy", "run", "--remap", "--", "sh", "-c", "echo $$; echo $PPID; exec sleep 1000"];
    let mut front = stage.start("a", &command);
    let pids = [front.line(), front.line()].map(|pid| Pid::from_raw(pid.parse().unwrap()));
    front.signal(Signal::SIGKILL);
    until("both end", || pids.iter().all(|pid| is_gone(*pid)));
}

fn nested() {
    let stage = Stage::new();
    let inner = |project: &str| {
        format!("cd ../{project} && styxy run --remap -- sh -c 'echo inner; exit 5'")
    };
    stage.remap("a", &["--remap"], &["sh", "-c", &inner("a")]).code(5).out("inner\n");
    let said = stage.remap("a", &["--remap"], &["sh", "-c", &inner("b")]);
    said.code(1).out("").says("this shell has the localhost of ~/a already");
    // The variable alone is nothing.
    let mut command = stage.command("a", &["styxy", "run", "--remap", "--", "echo", "mapped"]);
    let said = Said::from(command.env("STYXY_REMAP", "/elsewhere").output().unwrap());
    said.code(0).out("mapped\n");
}

fn supervised() {
    let stage = Stage::new();
    let command = [target(), "supervised", "styxy", "run", "--remap", "--", "true"];
    stage.run("a", &command).code(1).says("has a seccomp filter with a supervisor already");
}

fn hidden() {
    let stage = Stage::new();
    let said = stage.remap("a", &["--remap"], &[target(), "hidden", "4411"]);
    said.code(0).out("4411 16\n").says("cannot be looked at, so its ports are what they seem");
    assert_eq!(said.err.lines().count(), 1, "{said:?}");
}

fn rings() {
    let stage = Stage::new();
    let ring = |options: &[&str]| stage.remap("a", options, &[target(), "ring"]);
    ring(&["--remap"]).out("io_uring_setup: ENOSYS\n");
    ring(&["--remap", "--io-uring"]).out("io_uring_setup: EFAULT\n");
}

fn names() {
    let stage = Stage::new();
    let bound = |options: &[&str]| stage.remap("a", options, &[target(), "bound", "4421", "reuse"]);
    let said = bound(&["--remap"]);
    stage.is_real(&said.code(0).out);
    bound(&["--remap", "--sockname=asked"]).code(0).out("4421 16\n");
}

fn datagrams() {
    let stage = Stage::new();
    let mut expected =
        "bind: ok\nsendto 5\nreceived 5 hello\nsendmsg 5\nreceived 5 hello\n".to_owned();
    expected.push_str("sendmmsg 1 5\nreceived 5 hello\n");
    let said = stage.remap("a", &["--map", "5353/udp:test"], &[target(), "datagram"]);
    said.code(0).out(&expected).says("UDP port 5353 is really 92");
}

fn reach() {
    let stage = Stage::new();
    let _server = TcpListener::bind("127.0.0.1:5432").unwrap();
    let reach = |options: &[&str]| stage.remap("a", options, &[target(), "reach", "5432"]);
    let said = reach(&["--remap"]);
    said.code(0).out("reach: ECONNREFUSED\n");
    said.says("port 5432 of this machine is not reached from here: add --reach 5432");
    reach(&["--remap", "--reach", "1,5432"]).code(0).out("reach: ok\n");
    stage.write("home/a/styxy.json", r#"{"remap": {"reach": [5432]}}"#);
    reach(&["--remap"]).code(0).out("reach: ok\n");
    stage.write("home/a/styxy.json", r#"{"remap": {"reach": [99999]}}"#);
    reach(&["--remap"]).code(2).says("styxy.json");
    fs::remove_file(stage.path("home/a/styxy.json")).unwrap();
    // Nobody listens: nothing is said.
    let said = stage.remap("a", &["--remap"], &[target(), "reach", "5431"]);
    said.code(0).out("reach: ECONNREFUSED\n");
    assert_eq!(said.err, "");
}

fn privileged() {
    let stage = Stage::new();
    stage.run("a", &[target(), "bound", "80"]).code(1).out("bind: EACCES\n");
    stage.remap("a", &["--remap"], &[target(), "bound", "80"]).code(0).says("80 is really ");
}

fn by_number() {
    let stage = Stage::new();
    let script = format!("{0} bound 4431; {0} bound 4432", target());
    let said = stage.remap("a", &["--map", "4431:api"], &["sh", "-c", &script]);
    said.code(0).says("4431 is really 80");
    let mut lines = said.out.lines();
    assert!(lines.next().unwrap().starts_with("80"), "{said:?}");
    assert_eq!(lines.next(), Some("4432 16"));
    stage
        .remap("a", &["--map", "1:dev", "--map", "1:api"], &["true"])
        .code(2)
        .says("--map names port 1 twice");
    stage.remap("a", &["--map", "4431"], &["true"]).code(2).says("write PORT:TYPE");
    stage.remap("a", &["--reach", "1"], &["true"]).code(2);
    stage.remap("a", &["--remap", "--port", "3000"], &["true"]).code(2);
    stage.remap("a", &["--map", "4431:ai"], &["true"]).code(1).says("ai");
}

fn root() {
    if !geteuid().is_root() {
        eprintln!("SKIPPED: this is not root");
        return;
    }
    let stage = Stage::new();
    let as_root = |options: &[&str]| {
        let words = [&["styxy", "run"], options, &["--", "true"]].concat();
        let mut command = stage.command("a", &words);
        let home = stage.path("root");
        fs::create_dir_all(&home).unwrap();
        Said::from(command.uid(0).gid(0).env("HOME", home).output().unwrap())
    };
    as_root(&["--remap"]).code(1).says("--allow-root");
    as_root(&["--remap", "--allow-root"]).code(0);
    let status = stage.command("a", &["styxy", "status", "--json"]);
    let mut status = status;
    let said = Said::from(status.uid(0).gid(0).env("HOME", stage.path("root")).output().unwrap());
    let status: Json = serde_json::from_str(&said.out).unwrap();
    kill(Pid::from_raw(i32::try_from(status["pid"].as_i64().unwrap()).unwrap()), Signal::SIGTERM)
        .unwrap();
}

fn others() {
    let stage = Stage::new();
    for name in ["sudo", "su", "doas", "pkexec", "podman"] {
        stage.write(name, "#!/bin/sh\nexit 0\n");
        fs::set_permissions(stage.path(name), Permissions::from_mode(0o755)).unwrap();
        stage.remap("a", &["--remap"], &[name, "id"]).code(1).says("no_new_privs");
    }
}
