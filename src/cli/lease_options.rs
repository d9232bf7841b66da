use std::{
    ffi::OsString,
    fs,
    io::{self, IsTerminal},
    path::Path,
};

use clap::Args;
use serde_json::Value as Json;

use super::{
    CliError, ask,
    check::{who_listens, why_another, why_not},
    lease::of_same_service,
    programs,
    project::Project,
    text, usage,
};
use crate::{
    client::{Call, Failure},
    error::ErrorKind,
    lease::ProjectPath,
    port::{Port, Protocol},
    request::AllocateRequest,
    surroundings::user,
    value::Fields,
};

/// What `allocate`, `run` and `exec` can ask for.
#[derive(Clone, Debug, Args)]
pub(super) struct LeaseOptions {
    /// What the port is for, for example web; the same name gets the same port again
    #[arg(long)]
    name: Option<String>,
    /// Try this port first
    #[arg(long, group = "which_port")]
    pub(super) port: Option<Port>,
    /// Start at a named offset (main 0, dev 1, staging 2, features 3, or one from instance_templates) from the
    /// type's first preferred port
    #[arg(long, group = "which_port")]
    template: Option<String>,
    /// Fail if that port cannot be had, instead of taking another
    #[arg(long, requires = "which_port")]
    strict: bool,
    /// tcp, udp, or both for the same number in both [default: as the type has it, else tcp]
    #[arg(long)]
    pub(super) protocol: Option<Protocol>,
    /// The agent, session or tool that makes the request
    #[arg(long, value_name = "ID")]
    instance: Option<String>,
    /// The project that the port is for [default: the git worktree of this folder, or the folder]
    #[arg(long, value_name = "PATH")]
    project: Option<Project>,
    /// Distinguish several single-instance services of one type
    #[arg(long, value_name = "KEY")]
    singleton_key: Option<String>,
    /// Create a new service type even if its name looks like a typo
    #[arg(long)]
    create: bool,
}

impl LeaseOptions {
    /// The options of the request. Fails if no project can be determined.
    pub(super) fn options(&self) -> Result<Fields, CliError> {
        let project = self.project()?;
        let mut options = Fields::default();
        options.put_some("service_name", self.name.clone().or_else(|| unit_of(&project)));
        options.put_some("port", self.port.map(Port::get));
        options.put_some("template", self.template.clone());
        options.put_some("protocol", self.protocol.map(Protocol::as_str));
        options.put_some("instance_id", self.instance.clone());
        options.put_some("singleton_key", self.singleton_key.clone());
        for (flag, is_set) in [("strict", self.strict), ("create", self.create)] {
            if is_set {
                options.put(flag, true);
            }
        }
        options.put("project_path", project.path().as_str());
        options.put_some("package_path", project.package().map(ProjectPath::as_str));
        Ok(options)
    }

    /// Makes it a port for this command: without another project, for the package whose script it runs.
    pub(super) fn for_command(&mut self, command: &[OsString]) {
        if self.project.is_none() {
            let folder = programs::folder(command);
            self.project = folder.and_then(|folder| Project::named(folder.into()).ok());
        }
    }

    /// The project that the port is for.
    pub(super) fn project(&self) -> Result<Project, CliError> {
        Project::or_current(self.project.as_ref()).map_err(|e| usage(&e))
    }

    /// One of the given options that describe a port, if there is one.
    pub(super) fn of_a_port(&self) -> Option<&'static str> {
        let options = [
            ("--name", self.name.is_some()),
            ("--port", self.port.is_some()),
            ("--template", self.template.is_some()),
            ("--protocol", self.protocol.is_some()),
            ("--instance", self.instance.is_some()),
            ("--singleton-key", self.singleton_key.is_some()),
            ("--create", self.create),
        ];
        options.into_iter().find_map(|(option, is_given)| is_given.then_some(option))
    }

    /// Whether the options select a port.
    pub(super) fn names_a_port(&self) -> bool {
        self.port.is_some() || self.template.is_some()
    }

    /// Why the port is not the requested one; `None` if it is, or if none was requested.
    pub(super) fn why_another(&self, answer: &Json) -> Option<String> {
        why_another(self.port?, &answer["port"], self.protocol.unwrap_or_default())
    }
}

/// The earlier leases of the same service, those with a lower slot, in order.
pub(super) fn earlier(answer: &Json) -> Result<Vec<Json>, CliError> {
    let slot = |lease: &Json| lease["slot"].as_u64().unwrap_or(1);
    let mut leases = of_same_service(answer)?;
    leases.retain(|lease| slot(lease) < slot(answer));
    leases.sort_by_key(slot);
    Ok(leases)
}

/// Why the service did not get its usual port, if the reason is that it already runs.
pub(super) fn runs_already(answer: &Json) -> Option<String> {
    if answer["slot"].is_null() {
        return None;
    }
    let first = earlier(answer).ok()?.into_iter().next()?;
    let port = first["port"].as_u64().and_then(Port::new)?;
    let who = who_listens(port, text(&first, "protocol").parse().ok()?);
    Some(match who {
        Some(who) => format!("{port} is in use by {who}"),
        None => format!("{port} is leased to it already"),
    })
}

