//! PIDs that come again: the kernel is made to give the number of an owner that has ended to another
//! process of the same user.

use serde_json::{Value as Json, json};

use super::{assert_told, client::LIMIT};
use crate::machine::{Machine, eventually};

/// Ends process $1 and has the kernel give its number to a new one of the user; whatever else is
/// started in the machine may be quicker, so it is tried again. /proc/sys is read-only here, so a
/// mount of its own is written to.
const REUSE: &str = r#"
    fresh=$(mktemp -d) && mount -t proc proc "$fresh" || exit
    start() { sed 's/.*) //' "/proc/$1/stat" | cut -d ' ' -f 20; }
    before=$(start "$1")
    kill -KILL "$1"
    while [[ -e /proc/$1 ]]; do sleep 0.01; done
    for _ in {1..500}; do
        echo $(($1 - 1)) >"$fresh/sys/kernel/ns_last_pid" || exit
        setpriv --reuid=dev --regid=dev --init-groups sleep 1000 </dev/null >/dev/null 2>&1 &
        [[ $! != "$1" ]] || break
        kill -KILL $! && wait $! 2>/dev/null
    done
    [[ $! == "$1" ]] || exit
    until grep -q "^Uid:\s$(id -u dev)\s" "/proc/$1/status"; do sleep 0.01; done
    echo "PID $1 began at tick $before, and again at tick $(start "$1")"
"#;

pub fn pids(machine: &Machine) {
    let stop = "systemctl --user stop styxy.service";
    let start = "systemctl --user start styxy.service";
    let signal =
        |name: &str| format!("systemctl --user kill --kill-who=main -s {name} styxy.service");
    let (freeze, thaw) = (signal("STOP"), signal("CONT"));
    // A service that is frozen can be killed before it has seen anything.
    for (before, after) in [(stop, start), (&freeze, &thaw), (&freeze, &signal("KILL"))] {
        let pid = sleeper(machine);
        let lease = machine.call("Allocate", &format!("'sa{{sv}}' dev 1 pid u {pid}")).unwrap();
        let instance =
            machine.call("RegisterInstance", &format!("'sa{{sv}}' agent 1 pid u {pid}")).unwrap();
        assert_eq!(instance[0]["pid"]["data"].to_string(), pid);
        let of_instance = machine.call("Allocate", "'sa{sv}' dev 1 instance_id s agent").unwrap();

        machine.user(before).ok();
        let reused = machine.root(&format!("unshare --mount bash -c '{}' - {pid}", quoted())).ok();
        assert!(reused.starts_with(&format!("PID {pid} began")), "{reused}");
        eprintln!("{}: {}", machine.name(), reused.trim());
        machine.user(after).ok();

        eventually(LIMIT, "the leases have ended", || leases(machine) == json!([]));
        assert_told(machine, &lease[1], &[("allocate", ""), ("expire", "owner_gone")]);
        assert_told(machine, &of_instance[1], &[("allocate", ""), ("expire", "instance_gone")]);
        assert_eq!(machine.call("ListInstances", "").unwrap(), json!([[]]));

        // The new process is an owner in its own right.
        let own = machine.call("Allocate", &format!("'sa{{sv}}' dev 1 pid u {pid}")).unwrap();
        assert_eq!(leases(machine)[0]["lease_id"]["data"], own[1]);
        machine.root(&format!("kill -KILL {pid}")).ok();
        eventually(LIMIT, "its lease has ended", || leases(machine) == json!([]));
        assert_told(machine, &own[1], &[("allocate", ""), ("expire", "owner_gone")]);
    }
}

/// The script within single quotes.
fn quoted() -> String {
    REUSE.replace('\'', r"'\''")
}

fn leases(machine: &Machine) -> Json {
    machine.call("List", "'a{sv}' 0").unwrap()[0].clone()
}

/// A process that nobody here is the parent of, so that it is gone when it has ended.
fn sleeper(machine: &Machine) -> String {
    machine.user("sleep 1000 </dev/null >/dev/null 2>&1 & echo $!").ok().trim().to_owned()
}
