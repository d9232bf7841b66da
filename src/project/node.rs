//! The needs of a JavaScript project: `package.json` and the configuration of its tools.

use std::{
    borrow::Cow,
    cell::Cell,
    path::{Path, PathBuf},
};

use super::{
    Place,
    command::{self, Call, Elsewhere, Server},
    compose::{BACK, side},
    folder::{Folder, normal},
    found::{Clue, Found},
    is_web, js,
    tasks::is_for_others,
    text::{self, Env, shown},
    tree::Tree,
    weak::Weak,
};
use crate::port::Port;

/// Packages for servers, their service types, and the ports that they take if told none (0 for unknown); the
/// most telling ones first.
const PACKAGES: [(&str, &str, u16); 30] = [
    ("next", "dev", 3000),
    ("nuxt", "dev", 3000),
    ("astro", "dev", 4321),
    ("@remix-run/dev", "dev", 3000),
    ("@react-router/dev", "dev", 5173),
    ("@sveltejs/kit", "dev", 5173),
    ("@angular/core", "dev", 4200),
    ("gatsby", "dev", 8000),
    ("react-scripts", "dev", 3000),
    ("webpack-dev-server", "dev", 8080),
    ("vite", "dev", 5173),
    ("@nestjs/core", "api", 3000),
    ("express", "api", 0),
    ("fastify", "api", 0),
    ("koa", "api", 0),
    ("hono", "api", 0),
    ("@hapi/hapi", "api", 0),
    ("restify", "api", 0),
    ("@apollo/server", "api", 4000),
    ("@strapi/strapi", "api", 1337),
    ("json-server", "api", 3000),
    ("storybook", "storybook", 6006),
    ("@storybook/react", "storybook", 6006),
    ("@storybook/vue3", "storybook", 6006),
    ("@docusaurus/core", "docs", 3000),
    ("vitepress", "docs", 5173),
    ("vuepress", "docs", 8080),
    ("@ladle/react", "ui", 61000),
    ("histoire", "ui", 6006),
    ("firebase-functions", "functions", 5001),
];

/// Configuration files without their extensions: the tool, its service type, the port that it takes if told
/// none, and the sections that may hold the port.
const CONFIGS: [(&str, &str, &str, u16, &[&str]); 7] = [
    ("next.config", "Next.js", "dev", 3000, &[]),
    ("nuxt.config", "Nuxt", "dev", 3000, &["devServer", "server"]),
    ("astro.config", "Astro", "dev", 4321, &["server"]),
    ("vite.config", "Vite", "dev", 5173, &["server"]),
    ("webpack.config", "webpack", "dev", 8080, &["devServer"]),
    ("vue.config", "Vue CLI", "dev", 8080, &["devServer"]),
    ("rsbuild.config", "Rsbuild", "dev", 3000, &["server"]),
];
const ENDINGS: [&str; 6] = ["ts", "js", "mjs", "mts", "cjs", "cts"];

/// Scripts that start a package's own server, in the order in which people think of them. Of these one counts.
const OWN: [&str; 7] = ["dev", "develop", "start", "start:dev", "dev:start", "serve", "server"];

/// Programs that run JavaScript, whatever it does.
const RUNTIMES: [&str; 9] =
    ["babel-node", "bun", "deno", "node", "nodemon", "pm2", "ts-node", "ts-node-dev", "tsx"];

/// Programs that run Python.
const PYTHONS: [&str; 6] = ["pdm", "pipenv", "poetry", "python", "python3", "uv"];

/// Tools that also only build. What a runtime starts beside them is another server, which does not have their port.
const BUNDLERS: [&str; 2] = ["vite", "webpack"];
/// All programs that only build, where they are no server.
const BUILDERS: [&str; 6] = ["esbuild", "rollup", "tsc", "tsup", "vite", "webpack"];

/// Programs that serve a folder, and the words that say that it is one that was built.
const STATIC: [&str; 3] = ["http-server", "serve", "sirv"];
const BUILT: [&str; 4] = ["build", "dist", "out", "_site"];

