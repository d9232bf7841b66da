//! Lines of JSON over a Unix socket, with descriptors (`SCM_RIGHTS`, unix(7)).

use std::{
    collections::VecDeque,
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::{
        fd::{BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// The maximum number of descriptors in one line; the kernel allows 253 (`SCM_MAX_FD`).
pub(super) const MOST: usize = 200;

/// The maximum length of a line, in bytes. A longer one does not follow this protocol.
const LONGEST: usize = 64 * 1024;

/// A line, with the number of its descriptors: so a reader that does not know their purpose knows which line they
/// belong to.
#[derive(Serialize, Deserialize)]
struct Line<T> {
    #[serde(default)]
    descriptors: usize,
    #[serde(flatten)]
    content: T,
}

/// Sends a line, with at most [`MOST`] descriptors.
pub(super) fn send(
    stream: &UnixStream,
    content: &impl Serialize,
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let mut line = serde_json::to_vec(&Line { descriptors: descriptors.len(), content })?;
    line.push(b'\n');
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::other("too many descriptors for one line"));
    }
    let mut rest = &line[..];
    while !rest.is_empty() {
        let sent = sendmsg(stream, &[IoSlice::new(rest)], &mut control, SendFlags::NOSIGNAL)?;
        rest = &rest[sent..];
        // They are sent with the first byte, and only once.
        control.clear();
    }
    Ok(())
}

/// Reads lines from a stream.
pub(super) struct Reader<'a> {
    stream: &'a UnixStream,
    bytes: Vec<u8>,
    descriptors: VecDeque<OwnedFd>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(stream: &'a UnixStream) -> Self {
        Self { stream, bytes: Vec::new(), descriptors: VecDeque::new() }
    }

    /// The next line with its descriptors; `None` when the other end has closed the connection. Blocks up to the
    /// read timeout of the stream.
    pub(super) fn next<T: DeserializeOwned>(&mut self) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
        let end = loop {
            if let Some(end) = self.bytes.iter().position(|byte| *byte == b'\n') {
                break end;
            }
            if self.bytes.len() > LONGEST {
                return Err(io::Error::other("a line is too long"));
            }
            if self.fill()? == 0 {
                return Ok(None);
            }
        };
        let line: Line<T> = serde_json::from_slice(&self.bytes[..end])?;
        self.bytes.drain(..=end);
        // There are fewer if this process has reached its limit of descriptors.
        let count = line.descriptors.min(self.descriptors.len());
        Ok(Some((line.content, self.descriptors.drain(..count).collect())))
    }

    fn fill(&mut self) -> io::Result<usize> {
        let mut buffer = [0; 16 * 1024];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [IoSliceMut::new(&mut buffer)];
        let received = recvmsg(self.stream, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)?;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                self.descriptors.extend(descriptors);
            }
        }
        let received = received.bytes;
        self.bytes.extend_from_slice(&buffer[..received]);
        Ok(received)
    }
}
