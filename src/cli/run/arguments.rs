//! Puts the ports into the environment and the arguments of a command.

use std::{
    env,
    ffi::{OsStr, OsString},
    os::unix::{
        ffi::{OsStrExt, OsStringExt},
        process::CommandExt,
    },
    path::Path,
    process::Command,
};

use clap::Args;
use serde_json::Value as Json;

use super::{CliError, not_started, text};
use crate::kernel::probe;

/// Whether the ports are put into the arguments.
#[derive(Clone, Copy, Debug, Args)]
pub(in crate::cli) struct Replacing {
    /// Leave {port} in the arguments as it is
    #[arg(long)]
    no_replace: bool,
}

/// The variables that describe a lease to a command: the port, the further ports of its block, and the lease id.
pub(in crate::cli) fn environment(name: &str, answer: &Json) -> Vec<(String, String)> {
    let first = (name.to_owned(), answer["port"].to_string());
    let others = answer["ports"].as_array().into_iter().flatten().skip(1).enumerate();
    let others = others.map(|(index, port)| (format!("{name}_{}", index + 1), port.to_string()));
    let of_lease = [
        ("STYXY_PORT".to_owned(), answer["port"].to_string()),
        ("STYXY_LEASE_ID".to_owned(), text(answer, "lease_id").to_owned()),
    ];
    std::iter::once(first).chain(others).chain(of_lease).collect()
}

/// Runs the command unchanged, in place of this process, if `STYXY=0` is set: so a script that uses styxy also
/// works for users who do not want ports from it.
pub(in crate::cli) fn unless_off(command: &[OsString]) -> Result<(), CliError> {
    if env::var_os("STYXY").is_none_or(|value| value != "0") {
        return Ok(());
    }
    let error = Command::new(&command[0]).args(&command[1..]).exec();
    Err(not_started(&command[0], &error))
}

impl Replacing {
    /// Builds the command with these variables, and with the ports in its arguments. `own` is the variable of
    /// the command's own port, if it has one.
    pub(in crate::cli) fn prepare(
        self,
        command: &[OsString],
        own: Option<&str>,
        variables: &[(String, String)],
    ) -> Command {
        let placeholders = if self.no_replace { Vec::new() } else { placeholders(own, variables) };
        let arguments = (1..command.len()).map(|at| {
            let argument = &command[at];
            if is_code(&command[..at]) { argument.clone() } else { filled(argument, &placeholders) }
        });
        let mut prepared = Command::new(&command[0]);
        if env::var_os("HOST").is_none() {
            prepared.env("HOST", probe::loopback().to_string());
        }
        // Set after HOST: a variable for a port may have that name, too.
        prepared.args(arguments).envs(variables.iter().map(|(name, value)| (name, value)));
        prepared
    }

    /// The value of a variable, with the ports in it.
    pub(super) fn fill(
        self,
        value: &OsStr,
        own: Option<&str>,
        variables: &[(String, String)],
    ) -> OsString {
        if self.no_replace {
            value.to_owned()
        } else {
            filled(value, &placeholders(own, variables))
        }
    }
}

/// The placeholders and their ports: `{port}` for the command's own, `{port_1}` for the next of several, and
/// `{port:NAME}` for that of the variable NAME.
fn placeholders<'a>(
    own: Option<&str>,
    variables: &'a [(String, String)],
) -> Vec<(String, &'a str)> {
    let of_block = variables.iter().filter_map(|(name, value)| {
        Some((format!("{{port{}}}", name.strip_prefix(own?)?), value.as_str()))
    });
    // A URL is not a port.
    let ports = variables.iter().filter(|(_, value)| value.parse::<u16>().is_ok());
    let named = ports.map(|(name, value)| (format!("{{port:{name}}}"), value.as_str()));
    of_block.chain(named).collect()
}

/// Whether the next argument is a program in a language that uses braces itself: `node -e`, `python3 -c`.
fn is_code(before: &[OsString]) -> bool {
    let words: Vec<_> = before.iter().map(|word| word.to_string_lossy()).collect();
    let options = words.iter().rev().take_while(|word| word.starts_with('-')).count();
    let Some(place) = words.len().checked_sub(options + 1) else { return false };
    let name = Path::new(words[place].as_ref()).file_name().unwrap_or_default().to_string_lossy();
    let name = name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.');
    let interprets =
        ["node", "bun", "tsx", "ts-node", "python", "pypy", "perl", "ruby", "php", "lua"];
    let takes_code = |option: &str| {
        let letters = option.trim_start_matches('-');
        match name {
            // -ne, -pe
            "perl" | "ruby" => !option.starts_with("--") && letters.ends_with(['e', 'E']),
            "python" | "pypy" => letters.ends_with('c') && !option.starts_with("--"),
            _ => ["e", "p", "pe", "r", "eval", "print", "run"].contains(&letters),
        }
    };
    let is_eval = name == "eval" && place > 0 && words[place - 1].ends_with("deno");
    is_eval || (interprets.contains(&name) && words.last().is_some_and(|word| takes_code(word)))
}

