//! Over the session bus.

use std::{collections::HashMap, io, os::fd::OwnedFd, time::Duration};

use serde_json::{Map, Value as Json};
use zbus::{Connection, Message, Variant};

use super::{Call, CallError, Failure, answer, http, skew, trouble, unit, waiting::Waiting};
use crate::{
    dbus::{self, NAME, PATH},
    error::ErrorKind,
    kernel::memory,
    surroundings,
    value::Fields,
};

/// How long connecting to a bus may take before it counts as absent.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often to check whether the service that was started is on the bus.
const OFF: Duration = Duration::from_millis(100);

/// How many leases are listed at once where a message cannot hold all of them.
const PAGE: u32 = 10_000;

pub(super) type Dict<'a> = HashMap<String, Variant<'a>>;

/// Where calls go.
pub(super) struct Service {
    bus: Connection,
    name: String,
}

impl Service {
    /// By its well-known name: the bus starts it if it does not run.
    async fn any(waiting: &Waiting) -> Result<Self, CallError> {
        waiting.on("the session bus");
        let bus = connect().await?;
        waiting.on("the service over the session bus");
        // A service that runs without the bus never gets the name, so activation would wait in vain.
        if Self::running_on(bus.clone()).await.is_none() && http::is_served_without_a_bus().await {
            return Err(CallError::Unavailable(
                "the service that runs is not on the session bus".to_owned(),
            ));
        }
        Ok(Self { bus, name: NAME.to_owned() })
    }

    /// Waits for an answer, unless the unit has failed or nothing starts it.
    async fn unless_it_fails<T>(
        &self,
        answer: impl Future<Output = Result<T, CallError>>,
    ) -> Result<T, CallError> {
        let has_owner = async || Self::running_on(self.bus.clone()).await.is_some();
        tokio::select! {
            answer = unit::unless_it_fails(answer) => answer,
            never = unit::start_if_forgotten(has_owner) => match never {},
            () = started_off(&self.bus) => Err(CallError::Unavailable(
                "the service that was started is not on the session bus".to_owned(),
            )),
        }
    }

    /// By its unique name, if it has one: a call to that name starts nothing.
    pub(super) async fn running() -> Result<Option<Self>, CallError> {
        Ok(Self::running_on(connect().await?).await)
    }

    /// The same on this bus.
    pub(super) async fn running_on(bus: Connection) -> Option<Self> {
        const BUS: &str = "org.freedesktop.DBus";
        let reply = bus.call_method(Some(BUS), "/", Some(BUS), "GetNameOwner", &(NAME,)).await;
        let name = reply.ok().and_then(|reply| reply.body().deserialize().ok());
        name.map(|name| Self { bus, name })
    }
}

/// Waits until a service is running that stays off this bus, as its unit may have it. The bus would wait for its name for two
/// minutes, and delivers nothing to it.
pub(super) async fn started_off(bus: &Connection) {
    loop {
        tokio::time::sleep(OFF).await;
        if Service::running_on(bus.clone()).await.is_none() && http::is_off_the_bus().await {
            return;
        }
    }
}

pub(super) async fn call(call: &Call, waiting: &Waiting) -> Result<Json, CallError> {
    let service = &Service::any(waiting).await?;
    let ask = |call| async move { service.unless_it_fails(call_to(service, &call)).await };
    skew::ask(ask, call).await
}

pub(super) async fn call_to(bus: &Service, call: &Call) -> Result<Json, CallError> {
    match (call_once(bus, call).await, call) {
        (Err(CallError::Failed(failure)), Call::List { filter })
            if failure.is(ErrorKind::LimitExceeded) =>
        {
            list_by_pages(bus, filter).await
        }
        (answer, _) => answer,
    }
}

/// Lists more leases than one message of the bus can hold.
async fn list_by_pages(bus: &Service, filter: &Fields) -> Result<Json, CallError> {
    let mut leases = Vec::new();
    loop {
        let mut filter = filter.clone();
        filter.put("limit", PAGE);
        let last =
            leases.last().and_then(|lease: &Json| u16::try_from(lease["port"].as_u64()?).ok());
        filter.put_some("after", last);
        match call_once(bus, &Call::List { filter }).await? {
            Json::Array(page) if !page.is_empty() => leases.extend(page),
            _ => return Ok(leases.into()),
        }
    }
}

