//! Checks the sandbox by what the service finds in its own process, not by the text of the unit.

use serde_json::Value as Json;

use super::{Findings, units};
use crate::cli::{
    generator,
    status::{PRIVATE, missing, sandbox_of},
};

/// Checks the sandbox of a service that runs as the unit.
pub(super) fn look(findings: &mut Findings, status: &Json) {
    // The request for the status may have started the service, so the manager is queried again.
    let Some(drop_ins) = units::drop_ins_of(status) else {
        return findings.note(
            "sandbox",
            PRIVATE,
            "the units of the package and of `styxy setup` have one",
        );
    };
    let Some(missing) = missing(status) else { return };
    let message = sandbox_of(&missing);
    if missing.is_empty() {
        return findings.ok("sandbox", message);
    }
    match generator::reason(&drop_ins) {
        Some(reason) => findings.warning(
            "sandbox",
            format!("{message}; user namespaces or mounts in them are forbidden here ({reason})"),
            "for the whole sandbox allow them, then run `systemctl --user daemon-reload`, or `styxy setup` if that has written \
             the unit, and `systemctl --user restart styxy.service`",
        ),
        None => findings.error(
            "sandbox",
            message,
            "`systemctl --user cat styxy.service` shows which setting disables it; after a change run \
             `systemctl --user restart styxy.service`",
        ),
    }
}
