//! What another `styxy up` of the project runs already.
//!
//! Each process has a name of its own among the abstract sockets (unix(7)), which belong to a network, as ports do. The kernel
//! gives it to one `styxy up`, says which one that is, and takes it back when that ends.

use std::{
    io::{self, ErrorKind},
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixListener, UnixStream},
    },
};

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use serde_json::Value as Json;

use super::plan::Planned;
use crate::{
    cli::{CliError, lease::found, output::lasted, project::Project},
    kernel::process::{age, uid},
    value::Fields,
    word::fnv1a,
};

/// How often a name is tried that is taken, and then nobody's.
const TRIES: usize = 3;

/// The names that this command has, until it is dropped.
#[derive(Default)]
pub(super) struct Names(Vec<UnixListener>);

impl Names {
    /// Takes the name of a process, or returns the PID of the `styxy up` that has it. Where names cannot be had, nobody has any.
    pub(super) fn take(&mut self, project: &Project, planned: &Planned) -> Option<u32> {
        let address = address(project, planned).ok()?;
        for _ in 0..TRIES {
            match UnixListener::bind_addr(&address) {
                Ok(name) => {
                    self.0.push(name);
                    return None;
                }
                Err(error) if error.kind() == ErrorKind::AddrInUse => {}
                Err(_) => return None,
            }
            // Else it has just ended.
            if let Ok(holder) = holder_of(&address) {
                return holder;
            }
        }
        None
    }

    /// Has those answered who ask whose the names are, or else some day nobody could ask.
    pub(super) fn answer(self) -> io::Result<()> {
        for name in self.0 {
            name.set_nonblocking(true)?;
            let name = tokio::net::UnixListener::from_std(name)?;
            tokio::spawn(async move { while name.accept().await.is_ok() {} });
        }
        Ok(())
    }
}

/// The PID of the `styxy up` that runs a process.
pub(super) fn holder(project: &Project, planned: &Planned) -> Option<u32> {
    holder_of(&address(project, planned).ok()?).ok()?
}

/// The process that has a name, unless it is another user's.
fn holder_of(address: &SocketAddr) -> io::Result<Option<u32>> {
    let other = getsockopt(&UnixStream::connect_addr(address)?, PeerCredentials)?;
    Ok(u32::try_from(other.pid()).ok().filter(|_| other.uid() == uid()))
}

fn address(project: &Project, planned: &Planned) -> io::Result<SocketAddr> {
    let folder = planned.process.folder.display();
    let key = format!("{}\n{folder}\n{}", project.path().as_str(), planned.name);
    SocketAddr::from_abstract_name(format!("styxy/up/{}/{:016x}", uid(), fnv1a(key.as_bytes())))
}

/// Says which processes others run, given the PID of the `styxy up` that runs each: `web (port 3000) and jobs are up already …`.
pub(super) fn sentence(
    others: &[(&Planned, u32)],
    services: &[Json],
    project: &Project,
) -> Result<String, CliError> {
    let mut filter = Fields::default();
    filter.put("project_path", project.path().as_str());
    let leases = found(filter)?;
    let mut pids: Vec<_> = others.iter().map(|(_, pid)| *pid).collect();
    pids.dedup();
    let clause = |pid: u32| {
        let its = others.iter().filter(|(_, other)| *other == pid);
        let names: Vec<_> =
            its.map(|(planned, _)| named(planned, pid, services, &leases)).collect();
        let (verb, them) = if names.len() == 1 { ("is", "it") } else { ("are", "them") };
        let since = age(pid).map(|age| format!(" for {}", lasted(age.as_secs())));
        format!(
            "{} {verb} up already: styxy up (PID {pid}) has run {them}{}",
            names.join(", "),
            since.unwrap_or_default()
        )
    };
    Ok(pids.into_iter().map(clause).collect::<Vec<_>>().join("; "))
}

/// `web (port 3000)`
fn named(planned: &Planned, pid: u32, services: &[Json], leases: &[Json]) -> String {
    let service = planned.process.ports.first().map(|at| &services[*at]);
    let is_its = |lease: &&Json| {
        let is_same = |key: &str| service.is_some_and(|service| service[key] == lease[key]);
        lease["pid"] == pid
            && ["service_type", "service_name", "package_path"].into_iter().all(is_same)
    };
    match leases.iter().find(is_its) {
        Some(lease) => format!("{} (port {})", planned.name, lease["port"]),
        None => planned.name.clone(),
    }
}
