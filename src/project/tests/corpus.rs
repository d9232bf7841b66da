//! Whole projects, each with what its developers would want to be told: `tests/projects`.

use std::{
    fs,
    path::{Component, Path, PathBuf},
};

use proptest::{prelude::*, sample::Index};

use super::{super::Need, needs};
use crate::{
    fuzz::tests::{edited, edits},
    lease::ServiceName,
    port::Protocol,
};

/// An expected need: `must` or `may`, the type, and what else counts of it.
#[derive(Debug)]
struct Expected {
    is_must: bool,
    service_type: String,
    name: Option<String>,
    package: String,
    /// `none` for none.
    port: Option<String>,
    is_udp: bool,
}

impl Expected {
    fn parse(line: &str) -> Self {
        let mut words = line.split_whitespace();
        let is_must = match words.next() {
            Some("must") => true,
            Some("may") => false,
            _ => panic!("{line}"),
        };
        let service_type = words.next().unwrap().to_owned();
        let mut expected = Self {
            is_must,
            service_type,
            name: None,
            package: String::new(),
            port: None,
            is_udp: false,
        };
        for word in words {
            match word.split_once('=') {
                Some(("name", name)) => expected.name = Some(name.to_owned()),
                Some(("in", package)) => expected.package = package.to_owned(),
                Some(("port", port)) => expected.port = Some(port.to_owned()),
                None if word == "udp" => expected.is_udp = true,
                _ => panic!("{line}"),
            }
        }
        expected
    }

    fn is_met(&self, need: &Need) -> bool {
        let port = need.port.or(need.usual).map_or("none".to_owned(), |port| port.to_string());
        self.service_type == need.service_type
            && self.name == need.service_name
            && Path::new(&self.package) == need.package
            && self.is_udp == (need.protocol == Protocol::Udp)
            && self.port.as_ref().is_none_or(|expected| *expected == port)
    }
}

/// Writes the files of a project, and returns what it is expected to need.
fn unpack(text: &str, folder: &Path) -> Vec<Expected> {
    fs::create_dir(folder.join(".git")).unwrap();
    let mut parts = text.split("\n-- ");
    let head = parts.next().unwrap();
    for part in parts {
        let (name, content) =
            part.split_once(" --\n").unwrap_or((part.trim_end().trim_end_matches(" --"), ""));
        let is_inside = |part: Component| matches!(part, Component::Normal(_));
        if name.is_empty() || !Path::new(name).components().all(is_inside) {
            continue;
        }
        let path = folder.join(name);
        // An edited name may be impossible, or another file's folder.
        if path.parent().is_some_and(|parent| fs::create_dir_all(parent).is_ok()) {
            let _ = fs::write(path, format!("{content}\n"));
        }
    }
    let lines = head.split_once("\n\n").map_or("", |(_, lines)| lines);
    lines.lines().filter(|line| !line.trim().is_empty()).map(Expected::parse).collect()
}

/// The files of the corpus.
fn projects() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/projects");
    let mut paths: Vec<_> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|end| end == "project"));
    paths.sort();
    paths
}

#[test]
fn a_project_needs_what_its_developers_would_want() {
    let paths = projects();
    let (mut musts, mut told, mut wrong) = (0, 0, Vec::new());
    let mut unwanted = Vec::new();
    for path in &paths {
        let folder = tempfile::tempdir().unwrap();
        let mut expected = unpack(&fs::read_to_string(path).unwrap(), folder.path());
        let name = path.file_stem().unwrap().to_str().unwrap();
        musts += expected.iter().filter(|expected| expected.is_must).count();
        for need in needs(folder.path()).needs {
            told += 1;
            match expected.iter().position(|expected| expected.is_met(&need)) {
                Some(at) => drop(expected.remove(at)),
                None => unwanted.push(format!("{name}: {need:?}")),
            }
        }
        let missing = expected.iter().filter(|expected| expected.is_must);
        wrong.extend(missing.map(|missing| format!("{name}: {missing:?} is missing")));
    }
    assert!(paths.len() >= 40, "{} projects", paths.len());
    assert!(
        wrong.is_empty() && unwanted.len() * 20 <= told,
        "{} of {musts} missing:\n{}\n{} of {told} unwanted:\n{}",
        wrong.len(),
        wrong.join("\n"),
        unwanted.len(),
        unwanted.join("\n")
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_edit_of_a_project_breaks_what_reads_it(
        one in any::<Index>(),
        other in any::<Index>(),
        edits in edits(),
    ) {
        let [text, other] = [one, other].map(|at| fs::read_to_string(at.get(&projects())).unwrap());
        let (head, files) = text.split_once("\n-- ").unwrap_or((&text, ""));
        let bytes = edited(files.as_bytes(), other.as_bytes(), edits);
        let edited = format!("{head}\n-- {}", String::from_utf8_lossy(&bytes));
        let folder = tempfile::tempdir().unwrap();
        unpack(&edited, folder.path());
        for need in needs(folder.path()).needs {
            let texts = [Some(&need.because), Some(&need.place.file), need.command.as_ref()];
            for text in texts.into_iter().flatten() {
                prop_assert!(!text.chars().any(char::is_control), "{:?}", text);
            }
            let name = need.service_name.map(|name| name.parse::<ServiceName>());
            prop_assert!(name.is_none_or(|name| name.is_ok()));
            prop_assert!(need.package.components().all(|part| matches!(part, Component::Normal(_))));
        }
    }
}
