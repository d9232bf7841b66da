//! Command lines of scripts and Procfiles: which server they start, and on which port.

use std::path::{Path, PathBuf};

use super::{
    ORDER,
    tasks::inner,
    text::{self, Env},
};
use crate::port::Port;

/// A server that a command line starts.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Server {
    pub(super) service_type: &'static str,
    /// The program.
    pub(super) tool: &'static str,
    pub(super) port: Option<Port>,
    /// The port that the program takes if it is told none.
    pub(super) usual: Option<u16>,
    /// The name that the command line gives it: `styxy run dev --name web -- vite`.
    pub(super) name: Option<String>,
    /// The configuration file that the command line names.
    pub(super) config: Option<String>,
}

/// A command, and the folder that its line goes to first; empty for the one that the line is for.
#[derive(Default)]
struct Command {
    folder: PathBuf,
    words: Vec<String>,
}

/// What a command line starts in another package: what it names of the package, and the server or at least its port.
pub(super) struct Elsewhere {
    /// Its name, or its folder from this one.
    pub(super) package: String,
    pub(super) server: Option<Server>,
    pub(super) port: Option<Port>,
}

/// When a program is a server.
enum When {
    Always,
    /// With one of these words.
    With(&'static [&'static str]),
    /// With all of these words.
    All(&'static [&'static str]),
    /// Without any of these.
    Without(&'static [&'static str]),
    /// If a port is given, or the program that it runs is called `server`.
    OnPort,
}
use When::{All, Always, OnPort, With, Without};

