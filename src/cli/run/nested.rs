//! A `styxy run` inside another one, for example in a script that was itself started with `styxy run`.

use std::env;

use serde_json::Value as Json;

use super::{super::lease::found, CliError};
use crate::{lease::LeaseId, value::Fields};

/// The lease of the outer `styxy run`.
pub(super) enum Outer {
    /// A lease of the same service that nothing uses yet: it serves both.
    Same(Json),
    /// A lease of the same type that nothing uses yet, of another service.
    Unused(Json),
    /// No lease that matters here.
    Nothing,
}

/// Finds the lease of the outer `styxy run`, if the environment names one.
pub(super) fn outer(service_type: &str, options: &Fields) -> Result<Outer, CliError> {
    let id = env::var("STYXY_LEASE_ID").ok().and_then(|id| id.parse::<LeaseId>().ok());
    let Some(id) = id else { return Ok(Outer::Nothing) };
    let mut filter = Fields::default();
    filter.put("lease_id", id.to_string());
    let Some(lease) = found(filter)?.into_iter().next() else { return Ok(Outer::Nothing) };
    let wanted = serde_json::to_value(options).unwrap_or_default();
    let is_unused = ["reserved", "claimed"].iter().any(|state| lease["state"] == *state);
    if !is_unused || lease["service_type"] != service_type {
        return Ok(Outer::Nothing);
    }
    let is_same = |key: &str| wanted[key] == lease[key];
    let may_be = |key: &str| wanted[key].is_null() || is_same(key);
    // Without a name, the outer lease is named after the program that the outer one started, so the names differ.
    let is_unnamed = wanted["service_name"].is_null() && !lease["program"].is_null();
    let is_it =
        ["project_path", "package_path", "instance_id", "singleton_key"].into_iter().all(is_same)
            && (is_same("service_name") || is_unnamed)
            && ["port", "protocol", "hold"].into_iter().all(may_be)
            && ["count", "template"].into_iter().all(|key| wanted[key].is_null());
    Ok(if is_it { Outer::Same(lease) } else { Outer::Unused(lease) })
}
