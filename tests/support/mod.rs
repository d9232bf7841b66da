//! A service of its own for each test: started by hand, in folders of its own, without a session bus.
//!
//! Or the one that systemd runs for this user, in a machine that is thrown away afterwards: where [`SESSION`] is set, the
//! home of each test is the user's, one test after the other.

#![allow(dead_code, reason = "each test program uses a part of it")]

pub mod bus;
pub mod dice;
pub mod fetched;
pub mod journal;
#[cfg(feature = "mcp")]
pub mod mcp;
pub mod namespaces;
pub mod recipes;
#[cfg(target_arch = "x86_64")]
pub mod within;

use std::{
    collections::HashMap,
    env,
    fs::{self, OpenOptions},
    io::{BufRead, BufReader, Read, Seek, Write},
    ops::Range,
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU16, Ordering},
    },
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value as Json;
use styxy::{
    kernel::diag::Seen,
    port::{Port, PortRange, Protocol},
    surroundings::machine,
};
use tempfile::TempDir;

/// Names the installed command. Whatever is in the user's home is deleted.
const SESSION: &str = "STYXY_TEST_SESSION";

/// Folders of a user, and the services that were started in them.
pub struct Home {
    folder: Folder,
    services: Mutex<Vec<Pid>>,
    secrets: Mutex<Vec<String>>,
    first: u16,
}

/// An answer over HTTP.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Json,
}

enum Folder {
    Own(TempDir),
    /// The user's, and the turn to have it.
    Users(PathBuf, MutexGuard<'static, ()>),
}

impl Home {
    /// A home in which nothing is.
    pub fn new() -> Self {
        Self::with_ports(10)
    }

    /// A home in which nothing is, and so many ports in a row that are free on this machine.
    pub fn with_ports(count: u16) -> Self {
        let home = Self {
            folder: if is_session() { users() } else { Folder::Own(tempfile::tempdir().unwrap()) },
            services: Mutex::default(),
            secrets: Mutex::default(),
            first: free_ports(count),
        };
        if !is_session() {
            fs::create_dir_all(home.path("runtime")).unwrap();
        }
        home
    }

    /// A home with a service type `mine` of ten ports that are free on this machine and no other
    /// test's.
    pub fn with_type() -> Self {
        let home = Self::new();
        home.configure(&format!(
            r#"{{"service_types": {{"mine": {{"port_range": [{}, {}]}}}}}}"#,
            home.port(0),
            home.port(9)
        ));
        home
    }

    /// A home whose automatic ranges lie where no other test's do: two services that make one at once find the
    /// same place, and the second finds ports of it in use and makes another.
    pub fn with_growth() -> Self {
        let home = Self::with_ports(100);
        home.configure(&format!(
            r#"{{"auto_allocation": {{"min_port": {}, "max_port": {}}}}}"#,
            home.port(0),
            home.port(99)
        ));
        home
    }

