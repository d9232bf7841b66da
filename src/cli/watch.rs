use std::thread;

use clap::Args;
use serde_json::Value as Json;

use tokio::sync::{mpsc, oneshot};

use super::{
    CliError, Output, block_on,
    list::owner,
    output::colours,
    print, short,
    table::{Colour, painted},
    text,
};
use crate::{client, time::Timestamp};

/// The maximum number of events that wait to be printed.
const AT_ONCE: usize = 256;

/// Show changes as they happen, until Ctrl-C; with --json, one object per line
#[derive(Debug, Args)]
pub(super) struct Watch {
    #[command(flatten)]
    output: Output,
}

impl Watch {
    pub(super) fn run(self) -> Result<(), CliError> {
        let (reader, events) = mpsc::channel(AT_ONCE);
        // In a thread of its own: a slow or missing reader must not delay events from the bus.
        let printing = thread::spawn(move || self.print(events));
        let (ended, end) = oneshot::channel();
        thread::spawn(|| ended.send(super::reader::gone()));
        block_on(async {
            tokio::select! {
                result = client::watch::watch(reader) => result,
                _ = end => Ok(()),
            }
        })??;
        printing.join().unwrap_or(Ok(()))
    }

    fn print(self, mut events: mpsc::Receiver<Json>) -> Result<(), CliError> {
        while let Some(event) = events.blocking_recv() {
            let event = super::cleaned(event);
            print(&if self.output.json { event.to_string() } else { describe(&event) })?;
        }
        Ok(())
    }
}

fn describe(event: &Json) -> String {
    let (what, colour) = match text(event, "event") {
        "granted" => ("granted", Some(Colour::Green)),
        "orphaned" => ("orphaned", Some(Colour::Yellow)),
        "released" => ("released", None),
        "changed" => ("changed", None),
        "instance_added" => ("registered", None),
        "instance_removed" => ("instance gone", None),
        "type_added" => ("new type", Some(Colour::Green)),
        _ => ("type gone", None),
    };
    // Padded before it is coloured: escape sequences have no width on the screen.
    let what = painted(&format!("{what:<9}"), colour.filter(|_| colours()));
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
