//! The contract of styxy 1.x over HTTP: `tests/v1/*.json` are tables of requests and answers, each sent in order to one
//! service on the Unix socket, and to another one over TCP.
//!
//! An answer has at least the keys of its row. A text that begins with `$` stands for a value: `$port 3` is the fourth port
//! of the test, `$digits 3` its digits, `$range 0 9` such ports as a range; `$list`, `$number`, `$text`, `$time` and `$uuid` are any of
//! their kind; another name is what a row before has kept of its answer with `keep`.

#[path = "v1/document.rs"]
mod document;
#[path = "v1/mutated.rs"]
mod mutated;
mod support;
#[path = "support/tcp.rs"]
mod tcp;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::TcpListener,
    path::Path,
};

use document::Document;
use nix::sys::signal::Signal;
use serde::Deserialize;
use serde_json::{Map, Value as Json, json};
use support::{Home, end};
use tcp::Door;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    /// `POST /allocate`
    request: String,
    #[serde(default)]
    body: Json,
    #[serde(default = "ok")]
    status: u16,
    answer: Json,
    /// Names, and the keys of the answer whose values they have from here on.
    #[serde(default)]
    keep: BTreeMap<String, String>,
    /// Keys that stand in the answer once, and nowhere deeper, for whoever looks for them as text.
    #[serde(default)]
    once: Vec<String>,
    /// Keys that the answer must not have.
    #[serde(default)]
    without: Vec<String>,
}

fn ok() -> u16 {
    200
}

struct Table {
    document: Document,
    home: Home,
    /// The door over TCP, if the requests are sent there.
    door: Option<Door>,
    kept: BTreeMap<String, Json>,
}

impl Table {
    /// What a text of a table stands for.
    fn meant(&self, text: &str) -> Json {
        let Some(name) = text.strip_prefix('$') else { return text.into() };
        let port = |index: &str| self.home.port(index.parse().unwrap());
        match name.split(' ').collect::<Vec<_>>()[..] {
            ["port", index] => port(index).into(),
            ["digits", index] => port(index).to_string().into(),
            ["range", first, last] => json!([port(first), port(last)]),
            [name] => self.kept.get(name).cloned().unwrap_or_else(|| panic!("{name} is not kept")),
            _ => panic!("{text:?} stands for nothing"),
        }
    }

    fn filled(&self, value: &Json) -> Json {
        match value {
            Json::String(text) => self.meant(text),
            Json::Array(values) => values.iter().map(|value| self.filled(value)).collect(),
            Json::Object(fields) => {
                let fields = fields.iter().map(|(key, value)| (key.clone(), self.filled(value)));
                Json::Object(fields.collect::<Map<_, _>>())
            }
            value => value.clone(),
        }
    }

    /// The place and the reason, if an answer is not as its row says.
    fn mistake(&self, wanted: &Json, got: &Json) -> Option<String> {
        let is = |is_so: bool| (!is_so).then(|| format!("{got} is not {wanted}"));
        match (wanted, got) {
            (Json::String(text), _) => match text.as_str() {
                "$number" => is(got.is_number()),
                "$list" => is(got.is_array()),
                "$text" => is(got.as_str().is_some_and(|text| !text.is_empty())),
                "$time" => is(got.as_str().is_some_and(|t| t.parse::<jiff::Timestamp>().is_ok())),
                "$uuid" => is(got.as_str().is_some_and(|t| t.parse::<uuid::Uuid>().is_ok())),
                text => is(*got == self.meant(text)),
            },
            (Json::Object(wanted), Json::Object(fields)) => {
                wanted.iter().find_map(|(key, value)| {
                    let Some(got) = fields.get(key) else { return Some(format!("no {key}")) };
                    self.mistake(value, got).map(|mistake| format!("{key}: {mistake}"))
                })
            }
            (Json::Array(wanted), Json::Array(values)) if wanted.len() == values.len() => {
                wanted.iter().zip(values).find_map(|(wanted, got)| self.mistake(wanted, got))
            }
            _ => is(wanted == got),
        }
    }

