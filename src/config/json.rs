//! JSON values with their place in the file, so that an error can name line and column.

use std::{
    collections::{BTreeMap, HashSet},
    path::Path,
};

use jsonc_parser::{
    ast::{self, Value},
    common::{Range, Ranged},
};

use super::{Problem, syntax};
use crate::{
    port::Port,
    service_type::nearest,
    word::{disturbs, shortened},
};

/// The file that is being read, with its problems.
pub(crate) struct Source<'a> {
    pub(crate) file: &'a Path,
    pub(crate) text: &'a str,
    pub(crate) problems: Vec<Problem>,
    /// Where each field is.
    pub(crate) places: BTreeMap<String, Range>,
    /// Where each line begins.
    lines: Vec<usize>,
}

/// A value with the path to its field.
#[derive(Clone, Copy)]
pub(crate) struct Node<'v> {
    pub(crate) value: &'v Value<'v>,
    pub(crate) field: &'v str,
}

impl<'a> Source<'a> {
    /// An unread file.
    pub(crate) fn new(file: &'a Path, text: &'a str) -> Self {
        let lines = text.match_indices('\n').map(|(at, _)| at + 1);
        let lines = [0].into_iter().chain(lines).collect();
        Self { file, text, problems: Vec::new(), places: BTreeMap::new(), lines }
    }
}

