//! Programs that do not read `PORT`, and what makes them listen on the port that they are given: `config/programs.json`.
//!
//! A program is known by the command line, also behind what starts it (`npx`, `uv run`, `python -m`) and in a script of
//! `package.json` that is one simple command. What the user has said of the port is left alone.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    path::Path,
    sync::LazyLock,
};

use serde::Deserialize;
use serde_json::Value as Json;

use crate::project;

/// The programs, by their names for people.
static PROGRAMS: LazyLock<BTreeMap<String, Program>> = LazyLock::new(|| {
    serde_json::from_str(include_str!("../../config/programs.json")).expect("a test reads it")
});

/// What is known of a program.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Program {
    /// What its file, or its module of Python, is called.
    commands: Vec<String>,
    /// It listens only if one of these words is among its arguments.
    #[serde(default)]
    only: Vec<String>,
    /// It does not listen if one of these is.
    #[serde(default)]
    except: Vec<String>,
    /// It listens only if this word is there, and nothing follows but options: a port is what would follow.
    last: Option<String>,
    /// Options by which the user names the port, or the address.
    #[serde(default)]
    given: Vec<String>,
    /// What is added to its arguments; `{port}` stands for the port.
    #[serde(default)]
    arguments: Vec<String>,
    /// The word after which that is added, instead of at the end.
    after: Option<String>,
    /// Variables that it reads.
    #[serde(default)]
    variables: BTreeMap<String, String>,
}

/// What is added to a command line.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Help {
    /// The program that it is for.
    program: String,
    arguments: Vec<String>,
    /// Where, among the words of the command.
    at: usize,
    /// The variables that are set.
    pub(super) variables: Vec<(String, String)>,
}

/// What a command needs to listen on this port, if it is known to need something. `folder` is where it runs; `is_set` says
/// whether the environment has a variable.
pub(super) fn help(
    command: &[OsString],
    port: &str,
    folder: &Path,
    is_set: impl Fn(&str) -> bool,
) -> Option<Help> {
    let words: Vec<&str> = command.iter().map(|word| word.to_str()).collect::<Option<_>>()?;
    // Who writes the port himself needs no help.
    if words.iter().any(|word| word.contains("{port")) {
        return None;
    }
    let script = script(&words, folder);
    let line = match &script {
        Some(script) => [simple(&script.text)?, script.more.clone()].concat(),
        None => words.clone(),
    };
    let skipped = launched(&line)?;
    let (name, arguments) = line[skipped..].split_first()?;
    let (program, known) =
        PROGRAMS.iter().find(|(_, known)| known.fits(program_name(name), arguments))?;
    let is_set_before = |variable: &str| {
        let is_it = |word: &&str| word.split_once('=').is_some_and(|(name, _)| name == variable);
        line[..skipped].iter().any(is_it)
    };
    let is_given = |variable: &String| is_set(variable) || is_set_before(variable);
    if known.is_given(arguments) || known.variables.keys().any(is_given) {
        return None;
    }
    let fill = |text: &String| text.replace("{port}", port);
    let mut added: Vec<String> = known.arguments.iter().map(fill).collect();
    let place = |word: &str| arguments.iter().position(|argument| *argument == word);
    // What follows `--` is no option.
    let inside = match &known.after {
        Some(word) => Some(place(word)? + 1),
        None => place("--"),
    };
    // Into a script nothing can be put.
    if script.is_some() && inside.is_some() && !added.is_empty() {
        return None;
    }
    let at = inside.map_or(command.len(), |place| skipped + 1 + place);
    let needs_dashes = script.is_some_and(|script| script.needs_dashes && !words.contains(&"--"));
    if needs_dashes && !added.is_empty() {
        added.insert(0, "--".to_owned());
    }
    let variables = known.variables.iter().map(|(name, value)| (name.clone(), fill(value)));
    Some(Help { program: program.clone(), arguments: added, at, variables: variables.collect() })
}

