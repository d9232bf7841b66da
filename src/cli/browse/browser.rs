//! Finding a browser, and starting it with a profile for one project.

use std::{
    env,
    ffi::{OsStr, OsString},
    fmt::Write,
    fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError},
    io::{self, Read},
    net::SocketAddr,
    os::unix::{
        ffi::OsStrExt,
        fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    process::Stdio,
};

use tokio::process::{Child, Command};

use super::without_browser;
use crate::{
    atomic_file,
    cli::{CliError, project::Project, refused},
    surroundings::user,
    word::{fnv1a, visible},
};

/// What is looked for in `PATH`, in this order.
pub(in crate::cli) const KNOWN: [&str; 9] = [
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "brave-browser",
    "microsoft-edge",
    "firefox",
    "firefox-esr",
    "librewolf",
];

/// A browser by the arguments that it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    Chromium,
    Firefox,
}

impl Family {
    /// The family of a program with this name.
    fn of(name: &str) -> Option<Self> {
        let is_one_of = |words: &[&str]| words.iter().any(|word| name.contains(word));
        if is_one_of(&["firefox", "librewolf", "waterfox"]) {
            return Some(Self::Firefox);
        }
        let chromium = ["chromium", "chrome", "brave", "microsoft-edge", "vivaldi"];
        is_one_of(&chromium).then_some(Self::Chromium)
    }
}

/// A browser that is installed.
#[derive(Clone, Debug)]
pub(super) struct Browser {
    program: PathBuf,
    family: Family,
}

impl Browser {
    /// The named one, or else the one in `$BROWSER`, or else the first that is installed.
    pub(super) fn find(named: Option<&OsStr>) -> Result<Self, CliError> {
        if let Some(named) = named {
            return Self::named(named).map_err(|why| without_browser(&why));
        }
        // A list for xdg-open(1), in which %s may stand for the URL. It may name what is no browser, such as xdg-open itself.
        let preferred = env::var_os("BROWSER").unwrap_or_default();
        let preferred = preferred.as_bytes().split(|byte| *byte == b':').map(|entry| {
            let end = entry.iter().position(|byte| *byte == b' ').unwrap_or(entry.len());
            OsStr::from_bytes(&entry[..end])
        });
        let mut names = preferred.chain(KNOWN.map(OsStr::new));
        names.find_map(|name| Self::named(name).ok()).ok_or_else(|| {
            without_browser("no browser of the family of Chromium or Firefox is in PATH")
        })
    }

    /// The browser with this name or path; else why it cannot be used.
    fn named(named: &OsStr) -> Result<Self, String> {
        let shown = visible(&named.to_string_lossy());
        let path = Path::new(named);
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
        let family = Family::of(&name)
            .ok_or_else(|| format!("{shown} is no browser of the family of Chromium or Firefox"))?;
        let folders = env::var_os("PATH").unwrap_or_default();
        let program = if named.as_bytes().contains(&b'/') {
            Some(path.to_owned()).filter(|path| path.is_file())
        } else {
            env::split_paths(&folders).map(|folder| folder.join(path)).find(|path| path.is_file())
        };
        let program = program.ok_or_else(|| format!("{shown} is not installed"))?;
        Ok(Self { program, family })
    }

    fn name(&self) -> String {
        visible(&self.program.file_name().unwrap_or_default().to_string_lossy())
    }

    /// Starts it on a proxy.
    pub(super) fn start(
        &self,
        profile: &Profile,
        proxy: SocketAddr,
        page: Option<String>,
        more: &[OsString],
    ) -> Result<Child, CliError> {
        let failed = |error: io::Error| {
            refused(format!(
                "{} cannot be started: {error}",
                visible(&self.program.to_string_lossy())
            ))
        };
        let mut command = Command::new(&self.program);
        match self.family {
            Family::Chromium => {
                command
                    .arg(format!("--proxy-server=socks5://{proxy}"))
                    // Without this, localhost is not asked of the proxy.
                    .arg("--proxy-bypass-list=<-loopback>")
                    .arg(option("--user-data-dir=", &profile.folder))
                    .args(["--no-first-run", "--no-default-browser-check"]);
            }
            Family::Firefox => {
                let preferences = preferences(proxy);
                atomic_file::replace(&profile.folder.join("user.js"), preferences.as_bytes())
                    .map_err(failed)?;
                command.arg("-profile").arg(&profile.folder).arg("-no-remote");
            }
        }
        command.args(more).args(page);
        // Its messages are for whoever wonders why it has failed.
        let log = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(profile.log())
            .map_err(failed)?;
        command.stdin(Stdio::null()).stderr(log).spawn().map_err(failed)
    }

    /// What is said of an exit code other than 0.
    pub(super) fn failed(&self, code: i32, profile: &Profile) -> String {
        let log = profile.log();
        format!(
            "{} ended with exit code {code}; its messages are in {}",
            self.name(),
            log.display()
        )
    }
}

fn option(name: &str, value: &Path) -> OsString {
    let mut option = OsString::from(name);
    option.push(value);
    option
}