async fn call_once(bus: &Service, call: &Call) -> Result<Json, CallError> {
    let reply = match call {
        Call::Allocate { service_type, options } => {
            send(bus, "Allocate", &(service_type, dbus::Dict(options.clone()))).await?
        }
        Call::Release { lease_id } => send(bus, "Release", &(lease_id,)).await?,
        Call::Renew { lease_id, ttl } => {
            send(bus, "Renew", &(lease_id.to_string(), ttl.unwrap_or(0))).await?
        }
        Call::SetHold { lease_id, hold } => {
            send(bus, "SetHold", &(lease_id.to_string(), hold.as_str())).await?
        }
        Call::ReleaseMatching { filter } => {
            send(bus, "ReleaseMatching", &(dbus::Dict(filter.clone()),)).await?
        }
        Call::Forget { filter } => send(bus, "Forget", &(dbus::Dict(filter.clone()),)).await?,
        Call::Remembered { filter } => {
            send(bus, "ListRemembered", &(dbus::Dict(filter.clone()),)).await?
        }
        Call::List { filter } => send(bus, "List", &(dbus::Dict(filter.clone()),)).await?,
        Call::Lookup { service } => send(bus, "Lookup", &(dbus::Dict(service.clone()),)).await?,
        Call::Check { port, protocol } => {
            send(bus, "Check", &(port.get(), protocol.as_str())).await?
        }
        Call::Suggest { service_type, options } => {
            send(bus, "SuggestFor", &(service_type, dbus::Dict(options.clone()))).await?
        }
        Call::Instances => send(bus, "ListInstances", &()).await?,
        Call::CleanUp { older_than, dry_run } => {
            send(bus, "CleanUp", &(older_than, dry_run)).await?
        }
        Call::Types => send(bus, "ListServiceTypes", &()).await?,
        Call::Status => send(bus, "Status", &()).await?,
        Call::Restart => send(bus, "Restart", &()).await?,
        Call::Configuration { origins } => send(bus, "GetConfiguration", origins).await?,
        Call::Reload => send(bus, "Reload", &()).await?,
        Call::TakeConfiguration { seen } => {
            let seen = serde_json::to_vec(seen).map_err(io::Error::from);
            let seen = seen.and_then(|json| memory::file(&json)).map_err(|error| {
                Failure::Unreachable(format!("the configuration cannot be shown: {error}"))
            })?;
            send(bus, "TakeConfiguration", &(zbus::Fd::from(&seen),)).await?
        }
        Call::SetToken { sha256 } => send(bus, "SetToken", &sha256.to_string()).await?,
        Call::OpenPage { temporary } => send(bus, "OpenPage", temporary).await?,
        Call::SetAutoAllocation { enabled } => send(bus, "SetAutoAllocation", enabled).await?,
        Call::UndoAutoAllocation { service_type, force } => {
            send(bus, "UndoAutoAllocation", &(service_type, force)).await?
        }
        Call::Backups => send(bus, "ListBackups", &()).await?,
        Call::Restore { version, force } => send(bus, "RestoreBackup", &(version, force)).await?,
    };
    let body = reply.body();
    let answer = match call {
        Call::Allocate { .. } => {
            body.deserialize::<(u16, String, Dict<'_>)>().map(|(_, _, lease)| object(&lease))
        }
        Call::Release { .. } => {
            body.deserialize::<u16>().map(|port| serde_json::json!({"port": port}))
        }
        Call::List { .. }
        | Call::Suggest { .. }
        | Call::Types
        | Call::Backups
        | Call::Instances
        | Call::Remembered { .. }
        | Call::CleanUp { .. } => {
            body.deserialize::<Vec<Dict<'_>>>().map(|leases| leases.iter().map(object).collect())
        }
        Call::Forget { .. } => {
            body.deserialize::<u32>().map(|count| serde_json::json!({"forgotten": count}))
        }
        Call::Configuration { .. } => {
            body.deserialize::<String>().map(|text| serde_json::from_str(&text).unwrap_or_default())
        }
        Call::Reload => body
            .deserialize::<Vec<String>>()
            .map(|problems| serde_json::json!({"problems": problems})),
        Call::Restart => body
            .deserialize::<bool>()
            .map(|restarting| serde_json::json!({"restarting": restarting})),
        Call::SetAutoAllocation { enabled } => Ok(serde_json::json!({"enabled": enabled})),
        Call::SetToken { .. } | Call::SetHold { .. } => Ok(serde_json::json!({})),
        Call::OpenPage { .. } => {
            body.deserialize::<String>().map(|secret| serde_json::json!({"secret": secret}))
        }
        Call::ReleaseMatching { .. } | Call::UndoAutoAllocation { .. } | Call::Restore { .. } => {
            body.deserialize::<u32>().map(|count| serde_json::json!({"released": count}))
        }
        Call::Lookup { .. }
        | Call::Check { .. }
        | Call::Renew { .. }
        | Call::Status
        | Call::TakeConfiguration { .. } => {
            body.deserialize::<Dict<'_>>().map(|result| object(&result))
        }
    };
    Ok(answer::checked(call, answer.map_err(unexpected)?)?)
}

/// Asks for a port and its bound socket.
pub(super) async fn call_for_socket(
    service_type: &str,
    options: &Fields,
    waiting: &Waiting,
) -> Result<(Json, OwnedFd), CallError> {
    let service = Service::any(waiting).await?;
    let body = (service_type, dbus::Dict(options.clone()));
    let reply = service.unless_it_fails(send(&service, "AllocateSocket", &body)).await?;
    let body = reply.body();
    let answer = body.deserialize::<(zbus::OwnedFd, u16, String, Dict<'_>)>();
    let (socket, _, _, lease) = answer.map_err(unexpected)?;
    Ok((answer::granted(object(&lease))?, socket.into()))
}

/// The session bus, if it answers and is of this network.
pub(super) async fn connect() -> Result<Connection, CallError> {
    match tokio::time::timeout(PATIENCE, surroundings::bus::connect()).await {
        Ok(Ok(bus)) if dbus::is_in_this_network(&bus).await => Ok(bus),
        Ok(Ok(_)) => Err(CallError::Unavailable(
            "the session bus is in another network namespace".to_owned(),
        )),
        Ok(Err(why)) => Err(CallError::Unavailable(why)),
        // No call has been sent yet.
        Err(_) => Err(CallError::Unavailable("the session bus does not answer".to_owned())),
    }
}

fn unexpected(error: zbus::Error) -> CallError {
    let message = format!("the service answered something unexpected: {error}");
    CallError::Failed(Failure::Unreachable(message))
}

async fn send<B>(service: &Service, method: &str, body: &B) -> Result<Message, CallError>
where
    B: serde::Serialize + zbus::wire::DynamicType,
{
    let Service { bus, name } = service;
    let reply = bus.call_method(Some(name.as_str()), PATH, Some(NAME), method, body).await;
    reply.map_err(trouble::of_call)
}

pub(super) fn object(dict: &Dict<'_>) -> Json {
    let fields = dict.iter().map(|(key, value)| (key.clone(), json(value)));
    Json::Object(fields.collect::<Map<_, _>>())
}

fn json(value: &Variant<'_>) -> Json {
    match value {
        Variant::Bool(value) => (*value).into(),
        Variant::U16(value) => (*value).into(),
        Variant::U32(value) => (*value).into(),
        Variant::U64(value) => (*value).into(),
        Variant::Str(value) => value.as_str().into(),
        Variant::Variant(value) => json(value),
        Variant::Array(values) => values.iter().map(json).collect(),
        Variant::Dict(fields) => {
            let fields = fields.iter().filter_map(|(key, value)| match key {
                Variant::Str(key) => Some((key.to_string(), json(value))),
                _ => None,
            });
            Json::Object(fields.collect())
        }
        other => other.to_string().into(),
    }
}
