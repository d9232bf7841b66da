//! Requests: what a client can ask for, validated completely before anything happens.
//!
//! - `allocate`: a request for a port
//! - `ending`: which leases a client ends, and why
//! - `filter`: which leases a request applies to
//! - `listing`: which leases or remembered ports to list, and how many at once
//! - `lookup`: which service of a project to look up
//! - `owner`: the owner of a lease, and instances
//! - this file: parsing options

mod allocate;
mod ending;
mod filter;
mod listing;
mod lookup;
mod owner;

pub use allocate::AllocateRequest;
pub use ending::Ending;
pub use filter::Filter;
pub use listing::{Listing, MemoryListing};
pub use lookup::LookupRequest;
pub use owner::{InstanceRequest, OwnerRequest};

use std::collections::HashSet;

use crate::{
    error::Error,
    port::Port,
    service_type::{ServiceTypeName, nearest},
    value::Value,
    word::shortened,
};

/// The maximum number of ports in one request.
pub const MOST_PORTS: u16 = 1_000;

/// The longest time limit, in seconds: a year.
pub const LONGEST_TTL: u64 = 31_536_000;

/// The longest interval between two heartbeats, in seconds: a day.
pub const LONGEST_HEARTBEAT: u64 = 86_400;

/// Everything that is wrong with a request, so that all of it is reported at once.
#[derive(Default)]
struct Problems(Vec<String>);

impl Problems {
    fn note<T>(&mut self, result: Result<T, Error>) -> Option<T> {
        result.map_err(|error| self.0.push(error.to_string())).ok()
    }

    fn or<T>(self, request: T) -> Result<T, Error> {
        if self.0.is_empty() { Ok(request) } else { Err(Error::invalid(self.0.join("; also: "))) }
    }
}

/// The options of a request, if none is given twice: one of two values would be lost.
pub(crate) fn once<K: AsRef<str>, V>(options: Vec<(K, V)>) -> Result<Vec<(K, V)>, Error> {
    let mut keys = HashSet::new();
    match options.iter().map(|(key, _)| key.as_ref()).find(|key| !keys.insert(*key)) {
        Some(key) => Err(Error::invalid(format!("{} is given twice", shortened(key)))
            .suggest("give it once, and send a request for each value")),
        None => Ok(options),
    }
}

/// Stands in for an invalid type name, so that the other options are still validated.
fn placeholder() -> ServiceTypeName {
    "x".parse().expect("a letter is a name")
}

fn word<T: std::str::FromStr<Err = Error>>(key: &str, value: &Value) -> Result<T, Error> {
    match value {
        Value::Str(text) => text.parse(),
        other => Err(mismatch(key, "a string", other)),
    }
}

fn flag(key: &str, value: &Value) -> Result<bool, Error> {
    match value {
        Value::Bool(flag) => Ok(*flag),
        other => Err(mismatch(key, "true or false", other)),
    }
}

fn number(value: &Value) -> Option<u64> {
    match *value {
        Value::U16(number) => Some(number.into()),
        Value::U32(number) => Some(number.into()),
        Value::U64(number) => Some(number),
        _ => None,
    }
}

/// A whole number from 1 to `most`.
fn whole(key: &str, value: &Value, most: u64) -> Result<u64, Error> {
    number(value)
        .filter(|number| (1..=most).contains(number))
        .ok_or_else(|| mismatch(key, &format!("a whole number from 1 to {most}"), value))
}

/// The port in the value of this key.
pub(crate) fn port(key: &str, value: &Value) -> Result<Port, Error> {
    number(value)
        .and_then(Port::new)
        .ok_or_else(|| mismatch(key, "a number from 1 to 65535", value))
}

/// The error of a key whose value is not what is wanted.
pub(crate) fn mismatch(key: &str, wanted: &str, have: &Value) -> Error {
    let have = match have {
        Value::Bool(value) => value.to_string(),
        Value::Str(text) => format!("the string {:?}", shortened(text)),
        Value::Other(words) => words.clone(),
        other => number(other).map_or_else(|| "a list".to_owned(), |number| number.to_string()),
    };
    Error::invalid(format!("{key} must be {wanted}, not {have}"))
}

/// Names the right option in an error: two options may share a type, and its errors name only one of them.
fn renamed(error: Error, from: &str, to: &str) -> Error {
    Error { message: error.message.replace(from, to), ..error }
}

