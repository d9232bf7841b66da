//! The configuration: the built-in one, then `/etc/styxy/`, then `~/.config/styxy/`; in each folder
//! `config.json` and then `config.d/*.json` by name. A later layer overrides the fields that it gives. The
//! service's own drop-in has a lower precedence than the files that people write beside it.
//!
//! Problems are reported with file, line, column and field, all of them at once. A configuration with problems
//! does not replace the last good one.
//!
//! - `layer`: the fields of a layer
//! - `syntax`, `json` and `read`: reading a file, field by field, with the places of problems
//! - `program`: the programs that `styxy run` helps, which commands read themselves
//! - `merge`: merging a layer into those below
//! - [`files`]: the files, and the last good ones
//! - [`drop_in`]: the file that the service writes
//! - [`seen`] and `shown`: what commands see of the files, and what they show the service
//! - `show`: the result as a file, and the origin of each value

pub mod drop_in;
pub mod files;
pub(crate) mod json;
pub mod layer;
mod merge;
mod program;
mod read;
pub mod seen;
mod show;
mod shown;
pub(crate) mod syntax;

use std::{
    collections::{BTreeMap, HashSet},
    fmt,
    path::PathBuf,
    time::Duration,
};

pub use drop_in::DropIn;
pub use files::{Files, Text};
pub use program::{PROGRAMS, Program, Programs, programs};
pub use seen::Seen;
pub use show::show;
pub use shown::Showing;

use self::json::Source;
use crate::{
    auto_allocation::AutoAllocation,
    port::PortRange,
    registry::{AuditedConfig, Automatic, Rules},
    service_type::{ServiceTypes, Templates},
    word::{shortened, visible},
};

/// The built-in configuration: the file `config/default.json` of the source.
pub const BUILT_IN: &str = include_str!("../../config/default.json");

/// The JSON Schema of a layer.
pub const SCHEMA: &str = include_str!("../../config/config.schema.json");

/// The configuration in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The service types.
    pub types: ServiceTypes,
    /// Named offsets from a type's first preferred port.
    pub templates: Templates,
    /// How unknown types get a range.
    pub auto: AutoAllocation,
    /// Ports that are never granted.
    pub excluded: Vec<PortRange>,
    /// The maximum number of leases.
    pub max_leases: usize,
    /// The maximum number of leases of one instance.
    pub max_per_instance: usize,
    /// The maximum number of leases of one project.
    pub max_per_project: usize,
    /// The maximum share of a type's ports that one instance may have, in percent.
    pub percent_per_instance: usize,
    /// The maximum share of a type's ports that one project may have, in percent.
    pub percent_per_project: usize,
    /// The maximum number of remembered ports; the oldest are forgotten first.
    pub max_remembered: usize,
    /// The maximum number of registered instances.
    pub max_instances: usize,
    /// The maximum number of guards; further leases have none.
    pub max_guards: usize,
    /// How long a lease without an owner may go without a listener, in seconds.
    pub unused: u64,
    /// How long an unused claim is guarded, in seconds.
    pub claimed: u64,
    /// The time without a lease and without a client after which the service exits; zero for never.
    pub idle_exit: Duration,
    /// The programs that `styxy run` helps.
    pub programs: Programs,
}

/// The origins of values, by field.
pub type Origins = BTreeMap<String, Origin>;

/// The origin of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The built-in configuration.
    BuiltIn,
    /// A file, and the line in it.
    File(PathBuf, usize),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BuiltIn => f.write_str("what is built in"),
            Self::File(file, line) => write!(f, "{}:{line}", file.display()),
        }
    }
}

/// The result of merging layers.
#[derive(Clone, Debug)]
pub struct Merged {
    /// The valid part of them.
    pub config: Config,
    /// What is wrong with the rest.
    pub problems: Vec<Problem>,
    /// The origin of each value.
    pub origins: Origins,
}

/// A problem in a layer, and its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file.
    pub file: PathBuf,
    /// Line and column, counted from 1, if the problem has a place in the file.
    pub place: Option<(usize, usize)>,
    /// The field, as `service_types.dev.port_range`; empty for the file as a whole.
    pub field: String,
    /// What is wrong and what to do.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&visible(&self.file.to_string_lossy()))?;
        if let Some((line, column)) = self.place {
            write!(f, ":{line}:{column}")?;
        }
        if !self.field.is_empty() {
            write!(f, ": {}", visible(&shortened(&self.field)))?;
        }
        write!(f, ": {}", self.message)
    }
}