/// The programs, when they serve, their service types, and the ports that they take if told none; 0 for unknown.
const TOOLS: [(&str, When, &str, u16); 106] = [
    ("vite", Without(&["build", "optimize"]), "dev", 5173),
    (
        "next",
        Without(&["build", "export", "info", "lint", "telemetry", "typegen", "upgrade"]),
        "dev",
        3000,
    ),
    ("nuxt", Without(&["build", "generate", "analyze", "prepare", "typecheck"]), "dev", 3000),
    ("nuxi", With(&["dev", "start", "preview"]), "dev", 3000),
    ("astro", With(&["dev", "start", "preview"]), "dev", 4321),
    ("webpack-dev-server", Always, "dev", 8080),
    ("shakapacker-dev-server", Always, "dev", 3035),
    ("webpack", With(&["serve"]), "dev", 8080),
    ("rspack", With(&["serve", "dev"]), "dev", 8080),
    ("rsbuild", With(&["dev", "preview"]), "dev", 3000),
    ("react-scripts", With(&["start"]), "dev", 3000),
    ("react-scripts-ts", With(&["start"]), "dev", 3000),
    ("craco", With(&["start"]), "dev", 3000),
    ("remix", With(&["dev", "vite:dev"]), "dev", 3000),
    ("remix-serve", Always, "dev", 3000),
    ("react-router", With(&["dev"]), "dev", 5173),
    ("react-router-serve", Always, "dev", 3000),
    ("vue-cli-service", With(&["serve"]), "dev", 8080),
    ("ng", With(&["serve"]), "dev", 4200),
    ("ember", With(&["serve", "server", "s"]), "dev", 4200),
    ("gatsby", With(&["develop", "serve"]), "dev", 8000),
    ("parcel", Without(&["build", "watch"]), "dev", 1234),
    ("vinxi", With(&["dev", "start"]), "dev", 3000),
    ("quasar", With(&["dev"]), "dev", 9000),
    ("expo", With(&["start"]), "dev", 8081),
    ("eleventy", With(&["--serve"]), "dev", 8080),
    ("netlify", With(&["dev"]), "dev", 8888),
    ("http-server", Always, "dev", 8080),
    ("live-server", Always, "dev", 8080),
    ("browser-sync", With(&["start"]), "dev", 3000),
    ("serve", Always, "dev", 3000),
    ("sirv", Always, "dev", 8080),
    ("hugo", With(&["server", "serve"]), "dev", 1313),
    ("trunk", With(&["serve"]), "dev", 8080),
    ("rails", With(&["server", "s"]), "dev", 3000),
    ("puma", Always, "dev", 9292),
    ("artisan", With(&["serve"]), "dev", 8000),
    ("http.server", Always, "dev", 8000),
    ("nest", With(&["start"]), "api", 3000),
    ("fastify", With(&["start"]), "api", 3000),
    ("json-server", Always, "api", 3000),
    ("strapi", With(&["develop", "start"]), "api", 1337),
    ("uvicorn", Always, "api", 8000),
    ("gunicorn", Always, "api", 8000),
    ("hypercorn", Always, "api", 8000),
    ("granian", Always, "api", 8000),
    ("daphne", Always, "api", 8000),
    ("waitress-serve", Always, "api", 8080),
    ("flask", With(&["run"]), "api", 5000),
    ("fastapi", With(&["dev", "run"]), "api", 8000),
    ("manage.py", With(&["runserver"]), "api", 8000),
    ("rackup", Always, "api", 9292),
    ("storybook", Without(&["build", "init", "upgrade", "add"]), "storybook", 6006),
    ("start-storybook", Always, "storybook", 6006),
    ("vitest", With(&["--ui"]), "test", 51204),
    ("playwright", With(&["--ui", "show-report"]), "test", 9323),
    ("docusaurus", With(&["start", "serve"]), "docs", 3000),
    ("vitepress", With(&["dev", "serve", "preview"]), "docs", 5173),
    ("vuepress", With(&["dev"]), "docs", 8080),
    ("mkdocs", With(&["serve"]), "docs", 8000),
    ("mintlify", With(&["dev"]), "docs", 3000),
    ("mint", With(&["dev"]), "docs", 3000),
    ("ladle", With(&["serve"]), "ui", 61000),
    ("histoire", With(&["dev"]), "ui", 6006),
    ("streamlit", With(&["run"]), "ui", 8501),
    ("wrangler", With(&["dev"]), "functions", 8787),
    ("func", With(&["start"]), "functions", 7071),
    ("firebase", With(&["emulators:start", "emulators:exec"]), "hub", 4400),
    ("firebase", All(&["serve", "functions"]), "functions", 5000),
    ("firebase", With(&["serve"]), "dev", 5000),
    ("postgres", Always, "database", 5432),
    ("mongod", Always, "database", 27017),
    ("redis-server", Always, "infrastructure", 6379),
    ("memcached", Always, "infrastructure", 11211),
    ("minio", With(&["server"]), "infrastructure", 9000),
    ("ollama", With(&["serve"]), "ai", 11434),
    ("caddy", With(&["run", "start"]), "proxy", 0),
    ("jekyll", With(&["serve", "server", "s"]), "dev", 4000),
    ("zola", With(&["serve"]), "dev", 1111),
    ("mdbook", With(&["serve"]), "docs", 3000),
    ("sphinx-autobuild", Always, "docs", 8000),
    ("jupyter", With(&["lab", "notebook", "server"]), "ui", 8888),
    ("gradio", Always, "ui", 7860),
    ("chainlit", With(&["run"]), "ui", 8000),
    ("phx.server", Always, "dev", 4000),
    ("symfony", With(&["serve", "server:start"]), "dev", 8000),
    ("bootRun", Always, "api", 8080),
    ("spring-boot:run", Always, "api", 8080),
    ("quarkus:dev", Always, "api", 8080),
    ("quarkusDev", Always, "api", 8080),
    ("supabase", With(&["start"]), "api", 54321),
    ("prisma", With(&["studio"]), "ui", 5555),
    ("drizzle-kit", With(&["studio"]), "ui", 4983),
    ("serverless", With(&["offline"]), "functions", 3000),
    ("email", With(&["dev"]), "ui", 3000),
    ("medusa", With(&["develop", "start"]), "api", 9000),
    ("directus", With(&["start"]), "api", 8055),
    ("deno", With(&["serve"]), "api", 8000),
    ("air", OnPort, "api", 0),
    ("bun", OnPort, "api", 0),
    ("node", OnPort, "api", 0),
    ("nodemon", OnPort, "api", 0),
    ("tsx", OnPort, "api", 0),
    ("ts-node", OnPort, "api", 0),
    ("ts-node-dev", OnPort, "api", 0),
    ("php", OnPort, "dev", 0),
];