/// The names of scripts for development, beside which what was built is only looked at.
const DEVELOPS: [&str; 4] = ["dev", "develop", "start:dev", "dev:start"];

/// What run-script-os appends to the name of a script, with the one for Linux first.
const SYSTEMS: [&str; 9] =
    ["linux", "nix", "default", "darwin", "mac", "macos", "osx", "win32", "windows"];

const DENO: [&str; 2] = ["deno.json", "deno.jsonc"];
/// How they import Fresh.
const FRESH: [&str; 3] = ["$fresh/", "@fresh/core", "fresh"];

/// Packages with which documentation is written.
const DOCUMENTATION: [&str; 6] = [
    "@astrojs/starlight",
    "@nuxt-themes/docus",
    "docus",
    "fumadocs-core",
    "fumadocs-ui",
    "nextra-theme-docs",
];

/// Parts of a script's name that say how it starts something.
const STARTS: [&str; 6] = ["dev", "develop", "run", "serve", "start", "watch"];

/// How deeply scripts that start scripts are followed, the number of servers of one package, and the number of scripts
/// that are looked at for them: some may be reached in very many ways.
const DEEPEST: u8 = 4;
const MOST: usize = 50;
const MOST_STEPS: usize = 2_000;
/// The number of scripts that are searched for what they start elsewhere.
const MOST_LINES: usize = 200;

#[cfg(test)]
pub(super) fn service_types() -> impl Iterator<Item = &'static str> {
    let configs = CONFIGS.iter().map(|(_, _, service_type, ..)| *service_type);
    PACKAGES.iter().map(|(_, service_type, _)| *service_type).chain(configs)
}

/// The scripts of a `package.json`, or the tasks of a `deno.json`.
pub(super) struct Scripts<'a> {
    folder: &'a Folder<'a>,
    file: &'a str,
    manifest: &'a str,
    manager: &'static str,
    lines: Vec<(&'a str, Cow<'a, str>)>,
    /// How many more of them are looked at.
    steps: Cell<usize>,
}

/// A server that a script starts, perhaps by another script.
struct Started {
    server: Server,
    /// The script that has the command.
    script: String,
    /// The scripts that lead to it.
    by: Vec<String>,
}

impl<'a> Scripts<'a> {
    pub(super) fn new(folder: &'a Folder<'a>, manifest: &'a str, package: &'a Tree) -> Self {
        let entries = package.get("scripts").entries().iter();
        let lines = entries.filter_map(|(name, line)| Some((name.as_str(), line.text()?.into())));
        let manager = package.get("packageManager").text().unwrap_or_default();
        let locks = [
            ("pnpm-lock.yaml", "pnpm"),
            ("yarn.lock", "yarn"),
            ("bun.lock", "bun"),
            ("bun.lockb", "bun"),
        ];
        let by_lock = || locks.into_iter().find(|(file, _)| folder.has_above(file));
        let named = ["pnpm", "yarn", "bun"].into_iter().find(|name| manager.starts_with(name));
        let manager = named.or_else(|| by_lock().map(|(_, name)| name)).unwrap_or("npm");
        let steps = Cell::new(MOST_STEPS);
        Self { folder, file: "package.json", manifest, manager, lines: lines.collect(), steps }
    }

    /// The tasks of this file. One starts those that it depends on.
    fn of_deno(folder: &'a Folder<'a>, file: &'a str, manifest: &'a str, tasks: &'a Tree) -> Self {
        let line = |(name, task): &'a (String, Tree)| {
            let own = task.text().or_else(|| task.get("command").text()).unwrap_or_default();
            let needed = task.get("dependencies").texts().take(MOST);
            let needed: String = needed.flat_map(|task| ["deno task ", task, " & "]).collect();
            (name.as_str(), Cow::from(needed + own))
        };
        let lines = tasks.entries().iter().map(line).collect();
        Self { folder, file, manifest, manager: "deno", lines, steps: Cell::new(MOST_STEPS) }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Whether one of them may start the package's own server: by a runtime, which tells nothing of what it runs.
    pub(super) fn start_something(&self) -> bool {
        OWN.iter().any(|name| self.is_runtime(name))
    }

