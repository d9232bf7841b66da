//! `styxy.json`: what a project says of its services itself.

use std::{
    collections::{HashMap, HashSet},
    path::{Path, PathBuf},
};

use serde::{Serialize, Serializer};

use super::{
    Need, Needs, Place, Process,
    folder::{Folder, normal},
};
use crate::{
    config::{
        Problem,
        json::{Node, Source},
    },
    error::Error,
    lease::ServiceName,
    port::{Port, Protocol},
    request::MOST_PORTS,
    service_type::ServiceTypeName,
    word::{as_variable, further, is_port_variable},
};

/// The name of the file, in the top folder of a project.
pub const FILE: &str = "styxy.json";
/// Its JSON Schema.
pub const SCHEMA: &str = include_str!("../../config/project.schema.json");

/// Where the package installs it.
pub const SCHEMA_URL: &str = "file:///usr/share/styxy/project.schema.json";

/// The longest command line.
const LONGEST: usize = 4_096;
/// The maximum number of services.
const MOST: usize = 200;

/// The services of a project, as its developers name them.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(deny_unknown_fields, title = "styxy.json"))]
pub struct Declared {
    /// The schema of this file, for editors.
    #[serde(rename = "$schema", skip_serializing_if = "Option::is_none")]
    pub schema: Option<String>,
    /// By name, in the order in which they are listed.
    #[serde(serialize_with = "by_name")]
    #[cfg_attr(test, schemars(
        with = "std::collections::BTreeMap<String, Declaration>",
        extend("propertyNames" = {"pattern": "^[A-Za-z0-9._-]{1,100}$"})
    ))]
    pub services: Vec<(ServiceName, Declaration)>,
    /// How `styxy run --remap` treats the ports of the project.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remap: Option<Remap>,
}

/// The localhost that the project has with `styxy run --remap`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(deny_unknown_fields))]
pub struct Remap {
    /// The ports of the machine that are reached if nothing of the project has them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(test, schemars(default))]
    pub reach: Vec<Port>,
}

/// A service.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(deny_unknown_fields))]
pub struct Declaration {
    /// Its service type: dev, api, database, …. Without one it gets no port.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "Option<String>", regex(pattern = "^[A-Za-z0-9-]{1,50}$")))]
    pub service_type: Option<ServiceTypeName>,
    /// The command line that starts it, for a shell. Without one it is started by something else.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(length(min = 1, max = 4_096)))]
    pub command: Option<String>,
    /// The folder that the command runs in, from the top of the project; by default the top.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub folder: Option<String>,
    /// The port to try first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<Port>,
    /// The variable for its port, with PORT in its name; `WEB_PORT` for a service named web, if it is not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(regex(pattern = "^[A-Za-z_][A-Za-z0-9_]*$")))]
    pub env: Option<String>,
    /// The services that must listen before it is started.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(test, schemars(default, with = "Vec<String>"))]
    pub needs: Vec<ServiceName>,
    /// How many consecutive ports it gets.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(range(min = 1, max = 1_000)))]
    pub count: Option<u16>,
    /// What it listens on, if not on TCP alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    /// The line of the file, from 1.
    #[serde(skip)]
    pub line: usize,
}

fn by_name<S: Serializer>(
    services: &[(ServiceName, Declaration)],
    to: S,
) -> Result<S::Ok, S::Error> {
    to.collect_map(services.iter().map(|(name, service)| (name, service)))
}

/// What the file in the top folder of a project says, if there is one.
///
/// # Errors
///
/// All problems of the file.
pub(super) fn declared(root: &Folder<'_>) -> Result<Option<Declared>, Vec<Problem>> {
    let Some(text) = root.read(FILE) else {
        return if root.has_entry(FILE) { Err(vec![unreadable()]) } else { Ok(None) };
    };
    let (declared, problems) = parse(&text, |path| root.folder(path).is_some());
    if problems.is_empty() { Ok(Some(declared)) } else { Err(problems) }
}

/// The problems that a file with this text would have in that folder.
pub fn problems(text: &str, folder: &Path) -> Vec<Problem> {
    parse(text, |path| folder.join(path).is_dir()).1
}

