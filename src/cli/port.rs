use std::{
    io, thread,
    time::{Duration, Instant},
};

use clap::{Args, ValueEnum};
use serde_json::Value as Json;

use super::{
    Output, Stop, lease::found, print, print_json, project::Project, refused, say, text, usage,
    wanted::unit_name,
};
use crate::{
    client,
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
/// leases of one service, the first is meant. Exit code 1 if there is none.
#[derive(Debug, Args)]
pub(super) struct Find {
    /// The class of service: dev, api, database, …
    #[arg(value_name = "TYPE")]
    service_type: String,
    /// The service's name
    #[arg(long)]
    name: Option<String>,
    /// The package that it is of: a folder of the project
    #[arg(long, value_name = "PATH", conflicts_with = "project")]
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
        let package = project.package().map(text_of);
        let package = match self.package {
            Some(_) => Package::Only(package),
            None => Package::First(package),
        };
        let service = Service {
            class: Some(self.service_type),
            name: self.name,
            project: text_of(project.path()),
            package,
        };
        let lease = match self.wait {
            Some(seconds) => service.listening_within(Duration::from_secs(seconds))?,
            None => service.lease()?.ok_or_else(|| service.none())?,
        };
        match self.format {
            _ if self.output.json => print_json(&lease),
            Format::Json => print_json(&lease),
            Format::Port => print(&lease["port"].to_string()),
            Format::Url => print(&url(&lease)),
            Format::Env => print(&format!("{}={}", variable(&lease), lease["port"])),
        }
    }
}

fn text_of(path: &ProjectPath) -> String {
    path.as_str().to_owned()
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
    let project = Project::current().map_err(|e| usage(&e))?;
    let named = |service_type: Option<&str>, name: Option<&str>| Service {
        class: service_type.map(str::to_owned),
        name: name.map(str::to_owned),
        project: text_of(project.path()),
        package: Package::First(project.package().map(text_of)),
    };
    if let Some((service_type, name)) = service.split_once(':') {
        let service = named(Some(service_type), Some(name));
        return service.lease()?.ok_or_else(|| service.none());
    }
    if let Some(lease) = named(None, Some(service)).lease()? {
        return Ok(lease);
    }
    let service = named(Some(service), None);
    service.lease()?.ok_or_else(|| service.none())
}

/// Which package of the project is meant.
enum Package {
    /// This one, if it has such a service; `None` is the project itself.
    First(Option<String>),
    /// This one.
    Only(Option<String>),
}

/// A service that is looked for.
struct Service {
    class: Option<String>,
    name: Option<String>,
    project: String,
    package: Package,
}

impl Service {
    /// Its lease, if there is one; of several at once the first.
    fn lease(&self) -> Result<Option<Json>, Stop> {
        let mut filter = Fields::default();
        filter.put("project_path", self.project.as_str());
        filter.put_some("service_type", self.class.clone());
        filter.put_some("service_name", self.name.clone());
        self.of(found(filter)?)
    }