    /// Whether this one starts something by a runtime.
    fn is_runtime(&self, script: &str) -> bool {
        self.line(script).is_some_and(is_by_runtime)
    }

    fn line(&self, script: &str) -> Option<&str> {
        self.lines.iter().find(|(name, _)| *name == script).map(|(_, line)| &**line)
    }

    /// Whether they only build with this tool. It is known that none of them serves with it.
    fn only_build(&self, tool: &str) -> bool {
        let runs = |line: &str| line.split_whitespace().any(|word| word == tool);
        BUNDLERS.contains(&tool) && self.lines.iter().any(|(_, line)| runs(line))
    }

    /// Whether a server is there to look at what was built: with this command line a script starts the tool.
    fn is_preview(&self, script: &str, line: &str, tool: &str) -> bool {
        let others = || DEVELOPS.iter().filter(|name| **name != script);
        STATIC.contains(&tool)
            && text::words(line).any(|word| BUILT.contains(&word))
            && (others().any(|name| self.is_runtime(name))
                || line.split(tool).next().is_some_and(|before| before.contains("build"))
                    && others().any(|name| self.line(name).is_some()))
    }

    /// The port in the configuration file that a command line names.
    fn configured(&self, server: &Server, env: &Env) -> Option<Port> {
        let tool = BUNDLERS.iter().find(|tool| server.tool.starts_with(**tool))?;
        let (.., sections) = CONFIGS.iter().find(|(stem, ..)| stem.starts_with(tool))?;
        let content = self.folder.read(server.config.as_deref()?)?;
        js::port(&content, sections, env)
    }

    /// Adds the servers that they start, except those of scripts that something else starts. Returns whether they leave
    /// the variable PORT to a server that only a runtime starts.
    pub(super) fn servers(&self, env: &Env, started_already: &[String], found: &mut Found) -> bool {
        let own = OWN.iter().map(|name| self.started(name, "", env));
        let own = own.into_iter().find(|started| !started.is_empty()).unwrap_or_default();
        let is_started =
            |started: &Started| started.by.iter().any(|by| started_already.contains(by));
        let mut known: Vec<Server> = Vec::new();
        for started in &own {
            let Server { service_type, tool, .. } = &started.server;
            let is_second = known.iter().any(|other| other.service_type == *service_type);
            let name = if !is_web(service_type) || own.len() == 1 {
                None
            } else if started.by.len() > 1 {
                part(&started.script).or_else(|| text::name(&started.script))
            } else if is_second {
                text::name(tool)
            } else {
                None
            };
            if !is_started(started) {
                self.add(started, name, found);
            }
            known.push(started.server.clone());
        }
        let is_own = |script: &str| {
            OWN.contains(&script) || own.iter().any(|own| own.by.iter().any(|by| by == script))
        };
        let is_preview = |script: &str| script.contains("preview") || script.contains("build");
        // Others are the same for another system.
        let is_preview = |script: &str| is_preview(script) || self.is_of_system(script);
        for (script, _) in self.lines.iter().take(MOST_STEPS) {
            if is_own(script) || is_preview(script) {
                continue;
            }
            for started in self.started(script, "", env) {
                let server = &started.server;
                let name = server.name.clone().or_else(|| part(script));
                if is_another(server, name.as_deref(), &own, &known) && !is_started(&started) {
                    self.add(&started, name.filter(|_| is_web(server.service_type)), found);
                    known.push(started.server);
                }
            }
        }
        let is_bundler = |own: &Started| BUNDLERS.iter().any(|b| own.server.tool.starts_with(b));
        own.iter().any(is_bundler) && self.start_something()
    }

    /// Whether another script runs this one, on the system after which it is named.
    fn is_of_system(&self, script: &str) -> bool {
        base(script).is_some_and(|base| self.line(base).is_some())
    }

