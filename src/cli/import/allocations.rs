//! What styxy 1.x knows of its allocations: the answer of its daemon, and the state file in its newer and its older form.

use std::str::FromStr;

use serde_json::Value as Json;

use super::LeftOut;
use crate::{
    error::Error,
    lease::{InstanceId, LeaseId, ProjectPath, ServiceName},
    port::Port,
    service_type::ServiceTypeName,
    word::{counted, shortened},
};

/// An allocation of styxy 1.x.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Allocation {
    pub(super) port: Port,
    /// Its lock ID: clients of styxy 1.x release the port by it.
    pub(super) lease_id: LeaseId,
    pub(super) service_type: ServiceTypeName,
    pub(super) service_name: Option<ServiceName>,
    pub(super) instance_id: Option<InstanceId>,
    pub(super) project_path: Option<ProjectPath>,
}

/// Allocations by port, and what cannot be read as one.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Allocations {
    pub(super) good: Vec<Allocation>,
    pub(super) left_out: Vec<LeftOut>,
}

impl Allocation {
    /// The allocation in words: `port 3000 of dev web`.
    pub(super) fn describe(&self) -> String {
        let Self { port, service_type, .. } = self;
        let name = self.service_name.as_ref().map(|name| format!(" {}", name.as_str()));
        format!("port {port} of {service_type}{}", name.unwrap_or_default())
    }
}

/// Those in the answer to `GET /allocations`.
pub(super) fn of_daemon(answer: &Json) -> Allocations {
    let mut allocations = Allocations::default();
    allocations.add_all(&answer["allocations"]);
    allocations.sorted()
}

/// Those in the text of `daemon.state`.
///
/// # Errors
///
/// Why it cannot be read.
pub(super) fn of_state(text: &str) -> Result<Allocations, String> {
    let state: Json =
        serde_json::from_str(text).map_err(|error| format!("is not valid JSON: {error}"))?;
    if !state.is_object() {
        return Err("is not an object, as styxy 1.x writes it".to_owned());
    }
    let mut allocations = Allocations::default();
    allocations.add_all(&state["allocations"]);
    for single in each(&state["singletonServices"]) {
        let id = text_of(single, &["lockId"]).and_then(|id| id.parse().ok());
        let is_known = id.is_some_and(|id| allocations.good.iter().any(|a| a.lease_id == id));
        if !is_known {
            let service_type = text_of(single, &["serviceType"]).unwrap_or("without a type");
            let what = format!("single-instance service {}", shortened(service_type));
            let reason = "it has no allocation: the next request for it gets a port";
            allocations.left_out.push(LeftOut::new(what, reason));
        }
    }
    let instances = each(&state["instances"]).count();
    if instances > 0 {
        let reason = "instances register themselves when they start";
        let what = counted(instances as u64, "instance");
        allocations.left_out.push(LeftOut::new(what, reason));
    }
    Ok(allocations.sorted())
}

impl Allocations {
    fn add_all(&mut self, list: &Json) {
        for entry in each(list) {
            match allocation(entry) {
                Ok((allocation, left_out)) => {
                    self.good.push(allocation);
                    self.left_out.extend(left_out);
                }
                Err(reason) => {
                    let what =
                        format!("an allocation of port {}", shortened(&entry["port"].to_string()));
                    self.left_out.push(LeftOut::new(what, reason));
                }
            }
        }
    }

    fn sorted(mut self) -> Self {
        self.good.sort_by_key(|allocation| allocation.port);
        self
    }
}

/// The elements of a list, or the values of an object.
fn each(list: &Json) -> Box<dyn Iterator<Item = &Json> + '_> {
    match list {
        Json::Array(values) => Box::new(values.iter()),
        Json::Object(fields) => Box::new(fields.values()),
        _ => Box::new(std::iter::empty()),
    }
}

/// The first text at one of these keys: styxy 1.x has changed their spelling.
fn text_of<'a>(entry: &'a Json, keys: &[&str]) -> Option<&'a str> {
    keys.iter().find_map(|key| entry[*key].as_str())
}

/// An allocation, and what it says that styxy cannot say of a lease.
fn allocation(entry: &Json) -> Result<(Allocation, Vec<LeftOut>), String> {
    let port = entry["port"].as_u64().and_then(Port::new);
    let port = port.ok_or("that is no port from 1 to 65535")?;
    let lease_id = text_of(entry, &["lockId", "lock_id"]).ok_or("it has no lock ID")?;
    let lease_id = lease_id.parse().map_err(|_| "its lock ID is no UUID")?;
    let service_type = text_of(entry, &["service_type", "serviceType"]).unwrap_or_default();
    let service_type = service_type
        .parse()
        .map_err(|_| format!("{:?} is no service type", shortened(service_type)))?;
    let mut left_out = Vec::new();
    // What styxy 1.x writes where it was told nothing is not a name.
    let service_name =
        optional(entry, ["service_name", "serviceName"], "unnamed-service", port, &mut left_out);
    let instance_id =
        optional(entry, ["instance_id", "instanceId"], "default", port, &mut left_out);
    let project_path = optional(entry, ["project_path", "projectPath"], "", port, &mut left_out);
    let allocation =
        Allocation { port, lease_id, service_type, service_name, instance_id, project_path };
    Ok((allocation, left_out))
}

