//! Programs that do not read `PORT`, and the arguments or variables that make them listen on their port:
//! `config/programs.json`, and `programs` in the configuration.
//!
//! A program is recognised by the command line, also behind a launcher (`npx`, `uv run`, `python -m`) and in
//! a script of `package.json` that is one simple command. If the user already gives the port, nothing is
//! added.

mod hints;
mod manifest;

use std::{
    env,
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
};

use serde_json::Value as Json;

pub(super) use self::hints::{Hint, hint, named};
use crate::{
    config::{self, Program, Programs},
    service_type::Hold,
    surroundings::user,
    value::Fields,
};

/// The known programs: the built-in ones, extended by the configuration files that this command sees.
pub(super) fn known() -> Programs {
    let (texts, _) = config::files::read(&user().config());
    config::programs(&texts)
}

/// The changes that make a command listen on its port.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Help {
    /// The program, by its name for people.
    program: String,
    /// The arguments to add; `{port}` stands for the port.
    arguments: Vec<String>,
    /// Their position among the words of the command.
    at: usize,
    /// The variables to set.
    pub(super) variables: Vec<(String, String)>,
    /// Whether its port is granted without a guard.
    pub(super) has_no_guard: bool,
}

/// Returns what a command needs to listen on its port, or `None` if it needs nothing or is not known.
/// `folder` is where it runs; `is_set` tests whether the environment has a variable.
pub(super) fn help(
    command: &[OsString],
    programs: &Programs,
    folder: &Path,
    is_set: impl Fn(&str) -> bool,
) -> Option<Help> {
    let words: Vec<&str> = command.iter().map(|word| word.to_str()).collect::<Option<_>>()?;
    let script = Script::of(&words, folder);
    let line = match &script {
        Some(script) => {
            let more = script.more.iter().map(String::as_str);
            simple(&script.text)?.into_iter().chain(more).collect()
        }
        None => words.clone(),
    };
    let found = recognised(&line, programs)?;
    let mut help = Help {
        program: found.name.to_owned(),
        has_no_guard: found.program.hold == Some(Hold::None),
        ..Help::default()
    };
    // Nothing is added for a user who already gives the port.
    let is_said = words.iter().any(|word| word.contains("{port")) || found.is_given(is_set);
    if !is_said && let Some((arguments, at)) = found.added(&words, script.as_ref()) {
        let variables = found.program.variables.clone().into_iter().collect();
        help = Help { arguments, at, variables, ..help };
    }
    (help.has_no_guard || help.adds()).then_some(help)
}

/// Adds the program that a command starts to a request without a service name, to distinguish two programs of
/// one package.
pub(super) fn put_name(command: &[OsString], programs: &Programs, options: &mut Fields) {
    if options.get("service_name").is_none() {
        let folder = env::current_dir().ok();
        options.put_some("program", folder.and_then(|folder| name(command, programs, &folder)));
    }
}

/// The folder of the package whose script a command runs, if it is not the current folder.
pub(super) fn folder(command: &[OsString]) -> Option<PathBuf> {
    let words: Vec<&str> = command.iter().map(|word| word.to_str()).collect::<Option<_>>()?;
    let here = env::current_dir().ok()?;
    Script::of(&words, &here).map(|script| script.folder).filter(|folder| *folder != here)
}

/// The name of the script of `package.json` that a command runs, or else of the known program.
fn name(command: &[OsString], programs: &Programs, folder: &Path) -> Option<String> {
    let words: Vec<&str> = command.iter().map(|word| word.to_str()).collect::<Option<_>>()?;
    let name = match Script::of(&words, folder) {
        Some(script) => script.name,
        None => recognised(&words, programs)?.command.to_owned(),
    };
    let is_good = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    Some(name.chars().map(|c| if is_good(c) { c } else { '-' }).take(100).collect())
}

/// A known program on a command line.
struct Found<'a> {
    /// Its name for people.
    name: &'a str,
    program: &'a Program,
    /// Its name on the command line.
    command: &'a str,
    /// The words before it: launchers, and variables that are set.
    before: &'a [&'a str],
    arguments: &'a [&'a str],
}

fn recognised<'a>(line: &'a [&'a str], programs: &'a Programs) -> Option<Found<'a>> {
    let (before, rest) = line.split_at(launched(line)?);
    let (command, arguments) = rest.split_first()?;
    let command = program_name(command);
    let fits = |(_, program): &(&String, &Program)| fits(program, command, arguments);
    let (name, program) = programs.iter().find(fits)?;
    Some(Found { name, program, command, before, arguments })
}

