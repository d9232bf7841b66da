use std::{fs, net::TcpListener, os::fd::AsFd, process::Command};

use serde_json::json;

use super::*;
use crate::{
    kernel::{guard::Guards, probe},
    lease::Owner,
    port::{Port, Protocol},
};

fn lease_id(number: u128) -> LeaseId {
    LeaseId::from_number(number)
}

/// Starts a service that holds the folder's lock, and hands over these guards and owners to the first that asks.
/// It keeps the lock a moment longer.
fn serve(
    folder: &Path,
    guards: Guards,
    owners: Vec<Owner>,
) -> (thread::JoinHandle<()>, std::sync::mpsc::Receiver<()>) {
    let (ready, is_ready) = std::sync::mpsc::channel();
    let folder = folder.to_owned();
    let service = thread::spawn(move || {
        let lock = Lock::take(&folder).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = tokio::net::UnixListener::bind(door(&folder).path()).unwrap();
            ready.send(()).unwrap();
            let successor = giver::asked(&listener).await;
            successor.give(&guards, owners.iter()).unwrap();
        });
        drop(guards);
        drop(lock);
    });
    (service, is_ready)
}

#[test]
fn a_child_that_a_killed_service_has_left_is_no_service() {
    let folder = tempfile::tempdir().unwrap();
    let _listener = std::os::unix::net::UnixListener::bind(door(folder.path()).path()).unwrap();
    let left = |time: &str| {
        let script = format!("exec 9>lock; flock 9; sleep {time} >/dev/null 2>&1 & echo $!");
        let mut shell = Command::new("sh");
        let output = shell.args(["-c", &script]).current_dir(folder.path()).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    left("0.1");
    assert!(claim(folder.path(), Rank::Private).unwrap().lock.is_some());
    // One that stays is somebody, whom the kernel does not tell here.
    let pid = left("60").trim().parse().unwrap();
    let refused = claim(folder.path(), Rank::Private);
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL)
        .unwrap();
    assert!(matches!(refused, Err(Refused::Lives(_, None))), "{refused:?}");
}

#[test]
fn the_unit_takes_over_the_guards_and_owners_of_a_private_service() {
    let folder = tempfile::tempdir().unwrap();
    let port = free_port();
    let mut guards = Guards::default();
    guards.insert(lease_id(1), probe::reserve(port, Protocol::Tcp).unwrap());
    let mut owner = Command::new("sleep").arg("60").spawn().unwrap();
    let process = Process::of_pid(owner.id()).unwrap();
    let (pid, start) = (process.pid, process.start);
    let owners = vec![Owner::None, Owner::Process { pid, start }, Owner::Process { pid, start: 1 }];
    let (service, ready) = serve(folder.path(), guards, owners);
    ready.recv().unwrap();

    let claim = claim(folder.path(), Rank::Unit).unwrap();
    service.join().unwrap();
    assert!(claim.lock.is_some());
    assert_eq!(claim.guards.iter().map(|(lease, _)| *lease).collect::<Vec<_>>(), [lease_id(1)]);
    assert!(probe::reserve(port, Protocol::Udp).is_ok());
    assert!(plain_bind(port).is_err(), "the port was let go");
    let numbers: Vec<_> = claim.processes.iter().map(|p| (p.pid, p.start)).collect();
    assert_eq!(numbers, [(pid, start)]);
    owner.kill().unwrap();
    owner.wait().unwrap();
    let pidfd = claim.processes.into_iter().next().unwrap().pidfd;
    assert!(Process::of_pidfd(pidfd).is_err(), "the descriptor is of that process");
    drop(claim.guards);
    assert!(plain_bind(port).is_ok());
}

#[test]
fn more_guards_than_fit_in_one_message_are_handed_over() {
    let folder = tempfile::tempdir().unwrap();
    let mut guards = Guards::default();
    let count = u128::try_from(2 * wire::MOST + 1).unwrap();
    for number in 0..count {
        // Any descriptor will do.
        guards.insert(lease_id(number), fs::File::open("/dev/null").unwrap().into());
    }
    let (service, ready) = serve(folder.path(), guards, Vec::new());
    ready.recv().unwrap();
    let claim = claim(folder.path(), Rank::Unit).unwrap();
    service.join().unwrap();
    let mut leases: Vec<_> = claim.guards.into_iter().map(|(lease, _)| lease).collect();
    leases.sort();
    assert_eq!(leases, (0..count).map(lease_id).collect::<Vec<_>>());
}

#[test]
fn a_private_service_gives_way_to_one_that_lives() {
    let folder = tempfile::tempdir().unwrap();
    let _lock = Lock::take(folder.path()).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(door(folder.path()).path()).unwrap();
    let refused = claim(folder.path(), Rank::Private).unwrap_err();
    assert!(matches!(refused, Refused::Lives(_, Some(pid)) if pid == std::process::id()));
}

