//! Service types, singletons and suggestions, as the command shows them.

mod support;

use std::{fs, process::Child};

use nix::sys::signal::Signal;
use serde_json::Value as Json;
use support::{Home, end, listed};

impl Home {
    fn json(&self, arguments: &[&str]) -> Json {
        let arguments = [arguments, &["--json"]].concat();
        serde_json::from_slice(&self.run(&arguments).stdout).unwrap()
    }

    /// What a refused command says, with its exit code.
    fn refused(&self, arguments: &[&str]) -> (i32, String) {
        let output = self.run(arguments);
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    }

    /// The type of that name, as `types` has it.
    fn service_type(&self, name: &str) -> Option<Json> {
        let mut types = self.list("service_types", &["types"]).into_iter();
        types.find(|t| t["service_type"] == name)
    }
}

fn sleeper() -> Child {
    let mut sleep = std::process::Command::new("sleep");
    sleep.arg("600");
    sleep.spawn().unwrap()
}

#[test]
fn an_unknown_type_gets_a_range_and_the_command_says_which() {
    let home = Home::with_growth();
    let told = home.run(&["allocate", "grafana"]);
    let words = String::from_utf8(told.stderr).unwrap();
    let known = home.service_type("grafana").unwrap();
    assert_eq!(known["automatic"], true);
    assert_eq!(known["ports"], 10);
    assert_eq!(known["leased"], 1);
    let range = known["ranges"][0].as_str().unwrap();
    assert!(words.contains(&format!("grafana got the ports {range}")), "{words}");
    assert!(home.service_type("dev").unwrap()["automatic"] == false);
    let auto = home.json(&["config", "auto-allocation"]);
    assert_eq!(auto["service_types"][0]["service_type"], "grafana");
}

#[test]
fn a_slip_of_the_hand_is_refused_and_makes_nothing() {
    let home = Home::new();
    for (slip, meant) in [("dve", "dev"), ("Dev", "dev"), ("databsae", "database")] {
        let (code, words) = home.refused(&["allocate", slip]);
        assert_eq!(code, 1);
        assert!(words.contains(&format!("did you mean \"{meant}\"?")), "{words}");
        assert!(home.service_type(slip).is_none());
    }
    home.ok(&["allocate", "dve", "--create"]);
    assert!(home.service_type("dve").is_some());
}

