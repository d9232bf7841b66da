//! The localhost of a project: which of its ports is really meant.

use std::{
    cell::{Cell, RefCell},
    collections::HashSet,
};

use serde_json::Value as Json;

use crate::{
    cli::{remap::not_reached, say, text},
    client::{self, Call, Failure},
    kernel::diag,
    port::{Port, Protocol},
    proxy::{Localhost, Unknown},
    value::Fields,
};

/// The ports of a project. The service is asked for each connection, so that a restart of a server is never missed.
pub(super) struct ProjectPorts {
    project: String,
    /// The ports of the machine that are reached.
    reach: Vec<Port>,
    /// What was said to be out of reach.
    told: RefCell<HashSet<Port>>,
    /// Whether the service did not answer the last time.
    is_silent: Cell<bool>,
}

impl ProjectPorts {
    pub(super) fn new(project: String, reach: Vec<Port>) -> Self {
        Self { project, reach, told: RefCell::default(), is_silent: Cell::default() }
    }

    /// Says once for each port why it is not reached, if something is there.
    async fn tell(&self, port: Port) -> Result<(), Failure> {
        if self.told.borrow().contains(&port) {
            return Ok(());
        }
        let mut filter = Fields::default();
        filter.put("port", port.get());
        let others = list(filter).await?;
        let other = others.iter().find(|lease| is_tcp(lease));
        let sentence = match other {
            Some(lease) => not_reached(port, Some(text(lease, "project_path"))),
            None if diag::is_listened(port, Protocol::Tcp) => not_reached(port, None),
            None => return Ok(()),
        };
        if self.told.borrow_mut().insert(port) {
            say(&sentence);
        }
        Ok(())
    }

    async fn find(&self, port: Port) -> Result<Option<Port>, Failure> {
        // Each connection is a step of its own.
        client::begin_again();
        let mut filter = Fields::default();
        filter.put("project_path", self.project.as_str());
        let real = real(&list(filter).await?, port);
        let real = real.or_else(|| self.reach.contains(&port).then_some(port));
        if real.is_none() {
            self.tell(port).await?;
        }
        Ok(real)
    }
}

impl Localhost for ProjectPorts {
    async fn real(&self, port: Port) -> Result<Option<Port>, Unknown> {
        let found = self.find(port).await;
        let was_silent = self.is_silent.replace(found.is_err());
        found.map_err(|failure| {
            if !was_silent {
                say(&failure);
            }
            Unknown
        })
    }
}

async fn list(filter: Fields) -> Result<Vec<Json>, Failure> {
    match client::call(&Call::List { filter }).await? {
        Json::Array(leases) => Ok(leases),
        _ => Ok(Vec::new()),
    }
}

/// The port that one of a project's localhost really is: that of its mapping, or itself if the project has leased this number.
fn real(leases: &[Json], port: Port) -> Option<Port> {
    let number = |lease: &Json, key: &str| lease[key].as_u64().and_then(Port::new);
    let with =
        |key: &str| leases.iter().find(|lease| is_tcp(lease) && number(lease, key) == Some(port));
    with("asked").or_else(|| with("port")).and_then(|lease| number(lease, "port"))
}

fn is_tcp(lease: &Json) -> bool {
    text(lease, "protocol") != Protocol::Udp.as_str()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_was_asked_for_comes_before_a_real_number_and_udp_is_another_port() {
        let lease = |asked: Json, port: u16, protocol: &str| json!({"asked": asked, "port": port, "protocol": protocol});
        let leases = [
            lease(json!(5353), 21_003, "udp"),
            lease(Json::Null, 3000, "tcp"),
            lease(json!(3000), 21_000, "tcp"),
            lease(json!(3001), 21_001, "tcp"),
        ];
        let real = |port| real(&leases, Port::new(port)?).map(|port| u64::from(port.get()));
        assert_eq!(real(3000), Some(21_000));
        assert_eq!(real(3001), Some(21_001));
        assert_eq!(real(21_001), Some(21_001));
        assert_eq!((real(5353), real(21_003), real(3002)), (None, None, None));
    }
}
