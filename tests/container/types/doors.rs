//! Types over HTTP, and what is told as signals.

use std::{collections::HashMap, time::Duration};

use futures_util::StreamExt;
use serde_json::{Value as Json, json};
use zbus::Variant;

use super::{automatic, events, file};
use crate::{inside, machine::Machine, owners::client};

pub fn http(machine: &Machine) {
    let post = |path: &str, body: Json| ask(machine, "POST", path, &body.to_string());
    let (status, lease) = post("/allocate", json!({"service_type": "grafana"}));
    assert_eq!((status, &lease["port_range"]), (200, &json!([11510, 11519])), "{lease}");

    let (status, types) = ask(machine, "GET", "/types", "");
    assert_eq!((status, &types["success"]), (200, &json!(true)));
    let types = types["service_types"].as_array().unwrap();
    let grafana = types.iter().find(|t| t["service_type"] == "grafana").unwrap();
    let by_command = super::json(machine, "styxy types");
    assert_eq!(&json!({"service_types": types}), &by_command);
    assert_eq!(grafana["ranges"], json!(["11510-11519"]));
    assert!(grafana["made_by"].as_str().unwrap().starts_with("automatic, for curl["), "{grafana}");

    let (status, suggested) = ask(machine, "GET", "/suggest/grafana?count=2", "");
    assert_eq!(status, 200, "{suggested}");
    let ports = suggested["details"].as_array().unwrap().iter();
    let ports: Vec<_> = ports.map(|s| (s["port"].clone(), s["reason"].clone())).collect();
    let first_free = json!("first_free");
    assert_eq!(ports, [(json!(11511), first_free.clone()), (json!(11512), first_free)]);
    let (status, refused) = ask(machine, "GET", "/suggest/dve", "");
    assert_eq!((status, &refused["code"]), (404, &json!("UnknownServiceType")), "{refused}");
    let hint = refused["suggestions"][0].as_str().unwrap();
    assert!(hint.starts_with("did you mean \"dev\"?"), "{hint}");

    let (status, config) = ask(machine, "GET", "/config", "");
    assert_eq!(status, 200);
    let config = &config["configuration"];
    assert_eq!(config["service_types"]["grafana"]["port_range"], json!([11510, 11519]));
    assert_eq!(config["auto_allocation"]["enabled"], true);
    let (status, config) = ask(machine, "GET", "/config?origins=true", "");
    assert_eq!(status, 200);
    let range = &config["configuration"]["service_types"]["grafana"]["port_range"];
    assert!(range["origin"].as_str().unwrap().starts_with(super::FILE), "{range}");

    let switch = |body: Json| ask(machine, "PUT", "/config/auto-allocation", &body.to_string());
    assert_eq!(
        switch(json!({"enabled": false})),
        (200, json!({"success": true, "enabled": false}))
    );
    let (status, refused) = post("/allocate", json!({"service_type": "kibana"}));
    assert_eq!(refused["code"], "AutoAllocationDisabled", "{refused}");
    assert!((400..500).contains(&status), "{status}");
    assert_eq!(switch(json!({"enabled": true})).0, 200);
    for wrong in [json!({}), json!({"enabled": "yes"}), json!({"on": true}), json!([true])] {
        let (status, refused) = switch(wrong);
        assert_eq!((status, &refused["code"]), (400, &json!("InvalidArgument")), "{refused}");
    }

    let (status, refused) = ask(machine, "DELETE", "/types/grafana", "");
    assert_eq!((status, &refused["code"]), (409, &json!("PortInUse")), "{refused}");
    let (status, refused) = ask(machine, "DELETE", "/types/grafana?force=perhaps", "");
    assert_eq!((status, &refused["code"]), (400, &json!("InvalidArgument")), "{refused}");
    let before = file(machine);
    let undone = ask(machine, "DELETE", "/types/grafana?force=true", "");
    assert_eq!(undone, (200, json!({"success": true, "released": 1})));
    assert_eq!(automatic(machine), []);
    let (status, refused) = ask(machine, "DELETE", "/types/grafana", "");
    assert_eq!((status, &refused["code"]), (404, &json!("UnknownServiceType")), "{refused}");

    let (status, backups) = ask(machine, "GET", "/config/backups", "");
    assert_eq!(status, 200);
    let backups = backups["backups"].as_array().unwrap();
    assert_eq!(backups.len(), 4, "{backups:?}");
    assert_eq!(backups[3]["service_types"], json!(["grafana 11510-11519"]));
    for wrong in [json!({}), json!({"version": 99}), json!({"version": "4"}), json!({"v": 4})] {
        let (status, refused) = post("/config/restore", wrong);
        assert_eq!((status, &refused["code"]), (400, &json!("InvalidArgument")), "{refused}");
    }
    let restored = post("/config/restore", json!({"version": backups[3]["version"]}));
    assert_eq!(restored, (200, json!({"success": true, "released": 0})));
    assert_eq!(file(machine), before);

    let reload = || ask(machine, "POST", "/config/reload", "");
    assert_eq!(reload(), (200, json!({"success": true, "problems": []})));
    write(machine, r#"{"service_types": {"mine": {"port_range": [20000, 20009]}}}"#);
    assert_eq!(reload().1["problems"], json!([]));
    write(machine, r#"{"service_types": {"mine": {"port_range": [20009, 20000]}}}"#);
    let (status, problems) = reload();
    assert_eq!(status, 200);
    let problem = problems["problems"][0].as_str().unwrap();
    assert!(problem.contains("/home/dev/.config/styxy/config.json"), "{problem}");
    let types = ask(machine, "GET", "/config", "").1;
    assert_eq!(
        types["configuration"]["service_types"]["mine"]["port_range"],
        json!([20000, 20009]),
        "the last good one is in force"
    );

    for event in ["auto_allocate", "undo_auto_allocation", "config_reload", "config_error"] {
        let told = events(machine, event);
        assert!(!told.is_empty(), "{event}");
        for event in told {
            assert_eq!(event["STYXY_TRANSPORT"], "http", "{event:#}");
            assert_eq!(event["STYXY_CLIENT_COMM"], "curl", "{event:#}");
        }
    }
}

/// A request with `curl`: the status, and the answer, which is JSON whatever it says.
fn ask(machine: &Machine, method: &str, path: &str, body: &str) -> (u16, Json) {
    let output = machine
        .user(&format!(
            "curl -sS -X {method} -w '\\n%{{http_code}}' -d '{body}' \
             --unix-socket $XDG_RUNTIME_DIR/styxy/http.sock 'http://localhost{path}'"
        ))
        .ok();
    let (body, status) = output.rsplit_once('\n').unwrap();
    (status.parse().unwrap(), serde_json::from_str(body).unwrap())
}

fn write(machine: &Machine, json: &str) {
    machine.user(&format!("printf %s '{json}' > ~/.config/styxy/config.json")).ok();
}

pub fn signals(machine: &Machine) {
    let told = machine.inside("types signals");
    let (added, removed) = ("ServiceTypeAdded", "ServiceTypeRemoved");
    let expected = json!([
        [added, "grafana"],
        [added, "kibana"],
        [removed, "grafana"],
        [added, "written"],
        [removed, "written"],
        [removed, "kibana"],
        [added, "kibana"],
        [added, "grafana"],
        [added, "end"],
    ]);
    assert_eq!(told, expected);
}

/// Returns each signal about a type, by its name and the type's.
pub async fn inside() -> Json {
    let bus = inside::bus().await;
    let mut signals = client::listen(&bus).await;
    let undo = async |name: &str| {
        inside::call(&bus, "UndoAutoAllocation", &(name, true)).await.unwrap();
    };
    let configure = async |json: &str| {
        std::fs::write("/home/dev/.config/styxy/config.json", json).unwrap();
        inside::call(&bus, "Reload", &()).await.unwrap();
    };
    for name in ["grafana", "kibana"] {
        inside::allocate(&bus, name).await.unwrap();
    }
    // A type that grows is no new one.
    let many = HashMap::from([("count", Variant::U16(20))]);
    inside::call(&bus, "Allocate", &("grafana", many)).await.unwrap();
    undo("grafana").await;
    configure(r#"{"service_types": {"written": {"port_range": [20000, 20009]}}}"#).await;
    configure("{}").await;
    undo("kibana").await;
    // The version of before has one of them, the one of before that both.
    for version in [5_u32, 4] {
        inside::call(&bus, "RestoreBackup", &(version, false)).await.unwrap();
    }
    inside::allocate(&bus, "end").await.unwrap();

    let mut told = Vec::new();
    loop {
        let next = tokio::time::timeout(Duration::from_secs(60), signals.next()).await;
        let message = next.unwrap_or_else(|_| panic!("no more signals after {told:?}"));
        let message = message.unwrap().unwrap();
        let name = message.header().member().unwrap().to_string();
        if name.starts_with("ServiceType") {
            let service_type: String = message.body().deserialize().unwrap();
            told.push(json!([name, service_type]));
            if service_type == "end" {
                return json!(told);
            }
        }
    }
}
