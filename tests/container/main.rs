//! Tests in booted machines with a real systemd, a real session bus and a real journal: each test on
//! each version, in a machine of its own, with the package installed as a distribution does it, and as
//! the unprivileged user `dev`.
//!
//! `tests/run` sets them up; a single one is run so:
//! `STYXY_DEB=target/debian/styxy_….deb STYXY_MACHINE=tests/machine/machine cargo test --test container kill_9`
//!
//! - `machine`: a machine, and what runs in it
//! - `inside`: this program again, inside a machine, as a client that does many things quickly
//! - the other modules: the tests, by what they are about

mod activation;
mod agents;
mod archive;
mod audit;
mod audit_verb;
mod crash;
mod damage;
#[path = "../support/dice.rs"]
mod dice;
mod guards;
mod idle;
mod inside;
mod listeners;
mod machine;
mod on_demand;
mod owners;
mod package;
#[path = "../support/recipes.rs"]
#[allow(dead_code, reason = "another test reads all of the page")]
mod page;
mod pages;
mod portserver;
mod race;
mod recipes;
mod registry;
mod sandbox;
mod setup;
mod tcp;
mod types;
#[cfg(target_arch = "x86_64")]
#[path = "../support/within.rs"]
mod within;

use libtest_mimic::{Arguments, Trial};
use machine::Machine;

/// Debian 12 has systemd 252, Debian 13 has 257. `STYXY_SUITES` names others.
const SUITES: &str = "bookworm trixie";

/// A test: its name, and what it does with a machine.
type Test = (&'static str, fn(&Machine));

fn main() {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() == Some("inside") {
        return inside::main(&arguments.collect::<Vec<_>>());
    }
    let tests = [
        activation::TESTS,
        agents::TESTS,
        archive::TESTS,
        audit::TESTS,
        audit_verb::TESTS,
        crash::TESTS,
        damage::TESTS,
        guards::TESTS,
        idle::TESTS,
        listeners::TESTS,
        on_demand::TESTS,
        owners::TESTS,
        package::TESTS,
        pages::TESTS,
        portserver::TESTS,
        race::TESTS,
        recipes::TESTS,
        registry::TESTS,
        sandbox::TESTS,
        setup::TESTS,
        tcp::TESTS,
        types::TESTS,
    ]
    .concat();
    let suites: &str = std::env::var("STYXY_SUITES").unwrap_or_else(|_| SUITES.to_owned()).leak();
    let suites = suites.split_whitespace();
    let trials = suites.flat_map(|suite| tests.iter().map(move |test| trial(suite, *test)));
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit();
}

fn trial(suite: &'static str, (name, test): Test) -> Trial {
    Trial::test(format!("{suite}::{name}"), move || {
        let machine = Machine::boot(suite, name);
        test(&machine);
        assert_eq!(machine.leaked_tokens(), "");
        Ok(())
    })
}
