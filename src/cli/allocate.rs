use std::io;

use clap::Args;
use serde_json::Value as Json;

use super::{
    CliError, Output, ask,
    check::who_listens,
    lease_options::{LeaseOptions, allocate, notes},
    owner::Owner,
    print, print_json, refused, say, seconds, text,
};
use crate::{
    client::Call,
    port::Port,
    request::{LONGEST_TTL, MOST_PORTS},
    service_type::Hold,
};

/// Lease a port and print its number
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub(super) struct Allocate {
    /// The class of service: dev, api, database, …
    #[arg(value_name = "TYPE")]
    service_type: String,
    /// Lease this many consecutive ports, all or none; each is printed on a line of its own
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=i64::from(MOST_PORTS)))]
    count: Option<u16>,
    /// Release the lease when this exits: none, parent (the process that runs this command), session (the
    /// leader of its session), pid:N or unit:NAME
    #[arg(long, default_value = "none")]
    owner: Owner,
    /// How the port is kept until it is used: guard (the service keeps it bound) or none
    #[arg(long, value_parser = Hold::without_socket)]
    hold: Option<Hold>,
    /// Release the lease after this many seconds, or a time such as 10m or 12h, unless it is renewed
    #[arg(long, value_name = "TIME", allow_negative_numbers = true, value_parser = seconds(1..=LONGEST_TTL))]
    ttl: Option<u64>,
    #[command(flatten)]
    wanted: LeaseOptions,
    /// Lease another port even if this service has one already
    #[arg(long)]
    new: bool,
    /// Print nothing but the number of the port
    #[arg(long, short)]
    quiet: bool,
    /// Also print which process is the owner
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

    pub(super) fn run(self) -> Result<(), CliError> {
        let mut options = self.wanted.options()?;
        options.put_some("count", self.count.map(u32::from));
        options.put_some("ttl", self.ttl);
        let chosen = self.owner.put(&mut options)?;
        options.put_some("hold", self.hold.map(Hold::as_str));
        for (flag, is_set) in [("claim", !self.new), ("dry_run", self.dry_run)] {
            if is_set {
                options.put(flag, true);
            }
        }
        let answer = allocate(&self.service_type, options)?;
        self.tell(&answer, chosen).map_err(|stop| match stop {
            CliError::Output(error) if !self.dry_run => give_back(&answer, &error),
            stop => stop,
        })
    }

    fn tell(&self, answer: &Json, chosen: Option<String>) -> Result<(), CliError> {
        if self.output.json {
            return print_json(answer);
        }
        if self.verbose
            && let Some(chosen) = chosen
        {
            say(&chosen);
        }
        if !self.quiet {
            let another = self.wanted.why_another(answer).filter(|_| answer["existing"] != true);
            let another = another.map(|why| format!("port {}: {why}", answer["port"]));
            let used = used(answer);
            // `used` names the listener, which the service cannot see: it replaces the note of the service.
            let is_said = |note: &String| used.is_some() && answer["note"] == **note;
            let notes = notes(answer).into_iter().filter(|note| !is_said(note));
            for note in another.into_iter().chain(notes).chain(used.clone()) {
                say(&note);
            }
        }
        match answer["ports"].as_array() {
            Some(ports) => ports.iter().try_for_each(|port| print(&port.to_string())),
            None => print(&answer["port"].to_string()),
        }
    }
}

/// A note that names the program already listening on the port, if the request found an existing lease.
fn used(answer: &Json) -> Option<String> {
    let (port, protocol) = (answer["port"].as_u64()?, text(answer, "protocol").parse().ok()?);
    if answer["existing"] != true || answer["claim"] != true || answer["dry_run"] == true {
        return None;
    }
    let who = who_listens(Port::new(port)?, protocol)?;
    Some(format!(
        "port {port} is the one of this service, and {who} listens on it: --name is for another service, and --new \
         for another port"
    ))
}

/// Releases the lease if its port could not be printed, because stdout is full or closed. An existing lease
/// is kept.
fn give_back(answer: &Json, error: &io::Error) -> CliError {
    let port = &answer["port"];
    if let Some(before) = answer["moved_from"].as_u64() {
        return refused(format!(
            "port {port} could not be printed: {error}; the service has it now, and no longer {before}"
        ));
    }
    if answer["existing"] == true {
        return refused(format!("port {port} could not be printed: {error}; others use its lease"));
    }
    let mut leases: Vec<_> = answer["lease_ids"].as_array().into_iter().flatten().collect();
    if leases.is_empty() {
        leases.push(&answer["lease_id"]);
    }
    let mut given_back = leases.iter().map(|id| {
        let lease_id = id.as_str().unwrap_or_default().to_owned();
        ask(&Call::Release { lease_id })
    });
    refused(match given_back.find_map(Result::err) {
        None => format!("port {port} could not be printed: {error}; its lease was released"),
        Some(_) => format!(
            "port {port} could not be printed: {error}; its lease could not be released either: try \
             `styxy release {port}`"
        ),
    })
}
