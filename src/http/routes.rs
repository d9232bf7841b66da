//! The HTTP requests. Every answer is JSON, including errors.

use std::{fmt, sync::Arc};

use axum::{
    Extension, Json, Router,
    body::Bytes,
    extract::{
        Path, Query, State,
        rejection::{BytesRejection, PathRejection, QueryRejection},
    },
    http::{Method, StatusCode, Uri, header::CONTENT_TYPE},
    middleware,
    response::{IntoResponse, Response},
};
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::{Value as Body, json};

use super::{bounds, connection::Peer, operations, v1};
use crate::{
    broker::{Broker, Caller},
    error::{Error, ErrorKind},
    lease::{Client, EndReason, LeaseId},
    port::{Port, Protocol},
    request::{
        AllocateRequest, Ending, Filter, InstanceRequest, Listing, LookupRequest, MemoryListing,
        once, unknown,
    },
    service_type::Hold,
    value::{Fields, Value},
    word::shortened,
};

/// The largest body, in bytes, except for [`SEEN`].
pub(super) const LARGEST_BODY: usize = 10_000;

/// The path where commands pass on the configuration as they see it: only its bodies may be larger.
pub(super) const SEEN: &str = "/config/seen";

/// The path where a command hands over the hash of the token for TCP.
pub(super) const TOKEN: &str = "/token";

/// See [`document`]. A test makes it of the operations and the types of their options and answers.
const DOCUMENT: &str = include_str!("../../config/openapi.json");

/// The default minimum age, in seconds, of the leases to clean up, which nobody seems to need. The same as that
/// of `styxy cleanup`, so that a server that is just being started keeps its port.
const CLEAN_UP_OLDER_THAN: u64 = 3_600;

/// A router that refuses every request.
pub(super) fn refusing(error: &Error) -> Router {
    let error = error.clone();
    Router::new().fallback(async move || Failure::from(error.clone()))
}

/// The routes.
pub fn router(broker: Arc<Broker>) -> Router {
    operations::router()
        .fallback(unknown_path)
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn(bounds::read_body))
        .with_state(broker)
}

pub(super) type Answer = Result<Success, Failure>;
/// A `Result`, because axum's own refusals are plain text.
pub(super) type Parameters = Result<Query<Vec<(String, String)>>, QueryRejection>;
pub(super) type Part = Result<Path<String>, PathRejection>;