    /// What they start in other packages of the project, each with the port that they give it. `members` are those of the
    /// workspace.
    pub(super) fn elsewhere(&self, members: &[Folder<'_>], env: &Env) -> Vec<Weak> {
        let own = OWN.iter().filter_map(|name| Some((*name, self.line(name)?)));
        let others = self.lines.iter().map(|(name, line)| (*name, &**line));
        let others = others.filter(|(name, _)| !OWN.contains(name) && !is_for_others(name));
        let lines = own.chain(others).take(MOST_LINES);
        let started = lines.flat_map(|(script, line)| {
            command::elsewhere(line, env).into_iter().map(move |started| (script, started))
        });
        let mut names: Option<Vec<_>> = None;
        let weak =
            started.take(MOST).filter_map(|(script, Elsewhere { package, server, port })| {
                let names = names.get_or_insert_with(|| members.iter().map(named).collect());
                let place = self.package(&package, names)?;
                let (what, service_type) = match &server {
                    Some(server) => (format!("runs {}", server.tool), server.service_type),
                    None => ("sets a port".to_owned(), side(&package, [].into_iter())),
                };
                let what = format!("the script {} {what}", shown(script));
                let clue = Clue::new(service_type, self.place(script), what).on(port);
                let name = Path::new(&package).file_name().and_then(|name| name.to_str());
                let clue = clue.named(name.and_then(text::name)).by(self.command(script));
                Some(Weak::own(place, clue.usually(server.and_then(|server| server.usual))))
            });
        weak.collect()
    }

    /// The folder of a package that a command line names.
    fn package(&self, package: &str, members: &[(String, PathBuf)]) -> Option<PathBuf> {
        let is_called_so = |(name, place): &&(String, PathBuf)| {
            name.strip_suffix(package).is_some_and(|scope| scope.is_empty() || scope.ends_with('/'))
                || place.ends_with(package)
        };
        let path = normal(&self.folder.place().join(package));
        let path = path.filter(|_| self.folder.has_folder(package));
        path.or_else(|| members.iter().find(is_called_so).map(|(_, place)| place.clone()))
    }

    fn place(&self, script: &str) -> Place {
        let group = if self.manager == "deno" { "\"tasks\"" } else { "\"scripts\"" };
        self.folder.at_line(self.file, self.manifest, &[group, &format!("\"{script}\"")])
    }

    /// The servers that one of them starts with these arguments, itself or by others.
    pub(super) fn servers_of(&self, script: &str, arguments: &str, env: &Env) -> Vec<Server> {
        self.started(script, arguments, env).into_iter().map(|started| started.server).collect()
    }

    fn add(&self, started: &Started, name: Option<String>, found: &mut Found) {
        let Started { server, script, by } = started;
        let kind = if self.manager == "deno" { "task" } else { "script" };
        let what = format!("the {kind} {} runs {}", shown(script), server.tool);
        // Of a script that starts several, the one that starts only this.
        let run = if name.is_some() { Some(script) } else { by.first() };
        let run = run.map_or(script.as_str(), String::as_str);
        let clue = Clue::new(server.service_type, self.place(script), what)
            .named(server.name.clone().or(name))
            .on(server.port)
            .usually(server.usual)
            .by(self.command(run));
        found.add(clue);
    }

    /// The command line that runs a script.
    fn command(&self, script: &str) -> Option<String> {
        match (self.manager, script) {
            ("deno", script) => text::plain(script).map(|script| format!("deno task {script}")),
            (manager, "start") => Some(format!("{manager} start")),
            (manager, script) => {
                text::plain(script).map(|script| format!("{manager} run {script}"))
            }
        }
    }

    /// What starts the package's own server, whatever that is.
    fn own_command(&self) -> Option<String> {
        let builds = |line| command::programs(line).iter().all(|p| BUILDERS.contains(&p.as_str()));
        let script = OWN.iter().find(|name| self.line(name).is_some_and(|line| !builds(line)))?;
        self.command(script)
    }

    /// What starts the package's own server by running a file in Python.
    pub(super) fn python_command(&self) -> Option<String> {
        let runs = |line: &str| {
            let program = command::programs(line).pop();
            program.is_some_and(|program| PYTHONS.contains(&&*program))
                && line
                    .split_whitespace()
                    .any(|word| Path::new(word).extension() == Some("py".as_ref()))
        };
        let script = OWN.iter().find(|name| self.line(name).is_some_and(runs))?;
        self.command(script)
    }

    /// What starts the server behind the dev server of a front end, if a script is named after it, or runs both.
    fn back_command(&self) -> Option<String> {
        let is_back = |name: &str| text::words(name).any(|word| BACK.contains(&word));
        let is_it = |(name, line): &&(&str, Cow<'_, str>)| {
            is_back(name) && !is_for_others(name) && is_by_runtime(line)
        };
        let named = self.lines.iter().find(is_it).map(|(script, _)| *script);
        let script = named.or_else(|| OWN.iter().find_map(|own| self.runs_beside(own)))?;
        self.command(script)
    }

    /// The script by which this one starts something by a runtime beside something else; perhaps itself.
    fn runs_beside<'s>(&'s self, script: &'s str) -> Option<&'s str> {
        let line = self.line(script)?;
        // Of commands after each other only the last one lasts.
        let parts: Vec<&str> = line.split(" & ").collect();
        let mut lasting = parts.iter().filter_map(|part| part.rsplit("&&").next());
        let starter = ["concurrently", "run-p", "npm-run-all -p", "npm-run-all --parallel"];
        let starter = starter.iter().find(|name| line.contains(**name));
        let Some(starter) = starter else {
            return (parts.len() > 1 && lasting.any(is_by_runtime)).then_some(script);
        };
        let beside = format!("{starter} {}", line.split_once(starter)?.1);
        if is_by_runtime(&beside) {
            return Some(script);
        }
        let called = command::scripts(&beside).into_iter().take(MOST).filter_map(|call| {
            let (name, line) = self.lines.iter().find(|(name, _)| *name == call.name)?;
            (is_by_runtime(line) && !is_for_others(name)).then_some(*name)
        });
        called.into_iter().next()
    }

    /// The servers that a script starts.
    fn started(&self, script: &str, arguments: &str, env: &Env) -> Vec<Started> {
        let mut started = Vec::new();
        self.follow(script, arguments, &mut Vec::new(), env, &mut started);
        started
    }

    /// Adds the servers that a script with these arguments starts; `by` are the scripts that lead to it.
    fn follow(
        &self,
        script: &str,
        arguments: &str,
        by: &mut Vec<String>,
        env: &Env,
        started: &mut Vec<Started>,
    ) {
        let Some(left) = self.steps.get().checked_sub(1) else { return };
        self.steps.set(left);
        let Some(line) = self.line(script) else { return };
        let line = format!("{line} {arguments}");
        if by.len() >= DEEPEST.into()
            || by.iter().any(|other| other == script)
            || started.len() > MOST
        {
            return;
        }
        by.push(script.to_owned());
        let mut servers = command::servers_here(&line, env);
        servers.retain(|server| !self.is_preview(script, &line, server.tool));
        for server in &mut servers {
            server.port = server.port.or_else(|| self.configured(server, env));
        }
        let runs_by_system = |program: &String| ["run-script-os", "run-os"].contains(&&**program);
        if command::programs(&line).iter().any(runs_by_system) {
            // One may be for several: `dev:darwin:linux`.
            let is_for = |name: &str, system| {
                base(name) == Some(script) && name.split(':').skip(1).any(|part| part == system)
            };
            let mut names = SYSTEMS.iter().filter_map(|system| {
                let mut names = self.lines.iter().map(|(name, _)| *name).take(MOST_STEPS);
                names.find(|name| is_for(name, *system))
            });
            if let Some(name) = names.next() {
                self.follow(name, arguments, by, env, started);
            }
        }
        // `pnpm with-env next dev` names the server itself.
        let is_complete = !servers.is_empty();
        for server in servers {
            started.push(Started { server, script: script.to_owned(), by: by.clone() });
        }
        for Call { name, arguments } in command::scripts(&line) {
            let arguments = if is_complete { "" } else { &*arguments };
            let fits = |other: &str| match name.split_once('*') {
                Some((start, end)) => other.starts_with(start) && other.ends_with(end),
                None => other == name,
            };
            for (other, _) in self.lines.iter().filter(|(other, _)| fits(other)) {
                self.follow(other, arguments, by, env, started);
            }
        }
        by.pop();
    }
}

/// Whether what a script starts is a server of its own, and not another way to start one that is known. `own` are those
/// that the package's own script starts.
fn is_another(server: &Server, name: Option<&str>, own: &[Started], known: &[Server]) -> bool {
    if server.name.is_some() {
        // `styxy run` leases a port for it.
        true
    } else if server.service_type == "test" {
        // Tests are looked at when there is a reason.
        false
    } else if !is_web(server.service_type) {
        known.iter().all(|other| other.service_type != server.service_type)
    } else if own.is_empty() {
        let differs = |other: &Server| (other.tool, other.port) != (server.tool, server.port);
        known.is_empty() || name.is_some() && known.iter().all(differs)
    } else {
        name.is_some()
            && server.port.is_some()
            && known.iter().all(|other| other.tool != server.tool && other.port != server.port)
    }
}

/// The name of the script without the systems that this one is for.
fn base(script: &str) -> Option<&str> {
    let (base, _) = script.rsplit_once(':').filter(|(_, system)| SYSTEMS.contains(system))?;
    self::base(base).or(Some(base))
}

/// The part of a larger project that a script starts: `dev:web` starts `web`.
fn part(script: &str) -> Option<String> {
    let (left, right) = script.split_once([':', '-'])?;
    let part = match (STARTS.contains(&left), STARTS.contains(&right)) {
        (true, false) => right,
        (false, true) => left,
        _ => return None,
    };
    text::name(part)
}

/// Adds what the configuration files of the tools show. Of a package whose scripts start no server they say
/// only with what it is built.
pub(super) fn configs(folder: &Folder<'_>, scripts: &Scripts<'_>, env: &Env, found: &mut Found) {
    let starts_nothing = !scripts.is_empty() && !scripts.start_something();
    for (stem, tool, service_type, usual, sections) in CONFIGS {
        let names = ENDINGS.map(|ending| format!("{stem}.{ending}"));
        let Some(name) = names.iter().find(|name| folder.has_file(name)) else { continue };
        let content = folder.read(name).unwrap_or_default();
        let port = js::port(&content, sections, env);
        let what = match port {
            Some(port) => format!("{tool} on port {port}"),
            None => tool.to_owned(),
        };
        let place = folder.at_line(name, &content, &["port"]);
        let clue = Clue::new(service_type, place, what).on(port).usually(usual);
        let is_built_only = starts_nothing || scripts.only_build(stem.trim_end_matches(".config"));
        if is_built_only { found.complete(clue) } else { found.hint(clue) }
    }
    angular(folder, found);
    if folder.has_folder(".storybook") && !scripts.is_empty() {
        let clue = Clue::new("storybook", folder.at(".storybook"), "Storybook");
        found.hint(clue.usually(6006));
    }
}

/// Adds what `angular.json` shows: the ports of the projects that are served.
fn angular(folder: &Folder<'_>, found: &mut Found) {
    let Some((content, tree)) = folder.parsed("angular.json", Tree::jsonc) else { return };
    let mut served = tree.get("projects").entries().iter().filter_map(|(name, project)| {
        let targets = match project.get("architect") {
            Tree::Nothing => project.get("targets"),
            architect => architect,
        };
        let serve = targets.get("serve");
        let port = serve.get("options").get("port").text().and_then(text::port);
        let key = format!("\"{name}\"");
        let place = folder.at_line("angular.json", &content, &[&key, "\"serve\""]);
        let clue = Clue::new("dev", place, format!("Angular serves {}", shown(name))).on(port);
        (!matches!(serve, Tree::Nothing)).then(|| (text::name(name), clue.usually(4200)))
    });
    let Some((first, clue)) = served.next() else { return };
    if !found.complete_named(first, clue.clone()) {
        found.hint(clue);
    }
    for (name, clue) in served.take(MOST) {
        found.complete_named(name, clue);
    }
}

/// Adds what the `project.json` of nx shows: the target that serves, and that of Storybook.
pub(super) fn nx(folder: &Folder<'_>, found: &mut Found) {
    let Some((content, tree)) = folder.parsed("project.json", Tree::jsonc) else { return };
    let is_there = |name: &&str| tree.get("targets").has(name);
    let serve = ["serve", "dev", "start"].into_iter().find(is_there);
    for target in serve.into_iter().chain(Some("storybook").filter(is_there)) {
        nx_target(target, &content, &tree, folder, found);
    }
}

fn nx_target(target: &str, content: &str, tree: &Tree, folder: &Folder<'_>, found: &mut Found) {
    let serve = tree.get("targets").get(target);
    let executor = match serve.get("executor") {
        Tree::Nothing => serve.get("builder"),
        executor => executor,
    };
    let executor = executor.text().unwrap_or_default();
    let servers = [
        ("storybook", "storybook", 6006),
        ("next", "dev", 3000),
        ("vite", "dev", 4200),
        ("angular", "dev", 4200),
        ("webpack", "dev", 4200),
        ("rspack", "dev", 4200),
        ("remix", "dev", 3000),
        ("nuxt", "dev", 3000),
        ("expo", "dev", 8081),
        ("node", "api", 0),
        ("nest", "api", 0),
    ];
    let command =
        serve.get("command").text().or_else(|| serve.get("options").get("command").text());
    let by_command =
        command::servers(command.unwrap_or_default(), &Env::default()).into_iter().next();
    let known = servers.into_iter().find(|(name, ..)| executor.contains(name));
    let known = known
        .map(|(_, service_type, usual)| (service_type, Some(usual).filter(|usual| *usual > 0)));
    let by_command = by_command.map(|server| (server.service_type, server.usual, server.port));
    let (service_type, usual, port) = match (known, by_command) {
        (_, Some(server)) => server,
        (Some((service_type, usual)), None) => (service_type, usual, None),
        (None, None) => return,
    };
    let port = serve.get("options").get("port").text().and_then(text::port).or(port);
    let place = folder.at_line("project.json", content, &["\"targets\"", &format!("\"{target}\"")]);
    let name = tree.get("name").text().unwrap_or_default();
    let clue =
        Clue::new(service_type, place, format!("nx: the target {target}")).on(port).usually(usual);
    found.hint(clue.by(text::plain(name).map(|name| format!("nx {target} {name}"))));
}

/// Adds the tasks of a `deno.json`.
pub(super) fn deno(folder: &Folder<'_>, env: &Env, found: &mut Found) {
    let Some((file, content)) = folder.first(&DENO) else { return };
    let tree = folder.parse(file, &content, Tree::jsonc);
    let tasks = tree.get("tasks");
    let mut started = Found::default();
    Scripts::of_deno(folder, file, &content, tasks).servers(env, &[], &mut started);
    // A package.json beside it may start the same.
    let is_known = found.knows_web();
    for clue in started.clues() {
        if is_known { found.hint(clue.clone()) } else { found.add(clue.clone()) }
    }
    if started.knows_web() {
        return;
    }
    let imported = |tree: &Tree| {
        let imports = tree.get("imports").entries().iter();
        imports.map(|(name, _)| name.clone()).find(|name| FRESH.contains(&name.as_str()))
    };
    // The root of a workspace may import it for the members, of which one with routes uses it.
    let shared = || imported(&tree).or_else(|| imported(&folder.above(&DENO, Tree::jsonc)?));
    let own = imported(&tree).filter(|_| !tree.has("workspace"));
    let import = own.or_else(|| shared().filter(|_| folder.has_folder("routes")));
    let task = ["dev", "start"].into_iter().find(|name| tasks.has(name));
    if let (Some(import), Some(task)) = (import, task) {
        let place = folder.at_line(file, &content, &[&format!("\"{import}\"")]);
        let clue = Clue::new("dev", place, "Fresh").usually(8000);
        found.hint(clue.by(format!("deno task {task}")));
    }
}

/// The members of the workspace of a `deno.json`.
pub(super) fn deno_members<'a>(folder: &Folder<'a>) -> Vec<Folder<'a>> {
    let Some((file, content)) = folder.first(&DENO) else { return Vec::new() };
    let tree = folder.parse(file, &content, Tree::jsonc);
    let patterns = match tree.get("workspace") {
        object @ Tree::Map(_) => object.get("members"),
        list => list,
    };
    let patterns: Vec<_> = patterns.texts().collect();
    let members = folder.members(&patterns, "deno.json");
    members.into_iter().chain(folder.members(&patterns, "deno.jsonc")).collect()
}

