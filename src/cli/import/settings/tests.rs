use super::*;

fn fitted(config: &Json, base: &[(&str, Json)]) -> (Json, Vec<String>) {
    let (settings, mut left_out) = read(&config.to_string()).unwrap();
    let base: Vec<_> = (base.iter())
        .map(|(path, text)| Text { path: Path::new("/c").join(path), text: text.to_string() })
        .collect();
    let fitted = settings.fit(&base, &path(Path::new("/c")));
    left_out.extend(fitted.left_out);
    let texts = with(&base, &path(Path::new("/c")), fitted.settings.text());
    assert_eq!(config::merge(&texts).problems, [], "what is taken is valid");
    let told = left_out.iter().map(|left| format!("{}: {}", left.what, left.reason));
    (fitted.settings.layer(), told.collect())
}

fn taken(config: &Json) -> (Json, Vec<String>) {
    fitted(config, &[])
}

#[test]
fn what_is_in_force_already_is_not_taken() {
    let (layer, left_out) = taken(&json!({
        "service_types": {
            "dev": {"port_range": [3000, 3099], "preferred_ports": [3000, 3001, 3002, 3003],
                    "multi_instance_pattern": "sequential"},
            "ai": {"range": [11400, 11499], "instance_behavior": "Single"},
        },
        "auto_allocation": {"enabled": true, "min_port": 10000, "gap_size": 10, "placement": "after"},
        "auto_allocation_rules": {"database-*": {"chunk_size": 5, "preferred_range_start": 5400}},
        "_comment": "mine",
    }));
    assert_eq!((layer, left_out), (json!({"$schema": SCHEMA_URL}), vec![]));
}

#[test]
fn types_and_rules_are_taken_in_either_spelling() {
    let (layer, left_out) = taken(&json!({
        "service_types": {
            "shop": {"port_range": [11510, 11519], "preferred_ports": [11510], "auto_allocated": true,
                     "auto_allocated_at": "2025-10-10T10:00:00.000Z", "description": "Auto-allocated"},
            "dev": {"range": [3000, 3049]},
            // In styxy 1.x this replaces all of the built-in type.
            "ai": {"port_range": [11400, 11499]},
        },
        "auto_allocation": {"enabled": false},
        "auto_allocation_rules": {"web-*": {"chunk_size": 20, "placement": "smart"}},
    }));
    assert_eq!(left_out, [] as [String; 0]);
    let shop = json!({"port_range": [11510, 11519], "preferred_ports": [11510],
                          "description": "Auto-allocated", "instance_behavior": "multi"});
    let expected = json!({
        "$schema": SCHEMA_URL,
        "service_types": {
            "shop": shop, "dev": {"port_range": [3000, 3049]}, "ai": {"instance_behavior": "multi"},
        },
        "auto_allocation": {
            "enabled": false, "rules": {"web-*": {"chunk_size": 20, "placement": "smart"}},
        },
    });
    assert_eq!(layer, expected);
}

