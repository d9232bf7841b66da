//! What the files say: those of the package, with the path of this program.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use crate::{cli::generator, kernel::program, word::disturbs};

/// Where the unit of the service goes.
pub(super) const SERVICE: &str = "systemd/user/styxy.service";

/// Where the unit of its socket goes.
pub(super) const SOCKET: &str = "systemd/user/styxy.socket";

/// Where the smaller sandbox goes.
const SMALLER: &str = "systemd/user/styxy.service.d/10-smaller-sandbox.conf";

/// Where the service is named for the bus.
const BUS: &str = "dbus-1/services/org.styxy.Styxy1.service";

/// The files, with their paths below the folder for the user's data (`$XDG_DATA_HOME`): there systemd.unit(5) and
/// dbus-daemon(1) look for what is installed in a home, and bash, fish and man for theirs. Zsh looks nowhere by itself.
const FILES: [(&str, &str); 21] = [
    (SERVICE, include_str!("../../../systemd/styxy.service")),
    (SOCKET, include_str!("../../../systemd/styxy.socket")),
    ("systemd/user/styxy-failed.service", include_str!("../../../systemd/styxy-failed.service")),
    ("systemd/user/styxy-login.service", include_str!("../../../systemd/styxy-login.service")),
    ("systemd/user/styxy-restart.service", include_str!("../../../systemd/styxy-restart.service")),
    (
        "systemd/user/styxy-portserver.socket",
        include_str!("../../../systemd/styxy-portserver.socket"),
    ),
    ("systemd/user/styxy-tcp.socket", include_str!("../../../systemd/styxy-tcp.socket")),
    (BUS, include_str!("../../../systemd/org.styxy.Styxy1.service")),
    (
        "bash-completion/completions/styxy",
        include_str!("../../../packaging/completions/styxy.bash"),
    ),
    (
        "fish/vendor_completions.d/styxy.fish",
        include_str!("../../../packaging/completions/styxy.fish"),
    ),
    ("zsh/site-functions/_styxy", include_str!("../../../packaging/completions/styxy.zsh")),
    ("man/man5/org.styxy.Styxy1.5", include_str!("../../../packaging/man/org.styxy.Styxy1.5")),
    ("man/man5/styxy.json.5", include_str!("../../../packaging/man/styxy.json.5")),
    ("man/man5/styxy_config.5", include_str!("../../../packaging/man/styxy_config.5")),
    ("man/man7/styxy-http.7", include_str!("../../../packaging/man/styxy-http.7")),
    ("man/man7/styxy-remap.7", include_str!("../../../packaging/man/styxy-remap.7")),
    (
        "man/man7/styxy-troubleshooting.7",
        include_str!("../../../packaging/man/styxy-troubleshooting.7"),
    ),
    ("man/man8/styxy.service.8", include_str!("../../../packaging/man/styxy.service.8")),
    ("man/man8/styxy.socket.8", include_str!("../../../packaging/man/styxy.socket.8")),
    (
        "man/man8/styxy-portserver.socket.8",
        include_str!("../../../packaging/man/styxy-portserver.socket.8"),
    ),
    ("man/man8/styxy-tcp.socket.8", include_str!("../../../packaging/man/styxy-tcp.socket.8")),
];

/// Where the package has this program, and a page that only the package has.
const OF_THE_PACKAGE: &str = "/usr/bin/styxy";
const README: &str = " file:///usr/share/doc/styxy/README.md";

/// The path of this program, which systemd can start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Program(String);

impl Program {
    /// The running program. The kernel has resolved the links that led to it.
    ///
    /// # Errors
    ///
    /// Why no unit can start it, and what to do.
    pub(super) fn this() -> Result<Self, String> {
        let path = env::current_exe().map_err(|error| format!("/proc/self/exe: {error}"))?;
        if fs::metadata(&path).is_err() {
            return Err(format!(
                "{}: this program was replaced or deleted while it ran: run the command again",
                path.display()
            ));
        }
        Self::at(&path)
    }

    fn at(path: &Path) -> Result<Self, String> {
        let unusable = |why: &str| {
            let path = path.to_string_lossy();
            Err(format!("no unit can start {path:?}, because {why}: move the program elsewhere"))
        };
        let Some(path) = path.to_str() else { return unusable("its path is not UTF-8") };
        // systemd takes no such program, however it is written (string_is_safe() in its source).
        if path.contains(disturbs) || path.contains(['"', '\'', '\\']) {
            return unusable("its path has quotes, backslashes or control characters");
        }
        Ok(Self(path.to_owned()))
    }

    pub(super) fn path(&self) -> &Path {
        Path::new(&self.0)
    }

    /// A path in a unit: systemd.syntax(7) has blanks in quotes, and systemd.unit(5) has `%` begin a specifier. A `$` stands for
    /// itself in the path of a program.
    fn in_unit(path: &str) -> String {
        quoted(path, '"').replace('%', "%%")
    }

    /// The settings with which the sandbox shows the program and lets it be executed. A path that is gone is ignored, because
    /// the missing program is the better error.
    fn shown(&self, home: Option<&Path>) -> String {
        let place = program::place(self.path(), home).to_string_lossy().into_owned();
        let unless_gone = |path: &str| Self::in_unit(&format!("-{path}"));
        // After a colon comes the destination; newer versions of systemd look for one in quotes, too.
        let place = unless_gone(&place).replace(':', "\\:");
        format!("ExecPaths={}\nBindReadOnlyPaths={place}", unless_gone(&self.0))
    }

