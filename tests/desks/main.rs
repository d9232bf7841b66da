//! A matrix of the desks at which people sit: with and without the package, with a good, a wrong, a dying and no
//! session bus, in a session, lingering, as cron does it and in a container, with good, absent and odd variables. At each
//! of them each verb serves within three seconds: a sentence that says why not would do elsewhere, but all of these have a
//! place for the state.
//!
//! The desks are in booted machines of both versions of systemd, with dbus-daemon and with dbus-broker, and in a Debian 13
//! with a kernel of its own, there also with each of the settings by which a kernel forbids something. Not all
//! combinations are tried, but all pairs, and with a wrong bus all triples. Where dbus-broker is, what only dbus-broker
//! does is checked, too. `tests/long` sets it up; by hand:
//! `STYXY_DEB=… STYXY_MACHINE=… STYXY_BROKERS=FOLDER cargo test --test desks [KIND]`, where the folder has a package
//! dbus-broker for each suite, and a kind is the beginning of a name such as `trixie-broker-package` or `qemu-bare`.

mod broker;
#[path = "../container/machine.rs"]
#[allow(dead_code)]
mod machine;
mod pairs;

use std::{
    env, fmt, fs,
    path::Path,
    process::{Command, ExitCode, Stdio},
    sync::{Mutex, PoisonError},
    thread,
};

use broker::Check;
use machine::Machine;
use pairs::Cell;
use serde_json::{Value as Json, json};

/// Debian 12 has systemd 252, Debian 13 has 257.
const SUITES: [&str; 2] = ["bookworm", "trixie"];
/// In the place of a suite: Debian 13 in QEMU.
const QEMU: &str = "qemu";
const BUSES: [&str; 2] = ["daemon", "broker"];
const PACKAGES: [&str; 2] = ["package", "bare"];

/// Machines that are there at once.
const AT_ONCE: usize = 2;

/// Seconds that a verb may take, and on an emulated processor.
const LIMIT: u64 = 3;
const LIMIT_IN_QEMU: u64 = 30;

/// What is run at a desk.
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/desks/cell.py");

/// What came of a cell.
enum Outcome {
    /// The verb did what it is for.
    Serves,
    /// It did not; what it said, or why it counts as failed.
    Fails(String),
}

impl Outcome {
    fn shown(&self, odd: &str) -> String {
        match self {
            Self::Serves => format!("serves  {odd}"),
            Self::Fails(why) => {
                format!("FAILS   {odd}\n    {}", why.trim().replace('\n', "\n    "))
            }
        }
    }
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
        f.write_str(&self.outcome.shown(odd))
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
    for (package, login) in [("package", "session"), ("bare", "neither")] {
        let mut mine = pairs::cells(1);
        mine.retain(|cell| cell.package == package);
        mine.extend(pairs::settings(package, login));
        kinds.push((format!("qemu-{package}"), QEMU, "daemon", mine));
    }
    kinds.retain(|(kind, ..)| kind.starts_with(&filter));
    let left = Mutex::new(kinds.into_iter());
    let next = || left.lock().unwrap_or_else(PoisonError::into_inner).next();
    let (rows, checks) = (Mutex::new(Vec::new()), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some((kind, suite, bus, cells)) = next() {
                    let (of_kind, checked) = match suite {
                        QEMU => (in_qemu(&kind, &cells), Vec::new()),
                        _ => at(&kind, suite, bus, &cells),
                    };
                    let checked = checked.into_iter().map(|check| (kind.clone(), check));
                    checks.lock().unwrap_or_else(PoisonError::into_inner).extend(checked);
                    rows.lock().unwrap_or_else(PoisonError::into_inner).extend(of_kind);
                }
            });
        }
    });
    let mut rows = rows.into_inner().unwrap_or_else(PoisonError::into_inner);
    rows.sort_by(|a, b| (&a.kind, a.cell.number).cmp(&(&b.kind, b.cell.number)));
    rows.iter().for_each(|row| println!("{row}"));
    let mut checks = checks.into_inner().unwrap_or_else(PoisonError::into_inner);
    // Those of a kind stay in their order.
    checks.sort_by(|(a, _), (b, _)| a.cmp(b));
    for (kind, Check { name, milliseconds, outcome }) in &checks {
        println!("{kind:<24} {name:<80} {milliseconds:>6} ms  {}", outcome.shown(""));
    }
    let outcomes =
        rows.iter().map(|row| &row.outcome).chain(checks.iter().map(|(_, c)| &c.outcome));
    let failed = outcomes.filter(|outcome| matches!(outcome, Outcome::Fails(_))).count();
    let passed = rows.len() + checks.len() - failed;
    let word = if failed == 0 { "ok" } else { "FAILED" };
    println!(
        "test result: {word}. {passed} passed; {failed} failed; 0 ignored; 0 measured; 0 filtered out"
    );
    ExitCode::from(u8::from(failed > 0 || rows.is_empty()))
}

