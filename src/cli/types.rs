use clap::Args;
use serde_json::Value as Json;

use super::{
    CliError, Output, ask, print, print_list,
    table::{self, Table},
    text,
};
use crate::client::Call;

/// List the service types: their ranges, how many ports are in use, and where they come from
#[derive(Debug, Args)]
pub(super) struct Types {
    #[command(flatten)]
    output: Output,
}

impl Types {
    pub(super) fn run(self) -> Result<(), CliError> {
        let types = ask(&Call::Types)?;
        if self.output.json {
            return print_list("service_types", types);
        }
        print(&rows(types.as_array().map(Vec::as_slice).unwrap_or_default()))
    }
}

/// Shown for a number that the service could not determine.
const UNKNOWN: &str = "?";

fn number(service_type: &Json, key: &str) -> String {
    service_type[key].as_u64().map_or_else(|| UNKNOWN.to_owned(), |number| number.to_string())
}

fn rows(types: &[Json]) -> String {
    let mut table = Table::new([
        table::short("TYPE"),
        table::short("PORTS"),
        table::number("LEASED"),
        table::number("LISTENING"),
        table::number("FREE"),
        table::text("ORIGIN"),
        table::prose("DESCRIPTION"),
    ]);
    let columns = ["ports", "leased", "listening", "free"];
    let mut totals = [0; 4];
    for service_type in types {
        for (total, column) in totals.iter_mut().zip(columns) {
            *total += service_type[column].as_u64().unwrap_or(0);
        }
        let ranges = service_type["ranges"].as_array().into_iter().flatten();
        let ranges: Vec<_> = ranges.filter_map(Json::as_str).collect();
        let once = if service_type["instance_behavior"] == "single" { " (runs once)" } else { "" };
        table.row([
            text(service_type, "service_type").to_owned(),
            ranges.join(", "),
            service_type["leased"].to_string(),
            number(service_type, "listening"),
            number(service_type, "free"),
            text(service_type, "made_by").to_owned(),
            format!("{}{once}", text(service_type, "description")),
        ]);
    }
    let [ports, leased, mut listening, mut free] = totals.map(|total| total.to_string());
    if types.iter().any(|service_type| service_type["free"].is_null()) {
        (listening, free) = (UNKNOWN.to_owned(), UNKNOWN.to_owned());
    }
    let all = format!("{ports} in {} types", types.len());
    table.row(["total".to_owned(), all, leased, listening, free, String::new(), String::new()]);
    table.draw()
}
