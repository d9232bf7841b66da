//! Mutants of good configuration files: most are broken, some are as good as before. Which, only the
//! checks and the schema can tell.

use serde_json::{Map, Value as Json, json};

/// One with every field, and some that people might write.
const GOOD: [&str; 6] = [
    r#"{
  "$schema": "file:///usr/share/styxy/config.schema.json",
  "idle_exit_seconds": 60,
  "unused_seconds": 3600,
  "limits": { "leases": 500, "guards": 100, "remembered_ports": 1000 },
  "excluded_ports": [7001, [7020, 7029]],
  "instance_templates": { "main": 0, "night": 7, "dev": null },
  "auto_allocation": {
    "enabled": true,
    "default_chunk_size": 20,
    "placement": "smart",
    "min_port": 20000,
    "max_port": 30000,
    "preserve_gaps": false,
    "gap_size": 5,
    "rules": {
      "db-?": { "chunk_size": 5, "placement": "before", "preferred_range_start": 25000 },
      "monitoring-*": null
    }
  },
  "service_types": {
    "ai": null,
    "mine": {
      "port_range": [7000, 7019],
      "more_port_ranges": [[7030, 7039], [7050, 7059]],
      "preferred_ports": [7002, 7030],
      "instance_behavior": "single",
      "hold": "none",
      "protocol": "both",
      "wait_ms": 500,
      "description": "Ours",
      "examples": ["one", "two"]
    }
  }
}
"#,
    r#"{ "service_types": { "vite": { "port_range": [5173, 5182], "preferred_ports": [5173] } } }"#,
    r#"{ "excluded_ports": [3000, [8080, 8089]], "limits": { "leases": 100 } }"#,
    r#"{
  "auto_allocation": { "enabled": false, "min_port": 40000 },
  "service_types": {
    "dev": { "port_range": [4000, 4099], "preferred_ports": [] },
    "ui": { "port_range": [3000, 3099], "protocol": "udp", "hold": "none" }
  }
}"#,
    include_str!("../../config/default.json"),
    r#"{
  "programs": {
    "Vite": null,
    "mine": {
      "commands": ["mine", "mine.py"],
      "only": ["serve"],
      "except": ["build"],
      "last": "serve",
      "given": ["--port"],
      "arguments": ["--port", "{port}"],
      "after": "serve",
      "variables": { "MINE_PORT": "{port}" },
      "hold": "none"
    }
  }
}
"#,
];

/// A text that was good, and how it was changed.
#[derive(Debug)]
pub struct Mutant {
    pub how: String,
    pub text: String,
}

/// The same mutants on every run, without an end.
pub fn mutants() -> impl Iterator<Item = Mutant> {
    let mut dice = Dice(4);
    (0..).map(move |_| {
        let good = dice.one_of(&GOOD);
        match dice.below(6) {
            0 => delete(&mut dice, good),
            1 => insert(&mut dice, good),
            2 => replace(&mut dice, good),
            3 => cut(&mut dice, good),
            4 => swap_value(&mut dice, good),
            _ => rename(&mut dice, good),
        }
    })
}

/// Numbers that look random and are the same on every run (splitmix64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((x ^ (x >> 31)) % u64::try_from(end).unwrap()).unwrap()
    }

    fn one_of<'a, T>(&mut self, things: &'a [T]) -> &'a T {
        &things[self.below(things.len())]
    }

    /// A character of the text; all that are good are ASCII.
    fn place(&mut self, text: &str) -> usize {
        self.below(text.len())
    }

    fn character(&mut self) -> char {
        *self.one_of(&[
            '{', '}', '[', ']', ',', ':', '"', '\\', '-', '0', '9', '.', 'e', 'x', '\n', '\0', 'ü',
            '*',
        ])
    }
}

fn delete(dice: &mut Dice, good: &str) -> Mutant {
    let mut text = good.to_owned();
    let at = dice.place(good);
    let end = (at + 1 + dice.below(3)).min(text.len());
    text.drain(at..end);
    Mutant { how: format!("bytes {at} to {end} deleted"), text }
}

fn insert(dice: &mut Dice, good: &str) -> Mutant {
    let mut text = good.to_owned();
    let (at, new) = (dice.place(good), dice.character());
    text.insert(at, new);
    Mutant { how: format!("{new:?} inserted at {at}"), text }
}

fn replace(dice: &mut Dice, good: &str) -> Mutant {
    let mut text = good.to_owned();
    let (at, new) = (dice.place(good), dice.character());
    text.replace_range(at..=at, &new.to_string());
    Mutant { how: format!("byte {at} replaced by {new:?}"), text }
}

fn cut(dice: &mut Dice, good: &str) -> Mutant {
    let at = dice.place(good);
    Mutant { how: format!("cut off at {at}"), text: good[..at].to_owned() }
}

/// Puts a value of another kind, or at the edge of its kind, in the place of one.
fn swap_value(dice: &mut Dice, good: &str) -> Mutant {
    let mut json: Json = serde_json::from_str(good).unwrap();
    let mut pointers = Vec::new();
    walk(&json, String::new(), &mut pointers);
    let pointer = dice.one_of(&pointers);
    let values = [
        json!(null),
        json!(true),
        json!(-1),
        json!(0),
        json!(3_000),
        json!(3_000.5),
        json!(65_536),
        json!(u64::MAX),
        json!("3000"),
        json!("x".repeat(501)),
        json!("a\u{7}b"),
        json!([]),
        json!([5, 4]),
        json!([[3_000, 3_009]]),
        json!({}),
        json!({"x": 1}),
    ];
    let value = dice.one_of(&values);
    json.pointer_mut(pointer).unwrap().clone_from(value);
    Mutant { how: format!("{pointer:?} is {value}"), text: pretty(&json) }
}

/// Gives a field another name.
fn rename(dice: &mut Dice, good: &str) -> Mutant {
    let mut json: Json = serde_json::from_str(good).unwrap();
    let mut pointers = Vec::new();
    walk(&json, String::new(), &mut pointers);
    pointers.retain(|p| json.pointer(p).and_then(Json::as_object).is_some_and(|o| !o.is_empty()));
    let pointer = dice.one_of(&pointers);
    let object: &mut Map<String, Json> =
        json.pointer_mut(pointer).unwrap().as_object_mut().unwrap();
    let names: Vec<String> = object.keys().cloned().collect();
    let old = dice.one_of(&names);
    let at = dice.place(old);
    let mut new = old.clone();
    match dice.below(4) {
        0 => drop(new.remove(at)),
        1 => new.insert(at, dice.character()),
        2 => new = old.to_uppercase(),
        _ => new = old.repeat(12),
    }
    let value = object.remove(old).unwrap();
    object.insert(new.clone(), value);
    Mutant { how: format!("{pointer:?}: {old} renamed {new:?}"), text: pretty(&json) }
}

fn walk(json: &Json, pointer: String, pointers: &mut Vec<String>) {
    match json {
        Json::Object(fields) => fields.iter().for_each(|(name, value)| {
            let name = name.replace('~', "~0").replace('/', "~1");
            walk(value, format!("{pointer}/{name}"), pointers);
        }),
        Json::Array(values) => (values.iter().enumerate())
            .for_each(|(index, value)| walk(value, format!("{pointer}/{index}"), pointers)),
        _ => {}
    }
    pointers.push(pointer);
}

fn pretty(json: &Json) -> String {
    serde_json::to_string_pretty(json).unwrap()
}