/// A project has a reason to say what it needs: the file is never skipped.
fn unreadable() -> Problem {
    let message = "the file cannot be read: it must be a file of at most 1 MiB that you may read";
    Problem { file: FILE.into(), place: None, field: String::new(), message: message.to_owned() }
}

/// Parses the text. `is_folder` says whether the project has a folder.
fn parse(text: &str, is_folder: impl Fn(&Path) -> bool) -> (Declared, Vec<Problem>) {
    let mut source = Source::new(Path::new(FILE), text);
    let mut declared = Declared::default();
    source.parse_with_comments(|source, name, node| match name {
        "$schema" => declared.schema = source.string(node).map(str::to_owned),
        "services" => {
            source.fields(node, |source, name, node| {
                let service = declaration(source, node, &is_folder);
                match name.parse::<ServiceName>() {
                    Ok(name) => declared.services.push((name, service)),
                    Err(error) => source.note_at(node, error.message),
                }
            });
        }
        "remap" => {
            let remap = declared.remap.get_or_insert_default();
            source.fields(node, |source, name, node| match name {
                "reach" => remap.reach = source.list(node, Source::port).unwrap_or_default(),
                _ => source.unknown(node, name, &["reach"]),
            });
        }
        _ => source.unknown(node, name, &["remap", "services"]),
    });
    if declared.services.is_empty() && declared.remap.is_none() && source.problems.is_empty() {
        source.note_field(
            "",
            "it has no services: write \"services\": { \"web\": { \"type\": \"dev\" } }",
        );
    }
    if declared.services.len() > MOST {
        source.note_field("services", format!("has more than {MOST} services: leave some out"));
    }
    check(&mut source, &declared.services);
    (declared, source.problems)
}

fn declaration(
    source: &mut Source<'_>,
    node: Node<'_>,
    is_folder: &impl Fn(&Path) -> bool,
) -> Declaration {
    let mut service = Declaration { line: source.line_of(node), ..Declaration::default() };
    source.fields(node, |source, name, node| match name {
        "type" => service.service_type = word(source, node),
        "command" => {
            service.command = source.words(node, LONGEST);
            if service.command.as_ref().is_some_and(|command| command.trim().is_empty()) {
                source.note_at(node, "is empty: write a command line, or leave it out");
            }
        }
        "folder" => {
            service.folder = source.words(node, LONGEST);
            let folder = service.folder.as_ref().and_then(|folder| normal(Path::new(folder)));
            if service.folder.is_some() && !folder.is_some_and(|folder| is_folder(&folder)) {
                source.note_at(
                    node,
                    "there is no such folder in the project: write its path from the top",
                );
            }
        }
        "port" => service.port = source.port(node),
        "env" => {
            service.env = source.string(node).map(str::to_owned);
            if service.env.as_ref().is_some_and(|name| !is_port_variable(name)) {
                source.note_at(
                    node,
                    "is no name of a variable for a port: use letters, digits and underscores, and PORT among \
                     them, as in WEB_PORT",
                );
            }
        }
        "needs" => service.needs = source.list(node, word).unwrap_or_default(),
        "count" => service.count = source.small(node, 1, MOST_PORTS),
        "protocol" => {
            let words = [Protocol::Tcp, Protocol::Udp, Protocol::Both];
            let words = words.map(|protocol| (protocol.as_str(), protocol));
            service.protocol = source.one_of(node, &words);
        }
        _ => source.unknown(
            node,
            name,
            &["command", "count", "env", "folder", "needs", "port", "protocol", "type"],
        ),
    });
    if service.service_type.is_none() && source.problems.is_empty() {
        if service.command.is_none() {
            source.note_at(node, "has neither a type nor a command: give it one of them, or both");
        } else if service.port.is_some() || service.count.is_some() || service.env.is_some() {
            source.note_at(
                node,
                "gets no port without a type: give it one, such as \"type\": \"dev\"",
            );
        }
    }
    service
}

fn word<T: std::str::FromStr<Err = Error>>(source: &mut Source<'_>, node: Node<'_>) -> Option<T> {
    let text = source.string(node)?;
    text.parse().map_err(|error: Error| source.note_at(node, error.message)).ok()
}

