use serde_json::json;

use super::{
    super::*,
    folders::{DROP_IN, Folders, layer_with, put, with_file},
    range_of,
};

/// Every field of a layer, with a value that differs from the built-in one.
fn fields() -> Vec<(&'static str, serde_json::Value)> {
    vec![
        ("/idle_exit_seconds", json!(5)),
        ("/unused_seconds", json!(1)),
        ("/claimed_seconds", json!(1)),
        ("/limits/leases", json!(7)),
        ("/limits/leases_per_instance", json!(3)),
        ("/limits/leases_per_project", json!(4)),
        ("/limits/guards", json!(0)),
        ("/limits/remembered_ports", json!(9)),
        ("/excluded_ports", json!([1, [7, 9]])),
        ("/instance_templates/main", json!(5)),
        ("/instance_templates/night", json!(1_000)),
        ("/auto_allocation/enabled", json!(false)),
        ("/auto_allocation/default_chunk_size", json!(1_000)),
        ("/auto_allocation/placement", json!("smart")),
        ("/auto_allocation/min_port", json!(20_000)),
        ("/auto_allocation/max_port", json!(65_535)),
        ("/auto_allocation/preserve_gaps", json!(false)),
        ("/auto_allocation/gap_size", json!(0)),
        ("/auto_allocation/rules/database-*/chunk_size", json!(6)),
        ("/auto_allocation/rules/database-*/placement", json!("before")),
        ("/auto_allocation/rules/monitoring-*/preferred_range_start", json!(9_500)),
        ("/auto_allocation/rules/x-?/chunk_size", json!(2)),
        ("/service_types/dev/port_range", json!([2_999, 3_099])),
        ("/service_types/dev/more_port_ranges", json!([[7_000, 7_009], [7_020, 7_029]])),
        ("/service_types/dev/preferred_ports", json!([3_050, 3_007])),
        ("/service_types/dev/instance_behavior", json!("single")),
        ("/service_types/dev/hold", json!("none")),
        ("/service_types/dev/protocol", json!("both")),
        ("/service_types/dev/wait_ms", json!(60_000)),
        ("/service_types/dev/description", json!("ours")),
        ("/service_types/dev/examples", json!(["a", "b"])),
    ]
}

#[test]
fn a_field_that_a_layer_gives_changes_and_no_other() {
    for (field, value) in fields() {
        let config = with_file(&layer_with(field, &value));
        let mut expected = show(&Config::built_in(), None);
        assert_ne!(expected.pointer(field), Some(&value), "{field}");
        put(&mut expected, field, value);
        assert_eq!(show(&config, None), expected, "{field}");
    }
}

#[test]
fn sections_without_a_field_change_nothing() {
    for empty in [
        "{}",
        r#"{"$schema": "x"}"#,
        r#"{"limits": {}, "instance_templates": {}, "auto_allocation": {}, "service_types": {}}"#,
        r#"{"auto_allocation": {"rules": {"database-*": {}}}, "service_types": {"dev": {}}}"#,
    ] {
        assert_eq!(with_file(empty), Config::built_in(), "{empty}");
    }
}

#[test]
fn the_shown_configuration_is_a_file_that_says_the_same() {
    let config = with_file(
        r#"{"excluded_ports": [1, [7, 9]], "service_types": {"ai": null,
        "mine": {"port_range": [7000, 7009], "more_port_ranges": [[7020, 7029]], "protocol": "udp"}}}"#,
    );
    let shown = Folders::with(&[
        ("etc/config.json", r#"{"service_types": {"ai": null}}"#),
        ("user/config.json", &show(&config, None).to_string()),
    ]);
    assert_eq!(show(&shown.good(), None), show(&config, None));
}

#[test]
fn the_administrators_files_count_least_then_the_drop_in_then_the_users_files_by_name() {
    let order = [
        DROP_IN.replace("user", "etc"),
        "etc/config.json".to_owned(),
        "etc/config.d/99.json".to_owned(),
        DROP_IN.to_owned(),
        "user/config.json".to_owned(),
        "user/config.d/10.json".to_owned(),
        "user/config.d/9.json".to_owned(),
        "user/config.d/zz.json".to_owned(),
    ];
    let folders = Folders::new();
    // The file with the highest precedence is written first, so that none wins because it was written last.
    for (seconds, name) in order.iter().enumerate().rev() {
        folders.write(name, format!("{{\"idle_exit_seconds\": {seconds}}}"));
    }
    for (seconds, name) in order.iter().enumerate().rev() {
        assert_eq!(folders.good().idle_exit.as_secs(), seconds as u64, "{name}");
        folders.remove(name);
    }
    assert_eq!(folders.good(), Config::built_in());
}

