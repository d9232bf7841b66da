//! Which requests over TCP are answered.
//!
//! Everybody on the machine can connect to a TCP port, and so can every web page that a browser of the machine shows:
//! from another origin, from another port of 127.0.0.1, or by a name that suddenly means 127.0.0.1 (DNS rebinding). So a
//! request must carry the token, and come from no page that this service has not served.

use std::{sync::Arc, time::Duration};

use axum::{
    Extension, Json,
    extract::{Request, State},
    http::{
        HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri,
        header::{AUTHORIZATION, CONNECTION, HOST, ORIGIN, WWW_AUTHENTICATE},
        request::Parts,
    },
    middleware::Next,
    response::{IntoResponse, Response},
};
use serde_json::json;

use super::{
    page,
    routes::{Failure, SEEN, TOKEN},
};
use crate::{broker::Broker, error::Error, lease::Client, token::TokenHash};

/// The other header with the token, as clients of styxy 1.x send it.
const API_KEY: HeaderName = HeaderName::from_static("x-api-key");
/// Where a request comes from (Fetch Metadata Request Headers, W3C).
const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// The pause before a wrong token is answered: a connection can try one at a time.
const PAUSE: Duration = Duration::from_millis(500);

/// The names of this machine that no name server can give to another.
const NAMES: [&str; 3] = ["127.0.0.1", "localhost", "[::1]"];

/// The door over TCP.
#[derive(Clone)]
pub(super) struct Access {
    pub(super) broker: Arc<Broker>,
    /// Whether requests need no token.
    pub(super) is_open: bool,
}

/// Why a request is not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refusal {
    /// It was sent to another name.
    Host,
    /// A page of another origin sent it.
    Origin,
    /// It is for the Unix socket only.
    Private,
    /// It has no token.
    NoToken,
    /// The service knows no token yet.
    Unset,
    /// It has a wrong token.
    WrongToken,
    /// It has a wrong secret of a page.
    WrongSecret,
}

impl Refusal {
    /// The code of the answer, and `STYXY_REASON` of the event.
    fn code(self) -> &'static str {
        match self {
            Self::Host => "WrongHost",
            Self::Origin => "OtherOrigin",
            Self::Private => "OnlyOnTheSocket",
            Self::NoToken | Self::Unset => "NoToken",
            // Programs know this code.
            Self::WrongToken | Self::WrongSecret => "WrongToken",
        }
    }

    fn status(self) -> StatusCode {
        match self {
            // RFC 9110: the server is not able to answer for that authority.
            Self::Host => StatusCode::MISDIRECTED_REQUEST,
            Self::Origin | Self::Private => StatusCode::FORBIDDEN,
            Self::NoToken | Self::Unset | Self::WrongToken | Self::WrongSecret => {
                StatusCode::UNAUTHORIZED
            }
        }
    }

    fn error(self) -> Error {
        match self {
            Self::Host => Error::invalid("the request is for another host")
                .suggest("ask for 127.0.0.1, localhost or [::1], in the URL and in the header Host"),
            Self::Origin => Error::invalid("web pages of other origins are not answered"),
            Self::Private => Error::invalid("this is answered on the Unix socket only"),
            Self::NoToken => Error::invalid("the token is missing")
                .suggest("send the header `Authorization: Bearer TOKEN`, with the token in ~/.styxy/auth.token"),
            Self::Unset => Error::invalid("the service has no token yet")
                .suggest("`styxy http enable` gives it the one in ~/.styxy/auth.token"),
            Self::WrongToken => Error::invalid("the token is wrong")
                .suggest("the token is in ~/.styxy/auth.token; if this one is from there, `styxy http enable` makes the service know it"),
            Self::WrongSecret => Error::invalid("the link was used, or is more than a minute old")
                .suggest("`styxy open` makes a new one"),
        }
    }

    /// The challenge of RFC 6750.
    fn challenge(self) -> Option<&'static str> {
        match self {
            Self::NoToken | Self::Unset => Some("Bearer realm=\"styxy\""),
            Self::WrongToken | Self::WrongSecret => {
                Some("Bearer realm=\"styxy\", error=\"invalid_token\"")
            }
            _ => None,
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let failure = Failure::new(self.status(), self.code(), self.error());
        let mut answer = failure.into_response();
        // Its body is not read.
        answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        if let Some(challenge) = self.challenge() {
            answer.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        }
        answer
    }
}

