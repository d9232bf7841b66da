use super::{Filter, Problems};
use crate::{error::Error, lease::EndReason, value::Value};

/// Which leases a client ends, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ending {
    /// Which leases.
    pub filter: Filter,
    /// [`EndReason::Released`], or [`EndReason::NotDelivered`] if nobody learned of them.
    pub reason: EndReason,
}

impl Ending {
    /// Parses keys from a door; the error names every invalid key.
    pub fn parse<K: AsRef<str>>(keys: impl IntoIterator<Item = (K, Value)>) -> Result<Self, Error> {
        let mut problems = Problems::default();
        let mut reason = EndReason::Released;
        let mut filter = Vec::new();
        for (key, value) in keys {
            if key.as_ref() != "reason" {
                filter.push((key, value));
                continue;
            }
            let known = [EndReason::Released, EndReason::NotDelivered];
            let is_it =
                |known: &EndReason| matches!(&value, Value::Str(text) if text == known.as_str());
            let found = known
                .into_iter()
                .find(is_it)
                .ok_or_else(|| Error::invalid("reason must be \"released\" or \"not_delivered\""));
            reason = problems.note(found).unwrap_or(reason);
        }
        let filter = problems.note(Filter::parse(filter).and_then(Filter::some));
        problems.or(Self { filter: filter.unwrap_or_default(), reason })
    }
}
