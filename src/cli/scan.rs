use std::ffi::OsString;

use clap::{
    Args,
    error::{ContextKind, ContextValue},
};
use serde_json::{Value as Json, json};

use super::{
    CliError, Output, block_on,
    port_users::{PortUser, place, users},
    print, print_list, refused, say, short,
    table::{self, Table},
    text,
};
use crate::{
    client::{self, Call},
    config::{self, files},
    kernel::listeners::{Program, listeners},
    port::{PortRange, Protocol},
    surroundings::user,
    value::Fields,
};

/// The maximum length of a command line in the table, in characters.
const MOST_OF_A_COMMAND: usize = 40;

/// List the programs that listen on TCP ports or have UDP ports bound, with or without a lease
#[derive(Debug, Args)]
pub(super) struct Scan {
    /// The ports, as 3000, 3000-3999 or 1..65535 [default: those of the service types]
    range: Option<PortRange>,
    /// tcp, udp or both
    #[arg(long, default_value_t = Protocol::Both)]
    protocol: Protocol,
    #[command(flatten)]
    output: Output,
}

/// What to write instead of the two ends of a range as two words.
pub(super) fn in_one_word(error: &clap::Error, arguments: &[OsString]) -> Option<String> {
    let words: Vec<_> = arguments.iter().filter_map(|word| word.to_str()).collect();
    let Some(ContextValue::String(unknown)) = error.get(ContextKind::InvalidArg) else {
        return None;
    };
    let verb = words.iter().position(|word| *word == "scan")?;
    let last = (verb + 2..words.len()).find(|at| words[*at] == *unknown)?;
    let range = format!("{}-{unknown}", words[last - 1]);
    range.parse::<PortRange>().ok()?;
    Some(format!("write a range in one word: styxy scan {range}"))
}

impl Scan {
    pub(super) fn run(self) -> Result<(), CliError> {
        let ranges = match self.range {
            Some(range) => vec![range],
            None => of_types()?,
        };
        let (Some(first), Some(last)) = (
            ranges.iter().map(|range| range.first()).min(),
            ranges.iter().map(|range| range.last()).max(),
        ) else {
            return Err(refused("no service type has ports: give a range".to_owned()));
        };
        // The kernel lists all sockets at once, so one query for all ranges is fastest.
        let around = PortRange::new(first, last).unwrap_or(PortRange::only(first));
        let mut found = listeners(around, self.protocol).map_err(|error| {
            refused(format!("the kernel does not tell which sockets listen (sock_diag): {error}"))
        })?;
        found.retain(|listener| ranges.iter().any(|range| range.contains(listener.port)));
        let users = users(found);
        let leases = leases()?;
        if self.output.json {
            let lines = users.iter().map(|user| {
                let mut line = user.json();
                line["lease"] = json!(lease_of(&leases, user));
                line
            });
            return print_list("listeners", lines.collect::<Vec<_>>());
        }
        if users.is_empty() {
            let ports = match self.range {
                Some(range) if range.len() == 1 => format!("port {}", range.first()),
                Some(range) => format!("the ports {range}"),
                None => "the ports of the service types".to_owned(),
            };
            let protocol = match self.protocol {
                Protocol::Both => String::new(),
                protocol => format!(" ({protocol})"),
            };
            return print(&format!("nothing listens on {ports}{protocol}"));
        }
        print(&table(&users, &leases))
    }
}

/// The ports of the service types: from the service or, if none runs, from the configuration.
fn of_types() -> Result<Vec<PortRange>, CliError> {
    let Some(types) = ask_running(&Call::Types)? else {
        let (texts, _) = files::read(&user().config());
        let types = config::merge(&texts).config.types.0;
        return Ok(types.values().flat_map(|service_type| service_type.ranges()).collect());
    };
    let types = types.as_array().into_iter().flatten();
    let ranges = types.flat_map(|t| t["ranges"].as_array().into_iter().flatten());
    Ok(ranges.filter_map(|range| range.as_str()?.parse().ok()).collect())
}

/// The live leases; none if no service runs, because then no lease is live.
fn leases() -> Result<Vec<Json>, CliError> {
    let leases = ask_running(&Call::List { filter: Fields::default() })?;
    Ok(leases.and_then(|leases| leases.as_array().cloned()).unwrap_or_default())
}

/// The answer of a running service; `None` if there is none, or if it fails. Then the output has only what
/// this command sees by itself.
fn ask_running(call: &Call) -> Result<Option<Json>, CliError> {
    match block_on(client::call_running(call))? {
        Ok(Ok((answer, _))) => Ok(Some(answer)),
        Ok(Err(_)) => Ok(None),
        Err(failure) => {
            say(&format!("leases are not shown: {failure}"));
            Ok(None)
        }
    }
}

fn lease_of<'a>(leases: &'a [Json], user: &PortUser) -> Option<&'a Json> {
    leases.iter().find(|lease| {
        lease["port"] == user.port.get()
            && text(lease, "protocol")
                .parse()
                .is_ok_and(|protocol: Protocol| protocol.parts().contains(&user.protocol))
    })
}

fn table(users: &[PortUser], leases: &[Json]) -> String {
    let mut table = Table::new([
        table::short("PORT"),
        table::text("ADDRESS"),
        table::number("PID"),
        table::text("COMMAND"),
        table::text("USER"),
        table::path("WHERE"),
        table::text("LEASE"),
    ]);
    for user in users {
        let addresses: Vec<_> = user.addresses.iter().map(ToString::to_string).collect();
        let program = user.program.as_deref();
        table.row([
            format!("{}/{}", user.port, user.protocol),
            addresses.join(", "),
            program.map(|program| program.pid.to_string()).unwrap_or_default(),
            program.map(command).unwrap_or_default(),
            user.user.to_string(),
            program.and_then(place).map(|place| short(&place)).unwrap_or_default(),
            lease_of(leases, user).map(lease).unwrap_or_default(),
        ]);
    }
    table.draw()
}

/// The beginning of a command line, without the folder of the program.
fn command(program: &Program) -> String {
    let line = match program.command_line.as_str() {
        "" => &program.command,
        line => line,
    };
    let (name, arguments) = line.split_once(' ').unwrap_or((line, ""));
    let name = name.rsplit('/').find(|part| !part.is_empty()).unwrap_or(name);
    let line = format!("{name} {arguments}");
    let line = line.trim_end();
    match line.char_indices().nth(MOST_OF_A_COMMAND) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line.to_owned(),
    }
}

/// The label of a lease: its type, and its name.
fn lease(lease: &Json) -> String {
    match text(lease, "service_name") {
        "" => text(lease, "service_type").to_owned(),
        name => format!("{}/{name}", text(lease, "service_type")),
    }
}
