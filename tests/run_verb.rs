//! Commands on leased ports, and what else is done with leases, seen from outside.

mod support;

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    net::{TcpListener, TcpStream},
    os::{
        fd::AsRawFd,
        unix::{fs::PermissionsExt, process::CommandExt},
    },
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::{
        signal::{Signal, kill, killpg},
        socket::{
            AddressFamily, SockFlag, SockType, SockaddrIn, bind, getsockname, setsockopt, socket,
            sockopt,
        },
    },
    unistd::Pid,
};
use serde_json::Value as Json;
use support::{Home, out, said};

impl Home {
    /// A command that runs until its input ends, after it has printed its PID.
    fn running(&self, arguments: &[&str]) -> (Child, u32) {
        let mut command: Command = self.styxy();
        let script = "echo $$; read -r _; exit 7";
        command.args(arguments).args(["--", "bash", "-c", script]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        (child, line.trim().parse().unwrap())
    }
}

#[test]
fn run_becomes_the_command_and_the_lease_is_the_commands() {
    let home = Home::with_type();
    let (mut child, pid) = home.running(&["run", "mine"]);
    assert_eq!(pid, child.id(), "no process stays in between");
    assert_eq!(home.leases()[0]["pid"], pid);
    drop(child.stdin.take());
    assert_eq!(child.wait().unwrap().code(), Some(7));
    home.until(|| home.leases().is_empty());
}

#[test]
fn what_is_asked_of_the_port_holds_for_a_variable_with_a_type() {
    let home = Home::with_type();
    let wanted = home.port(4).to_string();
    let web = ["run", "--env", "WEB=mine", "--port", &wanted, "--strict"];
    let script = r#"echo "$WEB $STYXY_PORT ${#STYXY_LEASE_ID} {port}""#;
    let told = out(&home.run(&[&web[..], &["--", "bash", "-c", script]].concat()));
    assert_eq!(told, format!("{wanted} {wanted} 36 {wanted}"));
    // Until then a server may be about to listen there.
    home.until(|| home.leases().is_empty());
    home.ok(&["allocate", "mine", "--port", &wanted, "--project", "/other"]);
    let refused = home.run(&[&web[..], &["--", "true"]].concat());
    assert_eq!(refused.status.code(), Some(1), "{}", said(&refused));
    // Of two it is not clear which is meant, unless a type is named.
    let two = ["run", "--env", "WEB=mine", "--env", "API=mine", "--port", &wanted, "--", "true"];
    let refused = home.run(&two);
    assert_eq!(refused.status.code(), Some(2));
    assert!(said(&refused).contains("give the type of that port before --env"));
    assert_eq!(home.leases().len(), 1);
}

#[test]
fn with_styxy_switched_off_a_command_gets_neither_a_port_nor_a_socket() {
    let home = Home::with_type();
    for verb in ["run", "exec"] {
        let mut styxy = home.styxy();
        let script = "echo ${PORT-none} ${LISTEN_FDS-none} {port}";
        styxy.args([verb, "mine", "--", "bash", "-c", script]).env("STYXY", "0");
        assert_eq!(out(&styxy.env_remove("PORT").output().unwrap()), "none none {port}");
    }
    assert_eq!(home.leases(), Vec::<Json>::new());
}

#[test]
fn exec_tells_the_port_as_run_does() {
    let home = Home::with_type();
    let script = r#"echo "$PORT $STYXY_PORT ${#STYXY_LEASE_ID} $HOST $0""#;
    let told = out(&home.run(&["exec", "mine", "--", "bash", "-c", script, "-p{port}"]));
    let port = told.split(' ').next().unwrap();
    assert_eq!(told, format!("{port} {port} 36 127.0.0.1 -p{port}"));
}

#[test]
fn a_variable_that_would_get_two_values_is_wrong_usage_and_nothing_is_leased() {
    let home = Home::with_type();
    for arguments in [
        &["--env", "A=mine", "--env", "A=api"][..],
        &["mine", "--env", "A", "--env", "A=api"],
        &["mine", "--env", "A", "--env", "A"],
        &["mine", "--env", "PORT=api"],
        &["mine", "--env", "STYXY_PORT=api"],
        &["mine", "--env", "STYXY_LEASE_ID"],
        &["mine", "--setenv", "PORT=1"],
        &["mine", "--setenv", "A=1", "--setenv", "A=2"],
        &["--env", "A=mine", "--setenv", "A=1"],
        &["--env", "STYXY_LEASE_ID=mine"],
        &["mine", "--count", "2", "--env", "PORT_1=api"],
        &["mine", "--count", "2", "--env", "WEB", "--env", "WEB_1=api"],
        &["--env", "A=mine", "--env", "port=api"],
    ] {
        let output = home.run(&[&["run"], arguments, &["--", "true"]].concat());
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", said(&output));
        assert!(said(&output).contains("variable of its own"), "{}", said(&output));
    }
    assert!(!home.socket().exists(), "no service was looked for");
    // The same value twice is none too many, and a port may be in HOST.
    for (arguments, script) in [
        (&["mine", "--env", "STYXY_PORT"][..], "test $STYXY_PORT = {port}"),
        (
            &["--env", "PORT=mine", "--env", "HOST=mine"],
            "test $HOST = {port:HOST} -a $HOST != $PORT",
        ),
        (&["mine", "--count", "2", "--env", "PORT_2=mine"], "test $PORT_2 != $PORT_1"),
    ] {
        out(&home.run(&[&["run"], arguments, &["--", "bash", "-c", script]].concat()));
    }
}

#[test]
fn wrong_usage_of_a_command_line_is_not_a_refusal() {
    let home = Home::with_type();
    for arguments in [
        &["run", "--env", "FOO", "--", "true"][..],
        &["exec", "mine", "--protocol", "both", "--", "true"],
        &["exec", "mine", "--hold", "none", "--", "true"],
    ] {
        let output = home.run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", said(&output));
    }
    assert!(!home.socket().exists(), "no service was looked for");
}

#[test]
fn a_command_without_dashes_before_it_is_told_where_they_belong() {
    let home = Home::new();
    for (line, right) in [
        ("run dev npm run dev", "styxy run dev -- npm run dev"),
        ("run dev --name web vite --port 3", "styxy run dev --name web -- vite --port 3"),
        ("exec api node server.js", "styxy exec api -- node server.js"),
        ("run npm run dev", "styxy run dev -- npm run dev"),
        ("exec node server.js", "styxy exec dev -- node server.js"),
    ] {
        let refused = home.run(&line.split(' ').collect::<Vec<_>>());
        assert_eq!(refused.status.code(), Some(2));
        assert!(said(&refused).contains(&format!("before the command: {right}\n")), "{refused:?}");
    }
    for other in [["run", "dev", "--nam", "web"], ["list", "run", "dev", "npm"]] {
        assert!(!said(&home.run(&other)).contains("before the command"), "{other:?}");
    }
}

#[test]
fn a_killed_command_gives_its_port_back() {
    let home = Home::with_type();
    let (mut child, pid) = home.running(&["run", "mine"]);
    kill(Pid::from_raw(pid.try_into().unwrap()), Signal::SIGKILL).unwrap();
    child.wait().unwrap();
    home.until(|| home.leases().is_empty());
}

#[test]
fn run_tells_the_port_in_the_environment_and_in_the_arguments() {
    let home = Home::with_type();
    let wanted = home.port(4).to_string();
    let script = r#"echo "$PORT $STYXY_PORT ${#STYXY_LEASE_ID} $HOST $0 $1""#;
    let told =
        ["run", "mine", "--port", &wanted, "--", "bash", "-c", script, "-p{port}", "${PORT}"];
    let expected = format!("{wanted} {wanted} 36 127.0.0.1 -p{wanted} ${{PORT}}");
    assert_eq!(out(&home.run(&told)), expected);
    let script = "echo ${PORT}";
    let of_shell = ["run", "mine", "--port", &wanted, "--", "bash", "-c", script];
    assert_eq!(out(&home.run(&of_shell)), wanted, "the shell's own words stay");
    let kept = ["run", "mine", "--no-replace", "--", "printf", "%s %s", "{port}", "{port:PORT}"];
    assert_eq!(out(&home.run(&kept)), "{port} {port:PORT}");
    let script = "echo $WEB $PORT";
    let other = ["run", "mine", "--env", "WEB", "--port", &wanted, "--", "bash", "-c", script];
    assert_eq!(out(&home.run(&other)), wanted);
    let script = "echo $((PORT_1 - PORT)) $((PORT_2 - PORT_1)) {port_2}";
    let several = out(&home.run(&["run", "mine", "--count", "3", "--", "bash", "-c", script]));
    assert!(several.starts_with("1 1 "), "{several}");
}

#[test]
fn a_variable_of_the_command_may_have_the_port_in_it() {
    let home = Home::with_type();
    let port = home.port(0);
    let set = ["run", "mine", "--setenv", "URL=http://[::1]:{port}/", "--setenv", "A=${port}={}"];
    let script = r#"echo "$URL $A""#;
    let told = out(&home.run(&[&set[..], &["--", "bash", "-c", script]].concat()));
    assert_eq!(told, format!("http://[::1]:{port}/ ${{port}}={{}}"));
    let told =
        out(&home.run(&[&set[..], &["--no-replace", "--", "bash", "-c", "echo $URL"]].concat()));
    assert_eq!(told, "http://[::1]:{port}/");
    assert_eq!(home.run(&["run", "mine", "--setenv", "A", "--", "true"]).status.code(), Some(2));
}

#[test]
fn run_leases_several_ports_for_one_command() {
    let home = Home::with_type();
    let script = "[ $WEB != $API ] && test $WEB = {port:WEB} -a $API = {port:API} && echo yes";
    let both = ["run", "--env", "WEB=mine", "--env", "API=mine", "--", "bash", "-c", script];
    assert_eq!(out(&home.run(&both)), "yes");
    let wrong = home.run(&["run", "--env", "WEB", "--", "true"]);
    assert!(said(&wrong).contains("--env WEB has no type"), "{}", said(&wrong));
}

#[test]
fn run_says_why_it_is_not_the_port_that_was_asked_for() {
    let home = Home::with_type();
    let _listener = TcpListener::bind(("127.0.0.1", home.port(5))).unwrap();
    let busy = home.port(5).to_string();
    let told = said(&home.run(&["run", "mine", "--port", &busy, "--", "true"]));
    assert_eq!(told.lines().count(), 1, "{told}");
    assert!(told.contains(&format!("TCP port {busy} is in use")), "{told}");
    let quiet = home.run(&["run", "mine", "--quiet", "--", "true"]);
    assert_eq!(said(&quiet), "");
    let strict = home.run(&["run", "mine", "--port", &busy, "--strict", "--", "true"]);
    assert_eq!(strict.status.code(), Some(1));
}

#[test]
fn a_command_that_cannot_be_run_has_the_exit_code_of_shells_and_leaves_no_lease() {
    let home = Home::with_type();
    assert_eq!(home.run(&["run", "mine", "--", "/no/such/program"]).status.code(), Some(127));
    assert_eq!(home.run(&["run", "mine", "--", "/etc/passwd"]).status.code(), Some(126));
    home.until(|| home.leases().is_empty());
}

#[test]
fn what_runs_once_is_not_started_twice() {
    let home = Home::with_single();
    let (mut first, pid) = home.running(&["run", "mine"]);
    let second = home.run(&["run", "mine", "--", "true"]);
    assert_eq!(second.status.code(), Some(1));
    assert!(said(&second).contains(&format!("process {pid}")), "{}", said(&second));
    drop(first.stdin.take());
    first.wait().unwrap();
}

#[test]
fn exec_hands_over_a_listening_socket_as_systemd_does() {
    let home = Home::with_type();
    let script = "import os, socket\n\
        s = socket.socket(fileno=3)\n\
        assert s.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)\n\
        assert s.getsockname()[1] == int(os.environ['PORT'])\n\
        assert os.environ['LISTEN_PID'] == str(os.getpid())\n\
        print(os.environ['LISTEN_FDS'], os.environ['LISTEN_FDNAMES'])";
    assert_eq!(out(&home.run(&["exec", "mine", "--", "python3", "-c", script])), "1 mine");
}

#[test]
fn ports_are_released_by_what_is_meant() {
    let home = Home::with_type();
    let port = home.ok(&["allocate", "mine", "--quiet"]);
    assert_eq!(home.ok(&["release", &port]), format!("released port {port} of mine"));
    for name in ["a", "b", "c"] {
        home.ok(&["allocate", "mine", "--name", name]);
    }
    let many = home.run(&["release", "--type", "mine"]);
    assert_eq!(many.status.code(), Some(1));
    assert!(said(&many).contains("3 leases") && said(&many).contains("--yes"), "{}", said(&many));
    assert_eq!(home.leases().len(), 3);
    home.ok(&["release", "--project", "--yes"]);
    assert!(home.leases().is_empty());
}

#[test]
fn cleanup_shows_what_nobody_needs_and_releases_it_only_when_told() {
    let home = Home::with_type();
    home.ok(&["allocate", "mine", "--new"]);
    let (mut child, _) = home.running(&["run", "mine"]);
    assert_eq!(home.ok(&["cleanup"]), "there is nothing to clean up", "it is too young");
    assert!(home.ok(&["cleanup", "--older-than", "0"]).contains("--yes releases 1 lease"));
    assert_eq!(home.leases().len(), 2);
    home.ok(&["cleanup", "--older-than", "0", "--yes"]);
    assert_eq!(home.leases().len(), 1);
    drop(child.stdin.take());
    child.wait().unwrap();
}

#[test]
fn watch_tells_what_happens_as_it_happens() {
    let home = Home::with_type();
    home.ok(&["allocate", "mine", "--name", "web"]);
    let mut watch = home.styxy();
    let mut watch = watch.args(["watch", "--json"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut events = BufReader::new(watch.stdout.take().unwrap());
    // Something to see comes again and again: when it begins to look is not known.
    let mut line = String::new();
    let told = std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            events.read_line(&mut line).unwrap();
            line
        });
        while !reader.is_finished() {
            let port = home.ok(&["allocate", "mine", "--new", "--name", "web", "--quiet"]);
            std::thread::sleep(std::time::Duration::from_millis(600));
            home.ok(&["release", &port]);
        }
        reader.join().unwrap()
    });
    let event: Json = serde_json::from_str(&told).unwrap();
    assert!(["granted", "released"].contains(&event["event"].as_str().unwrap()), "{event}");
    assert_eq!(event["service_name"], "web");
    watch.kill().unwrap();
    watch.wait().unwrap();
    events.read_to_string(&mut String::new()).unwrap();
}

