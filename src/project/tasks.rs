//! What runners of tasks start: Makefiles, just, Task, mise and process-compose.

use std::path::PathBuf;

use super::{
    Place,
    command::{self, Call},
    compose::side,
    folder::Folder,
    found::{Clue, Found},
    is_web,
    node::Scripts,
    text::{self, Env, shown},
    tree::Tree,
    weak::Weak,
};

/// The tasks that start something, in the order in which people think of them.
const STARTS: [&str; 6] = ["dev", "develop", "run", "start", "serve", "server"];

/// The files of each runner: the first that is there counts.
const MAKE: [&str; 3] = ["GNUmakefile", "makefile", "Makefile"];
const JUST: [&str; 3] = ["justfile", "Justfile", ".justfile"];
const TASK: [&str; 4] = ["Taskfile.yml", "taskfile.yml", "Taskfile.yaml", "taskfile.yaml"];
const MISE: [&str; 2] = ["mise.toml", ".mise.toml"];
const PROCESSES: [&str; 2] = ["process-compose.yml", "process-compose.yaml"];

/// How tasks call other tasks.
const RUNNERS: [&str; 7] = ["$(MAKE)", "${MAKE}", "make", "just", "{{just}}", "task", "mise"];

/// No real file has more tasks, and no real task has more lines, names and servers, or a longer line.
const MOST: usize = 200;
const MOST_LINES: usize = 50;
const MOST_NAMES: usize = 20;
const MOST_SERVERS: usize = 20;
const LONGEST: usize = 4096;

/// The tasks of a file, and the variables that it sets.
#[derive(Default)]
struct Tasks {
    tasks: Vec<Task>,
    env: Env,
}

/// A task, the tasks that it needs, and its command lines.
#[derive(Default)]
struct Task {
    name: String,
    needs: Vec<String>,
    lines: Vec<String>,
}

/// The servers that the tasks start. Most are those that the packages show.
pub(super) fn hints(folder: &Folder<'_>, env: &Env) -> Vec<Weak> {
    let mut weak = Vec::new();
    for (files, run) in
        [(&MAKE[..], "make"), (&JUST[..], "just"), (&TASK[..], "task"), (&MISE[..], "mise run")]
    {
        let Some((file, content)) = folder.first(files) else { continue };
        let mut tasks = match run {
            "task" => structured(&folder.parse(file, &content, Tree::yaml)),
            "mise run" => structured(&folder.parse(file, &content, Tree::toml)),
            _ => recipes(&content),
        };
        tasks.env.add(env.clone());
        let at = |words: &[&str]| folder.at_line(file, &content, words);
        let start = |name: &str| tasks.started(name, folder, run, at);
        // One way to start the servers is enough; of other tasks, other kinds of servers count.
        let first = STARTS.iter().map(|name| start(name)).find(|started| !started.is_empty());
        let mut started = first.unwrap_or_default();
        let is_known = !started.is_empty();
        let names = tasks.tasks.iter().map(|task| task.name.as_str());
        for name in names.filter(|name| !STARTS.contains(name) && !is_for_others(name)) {
            let is_new = |weak: &Weak| {
                let own = weak.service_type();
                let is_same = |known: &Weak| known.service_type() == own;
                weak.is_named() || !(is_known && is_web(own) || started.iter().any(is_same))
            };
            let new: Vec<Weak> = start(name).into_iter().filter(is_new).collect();
            started.extend(new);
            if started.len() > MOST_SERVERS {
                break;
            }
        }
        weak.extend(started);
        let runs_air = |task: &&Task| {
            let here =
                task.lines.iter().map(|line| plain(line)).filter(|line| place(folder, line).1);
            let mut programs = here.flat_map(|line| command::programs(&line));
            !is_for_others(&task.name) && is_plain(&task.name) && programs.any(|name| name == "air")
        };
        // It starts a program again whenever its code changes, whatever that is.
        if let Some(Task { name, .. }) = tasks.tasks.iter().find(runs_air) {
            let clue = Clue::new("api", at(&[name, "air"]), format!("{} runs air", shown(name)));
            weak.push(Weak::port(folder.place(), clue.by(format!("{run} {name}"))));
        }
    }
    weak
}

