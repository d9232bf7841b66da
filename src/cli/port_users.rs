//! The users of ports, for display: the sockets of one program on a port are one entry.

use std::{net::IpAddr, sync::Arc};

use serde_json::{Value as Json, json};

use super::ask;
use crate::{
    client::Call,
    kernel::{
        container::Container,
        diag::Role,
        listeners::{Listener, Program, listeners},
        process::is_of,
    },
    port::{Port, PortRange, Protocol},
    value::Fields,
    word::shortened,
};

/// A user of a port: a program, or sockets whose program cannot be seen.
pub(super) struct PortUser {
    pub(super) port: Port,
    pub(super) protocol: Protocol,
    pub(super) addresses: Vec<IpAddr>,
    pub(super) user: Arc<str>,
    pub(super) uid: u32,
    role: Role,
    pub(super) program: Option<Arc<Program>>,
}

/// Groups sorted listeners by their user, and keeps their order.
pub(super) fn users(listeners: Vec<Listener>) -> Vec<PortUser> {
    let mut users: Vec<PortUser> = Vec::new();
    for Listener { port, protocol, address, uid, user, role, program, .. } in listeners {
        let pid = |program: &Option<Arc<Program>>| program.as_ref().map(|program| program.pid);
        let mut same_port =
            users.iter_mut().rev().take_while(|h| (h.port, h.protocol) == (port, protocol));
        // Several connections of one program are one entry, too.
        let kind = std::mem::discriminant::<Role>;
        match same_port.find(|h| {
            (h.uid, pid(&h.program)) == (uid, pid(&program)) && kind(&h.role) == kind(&role)
        }) {
            // Several sockets of one program may share an address.
            Some(user) if user.addresses.contains(&address) => {}
            Some(user) => user.addresses.push(address),
            None => {
                let addresses = vec![address];
                users.push(PortUser { port, protocol, addresses, user, uid, role, program });
            }
        }
    }
    users
}

/// The TCP ports that the owner of a lease, or a process that it started, listens on without a lease: it may
/// not have read `PORT`.
pub(super) fn elsewhere(lease: &Json, leases: &[Json]) -> Vec<PortUser> {
    let Some(owner) = lease["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()) else {
        return Vec::new();
    };
    let Ok(listeners) = listeners(PortRange::ALL, Protocol::Tcp) else { return Vec::new() };
    let mut users = users(listeners);
    users.retain(|user| {
        let is_its = user.program.as_ref().is_some_and(|program| is_of(program.pid, owner));
        is_its && !leases.iter().any(|lease| lease["port"] == user.port.get())
    });
    users
}

/// The same as a clause; `None` if there are none.
pub(super) fn instead(elsewhere: &[PortUser]) -> Option<String> {
    let mut ports: Vec<_> = elsewhere.iter().map(|user| user.port.to_string()).collect();
    ports.dedup();
    let noun = if ports.len() == 1 { "port" } else { "ports" };
    let ports = ports.join(", ");
    (!ports.is_empty()).then(|| format!("its owner listens on TCP {noun} {ports} instead"))
}

/// A note about a lease whose port is unused, if its owner listens on another one.
pub(super) fn note_of(lease: &Json) -> Option<String> {
    if lease["state"] != "reserved" || lease["pid"].is_null() {
        return None;
    }
    let leases = ask(&Call::List { filter: Fields::default() }).ok()?;
    let instead = instead(&elsewhere(lease, leases.as_array()?))?;
    Some(format!("nothing listens on port {}: {instead}; {IGNORES_PORT}", lease["port"]))
}

/// The advice for a server that does not read its port.
pub(super) const IGNORES_PORT: &str =
    "if it does not read PORT, put {port} in place of the number in its arguments";

impl PortUser {
    /// A description for people: `node (PID 4711, dev, /home/dev/shop): npm run dev`.
    pub(super) fn describe(&self) -> String {
        let Some(program) = &self.program else {
            return format!("a program of user {}", self.user);
        };
        let Program { pid, command, command_line, .. } = &**program;
        let mut words = format!("{command} (PID {pid}, {}", self.user);
        if let Some(place) = place(program) {
            words.extend([", ", &place]);
        }
        words.push(')');
        if !command_line.is_empty() {
            words.extend([": `", &shortened(command_line), "`"]);
        }
        words
    }

    /// The same in short: `node[4711]`.
    pub(super) fn short(&self) -> String {
        match &self.program {
            Some(program) => format!("{}[{}]", program.command, program.pid),
            None => format!("a program of user {}", self.user),
        }
    }

    /// Whether it keeps the port without listening, as styxy reserves ports.
    pub(super) fn is_bound(&self) -> bool {
        matches!(self.role, Role::Bound)
    }

    /// A sentence that says how this user keeps others from the port.
    pub(super) fn sentence(&self, who: &str) -> String {
        let (port, protocol) = (self.port, self.protocol.in_words());
        match (self.role, &self.program) {
            (Role::Listener, _) => format!("{protocol} port {port} is in use by {who}"),
            (Role::Bound, Some(_)) => {
                format!("{protocol} port {port} is bound by {who}, which does not listen")
            }
            (Role::Bound, None) => {
                format!("{protocol} port {port} is reserved by {who}, as styxy reserves ports")
            }
            (Role::Connection { .. }, _) => {
                format!("{protocol} port {port} is in use by an outgoing connection of {who}")
            }
        }
    }

    /// The same for programs.
    pub(super) fn json(&self) -> Json {
        let program = self.program.as_deref();
        json!({
            "port": self.port,
            "protocol": self.protocol,
            "addresses": self.addresses,
            "uid": self.uid,
            "user": self.user,
            "pid": program.map(|program| program.pid),
            "command": program.map(|program| &program.command),
            "command_line": program.map(|program| &program.command_line),
            "folder": program.and_then(|program| program.folder.as_ref()),
            "container": program.and_then(|program| program.container.as_ref()).map(|c| match c {
                Container::Within { runtime, id } => json!({"runtime": runtime, "id": id}),
                Container::Behind(address) => json!({"runtime": "docker", "address": address}),
            }),
        })
    }
}

/// Where a program runs, for people: its container, or else its working directory.
pub(super) fn place(program: &Program) -> Option<String> {
    match (&program.container, &program.folder) {
        (Some(container), _) => Some(format!("container {container}")),
        (None, folder) => folder.clone(),
    }
}
