//! The configuration of styxy 1.x as a drop-in of this one: translated key by key, and fitted to what is in force by the
//! checks that every layer of the configuration passes.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde_json::{Map, Value as Json, json};

use super::LeftOut;
use crate::{
    auto_allocation::{AutoRule, Pattern},
    config::{self, Config, Problem, Text, layer::SCHEMA_URL},
    error::Error,
    port::PortRange,
    service_type::{ServiceType, ServiceTypeName},
    word::shortened,
};

type Object = Map<String, Json>;

const NO_SETTING: &str = "styxy has no such setting";

/// A layer of the configuration in the making. Its values are not checked yet.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Settings {
    types: BTreeMap<String, Object>,
    auto: Object,
    rules: BTreeMap<String, Object>,
}

/// What is taken of the settings, and the configuration with it.
#[derive(Debug)]
pub(super) struct Fitted {
    pub(super) settings: Settings,
    pub(super) config: Config,
    pub(super) left_out: Vec<LeftOut>,
}

/// What was removed from settings, and why.
struct Removed {
    /// The service type, if it was a whole one.
    service_type: Option<(String, Object)>,
    left_out: LeftOut,
}

/// Reads `config.json` of styxy 1.x.
///
/// # Errors
///
/// Why it cannot be read.
pub(super) fn read(text: &str) -> Result<(Settings, Vec<LeftOut>), String> {
    let config: Json =
        serde_json::from_str(text).map_err(|error| format!("is not valid JSON: {error}"))?;
    let Json::Object(fields) = config else {
        return Err("is not an object, as styxy 1.x reads it".to_owned());
    };
    let (mut settings, mut left_out) = (Settings::default(), Vec::new());
    for (key, value) in fields {
        match key.as_str() {
            "service_types" => each(&key, value, &mut left_out, |name, fields, left_out| {
                let name: ServiceTypeName = name.parse()?;
                let service_type = service_type(&name, fields, left_out)?;
                settings.types.insert(name.to_string(), service_type);
                Ok(())
            }),
            "auto_allocation" => match value {
                Json::Object(fields) => {
                    const KEYS: [&str; 7] = [
                        "enabled",
                        "default_chunk_size",
                        "placement",
                        "min_port",
                        "max_port",
                        "preserve_gaps",
                        "gap_size",
                    ];
                    settings.auto = only(&KEYS, &key, fields, &mut left_out);
                }
                _ => left_out.push(LeftOut::new(key, "it is not an object")),
            },
            "auto_allocation_rules" => {
                each(&key, value, &mut left_out, |pattern, fields, left_out| {
                    pattern.parse::<Pattern>()?;
                    let path = format!("auto_allocation_rules.{pattern}");
                    let keys = ["chunk_size", "placement", "preferred_range_start"];
                    settings.rules.insert(pattern.to_owned(), only(&keys, &path, fields, left_out));
                    Ok(())
                });
            }
            _ => left_out.extend(why_not(&key).map(|reason| LeftOut::new(shortened(&key), reason))),
        }
    }
    Ok((settings, left_out))
}

/// Why a section is not taken; `None` if it says nothing.
fn why_not(key: &str) -> Option<&'static str> {
    Some(match key {
        "compliance" => return None,
        _ if key.starts_with('_') => return None,
        "recovery" => {
            "styxy needs none: it asks the kernel at each grant, and stores each change at once"
        }
        "instance_templates" => {
            "styxy has one offset for all types: write it under instance_templates (styxy_config(5))"
        }
        "daemon" | "listen_port" | "log_level" | "cleanup_interval" => {
            "systemd starts the service, and says where it listens (styxy.service(8))"
        }
        _ => NO_SETTING,
    })
}

/// Why an entry is not taken.
struct Unfit(String);

impl From<Error> for Unfit {
    fn from(error: Error) -> Self {
        Self(error.message)
    }
}

