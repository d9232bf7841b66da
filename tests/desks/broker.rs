//! What only dbus-broker does, which counts what waits for all connections of a user together, and hangs up on clients.

use std::time::Instant;

use super::{Machine, Outcome};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/desks/broker.py");

/// What is tried, by the names that broker.py has for it.
const CHECKS: [(&str, &str); 5] = [
    ("watchers", "50 watchers that are stopped catch up, and nobody is thrown off the bus"),
    ("subscribers", "50 subscribers that do not read learn it, and nobody is thrown off the bus"),
    ("descriptors", "a client that can be handed no descriptor keeps no lease"),
    ("doctor", "the doctor finds nothing wrong"),
    ("masked", "every verb names a unit that is masked, and the way out"),
];

/// A check, and what came of it.
pub struct Check {
    pub name: &'static str,
    pub milliseconds: u128,
    pub outcome: Outcome,
}

/// Makes all checks as the user of a machine that has dbus-broker and the package.
pub fn checks(machine: &Machine) -> Vec<Check> {
    machine.put(SCRIPT, "/usr/local/lib/broker.py");
    let check = |(task, name)| {
        let started = Instant::now();
        let done = machine.user(&format!("python3 /usr/local/lib/broker.py {task}"));
        let outcome = match done.code {
            Some(0) => Outcome::Serves,
            _ => Outcome::Fails(done.stderr),
        };
        Check { name, milliseconds: started.elapsed().as_millis(), outcome }
    };
    CHECKS.into_iter().map(check).collect()
}
