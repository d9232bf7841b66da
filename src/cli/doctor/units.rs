//! Checks how the service is reached: the session bus, the units of the user's manager, the socket.

use std::{fs, os::unix::fs::MetadataExt, path::Path, time::Duration};

use serde_json::Value as Json;
use zbus::fdo::DBusProxy;

use super::{
    super::{
        http,
        setup::{self, Origin},
    },
    Findings,
};
use crate::{
    client::{
        self,
        unit::{SERVICE, Unit, control},
    },
    dbus,
    surroundings::{Door, user},
};

const SOCKET: &str = "styxy.socket";

/// The sockets that are off until the user enables them.
const FURTHER: [&str; 2] = ["styxy-portserver.socket", http::UNIT];

/// What has the manager read its units.
const RELOAD: &str = "systemctl --user daemon-reload";

/// How long the bus may take to answer.
const PATIENCE: Duration = Duration::from_secs(4);

/// Checks one unit beside the other; returns whether it can be used.
fn look(unit: &Unit, other: &Unit, findings: &mut Findings) -> bool {
    let name = unit.name();
    if unit.is("LoadState", "masked") {
        let remedy = format!("{}, then `styxy doctor --fix`", unit.unmasking());
        findings.error("units", format!("{name} is masked"), remedy);
    } else if unit.is("LoadState", "not-found") {
        let there = format!("{name} is missing, and {} is there", other.name());
        findings.error("units", there, completion(other));
    } else if !unit.is("LoadState", "loaded") {
        let message = format!("{name} cannot be loaded ({})", unit.get("LoadState"));
        findings.error("units", message, format!("`systemctl --user status {name}` says why"));
    } else if unit.is("ActiveState", "failed") {
        let why = match name {
            SERVICE => unit.problem(),
            _ => format!("{name} has failed ({})", unit.get("Result")),
        };
        findings.error("units", why, "styxy doctor --fix");
    } else if name == SOCKET && !unit.is("ActiveState", "active") {
        let remedy = match unit.get("UnitFileState") {
            "disabled" => "systemctl --user enable --now styxy.socket",
            _ => "styxy doctor --fix",
        };
        findings.error("units", "styxy.socket does not listen", remedy);
    } else if unit.is("NeedDaemonReload", "yes") {
        let message = format!("{name} has changed on disk");
        findings.warning("units", message, RELOAD);
        return true;
    } else {
        findings.ok("units", format!("{name} is {}", unit.get("ActiveState")));
        return true;
    }
    false
}

/// The state of styxy's units in the user's service manager.
pub(super) enum Units {
    /// There is no manager.
    Unmanaged,
    /// Neither a package nor `styxy setup` has installed them.
    Missing,
    /// A call starts the service.
    Usable,
    /// The service cannot be started.
    Broken,
}

impl Units {
    /// Queries the manager, and reports problems.
    pub(super) fn look(findings: &mut Findings) -> Self {
        let units = [SOCKET, SERVICE].map(Unit::ask);
        let [Some(socket), Some(service)] = &units else {
            findings.note(
                "units",
                "no systemd user manager answers",
                "commands start a private service, which ends when it is idle",
            );
            return Self::Unmanaged;
        };
        if [socket, service].iter().all(|unit| unit.is("LoadState", "not-found")) {
            findings.note(
                "units",
                "the units are not installed",
                "commands start a private service, which ends when it is idle; to have the unit instead, run `styxy setup`, or \
                 install the package and run `systemctl --user daemon-reload`",
            );
            return Self::Missing;
        }
        origin(findings, [service, socket]);
        // The socket of a failed service is closed on purpose, so the finding about the service is enough,
        // unless the socket is masked.
        let is_failed = service.is("ActiveState", "failed") || service.is("LoadState", "masked");
        if (is_failed && !socket.is("LoadState", "masked") || look(socket, service, findings))
            & look(service, socket, findings)
        {
            Self::Usable
        } else {
            Self::Broken
        }
    }
}

