//! Text from files, converted for display, to a name or to a port.

use std::collections::HashMap;

use crate::{
    port::Port,
    word::{shortened, visible},
};

/// No value with a port is longer.
const MOST_OF_A_VALUE: usize = 200;
/// The maximum nesting of defaults within defaults, and of variables within variables.
const DEEPEST: u8 = 5;

/// Variables, as `.env` files set them.
#[derive(Clone, Default)]
pub(super) struct Env(HashMap<String, String>);

impl Env {
    pub(super) fn parse(text: &str) -> Self {
        let pairs = text.lines().filter_map(|line| {
            let line = line.trim();
            let (name, value) = line.strip_prefix("export ").unwrap_or(line).split_once('=')?;
            let value = value.split(" #").next().unwrap_or_default().trim();
            Some((name.trim().to_owned(), value.trim_matches(['"', '\'']).to_owned()))
        });
        Self(pairs.collect())
    }

    /// The value of a variable, if it is set to something.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// Adds the variables of another file, which do not replace those there are.
    pub(super) fn add(&mut self, other: Self) {
        for (name, value) in other.0 {
            self.0.entry(name).or_insert(value);
        }
    }

    /// The text with its variables replaced, by their values or by the defaults given in the text.
    pub(super) fn resolve(&self, text: &str) -> String {
        self.resolved(text, DEEPEST)
    }

    fn resolved(&self, text: &str, deep: u8) -> String {
        let mut text: &str = &text.chars().take(MOST_OF_A_VALUE).collect::<String>();
        let mut done = String::new();
        while let Some((before, after)) = text.split_once('$') {
            done.push_str(before);
            if let Some(rest) = after.strip_prefix('{')
                && let Some(end) = closing(rest)
            {
                done.push_str(&self.value(&rest[..end], deep));
                text = &rest[end + 1..];
            } else {
                let end = after.find(|c| !is_of_a_name(c)).unwrap_or(after.len());
                done.push_str(&self.value(&after[..end], deep));
                text = &after[end..];
            }
            if done.len() > MOST_OF_A_VALUE {
                return String::new();
            }
        }
        done + text
    }

    /// The value of `NAME`, `NAME-default` or `NAME:-default`.
    fn value(&self, expression: &str, deep: u8) -> String {
        let end = expression.find(|c| !is_of_a_name(c)).unwrap_or(expression.len());
        let (name, rest) = expression.split_at(end);
        let value = self.0.get(name).map_or("", String::as_str);
        let default = rest.strip_prefix(":-").or_else(|| rest.strip_prefix('-')).unwrap_or("");
        let value = if value.is_empty() { default } else { value };
        if deep == 0 { String::new() } else { self.resolved(value, deep - 1) }
    }
}

fn is_of_a_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// Where the brace closes that was opened before the text.
fn closing(text: &str) -> Option<usize> {
    let mut open = 1;
    text.char_indices().find_map(|(at, c)| {
        match c {
            '{' => open += 1,
            '}' => open -= 1,
            _ => {}
        }
        (open == 0).then_some(at)
    })
}

/// The port, if the text is one.
pub(super) fn port(text: &str) -> Option<Port> {
    let digits = text.len() <= 5 && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| Port::new(text.parse().ok()?)).flatten()
}

/// The text, for use in a message.
pub(super) fn shown(text: &str) -> String {
    visible(&shortened(text))
}

/// The word, if a shell takes it as it is.
pub(super) fn plain(word: &str) -> Option<&str> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._:/-".contains(c);
    let is_word = !word.is_empty() && !word.starts_with('-') && word.chars().all(is_plain);
    is_word.then_some(word)
}

/// The number of the line that has these words, from 1: the first one with the last word, at or after those with the
/// others, in order.
pub(super) fn line(content: &str, words: &[&str]) -> Option<usize> {
    let mut words = words.iter().peekable();
    for (number, line) in content.lines().enumerate() {
        let mut rest = line;
        while let Some(after) = words.peek().and_then(|word| after(rest, word)) {
            rest = after;
            words.next();
        }
        if words.peek().is_none() {
            return Some(number + 1);
        }
    }
    None
}

/// What follows the word in the line, where it is no part of another word.
fn after<'l>(line: &'l str, word: &str) -> Option<&'l str> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    let mut places = line.match_indices(word).filter(|(at, _)| {
        let before = line[..*at].chars().next_back();
        !word.starts_with(is_part) || !before.is_some_and(is_part)
    });
    places.next().map(|(at, found)| &line[at + found.len()..])
}

/// The text as a `service_name`, with room for a number after it; `None` if nothing of it is left.
pub(super) fn name(text: &str) -> Option<String> {
    let mut name = String::new();
    for c in text.chars().take(90) {
        match c {
            'A'..='Z' | 'a'..='z' | '0'..='9' | '.' | '_' => name.push(c),
            _ if name.ends_with('-') => {}
            _ => name.push('-'),
        }
    }
    let name = name.trim_matches(['-', '.']);
    (!name.is_empty()).then(|| name.to_owned())
}

/// The words of a name, separated by its punctuation.
pub(super) fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty())
}
