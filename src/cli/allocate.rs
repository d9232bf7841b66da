use clap::Args;

use super::{
    Output, Stop,
    owner::Owner,
    print, print_json, say,
    wanted::{Wanted, allocate, notes},
};
use crate::{
    request::{LONGEST_TTL, MOST_PORTS},
    service_type::Hold,
};

/// Lease a port, and print its number
#[derive(Debug, Args)]
pub(super) struct Allocate {
    /// The class of service: dev, api, database, …
    #[arg(value_name = "TYPE")]
    service_type: String,
    /// Lease so many consecutive ports, all or none; each is printed on a line of its own
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=i64::from(MOST_PORTS)))]
    count: Option<u16>,
    /// Release the lease when this exits: none, parent (the process that runs this command), session (the
    /// leader of its session), pid:N or unit:NAME
    #[arg(long, default_value = "none")]
    owner: Owner,
    /// How the port is kept until it is used: guard (the service keeps it bound) or none
    #[arg(long)]
    hold: Option<Hold>,
    /// End the lease after so many seconds, unless it is renewed
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=LONGEST_TTL))]
    ttl: Option<u64>,
    #[command(flatten)]
    wanted: Wanted,
    /// Print the number of the port and nothing else
    #[arg(long, short)]
    quiet: bool,
    /// Say which process is the owner
    #[arg(long, short, conflicts_with = "quiet")]
    verbose: bool,
    /// Print what would be granted, and change nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    output: Output,
}

impl Allocate {
    pub(super) fn is_quiet(&self) -> bool {
        self.quiet
    }

    pub(super) fn run(self) -> Result<(), Stop> {
        let mut options = self.wanted.options()?;
        options.put_some("count", self.count.map(u32::from));
        options.put_some("ttl", self.ttl);
        let chosen = self.owner.put(&mut options)?;
        options.put_some("hold", self.hold.map(Hold::as_str));
        if self.dry_run {
            options.put("dry_run", true);
        }
        let answer = allocate(&self.service_type, options)?;
        if self.output.json {
            return print_json(&answer);
        }
        if self.verbose
            && let Some(chosen) = chosen
        {
            say(&chosen);
        }
        if !self.quiet {
            for note in notes(&answer) {
                say(&note);
            }
        }
        match answer["ports"].as_array() {
            Some(ports) => ports.iter().try_for_each(|port| print(&port.to_string())),
            None => print(&answer["port"].to_string()),
        }
    }
}
