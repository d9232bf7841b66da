//! `GET /metrics` as `Prometheus` and `OpenMetrics` read it, and what it counts.

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::TcpListener,
    process::Command,
};

use nix::sys::signal::Signal;
use serde_json::json;
use support::{Home, end};

/// The number of each series of the text format, which is checked by its rules: every series belongs to a metric that has a
/// HELP and a TYPE before it, each only once, and no series comes twice.
fn series(text: &str) -> BTreeMap<String, f64> {
    let (mut helps, mut types, mut series) = (BTreeSet::new(), BTreeMap::new(), BTreeMap::new());
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, words) = help.split_once(' ').unwrap();
            assert!(!words.is_empty() && helps.insert(name), "{line}");
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').unwrap();
            assert!(helps.contains(name), "{line}");
            assert!(types.insert(name, kind).is_none(), "{line}");
        } else {
            let (name, value) = line.rsplit_once(' ').unwrap();
            let bare = name.split('{').next().unwrap();
            let part =
                ["_bucket", "_sum", "_count"].iter().find_map(|part| bare.strip_suffix(part));
            let kind =
                types.get(bare).or_else(|| types.get(part?)).unwrap_or_else(|| panic!("{line}"));
            assert_eq!(*kind == "counter", bare.ends_with("_total"), "{line}");
            assert!(name.starts_with("styxy_"), "{line}");
            assert!(series.insert(name.to_owned(), value.parse().unwrap()).is_none(), "{line}");
        }
    }
    series
}

#[test]
fn everything_that_happens_is_counted_once() {
    let home = Home::with_type();
    let service = home.service();
    let listener = TcpListener::bind(("127.0.0.1", home.port(0))).unwrap();
    let ask = |body: serde_json::Value| home.http("POST", "/allocate", &body.to_string());
    let claim = json!({"service_type": "mine", "service_name": "web", "claim": true, "project_path": "/srv/shop"});
    let lease = ask(claim.clone()).body;
    assert_eq!(lease["port"], home.port(1));
    assert_eq!(ask(claim).body["existing"], true);
    ask(json!({"service_type": "mine", "dry_run": true}));
    assert_eq!(
        ask(json!({"service_type": "mine", "port": home.port(1), "strict": true})).status,
        409
    );
    assert_eq!(ask(json!({"service_type": "mine", "count": "x"})).status, 400);
    let other = ask(json!({"service_type": "mine"})).body;
    let id = other["lease_id"].as_str().unwrap();
    assert_eq!(home.http("DELETE", &format!("/allocate/{id}"), "").status, 200);

    let (media, text) = home.scrape("text/plain;version=0.0.4;q=0.3,*/*;q=0.1");
    assert_eq!(media, "text/plain; version=0.0.4; charset=utf-8");
    let now = series(&text);
    let is = |name: &str, value: f64| {
        assert!((now[name] - value).abs() < f64::EPSILON, "{name}\n{text}");
    };
    is("styxy_allocations_total{service_type=\"mine\"}", 2.0);
    is("styxy_reuses_total", 1.0);
    is("styxy_releases_total{reason=\"released\"}", 1.0);
    is("styxy_refusals_total{code=\"PortInUse\"}", 1.0);
    is("styxy_grant_seconds_count", 2.0);
    is("styxy_grant_seconds_bucket{le=\"+Inf\"}", 2.0);
    is("styxy_leases{service_type=\"mine\",state=\"claimed\"}", 1.0);
    is("styxy_guards", 1.0);
    // The first one is an increase of what was 0.
    is("styxy_refusals_total{code=\"PoolExhausted\"}", 0.0);
    is("styxy_audit_stalled", 0.0);
    is("styxy_state_writable", 1.0);
    // What was remembered for the claim was on disk before the answer.
    assert!(now["styxy_state_flush_seconds_count"] >= 1.0, "{text}");
    assert!(now["styxy_state_flush_seconds_sum"] > 0.0, "{text}");
    assert!(now["styxy_port_conflicts_detected_total"] >= 1.0, "{text}");
    assert!(
        now["styxy_state_log_bytes"] > 100.0 && now["styxy_resident_memory_bytes"] > 1e6,
        "{text}"
    );
    let version = format!("styxy_build_info{{version=\"{}\"}}", env!("CARGO_PKG_VERSION"));
    is(&version, 1.0);
    drop(listener);
    end(service, Signal::SIGTERM);
}

#[test]
fn watched_owners_are_counted_by_their_kind() {
    let home = Home::with_type();
    let service = home.service();
    let watched = || {
        let (_, text) = home.scrape("text/plain");
        let series = series(&text);
        ["connection", "process", "unit"]
            .map(|kind| series[&format!("styxy_watched_owners{{kind=\"{kind}\"}}")].to_string())
    };
    let is = |processes: &str| watched() == ["0", processes, "0"];
    assert!(is("0"), "{:?}", watched());
    let mut owner = Command::new("sleep").arg("infinity").spawn().unwrap();
    let of = json!({"service_type": "mine", "owner": "process", "pid": owner.id()}).to_string();
    // An owner counts once, however much it owns.
    let granted = [(); 2].map(|()| home.http("POST", "/allocate", &of));
    let watches = is("1");
    owner.kill().unwrap();
    owner.wait().unwrap();
    assert!(granted.iter().all(|answer| answer.status == 200), "{granted:?}");
    assert!(watches, "{:?}", watched());
    home.until(|| is("0"));
    end(service, Signal::SIGTERM);
}

#[test]
fn whoever_scrapes_gets_the_format_that_it_names_first() {
    let home = Home::with_type();
    let service = home.service();
    let prometheus =
        "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.3,*/*;q=0.1";
    let (media, text) = home.scrape(prometheus);
    assert_eq!(media, "application/openmetrics-text; version=1.0.0; charset=utf-8");
    assert!(
        text.ends_with("# EOF\n") && text.contains("# UNIT styxy_grant_seconds seconds\n"),
        "{text}"
    );
    assert!(text.contains("# UNIT styxy_state_flush_seconds seconds\n"), "{text}");
    assert!(text.contains("# TYPE styxy_reuses counter\nstyxy_reuses_total 0"), "{text}");
    assert_eq!(home.scrape("*/*").0, "application/json");
    end(service, Signal::SIGTERM);
}
