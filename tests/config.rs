//! The configuration of a running service: broken, mended, shown.

mod broken;
mod support;

use std::{fs, path::PathBuf, process::Output, thread, time::Duration};

use broken::{Case, DROP_IN, by_hand, mutants::mutants};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value as Json, json};
use styxy::config::{Text, merge};
use support::{Home, end};

/// A home with the type `mine` in a person's file and `grafana` in the service's own.
fn home() -> Home {
    let home = Home::with_type();
    write_drop_in(&home, DROP_IN.as_bytes());
    home
}

fn config(home: &Home) -> PathBuf {
    home.path("config/styxy/config.json")
}

fn drop_in(home: &Home) -> PathBuf {
    home.path("config/styxy/config.d/styxy-auto.json")
}

fn write_drop_in(home: &Home, bytes: &[u8]) {
    fs::create_dir_all(drop_in(home).parent().unwrap()).unwrap();
    fs::write(drop_in(home), bytes).unwrap();
}

/// Writes a broken file to its place; where that is.
fn write(home: &Home, case: &Case) -> PathBuf {
    let path = if case.is_drop_in { drop_in(home) } else { config(home) };
    fs::write(&path, &case.bytes).unwrap();
    path
}

fn problems(answer: &Json) -> Vec<&str> {
    answer["problems"].as_array().unwrap().iter().map(|p| p.as_str().unwrap()).collect()
}

/// The types of a service, each with its ranges.
fn types(home: &Home) -> Vec<(Json, Json)> {
    let answer = home.http("GET", "/types", "").body;
    let types = answer["service_types"].as_array().unwrap().iter();
    types.map(|t| (t["service_type"].clone(), t["ranges"].clone())).collect()
}

fn config_problems(home: &Home) -> usize {
    home.http("GET", "/status", "").body["config_problems"].as_array().unwrap().len()
}