/// Checks what concerns several services.
fn check(source: &mut Source<'_>, services: &[(ServiceName, Declaration)]) {
    let place = |name: &ServiceName| services.iter().position(|(other, _)| other == name);
    for (name, service) in services {
        for needed in &service.needs {
            if place(needed).is_none() {
                let names = services.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>();
                let names = names.join(", ");
                let field = format!("services.{name}.needs");
                source.note_field(&field, format!("there is no service {needed}, only {names}"));
            }
        }
    }
    let mut variables: HashMap<String, &ServiceName> = HashMap::new();
    for (name, service) in services {
        for variable in service.variables(name) {
            if let Some(other) = variables.insert(variable.clone(), name).filter(|o| *o != name) {
                let field = format!("services.{name}");
                let message =
                    format!("has the variable {variable}, as {other} has: give it another env");
                source.note_field(&field, message);
            }
        }
    }
    for (at, (name, service)) in services.iter().enumerate() {
        let mut seen = HashSet::new();
        let mut waiting = vec![at];
        while let Some(next) = waiting.pop() {
            waiting.extend(
                services[next].1.needs.iter().filter_map(place).filter(|n| seen.insert(*n)),
            );
        }
        if seen.contains(&at) {
            source.note_field(
                &format!("services.{name}.needs"),
                "it needs itself, through others or not: take one of these needs out",
            );
        }
        let same = services[..at].iter().find(|(other, its)| {
            service.service_type.is_some()
                && service.service_type == its.service_type
                && service.place() == its.place()
                && service.own_name(name) == its.own_name(other)
        });
        if let Some((other, _)) = same {
            let field = format!("services.{name}");
            source.note_field(
                &field,
                format!("is the same service as {other}: give it another name"),
            );
        }
    }
}

impl Declared {
    /// What the services need, in the order of the file.
    pub(super) fn needs(&self) -> Needs {
        let mut needs = Needs { is_declared: true, ..Needs::default() };
        for (name, service) in &self.services {
            let need = service.need(name);
            if let Some(command) = &service.command {
                needs.processes.push(Process {
                    name: Some(name.to_string()),
                    command: command.clone(),
                    folder: service.place(),
                    ports: need.iter().map(|_| needs.needs.len()).collect(),
                    after: service.needs.iter().map(ServiceName::to_string).collect(),
                });
            }
            needs.needs.extend(need);
        }
        needs
    }
}

impl Declaration {
    /// Its folder from the top of the project, without `.` and `..`.
    fn place(&self) -> PathBuf {
        let folder = self.folder.as_deref().unwrap_or_default();
        normal(Path::new(folder)).unwrap_or_default()
    }

    /// The name of its leases. A service that is called like its folder, or like its type if it is at the top, is the one that
    /// `styxy run` starts there without a name.
    fn own_name(&self, name: &ServiceName) -> Option<String> {
        let place = self.place();
        let usual = match place.file_name() {
            Some(folder) => folder.to_str(),
            None => self.service_type.as_ref().map(ServiceTypeName::as_str),
        };
        (usual != Some(name.as_str())).then(|| name.to_string())
    }

    /// The variables for its ports.
    fn variables(&self, name: &ServiceName) -> Vec<String> {
        if self.service_type.is_none() {
            return Vec::new();
        }
        let usual = || format!("{}_PORT", as_variable(name.as_str()));
        let first = self.env.clone().unwrap_or_else(usual);
        let further = further(&first, self.count.unwrap_or(1).into()).map(|(_, name)| name);
        further.chain([first.clone()]).collect()
    }

    /// The need for its port, if it has a type.
    fn need(&self, name: &ServiceName) -> Option<Need> {
        let service_type = self.service_type.as_ref()?;
        Some(Need {
            service_type: service_type.as_str().to_owned().into(),
            service_name: self.own_name(name),
            package: self.place(),
            port: self.port,
            usual: None,
            count: self.count.unwrap_or(1),
            protocol: self.protocol.unwrap_or_default(),
            place: Place { file: FILE.to_owned(), line: Some(self.line) },
            because: format!("{FILE}: {name}"),
            command: self.command.clone(),
            variable: self.env.clone(),
        })
    }
}
