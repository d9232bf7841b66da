//! Eight agents at once, against the real service of a user.

#[path = "../at_once/script.rs"]
mod script;

use std::{fs, path::PathBuf, process::Command};

use script::{AGENTS, Stage};
use serde_json::{Value as Json, json};

use crate::{Test, machine::Machine};

pub const TESTS: &[Test] =
    &[("eight_agents_at_once_see_no_wrong_error_share_no_port_and_leave_no_lease", at_once)];

/// In a machine every port is free.
const FIRST: u16 = 20_000;

fn at_once(machine: &Machine) {
    machine.configure(&script::configuration(FIRST));
    let result = machine.inside("agents");
    eprintln!("{}: {}", machine.name(), result["summary"].as_str().unwrap());
}

/// What runs in the machine.
pub fn inside() -> Json {
    let home = PathBuf::from(std::env::var_os("HOME").unwrap());
    // As far as styxy looks, that is what makes a worktree.
    let worktree = |agent| {
        let folder = home.join(format!("shop-{agent}"));
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join(".git"), format!("gitdir: /home/dev/shop/.git/worktrees/{agent}\n"))
            .unwrap();
        folder
    };
    let folders = (0..AGENTS).map(worktree).collect();
    let styxy = || Command::new("styxy");
    json!({"summary": Stage::new(&styxy, folders, FIRST).play()})
}
