//! The table of operations: the router, the answer to an unknown path and the `OpenAPI` document are made of it.

use std::sync::Arc;

use axum::{
    Router,
    extract::{DefaultBodyLimit, Request, State},
    handler::Handler,
    http::Method,
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{MethodFilter, MethodRouter, on},
};
use hyper::body::Body as _;

use super::{
    events, page,
    routes::{self, Failure, LARGEST_BODY, SEEN, TOKEN, read_options, too_large},
    types, v1,
};
use crate::{broker::Broker, error::Error, service_type::slips, word::shortened};

type Route = MethodRouter<Arc<Broker>>;

/// What a client can ask for.
pub(super) struct Operation {
    /// Its name in the document.
    #[cfg_attr(not(test), expect(dead_code, reason = "it is written down by a test"))]
    pub(super) id: &'static str,
    pub(super) method: Method,
    pub(super) path: &'static str,
    takes: Takes,
    route: fn(MethodFilter) -> Route,
}

/// Where an operation has its options. Others are refused, so that none is silently ignored.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Takes {
    Body,
    Query,
    Nothing,
}

/// Every operation. The paths of styxy 1.x that there is something newer for are the last ones.
pub(super) const OPERATIONS: [Operation; 47] = {
    use Takes::{Body, Nothing, Query};
    const GET: Method = Method::GET;
    const POST: Method = Method::POST;
    const PUT: Method = Method::PUT;
    const DELETE: Method = Method::DELETE;
    [
        op("allocate", POST, "/allocate", Body, |m| on(m, routes::allocate)),
        op("release", DELETE, "/allocate/{lock_id}", Nothing, |m| on(m, routes::release)),
        op("renew", PUT, "/allocate/{lock_id}/renew", Body, |m| on(m, routes::renew)),
        op("list", GET, "/leases", Query, |m| on(m, routes::list)),
        op("releaseMatching", DELETE, "/leases", Query, |m| on(m, routes::release_matching)),
        op("setHold", PUT, "/leases/{lease_id}/hold", Body, |m| on(m, routes::set_hold)),
        op("lookUp", GET, "/lookup", Query, |m| on(m, routes::look_up)),
        op("cleanUp", POST, "/cleanup", Body, |m| on(m, routes::clean_up)),
        op("listRemembered", GET, "/memory", Query, |m| on(m, routes::remembered)),
        op("forget", DELETE, "/memory", Query, |m| on(m, routes::forget)),
        op("listInstances", GET, "/instances", Nothing, |m| on(m, routes::instances)),
        op("registerInstance", PUT, "/instances/{instance_id}", Body, |m| on(m, routes::register)),
        op("heartbeat", POST, "/instances/{instance_id}/heartbeat", Nothing, |m| {
            on(m, routes::heartbeat)
        }),
        op("check", GET, "/check/{port}", Query, |m| on(m, routes::check)),
        op("suggest", GET, "/suggest/{service_type}", Query, |m| on(m, types::suggest)),
        op("events", GET, "/events", Nothing, |m| on(m, events::events)),
        op("audit", GET, "/audit", Query, |m| on(m, v1::audit)),
        op("status", GET, "/status", Nothing, |m| on(m, routes::status)),
        op("health", GET, "/health", Nothing, |m| on(m, v1::health)),
        op("metrics", GET, "/metrics", Query, |m| on(m, v1::metrics)),
        op("listTypes", GET, "/types", Nothing, |m| on(m, types::types)),
        op("undoType", DELETE, "/types/{service_type}", Query, |m| on(m, types::undo)),
        op("configuration", GET, "/config", Query, |m| on(m, types::config)),
        op("setAutoAllocation", PUT, "/config/auto-allocation", Body, |m| {
            on(m, types::set_auto_allocation)
        }),
        op("listBackups", GET, "/config/backups", Nothing, |m| on(m, types::backups)),
        op("restoreBackup", POST, "/config/restore", Body, |m| on(m, types::restore)),
        op("reload", POST, "/config/reload", Nothing, |m| on(m, types::reload)),
        op("takeConfiguration", PUT, SEEN, Body, |m| {
            on(m, types::seen.layer(DefaultBodyLimit::disable()))
        }),
        op("setToken", PUT, TOKEN, Body, |m| on(m, routes::set_token)),
        op("openPage", POST, page::OPEN, Body, |m| on(m, page::open)),
        op("beginSession", POST, page::SESSION, Body, |m| on(m, page::begin)),
        op("page", GET, page::INDEX, Nothing, |m| on(m, page::index)),
        op("pageScript", GET, page::SCRIPT, Nothing, |m| on(m, page::script)),
        op("pageStyle", GET, page::STYLE, Nothing, |m| on(m, page::style)),
        op("restart", POST, "/restart", Nothing, |m| on(m, routes::restart)),
        op("openapi", GET, "/openapi.json", Nothing, |m| on(m, routes::document)),
        op("listAllocations", GET, "/allocations", Query, |m| on(m, v1::allocations)),
        op("releaseAllocations", DELETE, "/allocations", Query, |m| {
            on(m, routes::release_matching)
        }),
        op("scan", GET, "/scan", Query, |m| on(m, v1::scan)),
        op("listRegistered", GET, "/instance/list", Nothing, |m| on(m, v1::list_instances)),
        op("register", POST, "/instance/register", Body, |m| on(m, v1::register)),
        op("putHeartbeat", PUT, "/instance/{instance_id}/heartbeat", Nothing, |m| {
            on(m, v1::heartbeat)
        }),
        op("registerProcess", POST, "/register-instance", Body, |m| on(m, v1::register_process)),
        op("observeAll", GET, "/observe/all", Nothing, |m| on(m, v1::observe_all)),
        op("observe", GET, "/observe/{port}", Nothing, |m| on(m, v1::observe)),
        op("observationStats", GET, "/observation-stats", Nothing, |m| {
            on(m, v1::observation_stats)
        }),
        op("circuitBreakers", GET, "/circuit-breakers", Nothing, |m| on(m, v1::circuit_breakers)),
    ]
};

