//! What happens, as it happens: the signals of the bus; where there are none, the differences between one list
//! of leases and the next.

use std::{collections::BTreeMap, time::Duration};

use futures_util::StreamExt;
use serde_json::{Value as Json, json};
use zbus::{Connection, MatchRule, Message, MessageStream, fdo::DBusProxy};

use super::{Call, Failure, Miss, bus::Dict, bus::object, http, waiting::Waiting};
use crate::{
    dbus::{self, NAME, PATH},
    value::Fields,
};

/// How often the leases are compared where there are no signals.
const EVERY: Duration = Duration::from_millis(500);

/// Tells every event, for ever; each is an object with the `event`. Ends when `tell` fails.
pub async fn watch<E>(mut tell: impl FnMut(Json) -> Result<(), E>) -> Result<E, Failure> {
    match signals().await {
        Some(mut signals) => {
            while let Some(message) = signals.next().await {
                let event = message.ok().and_then(|message| event(&message));
                if let Some(event) = event
                    && let Err(end) = tell(event)
                {
                    return Ok(end);
                }
            }
            Err(Failure::Unreachable("the session bus is gone".to_owned()))
        }
        None => differences(tell).await,
    }
}

/// The signals of the service, if the bus knows of one.
async fn signals() -> Option<MessageStream> {
    let bus = Connection::session().await.ok()?;
    if !dbus::is_in_this_network(&bus).await {
        return None;
    }
    let proxy = DBusProxy::new(&bus).await.ok()?;
    let names = proxy.list_activatable_names().await.ok()?;
    let is_known = names.iter().any(|name| name.as_str() == NAME)
        || proxy.name_has_owner(NAME.try_into().ok()?).await.ok()?;
    if !is_known {
        return None;
    }
    let rule = MatchRule::builder()
        .msg_type(zbus::message::Type::Signal)
        .sender(NAME)
        .path(PATH)
        .interface(NAME)
        .build()
        .ok()?;
    MessageStream::for_match_rule(rule, &bus, None).await.ok()
}

fn event(message: &Message) -> Option<Json> {
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

type Leases = BTreeMap<String, Json>;

async fn differences<E>(mut tell: impl FnMut(Json) -> Result<(), E>) -> Result<E, Failure> {
    let mut before: Option<Leases> = None;
    loop {
        // A service that ends because it is idle had no leases.
        let now = leases().await?.unwrap_or_default();
        for event in before.iter().flat_map(|before| compare(before, &now)) {
            if let Err(end) = tell(event) {
                return Ok(end);
            }
        }
        before = Some(now);
        tokio::time::sleep(EVERY).await;
    }
}

async fn leases() -> Result<Option<Leases>, Failure> {
    match http::call(&Call::List { filter: Fields::default() }, &Waiting::default()).await {
        Ok(leases) => {
            let leases = leases.as_array().cloned().unwrap_or_default().into_iter();
            let by_id = leases.map(|l| (l["lease_id"].as_str().unwrap_or_default().to_owned(), l));
            Ok(Some(by_id.collect()))
        }
        Err(Miss::Absent(_) | Miss::Broken(_)) => Ok(None),
        Err(Miss::Final(failure)) => Err(failure),
    }
}

fn compare(before: &Leases, now: &Leases) -> Vec<Json> {
    let told = |event: &str, lease: &Json| {
        let mut lease = lease.clone();
        lease["event"] = event.into();
        lease
    };
    let is_orphan = |lease: &Json| lease["state"] == "orphaned";
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_lists_of_leases_tell_what_happened_between_them() {
        let lists = |leases: &[(&str, &str)]| -> Leases {
            let leases = leases.iter();
            leases.map(|(id, state)| ((*id).to_owned(), json!({"state": state}))).collect()
        };
        let before = lists(&[("a", "listening"), ("b", "reserved"), ("c", "orphaned")]);
        let now = lists(&[("a", "orphaned"), ("c", "orphaned"), ("d", "reserved")]);
        let events = compare(&before, &now);
        let events: Vec<_> = events.iter().filter_map(|event| event["event"].as_str()).collect();
        assert_eq!(events, ["orphaned", "released", "granted"]);
    }
}
