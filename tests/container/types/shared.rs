//! One model server for many sessions.

use std::{
    io::{BufRead, BufReader, Write},
    net::{Ipv4Addr, TcpStream},
    path::PathBuf,
    process::{Child, ChildStdout, Command, Stdio},
    sync::LazyLock,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value as Json, json};

use super::{events, json};
use crate::{
    crash,
    machine::{Machine, eventually},
    owners::client::{self, Client, LIMIT, Lease, Sleeper, kill_service, systemctl},
};

/// A session asks for the model server when it is told to, and starts it if it is the first. It tells
/// the answer and the PID of its server, and goes on until its input ends.
const SESSION: &str = r#"
    read -r _
    answer=$(styxy allocate ai --owner parent --json)
    server=0
    if [[ $answer != *'"existing"'* ]]; then
        port=$(sed -nE 's/.*"port": ?([0-9]+).*/\1/p' <<<"$answer")
        setsid python3 -m http.server "$port" --bind 127.0.0.1 </dev/null >/dev/null 2>&1 &
        server=$!
    fi
    printf '%s\n%s\n' "${answer//$'\n'/ }" "$server"
    read -r _"#;

pub fn sessions(machine: &Machine) {
    let result = machine.inside("types sessions");
    let of_lease = |action: &str| {
        let mut events = events(machine, action);
        events.retain(|event| event["STYXY_LEASE_ID"] == result["lease_id"]);
        events
    };
    let owners = |events: &[Json]| -> Vec<String> {
        events.iter().map(|event| event["STYXY_OWNER"].as_str().unwrap().to_owned()).collect()
    };
    let [granted] = &of_lease("allocate")[..] else { panic!("it was granted once") };
    let order: Vec<u32> = serde_json::from_value(result["order"].clone()).unwrap();
    let process = |pid: &u32| format!("process:{pid}");
    assert_eq!(granted["STYXY_OWNER"], process(&order[0]));

    let shared = of_lease("singleton_reuse");
    // The sessions, and two who have only asked.
    assert_eq!(shared.len(), 7 + 2, "{shared:#?}");
    for event in &shared[..7] {
        assert_eq!(event["MESSAGE"], "Shared TCP port 11430 of ai of /home/dev", "{event:#}");
        assert_eq!(event["STYXY_CLIENT_COMM"], "styxy", "{event:#}");
        assert_eq!(event["STYXY_OWNER"], granted["STYXY_OWNER"], "who holds it");
    }
    // One after the other has held it the longest.
    let left = of_lease("singleton_leave");
    assert_eq!(owners(&left), order[1..].iter().map(process).collect::<Vec<_>>());
    assert!(left.iter().all(|event| event["STYXY_REASON"] == "owner_gone"), "{left:#?}");
    let [ended] = &of_lease("expire")[..] else { panic!("it has ended once") };
    assert_eq!(ended["STYXY_REASON"], "owner_gone");
    assert_eq!(of_lease("orphan"), Vec::<Json>::new(), "there was always somebody");
}

