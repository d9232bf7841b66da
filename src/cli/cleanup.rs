use clap::Args;

use super::{
    Output, Stop, ago, ask, counted,
    lease::{short_id, shown},
    print, print_json, short,
    table::{self, Table},
    text,
};
use crate::{client::Call, request::LONGEST_TTL};

/// Show which leases nobody seems to need, and with --yes release them
///
/// Those are the leases without an owner whose port nothing listens on.
#[derive(Debug, Args)]
pub(super) struct Cleanup {
    /// Only leases that are older than this many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 3_600, value_parser = clap::value_parser!(u64).range(..=LONGEST_TTL))]
    older_than: u64,
    /// Release them
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    output: Output,
}

impl Cleanup {
    pub(super) fn run(self) -> Result<(), Stop> {
        let leases = ask(&Call::CleanUp { older_than: self.older_than, dry_run: !self.yes })?;
        if self.output.json {
            return print_json(&leases);
        }
        let leases = leases.as_array().map(Vec::as_slice).unwrap_or_default();
        if leases.is_empty() {
            return print("there is nothing to clean up");
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
        print(&format!("{done} {what}"))
    }
}
