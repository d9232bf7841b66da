//! A type that is full gets more ports, as often as that is needed.

use serde_json::{Value as Json, json};
use zbus::Connection;

use super::{automatic, events, range};
use crate::{
    inside,
    machine::Machine,
    owners::client::{dict, grant},
};

pub fn thousand(machine: &Machine) {
    let result = machine.inside("types growth 1000");
    let granted: Vec<u16> = serde_json::from_value(result["ports"].clone()).unwrap();
    assert_eq!(granted.len(), 1_000);

    let told = events(machine, "auto_allocate");
    assert_eq!(told.len(), 100);
    let mut ports = Vec::new();
    for (i, event) in told.iter().enumerate() {
        let text = event["STYXY_RANGE"].as_str().unwrap();
        let (first, last) = range(text);
        ports.extend(first..=last);
        let message = match i {
            0 => format!("The new service type tool got the ports {text}"),
            _ => format!("The service type tool was full and also got the ports {text}"),
        };
        for (field, value) in [
            ("MESSAGE", message.as_str()),
            ("STYXY_SERVICE_TYPE", "tool"),
            ("STYXY_PLACEMENT", "after"),
            ("STYXY_INSTANCE_ID", "agent-7"),
            ("STYXY_PROJECT_PATH", "/home/dev/shop"),
            ("STYXY_TRANSPORT", "dbus"),
            ("STYXY_CLIENT_COMM", "inside"),
        ] {
            assert_eq!(event[field], value, "{field} of {event:#}");
        }
        assert_eq!(event["STYXY_CLIENT_PID"], result["pid"].to_string());
        assert_eq!(event["STYXY_CLIENT_UID"], event["_UID"]);
    }
    // Each range is used up before the next one is made, and no port is in two of them.
    assert_eq!(granted, ports);

    // One beside the other, they are one.
    let all = [("tool".to_owned(), vec![format!("{}-{}", ports[0], ports[999])])];
    assert_eq!(automatic(machine), all);
    machine.user("systemctl --user restart styxy.service").ok();
    assert_eq!(automatic(machine), all);
}

pub async fn inside(requests: usize) -> Json {
    let bus = inside::bus().await;
    let mut ports = Vec::new();
    for i in 0..requests {
        let port = next(&bus, i).await;
        ports.push(port);
    }
    json!({"ports": ports, "pid": std::process::id()})
}

/// Allocates one more port. Its answer tells of a new range, and so does a dry run before it.
async fn next(bus: &Connection, i: usize) -> u16 {
    let who = [("instance_id", "agent-7".into()), ("project_path", "/home/dev/shop".into())];
    let is_full = i == 10 || i == 20;
    let planned = if is_full {
        let options = [&who[..], &[("dry_run", true.into())]].concat();
        Some(grant(&inside::call(bus, "Allocate", &("tool", dict(&options))).await.unwrap()))
    } else {
        None
    };
    let lease = inside::call(bus, "Allocate", &("tool", dict(&who))).await.unwrap();
    let lease = grant(&lease);
    if let Some(planned) = planned {
        assert_eq!(planned["auto_allocated"], true, "{planned}");
        for field in ["port", "port_range", "auto_allocated"] {
            assert_eq!(planned[field], lease[field], "{planned}, {lease}");
        }
    }
    lease["port"].as_u64().unwrap().try_into().unwrap()
}