fn filled(argument: &OsStr, placeholders: &[(String, &str)]) -> OsString {
    let bytes = argument.as_bytes();
    let mut filled = Vec::with_capacity(bytes.len());
    let (mut at, mut depth) = (0, 0_usize);
    while let Some(byte) = bytes.get(at) {
        let found = placeholders.iter().find(|(name, _)| bytes[at..].starts_with(name.as_bytes()));
        let found = found.filter(|_| depth == 0 && !is_of_another_language(&bytes[..at]));
        if let Some((name, value)) = found {
            filled.extend_from_slice(value.as_bytes());
            at += name.len();
            continue;
        }
        match byte {
            b'{' => depth += 1,
            b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        filled.push(*byte);
        at += 1;
    }
    OsString::from_vec(filled)
}

/// Whether a brace after this belongs to another language: `${port}` of shells, `$ENV{port}` and `$h->{port}`
/// of Perl, `#{port}` of Ruby, `const {port} =` of JavaScript.
fn is_of_another_language(before: &[u8]) -> bool {
    let is_of_word = |byte: &&u8| byte.is_ascii_alphanumeric() || **byte == b'_';
    let word = before.iter().rev().take_while(is_of_word).count();
    let sign = before.len().checked_sub(word + 1).map(|at| before[at]);
    let last = before.trim_ascii_end();
    let declares = ["const", "let", "var", "import", "export"];
    sign == Some(b'$')
        || [b"#".as_slice(), b"%", b"->"].iter().any(|sign| before.ends_with(sign))
        || declares.iter().any(|word| last.ends_with(word.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables() -> Vec<(String, String)> {
        let variables = [
            ("PORT", "3000"),
            ("PORT_1", "3001"),
            ("STYXY_LEASE_ID", "7"),
            ("API", "8000"),
            ("DB_URL", "http://127.0.0.1:5432"),
        ];
        variables.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec()
    }

    /// The arguments as the command gets them.
    fn arguments(command: &[&str], replacing: Replacing) -> Vec<String> {
        let command: Vec<_> = command.iter().map(OsString::from).collect();
        let prepared = replacing.prepare(&command, Some("PORT"), &variables());
        prepared.get_args().map(|argument| argument.to_str().unwrap().to_owned()).collect()
    }

    const REPLACING: Replacing = Replacing { no_replace: false };

    #[test]
    fn ports_stand_in_for_placeholders_wherever_they_are() {
        for (before, after) in [
            ("-p{port}", "-p3000"),
            ("{port}{port_1}", "30003001"),
            ("{port:API}/{port:PORT}", "8000/3000"),
            ("http://localhost:{port}/", "http://localhost:3000/"),
            ("{}{port}", "{}3000"),
            ("a$:{port}", "a$:3000"),
            ("echo ${PORT} {port}", "echo ${PORT} 3000"),
        ] {
            assert_eq!(arguments(&["serve", before], REPLACING), [after]);
        }
    }

    #[test]
    fn what_is_another_languages_stays() {
        for same in [
            "{PORT}",
            "{API}",
            "{api}",
            "{port:NONE}",
            "{port:DB_URL}",
            "{port:api}",
            "{port_2}",
            "${PORT}",
            "${port}",
            "$ENV{port}",
            "$h->{port}",
            "#{port}",
            "{{port}}",
            "{ {port} }",
            "{a:{port}}",
            r#"{"port": {port}, "host": {}}"#,
            "${API:-{port}}",
            "const {port} = require('./config')",
            "const{port}=x",
            "import {port} from './config'",
        ] {
            assert_eq!(arguments(&["serve", same], REPLACING), [same]);
        }
        for code in [
            ["node", "-e", "f({port})"].as_slice(),
            &["node", "--no-warnings", "--eval", "f({port})"],
            &["/usr/bin/python3.11", "-c", "print(f'{port}')"],
            &["env", "perl", "-ne", "{port}"],
            &["php", "-r", "{port}"],
            &["deno", "eval", "f({port})"],
        ] {
            assert_eq!(arguments(code, REPLACING), code[1..]);
        }
        for (command, after) in [
            (["node", "server.js", "-p", "{port}"].as_slice(), "3000"),
            (&["sh", "-c", "serve {port}"], "serve 3000"),
            (&["python3", "app.py", "-c", "{port}"], "3000"),
            (&["node", "-r", "./x.js", "app.js", "{port}"], "3000"),
        ] {
            assert_eq!(arguments(command, REPLACING).last().map(String::as_str), Some(after));
        }
    }

    #[test]
    fn nothing_is_replaced_for_whoever_says_so() {
        assert_eq!(arguments(&["a", "{port}"], Replacing { no_replace: true }), ["{port}"]);
    }
}
