//! Owners that the bus knows, on a bus of its own, with a manager that the test plays.

mod support;

use std::{collections::HashMap, time::Duration};

use nix::sys::signal::Signal;
use support::{Home, bus::Bus, end, started};
use tokio::sync::watch;
use zbus::{Connection, Message, OwnedObjectPath, Variant, interface};

/// Generous; nothing here takes more than a few seconds.
const LIMIT: Duration = Duration::from_secs(30);

const PATH: &str = "/org/freedesktop/systemd1";
const UNIT: &str = "/org/freedesktop/systemd1/unit/busy_2eservice";

/// As much of the user's manager as owners need: a unit, and a socket that does what that does.
struct Manager;

#[interface(name = "org.freedesktop.systemd1.Manager")]
impl Manager {
    fn subscribe(&self) {}

    fn load_unit(&self, name: &str) -> OwnedObjectPath {
        assert!(["busy.service", "front.socket"].contains(&name), "{name}");
        OwnedObjectPath::try_from(UNIT).unwrap()
    }
}

/// The unit; while its state is not known, whoever asks for it waits.
struct Unit {
    state: watch::Receiver<Option<&'static str>>,
    asked: watch::Sender<u32>,
}

#[interface(name = "org.freedesktop.systemd1.Unit")]
impl Unit {
    #[zbus(property)]
    async fn active_state(&self) -> &str {
        self.asked.send_modify(|asked| *asked += 1);
        self.state.clone().wait_for(Option::is_some).await.unwrap().unwrap()
    }

    #[zbus(property)]
    fn job(&self) -> (u32, OwnedObjectPath) {
        (0, OwnedObjectPath::try_from("/").unwrap())
    }
}

async fn manager(bus: &Bus, unit: Unit) -> Connection {
    let manager = bus.connect().await;
    manager.object_server().at(PATH, Manager).await.unwrap();
    manager.object_server().at(UNIT, unit).await.unwrap();
    manager.request_name("org.freedesktop.systemd1").await.unwrap();
    manager
}

