//! What a project needs, according to the files in its folder: which service types, and which ports it names
//! itself.
//!
//! Files are read and never run, and are taken at their conventional meaning, not at everything that they could
//! do. A file that is broken or too large is reported and contributes nothing; the rest still counts. Nothing outside
//! of the folder is read, wherever its links lead.
//!
//! `node`, `compose`, `processes` and `manifests` know the files, each for a family of projects; `command` parses
//! command lines, `js` JavaScript. `folder` reads, `tree` parses, and `found` merges a need that two files show.

use std::{
    borrow::Cow,
    collections::{HashSet, VecDeque},
    path::{Path, PathBuf},
};

use crate::{
    config::Problem,
    port::{Port, Protocol},
};

mod address;
mod command;
mod compose;
pub mod declared;
mod dotnet;
mod editors;
mod elixir;
mod emulators;
mod envfiles;
mod folder;
mod found;
mod framework;
mod js;
mod jvm;
mod label;
mod manifests;
mod node;
mod php;
mod processes;
mod tasks;
#[cfg(test)]
mod tests;
mod text;
mod tree;
mod weak;
mod xml;

use compose::{Code, Published};
use folder::{Folder, Project, normal};
use found::{Clue, Found};
use text::Env;
use tree::Tree;

/// A service that a project will need a port for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Need {
    /// The service type; one of those that ship, unless the project names it.
    pub service_type: Cow<'static, str>,
    /// Its name, where a package has several or the file names it; spelled as a `service_name` must be.
    pub service_name: Option<String>,
    /// The folder of its package, from the root of the project; empty for the root itself.
    pub package: PathBuf,
    /// The port that the project names itself, if any.
    pub port: Option<Port>,
    /// The port that its program takes if it is told none, if that is known.
    pub usual: Option<Port>,
    /// How many consecutive ports it wants.
    pub count: u16,
    /// What it listens on.
    pub protocol: Protocol,
    /// The file that shows the need.
    pub place: Place,
    /// The same, and what in it; safe to display.
    pub because: String,
    /// The command line that starts it, in the folder of its package, if one is known.
    pub command: Option<String>,
    /// The variable from which the project takes the port, if it names one.
    pub variable: Option<String>,
}

/// A command that is started during development.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its name, if the project gives it one; else it is called like the first of its needs.
    pub name: Option<String>,
    /// The command line, for a shell.
    pub command: String,
    /// The folder that it is started in, from the root of the project.
    pub folder: PathBuf,
    /// The needs that it listens for, as indices of [`Needs::needs`]; the first is its own port.
    pub ports: Vec<usize>,
    /// The names of those that must listen before it is started.
    pub after: Vec<String>,
}

/// A file of the project, and a line in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its path from the root of the project; safe to display.
    pub file: String,
    /// The number of the line, from 1, if one can be named.
    pub line: Option<usize>,
}

/// The lines between which `styxy env` writes into a file.
pub const BEGIN: &str = "# styxy: begin (written by `styxy env`)";
/// The second of them.
pub const END: &str = "# styxy: end";

/// The order in which people think of their needs: first what they work on, then what that works with.
const ORDER: [&str; 17] = [
    "dev",
    "api",
    "functions",
    "ui",
    "storybook",
    "docs",
    "test",
    "hub",
    "database",
    "infrastructure",
    "messaging",
    "auth",
    "proxy",
    "monitoring",
    "ai",
    "coordination",
    "build",
];

/// No real project has more needs than these, or more packages.
const MOST: usize = 500;
const MOST_PACKAGES: usize = 300;

/// What a project needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Each need once: the project's own services first, then those that they rely on; the root of a workspace
    /// before its members. Empty if no file shows a need.
    pub needs: Vec<Need>,
    /// What is started during development, in the order of its file.
    pub processes: Vec<Process>,
    /// Whether a `styxy.json` says so.
    pub is_declared: bool,
    /// The files that could not be read, a few of them, and why.
    pub skipped: Vec<Problem>,
    /// Whether there may be more, because the workspace's patterns match more folders than are examined, or
    /// because there are too many needs.
    pub is_cut_short: bool,
}

/// The place of a service type in the order in which people think of their needs; those that are not known come first.
pub fn rank(service_type: &str) -> Option<usize> {
    ORDER.iter().position(|known| *known == service_type)
}