/// Reads each entry of a section, which is an object of objects.
fn each(
    section: &str,
    value: Json,
    left_out: &mut Vec<LeftOut>,
    mut read: impl FnMut(&str, Object, &mut Vec<LeftOut>) -> Result<(), Unfit>,
) {
    let Json::Object(entries) = value else {
        return left_out.push(LeftOut::new(section, "it is not an object"));
    };
    for (name, entry) in entries {
        let is_read = match entry {
            Json::Object(fields) => read(&name, fields, left_out),
            _ => Err(Unfit("it is not an object".to_owned())),
        };
        if let Err(Unfit(reason)) = is_read {
            left_out.push(LeftOut::new(format!("{section}.{}", shortened(&name)), reason));
        }
    }
}

/// The fields that styxy has, too; the others are left out.
fn only(keys: &[&str], path: &str, fields: Object, left_out: &mut Vec<LeftOut>) -> Object {
    let (known, unknown): (Vec<_>, Vec<_>) =
        fields.into_iter().partition(|(key, _)| keys.contains(&key.as_str()));
    let unknown = unknown.into_iter().filter(|(key, _)| !key.starts_with('_'));
    left_out.extend(
        unknown.map(|(key, _)| LeftOut::new(format!("{path}.{}", shortened(&key)), NO_SETTING)),
    );
    known.into_iter().collect()
}

/// A service type. In styxy 1.x it replaced the built-in one of its name as a whole.
fn service_type(
    name: &ServiceTypeName,
    mut fields: Object,
    left_out: &mut Vec<LeftOut>,
) -> Result<Object, Unfit> {
    // The newest version reads port_range; its README, and older versions, have range.
    let range = [fields.remove("port_range"), fields.remove("range")].into_iter().flatten().next();
    let range = range.ok_or_else(|| {
        Unfit("it has no port_range, so that styxy 1.x could not use it, either".to_owned())
    })?;
    for said in ["auto_allocated", "auto_allocated_at"] {
        fields.remove(said);
    }
    // It is the only one there is.
    if fields.get("multi_instance_pattern").is_some_and(|pattern| pattern == "sequential") {
        fields.remove("multi_instance_pattern");
    }
    let behavior = match fields.remove("instance_behavior") {
        Some(Json::String(behavior)) => behavior.to_lowercase().into(),
        Some(other) => other,
        None => json!("multi"),
    };
    let keys = ["description", "examples", "preferred_ports"];
    let mut taken = only(&keys, &format!("service_types.{name}"), fields, left_out);
    taken.insert("port_range".to_owned(), range);
    taken.insert("instance_behavior".to_owned(), behavior);
    Ok(taken)
}

impl Settings {
    /// Whether there is nothing in it.
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The settings as a layer of the configuration.
    pub(super) fn layer(&self) -> Json {
        let mut layer = json!({"$schema": SCHEMA_URL});
        if !self.types.is_empty() {
            layer["service_types"] = json!(self.types);
        }
        if !self.auto.is_empty() {
            layer["auto_allocation"] = json!(self.auto);
        }
        if !self.rules.is_empty() {
            layer["auto_allocation"]["rules"] = json!(self.rules);
        }
        layer
    }

    /// The same as the text of a file.
    pub(super) fn text(&self) -> String {
        format!("{}\n", serde_json::to_string_pretty(&self.layer()).unwrap_or_default())
    }

    /// Takes what fits into this configuration, which has no problems. `path` is where it would be written, and decides
    /// what has precedence over it.
    pub(super) fn fit(mut self, base: &[Text], path: &Path) -> Fitted {
        self.remove_what_is_in_force(&config::merge(base).config);
        let problems = |settings: &Self| config::merge(&with(base, path, settings.text())).problems;
        let (mut removed, mut left_out) = (Vec::new(), Vec::new());
        loop {
            let found = problems(&self);
            let mut own = found.iter().filter(|problem| problem.file == path).peekable();
            if own.peek().is_some() {
                removed.extend(own.map(|problem| self.remove(problem)));
                continue;
            }
            if !found.is_empty() {
                // Something else that people have written does not fit it: which part that is shows when each is added alone.
                (self, left_out) = self.one_by_one(problems);
            }
            break;
        }
        // One that overlaps another type fits if that one was removed, too.
        removed.retain(|Removed { service_type, .. }| {
            let mut more = self.clone();
            more.types.extend(service_type.clone());
            let fits = service_type.is_some() && problems(&more).is_empty();
            if fits {
                self = more;
            }
            !fits
        });
        left_out.extend(removed.into_iter().map(|removed| removed.left_out));
        let config = config::merge(&with(base, path, self.text())).config;
        Fitted { settings: self, config, left_out }
    }

