//! What the supervisor of a tree of processes asks the service.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde_json::Value as Json;

use super::super::{owner::put_own_process, text};
use crate::{
    client::{self, Call},
    error::Error,
    port::{Port, Protocol},
    remap::{
        control::Task,
        supervisor::Service,
        table::{Found, Mapping, Mode},
    },
    service_type::Hold,
    value::Fields,
};

/// How long a call of bind or connect may wait for the service.
const PATIENCE: Duration = Duration::from_secs(1);

/// The leases of a supervisor.
pub(super) struct Leases {
    service: Client,
    task: Task,
    held: Arc<Mutex<Vec<Held>>>,
}

/// A lease that this process holds.
struct Held {
    port: Port,
    /// As the service has answered it.
    lease: Json,
}

/// Asks the service, and does not wait for long.
struct Client(std::io::Result<tokio::runtime::Runtime>);

impl Client {
    fn new() -> Self {
        Self(tokio::runtime::Builder::new_current_thread().enable_all().build())
    }

    fn ask(&self, call: &Call) -> Result<Json, String> {
        let runtime = self.0.as_ref().map_err(ToString::to_string)?;
        let answer = async { tokio::time::timeout(PATIENCE, client::call(call)).await };
        match runtime.block_on(answer) {
            Ok(answer) => answer.map_err(|failure| failure.to_string()),
            Err(_) => Err("the service does not answer".to_owned()),
        }
    }
}

impl Leases {
    pub(super) fn new(task: &Task) -> Self {
        // A supervisor says nothing itself: the terminal is the command's.
        client::set_patience(client::Patience {
            limit: client::Patience::LIMIT,
            tell: |_| {},
            complain: |_| {},
        });
        Self { service: Client::new(), task: task.clone(), held: Arc::default() }
    }

    fn ask(&self, call: &Call) -> Result<Json, String> {
        self.service.ask(call)
    }

    /// The leases that match.
    fn list(&self, filter: Fields) -> Result<Vec<Json>, String> {
        match self.ask(&Call::List { filter })? {
            Json::Array(leases) => Ok(leases),
            _ => Ok(Vec::new()),
        }
    }

    fn of_project(&self) -> Fields {
        let mut fields = Fields::default();
        fields.put("project_path", self.task.project.as_str());
        fields
    }

    fn service_type(&self, protocol: Protocol, asked: Port) -> &str {
        let mut maps = self.task.maps.iter();
        let named = maps.find(|named| named.asked == asked && named.protocol == protocol);
        named.map_or(&self.task.service_type, |named| &named.service_type)
    }

    /// Whether the project has had a mapping for this port.
    fn was_mapped(&self, protocol: Protocol, asked: Port) -> Result<bool, String> {
        let mut filter = self.of_project();
        filter.put("asked", asked.get());
        filter.put("protocol", protocol.as_str());
        let known = self.ask(&Call::Remembered { filter })?;
        Ok(known.as_array().is_some_and(|known| !known.is_empty()))
    }
}

impl Service for Leases {
    fn lease(&mut self, protocol: Protocol, asked: Port) -> Result<Mapping, String> {
        let mut options = self.of_project();
        options.put("asked", asked.get());
        if self.task.mode == Mode::Conflict {
            options.put("remap", "conflict");
        }
        options.put("protocol", protocol.as_str());
        put_own_process(&mut options);
        let service_type = self.service_type(protocol, asked).to_owned();
        let lease = self.ask(&Call::Allocate { service_type, options })?;
        let port = number(&lease, "port").ok_or("the service has answered no port")?;
        let mut held = all(&self.held);
        held.retain(|held| held.port != port);
        held.push(Held { port, lease });
        Ok(Mapping { asked, port, protocol })
    }

    fn answer(&self, port: Port) -> Json {
        let held = all(&self.held);
        let lease = held.iter().find(|held| held.port == port).map(|held| held.lease.clone());
        lease.unwrap_or_default()
    }

    fn find(&mut self, protocol: Protocol, port: Port) -> Result<Found, String> {
        let own = self.list(self.of_project())?;
        let is_it = |lease: &&Json, key: &str| {
            lease["protocol"] == protocol.as_str() && number(lease, key) == Some(port)
        };
        let is_mapped = own.iter().any(|lease| is_it(&lease, "asked"));
        if !is_mapped && own.iter().any(|lease| is_it(&lease, "port")) {
            return Ok(Found::Own);
        }
        // Whoever knows a mapping is a holder of its lease, so that it stays true.
        if is_mapped || self.task.mode == Mode::Conflict && self.was_mapped(protocol, port)? {
            return Ok(Found::Asked(self.lease(protocol, port)?));
        }
        let mut filter = Fields::default();
        filter.put("port", port.get());
        let all = self.list(filter)?;
        let foreign = all.iter().find(|lease| is_it(lease, "port"));
        Ok(match foreign {
            Some(lease) => Found::Foreign(text(lease, "project_path").to_owned()),
            None => Found::Nobody,
        })
    }

    fn keep(&mut self, port: Port) -> Result<bool, String> {
        let mut filter = Fields::default();
        filter.put("port", port.get());
        filter.put("protocol", Protocol::Tcp.as_str());
        let lease = self.list(filter)?.into_iter().next().unwrap_or_default();
        if lease["hold"] == Hold::Client.as_str() {
            return Ok(false);
        }
        let lease_id = text(&lease, "lease_id").parse().map_err(|error: Error| error.message)?;
        self.ask(&Call::SetHold { lease_id, hold: Hold::Client }).map(|_| true)
    }

    fn another(&mut self, Mapping { asked, port, protocol }: Mapping) -> Result<Mapping, String> {
        let lease_id = text(&self.answer(port), "holder_id").to_owned();
        self.ask(&Call::Release { lease_id })?;
        all(&self.held).retain(|held| held.port != port);
        self.lease(protocol, asked)
    }

    fn give_back(&self) -> impl FnOnce() + Send + 'static {
        let held = Arc::clone(&self.held);
        move || {
            let service = Client::new();
            for Held { lease, .. } in all(&held).drain(..) {
                let lease_id = text(&lease, "holder_id").to_owned();
                // Without an answer, they end with this process.
                if service.ask(&Call::Release { lease_id }).is_err() {
                    break;
                }
            }
        }
    }
}

fn all(held: &Mutex<Vec<Held>>) -> MutexGuard<'_, Vec<Held>> {
    held.lock().unwrap_or_else(PoisonError::into_inner)
}

fn number(lease: &Json, key: &str) -> Option<Port> {
    lease[key].as_u64().and_then(Port::new)
}