impl Found<'_> {
    /// Whether its arguments or a variable already give the port.
    fn is_given(&self, is_set: impl Fn(&str) -> bool) -> bool {
        let is_set_before = |variable: &str| {
            let is_it =
                |word: &&str| word.split_once('=').is_some_and(|(name, _)| name == variable);
            self.before.iter().any(is_it)
        };
        let is_option = |argument: &&str| {
            self.program.given.iter().any(|option| {
                let rest = argument.strip_prefix(option.as_str());
                // -p3000, --port=3000
                rest.is_some_and(|rest| {
                    rest.is_empty() || rest.starts_with('=') || !option.starts_with("--")
                })
            })
        };
        self.arguments.iter().any(is_option)
            || self.program.variables.keys().any(|name| is_set(name) || is_set_before(name))
    }

    /// The arguments to add to the words of a command, and their position; `None` if nothing can be added.
    fn added(&self, words: &[&str], script: Option<&Script>) -> Option<(Vec<String>, usize)> {
        let mut added = self.program.arguments.clone();
        let place = |word: &str| self.arguments.iter().position(|argument| *argument == word);
        // npm treats arguments that do not follow `--` as its own.
        let is_npms = matches!(self.before, [name, "exec" | "x", ..] if file_name(name) == "npm");
        // Arguments after `--` are not options.
        let inside = match &self.program.after {
            Some(word) => Some(place(word)? + 1),
            None => place("--").filter(|_| !is_npms),
        };
        // Nothing can be inserted in the middle of a script.
        if (is_npms || script.is_some()) && inside.is_some() && !added.is_empty() {
            return None;
        }
        let at = inside.map_or(words.len(), |place| self.before.len() + 1 + place);
        let needs_dashes = is_npms || script.is_some_and(|script| script.needs_dashes);
        if needs_dashes && !words.contains(&"--") && !added.is_empty() {
            added.insert(0, "--".to_owned());
        }
        Some((added, at))
    }
}

/// Whether the program matches this name and these arguments, and will listen.
fn fits(program: &Program, name: &str, arguments: &[&str]) -> bool {
    let has = |words: &[String]| words.iter().any(|word| arguments.contains(&word.as_str()));
    // 8000, localhost:8000
    let is_port = |argument: &&str| {
        let end = argument.rsplit(':').next().unwrap_or_default();
        !end.is_empty() && end.chars().all(|c| c.is_ascii_digit())
    };
    let is_last = |word: &String| {
        let place = arguments.iter().position(|argument| argument == word);
        let after = place.map_or(arguments, |place| &arguments[place + 1..]);
        (place.is_some() || name == word) && !after.iter().any(is_port)
    };
    program.commands.iter().any(|command| command == name)
        && (program.only.is_empty() || has(&program.only))
        && !has(&program.except)
        && program.last.as_ref().is_none_or(is_last)
        && !["--help", "-h", "--version"].iter().any(|word| arguments.contains(word))
}

impl Help {
    /// Drops the changes to the command line and the environment.
    pub(super) fn add_nothing(&mut self) {
        self.arguments.clear();
        self.variables.clear();
    }

    pub(super) fn adds(&self) -> bool {
        !self.arguments.is_empty() || !self.variables.is_empty()
    }

    /// Replaces `{port}` in the arguments and variables.
    pub(super) fn fill(&mut self, port: &str) {
        let values = self.variables.iter_mut().map(|(_, value)| value);
        for word in self.arguments.iter_mut().chain(values) {
            *word = word.replace("{port}", port);
        }
    }

    /// The command with the added arguments.
    pub(super) fn apply(&self, command: &[OsString]) -> Vec<OsString> {
        let (before, after) = command.split_at(self.at.min(command.len()));
        let added = self.arguments.iter().map(OsString::from);
        before.iter().cloned().chain(added).chain(after.iter().cloned()).collect()
    }

    /// A sentence about what is changed, and why; `None` if nothing is.
    pub(super) fn sentence(&self) -> Option<String> {
        let variables = self.variables.iter().map(|(name, value)| format!("{name}={value}"));
        let arguments = self.arguments.iter().filter(|argument| *argument != "--").cloned();
        let added: Vec<_> = variables.chain(arguments).collect();
        let added =
            self.adds().then(|| ("does not read PORT", format!("{} is added", added.join(" "))));
        let unguarded = ("binds without SO_REUSEADDR", "its port has no guard".to_owned());
        let unguarded = self.has_no_guard.then_some(unguarded);
        let (why, what): (Vec<_>, Vec<_>) = added.into_iter().chain(unguarded).unzip();
        let (why, what) = (why.join(" and "), what.join(" and "));
        (!why.is_empty()).then(|| format!("{} {why}, so {what} (not with --plain)", self.program))
    }
}

