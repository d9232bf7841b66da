//! What a project needs, according to the files in its folder: which service types, and which ports it names
//! itself.
//!
//! Files are read and never run, and are taken at their conventional meaning, not at everything that they could
//! do. A file that is broken, too large or missing contributes nothing; the rest still counts. Nothing outside
//! of the folder is read, wherever its links lead.
//!
//! `node`, `compose` and `manifests` know the files, each for a family of projects; `command` parses command
//! lines, `js` JavaScript. `folder` reads, `tree` parses, and `found` merges a need that two files show.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
};

use serde_json::Value as Json;

use crate::port::Port;

mod command;
mod compose;
mod folder;
mod found;
mod js;
mod manifests;
mod node;
#[cfg(test)]
mod tests;
mod text;
mod tree;

use folder::{Folder, Project};
use found::Found;
use text::Env;
use tree::Tree;

/// A service that a project will need a port for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Need {
    /// The service type, one of those that ship.
    pub service_type: &'static str,
    /// Its name, where a project has several or the file names it; spelled as a `service_name` must be.
    pub service_name: Option<String>,
    /// The port that the project names itself, if any.
    pub port: Option<Port>,
    /// The file that shows the need, and what in it; safe to display.
    pub because: String,
}

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

/// No real project has more needs than these.
const MOST: usize = 500;

/// What a project needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Each need once: the project's own services first, then those that they rely on; the root of a workspace
    /// before its members. Empty if no file shows a need.
    pub needs: Vec<Need>,
    /// Whether there may be more, because the workspace's patterns match more folders than are examined, or
    /// because there are too many needs.
    pub is_cut_short: bool,
}

/// The content of a file of this folder, if it is one that a person may have written.
pub fn read(folder: &Path, name: &str) -> Option<String> {
    folder::Project::at(folder)?.root().read(name)
}

/// The folder of a package of the workspace in this folder, by its path or by its name.
pub fn member(folder: &Path, name: &str) -> Option<PathBuf> {
    let project = Project::at(folder)?;
    let root = project.root();
    if root.has_folder(name) {
        return Some(folder.join(name));
    }
    let package = Tree::json(&root.read("package.json").unwrap_or_default());
    let mut members = node::members(&root, &package)?.into_iter();
    let is_it = |member: &Folder<'_>| {
        let manifest = member.read("package.json").unwrap_or_default();
        serde_json::from_str::<Json>(&manifest).is_ok_and(|manifest| manifest["name"] == name)
    };
    members.find(is_it).map(|member| folder.join(member.place()))
}

/// Returns the needs of the project in this folder.
pub fn needs(folder: &Path) -> Needs {
    let Some(project) = Project::at(folder) else { return Needs::default() };
    let root = project.root();
    let (found, members) = look(&root);
    let mut names = Names::default();
    let mut needs: Vec<Need> = Vec::new();
    for need in found.needs() {
        needs.push(names.named(need, Path::new("")));
    }
    for member in members {
        for need in look(&member).0.needs() {
            needs.push(names.named(need, member.place()));
        }
        if needs.len() > MOST {
            break;
        }
    }
    let is_cut_short = project.is_cut_short() || needs.len() > MOST;
    needs.truncate(MOST);
    needs.sort_by_key(|need| ORDER.iter().position(|known| *known == need.service_type));
    Needs { needs, is_cut_short }
}

/// The needs of one folder, and the members of the workspace if this is its root. The most credible sources
/// come first.
fn look<'a>(folder: &Folder<'a>) -> (Found, Vec<Folder<'a>>) {
    let mut found = Found::default();
    let env = Env::parse(&folder.read(".env").unwrap_or_default());
    let package = Tree::json(&folder.read("package.json").unwrap_or_default());
    let members = node::members(folder, &package);
    node::scripts(folder, &package, &env, &mut found);
    manifests::procfiles(folder, &env, &mut found);
    node::configs(folder, &mut found);
    // In the root of a workspace, the dependencies are those of its members.
    if members.is_none() {
        node::dependencies(folder, &package, &mut found);
    }
    manifests::python(folder, &mut found);
    manifests::ruby(folder, &mut found);
    let crates = manifests::rust(folder, &mut found);
    manifests::go(folder, &mut found);
    compose::services(folder, &env, &mut found);
    if let Some(port) = env.port() {
        found.web(Some(port), format!("{}: PORT={port}", folder.file(".env")), None);
    }
    let mut members = members.unwrap_or_default();
    let others: Vec<_> =
        crates.into_iter().filter(|c| members.iter().all(|m| m.place() != c.place())).collect();
    members.extend(others);
    (found, members)
}

/// The names that are taken: two needs of one type must not share a lease.
#[derive(Default)]
struct Names(HashSet<(&'static str, Option<String>)>);

impl Names {
    /// Gives the need a name that no other of its type has: that of a member's need begins with the member's
    /// name.
    fn named(&mut self, mut need: Need, place: &Path) -> Need {
        let own = need.service_name.take();
        let whole = place.to_string_lossy();
        let last = whole.rsplit('/').next().unwrap_or_default();
        let joined = |place: &str| match &own {
            Some(own) if place.is_empty() => Some(own.clone()),
            Some(own) => text::name(&format!("{place}-{own}")),
            None => text::name(place),
        };
        let longest = joined(&whole);
        let numbered = (2..=MOST).map(|n| longest.as_ref().map(|name| format!("{name}-{n}")));
        let mut names = [joined(last), longest.clone()].into_iter().chain(numbered);
        need.service_name =
            names.find(|name| self.0.insert((need.service_type, name.clone()))).flatten();
        need
    }
}