/// Answers a request over TCP, if it may be answered.
pub(super) async fn check(
    State(access): State<Access>,
    Extension(client): Extension<Client>,
    request: Request,
    next: Next,
) -> Response {
    let (mut parts, body) = request.into_parts();
    let refusal = match refusal(&parts) {
        Some(refusal) => refusal,
        None if access.is_open || page::is_for_everybody(&parts) => {
            return next.run(Request::from_parts(parts, body)).await;
        }
        None => match authenticated(&parts.headers, &access.broker) {
            Ok(bearer) => {
                parts.extensions.insert(bearer);
                return next.run(Request::from_parts(parts, body)).await;
            }
            // Whoever looks for the service finds it, and learns nothing else.
            Err(Refusal::NoToken | Refusal::Unset) if is_status(&parts) => {
                return Json(json!({"success": true, "status": "running"})).into_response();
            }
            Err(refusal) => refusal,
        },
    };
    if refusal == Refusal::WrongToken {
        return refused_late(refusal, &access.broker, &client).await;
    }
    access.broker.kept_out(refusal.code(), &client);
    refusal.into_response()
}

/// Refuses a wrong secret of a page.
pub(super) async fn wrong_secret(broker: &Broker, client: &Client) -> Response {
    refused_late(Refusal::WrongSecret, broker, client).await
}

async fn refused_late(refusal: Refusal, broker: &Broker, client: &Client) -> Response {
    broker.kept_out(refusal.code(), client);
    tokio::time::sleep(PAUSE).await;
    refusal.into_response()
}

fn is_status(parts: &Parts) -> bool {
    parts.uri.path() == "/status" && [Method::GET, Method::HEAD].contains(&parts.method)
}

/// Why a request is not answered whatever its token is.
fn refusal(parts: &Parts) -> Option<Refusal> {
    let Some(host) = host(&parts.headers, &parts.uri) else { return Some(Refusal::Host) };
    if is_foreign(&parts.headers, host) && !page::is_opened(parts) {
        return Some(Refusal::Origin);
    }
    [TOKEN, SEEN, page::OPEN].contains(&parts.uri.path()).then_some(Refusal::Private)
}

/// The host that the request is for, if that is this machine. A URI with an authority counts as well (RFC 9112, 3.2.2).
fn host<'a>(headers: &'a HeaderMap, uri: &Uri) -> Option<&'a str> {
    let mut hosts = headers.get_all(HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else { return None };
    let host = host.to_str().ok()?;
    let is_here = |authority: &str| {
        let (name, port) = match authority.rsplit_once(':') {
            Some((name, port)) if !port.ends_with(']') => (name, Some(port)),
            _ => (authority, None),
        };
        // Forwards of ssh and of editors have other ports.
        NAMES.iter().any(|known| name.eq_ignore_ascii_case(known))
            && port.is_none_or(|port| port.parse::<u16>().is_ok())
    };
    (is_here(host) && uri.authority().is_none_or(|authority| is_here(authority.as_str())))
        .then_some(host)
}

/// Whether a page that this service has not served sent the request.
fn is_foreign(headers: &HeaderMap, host: &str) -> bool {
    let own = format!("http://{host}");
    let is_own = |origin: &HeaderValue| origin.as_bytes().eq_ignore_ascii_case(own.as_bytes());
    let is_none = |site: &HeaderValue| site == "same-origin" || site == "none";
    !headers.get_all(ORIGIN).iter().all(is_own) || !headers.get_all(FETCH_SITE).iter().all(is_none)
}

/// What a request carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bearer {
    /// The user's token.
    Token(TokenHash),
    /// The token of a page's session.
    Session(TokenHash),
}

impl Bearer {
    /// Whether it is still accepted.
    pub(super) fn is_good(self, broker: &Broker) -> bool {
        match self {
            Self::Token(token) => broker.token().is_some_and(|known| known.is_same(&token)),
            Self::Session(session) => broker.has_session(&session),
        }
    }
}

fn authenticated(headers: &HeaderMap, broker: &Broker) -> Result<Bearer, Refusal> {
    let token = TokenHash::of(token(headers).ok_or(Refusal::NoToken)?);
    if broker.has_session(&token) {
        return Ok(Bearer::Session(token));
    }
    let known = broker.token().ok_or(Refusal::Unset)?;
    if known.is_same(&token) { Ok(Bearer::Token(token)) } else { Err(Refusal::WrongToken) }
}