/// Binds its port without `SO_REUSEADDR`, and says whether it could.
const LEGACY: &str = "import os, socket
try:
    socket.socket().bind(('', int(os.environ['PORT'])))
    print('bound')
except OSError as error:
    print(error.strerror)
";

#[test]
fn a_program_of_the_configuration_that_binds_without_reusing_gets_its_port_without_a_guard() {
    let home = Home::with_type();
    let types = format!("[{}, {}]", home.port(0), home.port(9));
    home.configure(&format!(
        r#"{{"service_types": {{"mine": {{"port_range": {types}}}}},
            "programs": {{"Legacy": {{"commands": ["legacy.py"], "hold": "none"}}}}}}"#
    ));
    let program = home.path("legacy.py");
    fs::write(&program, LEGACY).unwrap();
    let command = ["--", "python3", program.to_str().unwrap()];
    let run = |options: &[&str]| home.run(&[&["run", "mine"], options, &command].concat());
    let helped = run(&[]);
    assert_eq!(out(&helped), "bound");
    let why = "Legacy binds without SO_REUSEADDR, so its port has no guard (not with --plain)";
    assert!(said(&helped).contains(why), "{helped:?}");
    // What the user says counts more.
    for option in [["--hold", "guard"].as_slice(), &["--plain"]] {
        let left = run(option);
        assert_eq!(out(&left), "Address already in use", "{option:?}");
        assert!(!said(&left).contains("Legacy"), "{left:?}");
    }
}

