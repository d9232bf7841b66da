//! Broken configuration files: those of the texts beside this file, and mutants of good ones.
//!
//! The texts hold one file after the other, each with all that is to be said of it:
//!
//! ```text
//! === what is wrong with it, for people
//! problem: LINE:COLUMN FIELD | a part of what is wrong | a part of what to do
//! drop-in            if it stands in the place of the service's own drop-in
//! schema: sees it    or: does not see it; or, if no parser takes it: not JSON
//! file
//! the file, to the next ===
//! ```
//!
//! In a file, «ff» is a byte, and «61*501» so many of them. Below each lies [`DROP_IN`].

#![allow(dead_code, reason = "each test program uses a part of it")]

pub mod mutants;

/// What lies below each of them: the service's own drop-in with a type that has appeared by itself.
pub const DROP_IN: &str = r#"{
  "service_types": {
    "grafana": {
      "port_range": [10000, 10009],
      "created": { "at": "2026-01-31T12:00:00Z", "placement": "after" }
    }
  }
}
"#;

/// A broken file, and what is to be said of it.
#[derive(Debug)]
pub struct Case {
    /// What is wrong with it, for people.
    pub title: String,
    /// Whether it stands in the place of the service's own drop-in.
    pub is_drop_in: bool,
    /// Whether the JSON Schema sees that it is wrong; `None` if it is not JSON at all.
    pub schema_sees_it: Option<bool>,
    /// All that is wrong with it.
    pub problems: Vec<Expected>,
    /// What the file says; not always UTF-8.
    pub bytes: Vec<u8>,
}

/// A problem that is to be told.
#[derive(Debug)]
pub struct Expected {
    /// Line and column.
    pub place: (usize, usize),
    pub field: String,
    /// A part of what is wrong.
    pub wrong: String,
    /// A part of what to do.
    pub remedy: String,
}

/// The files of the texts.
pub fn by_hand() -> Vec<Case> {
    let texts =
        [include_str!("syntax.txt"), include_str!("sections.txt"), include_str!("types.txt")];
    let cases = texts.iter().flat_map(|text| text.split("\n=== "));
    cases.map(|text| case(text.strip_prefix("=== ").unwrap_or(text))).collect()
}

fn case(text: &str) -> Case {
    let (title, mut rest) = text.split_once('\n').unwrap();
    let mut case = Case {
        title: title.to_owned(),
        is_drop_in: false,
        schema_sees_it: None,
        problems: Vec::new(),
        bytes: Vec::new(),
    };
    while let Some((line, after)) = rest.split_once('\n') {
        rest = after;
        match line.split_once(": ").unwrap_or((line, "")) {
            ("problem", problem) => case.problems.push(expected(problem)),
            ("drop-in", _) => case.is_drop_in = true,
            ("schema", "sees it") => case.schema_sees_it = Some(true),
            ("schema", "does not see it") => case.schema_sees_it = Some(false),
            ("not JSON", _) => {}
            ("file", _) => {
                case.bytes = bytes(rest.strip_suffix('\n').unwrap_or(rest));
                return case;
            }
            _ => panic!("{title}: {line}"),
        }
    }
    panic!("{title}: no file");
}

fn expected(text: &str) -> Expected {
    let parts: Vec<&str> = text.split(" | ").collect();
    let [place, wrong, remedy] = parts.as_slice() else { panic!("{text}") };
    let (place, field) = place.split_once(' ').unwrap_or((place, ""));
    let (line, column) = place.split_once(':').unwrap();
    Expected {
        place: (line.parse().unwrap(), column.parse().unwrap()),
        field: String::from_utf8(bytes(field)).unwrap(),
        wrong: (*wrong).to_owned(),
        remedy: (*remedy).to_owned(),
    }
}

/// Turns `«ff»` into a byte, and `«61*501»` into so many of them.
fn bytes(text: &str) -> Vec<u8> {
    let mut parts = text.split('«');
    let mut bytes = parts.next().unwrap().as_bytes().to_vec();
    for part in parts {
        let (code, rest) = part.split_once('»').unwrap();
        let (code, count) = code.split_once('*').unwrap_or((code, "1"));
        let byte = u8::from_str_radix(code, 16).unwrap();
        bytes.extend(std::iter::repeat_n(byte, count.parse().unwrap()));
        bytes.extend(rest.as_bytes());
    }
    bytes
}
