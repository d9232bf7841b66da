//! Programs that a command starts where styxy cannot add arguments: in a script of several commands, behind a
//! shell, in another package of a workspace.

use std::{ffi::OsString, path::Path};

use super::{Script, file_name, manifest::named_port, program_name, recognised};
use crate::{config::Programs, port::Port};

/// How deeply scripts that run scripts are followed.
const DEEPEST: usize = 4;

/// A search for such a program in everything that a command starts.
struct Search<'a, T> {
    /// What is found in one of the commands, which is a part of this text.
    look: &'a dyn Fn(&[&str], &str) -> Option<T>,
    /// The words of the command.
    words: &'a [&'a str],
}

/// What was found, and the script that it was found in.
type Found<T> = Option<(T, Option<String>)>;

/// A program that does not read its port, where styxy cannot add arguments.
pub(in crate::cli) struct Hint {
    program: String,
    /// The script that starts it.
    script: Option<String>,
    /// The command line to write there.
    line: String,
}

impl Hint {
    /// The hint as a sentence; `variable` is the one that has the port.
    pub(in crate::cli) fn sentence(&self, variable: &str) -> String {
        let Self { program, script, .. } = self;
        let starts =
            script.as_ref().map_or("the command".to_owned(), |name| format!("the script {name}"));
        format!("{program}, which {starts} starts, may not read {variable}: {}", self.remedy())
    }

    /// What the user should do.
    pub(in crate::cli) fn remedy(&self) -> String {
        let place = self.script.as_ref().map_or("", |_| " in package.json");
        format!("write {}{place}", self.line)
    }
}

/// A hint on how to pass the port in this variable to the command, if it starts a known program that does not
/// read the variable and is not given the port.
pub(in crate::cli) fn hint(
    command: &[OsString],
    programs: &Programs,
    folder: &Path,
    variable: &str,
    is_set: impl Fn(&str) -> bool,
) -> Option<Hint> {
    let words: Vec<&str> = command.iter().map(|word| word.to_str()).collect::<Option<_>>()?;
    // A command with a placeholder passes the port itself.
    if words.iter().any(|word| word.contains("{port")) {
        return None;
    }
    let help = Help { programs, variable, is_set: &is_set, words: &words };
    let look = |line: &[&str], text: &str| help.in_line(line, text);
    let (hint, script) = Search { look: &look, words: &words }.in_command(folder)?;
    Some(Hint { script, ..hint })
}

/// A port that a command line names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cli) struct Named {
    pub(in crate::cli) port: Port,
    /// The script that names it.
    script: Option<String>,
}

impl Named {
    /// Where it stands, and what could stand there; `variable` is the one that has the leased port.
    pub(in crate::cli) fn place(&self, variable: &str) -> (String, String) {
        match &self.script {
            Some(name) => (format!("the script {name} of package.json"), format!("${variable}")),
            None => ("the command".to_owned(), "{port}".to_owned()),
        }
    }
}

/// The port that the server has which a command starts, if its command line or a script names one.
pub(in crate::cli) fn named(command: &[OsString], folder: &Path) -> Option<Named> {
    let words: Vec<&str> = command.iter().map(|word| word.to_str()).collect::<Option<_>>()?;
    let look = |line: &[&str], text: &str| {
        let is_given = line.iter().any(|word| word.contains('$') || word.contains("{port"));
        let is_all = line.iter().copied().eq(text.split_ascii_whitespace());
        named_port(&line.join(" "), is_all).filter(|_| !is_given)
    };
    let found = Search { look: &look, words: &words }.in_command(folder);
    let whole = || look(&words, &words.join(" ")).map(|port| (port, None));
    let (port, script) = found.or_else(whole)?;
    Some(Named { port, script })
}

