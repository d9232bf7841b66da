use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    thread,
    time::{Duration, Instant},
};

use clap::{
    Args, ValueEnum,
    builder::{OsStringValueParser, TypedValueParser},
};
use serde_json::Value as Json;

use super::{
    CliError, Output, failure,
    lease::found,
    port_users::note_of,
    print, print_json,
    project::Project,
    refused, say, seconds,
    service::{Named, Service, unless_missing},
    short, text, usage,
};
use crate::{
    client,
    error::{Error, ErrorKind},
    kernel::{diag, probe, process::Process},
    port::{Port, PortRange, Protocol},
    value::Fields,
    word::as_variable,
};

/// The first and the longest pause between checks whether something listens.
const SOON: Duration = Duration::from_millis(10);
const LATE: Duration = Duration::from_millis(250);
/// The delay before a message says that the command is waiting.
const SILENT: Duration = Duration::from_secs(2);

/// Print the port that a service of this project has now
///
/// Without a package, it looks in the package of the current folder first, then in the whole project. If the service
/// has several leases, it prints the one whose server listens, or else the first. Exit code 1 if there is none, 2 if
/// several services match.
#[derive(Debug, Args)]
pub(super) struct Find {
    /// Its name, its type, or TYPE:NAME; PACKAGE is the folder of its package, from the top of the project
    #[arg(value_name = "SERVICE[@PACKAGE]", required_unless_present = "asked")]
    service: Option<Named>,
    /// Print the real port of this one instead, which the programs of the project ask for
    #[arg(long, value_name = "PORT", conflicts_with_all = ["service", "name", "package", "wait"])]
    asked: Option<Port>,
    /// The service's name; SERVICE is then its type
    #[arg(long)]
    name: Option<String>,
    /// The package of the service: a folder of the project, relative to the current folder or to the top
    #[arg(long, value_name = "PATH", conflicts_with = "project",
        value_parser = OsStringValueParser::new().try_map(Project::of_package))]
    package: Option<Project>,
    /// The project of the service, or a folder in it that selects the package there [default: the current folder]
    #[arg(long, value_name = "PATH")]
    project: Option<Project>,
    /// Wait at most this long until something listens on the port
    #[arg(long, value_name = "TIME", value_parser = seconds(1..=86_400))]
    wait: Option<u64>,
    /// Give up waiting when this process has exited
    #[arg(long, value_name = "PID", requires = "wait")]
    pid: Option<u32>,
    /// port (the number), url (http://…), address (where it listens), env (a line for a .env file), or json
    #[arg(long, value_enum, default_value_t = Format::Port, conflicts_with = "json")]
    format: Format,
    #[command(flatten)]
    output: Output,
}

/// How a port is printed.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    Port,
    Url,
    Address,
    Env,
    Json,
}

impl Find {
    pub(super) fn run(self) -> Result<(), CliError> {
        let project = Project::or_current(self.project.as_ref().or(self.package.as_ref()));
        let project = project.map_err(|e| usage(&e))?;
        let (format, is_json) = (self.format, self.output.json);
        let lease = match self.asked {
            Some(asked) => mapping(&project, asked)?,
            None => self.lease(&project)?,
        };
        if let Some(note) = note_of(&lease) {
            say(&note);
        }
        match format {
            _ if is_json => print_json(&lease),
            Format::Json => print_json(&lease),
            Format::Port => print(&lease["port"].to_string()),
            Format::Url => print(&url_now(&lease)),
            Format::Address => print(&address(&lease)?),
            Format::Env => print(&format!("{}={}", variable(&lease), lease["port"])),
        }
    }

    /// The lease of the service.
    fn lease(self, project: &Project) -> Result<Json, CliError> {
        let Some(mut service) = self.service else {
            return Err(usage(&Error::invalid("a service or --asked is missing")));
        };
        if self.package.is_some() && service.has_package() {
            let error = Error::invalid("the package is named twice");
            return Err(usage(&error.suggest("leave out --package, or what follows @")));
        }
        if let Some(name) = self.name {
            service = service.with_name(name).map_err(|e| usage(&e))?;
        }
        let mut service = service.of(project).map_err(|e| usage(&e))?;
        if self.package.is_some() {
            service = service.of_this_package();
        }
        match self.wait {
            Some(seconds) => service.listening_within(Duration::from_secs(seconds), self.pid),
            None => service.lease(),
        }
    }
}

/// The lease of the real port of one that is asked for in the project: of both protocols that for TCP.
fn mapping(project: &Project, asked: Port) -> Result<Json, CliError> {
    let mut filter = Fields::default();
    filter.put("project_path", project.path().as_str());
    filter.put("asked", asked.get());
    let mut leases = found(filter)?;
    leases.sort_by_key(|lease| text(lease, "protocol") != Protocol::Tcp.as_str());
    leases.into_iter().next().ok_or_else(|| {
        let project = short(project.path().as_str());
        let message = format!("port {asked} has no other real port in {project} now");
        let error = Error::new(ErrorKind::NoSuchLease, message);
        failure(&error.suggest(format!("`styxy list --asked {asked}` shows where it has one")))
    })
}

/// Types whose servers are opened in a browser. Many of them, such as Vite, listen on only one of the addresses of `localhost`,
/// and browsers try all.
const IN_BROWSERS: [&str; 6] = ["dev", "docs", "hub", "monitoring", "storybook", "ui"];

pub(super) fn is_in_browsers(lease: &Json) -> bool {
    IN_BROWSERS.contains(&text(lease, "service_type"))
}

