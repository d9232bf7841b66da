//! Units of the user's manager and connections to the bus as owners.

use std::process::Command;

use serde_json::{Value as Json, json};
use zbus::Variant;

use super::{
    assert_told,
    client::{Client, LIMIT, Lease, kill_service, systemctl},
};
use crate::{
    inside,
    machine::{Machine, eventually},
};

pub fn ends(machine: &Machine) {
    let ended = &[("allocate", ""), ("expire", "owner_gone")];
    for _ in 0..5 {
        // The first call of all finds the service ready for any owner. `busctl` itself is the
        // connection, and is gone at once.
        machine.user("systemctl --user stop styxy.service").ok();
        let lease = machine.call("Allocate", "'sa{sv}' dev 1 owner s connection").unwrap();
        assert_told(machine, &lease[1], ended);
        machine.user("systemctl --user stop styxy.service").ok();
        let lease = machine.call("Allocate", "'sa{sv}' dev 1 unit s default.target").unwrap();
        machine.call("Release", &format!("s {}", lease[1])).unwrap();
    }

    let result = machine.inside("owners units");
    for lease_id in result["ended"].as_array().unwrap() {
        assert_told(machine, lease_id, ended);
    }
}

/// Returns the leases that have ended with their owner.
pub async fn inside() -> Json {
    let client = Client::new().await;
    let mut ended = vec![
        stopped(&client).await,
        failed(&client).await,
        outliving(&client).await,
        the_manager_begins_anew(&client).await,
        busy(&client).await,
    ];
    refused(&client).await;
    ended.extend(connections(&client).await);
    ended.push(restarted(&client).await);
    json!({"ended": ended.into_iter().map(|lease| lease.id).collect::<Vec<_>>()})
}

async fn stopped(client: &Client) -> Lease {
    run("stopped", "exec sleep 1000");
    run("another", "exec sleep 1000");
    let lease = client.allocate(&of_unit("stopped.service")).await;
    let other = client.allocate(&of_unit("another.service")).await;
    client.lives_on(&lease).await;
    systemctl(&["stop", "stopped.service"]);
    assert_eq!(client.end_of(&lease).await, "owner_gone");
    client.lives_on(&other).await;
    systemctl(&["stop", "another.service"]);
    assert_eq!(client.end_of(&other).await, "owner_gone");
    lease
}

async fn failed(client: &Client) -> Lease {
    run("failing", "read -r _ < <(sleep 2); exit 3");
    let lease = client.allocate(&of_unit("failing.service")).await;
    client.lives_on(&lease).await;
    assert_eq!(client.end_of(&lease).await, "owner_gone");
    // It is there, but it has failed.
    let error = client.try_allocate(&of_unit("failing.service")).await.unwrap_err();
    assert!(error.contains("not active"), "{error}");
    systemctl(&["reset-failed", "failing.service"]);
    lease
}

/// A unit and a connection outlive a service that is killed.
async fn outliving(client: &Client) -> Lease {
    run("outliving", "exec sleep 1000");
    let lease = client.allocate(&of_unit("outliving.service")).await;
    let own = client.allocate(&[("owner", "connection".into())]).await;
    kill_service();
    client.lives_on(&lease).await;
    client.lives_on(&own).await;
    systemctl(&["stop", "outliving.service"]);
    assert_eq!(client.end_of(&lease).await, "owner_gone");
    inside::release(&client.bus, &own.id).await.unwrap();
    lease
}

/// The manager reads its units anew, and is replaced by itself: it still tells the end of a unit.
async fn the_manager_begins_anew(client: &Client) -> Lease {
    run("steady", "exec sleep 1000");
    let lease = client.allocate(&of_unit("steady.service")).await;
    systemctl(&["daemon-reload"]);
    client.lives_on(&lease).await;
    systemctl(&["daemon-reexec"]);
    client.lives_on(&lease).await;
    systemctl(&["stop", "steady.service"]);
    assert_eq!(client.end_of(&lease).await, "owner_gone");
    lease
}

