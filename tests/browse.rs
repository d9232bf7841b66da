//! `styxy browse`: what is reached through its proxy, and how it starts a browser.

mod support;

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::{
        resource::{Resource, getrlimit, setrlimit},
        signal::{Signal, kill},
    },
    unistd::Pid,
};
use serde_json::{Value as Json, json};
use support::{Home, end, said};

/// A mapping of this port for a project, for this process; its real port.
fn mapped(home: &Home, project: &str, asked: u16) -> u16 {
    let options = json!({"service_type": "mine", "project_path": project, "asked": asked, "pid": std::process::id()});
    port(&home.http("POST", "/allocate", &options.to_string()).body)
}

fn port(lease: &Json) -> u16 {
    let port = lease["port"].as_u64().unwrap_or_else(|| panic!("{lease}"));
    port.try_into().unwrap()
}

/// A server that says its name to whoever connects. It ends with the test.
fn serve(address: impl Into<IpAddr>, port: u16, name: &'static str) -> u16 {
    let listener = TcpListener::bind((address.into(), port)).unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let _ = stream.unwrap().write_all(name.as_bytes());
        }
    });
    port
}

const ALL: Ipv6Addr = Ipv6Addr::UNSPECIFIED;

/// A mapping with a server.
fn served(home: &Home, project: &str, asked: u16, name: &'static str) -> u16 {
    serve(ALL, mapped(home, project, asked), name)
}

/// `styxy browse --print`, which ends with this.
struct Proxy {
    child: Child,
    address: SocketAddr,
}

impl Proxy {
    fn of(home: &Home, project: &str, more: &[&str]) -> Self {
        let log = fs::File::create(home.path("proxy.log")).unwrap();
        let mut styxy = home.styxy();
        styxy.args(["browse", "--print", "--project", project]).args(more);
        let mut child = styxy.stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim_end().strip_prefix("socks5://").map(|address| address.parse());
        let Some(Ok(address)) = address else {
            panic!("{line:?}: {}", fs::read_to_string(home.path("proxy.log")).unwrap())
        };
        Self { child, address }
    }

    /// A connection on which nothing was said.
    fn connect(&self) -> TcpStream {
        let patience = Duration::from_secs(30);
        let stream = TcpStream::connect_timeout(&self.address, patience).unwrap();
        stream.set_read_timeout(Some(patience)).unwrap();
        stream
    }

    /// What a server says to whoever asks for this host and port; else the number of the proxy's reply.
    fn get(&self, host: &str, port: u16) -> String {
        let mut stream = self.connect();
        stream.write_all(&request(host, port)).unwrap();
        let mut greeted = [0; 2];
        stream.read_exact(&mut greeted).unwrap();
        assert_eq!(greeted, [5, 0]);
        let mut head = [0; 4];
        stream.read_exact(&mut head).unwrap();
        let mut bound = vec![0; if head[3] == 1 { 6 } else { 18 }];
        stream.read_exact(&mut bound).unwrap();
        if head[1] != 0 {
            return format!("reply {}", head[1]);
        }
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    }

