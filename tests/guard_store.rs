//! Guards that a service manager keeps, with a manager that takes its time.

mod support;

use std::{
    cell::RefCell,
    collections::BTreeMap,
    io::{self, IoSliceMut, Write},
    mem::MaybeUninit,
    os::{
        fd::OwnedFd,
        unix::net::{UnixDatagram, UnixStream},
    },
    process::Command,
    thread,
    time::Duration,
};

use command_fds::{CommandFdExt, FdMapping};
use nix::sys::signal::Signal;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use styxy::{
    kernel::{
        diag::{self, BoundBy},
        probe,
    },
    port::{Port, Protocol},
};
use support::{Home, end, started};

/// How messages begin that have a descriptor stored.
const GUARD: &str = "FDSTORE=1\nFDNAME=guard.";
const SHELF: &str = "FDSTORE=1\nFDNAME=shelf.";

/// A manager: its socket, and the guards that it keeps, by name.
struct Manager {
    socket: UnixDatagram,
    kept: BTreeMap<String, Vec<OwnedFd>>,
    /// What the service waits for.
    barriers: Vec<OwnedFd>,
}

impl Manager {
    fn new(home: &Home) -> Self {
        let socket = UnixDatagram::bind(home.path("notify")).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        Self { socket, kept: BTreeMap::new(), barriers: Vec::new() }
    }

    /// Receives messages up to the one that begins so. It stores what it is to store, and forgets nothing.
    fn until(&mut self, beginning: &str) {
        loop {
            let (text, descriptors) = self.receive().unwrap();
            self.store(&text, descriptors);
            if text.starts_with(beginning) {
                return;
            }
        }
    }

    /// Receives what there is, and stores what it is to store.
    fn keep(&mut self) {
        self.socket.set_nonblocking(true).unwrap();
        while let Ok((text, descriptors)) = self.receive() {
            self.store(&text, descriptors);
        }
        self.socket.set_nonblocking(false).unwrap();
    }

    fn store(&mut self, text: &str, descriptors: Vec<OwnedFd>) {
        match text.lines().find_map(|line| line.strip_prefix("FDNAME=")) {
            Some(name) => self.kept.entry(name.to_owned()).or_default().extend(descriptors),
            None => self.barriers.extend(descriptors),
        }
    }

    fn receive(&self) -> io::Result<(String, Vec<OwnedFd>)> {
        let mut bytes = [0; 4096];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut passed = RecvAncillaryBuffer::new(&mut space);
        let parts = &mut [IoSliceMut::new(&mut bytes)];
        let flags = RecvFlags::CMSG_CLOEXEC;
        let length = recvmsg(&self.socket, parts, &mut passed, flags)?.bytes;
        let mut descriptors = Vec::new();
        for part in passed.drain() {
            if let RecvAncillaryMessage::ScmRights(passed) = part {
                descriptors.extend(passed);
            }
        }
        Ok((String::from_utf8(bytes[..length].to_vec()).unwrap(), descriptors))
    }

    /// Receives what there is, and keeps nothing.
    fn empty(&mut self) {
        self.drain();
        self.forget();
    }

    /// Receives what there is, and minds none of it: ten messages that nobody receives stop who sends the next (unix(7)).
    fn drain(&self) {
        self.socket.set_nonblocking(true).unwrap();
        while self.receive().is_ok() {}
        self.socket.set_nonblocking(false).unwrap();
    }

    /// Does at last what it was told to.
    fn forget(&mut self) {
        self.kept.clear();
        self.barriers.clear();
    }
}

