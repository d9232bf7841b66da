//! Pages in a browser: the secrets that open them, their sessions, and the socket that listens only for them.
//!
//! All of it is in memory: it ends with the service.
//!
//! - `sessions`: who may use the pages
//! - this file: making secrets, and stopping the socket

mod sessions;

use std::sync::{Arc, Weak};

use self::sessions::Sessions;
use super::{Broker, Inner};
use crate::{
    error::{Error, ErrorKind},
    idle::CallGuard,
    kernel::clock,
    owners::{deadlines::Due, units},
    token::{Token, TokenHash},
};

/// The unit of the socket.
const SOCKET: &str = "styxy-tcp.socket";

/// The pages.
#[derive(Debug, Default)]
pub(super) struct Pages {
    sessions: Sessions,
    /// Held while the socket listens for pages only: a service that is gone could not stop it.
    temporary: Option<CallGuard>,
}

/// A page that follows the events, until this is dropped.
#[derive(Debug)]
pub struct Page(Arc<Broker>);

impl Broker {
    /// Makes a secret that is good for one session, for a minute. With `temporary`, the socket for TCP was started for
    /// pages only: it is stopped when none has been open for half a minute.
    ///
    /// # Errors
    ///
    /// If the kernel has no random numbers.
    pub fn open_page(&self, temporary: bool) -> Result<Token, Error> {
        let secret = random()?;
        let mut inner = self.lock();
        let inner = &mut *inner;
        inner.pages.sessions.offer(secret.hash(), clock::now());
        if temporary && inner.pages.temporary.is_none() {
            inner.pages.temporary = Some(self.idle_tracker.busy());
        }
        self.pages_due(inner);
        Ok(secret)
    }

    /// Exchanges a secret for the token of a new session; `None` if the secret is wrong.
    ///
    /// # Errors
    ///
    /// If the kernel has no random numbers. The secret can be used again.
    pub fn begin_session(&self, secret: &str) -> Result<Option<Token>, Error> {
        let session = random()?;
        let mut inner = self.lock();
        let is_right = inner.pages.sessions.begin(secret, session.hash(), clock::now());
        // The oldest session may have ended.
        self.rights.send_replace(());
        self.pages_due(&inner);
        Ok(is_right.then_some(session))
    }

    /// Whether this is the token of a session.
    pub fn has_session(&self, token: &TokenHash) -> bool {
        self.lock().pages.sessions.has(token)
    }

    /// A page that is open from now on.
    pub fn page(self: &Arc<Self>) -> Page {
        self.lock().pages.sessions.opened();
        Page(Arc::clone(self))
    }

    /// The service is ending, and does not wait for pages.
    pub(super) fn end_pages(&self) {
        self.lock().pages.temporary = None;
    }

    /// Stops the socket, if it listens for pages only and none is open; else sees to it that this is looked at in time.
    pub(super) fn pages_due(&self, inner: &Inner) {
        // The end of the last page asks again.
        let Some(unused) = inner.pages.sessions.unused_at() else { return };
        if inner.pages.temporary.is_none() {
            return;
        }
        if clock::now() < unused {
            return self.deadlines.add(unused, Due::Pages);
        }
        let this = Weak::clone(&self.this);
        tokio::spawn(async move {
            let Some(broker) = this.upgrade() else { return };
            broker.stop_socket().await;
            broker.end_pages();
        });
    }

    /// Stops the socket, unless the user has enabled it meanwhile. Its unit restarts the service.
    async fn stop_socket(&self) {
        let Some(bus) = self.owners.bus() else { return };
        if let Err(error) = units::stop_unless_enabled(&bus, SOCKET).await {
            tracing::warn!("{SOCKET} cannot be stopped: {error}");
        }
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        let mut inner = self.0.lock();
        inner.pages.sessions.closed(clock::now());
        self.0.pages_due(&inner);
    }
}

fn random() -> Result<Token, Error> {
    Token::random().map_err(|error| {
        let message = format!("the kernel has no random numbers: {error}");
        Error::new(ErrorKind::LimitExceeded, message).suggest("try again later")
    })
}
