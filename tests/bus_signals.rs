//! What the service tells by signals.

mod support;

use std::{
    collections::{BTreeSet, HashMap},
    num::NonZero,
    process::Child,
    time::{Duration, Instant},
};

use futures_util::StreamExt;
use nix::sys::signal::Signal;
use support::{Home, bus::Bus, end, started};
use zbus::{Connection, MatchRule, Message, MessageStream, Variant, message::Type};

const NAME: &str = "org.styxy.Styxy1";
const PATH: &str = "/org/styxy/Styxy1";
/// Generous; nothing here takes more than a few seconds.
const LIMIT: Duration = Duration::from_secs(60);

async fn call<B>(client: &Connection, method: &str, body: &B) -> Message
where
    B: serde::Serialize + zbus::wire::DynamicType,
{
    client.call_method(Some(NAME), PATH, Some(NAME), method, body).await.unwrap()
}

/// A service on the bus, and a client of it.
async fn served(bus: &Bus) -> (Home, Child, Connection) {
    let home = Home::with_type();
    let mut command = home.styxy();
    command.env("DBUS_SESSION_BUS_ADDRESS", &bus.address);
    let service = started(command);
    (home, service, bus.client().await)
}

async fn signals(client: &Connection) -> MessageStream {
    let rule = MatchRule::builder().msg_type(Type::Signal).path(PATH).build().unwrap();
    MessageStream::for_match_rule(rule, client, NonZero::new(10_000)).await.unwrap()
}

/// What a signal is about: its name, or the properties that it tells.
fn told(signal: &Message) -> Vec<String> {
    let member = signal.header().member().unwrap().to_string();
    if member != "PropertiesChanged" {
        return vec![member];
    }
    let body = signal.body();
    let (_, changed, _): (String, HashMap<String, Variant<'_>>, Vec<String>) =
        body.deserialize().unwrap();
    changed.into_keys().collect()
}

#[tokio::test]
async fn whatever_changes_is_told_by_a_signal() {
    let Some(bus) = Bus::start() else { return };
    let (_home, service, client) = served(&bus).await;
    let mut signals = signals(&client).await;

    let options = HashMap::from([("heartbeat", Variant::U64(1))]);
    call(&client, "RegisterInstance", &("agent", options)).await;
    let options = HashMap::from([("ttl", Variant::U64(600))]);
    let lease = call(&client, "Allocate", &("mine", options)).await;
    let body = lease.body();
    let (_, id, _): (u16, &str, HashMap<&str, Variant<'_>>) = body.deserialize().unwrap();
    call(&client, "Renew", &(id, 700_u64)).await;
    call(&client, "SetAutoAllocation", &false).await;

    let mut missing = BTreeSet::from([
        "AutoAllocation",
        "InstanceAdded",
        "InstanceRemoved",
        "LeaseChanged",
        "LeaseCount",
        "LeaseGranted",
    ]);
    let all = async {
        while !missing.is_empty() {
            let signal = signals.next().await.unwrap().unwrap();
            told(&signal).iter().for_each(|told| _ = missing.remove(told.as_str()));
        }
    };
    let all = tokio::time::timeout(LIMIT, all).await;
    assert!(all.is_ok(), "nothing told of {missing:?}");
    end(service, Signal::SIGTERM);
}

#[tokio::test]
async fn a_service_of_a_project_is_looked_up() {
    let Some(bus) = Bus::start() else { return };
    let (_home, service, client) = served(&bus).await;
    let ask = |name: &'static str| {
        HashMap::from([("project_path", Variant::from("/shop")), ("service_name", name.into())])
    };
    let lease = call(&client, "Allocate", &("mine", ask("web"))).await;
    let body = lease.body();
    let (port, id, _): (u16, &str, HashMap<&str, Variant<'_>>) = body.deserialize().unwrap();
    let found = call(&client, "Lookup", &ask("web")).await;
    let body = found.body();
    let found: HashMap<&str, Variant<'_>> = body.deserialize().unwrap();
    assert_eq!(found["lease_id"], Variant::from(id));
    assert_eq!(
        (&found["port"], &found["state"]),
        (&Variant::U16(port), &Variant::from("reserved"))
    );
    let refusal = client.call_method(Some(NAME), PATH, Some(NAME), "Lookup", &ask("api")).await;
    let refusal = refusal.unwrap_err().to_string();
    assert!(refusal.contains("NoSuchLease"), "{refusal}");
    end(service, Signal::SIGTERM);
}

#[tokio::test]
async fn a_burst_of_grants_changes_the_properties_once_a_second_at_most() {
    let Some(bus) = Bus::start() else { return };
    let (_home, service, client) = served(&bus).await;
    let mut signals = signals(&client).await;
    let begin = Instant::now();
    for _ in 0..100 {
        let none = HashMap::<&str, Variant<'_>>::new();
        let lease = call(&client, "Allocate", &("mine", none)).await;
        let body = lease.body();
        let (_, id, _): (u16, &str, HashMap<&str, Variant<'_>>) = body.deserialize().unwrap();
        call(&client, "Release", &(id,)).await;
    }
    let none = HashMap::<&str, Variant<'_>>::new();
    call(&client, "Allocate", &("mine", none)).await;
    let (mut grants, mut counts) = (0, 0);
    let all = async {
        while grants < 101 || counts == 0 {
            for told in told(&signals.next().await.unwrap().unwrap()) {
                grants += u64::from(told == "LeaseGranted");
                counts += u64::from(told == "LeaseCount");
            }
        }
    };
    tokio::time::timeout(LIMIT, all).await.unwrap();
    let seconds = begin.elapsed().as_secs();
    assert!(counts <= seconds + 1, "{counts} in {seconds} s");
    end(service, Signal::SIGTERM);
}