/// Programs that start a program named later on their command line. With other programs, only the program
/// itself counts: `rimraf vite` does not start vite.
const WRAPPERS: [&str; 43] = [
    "bash",
    "bun",
    "bundle",
    "bunx",
    "concurrently",
    "cross-env",
    "deno",
    "doppler",
    "dotenv",
    "dotenvx",
    "env",
    "env-cmd",
    "exec",
    "foreman",
    "gradle",
    "gradlew",
    "heroku",
    "infisical",
    "mix",
    "mvn",
    "mvnw",
    "nice",
    "node",
    "nodemon",
    "npm",
    "npx",
    "op",
    "pdm",
    "php",
    "pipenv",
    "pnpm",
    "pnpx",
    "poetry",
    "python",
    "python3",
    "ruby",
    "sh",
    "start-server-and-test",
    "time",
    "ts-node",
    "tsx",
    "uv",
    "yarn",
];

/// Those of them that only set the environment of the program behind them.
const ENVIRONMENTS: [&str; 7] =
    ["cross-env", "dotenv", "dotenvx", "env", "env-cmd", "exec", "time"];

/// Those of them that also start scripts, and their subcommands that no program follows.
const MANAGERS: [&str; 5] = ["bun", "deno", "npm", "pnpm", "yarn"];

/// Their words that the name or the folder of a package follows.
const NAMING: [&str; 10] = [
    "--scope",
    "-C",
    "-F",
    "-w",
    "--cwd",
    "--dir",
    "--filter",
    "--prefix",
    "--workspace",
    "workspace",
];
const NO_PROGRAM: [&str; 10] =
    ["add", "build", "ci", "create", "i", "install", "remove", "rm", "run", "upgrade"];

/// The endings of files that Bun runs.
const SOURCES: [&str; 8] = [".cjs", ".cts", ".js", ".jsx", ".mjs", ".mts", ".ts", ".tsx"];

/// The rest of a longer command line is ignored, and quotes that are nested deeper are not parsed.
const LONGEST: usize = 4096;
const DEEPEST: u8 = 4;

#[cfg(test)]
pub(super) fn service_types() -> impl Iterator<Item = &'static str> {
    TOOLS.iter().map(|(_, _, service_type, _)| *service_type)
}

/// The servers that the command line starts, in order.
pub(super) fn servers(line: &str, env: &Env) -> Vec<Server> {
    commands(line).iter().filter_map(|command| server(&command.words, env)).collect()
}

/// The same without those that it starts in other folders.
pub(super) fn servers_here(line: &str, env: &Env) -> Vec<Server> {
    let commands = commands(line);
    let here = commands.iter().filter(|command| command.is_here());
    here.filter_map(|command| server(&command.words, env)).collect()
}

/// What the command line starts in other packages, if it says what that is or on which port.
pub(super) fn elsewhere(line: &str, env: &Env) -> Vec<Elsewhere> {
    let started = commands(line).into_iter().filter_map(|Command { folder, words }| {
        let words: Vec<String> = words.into_iter().filter(|word| !word.is_empty()).collect();
        let plain: Vec<&str> = words.iter().map(String::as_str).collect();
        let in_folder = folder.to_str().filter(|folder| !folder.is_empty());
        let package = in_folder.or_else(|| named_package(&plain))?.to_owned();
        let server = in_folder.and_then(|_| server(&words, env));
        let port = server.as_ref().and_then(|server| server.port).or_else(|| port(&plain, env));
        (server.is_some() || port.is_some()).then_some(Elsewhere { package, server, port })
    });
    started.collect()
}

/// The package that a command line of a package manager is for: `pnpm --filter api dev`.
fn named_package<'w>(words: &[&'w str]) -> Option<&'w str> {
    let runs = |word: &&str| MANAGERS.contains(&program(word)) || ["lerna", "turbo"].contains(word);
    let at = words.iter().position(runs)?;
    let package = words.iter().enumerate().skip(at + 1).find_map(|(at, word)| {
        let next = || words.get(at + 1).copied();
        match word.split_once('=') {
            Some((option, package)) if NAMING.contains(&option) => Some(package),
            None if NAMING.contains(word) => next(),
            _ => None,
        }
    })?;
    // Of `./apps/web...` and `{apps/web}` the path counts.
    let package = package.trim_end_matches("...").trim_matches(['{', '}', '^']);
    let is_one = !package.is_empty() && !package.contains('*') && !package.starts_with(['-', '!']);
    is_one.then_some(package)
}

