//! What a watcher has reported, and what is new.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value as Json, json};
use zbus::Message;

use super::super::bus::{Dict, object};

/// The leases that the reader knows about.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// By id; `None` before the first list, whose leases are not news.
    leases: Option<BTreeMap<String, Json>>,
    /// Reported by the last comparison; their signals may still arrive.
    ended: BTreeSet<String>,
}

impl Known {
    /// Records a signal; `None` if it is not news.
    pub(super) fn note(&mut self, event: Json) -> Option<Json> {
        let id = id_of(&event);
        let leases = self.leases.get_or_insert_default();
        let is_news = match event["event"].as_str()? {
            "granted" => leases.insert(id, lease_of(&event)).is_none(),
            "orphaned" => {
                let mut lease = lease_of(&event);
                lease["state"] = "orphaned".into();
                leases.insert(id, lease).is_none_or(|before| !is_orphan(&before))
            }
            "changed" => {
                leases.insert(id, lease_of(&event));
                true
            }
            "released" => {
                leases.remove(&id);
                !self.ended.remove(&id)
            }
            _ => true,
        };
        is_news.then_some(event)
    }

    /// The events that a list of all leases reveals.
    pub(super) fn compare(&mut self, now: &Json) -> Vec<Json> {
        let now: BTreeMap<_, _> =
            now.as_array().into_iter().flatten().map(|l| (id_of(l), l.clone())).collect();
        let events = self.leases.as_ref().map(|before| differences(before, &now));
        let events = events.unwrap_or_default();
        self.ended = events.iter().filter(|e| e["event"] == "released").map(id_of).collect();
        self.leases = Some(now);
        events
    }
}

fn id_of(lease: &Json) -> String {
    lease["lease_id"].as_str().unwrap_or_default().to_owned()
}

fn is_orphan(lease: &Json) -> bool {
    lease["state"] == "orphaned"
}

fn lease_of(event: &Json) -> Json {
    let mut lease = event.clone();
    if let Json::Object(fields) = &mut lease {
        fields.remove("event");
    }
    lease
}

fn differences(before: &BTreeMap<String, Json>, now: &BTreeMap<String, Json>) -> Vec<Json> {
    let told = |event: &str, lease: &Json| {
        let mut lease = lease.clone();
        if let Json::Object(fields) = &mut lease {
            // Only a list has this field.
            fields.remove("state");
        }
        lease["event"] = event.into();
        lease
    };
    let mut events = Vec::new();
    for (id, lease) in before {
        match now.get(id) {
            None => events.push(told("released", lease)),
            Some(new) if is_orphan(new) && !is_orphan(lease) => events.push(told("orphaned", new)),
            Some(_) => {}
        }
    }
    let new = now.iter().filter(|(id, _)| !before.contains_key(*id));
    events.extend(new.map(|(_, lease)| told("granted", lease)));
    events
}

/// Whether a signal says that changes were missed.
pub(super) fn is_missed(message: &Message) -> bool {
    message.header().member().is_some_and(|member| member.as_str() == "ChangesMissed")
}

/// The event of a signal.
pub(super) fn event(message: &Message) -> Option<Json> {
    let header = message.header();
    let body = message.body();
    let leased = |event: &str, lease: &Dict<'_>| {
        let mut json = object(lease);
        json["event"] = event.into();
        json
    };
    Some(match header.member()?.as_str() {
        "LeaseGranted" => {
            let (_, _, lease) = body.deserialize::<(u16, String, Dict<'_>)>().ok()?;
            leased("granted", &lease)
        }
        "LeaseOrphaned" => {
            let (_, _, lease) = body.deserialize::<(u16, String, Dict<'_>)>().ok()?;
            leased("orphaned", &lease)
        }
        "LeaseChanged" => {
            let (_, _, lease) = body.deserialize::<(u16, String, Dict<'_>)>().ok()?;
            leased("changed", &lease)
        }
        "InstanceAdded" => {
            let (_, instance) = body.deserialize::<(String, Dict<'_>)>().ok()?;
            leased("instance_added", &instance)
        }
        "InstanceRemoved" => {
            let (instance_id, reason) = body.deserialize::<(String, String)>().ok()?;
            json!({"event": "instance_removed", "instance_id": instance_id, "reason": reason})
        }
        "LeaseReleased" => {
            let (_, _, reason, lease) =
                body.deserialize::<(u16, String, String, Dict<'_>)>().ok()?;
            let mut json = leased("released", &lease);
            json["reason"] = reason.into();
            json
        }
        "ServiceTypeAdded" => {
            json!({"event": "type_added", "service_type": body.deserialize::<String>().ok()?})
        }
        "ServiceTypeRemoved" => {
            json!({"event": "type_removed", "service_type": body.deserialize::<String>().ok()?})
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(leases: &[(&str, &str)]) -> Json {
        leases.iter().map(|(id, state)| json!({"lease_id": id, "state": state})).collect()
    }

    fn names(events: &[Json]) -> Vec<(&str, &str)> {
        let name = |event: &'_ Json| event["event"].as_str().map(|_| ());
        assert!(events.iter().all(|event| name(event).is_some()));
        let both = |e| {
            let e: &Json = e;
            (e["event"].as_str().unwrap(), e["lease_id"].as_str().unwrap())
        };
        events.iter().map(both).collect()
    }

    #[test]
    fn two_lists_of_leases_tell_what_happened_between_them() {
        let mut known = Known::default();
        let first = list(&[("a", "listening"), ("b", "reserved"), ("c", "orphaned")]);
        assert!(known.compare(&first).is_empty(), "what was there before is no news");
        let events =
            known.compare(&list(&[("a", "orphaned"), ("c", "orphaned"), ("d", "reserved")]));
        assert_eq!(names(&events), [("orphaned", "a"), ("released", "b"), ("granted", "d")]);
        assert!(events.iter().all(|event| event["state"].is_null()));
    }

    #[test]
    fn what_a_list_has_told_is_not_told_again_by_a_late_signal() {
        let mut known = Known::default();
        known.compare(&list(&[("a", "reserved")]));
        let signal = |event: &str, id: &str| json!({"event": event, "lease_id": id});
        assert!(known.note(signal("granted", "b")).is_some());
        let events = known.compare(&list(&[("b", "reserved"), ("c", "reserved")]));
        assert_eq!(names(&events), [("released", "a"), ("granted", "c")]);
        assert!(known.note(signal("released", "a")).is_none());
        assert!(known.note(signal("granted", "c")).is_none());
        assert!(known.note(signal("released", "c")).is_some());
        assert!(known.note(signal("granted", "d")).is_some());
        assert!(known.note(signal("released", "d")).is_some(), "it came and went unlisted");
        assert!(known.note(json!({"event": "type_added", "service_type": "x"})).is_some());
    }
}
