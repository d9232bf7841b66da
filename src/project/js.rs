//! A search in JavaScript, which is never run: the `port` of a section, ignoring comments and strings.

use super::text::{self, Env};
use crate::port::Port;

/// No real configuration has more sections of one name, and each is searched to its end.
const MOST_SECTIONS: usize = 20;

/// The port that one of these sections gives as a number, or as a variable with a default.
pub(super) fn port(source: &str, sections: &[&str], env: &Env) -> Option<Port> {
    let tokens = tokens(source);
    let starts = tokens
        .windows(3)
        .enumerate()
        .filter(|(_, next)| next[1..] == [":", "{"] && sections.contains(&unquoted(next[0])));
    starts.take(MOST_SECTIONS).find_map(|(at, _)| in_section(&tokens[at + 3..], env))
}

/// The port in a section whose brace has been opened, except in the objects within it.
fn in_section(tokens: &[&str], env: &Env) -> Option<Port> {
    let mut depth = 1;
    for (at, token) in tokens.iter().enumerate() {
        match *token {
            "{" | "[" | "(" => depth += 1,
            "}" | "]" | ")" => depth -= 1,
            ":" if depth == 1 && at > 0 && unquoted(tokens[at - 1]) == "port" => {
                let rest = &tokens[at + 1..];
                return number(&rest[..end(rest)], env);
            }
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    None
}

/// Where the expression ends that these tokens begin with.
fn end(tokens: &[&str]) -> usize {
    let mut depth = 0_u32;
    let ends = |token: &&str| {
        match *token {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" if depth > 0 => depth -= 1,
            "," | "}" | "]" | ")" if depth == 0 => return true,
            _ => {}
        }
        false
    };
    tokens.iter().position(ends).unwrap_or(tokens.len())
}

/// The value of `3000`, `"3000"`, `X || 3000`, `X ?? "3000"` or `Number(X || 3000)`; a variable that `.env` sets counts more
/// than the default.
fn number(expression: &[&str], env: &Env) -> Option<Port> {
    match expression {
        ["Number" | "parseInt" | "+", "(", inner @ .., ")"] => {
            // parseInt(X, 10)
            let end = end(inner);
            number(&inner[..end], env)
        }
        ["+", inner @ ..] => number(inner, env),
        [number] => text::port(unquoted(number)),
        [variable @ .., "|", "|", number] | [variable @ .., "?", "?", number] => {
            let set = variable.last().and_then(|name| env.get(unquoted(name)));
            set.and_then(text::port).or_else(|| text::port(unquoted(number)))
        }
        [.., ".", name] => env.get(name).and_then(text::port),
        _ => None,
    }
}

fn unquoted(token: &str) -> &str {
    token.trim_matches(['"', '\''])
}

/// The tokens: names, numbers and strings as a whole, everything else as single characters.
fn tokens(source: &str) -> Vec<&str> {
    let mut tokens = Vec::new();
    let mut rest = source;
    while let Some(first) = rest.chars().next() {
        let is_comment = rest.starts_with("//") || rest.starts_with("/*");
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if let Some(comment) = rest.strip_prefix("/*") {
            comment.find("*/").map_or(rest.len(), |end| end + 4)
        } else if matches!(first, '"' | '\'' | '`') {
            string(rest, first)
        } else if is_of_a_word(first) {
            rest.find(|c| !is_of_a_word(c)).unwrap_or(rest.len())
        } else {
            first.len_utf8()
        };
        if !is_comment && !first.is_whitespace() {
            tokens.push(&rest[..length]);
        }
        rest = &rest[length..];
    }
    tokens
}

fn is_of_a_word(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '$')
}

/// The length of the string that the text begins with. Only a template may span lines.
fn string(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        if !escaped && c == quote {
            return at + 1;
        }
        if c == '\n' && quote != '`' {
            return at;
        }
        escaped = !escaped && c == '\\';
    }
    text.len()
}
