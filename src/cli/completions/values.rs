//! What values can be completed with. A service that runs is asked, for a moment; none is started.

use std::{ffi::OsStr, time::Duration};

use clap_complete::engine::{CompletionCandidate, PathCompleter, ValueCompleter};
use serde_json::Value as Json;
use tokio::{runtime, time};

use crate::{
    cli::{short, text},
    client::{self, Call},
    config::{self, Config, files},
    surroundings::user,
    value::Fields,
};

/// How long a completion may take before it gets in the way.
const PATIENCE: Duration = Duration::from_millis(300);

/// A value, and what a person should know of it.
type Value = (String, String);

/// Finds values for a word that has been begun.
type Values = fn(&str) -> Vec<Value>;

/// What an argument of a verb can be completed with, if something is known of it.
pub(super) fn of(verb: &str, argument: &str) -> Option<Values> {
    Some(match (verb, argument) {
        ("undo-auto-allocation", "service_type") => |_| automatic_types(),
        (_, "service_type" | "types") => |_| types(),
        ("run", "env") => variables,
        ("release", "which") => ports_or_leases,
        (_, "lease_id") => |_| of_leases("lease_id"),
        ("check" | "forget", "port") | (_, "ports") => |_| ports(),
        (_, "project" | "projects" | "package") => projects,
        ("run", "with" | "with_url") => {
            |_| services().into_iter().map(|(word, help)| (format!("{word}="), help)).collect()
        }
        ("port", "service") => |_| services(),
        (_, "instance" | "instances") => |_| instances(),
        (_, "name") => |_| of_leases("service_name"),
        (_, "singleton_key") => |_| of_leases("singleton_key"),
        (_, "template") => |_| templates(),
        (_, "range") => |_| ranges(),
        ("restore", "version") => |_| backups(),
        (_, "file" | "export") => paths,
        (_, "protocol") => |_| words(&["tcp", "udp", "both"]),
        (_, "hold") => |_| words(&["guard", "none"]),
        (_, "owner") => |_| words(&["none", "parent", "session", "pid:", "unit:"]),
        _ => return None,
    })
}

/// The values that go on from the word, once each.
pub(super) fn fitting(values: Values) -> impl ValueCompleter {
    move |word: &OsStr| {
        let Some(word) = word.to_str() else { return Vec::new() };
        let fitting = values(word).into_iter().filter(|(value, _)| value.starts_with(word));
        let candidate = |(value, help): Value| {
            let help = (!help.is_empty()).then(|| help.into());
            CompletionCandidate::new(value.clone()).help(help).id(Some(value))
        };
        fitting.map(candidate).collect()
    }
}

/// The answer of a service that runs and answers at once; else null.
fn live(call: &Call) -> Json {
    let Ok(runtime) = runtime::Builder::new_current_thread().enable_all().build() else {
        return Json::Null;
    };
    let answer = runtime.block_on(async { time::timeout(PATIENCE, client::call_live(call)).await });
    // What still hangs is not waited for.
    runtime.shutdown_background();
    answer.ok().flatten().unwrap_or_default()
}

/// The objects of a list.
fn each(list: &Json) -> impl Iterator<Item = &Json> {
    list.as_array().into_iter().flatten()
}

fn leases() -> Json {
    let mut leases = live(&Call::List { filter: Fields::default() });
    if let Some(leases) = leases.as_array_mut() {
        leases.sort_by_key(|lease| lease["port"].as_u64());
    }
    leases
}

/// What tells a lease from others: `dev web ~/shop`.
fn described(lease: &Json) -> String {
    let project = short(text(lease, "project_path"));
    let words = [text(lease, "service_type"), text(lease, "service_name"), &project];
    words.into_iter().filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
}

/// A word that leases have, with the first that has it.
fn of_leases(key: &str) -> Vec<Value> {
    let leases = leases();
    let with_word = each(&leases).filter(|lease| lease[key].is_string());
    with_word
        .map(|lease| {
            let port = format!("{} {}", lease["port"], described(lease));
            (text(lease, key).to_owned(), port)
        })
        .collect()
}