/// Checks whose the units are, and that those that `styxy setup` has written start this program.
fn origin(findings: &mut Findings, units: [&Unit; 2]) {
    // A masked unit is in nobody's way: it is reported with its state.
    let loaded = units.into_iter().filter(|unit| !unit.is("LoadState", "masked"));
    let loaded = loaded.map(|unit| Path::new(unit.get("FragmentPath")));
    let mut loaded = loaded.filter(|unit| unit.is_absolute());
    let Some(unit) = loaded.next() else { return };
    let origin = Origin::of(unit);
    let mut hiding = [unit].into_iter().chain(loaded);
    let hidden = hiding.find_map(|unit| Some((unit, setup::hidden_by(unit)?)));
    if let Some((unit, hidden)) = hidden {
        let remove = match Origin::of(unit) {
            Origin::Elsewhere => format!("`{} && {RELOAD}`", setup::removing_other(unit)),
            Origin::Setup(written) => written.removal(),
        };
        return findings.warning(
            "installation",
            format!(
                "{} is in use and hides {}, which has no effect (`systemctl --user cat {}` shows the one in use)",
                unit.display(),
                hidden.display(),
                unit.file_name().unwrap_or_default().display()
            ),
            format!("to use the other one, run {remove}; else remove that one"),
        );
    }
    let path = unit.display();
    let written = match origin {
        Origin::Elsewhere => {
            return findings.ok("installation", format!("{path}, not from `styxy setup`"));
        }
        Origin::Setup(written) => written,
    };
    let update = written.update();
    match (&written.another, written.changes()) {
        (Some(program), _) if !program.exists() => findings.error(
            "installation",
            format!("the program that {path} starts is gone: {}", program.display()),
            format!("to have it start this one, run {update}"),
        ),
        (Some(program), _) => findings.warning(
            "installation",
            format!("{path} starts {}, and this command is another program", program.display()),
            format!("to have it start this one, run {update}"),
        ),
        (None, Some(changes)) => findings.warning(
            "installation",
            format!("{changes}; `styxy setup` updates nothing until it is replaced"),
            format!("to replace it, run {update}; to keep it, leave it as it is"),
        ),
        (None, None) if !written.is_current => findings.warning(
            "installation",
            "files that `styxy setup` has written are of another version, or are missing",
            format!("to have all of them as they should be, run {update}"),
        ),
        (None, None) => findings.ok("installation", format!("`styxy setup` has written {path}")),
    }
}

/// What to do about a unit that is missing while this other one is there.
fn completion(other: &Unit) -> String {
    let path = Path::new(other.get("FragmentPath"));
    match Origin::of(path) {
        Origin::Setup(written) => {
            let (update, removal) = (written.update(), written.removal());
            format!("run {update}; or, to have no unit of styxy, {removal}")
        }
        Origin::Elsewhere if path.is_absolute() => format!(
            "install styxy again, or remove what is left: `{} && {RELOAD}`",
            setup::removing_other(path)
        ),
        Origin::Elsewhere => {
            format!("{}, then run `styxy setup`, or install the package", other.unmasking())
        }
    }
}

/// The drop-ins of the unit, if this status comes from the unit's process, and not from a service that a
/// command started.
pub(super) fn drop_ins_of(status: &Json) -> Option<String> {
    let unit = Unit::ask(SERVICE)?;
    let is_it = unit.get("MainPID").parse().ok() == status["pid"].as_u64();
    is_it.then(|| unit.get("DropInPaths").to_owned())
}

/// Clears the failed state of the units and starts them, for use after the cause was fixed. Does not revert the
/// user's choices: a masked or disabled unit stays so.
pub(super) fn fix(findings: &mut Findings) {
    // The reload runs the generators. After a failed start, dbus-daemon waits for the service and requests no
    // further start, so it is started here and not by a call.
    let is_there = user().doors().first().is_some_and(|door| door.path().exists());
    let steps: [&[&str]; 4] = [
        &["daemon-reload"],
        &["reset-failed", SOCKET, SERVICE],
        // One whose file was deleted listens to nobody.
        &[if is_there { "start" } else { "restart" }, SOCKET],
        &["start", SERVICE],
    ];
    for step in steps {
        // Since systemd 253 a unit that is not loaded cannot be reset.
        if let Err(trouble) = control(step)
            && step[0] != "reset-failed"
        {
            return findings.warning("fix", trouble, "see below");
        }
    }
    for name in FURTHER {
        let is_enabled = Unit::ask(name).is_some_and(|unit| unit.is("UnitFileState", "enabled"));
        if is_enabled && let Err(trouble) = control(&["start", name]) {
            findings.warning("fix", trouble, "see below");
        }
    }
    findings.ok("fix", "the manager has reloaded its units and started the service");
}

