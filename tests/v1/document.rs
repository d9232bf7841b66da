//! Whether an answer is as the `OpenAPI` document says. What it does not name is a mistake, too.

use std::{fs, path::Path};

use serde_json::{Value as Json, json};

use super::support::Answer;

pub struct Document(Json);

impl Document {
    pub fn read() -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/openapi.json");
        let mut document: Json = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
        for schema in document["components"]["schemas"].as_object_mut().unwrap().values_mut() {
            if schema.get("properties").is_some() && schema.get("additionalProperties").is_none() {
                schema["additionalProperties"] = false.into();
            }
        }
        Self(document)
    }

    /// The names of all operations.
    pub fn operations(&self) -> Vec<String> {
        let paths = self.0["paths"].as_object().unwrap().values();
        let operations = paths.flat_map(|path| path.as_object().unwrap().values());
        operations.map(|operation| operation["operationId"].to_string()).collect()
    }

    /// The operation of a request; of paths with and without a variable part, the one without.
    pub fn operation(&self, method: &str, path: &str) -> Option<&Json> {
        let path: Vec<_> = path.split('?').next()?.split('/').collect();
        let fits = |template: &str| {
            let parts: Vec<_> = template.split('/').collect();
            let mut pairs = parts.iter().zip(&path);
            parts.len() == path.len()
                && pairs.all(|(part, word)| part == word || part.starts_with('{'))
        };
        let paths = self.0["paths"].as_object()?;
        let mut found: Vec<_> = paths.iter().filter(|(template, _)| fits(template)).collect();
        found.sort_by_key(|(template, _)| template.contains('{'));
        found.first()?.1.get(method.to_lowercase())
    }

    pub fn check(&self, method: &str, path: &str, answer: &Answer) -> Result<(), String> {
        let operation = self.operation(method, path).ok_or("no such operation")?;
        let status = answer.status.to_string();
        let mut described = &operation["responses"]
            [if operation["responses"].get(&status).is_some() { &status } else { "default" }];
        if let Some(name) = described["$ref"].as_str() {
            described = self.0.pointer(name.trim_start_matches('#')).ok_or("no such answer")?;
        }
        let mut schema = described["content"]["application/json"]["schema"].clone();
        if !schema.is_object() {
            return Err(format!("{status} is not described as JSON"));
        }
        schema["components"] = json!({"schemas": self.0["components"]["schemas"]});
        let validator = jsonschema::validator_for(&schema).map_err(|error| error.to_string())?;
        validator
            .validate(&answer.body)
            .map_err(|error| format!("{error} at {}", error.instance_path()))
    }
}
