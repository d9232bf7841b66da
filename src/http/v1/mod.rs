//! What clients of styxy 1.x (Node.js) know: its paths, and the keys of its answers, beside those of today. docs/compatibility.md says
//! what is different, and tests/v1 has requests and their answers.
//!
//! Some of them are shell scripts that look for `"port":[0-9]*` and `"lock_id":"[^"]*"`: JSON stays compact, and the answer
//! to a request for a port has each of the two once.
//!
//! - `audit`: past events
//! - `instances`: registered instances
//! - `metrics`: what is counted
//! - `sockets`: what listens on ports
//! - this file: leases, service types, and how the service is doing

mod audit;
mod instances;
mod metrics;
mod sockets;

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde_json::{Value as Body, json};

pub(super) use self::{
    audit::audit,
    instances::{heartbeat, list as list_instances, register, register_process},
    metrics::metrics,
    sockets::{observation_stats, observe, observe_all, put_usage, scan},
};
use super::routes::{Failure, Parameters, Success, read_query};
use crate::{
    broker::{
        Broker,
        grant::{Granted, Outcome},
    },
    error::{Error, ErrorKind},
    request::{Listing, port},
    time::Timestamp,
    value::{Fields, Value},
    word::shortened,
};

/// What clients expect as the name of a service and of an instance where a lease has none: they take both for texts.
const NO_NAME: &str = "unnamed-service";
const NO_INSTANCE: &str = "default";

// ---- leases ------------------------------------------------------------------------------------------------------

/// What clients of 1.x send, as it is meant; what must be left out of it, in words.
pub(super) fn take_options(options: &mut Vec<(String, Value)>) -> Result<Option<String>, Error> {
    take_preferred_port(options)?;
    let mut note = None;
    options.retain(|(key, value)| match (key.as_str(), value) {
        // Scripts send variables that are not set.
        ("service_name" | "instance_id" | "project_path", Value::Str(text)) if text.is_empty() => {
            false
        }
        // The command names itself where no agent calls it.
        ("instance_id", Value::Str(text)) => text != "cli",
        // 1.x never looked at it. Who sends it knows where it is, and the service does not.
        ("project_path", Value::Str(path)) if !path.starts_with('/') => {
            note = Some(format!(
                "the project_path {:?} is relative, so that the lease belongs to no project",
                shortened(path)
            ));
            false
        }
        _ => true,
    });
    Ok(note)
}

/// What 1.x said of a refusal beside its reason.
pub(super) fn context(error: &Error) -> Body {
    let category = match error.kind {
        ErrorKind::InvalidArgument => "VALIDATION",
        ErrorKind::UnknownServiceType
        | ErrorKind::AutoAllocationDisabled
        | ErrorKind::ConfigurationDiffers => "CONFIGURATION",
        ErrorKind::PortInUse | ErrorKind::PoolExhausted | ErrorKind::LimitExceeded => "RESOURCE",
        _ => "SYSTEM",
    };
    let suggestions = &error.suggestions;
    json!({"suggestions": suggestions, "help_url": null, "category": category, "severity": "ERROR"})
}

/// Renames what 1.x calls `preferred_port`: a number, or a text with its decimal digits.
fn take_preferred_port(options: &mut [(String, Value)]) -> Result<(), Error> {
    let is_named = |name: &str| options.iter().any(|(key, _)| key == name);
    if !is_named("preferred_port") {
        return Ok(());
    }
    if is_named("port") {
        return Err(Error::invalid("preferred_port and port are the same: give one of them"));
    }
    for (key, value) in options {
        if key == "preferred_port" {
            if let Value::Str(digits) = value
                && let Ok(number) = digits.parse()
            {
                *value = Value::U64(number);
            }
            port(key, value)?;
            "port".clone_into(key);
        }
    }
    Ok(())
}

/// The answer to `POST /allocate`.
pub(super) fn granted(broker: &Broker, granted: &Granted) -> Response {
    let lease = &granted.lease;
    let (port, service_type) = (lease.port, &lease.service_type);
    let mut fields = granted.fields();
    if granted.outcome != Outcome::DryRun {
        fields.put("lock_id", lease.lease_id.to_string());
    }
    let automatic =
        broker.automatic_range(lease).map(|(range, placement)| (range, Some(placement)));
    if let Some((range, placement)) = automatic.or(granted.created.map(|range| (range, None))) {
        if granted.created.is_none() {
            fields.put("auto_allocated", true);
        }
        fields.put("allocated_range", vec![range.first().get(), range.last().get()]);
        fields.put("chunk_size", u32::try_from(range.len()).unwrap_or(u32::MAX));
        fields.put_some("placement", placement.map(|placement| placement.as_str()));
    }
    let message = match granted.outcome {
        Outcome::New => format!("Port {port} allocated for {service_type} service"),
        Outcome::DryRun => format!("Port {port} would be allocated (dry run mode)"),
        Outcome::Existing if granted.is_single => {
            format!("Service '{service_type}' only allows single instance")
        }
        Outcome::Existing => format!("Port {port} is allocated for {service_type} service already"),
    };
    fields.put("message", message);
    if granted.outcome == Outcome::New {
        return Success(fields).into_response();
    }
    let mut answer = json!(fields);
    answer["success"] = true.into();
    if granted.outcome == Outcome::Existing {
        answer["lockId"] = answer["lock_id"].clone();
        answer["existingInstanceId"] = or(&answer["instance_id"], NO_INSTANCE);
        answer["existingPid"] = answer["pid"].clone();
        answer["allocatedAt"] = lease.since.0.into();
    } else {
        answer["service_name"] = answer["service_name"].clone();
    }
    Json(answer).into_response()
}

