//! The registry under a fleet: a thousand agents ask for ports, release and renew them, share
//! singletons and die, while types appear, grow and go, people change the configuration, and other
//! programs take ports. There is no kernel, no file and no clock, and each run is the same.
//!
//! At every operation the answer is checked against plain arrays, and between blocks of operations
//! everything that can be seen of the registry.
//!
//! It wants to be optimised, as `tests/run` does it:
//! `cargo test --config tests/simulation/optimised.toml --test simulation`
//! Else it does a tenth, which says nothing of time and memory.
//!
//! - `random`: the same numbers in every run
//! - `config`: what people have written
//! - `fleet`: the agents and what happens to them
//! - `service`: what the service does around its registry
//! - `begun`: what is waited for and kept
//! - `model`: the plain arrays, and what must hold of an answer
//! - `check`: everything at once
//! - `faults`: short histories in which much goes wrong
//! - this file: what is measured, and the tests

mod begun;
mod check;
mod config;
mod faults;
mod fleet;
mod model;
mod random;
mod service;

use std::{fs, io::Write, sync::LazyLock, time::Duration};

use fleet::Fleet;
use nix::time::{ClockId, clock_gettime};
use service::Counts;

const OPERATIONS: usize = if cfg!(debug_assertions) { 1_000_000 } else { 10_000_000 };
/// What is measured at once, and after what everything is checked.
const BLOCKS: usize = 100;
/// The blocks in which a fleet comes to its strength.
const WARM_UP: usize = 12;
/// The last blocks are done in turn with those of another fleet, that has just come to its strength: so
/// whatever else runs on the machine slows both.
const IN_TURN: usize = 10;

/// How a block went.
#[derive(Clone, Copy)]
struct Block {
    /// CPU time of this thread.
    time: Duration,
    /// Kilobytes of the process.
    resident: usize,
    /// How much of the ports of the written types is leased, in per mille.
    used: usize,
    leases: usize,
}

impl Block {
    /// Has a fleet do it, and checks everything.
    fn of(fleet: &mut Fleet) -> Self {
        let start = cpu_time();
        for _ in 0..OPERATIONS / BLOCKS {
            fleet.step();
        }
        let time = cpu_time().saturating_sub(start);
        let resident = resident();
        fleet.check();
        let model = &fleet.service.model;
        let written = model.kinds.iter().filter(|kind| {
            let known = fleet.service.rules.types.0.get(&kind.name);
            !kind.is_single && known.is_some_and(|t| t.created.is_none())
        });
        let (used, all) =
            written.fold((0, 0), |(used, all), kind| (used + kind.used, all + kind.len()));
        Self { time, resident, used: used * 1_000 / all, leases: model.live }
    }
}

struct Run {
    /// Those of the fleet alone.
    blocks: Vec<Block>,
    /// Those in turn: of the fleet, and of the new one.
    in_turn: [Vec<Block>; 2],
    counts: Counts,
}

/// Done once, for all tests.
static RUN: LazyLock<Run> = LazyLock::new(|| {
    let mut fleet = Fleet::new(42);
    let blocks = (0..BLOCKS - IN_TURN).map(|_| Block::of(&mut fleet)).collect();
    let mut other = Fleet::new(43);
    for _ in 0..WARM_UP {
        Block::of(&mut other);
    }
    let in_turn = (0..IN_TURN).map(|_| (Block::of(&mut fleet), Block::of(&mut other))).unzip();
    let run = Run { blocks, in_turn: in_turn.into(), counts: fleet.service.counts };
    run.tell();
    run
});

impl Run {
    /// The medians of what was measured in each quarter of the time after the warm-up.
    fn quarters<T: Ord>(&self, what: impl Fn(&Block) -> T) -> [T; 4] {
        let blocks = &self.blocks[WARM_UP..];
        let length = blocks.len() / 4;
        [0, 1, 2, 3].map(|quarter| median(&blocks[quarter * length..][..length], &what))
    }

