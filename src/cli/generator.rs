use std::{
    env, fs, io,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use clap::Args;

use super::{CliError, print};
use crate::{
    client::unit::systemd_run,
    kernel::sandbox,
    surroundings::{machine, user},
};

/// Give the service a smaller sandbox where the whole one cannot be set up; the user's manager runs this
///
/// See systemd.generator(7).
#[derive(Debug, Args)]
pub(super) struct Generator {
    /// Where units go that come before the vendor's and after the user's own
    #[arg(required_unless_present_any = ["probe", "report"])]
    normal: Option<PathBuf>,
    /// Where units go that come before all others
    early: Option<PathBuf>,
    /// Where units go that come after all others
    late: Option<PathBuf>,
    /// Set up a sandbox like the service's in this process, and end
    #[arg(long)]
    probe: bool,
    /// Print why the whole sandbox cannot be set up here, if that is so
    #[arg(long)]
    report: bool,
}

/// Sorts before the usual names of drop-ins, so that those of the user or the administrator take precedence.
const DROP_IN: &str = "styxy.service.d/10-smaller-sandbox.conf";

/// What precedes the reason in the drop-in.
const HEAD: &str = "# The whole sandbox cannot be set up here:\n# ";

/// Disables the options of the unit that need a user namespace or a mount. In a user unit, an empty value of
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
BindReadOnlyPaths=
NoExecPaths=
ExecPaths=
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
        if self.report {
            return refusal()?.map_or(Ok(()), |why| print(&why));
        }
        if let Ok(runtime) = user().runtime() {
            machine::note_network(&runtime.join("styxy"));
        }
        let Some(file) = self.normal.map(|folder| folder.join(DROP_IN)) else { return Ok(()) };
        match refusal()? {
            Some(why) => write(&file, &why)?,
            // A restarted manager finds the files of the previous one.
            None => match fs::remove_file(file) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
                _ => {}
            },
        }
        Ok(())
    }
}

/// Why a program of this user cannot set up a sandbox like the service's; `None` if it can. A separate
/// process tries, because the attempt changes it for good, or kills it.
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

/// The reason for the smaller sandbox, if one of the service's drop-ins is the generator's. This command does
/// not try again: what matters are the privileges of the manager, and a command of the same user may have
/// more, or fewer.
pub(super) fn reason(drop_ins: &str) -> Option<String> {
    let ours = drop_ins.split(' ').find(|path| path.ends_with(DROP_IN))?;
    let text = fs::read_to_string(ours).ok()?;
    Some(text.split_once(HEAD)?.1.lines().next()?.to_owned())
}

/// The same, for a program that the user's manager starts: its privileges count. Where it cannot be asked, this command tries.
pub(super) fn refusal_to_manager() -> io::Result<Option<String>> {
    match systemd_run(&env::current_exe()?, &["generator", "--report"]) {
        Ok(told) if told.status.success() => {
            let why = String::from_utf8_lossy(&told.stdout).trim().to_owned();
            Ok(Some(why).filter(|why| !why.is_empty()))
        }
        _ => refusal(),
    }
}

/// The text of the drop-in.
pub(super) fn smaller(why: &str) -> String {
    format!("{HEAD}{why}\n{SMALLER}")
}

fn write(file: &Path, why: &str) -> io::Result<()> {
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(file, format!("# Written by styxy-generator.\n{}", smaller(why)))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// The options of the sandbox that an unprivileged manager can set up without a namespace: seccomp
    /// filters, process flags, and a keyring.
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