impl<T> Search<'_, T> {
    fn in_command(&self, folder: &Path) -> Found<T> {
        let words = self.words;
        if let Some(script) = Script::of(words, folder) {
            return self.in_script(&script, 0);
        }
        if ["sh", "bash", "dash", "zsh", "ksh", "fish"].contains(&file_name(words[0])) {
            let is_code = |word: &&str| word.starts_with('-') && word.ends_with('c');
            let code = words.iter().position(is_code)? + 1;
            return self.in_text(words.get(code)?, folder, 0);
        }
        // concurrently 'vite' 'node api.js'; dotenv -- vite
        let quoted = words.iter().filter(|word| word.contains(' '));
        let mut quoted = quoted.filter_map(|word| self.in_text(word, folder, 0));
        quoted.next().or_else(|| Some((self.in_started(words, "")?, None)))
    }

    fn in_script(&self, script: &Script, depth: usize) -> Found<T> {
        let (found, inner) = self.in_text(&script.text, &script.folder, depth)?;
        Some((found, inner.or_else(|| Some(script.name.clone()))))
    }

    /// Checks each command of a shell command line.
    fn in_text(&self, text: &str, folder: &Path, depth: usize) -> Found<T> {
        let mut folder = folder.to_owned();
        for segment in text.split(|c: char| "&|;()\n\"'`".contains(c)) {
            // vite 2> log # local
            let is_of_shell = |word: &&str| word.starts_with('#') || word.contains(['<', '>']);
            let words = segment.split_ascii_whitespace().take_while(|word| !is_of_shell(word));
            let words: Vec<_> = words.collect();
            let words = words.strip_prefix(&["exec"]).unwrap_or(&words);
            let found = (self.look)(words, text).or_else(|| self.in_started(words, text));
            if let Some(found) = found {
                return Some((found, None));
            }
            let Some((first, rest)) = words.split_first() else { continue };
            let scripts = match (program_name(first), rest) {
                ("cd", [to]) => {
                    folder.push(to);
                    continue;
                }
                ("run-p" | "run-s" | "npm-run-all", names) => {
                    names.iter().filter_map(|name| Script::read("npm", name, &folder)).collect()
                }
                (name, []) if name.starts_with("npm:") => {
                    Script::read("npm", &name[4..], &folder).into_iter().collect()
                }
                _ => Script::of(words, &folder).into_iter().collect::<Vec<_>>(),
            };
            let mut scripts = scripts.iter().filter(|_| depth < DEEPEST);
            let found = scripts.find_map(|script| self.in_script(script, depth + 1));
            if found.is_some() {
                return found;
            }
        }
        None
    }

    /// Checks the command that another one starts: `dotenv -- vite`. What styxy starts, it tells of itself.
    fn in_started(&self, line: &[&str], text: &str) -> Option<T> {
        let at = line.iter().position(|word| *word == "--")?;
        let is_own = line[..at].iter().any(|word| file_name(word) == "styxy");
        if is_own { None } else { (self.look)(&line[at + 1..], text) }
    }
}

/// A look for a program that needs help.
struct Help<'a> {
    programs: &'a Programs,
    /// The variable that has the port.
    variable: &'a str,
    is_set: &'a dyn Fn(&str) -> bool,
    /// The words of the command.
    words: &'a [&'a str],
}

