use clap::Args;
use serde_json::Value as Json;

use super::{
    CliError, Output, ask,
    needs::{self, Needed},
    output::in_words,
    print, print_list,
    project::Project,
    say,
    table::{self, Table},
    text, usage,
};
use crate::{
    client::Call,
    error::Error,
    lease::ProjectPath,
    port::Protocol,
    request::{AllocateRequest, MOST_PORTS},
    value::Fields,
    word::visible,
};

/// Show which ports the next requests would get, and why; without a type, what this project needs
#[derive(Debug, Args)]
pub(super) struct Suggest {
    /// The class of service [default: those that the files of the project suggest]
    #[arg(value_name = "TYPE")]
    service_type: Option<String>,
    /// How many to show
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=i64::from(MOST_PORTS)))]
    count: u16,
    /// What the port is for
    #[arg(long)]
    name: Option<String>,
    /// tcp, udp, or both [default: as the type has it, else tcp]
    #[arg(long)]
    protocol: Option<Protocol>,
    /// The project that the port is for [default: the git worktree of this folder, or the folder]
    #[arg(long, value_name = "PATH")]
    project: Option<Project>,
    #[command(flatten)]
    output: Output,
}

impl Suggest {
    pub(super) fn run(self) -> Result<(), CliError> {
        let project = Project::or_current(self.project.as_ref()).map_err(|e| usage(&e))?;
        let Some(service_type) = &self.service_type else {
            let of_a_type = self.name.as_ref().map(|_| "--name");
            if let Some(option) = of_a_type.or(self.protocol.map(|_| "--protocol")) {
                let error = Error::invalid(format!("{option} is for a service of one type"));
                return Err(usage(&error.suggest("name the type, as in `styxy suggest dev`")));
            }
            return self.of_project(&project);
        };
        let mut options = Fields::default();
        options.put("count", u32::from(self.count));
        options.put_some("service_name", self.name.clone());
        options.put_some("protocol", self.protocol.map(Protocol::as_str));
        put_service_of(&project, &mut options);
        let suggestions = suggest(service_type, options)?;
        if self.output.json {
            return print_list("suggestions", suggestions);
        }
        let followers = needs::followers(&project, service_type, self.name.as_deref());
        followers.iter().for_each(|follower| say(follower));
        let mut table = Table::new([table::short("PORT"), table::prose("WHY")]);
        for suggestion in suggestions.as_array().into_iter().flatten() {
            let held = suggestion["held"].as_str().map(|held| format!(" ({held})"));
            table.row([
                suggestion["port"].to_string(),
                format!("{}{}", text(suggestion, "message"), held.unwrap_or_default()),
            ]);
        }
        print(&table.draw())
    }

    fn of_project(&self, project: &Project) -> Result<(), CliError> {
        let Needed { services: found, notes, refusals, .. } = needs::needs(project)?;
        notes.iter().chain(&refusals).for_each(|note| say(note));
        if self.output.json {
            return print_list("suggestions", found);
        }
        if found.is_empty() {
            let project = visible(project.path().as_str());
            return print(&format!(
                "no file in {project} says which ports it needs: name a type (`styxy types` lists them)"
            ));
        }
        let mut table = Table::new([
            table::text("TYPE"),
            table::text("NAME"),
            table::path("PACKAGE"),
            table::short("PORT"),
            table::short("WANTS"),
            table::prose("BECAUSE"),
        ]);
        let top = project.path().as_str();
        for need in &found {
            let package = text(need, "package_path");
            let package = package.strip_prefix(top).unwrap_or(package).trim_start_matches('/');
            let port =
                |key: &str| need[key].as_u64().map(|port| port.to_string()).unwrap_or_default();
            let other = |key: &str| need[key].as_u64().filter(|port| need["port"] != *port);
            let wants = match (need["wants"].as_u64(), other("usual")) {
                (None, Some(usual)) => format!("({usual})"),
                _ => other("wants").map(|port| port.to_string()).unwrap_or_default(),
            };
            table.row([
                text(need, "service_type").to_owned(),
                text(need, "service_name").to_owned(),
                package.to_owned(),
                port("port"),
                wants,
                reason(need),
            ]);
        }
        print(&table.draw())
    }
}

/// Why a service is shown: what shows it, when it was seen, and what it follows.
fn reason(service: &Json) -> String {
    let at = text(service, "last_seen").parse().ok();
    let seen = at.map(|at| format!("last seen {}", in_words(at)));
    let follows = service["follows"].as_str().map(|leader| format!("each time after {leader}"));
    let parts = [Some(text(service, "because").to_owned()), seen, follows];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// The ports that the next requests would get. The request is validated before the service is contacted.
pub(super) fn suggest(service_type: &str, options: Fields) -> Result<Json, CliError> {
    AllocateRequest::parse(service_type, options.0.clone()).map_err(|e| usage(&e))?;
    ask(&Call::Suggest { service_type: service_type.to_owned(), options })
}

/// Adds the options that `styxy allocate` would send for a service of this project.
pub(super) fn put_service_of(project: &Project, options: &mut Fields) {
    options.put("project_path", project.path().as_str());
    options.put_some("package_path", project.package().map(ProjectPath::as_str));
    options.put("claim", true);
}
