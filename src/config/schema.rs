//! The JSON Schema for editors is generated from the types that are read and written. It detects mistakes
//! within a single file, but not those that depend on other layers, such as overlapping ranges.

use std::{env, fs, path::Path};

use serde_json::{Value as Json, json};

use super::{
    BUILT_IN, PROGRAMS, SCHEMA,
    layer::Layer,
    tests::{
        broken::problems_of,
        corpus::{
            self,
            mutants::{Mutant, mutants},
        },
    },
};

/// The schema of a type, for a file that people write.
fn generated<T: schemars::JsonSchema>() -> String {
    let mut schema = serde_json::to_value(schemars::schema_for!(T)).unwrap();
    only_names_may_be_null(&mut schema);
    let mut text = serde_json::to_string_pretty(&schema).unwrap();
    text.push('\n');
    text
}

/// A field without a value is omitted; null is allowed only to remove a name.
fn only_names_may_be_null(schema: &mut Json) {
    match schema {
        Json::Object(fields) => {
            if let Some(Json::Object(properties)) = fields.get_mut("properties") {
                for property in properties.values_mut() {
                    without_null(property);
                }
            }
            fields.values_mut().for_each(only_names_may_be_null);
        }
        Json::Array(schemas) => schemas.iter_mut().for_each(only_names_may_be_null),
        _ => {}
    }
}

fn without_null(schema: &mut Json) {
    let Json::Object(fields) = schema else { return };
    if let Some(Json::Array(types)) = fields.get_mut("type") {
        types.retain(|name| name != "null");
        if let [only] = types.as_slice() {
            let only = only.clone();
            fields.insert("type".to_owned(), only);
        }
    }
    if let Some(Json::Array(any)) = fields.get_mut("anyOf") {
        any.retain(|one| *one != json!({"type": "null"}));
        if let [Json::Object(only)] = any.as_slice() {
            let only = only.clone();
            fields.remove("anyOf");
            fields.extend(only);
        }
    }
}

#[test]
fn the_schemas_that_ship_are_those_of_the_types() {
    let schemas = [
        ("config/config.schema.json", SCHEMA, generated::<Layer>()),
        #[cfg(feature = "project")]
        (
            "config/project.schema.json",
            crate::project::declared::SCHEMA,
            generated::<crate::project::declared::Declared>(),
        ),
    ];
    for (path, ships, generated) in schemas {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
        if env::var_os("STYXY_WRITE_SCHEMA").is_some() {
            fs::write(path, generated).unwrap();
        } else {
            let path = path.display();
            assert!(ships == generated, "STYXY_WRITE_SCHEMA=1 cargo test schema writes {path}");
        }
    }
}

/// Whether the schema rejects the text; `None` if it is not JSON.
fn refused_by(schema: &jsonschema::Validator, text: &[u8]) -> Option<bool> {
    Some(!schema.is_valid(&serde_json::from_slice(text).ok()?))
}

fn validator() -> jsonschema::Validator {
    jsonschema::validator_for(&serde_json::from_str(SCHEMA).unwrap()).unwrap()
}

#[test]
fn the_schema_takes_what_is_built_in() {
    for text in [BUILT_IN, PROGRAMS] {
        assert_eq!(refused_by(&validator(), text.as_bytes()), Some(false));
    }
}

#[test]
fn the_schema_sees_of_every_broken_file_what_it_can_see() {
    let schema = validator();
    let cases = corpus::by_hand();
    for case in &cases {
        assert_eq!(refused_by(&schema, &case.bytes), case.schema_sees_it, "{}", case.title);
    }
    let seen = cases.iter().filter(|case| case.schema_sees_it == Some(true)).count();
    assert!(seen >= 40, "only {seen} files are refused by both");
}

#[test]
fn what_the_schema_or_a_parser_refuses_the_checks_refuse() {
    let schema = validator();
    let (mut good, mut seen, mut unseen, mut not_json) = (0, 0, 0, 0);
    for Mutant { how, text } in mutants().take(1_000) {
        let by_checks = !problems_of(Path::new("config.json"), text.as_bytes()).is_empty();
        let by_schema = refused_by(&schema, text.as_bytes());
        assert!(by_checks || by_schema == Some(false), "the checks take {how}:\n{text}");
        match by_schema {
            None => not_json += 1,
            Some(true) => seen += 1,
            Some(false) if by_checks => unseen += 1,
            Some(false) => good += 1,
        }
    }
    // Otherwise the mutants would show nothing.
    assert!(
        good >= 50 && not_json >= 50 && seen >= 50 && unseen >= 20,
        "{good} {not_json} {seen} {unseen}"
    );
}
