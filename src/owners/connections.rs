//! Bus connections as owners: `NameOwnerChanged` announces their end.

use zbus::{Connection, MatchRule, MessageStream, fdo::DBusProxy, names::BusName};

use super::signals;

const BUS: &str = "org.freedesktop.DBus";

/// Waits until the connection of that unique name on that bus is gone.
pub async fn ended(bus: &Connection, name: &str, id: &str) -> zbus::Result<()> {
    let proxy = DBusProxy::new(bus).await?;
    // On another bus the same name is somebody else's.
    if proxy.get_id().await?.as_str() != id {
        return Ok(());
    }
    let rule = MatchRule::builder()
        .msg_type(zbus::message::Type::Signal)
        .sender(BUS)
        .interface(BUS)
        .member("NameOwnerChanged")
        .add_arg(name)
        .build()?;
    // Subscribed before asking, so that an end in between is not missed.
    let changes = MessageStream::for_match_rule(rule, bus, None).await?;
    let has_ended = || async { Ok(!proxy.name_has_owner(BusName::try_from(name)?).await?) };
    signals::until(changes, |_| true, has_ended).await
}

/// The id of a bus.
pub async fn bus_id(bus: &Connection) -> zbus::Result<String> {
    Ok(DBusProxy::new(bus).await?.get_id().await?.to_string())
}
