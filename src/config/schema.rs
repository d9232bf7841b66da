//! The JSON Schema that editors use is generated from the types that are read and written. It says what a
//! single file can say wrong; what only shows beside other layers, such as overlapping ranges, it cannot.

use std::{env, fs};

use serde_json::{Value as Json, json};

use super::{BUILT_IN, SCHEMA, Text, layer::Layer, merge};

/// The schema of a layer.
fn generated() -> String {
    let mut schema = serde_json::to_value(schemars::schema_for!(Layer)).unwrap();
    only_names_may_be_null(&mut schema);
    let mut text = serde_json::to_string_pretty(&schema).unwrap();
    text.push('\n');
    text
}

/// A field that is not given is left out; null stands only where a name is to be removed.
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
fn the_schema_that_ships_is_the_one_of_the_types() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/config/config.schema.json");
    if env::var_os("STYXY_WRITE_SCHEMA").is_some() {
        fs::write(path, generated()).unwrap();
        return;
    }
    assert!(SCHEMA == generated(), "STYXY_WRITE_SCHEMA=1 cargo test schema writes {path}");
}

/// What is wrong with a file that stands alone.
fn problems(text: &str) -> Vec<String> {
    let text = Text { path: "x.json".into(), text: text.to_owned() };
    merge(&[text]).problems.iter().map(ToString::to_string).collect()
}

#[test]
fn the_schema_and_the_checks_agree() {
    let schema = jsonschema::validator_for(&serde_json::from_str(SCHEMA).unwrap()).unwrap();
    let built_in: Json = serde_json::from_str(BUILT_IN).unwrap();
    assert!(schema.is_valid(&built_in));
    let mut both_refuse = 0;
    for (text, expected) in super::tests::cases() {
        let Ok(json) = serde_json::from_str::<Json>(&text) else { continue };
        let (by_schema, by_checks) = (schema.is_valid(&json), problems(&text).is_empty());
        // Every file that the checks take, the schema takes; what it refuses, they refuse.
        assert!(by_schema || !by_checks, "the schema alone refuses {text}");
        if let Some(seen_by_schema) = expected {
            assert_eq!(!by_schema, seen_by_schema, "{text}: {:?}", problems(&text));
            both_refuse += usize::from(seen_by_schema);
        }
    }
    assert!(both_refuse >= 40, "only {both_refuse} files are refused by both");
}
