use clap::Args;
use serde_json::Value as Json;

use super::{
    CliError, Output, ago, ask, print, print_list,
    table::{self, Table},
    text,
};
use crate::client::Call;

/// List the registered agents, sessions and tools
#[derive(Debug, Args)]
pub(super) struct Instances {
    #[command(flatten)]
    output: Output,
}

impl Instances {
    pub(super) fn run(self) -> Result<(), CliError> {
        let instances = ask(&Call::Instances)?;
        if self.output.json {
            return print_list("instances", instances);
        }
        let instances = instances.as_array().map(Vec::as_slice).unwrap_or_default();
        if instances.is_empty() {
            return print("no instance is registered (RegisterInstance on the bus)");
        }
        let mut table = Table::new([
            table::text("INSTANCE"),
            table::number("PID"),
            table::number("HEARTBEAT"),
            table::number("AGE"),
        ]);
        for instance in instances {
            let number = |key: &str, unit: &str| match &instance[key] {
                Json::Null => String::new(),
                number => format!("{number}{unit}"),
            };
            table.row([
                text(instance, "instance_id").to_owned(),
                number("pid", ""),
                number("heartbeat", " s"),
                ago(text(instance, "since")),
            ]);
        }
        print(&table.draw())
    }
}
