//! Clues that count only together with what the other files of the whole project show: a port in an editor's
//! settings or in a Makefile is mostly that of a service that some package describes better.

use std::path::{Path, PathBuf};

use super::{
    found::{Clue, Found},
    is_web,
};

/// No real project has more; this stops an attack.
const MOST: usize = 500;

/// A clue about a package, and when it counts.
pub(super) struct Weak {
    /// A folder of the package, from the root of the project.
    folder: PathBuf,
    clue: Clue,
    counts: Counts,
}

#[derive(Clone, Copy)]
enum Counts {
    /// It completes a service of its type.
    IfKnown,
    /// The same; and it is a service of its own if no package has one of its type.
    IfNoOther,
    /// It is a service of its own, and the clue has its name.
    AsNamed,
    /// It is about the package's own web server.
    AsWeb,
    /// The same; and if there is none, or the folder is no package, it is a service of its own.
    AsOwn,
    /// It is a service of its own if there is none in the project.
    IfAlone,
    /// The same; and it is that of the project's only web server, if nothing else says which that has.
    IfOnly,
}

impl Weak {
    /// Gives a port to a service of this type, if there is one.
    pub(super) fn port(folder: impl Into<PathBuf>, clue: Clue) -> Self {
        Self { folder: folder.into(), clue, counts: Counts::IfKnown }
    }

    /// A service of which there is likely one.
    pub(super) fn likely(folder: impl Into<PathBuf>, clue: Clue) -> Self {
        Self { folder: folder.into(), clue, counts: Counts::IfNoOther }
    }

    pub(super) fn service_type(&self) -> &'static str {
        self.clue.service_type()
    }

    pub(super) fn is_named(&self) -> bool {
        matches!(self.counts, Counts::AsNamed)
    }

    /// A service with a name, of which there may be others of the same type.
    pub(super) fn named(folder: impl Into<PathBuf>, clue: Clue) -> Self {
        Self { folder: folder.into(), clue, counts: Counts::AsNamed }
    }

    /// A port of the package's own web server, whatever that is.
    pub(super) fn web(folder: impl Into<PathBuf>, clue: Clue) -> Self {
        Self { folder: folder.into(), clue, counts: Counts::AsWeb }
    }

    /// The server of a folder. The clue has a name and a command for the case that the folder is no package.
    pub(super) fn own(folder: impl Into<PathBuf>, clue: Clue) -> Self {
        Self { folder: folder.into(), clue, counts: Counts::AsOwn }
    }

    /// The same, and it is the only one.
    pub(super) fn only(self) -> Self {
        Self { counts: Counts::IfOnly, ..self }
    }

    /// A port of which nothing else is known.
    pub(super) fn unknown(folder: impl Into<PathBuf>, clue: Clue) -> Self {
        Self { folder: folder.into(), clue, counts: Counts::IfAlone }
    }
}

/// Adds what counts, when everything else was found. Each package is given by its folder, from the root of the
/// project.
pub(super) fn settle(weak: Vec<Weak>, packages: &mut [(&Path, &mut Found)]) {
    for Weak { folder, mut clue, counts } in weak.into_iter().take(MOST) {
        let package = |folder| packages.iter().position(|(place, _)| *place == folder);
        let Some(own) = folder.ancestors().find_map(package) else { continue };
        if matches!(counts, Counts::AsOwn) && packages[own].0 == folder {
            clue = elsewhere(&clue).named(None);
        }
        if is_taken(&clue, counts, own, packages) {
            continue;
        }
        let knows = |(at, (_, found)): (usize, &(&Path, &mut Found))| {
            found.knows(clue.service_type()).then_some(at)
        };
        let known: Vec<usize> = packages.iter().enumerate().filter_map(knows).collect();
        let is_alone = all(packages).next().is_none();
        let found = &mut *packages[own].1;
        let is_another = clue.is_named() || !is_web(clue.service_type()) || !found.knows_web();
        match (counts, &known[..]) {
            (Counts::AsNamed, _) => found.add(clue),
            (Counts::AsOwn, _) if is_another => found.add(clue),
            (Counts::AsWeb | Counts::AsOwn, _) if found.knows_web() => found.web(clue, None),
            (Counts::AsWeb | Counts::IfAlone | Counts::IfOnly, _) if is_alone => found.add(clue),
            (Counts::IfOnly, _) => {
                let mut web = all(packages).filter(|known| is_web(known.service_type()));
                if let (Some(only), None) = (web.next(), web.next()) {
                    only.fill(elsewhere(&clue));
                }
            }
            (Counts::AsWeb | Counts::AsOwn | Counts::IfAlone, _) => {}
            (_, known) if known.contains(&own) => found.complete(clue),
            (_, [only]) => packages[*only].1.complete(elsewhere(&clue)),
            (Counts::IfNoOther, []) => found.add(clue),
            _ => {}
        }
    }
}

/// Whether the port is one that a service has. One that a service takes if told none is that service's from now on.
fn is_taken(clue: &Clue, counts: Counts, own: usize, packages: &mut [(&Path, &mut Found)]) -> bool {
    let Some(port) = clue.port() else { return false };
    if all(packages).any(|known| known.port() == Some(port)) {
        return true;
    }
    let is_usual = |known: &&mut Clue| known.port().is_none() && known.usual() == Some(port);
    let is_any = !matches!(counts, Counts::IfKnown | Counts::IfNoOther | Counts::AsNamed);
    let is_it = |known: &&mut Clue| {
        is_usual(known) && (is_any || known.service_type() == clue.service_type())
    };
    if let Some(known) = packages[own].1.clues().find(is_it) {
        known.fill(clue.clone());
        return true;
    }
    if let Some(known) = all(packages).find(is_it) {
        known.fill(elsewhere(clue));
        return true;
    }
    // It is then not clear whose port it is.
    packages[own].1.clues().any(|known| is_usual(&known))
}

/// The clue for another package than that in whose folder its command works.
fn elsewhere(clue: &Clue) -> Clue {
    clue.clone().by(None::<String>)
}

fn all<'f>(packages: &'f mut [(&Path, &mut Found)]) -> impl Iterator<Item = &'f mut Clue> {
    packages.iter_mut().flat_map(|(_, found)| found.clues())
}