#[test]
fn other_files_beside_them_do_not_count() {
    let broken = "{ this is no configuration";
    let folders = Folders::with(&[
        ("user/config.d/mine.json~", broken),
        ("user/config.d/mine.json.bak", broken),
        ("user/config.d/.mine.json.swp", broken),
        ("user/config.d/styxy-auto.tmp", broken),
        ("user/config.d/more/mine.json", broken),
        ("user/settings.json", broken),
    ]);
    assert_eq!(folders.good(), Config::built_in());
}

#[test]
fn a_list_takes_the_place_of_the_one_below() {
    let folders = Folders::with(&[
        ("etc/config.json", r#"{"excluded_ports": [1, 2]}"#),
        ("user/config.json", r#"{"excluded_ports": [[5, 6]]}"#),
    ]);
    assert_eq!(show(&folders.good(), None)["excluded_ports"], json!([[5, 6]]));
    folders.write("user/config.d/1.json", r#"{"excluded_ports": []}"#);
    assert_eq!(show(&folders.good(), None)["excluded_ports"], json!([]));
}

#[test]
fn null_removes_types_templates_and_rules_and_nothing_of_them_comes_back() {
    let folders = Folders::with(&[(
        "etc/config.json",
        r#"{"service_types": {"ai": null, "never-there": null},
            "instance_templates": {"dev": null, "never-there": null},
            "programs": {"Vite": null, "never-there": null},
            "auto_allocation": {"rules": {"monitoring-*": null, "never-there": null}}}"#,
    )]);
    let shown = show(&folders.good(), None);
    let mut expected = show(&Config::built_in(), None);
    for (section, name) in [
        ("/service_types", "ai"),
        ("/instance_templates", "dev"),
        ("/auto_allocation/rules", "monitoring-*"),
        ("/programs", "Vite"),
    ] {
        let section = expected.pointer_mut(section).unwrap().as_object_mut().unwrap();
        section.remove(name).unwrap();
    }
    assert_eq!(shown, expected);

    folders.write(
        "user/config.json",
        r#"{"service_types": {"ai": {"port_range": [11400, 11409]}},
            "auto_allocation": {"rules": {"monitoring-*": {"placement": "before"}}}}"#,
    );
    let shown = show(&folders.good(), None);
    assert_eq!(shown["service_types"]["ai"]["instance_behavior"], "multi");
    assert_eq!(shown["service_types"]["ai"]["preferred_ports"], json!([]));
    let rule = &shown["auto_allocation"]["rules"]["monitoring-*"];
    assert_eq!(rule, &json!({"placement": "before"}));
}

#[test]
fn a_program_takes_the_place_of_the_one_below_and_commands_read_what_the_service_reads() {
    let (good, broken) = (json!({"commands": ["vite2"], "hold": "none"}), json!({"commands": []}));
    let texts = [
        json!({"programs": {"Vite": good, "Astro": broken, "http.server": null}}),
        json!({"programs": {"http.server": {"commands": ["http.server"], "arguments": ["8"]}}}),
        json!({"unused_seconds": 5}),
    ];
    let text = |(n, json): (usize, &serde_json::Value)| Text {
        path: format!("{n}.json").into(),
        text: json.to_string(),
    };
    let texts: Vec<_> = texts.iter().enumerate().map(text).collect();
    let programs = programs(&texts);
    assert_eq!(programs, merge(&texts).config.programs);
    assert_eq!(serde_json::to_value(&programs["Vite"]).unwrap(), good);
    assert_eq!(programs["Astro"], Config::built_in().programs["Astro"]);
    assert!(programs["http.server"].last.is_none());
    let shown = show(&merge(&texts).config, Some(&merge(&texts).origins));
    let origin = |pointer: &str| shown.pointer(pointer).unwrap()["origin"].clone();
    assert_eq!(origin("/programs/http.server/arguments"), "1.json:1");
    assert_eq!(origin("/programs/Astro/commands"), "built in");
}

#[test]
fn types_may_exchange_their_ranges_in_one_layer_and_take_that_of_one_that_goes() {
    let config = with_file(
        r#"{"service_types": {
        "dev": {"port_range": [4000, 4099]}, "ui": {"port_range": [4100, 4199]},
        "docs": {"port_range": [3000, 3099]},
        "mine": {"port_range": [11400, 11499]}, "ai": null}}"#,
    );
    assert_eq!(range_of(&config, "dev"), "4000-4099");
    assert_eq!(range_of(&config, "ui"), "4100-4199");
    assert_eq!(range_of(&config, "docs"), "3000-3099");
    assert_eq!(range_of(&config, "mine"), "11400-11499");
}