/// The token of a request: `Authorization: Bearer`, or `X-API-Key`.
fn token(headers: &HeaderMap) -> Option<&str> {
    let bearer = headers.get(AUTHORIZATION).and_then(|value| {
        // The name of a scheme has no case (RFC 9110, 11.1).
        let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
        scheme.eq_ignore_ascii_case("Bearer").then_some(token.trim())
    });
    let key = || headers.get(API_KEY)?.to_str().ok().map(str::trim);
    bearer.or_else(key).filter(|token| !token.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(uri: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn refused(uri: &str, headers: &[(&str, &str)]) -> Option<Refusal> {
        refusal(&parts(uri, headers))
    }

    #[test]
    fn only_names_of_this_machine_are_answered_with_any_port() {
        for host in ["127.0.0.1:9876", "localhost", "LOCALHOST:3000", "[::1]", "[::1]:9876"] {
            assert_eq!(refused("/leases", &[("host", host)]), None, "{host}");
        }
        for host in [
            "",
            "evil.example",
            "evil.example:9876",
            "127.0.0.1.evil.example",
            "localhost.",
            "localhost:",
            "localhost:x",
            "127.0.0.1:9876:9876",
            "user@localhost",
            "127.1",
            "::1",
            "0.0.0.0",
            "[::1",
        ] {
            assert_eq!(refused("/leases", &[("host", host)]), Some(Refusal::Host), "{host}");
        }
        assert_eq!(refused("/leases", &[]), Some(Refusal::Host), "no host at all");
        let two = [("host", "localhost"), ("host", "localhost")];
        assert_eq!(refused("/leases", &two), Some(Refusal::Host));
        let local = [("host", "localhost")];
        assert_eq!(refused("http://evil.example/leases", &local), Some(Refusal::Host));
        assert_eq!(refused("http://localhost:9876/leases", &local), None);
    }

    #[test]
    fn a_page_of_another_origin_is_not_answered() {
        let host = ("host", "127.0.0.1:9876");
        for (name, value) in [
            ("origin", "http://127.0.0.1:9876"),
            ("sec-fetch-site", "same-origin"),
            ("sec-fetch-site", "none"),
        ] {
            assert_eq!(refused("/leases", &[host, (name, value)]), None, "{name}: {value}");
        }
        for (name, value) in [
            ("origin", "http://127.0.0.1:9877"),
            ("origin", "http://localhost:9876"),
            ("origin", "https://127.0.0.1:9876"),
            ("origin", "http://evil.example"),
            ("origin", "null"),
            ("origin", ""),
            ("sec-fetch-site", "same-site"),
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-site", ""),
        ] {
            let refused = refused("/leases", &[host, (name, value)]);
            assert_eq!(refused, Some(Refusal::Origin), "{name}: {value}");
        }
        let mixed = [host, ("origin", "http://127.0.0.1:9876"), ("origin", "http://evil.example")];
        assert_eq!(refused("/leases", &mixed), Some(Refusal::Origin));
    }

    #[test]
    fn what_sets_the_token_is_not_to_be_had_with_one() {
        let host = [("host", "localhost")];
        assert_eq!(refused("/token", &host), Some(Refusal::Private));
        assert_eq!(refused("/config/seen", &host), Some(Refusal::Private));
        assert_eq!(refused("/page", &host), Some(Refusal::Private));
        assert_eq!(refused("/page/session", &host), None);
        assert_eq!(refused("/config", &host), None);
    }

    #[test]
    fn a_page_of_another_origin_can_open_the_page_and_do_nothing_else() {
        let from = |path: &str, method: Method, mode: &str, dest: &str, origin: Option<&str>| {
            let mut request = Request::builder()
                .method(method)
                .uri(path)
                .header("host", "127.0.0.1:9876")
                .header("sec-fetch-site", "cross-site")
                .header("sec-fetch-mode", mode)
                .header("sec-fetch-dest", dest);
            if let Some(origin) = origin {
                request = request.header("origin", origin);
            }
            refusal(&request.body(()).unwrap().into_parts().0)
        };
        assert_eq!(from("/", Method::GET, "navigate", "document", None), None);
        for (path, method, mode, dest, origin) in [
            ("/", Method::GET, "navigate", "iframe", None),
            ("/", Method::GET, "no-cors", "image", None),
            ("/", Method::GET, "cors", "empty", Some("http://evil.example")),
            ("/", Method::GET, "navigate", "document", Some("http://evil.example")),
            ("/", Method::POST, "navigate", "document", Some("null")),
            ("/page.js", Method::GET, "navigate", "document", None),
            ("/page.js", Method::GET, "no-cors", "script", None),
            ("/leases", Method::GET, "navigate", "document", None),
        ] {
            let refused = from(path, method.clone(), mode, dest, origin);
            assert_eq!(refused, Some(Refusal::Origin), "{method} {path} {mode} {dest}");
        }
    }

    #[test]
    fn a_token_is_read_from_either_header() {
        let found =
            |headers: &[(&str, &str)]| token(&parts("/", headers).headers).map(str::to_owned);
        assert_eq!(found(&[("authorization", "Bearer abc")]).as_deref(), Some("abc"));
        assert_eq!(found(&[("authorization", "bearer  abc ")]).as_deref(), Some("abc"));
        assert_eq!(found(&[("x-api-key", "abc")]).as_deref(), Some("abc"));
        let both = [("authorization", "Basic eA=="), ("x-api-key", "abc")];
        assert_eq!(found(&both).as_deref(), Some("abc"));
        for none in ["Bearer", "Bearer ", "abc", "Basic abc", ""] {
            assert_eq!(found(&[("authorization", none)]), None, "{none:?}");
        }
    }
}
