//! Over HTTP on the socket.

use std::path::PathBuf;

use axum::body::{Body, to_bytes};
use hyper::{Method, Request, client::conn::http1, header::HeaderValue};
use hyper_util::rt::TokioIo;
use serde_json::{Value as Json, json};
use tokio::net::UnixStream;

use super::{Call, CallError, Failure, answer, skew, unit, waiting::Waiting};
use crate::{
    error::ErrorKind,
    http::OBSERVER,
    surroundings::{Door, user},
    value::{Fields, Value},
};

/// In bytes. A longer answer is not from the service.
const LONGEST_ANSWER: usize = 256 * 1024 * 1024;

/// Calls the service of this user; systemd may start it for that.
pub(super) async fn call(call: &Call, waiting: &Waiting) -> Result<Json, CallError> {
    // Where systemd listens, connecting starts the unit.
    let ask = |call| async move {
        unit::unless_it_fails(async { ask(&call, waiting, connect().await).await }).await
    };
    skew::ask(ask, call).await
}

/// Queries a running service without resetting its idle time.
pub(super) async fn observe(call: &Call) -> Result<Json, CallError> {
    let doors = user().doors().pop().into_iter();
    let (stream, _) = connect_to(doors).await.map_err(CallError::Unavailable)?;
    let mut request = request(call);
    request.headers_mut().insert(OBSERVER, HeaderValue::from_static("yes"));
    Ok(of_call(call, exchange(stream, request).await?)?)
}

/// Calls the service that listens beside the lock of the state, where only a running one does.
pub(super) async fn call_running(call: &Call, waiting: &Waiting) -> Result<Json, CallError> {
    ask(call, waiting, beside_the_state().await).await
}

/// Whether a service is running without a bus, although this command has one. It is asked to make room for one
/// with a bus: the sandbox of a unit does not show it a bus that appeared after its start.
pub(super) async fn is_served_without_a_bus() -> bool {
    let Some(status) = running_status().await else { return false };
    let (is_without, is_private) = (status["on_bus"] == false, status["private"] == true);
    if is_without
        && !is_private
        && let Ok((stream, _)) = beside_the_state().await
    {
        // If it stays, it serves as it is.
        let _ = exchange(stream, request(&Call::Restart)).await;
    }
    is_without
}

/// Whether a service is running without a bus.
pub(super) async fn is_off_the_bus() -> bool {
    running_status().await.is_some_and(|status| status["on_bus"] == false)
}

async fn running_status() -> Option<Json> {
    let (stream, _) = beside_the_state().await.ok()?;
    exchange(stream, request(&Call::Status)).await.ok()
}

/// Connects to where only a running service listens.
async fn beside_the_state() -> Result<(UnixStream, PathBuf), String> {
    connect_to(user().door_beside_the_state().into_iter()).await
}

async fn ask(
    call: &Call,
    waiting: &Waiting,
    connected: Result<(UnixStream, PathBuf), String>,
) -> Result<Json, CallError> {
    let (stream, path) = connected.map_err(CallError::Unavailable)?;
    waiting.on(format!("the service on {}", path.display()));
    Ok(of_call(call, exchange(stream, request(call)).await?)?)
}

fn of_call(call: &Call, mut answer: Json) -> Result<Json, Failure> {
    let mut answer = match part(call) {
        Some(part) => answer[part].take(),
        None => answer,
    };
    if let Json::Object(fields) = &mut answer {
        let only_there = only_over_http(call);
        fields.retain(|key, _| !only_there.contains(&key.as_str()));
        if matches!(call, Call::Allocate { .. }) {
            let has_range = fields.contains_key("port_range");
            fields.retain(|key, value| !value.is_null() && (has_range || key != "auto_allocated"));
        }
    }
    answer::checked(call, answer)
}