impl Help<'_> {
    /// Checks one command of a text, which may set the program's variable before:
    /// `export FLASK_RUN_PORT=$PORT; flask run`.
    fn in_line(&self, line: &[&str], text: &str) -> Option<Hint> {
        let found = recognised(line, self.programs).filter(|found| self.needs_help(found))?;
        let is_set = |name: &String| text.contains(&format!("{name}="));
        if found.program.variables.keys().any(is_set) || self.names_the_port(line, text) {
            return None;
        }
        let (added, at) = found.added(line, None)?;
        let port = format!("${}", self.variable);
        let fill = |text: String| text.replace("{port}", &port);
        let variables = found.program.variables.iter();
        let variables = variables.map(|(name, value)| format!("{name}={}", fill(value.clone())));
        let (before, after) = line.split_at(at);
        let [before, after] = [before, after].map(|words| words.iter().map(ToString::to_string));
        let words = variables.chain(before).chain(added.into_iter().map(fill)).chain(after);
        let line = words.collect::<Vec<_>>().join(" ");
        Some(Hint { program: found.name.to_owned(), script: None, line })
    }

    /// Whether an argument is the port or has it, as in `python3 -m http.server $PORT`.
    fn names_the_port(&self, line: &[&str], text: &str) -> bool {
        let names = [format!("${}", self.variable), format!("${{{}", self.variable)];
        let is_variable = |word: &str| {
            word.split_once('=').is_some_and(|(name, _)| !name.is_empty() && !name.contains('-'))
        };
        let mut words = line.iter().filter(|word| !is_variable(word));
        // A quoted argument begins a part of the text of its own.
        let line = line.join(" ");
        words.any(|word| names.iter().any(|name| word.contains(name)))
            || names.iter().any(|name| text.contains(&format!("{line} \"{name}")))
    }

    fn needs_help(&self, found: &super::Found) -> bool {
        let program = found.program;
        let ignores = !program.arguments.is_empty() || !program.variables.is_empty();
        // Arguments after a script's name may be meant for the program.
        let is_given = |word: &&str| program.given.iter().any(|option| word.starts_with(option));
        ignores && !found.is_given(self.is_set) && !self.words.iter().any(is_given)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::config;

    fn hinted(command: &[&str], folder: &Path) -> Option<String> {
        let command: Vec<_> = command.iter().map(OsString::from).collect();
        let hint = hint(&command, &config::programs(&[]), folder, "PORT", |_| false)?;
        Some(hint.sentence("PORT"))
    }

    /// A workspace with a package in `apps/web`, which is named `@shop/web`.
    fn workspace() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("apps/web")).unwrap();
        let scripts = r#"{"workspaces": ["apps/*"], "scripts": {
            "both": "vite & node api.js", "cd": "cd apps/web && vite", "nested": "npm run both",
            "quoted": "concurrently \"flask run\" 'node api.js'", "all": "run-p api both",
            "names": "concurrently npm:api 'npm:both'", "own": "vite --port $PORT & node api.js",
            "set": "export FLASK_RUN_PORT=$PORT; flask run", "api": "node api.js",
            "build": "vite build && node post.js", "deno": "deno serve main.ts",
            "loop": "npm run loop", "in": "cd apps/web && npm run dev", "start": "npm run node",
            "node": "NODE_ENV=development vite", "env": "dotenv -e .env -- vite", "local": "vite # local",
            "logged": "vite 2>&1 | tee log", "leased": "styxy run web -- vite",
            "fixed": "node seed.js && vite --port 4777", "deep": "npm run fixed", "prefixed": "PORT=4778 ./serve",
            "wait": "psql -p 5432 -f x.sql && node api.js", "dev": "vite"}}"#;
        fs::write(folder.path().join("package.json"), scripts).unwrap();
        let scripts =
            r#"{"name": "@shop/web", "scripts": {"dev": "vite", "own": "vite --port 1"}}"#;
        fs::write(folder.path().join("apps/web/package.json"), scripts).unwrap();
        folder
    }

    #[test]
    fn a_known_program_that_nothing_can_be_added_to_is_told_of_with_what_to_write() {
        let folder = workspace();
        let vite = "write vite --port $PORT --strictPort in package.json";
        let flask = "write FLASK_RUN_PORT=$PORT flask run in package.json";
        let deno = "write deno serve --port $PORT main.ts in package.json";
        let node = "write NODE_ENV=development vite --port $PORT --strictPort in package.json";
        for (line, script, write) in [
            ("npm run both", "the script both", vite),
            ("npm run cd", "the script cd", vite),
            ("yarn nested", "the script both", vite),
            ("pnpm quoted", "the script quoted", flask),
            ("npm run all", "the script both", vite),
            ("npm run names", "the script both", vite),
            ("npm run in", "the script dev", vite),
            ("npm run deno", "the script deno", deno),
            ("npm start", "the script node", node),
            ("npm run env", "the script env", vite),
            ("npm run local", "the script local", vite),
            ("npm run logged", "the script logged", vite),
            ("dotenv -- vite", "the command", "write vite --port $PORT --strictPort"),
        ] {
            let told = hinted(&line.split(' ').collect::<Vec<_>>(), folder.path());
            let told = told.unwrap_or_else(|| panic!("{line}"));
            assert!(told.contains(&format!("which {script} starts")), "{line}: {told}");
            assert!(told.ends_with(write), "{line}: {told}");
        }
        let told = hinted(&["bash", "-lc", "cd web; exec vite"], folder.path()).unwrap();
        assert_eq!(
            told,
            "Vite, which the command starts, may not read PORT: write vite --port $PORT --strictPort"
        );
        assert!(hinted(&["concurrently", "npx vite", "node api.js"], folder.path()).is_some());
    }

    #[cfg(feature = "project")]
    #[test]
    fn the_port_that_a_command_or_its_script_names_is_found() {
        let folder = workspace();
        let named = |line: &str| {
            let command: Vec<_> = line.split(' ').map(OsString::from).collect();
            let named = named(&command, folder.path())?;
            Some((named.port.get(), named.place("WEB").0))
        };
        let script = |name: &str| format!("the script {name} of package.json");
        for (line, port, place) in [
            ("npm run own -w @shop/web", 1, script("own")),
            ("npm run fixed", 4777, script("fixed")),
            ("npm run deep", 4777, script("fixed")),
            ("npm run prefixed", 4778, script("prefixed")),
            ("npm run dev -- --port 4779", 4779, "the command".to_owned()),
            ("vite --port 4777 --strictPort", 4777, "the command".to_owned()),
            ("./serve -p 4777", 4777, "the command".to_owned()),
        ] {
            assert_eq!(named(line), Some((port, place)), "{line}");
        }
        for line in ["npm run own", "npm run both", "npm run wait", "vite", "vite --port {port}"] {
            assert_eq!(named(line), None, "{line}");
        }
    }

    #[test]
    fn a_program_whose_port_has_no_option_is_given_it_by_the_variable() {
        let folder = tempfile::tempdir().unwrap();
        let hinted = |code: &str| hinted(&["sh", "-c", code], folder.path());
        for code in [
            "python3 -m http.server $PORT",
            "cd web && python3 -m http.server \"$PORT\" &",
            "python3 -m http.server ${PORT:-8000}",
            "python3 manage.py runserver 0.0.0.0:$PORT",
        ] {
            assert_eq!(hinted(code), None, "{code}");
        }
        for code in ["python3 -m http.server", "BASE=$PORT vite"] {
            assert!(hinted(code).is_some(), "{code}");
        }
    }

    #[test]
    fn nothing_is_told_of_a_program_that_is_given_its_port_or_is_not_known() {
        let folder = workspace();
        for line in [
            "npm run own",
            "npm run set",
            "npm run api",
            "npm run build",
            "npm run loop",
            "npm run none",
            "npm run leased",
            "styxy run web -- vite",
            "npm run both -- --port {port}",
            "npm run both -- --port 4000",
            "npm run own -w @shop/web",
            "npm run dev -w none",
            "vite --port 4000",
            "node server.js",
            "dotenv -- node server.js",
            "sh",
        ] {
            assert_eq!(hinted(&line.split(' ').collect::<Vec<_>>(), folder.path()), None, "{line}");
        }
        for code in ["vite --port $PORT", "vite --port {port}", "echo vite", "node api.js; ls"] {
            assert_eq!(hinted(&["sh", "-c", code], folder.path()), None, "{code}");
        }
    }
}