/// Returns the lease, and the sessions in the order in which they held it.
pub async fn inside_sessions() -> Json {
    let client = Client::new().await;
    let mut sessions: Vec<_> = (0..8).map(|_| Session::new()).collect();
    sessions.iter_mut().for_each(|session| session.say("go"));
    let answers: Vec<_> = sessions.iter_mut().map(Session::answer).collect();

    let first = answers.iter().position(|(answer, _)| answer.get("existing").is_none()).unwrap();
    let lease = &answers[first].0;
    let holder = format!("held by process {}, /home/dev since ", sessions[first].pid());
    for (i, (answer, server)) in answers.iter().enumerate() {
        assert_eq!((&answer["port"], &answer["lease_id"]), (&json!(11430), &lease["lease_id"]));
        assert_eq!(*server != 0, i == first, "{answers:?}");
        assert_eq!(answer["instance_behavior"], "single");
        if i != first {
            assert_eq!(answer["existing"], true, "{answer}");
            assert!(answer["held"].as_str().unwrap().starts_with(&holder), "{answer}");
        }
    }
    let server = Pid::from_raw(answers[first].1);
    let lease = Lease { id: lease["lease_id"].as_str().unwrap().to_owned(), port: 11430 };
    client.until_state(&lease, Some("listening")).await;
    held_by(&client, &lease, 8, sessions[first].pid()).await;
    // Whoever only asks is told, and holds nothing.
    let asked = client.call("Allocate", "ai", &[]).await.unwrap();
    assert_eq!(client::grant(&asked)["existing"], true);
    held_by(&client, &lease, 8, sessions[first].pid()).await;
    let words = Command::new("styxy").args(["allocate", "ai"]).output().unwrap();
    let words = String::from_utf8(words.stderr).unwrap();
    let told = format!("ai runs once, and it has port 11430: connect to it ({holder}");
    assert!(words.contains(&told), "{words}");

    let mut order = vec![sessions[first].pid()];
    for left in (1..8).rev() {
        // The service is killed when 7 and when 3 are left; when the fourth ends, it does not run.
        if left == 4 {
            systemctl(&["stop", "styxy.service"]);
        }
        let ending = sessions.iter().position(|s| Some(&s.pid()) == order.last()).unwrap();
        sessions.remove(ending).end();
        order.push(holder_with(&client, &lease, left).await);
        if left == 7 || left == 3 {
            kill_service();
            held_by(&client, &lease, left, *order.last().unwrap()).await;
        }
        assert_eq!(client.state(&lease).await.as_deref(), Some("listening"));
        TcpStream::connect((Ipv4Addr::LOCALHOST, lease.port)).unwrap();
    }
    // The last one ends what it has used, and itself.
    kill(server, Signal::SIGKILL).unwrap();
    client.until_state(&lease, Some("reserved")).await;
    sessions.remove(0).end();
    assert_eq!(client.end_of(&lease).await, "owner_gone");
    // And the type is free again, for somebody who starts it.
    let next = client.call("Allocate", "ai", &[]).await.unwrap();
    assert_eq!(client::grant(&next).get("existing"), None);
    json!({"lease_id": lease.id, "order": order})
}

/// A file, because a shell with -c is passed over as an owner.
static SCRIPT: LazyLock<PathBuf> = LazyLock::new(|| {
    let path = std::env::temp_dir().join("session.sh");
    std::fs::write(&path, SESSION).unwrap();
    path
});

/// A session, as a process.
struct Session {
    process: Child,
    output: BufReader<ChildStdout>,
}

impl Session {
    fn new() -> Self {
        let mut bash = Command::new("bash");
        bash.arg(&*SCRIPT).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = bash.spawn().unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        Self { process, output }
    }

    fn pid(&self) -> u32 {
        self.process.id()
    }

    fn say(&mut self, line: &str) {
        writeln!(self.process.stdin.as_mut().unwrap(), "{line}").unwrap();
    }

    /// What `styxy allocate` has said, and the PID of the server that it has started, or 0.
    fn answer(&mut self) -> (Json, i32) {
        let mut line = || {
            let mut line = String::new();
            self.output.read_line(&mut line).unwrap();
            line
        };
        let (answer, server) = (line(), line());
        (serde_json::from_str(&answer).unwrap(), server.trim().parse().unwrap())
    }

    fn end(mut self) {
        drop(self.process.stdin.take());
        self.process.wait().unwrap();
    }
}

/// Asserts that so many hold the lease, that process the longest.
async fn held_by(client: &Client, lease: &Lease, holders: u64, longest: u32) {
    let shown = &client.list(&[("lease_id", lease.id.as_str().into())]).await[0];
    let count = shown.get("holders").map_or(1, |holders| holders.as_u64().unwrap());
    assert_eq!((count, &shown["pid"]), (holders, &json!(longest)), "{shown}");
}

