//! A journal entry as an event, with the field names that styxy uses everywhere.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    mem,
};

use serde_json::{Map, Value as Json};

use crate::{time::Timestamp, word::harmless};

/// An event, as read from the journal or from a log.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The fields by their short names (`port` for `STYXY_PORT`), and `message` and `message_id`. Control
    /// characters are replaced.
    fields: BTreeMap<String, String>,
    /// When it happened.
    pub time: Timestamp,
    /// When it reached the journal.
    pub arrived: Timestamp,
    /// The id of its state folder, and its number there; an entry that somebody wrote by hand may have none.
    number: Option<(String, u64)>,
}

impl Entry {
    /// Parses a line of `journalctl --output=json`, or of a private service's log; `None` if it is not an event.
    pub fn read(line: &[u8]) -> Option<Self> {
        let entry: Map<String, Json> = serde_json::from_slice(line).ok()?;
        let mut fields = BTreeMap::new();
        for (name, value) in &entry {
            let word = match name.as_str() {
                "MESSAGE" => "message".to_owned(),
                "MESSAGE_ID" => "message_id".to_owned(),
                name => match name.strip_prefix("STYXY_") {
                    Some(word) => harmless(&word.to_ascii_lowercase()),
                    None => continue,
                },
            };
            if let Some(value) = text(value) {
                // Each event is shown on one line.
                fields.insert(word, harmless(&value.replace(['\n', '\t'], " ")));
            }
        }
        fields.get("action")?;
        let arrived = entry.get("__REALTIME_TIMESTAMP").and_then(text);
        let arrived = arrived.and_then(|time| time.parse().ok());
        let arrived = arrived.map(|microseconds: u64| Timestamp(microseconds / 1000));
        let time = fields.get("time").and_then(|time| time.parse().ok());
        let time = time.or(arrived).unwrap_or_default();
        let seq = fields.get("seq").and_then(|seq| seq.parse().ok());
        let number = fields.get("state_id").cloned().zip(seq);
        Some(Self { time, arrived: arrived.unwrap_or(time), fields, number })
    }

    /// The value of a field; empty if it is missing.
    pub fn get(&self, word: &str) -> &str {
        self.fields.get(word).map_or("", String::as_str)
    }

    /// Its number, if it has one.
    pub fn seq(&self) -> Option<u64> {
        self.number.as_ref().map(|(_, seq)| *seq)
    }

    /// The length of its fields and their names, in bytes.
    pub(super) fn size(&self) -> usize {
        self.fields.iter().map(|(word, value)| word.len() + value.len()).sum()
    }

    /// The event as a JSON object.
    pub fn to_json(&self) -> Json {
        let mut object = Map::new();
        for (word, value) in &self.fields {
            let number = match word.as_str() {
                "port" | "seq" | "client_pid" | "client_uid" => value.parse::<u64>().ok(),
                _ => None,
            };
            object.insert(word.clone(), number.map_or_else(|| value.as_str().into(), Json::from));
        }
        object.insert("time".to_owned(), self.time.to_string().into());
        Json::Object(object)
    }
}

/// The text of a field. A field with several values is an array, and so is an unprintable one, as an array of
/// bytes (journalctl(1), systemd.journal-fields(7)).
fn text(value: &Json) -> Option<String> {
    match value {
        Json::String(text) => Some(text.clone()),
        Json::Number(number) => Some(number.to_string()),
        Json::Array(values) => {
            let byte = |value: &Json| value.as_u64().and_then(|byte| u8::try_from(byte).ok());
            match values.iter().map(byte).collect::<Option<Vec<_>>>() {
                Some(bytes) => Some(String::from_utf8_lossy(&bytes).into_owned()),
                None => values.iter().find_map(text),
            }
        }
        Json::Null | Json::Bool(_) | Json::Object(_) => None,
    }
}

/// The events seen so far. After a crash the journal may contain an event twice, with the same number.
#[derive(Debug, Default)]
pub(super) struct Seen(HashMap<String, HashSet<u64>>);

