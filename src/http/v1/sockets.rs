//! What listens on TCP ports, by `sock_diag(7)`. Which process it is the service cannot see, but it knows itself,
//! and the owner of the port's lease, if it has one.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
};

use axum::{
    Json,
    extract::{Path, State},
    response::{IntoResponse, Response},
};
use serde_json::{Value as Body, json};

use super::{
    super::routes::{Failure, Parameters, Part, read_query},
    NO_INSTANCE, allocation, or,
};
use crate::{
    broker::Broker,
    error::{Error, Shortage},
    kernel::{
        diag::{self, Socket},
        listeners::user,
        process::comm,
    },
    port::{Port, PortRange, Protocol},
    request::{Filter, Listing, unknown},
    time::Timestamp,
    value::{Fields, Value},
};

/// The ports that 1.x looked at if a request named none.
const USUAL: &str = "3000-9999";

/// What 1.x said where it did not know.
const UNKNOWN: &str = "unknown";

/// What the leases of TCP ports and the sockets that listen say of a range.
struct Ports {
    leases: BTreeMap<Port, Body>,
    listeners: BTreeMap<Port, Socket>,
}

impl Ports {
    fn of(broker: &Broker, range: PortRange) -> Result<Self, Failure> {
        let listeners = listeners(range)?;
        // Of one port only its leases are needed, and whether they are listened on.
        let only = Some(range.first()).filter(|_| range.len() == 1);
        let filter = Filter { port: only, ..Filter::default() };
        let leases = broker.list(&Listing { filter, ..Listing::default() })?;
        let leases = leases.iter().map(allocation).filter(|lease| lease["protocol"] != "udp");
        let leases =
            leases.filter_map(|lease| Some((lease["port"].as_u64().and_then(Port::new)?, lease)));
        let leases = leases.filter(|(port, _)| range.contains(*port)).collect();
        Ok(Self { leases, listeners })
    }

    fn lease(&self, port: Port) -> Option<&Body> {
        self.leases.get(&port)
    }

    /// What 1.x called an observation: the listener of a port, and the service whose port it is.
    fn observation(&self, broker: &Broker, port: Port) -> Option<Body> {
        let socket = self.listeners.get(&port)?;
        let none = Body::Null;
        let lease = self.lease(port).unwrap_or(&none);
        let or_unknown = |value| or(value, UNKNOWN);
        let process = process(broker, socket, self.lease(port));
        Some(json!({
            "port": port.get(),
            "pid": process["pid"],
            "process": or_unknown(&process["name"]),
            "command": or_unknown(&lease["program"]),
            "service_type": or_unknown(&lease["service_type"]),
            "instance_id": match &lease["instance_id"] {
                Body::String(id) if id != NO_INSTANCE => id.as_str(),
                _ => UNKNOWN,
            },
            "timestamp": Timestamp::now().0,
        }))
    }

    fn observations(&self, broker: &Broker) -> Vec<Body> {
        self.listeners.keys().filter_map(|port| self.observation(broker, *port)).collect()
    }
}

/// The socket that listens on each port of a range. Where the kernel does not tell, none is known.
fn listeners(range: PortRange) -> Result<BTreeMap<Port, Socket>, Error> {
    let mut listeners = BTreeMap::new();
    let note = |socket: Socket| {
        listeners.entry(socket.port).or_insert(socket);
    };
    match diag::sockets(Protocol::Tcp, range, note) {
        Err(error) if let Some(shortage) = Shortage::of(&error) => Err(shortage.into()),
        _ => Ok(listeners),
    }
}

/// Who listens: the user, and if the port is leased, its owner; or else this service, if it is its own port.
fn process(broker: &Broker, socket: &Socket, lease: Option<&Body>) -> Body {
    let pid = match lease {
        Some(lease) => lease["pid"].as_u64().and_then(|pid| pid.try_into().ok()),
        None => broker.listens_on(socket.port).then(std::process::id),
    };
    json!({"name": pid.and_then(comm).as_deref(), "pid": pid, "user": user(socket.uid).as_ref()})
}

