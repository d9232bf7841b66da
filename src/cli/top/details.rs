//! All about one lease.

use serde_json::Value as Json;

use crate::cli::{ago, lease::service, table::broken, text};

/// The fields that people look for first; the others follow by their names.
const FIRST: [&str; 15] = [
    "port",
    "protocol",
    "state",
    "service_type",
    "service_name",
    "program",
    "project_path",
    "package_path",
    "instance_id",
    "owner",
    "pid",
    "comm",
    "unit",
    "since",
    "lease_id",
];

/// So much room must be left for values beside the names of the fields.
const BESIDE: usize = 20;

/// A lease that is looked at.
#[derive(Debug)]
pub(super) struct Details {
    pub(super) lease: Json,
    /// Who uses its port, as `styxy check` says it; empty until that is known.
    pub(super) users: Vec<String>,
    /// Its fields and their values, in the order in which they are shown.
    fields: Vec<(String, String)>,
    has_ended: bool,
}

impl Details {
    pub(super) fn new(lease: Json) -> Self {
        Self { fields: fields(&lease), users: Vec::new(), has_ended: false, lease }
    }

    pub(super) fn id(&self) -> &str {
        text(&self.lease, "lease_id")
    }

    /// These are all leases now. Returns whether the users of its port may have changed.
    pub(super) fn update(&mut self, leases: &[Json]) -> bool {
        let now = leases.iter().find(|lease| lease["lease_id"] == self.lease["lease_id"]);
        let is_other = match now {
            Some(now) => now["state"] != self.lease["state"],
            None => !self.has_ended,
        };
        self.has_ended = now.is_none();
        self.lease = now.unwrap_or(&self.lease).clone();
        self.fields = fields(&self.lease);
        is_other
    }

    pub(super) fn title(&self) -> String {
        let (port, protocol) = (&self.lease["port"], text(&self.lease, "protocol"));
        let end = if self.has_ended { ": this lease has ended" } else { "" };
        format!("{port}/{protocol}, {}{end}", service(&self.lease))
    }

    /// The lines to show in this width.
    pub(super) fn text(&self, width: usize) -> Vec<String> {
        let name = self.fields.iter().map(|(name, _)| name.len() + 2).max().unwrap_or(0);
        let mut lines = Vec::new();
        for (field, value) in &self.fields {
            if width < name + BESIDE {
                lines.extend(broken(&format!("{field}: {value}"), width));
                continue;
            }
            let mut field = field.as_str();
            for part in broken(value, width - name) {
                lines.push(format!("{field:<name$}{part}"));
                field = "";
            }
        }
        lines.push(String::new());
        let users = if self.users.is_empty() { &["...".to_owned()][..] } else { &self.users };
        lines.extend(users.iter().flat_map(|line| broken(line, width)));
        lines
    }
}

fn fields(lease: &Json) -> Vec<(String, String)> {
    let others = lease.as_object().into_iter().flatten().map(|(name, _)| name.as_str());
    let others = others.filter(|name| !FIRST.contains(name));
    let shown = FIRST.into_iter().chain(others).filter_map(|name| {
        let value = match &lease[name] {
            Json::Null => return None,
            Json::String(text) if name == "since" => format!("{text} ({})", ago(text)),
            Json::String(text) => text.clone(),
            other => other.to_string(),
        };
        Some((name.to_owned(), value))
    });
    shown.collect()
}
