//! The `OpenAPI` document (version 3.1, whose schemas are JSON Schema): made of the table of operations and of the types of
//! their options and answers. The tests compare it with what ships, and every answer that a test gets with it.
//!
//! - `requests`: the options
//! - `answers`: the answers
//! - `words`: texts with rules

mod answers;
mod requests;
mod words;

use std::{collections::BTreeSet, env, fs, path::Path};

use schemars::{JsonSchema, Schema, SchemaGenerator, generate::SchemaSettings};
use serde::Serialize as _;
use serde_json::{
    Map, Value as Json, json,
    ser::{PrettyFormatter, Serializer},
};

use super::operations::{OPERATIONS, Operation};

/// What is not in the table.
struct Description {
    summary: &'static str,
    query: Option<Schema>,
    body: Option<Schema>,
    /// By media type.
    answers: Vec<(&'static str, Schema)>,
}

/// What an operation does, and its types.
#[expect(clippy::too_many_lines, reason = "it is a table")]
fn description(id: &str, schemas: &mut SchemaGenerator) -> Description {
    macro_rules! description {
        ($summary:literal, query $query:ty, $answer:ty) => {
            Description {
                summary: $summary,
                query: Some(<$query>::json_schema(schemas)),
                body: None,
                answers: vec![("application/json", schemas.subschema_for::<$answer>())],
            }
        };
        ($summary:literal, body $body:ty, $answer:ty) => {
            Description {
                summary: $summary,
                query: None,
                body: Some(schemas.subschema_for::<$body>()),
                answers: vec![("application/json", schemas.subschema_for::<$answer>())],
            }
        };
        ($summary:literal, $answer:ty) => {
            Description {
                summary: $summary,
                query: None,
                body: None,
                answers: vec![("application/json", schemas.subschema_for::<$answer>())],
            }
        };
    }
    let text = |description: &str| {
        Schema::try_from(json!({"type": "string", "description": description})).unwrap()
    };
    let file = |summary, media_type| Description {
        summary,
        query: None,
        body: None,
        answers: vec![(media_type, text(summary))],
    };
    match id {
        "allocate" => {
            description!("Lease a free port", body requests::Allocate, answers::Granted)
        }
        "release" => description!("End a lease", answers::Released),
        "renew" => {
            description!("Restart the time limit of a lease", body requests::Renew, answers::Renewed)
        }
        "setHold" => description!(
            "Set who keeps the port of a lease bound", body requests::SetHold, answers::Done
        ),
        "list" => description!("List leases", query requests::List, answers::Leases),
        "releaseMatching" | "releaseAllocations" => {
            description!("End every lease that matches all keys", query requests::Release, answers::ReleasedSome)
        }
        "lookUp" => description!(
            "Look up the lease of a service of a project", query requests::LookUp, answers::LookedUp
        ),
        "cleanUp" => description!(
            "End leases that nobody seems to need", body requests::CleanUp, answers::CleanedUp
        ),
        "listRemembered" => description!(
            "List the ports that are remembered for services of projects",
            query requests::ListRemembered, answers::AllRemembered
        ),
        "forget" => description!(
            "Forget remembered ports that match all keys", query requests::OfMemory, answers::Forgotten
        ),
        "listInstances" => description!("List registered agents", answers::Instances),
        "registerInstance" => description!(
            "Register an agent", body requests::RegisterInstance, answers::InstanceRegistered
        ),
        "heartbeat" => description!("Report that an agent is alive", answers::Done),
        "check" => description!(
            "Check whether a port is free, and who has it", query requests::Check, answers::Checked
        ),
        "suggest" => description!(
            "Suggest the ports that the next requests would get",
            query requests::Suggest, answers::Suggestions
        ),
        "events" => Description {
            summary: "Follow changes as they happen, as server-sent events",
            query: None,
            body: None,
            answers: vec![(
                "text/event-stream",
                text(
                    "First ready, then lease_granted, lease_released, lease_orphaned, lease_changed, instance_added, \
                      instance_removed, service_type_added and service_type_removed, with the number of the change as id. \
                      reset: changes were missed; list again",
                ),
            )],
        },
        "audit" => description!("List past events", query requests::Audit, answers::Events),
        "status" => description!("Show the state of the service", answers::Status),
        "health" => description!("Check whether ports can be granted", answers::Health),
        "metrics" => {
            let mut metrics =
                description!("Show the metrics", query requests::Metrics, answers::Counted);
            for (media_type, format) in [
                ("text/plain", "The text format of Prometheus, 0.0.4"),
                ("application/openmetrics-text", "OpenMetrics 1.0"),
            ] {
                metrics.answers.push((media_type, text(format)));
            }
            metrics
        }
        "listTypes" => description!("List service types", answers::Types),
        "undoType" => description!(
            "Remove an automatic service type", query requests::Undo, answers::ReleasedSome
        ),
        "configuration" => description!(
            "Show the configuration in force", query requests::Configuration, answers::Configuration
        ),
        "setAutoAllocation" => description!(
            "Set whether unknown service types get a range of their own",
            body requests::SetAutoAllocation, answers::AutoAllocation
        ),
        "listBackups" => {
            description!("List earlier versions of the automatic service types", answers::Backups)
        }
        "restoreBackup" => description!(
            "Restore an earlier version of the automatic service types",
            body requests::RestoreBackup, answers::ReleasedSome
        ),
        "reload" => description!("Reload the configuration", answers::Reloaded),
        "takeConfiguration" => description!(
            "Pass on the configuration as the user sees it; for the command, on the Unix socket only",
            body words::Anything, answers::Taken
        ),
        "setToken" => description!(
            "Set the token, by its SHA-256; for the command, on the Unix socket only",
            body requests::SetToken, answers::Done
        ),
        "openPage" => description!(
            "Make a secret that opens the page; for the command, on the Unix socket only",
            body requests::OpenPage, answers::PageOpened
        ),
        "beginSession" => description!(
            "Begin the session of a page, and get its token for a secret",
            body requests::BeginSession, answers::SessionBegun
        ),
        "page" => file("Get the page for a browser", "text/html"),
        "pageScript" => file("Get the script of the page", "text/javascript"),
        "pageStyle" => file("Get the style sheet of the page", "text/css"),
        "restart" => description!(
            "End this service, if another program is to take its place",
            answers::Restarting
        ),
        "openapi" => description!("Get this document", answers::Document),
        "listAllocations" => description!(
            "styxy 1.x: list leases", query requests::List, answers::Allocations
        ),
        "scan" => description!(
            "styxy 1.x: list the ports of a range that are in use", query requests::Scan, answers::Scanned
        ),
        "listRegistered" => description!("styxy 1.x: list agents", answers::AllRegistered),
        "register" => description!(
            "styxy 1.x: register an agent", body requests::Registration, answers::WasRegistered
        ),
        "putHeartbeat" => {
            description!("styxy 1.x: report that an agent is alive", answers::Heard)
        }
        "registerProcess" => description!(
            "styxy 1.x: register an agent or a process", body requests::Registration, answers::WasRegistered
        ),
        "observeAll" => description!("styxy 1.x: list what listens on ports", answers::AllObserved),
        "observe" => description!("styxy 1.x: show what listens on a port", answers::Observed),
        "observationStats" => {
            description!("styxy 1.x: count what listens", answers::ObservationStats)
        }
        "circuitBreakers" => description!(
            "styxy 1.x: list circuit breakers, of which there are none",
            answers::CircuitBreakers
        ),
        _ => panic!("{id} is not described"),
    }
}

fn document() -> Json {
    let mut schemas = SchemaSettings::draft2020_12()
        .with(|settings| "/components/schemas".clone_into(settings.definitions_path.to_mut()))
        .into_generator();
    let mut paths = Map::new();
    for operation in &OPERATIONS {
        let description = description(operation.id, &mut schemas);
        let methods = paths.entry(operation.path).or_insert_with(|| json!({}));
        methods[operation.method.as_str().to_lowercase()] =
            described(operation, description, &mut schemas);
    }
    let refused = schemas.subschema_for::<answers::Refused>();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "styxy",
            "summary": env!("CARGO_PKG_DESCRIPTION"),
            "version": env!("CARGO_PKG_VERSION"),
            "license": {"name": "MIT or Apache 2.0", "identifier": env!("CARGO_PKG_LICENSE")},
        },
        "servers": [
            {"url": "http://127.0.0.1:9876", "description": "Over TCP, once `styxy http enable` was called: with the token in ~/.styxy/auth.token"},
            {"url": "http://localhost", "description": "On the Unix socket $XDG_RUNTIME_DIR/styxy/http.sock: without a token"},
        ],
        "security": [{"bearer": []}, {"key": []}, {}],
        "paths": paths,
        "components": {
            "schemas": schemas.take_definitions(true),
            "responses": {"Refused": {
                "description": "Nothing was changed; the answer says why, and what to do",
                "content": {"application/json": {"schema": refused}},
            }},
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            },
        },
    })
}

