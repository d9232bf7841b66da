//! The lines of docs/recipes.md, run as the users of each tool run them: one service keeps one port, and has one lease.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::{fs::symlink, process::CommandExt},
    path::Path,
};

use nix::sys::signal::{Signal, killpg};
use serde_json::{Value as Json, json};

use super::{NODE, PYTHON, Running, Stage, is_there};

/// A tool, as the page calls it.
struct Tool {
    name: &'static str,
    needs: &'static [&'static str],
    /// What is run three times, by a shell.
    line: &'static str,
    /// How many leases there are afterwards: that of a claim stays.
    leases: usize,
}

const TOOLS: &[Tool] = &[
    Tool {
        name: "direnv",
        needs: &["direnv", "node"],
        line: "direnv allow && direnv exec . node server.js",
        leases: 1,
    },
    Tool {
        name: "direnv for a whole project",
        needs: &["direnv", "node"],
        line: "direnv allow && direnv exec . node server.js",
        leases: 1,
    },
    Tool {
        name: "make for a whole project",
        needs: &["make", "node"],
        line: "make dev",
        leases: 1,
    },
    Tool {
        name: "mise",
        needs: &["node", NODE],
        line: "node_modules/.bin/mise trust -q && node_modules/.bin/mise exec -- node server.js",
        leases: 1,
    },
    Tool { name: "make", needs: &["make", "node"], line: "make dev", leases: 1 },
    Tool { name: "just", needs: &["node", PYTHON], line: "just dev", leases: 1 },
    Tool { name: "npm", needs: &["node", "npm"], line: "npm run dev", leases: 0 },
    Tool {
        name: "Playwright",
        needs: &["node", NODE],
        line: "npx playwright test --workers 2",
        leases: 1,
    },
    Tool { name: "vitest", needs: &["node", NODE], line: "npx vitest run", leases: 1 },
    Tool {
        name: "compose",
        needs: &["node"],
        line: "sh up.sh && node --env-file=.env server.js",
        leases: 1,
    },
    Tool { name: "VS Code", needs: &["node"], line: "", leases: 0 },
];

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

/// The trials: the name, what is missing, and what it does.
pub(super) fn trials() -> Vec<super::Ready> {
    let missing = |needs: &[&str]| {
        let missing = needs.iter().filter(|needed| !is_there(needed));
        missing.map(|needed| (*needed).to_owned()).collect::<Vec<_>>()
    };
    let tools = TOOLS.iter().map(|tool| {
        let word = tool.name.to_lowercase().replace(' ', "_");
        let test: Box<dyn FnOnce() + Send> = Box::new(|| three_times(tool));
        (format!("{word}_has_one_port_and_one_lease_in_three_runs"), missing(tool.needs), test)
    });
    let turbo: Box<dyn FnOnce() + Send> = Box::new(|| two_worktrees(&TURBO));
    let honcho: Box<dyn FnOnce() + Send> = Box::new(|| two_worktrees(&HONCHO));
    let several = [
        ("turbo", missing(&["git", "node", "npm", NODE]), turbo),
        ("honcho", missing(&["git", "node", PYTHON]), honcho),
    ];
    let several = several.into_iter().map(|(name, missing, test)| {
        (format!("four_services_of_{name}_in_two_worktrees_keep_eight_ports"), missing, test)
    });
    tools.chain(several).collect()
}

/// The files below a heading of the page, by their names.
fn recipe(heading: &str) -> BTreeMap<String, String> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/recipes.md");
    let page = fs::read_to_string(page).unwrap();
    let (_, section) = page.split_once(&format!("\n## {heading}\n")).unwrap();
    let section = section.split("\n#").next().unwrap();
    let mut blocks = section.split("\n```");
    let mut files = BTreeMap::new();
    while let (Some(words), Some(block)) = (blocks.next(), blocks.next()) {
        let name = words.lines().rev().find(|line| line.starts_with('`')).unwrap();
        let name = name.split('`').nth(1).unwrap();
        let (_, text) = block.split_once('\n').unwrap();
        files.insert(name.to_owned(), format!("{text}\n"));
    }
    assert!(!files.is_empty(), "{heading}");
    files
}