/// Whether the name of a task or a script tells that it is not for development.
pub(super) fn is_for_others(name: &str) -> bool {
    let others =
        ["build", "ci", "deploy", "e2e", "preview", "prod", "production", "staging", "test"];
    text::words(name).any(|word| others.contains(&word))
}

impl Tasks {
    /// What a task starts, and the tasks that it needs.
    fn started(
        &self,
        name: &str,
        folder: &Folder<'_>,
        run: &str,
        at: impl Fn(&[&str]) -> Place,
    ) -> Vec<Weak> {
        let mut weak = Vec::new();
        let own: Vec<&Task> = self.tasks.iter().filter(|task| task.name == name).collect();
        let is_needed = |task: &&Task| own.iter().any(|own| own.needs.contains(&task.name));
        let needed = self.tasks.iter().filter(is_needed);
        let lines = own.iter().copied().chain(needed).flat_map(|task| &task.lines).take(MOST_LINES);
        for line in lines.map(|line| plain(line)) {
            // Each of several programs that run beside each other may be in a folder of its own.
            for line in line.split(" & ") {
                let (package, is_here) = place(folder, line);
                // The command line is for a shell.
                let command = (is_here && is_plain(name)).then(|| format!("{run} {name}"));
                let name = shown(name);
                let servers = command::servers(line, &self.env);
                let is_told = line.split_whitespace().any(|word| word.starts_with("PORT="));
                let port = command::port_of(line, &self.env);
                if let Some(port) = port.filter(|_| is_told && servers.is_empty()) {
                    let what = format!("{name} sets PORT={port}");
                    let clue = Clue::new("dev", at(&[&name, "PORT="]), what).on(port);
                    weak.push(Weak::web(package.clone(), clue.by(command.clone())));
                }
                for server in servers {
                    if weak.len() >= MOST_SERVERS {
                        return weak;
                    }
                    let what = format!("{name} runs {}", server.tool);
                    let clue = Clue::new(server.service_type, at(&[&name, server.tool]), what);
                    let clue = clue.on(server.port).usually(server.usual).by(command.clone());
                    weak.push(match server.name {
                        Some(name) => Weak::named(package.clone(), clue.named(name)),
                        None => Weak::likely(package.clone(), clue),
                    });
                }
            }
        }
        weak
    }
}

/// The folder that a command line is for, and whether it is this one.
fn place(folder: &Folder<'_>, line: &str) -> (PathBuf, bool) {
    let mut words =
        line.split(|c: char| c.is_whitespace() || matches!(c, ';' | '&' | '|' | '(' | ')'));
    words.find(|word| matches!(*word, "cd" | "pushd" | "--cwd" | "--directory"));
    match words.find(|word| !word.is_empty()).and_then(inner) {
        Some(inner) => (folder.place().join(inner), false),
        None => (folder.place().to_owned(), true),
    }
}

/// The path to a folder in this one, which variables may name; `None` for any other.
pub(super) fn inner(path: &str) -> Option<PathBuf> {
    let parts = path.trim_matches(['"', '\'']).split('/');
    let is_named = |part: &&str| !matches!(*part, "" | ".") && !part.contains('$');
    let parts: Vec<&str> = parts.filter(is_named).collect();
    let is_outside = parts.contains(&"..") || path.starts_with(['/', '~', '-']);
    (!parts.is_empty() && !is_outside).then(|| parts.iter().collect())
}

/// The targets of a Makefile or the recipes of a justfile.
fn recipes(content: &str) -> Tasks {
    let content = content.replace("\\\n", " ");
    let mut found = Tasks::default();
    let mut variables = Vec::new();
    // The number of tasks, at the end of the list, that the next recipe is for.
    let mut open = 0;
    for line in content.lines().filter(|line| !line.trim_start().starts_with('#')) {
        if line.starts_with([' ', '\t']) {
            let first = found.tasks.len().saturating_sub(open);
            let line = line.trim().trim_start_matches(['@', '-', '+']);
            found.tasks.iter_mut().skip(first).for_each(|task| task.add(line));
        } else if let Some(variable) = variable(line) {
            variables.push(variable);
        } else if let Some((names, needs)) = header(line) {
            let names = names.split_whitespace().take(MOST_NAMES);
            // Parameters of just may have defaults, and a target of make variables of its own.
            variables.extend(names.clone().chain([needs]).filter_map(variable));
            let needs = needs.split_whitespace().take(MOST_NAMES);
            let needs: Vec<String> = needs.map(str::to_owned).collect();
            let before = found.tasks.len();
            if before < MOST {
                found.tasks.extend(names.map(|name| Task {
                    name: name.trim_start_matches('@').to_owned(),
                    needs: needs.clone(),
                    lines: Vec::new(),
                }));
            }
            open = found.tasks.len() - before;
        }
    }
    found.env = Env::parse(&variables.join("\n"));
    found
}

