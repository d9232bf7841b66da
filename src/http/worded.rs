//! Adds the body that every refusal has to those that hyper sends by itself, before there is a request that the
//! router could answer.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use hyper::rt::{Read, ReadBufCursor, Write};
use memchr::memmem;
use serde_json::json;

use crate::error::ErrorKind;

/// A connection that adds a body to hyper's own answers.
pub(super) struct Worded<T> {
    inner: T,
    /// The rest of such an answer, still to be written.
    waiting: Vec<u8>,
}

impl<T> Worded<T> {
    pub(super) fn new(inner: T) -> Self {
        Self { inner, waiting: Vec::new() }
    }
}

impl<T: Write + Unpin> Worded<T> {
    fn write_waiting(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.waiting.is_empty() {
            let written = ready!(Pin::new(&mut self.inner).poll_write(context, &self.waiting))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.waiting.drain(..written);
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: Read + Unpin> Read for Worded<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(context, buffer)
    }
}

impl<T: Write + Unpin> Write for Worded<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.write_waiting(context))?;
        if let Some(answer) = worded(buffer) {
            self.waiting = answer;
            return Poll::Ready(Ok(buffer.len()));
        }
        Pin::new(&mut self.inner).poll_write(context, buffer)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.write_waiting(context))?;
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.write_waiting(context))?;
        Pin::new(&mut self.inner).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let [only] = buffers {
            return self.poll_write(context, only);
        }
        ready!(self.write_waiting(context))?;
        Pin::new(&mut self.inner).poll_write_vectored(context, buffers)
    }
}

/// The replacement for one of hyper's own answers: those are a head without a body, which the router's never are.
fn worded(head: &[u8]) -> Option<Vec<u8>> {
    let status = head.strip_prefix(b"HTTP/1.1 ").or(head.strip_prefix(b"HTTP/1.0 "))?.get(..3)?;
    let (reason, error) = match status {
        b"400" => ("Bad Request", "this is not a valid HTTP/1.1 request"),
        b"414" => ("URI Too Long", "the path and the query are too long"),
        b"431" => {
            ("Request Header Fields Too Large", "there are too many headers, or they are too long")
        }
        _ => return None,
    };
    let is_bare =
        memmem::find(head, b"content-length: 0\r\n").is_some() && head.ends_with(b"\r\n\r\n");
    let code = ErrorKind::InvalidArgument.names().code;
    let body = json!({"success": false, "code": code, "error": error, "suggestions": []})
        .to_string()
        + "\n";
    let head = format!(
        "HTTP/1.1 {} {reason}\r\ncontent-type: application/json\r\nconnection: close\r\n\
         content-length: {}\r\n\r\n",
        String::from_utf8_lossy(status),
        body.len()
    );
    is_bare.then(|| (head + &body).into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_answer_without_a_body_gets_one() {
        let bare = b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
        let told = String::from_utf8(worded(bare).unwrap()).unwrap();
        assert!(told.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{told}");
        assert!(told.ends_with("\"success\":false,\"suggestions\":[]}\n"), "{told}");
        for answer in [
            &b"HTTP/1.1 400 Bad Request\r\ncontent-length: 2\r\n\r\n{}"[..],
            b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n",
            b"HTTP/1.1 100 Continue\r\n\r\n",
            b"content-length: 0\r\n\r\n",
            b"",
        ] {
            assert_eq!(worded(answer), None);
        }
    }
}