/// Connects to the first socket where a service of this user listens; else returns why there is none.
pub(super) async fn connect() -> Result<(UnixStream, PathBuf), String> {
    connect_to(user().doors().into_iter()).await
}

async fn connect_to(doors: impl Iterator<Item = Door>) -> Result<(UnixStream, PathBuf), String> {
    let mut closed = Vec::new();
    for door in doors {
        match door.connect().await {
            Ok(stream) => return Ok((stream, door.path())),
            Err(why) => closed.push(why.to_string()),
        }
    }
    closed.extend(user().runtime().err().map(str::to_owned));
    Err(closed.join("; "))
}

/// The keys of an answer that clients of styxy 1.x know: the same answer over the bus has none of them.
fn only_over_http(call: &Call) -> &'static [&'static str] {
    match call {
        Call::Allocate { .. } => &[
            "success",
            "lock_id",
            "lockId",
            "message",
            "allocated_range",
            "chunk_size",
            "placement",
            "existingInstanceId",
            "existingPid",
            "allocatedAt",
        ],
        Call::Release { .. } => &["success", "lock_id", "message"],
        Call::Check { .. } => &["success", "allocated_to", "system_usage"],
        Call::Status => &["success", "status", "uptime", "allocations", "instances"],
        _ => &["success"],
    }
}

/// The part of an answer that the call requested.
fn part(call: &Call) -> Option<&'static str> {
    match call {
        Call::List { .. } | Call::CleanUp { .. } => Some("leases"),
        Call::Instances => Some("instances"),
        Call::Remembered { .. } => Some("remembered"),
        Call::Suggest { .. } => Some("details"),
        Call::Types => Some("service_types"),
        Call::Configuration { .. } => Some("configuration"),
        Call::Backups => Some("backups"),
        _ => None,
    }
}

fn request(call: &Call) -> Request<Body> {
    let (method, path, body) = match call {
        Call::Allocate { service_type, options } => {
            let mut body = json!(options);
            body["service_type"] = json!(service_type);
            // No descriptor can be sent, so the process is named by its PID.
            if let Some(pid) = body.as_object_mut().and_then(|body| body.remove("pidfd")) {
                body["pid"] = pid;
            }
            (Method::POST, "/allocate".to_owned(), Body::from(body.to_string()))
        }
        Call::Release { lease_id } => {
            (Method::DELETE, format!("/allocate/{}", escape(lease_id)), Body::empty())
        }
        Call::Renew { lease_id, ttl } => {
            let body = ttl.map(|ttl| json!({"ttl": ttl}).to_string()).unwrap_or_default();
            (Method::PUT, format!("/allocate/{lease_id}/renew"), Body::from(body))
        }
        Call::SetHold { lease_id, hold } => {
            let body = json!({"hold": hold.as_str()}).to_string();
            (Method::PUT, format!("/leases/{lease_id}/hold"), Body::from(body))
        }
        Call::ReleaseMatching { filter } => {
            (Method::DELETE, format!("/leases{}", query(filter)), Body::empty())
        }
        Call::Forget { filter } => {
            (Method::DELETE, format!("/memory{}", query(filter)), Body::empty())
        }
        Call::Remembered { filter } => {
            (Method::GET, format!("/memory{}", query(filter)), Body::empty())
        }
        Call::List { filter } => (Method::GET, format!("/leases{}", query(filter)), Body::empty()),
        Call::Lookup { service } => {
            (Method::GET, format!("/lookup{}", query(service)), Body::empty())
        }
        Call::Check { port, protocol } => {
            (Method::GET, format!("/check/{port}?protocol={protocol}"), Body::empty())
        }
        Call::Suggest { service_type, options } => {
            let path = format!("/suggest/{}{}", escape(service_type), query(options));
            (Method::GET, path, Body::empty())
        }
        Call::Instances => (Method::GET, "/instances".to_owned(), Body::empty()),
        Call::CleanUp { older_than, dry_run } => {
            let body = json!({"older_than": older_than, "dry_run": dry_run}).to_string();
            (Method::POST, "/cleanup".to_owned(), Body::from(body))
        }
        Call::Types => (Method::GET, "/types".to_owned(), Body::empty()),
        Call::Status => (Method::GET, "/status".to_owned(), Body::empty()),
        Call::Restart => (Method::POST, "/restart".to_owned(), Body::empty()),
        Call::Configuration { origins } => {
            (Method::GET, format!("/config?origins={origins}"), Body::empty())
        }
        Call::Reload => (Method::POST, "/config/reload".to_owned(), Body::empty()),
        Call::TakeConfiguration { seen } => {
            (Method::PUT, "/config/seen".to_owned(), Body::from(json!(seen).to_string()))
        }
        Call::SetToken { sha256 } => {
            (Method::PUT, "/token".to_owned(), Body::from(json!({"sha256": sha256}).to_string()))
        }
        Call::OpenPage { temporary } => {
            let body = json!({"temporary": temporary}).to_string();
            (Method::POST, "/page".to_owned(), Body::from(body))
        }
        Call::SetAutoAllocation { enabled } => {
            let body = json!({"enabled": enabled}).to_string();
            (Method::PUT, "/config/auto-allocation".to_owned(), Body::from(body))
        }
        Call::UndoAutoAllocation { service_type, force } => {
            let path = format!("/types/{}?force={force}", escape(service_type));
            (Method::DELETE, path, Body::empty())
        }
        Call::Backups => (Method::GET, "/config/backups".to_owned(), Body::empty()),
        Call::Restore { version, force } => {
            let body = json!({"version": version, "force": force}).to_string();
            (Method::POST, "/config/restore".to_owned(), Body::from(body))
        }
    };
    Request::builder()
        .method(method)
        .uri(path)
        .header("host", "localhost")
        .header("content-type", "application/json")
        .body(body)
        .expect("an escaped path is a path")
}