impl Task {
    fn add(&mut self, line: &str) {
        // One that calls its runner for other tasks needs these.
        let mut words = line.split_whitespace();
        let is_call = words.next().is_some_and(|first| RUNNERS.contains(&first));
        let is_here = !words.clone().any(|word| word == "-C");
        if is_call && is_here {
            self.needs.extend(words.take(MOST_NAMES).map(str::to_owned));
        }
        if self.lines.len() < MOST_LINES {
            self.lines.push(line.chars().take(LONGEST).collect());
        }
    }
}

/// The parts of `names: needs`. The names may have quoted defaults with colons in them.
fn header(line: &str) -> Option<(&str, &str)> {
    let mut quote = None;
    let (at, _) = line.char_indices().find(|(_, c)| {
        match quote {
            Some(open) if open == *c => quote = None,
            None if matches!(c, '"' | '\'') => quote = Some(*c),
            _ => {}
        }
        quote.is_none() && *c == ':'
    })?;
    let (names, needs) = line.split_at_checked(at)?;
    Some((names, needs.trim_start_matches(':')))
}

/// What the line `NAME = value` sets, also with `:=` and `?=`, in the form of an `.env` file.
fn variable(line: &str) -> Option<String> {
    let (name, value) = line.split_once('=')?;
    let name = name.trim_end_matches([':', '?', '+', '!', ' ']).trim();
    let name = name.strip_prefix("export ").unwrap_or(name);
    let value = value.trim();
    // In `env("PORT", "8000")`, the default comes last.
    let default = text::words(value).filter(|_| value.starts_with("env")).last();
    let value = default.map_or_else(|| plain(value), str::to_owned);
    is_name(name).then(|| format!("{}={value}", name.replace('-', "_")))
}

fn is_plain(name: &str) -> bool {
    let is_of_it = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | ':');
    name.chars().all(is_of_it) && !name.starts_with('-')
}

fn is_name(text: &str) -> bool {
    let is_of_it = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    !text.is_empty() && text.chars().all(is_of_it)
}

/// The text with the variables of all runners in the form `${NAME}`.
fn plain(text: &str) -> String {
    let text = text.replace("$$", "$");
    [("$(", ")"), ("{{", "}}")].iter().fold(text, |text, (start, end)| {
        let mut parts = text.split(start);
        let mut plain = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let variable = part.split_once(end);
            match variable.and_then(|(name, rest)| Some((expanded(name)?, rest))) {
                Some((variable, rest)) => plain.extend([&*variable, rest]),
                None => plain.extend([start, part]),
            }
        }
        plain
    })
}

/// `${NAME}` for a name as make, just and Task write it, and `${NAME:-value}` for one that Task gives a default.
fn expanded(template: &str) -> Option<String> {
    let words: Vec<&str> = template.split_whitespace().collect();
    let (name, default) = match words[..] {
        [name] => (name, None),
        [name, "|", "default", value] | ["default", value, name] => (name, Some(value)),
        _ => return None,
    };
    let name = Some(name.trim_start_matches('.')).filter(|name| is_name(name))?.replace('-', "_");
    let default = default.map(|value| format!(":-{}", value.trim_matches(['"', '\''])));
    Some(format!("${{{name}{}}}", default.unwrap_or_default()))
}

