//! The user's session bus.

use zbus::{Connection, connection::Builder};

use super::{User, folder::name, user};

/// The address that keeps a program off the bus, as other programs have it, too.
pub const DISABLED: &str = "disabled:";

/// Whether the user wants no session bus here.
pub fn is_disabled() -> bool {
    user().bus.as_deref() == Some(DISABLED)
}

/// Connects to the session bus: the given one, else the one in the runtime directory. A bus of another user is
/// not used, because that user could answer the calls. The message names the variable.
pub async fn connect() -> Result<Connection, String> {
    if is_disabled() {
        return Err(format!("there is no session bus (DBUS_SESSION_BUS_ADDRESS is {DISABLED})"));
    }
    let mut troubles = Vec::new();
    for (address, named) in addresses(user()) {
        match Builder::address(address.as_str()).build().await {
            Ok(bus) => match others(&bus).await {
                None => return Ok(bus),
                Some(who) => {
                    troubles
                        .push(format!("{named} leads to {who}'s session bus, which is not used"));
                }
            },
            Err(error) => troubles.push(format!("there is no session bus ({error})")),
        }
    }
    Err(troubles.into_iter().next().unwrap_or_else(|| "there is no session bus".to_owned()))
}

/// Whether an address of the bus is of this kind, such as `tcp:` (D-Bus specification, "Server Addresses").
pub fn is_by(kind: &str) -> bool {
    let addresses = addresses(user());
    addresses.iter().flat_map(|(address, _)| address.split(';')).any(|one| one.starts_with(kind))
}

/// The addresses, each with the variable that it comes from.
fn addresses(user: &User) -> Vec<(String, &'static str)> {
    let named = user.bus.clone().map(|bus| (bus, "DBUS_SESSION_BUS_ADDRESS"));
    let usual = user
        .runtime()
        .ok()
        .and_then(|runtime| runtime.join("bus").into_os_string().into_string().ok());
    let usual = usual.map(|path| (format!("unix:path={path}"), "XDG_RUNTIME_DIR"));
    named.into_iter().chain(usual).collect()
}

/// The owner of the bus, if it is not this user (`SO_PEERCRED`; for a socket of systemd it is the manager).
async fn others(bus: &Connection) -> Option<String> {
    let uid = bus.peer_creds().await.ok()?.unix_user_id()?;
    (uid != user().uid()).then(|| name(uid))
}
