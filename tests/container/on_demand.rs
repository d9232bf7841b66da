//! The services of a project: servers that the first request starts, and ports that stay.

use std::time::Duration;

use crate::{
    Test,
    machine::{Machine, eventually},
};

pub const TESTS: &[Test] = &[
    ("sleeping_servers_answer_the_first_request_and_sleep_again", asleep),
    ("a_written_unit_is_there_after_a_reboot_and_removed_it_leaves_nothing", written),
    ("a_server_that_cannot_start_fails_in_words_and_frees_its_port", broken),
    ("the_ports_of_a_project_are_the_same_after_a_reboot", same_ports),
];

const SERVER: &str = include_str!("../support/server.py");

fn project(machine: &Machine) {
    machine.user("mkdir -p 'my shop/.git'").ok();
    let script = format!("cat > 'my shop/server.py' <<'END'\n{SERVER}END");
    machine.user(&script).ok();
}

/// The URL of a new server. It listens late, so that a request that is not kept waiting would be reset.
fn unit(machine: &Machine, name: &str, options: &str) -> String {
    let line = format!(
        "cd 'my shop' && styxy unit dev --name {name} {options} --setenv DELAY=1 --setenv MARK='50% of $1' \
         -- python3 server.py"
    );
    machine.user(&line).ok().trim().to_owned()
}

fn get(machine: &Machine, url: &str) -> String {
    machine.user(&format!("curl --silent --show-error --max-time 60 {url}")).ok()
}

fn servers(machine: &Machine) -> usize {
    machine.user("pgrep -c -f 'server[.]py|proxy[d]'; true").ok().trim().parse().unwrap()
}

