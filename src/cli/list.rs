use clap::Args;
use comfy_table::{Table, presets};
use serde_json::Value as Json;

use super::{Output, Stop, ask, print, print_json, text};
use crate::{client::Call, value::Fields};

/// Show the leased ports
#[derive(Debug, Args)]
pub(super) struct List {
    /// Only leases of this class of service
    #[arg(long = "type", value_name = "TYPE")]
    service_type: Option<String>,
    #[command(flatten)]
    output: Output,
}

impl List {
    pub(super) fn run(self) -> Result<(), Stop> {
        let mut filter = Fields::default();
        filter.put_some("service_type", self.service_type);
        let leases = ask(&Call::List { filter })?;
        if self.output.json {
            return print_json(&leases);
        }
        match leases.as_array().map(Vec::as_slice) {
            None | Some([]) => print("no port is leased"),
            Some(leases) => print(&table(leases)),
        }
    }
}

fn table(leases: &[Json]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["PORT", "STATE", "TYPE", "NAME", "PROJECT", "LEASE"]);
    for lease in leases {
        table.add_row([
            format!("{}/{}", lease["port"], text(lease, "protocol")),
            text(lease, "state").to_owned(),
            text(lease, "service_type").to_owned(),
            text(lease, "service_name").to_owned(),
            text(lease, "project_path").to_owned(),
            text(lease, "lease_id").to_owned(),
        ]);
    }
    table.trim_fmt()
}
