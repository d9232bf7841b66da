//! The lines of docs/recipes.md, run as the users of each tool run them: one service keeps one port, and has one lease.
//! `several` has those that start several services.
//!
//! Where the tool itself can't be had, a stand-in takes what it would get, and the page says so.

#[path = "several.rs"]
mod several;

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
    process::Command,
};

use nix::sched::{CloneFlags, unshare};
use serde_json::Value as Json;

use super::{
    NODE, PYTHON, Stage, find, is_there,
    support::recipes::{Files, headings, is_untried, recipe},
};

/// A tool, as the page calls it.
#[derive(Clone, Copy)]
struct Tool {
    name: &'static str,
    needs: &'static [&'static str],
    /// What is run three times, by a shell.
    line: &'static str,
    /// How many leases there are afterwards: that of a claim stays.
    leases: usize,
    /// What else is in the folder, as the tool's user would have it.
    files: &'static [(&'static str, &'static str)],
    /// A recipe whose files are needed, too.
    beside: Option<&'static str>,
    /// What is run instead of a tool that can't be had: its name, and a script.
    stand_in: Option<(&'static str, &'static str)>,
    /// The port that the server is given where there is no styxy.
    without: Option<&'static str>,
}

/// Most tools have a claim, and nothing else.
const PLAIN: Tool = Tool {
    name: "",
    needs: &["node"],
    line: "",
    leases: 1,
    files: &[],
    beside: None,
    stand_in: None,
    without: None,
};

const TOOLS: &[Tool] = &[
    Tool {
        name: "direnv",
        needs: &["direnv", "node"],
        line: "direnv allow && direnv exec . node server.js",
        ..PLAIN
    },
    Tool {
        name: "direnv for a whole project",
        needs: &["direnv", "node"],
        line: "direnv allow && direnv exec . node server.js",
        ..PLAIN
    },
    Tool { name: "make for a whole project", needs: &["make", "node"], line: "make dev", ..PLAIN },
    Tool {
        name: "mise",
        needs: &["node", NODE],
        line: "node_modules/.bin/mise trust -q && node_modules/.bin/mise exec -- node server.js",
        ..PLAIN
    },
    Tool { name: "make", needs: &["make", "node"], line: "make dev", ..PLAIN },
    Tool { name: "just", needs: &["node", PYTHON], line: "just dev", ..PLAIN },
    Tool { name: "npm", needs: &["node", "npm"], line: "npm run dev", leases: 0, ..PLAIN },
    Tool {
        name: "Playwright",
        needs: &["node", NODE],
        line: "npx playwright test --workers 2",
        files: &[("a.spec.js", OF_PLAYWRIGHT), ("b.spec.js", OF_PLAYWRIGHT)],
        ..PLAIN
    },
    Tool {
        name: "vitest",
        needs: &["node", NODE],
        line: "npx vitest run",
        files: &[("a.test.mjs", OF_VITEST), ("b.test.mjs", OF_VITEST)],
        ..PLAIN
    },
    // Nothing but what the editor makes of its file.
    Tool { name: "VS Code", leases: 0, ..PLAIN },
    Tool { name: "JetBrains", line: "sh 'Script text'", leases: 0, ..PLAIN },
    Tool {
        name: "dev containers",
        line: r#"sh -c "$(node -p 'require("./.devcontainer/devcontainer.json").initializeCommand')" && docker compose up"#,
        beside: Some("Docker Compose"),
        stand_in: Some(("docker", OF_COMPOSE)),
        ..PLAIN
    },
    Tool {
        name: "Docker Compose",
        needs: &[PYTHON],
        line: "sh up.sh",
        stand_in: Some(("docker", OF_COMPOSE)),
        ..PLAIN
    },
    Tool {
        name: "podman and docker",
        needs: &[],
        line: "sh db.sh",
        leases: 0,
        stand_in: Some(("podman", PUBLISHED)),
        ..PLAIN
    },
    Tool {
        name: "kind",
        needs: &[PYTHON],
        line: "sh up.sh",
        stand_in: Some(("kind", OF_KIND)),
        ..PLAIN
    },
    Tool {
        name: "minikube",
        needs: &[],
        line: "sh up.sh",
        stand_in: Some(("minikube", PUBLISHED)),
        ..PLAIN
    },
    Tool {
        name: "kubectl",
        needs: &[],
        line: "sh forward.sh",
        leases: 0,
        stand_in: Some(("kubectl", PUBLISHED)),
        ..PLAIN
    },
    Tool {
        name: "GitHub Actions",
        needs: &["node", PYTHON],
        line: "python3 ci.py github .github/workflows/test.yml",
        leases: 0,
        files: &[("ci.py", CI), ("package.json", VITE)],
        ..PLAIN
    },
    Tool {
        name: "GitLab CI",
        needs: &["node", PYTHON],
        line: "python3 ci.py gitlab .gitlab-ci.yml",
        leases: 0,
        files: &[("ci.py", CI), ("package.json", VITE)],
        ..PLAIN
    },
    Tool { name: "A script", line: "sh dev.sh", leases: 0, without: Some("undefined"), ..PLAIN },
    Tool {
        name: "A Makefile",
        needs: &["make", "node"],
        line: "make dev",
        without: Some("3000"),
        ..PLAIN
    },
    Tool {
        name: "An .envrc",
        needs: &["direnv", "node"],
        line: "direnv allow && direnv exec . node server.js",
        files: &[("package.json", VITE)],
        without: Some("undefined"),
        ..PLAIN
    },
];