    fn log(home: &Home) -> String {
        fs::read_to_string(home.path("proxy.log")).unwrap()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A greeting and a request: for an address, unless the host begins with `name:` or is none.
fn request(host: &str, port: u16) -> Vec<u8> {
    let mut bytes = vec![5, 1, 0, 5, 1, 0];
    match host.parse() {
        Ok(IpAddr::V4(address)) => bytes.extend([&[1][..], &address.octets()].concat()),
        Ok(IpAddr::V6(address)) => bytes.extend([&[4][..], &address.octets()].concat()),
        Err(_) => {
            let name = host.strip_prefix("name:").unwrap_or(host);
            bytes.extend([3, u8::try_from(name.len()).unwrap()]);
            bytes.extend(name.as_bytes());
        }
    }
    bytes.extend(port.to_be_bytes());
    bytes
}

/// The reply for what nobody listens on.
const REFUSED: &str = "reply 5";

#[test]
fn each_project_reaches_its_own_server_under_the_number_that_it_asks_for() {
    let home = Home::with_type();
    let service = home.service();
    served(&home, "/shop-a", 5173, "web of a");
    served(&home, "/shop-b", 5173, "web of b");
    let (a, b) = (Proxy::of(&home, "/shop-a", &[]), Proxy::of(&home, "/shop-b", &[]));
    assert!(a.address.ip().is_loopback());
    let hostname = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    for host in [
        "localhost",
        "LOCALHOST",
        "shop.localhost",
        "127.0.0.1",
        "127.45.6.7",
        "::1",
        "0.0.0.0",
        "::",
        "::ffff:127.0.0.1",
        "name:127.0.0.1",
        "name:[::1]",
        // What only the resolver knows as an address.
        "name:127.1",
        hostname.trim(),
    ] {
        assert_eq!(a.get(host, 5173), "web of a", "{host}");
        assert_eq!(b.get(host, 5173), "web of b", "{host}");
    }
    drop((a, b));
    end(service, Signal::SIGTERM);
}

#[test]
fn what_the_project_does_not_have_is_refused_unless_it_may_be_reached() {
    let home = Home::with_type();
    let service = home.service();
    let own = served(&home, "/shop-a", 5173, "web of a");
    let other = served(&home, "/shop-b", 3001, "api of b");
    let lease =
        json!({"service_type": "mine", "project_path": "/shop-a", "pid": std::process::id()});
    let plain = port(&home.http("POST", "/allocate", &lease.to_string()).body);
    serve(ALL, plain, "plain of a");
    let machines = serve(ALL, 0, "the machine's");
    let a = Proxy::of(&home, "/shop-a", &[]);
    for host in ["localhost", "127.0.0.1", "::1", "name:127.1"] {
        assert_eq!(a.get(host, own), "web of a", "its real number");
        assert_eq!(a.get(host, plain), "plain of a", "a lease that is no mapping");
        for foreign in [3001, other, machines, 1, 0] {
            assert_eq!(a.get(host, foreign), REFUSED, "{host}:{foreign}");
        }
    }
    // Each is told once.
    let log = Proxy::log(&home);
    assert_eq!(log.matches(&format!("port {other} belongs to /shop-b")).count(), 1, "{log}");
    assert_eq!(log.matches(&format!("add --reach {machines}")).count(), 1, "{log}");
    let reach = format!("{machines},5173");
    let a = Proxy::of(&home, "/shop-a", &["--reach", &reach]);
    assert_eq!(a.get("localhost", machines), "the machine's");
    assert_eq!(a.get("localhost", 5173), "web of a", "the project's comes first");
    assert_eq!(a.get("localhost", other), REFUSED);
    // Or so says the project itself.
    fs::create_dir(home.path("shop")).unwrap();
    let declared = json!({"remap": {"reach": [machines]}});
    fs::write(home.path("shop/styxy.json"), declared.to_string()).unwrap();
    let shop = Proxy::of(&home, home.path("shop").to_str().unwrap(), &[]);
    assert_eq!(shop.get("localhost", machines), "the machine's");
    assert_eq!(shop.get("localhost", 5173), REFUSED);
    drop((a, shop));
    end(service, Signal::SIGTERM);
}

#[test]
fn a_mapping_that_comes_or_goes_is_noticed_at_the_next_connection() {
    let home = Home::with_type();
    let service = home.service();
    let a = Proxy::of(&home, "/shop-a", &[]);
    assert_eq!(a.get("localhost", 5173), REFUSED);
    let real = mapped(&home, "/shop-a", 5173);
    assert_eq!(a.get("localhost", 5173), REFUSED, "nobody listens yet");
    // On one of the addresses of localhost only, as Vite does.
    serve(Ipv6Addr::LOCALHOST, real, "web of a");
    for host in ["localhost", "127.0.0.1", "::1"] {
        assert_eq!(a.get(host, 5173), "web of a", "{host}");
    }
    drop(a);
    end(service, Signal::SIGTERM);
}

#[test]
fn a_service_that_was_killed_is_started_by_the_next_connection() {
    let home = Home::with_type();
    let mut service = home.service();
    served(&home, "/shop-a", 5173, "web of a");
    let a = Proxy::of(&home, "/shop-a", &[]);
    let mut before = a.connect();
    before.write_all(&[5, 1]).unwrap();
    assert_eq!(a.get("localhost", 5173), "web of a");
    service.kill().unwrap();
    service.wait().unwrap();
    assert_eq!(a.get("localhost", 5173), "web of a");
    // Has it ended with the test.
    home.ok(&["status"]);
}

#[test]
fn garbage_and_slow_clients_stop_nobody() {
    let home = Home::with_type();
    let service = home.service();
    served(&home, "/shop-a", 5173, "web of a");
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, most, most).unwrap();
    let a = Proxy::of(&home, "/shop-a", &[]);
    // What a web page can have a browser send is no SOCKS.
    let mut stream = a.connect();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    // What is unread resets the connection.
    let _ = stream.read_to_end(&mut answer);
    assert_eq!(answer, b"");
    let whole = request("localhost", 5173);
    let mut slow = Vec::new();
    for number in 0..500 {
        let mut stream = a.connect();
        stream.write_all(&whole[..number % whole.len()]).unwrap();
        slow.push(stream);
        // Also before the kernel has no room for those that nobody accepts.
        if [50, 499].contains(&number) {
            assert_eq!(a.get("localhost", 5173), "web of a", "{number}");
        }
    }
    drop(slow);
    for number in 0..=255 {
        let mut stream = a.connect();
        let _ = stream.write_all(&[5, number, 0, number, 1, number, 3]);
    }
    assert_eq!(a.get("localhost", 5173), "web of a");
    drop(a);
    end(service, Signal::SIGTERM);
}

#[test]
fn another_user_is_not_served() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("IGNORED: only root can become another user");
        return;
    }
    let home = Home::with_type();
    let service = home.service();
    served(&home, "/shop-a", 5173, "web of a");
    let a = Proxy::of(&home, "/shop-a", &[]);
    let address = a.address.to_string();
    let ask = |command: &mut Command| {
        let curl = ["curl", "-sS", "--max-time", "20", "--http0.9", "--socks5-hostname", &address];
        command.args(curl).arg("http://localhost:5173/").output().unwrap()
    };
    let own = ask(Command::new("env").arg("LC_ALL=C"));
    assert_eq!(String::from_utf8_lossy(&own.stdout), "web of a", "{}", said(&own));
    let user = ["--reuid", "65534", "--regid", "65534", "--clear-groups"];
    let other = ask(Command::new("setpriv").args(user));
    assert_eq!((other.status.code(), other.stdout), (Some(97), Vec::new()), "CURLE_PROXY");
    drop(a);
    end(service, Signal::SIGTERM);
}

