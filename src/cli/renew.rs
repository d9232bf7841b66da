use clap::Args;

use super::{Output, Stop, ask, print, print_json};
use crate::{client::Call, lease::LeaseId, request::LONGEST_TTL};

/// Begin the time limit of a lease anew
#[derive(Debug, Args)]
pub(super) struct Renew {
    /// The lease, as `styxy list --json` shows it
    #[arg(value_name = "LEASE_ID")]
    lease_id: LeaseId,
    /// The new time limit in seconds [default: the one that it has]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=LONGEST_TTL))]
    ttl: Option<u64>,
    #[command(flatten)]
    output: Output,
}

impl Renew {
    pub(super) fn run(self) -> Result<(), Stop> {
        let answer = ask(&Call::Renew { lease_id: self.lease_id, ttl: self.ttl })?;
        if self.output.json {
            return print_json(&answer);
        }
        print(&format!("port {} is leased for {} more seconds", answer["port"], answer["ttl"]))
    }
}
