//! What the service takes from the bus, and how much of it.

mod support;

use std::{collections::HashMap, fs, process::Child};

use nix::sys::signal::Signal;
use serde_json::Value as Json;
use support::{Home, bus::Bus, end, listed, started};
use zbus::{Connection, DBusError, Message, Variant, interface};

const NAME: &str = "org.styxy.Styxy1";
const PATH: &str = "/org/styxy/Styxy1";

async fn call<B>(client: &Connection, method: &str, body: &B) -> zbus::Result<Message>
where
    B: serde::Serialize + zbus::wire::DynamicType,
{
    client.call_method(Some(NAME), PATH, Some(NAME), method, body).await
}

fn service_on(home: &Home, bus: &Bus) -> Child {
    let mut command = home.styxy();
    command.env("DBUS_SESSION_BUS_ADDRESS", &bus.address);
    started(command)
}

/// The most memory that the process has ever had, in bytes (`proc_pid_status(5)`).
fn peak(process: &Child) -> usize {
    let status = fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}

#[tokio::test]
async fn a_message_larger_than_any_request_is_refused_and_not_unpacked() {
    let Some(bus) = Bus::start() else { return };
    let home = Home::with_type();
    let service = service_on(&home, &bus);
    let client = bus.client().await;
    call(&client, "Status", &()).await.unwrap();
    let before = peak(&service);
    let values = vec![Variant::U8(1); 2_000_000];
    let options = HashMap::from([("service_name", Variant::from(values))]);
    let body = ("mine", options);
    let size = Message::method_call(PATH, "Allocate").build(&body).unwrap().data().len();
    let error = call(&client, "Allocate", &body).await.unwrap_err();
    let grown = peak(&service).saturating_sub(before);
    eprintln!("a message of {size} bytes: {grown} bytes more");
    assert!(error.to_string().contains("at most 65536 are read"), "{error}");
    assert!(grown < 4 * size, "{grown} bytes for a message of {size}");
    end(service, Signal::SIGTERM);
}

#[tokio::test]
async fn a_property_that_cannot_be_set_is_said_to_be_read_only() {
    let Some(bus) = Bus::start() else { return };
    let home = Home::with_type();
    let service = service_on(&home, &bus);
    let client = bus.client().await;
    let set = async |property: &str| {
        let properties = Some("org.freedesktop.DBus.Properties");
        let body = (NAME, property, Variant::from(1_u32));
        client.call_method(Some(NAME), PATH, properties, "Set", &body).await.unwrap_err()
    };
    let error = set("LeaseCount").await.to_string();
    assert!(error.contains("PropertyReadOnly"), "{error}");
    let error = set("NoSuchThing").await.to_string();
    assert!(error.contains("UnknownProperty"), "{error}");
    end(service, Signal::SIGTERM);
}

#[tokio::test]
async fn leases_are_listed_part_by_part_at_every_door_and_none_is_left_out() {
    let Some(bus) = Bus::start() else { return };
    let home = Home::with_type();
    let service = service_on(&home, &bus);
    for protocol in ["tcp", "tcp", "udp", "udp", "tcp"] {
        home.ok(&["allocate", "mine", "--new", "--protocol", protocol]);
    }
    let port = home.port(5).to_string();
    home.ok(&["allocate", "mine", "--new", "--protocol", "udp", "--port", &port]);
    let client = bus.client().await;
    let mut after = None;
    let mut parts = Vec::new();
    loop {
        let mut filter =
            HashMap::from([("limit", Variant::U32(3)), ("service_type", "mine".into())]);
        filter.extend(after.map(|port| ("after", Variant::U16(port))));
        let answer = call(&client, "List", &(filter,)).await.unwrap();
        let body = answer.body();
        let leases: Vec<HashMap<String, Variant<'_>>> = body.deserialize().unwrap();
        let ports: Vec<u16> =
            leases.iter().map(|lease| lease["port"].clone().try_into().unwrap()).collect();
        let query = after.map(|port| format!("&after={port}")).unwrap_or_default();
        let answer =
            home.http("GET", &format!("/allocations?limit=3&service_type=mine{query}"), "");
        let same: Vec<Json> = ports.iter().map(|port| (*port).into()).collect();
        let listed = answer.body["allocations"].as_array().unwrap();
        assert_eq!(listed.iter().map(|lease| lease["port"].clone()).collect::<Vec<_>>(), same);
        after = ports.last().copied();
        if ports.is_empty() {
            break;
        }
        parts.push(ports);
    }
    // The two of one port are never parted.
    let offsets: Vec<Vec<u16>> =
        parts.iter().map(|ports| ports.iter().map(|port| port - home.port(0)).collect()).collect();
    assert_eq!(offsets, [vec![0, 0, 1, 1], vec![2, 5]]);
    // It is a key for listing only: nothing is released by parts.
    let filter = HashMap::from([("limit", Variant::U32(1)), ("service_type", "mine".into())]);
    let error = call(&client, "ReleaseMatching", &(filter,)).await.unwrap_err();
    assert!(error.to_string().contains("there is no filter key"), "{error}");
    end(service, Signal::SIGTERM);
}

/// A service with more leases than one message can hold.
struct Crowded;

#[derive(Debug, DBusError)]
#[zbus(prefix = "org.styxy.Styxy1.Error")]
enum Refusal {
    LimitExceeded(String),
}

#[interface(name = "org.styxy.Styxy1")]
impl Crowded {
    fn list(
        &self,
        filter: HashMap<String, Variant<'_>>,
    ) -> Result<Vec<HashMap<&'static str, Variant<'static>>>, Refusal> {
        let Some(Variant::U32(_)) = filter.get("limit") else {
            return Err(Refusal::LimitExceeded("too many".to_owned()));
        };
        let after = match filter.get("after") {
            Some(Variant::U16(port)) => *port,
            _ => 2_999,
        };
        let lease = |port: u16| {
            let id = format!("00000000-0000-0000-0000-{port:012}");
            HashMap::from([("port", Variant::U16(port)), ("lease_id", id.into())])
        };
        Ok((after + 1..=3_006).take(3).map(lease).collect())
    }
}

#[tokio::test]
async fn a_command_lists_part_by_part_what_does_not_fit_into_one_message() {
    let Some(bus) = Bus::start() else { return };
    let home = Home::with_type();
    let service = bus.connect().await;
    service.object_server().at(PATH, Crowded).await.unwrap();
    service.request_name(NAME).await.unwrap();
    let mut command = home.styxy();
    command.env("DBUS_SESSION_BUS_ADDRESS", &bus.address).args(["list", "--json"]);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let listed = listed("leases", output.stdout);
    let ports: Vec<_> = listed.iter().map(|lease| lease["port"].as_u64().unwrap()).collect();
    assert_eq!(ports, [3_000, 3_001, 3_002, 3_003, 3_004, 3_005, 3_006]);
}
