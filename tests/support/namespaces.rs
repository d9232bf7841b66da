//! Namespaces of its own for a test program: a network in which every port is free, and processes that end with the
//! first one.

use std::{
    env, fs,
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Command, Stdio},
};

use nix::unistd::geteuid;

use super::is_session;

/// Set where it runs in namespaces of its own.
const INSIDE: &str = "STYXY_TEST_NAMESPACES";

/// Whether this program runs in namespaces of its own, or of a machine.
pub fn is_inside() -> bool {
    env::var_os(INSIDE).is_some() || is_session()
}

/// Runs this program again in namespaces of its own; comes back where that can't be.
pub fn enter() {
    let possible = namespaces().arg("true").stderr(Stdio::null()).status();
    if possible.is_ok_and(|tried| tried.success()) {
        let this = env::current_exe().unwrap();
        let error = namespaces().arg(this).args(env::args_os().skip(1)).env(INSIDE, "1").exec();
        panic!("unshare: {error}");
    }
    eprintln!("SKIPPED: unshare(1) and ip(8) can't make namespaces here");
}

/// The beginning of a command in such namespaces. Without root, by a namespace of users.
fn namespaces() -> Command {
    let mut command = Command::new("unshare");
    if !geteuid().is_root() {
        command.args(["--user", "--map-current-user", "--keep-caps"]);
    }
    command.args(["--net", "--pid", "--fork", "--kill-child", "--mount-proc"]);
    command.args(["sh", "-c", r#"ip link set lo up && exec "$0" "$@""#]);
    command
}

/// Where a command is. Debian keeps `PostgreSQL`'s apart, in a folder for each version, and some where
/// only root looks.
pub fn find(name: &str) -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let postgres = versions.map(|version| version.path().join("bin"));
    let path = env::var_os("PATH").unwrap_or_default();
    let mut folders = postgres.chain(env::split_paths(&path)).chain(["/usr/sbin".into()]);
    folders.find_map(|folder| Some(folder.join(name)).filter(|program| program.is_file()))
}
