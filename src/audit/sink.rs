//! Where events go: journald by its native protocol (`tracing-journald`), or, without a journal,
//! JSON lines on stderr.

use std::io::Write;

use serde::Serialize;
use tracing::{Dispatch, Level};
use tracing_subscriber::layer::SubscriberExt;

use super::event::Event;
use crate::value::{Fields, Value};

/// Where events go.
pub enum Sink {
    /// To journald, with `SYSLOG_IDENTIFIER=styxy`.
    Journal(Dispatch),
    /// To stderr, a JSON object a line.
    Stderr,
}

/// Sends what the service says beside the audit, its warnings, to the same place.
pub fn log_there() {
    let there = match Sink::open() {
        Sink::Journal(dispatch) => dispatch,
        Sink::Stderr => Dispatch::new(
            tracing_subscriber::fmt().with_writer(std::io::stderr).without_time().finish(),
        ),
    };
    // Fails only where it was done before.
    let _ = tracing::dispatcher::set_global_default(there);
}

impl Sink {
    /// The journal if there is one.
    pub fn open() -> Self {
        match tracing_journald::layer() {
            Ok(layer) => {
                // A prefix would spoil MESSAGE_ID and STYXY_*.
                let layer =
                    layer.with_field_prefix(None).with_syslog_identifier("styxy".to_owned());
                Self::Journal(Dispatch::new(tracing_subscriber::registry().with(layer)))
            }
            Err(_) => Self::Stderr,
        }
    }

    /// Sends an event. Whether it arrived is known only by reading the journal back.
    pub fn send(&self, event: &Event) {
        match self {
            Self::Journal(dispatch) => {
                tracing::dispatcher::with_default(dispatch, || trace(event));
            }
            Self::Stderr => {
                // Whoever started the service may have closed stderr; there is no other place.
                if let Ok(line) = serde_json::to_string(&Plain::from(event)) {
                    let _ = writeln!(std::io::stderr(), "{line}");
                }
            }
        }
    }
}

fn trace(event: &Event) {
    let text = |key| match event.fields.get(key) {
        Some(Value::Str(text)) => Some(text.as_str()),
        _ => None,
    };
    let number = |key| match event.fields.get(key) {
        Some(Value::U16(number)) => Some(u64::from(*number)),
        Some(Value::U32(number)) => Some(u64::from(*number)),
        Some(Value::U64(number)) => Some(*number),
        _ => None,
    };
    // The fields of a tracing event are fixed where it stands; those without a value are left out.
    macro_rules! send {
        ($level:expr) => {
            tracing::event!(
                target: "styxy::audit",
                $level,
                MESSAGE_ID = event.message_id,
                STYXY_ACTION = text("STYXY_ACTION"),
                STYXY_PORT = number("STYXY_PORT"),
                STYXY_PROTOCOL = text("STYXY_PROTOCOL"),
                STYXY_LEASE_ID = text("STYXY_LEASE_ID"),
                STYXY_SERVICE_TYPE = text("STYXY_SERVICE_TYPE"),
                STYXY_SERVICE_NAME = text("STYXY_SERVICE_NAME"),
                STYXY_INSTANCE_ID = text("STYXY_INSTANCE_ID"),
                STYXY_PROJECT_PATH = text("STYXY_PROJECT_PATH"),
                STYXY_OWNER = text("STYXY_OWNER"),
                STYXY_HOLD = text("STYXY_HOLD"),
                STYXY_RANGE = text("STYXY_RANGE"),
                STYXY_PLACEMENT = text("STYXY_PLACEMENT"),
                STYXY_REASON = text("STYXY_REASON"),
                STYXY_SEQ = number("STYXY_SEQ"),
                STYXY_STATE_ID = text("STYXY_STATE_ID"),
                STYXY_TIME = text("STYXY_TIME"),
                STYXY_TRANSPORT = text("STYXY_TRANSPORT"),
                STYXY_CLIENT_PID = number("STYXY_CLIENT_PID"),
                STYXY_CLIENT_UID = number("STYXY_CLIENT_UID"),
                STYXY_CLIENT_COMM = text("STYXY_CLIENT_COMM"),
                "{}",
                event.message
            )
        };
    }
    if event.warning {
        send!(Level::WARN);
    } else {
        send!(Level::INFO);
    }
}

/// An event as a JSON object, with the journal's names.
#[derive(Serialize)]
struct Plain<'a> {
    #[serde(rename = "SYSLOG_IDENTIFIER")]
    identifier: &'static str,
    #[serde(rename = "PRIORITY")]
    priority: &'static str,
    #[serde(rename = "MESSAGE_ID")]
    message_id: &'static str,
    #[serde(rename = "MESSAGE")]
    message: &'a str,
    #[serde(flatten)]
    fields: &'a Fields,
}

impl<'a> From<&'a Event> for Plain<'a> {
    fn from(event: &'a Event) -> Self {
        Self {
            identifier: "styxy",
            priority: if event.warning { "4" } else { "5" },
            message_id: event.message_id,
            message: &event.message,
            fields: &event.fields,
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_field_of_an_event_is_sent_to_the_journal() {
        let (events, sink) = (include_str!("event.rs"), include_str!("sink.rs"));
        let fields = events.split('"').filter(|word| word.starts_with("STYXY_"));
        let unsent: Vec<_> =
            fields.filter(|field| !sink.contains(&format!("{field} = "))).collect();
        assert!(unsent.is_empty(), "{unsent:?}");
    }
}