    /// The same as [`Home::with_type`], and the type runs once.
    pub fn with_single() -> Self {
        let home = Self::new();
        home.configure(&format!(
            r#"{{"service_types": {{"mine":
                {{"port_range": [{}, {}], "instance_behavior": "single"}}}}}}"#,
            home.port(0),
            home.port(9)
        ));
        home
    }

    /// Sees to it that no service can listen in this home.
    pub fn close_doors(&self) {
        fs::write(self.path("runtime/styxy"), "not a folder").unwrap();
        fs::create_dir_all(self.state().join("http.sock")).unwrap();
    }

    /// Lets services listen again.
    pub fn open_doors(&self) {
        fs::remove_file(self.path("runtime/styxy")).unwrap();
        fs::remove_dir(self.state().join("http.sock")).unwrap();
    }

    /// Waits until it is so.
    pub fn until(&self, is_so: impl Fn() -> bool) {
        let patience = std::time::Instant::now() + std::time::Duration::from_secs(30);
        while !is_so() {
            assert!(std::time::Instant::now() < patience, "it never was so");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }

    /// One of its ports, which are ten as a rule.
    pub fn port(&self, index: u16) -> u16 {
        self.first + index
    }

    /// A path in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder().join(name)
    }

    fn folder(&self) -> &Path {
        match &self.folder {
            Folder::Own(folder) => folder.path(),
            Folder::Users(folder, _) => folder,
        }
    }

    /// Has this token looked for in all files of the home, at the end of the test.
    pub fn keeps_secret(&self, token: &str) {
        self.secrets.lock().unwrap().push(token.to_owned());
    }

    /// The files that a token is in, beside its own.
    fn leaks(&self) -> Vec<PathBuf> {
        let own = self.path(".styxy/auth.token");
        let mut tokens = self.secrets.lock().unwrap().clone();
        tokens.extend(fs::read_to_string(&own).map(|token| token.trim().to_owned()));
        tokens.retain(|token| !token.is_empty());
        if tokens.is_empty() {
            return Vec::new();
        }
        let has_one = |path: &PathBuf| {
            let content = fs::read(path).unwrap_or_default();
            tokens.iter().any(|token| memchr::memmem::find(&content, token.as_bytes()).is_some())
        };
        let mut files = files_in(self.folder());
        files.retain(|path| *path != own && has_one(path));
        files
    }

    /// A package of the project that the home is; its folder.
    pub fn package(&self, name: &str) -> String {
        fs::create_dir_all(self.path(name)).unwrap();
        fs::create_dir_all(self.path(".git")).unwrap();
        fs::write(self.path(name).join("package.json"), "{}").unwrap();
        self.path(name).display().to_string()
    }

    /// Where the user's configuration is.
    pub fn config(&self) -> PathBuf {
        self.path(if is_session() { ".config/styxy" } else { "config/styxy" })
    }

    /// The folder of this machine's registry.
    pub fn state(&self) -> PathBuf {
        self.states().join(machine::key())
    }

    /// The state folder.
    pub fn states(&self) -> PathBuf {
        let [state, config] = self.all_states();
        machine::state_folder(&state, &config)
    }

    /// Where the state folder would be under another systemd: it moved with version 254.
    pub fn other_states(&self) -> PathBuf {
        let own = self.states();
        self.all_states().into_iter().find(|folder| *folder != own).unwrap()
    }

    fn all_states(&self) -> [PathBuf; 2] {
        ["state/styxy/state", "config/styxy/state"].map(|path| self.path(path))
    }

    pub fn socket(&self) -> PathBuf {
        let runtime = env::var_os("XDG_RUNTIME_DIR").filter(|_| is_session());
        runtime.map_or_else(|| self.path("runtime"), PathBuf::from).join("styxy/http.sock")
    }

    /// Writes the user's configuration.
    pub fn configure(&self, json: &str) {
        fs::create_dir_all(self.config()).unwrap();
        fs::write(self.config().join("config.json"), json).unwrap();
    }

    /// The command, in this home.
    pub fn styxy(&self) -> Command {
        let session = env::var_os(SESSION);
        let mut command =
            Command::new(session.as_deref().unwrap_or(env!("CARGO_BIN_EXE_styxy").as_ref()));
        command
            .env_clear()
            .env("HOME", self.folder())
            .current_dir(self.folder())
            .stdin(Stdio::null());
        if session.is_some() {
            let users = ["XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS"];
            command.envs(users.map(|name| (name, env::var_os(name).unwrap())));
            return command;
        }
        command
            .env("XDG_RUNTIME_DIR", self.path("runtime"))
            .env("XDG_STATE_HOME", self.path("state"))
            .env("XDG_CONFIG_HOME", self.path("config"))
            .env("DBUS_SESSION_BUS_ADDRESS", "unix:path=/nonexistent");
        command
    }

    /// Runs the command with these arguments.
    pub fn run(&self, arguments: &[&str]) -> Output {
        let output = self.styxy().args(arguments).output().unwrap();
        self.adopt();
        output
    }

    /// The live leases, as `styxy list` has them.
    pub fn leases(&self) -> Vec<Json> {
        self.list("leases", &["list"])
    }

    /// What a verb lists, under that key.
    #[track_caller]
    pub fn list(&self, things: &str, arguments: &[&str]) -> Vec<Json> {
        listed(things, self.ok(&[arguments, &["--json"]].concat()))
    }

    /// Runs a command that must succeed; what it printed.
    #[track_caller]
    pub fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {stderr}");
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    /// Starts a service and waits until it listens.
    pub fn service(&self) -> Child {
        started(self.styxy())
    }

    /// Starts a service whose stderr goes to the file `log`, and waits until it listens.
    pub fn service_with_log(&self) -> Child {
        let log = OpenOptions::new().create(true).append(true).open(self.path("log")).unwrap();
        let mut command = self.styxy();
        command.stderr(log);
        listening(command, || "see its log".to_owned())
    }

    /// Remembers the private service that a command started, to end it with the test.
    fn adopt(&self) {
        if !is_session()
            && let Ok(stream) = UnixStream::connect(self.socket())
            // One that was killed a moment ago may still take a connection.
            && let Some(answer) = try_exchange(stream, "GET", "/status", "")
            && let Some(pid) = answer.body["pid"].as_i64()
        {
            let pid = Pid::from_raw(i32::try_from(pid).unwrap());
            let mut services = self.services.lock().unwrap();
            if !services.contains(&pid) {
                services.push(pid);
            }
        }
    }

    /// A request on the socket.
    #[track_caller]
    pub fn http(&self, method: &str, path: &str, body: &str) -> Answer {
        exchange(UnixStream::connect(self.socket()).unwrap(), method, path, body)
    }

    /// What `GET /metrics` gives whoever accepts that: the media type, and the text.
    #[track_caller]
    pub fn scrape(&self, accept: &str) -> (String, String) {
        let mut stream = UnixStream::connect(self.socket()).unwrap();
        let head = format!("Host: localhost\r\nAccept: {accept}\r\nConnection: close");
        write!(stream, "GET /metrics HTTP/1.1\r\n{head}\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 "), "{answer}");
        let media = head.lines().find_map(|line| line.strip_prefix("content-type: ")).unwrap();
        (media.to_owned(), body.to_owned())
    }

    /// A request on the socket of a service that may end before it answers.
    pub fn try_http(&self, method: &str, path: &str, body: &str) -> Option<Answer> {
        try_exchange(UnixStream::connect(self.socket()).ok()?, method, path, body)
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.adopt();
        }
        for pid in std::mem::take(self.services.get_mut().unwrap()) {
            if is_ours(pid, self.folder()) {
                let _ = kill(pid, Signal::SIGKILL);
            }
        }
        if !std::thread::panicking() {
            assert_eq!(self.leaks(), <[PathBuf; 0]>::default(), "a token is in another file");
        }
    }
}