/// The recipes that others run: here, and in booted machines.
const ELSEWHERE: &[&str] = &["systemd user unit"];

/// Whose file is read, and whose lines are run, without themselves.
const UNTRIED: &[&str] = &["VS Code", "JetBrains", "GitHub Actions", "GitLab CI"];

/// Says its port, and answers for as long as it is asked to.
const SERVER: &str = r#"
require("fs").appendFileSync(__dirname + "/ports", process.env.PORT + "\n");
if (!process.env.ONCE)
  require("http").createServer((_, answer) => answer.end("hello")).listen(process.env.PORT, "127.0.0.1");
"#;

/// Two files, for a worker each.
const OF_PLAYWRIGHT: &str = r#"
const { test, expect } = require("@playwright/test");
test("answers", async ({ request }) => expect((await request.get("/")).ok()).toBe(true));
"#;
const OF_VITEST: &str = r#"
import { appendFileSync } from "node:fs";
import { test } from "vitest";
test("has a port", () => appendFileSync("ports", process.env.PORT + "\n"));
"#;

const CI: &str = include_str!("ci.py");
const VITE: &str = r#"{ "scripts": { "dev": "vite" } }"#;

/// Stand-ins: what publishes the ports that its arguments name, and what reads files.
const PUBLISHED: &str =
    r#"printf '%s\n' "$@" | sed -nE 's/^(127\.0\.0\.1:)?([0-9]+):[0-9]+$/\2/p' >>ports"#;
const OF_COMPOSE: &str = r#". ./.env && WEB_PORT=$WEB_PORT python3 -c '
import os, yaml
published = yaml.safe_load(open("compose.yaml"))["services"]["web"]["ports"]
assert published == ["127.0.0.1:${WEB_PORT:-8080}:80"], published
print(os.environ["WEB_PORT"])' >>ports"#;
const OF_KIND: &str = r#"python3 -c '
import sys, yaml
node, = yaml.safe_load(sys.stdin)["nodes"]
print(node["extraPortMappings"][0]["hostPort"])' >>ports"#;

/// The trials: the name, what is missing, and what it does.
pub(super) fn trials() -> Vec<super::Ready> {
    let tools = TOOLS.iter().map(|tool| {
        let word = tool.name.to_lowercase().replace([' ', '.'], "_");
        let test: Box<dyn FnOnce() + Send> = Box::new(|| three_times(tool));
        (format!("{word}_has_one_port_and_one_lease_in_three_runs"), missing(tool.needs), test)
    });
    let page: Box<dyn FnOnce() + Send> = Box::new(says_what_is_untried);
    let page = ("the_page_says_which_of_its_recipes_are_untried".to_owned(), Vec::new(), page);
    tools.chain(several::trials()).chain([page]).collect()
}

fn missing(needs: &[&str]) -> Vec<String> {
    let missing = needs.iter().filter(|needed| !is_there(needed));
    missing.map(|needed| (*needed).to_owned()).collect()
}

