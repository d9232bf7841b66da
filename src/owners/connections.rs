//! Bus connections as owners: `NameOwnerChanged` tells their end.

use futures_util::StreamExt;
use zbus::{Connection, fdo::DBusProxy, names::BusName};

/// Waits until the connection of that unique name on that bus is gone.
pub async fn ended(bus: &Connection, name: &str, id: &str) -> zbus::Result<()> {
    let proxy = DBusProxy::new(bus).await?;
    // On another bus, the name is another's.
    if proxy.get_id().await?.as_str() != id {
        return Ok(());
    }
    let mut changes = proxy.receive_name_owner_changed_with_args(&[(0, name)]).await?;
    // Asked after listening, so that an end in between is not missed.
    if !proxy.name_has_owner(BusName::try_from(name)?).await? {
        return Ok(());
    }
    while let Some(change) = changes.next().await {
        if change.args()?.new_owner().is_none() {
            return Ok(());
        }
    }
    Err(zbus::Error::Failure("the bus is gone".to_owned()))
}

/// The id of a bus.
pub async fn bus_id(bus: &Connection) -> zbus::Result<String> {
    Ok(DBusProxy::new(bus).await?.get_id().await?.to_string())
}
