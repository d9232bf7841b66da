//! What packaging/integrations has for test runners, by the runners themselves: pytest with pytest-xdist, vitest and
//! Playwright, as tests/servers/fetch fetches them. Where they can't be had, the tests are ignored.
//!
//! The plugin and the package are installed as users install them, and the files of their pages are used as they stand there.
//! All of it happens in namespaces of its own: every port of the type `test` is free there, and no other test has it.

mod support;

use std::{
    collections::BTreeSet,
    env,
    ffi::OsStr,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Output, Stdio},
};

use libtest_mimic::{Arguments, Trial};
use nix::unistd::geteuid;
use support::{
    Home,
    fetched::{self, NODE, PYTHON, is_there},
    namespaces::{self, find},
};

/// A trial: its name, what it needs, and what it does.
type Case = (&'static str, &'static [&'static str], fn());

const CASES: &[Case] = &[
    ("a_thousand_tests_in_eight_workers_of_pytest_have_a_port_each", &[PYTHON], a_thousand_tests),
    ("a_worker_of_pytest_that_is_killed_leaves_no_lease", &[PYTHON], a_killed_worker),
    ("ports_for_pytest_are_as_its_page_says", &[PYTHON], the_page_of_pytest),
    ("without_styxy_tests_of_pytest_fail_and_say_how_to_get_it", &[PYTHON], pytest_without_styxy),
    ("files_of_vitest_that_run_at_once_have_ports_of_their_own", &["node", NODE], vitest),
    ("four_workers_of_playwright_have_one_server", &["node", NODE], playwright),
    ("two_runs_of_playwright_at_once_have_a_server_each", &["node", NODE], playwright_twice),
    ("a_killed_node_leaves_no_lease", &["node", NODE], a_killed_node),
    ("without_styxy_node_says_how_to_get_it", &["node", NODE], node_without_styxy),
    (
        "databases_answer_on_leased_ports",
        &[PYTHON, "postgres", "redis-server", "setpriv"],
        databases,
    ),
];

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    if !namespaces::is_inside() {
        if !arguments.list {
            fetched::fetch();
            install();
        }
        namespaces::enter();
    }
    let trials = CASES.iter().map(|(name, needs, test)| {
        let missing: Vec<_> = needs.iter().filter(|need| !is_there(need)).collect();
        if !missing.is_empty() {
            eprintln!("SKIPPED: {name}: {missing:?} is missing");
        }
        let trial = Trial::test(*name, move || {
            test();
            Ok(())
        });
        trial.with_ignored_flag(!missing.is_empty() || !namespaces::is_inside())
    });
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}

// ---- pytest --------------------------------------------------------------------------------------

fn a_thousand_tests() {
    let stage = Stage::new(&[("test_thousand.py", include_str!("integrations/test_thousand.py"))]);
    let said = stage.passes(stage.pytest(&["-n", "8"]));
    assert!(said.contains("1000 passed"), "{said}");
    stage.has_no_lease();
}

fn a_killed_worker() {
    let stage = Stage::new(&[("test_killed.py", include_str!("integrations/test_killed.py"))]);
    let said = stage.fails(stage.pytest(&["-n", "1"]));
    assert!(said.contains("crashed while running"), "{said}");
    assert_eq!(stage.written("leases").trim(), "5");
    stage.home.until(|| stage.home.leases().is_empty());
}

fn the_page_of_pytest() {
    let page = blocks("pytest-styxy/README.md", "python");
    let stage = Stage::new(&[
        ("test_page.py", &page[0]),
        ("conftest.py", &page[1]),
        ("test_ports.py", include_str!("integrations/test_ports.py")),
    ]);
    let said = stage.passes(stage.pytest(&[]));
    assert!(!said.contains("skipped"), "{said}");
    stage.has_no_lease();
}

fn pytest_without_styxy() {
    let stage = Stage::new(&[("test_thousand.py", include_str!("integrations/test_thousand.py"))]);
    let mut command = stage.pytest(&["-k", "[1]"]);
    command.env("PATH", "/nonexistent");
    let said = stage.fails(command);
    assert!(said.contains("1 error") && !said.contains("skipped"), "{said}");
    assert!(said.contains("styxy cannot be started") && said.contains("cargo install"), "{said}");
}

fn databases() {
    let page = ["conftest.py", "test_databases.py"].map(|name| (name, file("databases.md", name)));
    let stage = Stage::new(&page.each_ref().map(|(name, text)| (*name, text.as_str())));
    let mut command = stage.pytest(&["-n", "2"]);
    // PostgreSQL refuses to be root.
    if geteuid().is_root() {
        let user = ["--user", "--map-user=1000", "--map-group=1000"];
        let mut other = stage.command("unshare");
        other.args(user).arg(command.get_program()).args(command.get_args());
        command = other;
    }
    assert!(stage.passes(command).contains("2 passed"));
    stage.has_no_lease();
}

// ---- Node.js -------------------------------------------------------------------------------------

fn vitest() {
    let page = blocks("node/README.md", "js");
    let config =
        r#"export default { test: { globalSetup: "ports.setup.js", testTimeout: 60_000 } };"#;
    let test = include_str!("integrations/listens.test.js");
    let stage = Stage::new(&[
        ("page.test.js", &page[1]),
        ("ports.setup.js", &page[2]),
        ("vitest.config.js", config),
        ("a.test.js", test),
        ("b.test.js", test),
        ("c.test.js", test),
        ("d.test.js", test),
    ]);
    for pool in ["forks", "threads"] {
        let mut command = stage.npm("vitest");
        command.args(["run", "--pool", pool, "--maxWorkers", "4", "--minWorkers", "4"]);
        let said = stage.passes(command);
        assert!(said.contains("5 passed"), "{said}");
        assert_eq!(stage.count("ports"), 4);
        assert_eq!(stage.count("provided"), 1);
        stage.has_no_lease();
        fs::remove_dir_all(stage.path("ports")).unwrap();
    }
}

/// The server and the files of a suite, one for each worker.
fn suite() -> Stage {
    let test = include_str!("integrations/asks.spec.js");
    Stage::new(&[
        ("playwright.config.js", &file("node/README.md", "playwright.config.js")),
        ("server.js", include_str!("integrations/server.js")),
        ("tests/a.spec.js", test),
        ("tests/b.spec.js", test),
        ("tests/c.spec.js", test),
        ("tests/d.spec.js", test),
    ])
}

fn playwright() {
    let stage = suite();
    let said = stage.passes(stage.playwright("one", 1));
    assert!(said.contains("4 passed"), "{said}");
    assert_eq!(stage.written("servers").lines().count(), 1);
    assert_eq!(stage.count("workers"), 4);
    stage.home.until(|| stage.home.leases().is_empty());
}

fn playwright_twice() {
    let stage = suite();
    let other = stage.playwright("other", 2).spawn().unwrap();
    stage.passes(stage.playwright("one", 2));
    let other = other.wait_with_output().unwrap();
    assert!(other.status.success(), "{other:?}");
    let servers = stage.written("servers");
    assert_eq!(servers.lines().collect::<BTreeSet<_>>().len(), 2, "{servers}");
    assert_eq!(stage.count("workers"), 8);
    stage.home.until(|| stage.home.leases().is_empty());
}

fn a_killed_node() {
    let stage = Stage::new(&[("killed.js", include_str!("integrations/killed.js"))]);
    let mut command = stage.command("node");
    let output = command.arg("killed.js").output().unwrap();
    assert_eq!(output.status.code(), None, "{output:?}");
    assert_eq!(stage.written("leases"), "5");
    stage.home.until(|| stage.home.leases().is_empty());
}

fn node_without_styxy() {
    let stage = Stage::new(&[("asks.js", "import { port } from '@styxy/test';\nport();\n")]);
    let mut command = stage.command(find("node").unwrap());
    command.arg("asks.js").env("PATH", "/nonexistent");
    let said = stage.fails(command);
    assert!(said.contains("styxy cannot be started") && said.contains("cargo install"), "{said}");
}

// ---- what is installed, and pages ----------------------------------------------------------------

fn integrations(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/integrations").join(name)
}

/// Where the plugin and the package are installed.
fn installed(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("integrations").join(name)
}

/// Installs them as they would come from `PyPI` and npm: what they leave out is missing.
fn install() {
    let (python, scope) = (installed("python"), installed("node_modules/@styxy"));
    let _ = fs::remove_dir_all(installed(""));
    fs::create_dir_all(&scope).unwrap();
    if is_there(PYTHON) {
        let mut pip = Command::new(fetched::folder().join("python/bin/pip"));
        pip.args(["install", "--quiet", "--disable-pip-version-check", "--no-compile"]);
        pip.args(["--no-index", "--no-deps", "--no-build-isolation", "--target"]);
        assert!(pip.args([&python, &integrations("pytest-styxy")]).status().unwrap().success());
    }
    if is_there(NODE) {
        let mut npm = Command::new("npm");
        npm.args(["pack", "--silent", "--pack-destination"]).args([&scope, &integrations("node")]);
        let output = npm.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let mut tar = Command::new("tar");
        tar.current_dir(&scope).args(["--transform", "s/^package/test/", "-xzf"]);
        assert!(tar.arg(support::out(&output)).status().unwrap().success());
    }
}

/// The blocks of a page that are in this language.
fn blocks(page: &str, language: &str) -> Vec<String> {
    let page = fs::read_to_string(integrations(page)).unwrap();
    let opening = format!("\n```{language}\n");
    let blocks = page.split(opening.as_str()).skip(1);
    blocks.map(|block| format!("{}\n", block.split("\n```").next().unwrap())).collect()
}

/// The block of a page that follows the name of a file.
fn file(page: &str, name: &str) -> String {
    let page = fs::read_to_string(integrations(page)).unwrap();
    let (_, rest) = page.split_once(&format!("\n`{name}`:\n\n```")).unwrap();
    let (_, block) = rest.split_once('\n').unwrap();
    format!("{}\n", block.split("\n```").next().unwrap())
}

// ---- a project, and what runs in it --------------------------------------------------------------

struct Stage {
    home: Home,
}

impl Stage {
    /// A project with these files, and with what is installed.
    fn new(files: &[(&str, &str)]) -> Self {
        let stage = Self { home: Home::new() };
        fs::create_dir_all(stage.path("tests")).unwrap();
        fs::write(stage.path("package.json"), r#"{ "type": "module" }"#).unwrap();
        for (name, text) in files {
            fs::write(stage.path(name), text).unwrap();
        }
        let fetched = fetched::folder().join("node/node_modules");
        symlink(fetched, stage.path("node_modules")).unwrap();
        symlink(installed("node_modules"), stage.home.path("node_modules")).unwrap();
        fs::create_dir(stage.home.path("bin")).unwrap();
        symlink(stage.home.styxy().get_program(), stage.home.path("bin/styxy")).unwrap();
        // The service is the home's, and ends with it.
        stage.home.ok(&["list"]);
        stage
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path("project").join(name)
    }

    fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        let styxy = self.home.styxy();
        command.envs(styxy.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let postgres = find("postgres").and_then(|path| Some(path.parent()?.to_owned()));
        let own = env::var_os("PATH").unwrap_or_default();
        let path = [self.home.path("bin")].into_iter().chain(env::split_paths(&own));
        command.env("PATH", env::join_paths(path.chain(postgres)).unwrap());
        command.current_dir(self.path("")).env("PYTHONPATH", installed("python"));
        command.env("CI", "1").env("NO_COLOR", "1").stdin(Stdio::null());
        command
    }

    fn pytest(&self, arguments: &[&str]) -> Command {
        let mut command = self.command(fetched::folder().join("python/bin/pytest"));
        let temporary = self.home.path("temporary");
        command.args(["-p", "no:cacheprovider", "--basetemp"]).arg(temporary).args(arguments);
        command
    }

    /// One of npm's programs.
    fn npm(&self, name: &str) -> Command {
        self.command(fetched::folder().join("node/node_modules/.bin").join(name))
    }

    /// A run whose tests wait until there are servers of that many runs.
    fn playwright(&self, name: &str, runs: u32) -> Command {
        let mut command = self.npm("playwright");
        command.args(["test", "--workers", "4", "--timeout", "60000", "--output", name]);
        command.env("RUNS", runs.to_string()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// What a program that succeeds says.
    #[track_caller]
    fn passes(&self, mut command: Command) -> String {
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", said(&output));
        said(&output)
    }

    /// What a program that fails says.
    #[track_caller]
    fn fails(&self, mut command: Command) -> String {
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        said(&output)
    }

    #[track_caller]
    fn written(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    /// How many things are in a folder of the project.
    #[track_caller]
    fn count(&self, name: &str) -> usize {
        fs::read_dir(self.path(name)).unwrap().count()
    }

    #[track_caller]
    fn has_no_lease(&self) {
        let leases = self.home.leases();
        assert!(leases.is_empty(), "{leases:?}");
    }
}

fn said(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    text(&output.stdout) + &text(&output.stderr)
}
