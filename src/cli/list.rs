use std::{iter, thread, time::Duration};

use clap::{
    Args,
    builder::{OsStringValueParser, TypedValueParser},
};
use serde_json::Value as Json;

use super::{
    CliError, Output, ago, ask,
    lease::{short_id, shown},
    print, print_list,
    project::Project,
    screen::{Event, Screen},
    short,
    table::{self, Cell, Colour, Column, Table},
    text,
    typos::refuse_typos,
    unit::BACKEND,
    usage,
};
use crate::{
    client::{self, Call},
    lease::ProjectPath,
    port::Port,
    value::Fields,
};

/// The interval at which `--watch` redraws the table: nothing announces that listeners come and go.
const EVERY: Duration = Duration::from_secs(1);

/// List the leased ports
#[derive(Debug, Args)]
pub(super) struct List {
    /// Only leases of the current project
    #[arg(long, conflicts_with = "project")]
    mine: bool,
    /// Only leases of this project
    #[arg(long, value_name = "PATH")]
    project: Option<Project>,
    /// Only leases of this class of service
    #[arg(long = "type", value_name = "TYPE")]
    service_type: Option<String>,
    /// Only leases of the service of that name
    #[arg(long)]
    name: Option<String>,
    /// Only leases of this package: a folder of a project, relative to the current folder or to the top
    #[arg(long, value_name = "PATH", conflicts_with = "project",
        value_parser = OsStringValueParser::new().try_map(Project::of_package))]
    package: Option<Project>,
    /// Only leases in this state: reserved, claimed, listening, orphaned or unknown
    #[arg(long, value_parser = ["reserved", "claimed", "listening", "orphaned", "unknown"])]
    state: Option<String>,
    /// Only leases of the real ports of this one, which programs ask for
    #[arg(long, value_name = "PORT")]
    asked: Option<Port>,
    /// Only leases requested by this agent, session or tool
    #[arg(long, value_name = "ID")]
    instance: Option<String>,
    /// Keep showing the table, until q or Ctrl-C
    #[arg(long, conflicts_with = "json")]
    watch: bool,
    #[command(flatten)]
    output: Output,
}

impl List {
    pub(super) fn run(self) -> Result<(), CliError> {
        let mut filter = Fields::default();
        let mine = self.mine.then(Project::current).transpose().map_err(|e| usage(&e))?;
        let project = mine.or(self.project).or_else(|| self.package.clone());
        filter.put_some("project_path", project.as_ref().map(|p| p.path().as_str()));
        filter.put_some("service_type", self.service_type);
        filter.put_some("service_name", self.name);
        filter.put_some("instance_id", self.instance);
        filter.put_some("asked", self.asked.map(Port::get));
        let wanted = Selection { filter, package: self.package, state: self.state };
        let leases = wanted.leases()?;
        if leases.as_array().is_some_and(Vec::is_empty) {
            refuse_typos(&wanted.filter, project.as_ref())?;
        }
        if self.watch {
            return watch(&wanted, wanted.draw(&leases));
        }
        if self.output.json {
            return print_list("leases", leases);
        }
        print(&wanted.draw(&leases))
    }
}

/// The leases to list.
struct Selection {
    filter: Fields,
    package: Option<Project>,
    state: Option<String>,
}

impl Selection {
    fn leases(&self) -> Result<Json, CliError> {
        let mut leases = ask(&Call::List { filter: self.filter.clone() })?;
        if let Some(leases) = leases.as_array_mut() {
            leases.retain(|lease| {
                self.package.as_ref().is_none_or(|package| is_of_package(lease, package))
                    && self.state.as_ref().is_none_or(|state| text(lease, "state") == state)
            });
        }
        Ok(leases)
    }

    fn draw(&self, leases: &Json) -> String {
        let is_filtered = self.state.is_some() || !self.filter.0.is_empty();
        draw(leases, is_filtered)
    }

    fn drawn(&self) -> Result<String, CliError> {
        Ok(self.draw(&self.leases()?))
    }
}

/// Whether a lease belongs to this package of its project.
pub(super) fn is_of_package(lease: &Json, package: &Project) -> bool {
    lease["package_path"].as_str() == package.package().map(ProjectPath::as_str)
}

/// Keeps showing the table, which is drawn already: errors that occur at once are reported before the screen is taken over.
fn watch(wanted: &Selection, mut now: String) -> Result<(), CliError> {
    if let Some(mut screen) = Screen::take()? {
        loop {
            screen.draw(&now)?;
            match screen.wait(Some(EVERY), None)? {
                Event::Typed(keys) if keys.contains(&b'q') => return Ok(()),
                Event::Signal(signal) => match screen.obey(signal)? {
                    Some(taken) => screen = taken,
                    None => return Ok(()),
                },
                _ => {}
            }
            client::begin_again();
            now = wanted.drawn()?;
        }
    }
    loop {
        print(&now)?;
        let before = now;
        now = loop {
            thread::sleep(EVERY);
            let now = wanted.drawn()?;
            if now != before {
                break now;
            }
        };
    }
}

