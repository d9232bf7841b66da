//! What a project used to run: `styxy suggest` and `styxy env` know it from the remembered ports, and from the journal what
//! is always started after what.

#[path = "support/mod.rs"]
mod support;

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Output,
};

use nix::sys::signal::Signal;
use serde_json::{Value as Json, json};
use support::{Home, end, listed, out, said};

/// A home whose types have ports that no other test has, and in it the folder of a project.
fn project(home: &Home) -> PathBuf {
    let types = ["dev", "api", "database", "docs", "test"].iter().zip(0_u16..);
    let types = types.map(|(name, at)| {
        let range = format!("[{}, {}]", home.port(at * 3), home.port(at * 3 + 2));
        let claims = if *name == "test" { r#", "claims": "named""# } else { "" };
        format!(r#""{name}": {{"port_range": {range}{claims}}}"#)
    });
    let types = types.collect::<Vec<_>>().join(", ");
    home.configure(&format!(r#"{{"service_types": {{{types}}}}}"#));
    let project = home.path("shop");
    fs::create_dir_all(project.join(".git")).unwrap();
    fs::canonicalize(project).unwrap()
}

fn run(home: &Home, folder: &Path, line: &str) -> Output {
    home.styxy().args(line.split(' ')).current_dir(folder).output().unwrap()
}

#[track_caller]
fn ok(home: &Home, folder: &Path, line: &str) -> String {
    let output = run(home, folder, line);
    assert!(output.status.success(), "{line}: {output:?}");
    out(&output)
}

/// Runs these services together, for long enough to count as used.
#[track_caller]
fn used(home: &Home, folder: &Path, services: &[&str]) {
    let start = |service: &&str| {
        let line = format!("run {service} --quiet -- sleep 3.1");
        home.styxy().args(line.split(' ')).current_dir(folder).spawn().unwrap()
    };
    let started: Vec<_> = services.iter().map(start).collect();
    for mut child in started {
        assert!(child.wait().unwrap().success(), "{services:?}");
    }
    home.until(|| home.leases().iter().all(|lease| lease["owner"] == "none"));
}

/// What is suggested, each as its name, and whether it was seen.
fn suggested(home: &Home, folder: &Path) -> Vec<(String, bool)> {
    let all = listed("suggestions", ok(home, folder, "suggest --json"));
    let name = |service: &Json| {
        let part = |key: &str| service[key].as_str().unwrap_or_default().to_owned();
        format!("{} {}", part("service_type"), part("service_name")).trim_end().to_owned()
    };
    all.iter().map(|service| (name(service), service["last_seen"].is_string())).collect()
}

fn is(seen: &[(&str, bool)]) -> Vec<(String, bool)> {
    seen.iter().map(|(name, seen)| ((*name).to_owned(), *seen)).collect()
}

#[test]
fn what_ran_in_a_project_is_suggested_there_and_leased_by_env() {
    let home = Home::with_ports(15);
    let shop = project(&home);
    let service = home.service();
    assert!(ok(&home, &shop, "suggest").contains("name a type"), "nothing ran here yet");
    // What was only tried or asked for did not run.
    assert!(!run(&home, &shop, "run api -- false").status.success());
    ok(&home, &shop, "allocate docs");
    // Two at once are one service; a port for one test run is of no use later.
    used(&home, &shop, &["dev", "dev", "database --name orders", "test"]);
    assert_eq!(suggested(&home, &shop), is(&[("dev", true), ("database orders", true)]));
    let table = ok(&home, &shop, "suggest");
    assert!(table.contains("it had a port here, last seen just now"), "{table}");
    let port = |first: u16| home.port(first);
    let env = format!(
        "export PORT={0}\nexport DEV_PORT={0}\nexport DEV_URL=http://localhost:{0}\nexport ORDERS_PORT={1}",
        port(0),
        port(6)
    );
    assert_eq!(ok(&home, &shop, "env"), env);
    // A claim that nobody uses is no reason to remember it.
    let seen = |home: &Home| {
        let all = listed("suggestions", ok(home, &shop, "suggest --json"));
        all.iter().map(|service| service["last_seen"].clone()).collect::<Vec<_>>()
    };
    let before = seen(&home);
    ok(&home, &shop, "env");
    assert_eq!(seen(&home), before);
    // It is stored.
    end(service, Signal::SIGKILL);
    let service = home.service();
    assert_eq!(seen(&home), before);
    ok(&home, &shop, "forget --type database");
    assert_eq!(suggested(&home, &shop), is(&[("dev", true)]));
    end(service, Signal::SIGTERM);
}

#[test]
fn what_ran_comes_before_what_files_show_and_changes_nothing_about_it() {
    let home = Home::with_ports(15);
    let shop = project(&home);
    let service = home.service();
    let write = |name: &str, text: &str| fs::write(shop.join(name), text).unwrap();
    write("package.json", r#"{"scripts": {"dev": "vite"}}"#);
    write("compose.yaml", "services:\n  cache: {image: postgres, ports: ['5432']}\n");
    let env = ok(&home, &shop, "env");
    used(&home, &shop, &["database --name cache", "api"]);
    let seen = [("database cache", true), ("api", true), ("dev", false)];
    assert_eq!(suggested(&home, &shop), is(&seen));
    let with_history = ok(&home, &shop, "env");
    let api = with_history.strip_prefix(&env).unwrap();
    assert_eq!(
        api,
        format!("\nexport API_PORT={0}\nexport API_URL=http://127.0.0.1:{0}", home.port(3))
    );
    // What would have the variable of another one has none, and no lease.
    used(&home, &shop, &["docs --name cache"]);
    assert_eq!(ok(&home, &shop, "env"), with_history);
    let leased = home.leases();
    let is_claim = |lease: &Json| lease["service_type"] == "docs" && lease["owner"] == "none";
    assert!(!leased.iter().any(is_claim), "{leased:?}");
    // A file that says what there is has the last word.
    write("styxy.json", r#"{"services": {"dev": {"type": "dev"}, "cache": {"type": "database"}}}"#);
    assert_eq!(suggested(&home, &shop), is(&[("database cache", true), ("dev", false)]));
    assert!(!ok(&home, &shop, "env").contains("API"));
    end(service, Signal::SIGTERM);
}

#[test]
fn what_ran_in_a_folder_that_is_gone_is_not_suggested() {
    let home = Home::with_ports(15);
    let shop = project(&home);
    let service = home.service();
    let web = shop.join("web");
    fs::create_dir(&web).unwrap();
    fs::write(web.join("go.mod"), "").unwrap();
    used(&home, &web, &["dev"]);
    assert_eq!(suggested(&home, &shop), is(&[("dev", true)]));
    fs::remove_dir_all(&web).unwrap();
    assert_eq!(suggested(&home, &shop), []);
    end(service, Signal::SIGTERM);
}

#[test]
fn what_is_always_started_after_a_service_is_proposed_with_it() {
    let home = Home::with_ports(15);
    fs::create_dir(home.path("bin")).unwrap();
    let fake = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/journalctl");
    symlink(fake, home.path("bin/journalctl")).unwrap();
    let shop = project(&home);
    let service = home.service();
    let web = shop.join("web");
    fs::create_dir(&web).unwrap();
    fs::write(web.join("package.json"), r#"{"scripts": {"dev": "vite"}}"#).unwrap();
    used(&home, &shop, &["database --name orders"]);
    used(&home, &web, &["dev"]);
    let with_journal = |line: &str, folder: &Path| {
        let path = home.path("bin").display().to_string() + ":/usr/bin:/bin";
        let styxy = &mut home.styxy();
        styxy.args(line.split(' ')).current_dir(folder).env("PATH", path).output().unwrap()
    };
    let proposed = |folder: &Path| {
        let all = listed("suggestions", out(&with_journal("suggest --json", folder)));
        let follows = |service: &Json| service["follows"].as_str().map(str::to_owned);
        all.iter().map(follows).collect::<Vec<_>>()
    };
    assert_eq!(proposed(&web), [None], "only its own");
    let mut events = Vec::new();
    for day in 1..4 {
        let mut start = |minute: u32, service_type: &str, name: &str, package: Option<&Path>| {
            events.push(json!({
                "STYXY_ACTION": "allocate", "STYXY_SERVICE_TYPE": service_type, "STYXY_SERVICE_NAME": name,
                "STYXY_PROJECT_PATH": shop, "STYXY_PACKAGE_PATH": package, "STYXY_OWNER": "process 7",
                "STYXY_TIME": format!("2026-11-0{day}T10:{minute:02}:00Z"), "STYXY_STATE_ID": "x", "STYXY_SEQ": day * 100 + minute,
            }));
        };
        start(1, "dev", "vite", Some(&web));
        start(2, "database", "orders", None);
    }
    let lines: String = events.iter().map(|event| event.to_string() + "\n").collect();
    fs::write(home.path("state/journal"), &lines).unwrap();
    assert_eq!(proposed(&web), [None, Some("dev@web".to_owned())]);
    let table = out(&with_journal("suggest", &web));
    assert!(
        table.contains("it had a port here, last seen just now, each time after dev@web"),
        "{table}"
    );
    let suggest = with_journal("suggest dev", &web);
    let expected = format!(
        "database:orders was started after it each time; it would get port {}",
        home.port(6)
    );
    assert!(said(&suggest).contains(&expected), "{suggest:?}");
    // After a service was forgotten, nothing is known to follow it.
    let forgotten = json!({
        "STYXY_ACTION": "forget", "STYXY_SERVICE_TYPE": "dev", "STYXY_PROJECT_PATH": shop, "STYXY_PACKAGE_PATH": web,
        "STYXY_TIME": "2026-11-03T11:00:00Z", "STYXY_STATE_ID": "x", "STYXY_SEQ": 400,
    });
    fs::write(home.path("state/journal"), format!("{lines}{forgotten}\n")).unwrap();
    assert_eq!(proposed(&web), [None]);
    fs::write(home.path("state/journal"), lines).unwrap();
    // For another service nothing is said.
    assert_eq!(said(&with_journal("suggest database", &web)), "");
    end(service, Signal::SIGTERM);
}
