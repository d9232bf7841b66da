//! Which of all combinations are tried.

use std::collections::HashSet;

/// A desk, and the verb that is tried there.
#[derive(Clone, Copy, Debug)]
pub struct Cell {
    /// Tells it from the others of its kind of machine.
    pub number: usize,
    pub package: &'static str,
    pub bus: &'static str,
    pub login: &'static str,
    pub home: &'static str,
    pub runtime: &'static str,
    pub verb: &'static str,
    /// A setting of the kernel, as sysctl(8) takes it, or none.
    pub setting: &'static str,
}

/// What a desktop's kernel may forbid. The last one can't be taken back.
const SETTINGS: [&str; 6] = [
    "user.max_user_namespaces=0",
    "kernel.unprivileged_userns_clone=0",
    "kernel.yama.ptrace_scope=0",
    "kernel.yama.ptrace_scope=1",
    "kernel.yama.ptrace_scope=2",
    "kernel.yama.ptrace_scope=3",
];

const VALUES: [&[&str]; 6] = [
    &["package", "bare"],
    &["user", "none", "wrong", "dying"],
    &["session", "linger", "neither", "container"],
    &["good", "absent", "odd"],
    &["good", "absent", "odd"],
    &["allocate", "run", "list", "release", "doctor"],
];

/// Which values a cell has, by their numbers.
type Choice = [usize; VALUES.len()];

const BUS: usize = 1;
const WRONG: usize = 2;

/// So few cells that every pair of values is in one of them, and every triple that has a wrong bus. Another turn gives
/// others.
pub fn cells(turn: usize) -> Vec<Cell> {
    let mut all = vec![[0; VALUES.len()]];
    for (place, values) in VALUES.iter().enumerate() {
        let longer = |choice: Choice| {
            (0..values.len()).map(move |value| {
                let mut choice = choice;
                choice[place] = value;
                choice
            })
        };
        all = all.into_iter().flat_map(longer).collect();
    }
    let start = all.len() / 4 * turn % all.len();
    all.rotate_left(start);
    let mut missing: HashSet<_> = all.iter().flat_map(covered).collect();
    let mut cells = Vec::new();
    while !missing.is_empty() {
        let gain = |choice: &Choice| covered(choice).filter(|one| missing.contains(one)).count();
        // The last of equals: with other turns another one.
        let best = *all.iter().max_by_key(|choice| gain(choice)).expect("there are combinations");
        covered(&best).for_each(|one| {
            missing.remove(&one);
        });
        let [package, bus, login, home, runtime, verb] =
            std::array::from_fn(|place| VALUES[place][best[place]]);
        cells.push(Cell {
            number: cells.len(),
            package,
            bus,
            login,
            home,
            runtime,
            verb,
            setting: "",
        });
    }
    cells
}

/// Each setting of the kernel with each verb, at a good desk.
pub fn settings(package: &'static str, login: &'static str) -> Vec<Cell> {
    let verbs = VALUES[VALUES.len() - 1].iter();
    let all = SETTINGS.iter().flat_map(|setting| verbs.clone().map(move |verb| (setting, verb)));
    let numbered = all.enumerate();
    let cell = |(number, (setting, verb)): (usize, (&&'static str, &&'static str))| Cell {
        number: 200 + number,
        package,
        bus: if login == "session" { "user" } else { "none" },
        login,
        home: "good",
        runtime: "good",
        verb,
        setting,
    };
    numbered.map(cell).collect()
}

/// The pairs of places with their values; with a wrong bus, also in its company.
fn covered(choice: &Choice) -> impl Iterator<Item = [usize; 5]> + use<> {
    let choice = *choice;
    let pairs = (0..choice.len()).flat_map(move |a| (a + 1..choice.len()).map(move |b| (a, b)));
    pairs.flat_map(move |(a, b)| {
        let is_triple = choice[BUS] == WRONG && a != BUS && b != BUS;
        let pair = [a, choice[a], b, choice[b], 0];
        [Some(pair), is_triple.then_some([a, choice[a], b, choice[b], 1])].into_iter().flatten()
    })
}
