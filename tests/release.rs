//! What `styxy release` asks of the service and what it says, with a service that the test plays.

mod support;

use std::{
    collections::HashMap,
    process::Output,
    sync::{Arc, Mutex},
};

use serde_json::{Value as Json, json};
use support::{Home, bus::Bus};
use zbus::{Connection, DBusError, Variant, interface};

const PATH: &str = "/org/styxy/Styxy1";

/// A service with a lease of each of three ports, of which the second cannot be released.
struct Service {
    asked: Arc<Mutex<Vec<String>>>,
}

#[derive(Debug, DBusError)]
#[zbus(prefix = "org.styxy.Styxy1.Error")]
enum Refusal {
    NoSuchLease(String),
}

fn id(port: u16) -> String {
    format!("00000000-0000-0000-0000-{port:012}")
}

impl Service {
    fn note(&self, what: String) {
        self.asked.lock().unwrap().push(what);
    }
}

#[interface(name = "org.styxy.Styxy1")]
impl Service {
    fn list(&self, filter: HashMap<String, Variant<'_>>) -> Vec<HashMap<&str, Variant<'static>>> {
        self.note("List".to_owned());
        let lease = |port: u16| {
            let service_type = Variant::from("mine");
            HashMap::from([
                ("port", Variant::U16(port)),
                ("lease_id", id(port).into()),
                ("service_type", service_type),
            ])
        };
        let is_meant = |port: &u16| match (filter.get("port"), filter.get("lease_id")) {
            (Some(Variant::U16(wanted)), _) => port == wanted,
            (_, Some(Variant::Str(wanted))) => id(*port) == wanted.as_str(),
            // None has a name.
            _ => !filter.contains_key("service_name"),
        };
        (3_000..=3_002).filter(is_meant).map(lease).collect()
    }

    fn release(&self, lease_id: &str) -> Result<u16, Refusal> {
        self.note(format!("Release {}", &lease_id[32..]));
        let port: u16 = lease_id[32..].parse().unwrap();
        if port == 3_001 {
            return Err(Refusal::NoSuchLease("there is no such lease".to_owned()));
        }
        Ok(port)
    }

    fn release_matching(&self, filter: HashMap<String, Variant<'_>>) -> u32 {
        let mut keys: Vec<_> = filter.into_keys().collect();
        keys.sort();
        self.note(format!("ReleaseMatching {}", keys.join(" ")));
        3
    }
}

/// Runs the command beside that service: what it has printed, and what it has asked.
async fn run(bus: &Bus, arguments: &[&str]) -> (Output, Vec<String>) {
    let home = Home::with_type();
    let asked = Arc::default();
    let service: Connection = bus.connect().await;
    service.object_server().at(PATH, Service { asked: Arc::clone(&asked) }).await.unwrap();
    service.request_name("org.styxy.Styxy1").await.unwrap();
    let mut command = home.styxy();
    command.env("DBUS_SESSION_BUS_ADDRESS", &bus.address).arg("release").args(arguments);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    service.close().await.unwrap();
    let asked = asked.lock().unwrap().clone();
    (output, asked)
}

fn printed(output: &Output) -> Json {
    serde_json::from_slice(&output.stdout).unwrap()
}

#[tokio::test]
async fn what_a_filter_means_is_released_by_one_call_if_nobody_is_to_keep_it() {
    let Some(bus) = Bus::start() else { return };
    let filter = ["--type", "mine", "--instance", "a", "-y", "--json"];
    let (output, asked) = run(&bus, &[&filter[..], &["--all"]].concat()).await;
    assert!(output.status.success());
    assert_eq!(asked, ["List", "ReleaseMatching instance_id service_type"]);
    let all = (3_000..=3_002).map(|port| json!({"port": port, "lease_id": id(port)}));
    assert_eq!(printed(&output), json!({"leases": all.collect::<Json>()}));
}

#[tokio::test]
async fn what_a_filter_means_and_has_ended_meanwhile_is_no_failure() {
    let Some(bus) = Bus::start() else { return };
    let (output, asked) = run(&bus, &["--type", "mine", "-y", "--json"]).await;
    assert!(output.status.success(), "{output:?}");
    assert_eq!(asked, ["List", "Release 3000", "Release 3001", "Release 3002"]);
    let told = [3_000, 3_002].map(|port| json!({"port": port, "lease_id": id(port)}));
    assert_eq!(printed(&output), json!({"leases": told}));
}

#[tokio::test]
async fn a_lease_that_is_named_several_times_is_released_once() {
    let Some(bus) = Bus::start() else { return };
    let (output, asked) = run(&bus, &["3000", "3000", &id(3_000)]).await;
    assert!(output.status.success());
    assert_eq!(asked[3..], ["Release 3000"]);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "released port 3000 of mine\n");
}

#[tokio::test]
async fn what_was_released_is_told_also_if_something_else_could_not_be() {
    let Some(bus) = Bus::start() else { return };
    let (output, asked) = run(&bus, &["2999", "3000", "3001", "3002", "--json"]).await;
    assert_eq!(output.status.code(), Some(1));
    // The first is looked for as a name, too.
    assert_eq!(asked[5..], ["Release 3000", "Release 3001", "Release 3002"]);
    let told = [3_000, 3_002].map(|port| json!({"port": port, "lease_id": id(port)}));
    assert_eq!(printed(&output), json!({"leases": told}));
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.lines().map(|line| serde_json::from_str::<Json>(line).unwrap());
    let said: Vec<_> = said.map(|said| said["error"].clone()).collect();
    let words =
        ["there is no lease of port 2999; `styxy list` shows all leases", "there is no such lease"];
    assert_eq!(said, words);
}
