//! A journal that the test writes, and `styxy audit` in front of it.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::Value as Json;

use super::Home;

/// The files of tests/support/journalctl.
const FILES: [&str; 8] =
    ["asked", "complaint", "endless", "journal", "others", "pid", "pids", "stuck"];

/// A home whose journal is a file.
pub struct Journal(pub Home);

impl Journal {
    /// No `journalctl` at all.
    pub fn none() -> Self {
        let home = Home::new();
        for folder in ["bin", "state"] {
            fs::create_dir(home.path(folder)).unwrap();
        }
        Self(home)
    }

    /// A journal with these entries, the oldest first.
    pub fn of(entries: &[Json]) -> Self {
        let journal = Self::none();
        let fake = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/journalctl");
        symlink(fake, journal.path("bin/journalctl")).unwrap();
        journal.write("journal", &lines(entries));
        journal
    }

    /// A `journalctl` that fails with these words.
    pub fn complaining(words: &str) -> Self {
        let journal = Self::of(&[]);
        journal.write("complaint", words);
        journal
    }

    /// A path in the home. The files of `journalctl` are where what the service starts may write.
    pub fn path(&self, name: &str) -> PathBuf {
        let folder = if FILES.contains(&name) { "state" } else { "" };
        self.0.path(folder).join(name)
    }

    pub fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    /// Writes the log of a private service.
    pub fn write_log(&self, text: &str) {
        fs::create_dir_all(self.0.state()).unwrap();
        fs::write(self.0.state().join("service.log"), text).unwrap();
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.0.styxy();
        command.env("PATH", self.path("bin")).env("TZ", "UTC").arg("audit").args(arguments);
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    #[track_caller]
    pub fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", stderr(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    #[track_caller]
    pub fn json(&self, arguments: &[&str]) -> Json {
        serde_json::from_str(&self.ok(&[arguments, &["--json"]].concat())).unwrap()
    }

    /// It must fail with that code, without a word on stdout; what it says.
    #[track_caller]
    pub fn fails(&self, code: i32, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", stderr(&output));
        assert!(output.stdout.is_empty(), "{arguments:?}");
        stderr(&output)
    }
}

/// What a command said.
pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn lines(entries: &[Json]) -> String {
    entries.iter().map(|entry| entry.to_string() + "\n").collect::<Vec<_>>().concat()
}