/// A script of the same package that a command line starts.
#[derive(Debug, PartialEq)]
pub(super) struct Call {
    /// Its name; `*` may stand for a part of it.
    pub(super) name: String,
    /// What is appended to its command line.
    pub(super) arguments: String,
}

/// The scripts that the command line starts.
pub(super) fn scripts(line: &str) -> Vec<Call> {
    let commands = commands(line);
    commands.iter().filter(|command| command.is_here()).flat_map(|c| called(&c.words)).collect()
}

/// The programs that the command line starts, without their folders.
pub(super) fn programs(line: &str) -> Vec<String> {
    commands(line).iter().filter_map(|command| first_program(&command.words)).collect()
}

/// The program of one command, behind what only sets its environment.
fn first_program(words: &[String]) -> Option<String> {
    let mut words = words.iter().map(String::as_str).filter(|word| !word.is_empty()).peekable();
    while let Some(word) = words.next() {
        if is_assignment(word) {
            continue;
        }
        let name = program(word);
        if !ENVIRONMENTS.contains(&name) {
            return Some(name.to_owned());
        }
        // Of its options, those that name a file have that behind them.
        while let Some(option) = words.next_if(|word| word.starts_with('-')) {
            if option == "--" {
                break;
            }
            words.next_if(|word| word.contains(".env"));
        }
    }
    None
}

/// The port that the command line names, whatever program it starts.
pub(super) fn port_of(line: &str, env: &Env) -> Option<Port> {
    let commands = commands(line);
    commands.iter().find_map(|command| {
        port(&command.words.iter().map(String::as_str).collect::<Vec<_>>(), env)
    })
}

fn commands(line: &str) -> Vec<Command> {
    let line: String = line.chars().take(LONGEST).collect();
    let mut commands = Vec::new();
    split(&line, Path::new(""), DEEPEST, &mut commands);
    commands
}

impl Command {
    fn is_here(&self) -> bool {
        self.folder.as_os_str().is_empty()
    }

    /// The folder in which the next command of the line runs.
    fn next(&self) -> PathBuf {
        let mut words = self.words.iter().filter(|word| !word.is_empty());
        let is_move = words.next().is_some_and(|word| word == "cd");
        let inner = words.next().filter(|_| is_move).and_then(|path| inner(path));
        inner.map_or_else(|| self.folder.clone(), |inner| self.folder.join(inner))
    }
}

/// The scripts that one command starts.
fn called(words: &[String]) -> Vec<Call> {
    let words = words.iter().map(String::as_str);
    let mut words = words.filter(|word| !word.is_empty()).skip_while(|word| {
        is_assignment(word) || matches!(program(word), "cross-env" | "env" | "exec" | "time")
    });
    let Some(first) = words.next().map(program) else { return Vec::new() };
    let rest: Vec<_> = words.collect();
    let plain = || rest.iter().copied().filter(|word| !word.starts_with('-'));
    let names: Vec<&str> = match first {
        "run-p" | "run-s" | "npm-run-all" | "npm-run-all2" => plain().collect(),
        "concurrently" => rest
            .iter()
            .filter_map(|word| {
                let (manager, name) = word.split_once(':')?;
                MANAGERS.contains(&manager).then_some(name)
            })
            .collect(),
        // The scripts of other packages are looked at there.
        manager if MANAGERS.contains(&manager) && !rest.iter().any(|word| is_elsewhere(word)) => {
            let mut plain = plain();
            let name = match plain.next() {
                Some("run" | "run-script" | "task") => plain.next(),
                Some("start") => Some("start"),
                Some(name) if manager != "npm" => Some(name),
                _ => None,
            };
            let call = name.map(|name| Call {
                name: name.to_owned(),
                arguments: arguments(manager, name, &rest),
            });
            return call.into_iter().collect();
        }
        _ => Vec::new(),
    };
    let call = |name: &str| Call { name: name.to_owned(), arguments: String::new() };
    names.into_iter().map(call).collect()
}

/// What a package manager appends to the command line of a script: npm what stands behind `--`, others all that stands
/// behind the name.
fn arguments(manager: &str, name: &str, rest: &[&str]) -> String {
    let behind = |mark: &str| {
        let at = rest.iter().position(|word| *word == mark)?;
        Some(rest[at + 1..].to_vec())
    };
    let all = behind("--").or_else(|| behind(name).filter(|_| manager != "npm"));
    all.unwrap_or_default().join(" ")
}

