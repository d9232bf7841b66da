//! Taking over from styxy 1.x: folders as it has written them.

mod support;

use std::{
    fs::{self, Permissions},
    net::TcpListener,
    os::unix::fs::{PermissionsExt, chown, symlink},
    path::PathBuf,
    process::{self, Output},
};

use nix::{sys::signal::Signal, unistd::geteuid};
use serde_json::{Value as Json, json};
use support::{Home, end, out, said};

const IDS: [&str; 3] = [
    "6e1f9c4e-9df7-4f0e-8e2b-0f3f0e6f3a11",
    "0b9cbb1c-2f53-4f39-a6b1-4f6f3d1d7c22",
    "b1ff3c0e-8c3b-4f2f-9f0b-5d6c6a0f3c33",
];

struct World {
    home: Home,
}

impl World {
    /// A home with a type of ten ports, of which the last is excluded, and an empty folder of styxy 1.x.
    fn new() -> Self {
        let home = Home::with_ports(40);
        let config = json!({
            "service_types": {"mine": {"port_range": [home.port(0), home.port(9)]}},
            "excluded_ports": [home.port(9)],
        });
        home.configure(&config.to_string());
        fs::create_dir(home.path(".styxy")).unwrap();
        Self { home }
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.home.path(".styxy").join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
    }

    fn port(&self, index: u16) -> u16 {
        self.home.port(index)
    }

    fn server(&self, index: u16) -> TcpListener {
        TcpListener::bind(("127.0.0.1", self.port(index))).unwrap()
    }

    /// An allocation as the newest 1.x writes it.
    fn allocation(&self, index: u16, id: &str, service_name: &str) -> Json {
        json!({
            "service_type": "mine", "service_name": service_name, "instance_id": "default", "project_path": "/shop",
            "port": self.port(index), "lockId": id, "serviceType": "mine", "serviceName": service_name,
            "instanceId": "default", "projectPath": "/shop", "process_id": 4711,
            "allocated_at": "2025-10-10T10:00:00.000Z", "userAgent": "unknown", "remoteIP": "127.0.0.1",
        })
    }

    fn state(&self, allocations: &Json) {
        let state = json!({"saved_at": "2025-10-10T10:00:00.000Z", "allocations": allocations, "instances": []});
        self.write("daemon.state", &serde_json::to_string_pretty(&state).unwrap());
    }

    /// The object that the command prints.
    #[track_caller]
    fn import(&self, arguments: &[&str]) -> Json {
        let answer = self.home.ok(&[&["import", "--json"], arguments].concat());
        serde_json::from_str(&answer).unwrap()
    }

    fn file(&self) -> PathBuf {
        self.home.config().join("config.d/00-styxy-1.x.json")
    }

    #[track_caller]
    fn refused(&self, arguments: &[&str], words: &str) {
        let output = self.home.run(&[&["import"], arguments].concat());
        assert!(output.status.code() == Some(1) && said(&output).contains(words), "{output:?}");
    }
}

/// Whether something is left out for this reason.
#[track_caller]
fn is_left_out(answer: &Json, what: &str, reason: &str) {
    let left_out = answer["left_out"].as_array().unwrap();
    let text = |left: &Json, key: &str| left[key].as_str().unwrap().to_owned();
    let is_it = |left: &Json| text(left, "what") == what && text(left, "reason").contains(reason);
    assert!(left_out.iter().any(is_it), "{what}: {reason}: {answer:#}");
}