fn says_what_is_untried() {
    let stood_in = TOOLS.iter().filter(|tool| tool.stand_in.is_some()).map(|tool| tool.name);
    let untried: BTreeSet<_> =
        stood_in.chain(UNTRIED.iter().copied()).chain(several::UNTRIED).collect();
    let tools = TOOLS.iter().map(|tool| tool.name).chain(several::RECIPES);
    let known: BTreeSet<_> = tools.chain(ELSEWHERE.iter().copied()).collect();
    let headings = headings();
    assert_eq!(headings.iter().map(String::as_str).collect::<BTreeSet<_>>(), known);
    for heading in &headings {
        assert_eq!(is_untried(heading), untried.contains(heading.as_str()), "{heading}");
    }
}

fn write(folder: &Path, name: &str, text: &str) {
    let path = folder.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// A stage on which `styxy` is in the `PATH`. It has a network of its own, because all stages have the same types.
fn stage() -> Stage {
    // It is this thread's and that of all that it starts.
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
    assert!(Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap().success());
    let stage = Stage::empty();
    let bin = stage.home.path("bin");
    fs::create_dir(&bin).unwrap();
    symlink(stage.home.styxy().get_program(), bin.join("styxy")).unwrap();
    stage
}

/// Puts a program beside styxy.
fn put(stage: &Stage, name: &str, script: &str) {
    let path = stage.home.path("bin").join(name);
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// The line of a shell, which `styxy` is in the `PATH` of.
fn shell(stage: &Stage, line: &str) -> Command {
    let mut command = stage.command("sh");
    let bin = stage.home.path("bin");
    command.args(["-c", &format!("PATH={}:$PATH; {line}", bin.display())]);
    command.env("CI", "1").env("DO_NOT_TRACK", "1");
    command
}

fn three_times(tool: &Tool) {
    let stage = stage();
    let folder = stage.home.path("server");
    let files = recipe(tool.name);
    let beside = tool.beside.map(recipe).unwrap_or_default();
    for (name, text) in files.iter().chain(&beside) {
        write(&folder, name, text);
    }
    for (name, text) in tool.files.iter().chain(&[("server.js", SERVER)]) {
        write(&folder, name, text);
    }
    if let Some((name, script)) = tool.stand_in {
        put(&stage, name, script);
    }
    let line = if tool.line.is_empty() { launch(&files) } else { tool.line.to_owned() };
    let run = |line: &str| {
        let mut command = shell(&stage, line);
        if tool.name != "Playwright" {
            command.env("ONCE", "1");
        }
        let status = command.status().unwrap();
        assert!(status.success(), "{}", stage.said());
    };
    for _ in 0..3 {
        run(&line);
    }
    let ports = fs::read_to_string(folder.join("ports")).unwrap();
    assert!(ports.lines().count() >= 3, "{ports}");
    let ports: BTreeSet<&str> = ports.lines().collect();
    assert_eq!(ports.len(), 1, "{ports:?}");
    assert!(ports.iter().all(|port| port.parse::<u16>().is_ok()), "{ports:?}");
    stage.has_leases(tool.leases);
    assert!(stage.leases().iter().all(|lease| ports.contains(lease["port"].to_string().as_str())));
    if let Some(port) = tool.without {
        // A PATH with what the tool needs and nothing else.
        let few = stage.home.path("few");
        fs::create_dir(&few).unwrap();
        for program in tool.needs.iter().chain(&["bash", "sh"]) {
            symlink(find(program).unwrap(), few.join(program)).unwrap();
        }
        fs::remove_file(folder.join("ports")).unwrap();
        run(&format!("PATH={}; {line}", few.display()));
        assert_eq!(fs::read_to_string(folder.join("ports")).unwrap().trim(), port);
        assert!(!stage.said().contains("not found"), "{}", stage.said());
    }
}

/// What VS Code runs: the program that `launch.json` names, with its arguments and the file.
fn launch(files: &Files) -> String {
    let launch: Json = serde_json::from_str(&files[".vscode/launch.json"]).unwrap();
    let launch = &launch["configurations"][0];
    let arguments = launch["runtimeArgs"].as_array().unwrap();
    let words = [&launch["runtimeExecutable"]].into_iter().chain(arguments);
    let words: Vec<_> =
        words.chain([&launch["program"]]).map(|word| word.as_str().unwrap()).collect();
    words.join(" ").replace("${workspaceFolder}", ".")
}
