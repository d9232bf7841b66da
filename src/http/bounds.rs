//! How much of a request the service reads, and for how long.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{
    body::Body,
    extract::Request,
    http::header::{CONNECTION, CONTENT_LENGTH, HeaderValue},
    middleware::Next,
    response::{IntoResponse, Response},
};
use futures_util::{StreamExt, stream::unfold};
use tokio::time::{Instant, timeout_at};

use super::routes::{LARGEST_BODY, SEEN, too_large, too_slow};
use crate::config::seen::LARGEST_SEEN;

/// How long a body may take: it is at most ten kilobytes, and comes from this machine.
const PATIENCE: Duration = Duration::from_secs(10);

/// Refuses a body that is announced as too large before any of it is asked for (RFC 9110, `Expect: 100-continue`).
pub(super) async fn refuse_large_bodies(request: Request, next: Next) -> Response {
    let most = if request.uri().path() == SEEN { LARGEST_SEEN } else { LARGEST_BODY };
    let length = request.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok());
    if length.and_then(|length| length.parse().ok()).is_some_and(|length: u64| length > most as u64)
    {
        return too_large().into_response();
    }
    next.run(request).await
}

/// Gives up on a body that does not come (RFC 9110, status 408), and closes the connection.
pub(super) async fn read_in_time(request: Request, next: Next) -> Response {
    let is_late = Arc::new(AtomicBool::new(false));
    let late = Arc::clone(&is_late);
    let deadline = Instant::now() + PATIENCE;
    let request = request.map(|body| {
        Body::from_stream(unfold(body.into_data_stream(), move |mut parts| {
            let late = Arc::clone(&late);
            async move {
                let part = match timeout_at(deadline, parts.next()).await {
                    Ok(part) => part?,
                    Err(elapsed) => {
                        late.store(true, Ordering::Relaxed);
                        Err(axum::Error::new(elapsed))
                    }
                };
                Some((part, parts))
            }
        }))
    });
    let answer = next.run(request).await;
    if !is_late.load(Ordering::Relaxed) {
        return answer;
    }
    let mut answer = too_slow().into_response();
    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    answer
}
