//! What a fuzzer calls: one function for each kind of input that somebody else may have written. Each takes
//! any bytes, and panics if one of its properties does not hold. `tests/fuzz` has a target for `cargo fuzz`
//! and a corpus for each.

use std::{collections::HashSet, fs, path::Path};

use tempfile::TempDir;
use zbus::wire::{
    LE,
    serialized::{Context, Data},
};

use crate::{
    config::{self, Config, Text},
    dbus::values::{Options, values},
    http::routes::read_options,
    project,
    registry::Registry,
    request::{AllocateRequest, Ending, Filter, Listing, LookupRequest, MemoryListing},
    state::{line, recover},
    value::Value,
};

/// The content of a line of the log. A line that can be read is written as it would be read again.
pub fn line(json: &[u8]) {
    let Ok(read) = line::read(&framed(json)) else { return };
    let mut written = Vec::new();
    line::write(&mut written, &read);
    assert_eq!(line::read(written.strip_suffix(b"\n").unwrap()).as_ref(), Ok(&read));
}

/// A line with its checksum.
fn framed(json: &[u8]) -> Vec<u8> {
    [format!("{:08x} ", crc32fast::hash(json)).as_bytes(), json].concat()
}

/// A log, with the checksum of each line put right. Recovery reads it the same way each time, changes no file,
/// and says what it has left out.
pub fn log(lines: &[u8]) {
    state("log.00000001", lines);
}

/// The same for a snapshot.
pub fn snapshot(lines: &[u8]) {
    state("snapshot.00000001", lines);
}

fn state(name: &str, lines: &[u8]) {
    let folder = TempDir::new().unwrap();
    let mut file = Vec::new();
    for json in lines.split(|byte| *byte == b'\n').filter(|json| !json.is_empty()) {
        file.extend(framed(json));
        file.push(b'\n');
    }
    let path = folder.path().join(name);
    fs::write(&path, &file).unwrap();
    // Of the damage only how much there is: its text has the time in it.
    let read = || {
        let mut registry = Registry::new(Config::built_in().rules());
        let found = recover::look(folder.path(), &mut registry);
        let found = found.ok().flatten();
        let found =
            found.map(|found| (found.state_id, found.seq, found.confirmed, found.damage.len()));
        let leases = registry.list(&Filter::default());
        let mut ports = HashSet::new();
        for lease in &leases {
            for part in lease.protocol.parts() {
                assert!(ports.insert((lease.port, *part)), "leased twice: {lease:?}");
            }
        }
        (found, format!("{leases:?}"))
    };
    assert_eq!(read(), read());
    assert_eq!(fs::read(&path).unwrap(), file);
}

/// A configuration file. Each problem has a place in it; one that is no JSON object changes nothing.
pub fn config(text: &[u8]) {
    let text = String::from_utf8_lossy(text).into_owned();
    let lines = text.split('\n').count();
    let merged = config::merge(&[Text { path: "own.json".into(), text: text.clone() }]);
    for problem in &merged.problems {
        assert!(!problem.message.is_empty());
        let is_inside = |(line, column)| (1..=lines).contains(&line) && column >= 1;
        assert!(problem.place.is_none_or(is_inside), "{problem}");
    }
    if merged.problems.iter().any(|problem| problem.field.is_empty()) {
        assert_eq!(merged.config, Config::built_in());
    }
    config::programs(&[Text { path: "own.json".into(), text }]);
}

/// A file of a project: its name, a line feed, its content.
pub fn project(file: &[u8]) {
    let mut parts = file.splitn(2, |byte| *byte == b'\n');
    let (Some(name), Some(content)) = (parts.next(), parts.next()) else { return };
    let Ok(name) = std::str::from_utf8(name) else { return };
    if Path::new(name).file_name().is_none_or(|last| last != name) {
        return;
    }
    let folder = TempDir::new().unwrap();
    if fs::write(folder.path().join(name), content).is_err() {
        return;
    }
    for need in project::found(folder.path(), None).needs {
        assert!(need.because.chars().all(|c| !c.is_control()), "{:?}", need.because);
        let name = need.service_name.map(|name| name.parse::<crate::lease::ServiceName>());
        assert!(name.is_none_or(|name| name.is_ok()));
    }
}

/// The body of an HTTP request.
pub fn http_body(body: &[u8]) {
    if let Ok(options) = read_options(body, &AllocateRequest::OPTIONS) {
        requests(&options);
    }
}

