//! Showing the service the configuration that this command sees, where the service does not see it.

use std::time::Duration;

use serde_json::Value as Json;

use super::{Call, Failure, deliver};
use crate::{config::Seen, surroundings::user};

/// The number of retries and their interval while the service restarts to see a replaced folder.
const TRIES: u32 = 100;
const PAUSE: Duration = Duration::from_millis(100);

/// The fingerprint of the configuration that this command sees.
pub(super) fn fingerprint() -> String {
    Seen::of(&user().config()).fingerprint()
}

/// The call with this fingerprint, if it depends on the configuration.
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

/// Sends the service the configuration files as this command sees them, and has it read them. The answer has
/// the `problems`, and `elsewhere` if the service reads another folder.
pub async fn show() -> Result<Json, Failure> {
    let seen = Seen::of(&user().config()).with_texts();
    let call = Call::TakeConfiguration { seen };
    let mut answer = deliver(&call).await;
    if answer.as_ref().is_ok_and(|answer| answer["again"] == true) {
        // The service exits, and one of the next calls starts it again.
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