/// The answer to `GET /allocations`.
pub(super) async fn allocations(
    State(broker): State<Arc<Broker>>,
    filter: Parameters,
) -> Result<Response, Failure> {
    let leases = broker.list(&Listing::parse(read_query(filter?)?)?)?;
    let allocations: Vec<_> = leases.iter().map(allocation).collect();
    Ok(Json(json!({"success": true, "allocations": allocations})).into_response())
}

/// A lease as 1.x shows it, whose keys were spelled in two ways.
fn allocation(lease: &Fields) -> Body {
    let mut shown = json!(lease);
    shown["service_name"] = or(&shown["service_name"], NO_NAME);
    shown["instance_id"] = or(&shown["instance_id"], NO_INSTANCE);
    for (key, another) in [
        ("lease_id", "lock_id"),
        ("lease_id", "lockId"),
        ("service_type", "serviceType"),
        ("service_name", "serviceName"),
        ("instance_id", "instanceId"),
        ("project_path", "project_path"),
        ("project_path", "projectPath"),
        ("pid", "process_id"),
        ("since", "allocated_at"),
    ] {
        shown[another] = shown[key].clone();
    }
    shown
}

fn or(value: &Body, missing: &str) -> Body {
    if value.is_null() { missing.into() } else { value.clone() }
}

// ---- the service -------------------------------------------------------------------------------------------------

/// The keys of `GET /status` that 1.x had.
pub(super) fn put_status(broker: &Broker, status: &mut Body) {
    status["status"] = "running".into();
    status["uptime"] = broker.uptime().as_secs_f64().into();
    status["allocations"] = status["leases"].clone();
    status["instances"] = broker.instance_count().into();
}

/// The service types of a configuration as `GET /config` has them: with the `range` that it calls `port_range`.
pub(super) fn service_types(configuration: &Body) -> Body {
    let types = configuration["service_types"].as_object().into_iter().flatten();
    let types = types.map(|(name, service_type)| {
        let or_empty = |key: &str| match &service_type[key] {
            Body::Null => json!([]),
            list => list.clone(),
        };
        let shown = json!({
            "description": service_type["description"],
            "examples": or_empty("examples"),
            "instance_behavior": service_type["instance_behavior"],
            "preferred_ports": or_empty("preferred_ports"),
            "range": service_type["port_range"],
        });
        (name.clone(), shown)
    });
    Body::Object(types.collect())
}

/// Whether ports can be granted: 200 if so, else 503.
pub(super) async fn health(State(broker): State<Arc<Broker>>) -> Response {
    // This is what opens the state again if it could not be used.
    let unusable = broker.instances().err().map(|error| error.message);
    let status = json!(broker.status());
    let problem = unusable.map_or_else(|| status["state_problem"].clone(), Body::from);
    let is_healthy = problem.is_null();
    let in_words = |is_good| if is_good { "healthy" } else { "unhealthy" };
    let mut warnings: Vec<_> =
        status["config_problems"].as_array().into_iter().flatten().cloned().collect();
    warnings.extend([problem.clone(), status["audit_note"].clone()]);
    warnings.retain(|warning| !warning.is_null());
    let answer = json!({
        "status": in_words(is_healthy),
        "timestamp": Timestamp::now().to_string(),
        "uptime": broker.uptime().as_secs_f64(),
        "version": status["version"],
        "system": {"pid": status["pid"], "platform": "linux"},
        "services": {
            "daemon": {
                "status": "healthy",
                "allocations": status["leases"],
                "instances": broker.instance_count(),
            },
            "state_manager": {"status": in_words(is_healthy), "problem": problem},
            "audit": {
                "status": if status["audit_confirmed"] == true { "healthy" } else { "warning" },
                "waiting": status["audit_pending"],
            },
        },
        "config": {"service_types_loaded": status["service_types"]},
        "warnings": warnings,
    });
    let code = if is_healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(answer)).into_response()
}

/// 1.x gave up asking other programs about ports after some failures. This service asks the kernel.
pub(super) async fn circuit_breakers() -> Response {
    Json(json!({"success": true, "circuit_breakers": {}})).into_response()
}