#[test]
fn a_run_within_another_uses_the_lease_that_is_there_for_its_service() {
    let home = Home::with_type();
    let styxy = home.styxy().get_program().to_str().unwrap().to_owned();
    let within = |outer: &[&str], inner: &str| {
        let inner = format!("echo $PORT; {styxy} run mine {inner} -- bash -c 'echo $PORT'");
        let both = home.run(&[&["run", "mine"], outer, &["--", "bash", "-c", &inner]].concat());
        let ports = out(&both).lines().map(|port| port.parse::<u16>().unwrap()).collect::<Vec<_>>();
        (ports[0] == ports[1], said(&both).contains("leave out one of the two"))
    };
    assert_eq!(within(&[], ""), (true, false));
    assert_eq!(within(&["--name", "web"], "--name web"), (true, false));
    assert_eq!(within(&["--name", "web"], ""), (false, true));
    assert_eq!(within(&["--name", "web"], "--quiet"), (false, false));
    assert_eq!(within(&[], "--count 2"), (false, true));
    // Of a lease that is used it is not the first server.
    let inner = format!("{styxy} run mine -- bash -c 'echo $PORT'");
    let script = "import os, socket, subprocess, sys
server = socket.socket()
server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
server.bind(('', int(os.environ['PORT'])))
server.listen()
inner = subprocess.run(sys.argv[1], shell=True, capture_output=True, text=True)
print(inner.stdout.strip() == os.environ['PORT'], 'leave out' in inner.stderr)
";
    let both = home.run(&["run", "mine", "--", "python3", "-c", script, &inner]);
    assert_eq!(out(&both), "False False");
}

