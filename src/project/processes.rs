//! Procfiles: a service for each process that listens.

use std::collections::HashSet;

use super::{
    command,
    compose::side,
    folder::Folder,
    found::{Clue, Found},
    node::Scripts,
    text::{self, Env, shown},
};

/// Adds the processes of the Procfile, and returns the scripts of `package.json` that they start. The Procfile for
/// development takes the place of the other.
pub(super) fn procfiles(
    folder: &Folder<'_>,
    scripts: &Scripts<'_>,
    env: &Env,
    found: &mut Found,
) -> Vec<String> {
    let mut started = Vec::new();
    let mut ports = HashSet::new();
    let Some((file, content)) = folder.first(&["Procfile.dev", "Procfile"]) else { return started };
    for line in content.lines().filter(|line| !line.trim_start().starts_with('#')) {
        let Some((process, line)) = line.split_once(':') else { continue };
        let process = process.trim();
        let mut servers = command::servers(line, env);
        let port = command::port_of(line, env);
        for script in command::scripts(line) {
            let by_script = scripts.servers_of(&script, env);
            if !by_script.is_empty() {
                started.push(script);
            }
            servers.extend(by_script);
        }
        // By convention, the process `web` is the project itself.
        let is_web = process == "web";
        let name = if is_web { None } else { text::name(process) };
        let place = folder.at_line(file, &content, &[&format!("{process}:")]);
        let command = Some(shown(line.trim()));
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
                None => found.web(clue, None),
            }
        }
    }
    started
}