    /// The line of the unit that starts the service.
    pub(super) fn start(&self) -> String {
        format!("ExecStart={} daemon", Self::in_unit(&self.0))
    }
}

/// The program that a unit of this kind starts.
pub(super) fn started_by(unit: &str) -> Option<PathBuf> {
    let line = unit.lines().find_map(|line| line.strip_prefix("ExecStart="))?;
    Some(line.strip_suffix(" daemon")?.trim_matches('"').replace("%%", "%").into())
}

/// The files for this program; `None` for one that is not wanted. With a reason for it, the service has the smaller sandbox.
pub(super) fn files(
    program: &Program,
    home: Option<&Path>,
    smaller: Option<&str>,
) -> Vec<(&'static str, Option<String>)> {
    let files = FILES.into_iter().map(|(path, text)| {
        let text = text.replace(README, "");
        let text = match path {
            SERVICE => {
                let text =
                    text.replace(&format!("ExecStart={OF_THE_PACKAGE} daemon"), &program.start());
                let shown = program.shown(home);
                format!("{text}# The program, where the sandbox would hide it.\n{shown}\n")
            }
            // By the rules of a shell (dbus-daemon(1)).
            BUS => text.replace(OF_THE_PACKAGE, &quoted(&program.0, '\'')),
            _ => text,
        };
        (path, Some(text))
    });
    let smaller = smaller.map(generator::smaller);
    files.chain([(SMALLER, smaller)]).collect()
}

/// All paths, for none of which there is to be a file.
pub(super) fn no_files() -> Vec<(&'static str, Option<String>)> {
    FILES.iter().map(|(path, _)| *path).chain([SMALLER]).map(|path| (path, None)).collect()
}

fn quoted(path: &str, quote: char) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./@+,%".contains(c);
    if path.chars().all(is_plain) { path.to_owned() } else { format!("{quote}{path}{quote}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(program: &str, path: &str, smaller: Option<&str>) -> String {
        let program = Program::at(Path::new(program)).unwrap();
        let files = files(&program, Some(Path::new("/home/dev")), smaller);
        files.into_iter().find(|(file, _)| *file == path).unwrap().1.unwrap_or_default()
    }

    #[test]
    fn the_program_is_the_one_that_runs_wherever_the_packages_own_is_named() {
        let program = "/home/dev/.cargo/bin/styxy";
        let unit = text(program, SERVICE, None);
        assert!(unit.contains("\nExecStart=/home/dev/.cargo/bin/styxy daemon\n"), "{unit}");
        assert_eq!(started_by(&unit).as_deref(), Some(Path::new(program)));
        assert!(unit.ends_with("\nBindReadOnlyPaths=-/home/dev/.cargo/bin\n"), "{unit}");
        let last = unit.lines().rfind(|line| line.starts_with('['));
        assert_eq!(last, Some("[Service]"), "the binding is an option of the service");
        let bus = text(program, BUS, None);
        assert!(bus.contains("\nExec=/home/dev/.cargo/bin/styxy daemon\n"), "{bus}");
        assert!(bus.contains("\nSystemdService=styxy.service\n"), "{bus}");
        for (path, _) in FILES.iter().filter(|(path, _)| !path.starts_with("man/")) {
            let text = text(program, path, None);
            assert!(!text.contains(OF_THE_PACKAGE) && !text.contains("/usr/share/doc"), "{path}");
        }
    }

    #[test]
    fn nothing_in_the_path_of_the_program_is_systemds_or_a_shells() {
        let program = "/opt/50% of: my $tools/styxy";
        let unit = text(program, SERVICE, None);
        assert!(unit.contains("\nExecStart=\"/opt/50%% of: my $tools/styxy\" daemon\n"), "{unit}");
        assert!(unit.contains("\nExecPaths=\"-/opt/50%% of: my $tools/styxy\"\n"), "{unit}");
        assert!(unit.ends_with("\nBindReadOnlyPaths=\"-/opt/50%% of\\: my $tools\"\n"), "{unit}");
        assert_eq!(started_by(&unit).as_deref(), Some(Path::new(program)));
        let bus = text(program, BUS, None);
        assert!(bus.contains("\nExec='/opt/50% of: my $tools/styxy' daemon\n"), "{bus}");
        assert!(
            text("/opt/50%/styxy", SERVICE, None).contains("\nExecStart=/opt/50%%/styxy daemon")
        );
        for path in ["/a\"b/styxy", "/a'b/styxy", "/a\\b/styxy", "/a\nb/styxy"] {
            let why = Program::at(Path::new(path)).unwrap_err();
            assert!(why.contains("move the program elsewhere"), "{why}");
        }
    }

    #[test]
    fn the_home_itself_is_never_shown() {
        let unit = text("/home/dev/styxy", SERVICE, None);
        assert!(unit.ends_with("\nBindReadOnlyPaths=-/home/dev/styxy\n"), "{unit}");
    }

    #[test]
    fn a_smaller_sandbox_shows_the_program_anyway() {
        assert_eq!(text("/home/dev/bin/styxy", SMALLER, None), "");
        let smaller = text("/home/dev/bin/styxy", SMALLER, Some("unshare: no"));
        assert!(smaller.contains("\n# unshare: no\n[Service]\nPrivateUsers=no\n"), "{smaller}");
        assert!(smaller.contains("\nBindReadOnlyPaths=\n"), "{smaller}");
        assert!(no_files().iter().any(|(path, _)| *path == SMALLER));
    }
}
