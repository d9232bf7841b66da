//! Completions for values. A running service is queried with a short timeout; none is started.

use std::{ffi::OsStr, time::Duration};

use clap_complete::engine::{CompletionCandidate, PathCompleter, ValueCompleter};
use serde_json::Value as Json;
use tokio::{runtime, time};

use crate::{
    cli::{browse, short, text},
    client::{self, Call},
    config::{self, Config, files},
    surroundings::user,
    value::Fields,
};

/// How long the service may take: a slower completion would be in the way.
const PATIENCE: Duration = Duration::from_millis(300);

/// A value, and a description for people.
type Value = (String, String);

/// Finds values for a partly typed word.
type Values = fn(&str) -> Vec<Value>;

/// The completions for an argument of a verb, if it has any.
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
        #[cfg(feature = "project")]
        ("up", "names" | "only" | "except") => |_| processes(),
        (_, "asked") | ("browse", "url") => |_| asked(),
        ("browse", "browser") => |_| words(&browse::KNOWN),
        (_, "instance" | "instances") => |_| instances(),
        (_, "name") => |_| of_leases("service_name"),
        (_, "singleton_key") => |_| of_leases("singleton_key"),
        (_, "template") => |_| templates(),
        (_, "range") => |_| ranges(),
        ("restore", "version") => |_| backups(),
        (_, "file" | "export") | ("import", "folder") => paths,
        (_, "protocol") => |_| words(&["tcp", "udp", "both"]),
        (_, "hold") => |_| words(&["guard", "none"]),
        (_, "owner") => |_| words(&["none", "parent", "session", "pid:", "unit:"]),
        _ => return None,
    })
}

/// The values that start with the word, without duplicates.
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

/// The answer of a running service, if it comes in time; else null.
fn live(call: &Call) -> Json {
    let Ok(runtime) = runtime::Builder::new_current_thread().enable_all().build() else {
        return Json::Null;
    };
    let answer = runtime.block_on(async { time::timeout(PATIENCE, client::call_live(call)).await });
    // A call that still hangs is not waited for.
    runtime.shutdown_background();
    answer.ok().flatten().unwrap_or_default()
}

/// The items of a list.
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

/// A short description of a lease: `dev web ~/shop`.
fn described(lease: &Json) -> String {
    let project = short(text(lease, "project_path"));
    let words = [text(lease, "service_type"), text(lease, "service_name"), &project];
    words.into_iter().filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
}

/// The values of a field of the leases, each with the port and the description of its lease.
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

/// The services that have a lease, by their names and by their types.
fn services() -> Vec<Value> {
    let mut services = of_leases("service_name");
    services.extend(of_leases("service_type"));
    services
}

/// What `styxy up` would start here, each with its command.
#[cfg(feature = "project")]
fn processes() -> Vec<Value> {
    crate::cli::up::processes().unwrap_or_default()
}

fn ports() -> Vec<Value> {
    each(&leases()).map(|lease| (lease["port"].to_string(), described(lease))).collect()
}

/// The ports that projects ask for, each with its real one.
fn asked() -> Vec<Value> {
    let leases = leases();
    let asked = each(&leases).filter(|lease| lease["asked"].is_u64());
    asked
        .map(|lease| {
            let project = short(text(lease, "project_path"));
            (lease["asked"].to_string(), format!("{} {project}", lease["port"]))
        })
        .collect()
}

/// A word that may begin a port is completed as a port: nobody knows lease ids by heart.
fn ports_or_leases(word: &str) -> Vec<Value> {
    let is_port = word.len() <= 5 && word.chars().all(|c| c.is_ascii_digit());
    if is_port { ports() } else { of_leases("lease_id") }
}

/// The projects that have leases, and folders once an absolute path is typed.
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

/// The registered instances, and those that have leases.
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

/// The service types of a running service, or those that the next one will have.
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

/// The configuration as the next service will read it.
fn configuration() -> Config {
    let (texts, _) = files::read(&user().config());
    config::merge(&texts).config
}

/// In NAME=TYPE, only the type is completed.
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