impl Program {
    /// Whether it is the program of that name with these arguments, and will listen.
    fn fits(&self, name: &str, arguments: &[&str]) -> bool {
        let has = |words: &[String]| words.iter().any(|word| arguments.contains(&word.as_str()));
        let is_option = |argument: &&str| argument.starts_with('-');
        let is_last = |word: &String| {
            let place = arguments.iter().position(|argument| argument == word);
            let after = place.map_or(arguments, |place| &arguments[place + 1..]);
            (place.is_some() || name == word) && after.iter().all(is_option)
        };
        self.commands.iter().any(|command| command == name)
            && (self.only.is_empty() || has(&self.only))
            && !has(&self.except)
            && self.last.as_ref().is_none_or(is_last)
            && !["--help", "-h", "--version"].iter().any(|word| arguments.contains(word))
    }

    fn is_given(&self, arguments: &[&str]) -> bool {
        let is_it = |argument: &&str| {
            self.given.iter().any(|option| {
                let rest = argument.strip_prefix(option.as_str());
                // -p3000, --port=3000
                rest.is_some_and(|rest| {
                    rest.is_empty() || rest.starts_with('=') || !option.starts_with("--")
                })
            })
        };
        arguments.iter().any(is_it)
    }
}

impl Help {
    /// The command with what is added.
    pub(super) fn apply(&self, command: &[OsString]) -> Vec<OsString> {
        let (before, after) = command.split_at(self.at);
        let added = self.arguments.iter().map(OsString::from);
        before.iter().cloned().chain(added).chain(after.iter().cloned()).collect()
    }

    /// What is added, and why.
    pub(super) fn sentence(&self) -> String {
        let variables = self.variables.iter().map(|(name, value)| format!("{name}={value}"));
        let arguments = self.arguments.iter().filter(|argument| *argument != "--").cloned();
        let added: Vec<_> = variables.chain(arguments).collect();
        format!(
            "{} does not read PORT, so {} is added (not with --plain)",
            self.program,
            added.join(" ")
        )
    }
}

fn file_name(word: &str) -> &str {
    Path::new(word).file_name().and_then(OsStr::to_str).unwrap_or(word)
}

/// The name of a program, also of one that Node.js runs.
fn program_name(word: &str) -> &str {
    let name = file_name(word);
    let ends = [".js", ".mjs", ".cjs"];
    ends.iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name)
}

/// How many words come before the program's own name: those of what only starts it.
fn launched(words: &[&str]) -> Option<usize> {
    let mut at = 0;
    // One starts another, but not without end.
    for _ in 0..8 {
        if words.get(at)?.contains('=') {
            at += 1;
            continue;
        }
        let name = file_name(words[at]);
        let rest = &words[at + 1..];
        let options = |takes: fn(&str) -> bool| rest.iter().take_while(|word| takes(word)).count();
        let no_option = |word: &str| word.starts_with('-');
        at += match (name, rest.first().copied()) {
            ("npx" | "bunx" | "cross-env" | "env" | "time" | "nice", _) => {
                1 + options(|word| word.starts_with('-') || word.contains('='))
            }
            ("pnpm" | "yarn" | "npm", Some("exec" | "dlx"))
            | ("bun", Some("x"))
            | ("uv" | "poetry" | "pipenv" | "pdm" | "hatch" | "rye", Some("run"))
            | ("bundle", Some("exec")) => {
                2 + rest[1..].iter().take_while(|word| no_option(word)).count()
            }
            ("php", Some(script)) if file_name(script) == "artisan" => 1,
            (name, Some("-m")) if is_python(name) => 2,
            (name, Some(script)) if is_python(name) && is_script(script) => 1,
            ("node", Some(script)) if script.contains("node_modules/") => 1,
            _ => return Some(at),
        };
    }
    Some(at)
}

fn is_script(word: &str) -> bool {
    Path::new(word).extension().is_some_and(|extension| extension == "py")
}

