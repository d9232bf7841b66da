//! Registered instances, as 1.x had them: they last until the next boot, unless they are those of a process.

use std::sync::Arc;

use axum::{
    Extension, Json,
    body::Bytes,
    extract::{Path, State, rejection::BytesRejection},
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use serde_json::{Map, Value as Body, json};

use super::super::routes::{Failure, Part};
use crate::{
    broker::{Broker, Caller, Registered},
    error::Error,
    request::{InstanceRequest, OwnerRequest},
};

/// The most bytes of JSON that an instance may say of itself.
const LARGEST_METADATA: usize = 2_000;

/// What an instance says of itself. 1.x took `service_type` and `port` from its own clients and ignored them.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Registration {
    instance_id: Option<String>,
    pid: Option<u32>,
    #[serde(alias = "project_path")]
    working_directory: Option<String>,
    metadata: Option<Map<String, Body>>,
    #[expect(dead_code, reason = "it is accepted")]
    service_type: Option<String>,
    #[expect(dead_code, reason = "it is accepted")]
    port: Option<u16>,
}

impl Registration {
    fn parse(body: &[u8]) -> Result<Self, Error> {
        serde_json::from_slice(body)
            .map_err(|error| Error::invalid(format!("the body is no registration: {error}")))
    }

    /// Registers the instance by this name.
    async fn carry_out(
        self,
        instance_id: &str,
        owner: OwnerRequest,
        message: &str,
        broker: &Broker,
        caller: &Caller,
    ) -> Result<Response, Failure> {
        let metadata = self.metadata.filter(|metadata| !metadata.is_empty());
        if metadata.as_ref().is_some_and(|known| json!(known).to_string().len() > LARGEST_METADATA)
        {
            let message = format!("metadata has more than {LARGEST_METADATA} bytes");
            return Err(Error::invalid(message).into());
        }
        let request = InstanceRequest {
            instance_id: instance_id.parse()?,
            owner,
            heartbeat: None,
            working_directory: self.working_directory.map(|path| path.parse()).transpose()?,
            metadata,
        };
        broker.register_instance(&request, caller).await?;
        let answer = json!({"success": true, "instance_id": instance_id, "message": message});
        Ok(Json(answer).into_response())
    }
}

/// Registers an instance for good.
pub(in crate::http) async fn register(
    State(broker): State<Arc<Broker>>,
    Extension(caller): Extension<Caller>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Failure> {
    let registration = Registration::parse(&body?)?;
    let Some(instance_id) = registration.instance_id.clone() else {
        return Err(Error::invalid("instance_id is required").into());
    };
    let message = format!("Instance {instance_id} registered");
    registration.carry_out(&instance_id, OwnerRequest::None, &message, &broker, &caller).await
}

/// Registers an instance by its name, or as that of a process, with which it ends.
pub(in crate::http) async fn register_process(
    State(broker): State<Arc<Broker>>,
    Extension(caller): Extension<Caller>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Failure> {
    let registration = Registration::parse(&body?)?;
    let (instance_id, owner) = match (registration.instance_id.clone(), registration.pid) {
        (Some(instance_id), _) => (instance_id, OwnerRequest::None),
        (None, Some(pid)) => (format!("ldpreload-{pid}"), OwnerRequest::Pid(pid)),
        (None, None) => {
            let message = "instance_id is required (or provide pid for auto-generation)";
            return Err(Error::invalid(message).into());
        }
    };
    let message = "Instance registered successfully";
    registration.carry_out(&instance_id, owner, message, &broker, &caller).await
}

pub(in crate::http) async fn heartbeat(
    State(broker): State<Arc<Broker>>,
    instance_id: Part,
) -> Result<Response, Failure> {
    let Path(instance_id) = instance_id?;
    let at = broker.heartbeat(&instance_id.parse()?)?;
    let answer =
        json!({"success": true, "instance_id": instance_id, "last_heartbeat": at.to_string()});
    Ok(Json(answer).into_response())
}

pub(in crate::http) async fn list(State(broker): State<Arc<Broker>>) -> Result<Response, Failure> {
    let instances = broker.registered()?;
    let instances = instances.iter().map(|Registered { instance, heard, ports }| {
        json!({
            "instance_id": instance.instance_id.as_str(),
            "working_directory": instance.working_directory,
            "registered_at": instance.since.to_string(),
            "last_heartbeat": heard.to_string(),
            "active_allocations": ports.iter().map(|port| port.get()).collect::<Vec<_>>(),
            "metadata": instance.metadata.clone().unwrap_or_default(),
        })
    });
    let instances: Vec<_> = instances.collect();
    Ok(Json(json!({"success": true, "instances": instances})).into_response())
}