/// The preferences that make Firefox use the proxy for every host (`user.js`, which it reads at each start).
fn preferences(proxy: SocketAddr) -> String {
    let (host, port) = (format!("\"{}\"", proxy.ip()), proxy.port().to_string());
    let set = [
        ("network.proxy.type", "1"),
        ("network.proxy.socks", &host),
        ("network.proxy.socks_port", &port),
        ("network.proxy.socks_version", "5"),
        ("network.proxy.socks_remote_dns", "true"),
        ("network.proxy.socks5_remote_dns", "true"),
        ("network.proxy.no_proxies_on", "\"\""),
        // Without this, localhost is not asked of the proxy.
        ("network.proxy.allow_hijacking_localhost", "true"),
        // A page that cannot be had is not fetched without the proxy.
        ("network.proxy.failover_direct", "false"),
        ("browser.aboutwelcome.enabled", "false"),
        ("browser.shell.checkDefaultBrowser", "false"),
        ("datareporting.policy.dataSubmissionEnabled", "false"),
        ("startup.homepage_welcome_url", "\"\""),
        ("termsofuse.bypassNotification", "true"),
        ("toolkit.telemetry.reportingpolicy.firstRun", "false"),
    ];
    set.iter().fold(String::new(), |mut text, (name, value)| {
        let _ = writeln!(text, "user_pref(\"{name}\", {value});");
        text
    })
}

/// The folder with the profile of a browser for a project, and beside it a file with the messages of the browser.
pub(super) struct Profile {
    folder: PathBuf,
    /// Locked (flock(2)) by the command whose browser has the profile.
    _lock: File,
}

impl Profile {
    /// The profile of that browser for the project; makes it if there is none. Fails if a browser has it that could not open
    /// a page of this command.
    pub(super) fn of(project: &Project, browser: &Browser) -> Result<Self, CliError> {
        let all = match snap(&browser.program).zip(user().home()) {
            // A snap sees no hidden folder of the home (snapcraft's interface "home").
            Some((snap, home)) => Some(home.join("snap").join(snap).join("common/styxy-browse")),
            None => user().profiles(),
        };
        let all = all.ok_or_else(|| {
            refused("there is no place for the profile of the browser: set HOME".to_owned())
        })?;
        let folder = all.join(name_of(project.path().as_str())).join(browser.name());
        let (lock, is_free) = prepare(&folder).map_err(|error| {
            refused(format!("the profile {} cannot be used: {error}", folder.display()))
        })?;
        let profile = Self { folder, _lock: lock };
        match profile.user() {
            // What is started now has it open the page, and ends.
            Some(_) if !is_free && browser.family == Family::Chromium => Ok(profile),
            Some(pid) if is_free => Err(refused(format!(
                "{} (PID {pid}) still has this project's profile, from a `styxy browse` that was killed: close it first",
                browser.name()
            ))),
            Some(_) => Err(refused(format!(
                "{} is running for this project already: open the page there",
                browser.name()
            ))),
            None => Ok(profile),
        }
    }

    /// The process that has the profile: both families say so by a symbolic link, of `HOST-PID` or of `ADDRESS:+PID`.
    fn user(&self) -> Option<u32> {
        let mut links = ["SingletonLock", "lock"].into_iter();
        let link = links.find_map(|name| fs::read_link(self.folder.join(name)).ok())?;
        let pid: u32 = link.to_str()?.rsplit(['-', '+']).next()?.parse().ok()?;
        // The number may be another process's by now.
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        memchr::memmem::find(&line, self.folder.as_os_str().as_bytes()).map(|_| pid)
    }

    fn log(&self) -> PathBuf {
        let mut name = self.folder.clone().into_os_string();
        name.push(".log");
        name.into()
    }
}