#[test]
fn of_two_runs_within_another_at_once_only_the_first_uses_its_lease() {
    let home = Home::with_type();
    let script = r#"
set -eu
run() { "$0" run --quiet mine -- bash -c "$1"; }
export first=$1/first second=$1/second third=$1/third fourth=$1/fourth fifth=$1/fifth
exec 3> >(run 'echo $PORT >$first; read -r line || :')
until [[ -s $first ]]; do sleep 0.01; done
run 'echo $PORT >$second'
exec 3>&-
wait $!
# Further inside, and once the first one has ended, it is the same lease.
run "\"$0\" run --quiet mine -- sh -c 'echo \$PORT >\$third; :'; :"
# What was started before the command itself became another one is beside it.
"$0" run --quiet mine -- bash -c '
    { until [[ -s $fourth ]]; do sleep 0.01; done; "$0" run --quiet mine -- bash -c "echo \$PORT >\$fifth"; } &
    exec "$0" run --quiet mine -- bash -c "echo \$PORT >\$fourth; wait; until [[ -s \$fifth ]]; do sleep 0.01; done"' "$0"
[[ $(<$fourth) == "$PORT" && $(<$fifth) != "$PORT" ]]
[[ $(<$first) == "$PORT" && $(<$second) != "$PORT" && $(<$third) == "$PORT" ]]
echo "$PORT"
"#;
    let styxy = home.styxy().get_program().to_str().unwrap().to_owned();
    let folder = home.path("");
    let arguments = ["run", "mine", "--", "bash", "-c", script, &styxy, folder.to_str().unwrap()];
    let output = home.run(&arguments);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(out(&output), home.port(0).to_string(), "{output:?}");
}

