//! Whole projects, each with what its developers would want to be told: `tests/projects`.

use std::{fs, path::Path};

use super::super::{Need, needs};
use crate::port::Protocol;

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
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, format!("{content}\n")).unwrap();
    }
    let lines = head.split_once("\n\n").map_or("", |(_, lines)| lines);
    lines.lines().filter(|line| !line.trim().is_empty()).map(Expected::parse).collect()
}

#[test]
fn a_project_needs_what_its_developers_would_want() {
    let projects = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/projects");
    let mut paths: Vec<_> =
        fs::read_dir(projects).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let (mut musts, mut told, mut wrong) = (0, 0, Vec::new());
    let mut unwanted = Vec::new();
    for path in paths.iter().filter(|path| path.extension().is_some_and(|end| end == "project")) {
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