const fn op(
    id: &'static str,
    method: Method,
    path: &'static str,
    takes: Takes,
    route: fn(MethodFilter) -> Route,
) -> Operation {
    Operation { id, method, path, takes, route }
}

/// The routes of all operations.
pub(super) fn router() -> Router<Arc<Broker>> {
    OPERATIONS.iter().fold(Router::new(), |router, operation| {
        let method = MethodFilter::try_from(operation.method.clone());
        let route = (operation.route)(method.expect("the methods of the table are known"));
        let route = match operation.takes {
            Takes::Body => {
                let hint = "send options as a JSON object in the body";
                route.route_layer(middleware::from_fn_with_state(hint, refuse_query))
            }
            Takes::Query => {
                let hint = "send options as parameters: ?key=value";
                route.route_layer(middleware::from_fn_with_state(hint, refuse_body))
            }
            Takes::Nothing => {
                let (no_body, no_query) = ("send no body", "leave out the ? and what follows it");
                route
                    .route_layer(middleware::from_fn_with_state(no_body, refuse_body))
                    .route_layer(middleware::from_fn_with_state(no_query, refuse_query))
            }
        };
        router.route(operation.path, route)
    })
}

/// The paths that are most similar to an unknown one, the nearest first; at most three.
pub(super) fn similar(path: &str) -> Vec<&'static str> {
    let difference = |known| Some((difference(path, known)?, known));
    let mut paths: Vec<_> = OPERATIONS.iter().filter_map(|known| difference(known.path)).collect();
    paths.sort_unstable();
    paths.dedup();
    paths.into_iter().map(|(_, path)| path).take(3).collect()
}

/// The methods that a known path takes.
pub(super) fn methods(path: &str) -> Vec<String> {
    let takes = |known: &&Operation| difference(path, known.path) == Some(0);
    OPERATIONS.iter().filter(takes).map(|known| known.method.to_string()).collect()
}

/// How different a path is from a known one, in which a part in braces stands for anything; `None` if it is not similar.
/// A part too many, or one that is missing, is a greater difference than a typing error.
fn difference(path: &str, known: &str) -> Option<usize> {
    const PART: usize = 10;
    let mut rest = path.split('/').filter(|part| !part.is_empty());
    let mut known = known.split('/').filter(|part| !part.is_empty());
    let mut difference = slips(rest.next()?, known.next()?)?;
    loop {
        difference += match (rest.next(), known.next()) {
            (None, None) => return Some(difference),
            (Some(_), Some(part)) if part.starts_with('{') => 0,
            (Some(part), Some(known)) => slips(part, known)?,
            (Some(_), None) | (None, Some(_)) => PART,
        };
    }
}

async fn refuse_query(State(hint): State<&'static str>, request: Request, next: Next) -> Response {
    if request.uri().query().is_none_or(str::is_empty) {
        return next.run(request).await;
    }
    let error = Error::invalid(format!("{} takes no parameters", named(&request)));
    Failure::from(error.suggest(hint)).into_response()
}

async fn refuse_body(State(hint): State<&'static str>, request: Request, next: Next) -> Response {
    if request.body().is_end_stream() {
        return next.run(request).await;
    }
    let name = named(&request);
    let (parts, body) = request.into_parts();
    let Ok(bytes) = axum::body::to_bytes(body, LARGEST_BODY).await else {
        return too_large(LARGEST_BODY).into_response();
    };
    // Some clients always send an object, even without options.
    match read_options(&bytes, &[]) {
        Ok(options) if options.is_empty() => {
            next.run(Request::from_parts(parts, axum::body::Body::empty())).await
        }
        _ => {
            let error = Error::invalid(format!("{name} takes no body"));
            Failure::from(error.suggest(hint)).into_response()
        }
    }
}

/// The method and the path of a request, for messages.
fn named(request: &Request) -> String {
    format!("{} {}", shortened(request.method().as_str()), shortened(request.uri().path()))
}
