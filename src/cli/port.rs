use std::{
    io, thread,
    time::{Duration, Instant},
};

use clap::{
    Args, ValueEnum,
    builder::{OsStringValueParser, TypedValueParser},
};
use serde_json::Value as Json;

use super::{
    Output, Stop, ask, holders::note_of, print, print_json, project::Project, refused, say, text,
    usage, wanted::unit_of,
};
use crate::{
    client::{self, Call},
    error::ErrorKind,
    kernel::{diag, probe},
    lease::ProjectPath,
    port::{Port, Protocol},
    value::Fields,
};

/// How soon it is looked again whether something listens: at first, and at most.
const SOON: Duration = Duration::from_millis(10);
const LATE: Duration = Duration::from_millis(250);
/// How long nothing is said of that.
const SILENT: Duration = Duration::from_secs(2);

/// Print the port that a service of this project has now
///
/// Without --package, a service of the package of the current folder is meant, else one of the whole project. Of several
/// leases of one service, the first is meant. Exit code 1 if there is none, 2 if several services are meant.
#[derive(Debug, Args)]
pub(super) struct Find {
    /// The class of service: dev, api, database, …
    #[arg(value_name = "TYPE")]
    service_type: String,
    /// The service's name
    #[arg(long)]
    name: Option<String>,
    /// The package that it is of: a folder of the project, named from here or from its top
    #[arg(long, value_name = "PATH", conflicts_with = "project",
        value_parser = OsStringValueParser::new().try_map(Project::of_package))]
    package: Option<Project>,
    /// The project that it is of, or a folder of it for the package there [default: the current folder]
    #[arg(long, value_name = "PATH")]
    project: Option<Project>,
    /// Wait at most this long until something listens on the port
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    wait: Option<u64>,
    /// port (the number), url (http://…), env (a line for a .env file), or json
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
    Env,
    Json,
}

impl Find {
    pub(super) fn run(self) -> Result<(), Stop> {
        let project = Project::or_current(self.project.as_ref().or(self.package.as_ref()));
        let project = project.map_err(|e| usage(&e))?;
        let service = Service {
            class: Some(self.service_type),
            name: self.name,
            project,
            strict: self.package.is_some(),
        };
        let lease = match self.wait {
            Some(seconds) => service.listening_within(Duration::from_secs(seconds))?,
            None => service.lease()?,
        };
        if let Some(note) = note_of(&lease) {
            say(&note);
        }
        match self.format {
            _ if self.output.json => print_json(&lease),
            Format::Json => print_json(&lease),
            Format::Port => print(&lease["port"].to_string()),
            Format::Url => print(&url(&lease)),
            Format::Env => print(&format!("{}={}", variable(&lease), lease["port"])),
        }
    }
}

/// Where a server of that lease is reached.
pub(super) fn url(lease: &Json) -> String {
    let host = probe::loopback();
    let host = if host.is_ipv6() { format!("[{host}]") } else { host.to_string() };
    format!("http://{host}:{}", lease["port"])
}

/// `API_PORT` for a service that is called api, else for one of that type.
fn variable(lease: &Json) -> String {
    let name = lease["service_name"].as_str().unwrap_or(text(lease, "service_type"));
    let letters = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' });
    let name: String = letters.collect::<String>().to_ascii_uppercase();
    // A variable does not begin with a digit.
    let sign = if name.starts_with(|c: char| c.is_ascii_digit()) { "_" } else { "" };
    format!("{sign}{name}_PORT")
}

/// The lease of another service of the current project, by its name or its type, or by both: `api`, `database:orders`.
pub(super) fn of_project(service: &str) -> Result<Json, Stop> {
    let named = |class: Option<&str>, name: Option<&str>| {
        let (class, name) = (class.map(str::to_owned), name.map(str::to_owned));
        let project = Project::current().map_err(|e| usage(&e))?;
        Service { class, name, project, strict: false }.lease()
    };
    match service.split_once(':') {
        Some((service_type, name)) => named(Some(service_type), Some(name)),
        None => unless_missing(named(None, Some(service)))?
            .map_or_else(|| named(Some(service), None), Ok),
    }
}

/// `None` if there is no such lease.
fn unless_missing(lease: Result<Json, Stop>) -> Result<Option<Json>, Stop> {
    match lease {
        Err(Stop::Failure(failure)) if failure.is(ErrorKind::NoSuchLease) => Ok(None),
        lease => lease.map(Some),
    }
}

/// A service that is looked for.
pub(super) struct Service {
    pub(super) class: Option<String>,
    pub(super) name: Option<String>,
    pub(super) project: Project,
    /// Whether only one of the project's very package is meant.
    pub(super) strict: bool,
}

impl Service {
    /// Its lease.
    pub(super) fn lease(&self) -> Result<Json, Stop> {
        // What a unit asks for is called after it, unless it says a name.
        let of_unit = self.name.is_none().then(|| unit_of(&self.project)).flatten();
        if of_unit.is_some()
            && let Some(lease) = unless_missing(self.named(of_unit))?
        {
            return Ok(lease);
        }
        self.named(self.name.clone())
    }

    fn named(&self, name: Option<String>) -> Result<Json, Stop> {
        let mut service = Fields::default();
        service.put("project_path", self.project.path().as_str());
        service.put_some("package_path", self.project.package().map(ProjectPath::as_str));
        service.put("strict", self.strict);
        service.put_some("service_type", self.class.clone());
        service.put_some("service_name", name);
        ask(&Call::Lookup { service })
    }

    /// Its lease as soon as something listens on the port.
    fn listening_within(&self, patience: Duration) -> Result<Json, Stop> {
        let end = Instant::now() + patience;
        let mut pause = SOON;
        let mut known: Option<Json> = None;
        let (begin, mut asked, mut is_told) = (Instant::now(), None, false);
        loop {
            if begin.elapsed() >= SILENT && !is_told {
                say(&format!("waiting until {} listens ...", self.words()));
                is_told = true;
            }
            // A lease is looked for seldom: the kernel knows of a listener, and the service need not be asked.
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
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let Some(lease) = known else { return self.lease() };
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

    /// `dev web`
    fn words(&self) -> String {
        let words = [self.class.as_deref(), self.name.as_deref()];
        words.into_iter().flatten().collect::<Vec<_>>().join(" ")
    }
}

/// `dev web (3000)`
fn described(lease: &Json) -> String {
    let words = [text(lease, "service_type"), text(lease, "service_name")].join(" ");
    let package = lease["package_path"].as_str().map(|path| format!(" of {path}"));
    format!("{}{} ({})", words.trim_end(), package.unwrap_or_default(), lease["port"])
}

fn is_listened(lease: &Json) -> Result<bool, Stop> {
    let port = lease["port"].as_u64().and_then(Port::new);
    let (Some(port), Ok(protocol)) = (port, text(lease, "protocol").parse::<Protocol>()) else {
        return Ok(false);
    };
    diag::has_listener(port, protocol).map_err(|error: io::Error| Stop::System(error))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_variable_is_called_after_the_service() {
        let name = |name: &str| variable(&json!({"service_name": name, "service_type": "dev"}));
        assert_eq!((name("web"), name("my-api.2")), ("WEB_PORT".into(), "MY_API_2_PORT".into()));
        assert_eq!(name("2nd"), "_2ND_PORT");
        assert_eq!(variable(&json!({"service_type": "dev"})), "DEV_PORT");
    }
}