fn is_python(name: &str) -> bool {
    let version = name.strip_prefix("python").or_else(|| name.strip_prefix("pypy"));
    version.is_some_and(|version| version.chars().all(|c| c.is_ascii_digit() || c == '.'))
}

/// A script of `package.json` that a command runs.
struct Script<'a> {
    text: String,
    /// What it gets beside its own arguments.
    more: Vec<&'a str>,
    /// Whether `--` comes before these.
    needs_dashes: bool,
}

fn script<'a>(words: &[&'a str], folder: &Path) -> Option<Script<'a>> {
    let (manager, rest) = words.split_first()?;
    let manager = file_name(manager);
    let (name, rest) = match (manager, rest) {
        ("npm" | "pnpm" | "yarn" | "bun", ["run" | "run-script", name, rest @ ..])
        | ("npm", [name @ "start", rest @ ..])
        | ("pnpm" | "yarn", [name, rest @ ..]) => (*name, rest),
        _ => return None,
    };
    // An option of npm's own may mean the script of another package.
    let own = rest.iter().take_while(|word| **word != "--");
    if manager == "npm" && own.into_iter().any(|word| word.starts_with('-')) {
        return None;
    }
    let text = project::read(folder, "package.json")?;
    let manifest: Json = serde_json::from_str(&text).ok()?;
    let text = manifest["scripts"][name].as_str()?.to_owned();
    // Of several the first is npm's.
    let dashes = rest.iter().position(|word| *word == "--").filter(|_| manager == "npm");
    let more = rest.iter().enumerate().filter(|(place, _)| Some(*place) != dashes);
    let more = more.map(|(_, word)| *word).collect();
    Some(Script { text, more, needs_dashes: manager == "npm" })
}

