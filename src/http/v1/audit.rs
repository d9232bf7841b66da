//! `GET /audit`: the events that `styxy audit` shows. 1.x answered an empty list under this path.

use std::sync::Arc;

use axum::{
    Extension, Json,
    extract::{Query, State},
    response::{IntoResponse, Response},
};
use serde_json::{Value as Body, json};

use super::super::{
    connection::Peer,
    routes::{Failure, Parameters, nobody_reads},
};
use crate::{
    audit::past::{self, EVENTS, Found, PastError, query::known_action},
    broker::{Broker, past::Unread},
    error::{Error, Shortage},
    lease::{Client, Transport},
    request::{once, unknown},
    word::disturbs,
};

/// The most events of an answer.
const MOST_EVENTS: usize = 10_000;

/// The keys of the query.
const PARAMETERS: [&str; 8] =
    ["action", "service_type", "port", "project_path", "instance_id", "since", "until", "limit"];

/// The last events that match. Only those of the user.
pub(in crate::http) async fn audit(
    State(broker): State<Arc<Broker>>,
    Extension(client): Extension<Client>,
    Extension(peer): Extension<Arc<Peer>>,
    parameters: Parameters,
) -> Result<Response, Failure> {
    let Query(parameters) = parameters?;
    let (query, limit) = read(parameters)?;
    // Ten thousand events take long to be written down, and other requests must not wait.
    let written = |found: &Found| Json(answer(found)).into_response();
    let found = tokio::select! {
        found = broker.past_events(query, limit, written) => found,
        // Over TCP it may only have said all that it has to say.
        () = peer.hung_up(client.transport), if client.transport != Transport::Tcp => {
            return Err(nobody_reads());
        }
    };
    match found {
        Ok(written) => Ok(written),
        Err(Unread::Past(error)) if error.is_no_journal() => {
            let message = error.to_string();
            let answer = json!({
                "success": true, "enabled": false, "message": message, "recent_events": [], "truncated": false,
            });
            Ok(Json(answer).into_response())
        }
        Err(unread) => Err(refusal(unread)),
    }
}

fn answer(found: &Found) -> Body {
    let mut answer = json!({
        "success": true,
        "enabled": true,
        "recent_events": found.to_json(),
        "truncated": found.is_part,
    });
    if let Some(why) = found.instead {
        answer["message"] =
            format!("{why}; these events are from the log of a private service").into();
    }
    answer
}

/// The query, and the most events that it is to find.
fn read(parameters: Vec<(String, String)>) -> Result<(past::Query, usize), Error> {
    let (mut query, mut limit, mut single) = (past::Query::default(), EVENTS, Vec::new());
    for (key, value) in parameters {
        match key.as_str() {
            "action" => query.actions.push(known_action(&value)?),
            "service_type" => query.types.push(value.parse()?),
            "port" => query.ports.push(value.parse()?),
            "project_path" => query.projects.push(value.parse()?),
            "instance_id" => query.instances.push(value.parse()?),
            _ => single.push((key, value)),
        }
    }
    for (key, value) in once(single)? {
        match key.as_str() {
            "since" => query.since = Some(time(&key, value)?),
            "until" => query.until = Some(time(&key, value)?),
            "limit" => {
                limit =
                    value.parse().ok().filter(|limit| *limit <= MOST_EVENTS).ok_or_else(|| {
                        Error::invalid(format!(
                            "limit must be a whole number of at most {MOST_EVENTS}"
                        ))
                    })?;
            }
            _ => return Err(unknown("parameter", &key, &PARAMETERS)),
        }
    }
    Ok((query, limit))
}

/// A time, as far as it can be an argument of a command.
fn time(key: &str, text: String) -> Result<String, Error> {
    if text.contains(disturbs) {
        return Err(Error::invalid(format!("{key} has a control character"))
            .suggest("give a time such as 2026-11-23 09:00 or 1 hour ago"));
    }
    Ok(text)
}

fn refusal(unread: Unread) -> Failure {
    match unread {
        Unread::Past(error) => match (error.of_query(), error) {
            (Some(of_query), _) => of_query.into(),
            (None, PastError::System(error)) => Shortage::of(&error).map_or_else(
                || unavailable(&error.to_string()),
                |shortage| Error::from(shortage).into(),
            ),
            (None, error) => unavailable(&error.to_string()),
        },
        Unread::Late(limit) => {
            unavailable(&format!("the journal was not read within {} s", limit.as_secs()))
        }
        Unread::Ending => unavailable("the service is ending"),
    }
}

fn unavailable(message: &str) -> Failure {
    let hint = "try again, or ask for fewer events with since, until and limit";
    Failure::no_journal(Error::invalid(message).suggest(hint))
}