/// Whether services of this type are a project's own web server.
pub fn is_web(service_type: &str) -> bool {
    matches!(service_type, "dev" | "api")
}

/// The content of a file of this folder, if it is one that a person may have written.
pub fn read(folder: &Path, name: &str) -> Option<String> {
    folder::Project::at(folder)?.root().read(name)
}

/// The port that the command line of a server names; with `is_all` it is the whole command, so whatever it starts is the server.
pub fn named_port(line: &str, is_all: bool) -> Option<Port> {
    let env = Env::default();
    let of_server = command::servers(line, &env).into_iter().find_map(|server| server.port);
    // node server.js 3000
    let last = || line.split_ascii_whitespace().skip(1).last().and_then(text::port);
    let last = || last().filter(|port| port.get() >= 1_024);
    of_server.or_else(|| command::port_of(line, &env).or_else(last).filter(|_| is_all))
}

/// The folder of a package of the workspace in this folder, by its path or by its name.
pub fn member(folder: &Path, name: &str) -> Option<PathBuf> {
    let project = Project::at(folder)?;
    let root = project.root();
    if root.has_folder(name) {
        return Some(folder.join(name));
    }
    let package = |folder: &Folder<'_>| folder.parsed("package.json", Tree::json);
    let (_, own) = package(&root).unwrap_or_default();
    let mut members = node::members(&root, &own)?.into_iter();
    let is_it = |member: &Folder<'_>| {
        package(member).is_some_and(|(_, package)| package.get("name").text() == Some(name))
    };
    members.find(is_it).map(|member| folder.join(member.place()))
}

/// Returns the needs of the project in this folder, as its `styxy.json` names them, or else as its files show them.
/// `package` is a package of it that may lie deeper than others are looked for.
///
/// # Errors
///
/// All problems of the `styxy.json`.
pub fn needs(folder: &Path, package: Option<&Path>) -> Result<Needs, Vec<Problem>> {
    let Some(project) = Project::at(folder) else { return Ok(Needs::default()) };
    Ok(match declared::declared(&project.root())? {
        Some(declared) if !declared.services.is_empty() => declared.needs(),
        Some(_) | None => found_in(&project, package),
    })
}

/// Returns the ports of the machine that the `styxy.json` of this folder lets programs reach which have a localhost of their own.
///
/// # Errors
///
/// All problems of the `styxy.json`.
pub fn reach(folder: &Path) -> Result<Vec<Port>, Vec<Problem>> {
    let Some(project) = Project::at(folder) else { return Ok(Vec::new()) };
    let declared = declared::declared(&project.root())?;
    Ok(declared.and_then(|declared| declared.remap).unwrap_or_default().reach)
}

/// Returns the needs that the files of the project show: those of the folder itself, of the members of its workspace, and of
/// the folders below it that have a manifest.
pub fn found(folder: &Path, package: Option<&Path>) -> Needs {
    Project::at(folder).map(|project| found_in(&project, package)).unwrap_or_default()
}

fn found_in(project: &Project, package: Option<&Path>) -> Needs {
    let root = project.root();
    let own = environment(&root);
    let mut weak = Vec::new();
    let Look { found, members, workspaces } = look(&root, &own, &mut weak);
    let mut packages = vec![Package { folder: root.clone(), env: own, found }];
    let mut known = HashSet::from([PathBuf::new()]);
    let others = root.below(&workspaces);
    let named = package.and_then(|package| root.folder(package));
    let mut waiting: VecDeque<_> = members.into_iter().chain(others).chain(named).collect();
    while let Some(folder) = waiting.pop_front() {
        if !known.insert(folder.place().to_owned()) {
            continue;
        }
        if packages.len() > MOST_PACKAGES {
            project.cut();
            break;
        }
        let mut env = environment(&folder);
        env.add(packages[0].env.clone());
        let Look { found, members, .. } = look(&folder, &env, &mut weak);
        waiting.extend(members);
        packages.push(Package { folder, env, found });
    }
    compose(&mut packages);
    let mut all: Vec<_> = packages.iter_mut().map(|p| (p.folder.place(), &mut p.found)).collect();
    weak::settle(weak, &mut all);
    let mut needs: Vec<Need> = Vec::new();
    for Package { folder, found, .. } in packages {
        needs.extend(found.needs(folder.place()));
    }
    // The same container in the files of two packages is one.
    let mut containers = HashSet::new();
    needs.retain(|need| {
        let is_container = need.port.is_some()
            && need.command.as_ref().is_some_and(|line| line.starts_with("docker compose "));
        !is_container
            || containers.insert((need.service_type.clone(), need.service_name.clone(), need.port))
    });
    let is_cut_short = project.is_cut_short() || needs.len() > MOST;
    needs.truncate(MOST);
    needs.sort_by_key(|need| rank(&need.service_type));
    let processes = processes::all(&root, &needs).unwrap_or_else(|| by_command(&needs));
    Needs { needs, processes, skipped: project.skipped(), is_cut_short, is_declared: false }
}

