//! `styxy init` and `styxy up` in the folder of a project.

#[path = "support/mod.rs"]
mod support;

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, ExitStatus, Output, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value as Json, json};
use support::Home;

/// No test waits longer for anything.
const PATIENCE: Duration = Duration::from_secs(60);

/// A home with a project of these services, whose types have ports that no other test has.
fn project(services: &Json) -> (Home, PathBuf) {
    let home = Home::with_ports(12);
    let range = |first: u16| json!({"port_range": [home.port(first), home.port(first + 3)]});
    let types = json!({"dev": range(0), "api": range(4), "database": range(8)});
    home.configure(&json!({"service_types": types}).to_string());
    let top = home.path("shop");
    fs::create_dir_all(top.join(".git")).unwrap();
    fs::create_dir_all(top.join("apps/web")).unwrap();
    fs::write(top.join("server.py"), include_str!("support/server.py")).unwrap();
    fs::write(top.join("styxy.json"), json!({"services": services}).to_string()).unwrap();
    let top = fs::canonicalize(top).unwrap();
    (home, top)
}

fn web_and_api() -> Json {
    json!({
        "web": {"type": "dev", "folder": "apps/web", "command": "python3 ../../server.py 7", "needs": ["api"]},
        "api": {"type": "api", "command": "sleep 0.3; exec python3 server.py 0"},
        "jobs": {"command": "echo of jobs >&2; exec sleep 1000"},
        "db": {"type": "database"},
    })
}

/// `styxy up` while it runs, with the lines of both of its outputs.
struct Up {
    child: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
}

impl Up {
    fn start(home: &Home, folder: &Path, arguments: &[&str]) -> Self {
        let mut command = home.styxy();
        command.arg("up").args(arguments).current_dir(folder).process_group(0);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (to, lines) = channel();
        let outputs: [Box<dyn Read + Send>; 2] =
            [Box::new(child.stdout.take().unwrap()), Box::new(child.stderr.take().unwrap())];
        for output in outputs {
            let to = to.clone();
            thread::spawn(move || {
                for line in BufReader::new(output).lines() {
                    let _ = to.send(line.unwrap());
                }
            });
        }
        Self { child, lines, seen: Vec::new() }
    }

    /// Waits for a line with these words.
    #[track_caller]
    fn until(&mut self, words: &str) {
        let end = Instant::now() + PATIENCE;
        while !self.seen.iter().any(|line| line.contains(words)) {
            match self.lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(line) => self.seen.push(line),
                Err(why) => panic!("no {words:?}, {why}, in {:#?}", self.seen),
            }
        }
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
    }

    /// Waits for its end, and for that of all who have its outputs.
    fn end(mut self) -> (ExitStatus, Vec<String>) {
        let end = Instant::now() + PATIENCE;
        loop {
            match self.lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(line) => self.seen.push(line),
                Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => break,
                Err(why) => panic!("it does not end, {why}: {:#?}", self.seen),
            }
        }
        (self.child.wait().unwrap(), std::mem::take(&mut self.seen))
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            let _ = kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGTERM);
            let _ = self.child.wait();
        }
    }
}