#[test]
fn a_type_that_the_configuration_removes_is_refused_with_the_place_that_removes_it() {
    let home = Home::new();
    home.configure("{\"service_types\": {\n\"dev\": null}}");
    let place = format!("{}:2 removes it", home.config().join("config.json").display());
    for arguments in [
        &["allocate", "dev"][..],
        &["allocate", "dev", "--create"],
        &["allocate", "dev", "--dry-run"],
        &["suggest", "dev"],
        &["run", "dev", "--", "true"],
    ] {
        let (code, words) = home.refused(arguments);
        assert_eq!(code, 1, "{words}");
        let what = format!("there is no service type \"dev\": {place}; delete that null");
        assert!(words.contains(&what), "{arguments:?}: {words}");
    }
    // A later file counts more.
    let later = home.config().join("config.d");
    fs::create_dir_all(&later).unwrap();
    let (first, last) = (home.port(0), home.port(9));
    let again = format!(r#"{{"service_types": {{"dev": {{"port_range": [{first}, {last}]}}}}}}"#);
    fs::write(later.join("again.json"), again).unwrap();
    home.ok(&["config", "reload"]);
    home.ok(&["allocate", "dev"]);
}

#[test]
fn a_dry_run_tells_the_range_and_makes_none() {
    let home = Home::with_growth();
    let answer = home.json(&["allocate", "grafana", "--dry-run"]);
    assert_eq!(answer["auto_allocated"], true);
    let range = answer["port_range"].as_array().unwrap();
    assert!(answer["port"].as_u64() >= range[0].as_u64());
    assert!(home.service_type("grafana").is_none());
    assert!(!home.path(".config/styxy/config.d/styxy-auto.json").exists());
}

#[test]
fn a_type_grows_when_it_is_full() {
    let home = Home::new();
    let mut ports: Vec<String> =
        (0..31).map(|_| home.ok(&["allocate", "grafana", "--new"])).collect();
    ports.sort();
    ports.dedup();
    assert_eq!(ports.len(), 31);
    assert!(home.service_type("grafana").unwrap()["ports"].as_u64() >= Some(40));
    home.ok(&["allocate", "grafana", "--new", "--count", "500"]);
}

#[test]
fn a_type_with_leases_is_taken_away_only_by_force() {
    let home = Home::with_growth();
    home.ok(&["allocate", "grafana", "--new", "--count", "2"]);
    let undo = ["config", "undo-auto-allocation", "grafana"];
    let (code, words) = home.refused(&undo);
    assert_eq!(code, 1);
    assert!(words.contains("2 ports are leased") && words.contains("--force"), "{words}");
    let forced = home.json(&[&undo[..], &["--force"]].concat());
    assert_eq!(forced["released"], 2);
    assert!(home.service_type("grafana").is_none());
    let (_, words) = home.refused(&["config", "undo-auto-allocation", "dev"]);
    assert!(words.contains("built in"), "{words}");
}

#[test]
fn earlier_versions_of_the_drop_in_can_be_put_in_force_again() {
    let home = Home::with_growth();
    home.ok(&["allocate", "grafana"]);
    home.ok(&["allocate", "loki"]);
    assert_eq!(home.list("backups", &["config", "backups"]).len(), 2);
    let (code, words) = home.refused(&["config", "restore", "2"]);
    assert_eq!(code, 1, "{words}");
    home.ok(&["config", "restore", "2", "--force"]);
    assert!(home.service_type("loki").is_none());
    assert!(home.service_type("grafana").is_some());
    assert!(home.refused(&["config", "restore", "99"]).1.contains("the kept versions are"));
}

#[test]
fn automatic_ranges_can_be_switched_off_and_on() {
    let home = Home::with_growth();
    home.ok(&["config", "auto-allocation", "disable"]);
    let (code, words) = home.refused(&["allocate", "grafana", "--new"]);
    assert_eq!(code, 1);
    assert!(words.contains("switched off"), "{words}");
    home.ok(&["config", "auto-allocation", "enable"]);
    home.ok(&["allocate", "grafana", "--new", "--count", "10"]);
    // A type that has a range by itself keeps it, and gets no further one.
    home.ok(&["config", "auto-allocation", "disable"]);
    let (code, words) = home.refused(&["allocate", "grafana", "--new"]);
    assert!(code == 1 && words.contains("auto-allocation enable"), "{words}");
    home.ok(&["config", "auto-allocation", "enable"]);
    home.ok(&["allocate", "grafana", "--new"]);
    // What a person has written counts more, and the refusal says where it is.
    home.configure(r#"{"auto_allocation": {"enabled": true}}"#);
    home.ok(&["config", "reload"]);
    let (_, words) = home.refused(&["config", "auto-allocation", "disable"]);
    assert!(words.contains("config.json:1"), "{words}");
}

#[test]
fn a_template_is_an_offset_from_the_first_preferred_port() {
    let home = Home::with_type();
    let staging = home.ok(&["allocate", "mine", "--template", "staging"]);
    assert_eq!(staging, home.port(2).to_string());
    let (code, words) = home.refused(&["allocate", "mine", "--template", "stagign"]);
    assert_eq!(code, 2);
    assert!(words.contains("did you mean \"staging\"?"), "{words}");
}

#[test]
fn a_service_that_runs_once_is_shared_until_the_last_owner_is_gone() {
    let home = Home::with_single();
    let (first, second) = (sleeper(), sleeper());
    let ask =
        |owner: &Child| home.json(&["allocate", "mine", "--owner", &format!("pid:{}", owner.id())]);
    let (one, two) = (ask(&first), ask(&second));
    assert_eq!(one["existing"], Json::Null);
    assert_eq!(two["existing"], true);
    assert_eq!(one["port"], two["port"]);
    assert!(two["held"].as_str().unwrap().contains(&format!("process {}", first.id())), "{two}");
    end(first, Signal::SIGTERM);
    let holder = || home.leases()[0]["pid"].clone();
    home.until(|| holder() == second.id());
    assert_eq!(home.json(&["allocate", "mine"])["lease_id"], one["lease_id"]);
    end(second, Signal::SIGTERM);
    home.until(|| home.leases().is_empty());
}

#[test]
fn a_key_tells_singletons_of_one_type_apart() {
    let home = Home::with_single();
    let ask = |key: &str| home.json(&["allocate", "mine", "--singleton-key", key]);
    let (a, b) = (ask("a"), ask("b"));
    assert_ne!(a["port"], b["port"]);
    assert_eq!(ask("a")["port"], a["port"]);
    // Each finds its own port again, though another was given one last.
    home.ok(&["release", "--type", "mine", "--yes"]);
    assert_eq!(ask("a")["port"], a["port"]);
    assert_eq!(ask("b")["port"], b["port"]);
    assert_eq!(home.refused(&["allocate", "dev", "--singleton-key", "a"]).0, 2);
    assert_eq!(home.refused(&["allocate", "mine", "--count", "2"]).0, 2);
}

#[test]
fn suggestions_come_true_and_say_why() {
    let home = Home::with_type();
    let suggested = home.list("suggestions", &["suggest", "mine", "--count", "2"]);
    assert_eq!(suggested[0]["reason"], "first_free");
    for suggestion in suggested {
        assert_eq!(home.ok(&["allocate", "mine", "--new"]), suggestion["port"].to_string());
    }
    let last = home.port(9);
    let web = home.json(&["allocate", "mine", "--name", "web", "--port", &last.to_string()]);
    home.ok(&["release", web["lease_id"].as_str().unwrap()]);
    let again = home.list("suggestions", &["suggest", "mine", "--name", "web"]);
    assert_eq!(again[0]["port"], last);
    assert_eq!(again[0]["reason"], "remembered");
}

#[test]
fn without_a_type_the_files_of_the_project_are_looked_at() {
    let home = Home::new();
    let project = home.path("shop");
    fs::create_dir(&project).unwrap();
    fs::write(
        project.join("package.json"),
        r#"{"scripts": {"dev": "vite", "storybook": "storybook dev -p 6007"}}"#,
    )
    .unwrap();
    let needs = home.list("suggestions", &["suggest", "--project", project.to_str().unwrap()]);
    let types: Vec<_> = needs.iter().map(|n| &n["service_type"]).collect();
    assert_eq!(types, ["dev", "storybook"]);
    assert_eq!(needs[1]["wants"], 6007);
    assert!(needs[0]["because"].as_str().unwrap().contains("package.json"), "{needs:?}");
}

#[test]
fn status_and_doctor_say_what_is_wrong_with_the_configuration() {
    let home = Home::with_type();
    assert_eq!(home.json(&["status"])["running"], false);
    home.ok(&["allocate", "mine"]);
    home.configure(r#"{"service_types": {"mine": {"port_range": [9, 8]}}}"#);
    assert_eq!(home.run(&["config", "reload"]).status.code(), Some(1));
    let status = home.json(&["status"]);
    assert!(status["config_problems"][0].as_str().unwrap().contains("reversed"), "{status}");
    assert!(home.ok(&["status"]).contains("the last good one stays in force"));
    let doctor = home.run(&["doctor", "--json"]);
    assert_eq!(doctor.status.code(), Some(1));
    let mut findings = listed("findings", doctor.stdout).into_iter();
    let bad = findings.find(|f| f["check"] == "configuration").unwrap();
    assert_eq!(bad["verdict"], "error");
    assert!(bad["message"].as_str().unwrap().contains("config.json:1"), "{bad}");
    // The type is still there.
    home.ok(&["allocate", "mine"]);
}
