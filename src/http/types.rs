//! The HTTP requests about service types and the configuration.

use std::sync::Arc;

use axum::{
    Extension, Json,
    body::Bytes,
    extract::{Path, State, rejection::BytesRejection},
    response::{IntoResponse, Response},
};
use serde_json::json;

use super::{
    routes::{Answer, Failure, Parameters, Part, Success, read_options, read_query},
    v1::service_types,
};
use crate::{
    broker::Broker,
    config::Seen,
    error::Error,
    lease::Client,
    request::{AllocateRequest, mismatch, unknown},
    value::{Fields, Value},
};

/// How many ports are suggested if a request does not say how many.
const SUGGESTIONS: u64 = 5;

pub(super) async fn types(State(broker): State<Arc<Broker>>) -> Result<Response, Failure> {
    let types = broker.service_types()?;
    Ok(Json(json!({"success": true, "service_types": types})).into_response())
}

pub(super) async fn undo(
    State(broker): State<Arc<Broker>>,
    Extension(client): Extension<Client>,
    service_type: Part,
    query: Parameters,
) -> Answer {
    let Path(service_type) = service_type?;
    let mut force = false;
    for (key, value) in read_query(query?)? {
        match (key.as_str(), value) {
            ("force", Value::Bool(flag)) => force = flag,
            ("force", other) => return Err(mismatch(&key, "true or false", &other).into()),
            _ => return Err(unknown("parameter", &key, &["force"]).into()),
        }
    }
    let released = broker.undo_auto_allocation(&service_type.parse()?, force, &client).await?;
    let mut fields = Fields::default();
    fields.put("released", released);
    Ok(Success(fields))
}

pub(super) async fn suggest(
    State(broker): State<Arc<Broker>>,
    service_type: Part,
    query: Parameters,
) -> Result<Response, Failure> {
    let Path(service_type) = service_type?;
    let mut options = read_query(query?)?;
    if options.iter().all(|(key, _)| key != "count") {
        options.push(("count".to_owned(), Value::U64(SUGGESTIONS)));
    }
    let request = AllocateRequest::parse(&service_type, options)?;
    let suggestions = broker.suggest(&request)?;
    let ports: Vec<_> = suggestions.iter().map(|suggestion| suggestion.port.get()).collect();
    let details: Vec<_> = suggestions.iter().map(|suggestion| suggestion.fields()).collect();
    let message = format!("Found {} available port(s)", ports.len());
    let answer = json!({
        "success": true,
        "service_type": service_type,
        "count": ports.len(),
        "suggestions": ports,
        "details": details,
        "message": message,
    });
    Ok(Json(answer).into_response())
}

pub(super) async fn config(
    State(broker): State<Arc<Broker>>,
    query: Parameters,
) -> Result<Response, Failure> {
    let mut origins = false;
    for (key, value) in read_query(query?)? {
        match (key.as_str(), value) {
            ("origins", Value::Bool(flag)) => origins = flag,
            ("origins", other) => return Err(mismatch(&key, "true or false", &other).into()),
            _ => return Err(unknown("parameter", &key, &["origins"]).into()),
        }
    }
    let config = broker.configuration(origins);
    let types = service_types(&config);
    let answer = json!({"success": true, "configuration": config, "service_types": types});
    Ok(Json(answer).into_response())
}

pub(super) async fn set_auto_allocation(
    State(broker): State<Arc<Broker>>,
    Extension(client): Extension<Client>,
    body: Result<Bytes, BytesRejection>,
) -> Answer {
    let mut enabled = None;
    for (key, value) in read_options(&body?, &["enabled"])? {
        match (key.as_str(), value) {
            ("enabled", Value::Bool(flag)) => enabled = Some(flag),
            ("enabled", other) => return Err(mismatch(&key, "true or false", &other).into()),
            _ => return Err(unknown("option", &key, &["enabled"]).into()),
        }
    }
    let enabled = enabled.ok_or_else(|| {
        Error::invalid("enabled is missing").suggest("send {\"enabled\": true}, or false")
    })?;
    broker.set_auto_allocation(enabled, &client).await?;
    let mut fields = Fields::default();
    fields.put("enabled", enabled);
    Ok(Success(fields))
}

pub(super) async fn backups(State(broker): State<Arc<Broker>>) -> Result<Response, Failure> {
    let backups = broker.config_backups()?;
    let backups: Vec<_> = backups.iter().map(|backup| backup.fields()).collect();
    Ok(Json(json!({"success": true, "backups": backups})).into_response())
}

pub(super) async fn restore(
    State(broker): State<Arc<Broker>>,
    Extension(client): Extension<Client>,
    body: Result<Bytes, BytesRejection>,
) -> Answer {
    let (mut version, mut force) = (None, false);
    for (key, value) in read_options(&body?, &["version", "force"])? {
        match (key.as_str(), value) {
            ("version", Value::U64(number)) => version = u32::try_from(number).ok(),
            ("version", other) => return Err(mismatch(&key, "a whole number", &other).into()),
            ("force", Value::Bool(flag)) => force = flag,
            ("force", other) => return Err(mismatch(&key, "true or false", &other).into()),
            _ => return Err(unknown("option", &key, &["version", "force"]).into()),
        }
    }
    let version = version.ok_or_else(|| {
        Error::invalid("version is missing").suggest("GET /config/backups shows the versions")
    })?;
    let mut fields = Fields::default();
    fields.put("released", broker.restore_config(version, force, &client).await?);
    Ok(Success(fields))
}

/// Takes the configuration as a command sees it.
pub(super) async fn seen(
    State(broker): State<Arc<Broker>>,
    Extension(client): Extension<Client>,
    body: Result<Bytes, BytesRejection>,
) -> Answer {
    let seen = Seen::parse(&body?).map_err(|error| {
        Error::invalid(format!("the body does not say what is seen of a configuration: {error}"))
    })?;
    Ok(Success(broker.take_configuration(seen, &client).await?))
}

pub(super) async fn reload(
    State(broker): State<Arc<Broker>>,
    Extension(client): Extension<Client>,
) -> Answer {
    let mut fields = Fields::default();
    fields.put("problems", broker.reload(Some(&client)).await?);
    Ok(Success(fields))
}
