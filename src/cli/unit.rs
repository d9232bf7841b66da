//! `styxy unit`: a server that the first request starts, and that is stopped when nobody uses it, by the user's systemd.
//!
//! - `text`: the texts of its units

mod text;

use std::{
    env, fs,
    io::{self, Write},
    net::TcpListener,
    path::{Path, PathBuf},
};

use clap::Args;
use nix::errno::Errno;
use serde_json::json;

pub(super) use self::text::BACKEND;
use self::text::{OnDemand, base};
use super::{
    CliError, Output,
    check::why_another,
    port::url,
    print, print_json,
    project::Project,
    refused,
    run::{is_there, not_started},
    say, seconds,
    suggest::{put_service_of, suggest},
    usage,
};
use crate::{
    client::unit::{control, systemctl},
    error::Error,
    lease::ServiceName,
    port::{Port, Protocol},
    surroundings::user,
    value::Fields,
    word::{disturbs, is_variable, visible},
};

/// Where Debian and others have it.
const PROXY: [&str; 2] =
    ["/usr/lib/systemd/systemd-socket-proxyd", "/lib/systemd/systemd-socket-proxyd"];

/// The variables that `styxy run` sets.
const OWN: [&str; 3] = ["PORT", "STYXY_PORT", "STYXY_LEASE_ID"];

/// Start a server at the first request, and stop it when nobody uses it
///
/// systemd listens on the leased port. At the first connection it starts the command behind a proxy, on a port of
/// its own, and stops it when there has been no connection for the idle time. The URL is printed.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    styxy unit dev --name web -- npm run dev\n  \
    styxy unit docs --write -- mkdocs serve -a 127.0.0.1:{port}\n  \
    styxy unit dev --name web --remove")]
pub(super) struct Unit {
    /// The class of service: dev, api, docs, …
    #[arg(value_name = "TYPE")]
    service_type: String,
    /// The name of the service
    #[arg(long)]
    name: Option<ServiceName>,
    /// Try this port first
    #[arg(long)]
    port: Option<Port>,
    /// Stop the server after this time without a connection
    #[arg(long, value_name = "TIME", default_value_t = 600, value_parser = seconds(1..=86_400))]
    idle: u64,
    /// Wait at most this long until the server listens
    #[arg(long, value_name = "TIME", default_value_t = 60, value_parser = seconds(1..=3_600))]
    patience: u64,
    /// Set this variable for the server; without VALUE, to its value in this shell. {port} is replaced as in the
    /// command. PATH is always set
    #[arg(long, value_name = "NAME[=VALUE]")]
    setenv: Vec<String>,
    /// Keep the units across a reboot, and start the socket at each login
    #[arg(long)]
    write: bool,
    /// Print the units, and change nothing
    #[arg(long, conflicts_with = "remove")]
    dry_run: bool,
    /// Stop and remove the units of this service
    #[arg(long, conflicts_with_all = ["command", "write"])]
    remove: bool,
    /// The project of the server [default: the git worktree of this folder, or the folder]
    #[arg(long, value_name = "PATH")]
    project: Option<Project>,
    #[command(flatten)]
    output: Output,
    /// The command and its arguments
    #[arg(last = true, required_unless_present = "remove", value_name = "COMMAND")]
    command: Vec<String>,
}