fn asleep(machine: &Machine) {
    project(machine);
    let urls: Vec<_> = (0..10).map(|n| unit(machine, &format!("s{n}"), "--idle 2")).collect();
    assert_eq!(servers(machine), 0);
    assert_eq!(machine.user("styxy list --json").ok().matches("\"lease_id\"").count(), 10);
    for url in &urls {
        assert_eq!(get(machine, url), "50% of $1 of /home/dev/my shop", "{url}");
    }
    eventually(Duration::from_secs(60), "all to sleep again", || servers(machine) == 0);
    assert_eq!(get(machine, &urls[3]), "50% of $1 of /home/dev/my shop");
    let listed = machine.user("styxy list").ok();
    assert!(listed.contains("s3-backend"), "{listed}");
    // A server that was killed is started by the next request.
    let kill = format!(
        "pid() {{ systemctl --user show --property MainPID --value 'styxy-my-shop-s3-*-backend.service'; }}
        until pid=$(pid) && [ \"${{pid:-0}}\" -gt 0 ] && kill -9 $pid; do curl --silent {} >/dev/null; done",
        urls[3]
    );
    machine.user(&kill).ok();
    eventually(Duration::from_secs(60), "the proxy to end with it", || servers(machine) == 0);
    assert_eq!(get(machine, &urls[3]), "50% of $1 of /home/dev/my shop");
    machine.user("systemctl --user restart 'styxy-my-shop-s3-*.socket'").ok();
    assert_eq!(get(machine, &urls[3]), "50% of $1 of /home/dev/my shop");
    // Made again, it is the same one.
    assert_eq!(unit(machine, "s3", ""), urls[3]);
}

fn written(machine: &Machine) {
    project(machine);
    let url = unit(machine, "web", "--write --idle 2");
    let gone = unit(machine, "gone", "");
    machine.script(["reboot", machine.name()]).ok();
    eventually(Duration::from_secs(60), "the user's systemd", || {
        let state = machine.user("systemctl --user is-active 'styxy-*-web-*.socket'; true").ok();
        state.trim() == "active"
    });
    assert_eq!(get(machine, &url), "50% of $1 of /home/dev/my shop");
    let other = machine.user(&format!("curl --silent --max-time 60 {gone}; echo $?")).ok();
    assert_eq!(other.trim(), "7", "it was not written");
    machine.user("cd 'my shop' && styxy unit dev --name web --remove").ok();
    let left = machine.user("find .config/systemd -name 'styxy-*'; systemctl --user list-units --all --no-legend 'styxy-my*'");
    assert_eq!(left.ok().trim(), "");
    eventually(Duration::from_secs(30), "its leases to end", || {
        machine.user("styxy list").ok().trim() == "no port is leased"
    });
    let again = machine.user("cd 'my shop' && styxy unit dev --name web --remove 2>&1; echo $?");
    assert!(again.ok().contains("there is no styxy-my-shop-web-"), "nothing is there to remove");
}

fn broken(machine: &Machine) {
    project(machine);
    let missing =
        machine.user("cd 'my shop' && styxy unit dev --name none -- ./nothing-is-called-so");
    assert_eq!(missing.code, Some(127), "{missing:?}");
    let line = "cd 'my shop' && styxy unit dev --name bad -- false";
    let url = machine.user(line).ok().trim().to_owned();
    let line = format!("curl --silent --max-time 60 {url}; echo $?");
    let code = machine.user(&line).ok();
    assert!(!["0", "28"].contains(&code.trim()), "{code}");
    eventually(Duration::from_secs(30), "the leases to end", || {
        machine.user("styxy list").ok().trim() == "no port is leased"
    });
    let log = machine.user("journalctl --user --quiet --output=cat").ok();
    assert!(
        log.contains("which was expected to listen, has exited")
            || log.contains("status=1/FAILURE"),
        "{log}"
    );
    // A folder cannot say anything to systemd.
    let line = "mkdir -p $'x\\n[Socket]\\nExecStartPre=touch y' && cd x* && styxy unit dev -- true; echo $?";
    assert_eq!(machine.user(line).ok().trim(), "1");
    // One that listens on ::1 alone is reached, and one that never listens is not tried for ever.
    let six = unit(machine, "six", "--setenv ADDRESS=::1");
    assert_eq!(get(machine, &six), "50% of $1 of /home/dev/my shop");
    let line = "cd 'my shop' && styxy unit dev --name silent --patience 1 -- sleep 1000";
    let silent = machine.user(line).ok().trim().to_owned();
    machine.user(&format!("curl --silent --max-time 30 {silent}; true")).ok();
    eventually(Duration::from_secs(60), "the socket to fail", || {
        let state =
            machine.user("systemctl --user is-failed 'styxy-my-shop-silent-*.socket'; true");
        state.ok().trim() == "failed"
    });
    // What has the port is named.
    let taken = "port=$(styxy suggest dev --json | tr -dc '0-9,' | cut -d, -f1); cd 'my shop'; \
        styxy allocate dev --name other --port 3000 -q; styxy unit dev --name bad --port 3000 -- true";
    assert!(!machine.user(taken).ok().contains(":3000"), "another port is taken");
}

fn same_ports(machine: &Machine) {
    for worktree in ["one", "two"] {
        let line = format!(
            "mkdir -p {worktree}/.git {worktree}/web && cd {worktree} && \
             echo '{{\"scripts\": {{\"dev\": \"vite\"}}}}' > web/package.json && \
             echo 'services: {{db: {{image: postgres, ports: [\"5432:5432\"]}}}}' > compose.yaml"
        );
        machine.user(&line).ok();
    }
    let env = |worktree: &str| machine.user(&format!("cd {worktree} && styxy env")).ok();
    let before = ["one", "two"].map(env);
    assert!(
        before[0].contains("WEB_PORT=3000") && before[0].contains("DB_PORT=5432"),
        "{before:?}"
    );
    assert!(!before[1].contains("WEB_PORT=3000"), "{before:?}");
    machine.script(["reboot", machine.name()]).ok();
    eventually(Duration::from_secs(60), "the user's systemd", || {
        machine.user("systemctl --user is-active styxy.socket; true").ok().trim() == "active"
    });
    // In the other order: what they had decides.
    assert_eq!([env("two"), env("one")], [&*before[1], &*before[0]]);
}