/// The URL of a server on the port of that lease, whether it listens yet or not.
pub(super) fn url(lease: &Json) -> String {
    let host = match probe::loopback() {
        _ if is_in_browsers(lease) => "localhost".to_owned(),
        IpAddr::V6(host) => format!("[{host}]"),
        IpAddr::V4(host) => host.to_string(),
    };
    format!("http://{host}:{}", lease["port"])
}

/// The URL of the server that listens on the port of that lease now, if one does.
pub(super) fn url_now(lease: &Json) -> String {
    let now = address(lease).ok().filter(|now| now.starts_with('[') && !is_in_browsers(lease));
    now.map_or_else(|| url(lease), |address| format!("http://{address}"))
}

/// The address and port of its server for a client on this machine: 127.0.0.1, unless it listens on `::1` alone.
fn address(lease: &Json) -> Result<String, CliError> {
    let port = lease["port"].as_u64().and_then(Port::new);
    let port = port.ok_or_else(|| refused(format!("port {} is none", lease["port"])))?;
    let (mut has_ipv4, mut has_ipv6) = (false, false);
    diag::sockets(Protocol::Tcp, PortRange::only(port), |socket| match socket.address {
        IpAddr::V6(Ipv6Addr::LOCALHOST) => has_ipv6 = true,
        _ => has_ipv4 = true,
    })?;
    let host =
        if has_ipv6 && !has_ipv4 { "[::1]".to_owned() } else { Ipv4Addr::LOCALHOST.to_string() };
    Ok(format!("{host}:{port}"))
}

/// The variable for a lease: `API_PORT` if its service is named api or, without a name, is of type api.
fn variable(lease: &Json) -> String {
    let name = lease["service_name"].as_str().unwrap_or(text(lease, "service_type"));
    format!("{}_PORT", as_variable(name))
}

impl Service {
    /// Waits until something listens on the port of its lease, and returns the lease. Fails when the time is up, or the process
    /// has ended that should.
    fn listening_within(&self, patience: Duration, pid: Option<u32>) -> Result<Json, CliError> {
        let gone =
            |pid: u32| refused(format!("process {pid}, which was expected to listen, has exited"));
        let process =
            |pid| Process::of_pid(pid).map_err(|_| gone(pid)).map(|process| (pid, process));
        let process = pid.map(process).transpose()?;
        let end = Instant::now() + patience;
        let mut pause = SOON;
        let mut known: Option<Json> = None;
        let (begin, mut asked, mut is_told) = (Instant::now(), None, false);
        loop {
            if begin.elapsed() >= SILENT && !is_told {
                say(&format!("waiting until {self} listens ..."));
                is_told = true;
            }
            // The lease is looked up less often than the listener, which the kernel shows without asking the
            // service.
            if asked.is_none_or(|at: Instant| at.elapsed() >= LATE) {
                client::begin_again();
                known = unless_missing(self.lease())?;
                asked = Some(Instant::now());
            }
            if let Some(lease) = &known
                && is_listened(lease)?
            {
                return Ok(lease.clone());
            }
            if let Some((pid, _)) =
                process.as_ref().filter(|(_, its)| its.ends_within(Duration::ZERO))
            {
                return Err(gone(*pid));
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let Some(lease) = known else { return self.lease() };
                if let Some(note) = note_of(&lease) {
                    return Err(refused(note));
                }
                let seconds = patience.as_secs();
                return Err(refused(format!(
                    "nothing listens yet after {seconds} s: {}",
                    described(&lease)
                )));
            }
            thread::sleep(pause.min(left));
            pause = (pause * 2).min(LATE);
        }
    }
}

/// `dev web (3000)`
fn described(lease: &Json) -> String {
    let words = [text(lease, "service_type"), text(lease, "service_name")].join(" ");
    let package = lease["package_path"].as_str().map(|path| format!(" of {path}"));
    format!("{}{} ({})", words.trim_end(), package.unwrap_or_default(), lease["port"])
}

/// Whether something listens on the port of a lease.
pub(super) fn is_listened(lease: &Json) -> Result<bool, CliError> {
    let Some((port, protocol)) = port_of(lease) else { return Ok(false) };
    diag::has_listener(port, protocol).map_err(|error: io::Error| CliError::System(error))
}

/// The port of a lease.
pub(super) fn port_of(lease: &Json) -> Option<(Port, Protocol)> {
    let port = lease["port"].as_u64().and_then(Port::new)?;
    Some((port, text(lease, "protocol").parse().ok()?))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_browsers_open_is_localhost_and_what_programs_call_is_an_address() {
        let dev = json!({"service_type": "dev", "port": 3000});
        assert_eq!(url(&dev), "http://localhost:3000");
        let listener = std::net::TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let api = json!({"service_type": "api", "port": port});
        assert_eq!(url(&api), format!("http://127.0.0.1:{port}"));
        assert_eq!(url_now(&api), format!("http://[::1]:{port}"), "it listens there alone");
    }

    #[test]
    fn a_variable_is_called_after_the_service() {
        let name = |name: &str| variable(&json!({"service_name": name, "service_type": "dev"}));
        assert_eq!((name("web"), name("my-api.2")), ("WEB_PORT".into(), "MY_API_2_PORT".into()));
        assert_eq!((name("2nd"), name("a--b")), ("_2ND_PORT".into(), "A_B_PORT".into()));
        assert_eq!(variable(&json!({"service_type": "dev"})), "DEV_PORT");
    }
}
