//! Command lines of scripts and Procfiles: which server they start, and on which port.

use super::text::{self, Env};
use crate::port::Port;

/// A server that a command line starts.
#[derive(Debug, PartialEq)]
pub(super) struct Server {
    pub(super) service_type: &'static str,
    /// The program.
    pub(super) tool: &'static str,
    pub(super) port: Option<Port>,
}

/// When a program is a server.
enum When {
    Always,
    /// With one of these words.
    With(&'static [&'static str]),
    /// Without any of these.
    Without(&'static [&'static str]),
    /// If a port is given.
    OnPort,
}
use When::{Always, OnPort, With, Without};

const TOOLS: [(&str, When, &str); 77] = [
    ("vite", Without(&["build", "optimize"]), "dev"),
    ("next", With(&["dev", "start"]), "dev"),
    ("nuxt", With(&["dev", "start", "preview"]), "dev"),
    ("nuxi", With(&["dev", "start", "preview"]), "dev"),
    ("astro", With(&["dev", "start", "preview"]), "dev"),
    ("webpack-dev-server", Always, "dev"),
    ("webpack", With(&["serve"]), "dev"),
    ("rspack", With(&["serve", "dev"]), "dev"),
    ("rsbuild", With(&["dev", "preview"]), "dev"),
    ("react-scripts", With(&["start"]), "dev"),
    ("craco", With(&["start"]), "dev"),
    ("remix", With(&["dev", "vite:dev"]), "dev"),
    ("remix-serve", Always, "dev"),
    ("react-router", With(&["dev"]), "dev"),
    ("react-router-serve", Always, "dev"),
    ("vue-cli-service", With(&["serve"]), "dev"),
    ("ng", With(&["serve"]), "dev"),
    ("ember", With(&["serve"]), "dev"),
    ("gatsby", With(&["develop", "serve"]), "dev"),
    ("parcel", Without(&["build", "watch"]), "dev"),
    ("vinxi", With(&["dev", "start"]), "dev"),
    ("quasar", With(&["dev"]), "dev"),
    ("expo", With(&["start"]), "dev"),
    ("eleventy", With(&["--serve"]), "dev"),
    ("netlify", With(&["dev"]), "dev"),
    ("http-server", Always, "dev"),
    ("live-server", Always, "dev"),
    ("browser-sync", With(&["start"]), "dev"),
    ("serve", Always, "dev"),
    ("hugo", With(&["server", "serve"]), "dev"),
    ("trunk", With(&["serve"]), "dev"),
    ("rails", With(&["server", "s"]), "dev"),
    ("puma", Always, "dev"),
    ("artisan", With(&["serve"]), "dev"),
    ("http.server", Always, "dev"),
    ("nest", With(&["start"]), "api"),
    ("fastify", With(&["start"]), "api"),
    ("json-server", Always, "api"),
    ("strapi", With(&["develop", "start"]), "api"),
    ("uvicorn", Always, "api"),
    ("gunicorn", Always, "api"),
    ("hypercorn", Always, "api"),
    ("granian", Always, "api"),
    ("daphne", Always, "api"),
    ("waitress-serve", Always, "api"),
    ("flask", With(&["run"]), "api"),
    ("fastapi", With(&["dev", "run"]), "api"),
    ("manage.py", With(&["runserver"]), "api"),
    ("rackup", Always, "api"),
    ("storybook", Without(&["build", "init", "upgrade", "add"]), "storybook"),
    ("start-storybook", Always, "storybook"),
    ("vitest", With(&["--ui"]), "test"),
    ("playwright", With(&["test", "show-report"]), "test"),
    ("cypress", With(&["open", "run"]), "test"),
    ("docusaurus", With(&["start", "serve"]), "docs"),
    ("vitepress", With(&["dev", "serve", "preview"]), "docs"),
    ("vuepress", With(&["dev"]), "docs"),
    ("mkdocs", With(&["serve"]), "docs"),
    ("ladle", With(&["serve"]), "ui"),
    ("histoire", With(&["dev"]), "ui"),
    ("streamlit", With(&["run"]), "ui"),
    ("wrangler", With(&["dev"]), "functions"),
    ("func", With(&["start"]), "functions"),
    ("firebase", With(&["emulators:start", "emulators:exec", "serve"]), "hub"),
    ("postgres", Always, "database"),
    ("mongod", Always, "database"),
    ("redis-server", Always, "infrastructure"),
    ("memcached", Always, "infrastructure"),
    ("minio", With(&["server"]), "infrastructure"),
    ("ollama", With(&["serve"]), "ai"),
    ("caddy", With(&["run", "start"]), "proxy"),
    ("node", OnPort, "api"),
    ("nodemon", OnPort, "api"),
    ("tsx", OnPort, "api"),
    ("ts-node", OnPort, "api"),
    ("ts-node-dev", OnPort, "api"),
    ("php", OnPort, "dev"),
];

