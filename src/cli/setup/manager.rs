//! What the user's systemd and the session bus have to do with the files.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::Value as Json;
use zbus::fdo::DBusProxy;

use crate::{
    cli::http,
    client::{
        self, Call,
        unit::{SERVICE, Unit, control, systemctl},
    },
    dbus,
    surroundings::user,
};

/// The unit of the socket.
pub(super) const SOCKET: &str = "styxy.socket";

/// All sockets of the service.
pub(super) const SOCKETS: [&str; 3] = [SOCKET, "styxy-portserver.socket", http::UNIT];

/// What has the bus read the files with its services: dbus-daemon(1).
pub(super) const RELOAD: &str = "busctl --user call org.freedesktop.DBus /org/freedesktop/DBus org.freedesktop.DBus ReloadConfig";

/// Why systemd or the bus does not read what is in the folder for data, and what to do.
const OTHER_DATA: &str = "it was started with another XDG_DATA_HOME; unset that here, or set it in environment.d(5) and log \
                          in again, then try again";

/// How long the bus and a service may take to answer.
const PATIENCE: Duration = Duration::from_secs(4);

/// Fails where no systemd of the user runs.
pub(super) fn ready() -> Result<(), String> {
    if user().has_manager() {
        return Ok(());
    }
    Err("no systemd user manager answers, and without one units have no effect: log in as this user, at the console or \
         by ssh (su and sudo start no manager), and try again; until then commands start a private service"
        .to_owned())
}

/// Why the units must not be written, and what to do: systemd would not read them, one is masked, or there are others, of a package,
/// an administrator, or the user's own hand.
pub(super) fn obstacle(data: &Path, program: &Path) -> Option<String> {
    let units = [SERVICE, SOCKET].into_iter().filter_map(Unit::ask);
    let masked = units.into_iter().find(|unit| unit.is("LoadState", "masked"));
    if let Some(masked) = masked {
        return Some(format!(
            "{} is masked: `{}`, then try again",
            masked.name(),
            masked.unmasking()
        ));
    }
    if let Some(other) = installed_otherwise(data) {
        return Some(format!(
            "styxy is already installed: {} is its unit. To use that, run `systemctl --user enable --now {SOCKET}` (after \
             `styxy setup --undo`, if you have run `styxy setup` before); to use {}, remove it first",
            other.display(),
            program.display()
        ));
    }
    let own = own_units(data);
    // systemctl(1) writes names with such characters in another way.
    let is_plain = !own.contains(['\'', '"', '\\', '$', '`']);
    let is_unread = unit_path().is_some_and(|folders| is_plain && !folders.contains(&own));
    is_unread.then(|| format!("systemd does not look for units in {own}: {OTHER_DATA}"))
}

/// A unit of styxy that systemd has from elsewhere.
pub(super) fn installed_otherwise(data: &Path) -> Option<PathBuf> {
    let own = own_units(data);
    [SERVICE, SOCKET].iter().find_map(|unit| others(OsStr::new(unit), Path::new(&own)).next())
}

/// The units of this name in systemd's other folders, in the order of precedence. One that masks the name is none.
pub(super) fn others(unit: &OsStr, own: &Path) -> impl Iterator<Item = PathBuf> {
    let folders = unit_path().unwrap_or_default();
    // A folder whose name has a blank is in quotes there: it is one of a home, and nobody else's.
    let others = folders.split_whitespace().map(Path::new);
    let others = others.filter(|folder| !is_same(folder, own)).map(|folder| folder.join(unit));
    let units = others.filter(|unit| {
        fs::symlink_metadata(unit).is_ok() && !is_same(unit, Path::new("/dev/null"))
    });
    units.collect::<Vec<_>>().into_iter()
}

/// Where systemd looks for units, in one line.
fn unit_path() -> Option<String> {
    let shown = systemctl(&["show", "--property=UnitPath", "--value"]).ok()?;
    Some(String::from_utf8_lossy(&shown.stdout).into_owned()).filter(|_| shown.status.success())
}

fn own_units(data: &Path) -> String {
    data.join("systemd/user").to_string_lossy().into_owned()
}

/// The PID of a service that a command has started.
pub(super) async fn private() -> Option<u64> {
    let status = client::glance(&Call::Status, PATIENCE).await?;
    status["pid"].as_u64().filter(|_| status["private"] == Json::Bool(true))
}

/// Whether there is a session bus.
pub(super) async fn has_bus() -> bool {
    client::session_bus().await.is_ok()
}

/// Has the bus read the files with its services.
pub(super) async fn reload_bus() -> Result<(), String> {
    let failed = |why: String| format!("`{RELOAD}` failed: {why}");
    let bus = client::session_bus().await.map_err(failed)?;
    let reload = async { DBusProxy::new(&bus).await?.reload_config().await };
    match tokio::time::timeout(PATIENCE, reload).await {
        Ok(done) => done.map_err(|error| failed(error.to_string())),
        Err(_) => Err(failed(format!("no answer within {} s", PATIENCE.as_secs()))),
    }
}

/// Whether the service could not be started.
pub(super) fn has_failed() -> bool {
    Unit::ask(SERVICE).is_some_and(|unit| unit.is("ActiveState", "failed"))
}

/// Forgets earlier failures, after which a unit is not started.
pub(super) fn forget_failures() {
    // Since systemd 253 a unit that is not loaded cannot be reset.
    let _ = systemctl(&["reset-failed", "--quiet", SOCKET, SERVICE]);
}

/// After the removal: if there are units for all users, they count again.
pub(super) fn resume() -> Result<(), String> {
    let is_enabled = Unit::ask(SOCKET).is_some_and(|unit| unit.is("UnitFileState", "enabled"));
    if is_enabled { control(&["--quiet", "start", SOCKET]) } else { Ok(()) }
}

/// Checks that systemd listens, and that the bus uses its file.
///
/// # Errors
///
/// What does not, and what to do.
pub(super) async fn verify(data: &Path, has_bus: bool) -> Result<(), String> {
    let unit = Unit::ask(SOCKET).ok_or("the systemd user manager does not answer any more")?;
    if !unit.is("ActiveState", "active") {
        return Err(format!(
            "{SOCKET} does not listen: `systemctl --user status {SOCKET}` says why"
        ));
    }
    if has_bus && !is_activatable().await {
        let folder = data.join("dbus-1/services");
        return Err(format!("the session bus does not read {}: {OTHER_DATA}", folder.display()));
    }
    Ok(())
}

async fn is_activatable() -> bool {
    let Ok(bus) = client::session_bus().await else { return false };
    let Ok(proxy) = DBusProxy::new(&bus).await else { return false };
    let names = tokio::time::timeout(PATIENCE, proxy.list_activatable_names()).await;
    let names = names.ok().and_then(Result::ok).unwrap_or_default();
    names.iter().any(|name| name.as_str() == dbus::NAME)
}

/// Whether two paths lead to the same file, or are the same.
pub(super) fn is_same(one: &Path, other: &Path) -> bool {
    let real = |path: &Path| fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    one == other || real(one) == real(other)
}