/// Services that have a lease: by their names, or those without one by their types.
fn services() -> Vec<Value> {
    let mut services = of_leases("service_name");
    services.extend(of_leases("service_type"));
    services
}

fn ports() -> Vec<Value> {
    each(&leases()).map(|lease| (lease["port"].to_string(), described(lease))).collect()
}

/// What could be a port is completed as one: nobody knows leases by heart.
fn ports_or_leases(word: &str) -> Vec<Value> {
    let is_port = word.len() <= 5 && word.chars().all(|c| c.is_ascii_digit());
    if is_port { ports() } else { of_leases("lease_id") }
}

/// Projects that have leases, and folders once a path is begun.
fn projects(word: &str) -> Vec<Value> {
    let mut projects = of_leases("project_path");
    for (_, help) in &mut projects {
        help.clear();
    }
    if word.starts_with('/') {
        projects.extend(completed_by(&PathCompleter::dir(), word));
    }
    projects
}

fn paths(word: &str) -> Vec<Value> {
    completed_by(&PathCompleter::any(), word)
}

fn completed_by(completer: &PathCompleter, word: &str) -> Vec<Value> {
    let candidates = completer.complete(OsStr::new(word)).into_iter();
    let wants_hidden = word.rsplit('/').next().is_some_and(|name| name.starts_with('.'));
    let shown = candidates.filter(|candidate| wants_hidden || !candidate.is_hide_set());
    shown.filter_map(|c| Some((c.get_value().to_str()?.to_owned(), String::new()))).collect()
}

/// Instances that have announced themselves, and those that leases were granted to.
fn instances() -> Vec<Value> {
    let announced = live(&Call::Instances);
    let announced = each(&announced).map(|instance| {
        let help = match &instance["pid"] {
            Json::Null => String::new(),
            pid => format!("process {pid}"),
        };
        (text(instance, "instance_id").to_owned(), help)
    });
    announced.chain(of_leases("instance_id")).collect()
}

/// The types of the service, or those that the next one will have.
fn types() -> Vec<Value> {
    let types = live(&Call::Types);
    if types.is_array() {
        return each(&types)
            .map(|t| (text(t, "service_type").to_owned(), text(t, "description").to_owned()))
            .collect();
    }
    let types = configuration().types.0.into_iter();
    types.map(|(name, t)| (name.to_string(), t.description)).collect()
}

fn automatic_types() -> Vec<Value> {
    let types = configuration().types.0.into_iter();
    types
        .filter(|(_, t)| t.created.is_some())
        .map(|(name, t)| (name.to_string(), t.describe_ranges()))
        .collect()
}

fn ranges() -> Vec<Value> {
    let types = configuration().types.0.into_iter();
    types.map(|(name, t)| (t.port_range.to_string(), name.to_string())).collect()
}

fn templates() -> Vec<Value> {
    let templates = configuration().templates.into_iter();
    templates.map(|(name, offset)| (name.to_string(), format!("{offset} ports on"))).collect()
}

/// As the next service will read it.
fn configuration() -> Config {
    let (texts, _) = files::read(&user().config());
    config::merge(&texts).config
}

/// The variable is free, its type is not.
fn variables(word: &str) -> Vec<Value> {
    let Some((name, _)) = word.split_once('=') else { return Vec::new() };
    types().into_iter().map(|(t, help)| (format!("{name}={t}"), help)).collect()
}

fn backups() -> Vec<Value> {
    let backups = live(&Call::Backups);
    let until = |backup| format!("until {}", text(backup, "until"));
    each(&backups).map(|backup| (backup["version"].to_string(), until(backup))).collect()
}

fn words(words: &[&str]) -> Vec<Value> {
    words.iter().map(|word| ((*word).to_owned(), String::new())).collect()
}