/// The options of a D-Bus method, in little-endian order.
pub fn bus_options(bytes: &[u8]) {
    let data = Data::new(bytes, Context::new(LE, 0));
    if let Ok((options, _)) = data.deserialize::<Options<'_>>()
        && let Ok(options) = values(&options)
    {
        requests(&options);
    }
}

/// Every request that may have these options.
fn requests<K: AsRef<str> + Clone>(options: &[(K, Value)]) {
    let options = || options.to_vec();
    let refusals = [
        AllocateRequest::parse("dev", options()).err(),
        Filter::parse(options()).err(),
        MemoryListing::parse(options()).err(),
        LookupRequest::parse(options()).err(),
        Listing::parse(options()).err(),
        Ending::parse(options()).err(),
    ];
    assert!(refusals.iter().flatten().all(|error| !error.message.is_empty()));
}

#[cfg(test)]
pub(crate) mod tests {
    use std::{collections::BTreeSet, path::PathBuf};

    use proptest::{
        collection::vec,
        prelude::*,
        sample::Index,
        test_runner::{Config as Runs, TestRunner},
    };

    use super::*;

    fn corpus(target: &str) -> Vec<Vec<u8>> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target);
        let mut files: Vec<_> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files.iter().map(|file| fs::read(file).unwrap()).collect()
    }

    /// Each is a place, a byte, and what is done with them.
    pub(crate) fn edits() -> impl Strategy<Value = Vec<(Index, u8, u8)>> {
        vec((any::<Index>(), any::<u8>(), 0..5_u8), 1..8)
    }

    /// What edits make of one text and the end of another.
    pub(crate) fn edited(one: &[u8], other: &[u8], edits: Vec<(Index, u8, u8)>) -> Vec<u8> {
        let mut bytes = one.to_vec();
        for (at, byte, edit) in edits {
            let at = at.index(bytes.len() + 1);
            match edit {
                0 => bytes.truncate(at),
                1 => bytes.insert(at, byte),
                2 => bytes.extend_from_within(at..),
                3 => drop(bytes.splice(at.., other[at.min(other.len())..].iter().copied())),
                _ => bytes.get_mut(at).into_iter().for_each(|b| *b = byte),
            }
            bytes.truncate(64 * 1024);
        }
        bytes
    }

    /// Calls the target with its corpus, and with what edits make of it.
    fn try_out(name: &str, runs: u32, target: fn(&[u8])) {
        let corpus = corpus(name);
        assert!(!corpus.is_empty(), "{name}");
        corpus.iter().for_each(|bytes| target(bytes));
        let runs = Runs { cases: runs, failure_persistence: None, ..Runs::default() };
        let mut runner = TestRunner::new(runs);
        let edited =
            runner.run(&(any::<Index>(), any::<Index>(), edits()), |(one, other, edits)| {
                let (one, other) = (one.get(&corpus), other.get(&corpus));
                target(&edited(one, other, edits));
                Ok(())
            });
        edited.unwrap_or_else(|error| panic!("{name}: {error}"));
    }

    #[test]
    fn cargo_fuzz_has_a_target_for_each_corpus() {
        let names = |folder: &str| {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz").join(folder);
            let entries = fs::read_dir(folder).unwrap();
            let stem = |path: PathBuf| path.file_stem().unwrap().to_str().unwrap().to_owned();
            entries.map(|entry| stem(entry.unwrap().path())).collect::<BTreeSet<_>>()
        };
        let targets = names("fuzz_targets");
        assert_eq!(targets, names("corpus"));
        let manifest = include_str!("../tests/fuzz/Cargo.toml");
        assert!(targets.iter().all(|name| manifest.contains(&format!("name = \"{name}\""))));
    }

    #[test]
    fn no_line_of_a_log_breaks_what_reads_it() {
        try_out("line", 2_000, line);
    }

    #[test]
    fn no_log_breaks_the_recovery() {
        try_out("log", 300, log);
    }

    #[test]
    fn no_snapshot_breaks_the_recovery() {
        try_out("snapshot", 300, snapshot);
    }

    #[test]
    fn no_configuration_file_breaks_the_merge() {
        try_out("config", 500, config);
    }

    #[test]
    fn no_file_of_a_project_breaks_what_looks_for_services() {
        try_out("project", 1_000, project);
    }

    #[test]
    fn no_body_breaks_a_request() {
        try_out("http_body", 2_000, http_body);
    }

    #[test]
    fn no_dictionary_breaks_a_request() {
        try_out("bus_options", 2_000, bus_options);
    }
}