/// A program called `chromium` that notes how it was started, and then does this. Asked to end, it says that it has closed.
fn browser(home: &Home, then: &str) -> String {
    let folder = home.path("bin");
    fs::create_dir_all(&folder).unwrap();
    let note = home.path("started");
    let script = format!(
        "#!/bin/sh\ntrap 'echo closed; exit 0' TERM\nprintf '%s\\n' \"$@\" > {0}.new && mv {0}.new {0}\n{then}\n",
        note.display()
    );
    // Written by another process: see `copy_program`.
    let mut tee = Command::new("tee")
        .arg(folder.join("chromium"))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    tee.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    assert!(tee.wait().unwrap().success());
    fs::set_permissions(folder.join("chromium"), fs::Permissions::from_mode(0o755)).unwrap();
    format!("{}:/usr/bin:/bin", folder.display())
}

/// The arguments that the browser was started with.
fn started(home: &Home) -> Vec<String> {
    let text = fs::read_to_string(home.path("started")).unwrap();
    text.lines().map(str::to_owned).collect()
}

fn browse(home: &Home, path: &str, arguments: &[&str]) -> Command {
    let mut styxy = home.styxy();
    styxy.env("PATH", path).args(["browse", "--project", "/shop-a"]).args(arguments);
    styxy
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn a_browser_is_started_on_the_proxy_with_a_profile_of_the_project() {
    let home = Home::with_type();
    let service = home.service();
    served(&home, "/shop-a", 5173, "web of a");
    // It asks for the page as a browser does.
    let path = browser(
        &home,
        "echo oh >&2\nfor a; do case $a in --proxy-server=socks5://*) p=${a#*//}; esac; done\n\
         curl -sS --http0.9 --socks5-hostname $p http://localhost:5173/\nexit 7",
    );
    let run = |arguments: &[&str]| browse(&home, &path, arguments).output().unwrap();
    let output = run(&["--", "--incognito"]);
    assert_eq!(output.status.code(), Some(7), "{}", said(&output));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "web of a");
    let arguments = started(&home);
    assert!(arguments[0].starts_with("--proxy-server=socks5://127.0.0.1:"), "{arguments:?}");
    assert_eq!(arguments[1], "--proxy-bypass-list=<-loopback>");
    let last =
        ["--no-first-run", "--no-default-browser-check", "--incognito", "http://localhost:5173/"];
    assert_eq!(arguments[3..], last);
    let profile = Path::new(arguments[2].strip_prefix("--user-data-dir=").unwrap()).to_owned();
    assert!(profile.starts_with(home.path("state/styxy/browse")), "{}", profile.display());
    assert_eq!((mode(&profile), mode(profile.parent().unwrap())), (0o700, 0o700));
    let log = profile.with_file_name("chromium.log");
    assert_eq!((fs::read_to_string(&log).unwrap(), mode(&log)), ("oh\n".to_owned(), 0o600));
    assert!(said(&output).contains(&log.display().to_string()), "{}", said(&output));
    // The project keeps its profile, and no other project has it.
    run(&["3001"]);
    let again = started(&home);
    assert_eq!(
        (&again[2], again.last().unwrap().as_str()),
        (&arguments[2], "http://localhost:3001/")
    );
    let mut other = home.styxy();
    other.env("PATH", &path).args(["browse", "--project", "/shop-b", "about:blank"]);
    other.output().unwrap();
    assert_ne!(started(&home)[2], arguments[2]);
    end(service, Signal::SIGTERM);
}

