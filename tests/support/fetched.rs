//! The servers and tools that tests/servers/fetch fetches from npm and `PyPI`.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use super::namespaces::find;

/// What is fetched, as a test names its needs.
pub const NODE: &str = "npm's packages";
pub const PYTHON: &str = "PyPI's packages";

/// Where it is.
pub fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("servers")
}

/// Fetches what is missing or old.
pub fn fetch() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/servers/fetch");
    let fetched = Command::new(script).arg(folder()).status();
    if !fetched.is_ok_and(|fetched| fetched.success()) {
        eprintln!("SKIPPED: tests/servers/fetch can't fetch what npm and PyPI have");
    }
}

/// Whether a test has this: packages, or a command.
pub fn is_there(need: &str) -> bool {
    match need {
        NODE => folder().join("node.from").exists(),
        PYTHON => folder().join("python.from").exists(),
        _ => find(need).is_some(),
    }
}