    fn of(&self, mut leases: Vec<Json>) -> Result<Option<Json>, Stop> {
        // Of a block, the first port is the one that has a name.
        leases
            .retain(|lease| lease["block_id"].is_null() || lease["block_id"] == lease["lease_id"]);
        match &self.package {
            Package::Only(package) => leases.retain(|lease| is_of(lease, package.as_deref())),
            Package::First(package) => {
                prefer(&mut leases, |lease| is_of(lease, package.as_deref()));
            }
        }
        if self.name.is_none() {
            let of_unit = unit_name();
            prefer(&mut leases, |lease| {
                of_unit.is_some() && lease["service_name"].as_str() == of_unit.as_deref()
            });
            prefer(&mut leases, |lease| lease["service_name"].is_null());
        }
        // What was written down is the claim.
        prefer(&mut leases, |lease| lease["claim"] == true);
        // Those beyond the last slot come last.
        leases.sort_by_key(|lease| {
            lease["slot"].as_u64().map_or(1, |slot| if slot == 0 { u64::MAX } else { slot })
        });
        let service = |lease: &Json| {
            ["service_type", "service_name", "package_path"].map(|key| lease[key].clone())
        };
        match leases.iter().find(|lease| service(lease) != service(&leases[0])) {
            Some(_) => Err(refused(format!(
                "several services of this project are meant: {}; say which with --name or --package",
                leases.iter().map(described).collect::<Vec<_>>().join(", ")
            ))),
            None => Ok(leases.into_iter().next()),
        }
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
                known = self.lease()?;
                asked = Some(Instant::now());
            }
            if let Some(lease) = &known
                && is_listened(lease)?
            {
                return Ok(lease.clone());
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(known.map_or_else(
                    || self.none(),
                    |lease| {
                        refused(format!(
                            "nothing listens yet after {1} s: {0}",
                            described(&lease),
                            patience.as_secs()
                        ))
                    },
                ));
            }
            thread::sleep(pause.min(left));
            pause = (pause * 2).min(LATE);
        }
    }

    /// That there is no such service.
    fn none(&self) -> Stop {
        refused(format!(
            "no {} of {} has a port now; `styxy list --mine` shows those that have one",
            self.words(),
            self.project
        ))
    }

    /// `dev web`
    fn words(&self) -> String {
        let words = [self.class.as_deref(), self.name.as_deref()];
        words.into_iter().flatten().collect::<Vec<_>>().join(" ")
    }
}

fn is_of(lease: &Json, package: Option<&str>) -> bool {
    lease["package_path"].as_str() == package
}

/// Keeps those that are preferred, if there are any.
fn prefer(leases: &mut Vec<Json>, is_preferred: impl Fn(&Json) -> bool) {
    if leases.iter().any(&is_preferred) {
        leases.retain(is_preferred);
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

    fn service(name: Option<&str>, package: Package) -> Service {
        let name = name.map(str::to_owned);
        Service { class: None, name, project: "/shop".to_owned(), package }
    }

    fn port(service: &Service, leases: &[Json]) -> Option<u64> {
        service.of(leases.to_vec()).ok().unwrap().and_then(|lease| lease["port"].as_u64())
    }

    #[test]
    fn a_service_of_the_package_of_the_current_folder_comes_first() {
        let leases = [
            json!({"port": 3000, "service_type": "dev", "package_path": "/shop/web"}),
            json!({"port": 3001, "service_type": "dev", "package_path": "/shop/admin"}),
        ];
        let first = |path: &str| service(None, Package::First(Some(path.to_owned())));
        assert_eq!(port(&first("/shop/admin"), &leases), Some(3001));
        assert_eq!(port(&first("/shop/docs"), &leases[..1]), Some(3000));
        assert!(first("/shop/docs").of(leases.to_vec()).is_err(), "it may be either");
        let only = service(None, Package::Only(Some("/shop/docs".to_owned())));
        assert_eq!(port(&only, &leases), None);
        assert!(service(None, Package::First(None)).of(leases.to_vec()).is_err());
    }

    #[test]
    fn the_first_lease_of_a_service_is_meant_and_the_one_without_a_name() {
        let leases = [
            json!({"port": 3007, "service_type": "dev", "slot": 0}),
            json!({"port": 3004, "service_type": "dev", "slot": 2}),
            json!({"port": 3005, "service_type": "dev"}),
            json!({"port": 3001, "service_type": "dev", "service_name": "web"}),
            json!({"port": 3002, "service_type": "dev", "block_id": "1", "lease_id": "2"}),
        ];
        assert_eq!(port(&service(None, Package::First(None)), &leases), Some(3005));
        assert_eq!(port(&service(None, Package::First(None)), &leases[..2]), Some(3004));
        assert_eq!(port(&service(None, Package::First(None)), &leases[3..]), Some(3001));
        assert_eq!(port(&service(None, Package::First(None)), &leases[4..]), None);
    }

    #[test]
    fn a_variable_is_called_after_the_service() {
        let name = |name: &str| variable(&json!({"service_name": name, "service_type": "dev"}));
        assert_eq!((name("web"), name("my-api.2")), ("WEB_PORT".into(), "MY_API_2_PORT".into()));
        assert_eq!(name("2nd"), "_2ND_PORT");
        assert_eq!(variable(&json!({"service_type": "dev"})), "DEV_PORT");
    }
}