/// Adds what the dependencies of the package show, if it starts something.
pub(super) fn dependencies(
    folder: &Folder<'_>,
    scripts: &Scripts<'_>,
    package: &Tree,
    found: &mut Found,
) {
    let back = scripts.back_command();
    let starts_something = scripts.is_empty() || scripts.start_something();
    let groups = ["dependencies", "devDependencies"].map(|group| package.get(group));
    for (dependency, service_type, usual) in PACKAGES {
        let is_web = is_web(service_type);
        // One server of its own is enough, for a front end may well depend on express; unless a script starts another.
        let is_behind = back.is_some() && service_type == "api" && found.knows("dev");
        let is_known =
            if is_web && !is_behind { found.knows_web() } else { found.knows(service_type) };
        let is_dependency = groups.iter().any(|group| group.has(dependency));
        let is_tool_only = !is_web && !scripts.is_empty()
            || scripts.only_build(dependency.trim_end_matches("-dev-server"));
        if is_dependency && !is_known && !is_tool_only && (starts_something || is_behind) {
            let place =
                folder.at_line("package.json", scripts.manifest, &[&format!("\"{dependency}\"")]);
            let clue = Clue::new(service_type, place, format!("depends on {dependency}"));
            let behind = back.clone().filter(|_| is_behind);
            let command = behind.or_else(|| scripts.own_command().filter(|_| is_web));
            found.add(clue.usually(Some(usual).filter(|usual| *usual > 0)).by(command));
        }
    }
}