/// The unit's properties have changed; which of them is not said.
async fn changed(manager: &Connection) {
    let what = ("org.freedesktop.systemd1.Unit", HashMap::<&str, Variant<'_>>::new(), [""; 0]);
    let properties = "org.freedesktop.DBus.Properties";
    manager.emit_signal(None::<&str>, UNIT, properties, "PropertiesChanged", &what).await.unwrap();
}

#[tokio::test]
async fn a_unit_that_changes_four_hundred_times_at_once_is_watched_on_and_the_bus_answers() {
    let Some(bus) = Bus::start() else { return };
    let state = watch::Sender::new(Some("active"));
    let asked = watch::Sender::new(0);
    let unit = Unit { state: state.subscribe(), asked: asked.clone() };
    let manager = manager(&bus, unit).await;
    let home = Home::with_type();
    let mut command = home.styxy();
    command.env("DBUS_SESSION_BUS_ADDRESS", &bus.address);
    let service = started(command);
    let client = bus.client().await;
    let options = HashMap::from([("unit", Variant::from("busy.service"))]);
    ask(&client, "Allocate", &("mine", options)).await;

    // Whether it is up is asked before the grant, and again once it is watched.
    asked.subscribe().wait_for(|asked| *asked == 2).await.unwrap();
    // All of them come before the reply to what the first one makes the service ask.
    state.send_replace(None);
    for _ in 0..400 {
        changed(&manager).await;
    }
    state.send_replace(Some("active"));
    ask(&client, "Check", &(home.port(0), "tcp")).await;
    assert_eq!(leases(&client).await, 1);

    state.send_replace(Some("inactive"));
    changed(&manager).await;
    all_end(&client).await;
    end(service, Signal::SIGTERM);
}

#[tokio::test]
async fn the_port_of_a_socket_unit_is_released_by_nothing_but_its_end() {
    let Some(bus) = Bus::start() else { return };
    let state = watch::Sender::new(Some("active"));
    let unit = Unit { state: state.subscribe(), asked: watch::Sender::new(0) };
    let manager = manager(&bus, unit).await;
    let home = Home::with_type();
    let run = |arguments: &[&str]| {
        let mut command = home.styxy();
        command.env("DBUS_SESSION_BUS_ADDRESS", &bus.address).args(arguments);
        tokio::task::spawn_blocking(move || command.output().unwrap())
    };
    let mut command = home.styxy();
    command.env("DBUS_SESSION_BUS_ADDRESS", &bus.address);
    let service = started(command);
    let client = bus.connect().await;
    for (name, unit) in [("front", "front.socket"), ("busy", "busy.service")] {
        let options = [("unit", unit), ("service_name", name), ("project_path", "/shop")];
        let options = HashMap::from(options.map(|(key, value)| (key, Variant::from(value))));
        ask(&client, "Allocate", &("mine", options)).await;
    }
    let port = home.port(0).to_string();
    for arguments in [&["release", &port][..], &["release", &port, "--all"]] {
        let refused = run(arguments).await.unwrap();
        assert_eq!(refused.status.code(), Some(1), "{refused:?}");
        let said = support::said(&refused);
        assert!(said.contains(&format!("port {port} is that of front.socket")), "{said}");
        assert!(said.contains("systemctl --user stop front.socket"), "{said}");
    }
    assert_eq!(leases(&client).await, 2);
    // On the bus it is all or none, and the command releases the others.
    let filter = (HashMap::from([("project_path", Variant::from("/shop"))]),);
    let name = Some("org.styxy.Styxy1");
    let call = client.call_method(name, "/org/styxy/Styxy1", name, "ReleaseMatching", &filter);
    assert!(call.await.unwrap_err().to_string().contains("front.socket"));
    let rest = run(&["release", "--type", "mine", "--yes"]).await.unwrap();
    assert_eq!(rest.status.code(), Some(1), "{rest:?}");
    assert!(support::said(&rest).contains("is that of front.socket"), "{rest:?}");
    let released = String::from_utf8_lossy(&rest.stdout).into_owned();
    assert_eq!(released, format!("released port {} of mine busy\n", home.port(1)));
    assert_eq!(leases(&client).await, 1);
    state.send_replace(Some("inactive"));
    changed(&manager).await;
    all_end(&client).await;
    end(service, Signal::SIGTERM);
}

#[tokio::test]
async fn who_is_refused_the_socket_of_a_service_that_runs_does_not_share_its_lease() {
    let Some(bus) = Bus::start() else { return };
    let home = Home::with_single();
    let mut command = home.styxy();
    command.env("DBUS_SESSION_BUS_ADDRESS", &bus.address);
    let service = started(command);
    let client = bus.client().await;
    let options = HashMap::from([("instance_id", Variant::from("one"))]);
    ask(&client, "Allocate", &("mine", options)).await;
    let options = HashMap::from([("instance_id", Variant::from("two"))]);
    let name = Some("org.styxy.Styxy1");
    let refused = client
        .call_method(name, "/org/styxy/Styxy1", name, "AllocateSocket", &("mine", options))
        .await
        .unwrap_err();
    assert!(refused.to_string().contains("no socket to hand over"), "{refused}");
    let nothing = HashMap::<&str, Variant<'_>>::new();
    let answer = ask(&client, "List", &(nothing,)).await;
    let body = answer.body();
    let leases: Vec<HashMap<&str, Variant<'_>>> = body.deserialize().unwrap();
    assert_eq!(leases.len(), 1);
    assert!(!leases[0].contains_key("holders"), "{leases:?}");
    end(service, Signal::SIGTERM);
}

/// Waits until no lease is left.
async fn all_end(client: &Connection) {
    let gone = async {
        while leases(client).await > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LIMIT, gone).await.expect("its end was not noticed");
}

async fn leases(client: &Connection) -> usize {
    let nothing = HashMap::<&str, Variant<'_>>::new();
    let answer = ask(client, "List", &(nothing,)).await;
    answer.body().deserialize::<Vec<HashMap<&str, Variant<'_>>>>().unwrap().len()
}

/// Asks the service, which must answer.
async fn ask<B>(client: &Connection, method: &str, body: &B) -> Message
where
    B: serde::Serialize + zbus::wire::DynamicType,
{
    let name = Some("org.styxy.Styxy1");
    let answer = client.call_method(name, "/org/styxy/Styxy1", name, method, body);
    let answer = tokio::time::timeout(LIMIT, answer).await;
    answer.unwrap_or_else(|_| panic!("{method}: the bus is dead")).unwrap()
}
