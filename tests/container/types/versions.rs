//! Switching ranges for unknown types off and on; earlier versions of the service's file.

use serde_json::{Value as Json, json};

use super::{automatic, events, file, json};
use crate::machine::Machine;

pub fn switch(machine: &Machine) {
    let status = |expected: &str| {
        let status = machine.user("styxy config auto-allocation status").ok();
        assert!(status.starts_with(expected), "{status}");
        status
    };
    let text = status("unknown service types get a range: 10 ports each, placed after, ");
    assert!(text.ends_with("no service type was created automatically\n"), "{text}");
    machine.user("styxy allocate grafana").ok();
    let text = status("unknown service types get a range: ");
    assert!(text.contains("grafana has 11510-11519 (automatic, for styxy["), "{text}");

    let done = machine.user("styxy config auto-allocation disable").ok();
    assert_eq!(done, "unknown service types are refused\n");
    for restart in [false, true] {
        if restart {
            machine.user("systemctl --user restart styxy.service").ok();
        }
        status("unknown service types are refused; switched on, they would get a range: ");
        assert_eq!(property(machine), "b false\n");
        let refused = machine.user("styxy allocate prometheus");
        assert_eq!((refused.code, refused.stdout.as_str()), (Some(1), ""), "{refused:?}");
        let hint = "`styxy config auto-allocation enable` switches them on";
        assert!(refused.stderr.contains(hint), "{refused:?}");
        let error = machine.call("Allocate", "'sa{sv}' prometheus 1 create b true").unwrap_err();
        assert!(error.contains("automatic ranges are switched off"), "{error}");
    }
    // What has appeared before stays, but it does not grow.
    machine.call("Allocate", "'sa{sv}' grafana 1 count q 9").unwrap();
    let error = machine.call("Allocate", "'sa{sv}' grafana 0").unwrap_err();
    assert!(error.contains("no TCP port of grafana (11510-11519) is free"), "{error}");
    assert_eq!(automatic(machine).len(), 1);

    let done = machine.user("styxy config auto-allocation enable").ok();
    assert_eq!(done, "unknown service types get a range\n");
    assert_eq!(property(machine), "b true\n");
    machine.user("styxy allocate prometheus").ok();
    machine.call("Allocate", "'sa{sv}' grafana 0").unwrap();
    let told = events(machine, "auto_allocate");
    let types: Vec<_> = told.iter().map(|event| event["STYXY_SERVICE_TYPE"].clone()).collect();
    assert_eq!(types, ["grafana", "prometheus", "grafana"]);
    // Both changes of the setting are told, and what changes nothing is not.
    machine.user("styxy config auto-allocation enable").ok();
    let told = events(machine, "config_reload");
    assert_eq!(told.len(), 2, "{told:#?}");
    assert!(told.iter().all(|event| event["STYXY_CLIENT_COMM"] == "styxy"), "{told:#?}");

    // What a person has written counts more.
    machine.configure(r#"{"auto_allocation": {"enabled": true}}"#);
    let written = file(machine);
    let refused = machine.user("styxy config auto-allocation disable");
    assert_eq!(refused.code, Some(2), "{refused:?}");
    assert!(refused.stderr.contains("/home/dev/.config/styxy/config.json"), "{refused:?}");
    assert_eq!(file(machine), written);
    status("unknown service types get a range: ");
}

pub fn restored(machine: &Machine) {
    let none = machine.user("styxy config backups").ok();
    assert_eq!(none, "the service has added nothing to the configuration yet\n");
    let refused = machine.user("styxy config restore 1");
    assert_eq!(refused.code, Some(2), "{refused:?}");
    assert!(refused.stderr.contains("no version was kept yet"), "{refused:?}");

    let mut texts = vec![file(machine)];
    for i in 0..13 {
        let lease = machine.call("Allocate", &format!("'sa{{sv}}' tool-{i} 0")).unwrap();
        texts.push(file(machine));
        if i > 0 {
            machine.call("Release", &format!("s {}", lease[1].as_str().unwrap())).unwrap();
        }
    }
    // Version N is the file as it was with N - 1 types.
    let backups = json(machine, "styxy config backups");
    let backups = backups["backups"].as_array().unwrap();
    let versions: Vec<_> = backups.iter().map(|b| b["version"].as_u64().unwrap()).collect();
    assert_eq!(versions, (4..=13).collect::<Vec<_>>());
    for backup in backups {
        let types = backup["service_types"].as_array().unwrap().len() as u64;
        assert_eq!(types, backup["version"].as_u64().unwrap() - 1, "{backup}");
        assert!(backup["until"].as_str().unwrap().ends_with('Z'), "{backup}");
    }
    let first = backups[0]["service_types"].as_array().unwrap();
    let ranges = ["tool-0 11510-11519", "tool-1 11530-11539", "tool-2 11550-11559"];
    assert_eq!(first, &ranges.map(Json::from));
    let refused = machine.user("styxy config restore 3");
    assert_eq!(refused.code, Some(2), "{refused:?}");
    assert!(refused.stderr.contains("the kept versions are 4, 5, "), "{refused:?}");

    let lease = machine.call("Allocate", "'sa{sv}' tool-9 0").unwrap();
    let refused = machine.user("styxy config restore 5");
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("of tool-9"), "{refused:?}");
    assert_eq!(file(machine), texts[13]);
    assert_eq!(automatic(machine).len(), 13);
    let done = machine.user("styxy config restore 5 --force").ok();
    assert_eq!(done, "version 5 is in force again; 1 lease was released\n");
    assert_eq!(file(machine), texts[4]);
    let types: Vec<_> = automatic(machine).into_iter().map(|(name, _)| name).collect();
    assert_eq!(types, ["tool-0", "tool-1", "tool-2", "tool-3"]);
    let leases = json(machine, "styxy list");
    assert_eq!(leases["leases"].as_array().unwrap().len(), 1, "tool-0 has kept its: {leases}");
    let error = machine.call("Release", &format!("s {}", lease[1].as_str().unwrap())).unwrap_err();
    assert!(error.contains("there is no live lease"), "{error}");
    let gone = events(machine, "undo_auto_allocation");
    assert_eq!(gone.len(), 9, "{gone:#?}");
    assert!(gone.iter().all(|event| event["STYXY_CLIENT_COMM"] == "styxy"), "{gone:#?}");

    // Restoring is a change as others are, and can be taken back: everything is there again.
    let done = machine.user("styxy config restore 14").ok();
    assert_eq!(done, "version 14 is in force again\n");
    assert_eq!(file(machine), texts[13]);
    assert_eq!(automatic(machine).len(), 13);
    assert_eq!(events(machine, "auto_allocate").len(), 13 + 9);
    machine.user("systemctl --user restart styxy.service").ok();
    assert_eq!(automatic(machine).len(), 13);
    assert_eq!(events(machine, "auto_allocate").len(), 13 + 9, "nothing is told again");
    assert_eq!(json(machine, "styxy config backups")["backups"].as_array().unwrap().len(), 10);
    let files = machine.user("ls -A ~/.config/styxy/config.d").ok();
    assert_eq!(files, ".styxy-auto.lock\nstyxy-auto.json\n");
    assert_eq!(events(machine, "config_reload"), Vec::<Json>::new());
    assert_eq!(machine.call("Reload", "").unwrap(), json!([[]]));
}

fn property(machine: &Machine) -> String {
    machine
        .user(
            "busctl --user get-property org.styxy.Styxy1 /org/styxy/Styxy1 org.styxy.Styxy1 \
             AutoAllocation",
        )
        .ok()
}