#[test]
fn a_type_that_does_not_fit_stays_as_it_was_and_the_rest_of_the_layer_counts() {
    let folders = Folders::with(&[
        (
            "etc/config.json",
            r#"{"idle_exit_seconds": 7, "service_types": {
            "dev": {"description": "theirs", "preferred_ports": [1]},
            "ui": {"description": "theirs"}}}"#,
        ),
        ("user/config.json", r#"{"service_types": {"dev": {"hold": "none"}}}"#),
    ]);
    let merged = folders.read();
    assert_eq!(merged.problems.len(), 1, "{:?}", merged.problems);
    let mut expected = show(&Config::built_in(), None);
    for (field, value) in [
        ("/idle_exit_seconds", json!(7)),
        ("/service_types/ui/description", json!("theirs")),
        ("/service_types/dev/hold", json!("none")),
    ] {
        put(&mut expected, field, value);
    }
    assert_eq!(show(&merged.config, None), expected);
}

#[test]
fn what_follows_from_a_range_that_cannot_be_read_is_not_told_again() {
    for (text, place) in [
        (r#"{"service_types": {"mine": {"port_range": [9, 8]}}}"#, "1:43"),
        (r#"{"service_types": {"dev": {"port_range": [9, 8], "preferred_ports": [8]}}}"#, "1:42"),
        (
            r#"{"service_types": {"dev": {"more_port_ranges": [8], "preferred_ports": [8]}}}"#,
            "1:49",
        ),
    ] {
        let folders = Folders::with(&[("user/config.json", text)]);
        let problems = folders.problems(&folders.read());
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].starts_with(&format!("user/config.json:{place}")), "{problems:?}");
    }
}

#[test]
fn a_new_range_leaves_behind_what_belonged_to_the_old_one() {
    let below = r#"{"service_types": {"mine": {"port_range": [7000, 7009],
        "more_port_ranges": [[7020, 7029]], "preferred_ports": [7000, 7008, 7020], "hold": "none"}}}"#;
    let new = r#"{"service_types": {"mine": {"port_range": [7005, 7014]}}}"#;
    let folders = Folders::with(&[("etc/config.json", below), ("user/config.json", new)]);
    let mine = &show(&folders.good(), None)["service_types"]["mine"];
    assert_eq!(mine["port_range"], json!([7_005, 7_014]));
    assert_eq!(mine.get("more_port_ranges"), None);
    assert_eq!(mine["preferred_ports"], json!([7_008]));
    assert_eq!(mine["hold"], "none");
    // The same range again is not a new one.
    folders
        .write("user/config.json", r#"{"service_types": {"mine": {"port_range": [7000, 7009]}}}"#);
    let mine = &show(&folders.good(), None)["service_types"]["mine"];
    assert_eq!(mine["more_port_ranges"], json!([[7_020, 7_029]]));
    assert_eq!(mine["preferred_ports"], json!([7_000, 7_008, 7_020]));
}

