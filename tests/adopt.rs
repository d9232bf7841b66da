//! The option `adopt`: a lease for a server that runs already.

mod support;

use std::net::TcpListener;

use nix::sys::signal::Signal;
use serde_json::{Value as Json, json};
use support::{Answer, Home, end};

struct World {
    home: Home,
}

impl World {
    /// Ten ports, the last of which is excluded.
    fn new() -> Self {
        let home = Home::new();
        let config = json!({
            "service_types": {
                "mine": {"port_range": [home.port(0), home.port(8)]},
                "datagrams": {"port_range": [home.port(9), home.port(9)], "protocol": "udp"},
            },
            "excluded_ports": [home.port(8)],
        });
        home.configure(&config.to_string());
        Self { home }
    }

    fn server(&self, index: u16) -> TcpListener {
        TcpListener::bind(("127.0.0.1", self.home.port(index))).unwrap()
    }

    /// Asks to adopt a port, with these options besides.
    fn adopt(&self, index: u16, options: &Json) -> Answer {
        let mut body = json!({
            "service_type": "mine", "port": self.home.port(index), "strict": true, "adopt": true,
        });
        for (key, value) in options.as_object().unwrap() {
            body[key] = value.clone();
        }
        self.home.http("POST", "/allocate", &body.to_string())
    }

    #[track_caller]
    fn refused(&self, index: u16, options: &Json, status: u16, words: &str) {
        let answer = self.adopt(index, options);
        let error = answer.body["error"].as_str().unwrap_or_default();
        assert!(answer.status == status && error.contains(words), "{answer:?}");
    }
}

#[test]
fn a_server_that_runs_already_gets_the_lease_of_its_port_and_keeps_it_when_the_service_is_killed() {
    let world = World::new();
    let server = world.server(3);
    let service = world.home.service();
    let id = "6e1f9c4e-9df7-4f0e-8e2b-0f3f0e6f3a11";
    let options = json!({"lease_id": id, "service_name": "web", "project_path": "/shop"});
    let mut dry = options.clone();
    dry["dry_run"] = true.into();
    let dry = world.adopt(3, &dry);
    assert_eq!((dry.status, &dry.body["dry_run"]), (200, &json!(true)), "{dry:?}");
    assert_eq!(world.home.leases(), [] as [Json; 0], "a dry run changes nothing");

    let granted = world.adopt(3, &options);
    assert_eq!((granted.status, &granted.body["lease_id"]), (200, &json!(id)), "{granted:?}");
    let note = granted.body["note"].as_str().unwrap();
    assert!(note.contains("not guarded"), "{note}");
    end(service, Signal::SIGKILL);
    let service = world.home.service();
    let [lease] = &world.home.leases()[..] else { panic!() };
    for (key, value) in [("lease_id", id), ("state", "listening"), ("hold", "none")] {
        assert_eq!(lease[key], value, "{lease}");
    }
    world.refused(3, &json!({}), 409, "is leased");
    let other = json!({"adopt": false, "strict": false});
    assert_ne!(world.adopt(3, &other).body["port"], world.home.port(3));
    drop(server);
    assert_eq!(world.home.http("DELETE", &format!("/allocate/{id}"), "").status, 200);
    let again = json!({"service_type": "mine", "service_name": "web", "project_path": "/shop"});
    let again = world.home.http("POST", "/allocate", &again.to_string());
    assert_eq!(again.body["port"], world.home.port(3), "it is remembered like any other");
    end(service, Signal::SIGTERM);
}

#[test]
fn the_lease_of_an_adopted_server_ends_with_its_owner_and_its_listener() {
    let world = World::new();
    let server = world.server(3);
    let service = world.home.service();
    let mut owner = std::process::Command::new("sleep").arg("600").spawn().unwrap();
    let granted = world.adopt(3, &json!({"pid": owner.id()}));
    assert_eq!(granted.status, 200, "{granted:?}");
    owner.kill().unwrap();
    owner.wait().unwrap();
    let state = || world.home.leases().first().map(|lease| lease["state"].clone());
    world.home.until(|| state() == Some(json!("orphaned")));
    drop(server);
    world.home.until(|| state().is_none());
    end(service, Signal::SIGTERM);
}

#[test]
fn only_a_port_that_is_listened_on_and_nobodys_is_adopted() {
    let world = World::new();
    let _servers = [3, 8, 9].map(|index| world.server(index));
    let service = world.home.service();
    let port = world.home.port(2);
    world.refused(2, &json!({}), 400, &format!("nobody listens on TCP port {port}"));
    // A guard is no listener.
    let leased = world.home.http("POST", "/allocate", &json!({"service_type": "mine"}).to_string());
    assert_eq!(leased.body["port"], world.home.port(0));
    world.refused(0, &json!({}), 409, "is leased");
    world.refused(8, &json!({}), 409, "is excluded");
    for (options, words) in [
        (json!({"count": 2}), "one port at a time"),
        (json!({"protocol": "udp"}), "for TCP"),
        (json!({"protocol": "both"}), "for TCP"),
        (json!({"strict": false}), "give port and strict"),
        (json!({"hold": "guard"}), "cannot be guarded"),
        (json!({"claim": true, "project_path": "/shop"}), "without claim"),
        (json!({"use_claim": true, "project_path": "/shop"}), "without claim"),
        (json!({"within": "6e1f9c4e-9df7-4f0e-8e2b-0f3f0e6f3a11"}), "without claim"),
    ] {
        world.refused(3, &options, 400, words);
    }
    world.refused(9, &json!({"service_type": "datagrams"}), 400, "for TCP");
    assert_eq!(world.home.leases().len(), 1, "nothing else was granted");
    let tcp = json!({"service_type": "datagrams", "protocol": "tcp", "hold": "none"});
    assert_eq!(world.adopt(9, &tcp).status, 200);
    end(service, Signal::SIGTERM);
}