#[test]
fn a_command_that_is_not_there_gets_no_port_and_is_no_history() {
    let home = Home::with_type();
    for command in ["nothing-is-called-so", "./nothing-is-called-so"] {
        let output = home.run(&["run", "mine", "--", command]);
        assert_eq!(output.status.code(), Some(127), "{output:?}");
        assert!(
            said(&output).starts_with(&format!("styxy: {command} cannot be run:")),
            "{output:?}"
        );
    }
    let leased = home.run(&["run", "mine", "--setenv", "PATH=/nowhere", "--", "true"]);
    assert_eq!(leased.status.code(), Some(127));
    assert!(said(&leased).contains("port"), "only then is it known: {leased:?}");
}

/// A command with all that it has started, which ends with the test.
struct Group(Child);

impl Group {
    fn of(command: &mut Command) -> Self {
        Self(command.process_group(0).stderr(Stdio::piped()).spawn().unwrap())
    }

    /// Ends it; what it has said to the end.
    fn end(mut self) -> String {
        let group = Pid::from_raw(self.0.id().cast_signed());
        killpg(group, Signal::SIGKILL).unwrap();
        let mut told = String::new();
        self.0.stderr.take().unwrap().read_to_string(&mut told).unwrap();
        told
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = killpg(Pid::from_raw(self.0.id().cast_signed()), Signal::SIGKILL);
        let _ = self.0.wait();
    }
}

