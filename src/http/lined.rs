//! The newline at the end of each answer in JSON: without it, a shell shows its prompt behind what curl(1) prints.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use axum::{
    body::{Body, Bytes},
    response::Response,
};
use hyper::{
    body::{Body as Frames, Frame, SizeHint},
    header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue},
};

/// The answer with a newline at its end, if it is JSON. One without a body, to HEAD, has the length of the one to GET.
pub(super) fn lined(answer: Response, is_head: bool) -> Response {
    let is_json = answer.headers().get(CONTENT_TYPE).is_some_and(|kind| kind == "application/json");
    if !is_json {
        return answer;
    }
    let (mut head, body) = answer.into_parts();
    let length = head.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok());
    if let Some(length) = length.and_then(|length| length.parse::<u64>().ok()) {
        head.headers.insert(CONTENT_LENGTH, HeaderValue::from(length + 1));
    }
    let body = if is_head { body } else { Body::new(Lined { body, has_ended: false }) };
    Response::from_parts(head, body)
}

struct Lined {
    body: Body,
    has_ended: bool,
}

impl Frames for Lined {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.has_ended {
            return Poll::Ready(None);
        }
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        Poll::Ready(Some(frame.unwrap_or_else(|| {
            self.has_ended = true;
            Ok(Frame::data(Bytes::from_static(b"\n")))
        })))
    }

    fn is_end_stream(&self) -> bool {
        self.has_ended
    }

    fn size_hint(&self) -> SizeHint {
        let (inner, more) = (self.body.size_hint(), u64::from(!self.has_ended));
        let mut hint = SizeHint::new();
        hint.set_lower(inner.lower() + more);
        if let Some(upper) = inner.upper() {
            hint.set_upper(upper + more);
        }
        hint
    }
}
