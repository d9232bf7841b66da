//! The server that a framework brings, which may stand beside another one in its folder: Laravel beside Vite.

use super::{
    folder::Folder,
    found::{Clue, Found},
};

/// The files in which a package says what it starts.
const STARTERS: [&str; 3] = ["package.json", "Procfile.dev", "Procfile"];

/// A framework's name, and the words in command lines that start its server.
pub(super) struct Framework {
    pub(super) name: &'static str,
    pub(super) starts: &'static [&'static str],
}

impl Framework {
    /// Adds its server of this type, with the clues that several files give. Beside the dev server of a front end it
    /// is the API; beside another one of its type it has the framework's name.
    pub(super) fn add(
        &self,
        service_type: &'static str,
        clues: impl FnOnce(&'static str) -> Vec<Clue>,
        folder: &Folder<'_>,
        found: &mut Found,
    ) {
        if found.knows(service_type) && self.is_started(folder) {
            return clues(service_type).into_iter().for_each(|clue| found.complete(clue));
        }
        let is_behind = service_type == "dev" && found.knows("dev");
        let service_type = if is_behind { "api" } else { service_type };
        let name = found.knows(service_type).then(|| self.name.to_owned());
        for clue in clues(service_type) {
            found.add(clue.named(name.clone()));
        }
    }

    /// Whether another file starts the server, so that it is known already.
    fn is_started(&self, folder: &Folder<'_>) -> bool {
        let is_start = |text: &str| self.starts.iter().any(|words| text.contains(words));
        STARTERS.iter().filter_map(|file| folder.read(file)).any(|text| is_start(&text))
    }
}