/// The tasks of Task or of mise.
fn structured(file: &Tree) -> Tasks {
    let mut found = Tasks::default();
    for group in ["vars", "env"] {
        let values = file.get(group).entries().iter().take(MOST);
        let lines = values.filter_map(|(name, value)| {
            let value = plain(value.text()?);
            // `PORT: '{{.PORT | default 8080}}'` takes it from the environment.
            let default = value.strip_prefix(&format!("${{{name}:-"));
            let default = default.and_then(|default| default.strip_suffix('}'));
            Some(format!("{name}={}", default.unwrap_or(&value)))
        });
        found.env.add(Env::parse(&lines.collect::<Vec<_>>().join("\n")));
    }
    for (name, value) in file.get("tasks").entries().iter().take(MOST) {
        let mut task = Task { name: name.clone(), ..Task::default() };
        let folder = value.get("dir").text().map(|dir| format!("cd {dir} && ")).unwrap_or_default();
        let port = value.get("env").get("PORT").text().map(|port| format!("PORT={port} "));
        let before = folder + port.as_deref().unwrap_or_default();
        // Its own variables, of which ports count.
        let own = value.get("vars").entries().iter().take(MOST_NAMES);
        let own =
            own.filter_map(|(name, value)| Some((name, text::port(value.text()?)?.to_string())));
        let own: Vec<_> = own.collect();
        let set = |line: String| {
            own.iter().fold(line, |line, (name, port)| {
                let line = line.replace(&format!("{{{{.{name}}}}}"), port);
                line.replace(&format!("{{{{ .{name} }}}}"), port)
            })
        };
        let commands = [value, value.get("cmds"), value.get("cmd"), value.get("run")];
        for command in commands.into_iter().flat_map(items) {
            if let Some(line) = command.text().or_else(|| command.get("cmd").text()) {
                let line: String = line.trim().chars().take(LONGEST).collect();
                let line = line.replace("\\\n", " ").replace('\n', " ; ");
                task.add(&set(format!("{before}{line}")));
            }
        }
        let needed = [value.get("deps"), value.get("depends"), value.get("cmds")];
        let needed = needed.into_iter().flat_map(items);
        let names = needed.filter_map(|need| need.get("task").text().or_else(|| need.text()));
        task.needs.extend(names.map(str::to_owned));
        found.tasks.push(task);
    }
    found
}

/// The items of a list, or the one text.
fn items(value: &Tree) -> &[Tree] {
    match value {
        Tree::List(list) => list.get(..MOST_LINES).unwrap_or(list),
        Tree::Text(_) => std::slice::from_ref(value),
        _ => &[],
    }
}