    fn check(&mut self, Row { request, body, status, answer, keep, once, without }: Row) {
        let (method, path) = request.split_once(' ').unwrap();
        let path = path.split_inclusive(['/', '?', '=', '&']).map(|part| {
            let word = part.trim_end_matches(['/', '?', '=', '&']);
            let meant = self.meant(&word.replace('+', " "));
            let meant = meant.as_str().map_or_else(|| meant.to_string(), str::to_owned);
            format!("{meant}{}", &part[word.len()..])
        });
        let path: String = path.collect();
        let body = if body.is_null() { String::new() } else { self.filled(&body).to_string() };
        let got = match &self.door {
            None => self.home.http(method, &path, &body),
            Some(door) => door.http(method, &path, &body),
        };
        assert_eq!(got.status, status, "{request} {body}: {got:?}");
        if let Err(mistake) = self.document.check(method, &path, &got) {
            panic!("{request} {body}: {mistake}\n{:#}", got.body);
        }
        if let Some(mistake) = self.mistake(&answer, &got.body) {
            panic!("{request} {body}: {mistake}\n{:#}", got.body);
        }
        let text = got.body.to_string();
        for key in once {
            assert_eq!(text.matches(&format!("\"{key}\":")).count(), 1, "{request} {body}: {text}");
            // And the newline at its end.
            let length = format!("content-length: {}\r\n", text.len() + 1);
            assert!(got.head.contains(&length), "{request} {body} has spaces: {}", got.head);
        }
        for key in without {
            assert!(got.body.get(&key).is_none(), "{request} {body}: {text}");
        }
        self.kept.extend(keep.into_iter().map(|(name, key)| (name, got.body[key].clone())));
    }
}

/// A home with a type of ten ports, one that runs once, and room for automatic types.
fn configured() -> Home {
    let home = Home::with_ports(40);
    home.configure(
        &json!({
            "service_types": {
                "mine": {"port_range": [home.port(0), home.port(9)], "description": "for tests"},
                "once": {"port_range": [home.port(10), home.port(12)], "instance_behavior": "single"},
                "full": {"port_range": [home.port(13), home.port(13)]},
            },
            "auto_allocation": {
                "min_port": home.port(20), "max_port": home.port(39), "default_chunk_size": 10, "gap_size": 0,
            },
        })
        .to_string(),
    );
    home
}

#[track_caller]
fn holds(name: &str) {
    holds_there(name, false);
    holds_there(name, true);
}

#[track_caller]
fn holds_there(name: &str, over_tcp: bool) {
    let home = configured();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/v1").join(name);
    let rows: Vec<Row> = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    assert!(!rows.is_empty());
    let (service, door) = if over_tcp {
        let (service, door) = Door::open(&home);
        (service, Some(door))
    } else {
        (home.service(), None)
    };
    let listener = TcpListener::bind(("127.0.0.1", home.port(9))).unwrap();
    let mut table = Table { document: Document::read(), home, door, kept: BTreeMap::new() };
    rows.into_iter().for_each(|row| table.check(row));
    drop(listener);
    end(service, Signal::SIGTERM);
}

#[test]
fn ports_are_allocated_listed_and_released() {
    holds("allocations.json");
}

#[test]
fn what_is_new_is_as_it_is_described() {
    holds("today.json");
}

#[test]
fn every_operation_of_the_document_is_in_a_table() {
    let document = Document::read();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/v1");
    let tables = fs::read_dir(folder).unwrap().flatten().map(|entry| entry.path());
    let tables = tables.filter(|path| path.extension().is_some_and(|end| end == "json"));
    let answered: BTreeSet<_> = tables
        .flat_map(|path| {
            let rows: Vec<Row> = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
            rows.into_iter().filter(|row| row.status == 200)
        })
        .filter_map(|row| {
            let (method, path) = row.request.split_once(' ').unwrap();
            document.operation(method, path).map(|operation| operation["operationId"].to_string())
        })
        .collect();
    // tests/events.rs, tests/sight.rs, tests/token.rs, tests/page.rs
    let elsewhere = [
        "events",
        "takeConfiguration",
        "setToken",
        "openPage",
        "beginSession",
        "page",
        "pageScript",
        "pageStyle",
    ];
    let elsewhere = elsewhere.map(|id| format!("{id:?}"));
    let all = document.operations().into_iter().filter(|id| !elsewhere.contains(id));
    let missing: Vec<_> = all.filter(|id| !answered.contains(id)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn instances_register_beat_and_are_listed() {
    holds("instances.json");
}

#[test]
fn ports_are_scanned_and_observed() {
    holds("sockets.json");
}

#[test]
fn the_service_says_how_it_is_doing() {
    holds("service.json");
}
