use std::{
    env,
    io::{self, Write},
    process::{Command, Stdio},
    time::Duration,
};

use clap::Args;

use super::{CliError, seconds};
use crate::{
    daemon::{self, End},
    kernel::detach,
    surroundings::Seen,
};

/// Run the service; systemd does this on demand
#[derive(Debug, Args)]
pub(super) struct Daemon {
    /// Exit after this many seconds, or a time such as 10m, without a lease and without a client; 0 for never
    /// [default: idle_exit_seconds of the configuration]
    #[arg(long, value_name = "TIME", value_parser = seconds(0..=u64::MAX))]
    idle_exit: Option<u64>,
    /// Start the service as a process of its own, without anything of this one's, and end
    #[arg(long, hide = true)]
    detach: bool,
    /// Write to the log in the state folder; close stdout when it listens
    #[arg(long, hide = true)]
    log: bool,
    /// Fail if the state folder or the network is another one
    #[arg(long, hide = true, value_name = "NETWORK:DEVICE:INODE")]
    as_seen: Option<Seen>,
}

impl Daemon {
    pub(super) fn run(self) -> Result<(), CliError> {
        if self.detach {
            return Ok(self.detached()?);
        }
        let options = daemon::Options {
            idle_exit: self.idle_exit.map(Duration::from_secs),
            log: self.log,
            as_seen: self.as_seen,
        };
        match daemon::run(&options) {
            Ok(End::Done) => Ok(()),
            Ok(End::Again) => Err(CliError::Again),
            Err(failure) => {
                if self.log {
                    // For the waiting command, which reads stdout; stderr may be the log by now.
                    let kind = if failure.is_taken { daemon::TAKEN } else { "" };
                    let _ = writeln!(io::stdout(), "{kind}{failure}");
                }
                Err(CliError::Daemon(failure))
            }
        }
    }

    /// Starts the service as a child of this process, which then exits at once. So the service is adopted by
    /// init and, because it does not lead the session, cannot acquire a terminal.
    fn detached(self) -> io::Result<()> {
        detach::let_go()?;
        let mut service = Command::new(env::current_exe()?);
        service.args(["daemon", "--log"]).stdin(Stdio::null());
        if let Some(seconds) = self.idle_exit {
            service.args(["--idle-exit", &seconds.to_string()]);
        }
        service.spawn().map(drop)
    }
}
