//! What the service takes from the bus, and how much of it.

mod support;

use std::{collections::HashMap, fs, process::Child};

use nix::sys::signal::Signal;
use support::{Home, bus::Bus, end, started};
use zbus::{Connection, Message, Variant};

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

/// The most memory that the process has ever had, in bytes (proc_pid_status(5)).
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
    let client = bus.connect().await;
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
    let client = bus.connect().await;
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
