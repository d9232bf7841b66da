//! JSON, YAML and TOML in one form, parsed leniently: a number equals the same number in quotes.

use std::fmt;

use jsonc_parser::ast::{ObjectProp, Value};
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};

use crate::config::syntax;

/// A value of a file.
#[derive(Debug, Default, PartialEq)]
pub(super) enum Tree {
    #[default]
    Nothing,
    /// A string, a number or a boolean, as text.
    Text(String),
    List(Vec<Tree>),
    /// In the order of the file; for TOML, by name.
    Map(Vec<(String, Tree)>),
}

/// The line that keeps a file from being parsed, if one can be named, and why.
pub(super) type Mistake = (Option<usize>, String);

impl Tree {
    pub(super) fn json(text: &str) -> Result<Self, Mistake> {
        Self::parsed_json(text, syntax::parse(text))
    }

    /// JSON with comments and trailing commas.
    pub(super) fn jsonc(text: &str) -> Result<Self, Mistake> {
        Self::parsed_json(text, syntax::parse_leniently(text))
    }

    fn parsed_json(
        text: &str,
        parsed: Result<Value<'_>, syntax::Mistake>,
    ) -> Result<Self, Mistake> {
        let mistake = |(range, words): syntax::Mistake| (Some(line_of(text, range.start)), words);
        parsed.map(|value| Self::of(&value)).map_err(mistake)
    }

    fn of(value: &Value) -> Self {
        match value {
            Value::StringLit(text) => Self::Text(text.value.to_string()),
            Value::NumberLit(number) => Self::Text(number.value.to_string()),
            Value::BooleanLit(boolean) => Self::Text(boolean.value.to_string()),
            Value::Array(array) => Self::List(array.elements.iter().map(Self::of).collect()),
            Value::Object(object) => {
                let entry =
                    |entry: &ObjectProp| (entry.name.as_str().to_owned(), Self::of(&entry.value));
                Self::Map(object.properties.iter().map(entry).collect())
            }
            Value::NullKeyword(_) => Self::Nothing,
        }
    }

    pub(super) fn toml(text: &str) -> Result<Self, Mistake> {
        toml::from_str(text).map_err(|error| {
            let line = error.span().map(|span| line_of(text, span.start));
            (line, error.message().to_owned())
        })
    }

    pub(super) fn yaml(text: &str) -> Result<Self, Mistake> {
        // The limits of the crate stop files that are nested too deep, or that multiply themselves by aliases.
        let options = serde_saphyr::options! {
            duplicate_keys: serde_saphyr::options::DuplicateKeyPolicy::LastWins,
            budget: serde_saphyr::budget! {
                max_events: 200_000,
                max_aliases: 1_000,
                max_merge_keys: 200,
                max_recorded_anchor_events: 50_000,
            },
        };
        serde_saphyr::from_str_with_options(text, options).map_err(|error| {
            let line = error.location().and_then(|place| usize::try_from(place.line()).ok());
            let words = error.to_string();
            (line, words.lines().next().unwrap_or_default().to_owned())
        })
    }

    /// The field with this name; nothing if there is none.
    pub(super) fn get(&self, name: &str) -> &Self {
        self.entries().iter().rev().find(|(key, _)| key == name).map_or(&Self::Nothing, |e| &e.1)
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.entries().iter().any(|(key, _)| key == name)
    }

    pub(super) fn entries(&self) -> &[(String, Self)] {
        if let Self::Map(entries) = self { entries } else { &[] }
    }

    pub(super) fn list(&self) -> &[Self] {
        if let Self::List(list) = self { list } else { &[] }
    }

    pub(super) fn text(&self) -> Option<&str> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }

    /// The strings of a list.
    pub(super) fn texts(&self) -> impl Iterator<Item = &str> {
        self.list().iter().filter_map(Self::text)
    }
}

/// The line of a place in a text, from 1.
fn line_of(text: &str, at: usize) -> usize {
    text[..at.min(text.len())].matches('\n').count() + 1
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Shape)
    }
}

struct Shape;

impl<'de> Visitor<'de> for Shape {
    type Value = Tree;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Tree, E> {
        Ok(Tree::Text(value.to_string()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Tree, E> {
        Ok(Tree::Text(value.to_string()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Tree, E> {
        Ok(Tree::Text(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Tree, E> {
        Ok(Tree::Text(value.to_string()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Tree, E> {
        Ok(Tree::Text(value.to_owned()))
    }

    fn visit_unit<E>(self) -> Result<Tree, E> {
        Ok(Tree::Nothing)
    }

    fn visit_none<E>(self) -> Result<Tree, E> {
        Ok(Tree::Nothing)
    }

    fn visit_some<D: Deserializer<'de>>(self, inner: D) -> Result<Tree, D::Error> {
        inner.deserialize_any(self)
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, inner: D) -> Result<Tree, D::Error> {
        inner.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Tree, A::Error> {
        let mut list = Vec::new();
        while let Some(value) = access.next_element()? {
            list.push(value);
        }
        Ok(Tree::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Tree, A::Error> {
        let mut entries = Vec::new();
        while let Some((key, value)) = access.next_entry::<Tree, Tree>()? {
            if let Tree::Text(key) = key {
                entries.push((key, value));
            }
        }
        Ok(Tree::Map(entries))
    }
}
