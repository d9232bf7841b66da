//! HTTP over TCP: off until the user enables it, and then for whoever has the user's token.

use std::time::Duration;

use serde_json::Value as Json;

use crate::{
    Test,
    machine::{Done, Machine, eventually},
    package::install_newer,
};

pub const TESTS: &[Test] = &[
    ("http_over_tcp_is_off_until_the_user_enables_it", off),
    ("a_request_over_tcp_starts_the_service_which_knows_the_token", starts),
    ("http_over_tcp_stays_enabled_over_an_upgrade_and_a_boot", upgrade),
    ("one_user_has_the_port_and_another_gets_nothing", others),
    ("the_token_is_in_no_log_and_no_process_list", secret),
];

const UNIT: &str = "styxy-tcp.socket";
const FILE: &str = "/home/dev/.styxy/auth.token";
const LIMIT: Duration = Duration::from_secs(60);

/// The status and the body of an answer; the status is 0 if nobody listens.
fn curl(machine: &Machine, arguments: &str) -> (u16, Json) {
    answer(&machine.user(&command(arguments)))
}

fn command(arguments: &str) -> String {
    format!("curl -sS -m 60 -w '\\n%{{http_code}}' {arguments}")
}

fn answer(done: &Done) -> (u16, Json) {
    let (body, status) = done.stdout.rsplit_once('\n').unwrap_or(("", "0"));
    (status.parse().unwrap(), serde_json::from_str(body).unwrap_or_default())
}

/// The same with the token.
fn with_token(machine: &Machine, arguments: &str) -> (u16, Json) {
    curl(machine, &format!("-H \"Authorization: Bearer $(cat {FILE})\" {arguments}"))
}

const LEASES: &str = "http://127.0.0.1:9876/leases";

#[track_caller]
fn json(machine: &Machine, command: &str) -> Json {
    serde_json::from_str(&machine.user(command).ok()).unwrap()
}

fn off(machine: &Machine) {
    let is_off = || {
        assert_eq!(machine.unit_state(UNIT), "inactive");
        assert_eq!(machine.unit(UNIT, "UnitFileState"), "disabled");
        curl(machine, LEASES).0 == 0
    };
    assert!(is_off());
    machine.user("systemctl --user preset-all --preset-mode=enable-only").ok();
    assert!(is_off());
    let status = json(machine, "styxy http status --json");
    assert_eq!((&status["listening"], &status["obstacle"]), (&false.into(), &Json::Null));

    let granted = machine.call("Allocate", "'sa{sv}' dev 1 service_name s web").unwrap();
    let enabled = json(machine, "styxy http enable --json");
    assert_eq!(enabled["url"], "http://127.0.0.1:9876");
    assert_eq!(enabled["file"], FILE);
    assert_eq!(
        machine.user(&format!("stat -c '%a %U' {FILE} ~/.styxy")).ok(),
        "600 dev\n700 dev\n"
    );
    // The service that ran is there again, with its lease, and with the socket.
    let (status, leases) = with_token(machine, LEASES);
    assert_eq!((status, &leases["leases"][0]["port"]), (200, &granted[0]), "{leases}");
    assert_eq!(curl(machine, LEASES).0, 401);
    let status = json(machine, "styxy http status --json");
    for key in ["listening", "enabled", "token_is_known"] {
        assert_eq!(status[key], true, "{status}");
    }

    // Once more is no change.
    let token = machine.user(&format!("cat {FILE}")).ok();
    machine.user("styxy http enable").ok();
    assert_eq!(machine.user(&format!("cat {FILE}")).ok(), token);

    // As often as somebody likes.
    for _ in 0..8 {
        machine.user("styxy http disable && styxy http enable").ok();
    }
    assert_eq!(with_token(machine, LEASES).0, 200);
    machine.user("styxy http disable").ok();
    assert!(is_off(), "also the service has left the port");
    eventually(LIMIT, "the lease goes on", || {
        machine.user("styxy list --json").ok().contains(&granted[0].to_string())
    });
    assert!(machine.user("styxy doctor").code == Some(0));
}

fn starts(machine: &Machine) {
    machine.user("styxy http enable && systemctl --user stop styxy.service").ok();
    assert_eq!(with_token(machine, LEASES).0, 200);
    assert_eq!(machine.unit_state("styxy.service"), "active");
    let grant = "http://localhost:9876/allocate -d '{\"service_type\": \"dev\"}'";
    let (status, granted) = with_token(machine, grant);
    assert_eq!(status, 200, "{granted}");
    machine.kill_service();
    assert_eq!(with_token(machine, LEASES).1["leases"][0]["port"], granted["port"]);

    let before = machine.user(&format!("cat {FILE}")).ok();
    machine.user("styxy token rotate").ok();
    assert_ne!(machine.user(&format!("cat {FILE}")).ok(), before);
    assert_eq!(with_token(machine, LEASES).0, 200);
    assert_eq!(curl(machine, &format!("-H 'X-API-Key: {}' {LEASES}", before.trim())).0, 401);

    // A token of styxy 1.x: any text of 32 characters or more, in a folder that others can read.
    let old = "a-token-of-styxy-1.x-with-symbols-+/=";
    machine
        .user(&format!("chmod 755 ~/.styxy && printf %s {old} > {FILE} && styxy http enable"))
        .ok();
    assert_eq!(machine.user(&format!("cat {FILE}")).ok(), old);
    assert_eq!(with_token(machine, LEASES).0, 200);
    let shown = machine.user("styxy token show; STYXY_SHOW_FULL_KEY=true styxy token show").ok();
    assert_eq!(shown, format!("a-to***-+/=, in ~/.styxy/auth.token\n{old}\n"));

    machine.user(&format!("rm {FILE}")).ok();
    let found = http_finding(machine);
    assert!(found.contains("no token in ~/.styxy/auth.token"), "{found}");
    machine.user(&format!("printf %s {old} > {FILE}")).ok();

    // One that others could have read is not used.
    let refused = machine.user(&format!("chmod 644 {FILE}; styxy http enable"));
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("styxy token rotate"), "{refused:?}");
    machine.user("styxy token rotate && styxy http enable").ok();
    assert_eq!(machine.user(&format!("stat -c %a {FILE}")).ok(), "600\n");
}