/// The name of the unit that this command runs in, if nothing else identifies its service: a unit without
/// `WorkingDirectory=` (systemd.exec(5)) runs in the root or the home directory, neither of which is a
/// project.
pub(super) fn unit_of(project: &Project) -> Option<String> {
    let is_nowhere = project.folder() == Path::new("/") || is_home(project.folder());
    unit_name().filter(|_| is_nowhere && !io::stdin().is_terminal())
}

/// The name of the unit that this command runs in.
fn unit_name() -> Option<String> {
    unit_in(&fs::read_to_string("/proc/self/cgroup").ok()?)
}

fn is_home(folder: &Path) -> bool {
    let home = user().home().and_then(|home| fs::canonicalize(home).ok());
    home.is_some_and(|home| home == folder)
}

/// The service unit in the contents of `/proc/PID/cgroup` (cgroups(7)), converted to a service name.
fn unit_in(cgroup: &str) -> Option<String> {
    let path = cgroup.lines().find_map(|line| line.strip_prefix("0::"))?;
    let unit = path.rsplit('/').next()?.strip_suffix(".service")?;
    // The unit of a user manager, and names that systemd-run(1) generates.
    let is_no_name = unit.starts_with("user@") || unit.starts_with("run-");
    let letter = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' };
    let name: String = unit.chars().map(letter).take(100).collect();
    (!is_no_name && !name.is_empty()).then_some(name)
}

/// Requests ports. The request is validated before the service is contacted.
pub(super) fn allocate(service_type: &str, options: Fields) -> Result<Json, CliError> {
    let request = AllocateRequest::parse(service_type, options.0.clone()).map_err(|e| usage(&e))?;
    let answer = ask(&Call::Allocate { service_type: service_type.to_owned(), options });
    answer.map_err(|stop| match stop {
        CliError::Failure(Failure::Refused {
            kind: kind @ Some(ErrorKind::PortInUse),
            message,
            suggestions,
        }) => {
            let message = with_holder(&request, message);
            CliError::Failure(Failure::Refused { kind, message, suggestions })
        }
        stop => stop,
    })
}

/// The refusal of a port, with the program that uses it in place of "another program": the service cannot see
/// which one it is.
fn with_holder(request: &AllocateRequest, message: String) -> String {
    let is_about = |port: &Port| message.contains(&format!("port {port}"));
    let better = request.port.filter(|_| request.count == 1).filter(is_about).and_then(|port| {
        let why = why_not(port, request.protocol())?;
        let (_, remedy) = message.split_once("; ")?;
        Some(format!("{why}; {remedy}"))
    });
    better.unwrap_or(message)
}

/// Notes for the user about an answer, besides the port.
pub(super) fn notes(answer: &Json) -> Vec<String> {
    let service_type = text(answer, "service_type");
    let mut notes = Vec::new();
    notes.extend(answer["note"].as_str().map(str::to_owned));
    if let Some(before) = answer["moved_from"].as_u64() {
        let is = if answer["dry_run"] == true { "would be" } else { "is" };
        let port = &answer["port"];
        notes.push(format!("port {port} {is} this service's port now, instead of {before}"));
    }
    if answer["auto_allocated"] == true {
        let (first, last) = (&answer["port_range"][0], &answer["port_range"][1]);
        let what = if answer["dry_run"] == true { "would get" } else { "got" };
        notes.push(format!(
            "{service_type} {what} the ports {first}-{last} \
             (to undo: `styxy config undo-auto-allocation {service_type}`)"
        ));
    }
    if answer["instance_behavior"] == "single" {
        let port = &answer["port"];
        notes.push(if answer["existing"] == true {
            let held = text(answer, "held");
            format!("{service_type} runs once, and it has port {port}: connect to it ({held})")
        } else {
            let key = answer["singleton_key"].as_str();
            let key = key.map(|key| format!(" with the key {key}")).unwrap_or_default();
            format!("{service_type} runs once: later requests for it{key} get port {port}, too")
        });
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_is_the_last_of_its_control_group_and_no_manager() {
        let user = "0::/user.slice/user-1000.slice/user@1000.service";
        let unit = |path: &str| unit_in(&format!("{user}{path}\n"));
        assert_eq!(unit("/app.slice/web.service").as_deref(), Some("web"));
        assert_eq!(unit("/app.slice/web@a\\x2db.service").as_deref(), Some("web-a-x2db"));
        assert_eq!(unit_in("0::/system.slice/shop.service\n").as_deref(), Some("shop"));
        for none in
            ["", "/app.slice/run-p8-i9.service", "/app.slice/app-vte-1.scope", "/init.scope"]
        {
            assert_eq!(unit(none), None, "{none}");
        }
        assert_eq!(unit_in("1:name=systemd:/a.service\n"), None);
    }
}
