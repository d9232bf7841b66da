//! The page for a browser: its files, which are the same for everybody, and its sessions.
//!
//! There are no cookies, because a browser sends those to every port of a host. `styxy open` gets a secret over the
//! bus or the Unix socket, and hands it to the page in the fragment of its address, which no browser sends; the page exchanges it
//! for a token of its own.

use std::sync::Arc;

use axum::{
    Extension,
    body::Bytes,
    extract::{State, rejection::BytesRejection},
    http::{
        HeaderName, HeaderValue, Method,
        header::{
            CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ORIGIN, REFERRER_POLICY,
            X_CONTENT_TYPE_OPTIONS,
        },
        request::Parts,
    },
    response::{IntoResponse, Response},
};

use super::{
    access,
    routes::{Failure, Success, read_options},
};
use crate::{
    broker::Broker,
    error::Error,
    lease::Client,
    value::{Fields, Value},
};

/// The path where a command gets a secret, on the Unix socket only.
pub(super) const OPEN: &str = "/page";
/// The path where the page gets its token for a secret.
pub(super) const SESSION: &str = "/page/session";

pub(super) const INDEX: &str = "/";
pub(super) const SCRIPT: &str = "/page.js";
pub(super) const STYLE: &str = "/page.css";

/// Nothing from elsewhere, nothing inline, and nowhere in a frame. No text becomes markup (Trusted Types, W3C).
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'";

/// The headers of every file of the page.
const HEADERS: [(HeaderName, &str); 6] = [
    (CONTENT_SECURITY_POLICY, POLICY),
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    // After an upgrade the page must fit the service.
    (CACHE_CONTROL, "no-cache"),
];

pub(super) async fn index() -> impl IntoResponse {
    file("text/html; charset=utf-8", include_str!("page/index.html"))
}

pub(super) async fn script() -> impl IntoResponse {
    file("text/javascript; charset=utf-8", include_str!("page/page.js"))
}

pub(super) async fn style() -> impl IntoResponse {
    file("text/css; charset=utf-8", include_str!("page/page.css"))
}

fn file(kind: &'static str, text: &'static str) -> impl IntoResponse {
    let headers = HEADERS.map(|(name, value)| (name, HeaderValue::from_static(value)));
    ([(CONTENT_TYPE, kind)], headers, text)
}

/// Whether a request over TCP needs no token.
pub(super) fn is_for_everybody(parts: &Parts) -> bool {
    let path = parts.uri.path();
    is_read(parts) && [INDEX, SCRIPT, STYLE].contains(&path)
        || parts.method == Method::POST && path == SESSION
}

/// Whether somebody opens the page, be it by a link on another one: in a tab, and not in a frame (Fetch Metadata Request
/// Headers, W3C).
pub(super) fn is_opened(parts: &Parts) -> bool {
    let is = |name: &str, wanted: &str| {
        let mut values = parts.headers.get_all(name).iter();
        values.next().is_some_and(|value| value == wanted) && values.next().is_none()
    };
    is_read(parts)
        && parts.uri.path() == INDEX
        && !parts.headers.contains_key(ORIGIN)
        && is("sec-fetch-mode", "navigate")
        && is("sec-fetch-dest", "document")
}

fn is_read(parts: &Parts) -> bool {
    [Method::GET, Method::HEAD].contains(&parts.method)
}

pub(super) async fn open(
    State(broker): State<Arc<Broker>>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Success, Failure> {
    let mut temporary = false;
    for (key, value) in read_options(&body?, &["temporary"])? {
        let ("temporary", Value::Bool(flag)) = (key.as_str(), value) else {
            let message = "the body may have temporary, a flag, and nothing else";
            return Err(Error::invalid(message).into());
        };
        temporary = flag;
    }
    let mut fields = Fields::default();
    fields.put("secret", broker.open_page(temporary)?.reveal());
    Ok(Success(fields))
}

pub(super) async fn begin(
    State(broker): State<Arc<Broker>>,
    Extension(client): Extension<Client>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Failure> {
    let options = read_options(&body?, &["secret"])?;
    let secret = match &options[..] {
        [(key, Value::Str(secret))] if key == "secret" => secret,
        _ => {
            let message = "the body must have secret, a string, and nothing else";
            return Err(Error::invalid(message).into());
        }
    };
    let Some(session) = broker.begin_session(secret)? else {
        return Ok(access::wrong_secret(&broker, &client).await);
    };
    let mut fields = Fields::default();
    fields.put("session", session.reveal());
    Ok(Success(fields).into_response())
}