fn upgrade(machine: &Machine) {
    machine.user("styxy http enable").ok();
    install_newer(machine);
    assert_eq!(with_token(machine, LEASES).0, 200);
    machine.root("apt-get remove -y styxy").ok();
    assert_eq!(with_token(machine, LEASES).0, 0, "nobody is there");
    machine.root("apt-get install -y /var/tmp/newer.deb").ok();
    assert_eq!(with_token(machine, LEASES).0, 200);
    machine.script(["reboot", machine.name()]).ok();
    eventually(LIMIT, "the user's bus is back", || {
        machine.user("busctl --user status").code == Some(0)
    });
    assert_eq!(with_token(machine, LEASES).0, 200);
}

fn others(machine: &Machine) {
    // What comes into the user's environment opens nothing.
    machine
        .user(
            "mkdir -p ~/.config/environment.d && echo STYXY_SKIP_AUTH=true > ~/.config/environment.d/styxy.conf
             systemctl --user set-environment STYXY_SKIP_AUTH=true && systemctl --user daemon-reexec",
        )
        .ok();
    machine.user("styxy http enable").ok();
    machine.script(["user", machine.name(), "eve"]).ok();
    let eve = |command: &str| -> Done {
        machine.script(["as", machine.name(), "eve", "--", "bash", "-c", command])
    };
    for header in ["", "-H 'Authorization: Bearer 0123456789abcdef0123456789abcdef'"] {
        for _ in 0..3 {
            assert_eq!(answer(&eve(&command(&format!("{header} {LEASES}")))).0, 401);
        }
    }
    let read = eve(&format!("cat {FILE}"));
    assert!(read.stdout.is_empty(), "{read:?}");
    let denied: Vec<_> = machine
        .events()
        .into_iter()
        .filter(|event| event["STYXY_ACTION"] == "deny")
        .map(|event| (event["STYXY_REASON"].clone(), event["STYXY_CLIENT_UID"].clone()))
        .collect();
    // The user namespace of the sandbox has no name for other users.
    let other = Json::from("65534");
    assert_eq!(denied, [("NoToken".into(), other.clone()), ("WrongToken".into(), other)]);

    // To many programs, localhost is ::1.
    let listen = "python3 -c 'import socket; s = socket.socket(socket.AF_INET6); s.bind((\"::1\", 9876)); s.listen()'";
    assert!(eve(listen).stderr.contains("Address already in use"));
    let everywhere = listen.replace("s.bind((\"::1\"", "s.setsockopt(41, 26, 1); s.bind((\"::\"");
    assert!(eve(&everywhere).stderr.contains("Address already in use"));
    assert_eq!(with_token(machine, "-6 http://localhost:9876/leases").0, 200);

    // There is one port.
    let refused = eve("styxy http enable");
    assert_eq!(refused.code, Some(1), "{refused:?}");
    for words in ["port 9876", "one port for all users", "styxy token rotate"] {
        assert!(refused.stderr.contains(words), "{refused:?}");
    }
    assert_eq!(eve("systemctl --user is-enabled styxy-tcp.socket").stdout, "disabled\n");
    assert!(eve("styxy http status").ok().contains("HTTP over TCP is off"));
    machine.user("styxy http disable").ok();
    eve("styxy http enable").ok();
    assert_eq!(with_token(machine, LEASES).0, 401, "it is another service");
    let status = json(machine, "styxy http status --json");
    assert!(status["obstacle"].as_str().unwrap().contains("eve"), "{status}");
    // Nor does it help to start the socket again.
    machine.user("systemctl --user --quiet enable styxy-tcp.socket").ok();
    let found = http_finding(machine);
    assert!(found.contains("eve") && found.contains("styxy token rotate"), "{found}");
    assert!(!found.contains("systemctl --user restart"), "{found}");
}

/// What doctor finds of HTTP over TCP, which does not work, and what to do.
fn http_finding(machine: &Machine) -> String {
    let told: Json = serde_json::from_str(&machine.user("styxy doctor --json").stdout).unwrap();
    let findings = told["findings"].as_array().unwrap();
    let finding = findings.iter().find(|finding| finding["check"] == "http").unwrap();
    assert_eq!(finding["verdict"], "error", "{finding}");
    format!("{} {}", finding["message"], finding["remedy"])
}

fn secret(machine: &Machine) {
    machine.user("styxy http enable && styxy token show && styxy token show --json").ok();
    assert_eq!(with_token(machine, LEASES).0, 200);
    assert_eq!(curl(machine, LEASES).0, 401);
    machine
        .user("styxy status --json; styxy doctor --json; styxy audit --json; styxy http status")
        .ok();
    assert_eq!(machine.user(&format!("cat {FILE}")).ok().len(), 64);
    // Each test ends with this search, which would find it.
    assert_eq!(machine.leaked_tokens(), "");
    machine.user(&format!("cp {FILE} copy && systemd-cat cat {FILE}")).ok();
    let leaked = machine.leaked_tokens();
    let places: Vec<_> =
        leaked.lines().filter(|line| !line.starts_with("/var/log/journal/")).collect();
    assert_eq!(places, ["entries of the journal: 1", "/home/dev/copy"], "{leaked}");
    machine.user("styxy token rotate").ok();
}
