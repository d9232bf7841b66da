use clap::Args;

use super::{Output, Stop, ask, print, print_json};
use crate::{client::Call, lease::LeaseId};

/// Give a leased port back
#[derive(Debug, Args)]
pub(super) struct Release {
    /// The lease, as `styxy list` shows it
    #[arg(value_name = "LEASE_ID")]
    lease_id: LeaseId,
    #[command(flatten)]
    output: Output,
}

impl Release {
    pub(super) fn run(self) -> Result<(), Stop> {
        let mut answer = ask(&Call::Release { lease_id: self.lease_id.to_string() })?;
        if self.output.json {
            answer["lease_id"] = self.lease_id.to_string().into();
            return print_json(&answer);
        }
        print(&format!("released port {}", answer["port"]))
    }
}