impl Unit {
    pub(super) fn run(self) -> Result<(), CliError> {
        let project = Project::or_current(self.project.as_ref()).map_err(|e| usage(&e))?;
        let package = project.package().unwrap_or(project.path()).as_str();
        let name = self.name.as_ref().map(ServiceName::as_str);
        let base = base(package, &self.service_type, name);
        if self.remove {
            return self.remove(&base);
        }
        if name.is_some_and(|name| name.ends_with(BACKEND)) {
            let error = Error::invalid(format!(
                "names that end with {BACKEND} are for servers behind a socket"
            ));
            return Err(usage(&error.suggest("choose another name")));
        }
        format!("{}{BACKEND}", name.unwrap_or_default())
            .parse::<ServiceName>()
            .map_err(|e| usage(&e))?;
        if !is_there(self.command[0].as_ref()) {
            return Err(not_started(self.command[0].as_ref(), &Errno::ENOENT.into()));
        }
        let environment = self.environment()?;
        let [styxy, proxy] = [env::current_exe()?, proxy()?].map(text_of);
        let (styxy, proxy) = (styxy?, proxy?);
        // The command runs where it would without this.
        let folder = match &self.project {
            Some(_) => PathBuf::from(package),
            None => env::current_dir()?,
        };
        let folder = text_of(folder)?;
        if folder.contains(disturbs) || folder.ends_with([' ', '\\']) {
            return Err(refused(format!(
                "{:?} cannot be the folder of a unit: systemd accepts no control characters, and no blank or \
                 backslash at the end",
                visible(&folder)
            )));
        }
        let server = OnDemand {
            base,
            styxy: &styxy,
            proxy: &proxy,
            service_type: &self.service_type,
            name,
            folder: &folder,
            port: self.port_for(&project)?,
            has_ipv6: TcpListener::bind(("::1", 0)).is_ok(),
            idle: self.idle,
            patience: self.patience,
            environment,
            command: self.command.iter().map(String::as_str).collect(),
        };
        let files = server.files();
        let url = url(&json!({"port": server.port}));
        if self.dry_run && !self.output.json {
            let texts = files.iter().map(|(name, text)| format!("# {name}\n{text}"));
            return print(texts.collect::<Vec<_>>().join("\n").trim_end());
        }
        if !self.dry_run {
            self.install(&server.base, &files)?;
        }
        if self.output.json {
            let units: Vec<_> = files.iter().map(|(name, _)| name).collect();
            let answer = json!({
                "url": url, "port": server.port, "units": units, "written": self.write, "dry_run": self.dry_run,
            });
            return print_json(&answer);
        }
        print(&url)?;
        let command = visible(&self.command.join(" "));
        say(&format!(
            "the first request starts {command}; `systemctl --user status '{}*'` shows it",
            server.base
        ));
        Ok(())
    }

    /// The port that the service would get.
    fn port_for(&self, project: &Project) -> Result<u16, CliError> {
        let mut options = Fields::default();
        options.put_some("service_name", self.name.as_ref().map(ServiceName::to_string));
        options.put_some("port", self.port.map(Port::get));
        options.put("count", 1_u32);
        put_service_of(project, &mut options);
        let suggestions = suggest(&self.service_type, options)?;
        let got = &suggestions[0]["port"];
        let none = || refused(format!("no port of type {} is free", self.service_type));
        let port = got.as_u64().and_then(Port::new).ok_or_else(none)?;
        if let Some(asked) = self.port
            && let Some(why) = why_another(asked, got, Protocol::Tcp)
        {
            say(&format!("port {port}, not {asked}: {why}"));
        }
        Ok(port.get())
    }

    /// PATH, and the named variables.
    fn environment(&self) -> Result<Vec<(String, String)>, CliError> {
        let here = |name: &str| env::var(name).ok();
        let mut environment = Vec::new();
        environment.extend(here("PATH").map(|path| ("PATH".to_owned(), path)));
        for given in &self.setenv {
            let (name, value) = match given.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (given.as_str(), here(given)),
            };
            let wrong = |why: &str| usage(&Error::invalid(format!("--setenv {name}: {why}")));
            if !is_variable(name) {
                return Err(wrong("this is not the name of a variable"));
            }
            if OWN.contains(&name) {
                return Err(wrong("styxy sets it itself; use {port} in other variables"));
            }
            let value = value.ok_or_else(|| wrong("it is not set here: write NAME=VALUE"))?;
            environment.retain(|(other, _)| other != name);
            environment.push((name.to_owned(), value));
        }
        Ok(environment)
    }

    fn install(&self, base: &str, files: &[(String, String)]) -> Result<(), CliError> {
        manager()?;
        let folders = folders()?;
        let [runtime, permanent] = &folders;
        let folder = if self.write { permanent } else { runtime };
        // What was made before, perhaps of the other kind, is replaced as a whole.
        let before: Vec<_> = paths(base, &folders)
            .filter_map(|path| fs::read_to_string(&path).ok().map(|text| (path, text)))
            .collect();
        stop(base);
        delete(base, &folders)?;
        fs::create_dir_all(folder)?;
        for (name, text) in files {
            let path = folder.join(name);
            let written =
                fs::File::create(&path).and_then(|mut file| file.write_all(text.as_bytes()));
            written.map_err(|error| refused(format!("{}: {error}", path.display())))?;
        }
        control(&["daemon-reload"]).map_err(refused)?;
        let socket = format!("{base}.socket");
        if self.write {
            control(&["enable", "--quiet", &socket]).map_err(refused)?;
        }
        control(&["start", &socket]).map_err(|error| {
            let why = reason(&socket);
            stop(base);
            let _ = delete(base, &folders);
            for (path, text) in &before {
                let _ = fs::write(path, text);
            }
            let _ = systemctl(&["daemon-reload"]);
            if before.iter().any(|(path, _)| path.starts_with(permanent)) {
                let _ = systemctl(&["enable", "--quiet", &socket]);
            }
            refused(why.unwrap_or(error))
        })
    }

    fn remove(&self, base: &str) -> Result<(), CliError> {
        manager()?;
        let folders = folders()?;
        let socket = format!("{base}.socket");
        if !folders.iter().any(|folder| folder.join(&socket).exists()) {
            return Err(refused(format!(
                "there is no {socket}: give the type, name and project that it was made with"
            )));
        }
        stop(base);
        let _ = systemctl(&["disable", "--quiet", &socket]);
        let removed = delete(base, &folders)?;
        control(&["daemon-reload"]).map_err(refused)?;
        if self.output.json {
            return print_json(&json!({"removed": removed}));
        }
        print(&format!("removed {}", removed.join(", ")))
    }
}

