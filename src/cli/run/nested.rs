//! A `styxy run` within another one, as when a script that a person runs by it has one, too.

use std::env;

use serde_json::Value as Json;

use super::{super::lease::found, CliError};
use crate::{lease::LeaseId, value::Fields};

/// What the `styxy run` around this one has leased.
pub(super) enum Outer {
    /// The lease of the same service, which nothing uses yet: it serves for both.
    Same(Json),
    /// One of the same type that nothing uses yet, of another service.
    Unused(Json),
    /// Nothing that matters here.
    Nothing,
}

/// Looks for it. There is one only if the environment names a lease.
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
    // Without a name it is called like what the outer one has started, which is not what this one starts.
    let is_unnamed = wanted["service_name"].is_null() && !lease["program"].is_null();
    let is_it =
        ["project_path", "package_path", "instance_id", "singleton_key"].into_iter().all(is_same)
            && (is_same("service_name") || is_unnamed)
            && ["port", "protocol", "hold"].into_iter().all(may_be)
            && ["count", "template"].into_iter().all(|key| wanted[key].is_null());
    Ok(if is_it { Outer::Same(lease) } else { Outer::Unused(lease) })
}
