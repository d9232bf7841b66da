//! Procfiles: a service for each process that listens.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
};

use super::{
    Need, Place, Process,
    command::{self, Call},
    compose::side,
    folder::{Folder, normal},
    found::{Clue, Found},
    is_web,
    node::Scripts,
    text::{self, Env, shown},
};

/// The names of the files; the one for development takes the place of the other.
const FILES: [&str; 2] = ["Procfile.dev", "Procfile"];

/// The processes of the Procfile in the root of the project, if there is one, each with those of the needs that it is for.
pub(super) fn all(root: &Folder<'_>, needs: &[Need]) -> Option<Vec<Process>> {
    let (file, content) = root.first(&FILES)?;
    let processes = lines(&content).map(|(number, name, line)| {
        let place = Place { file: root.file(file), line: Some(number) };
        let (folder, command) = in_folder(line);
        let is_shown_here = |need: &Need| need.place == place;
        // Another file may show more of the same server.
        let is_own = |need: &Need| {
            let is_here = need.package == folder && need.service_name.is_none();
            is_web(&need.service_type)
                && is_here
                && (name == "web" || !folder.as_os_str().is_empty())
        };
        let is_called_so = |need: &Need| {
            let folder = need.package.file_name().and_then(|folder| folder.to_str());
            need.service_name.as_deref().or(folder) == Some(name)
        };
        let of = |is_it: &dyn Fn(&Need) -> bool| -> Vec<usize> {
            let all = needs.iter().enumerate().filter(|(_, need)| is_it(need));
            all.map(|(at, _)| at).collect()
        };
        let by: [&dyn Fn(&Need) -> bool; 3] = [&is_shown_here, &is_own, &is_called_so];
        let mut ports = by.into_iter().map(of).find(|ports| !ports.is_empty()).unwrap_or_default();
        // A dev server that another file shows is not that of a process beside the API: it only runs for development.
        let is_api = |at: &usize| needs[*at].service_type == "api";
        if ports.iter().any(is_api) && !ports.iter().any(|at| is_shown_here(&needs[*at])) {
            ports.retain(is_api);
        }
        let (name, command) = (text::name(name), command.to_owned());
        Process { name, command, folder, ports, after: Vec::new() }
    });
    Some(processes.collect())
}

/// The folder that a line goes to before anything else, and the rest of it.
fn in_folder(line: &str) -> (PathBuf, &str) {
    let parts = line.strip_prefix("cd ").and_then(|line| line.split_once("&&"));
    let folder = parts.and_then(|(folder, rest)| Some((text::plain(folder.trim())?, rest)));
    match folder.and_then(|(folder, rest)| Some((normal(Path::new(folder))?, rest.trim()))) {
        Some(inside) => inside,
        None => (PathBuf::new(), line),
    }
}

/// The lines of a Procfile that name a process: the number of the line, the name and the command.
fn lines(content: &str) -> impl Iterator<Item = (usize, &str, &str)> {
    let lines = content.lines().enumerate();
    let lines = lines.filter(|(_, line)| !line.trim_start().starts_with('#'));
    lines.filter_map(|(at, line)| {
        let (name, command) = line.split_once(':')?;
        Some((at + 1, name.trim(), command.trim()))
    })
}

/// Adds the processes of the Procfile, and returns the scripts of `package.json` that they start.
pub(super) fn procfiles(
    folder: &Folder<'_>,
    scripts: &Scripts<'_>,
    env: &Env,
    found: &mut Found,
) -> Vec<String> {
    let mut started = Vec::new();
    let mut ports = HashSet::new();
    let Some((file, content)) = folder.first(&FILES) else { return started };
    // What the process web is, if its command line does not tell.
    let mut web = None;
    for (number, process, line) in lines(&content) {
        let mut servers = command::servers(line, env);
        let port = command::port_of(line, env);
        // In another folder, it is a script of the package there.
        let is_here = in_folder(line).0.as_os_str().is_empty();
        for Call { name, arguments } in command::scripts(line).into_iter().filter(|_| is_here) {
            let by_script = scripts.servers_of(&name, &arguments, env);
            if !by_script.is_empty() {
                started.push(name);
            }
            servers.extend(by_script);
        }
        // By convention, the process `web` is the project itself.
        let is_web = process == "web";
        let name = if is_web { None } else { text::name(process) };
        let place = Place { line: Some(number), ..folder.at(file) };
        let command = Some(shown(line));
        for server in &servers {
            let what = format!("{} runs {}", shown(process), server.tool);
            let clue = Clue::new(server.service_type, place.clone(), what);
            let clue = clue.named(name.clone()).on(server.port.or(port)).usually(server.usual);
            found.add(clue.by(command.clone()));
        }
        // Foreman sets PORT for every process, also for those that do not listen: the first one does.
        let is_new = port.is_none_or(|port| ports.insert(port));
        if servers.is_empty() && is_new && (is_web || port.is_some()) {
            let clue = Clue::new("dev", place, format!("the process {}", shown(process)));
            let clue = clue.on(port).by(command);
            match name {
                Some(name) => found.add(clue.otherwise((side(process, [].into_iter()), name))),
                None => web = Some(clue),
            }
        }
    }
    if let Some(clue) = web {
        found.web_beside(clue);
    }
    started
}