/// What starts the needs whose command is known. One command may start several. A container publishes the port that its file
/// names, so those are left to Compose.
fn by_command(needs: &[Need]) -> Vec<Process> {
    let mut processes: Vec<Process> = Vec::new();
    for (at, need) in needs.iter().enumerate() {
        let command = need.command.as_ref().filter(|line| !line.starts_with("docker compose "));
        let Some(command) = command else { continue };
        let same = |known: &&mut Process| known.command == *command && known.folder == need.package;
        match processes.iter_mut().find(same) {
            Some(known) => known.ports.push(at),
            None => processes.push(Process {
                name: None,
                command: command.clone(),
                folder: need.package.clone(),
                ports: vec![at],
                after: Vec::new(),
            }),
        }
    }
    processes
}

/// A folder with a manifest, and what was found in it.
struct Package<'a> {
    folder: Folder<'a>,
    env: Env,
    found: Found,
}

/// The variables that the files of a folder set, as its programs see them during development.
fn environment(folder: &Folder<'_>) -> Env {
    let mut env = Env::default();
    for name in [
        ".env.development.local",
        ".env.local",
        ".env.development",
        ".env.dev",
        ".flaskenv",
        ".env",
    ] {
        env.add(Env::parse(&folder.read(name).unwrap_or_default()));
    }
    env
}

/// Adds the services of the Compose files. One that is built in the folder of a package is that package's own server.
fn compose(packages: &mut [Package<'_>]) {
    // Not containers of others, whose images are not known.
    let has_server: Vec<_> = packages.iter().map(|package| package.found.knows_web()).collect();
    let mut built = Vec::new();
    for (at, Package { folder, env, found }) in packages.iter_mut().enumerate() {
        compose::services(folder, env, found, |code, clue, otherwise| {
            built.push((at, code, clue, otherwise));
        });
    }
    let mut known = HashSet::new();
    for (at, Code { is_own, build, mounts, name, ports }, clue, otherwise) in built {
        let package = |path: &PathBuf| {
            let path = normal(path)?;
            packages.iter().position(|package| package.folder.place() == path)
        };
        let mounts = mounts.iter().filter_map(package);
        let build = build.as_ref().and_then(package);
        // The root says least of whose server it is.
        let mut own: Vec<usize> = build.into_iter().chain(mounts).collect();
        own.sort_by_key(|own| *own == 0);
        let served = |own: usize| -> Vec<&Published> {
            let found = Some(&packages[own].found).filter(|_| has_server[own]);
            found.map(|found| found.served(&ports)).unwrap_or_default()
        };
        let own =
            own.into_iter().find(|own| has_server[*own] && (is_own || !served(*own).is_empty()));
        let own = own.or_else(|| called(packages, &name, &ports)).or(build);
        let served = own.map(served).unwrap_or_default();
        // The first is the application itself; what else is built there is something else.
        let is_first = known.insert((own, clue.protocol()));
        if let Some(own) = own.filter(|own| *own == 0 || has_server[*own]) {
            let otherwise = otherwise.filter(|_| !is_first || !has_server[own]);
            for published in &served {
                packages[own].found.web(clue.clone().published(published), otherwise.clone());
            }
            if served.is_empty() {
                packages[own].found.web(clue, otherwise);
            }
        } else if let Some(otherwise) = otherwise {
            packages[at].found.add(clue.otherwise(otherwise));
        }
    }
}

/// The package that a container of this name with these ports runs: the one called so, or the only one that has its port and
/// is called like a part of it, or it like a part of that.
fn called(packages: &[Package<'_>], name: &str, ports: &[Published]) -> Option<usize> {
    let is_part = |long: &str, short: &str| {
        long.strip_suffix(short).is_some_and(|rest| rest.ends_with(['-', '_']))
    };
    let fits = |Package { folder, found, .. }: &Package<'_>, is_same: bool| {
        let folder = folder.place().file_name().and_then(|folder| folder.to_str());
        let Some(folder) = folder else { return false };
        if is_same {
            folder == name && found.may_serve(ports)
        } else {
            let is_similar = is_part(folder, name) || is_part(name, folder);
            is_similar && !found.served(ports).is_empty()
        }
    };
    [true, false].into_iter().find_map(|is_same| {
        let mut fitting = (0..packages.len()).filter(|at| fits(&packages[*at], is_same));
        fitting.next().filter(|_| fitting.next().is_none())
    })
}

/// What one folder shows.
struct Look<'a> {
    found: Found,
    /// The members of the workspaces whose root it is.
    members: Vec<Folder<'a>>,
    /// The manifests of these workspaces.
    workspaces: Vec<&'static str>,
}

