//! When leases end, on a machine without a session bus: a service by hand, asked over HTTP.

mod support;

use std::{
    fs,
    net::{TcpListener, UdpSocket},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::{
        resource::{Resource, getrlimit},
        signal::{Signal, kill},
    },
    unistd::Pid,
};
use serde_json::{Value as Json, json};
use support::{Answer, Home, end, started};

/// Generous; nothing here takes more than a few seconds.
const LIMIT: Duration = Duration::from_secs(20);

/// A process that does nothing until it is ended.
struct Sleeper(Child);

impl Sleeper {
    fn new() -> Self {
        let mut sleep = Command::new("sleep");
        Self(sleep.arg("1000").stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap())
    }

    fn pid(&self) -> Json {
        self.0.id().into()
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Has leases end that go unused for so many seconds.
fn end_unused_after(home: &Home, seconds: u64) {
    let types = fs::read_to_string(home.path("config/styxy/config.json")).unwrap();
    home.configure(&types.replacen('{', &format!(r#"{{"unused_seconds": {seconds}, "#), 1));
}

/// Leases a port with these options.
#[track_caller]
fn allocate(home: &Home, mut options: Json) -> Json {
    options["service_type"] = "mine".into();
    let answer = home.http("POST", "/allocate", &options.to_string());
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.body
}

fn port(lease: &Json) -> u16 {
    lease["port"].as_u64().unwrap().try_into().unwrap()
}

fn id(lease: &Json) -> &str {
    lease["lease_id"].as_str().unwrap()
}

/// How a lease is; `None` when it has ended.
fn state(home: &Home, lease: &Json) -> Option<String> {
    let answer = home.http("GET", &format!("/allocations?lease_id={}", id(lease)), "");
    Some(answer.body["allocations"].get(0)?["state"].as_str()?.to_owned())
}

#[track_caller]
fn until(home: &Home, lease: &Json, wanted: Option<&str>) {
    let start = Instant::now();
    loop {
        let state = state(home, lease);
        if state.as_deref() == wanted {
            return;
        }
        assert!(start.elapsed() < LIMIT, "{lease} is {state:?}, not {wanted:?}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Not sooner than that, give or take what milliseconds are rounded to.
#[track_caller]
fn assert_took(start: Instant, seconds: u64) {
    let took = start.elapsed() + Duration::from_millis(10);
    assert!(took >= Duration::from_secs(seconds), "{took:?} is less than {seconds} s");
}

#[track_caller]
fn refused(answer: &Answer, status: u16, code: &str) {
    assert_eq!((answer.status, &answer.body["code"]), (status, &json!(code)), "{answer:?}");
}

#[test]
fn a_service_that_is_started_again_at_once_is_the_same_one() {
    let home = Home::with_type();
    let service = home.service();
    let request = |owner: &Sleeper| json!({"service_type": "mine", "project_path": "/shop", "owner": "process", "pid": owner.pid()});
    let mut owner = Sleeper::new();
    let first = home.http("POST", "/allocate", &request(&owner).to_string()).body;
    let pid = Pid::from_raw(service.id().try_into().unwrap());
    for _ in 0..20 {
        // Whatever the service hears first, the request or the end of the owner before, when it goes on.
        kill(pid, Signal::SIGSTOP).unwrap();
        drop(owner);
        owner = Sleeper::new();
        let body = request(&owner).to_string();
        let answer = thread::scope(|scope| {
            let asked = scope.spawn(|| home.http("POST", "/allocate", &body));
            // In the meantime it connects, most likely; if not, there is nothing to be seen.
            thread::sleep(Duration::from_millis(20));
            kill(pid, Signal::SIGCONT).unwrap();
            asked.join().unwrap()
        });
        assert_eq!(answer.body["port"], first["port"], "{answer:?}");
    }
    end(service, Signal::SIGTERM);
}

#[test]
fn a_lease_ends_with_its_process_also_while_no_service_runs() {
    let home = Home::with_type();
    let service = home.service();
    let [at_once, while_down, survivor] = [(); 3].map(|()| Sleeper::new());
    let first = allocate(&home, json!({"pid": at_once.pid(), "count": 2}));
    let second = allocate(&home, json!({"pid": while_down.pid()}));
    let third = allocate(&home, json!({"pid": survivor.pid(), "owner": "process"}));
    assert_eq!((&third["owner"], &third["pid"]), (&json!("process"), &survivor.pid()));
    drop(at_once);
    until(&home, &first, None);
    let all = home.http("GET", "/allocations", "").body;
    assert_eq!(all["allocations"].as_array().unwrap().len(), 2, "the block has ended: {all}");

    end(service, Signal::SIGKILL);
    drop(while_down);
    let service = home.service();
    until(&home, &second, None);
    assert_eq!(state(&home, &third).as_deref(), Some("reserved"));
    drop(survivor);
    until(&home, &third, None);
    end(service, Signal::SIGTERM);
}

#[test]
fn a_port_that_is_listened_on_outlives_its_owner_and_every_service() {
    for protocol in ["tcp", "udp"] {
        let home = Home::with_type();
        let service = home.service();
        let owner = Sleeper::new();
        let lease = allocate(&home, json!({"pid": owner.pid(), "protocol": protocol}));
        assert_eq!(state(&home, &lease).as_deref(), Some("reserved"));
        let address = ("127.0.0.1", port(&lease));
        let listener = (protocol == "tcp").then(|| TcpListener::bind(address).unwrap());
        let socket = (protocol == "udp").then(|| UdpSocket::bind(address).unwrap());
        assert_eq!(state(&home, &lease).as_deref(), Some("listening"));
        drop(owner);
        until(&home, &lease, Some("orphaned"));

        end(service, Signal::SIGKILL);
        let service = home.service();
        assert_eq!(state(&home, &lease).as_deref(), Some("orphaned"));
        let asked = json!({"service_type": "mine", "port": port(&lease), "strict": true,
                           "protocol": protocol});
        refused(&home.http("POST", "/allocate", &asked.to_string()), 409, "PortInUse");
        // Longer than it takes to look at orphans.
        thread::sleep(Duration::from_millis(1_500));
        assert_eq!(state(&home, &lease).as_deref(), Some("orphaned"));
        drop((listener, socket));
        until(&home, &lease, None);
        end(service, Signal::SIGTERM);
    }
}

/// Whether a process has asked the kernel for the end of sockets: the groups of its sockets of
/// `NETLINK_SOCK_DIAG`, by the columns of `/proc/net/netlink`.
fn awaits_endings(pid: u32) -> bool {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    let sockets: Vec<_> =
        descriptors.filter_map(|entry| fs::read_link(entry.path()).ok()).collect();
    let is_its = |inode: &str| {
        let name = format!("socket:[{inode}]");
        sockets.iter().any(|socket| socket.as_os_str() == &*name)
    };
    let table = fs::read_to_string(format!("/proc/{pid}/net/netlink")).unwrap();
    table.lines().any(|line| {
        let columns: Vec<_> = line.split_whitespace().collect();
        columns[1] == "4" && columns[3] == "0000000f" && is_its(columns[9])
    })
}

#[test]
fn the_kernel_tells_of_the_end_of_a_listener_while_a_lease_waits_for_it() {
    let home = Home::with_type();
    let service = home.service();
    let owner = Sleeper::new();
    let lease = allocate(&home, json!({"pid": owner.pid()}));
    let listener = TcpListener::bind(("127.0.0.1", port(&lease))).unwrap();
    assert!(!awaits_endings(service.id()));
    drop(owner);
    until(&home, &lease, Some("orphaned"));
    home.until(|| awaits_endings(service.id()));
    drop(listener);
    until(&home, &lease, None);
    home.until(|| !awaits_endings(service.id()));
    end(service, Signal::SIGTERM);
}

#[test]
fn a_guard_is_bound_again_as_soon_as_its_port_is_listened_on_no_more() {
    let home = Home::with_type();
    // Without the event it would take 10 s; a busy machine gets more than one chance to be faster.
    let is_prompt = (0..5).any(|_| {
        let service = home.service();
        let lease = allocate(&home, json!({}));
        let listener = TcpListener::bind(("127.0.0.1", port(&lease))).unwrap();
        end(service, Signal::SIGKILL);
        let start = Instant::now();
        let service = home.service();
        home.until(|| awaits_endings(service.id()));
        let guards = || home.http("GET", "/status", "").body["guards"].clone();
        assert_eq!(guards(), 0);
        drop(listener);
        home.until(|| guards() == 1);
        let took = start.elapsed();
        assert_eq!(home.http("DELETE", "/allocations?service_type=mine", "").status, 200);
        end(service, Signal::SIGTERM);
        took < Duration::from_secs(8)
    });
    assert!(is_prompt);
}

/// An owner that ends at once, which the service has had the time to notice.
fn ended_at_once(home: &Home, options: &Json) -> Json {
    let owner = Sleeper::new();
    let mut options = options.clone();
    options["pid"] = owner.pid();
    let lease = allocate(home, options);
    drop(owner);
    thread::sleep(Duration::from_millis(300));
    lease
}

#[test]
fn a_server_that_begins_to_listen_just_after_its_command_has_ended_keeps_the_port() {
    let home = Home::with_type();
    let service = home.service();
    let lease = ended_at_once(&home, &json!({}));
    let other = ended_at_once(&home, &json!({}));
    let listener = TcpListener::bind(("127.0.0.1", port(&lease))).unwrap();
    until(&home, &lease, Some("orphaned"));
    until(&home, &other, None);
    drop(listener);
    until(&home, &lease, None);
    end(service, Signal::SIGTERM);
}

#[test]
fn a_command_that_ended_at_once_gets_its_port_when_it_is_started_again() {
    let home = Home::with_type();
    let service = home.service();
    let web = json!({"project_path": "/shop", "service_name": "web"});
    let first = ended_at_once(&home, &web);
    let again = ended_at_once(&home, &web);
    assert_eq!(port(&again), port(&first));
    let port = port(&first);
    let strictly = json!({"port": port, "strict": true, "project_path": "/shop"});
    let strictly = ended_at_once(&home, &strictly);
    assert_eq!(strictly["port"], port);
    until(&home, &strictly, None);
    end(service, Signal::SIGTERM);
}

#[test]
fn what_is_left_by_commands_that_ended_at_once_keeps_nobody_from_a_port() {
    let home = Home::with_type();
    let service = home.service();
    let owner = Sleeper::new();
    let block = allocate(&home, json!({"pid": owner.pid(), "count": 10}));
    drop(owner);
    thread::sleep(Duration::from_millis(300));
    let all = allocate(&home, json!({"count": 10}));
    assert_eq!(all["ports"], block["ports"]);
    end(service, Signal::SIGTERM);
}

#[test]
fn an_instance_outlives_a_service_that_was_frozen_for_longer_than_its_heartbeat() {
    let home = Home::with_type();
    let service = home.service();
    let register = json!({"heartbeat": 3}).to_string();
    assert_eq!(home.http("PUT", "/instances/agent", &register).status, 200);
    let lease = allocate(&home, json!({"instance_id": "agent"}));
    let pid = Pid::from_raw(i32::try_from(service.id()).unwrap());
    kill(pid, Signal::SIGSTOP).unwrap();
    thread::sleep(Duration::from_secs(5));
    kill(pid, Signal::SIGCONT).unwrap();
    // It has had the time to look at what was due meanwhile.
    thread::sleep(Duration::from_millis(500));
    assert_eq!(home.http("POST", "/instances/agent/heartbeat", "").status, 200);
    assert_eq!(state(&home, &lease).as_deref(), Some("reserved"));
    until(&home, &lease, None);
    end(service, Signal::SIGTERM);
}

#[test]
fn a_time_limit_ends_a_lease_unless_it_is_renewed() {
    let home = Home::with_type();
    let service = home.service();
    let renew = |lease: &Json, body: &str| {
        home.http("PUT", &format!("/allocate/{}/renew", id(lease)), body)
    };
    let start = Instant::now();
    let lease = allocate(&home, json!({"ttl": 2}));
    let renewed = allocate(&home, json!({"ttl": 3}));
    let without = allocate(&home, json!({}));
    until(&home, &lease, None);
    assert_took(start, 2);
    let mut start = Instant::now();
    for (body, ttl) in [("", 3), (r#"{"ttl": 4}"#, 4)] {
        start = Instant::now();
        assert_eq!(renew(&renewed, body).body["ttl"], ttl);
        thread::sleep(Duration::from_secs(2));
    }
    until(&home, &renewed, None);
    assert_took(start, 4);

    refused(&renew(&renewed, ""), 404, "NoSuchLease");
    for body in [r#"{"ttl": 0}"#, r#"{"ttl": 31536001}"#, r#"{"ttl": "1"}"#, "[]", r#"{"a": 1}"#] {
        refused(&renew(&without, body), 400, "InvalidArgument");
    }
    // To give it one would end what was to last.
    for body in ["", r#"{"ttl": 1}"#] {
        refused(&renew(&without, body), 409, "NoTimeLimit");
    }
    let kept = home.leases();
    assert_eq!([&kept[0]["lease_id"], &kept[0]["ttl"]], [&without["lease_id"], &Json::Null]);
    end(service, Signal::SIGTERM);
}

#[test]
fn an_orphan_that_is_renewed_is_one_no_longer() {
    let home = Home::with_type();
    let service = home.service();
    let lease = allocate(&home, json!({"ttl": 1}));
    let listener = TcpListener::bind(("127.0.0.1", port(&lease))).unwrap();
    until(&home, &lease, Some("orphaned"));
    let path = format!("/allocate/{}/renew", id(&lease));
    assert_eq!(home.http("PUT", &path, r#"{"ttl": 1000}"#).status, 200);
    assert_eq!(state(&home, &lease).as_deref(), Some("listening"));
    drop(listener);
    // Longer than it takes to look at orphans.
    thread::sleep(Duration::from_millis(2_500));
    assert_eq!(state(&home, &lease).as_deref(), Some("reserved"));
    end(service, Signal::SIGTERM);
}

#[test]
fn a_lease_that_nobody_owns_ends_when_it_goes_unused() {
    let home = Home::with_type();
    end_unused_after(&home, 2);
    let service = home.service();
    let owner = Sleeper::new();
    let start = Instant::now();
    let [unused, used] = [(); 2].map(|()| allocate(&home, json!({})));
    let listener = TcpListener::bind(("127.0.0.1", port(&used))).unwrap();
    let kept = [json!({"pid": owner.pid()}), json!({"ttl": 1_000})];
    let kept = kept.map(|options| allocate(&home, options));
    until(&home, &unused, None);
    assert_took(start, 2);
    thread::sleep(Duration::from_secs(3));
    assert_eq!(state(&home, &used).as_deref(), Some("listening"));
    drop(listener);
    until(&home, &used, None);
    for lease in kept {
        assert_eq!(state(&home, &lease).as_deref(), Some("reserved"));
    }
    end(service, Signal::SIGTERM);
}

#[test]
fn a_lease_that_was_used_a_moment_ago_has_the_whole_time_before_it_ends() {
    let home = Home::with_type();
    end_unused_after(&home, 4);
    let service = home.service();
    // Closed just before the times at which it is looked.
    let leases: Vec<_> = [800, 1_900, 3_800, 4_900]
        .map(|millis| {
            let lease = allocate(&home, json!({}));
            let listener = TcpListener::bind(("127.0.0.1", port(&lease))).unwrap();
            thread::spawn(move || {
                thread::sleep(Duration::from_millis(millis));
                drop(listener);
                (lease, Instant::now())
            })
        })
        .into_iter()
        .collect();
    thread::scope(|scope| {
        for used in leases {
            scope.spawn(|| {
                let (lease, closed) = used.join().unwrap();
                until(&home, &lease, None);
                assert_took(closed, 4);
            });
        }
    });
    end(service, Signal::SIGTERM);
}

#[test]
fn a_shared_lease_that_has_lost_its_last_owner_ends_when_it_goes_unused() {
    let home = Home::with_single();
    end_unused_after(&home, 2);
    let service = home.service();
    let owner = Sleeper::new();
    let lease = allocate(&home, json!({"pid": owner.pid()}));
    let shared = allocate(&home, json!({"instance_id": "agent"}));
    assert_eq!(id(&shared), id(&lease));
    thread::sleep(Duration::from_secs(3));
    assert_eq!(state(&home, &lease).as_deref(), Some("reserved"), "its owner lives");
    let start = Instant::now();
    drop(owner);
    until(&home, &lease, None);
    assert_took(start, 2);
    end(service, Signal::SIGTERM);
}

fn holder(lease: &Json) -> &str {
    lease["holder_id"].as_str().unwrap()
}

/// How many share the lease; `None` when it has ended.
fn holders(home: &Home, lease: &Json) -> Option<u64> {
    let answer = home.http("GET", &format!("/allocations?lease_id={}", id(lease)), "");
    Some(answer.body["allocations"].get(0)?["holders"].as_u64().unwrap_or(1))
}

#[track_caller]
fn until_held_by(home: &Home, lease: &Json, wanted: u64) {
    let start = Instant::now();
    while holders(home, lease) != Some(wanted) {
        assert!(start.elapsed() < LIMIT, "{:?}, not {wanted}", holders(home, lease));
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn who_renews_a_shared_lease_renews_their_own_time_limit_and_nobody_elses() {
    let home = Home::with_single();
    let service = home.service();
    let owner = Sleeper::new();
    let lease = allocate(&home, json!({"pid": owner.pid()}));
    let limited = allocate(&home, json!({"ttl": 1_000}));
    let renew = |id: &str, body: &Json| {
        home.http("PUT", &format!("/allocate/{id}/renew"), &body.to_string())
    };
    // Of these two only one has a time limit.
    assert_eq!(renew(id(&lease), &json!({})).body["success"], true);
    let other = allocate(&home, json!({"ttl": 2}));
    assert_ne!(holder(&limited), holder(&other));
    let unclear = renew(id(&lease), &json!({}));
    refused(&unclear, 400, "InvalidArgument");
    assert!(unclear.body["error"].as_str().unwrap().contains("3 callers share"), "{unclear:?}");
    assert_eq!(renew(holder(&limited), &json!({"ttl": 1})).status, 200);
    let renewed = Instant::now();
    let renewed_one = renew(holder(&other), &json!({"ttl": 1_000}));
    assert_eq!(renewed_one.body["ttl"], 1_000, "{renewed_one:?}");
    // The one that made its own shorter goes, and nobody else.
    until_held_by(&home, &lease, 2);
    assert_took(renewed, 1);
    thread::sleep(Duration::from_secs(2));
    assert_eq!(holders(&home, &lease), Some(2));
    end(service, Signal::SIGKILL);
    let service = home.service();
    let released = home.http("DELETE", &format!("/allocate/{}", holder(&other)), "");
    assert_eq!(released.body["port"], lease["port"], "{released:?}");
    assert_eq!(holders(&home, &lease), Some(1));
    refused(&renew(id(&lease), &json!({})), 409, "NoTimeLimit");
    drop(owner);
    until(&home, &lease, None);
    end(service, Signal::SIGTERM);
}

#[test]
fn a_name_is_that_of_one_lease_or_of_one_share_and_of_one_request() {
    let home = Home::with_single();
    home.configure(&format!(
        r#"{{"service_types": {{"mine": {{"port_range": [{0}, {1}], "instance_behavior": "single"}},
            "other": {{"port_range": [{2}, {3}]}}}}}}"#,
        home.port(0),
        home.port(4),
        home.port(5),
        home.port(9)
    ));
    let service = home.service();
    let named = |number: u16| format!("00000000-0000-4000-8000-{number:012}");
    let ask = |body: Json| home.http("POST", "/allocate", &body.to_string());
    let first = json!({"service_type": "mine", "lease_id": named(1), "ttl": 600});
    let second = json!({"service_type": "mine", "lease_id": named(2), "ttl": 600});
    let (lease, joined) = (ask(first.clone()).body, ask(second).body);
    assert_eq!(id(&joined), id(&lease));
    assert_eq!(holder(&ask(first.clone()).body), holder(&lease), "it is asked again");

    // When its share has ended, who was the first has none of the other's.
    assert_eq!(home.http("DELETE", &format!("/allocate/{}", holder(&lease)), "").status, 200);
    assert_eq!(holders(&home, &lease), Some(1));
    let again = ask(first.clone()).body;
    assert_eq!((id(&again), holders(&home, &lease)), (id(&lease), Some(2)));
    assert_ne!(holder(&again), holder(&joined));
    assert_eq!(holder(&ask(first).body), holder(&again), "and that is asked again");
    assert_eq!(home.http("DELETE", &format!("/allocate/{}", holder(&again)), "").status, 200);
    assert_eq!(holders(&home, &lease), Some(1));

    let taken = |body: Json| {
        let answer = ask(body);
        refused(&answer, 400, "InvalidArgument");
        let error = answer.body["error"].as_str().unwrap();
        assert!(error.contains("was used before"), "{answer:?}");
    };
    taken(json!({"service_type": "other", "lease_id": named(2)}));
    taken(json!({"service_type": "other", "lease_id": named(1)}));
    assert_eq!(ask(json!({"service_type": "other", "lease_id": named(3)})).status, 200);
    let strict = home.port(9);
    for more in
        [json!({"protocol": "udp"}), json!({"count": 2}), json!({"port": strict, "strict": true})]
    {
        let mut body = json!({"service_type": "other", "lease_id": named(3)});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        taken(body);
    }
    end(service, Signal::SIGTERM);
}

#[test]
fn a_shared_service_that_runs_on_when_its_last_holder_lets_go_is_found_by_the_next() {
    let home = Home::with_single();
    let service = home.service();
    let lease = allocate(&home, json!({"ttl": 1_000}));
    let listener = TcpListener::bind(("127.0.0.1", port(&lease))).unwrap();
    assert_eq!(home.http("DELETE", &format!("/allocate/{}", holder(&lease)), "").status, 200);
    assert_eq!(state(&home, &lease).as_deref(), Some("orphaned"));
    let next = allocate(&home, json!({"ttl": 1_000}));
    assert_eq!((id(&next), &next["existing"]), (id(&lease), &json!(true)));
    assert_eq!(home.http("DELETE", &format!("/allocate/{}", holder(&next)), "").status, 200);
    drop(listener);
    until(&home, &lease, None);
    end(service, Signal::SIGTERM);
}

#[test]
fn callers_of_whom_nothing_is_known_are_different_ones() {
    let home = Home::with_single();
    let service = home.service();
    let unlimited = allocate(&home, json!({}));
    let limited = allocate(&home, json!({"ttl": 1}));
    assert_ne!(holder(&unlimited), holder(&limited));
    assert_eq!(holders(&home, &unlimited), Some(2));
    until_held_by(&home, &unlimited, 1);
    // One whose answer was lost asks again with the name that it has chosen.
    let named = json!({"ttl": 1_000, "lease_id": "6f9d6c1e-5c1b-4d0e-9a53-1c8a52a5a1f0"});
    let [first, second] = [(); 2].map(|()| allocate(&home, named.clone()));
    assert_eq!(holder(&first), named["lease_id"]);
    assert_eq!(holder(&second), named["lease_id"]);
    assert_eq!(holders(&home, &unlimited), Some(2));
    assert_eq!(home.http("DELETE", &format!("/allocate/{}", holder(&first)), "").status, 200);
    // Who is known keeps the name.
    let again = [(); 2].map(|()| allocate(&home, json!({"instance_id": "agent"})));
    assert_eq!(holder(&again[0]), holder(&again[1]));
    assert_eq!(holders(&home, &unlimited), Some(2));
    let share = home.ok(&["release", holder(&again[0])]);
    assert!(share.starts_with("released a share of port"), "{share}");
    assert_eq!(holders(&home, &unlimited), Some(1));
    end(service, Signal::SIGTERM);
}

#[test]
fn a_time_without_use_that_is_made_shorter_holds_for_leases_that_are_there() {
    let home = Home::with_type();
    let service = home.service();
    let lease = allocate(&home, json!({}));
    end_unused_after(&home, 1);
    assert_eq!(home.http("POST", "/config/reload", "").status, 200);
    until(&home, &lease, None);
    end(service, Signal::SIGTERM);
}

#[test]
fn after_a_restart_time_limits_are_kept_and_times_without_use_begin_anew() {
    let home = Home::with_type();
    end_unused_after(&home, 3);
    let service = home.service();
    let start = Instant::now();
    let [over, limited] = [1, 5].map(|ttl| allocate(&home, json!({"ttl": ttl})));
    let unused = ["guard", "none"].map(|hold| allocate(&home, json!({"hold": hold})));
    end(service, Signal::SIGKILL);
    thread::sleep(Duration::from_secs(2));
    let again = Instant::now();
    let service = home.service();
    until(&home, &over, None);
    assert_eq!(state(&home, &limited).as_deref(), Some("reserved"));
    for lease in unused {
        until(&home, &lease, None);
        assert_took(again, 3);
    }
    until(&home, &limited, None);
    assert_took(start, 5);
    end(service, Signal::SIGTERM);
}

#[test]
fn guards_that_cannot_be_bound_are_not_tried_all_the_time() {
    let home = Home::with_ports(100);
    let (first, last) = (home.port(0), home.port(99));
    home.configure(&format!(
        r#"{{"service_types": {{"mine": {{"port_range": [{first}, {last}]}}}}}}"#
    ));
    let service = home.service();
    let leases: Vec<_> = (0..90).map(|_| allocate(&home, json!({}))).collect();
    let listen = |lease| TcpListener::bind(("127.0.0.1", port(lease))).unwrap();
    let listeners: Vec<_> = leases.iter().map(listen).collect();
    end(service, Signal::SIGKILL);
    let service = home.service();
    let switches = || {
        let status = fs::read_to_string(format!("/proc/{}/status", service.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        line.unwrap().trim().parse::<u64>().unwrap()
    };
    // On a busy machine the beginning takes longer.
    home.until(|| {
        let before = switches();
        thread::sleep(Duration::from_secs(2));
        let more = switches() - before;
        eprintln!("{more} times in two seconds");
        more < 100
    });
    drop(listeners);
    end(service, Signal::SIGTERM);
}

#[test]
fn the_table_of_descriptors_is_large_before_there_are_threads() {
    let home = Home::with_type();
    let service = home.service();
    let status = fs::read_to_string(format!("/proc/{}/status", service.id())).unwrap();
    let size = status.lines().find_map(|line| line.strip_prefix("FDSize:")).unwrap();
    let size: u64 = size.trim().parse().unwrap();
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    assert!(size >= hard.min(16_384), "{size}");
    end(service, Signal::SIGTERM);
}

#[test]
fn an_instance_lives_as_long_as_its_process_or_its_heartbeats() {
    let home = Home::with_type();
    let service = home.service();
    let process = Sleeper::new();
    let register = |name: &str, body: &Json| {
        home.http("PUT", &format!("/instances/{name}"), &body.to_string())
    };
    let beat = || home.http("POST", "/instances/beating/heartbeat", "");
    refused(&register("nobody", &json!({})), 400, "InvalidArgument");
    refused(&beat(), 404, "NoSuchInstance");
    assert_eq!(register("living", &json!({"pid": process.pid()})).status, 200);
    assert_eq!(register("beating", &json!({"heartbeat": 3})).body["heartbeat"], 3);
    let instances = home.http("GET", "/instances", "").body["instances"].clone();
    let names: Vec<_> = instances.as_array().unwrap().iter().map(|i| &i["instance_id"]).collect();
    assert_eq!(names, ["beating", "living"]);

    let [living, beating] =
        ["living", "beating"].map(|name| allocate(&home, json!({"instance_id": name})));
    let start = Instant::now();
    let mut last = start;
    while start.elapsed() < Duration::from_secs(5) {
        last = Instant::now();
        assert_eq!(beat().status, 200);
        thread::sleep(Duration::from_millis(300));
    }
    until(&home, &beating, None);
    assert_took(last, 3);
    assert_eq!(state(&home, &living).as_deref(), Some("reserved"));
    end(service, Signal::SIGKILL);
    let service = home.service();
    assert_eq!(state(&home, &living).as_deref(), Some("reserved"));
    drop(process);
    until(&home, &living, None);
    assert_eq!(home.http("GET", "/instances", "").body["instances"], json!([]));
    end(service, Signal::SIGTERM);
}

#[test]
fn leases_are_released_together_by_what_they_have_in_common() {
    let home = Home::with_type();
    let service = home.service();
    let release = |query: &str| home.http("DELETE", &format!("/allocations{query}"), "");
    let meant = json!({
        "service_name": "web", "instance_id": "agent", "project_path": "/home/dev/shop",
        "protocol": "udp",
    });
    let other = allocate(&home, json!({"service_name": "api", "port": home.port(9)}));
    let filters: [&dyn Fn(&Json) -> String; 7] = [
        &|_| "service_name=web".to_owned(),
        &|_| "instance_id=agent".to_owned(),
        &|_| "project_path=%2Fhome%2Fdev%2Fshop".to_owned(),
        &|_| "project_path=%2Fhome%2Fdev%2Fshop&protocol=udp".to_owned(),
        &|lease| format!("port={}", port(lease)),
        &|lease| format!("lease_id={}", id(lease)),
        &|_| "service_type=mine&service_name=web&protocol=udp".to_owned(),
    ];
    for filter in filters {
        let lease = allocate(&home, meant.clone());
        let query = format!("?{}", filter(&lease));
        assert_eq!(release(&query).body, json!({"success": true, "released": 1}), "{query}");
        assert_eq!(state(&home, &lease), None);
        assert_eq!(release(&query).body["released"], 0, "{query}");
        assert_eq!(state(&home, &other).as_deref(), Some("reserved"));
    }
    let block = allocate(&home, json!({"count": 3}));
    assert_eq!(release(&format!("?block_id={}", id(&block))).body["released"], 3);
    let lease = allocate(&home, meant);
    for wrong in
        ["", "?", "?protocol=udp", "?prot=udp", "?port=0", "?service_name=web&service_nam=web"]
    {
        refused(&release(wrong), 400, "InvalidArgument");
    }
    assert_eq!(release("?service_name=api&protocol=udp").body["released"], 0, "all must hold");
    assert!(state(&home, &lease).is_some());
    assert_eq!(release("?service_type=mine").body["released"], 2);
    end(service, Signal::SIGTERM);
}

#[test]
fn who_cannot_be_watched_is_no_owner() {
    let home = Home::with_type();
    let service = home.service();
    let ended = Sleeper::new().pid();
    for owner in [
        json!({"pid": ended}),
        json!({"pid": 0}),
        json!({"pid": -1}),
        json!({"pid": 4_294_967_297_u64}),
        json!({"owner": "connection"}),
        json!({"unit": "web.service"}),
        json!({"owner": "process"}),
        json!({"owner": "unit", "pid": std::process::id()}),
    ] {
        let mut options = owner.clone();
        options["service_type"] = "mine".into();
        let answer = home.http("POST", "/allocate", &options.to_string());
        refused(&answer, 400, "InvalidArgument");
    }
    assert_eq!(home.http("GET", "/allocations", "").body["allocations"], json!([]));
    end(service, Signal::SIGTERM);
}

/// Shifts all clocks but `CLOCK_MONOTONIC` by as many seconds as a file says, which may change.
const CLOCKS: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t clock, struct timespec *now) {
    int (*real)(clockid_t, struct timespec *) = dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(clock, now);
    if (clock != CLOCK_MONOTONIC && clock != CLOCK_MONOTONIC_COARSE) {
        char seconds[32] = "";
        int file = open(getenv("CLOCKS"), O_RDONLY | O_CLOEXEC);
        if (read(file, seconds, sizeof seconds - 1) > 0)
            now->tv_sec += atol(seconds);
        close(file);
    }
    return result;
}
"#;

/// The date jumps, and `CLOCK_BOOTTIME` does as after a suspend, while the service runs.
#[test]
fn a_date_that_jumps_ends_no_lease_and_saves_none() {
    let home = Home::with_type();
    let (source, library) = (home.path("clocks.c"), home.path("clocks.so"));
    fs::write(&source, CLOCKS).unwrap();
    // Rust needs a C compiler to link with, so there is one.
    let cc =
        Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).status();
    assert!(cc.unwrap().success());
    // Where the service can read it.
    let clocks = home.path("state/clocks");
    fs::create_dir_all(home.path("state")).unwrap();
    let jump = |seconds: &str| fs::write(&clocks, seconds).unwrap();
    jump("0");
    let mut command = home.styxy();
    command.env("LD_PRELOAD", &library).env("CLOCKS", &clocks);
    let service = started(command);

    assert_eq!(home.http("PUT", "/instances/agent", r#"{"heartbeat": 3600}"#).status, 200);
    let leases = [json!({"ttl": 3_600}), json!({"instance_id": "agent"}), json!({})];
    let mut leases = leases.map(|options| allocate(&home, options)).to_vec();
    let mut since = vec![leases[0]["since"].as_str().unwrap().to_owned()];
    for seconds in ["200000", "-200000"] {
        jump(seconds);
        // Its end makes the service look at all that is due.
        let start = Instant::now();
        let short = allocate(&home, json!({"ttl": 2}));
        since.push(short["since"].as_str().unwrap().to_owned());
        until(&home, &short, None);
        assert_took(start, 2);
        for lease in &leases {
            assert_eq!(state(&home, lease).as_deref(), Some("reserved"), "{lease}");
        }
        leases.push(allocate(&home, json!({"ttl": 3_600})));
    }
    assert!(
        since[1] > since[0] && since[2] < since[0],
        "the service has seen the jumps: {since:?}"
    );
    end(service, Signal::SIGTERM);
}
