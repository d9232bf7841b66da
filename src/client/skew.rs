//! A service that is older than the command: after an upgrade, or beside a command that was installed by hand.
//!
//! No service ignores what it does not know, and a refused call has changed nothing. So the version is queried
//! only after a refusal; an older service is then asked to make room for the installed one, and the call is
//! repeated.

use std::time::Duration;

use serde_json::Value as Json;

use super::{Call, CallError, Failure};
use crate::error::ErrorKind;

/// The version of this command.
const OWN: &str = env!("CARGO_PKG_VERSION");
/// How often to check whether the older service is gone.
const EVERY: Duration = Duration::from_millis(50);

/// Calls the service; if an older one refuses what it does not know, calls its successor.
pub(super) async fn ask<Answer>(
    ask: impl Fn(Call) -> Answer,
    call: &Call,
) -> Result<Json, CallError>
where
    Answer: Future<Output = Result<Json, CallError>>,
{
    let refusal = match ask(call.clone()).await {
        Err(CallError::Failed(Failure::Refused { kind, message, suggestions }))
            if may_be_news(kind) =>
        {
            (kind, message, suggestions)
        }
        result => return result,
    };
    let (kind, message, suggestions) = refusal;
    let version = |status: &Json| status["version"].as_str().map(str::to_owned);
    let running = ask(Call::Status).await.ok().as_ref().and_then(version);
    let Some(running) = running.filter(|running| is_older(running, OWN)) else {
        return Err(Failure::Refused { kind, message, suggestions }.into());
    };
    let makes_room = ask(Call::Restart).await.is_ok_and(|answer| answer["restarting"] == true);
    if !makes_room {
        let message = format!(
            "{message} (the service that runs is styxy {running}, and this command is {OWN}: \
             `systemctl --user restart styxy.service` after installing the newer one for the service, too)"
        );
        return Err(Failure::Refused { kind, message, suggestions }.into());
    }
    loop {
        match ask(Call::Status).await {
            Ok(status) if version(&status).as_ref() == Some(&running) => {}
            // The connection broke: it is shutting down.
            Err(CallError::Failed(Failure::Unreachable(_) | Failure::BrokenOff(_))) => {}
            Ok(_) => return ask(call.clone()).await,
            Err(miss) => return Err(miss),
        }
        tokio::time::sleep(EVERY).await;
    }
}

/// Whether a refusal may mean that the service does not know a member, a key or a value.
fn may_be_news(kind: Option<ErrorKind>) -> bool {
    matches!(kind, None | Some(ErrorKind::InvalidArgument))
}

/// Whether a version is older than another; only numeric versions are compared.
fn is_older(one: &str, other: &str) -> bool {
    let numbers = |version: &str| -> Option<Vec<u64>> {
        let version = version.split(['-', '+']).next()?;
        version.split('.').map(|number| number.parse().ok()).collect()
    };
    matches!((numbers(one), numbers(other)), (Some(one), Some(other)) if one < other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_their_numbers() {
        assert!(is_older("1.9.0", "2.0.0"));
        assert!(is_older("2.9.0", "2.10.0"));
        for (one, other) in [("2.0.0", "2.0.0"), ("2.0.1", "2.0.0"), ("", "2.0.0"), ("x", "y")] {
            assert!(!is_older(one, other), "{one} {other}");
        }
    }
}
