//! `styxy open`: the socket for TCP listens as long as a page is open, and the link is seen by nobody else.

use std::time::Duration;

use serde_json::Value as Json;

use crate::{
    Test,
    machine::{Machine, eventually},
};

pub const TESTS: &[Test] = &[
    ("a_page_has_the_service_listen_as_long_as_it_is_open", opens),
    ("a_socket_that_is_enabled_stays_when_the_last_page_is_closed", enabled),
    ("the_link_reaches_the_browser_and_nobody_else", secret),
    ("a_page_is_refused_where_another_user_has_the_port", others),
    ("a_service_that_was_killed_still_stops_the_socket_of_pages", killed),
    ("a_page_that_cannot_be_opened_leaves_tcp_off", fails),
    ("tcp_is_refused_while_its_port_is_leased", leased),
];

const UNIT: &str = "styxy-tcp.socket";
/// Says that the socket listens for pages only.
const MARK: &str = "$XDG_RUNTIME_DIR/styxy/tcp-for-pages";
const URL: &str = "http://127.0.0.1:9876";
/// Secrets wait for a minute, and the socket for half of one.
const LIMIT: Duration = Duration::from_secs(120);

/// The token of the session that a link opens.
#[track_caller]
fn session(machine: &Machine, link: &str) -> String {
    let secret = link.trim().strip_prefix(&format!("{URL}/#")).expect(link);
    let body = format!("-d '{{\"secret\": \"{secret}\"}}'");
    let answer =
        machine.user(&format!("curl -sS -H 'Origin: {URL}' {body} {URL}/page/session")).ok();
    let answer: Json = serde_json::from_str(&answer).expect(&answer);
    answer["session"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
}

fn opens(machine: &Machine) {
    // A service that runs has to be started again for the socket.
    let granted = machine.call("Allocate", "'sa{sv}' dev 1 service_name s web").unwrap();
    let opened = machine.user("styxy open --print");
    assert!(opened.stderr.contains("HTTP over TCP was off"), "{opened:?}");
    assert_eq!(machine.unit_state(UNIT), "active");
    assert_eq!(machine.unit(UNIT, "UnitFileState"), "disabled");
    let token = session(machine, &opened.ok());
    let with = format!("-H 'Authorization: Bearer {token}'");
    let leases = machine.user(&format!("curl -sS {with} {URL}/leases")).ok();
    assert!(leases.contains(&format!("\"port\":{}", granted[0])), "{leases}");

    // Longer than the time in which nobody may be there.
    let page = machine.user(&format!("timeout 40 curl -sSN {with} {URL}/events"));
    assert_eq!(page.code, Some(124), "it did not end by itself: {page:?}");
    assert_eq!(machine.unit_state(UNIT), "active");
    // A second page asks for nothing to be started.
    let again = machine.user("styxy open --json");
    assert!(again.stderr.contains("no display"), "{again:?}");
    let again = machine.user("styxy open --print --json");
    assert!(again.stderr.is_empty(), "{again:?}");
    let again: Json = serde_json::from_str(&again.ok()).unwrap();
    assert_eq!((&again["temporary"], &again["url"]), (&true.into(), &URL.into()));
    let status = machine.user("styxy http status").ok();
    assert!(status.contains("until the last page is closed"), "{status}");
    let status: Json =
        serde_json::from_str(&machine.user("styxy http status --json").ok()).unwrap();
    assert_eq!((&status["temporary"], &status["enabled"]), (&true.into(), &false.into()));
    session(machine, again["link"].as_str().unwrap());

    eventually(LIMIT, "the socket is stopped", || machine.unit_state(UNIT) == "inactive");
    eventually(LIMIT, "the service has left the port", || {
        machine.user(&format!("curl -sS {URL}")).code == Some(7)
    });
    eventually(LIMIT, "the lease goes on", || {
        machine.user("styxy list --json").ok().contains(&granted[0].to_string())
    });
    assert_eq!(machine.user("styxy doctor").code, Some(0));
    assert_eq!(machine.user(&format!("test -e {MARK}")).code, Some(1));
    let off = machine.user("styxy http disable").ok();
    assert!(off.contains("off already"), "{off}");
}

fn killed(machine: &Machine) {
    let first = machine.user("styxy open --print").ok();
    let token = session(machine, &first);
    machine.kill_service();
    // The next service ends the page, and a page that comes in time keeps the socket.
    eventually(LIMIT, "the service is there again", || {
        machine.unit("styxy.service", "ActiveState") == "active"
    });
    let with = format!("-H 'Authorization: Bearer {token}'");
    let dead = machine.user(&format!("curl -sS {with} {URL}/leases")).ok();
    assert!(dead.contains("WrongToken") || dead.contains("NoToken"), "{dead}");
    session(machine, &machine.user("styxy open --print").ok());
    assert_eq!(machine.unit_state(UNIT), "active");
    machine.kill_service();
    eventually(LIMIT, "the socket is stopped", || machine.unit_state(UNIT) == "inactive");
    assert_eq!(machine.user(&format!("test -e {MARK}")).code, Some(1));
    eventually(LIMIT, "the service has left the port", || {
        machine.user(&format!("curl -sS {URL}")).code == Some(7)
    });

    // One that was stopped, and a socket that is: the mark is of no use, and does no harm.
    machine.user("styxy open --print && systemctl --user stop styxy.service").ok();
    machine.user(&format!("systemctl --user stop {UNIT} && styxy list")).ok();
    assert_eq!(machine.user(&format!("test -e {MARK}")).code, Some(1));
    machine.user(&format!("systemctl --user start {UNIT} && styxy list")).ok();
    let status = machine.user("styxy http status").ok();
    assert!(status.contains("until the end of this session"), "{status}");
}

fn fails(machine: &Machine) {
    let is_off = || {
        assert_eq!(machine.unit_state(UNIT), "inactive");
        assert_eq!(machine.user(&format!("test -e {MARK}")).code, Some(1));
        let left = machine.user("ls $XDG_RUNTIME_DIR/styxy | grep -c '^open-'").stdout;
        assert_eq!(left, "0\n");
    };
    machine
        .user(
            "mkdir -p bin && printf '#!/bin/sh\\nexit 3\\n' >bin/xdg-open && chmod +x bin/xdg-open",
        )
        .ok();
    let open = "PATH=~/bin:$PATH DISPLAY=:0 styxy open --json";
    let failed = machine.user(open);
    assert_eq!(failed.code, Some(1), "{failed:?}");
    let refusal: Json = serde_json::from_str(&failed.stderr).expect(&failed.stderr);
    assert!(refusal["suggestions"][0].as_str().unwrap().contains("--print"), "{refusal}");
    is_off();
    // As in a runtime directory that is full: a file can be made, and nothing written to it.
    let failed = machine.user(&format!("trap '' XFSZ; ulimit -f 0; {open}"));
    assert!(failed.stderr.contains("no file can be made"), "{failed:?}");
    is_off();
    let failed = machine.user("styxy open");
    assert!(
        failed.stderr.contains("no display") && failed.stderr.contains("--print"),
        "{failed:?}"
    );
    is_off();
    // An editor's browser needs none.
    let without_display = open.replace("DISPLAY=:0", "BROWSER=code");
    let failed = machine.user(&without_display);
    assert!(failed.stderr.contains("xdg-open failed"), "{failed:?}");
    is_off();

    // One that listens already goes on.
    session(machine, &machine.user("styxy open --print").ok());
    assert_eq!(machine.user(open).code, Some(1));
    assert_eq!(machine.unit_state(UNIT), "active");
}

fn leased(machine: &Machine) {
    machine.user("styxy allocate coordination --port 9876 --name mine --strict").ok();
    for command in ["styxy open --print", "styxy http enable"] {
        let refused = machine.user(command);
        assert_eq!(refused.code, Some(1), "{refused:?}");
        for words in ["9876 is leased to coordination mine", "`styxy release 9876`"] {
            assert!(refused.stderr.contains(words), "{refused:?}");
        }
        assert_eq!(machine.unit_state(UNIT), "inactive");
    }
    assert_eq!(machine.unit(UNIT, "UnitFileState"), "disabled");
    let status: Json =
        serde_json::from_str(&machine.user("styxy http status --json").ok()).unwrap();
    assert!(status["obstacle"].as_str().unwrap().contains("leased"), "{status}");

    // Another user's lease is as good.
    machine.script(["user", machine.name(), "eve"]).ok();
    let refused = machine.script(["as", machine.name(), "eve", "--", "styxy", "open", "--print"]);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("styxy top"), "{refused:?}");
    machine.user("styxy release 9876").ok();
    session(machine, &machine.user("styxy open --print").ok());
}