/// What a server answers; nothing if it has ended meanwhile.
fn get(port: u16, path: &str) -> String {
    let mut server = TcpStream::connect(("127.0.0.1", port)).unwrap();
    write!(server, "GET {path} HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    let _ = server.read_to_string(&mut answer);
    answer.rsplit("\r\n").next().unwrap().to_owned()
}

fn is_served(port: u16) -> bool {
    TcpStream::connect(("127.0.0.1", port)).is_ok()
}

fn run(home: &Home, folder: &Path, arguments: &[&str]) -> Output {
    home.styxy().args(arguments).current_dir(folder).output().unwrap()
}

#[test]
fn all_are_started_in_order_know_each_other_and_end_together() {
    let (home, top) = project(&web_and_api());
    let mut up = Up::start(&home, &top.join("apps"), &[]);
    up.until("web listens after");
    up.until("jobs | of jobs");
    let [web, api, db] = [0, 4, 8].map(|index| home.port(index));
    let told = get(web, "/");
    for expected in [
        format!("PORT={web} "),
        format!("WEB_PORT={web}"),
        format!("API_PORT={api} API_URL=http://127.0.0.1:{api}"),
        format!("DB_PORT={db}"),
    ] {
        assert!(told.contains(&expected), "{expected} is not in {told}");
    }
    let place = |words: &str| up.seen.iter().position(|line| line.contains(words));
    assert!(
        place("api listens after").unwrap() < place("web  | styxy: port").unwrap(),
        "{:#?}",
        up.seen
    );
    assert_eq!(home.leases().len(), 3);
    up.signal(Signal::SIGINT);
    let (status, lines) = up.end();
    assert_eq!(status.code(), Some(130), "{lines:#?}");
    assert!(!is_served(web) && !is_served(api));
    home.until(|| home.leases().is_empty());
    // The ports are remembered.
    let mut again = Up::start(&home, &top, &["web"]);
    again.until("web listens after");
    assert!(get(web, "/").contains(&format!("WEB_PORT={web}")));
    assert!(again.seen.iter().all(|line| !line.starts_with("jobs")), "{:#?}", again.seen);
}

#[test]
fn when_one_ends_all_do_and_its_exit_code_is_that_of_all() {
    let (home, top) = project(&web_and_api());
    let mut up = Up::start(&home, &top, &[]);
    up.until("web listens after");
    get(home.port(0), "/end");
    let (status, lines) = up.end();
    assert_eq!(status.code(), Some(7), "{lines:#?}");
    let said = |words: &str| lines.iter().any(|line| line.contains(words));
    assert!(said("web ended with exit code 7") && said("the first to fail was web"), "{lines:#?}");
    assert!(!is_served(home.port(4)));
    home.until(|| home.leases().is_empty());
}

#[test]
fn with_keep_the_others_go_on() {
    let (home, top) = project(&web_and_api());
    let mut up = Up::start(&home, &top, &["--keep", "--except", "jobs"]);
    up.until("web listens after");
    get(home.port(0), "/end");
    up.until("web ended with exit code 7");
    assert!(get(home.port(4), "/").contains("API_PORT="));
    get(home.port(4), "/end");
    let (status, lines) = up.end();
    assert_eq!(status.code(), Some(7), "{lines:#?}");
}

#[test]
fn what_is_needed_and_has_ended_is_waited_for_by_nobody() {
    let services = json!({
        "web": {"type": "dev", "command": "exec python3 server.py 0", "needs": ["api"]},
        "api": {"type": "api", "command": "exit 3"},
    });
    let (home, top) = project(&services);
    let (status, lines) = Up::start(&home, &top, &["--keep"]).end();
    assert_eq!(status.code(), Some(3), "{lines:#?}");
    let reason = "web is not started, because it needs api";
    assert!(lines.iter().any(|line| line.contains(reason)), "{lines:#?}");
}

#[test]
fn who_else_listens_on_a_port_is_named_and_not_taken_for_the_server() {
    let services = json!({
        "web": {"type": "dev", "command": "while [ ! -e go ]; do sleep 0.05; done; exec python3 server.py 0"},
        "api": {"type": "api", "command": "exec python3 server.py 0", "needs": ["web"]},
    });
    let (home, top) = project(&services);
    let mut up = Up::start(&home, &top, &[]);
    up.until("web | styxy: port");
    let stranger = TcpListener::bind(("127.0.0.1", home.port(0))).unwrap();
    up.until(&format!("web is not up: TCP port {} is in use by", home.port(0)));
    up.until(&format!("PID {}", std::process::id()));
    drop(stranger);
    assert!(!up.seen.iter().any(|line| line.contains("listens after") || line.contains("api |")));
    fs::write(top.join("go"), "").unwrap();
    up.until("api listens after");
    up.until("web listens after");
}

#[test]
fn a_server_that_has_left_its_parent_and_its_group_is_still_the_one() {
    let daemon = "import os, sys\nfor leave in (os.setsid, lambda: None):\n    if os.fork(): os._exit(0)\n    leave()\n\
        exec(open('server.py').read())\n";
    let services = json!({"web": {"type": "dev", "command": "python3 daemon.py 0 && sleep 1000"}});
    let (home, top) = project(&services);
    fs::write(top.join("daemon.py"), daemon).unwrap();
    let mut up = Up::start(&home, &top, &[]);
    up.until("web listens after");
    get(home.port(0), "/end");
}

#[test]
fn a_second_signal_kills_what_does_not_end() {
    let services = json!({
        "deaf": {"type": "dev", "command": "trap : TERM; python3 server.py 0 & while :; do sleep 0.05; done"},
    });
    let (home, top) = project(&services);
    let mut up = Up::start(&home, &top, &[]);
    up.until("deaf listens after");
    up.signal(Signal::SIGTERM);
    // The server ends, the shell does not.
    home.until(|| !is_served(home.port(0)));
    up.until("waiting for deaf to exit; SIGKILL follows in");
    assert!(up.child.try_wait().unwrap().is_none());
    up.signal(Signal::SIGINT);
    let (status, lines) = up.end();
    assert_eq!(status.code(), Some(143), "{lines:#?}");
}

#[test]
fn if_it_is_killed_the_processes_end_and_so_do_the_leases() {
    let mut services = web_and_api();
    // As npm has its server.
    services["api"]["command"] = "python3 server.py 0 & wait".into();
    let (home, top) = project(&services);
    let mut up = Up::start(&home, &top, &[]);
    up.until("web listens after");
    up.signal(Signal::SIGKILL);
    let (status, _) = up.end();
    assert_eq!(status.code(), None);
    home.until(|| !is_served(home.port(0)) && !is_served(home.port(4)));
    // That of the database is a claim, and the service that was killed could not release it.
    home.until(|| home.leases().iter().all(|lease| lease["service_type"] == "database"));
}

#[test]
fn what_another_one_runs_is_not_started_again_unless_it_is_asked_for() {
    let (home, top) = project(&web_and_api());
    let mut first = Up::start(&home, &top, &["api", "jobs"]);
    first.until("api listens after");
    let pid = first.child.id();
    for arguments in [["api", "jobs"].as_slice(), &["--only", "jobs"], &["api", "--dry-run"]] {
        let refused = run(&home, &top.join("apps"), &[&["up"], arguments].concat());
        assert_eq!(refused.status.code(), Some(1), "{refused:?}");
        let said = support::said(&refused);
        let is_of_api = arguments.contains(&"api");
        assert_eq!(said.contains(&format!("api (port {})", home.port(4))), is_of_api, "{said}");
        assert!(said.contains(&format!("up already: styxy up (PID {pid}) has run ")), "{said}");
    }
    // Nobody else can have or see what tells one from the other.
    let lock = home.state().join("up.lock");
    assert_eq!(fs::metadata(&lock).unwrap().permissions().mode() & 0o777, 0o600);
    // It waits for the api of the other, and knows its port.
    let mut second = Up::start(&home, &top, &[]);
    second.until(&format!("styxy up (PID {pid}) has run them for "));
    second.until("web listens after");
    assert!(!second.seen.iter().any(|line| line.contains("jobs |") || line.contains("api |")));
    let told = get(home.port(0), "/");
    assert!(told.contains(&format!("API_PORT={}", home.port(4))), "{told}");
    let mut again = Up::start(&home, &top, &["--only", "api", "--again"]);
    again.until("api listens after");
    let told = get(home.port(5), "/");
    assert!(told.contains(&format!("API_PORT={}", home.port(5))), "{told}");
    // What has ended can be started.
    first.signal(Signal::SIGTERM);
    first.end();
    let mut next = Up::start(&home, &top, &["jobs"]);
    next.until("jobs | of jobs");
    // Another worktree is another project.
    let other = home.path("other");
    fs::create_dir_all(other.join(".git")).unwrap();
    fs::create_dir_all(other.join("apps/web")).unwrap();
    fs::copy(top.join("styxy.json"), other.join("styxy.json")).unwrap();
    let mut elsewhere = Up::start(&home, &other, &["jobs"]);
    elsewhere.until("jobs | of jobs");
}

#[test]
fn a_project_without_a_file_of_its_own_is_started_by_its_procfile_or_its_scripts() {
    let (home, top) = project(&json!({"web": {"type": "dev"}}));
    let refused = run(&home, &top, &["up"]);
    assert!(support::said(&refused).contains("give a service of styxy.json a command"));
    fs::remove_file(top.join("styxy.json")).unwrap();
    let refused = run(&home, &top, &["up"]);
    assert!(support::said(&refused).contains("`styxy init` writes a styxy.json"), "{refused:?}");
    let shown = |arguments: &[&str]| -> Vec<Json> {
        let output = run(&home, &top, &[&["up", "--dry-run", "--json"], arguments].concat());
        support::listed("processes", output.stdout)
    };
    fs::write(top.join("package.json"), r#"{"scripts": {"dev": "vite"}}"#).unwrap();
    let [web] = &shown(&[])[..] else { panic!() };
    assert_eq!((&web["name"], &web["command"]), (&json!("dev"), &json!("npm run dev")));
    assert_eq!(web["port"], home.port(0));
    fs::write(top.join("Procfile.dev"), "web: exec python3 server.py 0\njobs: sleep 1000\n")
        .unwrap();
    let names: Vec<_> = shown(&[]).iter().map(|process| process["name"].clone()).collect();
    assert_eq!(names, ["web", "jobs"]);
    let unknown = run(&home, &top, &["up", "wep"]);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(support::said(&unknown).contains("name one of web, jobs"), "{unknown:?}");
    assert_eq!(home.leases().len(), 0);
    let mut up = Up::start(&home, &top, &[]);
    up.until("web listens after");
    assert!(is_served(home.port(0)));
}

#[test]
fn a_process_without_a_port_has_no_port_and_blocks_are_the_same_for_all() {
    let services = json!({
        "web": {"type": "dev", "command": "echo {port:BUILD_PORT_1} is known; exec python3 server.py 0"},
        "build": {"type": "api", "count": 2, "command": "echo {port} {port_1} $PORT_1; exec sleep 1000"},
        "ranges": {"type": "database", "count": 2},
        "jobs": {"command": "echo [$PORT]; exec sleep 1000"},
    });
    let (home, top) = project(&services);
    let [api, database] = [4, 8].map(|index| home.port(index));
    let env = |place: &Path| support::out(&run(&home, place, &["env", "--format", "dotenv"]));
    let before = env(&top);
    for line in [
        format!("BUILD_PORT_1={}", api + 1),
        format!("BUILD_PORT={api}"),
        format!("RANGES_PORT_1={}", database + 1),
    ] {
        assert!(before.lines().any(|known| known == line), "{line} is not in {before}");
    }
    assert_eq!(env(&top), before, "asked again, they are the same");
    let mut up = Up::start(&home, &top, &[]);
    up.until("web listens after");
    up.until("jobs  | []");
    up.until(&format!("build | {api} {next} {next}", next = api + 1));
    up.until(&format!("web   | {} is known", api + 1));
    assert_eq!(env(&top), before);
    up.signal(Signal::SIGTERM);
    up.end();
    assert_eq!(env(&top), before);
    home.ok(&["release", "--project", top.to_str().unwrap(), "--yes"]);
    let mut again = Up::start(&home, &top, &["--only", "jobs"]);
    again.until("jobs | []");
    again.signal(Signal::SIGTERM);
    again.end();
    home.until(|| home.leases().is_empty());
}

#[test]
fn what_somebody_else_may_have_written_above_is_not_done() {
    let (home, top) = project(&json!({"web": {"type": "dev", "command": "true"}}));
    fs::set_permissions(&top, fs::Permissions::from_mode(0o1777)).unwrap();
    for verb in ["up", "env"] {
        let refused = run(&home, &top.join("apps"), &[verb]);
        assert_eq!(refused.status.code(), Some(1));
        assert!(support::said(&refused).contains("where others may write"), "{refused:?}");
        let named = run(&home, &top.join("apps"), &[verb, "--project", top.to_str().unwrap()]);
        assert!(run(&home, &top, &[verb]).status.success() && named.status.success(), "{named:?}");
    }
}

#[test]
fn a_leader_that_has_left_its_group_is_killed_too() {
    let script = "import os, signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n\
        os.setpgid(0, os.getpgid(os.getppid()))\nprint('left', flush=True)\ntime.sleep(1000)\n";
    let (home, top) = project(&json!({"odd": {"command": "python3 odd.py"}}));
    fs::write(top.join("odd.py"), script).unwrap();
    let mut up = Up::start(&home, &top, &[]);
    up.until("odd | left");
    up.signal(Signal::SIGTERM);
    up.signal(Signal::SIGINT);
    let (status, lines) = up.end();
    // Nobody knows which of the two is seen first.
    assert!([130, 143].map(Some).contains(&status.code()), "{status}: {lines:#?}");
}

#[test]
fn the_process_of_a_procfile_is_called_the_same_everywhere() {
    let (home, top) = project(&json!({}));
    fs::remove_file(top.join("styxy.json")).unwrap();
    fs::create_dir(top.join("client")).unwrap();
    let lines = "web: bundle exec puma\njs: cd client && sleep 1000\n";
    fs::write(top.join("Procfile"), lines).unwrap();
    let env = support::out(&run(&home, &top, &["env", "--format", "dotenv"]));
    assert!(env.contains(&format!("WEB_PORT={}", home.port(0))), "{env}");
    assert_eq!(run(&home, &top, &["init", "--yes"]).status.code(), Some(0));
    let written: Json = {
        let text = fs::read_to_string(top.join("styxy.json")).unwrap();
        serde_json::from_str(&text.lines().filter(|line| !line.contains("//")).collect::<String>())
            .unwrap()
    };
    let services = &written["services"];
    assert_eq!(services["js"], json!({"command": "sleep 1000", "folder": "client"}));
    assert_eq!(services["web"], json!({"type": "dev", "command": "bundle exec puma"}));
    // What a file may not say is not written.
    fs::remove_file(top.join("styxy.json")).unwrap();
    fs::write(
        top.join("Procfile"),
        format!("web: bundle exec puma\njobs: {}\n", "x".repeat(5_000)),
    )
    .unwrap();
    let refused = run(&home, &top, &["init", "--yes"]);
    assert!(support::said(&refused).contains("does not fit into the file"), "{refused:?}");
    assert!(!top.join("styxy.json").exists());
}

#[test]
fn init_says_which_folder_the_file_cannot_name() {
    let (home, top) = project(&json!({"web": {"type": "dev"}}));
    fs::remove_file(top.join("styxy.json")).unwrap();
    let odd = top.join("apps/w\u{1b}x");
    fs::create_dir_all(&odd).unwrap();
    let script = r#"{"scripts": {"dev": "vite"}}"#;
    fs::write(odd.join("package.json"), script).unwrap();
    fs::write(top.join("package.json"), r#"{"workspaces": ["apps/*"]}"#).unwrap();
    let refused = run(&home, &top, &["init", "--yes"]);
    let words = "styxy: styxy.json cannot name the folder apps/w\\u{1b}x, whose name has control characters or \
                 is not UTF-8: rename it\n";
    assert_eq!((support::said(&refused).as_str(), refused.status.code()), (words, Some(1)));
    assert!(!top.join("styxy.json").exists());
    fs::rename(odd, top.join("apps/wx")).unwrap();
    assert_eq!(run(&home, &top, &["init", "--yes"]).status.code(), Some(0));
}

#[test]
fn init_shows_the_file_and_writes_it_once() {
    let (home, top) = project(&json!({"web": {"type": "dev"}}));
    let file = top.join("styxy.json");
    assert_eq!(run(&home, &top, &["init", "--yes"]).status.code(), Some(1), "it is there");
    fs::remove_file(&file).unwrap();
    fs::write(top.join("Procfile"), "jobs: sleep 1000\n").unwrap();
    let script = r#"{"scripts": {"dev": "vite --port 5199"}}"#;
    fs::write(top.join("apps/web/package.json"), script).unwrap();
    let shown = support::out(&run(&home, &top, &["init"]));
    assert!(!file.exists());
    let written = run(&home, &top, &["init", "--yes"]);
    assert_eq!(written.status.code(), Some(0), "{written:?}");
    let text = fs::read_to_string(&file).unwrap();
    assert_eq!(text.trim_end(), shown);
    for expected in [
        r#""web": {"#,
        r#""type": "dev""#,
        r#""folder": "apps/web""#,
        r#""port": 5199"#,
        r#""command": "sleep 1000""#,
    ] {
        assert!(text.contains(expected), "{expected} is not in {text}");
    }
    // It says the same as what was found.
    let env = support::out(&run(&home, &top, &["env"]));
    fs::rename(&file, top.join("kept")).unwrap();
    assert_eq!(support::out(&run(&home, &top, &["env"])), env);
    fs::rename(top.join("kept"), &file).unwrap();
    fs::write(&file, "{\n  \"services\": {\"a\": {\"typ\": 1}}\n}").unwrap();
    for verb in [["env"].as_slice(), &["suggest"], &["up"]] {
        let refused = run(&home, &top, verb);
        assert_eq!(refused.status.code(), Some(2));
        let said = support::said(&refused);
        assert!(said.contains("styxy.json:2:29: services.a.typ: there is no such field"), "{said}");
    }
}
