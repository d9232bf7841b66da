use clap::Args;
use comfy_table::Color;
use serde_json::Value as Json;

use super::{Output, Stop, block_on, list::owner, print, short, text};
use crate::{client, time::Timestamp};

/// Show what happens, as it happens, until Ctrl-C; with --json an object a line
#[derive(Debug, Args)]
pub(super) struct Watch {
    #[command(flatten)]
    output: Output,
}

impl Watch {
    pub(super) fn run(self) -> Result<(), Stop> {
        let tell = |event: Json| {
            let event = super::cleaned(event);
            let line = if self.output.json { event.to_string() } else { describe(&event) };
            print(&line)
        };
        Err(block_on(client::watch::watch(tell))??)
    }
}

fn describe(event: &Json) -> String {
    let (what, colour) = match text(event, "event") {
        "granted" => ("granted", Some(Color::DarkGreen)),
        "orphaned" => ("orphaned", Some(Color::DarkYellow)),
        "released" => ("released", None),
        "type_added" => ("new type", Some(Color::DarkGreen)),
        _ => ("type gone", None),
    };
    // Padded before it is coloured: colours have no width.
    let what = super::output::painted(&format!("{what:<9}"), colour);
    let time = Timestamp::now().to_local();
    let mut words = vec![time, what];
    if !event["port"].is_null() {
        words.push(format!("{}/{}", event["port"], text(event, "protocol")));
    }
    words.extend(["service_type", "service_name"].map(|key| text(event, key).to_owned()));
    words.push(short(text(event, "project_path")));
    words.push(owner(event));
    if let Some(reason) = event["reason"].as_str() {
        words.push(format!("({reason})"));
    }
    words.retain(|word| !word.is_empty());
    words.join("  ")
}
