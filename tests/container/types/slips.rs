//! Names that look mistyped, and requests that only ask.

use serde_json::{Value as Json, json};

use super::{automatic, events, file};
use crate::{crash, machine::Machine};

pub fn refused(machine: &Machine) {
    machine.call("Allocate", "'sa{sv}' databsae 0").unwrap_err();
    machine.user("test ! -e ~/.config/styxy/config.d").ok();
    machine.call("Allocate", "'sa{sv}' frontend 0").unwrap();
    let before = file(machine);
    let count = crash::audited(machine).len();
    let slips = [
        ("dve", "dev"),
        ("Dev", "dev"),
        ("DEV", "dev"),
        ("frontned", "frontend"),
        ("Frontend", "frontend"),
        ("front-end", "frontend"),
        ("databse", "database"),
    ];
    for (slip, meant) in slips {
        let error = machine.call("Allocate", &format!("'sa{{sv}}' {slip} 0")).unwrap_err();
        assert!(error.contains(&format!("there is no service type \"{slip}\"")), "{error}");
        assert!(error.contains(&format!("did you mean \"{meant}\"?")), "{error}");
        assert!(error.contains("--create"), "{error}");
    }
    let by_command = machine.user("styxy allocate dve");
    assert_eq!((by_command.code, by_command.stdout.as_str()), (Some(1), ""), "{by_command:?}");
    assert!(by_command.stderr.contains("did you mean \"dev\"?"), "{by_command:?}");
    // Only a request that changes something is worth an event when it is refused.
    machine.user("styxy allocate dve --dry-run").stderr.find("did you mean").unwrap();
    machine.user("styxy suggest dve").stderr.find("did you mean").unwrap();
    // These can be no names.
    for wrong in ["''", "'a b'", "dev_1", "../etc", &"x".repeat(51)] {
        let error = machine.call("Allocate", &format!("'sa{{sv}}' {wrong} 0")).unwrap_err();
        assert!(error.contains("service_type"), "{error}");
    }

    assert_eq!(file(machine), before);
    let types: Vec<_> = automatic(machine).into_iter().map(|(name, _)| name).collect();
    assert_eq!(types, ["frontend"]);
    let all = crash::audited(machine);
    let denials = events(machine, "deny");
    assert_eq!(denials.len(), slips.len() + 2);
    assert_eq!(all.len() - count, slips.len() + 1, "they are all that was told");
    let names = ["databsae"].into_iter().chain(slips.iter().map(|(slip, _)| *slip)).chain(["dve"]);
    for (event, name) in denials.iter().zip(names) {
        assert_eq!(event["STYXY_SERVICE_TYPE"], name);
        assert_eq!(event["STYXY_REASON"], "UnknownServiceType");
        assert_eq!(event["STYXY_RANGE"], Json::Null);
    }

    // Said twice, it is meant so.
    machine.call("Allocate", "'sa{sv}' dve 1 create b true").unwrap();
    machine.user("styxy allocate frontned --create").ok();
    let mut types: Vec<_> = automatic(machine).into_iter().map(|(name, _)| name).collect();
    types.sort();
    assert_eq!(types, ["dve", "frontend", "frontned"]);
    // And then it is a name like others.
    machine.call("Allocate", "'sa{sv}' dve 0").unwrap();
    assert_eq!(events(machine, "auto_allocate").len(), 3);
}

pub fn dry_run(machine: &Machine) {
    let would = machine.call("Allocate", "'sa{sv}' grafana 1 dry_run b true").unwrap();
    assert_eq!(would[1], "", "no lease has been made");
    let said = machine.user("styxy allocate grafana --dry-run");
    assert_eq!(said.stdout, format!("{}\n", would[0]));
    assert!(said.stderr.contains("grafana would get the ports 11510-11519"), "{said:?}");
    let body = r#"{"service_type": "grafana", "dry_run": true}"#;
    let http: Json = serde_json::from_str(
        &machine
            .user(&format!(
                "curl -sSf --unix-socket $XDG_RUNTIME_DIR/styxy/http.sock \
                 http://localhost/allocate -d '{body}'"
            ))
            .ok(),
    )
    .unwrap();
    let suggested = machine.call("Suggest", "su grafana 3").unwrap();
    let first = would[0].as_u64().unwrap();
    assert_eq!(suggested[0], json!([first, first + 1, first + 2]));
    for (field, value) in
        [("port", &would[0]), ("auto_allocated", &json!(true)), ("dry_run", &json!(true))]
    {
        assert_eq!(&http[field], value, "{http}");
    }
    assert_eq!(http["port_range"], json!([11510, 11519]), "{http}");
    assert_eq!(http.get("lock_id"), None, "{http}");

    assert_eq!(file(machine), "", "nothing was written");
    machine.user("test ! -e ~/.config/styxy/config.d").ok();
    assert_eq!(automatic(machine), []);
    assert_eq!(machine.call("List", "'a{sv}' 0").unwrap(), json!([[]]));
    assert_eq!(machine.call("Status", "").unwrap()[0]["seq"]["data"], 0, "nothing was noted");

    let got = machine.call("Allocate", "'sa{sv}' grafana 0").unwrap();
    assert_eq!(got[0], would[0]);
    assert_eq!(automatic(machine), [("grafana".to_owned(), vec!["11510-11519".to_owned()])]);
    assert_eq!(events(machine, "auto_allocate")[0]["STYXY_RANGE"], "11510-11519");
}
