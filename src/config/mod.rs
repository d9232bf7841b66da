//! The configuration: built in, then `/etc/styxy/`, then `~/.config/styxy/`; in each folder
//! `config.json` and then `config.d/*.json` by name. A later layer changes the fields that it gives.
//! The service's own drop-in counts less than what people have written beside it.
//!
//! What is wrong is reported with file, line, column and field, all of it at once. A configuration with
//! problems does not replace the last good one.
//!
//! - `layer`: what a layer can say
//! - `syntax`, `json` and `read`: a file, field by field, with places for the problems
//! - `program`: the programs that `styxy run` helps, which commands read by themselves
//! - `merge`: putting a layer over those below
//! - [`files`]: which files there are, and the last good ones
//! - [`drop_in`]: the file that the service writes
//! - [`seen`] and `shown`: what commands see of the files, and what they show the service of it
//! - `show`: the result as a file, and where each value comes from

pub mod drop_in;
pub mod files;
mod json;
pub mod layer;
mod merge;
mod program;
mod read;
pub mod seen;
mod show;
mod shown;
mod syntax;

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

/// What is compiled in: the file `config/default.json` of the source.
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
    /// The most leases at once.
    pub max_leases: usize,
    /// The most leases of one instance at once.
    pub max_per_instance: usize,
    /// The most leases of one project at once.
    pub max_per_project: usize,
    /// How much of a type's ports one instance may have, in percent.
    pub percent_per_instance: usize,
    /// How much of a type's ports one project may have, in percent.
    pub percent_per_project: usize,
    /// The most remembered ports; the oldest are forgotten first.
    pub max_remembered: usize,
    /// The most registered instances.
    pub max_instances: usize,
    /// The most guards at once; further leases go without.
    pub max_guards: usize,
    /// How many seconds a lease without an owner may go without a listener.
    pub unused: u64,
    /// How many seconds a claim is guarded that nobody has used yet.
    pub claimed: u64,
    /// How long without a lease and without a client until the service ends; zero for never.
    pub idle_exit: Duration,
    /// The programs that `styxy run` helps.
    pub programs: Programs,
}

/// Where values come from, by their fields.
pub type Origins = BTreeMap<String, Origin>;

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// What is compiled in.
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

/// What came of reading layers.
#[derive(Clone, Debug)]
pub struct Merged {
    /// What is good of them.
    pub config: Config,
    /// What is not.
    pub problems: Vec<Problem>,
    /// Where each value comes from.
    pub origins: Origins,
}

/// Something that is wrong in a layer, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file.
    pub file: PathBuf,
    /// Line and column, counted from 1, if it has a place in the file.
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

/// Puts layers over what is built in, in their order.
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
        // With a field that does not fit, all that the layer says of its service type is left out.
        let left_out: HashSet<String> =
            misfits.iter().filter_map(|(field, _)| Some(type_of(field)?.to_owned())).collect();
        // What follows from a range that could not be read is not told again.
        let unread = source.types_with_a_wrong_range();
        for (field, message) in misfits {
            if !type_of(&field).is_some_and(|name| unread.contains(name)) {
                source.note_field(&field, message);
            }
        }
        let wrong: HashSet<&str> =
            source.problems.iter().map(|p| p.field.split('[').next().unwrap_or_default()).collect();
        // So it is with a program that is not wholly good.
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
                    // Whoever asks for the type learns where it went.
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
    /// The configuration without any file.
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

    /// What the registry decides by.
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

    /// What there is to tell of it.
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
