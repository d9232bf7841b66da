use clap::Args;
use serde_json::Value as Json;

use super::{
    CliError, Output, ago, ask, counted,
    lease::{short_id, shown},
    port_users::{PortUser, users},
    print, print_list, seconds, short,
    table::{self, Table},
    text,
};
use crate::{
    client::Call,
    kernel::listeners::listeners,
    port::{Port, PortRange},
    request::LONGEST_TTL,
    time::Timestamp,
    value::Fields,
};

/// List leases that nobody seems to need, and with --yes release them
///
/// Those are the leases without an owner whose port nothing listens on.
#[derive(Debug, Args)]
pub(super) struct Cleanup {
    /// Only leases that are older than this, in seconds or as in 10m, 12h or 1d
    #[arg(long, value_name = "TIME", default_value_t = 3_600, value_parser = seconds(0..=LONGEST_TTL))]
    older_than: u64,
    /// Release them
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    output: Output,
}

impl Cleanup {
    pub(super) fn run(self) -> Result<(), CliError> {
        let leases = ask(&Call::CleanUp { older_than: self.older_than, dry_run: !self.yes })?;
        if self.output.json {
            return print_list("leases", leases);
        }
        let leases = leases.as_array().map(Vec::as_slice).unwrap_or_default();
        if leases.is_empty() {
            print("there is nothing to clean up")?;
            return self.tell_what_is_left();
        }
        let mut table = Table::new([
            table::short("PORT"),
            table::text("TYPE"),
            table::text("NAME"),
            table::path("PROJECT"),
            table::number("AGE"),
            table::short("LEASE"),
        ]);
        let shown = shown(leases);
        for lease in leases {
            table.row([
                format!("{}/{}", lease["port"], text(lease, "protocol")),
                text(lease, "service_type").to_owned(),
                text(lease, "service_name").to_owned(),
                short(text(lease, "project_path")),
                ago(text(lease, "since")),
                short_id(lease, shown).to_owned(),
            ]);
        }
        print(&table.draw())?;
        let what = counted(leases.len() as u64, "lease");
        let done = if self.yes { "released" } else { "--yes releases" };
        print(&format!("{done} {what}"))?;
        self.tell_what_is_left()
    }

    /// Shows the leases without an owner that are kept because something listens on their ports.
    fn tell_what_is_left(&self) -> Result<(), CliError> {
        let leases = ask(&Call::List { filter: Fields::default() })?;
        let leases: Vec<_> =
            leases.as_array().into_iter().flatten().filter(|l| self.stays(l)).collect();
        if leases.is_empty() {
            return Ok(());
        }
        let mut table = Table::new([
            table::short("PORT"),
            table::short("STATE"),
            table::text("TYPE"),
            table::text("NAME"),
            table::path("PROJECT"),
            table::text("LISTENER"),
        ]);
        for lease in leases {
            table.row([
                format!("{}/{}", lease["port"], text(lease, "protocol")),
                text(lease, "state").to_owned(),
                text(lease, "service_type").to_owned(),
                text(lease, "service_name").to_owned(),
                short(text(lease, "project_path")),
                listener(lease),
            ]);
        }
        print("not released, because something listens:")?;
        print(&table.draw())
    }

    fn stays(&self, lease: &Json) -> bool {
        let is_old = text(lease, "since").parse().is_ok_and(|since: Timestamp| {
            Timestamp::now().0.saturating_sub(since.0) / 1_000 >= self.older_than
        });
        let is_nobodys = lease["owner"] == "none" && lease["instance_id"].is_null();
        is_old && (lease["state"] == "orphaned" || (is_nobodys && lease["state"] == "listening"))
    }
}

/// The programs that listen on the port of a lease.
fn listener(lease: &Json) -> String {
    let port = lease["port"].as_u64().and_then(Port::new);
    let found = port
        .zip(text(lease, "protocol").parse().ok())
        .and_then(|(port, protocol)| listeners(PortRange::only(port), protocol).ok());
    let users: Vec<_> = found.map(users).unwrap_or_default().iter().map(PortUser::short).collect();
    users.join(", ")
}