    /// The medians of the time of the blocks in turn.
    fn times_in_turn(&self) -> [Duration; 2] {
        [0, 1].map(|which| median(&self.in_turn[which], |block| block.time))
    }

    fn tell(&self) {
        let block = (OPERATIONS / BLOCKS) as u128;
        let each = |time: Duration| time.as_nanos() / block;
        // Past the test harness, which would keep it to itself when all is well.
        let _ = writeln!(
            std::io::stderr(),
            "{OPERATIONS} operations; by quarter: {:?} ns each, {:?} kB resident, {:?} leases, \
             {:?} ‰ of the written types in use; in turn with a new fleet: {:?} ns each\n{:?}",
            self.quarters(|block| block.time).map(each),
            self.quarters(|block| block.resident),
            self.quarters(|block| block.leases),
            self.quarters(|block| block.used),
            self.times_in_turn().map(each),
            self.counts,
        );
    }
}

fn median<T: Ord>(blocks: &[Block], what: impl Fn(&Block) -> T) -> T {
    let mut values: Vec<_> = blocks.iter().map(what).collect();
    values.sort_unstable();
    values.swap_remove(blocks.len() / 2)
}

fn cpu_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("every thread has one").into()
}

fn resident() -> usize {
    let status = fs::read_to_string("/proc/self/status").expect("a mounted /proc");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("proc(5)");
    line.trim().trim_end_matches(" kB").parse().expect("a number of kB")
}

#[test]
fn no_port_is_leased_twice_and_every_answer_is_right() {
    // It has come to its end.
    assert_eq!(RUN.blocks.len() + RUN.in_turn[0].len(), BLOCKS);
}

#[test]
fn the_types_are_nearly_used_up_and_everything_happens() {
    for used in RUN.quarters(|block| block.used) {
        assert!((930..980).contains(&used), "{used} ‰ are in use");
    }
    let Counts {
        granted,
        blocks,
        shared,
        left,
        refused,
        exhausted,
        yielded,
        mapped,
        joined,
        moved,
        adopted,
        over_limit,
        released,
        expired,
        orphaned,
        forgotten,
        types_appeared,
        types_grown,
        types_undone,
        reloads,
        ..
    } = RUN.counts;
    let often = [granted, released, shared, expired, left, refused, exhausted, orphaned, forgotten];
    assert!(often.into_iter().all(|count| count > OPERATIONS as u64 / 2_000), "{often:?}");
    let at_times = [blocks, over_limit, types_appeared, types_grown, types_undone, reloads];
    assert!(at_times.into_iter().all(|count| count > OPERATIONS as u64 / 20_000), "{at_times:?}");
    assert!(yielded > OPERATIONS as u64 / 100_000, "{yielded}");
    for often in [mapped, joined] {
        assert!(often > OPERATIONS as u64 / 1_000, "{often}");
    }
    assert!(moved > OPERATIONS as u64 / 100_000, "{moved}");
    assert!(adopted > OPERATIONS as u64 / 100_000, "{adopted}");
}

/// Flat: after all these operations the median block takes at most half as long again as that of a fleet
/// that has just come to its strength, done in turn. What grows with the operations so far would take
/// several times as long.
#[test]
#[cfg_attr(debug_assertions, ignore = "it says nothing without optimisation")]
fn an_operation_takes_as_long_at_the_end_as_at_the_beginning() {
    let [old, new] = RUN.times_in_turn();
    assert!(old <= new * 3 / 2, "{old:?}, but {new:?} in the beginning");
}

/// Flat: at most a tenth more is resident in the last quarter than in the first.
#[test]
#[cfg_attr(debug_assertions, ignore = "there are too few operations without optimisation")]
fn memory_does_not_grow() {
    let [first, .., last] = RUN.quarters(|block| block.resident);
    assert!(last <= first * 11 / 10, "{first} kB became {last} kB");
}