#[test]
fn a_service_waits_for_one_that_is_ending() {
    let folder = tempfile::tempdir().unwrap();
    let lock = Lock::take(folder.path()).unwrap();
    let ending = thread::spawn(move || {
        thread::sleep(PAUSE * 5);
        drop(lock);
    });
    assert!(claim(folder.path(), Rank::Private).unwrap().lock.is_some());
    ending.join().unwrap();
}

#[test]
fn a_folder_that_cannot_be_used_refuses_requests_and_no_start() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    assert!(claim(&file.join("state"), Rank::Private).unwrap().lock.is_none());
}

#[test]
fn who_has_the_lock_and_does_not_answer_is_named() {
    let folder = Path::new("/home/dev/.local/state/styxy/state/0123456789abcdef");
    let words = Refused::Silent(folder.to_owned(), Some(4711)).to_string();
    assert!(words.contains("process 4711") && words.contains("kill 4711"), "{words}");
    let words = Refused::Silent(folder.to_owned(), None).to_string();
    assert!(words.contains("other machine"), "{words}");
}

#[test]
fn what_is_not_known_in_an_answer_is_passed_over_with_its_descriptors() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let null = fs::File::open("/dev/null").unwrap();
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let later = json!({"version": 2, "leases": ["…"]});
    wire::send(&theirs, &later, &[null.as_fd(), null.as_fd()]).unwrap();
    let guards = json!({"version": 2, "guards": [lease_id(1)], "more": true});
    wire::send(&theirs, &guards, &[socket.as_fd(), null.as_fd()]).unwrap();
    wire::send(&theirs, &json!({"done": true}), &[]).unwrap();
    let mut claim = Claim::default();
    take_over(&ours, &mut claim).unwrap();
    assert_eq!(claim.guards.len(), 1);
    let guard = TcpListener::from(claim.guards.into_iter().next().unwrap().1);
    assert_eq!(guard.local_addr().unwrap(), socket.local_addr().unwrap());
}

#[test]
fn a_newer_service_is_answered_in_the_version_that_this_one_speaks() {
    let folder = tempfile::tempdir().unwrap();
    let (service, ready) = serve(folder.path(), Guards::default(), Vec::new());
    ready.recv().unwrap();
    let stream = door(folder.path()).connect_now().unwrap();
    let question = json!({"hand_over": VERSION + 1, "styxy": "99.0.0", "in": "a later way"});
    wire::send(&stream, &question, &[]).unwrap();
    let mut reader = wire::Reader::new(&stream);
    let (answer, _) = reader.next::<serde_json::Value>().unwrap().unwrap();
    assert_eq!((&answer["version"], &answer["done"]), (&json!(VERSION), &json!(true)));
    service.join().unwrap();
    assert!(Lock::try_take(folder.path()).is_ok(), "it has ended");
}

#[tokio::test]
async fn a_service_that_has_given_up_asking_is_not_handed_anything() {
    let folder = tempfile::tempdir().unwrap();
    let listener = tokio::net::UnixListener::bind(door(folder.path()).path()).unwrap();
    let ask = |styxy: &str| {
        let stream = door(folder.path()).connect_now().unwrap();
        wire::send(&stream, &Request { hand_over: VERSION, styxy: styxy.to_owned() }, &[]).unwrap();
        stream
    };
    drop(ask("gone"));
    let stream = ask("here");
    giver::asked(&listener).await.give(&Guards::default(), [].iter()).unwrap();
    let (answer, _) = wire::Reader::new(&stream).next::<Answer>().unwrap().unwrap();
    assert!(answer.done);
}

#[test]
fn a_service_that_ends_in_the_middle_hands_over_what_it_had_sent() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let null = fs::File::open("/dev/null").unwrap();
    wire::send(&theirs, &json!({"guards": [lease_id(1)]}), &[null.as_fd()]).unwrap();
    io::Write::write_all(&mut &theirs, br#"{"guards": ["#).unwrap();
    theirs.shutdown(std::net::Shutdown::Write).unwrap();
    let mut claim = Claim::default();
    take_over(&ours, &mut claim).unwrap();
    assert_eq!(claim.guards.len(), 1);
}

fn free_port() -> Port {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    Port::new(listener.local_addr().unwrap().port().into()).unwrap()
}

/// Binds like a program that does not set `SO_REUSEADDR`.
fn plain_bind(port: Port) -> rustix::io::Result<()> {
    use rustix::net::{AddressFamily, SocketType, bind, socket};
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None)?;
    bind(&socket, &std::net::SocketAddr::from(([127, 0, 0, 1], port.get())))
}
