//! Pages in a browser: the secrets that open them, their sessions, and the socket that listens only for them.
//!
//! Secrets and sessions are in memory, and end with the service. That the socket listens only for pages is marked in the
//! runtime directory: the next service stops it if no page comes.
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
    port::Port,
    surroundings::ForPages,
    token::{Token, TokenHash},
};

/// The unit of the socket.
const SOCKET: &str = "styxy-tcp.socket";

/// The pages.
#[derive(Debug, Default)]
pub(super) struct Pages {
    sessions: Sessions,
    /// The mark that the socket listens for pages only; `None` until the daemon says where it is.
    mark: Option<ForPages>,
    /// Held while the socket listens for pages only: a service that is gone could not stop it.
    temporary: Option<CallGuard>,
    /// The socket is about to be stopped, which restarts the service.
    is_stopping: bool,
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
    /// If the kernel has no random numbers, or the socket is about to be stopped: the secret would be lost.
    pub fn open_page(&self, temporary: bool) -> Result<Token, Error> {
        let secret = random()?;
        let mut inner = self.lock();
        let inner = &mut *inner;
        if inner.pages.is_stopping {
            let message = "HTTP over TCP is being switched off, because no page was open";
            return Err(Error::new(ErrorKind::LimitExceeded, message).suggest("try again"));
        }
        inner.pages.sessions.offer(secret.hash(), clock::now());
        if temporary {
            self.mark_temporary(&mut inner.pages);
        }
        self.pages_due(inner);
        Ok(secret)
    }

    /// Notes that the service listens on these TCP ports, and where the mark is that says whether for pages only. If so, it
    /// does for half a minute, or until a page that comes within that time is closed.
    pub fn listens(&self, ports: Vec<Port>, mark: Option<ForPages>) {
        let mut inner = self.lock();
        let pages = &mut inner.pages;
        match &mark {
            Some(mark) if !ports.is_empty() && mark.is_set() => {
                pages.sessions.awaited(clock::now());
                pages.temporary = Some(self.idle_tracker.busy());
            }
            // Somebody has stopped the socket. Other services of this user never have it.
            Some(mark) if ports.is_empty() && self.sight.is_unit => mark.clear(),
            _ => {}
        }
        pages.mark = mark;
        // Nobody has set it before.
        let _ = self.tcp_ports.set(ports);
        self.pages_due(&inner);
    }

    /// Whether the service listens on this TCP port itself.
    pub fn listens_on(&self, port: Port) -> bool {
        self.tcp_ports.get().is_some_and(|ports| ports.contains(&port))
    }

    /// Whether it listens for pages only: a service that follows this one has to stop the socket.
    pub fn listens_for_pages(&self) -> bool {
        let is_marked = self.lock().pages.mark.as_ref().is_some_and(ForPages::is_set);
        is_marked && self.tcp_ports.get().is_some_and(|ports| !ports.is_empty())
    }

    fn mark_temporary(&self, pages: &mut Pages) {
        // The command has set it; a service that started before the socket did may have cleared it since.
        if let Some(Err(error)) = pages.mark.as_ref().map(ForPages::set) {
            tracing::warn!("a service after this one would not stop {SOCKET}: {error}");
        }
        if pages.temporary.is_none() {
            pages.temporary = Some(self.idle_tracker.busy());
        }
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
        if inner.pages.temporary.is_none() || inner.pages.is_stopping {
            return;
        }
        // The end of the last page asks again.
        let Some(unused) = inner.pages.sessions.unused_at() else { return };
        if clock::now() < unused {
            return self.deadlines.add(unused, Due::Pages);
        }
        let this = Weak::clone(&self.this);
        tokio::spawn(async move {
            let Some(broker) = this.upgrade() else { return };
            if let Err(error) = broker.stop_socket().await {
                tracing::warn!("{SOCKET} cannot be stopped: {error}");
                broker.lock().pages.is_stopping = false;
                broker.end_pages();
            }
        });
    }

    /// Stops the socket, unless the user has enabled it or a page has come meanwhile. Its unit restarts the service.
    async fn stop_socket(&self) -> zbus::Result<()> {
        let Some(bus) = self.owners.bus() else {
            self.end_pages();
            return Ok(());
        };
        let is_enabled = units::is_enabled(&bus, SOCKET).await?;
        let mark = {
            let mut inner = self.lock();
            let pages = &mut inner.pages;
            let mark = pages.mark.clone();
            if is_enabled || mark.as_ref().is_some_and(|mark| !mark.is_set()) {
                pages.temporary = None;
                drop(inner);
                mark.iter().for_each(ForPages::clear);
                return Ok(());
            }
            let is_unused = pages.sessions.unused_at().is_some_and(|unused| unused <= clock::now());
            if pages.is_stopping || !is_unused {
                return Ok(());
            }
            // From here on a secret would be lost: it is not given.
            pages.is_stopping = true;
            mark
        };
        units::stop(&bus, SOCKET).await?;
        // Not before: a service that was killed in between would leave the socket.
        mark.iter().for_each(ForPages::clear);
        self.end_pages();
        Ok(())
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

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;
    use crate::broker::Places;

    /// A service, and where the mark is.
    fn service(is_unit: bool) -> (TempDir, Arc<Broker>, ForPages) {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().to_owned();
        let (broker, _) = Broker::start(Places { state, is_unit, ..Places::default() }).unwrap();
        let mark = ForPages::in_folder(&folder.path().join("runtime"));
        (folder, broker, mark)
    }

    fn tcp() -> Vec<Port> {
        vec![Port::HTTP]
    }

    fn is_temporary(broker: &Broker) -> bool {
        broker.lock().pages.temporary.is_some()
    }

    #[tokio::test]
    async fn the_service_after_the_one_that_was_to_stop_the_socket_has_to_do_it() {
        let (_first, broker, mark) = service(true);
        broker.listens(tcp(), Some(mark.clone()));
        assert!(!is_temporary(&broker) && !broker.listens_for_pages());
        broker.open_page(false).unwrap();
        assert!(!is_temporary(&broker) && !mark.is_set());
        broker.open_page(true).unwrap();
        assert!(is_temporary(&broker) && mark.is_set());
        broker.end_pages();
        assert!(broker.listens_for_pages(), "it has ended, and the socket goes on");

        let (_second, broker, _) = service(true);
        broker.listens(tcp(), Some(mark));
        assert!(is_temporary(&broker));
        let unused = broker.lock().pages.sessions.unused_at().unwrap();
        assert!(unused > clock::now(), "a page may come again");
    }

    #[tokio::test]
    async fn a_unit_without_the_socket_clears_the_mark_and_no_other_service_does() {
        for is_unit in [false, true] {
            let (_folder, broker, mark) = service(is_unit);
            mark.set().unwrap();
            broker.listens(Vec::new(), Some(mark.clone()));
            assert_eq!(mark.is_set(), !is_unit);
            assert!(!is_temporary(&broker) && !broker.listens_for_pages());
        }
    }

    #[tokio::test]
    async fn no_secret_is_given_once_the_socket_is_being_stopped() {
        let (_folder, broker, mark) = service(true);
        broker.listens(tcp(), Some(mark));
        broker.lock().pages.is_stopping = true;
        let refused = broker.open_page(true).err().unwrap();
        assert_eq!(refused.kind, ErrorKind::LimitExceeded);
        assert!(!is_temporary(&broker));
    }
}
