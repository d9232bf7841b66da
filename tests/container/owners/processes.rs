//! Processes as owners.

use std::{
    fs::{self, File},
    os::fd::{AsFd, OwnedFd},
    process::{Command, Stdio},
    sync::mpsc,
    thread,
};

use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde_json::{Value as Json, json};
use zbus::{Variant, wire::Fd};

use super::{
    assert_told,
    client::{Client, Options, Sleeper, dict},
};
use crate::{inside, machine::Machine};

pub fn ends(machine: &Machine) {
    let result = machine.inside("owners processes");
    for lease_id in result["ended"].as_array().unwrap() {
        assert_told(machine, lease_id, &[("allocate", ""), ("expire", "owner_gone")]);
    }
}

/// Returns the leases that have ended with their owner.
pub async fn inside() -> Json {
    let client = Client::new().await;
    let mut ended = one_by_one(&client).await;
    ended.extend(shared(&client).await);
    matching(&client).await;
    json!({"ended": ended})
}

async fn one_by_one(client: &Client) -> Vec<String> {
    let mut ended = Vec::new();
    for with_pidfd in [false, true] {
        let (owner, other) = (Sleeper::new(), Sleeper::new());
        let process = if with_pidfd { by_pidfd(&owner) } else { by_pid(&owner) };
        let lease = client.allocate(&[process]).await;
        let of_other = client.allocate(&[by_pid(&other)]).await;
        client.lives_on(&lease).await;
        owner.end();
        assert_eq!(client.end_of(&lease).await, "owner_gone");
        client.lives_on(&of_other).await;
        assert_eq!(client.told(&lease).len(), 2, "a grant and an end: {:?}", client.told(&lease));

        // The port is anybody's again, at once.
        let port = ("port", Variant::U16(lease.port));
        let again = client.allocate(&[port, ("strict", true.into())]).await;
        assert_eq!(again.port, lease.port);
        inside::release(&client.bus, &again.id).await.unwrap();
        other.end();
        assert_eq!(client.end_of(&of_other).await, "owner_gone");
        ended.extend([lease.id, of_other.id]);
    }
    ended
}

/// Several leases of one owner: each can be released for itself, and the rest end together.
async fn shared(client: &Client) -> Vec<String> {
    let owner = Sleeper::new();
    let block = client.try_allocate(&[by_pid(&owner), ("count", 3_u16.into())]).await.unwrap();
    let (first, second) =
        (client.allocate(&[by_pid(&owner)]).await, client.allocate(&[by_pidfd(&owner)]).await);
    inside::release(&client.bus, &first.id).await.unwrap();
    client.lives_on(&second).await;
    assert_eq!(client.list(&[]).await.len(), 4);
    owner.end();
    assert_eq!(client.end_of(&second).await, "owner_gone");
    assert_eq!(client.list(&[]).await, Vec::<Json>::new(), "the block has ended, too: {block}");
    assert_eq!(client.told(&first).last().unwrap().reason.as_deref(), Some("released"));
    vec![second.id, block["lease_id"].as_str().unwrap().to_owned()]
}

/// `ReleaseMatching`, whose keys are those of `List`.
async fn matching(client: &Client) {
    let owner = Sleeper::new();
    let web = client.allocate(&[by_pid(&owner), ("service_name", "web".into())]).await;
    let api = client.allocate(&[by_pid(&owner), ("service_name", "api".into())]).await;
    let error = client.release_matching(&[]).await.unwrap_err();
    assert!(error.contains("empty filter"), "{error}");
    let error = client.release_matching(&[("pid", 1_u32.into())]).await.unwrap_err();
    assert!(error.contains("no filter key"), "{error}");
    let port = ("port", Variant::U16(api.port));
    assert_eq!(client.release_matching(&[("service_name", "web".into()), port]).await, Ok(0));
    assert_eq!(client.release_matching(&[("service_name", "web".into())]).await, Ok(1));
    assert_eq!(client.end_of(&web).await, "released");
    client.lives_on(&api).await;
    owner.end();
    assert_eq!(client.end_of(&api).await, "owner_gone");
}

impl Client {
    async fn release_matching(&self, filter: Options<'_>) -> Result<u32, String> {
        let reply = inside::call(&self.bus, "ReleaseMatching", &(dict(filter),)).await?;
        Ok(reply.body().deserialize().unwrap())
    }
}