/// The lines of a command's standard error, to the first one with these words.
fn lines_until(Group(child): &mut Group, words: &str) -> Vec<String> {
    let mut lines = Vec::new();
    for line in BufReader::new(child.stderr.as_mut().unwrap()).lines() {
        lines.push(line.unwrap());
        if lines.last().is_some_and(|line| line.contains(words)) {
            return lines;
        }
    }
    panic!("{words}: {lines:?}");
}

#[test]
fn a_program_that_listens_elsewhere_is_told_of_and_nothing_of_that_stays() {
    let home = Home::with_type();
    let (elsewhere, wanted) = (home.port(7).to_string(), home.port(2).to_string());
    // As `npm run` does it, with a shell in between.
    let line = format!("python3 -m http.server {elsewhere} & wait");
    let mut styxy = home.styxy();
    // The claim of the service is the command's, too.
    home.ok(&["allocate", "mine", "--port", &wanted]);
    styxy.args(["run", "mine", "--", "bash", "-c", &line]);
    let mut child = Group::of(&mut styxy);
    let told = format!("listens on port {elsewhere} and not on {wanted}, its own; ");
    let lines = lines_until(&mut child, &told);
    assert_eq!(lines.iter().filter(|line| line.contains(&elsewhere)).count(), 1, "{lines:?}");
    // And so do the next verbs.
    let instead = format!("its owner listens on TCP port {elsewhere} instead");
    assert!(said(&home.run(&["port", "mine"])).contains(&instead));
    for (option, is_told) in [("--plain", true), ("--quiet", false), ("--json", false)] {
        let with = ["run", "--with", "mine=MINE", option, "--", "true"];
        assert_eq!(said(&home.run(&with)).contains(&instead), is_told, "{option}");
    }
    let check = String::from_utf8(home.run(&["check", &wanted]).stdout).unwrap();
    assert!(check.contains(&instead), "{check}");
    // It was no child of the command.
    let state = |pid: u32| fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let children =
        fs::read_to_string(format!("/proc/{0}/task/{0}/children", child.0.id())).unwrap();
    for pid in children.split_whitespace().map(|pid| pid.parse().unwrap()) {
        assert!(!state(pid).contains(") Z "), "{}", state(pid));
    }
    // Whoever waits for the end of standard error waits for nobody else.
    let rest = child.end();
    assert!(!rest.contains("not on"), "{rest}");
}

#[test]
fn a_program_that_was_given_a_port_of_those_for_connections_is_told_of() {
    let home = Home::with_type();
    // As styxy keeps a port for a server that will listen on it.
    let kept = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
    setsockopt(&kept, sockopt::ReuseAddr, &true).unwrap();
    bind(kept.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, 0)).unwrap();
    let elsewhere = getsockname::<SockaddrIn>(kept.as_raw_fd()).unwrap().port();
    // It ends by itself if nothing is said.
    let line = format!("python3 -m http.server {elsewhere} --bind 127.0.0.1 & sleep 60; kill $!");
    let mut child = Group::of(home.styxy().args(["run", "mine", "--", "bash", "-c", &line]));
    lines_until(&mut child, &format!("listens on port {elsewhere} and not on "));
}

