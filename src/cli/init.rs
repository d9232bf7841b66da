//! `styxy init`: writes the `styxy.json` of a project, from what its files show.

use std::{
    fs::OpenOptions,
    io::{self, IsTerminal, Write},
    path::Path,
};

use clap::Args;
use serde_json::{Value as Json, json};

use super::{
    CliError, Output, confirm,
    environment::labels,
    needs::{Needed, found_in},
    print, print_json,
    project::Project,
    refused, say, text, usage,
};
use crate::{
    lease::ServiceName,
    port::{Port, Protocol},
    project::declared::{self, Declaration, Declared, FILE, SCHEMA_URL},
    word::{as_variable, disturbs, visible},
};

/// Write the services of this project into styxy.json
///
/// The services are those that `styxy suggest` shows. Once the file exists, styxy uses it instead of what it finds.
/// The command prints the file and asks before it writes it.
#[derive(Debug, Args)]
pub(super) struct Init {
    /// Write it without asking
    #[arg(long, short)]
    yes: bool,
    /// The project of the file [default: the git worktree of this folder, or the folder]
    #[arg(long, value_name = "PATH")]
    project: Option<Project>,
    #[command(flatten)]
    output: Output,
}

impl Init {
    pub(super) fn run(self) -> Result<(), CliError> {
        let project = Project::or_current(self.project.as_ref()).map_err(|e| usage(&e))?;
        let path = project.folder().join(FILE);
        let shown = visible(&path.to_string_lossy());
        if path.symlink_metadata().is_ok() {
            return Err(is_there(&shown));
        }
        let needed = found_in(&project)?;
        if needed.services.is_empty() && needed.processes.is_empty() {
            let project = visible(project.path().as_str());
            say(&format!("no file in {project} says which ports it needs: this is an example"));
        }
        let declared = services(&needed, &project);
        // What is not UTF-8 is shown with a replacement character.
        let is_odd = |c| disturbs(c) || c == char::REPLACEMENT_CHARACTER;
        let mut folders = declared.services.iter().filter_map(|(_, it)| it.folder.as_deref());
        if let Some(folder) = folders.find(|folder| folder.contains(is_odd)) {
            return Err(refused(format!(
                "{FILE} cannot name the folder {}, whose name has control characters or is not UTF-8: rename it",
                visible(folder)
            )));
        }
        let content = content(&declared);
        if let Some(problem) = declared::problems(&content, project.folder()).first() {
            return Err(refused(format!("what was found does not fit into the file: {problem}")));
        }
        if !self.output.json {
            print(content.trim_end())?;
        }
        let is_written = self.yes || !self.output.json && agreed(&shown)?;
        if is_written {
            write(&path, &content).map_err(|error| match error.kind() {
                io::ErrorKind::AlreadyExists => is_there(&shown),
                _ => refused(format!("{shown}: {error}")),
            })?;
        }
        if self.output.json {
            return print_json(&json!({"path": shown, "written": is_written, "content": content}));
        }
        if is_written {
            say(&format!("{shown} is written"));
        }
        Ok(())
    }
}

fn is_there(path: &str) -> CliError {
    refused(format!("{path} exists already: edit it (see styxy.json(5)), or move it away"))
}

/// Asks whether to write it, if there is somebody to ask.
fn agreed(path: &str) -> Result<bool, CliError> {
    if !io::stdin().is_terminal() {
        say(&format!("nothing was written: `styxy init --yes` writes this to {path}"));
        return Ok(false);
    }
    Ok(confirm(&format!("Write this to {path}?"))?)
}

/// Never replaces a file that somebody else has just made.
fn write(path: &Path, content: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
    file.write_all(content.as_bytes())?;
    file.sync_all()
}

/// The file for these services.
fn content(declared: &Declared) -> String {
    let json = serde_json::to_string_pretty(declared).unwrap_or_default();
    let comment = "{\n  // The services of this project, for styxy: see styxy.json(5).\n";
    format!("{}\n", json.replacen("{\n", comment, 1))
}

fn services(needed: &Needed, project: &Project) -> Declared {
    let schema = Some(SCHEMA_URL.to_owned());
    let Needed { services, processes, .. } = needed;
    let labels = labels(services, project.path().as_str());
    let mut declared = Vec::new();
    for (at, (service, label)) in services.iter().zip(&labels).enumerate() {
        let process = processes.iter().find(|process| process.ports.first() == Some(&at));
        let command = process.map(|process| process.command.clone());
        let folder = process.map(|process| folder(&process.folder));
        let declaration = declaration(service, label);
        let folder = folder.unwrap_or_else(|| declaration.folder.clone());
        let declaration = Declaration { command, folder, ..declaration };
        declared.extend(named(label).map(|name| (name, declaration)));
    }
    // What listens on nothing that is known belongs to the project, too.
    for process in processes.iter().filter(|process| process.ports.is_empty()) {
        let command = Some(process.command.clone()).filter(|command| !command.is_empty());
        let name = process.name.as_deref().and_then(named).filter(|_| command.is_some());
        let name = name.filter(|name| declared.iter().all(|(known, _)| known != name));
        let folder = folder(&process.folder);
        declared.extend(
            name.map(|name| (name, Declaration { command, folder, ..Declaration::default() })),
        );
    }
    if declared.is_empty() {
        let (service_type, command) = ("dev".parse().ok(), Some("npm run dev".to_owned()));
        let example = Declaration { service_type, command, ..Declaration::default() };
        declared.extend(named("web").map(|name| (name, example)));
    }
    Declared { schema, services: declared, remap: None }
}

fn folder(path: &Path) -> Option<String> {
    Some(path.to_string_lossy().into_owned()).filter(|path| !path.is_empty())
}

/// A label with the letters of a service's name.
fn named(label: &str) -> Option<ServiceName> {
    let is_good = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let name: String = label.chars().map(|c| if is_good(c) { c } else { '-' }).take(100).collect();
    name.parse().ok()
}

fn declaration(service: &Json, label: &str) -> Declaration {
    let folder = text(service, "folder");
    let usual = format!("{}_PORT", as_variable(label));
    let variable = service["variable"].as_str().filter(|name| *name != "PORT" && *name != usual);
    let count = service["count"].as_u64().and_then(|count| u16::try_from(count).ok());
    let protocol = text(service, "protocol").parse().ok();
    Declaration {
        service_type: text(service, "service_type").parse().ok(),
        folder: Some(folder.to_owned()).filter(|folder| !folder.is_empty()),
        port: service["wants"].as_u64().and_then(Port::new),
        env: variable.map(str::to_owned),
        count: count.filter(|count| *count > 1),
        protocol: protocol.filter(|protocol| *protocol != Protocol::Tcp),
        ..Declaration::default()
    }
}