/// Makes the folder of a profile, which is the user's only, and takes its lock; whether nobody else has it.
fn prepare(folder: &Path) -> io::Result<(File, bool)> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let project = folder.parent().ok_or(io::ErrorKind::InvalidInput)?;
    for private in [project, folder] {
        fs::set_permissions(private, Permissions::from_mode(0o700))?;
    }
    let mut name = folder.as_os_str().to_owned();
    name.push(".lock");
    let lock =
        OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(name)?;
    match lock.try_lock() {
        Ok(()) => Ok((lock, true)),
        Err(TryLockError::WouldBlock) => Ok((lock, false)),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// A name for a folder of this project, which no other project has: `shop-b-1f0e2d3c4b5a6978`.
fn name_of(project: &str) -> String {
    let last = project.rsplit('/').next().unwrap_or_default();
    let is_plain = |c: &char| c.is_ascii_alphanumeric() || ['.', '_', '-'].contains(c);
    let plain: String = last.trim_start_matches('.').chars().filter(is_plain).take(40).collect();
    format!("{plain}-{:016x}", fnv1a(project.as_bytes()))
}

/// The snap that a program is: a link to snap(1), or a script that starts one, as Ubuntu's packages have it.
fn snap(program: &Path) -> Option<String> {
    const FOLDER: &str = "/snap/bin/";
    if fs::canonicalize(program).is_ok_and(|real| real.ends_with("usr/bin/snap")) {
        return Some(program.file_name()?.to_str()?.to_owned());
    }
    let mut text = Vec::new();
    File::open(program).ok()?.take(8 * 1024).read_to_end(&mut text).ok()?;
    let text = String::from_utf8(text).ok().filter(|text| text.starts_with("#!"))?;
    let (_, name) = text.split_once(FOLDER)?;
    let end = name.find(|c: char| !c.is_ascii_alphanumeric() && c != '-').unwrap_or(name.len());
    Some(name[..end].to_owned()).filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_browser_is_known_by_its_name() {
        for name in ["chromium", "google-chrome-beta", "brave-browser", "chrome", "vivaldi-stable"]
        {
            assert_eq!(Family::of(name), Some(Family::Chromium), "{name}");
        }
        for name in ["firefox", "firefox-esr", "org.mozilla.firefox", "librewolf"] {
            assert_eq!(Family::of(name), Some(Family::Firefox), "{name}");
        }
        for name in ["", "xdg-open", "lynx", "browser.sh"] {
            assert_eq!(Family::of(name), None, "{name}");
        }
        assert!(KNOWN.into_iter().all(|name| Family::of(name).is_some()));
    }

    #[test]
    fn the_folder_of_a_project_never_changes_and_is_no_others() {
        let all =
            ["/home/dev/shop", "/srv/shop", "/", "/home/dev/..", "/…/caf\u{fffd}#00"].map(name_of);
        assert_eq!(all[0], format!("shop-{:016x}", fnv1a(b"/home/dev/shop")));
        assert!(all[3].starts_with('-') && all[4].starts_with("caf00-"), "{all:?}");
        for (at, name) in all.iter().enumerate() {
            assert!(!all[..at].contains(name) && !name.contains('/'), "{name}");
        }
        assert!(name_of(&"x".repeat(1000)).len() < 64);
    }

    #[test]
    fn a_snap_is_found_behind_a_link_and_behind_a_script() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::create_dir_all(path("usr/bin")).unwrap();
        fs::write(path("usr/bin/snap"), "").unwrap();
        symlink(path("usr/bin/snap"), path("firefox")).unwrap();
        assert_eq!(snap(&path("firefox")).as_deref(), Some("firefox"));
        let script = "#!/bin/sh\nif ! [ -x /snap/bin/chromium ]; then exit 1; fi\nexec /snap/bin/chromium \"$@\"\n";
        fs::write(path("chromium-browser"), script).unwrap();
        assert_eq!(snap(&path("chromium-browser")).as_deref(), Some("chromium"));
        fs::write(path("chromium"), "#!/bin/sh\nexec /usr/lib/chromium/chromium \"$@\"\n").unwrap();
        assert_eq!(snap(&path("chromium")), None);
        assert_eq!(snap(&path("missing")), None);
    }

    #[test]
    fn a_profile_is_the_users_only_and_one_command_at_a_time_has_it() {
        let folder = tempfile::tempdir().unwrap();
        let own = folder.path().join("browse/shop/chromium");
        fs::create_dir_all(&own).unwrap();
        fs::set_permissions(&own, Permissions::from_mode(0o755)).unwrap();
        let (first, is_free) = prepare(&own).unwrap();
        assert!(is_free && !prepare(&own).unwrap().1);
        drop(first);
        assert!(prepare(&own).unwrap().1);
        for path in [own.as_path(), own.parent().unwrap()] {
            assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o700);
        }
        let (lock, _) = prepare(&own).unwrap();
        let profile = Profile { folder: own.clone(), _lock: lock };
        assert_eq!(profile.user(), None);
        // This process, whose command line does not have the folder.
        symlink(format!("host-{}", std::process::id()), own.join("SingletonLock")).unwrap();
        assert_eq!(profile.user(), None);
        let mut other = std::process::Command::new("sh")
            .args(["-c", "echo; read -r _", "sh"])
            .arg(&own)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // Only then it is certain to have its command line (execve(2)).
        other.stdout.take().unwrap().read_exact(&mut [0]).unwrap();
        for (name, link) in [
            ("SingletonLock", format!("a-host-{}", other.id())),
            ("lock", format!("127.0.1.1:+{}", other.id())),
        ] {
            let _ = fs::remove_file(own.join("SingletonLock"));
            symlink(link, own.join(name)).unwrap();
            assert_eq!(profile.user(), Some(other.id()), "{name}");
        }
        other.kill().unwrap();
        other.wait().unwrap();
        assert_eq!(profile.user(), None);
    }

    #[test]
    fn firefox_asks_the_proxy_for_localhost_too() {
        let text = preferences("127.0.0.1:4321".parse().unwrap());
        for line in [
            "user_pref(\"network.proxy.type\", 1);",
            "user_pref(\"network.proxy.socks\", \"127.0.0.1\");",
            "user_pref(\"network.proxy.socks_port\", 4321);",
            "user_pref(\"network.proxy.allow_hijacking_localhost\", true);",
        ] {
            assert!(text.lines().any(|known| known == line), "{text}");
        }
    }
}