fn described(
    operation: &Operation,
    description: Description,
    schemas: &mut SchemaGenerator,
) -> Json {
    let mut parameters = Vec::new();
    for part in operation.path.split('/').filter_map(|part| part.strip_prefix('{')) {
        let name = part.trim_end_matches('}');
        let schema = match name {
            "lock_id" | "lease_id" => schemas.subschema_for::<words::Id>(),
            "instance_id" => schemas.subschema_for::<words::InstanceName>(),
            "service_type" => schemas.subschema_for::<words::TypeName>(),
            "port" => schemas.subschema_for::<crate::port::Port>(),
            _ => panic!("{name} is not described"),
        };
        parameters.push(json!({"name": name, "in": "path", "required": true, "schema": schema}));
    }
    if let Some(query) = description.query {
        let query = query.to_value();
        let required: BTreeSet<_> =
            query["required"].as_array().into_iter().flatten().filter_map(Json::as_str).collect();
        for (name, schema) in query["properties"].as_object().into_iter().flatten() {
            let is_required = required.contains(name.as_str());
            let mut schema = schema.clone();
            without_null(&mut schema);
            parameters.push(
                json!({"name": name, "in": "query", "required": is_required, "schema": schema}),
            );
        }
    }
    if operation.id == "events" {
        parameters.push(json!({
            "name": "Last-Event-ID", "in": "header", "required": false,
            "description": "The id of the last event that the client has received",
            "schema": {"type": "string"},
        }));
    }
    let content =
        |(media_type, schema): (&str, Schema)| (media_type.to_owned(), json!({"schema": schema}));
    let content: Map<_, _> = description.answers.into_iter().map(content).collect();
    let mut described = json!({
        "operationId": operation.id,
        "summary": description.summary,
        "parameters": parameters,
        "responses": {
            "200": {"description": "Done", "content": content},
            "default": {"$ref": "#/components/responses/Refused"},
        },
    });
    if let Some(body) = description.body {
        let name = body.get("$ref").and_then(Json::as_str).and_then(|name| name.rsplit('/').next());
        let schema = name.and_then(|name| schemas.definitions().get(name));
        let is_required = schema.is_some_and(|schema| schema.get("required").is_some());
        described["requestBody"] =
            json!({"required": is_required, "content": {"application/json": {"schema": body}}});
    }
    if ["status", "beginSession", "page", "pageScript", "pageStyle"].contains(&operation.id) {
        described["security"] = json!([{}]);
    }
    if operation.id == "health" {
        described["responses"]["503"] = described["responses"]["200"].clone();
        described["responses"]["503"]["description"] = "No port can be granted".into();
    }
    described
}