fn draw(leases: &Json, is_filtered: bool) -> String {
    let leases = leases.as_array().map(Vec::as_slice).unwrap_or_default();
    if leases.is_empty() {
        return if is_filtered { "no lease matches" } else { "no port is leased" }.to_owned();
    }
    let mut table = Table::new(with_asked(COLUMNS, table::short("ASKED")));
    let shown = shown(leases);
    for lease in with_backends(leases) {
        let asked = lease["asked"].as_u64().map(|asked| asked.to_string());
        table.row(with_asked(row(lease, shown), asked.unwrap_or_default().into()));
    }
    table.draw()
}

/// The columns of the table.
pub(super) const COLUMNS: [Column; 8] = [
    table::short("PORT"),
    table::short("STATE"),
    table::text("TYPE"),
    table::text("NAME"),
    table::path("PROJECT"),
    table::text("OWNER"),
    table::number("AGE"),
    table::short("LEASE"),
];

/// A row with a column more before the others, for what is asked for. It is not drawn if it is empty.
fn with_asked<T>(row: [T; COLUMNS.len()], asked: T) -> [T; COLUMNS.len() + 1] {
    let mut cells = iter::once(asked).chain(row);
    std::array::from_fn(|_| cells.next().expect("there is one more"))
}

/// A lease in these columns, with so many characters of its id.
pub(super) fn row(lease: &Json, shown: usize) -> [Cell; COLUMNS.len()] {
    let state = text(lease, "state");
    let colour = match state {
        "listening" => Some(Colour::Green),
        "orphaned" => Some(Colour::Yellow),
        _ => None,
    };
    [
        format!("{}/{}", lease["port"], text(lease, "protocol")).into(),
        Cell::painted(state, colour),
        text(lease, "service_type").into(),
        text(lease, "service_name").into(),
        // The folder of a package is inside the project, and more specific.
        short(lease["package_path"].as_str().unwrap_or(text(lease, "project_path"))).into(),
        owner(lease).into(),
        ago(text(lease, "since")).into(),
        short_id(lease, shown).into(),
    ]
}

/// The leases, each followed by that of the server behind it, if `styxy unit` has made one.
pub(super) fn with_backends(leases: &[Json]) -> Vec<&Json> {
    let is_behind = |lease: &Json, front: &Json| {
        let name = text(front, "service_name");
        let is_same = |key: &str| lease[key] == front[key];
        !name.ends_with(BACKEND)
            && text(lease, "service_name").strip_suffix(BACKEND) == Some(name)
            && ["service_type", "project_path", "package_path"].into_iter().all(is_same)
    };
    let backends = leases.iter().filter(|lease| text(lease, "service_name").ends_with(BACKEND));
    let backends: Vec<_> = backends.collect();
    let has_front = |lease: &Json| leases.iter().any(|front| is_behind(lease, front));
    let behind: Vec<_> = backends.into_iter().filter(|lease| has_front(lease)).collect();
    let mut listed = Vec::with_capacity(leases.len());
    for lease in leases {
        if !behind.iter().any(|behind| std::ptr::eq(*behind, lease)) {
            listed.push(lease);
            listed.extend(behind.iter().filter(|behind| is_behind(behind, lease)));
        }
    }
    listed
}

/// A short description of who holds a lease.
pub(super) fn owner(lease: &Json) -> String {
    let owner = match text(lease, "owner") {
        "process" => match lease["comm"].as_str() {
            Some(comm) => format!("{comm}[{}]", lease["pid"]),
            None => format!("PID {}", lease["pid"]),
        },
        "unit" => text(lease, "unit").to_owned(),
        "connection" => "a bus connection".to_owned(),
        _ => match lease["ttl"].as_u64() {
            Some(ttl) => format!("{ttl} s"),
            None => String::new(),
        },
    };
    let owner = match lease["instance_id"].as_str() {
        Some(instance) if owner.is_empty() => instance.to_owned(),
        Some(instance) => format!("{owner}, {instance}"),
        None => owner,
    };
    match lease["holders"].as_u64() {
        // The second holder of a claim is the request itself, which has no owner.
        Some(2) if lease["claim"] == true => owner,
        Some(holders) => format!("{owner} and {} more", holders - 1),
        None => owner,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_server_behind_a_socket_stands_below_it() {
        let lease = |port: u16, name: Option<&str>, project: &str| json!({"port": port, "service_type": "dev", "service_name": name, "project_path": project});
        let leases = [
            lease(1, Some("web-backend"), "/a"),
            lease(2, Some("web"), "/b"),
            lease(3, Some("web"), "/a"),
            lease(4, None, "/a"),
            lease(5, Some("other-backend"), "/a"),
            lease(6, Some("-backend"), "/a"),
            lease(8, Some("dev-backend"), "/a"),
            lease(7, Some("web-backend-backend"), "/a"),
        ];
        let ports: Vec<_> =
            with_backends(&leases).iter().map(|lease| lease["port"].as_u64().unwrap()).collect();
        assert_eq!(ports, [2, 3, 1, 4, 6, 5, 8, 7]);
    }
}
