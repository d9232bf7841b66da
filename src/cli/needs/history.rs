//! What a project used to run: the services whose remembered ports were in use, and the order in which the journal says
//! that they are started.

use std::{borrow::Cow, path::Path};

use serde_json::{Value as Json, json};

use super::{described, is_same_service, put_ports};
use crate::{
    audit::past::Entry,
    cli::{ask, audit::last_events, project::Project, text, unit::BACKEND},
    client::Call,
    lease::ProjectPath,
    project::{Need, Place, rank},
    time::Timestamp,
    value::Fields,
};

const MINUTE: u64 = 60 * 1_000;

/// What was not in use for so long, in milliseconds, is not known any more.
const KNOWN_FOR: u64 = 30 * 24 * 60 * MINUTE;

/// What is started within so many milliseconds after the start before it is started for the same work.
const PAUSE: u64 = 30 * MINUTE;

/// How often the first of two services has to be started until the second one counts as its follower.
const OFTEN: usize = 3;

/// How many events are looked at.
const MOST_EVENTS: usize = 1_000;

/// A service that was in use here.
pub(super) struct Seen {
    /// The service.
    pub(super) need: Need,
    /// When it was in use last.
    pub(super) at: Timestamp,
}

/// The services of this project that were in use last month, in the order in which needs are listed, and of one type by
/// their names. None, if the service does not know.
pub(super) fn seen(project: &Project) -> Vec<Seen> {
    let mut filter = Fields::default();
    filter.put("project_path", project.path().as_str());
    let remembered = ask(&Call::Remembered { filter }).unwrap_or_default();
    let since = Timestamp(Timestamp::now().0.saturating_sub(KNOWN_FOR));
    let remembered = remembered.as_array().into_iter().flatten();
    let mut seen: Vec<_> = remembered.filter_map(|known| seen_by(known, project, since)).collect();
    // Not by their times: variables are numbered where two services have one name.
    seen.sort_by_cached_key(|Seen { need, .. }| {
        (rank(&need.service_type), need.service_name.clone(), need.package.clone())
    });
    seen
}

/// What a remembered port says, if it was in use since then as that of a service, and not of one of its further leases.
fn seen_by(known: &Json, project: &Project, since: Timestamp) -> Option<Seen> {
    let at = text(known, "last_used").parse().ok().filter(|at| *at >= since)?;
    let name = known["service_name"].as_str();
    let is_for_one_run = known["claims"] == "named";
    if known["slot"] != 1 || is_for_one_run || name.is_some_and(|name| name.ends_with(BACKEND)) {
        return None;
    }
    let package = Path::new(known["package_path"].as_str().unwrap_or(project.path().as_str()));
    let package = package.strip_prefix(project.path().as_str()).ok()?;
    if !project.folder().join(package).is_dir() {
        return None;
    }
    let program = known["program"].as_str().map(|program| format!("{program} ran here"));
    let need = Need {
        service_type: Cow::Owned(text(known, "service_type").to_owned()),
        service_name: name.map(str::to_owned),
        package: package.to_owned(),
        port: None,
        usual: None,
        count: known["count"].as_u64().and_then(|count| count.try_into().ok()).unwrap_or(1),
        protocol: text(known, "protocol").parse().unwrap_or_default(),
        place: Place { file: String::new(), line: None },
        because: program.unwrap_or_else(|| "it had a port here".to_owned()),
        command: None,
        variable: None,
    };
    Some(Seen { need, at })
}

/// The services that were started each time after this one, and the ports that they would get, for people.
pub(in crate::cli) fn followers(
    project: &Project,
    service_type: &str,
    service_name: Option<&str>,
) -> Vec<String> {
    let seen = seen(project);
    let mut services: Vec<_> =
        seen.iter().filter_map(|Seen { need, .. }| described(project, need).ok()).collect();
    if services.len() < 2 {
        return Vec::new();
    }
    note_followed(project, &mut services);
    let package = project.package().map(ProjectPath::as_str);
    let leader = json!({
        "service_type": service_type, "service_name": service_name, "package_path": package,
    });
    let leader = services.iter().find(|service| is_same_service(service, &leader)).map(name);
    let Some(leader) = leader else { return Vec::new() };
    services.retain(|service| service["follows"] == leader.as_str());
    if put_ports(&mut services).is_err() {
        return Vec::new();
    }
    let line = |service: &Json| {
        let (name, port) = (name(service), &service["port"]);
        format!("{name} was started after it each time; it would get port {port}")
    };
    services.iter().map(line).collect()
}

/// What a service is called in this project: `dev:web@apps/web`.
pub(in crate::cli) fn name(service: &Json) -> String {
    let part = |mark: &str, key: &str| match text(service, key) {
        "" => String::new(),
        part => format!("{mark}{part}"),
    };
    let (name, folder) = (part(":", "service_name"), part("@", "folder"));
    format!("{}{name}{folder}", text(service, "service_type"))
}

/// Notes for each service which other one it follows: whenever that was started, this was started after it.
pub(super) fn note_followed(project: &Project, services: &mut [Json]) {
    let mut starts: Vec<Start> = Vec::new();
    for event in last_events(project, &["allocate", "reuse", "forget"], MOST_EVENTS) {
        let Some(service) = started_by(&event, services) else { continue };
        if event.get("action") == "forget" {
            starts.retain(|start| start.service != service);
        } else {
            starts.push(Start { service, at: event.time });
        }
    }
    for (follower, leader) in followed(&starts, services.len()) {
        services[follower]["follows"] = name(&services[leader]).into();
    }
}