/// Waits until only so many hold the lease; the one who holds it the longest.
async fn holder_with(client: &Client, lease: &Lease, holders: u64) -> u32 {
    let start = Instant::now();
    loop {
        let shown = &client.list(&[("lease_id", lease.id.as_str().into())]).await[0];
        let count = shown.get("holders").map_or(1, |holders| holders.as_u64().unwrap());
        if count == holders {
            return shown["pid"].as_u64().unwrap().try_into().unwrap();
        }
        assert!(start.elapsed() < LIMIT, "{holders} ought to hold {shown}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub fn adopted(machine: &Machine) {
    let result = machine.inside("types adopted");
    let all = crash::audited(machine);
    let told = all.iter().filter(|event| event["STYXY_LEASE_ID"] == result["lease_id"]);
    let told: Vec<_> = told.map(|event| event["STYXY_ACTION"].as_str().unwrap()).collect();
    let expected = [
        "allocate",
        "singleton_reuse",
        "singleton_leave",
        "orphan",
        "singleton_reuse",
        "singleton_reuse",
        "orphan",
        "expire",
    ];
    assert_eq!(told, expected);
}

/// A server that outlives its sessions belongs to the next one.
pub async fn inside_adopted() -> Json {
    let client = Client::new().await;
    let share = async |owner: &Sleeper| {
        let reply = client.call("Allocate", "ai", &[("pid", owner.pid().into())]).await.unwrap();
        client::grant(&reply)
    };
    let [first, second, third] = [(); 3].map(|()| Sleeper::new());
    let granted = share(&first).await;
    let id = granted["lease_id"].as_str().unwrap().to_owned();
    let lease = Lease { id, port: granted["port"].as_u64().unwrap().try_into().unwrap() };
    let mut python = Command::new("python3");
    python.args(["-m", "http.server", "--bind", "127.0.0.1", &lease.port.to_string()]);
    let mut server = python.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    client.until_state(&lease, Some("listening")).await;
    let pid = second.pid();
    share(&second).await;
    first.end();
    assert_eq!(holder_with(&client, &lease, 1).await, pid);
    second.end();
    client.until_state(&lease, Some("orphaned")).await;

    // Who only asks is told the port, and does not make it live on.
    let asked = client.call("Allocate", "ai", &[]).await.unwrap();
    let asked = client::grant(&asked);
    assert_eq!((&asked["existing"], &asked["port"]), (&json!(true), &json!(lease.port)));
    assert_eq!(client.state(&lease).await.as_deref(), Some("orphaned"));

    let adopting = share(&third).await;
    assert_eq!((&adopting["existing"], &adopting["lease_id"]), (&json!(true), &json!(lease.id)));
    assert_eq!(client.state(&lease).await.as_deref(), Some("listening"));
    held_by(&client, &lease, 1, third.pid()).await;
    kill_service();
    held_by(&client, &lease, 1, third.pid()).await;
    assert_eq!(client.state(&lease).await.as_deref(), Some("listening"));
    third.end();
    client.until_state(&lease, Some("orphaned")).await;
    server.kill().unwrap();
    server.wait().unwrap();
    assert_eq!(client.end_of(&lease).await, "listener_gone");
    json!({"lease_id": lease.id})
}

pub fn keys(machine: &Machine) {
    let allocate = |options: &str| json(machine, &format!("styxy allocate ai {options}"));
    let plain = allocate("");
    let llama = allocate("--singleton-key llama");
    let qwen = allocate("--singleton-key qwen");
    let ports = [&plain, &llama, &qwen].map(|lease| lease["port"].as_u64().unwrap());
    assert_eq!(ports, [11430, 11431, 11432]);
    for (options, lease) in
        [("", &plain), ("--singleton-key llama", &llama), ("--singleton-key qwen", &qwen)]
    {
        assert_eq!(lease.get("existing"), None, "{lease}");
        let again = allocate(options);
        assert_eq!((&again["existing"], &again["lease_id"]), (&json!(true), &lease["lease_id"]));
        assert!(again["held"].as_str().unwrap().starts_with("held by /home/dev since "), "{again}");
    }
    let shown = json(machine, "styxy list");
    let mut keys: Vec<_> = shown["leases"]
        .as_array()
        .unwrap()
        .iter()
        .map(|lease| lease["singleton_key"].clone())
        .collect();
    keys.sort_by_key(|key| key.to_string());
    assert_eq!(keys, [json!("llama"), json!("qwen"), Json::Null]);

    // One that is released is free for a new beginning; the others go on.
    machine.call("Release", &format!("s {}", llama["lease_id"].as_str().unwrap())).unwrap();
    let anew = allocate("--singleton-key llama");
    assert_eq!(anew.get("existing"), None, "{anew}");
    assert_ne!(anew["lease_id"], llama["lease_id"]);
    // So is one whose holder is gone.
    machine.call("Release", &format!("s {}", anew["lease_id"].as_str().unwrap())).unwrap();
    machine.user("styxy allocate ai --singleton-key llama --owner parent; true").ok();
    eventually(LIMIT, "the shell's lease has ended", || {
        json(machine, "styxy list")["leases"].as_array().unwrap().len() == 2
    });
    assert_eq!(allocate("--singleton-key llama").get("existing"), None);
    assert_eq!(allocate("--singleton-key qwen")["lease_id"], qwen["lease_id"]);
    let refused = machine.user("styxy allocate dev --singleton-key llama");
    assert_ne!(refused.code, Some(0), "dev is not a type that runs once: {refused:?}");
}
