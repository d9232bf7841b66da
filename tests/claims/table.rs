//! What styxy-allocate(1) says of a claim that is asked for again, and whether each row of that is true.

use std::{collections::BTreeMap, net::TcpListener};

use serde_json::{Value as Json, json};

use super::{Home, refused};

/// Checks a row, on a machine of its own.
type Check = fn(&Home);

const ROWS: [(&str, Check); 7] = [
    ("--port", port),
    ("--template", template),
    ("--ttl", ttl),
    ("--hold none", hold),
    ("--owner", owner),
    ("--count", count),
    ("--protocol", protocol),
];

#[test]
fn each_row_of_the_table_in_the_man_page_is_true() {
    let page = include_str!("../../packaging/man/verbs/allocate").replace("\\-", "-");
    let (_, table) = page
        .split_once("When a claim is requested again, these options have another effect:\n")
        .unwrap();
    let (table, _) = table.split_once("\n.PP\n").unwrap();
    let titles = table.split(".TP\n").filter_map(|row| row.lines().next());
    let title =
        |line: &str| line.trim_start_matches(".BR ").trim_start_matches(".B ").replace('"', "");
    let written: Vec<_> = titles.filter(|line| !line.is_empty()).map(title).collect();
    let checks = BTreeMap::from(ROWS);
    assert_eq!(written, ROWS.map(|(name, _)| name), "each row has a check here");
    for name in &written {
        let home = Home::with_type();
        checks[name.as_str()](&home);
    }
}

fn id(lease: &Json) -> String {
    lease["lease_id"].as_str().unwrap().to_owned()
}

fn port(home: &Home) {
    home.allocated(&[]);
    let wanted = [4, 5].map(|index| home.port(index).to_string());
    let moved = home.allocated(&["--port", &wanted[0]]);
    assert_eq!(moved["port"].to_string(), wanted[0]);
    let taken = TcpListener::bind(("127.0.0.1", home.port(5))).unwrap();
    let stays = home.allocated(&["--port", &wanted[1]]);
    assert_eq!(id(&stays), id(&moved));
    assert!(stays["note"].as_str().unwrap().contains("cannot be had"), "{stays}");
    refused(home, &["allocate", "mine", "--port", &wanted[1], "--strict"]);
    drop(taken);
    let server = TcpListener::bind(("127.0.0.1", home.port(4))).unwrap();
    refused(home, &["allocate", "mine", "--port", &wanted[1]]);
    drop(server);
}

fn template(home: &Home) {
    let claim = home.allocated(&[]);
    assert_eq!(id(&home.allocated(&["--template", "staging"])), id(&claim));
}

fn ttl(home: &Home) {
    home.allocated(&["--ttl", "600"]);
    for (asked, counts) in [("60", 600), ("900", 900)] {
        assert_eq!(home.allocated(&["--ttl", asked])["ttl"], counts);
    }
    home.allocated(&[]);
    assert_eq!(home.leases()[0]["ttl"], Json::Null, "none is longer than any");
}

fn hold(home: &Home) {
    let claim = home.allocated(&[]);
    assert_eq!(claim["hold"], "guard");
    assert_eq!(home.allocated(&["--hold", "none"])["hold"], "none");
    let again = home.allocated(&["--hold", "guard"]);
    assert_eq!((id(&again), &again["hold"]), (id(&claim), &json!("none")));
}

fn owner(home: &Home) {
    let claim = home.allocated(&[]);
    let (run, _) = home.running(&[]);
    let owner = format!("pid:{}", run.id());
    assert_eq!(id(&home.allocated(&["--owner", &owner])), id(&claim));
    assert_eq!(home.leases()[0]["pid"], run.id());
    home.end(run);
    let after = &home.leases()[0];
    assert_eq!((id(after), &after["owner"]), (id(&claim), &json!("none")));
}

fn count(home: &Home) {
    let block = home.allocated(&["--count", "2"]);
    assert_ne!(id(&home.allocated(&[])), id(&block));
    assert_eq!(id(&home.allocated(&["--count", "2"])), id(&block));
    let owned = ["--count", "2", "--owner", "parent"];
    assert_ne!(id(&home.allocated(&owned)), id(&home.allocated(&owned)));
}

fn protocol(home: &Home) {
    let tcp = home.allocated(&[]);
    let udp = home.allocated(&["--protocol", "udp"]);
    assert_ne!(id(&udp), id(&tcp));
    assert_eq!(id(&home.allocated(&["--protocol", "udp"])), id(&udp));
}
