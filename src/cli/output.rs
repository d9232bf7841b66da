//! Output for the terminal: lines, JSON, times, questions. [`cleaned`] keeps hostile names from affecting the terminal.

use std::{
    env,
    io::{self, BufRead, IsTerminal, Write},
    path::Path,
};

use serde::Serialize;
use serde_json::{Value as Json, json};

use super::CliError;
use crate::{
    client,
    surroundings::user,
    time::Timestamp,
    word::{counted, disturbs, harmless},
};

/// Prints a line on stdout.
pub(super) fn print(text: &str) -> Result<(), CliError> {
    let mut stdout = io::stdout();
    writeln!(stdout, "{text}").and_then(|()| stdout.flush()).map_err(CliError::Output)
}

/// Prints an answer as JSON, and nothing else.
pub(super) fn print_json(answer: &Json) -> Result<(), CliError> {
    print(&serde_json::to_string_pretty(answer).unwrap_or_default())
}

/// Prints a list as JSON: an object with the list under the plural of its items, as over HTTP and MCP.
pub(super) fn print_list(things: &str, list: impl Serialize) -> Result<(), CliError> {
    print_json(&json!({things: list}))
}

/// Asks a question on the terminal; everything but a yes means no.
pub(super) fn confirm(question: &str) -> io::Result<bool> {
    let mut out = io::stderr().lock();
    write!(out, "{question} [y/N] ")?;
    out.flush()?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    client::begin_again();
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// Whether stdout supports colours: it is a terminal, and `NO_COLOR` (<https://no-color.org>) is not set.
pub(super) fn colours() -> bool {
    io::stdout().is_terminal()
        && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        && env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// The time since a timestamp, in its largest unit.
pub(super) fn ago(since: &str) -> String {
    let Ok(since) = since.parse::<Timestamp>() else { return since.to_owned() };
    lasted(Timestamp::now().0.saturating_sub(since.0) / 1_000)
}

/// A time in its largest unit.
pub(super) fn lasted(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3_600 => format!("{} min", seconds / 60),
        3_600..86_400 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// The same in words: `3 days ago`.
pub(super) fn in_words(since: Timestamp) -> String {
    let seconds = Timestamp::now().0.saturating_sub(since.0) / 1_000;
    let (number, unit) = match seconds {
        0..60 => return "just now".to_owned(),
        60..3_600 => (seconds / 60, "minute"),
        3_600..86_400 => (seconds / 3_600, "hour"),
        _ => (seconds / 86_400, "day"),
    };
    format!("{} ago", counted(number, unit))
}

/// A path, with the home directory as `~`.
pub(super) fn short(path: &str) -> String {
    short_in(user().home().and_then(Path::to_str).unwrap_or_default(), path)
}

fn short_in(home: &str, path: &str) -> String {
    match path.strip_prefix(home) {
        Some(rest) if home.len() > 1 && (rest.is_empty() || rest.starts_with('/')) => {
            format!("~{rest}")
        }
        _ => path.to_owned(),
    }
}

/// A word of a command line for bash and similar shells.
pub(super) fn in_shell(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_-=+@%:,./".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    if !word.chars().any(disturbs) {
        return format!("'{}'", word.replace('\'', r"'\''"));
    }
    let mut text = "$'".to_owned();
    for c in word.chars() {
        match c {
            '\'' | '\\' => text.extend(['\\', c]),
            c if disturbs(c) => {
                let mut bytes = [0; 4];
                let bytes = c.encode_utf8(&mut bytes).bytes();
                text.extend(bytes.map(|byte| format!("\\x{byte:02x}")));
            }
            c => text.push(c),
        }
    }
    text + "'"
}

/// The string at a key of an answer, or an empty one.
pub(super) fn text<'a>(answer: &'a Json, key: &str) -> &'a str {
    answer[key].as_str().unwrap_or_default()
}

/// The answer, with the characters that affect a terminal replaced in every key and string.
pub(super) fn cleaned(answer: Json) -> Json {
    match answer {
        Json::String(text) => Json::String(harmless(&text)),
        Json::Array(values) => values.into_iter().map(cleaned).collect(),
        Json::Object(fields) => {
            fields.into_iter().map(|(key, value)| (harmless(&key), cleaned(value))).collect()
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escape_sequences_do_not_survive() {
        let hostile = json!({"a\u{1b}": ["\u{1b}[31mred", {"b": "x\u{202e}y"}]});
        let clean = json!({"a\u{fffd}": ["\u{fffd}[31mred", {"b": "x\u{fffd}y"}]});
        assert_eq!(cleaned(hostile), clean);
    }

    #[test]
    fn times_are_told_in_their_largest_unit() {
        let now = Timestamp::now().0;
        for (seconds, told) in [(0, "0 s"), (61, "1 min"), (7_300, "2 h"), (200_000, "2 d")] {
            assert_eq!(ago(&Timestamp(now - seconds * 1_000).to_string()), told);
        }
        assert_eq!(ago("nonsense"), "nonsense");
    }

    #[test]
    fn only_what_is_in_the_home_is_shortened() {
        for (path, shown) in [
            ("/home/dev", "~"),
            ("/home/dev/a", "~/a"),
            ("/home/developer/a", "/home/developer/a"),
            ("/srv/home/dev", "/srv/home/dev"),
            ("", ""),
        ] {
            assert_eq!(short_in("/home/dev", path), shown);
        }
        assert_eq!(short_in("", "/a"), "/a");
        assert_eq!(short_in("/", "/a"), "/a");
    }
}