impl Source<'_> {
    /// Records a problem at a place.
    pub(crate) fn note(&mut self, range: Range, field: &str, message: impl Into<String>) {
        self.problems.push(Problem {
            file: self.file.to_owned(),
            place: Some(self.line_and_column(range)),
            field: field.to_owned(),
            message: message.into(),
        });
    }

    /// Records a problem with a value.
    pub(crate) fn note_at(&mut self, node: Node<'_>, message: impl Into<String>) {
        self.note(node.value.range(), node.field, message);
    }

    /// Records a problem with a field that was read before.
    pub(crate) fn note_field(&mut self, field: &str, message: impl Into<String>) {
        let range = self.places.get(field).copied().unwrap_or(Range::new(0, 0));
        self.note(range, field, message);
    }

    /// The service types with a problem in a range.
    pub(crate) fn types_with_a_wrong_range(&self) -> HashSet<String> {
        let fields = self
            .problems
            .iter()
            .filter_map(|problem| problem.field.strip_prefix("service_types.")?.split_once('.'));
        let is_range =
            |field: &str| field.starts_with("port_range") || field.starts_with("more_port_ranges");
        fields.filter(|(_, field)| is_range(field)).map(|(name, _)| name.to_owned()).collect()
    }

    /// The line, counted from 1.
    pub(crate) fn line(&self, range: Range) -> usize {
        self.lines.partition_point(|line| *line <= range.start)
    }

    /// The line of a value, counted from 1.
    #[cfg(feature = "project")]
    pub(crate) fn line_of(&self, node: Node<'_>) -> usize {
        self.line(node.value.range())
    }

    /// Line and column, counted from 1.
    fn line_and_column(&self, range: Range) -> (usize, usize) {
        let line = self.line(range);
        let before = &self.text[self.lines[line - 1]..range.start.min(self.text.len())];
        (line, before.chars().count() + 1)
    }

    /// Parses the text, which must be an object, and calls `read` for each of its fields.
    pub(crate) fn parse(&mut self, read: impl FnMut(&mut Self, &str, Node<'_>)) {
        self.parse_by(syntax::parse, read);
    }

    /// The same, with comments and commas after the last of a list.
    #[cfg(feature = "project")]
    pub(crate) fn parse_with_comments(&mut self, read: impl FnMut(&mut Self, &str, Node<'_>)) {
        self.parse_by(syntax::parse_with_comments, read);
    }

    fn parse_by(
        &mut self,
        parse: for<'t> fn(&'t str) -> Result<Value<'t>, syntax::Mistake>,
        read: impl FnMut(&mut Self, &str, Node<'_>),
    ) {
        match parse(self.text) {
            Ok(value) => self.fields(Node { value: &value, field: "" }, read),
            Err((range, message)) => self.note(range, "", message),
        }
    }

    /// Calls `read` with the name and value of each field of an object.
    pub(crate) fn fields(
        &mut self,
        node: Node<'_>,
        mut read: impl FnMut(&mut Self, &str, Node<'_>),
    ) {
        let Value::Object(object) = node.value else {
            return self.mismatch(node, "an object { … }");
        };
        let mut names = HashSet::new();
        for property in &object.properties {
            let name = property.name.as_str();
            let field = match node.field {
                "" => name.to_owned(),
                parent => format!("{parent}.{name}"),
            };
            if names.insert(name) {
                self.places.insert(field.clone(), property.value.range());
                read(self, name, Node { value: &property.value, field: &field });
            } else {
                self.note(property.range, &field, "this field is given twice: keep one of the two");
            }
        }
    }

    /// Records an unknown field.
    pub(crate) fn unknown(&mut self, node: Node<'_>, name: &str, known: &[&str]) {
        let part = known.iter().copied().filter(|known| name.len() > 3 && known.contains(name));
        let near = nearest(name, known.iter().copied()).or(part.min_by_key(|known| known.len()));
        let hint = match near {
            Some(nearest) => format!("did you mean {nearest:?}?"),
            None => format!("the known ones are {}", known.join(", ")),
        };
        self.note(node.value.range(), node.field, format!("there is no such field; {hint}"));
    }

    pub(crate) fn mismatch(&mut self, node: Node<'_>, wanted: &str) {
        let have = match node.value {
            Value::StringLit(text) => format!("the string {:?}", shortened(&text.value)),
            Value::NumberLit(number) => shortened(number.value),
            Value::BooleanLit(flag) => flag.value.to_string(),
            Value::Object(_) => "an object".to_owned(),
            Value::Array(_) => "a list".to_owned(),
            Value::NullKeyword(_) => "null".to_owned(),
        };
        self.note(node.value.range(), node.field, format!("must be {wanted}, not {have}"));
    }

    pub(crate) fn string<'v>(&mut self, node: Node<'v>) -> Option<&'v str> {
        if let Value::StringLit(text) = node.value {
            Some(&text.value)
        } else {
            self.mismatch(node, "a string");
            None
        }
    }

    /// A text that is safe to print and has at most this many characters.
    pub(crate) fn words(&mut self, node: Node<'_>, most: usize) -> Option<String> {
        let text = self.string(node)?;
        let long = text.chars().count();
        if text.chars().any(disturbs) || long > most {
            let message = if long > most {
                format!("has {long} characters: write {most} at most")
            } else {
                "must not have control characters: write plain text in one line".to_owned()
            };
            self.note(node.value.range(), node.field, message);
            return None;
        }
        Some(text.to_owned())
    }

    pub(crate) fn boolean(&mut self, node: Node<'_>) -> Option<bool> {
        if let Value::BooleanLit(flag) = node.value {
            Some(flag.value)
        } else {
            self.mismatch(node, "true or false");
            None
        }
    }

    pub(crate) fn one_of<T: Copy>(&mut self, node: Node<'_>, words: &[(&str, T)]) -> Option<T> {
        let text = self.string(node)?;
        let found = words.iter().find(|(word, _)| *word == text);
        if found.is_none() {
            let words: Vec<_> = words.iter().map(|(word, _)| format!("{word:?}")).collect();
            self.mismatch(node, &words.join(" or "));
        }
        found.map(|(_, value)| *value)
    }

    pub(crate) fn number(&mut self, node: Node<'_>, least: u64, most: u64) -> Option<u64> {
        let number = match node.value {
            Value::NumberLit(number) => number.value.parse().ok(),
            _ => None,
        };
        let number = number.filter(|number| (least..=most).contains(number));
        if number.is_none() {
            self.mismatch(node, &format!("a whole number from {least} to {most}"));
        }
        number
    }

    pub(crate) fn small(&mut self, node: Node<'_>, least: u16, most: u16) -> Option<u16> {
        self.number(node, least.into(), most.into()).and_then(|number| number.try_into().ok())
    }

    pub(crate) fn size(&mut self, node: Node<'_>, least: u64, most: u64) -> Option<usize> {
        self.number(node, least, most).and_then(|number| number.try_into().ok())
    }

    pub(crate) fn port(&mut self, node: Node<'_>) -> Option<Port> {
        self.number(node, 1, 65_535).and_then(Port::new)
    }

    /// The elements of a list, each with the field `name[index]`.
    pub(crate) fn list<T>(
        &mut self,
        node: Node<'_>,
        mut read: impl FnMut(&mut Self, Node<'_>) -> Option<T>,
    ) -> Option<Vec<T>> {
        let Value::Array(ast::Array { elements, .. }) = node.value else {
            self.mismatch(node, "a list [ … ]");
            return None;
        };
        let read: Vec<_> = elements
            .iter()
            .enumerate()
            .map(|(index, value)| {
                let field = format!("{}[{index}]", node.field);
                read(self, Node { value, field: &field })
            })
            .collect();
        read.into_iter().collect()
    }
}