/// Programs that start a program named later on their command line. With other programs, only the program
/// itself counts: `rimraf vite` does not start vite.
const WRAPPERS: [&str; 38] = [
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
    "heroku",
    "infisical",
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

/// Those of them that also start scripts, and their subcommands that no program follows.
const MANAGERS: [&str; 5] = ["bun", "deno", "npm", "pnpm", "yarn"];
const NO_PROGRAM: [&str; 10] =
    ["add", "build", "ci", "create", "i", "install", "remove", "rm", "run", "upgrade"];

/// The rest of a longer command line is ignored, and quotes that are nested deeper are not parsed.
const LONGEST: usize = 4096;
const DEEPEST: u8 = 4;

#[cfg(test)]
pub(super) fn service_types() -> impl Iterator<Item = &'static str> {
    TOOLS.iter().map(|(.., service_type)| *service_type)
}

/// The servers that the command line starts, in order.
pub(super) fn servers(line: &str, env: &Env) -> Vec<Server> {
    let line: String = line.chars().take(LONGEST).collect();
    let mut commands = Vec::new();
    split(&line, DEEPEST, &mut commands);
    commands.iter().filter_map(|words| server(words, env)).collect()
}

/// Adds the words of each command of the line. A quoted string with a space in it is a command of its own if it
/// follows a program that starts others.
fn split(line: &str, deep: u8, commands: &mut Vec<Vec<String>>) {
    let mut words: Vec<String> = Vec::new();
    let mut word = String::new();
    let mut inner = Vec::new();
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            ' ' | '\t' | '\n' | '\r' => words.push(std::mem::take(&mut word)),
            ';' | '&' | '|' | '(' | ')' => {
                words.push(std::mem::take(&mut word));
                commands.push(std::mem::take(&mut words));
            }
            '"' | '\'' => {
                let quoted: String = chars.by_ref().take_while(|end| *end != c).collect();
                let is_wrapped = words.iter().any(|word| WRAPPERS.contains(&program(word)));
                let starts_many = words.iter().any(|word| word == "concurrently");
                let is_command = is_wrapped && (starts_many || quoted.contains(' '));
                if is_command && word.is_empty() && deep > 0 {
                    split(&quoted, deep - 1, &mut inner);
                } else {
                    word.push_str(&quoted);
                }
            }
            _ => word.push(c),
        }
    }
    words.push(word);
    commands.push(words);
    commands.append(&mut inner);
}

fn server(words: &[String], env: &Env) -> Option<Server> {
    let words: Vec<&str> = words.iter().map(String::as_str).filter(|w| !w.is_empty()).collect();
    let start = words.iter().position(|word| !is_assignment(word))?;
    let first = program(words[start]);
    let is_wrapper = WRAPPERS.contains(&first);
    let last = if is_wrapper { words.len() } else { start + 1 };
    let port = || port(&words, env);
    let mut on_port = None;
    for at in start..last {
        let word = program(words[at]);
        if MANAGERS.contains(&first) && NO_PROGRAM.contains(&word) {
            break;
        }
        let Some((tool, when, service_type)) = TOOLS.iter().find(|(tool, ..)| *tool == word) else {
            continue;
        };
        let rest = &words[at + 1..];
        let starts = match when {
            Always => true,
            With(needed) => rest.iter().any(|word| needed.contains(word)),
            Without(refused) => !rest.iter().any(|word| refused.contains(word)),
            OnPort => {
                on_port = on_port.or(Some((tool, service_type)));
                continue;
            }
        };
        let port = port().or_else(|| address(tool, rest, env));
        return starts.then_some(Server { service_type, tool, port });
    }
    let (tool, service_type) = on_port?;
    Some(Server { service_type, tool, port: Some(port()?) })
}

fn is_assignment(word: &str) -> bool {
    word.split_once('=').is_some_and(|(name, _)| {
        !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    })
}

/// The name of the program, without its folder and the extension that is for its interpreter.
fn program(word: &str) -> &str {
    let name = word.rsplit('/').next().unwrap_or(word);
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
