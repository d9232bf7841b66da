//! Real servers, started by `styxy run` and `styxy exec`: they serve on the port that they were given, and however they
//! end, so does their lease. `table` has those that do not read `PORT`, and `tools` what
//! starts them from a file of its own.
//!
//! All of it happens in namespaces of its own, as in tests/programs.rs. `fetch` brings what no distribution has, before.
//! What is not installed, or cannot be fetched, is ignored with a word on stderr.

#[path = "../support/mod.rs"]
mod support;
mod table;
mod tools;

use std::{
    env,
    fs::{self, File},
    io::{Read, Write},
    net::TcpStream,
    os::unix::{fs::symlink, process::CommandExt},
    path::PathBuf,
    process::{Child, Command, ExitCode, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use libtest_mimic::{Arguments, Trial};
use nix::{
    sys::signal::{Signal, kill, killpg},
    unistd::Pid,
};
use serde_json::Value as Json;
use support::{
    Home,
    fetched::{NODE, PYTHON, fetch, folder as servers, is_there},
    namespaces::{self, find},
};

/// What makes this program serve on the socket that it was handed.
const SERVE: &str = "serve-on-handed-socket";

/// Generous: a busy computer starts node slowly.
const LIMIT: Duration = Duration::from_secs(60);

/// A trial that is made of a table: its name, what of its needs is missing, and what it does.
type Ready = (String, Vec<String>, Box<dyn FnOnce() + Send>);

/// A trial: its name, the commands that it needs, and what it does.
type Case = (&'static str, &'static [&'static str], fn());

const CASES: &[Case] = &[
    ("vite_serves_on_the_port_that_its_script_names", &["node", "npm", NODE], || {
        serves(&["run"], &["npm", "run", "dev"]);
    }),
    ("express_serves_on_its_lease", &["node", NODE], || {
        serves(&["run"], &["node", "express.cjs"]);
    }),
    ("python_serves_on_its_lease", &["python3"], || {
        serves(&["run"], &["python3", "-m", "http.server", "{port}"]);
    }),
    ("go_serves_on_its_lease", &["go"], || serves(&["run"], &["go", "run", "server.go", "{port}"])),
    ("php_serves_on_its_lease", &["php"], || {
        serves(&["run"], &["php", "-S", "localhost:{port}"]);
    }),
    ("gunicorn_serves_on_its_lease_by_itself", &["python3", PYTHON], || {
        serves(&["run", "--plain"], &["gunicorn", "--no-control-socket", "app:wsgi"]);
    }),
    ("node_serves_on_a_handed_socket", &["node"], || serves(&["exec"], &["node", "handed.cjs"])),
    ("uvicorn_serves_on_a_handed_socket", &["python3", PYTHON], || {
        serves(&["exec"], &["uvicorn", "--fd", "3", "app:asgi"]);
    }),
    ("gunicorn_serves_on_a_handed_socket", &["python3", PYTHON], || {
        serves(&["exec"], &["gunicorn", "--no-control-socket", "app:wsgi"]);
    }),
    ("a_rust_program_serves_on_a_handed_socket", &[], || {
        let this = env::current_exe().unwrap();
        serves(&["exec"], &[this.to_str().unwrap(), SERVE]);
    }),
    (
        "exec_hands_over_what_systemd_hands_over",
        &["python3", "systemd-socket-activate"],
        as_systemd,
    ),
    (
        "a_server_in_the_background_has_its_lease_as_long_as_it_listens",
        &["python3"],
        in_the_background,
    ),
    ("a_server_that_ignores_its_port_is_told_of", &["python3"], ignores_its_port),
    ("ctrl_c_reaches_the_command_and_ends_its_lease", &["python3", "script"], ctrl_c),
    ("a_command_ends_as_it_would_without_styxy_and_so_does_its_lease", &["bash"], ends),
    ("a_command_has_the_signals_and_descriptors_that_it_would_have", &["bash"], inherits),
];

fn main() -> ExitCode {
    if env::args().nth(1).as_deref() == Some(SERVE) {
        serve();
    }
    let arguments = Arguments::from_args();
    if !namespaces::is_inside() {
        if !arguments.list {
            fetch();
        }
        namespaces::enter();
    }
    let cases = CASES.iter().map(|(name, needs, test)| {
        let missing = needs.iter().filter(|needed| !is_there(needed));
        let test: Box<dyn FnOnce() + Send> = Box::new(test);
        ((*name).to_owned(), missing.map(|needed| (*needed).to_owned()).collect(), test)
    });
    let trials =
        cases.chain(table::trials()).chain(tools::trials()).map(|(name, missing, test)| {
            if !missing.is_empty() {
                eprintln!("SKIPPED: {name}: {missing:?} is missing");
            }
            let trial = Trial::test(name, move || {
                test();
                Ok(())
            });
            trial.with_ignored_flag(!missing.is_empty() || !namespaces::is_inside())
        });
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit_code()
}

/// A file beside this one.
fn source(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/servers").join(name)
}

// ---- serving -------------------------------------------------------------------------------------

/// The command serves on the port of its lease until it is ended, and the lease ends with it.
fn serves(verb: &[&str], command: &[&str]) {
    let stage = Stage::new();
    let mut server = stage.start(&[verb, &["mine", "--"], command].concat());
    let lease = stage.lease();
    let port = lease["port"].as_u64().unwrap();
    server.until("it answers", || answers(port));
    assert_eq!(lease["pid"], server.0.id());
    assert_eq!(stage.lease()["state"], "listening");
    killpg(server.pid(), Signal::SIGTERM).unwrap();
    server.0.wait().unwrap();
    stage.has_leases(0);
}

fn answers(port: u64) -> bool {
    let connect = |address| TcpStream::connect((address, u16::try_from(port).unwrap()));
    let Ok(mut stream) = connect("127.0.0.1").or_else(|_| connect("::1")) else { return false };
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let mut answer = String::new();
    let asked = stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    let is_read = asked.and_then(|()| stream.read_to_string(&mut answer)).is_ok();
    is_read && ["HTTP/1.0 200", "HTTP/1.1 200"].iter().any(|start| answer.starts_with(start))
}

/// What `SERVE` does.
fn serve() -> ! {
    let listener = listenfd::ListenFd::from_env().take_tcp_listener(0).unwrap();
    let listener = listener.expect("a socket was handed over");
    loop {
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.read(&mut [0; 1024]);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello\n");
    }
}

fn in_the_background() {
    let stage = Stage::new();
    let mut server = stage.start(&["run", "mine", "--", "python3", "daemon.py"]);
    assert!(server.0.wait().unwrap().success(), "{}", stage.said());
    let lease = stage.lease();
    assert_eq!(lease["state"], "orphaned", "{lease}");
    let port = lease["port"].as_u64().unwrap();
    assert!(answers(port));
    let file = stage.home.path("server/pid");
    stage.home.until(|| fs::read_to_string(&file).is_ok_and(|pid| !pid.is_empty()));
    let pid = fs::read_to_string(&file).unwrap().parse().unwrap();
    kill(Pid::from_raw(pid), Signal::SIGTERM).unwrap();
    stage.has_leases(0);
}

fn ignores_its_port() {
    let stage = Stage::new();
    let (other, home) = (stage.home.port(7), &stage.home);
    // As `npm run` does it, with a shell in between.
    let line = format!("python3 -m http.server {other} & wait");
    let mut server = stage.start(&["run", "mine", "--name", "web", "--", "sh", "-c", &line]);
    server.until("it answers", || answers(other.into()));
    let lease = stage.lease();
    assert_eq!(lease["state"], "reserved");
    let port = lease["port"].to_string();
    let check = String::from_utf8(home.run(&["check", &port]).stdout).unwrap();
    let told = format!("its owner listens on TCP port {other} instead");
    assert!(check.contains(&told) && check.contains("{port}"), "{check}");
    let check: Json =
        serde_json::from_slice(&home.run(&["check", &port, "--json"]).stdout).unwrap();
    assert_eq!(check["elsewhere"][0]["port"], other, "{check}");
    let check = String::from_utf8(home.run(&["check", &other.to_string()]).stdout).unwrap();
    assert!(check.contains("is in use by python"), "{check}");
    let doctor = String::from_utf8(home.run(&["doctor"]).stdout).unwrap();
    assert!(doctor.contains(&format!("port {port} of mine web: {told}")), "{doctor}");
    killpg(server.pid(), Signal::SIGKILL).unwrap();
    server.0.wait().unwrap();
    stage.has_leases(0);
}

// ---- ending --------------------------------------------------------------------------------------

fn ctrl_c() {
    let stage = Stage::new();
    let styxy = stage.home.styxy().get_program().to_str().unwrap().to_owned();
    let line = format!("exec '{styxy}' run mine -- python3 -u -m http.server {{port}}");
    // This program may have been started where Ctrl-C is ignored.
    let mut command = stage.command("env");
    command
        .args(["--default-signal", "script", "-q", "-e", "-c", &line, "/dev/null"])
        .stdin(Stdio::piped());
    let mut server = Running(command.process_group(0).spawn().unwrap());
    stage.has_leases(1);
    let port = stage.lease()["port"].as_u64().unwrap();
    server.until("it answers", || answers(port));
    server.0.stdin.as_mut().unwrap().write_all(b"\x03").unwrap();
    assert_eq!(server.ended().code(), Some(0), "Python ends well: {}", stage.said());
    assert!(stage.said().contains("Keyboard interrupt received"), "{}", stage.said());
    stage.has_leases(0);
}

fn ends() {
    let stage = Stage::new();
    for script in [
        "exit 0",
        "exit 3",
        "kill -INT $$",
        "kill -TERM $$",
        "kill -HUP $$",
        "kill -KILL $$",
        "kill -SEGV $$",
    ] {
        let code = |line: &str| {
            let mut command = stage.command("bash");
            let styxy = stage.home.styxy().get_program().to_owned();
            let output = command
                .args(["-c", line, "-"])
                .arg(styxy)
                .arg(script)
                .stdout(Stdio::piped())
                .output()
                .unwrap();
            String::from_utf8(output.stdout).unwrap()
        };
        let without = code("bash -c \"$2\"; echo $?");
        assert_eq!(code("\"$1\" run mine --quiet -- bash -c \"$2\"; echo $?"), without, "{script}");
        assert_eq!(
            code("\"$1\" exec mine --quiet -- bash -c \"$2\"; echo $?"),
            without,
            "{script}"
        );
        stage.has_leases(0);
    }
    let mut server = stage.start(&["run", "mine", "--", "sleep", "1000"]);
    stage.has_leases(1);
    kill(server.pid(), Signal::SIGTERM).unwrap();
    assert_eq!(server.0.wait().unwrap().code(), None);
    stage.has_leases(0);
}

/// Signals that are ignored or blocked, and descriptors that are open, are not styxy's doing.
fn inherits() {
    let stage = Stage::new();
    // Without the last signals: glibc's own come and go.
    let script = r"sed -nE 's/^(Sig(Blk|Ign|Cgt)):.*(.{7})$/\1 \3/p' /proc/self/status
        ls /proc/self/fd; umask; ulimit -a; pwd";
    let has = |arguments: &[&str], program: &str| {
        let mut command = stage.command(program);
        command.args(arguments).args(["-c", script]).stdout(Stdio::piped());
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let styxy = stage.home.styxy().get_program().to_str().unwrap().to_owned();
    assert_eq!(has(&["run", "mine", "-q", "--", "bash"], &styxy), has(&[], "bash"));
}

// ---- handing over --------------------------------------------------------------------------------

fn as_systemd() {
    let stage = Stage::new();
    // What this process has open is not of their doing. systemd closes it.
    let open = stage.command("ls").arg("/proc/self/fd").stdout(Stdio::piped()).output().unwrap();
    let mut command = stage.command(stage.home.styxy().get_program().to_str().unwrap());
    command.args(["exec", "mine", "--", "python3", "handed.py"]).stdout(Stdio::piped());
    command.env("INHERITED", String::from_utf8(open.stdout).unwrap());
    let own = command.output().unwrap();
    let port = stage.home.port(2);
    let mut command = stage.command("systemd-socket-activate");
    command.args([
        &format!("--listen=127.0.0.1:{port}"),
        "--fdname=mine",
        "-E",
        "PATH",
        "python3",
        "handed.py",
    ]);
    let mut systemd = Running(command.stdout(Stdio::piped()).spawn().unwrap());
    // It starts the program for the first connection.
    let mut connection = None;
    systemd.until("it listens", || {
        connection = TcpStream::connect(("127.0.0.1", port)).ok();
        connection.is_some()
    });
    let mut its = String::new();
    systemd.0.stdout.take().unwrap().read_to_string(&mut its).unwrap();
    systemd.0.wait().unwrap();
    let its: Json = serde_json::from_str(&its).unwrap_or_else(|_| panic!("{its}{}", stage.said()));
    let own: Json = serde_json::from_slice(&own.stdout).unwrap_or_else(|_| panic!("{own:?}"));
    assert_eq!(own, its);
}

// ---- a home, and a command in it -----------------------------------------------------------------

struct Stage {
    home: Home,
}

impl Stage {
    fn new() -> Self {
        let stage = Self::empty();
        let server = stage.home.path("server");
        for name in ["app.py", "daemon.py", "express.cjs", "handed.cjs", "handed.py", "index.html"]
        {
            fs::copy(source(name), server.join(name)).unwrap();
        }
        let scripts = r#"{"scripts": {"dev": "vite --port $PORT --strictPort"}}"#;
        fs::write(server.join("package.json"), scripts).unwrap();
        fs::copy(source("../programs/server.go"), server.join("server.go")).unwrap();
        stage
    }

    /// A folder with npm's packages and nothing else.
    fn empty() -> Self {
        let home = Home::with_type();
        let server = home.path("server");
        fs::create_dir(&server).unwrap();
        symlink(servers().join("node/node_modules"), server.join("node_modules")).unwrap();
        home.ok(&["list"]);
        Self { home }
    }

    /// A command in the folder of the servers, with what they need around them.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let styxy = self.home.styxy();
        command.envs(styxy.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let postgres = find("postgres").and_then(|path| Some(path.parent()?.to_owned()));
        let own = env::var_os("PATH").unwrap_or_default();
        let path = [servers().join("python/bin")]
            .into_iter()
            .chain(env::split_paths(&own))
            .chain(postgres)
            .chain(["/usr/sbin".into()]);
        command.env("PATH", env::join_paths(path).unwrap()).env("SHELL", "/bin/sh");
        command
            .env("GOCACHE", servers().join("go"))
            .env("GOFLAGS", "-mod=mod")
            .env("LC_ALL", "C.UTF-8");
        let output =
            File::options().create(true).append(true).open(self.home.path("output")).unwrap();
        command.current_dir(self.home.path("server")).stdin(Stdio::null());
        command.stdout(output.try_clone().unwrap()).stderr(output);
        command
    }

    /// Starts the verb in a process group of its own.
    fn start(&self, arguments: &[&str]) -> Running {
        let mut command = self.command(self.home.styxy().get_program().to_str().unwrap());
        Running(command.args(arguments).process_group(0).spawn().unwrap())
    }

    fn said(&self) -> String {
        fs::read_to_string(self.home.path("output")).unwrap_or_default()
    }

    fn leases(&self) -> Vec<Json> {
        self.home.leases()
    }

    /// The one lease, as soon as it is there.
    fn lease(&self) -> Json {
        self.has_leases(1);
        self.leases().remove(0)
    }

    /// Waits until there are that many. It asks by a command each time, and servers need the processors, too.
    #[track_caller]
    fn has_leases(&self, count: usize) {
        let start = Instant::now();
        while self.leases().len() != count {
            assert!(start.elapsed() < LIMIT, "{:?}: {}", self.leases(), self.said());
            thread::sleep(Duration::from_millis(200));
        }
    }
}

/// A command and all that it has started; they end with the value.
struct Running(Child);

impl Running {
    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.0.id()).unwrap())
    }

    #[track_caller]
    fn ended(&mut self) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status;
            }
            assert!(start.elapsed() < LIMIT, "it goes on");
            thread::sleep(Duration::from_millis(50));
        }
    }

    #[track_caller]
    fn until(&mut self, what: &str, is_so: impl FnMut() -> bool) {
        self.until_or(what, String::new, is_so);
    }

    /// Waits until it is so, or fails with these words, too.
    #[track_caller]
    fn until_or(&mut self, what: &str, said: impl Fn() -> String, mut is_so: impl FnMut() -> bool) {
        let start = Instant::now();
        while !is_so() {
            let ended = self.0.try_wait().unwrap();
            assert_eq!(ended, None, "ended before {what}: {}", said());
            assert!(start.elapsed() < LIMIT, "not within {LIMIT:?}: {what}: {}", said());
            thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.0.try_wait().is_ok_and(|ended| ended.is_none()) {
            let _ = killpg(self.pid(), Signal::SIGKILL);
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
}