/// The words of a script that is one simple command.
fn simple(script: &str) -> Option<Vec<&str>> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || " \t_-./=:@,+%".contains(c);
    let words: Vec<_> = script.split_ascii_whitespace().collect();
    (script.chars().all(is_plain) && !words.is_empty()).then_some(words)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn helped(line: &str, folder: &Path) -> Option<(String, Vec<(String, String)>)> {
        let command: Vec<_> = line.split(' ').map(OsString::from).collect();
        let help = help(&command, "3000", folder, |variable| variable == "UVICORN_PORT")?;
        let words = help.apply(&command);
        let words: Vec<_> = words.iter().map(|word| word.to_str().unwrap()).collect();
        Some((words.join(" "), help.variables))
    }

    /// What a command line becomes.
    fn line(line: &str) -> String {
        helped(line, Path::new("/nonexistent")).map_or(line.to_owned(), |(line, _)| line)
    }

    #[test]
    fn a_program_that_does_not_read_its_port_is_told_it() {
        for (before, after) in [
            ("vite", "vite --port 3000 --strictPort"),
            ("npx vite dev", "npx vite dev --port 3000 --strictPort"),
            ("npx --yes vite", "npx --yes vite --port 3000 --strictPort"),
            ("./node_modules/.bin/vite", "./node_modules/.bin/vite --port 3000 --strictPort"),
            ("pnpm exec astro dev", "pnpm exec astro dev --port 3000"),
            (
                "node node_modules/vite/bin/vite.js",
                "node node_modules/vite/bin/vite.js --port 3000 --strictPort",
            ),
            ("bunx --bun vite", "bunx --bun vite --port 3000 --strictPort"),
            ("webpack serve --mode development", "webpack serve --mode development --port 3000"),
            ("ng serve", "ng serve --port 3000"),
            ("vite -- x", "vite --port 3000 --strictPort -- x"),
            ("python3 manage.py runserver", "python3 manage.py runserver 3000"),
            ("./manage.py runserver --noreload", "./manage.py runserver --noreload 3000"),
            ("uv run python -m http.server", "uv run python -m http.server 3000"),
            ("python3.12 -m mkdocs serve", "python3.12 -m mkdocs serve --dev-addr 127.0.0.1:3000"),
            ("poetry run fastapi dev main.py", "poetry run fastapi dev main.py --port 3000"),
            ("bundle exec jekyll serve", "bundle exec jekyll serve --port 3000"),
            ("php artisan serve", "php artisan serve --port=3000"),
            ("deno serve main.ts", "deno serve --port 3000 main.ts"),
            ("redis-server", "redis-server --port 3000"),
            (
                "env NODE_ENV=production vite preview",
                "env NODE_ENV=production vite preview --port 3000 --strictPort",
            ),
        ] {
            assert_eq!(line(before), after);
        }
        let flask = helped("flask --app shop run", Path::new("/")).unwrap();
        assert_eq!(flask.0, "flask --app shop run");
        assert_eq!(flask.1, [("FLASK_RUN_PORT".to_owned(), "3000".to_owned())]);
    }

    #[test]
    fn what_the_user_says_of_the_port_and_what_is_not_known_is_left_alone() {
        for same in [
            "vite --port 4000",
            "vite --port=4000",
            "vite --port {port}",
            "vite build",
            "vite --help",
            "mkdocs build",
            "mkdocs serve -a localhost:8000",
            "storybook dev -p4000",
            "python3 manage.py runserver 8000",
            "python3 manage.py migrate",
            "python -m http.server 8000",
            "flask --app shop run -p 5000",
            "env FLASK_RUN_PORT=5000 flask run",
            "uvicorn app:app",
            "npm run dev",
            "node server.js",
            "node",
            "npx",
            "sh -c vite",
        ] {
            assert_eq!(helped(same, Path::new("/nonexistent")), None, "{same}");
        }
    }

    #[test]
    fn a_script_that_is_one_command_is_read_and_gets_what_it_needs_by_its_manager() {
        let folder = tempfile::tempdir().unwrap();
        let scripts = r#"{"scripts": {"dev": "vite", "start": "NODE_ENV=production vite preview",
            "both": "vite & node api.js", "own": "vite --port 4000", "api": "node api.js",
            "set": "FLASK_RUN_PORT=1 flask run", "deno": "deno serve main.ts"}}"#;
        fs::write(folder.path().join("package.json"), scripts).unwrap();
        let line = |line: &str| helped(line, folder.path()).map(|(line, _)| line);
        for (before, after) in [
            ("npm run dev", "npm run dev -- --port 3000 --strictPort"),
            ("npm start", "npm start -- --port 3000 --strictPort"),
            ("npm run dev -- --host", "npm run dev -- --host --port 3000 --strictPort"),
            ("pnpm dev", "pnpm dev --port 3000 --strictPort"),
            ("yarn run dev", "yarn run dev --port 3000 --strictPort"),
            ("bun run dev", "bun run dev --port 3000 --strictPort"),
        ] {
            assert_eq!(line(before).as_deref(), Some(after));
        }
        for same in [
            "npm run both",
            "npm run own",
            "npm run api",
            "npm run none",
            "npm run set",
            "npm run deno",
            "npm run dev -- --port 5000",
            "npm run dev -w apps/b",
            "npm run dev --prefix=apps/b",
            "npm run dev -- -- x",
            "npm install",
        ] {
            assert_eq!(line(same), None, "{same}");
        }
    }

    #[test]
    fn every_program_of_the_table_is_told_its_port_once_and_stands_in_the_documentation() {
        let page = fs::read_to_string("docs/programs.md").unwrap();
        for (name, program) in &*PROGRAMS {
            assert!(page.contains(&format!("\n| {name} | ")), "{name}");
            let words = program.arguments.iter().chain(program.variables.values());
            assert_eq!(words.filter(|word| word.contains("{port}")).count(), 1, "{name}");
            assert!(!program.commands.is_empty(), "{name}");
        }
    }
}