pub fn by_pid(owner: &Sleeper) -> (&'static str, Variant<'static>) {
    ("pid", Variant::U32(owner.pid()))
}

pub fn by_pidfd(owner: &Sleeper) -> (&'static str, Variant<'static>) {
    ("pidfd", Variant::Fd(Fd::Owned(pidfd_of(owner.pid()))))
}

fn pidfd_of(pid: u32) -> OwnedFd {
    let pid = Pid::from_raw(pid.try_into().unwrap()).unwrap();
    pidfd_open(pid, PidfdFlags::empty()).unwrap()
}

pub fn refused(machine: &Machine) {
    machine.script(["user", machine.name(), "eve"]).ok();
    let start = "sleep 1000 >/dev/null 2>&1 & echo $!";
    let eve = machine.script(["as", machine.name(), "eve", "--", "bash", "-c", start]).ok();
    for (pid, why) in
        [(eve.trim(), "another user"), ("1", "another user"), ("4194303", "not a live")]
    {
        let error = refusal(machine, &format!("1 pid u {pid}"));
        assert!(error.contains(why), "{pid}: {error}");
    }
    for nonsense in ["1 pid u 0", "1 pid i -1", "1 pid t 4294967297", "1 pidfd s 7"] {
        refusal(machine, nonsense);
    }
    for unit in ["nothing.service", "styxy.mount", "nothing"] {
        refusal(machine, &format!("1 unit s {unit}"));
    }
    let result = machine.inside("owners refused");
    for (case, error) in result.as_object().unwrap() {
        let error = error.as_str().unwrap_or_else(|| panic!("{case} was granted a port"));
        assert!(error.contains("Error.InvalidArgument"), "{case}: {error}");
    }
    assert_eq!(machine.call("List", "'a{sv}' 0").unwrap(), json!([[]]));
    let http = "curl -sS --unix-socket $XDG_RUNTIME_DIR/styxy/http.sock http://localhost/allocate";
    for owner in [r#""owner": "connection""#, &format!(r#""pid": {}"#, eve.trim())] {
        let body = format!(r#"{{"service_type": "dev", {owner}}}"#);
        let answer: Json =
            serde_json::from_str(&machine.user(&format!("{http} -d '{body}'")).ok()).unwrap();
        assert_eq!(answer["code"], "InvalidArgument", "{answer}");
    }
}

/// With what words an owner is refused.
fn refusal(machine: &Machine, options: &str) -> String {
    let answer = machine.call("Allocate", &format!("'sa{{sv}}' dev {options}"));
    answer.expect_err(options)
}

/// Tries owners that `busctl` cannot name.
pub async fn refused_inside() -> Json {
    let client = Client::deaf().await;
    let ended = Sleeper::new();
    let pidfd = by_pidfd(&ended);
    ended.end();
    // It has ended, but nobody has taken notice of it.
    let mut zombie = Command::new("true").stdin(Stdio::null()).spawn().unwrap();
    let zombies = pidfd_of(zombie.id());
    let until = rustix::event::PollFlags::IN;
    let mut ready = [rustix::event::PollFd::from_borrowed_fd(zombies.as_fd(), until)];
    rustix::event::poll(&mut ready, None).unwrap();
    // The link to itself is PID/task/TID.
    let (tell, told) = mpsc::channel();
    let thread = thread::spawn(move || {
        tell.send(fs::read_link("/proc/thread-self").unwrap()).unwrap();
        thread::park();
    });
    let link = told.recv().unwrap();
    let tid = link.file_name().unwrap().to_str().unwrap().parse::<u32>().unwrap();
    let file = File::open("/dev/null").unwrap();
    let cases = [
        ("the descriptor of a process that has ended", pidfd),
        ("a zombie", ("pid", Variant::U32(zombie.id()))),
        ("the descriptor of a zombie", ("pidfd", Variant::Fd(Fd::Owned(zombies)))),
        ("a descriptor of a file", ("pidfd", Variant::Fd(Fd::Owned(file.into())))),
        ("a thread that is no process", ("pid", Variant::U32(tid))),
    ];
    let mut answers = serde_json::Map::new();
    for (case, option) in cases {
        let answer = client.try_allocate(&[option]).await;
        answers.insert(case.to_owned(), answer.err().into());
    }
    thread.thread().unpark();
    thread.join().unwrap();
    zombie.wait().unwrap();
    answers.into()
}