#[test]
fn types_and_rules_are_shown_first_and_then_in_force() {
    let world = World::new();
    let service = world.home.service();
    let config = json!({
        "service_types": {
            "shop": {"description": "Auto-allocated", "preferred_ports": [world.port(10)],
                     "port_range": [world.port(10), world.port(19)], "instance_behavior": "multi",
                     "multi_instance_pattern": "sequential", "examples": [], "auto_allocated": true},
            "desk": {"range": [world.port(20), world.port(24)], "instance_behavior": "single"},
            "bad": {"range": [world.port(5), world.port(25)]},
        },
        "auto_allocation": {"default_chunk_size": 20},
        "auto_allocation_rules": {"web-*": {"chunk_size": 30}},
        "recovery": {"port_conflict": {"enabled": true}},
    });
    let text = config.to_string();
    world.write("config.json", &text);
    world.write("auth.token", &"5".repeat(64));

    let shown = world.home.run(&["import"]);
    assert!(said(&shown).contains("add --yes"), "{shown:?}");
    let shown = out(&shown);
    for part in [
        format!("service type shop: new, {}-{}", world.port(10), world.port(19)),
        format!("service type desk: new, {}-{}, runs once", world.port(20), world.port(24)),
        "automatic ranges: default_chunk_size 20 instead of 10".to_owned(),
        "rule for web-*: chunk_size 30".to_owned(),
        format!("service_types.bad.port_range: {}-{} overlaps", world.port(5), world.port(25)),
        "recovery: ".to_owned(),
        "~/.styxy/auth.token stays".to_owned(),
    ] {
        assert!(shown.contains(&part), "{part}: {shown}");
    }
    assert!(!world.file().exists(), "nothing is done yet");
    assert_eq!(world.import(&[])["done"], false);

    let done = world.import(&["--yes"]);
    assert_eq!(done["done"], true);
    let mode = fs::metadata(world.file()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let written: Json = serde_json::from_str(&fs::read_to_string(world.file()).unwrap()).unwrap();
    assert_eq!(done["configuration"]["content"], written);
    let types = world.home.list("service_types", &["types"]);
    let ranges = |name: &str| {
        let known = types.iter().find(|known| known["service_type"] == name)?;
        Some(known["ranges"][0].as_str().unwrap().to_owned())
    };
    assert_eq!(ranges("shop"), Some(format!("{}-{}", world.port(10), world.port(19))));
    assert_eq!(ranges("bad"), None);
    let validated = world.home.ok(&["config", "validate"]);
    assert!(validated.contains("is valid"), "{validated}");
    assert_eq!(fs::read_to_string(world.home.path(".styxy/config.json")).unwrap(), text);

    let again = world.import(&["--yes"]);
    assert_eq!((&again["done"], &again["configuration"]), (&json!(false), &Json::Null));
    fs::write(world.file(), "{\"idle_exit_seconds\": 7}").unwrap();
    let again = world.import(&["--yes"]);
    assert_eq!(again["configuration"], Json::Null);
    is_left_out(&again, "config.json", "exists already");
    assert!(fs::read_to_string(world.file()).unwrap().contains('7'), "it is somebody's");
    end(service, Signal::SIGTERM);
}

#[test]
fn only_ports_that_are_listened_on_become_leases_and_none_does_twice() {
    let world = World::new();
    let service = world.home.service();
    let _servers = [0, 1, 2, 9].map(|index| world.server(index));
    // An adopted port of another lease.
    let other =
        json!({"service_type": "mine", "port": world.port(2), "strict": true, "adopt": true});
    assert_eq!(world.home.http("POST", "/allocate", &other.to_string()).status, 200);
    let mut unknown = world.allocation(1, IDS[1], "unnamed-service");
    unknown["service_type"] = "nothing-like-it".into();
    unknown["serviceType"] = "nothing-like-it".into();
    world.state(&json!([
        world.allocation(0, IDS[0], "web"),
        world.allocation(3, IDS[1], "gone"),
        world.allocation(2, IDS[2], "taken"),
        unknown,
    ]));
    let plan = world.import(&[]);
    assert_eq!(plan["leases"][0]["lease_id"], IDS[0], "{plan:#}");
    let gone = format!("port {} of mine gone", world.port(3));
    is_left_out(&plan, &gone, "nobody listens");
    is_left_out(
        &plan,
        &format!("port {} of mine taken", world.port(2)),
        "is leased to mine already",
    );
    is_left_out(&plan, &format!("port {} of nothing-like-it", world.port(1)), "no service type");
    assert_eq!(world.home.leases().len(), 1, "nothing is done yet");

    assert_eq!(world.import(&["--yes"])["done"], true);
    let leases = world.home.leases();
    let lease = leases.iter().find(|lease| lease["lease_id"] == IDS[0]).unwrap();
    let expected = json!({
        "port": world.port(0), "service_type": "mine", "service_name": "web", "project_path": "/shop",
        "state": "listening", "hold": "none", "owner": "process", "pid": process::id(),
    });
    for (key, value) in expected.as_object().unwrap() {
        assert_eq!(&lease[key], value, "{key}: {lease:#}");
    }
    assert_eq!(lease["instance_id"], Json::Null, "default is the word of 1.x for none");
    assert_eq!(leases.len(), 2);
    let again = world.import(&["--yes"]);
    assert_eq!((&again["done"], &again["leases"]), (&json!(false), &json!([])));
    assert_eq!(again["already_imported"][0]["lease_id"], IDS[0]);
    assert_eq!(world.home.leases(), leases);
    end(service, Signal::SIGTERM);
}

#[test]
fn the_older_form_of_the_state_is_read_and_types_are_there_before_their_leases() {
    let world = World::new();
    let _server = world.server(11);
    let range = [world.port(10), world.port(19)];
    let config = json!({"service_types": {"shop": {"range": range, "preferred_ports": []}}});
    world.write("config.json", &config.to_string());
    let port = world.port(11);
    let allocation =
        json!({"service_type": "shop", "port": port, "lock_id": IDS[0], "project_path": "/a"});
    world.state(&json!({(port.to_string()): allocation}));
    let done = world.home.run(&["import", "--yes"]);
    let shown = out(&done);
    assert!(shown.contains("in force") && shown.contains("leased 1 port"), "{shown}");
    let [lease] = &world.home.leases()[..] else { panic!() };
    assert_eq!((&lease["lease_id"], &lease["service_type"]), (&json!(IDS[0]), &json!("shop")));
}

#[test]
fn what_the_service_refuses_is_listed_and_the_rest_is_imported() {
    let world = World::new();
    let _servers = [0, 9].map(|index| world.server(index));
    world.state(&json!([world.allocation(0, IDS[0], "a"), world.allocation(9, IDS[1], "b")]));
    let done = world.home.run(&["import", "--yes", "--json"]);
    assert_eq!(done.status.code(), Some(1), "{done:?}");
    let done: Json = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(done["leases"].as_array().unwrap().len(), 1);
    is_left_out(&done, &format!("port {} of mine b", world.port(9)), "is excluded");
    assert_eq!(world.home.leases().len(), 1);
}

#[test]
fn broken_files_are_reported_and_nothing_is_taken_of_them() {
    let world = World::new();
    let _server = world.server(0);
    world.write("config.json", "{\"service_types\": {\"shop\": ");
    world.state(&json!([world.allocation(0, IDS[0], "web")]));
    let plan = world.import(&[]);
    is_left_out(&plan, "config.json", "not valid JSON");
    assert_eq!(plan["leases"].as_array().unwrap().len(), 1, "the state is good");
    world.write("daemon.state", "[");
    is_left_out(&world.import(&["--yes"]), "daemon.state", "not valid JSON");
    world.write("daemon.state", &" ".repeat((4 << 20) + 1));
    is_left_out(&world.import(&["--yes"]), "daemon.state", "has more than");
    assert!(world.home.leases().is_empty() && !world.file().exists());
}

#[test]
fn a_folder_without_anything_of_styxy_1_is_refused_by_its_name() {
    let world = World::new();
    world.refused(&[], ".styxy has no config.json and no daemon.state");
    world.refused(&["nowhere"], "there is no folder");
    world.write("config.json", "{}");
    world.refused(&[".styxy/config.json"], "is not a folder");
    symlink(world.home.path(".styxy"), world.home.path("link")).unwrap();
    assert!(out(&world.home.run(&["import", "link"])).contains("nothing is left"));
}

#[test]
fn what_somebody_else_can_have_written_is_not_taken() {
    let world = World::new();
    let folder = world.home.path(".styxy");
    let config = folder.join("config.json");
    let mode =
        |path: &PathBuf, mode| fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    let range = [world.port(10), world.port(19)];
    let text = json!({"service_types": {"shop": {"port_range": range}}}).to_string();
    world.write("config.json", &text);
    mode(&config, 0o646);
    let import = || world.import(&["--yes"]);
    is_left_out(&import(), "config.json", "by every user");
    if geteuid().is_root() {
        mode(&config, 0o600);
        chown(&config, Some(2_001), None).unwrap();
        is_left_out(&import(), "config.json", "belongs to 2001");
        chown(&config, Some(0), Some(2_001)).unwrap();
        mode(&config, 0o660);
        is_left_out(&import(), "config.json", "by its group");
        // As where each user has a group of their own.
        chown(&config, None, Some(0)).unwrap();
    } else {
        mode(&config, 0o600);
    }
    assert!(!world.file().exists());
    mode(&folder, 0o757);
    world.refused(&["--yes"], "by every user");
    mode(&folder, 0o755);
    fs::remove_file(&config).unwrap();
    assert!(nix::unistd::mkfifo(&config, nix::sys::stat::Mode::S_IRWXU).is_ok());
    is_left_out(&import(), "config.json", "not a regular file");
    fs::remove_file(&config).unwrap();
    symlink(folder.join("nothing"), &config).unwrap();
    is_left_out(&import(), "config.json", "cannot be read");
    fs::remove_file(&config).unwrap();
    world.write("config.json", &text);
    assert_eq!(import()["done"], true);
}

#[test]
fn nothing_is_written_beside_a_configuration_that_has_errors() {
    let world = World::new();
    world.home.configure("{\"service_types\": {\"mine\": {}}}");
    let range = [world.port(10), world.port(19)];
    world.write("config.json", &json!({"service_types": {"shop": {"range": range}}}).to_string());
    is_left_out(&world.import(&["--yes"]), "config.json", "styxy config validate");
    assert!(!world.file().exists());
}

#[test]
fn names_in_the_files_do_nothing_to_a_terminal() {
    let world = World::new();
    let config = json!({"service_types": {"a\u{1b}[31m": {"range": [1, 2]}}, "b\u{202e}": 1});
    world.write("config.json", &config.to_string());
    let is_clean = |output: &Output| {
        let text = out(output);
        assert!(!text.contains(['\u{1b}', '\u{202e}']), "{text:?}");
    };
    is_clean(&world.home.run(&["import"]));
    is_clean(&world.home.run(&["import", "--json"]));
}