fn file_name(word: &str) -> &str {
    Path::new(word).file_name().and_then(OsStr::to_str).unwrap_or(word)
}

/// The name of a program, without the extension of one that Node.js runs, and without a version (`vite@6`).
fn program_name(word: &str) -> &str {
    let name = file_name(word);
    let name = name.split_once('@').map_or(name, |(name, _)| name);
    let ends = [".js", ".mjs", ".cjs"];
    ends.iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name)
}

/// The number of words before the name of the program: launchers, their options, and variables.
fn launched(words: &[&str]) -> Option<usize> {
    let mut at = 0;
    // A launcher may start another one, but not endlessly.
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
            ("npm" | "pnpm" | "bundle", Some("exec"))
            | ("pnpm" | "yarn", Some("dlx"))
            | ("npm" | "bun", Some("x"))
            | (
                "yarn" | "bun" | "uv" | "poetry" | "pipenv" | "pdm" | "hatch" | "rye",
                Some("run"),
            ) => 2 + rest[1..].iter().take_while(|word| no_option(word)).count(),
            // yarn 1 treats the options as its own.
            ("yarn", Some("exec")) => return None,
            ("pnpm" | "yarn" | "bun", Some(_)) => 1,
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

/// A script of a `package.json` that a command runs, possibly of another package.
struct Script {
    name: String,
    text: String,
    /// Where it runs.
    folder: PathBuf,
    /// The arguments that it gets in addition to its own.
    more: Vec<String>,
    /// Whether these need a `--` before them.
    needs_dashes: bool,
}

impl Script {
    /// The script that a command line runs in this folder. `None` also if it may run several.
    fn of(words: &[&str], folder: &Path) -> Option<Self> {
        let (manager, rest) = words.split_first()?;
        let manager = file_name(manager);
        if !["npm", "pnpm", "yarn", "bun"].contains(&manager) {
            return None;
        }
        let (mut plain, mut more, mut place) = (Vec::new(), Vec::new(), folder.to_owned());
        let mut rest = rest.iter().copied();
        while let Some(word) = rest.next() {
            let has_name = !matches!(
                plain.as_slice(),
                [] | ["run" | "run-script" | "workspace"]
                    | ["workspace", _]
                    | ["workspace", _, "run"]
            );
            let (option, value) = word.split_once('=').map_or((word, None), |(o, v)| (o, Some(v)));
            match option {
                // npm drops it, and treats what comes before it as its own.
                "--" if manager == "npm" => {
                    more.extend(rest.by_ref());
                    break;
                }
                _ if has_name && manager != "npm" => more.push(word),
                "--prefix" | "-C" | "--dir" | "--cwd" => place.push(value.or(rest.next())?),
                "-w" | "--workspace-root" if manager == "pnpm" => {
                    let is_root = |folder: &&Path| folder.join("pnpm-workspace.yaml").is_file();
                    place = PathBuf::from(folder.ancestors().find(is_root)?);
                }
                "-w" | "--workspace" | "-F" | "--filter" if place != folder => return None,
                "-w" | "--workspace" | "-F" | "--filter" => {
                    place = manifest::member(folder, value.or(rest.next())?)?;
                }
                "-ws" | "--workspaces" | "-r" | "--recursive" => return None,
                _ if word.starts_with('-') => {}
                _ if has_name => more.push(word),
                _ => plain.push(word),
            }
        }
        if let ["workspace", name, ..] = plain.as_slice() {
            place = manifest::member(folder, name)?;
            plain.drain(..2);
        }
        let name = match plain.as_slice() {
            ["run" | "run-script", name] => name,
            ["start"] => "start",
            [name] if manager != "npm" => name,
            _ => return None,
        };
        let more = more.into_iter().map(str::to_owned).collect();
        Some(Self { more, ..Self::read(manager, name, &place)? })
    }

    fn read(manager: &str, name: &str, folder: &Path) -> Option<Self> {
        let manifest: Json = serde_json::from_str(&manifest::read(folder, "package.json")?).ok()?;
        let text = manifest["scripts"][name].as_str()?.to_owned();
        let (name, folder) = (name.to_owned(), folder.to_owned());
        Some(Self { name, text, folder, more: Vec::new(), needs_dashes: manager == "npm" })
    }
}

/// The words of a script, if it is one simple command.
fn simple(script: &str) -> Option<Vec<&str>> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || " \t_-./=:@,+%".contains(c);
    let words: Vec<_> = script.split_ascii_whitespace().collect();
    (script.chars().all(is_plain) && !words.is_empty()).then_some(words)
}

#[cfg(test)]
mod tests;