#[test]
fn a_type_that_appeared_by_itself_is_a_persons_as_soon_as_one_writes_its_range() {
    let folders = Folders::with(&[(DROP_IN, super::corpus::DROP_IN)]);
    let is_automatic = |folders: &Folders| {
        folders.good().types.get(&"grafana".parse().unwrap()).unwrap().created.is_some()
    };
    assert!(is_automatic(&folders));
    folders.write("user/config.json", r#"{"service_types": {"grafana": {"description": "ours"}}}"#);
    assert!(is_automatic(&folders));
    folders.write(
        "user/config.json",
        r#"{"service_types": {"grafana": {"port_range": [10000, 10009]}}}"#,
    );
    assert!(!is_automatic(&folders));
}

#[test]
fn the_limits_of_automatic_ranges_may_come_from_two_layers() {
    let folders = Folders::with(&[
        ("etc/config.json", r#"{"auto_allocation": {"min_port": 30000}}"#),
        ("user/config.json", r#"{"auto_allocation": {"max_port": 40000}}"#),
    ]);
    let auto = folders.good().auto;
    assert_eq!((auto.min_port.get(), auto.max_port.get()), (30_000, 40_000));
    folders.write("user/config.json", r#"{"auto_allocation": {"max_port": 20000, "gap_size": 3}}"#);
    let merged = folders.read();
    assert_eq!(merged.problems.len(), 1);
    let auto = merged.config.auto;
    assert_eq!((auto.min_port.get(), auto.max_port.get()), (30_000, 49_151));
    assert_eq!(auto.gap_size, 3);
}

#[test]
fn a_port_preferred_in_a_layer_below_may_be_excluded() {
    let config = with_file(r#"{"excluded_ports": [3000]}"#);
    let dev = config.types.get(&"dev".parse().unwrap()).unwrap();
    assert_eq!(dev.preferred_ports[0].get(), 3_000);
    assert!(config.rules().excluded.contains(dev.preferred_ports[0]));
}

#[test]
fn a_guard_does_not_go_with_udp_from_whatever_layers_they_come() {
    let folders = Folders::with(&[
        ("etc/config.json", r#"{"service_types": {"dev": {"protocol": "udp"}}}"#),
        ("user/config.json", r#"{"service_types": {"dev": {"hold": "guard"}}}"#),
    ]);
    let problems = folders.problems(&folders.read());
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].starts_with("user/config.json:1:36: service_types.dev.hold: a guard"));
}

#[test]
fn each_value_comes_from_the_line_that_gave_it_last() {
    for (field, value) in fields() {
        let names: Vec<_> = field.split('/').skip(1).collect();
        let opening = names.join("\":\n{\n\"");
        let text = format!("{{\n\"{opening}\":\n{value}{}", "}".repeat(names.len()));
        let folders = Folders::with(&[("user/config.json", &text)]);
        let merged = folders.read();
        // Two lines for each opening brace and its name; the value is on the next line.
        let line = 2 * names.len() + 1;
        assert_eq!(folders.origin(&merged, field), format!("user/config.json:{line}"), "{field}");
        for (other, _) in fields() {
            let shown = show(&merged.config, None);
            if other != field && shown.pointer(other).is_some() {
                assert_eq!(folders.origin(&merged, other), "built in", "{field} {other}");
            }
        }
    }
}

#[test]
fn a_later_layer_takes_over_the_origin_of_what_it_gives() {
    let folders = Folders::with(&[
        ("etc/config.json", r#"{"idle_exit_seconds": 1, "unused_seconds": 1}"#),
        ("user/config.d/1.json", "{\n\"idle_exit_seconds\": 1}"),
        (DROP_IN, super::corpus::DROP_IN),
    ]);
    let merged = folders.read();
    for (pointer, origin) in [
        ("/idle_exit_seconds", "user/config.d/1.json:2"),
        ("/unused_seconds", "etc/config.json:1"),
        ("/service_types/grafana/port_range", "user/config.d/styxy-auto.json:4"),
        ("/service_types/grafana/hold", "built in"),
        ("/service_types/dev/port_range", "built in"),
    ] {
        assert_eq!(folders.origin(&merged, pointer), origin, "{pointer}");
    }
}

#[test]
fn what_was_left_out_or_removed_is_nobodys_origin() {
    let folders = Folders::with(&[
        ("etc/config.json", r#"{"service_types": {"ai": {"description": "theirs"}}}"#),
        (
            "user/config.json",
            r#"{"idle_exit_seconds": -1, "limits": {"leases": 0, "guards": 1},
            "excluded_ports": [0],
            "service_types": {"ai": null, "dev": {"description": "ours", "preferred_ports": [1]}}}"#,
        ),
        (
            "user/config.d/1.json",
            r#"{"service_types": {"ai": {"port_range": [11400, 11409], "description": null}}}"#,
        ),
    ]);
    let merged = folders.read();
    assert_eq!(merged.problems.len(), 5, "{:?}", merged.problems);
    for (pointer, origin) in [
        ("/idle_exit_seconds", "built in"),
        ("/limits/leases", "built in"),
        ("/limits/guards", "user/config.json:1"),
        ("/excluded_ports", "built in"),
        ("/service_types/dev/description", "built in"),
        ("/service_types/dev/preferred_ports", "built in"),
        ("/service_types/ai/port_range", "user/config.d/1.json:1"),
    ] {
        assert_eq!(folders.origin(&merged, pointer), origin, "{pointer}");
    }
    assert!(!merged.origins.contains_key("service_types.ai.description"));
}