/// Looks at one folder. The most credible sources come first.
fn look<'a>(folder: &Folder<'a>, env: &Env, weak: &mut Vec<weak::Weak>) -> Look<'a> {
    let mut found = Found::default();
    let (manifest, package) = folder.parsed("package.json", Tree::json).unwrap_or_default();
    let scripts = node::Scripts::new(folder, &manifest, &package);
    let members = node::members(folder, &package);
    if !folder.has_file("Procfile.dev") {
        manifests::flask(folder, &mut found);
    }
    let mut started = processes::procfiles(folder, &scripts, env, &mut found);
    let (by_processes, elsewhere) = tasks::processes(folder, &scripts, env, &mut found);
    started.extend(by_processes);
    weak.extend(elsewhere);
    let leaves_port = scripts.servers(env, &started, &mut found);
    weak.extend(scripts.elsewhere(members.as_deref().unwrap_or_default(), env));
    node::deno(folder, env, &mut found);
    node::nx(folder, &mut found);
    node::configs(folder, &scripts, env, &mut found);
    // In the root of a workspace, the dependencies are those of its members.
    let is_root = ["nx.json", "turbo.json", "lerna.json"].iter().any(|name| folder.has_file(name));
    if members.is_none() && !is_root {
        node::dependencies(folder, &scripts, &package, &mut found);
    }
    manifests::python(folder, env, &mut found);
    let is_python = ["pyproject.toml", "requirements.txt"].iter().any(|file| folder.has_file(file));
    if let Some(command) = scripts.python_command().filter(|_| is_python) {
        let clue = Clue::new("api", folder.at("package.json"), "runs Python");
        found.complete(clue.by(command));
    }
    manifests::ruby(folder, &mut found);
    let crates = manifests::rust(folder, &mut found);
    manifests::go(folder, &mut found);
    dotnet::services(folder, &mut found);
    jvm::services(folder, &mut found);
    php::services(folder, env, &mut found);
    elixir::services(folder, &mut found);
    emulators::firebase(folder, &mut found);
    emulators::supabase(folder, &mut found);
    weak.extend(tasks::hints(folder, env));
    weak.extend(editors::hints(folder, env));
    weak.extend(envfiles::hints(folder));
    if node::has_old_vite(&package) {
        found.clues().for_each(|clue| clue.usual_instead(5173, 3000));
    }
    if node::is_documentation(&package) {
        found.clues().for_each(Clue::make_documentation);
    }
    let mut workspaces = Vec::new();
    workspaces.extend(members.is_some().then_some("package.json"));
    workspaces.extend(crates.is_some().then_some("Cargo.toml"));
    let members = members.into_iter().chain(crates).flatten();
    let members = members.chain(node::deno_members(folder)).chain(dotnet::members(folder));
    let members = members.chain(jvm::members(folder)).chain(elixir::members(folder)).collect();
    let own = Env::parse(&folder.read(".env").unwrap_or_default());
    // Vite does not read it: it is that of a server which is not known otherwise.
    let is_others = leaves_port && !found.knows("api");
    if let Some(port) = own.get("PORT").and_then(text::port).filter(|_| !is_others) {
        let clue = Clue::new("dev", folder.at(".env"), format!("PORT={port}"));
        found.web(clue.on(port), None);
    }
    Look { found, members, workspaces }
}