#[track_caller]
fn allocate_and_release(home: &Home) {
    let lease = home.http("POST", "/allocate", r#"{"service_type": "mine"}"#);
    assert_eq!(lease.status, 200, "{lease:?}");
    let id = lease.body["lease_id"].as_str().unwrap();
    assert_eq!(home.http("DELETE", &format!("/allocate/{id}"), "").status, 200);
}

/// What the state log of a service that has ended says of the configuration, in its order.
fn told(home: &Home) -> Vec<String> {
    let log = fs::read_to_string(home.state().join("log.00000001")).unwrap();
    let lines = log.lines().map(|line| serde_json::from_str(line.split_once(' ').unwrap().1));
    let actions = lines.filter_map(|line: serde_json::Result<Json>| {
        let line = line.unwrap();
        line["record"]["change"].as_object().and_then(|change| change.keys().next().cloned())
    });
    actions.filter(|action| action.starts_with("config")).collect()
}

/// The same of what the service has sent away, if there is no journal to send it to.
fn sent(home: &Home) -> Option<Vec<String>> {
    if PathBuf::from("/run/systemd/journal/socket").exists() {
        return None;
    }
    let log = fs::read_to_string(home.path("log")).unwrap();
    let events = log.lines().filter_map(|line| serde_json::from_str::<Json>(line).ok());
    let actions = events.filter_map(|event| event["STYXY_ACTION"].as_str().map(str::to_owned));
    Some(actions.filter(|action| action.starts_with("config")).collect())
}

#[test]
fn a_service_runs_on_with_its_last_good_configuration_whatever_is_in_its_files() {
    let home = home();
    let service = home.service();
    let (good, text) = (types(&home), fs::read(config(&home)).unwrap());
    let mut count = 0;

    for case in by_hand() {
        let path = write(&home, &case).display().to_string();
        let reload = home.http("POST", "/config/reload", "");
        assert_eq!(reload.status, 200, "{}: {reload:?}", case.title);
        let problems = problems(&reload.body);
        assert_eq!(problems.len(), case.problems.len(), "{}: {problems:?}", case.title);
        for (problem, expected) in problems.iter().zip(&case.problems) {
            let (line, column) = expected.place;
            let place = format!("{path}:{line}:{column}: ");
            assert!(problem.starts_with(&place), "{}: {problem}", case.title);
            assert!(problem.contains(&expected.remedy), "{}: {problem}", case.title);
        }
        assert_eq!(config_problems(&home), problems.len(), "{}", case.title);
        assert_eq!(types(&home), good, "{}", case.title);
        allocate_and_release(&home);
        write_drop_in(&home, DROP_IN.as_bytes());
        fs::write(config(&home), &text).unwrap();
        count += 1;
    }

    let below = Text { path: drop_in(&home), text: DROP_IN.to_owned() };
    let is_broken = |text: &str| {
        let text = Text { path: config(&home), text: text.to_owned() };
        !merge(&[below.clone(), text]).problems.is_empty()
    };
    for mutant in mutants().take(400).filter(|mutant| is_broken(&mutant.text)).take(150) {
        fs::write(config(&home), &mutant.text).unwrap();
        let reload = home.http("POST", "/config/reload", "");
        let problems = problems(&reload.body);
        let place = format!("{}:", config(&home).display());
        assert!(!problems.is_empty(), "{}", mutant.how);
        assert!(problems.iter().all(|problem| problem.starts_with(&place)), "{problems:?}");
        assert_eq!(types(&home), good, "{}", mutant.how);
        count += 1;
    }
    allocate_and_release(&home);
    assert!(count >= 300, "{count}");

    fs::write(config(&home), &text).unwrap();
    assert_eq!(problems(&home.http("POST", "/config/reload", "").body), [""; 0]);
    assert_eq!(config_problems(&home), 0);
    assert_eq!(types(&home), good);
    end(service, Signal::SIGTERM);
}

#[test]
fn validate_refuses_every_broken_file_with_the_place_of_each_problem() {
    let home = home();
    for case in by_hand() {
        let path = write(&home, &case);
        let output = home.run(&["config", "validate", "--json", path.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(1), "{}: {output:?}", case.title);
        let answer: Json = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(answer["valid"], false, "{}", case.title);
        let problems = answer["problems"].as_array().unwrap();
        assert_eq!(problems.len(), case.problems.len(), "{}: {answer}", case.title);
        for (problem, expected) in problems.iter().zip(&case.problems) {
            assert_eq!(problem["file"], path.to_str().unwrap(), "{}", case.title);
            assert_eq!(problem["line"], expected.place.0, "{}", case.title);
            assert_eq!(problem["column"], expected.place.1, "{}", case.title);
            assert_eq!(problem["field"], expected.field, "{}", case.title);
            let message = problem["message"].as_str().unwrap();
            assert!(message.contains(&expected.remedy), "{}: {message}", case.title);
        }
        write_drop_in(&home, DROP_IN.as_bytes());
    }
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

#[test]
fn validate_needs_no_service_and_its_exit_code_says_whether_all_is_good() {
    let home = Home::new();
    let validate = |arguments: &[&str]| home.run(&[&["config", "validate"], arguments].concat());
    let good = validate(&[]);
    assert_eq!((code(&good), text(&good.stderr)), (0, ""));
    assert!(text(&good.stdout).starts_with("the configuration is valid ("), "{good:?}");

    home.configure(r#"{"idle_exit_seconds": 5}"#);
    assert_eq!(code(&validate(&[])), 0);
    let as_json: Json = serde_json::from_slice(&validate(&["--json"]).stdout).unwrap();
    assert_eq!(as_json, json!({"valid": true, "problems": []}));

    home.configure(r#"{"idle_exit": 5}"#);
    let bad = validate(&[]);
    let place = format!("{}:1:15: idle_exit: ", config(&home).display());
    assert_eq!((code(&bad), text(&bad.stderr)), (1, ""));
    assert!(text(&bad.stdout).starts_with(&place), "{bad:?}");

    // Another file counts instead of the user's.
    fs::write(home.path("other.json"), r#"{"unused_seconds": 5}"#).unwrap();
    assert_eq!(code(&validate(&["other.json"])), 0);
    fs::write(home.path("other.json"), "{").unwrap();
    let other = validate(&["other.json"]);
    let place = format!("{}:1:1: ", home.path("other.json").display());
    assert_eq!(code(&other), 1);
    assert!(text(&other.stdout).starts_with(&place), "{other:?}");
    assert_eq!(text(&other.stdout).lines().count(), 1, "{other:?}");

    let missing = validate(&["missing.json", "--json"]);
    assert_eq!(code(&missing), 1);
    let missing: Json = serde_json::from_slice(&missing.stdout).unwrap();
    assert_eq!(missing["problems"][0]["line"], Json::Null);
    assert_eq!(code(&validate(&["one.json", "two.json"])), 2);
    assert!(!home.socket().exists(), "a service was started");
}

#[test]
fn reload_tells_what_is_wrong_and_its_exit_code_says_so() {
    let home = home();
    let service = home.service();
    let good = home.run(&["config", "reload"]);
    assert_eq!((code(&good), text(&good.stderr)), (0, ""));
    let answer: Json = serde_json::from_str(&home.ok(&["config", "reload", "--json"])).unwrap();
    assert_eq!(answer, json!({"problems": []}));

    home.configure("{\n  \"limits\": 5\n}");
    let place = format!("{}:2:13: limits: must be", config(&home).display());
    let bad = home.run(&["config", "reload"]);
    assert_eq!(code(&bad), 1);
    assert!(text(&bad.stdout).starts_with(&place), "{bad:?}");
    assert!(text(&bad.stderr).contains("the last good configuration stays"), "{bad:?}");
    let bad = home.run(&["config", "reload", "--json"]);
    assert_eq!(code(&bad), 1);
    let answer: Json = serde_json::from_slice(&bad.stdout).unwrap();
    assert!(problems(&answer)[0].starts_with(&place), "{answer}");
    end(service, Signal::SIGTERM);
}

#[test]
fn a_hang_up_has_the_service_read_its_files() {
    let home = home();
    let service = home.service();
    let hang_up = || {
        let pid = Pid::from_raw(i32::try_from(service.id()).unwrap());
        kill(pid, Signal::SIGHUP).unwrap();
    };
    let good = types(&home);
    home.configure("{");
    hang_up();
    // The signal comes when it comes.
    while config_problems(&home) == 0 {
        thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(types(&home), good);
    allocate_and_release(&home);
    home.configure("{}");
    hang_up();
    while config_problems(&home) > 0 {
        thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(types(&home).len(), good.len() - 1);
    end(service, Signal::SIGTERM);
}

#[test]
fn a_mistake_is_told_once_and_survived_by_the_next_services_until_it_is_mended() {
    let home = home();
    let service = home.service_with_log();
    let good = types(&home);
    let text = fs::read_to_string(config(&home)).unwrap();
    let lease = home.http("POST", "/allocate", r#"{"service_type": "mine"}"#).body["port"].clone();
    end(service, Signal::SIGTERM);
    assert_eq!(told(&home), ["config_reload"], "the type mine is new");

    home.configure("{");
    for _ in 0..2 {
        let service = home.service_with_log();
        assert_eq!(config_problems(&home), 1);
        assert_eq!(types(&home), good);
        let reload = home.http("POST", "/config/reload", "");
        assert_eq!(problems(&reload.body).len(), 1);
        let leases = home.http("GET", "/allocations", "").body;
        assert_eq!(leases["allocations"][0]["port"], lease);
        allocate_and_release(&home);
        end(service, Signal::SIGTERM);
        assert_eq!(told(&home), ["config_reload", "config_error"]);
    }

    home.configure(&text);
    for _ in 0..2 {
        let service = home.service_with_log();
        assert_eq!(config_problems(&home), 0);
        assert_eq!(types(&home), good);
        assert_eq!(problems(&home.http("POST", "/config/reload", "").body), [""; 0]);
        end(service, Signal::SIGTERM);
        assert_eq!(told(&home), ["config_reload", "config_error", "config_reload"]);
    }
    // The same mistake is a new one after that, however the service ends that has seen it first.
    home.configure("{");
    end(home.service_with_log(), Signal::SIGKILL);
    end(home.service_with_log(), Signal::SIGTERM);
    let all = ["config_reload", "config_error", "config_reload", "config_error"];
    assert_eq!(told(&home), all);
}

#[test]
fn a_mistake_is_not_told_again_when_something_else_changes_beside_it() {
    let home = home();
    end(home.service_with_log(), Signal::SIGTERM);
    home.configure("{");
    let service = home.service_with_log();
    home.ok(&["config", "auto-allocation", "disable"]);
    assert_eq!(config_problems(&home), 1);
    end(service, Signal::SIGTERM);
    end(home.service_with_log(), Signal::SIGTERM);
    assert_eq!(told(&home), ["config_reload", "config_error", "config_reload"]);
}

#[test]
fn what_is_told_of_the_configuration_is_sent_away_as_often() {
    let home = home();
    for text in ["{", "{}", "{", r#"{"idle_exit_seconds": 5}"#] {
        home.configure(text);
        end(home.service_with_log(), Signal::SIGTERM);
    }
    let told = told(&home);
    assert_eq!(told.iter().filter(|action| *action == "config_error").count(), 2, "{told:?}");
    if let Some(sent) = sent(&home) {
        assert_eq!(sent, told);
    }
}

#[test]
fn the_service_writes_nothing_over_a_drop_in_that_it_cannot_read() {
    let home = home();
    let service = home.service();
    let good = types(&home);
    let broken = br#"{"service_types": {"#;
    write_drop_in(&home, broken);
    for arguments in [
        ["allocate", "kibana"].as_slice(),
        &["config", "auto-allocation", "disable"],
        &["config", "undo-auto-allocation", "grafana"],
    ] {
        let refused = home.run(arguments);
        assert!(!refused.status.success(), "{arguments:?}: {refused:?}");
        let place = format!("{}:1:19: ", drop_in(&home).display());
        assert!(text(&refused.stderr).contains(&place), "{arguments:?}: {refused:?}");
        assert_eq!(fs::read(drop_in(&home)).unwrap(), broken, "{arguments:?}");
        assert_eq!(types(&home), good, "{arguments:?}");
    }
    write_drop_in(&home, DROP_IN.as_bytes());
    home.ok(&["config", "undo-auto-allocation", "grafana"]);
    assert_eq!(types(&home).len(), good.len() - 1);
    end(service, Signal::SIGTERM);
}

#[test]
fn show_prints_what_is_in_force_and_where_each_value_comes_from() {
    let home = home();
    let service = home.service();
    let shown: Json = serde_json::from_str(&home.ok(&["config", "show"])).unwrap();
    let range = json!([home.port(0), home.port(9)]);
    assert_eq!(shown["service_types"]["mine"]["port_range"], range);
    assert_eq!(shown["service_types"]["dev"]["port_range"], json!([3_000, 3_099]));
    assert_eq!(shown["service_types"]["grafana"]["created"]["placement"], "after");

    // What is shown is what was good, not what is there now.
    fs::write(config(&home), "{ broken").unwrap();
    assert_eq!(code(&home.run(&["config", "reload"])), 1);
    assert_eq!(serde_json::from_str::<Json>(&home.ok(&["config", "show"])).unwrap(), shown);

    let table = home.ok(&["config", "show", "--origin"]);
    let row = |field: &str| {
        let row = table.lines().find(|line| line.split_whitespace().next() == Some(field));
        row.unwrap_or_else(|| panic!("{field} in {table}")).trim_end().to_owned()
    };
    let origin = format!("{}:1", config(&home).display());
    assert!(row("service_types.mine.port_range").ends_with(&origin), "{table}");
    let origin = format!("{}:4", drop_in(&home).display());
    assert!(row("service_types.grafana.port_range").ends_with(&origin), "{table}");
    assert!(row("service_types.dev.port_range").ends_with("built in"), "{table}");
    assert!(row("service_types.mine.hold").ends_with("built in"), "{table}");
    let as_json = home.ok(&["config", "show", "--origin", "--json"]);
    let as_json: Json = serde_json::from_str(&as_json).unwrap();
    assert_eq!(as_json["service_types"]["mine"]["port_range"]["value"], range);
    end(service, Signal::SIGTERM);
}

#[test]
fn schema_prints_the_schema_that_ships_and_starts_no_service() {
    let home = Home::new();
    let printed: Json = serde_json::from_str(&home.ok(&["config", "schema"])).unwrap();
    let ships = include_str!("../config/config.schema.json");
    assert_eq!(printed, serde_json::from_str::<Json>(ships).unwrap());
    assert!(!home.socket().exists());
}