fn write(folder: &Path, name: &str, text: &str) {
    let path = folder.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// A stage on which `styxy` is in the `PATH`.
fn stage() -> Stage {
    let stage = Stage::empty();
    let bin = stage.home.path("bin");
    fs::create_dir(&bin).unwrap();
    symlink(stage.home.styxy().get_program(), bin.join("styxy")).unwrap();
    stage
}

/// The line of a shell, which `styxy` is in the `PATH` of.
fn shell(stage: &Stage, line: &str) -> std::process::Command {
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
    for (name, text) in &files {
        write(&folder, name, text);
    }
    write(&folder, "server.js", SERVER);
    for name in ["a", "b"] {
        match tool.name {
            "Playwright" => write(&folder, &format!("{name}.spec.js"), OF_PLAYWRIGHT),
            "vitest" => write(&folder, &format!("{name}.test.mjs"), OF_VITEST),
            _ => (),
        }
    }
    let line = if tool.line.is_empty() { launch(&files) } else { tool.line.to_owned() };
    for _ in 0..3 {
        let mut command = shell(&stage, &line);
        if tool.name != "Playwright" {
            command.env("ONCE", "1");
        }
        let status = command.status().unwrap();
        assert!(status.success(), "{}", stage.said());
    }
    let ports = fs::read_to_string(folder.join("ports")).unwrap();
    assert!(ports.lines().count() >= 3, "{ports}");
    let ports: BTreeSet<&str> = ports.lines().collect();
    assert_eq!(ports.len(), 1, "{ports:?}");
    stage.has_leases(tool.leases);
    assert!(stage.leases().iter().all(|lease| ports.contains(lease["port"].to_string().as_str())));
}

/// What VS Code runs: the program that `launch.json` names, with its arguments and the file.
fn launch(files: &BTreeMap<String, String>) -> String {
    let launch: Json = serde_json::from_str(&files[".vscode/launch.json"]).unwrap();
    let launch = &launch["configurations"][0];
    let arguments = launch["runtimeArgs"].as_array().unwrap();
    let words = [&launch["runtimeExecutable"]].into_iter().chain(arguments);
    let words: Vec<_> =
        words.chain([&launch["program"]]).map(|word| word.as_str().unwrap()).collect();
    words.join(" ").replace("${workspaceFolder}", ".")
}

// ---- several services of one repository ----------------------------------------------------------

const SERVICES: [&str; 4] = ["web", "admin", "api", "docs"];

/// What starts several services at once.
struct Starter {
    name: &'static str,
    line: &'static str,
    /// Writes what the page does not show.
    prepare: fn(&Path, &BTreeMap<String, String>),
    /// Where in the repository a service is, and what `styxy port` is asked for it, there and from all the others.
    folder: fn(&str) -> String,
    asked: fn(&str) -> Vec<String>,
}

const TURBO: Starter = Starter {
    name: "turbo",
    line: "exec node_modules/.bin/turbo run dev",
    prepare: |folder, files| {
        let manifest = json!({
            "private": true, "packageManager": "npm@11.0.0", "workspaces": ["apps/*"],
        });
        write(folder, "package.json", &manifest.to_string());
        let own = &files["apps/web/package.json"];
        for service in SERVICES {
            let manifest = own.replace(r#""web""#, &format!("{service:?}"));
            write(folder, &format!("apps/{service}/package.json"), &manifest);
            write(folder, &format!("apps/{service}/server.js"), SERVER);
        }
    },
    folder: |service| format!("apps/{service}"),
    asked: |service| ["dev", "--package", &format!("apps/{service}")].map(str::to_owned).to_vec(),
};

const HONCHO: Starter = Starter {
    name: "honcho",
    line: "exec honcho start",
    prepare: |folder, _| write(folder, "server.js", SERVER),
    folder: |_| ".".to_owned(),
    asked: |service| {
        let service_type = if ["api", "docs"].contains(&service) { service } else { "dev" };
        [service_type, "--name", service].map(str::to_owned).to_vec()
    },
};

fn two_worktrees(starter: &Starter) {
    let stage = stage();
    let main = stage.home.path("server");
    let files = recipe(starter.name);
    for (name, text) in &files {
        write(&main, name, text);
    }
    (starter.prepare)(&main, &files);
    write(&main, ".gitignore", "node_modules\n.turbo\nports\n");
    let other = stage.home.path("other");
    let line = format!(
        "git init -q && git add . && git -c user.name=a -c user.email=a@b commit -qm a && git worktree add -q {}",
        other.display()
    );
    assert!(shell(&stage, &line).status().unwrap().success(), "{}", stage.said());
    symlink(main.join("node_modules"), other.join("node_modules")).unwrap();
    let start = || {
        let mut started = [&main, &other].map(|folder| {
            let mut command = shell(&stage, starter.line);
            Running(command.current_dir(folder).process_group(0).spawn().unwrap())
        });
        stage.has_leases(8);
        let is_listening = |lease: &Json| lease["state"] == "listening";
        let are_listening = || stage.leases().iter().all(is_listening);
        started[0].until_or("eight listen", || stage.said(), are_listening);
        // Each service is asked for from the place of each other.
        let mut ports = BTreeMap::new();
        for folder in [&main, &other] {
            for service in SERVICES {
                let found = SERVICES.map(|place| {
                    let mut command = stage.home.styxy();
                    command.current_dir(folder.join((starter.folder)(place)));
                    let output =
                        command.arg("port").args((starter.asked)(service)).output().unwrap();
                    assert!(output.status.success(), "{output:?}");
                    String::from_utf8(output.stdout).unwrap()
                });
                assert!(found.iter().all(|port| *port == found[0]), "{service}: {found:?}");
                ports.insert((folder.clone(), service), found[0].trim().to_owned());
            }
        }
        for running in &mut started {
            killpg(running.pid(), Signal::SIGTERM).unwrap();
            running.0.wait().unwrap();
        }
        stage.has_leases(0);
        ports
    };
    let ports = start();
    assert_eq!(ports.values().collect::<BTreeSet<_>>().len(), 8, "{ports:?}");
    assert_eq!(start(), ports);
}
