use clap::Args;

use super::{CliError, Output, ask, lease, print, print_json, seconds};
use crate::{client::Call, request::LONGEST_TTL};

/// Restart a lease's time limit
#[derive(Debug, Args)]
pub(super) struct Renew {
    /// The lease: its port, its name in this project, or its id or the first digits of it (at least 4), as
    /// `styxy list` shows them
    #[arg(value_name = "PORT|NAME|LEASE_ID")]
    lease_id: String,
    /// The new time limit, in seconds or as in 10m or 12h [default: the present one]
    #[arg(long, value_name = "TIME", allow_negative_numbers = true, value_parser = seconds(1..=LONGEST_TTL))]
    ttl: Option<u64>,
    #[command(flatten)]
    output: Output,
}

impl Renew {
    pub(super) fn run(self) -> Result<(), CliError> {
        let answer = ask(&Call::Renew { lease_id: lease::id_of(&self.lease_id)?, ttl: self.ttl })?;
        if self.output.json {
            return print_json(&answer);
        }
        print(&format!("port {} is leased for {} more seconds", answer["port"], answer["ttl"]))
    }
}