impl Seen {
    /// Records the event; returns whether it is new. An event without a number always is.
    pub fn is_new(&mut self, entry: &Entry) -> bool {
        let Some((state_id, seq)) = &entry.number else { return true };
        match self.0.get_mut(state_id) {
            Some(seen) => seen.insert(*seq),
            None => self.0.insert(state_id.clone(), HashSet::from([*seq])).is_none(),
        }
    }
}

/// Removes duplicates and sorts the events, the oldest first: by number within a state folder, by time across
/// folders.
pub(super) fn in_order(mut entries: Vec<Entry>) -> Vec<Entry> {
    let mut seen = Seen::default();
    entries.retain(|entry| seen.is_new(entry));
    entries.sort_by(|a, b| a.number.cmp(&b.number));
    // A clock that was set back must not change the order of the numbers.
    let mut state = None;
    let mut latest = Timestamp::default();
    let mut placed = Vec::with_capacity(entries.len());
    for entry in mem::take(&mut entries) {
        let this = entry.number.as_ref().map(|(state, _)| state.clone());
        if this.is_none() || this != state {
            latest = Timestamp::default();
        }
        state = this;
        latest = latest.max(entry.time);
        placed.push((latest, entry));
    }
    placed.sort_by_key(|(time, _)| *time);
    placed.into_iter().map(|(_, entry)| entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(json: &str) -> Entry {
        Entry::read(json.as_bytes()).unwrap()
    }

    fn numbered(state_id: &str, seq: u64, second: u64) -> Entry {
        entry(&format!(
            r#"{{"STYXY_ACTION": "renew", "STYXY_STATE_ID": "{state_id}", "STYXY_SEQ": "{seq}",
                 "STYXY_TIME": "2026-11-23T10:00:{second:02}Z"}}"#
        ))
    }

    fn numbers(entries: &[Entry]) -> Vec<String> {
        entries.iter().map(|e| format!("{}{}", e.get("state_id"), e.get("seq"))).collect()
    }

    #[test]
    fn fields_have_the_words_of_the_design_and_numbers_are_numbers() {
        let entry = entry(
            r#"{"STYXY_ACTION": "release", "STYXY_PORT": "3000", "STYXY_SEQ": "7", "_PID": "104",
                "STYXY_CLIENT_PID": "4711", "STYXY_CLIENT_UID": "1000", "STYXY_STATE_ID": "s",
                "STYXY_TIME": "2026-11-23T12:06:06.817Z", "STYXY_SOMETHING_NEW": "3",
                "MESSAGE": "Released TCP port 3000", "MESSAGE_ID": "354c", "PRIORITY": "5",
                "__REALTIME_TIMESTAMP": "1795435566817806"}"#,
        );
        assert_eq!(
            entry.to_json(),
            serde_json::json!({
                "action": "release", "port": 3000, "seq": 7, "client_pid": 4711,
                "client_uid": 1000, "state_id": "s", "time": "2026-11-23T12:06:06.817Z",
                "something_new": "3", "message": "Released TCP port 3000", "message_id": "354c",
            })
        );
        assert_eq!(entry.arrived.to_string(), "2026-11-23T12:06:06.817Z");
    }

    #[test]
    fn a_field_that_was_given_several_times_counts_with_its_first_value() {
        let entry = entry(
            r#"{"STYXY_ACTION": ["deny", "allocate"], "STYXY_REASON": [[27, 91], "two"],
                "STYXY_OWNER": [null, "none"]}"#,
        );
        assert_eq!(entry.get("action"), "deny");
        assert_eq!(entry.get("reason"), "\u{fffd}[");
        assert_eq!(entry.get("owner"), "none");
    }

    #[test]
    fn bytes_that_are_no_text_arrive_as_numbers_and_are_read_as_text() {
        let entry = entry(
            r#"{"STYXY_ACTION": "deny", "STYXY_OWNER": [120, 27, 91, 51, 49, 109, 121],
                "STYXY_REASON": [255, 97], "STYXY_HOLD": [], "STYXY_PORT": [51, 48]}"#,
        );
        assert_eq!(entry.get("owner"), "x\u{fffd}[31my");
        assert_eq!(entry.get("reason"), "\u{fffd}a");
        assert_eq!(entry.get("hold"), "");
        assert_eq!(entry.to_json()["port"], 30);
    }

    #[test]
    fn what_is_missing_or_too_long_is_missing_and_nothing_fails() {
        let entry =
            entry(r#"{"STYXY_ACTION": "recover", "STYXY_REASON": null, "STYXY_PORT": "x"}"#);
        assert_eq!((entry.get("reason"), entry.get("service_type")), ("", ""));
        let json = entry.to_json();
        assert_eq!(json["port"], "x");
        assert_eq!(json["time"], "1970-01-01T00:00:00.000Z");
        assert!(json.get("reason").is_none() && json.get("seq").is_none(), "{json}");
    }

    #[test]
    fn an_event_without_its_time_has_that_of_the_journal() {
        for time in ["", r#""STYXY_TIME": "soon","#] {
            let entry = entry(&format!(
                r#"{{"STYXY_ACTION": "renew", {time} "__REALTIME_TIMESTAMP": "1795435566817806"}}"#
            ));
            assert_eq!(entry.to_json()["time"], "2026-11-23T12:06:06.817Z");
        }
    }

    #[test]
    fn what_is_no_event_is_passed_over() {
        for line in [
            "",
            "WARN styxy::state: the disk is slow",
            r#"{"MESSAGE": "the disk is slow", "SYSLOG_IDENTIFIER": "styxy"}"#,
            "[1, 2]",
            r#"{"STYXY_ACTION": null}"#,
        ] {
            assert!(Entry::read(line.as_bytes()).is_none(), "{line}");
        }
    }

    #[test]
    fn an_event_of_a_private_service_is_read_with_its_plain_numbers() {
        let entry = entry(r#"{"STYXY_ACTION": "deny", "STYXY_PORT": 3000, "STYXY_SEQ": 2}"#);
        assert_eq!((entry.get("port"), entry.get("seq")), ("3000", "2"));
    }

    #[test]
    fn an_event_that_came_twice_is_shown_once() {
        let entries = vec![
            numbered("a", 1, 1),
            numbered("b", 1, 2),
            numbered("a", 1, 1),
            numbered("a", 2, 3),
            numbered("b", 1, 2),
        ];
        assert_eq!(numbers(&in_order(entries)), ["a1", "b1", "a2"]);
    }

    #[test]
    fn events_without_a_number_are_all_shown() {
        let by_hand = entry(r#"{"STYXY_ACTION": "deny", "STYXY_SEQ": "1"}"#);
        assert_eq!(in_order(vec![by_hand.clone(), by_hand]).len(), 2);
    }

    #[test]
    fn events_that_arrived_late_stand_where_they_happened() {
        let entries = vec![numbered("a", 3, 6), numbered("b", 1, 5), numbered("a", 1, 1)];
        let later = [numbered("a", 2, 4), numbered("b", 2, 7)];
        let entries = entries.into_iter().chain(later).collect();
        assert_eq!(numbers(&in_order(entries)), ["a1", "a2", "b1", "a3", "b2"]);
    }

    #[test]
    fn a_clock_that_was_set_back_does_not_turn_the_order_of_a_state() {
        let entries = vec![
            numbered("b", 1, 25),
            numbered("a", 3, 12),
            numbered("a", 2, 10),
            numbered("a", 1, 20),
            numbered("b", 2, 30),
            numbered("a", 10, 40),
            numbered("a", 9, 40),
        ];
        let order = numbers(&in_order(entries));
        assert_eq!(order, ["a1", "a2", "a3", "b1", "b2", "a9", "a10"]);
    }

    #[test]
    fn hostile_text_stays_behind_and_lines_stay_one() {
        let hostile = "a\u{1b}[31m\u{7f}\u{9b}2J\u{202e}\nb\u{e9}";
        let line = serde_json::json!({"STYXY_ACTION": "deny", "STYXY_REASON": hostile});
        let entry = entry(&line.to_string());
        assert_eq!(entry.get("reason"), "a\u{fffd}[31m\u{fffd}\u{fffd}2J\u{fffd} b\u{e9}");
        let field = r#"{"STYXY_ACTION": "deny", "STYXY_\u001b[2J": "x"}"#;
        assert!(!self::entry(field).to_json().to_string().contains("001b"));
    }
}
