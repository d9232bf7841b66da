use std::{
    ffi::OsString,
    os::{fd::OwnedFd, unix::process::CommandExt},
    process,
};

use clap::Args;
use command_fds::{CommandFdExt, FdMapping};
use serde_json::Value as Json;

use super::{
    CliError, block_on,
    lease_options::{LeaseOptions, allocate},
    owner::put_own_process,
    programs, refused,
    run::{Replacing, Telling, environment, not_started, refuse_to_run_twice, unless_off},
    usage,
};
use crate::{
    client,
    error::Error,
    kernel::probe,
    port::{Port, Protocol},
    request::AllocateRequest,
};

/// The first descriptor that is passed, as defined by sd_listen_fds(3).
const FIRST: i32 = 3;

/// Lease a port and run a command with its listening socket
///
/// For programs that support socket activation: the socket is descriptor 3, and LISTEN_FDS, LISTEN_PID and
/// LISTEN_FDNAMES are set as sd_listen_fds(3) has it. Nothing can take the port before the first
/// connection, and early connections wait. It listens on all addresses, IPv4 and IPv6, as a
/// socket of systemd-socket-activate(1) does.
///
/// PORT, HOST and the rest are set as `styxy run` sets them, and {port} in the arguments is replaced by the
/// port. The lease belongs to the command, and ends with it. With STYXY=0 in the environment the command is
/// started without a socket.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    styxy exec api -- uvicorn app:app --fd 3\n  \
    styxy exec dev -- node server.js    # listen({fd: 3}) in there")]
pub(super) struct Exec {
    /// The class of service: dev, api, database, …
    #[arg(value_name = "TYPE")]
    service_type: String,
    #[command(flatten)]
    telling: Telling,
    #[command(flatten)]
    replacing: Replacing,
    #[command(flatten)]
    wanted: LeaseOptions,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

impl Exec {
    pub(super) fn is_quiet(&self) -> bool {
        self.telling.quiet
    }

    pub(super) fn run(mut self) -> Result<(), CliError> {
        unless_off(&self.command)?;
        self.wanted.for_command(&self.command);
        if self.wanted.protocol == Some(Protocol::Both) {
            let error = Error::invalid("one socket is handed over at a time");
            return Err(usage(&error.suggest("choose tcp or udp")));
        }
        let (answer, socket) = self.lease()?;
        refuse_to_run_twice(&answer)?;
        self.telling.tell(&answer, "PORT", Some(&self.wanted));
        if answer["protocol"] == "tcp" {
            listen(&socket)?;
        }
        let mut command =
            self.replacing.prepare(&self.command, Some("PORT"), &environment("PORT", &answer));
        command
            .env("LISTEN_FDS", "1")
            .env("LISTEN_PID", process::id().to_string())
            .env("LISTEN_FDNAMES", &self.service_type);
        let mapping = FdMapping { parent_fd: socket, child_fd: FIRST };
        if command.fd_mappings(vec![mapping]).is_err() {
            return Err(refused("descriptor 3 cannot be set".to_owned()));
        }
        let error = command.exec();
        Err(not_started(&self.command[0], &error))
    }

    /// Returns the lease and its socket: the service passes it over the bus; without the bus, it is bound
    /// here, beside the guard.
    fn lease(&self) -> Result<(Json, OwnedFd), CliError> {
        let mut options = self.wanted.options()?;
        put_own_process(&mut options);
        options.put("use_claim", true);
        programs::put_name(&self.command, &programs::known(), &mut options);
        AllocateRequest::parse(&self.service_type, options.0.clone()).map_err(|e| usage(&e))?;
        let handed = block_on(client::call_for_socket(&self.service_type, &options))??;
        if let Some(handed) = handed {
            return Ok(handed);
        }
        let answer = allocate(&self.service_type, options)?;
        refuse_to_run_twice(&answer)?;
        let port = answer["port"].as_u64().and_then(Port::new);
        let protocol = if answer["protocol"] == "udp" { Protocol::Udp } else { Protocol::Tcp };
        let socket = port.and_then(|port| match protocol {
            Protocol::Tcp => probe::rebind(port).ok(),
            protocol => probe::reserve(port, protocol).ok(),
        });
        let socket = socket.ok_or_else(|| {
            refused(format!(
                "port {} was taken before it could be bound: try again",
                answer["port"]
            ))
        })?;
        Ok((answer, socket))
    }
}

fn listen(socket: &OwnedFd) -> Result<(), CliError> {
    nix::sys::socket::listen(socket, nix::sys::socket::Backlog::MAXCONN)
        .map_err(|errno| refused(format!("the port cannot be listened on: {errno}")))
}
