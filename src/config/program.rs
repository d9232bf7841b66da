//! Programs that `styxy run` helps to listen on their port: those of `config/programs.json`, and those of
//! users.

use std::collections::BTreeMap;

use jsonc_parser::ast::Value;
use serde::Serialize;

use super::{
    Text,
    json::{Node, Source},
    merge::edit,
    read,
};
use crate::{service_type::Hold, word::disturbs};

/// The built-in programs: the file `config/programs.json` of the source, which is a layer, too.
pub const PROGRAMS: &str = include_str!("../../config/programs.json");

/// The programs, by their names for people.
pub type Programs = BTreeMap<String, Program>;

/// What is known of a program, and what makes it listen on its port. In a value, `{port}` stands for the port.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(deny_unknown_fields))]
pub struct Program {
    /// What its file, or its module of Python, is called.
    #[cfg_attr(test, schemars(length(min = 1), inner(length(max = 200))))]
    pub commands: Vec<String>,
    /// It listens only if one of these words is among its arguments.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(test, schemars(default, inner(length(max = 200))))]
    pub only: Vec<String>,
    /// It does not listen if one of these is.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(test, schemars(default, inner(length(max = 200))))]
    pub except: Vec<String>,
    /// It listens only if this word is there; a port that follows is the user's.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(length(max = 200)))]
    pub last: Option<String>,
    /// Options by which the user names the port, or the address: then nothing is added.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(test, schemars(default, inner(length(max = 200))))]
    pub given: Vec<String>,
    /// What is added to its arguments.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(test, schemars(default, inner(length(max = 200))))]
    pub arguments: Vec<String>,
    /// The word after which that is added, instead of at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(length(max = 200)))]
    pub after: Option<String>,
    /// Variables that it reads, and what they are set to.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[cfg_attr(test, schemars(default, with = "BTreeMap<String, Word>"))]
    pub variables: BTreeMap<String, String>,
    /// none: its port is granted without a guard, because it binds without reusing the address.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(extend("enum" = ["guard", "none"])))]
    pub hold: Option<Hold>,
}

/// A value of a variable.
#[cfg(test)]
#[derive(schemars::JsonSchema)]
pub struct Word(
    #[schemars(length(max = 200))]
    #[allow(dead_code)]
    String,
);

/// The built-in programs, extended by these files. Invalid parts of the files are ignored.
pub fn programs(texts: &[Text]) -> Programs {
    let mut programs = Programs::new();
    let built_in = Text { path: "config/programs.json".into(), text: PROGRAMS.to_owned() };
    // Most files have no programs, and need not be parsed.
    let layers = texts.iter().filter(|text| text.text.contains("\"programs\""));
    for Text { path, text } in [&built_in].into_iter().chain(layers) {
        let mut source = Source::new(path, text);
        let mut layer = BTreeMap::new();
        source.parse(|source, name, node| {
            if name == "programs" {
                layer = read_programs(source, node);
            }
        });
        put(&mut programs, layer);
    }
    programs
}

/// Merges the programs of a layer; returns the removals that look like mistakes.
pub(super) fn put(
    programs: &mut Programs,
    layer: BTreeMap<String, Option<Program>>,
) -> Vec<(String, String)> {
    edit(programs, layer, |before, program| *before = Some(program))
}

/// Reads the programs of a layer.
pub(super) fn read_programs(
    source: &mut Source<'_>,
    node: Node<'_>,
) -> BTreeMap<String, Option<Program>> {
    let mut programs = BTreeMap::new();
    source.fields(node, |source, name, node| {
        if name.is_empty() || name.chars().count() > 100 || name.chars().any(disturbs) {
            let message =
                "the name of a program has 1 to 100 characters, and no control characters: write another";
            return source.note_at(node, message);
        }
        if let Some(edit) = read::unless_null(node, || program(source, node)) {
            programs.insert(name.to_owned(), edit);
        }
    });
    programs
}

/// A program, if all of it is valid.
fn program(source: &mut Source<'_>, node: Node<'_>) -> Option<Program> {
    let problems = source.problems.len();
    let word = |source: &mut Source<'_>, node: Node<'_>| source.words(node, 200);
    let mut program = Program::default();
    source.fields(node, |source, name, node| {
        let mut words = || source.list(node, word).unwrap_or_default();
        match name {
            "commands" => program.commands = words(),
            "only" => program.only = words(),
            "except" => program.except = words(),
            "given" => program.given = words(),
            "arguments" => program.arguments = words(),
            "last" => program.last = word(source, node),
            "after" => program.after = word(source, node),
            "variables" => source.fields(node, |source, name, node| {
                if name.is_empty() || name.contains('=') || name.chars().any(disturbs) {
                    let message = "is the name of no variable: write one such as PORT";
                    return source.note_at(node, message);
                }
                program.variables.extend(word(source, node).map(|value| (name.to_owned(), value)));
            }),
            "hold" => {
                let words = [Hold::Guard, Hold::None];
                program.hold = source.one_of(node, &words.map(|hold| (hold.as_str(), hold)));
            }
            _ => source.unknown(
                node,
                name,
                &[
                    "after",
                    "arguments",
                    "commands",
                    "except",
                    "given",
                    "hold",
                    "last",
                    "only",
                    "variables",
                ],
            ),
        }
    });
    let is_good = source.problems.len() == problems && matches!(node.value, Value::Object(_));
    if is_good && program.commands.is_empty() {
        source.note_at(node, "needs commands: what its file is called, as [\"vite\"]");
        return None;
    }
    let does_nothing = program.arguments.is_empty() && program.variables.is_empty();
    if is_good && does_nothing && program.hold.is_none() {
        source.note_at(node, "changes nothing: add arguments, variables or hold");
        return None;
    }
    is_good.then_some(program)
}
