//! Showing the service what this command sees of the configuration, where the service does not see it.

use std::time::Duration;

use serde_json::Value as Json;

use super::{Call, Failure, deliver};
use crate::{config::Seen, surroundings::user};

/// How often and how soon to ask again while the service restarts to see a replaced folder.
const TRIES: u32 = 100;
const PAUSE: Duration = Duration::from_millis(100);

/// The fingerprint of what this command sees.
pub(super) fn fingerprint() -> String {
    Seen::of(&user().config()).fingerprint()
}

/// The call with what this command sees, if it depends on the configuration.
pub(super) fn saying(call: &Call) -> Option<Call> {
    let mut call = call.clone();
    match &mut call {
        Call::Allocate { options, .. } | Call::Suggest { options, .. } => {
            options.put("config_seen", fingerprint());
            Some(call)
        }
        _ => None,
    }
}

/// Shows the service the files of the configuration as this command sees them, and has it read them. The answer has the
/// `problems`, and `elsewhere` if the service reads another folder.
pub async fn show() -> Result<Json, Failure> {
    let seen = Seen::of(&user().config()).with_texts();
    let call = Call::TakeConfiguration { seen };
    let mut answer = deliver(&call).await;
    if answer.as_ref().is_ok_and(|answer| answer["again"] == true) {
        // The service ends, and is started again by one of the next calls.
        for _ in 0..TRIES {
            tokio::time::sleep(PAUSE).await;
            answer = deliver(&call).await;
            match &answer {
                Ok(answer) if answer["again"] == true => {}
                Err(Failure::Unreachable(_) | Failure::BrokenOff(_)) => {}
                _ => break,
            }
        }
    }
    answer
}