/// All files in a folder and the folders in it.
fn files_in(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    let files = entries.flat_map(|entry| match entry.file_type() {
        Ok(kind) if kind.is_dir() => files_in(&entry.path()),
        Ok(kind) if kind.is_file() => vec![entry.path()],
        _ => Vec::new(),
    });
    files.collect()
}

/// Whether the service is the one that systemd runs for this user.
pub fn is_session() -> bool {
    env::var_os(SESSION).is_some()
}

/// The user's home, in which nothing is.
fn users() -> Folder {
    static TURN: Mutex<()> = Mutex::new(());
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    // Everybody else's home is not for tests.
    assert_eq!(fs::read_to_string("/run/systemd/container").unwrap().trim(), "systemd-nspawn");
    let stop = ["--user", "--quiet", "stop", "styxy.service"];
    let stop = || Command::new("systemctl").args(stop).stderr(Stdio::null()).status().unwrap();
    // A command of the test before, which is ending, may have it started once more: that calls the stop off.
    let stopped = (0..20).any(|_| {
        let is_stopped = stop().success();
        if !is_stopped {
            std::thread::sleep(std::time::Duration::from_millis(500));
        }
        is_stopped
    });
    assert!(stopped);
    let folder = PathBuf::from(env::var_os("HOME").unwrap());
    for entry in fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.is_symlink() {
            fs::remove_dir_all(path).unwrap();
        } else {
            fs::remove_file(path).unwrap();
        }
    }
    Folder::Users(folder, turn)
}

/// Whether the process is the command, in that home.
fn is_ours(pid: Pid, home: &Path) -> bool {
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    let home = format!("HOME={}", home.display());
    environment.split(|byte| *byte == 0).any(|variable| variable == home.as_bytes())
}

fn exchange(stream: UnixStream, method: &str, path: &str, body: &str) -> Answer {
    try_exchange(stream, method, path, body).expect("an answer")
}

/// `None` if the other end closes without an answer.
fn try_exchange(stream: UnixStream, method: &str, path: &str, body: &str) -> Option<Answer> {
    exchange_with(stream, "", method, path, body)
}

