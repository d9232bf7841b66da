//! Checks the sandbox by what the service finds in its own process, not by the text of the unit.

use serde_json::Value as Json;

use super::{Findings, units};
use crate::cli::{
    generator,
    status::{Limits, PRIVATE, missing, sandbox_of},
};

/// Checks the sandbox of the running service.
pub(super) fn look(findings: &mut Findings, status: &Json) {
    unit(findings, status);
    match Limits::of(status) {
        // What an older kernel can't do is no fault.
        Some(limits @ (Limits::Full | Limits::Partial(_))) => findings.ok("landlock", limits.to_string()),
        Some(limits @ Limits::None(_)) => findings.warning(
            "landlock",
            limits.to_string(),
            "Linux 5.19 or newer has it, if \"lsm=\" on the kernel's command line names landlock or is not given, and a \
             container if its filter of system calls lets landlock_create_ruleset, landlock_add_rule and \
             landlock_restrict_self pass",
        ),
        None => {}
    }
}

/// Checks what the unit sets up.
fn unit(findings: &mut Findings, status: &Json) {
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