/// The service that this event says was started. An event has the name of a program where the service has none.
fn started_by(event: &Entry, services: &[Json]) -> Option<usize> {
    let is_of_type = |service: &Json| {
        event.get("service_type") == text(service, "service_type")
            && event.get("package_path") == text(service, "package_path")
    };
    if event.get("owner") == "none" {
        return None;
    }
    let is_called = |name: Option<&str>| {
        services
            .iter()
            .position(|service| is_of_type(service) && service["service_name"].as_str() == name)
    };
    is_called(Some(event.get("service_name"))).or_else(|| is_called(None))
}

/// The start of a service, by its place in a list.
#[derive(Clone, Copy, Debug)]
struct Start {
    service: usize,
    at: Timestamp,
}

/// The pairs of a service and the one that it always follows, if there is one: of several the one that was started last
/// before it. `starts` are in the order of their times, of so many services.
fn followed(starts: &[Start], services: usize) -> Vec<(usize, usize)> {
    let works = starts.chunk_by(|one, next| next.at.0.saturating_sub(one.at.0) <= PAUSE);
    let orders: Vec<Vec<usize>> = works
        .map(|starts| {
            let mut order = Vec::new();
            for Start { service, .. } in starts {
                if !order.contains(service) {
                    order.push(*service);
                }
            }
            order
        })
        .collect();
    let place = |order: &[usize], service| order.iter().position(|other| *other == service);
    let always_follows = |follower, leader| {
        let with_leader = orders.iter().filter_map(|order| Some((order, place(order, leader)?)));
        let mut count = 0;
        let mut is_after = with_leader.map(|(order, at)| {
            count += 1;
            place(order, follower).is_some_and(|follower| follower > at)
        });
        is_after.all(|is_after| is_after) && count >= OFTEN
    };
    let leader = |follower| {
        let last = orders.iter().rev().find(|order| order.contains(&follower))?;
        let before = &last[..place(last, follower)?];
        before.iter().rev().find(|leader| always_follows(follower, **leader)).copied()
    };
    (0..services).filter_map(|follower| Some((follower, leader(follower)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_services_that_were_in_use_lately_are_known() {
        let folder = tempfile::tempdir().unwrap();
        let project = Project::named(folder.path().into()).unwrap();
        let since = "2026-11-01T00:00:00Z".parse().unwrap();
        let known = json!({
            "service_type": "dev", "project_path": project.path(), "protocol": "tcp", "port": 3000, "slot": 1,
            "count": 1, "last_used": "2026-11-01T00:00:00.000Z", "claims": "all", "service_name": "web",
        });
        let is_seen = |change: Json| {
            let mut known = known.clone();
            for (key, value) in change.as_object().unwrap() {
                known[key] = value.clone();
            }
            seen_by(&known, &project, since).is_some()
        };
        assert!(is_seen(json!({})));
        assert!(is_seen(json!({"service_name": null})));
        for change in [
            json!({"last_used": "2026-10-31T23:59:59.999Z"}),
            json!({"last_used": null}),
            json!({"slot": 2}),
            json!({"claims": "named"}),
            json!({"service_name": "web-backend"}),
            json!({"package_path": format!("{}/gone", project.path())}),
            json!({"package_path": "/elsewhere"}),
        ] {
            assert!(!is_seen(change.clone()), "{change}");
        }
    }

    /// Days of work, each with the services in the order in which they are started, a minute apart.
    fn pairs(days: &[&[usize]]) -> Vec<(usize, usize)> {
        let starts = days.iter().enumerate().flat_map(|(day, services)| {
            services.iter().enumerate().map(move |(minute, service)| Start {
                service: *service,
                at: Timestamp((day as u64 * 24 * 60 + minute as u64) * MINUTE),
            })
        });
        followed(&starts.collect::<Vec<_>>(), 4)
    }

    #[test]
    fn a_service_follows_another_if_it_was_started_after_it_each_of_three_times() {
        assert_eq!(pairs(&[&[0, 1], &[0, 1], &[0, 1]]), [(1, 0)]);
        assert_eq!(pairs(&[&[0, 1], &[0, 1]]), [], "twice may be chance");
        assert_eq!(pairs(&[&[0, 1], &[0, 1], &[0], &[0, 1]]), [], "once it was not");
        assert_eq!(pairs(&[&[0, 1], &[1, 0], &[0, 1], &[0, 1]]), [], "once it was before it");
        // That it also runs alone does not matter, nor do other services and restarts.
        assert_eq!(pairs(&[&[0, 1], &[1], &[2, 0, 2, 0, 1], &[0, 0, 1, 0]]), [(1, 0)]);
    }

    #[test]
    fn of_several_services_the_last_one_before_it_is_followed() {
        assert_eq!(pairs(&[&[0, 1, 2], &[0, 1, 2], &[0, 1, 2]]), [(1, 0), (2, 1)]);
        assert_eq!(pairs(&[&[0, 1, 2], &[1, 0, 2], &[0, 1, 2]]), [(2, 1)]);
    }

    #[test]
    fn what_is_started_later_is_for_other_work() {
        let start = |service, minute| Start { service, at: Timestamp(minute * MINUTE) };
        let starts: Vec<_> =
            (0..5).flat_map(|hour| [start(0, hour * 120), start(1, hour * 120 + 31)]).collect();
        assert_eq!(followed(&starts, 2), []);
    }
}