fn usage(broker: &Broker, socket: &Socket, lease: Option<&Body>) -> Body {
    json!({
        "port": socket.port.get(),
        "protocol": socket.protocol.as_str(),
        "state": "LISTEN",
        "local_address": SocketAddr::new(socket.address, socket.port.get()).to_string(),
        "process": process(broker, socket, lease),
        "tool": "sock_diag",
    })
}

/// Adds to the answer of `GET /check/{port}` who has the port and what listens on it, if that can be found out.
pub(in crate::http) fn put_usage(
    broker: &Broker,
    checked: &mut Body,
    port: Port,
    lease: Option<&Fields>,
) {
    let lease = lease.map(allocation);
    let listeners = match checked["protocol"].as_str() {
        Some("udp") => BTreeMap::new(),
        _ => listeners(PortRange::only(port)).unwrap_or_default(),
    };
    let socket = listeners.get(&port);
    checked["system_usage"] = json!(socket.map(|socket| usage(broker, socket, lease.as_ref())));
    checked["allocated_to"] = json!(lease);
}

/// What is in use in a range.
pub(in crate::http) async fn scan(
    State(broker): State<Arc<Broker>>,
    bounds: Parameters,
) -> Result<Response, Failure> {
    let (mut start, mut end) = USUAL.parse::<PortRange>().map(|r| (r.first(), r.last()))?;
    for (key, value) in read_query(bounds?)? {
        let bound = match key.as_str() {
            "start" => &mut start,
            "end" => &mut end,
            _ => return Err(unknown("parameter", &key, &["start", "end"]).into()),
        };
        let Value::Str(text) = value else { continue };
        *bound = text.parse::<Port>()?;
    }
    let range = PortRange::new(start, end).ok_or_else(|| {
        Error::invalid(format!("the range {start}-{end} is reversed: give {end} to {start}"))
    })?;
    let ports = Ports::of(&broker, range)?;
    let in_use: BTreeSet<_> = ports.leases.keys().chain(ports.listeners.keys()).collect();
    let in_use = in_use.into_iter().map(|port| {
        let lease = ports.lease(*port);
        json!({
            "port": port.get(),
            "allocated_to": lease,
            "system_usage": ports.listeners.get(port).map(|socket| usage(&broker, socket, lease)),
        })
    });
    let in_use: Vec<_> = in_use.collect();
    let scanned = json!({"success": true, "scan_range": range.to_string(), "ports_in_use": in_use});
    Ok(Json(scanned).into_response())
}

pub(in crate::http) async fn observe(
    State(broker): State<Arc<Broker>>,
    port: Part,
) -> Result<Response, Failure> {
    let Path(port) = port?;
    let port: Port = port.parse()?;
    let observation = Ports::of(&broker, PortRange::only(port))?.observation(&broker, port);
    let mut answer = json!({"success": true, "port": port.get(), "bound": observation.is_some()});
    match observation {
        Some(observation) => answer["observation"] = observation,
        None => answer["message"] = "Port is not currently bound".into(),
    }
    Ok(Json(answer).into_response())
}

pub(in crate::http) async fn observe_all(
    State(broker): State<Arc<Broker>>,
) -> Result<Response, Failure> {
    let observations = Ports::of(&broker, PortRange::ALL)?.observations(&broker);
    let answer = json!({
        "success": true,
        "total": observations.len(),
        "stats": stats(&broker, &observations),
        "observations": observations,
    });
    Ok(Json(answer).into_response())
}

pub(in crate::http) async fn observation_stats(
    State(broker): State<Arc<Broker>>,
) -> Result<Response, Failure> {
    let observations = Ports::of(&broker, PortRange::ALL)?.observations(&broker);
    let answer = json!({
        "success": true,
        "stats": stats(&broker, &observations),
        "timestamp": Timestamp::now().to_string(),
    });
    Ok(Json(answer).into_response())
}

fn stats(broker: &Broker, observations: &[Body]) -> Body {
    let by = |key: &str| {
        let mut counts = BTreeMap::<&str, usize>::new();
        for name in observations.iter().filter_map(|observation| observation[key].as_str()) {
            *counts.entry(name).or_default() += 1;
        }
        json!(counts)
    };
    json!({
        "total_ports": observations.len(),
        "by_service_type": by("service_type"),
        "by_instance": by("instance_id"),
        "active_instances": broker.instance_count(),
    })
}