/// Whether an option of a package manager names other packages.
fn is_elsewhere(option: &str) -> bool {
    let option = option.split('=').next().unwrap_or(option);
    NAMING.contains(&option) || ["-ws", "--workspaces", "-r", "--recursive"].contains(&option)
}

/// The type and the name in `styxy run TYPE --name NAME -- COMMAND`.
fn leased(words: &[&str]) -> Option<(&'static str, Option<String>)> {
    let ["run" | "exec", service_type, rest @ ..] = words else { return None };
    let service_type = ORDER.iter().find(|known| *known == service_type)?;
    let options: Vec<_> = rest.iter().take_while(|word| **word != "--").collect();
    let name = options.iter().enumerate().find_map(|(at, word)| match word.split_once('=') {
        Some(("--name", name)) => Some(name),
        _ if **word == "--name" => options.get(at + 1).map(|name| **name),
        _ => None,
    });
    Some((service_type, name.and_then(text::name)))
}

/// Adds each command of the line, which is for this folder. A quoted string with a space in it is a command of its own if
/// it follows a program that starts others.
fn split(line: &str, start: &Path, deep: u8, commands: &mut Vec<Command>) {
    let mut words: Vec<String> = Vec::new();
    let mut word = String::new();
    let mut inner = Vec::new();
    let mut folder = start.to_owned();
    // The folders outside of the parentheses that are open.
    let mut outer = Vec::new();
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            ' ' | '\t' | '\n' | '\r' => words.push(std::mem::take(&mut word)),
            ';' | '&' | '|' | '(' | ')' => {
                words.push(std::mem::take(&mut word));
                let command = Command { folder: folder.clone(), words: std::mem::take(&mut words) };
                folder = command.next();
                commands.push(command);
                match c {
                    '&' if chars.next_if_eq(&'&').is_none() => start.clone_into(&mut folder),
                    '(' => outer.push(folder.clone()),
                    ')' => folder = outer.pop().unwrap_or_else(|| start.to_owned()),
                    _ => {}
                }
            }
            '"' | '\'' => {
                let quoted: String = chars.by_ref().take_while(|end| *end != c).collect();
                let is_wrapped = words.iter().any(|word| WRAPPERS.contains(&program(word)));
                let starts_many = words.iter().any(|word| word == "concurrently");
                let is_command = is_wrapped && (starts_many || quoted.contains(' '));
                if is_command && word.is_empty() && deep > 0 {
                    split(&quoted, &folder, deep - 1, &mut inner);
                } else {
                    word.push_str(&quoted);
                }
            }
            _ => word.push(c),
        }
    }
    words.push(word);
    commands.push(Command { folder, words });
    commands.append(&mut inner);
}

fn server(words: &[String], env: &Env) -> Option<Server> {
    let words: Vec<&str> = words.iter().map(String::as_str).filter(|w| !w.is_empty()).collect();
    let start = words.iter().position(|word| !is_assignment(word))?;
    let first = program(words[start]);
    if first == "styxy" {
        let (service_type, name) = leased(&words[start + 1..])?;
        let inner = words.iter().skip_while(|word| **word != "--").skip(1);
        let inner: Vec<String> = inner.map(|word| (*word).to_owned()).collect();
        let started = if inner.iter().any(|word| program(word) == "styxy") {
            None
        } else {
            server(&inner, env)
        };
        let (tool, usual) = started.map_or(("styxy", None), |server| (server.tool, server.usual));
        let port = port(&words, env);
        return Some(Server { service_type, tool, port, usual, name, config: None });
    }
    let is_wrapper = WRAPPERS.contains(&first);
    let last = if is_wrapper { words.len() } else { start + 1 };
    let port = || port(&words, env);
    let config = || option(&words, &["--config", "-c"]).map(str::to_owned);
    let mut on_port = None;
    for at in start..last {
        let word = program(words[at]);
        let is_of_deno = first == "deno" && word == "run";
        if MANAGERS.contains(&first) && NO_PROGRAM.contains(&word) && !is_of_deno {
            break;
        }
        let rest = &words[at + 1..];
        let mut rows = TOOLS.iter().filter(|(tool, ..)| *tool == word).peekable();
        match rows.peek() {
            None => continue,
            Some((tool, OnPort, service_type, _)) => {
                // Bun also starts scripts and tools.
                if *tool != "bun" || is_source_run(rest) {
                    on_port = on_port.or(Some((tool, service_type)));
                }
                continue;
            }
            Some(_) => {}
        }
        let Some((tool, _, service_type, usual)) = rows.find(|(_, when, ..)| when.is_met(rest))
        else {
            // deno run npm:vite
            if WRAPPERS.contains(&word) {
                continue;
            }
            return None;
        };
        let port = port().or_else(|| address(tool, rest, env));
        let usual = Some(*usual).filter(|usual| *usual > 0);
        return Some(Server { service_type, tool, port, usual, name: None, config: config() });
    }
    let (tool, service_type) = on_port?;
    let port = port();
    // node src/server.js
    let is_server = |word: &&str| word.rsplit('/').next().is_some_and(|w| w.starts_with("server."));
    if port.is_none() && !words.iter().any(is_server) {
        return None;
    }
    Some(Server { service_type, tool, port, usual: None, name: None, config: None })
}