pub(super) async fn allocate(
    State(broker): State<Arc<Broker>>,
    Extension(caller): Extension<Caller>,
    Extension(peer): Extension<Arc<Peer>>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Failure> {
    grant(&broker, &caller, &peer, body)
        .await
        .map_err(|failure| Failure { is_of_v1: true, ..failure })
}

async fn grant(
    broker: &Arc<Broker>,
    caller: &Caller,
    peer: &Peer,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Failure> {
    let (service_type, mut options) = read_body(&body?)?;
    let note = v1::take_options(&mut options)?;
    let request = AllocateRequest::parse(&service_type, options)?;
    if peer.has_hung_up() {
        return Err(nobody_reads());
    }
    let mut granted = broker.allocate(&request, caller, false).await?;
    if let Some(note) = note {
        granted.add_note(note);
    }
    if peer.has_hung_up() {
        broker.take_back(&granted.shares(), EndReason::NotDelivered);
        return Err(nobody_reads());
    }
    peer.answer(granted.shares());
    Ok(v1::granted(broker, &granted))
}

pub(super) async fn release(
    State(broker): State<Arc<Broker>>,
    Extension(client): Extension<Client>,
    lock_id: Part,
) -> Answer {
    let Path(lock_id) = lock_id?;
    let lease_id: LeaseId = lock_id.parse()?;
    let lease = broker.release(lease_id, &client)?;
    let mut fields = Fields::default();
    fields.put("port", lease.port.get());
    fields.put("lease_id", lease_id.to_string());
    fields.put("lock_id", lease_id.to_string());
    fields.put("message", format!("Port {} released", lease.port));
    Ok(Success(fields))
}

pub(super) async fn renew(
    State(broker): State<Arc<Broker>>,
    Extension(client): Extension<Client>,
    lock_id: Part,
    body: Result<Bytes, BytesRejection>,
) -> Answer {
    let Path(lock_id) = lock_id?;
    let mut ttl = None;
    for (key, value) in read_options(&body?, &["ttl"])? {
        let ("ttl", Value::U64(seconds)) = (key.as_str(), value) else {
            let message = "the body may have a ttl in whole seconds, and nothing else";
            return Err(Error::invalid(message).into());
        };
        ttl = Some(seconds);
    }
    Ok(Success(broker.renew(lock_id.parse()?, ttl, &client)?.fields()))
}

pub(super) async fn set_hold(
    State(broker): State<Arc<Broker>>,
    Extension(client): Extension<Client>,
    lease_id: Part,
    body: Result<Bytes, BytesRejection>,
) -> Answer {
    let Path(lease_id) = lease_id?;
    let options = read_options(&body?, &["hold"])?;
    let [(_, Value::Str(hold))] = &options[..] else {
        let message = "the body must have hold, \"client\" or \"guard\", and nothing else";
        return Err(Error::invalid(message).into());
    };
    let hold = Hold::of_live_lease(hold)?;
    broker.set_hold(lease_id.parse()?, hold, &client).await?;
    Ok(Success(Fields::default()))
}

pub(super) async fn release_matching(
    State(broker): State<Arc<Broker>>,
    Extension(client): Extension<Client>,
    filter: Parameters,
) -> Answer {
    let mut fields = Fields::default();
    let ending = Ending::parse(read_query(filter?)?)?;
    fields.put("released", broker.release_matching(&ending, &client)?);
    Ok(Success(fields))
}

pub(super) async fn clean_up(
    State(broker): State<Arc<Broker>>,
    Extension(client): Extension<Client>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Failure> {
    let (mut older_than, mut dry_run) = (CLEAN_UP_OLDER_THAN, false);
    for (key, value) in read_options(&body?, &["older_than", "force", "dry_run"])? {
        match (key.as_str(), value) {
            ("older_than", Value::U64(seconds)) => older_than = seconds,
            ("dry_run", Value::Bool(flag)) => dry_run = flag,
            ("force", Value::Bool(true)) => older_than = 0,
            ("force", Value::Bool(false)) => {}
            _ => {
                let message =
                    "the body may have older_than in seconds, force and dry_run, and nothing else";
                return Err(Error::invalid(message).into());
            }
        }
    }
    let leases = broker.clean_up(older_than, dry_run, &client)?;
    let leases: Vec<_> = leases.iter().map(|lease| lease.fields()).collect();
    let cleaned = if dry_run { 0 } else { leases.len() };
    let message = format!("Cleaned up {cleaned} stale allocations");
    let answer = json!({"success": true, "leases": leases, "cleaned": cleaned, "message": message});
    Ok(Json(answer).into_response())
}

pub(super) async fn forget(
    State(broker): State<Arc<Broker>>,
    Extension(client): Extension<Client>,
    filter: Parameters,
) -> Answer {
    let mut fields = Fields::default();
    fields
        .put("forgotten", broker.forget(Filter::of_memory(read_query(filter?)?)?, &client).await?);
    Ok(Success(fields))
}

pub(super) async fn remembered(
    State(broker): State<Arc<Broker>>,
    filter: Parameters,
) -> Result<Response, Failure> {
    let remembered = broker.remembered(&MemoryListing::parse(read_query(filter?)?)?)?;
    Ok(Json(json!({"success": true, "remembered": remembered})).into_response())
}

pub(super) async fn instances(State(broker): State<Arc<Broker>>) -> Result<Response, Failure> {
    let instances = broker.instances()?;
    Ok(Json(json!({"success": true, "instances": instances})).into_response())
}

pub(super) async fn register(
    State(broker): State<Arc<Broker>>,
    Extension(caller): Extension<Caller>,
    instance_id: Part,
    body: Result<Bytes, BytesRejection>,
) -> Answer {
    let Path(instance_id) = instance_id?;
    let options = read_options(&body?, &InstanceRequest::OPTIONS)?;
    let request = InstanceRequest::parse(&instance_id, options)?;
    Ok(Success(broker.register_instance(&request, &caller).await?.fields()))
}

pub(super) async fn heartbeat(State(broker): State<Arc<Broker>>, instance_id: Part) -> Answer {
    let Path(instance_id) = instance_id?;
    broker.heartbeat(&instance_id.parse()?)?;
    Ok(Success(Fields::default()))
}

pub(super) async fn list(
    State(broker): State<Arc<Broker>>,
    filter: Parameters,
) -> Result<Response, Failure> {
    let leases = broker.list(&Listing::parse(read_query(filter?)?)?)?;
    Ok(Json(json!({"success": true, "leases": leases})).into_response())
}

pub(super) async fn look_up(State(broker): State<Arc<Broker>>, service: Parameters) -> Answer {
    Ok(Success(broker.look_up(&LookupRequest::parse(read_query(service?)?)?)?))
}

/// The parameters of a query; an error if one is given twice. A query has only strings: what is a number or a
/// flag in a body is converted.
pub(super) fn read_query(
    Query(query): Query<Vec<(String, String)>>,
) -> Result<Vec<(String, Value)>, Error> {
    const FLAGS: [&str; 7] =
        ["claim", "create", "dry_run", "force", "origins", "strict", "use_claim"];
    let is_flag = |key: &str| FLAGS.contains(&key);
    let value = |key: &str, text: String| match (key, text.parse(), text.as_str()) {
        (
            "port" | "asked" | "count" | "ttl" | "pid" | "limit" | "after" | "before",
            Ok(number),
            _,
        ) => Value::U64(number),
        (key, _, "true") if is_flag(key) => Value::Bool(true),
        (key, _, "false") if is_flag(key) => Value::Bool(false),
        _ => Value::Str(text),
    };
    let values = query.into_iter().map(|(key, text)| {
        let value = value(&key, text);
        (key, value)
    });
    once(values.collect())
}

pub(super) async fn check(
    State(broker): State<Arc<Broker>>,
    port: Part,
    query: Parameters,
) -> Result<Response, Failure> {
    let Path(port) = port?;
    let port: Port = port.parse()?;
    let mut protocol = Protocol::default();
    for (key, value) in read_query(query?)? {
        match (key.as_str(), value) {
            // Empty means the default, as on the bus.
            ("protocol", Value::Str(text)) if text.is_empty() => {}
            ("protocol", Value::Str(text)) => protocol = text.parse()?,
            _ => return Err(unknown("parameter", &key, &["protocol"]).into()),
        }
    }
    let checked = broker.check(port, protocol)?;
    let mut answer = json!(checked);
    answer["success"] = true.into();
    let lease = match checked.get("lease") {
        Some(Value::Fields(lease)) => Some(lease),
        _ => None,
    };
    v1::put_usage(&broker, &mut answer, port, lease);
    Ok(Json(answer).into_response())
}

pub(super) async fn status(State(broker): State<Arc<Broker>>) -> Response {
    let mut status = json!(broker.status());
    status["success"] = true.into();
    status["transport"] = "http".into();
    v1::put_status(&broker, &mut status);
    Json(status).into_response()
}

/// The client has closed the connection: a grant would belong to nobody.
pub(super) fn nobody_reads() -> Failure {
    Error::invalid("the client has closed the connection before it was answered").into()
}

/// The refusal of a body that did not arrive completely in time.
pub(super) fn too_slow() -> Failure {
    Failure::new(
        StatusCode::REQUEST_TIMEOUT,
        ErrorKind::InvalidArgument.names().code,
        Error::invalid("the body did not come in time").suggest(
            "send as many bytes as Content-Length says, or close your side of the connection",
        ),
    )
}

/// The refusal of a body that cannot be read to its end.
pub(super) fn unreadable() -> Failure {
    Error::invalid("the body could not be read").into()
}

/// The refusal of a body with more than this many bytes.
pub(super) fn too_large(most: usize) -> Failure {
    Failure::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        ErrorKind::InvalidArgument.names().code,
        Error::invalid(format!("the body has more than {most} bytes")),
    )
}

pub(super) async fn restart(State(broker): State<Arc<Broker>>) -> Success {
    let mut fields = Fields::default();
    fields.put("restarting", broker.restart());
    Success(fields)
}

/// The document that describes all of this, in `OpenAPI` 3.1.
pub(super) async fn document() -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/json")], DOCUMENT.trim_end())
}

pub(super) async fn set_token(
    State(broker): State<Arc<Broker>>,
    Extension(client): Extension<Client>,
    body: Result<Bytes, BytesRejection>,
) -> Answer {
    let options = read_options(&body?, &["sha256"])?;
    let sha256 = match &options[..] {
        [(key, Value::Str(sha256))] if key == "sha256" => sha256,
        _ => {
            let message = "the body must have sha256, a string, and nothing else";
            return Err(Error::invalid(message).into());
        }
    };
    broker.set_token(sha256.parse()?, &client)?;
    Ok(Success(Fields::default()))
}

async fn unknown_path(uri: Uri) -> Failure {
    let path = shortened(uri.path());
    let mut error = Error::invalid(format!("there is no path {path:?}"));
    let similar = operations::similar(&path);
    if !similar.is_empty() {
        error = error.suggest(format!("did you mean {}?", similar.join(" or ")));
    }
    Failure::new(
        StatusCode::NOT_FOUND,
        "NotFound",
        error.suggest("GET /openapi.json describes all requests"),
    )
}

async fn wrong_method(method: Method, uri: Uri) -> Failure {
    let path = shortened(uri.path());
    Failure::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "MethodNotAllowed",
        Error::invalid(format!("{path} does not take {}", shortened(method.as_str())))
            .suggest(format!("it takes {}", operations::methods(uri.path()).join(", "))),
    )
}

