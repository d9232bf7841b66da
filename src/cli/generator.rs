use std::{
    env, fs, io,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use clap::Args;

use super::{CliError, print};
use crate::{
    kernel::sandbox,
    surroundings::{machine, user},
};

/// Give the service a smaller sandbox where the whole one cannot be set up; the user's manager runs this
///
/// See systemd.generator(7).
#[derive(Debug, Args)]
pub(super) struct Generator {
    /// Where units go that come before the vendor's and after the user's own
    #[arg(required_unless_present = "probe")]
    normal: Option<PathBuf>,
    /// Where units go that come before all others
    early: Option<PathBuf>,
    /// Where units go that come after all others
    late: Option<PathBuf>,
    /// Set up a sandbox like the service's in this process, and end
    #[arg(long)]
    probe: bool,
}

/// Before a drop-in of the user or the administrator with a usual name, so that theirs count.
const DROP_IN: &str = "styxy.service.d/10-smaller-sandbox.conf";

/// How the drop-in begins; the reason follows on a line of its own.
const HEAD: &str =
    "# Written by styxy-generator, because the whole sandbox cannot be set up here:\n# ";

/// The options of the unit that need a user namespace or a mount, without effect. In a user unit the empty value of
/// `CapabilityBoundingSet=` would drop all capabilities, which needs the namespace, too.
const SMALLER: &str = "\
[Service]
PrivateUsers=no
CapabilityBoundingSet=~
ProtectSystem=no
ProtectHome=no
TemporaryFileSystem=
PrivateTmp=no
BindPaths=
PrivateDevices=no
ProtectKernelTunables=no
ProtectKernelModules=no
ProtectControlGroups=no
ProtectClock=no
ProtectHostname=no
";

impl Generator {
    pub(super) fn run(self) -> Result<(), CliError> {
        if self.probe {
            return match sandbox::set_up() {
                Ok(()) => Ok(()),
                Err(error) => print(&error.to_string()).and(Err(CliError::No)),
            };
        }
        if let Ok(runtime) = user().runtime() {
            machine::note_network(&runtime.join("styxy"));
        }
        let Some(file) = self.normal.map(|folder| folder.join(DROP_IN)) else { return Ok(()) };
        match refusal()? {
            Some(why) => write(&file, &why)?,
            // A manager that is started again finds the files of the one before.
            None => match fs::remove_file(file) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
                _ => {}
            },
        }
        Ok(())
    }
}

/// Why a sandbox like the service's cannot be set up by a program of this user, if it cannot. It is tried in a process
/// of its own, which it changes for good, or kills.
fn refusal() -> io::Result<Option<String>> {
    let tried = Command::new(env::current_exe()?)
        .args(["generator", "--probe"])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()?;
    let said = match tried.status.signal() {
        _ if tried.status.success() => return Ok(None),
        Some(signal) => format!("the attempt was ended by signal {signal}"),
        None => String::from_utf8_lossy(&tried.stdout).trim().to_owned(),
    };
    let setting = sandbox::forbidden_by().map(|setting| format!(", because of {setting}"));
    Ok(Some(said + &setting.unwrap_or_default()))
}

/// The reason why the service has a smaller sandbox, if one of its drop-ins is the generator's. What counts is what the
/// manager may do: a command of the same user may do more, or less.
pub(super) fn reason(drop_ins: &str) -> Option<String> {
    let ours = drop_ins.split(' ').find(|path| path.ends_with(DROP_IN))?;
    let text = fs::read_to_string(ours).ok()?;
    Some(text.strip_prefix(HEAD)?.lines().next()?.to_owned())
}

fn write(file: &Path, why: &str) -> io::Result<()> {
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(file, format!("{HEAD}{why}\n{SMALLER}"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// The options of the sandbox that an unprivileged manager can set up by itself: seccomp filters, flags of the
    /// process, and a keyring.
    const WITHOUT_A_NAMESPACE: [&str; 11] = [
        "NoNewPrivileges",
        "RestrictAddressFamilies",
        "MemoryDenyWriteExecute",
        "LockPersonality",
        "SystemCallArchitectures",
        "SystemCallFilter",
        "SystemCallErrorNumber",
        "RestrictNamespaces",
        "KeyringMode",
        "RestrictRealtime",
        "RestrictSUIDSGID",
    ];

    fn options(text: &str) -> BTreeMap<&str, &str> {
        text.lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| line.split_once('='))
            .collect()
    }

    #[test]
    fn the_smaller_sandbox_is_the_whole_one_without_what_needs_a_namespace() {
        let unit = include_str!("../../systemd/styxy.service");
        let (_, sandbox) = unit.split_once("PrivateUsers=yes").unwrap();
        let whole = format!("PrivateUsers=yes{sandbox}");
        let (whole, smaller) = (options(&whole), options(SMALLER));
        for option in whole.keys() {
            assert_ne!(
                WITHOUT_A_NAMESPACE.contains(option),
                smaller.contains_key(option),
                "{option}= is taken away, or stays"
            );
        }
        assert!(smaller.keys().all(|option| whole.contains_key(option)), "nothing else is changed");
    }

    #[test]
    fn the_drop_in_says_why_it_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(DROP_IN);
        write(&file, "unshare: Operation not permitted (os error 1)").unwrap();
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.ends_with(&format!("\n{SMALLER}")), "{text}");
        let drop_ins = format!("/etc/systemd/user/styxy.service.d/a.conf {}", file.display());
        assert_eq!(
            reason(&drop_ins).as_deref(),
            Some("unshare: Operation not permitted (os error 1)")
        );
        assert_eq!(reason("/etc/systemd/user/styxy.service.d/a.conf"), None);
    }
}