/// The command, as a manager starts it, with what it has kept.
fn managed(home: &Home, kept: &BTreeMap<String, Vec<OwnedFd>>) -> Command {
    let styxy = home.styxy();
    let mut command = Command::new("sh");
    let script = r#"SYSTEMD_EXEC_PID=$$ LISTEN_PID=$$ exec "$0" "$@""#;
    command.args(["-c", script]).arg(styxy.get_program());
    command.env_clear().envs(styxy.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.env("NOTIFY_SOCKET", home.path("notify"));
    let all = kept.iter().flat_map(|(name, all)| all.iter().map(move |kept| (name.as_str(), kept)));
    let (names, kept): (Vec<_>, Vec<_>) =
        all.map(|(name, kept)| (name, kept.try_clone().unwrap())).unzip();
    command.env("LISTEN_FDS", kept.len().to_string()).env("LISTEN_FDNAMES", names.join(":"));
    let numbered = kept.into_iter().zip(3..);
    let mappings = numbered.map(|(parent_fd, child_fd)| FdMapping { parent_fd, child_fd });
    command.fd_mappings(mappings.collect()).unwrap();
    command
}

/// Whether another user's service could have the port now.
fn is_free(port: &str) -> bool {
    let port = port.parse().unwrap();
    probe::reserve(Port::new(port).unwrap(), Protocol::Tcp).is_ok()
}

#[test]
fn a_released_port_is_granted_again_before_the_manager_has_closed_its_guard() {
    let home = Home::with_type();
    let mut manager = Manager::new(&home);
    let service = started(managed(&home, &BTreeMap::new()));
    let port = home.ok(&["allocate", "mine"]);
    manager.until(GUARD);
    home.ok(&["release", &port]);
    manager.until("BARRIER=1");
    assert_eq!(home.ok(&["allocate", "mine"]), port, "the project gets its port again");
    manager.forget();
    assert!(!is_free(&port), "the new guard is nobody's copy");

    manager.until(GUARD);
    home.ok(&["release", &port]);
    manager.until("BARRIER=1");
    assert!(!is_free(&port), "the manager has it still");
    manager.forget();
    home.until(|| is_free(&port));
    end(service, Signal::SIGKILL);
}

#[test]
fn the_guard_of_a_lease_outlives_a_service_that_is_killed_right_after_the_grant() {
    let home = Home::with_type();
    let mut manager = Manager::new(&home);
    let service = started(managed(&home, &BTreeMap::new()));
    let port = home.ok(&["allocate", "mine"]);
    end(service, Signal::SIGKILL);
    assert!(!is_free(&port), "it waits in a message");
    manager.until(SHELF);
    for _ in 0..2 {
        manager.keep();
        let service = started(managed(&home, &manager.kept));
        assert!(!is_free(&port), "the next service has it");
        end(service, Signal::SIGKILL);
        assert!(!is_free(&port), "it is killed as soon as it runs");
    }
    // The shelf is for few: what it was found on is not where it stays.
    manager.keep();
    let is_guard = |name: &String| name.starts_with("guard.");
    assert_eq!(manager.kept.keys().filter(|name| is_guard(name)).count(), 1);
}

#[test]
fn a_guard_that_the_manager_has_and_did_not_pass_on_ends_no_lease() {
    let home = Home::with_type();
    let mut manager = Manager::new(&home);
    let service = started(managed(&home, &BTreeMap::new()));
    let port = home.ok(&["allocate", "mine"]);
    manager.until(SHELF);
    end(service, Signal::SIGKILL);
    if diag::bound_by(port.parse().ok().and_then(Port::new).unwrap()) != BoundBy::Own {
        eprintln!("SKIPPED: this kernel does not tell of bound sockets (6.8 does)");
        return;
    }
    // As a busy manager has it: the message of the killed service came after the start of the next.
    let service = started(managed(&home, &BTreeMap::new()));
    home.until(|| home.http("GET", "/status", "").body["guards"] == 1);
    manager.forget();
    assert!(!is_free(&port), "the next service has a guard of its own");
    assert_eq!(home.http("GET", "/allocations", "").body["allocations"][0]["state"], "claimed");
    end(service, Signal::SIGKILL);
}

#[test]
fn the_port_of_a_lease_that_ends_soon_after_the_grant_is_free() {
    let home = Home::with_type();
    let manager = RefCell::new(Manager::new(&home));
    let service = started(managed(&home, &BTreeMap::new()));
    let port = home.ok(&["allocate", "mine"]);
    home.ok(&["release", &port]);
    home.until(|| {
        manager.borrow_mut().empty();
        is_free(&port)
    });
    end(service, Signal::SIGKILL);
}

/// The body of the request that the owner of a lease makes when it has bound the port.
const CLIENT: &str = r#"{"hold": "client"}"#;

#[test]
fn the_owner_keeps_a_port_bound_when_the_manager_has_closed_its_guard() {
    let home = Home::with_type();
    let mut manager = Manager::new(&home);
    let service = started(managed(&home, &BTreeMap::new()));
    let port = home.ok(&["allocate", "mine"]);
    let path = format!("/leases/{}/hold", home.leases()[0]["lease_id"].as_str().unwrap());
    manager.until(GUARD);
    thread::scope(|scope| {
        let request = scope.spawn(|| home.http("PUT", &path, CLIENT).status);
        manager.until("FDSTOREREMOVE=1");
        manager.until("BARRIER=1");
        assert!(!request.is_finished() && !is_free(&port), "the manager has it still");
        manager.forget();
        assert_eq!(request.join().unwrap(), 200);
    });
    assert!(is_free(&port), "neither has a socket on it");
    assert_eq!(home.leases()[0]["hold"], "client");
    // There is nothing to wait for the second time.
    assert_eq!(home.http("PUT", &path, CLIENT).status, 200);
    end(service, Signal::SIGKILL);
}

#[test]
fn a_port_that_its_owner_keeps_bound_is_not_taken_back_from_the_manager() {
    let home = Home::with_type();
    let mut manager = Manager::new(&home);
    let service = started(managed(&home, &BTreeMap::new()));
    let port = home.ok(&["allocate", "mine"]);
    let lease_id = home.leases()[0]["lease_id"].as_str().unwrap().to_owned();
    manager.until(GUARD);
    // The service is killed before the manager has heard of it.
    let mut request = UnixStream::connect(home.socket()).unwrap();
    let head = format!("PUT /leases/{lease_id}/hold HTTP/1.1\r\nHost: a\r\nContent-Length: ");
    write!(request, "{head}{}\r\n\r\n{CLIENT}", CLIENT.len()).unwrap();
    home.until(|| home.leases()[0]["hold"] == "client");
    end(service, Signal::SIGKILL);
    let kept = std::mem::take(&mut manager.kept);
    assert!(kept.keys().any(|name| name.starts_with("guard.")), "{kept:?}");
    manager.drain();
    let service = started(managed(&home, &kept));
    drop(kept);
    assert_eq!(home.leases()[0]["hold"], "client");
    home.until(|| is_free(&port));
    end(service, Signal::SIGKILL);
}
