//! The needs of a JavaScript project: `package.json` and the configuration of its tools.

use std::cell::Cell;

use super::{
    command::{self, Call, Server},
    folder::Folder,
    found::{Clue, Found},
    is_web, js,
    text::{self, Env, shown},
    tree::Tree,
};

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

/// How a `deno.json` imports Fresh.
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

#[cfg(test)]
pub(super) fn service_types() -> impl Iterator<Item = &'static str> {
    let configs = CONFIGS.iter().map(|(_, _, service_type, ..)| *service_type);
    PACKAGES.iter().map(|(_, service_type, _)| *service_type).chain(configs)
}

/// The scripts of a `package.json`.
pub(super) struct Scripts<'a> {
    folder: &'a Folder<'a>,
    manifest: &'a str,
    manager: &'static str,
    lines: Vec<(&'a str, &'a str)>,
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
        let lines = entries.filter_map(|(name, line)| Some((name.as_str(), line.text()?)));
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
        Self { folder, manifest, manager, lines: lines.collect(), steps }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Whether one of them may start the package's own server: by a runtime, which tells nothing of what it runs.
    pub(super) fn start_something(&self) -> bool {
        let own = self.lines.iter().filter(|(name, _)| OWN.contains(name));
        own.into_iter().any(|(_, line)| {
            command::programs(line).iter().any(|program| RUNTIMES.contains(&program.as_str()))
        })
    }

    /// Adds the servers that they start, except those of scripts that something else starts.
    pub(super) fn servers(&self, env: &Env, started_already: &[String], found: &mut Found) {
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
        for (script, _) in &self.lines {
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
    }

    /// The servers that one of them starts with these arguments, itself or by others.
    pub(super) fn servers_of(&self, script: &str, arguments: &str, env: &Env) -> Vec<Server> {
        self.started(script, arguments, env).into_iter().map(|started| started.server).collect()
    }

    fn add(&self, started: &Started, name: Option<String>, found: &mut Found) {
        let Started { server, script, by } = started;
        let place = self.folder.at_line(
            "package.json",
            self.manifest,
            &["\"scripts\"", &format!("\"{script}\"")],
        );
        let what = format!("the script {} runs {}", shown(script), server.tool);
        // Of a script that starts several, the one that starts only this.
        let run = if name.is_some() { Some(script) } else { by.first() };
        let run = run.map_or(script.as_str(), String::as_str);
        let clue = Clue::new(server.service_type, place, what)
            .named(server.name.clone().or(name))
            .on(server.port)
            .usually(server.usual)
            .by(self.command(run));
        found.add(clue);
    }

    /// The command line that runs a script.
    fn command(&self, script: &str) -> Option<String> {
        match script {
            "start" => Some(format!("{} start", self.manager)),
            script => text::plain(script).map(|script| format!("{} run {script}", self.manager)),
        }
    }

    /// What starts the package's own server, whatever that is.
    fn own_command(&self) -> Option<String> {
        let script = OWN.iter().find(|own| self.lines.iter().any(|(name, _)| name == *own))?;
        self.command(script)
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
        let Some((_, line)) = self.lines.iter().find(|(name, _)| *name == script) else { return };
        let line = format!("{line} {arguments}");
        if by.len() >= DEEPEST.into()
            || by.iter().any(|other| other == script)
            || started.len() > MOST
        {
            return;
        }
        by.push(script.to_owned());
        let servers = command::servers(&line, env);
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
    let is_built_only = !scripts.is_empty() && !scripts.start_something();
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
    let Some((file, content)) = folder.first(&["deno.json", "deno.jsonc"]) else { return };
    let tree = folder.parse(file, &content, Tree::jsonc);
    let tasks = tree.get("tasks");
    for name in OWN {
        let task = tasks.get(name);
        let line = task.text().or_else(|| task.get("command").text()).unwrap_or_default();
        let Some(server) = command::servers(line, env).into_iter().next() else { continue };
        let place = folder.at_line(file, &content, &["\"tasks\"", &format!("\"{name}\"")]);
        let clue =
            Clue::new(server.service_type, place, format!("the task {name} runs {}", server.tool));
        let clue = clue.named(server.name).on(server.port).usually(server.usual);
        return found.hint(clue.by(format!("deno task {name}")));
    }
    let fresh =
        tree.get("imports").entries().iter().find(|(name, _)| FRESH.contains(&name.as_str()));
    let task = ["dev", "start"].into_iter().find(|name| tasks.has(name));
    if let (Some((import, _)), Some(task)) = (fresh, task) {
        let place = folder.at_line(file, &content, &[&format!("\"{import}\"")]);
        let clue = Clue::new("dev", place, "Fresh").usually(8000);
        found.hint(clue.by(format!("deno task {task}")));
    }
}

/// The members of the workspace of a `deno.json`.
pub(super) fn deno_members<'a>(folder: &Folder<'a>) -> Vec<Folder<'a>> {
    let Some((file, content)) = folder.first(&["deno.json", "deno.jsonc"]) else {
        return Vec::new();
    };
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
    if !scripts.is_empty() && !scripts.start_something() {
        return;
    }
    let groups = ["dependencies", "devDependencies"].map(|group| package.get(group));
    for (dependency, service_type, usual) in PACKAGES {
        let is_web = is_web(service_type);
        // One server of its own is enough: a front end may well depend on express.
        let is_known = if is_web { found.knows_web() } else { found.knows(service_type) };
        let is_dependency = groups.iter().any(|group| group.has(dependency));
        let is_tool_only = !is_web && !scripts.is_empty();
        if is_dependency && !is_known && !is_tool_only {
            let place =
                folder.at_line("package.json", scripts.manifest, &[&format!("\"{dependency}\"")]);
            let clue = Clue::new(service_type, place, format!("depends on {dependency}"));
            let command = is_web.then(|| scripts.own_command()).flatten();
            found.add(clue.usually(Some(usual).filter(|usual| *usual > 0)).by(command));
        }
    }
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