/// Merges layers into the built-in configuration, in this order.
pub fn merge(texts: &[Text]) -> Merged {
    let config = Config::empty();
    let mut merged = Merged { config, problems: Vec::new(), origins: Origins::new() };
    for (path, text) in [("config/default.json", BUILT_IN), ("config/programs.json", PROGRAMS)] {
        let built_in = Text { path: PathBuf::from(path), text: text.to_owned() };
        merged.put(&built_in, |_| Origin::BuiltIn);
    }
    for text in texts {
        merged.put(text, |line| Origin::File(text.path.clone(), line));
    }
    merged
}

impl Merged {
    fn put(&mut self, Text { path, text }: &Text, origin: impl Fn(usize) -> Origin) {
        let mut source = Source::new(path, text);
        let layer = read::layer(&mut source, files::is_drop_in(path));
        let programs: Vec<_> =
            layer.programs.keys().map(|name| format!("programs.{name}")).collect();
        let misfits = self.config.put(layer);
        // If a field does not fit, everything that the layer says about its service type is ignored.
        let left_out: HashSet<String> =
            misfits.iter().filter_map(|(field, _)| Some(type_of(field)?.to_owned())).collect();
        // Problems that only follow from a range that could not be read are not reported.
        let unread = source.types_with_a_wrong_range();
        for (field, message) in misfits {
            if !type_of(&field).is_some_and(|name| unread.contains(name)) {
                source.note_field(&field, message);
            }
        }
        let wrong: HashSet<&str> =
            source.problems.iter().map(|p| p.field.split('[').next().unwrap_or_default()).collect();
        // A program that is not completely valid is ignored, too.
        let is_left_out = |field: &str| {
            let is_its = |program: &String| {
                let rest = field.strip_prefix(program.as_str());
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
            };
            field.starts_with("programs.") && !programs.iter().any(is_its)
        };
        for (field, place) in &source.places {
            let inside = format!("{field}.");
            if wrong.contains(field.as_str())
                || is_left_out(field)
                || type_of(field).is_some_and(|name| left_out.contains(name))
            {
                continue;
            }
            if &text[place.start..place.end] == "null" {
                self.origins.retain(|known, _| known != field && !known.starts_with(&inside));
                if type_of(field) == field.strip_prefix("service_types.") {
                    // So that a user who asks for the type can see where it was removed.
                    self.origins.insert(field.clone(), origin(source.line(*place)));
                }
            } else {
                self.origins.insert(field.clone(), origin(source.line(*place)));
            }
        }
        self.problems.append(&mut source.problems);
    }
}

/// The name of the service type that a field belongs to.
fn type_of(field: &str) -> Option<&str> {
    field.strip_prefix("service_types.")?.split('.').next()
}

impl Config {
    /// The configuration without any files.
    pub fn built_in() -> Self {
        let merged = merge(&[]);
        debug_assert!(merged.problems.is_empty(), "{:?}", merged.problems);
        merged.config
    }

    fn empty() -> Self {
        Self {
            types: ServiceTypes::default(),
            templates: Templates::default(),
            auto: AutoAllocation::off(),
            excluded: Vec::new(),
            max_leases: 0,
            max_per_instance: 0,
            max_per_project: 0,
            percent_per_instance: 100,
            percent_per_project: 100,
            max_remembered: 0,
            max_instances: 0,
            max_guards: 0,
            unused: 0,
            claimed: 0,
            idle_exit: Duration::ZERO,
            programs: Programs::new(),
        }
    }

    /// The settings that the registry uses.
    pub fn rules(&self) -> Rules {
        Rules {
            types: self.types.clone(),
            templates: self.templates.clone(),
            auto: self.auto.clone(),
            excluded: self.excluded.iter().copied().collect(),
            max_leases: self.max_leases,
            max_per_instance: self.max_per_instance,
            max_per_project: self.max_per_project,
            percent_per_instance: self.percent_per_instance,
            percent_per_project: self.percent_per_project,
            max_remembered: self.max_remembered,
        }
    }

    /// The part that is logged.
    pub fn to_audit(&self) -> AuditedConfig {
        let mut people = self.clone();
        people.types.0.retain(|_, service_type| service_type.created.is_none());
        let text = serde_json::to_vec(&show::layer(&people)).unwrap_or_default();
        AuditedConfig {
            fingerprint: crc32fast::hash(&text),
            written: (people.types.0.iter())
                .map(|(name, t)| (name.clone(), t.ranges().collect()))
                .collect(),
            automatic: (self.types.0.iter())
                .filter_map(|(name, t)| {
                    let placement = t.created.as_ref()?.placement;
                    Some((name.clone(), Automatic { ranges: t.ranges().collect(), placement }))
                })
                .collect(),
            problems: [].into(),
        }
    }
}

#[cfg(test)]
mod schema;
#[cfg(test)]
mod tests;
