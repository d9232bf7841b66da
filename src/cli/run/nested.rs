//! A `styxy run` inside another one, for example in a script that was itself started with `styxy run`.

use std::env;

use serde_json::Value as Json;

use super::{
    super::{lease::found, text},
    CliError,
};
use crate::{lease::LeaseId, value::Fields};

/// The lease of the `styxy run` around this one, if the environment names one.
pub(super) fn outer() -> Option<LeaseId> {
    env::var("STYXY_LEASE_ID").ok()?.parse().ok()
}

/// That lease, if it is of the same type as the one that this command got, but another one, and nothing uses it.
pub(super) fn unused(outer: LeaseId, answer: &Json) -> Result<Option<Json>, CliError> {
    let outer = outer.to_string();
    if text(answer, "lease_id") == outer {
        return Ok(None);
    }
    let mut filter = Fields::default();
    filter.put("lease_id", outer);
    let lease = found(filter)?.into_iter().next();
    let is_unused = |lease: &Json| {
        // Another inner command may be about to listen there.
        let has_one = lease["holders"].as_u64().is_none_or(|holders| holders == 1);
        has_one
            && ["reserved", "claimed"].iter().any(|state| lease["state"] == *state)
            && lease["service_type"] == answer["service_type"]
    };
    Ok(lease.filter(is_unused))
}