/// Whether a command line starts something by a runtime.
fn is_by_runtime(line: &str) -> bool {
    command::programs(line).iter().any(|program| RUNTIMES.contains(&program.as_str()))
}

/// The name of the package in a folder, and the folder.
fn named(folder: &Folder<'_>) -> (String, PathBuf) {
    let (_, package) = folder.parsed("package.json", Tree::json).unwrap_or_default();
    (package.get("name").text().unwrap_or_default().to_owned(), folder.place().to_owned())
}

/// Whether the package depends on a version of Vite that has another usual port than those of today: before the third.
pub(super) fn has_old_vite(package: &Tree) -> bool {
    let groups = ["dependencies", "devDependencies"].map(|group| package.get(group));
    let range = groups.iter().find_map(|group| group.get("vite").text()).unwrap_or_default();
    let range = range.trim_start_matches(['^', '~', '=', 'v', ' ']);
    matches!(range.split(['.', ' ']).next(), Some("1" | "2"))
}

/// Whether the package is documentation, built with a tool that may also build something else.
pub(super) fn is_documentation(package: &Tree) -> bool {
    let groups = ["dependencies", "devDependencies"].map(|group| package.get(group));
    DOCUMENTATION.iter().any(|name| groups.iter().any(|group| group.has(name)))
}

/// The members of the workspace whose root this is; `None` if it is not a root.
pub(super) fn members<'a>(folder: &Folder<'a>, package: &Tree) -> Option<Vec<Folder<'a>>> {
    let pnpm = folder.parsed("pnpm-workspace.yaml", Tree::yaml);
    let patterns = match package.get("workspaces") {
        list @ Tree::List(_) => list,
        object @ Tree::Map(_) => object.get("packages"),
        _ => pnpm.as_ref()?.1.get("packages"),
    };
    Some(folder.members(&patterns.texts().collect::<Vec<_>>(), "package.json"))
}
