//! What is wrong with the arguments of a call, in words for the model, by the schema of the tool: what serde says is meant for
//! people who write Rust.

use serde_json::{Map, Value as Json};

use crate::word::shortened;

/// Says what is wrong with arguments that were not taken. `path` leads to the wrong one, if one is known.
pub(super) fn wrong(schema: &Map<String, Json>, arguments: &Json, path: &str) -> String {
    let none = Map::new();
    let known = schema.get("properties").and_then(Json::as_object).unwrap_or(&none);
    let given = arguments.as_object().unwrap_or(&none);
    if let Some(unknown) = given.keys().find(|name| !known.contains_key(*name)) {
        let known: Vec<_> = known.keys().map(String::as_str).collect();
        let unknown = shortened(unknown);
        return format!(
            "there is no argument {unknown:?}; the known ones are {}",
            known.join(", ")
        );
    }
    let required = schema.get("required").and_then(Json::as_array).into_iter().flatten();
    let mut missing = required.filter_map(Json::as_str).filter(|name| !given.contains_key(*name));
    if let Some(missing) = missing.next() {
        return format!("the argument {missing:?} is missing");
    }
    let name = path.split(['.', '[']).next().unwrap_or_default();
    match (known.get(name), given.get(name)) {
        (Some(schema), Some(given)) => {
            let given = shortened(&given.to_string());
            format!("the argument {name:?} must be {}, and is {given}", kind(schema))
        }
        _ => "the arguments are not what the tool takes".to_owned(),
    }
}

/// What the schema of an argument allows.
fn kind(schema: &Json) -> String {
    let quoted = |values: &Vec<Json>| {
        let values = values.iter().filter(|value| !value.is_null()).map(Json::to_string);
        values.collect::<Vec<_>>().join(" or ")
    };
    if let Some(values) = schema["enum"].as_array() {
        return quoted(values);
    }
    // One that may be left out may also be null.
    let types = match &schema["type"] {
        Json::Array(types) => types.iter().filter_map(Json::as_str).collect(),
        one => one.as_str().into_iter().collect::<Vec<_>>(),
    };
    let number = |key: &str| schema[key].as_u64();
    match types.into_iter().find(|kind| *kind != "null") {
        Some("integer") => match (number("minimum"), number("maximum")) {
            (Some(least), Some(most)) => format!("a whole number from {least} to {most}"),
            (Some(least), None) => format!("a whole number of at least {least}"),
            _ => "a whole number".to_owned(),
        },
        Some("boolean") => "true or false".to_owned(),
        Some("string") => "a string".to_owned(),
        Some("array") => "a list".to_owned(),
        _ => "as its description says".to_owned(),
    }
}
