//! What is said of leases: in the journal, and by the commands that ask for, renew and release them.

mod support;

use serde_json::Value as Json;
use support::Home;

/// What was audited of leases, the oldest first, each action with its reason.
fn audited(home: &Home) -> Vec<String> {
    let events = home.ok(&["audit", "--type", "mine", "--json"]);
    let events: Json = serde_json::from_str(&events).unwrap();
    let events = events.as_array().unwrap().iter();
    let words = events.map(|event| {
        let [action, reason] = ["action", "reason"].map(|key| event[key].as_str().unwrap_or(""));
        format!("{action} {reason}").trim_end().to_owned()
    });
    words.collect()
}

#[test]
fn a_claim_is_audited_as_reused_and_left_and_a_singleton_as_such() {
    let home = Home::with_type();
    home.ok(&["allocate", "mine"]);
    home.ok(&["allocate", "mine"]);
    home.ok(&["run", "mine", "--", "true"]);
    let told = ["allocate", "reuse", "reuse", "leave owner_gone"];
    home.until(|| audited(&home) == told);
    let wanted = ["audit", "--action", "reuse,leave", "--json"];
    home.until(|| home.ok(&wanted).matches("which had it already").count() == 2);
    assert!(home.ok(&wanted).contains("is gone, and the port stays leased"));

    let home = Home::with_single();
    home.ok(&["allocate", "mine"]);
    home.ok(&["allocate", "mine"]);
    home.until(|| audited(&home) == ["allocate", "singleton_reuse"]);
}
