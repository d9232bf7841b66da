//! Units of the user's manager as owners (org.freedesktop.systemd1(5)).

use std::collections::HashMap;

use futures_util::StreamExt;
use zbus::{Connection, MatchRule, MessageStream, OwnedObjectPath, Variant};

use crate::lease::UnitName;

const MANAGER: &str = "org.freedesktop.systemd1";
const PATH: &str = "/org/freedesktop/systemd1";
const INTERFACE: &str = "org.freedesktop.systemd1.Manager";
const PROPERTIES: &str = "org.freedesktop.DBus.Properties";

/// Whether the unit is up, or on its way.
pub async fn is_active(bus: &Connection, unit: &UnitName) -> zbus::Result<bool> {
    let path = load(bus, unit).await?;
    Ok(!has_ended(bus, &path).await?)
}

/// Waits until the unit is inactive or failed, and not about to be started again.
pub async fn ended(bus: &Connection, unit: &UnitName) -> zbus::Result<()> {
    // Without a subscriber the manager tells nothing.
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
        .build()?;
    let mut changes = MessageStream::for_match_rule(rule, bus, None).await?;
    // Asked after listening, so that an end in between is not missed.
    while !has_ended(bus, &path).await? {
        if changes.next().await.is_none() {
            return Err(zbus::Error::Failure("the bus is gone".to_owned()));
        }
    }
    Ok(())
}

async fn load(bus: &Connection, unit: &UnitName) -> zbus::Result<OwnedObjectPath> {
    let name = unit.as_str();
    let reply = bus.call_method(Some(MANAGER), PATH, Some(INTERFACE), "LoadUnit", &name).await?;
    reply.body().deserialize()
}

/// Whether the unit is down for good: not while a job, such as a restart, is about to bring it up.
async fn has_ended(bus: &Connection, path: &OwnedObjectPath) -> zbus::Result<bool> {
    // All at once: asked one after the other, a restart comes in between.
    let unit = "org.freedesktop.systemd1.Unit";
    let reply =
        bus.call_method(Some(MANAGER), path.as_str(), Some(PROPERTIES), "GetAll", &unit).await?;
    let body = reply.body();
    let properties: HashMap<&str, Variant<'_>> = body.deserialize()?;
    let is_down = matches!(
        properties.get("ActiveState"),
        Some(Variant::Str(state)) if matches!(state.as_str(), "inactive" | "failed")
    );
    // The job's number and its object; number 0 is none.
    let has_job = matches!(
        properties.get("Job"),
        Some(Variant::Structure(job)) if !matches!(job.fields().first(), Some(Variant::U32(0)))
    );
    Ok(is_down && !has_job)
}
