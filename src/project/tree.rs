//! JSON, YAML and TOML in one form, parsed leniently: a number equals the same number in quotes, and a broken
//! file yields nothing.

use std::{fmt, path::Path};

use jsonc_parser::{
    CollectOptions, ParseOptions,
    ast::{ObjectProp, Value},
    parse_to_ast,
};
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};

use crate::config::json::Source;

/// A value of a file.
#[derive(Debug, PartialEq)]
pub(super) enum Tree {
    Nothing,
    /// A string, a number or a boolean, as text.
    Text(String),
    List(Vec<Tree>),
    /// In the order of the file; for TOML, by name.
    Map(Vec<(String, Tree)>),
}

impl Tree {
    pub(super) fn json(text: &str) -> Self {
        serde_json::from_str(text).unwrap_or(Self::Nothing)
    }

    /// JSON with comments and trailing commas.
    pub(super) fn jsonc(text: &str) -> Self {
        let options = ParseOptions::default();
        let parsed = parse_to_ast(text, &CollectOptions::default(), &options);
        parsed.ok().and_then(|parsed| parsed.value).map_or(Self::Nothing, |value| Self::of(&value))
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

    pub(super) fn toml(text: &str) -> Self {
        toml::from_str(text).unwrap_or(Self::Nothing)
    }

    pub(super) fn yaml(text: &str) -> Self {
        Self::parsed_yaml(text).unwrap_or(Self::Nothing)
    }

    fn parsed_yaml(text: &str) -> Result<Self, serde_saphyr::Error> {
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
        serde_saphyr::from_str_with_options(text, options)
    }

    /// What keeps a file of this name from being parsed, and the line, if it has one; `None` if nothing does.
    pub(super) fn mistake(name: &str, text: &str) -> Option<(Option<usize>, String)> {
        let line_of = |at: usize| text[..at.min(text.len())].matches('\n').count() + 1;
        match name.rsplit_once('.')?.1 {
            kind @ ("json" | "jsonc") => {
                let mut source = Source::new(Path::new(name), text);
                // The tools of these take no comments.
                if kind == "json" && ["package.json", "composer.json"].contains(&name) {
                    source.parse(|_, _, _| {});
                } else {
                    source.parse_with_comments(|_, _, _| {});
                }
                let problem =
                    source.problems.into_iter().find(|problem| problem.field.is_empty())?;
                Some((problem.place.map(|(line, _)| line), problem.message))
            }
            "toml" => {
                let error = toml::from_str::<Self>(text).err()?;
                let line = error.span().map(|span| line_of(span.start));
                Some((line, error.message().to_owned()))
            }
            "yaml" | "yml" => {
                let error = Self::parsed_yaml(text).err()?;
                let line = error.location().and_then(|place| usize::try_from(place.line()).ok());
                let words = error.to_string();
                Some((line, words.lines().next().unwrap_or_default().to_owned()))
            }
            _ => None,
        }
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
