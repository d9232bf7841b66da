//! What docs/recipes.md has for a machine with systemd.

use std::time::Duration;

use crate::{
    Test,
    machine::{Machine, eventually},
    page::recipe,
};

pub const TESTS: &[Test] =
    &[("a_unit_of_the_recipes_has_one_port_and_no_lease_when_stopped", unit)];

/// There is no node, so this is `node`.
const NODE: &str = r#"#!/usr/bin/python3
import http.server, os
http.server.HTTPServer(("127.0.0.1", int(os.environ["PORT"])), http.server.SimpleHTTPRequestHandler).serve_forever()
"#;

fn unit(machine: &Machine) {
    let (name, text) = recipe("systemd user unit").pop_first().unwrap();
    let folder = name.rsplit_once('/').unwrap().0;
    let put = |path: &str, text: &str| format!("cat >{path} <<'END'\n{text}END\n");
    machine.root(&(put("/usr/bin/node", NODE) + "chmod 755 /usr/bin/node")).ok();
    machine.user(&(format!("mkdir -p ~/shop {folder}\n") + &put(&name, &text))).ok();
    machine.user("systemctl --user daemon-reload").ok();
    for _ in 0..3 {
        machine.user("systemctl --user enable --now shop").ok();
        let port = machine.user("cd shop && styxy port web --wait 60").ok();
        assert_eq!(port, "3000\n");
        machine.user("curl -sSo /dev/null http://127.0.0.1:3000").ok();
        assert_eq!(machine.unit_state("shop.service"), "active");
        machine.user("systemctl --user disable --now shop").ok();
        let leases = || machine.call("List", "'a{sv}' 0").unwrap()[0].as_array().unwrap().len();
        eventually(Duration::from_secs(60), "the lease ends", || leases() == 0);
    }
}