fn text_of(path: PathBuf) -> Result<String, CliError> {
    let text = path.into_os_string().into_string();
    text.map_err(|path| refused(format!("{}: not UTF-8", path.to_string_lossy())))
}

fn proxy() -> io::Result<PathBuf> {
    let found = PROXY.iter().map(Path::new).find(|path| path.exists());
    let missing = || io::Error::other("there is no systemd-socket-proxyd(8): install systemd");
    found.map(Path::to_owned).ok_or_else(missing)
}

/// Fails where no systemd of the user runs.
fn manager() -> Result<(), CliError> {
    if user().has_manager() {
        return Ok(());
    }
    Err(refused(
        "no systemd user manager runs here: `styxy run` starts a server without it".to_owned(),
    ))
}

/// The folders of units that end with the session, and of those that stay: systemd.unit(5).
fn folders() -> Result<[PathBuf; 2], CliError> {
    let runtime = user().runtime().map_err(|error| refused(error.to_string()))?;
    let config =
        env::var_os("XDG_CONFIG_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let config = config.or_else(|| user().home().map(|home| home.join(".config")));
    let config = config.ok_or_else(|| refused("HOME is not set".to_owned()))?;
    Ok([runtime.join("systemd/user"), config.join("systemd/user")])
}

/// The units of a server: the socket, the proxy, the server.
fn units(base: &str) -> [String; 3] {
    [format!("{base}.socket"), format!("{base}.service"), format!("{base}-backend.service")]
}

/// Where they may be.
fn paths(base: &str, folders: &[PathBuf]) -> impl Iterator<Item = PathBuf> {
    folders.iter().flat_map(|folder| units(base).map(|name| folder.join(name)))
}

/// Stops them, whether they are there or not.
fn stop(base: &str) {
    let [socket, proxy, server] = units(base);
    let _ = systemctl(&["stop", "--quiet", &socket, &proxy, &server]);
    let _ = systemctl(&["reset-failed", "--quiet", &socket, &proxy, &server]);
}

fn delete(base: &str, folders: &[PathBuf]) -> io::Result<Vec<String>> {
    let mut deleted = Vec::new();
    // The links of `systemctl enable` first, for they name the socket.
    let link = format!("default.target.wants/{base}.socket");
    let links = folders.iter().map(|folder| folder.join(&link));
    for path in links.chain(paths(base, folders)) {
        match fs::remove_file(&path) {
            Ok(()) => deleted.push(path.display().to_string()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(deleted)
}

/// What styxy, or else systemd, said when the socket could not be started.
fn reason(socket: &str) -> Option<String> {
    let mut journal = std::process::Command::new("journalctl");
    journal.args(["--user", "--quiet", "--output=cat", "--lines=20", "--unit", socket]);
    let output = journal.output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let said = || text.lines().rev();
    let by_styxy = said().find_map(|line| line.strip_prefix("styxy: "));
    by_styxy.or_else(|| said().find(|line| line.contains("in use"))).map(visible)
}