#[test]
fn who_has_the_port_that_a_script_names_is_said_before_the_command_starts() {
    let home = Home::with_type();
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = holder.local_addr().unwrap().port();
    let shop = home.path("shop");
    fs::create_dir_all(&shop).unwrap();
    let scripts = format!(r#"{{"scripts": {{"dev": "PORT={port} ./serve"}}}}"#);
    fs::write(shop.join("package.json"), scripts).unwrap();
    fs::write(shop.join("npm"), "#!/bin/sh\necho npm is here >&2\n").unwrap();
    fs::set_permissions(shop.join("npm"), fs::Permissions::from_mode(0o755)).unwrap();
    let told = |npm: &str| {
        let mut command = home.styxy();
        command.args(["run", "mine", "--", npm, "run", "dev"]).current_dir(&shop);
        said(&command.output().unwrap())
    };
    let sentence = format!("the script dev of package.json names port {port}, which is in use by ");
    let first = told("./npm");
    assert!(first.contains(&sentence), "{first}");
    assert!(first.contains(&format!("PID {}", std::process::id())), "{first}");
    assert!(first.ends_with("write $PORT there\nnpm is here\n"), "{first}");
    let mut command = home.styxy();
    command.args(["run", "mine", "--", "./npm", "fixed", &port.to_string()]).current_dir(&shop);
    let by_place = said(&command.output().unwrap());
    let sentence = format!("the command names port {port}, which is in use by ");
    assert!(by_place.contains(&sentence) && by_place.contains("write {port} there"), "{by_place}");
    let none = told("./none/npm");
    assert!(none.contains("cannot be run") && !none.contains("names port"), "{none}");
    drop(holder);
    let second = told("./npm");
    assert!(!second.contains("names port"), "{second}");
}

#[test]
fn nobody_waits_for_the_look_at_a_command_that_has_ended() {
    let home = Home::with_type();
    // The look would take ten seconds. A busy machine may take long, but not every time.
    let ended_soon = |_| {
        let start = Instant::now();
        let output = home.run(&["run", "mine", "--", "bash", "-c", "sleep 0.5; echo >&2 done"]);
        assert!(said(&output).ends_with("done\n"), "{output:?}");
        start.elapsed() < Duration::from_secs(9)
    };
    assert!((0..5).any(ended_soon));
}

#[test]
fn a_program_that_listens_on_its_port_or_has_another_lease_is_not_told_of() {
    let inner = "$ITSELF run mine --name web --quiet -- python3 -m http.server {port} & wait";
    let quiet = "python3 -m http.server $ELSEWHERE & wait";
    let own = "python3 -m http.server $ELSEWHERE & python3 -m http.server $PORT & wait";
    let runs =
        [("--no-replace", inner), ("--quiet", quiet), ("--plain", quiet), ("--grace=0", own)];
    // In a session they share a home, one after the other.
    thread::scope(|scope| {
        for (option, line) in runs {
            scope.spawn(move || {
                let home = Home::with_type();
                let mut command = home.styxy();
                command.env("ITSELF", home.styxy().get_program());
                command.env("ELSEWHERE", home.port(7).to_string());
                let command = command.args(["run", "mine", option, "--", "bash", "-c", line]);
                let child = Group::of(command);
                // Python says that it serves when somebody asks, so it is asked of the kernel.
                let is_there = || home.leases().iter().any(|lease| lease["state"] == "listening");
                let listens = || TcpStream::connect(("127.0.0.1", home.port(7))).is_ok();
                home.until(|| is_there() || listens());
                thread::sleep(Duration::from_secs(3));
                let told = child.end();
                assert!(!told.contains("not on"), "{option}: {told}");
                home.until(|| home.leases().is_empty() && !listens());
            });
        }
    });
}

#[test]
fn a_known_program_behind_a_shell_is_told_of_before_it_is_started() {
    let home = Home::with_type();
    let told = |options: &[&str]| {
        let command = ["--", "bash", "-c", "exit 0; cd web && vite"];
        said(&home.run(&[&["run", "mine"], options, &command].concat()))
    };
    let hint = "may not read PORT: write vite --port $PORT --strictPort\n";
    assert!(told(&[]).contains(&format!("styxy: Vite, which the command starts, {hint}")));
    let web = told(&["--env", "WEB"]);
    assert!(web.contains("may not read WEB: write vite --port $WEB --strictPort"), "{web}");
    for option in ["--quiet", "--json", "--plain"] {
        assert!(!told(&[option]).contains("Vite"), "{option}");
    }
}
