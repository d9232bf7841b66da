//! Stdin and stdout as the transport of a session: one JSON-RPC message per line.
//!
//! The transport of the library ignores a line that is not JSON, and omits `id` where it is not known. JSON-RPC
//! 2.0 (section 5) requires an answer to both, with a null id: a client that gets none may wait for ever.

use std::{
    io, mem,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use rmcp::{
    RoleServer,
    model::ErrorCode,
    service::{RxJsonRpcMessage, TxJsonRpcMessage},
    transport::{Transport, async_rw::DEFAULT_MAX_LINE_LENGTH},
};
use serde::Serialize;
use serde_json::{Value as Json, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Stdin, Stdout, stdin, stdout},
    sync::Mutex,
    task::JoinSet,
};

/// The input and output of a session. A message is always written completely.
pub(super) struct Lines {
    input: BufReader<Stdin>,
    /// The part of the next line that was read. Waiting for the rest may be cancelled and resumed.
    line: Line,
    output: Arc<Mutex<Stdout>>,
    /// Error answers that are being written.
    errors: JoinSet<io::Result<()>>,
    seen: Arc<Seen>,
}

/// What has come so far.
#[derive(Debug, Default)]
pub(super) struct Seen {
    message: AtomicBool,
    wrong: AtomicBool,
}

impl Seen {
    /// Whether a line was a message.
    pub(super) fn has_message(&self) -> bool {
        self.message.load(Ordering::Relaxed)
    }

    /// Whether a line was none.
    pub(super) fn has_wrong(&self) -> bool {
        self.wrong.load(Ordering::Relaxed)
    }
}

impl Lines {
    pub(super) fn new() -> Self {
        let (input, output) = (BufReader::new(stdin()), Arc::new(Mutex::new(stdout())));
        let (line, errors, seen) = (Line::default(), JoinSet::new(), Arc::default());
        Self { input, line, output, errors, seen }
    }

    /// What has come so far, also when the session has ended.
    pub(super) fn seen(&self) -> Arc<Seen> {
        Arc::clone(&self.seen)
    }

    /// The next line; `None` at the end of the input.
    async fn line(&mut self) -> Option<Line> {
        loop {
            let read = self.input.fill_buf().await.ok().filter(|read| !read.is_empty())?;
            let (length, has_ended) = self.line.read(read);
            self.input.consume(length);
            if has_ended {
                return Some(mem::take(&mut self.line));
            }
        }
    }
}

impl Transport<RoleServer> for Lines {
    type Error = io::Error;

    fn send(
        &mut self,
        message: TxJsonRpcMessage<RoleServer>,
    ) -> impl Future<Output = io::Result<()>> + Send + 'static {
        write(Arc::clone(&self.output), message)
    }

    async fn receive(&mut self) -> Option<RxJsonRpcMessage<RoleServer>> {
        loop {
            let Some(line) = self.line().await else {
                // The session may end without close().
                while self.errors.join_next().await.is_some() {}
                return None;
            };
            match line.message() {
                Ok(Some(message)) => {
                    self.seen.message.store(true, Ordering::Relaxed);
                    return Some(*message);
                }
                Ok(None) => {}
                Err(Wrong { code, words, id }) => {
                    self.seen.wrong.store(true, Ordering::Relaxed);
                    let error = json!({"code": code.0, "message": words});
                    let answer = json!({"jsonrpc": "2.0", "id": id, "error": error});
                    self.errors.spawn(write(Arc::clone(&self.output), answer));
                }
            }
        }
    }

    async fn close(&mut self) -> io::Result<()> {
        while self.errors.join_next().await.is_some() {}
        Ok(())
    }
}

async fn write(output: Arc<Mutex<Stdout>>, message: impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(&message)?;
    line.push(b'\n');
    let mut output = output.lock().await;
    output.write_all(&line).await?;
    output.flush().await
}

