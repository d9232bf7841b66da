//! Finds leases by what users type: a port, an id, a prefix of an id, or the service.

use serde_json::{Value as Json, json};

use super::{
    CliError, ask, counted,
    list::is_of_package,
    project::Project,
    refused,
    service::{Named, unless_missing},
    text, usage,
};
use crate::{
    client::Call,
    error::Error,
    lease::{LeaseId, ServiceName},
    port::{Port, Protocol},
    value::Fields,
    word::shortened,
};

/// The number of digits of an id that are shown, unless more are needed to distinguish leases.
const SHOWN: usize = 8;
/// The minimum number of digits of an id that users must type.
const LEAST: usize = 4;

/// The port that a word stands for, if it is one.
fn port(which: &str) -> Option<Port> {
    // `styxy list` shows ids of eight digits, and some of them have no letter.
    (which.len() < SHOWN).then(|| which.parse().ok()).flatten()
}

/// The digits of an id or of a prefix, in lower case and without the hyphens.
fn digits(id: &str) -> Result<String, Error> {
    let digits: String = id.chars().filter(|c| *c != '-').map(|c| c.to_ascii_lowercase()).collect();
    if digits.len() >= LEAST && digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return Ok(digits);
    }
    let remedy = format!(
        "give at least {LEAST} digits of a lease's id, as `styxy list` shows it, its port, or its name"
    );
    Err(Error::invalid(format!("{:?} is no lease", shortened(id))).suggest(remedy))
}

/// The number of characters that distinguish the ids of these leases, at least [`SHOWN`].
pub(super) fn shown(leases: &[Json]) -> usize {
    let mut ids: Vec<_> = leases.iter().map(|lease| text(lease, "lease_id")).collect();
    ids.sort_unstable();
    ids.dedup();
    let common =
        |two: &[&str]| two[0].bytes().zip(two[1].bytes()).take_while(|(a, b)| a == b).count();
    ids.windows(2).map(|two| common(two) + 1).max().unwrap_or(0).max(SHOWN)
}

/// The id of a lease, cut to the number of characters that are shown.
pub(super) fn short_id(lease: &Json, shown: usize) -> &str {
    let id = text(lease, "lease_id");
    id.get(..shown).unwrap_or(id)
}

/// Returns the leases that match the filter and that the word means: all leases of a port, or the lease with
/// that id, or the lease or block with that name. Fails if there is none.
pub(super) fn named(which: &str, filter: Fields) -> Result<Vec<Json>, CliError> {
    // PORT/PROTOCOL, as in lists.
    let (number, protocol) = which.split_once('/').map_or((which, None), |(n, p)| (n, Some(p)));
    let Some(port) = port(number) else { return by_word(which, filter) };
    let mut of_port = filter.clone();
    of_port.put("port", port.get());
    if let Some(protocol) = protocol {
        let protocol: Protocol = protocol.parse().map_err(|e| usage(&e))?;
        of_port.put("protocol", protocol.as_str());
    }
    let leases = found(of_port)?;
    if !leases.is_empty() {
        return Ok(leases);
    }
    // The name of a service may be a number.
    let is_name = which.parse::<ServiceName>().is_ok();
    let called_so = if is_name { by_name(which, filter)? } else { None };
    called_so.ok_or_else(|| none(&format!("of port {port}")))
}

/// Returns the id of the lease that a word means. Fails if there is none, or more than one.
pub(super) fn id_of(which: &str) -> Result<LeaseId, CliError> {
    if let Ok(id) = which.parse() {
        return Ok(id);
    }
    match named(which, Fields::default())?.as_slice() {
        [lease] => text(lease, "lease_id").parse().map_err(|e| usage(&e)),
        several => {
            let leases = several_of(several);
            Err(refused(format!("port {which} has several leases: name one of {leases}")))
        }
    }
}

