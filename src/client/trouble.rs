//! What an error of the bus means for a command: whether a service is there.

use zbus::fdo;

use super::{CallError, Failure};
use crate::{dbus::ERROR_PREFIX, error::ErrorKind};

/// The prefixes of the errors of the bus and of systemd that say why a service was not started.
const ACTIVATION: [&str; 2] = ["org.freedesktop.systemd1.", "org.freedesktop.DBus.Error.Spawn."];

/// Converts the error of a call. The bus never delivers a call that it answers with one of its own errors of
/// these kinds, so the call was not carried out, and the next transport may be tried.
pub(super) fn of_call(error: zbus::Error) -> CallError {
    match error {
        zbus::Error::MethodError(name, words, reply) => {
            let name = name.as_str();
            let message = words.unwrap_or_else(|| name.to_owned());
            match name.strip_prefix(ERROR_PREFIX) {
                Some(code) => {
                    // An older service sends no such list.
                    let body = reply.body();
                    let body = body.deserialize::<(&str, Vec<String>)>();
                    let suggestions = body.map_or_else(|_| Vec::new(), |(_, list)| list);
                    let kind = ErrorKind::from_code(code);
                    Failure::Refused { kind, message, suggestions }.into()
                }
                None if ACTIVATION.iter().any(|prefix| name.starts_with(prefix)) => {
                    CallError::CannotStart(cannot_start(&message))
                }
                None => Failure::Unreachable(failed(&message)).into(),
            }
        }
        zbus::Error::FDO(error) => of_bus(*error),
        error => Failure::BrokenOff(format!(
            "the session bus broke off, and the service may have done what was asked: {error}"
        ))
        .into(),
    }
}

fn of_bus(error: fdo::Error) -> CallError {
    use fdo::Error as E;
    match error {
        // Nobody has the name, and nobody can be started for it; or the bus is not this user's.
        E::ServiceUnknown(why)
        | E::NoServer(why)
        | E::NoNetwork(why)
        | E::AuthFailed(why)
        | E::AccessDenied(why)
        | E::SpawnServiceNotFound(why) => {
            CallError::Unavailable(format!("the session bus has no styxy service ({why})"))
        }
        // A bus without systemd starts a service itself, which exits if another one is running.
        E::SpawnExecFailed(why)
        | E::SpawnForkFailed(why)
        | E::SpawnChildExited(why)
        | E::SpawnChildSignaled(why)
        | E::SpawnFailed(why)
        | E::SpawnFailedToSetup(why)
        | E::SpawnConfigInvalid(why)
        | E::SpawnServiceNotValid(why)
        | E::SpawnPermissionsInvalid(why)
        | E::SpawnFileInvalid(why)
        | E::SpawnNoMemory(why) => CallError::Unavailable(cannot_start(&why)),
        // dbus-broker reports the first, and dbus-daemon the second after two minutes; the first is also
        // reported if a service exited between two calls to its unique name.
        E::NameHasNoOwner(why) | E::TimedOut(why) => CallError::CannotStart(cannot_start(&why)),
        E::NoReply(why) | E::Disconnected(why) | E::Timeout(why) => Failure::BrokenOff(format!(
            "the service ended before it answered, and may have done what was asked: {why}"
        ))
        .into(),
        E::UnknownMethod(why) => Failure::Refused {
            kind: None,
            message: format!("the service that runs is too old for this command: {why}"),
            suggestions: Vec::new(),
        }
        .into(),
        error => Failure::Unreachable(failed(&error.to_string())).into(),
    }
}

fn cannot_start(why: &str) -> String {
    // dbus-daemon and dbus-broker pass on what systemd says.
    let hint = if why.contains("styxy.socket is masked") {
        ": `systemctl --user unmask styxy.socket`, or with --global as root, lets it start again"
    } else {
        ""
    };
    format!("the session bus cannot start the service ({why}){hint}")
}

fn failed(why: &str) -> String {
    format!("the call failed on the session bus: {why}")
}

#[cfg(test)]
mod tests {
    use zbus::Message;

    use super::*;

    /// An error as it comes from the bus.
    fn reply(name: &str) -> zbus::Error {
        let call = Message::method_call("/", "List").build(&()).unwrap();
        Message::error(&call.header(), name).build(&"some words").unwrap().into()
    }

    #[test]
    fn nobody_there_leads_on_and_somebody_who_fails_is_told() {
        let bus = |name: &str| of_call(reply(&format!("org.freedesktop.DBus.Error.{name}")));
        for absent in
            ["ServiceUnknown", "Spawn.ServiceNotFound", "Spawn.ChildExited", "AccessDenied"]
        {
            assert!(
                matches!(bus(absent), CallError::Unavailable(why) if why.contains("some words"))
            );
        }
        for broken in ["NameHasNoOwner", "TimedOut"] {
            assert!(
                matches!(bus(broken), CallError::CannotStart(why) if why.contains("some words"))
            );
        }
        let failed = of_call(reply("org.freedesktop.systemd1.UnitMasked"));
        assert!(matches!(failed, CallError::CannotStart(_)), "as systemd says it");
        for lost in ["NoReply", "Disconnected"] {
            let miss = bus(lost);
            assert!(
                matches!(miss, CallError::Failed(Failure::BrokenOff(why)) if why.contains("some words"))
            );
        }
        for there in ["Failed", "LimitsExceeded", "InvalidArgs"] {
            let miss = bus(there);
            assert!(
                matches!(miss, CallError::Failed(Failure::Unreachable(why)) if why.contains("some words"))
            );
        }
        let refused = of_call(reply("org.styxy.Styxy1.Error.PortInUse"));
        let CallError::Failed(Failure::Refused { kind, message, .. }) = refused else { panic!() };
        assert_eq!((kind, message.as_str()), (Some(ErrorKind::PortInUse), "some words"));
    }
}
