use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value as Json, json};

use super::{
    CliError, Output, ask, block_on, cleaned, counted, print, print_json, print_list, say,
    table::{self, Table},
    text,
};
use crate::{
    client::{self, Call},
    config::{self, Problem, files},
    surroundings::user,
};

/// Show, check and change the configuration
#[derive(Debug, Args)]
pub(super) struct Config {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Show the configuration in force
    Show {
        /// Show the file and line that each value comes from
        #[arg(long)]
        origin: bool,
        #[command(flatten)]
        output: Output,
    },
    /// Check the files of the configuration, or one file; exit code 1 if there are errors
    Validate {
        /// Check this file as if it were a layer of the configuration
        file: Option<PathBuf>,
        #[command(flatten)]
        output: Output,
    },
    /// Have the running service reload the configuration
    Reload {
        #[command(flatten)]
        output: Output,
    },
    /// Print the JSON Schema of the configuration files, for editors
    Schema {
        #[command(flatten)]
        output: Output,
    },
    /// Show, switch on or switch off ranges for unknown service types
    AutoAllocation {
        /// What to do
        #[arg(value_enum, default_value_t = Switch::Status)]
        switch: Switch,
        #[command(flatten)]
        output: Output,
    },
    /// Remove a service type that was created automatically
    UndoAutoAllocation {
        /// The type
        #[arg(value_name = "TYPE")]
        service_type: String,
        /// Release its leases first
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        output: Output,
    },
    /// Show the earlier versions of what the service has added to the configuration
    Backups {
        #[command(flatten)]
        output: Output,
    },
    /// Restore an earlier version
    Restore {
        /// Its number, as `styxy config backups` shows it
        version: u32,
        /// Release the leases of types that the version does not have
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        output: Output,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Switch {
    /// Show whether they are on, and how they are placed
    Status,
    /// Switch them on
    Enable,
    /// Switch them off
    Disable,
}

impl Config {
    pub(super) fn run(self) -> Result<(), CliError> {
        match self.what {
            What::Show { origin, output } => show(origin, output),
            What::Validate { file, output } => validate(file.as_deref(), output),
            What::Reload { output } => reload(output),
            What::Schema { output: _ } => print(config::SCHEMA.trim_end()),
            What::AutoAllocation { switch, output } => auto_allocation(switch, output),
            What::UndoAutoAllocation { service_type, force, output } => {
                let call = Call::UndoAutoAllocation { service_type: service_type.clone(), force };
                released(&format!("{service_type} was removed"), &call, output)
            }
            What::Backups { output } => backups(output),
            What::Restore { version, force, output } => {
                let call = Call::Restore { version, force };
                released(&format!("version {version} is in force again"), &call, output)
            }
        }
    }
}

fn show(origin: bool, output: Output) -> Result<(), CliError> {
    let answer = ask(&Call::Configuration { origins: origin })?;
    if output.json || !origin {
        return print_json(&answer);
    }
    let mut table = Table::new([table::text("FIELD"), table::text("VALUE"), table::path("ORIGIN")]);
    rows(&mut table, "", &answer);
    print(&table.draw())
}

fn rows(table: &mut Table<3>, field: &str, value: &Json) {
    let Some(fields) = value.as_object() else { return };
    if let (Some(value), Some(origin)) = (fields.get("value"), fields.get("origin")) {
        let origin = origin.as_str().unwrap_or_default();
        table.row([field.to_owned(), value.to_string(), origin.to_owned()]);
        return;
    }
    for (name, value) in fields {
        let inner = if field.is_empty() { name.clone() } else { format!("{field}.{name}") };
        rows(table, &inner, value);
    }
}

/// Reads the files directly, so that they can be checked where no service runs.
fn validate(file: Option<&Path>, output: Output) -> Result<(), CliError> {
    let folders = user().config();
    let (mut texts, mut problems) = files::read(&folders);
    if let Some(file) = file {
        let path = std::path::absolute(file)?;
        problems.clear();
        // A file that is a layer is checked in its place; any other one as if it replaced the user's files.
        let is_layer = texts.iter().any(|text| text.path == path);
        let user = folders.last();
        texts.retain(|text| is_layer || user.is_none_or(|user| !text.path.starts_with(user)));
        if !is_layer {
            // It may be a pipe, on which reading blocks.
            let _watch = client::Watch::over(format!("what {} has to say", path.display()));
            match files::read_file(path.clone()) {
                Ok(text) => texts.push(text),
                Err(problem) => problems.push(problem),
            }
        }
        let mut found = config::merge(&texts).problems;
        found.retain(|problem| problem.file == path);
        problems.append(&mut found);
    } else {
        problems.append(&mut config::merge(&texts).problems);
    }
    report(&problems, texts.len(), output)
}

fn report(problems: &[Problem], files: usize, output: Output) -> Result<(), CliError> {
    if output.json {
        let problems: Vec<_> = problems
            .iter()
            .map(|problem| {
                json!({
                    "file": problem.file,
                    "line": problem.place.map(|place| place.0),
                    "column": problem.place.map(|place| place.1),
                    "field": problem.field,
                    "message": problem.message,
                })
            })
            .collect();
        print_json(&json!({"valid": problems.is_empty(), "problems": problems}))?;
    } else if problems.is_empty() {
        let files = match files {
            0 => {
                let own = user().config().pop().unwrap_or_default().join("config.json");
                format!("only the built-in defaults: there is no {}", own.display())
            }
            files => counted(files as u64, "file"),
        };
        print(&format!("the configuration is valid ({files})"))?;
    } else {
        problems.iter().try_for_each(|problem| print(&problem.to_string()))?;
    }
    if problems.is_empty() { Ok(()) } else { Err(CliError::No) }
}

fn reload(output: Output) -> Result<(), CliError> {
    let answer = cleaned(block_on(client::show())??);
    let problems = answer["problems"].as_array().cloned().unwrap_or_default();
    if output.json {
        print_json(&answer)?;
    } else if let Some(folder) = answer["elsewhere"].as_str() {
        // The service reads other files: the ones that this command sees are not in force.
        say(&elsewhere(folder));
    } else if problems.is_empty() {
        print("the configuration was reloaded and is in force")?;
    } else {
        // This command may see more than the service, so its own findings take precedence.
        let (texts, mut seen) = files::read(&user().config());
        seen.append(&mut config::merge(&texts).problems);
        if seen.is_empty() {
            for problem in &problems {
                print(problem.as_str().unwrap_or_default())?;
            }
        }
        for problem in &seen {
            print(&problem.to_string())?;
        }
        say(&"the last good configuration stays in force");
    }
    if problems.is_empty() && answer["elsewhere"].is_null() { Ok(()) } else { Err(CliError::No) }
}

/// The message about a service that reads its configuration from another folder than this command.
pub(super) fn elsewhere(folder: &str) -> String {
    format!(
        "the service reads its configuration in another {folder} than this command sees \
         (XDG_CONFIG_HOME differs, or a container is in between): change the files there"
    )
}

fn auto_allocation(switch: Switch, output: Output) -> Result<(), CliError> {
    let enabled = match switch {
        Switch::Status => {
            let config = ask(&Call::Configuration { origins: false })?;
            let mut auto = config["auto_allocation"].clone();
            let types = ask(&Call::Types)?;
            let types = types.as_array().into_iter().flatten();
            let automatic: Vec<_> = types.filter(|t| t["automatic"] == true).cloned().collect();
            if output.json {
                auto["service_types"] = automatic.into();
                return print_json(&auto);
            }
            return print(&describe_auto(&auto, &automatic));
        }
        Switch::Enable => true,
        Switch::Disable => false,
    };
    let answer = ask(&Call::SetAutoAllocation { enabled })?;
    if output.json {
        return print_json(&answer);
    }
    print(if enabled {
        "unknown service types get a range"
    } else {
        "unknown service types are refused"
    })
}

fn describe_auto(auto: &Json, types: &[Json]) -> String {
    let gap = if auto["preserve_gaps"] == true { &auto["gap_size"] } else { &json!(0) };
    let mut text = format!(
        "{}: {} ports each, placed {}, from {} to {}, {gap} ports apart",
        if auto["enabled"] == true {
            "unknown service types get a range"
        } else {
            "unknown service types are refused; switched on, they would get a range"
        },
        auto["default_chunk_size"],
        auto["placement"].as_str().unwrap_or_default(),
        auto["min_port"],
        auto["max_port"],
    );
    for (pattern, rule) in auto["rules"].as_object().into_iter().flatten() {
        text = format!("{text}\n{pattern}: {rule}");
    }
    if types.is_empty() {
        text += "\nno service type was created automatically";
    }
    for service_type in types {
        let ranges = service_type["ranges"].as_array().into_iter().flatten();
        let ranges: Vec<_> = ranges.filter_map(Json::as_str).collect();
        let name = super::text(service_type, "service_type");
        let (ranges, made_by) = (ranges.join(", "), super::text(service_type, "made_by"));
        text = format!("{text}\n{name} has {ranges} ({made_by})");
    }
    text
}

fn released(done: &str, call: &Call, output: Output) -> Result<(), CliError> {
    let answer = ask(call)?;
    if output.json {
        return print_json(&answer);
    }
    match answer["released"].as_u64() {
        None | Some(0) => print(done),
        Some(1) => print(&format!("{done}; 1 lease was released")),
        Some(count) => print(&format!("{done}; {count} leases were released")),
    }
}

fn backups(output: Output) -> Result<(), CliError> {
    let backups = ask(&Call::Backups)?;
    if output.json {
        return print_list("backups", backups);
    }
    let backups = backups.as_array().cloned().unwrap_or_default();
    if backups.is_empty() {
        return print("the service has added nothing to the configuration yet");
    }
    let mut table = Table::new([
        table::number("VERSION"),
        table::short("IN FORCE UNTIL"),
        table::prose("SERVICE TYPES"),
    ]);
    for backup in &backups {
        let types = backup["service_types"].as_array().into_iter().flatten();
        let types: Vec<_> = types.filter_map(Json::as_str).collect();
        table.row([
            backup["version"].to_string(),
            text(backup, "until").to_owned(),
            if types.is_empty() { "none".to_owned() } else { types.join(", ") },
        ]);
    }
    print(&table.draw())
}