/// Checks the session bus, and whether it can start the service.
pub(super) async fn bus(findings: &mut Findings, units: &Units) {
    let bus = match client::session_bus().await {
        Ok(bus) => bus,
        Err(why) => {
            return findings.note(
                "bus",
                why,
                "commands use the socket, or start a private service; a login session has a bus",
            );
        }
    };
    findings.ok("bus", "the session bus answers");
    if !matches!(units, Units::Usable) {
        return;
    }
    if let Some(unit) = Unit::ask(SERVICE)
        && unit.is_kept_off_the_bus()
    {
        return findings.note(
            "activation",
            format!("{SERVICE} is kept off the session bus (DBUS_SESSION_BUS_ADDRESS=disabled: in its settings)"),
            "commands use the socket, and other programs can, too: a call over the bus reaches no service",
        );
    }
    let Ok(proxy) = DBusProxy::new(&bus).await else { return };
    let names = tokio::time::timeout(PATIENCE, proxy.list_activatable_names()).await;
    let names = names.ok().and_then(Result::ok).unwrap_or_default();
    if names.iter().any(|name| name.as_str() == dbus::NAME) {
        findings.ok("activation", "the bus can start the service");
    } else {
        findings.error(
            "activation",
            format!("the bus cannot start {}", dbus::NAME),
            "busctl --user call org.freedesktop.DBus /org/freedesktop/DBus org.freedesktop.DBus ReloadConfig",
        );
    }
}

/// Checks the socket in the runtime directory.
pub(super) fn socket(findings: &mut Findings, units: &Units) {
    if let Err(why) = user().runtime() {
        let remedy =
            "commands use the socket in the state folder; a login session has a runtime directory";
        return findings.note("socket", why, remedy);
    }
    let Some(path) = user().doors().first().map(Door::path) else { return };
    match (fs::metadata(&path), units) {
        (Ok(metadata), _) if metadata.mode() & 0o077 != 0 => findings.error(
            "socket",
            format!("other users may open {}", path.display()),
            format!("chmod 600 {}", path.display()),
        ),
        (Ok(_), _) => findings.ok("socket", format!("only this user can open {}", path.display())),
        (Err(error), Units::Usable) => {
            findings.error("socket", format!("{}: {error}", path.display()), "styxy doctor --fix");
        }
        // Reported already, or created by the next service.
        (Err(_), _) => {}
    }
}

/// Checks the socket for HTTP over TCP, if it is in use.
pub(super) fn tcp(findings: &mut Findings) {
    let Some(unit) = Unit::ask(http::UNIT) else { return };
    let restart = format!("`systemctl --user restart {}`", http::UNIT);
    if unit.is("ActiveState", "active") {
        match http::no_token() {
            None => findings.ok("http", format!("the service listens on {}", http::url())),
            Some(why) => {
                let message = format!("the service listens on {}, but {}", http::url(), why.what);
                findings.error("http", message, why.remedy);
            }
        }
    } else if unit.is("UnitFileState", "enabled") {
        let (message, remedy) = match http::taken() {
            Some(taken) => taken.before(&restart),
            None => (format!("{} does not listen", http::UNIT), restart),
        };
        findings.error("http", message, remedy);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(text: &str) -> (bool, String) {
        let mut findings = Findings::default();
        let is_good = look(&Unit::read(SOCKET, text), &Unit::read(SERVICE, ""), &mut findings);
        let finding = findings.0.remove(0);
        (is_good, format!("{} {}", finding.message, finding.remedy.unwrap_or_default()))
    }

    #[test]
    fn a_masked_socket_is_to_be_unmasked_and_then_opened() {
        let (is_good, words) =
            told("LoadState=masked\nActiveState=inactive\nUnitFileState=masked\n");
        assert!(!is_good, "{words}");
        let way_out = "systemctl --user unmask styxy.socket, then `styxy doctor --fix`";
        assert!(words.ends_with(way_out), "{words}");
    }

    #[test]
    fn a_unit_is_off_the_bus_only_with_the_address_that_disables_it() {
        for (environment, is_off) in [
            ("DBUS_SESSION_BUS_ADDRESS=disabled:", true),
            ("A=b DBUS_SESSION_BUS_ADDRESS=disabled: C=d", true),
            ("DBUS_SESSION_BUS_ADDRESS=unix:path=/run/user/1/bus", false),
            ("", false),
        ] {
            let unit =
                Unit::read(SERVICE, &format!("LoadState=loaded\nEnvironment={environment}\n"));
            assert_eq!(unit.is_kept_off_the_bus(), is_off, "{environment}");
        }
    }

    #[test]
    fn a_socket_that_does_not_listen_is_opened_again_unless_somebody_has_closed_it_for_good() {
        for (state, how) in [
            ("enabled", "styxy doctor --fix"),
            ("disabled", "systemctl --user enable --now styxy.socket"),
        ] {
            let text = format!("LoadState=loaded\nActiveState=inactive\nUnitFileState={state}\n");
            let (is_good, words) = told(&text);
            assert!(!is_good && words.ends_with(how), "{words}");
        }
        assert!(told("LoadState=loaded\nActiveState=active\nUnitFileState=enabled\n").0);
    }
}
