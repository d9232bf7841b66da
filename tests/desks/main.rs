//! A matrix of the desks at which people sit: with and without the package, with a good, a wrong, a dying and no
//! session bus, in a session, lingering, as cron does it and in a container, with good, absent and odd variables. At each
//! of them each verb serves within three seconds: a sentence that says why not would do elsewhere, but all of these have a
//! place for the state.
//!
//! The desks are in booted machines of both versions of systemd, with dbus-daemon and with dbus-broker. Not all
//! combinations are tried, but all pairs, and with a wrong bus all triples. `tests/long` sets it up; by hand:
//! `STYXY_DEB=… STYXY_MACHINE=… STYXY_BROKERS=FOLDER cargo test --test desks [KIND]`, where the folder has a package
//! dbus-broker for each suite, and a kind is the beginning of a name such as `trixie-broker-package`.

#[path = "../container/machine.rs"]
#[allow(dead_code)]
mod machine;
mod pairs;

use std::{
    env, fmt,
    process::{Command, ExitCode},
    sync::{Mutex, PoisonError},
    thread,
};

use machine::Machine;
use pairs::Cell;
use serde_json::{Value as Json, json};

/// Debian 12 has systemd 252, Debian 13 has 257.
const SUITES: [&str; 2] = ["bookworm", "trixie"];
const BUSES: [&str; 2] = ["daemon", "broker"];
const PACKAGES: [&str; 2] = ["package", "bare"];

/// Machines that are there at once.
const AT_ONCE: usize = 2;

/// What came of a cell.
enum Outcome {
    /// The verb did what it is for.
    Serves,
    /// It did not; what it said, or why it counts as failed.
    Fails(String),
}

struct Row {
    kind: String,
    cell: Cell,
    odd: String,
    milliseconds: u64,
    outcome: Outcome,
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Cell { bus, login, home, runtime, verb, .. } = self.cell;
        let (kind, odd, milliseconds) = (&self.kind, &self.odd, self.milliseconds);
        write!(
            f,
            "{kind:<24} {bus:<6} {login:<10} {home:<7} {runtime:<7} {verb:<9} {milliseconds:>6} ms  "
        )?;
        match &self.outcome {
            Outcome::Serves => write!(f, "serves  {odd}"),
            Outcome::Fails(why) => {
                write!(f, "FAILS   {odd}\n    {}", why.trim().replace('\n', "\n    "))
            }
        }
    }
}

fn main() -> ExitCode {
    let filter = env::args().nth(1).unwrap_or_default();
    // A test harness would be asked for its tests.
    if filter.starts_with("--") {
        return ExitCode::SUCCESS;
    }
    let mut kinds = Vec::new();
    for suite in SUITES {
        for (turn, bus) in BUSES.into_iter().enumerate() {
            // Other combinations with each, so that there are more altogether.
            let cells = pairs::cells(turn + if suite == "trixie" { 2 } else { 0 });
            for package in PACKAGES {
                let kind = format!("{suite}-{bus}-{package}");
                let mine: Vec<_> = cells.iter().filter(|c| c.package == package).copied().collect();
                kinds.push((kind, suite, bus, mine));
            }
        }
    }
    kinds.retain(|(kind, ..)| kind.starts_with(&filter));
    let left = Mutex::new(kinds.into_iter());
    let next = || left.lock().unwrap_or_else(PoisonError::into_inner).next();
    let rows = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some((kind, suite, bus, cells)) = next() {
                    let of_kind = at(&kind, suite, bus, &cells);
                    rows.lock().unwrap_or_else(PoisonError::into_inner).extend(of_kind);
                }
            });
        }
    });
    let mut rows = rows.into_inner().unwrap_or_else(PoisonError::into_inner);
    rows.sort_by(|a, b| (&a.kind, a.cell.number).cmp(&(&b.kind, b.cell.number)));
    rows.iter().for_each(|row| println!("{row}"));
    let failed = rows.iter().filter(|row| matches!(row.outcome, Outcome::Fails(_))).count();
    let (word, passed) = (if failed == 0 { "ok" } else { "FAILED" }, rows.len() - failed);
    println!(
        "test result: {word}. {passed} passed; {failed} failed; 0 ignored; 0 measured; 0 filtered out"
    );
    ExitCode::from(u8::from(failed > 0 || rows.is_empty()))
}

