//! How much of a request the service reads, and how long it waits for it.

use std::{sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::Request,
    http::header::{CONNECTION, CONTENT_LENGTH, HeaderValue},
    middleware::Next,
    response::{IntoResponse, Response},
};
use futures_util::StreamExt;
use tokio::time::timeout;

use super::routes::{Failure, LARGEST_BODY, SEEN, too_large, too_slow, unreadable};
use crate::{config::seen::LARGEST_SEEN, socket::Place};

/// How long a body may take: it comes from this machine, and has at most ten kilobytes, except for [`SEEN`].
const PATIENCE: Duration = Duration::from_secs(10);

/// Reads the body before the request is handled. A body that is announced as too large is refused before any of
/// it is requested (RFC 9110, `Expect: 100-continue`); if it does not arrive in time, the request is given up
/// and the connection closed (RFC 9110, status 408).
pub(super) async fn read_body(request: Request, next: Next) -> Response {
    let place = request.extensions().get::<Arc<Place>>().map(Arc::clone);
    // From here on it is the service that is waited for.
    let run = async |request| {
        let _busy = place.as_ref().map(Place::busy);
        next.run(request).await
    };
    if axum::body::HttpBody::is_end_stream(request.body()) {
        return run(request).await;
    }
    let most = if request.uri().path() == SEEN { LARGEST_SEEN } else { LARGEST_BODY };
    let length = request.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok());
    if length.and_then(|length| length.parse().ok()).is_some_and(|length: u64| length > most as u64)
    {
        return too_large(most).into_response();
    }
    let (parts, body) = request.into_parts();
    match timeout(PATIENCE, read(body, most)).await {
        Ok(Ok(body)) => run(Request::from_parts(parts, Body::from(body))).await,
        Ok(Err(failure)) => failure.into_response(),
        Err(_) => {
            let mut answer = too_slow().into_response();
            answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            answer
        }
    }
}

async fn read(body: Body, most: usize) -> Result<Vec<u8>, Failure> {
    let mut parts = body.into_data_stream();
    let mut read = Vec::new();
    while let Some(part) = parts.next().await {
        let part = part.map_err(|_| unreadable())?;
        if read.len() + part.len() > most {
            return Err(too_large(most));
        }
        read.extend_from_slice(&part);
    }
    Ok(read)
}
