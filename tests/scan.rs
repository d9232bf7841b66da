//! Who listens, as `scan` and `check` tell it.

mod support;

use std::{
    collections::HashMap,
    fs,
    io::{BufRead, BufReader},
    net::{TcpListener, UdpSocket},
    os::{
        fd::OwnedFd,
        unix::{fs::PermissionsExt, process::CommandExt},
    },
    process::{Child, Command, Output, Stdio},
};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::{Value as Json, json};
use support::{Home, listed};

impl Home {
    fn scan(&self, arguments: &[&str]) -> Vec<Json> {
        self.list("listeners", &[&["scan"], arguments].concat())
    }

    fn listen(&self, index: u16) -> TcpListener {
        TcpListener::bind(("127.0.0.1", self.port(index))).unwrap()
    }
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// What this process is in a table and in a sentence.
fn own_pid() -> String {
    std::process::id().to_string()
}

fn own_folder() -> String {
    std::env::current_dir().unwrap().to_str().unwrap().to_owned()
}

#[test]
fn scan_shows_the_program_and_the_lease_of_each_listener() {
    let home = Home::with_type();
    let port = home.port(3).to_string();
    let lease = home.ok(&["allocate", "mine", "--name", "web", "--port", &port, "--json"]);
    let lease: Json = serde_json::from_str(&lease).unwrap();
    assert_eq!(lease["port"], home.port(3));
    let _listeners = (home.listen(3), home.listen(4));
    let range = format!("{}-{}", home.port(0), home.port(9));
    let table = home.ok(&["scan", &range]);
    let rows: Vec<_> = table.lines().collect();
    assert_eq!(rows.len(), 3, "{table}");
    for word in [&*format!("{port}/tcp"), "127.0.0.1", &own_pid(), &own_folder(), "mine/web"] {
        assert!(rows[1].contains(word), "{word} is not in {}", rows[1]);
    }
    assert!(rows[2].contains(&format!("{}/tcp", home.port(4))), "{table}");
    assert!(!rows[2].contains("mine"), "{table}");
    let scanned = home.scan(&[&range]);
    assert_eq!(scanned[0]["lease"]["lease_id"], lease["lease_id"]);
    assert_eq!(scanned[0]["lease"]["state"], "listening");
    assert_eq!(scanned[1]["lease"], Json::Null);
    assert_eq!(scanned[1]["pid"], std::process::id());
    assert_eq!(scanned[1]["folder"], own_folder());
    assert_eq!(scanned[1]["uid"], nix::unistd::getuid().as_raw());
    assert!(scanned[1]["command_line"].as_str().unwrap().contains("scan"), "{scanned:?}");
}

#[test]
fn scan_neither_needs_nor_starts_a_service() {
    let home = Home::with_type();
    let _listener = home.listen(2);
    for arguments in [&[][..], &[&*home.port(2).to_string()]] {
        let scanned = home.scan(arguments);
        assert!(scanned.iter().any(|line| line["port"] == home.port(2)), "{scanned:?}");
    }
    assert!(!home.socket().exists());
    assert!(!home.state().exists());
}

#[test]
fn without_a_range_the_ports_of_the_service_types_are_scanned_and_no_others() {
    let home = Home::new();
    home.configure(&format!(
        r#"{{"service_types": {{"low": {{"port_range": [{}, {}]}}, "high": {{"port_range": [{}, {}]}}}}}}"#,
        home.port(0),
        home.port(2),
        home.port(7),
        home.port(9)
    ));
    let _listeners = [1, 5, 8].map(|index| home.listen(index));
    let is_right = || {
        let scanned = home.scan(&[]);
        let has = |index| scanned.iter().any(|line| line["port"] == home.port(index));
        assert_eq!([1, 5, 8].map(has), [true, false, true], "{scanned:?}");
    };
    is_right();
    // The same with a service.
    home.ok(&["list"]);
    assert!(home.socket().exists());
    is_right();
}

#[test]
fn a_scan_of_all_ports_finds_each_of_a_thousand_listeners_once() {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    if soft < 2_000 {
        setrlimit(Resource::RLIMIT_NOFILE, hard.min(4_096), hard).unwrap();
    }
    let home = Home::with_type();
    let listeners: Vec<_> = (0..1_000).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let mut told = HashMap::new();
    for line in home.scan(&["1..65535", "--protocol", "tcp"]) {
        assert_eq!(line["protocol"], "tcp");
        if line["pid"] == std::process::id() && line["addresses"] == json!(["127.0.0.1"]) {
            *told.entry(line["port"].as_u64().unwrap()).or_insert(0) += 1;
        }
    }
    for listener in listeners {
        let port = listener.local_addr().unwrap().port();
        assert_eq!(told.get(&port.into()), Some(&1), "{port}");
    }
}

#[test]
fn tcp_and_udp_are_told_apart_and_scanned_alone_or_together() {
    let home = Home::with_type();
    let _tcp = home.listen(1);
    let _udp = UdpSocket::bind(("127.0.0.1", home.port(1))).unwrap();
    let port = home.port(1).to_string();
    for (protocol, expected) in
        [("tcp", &["tcp"][..]), ("udp", &["udp"]), ("both", &["tcp", "udp"])]
    {
        let scanned = home.scan(&[&port, "--protocol", protocol]);
        let told: Vec<_> = scanned.iter().map(|line| line["protocol"].as_str().unwrap()).collect();
        assert_eq!(told, expected);
    }
}

#[test]
fn the_sockets_of_one_program_on_a_port_are_one_line() {
    let home = Home::with_type();
    let port = home.port(1);
    let _four = home.listen(1);
    let _six = TcpListener::bind(("::1", port)).unwrap();
    let scanned = home.scan(&[&port.to_string()]);
    assert_eq!(scanned.len(), 1, "{scanned:?}");
    assert_eq!(scanned[0]["addresses"], json!(["127.0.0.1", "::1"]));
    assert!(home.ok(&["scan", &port.to_string()]).contains("127.0.0.1, ::1"));
}

#[test]
fn a_scan_that_finds_nothing_says_so() {
    let home = Home::with_type();
    let port = home.port(1).to_string();
    assert_eq!(home.ok(&["scan", &port]), format!("nothing listens on port {port}"));
    let range = format!("{}..{}", home.port(0), home.port(9));
    let words = format!("nothing listens on the ports {}-{} (udp)", home.port(0), home.port(9));
    assert_eq!(home.ok(&["scan", &range, "--protocol", "udp"]), words);
    assert!(home.scan(&[&range]).is_empty());
}

#[test]
fn a_range_that_is_none_is_wrong_usage() {
    let home = Home::new();
    for (range, words) in [("0", "1..65535"), ("http", "1..65535"), ("3010-3000", "3000-3010")] {
        let output = home.run(&["scan", range]);
        assert_eq!(output.status.code(), Some(2), "{range}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(words), "{output:?}");
    }
}

#[test]
fn check_says_which_program_has_the_port() {
    let home = Home::with_type();
    let _listener = home.listen(5);
    let port = home.port(5).to_string();
    let output = home.run(&["check", &port]);
    assert_eq!(output.status.code(), Some(1));
    let words = stdout(&output);
    assert!(words.starts_with(&format!("TCP port {port} is in use by ")), "{words}");
    assert!(words.contains(&format!("(PID {}, ", own_pid())), "{words}");
    assert!(words.contains(&format!(", {}): `", own_folder())), "{words}");
    assert_eq!(words.lines().count(), 1, "{words}");
    let answer: Json =
        serde_json::from_slice(&home.run(&["check", &port, "--json"]).stdout).unwrap();
    assert_eq!(answer["reason"], "in_use");
    assert_eq!(answer["listeners"][0]["pid"], std::process::id());
    assert_eq!(answer["listeners"][0]["addresses"], json!(["127.0.0.1"]));
}

#[test]
fn check_tells_the_lease_and_the_program_that_uses_it() {
    let home = Home::with_type();
    let port = home.port(5).to_string();
    home.ok(&["allocate", "mine", "--port", &port]);
    assert_eq!(stdout(&home.run(&["check", &port])).lines().count(), 1);
    let _listener = home.listen(5);
    let output = stdout(&home.run(&["check", &port]));
    let lines: Vec<_> = output.lines().collect();
    assert!(lines[0].contains("is leased to mine"), "{output}");
    let user = format!("TCP port {port} is listened on by ");
    assert!(lines[1].starts_with(&user) && lines[1].contains(&own_pid()), "{output}");
    let free = home.port(6).to_string();
    let answer: Json = serde_json::from_str(&home.ok(&["check", &free, "--json"])).unwrap();
    assert_eq!((&answer["available"], &answer["listeners"]), (&json!(true), &json!([])));
}

/// A shell that alone has a listener, as its standard output; its stdin keeps it alive.
struct Shell(Child);

impl Shell {
    fn new(listener: TcpListener, script: &str, arguments: &[&str]) -> Self {
        let mut shell = Command::new("sh")
            .args(["-c", &format!("{script}\necho ready >&2; read -r line")])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(OwnedFd::from(listener))
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(shell.stderr.take().unwrap()).read_line(&mut line).unwrap();
        let shell = Self(shell);
        assert_eq!(line, "ready\n");
        shell
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn no_program_reaches_the_terminal_with_an_escape_sequence() {
    let home = Home::with_type();
    let script = r"printf '\033[31mred' >/proc/$$/comm";
    let hostile = ["\x1b]0;title\x07", "\u{202e}\u{9b}2J\r\n"];
    let shell = Shell::new(home.listen(5), script, &hostile);
    let port = home.port(5).to_string();
    let named = || stdout(&home.run(&["check", &port])).contains(&shell.0.id().to_string());
    // Another test's program has the socket for a moment, before it is what it will be.
    home.until(named);
    for arguments in [&["check", &*port][..], &["scan", &port], &["scan", &port, "--json"]] {
        let words = stdout(&home.run(arguments));
        assert!(words.contains(&shell.0.id().to_string()), "{words}");
        let obeyed = |c: &char| c.is_control() && *c != '\n' || *c == '\u{202e}';
        assert_eq!(words.chars().find(obeyed), None, "{words:?}");
        assert!(arguments[0] == "scan" || words.contains("\\u{1b}[31mred"), "{words}");
    }
}

#[test]
fn of_another_users_program_the_user_is_told() {
    const NOBODY: u32 = 65_534;
    if !nix::unistd::getuid().is_root() {
        // Only root can be two users.
        return;
    }
    let home = Home::with_type();
    // Where anyone may run it.
    let program = home.path("styxy");
    support::copy_program(env!("CARGO_BIN_EXE_styxy"), &program);
    for path in [&program, &home.path(".")] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let _listener = home.listen(5);
    let port = home.port(5).to_string();
    let scan = |arguments: &[&str]| {
        let mut command = Command::new(&program);
        command.args(["scan", &port]).args(arguments).env_clear().uid(NOBODY).gid(NOBODY);
        let output = command.current_dir("/").output().unwrap();
        assert!(output.status.success(), "{output:?}");
        stdout(&output)
    };
    let scanned = listed("listeners", scan(&["--json"]));
    assert_eq!(scanned[0]["user"], "root");
    assert_eq!(scanned[0]["pid"], Json::Null);
    let table = scan(&[]);
    assert!(table.contains(&port) && table.contains("root"), "{table}");
    let own = own_pid();
    assert!(table.split_whitespace().all(|word| word != own), "{table}");
}