/// Tries the cells of one kind of machine, and what is to be checked there besides.
fn at(kind: &str, suite: &str, bus: &str, cells: &[Cell]) -> (Vec<Row>, Vec<Check>) {
    let with_package = kind.ends_with("-package");
    let name = format!("desks-{bus}-{with_package}");
    let machine = if with_package {
        Machine::boot(suite, &name)
    } else {
        Machine::boot_without_package(suite, &name)
    };
    if !with_package {
        // As `cargo install` has it.
        let unpacked = tempfile::NamedTempFile::new().unwrap();
        unpack(unpacked.path());
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
    machine.put(SCRIPT, "/usr/local/lib/cell.py");
    let rows = cells.iter().map(|cell| try_at(kind, &machine, *cell)).collect();
    let has_checks = bus == "broker" && with_package;
    (rows, if has_checks { broker::checks(&machine) } else { Vec::new() })
}

/// Puts the command of the package into a file.
fn unpack(file: &Path) {
    let (deb, file) = (machine::package(), file.display());
    let unpack = format!("dpkg-deb --fsys-tarfile '{deb}' | tar -xO ./usr/bin/styxy >'{file}'");
    let both = format!("{unpack} && chmod 755 '{file}'");
    assert!(Command::new("sh").args(["-c", &both]).status().unwrap().success());
}

fn try_at(kind: &str, machine: &Machine, cell: Cell) -> Row {
    let done = machine.root(&format!("python3 /usr/local/lib/cell.py '{}'", task(&cell)));
    row(kind, cell, done.stdout.lines().last().unwrap_or_default(), LIMIT)
}

/// Tries the cells of one kind in a machine with a kernel of its own.
fn in_qemu(kind: &str, cells: &[Cell]) -> Vec<Row> {
    let folder = tempfile::tempdir().unwrap();
    let put = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    if kind.ends_with("-package") {
        fs::copy(machine::package(), folder.path().join("styxy.deb")).unwrap();
        put("install", "dpkg --install styxy.deb >&2");
    } else {
        unpack(&folder.path().join("styxy"));
        put("install", "install -m 755 styxy /usr/local/bin/");
    }
    fs::copy(SCRIPT, folder.path().join("cell.py")).unwrap();
    let tasks: Vec<String> = cells.iter().map(|cell| task(cell).to_string()).collect();
    put("tasks", &(tasks.join("\n") + "\n"));
    // Some cells have a /run of their own.
    put(
        "start",
        "cp cell.py /usr/local/lib/ && . ./install && while read -r task; do
            python3 /usr/local/lib/cell.py \"$task\" </dev/null || echo failed
        done <tasks",
    );
    let boot = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/qemu/boot");
    let done = Command::new(boot).arg(folder.path()).stderr(Stdio::inherit()).output().unwrap();
    let said = String::from_utf8_lossy(&done.stdout);
    let mut lines = said.lines();
    let console = fs::read_to_string(folder.path().join("console")).unwrap_or_default();
    let all: Vec<&str> = console.lines().collect();
    let missing = || {
        format!(
            "no answer; the end of the console:\n{}",
            all[all.len().saturating_sub(30)..].join("\n")
        )
    };
    let answered = |cell: &Cell| {
        let line = lines.next().map_or_else(missing, str::to_owned);
        row(kind, *cell, &line, LIMIT_IN_QEMU)
    };
    cells.iter().map(answered).collect()
}

/// What cell.py is to do.
fn task(cell: &Cell) -> Json {
    let Cell { number, bus, login, home, runtime, verb, setting, .. } = cell;
    json!({"number": number, "bus": bus, "login": login, "home": home, "runtime": runtime, "verb": verb, "setting": setting})
}

/// What came of a cell, by what cell.py has said.
fn row(kind: &str, cell: Cell, said: &str, limit: u64) -> Row {
    let (odd, milliseconds, outcome) = match serde_json::from_str::<Json>(said) {
        Ok(result) => (
            format!("{} {}", cell.setting, result["odd"].as_str().unwrap_or_default())
                .trim()
                .into(),
            result["milliseconds"].as_u64().unwrap_or(0),
            judged(cell.verb, &result, limit),
        ),
        Err(_) => {
            (String::new(), 0, Outcome::Fails(format!("the desk could not be set up: {said}")))
        }
    };
    Row { kind: kind.to_owned(), cell, odd, milliseconds, outcome }
}

fn judged(verb: &str, result: &Json, limit: u64) -> Outcome {
    let text = |key: &str| result[key].as_str().unwrap_or_default();
    let (code, stdout, stderr) =
        (result["code"].as_i64().unwrap_or(-1), text("stdout"), text("stderr"));
    let all = format!("exit code {code}\n{stdout}{stderr}");
    // A machine that is loaded is slower than the promise allows.
    let limit = env::var("STYXY_DESK_SECONDS").map_or(limit, |limit| limit.parse().unwrap());
    if result["milliseconds"].as_u64().is_none_or(|milliseconds| milliseconds > limit * 1_000) {
        return Outcome::Fails(format!("too late: {all}"));
    }
    let is_port = || stdout.trim().parse::<u16>().is_ok();
    // That it waits is said after two seconds, which an emulated processor takes.
    let is_quiet = stderr.lines().all(|line| line.starts_with("styxy: waiting for "));
    let serves = match verb {
        "allocate" | "run" => code == 0 && is_port(),
        "doctor" => matches!(code, 0 | 1) && stdout.lines().count() > 5 && is_quiet,
        _ => code == 0 && !stdout.is_empty(),
    };
    if serves { Outcome::Serves } else { Outcome::Fails(all) }
}
