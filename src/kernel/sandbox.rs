//! The sandbox of the service: whether it can be set up here, and which of its layers apply to a process.
//!
//! In a unit of the user's manager, all options that hide or protect files need a user namespace
//! (`user_namespaces(7)`) and mounts in it. Both can be forbidden: by `kernel.unprivileged_userns_clone`, by
//! `user.max_user_namespaces`, by a seccomp filter, or by `AppArmor`, which on Ubuntu permits the namespace and
//! denies the mounts. So the only way to find out is to try.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    sys::statvfs::{FsFlags, statvfs},
    unistd::{User, getgid, getuid},
};

use super::{landlock, program};

/// Sets up what the options of the unit need, as systemd does. This is permanent for this process, which must
/// have a single thread (unshare(2)), and should do nothing else afterwards.
///
/// # Errors
///
/// The kernel's error, with the step that failed. A seccomp filter may also kill the process.
pub fn set_up() -> io::Result<()> {
    let step =
        |name: &'static str| move |error: io::Error| io::Error::other(format!("{name}: {error}"));
    let (uid, gid) = (getuid(), getgid());
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS)
        .map_err(|errno| step("unshare")(errno.into()))?;
    // In this order: without CAP_SETGID in the parent namespace, setgroups must be denied before the gid_map is
    // written.
    for (file, text) in [
        ("setgroups", "deny".to_owned()),
        ("uid_map", format!("{uid} {uid} 1")),
        ("gid_map", format!("{gid} {gid} 1")),
    ] {
        fs::write(Path::new("/proc/self").join(file), text).map_err(step(file))?;
    }
    let nothing = None::<&str>;
    let (private, read_only) = (
        MsFlags::MS_REC | MsFlags::MS_SLAVE,
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_RDONLY,
    );
    mount(nothing, "/", nothing, private, nothing)
        .and_then(|()| mount(Some("tmpfs"), "/proc", Some("tmpfs"), read_only, nothing))
        .and_then(|()| mount(Some("/"), "/", nothing, MsFlags::MS_BIND | MsFlags::MS_REC, nothing))
        .map_err(|errno| step("mount")(errno.into()))
}

/// A layer of the sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layer {
    /// Nothing that the process executes can gain privileges (`NoNewPrivileges=`).
    NoNewPrivileges,
    /// System calls are filtered (`SystemCallFilter=` and others).
    Seccomp,
    /// The process cannot gain capabilities (`CapabilityBoundingSet=`).
    NoCapabilities,
    /// The user's files are not visible (`TemporaryFileSystem=%h`).
    HiddenHome,
    /// Only what is installed in the system can be executed (`NoExecPaths=`).
    NoExec,
    /// The process has limited itself, at least partly (landlock(7)).
    Landlock,
}

impl Layer {
    /// Those that the unit sets up.
    pub const OF_THE_UNIT: [Self; 5] = [
        Self::NoNewPrivileges,
        Self::Seccomp,
        Self::NoCapabilities,
        Self::HiddenHome,
        Self::NoExec,
    ];

    /// Its name in answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoNewPrivileges => "no_new_privileges",
            Self::Seccomp => "seccomp",
            Self::NoCapabilities => "no_capabilities",
            Self::HiddenHome => "hidden_home",
            Self::NoExec => "no_exec",
            Self::Landlock => "landlock",
        }
    }
}

/// The layers that apply to this process, as observed and not as configured. Of the user's files, it may see
/// those in the folders `own`, which are the service's, and the program.
pub fn layers(own: &[PathBuf]) -> Vec<Layer> {
    // Not from `$HOME`, which can name any folder.
    let home = User::from_uid(getuid()).ok().flatten().map(|user| user.dir);
    let program = program::path().unwrap_or_default();
    let own = [own, &[program::place(&program, home.as_deref()).to_owned()]].concat();
    layers_with(home.as_deref(), &own)
}

fn layers_with(home: Option<&Path>, own: &[PathBuf]) -> Vec<Layer> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let is_in = |layer: &Layer| match layer {
        Layer::NoNewPrivileges => field(&status, "NoNewPrivs") == Some("1"),
        // 2: a filter is in force (proc_pid_status(5)).
        Layer::Seccomp => field(&status, "Seccomp") == Some("2"),
        Layer::NoCapabilities => {
            field(&status, "CapBnd").is_some_and(|set| set.bytes().all(|digit| digit == b'0'))
        }
        Layer::HiddenHome => {
            home.is_some_and(|home| is_covered(&mounts, home) && !shows_others(home, own))
        }
        Layer::Landlock => landlock::is_in_force() && landlock::is_felt(),
        Layer::NoExec => statvfs("/").is_ok_and(|root| root.flags().contains(FsFlags::ST_NOEXEC)),
    };
    Layer::OF_THE_UNIT.into_iter().chain([Layer::Landlock]).filter(is_in).collect()
}

fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

/// Whether a tmpfs is mounted on the home directory or above it, but not as the root: an empty home proves nothing.
fn is_covered(mounts: &str, home: &Path) -> bool {
    mounts.lines().any(|line| {
        // proc_pid_mountinfo(5): the fifth field is the mount point, and the type follows a lone hyphen.
        let at = line.split(' ').nth(4).map(unescaped).unwrap_or_default();
        let kind = line.split_once(" - ").and_then(|(_, rest)| rest.split(' ').next());
        kind == Some("tmpfs") && at != "/" && home.starts_with(&at)
    })
}

/// Unescapes a path from mountinfo, where spaces and the like are octal numbers.
fn unescaped(path: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(path.to_owned(), |path, (escaped, plain)| path.replace(escaped, plain))
}

/// Whether the folder contains anything but the folders `own` and their parents.
fn shows_others(folder: &Path, own: &[PathBuf]) -> bool {
    // A folder that cannot be read shows nothing.
    fs::read_dir(folder).into_iter().flatten().flatten().any(|entry| {
        let path = entry.path();
        let is_way = own.iter().any(|own| own.starts_with(&path));
        !own.contains(&path) && (!is_way || shows_others(&path, own))
    })
}

/// The setting that forbids the sandbox here, as an administrator knows it; `None` if no setting does.
pub fn forbidden_by() -> Option<&'static str> {
    [
        ("kernel/unprivileged_userns_clone", "0", "kernel.unprivileged_userns_clone=0 (sysctl)"),
        ("user/max_user_namespaces", "0", "user.max_user_namespaces=0 (sysctl)"),
        (
            "kernel/apparmor_restrict_unprivileged_userns",
            "1",
            "AppArmor (kernel.apparmor_restrict_unprivileged_userns=1)",
        ),
    ]
    .into_iter()
    .find(|(file, value, _)| {
        fs::read_to_string(Path::new("/proc/sys").join(file))
            .is_ok_and(|text| text.trim() == *value)
    })
    .map(|(_, _, words)| words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_home_is_hidden_by_a_file_system_over_it_and_not_by_being_empty() {
        let line = |at: &str, kind: &str| {
            format!("36 35 98:0 / {at} rw,noatime master:1 - {kind} tmpfs rw,size=4k\n")
        };
        let home = Path::new("/home/a b");
        for (mounts, covered) in [
            (line("/home/a\\040b", "tmpfs"), true),
            (line("/home", "tmpfs"), true),
            (line("/home/a", "tmpfs"), false),
            (line("/home/a\\040b", "ext4"), false),
            // The root of a live system is in memory.
            (line("/", "tmpfs"), false),
            (String::new(), false),
        ] {
            assert_eq!(is_covered(&mounts, home), covered, "{mounts}");
        }
    }

    #[test]
    fn a_single_file_of_the_user_shows_that_the_home_is_not_hidden() {
        let home = tempfile::tempdir().unwrap();
        let own = [home.path().join(".config/styxy"), home.path().join(".local/state/styxy/state")];
        for folder in &own {
            fs::create_dir_all(folder.join("inside")).unwrap();
        }
        assert!(!shows_others(home.path(), &own));
        for file in [".bashrc", ".config/other", ".local/state/x", ".local/state/styxy/y"] {
            let file = home.path().join(file);
            fs::write(&file, "").unwrap();
            assert!(shows_others(home.path(), &own), "{}", file.display());
            fs::remove_file(file).unwrap();
        }
        assert!(!shows_others(&home.path().join("gone"), &own));
    }

    #[test]
    fn the_layers_are_read_from_the_process_itself() {
        let status = "Name:\tstyxy\nCapBnd:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2\nSeccomp_filters:\t22\n";
        assert_eq!(field(status, "Seccomp"), Some("2"));
        assert_eq!(field(status, "CapBnd"), Some("0000000000000000"));
        assert_eq!(field(status, "Umask"), None);
        // Not a temporary folder: /tmp may be in memory.
        assert!(!layers_with(Some(Path::new("/usr")), &[]).contains(&Layer::HiddenHome));
    }
}
