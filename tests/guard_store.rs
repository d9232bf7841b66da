//! Guards that a service manager keeps, with a manager that takes its time.

mod support;

use std::{
    collections::HashMap,
    io::IoSliceMut,
    mem::MaybeUninit,
    os::{fd::OwnedFd, unix::net::UnixDatagram},
    process::Command,
    time::Duration,
};

use nix::sys::signal::Signal;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use styxy::{
    kernel::probe,
    port::{Port, Protocol},
};
use support::{Home, end, started};

/// A manager: its socket, and the guards that it keeps, by name.
struct Manager {
    socket: UnixDatagram,
    kept: HashMap<String, OwnedFd>,
    /// What the service waits for.
    barriers: Vec<OwnedFd>,
}

impl Manager {
    fn new(home: &Home) -> Self {
        let socket = UnixDatagram::bind(home.path("notify")).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        Self { socket, kept: HashMap::new(), barriers: Vec::new() }
    }

    /// Receives messages up to the one that begins so. It stores what it is to store, and forgets nothing.
    fn until(&mut self, beginning: &str) {
        loop {
            let (text, descriptor) = self.receive();
            let name = text.lines().find_map(|line| line.strip_prefix("FDNAME="));
            match (name, descriptor) {
                (Some(name), Some(guard)) => drop(self.kept.insert(name.to_owned(), guard)),
                (None, Some(barrier)) => self.barriers.push(barrier),
                (_, None) => {}
            }
            if text.starts_with(beginning) {
                return;
            }
        }
    }

    fn receive(&self) -> (String, Option<OwnedFd>) {
        let mut bytes = [0; 4096];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut passed = RecvAncillaryBuffer::new(&mut space);
        let parts = &mut [IoSliceMut::new(&mut bytes)];
        let flags = RecvFlags::CMSG_CLOEXEC;
        let length = recvmsg(&self.socket, parts, &mut passed, flags).unwrap().bytes;
        let descriptor = passed.drain().find_map(|part| match part {
            RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
            _ => None,
        });
        (String::from_utf8(bytes[..length].to_vec()).unwrap(), descriptor)
    }

    /// Does at last what it was told to.
    fn forget(&mut self) {
        self.kept.clear();
        self.barriers.clear();
    }
}

/// The command, as a manager starts it.
fn managed(home: &Home) -> Command {
    let styxy = home.styxy();
    let mut command = Command::new("sh");
    command.args(["-c", r#"SYSTEMD_EXEC_PID=$$ exec "$0" "$@""#]).arg(styxy.get_program());
    command.env_clear().envs(styxy.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.env("NOTIFY_SOCKET", home.path("notify"));
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
    let service = started(managed(&home));
    let port = home.ok(&["allocate", "mine"]);
    manager.until("FDSTORE=1");
    home.ok(&["release", &port]);
    manager.until("BARRIER=1");
    assert_eq!(home.ok(&["allocate", "mine"]), port, "the project gets its port again");
    manager.forget();
    assert!(!is_free(&port), "the new guard is nobody's copy");

    manager.until("FDSTORE=1");
    home.ok(&["release", &port]);
    manager.until("BARRIER=1");
    assert!(!is_free(&port), "the manager has it still");
    manager.forget();
    home.until(|| is_free(&port));
    end(service, Signal::SIGKILL);
}
