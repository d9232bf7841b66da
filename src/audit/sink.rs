//! Where events go: to journald, through its native protocol (<https://systemd.io/JOURNAL_NATIVE_PROTOCOL>),
//! or, where there is no journal, to stderr as JSON lines.

use std::{
    fs::File,
    io::{self, IoSlice, Seek, Write},
    os::{
        fd::{AsFd, AsRawFd},
        unix::net::UnixDatagram,
    },
    path::{Path, PathBuf},
    time::Duration,
};

use nix::sys::{
    memfd::{MFdFlags, memfd_create},
    socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg},
};
use serde::Serialize;
use tracing::Dispatch;
use tracing_subscriber::layer::SubscriberExt;

use super::event::Event;
use crate::{
    kernel::{manager, unread},
    value::{Fields, Value},
};

/// Where journald listens. For unit tests it is always away.
const SOCKET: &str = if cfg!(test) { "/dev/null/socket" } else { "/run/systemd/journal/socket" };
/// How long journald may take to make room for an event.
const PATIENCE: Duration = Duration::from_secs(2);
/// The syslog identifier, for `journalctl -t`.
const IDENTIFIER: &str = "styxy";

/// The destination of events.
#[derive(Debug)]
pub struct Sink {
    journal: PathBuf,
    /// Whether there is a journal, even if it is away at the moment.
    is_there: bool,
    socket: Option<UnixDatagram>,
    /// Whether an empty message was sent after the last event.
    is_followed: bool,
}

/// Sends the service's other messages, its warnings, to the same place.
pub fn log_there() {
    let there = match tracing_journald::layer() {
        Ok(layer) => {
            let layer = layer.with_field_prefix(None).with_syslog_identifier(IDENTIFIER.to_owned());
            Dispatch::new(tracing_subscriber::registry().with(layer))
        }
        // The stderr of a unit reaches the journal as well, once there is one again.
        Err(_) => Dispatch::new(
            tracing_subscriber::fmt().with_writer(std::io::stderr).without_time().finish(),
        ),
    };
    // Fails only if it was done before.
    let _ = tracing::dispatcher::set_global_default(there);
}

impl Sink {
    /// For a service that systemd started, the journal, even if it is away at the moment; else the journal if
    /// there is one.
    pub fn open() -> Self {
        Self::of(Path::new(SOCKET), manager::started_this_process())
    }

    fn of(journal: &Path, is_there: bool) -> Self {
        Self { journal: journal.to_owned(), is_there, socket: None, is_followed: false }
    }

    /// Whether events go to a journal. It may appear while the service runs; from then on it counts as there.
    pub fn has_journal(&mut self) -> bool {
        self.is_there = self.is_there || self.journal.parent().is_some_and(Path::exists);
        self.is_there
    }

    /// Sends an event. An error means that it did not reach the journal; success proves nothing until the event
    /// is read back.
    pub fn send(&mut self, event: &Event) -> io::Result<()> {
        if !self.has_journal() {
            // Whoever started the service may have closed stderr; there is no other place.
            if let Ok(mut line) = serde_json::to_string(&Plain::from(event)) {
                // In one write: a service that is killed must not leave a partial line, to which the next one
                // would append.
                line.push('\n');
                let _ = std::io::stderr().write_all(line.as_bytes());
            }
            return Ok(());
        }
        let socket = self.take_socket()?;
        self.is_followed = false;
        let bytes = native(event);
        match socket.send_to(&bytes, &self.journal) {
            Err(error) if error.raw_os_error() == Some(nix::libc::EMSGSIZE) => {
                send_as_file(&socket, &self.journal, &bytes)?;
            }
            sent => drop(sent?),
        }
        self.socket = Some(socket);
        Ok(())
    }

    fn take_socket(&mut self) -> io::Result<UnixDatagram> {
        if let Some(socket) = self.socket.take() {
            return Ok(socket);
        }
        let socket = UnixDatagram::unbound()?;
        socket.set_write_timeout(Some(PATIENCE))?;
        Ok(socket)
    }