/// The options of a body that may be empty. A null is ignored if its key is known: in many languages it means an
/// option that is not set.
pub(crate) fn read_options(body: &[u8], known: &[&str]) -> Result<Vec<(String, Value)>, Error> {
    if body.trim_ascii().is_empty() {
        return Ok(Vec::new());
    }
    let Object(options) = serde_json::from_slice(body).map_err(|error| not_an_object(&error))?;
    let (unset, set): (Vec<_>, Vec<_>) =
        once(options)?.into_iter().partition(|(_, value)| value.is_null());
    match unset.iter().find(|(key, _)| !known.contains(&key.as_str())) {
        Some((key, _)) => Err(unknown("option", key, known)),
        None => Ok(set.into_iter().map(|(key, value)| (key, from_json(value))).collect()),
    }
}

fn not_an_object(error: &serde_json::Error) -> Error {
    Error::invalid(match error.classify() {
        serde_json::error::Category::Data => "the body is not a JSON object".to_owned(),
        _ => format!("the body is not JSON: {error}"),
    })
}

/// A JSON object with every key that was sent, including duplicates.
struct Object(Vec<(String, Body)>);

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Object;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Object(fields))
            }
        }
        deserializer.deserialize_map(Fields)
    }
}

/// The service type and the options in the body of a request.
fn read_body(body: &[u8]) -> Result<(String, Vec<(String, Value)>), Error> {
    let example = "send an object such as {\"service_type\": \"dev\", \"service_name\": \"web\"}";
    let known = [&AllocateRequest::OPTIONS[..], &["service_type", "preferred_port", "config_seen"]];
    let mut options =
        read_options(body, &known.concat()).map_err(|error| error.suggest(example))?;
    let at = options.iter().position(|(key, _)| key == "service_type");
    match at.map(|at| options.remove(at).1) {
        Some(Value::Str(service_type)) => Ok((service_type, options)),
        Some(_) => Err(Error::invalid("service_type must be a string").suggest(example)),
        None => Err(Error::invalid("service_type is missing").suggest(example)),
    }
}