/// Adds the processes of process-compose, as those of a Procfile; returns the scripts of `package.json` that they
/// start, and what they start in other folders.
pub(super) fn processes(
    folder: &Folder<'_>,
    scripts: &Scripts<'_>,
    env: &Env,
    found: &mut Found,
) -> (Vec<String>, Vec<Weak>) {
    let (mut started, mut weak) = (Vec::new(), Vec::new());
    let Some((file, content)) = folder.first(&PROCESSES) else { return (started, weak) };
    let file_tree = folder.parse(file, &content, Tree::yaml);
    for (process, value) in file_tree.get("processes").entries().iter().take(MOST_LINES) {
        if value.get("disabled").text() == Some("true") {
            continue;
        }
        let line = value.get("command").text().unwrap_or_default().trim().replace('\n', " ; ");
        let set = value.get("environment").texts().find(|set| set.starts_with("PORT="));
        let line = format!("{} {line}", set.unwrap_or_default());
        let inner = value.get("working_dir").text().and_then(inner);
        let mut servers = command::servers(&line, env);
        let calls = command::scripts(&line).into_iter().filter(|_| inner.is_none());
        for Call { name, arguments } in calls {
            let by_script = scripts.servers_of(&name, &arguments, env);
            if !by_script.is_empty() {
                started.push(name);
            }
            servers.extend(by_script);
        }
        let probe = value.get("readiness_probe").get("http_get").get("port").text();
        let port = command::port_of(&line, env);
        let port = port.or_else(|| text::port(&env.resolve(probe?)));
        let place = folder.at_line(file, &content, &["processes:", &format!("{process}:")]);
        // By convention, the process `web` is the project itself.
        let name = text::name(process).filter(|name| name != "web");
        let command = is_plain(process).then(|| format!("process-compose up {process}"));
        for server in &servers {
            let what = format!("{} runs {}", shown(process), server.tool);
            let clue = Clue::new(server.service_type, place.clone(), what);
            let clue = clue.on(server.port.or(port)).usually(server.usual);
            match &inner {
                Some(inner) => weak.push(Weak::likely(folder.place().join(inner), clue)),
                None => found.add(clue.named(name.clone()).by(command.clone())),
            }
        }
        if servers.is_empty() && inner.is_none() && (process == "web" || port.is_some()) {
            let clue = Clue::new("dev", place, format!("the process {}", shown(process)));
            let clue = clue.on(port).by(command);
            match name {
                Some(name) => found.add(clue.otherwise((side(process, [].into_iter()), name))),
                None => found.web(clue, None),
            }
        }
    }
    (started, weak)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lines of a task, with their variables replaced.
    fn lines(tasks: &Tasks, name: &str) -> Vec<String> {
        let own = tasks.tasks.iter().filter(|task| task.name == name);
        own.flat_map(|task| &task.lines).map(|line| tasks.env.resolve(&plain(line))).collect()
    }

    #[test]
    fn recipes_are_read_with_their_variables() {
        let make = "PORT ?= 8001\n.PHONY: dev\n\n# all\ndev: db ## Start\n\t@uvicorn app:app \\\n\t--port $(PORT)\n\t-echo\nx:\n\ty";
        for (content, name, expected) in [
            (make, "dev", &["uvicorn app:app  \t--port 8001", "echo"][..]),
            ("A := 1\nB = $(A)2\ndev run:\n\tx ${B} $$A", "run", &["x 12 1"]),
            ("dev: PORT = 9\ndev:\n\tx $(PORT)", "dev", &["x 9"]),
            (
                "port := \"8002\"\nexport A := 'b'\ndev *args:\n    x {{ port }} $A",
                "dev",
                &["x 8002 b"],
            ),
            (
                "@serve at=\"0.0.0.0:80\" port='3': build\n  x {{at}} {{port}}",
                "serve",
                &["x 0.0.0.0:80 3"],
            ),
            (
                "port := env(\"PORT\", \"8003\")\n[group: 'a']\ndev:\n  @x {{port}}",
                "dev",
                &["x 8003"],
            ),
            ("dev:\n", "dev", &[]),
            (":\n\tx\n: :=\n\"", "dev", &[]),
        ] {
            assert_eq!(lines(&recipes(content), name), expected, "{content}");
        }
    }

    #[test]
    fn tasks_of_both_formats_are_read() {
        let task = "vars: {PORT: 8001}\ntasks:\n  dev:\n    dir: web\n    deps: [db, {task: web}]\n    cmds:\n      - a --port {{.PORT}}\n      - {cmd: b}\n      - task: api\n  run: {env: {PORT: 3}, cmds: [c]}\n";
        let task = structured(&Tree::yaml(task).unwrap());
        assert_eq!(lines(&task, "dev"), ["cd web && a --port 8001", "cd web && b"]);
        assert_eq!(lines(&task, "run"), ["PORT=3 c"]);
        let dev = task.tasks.iter().find(|task| task.name == "dev").unwrap();
        assert!(
            ["db", "web", "api"].iter().all(|need| dev.needs.iter().any(|known| known == need))
        );
        let mise = "tasks.run = 'c'\ntasks.dev = {run = ['a', 'b'], depends = ['db']}\ntasks.x.run = 'd\\\\'\ntasks.y.run = \"e\\nf\\n\"";
        let mise = structured(&Tree::toml(mise).unwrap());
        assert_eq!(lines(&mise, "dev"), ["a", "b"]);
        assert_eq!(lines(&mise, "run"), ["c"]);
        assert_eq!(lines(&mise, "y"), ["e ; f"]);
    }

    #[test]
    fn a_path_is_in_the_folder_or_none() {
        for (path, expected) in [
            ("backend", Some("backend")),
            ("./apps/web/", Some("apps/web")),
            ("${CURDIR}/web", Some("web")),
            ("${workspaceFolder}", None),
            ("..", None),
            ("a/../..", None),
            ("/srv", None),
            ("-", None),
        ] {
            assert_eq!(inner(path), expected.map(PathBuf::from), "{path}");
        }
    }
}