fn by_word(which: &str, filter: Fields) -> Result<Vec<Json>, CliError> {
    let is_name = which.parse::<ServiceName>().is_ok();
    match (digits(which), is_name) {
        (Ok(digits), _) => match by_id(which, &digits, filter.clone()) {
            Ok(lease) => Ok(vec![lease]),
            // `cafe` may be an id or a name.
            Err(none) if is_name => by_name(which, filter)?.ok_or(none),
            Err(none) => Err(none),
        },
        (Err(_), true) => {
            let found = by_name(which, filter.clone())?;
            let found = found.map_or_else(|| by_service(which, filter), |found| Ok(Some(found)))?;
            found.map_or_else(|| Err(of_no_service(which)), Ok)
        }
        (Err(error), false) if which.parse::<Named>().is_err() => Err(usage(&error)),
        (Err(_), false) => by_service(which, filter)?.ok_or_else(|| none(which)),
    }
}

/// The leases of a service, which is named as for `styxy port`. Only this package is searched, unless the
/// word names another one: leases of other packages must not be released by mistake.
fn by_service(which: &str, filter: Fields) -> Result<Option<Vec<Json>>, CliError> {
    let (true, Ok(named)) = (filter.0.is_empty(), which.parse::<Named>()) else { return Ok(None) };
    let Ok(project) = Project::current() else { return Ok(None) };
    let says_package = named.has_package();
    let service = named.of(&project).map_err(|e| usage(&e))?;
    let service = if says_package { service } else { service.of_this_package() };
    let Some(lease) = unless_missing(service.lease())? else { return Ok(None) };
    only(which, of_same_service(&lease)?)
}

/// The lease of the service with this name, or the leases of its block. Only this package is searched, unless
/// the filter names a project.
fn by_name(name: &str, mut filter: Fields) -> Result<Option<Vec<Json>>, CliError> {
    if filter.get("project_path").is_some() {
        filter.put("service_name", name);
        return only(name, found(filter)?);
    }
    let Ok(project) = Project::current() else { return Ok(None) };
    let mut leases = called(name, &project, filter)?;
    leases.retain(|lease| is_of_package(lease, &project));
    only(name, leases)
}

/// The leases with this name in a project, whatever their package.
fn called(name: &str, project: &Project, mut filter: Fields) -> Result<Vec<Json>, CliError> {
    filter.put("project_path", project.path().as_str());
    filter.put("service_name", name);
    found(filter)
}

/// The error if no lease of this package has this name or type.
fn of_no_service(name: &str) -> CliError {
    let elsewhere = || -> Option<Vec<String>> {
        let project = Project::current().ok()?;
        let leases = called(name, &project, Fields::default()).ok()?;
        let packages = leases.iter().map(|lease| {
            let package = lease["package_path"].as_str()?;
            let package = package.strip_prefix(project.path().as_str())?;
            Some(format!("{name}@{}", package.trim_start_matches('/')))
        });
        let top = || format!("{name}@.");
        let mut named: Vec<_> = packages.map(|package| package.unwrap_or_else(top)).collect();
        named.dedup();
        Some(named).filter(|named| !named.is_empty())
    };
    match elsewhere() {
        Some(named) => refused(format!(
            "this package has no lease {name}; other packages of the project have: {}",
            named.join(", ")
        )),
        None => none(&format!("{name}, and no service of this package has that name")),
    }
}

/// Returns the leases if they are a single one or one block; fails if the name is ambiguous.
fn only(name: &str, leases: Vec<Json>) -> Result<Option<Vec<Json>>, CliError> {
    let Some(first) = leases.first() else { return Ok(None) };
    let is_of_it = |lease: &Json| {
        lease == first || !lease["block_id"].is_null() && lease["block_id"] == first["block_id"]
    };
    if leases.iter().all(is_of_it) {
        return Ok(Some(leases));
    }
    let (count, several) = (counted(leases.len() as u64, "lease"), several_of(&leases));
    Err(refused(format!("{count} are called {name}: {several}; name one by its id or its port")))
}

fn by_id(which: &str, beginning: &str, mut filter: Fields) -> Result<Json, CliError> {
    let whole = which.parse::<LeaseId>().ok().map(|id| id.to_string());
    let is_filtered = !filter.0.is_empty();
    filter.put_some("lease_id", whole.clone());
    let mut leases = found(filter)?;
    if let Some(id) = whole
        && leases.is_empty()
        && !is_filtered
    {
        // It may be the id of a holder of a shared lease, which only the service knows.
        return Ok(json!({"lease_id": id}));
    }
    let is_meant = |id: &str| digits(id).is_ok_and(|digits| digits.starts_with(beginning));
    leases.retain(|lease| is_meant(text(lease, "lease_id")));
    match leases.len() {
        0 => Err(none(which)),
        1 => Ok(leases.remove(0)),
        _ => Err(refused(ambiguous(which, &leases))),
    }
}