#[test]
fn the_browser_is_chosen_by_option_and_by_variable() {
    let home = Home::with_type();
    let service = home.service();
    let path = browser(&home, "exit 0");
    let only = home.path("bin").display().to_string();
    support::copy_program(home.path("bin/chromium"), home.path("firefox-of-mine"));
    let firefox = home.path("firefox-of-mine").display().to_string();
    let run = |path: &str, browser: Option<&str>, arguments: &[&str]| -> Output {
        let _ = fs::remove_file(home.path("started"));
        let mut styxy = browse(&home, path, &[arguments, &["about:blank"]].concat());
        styxy.envs(browser.map(|browser| ("BROWSER", browser))).output().unwrap()
    };
    let is_firefox = || started(&home)[0] == "-profile";
    for (variable, arguments) in [
        (None, &["--browser", &firefox][..]),
        (Some(&*format!("xdg-open %s:lynx:{firefox} %s")), &[]),
    ] {
        let output = run(&path, variable, arguments);
        assert!(output.status.success() && is_firefox(), "{variable:?}: {}", said(&output));
        let arguments = started(&home);
        assert_eq!(arguments[2..], ["-no-remote", "about:blank"]);
        let preferences = fs::read_to_string(Path::new(&arguments[1]).join("user.js")).unwrap();
        assert!(preferences.contains("allow_hijacking_localhost"), "{preferences}");
    }
    // The option comes first.
    assert!(run(&path, Some(&firefox), &["--browser", "chromium"]).status.success());
    assert!(!is_firefox());
    for (path, arguments, why) in [
        (&path, &["--browser", "lynx"][..], "lynx is no browser of the family"),
        (&path, &["--browser", "./chromium"], "./chromium is not installed"),
        (&"/nonexistent".to_owned(), &[], "no browser of the family"),
    ] {
        let output = run(path, None, arguments);
        assert_eq!(output.status.code(), Some(1));
        let words = said(&output);
        assert!(words.contains(why) && words.contains("browse --print"), "{words}");
        assert!(!home.path("started").exists());
    }
    drop(only);
    end(service, Signal::SIGTERM);
}

#[test]
fn who_ends_the_command_ends_the_browser() {
    let home = Home::with_type();
    let service = home.service();
    let path = browser(&home, "for i in $(seq 600); do sleep 0.05; done");
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let _ = fs::remove_file(home.path("started"));
        let mut child =
            browse(&home, &path, &["about:blank"]).stdout(Stdio::piped()).spawn().unwrap();
        home.until(|| home.path("started").exists());
        kill(Pid::from_raw(child.id().cast_signed()), signal).unwrap();
        let begin = Instant::now();
        let mut text = String::new();
        child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        let status = child.wait().unwrap();
        assert_eq!(
            (std::os::unix::process::ExitStatusExt::signal(&status), text.as_str()),
            (Some(signal as i32), "closed\n")
        );
        assert!(begin.elapsed() < Duration::from_secs(20));
    }
    end(service, Signal::SIGTERM);
}
