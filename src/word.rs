//! Words: short strings with an alphabet and a maximum length, validated once, when they are received.

use std::{fmt, marker::PhantomData, str::FromStr};

use serde::de::Visitor;

/// Defines a type for a validated string. It cannot be created without validation.
macro_rules! word {
    ($(#[$doc:meta])* $name:ident, $field:literal, $check:expr, $rule:literal) => {
        $crate::word::word! {
            $(#[$doc])* $name, $field, $check, $rule, |text| std::borrow::Cow::Borrowed(text)
        }
    };
    // With a function that maps different spellings of the same word to one.
    ($(#[$doc:meta])* $name:ident, $field:literal, $check:expr, $rule:literal, $same:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(std::sync::Arc<str>);

        impl $name {
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::error::Error;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let check: fn(&str) -> bool = $check;
                let same: fn(&str) -> std::borrow::Cow<'_, str> = $same;
                if check(text) {
                    Ok(Self(same(text).as_ref().into()))
                } else {
                    Err($crate::error::Error::invalid(format!(
                        "{} {:?} is not valid: {}", $field, $crate::word::shortened(text), $rule
                    )))
                }
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_str($crate::word::Parsed(std::marker::PhantomData))
            }
        }

        impl From<$name> for String {
            fn from(word: $name) -> Self {
                word.0.as_ref().to_owned()
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

pub(crate) use word;

/// For serde: a word parsed from borrowed text, without copying the text first.
pub(crate) struct Parsed<T>(pub(crate) PhantomData<T>);

impl<T: FromStr<Err: fmt::Display>> Visitor<'_> for Parsed<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }
}

/// The text, truncated to fit in an error message.
pub(crate) fn shortened(text: &str) -> String {
    const MOST: usize = 120;
    if text.chars().count() <= MOST {
        return text.to_owned();
    }
    text.chars().take(MOST).chain(['…']).collect()
}

/// Whether the text has 1 to `most` characters, each an ASCII letter, a digit or one of `others`.
pub(crate) fn spelled(text: &str, most: usize, others: &str) -> bool {
    (1..=most).contains(&text.len())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || others.contains(c))
}

/// A count with its noun: `1 lease`, `2 leases`.
pub(crate) fn counted(count: u64, thing: &str) -> String {
    if count == 1 { format!("1 {thing}") } else { format!("{count} {thing}s") }
}

/// Whether this can be the name of an environment variable in a shell.
pub(crate) fn is_variable(name: &str) -> bool {
    let is_letter = |c: char| c.is_ascii_alphanumeric() || c == '_';
    name.chars().all(is_letter) && name.starts_with(|c: char| !c.is_ascii_digit())
}

/// Whether a project may name a variable so for a port. Others, such as `PATH`, change what the programs of a shell do.
#[cfg(feature = "project")]
pub(crate) fn is_port_variable(name: &str) -> bool {
    let is_word = |word: &str| match word.strip_suffix("PORT") {
        // REPORT, SUPPORT
        Some(before) => !["EX", "IM", "PASS", "RE", "SUP", "TRANS", "VIEW"].contains(&before),
        None => word == "PORTS",
    };
    is_variable(name) && name.to_ascii_uppercase().split('_').any(is_word)
}

/// A text as the beginning of a variable's name: `MY_API` for `my-api`.
pub(crate) fn as_variable(text: &str) -> String {
    let mut name = String::new();
    for c in text.chars() {
        match c.to_ascii_uppercase() {
            c if c.is_ascii_alphanumeric() => name.push(c),
            _ if name.is_empty() || name.ends_with('_') => {}
            _ => name.push('_'),
        }
    }
    let name = name.trim_end_matches('_');
    let sign = if name.starts_with(|c: char| c.is_ascii_digit()) { "_" } else { "" };
    format!("{sign}{name}")
}

/// The names for the further ports of a block after this one for its first, each with its place: `WEB_PORT_1`.
#[cfg(feature = "project")]
pub(crate) fn further(name: &str, count: u64) -> impl Iterator<Item = (u64, String)> {
    (1..count).map(move |place| (place, format!("{name}_{place}")))
}

/// The text, with characters that would affect a terminal replaced.
pub(crate) fn harmless(text: &str) -> String {
    text.chars().map(|c| if disturbs(c) { '\u{fffd}' } else { c }).collect()
}

/// Whether a character would affect a terminal: control characters, and those that change the direction of the
/// text that follows (UAX #9).
pub(crate) fn disturbs(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The text, with characters that would affect a terminal escaped, as `\u{1b}` or `\n`.
pub(crate) fn visible(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for c in text.chars() {
        if disturbs(c) {
            plain.extend(c.escape_default());
        } else {
            plain.push(c);
        }
    }
    plain
}

/// The 64-bit FNV-1a hash (draft-eastlake-fnv), which is the same on every machine and in every version of this
/// program.
pub(crate) fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}
