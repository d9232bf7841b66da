//! What the settings of editors say about ports: development containers, and Visual Studio Code's launcher.

use std::collections::HashSet;

use super::{
    address, command,
    folder::Folder,
    found::{BESIDE, Clue},
    label,
    tasks::inner,
    text::{self, Env, shown},
    tree::Tree,
    weak::Weak,
};
use crate::port::Port;

const CONTAINERS: [&str; 2] = [".devcontainer/devcontainer.json", ".devcontainer.json"];
const LAUNCH: &str = ".vscode/launch.json";

/// The ports that only the one kind of service takes.
const KNOWN: [(u16, &str); 7] = [
    (1433, "database"),
    (3306, "database"),
    (5432, "database"),
    (6379, "infrastructure"),
    (11211, "infrastructure"),
    (26257, "database"),
    (27017, "database"),
];

/// No real file has more ports or configurations.
const MOST: usize = 50;

/// What the settings show. Most of it is about services that the packages show.
pub(super) fn hints(folder: &Folder<'_>, env: &Env) -> Vec<Weak> {
    let mut weak = forwarded(folder);
    weak.extend(launched(folder, env));
    weak
}

/// The ports that a development container forwards.
fn forwarded(folder: &Folder<'_>) -> Vec<Weak> {
    let Some((file, content)) = folder.first(&CONTAINERS) else { return Vec::new() };
    let settings = folder.parse(file, &content, Tree::jsonc);
    let attributes = settings.get("portsAttributes");
    let labelled =
        attributes.entries().iter().filter(|(_, about)| about.get("label").text().is_some());
    let ports = settings.get("forwardPorts").texts().chain(labelled.map(|(port, _)| port.as_str()));
    let (mut weak, mut unknown) = (Vec::new(), None);
    let mut known = HashSet::new();
    for entry in ports.take(MOST) {
        // `db:5432` is the port of another container.
        let (host, number) = entry.rsplit_once(':').unwrap_or(("", entry));
        let port = text::port(number).filter(|port| !BESIDE.contains(&port.get()));
        let Some(port) = port.filter(|port| known.insert(*port)) else { continue };
        let about =
            if attributes.has(entry) { attributes.get(entry) } else { attributes.get(number) };
        if about.get("onAutoForward").text() == Some("ignore") {
            continue;
        }
        let label = about.get("label").text();
        let what = match label {
            Some(label) => format!("{}, on port {port}", shown(label)),
            None => format!("forwards port {port}"),
        };
        let by_number = || KNOWN.iter().find(|(known, _)| *known == port.get());
        let service_type = label
            .and_then(label::service_type)
            .or_else(|| label::service_type(host))
            .or_else(|| by_number().map(|(_, service_type)| *service_type));
        let clue = Clue::new(
            service_type.unwrap_or("dev"),
            folder.at_line(file, &content, &[number]),
            what,
        );
        if service_type.is_some() {
            weak.push(Weak::likely(folder.place(), clue.on(port)));
        } else {
            unknown = unknown.or(Some(Weak::unknown(folder.place(), clue.on(port))));
        }
    }
    // A single port is that of a single server.
    weak.extend(unknown.map(|weak| if known.len() == 1 { weak.only() } else { weak }));
    weak
}

/// The ports of the launcher's configurations.
fn launched(folder: &Folder<'_>, env: &Env) -> Vec<Weak> {
    let (content, settings) = folder.parsed(LAUNCH, Tree::jsonc).unwrap_or_default();
    let configurations = settings.get("configurations").list().iter().take(MOST);
    let launched = configurations.filter_map(|configuration| {
        let field = |name| configuration.get(name).text().unwrap_or_default();
        let name = field("name");
        let place =
            folder.at_line(LAUNCH, &content, &["\"configurations\"", &format!("\"{name}\"")]);
        let package = |path| match inner(path) {
            Some(inner) => folder.place().join(inner),
            None => folder.place().to_owned(),
        };
        match field("type") {
            "chrome" | "msedge" | "pwa-chrome" | "pwa-msedge" => {
                let port = address::parse(field("url")).filter(|url| url.is_local)?.port?;
                let clue = Clue::new("dev", place, format!("{} opens port {port}", shown(name)));
                Some(Weak::port(package(field("webRoot")), clue.on(port)))
            }
            "node" | "pwa-node" | "python" | "debugpy" | "go" if field("request") != "attach" => {
                let (service_type, port) = started(configuration, env)?;
                let what = format!("{} starts a server on port {port}", shown(name));
                let folder = if field("cwd").is_empty() { field("program") } else { field("cwd") };
                let clue = Clue::new(service_type, place, what);
                Some(Weak::likely(package(folder), clue.on(port)))
            }
            _ => None,
        }
    });
    launched.collect()
}

/// The service type and the port of what a configuration starts.
fn started(configuration: &Tree, env: &Env) -> Option<(&'static str, Port)> {
    let field = |name| configuration.get(name).text().unwrap_or_default();
    let args = configuration.get("args");
    let args: Vec<&str> = args.texts().chain(args.text()).take(MOST).collect();
    // `runserver 8001` counts only with the program that has it.
    let line = format!("{} {} {}", field("module"), field("program"), args.join(" "));
    let server = command::servers(line.trim_start(), env).into_iter().next();
    let service_type = server.as_ref().map_or("api", |server| server.service_type);
    let told = || text::port(&env.resolve(configuration.get("env").get("PORT").text()?));
    let port = server.and_then(|server| server.port);
    Some((service_type, port.or_else(|| command::port_of(&line, env)).or_else(told)?))
}
