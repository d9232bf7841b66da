//! JSON values that know their place in the file, so that an error can name line and column.

use std::{collections::BTreeMap, path::Path};

use jsonc_parser::{
    ParseOptions,
    ast::{self, Value},
    common::{Range, Ranged},
    parse_to_ast,
};

use super::Problem;
use crate::{port::Port, service_type::nearest, word::disturbs};

/// Strict JSON: none of the parser's leniencies.
const STRICT: ParseOptions = ParseOptions {
    allow_comments: false,
    allow_loose_object_property_names: false,
    allow_trailing_commas: false,
    allow_missing_commas: false,
    allow_single_quoted_strings: false,
    allow_hexadecimal_numbers: false,
    allow_unary_plus_numbers: false,
    allow_bare_decimal_point_numbers: false,
    allow_non_finite_numbers: false,
    allow_extended_string_escapes: false,
};

/// The file that is being read; problems are noted in it.
pub(super) struct Source<'a> {
    pub(super) file: &'a Path,
    pub(super) text: &'a str,
    pub(super) problems: Vec<Problem>,
    /// Where each field is.
    pub(super) places: BTreeMap<String, Range>,
}

/// A value with the path to its field.
#[derive(Clone, Copy)]
pub(super) struct Node<'v> {
    pub(super) value: &'v Value<'v>,
    pub(super) field: &'v str,
}

impl<'a> Source<'a> {
    /// A file that nothing of is read yet.
    pub(super) fn new(file: &'a Path, text: &'a str) -> Self {
        Self { file, text, problems: Vec::new(), places: BTreeMap::new() }
    }
}

impl Source<'_> {
    /// Notes a problem at a place.
    pub(super) fn note(&mut self, range: Range, field: &str, message: impl Into<String>) {
        self.problems.push(Problem {
            file: self.file.to_owned(),
            place: Some(self.line_and_column(range)),
            field: field.to_owned(),
            message: message.into(),
        });
    }

    /// Notes a problem of a field that was read before.
    pub(super) fn note_field(&mut self, field: &str, message: impl Into<String>) {
        let range = self.places.get(field).copied().unwrap_or(Range::new(0, 0));
        self.note(range, field, message);
    }

    /// Line and column, counted from 1.
    pub(super) fn line_and_column(&self, range: Range) -> (usize, usize) {
        let before = &self.text[..range.start.min(self.text.len())];
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
    }

    /// Parses the text and calls `read` with each field of the object that it must be.
    pub(super) fn parse(&mut self, read: impl FnMut(&mut Self, &str, Node<'_>)) {
        match parse_to_ast(self.text, &jsonc_parser::CollectOptions::default(), &STRICT) {
            Ok(parsed) => match &parsed.value {
                Some(value) => self.fields(Node { value, field: "" }, read),
                None => self.note(Range::new(0, 0), "", "the file is empty: write {} at least"),
            },
            Err(error) => {
                self.note(error.range(), "", format!("this is not JSON: {}", error.kind()));
            }
        }
    }

    /// Calls `read` with the name and value of each field of an object.
    pub(super) fn fields(
        &mut self,
        node: Node<'_>,
        mut read: impl FnMut(&mut Self, &str, Node<'_>),
    ) {
        let Value::Object(object) = node.value else {
            return self.mismatch(node, "an object { … }");
        };
        for (index, property) in object.properties.iter().enumerate() {
            let name = property.name.as_str();
            let field = match node.field {
                "" => name.to_owned(),
                parent => format!("{parent}.{name}"),
            };
            let twice = object.properties[..index].iter().any(|p| p.name.as_str() == name);
            if twice {
                self.note(property.range, &field, "this field is given twice: keep one of the two");
            } else {
                self.places.insert(field.clone(), property.value.range());
                read(self, name, Node { value: &property.value, field: &field });
            }
        }
    }

    /// Notes a field that nothing reads.
    pub(super) fn unknown(&mut self, node: Node<'_>, name: &str, known: &[&str]) {
        let hint = match nearest(name, known.iter().copied()) {
            Some(nearest) => format!("did you mean {nearest:?}?"),
            None => format!("the known ones are {}", known.join(", ")),
        };
        self.note(node.value.range(), node.field, format!("there is no such field; {hint}"));
    }

    pub(super) fn mismatch(&mut self, node: Node<'_>, wanted: &str) {
        let have = match node.value {
            Value::StringLit(text) => format!("the string {:?}", text.value),
            Value::NumberLit(number) => number.value.to_owned(),
            Value::BooleanLit(flag) => flag.value.to_string(),
            Value::Object(_) => "an object".to_owned(),
            Value::Array(_) => "a list".to_owned(),
            Value::NullKeyword(_) => "null".to_owned(),
        };
        self.note(node.value.range(), node.field, format!("must be {wanted}, not {have}"));
    }

    pub(super) fn string<'v>(&mut self, node: Node<'v>) -> Option<&'v str> {
        if let Value::StringLit(text) = node.value {
            Some(&text.value)
        } else {
            self.mismatch(node, "a string");
            None
        }
    }

    /// A text that can be shown on a terminal, of 500 characters at most.
    pub(super) fn words(&mut self, node: Node<'_>) -> Option<String> {
        let text = self.string(node)?;
        let long = text.chars().count();
        if text.chars().any(disturbs) || long > 500 {
            let message = if long > 500 {
                format!("has {long} characters: 500 are enough")
            } else {
                "must not have control characters".to_owned()
            };
            self.note(node.value.range(), node.field, message);
            return None;
        }
        Some(text.to_owned())
    }

    pub(super) fn boolean(&mut self, node: Node<'_>) -> Option<bool> {
        if let Value::BooleanLit(flag) = node.value {
            Some(flag.value)
        } else {
            self.mismatch(node, "true or false");
            None
        }
    }

    pub(super) fn one_of<T: Copy>(&mut self, node: Node<'_>, words: &[(&str, T)]) -> Option<T> {
        let text = self.string(node)?;
        let found = words.iter().find(|(word, _)| *word == text);
        if found.is_none() {
            let words: Vec<_> = words.iter().map(|(word, _)| format!("{word:?}")).collect();
            self.mismatch(node, &words.join(" or "));
        }
        found.map(|(_, value)| *value)
    }

    pub(super) fn number(&mut self, node: Node<'_>, least: u64, most: u64) -> Option<u64> {
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

    pub(super) fn small(&mut self, node: Node<'_>, least: u16, most: u16) -> Option<u16> {
        self.number(node, least.into(), most.into()).and_then(|number| number.try_into().ok())
    }

    pub(super) fn size(&mut self, node: Node<'_>, least: u64, most: u64) -> Option<usize> {
        self.number(node, least, most).and_then(|number| number.try_into().ok())
    }

    pub(super) fn port(&mut self, node: Node<'_>) -> Option<Port> {
        self.number(node, 1, 65_535).and_then(Port::new)
    }

    /// The elements of a list, each with the field `name[index]`.
    pub(super) fn list<T>(
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
