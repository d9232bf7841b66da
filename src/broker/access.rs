//! The token of the HTTP door over TCP, and refused attempts to use that door.

use tokio::sync::watch;

use super::Broker;
use crate::{
    change::{Change, Denial},
    error::Error,
    lease::Client,
    port::Protocol,
    token::TokenHash,
};

impl Broker {
    /// The hash of the token; `None` before the first one was set.
    pub fn token(&self) -> Option<TokenHash> {
        self.lock().registry.token()
    }

    /// Sets the hash of the token. From then on, every other token is refused.
    pub fn set_token(&self, sha256: TokenHash, client: &Client) -> Result<(), Error> {
        let mut inner = self.lock();
        let inner = &mut *inner;
        self.usable(inner)?;
        if inner.registry.token() == Some(sha256) {
            return Ok(());
        }
        self.commit(inner, vec![Change::SetToken { sha256 }], Some(client))?;
        self.rights.send_replace(());
        Ok(())
    }

    /// A receiver that is notified when a token or a session that was good may not be any more.
    pub fn rights(&self) -> watch::Receiver<()> {
        self.rights.subscribe()
    }

    /// Counts and logs a request that was refused before it was read. `reason` is the code of the answer.
    pub fn kept_out(&self, reason: &'static str, client: &Client) {
        let denial = Denial {
            service_type: None,
            service_name: None,
            instance_id: None,
            project_path: None,
            port: None,
            protocol: Protocol::Tcp,
            reason: reason.to_owned(),
            count: 1,
        };
        self.denied(denial, reason, client);
    }
}