/// An optional field of an allocation; `none` is the word for its absence.
fn optional<T: FromStr<Err = Error>>(
    entry: &Json,
    keys: [&str; 2],
    none: &str,
    port: Port,
    left_out: &mut Vec<LeftOut>,
) -> Option<T> {
    let text = text_of(entry, &keys).filter(|text| !text.is_empty() && *text != none)?;
    match text.parse() {
        Ok(parsed) => Some(parsed),
        Err(error) => {
            let what = format!("{} of port {port}", keys[0]);
            left_out.push(LeftOut::new(what, error.message));
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const ID: &str = "6e1f9c4e-9df7-4f0e-8e2b-0f3f0e6f3a11";
    const OTHER: &str = "0b9cbb1c-2f53-4f39-a6b1-4f6f3d1d7c22";

    fn told(left_out: &[LeftOut]) -> Vec<String> {
        left_out.iter().map(|left| format!("{}: {}", left.what, left.reason)).collect()
    }

    #[test]
    fn both_forms_of_the_state_say_the_same() {
        let newer = json!({
            "saved_at": "2025-10-10T10:00:00.000Z",
            "allocations": [
                {"port": 8000, "lockId": OTHER, "serviceType": "api", "serviceName": "unnamed-service",
                 "instanceId": "default", "projectPath": "", "process_id": 7},
                {"port": 3000, "lockId": ID, "service_type": "dev", "service_name": "web", "instance_id": "a-1",
                 "project_path": "/shop", "serviceType": "dev", "userAgent": "unknown"},
            ],
            "instances": [],
            "singletonServices": [],
        });
        let older = json!({
            "allocations": {
                "3000": {"port": 3000, "lock_id": ID, "service_type": "dev", "service_name": "web",
                         "instance_id": "a-1", "project_path": "/shop"},
                "8000": {"port": 8000, "lock_id": OTHER, "service_type": "api",
                         "service_name": "unnamed-service", "instance_id": "default"},
            },
            "instances": {},
        });
        let read = of_state(&newer.to_string()).unwrap();
        assert_eq!(read, of_state(&older.to_string()).unwrap());
        assert_eq!(read, of_daemon(&newer));
        let [web, api] = &read.good[..] else { panic!("{read:?}") };
        assert_eq!(web.describe(), "port 3000 of dev web");
        assert_eq!(
            (web.lease_id.to_string(), web.project_path.as_ref().unwrap().as_str()),
            (ID.to_owned(), "/shop")
        );
        assert_eq!(web.instance_id.as_ref().unwrap().as_str(), "a-1");
        assert_eq!((&api.service_name, &api.instance_id, &api.project_path), (&None, &None, &None));
    }

    #[test]
    fn what_cannot_be_read_is_left_out_with_a_reason_and_the_rest_is_taken() {
        let state = json!({
            "allocations": [
                {"port": 0, "lockId": ID, "service_type": "dev"},
                {"port": 3000, "service_type": "dev"},
                {"port": 3000, "lockId": "7", "service_type": "dev"},
                {"port": 3000, "lockId": ID, "service_type": "no type"},
                null,
                {"port": 3000, "lockId": ID, "service_type": "dev", "project_path": "shop"},
            ],
            "instances": [{"id": "a"}, {"id": "b"}],
            "singletonServices": {"dev": {"serviceType": "dev", "lockId": ID}, "ai": {"serviceType": "ai"}},
        });
        let read = of_state(&state.to_string()).unwrap();
        assert_eq!(read.good.len(), 1);
        assert_eq!(read.good[0].project_path, None);
        let told = told(&read.left_out);
        for part in [
            "port 0: that is no port",
            "port 3000: it has no lock ID",
            "its lock ID is no UUID",
            "\"no type\" is no service type",
            "port null: that is no port",
            "project_path of port 3000: ",
            "single-instance service ai: it has no allocation",
            "2 instances: ",
        ] {
            assert!(told.iter().any(|line| line.contains(part)), "{part}: {told:?}");
        }
        assert_eq!(told.len(), 8, "{told:?}");
        for broken in ["", "{", "[]", "7"] {
            assert!(of_state(broken).is_err(), "{broken:?}");
        }
    }
}