    /// Removes what a problem is about.
    fn remove(&mut self, Problem { field, message, .. }: &Problem) -> Removed {
        const WITHOUT: [&str; 3] = ["description", "examples", "preferred_ports"];
        let end = |text: &str| text.find(['.', '[']).unwrap_or(text.len());
        let left_out = LeftOut::new(shortened(field), message.clone());
        let mut service_type = None;
        if let Some(rest) = field.strip_prefix("service_types.") {
            let (name, rest) = rest.split_once('.').unwrap_or((rest, ""));
            let key = &rest[..end(rest)];
            match self.types.get_mut(name) {
                // The type can be used without it.
                Some(service_type) if WITHOUT.contains(&key) => drop(service_type.remove(key)),
                _ => service_type = self.types.remove_entry(name),
            }
        } else if let Some(rest) = field.strip_prefix("auto_allocation.rules.") {
            self.rules.remove(&rest[..end(rest)]);
        } else if let Some(rest) = field.strip_prefix("auto_allocation.") {
            self.auto.remove(&rest[..end(rest)]);
        } else {
            *self = Self::default();
        }
        Removed { service_type, left_out }
    }

    /// Takes each part that fits beside those before it.
    fn one_by_one(self, problems: impl Fn(&Self) -> Vec<Problem>) -> (Self, Vec<LeftOut>) {
        let (mut taken, mut left_out) = (Self::default(), Vec::new());
        for (what, part) in self.parts() {
            let mut more = taken.clone();
            more.types.extend(part.types);
            more.auto.extend(part.auto);
            more.rules.extend(part.rules);
            match problems(&more).first() {
                None => taken = more,
                Some(problem) => left_out.push(LeftOut::new(what, problem.to_string())),
            }
        }
        (taken, left_out)
    }

    /// Each type, setting and rule alone, and what it is called.
    fn parts(self) -> impl Iterator<Item = (String, Self)> {
        let types = self.types.into_iter().map(|entry| {
            let what = format!("service_types.{}", entry.0);
            (what, Self { types: [entry].into(), ..Self::default() })
        });
        let auto = self.auto.into_iter().map(|entry| {
            let what = format!("auto_allocation.{}", entry.0);
            (what, Self { auto: [entry].into_iter().collect(), ..Self::default() })
        });
        let rules = self.rules.into_iter().map(|entry| {
            let what = format!("auto_allocation_rules.{}", entry.0);
            (what, Self { rules: [entry].into(), ..Self::default() })
        });
        types.chain(auto).chain(rules)
    }

    /// Removes what would change nothing.
    fn remove_what_is_in_force(&mut self, config: &Config) {
        self.types.retain(|name, fields| {
            let known =
                name.parse().ok().and_then(|name: ServiceTypeName| config.types.0.get(&name));
            if let Some(known) = known {
                let in_force = of_type(known);
                fields.retain(|key, value| in_force[key.as_str()] != *value);
            }
            !fields.is_empty()
        });
        let auto = of_auto(config);
        self.auto.retain(|key, value| auto[key.as_str()] != *value);
        self.rules.retain(|pattern, fields| {
            let known =
                pattern.parse().ok().and_then(|pattern: Pattern| config.auto.rules.get(&pattern));
            if let Some(known) = known {
                let in_force = of_rule(known);
                fields.retain(|key, value| in_force[key.as_str()] != *value);
            }
            !fields.is_empty()
        });
    }