/// A parameter without a value is left out.
fn without_null(schema: &mut Json) {
    let Json::Object(fields) = schema else { return };
    if let Some(Json::Array(types)) = fields.get_mut("type") {
        types.retain(|name| name != "null");
    }
    if let Some(Json::Array(any)) = fields.get_mut("anyOf") {
        any.retain(|one| *one != json!({"type": "null"}));
    }
}

/// In lines, for people who look at the difference, and with little space: it is a part of the program.
fn spaced(document: &Json) -> String {
    let mut text = Vec::new();
    let spaces = PrettyFormatter::with_indent(b" ");
    document.serialize(&mut Serializer::with_formatter(&mut text, spaces)).unwrap();
    text.push(b'\n');
    String::from_utf8(text).unwrap()
}

#[test]
fn every_summary_says_what_a_request_does() {
    const VERBS: &str = " Begin Check Clean Count End Follow Forget Get Lease List Look Make Pass Register Reload \
        Remove Report Restart Restore Set Show Suggest ";
    let mut schemas = SchemaSettings::draft2020_12().into_generator();
    for operation in &OPERATIONS {
        let summary = description(operation.id, &mut schemas).summary;
        let words = summary.strip_prefix("styxy 1.x: ").unwrap_or(summary);
        let verb = words.split(' ').next().unwrap();
        let verb = verb[..1].to_uppercase() + &verb[1..];
        assert!(VERBS.contains(&format!(" {verb} ")), "{}: {summary}", operation.id);
    }
}

#[test]
fn the_document_that_ships_is_that_of_the_operations() {
    let document = spaced(&document());
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/openapi.json");
    if env::var_os("STYXY_WRITE_SCHEMA").is_some() {
        fs::write(path, document).unwrap();
    } else {
        let ships = fs::read_to_string(&path).unwrap();
        assert!(
            ships == document,
            "run this test with STYXY_WRITE_SCHEMA=1, and look at the difference"
        );
    }
}
