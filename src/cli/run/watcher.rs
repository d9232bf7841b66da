//! Checks whether a command listens on its port: for ten seconds, in a separate process.

use std::{
    collections::BTreeSet,
    env,
    ffi::CString,
    fs, io,
    os::unix::{ffi::OsStringExt, fs::MetadataExt},
    process,
    time::{Duration, Instant},
};

use clap::Args;

use crate::{
    cli::{port_users::users, say},
    kernel::{
        detach::start_apart,
        diag, ephemeral_ports,
        listeners::{listeners, was_given},
        process::{Process, is_of, start, variable},
    },
    port::{Port, PortRange, Protocol},
};

/// How long to watch: a command that listens later is not reported.
const LIMIT: Duration = Duration::from_secs(10);
const AGAIN: Duration = Duration::from_millis(200);
/// How long a program that listens elsewhere, perhaps for a debugger, may take to listen on its port.
const GRACE: Duration = Duration::from_secs(2);

/// Say on standard error if a process listens elsewhere than on its port; `styxy run` starts this
#[derive(Debug, Args)]
pub(in crate::cli) struct Watcher {
    /// The process
    pid: u32,
    /// When it was started, for a number may be another's soon
    started: u64,
    /// Its port
    port: Port,
    /// What to do about it
    remedy: String,
}

/// Starts a watcher for the command that is about to replace this process.
pub(super) fn watch(port: Port, remedy: &str) -> io::Result<()> {
    // The first process of a container would have to reap the watcher, and does not expect it.
    if process::id() == 1 || is_unread()? {
        return Ok(());
    }
    let pid = process::id();
    let started = start(pid).ok_or(io::ErrorKind::NotFound)?;
    let (pid, started, port) = (pid.to_string(), started.to_string(), port.to_string());
    let words = ["watcher", &pid, &started, &port, "--", remedy]
        .into_iter()
        .map(CString::new)
        .collect::<Result<Vec<_>, _>>()?;
    let program = CString::new(env::current_exe()?.into_os_string().into_vec())?;
    start_apart(&program, &words)
}

/// Whether nobody reads standard error: it is closed, or `/dev/null`.
fn is_unread() -> io::Result<bool> {
    let null = fs::metadata("/dev/null")?.rdev();
    Ok(fs::metadata("/proc/self/fd/2")?.rdev() == null)
}

impl Watcher {
    pub(in crate::cli) fn run(self) {
        let process = Process::of_pid(self.pid).ok();
        let Some(process) = process.filter(|process| process.start == self.started) else { return };
        let end = Instant::now() + LIMIT;
        let (mut known, mut since) = (BTreeSet::new(), None);
        while Instant::now() < end {
            if process.ends_within(AGAIN) || diag::is_listened(self.port, Protocol::Tcp) {
                break;
            }
            // Finding the processes behind sockets is slow, so it is done only when the sockets have changed.
            let mut now = BTreeSet::new();
            let mut take = |socket: diag::Socket| {
                now.insert(socket.inode);
            };
            if diag::sockets(Protocol::Tcp, PortRange::ALL, &mut take).is_err() {
                break;
            }
            let is_due = since.is_some_and(|since: Instant| since.elapsed() >= GRACE);
            if now == known && !is_due {
                continue;
            }
            known = now;
            let elsewhere = self.elsewhere();
            if elsewhere.is_empty() {
                since = None;
            } else if is_due {
                let ports: Vec<_> = elsewhere.iter().map(ToString::to_string).collect();
                let noun = if ports.len() == 1 { "port" } else { "ports" };
                let (ports, Self { port, remedy, .. }) = (ports.join(", "), self);
                say(&format!(
                    "the command listens on {noun} {ports} and not on {port}, its own; {remedy}"
                ));
                break;
            } else {
                since.get_or_insert_with(Instant::now);
            }
        }
    }

    /// The ports on which the process or a descendant listens. Of the kernel's ephemeral range only those that it was given:
    /// programs have sockets there for themselves.
    fn elsewhere(&self) -> BTreeSet<Port> {
        let listeners = listeners(PortRange::ALL, Protocol::Tcp).unwrap_or_default();
        let own = self.port.to_string();
        let is_its = |pid: u32| {
            // A descendant with a lease of its own rightly has another port.
            is_of(pid, self.pid) && variable(pid, "STYXY_PORT").is_none_or(|port| port == own)
        };
        let chosen = ephemeral_ports();
        let may_be_chosen = |port: Port| chosen.is_some_and(|chosen| chosen.contains(port));
        let mut users = users(listeners);
        users.retain(|user| {
            let Some(pid) = user.program.as_ref().map(|program| program.pid) else { return false };
            is_its(pid) && (!may_be_chosen(user.port) || was_given(pid, self.pid, user.port))
        });
        users.into_iter().map(|user| user.port).collect()
    }
}