    /// The changes to this configuration, a line each.
    pub(super) fn changes(&self, before: &Config) -> Vec<String> {
        let shown = |key: &str, value: &Json| match (key, value) {
            ("port_range", Json::Array(ports)) if ports.len() == 2 => {
                format!("{}-{}", ports[0], ports[1])
            }
            ("description" | "examples", _) => format!("another {key}"),
            (_, Json::String(text)) => format!("{key} {text}"),
            _ => format!("{key} {value}"),
        };
        let all = |fields: &Object, in_force: &Json| {
            let fields = fields.iter().map(|(key, value)| match &in_force[key.as_str()] {
                Json::Null => shown(key, value),
                _ if ["description", "examples"].contains(&key.as_str()) => shown(key, value),
                before => format!("{} instead of {}", shown(key, value), bare(key, before)),
            });
            fields.collect::<Vec<_>>().join(", ")
        };
        let types = self.types.iter().map(|(name, fields)| {
            let known =
                name.parse().ok().and_then(|name: ServiceTypeName| before.types.0.get(&name));
            if let Some(known) = known {
                return format!("service type {name}: {}", all(fields, &of_type(known)));
            }
            let range = fields.get("port_range").map(|range| shown("port_range", range));
            let single = fields.get("instance_behavior").is_some_and(|b| b == "single");
            let single = if single { ", runs once" } else { "" };
            format!("service type {name}: new, {}{single}", range.unwrap_or_default())
        });
        let auto = of_auto(before);
        let auto = (!self.auto.is_empty())
            .then(|| format!("automatic ranges: {}", all(&self.auto, &auto)));
        let rules = self
            .rules
            .iter()
            .map(|(pattern, fields)| format!("rule for {pattern}: {}", all(fields, &Json::Null)));
        types.chain(auto).chain(rules).collect()
    }
}

/// A value in force, without its key.
fn bare(key: &str, value: &Json) -> String {
    match (key, value) {
        ("port_range", Json::Array(ports)) if ports.len() == 2 => {
            format!("{}-{}", ports[0], ports[1])
        }
        (_, Json::String(text)) => text.clone(),
        _ => value.to_string(),
    }
}

/// The file that is written: the first of the user's drop-ins, so that all others have precedence over it.
pub(super) fn path(folder: &Path) -> PathBuf {
    folder.join("config.d/00-styxy-1.x.json")
}

/// These layers, with this one in its place among them.
fn with(base: &[Text], path: &Path, text: String) -> Vec<Text> {
    let mut texts = base.to_vec();
    let folder = path.parent();
    let at = texts.iter().position(|other| {
        other.path.parent() == folder
            && !config::files::is_drop_in(&other.path)
            && other.path > *path
    });
    texts.insert(at.unwrap_or(texts.len()), Text { path: path.to_owned(), text });
    texts
}

/// What styxy 1.x can say of a type, as it is in force.
fn of_type(known: &ServiceType) -> Json {
    json!({
        "port_range": range(known.port_range),
        "preferred_ports": known.preferred_ports,
        "instance_behavior": known.instance_behavior.as_str(),
        "description": known.description,
        "examples": known.examples,
    })
}

fn range(range: PortRange) -> Json {
    json!([range.first(), range.last()])
}

fn of_auto(config: &Config) -> Json {
    let auto = &config.auto;
    json!({
        "enabled": auto.enabled,
        "default_chunk_size": auto.chunk_size,
        "placement": auto.placement.as_str(),
        "min_port": auto.min_port,
        "max_port": auto.max_port,
        "preserve_gaps": auto.preserve_gaps,
        "gap_size": auto.gap_size,
    })
}

fn of_rule(known: &AutoRule) -> Json {
    json!({
        "chunk_size": known.chunk_size,
        "placement": known.placement.map(|placement| placement.as_str()),
        "preferred_range_start": known.preferred_range_start,
    })
}

#[cfg(test)]
mod tests;
