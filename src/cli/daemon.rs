use std::time::Duration;

use clap::Args;

use super::Stop;
use crate::daemon::{self, End};

/// Run the service; systemd does this on demand
#[derive(Debug, Args)]
pub(super) struct Daemon {
    /// End after so many seconds without a lease and without a client; 0 for never
    /// [default: idle_exit_seconds of the configuration]
    #[arg(long, value_name = "SECONDS")]
    idle_exit: Option<u64>,
    /// Become the leader of a session of its own, so that a terminal's end is not the service's
    #[arg(long, hide = true)]
    detach: bool,
}

impl Daemon {
    pub(super) fn run(self) -> Result<(), Stop> {
        if self.detach {
            // Fails only if it leads one already.
            let _ = nix::unistd::setsid();
        }
        let options = daemon::Options { idle_exit: self.idle_exit.map(Duration::from_secs) };
        match daemon::run(&options).map_err(Stop::Daemon)? {
            End::Done => Ok(()),
            End::Again => Err(Stop::Again),
        }
    }
}