/// A line, or the start of one.
#[derive(Default)]
struct Line {
    bytes: Vec<u8>,
    is_too_long: bool,
}

/// Why a line is not a message.
#[derive(Debug)]
struct Wrong {
    code: ErrorCode,
    words: &'static str,
    /// The id of the request, if it has one.
    id: Json,
}

impl Wrong {
    fn no_json(words: &'static str) -> Self {
        Self { code: ErrorCode::PARSE_ERROR, words, id: Json::Null }
    }
}

impl Line {
    /// Takes the part that belongs to this line. Returns the number of bytes taken, and whether the line has ended.
    fn read(&mut self, read: &[u8]) -> (usize, bool) {
        let end = memchr::memchr(b'\n', read);
        let part = &read[..end.unwrap_or(read.len())];
        self.is_too_long |= self.bytes.len() + part.len() > DEFAULT_MAX_LINE_LENGTH;
        if self.is_too_long {
            self.bytes = Vec::new();
        } else {
            self.bytes.extend_from_slice(part);
        }
        (part.len() + usize::from(end.is_some()), end.is_some())
    }

    /// Parses the line; `None` if it is empty or a notification that this server does not know.
    fn message(self) -> Result<Option<Box<RxJsonRpcMessage<RoleServer>>>, Wrong> {
        if self.is_too_long {
            return Err(Wrong::no_json("the line is too long: the limit is 16 MiB"));
        }
        let line = self.bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&self.bytes);
        if line.trim_ascii().is_empty() {
            return Ok(None);
        }
        let message: Json = serde_json::from_slice(line).map_err(|_| {
            Wrong::no_json("the line is not valid JSON: send one JSON-RPC message on each line")
        })?;
        let id = message.get("id").filter(|id| id.is_string() || id.is_u64()).cloned();
        // A server does not answer notifications that it does not know.
        let is_notification = message["method"].is_string() && message.get("id").is_none();
        match serde_json::from_value(message) {
            Ok(message) => Ok(Some(Box::new(message))),
            Err(_) if is_notification => Ok(None),
            Err(_) => Err(Wrong {
                code: ErrorCode::INVALID_REQUEST,
                words: "this is no JSON-RPC message: send an object with jsonrpc, id, method and params",
                id: id.unwrap_or_default(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The error code of each line, if any, of a text that is read in parts of this size.
    fn told(text: &[u8], size: usize) -> Vec<Option<i32>> {
        let (mut line, mut told) = (Line::default(), Vec::new());
        for mut part in text.chunks(size) {
            while !part.is_empty() {
                let (length, has_ended) = line.read(part);
                part = &part[length..];
                if has_ended {
                    let message = mem::take(&mut line).message();
                    told.push(message.err().map(|wrong| wrong.code.0));
                }
            }
        }
        told
    }

    #[test]
    fn a_line_that_is_no_json_and_one_that_is_no_message_are_told_apart_wherever_they_are_cut() {
        let text = b"{\"jsonrpc\": \"2.0\", \"id\": 1, \"method\": \"ping\"}\nhello\n\n \r\n[1,\n{\"a\": \"\xff\"}\n7\n\
            {\"jsonrpc\": \"2.0\", \"method\": \"notifications/other\"}\n{";
        let (no_json, no_message) = (Some(-32700), Some(-32600));
        let all = [None, no_json, None, None, no_json, no_json, no_message, None];
        for size in 1..text.len() {
            assert_eq!(told(text, size), all, "{size}");
        }
    }

    #[test]
    fn a_line_that_is_too_long_is_not_kept() {
        let mut line = Line::default();
        let part = vec![b' '; DEFAULT_MAX_LINE_LENGTH / 2 + 1];
        line.read(&part);
        line.read(&part);
        assert_eq!(line.bytes.capacity(), 0);
        assert_eq!(line.read(b"{}\n"), (3, true));
        assert_eq!(line.message().err().map(|wrong| wrong.code), Some(ErrorCode::PARSE_ERROR));
    }
}
