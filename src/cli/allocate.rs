use std::{os::unix::process::parent_id, str::FromStr};

use clap::Args;

use super::{
    Output, Stop, print, print_json, say,
    wanted::{Wanted, allocate, notes},
};
use crate::{
    error::Error,
    lease::UnitName,
    request::{LONGEST_TTL, MOST_PORTS},
    value::Fields,
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
    /// Whose end ends the lease: none, parent (the process that runs this command), pid:N or unit:NAME
    #[arg(long, default_value = "none")]
    owner: Owner,
    /// End the lease after so many seconds, unless it is renewed
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=LONGEST_TTL))]
    ttl: Option<u64>,
    #[command(flatten)]
    wanted: Wanted,
    /// Print the number of the port and nothing else
    #[arg(long, short)]
    quiet: bool,
    /// Print what would be granted, and change nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    output: Output,
}

impl Allocate {
    pub(super) fn run(self) -> Result<(), Stop> {
        let mut options = self.wanted.options()?;
        options.put_some("count", self.count.map(u32::from));
        options.put_some("ttl", self.ttl);
        self.owner.put(&mut options);
        if self.dry_run {
            options.put("dry_run", true);
        }
        let answer = allocate(&self.service_type, options)?;
        if self.output.json {
            return print_json(&answer);
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

/// Whose end ends the lease, as the command line says it.
#[derive(Clone, Debug)]
pub(super) enum Owner {
    None,
    Pid(u32),
    Unit(UnitName),
}

impl Owner {
    pub(super) fn put(self, options: &mut Fields) {
        match self {
            Self::None => {}
            Self::Pid(pid) => options.put("pid", pid),
            Self::Unit(unit) => options.put("unit", unit.as_str()),
        }
    }
}

impl FromStr for Owner {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text.split_once(':') {
            None if text == "none" => Ok(Self::None),
            None if text == "parent" => Ok(Self::Pid(parent_id())),
            Some(("pid", pid)) => pid
                .parse()
                .map(Self::Pid)
                .map_err(|_| Error::invalid(format!("{pid:?} is not the number of a process"))),
            Some(("unit", unit)) => unit.parse().map(Self::Unit),
            _ => Err(Error::invalid(format!(
                "{text:?} is not an owner: give none, parent, pid:N or unit:NAME"
            ))),
        }
    }
}