fn none(which: &str) -> CliError {
    refused(format!("there is no lease {which}; `styxy list` shows all leases"))
}

fn ambiguous(which: &str, leases: &[Json]) -> String {
    format!("{} leases begin with {which}: {}; give more digits", leases.len(), several_of(leases))
}

fn several_of(leases: &[Json]) -> String {
    let shown = shown(leases);
    let leases: Vec<_> = leases.iter().map(|lease| one(lease, shown)).collect();
    leases.join(", ")
}

/// `1a4c8f0e (3000/tcp, dev web)`
fn one(lease: &Json, shown: usize) -> String {
    let (port, protocol) = (&lease["port"], text(lease, "protocol"));
    format!("{} ({port}/{protocol}, {})", short_id(lease, shown), service(lease))
}

/// The service that a lease is for: `dev web`.
pub(super) fn service(lease: &Json) -> String {
    let words = [text(lease, "service_type"), text(lease, "service_name")];
    words.join(" ").trim_end().to_owned()
}

/// All leases of the service that has this one.
pub(super) fn of_same_service(lease: &Json) -> Result<Vec<Json>, CliError> {
    let mut filter = Fields::default();
    for key in ["project_path", "service_type", "service_name"] {
        filter.put_some(key, lease[key].as_str());
    }
    let is_same = |other: &Json, key: &&str| other[*key] == lease[*key];
    let mut leases = found(filter)?;
    leases.retain(|other| {
        ["service_name", "program", "package_path"].iter().all(|key| is_same(other, key))
    });
    Ok(leases)
}

/// The leases that match the filter.
pub(super) fn found(filter: Fields) -> Result<Vec<Json>, CliError> {
    let leases = ask(&Call::List { filter })?;
    Ok(leases.as_array().cloned().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_named_by_its_port_its_id_or_the_beginning_of_its_id() {
        assert_eq!(port("3000"), Port::new(3000));
        // A number too large for a port, or an id as `styxy list` shows it, is not a port.
        for id in ["70000", "00003000", "1a4c", ""] {
            assert_eq!(port(id), None, "{id}");
        }
        assert_eq!(digits("1a4c").unwrap(), "1a4c");
        assert_eq!(digits("1A4C8F0E-3F").unwrap(), "1a4c8f0e3f");
        for wrong in ["", "0", "1a4", "1-a-4-", "web", "1a4c!"] {
            let words = digits(wrong).unwrap_err().to_string();
            assert!(words.contains("at least 4 digits"), "{wrong}: {words}");
        }
    }

    #[test]
    fn eight_digits_are_shown_or_as_many_as_tell_leases_apart() {
        let lease = |id: &str| json!({"lease_id": format!("{id}-3f55-4f0c-9a43-0c6a1f6e7d21")});
        let leases = [lease("1a4c8f0e"), lease("1a4c8f0f")];
        assert_eq!(shown(&[]), 8);
        assert_eq!(shown(&leases[..1]), 8);
        assert_eq!((shown(&leases), short_id(&leases[0], 8)), (8, "1a4c8f0e"));
        let twins =
            [lease("1a4c8f0e"), json!({"lease_id": "1a4c8f0e-3f56-4f0c-9a43-0c6a1f6e7d21"})];
        assert_eq!(shown(&twins), 13);
        assert_eq!(short_id(&twins[1], 13), "1a4c8f0e-3f56");
    }

    #[test]
    fn leases_that_begin_alike_are_told_apart() {
        let lease = |id: &str, port: u16| json!({"lease_id": id, "port": port, "protocol": "tcp", "service_type": "dev", "service_name": "web"});
        let leases = [lease("1a4c8f0e-1", 3000), lease("1a4c9999-2", 3001)];
        assert_eq!(
            ambiguous("1a4c", &leases),
            "2 leases begin with 1a4c: 1a4c8f0e (3000/tcp, dev web), 1a4c9999 (3001/tcp, dev web); give more digits"
        );
    }
}
