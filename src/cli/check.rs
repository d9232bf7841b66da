use clap::Args;

use super::{Output, Stop, ask, print, print_json, text};
use crate::{
    client::Call,
    port::{Port, Protocol},
};

/// Tell whether a port is free, and why not; exit code 1 if it is not
#[derive(Debug, Args)]
pub(super) struct Check {
    /// The port
    port: Port,
    /// tcp or udp
    #[arg(long, default_value_t = Protocol::Tcp)]
    protocol: Protocol,
    #[command(flatten)]
    output: Output,
}

impl Check {
    pub(super) fn run(self) -> Result<(), Stop> {
        let answer = ask(&Call::Check { port: self.port, protocol: self.protocol })?;
        if self.output.json {
            print_json(&answer)?;
        } else {
            print(text(&answer, "message"))?;
        }
        if answer["available"] == true { Ok(()) } else { Err(Stop::No) }
    }
}