    /// Sends an empty message after the events. journald ignores it, and receives it only after processing
    /// whatever came before.
    pub fn follow(&mut self) -> io::Result<()> {
        let socket = self.take_socket()?;
        let to = UnixAddr::new(&self.journal)?;
        let flags = MsgFlags::MSG_DONTWAIT;
        sendmsg(socket.as_raw_fd(), &[IoSlice::new(&[])], &[], flags, Some(&to))?;
        (self.socket, self.is_followed) = (Some(socket), true);
        Ok(())
    }

    /// Whether journald has processed every event: what is not in the journal by now was dropped.
    pub fn is_through(&mut self) -> bool {
        if !self.is_followed {
            // The queue was full before; if it still is, journald has not processed everything.
            let _ = self.follow();
        }
        let bytes = self.socket.as_ref().map(|socket| unread::bytes(socket.as_fd()).unwrap_or(0));
        self.is_followed && bytes == Some(0)
    }
}

/// Sends an event that is too long for a datagram, as a sealed file in memory.
fn send_as_file(socket: &UnixDatagram, journal: &Path, bytes: &[u8]) -> io::Result<()> {
    use nix::fcntl::{FcntlArg, SealFlag, fcntl};

    let memory = memfd_create("styxy-event", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
    let mut file = File::from(memory);
    file.write_all(bytes)?;
    file.rewind()?;
    fcntl(&file, FcntlArg::F_ADD_SEALS(SealFlag::all()))?;
    let file = [file.as_raw_fd()];
    let rights = [ControlMessage::ScmRights(&file)];
    let to = UnixAddr::new(journal)?;
    sendmsg(socket.as_raw_fd(), &[IoSlice::new(&[])], &rights, MsgFlags::empty(), Some(&to))?;
    Ok(())
}

/// The event in journald's native format: a line for each field; a value of several lines is preceded by its
/// length.
fn native(event: &Event) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut put = |key: &str, value: &str| {
        bytes.extend_from_slice(key.as_bytes());
        if value.contains('\n') {
            bytes.push(b'\n');
            bytes.extend_from_slice(&(value.len() as u64).to_le_bytes());
        } else {
            bytes.push(b'=');
        }
        bytes.extend_from_slice(value.as_bytes());
        bytes.push(b'\n');
    };
    put("SYSLOG_IDENTIFIER", IDENTIFIER);
    put("PRIORITY", priority(event));
    put("MESSAGE_ID", event.message_id);
    put("MESSAGE", &event.message);
    for (key, value) in &event.fields.0 {
        match value {
            Value::Str(text) => put(key, text),
            Value::U16(number) => put(key, &number.to_string()),
            Value::U32(number) => put(key, &number.to_string()),
            Value::U64(number) => put(key, &number.to_string()),
            // No event has values of other types.
            _ => {}
        }
    }
    bytes
}

/// As in syslog(3): 4 is a warning, 5 a notice.
fn priority(event: &Event) -> &'static str {
    if event.warning { "4" } else { "5" }
}

/// An event as a JSON object, with the journal's names.
#[derive(Serialize)]
struct Plain<'a> {
    #[serde(rename = "SYSLOG_IDENTIFIER")]
    identifier: &'static str,
    #[serde(rename = "PRIORITY")]
    priority: &'static str,
    #[serde(rename = "MESSAGE_ID")]
    message_id: &'static str,
    #[serde(rename = "MESSAGE")]
    message: &'a str,
    #[serde(flatten)]
    fields: &'a Fields,
}

