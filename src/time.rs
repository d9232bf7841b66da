//! Points in time: one type for people and logs, one for deadlines.

use std::{
    fmt,
    str::FromStr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

/// A point in time, in milliseconds since 1970 (UTC). For people and logs; no deadline is based on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// The current time.
    pub fn now() -> Self {
        SystemTime::now().into()
    }

    /// The number of days since 1970-01-01 (UTC).
    pub fn day(self) -> u64 {
        self.0 / (24 * 60 * 60 * 1_000)
    }

    /// The time of day in the user's time zone: `14:03:07`.
    pub fn to_local(self) -> String {
        let here = self.to_calendar().to_zoned(jiff::tz::TimeZone::system());
        here.strftime("%H:%M:%S").to_string()
    }

    /// The same time, for calendar calculations.
    pub fn to_calendar(self) -> jiff::Timestamp {
        jiff::Timestamp::try_from(UNIX_EPOCH + Duration::from_millis(self.0)).unwrap_or_default()
    }
}

/// RFC 3339, in UTC.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3}", self.to_calendar())
    }
}

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH);
        Self(since.map_or(0, |d| d.as_millis().try_into().unwrap_or(u64::MAX)))
    }
}

impl FromStr for Timestamp {
    type Err = jiff::Error;

    fn from_str(text: &str) -> Result<Self, jiff::Error> {
        let milliseconds = text.parse::<jiff::Timestamp>()?.as_millisecond();
        Ok(Self(milliseconds.try_into().unwrap_or(0)))
    }
}

/// For serde: a [`Timestamp`] in RFC 3339.
pub mod rfc3339 {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use super::Timestamp;

    /// Writes it.
    pub fn serialize<S: Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(time)
    }

    /// Reads it.
    pub fn deserialize<'de, D: Deserializer<'de>>(text: D) -> Result<Timestamp, D::Error> {
        String::deserialize(text)?.parse().map_err(D::Error::custom)
    }
}

/// A time of `CLOCK_MONOTONIC`, in milliseconds (`clock_gettime(2)`): it stops while the machine is suspended,
/// and ignores changes of the date. It is only valid within one boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Moment(pub u64);

impl Moment {
    /// The time this many seconds later.
    #[must_use]
    pub fn plus_seconds(self, seconds: u64) -> Self {
        Self(self.0.saturating_add(seconds.saturating_mul(1_000)))
    }

    /// The time left until then; zero if it has passed.
    pub fn until(self, then: Self) -> Duration {
        Duration::from_millis(then.0.saturating_sub(self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_shown_as_rfc_3339() {
        assert_eq!(Timestamp(1_700_000_000_123).to_string(), "2023-11-14T22:13:20.123Z");
    }
}