/// The same with further headers, of which one may be `Host`.
pub fn exchange_with(
    mut stream: impl Read + Write,
    headers: &str,
    method: &str,
    path: &str,
    body: &str,
) -> Option<Answer> {
    let length = body.len();
    let host = if headers.contains("Host: ") { "" } else { "Host: localhost\r\n" };
    // A refusal may come before the whole body is sent.
    let _ = write!(
        stream,
        "{method} {path} HTTP/1.1\r\n{host}{headers}Connection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    let mut text = Vec::new();
    let _ = stream.read_to_end(&mut text);
    let text = String::from_utf8_lossy(&text);
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let body = serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {body:?}"));
    Some(Answer { status, head: head.to_owned(), body })
}

/// Copies a program that is to be run. Another process does it: a file that is open for writing, also in a child that another
/// test starts at that moment, cannot be run (`ETXTBSY`, execve(2)).
pub fn copy_program(from: impl AsRef<Path>, to: impl AsRef<Path>) {
    let status = Command::new("cp").arg(from.as_ref()).arg(to.as_ref()).status();
    assert!(status.unwrap().success());
}

/// What a command that succeeded has printed.
#[track_caller]
pub fn out(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
}

/// What is listed under that key of an answer, which has no other.
#[track_caller]
pub fn listed(things: &str, answer: impl AsRef<[u8]>) -> Vec<Json> {
    let mut answer: HashMap<String, Vec<Json>> = serde_json::from_slice(answer.as_ref()).unwrap();
    let list = answer.remove(things);
    assert!(answer.is_empty(), "{answer:?}");
    list.unwrap_or_else(|| panic!("no {things}"))
}

/// What a command has said on standard error.
pub fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Starts a service by that command, and waits until it listens.
pub fn started(mut command: Command) -> Child {
    let mut said = tempfile::tempfile().unwrap();
    command.stderr(said.try_clone().unwrap());
    listening(command, || {
        let mut words = String::new();
        let _ = said.rewind().and_then(|()| said.read_to_string(&mut words));
        words
    })
}

/// Waits until it listens; else says what it has said.
fn listening(mut command: Command, said: impl FnOnce() -> String) -> Child {
    let mut service = command.arg("daemon").stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(service.stdout.take().unwrap()).read_line(&mut line).unwrap();
    if !line.contains("listening on") {
        let ended = service.try_wait();
        panic!("it does not listen: {line:?}, {ended:?}, {}", said());
    }
    service
}

/// Ends a service with that signal, and waits for it.
pub fn end(mut service: Child, signal: Signal) {
    kill(Pid::from_raw(i32::try_from(service.id()).unwrap()), signal).unwrap();
    service.wait().unwrap();
}

/// The first of this many ports that nothing on this machine uses, and no other test. They lie below those
/// that the kernel gives away by itself. Where the search begins depends on the process, so that two test
/// programs seldom meet; if they do, one of them goes on.
fn free_ports(count: u16) -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = u16::try_from(std::process::id() % 1_000).unwrap() * 10;
    loop {
        let offset = start.wrapping_add(NEXT.fetch_add(count, Ordering::Relaxed));
        let first = 12_000 + offset % 20_000;
        let ports = first..first + count;
        if is_nobody_elses(&ports) && is_free(&ports) {
            return first;
        }
    }
}

/// Whether the kernel knows nobody who has one of the ports in any way.
fn is_free(ports: &Range<u16>) -> bool {
    let port = |number: u16| Port::new(number.into()).unwrap();
    let range = PortRange::new(port(ports.start), port(ports.end - 1)).unwrap();
    let seen = Seen::of(Protocol::Both, range).unwrap();
    range.ports().all(|port| seen.obstacle(port).is_none())
}

/// Takes ports for the rest of this program's life, by names that only one program at a time can have.
/// Services of other homes keep off ports that have a guard.
fn is_nobody_elses(ports: &Range<u16>) -> bool {
    let tens = ports.start / 10..=(ports.end - 1) / 10;
    let taken: Result<Vec<_>, _> = tens
        .map(|ten| {
            let name = SocketAddr::from_abstract_name(format!("styxy-test-ports-{ten}"))?;
            UnixListener::bind_addr(&name)
        })
        .collect();
    taken.map(std::mem::forget).is_ok()
}
