//! Validates answers before they are used: what goes into a command line, an environment or stdout must be what it
//! claims to be, whoever sent it.

use serde_json::Value as Json;

use super::{Call, Failure};
use crate::{lease::LeaseId, port::Port, token::TokenHash};

/// The answer to this call, if every port in it is a port and every lease has an id.
pub(super) fn checked(call: &Call, answer: Json) -> Result<Json, Failure> {
    match call {
        Call::Allocate { .. } | Call::Lookup { .. } => granted(answer),
        Call::OpenPage { .. } => {
            let secret = answer["secret"].as_str().map(str::parse::<TokenHash>);
            if matches!(secret, Some(Ok(_))) { sound(answer) } else { Err(unexpected()) }
        }
        _ => sound(answer),
    }
}

/// The answer to a request for a port.
pub(super) fn granted(answer: Json) -> Result<Json, Failure> {
    if is_port(&answer["port"]) { sound(answer) } else { Err(unexpected()) }
}

fn sound(answer: Json) -> Result<Json, Failure> {
    if is_sound(&answer) { Ok(answer) } else { Err(unexpected()) }
}

fn unexpected() -> Failure {
    Failure::Unreachable(
        "the service answered something unexpected, which is not used: is another program in its place?"
            .to_owned(),
    )
}

fn is_sound(answer: &Json) -> bool {
    match answer {
        Json::Array(values) => values.iter().all(is_sound),
        Json::Object(fields) => fields.iter().all(|(key, value)| match (key.as_str(), value) {
            ("port", port) => is_port(port),
            ("ports", Json::Array(ports)) => ports.iter().all(is_port),
            ("lease_id", id) => id.as_str().is_some_and(|id| id.parse::<LeaseId>().is_ok()),
            (_, value) => is_sound(value),
        }),
        _ => true,
    }
}

fn is_port(value: &Json) -> bool {
    value.as_u64().and_then(Port::new).is_some()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_answer_with_anything_else_in_the_place_of_a_port_or_an_id_is_not_used() {
        let id = LeaseId::from_number(1).to_string();
        let allocate = Call::Allocate { service_type: "dev".to_owned(), options: <_>::default() };
        let good = json!({"port": 3000, "lease_id": id, "ports": [3000, 3001], "note": "x"});
        assert_eq!(checked(&allocate, good.clone()).unwrap(), good);
        let open = Call::OpenPage { temporary: false };
        assert!(checked(&open, json!({"secret": "a".repeat(64)})).is_ok());
        for wrong in [json!({}), json!({"secret": "\">".repeat(32)}), json!({"secret": 1})] {
            assert!(checked(&open, wrong.clone()).is_err(), "{wrong}");
        }
        assert!(checked(&Call::Status, json!({"ports": 1_234, "pid": 1})).is_ok());
        assert!(checked(&Call::Types, json!([{"ports": 100}])).is_ok());
        for wrong in [
            json!({"lease_id": id}),
            json!({"port": "3000", "lease_id": id}),
            json!({"port": 0, "lease_id": id}),
            json!({"port": 65_536, "lease_id": id}),
            json!({"port": 3000.5, "lease_id": id}),
            json!({"port": 3000, "lease_id": "x"}),
            json!({"port": 3000, "lease_id": 1}),
            json!({"port": 3000, "ports": ["3000"]}),
            json!({"port": 3000, "conflict": {"port": "x"}}),
        ] {
            assert!(checked(&allocate, wrong.clone()).is_err(), "{wrong}");
        }
    }
}