impl<'a> From<&'a Event> for Plain<'a> {
    fn from(event: &'a Event) -> Self {
        Self {
            identifier: IDENTIFIER,
            priority: priority(event),
            message_id: event.message_id,
            message: &event.message,
            fields: &event.fields,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Read, os::fd::OwnedFd};

    use nix::sys::socket::{ControlMessageOwned, recvmsg};

    use super::*;
    use crate::{
        change::{Change, Record},
        time::Timestamp,
    };

    fn event(reason: &str) -> Event {
        let change = Change::Recover { reason: reason.to_owned() };
        Event::of(&Record { seq: 7, at: Timestamp(0), client: None, change }, "state")
    }

    #[test]
    fn an_event_is_sent_with_all_its_fields() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let journald = UnixDatagram::bind(&path).unwrap();
        let mut sink = Sink::of(&path, true);
        sink.send(&event("torn\nin two")).unwrap();
        let mut bytes = vec![0; 4096];
        let length = journald.recv(&mut bytes).unwrap();
        let text = String::from_utf8_lossy(&bytes[..length]).into_owned();
        for field in [
            "SYSLOG_IDENTIFIER=styxy\n",
            "PRIORITY=4\n",
            "MESSAGE_ID=41370c45c5f8443e8ea378327c3b7b6c\n",
            "STYXY_ACTION=recover\n",
            "STYXY_SEQ=7\n",
            "STYXY_STATE_ID=state\n",
            "STYXY_REASON\n\u{b}\0\0\0\0\0\0\0torn\nin two\n",
        ] {
            assert!(text.contains(field), "{field:?} is not in {text:?}");
        }
    }

    #[test]
    fn a_journal_is_through_when_it_has_taken_what_follows_the_events() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let journald = UnixDatagram::bind(&path).unwrap();
        let mut sink = Sink::of(&path, true);
        sink.send(&event("one")).unwrap();
        sink.send(&event("two")).unwrap();
        sink.follow().unwrap();
        let mut bytes = vec![0; 4096];
        for is_event in [true, true, false] {
            assert!(!sink.is_through());
            assert_eq!(journald.recv(&mut bytes).unwrap() > 0, is_event);
        }
        assert!(sink.is_through());
        // If there is no room for the empty message, it is not known.
        journald.set_nonblocking(true).unwrap();
        sink.send(&event("three")).unwrap();
        // A socket may be full before the queue is (net.unix.max_dgram_qlen).
        while sink.follow().is_ok() || Sink::of(&path, true).follow().is_ok() {}
        sink.is_followed = false;
        assert!(!sink.is_through());
        while journald.recv(&mut bytes).is_ok() {}
        assert!(!sink.is_through());
        while journald.recv(&mut bytes).is_ok() {}
        assert!(sink.is_through());
    }

    #[test]
    fn an_event_that_is_too_long_for_a_datagram_is_sent_as_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let journald = UnixDatagram::bind(&path).unwrap();
        Sink::of(&path, true).send(&event(&"long".repeat(200_000))).unwrap();
        let mut space = nix::cmsg_space!(OwnedFd);
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let message =
            recvmsg::<UnixAddr>(journald.as_raw_fd(), &mut [], Some(&mut space), flags).unwrap();
        let Some(ControlMessageOwned::ScmRights(files)) = message.cmsgs().unwrap().next() else {
            panic!("no file came");
        };
        let path = format!("/proc/self/fd/{}", files[0]);
        let mut text = String::new();
        File::open(path).unwrap().read_to_string(&mut text).unwrap();
        assert!(text.len() > 800_000 && text.contains("STYXY_SEQ=7\n"));
    }

    #[test]
    fn a_journal_that_is_away_is_an_error_and_taken_up_again_when_it_is_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal/socket");
        let mut private = Sink::of(&path, false);
        assert!(!private.has_journal());
        let mut unit = Sink::of(&path, true);
        assert!(unit.has_journal());
        assert!(unit.send(&event("away")).is_err());
        std::fs::create_dir(path.parent().unwrap()).unwrap();
        let journald = UnixDatagram::bind(&path).unwrap();
        unit.send(&event("back")).unwrap();
        private.send(&event("back")).unwrap();
        drop(journald);
        assert!(unit.send(&event("away")).is_err());
        std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
        // It was there before, so it is only away.
        assert!(private.has_journal() && private.send(&event("away")).is_err());
        std::fs::create_dir(path.parent().unwrap()).unwrap();
        let _journald = UnixDatagram::bind(&path).unwrap();
        unit.send(&event("back")).unwrap();
    }
}
