//! Eight coding agents at once, each in a worktree of its own, against a private service.
//!
//! - `script`: what an agent does, also in the container tests

mod script;
#[path = "../support/mod.rs"]
mod support;

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use script::{AGENTS, Stage};
use support::{Home, dice};

#[test]
fn eight_agents_at_once_see_no_wrong_error_share_no_port_and_leave_no_lease() {
    let home = Home::with_ports(script::PORTS);
    home.configure(&script::configuration(home.port(0)));
    let folders = worktrees(&home.path("shop"));
    // By a command, so that `audit` has the log of a private service to read.
    home.ok(&["list"]);
    let styxy = || home.styxy();
    eprintln!("{}", Stage::new(&styxy, folders, home.port(0)).play());
}

/// Worktrees of a new repository.
fn worktrees(repository: &Path) -> Vec<PathBuf> {
    git(&["init", "--quiet", repository.to_str().unwrap()]);
    let git = |arguments: &[&str]| {
        git(&[&["-C", repository.to_str().unwrap()], arguments].concat());
    };
    git(&["-c", "user.name=a", "-c", "user.email=a@localhost", "commit", "--quiet"]
        .into_iter()
        .chain(["--allow-empty", "--message=Begin"])
        .collect::<Vec<_>>());
    let worktree = |agent| {
        let folder = repository.with_file_name(format!("shop-{agent}"));
        git(&["worktree", "add", "--quiet", "--detach", folder.to_str().unwrap()]);
        folder
    };
    (0..AGENTS).map(worktree).collect()
}

fn git(arguments: &[&str]) {
    let output = Command::new("git").args(arguments).output().expect("git is installed");
    assert!(output.status.success(), "{arguments:?}: {output:?}");
}