#[test]
fn what_does_not_fit_is_left_out_with_its_reason_and_the_rest_is_taken() {
    let (layer, left_out) = taken(&json!({
        "service_types": {
            "good": {"port_range": [20000, 20009], "preferred_ports": [1, 20000], "description": 7,
                     "manual_allocations": {}},
            "no type!": {"port_range": [20010, 20019]},
            "unranged": {"preferred_ports": [20020]},
            "reversed": {"port_range": [20039, 20030]},
            "inside": {"port_range": [3050, 3060]},
            "odd": {"port_range": [20040, 20049], "instance_behavior": "sometimes"},
            "nothing": null,
        },
        "auto_allocation": {"gap_size": -1, "max_port": 40000, "why": 1},
        "auto_allocation_rules": {"a.b": {"chunk_size": 5}, "c-*": {"chunk_size": 0}},
        "recovery": {}, "instance_templates": {}, "daemon": {}, "other": 1,
    }));
    let expected = json!({
        "$schema": SCHEMA_URL,
        "service_types": {"good": {"port_range": [20000, 20009], "instance_behavior": "multi"}},
        "auto_allocation": {"max_port": 40000},
    });
    assert_eq!(layer, expected, "{left_out:#?}");
    for (what, reason) in [
        ("service_types.good.preferred_ports", "1 is outside"),
        ("service_types.good.description", "must be a string"),
        ("service_types.good.manual_allocations", NO_SETTING),
        ("service_types.no type!", "is not valid"),
        ("service_types.unranged", "has no port_range"),
        ("service_types.reversed.port_range", "reversed"),
        ("service_types.inside.port_range", "overlaps the range of dev, 3000-3099"),
        ("service_types.odd.instance_behavior", "\"multi\" or \"single\""),
        ("service_types.nothing", "not an object"),
        ("auto_allocation.gap_size", "whole number"),
        ("auto_allocation.why", NO_SETTING),
        ("auto_allocation_rules.a.b", "is not valid"),
        ("auto_allocation.rules.c-*.chunk_size", "whole number"),
        ("recovery", "needs none"),
        ("instance_templates", "instance_templates"),
        ("daemon", "systemd"),
        ("other", NO_SETTING),
    ] {
        let is_it = |line: &String| line.starts_with(&format!("{what}: ")) && line.contains(reason);
        assert!(left_out.iter().any(is_it), "{what}: {reason}: {left_out:#?}");
    }
    assert_eq!(left_out.len(), 17, "{left_out:#?}");
    for broken in ["", "{", "[]", "null", "{\"a\": 1,}"] {
        assert!(read(broken).is_err(), "{broken:?}");
    }
}

#[test]
fn types_may_swap_their_ranges() {
    let swapped = json!({"service_types": {
        "ui": {"port_range": [4100, 4199]}, "docs": {"port_range": [4000, 4099]},
    }});
    let (layer, left_out) = taken(&swapped);
    assert_eq!(left_out, [] as [String; 0]);
    assert_eq!(layer["service_types"], swapped["service_types"]);
}

#[test]
fn of_two_types_that_overlap_the_first_is_taken() {
    let (layer, left_out) = taken(&json!({"service_types": {
        "dev": {"port_range": [3000, 3049]}, "inside": {"port_range": [3020, 3030]},
        "web": {"port_range": [3050, 3060]},
    }}));
    let types = json!({
        "dev": {"port_range": [3000, 3049]},
        "web": {"port_range": [3050, 3060], "instance_behavior": "multi"},
    });
    assert_eq!(layer["service_types"], types, "{left_out:#?}");
    let [left] = &left_out[..] else { panic!("{left_out:#?}") };
    assert!(left.starts_with("service_types.inside.port_range: 3020-3030 overlaps"), "{left}");
}

#[test]
fn what_people_have_written_for_this_version_has_precedence() {
    let config = json!({"service_types": {
        "mine": {"port_range": [20000, 20009]}, "yours": {"port_range": [20010, 20019]},
    }});
    let later = json!({"service_types": {"theirs": {"port_range": [20005, 20007]}}});
    let (layer, left_out) = fitted(&config, &[("config.d/later.json", later)]);
    assert!(layer["service_types"]["mine"].is_null(), "{layer}");
    assert!(layer["service_types"]["yours"].is_object(), "{layer}");
    let [left] = &left_out[..] else { panic!("{left_out:?}") };
    assert!(left.starts_with("service_types.mine: /c/config.d/later.json"), "{left}");
}

#[test]
fn changes_are_told_beside_what_is_in_force() {
    let (settings, _) = read(
        &json!({
            "service_types": {
                "shop": {"port_range": [11510, 11519], "instance_behavior": "single"},
                "dev": {"range": [3000, 3049], "description": "servers"},
            },
            "auto_allocation": {"enabled": false},
        })
        .to_string(),
    )
    .unwrap();
    let fitted = settings.fit(&[], &path(Path::new("/c")));
    let changes = fitted.settings.changes(&Config::built_in());
    let expected = [
        "service type dev: another description, 3000-3049 instead of 3000-3099",
        "service type shop: new, 11510-11519, runs once",
        "automatic ranges: enabled false instead of true",
    ];
    assert_eq!(changes, expected);
}