/// The error of a key that is not one of the known ones.
pub(crate) fn unknown(what: &str, key: &str, known: &[&str]) -> Error {
    let error = Error::invalid(format!("there is no {what} {:?}", shortened(key)));
    match nearest(key, known.iter().copied()) {
        Some(nearest) => error.suggest(format!("did you mean {nearest:?}?")),
        None if known.is_empty() => error,
        None if known.len() == 1 => error.suggest(format!("the known one is {}", known[0])),
        None => error.suggest(format!("the known ones are {}", known.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::port::Protocol;

    fn parse(service_type: &str, options: &[(&str, Value)]) -> Result<AllocateRequest, Error> {
        AllocateRequest::parse(service_type, options.iter().cloned())
    }

    #[test]
    fn a_whole_request_is_read() {
        let request = parse(
            "dev",
            &[
                ("service_name", "web".into()),
                ("port", Value::U32(3001)),
                ("strict", true.into()),
                ("protocol", "udp".into()),
            ],
        )
        .unwrap();
        assert_eq!(request.service_name.unwrap().as_str(), "web");
        assert_eq!(request.port, Port::new(3001));
        assert!(request.strict);
        assert_eq!(request.protocol, Some(Protocol::Udp));
    }

    #[test]
    fn an_owner_is_named_once_and_completely() {
        let owner = |options: &[(&str, Value)]| parse("dev", options).map(|r| r.owner);
        let pid = ("pid", Value::U32(7));
        let unit = ("unit", Value::from("web.service"));
        assert!(matches!(owner(&[]), Ok(OwnerRequest::None)));
        assert!(matches!(owner(std::slice::from_ref(&pid)), Ok(OwnerRequest::Pid(7))));
        assert!(matches!(owner(std::slice::from_ref(&unit)), Ok(OwnerRequest::Unit(_))));
        let connection = ("owner", Value::from("connection"));
        assert!(matches!(owner(std::slice::from_ref(&connection)), Ok(OwnerRequest::Connection)));
        for wrong in [
            vec![pid.clone(), unit.clone()],
            vec![pid.clone(), connection],
            vec![("owner", "process".into())],
            vec![("owner", "unit".into()), pid],
            vec![("owner", "somebody".into())],
            vec![("unit", "no-suffix".into())],
        ] {
            assert!(owner(&wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn every_wrong_option_is_named_at_once() {
        let error = parse(
            "no such!",
            &[("port", Value::U64(70_000)), ("strcit", true.into()), ("service_name", 7u16.into())],
        )
        .unwrap_err();
        let text = error.to_string();
        for part in [
            "service_type",
            "port must be",
            "did you mean \"strict\"?",
            "service_name must be a string, not 7",
        ] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
    }

    #[test]
    fn a_mapping_asks_for_one_port_of_a_project_and_nothing_else() {
        let project = ("project_path", Value::from("/shop"));
        let asked = ("asked", Value::U16(3001));
        let request = parse("remap", &[project.clone(), asked.clone()]).unwrap();
        assert_eq!((request.asked, request.remap), (Port::new(3001), None));
        assert!(request.clone().for_socket().is_err());
        let conflict = ("remap", Value::from("conflict"));
        let request = parse("remap", &[project.clone(), asked.clone(), conflict.clone()]).unwrap();
        assert_eq!(request.remap, Some(crate::lease::Remap::Conflict));
        let refused = |more: &[(&str, Value)], words: &[&str]| {
            let error = parse("remap", more).unwrap_err().to_string();
            assert!(words.iter().all(|words| error.contains(words)), "{words:?} of {error}");
        };
        refused(&[conflict], &["give asked"]);
        refused(&[project.clone(), ("asked", Value::U16(0))], &["asked must be a number from 1"]);
        refused(&[project.clone(), asked.clone(), ("remap", "off".into())], &["give \"private\""]);
        refused(
            &[asked.clone(), ("protocol", "both".into())],
            &["give project_path", "tcp or udp"],
        );
        let id = Value::from("5f0c7b9e-3f53-4d2c-9a3e-0f6f1f3f7a11");
        let wrong = [
            ("port", Value::U16(3002)),
            ("template", "main".into()),
            ("strict", true.into()),
            ("count", Value::U16(2)),
            ("claim", true.into()),
            ("use_claim", true.into()),
            ("within", id),
            ("singleton_key", "a".into()),
            ("adopt", true.into()),
        ];
        let all: Vec<_> = [project, asked].into_iter().chain(wrong.clone()).collect();
        let words: Vec<_> = wrong.iter().map(|(key, _)| format!("{key} cannot be given")).collect();
        refused(&all, &words.iter().map(String::as_str).collect::<Vec<_>>());
        refused(&[("asked", Value::U16(1)), ("hold", "socket".into())], &["AllocateSocket"]);
    }

    #[test]
    fn strict_without_a_port_makes_no_sense() {
        assert!(parse("dev", &[("strict", true.into())]).is_err());
    }

    #[test]
    fn a_filter_knows_its_keys() {
        let filter = Filter::of_memory([("asked", Value::U16(3001))]).unwrap();
        assert_eq!(filter.some().unwrap().asked, Port::new(3001));
        assert!(Filter::parse([("prot", Value::U16(1))]).is_err());
        let filter = Filter::parse([("port", Value::U16(3000))]).unwrap();
        assert_eq!(filter.port, Port::new(3000));
    }
}