fn from_json(value: Body) -> Value {
    match value {
        Body::Bool(value) => Value::Bool(value),
        Body::String(text) => Value::Str(text),
        Body::Number(number) => {
            number.as_u64().map_or_else(|| Value::Other(number.to_string()), Value::U64)
        }
        Body::Array(_) => Value::Other("a list".to_owned()),
        Body::Object(_) => Value::Other("an object".to_owned()),
        Body::Null => Value::Other("null".to_owned()),
    }
}

/// An answer.
pub(super) struct Success(pub(super) Fields);

impl IntoResponse for Success {
    fn into_response(mut self) -> Response {
        self.0.0.insert(0, ("success", Value::Bool(true)));
        Json(self.0).into_response()
    }
}

/// A refusal.
pub(super) struct Failure {
    status: StatusCode,
    code: &'static str,
    error: Error,
    /// Whether clients of 1.x look for its keys.
    is_of_v1: bool,
}

impl Failure {
    pub(super) fn new(status: StatusCode, code: &'static str, error: Error) -> Self {
        Self { status, code, error, is_of_v1: false }
    }

    /// The refusal of a request that the journal does not answer at the moment.
    pub(super) fn no_journal(error: Error) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "JournalUnavailable", error)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let names = error.kind.names();
        let status = StatusCode::from_u16(names.status).unwrap_or(StatusCode::BAD_REQUEST);
        Self::new(status, names.code, error)
    }
}

impl From<PathRejection> for Failure {
    fn from(_: PathRejection) -> Self {
        Error::invalid("the path is not percent-encoded UTF-8").into()
    }
}

impl From<QueryRejection> for Failure {
    fn from(_: QueryRejection) -> Self {
        Error::invalid("the query is not of the form key=value&key=value").into()
    }
}

impl From<BytesRejection> for Failure {
    fn from(_: BytesRejection) -> Self {
        unreadable()
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let mut body = json!({
            "success": false,
            "code": self.code,
            "error": self.error.message,
            "suggestions": self.error.suggestions,
        });
        if self.is_of_v1 {
            body["context"] = v1::context(&self.error);
        }
        (self.status, Json(body)).into_response()
    }
}