/// Begins to send its status when it is told to.
const BUSY: &str = "
import os, signal, socket
manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
manager.connect(os.environ['NOTIFY_SOCKET'].replace('@', '\\0', 1))
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
manager.send(b'READY=1')
signal.sigwait([signal.SIGUSR1])
for i in range(400):
    manager.send(b'STATUS=%d of 399' % i)
signal.pause()
";

/// A unit that sends four hundred lines of its status at once is watched on, and the bus answers.
async fn busy(client: &Client) -> Lease {
    let unit = ["--user", "--quiet", "--unit=busy.service", "--property=Type=notify"];
    let mut started = Command::new("systemd-run");
    started.args(unit).args(["--", "python3", "-c", BUSY]);
    assert!(started.status().unwrap().success());
    let lease = client.allocate(&of_unit("busy.service")).await;
    client.lives_on(&lease).await;
    systemctl(&["kill", "--signal=USR1", "busy.service"]);
    eventually(LIMIT, "the whole status is read", || {
        let show = ["--user", "show", "--property=StatusText", "busy.service"];
        let shown = Command::new("systemctl").args(show).output().unwrap();
        String::from_utf8(shown.stdout).unwrap().trim_end() == "StatusText=399 of 399"
    });
    tokio::time::timeout(LIMIT, client.lives_on(&lease)).await.expect("the bus answers");
    systemctl(&["stop", "busy.service"]);
    assert_eq!(client.end_of(&lease).await, "owner_gone");
    lease
}

/// Who restarts a unit does not want to end it, though it is inactive for a moment.
async fn restarted(client: &Client) -> Lease {
    run("restarting", "exec sleep 1000");
    let lease = client.allocate(&of_unit("restarting.service")).await;
    for _ in 0..8 {
        systemctl(&["restart", "restarting.service"]);
        client.lives_on(&lease).await;
    }
    systemctl(&["stop", "restarting.service"]);
    assert_eq!(client.end_of(&lease).await, "owner_gone");
    lease
}

async fn refused(client: &Client) {
    run("gone", "exec sleep 1000");
    systemctl(&["stop", "gone.service"]);
    for unit in ["gone.service", "unknown.service", "styxy-tcp.socket"] {
        let error = client.try_allocate(&of_unit(unit)).await.unwrap_err();
        assert!(error.contains("Error.InvalidArgument"), "{error}");
        assert!(error.contains("not active"), "{error}");
    }
    // One that no person has started is as good.
    let lease = client.allocate(&of_unit("default.target")).await;
    inside::release(&client.bus, &lease.id).await.unwrap();
}

/// The end of a connection, and not the end of the process that had it.
async fn connections(client: &Client) -> Vec<Lease> {
    let closing = Client::deaf().await;
    let lease = closing.allocate(&[("owner", "connection".into())]).await;
    let block = [("owner", "connection".into()), ("count", Variant::U16(2))];
    let block = closing.allocate(&block).await;
    client.lives_on(&lease).await;
    kill_service();
    client.lives_on(&lease).await;
    drop(closing);
    assert_eq!(client.end_of(&lease).await, "owner_gone");
    assert_eq!(client.end_of(&block).await, "owner_gone");
    assert_eq!(client.list(&[]).await, Vec::<Json>::new());
    vec![lease, block]
}

fn of_unit(unit: &str) -> [(&str, Variant<'_>); 2] {
    [("owner", "unit".into()), ("unit", unit.into())]
}

/// Starts a transient service.
pub fn run(name: &str, script: &str) {
    let unit = format!("--unit={name}.service");
    // It is restarted more often in a row than systemd would have it.
    let limit = "--property=StartLimitIntervalSec=0";
    let arguments = ["--user", "--quiet", &unit, limit, "--", "bash", "-c", script];
    assert!(Command::new("systemd-run").args(arguments).status().unwrap().success());
}