/// Tries the cells of one kind of machine.
fn at(kind: &str, suite: &str, bus: &str, cells: &[Cell]) -> Vec<Row> {
    let with_package = kind.ends_with("-package");
    let name = format!("desks-{bus}-{with_package}");
    let machine = if with_package {
        Machine::boot(suite, &name)
    } else {
        Machine::boot_without_package(suite, &name)
    };
    if !with_package {
        // As `cargo install` has it.
        let deb = machine::package();
        let unpacked = tempfile::NamedTempFile::new().unwrap();
        let unpack = format!(
            "dpkg-deb --fsys-tarfile '{deb}' | tar -xO ./usr/bin/styxy >'{0}' && chmod 755 '{0}'",
            unpacked.path().display()
        );
        assert!(Command::new("sh").args(["-c", &unpack]).status().unwrap().success());
        machine.put(unpacked.path().to_str().unwrap(), "/usr/local/bin/styxy");
    }
    if bus == "broker" {
        let folder = env::var("STYXY_BROKERS").expect("STYXY_BROKERS names a folder of packages");
        machine.put(&format!("{folder}/{suite}.deb"), "/var/tmp/dbus-broker.deb");
        let install = "dpkg --install /var/tmp/dbus-broker.deb &&
            systemctl --global enable --force dbus-broker.service && systemctl restart user@1000.service";
        machine.root(install).ok();
        assert_eq!(machine.unit("dbus.service", "Id"), "dbus-broker.service");
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/desks/cell.py");
    machine.put(script, "/usr/local/lib/cell.py");
    cells.iter().map(|cell| try_at(kind, &machine, *cell)).collect()
}

fn try_at(kind: &str, machine: &Machine, cell: Cell) -> Row {
    let Cell { number, bus, login, home, runtime, verb, .. } = cell;
    let task = json!({"number": number, "bus": bus, "login": login, "home": home, "runtime": runtime, "verb": verb});
    let done = machine.root(&format!("python3 /usr/local/lib/cell.py '{task}'"));
    let last = done.stdout.lines().last().unwrap_or_default();
    let (odd, milliseconds, outcome) = match serde_json::from_str::<Json>(last) {
        Ok(result) => (
            result["odd"].as_str().unwrap_or_default().to_owned(),
            result["milliseconds"].as_u64().unwrap_or(0),
            judged(verb, &result),
        ),
        Err(_) => {
            (String::new(), 0, Outcome::Fails(format!("the desk could not be set up: {done:?}")))
        }
    };
    Row { kind: kind.to_owned(), cell, odd, milliseconds, outcome }
}

fn judged(verb: &str, result: &Json) -> Outcome {
    let text = |key: &str| result[key].as_str().unwrap_or_default();
    let (code, stdout, stderr) =
        (result["code"].as_i64().unwrap_or(-1), text("stdout"), text("stderr"));
    let all = format!("exit code {code}\n{stdout}{stderr}");
    // A machine that is loaded is slower than the promise allows.
    let limit: u64 = env::var("STYXY_DESK_SECONDS").map_or(3, |limit| limit.parse().unwrap());
    if result["milliseconds"].as_u64().is_none_or(|milliseconds| milliseconds > limit * 1_000) {
        return Outcome::Fails(format!("too late: {all}"));
    }
    let is_port = || stdout.trim().parse::<u16>().is_ok();
    let serves = match verb {
        "allocate" | "run" => code == 0 && is_port(),
        "doctor" => matches!(code, 0 | 1) && stdout.lines().count() > 5 && stderr.is_empty(),
        _ => code == 0 && !stdout.is_empty(),
    };
    if serves { Outcome::Serves } else { Outcome::Fails(all) }
}