fn enabled(machine: &Machine) {
    let token = session(machine, &machine.user("styxy open --print").ok());
    let is_open = || {
        let with = format!("-H 'Authorization: Bearer {token}'");
        machine.user(&format!("curl -sSf {with} {URL}/leases")).ok();
        assert_eq!(machine.unit_state(UNIT), "active");
    };
    machine.user("styxy http enable").ok();
    is_open();
    let status: Json =
        serde_json::from_str(&machine.user("styxy http status --json").ok()).unwrap();
    assert_eq!((&status["temporary"], &status["enabled"]), (&false.into(), &true.into()));
    assert_eq!(machine.user(&format!("test -e {MARK}")).code, Some(1));
    // Longer than the time after which it would be stopped.
    std::thread::sleep(Duration::from_secs(45));
    is_open();
}

fn secret(machine: &Machine) {
    machine
        .user(
            r#"mkdir -p bin && cat >bin/xdg-open <<'END' && chmod +x bin/xdg-open
#!/bin/sh
tr '\0' '\n' </proc/$$/cmdline >~/seen
tr '\0' '\n' </proc/$$/environ >>~/seen
cp "$1" ~/page
stat -c '%a %U' "$1" >~/mode
END"#,
        )
        .ok();
    let open = "PATH=~/bin:$PATH DISPLAY=:0 styxy open";
    machine.user(open).ok();
    let first = machine.user("cat ~/page").ok();
    machine.user(open).ok();
    let files = machine.user("ls $XDG_RUNTIME_DIR/styxy | grep -c '^open-'").ok();
    assert_eq!(files, "1\n", "the one of before is gone");
    assert_eq!(machine.user("cat ~/mode").ok(), "600 dev\n");
    let page = machine.user("cat ~/page").ok();
    let link = page.split('"').find(|part| part.starts_with(URL)).expect(&page).to_owned();
    assert!(!first.contains(&link), "each has a secret of its own");
    let secret = link.rsplit('#').next().unwrap();
    assert!(!machine.user("cat ~/seen").ok().contains(secret));
    machine.root("journalctl --sync").ok();
    let told = machine.root("journalctl -o export").ok();
    assert!(told.contains("styxy") && !told.contains(secret));
    session(machine, &link);

    // A browser that cannot be started.
    machine.user("printf '#!/bin/sh\\nexit 3\\n' >bin/xdg-open").ok();
    let failed = machine.user(open);
    assert_eq!(failed.code, Some(1), "{failed:?}");
    assert!(failed.stderr.contains("styxy open --print"), "{failed:?}");
    machine.user("rm bin/xdg-open").ok();
    let missing = machine.user("DISPLAY=:0 styxy open");
    assert!(missing.stderr.contains("xdg-utils"), "{missing:?}");
}

fn others(machine: &Machine) {
    machine.script(["user", machine.name(), "eve"]).ok();
    let eve =
        |command: &str| machine.script(["as", machine.name(), "eve", "--", "bash", "-c", command]);
    eve("styxy http enable").ok();
    let refused = machine.user("styxy open --print");
    assert_eq!((refused.code, refused.stdout.as_str()), (Some(1), ""), "{refused:?}");
    for words in ["one port for all users", "styxy top"] {
        assert!(refused.stderr.contains(words), "{refused:?}");
    }
    assert!(!refused.stderr.contains("token"), "{refused:?}");
    assert_eq!(machine.unit_state(UNIT), "inactive");
}