impl When {
    /// Whether the program serves with these words behind it.
    fn is_met(&self, rest: &[&str]) -> bool {
        match self {
            Always => true,
            With(needed) => rest.iter().any(|word| needed.contains(word)),
            All(needed) => needed.iter().all(|word| rest.contains(word)),
            Without(refused) => !rest.iter().any(|word| refused.contains(word)),
            OnPort => false,
        }
    }
}

/// Whether these words behind `bun` have it run a file, not a script or its tests.
fn is_source_run(rest: &[&str]) -> bool {
    let is_other = |word: &str| word == "test" || word != "run" && NO_PROGRAM.contains(&word);
    let mut words = rest.iter().take_while(|word| !is_other(word));
    words.any(|word| SOURCES.iter().any(|ending| word.ends_with(ending)))
}

/// The value of one of these options.
fn option<'w>(words: &[&'w str], names: &[&str]) -> Option<&'w str> {
    words.iter().enumerate().find_map(|(at, word)| match word.split_once('=') {
        Some((name, value)) => names.contains(&name).then_some(value),
        None => words.get(at + 1).copied().filter(|_| names.contains(word)),
    })
}

fn is_assignment(word: &str) -> bool {
    word.split_once('=').is_some_and(|(name, _)| {
        !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    })
}

/// The name of the program, without its folder and the extension that is for its interpreter.
fn program(word: &str) -> &str {
    // deno run npm:vite, npx vite@6
    let word = word.strip_prefix("npm:").unwrap_or(word);
    let name = word.rsplit('/').next().unwrap_or(word);
    let name = name.split_once('@').map_or(name, |(name, _)| name);
    name.strip_suffix(".js").unwrap_or(name)
}

/// The port that the options of the command name, else its `PORT=`.
fn port(words: &[&str], env: &Env) -> Option<Port> {
    let number = |text: &str| text::port(&env.resolve(text));
    // The port after the host: `-b 0.0.0.0:8000`.
    let behind = |text: &str| text::port(env.resolve(text).rsplit(':').next()?);
    let option = words.iter().enumerate().find_map(|(at, word)| {
        let (name, value) = match word.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (*word, words.get(at + 1).copied()),
        };
        match name {
            "--port" | "-p" => number(value?),
            "--bind" | "-b" | "--listen" | "-l" | "--address" | "--dev-addr" | "-S" => {
                behind(value?)
            }
            // Of mkdocs; of others it has no port.
            "-a" => behind(value.filter(|value| value.contains(':'))?),
            _ => name.strip_prefix("-p").and_then(number),
        }
    });
    option.or_else(|| words.iter().find_map(|word| number(word.strip_prefix("PORT=")?)))
}

/// The port of programs that take it as a positional argument.
fn address(tool: &str, rest: &[&str], env: &Env) -> Option<Port> {
    matches!(tool, "manage.py" | "http.server")
        .then(|| rest.iter().find_map(|word| text::port(env.resolve(word).rsplit(':').next()?)))
        .flatten()
}
