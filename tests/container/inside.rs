//! This program again, inside a machine, as a client that does many things quickly. Each command
//! prints one line of JSON at its end.

use std::{collections::HashMap, time::Duration};

use zbus::{Connection, Variant};

pub use crate::dice::Dice;
use crate::{
    activation, agents, audit, crash, damage, guards, idle, owners, race, registry, sandbox, types,
};

/// A grant, as far as tests look at it.
pub type Granted = (u16, String);

/// Runs the command that the arguments name.
pub fn main(arguments: &[String]) {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let result = runtime.block_on(async {
        match arguments.split_first().expect("a command") {
            (&"crowd", rest) => activation::crowd(rest).await,
            (&"agents", []) => agents::inside(),
            (&"audit", rest) => audit::inside(rest).await,
            (&"crash", rest) => crash::inside(rest).await,
            (&"damage", rest) => damage::inside(rest).await,
            #[cfg(target_arch = "x86_64")]
            (&"deeds", [pid]) => sandbox::deeds(pid.parse().unwrap()),
            (&"guards", rest) => guards::inside(rest).await,
            (&"idle", rest) => idle::inside(rest).await,
            (&"owners", rest) => owners::inside(rest).await,
            (&"race", rest) => race::inside(rest).await,
            (&"registry", rest) => registry::inside(rest),
            (&"types", rest) => types::inside(rest).await,
            (other, _) => panic!("there is no command {other}"),
        }
    });
    println!("{result}");
}

/// A connection to the session bus that waits longer than any activation takes.
pub async fn bus() -> Connection {
    let builder = zbus::connection::Builder::session();
    builder.method_timeout(Duration::from_secs(60)).build().await.unwrap()
}

/// Calls a method of styxy; the error's name and words if it fails.
pub async fn call<B>(bus: &Connection, method: &str, body: &B) -> Result<zbus::Message, String>
where
    B: serde::Serialize + zbus::wire::DynamicType,
{
    let name = Some("org.styxy.Styxy1");
    let reply = bus.call_method(name, "/org/styxy/Styxy1", name, method, body).await;
    reply.map_err(|error| error.to_string())
}

/// Allocates a port.
pub async fn allocate(bus: &Connection, service_type: &str) -> Result<Granted, String> {
    let options = HashMap::<&str, Variant<'_>>::new();
    let reply = call(bus, "Allocate", &(service_type, options)).await?;
    let body = reply.body();
    let (port, lease_id, _): (u16, String, HashMap<String, Variant<'_>>) =
        body.deserialize().map_err(|error| error.to_string())?;
    Ok((port, lease_id))
}

/// Releases a lease.
pub async fn release(bus: &Connection, lease_id: &str) -> Result<u16, String> {
    let reply = call(bus, "Release", &(lease_id,)).await?;
    reply.body().deserialize().map_err(|error| error.to_string())
}

/// The live leases: what ports they have, by their ids.
pub async fn list(bus: &Connection) -> Result<HashMap<String, u16>, String> {
    let filter = HashMap::<&str, Variant<'_>>::new();
    let reply = call(bus, "List", &(filter,)).await?;
    let body = reply.body();
    let leases: Vec<HashMap<String, Variant<'_>>> =
        body.deserialize().map_err(|error| error.to_string())?;
    let lease = |lease: &HashMap<_, _>| match (lease.get("lease_id"), lease.get("port")) {
        (Some(Variant::Str(id)), Some(Variant::U16(port))) => (id.to_string(), *port),
        _ => panic!("not a lease: {lease:?}"),
    };
    Ok(leases.iter().map(lease).collect())
}