/// Sends a request; the answer is all of its body.
async fn exchange(stream: UnixStream, request: Request<Body>) -> Result<Json, Failure> {
    let broken = |error: &dyn std::fmt::Display| {
        Failure::BrokenOff(format!("the service broke off: {error}"))
    };
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| broken(&error))?;
    let connection = tokio::spawn(connection);
    let answer = sender.send_request(request).await.map_err(|error| broken(&error))?;
    let is_success = answer.status().is_success();
    let body = to_bytes(Body::new(answer.into_body()), LONGEST_ANSWER).await;
    connection.abort();
    let answer: Json = body
        .map_err(|error| broken(&error))
        .and_then(|body| serde_json::from_slice(&body).map_err(|error| broken(&error)))?;
    if !is_success {
        let text = |key: &str| answer[key].as_str().map(str::to_owned);
        let kind = text("code").and_then(|code| ErrorKind::from_code(&code));
        let mut message = text("error").unwrap_or_else(|| "the service refused".to_owned());
        let suggestions = answer["suggestions"].as_array().into_iter().flatten();
        let suggestions: Vec<_> =
            suggestions.filter_map(|text| text.as_str().map(str::to_owned)).collect();
        if let Some(first) = suggestions.first() {
            message = format!("{message}; {first}");
        }
        return Err(Failure::Refused { kind, message, suggestions });
    }
    Ok(answer)
}

fn query(filter: &Fields) -> String {
    let mut query = String::new();
    for (key, value) in &filter.0 {
        let value = match value {
            Value::Str(text) => escape(text),
            other => json!(other).to_string(),
        };
        let separator = if query.is_empty() { '?' } else { '&' };
        query.extend([separator.to_string().as_str(), key, "=", &value]);
    }
    query
}

/// Percent-encoding of everything but the unreserved characters (RFC 3986).
fn escape(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                char::from(byte).to_string()
            }
            byte => format!("%{byte:02X}"),
        })
        .collect()
}
