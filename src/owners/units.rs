//! Units of the user's manager as owners (org.freedesktop.systemd1(5)).

use std::collections::HashMap;

use zbus::{Connection, MatchRule, Message, MessageStream, OwnedObjectPath, Variant};

use super::signals;
use crate::lease::UnitName;

const MANAGER: &str = "org.freedesktop.systemd1";
const PATH: &str = "/org/freedesktop/systemd1";
const INTERFACE: &str = "org.freedesktop.systemd1.Manager";
const UNIT: &str = "org.freedesktop.systemd1.Unit";
const PROPERTIES: &str = "org.freedesktop.DBus.Properties";

/// Whether the unit is active or starting.
pub async fn is_active(bus: &Connection, unit: &UnitName) -> zbus::Result<bool> {
    let path = load(bus, unit).await?;
    Ok(!has_ended(bus, &path).await?)
}

/// Waits until the unit is inactive or failed, and has no job that starts it again.
pub async fn ended(bus: &Connection, unit: &UnitName) -> zbus::Result<()> {
    // Without a subscriber the manager sends no signals.
    let subscribed = bus.call_method(Some(MANAGER), PATH, Some(INTERFACE), "Subscribe", &()).await;
    if let Err(zbus::Error::MethodError(name, ..)) = &subscribed
        && !name.ends_with("AlreadySubscribed")
    {
        subscribed?;
    }
    let path = load(bus, unit).await?;
    let rule = MatchRule::builder()
        .msg_type(zbus::message::Type::Signal)
        .sender(MANAGER)
        .path(path.as_str())
        .interface(PROPERTIES)
        .member("PropertiesChanged")
        .add_arg(UNIT)
        .build()?;
    // Subscribed before asking, so that an end in between is not missed.
    let changes = MessageStream::for_match_rule(rule, bus, None).await?;
    signals::until(changes, may_have_ended, || has_ended(bus, &path)).await
}

/// Whether a unit is enabled.
pub async fn is_enabled(bus: &Connection, unit: &str) -> zbus::Result<bool> {
    let manager = Some(INTERFACE);
    let reply = bus.call_method(Some(MANAGER), PATH, manager, "GetUnitFileState", &unit).await?;
    // Or `enabled-runtime`.
    Ok(reply.body().deserialize::<&str>()?.starts_with("enabled"))
}

/// Stops a unit; does not wait until it is stopped.
pub async fn stop(bus: &Connection, unit: &str) -> zbus::Result<()> {
    let manager = Some(INTERFACE);
    bus.call_method(Some(MANAGER), PATH, manager, "StopUnit", &(unit, "replace")).await.map(drop)
}

/// Whether a property change may mean that the unit has ended. A busy unit sends many, and most of them
/// say that it is active: those need no further call.
fn may_have_ended(change: &Message) -> bool {
    let body = change.body();
    let changed = body.deserialize::<(&str, HashMap<&str, Variant<'_>>, Vec<&str>)>();
    let is_up = changed.is_ok_and(|(_, properties, _)| {
        properties.get("ActiveState").is_some_and(|state| !is_down(state))
    });
    !is_up
}

async fn load(bus: &Connection, unit: &UnitName) -> zbus::Result<OwnedObjectPath> {
    let name = unit.as_str();
    let reply = bus.call_method(Some(MANAGER), PATH, Some(INTERFACE), "LoadUnit", &name).await?;
    reply.body().deserialize()
}

/// Whether the unit is down for good: not while a job, such as a restart, is about to bring it up.
async fn has_ended(bus: &Connection, path: &OwnedObjectPath) -> zbus::Result<bool> {
    // In one call: between two, a restart could happen.
    let reply =
        bus.call_method(Some(MANAGER), path.as_str(), Some(PROPERTIES), "GetAll", &UNIT).await?;
    let body = reply.body();
    let properties: HashMap<&str, Variant<'_>> = body.deserialize()?;
    // The job's number and its object; number 0 is none.
    let has_job = matches!(
        properties.get("Job"),
        Some(Variant::Structure(job)) if !matches!(job.fields().first(), Some(Variant::U32(0)))
    );
    Ok(properties.get("ActiveState").is_some_and(is_down) && !has_job)
}

fn is_down(state: &Variant<'_>) -> bool {
    matches!(state, Variant::Str(state) if matches!(state.as_str(), "inactive" | "failed"))
}
